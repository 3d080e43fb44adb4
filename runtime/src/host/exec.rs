//! `exec`: one more process in a running container.
//!
//! The new process joins the namespaces of the container's first process through its pidfd, all in one call, after it
//! has been put into the container's cgroup. It cannot be looked into by the container's processes before it has
//! executed its program (CVE-2016-9962), and inherits nothing but what it should (CVE-2024-21626).

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use oci::ContainerId;
use oci::spec::{Hooks, Process as SpecProcess, Status};

use super::cgroup::Cgroup;
use super::launch::{read_config, write_pid_file};
use super::procfs::Procfs;
use super::room::Room;
use super::stage::become_process;
use super::stage::parent::{self, Born, Join, Service};
use super::state::{self, Record, Root};
use super::sys::clone::{pidfd_open, setns};
use super::sys::process as sys;
use super::sys::schedule;
use super::{console, launch};
use crate::error::{During, Error, Result};
use crate::facts::HostFacts;
use crate::handshake::{self, Channel, FromChild, ToChild};
use crate::plan::exec::Changes;
use crate::plan::namespaces::{Kind, Namespaces};
use crate::plan::process::{self, Process};

/// Where the process of `exec` comes from.
#[derive(Debug, Clone)]
pub enum What {
    /// `--process`: all of it, but for what it leaves out.
    Whole {
        /// The document.
        process: Box<SpecProcess>,
        /// Its `noNewPrivileges`, if it has that member.
        no_new_privileges: Option<bool>,
    },
    /// The container's own, changed.
    Changed(Changes),
}

/// What the command line asks for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Where containers are recorded.
    pub root: Root,
    /// The container.
    pub id: ContainerId,
    /// The process.
    pub what: What,
    /// Where the terminal's master goes.
    pub console_socket: Option<PathBuf>,
    /// Where a pidfd goes.
    pub pidfd_socket: Option<PathBuf>,
    /// The file that gets the pid.
    pub pid_file: Option<PathBuf>,
    /// Descriptors from 3 on that the program inherits.
    pub preserve_fds: u32,
    /// `--cgroup`: a cgroup below the container's.
    pub cgroup: Option<String>,
    /// `--ignore-paused`.
    pub ignore_paused: bool,
}

/// Everything decided before a process is made.
#[derive(Debug)]
pub struct Prepared {
    /// The process.
    pub process: Process,
    /// What was odd but no error.
    pub warnings: Vec<String>,
    namespaces: Namespaces,
    record: Record,
    first: OwnedFd,
    procfs: Procfs,
}

/// A process that is ready to execute its program.
#[derive(Debug)]
pub struct Launched {
    /// The process.
    pub born: Born,
    channel: Channel,
}

impl Launched {
    /// Lets it execute its program and waits until it has. What did not is reaped here: a dying PID namespace waits for every
    /// process in it, and whoever adopts this one may itself wait for the namespace.
    pub fn start(&self) -> Result<()> {
        let executed = self.channel.send(&ToChild::Start).and_then(|()| parent::until_executed(&self.channel));
        executed.inspect_err(|_| parent::discard(&self.born))
    }
}

/// Looks at the container and plans the process.
pub fn prepare(request: &Request) -> Result<Prepared> {
    let directory = request.root.open(&request.id)?;
    let record = directory.record()?;
    match state::status(&request.root, &record) {
        Status::Stopped | Status::Creating => return Err(Error::state("cannot exec in a stopped container")),
        Status::Paused if !request.ignore_paused => {
            return Err(Error::state("cannot exec in a paused container (use --ignore-paused to override)"));
        }
        _ => {}
    }
    let first = pidfd_open(record.pid).during(|| "open the container's first process")?;
    if !state::is_alive(&record) {
        return Err(Error::state("cannot exec in a stopped container"));
    }
    let spec = read_config(&directory.config()?)?;
    let linux = spec.linux.unwrap_or_default();
    let namespaces = Namespaces::accept(&linux)?;
    let mut warnings = Vec::new();
    let base = spec.process.unwrap_or_default();
    let wanted = match &request.what {
        What::Whole { process, no_new_privileges } => {
            crate::plan::exec::complete((**process).clone(), *no_new_privileges, &base)
        }
        What::Changed(changes) => changes.clone().apply(&base)?,
    };
    let process = process::compile(&wanted, &mut warnings)?.with_linux(&linux, true)?;
    let process = process.with_annotations(&spec.annotations)?;
    Ok(Prepared { process, warnings, namespaces, record, first, procfs: Procfs::open()? })
}

