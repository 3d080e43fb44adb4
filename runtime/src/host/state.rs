//! The directory of one container below `--root`: what outlives the command that made it.
//!
//! `state.json` is this program's record (versioned, replaced atomically), `config.json` the configuration as it was at
//! `create`, `start` the socket on which the first process waits, `notify/` the container's notification socket. The directory itself carries the lock. A command that
//! dies at any point leaves at worst a directory that `delete --force` removes with all it speaks of.

mod lock;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, UnlinkatFlags};
use oci::ContainerId;
use oci::spec::{LinuxResources, Status};
use serde::{Deserialize, Serialize};

use super::cgroup::resctrl::Group;
use super::cgroup::{Cgroup, CgroupState};
use super::notify;
use super::sys::open::{openat2, unlock};
use crate::error::{During, Error, Result};

/// The version of [`Record`]; see docs/formats.md.
pub const VERSION: u32 = 1;

/// The name of the socket on which a created container waits for `start`.
pub const START_SOCKET: &str = "start";

/// The file of [`Record`].
const RECORD: &str = "state.json";
const CONFIG: &str = "config.json";

/// No record is longer: annotations are bounded by the configuration's own size.
const FILE_LEN_MAX: u64 = 16 << 20;

/// Room for the usual record and configuration, so that reading does not grow from a few bytes.
const FIRST_READ: usize = 8 * 1024;

/// What is known about a container.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// The version of this format.
    pub version: u32,
    /// The container.
    pub id: String,
    /// The version its configuration was written for.
    pub oci_version: String,
    /// The absolute path of its bundle.
    pub bundle: String,
    /// The absolute path of its root file system.
    pub rootfs: String,
    /// When it was created, RFC 3339 with nanoseconds.
    pub created: String,
    /// The user who created it.
    pub owner: u32,
    /// The first process; 0 while there is none.
    pub pid: i32,
    /// When that process started, in clock ticks since boot: tells it from a later one of the same number.
    pub start_time: u64,
    /// Its cgroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<CgroupState>,
    /// Its class of service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rdt: Option<Group>,
    /// Its limits, once `update` has changed them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Box<LinuxResources>>,
    /// Whether killing the first process ends all: it has a pid namespace of its own.
    pub own_pids: bool,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Whether its configuration has poststart hooks.
    pub poststart: bool,
    /// Whether its configuration has poststop hooks.
    pub poststop: bool,
    /// The host's socket that hears when it is ready; it then has one of its own in the folder `notify`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notify: Option<String>,
}

/// All containers of one root.
#[derive(Debug, Clone)]
pub struct Root {
    path: PathBuf,
}

/// The directory of one container.
#[derive(Debug)]
pub struct Directory {
    fd: Flock<OwnedFd>,
    path: PathBuf,
}

impl Root {
    /// The containers below `path`, which is made when the first one is.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes and locks the directory of a new container.
    pub fn create(&self, id: &ContainerId) -> Result<Directory> {
        let path = self.path.join(id.as_str());
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o711);
        let made = match builder.create(&path) {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
                builder.recursive(true);
                builder.create(&self.path).during(|| format!("make {}", self.path.display()))?;
                builder.recursive(false);
                builder.create(&path)
            }
            made => made,
        };
        match made {
            Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(Error::state("container with given ID already exists"))
            }
            made => {
                made.during(|| format!("make {}", path.display()))?;
                self.open(id)
            }
        }
    }

    /// Opens and locks the directory of an existing container, waiting for another command to finish.
    pub fn open(&self, id: &ContainerId) -> Result<Directory> {
        let path = self.path.join(id.as_str());
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let fd = match nix::fcntl::open(&path, flags, Mode::empty()) {
            Err(nix::Error::ENOENT) => return Err(Error::state("container does not exist")),
            opened => opened.during(|| format!("open {}", path.display()))?,
        };
        let operation = || format!("lock {}", path.display());
        let inode = || nix::sys::stat::lstat(&path).map_or(0, |found| found.st_ino);
        let mut kept = Some(fd);
        let locked = lock::wait(inode, || {
            let Some(fd) = kept.take() else { return Err(nix::Error::EBADF) };
            Flock::lock(fd, FlockArg::LockExclusiveNonblock).map_err(|(fd, errno)| {
                kept = Some(fd);
                errno
            })
        });
        Ok(Directory { fd: locked.map_err(|refused| refused.into_error(operation))?, path })
    }

    /// The ids of all containers, sorted; what is no container is passed over.
    pub fn ids(&self) -> Result<Vec<ContainerId>> {
        let entries = match std::fs::read_dir(&self.path) {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.during(|| format!("list {}", self.path.display()))?,
        };
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            let entry = entry.ok()?;
            entry.file_type().ok().filter(std::fs::FileType::is_dir)?;
            entry.file_name().to_str()?.parse().ok()
        };
        let mut ids: Vec<ContainerId> = entries.filter_map(name).collect();
        ids.sort();
        Ok(ids)
    }

    /// Reads the record of a container without waiting for its lock.
    pub fn record(&self, id: &ContainerId) -> Result<Record> {
        let path = self.path.join(id.as_str());
        match std::fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => {}
            _ => return Err(Error::state("container does not exist")),
        }
        read_record(&std::fs::read(path.join(RECORD)).during(|| format!("read {}/{RECORD}", path.display()))?)
    }

    /// The user who owns a container's directory.
    pub fn owner(&self, id: &ContainerId) -> Option<u32> {
        std::fs::symlink_metadata(self.path.join(id.as_str())).ok().map(|found| found.uid())
    }
}

