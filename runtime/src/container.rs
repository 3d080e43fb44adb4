//! An accepted container: a bundle whose `config.json` has passed every check that needs no look at the host.
//!
//! In: id, bundle path, [`Spec`]. Out: [`Container`], or the refusal that names the field.

use std::path::{Path, PathBuf};

use oci::ContainerId;
use oci::spec::Spec;

use crate::error::{Error, Result};
use crate::host::net_device;
use crate::plan::namespaces::{Kind, Namespaces};

/// An accepted container.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its name.
    pub id: ContainerId,
    /// The absolute path of its bundle.
    pub bundle: PathBuf,
    /// The absolute path of its root file system.
    pub rootfs: PathBuf,
    /// The configuration as it was read.
    pub spec: Spec,
    /// Its namespaces.
    pub namespaces: Namespaces,
}

impl Container {
    /// Checks `spec` for the bundle in the absolute directory `bundle`.
    pub fn accept(id: ContainerId, bundle: &Path, spec: Spec) -> Result<Self> {
        check_version(&spec.oci_version)?;
        let root = spec.root.as_ref().map(|root| root.path.as_str()).unwrap_or_default();
        if root.is_empty() {
            return Err(Error::refusal("root.path", "root must be specified"));
        }
        if root.contains('\0') {
            return Err(Error::refusal("root.path", "has a NUL character inside"));
        }
        let linux = spec.linux.clone().unwrap_or_default();
        let namespaces = Namespaces::accept(&linux)?;
        let own_uts = namespaces.has(Kind::Uts);
        for (field, name) in [("hostname", &spec.hostname), ("domainname", &spec.domainname)] {
            if name.as_ref().is_some_and(|name| !name.is_empty()) && !own_uts {
                return Err(Error::refusal(field, format!("unable to set {field} without a private UTS namespace")));
            }
        }
        let restricted = !linux.masked_paths.is_empty() || !linux.readonly_paths.is_empty();
        if restricted && !namespaces.has(Kind::Mount) {
            let reason = "unable to restrict sys entries without a private MNT namespace";
            return Err(Error::refusal("linux.maskedPaths", reason));
        }
        if !linux.net_devices.is_empty() && !namespaces.has(Kind::Network) {
            let reason = "unable to move network devices without a private NET namespace";
            return Err(Error::refusal("linux.netDevices", reason));
        }
        for (name, device) in &linux.net_devices {
            let inside = device.name.as_deref().filter(|name| !name.is_empty()).unwrap_or(name);
            if !net_device::is_name(name) || !net_device::is_name(inside) {
                return Err(Error::refusal(format!("linux.netDevices[{name:?}]"), "is no name of a network interface"));
            }
        }
        let rootfs = bundle.join(root);
        Ok(Self { id, bundle: bundle.to_owned(), rootfs, spec, namespaces })
    }
}

/// Accepts 1.x, with or without a pre-release part.
fn check_version(version: &str) -> Result<()> {
    let numbers = version.split(['-', '+']).next().unwrap_or_default();
    let parts: Vec<&str> = numbers.split('.').collect();
    let well_formed = parts.len() == 3 && parts.iter().all(|part| part.parse::<u32>().is_ok());
    match (well_formed, parts[0]) {
        (true, "1") => Ok(()),
        (true, _) => Err(Error::refusal("ociVersion", format!("unsupported version {version:?}, 1.x is supported"))),
        (false, _) => Err(Error::refusal("ociVersion", format!("{version:?} is no semantic version"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_version_1_is_accepted() {
        for good in ["1.0.0", "1.0.2-dev", "1.3.0", "1.99.0+x"] {
            assert!(check_version(good).is_ok(), "{good}");
        }
        for bad in ["", "1", "1.0", "2.0.0", "0.9.0", "one.0.0"] {
            assert!(check_version(bad).is_err(), "{bad}");
        }
    }
}
