//! What happened on this host, as docker's `events`: one JSON line each in `run/events.jsonl`, appended by whoever did
//! it, without a lock (an append of one line is atomic), renamed when it grows too large. Followers go by place in the file, never
//! by time: two processes that write at once do so in either order.

use crate::host::sys;
use crate::time::Nanos;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Above this size the file is renamed to `.1` and begun anew.
pub const FILE_BYTES_MAX: u64 = 4 << 20;

/// Above this size an event is written without its long attributes: one container's labels must not push out the history.
const LINE_BYTES_MAX: usize = 64 << 10;

/// The version of a line.
pub const VERSION: u32 = 1;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// [`VERSION`].
    pub version: u32,
    /// When.
    pub time: Nanos,
    /// `container`, `network`, `volume`, `image`.
    pub kind: String,
    /// `create`, `start`, `die`, …
    pub action: String,
    /// The id of the object.
    pub id: String,
    /// `name`, `image`, `exitCode`, labels, …
    pub attributes: BTreeMap<String, String>,
}

/// The file below these roots.
pub fn file(run: &Path) -> PathBuf {
    run.join("events.jsonl")
}

/// Writes down what happened to an image: `pull`, `push`, `tag`, `untag`, `delete`, `load`, `save`, `import`. `id` is the image's,
/// or its name where docker says that: of what was pulled and pushed.
pub fn image(run: &Path, action: &str, id: &str, name: &str) {
    let attributes = BTreeMap::from([("name".to_owned(), name.to_owned())]);
    let (kind, action, id) = ("image".to_owned(), action.to_owned(), id.to_owned());
    let event = Event { version: VERSION, time: crate::time::now(), kind, action, id, attributes };
    // A lost event stops nothing. The folder may be as young as the first image.
    fs::create_dir_all(run).ok();
    append(&file(run), &event).ok();
}

/// Writes one event down. Losing an event stops nothing: errors are for callers who want to know.
pub fn append(file: &Path, event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    if line.len() > LINE_BYTES_MAX {
        line = serde_json::to_vec(&short(event))?;
    }
    line.push(b'\n');
    let open = || fs::OpenOptions::new().create(true).append(true).open(file);
    let mut handle = open()?;
    if handle.metadata()?.len() > FILE_BYTES_MAX {
        rotate(file, &handle)?;
        handle = open()?;
    }
    handle.write_all(&line)
}

