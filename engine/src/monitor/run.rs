//! The loop of the monitor.

mod farewell;
mod probe;
mod streams;

use super::child::{self, Child, StartError};
use super::connection::{Connection, Incoming};
use super::forward::{Carrying, FORWARDS_MAX, Listeners};
use super::oom::Oom;
use super::plan::{PLAN_VERSION, Plan};
use super::protocol::{Reply, Request, SOCKET};
use super::resolvers::Resolvers;
use crate::events::{self, Event};
use crate::file::{self, Durable};
use crate::health::{self, Health};
use crate::host::process::{ProcessId, boot_id};
use crate::host::sys;
use crate::log::{Lines, Origin, Stream, Writer};
use crate::network::Attachment;
use crate::network::publish::forwards;
use crate::record::{STATE_VERSION, State, Status};
use crate::restart::Backoff;
use crate::time::now;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use probe::Probe;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// How often orphans are looked for after a probe failed.
const ORPHANS_EVERY: Duration = Duration::from_millis(50);
/// How much input may wait for a container that does not read, in bytes.
const STDIN_WAITING_BYTES_MAX: usize = 64 * 1024;
/// How many clients one monitor serves; a further one waits in the socket's queue.
const CLIENTS_MAX: usize = 256;

/// Why a monitor could not begin.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// Not called as the engine calls it.
    #[error("usage: shoal-monitor RUN-FOLDER (the engine starts it; it is no command for people)")]
    Usage,
    /// Its folder, plan or socket cannot be used.
    #[error("{step}: {source}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Its plan cannot be read.
    #[error(transparent)]
    Plan(#[from] file::FileError),
    /// Its plan is of another version.
    #[error("monitor.json has version {version}, this shoal-monitor knows {PLAN_VERSION}")]
    Version {
        /// The plan's version.
        version: u32,
    },
}

fn step(step: &'static str) -> impl FnOnce(io::Error) -> MonitorError {
    move |source| MonitorError::Io { step, source }
}

/// The whole life of a monitor. Descriptor 0 is the connection of the command that starts the container, descriptor 1 its
/// [`super::lock`].
pub fn main(arguments: &[std::ffi::OsString]) -> Result<(), MonitorError> {
    let [folder] = arguments else { return Err(MonitorError::Usage) };
    sys::close_inherited();
    std::env::set_current_dir(folder).map_err(step("enter the run folder"))?;
    let plan: Plan = file::load(Path::new("monitor.json"))?;
    if plan.version != PLAN_VERSION {
        return Err(MonitorError::Version { version: plan.version });
    }
    let launcher = io::stdin().as_fd().try_clone_to_owned().map_err(step("take descriptor 0"))?;
    // Kept until the container's end, never handed to a child: while it is held, this container has a monitor.
    let lock = io::stdout().as_fd().try_clone_to_owned().map_err(step("take descriptor 1"))?;
    sys::daemonize().map_err(step("become a session of its own"))?;
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null").map_err(step("open /dev/null"))?;
    nix::unistd::dup2_stdin(&null).map_err(io::Error::from).map_err(step("close descriptor 0"))?;
    nix::unistd::dup2_stdout(&null).map_err(io::Error::from).map_err(step("close descriptor 1"))?;
    nix::unistd::dup2_stderr(&null).map_err(io::Error::from).map_err(step("close descriptor 2"))?;
    drop(null);
    nix::sys::prctl::set_child_subreaper(true).map_err(io::Error::from).map_err(step("adopt orphans"))?;
    fs::remove_file(SOCKET).ok();
    let listener = UnixListener::bind(SOCKET).map_err(step("listen"))?;
    listener.set_nonblocking(true).map_err(step("listen"))?;
    let cleanup = Monitor::new(plan, listener, UnixStream::from(launcher))?.run(lock);
    if let Some((program, arguments)) = cleanup.as_deref().and_then(<[String]>::split_first) {
        // The monitor becomes the command that cleans up: no process more than needed.
        return Err(step("execute the cleanup")(Command::new(program).args(arguments).exec()));
    }
    Ok(())
}

