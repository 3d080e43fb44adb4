//! `run` and `exec` in the foreground: signals go to the container's process, its terminal is relayed, its end is ours.
//!
//! One poll loop over a signalfd, the pidfd and, with a terminal, both of its sides. Nothing is waited for by time: a
//! process that has ended before the loop begins is found by its pidfd.

use std::io::{IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair};
use nix::sys::termios::{self, SetArg, Termios};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use super::notify;
use super::stage::parent::Born;
use super::sys::clone::pidfd_send_signal;
use super::sys::open::adopt;
use super::sys::terminal;
use crate::error::{During, Error, Result};

/// The signals of this command, taken before the container exists so that none is lost.
#[derive(Debug)]
pub struct Signals {
    descriptor: SignalFd,
}

impl Signals {
    /// Keeps every signal that can be kept for the loop.
    pub fn take() -> Result<Self> {
        let mut all = SigSet::all();
        // Faults of our own end us at once.
        for fault in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGABRT] {
            all.remove(fault);
        }
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), None).during(|| "keep signals for the container")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let descriptor = SignalFd::with_flags(&all, flags).during(|| "keep signals for the container")?;
        Ok(Self { descriptor })
    }
}

/// The terminal of a foreground container: the caller's side of it.
#[derive(Debug)]
pub struct Relay {
    socket: OwnedFd,
}

/// The two ends over which the container's process hands its terminal to this command.
pub fn relay() -> Result<(Relay, OwnedFd)> {
    let pair = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC);
    let (ours, theirs) = pair.during(|| "make the socket pair for the terminal")?;
    Ok((Relay { socket: ours }, theirs))
}

impl Relay {
    fn receive(&self) -> Result<OwnedFd> {
        let mut byte = [0u8; 64];
        let mut parts = [IoSliceMut::new(&mut byte)];
        let mut control = nix::cmsg_space!([i32; 1]);
        let operation = || "take over the container's terminal";
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let answer = recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), flags).during(operation)?;
        let mut fds = answer.cmsgs().during(operation)?.flat_map(|part| match part {
            ControlMessageOwned::ScmRights(fds) => fds,
            _ => Vec::new(),
        });
        let fd = fds.next().ok_or_else(|| Error::Bug { what: "the terminal was not sent".into() })?;
        adopt(fd).during(operation)
    }
}

/// The caller's terminal in raw mode; put back when dropped.
struct Raw {
    before: Option<Termios>,
}

impl Raw {
    fn enter() -> Self {
        let stdin = std::io::stdin();
        let before = termios::tcgetattr(&stdin).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            termios::cfmakeraw(&mut raw);
            // A terminal that cannot be made raw still works, line by line.
            let _ = termios::tcsetattr(&stdin, SetArg::TCSANOW, &raw);
        }
        Self { before }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = termios::tcsetattr(std::io::stdin(), SetArg::TCSANOW, before);
        }
    }
}

/// A terminal relayed between the caller and the container.
struct Session {
    master: OwnedFd,
    /// Held open, so that the terminal does not hang up while nobody in the container has it open: it can be opened
    /// again, and until then a poll would find nothing but the hang-up.
    _other: OwnedFd,
    stdin_open: bool,
    /// What was typed and did not fit yet.
    typed: Vec<u8>,
    _raw: Raw,
}

impl Session {
    fn begin(relay: &Relay) -> Result<Self> {
        let master = relay.receive()?;
        let operation = || "relay the container's terminal";
        let other = terminal::peer(master.as_fd()).during(operation)?;
        // The flag is of this side alone: the container has the other one.
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).during(operation)?;
        resize(master.as_fd());
        Ok(Self { master, _other: other, stdin_open: true, typed: Vec::new(), _raw: Raw::enter() })
    }
}

/// What is read of a terminal after the end of the first process. All that the process has written is less; who still
/// writes is another.
const LAST_WORDS_MAX: usize = 256 * 1024;

