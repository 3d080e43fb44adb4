//! What happened on this host, as docker's `events`: one JSON line each in `run/events.jsonl`, appended by whoever did
//! it, without a lock (an append of one line is atomic), halved when it grows too large.

use crate::host::sys;
use crate::time::Nanos;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Above this size the file is renamed to `.1` and begun anew.
pub const FILE_BYTES_MAX: u64 = 4 << 20;

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

/// Writes one event down. Losing an event stops nothing: errors are for callers who want to know.
pub fn append(file: &Path, event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    let mut handle = fs::OpenOptions::new().create(true).append(true).open(file)?;
    if handle.metadata()?.len() > FILE_BYTES_MAX {
        fs::rename(file, file.with_extension("jsonl.1"))?;
        handle = fs::OpenOptions::new().create(true).append(true).open(file)?;
    }
    handle.write_all(&line)
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

/// Reads every event that is still there, oldest first; damaged lines are skipped.
pub fn read(file: &Path) -> io::Result<Vec<Event>> {
    let mut events = Vec::new();
    for path in [file.with_extension("jsonl.1"), file.to_owned()] {
        match fs::read(&path) {
            Ok(text) => {
                let lines = text.split(|&byte| byte == b'\n');
                events.extend(lines.filter_map(|line| serde_json::from_slice::<Event>(line).ok()));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(events)
}
