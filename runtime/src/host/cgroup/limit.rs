//! Applying `linux.resources` to a container's cgroup, each part where its controller is.
//!
//! In: the resources of `config.json` or of `update`. Out: written files, and what had to be left out as warnings. A limit
//! that cannot be set is an error that names the controller.

use std::path::Path;

use oci::spec::LinuxResources;

use super::controller::{blkio, cpu, cpuset, devices, hugetlb, memory, network, pids, rdma, unified};
use super::dir::Dir;
use super::layout::Version;
use super::place::Home;
use super::{Cgroup, CgroupError, Manager};
use crate::plan::device_rules;

impl Cgroup {
    /// Applies all of `linux.resources`, device rules included. Returns what had to be left out, for the log.
    pub fn apply(&self, resources: &LinuxResources) -> Result<Vec<String>, CgroupError> {
        let mut warnings = self.update(resources)?;
        if self.manager != Manager::Disabled {
            self.apply_devices(resources, &mut warnings)?;
        }
        Ok(warnings)
    }

    /// Applies `linux.resources` to a container that runs: everything but the device rules, which plug-ins may have
    /// widened since it was made.
    pub fn update(&self, resources: &LinuxResources) -> Result<Vec<String>, CgroupError> {
        let mut warnings = Vec::new();
        if self.manager == Manager::Disabled {
            if asks_for_limits(resources) {
                warnings.push("linux.resources are not applied: the cgroup manager is disabled".to_owned());
            }
            return Ok(warnings);
        }
        if let Some(unit) = &self.unit {
            if let Some(memory) = &resources.memory {
                self.with("memory", "memory limits", |home, dir| match home.version {
                    Version::V1 => {
                        memory::below_usage(dir, memory, "memory.usage_in_bytes", "memory.memsw.usage_in_bytes")
                    }
                    Version::V2 => memory::below_usage(dir, memory, "memory.current", "memory.current"),
                })?;
            }
            unit.set_properties(resources, self.is_pure_v2())?;
        }
        self.apply_limits(resources, &mut warnings)?;
        Ok(warnings)
    }

    fn apply_limits(&self, resources: &LinuxResources, warnings: &mut Vec<String>) -> Result<(), CgroupError> {
        if let Some(pids) = resources.pids.as_ref().filter(|pids| pids::limit(pids).is_some()) {
            self.with("pids", "pids limit", |_, dir| pids::apply(dir, pids))?;
        }
        if let Some(memory) = resources.memory.as_ref().filter(|memory| asks_for_memory(memory)) {
            self.with("memory", "memory limits", |home, dir| match home.version {
                Version::V1 => memory::apply_v1(dir, memory, warnings),
                Version::V2 => memory::apply_v2(dir, memory, warnings),
            })?;
        }
        if let Some(cpu) = &resources.cpu {
            self.apply_cpu(cpu)?;
        }
        if let Some(io) = resources.block_io.as_ref().filter(|io| asks_for_io(io)) {
            let name = if self.home_of("io").is_some() { "io" } else { "blkio" };
            self.with(name, "block I/O limits", |home, dir| match home.version {
                Version::V1 => blkio::apply_v1(dir, io),
                Version::V2 => blkio::apply_v2(dir, io, warnings),
            })?;
        }
        if !resources.hugepage_limits.is_empty() {
            self.with("hugetlb", "huge page limits", |home, dir| {
                hugetlb::apply(dir, home.version, &resources.hugepage_limits)
            })?;
        }
        if !resources.rdma.is_empty() {
            self.with("rdma", "rdma limits", |_, dir| rdma::apply(dir, &resources.rdma))?;
        }
        if let Some(network) = &resources.network {
            if self.is_pure_v2() && (network.class_id.unwrap_or(0) != 0 || !network.priorities.is_empty()) {
                warnings.push("resources.network has no effect: cgroup v2 has no net_cls and net_prio".to_owned());
            } else {
                if network.class_id.unwrap_or(0) != 0 {
                    self.with("net_cls", "network class", |_, dir| network::apply_class(dir, network))?;
                }
                if !network.priorities.is_empty() {
                    self.with("net_prio", "network priorities", |_, dir| network::apply_priorities(dir, network))?;
                }
            }
        }
        self.apply_unified(resources)
    }

    fn apply_cpu(&self, cpu: &oci::spec::LinuxCpu) -> Result<(), CgroupError> {
        let set = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
        let times = oci::spec::LinuxCpu { cpus: None, mems: None, ..cpu.clone() };
        if asks_for_cpu(&times) {
            self.with("cpu", "cpu limits", |home, dir| match home.version {
                Version::V1 => cpu::apply_v1(dir, &times),
                Version::V2 => cpu::apply_v2(dir, &times),
            })?;
        }
        if set(&cpu.cpus) || set(&cpu.mems) {
            self.with("cpuset", "cpus and memory nodes", |home, dir| match home.version {
                Version::V1 => cpuset::apply_v1(dir, cpu),
                Version::V2 => cpuset::apply_v2(dir, cpu),
            })?;
        }
        Ok(())
    }

