//! `update`: the limits of a container that runs, changed by flags or by a document.
//!
//! In: what the container has, what the user says. Out: what it shall have, which [`super::cgroup::Cgroup::update`]
//! applies. Pure but for [`read`], which reads the document.

use std::io::Read;

use oci::spec::{LinuxBlockIo, LinuxCpu, LinuxIntelRdt, LinuxMemory, LinuxPids, LinuxResources};

/// A document of limits is small; more than this is a mistake or an attack.
const DOCUMENT_BYTES_MAX: u64 = 1 << 20;

/// Why the wish of the user cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// A flag's value.
    #[error("invalid value for {flag}: {value:?}: {reason}")]
    Flag {
        /// The flag, without dashes.
        flag: String,
        /// What it was given.
        value: String,
        /// What is wrong.
        reason: String,
    },
    /// The document could not be read.
    #[error("read resources from {from}: {}", crate::error::words(.cause))]
    Read {
        /// The file, or `-`.
        from: String,
        /// Why not.
        cause: std::io::Error,
    },
    /// The document is not one.
    #[error("parse resources from {from}: {cause}")]
    Parse {
        /// The file, or `-`.
        from: String,
        /// Where and why.
        cause: oci::spec::ParseError,
    },
}

/// A change: limits, and schemata of Intel RDT.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Change {
    /// Limits.
    pub resources: LinuxResources,
    /// `--l3-cache-schema` and `--mem-bw-schema`.
    pub rdt: Option<LinuxIntelRdt>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// The flags that take a value, as runc names them.
pub const FLAGS: [&str; 19] = [
    "blkio-weight",
    "cpu-period",
    "cpu-quota",
    "cpu-burst",
    "cpu-share",
    "cpu-rt-period",
    "cpu-rt-runtime",
    "cpuset-cpus",
    "cpuset-mems",
    "kernel-memory",
    "kernel-memory-tcp",
    "memory",
    "cpu-idle",
    "memory-reservation",
    "memory-swap",
    "pids-limit",
    "l3-cache-schema",
    "mem-bw-schema",
    "resources",
];

impl Change {
    /// Takes one flag (one of [`FLAGS`] but `resources`) with its value. An empty value changes nothing.
    pub fn flag(&mut self, flag: &str, value: &str) -> Result<(), UpdateError> {
        if value.is_empty() {
            return Ok(());
        }
        let cpu = self.resources.cpu.get_or_insert_with(LinuxCpu::default);
        let memory = self.resources.memory.get_or_insert_with(LinuxMemory::default);
        match flag {
            "blkio-weight" => {
                let io = self.resources.block_io.get_or_insert_with(LinuxBlockIo::default);
                io.weight = Some(parse(flag, value)?);
            }
            "cpu-period" => cpu.period = Some(parse(flag, value)?),
            "cpu-quota" => cpu.quota = Some(parse(flag, value)?),
            "cpu-burst" => cpu.burst = Some(parse(flag, value)?),
            "cpu-share" => cpu.shares = Some(parse(flag, value)?),
            "cpu-rt-period" => cpu.realtime_period = Some(parse(flag, value)?),
            "cpu-rt-runtime" => cpu.realtime_runtime = Some(parse(flag, value)?),
            "cpu-idle" => cpu.idle = Some(parse(flag, value)?),
            "cpuset-cpus" => cpu.cpus = Some(value.to_owned()),
            "cpuset-mems" => cpu.mems = Some(value.to_owned()),
            "memory" => memory.limit = Some(bytes(flag, value)?),
            "memory-reservation" => memory.reservation = Some(bytes(flag, value)?),
            "memory-swap" => memory.swap = Some(bytes(flag, value)?),
            "pids-limit" => self.resources.pids = Some(LinuxPids { limit: Some(parse(flag, value)?) }),
            "l3-cache-schema" => self.rdt.get_or_insert_default().l3_cache_schema = Some(value.to_owned()),
            "mem-bw-schema" => self.rdt.get_or_insert_default().mem_bw_schema = Some(value.to_owned()),
            "kernel-memory" | "kernel-memory-tcp" => {
                self.warnings.push(format!("--{flag} is ignored: kernels no longer offer it"));
            }
            _ => return Err(wrong(flag, value, "no such limit")),
        }
        Ok(())
    }

    /// Takes a whole document; then runc ignores the flags, so what they said is forgotten (but the schemata).
    pub fn document(&mut self, from: &str, text: &[u8]) -> Result<(), UpdateError> {
        let parsed = oci::spec::parse(text);
        self.resources = parsed.map_err(|cause| UpdateError::Parse { from: from.to_owned(), cause })?;
        Ok(())
    }
}

