//! A container's place in the cgroup hierarchies: made, limited, entered, frozen, emptied, measured, removed.
//!
//! In: `cgroupsPath`, the container's id, the manager, `linux.resources`, and the [`Layout`] of the host. Out: a
//! [`Cgroup`], which is a list of [`Home`]s (one directory for each hierarchy, v1 and v2 alike, so that v1, hybrid and v2
//! hosts are one case) and, under systemd, the unit that owns them. [`CgroupState`] is what `state.json` keeps of it.
//!
//! Never adopts a cgroup with processes in it, never removes a directory it did not make, never waits without a
//! deadline.

mod controller;
mod dir;
mod error;
#[cfg(test)]
mod fixture;
mod layout;
pub mod oom;
mod place;
pub mod resctrl;
pub mod stats;
mod systemd;
mod tree;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci::spec::LinuxResources;

use super::sys::clone::{pidfd_open, pidfd_send_signal};
use super::sys::open::close_all;
use crate::plan::device_rules;
use controller::{blkio, cpu, cpuset, devices, freezer, hugetlb, memory, network, pids, rdma, unified};
use dir::Dir;

pub use error::CgroupError;
pub use layout::{Hierarchy, Layout, Mode, Version};
pub use place::Home;
pub use systemd::{BusError, Unit};

/// How long the removal of a cgroup may take. Its processes are dead by then; the kernel frees what they held.
const DELETE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long all processes of a cgroup may take to die of SIGKILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// The version of [`CgroupState`] written here.
const STATE_VERSION: u32 = 1;

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// We do, in the cgroup file systems.
    #[default]
    Cgroupfs,
    /// systemd does, as a transient scope.
    Systemd,
    /// Nobody: the container stays in the caller's cgroup.
    Disabled,
}

/// What a container's cgroup is made from.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `linux.cgroupsPath`.
    pub cgroups_path: Option<&'a str>,
    /// The container's id.
    pub id: &'a str,
    /// Who makes it.
    pub manager: Manager,
    /// Whether a lack of permission is to be lived with where no path and no limit was asked for.
    pub rootless: bool,
    /// `linux.resources`.
    pub resources: Option<&'a LinuxResources>,
    /// Annotations of the bundle; `org.systemd.property.…` become properties of the unit.
    pub annotations: &'a [(String, String)],
    /// The host's user that a delegated v2 cgroup belongs to; `None` leaves it root's.
    pub owner: Option<u32>,
}

/// A container's cgroup.
#[derive(Debug, Clone)]
pub struct Cgroup {
    manager: Manager,
    homes: Vec<Home>,
    unit: Option<Unit>,
    rootless: bool,
    path_given: bool,
    owner: Option<u32>,
}

/// What `state.json` keeps of a cgroup. The version is in `docs/formats.md`.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct CgroupState {
    version: u32,
    manager: Manager,
    homes: Vec<Home>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<Unit>,
    #[serde(default)]
    rootless: bool,
    #[serde(default)]
    path_given: bool,
}

impl Cgroup {
    /// Decides where the cgroup lies. Touches nothing, except that a rootless systemd is asked where its own is.
    pub fn plan(request: &Request<'_>, layout: &Layout) -> Result<Self, CgroupError> {
        let path_given = request.cgroups_path.is_some_and(|path| !path.is_empty());
        let (homes, unit) = match request.manager {
            Manager::Disabled => (Vec::new(), None),
            // In an unprivileged container without cgroups there is nothing to join, which is no reason not to run.
            Manager::Cgroupfs if layout.mode() == Mode::Absent && request.rootless && !path_given => (Vec::new(), None),
            _ if layout.mode() == Mode::Absent => return Err(CgroupError::NoHierarchy),
            Manager::Cgroupfs => {
                let path = place::CgroupsPath::parse(request.cgroups_path, request.id)?;
                (place::homes(layout, &path), None)
            }
            Manager::Systemd => {
                let unit = Unit::plan(request)?;
                (place::unit_homes(layout, &unit.path()?), Some(unit))
            }
        };
        Ok(Self { manager: request.manager, homes, unit, rootless: request.rootless, path_given, owner: request.owner })
    }

