//! What of this host is free right now: processors, memory, disk, ports. In: `/proc`, the data folder's file system. Out: a
//! [`Means`] row that the site's nodes hold in memory, written anew when something moved past a threshold, and nothing while
//! it did not. What services have reserved is told elsewhere ([`crate::model::NodeFacts`], their instances).

use super::journal::Journal;
use p2p::Mesh;
use p2p::table::{Body, Key, Scope, Table};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the host is looked at, and the shortest time between two rows.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Processors and memory move all the time: changes of these alone are told no more often than this.
pub const SOFT_EVERY: Duration = Duration::from_secs(10);
/// A change of memory or disk below this part of the whole is not told, in thousandths.
pub const STEP: u64 = 50;
/// The same of the busy part of the processors, which is itself a mean over about half a minute.
pub const CPU_STEP: u64 = 100;
/// Ports told at most, the lowest.
pub const PORTS_MAX: usize = 256;
/// Looking may take this part of the time at most: hosts with very many sockets are looked at less often.
const COST: u32 = 200;
/// How much of the mean a new look is worth: 1 of 16, two seconds each.
const WEIGHT: u64 = 16;

/// What a host has and has free: the body of a row of [`Table::CAPACITY`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Means {
    /// Format version, 1.
    pub v: u32,
    /// Architecture as images name it, `amd64`.
    #[serde(default)]
    pub arch: String,
    /// Processors that run.
    #[serde(default)]
    pub cpus: u32,
    /// How busy they are, in thousandths of all, over about half a minute.
    #[serde(default)]
    pub cpu_busy: u64,
    /// Memory, in bytes.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Of it, what programs can still get.
    #[serde(default)]
    pub memory_free_bytes: u64,
    /// The file system of the data folder, in bytes.
    #[serde(default)]
    pub disk_bytes: u64,
    /// Of it, what is free.
    #[serde(default)]
    pub disk_free_bytes: u64,
    /// TCP ports that programs of the host listen on, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    /// Fields of a newer version, kept as they came.
    #[serde(flatten)]
    pub extra: BTreeMap<String, serde_json::Value>,
}

/// `part` of `whole` in thousandths.
fn thousandths(part: u64, whole: u64) -> u64 {
    part.saturating_mul(1_000).checked_div(whole).unwrap_or(0)
}

impl Means {
    /// Whether something moved that is told soon: disk, ports, the size of the host.
    fn moved_hard(&self, told: &Self) -> bool {
        self.ports != told.ports
            || (self.cpus, self.memory_bytes, self.disk_bytes) != (told.cpus, told.memory_bytes, told.disk_bytes)
            || thousandths(self.disk_free_bytes.abs_diff(told.disk_free_bytes), self.disk_bytes) > STEP
    }

    /// Whether something moved that moves all the time.
    fn moved_soft(&self, told: &Self) -> bool {
        thousandths(self.memory_free_bytes.abs_diff(told.memory_free_bytes), self.memory_bytes) > STEP
            || self.cpu_busy.abs_diff(told.cpu_busy) > CPU_STEP
    }

    /// Whether a row that was told `ago` has to be told anew. Pure.
    #[must_use]
    pub fn worth_telling(&self, told: &Self, ago: Duration) -> bool {
        self.moved_hard(told) || (ago >= SOFT_EVERY && self.moved_soft(told))
    }
}

/// Reads (total, available) bytes of `/proc/meminfo`.
fn memory(meminfo: &str) -> (u64, u64) {
    let of = |name: &str| -> u64 {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap_or(0).saturating_mul(1024)
    };
    (of("MemTotal:"), of("MemAvailable:"))
}

/// Reads (busy, all) ticks of all processors from `/proc/stat`. Waiting for a disk is not busy.
fn ticks(stat: &str) -> (u64, u64) {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let fields: Vec<u64> = line.split_whitespace().take(8).filter_map(|word| word.parse().ok()).collect();
    let all: u64 = fields.iter().sum();
    let idle: u64 = fields.iter().skip(3).take(2).sum();
    (all - idle, all)
}

/// Adds the ports that listen of `/proc/net/tcp` or `tcp6` (state 0A).
fn ports(table: &str, found: &mut BTreeSet<u16>) {
    for line in table.lines().skip(1) {
        let mut words = line.split_whitespace().skip(1);
        let (Some(local), Some("0A")) = (words.next(), words.nth(1)) else { continue };
        let port = local.rsplit_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
        found.extend(port);
    }
}

/// Looks at this host again and again.
struct Look {
    folder: PathBuf,
    before: Option<(u64, u64)>,
    /// The mean of the busy part, in thousandths times [`WEIGHT`].
    busy: Option<u64>,
}

impl Look {
    fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), before: None, busy: None }
    }

    /// What is free now. What cannot be read is zero.
    fn look(&mut self) -> Means {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let (memory_bytes, memory_free_bytes) = memory(&read("/proc/meminfo"));
        let cpu_busy = self.busy(ticks(&read("/proc/stat")));
        let mut listening = BTreeSet::new();
        for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
            ports(&read(path), &mut listening);
        }
        let disk = rustix::fs::statvfs(&self.folder).ok();
        let disk = disk.map_or((0, 0), |disk| (disk.f_frsize * disk.f_blocks, disk.f_frsize * disk.f_bavail));
        let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        Means {
            v: 1,
            arch: super::host::architecture().to_owned(),
            cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
            cpu_busy,
            memory_bytes,
            memory_free_bytes,
            disk_bytes: disk.0,
            disk_free_bytes: disk.1,
            ports: listening.into_iter().take(PORTS_MAX).collect(),
            extra: BTreeMap::new(),
        }
    }

    fn busy(&mut self, now: (u64, u64)) -> u64 {
        let before = self.before.replace(now).unwrap_or_default();
        let part = thousandths(now.0.saturating_sub(before.0), now.1.saturating_sub(before.1)).min(1_000);
        let mean = self.busy.map_or(part * WEIGHT, |mean| mean - mean / WEIGHT + part);
        self.busy = Some(mean);
        mean / WEIGHT
    }
}

