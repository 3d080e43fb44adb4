//! One entry of `mounts` becomes one mount. runtime-spec config.md "Mounts"

use oci::spec;
use serde::Serialize;

use super::mount_options;
use super::namespaces::{self, Kind, Range};
use crate::container::Container;
use crate::error::{Error, Result};
use crate::host::sys::mount::Attr;

/// How mounts below a mount spread to its copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PropagationFlag {
    /// Both ways.
    Shared,
    /// From the original only.
    Slave,
    /// Not at all.
    Private,
    /// Not at all, and it cannot be copied.
    Unbindable,
}

/// A change of propagation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Propagation {
    /// The kind.
    pub flag: PropagationFlag,
    /// Whether for all below it too.
    pub recursive: bool,
}

impl Propagation {
    /// Reads `rslave` and the like.
    pub fn parse(word: &str) -> Option<Self> {
        mount_options::read([word]).propagation.first().copied()
    }

    /// The bits for mount_setattr(2).
    pub fn attr(self) -> Attr {
        let bits = match self.flag {
            PropagationFlag::Shared => libc::MS_SHARED,
            PropagationFlag::Slave => libc::MS_SLAVE,
            PropagationFlag::Private => libc::MS_PRIVATE,
            PropagationFlag::Unbindable => libc::MS_UNBINDABLE,
        };
        Attr { propagation: bits, ..Attr::default() }
    }
}

/// Where the content of a mount comes from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A file system.
    Filesystem {
        /// Its type.
        kind: String,
        /// A device or a mere name.
        source: String,
        /// Options of the file system.
        options: Vec<(String, Option<String>)>,
    },
    /// A path of the host.
    Bind {
        /// Absolute.
        path: String,
        /// With all mounted below it.
        recursive: bool,
    },
    /// The cgroup hierarchies as the container may see them; which ones is found when it is made.
    Cgroup {
        /// Whether the container has a cgroup namespace, in which fresh mounts show its own part only.
        namespace: bool,
        /// Whether only the unified hierarchy is wanted (`cgroup2`).
        unified: bool,
    },
}

/// An id-mapped mount.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IdMap {
    /// User ids; empty means the container's own map.
    pub uids: Vec<Range>,
    /// Group ids.
    pub gids: Vec<Range>,
    /// All below it too.
    pub recursive: bool,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mount {
    /// Its place in `mounts`.
    pub index: usize,
    /// Where, inside.
    pub destination: String,
    /// What.
    pub source: Source,
    /// Attributes of the mount.
    pub attr: Attr,
    /// Attributes of the mount and all below it.
    pub recursive_attr: Attr,
    /// Propagation changes, in order.
    pub propagation: Vec<Propagation>,
    /// Fill it with what the directory held.
    pub copy_up: bool,
    /// Map ids.
    pub idmap: Option<IdMap>,
}

impl Mount {
    /// A mount without options.
    pub fn plain(index: usize, destination: &str, source: Source) -> Self {
        Self {
            index,
            destination: destination.to_owned(),
            source,
            attr: Attr::default(),
            recursive_attr: Attr::default(),
            propagation: Vec::new(),
            copy_up: false,
            idmap: None,
        }
    }

    /// Whether it shows cgroups.
    pub fn is_cgroup(&self) -> bool {
        matches!(self.source, Source::Cgroup { .. })
    }

    /// Whether it is a bind mount.
    pub fn is_bind(&self) -> bool {
        matches!(self.source, Source::Bind { .. })
    }

    /// The step in words, as `mount proc on /proc`.
    pub fn describe(&self) -> String {
        match &self.source {
            Source::Filesystem { kind, .. } => format!("mount {kind} on {}", self.destination),
            Source::Bind { path, .. } => format!("bind mount {path} on {}", self.destination),
            Source::Cgroup { .. } => format!("mount cgroup on {}", self.destination),
        }
    }
}

/// File systems without a device: their read-only flag is the mount's alone.
const WITHOUT_DEVICE: [&str; 10] =
    ["proc", "sysfs", "tmpfs", "ramfs", "devpts", "mqueue", "cgroup", "cgroup2", "overlay", "bpf"];

/// File systems that take no SELinux `context` option.
const WITHOUT_LABEL: [&str; 4] = ["proc", "sysfs", "mqueue", "bpf"];

