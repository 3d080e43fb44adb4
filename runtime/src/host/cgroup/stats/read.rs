//! The files behind the statistics, for both interfaces.

use std::collections::BTreeMap;

use super::super::dir::{Dir, number};
use super::super::error::CgroupError;
use super::super::layout::Version;
use super::super::place::Home;
use super::{Blkio, BlkioEntry, Hugetlb, MemoryEntry, Psi, PsiData, RdmaEntry, Stats};

type Answer = Result<(), CgroupError>;

/// `cpuacct.stat` counts in ticks of 1/100 s, whatever the kernel's own tick is.
const NANOSECONDS_A_TICK: u64 = 10_000_000;

pub(super) fn home(home: &Home, stats: &mut Stats) -> Answer {
    let dir = Dir::new(&home.dir);
    match home.version {
        Version::V1 => v1(home, dir, stats),
        Version::V2 => v2(home, dir, stats),
    }
}

fn v1(home: &Home, dir: Dir<'_>, stats: &mut Stats) -> Answer {
    type Reader = fn(Dir<'_>, &mut Stats) -> Answer;
    let readers: [(&str, Reader); 8] = [
        ("cpu", cpu_v1),
        ("cpuacct", cpuacct),
        ("cpuset", cpuset),
        ("memory", memory_v1),
        ("pids", pids),
        ("blkio", blkio),
        ("hugetlb", |dir, stats| hugetlb(dir, Version::V1, stats)),
        ("rdma", rdma),
    ];
    readers.iter().filter(|(name, _)| home.has(name)).try_for_each(|(_, read)| read(dir, stats))
}

fn v2(home: &Home, dir: Dir<'_>, stats: &mut Stats) -> Answer {
    type Reader = fn(Dir<'_>, &mut Stats) -> Answer;
    let readers: [(&str, Reader); 6] = [
        ("cpu", cpu_v2),
        ("memory", memory_v2),
        ("pids", pids),
        ("io", io),
        ("hugetlb", |dir, stats| hugetlb(dir, Version::V2, stats)),
        ("rdma", rdma),
    ];
    readers.iter().filter(|(name, _)| home.has(name)).try_for_each(|(_, read)| read(dir, stats))
}

fn cpu_v1(dir: Dir<'_>, stats: &mut Stats) -> Answer {
    for (key, value) in pairs_if(dir, "cpu.stat")? {
        match key.as_str() {
            "nr_periods" => stats.cpu.throttling.periods = value,
            "nr_throttled" => stats.cpu.throttling.throttled_periods = value,
            "throttled_time" => stats.cpu.throttling.throttled_time = value,
            _ => {}
        }
    }
    Ok(())
}

fn cpuacct(dir: Dir<'_>, stats: &mut Stats) -> Answer {
    let usage = &mut stats.cpu.usage;
    usage.total = number_or_zero(dir, "cpuacct.usage")?;
    for (key, value) in pairs_if(dir, "cpuacct.stat")? {
        match key.as_str() {
            "user" => usage.user = value.saturating_mul(NANOSECONDS_A_TICK),
            "system" => usage.kernel = value.saturating_mul(NANOSECONDS_A_TICK),
            _ => {}
        }
    }
    let text = dir.read_if("cpuacct.usage_percpu")?.unwrap_or_default();
    usage.percpu = text.split_ascii_whitespace().filter_map(number).collect();
    // "cpu user system" and a line for each CPU.
    for line in dir.read_if("cpuacct.usage_all")?.unwrap_or_default().lines().skip(1) {
        let words: Vec<u64> = line.split_ascii_whitespace().filter_map(number).collect();
        if let [_, user, system] = words.as_slice() {
            usage.percpu_user.push(*user);
            usage.percpu_kernel.push(*system);
        }
    }
    Ok(())
}

fn cpu_v2(dir: Dir<'_>, stats: &mut Stats) -> Answer {
    let cpu = &mut stats.cpu;
    for (key, value) in pairs_if(dir, "cpu.stat")? {
        let nanoseconds = value.saturating_mul(1000);
        match key.as_str() {
            "usage_usec" => cpu.usage.total = nanoseconds,
            "user_usec" => cpu.usage.user = nanoseconds,
            "system_usec" => cpu.usage.kernel = nanoseconds,
            "nr_periods" => cpu.throttling.periods = value,
            "nr_throttled" => cpu.throttling.throttled_periods = value,
            "throttled_usec" => cpu.throttling.throttled_time = nanoseconds,
            _ => {}
        }
    }
    cpu.psi = psi(dir, "cpu.pressure")?;
    Ok(())
}

fn cpuset(dir: Dir<'_>, stats: &mut Stats) -> Answer {
    let set = &mut stats.cpuset;
    set.cpus = list(dir, "cpuset.cpus")?;
    set.mems = list(dir, "cpuset.mems")?;
    let flags = [
        ("cpu_exclusive", &mut set.cpu_exclusive),
        ("mem_hardwall", &mut set.mem_hardwall),
        ("mem_exclusive", &mut set.mem_exclusive),
        ("memory_migrate", &mut set.memory_migrate),
        ("memory_spread_page", &mut set.memory_spread_page),
        ("memory_spread_slab", &mut set.memory_spread_slab),
        ("memory_pressure", &mut set.memory_pressure),
        ("sched_load_balance", &mut set.sched_load_balance),
    ];
    for (name, to) in flags {
        *to = number_or_zero(dir, &format!("cpuset.{name}"))?;
    }
    let level = dir.read_if("cpuset.sched_relax_domain_level")?;
    set.sched_relax_domain_level = level.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    Ok(())
}

/// `0-3,7` as numbers.
fn list(dir: Dir<'_>, name: &str) -> Result<Vec<u16>, CgroupError> {
    let text = dir.read_if(name)?.unwrap_or_default();
    let wrong = || CgroupError::parse(&dir.file(name), &text, "a list of numbers");
    let mut found = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u16, u16) = (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
        found.extend(first..=last);
    }
    Ok(found)
}

fn memory_v1(dir: Dir<'_>, stats: &mut Stats) -> Answer {
    let memory = &mut stats.memory;
    memory.raw = pairs_if(dir, "memory.stat")?.into_iter().collect();
    memory.cache = memory.raw.get("cache").copied().unwrap_or(0);
    memory.usage = entry_v1(dir, "memory")?;
    memory.swap = entry_v1(dir, "memory.memsw")?;
    memory.kernel = entry_v1(dir, "memory.kmem")?;
    memory.kernel_tcp = entry_v1(dir, "memory.kmem.tcp")?;
    Ok(())
}

fn entry_v1(dir: Dir<'_>, name: &str) -> Result<MemoryEntry, CgroupError> {
    Ok(MemoryEntry {
        limit: number_or_zero(dir, &format!("{name}.limit_in_bytes"))?,
        usage: number_or_zero(dir, &format!("{name}.usage_in_bytes"))?,
        max: number_or_zero(dir, &format!("{name}.max_usage_in_bytes"))?,
        failcnt: number_or_zero(dir, &format!("{name}.failcnt"))?,
    })
}

fn memory_v2(dir: Dir<'_>, stats: &mut Stats) -> Answer {
    let memory = &mut stats.memory;
    memory.raw = pairs_if(dir, "memory.stat")?.into_iter().collect();
    memory.cache = memory.raw.get("file").copied().unwrap_or(0);
    memory.usage = entry_v2(dir, "memory")?;
    let swap = entry_v2(dir, "memory.swap")?;
    // v1 counts memory and swap together, and so do the readers of these numbers.
    let together = |swap: u64, memory: u64| if swap == u64::MAX { swap } else { swap.saturating_add(memory) };
    memory.swap = MemoryEntry {
        limit: together(swap.limit, memory.usage.limit),
        usage: swap.usage.saturating_add(memory.usage.usage),
        ..swap
    };
    for (key, value) in pairs_if(dir, "memory.events")? {
        if key == "max" {
            memory.usage.failcnt = value;
        }
    }
    memory.psi = psi(dir, "memory.pressure")?;
    Ok(())
}

fn entry_v2(dir: Dir<'_>, name: &str) -> Result<MemoryEntry, CgroupError> {
    Ok(MemoryEntry {
        limit: number_or_zero(dir, &format!("{name}.max"))?,
        usage: number_or_zero(dir, &format!("{name}.current"))?,
        max: number_or_zero(dir, &format!("{name}.peak"))?,
        failcnt: 0,
    })
}

fn pids(dir: Dir<'_>, stats: &mut Stats) -> Answer {
    stats.pids.current = number_or_zero(dir, "pids.current")?;
    let limit = number_or_zero(dir, "pids.max")?;
    stats.pids.limit = if limit == u64::MAX { 0 } else { limit };
    Ok(())
}

/// The first of several sets of files that is there: BFQ's with debugging, BFQ's, CFQ's, the throttle's.
fn blkio(dir: Dir<'_>, stats: &mut Stats) -> Answer {
    let blkio = &mut stats.blkio;
    for prefix in ["blkio.bfq.", "blkio."] {
        let read = |name: &str| blkio_entries(dir, &format!("{prefix}{name}"));
        let Some(sectors) = read("sectors_recursive")? else { continue };
        *blkio = Blkio {
            sectors_recursive: sectors,
            io_service_time_recursive: read("io_service_time_recursive")?.unwrap_or_default(),
            io_wait_time_recursive: read("io_wait_time_recursive")?.unwrap_or_default(),
            io_merged_recursive: read("io_merged_recursive")?.unwrap_or_default(),
            io_queued_recursive: read("io_queued_recursive")?.unwrap_or_default(),
            io_time_recursive: read("time_recursive")?.unwrap_or_default(),
            io_serviced_recursive: read("io_serviced_recursive")?.unwrap_or_default(),
            io_service_bytes_recursive: read("io_service_bytes_recursive")?.unwrap_or_default(),
            psi: None,
        };
        return Ok(());
    }
    for (prefix, suffix) in [("blkio.bfq.", "_recursive"), ("blkio.throttle.", "_recursive"), ("blkio.throttle.", "")] {
        let Some(serviced) = blkio_entries(dir, &format!("{prefix}io_serviced{suffix}"))? else { continue };
        if serviced.is_empty() {
            continue;
        }
        blkio.io_serviced_recursive = serviced;
        blkio.io_service_bytes_recursive =
            blkio_entries(dir, &format!("{prefix}io_service_bytes{suffix}"))?.unwrap_or_default();
        return Ok(());
    }
    Ok(())
}

/// `8:0 Read 1282048`, `8:0 6792`; the line `Total N` sums up and is left out.
fn blkio_entries(dir: Dir<'_>, name: &str) -> Result<Option<Vec<BlkioEntry>>, CgroupError> {
    let Some(text) = dir.read_if(name)? else { return Ok(None) };
    let mut found = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split([' ', ':']).filter(|word| !word.is_empty()).collect();
        let parsed = match words.as_slice() {
            [] | ["Total", _] => continue,
            [major, minor, value] => (number(major), number(minor), "", number(value)),
            [major, minor, op, value] => (number(major), number(minor), *op, number(value)),
            _ => return Err(CgroupError::parse(&dir.file(name), line, "a device, an operation and a number")),
        };
        let (Some(major), Some(minor), op, Some(value)) = parsed else {
            return Err(CgroupError::parse(&dir.file(name), line, "a device, an operation and a number"));
        };
        found.push(BlkioEntry { major, minor, op: op.to_owned(), value });
    }
    Ok(Some(found))
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`
fn io(dir: Dir<'_>, stats: &mut Stats) -> Answer {
    for line in dir.read_if("io.stat")?.unwrap_or_default().lines() {
        let mut words = line.split_ascii_whitespace();
        let Some((major, minor)) = words.next().and_then(|device| device.split_once(':')) else { continue };
        let (Some(major), Some(minor)) = (number(major), number(minor)) else {
            return Err(CgroupError::parse(&dir.file("io.stat"), line, "a device number"));
        };
        for word in words {
            let Some((key, value)) = word.split_once('=') else { continue };
            let (op, table) = match key {
                "rbytes" => ("Read", &mut stats.blkio.io_service_bytes_recursive),
                "wbytes" => ("Write", &mut stats.blkio.io_service_bytes_recursive),
                "rios" => ("Read", &mut stats.blkio.io_serviced_recursive),
                "wios" => ("Write", &mut stats.blkio.io_serviced_recursive),
                _ => continue,
            };
            let value = number(value).ok_or_else(|| CgroupError::parse(&dir.file("io.stat"), line, "numbers"))?;
            table.push(BlkioEntry { major, minor, op: op.to_owned(), value });
        }
    }
    stats.blkio.psi = psi(dir, "io.pressure")?;
    Ok(())
}

fn hugetlb(dir: Dir<'_>, version: Version, stats: &mut Stats) -> Answer {
    let usage = if version == Version::V1 { "usage_in_bytes" } else { "current" };
    let Ok(entries) = std::fs::read_dir(dir.path()) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let size = name.to_str().and_then(|name| name.strip_prefix("hugetlb.")?.strip_suffix(usage)?.strip_suffix('.'));
        let Some(size) = size.filter(|size| !size.contains('.')) else { continue };
        // Reserved pages count before they are touched: where the kernel knows them, they are what is used.
        let rsvd = dir.number_if(&format!("hugetlb.{size}.rsvd.{usage}"))?;
        let prefix = if rsvd.is_some() { format!("hugetlb.{size}.rsvd") } else { format!("hugetlb.{size}") };
        let found = match version {
            Version::V1 => Hugetlb {
                usage: number_or_zero(dir, &format!("{prefix}.{usage}"))?,
                max: number_or_zero(dir, &format!("{prefix}.max_usage_in_bytes"))?,
                failcnt: number_or_zero(dir, &format!("{prefix}.failcnt"))?,
            },
            Version::V2 => Hugetlb {
                usage: number_or_zero(dir, &format!("{prefix}.{usage}"))?,
                max: 0,
                failcnt: dir.value_of(&format!("hugetlb.{size}.events"), "max")?.unwrap_or(0),
            },
        };
        stats.hugetlb.insert(size.to_owned(), found);
    }
    Ok(())
}

fn rdma(dir: Dir<'_>, stats: &mut Stats) -> Answer {
    for (name, to) in [("rdma.max", &mut stats.rdma.limit), ("rdma.current", &mut stats.rdma.current)] {
        for line in dir.read_if(name)?.unwrap_or_default().lines() {
            let mut words = line.split_ascii_whitespace();
            let Some(device) = words.next() else { continue };
            let values: BTreeMap<&str, u64> = words
                .filter_map(|word| word.split_once('='))
                .filter_map(|(key, value)| Some((key, number(value)?)))
                .collect();
            let value = |key: &str| values.get(key).copied().unwrap_or(0);
            let (hca_handles, hca_objects) = (value("hca_handle"), value("hca_object"));
            to.push(RdmaEntry { device: device.to_owned(), hca_handles, hca_objects });
        }
    }
    Ok(())
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`. A kernel that has pressure compiled in but off answers ENOTSUP.
fn psi(dir: Dir<'_>, name: &str) -> Result<Option<Psi>, CgroupError> {
    let text = match dir.read_if(name) {
        Ok(Some(text)) => text,
        Ok(None) => return Ok(None),
        Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut psi = Psi::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let to = match words.next() {
            Some("some") => &mut psi.some,
            Some("full") => &mut psi.full,
            _ => continue,
        };
        *to = psi_line(words).ok_or_else(|| CgroupError::parse(&dir.file(name), line, "pressure"))?;
    }
    Ok(Some(psi))
}

fn psi_line<'a>(words: impl Iterator<Item = &'a str>) -> Option<PsiData> {
    let mut data = PsiData::default();
    for word in words {
        let (key, value) = word.split_once('=')?;
        match key {
            "avg10" => data.avg10 = value.parse().ok()?,
            "avg60" => data.avg60 = value.parse().ok()?,
            "avg300" => data.avg300 = value.parse().ok()?,
            "total" => data.total = value.parse().ok()?,
            _ => {}
        }
    }
    Some(data)
}

fn number_or_zero(dir: Dir<'_>, name: &str) -> Result<u64, CgroupError> {
    Ok(dir.number_if(name)?.unwrap_or(0))
}

fn pairs_if(dir: Dir<'_>, name: &str) -> Result<Vec<(String, u64)>, CgroupError> {
    match dir.pairs(name) {
        Err(error) if error.is_missing() => Ok(Vec::new()),
        result => result,
    }
}
