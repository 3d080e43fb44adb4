//! `create` and `run`: a bundle becomes a container.
//!
//! Everything is checked and planned before anything is made. From the state directory on, a failure takes back all
//! that was made; a crash leaves a record from which `delete --force` does the same.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci::ContainerId;
use oci::spec::{OCI_VERSION, Spec, State, Status};

use super::cgroup::resctrl::{self, Group};
use super::cgroup::{self, Cgroup, Layout, Manager};
use super::probe::{self, Rootless};
use super::procfs::{Procfs, real_path};
use super::stage::become_process;
use super::stage::init::{self, Init};
use super::stage::parent::{self, Born, Service};
use super::state::{Directory, Record, Root, VERSION};
use super::{clock, console, delete, hooks, net_device, notify};
use crate::container::Container;
use crate::error::{During, Error, Result};
use crate::facts::HostFacts;
use crate::handshake::{self, Channel, FromChild, ToChild};
use crate::plan::namespaces::{Kind, outside};
use crate::plan::{self, Options, Plan};

/// What the command line asks for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Where containers are recorded.
    pub root: Root,
    /// The new container's name.
    pub id: ContainerId,
    /// The absolute path of the bundle.
    pub bundle: PathBuf,
    /// Where the terminal's master goes.
    pub console_socket: Option<PathBuf>,
    /// Where a pidfd of the first process goes.
    pub pidfd_socket: Option<PathBuf>,
    /// The file that gets the pid.
    pub pid_file: Option<PathBuf>,
    /// Options of the plan.
    pub options: Options,
    /// Descriptors from 3 on that the program inherits, `LISTEN_FDS` not counted.
    pub preserve_fds: u32,
    /// The host's socket that hears when the container is ready.
    pub notify: Option<String>,
    /// What `--rootless` says.
    pub rootless: Rootless,
    /// Who makes cgroups.
    pub cgroup_manager: Manager,
}

/// A bundle that was read, checked and planned.
#[derive(Debug)]
pub struct Prepared {
    /// The accepted container.
    pub container: Container,
    /// `config.json` as it was read.
    pub config: Vec<u8>,
    /// Facts about the host.
    pub facts: HostFacts,
    /// What will be done.
    pub plan: Plan,
    /// Its cgroup, not made yet.
    pub(super) cgroup: Cgroup,
    /// The table of mounts of this command.
    mounts: String,
    procfs: Procfs,
}

/// A container whose first process is ready to execute its program.
#[derive(Debug)]
pub struct Launched {
    /// Its locked directory.
    pub directory: Directory,
    /// Its record.
    pub record: Record,
    /// Its first process.
    pub born: Born,
    /// What had to be left out.
    pub warnings: Vec<String>,
    channel: Channel,
    /// Whether it was told to go on as soon as it is ready.
    told: bool,
}

/// The greatest `config.json`: 70,000 mappings of 100 KB paths are an attack, not a container.
const CONFIG_LEN_MAX: u64 = 16 << 20;

/// Reads, checks and plans a bundle. Touches nothing.
pub fn prepare(request: &Request) -> Result<Prepared> {
    let path = request.bundle.join("config.json");
    let config = match std::fs::File::open(&path) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::state(format!("JSON specification file {} not found", path.display())));
        }
        file => {
            let operation = || format!("read {}", path.display());
            let mut text = Vec::with_capacity(64 * 1024);
            let mut file = std::io::Read::take(file.during(operation)?, CONFIG_LEN_MAX + 1);
            std::io::Read::read_to_end(&mut file, &mut text).during(operation)?;
            text
        }
    };
    if config.len() as u64 > CONFIG_LEN_MAX {
        return Err(Error::refusal("config.json", format!("is larger than {CONFIG_LEN_MAX} bytes")));
    }
    let spec = Spec::parse(&config).map_err(|error| Error::Refusal {
        field: format!("config.json: {}", error.place),
        reason: error.cause.to_string(),
    })?;
    let mut container = Container::accept(request.id.clone(), &request.bundle, spec)?;
    container.rootfs =
        real_path(&container.rootfs).during(|| format!("open the root file system {}", container.rootfs.display()))?;
    let procfs = Procfs::open()?;
    container.namespaces.hosts = probe::hosts(&procfs, &container.namespaces)?;
    let mut facts = probe::facts(&procfs, request.rootless)?;
    if request.notify.is_some() && container.namespaces.has(Kind::Mount) {
        let directory = std::path::absolute(request.root.path().join(request.id.as_str()));
        let directory = directory.during(|| "find the folder of the notification socket")?;
        facts.notify_socket = Some(notify::folder(&directory).display().to_string());
    }
    let plan = plan::plan(&container, &facts, request.options)?;
    let (cgroup, mounts) = plan_cgroup(&container, &facts, request.cgroup_manager)?;
    Ok(Prepared { container, config, facts, plan, cgroup, mounts, procfs })
}

