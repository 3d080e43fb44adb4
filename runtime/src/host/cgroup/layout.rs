//! Which cgroup hierarchies this process sees, and where it sits in each.
//!
//! In: the text of `/proc/self/mountinfo` and `/proc/self/cgroup`. Out: a [`Layout`]. Knows v1, hybrid (also with
//! controllers that live on the unified tree) and v2, co-mounted and split. cgroups(7)

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::dir::Dir;
use super::error::CgroupError;

/// The v1 controllers a container is put into, in the order they are joined. `cpuset` comes first because joining it
/// before it has CPUs and memory nodes fails: its set-up must not be left half done behind the others.
const V1_CONTROLLERS: [&str; 15] = [
    "cpuset",
    "devices",
    "memory",
    "cpu",
    "cpuacct",
    "pids",
    "blkio",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "freezer",
    "rdma",
    "misc",
    "name=systemd",
];

/// No table of mounts is longer.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// The interface version of one hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// One of the old hierarchies.
    V1,
    /// The unified hierarchy.
    V2,
}

/// The kind of host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// No cgroup file system is mounted.
    Absent,
    /// Only old hierarchies.
    V1,
    /// Old hierarchies and the unified one.
    Hybrid,
    /// Only the unified hierarchy.
    V2,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its interface version.
    pub version: Version,
    /// Its controllers; for v1 a name appears as `name=systemd`.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// The directory of this process.
    pub own: PathBuf,
}

/// All hierarchies a container can be put into.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layout {
    /// The hierarchies, v1 in joining order, the unified one last.
    pub hierarchies: Vec<Hierarchy>,
}

impl Layout {
    /// Reads the layout of this process.
    pub fn probe() -> Result<Self, CgroupError> {
        Self::read().map(|(layout, _)| layout)
    }

    /// The same, with the table of mounts it was read from.
    pub fn read() -> Result<(Self, String), CgroupError> {
        Self::read_under(Path::new("/"))
    }

    /// Reads the layout of a tree that looks like a host, for fixtures: `proc/self/…` and the mount points below `root`.
    pub fn probe_under(root: &Path) -> Result<Self, CgroupError> {
        Self::read_under(root).map(|(layout, _)| layout)
    }

    fn read_under(root: &Path) -> Result<(Self, String), CgroupError> {
        let mountinfo = read(&root.join("proc/self/mountinfo"))?;
        let own = read(&root.join("proc/self/cgroup"))?;
        let mut layout = Self::parse(&mountinfo, &own);
        for hierarchy in &mut layout.hierarchies {
            if root != Path::new("/") {
                hierarchy.mount = below(root, &hierarchy.mount);
                hierarchy.own = below(root, &hierarchy.own);
            }
            if hierarchy.version == Version::V2 {
                let text = Dir::new(&hierarchy.mount).read_if("cgroup.controllers")?.unwrap_or_default();
                hierarchy.controllers = text.split_ascii_whitespace().map(str::to_owned).collect();
            }
        }
        Ok((layout, mountinfo))
    }

    /// Pure: the hierarchies named by `/proc/self/cgroup`, each with its mount. The controllers of the unified one are
    /// not in these texts and stay empty.
    pub fn parse(mountinfo: &str, own: &str) -> Self {
        let mounts: Vec<CgroupMount> = mountinfo.lines().filter_map(CgroupMount::parse).collect();
        let mut v1: Vec<(usize, Hierarchy)> = Vec::new();
        let mut unified = None;
        for line in own.lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(_), Some(names), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
            let controllers: Vec<&str> = names.split(',').filter(|name| !name.is_empty()).collect();
            if controllers.is_empty() {
                unified = best(&mounts, |mount| mount.v2).map(|mount| mount.hierarchy(Vec::new(), path));
                continue;
            }
            let rank = |name: &&str| V1_CONTROLLERS.iter().position(|known| known == name);
            let Some(rank) = controllers.iter().filter_map(rank).min() else { continue };
            let found = best(&mounts, |mount| !mount.v2 && controllers.iter().all(|name| mount.options.contains(name)));
            if let Some(mount) = found {
                v1.push((rank, mount.hierarchy(controllers.iter().map(|name| (*name).to_owned()).collect(), path)));
            }
        }
        v1.sort_by_key(|(rank, _)| *rank);
        Self { hierarchies: v1.into_iter().map(|(_, hierarchy)| hierarchy).chain(unified).collect() }
    }

    /// The kind of host.
    pub fn mode(&self) -> Mode {
        let v2 = self.unified().is_some();
        match (self.hierarchies.len(), v2) {
            (0, _) => Mode::Absent,
            (1, true) => Mode::V2,
            (_, true) => Mode::Hybrid,
            (_, false) => Mode::V1,
        }
    }

    /// The unified hierarchy.
    pub fn unified(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|hierarchy| hierarchy.version == Version::V2)
    }
}

