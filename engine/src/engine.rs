//! The engine of one pair of roots: finds containers, locks them, carries out verbs. Each verb's file is in `verb/`.

mod attach;
mod commit;
mod connect;
mod copy;
mod create;
mod exec;
mod files;
mod images;
mod launch;
mod list;
mod mounts;
mod prepare;
mod read;
mod remove;
mod stop;

pub use attach::{AttachEnd, AttachOptions, detach_keys, own_streams, proxy, stdin_is_terminal};
pub use commit::CommitWish;
pub use copy::CopyWish;
pub use create::Created;
pub use exec::ExecWish;
pub use launch::{Launch, Streams};
pub use list::{Filter, Listed, status_text};
pub use read::{Change, Sample};
pub use stop::{STOP_TIMEOUT_S, signal};

use crate::error::EngineError;
use crate::events::{self, Event};
use crate::file::{self, Durable};
use crate::host::process::boot_id;
use crate::monitor::lock;
use crate::name::Names;
use crate::network::{Network, Networks};
use crate::record::{Record, State, Status};
use crate::roots::Roots;
use crate::time::now;
use nix::fcntl::{Flock, FlockArg};
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a verb waits for a monitor between two states to be in one: the slowest start of a container, hooks included.
const UNDECIDED: Duration = Duration::from_secs(10);
/// How many containers one thread reads as quickly as several would.
const LOADED_ALONE: usize = 64;
/// How many threads read more: beyond a few they wait for the file system.
const LOADERS_MAX: usize = 8;
/// How often it looks.
const UNDECIDED_LOOK: Duration = Duration::from_millis(2);

/// Containers below one pair of roots. Cheap to open; holds nothing that must be closed.
#[derive(Debug)]
pub struct Engine {
    roots: Roots,
    boot_id: String,
}

/// One container as it is written down.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    /// What was asked for.
    pub record: Record,
    /// What is true now.
    pub state: State,
    /// `data/containers/ID`.
    pub data: PathBuf,
    /// `run/containers/ID`.
    pub run: PathBuf,
    /// Its monitor lives: it runs, is being started, or has just ended.
    pub monitored: bool,
}

impl Container {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.record.id
    }

    /// The first twelve digits of its id.
    pub fn short_id(&self) -> &str {
        self.record.id.get(..12).unwrap_or(&self.record.id)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// The name in messages.
    pub(crate) fn state_error(&self, reason: impl Into<String>) -> EngineError {
        EngineError::State { name: self.record.name.clone(), reason: reason.into() }
    }
}

/// The right to change one container; nobody else has it until this is dropped.
#[derive(Debug)]
pub struct Locked {
    /// The container as read under the lock.
    pub container: Container,
    lock: Flock<fs::File>,
}

impl Engine {
    /// Opens the engine below these roots; folders are made when they are needed.
    pub fn open(roots: &Roots) -> Result<Self, EngineError> {
        Ok(Self { roots: roots.clone(), boot_id: boot_id() })
    }

    /// Where everything lives.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// The names of containers.
    pub fn names(&self) -> Names {
        Names::below(&self.roots.data)
    }

    /// The networks.
    pub fn networks(&self) -> Networks {
        Networks::new(&self.roots)
    }

    /// Finds a container by its name, its id or the beginning of its id.
    pub fn find(&self, name: &str) -> Result<Container, EngineError> {
        self.load(&self.resolve(name)?)
    }

