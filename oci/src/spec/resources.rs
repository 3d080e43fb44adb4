//! What a container's cgroup allows. runtime-spec config-linux.md "Control groups"; also what `update --resources` reads.

use std::collections::BTreeMap;

use super::document::document;

document! {
    /// Limits of one cgroup.
    pub struct LinuxResources {
        /// Which device numbers may be used, in order; the last match decides.
        pub devices: Vec<LinuxDeviceCgroup>,
        /// Memory.
        pub memory: Option<LinuxMemory>,
        /// CPU time and CPUs.
        pub cpu: Option<LinuxCpu>,
        /// Number of tasks.
        pub pids: Option<LinuxPids>,
        /// Block devices.
        #[serde(rename = "blockIO")]
        pub block_io: Option<LinuxBlockIo>,
        /// Huge pages, by size.
        pub hugepage_limits: Vec<LinuxHugepageLimit>,
        /// Class and priorities of network traffic (v1 only).
        pub network: Option<LinuxNetwork>,
        /// RDMA, by device.
        pub rdma: BTreeMap<String, LinuxRdma>,
        /// Files of cgroup v2 and their content.
        pub unified: BTreeMap<String, String>,
    }
}

document! {
    /// One rule of the device list.
    pub struct LinuxDeviceCgroup {
        /// Allow, or deny.
        pub allow: bool,
        /// `a` (all), `c` or `b`; absent means all.
        #[serde(rename = "type")]
        pub kind: Option<String>,
        /// The major number; absent means every.
        pub major: Option<i64>,
        /// The minor number; absent means every.
        pub minor: Option<i64>,
        /// Of `r`, `w` and `m`; absent means all three.
        pub access: Option<String>,
    }
}

document! {
    /// Memory limits, in bytes; -1 is no limit.
    pub struct LinuxMemory {
        /// The hard limit.
        pub limit: Option<i64>,
        /// The soft limit.
        pub reservation: Option<i64>,
        /// Memory and swap together.
        pub swap: Option<i64>,
        /// Kernel memory (v1, without effect in today's kernels).
        pub kernel: Option<i64>,
        /// Kernel memory of TCP buffers (v1).
        #[serde(rename = "kernelTCP")]
        pub kernel_tcp: Option<i64>,
        /// 0 to 100.
        pub swappiness: Option<u64>,
        /// Whether the OOM killer is off for the container (v1).
        #[serde(rename = "disableOOMKiller")]
        pub disable_oom_killer: Option<bool>,
        /// Whether limits count for the whole subtree (v1).
        pub use_hierarchy: Option<bool>,
        /// Refuse an update below what is in use.
        pub check_before_update: Option<bool>,
    }
}

document! {
    /// CPU limits; times in microseconds.
    pub struct LinuxCpu {
        /// Relative weight.
        pub shares: Option<u64>,
        /// Time allowed in one period; -1 is no limit.
        pub quota: Option<i64>,
        /// Time that may be saved for later.
        pub burst: Option<u64>,
        /// The length of a period.
        pub period: Option<u64>,
        /// Time for real-time tasks in one real-time period (v1).
        pub realtime_runtime: Option<i64>,
        /// The length of a real-time period (v1).
        pub realtime_period: Option<u64>,
        /// The CPUs, as `0-3,7`.
        pub cpus: Option<String>,
        /// The memory nodes.
        pub mems: Option<String>,
        /// 1: run only when nobody else wants to.
        pub idle: Option<i64>,
    }
}

document! {
    /// The number of tasks.
    pub struct LinuxPids {
        /// The most; 0 (before 1.3) or -1 is no limit.
        pub limit: Option<i64>,
    }
}

document! {
    /// Block device weights and throttles.
    pub struct LinuxBlockIo {
        /// Weight, 10 to 1000.
        pub weight: Option<u16>,
        /// Weight against own children (v1, CFQ).
        pub leaf_weight: Option<u16>,
        /// Weights by device.
        pub weight_device: Vec<LinuxWeightDevice>,
        /// Bytes read a second.
        pub throttle_read_bps_device: Vec<LinuxThrottleDevice>,
        /// Bytes written a second.
        pub throttle_write_bps_device: Vec<LinuxThrottleDevice>,
        /// Reads a second.
        #[serde(rename = "throttleReadIOPSDevice")]
        pub throttle_read_iops_device: Vec<LinuxThrottleDevice>,
        /// Writes a second.
        #[serde(rename = "throttleWriteIOPSDevice")]
        pub throttle_write_iops_device: Vec<LinuxThrottleDevice>,
    }
}

document! {
    /// The weight of one device.
    pub struct LinuxWeightDevice {
        /// Major number.
        pub major: i64,
        /// Minor number.
        pub minor: i64,
        /// Weight, 10 to 1000.
        pub weight: Option<u16>,
        /// Weight against own children (v1, CFQ).
        pub leaf_weight: Option<u16>,
    }
}

document! {
    /// The throttle of one device.
    pub struct LinuxThrottleDevice {
        /// Major number.
        pub major: i64,
        /// Minor number.
        pub minor: i64,
        /// Bytes or operations a second.
        pub rate: u64,
    }
}

document! {
    /// Huge pages of one size.
    pub struct LinuxHugepageLimit {
        /// As `2MB`.
        pub page_size: String,
        /// Bytes.
        pub limit: u64,
    }
}

document! {
    /// Network classes (v1).
    pub struct LinuxNetwork {
        /// The class of net_cls.
        #[serde(rename = "classID")]
        pub class_id: Option<u32>,
        /// Priorities of net_prio.
        pub priorities: Vec<LinuxInterfacePriority>,
    }
}

document! {
    /// The priority of traffic on one interface.
    pub struct LinuxInterfacePriority {
        /// The interface.
        pub name: String,
        /// Its priority.
        pub priority: u32,
    }
}

document! {
    /// RDMA objects of one device.
    pub struct LinuxRdma {
        /// Handles.
        pub hca_handles: Option<u32>,
        /// Objects.
        pub hca_objects: Option<u32>,
    }
}