struct CgroupMount<'a> {
    root: &'a str,
    point: String,
    options: Vec<&'a str>,
    v2: bool,
}

impl<'a> CgroupMount<'a> {
    /// `36 31 0:33 ROOT POINT rw,relatime [optional…] - TYPE SOURCE SUPER_OPTIONS`, proc_pid_mountinfo(5)
    fn parse(line: &'a str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let kind = right.next()?;
        if kind != "cgroup" && kind != "cgroup2" {
            return None;
        }
        let options = right.nth(1).unwrap_or_default().split(',').collect();
        let mut left = left.split(' ').skip(3);
        Some(Self { root: left.next()?, point: unescape(left.next()?), options, v2: kind == "cgroup2" })
    }

    fn hierarchy(&self, controllers: Vec<String>, own: &str) -> Hierarchy {
        let mount = PathBuf::from(&self.point);
        Hierarchy {
            version: if self.v2 { Version::V2 } else { Version::V1 },
            controllers,
            own: below(&mount, inside(self.root, own)),
            mount,
        }
    }
}

/// The mount to use when a hierarchy is mounted several times: the one below `/sys/fs/cgroup`, else the first.
fn best<'m, 'a>(mounts: &'m [CgroupMount<'a>], fits: impl Fn(&CgroupMount<'a>) -> bool) -> Option<&'m CgroupMount<'a>> {
    let usual = mounts.iter().find(|mount| fits(mount) && mount.point.starts_with("/sys/fs/cgroup"));
    usual.or_else(|| mounts.iter().find(|mount| fits(mount)))
}

/// The part of `own` below the root of the mount. A process in a container without a cgroup namespace is shown the
/// host's path, while its mount starts at the container's cgroup; one outside the mount's root counts as at its top.
fn inside<'a>(root: &str, own: &'a str) -> &'a Path {
    let relative = Path::new(own).strip_prefix(root).unwrap_or_else(|_| Path::new(""));
    let climbs = relative.components().any(|component| component == Component::ParentDir);
    if climbs { Path::new("") } else { relative }
}

