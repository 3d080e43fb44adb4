//! The streams of an `exec` without a terminal: pipes of its own, and what comes through them carried on.
//!
//! In: this process's stdin, stdout and stderr. Out: what the runtime gets in their place. The container's process never holds
//! a terminal or a file of the host: it could keep a terminal and read what is typed later, and open a file anew with more
//! rights than it was given. A pipe has nothing behind it, and goes through as it is.

use crate::host::sys;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat, major, minor};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};

/// How much is carried at a time: what a pipe holds.
const BLOCK_BYTES: usize = 64 * 1024;

/// The ends of the pipes that stay here, with where they lead.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    /// What is read here goes into the process.
    input: Option<(File, File)>,
    /// What the process says goes out here.
    outputs: Vec<(File, File)>,
}

impl Pipes {
    /// Gives the command its streams. Without `interactive` there is no input.
    pub(super) fn lay(command: &mut Command, interactive: bool) -> io::Result<Self> {
        let mut pipes = Self::default();
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        match interactive {
            false => drop(command.stdin(Stdio::null())),
            true if is_harmless(stdin.as_fd()) => drop(command.stdin(Stdio::inherit())),
            true => {
                let (read, write) = pipe()?;
                command.stdin(Stdio::from(read));
                set_nonblocking(&write)?;
                pipes.input = Some((own(stdin.as_fd())?, write));
            }
        }
        if is_harmless(stdout.as_fd()) {
            command.stdout(Stdio::inherit());
        } else {
            command.stdout(Stdio::from(pipes.output(stdout.as_fd())?));
        }
        if is_harmless(stderr.as_fd()) {
            command.stderr(Stdio::inherit());
        } else {
            command.stderr(Stdio::from(pipes.output(stderr.as_fd())?));
        }
        Ok(pipes)
    }

    fn output(&mut self, to: BorrowedFd<'_>) -> io::Result<File> {
        let (read, write) = pipe()?;
        set_nonblocking(&read)?;
        self.outputs.push((read, own(to)?));
        Ok(write)
    }

    /// Carries until the process has ended and what it said until then is out. Whoever of its children goes on is not waited for.
    pub(super) fn carry(mut self, child: &mut Child) -> io::Result<ExitStatus> {
        let ended = sys::pidfd_open(i32::try_from(child.id()).map_err(io::Error::other)?)?;
        let (mut block, mut waiting, mut over) = (vec![0; BLOCK_BYTES], Vec::new(), false);
        while !(self.outputs.is_empty() && (self.input.is_none() || over)) {
            let ready = self.ready(&ended, over, waiting.is_empty())?;
            let mut said = ready.outputs.iter();
            let mut failed = Ok(());
            self.outputs
                .retain_mut(|(from, to)| said.next() != Some(&true) || pass_on(from, to, &mut block, &mut failed));
            failed?;
            if self.input.is_some() && !self.feed(ready.input, &mut waiting, &mut block)? {
                self.input = None;
            }
            if over && !ready.outputs.contains(&true) {
                break;
            }
            over |= ready.ended;
        }
        child.wait()
    }

    /// Waits until something can be done. After the end only what is left is looked at.
    fn ready(&self, ended: &OwnedFd, over: bool, hungry: bool) -> io::Result<Ready> {
        let mut polled: Vec<PollFd<'_>> =
            self.outputs.iter().map(|(from, _)| PollFd::new(from.as_fd(), PollFlags::POLLIN)).collect();
        if !over {
            polled.push(PollFd::new(ended.as_fd(), PollFlags::POLLIN));
            if let Some((from, to)) = &self.input {
                // Of the pipe it is also wanted to know that nobody reads it any more.
                let room = if hungry { PollFlags::empty() } else { PollFlags::POLLOUT };
                polled.push(PollFd::new(to.as_fd(), room));
                if hungry {
                    polled.push(PollFd::new(from.as_fd(), PollFlags::POLLIN));
                }
            }
        }
        match poll(&mut polled, if over { PollTimeout::ZERO } else { PollTimeout::NONE }) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let any: Vec<bool> = polled.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        let (outputs, rest) = any.split_at(self.outputs.len());
        Ok(Ready {
            outputs: outputs.to_vec(),
            ended: rest.first() == Some(&true),
            input: rest.get(1..).is_some_and(|rest| rest.contains(&true)),
        })
    }

    /// Carries one block of input; `false` when there is no more of it, or nobody who wants it.
    fn feed(&mut self, ready: bool, waiting: &mut Vec<u8>, block: &mut [u8]) -> io::Result<bool> {
        let Some((from, to)) = self.input.as_mut().filter(|_| ready) else { return Ok(true) };
        if waiting.is_empty() {
            if nobody_reads(to) {
                return Ok(false);
            }
            match from.read(block) {
                Ok(0) => return Ok(false),
                Ok(count) => waiting.extend_from_slice(&block[..count]),
                Err(error) if is_later(&error) => return Ok(true),
                // What cannot be read has ended: the program may not even want it.
                Err(_) => return Ok(false),
            }
        }
        match to.write(waiting) {
            Ok(count) => drop(waiting.drain(..count)),
            Err(error) if is_later(&error) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }
}

/// What a look has shown.
struct Ready {
    outputs: Vec<bool>,
    ended: bool,
    input: bool,
}

/// Passes one block on; `false` when nothing more can come, or go: then the process meets a closed pipe, as it would have.
fn pass_on(from: &mut File, to: &mut File, block: &mut [u8], failed: &mut io::Result<()>) -> bool {
    match from.read(block) {
        Ok(0) => false,
        Ok(count) => match crate::engine::attach::write_whole(to, &block[..count]) {
            Ok(()) => true,
            Err(error) => {
                if error.kind() != io::ErrorKind::BrokenPipe {
                    *failed = Err(error);
                }
                false
            }
        },
        Err(error) => is_later(&error),
    }
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

fn nobody_reads(pipe: &File) -> bool {
    let mut polled = [PollFd::new(pipe.as_fd(), PollFlags::empty())];
    poll(&mut polled, PollTimeout::ZERO).is_ok()
        && polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR))
}

/// Whether a container's process may hold it: a pipe, or `/dev/null`.
fn is_harmless(fd: BorrowedFd<'_>) -> bool {
    let Ok(stat) = fstat(fd) else { return false };
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    kind == SFlag::S_IFIFO || kind == SFlag::S_IFCHR && (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3)
}

fn own(fd: BorrowedFd<'_>) -> io::Result<File> {
    fd.try_clone_to_owned().map(File::from)
}

fn pipe() -> io::Result<(File, File)> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    Ok((read.into(), write.into()))
}

fn set_nonblocking(file: &File) -> io::Result<()> {
    fcntl(file, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}
