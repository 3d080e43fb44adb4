//! Volumes: folders that outlive containers. In: names, driver options, an image's content. Out: a path to bind into a
//! container. A volume is a folder `data/volumes/NAME` with `volume.json` and, unless its options name another place, `_data`;
//! its name is unique because a folder is.

pub mod options;

use crate::host::copy;
use crate::host::rootfs::Rootfs;
use crate::roots::Roots;
use crate::time::Nanos;
use image::store::{clear_tree, remove_tree};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, Flock, FlockArg, OFlag, RenameFlags, renameat2};
use nix::mount::{MntFlags, mount, umount2};
use options::Source;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The version of `volume.json`.
const VERSION: u32 = 1;
/// docker's mark of a volume that got no name; `prune` removes only these unless told otherwise.
pub const ANONYMOUS: &str = "com.docker.volume.anonymous";
/// A bound for records that are read.
const RECORD_BYTES_MAX: u64 = 1 << 20;
/// How often a volume that disappears between its making and its first use is made again.
const OBTAIN_MAX: usize = 8;

/// A volume as recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    /// Format version.
    pub version: u32,
    /// The name.
    pub name: String,
    /// Always `local`.
    pub driver: String,
    /// When it was made, nanoseconds since 1970.
    pub created: Nanos,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Driver options as given: `type`, `device`, `o`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// The container for whose sake it was made; empty for one that was asked for by itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub maker: String,
    /// What a newer shoal wrote.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

impl Volume {
    /// Returns whether it got no name.
    pub fn is_anonymous(&self) -> bool {
        self.labels.contains_key(ANONYMOUS)
    }
}

/// Why an operation on volumes failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No volume has this name.
    #[error("no such volume: {name}")]
    NotFound {
        /// What was asked for.
        name: String,
    },
    /// Containers use it.
    #[error("volume {name} is in use by {containers}; remove those containers first")]
    InUse {
        /// The volume.
        name: String,
        /// The containers.
        containers: String,
    },
    /// The request makes no sense.
    #[error("{reason}")]
    Invalid {
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A volume of this name has other options.
    #[error("volume {name} exists with other driver options; remove it first or choose another name")]
    Differs {
        /// The volume.
        name: String,
    },
    /// The kernel or the file system refused.
    #[error("failed to {step}: {source}")]
    Io {
        /// What was tried, on what.
        step: String,
        /// The cause.
        source: io::Error,
    },
    /// A record is no record.
    #[error("{path}: {reason}", path = path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

trait Step<T> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Io { step: step(), source })
    }
}

/// The volumes of one pair of roots.
#[derive(Debug, Clone)]
pub struct Volumes {
    data: PathBuf,
    containers: PathBuf,
}

impl Volumes {
    /// Names the volumes below these roots; nothing is read or made yet.
    pub fn new(roots: &Roots) -> Self {
        Self { data: roots.data.join("volumes"), containers: roots.data.join("containers") }
    }

    /// Makes a volume, or returns the one of that name. An empty name makes an anonymous one.
    pub fn create(
        &self,
        name: &str,
        options: &BTreeMap<String, String>,
        labels: &BTreeMap<String, String>,
    ) -> Result<Volume, Error> {
        self.create_for(name, options, labels, "")
    }

    fn create_for(
        &self,
        name: &str,
        options: &BTreeMap<String, String>,
        labels: &BTreeMap<String, String>,
        maker: &str,
    ) -> Result<Volume, Error> {
        options::parse(options)?;
        let mut labels = labels.clone();
        let name = if name.is_empty() {
            labels.insert(ANONYMOUS.to_owned(), String::new());
            random_name().step(|| "read random bytes for the volume's name".to_owned())?
        } else {
            check_name(name)?;
            name.to_owned()
        };
        if let Some(volume) = self.read(&name)? {
            return if options.is_empty() || volume.options == *options {
                Ok(volume)
            } else {
                Err(Error::Differs { name })
            };
        }
        let volume = Volume {
            version: VERSION,
            name: name.clone(),
            driver: "local".to_owned(),
            created: crate::time::now(),
            labels,
            options: options.clone(),
            maker: maker.to_owned(),
            unknown: BTreeMap::new(),
        };
        match self.write_new(&volume) {
            Ok(()) => Ok(volume),
            // Somebody made it in between: theirs.
            Err(Error::Io { source, .. }) if matches!(source.raw_os_error(), Some(libc::ENOTEMPTY | libc::EEXIST)) => {
                self.find(&name)
            }
            Err(error) => Err(error),
        }
    }

