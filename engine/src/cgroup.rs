//! A container's cgroup read back: what it uses, whether the kernel killed in it. cgroup v1, v2 and the mix of both.
//!
//! In: the cgroup's path below its mount. Out: numbers. Nothing is written here.

use std::fs;
use std::path::{Path, PathBuf};

/// Where cgroup hierarchies are mounted.
const MOUNT: &str = "/sys/fs/cgroup";

/// The folder of a cgroup in the hierarchy that has `controller`; v1's own hierarchy first, then the unified one.
pub fn folder(controller: &str, cgroup: &str) -> PathBuf {
    let relative = cgroup.trim_start_matches('/');
    let own = Path::new(MOUNT).join(controller);
    if own.is_dir() {
        return own.join(relative);
    }
    Path::new(MOUNT).join(relative)
}

/// How many processes the kernel has killed in this cgroup for want of memory.
pub fn oom_kills(cgroup: &str) -> u64 {
    let folder = folder("memory", cgroup);
    ["memory.oom_control", "memory.events"].iter().find_map(|file| keyed(&folder.join(file), "oom_kill")).unwrap_or(0)
}

/// One line `KEY NUMBER` of a flat keyed file.
pub fn keyed(file: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The only number of a file; `max` is `None`.
pub fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// What a container uses at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// CPU time in ns since its start.
    pub cpu_ns: u64,
    /// Memory without the reclaimable file cache, in bytes.
    pub memory: u64,
    /// Its limit in bytes; 0 when there is none below the host's memory.
    pub memory_limit: u64,
    /// Bytes read from block devices.
    pub read: u64,
    /// Bytes written to block devices.
    pub written: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// Reads what a container uses.
pub fn usage(cgroup: &str) -> Usage {
    let cpu = folder("cpuacct", cgroup);
    let memory = folder("memory", cgroup);
    let pids = folder("pids", cgroup);
    let blkio = folder("blkio", cgroup);
    let cpu_ns = number(&cpu.join("cpuacct.usage"))
        .or_else(|| keyed(&cpu.join("cpu.stat"), "usage_usec").map(|micros| micros * 1000))
        .unwrap_or(0);
    let (used, cache) = match number(&memory.join("memory.usage_in_bytes")) {
        Some(used) => (used, keyed(&memory.join("memory.stat"), "total_inactive_file")),
        None => {
            (number(&memory.join("memory.current")).unwrap_or(0), keyed(&memory.join("memory.stat"), "inactive_file"))
        }
    };
    let limit = number(&memory.join("memory.limit_in_bytes")).or_else(|| number(&memory.join("memory.max")));
    let (read, written) = block_io(&blkio);
    Usage {
        cpu_ns,
        memory: used.saturating_sub(cache.unwrap_or(0)),
        // v1 writes "no limit" as the largest page-aligned number.
        memory_limit: limit.filter(|limit| *limit < 1 << 60).unwrap_or(0),
        read,
        written,
        pids: number(&pids.join("pids.current")).unwrap_or(0),
    }
}

fn block_io(folder: &Path) -> (u64, u64) {
    let (mut read, mut written) = (0, 0);
    if let Ok(text) = fs::read_to_string(folder.join("blkio.throttle.io_service_bytes_recursive"))
        .or_else(|_| fs::read_to_string(folder.join("blkio.throttle.io_service_bytes")))
    {
        for line in text.lines() {
            let mut words = line.split_whitespace().skip(1);
            match (words.next(), words.next().and_then(|number| number.parse::<u64>().ok())) {
                (Some("Read"), Some(bytes)) => read += bytes,
                (Some("Write"), Some(bytes)) => written += bytes,
                _ => {}
            }
        }
    } else if let Ok(text) = fs::read_to_string(folder.join("io.stat")) {
        for word in text.split_whitespace() {
            match word.split_once('=') {
                Some(("rbytes", bytes)) => read += bytes.parse().unwrap_or(0),
                Some(("wbytes", bytes)) => written += bytes.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
    (read, written)
}

/// The processes of a cgroup and its children, by number in the host's namespace.
pub fn processes(cgroup: &str) -> Vec<i32> {
    let mut found = Vec::new();
    let mut open = vec![folder("pids", cgroup)];
    while let Some(folder) = open.pop() {
        if let Ok(text) = fs::read_to_string(folder.join("cgroup.procs")) {
            found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        }
        if let Ok(entries) = fs::read_dir(&folder) {
            open.extend(entries.flatten().filter(|entry| entry.path().is_dir()).map(|entry| entry.path()));
        }
    }
    found.sort_unstable();
    found
}