    /// Opens the cgroup of a container from its saved state.
    pub fn open(state: &CgroupState) -> Result<Self, CgroupError> {
        if state.version > STATE_VERSION {
            return Err(CgroupError::StateVersion { found: state.version, supported: STATE_VERSION });
        }
        Ok(Self {
            manager: state.manager,
            homes: state.homes.clone(),
            unit: state.unit.clone(),
            rootless: state.rootless,
            path_given: state.path_given,
            owner: None,
        })
    }

    /// What to save.
    pub fn state(&self) -> CgroupState {
        CgroupState {
            version: STATE_VERSION,
            manager: self.manager,
            homes: self.homes.clone(),
            unit: self.unit.clone(),
            rootless: self.rootless,
            path_given: self.path_given,
        }
    }

    /// What to save before [`Self::create`]: a directory that is not there yet will be ours, also when the program dies
    /// right after making it.
    pub fn planned_state(&mut self) -> CgroupState {
        for home in &mut self.homes {
            home.made = nix::sys::stat::stat(&home.dir).is_err();
        }
        self.state()
    }

    /// The directories, in the order they are entered.
    pub fn homes(&self) -> &[Home] {
        &self.homes
    }

    /// Whether the directory through which a controller acts; `None` if nothing here does.
    pub fn home_of(&self, controller: &str) -> Option<&Home> {
        self.homes.iter().find(|home| home.has(controller))
    }

    /// Whether all of the cgroup is one v2 directory.
    pub fn is_pure_v2(&self) -> bool {
        matches!(self.homes.as_slice(), [Home { version: Version::V2, .. }])
    }

    /// Refuses a place where somebody lives, then makes the directories. Under systemd the directories come with
    /// [`Cgroup::attach`], because a scope needs a process to begin with.
    pub fn create(&mut self) -> Result<(), CgroupError> {
        for home in self.homes.iter().filter(|home| !home.made) {
            refuse_inhabited(home)?;
        }
        if self.manager != Manager::Cgroupfs {
            return Ok(());
        }
        let mut homes = std::mem::take(&mut self.homes);
        let mut kept = Vec::with_capacity(homes.len());
        for home in homes.drain(..) {
            match self.make(home) {
                Ok(home) => kept.push(home),
                Err(error) if self.forgives(&error) => {}
                Err(error) => {
                    self.homes = kept;
                    // The first error is the one to report; directories that stay behind would be its consequence.
                    let _ = self.delete();
                    return Err(error);
                }
            }
        }
        self.homes = kept;
        Ok(())
    }

    fn make(&self, mut home: Home) -> Result<Home, CgroupError> {
        if home.version == Version::V2 {
            let parent = home.dir.parent().unwrap_or(&home.mount).to_owned();
            tree::make(&parent, &home.mount)?;
            enable_controllers(&home, &parent)?;
        }
        let planned = home.made;
        home.made = tree::make(&home.dir, &home.mount)?;
        if planned && !home.made {
            // Somebody else was faster since the plan: a container that is being made at this moment, which may not
            // have put its process in yet.
            return Err(CgroupError::Taken { path: home.dir });
        }
        match self.furnish(&home) {
            Err(error) if home.made => {
                // The first error is the one to report; a directory that stays behind would be its consequence.
                let _ = tree::remove(&home.dir, Instant::now());
                Err(error)
            }
            furnished => furnished.map(|()| home),
        }
    }

    /// What a directory needs before a process can enter it.
    fn furnish(&self, home: &Home) -> Result<(), CgroupError> {
        if home.has("cpuset") && home.version == Version::V1 {
            cpuset::inherit_v1(&home.dir, &home.mount, home.made)?;
        }
        if home.version == Version::V2 {
            settle_type(home)?;
            if let Some(owner) = self.owner {
                delegate(home, owner)?;
            }
        }
        Ok(())
    }

    /// Without privilege and without a path of its own a container simply stays where its parent is.
    fn forgives(&self, error: &CgroupError) -> bool {
        self.rootless && !self.path_given && error.is_permission()
    }

    /// A descriptor for `CLONE_INTO_CGROUP`: only where one v2 directory is all there is to enter and we make it.
    pub fn clone_fd(&self) -> Option<OwnedFd> {
        if self.manager != Manager::Cgroupfs || !self.is_pure_v2() {
            return None;
        }
        File::open(&self.homes.first()?.dir).ok().map(OwnedFd::from)
    }

