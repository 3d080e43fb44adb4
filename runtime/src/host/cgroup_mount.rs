//! A `cgroup` mount: what the container sees under `/sys/fs/cgroup`.
//!
//! On a unified host one cgroup2 mount. On v1 and hybrid hosts a tmpfs with one directory a hierarchy. With a cgroup
//! namespace of its own the container gets fresh mounts, rooted in its cgroup; without, bind mounts of its own part of
//! the host's, so that it never sees more.

use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::symlinkat;

use super::procfs::read_file;
use super::stage::tree::{Tree, filesystem};
use super::sys::mount::{self, Attr};
use super::sys::open::openat2;
use crate::error::{During, Error, Result};
use crate::plan::mounts::Mount;

/// One hierarchy this process is in.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    /// Controllers as `cpu,cpuacct`, a name as `name=systemd`, or nothing for the unified one.
    controllers: String,
    /// The cgroup of this process, seen from its cgroup namespace.
    path: String,
}

/// Makes the mount `wanted`; fresh ones only with `namespace`, a cgroup namespace of the container. With `unified` only
/// that hierarchy is shown.
pub fn mount(tree: &mut Tree, wanted: &Mount, namespace: bool, unified: bool) -> Result<()> {
    let only_unified = unified;
    let hierarchies = hierarchies(&read_file("/proc/self/cgroup")?);
    let mounts = read_file("/proc/self/mountinfo")?;
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
        let view = view(unified, &mounts, wanted, namespace)?;
        mount::setattr(view.as_fd(), wanted.attr, false).during(|| wanted.describe())?;
        return tree.place(wanted, &view);
    }
    let options = [("mode".to_owned(), Some("755".to_owned()))];
    let base = filesystem("tmpfs", "tmpfs", &options, wanted.attr.set & !libc::MOUNT_ATTR_RDONLY)
        .map_err(|error| Error::Failed { operation: wanted.describe(), errno: error.errno() })?;
    tree.place(&Mount { attr: Attr::default(), recursive_attr: Attr::default(), ..wanted.clone() }, &base)?;
    for hierarchy in v1.iter().chain(&unified) {
        let name = name(&hierarchy.controllers);
        let Ok(view) = view(hierarchy, &mounts, wanted, namespace) else { continue };
        let operation = || format!("mount cgroup on {}/{name}", wanted.destination);
        mkdirat(&base, name, Mode::from_bits_truncate(0o755)).during(operation)?;
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let target = openat2(base.as_fd(), name.as_bytes(), flags, 0, libc::RESOLVE_BENEATH).during(operation)?;
        mount::setattr(view.as_fd(), wanted.attr, false).during(operation)?;
        mount::attach(view.as_fd(), target.as_fd()).during(operation)?;
        if name.contains(',') {
            for part in name.split(',') {
                symlinkat(name, &base, part).during(operation)?;
            }
        }
    }
    let attr = Attr { set: wanted.attr.set, ..Attr::default() };
    mount::setattr(base.as_fd(), attr, false).during(|| wanted.describe())
}

/// A detached mount of one hierarchy as the container may see it.
fn view(hierarchy: &Hierarchy, mounts: &str, wanted: &Mount, namespace: bool) -> Result<OwnedFd> {
    // In a cgroup namespace of its own the process is in the root of each hierarchy; elsewhere a fresh mount would
    // show the whole host.
    if namespace {
        let option = |word: &str| match word.split_once('=') {
            Some((key, value)) => vec![("none".to_owned(), None), (key.to_owned(), Some(value.to_owned()))],
            None => vec![(word.to_owned(), None)],
        };
        let fresh = if hierarchy.controllers.is_empty() {
            filesystem("cgroup2", "cgroup", &[], wanted.attr.set)
        } else {
            let options: Vec<_> = hierarchy.controllers.split(',').flat_map(option).collect();
            filesystem("cgroup", "cgroup", &options, wanted.attr.set)
        };
        if let Ok(fresh) = fresh {
            return Ok(fresh);
        }
    }
    let lack = |what: &str| Error::HostLack {
        what: format!("{what} of the cgroup hierarchy {:?}", hierarchy.controllers),
        hint: "mount it below /sys/fs/cgroup".into(),
    };
    let (root, point) = mount_point(mounts, &hierarchy.controllers).ok_or_else(|| lack("a mount"))?;
    let own = own_part(&root, &hierarchy.path, namespace)
        .ok_or_else(|| lack("a mount that shows no more than its own part"))?;
    let source = if own.is_empty() { point.clone() } else { format!("{}/{own}", point.trim_end_matches('/')) };
    let view = mount::clone_tree(AT_FDCWD, source.as_bytes(), false).during(|| format!("bind mount {source}"))?;
    if own.is_empty() && !namespace {
        // It was put into no cgroup of its own here: what it sees is the host's, and to look at only.
        mount::setattr(view.as_fd(), Attr { set: libc::MOUNT_ATTR_RDONLY, ..Attr::default() }, false)
            .during(|| format!("make {source} read-only"))?;
    }
    Ok(view)
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

/// Root and mount point of the hierarchy with these controllers.
fn mount_point(mountinfo: &str, controllers: &str) -> Option<(String, String)> {
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
        Some((before.next()?.to_owned(), before.next()?.to_owned()))
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
        let info = "30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n31 25 0:27 /x /u rw - cgroup2 c rw\n";
        assert_eq!(mount_point(info, "cpu,cpuacct"), Some(("/".into(), "/sys/fs/cgroup/cpu,cpuacct".into())));
        assert_eq!(mount_point(info, ""), Some(("/x".into(), "/u".into())));
        assert_eq!(mount_point(info, "memory"), None);
    }
}