    fn write_new(&self, volume: &Volume) -> Result<(), Error> {
        let tail = random_name().step(|| "read random bytes".to_owned())?;
        let draft = self.data.join(format!(".new-{tail}"));
        let write = || -> io::Result<()> {
            fs::create_dir_all(&draft)?;
            // Held until it has its name: a draft whose lock is free is a killed command's.
            let lock = File::create(draft.join("lock"))?;
            let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| io::Error::from(errno))?;
            if !volume.maker.is_empty() {
                // With the first breath: should the maker be killed now, its note tells whose it was.
                fs::create_dir(draft.join("users"))?;
                File::create(draft.join("users").join(&volume.maker))?;
            }
            fs::create_dir(draft.join("_data"))?;
            // Whatever the umask of who makes it: users inside enter it.
            fs::set_permissions(draft.join("_data"), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
            fs::write(draft.join("volume.json"), serde_json::to_vec_pretty(volume)?)?;
            File::open(draft.join("volume.json"))?.sync_all()?;
            fs::rename(&draft, self.data.join(&volume.name))
        };
        let written = write();
        if written.is_err() {
            // Half a draft is nobody's volume; what cannot be removed now only takes space.
            let _ = remove_tree(&draft);
        }
        written.step(|| format!("write the record of volume {}", volume.name))
    }

    /// Finds a volume by name.
    pub fn find(&self, name: &str) -> Result<Volume, Error> {
        let found = if is_name(name) { self.read(name)? } else { None };
        found.ok_or_else(|| Error::NotFound { name: name.to_owned() })
    }

