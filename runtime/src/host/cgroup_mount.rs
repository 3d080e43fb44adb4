//! A `cgroup` mount: what the container sees under `/sys/fs/cgroup`.
//!
//! On a unified host one cgroup2 mount. On v1 and hybrid hosts a tmpfs with one directory a hierarchy. With a cgroup
//! namespace of its own the container gets mounts that are rooted in its cgroup: bind mounts of the host's, which cost
//! the kernel less than fresh ones and are the same to look at, or fresh ones where the host's would limit it. Without,
//! bind mounts of its own part of the host's, so that it never sees more.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::symlinkat;

use super::procfs::read_file;
use super::stage::tree::{Tree, filesystem};
use super::sys::mount::{self, Attr};
use crate::error::{During, Error, Result};
use crate::plan::mounts::Mount;

/// One hierarchy this process is in.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    /// Controllers as `cpu,cpuacct`, a name as `name=systemd`, or nothing for the unified one.
    controllers: String,
    /// The cgroup of this process, seen from its cgroup namespace.
    path: String,
}

/// What is known about cgroups from before the mounts were made. Without it everything is read when it is needed.
#[derive(Debug, Default)]
pub struct Known {
    /// `/proc/self/mountinfo` of the command, whose mount namespace this one is a copy of.
    pub mounts: Option<String>,
    /// `/proc/self/cgroup` from before the process got a cgroup namespace of its own.
    pub places: Option<String>,
    /// Whether the mounts of the host can be used as they are: the process has all its privileges.
    pub usable: bool,
}

/// Makes the mount `wanted`; fresh ones only with `namespace`, a cgroup namespace of the container. With `unified` only
/// that hierarchy is shown.
pub fn mount(tree: &mut Tree, wanted: &Mount, namespace: bool, unified: bool) -> Result<()> {
    let only_unified = unified;
    let known = std::mem::take(tree.cgroups());
    let places = known.places.as_deref().filter(|_| namespace && known.usable).map(hierarchies);
    // Seen from the host where that is known. It is then also what has to be bound should a fresh mount fail.
    let hierarchies = match &places {
        Some(places) => places.clone(),
        None => hierarchies(&read_file("/proc/self/cgroup")?),
    };
    let mounts = match &known.mounts {
        Some(text) => text.clone(),
        None => read_file("/proc/self/mountinfo")?,
    };
    // The kernel lists hierarchies that nobody has mounted, too.
    let (unified, v1): (Vec<_>, Vec<_>) =
        hierarchies.into_iter().partition(|hierarchy| hierarchy.controllers.is_empty());
    let is_wanted = |one: &Hierarchy| !only_unified && mount_point(&mounts, &one.controllers).is_some();
    let v1: Vec<_> = v1.into_iter().filter(is_wanted).collect();
    if v1.is_empty() {
        let unified = unified.first().ok_or_else(|| Error::HostLack {
            what: "cgroups".into(),
            hint: "leave the cgroup mount out of the configuration".into(),
        })?;
        let view = view(unified, &mounts, wanted, namespace, places.is_some())?;
        tree.place(wanted, &view)?;
        tree.spend([view]);
        return Ok(());
    }
    let options = [("mode".to_owned(), Some("755".to_owned()))];
    let mut spent = Vec::new();
    let base = filesystem("tmpfs", "tmpfs", &options, wanted.attr.set & !libc::MOUNT_ATTR_RDONLY, &mut spent)
        .map_err(|error| Error::Failed { operation: wanted.describe(), errno: error.errno() })?;
    tree.place(&Mount { attr: Attr::default(), recursive_attr: Attr::default(), ..wanted.clone() }, &base)?;
    for hierarchy in v1.iter().chain(&unified) {
        let name = name(&hierarchy.controllers);
        let Ok(view) = view(hierarchy, &mounts, wanted, namespace, places.is_some()) else { continue };
        let operation = || format!("mount cgroup on {}/{name}", wanted.destination);
        mkdirat(&base, name, Mode::from_bits_truncate(0o755)).during(operation)?;
        mount::attach_at(view.as_fd(), base.as_fd(), name).during(operation)?;
        tree.spend([view]);
        if name.contains(',') {
            for part in name.split(',') {
                symlinkat(name, &base, part).during(operation)?;
            }
        }
    }
    let attr = Attr { set: wanted.attr.set, ..Attr::default() };
    mount::setattr(base.as_fd(), attr, false).during(|| wanted.describe())?;
    spent.push(base);
    tree.spend(spent);
    Ok(())
}

