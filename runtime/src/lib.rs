//! A bundle becomes a process: namespaces, cgroups, mounts, seccomp, capabilities.
//!
//! Facts → plan → apply → observe. In: an accepted [`container::Container`] and [`facts::HostFacts`]. Out: a
//! [`plan::Plan`] of typed steps (pure), which [`host`] applies through the stages of a new process. Synchronous and
//! single-threaded: the only program that applies plans is `shoal-runtime`.

pub mod container;
pub mod error;
pub mod facts;
pub mod features;
pub mod handshake;
pub mod host;
pub mod plan;
pub mod report;
pub mod template;

pub use error::{Error, Result};
