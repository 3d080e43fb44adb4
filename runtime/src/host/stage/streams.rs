//! Standard streams that are the host's `/dev/null` become the container's own.
//!
//! A descriptor of the host's device is a file of a mount that the container does not have: CRIU could not write it into
//! a checkpoint, and the container would hold the host's file system. runc does the same.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::super::procfs::Procfs;
use super::super::room::stat;
use super::super::sys::open::openat2;
use super::super::sys::process::dup_to;
use crate::error::{During, Result};

/// The number of the null device, kernel Documentation/admin-guide/devices.txt.
const NULL: libc::dev_t = libc::makedev(1, 3);

/// Reopens standard streams that are the null device in the root file system this process stands in.
///
/// A container without the device keeps the host's: it has no other.
pub fn own_null(procfs: &Procfs) -> Result<()> {
    let mut own: Option<OwnedFd> = None;
    for (number, stream) in
        [std::io::stdin().as_fd(), std::io::stdout().as_fd(), std::io::stderr().as_fd()].iter().enumerate()
    {
        if !is_null(*stream) {
            continue;
        }
        if own.is_none() {
            own = open(procfs);
        }
        let Some(own) = &own else { return Ok(()) };
        let number = i32::try_from(number).expect("one of three");
        dup_to(own.as_fd(), number).during(|| "open /dev/null for a standard stream")?;
    }
    Ok(())
}

/// Opens the container's `/dev/null` if that is what it should be: looked at before it is opened, since opening a fifo
/// or another device of a hostile image has effects.
fn open(procfs: &Procfs) -> Option<OwnedFd> {
    let root = nix::fcntl::AT_FDCWD;
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let path = openat2(root, b"/dev/null", flags, 0, libc::RESOLVE_NO_SYMLINKS).ok()?;
    if !is_null(path.as_fd()) {
        return None;
    }
    procfs.reopen(path.as_fd(), libc::O_RDWR | libc::O_CLOEXEC).ok()
}

fn is_null(fd: BorrowedFd<'_>) -> bool {
    stat(fd).is_ok_and(|found| found.st_mode & libc::S_IFMT == libc::S_IFCHR && found.st_rdev == NULL)
}