/// Reads a document: `-` is standard input.
pub fn read(from: &str) -> Result<Vec<u8>, UpdateError> {
    let failed = |cause| UpdateError::Read { from: from.to_owned(), cause };
    let mut source: Box<dyn Read> = match from {
        "-" => Box::new(std::io::stdin()),
        path => Box::new(std::fs::File::open(path).map_err(failed)?),
    };
    let mut text = Vec::new();
    source.by_ref().take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut text).map_err(failed)?;
    if u64::try_from(text.len()).is_ok_and(|length| length > DOCUMENT_BYTES_MAX) {
        return Err(failed(std::io::Error::other("more than 1 MiB")));
    }
    Ok(text)
}

/// What the container shall have: what it has, with what the change says on top. Limits that depend on one another
/// (memory and swap, quota and period) need both. Devices stay as they are.
pub fn merge(current: &LinuxResources, change: &LinuxResources) -> LinuxResources {
    let mut merged = current.clone();
    if let Some(change) = &change.memory {
        let memory = merged.memory.get_or_insert_with(LinuxMemory::default);
        set(&mut memory.limit, change.limit);
        set(&mut memory.reservation, change.reservation);
        set(&mut memory.swap, change.swap);
        set(&mut memory.kernel, change.kernel);
        set(&mut memory.kernel_tcp, change.kernel_tcp);
        set(&mut memory.swappiness, change.swappiness);
        set(&mut memory.disable_oom_killer, change.disable_oom_killer);
        set(&mut memory.use_hierarchy, change.use_hierarchy);
        set(&mut memory.check_before_update, change.check_before_update);
        // No limit on memory and no word on swap means no limit on either.
        if change.limit == Some(-1) && change.swap.is_none() {
            memory.swap = Some(-1);
        }
    }
    if let Some(change) = &change.cpu {
        let cpu = merged.cpu.get_or_insert_with(LinuxCpu::default);
        set(&mut cpu.shares, change.shares);
        set(&mut cpu.quota, change.quota);
        set(&mut cpu.burst, change.burst);
        set(&mut cpu.period, change.period);
        set(&mut cpu.realtime_runtime, change.realtime_runtime);
        set(&mut cpu.realtime_period, change.realtime_period);
        set(&mut cpu.idle, change.idle);
        set(&mut cpu.cpus, change.cpus.clone().filter(|text| !text.is_empty()));
        set(&mut cpu.mems, change.mems.clone().filter(|text| !text.is_empty()));
    }
    if let Some(limit) = change.pids.as_ref().and_then(|pids| pids.limit) {
        merged.pids = Some(LinuxPids { limit: Some(limit) });
    }
    if let Some(change) = &change.block_io {
        let io = merged.block_io.get_or_insert_with(LinuxBlockIo::default);
        set(&mut io.weight, change.weight);
        set(&mut io.leaf_weight, change.leaf_weight);
        replace(&mut io.weight_device, &change.weight_device);
        replace(&mut io.throttle_read_bps_device, &change.throttle_read_bps_device);
        replace(&mut io.throttle_write_bps_device, &change.throttle_write_bps_device);
        replace(&mut io.throttle_read_iops_device, &change.throttle_read_iops_device);
        replace(&mut io.throttle_write_iops_device, &change.throttle_write_iops_device);
    }
    replace(&mut merged.hugepage_limits, &change.hugepage_limits);
    if change.network.is_some() {
        merged.network = change.network.clone();
    }
    merged.rdma.extend(change.rdma.clone());
    merged.unified.extend(change.unified.clone());
    merged
}

/// What puts `current` back after a part of `change` was applied: a limit that only the change has is lifted.
pub fn former(current: &LinuxResources, change: &LinuxResources) -> LinuxResources {
    let lifted = |changed: Option<i64>| changed.map(|_| -1);
    let mut neutral = LinuxResources::default();
    if let Some(change) = &change.memory {
        let (limit, swap) = (lifted(change.limit), lifted(change.swap));
        let reservation = lifted(change.reservation);
        neutral.memory = Some(LinuxMemory { limit, swap, reservation, ..LinuxMemory::default() });
    }
    if let Some(change) = &change.cpu {
        let timed = change.quota.is_some() || change.period.is_some();
        neutral.cpu = Some(LinuxCpu {
            shares: change.shares.map(|_| SHARES_DEFAULT),
            quota: timed.then_some(-1),
            period: timed.then_some(PERIOD_US_DEFAULT),
            burst: change.burst.map(|_| 0),
            idle: change.idle.map(|_| 0),
            ..LinuxCpu::default()
        });
    }
    neutral.pids = change.pids.as_ref().map(|_| LinuxPids { limit: Some(-1) });
    merge(&neutral, current)
}

/// What a cgroup has that nobody gave shares or a period.
const SHARES_DEFAULT: u64 = 1024;
const PERIOD_US_DEFAULT: u64 = 100_000;

fn set<T>(to: &mut Option<T>, from: Option<T>) {
    if from.is_some() {
        *to = from;
    }
}

fn replace<T: Clone>(to: &mut Vec<T>, from: &[T]) {
    if !from.is_empty() {
        *to = from.to_vec();
    }
}