/// `path` as a path below `root`, whether it is written as absolute or not.
pub(super) fn below(root: &Path, path: &Path) -> PathBuf {
    let relative = path.strip_prefix("/").unwrap_or(path);
    if relative.as_os_str().is_empty() { root.to_owned() } else { root.join(relative) }
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

fn read(path: &Path) -> Result<String, CgroupError> {
    fs::File::open(path).and_then(whole).map_err(|cause| CgroupError::Read { path: path.to_owned(), cause })
}

/// Reads to the end: the kernel gives whole lines, and stops before one that does not fit, however little came before it.
fn whole(file: impl io::Read) -> io::Result<String> {
    // Room from the start, and no question for a size: that of a file of procfs is not known before.
    let mut bytes = Vec::with_capacity(8 * 1024);
    io::Read::read_to_end(&mut io::Read::take(file, FILE_BYTES_MAX), &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mountinfo(lines: &[&str]) -> String {
        lines.join("\n")
    }

    /// A file of procfs as the kernel serves it: whole lines, as many as fit.
    struct Lines(Vec<String>);

    impl io::Read for Lines {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let mut length = 0;
            while self.0.first().is_some_and(|line| length + line.len() <= buffer.len().min(4096)) {
                let line = self.0.remove(0);
                buffer[length..length + line.len()].copy_from_slice(line.as_bytes());
                length += line.len();
            }
            Ok(length)
        }
    }

    #[test]
    fn a_long_line_early_in_the_table_does_not_end_it() {
        let long = format!("31 23 0:28 / /mnt rw - overlay overlay lowerdir={}\n", "/l".repeat(1900));
        let lines = vec![
            "30 23 0:27 / / rw - tmpfs tmpfs rw\n".to_owned(),
            long,
            "32 23 0:29 / /c rw - cgroup2 c rw\n".to_owned(),
        ];
        assert!(whole(Lines(lines.clone())).expect("it is read") == lines.concat(), "the table is cut off");
    }

    #[test]
    fn a_split_hybrid_host_is_read_as_it_is() {
        let mounts = mountinfo(&[
            "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755",
            "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu",
            "33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct",
            "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory",
            "40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd",
            "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:3 - cgroup2 cgroup2 rw",
        ]);
        let own = "9:name=systemd:/\n4:memory:/process/47a0\n2:cpuacct:/\n1:cpu:/\n0::/\n";
        let layout = Layout::parse(&mounts, own);
        assert_eq!(layout.mode(), Mode::Hybrid);
        let names: Vec<String> = layout.hierarchies.iter().map(|found| found.controllers.join(",")).collect();
        assert_eq!(names, ["memory", "cpu", "cpuacct", "name=systemd", ""]);
        assert_eq!(layout.hierarchies[0].own, Path::new("/sys/fs/cgroup/memory/process/47a0"));
    }

    #[test]
    fn a_co_mount_is_one_hierarchy() {
        let mounts = "33 24 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      34 24 0:30 / /sys/fs/cgroup/net_cls,net_prio rw - cgroup cgroup rw,net_cls,net_prio\n";
        let layout = Layout::parse(mounts, "4:net_cls,net_prio:/\n3:cpu,cpuacct:/user\n");
        assert_eq!(layout.mode(), Mode::V1);
        assert_eq!(layout.hierarchies[0].controllers, ["cpu", "cpuacct"]);
        assert_eq!(layout.hierarchies[0].own, Path::new("/sys/fs/cgroup/cpu,cpuacct/user"));
    }

    #[test]
    fn a_pure_v2_host_has_one_hierarchy() {
        let layout = Layout::parse(
            "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
            "0::/user.slice\n",
        );
        assert_eq!(layout.mode(), Mode::V2);
        assert_eq!(layout.hierarchies[0].own, Path::new("/sys/fs/cgroup/user.slice"));
    }

    #[test]
    fn a_mount_that_starts_deeper_hides_the_hosts_part_of_the_path() {
        let mounts = "33 24 0:29 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let layout = Layout::parse(mounts, "3:memory:/docker/abc/sub\n");
        assert_eq!(layout.hierarchies[0].own, Path::new("/sys/fs/cgroup/memory/sub"));
        let outside = Layout::parse(mounts, "3:memory:/elsewhere\n");
        assert_eq!(outside.hierarchies[0].own, Path::new("/sys/fs/cgroup/memory"));
    }

    #[test]
    fn a_process_above_its_cgroup_namespace_stays_inside_the_mount() {
        let mounts = "33 24 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        let layout = Layout::parse(mounts, "0::/../outside\n");
        assert_eq!(layout.hierarchies[0].own, Path::new("/sys/fs/cgroup"));
    }

    #[test]
    fn an_unmounted_controller_and_garbage_lines_are_skipped() {
        let layout = Layout::parse("garbage\n1 2 3 - cgroup\n", "x\n5:pids:/\n:::\n");
        assert_eq!(layout.mode(), Mode::Absent);
    }

    #[test]
    fn an_escaped_mount_point_is_decoded() {
        assert_eq!(unescape("/a\\040b\\x\\134"), "/a b\\x\\");
    }
}