struct Monitor {
    plan: Plan,
    state: State,
    listener: UnixListener,
    connections: Vec<Connection>,
    log: Option<Writer>,
    /// Why there is none.
    no_log: Option<String>,
    child: Option<Child>,
    out_lines: Lines,
    err_lines: Lines,
    stdin: Vec<u8>,
    stdin_closing: bool,
    backoff: Backoff,
    started_at: Instant,
    /// The launcher has said start.
    go: bool,
    restart_at: Option<Instant>,
    kill_at: Option<Instant>,
    timeout_at: Option<Instant>,
    health: Health,
    probe: Option<Probe>,
    probe_at: Option<Instant>,
    /// Connections (by descriptor) that asked for a probe.
    probe_asked: bool,
    /// Until when orphans are looked for: a probe failed, and what it left may be what the container's end waits for.
    orphans_until: Option<Instant>,
    stopping: bool,
    oom: Option<Oom>,
    ports: Option<(crate::network::Reservation, Option<Carrying>)>,
    /// A client has frozen the container for its own sake.
    frozen: bool,
    names: Resolvers,
    over: bool,
}

impl Monitor {
    fn new(plan: Plan, listener: UnixListener, launcher: UnixStream) -> Result<Self, MonitorError> {
        let origin = Origin {
            id: plan.id.clone(),
            name: plan.name.clone(),
            image: plan.image.clone(),
            attributes: plan.log_attributes.clone(),
        };
        let (log, no_log) = match Writer::open(&plan.log, &plan.data, &origin) {
            Ok(log) => (Some(log), None),
            Err(error) => (None, Some(format!("initialize the log driver {}: {error}", plan.log.driver()))),
        };
        let launcher = Connection::new(launcher).map_err(step("speak to the command"))?;
        let state = State {
            version: STATE_VERSION,
            monitor: ProcessId::own(),
            boot_id: boot_id(),
            restart_count: plan.restart_count,
            ..State::default()
        };
        Ok(Self {
            plan,
            state,
            listener,
            connections: vec![launcher],
            log,
            no_log,
            child: None,
            out_lines: Lines::default(),
            err_lines: Lines::default(),
            stdin: Vec::new(),
            stdin_closing: false,
            backoff: Backoff::default(),
            started_at: Instant::now(),
            go: false,
            restart_at: None,
            kill_at: None,
            timeout_at: None,
            health: Health::default(),
            probe: None,
            probe_at: None,
            probe_asked: false,
            orphans_until: None,
            stopping: false,
            oom: None,
            ports: None,
            frozen: false,
            names: Resolvers::default(),
            over: false,
        })
    }

    /// Runs until the container has ended for good; returns the cleanup command when nobody else has cleaned up.
    fn run(mut self, lock: OwnedFd) -> Option<Vec<String>> {
        while !self.over {
            self.wait();
        }
        let Self { connections, listener, log, ports, plan, .. } = self;
        // Before anybody hears of the end: whoever does may start the container again, on the same ports.
        fs::remove_file(SOCKET).ok();
        drop((listener, log, ports));
        drop(lock);
        farewell::farewell(connections).then_some(plan.cleanup)
    }