fn plan_cgroup(container: &Container, facts: &HostFacts, manager: Manager) -> Result<(Cgroup, String)> {
    let linux = container.spec.linux.as_ref();
    let annotations: Vec<(String, String)> = container.spec.annotations.clone().into_iter().collect();
    let namespaces = &container.namespaces;
    // A delegated cgroup belongs to the container's root, where that is another user and sees nothing else.
    let own = namespaces.creates(Kind::User) && namespaces.creates(Kind::Cgroup);
    let owner = own.then(|| outside(&namespaces.uid_mappings, 0)).flatten();
    let request = cgroup::Request {
        cgroups_path: linux.and_then(|linux| linux.cgroups_path.as_deref()),
        id: container.id.as_str(),
        manager,
        rootless: facts.rootless,
        resources: linux.and_then(|linux| linux.resources.as_ref()),
        annotations: &annotations,
        owner,
    };
    let (layout, mounts) = Layout::read()?;
    Ok((Cgroup::plan(&request, &layout)?, mounts))
}

/// Makes the container; its first process then waits for `start` (with `wait_for_start`) or for [`Launched::start`].
pub fn launch(
    request: &Request,
    prepared: &Prepared,
    console: Option<OwnedFd>,
    wait_for_start: bool,
) -> Result<Launched> {
    let console = console_for(prepared.plan.process.terminal, request.console_socket.as_deref(), console)?;
    let tell = !wait_for_start && console.is_none() && nothing_in_between(request, prepared);
    let directory = request.root.create(&request.id)?;
    let mut record = record_of(prepared);
    record.notify = request.notify.clone().filter(|_| prepared.facts.notify_socket.is_some());
    let mut warnings = Vec::new();
    let start = if wait_for_start { Start::ByCommand } else { Start::ByUs { at_once: tell } };
    let made = build(request, prepared, console, start, &directory, &mut record, &mut warnings);
    match made {
        Ok((born, channel)) => Ok(Launched { directory, record, born, warnings, channel, told: tell }),
        Err(error) => {
            // What fails while cleaning up is left for `delete --force`; the first error is what the caller needs.
            let _ = delete::take_back(directory, &record);
            Err(error)
        }
    }
}

/// Where the master of the terminal goes, if there is one: the caller's socket, or our own relay.
pub fn console_for(terminal: bool, socket: Option<&Path>, relay: Option<OwnedFd>) -> Result<Option<OwnedFd>> {
    match (terminal, socket, relay) {
        (true, Some(path), _) => console::connect(path).map(Some),
        (true, None, Some(relay)) => Ok(Some(relay)),
        (true, None, None) => {
            Err(Error::state("cannot allocate tty if runtime will detach without setting console socket"))
        }
        (false, Some(_), _) => {
            Err(Error::state("cannot use console socket if runtime will not detach or allocate tty"))
        }
        (false, None, _) => Ok(None),
    }
}

