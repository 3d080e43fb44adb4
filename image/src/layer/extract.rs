//! Unpacks layers into a directory, with everything a file system keeps.
//!
//! In: a tar stream nobody trusts, and an open directory. Out: the tree, or an error and a directory that the caller throws
//! away. Every name is resolved by the kernel inside the directory's handle; what stands in the way is unlinked, never
//! followed or overwritten. Nothing outside the handle is ever touched.

use crate::layer::tar::{Entry, Kind, Reader, TarError};
use crate::layer::whiteout::{self, Name};
use crate::store::layers::RootEntry;
use crate::store::{remove_at, sys};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// How deep a directory that is made opaque is cleared: PATH_MAX leaves room for 2048 components.
const REMOVE_DEPTH_MAX: usize = 4096;
/// How much file data is copied at once, in bytes.
const COPY_BYTES: usize = 256 * 1024;

/// What whiteouts become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiteouts {
    /// They remove what lower layers left in the directory.
    Apply,
    /// The same, for a directory that then is the lowest layer of an overlay: nothing in it may look like its whiteouts.
    Merge,
    /// They become overlayfs's own, with `trusted.` attributes: for a directory that is one lower layer, as root.
    Overlay,
    /// The same with `user.` attributes, for a mount with `userxattr`.
    OverlayUser,
    /// They are files like any other: the archive is no layer.
    Keep,
}

impl Whiteouts {
    fn is_overlay(self) -> bool {
        matches!(self, Self::Overlay | Self::OverlayUser)
    }
}

impl Whiteouts {
    /// Whether the directory holds the whole tree: lower layers lie in it too, or there are none.
    fn apply(self) -> bool {
        matches!(self, Self::Apply | Self::Merge | Self::Keep)
    }
}

/// How a tree is written.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// What whiteouts become.
    pub whiteouts: Whiteouts,
    /// Whether owners are kept; without it everything belongs to the caller, and devices are left out.
    pub owners: bool,
}

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The stream is not a tar that is safe to unpack.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// The operating system refused.
    #[error("failed to {step} \"{path}\"")]
    Io {
        /// What was being done.
        step: &'static str,
        /// The entry.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// The entry means something only together with the layers below, which are not in this directory.
    #[error("entry \"{path}\": {reason}")]
    Below {
        /// The entry.
        path: String,
        /// Why.
        reason: String,
    },
    /// The entry cannot be made where it says.
    #[error("entry \"{path}\": {reason}")]
    Refused {
        /// The entry.
        path: String,
        /// Why.
        reason: String,
    },
}

/// The identity of a name: the directory's inode, and the name in it.
type Place = (u64, Vec<u8>);

/// Unpacks layers into one directory, base first.
#[derive(Debug)]
pub struct Extractor {
    root: OwnedFd,
    options: Options,
    /// The directory of the last entry: most entries share it with the one before.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// What this layer made: whiteouts spare it.
    made: HashSet<Place>,
    /// Directories that this layer made opaque, by inode: nothing of lower layers is left in them.
    opaque: HashSet<u64>,
    /// Directories that this layer does not mention, made for what is in them: by inode, their paths.
    implied: HashMap<u64, Vec<u8>>,
    /// What directories get when everything is in them.
    directories: Vec<Entry>,
    /// Where in `directories` each path is.
    directory_places: HashMap<Vec<u8>, usize>,
    buffer: Vec<u8>,
    /// What the last layer that mentions the root says about it.
    root_entry: Option<RootEntry>,
    /// How many directories were read for whiteouts: tests count them.
    #[cfg(test)]
    cleared: usize,
}

impl Extractor {
    /// Unpacks into the directory `root`.
    pub fn new(root: OwnedFd, options: Options) -> Self {
        Self {
            root,
            options,
            parent: None,
            made: HashSet::new(),
            opaque: HashSet::new(),
            implied: HashMap::new(),
            directories: Vec::new(),
            directory_places: HashMap::new(),
            buffer: vec![0; COPY_BYTES],
            root_entry: None,
            #[cfg(test)]
            cleared: 0,
        }
    }

    /// Unpacks one layer. Call it once for each, base first.
    pub fn layer<R: Read>(&mut self, reader: &mut Reader<R>) -> Result<(), ExtractError> {
        self.made.clear();
        self.opaque.clear();
        self.implied.clear();
        while let Some(entry) = reader.next_entry()? {
            self.entry(&entry, reader)?;
        }
        self.finish_directories()
    }

