//! Making processes and watching them: clone3(2), pidfd_open(2), pidfd_send_signal(2).

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::check;

/// `CLONE_NEWTIME`: clone3 only, for clone(2) the bit is part of the exit signal.
pub const CLONE_NEWTIME: u64 = 0x80;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of a [`clone3`] this is.
#[derive(Debug)]
pub enum Side {
    /// The caller, with the child's pid (in the caller's pid namespace) and its pidfd.
    Parent {
        /// The child.
        pid: i32,
        /// A descriptor that stands for exactly this process.
        pidfd: OwnedFd,
    },
    /// The new process.
    Child,
}

/// Copies this process with the namespaces of `flags`, born in `cgroup` if one is given.
///
/// With `sibling` the child's parent is the caller's parent.
pub fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>, sibling: bool) -> nix::Result<Side> {
    let mut pidfd: RawFd = -1;
    let mut all = flags | libc::CLONE_PIDFD as u64;
    if cgroup.is_some() {
        all |= CLONE_INTO_CGROUP;
    }
    if sibling {
        all |= libc::CLONE_PARENT as u64;
    }
    let args = libc::clone_args {
        flags: all,
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        // With CLONE_PARENT the kernel takes over the exit signal and insists on none here.
        exit_signal: if sibling { 0 } else { libc::SIGCHLD as u64 },
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: no memory is shared (no CLONE_VM) and no stack is given, so this behaves as fork(2); the program is
    // single-threaded (I3), so no lock is held by a thread that does not exist in the child. `args` and `pidfd`
    // outlive the call.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        return Ok(Side::Child);
    }
    let pid = i32::try_from(pid).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: CLONE_PIDFD stored a new descriptor that nobody else owns.
    Ok(Side::Parent { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// A descriptor for the process `pid`.
pub fn pidfd_open(pid: i32) -> nix::Result<OwnedFd> {
    // SAFETY: plain numbers.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel made this descriptor for us alone; descriptors fit a RawFd.
    Ok(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).map_err(|_| Errno::EBADF)?) })
}

/// Sends `signal` to the process of `pidfd`; 0 asks whether it exists.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> nix::Result<()> {
    // SAFETY: a live descriptor, a number, and no siginfo.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, 0usize, 0) }).map(drop)
}

/// Enters the namespaces of `kinds` (`CLONE_NEW…`) of the process behind `fd`, or the namespace `fd` itself.
pub fn setns(fd: BorrowedFd<'_>, kinds: u64) -> nix::Result<()> {
    let kinds = libc::c_int::try_from(kinds).map_err(|_| Errno::EINVAL)?;
    // SAFETY: a live descriptor and a number.
    check(unsafe { libc::setns(fd.as_raw_fd(), kinds) }.into()).map(drop)
}

/// Moves this process into new namespaces of `kinds`.
pub fn unshare(kinds: u64) -> nix::Result<()> {
    let kinds = libc::c_int::try_from(kinds).map_err(|_| Errno::EINVAL)?;
    // SAFETY: a number; the program is single-threaded.
    check(unsafe { libc::unshare(kinds) }.into()).map(drop)
}

/// Ends this process at once, without unwinding or exit handlers that belong to the parent's copy. Under a filter that denies
/// even that it dies of a fault, which no filter can deny: `_exit` of a C library would try for ever.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: numbers; a call that is allowed does not return.
    unsafe {
        libc::syscall(libc::SYS_exit_group, code);
        libc::syscall(libc::SYS_exit, code);
    }
    // SAFETY: it ends with an instruction that user space may not execute.
    unsafe { libc::abort() }
}
