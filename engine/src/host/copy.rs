//! Copies a tree with owners, modes, times, links and extended attributes. In: two open directories. Out: the second one
//! filled. Goes by descriptors only and never follows a symlink: neither tree can lead it elsewhere.

use super::sys;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmodat, fstat, fstatat, futimens, mkdirat, mknodat,
    utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, linkat, symlinkat};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// Directories below each other: each holds two descriptors open.
const DEPTH_MAX: usize = 200;

/// Copies the content, owner, mode and attributes of one directory into another.
pub(crate) fn tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut copier = Copier { links: HashMap::new(), root: to.try_clone_to_owned()? };
    copier.directory(from, to, &mut Vec::new())
}

struct Copier {
    /// Where a file with several names was copied to, by device and inode: a path below the root.
    links: HashMap<(u64, u64), OsString>,
    root: OwnedFd,
}

impl Copier {
    fn directory(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, path: &mut Vec<OsString>) -> io::Result<()> {
        if path.len() > DEPTH_MAX {
            return Err(io::Error::other(format!("directories nest deeper than {DEPTH_MAX}")));
        }
        // Through /proc: std reads an open directory only by name, and this name is the descriptor itself.
        for entry in fs::read_dir(format!("/proc/self/fd/{}", from.as_raw_fd()))? {
            let name = entry?.file_name();
            path.push(name);
            self.entry(from, to, path)?;
            path.pop();
        }
        finish(from, to, &fstat(from)?)
    }

    fn entry(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, path: &mut Vec<OsString>) -> io::Result<()> {
        let name = path.last().cloned().unwrap_or_default();
        let name = name.as_os_str();
        let stat = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        if kind == SFlag::S_IFDIR {
            let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
            mkdirat(to, name, Mode::S_IRWXU)?;
            let (inner_from, inner_to) =
                (openat(from, name, flags, Mode::empty())?, openat(to, name, flags, Mode::empty())?);
            return self.directory(inner_from.as_fd(), inner_to.as_fd(), path);
        }
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                return Ok(linkat(self.root.as_fd(), first.as_os_str(), to, name, AtFlags::empty())?);
            }
            let full = path.iter().map(|part| part.as_bytes()).collect::<Vec<_>>().join(&b'/');
            self.links.insert((stat.st_dev, stat.st_ino), OsString::from(std::ffi::OsStr::from_bytes(&full)));
        }
        match kind {
            SFlag::S_IFREG => file(from, to, name),
            SFlag::S_IFLNK => {
                symlinkat(readlinkat(from, name)?.as_os_str(), to, name)?;
                special(to, name, &stat, false)
            }
            SFlag::S_IFCHR | SFlag::S_IFBLK | SFlag::S_IFIFO => {
                mknodat(to, name, kind, Mode::S_IRUSR, stat.st_rdev)?;
                special(to, name, &stat, true)
            }
            // A socket is nothing without its process.
            _ => Ok(()),
        }
    }
}

fn file(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &std::ffi::OsStr) -> io::Result<()> {
    let source =
        openat(from, name, OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty())?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let target = openat(to, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let (mut source, mut target) = (File::from(source), File::from(target));
    io::copy(&mut source, &mut target)?;
    finish(source.as_fd(), target.as_fd(), &fstat(source.as_fd())?)
}

/// Owner, then mode (chown clears setuid), then attributes (chown clears capabilities), then times.
fn finish(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &FileStat) -> io::Result<()> {
    fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    nix::sys::stat::fchmod(to, Mode::from_bits_truncate(stat.st_mode))?;
    match sys::xattr_names(from) {
        Ok(names) => {
            for name in names {
                // The overlay's own marks and the host's label belong to the source alone.
                let foreign = [&b"trusted.overlay."[..], b"user.overlay.", b"security.selinux"];
                if !foreign.iter().any(|prefix| name.to_bytes().starts_with(prefix)) {
                    sys::set_xattr(to, &name, &sys::xattr(from, &name)?)?;
                }
            }
        }
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(error) => return Err(error),
    }
    let (accessed, modified) = times(stat);
    Ok(futimens(to, &accessed, &modified)?)
}

/// Owner, mode and times of what cannot be opened.
fn special(to: BorrowedFd<'_>, name: &std::ffi::OsStr, stat: &FileStat, has_mode: bool) -> io::Result<()> {
    fchownat(
        to,
        name,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )?;
    if has_mode {
        fchmodat(to, name, Mode::from_bits_truncate(stat.st_mode), FchmodatFlags::FollowSymlink)?;
    }
    let (accessed, modified) = times(stat);
    Ok(utimensat(to, name, &accessed, &modified, UtimensatFlags::NoFollowSymlink)?)
}

fn times(stat: &FileStat) -> (TimeSpec, TimeSpec) {
    (TimeSpec::new(stat.st_atime, stat.st_atime_nsec), TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec))
}

/// Removes everything inside a directory; the directory stays.
pub(crate) fn clear(folder: &std::path::Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
