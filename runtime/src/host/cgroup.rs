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
mod inhabitants;
mod layout;
mod limit;
mod make;
pub mod oom;
mod place;
pub mod resctrl;
pub mod stats;
mod systemd;
mod tree;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci::spec::LinuxResources;

pub use error::CgroupError;
pub use layout::{Hierarchy, Layout, Mode, Version};
pub use place::Home;
pub use systemd::{BusError, Unit};

/// How long the removal of a cgroup may take. Its processes are dead by then; the kernel frees what they held.
const DELETE_TIMEOUT: Duration = Duration::from_secs(10);

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

#[cfg(test)]
mod tests;
