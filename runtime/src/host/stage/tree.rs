//! Applying the steps that make a container's file system: mounts, nodes, links, hidden and read-only paths, the root.
//!
//! Runs in the new process, in its mount namespace, while the host's tree is still `/`. Each mount is built detached
//! and attached with one call; every path inside the root goes through [`Room`].

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag, makedev, mkdirat, mknodat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::{UnlinkatFlags, fchdir, fchownat, symlinkat, unlinkat};

use super::super::cgroup_mount::Known;
use super::super::lacks;
use super::super::room::{Room, is_directory, stat};
use super::super::sys::mount::{self, Attr};
use super::super::sys::open::close_all;
use super::views::Views;
use crate::error::{During, Error, Result};
use crate::plan::Entry;
use crate::plan::devices::Node;
use crate::plan::mounts::{Mount, Propagation, PropagationFlag, Source, clean};

/// The tree under construction.
#[derive(Debug)]
pub struct Tree {
    room: Room,
    /// Bind mount sources opened where the new process may not look, by index of the mount.
    sources: Vec<Option<OwnedFd>>,
    /// A directory that is a file system made here, and its root: what is missing right below it is made there.
    fresh: Option<(String, OwnedFd)>,
    /// The parent directory of the last node or link, which usually is that of the next.
    parent: Option<(String, OwnedFd)>,
    /// The host's `/dev/null`, for hidden files.
    null: Option<OwnedFd>,
    /// The first hidden directory: an empty read-only tmpfs that all others share.
    empty: Option<OwnedFd>,
    /// The procfs and sysfs that were mounted.
    views: Views,
    /// Whether mounts of the host and of this tree still see each other.
    shared: bool,
    /// Descriptors that have done their work; many are closed by one call.
    spent: Vec<OwnedFd>,
    /// What is known about the cgroup mounts of the host.
    cgroups: Known,
    /// Whether the current directory may change while mounts are made.
    roams: bool,
}

/// How many descriptors may wait for being closed: with what else is open fewer than any sensible limit.
const SPENT_MAX: usize = 128;

const RDONLY: Attr = Attr { set: libc::MOUNT_ATTR_RDONLY, clear: 0, propagation: 0 };

/// Sets how the copied host tree and the host see each other, and makes the root file system a mount of its own. With
/// `roams` the current directory is anywhere until the root is entered.
///
/// `opened` is a detached copy of the root file system from the parent, for a process that may not walk to it.
pub fn begin(
    propagation: Option<Propagation>,
    rootfs: &Path,
    opened: Option<OwnedFd>,
    sources: Vec<Option<OwnedFd>>,
    cgroups: Known,
    roams: bool,
) -> Result<Tree> {
    let operation = || format!("open the root file system {}", rootfs.display());
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = match (nix::fcntl::open(rootfs, flags, Mode::empty()), propagation, opened) {
        (Err(Errno::EACCES), Some(propagation), Some(tree)) => {
            return begin_opened(propagation, tree, sources, cgroups);
        }
        (directory, ..) => directory.during(operation)?,
    };
    let mut shared = false;
    let root = match propagation {
        None => directory,
        Some(propagation) => {
            mount::setattr_path(b"/", propagation.attr(), true).during(|| "set the propagation of /")?;
            if propagation.flag == PropagationFlag::Shared {
                shared = true;
                make_parent_private(rootfs)?;
            }
            let operation = || format!("bind mount {} on itself", rootfs.display());
            let tree = mount::clone_tree(directory.as_fd(), b"", true).during(operation)?;
            mount::attach(tree.as_fd(), directory.as_fd()).during(operation)?;
            tree
        }
    };
    Ok(Tree { shared, roams, ..Tree::of(Room::new(root), sources, cgroups) })
}

