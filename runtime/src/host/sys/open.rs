//! openat2(2): opening a path while the kernel keeps it inside a directory.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::{c_path, check};

/// How often a lookup that raced with a rename (`EAGAIN`) is repeated; a hostile racer loses long before.
const RACE_RETRIES_MAX: u32 = 1024;

/// Opens `path` below `dir` under the rules `resolve` (`RESOLVE_*`).
pub fn openat2(dir: BorrowedFd<'_>, path: &[u8], flags: i32, mode: u32, resolve: u64) -> nix::Result<OwnedFd> {
    let path = c_path(path)?;
    // SAFETY: the structure is plain numbers, for which zero is valid; the kernel wants unknown parts zero.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = u64::from((flags | libc::O_CLOEXEC).cast_unsigned());
    how.mode = u64::from(mode);
    how.resolve = resolve;
    for _ in 0..RACE_RETRIES_MAX {
        // SAFETY: a live descriptor, a NUL-terminated path and a structure that outlive the call, with its own size.
        let answer = check(unsafe {
            libc::syscall(
                libc::SYS_openat2,
                dir.as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                size_of::<libc::open_how>(),
            )
        });
        match answer {
            Err(Errno::EAGAIN) => {}
            Err(errno) => return Err(errno),
            // SAFETY: the kernel made this descriptor for us alone.
            Ok(fd) => return Ok(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).map_err(|_| Errno::EBADF)?) }),
        }
    }
    Err(Errno::EAGAIN)
}

/// Takes ownership of an inherited descriptor, if it is open.
pub fn adopt(fd: RawFd) -> nix::Result<OwnedFd> {
    // SAFETY: F_GETFD only asks.
    check(unsafe { libc::fcntl(fd, libc::F_GETFD) }.into())?;
    // SAFETY: open, and the caller states that it was handed to this process for keeps.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Closes descriptors, those with numbers in a row by one call.
pub fn close_all(fds: Vec<OwnedFd>) {
    let mut numbers: Vec<RawFd> = fds.into_iter().map(IntoRawFd::into_raw_fd).collect();
    numbers.sort_unstable();
    for row in numbers.chunk_by(|one, next| *one + 1 == *next) {
        let (Some(first), Some(last)) = (row.first(), row.last()) else { continue };
        // SAFETY: every number from the first to the last was owned by the caller's list, which gave it up above.
        unsafe { libc::syscall(libc::SYS_close_range, *first, *last, 0) };
    }
}

/// Gives up the lock on `fd`.
pub fn unlock(fd: BorrowedFd<'_>) -> nix::Result<()> {
    // SAFETY: a live descriptor and a number.
    check(unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_UN) }.into()).map(drop)
}

/// Lets a program that is executed inherit `fd`.
pub fn keep_on_exec(fd: RawFd) -> nix::Result<()> {
    // SAFETY: changes a flag of a descriptor number.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }.into()).map(drop)
}
