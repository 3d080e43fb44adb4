//! `cp`: files between the host and a container, running or not.
//!
//! Both sides are trees with a root of their own. A container's paths are resolved by the kernel inside its root, mounts
//! included, one call each, so neither its links nor a process that swaps directories meanwhile leads to a file of the host.
//! No program of the container is run and nothing of it is loaded.

use super::{Container, Engine, Locked};
use crate::error::EngineError;
use crate::host::copy::{Merge, NONE_IMPLIED, Owners};
use crate::host::rootfs::Rootfs;
use crate::host::sys;
use crate::wish::MountKind;
use image::layer::extract::{Extractor, Options, Whiteouts};
use image::layer::{diff, tar};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, mkdirat};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Links that a path may lead through; the kernel's own bound.
const LINKS_MAX: usize = 40;

/// How `cp` copies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopyWish {
    /// Owners and attributes stay as they are (`-a`); else everything belongs to root, or to who calls.
    pub archive: bool,
    /// A link that is named as the source is followed (`-L`).
    pub follow: bool,
}

/// What is where something is to be copied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum There {
    Nothing,
    File,
    Directory,
}

/// Where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Under the name that was given.
    As,
    /// Into the directory that was given, under its own name.
    Into,
    /// What is in it goes into the directory that was given.
    Content,
}

/// docker's table of `cp`. Pure.
fn place(source_is_directory: bool, content: bool, there: There, as_directory: bool) -> Result<Place, &'static str> {
    match (source_is_directory, there) {
        (false, There::Nothing) if as_directory => Err("no such directory"),
        (false, There::File) if as_directory => Err("not a directory"),
        (true, There::File) => Err("cannot copy a directory over a file"),
        (_, There::Nothing) | (false, There::File) => Ok(Place::As),
        (true, There::Directory) if content => Ok(Place::Content),
        (_, There::Directory) => Ok(Place::Into),
    }
}

/// One end of a copy: a root, and the path in it as written.
struct End<'a> {
    root: &'a Rootfs,
    path: &'a Path,
}

/// What a path was resolved to: the directory that holds it, its name there, what it is.
struct Spot {
    parent: OwnedFd,
    name: OsString,
    stat: Option<FileStat>,
}

impl Spot {
    fn is(&self, kind: SFlag) -> bool {
        self.stat.is_some_and(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == kind)
    }

    fn there(&self) -> There {
        match &self.stat {
            None => There::Nothing,
            Some(_) if self.is(SFlag::S_IFDIR) => There::Directory,
            Some(_) => There::File,
        }
    }

    fn directory(&self) -> io::Result<OwnedFd> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        Ok(openat(&self.parent, self.name.as_os_str(), flags, Mode::empty())?)
    }
}

impl End<'_> {
    /// Whether the path means what is in a directory: `/dir/.`.
    fn is_content(&self) -> bool {
        self.path.as_os_str().as_bytes().ends_with(b"/.") || self.path == Path::new(".")
    }

    /// Whether the path can only be a directory's.
    fn is_directory(&self) -> bool {
        self.path.as_os_str().as_bytes().ends_with(b"/") || self.is_content()
    }

    /// Its last name; the root has none.
    fn name(&self) -> Option<&OsStr> {
        self.path.file_name()
    }

    /// Resolves the path inside the root; its last link too when `follow`.
    fn spot(&self, follow: bool) -> io::Result<Spot> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let mut path = Path::new("/").join(self.path);
        for _ in 0..LINKS_MAX {
            let Some(name) = path.file_name().map(OsStr::to_owned) else {
                // `/`, or a path that ends in `..`: a directory, under a name that is always there.
                let parent = self.root.file(&path, flags)?;
                let stat = fstatat(&parent, ".", AtFlags::AT_SYMLINK_NOFOLLOW)?;
                return Ok(Spot { parent, name: ".".into(), stat: Some(stat) });
            };
            let folder = path.parent().unwrap_or_else(|| Path::new("/")).to_owned();
            let parent = self.root.file(&folder, flags)?;
            let stat = match fstatat(&parent, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) => Some(stat),
                Err(Errno::ENOENT) => None,
                Err(error) => return Err(error.into()),
            };
            let spot = Spot { parent, name, stat };
            if !((follow || self.is_directory()) && spot.is(SFlag::S_IFLNK)) {
                return Ok(spot);
            }
            // An absolute target begins at the root again, as `join` does.
            path = folder.join(readlinkat(&spot.parent, spot.name.as_os_str())?);
        }
        Err(Errno::ELOOP.into())
    }
}