pub(super) fn record_of(prepared: &Prepared) -> Record {
    let spec = &prepared.container.spec;
    let has = |list: fn(&oci::spec::Hooks) -> &Vec<oci::spec::Hook>| {
        spec.hooks.as_ref().is_some_and(|hooks| !list(hooks).is_empty())
    };
    Record {
        version: VERSION,
        id: prepared.container.id.to_string(),
        oci_version: spec.oci_version.clone(),
        bundle: prepared.container.bundle.display().to_string(),
        rootfs: prepared.container.rootfs.display().to_string(),
        created: clock::now(),
        owner: prepared.facts.euid,
        annotations: spec.annotations.clone(),
        own_pids: prepared.plan.namespaces.creates(Kind::Pid),
        poststart: has(|hooks| &hooks.poststart),
        poststop: has(|hooks| &hooks.poststop),
        ..Record::default()
    }
}

/// The state document of a container.
pub fn state_of(record: &Record, status: Status) -> State {
    State {
        oci_version: if record.oci_version.is_empty() { OCI_VERSION.into() } else { record.oci_version.clone() },
        id: record.id.clone(),
        status,
        pid: if status == Status::Stopped { 0 } else { record.pid },
        bundle: record.bundle.clone(),
        annotations: record.annotations.clone(),
    }
}

fn build(
    request: &Request,
    prepared: &Prepared,
    console: Option<OwnedFd>,
    start: Start,
    directory: &Directory,
    record: &mut Record,
    warnings: &mut Vec<String>,
) -> Result<(Born, Channel)> {
    let Prepared { container, config, facts, plan, procfs, .. } = prepared;
    let mut cgroup = prepared.cgroup.clone();
    directory.save_config(config)?;
    // Written before the cgroup is made: what a crash leaves behind can be found.
    record.cgroup = Some(cgroup.planned_state());
    directory.save(record)?;
    if let Err(refused) = cgroup.create() {
        // What it had made is gone again; what is there is another's.
        record.cgroup = None;
        return Err(refused.into());
    }
    record.cgroup = Some(cgroup.state());
    let resources = container.spec.linux.as_ref().and_then(|linux| linux.resources.clone()).unwrap_or_default();
    let early = request.cgroup_manager != Manager::Systemd;
    if early {
        warnings.extend(cgroup.apply(&resources)?);
    }
    let place = cgroup.clone_fd();
    let joins = parent::open_joins(&plan.namespaces)?;
    let listener = if start == Start::ByCommand { Some(super::start::listen(directory)?) } else { None };
    let (ours, theirs) = handshake::pair()?;
    let (mut env, preserved) = passed(request.preserve_fds)?;
    if record.notify.is_some() {
        notify::make(directory)?;
        env.push(format!("NOTIFY_SOCKET={}/{}", plan::NOTIFY_FOLDER, notify::SOCKET));
    }
    let state = state_of(record, Status::Creating);
    parent::bear_hidden(facts.euid)?;
    let sources = super::source::open(plan, facts, procfs)?;
    let root = super::source::root(plan, facts, &container.rootfs)?;
    let listener: Option<OwnedFd> = listener.map(Into::into);
    let mut ends = Some((theirs, listener, console, root, sources, env));
    let conceal = || {
        become_process::describe(&plan.process, procfs)?;
        parent::hide()
    };
    let cgroup_fd = place.as_ref().map(AsFd::as_fd);
    let (born, placed) = parent::spawn(&plan.namespaces, joins, procfs, cgroup_fd, conceal, |joins| {
        let (channel, listener, console, root, sources, env) = ends.take().expect("only the child runs this, once");
        // With these open it would never see the command die, and would keep the container locked.
        parent::part_with(&[ours.as_fd(), directory.as_fd()]);
        if let Some(place) = &place {
            parent::part_with(&[place.as_fd()]);
        }
        init::run(Init {
            container,
            plan,
            channel,
            procfs,
            hide: facts.euid != 0 && !plan.namespaces.has(Kind::User) && !facts.in_user_namespace,
            mounts: plan.namespaces.creates(Kind::Mount).then_some(&prepared.mounts),
            console,
            listener,
            joins,
            root,
            sources,
            state: state.clone(),
            env,
            preserved,
            told: false,
        })
    })?;
    drop(ends);
    record.pid = born.pid;
    record.start_time = super::state::stat(born.pid).map_or(0, |(_, start)| start);
    let hooks = container.spec.hooks.clone().unwrap_or_default();
    let state = state_of(record, Status::Creating);
    let limits = &plan.process.rlimits;
    let service = Service {
        namespaces: &plan.namespaces,
        facts,
        procfs,
        hooks: &hooks,
        state: &state,
        limits,
        seccomp: plan.process.seccomp.as_ref(),
    };
    let enter = |record: &mut Record| -> Result<Vec<String>> {
        let devices = container.spec.linux.as_ref().map(|linux| &linux.net_devices);
        for (name, device) in devices.into_iter().flatten() {
            let inside = device.name.as_deref().filter(|name| !name.is_empty()).unwrap_or(name);
            let target = net_device::target(&plan.namespaces, procfs, born.pid)?;
            net_device::move_to(name, inside, &target, procfs)?;
        }
        if let Some(rdt) = container.spec.linux.as_ref().and_then(|linux| linux.intel_rdt.as_ref()) {
            let mount = resctrl::mount_point(&super::procfs::read_file("/proc/self/mountinfo")?);
            let class = Group::create(mount.as_deref(), container.id.as_str(), rdt)?;
            record.rdt = Some(class.clone());
            class.attach(born.pid)?;
        }
        if !placed {
            let attached = cgroup.attach(born.pid);
            record.cgroup = Some(cgroup.state());
            attached?;
        }
        Ok(if early { Vec::new() } else { cgroup.apply(&resources)? })
    };
    let tell = start == Start::ByUs { at_once: true };
    let served = serve(&service, &ours, &born, plan, directory, record, tell, enter).map(|said| warnings.extend(said));
    if let Err(error) = served {
        parent::discard(&born);
        return Err(error);
    }
    if let Some(path) = &request.pid_file {
        write_pid_file(path, born.pid)?;
    }
    if let Some(path) = &request.pidfd_socket {
        let socket = console::connect(path)?;
        console::send_named(socket.as_fd(), b"pidfd", &born.pidfd)?;
    }
    Ok((born, ours))
}