    /// Moves a process into every directory, back to back: after the first write the kernel's grace period is paid for.
    /// Under systemd this starts the scope.
    pub fn attach(&mut self, pid: i32) -> Result<(), CgroupError> {
        let v2 = self.is_pure_v2();
        if let Some(unit) = &mut self.unit {
            unit.start(pid, v2)?;
            return self.enter_unit(pid);
        }
        let (mut index, mut files) = (0, Vec::with_capacity(self.homes.len()));
        while index < self.homes.len() {
            match tree::attach_open(Dir::new(&self.homes[index].dir), pid) {
                Ok(file) => {
                    index += 1;
                    files.push(file);
                }
                Err(error) if self.forgives(&error) => {
                    let home = self.homes.remove(index);
                    if home.made {
                        tree::remove(&home.dir, Instant::now())?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        close_all(files);
        Ok(())
    }

    /// systemd makes the directories of the controllers it manages; the others are made and entered here.
    fn enter_unit(&mut self, pid: i32) -> Result<(), CgroupError> {
        let mut rest = std::mem::take(&mut self.homes).into_iter();
        while let Some(home) = rest.next() {
            let systemds = home.version == Version::V2 || home.has("name=systemd");
            // A directory that systemd has made for the unit is no stranger's.
            let entered = self.make(Home { made: false, ..home.clone() }).and_then(|made| {
                let attached = if systemds { Ok(()) } else { tree::attach(Dir::new(&made.dir), pid) };
                self.homes.push(made);
                attached
            });
            match entered {
                Ok(()) => {}
                Err(error) if self.forgives(&error) => {}
                Err(error) => {
                    // Whoever takes the container back needs to know of all of it.
                    self.homes.extend(rest);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Puts one more process (of `exec`) into the container's cgroup, or with `sub` into a cgroup below it. `sub` is
    /// `PATH`, or `CONTROLLERS:PATH` for some v1 hierarchies only.
    pub fn add_process(&self, pid: i32, sub: Option<&str>) -> Result<(), CgroupError> {
        let (only, path) = match sub.unwrap_or("").split_once(':') {
            Some((only, path)) => (Some(only.split(',').collect::<Vec<_>>()), path),
            None => (None, sub.unwrap_or("")),
        };
        let inner = place::relative(path)?;
        let unknown = only.iter().flatten().find(|name| self.home_of(name).is_none());
        if let Some(unknown) = unknown {
            return Err(CgroupError::Unavailable {
                what: format!("cgroup {path:?} for controller {unknown:?}"),
                reason: "the container is in no hierarchy of that controller".to_owned(),
            });
        }
        for home in &self.homes {
            let chosen = only.as_ref().is_none_or(|names| names.iter().any(|name| home.has(name)));
            let dir = if chosen { home.dir.join(&inner) } else { home.dir.clone() };
            if home.version == Version::V2 && inner.as_os_str().is_empty() {
                self.add_to_v2(home, pid)?;
                continue;
            }
            match tree::attach(Dir::new(&dir), pid) {
                Err(error) if self.rootless && error.is_permission() => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// A container that moved its processes into sub-cgroups and handed out controllers has made its own cgroup one
    /// that nobody may enter (EBUSY): then the place of its first process is right.
    fn add_to_v2(&self, home: &Home, pid: i32) -> Result<(), CgroupError> {
        match tree::attach(Dir::new(&home.dir), pid) {
            Err(error) if matches!(error.errno(), Some(libc::EBUSY | libc::EOPNOTSUPP)) => {
                let first = tree::pids(&home.dir, true)?.into_iter().find(|pid| *pid > 0);
                let Some(dir) = first.and_then(|first| v2_place_of(&home.mount, first)) else { return Err(error) };
                if !dir.starts_with(&home.dir) {
                    return Err(error);
                }
                tree::attach(Dir::new(&dir), pid)
            }
            Err(error) if self.rootless && error.is_permission() => Ok(()),
            result => result,
        }
    }

    /// Applies all of `linux.resources`, device rules included. Returns what had to be left out, for the log.
    pub fn apply(&self, resources: &LinuxResources) -> Result<Vec<String>, CgroupError> {
        let mut warnings = self.update(resources)?;
        if self.manager != Manager::Disabled {
            self.apply_devices(resources, &mut warnings)?;
        }
        Ok(warnings)
    }

    /// Applies `linux.resources` to a container that runs: everything but the device rules, which plug-ins may have
    /// widened since it was made.
    pub fn update(&self, resources: &LinuxResources) -> Result<Vec<String>, CgroupError> {
        let mut warnings = Vec::new();
        if self.manager == Manager::Disabled {
            if asks_for_limits(resources) {
                warnings.push("linux.resources are not applied: the cgroup manager is disabled".to_owned());
            }
            return Ok(warnings);
        }
        if let Some(unit) = &self.unit {
            if let Some(memory) = &resources.memory {
                self.with("memory", "memory limits", |home, dir| match home.version {
                    Version::V1 => {
                        memory::below_usage(dir, memory, "memory.usage_in_bytes", "memory.memsw.usage_in_bytes")
                    }
                    Version::V2 => memory::below_usage(dir, memory, "memory.current", "memory.current"),
                })?;
            }
            unit.set_properties(resources, self.is_pure_v2())?;
        }
        self.apply_limits(resources, &mut warnings)?;
        Ok(warnings)
    }

    fn apply_limits(&self, resources: &LinuxResources, warnings: &mut Vec<String>) -> Result<(), CgroupError> {
        if let Some(pids) = resources.pids.as_ref().filter(|pids| pids::limit(pids).is_some()) {
            self.with("pids", "pids limit", |_, dir| pids::apply(dir, pids))?;
        }
        if let Some(memory) = resources.memory.as_ref().filter(|memory| asks_for_memory(memory)) {
            self.with("memory", "memory limits", |home, dir| match home.version {
                Version::V1 => memory::apply_v1(dir, memory, warnings),
                Version::V2 => memory::apply_v2(dir, memory, warnings),
            })?;
        }
        if let Some(cpu) = &resources.cpu {
            self.apply_cpu(cpu)?;
        }
        if let Some(io) = resources.block_io.as_ref().filter(|io| asks_for_io(io)) {
            let name = if self.home_of("io").is_some() { "io" } else { "blkio" };
            self.with(name, "block I/O limits", |home, dir| match home.version {
                Version::V1 => blkio::apply_v1(dir, io),
                Version::V2 => blkio::apply_v2(dir, io, warnings),
            })?;
        }
        if !resources.hugepage_limits.is_empty() {
            self.with("hugetlb", "huge page limits", |home, dir| {
                hugetlb::apply(dir, home.version, &resources.hugepage_limits)
            })?;
        }
        if !resources.rdma.is_empty() {
            self.with("rdma", "rdma limits", |_, dir| rdma::apply(dir, &resources.rdma))?;
        }
        if let Some(network) = &resources.network {
            if self.is_pure_v2() && (network.class_id.unwrap_or(0) != 0 || !network.priorities.is_empty()) {
                warnings.push("resources.network has no effect: cgroup v2 has no net_cls and net_prio".to_owned());
            } else {
                if network.class_id.unwrap_or(0) != 0 {
                    self.with("net_cls", "network class", |_, dir| network::apply_class(dir, network))?;
                }
                if !network.priorities.is_empty() {
                    self.with("net_prio", "network priorities", |_, dir| network::apply_priorities(dir, network))?;
                }
            }
        }
        self.apply_unified(resources)
    }

    fn apply_cpu(&self, cpu: &oci::spec::LinuxCpu) -> Result<(), CgroupError> {
        let set = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
        let times = oci::spec::LinuxCpu { cpus: None, mems: None, ..cpu.clone() };
        if asks_for_cpu(&times) {
            self.with("cpu", "cpu limits", |home, dir| match home.version {
                Version::V1 => cpu::apply_v1(dir, &times),
                Version::V2 => cpu::apply_v2(dir, &times),
            })?;
        }
        if set(&cpu.cpus) || set(&cpu.mems) {
            self.with("cpuset", "cpus and memory nodes", |home, dir| match home.version {
                Version::V1 => cpuset::apply_v1(dir, cpu),
                Version::V2 => cpuset::apply_v2(dir, cpu),
            })?;
        }
        Ok(())
    }

    fn apply_unified(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        if resources.unified.is_empty() {
            return Ok(());
        }
        for name in resources.unified.keys() {
            let controller = unified::check(name)?;
            if controller != "cgroup" && self.home_of(controller).is_some_and(|home| home.version == Version::V1) {
                return Err(CgroupError::Unavailable {
                    what: format!("unified resource {name:?}"),
                    reason: format!(
                        "the {controller} controller of this host is on a cgroup v1 hierarchy; use the v1 fields"
                    ),
                });
            }
        }
        let Some(home) = self.homes.iter().find(|home| home.version == Version::V2) else {
            return Err(CgroupError::Unavailable {
                what: "unified resources".to_owned(),
                reason: "this host has no cgroup v2 hierarchy".to_owned(),
            });
        };
        unified::apply(Dir::new(&home.dir), &resources.unified)
    }

    fn apply_devices(&self, resources: &LinuxResources, warnings: &mut Vec<String>) -> Result<(), CgroupError> {
        let rules = device_rules::rules(&resources.devices).map_err(devices::invalid)?;
        let result = if let Some(home) = self.home_of("devices") {
            devices::apply_v1(Dir::new(&home.dir), &rules)
        } else if let Some(home) = self.homes.iter().find(|home| home.version == Version::V2) {
            devices::apply_v2(Dir::new(&home.dir), &rules)
        } else if self.rootless {
            return Ok(());
        } else {
            return Err(CgroupError::Unavailable {
                what: "device rules".to_owned(),
                reason: "neither a devices controller nor cgroup v2 is mounted".to_owned(),
            });
        };
        match result {
            // Without privilege nobody may set device rules; without privilege nobody may make device nodes either.
            Err(error) if self.rootless => {
                warnings.push(format!("device rules are not applied: {error}"));
                Ok(())
            }
            result => result,
        }
    }

    fn with(
        &self,
        controller: &str,
        what: &str,
        act: impl FnOnce(&Home, Dir<'_>) -> Result<(), CgroupError>,
    ) -> Result<(), CgroupError> {
        let Some(home) = self.home_of(controller) else {
            return Err(CgroupError::Unavailable {
                what: what.to_owned(),
                reason: format!(
                    "container could not join or create a cgroup of the {controller} controller on this host"
                ),
            });
        };
        match act(home, Dir::new(&home.dir)) {
            // On v2 a missing file means that the parent does not hand out the controller.
            Err(error) if home.version == Version::V2 && error.is_missing() && !error_names_dir(&error, &home.dir) => {
                Err(CgroupError::Unavailable {
                    what: what.to_owned(),
                    reason: format!("{error}: is +{controller} in the parent's cgroup.subtree_control?"),
                })
            }
            result => result,
        }
    }

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

    /// Removes what was made, in every hierarchy, and stops the unit. Goes on after a failure; the first is returned.
    pub fn delete(&self) -> Result<(), CgroupError> {
        let mut first = Ok(());
        let mut keep = |result: Result<(), CgroupError>| {
            if first.is_ok() {
                first = result;
            }
        };
        let started = self.unit.as_ref().filter(|unit| unit.is_started());
        if let Some(unit) = started {
            keep(unit.stop());
        }
        let deadline = Instant::now() + DELETE_TIMEOUT;
        for home in self.homes.iter().filter(|home| home.made || started.is_some()) {
            keep(tree::remove(&home.dir, deadline));
        }
        first
    }

    /// The directory of the container in the v2 hierarchy.
    pub fn v2_dir(&self) -> Option<&Path> {
        self.homes.iter().find(|home| home.version == Version::V2).map(|home| home.dir.as_path())
    }

    /// Directory by controller, as runc keeps it in `state.json` (`cgroup_paths`); the unified one is `""`.
    pub fn paths(&self) -> Vec<(String, PathBuf)> {
        let mut paths = Vec::new();
        for home in &self.homes {
            match home.version {
                Version::V1 => paths.extend(home.controllers.iter().map(|name| (name.clone(), home.dir.clone()))),
                Version::V2 => paths.push((String::new(), home.dir.clone())),
            }
        }
        paths
    }
}

fn error_names_dir(error: &CgroupError, dir: &Path) -> bool {
    !dir.exists() && matches!(error, CgroupError::Write { .. } | CgroupError::Read { .. })
}

/// runc's rule: a container may be put into a directory that exists, but not where processes live.
fn refuse_inhabited(home: &Home) -> Result<(), CgroupError> {
    if !home.dir.exists() {
        return Ok(());
    }
    let count = tree::pids(&home.dir, true)?.len();
    if count > 0 {
        return Err(CgroupError::NotEmpty { path: home.dir.clone(), count });
    }
    let dir = Dir::new(&home.dir);
    let frozen = match home.version {
        Version::V1 => home.has("freezer") && freezer::is_frozen_v1(dir)?,
        Version::V2 => freezer::is_frozen_v2(dir)?,
    };
    if frozen { Err(CgroupError::Frozen { path: home.dir.clone() }) } else { Ok(()) }
}

/// Hands every controller of the hierarchy down to `parent`'s children. A controller that cannot be handed out is only
/// missed when a limit needs it: the error then names it.
fn enable_controllers(home: &Home, parent: &Path) -> Result<(), CgroupError> {
    let missing = |dir: Dir<'_>| -> Result<Vec<&str>, CgroupError> {
        let enabled = dir.read_if("cgroup.subtree_control")?.unwrap_or_default();
        let enabled: Vec<&str> = enabled.split_ascii_whitespace().collect();
        Ok(home.controllers.iter().map(String::as_str).filter(|name| !enabled.contains(name)).collect())
    };
    if missing(Dir::new(parent))?.is_empty() {
        return Ok(());
    }
    let mut chain: Vec<&Path> = parent.ancestors().take_while(|dir| dir.starts_with(&home.mount)).collect();
    chain.reverse();
    for path in chain {
        let dir = Dir::new(path);
        let names = missing(dir)?;
        if names.is_empty() {
            continue;
        }
        let all: Vec<String> = names.iter().map(|name| format!("+{name}")).collect();
        if dir.write("cgroup.subtree_control", &all.join(" ")).is_err() {
            for one in &all {
                let _ = dir.write("cgroup.subtree_control", one);
            }
        }
    }
    Ok(())
}

/// A child of a threaded cgroup starts as "domain invalid": it can only become threaded.
fn settle_type(home: &Home) -> Result<(), CgroupError> {
    let dir = Dir::new(&home.dir);
    match dir.read_if("cgroup.type")?.as_deref() {
        Some("domain invalid") => dir.write("cgroup.type", "threaded"),
        _ => Ok(()),
    }
}

/// Gives the directory and the files of `/sys/kernel/cgroup/delegate` to the container's root user. cgroups(7)
fn delegate(home: &Home, owner: u32) -> Result<(), CgroupError> {
    let listed = std::fs::read_to_string("/sys/kernel/cgroup/delegate");
    let listed = listed.as_deref().unwrap_or("cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n");
    let chown = |path: PathBuf| match nix::unistd::chown(&path, Some(owner.into()), None) {
        Ok(()) | Err(nix::errno::Errno::ENOENT) => Ok(()),
        Err(errno) => Err(CgroupError::Write { path, value: format!("owner {owner}"), cause: errno.into() }),
    };
    chown(home.dir.clone())?;
    for name in listed.lines().filter(|name| !name.is_empty() && !name.contains('/')) {
        chown(home.dir.join(name))?;
    }
    Ok(())
}

fn v2_place_of(mount: &Path, pid: i32) -> Option<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(layout::below(mount, Path::new(path)))
}

fn asks_for_memory(memory: &oci::spec::LinuxMemory) -> bool {
    let number = |value: Option<i64>| value.unwrap_or(0) != 0;
    [memory.limit, memory.reservation, memory.swap, memory.kernel, memory.kernel_tcp].into_iter().any(number)
        || memory.swappiness.is_some_and(|value| value != u64::MAX)
        || memory.disable_oom_killer == Some(true)
        || memory.use_hierarchy.is_some()
}

fn asks_for_cpu(cpu: &oci::spec::LinuxCpu) -> bool {
    let signed = |value: Option<i64>| value.unwrap_or(0) != 0;
    let unsigned = |value: Option<u64>| value.unwrap_or(0) != 0;
    signed(cpu.quota)
        || signed(cpu.realtime_runtime)
        || unsigned(cpu.shares)
        || unsigned(cpu.period)
        || unsigned(cpu.realtime_period)
        || cpu.burst.is_some()
        || cpu.idle.is_some()
}

fn asks_for_io(io: &oci::spec::LinuxBlockIo) -> bool {
    let throttles = [
        &io.throttle_read_bps_device,
        &io.throttle_write_bps_device,
        &io.throttle_read_iops_device,
        &io.throttle_write_iops_device,
    ];
    io.weight.unwrap_or(0) != 0
        || io.leaf_weight.unwrap_or(0) != 0
        || !io.weight_device.is_empty()
        || throttles.iter().any(|devices| !devices.is_empty())
}

fn asks_for_limits(resources: &LinuxResources) -> bool {
    *resources != LinuxResources { devices: resources.devices.clone(), ..LinuxResources::default() }
}

#[cfg(test)]
mod tests;
