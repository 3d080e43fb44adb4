//! Who lives in a container's cgroup: listing, freezing, signalling and killing its processes.
//!
//! In: a [`Cgroup`] that exists. Out: pids, and processes that are stopped, told or dead. Never waits without a deadline.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::controller::freezer;
use super::dir::Dir;
use super::layout::Version;
use super::place::Home;
use super::systemd::Unit;
use super::{Cgroup, CgroupError, tree};
use crate::host::sys::clone::{pidfd_open, pidfd_send_signal};

/// How long all processes of a cgroup may take to die of SIGKILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

impl Cgroup {
    /// Stops every process, those in sub-cgroups too.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        match self.freezing_home()? {
            (Version::V1, dir) => freezer::freeze_v1(dir),
            (Version::V2, dir) => freezer::freeze_v2(dir),
        }
    }

    /// Lets every process go on.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        match self.freezing_home()? {
            (Version::V1, dir) => freezer::thaw_v1(dir),
            (Version::V2, dir) => freezer::thaw_v2(dir),
        }
    }

    /// Whether the cgroup was told to freeze. One that is gone, or that no freezer acts on, is not frozen.
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        match self.freezing_home() {
            Ok((Version::V1, dir)) => freezer::is_frozen_v1(dir),
            Ok((Version::V2, dir)) => freezer::is_frozen_v2(dir),
            Err(_) => Ok(false),
        }
    }

    fn freezing_home(&self) -> Result<(Version, Dir<'_>), CgroupError> {
        let v1 = self.homes.iter().find(|home| home.version == Version::V1 && home.has("freezer"));
        let v2 = || self.homes.iter().find(|home| home.version == Version::V2);
        match v1.or_else(v2) {
            Some(home) => Ok((home.version, Dir::new(&home.dir))),
            None => Err(CgroupError::Unavailable {
                what: "a pause".to_owned(),
                reason: "the container is in no cgroup that can be frozen".to_owned(),
            }),
        }
    }

    /// The directory whose list of processes is the container's.
    fn census(&self) -> Option<&Home> {
        let by_name = |name: &str| self.homes.iter().find(|home| home.version == Version::V1 && home.has(name));
        let v2 = || self.homes.iter().find(|home| home.version == Version::V2);
        ["devices", "freezer", "pids", "memory", "cpu", "name=systemd"].into_iter().find_map(by_name).or_else(v2)
    }

    /// The processes of the container; `recursive` counts those in sub-cgroups too.
    pub fn pids(&self, recursive: bool) -> Result<Vec<i32>, CgroupError> {
        match self.census() {
            Some(home) => tree::pids(&home.dir, recursive),
            None => Ok(Vec::new()),
        }
    }

    /// Whether the cgroup was made for this container, by us or at our word by systemd: then whoever lives in it is the
    /// container's. One that was there before may be another's by now.
    pub fn is_ours(&self) -> bool {
        self.unit.as_ref().is_some_and(Unit::is_started) || self.census().is_some_and(|home| home.made)
    }

    /// Whether the directory of the container is there.
    pub fn exists(&self) -> bool {
        self.census().is_some_and(|home| home.dir.exists())
    }

    /// Sends a signal to every process. They are frozen meanwhile, so that none escapes by forking; a cgroup that was
    /// frozen before stays so, except for SIGKILL, which must take effect.
    pub fn signal_all(&self, signal: i32) -> Result<(), CgroupError> {
        if signal == libc::SIGKILL && self.kill_file()? {
            return Ok(());
        }
        let was_frozen = self.is_frozen().unwrap_or(false);
        let froze = !was_frozen && self.freeze().is_ok();
        let result = self.signal_each(signal);
        if froze || (was_frozen && signal == libc::SIGKILL) {
            match self.thaw() {
                Err(error) if error.is_missing() => {}
                other => other?,
            }
        }
        result
    }

    /// Through a pidfd, because only that call takes the real-time signals as plain numbers.
    fn signal_each(&self, signal: i32) -> Result<(), CgroupError> {
        for pid in self.pids(true)?.into_iter().filter(|pid| *pid > 0) {
            match pidfd_open(pid).and_then(|process| pidfd_send_signal(process.as_fd(), signal)) {
                Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                Err(errno) => {
                    return Err(CgroupError::Unavailable {
                        what: format!("signal {signal} to process {pid}"),
                        reason: errno.to_string(),
                    });
                }
            }
        }
        Ok(())
    }

    /// `cgroup.kill` (since 5.14) reaches every process below at once, frozen or not.
    fn kill_file(&self) -> Result<bool, CgroupError> {
        if !self.is_pure_v2() {
            return Ok(false);
        }
        let Some(home) = self.homes.first() else { return Ok(false) };
        match Dir::new(&home.dir).write("cgroup.kill", "1") {
            Ok(()) => Ok(true),
            Err(error) if error.is_missing() => Ok(!home.dir.exists()),
            Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Kills every process and waits until they are gone, at most ten seconds.
    pub fn kill_all(&self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + KILL_TIMEOUT;
        loop {
            self.signal_all(libc::SIGKILL)?;
            if let Some(home) = self.homes.first().filter(|home| self.is_pure_v2() && home.dir.exists()) {
                let _ = freezer::wait_event(Dir::new(&home.dir), "populated", 0, 200);
            }
            let pids = self.pids(true)?;
            if pids.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let ms = u64::try_from(KILL_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
                return Err(CgroupError::Timeout { what: format!("the death of {} process(es)", pids.len()), ms });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
