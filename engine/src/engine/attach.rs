//! The client's side of an attached container: its terminal on one end, the monitor's socket on the other.

use super::stop::Promise;
use super::{Engine, Launch, Streams};
use crate::error::EngineError;
use crate::host::terminal::{self, Raw};
use crate::monitor::protocol::{Client, Kind, Received, Reply, Request};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

/// What an attached client wants.
#[derive(Debug, Clone, Default)]
pub struct AttachOptions {
    /// Its stdin goes in.
    pub stdin: bool,
    /// The container has a terminal: raw mode, sizes.
    pub tty: bool,
    /// Signals this command gets go to the container.
    pub signals: bool,
    /// The keys that leave without stopping.
    pub detach_keys: Vec<u8>,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachEnd {
    /// The container ended with this code; nothing will follow when `last`.
    Exited {
        /// The exit code.
        code: i32,
        /// No restart follows.
        last: bool,
    },
    /// The user pressed the detach keys.
    Detached,
    /// The monitor went away without a word.
    Lost,
}

/// Signals that are this command's own affair.
const OWN_SIGNALS: [Signal; 9] = [
    Signal::SIGCHLD,
    Signal::SIGPIPE,
    Signal::SIGURG,
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGTSTP,
    Signal::SIGCONT,
];

/// Reads `--detach-keys`: `ctrl-p,ctrl-q`, single letters, `ctrl-@ [ \ ] ^ _`.
pub fn detach_keys(text: &str) -> Result<Vec<u8>, EngineError> {
    let refuse = || EngineError::Invalid(format!("--detach-keys {text:?}: letters or ctrl-X, separated by commas"));
    text.split(',')
        .filter(|key| !key.is_empty())
        .map(|key| match key.strip_prefix("ctrl-") {
            Some(letter) => match letter.as_bytes() {
                [letter @ b'a'..=b'z'] => Ok(letter - b'a' + 1),
                [letter @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => Ok(letter - b'@'),
                _ => Err(refuse()),
            },
            None => match key.as_bytes() {
                [letter] => Ok(*letter),
                _ => Err(refuse()),
            },
        })
        .collect()
}

impl Engine {
    /// Attaches to a running container.
    pub fn attach(&self, name: &str, streams: Streams) -> Result<Launch, EngineError> {
        let container = self.find(name)?;
        if !container.state.status.is_active() {
            return Err(container.state_error("is not running: start it first"));
        }
        let speak = || EngineError::io(format!("speak to the monitor of {}", container.name()));
        let mut client = Client::connect(&container.run).map_err(speak())?;
        let Streams { stdin, stdout, stderr, size } = streams;
        client.send(&Request::Attach { stdin, stdout, stderr }).map_err(speak())?;
        if let Some((rows, columns)) = size {
            client.send(&Request::Resize { rows, columns }).map_err(speak())?;
        }
        self.event(&container.record, "attach", &[]);
        Ok(Launch { container, client, warnings: Vec::new() })
    }

    /// What an attached `run` owes after the end: give back, and remove with `--rm`. Whoever is killed before or over it leaves
    /// it to the monitor, which waits for the word.
    pub fn after_end(&self, launch: Launch) -> Result<(), EngineError> {
        let _promise = Promise(launch.client);
        let id = launch.container.id();
        match self.load(id) {
            // Another command has started it again.
            Ok(container) if container.state.status.is_active() => return Ok(()),
            Ok(container) => self.settle(&container),
            Err(EngineError::NoSuchContainer { .. }) => return Ok(()),
            Err(error) => return Err(error),
        }
        self.cleanup(id)
    }
}

/// Carries bytes between this process's terminal and a container until it ends or the user leaves.
pub fn proxy(client: &mut Client, options: &AttachOptions) -> io::Result<AttachEnd> {
    let raw = if options.tty && options.stdin { Raw::enter()? } else { None };
    let mut mask = SigSet::all();
    for signal in OWN_SIGNALS {
        mask.remove(signal);
    }
    if !options.signals {
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGHUP] {
            mask.remove(signal);
        }
    }
    let before = mask.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK)?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let ended = carry(client, options, &signals);
    before.thread_set_mask()?;
    drop(raw);
    ended
}