/// Copies from one end to the other; returns the bytes of all files.
fn copy(from: &End<'_>, to: &End<'_>, follow: bool, merge: Merge<'_>) -> io::Result<u64> {
    let refuse = |end: &End<'_>, reason: &str| io::Error::other(format!("{}: {reason}", end.path.display()));
    let of = |end: &End<'_>, error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", end.path.display()));
    let source = from.spot(follow).map_err(|error| of(from, error))?;
    if source.stat.is_none() {
        return Err(of(from, Errno::ENOENT.into()));
    }
    let is_directory = source.is(SFlag::S_IFDIR);
    if from.is_directory() && !is_directory {
        return Err(of(from, Errno::ENOTDIR.into()));
    }
    let target = to.spot(true).map_err(|error| of(to, error))?;
    let content = from.is_content() || from.name().is_none();
    let placed =
        place(is_directory, content, target.there(), to.is_directory()).map_err(|reason| refuse(to, reason))?;
    let copied = match placed {
        Place::Content => merge.content(source.directory()?.as_fd(), target.directory()?.as_fd()),
        Place::Into => {
            let name = from.name().unwrap_or(&source.name);
            merge.entry(source.parent.as_fd(), &source.name, target.directory()?.as_fd(), name)
        }
        Place::As if is_directory => {
            mkdirat(&target.parent, target.name.as_os_str(), Mode::S_IRWXU).map_err(|error| of(to, error.into()))?;
            merge.whole(source.directory()?.as_fd(), target.directory()?.as_fd())
        }
        Place::As => merge.entry(source.parent.as_fd(), &source.name, target.parent.as_fd(), &target.name),
    };
    copied.map_err(|error| of(to, error))
}

impl Engine {
    /// Copies out of a container to a path of the host; returns the bytes of all files.
    pub fn copy_out(&self, name: &str, path: &Path, to: &Path, wish: CopyWish) -> Result<u64, EngineError> {
        let step = || EngineError::io(format!("copy from container {name}"));
        let (user, group) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let own = move |_: u32, _: u32| (user, group);
        let to = absolute(to).map_err(EngineError::io("find the working directory"))?;
        if fs::metadata(&to).is_ok_and(|there| !there.is_file() && !there.is_dir()) {
            // It would be replaced: `/dev/null` by a file.
            return Err(EngineError::Invalid(format!(
                "{} is a device, a pipe or a socket: a copy goes into files and directories, `-` is the standard output",
                to.display()
            )));
        }
        self.in_root(name, false, |root, first| {
            let host = Rootfs::open(Path::new("/"))?;
            // As the container's own users see them, whatever their numbers are on this host.
            let inside = move |user: u32, group: u32| (within(user, first), within(group, first));
            let owners: Owners<'_> = if wish.archive { &inside } else { &own };
            let merge = Merge { owners, attributes: wish.archive, implied: &NONE_IMPLIED };
            copy(&End { root, path }, &End { root: &host, path: &to }, wish.follow, merge)
        })?
        .map_err(step())
    }

    /// Copies a path of the host into a container; returns the bytes of all files.
    pub fn copy_in(&self, name: &str, from: &Path, path: &Path, wish: CopyWish) -> Result<u64, EngineError> {
        let step = || EngineError::io(format!("copy to container {name}"));
        let from = absolute(from).map_err(EngineError::io("find the working directory"))?;
        self.in_root(name, true, |root, first| {
            let host = Rootfs::open(Path::new("/"))?;
            let archive = move |user: u32, group: u32| (first.saturating_add(user), first.saturating_add(group));
            let own = move |_: u32, _: u32| (first, first);
            let owners: Owners<'_> = if wish.archive { &archive } else { &own };
            let merge = Merge { owners, attributes: wish.archive, implied: &NONE_IMPLIED };
            copy(&End { root: &host, path: &from }, &End { root, path }, wish.follow, merge)
        })?
        .map_err(step())
    }

