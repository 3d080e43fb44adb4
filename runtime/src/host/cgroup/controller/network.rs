//! net_cls and net_prio; v1 only. runtime-spec config-linux.md "Network"

use oci::spec::LinuxNetwork;

use super::super::dir::Dir;
use super::super::error::CgroupError;
use super::some;

pub(in super::super) fn apply_class(dir: Dir<'_>, network: &LinuxNetwork) -> Result<(), CgroupError> {
    match some(network.class_id) {
        Some(class) => dir.write("net_cls.classid", &class.to_string()),
        None => Ok(()),
    }
}

pub(in super::super) fn apply_priorities(dir: Dir<'_>, network: &LinuxNetwork) -> Result<(), CgroupError> {
    for interface in &network.priorities {
        dir.write("net_prio.ifpriomap", &format!("{} {}", interface.name, interface.priority))?;
    }
    Ok(())
}
