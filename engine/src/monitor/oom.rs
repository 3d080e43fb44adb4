//! Notices that the kernel kills in a container for want of memory, at once: cgroup v1 raises a counter, v2 touches a file.
//!
//! In: a cgroup. Out: a descriptor that becomes readable. Nothing wakes up while nothing happens.

use crate::cgroup;
use crate::host::sys;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// A watch on one cgroup's memory.
#[derive(Debug)]
pub(super) struct Oom {
    signal: OwnedFd,
    /// v1 tells before it kills; the count follows.
    early: bool,
    /// How many kills were told already.
    told: u64,
}

impl Oom {
    /// Watches a cgroup; `None` where there is no memory controller.
    pub(super) fn watch(path: &str) -> Option<Self> {
        let folder = cgroup::folder("memory", path);
        let v1 = || -> io::Result<OwnedFd> {
            let (control, signal) = (File::open(folder.join("memory.oom_control"))?, sys::event_counter()?);
            let order = format!("{} {}", signal.as_raw_fd(), control.as_raw_fd());
            fs::write(folder.join("cgroup.event_control"), order)?;
            Ok(signal)
        };
        let v2 = || sys::watch(&folder.join("memory.events"), libc::IN_MODIFY);
        let (signal, early) = v1().map(|signal| (signal, true)).or_else(|_| v2().map(|signal| (signal, false))).ok()?;
        Some(Self { signal, early, told: 0 })
    }

    /// Whether the kernel has killed since the last answer. `woken` is whether the descriptor was readable.
    pub(super) fn happened(&mut self, path: &str, woken: bool) -> bool {
        if woken {
            let mut told = [0u8; 1024];
            while nix::unistd::read(&self.signal, &mut told).is_ok_and(|count| count == told.len()) {}
        }
        let kills = cgroup::oom_kills(path);
        let happened = kills > self.told || (woken && self.early && kills == self.told);
        self.told = kills.max(self.told + u64::from(happened));
        happened
    }
}

impl AsFd for Oom {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signal.as_fd()
    }
}