/// The same with a root file system to which no path leads. It comes to lie over `/`, where lookups of this process do not
/// see it: they begin below.
fn begin_opened(
    propagation: Propagation,
    tree: OwnedFd,
    sources: Vec<Option<OwnedFd>>,
    cgroups: Known,
) -> Result<Tree> {
    let operation = || "attach the root file system, to which the container's root may not walk";
    mount::setattr_path(b"/", propagation.attr(), true).during(|| "set the propagation of /")?;
    let shared = propagation.flag == PropagationFlag::Shared;
    if shared {
        make_parent_private(Path::new("/"))?;
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let top = nix::fcntl::open("/", flags, Mode::empty()).during(operation)?;
    mount::attach(tree.as_fd(), top.as_fd()).during(operation)?;
    let spent = vec![top];
    Ok(Tree { shared, spent, ..Tree::of(Room::new(tree), sources, cgroups) })
}

/// Keeps the mount of the root itself from spreading to the host, and lets pivot_root(2) work.
fn make_parent_private(rootfs: &Path) -> Result<()> {
    let private = Attr { propagation: libc::MS_PRIVATE, ..Attr::default() };
    for path in rootfs.ancestors() {
        match mount::setattr_path(path.as_os_str().as_encoded_bytes(), private, false) {
            // No mount point: the parent's then.
            Err(Errno::EINVAL) => {}
            answer => return answer.during(|| format!("make the mount on {} private", path.display())),
        }
    }
    Ok(())
}

impl Tree {
    /// The tree of a container that exists already, seen from a process inside.
    pub fn inside(root: OwnedFd, sources: Vec<Option<OwnedFd>>) -> Self {
        Self::of(Room::new(root), sources, Known::default())
    }

    fn of(room: Room, sources: Vec<Option<OwnedFd>>, cgroups: Known) -> Self {
        let (views, spent) = (Views::default(), Vec::new());
        let (fresh, parent, null, empty) = (None, None, None, None);
        Self { room, sources, fresh, parent, null, empty, views, shared: false, spent, cgroups, roams: false }
    }

    /// Takes descriptors that are no longer needed.
    pub fn spend(&mut self, fds: impl IntoIterator<Item = OwnedFd>) {
        self.spent.extend(fds);
        if self.spent.len() > SPENT_MAX {
            self.close_spent();
        }
    }

    /// Closes what is spent.
    fn close_spent(&mut self) {
        close_all(std::mem::take(&mut self.spent));
    }

    /// What is known about the cgroup mounts of the host.
    pub fn cgroups(&mut self) -> &mut Known {
        &mut self.cgroups
    }

    /// The room paths are resolved in.
    pub fn room(&self) -> &Room {
        &self.room
    }

    /// Makes one mount.
    pub fn mount(&mut self, wanted: &Mount) -> Result<()> {
        self.parent = None;
        let operation = || wanted.describe();
        if self.mount_at_once(wanted) {
            return Ok(());
        }
        let detached = match &wanted.source {
            Source::Filesystem { kind, source, options } => self.filesystem(wanted, kind, source, options)?,
            Source::Bind { path, recursive } => match self.sources.get_mut(wanted.index).and_then(Option::take) {
                Some(prepared) => prepared,
                None => mount::clone_tree(AT_FDCWD, path.as_bytes(), *recursive).during(operation)?,
            },
            Source::Cgroup { namespace, unified } => {
                return super::super::cgroup_mount::mount(self, wanted, *namespace, *unified);
            }
        };
        self.place(wanted, &detached)?;
        match &wanted.source {
            Source::Filesystem { kind, .. } if is_kernel_view(kind) => self.views.add(&wanted.destination, detached),
            Source::Bind { .. } if clean(&wanted.destination) == "/proc" => {
                self.views.add(&wanted.destination, detached);
            }
            _ => self.spend([detached]),
        }
        Ok(())
    }

    /// Makes an ordinary mount of a kernel's own file system with one call, on the directory itself whatever its path
    /// leads to by then. False where that does not fit or fails: nothing was mounted, and the longer way knows why.
    fn mount_at_once(&mut self, wanted: &Mount) -> bool {
        let Source::Filesystem { kind, source, options } = &wanted.source else { return false };
        let Some((flags, options)) = at_once(wanted, kind, options).filter(|_| self.roams) else { return false };
        let Ok(target) = self.directory(&wanted.destination) else { return false };
        if fchdir(&target).is_err() || mount::mount_here(kind, source, flags, &options).is_err() {
            return false;
        }
        self.spend([target]);
        let covered = self.views.covered(&wanted.destination);
        self.spend(covered);
        if kind == "tmpfs" && clean(&wanted.destination) == "/dev" {
            let root = self.room.open(&wanted.destination, libc::O_PATH | libc::O_DIRECTORY);
            self.fresh = root.ok().map(|root| (wanted.destination.clone(), root));
        }
        true
    }

    /// The directory `path`, made with all its parents where it is missing.
    fn directory(&self, path: &str) -> nix::Result<OwnedFd> {
        let below =
            self.fresh.as_ref().and_then(|(base, root)| Some((path.strip_prefix(base)?.strip_prefix('/')?, root)));
        if let Some((name, root)) = below.filter(|(name, _)| !name.is_empty() && !name.contains('/')) {
            // Only an attempt: what is found at the path afterwards counts.
            let _ = mkdirat(root, name, Mode::from_bits_truncate(0o755));
        }
        self.room.directory(path, 0o755)
    }

    /// Gives a detached mount its attributes and attaches it where it belongs.
    pub fn place(&mut self, wanted: &Mount, detached: &OwnedFd) -> Result<()> {
        let operation = || wanted.describe();
        // A new file system got its attributes when it was mounted, unless it had to be filled first.
        if (wanted.is_bind() || wanted.copy_up) && !wanted.attr.is_empty() {
            mount::setattr(detached.as_fd(), wanted.attr, false).during(operation)?;
        }
        if !wanted.recursive_attr.is_empty() {
            mount::setattr(detached.as_fd(), wanted.recursive_attr, true).during(operation)?;
        }
        let target = self.target(wanted, detached)?;
        mount::attach(detached.as_fd(), target.as_fd()).during(operation)?;
        self.spend([target]);
        let covered = self.views.covered(&wanted.destination);
        self.spend(covered);
        for propagation in &wanted.propagation {
            mount::setattr(detached.as_fd(), propagation.attr(), propagation.recursive)
                .during(|| format!("set the propagation of {}", wanted.destination))?;
        }
        Ok(())
    }

    fn filesystem(
        &mut self,
        wanted: &Mount,
        kind: &str,
        source: &str,
        options: &[(String, Option<String>)],
    ) -> Result<OwnedFd> {
        let attr = if wanted.copy_up { 0 } else { wanted.attr.set };
        let mut spent = Vec::new();
        let mode = self.covered_mode(wanted, kind, options);
        let with_mode = mode.map(|mode| [options, &[("mode".to_owned(), Some(mode))]].concat());
        let made = filesystem(kind, source, with_mode.as_deref().unwrap_or(options), attr, &mut spent);
        self.spend(spent);
        match made {
            // Only the owner of the network (IPC) namespace may mount its view; the host's is what there is to see.
            Err(Error::Failed { errno: libc::EPERM, .. }) if kind == "sysfs" => self.instead("/sys", wanted),
            Err(Error::Failed { errno: libc::EPERM, .. }) if kind == "mqueue" => self.instead("/dev/mqueue", wanted),
            Ok(detached) if wanted.copy_up => {
                if let Ok(old) = self.room.open(&wanted.destination, libc::O_RDONLY | libc::O_DIRECTORY) {
                    super::super::copy_up::copy(&old, &detached)
                        .during(|| format!("copy {} into its tmpfs", wanted.destination))?;
                }
                Ok(detached)
            }
            Err(Error::Failed { operation, errno }) => {
                let operation = format!("{}{}", wanted.describe(), operation);
                Err(Error::Failed { operation, errno })
            }
            made => made,
        }
    }

    /// The permissions of the directory that a tmpfs without any of its own covers: what was private stays private.
    fn covered_mode(&self, wanted: &Mount, kind: &str, options: &[(String, Option<String>)]) -> Option<String> {
        if kind != "tmpfs" || options.iter().any(|(key, _)| key == "mode") {
            return None;
        }
        let covered = self.room.open(&wanted.destination, libc::O_PATH | libc::O_DIRECTORY).ok()?;
        stat(covered.as_fd()).ok().map(|found| format!("{:o}", found.st_mode & 0o7777))
    }

    fn instead(&self, path: &str, wanted: &Mount) -> Result<OwnedFd> {
        let tree = mount::clone_tree(AT_FDCWD, path.as_bytes(), true).during(|| wanted.describe())?;
        mount::setattr(tree.as_fd(), wanted.attr, true).during(|| wanted.describe())?;
        Ok(tree)
    }

    /// The directory or file a mount goes on, made where it is missing.
    fn target(&self, wanted: &Mount, detached: &OwnedFd) -> Result<OwnedFd> {
        let path = &wanted.destination;
        let operation = || wanted.describe();
        if let Source::Filesystem { kind, .. } = &wanted.source
            && is_kernel_view(kind)
        {
            // An image that turns /proc into a link would make later writes to it go elsewhere (CVE-2019-18837).
            return match self.room.plain_directory(&clean(path), 0o755) {
                Err(Errno::ELOOP) => Err(Error::refusal(
                    format!("mounts[{}].destination", wanted.index),
                    format!("filesystem {kind:?} must be mounted on ordinary directory, and {path} is a symbolic link"),
                )),
                found => found.during(operation),
            };
        }
        if wanted.is_bind() && super::super::room::is_directory(detached.as_fd()).is_ok_and(|is| !is) {
            return self.room.file(path).during(operation);
        }
        if clean(path) == "/proc" {
            let kind = fstatfs(detached).during(operation)?.filesystem_type();
            if kind != PROC_SUPER_MAGIC {
                return Err(Error::refusal(format!("mounts[{}].source", wanted.index), "is no procfs"));
            }
        }
        self.directory(path).during(operation)
    }

    /// The parent directory and the last part of a path in `/dev`.
    fn parent<'a>(&mut self, path: &'a str) -> nix::Result<(&OwnedFd, &'a str)> {
        let (directory, name) = path.rsplit_once('/').ok_or(Errno::EINVAL)?;
        if name.is_empty() || name == ".." {
            return Err(Errno::EINVAL);
        }
        if self.parent.as_ref().is_none_or(|(known, _)| known != directory) {
            self.parent = Some((directory.to_owned(), self.room.directory(directory, 0o755)?));
        }
        Ok((&self.parent.as_ref().expect("set two lines above").1, name))
    }

    /// Makes one device node.
    pub fn device(&mut self, node: &Node) -> Result<()> {
        let operation = || format!("make the device {}", node.path);
        // A fifo can be made without any privilege, and one of the host has nothing to do with it.
        if node.bind && node.kind != libc::S_IFIFO {
            return self.bind_device(node).during(operation);
        }
        let number = makedev(node.major, node.minor);
        let kind = SFlag::from_bits_truncate(node.kind);
        let mode = Mode::from_bits_truncate(node.mode);
        let (parent, name) = self.parent(&node.path).during(operation)?;
        match mknodat(parent, name, kind, mode, number) {
            Ok(()) => {}
            Err(Errno::EEXIST) => {
                let found = nix::sys::stat::fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW).during(operation)?;
                if found.st_mode & libc::S_IFMT == node.kind && (found.st_rdev == number || node.kind == libc::S_IFIFO)
                {
                    return Ok(());
                }
                unlinkat(parent, name, UnlinkatFlags::NoRemoveDir).during(operation)?;
                mknodat(parent, name, kind, mode, number).during(operation)?;
            }
            // No CAP_MKNOD here, as in a container: the host's node will do.
            Err(Errno::EPERM) if node.kind != libc::S_IFIFO => return self.bind_device(node).during(operation),
            Err(errno) => return Err(errno).during(operation),
        }
        if (node.uid, node.gid) != (0, 0) {
            let (uid, gid) = (nix::unistd::Uid::from_raw(node.uid), nix::unistd::Gid::from_raw(node.gid));
            let (parent, name) = self.parent(&node.path).during(operation)?;
            fchownat(parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW).during(operation)?;
        }
        Ok(())
    }

    fn bind_device(&mut self, node: &Node) -> nix::Result<()> {
        let detached = mount::clone_tree(AT_FDCWD, node.path.as_bytes(), false)?;
        let found = stat(detached.as_fd())?;
        if found.st_mode & libc::S_IFMT != node.kind || found.st_rdev != makedev(node.major, node.minor) {
            return Err(Errno::ENODEV);
        }
        let target = self.room.file(&node.path)?;
        mount::attach(detached.as_fd(), target.as_fd())
    }

    /// Makes one symbolic link.
    pub fn link(&mut self, target: &str, path: &str, replace: bool) -> Result<()> {
        let operation = || format!("make the link {path}");
        let (parent, name) = self.parent(path).during(operation)?;
        match symlinkat(target, parent, name) {
            Err(Errno::EEXIST) if replace => {
                unlinkat(parent, name, UnlinkatFlags::NoRemoveDir).during(operation)?;
                symlinkat(target, parent, name).during(operation)
            }
            Err(Errno::EEXIST) => Ok(()),
            made => made.during(operation),
        }
    }

    /// Makes the working directory, unless it is there.
    pub fn working_directory(&self, path: &str) -> Result<()> {
        if path == "/" {
            return Ok(());
        }
        self.room.directory(path, 0o755).map(drop).during(|| format!("make the working directory {path}"))
    }

    /// What is at `path`, unless nothing is.
    fn there(&mut self, path: &str) -> nix::Result<Option<OwnedFd>> {
        match self.views.open(path).unwrap_or_else(|| self.room.open(path, libc::O_PATH)) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            found => found.map(Some),
        }
    }

    /// Makes one path read-only.
    pub fn readonly_path(&mut self, path: &str) -> Result<()> {
        let operation = || format!("make {path} read-only");
        let Some(target) = self.there(path).during(operation)? else { return Ok(()) };
        let detached = mount::clone_tree(target.as_fd(), b"", true).during(operation)?;
        mount::setattr(detached.as_fd(), RDONLY, false).during(operation)?;
        mount::attach(detached.as_fd(), target.as_fd()).during(operation)?;
        let covered = self.views.covered(path);
        self.spend(covered.into_iter().chain([detached, target]));
        Ok(())
    }

    /// Hides one path: a directory under an empty one, a file under `/dev/null`.
    pub fn masked_path(&mut self, path: &str) -> Result<()> {
        let operation = || format!("mask {path}");
        let Some(target) = self.there(path).during(operation)? else { return Ok(()) };
        let covered = self.views.covered(path);
        self.spend(covered);
        let cover = if is_directory(target.as_fd()).during(operation)? {
            match &self.empty {
                Some(first) => mount::clone_tree(first.as_fd(), b"", false).during(operation)?,
                None => {
                    let options = [
                        ("nr_blocks".to_owned(), Some("1".to_owned())),
                        ("nr_inodes".to_owned(), Some("1".to_owned())),
                    ];
                    let mut spent = Vec::new();
                    let first = filesystem("tmpfs", "tmpfs", &options, libc::MOUNT_ATTR_RDONLY, &mut spent)?;
                    self.spend(spent);
                    mount::attach(first.as_fd(), target.as_fd()).during(operation)?;
                    self.empty = Some(first);
                    self.spend([target]);
                    return Ok(());
                }
            }
        } else {
            mount::clone_tree(self.null().during(operation)?.as_fd(), b"", false).during(operation)?
        };
        mount::attach(cover.as_fd(), target.as_fd()).during(operation)?;
        self.spend([cover, target]);
        Ok(())
    }

    /// The host's `/dev/null`: the device itself, whatever a root file system holds under that name (CVE-2025-31133).
    fn null(&mut self) -> nix::Result<&OwnedFd> {
        if self.null.is_none() {
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let null = nix::fcntl::open("/dev/null", flags, Mode::empty())?;
            let found = stat(null.as_fd())?;
            if found.st_mode & libc::S_IFMT != libc::S_IFCHR || found.st_rdev != makedev(1, 3) {
                return Err(Errno::ENODEV);
            }
            self.null = Some(null);
        }
        Ok(self.null.as_ref().expect("set above"))
    }

    /// Makes the mount of the root read-only.
    pub fn readonly_root(&self) -> Result<()> {
        mount::setattr(self.room.root(), RDONLY, false).during(|| "make the root file system read-only")
    }

    /// Makes the root file system `/`, and the current directory.
    pub fn enter(&mut self, entry: Entry) -> Result<()> {
        self.views.check(&self.room)?;
        self.spent.extend(self.views.take());
        let directories = [self.parent.take(), self.fresh.take()].map(|known| known.map(|(_, fd)| fd));
        self.spent.extend([self.null.take(), self.empty.take()].into_iter().chain(directories).flatten());
        self.close_spent();
        match entry {
            Entry::Pivot => {
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                let old = self.shared.then(|| nix::fcntl::open("/", flags, Mode::empty()));
                let old = old.transpose().during(|| "open the host's root")?;
                fchdir(self.room.root()).during(|| "enter the root file system")?;
                mount::pivot_root_here().during(|| "pivot_root")?;
                if let Some(old) = old {
                    // Unmounting a shared tree would unmount the host's.
                    let slave = Attr { propagation: libc::MS_SLAVE, ..Attr::default() };
                    mount::setattr(old.as_fd(), slave, true).during(|| "part with the host's mounts")?;
                }
                nix::mount::umount2(".", nix::mount::MntFlags::MNT_DETACH).during(|| "unmount the host's root")?;
                nix::unistd::chdir("/").during(|| "enter /")
            }
            Entry::Move => {
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                let slash = nix::fcntl::open("/", flags, Mode::empty()).during(|| "open the host's root")?;
                self.part_with_kernel_views()?;
                mount::attach(self.room.root(), slash.as_fd()).during(|| "move the root file system over /")?;
                self.chroot()
            }
            Entry::Chroot => self.chroot(),
        }
    }

    /// Takes away every procfs and sysfs of the host. Moving the root only covers the host's tree: its whole views of the
    /// kernel would stay in the mount namespace, and with one of them there a nested user namespace of the container may
    /// mount another, without what is masked and read-only in the container's.
    fn part_with_kernel_views(&self) -> Result<()> {
        let mounts = super::super::procfs::read_file("/proc/self/mountinfo")?;
        let rootfs = std::fs::read_link(format!("/proc/self/fd/{}", self.room.root().as_raw_fd()));
        let rootfs = rootfs.during(|| "find the root file system among the mounts")?;
        for path in kernel_views(&mounts, &rootfs).iter().rev() {
            let operation = || format!("take away the host's {}", path.display());
            let bytes = path.as_os_str().as_encoded_bytes();
            let private = Attr { propagation: libc::MS_PRIVATE, ..Attr::default() };
            match mount::setattr_path(bytes, private, false) {
                // Hidden below another mount, or gone with the one above it.
                Err(Errno::EINVAL | Errno::ENOENT) => continue,
                answer => answer.during(operation)?,
            }
            let flags = nix::mount::MntFlags::MNT_DETACH | nix::mount::MntFlags::UMOUNT_NOFOLLOW;
            match nix::mount::umount2(path, flags) {
                // Locked: it came from the host into a user namespace of the container's. Covered at least.
                Err(Errno::EINVAL | Errno::EPERM) => {
                    let empty = filesystem("tmpfs", "tmpfs", &[], libc::MOUNT_ATTR_RDONLY, &mut Vec::new())?;
                    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                    let target = nix::fcntl::open(path, flags, Mode::empty()).during(operation)?;
                    mount::attach(empty.as_fd(), target.as_fd()).during(operation)?;
                }
                answer => answer.during(operation)?,
            }
        }
        Ok(())
    }

    fn chroot(&self) -> Result<()> {
        fchdir(self.room.root()).during(|| "enter the root file system")?;
        nix::unistd::chroot(".").during(|| "chroot")?;
        nix::unistd::chdir("/").during(|| "enter /")
    }
}

