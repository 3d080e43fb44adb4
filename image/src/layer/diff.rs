//! A tree on disk becomes a tar: a container's changes as an OCI layer (`commit`), or a whole root (`export`).
//!
//! In: a directory, in overlayfs's form for changes. Out: a tar in order of names: owners, modes, times, links and attributes
//! kept, removals as `.wh.` files, opaque directories with `.wh..wh..opq`. Goes by descriptors and never follows a link, so a
//! running container cannot lead it outside. A change that overlayfs keeps as a reference to the image (redirect, metacopy) is
//! refused: its content is not here. Sockets are left out.

use super::tar::{Entry, Kind};
use super::write::Writer;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Directories below each other: each holds one descriptor open.
const DEPTH_MAX: usize = 500;
/// The kernel's own limit of one attribute's value and of the list of names.
const XATTR_BYTES_MAX: usize = 64 << 10;

/// What the directory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Changes over an image, as overlayfs writes them.
    Changes,
    /// A whole tree.
    Whole,
}

/// Writes everything below `root` and returns the stream.
pub fn write<W: Write>(root: &Path, form: Form, out: W) -> io::Result<W> {
    write_from(root, form, 0, out)
}

/// The same where user and group 0 are the host's number `first`: owners are written as they are seen from there.
pub fn write_from<W: Write>(root: &Path, form: Form, first: u32, out: W) -> io::Result<W> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(root, flags, Mode::empty())?;
    let mut walk = Walk { writer: Writer::new(out), form, first, links: HashMap::new() };
    walk.directory(&folder, &mut Vec::new(), 0)?;
    walk.writer.finish()
}

/// Writes one entry of an open directory, and everything below it, under the name `path`; returns the stream.
pub fn write_entry<W: Write>(folder: &OwnedFd, name: &OsStr, path: &[u8], first: u32, out: W) -> io::Result<W> {
    let mut walk = Walk { writer: Writer::new(out), form: Form::Whole, first, links: HashMap::new() };
    walk.entry(folder, name, &mut path.to_vec(), 0)?;
    walk.writer.finish()
}

struct Walk<W> {
    writer: Writer<W>,
    form: Form,
    /// The number that is written as 0.
    first: u32,
    /// Under which path a file with several names was written, by device and inode.
    links: HashMap<(u64, u64), Vec<u8>>,
}

/// Extended attributes: name and value, in the order in which the kernel lists them.
type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