    /// One round: waits for something, then does everything that is due.
    fn wait(&mut self) {
        let ready = self.poll();
        if ready.listener {
            self.accept();
        }
        self.serve(&ready.clients);
        if ready.stdin {
            self.feed();
        }
        if ready.stdout {
            self.pump(Stream::Stdout);
        }
        if ready.stderr {
            self.pump(Stream::Stderr);
        }
        if ready.probe {
            self.probe_progress();
        }
        if ready.oom {
            self.look_for_oom(true);
        }
        if ready.names {
            // One that this monitor had started is its child.
            self.reap_what_probes_left();
            self.names.ended();
        }
        if ready.exited {
            self.exited();
        }
        self.timers();
        if self.child.is_none() && !self.over {
            if !self.go && self.connections.is_empty() {
                // The command that wanted a container has died before it said so.
                self.over = true;
            } else if self.go && self.restart_at.is_none() {
                self.start();
            }
        }
        if self.over {
            // The last words are not said here.
            return;
        }
        let stdin_held = self.connections.iter().any(|connection| connection.stdin);
        self.connections.retain_mut(Connection::flush);
        self.after_client_left(stdin_held);
        if self.frozen && !self.connections.iter().any(|connection| connection.freezes) {
            self.frozen = false;
            self.thaw();
        }
    }

    /// Thaws what a client has frozen that died over it.
    fn thaw(&mut self) {
        if self.child.is_some() && child::resume(&self.plan) {
            self.state.status = Status::Running;
            self.save(Durable::No);
            self.event("unpause", &[]);
        }
    }

