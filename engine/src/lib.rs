//! Containers on one host: run, ps, logs, exec, names, volumes, networks, restart, health. No daemon.
//!
//! In: wishes of users (the command line) and of nodes (a scheduler). Out: processes born by `shoal-runtime`, each held
//! by its own `shoal-monitor`, and a folder of plain files that says truthfully what there is.

pub mod account;
pub mod cgroup;
#[cfg(feature = "client")]
mod engine;
pub mod error;
pub mod events;
pub mod file;
pub mod health;
pub mod host;
pub mod init;
pub mod log;
#[cfg(feature = "client")]
pub mod lsm;
pub mod monitor;
pub mod name;
pub mod network;
pub mod overlay;
pub mod record;
pub mod restart;
pub mod roots;
pub mod time;
pub(crate) mod trace;
#[cfg(feature = "client")]
pub mod volume;
pub mod wish;

#[cfg(feature = "client")]
pub use engine::*;
pub use error::EngineError;
pub use roots::Roots;