/// Makes the process; it waits for [`Launched::start`].
pub fn launch(request: &Request, prepared: &Prepared, relay: Option<OwnedFd>) -> Result<Launched> {
    let console = launch::console_for(prepared.process.terminal, request.console_socket.as_deref(), relay)?;
    let cgroup = prepared.record.cgroup.as_ref().map(Cgroup::open).transpose()?;
    let place = cgroup.as_ref().filter(|_| request.cgroup.is_none()).and_then(Cgroup::clone_fd);
    let (ours, theirs) = handshake::pair()?;
    let kinds = Kind::all().filter(|kind| prepared.namespaces.has(*kind)).fold(0, |kinds, kind| kinds | kind.flag());
    let join = Join { target: prepared.first.as_fd(), kinds, cgroup: place.as_ref().map(AsFd::as_fd) };
    // Sockets of systemd and its notifications are the container's first process's.
    launch::inherits(request.preserve_fds)?;
    let mut ends = Some((theirs, console));
    // First what is to be written: files of a hidden process belong to the host's root, who may not be who we are. It
    // outlives the birth of the process that executes the program.
    let conceal = || {
        become_process::describe(&prepared.process, &prepared.procfs)?;
        parent::hide()
    };
    let (born, placed) = parent::spawn_into(&join, conceal, |left| {
        let (channel, console) = ends.take().expect("only the child runs this, once");
        // With this open it would never see the command die.
        parent::part_with(&[ours.as_fd()]);
        let mut joiner =
            Joiner { prepared, channel, console, preserved: request.preserve_fds, id: request.id.as_str() };
        let code = joiner.run(left);
        // Its descriptors were closed as numbers, and must not be closed again.
        std::mem::forget(joiner);
        code
    })?;
    drop(ends);
    let served = (|| {
        if let Some(cgroup) = cgroup.filter(|_| !placed) {
            cgroup.add_process(born.pid, request.cgroup.as_deref())?;
        }
        ours.send(&ToChild::Placed(born.pid)).or_else(|error| launch::explain(&ours, error))?;
        let service = Service {
            namespaces: &prepared.namespaces,
            facts: &HostFacts::default(),
            procfs: &prepared.procfs,
            hooks: &Hooks::default(),
            state: &launch::state_of(&prepared.record, Status::Running),
            seccomp: prepared.process.seccomp.as_ref(),
            limits: &prepared.process.rlimits,
        };
        service.until_ready(&ours, born.pid)?;
        if let Some(path) = &request.pid_file {
            write_pid_file(path, born.pid)?;
        }
        if let Some(path) = &request.pidfd_socket {
            console::send_named(console::connect(path)?.as_fd(), b"pidfd", &born.pidfd)?;
        }
        Ok(())
    })();
    if let Err(error) = served {
        parent::discard(&born);
        return Err(error);
    }
    Ok(Launched { born, channel: ours })
}

/// The new process, before it has joined.
struct Joiner<'a> {
    prepared: &'a Prepared,
    channel: Channel,
    console: Option<OwnedFd>,
    preserved: u32,
    id: &'a str,
}

impl Joiner<'_> {
    /// `left` are the kinds of namespaces it still has to join, unless it could not even be hidden.
    fn run(&mut self, left: Result<u64>) -> i32 {
        match left.and_then(|left| self.join_and_execute(left)) {
            Ok(never) => match never {},
            Err(error) => {
                // Nobody can be told when the parent is gone.
                let _ = self.channel.send(&FromChild::Failed(error));
                1
            }
        }
    }

    fn join_and_execute(&mut self, left: u64) -> Result<Infallible> {
        let process = &self.prepared.process;
        let procfs = &self.prepared.procfs;
        sys::set_umask(0);
        nix::unistd::setsid().during(|| "start a session")?;
        if let Some(mask) = &process.affinity.0 {
            schedule::set_affinity(mask).during(|| "set the CPU affinity (initial)")?;
        }
        // No step below may run outside of the container's cgroup.
        self.channel.expect(|message| matches!(message, ToChild::Placed(_)).then_some(()))?;
        if let Some(mask) = &process.affinity.1 {
            schedule::set_affinity(mask).during(|| "set the CPU affinity (final)")?;
        }
        // While the host's privileges are there, and before the container could look at us.
        become_process::set_limits(process, &self.channel)?;
        become_process::prepare(process)?;
        become_process::reset_signals(procfs)?;
        if left != 0 {
            setns(self.prepared.first.as_fd(), left).during(|| "join the container's namespaces")?;
        }
        if self.prepared.namespaces.has(Kind::User) {
            sys::setresgid(0).during(|| "become group 0 of the user namespace")?;
            sys::setresuid(0).during(|| "become user 0 of the user namespace")?;
            // Where fs.suid_dumpable says so, a change of user shows a process again.
            parent::hide()?;
        }
        if !self.prepared.namespaces.has(Kind::Mount) {
            nix::unistd::chroot(self.prepared.record.rootfs.as_str()).during(|| "enter the root file system")?;
            nix::unistd::chdir("/").during(|| "enter /")?;
        }
        if process.terminal {
            self.take_terminal()?;
        }
        let streams = super::stage::streams::own_null(procfs)?;
        become_process::join_keyring(process, self.id)?;
        become_process::part_with_the_host(self.preserved, &[self.channel.as_fd().as_raw_fd()])?;
        let program = become_process::become_user_in(process, &self.channel, &streams)?;
        let env = become_process::environment(process, &[]);
        become_process::finish(process, &self.channel)?;
        self.channel.send(&FromChild::Ready)?;
        self.channel.expect(|message| matches!(message, ToChild::Start).then_some(()))?;
        become_process::execute(process, &program, &env)
    }

    fn take_terminal(&mut self) -> Result<()> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open("/", flags, Mode::empty()).during(|| "open the container's root")?;
        let (master, other) = console::open(&Room::new(root))?;
        let socket = self.console.take().ok_or_else(|| Error::Bug { what: "a terminal without a socket".into() })?;
        console::take(other.as_fd(), self.prepared.process.console_size)?;
        console::send(socket.as_fd(), &master)
    }
}
