//! Intel Resource Director Technology: a class of service in resctrl. runtime-spec config-linux.md "IntelRdt"
//!
//! One directory below `/sys/fs/resctrl` is a class; it is removed with the container only if it was made for it.

use std::path::{Path, PathBuf};

use nix::sys::statfs::statfs;
use oci::spec::LinuxIntelRdt;
use serde::{Deserialize, Serialize};

use crate::error::{During, Error, Result};

const ROOT: &str = "/sys/fs/resctrl";

/// resctrl's `f_type`.
const RDTGROUP_SUPER_MAGIC: i64 = 0x0765_5821;

/// What `state.json` keeps of a class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RdtState {
    /// The class, if it is the container's own.
    class: Option<PathBuf>,
    /// The monitoring group, if there is one.
    monitor: Option<PathBuf>,
}

/// Refuses a class that is no single directory below the root of resctrl.
pub fn check(rdt: &LinuxIntelRdt) -> Result<()> {
    let name = rdt.clos_id.as_deref().unwrap_or_default();
    let inside = !name.contains('/') && name != "." && name != "..";
    let reserved = ["info", "mon_groups", "mon_data"].contains(&name);
    if inside && !reserved {
        Ok(())
    } else {
        Err(Error::refusal("linux.intelRdt.closID", format!("{name:?} is no name of a class")))
    }
}

/// Makes (or joins) the class and puts the process `pid` into it.
pub fn apply(rdt: &LinuxIntelRdt, id: &str, pid: i32) -> Result<RdtState> {
    let mounted = statfs(ROOT).is_ok_and(|found| found.filesystem_type().0 == RDTGROUP_SUPER_MAGIC);
    if !mounted {
        let hint = format!("mount resctrl on {ROOT}, or leave linux.intelRdt out");
        return Err(Error::HostLack { what: "resource director technology".into(), hint });
    }
    let lines = rdt.l3_cache_schema.iter().chain(&rdt.mem_bw_schema).chain(&rdt.schemata);
    let schemata: String = lines.filter(|line| !line.is_empty()).flat_map(|line| [line.as_str(), "\n"]).collect();
    let named = rdt.clos_id.as_deref().filter(|name| !name.is_empty());
    let class = Path::new(ROOT).join(named.unwrap_or(id));
    let fresh = make(&class, named.is_some())?;
    if named.is_some() && fresh && schemata.is_empty() {
        let _ = std::fs::remove_dir(&class);
        return Err(Error::refusal("linux.intelRdt.closID", "the class does not exist and no schema is given for it"));
    }
    let state = RdtState { class: fresh.then(|| class.clone()), monitor: None };
    match fill(&class, &schemata, rdt, id, pid) {
        Ok(monitor) => Ok(RdtState { monitor, ..state }),
        Err(error) => {
            remove(&state)?;
            Err(error)
        }
    }
}

fn fill(class: &Path, schemata: &str, rdt: &LinuxIntelRdt, id: &str, pid: i32) -> Result<Option<PathBuf>> {
    if !schemata.is_empty() {
        write(&class.join("schemata"), schemata)?;
    }
    write(&class.join("tasks"), &pid.to_string())?;
    if !(rdt.enable_monitoring || rdt.enable_cmt || rdt.enable_mbm) {
        return Ok(None);
    }
    let group = class.join("mon_groups").join(id);
    make(&group, false)?;
    write(&group.join("tasks"), &pid.to_string())?;
    Ok(Some(group))
}

/// Makes a directory; whether it was not there before.
fn make(path: &Path, may_exist: bool) -> Result<bool> {
    match std::fs::create_dir(path) {
        Ok(()) => Ok(true),
        Err(cause) if may_exist && cause.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(cause) => Err(cause).during(|| format!("make {}", path.display())),
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).during(|| format!("write {text:?} to {}", path.display()))
}

/// Removes what was made.
pub fn remove(state: &RdtState) -> Result<()> {
    for path in [&state.monitor, &state.class].into_iter().flatten() {
        match std::fs::remove_dir(path) {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
            removed => removed.during(|| format!("remove {}", path.display()))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_cannot_lead_out_of_resctrl() {
        let class = |name: &str| LinuxIntelRdt { clos_id: Some(name.into()), ..LinuxIntelRdt::default() };
        assert!(check(&class("guaranteed")).is_ok());
        for bad in ["..", ".", "a/b", "info"] {
            assert!(check(&class(bad)).is_err(), "{bad}");
        }
    }
}
