//! Intel RDT: a class of service for the container in the resctrl file system, and what it uses there.
//!
//! In: `linux.intelRdt`, the mount point. Out: a [`Group`], made, filled, measured, removed. runtime-spec
//! config-linux.md "Intel RDT"; kernel Documentation/filesystems/resctrl.rst. Never removes a class it did not make.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci::spec::LinuxIntelRdt;
use serde::{Deserialize, Serialize};

use super::dir::Dir;
use super::error::CgroupError;

/// A class of service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Where resctrl is mounted.
    pub mount: PathBuf,
    /// The directory of the class.
    pub dir: PathBuf,
    /// Whether we made the class.
    pub made: bool,
    /// The monitoring group of the container inside the class, if it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitoring: Option<PathBuf>,
}

/// The mount point of resctrl in the text of `/proc/self/mountinfo`.
pub fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    let mut lines = mountinfo.lines();
    lines.find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        if right.split(' ').next()? != "resctrl" {
            return None;
        }
        left.split(' ').nth(4).map(PathBuf::from)
    })
}

impl Group {
    /// Makes (or joins, where `closID` names one that exists) the class, and writes its schemata.
    pub fn create(mount: Option<&Path>, id: &str, rdt: &LinuxIntelRdt) -> Result<Self, CgroupError> {
        let Some(mount) = mount else {
            return Err(CgroupError::Unavailable {
                what: "intelRdt".to_owned(),
                reason: "resctrl is not mounted: the processor or the kernel lacks it, or mount -t resctrl resctrl /sys/fs/resctrl".to_owned(),
            });
        };
        let class = rdt.clos_id.as_deref().filter(|class| !class.is_empty());
        let name = class.unwrap_or(id);
        let dir = match name {
            "/" => mount.to_owned(),
            _ => mount.join(plain(name)?),
        };
        let lines = schemata(rdt);
        let existed = dir.is_dir();
        if existed && class.is_some() {
            agree(Dir::new(&dir), &lines)?;
        } else if !existed {
            make(&dir)?;
        }
        let mut group = Self { mount: mount.to_owned(), dir, made: !existed, monitoring: None };
        let filled = group.fill(id, rdt, if existed && class.is_some() { &[] } else { &lines });
        match filled {
            Ok(()) => Ok(group),
            Err(error) => {
                // What cannot be filled is not kept; the first error is the one to report.
                let _ = group.delete();
                Err(error)
            }
        }
    }

    fn fill(&mut self, id: &str, rdt: &LinuxIntelRdt, lines: &[String]) -> Result<(), CgroupError> {
        if !lines.is_empty() {
            Dir::new(&self.dir).write("schemata", &format!("{}\n", lines.join("\n")))?;
        }
        if rdt.enable_monitoring || rdt.enable_cmt || rdt.enable_mbm {
            let monitoring = self.dir.join("mon_groups").join(plain(id)?);
            make(&monitoring)?;
            self.monitoring = Some(monitoring);
        }
        Ok(())
    }

    /// Puts a process into the class and into its monitoring group.
    pub fn attach(&self, pid: i32) -> Result<(), CgroupError> {
        for dir in [Some(&self.dir), self.monitoring.as_ref()].into_iter().flatten() {
            Dir::new(dir).write("tasks", &pid.to_string())?;
        }
        Ok(())
    }

    /// Changes the schemata of a container that runs.
    pub fn update(&self, rdt: &LinuxIntelRdt) -> Result<(), CgroupError> {
        let lines = schemata(rdt);
        if lines.is_empty() {
            Ok(())
        } else {
            Dir::new(&self.dir).write("schemata", &format!("{}\n", lines.join("\n")))
        }
    }