/// A detached mount of one hierarchy as the container may see it, with the attributes that are `wanted`. `outside`
/// says that its path is seen from the host.
fn view(hierarchy: &Hierarchy, mounts: &str, wanted: &Mount, namespace: bool, outside: bool) -> Result<OwnedFd> {
    // In a cgroup namespace of its own the process is in the root of each hierarchy; elsewhere a fresh mount would
    // show the whole host.
    if namespace {
        if let Some(bound) = outside.then(|| bound(hierarchy, mounts, wanted)).flatten() {
            return Ok(bound);
        }
        let option = |word: &str| match word.split_once('=') {
            Some((key, value)) => vec![("none".to_owned(), None), (key.to_owned(), Some(value.to_owned()))],
            None => vec![(word.to_owned(), None)],
        };
        let fresh = if hierarchy.controllers.is_empty() {
            filesystem("cgroup2", "cgroup", &[], wanted.attr.set, &mut Vec::new())
        } else {
            let options: Vec<_> = hierarchy.controllers.split(',').flat_map(option).collect();
            filesystem("cgroup", "cgroup", &options, wanted.attr.set, &mut Vec::new())
        };
        if let Ok(fresh) = fresh {
            return Ok(fresh);
        }
    }
    let lack = |what: &str| Error::HostLack {
        what: format!("{what} of the cgroup hierarchy {:?}", hierarchy.controllers),
        hint: "mount it below /sys/fs/cgroup".into(),
    };
    let MountPoint { root, point, .. } = mount_point(mounts, &hierarchy.controllers).ok_or_else(|| lack("a mount"))?;
    let own = own_part(&root, &hierarchy.path, namespace && !outside)
        .ok_or_else(|| lack("a mount that shows no more than its own part"))?;
    let source = if own.is_empty() { point.clone() } else { format!("{}/{own}", point.trim_end_matches('/')) };
    let view = mount::clone_tree(AT_FDCWD, source.as_bytes(), false).during(|| format!("bind mount {source}"))?;
    mount::setattr(view.as_fd(), wanted.attr, false).during(|| format!("bind mount {source}"))?;
    if own.is_empty() && !namespace {
        // It was put into no cgroup of its own here: what it sees is the host's, and to look at only.
        mount::setattr(view.as_fd(), Attr { set: libc::MOUNT_ATTR_RDONLY, ..Attr::default() }, false)
            .during(|| format!("make {source} read-only"))?;
    }
    Ok(view)
}

/// Every attribute a mount of the host may have and a fresh one has not.
const INHERITED: u64 = libc::MOUNT_ATTR_RDONLY
    | libc::MOUNT_ATTR_NOSUID
    | libc::MOUNT_ATTR_NODEV
    | libc::MOUNT_ATTR_NOEXEC
    | libc::MOUNT_ATTR_NODIRATIME
    | libc::MOUNT_ATTR_NOSYMFOLLOW;

/// The process's part of the host's mount, made like a fresh one; `None` where the host's would limit it.
fn bound(hierarchy: &Hierarchy, mounts: &str, wanted: &Mount) -> Option<OwnedFd> {
    let found = mount_point(mounts, &hierarchy.controllers).filter(|found| found.writable)?;
    let own = Path::new(&hierarchy.path).strip_prefix(&found.root).ok()?;
    if own.components().any(|part| !matches!(part, Component::Normal(_))) {
        return None;
    }
    let source = Path::new(&found.point).join(own);
    let set = wanted.attr.set;
    let clear = INHERITED & !set | libc::MOUNT_ATTR__ATIME;
    mount::clone_with(source.as_os_str().as_encoded_bytes(), Attr { set, clear, propagation: libc::MS_PRIVATE }).ok()
}