/// Who lets the new process execute its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// The command `start`.
    ByCommand,
    /// This one.
    ByUs {
        /// Before it is ready.
        at_once: bool,
    },
}

/// Whether nothing has to happen between the moment the new process is ready and its start, and it asks for nothing
/// before: then it need not wait for an answer.
fn nothing_in_between(request: &Request, prepared: &Prepared) -> bool {
    let (plan, facts) = (&prepared.plan, &prepared.facts);
    let files = request.pid_file.is_none() && request.pidfd_socket.is_none() && request.notify.is_none();
    let hooks = prepared.container.spec.hooks.as_ref().is_some_and(|hooks| *hooks != oci::spec::Hooks::default());
    let asks = plan.namespaces.has(Kind::User) || facts.rootless || facts.in_user_namespace;
    let notifies = plan.process.seccomp.as_ref().is_some_and(|seccomp| seccomp.filter.notify);
    files && !hooks && !asks && !notifies && !plan.process.terminal
}

#[expect(clippy::too_many_arguments, reason = "the parts of one birth, each borrowed in its own way")]
fn serve(
    service: &Service<'_>,
    channel: &Channel,
    born: &Born,
    plan: &Plan,
    directory: &Directory,
    record: &mut Record,
    tell: bool,
    enter: impl FnOnce(&mut Record) -> Result<Vec<String>>,
) -> Result<Vec<String>> {
    service.map_ids(channel, born.pid, plan.process.oom_score_adj)?;
    let warnings = enter(record)?;
    // Should we die before this, the new process sees its channel end and follows.
    directory.save(record)?;
    // With a user namespace it was written when the process could still be reached by everybody who may make one.
    if let Some(adjustment) = plan.process.oom_score_adj.filter(|_| !plan.namespaces.has(Kind::User)) {
        service.procfs.write(&format!("{}/oom_score_adj", born.pid), &adjustment.to_string())?;
    }
    let placed = if tell { ToChild::PlacedToStart(born.pid) } else { ToChild::Placed(born.pid) };
    channel.send(&placed).or_else(|error| explain(channel, error))?;
    service.until_ready(channel, born.pid)?;
    Ok(warnings)
}

