//! The command's side of a birth: making the new process in its namespaces, and serving it until it is ready.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use oci::spec::{ContainerProcessState, Hooks, OCI_VERSION, State};

use super::super::procfs::Procfs;
use super::super::sys::clone::{Side, clone3, exit_now, pidfd_open, setns, unshare};
use super::super::{console, hooks, idmap, lacks};
use crate::error::{During, Error, Result};
use crate::facts::HostFacts;
use crate::handshake::{Channel, FromChild, ToChild};
use crate::plan::namespaces::{Kind, Namespaces};
use crate::plan::process::Seccomp;
use crate::plan::rlimits;

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

/// Lets every process that this one makes from now on be born hidden: nobody inside can look into it, nor into its
/// descriptors of the host, before it has executed its program (CVE-2016-9962).
///
/// For root, whose files in procfs stay its own; those of another user would be the host's root's, and the id maps could
/// not be written. Such a user's process hides itself as soon as it can, before it is in reach.
pub fn bear_hidden(euid: u32) -> Result<()> {
    if euid == 0 { hide() } else { Ok(()) }
}

/// Hides this process. What it may not show are its root, its descriptors and its memory, all of the host.
pub fn hide() -> Result<()> {
    super::super::sys::process::set_dumpable(false).during(|| "hide from the container")
}

