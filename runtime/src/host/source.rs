//! Bind mount sources that only the parent can open: id-mapped ones, which need privilege over their file system, and
//! those of containers with a user namespace, whose root may not look into the host's directories.

use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::AT_FDCWD;

use super::procfs::Procfs;
use super::sys::clone::{Side, clone3, exit_now};
use super::sys::mount::{self, Attr};
use super::{idmap, lacks, stage::parent};
use crate::error::{During, Error, Result};
use crate::facts::HostFacts;
use crate::handshake;
use crate::plan::mounts::{IdMap, Mount, PropagationFlag, Source};
use crate::plan::namespaces::{Kind, Namespaces, Range};
use crate::plan::{Plan, Step};

/// Opens what the new process cannot open itself, by index of the mount.
pub fn open(plan: &Plan, facts: &HostFacts, procfs: &Procfs) -> Result<Vec<Option<OwnedFd>>> {
    let mut sources = Vec::new();
    let foreign = is_foreign(plan, facts);
    for step in &plan.steps {
        let Step::Mount(wanted) = step else { continue };
        if !foreign && wanted.idmap.is_none() {
            continue;
        }
        let tree = match clone(wanted) {
            // In a mount namespace that is not this root's: the new process has one of its own.
            Err(refused) if refused.errno() == libc::EPERM && facts.in_user_namespace && wanted.idmap.is_none() => None,
            tree => tree?,
        };
        let Some(tree) = tree else { continue };
        if let Some(map) = &wanted.idmap {
            map_ids(&tree, wanted, map, &plan.namespaces, facts, procfs)?;
        }
        if sources.len() <= wanted.index {
            sources.resize_with(wanted.index + 1, || None);
        }
        sources[wanted.index] = Some(tree);
    }
    Ok(sources)
}

/// Whether the container's root is somebody else than the caller, who may look where that one may not.
fn is_foreign(plan: &Plan, facts: &HostFacts) -> bool {
    let root_here = facts.euid == 0 && facts.in_user_namespace;
    plan.namespaces.has(Kind::User) && (!facts.rootless || root_here)
}

/// A detached copy of the root file system, for a container whose root may not walk to it.
pub fn root(plan: &Plan, facts: &HostFacts, rootfs: &std::path::Path) -> Result<Option<OwnedFd>> {
    if !is_foreign(plan, facts) {
        return Ok(None);
    }
    let operation = || format!("open the root file system {}", rootfs.display());
    let tree = match mount::clone_tree(AT_FDCWD, rootfs.as_os_str().as_encoded_bytes(), true) {
        // As above.
        Err(nix::Error::EPERM) if facts.in_user_namespace => return Ok(None),
        tree => tree.during(operation)?,
    };
    let slave = Attr { propagation: libc::MS_SLAVE, ..Attr::default() };
    mount::setattr(tree.as_fd(), slave, true).during(operation)?;
    Ok(Some(tree))
}

/// A detached copy of the host's mounts that `wanted` binds. It hears of what the host mounts there later, as do copies
/// that are made in the container's own mount namespace; what the container mounts in it stays in the container, unless
/// the options of the mount ask for more.
pub(super) fn clone(wanted: &Mount) -> Result<Option<OwnedFd>> {
    let Source::Bind { path, recursive } = &wanted.source else { return Ok(None) };
    let tree = mount::clone_tree(AT_FDCWD, path.as_bytes(), *recursive).during(|| wanted.describe())?;
    if !wanted.propagation.iter().any(|change| change.flag == PropagationFlag::Shared) {
        let slave = Attr { propagation: libc::MS_SLAVE, ..Attr::default() };
        mount::setattr(tree.as_fd(), slave, true)
            .during(|| format!("keep what the container mounts from the host: {}", wanted.describe()))?;
    }
    Ok(Some(tree))
}

fn map_ids(
    tree: &OwnedFd,
    wanted: &Mount,
    map: &IdMap,
    namespaces: &Namespaces,
    facts: &HostFacts,
    procfs: &Procfs,
) -> Result<()> {
    //= runtime-spec config.md "Linux mount options"
    //# idmap: … If not specified, the mappings of the container's user namespace are used.
    let own = map.uids.is_empty();
    let (uids, gids) = if own { (&namespaces.uid_mappings, &namespaces.gid_mappings) } else { (&map.uids, &map.gids) };
    if uids.is_empty() {
        let reason = "an id-mapped mount needs mappings of its own or a user namespace that is made here";
        return Err(Error::refusal(format!("mounts[{}]", wanted.index), reason));
    }
    let userns = user_namespace(uids, gids, facts, procfs)?;
    mount::set_idmap(tree.as_fd(), userns.as_fd(), map.recursive)
        .map_err(|errno| lacks::id_mapping(errno, &format!("map the ids of {}", wanted.describe())))
}

/// A user namespace with these maps: that of a process which does nothing but be in it while it is opened.
fn user_namespace(uids: &[Range], gids: &[Range], facts: &HostFacts, procfs: &Procfs) -> Result<OwnedFd> {
    let (ours, theirs) = handshake::pair()?;
    match clone3(Kind::User.flag(), None, false).during(|| "make a user namespace for a mount")? {
        Side::Child => {
            drop(ours);
            // Ends with the parent's side of the channel.
            let _: Result<Option<handshake::ToChild>> = theirs.receive();
            exit_now(0)
        }
        Side::Parent { pid, pidfd } => {
            let maps = Namespaces { uid_mappings: uids.to_vec(), gid_mappings: gids.to_vec(), ..Namespaces::default() };
            let opened =
                idmap::write(procfs, pid, &maps, facts).and_then(|()| procfs.namespace(&pid.to_string(), "user"));
            parent::discard(&parent::Born { pid, pidfd });
            opened
        }
    }
}
