//! CPU, I/O and memory placement of a process. runtime-spec config.md "scheduler", "ioPriority", "execCPUAffinity";
//! config-linux.md "Memory policy"

use oci::spec::{IoPriority, LinuxMemoryPolicy, Scheduler};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::host::sys::schedule::Attr;

const POLICIES: [(&str, u32); 7] = [
    ("SCHED_OTHER", 0),
    ("SCHED_FIFO", 1),
    ("SCHED_RR", 2),
    ("SCHED_BATCH", 3),
    ("SCHED_ISO", 4),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", 6),
];

const FLAGS: [(&str, u64); 7] = [
    ("SCHED_FLAG_RESET_ON_FORK", 0x01),
    ("SCHED_FLAG_RECLAIM", 0x02),
    ("SCHED_FLAG_DL_OVERRUN", 0x04),
    ("SCHED_FLAG_KEEP_POLICY", 0x08),
    ("SCHED_FLAG_KEEP_PARAMS", 0x10),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
];

const IO_CLASSES: [(&str, u32); 3] = [("IOPRIO_CLASS_RT", 1), ("IOPRIO_CLASS_BE", 2), ("IOPRIO_CLASS_IDLE", 3)];

const MEMORY_MODES: [(&str, i32); 7] = [
    ("MPOL_DEFAULT", 0),
    ("MPOL_PREFERRED", 1),
    ("MPOL_BIND", 2),
    ("MPOL_INTERLEAVE", 3),
    ("MPOL_LOCAL", 4),
    ("MPOL_PREFERRED_MANY", 5),
    ("MPOL_WEIGHTED_INTERLEAVE", 6),
];

const MEMORY_FLAGS: [(&str, i32); 3] =
    [("MPOL_F_STATIC_NODES", 1 << 15), ("MPOL_F_RELATIVE_NODES", 1 << 14), ("MPOL_F_NUMA_BALANCING", 1 << 13)];

/// A NUMA policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryPolicy {
    /// Mode and flags.
    pub mode: i32,
    /// The nodes, a bit each.
    pub nodes: Vec<u64>,
}

/// Names of memory modes and flags, for `features`.
pub fn memory_words() -> (Vec<&'static str>, Vec<&'static str>) {
    (MEMORY_MODES.iter().map(|row| row.0).collect(), MEMORY_FLAGS.iter().map(|row| row.0).collect())
}

fn find<T: Copy>(table: &[(&str, T)], word: &str, field: &str) -> Result<T> {
    table.iter().find(|row| row.0 == word).map(|row| row.1).ok_or_else(|| {
        let known: Vec<&str> = table.iter().map(|row| row.0).collect();
        Error::refusal(field, format!("{word:?} is none of {}", known.join(", ")))
    })
}

/// Reads `process.scheduler`.
pub fn scheduler(scheduler: &Scheduler) -> Result<Attr> {
    let field = "process.scheduler";
    let policy = find(&POLICIES, &scheduler.policy, "process.scheduler.policy")?;
    let flags = scheduler
        .flags
        .iter()
        .try_fold(0, |all, flag| Ok::<_, Error>(all | find(&FLAGS, flag, "process.scheduler.flags")?))?;
    let (nice, priority) = (scheduler.nice.unwrap_or(0), scheduler.priority.unwrap_or(0));
    if !(-20..=19).contains(&nice) {
        return Err(Error::refusal("process.scheduler.nice", format!("{nice} is not between -20 and 19")));
    }
    let real_time = matches!(policy, 1 | 2);
    if priority != 0 && !real_time {
        return Err(Error::refusal(field, "scheduler.priority can only be specified for SchedFIFO or SchedRR policy"));
    }
    let deadline = [scheduler.runtime, scheduler.deadline, scheduler.period].map(|value| value.unwrap_or(0));
    if policy != 6 && deadline != [0; 3] {
        let reason = "scheduler runtime/deadline/period can only be specified for SchedDeadline policy";
        return Err(Error::refusal(field, reason));
    }
    Ok(Attr {
        size: 0,
        policy,
        flags,
        nice,
        priority: u32::try_from(priority)
            .map_err(|_| Error::refusal("process.scheduler.priority", "must not be negative"))?,
        runtime: deadline[0],
        deadline: deadline[1],
        period: deadline[2],
    })
}

/// Reads `process.ioPriority` as class and priority.
pub fn io_priority(priority: &IoPriority) -> Result<(u32, u32)> {
    let class = find(&IO_CLASSES, &priority.class, "process.ioPriority.class")?;
    match u32::try_from(priority.priority) {
        Ok(level) if level <= 7 => Ok((class, level)),
        _ => {
            Err(Error::refusal("process.ioPriority.priority", format!("{} is not between 0 and 7", priority.priority)))
        }
    }
}

/// Reads `linux.memoryPolicy`.
pub fn memory_policy(policy: &LinuxMemoryPolicy) -> Result<MemoryPolicy> {
    let mode = find(&MEMORY_MODES, &policy.mode, "linux.memoryPolicy.mode")?;
    let mode = policy
        .flags
        .iter()
        .try_fold(mode, |all, flag| Ok::<_, Error>(all | find(&MEMORY_FLAGS, flag, "linux.memoryPolicy.flags")?))?;
    Ok(MemoryPolicy { mode, nodes: list("linux.memoryPolicy.nodes", &policy.nodes)? })
}

/// The greatest CPU or node number a list may name: the kernel's own bound is 8,192 CPUs and 1,024 nodes.
const NUMBER_MAX: usize = 8191;

/// Reads a list like `0-3,7` as bits; an empty text is no bit.
pub fn list(field: &str, text: &str) -> Result<Vec<u64>> {
    let wrong = || Error::refusal(field, format!("{text:?} is no list of numbers like 0-3,7"));
    let mut mask: Vec<u64> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.trim().parse().map_err(|_| wrong())?;
        let last: usize = last.trim().parse().map_err(|_| wrong())?;
        if first > last || last > NUMBER_MAX {
            return Err(wrong());
        }
        if mask.len() <= last / 64 {
            mask.resize(last / 64 + 1, 0);
        }
        (first..=last).for_each(|number| mask[number / 64] |= 1 << (number % 64));
    }
    Ok(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_become_bits() {
        assert_eq!(list("f", "0-3,7").expect("a list"), [0b1000_1111]);
        assert_eq!(list("f", "64").expect("a list"), [0, 1]);
        for bad in ["a", "3-1", "1-", "-1", "99999", "18446744073709551616"] {
            assert!(list("f", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_deadline_needs_the_deadline_policy() {
        let other = Scheduler { policy: "SCHED_OTHER".into(), runtime: Some(1), ..Scheduler::default() };
        assert!(scheduler(&other).is_err());
    }
}
