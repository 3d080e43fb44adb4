//! Containers on one host: run, ps, logs, exec, names, volumes, networks, restart, health. No daemon.
//!
//! In: wishes of users (the command line) and of nodes (a scheduler). Out: processes born by `shoal-runtime`, each held
//! by its own `shoal-monitor`, and a folder of plain files that says truthfully what there is.

pub mod cgroup;
pub mod events;
pub mod file;
pub mod health;
pub mod host;
pub mod init;
pub mod log;
pub mod monitor;
pub mod network;
pub mod record;
pub mod restart;
pub mod roots;
pub mod time;
pub mod wish;

pub use roots::Roots;