fn carry(client: &mut Client, options: &AttachOptions, signals: &SignalFd) -> io::Result<AttachEnd> {
    let stdin = io::stdin();
    let mut reading = options.stdin;
    // Only a person types; in a file or a pipe the same bytes mean nothing.
    let mut keys = Keys::new(if options.tty { &options.detach_keys } else { &[] });
    // Descriptors of our own: std's stdout is line-buffered, which a terminal in raw mode must not be.
    let mut stdout = std::fs::File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut stderr = std::fs::File::from(io::stderr().as_fd().try_clone_to_owned()?);
    loop {
        while let Some(received) = client.buffered()? {
            match received {
                Received::Output(kind, bytes) => {
                    let out = if kind == Kind::Stderr { &mut stderr } else { &mut stdout };
                    // A reader that went away (`| head`) ends nothing but our printing.
                    if let Err(error) = write_whole(out, &bytes)
                        && error.kind() != io::ErrorKind::BrokenPipe
                    {
                        return Err(error);
                    }
                }
                Received::Reply(Reply::Exited { code, last }) => return Ok(AttachEnd::Exited { code, last }),
                Received::Reply(_) => {}
            }
        }
        tolerant(client.flush())?;
        let more = if client.is_waiting() { PollFlags::POLLOUT } else { PollFlags::empty() };
        let mut polled = vec![
            PollFd::new(client.stream().as_fd(), PollFlags::POLLIN | more),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        // No more is read than the monitor takes.
        let room = reading && !client.is_waiting();
        if room {
            polled.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let said = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| events.intersects(!PollFlags::POLLOUT));
        let ready: Vec<bool> = polled.iter().map(said).collect();
        drop(polled);
        if ready[1] {
            while let Ok(Some(info)) = signals.read_signal() {
                let Ok(signal) = i32::try_from(info.ssi_signo) else { continue };
                forward(client, options, signal);
            }
        }
        if room && ready[2] {
            let mut bytes = [0u8; 8 * 1024];
            match nix::unistd::read(&stdin, &mut bytes) {
                Ok(0) => {
                    reading = false;
                    let held = keys.rest();
                    if !held.is_empty() {
                        client.queue_stdin(held);
                    }
                    client.queue_stdin(b"");
                }
                Ok(count) => match keys.filter(&bytes[..count]) {
                    // An empty frame would be the end.
                    Some(bytes) if bytes.is_empty() => {}
                    Some(bytes) => client.queue_stdin(&bytes),
                    None => return Ok(AttachEnd::Detached),
                },
                Err(nix::Error::EINTR | nix::Error::EAGAIN) => {}
                Err(_) => reading = false,
            }
        }
        if ready[0] && !client.fill()? {
            return Ok(client.buffered()?.map_or(AttachEnd::Lost, |received| match received {
                Received::Reply(Reply::Exited { code, last }) => AttachEnd::Exited { code, last },
                _ => AttachEnd::Lost,
            }));
        }
    }
}

fn forward(client: &mut Client, options: &AttachOptions, signal: i32) {
    if signal == libc::SIGWINCH {
        if let (true, Some((rows, columns))) = (options.tty, terminal::size()) {
            client.queue(&Request::Resize { rows, columns });
        }
    } else if options.signals {
        client.queue(&Request::Signal { signal });
    }
}

/// The monitor may be gone already; its last words are still to be read.
fn tolerant(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(()),
        other => other,
    }
}

