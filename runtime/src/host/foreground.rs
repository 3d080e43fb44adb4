//! `run` and `exec` in the foreground: signals go to the container's process, its terminal is relayed, its end is ours.
//!
//! One poll loop over a signalfd, the pidfd and, with a terminal, both of its sides. Nothing is waited for by time: a
//! process that has ended before the loop begins is found by its pidfd.

use std::io::{IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair};
use nix::sys::termios::{self, SetArg, Termios};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

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
    stdin_open: bool,
    _raw: Raw,
}

/// Starts (`start`) and accompanies a process until it ends; returns its exit code, 128 + N for signal N.
pub fn accompany(
    born: &Born,
    signals: &Signals,
    relay: Option<&Relay>,
    start: impl FnOnce() -> Result<()>,
) -> Result<i32> {
    let mut session = match relay {
        None => None,
        Some(relay) => {
            let master = relay.receive()?;
            resize(master.as_fd());
            Some(Session { master, stdin_open: true, _raw: Raw::enter() })
        }
    };
    start()?;
    loop {
        let mut waited = vec![
            PollFd::new(born.pidfd.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.descriptor.as_fd(), PollFlags::POLLIN),
        ];
        let stdin = std::io::stdin();
        if let Some(session) = &session {
            waited.push(PollFd::new(session.master.as_fd(), PollFlags::POLLIN));
            if session.stdin_open {
                waited.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
            }
        }
        match poll(&mut waited, PollTimeout::NONE) {
            Err(nix::Error::EINTR) => continue,
            answer => answer.during(|| "wait for the container's process")?,
        };
        let ready = |index: usize| waited.get(index).and_then(PollFd::revents).is_some_and(|events| !events.is_empty());
        let (ended, signalled, output, input) = (ready(0), ready(1), ready(2), ready(3));
        if signalled {
            forward(&signals.descriptor, born, session.as_ref());
        }
        if let Some(session) = &mut session {
            if output && !copy(session.master.as_fd(), &mut std::io::stdout()) {
                // All of the container's processes have let go of the terminal; the end of the first one follows.
            }
            if input {
                session.type_in();
            }
        }
        if ended {
            if let Some(session) = &session {
                while copy(session.master.as_fd(), &mut std::io::stdout()) {}
            }
            return reap(born.pid);
        }
    }
}

impl Session {
    fn type_in(&mut self) {
        let mut bytes = [0; 4096];
        let length = std::io::stdin().read(&mut bytes).unwrap_or(0);
        if length == 0 {
            self.stdin_open = false;
            return;
        }
        let mut rest = &bytes[..length];
        while let Ok(written) = nix::unistd::write(&self.master, rest) {
            rest = &rest[written..];
            if rest.is_empty() {
                break;
            }
        }
    }
}

/// Copies what can be read once; false at the end.
fn copy(from: BorrowedFd<'_>, to: &mut impl Write) -> bool {
    let mut bytes = [0; 4096];
    match nix::unistd::read(from, &mut bytes) {
        Ok(0) | Err(_) => false,
        // A caller who no longer reads does not stop the container.
        Ok(length) => to.write_all(&bytes[..length]).and_then(|()| to.flush()).is_ok(),
    }
}

fn forward(descriptor: &SignalFd, born: &Born, session: Option<&Session>) {
    while let Ok(Some(info)) = descriptor.read_signal() {
        let signal = i32::try_from(info.ssi_signo).unwrap_or(0);
        match signal {
            libc::SIGCHLD | libc::SIGURG | libc::SIGPIPE => {}
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