/// The part of a mount with this `root` that is the cgroup `path`, relative to the mount point.
///
/// Seen from a cgroup namespace every path begins at the namespace's own root: a mount that was made outside shows more
/// (`/..` and the like, or what only looks the same), and only one whose root is exactly there shows the container's part.
fn own_part<'a>(root: &str, path: &'a str, namespace: bool) -> Option<&'a str> {
    if namespace {
        return (root == "/" && path == "/").then_some("");
    }
    let below = path.strip_prefix(root.trim_end_matches('/'))?;
    (below.is_empty() || below.starts_with('/')).then(|| below.trim_start_matches('/'))
}

/// The name of a hierarchy's directory.
fn name(controllers: &str) -> &str {
    match controllers.strip_prefix("name=") {
        Some(name) => name,
        None if controllers.is_empty() => "unified",
        None => controllers,
    }
}

fn hierarchies(text: &str) -> Vec<Hierarchy> {
    let line = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some(Hierarchy { controllers: fields.next()?.to_owned(), path: fields.next()?.to_owned() })
    };
    text.lines().filter_map(line).collect()
}

/// Where a hierarchy is mounted.
#[derive(Debug, PartialEq, Eq)]
struct MountPoint {
    /// The directory of the hierarchy that is seen there.
    root: String,
    /// The place of the host.
    point: String,
    /// Whether neither the mount nor its file system is read-only.
    writable: bool,
}

/// Where the hierarchy with these controllers is mounted.
fn mount_point(mountinfo: &str, controllers: &str) -> Option<MountPoint> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let (kind, options) = (after.next()?, after.nth(1)?);
        let right = match kind {
            "cgroup2" => controllers.is_empty(),
            "cgroup" => {
                !controllers.is_empty() && controllers.split(',').all(|word| options.split(',').any(|o| o == word))
            }
            _ => false,
        };
        let mut before = before.split(' ').skip(3);
        right.then_some(())?;
        let (root, point) = (before.next()?.to_owned(), before.next()?.to_owned());
        let writable = [before.next()?, options].iter().all(|list| list.split(',').any(|word| word == "rw"));
        Some(MountPoint { root, point, writable })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fallback_never_shows_more_than_the_containers_part() {
        assert_eq!(own_part("/", "/a/b", false), Some("a/b"));
        assert_eq!(own_part("/a", "/a/b", false), Some("b"));
        assert_eq!(own_part("/doc", "/docker/x", false), None);
        assert_eq!(own_part("/..", "/", true), None, "the whole hierarchy, seen from a namespace");
        assert_eq!(own_part("/../other", "/", true), None);
        assert_eq!(own_part("/", "/", true), Some(""));
    }

    #[test]
    fn hierarchies_and_their_mounts_are_found() {
        let found = hierarchies("4:cpu,cpuacct:/a\n1:name=systemd:/b\n0::/c\n");
        assert_eq!(found[0], Hierarchy { controllers: "cpu,cpuacct".into(), path: "/a".into() });
        assert_eq!((name("name=systemd"), name(""), name("pids")), ("systemd", "unified", "pids"));
        let info = "30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n31 25 0:27 /x /u ro - cgroup2 c rw\n";
        let at =
            |root: &str, point: &str, writable| Some(MountPoint { root: root.into(), point: point.into(), writable });
        assert_eq!(mount_point(info, "cpu,cpuacct"), at("/", "/sys/fs/cgroup/cpu,cpuacct", true));
        assert_eq!(mount_point(info, ""), at("/x", "/u", false));
        assert_eq!(mount_point(info, "memory"), None);
    }
}