/// Writes everything, also to a descriptor that somebody has made non-blocking.
pub(super) fn write_whole(out: &mut std::fs::File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(out.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Carries bytes between this process's terminal and a terminal it holds itself (`exec -t`); `true` when the user left.
pub(super) fn terminal(
    other: std::os::fd::OwnedFd,
    ended: &std::os::fd::OwnedFd,
    wish: &super::ExecWish,
) -> io::Result<bool> {
    let raw = if wish.interactive { Raw::enter()? } else { None };
    let resize = |other: &std::fs::File| {
        if let Some((rows, columns)) = terminal::size() {
            crate::host::sys::set_window_size(other.as_fd(), rows, columns).ok();
        }
    };
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGWINCH);
    mask.thread_block()?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let mut other = std::fs::File::from(other);
    // It takes no more while nobody reads what the program says: never waited for.
    nix::fcntl::fcntl(&other, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
    let mut typed: Vec<u8> = Vec::new();
    resize(&other);
    let stdin = io::stdin();
    let mut stdout = std::fs::File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut reading = wish.interactive;
    let mut keys = Keys::new(&wish.detach_keys);
    let mut over = false;
    let left = loop {
        let mut polled = vec![
            PollFd::new(
                other.as_fd(),
                if typed.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLIN | PollFlags::POLLOUT },
            ),
            PollFd::new(ended.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        let room = reading && typed.is_empty();
        if room {
            polled.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        // After the end only what is left in the terminal is read.
        let timeout = if over { PollTimeout::ZERO } else { PollTimeout::NONE };
        match poll(&mut polled, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = polled.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        drop(polled);
        if ready[0] {
            let mut bytes = [0u8; 16 * 1024];
            match io::Read::read(&mut other, &mut bytes) {
                Ok(count) if count > 0 => write_whole(&mut stdout, &bytes[..count])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !over => {}
                // EIO: the last holder of the terminal's other end has gone.
                _ => break false,
            }
            match other.write(&typed) {
                Ok(count) => drop(typed.drain(..count)),
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(_) => break false,
            }
        } else if over {
            break false;
        }
        over |= ready[1];
        if ready[2] {
            while let Ok(Some(_)) = signals.read_signal() {
                resize(&other);
            }
        }
        if room && ready[3] {
            let mut bytes = [0u8; 8 * 1024];
            match nix::unistd::read(&stdin, &mut bytes) {
                Ok(0) => {
                    reading = false;
                    typed.extend_from_slice(keys.rest());
                    typed.push(4);
                }
                Ok(count) => match keys.filter(&bytes[..count]) {
                    Some(bytes) => typed.extend_from_slice(&bytes),
                    None => break true,
                },
                Err(nix::Error::EINTR | nix::Error::EAGAIN) => {}
                Err(_) => reading = false,
            }
        }
    };
    drop(raw);
    Ok(left)
}

/// The streams and options of a command that runs in this process's terminal.
pub fn own_streams(stdin: bool, tty: bool) -> Streams {
    Streams { stdin, stdout: true, stderr: true, size: if tty { terminal::size() } else { None } }
}

/// Whether stdin is a terminal, which `-t` needs.
pub fn stdin_is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// Watches for the detach keys in what the user types.
#[derive(Debug)]
struct Keys<'a> {
    keys: &'a [u8],
    matched: usize,
}

impl<'a> Keys<'a> {
    fn new(keys: &'a [u8]) -> Self {
        Self { keys, matched: 0 }
    }

    /// What goes on to the container; `None` when the whole sequence was typed. The beginning of a sequence is held back
    /// until it is clear that it is none.
    fn filter(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            if self.keys.get(self.matched) == Some(&byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return None;
                }
                continue;
            }
            out.extend_from_slice(&self.keys[..self.matched]);
            self.matched = 0;
            if self.keys.first() == Some(&byte) {
                self.matched = 1;
            } else {
                out.push(byte);
            }
        }
        Some(out)
    }

    /// What is held back when nothing more will be typed.
    fn rest(&mut self) -> &'a [u8] {
        &self.keys[..std::mem::take(&mut self.matched)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_read_as_docker_documents_them() {
        assert_eq!(detach_keys("ctrl-p,ctrl-q").unwrap(), [16, 17]);
        assert_eq!(detach_keys("a,ctrl-\\").unwrap(), [b'a', 28]);
        assert!(detach_keys("ctrl-1").is_err() && detach_keys("ab").is_err());
    }

    #[test]
    fn half_a_sequence_reaches_the_container_late_but_whole() {
        let sequence = [16, 17];
        let mut keys = Keys::new(&sequence);
        assert_eq!(keys.filter(b"a\x10").unwrap(), b"a");
        assert_eq!(keys.filter(b"b").unwrap(), b"\x10b");
        assert_eq!(keys.filter(b"x\x10\x11y"), None);
        let mut keys = Keys::new(&sequence);
        assert_eq!(keys.filter(b"a\x10").unwrap(), b"a");
        assert_eq!((keys.rest(), keys.rest()), (&b"\x10"[..], &b""[..]), "the last byte before the end of input");
    }

    #[test]
    fn without_keys_every_pair_of_bytes_goes_through() {
        let mut keys = Keys::new(&[]);
        let pairs: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_be_bytes).collect();
        assert_eq!(keys.filter(&pairs).unwrap(), pairs);
        assert!(keys.rest().is_empty());
    }
}
