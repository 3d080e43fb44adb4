//! The memory controller. runtime-spec config-linux.md "Memory"

use oci::spec::LinuxMemory;

use super::super::dir::Dir;
use super::super::error::CgroupError;
use super::{max_or, some};

const LIMIT: &str = "memory.limit_in_bytes";
const MEMSW: &str = "memory.memsw.limit_in_bytes";

pub(in super::super) fn apply_v1(
    dir: Dir<'_>,
    memory: &LinuxMemory,
    warnings: &mut Vec<String>,
) -> Result<(), CgroupError> {
    warn_kernel(memory, warnings);
    below_usage(dir, memory, "memory.usage_in_bytes", "memory.memsw.usage_in_bytes")?;
    match memory.use_hierarchy {
        // Kernels since 5.11 always count the subtree; only an older one has something to switch.
        Some(true) if dir.number_if("memory.use_hierarchy")? == Some(0) => dir.write("memory.use_hierarchy", "1")?,
        Some(false) if dir.number_if("memory.use_hierarchy")? == Some(1) => {
            warnings.push("memory.useHierarchy: false has no effect: this kernel always counts the subtree".to_owned());
        }
        _ => {}
    }
    limits_v1(dir, memory)?;
    if let Some(reservation) = some(memory.reservation) {
        dir.write("memory.soft_limit_in_bytes", &reservation.to_string())?;
    }
    if memory.disable_oom_killer == Some(true) {
        dir.write("memory.oom_control", "1")?;
    }
    match memory.swappiness {
        // -1 written by engines as an unsigned number: not set.
        None | Some(u64::MAX) => Ok(()),
        Some(value @ 0..=100) => dir.write("memory.swappiness", &value.to_string()),
        Some(value) => Err(CgroupError::Invalid {
            what: "memory swappiness",
            value: value.to_string(),
            reason: "valid range is 0-100".to_owned(),
        }),
    }
}

/// The kernel holds `limit <= memsw` at every moment, so the order of the two writes depends on which way they move.
fn limits_v1(dir: Dir<'_>, memory: &LinuxMemory) -> Result<(), CgroupError> {
    let limit = some(memory.limit);
    let swap = match (limit, some(memory.swap)) {
        // No limit on memory means none on memory and swap together, where the kernel counts swap.
        (Some(-1), None) if dir.has(MEMSW) => Some(-1),
        (_, swap) => swap,
    };
    let swap_first = match (limit, swap) {
        (Some(_), Some(-1)) => true,
        (Some(_), Some(swap)) => dir.number(LIMIT)? < swap.unsigned_abs(),
        _ => false,
    };
    let write_swap = || swap.map_or(Ok(()), |swap| dir.write(MEMSW, &swap.to_string()));
    if swap_first {
        write_swap()?;
    }
    if let Some(limit) = limit {
        dir.write(LIMIT, &limit.to_string()).map_err(|error| explain_busy(dir, limit, error))?;
    }
    if swap_first { Ok(()) } else { write_swap() }
}

/// EBUSY says that the limit is below what cannot be reclaimed; the numbers say by how much.
fn explain_busy(dir: Dir<'_>, limit: i64, error: CgroupError) -> CgroupError {
    if error.errno() != Some(libc::EBUSY) {
        return error;
    }
    let read = |name| dir.number(name).map_or_else(|_| "unknown".to_owned(), |value| value.to_string());
    CgroupError::Unavailable {
        what: format!("memory limit to {limit}"),
        reason: format!(
            "the container uses more (current usage: {}, peak usage: {})",
            read("memory.usage_in_bytes"),
            read("memory.max_usage_in_bytes")
        ),
    }
}