    /// Writes a path of a container as a tar.
    pub fn copy_out_tar(
        &self,
        name: &str,
        path: &Path,
        wish: CopyWish,
        out: impl Write + Send,
    ) -> Result<(), EngineError> {
        let step = || EngineError::io(format!("copy from container {name}"));
        self.in_root(name, false, |root, first| {
            let from = End { root, path };
            let of = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
            let spot = from.spot(wish.follow).map_err(of)?;
            if spot.stat.is_none() {
                return Err(of(Errno::ENOENT.into()));
            }
            let label =
                if from.is_content() { OsStr::new(".") } else { from.name().unwrap_or_else(|| OsStr::new(".")) };
            diff::write_entry(&spot.parent, &spot.name, label.as_bytes(), first, out).map(|_| ())
        })?
        .map_err(step())
    }

    /// Unpacks a tar into a directory of a container. Owners are the archive's.
    pub fn copy_in_tar(&self, name: &str, input: impl Read + Send, path: &Path) -> Result<u64, EngineError> {
        let container = self.find(name)?;
        let step = || EngineError::io(format!("copy to container {name}"));
        // First where nobody else is, then into the container like any other tree.
        sweep_drafts(&container.data);
        let draft = container.data.join(format!("{DRAFT}{}", std::process::id()));
        fs::create_dir(&draft).map_err(EngineError::io(format!("make {}", draft.display())))?;
        // While it is locked somebody works at it. What comes between the two is swept at worst, and said to be gone.
        let held = File::open(&draft).and_then(|folder| folder.lock().map(|()| folder));
        let _held = held.map_err(EngineError::io(format!("lock {}", draft.display())))?;
        let copied = unpack(&draft, input).and_then(|(folder, implied)| {
            self.in_root(container.id(), true, |root, first| {
                let to = End { root, path };
                let of = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
                let spot = to.spot(true).map_err(of)?;
                if spot.there() != There::Directory {
                    return Err(of(Errno::ENOTDIR.into()));
                }
                let owners = move |user: u32, group: u32| (first.saturating_add(user), first.saturating_add(group));
                let merge = Merge { owners: &owners, attributes: true, implied: &implied };
                merge.content(folder.as_fd(), spot.directory()?.as_fd()).map_err(of)
            })?
            .map_err(step())
        });
        // What cannot be removed now goes with the container.
        image::store::remove_tree(&draft).ok();
        copied
    }

    /// Runs `work` on a container's root as its processes see it, or will see it: volumes are where they belong. `work` also
    /// gets the host's number of the container's user 0. Where the root maps owners, what `writes` makes files as that user: the
    /// kernel makes none for one that the mount does not know.
    fn in_root<T: Send>(
        &self,
        name: &str,
        writes: bool,
        work: impl FnOnce(&Rootfs, u32) -> T + Send,
    ) -> Result<T, EngineError> {
        let container = self.find(name)?;
        let first = self.first_id(&container);
        let owner = Some(self.mapped_from(&container)).filter(|mapped| writes && *mapped > 0);
        let step = || EngineError::io(format!("make files as the owner of container {name}"));
        let work = |root: &Rootfs| match owner {
            None => Ok(work(root, first)),
            Some(owner) => std::thread::scope(|scope| {
                let as_owner = scope.spawn(|| sys::make_files_as(owner).map(|()| work(root, first)));
                as_owner.join().unwrap_or_else(|_| Err(io::Error::other("a thread died")))
            }),
        };
        if container.state.status.is_active() && container.state.process.alive() {
            let root = Rootfs::open(Path::new(&format!("/proc/{}/root", container.state.process.pid)))
                .map_err(EngineError::io(format!("open the root of container {name}")))?;
            // Only now is it certain whose root that is: a number may be given away again.
            if container.state.process.alive() {
                return work(&root).map_err(step());
            }
        }
        let locked = self.lock(container.id())?;
        if locked.is_active() {
            return Err(locked.container.state_error("is just being started or stopped: try again"));
        }
        // Who only reads holds the root itself once it is there, and nobody up: a reader of the tar may take its time.
        let done = self.in_stopped(locked, writes, work);
        self.release_unused(container.id())?;
        done?.map_err(step())
    }

    /// A container without processes: its mounts are made in a mount namespace of a thread's own, and go with it.
    fn in_stopped<T: Send>(
        &self,
        locked: Locked,
        writes: bool,
        work: impl FnOnce(&Rootfs) -> T + Send,
    ) -> Result<T, EngineError> {
        let container = &locked.container;
        fs::create_dir_all(&container.run).map_err(EngineError::io(format!("make {}", container.run.display())))?;
        let path = self.rootfs(container)?;
        let binds = self.binds(container)?;
        let step = || EngineError::io(format!("open the root of container {}", container.name()));
        let read_only = container.record.wish.read_only;
        let failed = step();
        let look = move || {
            let root = view(&path, read_only, &binds)?;
            let _until_written = writes.then_some(locked);
            Ok(work(&root))
        };
        let done = std::thread::scope(|scope| scope.spawn(look).join());
        done.unwrap_or_else(|_| Err(io::Error::other("a thread died"))).map_err(failed)
    }

