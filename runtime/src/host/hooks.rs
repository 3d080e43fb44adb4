//! Running hooks: state on stdin, their own environment, an end at their timeout. runtime-spec config.md "POSIX-platform
//! Hooks"
//!
//! A hook that fails before `start` fails the operation; poststart and poststop failures are returned for the log and
//! the rest goes on, as runtime-spec runtime.md "Lifecycle" demands.

use std::io::{ErrorKind, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci::spec::{Hook, State};

use super::sys::clone::pidfd_open;
use crate::error::{Error, Result};

/// How much of a hook's stderr is kept for its error.
const STDERR_LEN_MAX: usize = 8 * 1024;

/// Runs `hooks` in order; the first failure ends it.
pub fn run(list: &str, hooks: &[Hook], state: &State) -> Result<()> {
    hooks.iter().enumerate().try_for_each(|(index, hook)| {
        run_one(hook, state).map_err(|reason| Error::Hook {
            list: list.to_owned(),
            index,
            path: hook.path.clone(),
            reason,
        })
    })
}

/// Runs all `hooks` whatever happens; returns what failed.
pub fn run_all(list: &str, hooks: &[Hook], state: &State) -> Vec<Error> {
    let failed = hooks.iter().enumerate().filter_map(|(index, hook)| {
        let reason = run_one(hook, state).err()?;
        Some(Error::Hook { list: list.to_owned(), index, path: hook.path.clone(), reason })
    });
    failed.collect()
}

fn run_one(hook: &Hook, state: &State) -> Result<(), String> {
    if !hook.path.starts_with('/') {
        return Err("path must be absolute".into());
    }
    let text = serde_json::to_vec(state).map_err(|cause| cause.to_string())?;
    let words = |cause: std::io::Error| crate::error::describe(cause.raw_os_error().unwrap_or(0));
    let (name, args) = hook.args.split_first().map_or((&hook.path, &[][..]), |(name, args)| (name, args));
    // The reading end stays open here: a hook that ends without having read must not become a SIGPIPE of ours.
    let (theirs, ours) = std::io::pipe().map_err(words)?;
    let mut command = Command::new(&hook.path);
    command.arg0(name).args(args).env_clear();
    command.envs(hook.env.iter().filter_map(|pair| pair.split_once('=')));
    command.stdin(theirs.try_clone().map_err(words)?).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    let deadline = hook.timeout.filter(|seconds| *seconds > 0);
    let deadline = deadline.map(|seconds| Instant::now() + Duration::from_secs(seconds.unsigned_abs()));
    let mut child = command.spawn().map_err(words)?;
    let mut streams = Streams { input: Some(ours), rest: &text, errors: child.stderr.take(), words: Vec::new() };
    let status = accompany(&mut child, deadline, &mut streams)?;
    if status.success() {
        return Ok(());
    }
    Err(format!("{status}, stderr: {}", String::from_utf8_lossy(&streams.words).trim()))
}

/// What a hook reads and writes while it runs.
struct Streams<'a> {
    /// Its stdin, until all of the state is written.
    input: Option<PipeWriter>,
    /// What is left of the state.
    rest: &'a [u8],
    /// Its stderr, until that is closed.
    errors: Option<ChildStderr>,
    /// The beginning of what it wrote there.
    words: Vec<u8>,
}

impl Streams<'_> {
    /// Neither end may make this process wait: a hook need not read, and may write what it likes.
    fn never_wait(&self) {
        let ends = [self.input.as_ref().map(AsFd::as_fd), self.errors.as_ref().map(AsFd::as_fd)];
        for end in ends.into_iter().flatten() {
            // Flags of an open pipe can always be set.
            let _ = fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        }
    }

    fn write(&mut self) {
        let Some(input) = &mut self.input else { return };
        match input.write(self.rest) {
            Ok(length) => self.rest = &self.rest[length..],
            Err(cause) if matches!(cause.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
            Err(_) => self.rest = &[],
        }
        if self.rest.is_empty() {
            self.input = None;
        }
    }

    /// Reads what is there, once; false when there is nothing. What goes beyond the bound is read and forgotten.
    fn read(&mut self) -> bool {
        let Some(errors) = &mut self.errors else { return false };
        let mut bytes = [0; 4096];
        match errors.read(&mut bytes) {
            Ok(0) => self.errors = None,
            Ok(length) => {
                let room = STDERR_LEN_MAX.saturating_sub(self.words.len());
                self.words.extend_from_slice(&bytes[..length.min(room)]);
                return true;
            }
            Err(cause) if matches!(cause.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.errors = None,
        }
        false
    }
}

/// Serves a hook until its end; at the deadline its whole process group is killed.
fn accompany(child: &mut Child, deadline: Option<Instant>, streams: &mut Streams<'_>) -> Result<ExitStatus, String> {
    let text = |cause: std::io::Error| cause.to_string();
    let pid = i32::try_from(child.id()).map_err(|cause| cause.to_string())?;
    let pidfd = pidfd_open(pid).map_err(|errno| errno.desc().to_owned())?;
    streams.never_wait();
    loop {
        let mut waited = vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        let input = streams.input.as_ref().map(|input| PollFd::new(input.as_fd(), PollFlags::POLLOUT));
        let errors = streams.errors.as_ref().map(|errors| PollFd::new(errors.as_fd(), PollFlags::POLLIN));
        let writes = input.is_some();
        waited.extend(input.into_iter().chain(errors));
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        match poll(&mut waited, timeout) {
            Ok(0) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
                child.wait().map_err(text)?;
                return Err("timed out and was killed".into());
            }
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(errno.desc().to_owned()),
        }
        let ready = |index: usize| waited.get(index).and_then(PollFd::any).unwrap_or(false);
        let (ended, writable, readable) = (ready(0), writes && ready(1), ready(1 + usize::from(writes)));
        if ended {
            // Its own children may still hold the pipe: take what is there, and no more than is kept.
            while streams.words.len() < STDERR_LEN_MAX && streams.read() {}
            return child.wait().map_err(text);
        }
        if writable {
            streams.write();
        }
        if readable {
            streams.read();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hook of the shell with five seconds, and what became of it.
    fn shell(script: &str, annotation: usize) -> Result<(), String> {
        let hook = Hook {
            path: "/bin/sh".into(),
            args: vec!["sh".into(), "-c".into(), script.into()],
            timeout: Some(5),
            ..Hook::default()
        };
        let annotations = std::iter::once(("long".to_owned(), "x".repeat(annotation))).collect();
        let state = State { id: "c1".into(), annotations, ..State::default() };
        run_one(&hook, &state)
    }

    #[test]
    fn a_hook_may_write_more_than_a_pipe_holds() {
        let error = shell("head -c 300000 /dev/zero | tr '\\0' x >&2; exit 3", 1).unwrap_err();
        assert!(error.contains("xxx") && !error.contains("timed out"), "{error:.200}");
        assert!(error.len() < STDERR_LEN_MAX + 100);
    }

    #[test]
    fn a_hook_need_not_read_a_state_that_is_longer_than_a_pipe() {
        assert_eq!(shell("exit 0", 300_000), Ok(()));
        assert_eq!(shell("exec <&-; sleep 0.05", 300_000), Ok(()));
    }

    #[test]
    fn a_hook_gets_all_of_a_long_state() {
        assert_eq!(shell("test $(wc -c) -gt 300000", 300_000), Ok(()));
    }

    #[test]
    fn a_child_that_keeps_stderr_does_not_keep_the_hook() {
        let begun = Instant::now();
        assert!(shell("sleep 30 & echo why >&2; exit 1", 1).unwrap_err().contains("why"));
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}