pub(in super::super) fn apply_v2(
    dir: Dir<'_>,
    memory: &LinuxMemory,
    warnings: &mut Vec<String>,
) -> Result<(), CgroupError> {
    warn_kernel(memory, warnings);
    below_usage(dir, memory, "memory.current", "memory.current")?;
    if memory.disable_oom_killer == Some(true) {
        warnings.push("memory.disableOOMKiller has no effect: cgroup v2 has no such switch".to_owned());
    }
    if memory.swappiness.is_some_and(|value| value != u64::MAX) {
        warnings.push("memory.swappiness has no effect: cgroup v2 has no such file".to_owned());
    }
    if memory.use_hierarchy == Some(false) {
        warnings.push("memory.useHierarchy: false has no effect: cgroup v2 always counts the subtree".to_owned());
    }
    if let Some(value) = swap_max(memory.limit.unwrap_or(0), memory.swap.unwrap_or(0))? {
        let text = max_or(value);
        match dir.write("memory.swap.max", &text) {
            // Without swap accounting "none" and "no limit" are both what the kernel does anyway.
            Err(error) if error.is_missing() && (value == -1 || value == 0) => {}
            result => result?,
        }
    }
    if let Some(limit) = some(memory.limit) {
        dir.write("memory.max", &max_or(limit))?;
    }
    if let Some(reservation) = some(memory.reservation) {
        dir.write("memory.low", &max_or(reservation))?;
    }
    Ok(())
}

/// Converts v1's "memory and swap together" to v2's "swap": `None` leaves the file alone, -1 is no limit.
pub(in super::super) fn swap_max(limit: i64, memsw: i64) -> Result<Option<i64>, CgroupError> {
    let invalid = |reason: &str| CgroupError::Invalid {
        what: "memory swap limit",
        value: memsw.to_string(),
        reason: reason.to_owned(),
    };
    match (limit, memsw) {
        (-1, 0) | (_, -1) => Ok(Some(-1)),
        (_, 0) => Ok(None),
        (-1, swap) => Ok(Some(swap)),
        (0, _) => Err(invalid("it counts memory and swap together and needs a memory limit beside it")),
        (limit, _) if limit < 0 => Err(invalid("the memory limit beside it is negative")),
        (limit, memsw) if memsw < limit => Err(invalid("memory+swap limit should be >= memory limit")),
        (limit, memsw) => Ok(Some(memsw - limit)),
    }
}

/// `checkBeforeUpdate`: a limit at or below the usage would kill the container, which the user asked not to happen.
pub(in super::super) fn below_usage(
    dir: Dir<'_>,
    memory: &LinuxMemory,
    usage: &str,
    swap_usage: &str,
) -> Result<(), CgroupError> {
    if memory.check_before_update != Some(true) {
        return Ok(());
    }
    let limits = [("memory+swap limit", memory.swap, swap_usage), ("memory limit", memory.limit, usage)];
    for (what, limit, file) in limits {
        let Some(limit) = limit.filter(|limit| *limit > 0) else { continue };
        let Some(usage) = dir.number_if(file)? else { continue };
        if limit.unsigned_abs() <= usage {
            return Err(CgroupError::BelowUsage { what, limit, usage });
        }
    }
    Ok(())
}

