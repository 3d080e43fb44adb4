//! The replicated table: owned rows and shared rows, whole-row replacement only.
//! In: local writes and rows of peers. Out: what changed, what to keep, what to send. Never touches a clock, a disk or a socket.

pub mod codec;
pub mod replica;
pub mod row;
pub mod rows;
pub mod schema;
pub mod tombstone;

pub use replica::{Refusal, Replica};
pub use row::{Body, Key, Row, Scope, Table, Version};
pub use rows::{Class, Position, Rows, Sum};
