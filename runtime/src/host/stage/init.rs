//! The container's first process, from its birth to execve.
//!
//! It applies the plan's steps in order, tells the parent when it is ready or which step failed, waits for the start,
//! and becomes the program.

use std::convert::Infallible;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use oci::spec::{Hooks, State, Status};

use super::super::cgroup_mount::Known;
use super::super::procfs::Procfs;
use super::super::sys::clone::{setns, unshare};
use super::super::sys::process as sys;
use super::super::{console, hooks, lacks, start};
use super::become_process::{self, Labels};
use super::tree::{self, Tree};
use super::{parent, streams};
use crate::container::Container;
use crate::error::{During, Error, Result};
use crate::handshake::{Channel, FromChild, ToChild};
use crate::plan::namespaces::Kind;
use crate::plan::{Plan, Step, mounts::Propagation};

/// Everything the new process brings from its parent.
#[derive(Debug)]
pub struct Init<'a> {
    /// The container.
    pub container: &'a Container,
    /// What to do.
    pub plan: &'a Plan,
    /// To the parent.
    pub channel: Channel,
    /// The host's procfs.
    pub procfs: &'a Procfs,
    /// Whether this process has to hide at once, because it was not born hidden and may.
    pub hide: bool,
    /// The table of mounts of the parent, if this process has a copy of them.
    pub mounts: Option<&'a String>,
    /// Where the terminal's master goes.
    pub console: Option<OwnedFd>,
    /// For a container that waits for `start`.
    pub listener: Option<OwnedFd>,
    /// Namespaces this process joins itself, in order.
    pub joins: Vec<(Kind, OwnedFd)>,
    /// The root file system as the parent has opened it, for a root that may not walk to it.
    pub root: Option<OwnedFd>,
    /// Bind mount sources the parent has opened.
    pub sources: Vec<Option<OwnedFd>>,
    /// The state hooks get; its pid is filled in as the container sees it.
    pub state: State,
    /// Variables beyond the configuration's.
    pub env: Vec<String>,
    /// Descriptors from 3 on that the program inherits.
    pub preserved: u32,
    /// Whether the parent has told it to execute its program as soon as it is ready.
    pub told: bool,
}

/// Runs the first process; returns only what failed, after the parent (or `start`) was told.
pub fn run(init: Init<'_>) -> i32 {
    // Its descriptors are closed as numbers before the program is looked for, and must not be closed again here.
    let mut init = ManuallyDrop::new(init);
    match set_up(&mut init).and_then(|labels| finish(&mut init, labels)) {
        Ok(never) => match never {},
        Err(error) => {
            // Nobody can be told when the parent is gone.
            let _ = init.channel.send(&FromChild::Failed(error));
            1
        }
    }
}

fn set_up<'a>(init: &mut Init<'a>) -> Result<Option<Labels<'a>>> {
    // The parent's mask would take bits from every node and directory that is made.
    sys::set_umask(0);
    // A session of its own: signals of the caller's terminal are the caller's.
    nix::unistd::setsid().during(|| "start a session")?;
    if init.hide {
        parent::hide()?;
    }
    let labels = namespaces(init)?;
    let mut tree: Option<Tree> = None;
    let mut propagation = None;
    let count = init.plan.steps.len();
    for (index, step) in init.plan.steps.iter().enumerate() {
        apply(init, step, &mut tree, &mut propagation).map_err(|error| match error {
            Error::Failed { operation, errno } => {
                Error::Failed { operation: format!("{operation} (step {} of {count})", index + 1), errno }
            }
            other => other,
        })?;
    }
    Ok(labels)
}