/// Whether a file system of this kind shows the kernel and its host.
fn is_kernel_view(kind: &str) -> bool {
    matches!(kind, "proc" | "sysfs")
}

/// Mount points of procfs and sysfs outside of `rootfs`, in the order of `mountinfo`.
fn kernel_views(mountinfo: &str, rootfs: &Path) -> Vec<PathBuf> {
    let view = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        matches!(after.split(' ').next()?, "proc" | "sysfs").then_some(())?;
        let point = PathBuf::from(OsString::from_vec(unescaped(before.split(' ').nth(4)?)));
        (!point.starts_with(rootfs)).then_some(point)
    };
    mountinfo.lines().filter_map(view).collect()
}

/// A path as it was before the kernel wrote blanks in it as `\040`.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let digits = more.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.filter(|_| *first == b'\\').and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => (bytes.push(byte), rest = &more[3..]),
            None => (bytes.push(*first), rest = more),
        };
    }
    bytes
}

/// File systems of the kernel's own that are the same whichever way they are mounted. procfs is not among them: its mount
/// has to be held by a descriptor.
const AT_ONCE: [&str; 3] = ["tmpfs", "devpts", "mqueue"];

/// Attributes of a mount with their flag of mount(2). A read-only one is not among them: mount(2) would make the file
/// system itself read-only, for everybody who shares it.
const FLAGS: [(u64, libc::c_ulong); 7] = [
    (libc::MOUNT_ATTR_NOSUID, libc::MS_NOSUID),
    (libc::MOUNT_ATTR_NODEV, libc::MS_NODEV),
    (libc::MOUNT_ATTR_NOEXEC, libc::MS_NOEXEC),
    (libc::MOUNT_ATTR_NOATIME, libc::MS_NOATIME),
    (libc::MOUNT_ATTR_STRICTATIME, libc::MS_STRICTATIME),
    (libc::MOUNT_ATTR_NODIRATIME, libc::MS_NODIRATIME),
    (libc::MOUNT_ATTR_NOSYMFOLLOW, 256),
];

