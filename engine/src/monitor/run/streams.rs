//! The container's input and output as the monitor carries them: to the log, to and from clients.
//!
//! In: what the pipes or the terminal give and take without waiting. Out: bytes in queues; a slow side stops the other.

use super::Monitor;
use crate::log::Stream;
use crate::monitor::connection::Connection;
use crate::monitor::protocol::Kind;
use crate::time::now;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs;
use std::io::Write;
use std::os::fd::AsFd;

/// How often an end is read after the end: more than the largest pipe holds, at 16 KiB a read.
const DRAINED_READS_MAX: usize = 128;

impl Monitor {
    /// Reads one output until it would block, at most one pipe's worth so that clients get their turn.
    pub(super) fn pump(&mut self, stream: Stream) -> bool {
        let Some(child) = &mut self.child else { return false };
        let end = match stream {
            Stream::Stdout => &mut child.io.stdout,
            Stream::Stderr => &mut child.io.stderr,
        };
        let Some(fd) = end else { return false };
        let mut buffer = [0u8; 16 * 1024];
        let bytes = match nix::unistd::read(&*fd, &mut buffer) {
            Ok(0) => &[][..],
            Ok(count) => &buffer[..count],
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => return true,
            // A terminal whose last holder has gone answers EIO: its end of file.
            Err(_) => &[][..],
        };
        if bytes.is_empty() {
            *end = None;
            if self.plan.tty {
                child.io.stdin = None;
            }
            return false;
        }
        let kind = match stream {
            Stream::Stdout => Kind::Stdout,
            Stream::Stderr => Kind::Stderr,
        };
        for connection in &mut self.connections {
            if match stream {
                Stream::Stdout => connection.stdout,
                Stream::Stderr => connection.stderr,
            } {
                connection.data(kind, bytes);
            }
        }
        let lines = match stream {
            Stream::Stdout => &mut self.out_lines,
            Stream::Stderr => &mut self.err_lines,
        };
        if let Some(log) = &mut self.log {
            let mut failed = None;
            lines.push(bytes, &mut |text| {
                if let Err(error) = log.write(stream, now(), text) {
                    failed = Some(error);
                }
            });
            if let Some(error) = failed {
                // A full disk must not stop the container; the state says what was lost.
                self.state.error = format!("write the log: {error}");
            }
        }
        true
    }

    /// Reads what is left in the pipes after the end, however slow the log takes it. Only another process that holds an end and
    /// goes on writing is not heard for ever.
    pub(super) fn drain(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            for _ in 0..DRAINED_READS_MAX {
                let Some(child) = &self.child else { return };
                let end = match stream {
                    Stream::Stdout => &child.io.stdout,
                    Stream::Stderr => &child.io.stderr,
                };
                let Some(end) = end else { break };
                let mut polled = [PollFd::new(end.as_fd(), PollFlags::POLLIN)];
                // Held by another process and silent: it is no longer this container's output.
                if poll(&mut polled, PollTimeout::from(20u8)).unwrap_or(0) == 0 {
                    break;
                }
                if !self.pump(stream) {
                    break;
                }
                if self.connections.iter().any(Connection::is_full) {
                    self.connections.retain_mut(Connection::flush);
                }
            }
        }
    }

    /// Writes waiting input into the container; closes its end when asked and empty.
    pub(super) fn feed(&mut self) {
        let Some(child) = &mut self.child else { return };
        while let (Some(stdin), false) = (&child.io.stdin, self.stdin.is_empty()) {
            match nix::unistd::write(stdin, &self.stdin) {
                Ok(count) => drop(self.stdin.drain(..count)),
                Err(nix::Error::EAGAIN) => return,
                Err(nix::Error::EINTR) => {}
                // The container has closed its input.
                Err(_) => {
                    self.stdin.clear();
                    child.io.stdin = None;
                }
            }
        }
        if self.stdin_closing && self.stdin.is_empty() {
            if !self.plan.tty {
                child.io.stdin = None;
            } else if let Some(terminal) = &child.io.stdin {
                // End of input on a terminal is its end-of-file character.
                fs::File::from(match terminal.try_clone() {
                    Ok(copy) => copy,
                    Err(_) => return,
                })
                .write_all(&[4])
                .ok();
                self.stdin_closing = false;
            }
        }
    }
}
