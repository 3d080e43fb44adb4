//! The processes a container's birth consists of, one file a role.

pub mod become_process;
mod confine;
pub mod init;
pub mod parent;
pub mod streams;
pub mod tree;
mod views;
