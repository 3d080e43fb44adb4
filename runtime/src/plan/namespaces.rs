//! Which namespaces a container makes and which it joins. runtime-spec config-linux.md "Namespaces"

use oci::spec::{Linux, LinuxIdMapping};
use serde::Serialize;

use crate::error::{Error, Result};

/// A kind of namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// User and group ids.
    User,
    /// Mounts.
    Mount,
    /// Process ids.
    Pid,
    /// Network.
    Network,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host and domain name.
    Uts,
    /// The root of the cgroup tree.
    Cgroup,
    /// Offsets of clocks.
    Time,
}

/// Kind, word of the specification, `CLONE_NEW…`, name below `/proc/PID/ns`.
const KINDS: [(Kind, &str, u64, &str); 8] = [
    (Kind::User, "user", 0x1000_0000, "user"),
    (Kind::Mount, "mount", 0x0002_0000, "mnt"),
    (Kind::Pid, "pid", 0x2000_0000, "pid"),
    (Kind::Network, "network", 0x4000_0000, "net"),
    (Kind::Ipc, "ipc", 0x0800_0000, "ipc"),
    (Kind::Uts, "uts", 0x0400_0000, "uts"),
    (Kind::Cgroup, "cgroup", 0x0200_0000, "cgroup"),
    (Kind::Time, "time", 0x80, "time"),
];

impl Kind {
    /// All kinds, in the order they must be joined.
    pub fn all() -> impl Iterator<Item = Self> {
        KINDS.iter().map(|row| row.0)
    }

    fn row(self) -> &'static (Self, &'static str, u64, &'static str) {
        KINDS.iter().find(|row| row.0 == self).expect("every kind has a row")
    }

    /// The word of the specification.
    pub fn word(self) -> &'static str {
        self.row().1
    }

    /// The `CLONE_NEW…` bit.
    pub fn flag(self) -> u64 {
        self.row().2
    }

    /// The file below `/proc/PID/ns`.
    pub fn proc_name(self) -> &'static str {
        self.row().3
    }

    fn parse(word: &str) -> Option<Self> {
        KINDS.iter().find(|row| row.1 == word).map(|row| row.0)
    }
}

/// The namespaces of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Namespaces {
    /// New ones.
    pub create: Vec<Kind>,
    /// Existing ones, by path, in the order they are joined.
    pub join: Vec<(Kind, String)>,
    /// User ids of a new user namespace.
    pub uid_mappings: Vec<Range>,
    /// Group ids of a new user namespace.
    pub gid_mappings: Vec<Range>,
    /// Lines for `/proc/self/timens_offsets` of a new time namespace.
    pub time_offsets: Vec<String>,
    /// Kinds among `join` whose path leads to the runtime's own namespace: a fact about the host, filled in by the probe.
    pub hosts: Vec<Kind>,
}

/// One line of an id map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Range {
    /// The first id inside.
    pub inside: u32,
    /// The first id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// The kernel takes at most this many lines in an id map. user_namespaces(7)
pub const MAP_LINES_MAX: usize = 340;

impl Namespaces {
    /// Reads the namespaces of `linux` and the mappings that belong to them.
    pub fn accept(linux: &Linux) -> Result<Self> {
        let mut namespaces = Self::default();
        for (index, namespace) in linux.namespaces.iter().enumerate() {
            let field = format!("linux.namespaces[{index}]");
            let kind = Kind::parse(&namespace.kind)
                .ok_or_else(|| Error::refusal(&field, format!("unknown namespace {:?}", namespace.kind)))?;
            if namespaces.has(kind) {
                return Err(Error::refusal(&field, format!("malformed spec file: duplicated ns {}", kind.word())));
            }
            match namespace.path.as_deref().filter(|path| !path.is_empty()) {
                None => namespaces.create.push(kind),
                Some(path) if path.starts_with('/') => namespaces.join.push((kind, path.to_owned())),
                Some(path) => return Err(Error::refusal(&field, format!("path {path:?} must be absolute"))),
            }
        }
        namespaces.join.sort_by_key(|(kind, _)| Kind::all().position(|other| other == *kind));
        namespaces.uid_mappings = ranges("linux.uidMappings", &linux.uid_mappings)?;
        namespaces.gid_mappings = ranges("linux.gidMappings", &linux.gid_mappings)?;
        namespaces.check_mappings()?;
        namespaces.time_offsets = namespaces.offsets(linux)?;
        Ok(namespaces)
    }