    /// Removes what was made.
    pub fn delete(&self) -> Result<(), CgroupError> {
        let own = self.made.then_some(&self.dir);
        for dir in [self.monitoring.as_ref(), own].into_iter().flatten() {
            match fs::remove_dir(dir) {
                Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                    return Err(CgroupError::Remove { path: dir.clone(), cause, detail: String::new() });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads limits and usage.
    pub fn stats(&self) -> Result<RdtStats, CgroupError> {
        stats(&self.mount, &self.dir, self.monitoring.as_deref().unwrap_or(&self.dir))
    }
}

/// The lines to write. The lines of `schemata` come last, so they win; the old fields may hold several lines.
fn schemata(rdt: &LinuxIntelRdt) -> Vec<String> {
    let old = [rdt.l3_cache_schema.as_deref(), rdt.mem_bw_schema.as_deref()];
    let old = old.into_iter().flatten().flat_map(str::lines);
    // An L3 field that smuggles in a bandwidth line is ignored by runc; the bandwidth has a field of its own.
    let lines = old.chain(rdt.schemata.iter().flat_map(|lines| lines.lines()));
    lines.map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// A class that exists may be joined if it already has what the container asks for: changing it would change it for
/// everybody in it.
fn agree(dir: Dir<'_>, lines: &[String]) -> Result<(), CgroupError> {
    let text = dir.read("schemata")?;
    let has: Vec<&str> = text.lines().map(str::trim).collect();
    let tokens = |line: &str| -> Vec<String> {
        let (kind, values) = line.split_once(':').unwrap_or((line, ""));
        values.split(';').map(|value| format!("{}:{}", kind.trim(), value.trim().to_ascii_lowercase())).collect()
    };
    let existing: Vec<String> = has.iter().flat_map(|line| tokens(line)).collect();
    for line in lines {
        if let Some(missing) = tokens(line).into_iter().find(|token| !existing.contains(token)) {
            return Err(CgroupError::Invalid {
                what: "intelRdt schemata",
                value: missing,
                reason: format!("the class {} exists with other schemata", dir.path().display()),
            });
        }
    }
    Ok(())
}

fn plain(name: &str) -> Result<&str, CgroupError> {
    if name.contains(['/', '\n', '\0']) || name == "." || name == ".." || name.is_empty() {
        return Err(CgroupError::Path { path: name.to_owned(), reason: "a class of service is one plain name" });
    }
    Ok(name)
}

fn make(dir: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(dir) {
        Err(cause) if cause.raw_os_error() == Some(libc::ENOSPC) => Err(CgroupError::Unavailable {
            what: "intelRdt".to_owned(),
            reason: format!("the processor has no class of service left for {}; remove one", dir.display()),
        }),
        Err(cause) => Err(CgroupError::Create { path: dir.to_owned(), cause }),
        Ok(()) => Ok(()),
    }
}

/// Limits and usage, in the shape of runc's `intel_rdt`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RdtStats {
    /// What the L3 cache can do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub l3_cache_info: Option<L3CacheInfo>,
    /// The L3 line of the root class.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub l3_cache_schema_root: String,
    /// The L3 line of the container's class.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub l3_cache_schema: String,
    /// What the memory bandwidth control can do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_bw_info: Option<MemBwInfo>,
    /// The bandwidth line of the root class.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mem_bw_schema_root: String,
    /// The bandwidth line of the container's class.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mem_bw_schema: String,
    /// Bandwidth by NUMA node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mbm_stats: Option<Vec<MbmStats>>,
    /// Cache occupancy by NUMA node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmt_stats: Option<Vec<CmtStats>>,
}

/// `info/L3`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct L3CacheInfo {
    /// The mask of all bits.
    pub cbm_mask: String,
    /// The least number of bits.
    pub min_cbm_bits: u64,
    /// How many classes there can be.
    pub num_closids: u64,
}

/// `info/MB`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct MemBwInfo {
    /// The step, in percent.
    pub bandwidth_gran: u64,
    /// Whether the delay grows with the throttle.
    pub delay_linear: u64,
    /// The least, in percent.
    pub min_bandwidth: u64,
    /// How many classes there can be.
    pub num_closids: u64,
}

/// Bytes through memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct MbmStats {
    /// On all nodes.
    #[serde(skip_serializing_if = "is_zero")]
    pub mbm_total_bytes: u64,
    /// On the local node.
    #[serde(skip_serializing_if = "is_zero")]
    pub mbm_local_bytes: u64,
}

/// Bytes in the cache.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CmtStats {
    /// Bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub llc_occupancy: u64,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

fn stats(mount: &Path, class: &Path, monitored: &Path) -> Result<RdtStats, CgroupError> {
    let mut stats = RdtStats::default();
    let number = |dir: Dir<'_>, name: &str| dir.number_if(name).map(|value| value.unwrap_or(0));
    let line = |dir: &Path, kind: &str| -> Result<String, CgroupError> {
        let text = Dir::new(dir).read_if("schemata")?.unwrap_or_default();
        Ok(text.lines().map(str::trim).find(|line| line.starts_with(kind)).unwrap_or_default().to_owned())
    };
    let l3 = mount.join("info/L3");
    if l3.is_dir() {
        let dir = Dir::new(&l3);
        stats.l3_cache_info = Some(L3CacheInfo {
            cbm_mask: dir.read_if("cbm_mask")?.unwrap_or_default(),
            min_cbm_bits: number(dir, "min_cbm_bits")?,
            num_closids: number(dir, "num_closids")?,
        });
        stats.l3_cache_schema_root = line(mount, "L3")?;
        stats.l3_cache_schema = line(class, "L3")?;
    }
    let bandwidth = mount.join("info/MB");
    if bandwidth.is_dir() {
        let dir = Dir::new(&bandwidth);
        stats.mem_bw_info = Some(MemBwInfo {
            bandwidth_gran: number(dir, "bandwidth_gran")?,
            delay_linear: number(dir, "delay_linear")?,
            min_bandwidth: number(dir, "min_bandwidth")?,
            num_closids: number(dir, "num_closids")?,
        });
        stats.mem_bw_schema_root = line(mount, "MB")?;
        stats.mem_bw_schema = line(class, "MB")?;
    }
    monitor(&monitored.join("mon_data"), &mut stats)?;
    Ok(stats)
}