/// Compiles `mounts[index]`.
pub fn compile(index: usize, mount: &spec::Mount, container: &Container) -> Result<Mount> {
    let field = format!("mounts[{index}]");
    let options = mount_options::read(mount.options.iter().map(String::as_str));
    let texts = [Some(&mount.destination), mount.source.as_ref(), mount.kind.as_ref()];
    if texts.into_iter().flatten().chain(&mount.options).any(|text| text.contains('\0')) {
        return Err(Error::refusal(field, "has a NUL character inside"));
    }
    if mount.destination.is_empty() {
        return Err(Error::refusal(format!("{field}.destination"), "must not be empty"));
    }
    let destination = format!("/{}", mount.destination.trim_start_matches('/'));
    forbid_inside_proc(&field, &destination, mount)?;
    let kind = mount.kind.clone().unwrap_or_default();
    let source = mount.source.clone().unwrap_or_default();
    let bind = options.bind.or_else(|| (kind == "bind").then_some(false));
    let idmap = idmap(&field, mount, options.idmap)?;
    let source = match (bind, kind.as_str()) {
        (Some(recursive), _) => {
            if source.is_empty() {
                return Err(Error::refusal(format!("{field}.source"), "a bind mount needs a source"));
            }
            //= runtime-spec config.md "Mounts"
            //# For bind mounts, source is a path, either absolute or relative to the bundle.
            Source::Bind { path: container.bundle.join(&source).display().to_string(), recursive }
        }
        (None, "") => {
            return Err(Error::refusal(format!("{field}.type"), "must not be empty unless it is a bind mount"));
        }
        // As mere file systems they would be mounted before the cgroup namespace is there, and show the host's.
        (None, "cgroup" | "cgroup2") => {
            Source::Cgroup { namespace: container.namespaces.is_own(Kind::Cgroup), unified: kind == "cgroup2" }
        }
        (None, _) => filesystem(kind, source, &options, container),
    };
    if idmap.is_some() && !matches!(source, Source::Bind { .. }) {
        return Err(Error::refusal(format!("{field}.options"), "only bind mounts can be id-mapped"));
    }
    if options.copy_up && !matches!(&source, Source::Filesystem { kind, .. } if kind == "tmpfs") {
        return Err(Error::refusal(format!("{field}.options"), "tmpcopyup needs a tmpfs"));
    }
    Ok(Mount {
        index,
        destination,
        source,
        attr: options.attr,
        recursive_attr: options.recursive_attr,
        propagation: options.propagation,
        copy_up: options.copy_up,
        idmap,
    })
}

fn filesystem(kind: String, source: String, options: &mount_options::Options, container: &Container) -> Source {
    let mut own = options.filesystem.clone();
    let device = !WITHOUT_DEVICE.contains(&kind.as_str());
    if device && options.attr.set & libc::MOUNT_ATTR_RDONLY != 0 {
        own.push(("ro".to_owned(), None));
    }
    let label = container.spec.linux.as_ref().and_then(|linux| linux.mount_label.as_ref());
    if let Some(label) = label.filter(|label| !label.is_empty() && !WITHOUT_LABEL.contains(&kind.as_str())) {
        own.push(("context".to_owned(), Some(label.clone())));
    }
    Source::Filesystem { kind, source, options: own }
}

fn idmap(field: &str, mount: &spec::Mount, asked: Option<bool>) -> Result<Option<IdMap>> {
    let uids = namespaces::ranges(&format!("{field}.uidMappings"), &mount.uid_mappings)?;
    let gids = namespaces::ranges(&format!("{field}.gidMappings"), &mount.gid_mappings)?;
    if uids.is_empty() != gids.is_empty() {
        return Err(Error::refusal(field, "an id-mapped mount needs both uidMappings and gidMappings"));
    }
    if asked.is_none() && uids.is_empty() {
        return Ok(None);
    }
    Ok(Some(IdMap { uids, gids, recursive: asked.unwrap_or(false) }))
}

/// Files of procfs that a mount may cover: lxcfs and podman do.
const PROC_MAY_BE_COVERED: [&str; 12] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
    "/proc/version",
];

/// Refuses a mount that would replace parts of procfs with something else: writes to `/proc/self/attr` or `/proc/sys`
/// would land there (CVE-2019-16884, CVE-2019-19921).
fn forbid_inside_proc(field: &str, destination: &str, mount: &spec::Mount) -> Result<()> {
    let clean = clean(destination);
    if clean == "/" {
        return Err(Error::refusal(format!("{field}.destination"), "is the root itself"));
    }
    let fake = clean == "/proc" && mount.kind.as_deref() != Some("proc") && !is_bind_of_proc(mount);
    let inside = clean.starts_with("/proc/") && !PROC_MAY_BE_COVERED.contains(&clean.as_str());
    if fake || inside {
        let reason = format!("{clean:?} cannot be mounted because it is inside /proc, and is no procfs");
        return Err(Error::refusal(format!("{field}.destination"), reason));
    }
    Ok(())
}

/// A bind of the host's own procfs, as for containers that share the pid namespace; checked again when it is opened.
fn is_bind_of_proc(mount: &spec::Mount) -> bool {
    mount.source.as_deref() == Some("/proc") && mount.options.iter().any(|word| word == "bind" || word == "rbind")
}

/// The path without `.`, `..` and doubled slashes, as it would be if nothing were a symbolic link.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}
