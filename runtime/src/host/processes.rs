//! `ps`: the processes of a container, as this pid namespace numbers them.

use oci::ContainerId;

use super::freeze::cgroup;
use super::state::Root;
use crate::error::Result;

/// The pids of a container, those in sub-cgroups too.
pub fn list(root: &Root, id: &ContainerId) -> Result<Vec<i32>> {
    Ok(cgroup(&root.record(id)?)?.pids(true)?)
}
