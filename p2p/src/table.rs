//! The replicated table: owned rows and shared rows, whole-row replacement only.
//! In: local writes and rows of peers. Out: what changed, what to keep, what to send. Never touches a clock, a disk or a socket.

pub mod row;
pub mod schema;

pub use row::{Body, Key, Row, Scope, Table, Version};
