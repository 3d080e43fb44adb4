//! The systemd manager: a container is a transient scope, made, changed and stopped over D-Bus.
//!
//! In: `cgroupsPath` as `slice:prefix:name`, `linux.resources`, annotations `org.systemd.property.NAME`. Out: a [`Unit`]
//! and its place in the hierarchy. The limits are told to systemd as properties, so that its own reload does not undo
//! them, and are also written to the files. Every conversation has a deadline: a dead bus is an error, never a hang.
//! org.freedesktop.systemd1(5), systemd.resource-control(5)

mod bus;
mod properties;
#[cfg(test)]
mod tests;
mod wire;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci::spec::LinuxResources;

use super::Request;
use super::error::CgroupError;
use super::place::refused;
use bus::Bus;
use wire::{Value, Writer};

pub use bus::BusError;

/// How long systemd may take for a job. runc waits as long.
const JOB_TIMEOUT: Duration = Duration::from_secs(30);

/// Who is told to start a unit when nothing names a prefix.
const PREFIX: &str = "shoal";

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// A systemd unit that is a container's cgroup.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Unit {
    /// Its name, as `shoal-ID.scope`.
    pub name: String,
    /// The slice it lies in, as `machine.slice`.
    pub slice: String,
    /// Whether it belongs to the user's own systemd.
    pub user: bool,
    /// Whether systemd has made it for this container. Only then it is ever stopped: another unit may have its name.
    #[serde(default = "before_it_was_kept")]
    started: bool,
    /// Limits to begin with; only known to the process that makes the container.
    #[serde(skip)]
    resources: LinuxResources,
    #[serde(skip)]
    extra: Vec<(String, Value)>,
}

impl Unit {
    pub(super) fn plan(request: &Request<'_>) -> Result<Self, CgroupError> {
        let user = request.rootless;
        let default = if user { "user.slice" } else { "system.slice" };
        let text = request.cgroups_path.filter(|text| !text.is_empty());
        let parts: Vec<&str> = text.map_or_else(|| vec!["", PREFIX, request.id], |text| text.split(':').collect());
        let [slice, prefix, name] = parts.as_slice() else {
            let text = text.unwrap_or_default();
            return Err(refused(text, "expected the format slice:prefix:name for systemd cgroups"));
        };
        let name = if name.ends_with(".slice") { (*name).to_owned() } else { format!("{prefix}-{name}.scope") };
        if name.contains(['/', '\0', '\n']) || name.len() > 255 {
            return Err(refused(&name, "not the name of a unit"));
        }
        let slice = if slice.is_empty() { default } else { slice };
        expand_slice(slice)?;
        Ok(Self {
            name,
            slice: slice.to_owned(),
            user,
            started: false,
            resources: request.resources.cloned().unwrap_or_default(),
            extra: properties::from_annotations(request.annotations)?,
        })
    }

    /// Whether systemd has made it for this container.
    pub(super) fn is_started(&self) -> bool {
        self.started
    }

    /// Where systemd puts the unit, below every mount point. A user's systemd lives in a cgroup of its own.
    pub(super) fn path(&self) -> Result<PathBuf, CgroupError> {
        let inner = expand_slice(&self.slice)?.join(&self.name);
        if !self.user {
            return Ok(inner);
        }
        let own = Bus::connect(true)?.property(MANAGER, "ControlGroup")?;
        Ok(super::layout::below(Path::new(&own), &inner))
    }

    /// Starts the scope with the process in it and waits until systemd says that it stands.
    pub(super) fn start(&mut self, pid: i32, v2: bool) -> Result<(), CgroupError> {
        let mut bus = Bus::connect(self.user)?;
        let version = bus.version()?;
        let mut all = properties::scope(&self.name, &self.slice, pid, v2);
        all.extend(properties::devices(&self.resources)?);
        all.extend(properties::limits(&self.resources, v2, version)?);
        all.extend(self.extra.iter().cloned());
        let deadline = Instant::now() + JOB_TIMEOUT;
        for attempt in 0..2 {
            match self.start_once(&mut bus, &all, deadline) {
                // A unit of that name that failed earlier is forgotten, once.
                Err(BusError::Refused { name, .. }) if name.ends_with("UnitExists") && attempt == 0 => {
                    let _ = self.reset(&mut bus);
                }
                result => {
                    result?;
                    self.started = true;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn start_once(&self, bus: &mut Bus, all: &[(String, Value)], deadline: Instant) -> Result<(), BusError> {
        let mut body = Writer::default();
        body.string(&self.name);
        body.string("replace");
        body.properties(all);
        // a(sa(sv)): no further units.
        body.empty_array(8);
        bus.job("StartTransientUnit", "ssa(sv)a(sa(sv))", body, &self.name, deadline)
    }

    /// Tells systemd the limits of a unit that runs.
    pub(super) fn set_properties(&self, resources: &LinuxResources, v2: bool) -> Result<(), CgroupError> {
        let mut bus = Bus::connect(self.user)?;
        let version = bus.version()?;
        let limits = properties::limits(resources, v2, version)?;
        if limits.is_empty() {
            return Ok(());
        }
        let mut body = Writer::default();
        body.string(&self.name);
        // Until the next boot, as the unit itself.
        body.boolean(true);
        body.properties(&limits);
        bus.call(SYSTEMD, "/org/freedesktop/systemd1", MANAGER, "SetUnitProperties", "sba(sv)", body)?;
        Ok(())
    }

    /// Stops the unit; one that is not there any more is fine.
    pub(super) fn stop(&self) -> Result<(), CgroupError> {
        let mut bus = Bus::connect(self.user)?;
        let mut body = Writer::default();
        body.string(&self.name);
        body.string("replace");
        let result = bus.job("StopUnit", "ss", body, &self.name, Instant::now() + JOB_TIMEOUT);
        let _ = self.reset(&mut bus);
        match result {
            Err(BusError::Refused { name, .. }) if name.ends_with("NoSuchUnit") => Ok(()),
            result => Ok(result?),
        }
    }

    fn reset(&self, bus: &mut Bus) -> Result<(), BusError> {
        let mut body = Writer::default();
        body.string(&self.name);
        bus.call(SYSTEMD, "/org/freedesktop/systemd1", MANAGER, "ResetFailedUnit", "s", body).map(drop)
    }
}

/// Records from before `started` was kept are of containers that stand.
fn before_it_was_kept() -> bool {
    true
}

/// `a-b.slice` lies in `a.slice`: the path of a slice is in its name. systemd.slice(5)
fn expand_slice(slice: &str) -> Result<PathBuf, CgroupError> {
    let bad = || refused(slice, "not the name of a slice");
    let name = slice.strip_suffix(".slice").filter(|name| !name.is_empty() && !slice.contains('/')).ok_or_else(bad)?;
    let mut path = PathBuf::from("/");
    if name == "-" {
        return Ok(path);
    }
    let mut prefix = String::new();
    for part in name.split('-') {
        if part.is_empty() {
            return Err(bad());
        }
        prefix.push_str(part);
        path = path.join(format!("{prefix}.slice"));
        prefix.push('-');
    }
    Ok(path)
}