/// The flags and the options of mount(2) for a mount that it can make just as well.
fn at_once(wanted: &Mount, kind: &str, options: &[(String, Option<String>)]) -> Option<(libc::c_ulong, String)> {
    let plain = !wanted.copy_up && wanted.recursive_attr.is_empty() && wanted.propagation.is_empty();
    let in_proc = clean(&wanted.destination) == "/proc";
    // A tmpfs without a mode of its own gets that of the directory it covers.
    let modeless = kind == "tmpfs" && !options.iter().any(|(key, _)| key == "mode");
    if !plain || in_proc || modeless || !AT_ONCE.contains(&kind) {
        return None;
    }
    let (mut left, mut flags) = (wanted.attr.set, 0);
    for (attr, flag) in FLAGS {
        if left & attr != 0 {
            (left, flags) = (left & !attr, flags | flag);
        }
    }
    let mut text = String::new();
    for (key, value) in options {
        let words = [Some(key), value.as_ref()];
        // A comma would part the text elsewhere; words like these are flags that mount(2) takes in another way.
        if words.into_iter().flatten().any(|word| word.contains([',', '"', '\\'])) || SUPERBLOCK.contains(&key.as_str())
        {
            return None;
        }
        let comma = if text.is_empty() { "" } else { "," };
        match value {
            Some(value) => text.push_str(&format!("{comma}{key}={value}")),
            None => text.push_str(&format!("{comma}{key}")),
        }
    }
    // mount(2) takes one page.
    (left == 0 && text.len() < 4000).then_some((flags, text))
}

