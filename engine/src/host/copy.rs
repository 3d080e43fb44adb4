//! Copies a tree with owners, modes, times, links and extended attributes. In: two open directories. Out: the second one
//! filled. Goes by descriptors only and never follows a symlink: neither tree can lead it elsewhere, also while somebody
//! changes one of them.

use super::sys;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmodat, fstat, fstatat, futimens, mkdirat, mknodat,
    utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, Whence, fchown, fchownat, linkat, lseek, symlinkat, unlinkat};
use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// Directories below each other: each holds two descriptors open.
const DEPTH_MAX: usize = 200;
/// How often a name is freed again that another process takes in between.
const REPLACE_MAX: usize = 8;

/// Who owns what was copied, by who owned it before: user and group.
pub(crate) type Owners<'a> = &'a (dyn Fn(u32, u32) -> (u32, u32) + Sync);

/// Owners as they were.
pub(crate) const SAME: Owners<'static> = &|user, group| (user, group);

/// Copies the content, owner, mode and attributes of one directory into another, empty one.
pub(crate) fn tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>, owners: Owners<'_>) -> io::Result<()> {
    Copier::new(to, owners, true, false)?.directory(from, to, &mut Vec::new(), true)
}

/// How things are copied into what is there already.
#[derive(Clone, Copy)]
pub(crate) struct Merge<'a> {
    /// Whose they become.
    pub(crate) owners: Owners<'a>,
    /// Attributes of every kind, not only the user's own.
    pub(crate) attributes: bool,
    /// Directories of the source, by inode, of which nothing is said: where one is there already it stays as it is.
    pub(crate) implied: &'a BTreeSet<u64>,
}

/// No such directories.
pub(crate) static NONE_IMPLIED: BTreeSet<u64> = BTreeSet::new();

impl Merge<'_> {
    /// Copies what `name` is in `from` to `new` in `to`. Files there are replaced, directories are filled; one never becomes
    /// the other. Returns the bytes of all files.
    pub(crate) fn entry(&self, from: BorrowedFd<'_>, name: &OsStr, to: BorrowedFd<'_>, new: &OsStr) -> io::Result<u64> {
        let mut copier = Copier::new(to, self.owners, self.attributes, true)?;
        copier.entry(from, name, to, &mut vec![new.to_owned()])?;
        Ok(copier.bytes)
    }

    /// Copies what is in one directory into another; the directory itself stays as it is.
    pub(crate) fn content(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<u64> {
        let mut copier = Copier::new(to, self.owners, self.attributes, true)?;
        copier.implied = self.implied;
        copier.directory(from, to, &mut Vec::new(), false)?;
        Ok(copier.bytes)
    }

    /// Copies what is in one directory into another that was just made for it, and its mode, times and owner too.
    pub(crate) fn whole(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<u64> {
        let mut copier = Copier::new(to, self.owners, self.attributes, true)?;
        copier.directory(from, to, &mut Vec::new(), true)?;
        Ok(copier.bytes)
    }
}

struct Copier<'a> {
    /// Where a file with several names was copied to, by device and inode: a path below the root.
    links: HashMap<(u64, u64), OsString>,
    root: OwnedFd,
    owners: Owners<'a>,
    attributes: bool,
    /// What is there already is replaced or filled.
    merge: bool,
    implied: &'a BTreeSet<u64>,
    bytes: u64,
}

impl<'a> Copier<'a> {
    fn new(root: BorrowedFd<'_>, owners: Owners<'a>, attributes: bool, merge: bool) -> io::Result<Self> {
        Ok(Self {
            links: HashMap::new(),
            root: root.try_clone_to_owned()?,
            owners,
            attributes,
            merge,
            implied: &NONE_IMPLIED,
            bytes: 0,
        })
    }

    fn directory(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        path: &mut Vec<OsString>,
        itself: bool,
    ) -> io::Result<()> {
        if path.len() > DEPTH_MAX {
            return Err(io::Error::other(format!("directories nest deeper than {DEPTH_MAX}")));
        }
        // Through /proc: std reads an open directory only by name, and this name is the descriptor itself.
        for entry in fs::read_dir(format!("/proc/self/fd/{}", from.as_raw_fd()))? {
            let name = entry?.file_name();
            path.push(name.clone());
            self.entry(from, &name, to, path)?;
            path.pop();
        }
        if itself { self.finish(from, to, &fstat(from)?) } else { Ok(()) }
    }