/// Makes the process that runs `child`, in `cgroup` if the kernel can do that at birth.
///
/// `child` gets the namespaces it still has to join. The pid namespace can only be joined by a parent, and with a new
/// user namespace nothing outside can be joined from within: those are entered here, around the birth, and left again.
///
/// `conceal` runs in the process in between, if there is one, before it joins the user namespace: whoever is root there
/// could else look into it and into the one it makes, which stand in the host's root until the container has its own.
/// What that one still has to write about itself in procfs is written there.
pub fn spawn(
    namespaces: &Namespaces,
    joins: Vec<(Kind, OwnedFd)>,
    procfs: &Procfs,
    cgroup: Option<BorrowedFd<'_>>,
    conceal: impl FnOnce() -> Result<()>,
    child: impl FnOnce(Vec<(Kind, OwnedFd)>) -> i32,
) -> Result<(Born, bool)> {
    if namespaces.intermediate() {
        let bear = || {
            let time = namespaces.creates(Kind::Time).then(|| time_offsets(procfs)).transpose()?;
            conceal()?;
            joins.iter().try_for_each(|(kind, fd)| {
                setns(fd.as_fd(), kind.flag()).during(|| format!("join the {} namespace", kind.word()))
            })?;
            if let Some(file) = time {
                make_time(&file, namespaces)?;
            }
            let flags = flags(namespaces);
            let lacking = |errno| lacks::namespaces(errno, flags, "make the container's process");
            clone3(flags, None, true).map_err(lacking)
        };
        return through_intermediate(cgroup, bear, || child(Vec::new()));
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
    let (side, placed) = birth(flags(namespaces), cgroup);
    if matches!(side, Ok(Side::Child)) {
        exit_now(child(inner));
    }
    for (kind, fd) in &own {
        setns(fd.as_fd(), kind.flag()).during(|| format!("leave the {} namespace", kind.word()))?;
    }
    match side? {
        Side::Parent { pid, pidfd } => Ok((Born { pid, pidfd }, placed)),
        Side::Child => Err(Error::Bug { what: "two sides of one birth".into() }),
    }
}

/// The file of this process that takes the offsets of its new time namespace.
pub fn time_offsets(procfs: &Procfs) -> Result<OwnedFd> {
    procfs.to_write("self/timens_offsets").map_err(|errno| match errno {
        Errno::ENOENT => lacks::namespaces(Errno::EINVAL, Kind::Time.flag(), "make a time namespace"),
        errno => Error::Failed { operation: "open /proc/self/timens_offsets".into(), errno: errno as i32 },
    })
}

/// Makes a time namespace for the processes of this one, with its offsets, which can be written until one is in it.
pub fn make_time(offsets: &OwnedFd, namespaces: &Namespaces) -> Result<()> {
    unshare(Kind::Time.flag()).map_err(|errno| lacks::namespaces(errno, Kind::Time.flag(), "make a time namespace"))?;
    let lines = namespaces.time_offsets.concat();
    if !lines.is_empty() {
        let written = nix::unistd::write(offsets, lines.as_bytes());
        written.during(|| format!("write {:?} to /proc/self/timens_offsets", lines.trim_end()))?;
    }
    Ok(())
}

/// Makes a process, in `cgroup` where the kernel allows that; tells whether it did.
fn birth(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> (Result<Side>, bool) {
    let plain = || {
        let lacking = |errno| lacks::namespaces(errno, flags, "make the container's process");
        clone3(flags, None, false).map_err(lacking)
    };
    let Some(cgroup) = cgroup else { return (plain(), false) };
    match clone3(flags, Some(cgroup), false) {
        // Old kernels, threaded or delegated cgroups: be born here and move.
        Err(
            Errno::EBUSY
            | Errno::EACCES
            | Errno::ENOENT
            | Errno::ENOSYS
            | Errno::EPERM
            | Errno::EOPNOTSUPP
            | Errno::E2BIG,
        ) => (plain(), false),
        side => (side.map_err(|errno| lacks::namespaces(errno, flags, "make the container's process")), true),
    }
}

/// Sets one resource limit of the new process, with this one's privileges.
fn set_limit(pid: i32, limit: &rlimits::Limit) -> Result<()> {
    super::super::sys::process::set_limit(pid, limit.resource, limit.soft, limit.hard)
        .during(|| rlimits::describe(limit))
}

fn flags(namespaces: &Namespaces) -> u64 {
    namespaces.create.iter().filter(|kind| !LATER.contains(kind)).fold(0, |flags, kind| flags | kind.flag())
}

/// Makes a process that joins namespaces and gives birth (`bear`) to the wanted one as this process's child.
fn through_intermediate(
    cgroup: Option<BorrowedFd<'_>>,
    bear: impl FnOnce() -> Result<Side>,
    child: impl FnOnce() -> i32,
) -> Result<(Born, bool)> {
    let (to_parent, from_intermediate) = crate::handshake::pair()?;
    let (side, placed) = birth(0, cgroup);
    let intermediate = match side? {
        Side::Child => {
            drop(from_intermediate);
            let code = match bear() {
                Ok(Side::Child) => {
                    drop(to_parent);
                    child()
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
        Side::Parent { pid, .. } => pid,
    };
    drop(to_parent);
    let answer = from_intermediate.receive()?;
    let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(intermediate), None);
    match answer {
        Some(FromChild::Born(pid)) => {
            let pidfd = pidfd_open(pid).during(|| "open the new process")?;
            Ok((Born { pid, pidfd }, placed))
        }
        Some(FromChild::Failed(error)) => Err(error),
        _ => Err(Error::state("unable to start container process: the intermediate process has ended")),
    }
}

/// What a process of `exec` joins.
#[derive(Debug)]
pub struct Join<'a> {
    /// The container's first process.
    pub target: BorrowedFd<'a>,
    /// Kinds of namespaces.
    pub kinds: u64,
    /// The container's cgroup, where a process can be born in it.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Makes the process that runs `child`, which gets the kinds it still has to join.
///
/// Only a parent can join a pid namespace for its child; without a user namespace that is this process, which makes no
/// other child afterwards. With one, a process in between joins everything first.
///
/// `conceal` runs in the new process before anything but its pid namespace is joined: whoever may look into other
/// processes of the container's user namespace could else look into this one, and into its descriptors of the host
/// (CVE-2016-9962). In the pid namespace root's is hidden from its birth.
pub fn spawn_into(
    join: &Join<'_>,
    conceal: impl FnOnce() -> Result<()>,
    child: impl FnOnce(Result<u64>) -> i32,
) -> Result<(Born, bool)> {
    bear_hidden(super::super::probe::effective_uid())?;
    let pid_kind = join.kinds & Kind::Pid.flag();
    if join.kinds & Kind::User.flag() != 0 {
        return through_intermediate(
            join.cgroup,
            || {
                conceal()?;
                setns(join.target, join.kinds).during(|| "join the container's namespaces")?;
                clone3(0, None, true).during(|| "make the process")
            },
            || child(Ok(0)),
        );
    }
    if pid_kind != 0 {
        setns(join.target, pid_kind).during(|| "join the container's pid namespace")?;
    }
    let (side, placed) = birth(0, join.cgroup);
    match side? {
        Side::Child => exit_now(child(conceal().map(|()| join.kinds & !pid_kind))),
        Side::Parent { pid, pidfd } => Ok((Born { pid, pidfd }, placed)),
    }
}

/// Closes, in the new process, descriptors that are the command's alone. Their owners in this copy of the command's
/// memory never run again; dropping them would do more than close (a lock is shared with the command).
pub fn part_with(fds: &[BorrowedFd<'_>]) {
    for fd in fds {
        // Open since before the birth.
        let _ = nix::unistd::close(fd.as_raw_fd());
    }
}

/// Ends a process that must not go on.
pub fn discard(born: &Born) {
    // It may have ended by itself.
    let _ = super::super::sys::clone::pidfd_send_signal(born.pidfd.as_fd(), libc::SIGKILL);
    let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(born.pid), None);
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
    /// Its resource limits.
    pub limits: &'a [rlimits::Limit],
    /// Its system call filter.
    pub seccomp: Option<&'a Seccomp>,
}

impl Service<'_> {
    /// Writes the id maps of a new user namespace once it waits for them, and the OOM adjustment: afterwards the process
    /// is hidden, and what procfs has of it belongs to root.
    pub fn map_ids(&self, channel: &Channel, pid: i32, oom_score_adj: Option<i32>) -> Result<()> {
        if !self.namespaces.creates(Kind::User) {
            return Ok(());
        }
        match channel.receive()? {
            Some(FromChild::Unmapped) => {}
            Some(FromChild::Failed(error)) => return Err(error),
            _ => return Err(died(pid)),
        }
        idmap::write(self.procfs, pid, self.namespaces, self.facts)?;
        if let Some(adjustment) = oom_score_adj {
            self.procfs.write(&format!("{pid}/oom_score_adj"), &adjustment.to_string())?;
        }
        channel.send(&ToChild::Mapped)
    }

    /// Gives the notify descriptor of a filter to its agent. runtime-spec config-linux.md "Seccomp", "listenerPath"
    fn hand_over(&self, listener: &OwnedFd, pid: i32) -> Result<()> {
        let Some(seccomp) = self.seccomp else { return Err(Error::Bug { what: "a listener without a filter".into() }) };
        let state = ContainerProcessState {
            oci_version: OCI_VERSION.into(),
            fds: vec!["seccompFd".into()],
            pid,
            metadata: seccomp.listener_metadata.clone(),
            state: Some(State { pid, ..self.state.clone() }),
        };
        let text = serde_json::to_vec(&state).map_err(|cause| Error::Bug { what: cause.to_string() })?;
        let agent = console::connect(Path::new(&seccomp.listener_path))?;
        console::send_named(agent.as_fd(), &text, listener)
    }

    /// Serves the new process until it is ready to execute its program.
    pub fn until_ready(&self, channel: &Channel, pid: i32) -> Result<()> {
        loop {
            match channel.receive_with()? {
                Some((FromChild::Ready, _)) => return Ok(()),
                Some((FromChild::Unlimited, _)) => {
                    self.limits.iter().try_for_each(|limit| set_limit(pid, limit))?;
                    channel.send(&ToChild::Limited)?;
                }
                Some((FromChild::Mounted, _)) => {
                    hooks::run("prestart", &self.hooks.prestart, self.state)?;
                    hooks::run("createRuntime", &self.hooks.create_runtime, self.state)?;
                    channel.send(&ToChild::Hooked)?;
                }
                Some((FromChild::Listener, Some(listener))) => {
                    self.hand_over(&listener, pid)?;
                    channel.send(&ToChild::Listened)?;
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
