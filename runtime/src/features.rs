//! What this runtime can do, from the tables its code uses. runtime-spec features.md

use std::collections::BTreeMap;

use serde::Serialize;

use crate::plan::{capabilities, landlock, mount_options, namespaces, schedule, seccomp};

/// The document `features` prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Features {
    oci_version_min: &'static str,
    oci_version_max: &'static str,
    hooks: [&'static str; 6],
    mount_options: Vec<String>,
    linux: Linux,
    annotations: BTreeMap<&'static str, String>,
    potentially_unsafe_config_annotations: [&'static str; 1],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    namespaces: Vec<&'static str>,
    capabilities: Vec<String>,
    cgroup: Cgroup,
    seccomp: Seccomp,
    apparmor: Enabled,
    selinux: Enabled,
    intel_rdt: IntelRdt,
    memory_policy: MemoryPolicy,
    mount_extensions: MountExtensions,
    net_devices: Enabled,
}

#[derive(Debug, Serialize)]
struct Cgroup {
    v1: bool,
    v2: bool,
    systemd: bool,
    #[serde(rename = "systemdUser")]
    systemd_user: bool,
    rdma: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Seccomp {
    enabled: bool,
    actions: Vec<&'static str>,
    operators: Vec<&'static str>,
    archs: Vec<&'static str>,
    known_flags: Vec<&'static str>,
    supported_flags: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct Enabled {
    enabled: bool,
}

#[derive(Debug, Serialize)]
struct IntelRdt {
    enabled: bool,
    schemata: bool,
    monitoring: bool,
}

#[derive(Debug, Serialize)]
struct MemoryPolicy {
    modes: Vec<&'static str>,
    flags: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct MountExtensions {
    idmap: Enabled,
}

/// Everything this build supports, whatever the host offers.
pub fn features() -> Features {
    let (modes, flags) = schedule::memory_words();
    let mut namespaces: Vec<&str> = namespaces::Kind::all().map(namespaces::Kind::word).collect();
    namespaces.sort_unstable();
    Features {
        oci_version_min: "1.0.0",
        oci_version_max: oci::spec::OCI_VERSION,
        hooks: ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        mount_options: mount_options::known(),
        linux: Linux {
            namespaces,
            capabilities: capabilities::names(),
            cgroup: Cgroup { v1: true, v2: true, systemd: true, systemd_user: true, rdma: true },
            seccomp: Seccomp {
                enabled: seccomp::Arch::host().is_some(),
                actions: seccomp::ACTIONS.iter().map(|row| row.0).collect(),
                operators: seccomp::OPERATORS.iter().map(|row| row.0).collect(),
                archs: seccomp::Arch::names().collect(),
                known_flags: seccomp::FLAGS.iter().map(|row| row.0).collect(),
                supported_flags: seccomp::FLAGS.iter().map(|row| row.0).collect(),
            },
            apparmor: Enabled { enabled: true },
            selinux: Enabled { enabled: true },
            intel_rdt: IntelRdt { enabled: true, schemata: true, monitoring: true },
            memory_policy: MemoryPolicy { modes, flags },
            mount_extensions: MountExtensions { idmap: Enabled { enabled: true } },
            net_devices: Enabled { enabled: true },
        },
        annotations: BTreeMap::from([
            ("org.shoal.runtime.landlock", landlock::ANNOTATION.to_owned()),
            ("org.shoal.runtime.version", env!("CARGO_PKG_VERSION").to_owned()),
        ]),
        potentially_unsafe_config_annotations: ["org.systemd.property."],
    }
}
