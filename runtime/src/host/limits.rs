//! `update` and `events` on a container by its name: the record found, locked where it changes, and kept true.

use std::io::Write;
use std::time::Duration;

use oci::ContainerId;
use oci::spec::{LinuxResources, Status};

use super::events::{self, EventsError, Subject};
use super::freeze::cgroup;
use super::launch::read_config;
use super::state::{self, Record, Root};
use super::update::{Change, former, merge};
use crate::error::{Error, Result};

/// Changes the limits of a container; returns what had to be left out.
pub fn update(root: &Root, id: &ContainerId, change: &Change) -> Result<Vec<String>> {
    let directory = root.open(id)?;
    let mut record = directory.record()?;
    if state::status(root, &record) == Status::Stopped {
        return Err(Error::state("container not running"));
    }
    let current = match &record.limits {
        Some(limits) => (**limits).clone(),
        None => read_config(&directory.config()?)?.linux.and_then(|linux| linux.resources).unwrap_or_default(),
    };
    let wanted: LinuxResources = merge(&current, &change.resources);
    let class = match (&change.rdt, &record.rdt) {
        (Some(_), None) => {
            return Err(Error::refusal("--l3-cache-schema", "the container has no class of Intel RDT"));
        }
        (wanted, class) => wanted.as_ref().zip(class.as_ref()),
    };
    let mut warnings = change.warnings.clone();
    let cgroup = cgroup(&record)?;
    let applied = cgroup.update(&wanted).map_err(Error::from).and_then(|odd| {
        class.map_or(Ok(()), |(schemata, class)| class.update(schemata)).map_err(Error::from)?;
        Ok(odd)
    });
    match applied {
        Ok(odd) => warnings.extend(odd),
        Err(refused) => {
            // All or nothing. What cannot be put back either is not worth more words than the cause.
            let _ = cgroup.update(&former(&current, &change.resources));
            return Err(refused);
        }
    }
    // What the next update builds on.
    record.limits = Some(Box::new(wanted));
    directory.save(&record)?;
    Ok(warnings)
}

/// Writes statistics once (without an interval), or statistics and OOM events until the container is gone.
pub fn watch(root: &Root, id: &ContainerId, interval: Option<Duration>, out: &mut impl Write) -> Result<()> {
    let record: Record = root.record(id)?;
    if state::status(root, &record) == Status::Stopped {
        return Err(Error::state(format!("container with id {id} is not running")));
    }
    let cgroup = cgroup(&record)?;
    let subject = Subject { id: id.as_str(), cgroup: &cgroup, rdt: record.rdt.as_ref() };
    let answer = match interval {
        None => events::stats(subject, out),
        Some(interval) => events::follow(subject, interval, out),
    };
    match answer {
        Err(EventsError::Cgroup(error)) => Err(error.into()),
        // Whoever listened has gone.
        Err(EventsError::Write(_)) | Ok(()) => Ok(()),
    }
}