/// Tells what is free for as long as the node runs.
pub(crate) async fn follow(mesh: Mesh, site: String, folder: PathBuf, journal: Arc<Journal>) {
    let key = Key { scope: Scope::Site(site), ..Key::owned(Table::CAPACITY, mesh.id(), "") };
    let mut look = Look::new(&folder);
    let mut told: Option<(Means, Instant)> = None;
    let mut said = String::new();
    loop {
        let began = Instant::now();
        let looked = tokio::task::spawn_blocking(move || {
            let means = look.look();
            (look, means)
        });
        let Ok((again, means)) = looked.await else { return };
        look = again;
        let cost = began.elapsed();
        if told.as_ref().is_none_or(|(before, at)| means.worth_telling(before, at.elapsed())) {
            let body = Body::json(&means).expect("plain data has a JSON form");
            match mesh.put(key.clone(), body).await {
                Ok(_) => told = Some((means, Instant::now())),
                // A disk that is full takes no rows; the next look tries again.
                Err(error) => {
                    let text = format!("what this host has free was not told: {error}");
                    if text != said {
                        journal.note("means", &mesh.id().to_string(), &text);
                        said = text;
                    }
                }
            }
        }
        tokio::time::sleep(LOOK_EVERY.max(cost * COST)).await;
    }
}

/// What the nodes of this node's site have told, by id.
pub(crate) async fn of_all(mesh: &Mesh) -> Result<BTreeMap<String, Means>, p2p::mesh::Error> {
    let rows = mesh.rows(Table::CAPACITY).await?;
    let read = |row: &p2p::table::Row| Some((row.key.owner()?.to_string(), row.body.parse::<Means>().ok()?));
    Ok(rows.iter().filter_map(read).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1 << 30;

    fn means() -> Means {
        Means {
            v: 1,
            cpus: 4,
            cpu_busy: 200,
            memory_bytes: 100 * GB,
            memory_free_bytes: 50 * GB,
            disk_bytes: 1_000 * GB,
            disk_free_bytes: 500 * GB,
            ports: vec![22, 80],
            ..Means::default()
        }
    }

    #[test]
    fn what_moves_a_little_is_not_told_and_what_moves_all_the_time_is_told_seldom() {
        let told = means();
        let (soon, later) = (Duration::from_secs(2), SOFT_EVERY);
        let judge = |change: fn(&mut Means)| {
            let mut now = means();
            change(&mut now);
            (now.worth_telling(&told, soon), now.worth_telling(&told, later))
        };
        assert_eq!(judge(|_| ()), (false, false));
        assert_eq!(judge(|now| now.memory_free_bytes -= 5 * GB), (false, false));
        assert_eq!(judge(|now| now.memory_free_bytes -= 6 * GB), (false, true));
        assert_eq!(judge(|now| now.cpu_busy += 100), (false, false));
        assert_eq!(judge(|now| now.cpu_busy += 101), (false, true));
        assert_eq!(judge(|now| now.disk_free_bytes -= 50 * GB), (false, false));
        assert_eq!(judge(|now| now.disk_free_bytes -= 51 * GB), (true, true));
        assert_eq!(judge(|now| now.ports.push(443)), (true, true));
        assert_eq!(judge(|now| now.memory_bytes *= 2), (true, true));
    }

    #[test]
    fn the_kernels_tables_are_read() {
        let meminfo = "MemTotal:       24577000 kB\nMemFree:  1 kB\nMemAvailable:   12000000 kB\n";
        assert_eq!(memory(meminfo), (24_577_000 * 1024, 12_000_000 * 1024));
        assert_eq!(memory("nonsense"), (0, 0));
        assert_eq!(ticks("cpu  10 20 30 400 40 0 5 5 7 0\ncpu0 1 1 1 1\n"), (70, 510));
        assert_eq!(ticks(""), (0, 0));
        let tcp = "  sl  local_address rem_address   st tx_queue\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n\
            1: 0100007F:0016 0200007F:9000 01 00000000:00000000\n\
            2: 00000000:0050 00000000:0000 0A 00000000:00000000\n\
            3: torn\n";
        let mut found = BTreeSet::new();
        ports(tcp, &mut found);
        assert_eq!(found, [80, 8080].into());
    }

    #[test]
    fn the_busy_part_is_a_mean_and_the_first_look_begins_it() {
        let mut look = Look::new(Path::new("/"));
        assert_eq!(look.busy((100, 1_000)), 100);
        assert_eq!(look.busy((200, 1_100)), 156, "a busy moment counts a sixteenth");
        assert_eq!(look.busy((200, 1_100)), 146, "no time passed");
        let real = Look::new(Path::new("/")).look();
        assert!(real.memory_bytes > 0 && real.disk_bytes > 0 && real.cpus > 0, "{real:?}");
    }

    #[test]
    fn a_row_of_a_newer_build_keeps_its_fields() {
        let row: Means = serde_json::from_str(r#"{"v":2,"arch":"amd64","gpus":3}"#).unwrap();
        assert_eq!(serde_json::to_value(&row).unwrap()["gpus"], 3);
    }
}