    /// Lists the volumes, by name.
    pub fn list(&self) -> Result<Vec<Volume>, Error> {
        let entries = match fs::read_dir(&self.data) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(Error::Io { step: format!("list {}", self.data.display()), source }),
        };
        let mut volumes = Vec::new();
        for entry in entries {
            let name = entry.step(|| format!("list {}", self.data.display()))?.file_name();
            if let Some(name) = name.to_str().filter(|name| is_name(name)) {
                volumes.extend(self.read(name)?);
            }
        }
        volumes.sort_by(|a: &Volume, b| a.name.cmp(&b.name));
        Ok(volumes)
    }

    /// Returns where a volume's content is on the host.
    pub fn path(&self, volume: &Volume) -> PathBuf {
        match options::parse(&volume.options) {
            Ok(Source::Bind { device }) => device,
            _ => self.data.join(&volume.name).join("_data"),
        }
    }

    /// Makes a volume or takes the one of that name, and notes in the same breath that a container uses it.
    pub fn obtain(&self, name: &str, options: &BTreeMap<String, String>, container: &str) -> Result<Volume, Error> {
        for _ in 0..OBTAIN_MAX {
            let volume = self.create_for(name, options, &BTreeMap::new(), container)?;
            match self.acquire(&volume, container) {
                // Removed between the two steps.
                Err(Error::NotFound { .. }) => {}
                other => return other.map(|()| volume),
            }
        }
        Err(Error::Invalid { reason: format!("volume {name} is removed again and again by somebody else") })
    }

    /// Notes that a container uses a volume. Call it when the container is made: `rm` and `prune` ask.
    pub fn acquire(&self, volume: &Volume, container: &str) -> Result<(), Error> {
        let _lock = self.lock(&volume.name)?;
        let folder = self.data.join(&volume.name).join("users");
        fs::create_dir_all(&folder)
            .and_then(|()| File::create(folder.join(container)).map(|_| ()))
            .step(|| format!("note that container {container} uses volume {}", volume.name))
    }

    /// Takes the note away; a volume that nobody mounts any more is unmounted.
    pub fn release(&self, name: &str, container: &str) -> Result<(), Error> {
        let Some(volume) = self.read(name)? else { return Ok(()) };
        let _lock = match self.lock(name) {
            Err(Error::NotFound { .. }) => return Ok(()),
            other => other?,
        };
        let note = self.data.join(name).join("users").join(container);
        match fs::remove_file(&note) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::Io { step: format!("remove {}", note.display()), source: error });
            }
            _ => {}
        }
        if self.users(name)?.is_empty() { self.unmount(&volume) } else { Ok(()) }
    }

    /// Takes back what a killed `create` of this container has left: its notes, and the volumes without a name that it had
    /// made. Nobody else may be making that container.
    pub fn forget(&self, container: &str) -> Result<(), Error> {
        let Ok(entries) = fs::read_dir(&self.data) else { return Ok(()) };
        for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
            if !is_name(&name) || !self.data.join(&name).join("users").join(container).exists() {
                continue;
            }
            let Some(volume) = self.read(&name)? else { continue };
            if volume.is_anonymous() && volume.maker == container {
                match self.remove_but(&name, container) {
                    Ok(_) | Err(Error::NotFound { .. }) => continue,
                    Err(Error::InUse { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            self.release(&name, container)?;
        }
        Ok(())
    }

    /// Removes the folders of volumes that killed commands were making or removing.
    pub fn sweep(&self) -> Result<(), Error> {
        let Ok(entries) = fs::read_dir(&self.data) else { return Ok(()) };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let (draft, old) =
                (name.as_encoded_bytes().starts_with(b".new-"), name.as_encoded_bytes().starts_with(b".old-"));
            if !draft && !old {
                continue;
            }
            let path = entry.path();
            let step = || format!("remove {}", path.display());
            match File::open(path.join("lock")) {
                Ok(lock) => {
                    if let Ok(_lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
                        remove_tree(&path).step(step)?;
                    }
                }
                // Its lock was removed before the rest.
                Err(_) if old => remove_tree(&path).step(step)?,
                // Not yet made; an empty folder is nobody's loss.
                Err(_) => drop(fs::remove_dir(&path)),
            }
        }
        Ok(())
    }

    /// Returns the ids of the containers that use a volume; notes of containers that are gone do not count.
    pub fn users(&self, name: &str) -> Result<Vec<String>, Error> {
        let folder = self.data.join(name).join("users");
        let Ok(entries) = fs::read_dir(&folder) else { return Ok(Vec::new()) };
        let mut users: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|id| crate::name::lives(&self.containers.join(id)))
            .collect();
        users.sort();
        Ok(users)
    }

    /// Makes a volume ready for a start: mounted where its options say so. Returns its path on the host.
    pub fn prepare(&self, volume: &Volume) -> Result<PathBuf, Error> {
        let path = self.path(volume);
        match options::parse(&volume.options)? {
            Source::Folder => {}
            Source::Bind { device } => {
                if !device.is_dir() {
                    return Err(Error::Invalid {
                        reason: format!(
                            "volume {}: device {} is no directory of this host",
                            volume.name,
                            device.display()
                        ),
                    });
                }
            }
            Source::Mount { kind, device, flags, data } => {
                let _lock = self.lock(&volume.name)?;
                // The kernel's NFS client takes an address, not a name.
                let data = if kind.starts_with("nfs") { options::resolve_address(&data) } else { data };
                if !is_mounted(&path).step(|| format!("look at {}", path.display()))? {
                    mount(Some(device.as_str()), &path, Some(kind.as_str()), flags, Some(data.as_str()))
                        .map_err(io::Error::from)
                        .step(|| format!("mount volume {}: {kind} {device} with {data:?}", volume.name))?;
                }
            }
        }
        Ok(path)
    }

    /// Fills an empty volume from a container's root: content, owner, mode and attributes of `target` inside. Does nothing when
    /// the volume has content or the image has no such directory. Returns whether it copied.
    ///
    /// What is there is never removed. The content of a volume of our own is first copied beside it and then moved in, so that
    /// a copy that was killed half way is begun anew.
    pub fn populate(&self, volume: &Volume, rootfs: &Path, target: &Path, first: u32) -> Result<bool, Error> {
        let to = self.path(volume);
        let step = || format!("fill volume {} from {} of the image", volume.name, target.display());
        let _lock = self.lock(&volume.name)?;
        let own = matches!(options::parse(&volume.options), Ok(Source::Folder));
        let (draft, whole) =
            (self.data.join(&volume.name).join("filling"), self.data.join(&volume.name).join("filled"));
        if whole.exists() {
            return move_in(&whole, &to).step(step).map(|()| true);
        }
        remove_tree(&draft).step(step)?;
        if fs::read_dir(&to).step(step)?.next().is_some() {
            return Ok(false);
        }
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY;
        let from = match Rootfs::open(rootfs).and_then(|root| root.file(target, flags)) {
            Ok(from) => from,
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => return Ok(false),
            Err(source) => return Err(Error::Io { step: step(), source }),
        };
        let owners = move |user: u32, group: u32| (user.saturating_sub(first), group.saturating_sub(first));
        let fill = |place: &Path| copy::tree(from.as_fd(), File::open(place)?.as_fd(), &owners);
        if own {
            fs::create_dir(&draft).and_then(|()| fill(&draft)).step(step)?;
            fs::rename(&draft, &whole).and_then(|()| move_in(&whole, &to)).step(step)?;
        } else {
            // Somebody else's place: what a failure leaves half done is his to look at.
            fill(&to).step(step)?;
        }
        Ok(true)
    }

    /// Removes a volume that no container uses.
    pub fn remove(&self, name: &str) -> Result<Volume, Error> {
        self.remove_but(name, "")
    }

    /// Removes a volume that no container but this one uses.
    fn remove_but(&self, name: &str, user: &str) -> Result<Volume, Error> {
        let volume = self.find(name)?;
        let lock = self.lock(name)?;
        let mut users = self.users(name)?;
        users.retain(|id| id != user);
        if !users.is_empty() {
            let short: Vec<&str> = users.iter().map(|id| id.get(..12).unwrap_or(id)).collect();
            return Err(Error::InUse { name: name.to_owned(), containers: short.join(", ") });
        }
        self.unmount(&volume)?;
        let gone = self.data.join(format!(".old-{}", random_name().step(|| "read random bytes".to_owned())?));
        fs::rename(self.data.join(name), &gone)
            .and_then(|()| remove_tree(&gone))
            .step(|| format!("remove volume {name}"))?;
        drop(lock);
        Ok(volume)
    }

    /// Removes the volumes that no container uses and that `wanted` names; returns their names and the bytes they held.
    pub fn prune(&self, wanted: impl Fn(&Volume) -> bool) -> Result<(Vec<String>, u64), Error> {
        let (mut names, mut bytes) = (Vec::new(), 0);
        for volume in self.list()?.into_iter().filter(wanted) {
            if !self.users(&volume.name)?.is_empty() {
                continue;
            }
            let size = self.size(&volume);
            match self.remove(&volume.name) {
                Ok(_) => {
                    names.push(volume.name);
                    bytes += size;
                }
                // Taken into use or removed in between.
                Err(Error::InUse { .. } | Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((names, bytes))
    }

    /// Returns the bytes that a volume's own folder holds; 0 for volumes that live elsewhere.
    pub fn size(&self, volume: &Volume) -> u64 {
        if volume.options.is_empty() { bytes_below(&self.path(volume), 0) } else { 0 }
    }

    fn unmount(&self, volume: &Volume) -> Result<(), Error> {
        if !matches!(options::parse(&volume.options), Ok(Source::Mount { .. })) {
            return Ok(());
        }
        let path = self.path(volume);
        if is_mounted(&path).step(|| format!("look at {}", path.display()))? {
            umount2(&path, MntFlags::MNT_DETACH)
                .map_err(io::Error::from)
                .step(|| format!("unmount {}", path.display()))?;
        }
        Ok(())
    }

    /// Locks a volume that is still there: one that was removed while this waited is not found.
    fn lock(&self, name: &str) -> Result<Flock<File>, Error> {
        let path = self.data.join(name).join("lock");
        loop {
            let file = match File::create(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(Error::NotFound { name: name.to_owned() });
                }
                other => other.step(|| format!("make {}", path.display()))?,
            };
            let lock = Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, errno)| Error::Io { step: format!("lock {}", path.display()), source: errno.into() })?;
            let inode = |meta: fs::Metadata| (meta.dev(), meta.ino());
            if fs::metadata(&path).map(inode).ok() == lock.metadata().map(inode).ok() {
                return Ok(lock);
            }
        }
    }

    fn read(&self, name: &str) -> Result<Option<Volume>, Error> {
        let path = self.data.join(name).join("volume.json");
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Io { step: format!("open {}", path.display()), source }),
        };
        let mut text = String::new();
        file.take(RECORD_BYTES_MAX).read_to_string(&mut text).step(|| format!("read {}", path.display()))?;
        let volume: Volume = serde_json::from_str(&text)
            .map_err(|error| Error::Record { path: path.clone(), reason: error.to_string() })?;
        if volume.version != VERSION {
            return Err(Error::Record {
                path,
                reason: format!("version {} is not {VERSION}: written by a newer shoal", volume.version),
            });
        }
        Ok(Some(volume))
    }
}