fn read_record(text: &[u8]) -> Result<Record> {
    let record: Record = serde_json::from_slice(text).map_err(|cause| {
        Error::state(format!("the container's {RECORD} is damaged ({cause}); remove it with delete --force"))
    })?;
    if record.version > VERSION {
        let hint = format!("its state has version {}, this program knows {VERSION}", record.version);
        return Err(Error::HostLack { what: "a runtime new enough for this container".into(), hint });
    }
    Ok(record)
}

impl Directory {
    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets other commands at the container while this one only accompanies it.
    pub fn unlock(&self) -> Result<()> {
        unlock(self.fd.as_fd()).during(|| format!("unlock {}", self.path.display()))
    }

    /// Takes the lock again; false when the container was deleted meanwhile.
    pub fn lock_again(&self) -> Result<bool> {
        let operation = || format!("lock {}", self.path.display());
        let inode = || nix::sys::stat::fstat(&*self.fd).map_or(0, |found| found.st_ino);
        lock::wait(inode, || self.fd.relock(FlockArg::LockExclusiveNonblock))
            .map_err(|refused| refused.into_error(operation))?;
        Ok(nix::unistd::faccessat(&*self.fd, RECORD, AccessFlags::F_OK, AtFlags::empty()).is_ok())
    }

    /// A path to `name` in this directory that is short enough for a socket address, whatever the root.
    pub fn socket_path(&self, name: &str) -> String {
        format!("/proc/self/fd/{}/{name}", self.fd.as_raw_fd())
    }

    /// Reads the record.
    pub fn record(&self) -> Result<Record> {
        read_record(&self.read(RECORD)?)
    }

    /// Replaces the record.
    pub fn save(&self, record: &Record) -> Result<()> {
        let text = serde_json::to_vec(record).map_err(|cause| Error::Bug { what: cause.to_string() })?;
        self.replace(RECORD, &text)
    }

    /// Keeps the configuration as it is now.
    pub fn save_config(&self, text: &[u8]) -> Result<()> {
        self.replace(CONFIG, text)
    }

    /// The configuration as it was at `create`.
    pub fn config(&self) -> Result<Vec<u8>> {
        self.read(CONFIG)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let operation = || format!("read {}/{name}", self.path.display());
        let file = openat2(
            self.fd.as_fd(),
            name.as_bytes(),
            libc::O_RDONLY | libc::O_NOFOLLOW,
            0,
            libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS,
        )
        .during(operation)?;
        let mut text = Vec::with_capacity(FIRST_READ);
        let mut file = std::io::Read::take(std::fs::File::from(file), FILE_LEN_MAX);
        std::io::Read::read_to_end(&mut file, &mut text).during(operation)?;
        Ok(text)
    }

    fn replace(&self, name: &str, text: &[u8]) -> Result<()> {
        let operation = || format!("write {}/{name}", self.path.display());
        let fresh = format!("{name}.new");
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_NOFOLLOW;
        let file = openat2(self.fd.as_fd(), fresh.as_bytes(), flags, 0o600, libc::RESOLVE_BENEATH).during(operation)?;
        std::io::Write::write_all(&mut std::fs::File::from(file), text).during(operation)?;
        nix::fcntl::renameat(&*self.fd, fresh.as_str(), &*self.fd, name).during(operation)
    }

    /// Removes the directory and the files in it; something else in it is an error, never followed.
    pub fn remove(self) -> Result<()> {
        let operation = || format!("remove {}", self.path.display());
        for name in [CONFIG, RECORD, START_SOCKET, "state.json.new", "config.json.new"] {
            if name == START_SOCKET && std::fs::remove_dir(&self.path).is_ok() {
                // It has never waited, and nothing half-written was left.
                return Ok(());
            }
            match nix::unistd::unlinkat(&*self.fd, name, UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(nix::Error::ENOENT) => {}
                Err(errno) => return Err(errno).during(operation),
            }
        }
        self.remove_notify().during(operation)?;
        match std::fs::remove_dir(&self.path) {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed.during(operation),
        }
    }
}

impl Directory {
    /// Removes the folder of the notification socket; one that leads elsewhere is left, and with it the directory.
    fn remove_notify(&self) -> nix::Result<()> {
        let flags = libc::O_DIRECTORY | libc::O_RDONLY | libc::O_NOFOLLOW;
        let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS;
        let folder = match openat2(self.fd.as_fd(), notify::FOLDER.as_bytes(), flags, 0, resolve) {
            Err(nix::Error::ENOENT) => return Ok(()),
            opened => opened?,
        };
        match nix::unistd::unlinkat(&folder, notify::SOCKET, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(nix::Error::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
        nix::unistd::unlinkat(&*self.fd, notify::FOLDER, UnlinkatFlags::RemoveDir)
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Where the container of `record` is in its life.
pub fn status(root: &Root, record: &Record) -> Status {
    if !is_alive(record) {
        return Status::Stopped;
    }
    let socket = root.path.join(&record.id).join(START_SOCKET);
    if super::start::is_waiting(&socket) {
        Status::Created
    } else if is_paused(record) {
        Status::Paused
    } else {
        Status::Running
    }
}

/// Whether the container's cgroup is frozen.
pub fn is_paused(record: &Record) -> bool {
    let cgroup = record.cgroup.as_ref().and_then(|state| Cgroup::open(state).ok());
    cgroup.is_some_and(|cgroup| cgroup.is_frozen().unwrap_or(false))
}

/// Whether the recorded first process still runs; a zombie does not.
pub fn is_alive(record: &Record) -> bool {
    record.pid > 0
        && stat(record.pid).is_some_and(|(state, start)| start == record.start_time && state != 'Z' && state != 'X')
}

/// State letter and start time of a process.
pub fn stat(pid: i32) -> Option<(char, u64)> {
    let text = super::procfs::stat_line(pid).ok()?;
    // The name in parentheses may hold anything, also spaces and parentheses.
    let mut fields = text[text.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}