/// Renames the file unless another writer has. Who waited for the lock looks again: it was the file that is `.1` by now.
fn rotate(file: &Path, handle: &fs::File) -> io::Result<()> {
    let _lock =
        Flock::lock(handle.try_clone()?, FlockArg::LockExclusive).map_err(|(_, errno)| io::Error::from(errno))?;
    match fs::metadata(file) {
        Ok(meta) if meta.ino() == handle.metadata()?.ino() => fs::rename(file, older(file)),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// An event without the texts that make it too long for the history: labels.
fn short(event: &Event) -> Event {
    let mut event = event.clone();
    let fits = |text: &str| text.len() <= LINE_BYTES_MAX / 64;
    event.attributes.retain(|key, value| fits(key) && fits(value));
    if event.attributes.len() > 32 {
        event.attributes.retain(|key, _| matches!(key.as_str(), "name" | "image" | "exitCode" | "signal"));
    }
    event
}

fn older(file: &Path) -> PathBuf {
    file.with_extension("jsonl.1")
}

/// Waits for events without looking again and again. `inotify(7)`
#[derive(Debug)]
pub struct Watcher {
    watch: OwnedFd,
}

impl Watcher {
    /// Watches the folder of the events' file: the file itself is replaced when it grows too large.
    pub fn new(run: &Path) -> io::Result<Self> {
        fs::create_dir_all(run)?;
        let mask = libc::IN_MODIFY | libc::IN_CREATE | libc::IN_MOVED_TO;
        Ok(Self { watch: sys::watch(run, mask)? })
    }

    /// Waits until something was written, or for `patience`; for ever without one.
    pub fn wait(&self, patience: Option<Duration>) -> io::Result<()> {
        let timeout = patience.map_or(PollTimeout::NONE, |patience| {
            // Rounded up: a moment too early would be waited for again at once.
            let ms = i32::try_from(patience.as_millis() + 1).unwrap_or(i32::MAX);
            PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut [PollFd::new(self.watch.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut told = [0u8; 4096];
        while nix::unistd::read(&self.watch, &mut told).is_ok_and(|count| count > 0) {}
        Ok(())
    }
}

/// Reads events in the order in which they were written, each once; damaged lines are skipped.
#[derive(Debug)]
pub struct Follower {
    file: PathBuf,
    /// The current file, and the one before: a writer that had opened it in time still appends to it.
    current: Option<Place>,
    before: Option<Place>,
}

/// How far a file was read.
#[derive(Debug)]
struct Place {
    file: fs::File,
    inode: u64,
    offset: u64,
}

impl Follower {
    /// Begins with the oldest event that is still there, or with the next that is written.
    pub fn new(file: &Path, history: bool) -> io::Result<Self> {
        let mut follower = Self { file: file.to_owned(), current: Place::open(file)?, before: None };
        if history {
            // After the current one: should that be renamed meanwhile, it is met twice, and not missed.
            let known = follower.current.as_ref().map(|place| place.inode);
            follower.before = Place::open(&older(file))?.filter(|place| Some(place.inode) != known);
        } else if let Some(place) = &mut follower.current {
            place.offset = place.file.metadata()?.len();
        }
        Ok(follower)
    }

    /// What was written since the last call.
    pub fn news(&mut self) -> io::Result<Vec<Event>> {
        let mut events = Vec::new();
        loop {
            for place in [&mut self.before, &mut self.current].into_iter().flatten() {
                place.read(&mut events)?;
            }
            let known = self.current.as_ref().map(|place| place.inode);
            let Some(next) = Place::open(&self.file)?.filter(|place| Some(place.inode) != known) else {
                return Ok(events);
            };
            self.before = self.current.replace(next);
            if let Some(skipped) = Place::open(&older(&self.file))?
                && let Some(before) = &mut self.before
                && skipped.inode != before.inode
                && self.current.as_ref().is_some_and(|current| current.inode != skipped.inode)
            {
                // Renamed twice between two looks.
                before.read(&mut events)?;
                self.before = Some(skipped);
            }
        }
    }
}

impl Place {
    fn open(path: &Path) -> io::Result<Option<Self>> {
        match fs::File::open(path) {
            Ok(file) => Ok(Some(Self { inode: file.metadata()?.ino(), file, offset: 0 })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes in whole lines that have been appended.
    fn read(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        if length <= self.offset {
            return Ok(());
        }
        let mut text = vec![0; usize::try_from(length - self.offset).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut text, self.offset)?;
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        self.offset += whole as u64;
        let lines = text[..whole].split(|&byte| byte == b'\n');
        events.extend(lines.filter_map(|line| serde_json::from_slice::<Event>(line).ok()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: u64) -> Event {
        Event { version: VERSION, time: 1_000_000 - number, id: number.to_string(), ..Event::default() }
    }

    fn numbers(events: &[Event]) -> Vec<u64> {
        events.iter().map(|event| event.id.parse().unwrap()).collect()
    }

    #[test]
    fn a_follower_hears_each_event_once_whatever_its_time_and_over_renamings() {
        let room = std::env::temp_dir().join(format!("shoal-events-{}", std::process::id()));
        fs::create_dir(&room).unwrap();
        let path = file(&room);
        append(&path, &event(0)).unwrap();
        let (mut all, mut new) = (Follower::new(&path, true).unwrap(), Follower::new(&path, false).unwrap());
        let late = fs::OpenOptions::new().append(true).open(&path).unwrap();
        assert_eq!(numbers(&all.news().unwrap()), [0]);
        // Times go down: the later one was taken before.
        append(&path, &event(1)).unwrap();
        append(&path, &event(2)).unwrap();
        for follower in [&mut all, &mut new] {
            assert_eq!(numbers(&follower.news().unwrap()), [1, 2]);
            assert_eq!(numbers(&follower.news().unwrap()), [0; 0]);
        }
        // Renamed; a writer that had opened it before still writes into it.
        rotate(&path, &late).unwrap();
        append(&path, &event(3)).unwrap();
        assert_eq!(numbers(&all.news().unwrap()), [3]);
        let mut line = serde_json::to_vec(&event(4)).unwrap();
        line.push(b'\n');
        (&late).write_all(&line).unwrap();
        assert_eq!(numbers(&all.news().unwrap()), [4]);
        assert_eq!(numbers(&new.news().unwrap()), [4, 3]);
        // A second writer that saw the same size does not rename the new file.
        rotate(&path, &late).unwrap();
        assert!(path.exists());
        // Twice between two looks.
        rotate(&path, &fs::File::open(&path).unwrap()).unwrap();
        append(&path, &event(5)).unwrap();
        rotate(&path, &fs::File::open(&path).unwrap()).unwrap();
        append(&path, &event(6)).unwrap();
        assert_eq!(numbers(&all.news().unwrap()), [5, 6]);
        assert_eq!(numbers(&Follower::new(&path, true).unwrap().news().unwrap()), [5, 6]);
        fs::remove_dir_all(&room).unwrap();
    }

    #[test]
    fn megabytes_of_labels_do_not_push_out_the_history() {
        let mut large = event(1);
        large.attributes.insert("name".into(), "box".into());
        large.attributes.insert("label".into(), "x".repeat(3 << 20));
        let kept = short(&large);
        assert_eq!(kept.attributes.into_keys().collect::<Vec<_>>(), ["name"]);
        for number in 0..100_000 {
            large.attributes.insert(format!("label{number}"), "x".into());
        }
        assert_eq!(short(&large).attributes.into_keys().collect::<Vec<_>>(), ["name"]);
    }
}
