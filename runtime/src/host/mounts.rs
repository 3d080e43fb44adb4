//! Mounts of a running container: added and removed by a short-lived process inside its namespaces.
//!
//! Sources of bind mounts are opened on the host, everything else happens inside, where no path can lead out. Mounts
//! are made in order; if one fails, those made before it are taken away again.

use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;
use oci::ContainerId;
use oci::spec::{Mount as Wanted, Status};

use super::launch::read_config;
use super::source;
use super::stage::parent::{self, Join};
use super::stage::tree::Tree;
use super::state::{self, Root};
use super::sys::clone::{pidfd_open, setns};
use super::sys::process as sys;
use crate::container::Container;
use crate::error::{During, Error, Result};
use crate::handshake::{self, FromChild};
use crate::plan::mounts::{self as plan, Mount};
use crate::plan::namespaces::Kind;

/// Adds `wanted`, in order.
pub fn add(root: &Root, id: &ContainerId, wanted: &[Wanted]) -> Result<()> {
    let (container, target) = open(root, id)?;
    let compiled = wanted.iter().enumerate().map(|(index, mount)| plan::compile(index, mount, &container));
    let compiled: Vec<Mount> = compiled.collect::<Result<_>>()?;
    if let Some(odd) = compiled.iter().find(|mount| mount.is_cgroup() || mount.idmap.is_some()) {
        let reason = "cgroup and id-mapped mounts can only be made when the container is";
        return Err(Error::refusal(format!("mounts[{}]", odd.index), reason));
    }
    let sources: Vec<Option<OwnedFd>> = compiled.iter().map(source::clone).collect::<Result<_>>()?;
    inside(&container, &target, |root| {
        let mut tree = Tree::inside(root, sources);
        for (count, mount) in compiled.iter().enumerate() {
            if let Err(error) = tree.mount(mount) {
                for made in compiled[..count].iter().rev() {
                    // What cannot be taken away is seen by whoever reads the container's mountinfo; the cause counts.
                    let _ = umount2(made.destination.as_str(), MntFlags::MNT_DETACH);
                }
                return Err(error);
            }
        }
        Ok(())
    })
}

/// Removes the topmost mount on each of `destinations`.
pub fn remove(root: &Root, id: &ContainerId, destinations: &[String]) -> Result<()> {
    let (container, target) = open(root, id)?;
    let paths: Vec<String> = destinations.iter().map(|path| plan::clean(path)).collect();
    if paths.iter().any(|path| path == "/") {
        return Err(Error::refusal("destination", "is the root itself"));
    }
    inside(&container, &target, |_| {
        paths.iter().try_for_each(|path| {
            let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
            umount2(path.as_str(), flags).during(|| format!("unmount {path}"))
        })
    })
}

fn open(root: &Root, id: &ContainerId) -> Result<(Container, OwnedFd)> {
    let directory = root.open(id)?;
    let record = directory.record()?;
    match state::status(root, &record) {
        Status::Running | Status::Created | Status::Paused => {}
        _ => return Err(Error::state("cannot change the mounts of a container that does not run")),
    }
    let target = pidfd_open(record.pid).during(|| "open the container's first process")?;
    if !state::is_alive(&record) {
        return Err(Error::state("cannot change the mounts of a container that does not run"));
    }
    let spec = read_config(&directory.config()?)?;
    let container = Container::accept(id.clone(), std::path::Path::new(&record.bundle), spec)?;
    if !container.namespaces.has(Kind::Mount) {
        return Err(Error::state("the container has no mount namespace of its own"));
    }
    Ok((container, target))
}

/// Runs `work` in a process that has joined the container; it gets the root directory.
fn inside(container: &Container, target: &OwnedFd, work: impl FnOnce(OwnedFd) -> Result<()>) -> Result<()> {
    let (ours, theirs) = handshake::pair()?;
    let kinds = Kind::all().filter(|kind| container.namespaces.has(*kind)).fold(0, |kinds, kind| kinds | kind.flag());
    let mut end = Some((theirs, work));
    let join = Join { target: target.as_fd(), kinds, cgroup: None };
    let (born, _) = parent::spawn_into(&join, parent::hide, |left| {
        let (channel, work) = end.take().expect("only the child runs this, once");
        let done = (|| {
            let left = left?;
            if left != 0 {
                setns(target.as_fd(), left).during(|| "join the container's namespaces")?;
            }
            sys::set_umask(0);
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            work(nix::fcntl::open("/", flags, Mode::empty()).during(|| "open the container's root")?)
        })();
        let failed = done.is_err();
        // Nobody can be told when the command is gone.
        let _ = channel.send(&done.map_or_else(FromChild::Failed, |()| FromChild::Ready));
        i32::from(failed)
    })?;
    drop(end);
    let answer = ours.receive();
    parent::discard(&born);
    match answer? {
        Some(FromChild::Ready) => Ok(()),
        Some(FromChild::Failed(error)) => Err(error),
        _ => Err(Error::state("the process that changes the mounts has died")),
    }
}