    /// What the last layer that mentions the root directory says about it.
    #[must_use]
    pub fn root_entry(&self) -> Option<RootEntry> {
        self.root_entry
    }

    /// The directories that the last layer made without mentioning them.
    pub(crate) fn implied(&self) -> Vec<Vec<u8>> {
        self.implied.values().cloned().collect()
    }

    /// The inodes of the directories that the archive does not mention, and that were made for what is in them.
    pub fn implied_inodes(&self) -> std::collections::BTreeSet<u64> {
        self.implied.keys().copied().collect()
    }

    fn entry<R: Read>(&mut self, entry: &Entry, reader: &mut Reader<R>) -> Result<(), ExtractError> {
        let (directory, name) = split(&entry.path);
        if name.is_empty() {
            if entry.kind != Kind::Directory {
                return Err(refused(entry, "the root can only be a directory"));
            }
            self.root_entry = Some(RootEntry::of(entry));
            self.remember_directory(entry);
            return Ok(());
        }
        let whiteout = if self.options.whiteouts == Whiteouts::Keep { Name::Plain } else { whiteout::name(name) };
        if whiteout == Name::Reserved || (whiteout != Name::Plain && entry.kind == Kind::Directory) {
            return Ok(());
        }
        let parent = self.parent(directory, entry)?;
        let result = match whiteout {
            Name::Opaque => self.make_opaque(&parent, directory, entry),
            Name::Removes(target) => self.white_out(&parent, target, entry),
            Name::Plain | Name::Reserved => self.make(&parent, name, entry, reader),
        };
        // Most entries lie beside the one before; what replaced a directory has forgotten the handle itself.
        if result.is_ok() && self.parent.is_none() {
            self.parent = Some((directory.to_vec(), parent));
        }
        result
    }

    /// The handle of the directory of an entry; missing ones are made.
    fn parent(&mut self, directory: &[u8], entry: &Entry) -> Result<OwnedFd, ExtractError> {
        if let Some((path, fd)) = self.parent.take()
            && path == directory
        {
            return Ok(fd);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        if directory.is_empty() {
            return self.root.try_clone().map_err(failed("open the root for", &entry.path));
        }
        match sys::open_in_root(&self.root, directory, flags) {
            Ok(fd) => Ok(fd),
            Err(Errno::NOENT | Errno::NOTDIR) => self.make_parents(directory, entry),
            Err(errno) => Err(failed("open the directory of", &entry.path)(errno.into())),
        }
    }

    /// Makes directories that the layer does not mention: 0755, root's, as every other tool does.
    fn make_parents(&mut self, directory: &[u8], entry: &Entry) -> Result<OwnedFd, ExtractError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let step = "make the directory of";
        let mut at = self.root.try_clone().map_err(failed(step, &entry.path))?;
        let mut end = 0;
        for component in directory.split(|b| *b == b'/') {
            end += component.len() + usize::from(end > 0);
            let path = &directory[..end];
            at = match sys::open_in_root(&self.root, path, flags) {
                Ok(fd) => fd,
                Err(Errno::NOENT) => self.make_parent(&at, component, false, entry)?,
                // A whiteout of this layer: what is made there hides the directory below.
                Err(Errno::NOTDIR) if !self.options.whiteouts.apply() && is_whiteout(&at, component) => {
                    rustix::fs::unlinkat(&at, component, AtFlags::empty())
                        .map_err(|errno| failed(step, &entry.path)(errno.into()))?;
                    self.make_parent(&at, component, true, entry)?
                }
                Err(errno) => return Err(failed(step, &entry.path)(errno.into())),
            };
        }
        Ok(at)
    }

