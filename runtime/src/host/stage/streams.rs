//! Standard streams that are the host's `/dev/null` become the container's own.
//!
//! A descriptor of the host's device is a file of a mount that the container does not have: CRIU could not write it into
//! a checkpoint, and the container would hold the host's file system. runc does the same.

use std::os::fd::{AsFd, OwnedFd};

use nix::sys::stat::FileStat;

use super::super::procfs::Procfs;
use super::super::room::stat;
use super::super::sys::open::openat2;
use super::super::sys::process::dup_to;
use crate::error::{During, Result};

/// The number of the null device, kernel Documentation/admin-guide/devices.txt.
const NULL: libc::dev_t = libc::makedev(1, 3);

/// What is known about the three standard streams.
pub type Streams = [nix::Result<FileStat>; 3];

/// Reopens standard streams that are the null device in the root file system this process stands in; what the streams
/// then are.
///
/// A container without the device keeps the host's: it has no other.
pub fn own_null(procfs: &Procfs) -> Result<Streams> {
    let (input, output, errors) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let mut found = [input.as_fd(), output.as_fd(), errors.as_fd()].map(stat);
    let mut own: Option<(OwnedFd, FileStat)> = None;
    for (number, stream) in (0..).zip(&mut found) {
        if !stream.as_ref().is_ok_and(is_null) {
            continue;
        }
        if own.is_none() {
            own = open(procfs);
        }
        let Some((own, own_stat)) = &own else { break };
        dup_to(own.as_fd(), number).during(|| "open /dev/null for a standard stream")?;
        *stream = Ok(*own_stat);
    }
    Ok(found)
}

/// Opens the container's `/dev/null` if that is what it should be: looked at before it is opened, since opening a fifo
/// or another device of a hostile image has effects.
fn open(procfs: &Procfs) -> Option<(OwnedFd, FileStat)> {
    let root = nix::fcntl::AT_FDCWD;
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let path = openat2(root, b"/dev/null", flags, 0, libc::RESOLVE_NO_SYMLINKS).ok()?;
    let found = stat(path.as_fd()).ok().filter(is_null)?;
    Some((procfs.reopen(path.as_fd(), libc::O_RDWR | libc::O_CLOEXEC).ok()?, found))
}

fn is_null(found: &FileStat) -> bool {
    found.st_mode & libc::S_IFMT == libc::S_IFCHR && found.st_rdev == NULL
}
