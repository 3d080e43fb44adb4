//! The command's side of a birth: making the new process in its namespaces, and serving it until it is ready.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci::spec::{Hooks, State};

use super::super::procfs::Procfs;
use super::super::sys::clone::{Side, clone3, exit_now, pidfd_open, setns};
use super::super::{hooks, idmap};
use crate::error::{During, Error, Result};
use crate::facts::HostFacts;
use crate::handshake::{Channel, FromChild, ToChild};
use crate::plan::namespaces::{Kind, Namespaces};

/// Kinds that are made after birth: the cgroup namespace once the process is in its cgroup, the time namespace once its
/// offsets are written.
const LATER: [Kind; 2] = [Kind::Cgroup, Kind::Time];

/// A new process.
#[derive(Debug)]
pub struct Born {
    /// Its pid, seen from here.
    pub pid: i32,
    /// A descriptor for it.
    pub pidfd: OwnedFd,
}

/// Opens the namespaces to join, in order.
pub fn open_joins(namespaces: &Namespaces) -> Result<Vec<(Kind, OwnedFd)>> {
    let open = |(kind, path): &(Kind, String)| {
        let flags = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(path.as_str(), flags, nix::sys::stat::Mode::empty())
            .during(|| format!("open the {} namespace {path}", kind.word()))?;
        Ok((*kind, fd))
    };
    namespaces.join.iter().map(open).collect()
}

/// Makes the process that runs `child`, in `cgroup` if the kernel can do that at birth.
///
/// `child` gets the namespaces it still has to join. The pid namespace can only be joined by a parent, and with a new
/// user namespace nothing outside can be joined from within: those are entered here, around the birth, and left again.
pub fn spawn(
    namespaces: &Namespaces,
    joins: Vec<(Kind, OwnedFd)>,
    procfs: &Procfs,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce(Vec<(Kind, OwnedFd)>) -> i32,
) -> Result<Born> {
    if namespaces.intermediate() {
        return spawn_through_intermediate(namespaces, joins, cgroup, child);
    }
    let around =
        |kind: Kind| kind == Kind::Pid || namespaces.creates(Kind::User) && !matches!(kind, Kind::Mount | Kind::User);
    let (outer, inner): (Vec<_>, Vec<_>) = joins.into_iter().partition(|(kind, _)| around(*kind));
    let own: Vec<_> = outer
        .iter()
        .map(|(kind, _)| Ok((*kind, procfs.namespace("self", kind.proc_name())?)))
        .collect::<Result<_>>()?;
    for (kind, fd) in &outer {
        setns(fd.as_fd(), kind.flag()).during(|| format!("join the {} namespace", kind.word()))?;
    }
    let side = clone3(flags(namespaces), cgroup, false).during(|| "make the container's process");
    if matches!(side, Ok(Side::Child)) {
        exit_now(child(inner));
    }
    for (kind, fd) in &own {
        setns(fd.as_fd(), kind.flag()).during(|| format!("leave the {} namespace", kind.word()))?;
    }
    match side? {
        Side::Parent { pid, pidfd } => Ok(Born { pid, pidfd }),
        Side::Child => Err(Error::Bug { what: "two sides of one birth".into() }),
    }
}

fn flags(namespaces: &Namespaces) -> u64 {
    namespaces.create.iter().filter(|kind| !LATER.contains(kind)).fold(0, |flags, kind| flags | kind.flag())
}

/// With a joined user namespace: a process that joins, and gives birth to the first process as this one's child.
fn spawn_through_intermediate(
    namespaces: &Namespaces,
    joins: Vec<(Kind, OwnedFd)>,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce(Vec<(Kind, OwnedFd)>) -> i32,
) -> Result<Born> {
    let (to_parent, from_intermediate) = crate::handshake::pair()?;
    match clone3(0, cgroup, false).during(|| "make the intermediate process")? {
        Side::Child => {
            drop(from_intermediate);
            let born = joins.iter().try_for_each(|(kind, fd)| {
                setns(fd.as_fd(), kind.flag()).during(|| format!("join the {} namespace", kind.word()))
            });
            let born =
                born.and_then(|()| clone3(flags(namespaces), None, true).during(|| "make the container's process"));
            let code = match born {
                Ok(Side::Child) => {
                    drop(to_parent);
                    child(Vec::new())
                }
                Ok(Side::Parent { pid, .. }) => i32::from(to_parent.send(&FromChild::Born(pid)).is_err()),
                Err(error) => {
                    // Nobody can be told when the parent is gone.
                    let _ = to_parent.send(&FromChild::Failed(error));
                    1
                }
            };
            exit_now(code)
        }
        Side::Parent { pid: intermediate, .. } => {
            drop(to_parent);
            let answer = from_intermediate.receive()?;
            let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(intermediate), None);
            match answer {
                Some(FromChild::Born(pid)) => {
                    let pidfd = pidfd_open(pid).during(|| "open the new process")?;
                    Ok(Born { pid, pidfd })
                }
                Some(FromChild::Failed(error)) => Err(error),
                _ => Err(died(intermediate)),
            }
        }
    }
}

/// What the new process may need while it is set up.
#[derive(Debug)]
pub struct Service<'a> {
    /// Its namespaces.
    pub namespaces: &'a Namespaces,
    /// Facts about the host.
    pub facts: &'a HostFacts,
    /// The host's procfs.
    pub procfs: &'a Procfs,
    /// Hooks to run for it.
    pub hooks: &'a Hooks,
    /// The state hooks get.
    pub state: &'a State,
}

impl Service<'_> {
    /// Writes the id maps of a new user namespace once it waits for them.
    pub fn map_ids(&self, channel: &Channel, pid: i32) -> Result<()> {
        if !self.namespaces.creates(Kind::User) {
            return Ok(());
        }
        match channel.receive()? {
            Some(FromChild::Unmapped) => {}
            Some(FromChild::Failed(error)) => return Err(error),
            _ => return Err(died(pid)),
        }
        idmap::write(self.procfs, pid, self.namespaces, self.facts)?;
        channel.send(&ToChild::Mapped)
    }

    /// Serves the new process until it is ready to execute its program.
    pub fn until_ready(&self, channel: &Channel, pid: i32) -> Result<()> {
        loop {
            match channel.receive_with()? {
                Some((FromChild::Ready, _)) => return Ok(()),
                Some((FromChild::Mounted, _)) => {
                    hooks::run("prestart", &self.hooks.prestart, self.state)?;
                    hooks::run("createRuntime", &self.hooks.create_runtime, self.state)?;
                    channel.send(&ToChild::Hooked)?;
                }
                Some((FromChild::Failed(error), _)) => return Err(error),
                Some((message, _)) => return Err(Error::Bug { what: format!("unexpected message {message:?}") }),
                None => return Err(died(pid)),
            }
        }
    }
}

/// Waits until the program was executed, which closes the channel.
pub fn until_executed(channel: &Channel) -> Result<()> {
    match channel.receive()? {
        None => Ok(()),
        Some(FromChild::Failed(error)) => Err(error),
        Some(message) => Err(Error::Bug { what: format!("unexpected message {message:?}") }),
    }
}

/// Why the new process said nothing: what waitpid knows.
fn died(pid: i32) -> Error {
    let status = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
    let how = match status {
        Ok(nix::sys::wait::WaitStatus::Signaled(_, signal, _)) => {
            format!("was killed by {signal}; a memory limit below what the start needs does that")
        }
        Ok(nix::sys::wait::WaitStatus::Exited(_, code)) => format!("ended with code {code}"),
        _ => "has ended".into(),
    };
    Error::state(format!("unable to start container process: the new process {how}"))
}