/// Enters or makes the namespaces that could not be made at birth, and becomes root of a user namespace. The labels, if
/// their files would be out of reach later.
fn namespaces<'a>(init: &mut Init<'a>) -> Result<Option<Labels<'a>>> {
    let (plan, wanted) = (init.plan, &init.plan.namespaces);
    for (kind, fd) in std::mem::take(&mut init.joins) {
        setns(fd.as_fd(), kind.flag()).during(|| format!("join the {} namespace", kind.word()))?;
    }
    if wanted.creates(Kind::User) {
        init.channel.send(&FromChild::Unmapped)?;
        init.channel.expect(|message| matches!(message, ToChild::Mapped).then_some(()))?;
    }
    if wanted.creates(Kind::Time) && !wanted.intermediate() {
        parent::make_time(&parent::time_offsets(init.procfs)?, wanted)?;
    }
    if !wanted.has(Kind::User) {
        return Ok(None);
    }
    // After this, files of our own in procfs belong to the host's root. Who has joined has written them before.
    let labels = wanted.creates(Kind::User).then(|| Labels::open(&plan.process, init.procfs)).transpose()?;
    sys::setresgid(0).during(|| "become group 0 of the user namespace")?;
    sys::setresuid(0).during(|| "become user 0 of the user namespace")?;
    // Whoever is root outside may do everything to a process of this user namespace, with no capability there, and every
    // pid namespace above sees it: but for being hidden it would show the host's root, in which it still stands.
    parent::hide()?;
    Ok(labels)
}

fn apply(
    init: &mut Init<'_>,
    step: &Step,
    tree: &mut Option<Tree>,
    propagation: &mut Option<Propagation>,
) -> Result<()> {
    if tree.is_none() && !matches!(step, Step::HostPropagation(_)) {
        let sources = std::mem::take(&mut init.sources);
        let usable = !init.plan.namespaces.has(Kind::User);
        let known = Known { mounts: init.mounts.cloned(), places: None, usable };
        // Hooks that run before the root is entered begin where the command did.
        let roams = init.container.spec.hooks.as_ref().is_none_or(|hooks| hooks.create_container.is_empty());
        let rootfs = &init.container.rootfs;
        *tree = Some(tree::begin(*propagation, rootfs, init.root.take(), sources, known, roams)?);
    }
    let Some(tree) = tree else {
        if let Step::HostPropagation(host) = step {
            *propagation = Some(*host);
        }
        return Ok(());
    };
    match step {
        Step::HostPropagation(_) | Step::Rootfs { .. } => Ok(()),
        Step::Mount(mount) => tree.mount(mount),
        Step::Cgroup { namespace } => {
            init.told = init.channel.expect(|message| match message {
                ToChild::Placed(_) => Some(false),
                ToChild::PlacedToStart(_) => Some(true),
                _ => None,
            })?;
            if *namespace {
                tree.cgroups().places = places(init.plan, init.procfs);
                unshare(Kind::Cgroup.flag())
                    .map_err(|errno| lacks::namespaces(errno, Kind::Cgroup.flag(), "make a cgroup namespace"))?;
            }
            Ok(())
        }
        Step::Device(node) => tree.device(node),
        Step::Link { target, path, replace } => tree.link(target, path, *replace),
        Step::WorkingDirectory(path) => tree.working_directory(path),
        Step::Hostname(name) => nix::unistd::sethostname(name).during(|| format!("set the host name to {name:?}")),
        Step::Domainname(name) => {
            super::super::sys::process::set_domainname(name).during(|| format!("set the domain name to {name:?}"))
        }
        Step::Sysctl { key, value } => init.procfs.write(&format!("sys/{}", crate::plan::sysctl::path(key)), value),
        Step::Hooks => run_hooks(init),
        Step::Console => {
            let (master, other) = console::open(tree.room())?;
            console::cover_dev_console(tree.room(), other.as_fd())?;
            let socket =
                init.console.take().ok_or_else(|| Error::Bug { what: "a terminal without a socket".into() })?;
            console::take(other.as_fd(), init.plan.process.console_size)?;
            console::send(socket.as_fd(), &master)
        }
        Step::ReadonlyPath(path) => tree.readonly_path(path),
        Step::MaskedPath(path) => tree.masked_path(path),
        Step::ReadonlyRoot => tree.readonly_root(),
        Step::Enter(entry) => tree.enter(*entry),
        Step::RootPropagation(root) => super::super::sys::mount::setattr_path(b"/", root.attr(), root.recursive)
            .during(|| "set the propagation of the container's root"),
    }
}

