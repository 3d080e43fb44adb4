//! `pause` and `resume`.

use oci::ContainerId;
use oci::spec::Status;

use super::cgroup::Cgroup;
use super::state::{self, Directory, Record, Root};
use crate::error::{Error, Result};

/// Stops every process of a container.
pub fn pause(root: &Root, id: &ContainerId) -> Result<()> {
    let (_lock, record) = locked(root, id)?;
    match state::status(root, &record) {
        Status::Running | Status::Created => Ok(cgroup(&record)?.freeze()?),
        _ => Err(Error::state("container not running")),
    }
}

/// Lets every process of a paused container go on.
pub fn resume(root: &Root, id: &ContainerId) -> Result<()> {
    let (_lock, record) = locked(root, id)?;
    if !state::is_alive(&record) || !state::is_paused(&record) {
        return Err(Error::state("container not paused"));
    }
    Ok(cgroup(&record)?.thaw()?)
}

fn locked(root: &Root, id: &ContainerId) -> Result<(Directory, Record)> {
    let directory = root.open(id)?;
    let record = directory.record()?;
    Ok((directory, record))
}

/// The cgroup of a container.
pub fn cgroup(record: &Record) -> Result<Cgroup> {
    match &record.cgroup {
        Some(state) => Ok(Cgroup::open(state)?),
        None => Err(Error::state("the container has no cgroup")),
    }
}