    /// Finds the id that a name, an id or the beginning of an id means.
    pub fn resolve(&self, name: &str) -> Result<String, EngineError> {
        let name = name.strip_prefix('/').unwrap_or(name);
        let missing = || EngineError::NoSuchContainer { name: name.to_owned(), similar: None };
        if name.is_empty() || name.contains(['/', '\0']) || name.starts_with('.') {
            return Err(missing());
        }
        if let Some(id) = self.names().holder(name)?
            && self.roots.container_data(&id).join("record.json").exists()
        {
            return Ok(id);
        }
        if !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(EngineError::NoSuchContainer { similar: self.similar(name), name: name.to_owned() });
        }
        if self.roots.container_data(name).join("record.json").exists() {
            return Ok(name.to_owned());
        }
        let mut found: Vec<String> = self.ids()?.into_iter().filter(|id| id.starts_with(name)).collect();
        match found.len() {
            0 => Err(missing()),
            1 => Ok(found.remove(0)),
            count => Err(EngineError::Ambiguous { prefix: name.to_owned(), count }),
        }
    }

    /// The nearest existing name, for "did you mean".
    fn similar(&self, name: &str) -> Option<String> {
        let entries = fs::read_dir(self.roots.data.join("names")).ok()?;
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|known| !known.starts_with('#'))
            .map(|known| (distance(name, &known), known))
            .filter(|(distance, _)| *distance <= 2)
            .min()
            .map(|(_, known)| known)
    }

    /// Ids of all containers, in no order.
    pub fn ids(&self) -> Result<Vec<String>, EngineError> {
        let folder = self.roots.data.join("containers");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(EngineError::io(format!("read {}", folder.display()))(error)),
        };
        Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }

    /// Reads a container by its full id; its state is what is true now.
    pub fn load(&self, id: &str) -> Result<Container, EngineError> {
        self.load_as(id, true)
    }

    /// The same; `has_run` is whether there may be a run folder, without which no monitor lives.
    fn load_as(&self, id: &str, has_run: bool) -> Result<Container, EngineError> {
        let data = self.roots.container_data(id);
        let record: Record = match file::load(&data.join("record.json")) {
            Ok(record) => record,
            Err(error) if error.is_missing() => {
                return Err(EngineError::NoSuchContainer { name: id.to_owned(), similar: None });
            }
            Err(error) => return Err(error.into()),
        };
        let state: State = match file::load(&data.join("state.json")) {
            Ok(state) => state,
            Err(error) if error.is_missing() => State::created(),
            Err(error) => return Err(error.into()),
        };
        let run = self.roots.container_run(id);
        // Monitors of older versions hold no lock and are known by their number.
        let monitored = has_run
            .then(|| lock::held(&run))
            .flatten()
            .unwrap_or_else(|| state.status.is_active() && state.boot_id == self.boot_id && state.monitor.alive());
        let state = state.truthful(&self.boot_id, monitored);
        Ok(Container { record, state, data, run, monitored })
    }

    /// Finds a container and waits for the right to change it.
    pub fn lock(&self, name: &str) -> Result<Locked, EngineError> {
        let id = self.resolve(name)?;
        let lock = lock_file(&self.roots.container_data(&id)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => EngineError::NoSuchContainer { name: name.to_owned(), similar: None },
            _ => EngineError::io(format!("lock container {name}"))(error),
        })?;
        // Whoever held the lock before may have removed it.
        let mut container = self.load(&id)?;
        // A monitor that has no say yet (its launcher was killed) or no more: a moment later its state tells which.
        let deadline = Instant::now() + UNDECIDED;
        while container.monitored && !container.state.status.is_active() && Instant::now() < deadline {
            std::thread::sleep(UNDECIDED_LOOK);
            container = self.load(&id)?;
        }
        Ok(Locked { container, lock })
    }

    /// Every container, newest first; one that cannot be read is left out and named in the second list.
    pub fn all(&self) -> Result<(Vec<Container>, Vec<String>), EngineError> {
        let (mut containers, mut damaged) = (Vec::new(), Vec::new());
        let ids = self.ids()?;
        let threads = match ids.len() {
            0..=LOADED_ALONE => 1,
            _ => std::thread::available_parallelism().map_or(1, usize::from).min(LOADERS_MAX),
        };
        // Asked once: most containers of a long list do not run.
        let running: HashSet<String> = fs::read_dir(self.roots.run.join("containers"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        let load = |id: &String| (id.clone(), self.load_as(id, running.contains(id)));
        let part = |ids: &[String]| ids.iter().map(load).collect::<Vec<_>>();
        let loaded: Vec<_> = if threads == 1 {
            part(&ids)
        } else {
            std::thread::scope(|scope| {
                let part = &part;
                let parts: Vec<_> =
                    ids.chunks(ids.len().div_ceil(threads)).map(|ids| scope.spawn(move || part(ids))).collect();
                parts.into_iter().flat_map(|thread| thread.join().expect("reading does not panic")).collect()
            })
        };
        for (id, loaded) in loaded {
            match loaded {
                Ok(container) => containers.push(container),
                // Being made or being removed at this moment.
                Err(EngineError::NoSuchContainer { .. }) => {}
                Err(error) => damaged.push(format!("{id}: {error}")),
            }
        }
        containers.sort_by_key(|container| std::cmp::Reverse(container.record.created));
        Ok((containers, damaged))
    }

    /// Writes an event of a container down.
    pub fn event(&self, record: &Record, action: &str, more: &[(&str, &str)]) {
        let mut attributes = record.labels();
        attributes.insert("name".into(), record.name.clone());
        attributes.insert("image".into(), record.image.clone());
        attributes.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        self.happened("container", action, &record.id, attributes);
    }

    /// Writes an event of anything down.
    pub fn happened(&self, kind: &str, action: &str, id: &str, attributes: BTreeMap<String, String>) {
        let (kind, action, id) = (kind.to_owned(), action.to_owned(), id.to_owned());
        let event = Event { version: events::VERSION, time: now(), kind, action, id, attributes };
        // A lost event stops nothing. The folder may be as young as the first network.
        fs::create_dir_all(&self.roots.run).ok();
        events::append(&events::file(&self.roots.run), &event).ok();
    }

    /// Writes an event of a network down.
    pub fn network_event(&self, network: &Network, action: &str, container: Option<&str>) {
        let (name, driver) = (network.name.clone(), network.driver.to_string());
        let mut attributes = BTreeMap::from([("name".to_owned(), name), ("type".to_owned(), driver)]);
        attributes.extend(container.map(|id| ("container".to_owned(), id.to_owned())));
        self.happened("network", action, &network.id, attributes);
    }

    /// The program `shoal-runtime`.
    pub fn runtime(&self) -> Result<PathBuf, EngineError> {
        helper("shoal-runtime", "SHOAL_RUNTIME")
    }

    /// The program `shoal-monitor`.
    pub fn monitor(&self) -> Result<PathBuf, EngineError> {
        helper("shoal-monitor", "SHOAL_MONITOR")
    }
}

impl Locked {
    /// Writes the record.
    pub fn save_record(&self) -> Result<(), EngineError> {
        Ok(file::save(&self.container.data.join("record.json"), &self.container.record, Durable::Yes)?)
    }

    /// Writes the state; only while no monitor lives.
    pub fn save_state(&self) -> Result<(), EngineError> {
        Ok(file::save(&self.container.data.join("state.json"), &self.container.state, Durable::Yes)?)
    }

    /// Whether its monitor holds it, or a process of it lives on without one.
    pub fn is_active(&self) -> bool {
        self.container.monitored || self.container.state.status.is_active()
    }

    /// Gives the right back.
    pub fn unlock(self) -> Container {
        drop(self.lock);
        self.container
    }
}

impl Record {
    /// The image's labels with the user's over them.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.defaults.labels.clone();
        labels.extend(self.wish.labels.clone());
        labels
    }
}

impl Status {
    /// Whether `start` makes sense.
    pub fn can_start(self) -> bool {
        matches!(self, Self::Created | Self::Exited | Self::Dead)
    }
}

fn lock_file(folder: &Path) -> io::Result<Flock<fs::File>> {
    let file = fs::OpenOptions::new().read(true).write(true).open(folder.join("lock"))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error.into())
}

/// Finds a helper program: a variable, beside this program, along PATH.
fn helper(program: &'static str, variable: &'static str) -> Result<PathBuf, EngineError> {
    if let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) {
        return Ok(PathBuf::from(path));
    }
    let beside = std::env::current_exe().ok().and_then(|own| own.parent().map(|folder| folder.join(program)));
    if let Some(path) = beside.filter(|path| path.is_file()) {
        return Ok(path);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .ok_or(EngineError::Helper { program, variable })
}

/// How many edits lead from one word to the other.
pub fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, letter) in one.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, known) in other.iter().enumerate() {
            let substitute = corner + usize::from(letter != *known);
            corner = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(corner + 1);
        }
    }
    row[other.len()]
}
