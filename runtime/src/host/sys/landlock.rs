//! landlock_create_ruleset(2), landlock_add_rule(2), landlock_restrict_self(2).

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::check;

const CREATE_RULESET_VERSION: u32 = 1;
const RULE_PATH_BENEATH: libc::c_int = 1;
const RULE_NET_PORT: libc::c_int = 2;

/// The kernel's `struct landlock_ruleset_attr`, as of interface version 4; older ones take it while the end is zero.
#[repr(C)]
struct Ruleset {
    files: u64,
    network: u64,
}

#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: i32,
}

#[repr(C)]
struct NetPort {
    allowed: u64,
    port: u64,
}

/// The version of the kernel's interface.
pub fn version() -> nix::Result<u32> {
    // SAFETY: no structure is passed when the version is asked for.
    let answer = check(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<Ruleset>(), 0usize, CREATE_RULESET_VERSION)
    })?;
    u32::try_from(answer).map_err(|_| Errno::EINVAL)
}

/// A set of rules that denies these rights until they are allowed.
pub fn ruleset(files: u64, network: u64) -> nix::Result<OwnedFd> {
    let attr = Ruleset { files, network };
    // SAFETY: a structure that outlives the call, with its own size.
    let fd = check(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attr, size_of::<Ruleset>(), 0u32)
    })?;
    // SAFETY: the kernel made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).map_err(|_| Errno::EBADF)?) })
}

/// Allows rights on what is at and below `path`.
pub fn allow_path(rules: BorrowedFd<'_>, allowed: u64, path: BorrowedFd<'_>) -> nix::Result<()> {
    let attr = PathBeneath { allowed, parent: path.as_raw_fd() };
    // SAFETY: two live descriptors and a structure of the rule's type that outlives the call.
    check(unsafe {
        libc::syscall(libc::SYS_landlock_add_rule, rules.as_raw_fd(), RULE_PATH_BENEATH, &raw const attr, 0u32)
    })
    .map(drop)
}

/// Allows rights on a TCP port.
pub fn allow_port(rules: BorrowedFd<'_>, allowed: u64, port: u16) -> nix::Result<()> {
    let attr = NetPort { allowed, port: port.into() };
    // SAFETY: a live descriptor and a structure of the rule's type that outlives the call.
    check(unsafe {
        libc::syscall(libc::SYS_landlock_add_rule, rules.as_raw_fd(), RULE_NET_PORT, &raw const attr, 0u32)
    })
    .map(drop)
}

/// Puts this process, and all it will make, under the rules; it must have given up gaining privileges.
pub fn restrict_self(rules: BorrowedFd<'_>) -> nix::Result<()> {
    // SAFETY: a live descriptor and a plain number.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0u32) }).map(drop)
}