/// Options that are of every file system.
const SUPERBLOCK: [&str; 9] = ["ro", "rw", "sync", "async", "dirsync", "lazytime", "nolazytime", "mand", "source"];

/// A detached mount of a new file system. What it was made with goes to `spent`.
pub fn filesystem(
    kind: &str,
    source: &str,
    options: &[(String, Option<String>)],
    attr: u64,
    spent: &mut Vec<OwnedFd>,
) -> Result<OwnedFd> {
    let context = mount::fsopen(kind).map_err(|errno| lacks::filesystem(errno, kind))?;
    let made = (|| {
        if !source.is_empty() {
            mount::fsconfig_set(context.as_fd(), "source", Some(source))
                .map_err(|errno| (errno, " (source)".into()))?;
        }
        for (key, value) in options {
            mount::fsconfig_set(context.as_fd(), key, value.as_deref())
                .map_err(|errno| (errno, format!(" (option {key})")))?;
        }
        mount::fsmount(context.as_fd(), attr).map_err(|errno| (errno, String::new()))
    })();
    let made = made.map_err(|(errno, place)| {
        let said = mount::fs_message(context.as_fd()).map(|text| format!(" ({text})")).unwrap_or_default();
        Error::Failed { operation: format!("{place}{said}"), errno: errno as i32 }
    });
    spent.push(context);
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_call_cannot_say_is_mounted_the_longer_way() {
        let option = |key: &str, value: Option<&str>| (key.to_owned(), value.map(str::to_owned));
        let source = Source::Filesystem { kind: "tmpfs".into(), source: "tmpfs".into(), options: Vec::new() };
        let with = |set| Mount { attr: Attr { set, ..Attr::default() }, ..Mount::plain(1, "/dev", source.clone()) };
        let dev = with(libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_STRICTATIME);
        let options = [option("mode", Some("755")), option("noswap", None)];
        let flags = libc::MS_NOSUID | libc::MS_STRICTATIME;
        assert_eq!(at_once(&dev, "tmpfs", &options), Some((flags, "mode=755,noswap".into())));
        assert_eq!(at_once(&dev, "sysfs", &[]), None);
        assert_eq!(
            at_once(&with(libc::MOUNT_ATTR_RDONLY), "tmpfs", &options),
            None,
            "the file system would be read-only"
        );
        assert_eq!(at_once(&dev, "tmpfs", &[]), None, "the mode is that of the directory below");
        let more = |key, value| [option("mode", Some("755")), option(key, value)];
        assert_eq!(at_once(&dev, "tmpfs", &more("context", Some("a:b:c:s0,s1"))), None);
        assert_eq!(at_once(&dev, "tmpfs", &more("sync", None)), None);
        assert_eq!(at_once(&Mount { copy_up: true, ..dev.clone() }, "tmpfs", &options), None);
        let proc = Mount { destination: "/./proc/".into(), ..dev };
        assert_eq!(at_once(&proc, "tmpfs", &options), None);
        assert_eq!(at_once(&proc, "devpts", &[]), None);
    }

    #[test]
    fn the_hosts_views_of_the_kernel_are_found_and_the_containers_are_not() {
        let info = "20 1 0:19 / /sys rw - sysfs sysfs rw\n21 1 0:20 / /proc rw,nosuid shared:5 - proc proc rw\n\
                    22 1 0:21 / /my\\040proc rw - proc proc rw\n23 1 0:22 / /b/rootfs/proc rw - proc proc rw\n\
                    24 1 0:23 / /dev rw - devtmpfs d rw\n";
        let found = kernel_views(info, Path::new("/b/rootfs"));
        assert_eq!(found, ["/sys", "/proc", "/my proc"].map(PathBuf::from));
    }
}
