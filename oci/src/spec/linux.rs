//! The Linux part of `config.json`. runtime-spec config-linux.md

use std::collections::BTreeMap;

use super::document::document;
use super::resources::LinuxResources;
use super::seccomp::LinuxSeccomp;

document! {
    /// Namespaces, resources, devices and confinement.
    pub struct Linux {
        /// User ids of the user namespace.
        pub uid_mappings: Vec<LinuxIdMapping>,
        /// Group ids of the user namespace.
        pub gid_mappings: Vec<LinuxIdMapping>,
        /// Offsets of the time namespace, by clock (`monotonic`, `boottime`).
        pub time_offsets: BTreeMap<String, LinuxTimeOffset>,
        /// Kernel parameters of the container's namespaces.
        pub sysctl: BTreeMap<String, String>,
        /// Limits of the cgroup.
        pub resources: Option<LinuxResources>,
        /// Where in the cgroup hierarchy the container lives.
        pub cgroups_path: Option<String>,
        /// Namespaces to create or to join.
        pub namespaces: Vec<LinuxNamespace>,
        /// Device nodes to make.
        pub devices: Vec<LinuxDevice>,
        /// Network interfaces to move into the container, by their name on the host.
        pub net_devices: BTreeMap<String, LinuxNetDevice>,
        /// The system call filter.
        pub seccomp: Option<LinuxSeccomp>,
        /// `shared`, `slave`, `private` or `unbindable`, or one of these with an `r` before it.
        pub rootfs_propagation: Option<String>,
        /// Paths that must not be readable.
        pub masked_paths: Vec<String>,
        /// Paths that must not be writable.
        pub readonly_paths: Vec<String>,
        /// The SELinux context of the mounts.
        pub mount_label: Option<String>,
        /// Intel Resource Director Technology.
        pub intel_rdt: Option<LinuxIntelRdt>,
        /// NUMA memory policy. set_mempolicy(2)
        pub memory_policy: Option<LinuxMemoryPolicy>,
        /// Execution domain. personality(2)
        pub personality: Option<LinuxPersonality>,
    }
}

document! {
    /// A range of ids, inside and outside.
    pub struct LinuxIdMapping {
        /// The first id inside.
        #[serde(rename = "containerID")]
        pub container_id: u32,
        /// The first id outside.
        #[serde(rename = "hostID")]
        pub host_id: u32,
        /// How many.
        pub size: u32,
    }
}

document! {
    /// The offset of one clock.
    pub struct LinuxTimeOffset {
        /// Whole seconds, may be negative.
        pub secs: i64,
        /// Nanoseconds on top.
        pub nanosecs: u32,
    }
}

document! {
    /// One namespace.
    pub struct LinuxNamespace {
        /// `pid`, `network`, `mount`, `ipc`, `uts`, `user`, `cgroup` or `time`.
        #[serde(rename = "type")]
        pub kind: String,
        /// The namespace file to join; absent means a new one.
        pub path: Option<String>,
    }
}

document! {
    /// One device node.
    pub struct LinuxDevice {
        /// Where, inside the container.
        pub path: String,
        /// `c`, `b`, `u` or `p`.
        #[serde(rename = "type")]
        pub kind: String,
        /// The major number; not for `p`.
        pub major: Option<i64>,
        /// The minor number; not for `p`.
        pub minor: Option<i64>,
        /// Permissions.
        pub file_mode: Option<u32>,
        /// Owner inside the container.
        pub uid: Option<u32>,
        /// Group inside the container.
        pub gid: Option<u32>,
    }
}

document! {
    /// A network interface to move into the container.
    pub struct LinuxNetDevice {
        /// Its name inside; absent keeps the name.
        pub name: Option<String>,
    }
}

document! {
    /// Cache and memory bandwidth allocation through resctrl.
    pub struct LinuxIntelRdt {
        /// The class of service.
        #[serde(rename = "closID")]
        pub clos_id: Option<String>,
        /// Lines for the class's `schemata`.
        pub schemata: Vec<String>,
        /// The line of the L3 cache.
        pub l3_cache_schema: Option<String>,
        /// The line of the memory bandwidth.
        pub mem_bw_schema: Option<String>,
        /// Whether a monitoring group is made.
        pub enable_monitoring: bool,
        /// Cache monitoring, as written before 1.3.
        #[serde(rename = "enableCMT")]
        pub enable_cmt: bool,
        /// Bandwidth monitoring, as written before 1.3.
        #[serde(rename = "enableMBM")]
        pub enable_mbm: bool,
    }
}

document! {
    /// NUMA memory policy.
    pub struct LinuxMemoryPolicy {
        /// As `MPOL_INTERLEAVE`.
        pub mode: String,
        /// A list of nodes, `0-1,3`.
        pub nodes: String,
        /// As `MPOL_F_STATIC_NODES`.
        pub flags: Vec<String>,
    }
}

document! {
    /// Execution domain.
    pub struct LinuxPersonality {
        /// `LINUX` or `LINUX32`.
        pub domain: String,
        /// Further flags; none is defined today.
        pub flags: Vec<String>,
    }
}
