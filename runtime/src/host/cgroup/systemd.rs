//! The systemd manager: a container is a transient scope, made over D-Bus.

use std::path::{Path, PathBuf};

use oci::spec::LinuxResources;

use super::Request;
use super::error::CgroupError;
use super::place::refused;

/// Why systemd did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// Nobody answers.
    #[error(
        "cannot reach the bus at {address}: {cause}; is systemd running? --cgroup-manager cgroupfs works without it"
    )]
    Unreachable {
        /// The socket.
        address: String,
        /// What the kernel answered.
        cause: std::io::Error,
    },
}

/// A systemd unit that is a container's cgroup.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Unit {
    /// Its name, as `shoal-ID.scope`.
    pub name: String,
    /// The slice it lies in, as `machine.slice`.
    pub slice: String,
    /// Whether it belongs to the user's own systemd.
    pub user: bool,
}

impl Unit {
    pub(super) fn plan(request: &Request<'_>) -> Result<Self, CgroupError> {
        let user = request.rootless;
        let default = if user { "user.slice" } else { "system.slice" };
        let Some(text) = request.cgroups_path.filter(|text| !text.is_empty()) else {
            return Ok(Self { name: format!("shoal-{}.scope", request.id), slice: default.to_owned(), user });
        };
        let parts: Vec<&str> = text.split(':').collect();
        let [slice, prefix, name] = parts.as_slice() else {
            return Err(refused(text, "expected the format slice:prefix:name for systemd cgroups"));
        };
        let slice = if slice.is_empty() { default } else { slice };
        let name = if name.ends_with(".slice") { (*name).to_owned() } else { format!("{prefix}-{name}.scope") };
        Ok(Self { name, slice: slice.to_owned(), user })
    }

    pub(super) fn path(&self) -> Result<PathBuf, CgroupError> {
        Ok(expand_slice(&self.slice)?.join(&self.name))
    }

    fn unreachable(&self) -> CgroupError {
        let cause = std::io::Error::from_raw_os_error(libc::ENOENT);
        BusError::Unreachable { address: "/run/dbus/system_bus_socket".to_owned(), cause }.into()
    }

    pub(super) fn start(&self, _pid: i32, _v2: bool) -> Result<(), CgroupError> {
        Err(self.unreachable())
    }

    pub(super) fn set_properties(&self, _resources: &LinuxResources, _v2: bool) -> Result<(), CgroupError> {
        Err(self.unreachable())
    }

    pub(super) fn stop(&self) -> Result<(), CgroupError> {
        Err(self.unreachable())
    }
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
        path = path.join(Path::new(&format!("{prefix}.slice")));
        prefix.push('-');
    }
    Ok(path)
}
