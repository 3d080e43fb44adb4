//! Tells when the kernel killed something in a container for want of memory, and when the container's cgroup is gone.
//!
//! v1: an eventfd registered through `cgroup.event_control`. v2: `memory.events`, which wakes a poll when it changes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::dir::Dir;
use super::layout::Version;
use super::{Cgroup, CgroupError};

/// The longest sleep. The end of a v2 cgroup is a change like any other and wakes the poll; should it be missed, this
/// bounds how long.
const SLICE: Duration = Duration::from_secs(1);

/// What was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The kernel ran out of the container's memory.
    Oom,
    /// The container's last process is gone, or its cgroup is.
    Gone,
    /// Nothing until the time was over.
    Nothing,
}

/// A watch on one container.
#[derive(Debug)]
pub struct OomWatch {
    dir: PathBuf,
    source: Source,
}

#[derive(Debug)]
enum Source {
    V1 { event: EventFd, _control: File },
    V2 { memory: File, cgroup: File, kills: u64 },
}

impl OomWatch {
    /// Starts to watch.
    pub fn open(cgroup: &Cgroup) -> Result<Self, CgroupError> {
        let Some(home) = cgroup.home_of("memory") else {
            return Err(CgroupError::Unavailable {
                what: "OOM notification".to_owned(),
                reason: "the container is in no cgroup of the memory controller".to_owned(),
            });
        };
        let dir = Dir::new(&home.dir);
        let open = |name: &str| {
            let path = dir.file(name);
            File::open(&path).map_err(|cause| CgroupError::Read { path, cause })
        };
        let source = match home.version {
            Version::V1 => {
                let control = open("memory.oom_control")?;
                let event = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
                    .map_err(|errno| CgroupError::Read { path: dir.file("memory.oom_control"), cause: errno.into() })?;
                let line = format!("{} {}", event.as_fd().as_raw_fd(), control.as_raw_fd());
                dir.write("cgroup.event_control", &line)?;
                Source::V1 { event, _control: control }
            }
            Version::V2 => {
                let kills = kills(dir)?;
                Source::V2 { memory: open("memory.events")?, cgroup: open("cgroup.events")?, kills }
            }
        };
        Ok(Self { dir: home.dir.clone(), source })
    }

    /// Waits for something to happen, at most so long.
    pub fn wait(&mut self, timeout: Duration) -> Result<Seen, CgroupError> {
        let dir = self.dir.clone();
        let dir = Dir::new(&dir);
        match &mut self.source {
            Source::V1 { event, .. } => {
                let mut fds = [PollFd::new(event.as_fd(), PollFlags::POLLIN)];
                let woken = nix::poll::poll(&mut fds, milliseconds(timeout)).unwrap_or(0) > 0;
                if woken {
                    let _ = event.read();
                }
                // The kernel signals the end of a cgroup through the same descriptor.
                if !dir.has("cgroup.event_control") {
                    return Ok(Seen::Gone);
                }
                Ok(if woken { Seen::Oom } else { Seen::Nothing })
            }
            Source::V2 { memory, cgroup, kills: before } => {
                // Reading arms the poll again.
                drain(memory);
                drain(cgroup);
                let mut fds =
                    [PollFd::new(memory.as_fd(), PollFlags::POLLPRI), PollFd::new(cgroup.as_fd(), PollFlags::POLLPRI)];
                let _ = nix::poll::poll(&mut fds, milliseconds(timeout.min(SLICE)));
                let now = match kills(dir) {
                    Err(error) if error.is_missing() => return Ok(Seen::Gone),
                    result => result?,
                };
                if now > *before {
                    *before = now;
                    return Ok(Seen::Oom);
                }
                let populated = dir.value_of("cgroup.events", "populated")?;
                Ok(if populated == Some(1) { Seen::Nothing } else { Seen::Gone })
            }
        }
    }
}

fn kills(dir: Dir<'_>) -> Result<u64, CgroupError> {
    let pairs = dir.pairs("memory.events")?;
    Ok(pairs.iter().find(|(key, _)| key == "oom_kill").map_or(0, |(_, count)| *count))
}

fn drain(file: &mut File) {
    let mut buffer = [0; 512];
    let _ = file.seek(SeekFrom::Start(0));
    let _ = file.read(&mut buffer);
}

fn milliseconds(timeout: Duration) -> PollTimeout {
    PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Tree;
    use super::*;

    fn watch(tree: &Tree) -> OomWatch {
        let open = |name: &str| File::open(tree.path(name)).unwrap();
        let source = Source::V2 {
            memory: open("memory.events"),
            cgroup: open("cgroup.events"),
            kills: kills(tree.dir()).unwrap(),
        };
        OomWatch { dir: tree.root().to_owned(), source }
    }

    #[test]
    fn a_rising_count_is_one_event_and_an_empty_cgroup_the_end() {
        let tree = Tree::new(&[("memory.events", "oom 0\noom_kill 2\n"), ("cgroup.events", "populated 1\nfrozen 0\n")]);
        let mut watch = watch(&tree);
        let short = Duration::from_millis(1);
        assert_eq!(watch.wait(short).unwrap(), Seen::Nothing);
        tree.put("memory.events", "oom 1\noom_kill 3\n");
        assert_eq!(watch.wait(short).unwrap(), Seen::Oom);
        assert_eq!(watch.wait(short).unwrap(), Seen::Nothing);
        tree.put("cgroup.events", "populated 0\nfrozen 0\n");
        assert_eq!(watch.wait(short).unwrap(), Seen::Gone);
        std::fs::remove_file(tree.path("memory.events")).unwrap();
        assert_eq!(watch.wait(short).unwrap(), Seen::Gone);
    }
}