    /// The folders and files that are mounted over the root.
    fn binds(&self, container: &Container) -> Result<Vec<Over>, EngineError> {
        let volumes = self.volumes();
        let mut binds = Vec::new();
        for wish in &container.record.wish.mounts {
            let source = match wish.kind {
                MountKind::Tmpfs => continue,
                MountKind::Bind => PathBuf::from(&wish.source),
                MountKind::Volume => match volumes.find(&wish.source) {
                    Ok(volume) => volumes.prepare(&volume)?,
                    // Made anew with the next start.
                    Err(crate::volume::Error::NotFound { .. }) => continue,
                    Err(error) => return Err(error.into()),
                },
            };
            let (part, place) = (PathBuf::from(&wish.subpath), PathBuf::from(&wish.target));
            binds.push(Over { source, part, place, read_only: wish.read_only });
        }
        Ok(binds)
    }
}

/// An id of the host as the container knows it, whose user 0 is `first`; one that it does not know stays.
fn within(id: u32, first: u32) -> u32 {
    id.checked_sub(first).unwrap_or(id)
}

/// What is mounted over a stopped container's root for a copy.
struct Over {
    source: PathBuf,
    /// The part of the source, looked up inside it; empty for the whole.
    part: PathBuf,
    place: PathBuf,
    read_only: bool,
}

/// Makes the mounts of a stopped container in a namespace of this thread and opens its root there.
fn view(rootfs: &Path, read_only: bool, binds: &[Over]) -> io::Result<Rootfs> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    if read_only {
        mount(Some(rootfs), rootfs, none, MsFlags::MS_BIND, none)?;
        mount(none, rootfs, none, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY, none)?;
    }
    let root = Rootfs::open(rootfs)?;
    for Over { source, part, place, read_only } in binds {
        let open = || root.file(place, OFlag::O_PATH);
        // Its place is made by the first start.
        let Ok(place) = open() else { continue };
        let path = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
        let held = match part.as_os_str().is_empty() {
            true => None,
            false => Some(Rootfs::open(source)?.file(part, OFlag::O_PATH | OFlag::O_DIRECTORY)?),
        };
        let source = held.as_ref().map_or_else(|| source.clone(), |held| PathBuf::from(path(held)));
        mount(Some(source.as_path()), path(&place).as_str(), none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
        if *read_only {
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
            mount(none, path(&open()?).as_str(), none, flags, none)?;
        }
    }
    Ok(root)
}

/// Where a tar is unpacked first, in the container's data folder.
const DRAFT: &str = "cp-";

/// Removes what killed copies have unpacked.
fn sweep_drafts(data: &Path) {
    for entry in fs::read_dir(data).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(DRAFT.as_bytes())
            && let Ok(left) = File::open(entry.path())
            && left.try_lock().is_ok()
        {
            // Another copy may be at the same.
            image::store::remove_tree(&entry.path()).ok();
        }
    }
}