    fn poll(&self) -> Ready {
        let full = self.connections.iter().any(Connection::is_full);
        let stdin_full = self.stdin.len() > STDIN_WAITING_BYTES_MAX;
        let mut list: Vec<(BorrowedFd<'_>, PollFlags, What)> = Vec::with_capacity(self.connections.len() + 7);
        if self.connections.len() < CLIENTS_MAX {
            list.push((self.listener.as_fd(), PollFlags::POLLIN, What::Listener));
        }
        for (at, connection) in self.connections.iter().enumerate() {
            let mut flags = PollFlags::empty();
            if !(connection.stdin && stdin_full) {
                flags |= PollFlags::POLLIN;
            }
            if connection.has_output() {
                flags |= PollFlags::POLLOUT;
            }
            list.push((connection.stream.as_fd(), flags, What::Client(at)));
        }
        if let Some(child) = &self.child {
            list.push((child.handle.as_fd(), PollFlags::POLLIN, What::Exited));
            if let (Some(stdin), true) = (&child.io.stdin, !self.stdin.is_empty()) {
                list.push((stdin.as_fd(), PollFlags::POLLOUT, What::Stdin));
            }
            for (end, which) in [(&child.io.stdout, What::Stdout), (&child.io.stderr, What::Stderr)] {
                if let (Some(end), false) = (end, full) {
                    list.push((end.as_fd(), PollFlags::POLLIN, which));
                }
            }
        }
        if let Some(oom) = &self.oom {
            list.push((oom.as_fd(), PollFlags::POLLIN, What::Oom));
        }
        if let Some(probe) = &self.probe {
            list.push((probe.handle.as_fd(), PollFlags::POLLIN, What::Probe));
            list.push((probe.output.as_fd(), PollFlags::POLLIN, What::Probe));
        }
        if self.child.is_some() {
            list.extend(self.names.handles().map(|handle| (handle, PollFlags::POLLIN, What::Names)));
        }
        let mut polled: Vec<PollFd<'_>> = list.iter().map(|(fd, flags, _)| PollFd::new(*fd, *flags)).collect();
        let mut ready = Ready::default();
        if poll(&mut polled, self.next_timer()).is_err() {
            return ready;
        }
        for (polled, (_, _, which)) in polled.iter().zip(&list) {
            if !polled.any().unwrap_or(false) {
                continue;
            }
            match which {
                What::Listener => ready.listener = true,
                What::Client(at) => ready.clients.push(*at),
                What::Stdin => ready.stdin = true,
                What::Stdout => ready.stdout = true,
                What::Stderr => ready.stderr = true,
                What::Exited => ready.exited = true,
                What::Probe => ready.probe = true,
                What::Oom => ready.oom = true,
                What::Names => ready.names = true,
            }
        }
        ready
    }

    /// How long nothing is due: without a timer the process sleeps for ever.
    fn next_timer(&self) -> PollTimeout {
        if self.go && self.child.is_none() && self.restart_at.is_none() {
            return PollTimeout::ZERO;
        }
        let probe = self.probe.as_ref().map_or(self.probe_at, Probe::due);
        let orphans = self.orphans_until.map(|_| Instant::now() + ORPHANS_EVERY);
        let names = self.child.as_ref().and(self.names.due);
        let due = [self.restart_at, self.kill_at, self.timeout_at, probe, orphans, names].into_iter().flatten().min();
        match due {
            None => PollTimeout::NONE,
            Some(due) => {
                let left = due.saturating_duration_since(Instant::now()).as_millis() + 1;
                i32::try_from(left).ok().and_then(|left| PollTimeout::try_from(left).ok()).unwrap_or(PollTimeout::MAX)
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if let Ok(connection) = Connection::new(stream) {
                self.connections.push(connection);
            }
            if self.connections.len() >= CLIENTS_MAX {
                break;
            }
        }
    }

    fn serve(&mut self, ready: &[usize]) {
        let stdin_held = self.connections.iter().any(|connection| connection.stdin);
        let mut gone = Vec::new();
        for &at in ready {
            match self.connections[at].fill() {
                Ok(frames) => frames.into_iter().for_each(|frame| self.handle(at, frame)),
                Err(_) => gone.push(at),
            }
        }
        for at in gone.into_iter().rev() {
            self.connections.remove(at);
        }
        self.after_client_left(stdin_held);
    }

    /// Stdin of an attached `run -i` ends with its client. A terminal stays: the user may have left it to come back.
    fn after_client_left(&mut self, stdin_held: bool) {
        if stdin_held
            && self.plan.stdin_once
            && !self.plan.tty
            && !self.connections.iter().any(|connection| connection.stdin)
        {
            self.stdin_closing = true;
            self.feed();
        }
    }

    fn handle(&mut self, at: usize, frame: Incoming) {
        let request = match frame {
            // Sent before it could know that this container takes no input.
            Incoming::Stdin(_) if !self.connections[at].stdin => return,
            Incoming::Stdin(bytes) if bytes.is_empty() => {
                // Another client may type on where stdin was not the first one's alone.
                self.stdin_closing |= self.plan.stdin_once;
                return self.feed();
            }
            Incoming::Stdin(bytes) => {
                self.stdin.extend_from_slice(&bytes);
                return self.feed();
            }
            Incoming::Request(request) => request,
        };
        match request {
            // What is said after the end is heard at the farewell.
            Request::Hello { .. } | Request::Cleaned => {}
            Request::Start => self.go = true,
            Request::Attach { stdin, stdout, stderr } => {
                let connection = &mut self.connections[at];
                (connection.stdout, connection.stderr) = (stdout, stderr);
                connection.stdin = stdin && self.plan.stdin;
            }
            Request::CleanupIsMine => self.connections[at].cleans_up = true,
            Request::Resize { rows, columns } => {
                if let Some(terminal) = self.child.as_ref().and_then(|child| child.io.stdout.as_ref())
                    && self.plan.tty
                {
                    sys::set_window_size(terminal.as_fd(), rows, columns).ok();
                }
                self.plan.size = Some((rows, columns));
                self.event("resize", &[("height", &rows.to_string()), ("width", &columns.to_string())]);
            }
            Request::Signal { signal } => {
                // As docker: a signal that is meant to end it is a stop by hand.
                if signal == libc::SIGKILL || signal == self.plan.stop_signal || signal == libc::SIGTERM {
                    self.stopped_by_hand();
                }
                self.signal(signal);
                self.connections[at].reply(&Reply::Done);
            }
            Request::Stop { signal, timeout_ms } => self.stop(at, signal, timeout_ms),
            Request::ThawAfterMe => {
                self.frozen = true;
                self.connections[at].freezes = true;
                self.connections[at].reply(&Reply::Done);
            }
            Request::NetworksChanged => {
                self.names.look_anew();
                self.ports_anew();
                self.connections[at].reply(&Reply::Done);
            }
            Request::Paused { paused: true } if self.kill_at.is_some() => {
                if self.child.is_some() {
                    child::resume(&self.plan);
                }
                self.connections[at].reply(&Reply::Refused { message: "is being stopped".into() });
            }
            Request::Paused { paused } => {
                if !paused && self.connections[at].freezes {
                    self.connections[at].freezes = false;
                    self.frozen = self.connections.iter().any(|connection| connection.freezes);
                }
                if self.child.is_some() {
                    self.state.status = if paused { Status::Paused } else { Status::Running };
                    self.save(Durable::No);
                }
                self.connections[at].reply(&Reply::Done);
            }
            Request::Restart { policy } => {
                self.plan.restart = policy;
                self.connections[at].reply(&Reply::Done);
            }
            Request::Rename { name } => {
                self.plan.name = name;
                self.connections[at].reply(&Reply::Done);
            }
            Request::Probe => {
                if self.plan.health.as_ref().and_then(health::Check::argv).is_none() {
                    let message = "this container has no health check".into();
                    self.connections[at].reply(&Reply::Refused { message });
                } else {
                    self.probe_asked = true;
                    self.probe_at = Some(Instant::now());
                }
            }
        }
    }

    fn stopped_by_hand(&mut self) {
        self.stopping = true;
        self.state.stopped_by_hand = true;
    }

    fn stop(&mut self, at: usize, signal: Option<i32>, timeout_ms: Option<u64>) {
        self.stopped_by_hand();
        if self.child.is_none() {
            // Between two starts: there is nothing to kill, only a restart to call off.
            self.restart_at = None;
            let code = self.state.exit_code;
            self.connections[at].reply(&Reply::Done);
            return self.end(code);
        }
        match timeout_ms {
            Some(0) => self.signal(libc::SIGKILL),
            _ => self.signal(signal.unwrap_or(self.plan.stop_signal)),
        }
        self.kill_at = timeout_ms.and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms)));
        self.connections[at].reply(&Reply::Done);
    }

    fn signal(&self, signal: i32) {
        if let Some(child) = &self.child {
            // A process that has just ended needs no signal.
            sys::pidfd_send_signal(child.handle.as_fd(), signal).ok();
        }
    }

    fn start(&mut self) {
        if let Some(message) = self.no_log.take() {
            // Nobody wants a container whose words are lost.
            return self.not_started(&StartError { code: 125, message });
        }
        // Held over restarts, given back with the monitor.
        if self.ports.is_none() {
            match self.hold_ports() {
                Ok(held) => self.ports = Some(held),
                Err(error) => return self.not_started(&StartError { code: 125, message: error.to_string() }),
            }
        }
        match child::start(&self.plan) {
            Ok(child) => self.started(child),
            Err(error) => self.not_started(&error),
        }
    }

    /// Takes the host's ports: those that are led to the container here, and the others against other programs.
    fn hold_ports(&self) -> Result<(crate::network::Reservation, Option<Carrying>), crate::network::Error> {
        let listeners = Listeners::open(&self.plan.forwards)?;
        let led = &self.plan.forwards[..self.plan.forwards.len().min(FORWARDS_MAX)];
        let held = crate::network::reserve_but(&self.plan.ports, |address, port| {
            let listen = std::net::SocketAddr::new(address, port.host_port);
            led.iter().any(|forward| forward.listen == listen && forward.protocol == port.protocol)
        })?;
        let step = "start the thread that forwards ports".to_owned();
        let carrying = listeners.carry().map_err(|source| crate::network::Error::Io { step, source })?;
        Ok((held, carrying))
    }

    /// Lets go of ports that are not published any more, and takes those that are by now.
    fn ports_anew(&mut self) {
        let attachments: Vec<Attachment> = file::load(&self.plan.data.join("network.json")).unwrap_or_default();
        let ports = attachments.iter().flat_map(|one| one.ports.clone()).collect();
        let forwards = attachments.iter().flat_map(|one| forwards(&one.ports, one.ipv4(), one.ipv6())).collect();
        if (&self.plan.ports, &self.plan.forwards) == (&ports, &forwards) {
            return;
        }
        (self.plan.ports, self.plan.forwards) = (ports, forwards);
        if self.ports.take().is_some() {
            // One that a program of the host has taken meanwhile is lost to localhost alone.
            self.ports = self.hold_ports().ok();
        }
    }

    fn started(&mut self, child: Child) {
        self.started_at = Instant::now();
        self.state.status = Status::Running;
        self.state.process = child.process;
        self.state.started = now();
        self.state.oom_killed = false;
        self.state.exit_code = 0;
        self.state.finished = 0;
        self.timeout_at = match self.plan.timeout {
            0 => None,
            // Longer than clocks go: never.
            seconds => self.started_at.checked_add(Duration::from_secs(seconds)),
        };
        self.health = Health::default();
        if let Some(check) = self.plan.health.as_ref().filter(|check| check.argv().is_some()) {
            self.probe_at = Some(Instant::now() + Duration::from_nanos(self.health.pause(check, 0)));
            self.state.health = Some(self.health.clone());
        }
        let pid = child.process.pid;
        self.child = Some(child);
        self.oom = Oom::watch(&self.plan.cgroup);
        self.names.look(&self.plan);
        self.save(Durable::No);
        self.event("start", &[]);
        for connection in &mut self.connections {
            connection.reply(&Reply::Started { pid });
        }
        self.feed();
    }

    fn not_started(&mut self, error: &StartError) {
        self.state.error.clone_from(&error.message);
        self.state.finished = now();
        self.state.exit_code = i32::from(if error.code == 0 { 127 } else { error.code });
        for connection in &mut self.connections {
            connection.reply(&Reply::Failed { code: error.code, message: error.message.clone() });
        }
        let first = self.state.started == 0;
        let again = if first {
            // Nothing that did not start once is tried again: the user is there to read why.
            self.state.status = Status::Created;
            None
        } else {
            self.backoff.after_exit(self.plan.restart, self.state.exit_code, 0, self.stopping)
        };
        match again {
            Some(pause) => self.restart_in(pause),
            None => {
                if !first {
                    self.state.status = Status::Exited;
                }
                self.save(Durable::Yes);
                self.over = true;
            }
        }
    }

    /// The container's process has ended: the rest of its output, its code, what follows.
    fn exited(&mut self) {
        let Some(process) = self.child.as_ref().map(|child| child.process) else { return };
        self.drain();
        let code = child::reap(process);
        let ends = self.child.take().map(|child| child.io);
        drop(ends);
        for (stream, lines) in [(Stream::Stdout, &mut self.out_lines), (Stream::Stderr, &mut self.err_lines)] {
            let log = &mut self.log;
            lines.finish(&mut |text| {
                if let Some(log) = log {
                    log.write(stream, now(), text).ok();
                }
            });
        }
        self.stdin.clear();
        self.kill_at = None;
        self.timeout_at = None;
        self.probe_at = None;
        if let Some(mut probe) = self.probe.take() {
            probe.child.kill().ok();
            probe.child.wait().ok();
        }
        self.look_for_oom(false);
        self.oom = None;
        child::force_delete(&self.plan);
        child::reap_orphans(&[]);
        self.state.exit_code = code;
        self.state.finished = now();
        self.event("die", &[("exitCode", &code.to_string())]);
        let ran_ms = u64::try_from(self.started_at.elapsed().as_millis()).unwrap_or(u64::MAX);
        match self.backoff.after_exit(self.plan.restart, code, ran_ms, self.stopping) {
            Some(pause) => {
                for connection in &mut self.connections {
                    connection.reply(&Reply::Exited { code, last: false });
                }
                self.restart_in(pause);
            }
            None => self.end(code),
        }
    }

    /// Tells that the kernel has killed in the container, as soon as it has.
    fn look_for_oom(&mut self, woken: bool) {
        let happened = match &mut self.oom {
            Some(oom) => oom.happened(&self.plan.cgroup, woken),
            None => !self.state.oom_killed && crate::cgroup::oom_kills(&self.plan.cgroup) > 0,
        };
        if happened {
            self.state.oom_killed = true;
            self.save(Durable::No);
            self.event("oom", &[]);
        }
    }

    fn restart_in(&mut self, pause_ms: u64) {
        self.state.status = Status::Restarting;
        self.state.restart_count += 1;
        self.restart_at = Some(Instant::now() + Duration::from_millis(pause_ms));
        self.stdin_closing = false;
        self.save(Durable::Yes);
    }

    fn end(&mut self, code: i32) {
        self.state.status = Status::Exited;
        self.save(Durable::Yes);
        for connection in &mut self.connections {
            connection.reply(&Reply::Exited { code, last: true });
        }
        self.over = true;
    }

    fn timers(&mut self) {
        let at = Instant::now();
        let due = |timer: &mut Option<Instant>| timer.take_if(|due| *due <= at).is_some();
        if let Some(until) = self.orphans_until {
            self.reap_what_probes_left();
            if until <= at {
                self.orphans_until = None;
            }
        }
        if self.child.is_some() && self.names.due.is_some_and(|due| due <= at) {
            self.names.look(&self.plan);
        }
        if due(&mut self.restart_at) {
            self.start();
        }
        if due(&mut self.kill_at) {
            self.signal(libc::SIGKILL);
            if self.state.status == Status::Paused {
                // A frozen process does not even die.
                self.thaw();
            }
        }
        if due(&mut self.timeout_at) {
            self.stopped_by_hand();
            self.signal(libc::SIGKILL);
        }
        let paused = self.state.status == Status::Paused;
        if let Some(probe) = &mut self.probe {
            probe.look(at, paused);
        }
        if self.probe.is_none() && due(&mut self.probe_at) {
            self.probe_start();
        }
    }

    /// Reaps what a broken probe left inside. A PID namespace ends only when every process in it has been reaped, so the end of
    /// the container's first process, which is waited for here, would wait for us.
    fn reap_what_probes_left(&self) {
        let first = self.child.as_ref().map(|child| child.process.pid);
        let probe = self.probe.as_ref().and_then(|probe| i32::try_from(probe.child.id()).ok());
        let keep: Vec<i32> = first.into_iter().chain(probe).collect();
        child::reap_orphans(&keep);
    }

    fn save(&mut self, durable: Durable) {
        if let Err(error) = file::save(&self.plan.data.join("state.json"), &self.state, durable) {
            // Nothing can be written: the container goes on, clients still hear the end over the socket.
            self.state.error = error.to_string();
        }
    }

    fn event(&self, action: &str, more: &[(&str, &str)]) {
        let mut attributes = self.plan.labels.clone();
        attributes.insert("name".into(), self.plan.name.clone());
        attributes.insert("image".into(), self.plan.image.clone());
        attributes.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let event = Event {
            version: events::VERSION,
            time: now(),
            kind: "container".into(),
            action: action.into(),
            id: self.plan.id.clone(),
            attributes,
        };
        // A lost event stops nothing.
        events::append(&self.plan.events, &event).ok();
    }
}

/// What the round of polling found.
#[derive(Debug, Default)]
struct Ready {
    listener: bool,
    clients: Vec<usize>,
    stdin: bool,
    stdout: bool,
    stderr: bool,
    exited: bool,
    probe: bool,
    oom: bool,
    names: bool,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Listener,
    Client(usize),
    Stdin,
    Stdout,
    Stderr,
    Exited,
    Probe,
    Oom,
    Names,
}
