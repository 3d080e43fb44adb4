//! The terminal of a container: a pseudo terminal of the container's own devpts, its master handed to the caller.
//!
//! The other side is opened through the master (`TIOCGPTPEER`), never by a path that could be swapped, and it is this
//! descriptor's mount that covers `/dev/console` (CVE-2025-52565).

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::statfs::fstatfs;

use super::room::Room;
use super::sys::open::openat2;
use super::sys::{mount, terminal};
use crate::error::{During, Error, Result};

/// devpts' `f_type`.
const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;

/// Connects to the socket that wants the master.
pub fn connect(path: &Path) -> Result<OwnedFd> {
    Ok(UnixStream::connect(path).during(|| format!("connect to the console socket {}", path.display()))?.into())
}

/// A new pseudo terminal of the devpts at `/dev/pts` in `room`: master and other side.
pub fn open(room: &Room) -> Result<(OwnedFd, OwnedFd)> {
    let operation = || "open a pseudo terminal in the container's /dev/pts";
    let directory = room.open("/dev/pts", libc::O_PATH | libc::O_DIRECTORY).during(operation)?;
    let kind = fstatfs(&directory).during(operation)?.filesystem_type();
    if kind.0 != DEVPTS_SUPER_MAGIC {
        return Err(Error::refusal("process.terminal", "needs a devpts mounted on /dev/pts"));
    }
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    let beneath = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_XDEV | libc::RESOLVE_NO_SYMLINKS;
    let master = openat2(directory.as_fd(), b"ptmx", flags, 0, beneath).during(operation)?;
    terminal::unlock(master.as_fd()).during(operation)?;
    let other = terminal::peer(master.as_fd()).during(operation)?;
    Ok((master, other))
}

/// Covers `/dev/console` with the terminal `other`.
pub fn cover_dev_console(room: &Room, other: BorrowedFd<'_>) -> Result<()> {
    let operation = || "mount the terminal on /dev/console";
    // A link of the image could lead to any file of the container's procfs, which the terminal would then hide.
    let target = match room.plain_file("/dev/console") {
        Err(nix::Error::ELOOP) => {
            let reason = "/dev/console of the root file system is a symbolic link; mount a tmpfs on /dev";
            return Err(Error::refusal("process.terminal", reason));
        }
        found => found.during(operation)?,
    };
    let detached = mount::clone_tree(other, b"", false).during(operation)?;
    mount::attach(detached.as_fd(), target.as_fd()).during(operation)
}

/// Sends the master through the console socket, as runc's callers expect it: the name as data, the descriptor beside.
pub fn send(socket: BorrowedFd<'_>, master: &OwnedFd) -> Result<()> {
    send_named(socket, b"/dev/ptmx", master)
}

/// Sends one descriptor with its name.
pub fn send_named(socket: BorrowedFd<'_>, name: &[u8], fd: &OwnedFd) -> Result<()> {
    let fds = [fd.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(name)], &control, MsgFlags::MSG_NOSIGNAL, None)
        .during(|| "send a descriptor through the caller's socket")?;
    Ok(())
}

/// Makes `other` the controlling terminal and the three standard streams of this process, which leads a session.
pub fn take(other: BorrowedFd<'_>, size: Option<(u16, u16)>) -> Result<()> {
    terminal::take_control(other).during(|| "take the terminal")?;
    if let Some((rows, columns)) = size {
        terminal::set_size(other, rows, columns).during(|| "set the size of the terminal")?;
    }
    (0..3)
        .try_for_each(|stream| super::sys::process::dup_to(other, stream))
        .during(|| "make the terminal stdin, stdout and stderr")
}