fn wrong(flag: &str, value: &str, reason: impl ToString) -> UpdateError {
    UpdateError::Flag { flag: flag.to_owned(), value: value.to_owned(), reason: reason.to_string() }
}

fn parse<T: std::str::FromStr<Err: ToString>>(flag: &str, value: &str) -> Result<T, UpdateError> {
    value.parse().map_err(|error: T::Err| wrong(flag, value, error.to_string()))
}

fn bytes(flag: &str, value: &str) -> Result<i64, UpdateError> {
    if value == "-1" {
        return Ok(-1);
    }
    size(value).ok_or_else(|| wrong(flag, value, "expected a size as 4096, 64k, 1.5g or 512MiB, or -1"))
}

/// Reads a size in bytes: a number, perhaps with a fraction, and perhaps `k`, `m`, `g`, `t` or `p` (powers of 1024),
/// perhaps followed by `b` or `ib`, in any case.
pub fn size(text: &str) -> Option<i64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let unit = unit.trim_start().to_ascii_lowercase();
    let shift = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return None,
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() || fraction.contains('.') || fraction.len() > 9 {
        return None;
    }
    let scale = 10i128.pow(u32::try_from(fraction.len()).ok()?);
    let number = whole.parse::<i64>().ok().map(i128::from)? * scale + i128::from(fraction.parse::<u32>().unwrap_or(0));
    i64::try_from((number << shift) / scale).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, expected) in [
            ("0", 0),
            ("4096", 4096),
            ("64k", 65536),
            ("1.5G", 3 << 29),
            ("512MiB", 512 << 20),
            ("2 gb", 2 << 30),
            ("7b", 7),
        ] {
            assert_eq!(size(text), Some(expected), "{text}");
        }
        for text in ["", "k", "1x", "-5", "1.2.3", "99999999999999999999", "9000000p", "1e3"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn every_flag_is_known_and_reads_its_value() {
        let mut change = Change::default();
        for flag in FLAGS.iter().filter(|flag| **flag != "resources") {
            change.flag(flag, "10").unwrap();
        }
        assert_eq!(change.resources.cpu.as_ref().unwrap().burst, Some(10));
        assert_eq!(change.rdt.as_ref().unwrap().mem_bw_schema.as_deref(), Some("10"));
        assert_eq!(change.warnings.len(), 2);
        for (flag, value) in [("cpu-share", "-1"), ("memory", "lots"), ("blkio-weight", "70000"), ("nothing", "1")] {
            assert!(change.flag(flag, value).unwrap_err().to_string().contains(flag));
        }
    }

    #[test]
    fn a_change_keeps_what_it_does_not_name() {
        let mut current = Change::default();
        current.flag("memory", "100").unwrap();
        current.flag("memory-swap", "200").unwrap();
        current.flag("cpuset-cpus", "0-1").unwrap();
        let mut change = Change::default();
        change.flag("memory", "150").unwrap();
        change.flag("pids-limit", "5").unwrap();
        let merged = merge(&current.resources, &change.resources);
        let memory = merged.memory.unwrap();
        assert_eq!((memory.limit, memory.swap), (Some(150), Some(200)));
        assert_eq!(merged.cpu.unwrap().cpus.as_deref(), Some("0-1"));
        assert_eq!(merged.pids.unwrap().limit, Some(5));
    }

    #[test]
    fn what_was_before_a_change_has_the_limits_of_then_and_lifts_the_new_ones() {
        let (mut current, mut change) = (Change::default(), Change::default());
        current.flag("memory", "100").unwrap();
        for (flag, value) in [("memory", "200"), ("memory-reservation", "50"), ("pids-limit", "7"), ("cpu-share", "1")]
        {
            change.flag(flag, value).unwrap();
        }
        let former = former(&current.resources, &change.resources);
        let memory = former.memory.unwrap();
        assert_eq!((memory.limit, memory.swap, memory.reservation), (Some(100), None, Some(-1)));
        assert_eq!(former.pids.unwrap().limit, Some(-1));
        let cpu = former.cpu.unwrap();
        assert_eq!((cpu.shares, cpu.quota, cpu.period), (Some(1024), None, None));
    }

    #[test]
    fn lifting_the_memory_limit_lifts_the_swap_limit() {
        let mut change = Change::default();
        change.flag("memory", "-1").unwrap();
        assert_eq!(merge(&LinuxResources::default(), &change.resources).memory.unwrap().swap, Some(-1));
    }

    #[test]
    fn a_document_replaces_the_flags_and_names_what_is_wrong() {
        let mut change = Change::default();
        change.flag("memory", "5").unwrap();
        change.document("-", br#"{"cpu": {"idle": 1}}"#).unwrap();
        assert_eq!(change.resources.memory, None);
        assert_eq!(change.resources.cpu.as_ref().unwrap().idle, Some(1));
        assert!(
            change
                .document("x.json", br#"{"memory": {"limit": "much"}}"#)
                .unwrap_err()
                .to_string()
                .contains("memory.limit")
        );
    }
}