    fn apply_unified(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        if resources.unified.is_empty() {
            return Ok(());
        }
        for name in resources.unified.keys() {
            let controller = unified::check(name)?;
            if controller != "cgroup" && self.home_of(controller).is_some_and(|home| home.version == Version::V1) {
                return Err(CgroupError::Unavailable {
                    what: format!("unified resource {name:?}"),
                    reason: format!(
                        "the {controller} controller of this host is on a cgroup v1 hierarchy; use the v1 fields"
                    ),
                });
            }
        }
        let Some(home) = self.homes.iter().find(|home| home.version == Version::V2) else {
            return Err(CgroupError::Unavailable {
                what: "unified resources".to_owned(),
                reason: "this host has no cgroup v2 hierarchy".to_owned(),
            });
        };
        unified::apply(Dir::new(&home.dir), &resources.unified)
    }

    fn apply_devices(&self, resources: &LinuxResources, warnings: &mut Vec<String>) -> Result<(), CgroupError> {
        let rules = device_rules::rules(&resources.devices).map_err(devices::invalid)?;
        let result = if let Some(home) = self.home_of("devices") {
            devices::apply_v1(Dir::new(&home.dir), &rules)
        } else if let Some(home) = self.homes.iter().find(|home| home.version == Version::V2) {
            devices::apply_v2(Dir::new(&home.dir), &rules)
        } else if self.rootless {
            return Ok(());
        } else {
            return Err(CgroupError::Unavailable {
                what: "device rules".to_owned(),
                reason: "neither a devices controller nor cgroup v2 is mounted".to_owned(),
            });
        };
        match result {
            // Without privilege nobody may set device rules; without privilege nobody may make device nodes either.
            Err(error) if self.rootless => {
                warnings.push(format!("device rules are not applied: {error}"));
                Ok(())
            }
            result => result,
        }
    }

    fn with(
        &self,
        controller: &str,
        what: &str,
        act: impl FnOnce(&Home, Dir<'_>) -> Result<(), CgroupError>,
    ) -> Result<(), CgroupError> {
        let Some(home) = self.home_of(controller) else {
            return Err(CgroupError::Unavailable {
                what: what.to_owned(),
                reason: format!(
                    "container could not join or create a cgroup of the {controller} controller on this host"
                ),
            });
        };
        match act(home, Dir::new(&home.dir)) {
            // On v2 a missing file means that the parent does not hand out the controller.
            Err(error) if home.version == Version::V2 && error.is_missing() && !error_names_dir(&error, &home.dir) => {
                Err(CgroupError::Unavailable {
                    what: what.to_owned(),
                    reason: format!("{error}: is +{controller} in the parent's cgroup.subtree_control?"),
                })
            }
            result => result,
        }
    }
}

fn error_names_dir(error: &CgroupError, dir: &Path) -> bool {
    !dir.exists() && matches!(error, CgroupError::Write { .. } | CgroupError::Read { .. })
}

fn asks_for_memory(memory: &oci::spec::LinuxMemory) -> bool {
    let number = |value: Option<i64>| value.unwrap_or(0) != 0;
    [memory.limit, memory.reservation, memory.swap, memory.kernel, memory.kernel_tcp].into_iter().any(number)
        || memory.swappiness.is_some_and(|value| value != u64::MAX)
        || memory.disable_oom_killer == Some(true)
        || memory.use_hierarchy.is_some()
}

fn asks_for_cpu(cpu: &oci::spec::LinuxCpu) -> bool {
    let signed = |value: Option<i64>| value.unwrap_or(0) != 0;
    let unsigned = |value: Option<u64>| value.unwrap_or(0) != 0;
    signed(cpu.quota)
        || signed(cpu.realtime_runtime)
        || unsigned(cpu.shares)
        || unsigned(cpu.period)
        || unsigned(cpu.realtime_period)
        || cpu.burst.is_some()
        || cpu.idle.is_some()
}

fn asks_for_io(io: &oci::spec::LinuxBlockIo) -> bool {
    let throttles = [
        &io.throttle_read_bps_device,
        &io.throttle_write_bps_device,
        &io.throttle_read_iops_device,
        &io.throttle_write_iops_device,
    ];
    io.weight.unwrap_or(0) != 0
        || io.leaf_weight.unwrap_or(0) != 0
        || !io.weight_device.is_empty()
        || throttles.iter().any(|devices| !devices.is_empty())
}

fn asks_for_limits(resources: &LinuxResources) -> bool {
    *resources != LinuxResources { devices: resources.devices.clone(), ..LinuxResources::default() }
}