    /// Copies one entry; the last part of `path` is its new name.
    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        name: &OsStr,
        to: BorrowedFd<'_>,
        path: &mut Vec<OsString>,
    ) -> io::Result<()> {
        let new = path.last().cloned().unwrap_or_default();
        let new = new.as_os_str();
        let stat = match fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            // Removed while the tree is read.
            Err(Errno::ENOENT) if path.len() > 1 => return Ok(()),
            other => other?,
        };
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        if kind == SFlag::S_IFDIR {
            let (inner_from, inner_to, is_new) = self.open_both(from, name, to, path)?;
            let told_of = is_new || !self.implied.contains(&stat.st_ino);
            return self.directory(inner_from.as_fd(), inner_to.as_fd(), path, told_of);
        }
        if self.merge && kind != SFlag::S_IFSOCK {
            self.free(to, new)?;
        }
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                return self.link(first, to, new);
            }
            let full = path.iter().map(|part| part.as_bytes()).collect::<Vec<_>>().join(&b'/');
            self.links.insert((stat.st_dev, stat.st_ino), OsString::from(OsStr::from_bytes(&full)));
        }
        match kind {
            SFlag::S_IFREG => self.file(from, name, to, new),
            SFlag::S_IFLNK => {
                symlinkat(readlinkat(from, name)?.as_os_str(), to, new)?;
                self.special(to, new, &stat, false)
            }
            SFlag::S_IFCHR | SFlag::S_IFBLK | SFlag::S_IFIFO => {
                mknodat(to, new, kind, Mode::S_IRUSR, stat.st_rdev)?;
                self.special(to, new, &stat, true)
            }
            // A socket is nothing without its process.
            _ => Ok(()),
        }
    }

    /// Gives a file that was copied already a second name. Its path is walked without links: somebody may be changing it.
    fn link(&self, first: &OsStr, to: BorrowedFd<'_>, new: &OsStr) -> io::Result<()> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        let file = openat2(self.root.as_fd(), first, how)?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        Ok(linkat(AT_FDCWD, path.as_str(), to, new, AtFlags::AT_SYMLINK_FOLLOW)?)
    }

    /// Opens a directory and the one that it goes to, which is made (`true`) or, where things are merged, there already.
    fn open_both(
        &self,
        from: BorrowedFd<'_>,
        name: &OsStr,
        to: BorrowedFd<'_>,
        path: &[OsString],
    ) -> io::Result<(OwnedFd, OwnedFd, bool)> {
        let new = path.last().cloned().unwrap_or_default();
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let is_new = match mkdirat(to, new.as_os_str(), Mode::S_IRWXU) {
            Err(Errno::EEXIST) if self.merge => false,
            other => other.map(|()| true)?,
        };
        let inner_from = openat(from, name, flags, Mode::empty())?;
        let inner_to = openat(to, new.as_os_str(), flags, Mode::empty()).map_err(|error| match error {
            Errno::ENOTDIR | Errno::ELOOP => {
                io::Error::other(format!("cannot overwrite non-directory {} with a directory", shown(path)))
            }
            other => other.into(),
        })?;
        Ok((inner_from, inner_to, is_new))
    }

    /// Makes a name free for something that is no directory.
    fn free(&self, to: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        match unlinkat(to, name, UnlinkatFlags::NoRemoveDir) {
            // Mounted on: it is written in place.
            Ok(()) | Err(Errno::ENOENT | Errno::EBUSY) => Ok(()),
            Err(Errno::EISDIR) => Err(io::Error::other(format!(
                "cannot overwrite directory {} with a non-directory",
                name.to_string_lossy()
            ))),
            Err(error) => Err(error.into()),
        }
    }

    fn file(&mut self, from: BorrowedFd<'_>, name: &OsStr, to: BorrowedFd<'_>, new: &OsStr) -> io::Result<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let mut source = File::from(openat(from, name, flags, Mode::empty())?);
        let mut target = File::from(self.target(to, new)?);
        self.bytes += content(&mut source, &mut target)?;
        self.finish(source.as_fd(), target.as_fd(), &fstat(source.as_fd())?)
    }

    fn target(&self, to: BorrowedFd<'_>, new: &OsStr) -> io::Result<OwnedFd> {
        let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        for _ in 0..REPLACE_MAX {
            match openat(to, new, flags | OFlag::O_CREAT | OFlag::O_EXCL, Mode::S_IRUSR | Mode::S_IWUSR) {
                Err(Errno::EEXIST) if self.merge => {}
                other => return Ok(other?),
            }
            match unlinkat(to, new, UnlinkatFlags::NoRemoveDir) {
                // A file that is mounted (`/etc/hosts`) cannot be replaced, only rewritten.
                Err(Errno::EBUSY) => {
                    let fd = openat(to, new, flags | OFlag::O_TRUNC | OFlag::O_NONBLOCK, Mode::empty())?;
                    let regular = SFlag::from_bits_truncate(fstat(&fd)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG;
                    return if regular { Ok(fd) } else { Err(Errno::EBUSY.into()) };
                }
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Errno::EEXIST.into())
    }

    /// Owner, then mode (chown clears setuid), then attributes (chown clears capabilities), then times.
    fn finish(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &FileStat) -> io::Result<()> {
        let (user, group) = (self.owners)(stat.st_uid, stat.st_gid);
        fchown(to, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
        nix::sys::stat::fchmod(to, Mode::from_bits_truncate(stat.st_mode))?;
        self.attributes(from, to)?;
        let (accessed, modified) = times(stat);
        Ok(futimens(to, &accessed, &modified)?)
    }

    fn attributes(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
        let names = match sys::xattr_names(from) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(()),
            other => other?,
        };
        for name in names {
            // The overlay's own marks and the host's label belong to the source alone.
            let foreign = [&b"trusted.overlay."[..], b"user.overlay.", b"security.selinux"];
            let wanted = self.attributes || name.to_bytes().starts_with(b"user.");
            if !wanted || foreign.iter().any(|prefix| name.to_bytes().starts_with(prefix)) {
                continue;
            }
            match sys::set_xattr(to, &name, &sys::xattr(from, &name)?) {
                // Another kind of file system: the content matters more.
                Err(error) if self.merge && error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Owner, mode and times of what cannot be opened.
    fn special(&self, to: BorrowedFd<'_>, name: &OsStr, stat: &FileStat, has_mode: bool) -> io::Result<()> {
        let (user, group) = (self.owners)(stat.st_uid, stat.st_gid);
        fchownat(to, name, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if has_mode {
            // By a handle: between two calls by name it could have become a link to a file of the host.
            let node = openat(to, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
            if SFlag::from_bits_truncate(fstat(&node)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFLNK {
                return Err(Errno::ELOOP.into());
            }
            let path = format!("/proc/self/fd/{}", node.as_raw_fd());
            let mode = Mode::from_bits_truncate(stat.st_mode);
            fchmodat(AT_FDCWD, path.as_str(), mode, FchmodatFlags::FollowSymlink)?;
        }
        let (accessed, modified) = times(stat);
        Ok(utimensat(to, name, &accessed, &modified, UtimensatFlags::NoFollowSymlink)?)
    }
}

/// Copies what a file holds and returns how many bytes that was; its holes stay holes.
fn content(source: &mut File, target: &mut File) -> io::Result<u64> {
    let length = source.metadata()?.len();
    let (mut copied, mut offset) = (0, 0);
    // A length of 0 says nothing about files that the kernel makes up.
    loop {
        if length == 0 {
            break;
        }
        let start = match lseek(&*source, offset, Whence::SeekData) {
            Ok(start) => start,
            // Nothing but a hole follows.
            Err(Errno::ENXIO) => {
                if target.metadata()?.len() < length {
                    target.set_len(length)?;
                }
                return Ok(copied);
            }
            // This file system does not tell.
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => break,
            Err(error) => return Err(error.into()),
        };
        let end = lseek(&*source, start, Whence::SeekHole)?;
        lseek(&*source, start, Whence::SeekSet)?;
        lseek(&*target, start, Whence::SeekSet)?;
        let many = u64::try_from(end - start).unwrap_or(0);
        copied += io::copy(&mut io::Read::take(&mut *source, many), target)?;
        offset = end;
    }
    Ok(copied + io::copy(source, target)?)
}

fn times(stat: &FileStat) -> (TimeSpec, TimeSpec) {
    (TimeSpec::new(stat.st_atime, stat.st_atime_nsec), TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec))
}

fn shown(path: &[OsString]) -> String {
    path.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, SeekFrom, Write};
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn holes_stay_holes_and_the_bytes_between_them_are_kept() {
        let room = std::env::temp_dir().join(format!("shoal-sparse-{}", std::process::id()));
        fs::create_dir(&room).unwrap();
        let open = |name: &str| {
            fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(room.join(name)).unwrap()
        };
        const FAR: u64 = 64 << 20;
        for (name, places, length) in [
            ("tail", &[(0, "begin"), (FAR, "middle")][..], 2 * FAR),
            ("data", &[(FAR, "end")], FAR + 3),
            ("hole", &[], FAR),
            ("plain", &[(0, "text")], 4),
            ("empty", &[], 0),
        ] {
            let (mut from, mut to) = (open("from"), open("to"));
            for (offset, text) in places {
                from.seek(SeekFrom::Start(*offset)).unwrap();
                from.write_all(text.as_bytes()).unwrap();
            }
            from.set_len(length).unwrap();
            from.rewind().unwrap();
            content(&mut from, &mut to).unwrap();
            let meta = to.metadata().unwrap();
            assert_eq!(meta.len(), length, "{name}");
            assert!(meta.blocks() * 512 < 1 << 20, "{name}: {} blocks", meta.blocks());
            for (offset, text) in places {
                let mut read = vec![0; text.len()];
                to.seek(SeekFrom::Start(*offset)).unwrap();
                to.read_exact(&mut read).unwrap();
                assert_eq!(read, text.as_bytes(), "{name}");
            }
        }
        fs::remove_dir_all(&room).unwrap();
    }
}