/// Starts (`start`) and accompanies a process until it ends; returns its exit code, 128 + N for signal N.
pub fn accompany(
    born: &Born,
    signals: &Signals,
    relay: Option<&Relay>,
    notify: Option<&notify::Relay>,
    start: impl FnOnce() -> Result<()>,
) -> Result<i32> {
    let mut session = relay.map(Session::begin).transpose()?;
    start()?;
    loop {
        let mut waited = vec![
            PollFd::new(born.pidfd.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.descriptor.as_fd(), PollFlags::POLLIN),
        ];
        let stdin = std::io::stdin();
        if let Some(session) = &session {
            let room = if session.typed.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
            waited.push(PollFd::new(session.master.as_fd(), PollFlags::POLLIN | room));
            // No more is taken from the caller than the container reads.
            if session.stdin_open && session.typed.is_empty() {
                waited.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
            }
        }
        let notified = waited.len();
        if let Some(notify) = notify {
            waited.push(PollFd::new(notify.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut waited, PollTimeout::NONE) {
            Err(nix::Error::EINTR) => continue,
            answer => answer.during(|| "wait for the container's process")?,
        };
        let ready = |index: usize| waited.get(index).and_then(PollFd::revents).is_some_and(|events| !events.is_empty());
        let is_notify = |index: usize| notify.is_some() && index == notified;
        let (ended, signalled) = (ready(0), ready(1));
        let (output, input) = (ready(2) && !is_notify(2), ready(3) && !is_notify(3));
        if let Some(notify) = notify.filter(|_| ended || ready(notified)) {
            // A service manager that is gone does not stop the container.
            let _ = notify.pass_on();
        }
        if signalled {
            forward(&signals.descriptor, born, session.as_ref());
        }
        if let Some(session) = &mut session {
            if output {
                copy(session.master.as_fd(), &mut std::io::stdout());
                session.type_in();
            }
            if input {
                session.take_in();
            }
        }
        if ended {
            if let Some(session) = &session {
                let mut left = LAST_WORDS_MAX;
                while left > 0 {
                    match copy(session.master.as_fd(), &mut std::io::stdout()) {
                        0 => break,
                        length => left = left.saturating_sub(length),
                    }
                }
            }
            return reap(born.pid);
        }
    }
}

impl Session {
    /// Takes what the caller has typed. Not through the library's buffer, which may keep what no poll would tell of.
    fn take_in(&mut self) {
        let mut bytes = [0; 4096];
        match nix::unistd::read(std::io::stdin().as_fd(), &mut bytes) {
            Err(nix::Error::EINTR | nix::Error::EAGAIN) => {}
            Ok(0) | Err(_) => self.stdin_open = false,
            Ok(length) => {
                self.typed.extend_from_slice(&bytes[..length]);
                self.type_in();
            }
        }
    }

    /// Gives the container what fits.
    fn type_in(&mut self) {
        while !self.typed.is_empty() {
            match nix::unistd::write(&self.master, &self.typed) {
                Ok(length @ 1..) => drop(self.typed.drain(..length)),
                Err(nix::Error::EINTR) => {}
                // The rest follows when there is room.
                Ok(0) | Err(nix::Error::EAGAIN) => return,
                Err(_) => self.typed.clear(),
            }
        }
    }
}

/// Copies what can be read once; how much that was.
fn copy(from: BorrowedFd<'_>, to: &mut impl Write) -> usize {
    let mut bytes = [0; 4096];
    let length = nix::unistd::read(from, &mut bytes).unwrap_or(0);
    // A caller who no longer reads does not stop the container.
    let _ = to.write_all(&bytes[..length]).and_then(|()| to.flush());
    length
}

fn forward(descriptor: &SignalFd, born: &Born, session: Option<&Session>) {
    while let Ok(Some(info)) = descriptor.read_signal() {
        let signal = i32::try_from(info.ssi_signo).unwrap_or(0);
        match signal {
            libc::SIGCHLD => reap_others(born.pid),
            libc::SIGURG | libc::SIGPIPE => {}
            libc::SIGWINCH => {
                if let Some(session) = session {
                    resize(session.master.as_fd());
                }
            }
            // The process may have ended meanwhile; the loop finds that out next.
            signal => drop(pidfd_send_signal(born.pidfd.as_fd(), signal)),
        }
    }
}

/// Collects what became a child of this command when its parent died (without a pid namespace of the container's own), so
/// that no dead process is left while the first one, `but`, runs on.
fn reap_others(but: i32) {
    let dead = || waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT);
    while let Some(pid) = dead().ok().and_then(|status| status.pid()).filter(|pid| pid.as_raw() != but) {
        if waitpid(pid, Some(WaitPidFlag::WNOHANG)).is_err() {
            return;
        }
    }
}

/// Gives the container's terminal the size of the caller's.
fn resize(master: BorrowedFd<'_>) {
    if let Ok((rows, columns)) = terminal::size(std::io::stdin().as_fd()) {
        let _ = terminal::set_size(master, rows, columns);
    }
}

/// Makes orphans of the container children of this command, as runc does.
pub fn become_subreaper() -> Result<()> {
    super::sys::process::set_child_subreaper().during(|| "become the reaper of orphans")
}

/// The exit code of a process that has ended.
pub fn reap(pid: i32) -> Result<i32> {
    loop {
        match waitpid(Pid::from_raw(pid), None) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(128 + signal as i32),
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(errno).during(|| "collect the container's process"),
        }
    }
}