    /// Whether the container's namespace of this kind is not simply the runtime's.
    pub fn has(&self, kind: Kind) -> bool {
        self.creates(kind) || self.joins(kind)
    }

    /// Whether the container has one that is not the host's: what is changed in it changes nothing outside.
    pub fn is_own(&self, kind: Kind) -> bool {
        self.has(kind) && !self.hosts.contains(&kind)
    }

    /// Whether a new one is made.
    pub fn creates(&self, kind: Kind) -> bool {
        self.create.contains(&kind)
    }

    /// Whether an existing one is joined.
    pub fn joins(&self, kind: Kind) -> bool {
        self.join.iter().any(|(other, _)| *other == kind)
    }

    /// Whether a process between the runtime and the container's first is needed: only the owner of a joined user
    /// namespace may make namespaces that belong to it, and only its child can be the first of a pid namespace.
    pub fn intermediate(&self) -> bool {
        self.joins(Kind::User)
    }

    fn check_mappings(&self) -> Result<()> {
        let mapped = !self.uid_mappings.is_empty() || !self.gid_mappings.is_empty();
        if mapped && !self.has(Kind::User) {
            return Err(Error::refusal(
                "linux.uidMappings",
                "user namespace mappings specified, but user namespace isn't enabled in the config",
            ));
        }
        let complete = !self.uid_mappings.is_empty() && !self.gid_mappings.is_empty();
        if self.creates(Kind::User) && !complete {
            return Err(Error::refusal(
                "linux.uidMappings",
                "a new user namespace needs uidMappings and gidMappings: without them nobody exists inside",
            ));
        }
        Ok(())
    }

    fn offsets(&self, linux: &Linux) -> Result<Vec<String>> {
        if !linux.time_offsets.is_empty() && !self.creates(Kind::Time) {
            return Err(Error::refusal("linux.timeOffsets", "time namespace offsets need a new time namespace"));
        }
        let line = |(clock, offset): (&String, &oci::spec::LinuxTimeOffset)| match clock.as_str() {
            "monotonic" | "boottime" => Ok(format!("{clock} {} {}\n", offset.secs, offset.nanosecs)),
            _ => Err(Error::refusal("linux.timeOffsets", format!("{clock:?} is neither monotonic nor boottime"))),
        };
        linux.time_offsets.iter().map(line).collect()
    }
}

/// Checks the lines of one id map.
pub fn ranges(field: &str, mappings: &[LinuxIdMapping]) -> Result<Vec<Range>> {
    if mappings.len() > MAP_LINES_MAX {
        let reason = format!("{} mappings, the kernel takes at most {MAP_LINES_MAX}", mappings.len());
        return Err(Error::refusal(field, reason));
    }
    let range = |(index, mapping): (usize, &LinuxIdMapping)| {
        let fits = |first: u32| first.checked_add(mapping.size).is_some();
        if mapping.size == 0 || !fits(mapping.container_id) || !fits(mapping.host_id) {
            let reason = "the range is empty or passes the last id (4294967294)";
            return Err(Error::refusal(format!("{field}[{index}]"), reason));
        }
        Ok(Range { inside: mapping.container_id, outside: mapping.host_id, count: mapping.size })
    };
    mappings.iter().enumerate().map(range).collect()
}

/// The id outside that stands for `inside`, if it is mapped.
pub fn outside(ranges: &[Range], inside: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let offset = inside.checked_sub(range.inside).filter(|offset| *offset < range.count)?;
        Some(range.outside + offset)
    })
}
