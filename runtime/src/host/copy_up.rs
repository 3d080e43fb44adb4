//! `tmpcopyup`: a new tmpfs starts with what the directory below it held.

use std::os::fd::{AsFd, OwnedFd};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, readlinkat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, fstatat, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};

use super::sys::open::openat2;

/// Deeper trees are refused rather than risking the stack.
const DEPTH_MAX: usize = 128;

/// Copies everything in the directory `from` to the directory `to`, with owners and modes.
pub(super) fn copy(from: &OwnedFd, to: &OwnedFd) -> nix::Result<()> {
    attributes(from, ".", to, ".")?;
    directory(from, to, DEPTH_MAX)
}

fn directory(from: &OwnedFd, to: &OwnedFd, depth: usize) -> nix::Result<()> {
    let left = depth.checked_sub(1).ok_or(Errno::ELOOP)?;
    let list = openat2(from.as_fd(), b".", libc::O_RDONLY | libc::O_DIRECTORY, 0, libc::RESOLVE_BENEATH)?;
    for entry in Dir::from_fd(list)?.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let found = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let open = |dir: &OwnedFd, flags, mode| {
            openat2(dir.as_fd(), name.to_bytes(), flags | libc::O_NOFOLLOW, mode, libc::RESOLVE_BENEATH)
        };
        match found.st_mode & libc::S_IFMT {
            libc::S_IFDIR => {
                mkdirat(to, name, Mode::from_bits_truncate(0o700))?;
                let (below, copy) = (
                    open(from, libc::O_RDONLY | libc::O_DIRECTORY, 0)?,
                    open(to, libc::O_RDONLY | libc::O_DIRECTORY, 0)?,
                );
                directory(&below, &copy, left)?;
            }
            libc::S_IFREG => {
                let source = std::fs::File::from(open(from, libc::O_RDONLY, 0)?);
                let copy = std::fs::File::from(open(to, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL, 0o600)?);
                std::io::copy(&mut &source, &mut &copy)
                    .map_err(|cause| cause.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
            }
            libc::S_IFLNK => symlinkat(readlinkat(from, name)?.as_os_str(), to, name)?,
            kind => mknodat(to, name, SFlag::from_bits_truncate(kind), Mode::empty(), found.st_rdev)?,
        }
        attributes(from, name, to, name)?;
    }
    Ok(())
}

fn attributes<P: nix::NixPath + ?Sized>(from: &OwnedFd, name: &P, to: &OwnedFd, copy: &P) -> nix::Result<()> {
    let found = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let (uid, gid) = (Uid::from_raw(found.st_uid), Gid::from_raw(found.st_gid));
    fchownat(to, copy, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if found.st_mode & libc::S_IFMT != libc::S_IFLNK {
        fchmodat(to, copy, Mode::from_bits_truncate(found.st_mode & 0o7777), FchmodatFlags::FollowSymlink)?;
    }
    Ok(())
}
