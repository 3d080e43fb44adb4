//! The process that stays with one container: it owns the terminal or the pipes, writes the log, records the exit,
//! restarts, probes health and answers a socket. One poll loop, no timer that is not needed; a second thread only where ports are
//! published that the kernel cannot lead to the container.
//!
//! In: `monitor.json` in the container's run folder, a connection of the command that started it on descriptor 0, its
//! [`lock`] on descriptor 1.
//! Out: `state.json`, the log, events. It never reads images, makes networks or parses flags.

mod child;
mod connection;
mod forward;
pub mod lock;
mod oom;
mod plan;
pub mod protocol;
mod resolvers;
mod run;

pub use child::code_of_errno;
pub use plan::{PLAN_VERSION, Plan};
pub use run::{MonitorError, main};