    /// Makes one directory that the layer does not mention. `opaque`: the one below was removed by the layer.
    fn make_parent(
        &mut self,
        at: &OwnedFd,
        component: &[u8],
        opaque: bool,
        entry: &Entry,
    ) -> Result<OwnedFd, ExtractError> {
        let io = |errno: Errno| failed("make the directory of", &entry.path)(errno.into());
        match rustix::fs::mkdirat(at, component, Mode::from_raw_mode(0o755)) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                return Err(self.absent(entry, "its directory is a symbolic link to something that is not there"));
            }
            Err(errno) => return Err(io(errno)),
        }
        let made = open_directory(at, component).map_err(io)?;
        rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755)).map_err(io)?;
        if opaque {
            self.set_opaque(made.as_fd(), entry)?;
        } else if !self.options.whiteouts.apply() || self.options.whiteouts == Whiteouts::Keep {
            let inode = rustix::fs::fstat(&made).map_err(io)?.st_ino;
            self.implied.insert(inode, self.real_path(&made));
        }
        Ok(made)
    }

    /// Where a directory of the tree is, links resolved.
    fn real_path(&self, directory: &OwnedFd) -> Vec<u8> {
        let path = |fd: &OwnedFd| {
            let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
            rustix::fs::readlink(name, Vec::new()).map(std::ffi::CString::into_bytes).unwrap_or_default()
        };
        let (root, path) = (path(&self.root), path(directory));
        let path = path.strip_prefix(root.as_slice()).unwrap_or(&path);
        path.strip_prefix(b"/").unwrap_or(path).to_vec()
    }

    /// Something that an entry relies on is not there: in a directory of one layer it may be further down.
    fn absent(&self, entry: &Entry, reason: &str) -> ExtractError {
        if self.options.whiteouts.apply() {
            return refused(entry, reason);
        }
        ExtractError::Below { path: String::from_utf8_lossy(&entry.path).into_owned(), reason: reason.to_owned() }
    }

    fn make<R: Read>(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        reader: &mut Reader<R>,
    ) -> Result<(), ExtractError> {
        let device = matches!(entry.kind, Kind::Char | Kind::Block);
        if device && !self.options.owners {
            return Ok(());
        }
        if entry.kind == Kind::Char && entry.device == (0, 0) && self.options.whiteouts.is_overlay() {
            return Err(refused(entry, "a character device 0:0 would hide files of lower layers"));
        }
        let inode = inode(parent, entry)?;
        if entry.kind == Kind::HardLink {
            self.make_link(parent, name, entry)?;
            self.made.insert((inode, name.to_vec()));
            return Ok(());
        }
        let keeps = self.clear_way(parent, name, entry, inode)?;
        let io = |step: &'static str| move |errno: Errno| failed(step, &entry.path)(errno.into());
        match entry.kind {
            Kind::Directory => {
                if !keeps {
                    rustix::fs::mkdirat(parent, name, Mode::RWXU).map_err(io("make the directory"))?;
                }
                self.remember_directory(entry);
            }
            Kind::File => self.make_file(parent, name, entry, reader)?,
            Kind::Symlink => {
                rustix::fs::symlinkat(entry.link.as_slice(), parent, name).map_err(io("make the link"))?;
                self.set_by_name(parent, name, entry)?;
            }
            Kind::Char | Kind::Block | Kind::Fifo => {
                let (kind, device) = match entry.kind {
                    Kind::Char => (FileType::CharacterDevice, entry.device),
                    Kind::Block => (FileType::BlockDevice, entry.device),
                    _ => (FileType::Fifo, (0, 0)),
                };
                let device = rustix::fs::makedev(device.0, device.1);
                match rustix::fs::mknodat(parent, name, kind, Mode::RUSR | Mode::WUSR, device) {
                    // Root of a user namespace makes no devices, as a user without one.
                    Err(Errno::PERM) if entry.kind != Kind::Fifo && !sys::is_host_root() => return Ok(()),
                    made => made.map_err(io("make the node"))?,
                }
                self.set_by_name(parent, name, entry)?;
            }
            Kind::HardLink => unreachable!("handled above"),
        }
        self.made.insert((inode, name.to_vec()));
        Ok(())
    }

    /// Removes what stands at `name`, except a directory where a directory comes. Says whether that stays.
    fn clear_way(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        parent_inode: u64,
    ) -> Result<bool, ExtractError> {
        let io = |step: &'static str| move |errno: Errno| failed(step, &entry.path)(errno.into());
        let Some(stat) = sys::stat_at(parent, name).map_err(io("look at"))? else { return Ok(false) };
        let there = FileType::from_raw_mode(stat.st_mode);
        if self.options.whiteouts.is_overlay() && there == FileType::CharacterDevice && stat.st_rdev == 0 {
            // The layer removes the name below and makes it anew. A directory must then hide the one below.
            rustix::fs::unlinkat(parent, name, AtFlags::empty()).map_err(io("remove"))?;
            if entry.kind == Kind::Directory {
                rustix::fs::mkdirat(parent, name, Mode::RWXU).map_err(io("make the directory"))?;
                let fd = open_directory(parent, name).map_err(io("open"))?;
                self.set_opaque(fd.as_fd(), entry)?;
                return Ok(true);
            }
            return Ok(false);
        }
        if there == FileType::Directory {
            if entry.kind == Kind::Directory {
                return Ok(true);
            }
            self.parent = None;
            remove_at(parent, name).map_err(failed("remove", &entry.path))?;
            self.made.remove(&(parent_inode, name.to_vec()));
            return Ok(false);
        }
        rustix::fs::unlinkat(parent, name, AtFlags::empty()).map_err(io("remove"))?;
        Ok(false)
    }

    fn make_file<R: Read>(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        reader: &mut Reader<R>,
    ) -> Result<(), ExtractError> {
        let io = |step: &'static str| move |errno: Errno| failed(step, &entry.path)(errno.into());
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR).map_err(io("make the file"))?;
        let file = std::fs::File::from(fd);
        match &entry.sparse {
            None => {
                let mut at = 0;
                loop {
                    let read = reader.read_data(&mut self.buffer)?;
                    if read == 0 {
                        break;
                    }
                    file.write_all_at(&self.buffer[..read], at).map_err(failed("write", &entry.path))?;
                    at += read as u64;
                }
            }
            Some(extents) => {
                file.set_len(entry.size).map_err(failed("set the length of", &entry.path))?;
                for extent in extents {
                    let mut done = 0;
                    while done < extent.length {
                        let want = usize::try_from((extent.length - done).min(COPY_BYTES as u64)).unwrap_or(COPY_BYTES);
                        let read = reader.read_data(&mut self.buffer[..want])?;
                        file.write_all_at(&self.buffer[..read], extent.offset + done)
                            .map_err(failed("write", &entry.path))?;
                        done += read as u64;
                    }
                }
            }
        }
        self.set_open(file.as_fd(), entry)
    }

    fn make_link(&mut self, parent: &OwnedFd, name: &[u8], entry: &Entry) -> Result<(), ExtractError> {
        let io = |step: &'static str| move |errno: Errno| failed(step, &entry.path)(errno.into());
        let (directory, target) = split(&entry.link);
        if target.is_empty() {
            return Err(refused(entry, "a hard link to the root"));
        }
        let from = if directory.is_empty() {
            self.root.try_clone().map_err(failed("open the root for", &entry.path))?
        } else {
            match sys::open_in_root(&self.root, directory, OFlags::PATH | OFlags::DIRECTORY) {
                Ok(from) => from,
                Err(Errno::NOENT | Errno::NOTDIR) => return Err(self.no_target(entry)),
                Err(errno) => return Err(io("open the directory of the link's target of")(errno)),
            }
        };
        let Some(source) = sys::stat_at(&from, target).map_err(io("look at the target of"))? else {
            return Err(self.no_target(entry));
        };
        let is_removed = FileType::from_raw_mode(source.st_mode) == FileType::CharacterDevice && source.st_rdev == 0;
        if is_removed && !self.options.whiteouts.apply() {
            return Err(self.no_target(entry));
        }
        if FileType::from_raw_mode(source.st_mode) == FileType::Directory {
            return Err(refused(entry, "a hard link to a directory"));
        }
        if let Some(there) = sys::stat_at(parent, name).map_err(io("look at"))? {
            if there.st_ino == source.st_ino && there.st_dev == source.st_dev {
                return Ok(());
            }
            let inode = inode(parent, entry)?;
            self.clear_way(parent, name, entry, inode)?;
        }
        rustix::fs::linkat(&from, target, parent, name, AtFlags::empty()).map_err(io("make the hard link"))
    }

    fn no_target(&self, entry: &Entry) -> ExtractError {
        let shown = String::from_utf8_lossy(&entry.link).into_owned();
        self.absent(entry, &format!("it is a hard link to \"{shown}\", which is not there"))
    }

    /// Removes `target` of lower layers, or writes the whiteout of overlayfs.
    fn white_out(&mut self, parent: &OwnedFd, target: &[u8], entry: &Entry) -> Result<(), ExtractError> {
        let io = |step: &'static str| move |errno: Errno| failed(step, &entry.path)(errno.into());
        let inode = inode(parent, entry)?;
        let there = sys::stat_at(parent, target).map_err(io("look at"))?;
        let place = (inode, target.to_vec());
        if self.options.whiteouts.apply() {
            match there {
                None => {}
                // The layer's own entry stays; of a directory only what lower layers left in it goes.
                Some(stat)
                    if self.made.contains(&place) && FileType::from_raw_mode(stat.st_mode) == FileType::Directory =>
                {
                    let fd = open_directory(parent, target).map_err(io("open"))?;
                    self.clear_lower(&fd, 0).map_err(failed("clear", &entry.path))?;
                }
                Some(_) if self.made.contains(&place) => {}
                Some(_) => {
                    self.parent = None;
                    remove_at(parent, target).map_err(failed("remove", &entry.path))?;
                }
            }
            return Ok(());
        }
        match there.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Some(FileType::Directory) => {
                let fd = open_directory(parent, target).map_err(io("open"))?;
                self.set_opaque(fd.as_fd(), entry)
            }
            Some(_) => Ok(()),
            None => rustix::fs::mknodat(parent, target, FileType::CharacterDevice, Mode::empty(), 0)
                .map_err(io("make the whiteout")),
        }
    }

    /// Hides everything of lower layers in the directory of the entry.
    fn make_opaque(&mut self, parent: &OwnedFd, directory: &[u8], entry: &Entry) -> Result<(), ExtractError> {
        if self.options.whiteouts.apply() {
            let _ = directory;
            return self.clear_lower(parent, 0).map_err(failed("clear the directory of", &entry.path));
        }
        self.set_opaque(parent.as_fd(), entry)
    }

    fn set_opaque(&self, directory: BorrowedFd<'_>, entry: &Entry) -> Result<(), ExtractError> {
        let name = match self.options.whiteouts {
            Whiteouts::OverlayUser => "user.overlay.opaque",
            Whiteouts::Overlay | Whiteouts::Apply | Whiteouts::Merge | Whiteouts::Keep => "trusted.overlay.opaque",
        };
        rustix::fs::fsetxattr(directory, name, b"y", XattrFlags::empty())
            .map_err(|errno| failed("make opaque the directory of", &entry.path)(errno.into()))
    }

    /// Removes what lower layers left in a directory. A directory is cleared once a layer: after that nothing of lower
    /// layers can appear in it, so that many opaque markers cost no more than one.
    fn clear_lower(&mut self, directory: &OwnedFd, depth: usize) -> io::Result<()> {
        let inode = rustix::fs::fstat(directory)?.st_ino;
        if depth > REMOVE_DEPTH_MAX || !self.opaque.insert(inode) {
            return Ok(());
        }
        self.parent = None;
        #[cfg(test)]
        {
            self.cleared += 1;
        }
        for (name, kind) in list(directory)? {
            if !self.made.contains(&(inode, name.clone())) {
                remove_at(directory, &name)?;
            } else if kind == FileType::Directory {
                let child = open_directory(directory, &name)?;
                self.clear_lower(&child, depth + 1)?;
            }
        }
        Ok(())
    }

    /// Owner, xattrs, mode and times of an open file, in the order that keeps them: chown clears set-uid bits and
    /// capabilities, writing xattrs changes no time.
    fn set_open(&self, fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), ExtractError> {
        let io = |step: &'static str| move |errno: Errno| failed(step, &entry.path)(errno.into());
        if self.options.owners {
            rustix::fs::fchown(fd, Some(uid(entry)), Some(gid(entry))).map_err(io("change the owner of"))?;
        }
        rustix::fs::fchmod(fd, Mode::from_raw_mode(entry.mode)).map_err(io("change the mode of"))?;
        for (name, value) in self.xattrs(entry) {
            let set = rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty());
            self.check_xattr(set, name, entry)?;
        }
        rustix::fs::futimens(fd, &times(entry)).map_err(io("set the times of"))
    }

    /// The same for what cannot be opened: links, devices, pipes.
    fn set_by_name(&self, parent: &OwnedFd, name: &[u8], entry: &Entry) -> Result<(), ExtractError> {
        let io = |step: &'static str| move |errno: Errno| failed(step, &entry.path)(errno.into());
        if self.options.owners {
            rustix::fs::chownat(parent, name, Some(uid(entry)), Some(gid(entry)), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(io("change the owner of"))?;
        }
        let xattrs: Vec<_> = self.xattrs(entry).collect();
        if entry.kind != Kind::Symlink || !xattrs.is_empty() {
            // The handle names the very node that was made, whatever its kind.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(io("open"))?;
            let handle = format!("/proc/self/fd/{}", fd.as_raw_fd());
            if entry.kind != Kind::Symlink {
                rustix::fs::chmod(&handle, Mode::from_raw_mode(entry.mode)).map_err(io("change the mode of"))?;
            }
            for (name, value) in xattrs {
                let set = rustix::fs::setxattr(&handle, name, value, XattrFlags::empty());
                self.check_xattr(set, name, entry)?;
            }
        }
        rustix::fs::utimensat(parent, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW).map_err(io("set the times of"))
    }

    /// The xattrs that are set: not those of overlayfs itself, which would change what other layers show.
    fn xattrs<'a>(&self, entry: &'a Entry) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let owners = self.options.owners;
        entry
            .xattrs
            .iter()
            .map(|(name, value)| (name.as_slice(), value.as_slice()))
            .filter(move |(name, _)| whiteout::is_kept_xattr(name) && (owners || name.starts_with(b"user.")))
    }

    fn check_xattr(&self, set: Result<(), Errno>, name: &[u8], entry: &Entry) -> Result<(), ExtractError> {
        match set {
            Ok(()) => Ok(()),
            // Links and devices cannot carry user attributes, and the kernel has no such name space for them.
            Err(Errno::PERM) if name.starts_with(b"user.") && !matches!(entry.kind, Kind::File | Kind::Directory) => {
                Ok(())
            }
            // Of the host's root alone.
            Err(Errno::PERM) if name.starts_with(b"trusted.") && !sys::is_host_root() => Ok(()),
            // A label of a security module that this kernel does not run cannot mean anything here.
            Err(Errno::OPNOTSUPP | Errno::INVAL)
                if name.starts_with(b"security.") && name != b"security.capability" =>
            {
                Ok(())
            }
            Err(errno) => {
                let shown = String::from_utf8_lossy(name).into_owned();
                Err(refused(entry, &format!("its attribute {shown} cannot be set: {}", io::Error::from(errno))))
            }
        }
    }

    fn remember_directory(&mut self, entry: &Entry) {
        match self.directory_places.get(&entry.path) {
            Some(place) => self.directories[*place] = entry.clone(),
            None => {
                self.directory_places.insert(entry.path.clone(), self.directories.len());
                self.directories.push(entry.clone());
            }
        }
    }

    /// Gives directories their owners, modes, xattrs and times, when nothing is made in them any more.
    fn finish_directories(&mut self) -> Result<(), ExtractError> {
        self.parent = None;
        self.directory_places.clear();
        for entry in std::mem::take(&mut self.directories).into_iter().rev() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let opened = if entry.path.is_empty() {
                self.root.try_clone().map_err(|_| Errno::MFILE)
            } else {
                sys::open_in_root(&self.root, entry.path.as_slice(), flags)
            };
            match opened {
                Ok(fd) => {
                    if !self.implied.is_empty() {
                        let stat = rustix::fs::fstat(&fd).map_err(|e| failed("look at", &entry.path)(e.into()))?;
                        self.implied.remove(&stat.st_ino);
                    }
                    self.set_open(fd.as_fd(), &entry)?;
                }
                // A later entry of the layer replaced it by something else.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(failed("open the directory", &entry.path)(errno.into())),
            }
        }
        Ok(())
    }
}