/// `mon_data/mon_L3_00/{mbm_total_bytes,mbm_local_bytes,llc_occupancy}`, a directory for each node.
fn monitor(data: &Path, stats: &mut RdtStats) -> Result<(), CgroupError> {
    let Ok(entries) = fs::read_dir(data) else { return Ok(()) };
    let mut nodes: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    nodes.sort();
    for node in nodes {
        let dir = Dir::new(&node);
        if let Some(total) = dir.number_if("mbm_total_bytes")? {
            let local = dir.number_if("mbm_local_bytes")?.unwrap_or(0);
            stats.mbm_stats.get_or_insert_default().push(MbmStats { mbm_total_bytes: total, mbm_local_bytes: local });
        }
        if let Some(occupancy) = dir.number_if("llc_occupancy")? {
            stats.cmt_stats.get_or_insert_default().push(CmtStats { llc_occupancy: occupancy });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Tree;
    use super::*;

    fn rdt(class: Option<&str>, l3: &str) -> LinuxIntelRdt {
        LinuxIntelRdt {
            clos_id: class.map(str::to_owned),
            l3_cache_schema: Some(l3.to_owned()),
            ..LinuxIntelRdt::default()
        }
    }

    #[test]
    fn the_mount_point_is_found() {
        let text = "1 2 0:3 / /sys rw - sysfs sysfs rw\n40 2 0:9 / /sys/fs/resctrl rw - resctrl resctrl rw\n";
        assert_eq!(mount_point(text).unwrap(), Path::new("/sys/fs/resctrl"));
        assert!(mount_point("x").is_none());
    }

    #[test]
    fn a_class_that_exists_is_joined_only_if_it_agrees_and_never_removed() {
        let tree = Tree::new(&[("gold/schemata", "    L3:0=f;1=f0\n    MB:0=50\n")]);
        let group = Group::create(Some(tree.root()), "c1", &rdt(Some("gold"), "L3:0=F")).unwrap();
        group.delete().unwrap();
        assert!(tree.path("gold").is_dir());
        assert!(Group::create(Some(tree.root()), "c1", &rdt(Some("gold"), "L3:0=1")).is_err());
    }

    #[test]
    fn a_class_that_cannot_be_filled_is_not_left_behind() {
        let tree = Tree::new(&[]);
        // A plain directory has no schemata file to write.
        assert!(Group::create(Some(tree.root()), "c1", &rdt(None, "L3:0=1")).is_err());
        assert!(!tree.path("c1").exists());
    }

    #[test]
    fn climbing_names_and_a_missing_mount_are_refused() {
        let tree = Tree::new(&[]);
        assert!(Group::create(Some(tree.root()), "c1", &rdt(Some("../x"), "")).is_err());
        assert!(Group::create(None, "c1", &rdt(None, "")).unwrap_err().to_string().contains("mount -t resctrl"));
    }

    #[test]
    fn limits_and_usage_have_runcs_names() {
        let tree = Tree::new(&[
            ("info/L3/cbm_mask", "fff\n"),
            ("info/L3/min_cbm_bits", "1\n"),
            ("info/L3/num_closids", "4\n"),
            ("info/MB/min_bandwidth", "10\n"),
            ("schemata", "    L3:0=fff\n    MB:0=100\n"),
            ("c1/schemata", "    L3:0=f\n    MB:0=20\n"),
            ("c1/tasks", ""),
            ("c1/mon_data/mon_L3_00/mbm_total_bytes", "100\n"),
            ("c1/mon_data/mon_L3_00/mbm_local_bytes", "60\n"),
            ("c1/mon_data/mon_L3_00/llc_occupancy", "7\n"),
        ]);
        let group = Group { mount: tree.root().to_owned(), dir: tree.path("c1"), made: true, monitoring: None };
        group.attach(9).unwrap();
        assert_eq!(tree.text("c1/tasks"), "9");
        group.update(&rdt(None, "L3:0=3")).unwrap();
        assert_eq!(tree.text("c1/schemata"), "L3:0=3\n");
        let found = serde_json::to_value(group.stats().unwrap()).unwrap();
        assert_eq!(found["l3_cache_info"], serde_json::json!({"cbm_mask": "fff", "min_cbm_bits": 1, "num_closids": 4}));
        assert_eq!(found["l3_cache_schema"], "L3:0=3");
        assert_eq!(found["mem_bw_schema_root"], "MB:0=100");
        assert_eq!(found["mbm_stats"], serde_json::json!([{"mbm_total_bytes": 100, "mbm_local_bytes": 60}]));
        assert_eq!(found["cmt_stats"], serde_json::json!([{"llc_occupancy": 7}]));
    }
}