/// Unpacks, and tells which directories the archive says nothing of.
fn unpack(draft: &Path, input: impl Read) -> Result<(File, BTreeSet<u64>), EngineError> {
    let step = || EngineError::io("unpack the tar on stdin");
    let folder = File::open(draft).map_err(step())?;
    let into: OwnedFd = folder.try_clone().map_err(step())?.into();
    let options = Options { whiteouts: Whiteouts::Keep, owners: nix::unistd::geteuid().is_root() };
    let mut reader = tar::Reader::new(input);
    let mut extractor = Extractor::new(into, options);
    extractor.layer(&mut reader).map_err(|error| step()(io::Error::other(chain(&error))))?;
    Ok((folder, extractor.implied_inodes()))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

/// An absolute path that keeps what its end says: `dir/` and `dir/.` mean more than `dir`.
fn absolute(path: &Path) -> io::Result<PathBuf> {
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    Ok(std::env::current_dir()?.join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_decides_by_what_is_there() {
        use There::{Directory, File, Nothing};
        for (directory, content, there, as_directory, wanted) in [
            (false, false, Nothing, false, Some(Place::As)),
            (false, false, Nothing, true, None),
            (false, false, File, false, Some(Place::As)),
            (false, false, File, true, None),
            (false, false, Directory, false, Some(Place::Into)),
            (true, false, Nothing, false, Some(Place::As)),
            (true, false, Nothing, true, Some(Place::As)),
            (true, false, File, false, None),
            (true, false, Directory, false, Some(Place::Into)),
            (true, true, Directory, false, Some(Place::Content)),
            (true, true, Nothing, false, Some(Place::As)),
        ] {
            let got = place(directory, content, there, as_directory).ok();
            assert_eq!(got, wanted, "{directory} {content} {there:?} {as_directory}");
        }
    }

    /// A container's root beside a host's tree, and links in it that would lead out.
    fn room(name: &str) -> PathBuf {
        let room = std::env::temp_dir().join(format!("shoal-cp-{}-{name}", std::process::id()));
        fs::create_dir_all(room.join("root/tmp")).unwrap();
        fs::create_dir_all(room.join("host")).unwrap();
        fs::write(room.join("host/secret"), "secret").unwrap();
        std::os::unix::fs::symlink(room.join("host"), room.join("root/out")).unwrap();
        std::os::unix::fs::symlink("../../../../../../../../etc", room.join("root/up")).unwrap();
        room
    }

    fn to(room: &Path, path: &str, source: &Path) -> io::Result<u64> {
        let (root, host) = (Rootfs::open(&room.join("root")).unwrap(), Rootfs::open(Path::new("/")).unwrap());
        let merge = Merge { owners: &|user, group| (user, group), attributes: false, implied: &NONE_IMPLIED };
        copy(&End { root: &host, path: source }, &End { root: &root, path: Path::new(path) }, false, merge)
    }

    #[test]
    fn links_of_a_container_lead_nowhere_but_inside() {
        let room = room("links");
        let source = room.join("given");
        fs::write(&source, "given").unwrap();
        // Absolute and climbing links name places inside the root, which are not there.
        assert!(to(&room, "/out/file", &source).is_err());
        assert!(to(&room, "/up/file", &source).is_err());
        assert!(!room.join("host/file").exists());
        fs::create_dir(room.join("root/etc")).unwrap();
        to(&room, "/up/file", &source).unwrap();
        assert_eq!(fs::read_to_string(room.join("root/etc/file")).unwrap(), "given");
        // A link in place of a file is followed inside, and its target replaced.
        std::os::unix::fs::symlink("/etc/file", room.join("root/tmp/link")).unwrap();
        fs::write(&source, "again").unwrap();
        to(&room, "/tmp/link", &source).unwrap();
        assert_eq!(fs::read_to_string(room.join("root/etc/file")).unwrap(), "again");
        assert!(room.join("root/tmp/link").is_symlink());
        fs::remove_dir_all(room).unwrap();
    }

    #[test]
    fn trees_are_merged_and_kinds_are_never_changed() {
        let room = room("merge");
        let source = room.join("tree");
        fs::create_dir_all(source.join("sub")).unwrap();
        fs::write(source.join("sub/file"), "new").unwrap();
        fs::hard_link(source.join("sub/file"), source.join("twin")).unwrap();
        std::os::unix::fs::symlink("sub", source.join("link")).unwrap();
        to(&room, "/tmp/tree", &source).unwrap();
        let copied = room.join("root/tmp/tree");
        assert_eq!(fs::read_to_string(copied.join("twin")).unwrap(), "new");
        assert!(copied.join("link").is_symlink());
        // Into itself again, and its content beside it.
        to(&room, "/tmp", &source).unwrap();
        to(&room, "/tmp", &source.join(".")).unwrap();
        assert!(!copied.join("tree").exists() && room.join("root/tmp/twin").exists());
        // A file where a directory is, a link to a directory where a directory should be.
        fs::remove_file(room.join("root/tmp/twin")).unwrap();
        fs::create_dir(room.join("root/tmp/twin")).unwrap();
        assert!(to(&room, "/tmp", &source.join(".")).is_err());
        fs::remove_dir(room.join("root/tmp/twin")).unwrap();
        fs::remove_dir_all(room.join("root/tmp/sub")).unwrap();
        std::os::unix::fs::symlink(room.join("host"), room.join("root/tmp/sub")).unwrap();
        assert!(to(&room, "/tmp", &source.join(".")).is_err());
        assert!(!room.join("host/file").exists());
        fs::remove_dir_all(room).unwrap();
    }
}