fn warn_kernel(memory: &LinuxMemory, warnings: &mut Vec<String>) {
    if some(memory.kernel).is_some() || some(memory.kernel_tcp).is_some() {
        warnings.push("memory.kernel and memory.kernelTCP are ignored: kernels no longer offer them".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture::Tree;
    use super::*;

    #[test]
    fn swap_is_what_remains_after_memory() {
        let cases = [
            ((-1, 0), Some(-1)),
            ((0, 0), None),
            ((5, 0), None),
            ((5, -1), Some(-1)),
            ((5, 5), Some(0)),
            ((5, 9), Some(4)),
            ((-1, 9), Some(9)),
        ];
        for ((limit, memsw), expected) in cases {
            assert_eq!(swap_max(limit, memsw).unwrap(), expected, "{limit} {memsw}");
        }
        assert!(swap_max(0, 9).is_err());
        assert!(swap_max(9, 5).is_err());
        assert!(swap_max(-3, 5).is_err());
    }

    #[test]
    fn growing_limits_write_swap_first_and_shrinking_ones_memory_first() {
        let tree = Tree::new(&[(LIMIT, "100\n"), (MEMSW, "200\n")]);
        let memory = LinuxMemory { limit: Some(300), swap: Some(400), ..LinuxMemory::default() };
        apply_v1(tree.dir(), &memory, &mut Vec::new()).unwrap();
        assert_eq!((tree.text(LIMIT), tree.text(MEMSW)), ("300".to_owned(), "400".to_owned()));
        // The order shows when the second of the two files is missing.
        let tree = Tree::new(&[(LIMIT, "100\n")]);
        assert!(apply_v1(tree.dir(), &memory, &mut Vec::new()).is_err());
        assert_eq!(tree.text(LIMIT), "100\n");
        let tree = Tree::new(&[(LIMIT, "900\n")]);
        assert!(apply_v1(tree.dir(), &memory, &mut Vec::new()).is_err());
        assert_eq!(tree.text(LIMIT), "300");
    }

    #[test]
    fn no_memory_limit_lifts_the_swap_limit_where_there_is_one() {
        let memory = LinuxMemory { limit: Some(-1), ..LinuxMemory::default() };
        let tree = Tree::new(&[(LIMIT, "100\n"), (MEMSW, "200\n")]);
        apply_v1(tree.dir(), &memory, &mut Vec::new()).unwrap();
        assert_eq!(tree.text(MEMSW), "-1");
        let tree = Tree::new(&[(LIMIT, "100\n")]);
        apply_v1(tree.dir(), &memory, &mut Vec::new()).unwrap();
    }

    #[test]
    fn v2_writes_max_low_and_swap() {
        let tree = Tree::new(&[("memory.max", ""), ("memory.low", ""), ("memory.swap.max", "")]);
        let memory = LinuxMemory { limit: Some(100), swap: Some(150), reservation: Some(50), ..LinuxMemory::default() };
        apply_v2(tree.dir(), &memory, &mut Vec::new()).unwrap();
        assert_eq!(
            [tree.text("memory.max"), tree.text("memory.swap.max"), tree.text("memory.low")],
            ["100", "50", "50"]
        );
    }

    #[test]
    fn v2_without_swap_accounting_accepts_none_and_unlimited_only() {
        let tree = Tree::new(&[("memory.max", "")]);
        let swap = |swap| LinuxMemory { limit: Some(100), swap: Some(swap), ..LinuxMemory::default() };
        apply_v2(tree.dir(), &swap(-1), &mut Vec::new()).unwrap();
        apply_v2(tree.dir(), &swap(100), &mut Vec::new()).unwrap();
        assert!(apply_v2(tree.dir(), &swap(200), &mut Vec::new()).is_err());
    }

    #[test]
    fn a_limit_below_the_usage_is_refused_only_when_asked() {
        let tree = Tree::new(&[("memory.max", "max"), ("memory.current", "500\n")]);
        let mut memory = LinuxMemory { limit: Some(400), check_before_update: Some(true), ..LinuxMemory::default() };
        let error = apply_v2(tree.dir(), &memory, &mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "rejecting memory limit 400 <= usage 500");
        assert_eq!(tree.text("memory.max"), "max");
        memory.check_before_update = None;
        apply_v2(tree.dir(), &memory, &mut Vec::new()).unwrap();
        assert_eq!(tree.text("memory.max"), "400");
    }

    #[test]
    fn what_a_kernel_cannot_do_is_said() {
        let tree = Tree::new(&[]);
        let memory = LinuxMemory {
            kernel: Some(1),
            swappiness: Some(10),
            disable_oom_killer: Some(true),
            use_hierarchy: Some(false),
            ..LinuxMemory::default()
        };
        let mut warnings = Vec::new();
        apply_v2(tree.dir(), &memory, &mut warnings).unwrap();
        assert_eq!(warnings.len(), 4);
    }

    #[test]
    fn v1_swappiness_has_a_range() {
        let tree = Tree::new(&[("memory.swappiness", "60\n")]);
        let swappiness = |value| LinuxMemory { swappiness: Some(value), ..LinuxMemory::default() };
        apply_v1(tree.dir(), &swappiness(0), &mut Vec::new()).unwrap();
        assert_eq!(tree.text("memory.swappiness"), "0");
        apply_v1(tree.dir(), &swappiness(u64::MAX), &mut Vec::new()).unwrap();
        assert!(apply_v1(tree.dir(), &swappiness(101), &mut Vec::new()).is_err());
    }
}