impl<W: Write> Walk<W> {
    fn directory(&mut self, folder: &OwnedFd, path: &mut Vec<u8>, depth: usize) -> io::Result<()> {
        if depth > DEPTH_MAX {
            return Err(io::Error::other(format!("directories nest deeper than {DEPTH_MAX}")));
        }
        let mut names: Vec<OsString> = fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd()))?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<_>>()?;
        names.sort();
        for name in names {
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
            let written = self.entry(folder, &name, path, depth);
            if let Err(error) = written {
                let text = String::from_utf8_lossy(path).into_owned();
                return Err(io::Error::new(error.kind(), format!("/{text}: {error}")));
            }
            path.truncate(length);
        }
        Ok(())
    }

    fn entry(&mut self, folder: &OwnedFd, name: &OsStr, path: &mut Vec<u8>, depth: usize) -> io::Result<()> {
        let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // Removed while the tree is read.
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if self.form == Form::Changes && kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            let parent = path.len() - name.as_bytes().len();
            let mut hidden = path[..parent].to_vec();
            hidden.extend_from_slice(b".wh.");
            hidden.extend_from_slice(name.as_bytes());
            return self.writer.entry(&plain(hidden));
        }
        let mut entry = described(path, &stat);
        (entry.uid, entry.gid) = (entry.uid.saturating_sub(self.first), entry.gid.saturating_sub(self.first));
        let (xattrs, opaque) = self.attributes(folder, name)?;
        entry.xattrs = xattrs;
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                (entry.kind, entry.link) = (Kind::HardLink, first.clone());
                return self.writer.entry(&entry);
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.clone());
        }
        match kind {
            FileType::Directory => {
                entry.kind = Kind::Directory;
                self.writer.entry(&entry)?;
                if opaque && self.form == Form::Changes {
                    self.writer.entry(&plain([path.as_slice(), b"/.wh..wh..opq"].concat()))?;
                }
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
                let inner = rustix::fs::openat(folder, name, flags, Mode::empty())?;
                self.directory(&inner, path, depth + 1)
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = rustix::fs::openat(folder, name, flags, Mode::empty())?;
                entry.size = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0);
                self.writer.file(&entry, &mut File::from(file))
            }
            FileType::Symlink => {
                entry.kind = Kind::Symlink;
                entry.link = rustix::fs::readlinkat(folder, name, Vec::new())?.into_bytes();
                self.writer.entry(&entry)
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                entry.kind = if kind == FileType::BlockDevice { Kind::Block } else { Kind::Char };
                entry.device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
                self.writer.entry(&entry)
            }
            FileType::Fifo => {
                entry.kind = Kind::Fifo;
                self.writer.entry(&entry)
            }
            // A socket is nothing without its process.
            _ => Ok(()),
        }
    }

    /// Attributes that belong to the file, and whether the directory hides what the image has there.
    fn attributes(&self, folder: &OwnedFd, name: &OsStr) -> io::Result<(Attributes, bool)> {
        let mut path = OsString::from(format!("/proc/self/fd/{}/", folder.as_raw_fd()));
        path.push(name);
        let mut list = vec![0; XATTR_BYTES_MAX];
        let length = match rustix::fs::llistxattr(&path, &mut list) {
            Ok(length) => length,
            Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::NOENT) => return Ok((Vec::new(), false)),
            Err(error) => return Err(error.into()),
        };
        let (mut kept, mut opaque) = (Vec::new(), false);
        for key in list[..length].split(|byte| *byte == 0).filter(|key| !key.is_empty()) {
            let mut value = vec![0; XATTR_BYTES_MAX];
            let read = match rustix::fs::lgetxattr(&path, OsStr::from_bytes(key), &mut value) {
                Ok(read) => read,
                Err(rustix::io::Errno::NODATA) => continue,
                Err(error) => return Err(error.into()),
            };
            value.truncate(read);
            let own = [&b"trusted.overlay."[..], b"user.overlay."].into_iter().find_map(|mark| key.strip_prefix(mark));
            match own {
                Some(b"opaque") => opaque |= value == b"y",
                Some(b"redirect" | b"metacopy") if self.form == Form::Changes => {
                    return Err(io::Error::other(
                        "overlayfs keeps this change as a reference into the image; copy the file and commit again",
                    ));
                }
                Some(_) => {}
                // The host's label is the host's.
                None if key == b"security.selinux" => {}
                None => kept.push((key.to_vec(), value)),
            }
        }
        kept.sort();
        Ok((kept, opaque))
    }
}

fn described(path: &[u8], stat: &Stat) -> Entry {
    Entry {
        path: path.to_vec(),
        kind: Kind::File,
        link: Vec::new(),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: 0,
        mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        device: (0, 0),
        xattrs: Vec::new(),
        data_offset: 0,
        stored: 0,
        sparse: None,
    }
}

/// A mark: an empty file of root's, at the beginning of time.
fn plain(path: Vec<u8>) -> Entry {
    Entry {
        path,
        kind: Kind::File,
        link: Vec::new(),
        mode: 0o600,
        uid: 0,
        gid: 0,
        size: 0,
        mtime: (0, 0),
        device: (0, 0),
        xattrs: Vec::new(),
        data_offset: 0,
        stored: 0,
        sparse: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::tar::Reader;

    #[test]
    fn a_tree_is_written_in_order_with_its_links() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("d")).expect("made");
        fs::write(folder.path().join("d/b"), "bytes").expect("made");
        fs::hard_link(folder.path().join("d/b"), folder.path().join("d/c")).expect("made");
        std::os::unix::fs::symlink("/etc", folder.path().join("a")).expect("made");
        let bytes = write(folder.path(), Form::Changes, Vec::new()).expect("written");
        let mut reader = Reader::new(bytes.as_slice());
        let mut seen = Vec::new();
        while let Some(entry) = reader.next_entry().expect("a tar") {
            seen.push((String::from_utf8_lossy(&entry.path).into_owned(), entry.kind, entry.link, entry.size));
        }
        assert_eq!(
            seen,
            [
                ("a".to_owned(), Kind::Symlink, b"/etc".to_vec(), 0),
                ("d".to_owned(), Kind::Directory, Vec::new(), 0),
                ("d/b".to_owned(), Kind::File, Vec::new(), 5),
                ("d/c".to_owned(), Kind::HardLink, b"d/b".to_vec(), 0),
            ]
        );
    }
}
