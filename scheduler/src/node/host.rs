//! What this host offers to services: processors, memory, architecture. In: /proc and the options. Out: [`NodeFacts`].

use super::Options;
use crate::model::NodeFacts;
use crate::quantity::CPU_NANOS;
use crate::service::Amount;
use std::collections::{BTreeMap, BTreeSet};

/// The share of the host's memory that services may reserve, in percent: the rest is the host's own.
const MEMORY_PERCENT: u64 = 90;

/// Reads the host's facts; what cannot be read counts as nothing, and nothing with a reservation is placed here then.
#[must_use]
pub fn facts(options: &Options) -> NodeFacts {
    let mesh = &options.mesh;
    NodeFacts {
        v: 1,
        name: mesh.name.clone(),
        site: mesh.site.clone(),
        labels: mesh.labels.clone(),
        os: "linux".to_owned(),
        arch: architecture().to_owned(),
        capacity: options.capacity.unwrap_or_else(capacity),
        version: mesh.version.clone(),
        addresses: mesh.advertise.clone(),
        overlay: None,
        images: BTreeSet::new(),
        networks: None,
        extra: BTreeMap::new(),
    }
}

/// Reads what this host offers: all processors, nine tenths of the memory.
#[must_use]
pub fn capacity() -> Amount {
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    let kib: u64 = total.trim().trim_end_matches("kB").trim().parse().unwrap_or(0);
    Amount {
        cpu_nanos: u64::try_from(cpus).unwrap_or(0).saturating_mul(CPU_NANOS),
        memory_bytes: kib.saturating_mul(1024) / 100 * MEMORY_PERCENT,
        pids: 0,
    }
}

/// The architecture in the words of images.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