/// A broken channel means that the child has failed before: its own words are the reason.
pub(super) fn explain(channel: &Channel, error: Error) -> Result<()> {
    match channel.receive() {
        Ok(Some(FromChild::Failed(reason))) => Err(reason),
        _ => Err(error),
    }
}

/// What systemd passed to us for the container: its sockets, if they are for this very process (sd_listen_fds(3)); and
/// how many descriptors the program inherits.
fn passed(preserve_fds: u32) -> Result<(Vec<String>, u32)> {
    let variable = |name: &str| std::env::var(name).ok();
    let ours = variable("LISTEN_PID").is_some_and(|pid| pid.parse() == Ok(std::process::id()));
    let listen: u32 = variable("LISTEN_FDS").filter(|_| ours).and_then(|count| count.parse().ok()).unwrap_or(0);
    let mut env = Vec::new();
    if listen > 0 {
        env.extend([format!("LISTEN_FDS={listen}"), "LISTEN_PID=1".to_owned()]);
        env.extend(variable("LISTEN_FDNAMES").map(|names| format!("LISTEN_FDNAMES={names}")));
    }
    let count = preserve_fds.saturating_add(listen);
    inherits(count)?;
    Ok((env, count))
}

/// Makes sure that each of the `count` descriptors a program inherits is there: its number could be one of ours else.
pub(super) fn inherits(count: u32) -> Result<()> {
    let missing = (3..).zip(0..count).map(|(fd, _)| fd).find(|fd| !super::sys::process::is_inherited(*fd));
    match missing {
        None => Ok(()),
        Some(fd) => Err(Error::refusal(
            "--preserve-fds",
            format!("descriptor {fd} of {count} to preserve (LISTEN_FDS counts too) is not open"),
        )),
    }
}

/// Writes the pid file so that a reader finds all of it or none. Others may write in its folder: what they left under
/// the temporary name is replaced, never followed.
pub fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    let operation = || format!("write the pid file {}", path.display());
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let open = || std::fs::File::options().write(true).create_new(true).open(&fresh);
    let file = match open() {
        Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => {
            std::fs::remove_file(&fresh).during(operation)?;
            open()
        }
        file => file,
    };
    std::io::Write::write_all(&mut file.during(operation)?, pid.to_string().as_bytes()).during(operation)?;
    std::fs::rename(&fresh, path).during(operation)
}

impl Launched {
    /// Lets the first process of `run` execute its program, and runs poststart hooks; their failures are returned.
    pub fn start(&self) -> Result<Vec<Error>> {
        if !self.told {
            self.channel.send(&ToChild::Start)?;
        }
        parent::until_executed(&self.channel)?;
        Ok(poststart(&self.directory, &self.record))
    }

    /// What is left of it for a command that ends next: the rest is closed by its end.
    pub fn into_record(self) -> (Directory, Record) {
        std::mem::forget((self.born, self.channel, self.warnings));
        (self.directory, self.record)
    }
}

/// Runs the poststart hooks of a container that has just been started; its lock is given up before.
pub fn poststart(directory: &Directory, record: &Record) -> Vec<Error> {
    if !record.poststart {
        return Vec::new();
    }
    match directory.config().and_then(|text| read_config(&text)) {
        Ok(spec) => {
            // A hook may ask for the container's state, and may take its time: nobody else need wait for it.
            if let Err(error) = directory.unlock() {
                return vec![error];
            }
            hooks::run_all("poststart", &spec.hooks.unwrap_or_default().poststart, &state_of(record, Status::Running))
        }
        Err(error) => vec![error],
    }
}

/// Reads a kept configuration.
pub fn read_config(text: &[u8]) -> Result<Spec> {
    Spec::parse(text).map_err(|error| Error::Refusal { field: error.place, reason: error.cause.to_string() })
}
