//! System calls without a safe wrapper elsewhere: one file a family, each block with its SAFETY reason.
//!
//! In: descriptors, C strings, plain numbers. Out: descriptors, numbers, [`nix::Error`]. Nothing here decides anything.

pub mod bpf;
pub mod clone;
pub mod exe;
pub mod landlock;
pub mod memory;
pub mod mount;
#[cfg(feature = "musl")]
mod musl;
pub mod open;
pub mod process;
pub mod schedule;
pub mod seccomp;
pub mod terminal;

use nix::errno::Errno;

/// The answer of a raw system call as a result.
fn check(answer: libc::c_long) -> nix::Result<libc::c_long> {
    Errno::result(answer)
}

/// A path argument; one with a NUL inside cannot name a file.
fn c_path(path: &[u8]) -> nix::Result<std::ffi::CString> {
    std::ffi::CString::new(path).map_err(|_| Errno::EINVAL)
}