/// Where this process is in each hierarchy, if a mount will have to know.
fn places(plan: &Plan, procfs: &Procfs) -> Option<String> {
    let wanted = plan.steps.iter().any(|step| matches!(step, Step::Mount(mount) if mount.is_cgroup()));
    // Without it the mount is made in another way.
    wanted.then(|| procfs.read("self/cgroup").ok()).flatten()
}

fn hook_lists(init: &Init<'_>) -> Hooks {
    init.container.spec.hooks.clone().unwrap_or_default()
}

fn run_hooks(init: &mut Init<'_>) -> Result<()> {
    let lists = hook_lists(init);
    if !lists.prestart.is_empty() || !lists.create_runtime.is_empty() {
        init.channel.send(&FromChild::Mounted)?;
        init.channel.expect(|message| matches!(message, ToChild::Hooked).then_some(()))?;
    }
    if lists.create_container.is_empty() {
        return Ok(());
    }
    //= runtime-spec runtime.md "State"
    //# For hooks executed in the container namespace, it is the pid as seen by the container.
    init.state.pid = nix::unistd::getpid().as_raw();
    hooks::run("createContainer", &lists.create_container, &init.state)
}

/// What `kill` may end a container with that was created and not started, as it does in runc.
const ENDS_THE_WAIT: [nix::libc::c_int; 5] =
    [nix::libc::SIGHUP, nix::libc::SIGINT, nix::libc::SIGQUIT, nix::libc::SIGABRT, nix::libc::SIGTERM];

fn finish<'a>(init: &mut Init<'a>, labels: Option<Labels<'a>>) -> Result<Infallible> {
    let process = &init.plan.process;
    // The first look at the new root; the user who opens is still the runtime's.
    let streams = streams::own_null(init.procfs)?;
    match labels {
        Some(labels) => labels.apply()?,
        None if init.plan.namespaces.has(Kind::User) => {}
        None => Labels::open(process, init.procfs)?.apply()?,
    }
    become_process::join_keyring(process, init.container.id.as_str())?;
    become_process::prepare(process)?;
    become_process::reset_signals(init.procfs)?;
    if init.listener.is_some() {
        sys::end_on(&ENDS_THE_WAIT);
    }
    if !init.plan.namespaces.has(Kind::User) {
        // The last file of procfs was written: nothing needs to be seen any more.
        parent::hide()?;
    }
    become_process::set_limits(process, &init.channel)?;
    let listener = init.listener.as_ref().map(AsRawFd::as_raw_fd);
    let kept: Vec<_> = listener.into_iter().chain([init.channel.as_fd().as_raw_fd()]).collect();
    become_process::part_with_the_host(init.preserved, &kept)?;
    let program = become_process::become_user_in(process, &init.channel, &streams)?;
    let env = become_process::environment(process, &init.env);
    become_process::finish(process, &init.channel)?;
    init.channel.send(&FromChild::Ready)?;
    let lists = hook_lists(init);
    let go = |init: &mut Init<'_>, stream: Option<&mut UnixStream>| -> Result<Infallible> {
        if !lists.start_container.is_empty() {
            init.state.status = Status::Created;
            init.state.pid = nix::unistd::getpid().as_raw();
            hooks::run("startContainer", &lists.start_container, &init.state)?;
        }
        stream.map(start::go_ahead);
        become_process::execute(process, &program, &env)
    };
    match init.listener.take() {
        None => {
            if !init.told {
                init.channel.expect(|message| matches!(message, ToChild::Start).then_some(()))?;
            }
            go(init, None)
        }
        Some(listener) => {
            let (mut stream, _listener) = start::wait(listener)?;
            let failed = go(init, Some(&mut stream));
            if let Err(error) = &failed {
                start::report(&mut stream, error);
            }
            failed
        }
    }
}
