//! The only place of this crate that touches the world.

#[expect(unsafe_code, reason = "the room of system calls that have no safe wrapper (I2)")]
pub mod sys;