/// Moves what is in one folder into another beside it, and gives that its owner, mode and attributes. What has come to be there
/// meanwhile stays.
fn move_in(whole: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(whole)? {
        let entry = entry?;
        let place = to.join(entry.file_name());
        match renameat2(AT_FDCWD, &entry.path(), AT_FDCWD, &place, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    clear_tree(whole)?;
    copy::tree(File::open(whole)?.as_fd(), File::open(to)?.as_fd(), copy::SAME)?;
    fs::remove_dir(whole)
}

/// Returns whether a folder is on another device than the one that holds it.
fn is_mounted(path: &Path) -> io::Result<bool> {
    let parent = path.parent().unwrap_or(path);
    Ok(fs::metadata(path)?.dev() != fs::metadata(parent)?.dev())
}

fn bytes_below(folder: &Path, depth: usize) -> u64 {
    // Deep trees are counted to here: the figure is for people.
    if depth > 64 {
        return 0;
    }
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => bytes_below(&entry.path(), depth + 1),
            Ok(found) => found.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

fn is_name(name: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric) && name.bytes().all(rest) && name.len() <= 255
}

fn check_name(name: &str) -> Result<(), Error> {
    if is_name(name) && name.len() >= 2 {
        return Ok(());
    }
    Err(Error::Invalid {
        reason: format!(
            "{name:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed; for a host directory use an absolute path"
        ),
    })
}

fn random_name() -> io::Result<String> {
    use std::fmt::Write;
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn room(name: &str) -> (PathBuf, Volumes) {
        let root = std::env::temp_dir().join(format!("shoal-volume-{}-{name}", std::process::id()));
        fs::create_dir_all(root.join("data/containers/c1")).expect("a scratch folder");
        fs::write(root.join("data/containers/c1/record.json"), "{}").expect("writable");
        let volumes = Volumes::new(&Roots::below(&root));
        (root, volumes)
    }

    fn make(volumes: &Volumes, name: &str) -> Volume {
        volumes.create(name, &BTreeMap::new(), &BTreeMap::new()).expect("a volume")
    }

    #[test]
    fn a_name_is_one_volume_and_no_name_is_always_another() {
        let (root, volumes) = room("names");
        let first = make(&volumes, "data");
        assert_eq!(make(&volumes, "data"), first);
        assert!(volumes.path(&first).is_dir());
        let anonymous = make(&volumes, "");
        assert!(anonymous.is_anonymous() && anonymous.name.len() == 64);
        assert_eq!(volumes.list().expect("readable").len(), 2);
        for wrong in ["x", "../x", "a/b", ".a"] {
            assert!(volumes.create(wrong, &BTreeMap::new(), &BTreeMap::new()).is_err(), "{wrong}");
        }
        fs::remove_dir_all(root).expect("removable");
    }

    #[test]
    fn a_used_volume_is_neither_removed_nor_pruned() {
        let (root, volumes) = room("used");
        let volume = make(&volumes, "data");
        volumes.acquire(&volume, "c1").expect("writable");
        volumes.acquire(&volume, "gone").expect("writable");
        assert!(matches!(volumes.remove("data"), Err(Error::InUse { containers, .. }) if containers == "c1"));
        assert_eq!(volumes.prune(|_| true).expect("readable").0, Vec::<String>::new());
        volumes.release("data", "c1").expect("writable");
        assert_eq!(volumes.prune(|_| true).expect("readable").0, ["data"]);
        assert!(matches!(volumes.find("data"), Err(Error::NotFound { .. })));
        fs::remove_dir_all(root).expect("removable");
    }

    #[test]
    fn a_folder_without_a_record_pins_no_volume_unless_somebody_is_making_it() {
        let (root, volumes) = room("pinned");
        let volume = make(&volumes, "data");
        let folder = root.join("data/containers/half");
        fs::create_dir_all(&folder).expect("a scratch folder");
        volumes.acquire(&volume, "half").expect("writable");
        assert_eq!(volumes.users("data").expect("readable"), Vec::<String>::new());
        let lock = File::create(folder.join("lock")).expect("writable");
        let lock = Flock::lock(lock, FlockArg::LockExclusive).expect("free");
        assert_eq!(volumes.users("data").expect("readable"), ["half"]);
        drop(lock);
        volumes.remove("data").expect("unused");
        assert!(matches!(volumes.acquire(&volume, "c1"), Err(Error::NotFound { .. })), "a note makes no volume");
        assert!(!root.join("data/volumes/data").exists());
        fs::remove_dir_all(root).expect("removable");
    }

    #[test]
    fn a_volume_is_used_or_removed_and_never_both() {
        let (root, volumes) = room("race");
        for _ in 0..100 {
            let taken = std::thread::scope(|scope| {
                let taker = scope.spawn(|| volumes.obtain("data", &BTreeMap::new(), "c1"));
                let remover = scope.spawn(|| volumes.remove("data"));
                let _ = remover.join().expect("no panic");
                taker.join().expect("no panic")
            });
            let volume = taken.expect("obtained");
            assert_eq!(volumes.users(&volume.name).expect("readable"), ["c1"]);
            assert!(volumes.path(&volume).is_dir());
            volumes.release("data", "c1").expect("writable");
            let _ = volumes.remove("data");
        }
        fs::remove_dir_all(root).expect("removable");
    }

    #[test]
    fn an_empty_volume_is_filled_once_and_a_symlink_of_the_image_leads_nowhere() {
        let (root, volumes) = room("fill");
        let image = root.join("image");
        fs::create_dir_all(image.join("srv/sub")).expect("a scratch folder");
        fs::write(image.join("srv/a"), "hello").expect("writable");
        fs::set_permissions(image.join("srv/a"), fs::Permissions::from_mode(0o640)).expect("permitted");
        fs::set_permissions(image.join("srv"), fs::Permissions::from_mode(0o1777)).expect("permitted");
        fs::hard_link(image.join("srv/a"), image.join("srv/sub/b")).expect("linkable");
        std::os::unix::fs::symlink("/etc/passwd", image.join("srv/out")).expect("linkable");
        std::os::unix::fs::symlink("/", image.join("root")).expect("linkable");
        let volume = make(&volumes, "data");
        assert!(volumes.populate(&volume, &image, Path::new("/root/srv"), 0).expect("copied"));
        let path = volumes.path(&volume);
        assert_eq!(fs::read_to_string(path.join("sub/b")).expect("there"), "hello");
        assert_eq!(fs::metadata(path.join("a")).expect("there").nlink(), 2);
        assert_eq!(fs::metadata(path.join("a")).expect("there").mode() & 0o7777, 0o640);
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o7777, 0o1777);
        assert_eq!(fs::read_link(path.join("out")).expect("a link"), Path::new("/etc/passwd"));
        fs::write(image.join("srv/later"), "x").expect("writable");
        assert!(!volumes.populate(&volume, &image, Path::new("/srv"), 0).expect("looked at"));
        fs::remove_dir_all(root).expect("removable");
    }

    #[test]
    fn a_copy_that_was_killed_is_begun_anew_or_ended_and_removes_nothing_of_anybodys() {
        let (root, volumes) = room("refill");
        let image = root.join("image");
        fs::create_dir_all(image.join("srv")).expect("a scratch folder");
        fs::write(image.join("srv/a"), "of the image").expect("writable");
        fs::write(image.join("srv/b"), "of the image").expect("writable");
        let folder = root.join("data/volumes/data");
        let volume = make(&volumes, "data");
        let fill = || volumes.populate(&volume, &image, Path::new("/srv"), 0).expect("looked at");
        // Killed in the copy: the draft is no content.
        fs::create_dir(folder.join("filling")).expect("writable");
        fs::write(folder.join("filling/a"), "of the").expect("writable");
        assert!(fill());
        let read = |name: &str| fs::read_to_string(folder.join("_data").join(name)).expect("there");
        assert_eq!((read("a"), read("b")), ("of the image".to_owned(), "of the image".to_owned()));
        // Killed while it was moved in: the rest follows, and what somebody has written since stays.
        fs::rename(folder.join("_data/b"), folder.join("b")).expect("movable");
        fs::create_dir(folder.join("filled")).expect("writable");
        fs::rename(folder.join("b"), folder.join("filled/b")).expect("movable");
        fs::write(folder.join("filled/a"), "of the image").expect("writable");
        fs::write(folder.join("_data/a"), "precious").expect("writable");
        assert!(fill());
        assert_eq!((read("a"), read("b")), ("precious".to_owned(), "of the image".to_owned()));
        assert!(!folder.join("filled").exists() && !folder.join("filling").exists());
        // A mark of an older version over a user's own content.
        File::create(folder.join("filling")).expect("writable");
        assert!(!fill());
        assert_eq!(read("a"), "precious");
        // A directory of the host: a copy that fails there takes nothing away with the next start.
        let device = root.join("device");
        fs::create_dir(&device).expect("a scratch folder");
        let options = [("type", "none"), ("o", "bind"), ("device", device.to_str().expect("text"))];
        let options = options.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let bound = volumes.create("bound", &options, &BTreeMap::new()).expect("a volume");
        assert!(volumes.populate(&bound, &image, Path::new("/srv"), 0).expect("copied"));
        fs::write(device.join("precious"), "x").expect("writable");
        fs::remove_file(device.join("a")).expect("removable");
        assert!(!volumes.populate(&bound, &image, Path::new("/srv"), 0).expect("looked at"));
        assert!(device.join("precious").exists());
        fs::remove_dir_all(root).expect("removable");
    }

    #[test]
    fn what_a_killed_create_has_left_of_volumes_is_forgotten() {
        let (root, volumes) = room("forget");
        let lost = volumes.obtain("", &BTreeMap::new(), "killed").expect("a volume");
        let named = volumes.obtain("data", &BTreeMap::new(), "killed").expect("a volume");
        let kept = volumes.obtain("", &BTreeMap::new(), "c1").expect("a volume");
        volumes.release(&kept.name, "c1").expect("writable");
        volumes.acquire(&kept, "killed").expect("writable");
        for draft in [".new-x", ".old-x"] {
            fs::create_dir(root.join("data/volumes").join(draft)).expect("writable");
            File::create(root.join("data/volumes").join(draft).join("lock")).expect("writable");
        }
        let busy = File::open(root.join("data/volumes/.new-x/lock")).expect("there");
        let busy = Flock::lock(busy, FlockArg::LockExclusive).expect("free");
        volumes.forget("killed").expect("forgotten");
        volumes.sweep().expect("swept");
        assert!(matches!(volumes.find(&lost.name), Err(Error::NotFound { .. })), "it had made it");
        for volume in [&named, &kept] {
            volumes.find(&volume.name).expect("a name, or another's content");
            assert!(!root.join("data/volumes").join(&volume.name).join("users/killed").exists());
        }
        assert!(root.join("data/volumes/.new-x").exists() && !root.join("data/volumes/.old-x").exists());
        drop(busy);
        volumes.sweep().expect("swept");
        assert!(!root.join("data/volumes/.new-x").exists());
        fs::remove_dir_all(root).expect("removable");
    }
}