/// The names in a directory and their kinds, without `.` and `..`.
pub(crate) fn list(directory: &OwnedFd) -> io::Result<Vec<(Vec<u8>, FileType)>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            let kind = match entry.file_type() {
                FileType::Unknown => sys::stat_at(directory, name)?
                    .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode)),
                kind => kind,
            };
            names.push((name.to_vec(), kind));
        }
    }
    Ok(names)
}

pub(crate) fn open_directory(parent: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Whether `name` is overlayfs's whiteout.
fn is_whiteout(directory: &OwnedFd, name: &[u8]) -> bool {
    sys::stat_at(directory, name).is_ok_and(|stat| {
        stat.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0)
    })
}

fn inode(directory: &OwnedFd, entry: &Entry) -> Result<u64, ExtractError> {
    Ok(rustix::fs::fstat(directory)
        .map_err(|errno| failed("look at the directory of", &entry.path)(errno.into()))?
        .st_ino)
}

/// Directory and name of a path; both may be empty.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn uid(entry: &Entry) -> rustix::fs::Uid {
    rustix::fs::Uid::from_raw(entry.uid)
}

fn gid(entry: &Entry) -> rustix::fs::Gid {
    rustix::fs::Gid::from_raw(entry.gid)
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.mtime.0, tv_nsec: entry.mtime.1.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn failed(step: &'static str, path: &[u8]) -> impl FnOnce(io::Error) -> ExtractError + use<> {
    let path = String::from_utf8_lossy(path).into_owned();
    move |source| ExtractError::Io { step, path, source }
}

fn refused(entry: &Entry, reason: &str) -> ExtractError {
    ExtractError::Refused { path: String::from_utf8_lossy(&entry.path).into_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests;
