//! Running hooks: state on stdin, their own environment, an end at their timeout. runtime-spec config.md "POSIX-platform
//! Hooks"
//!
//! A hook that fails before `start` fails the operation; poststart and poststop failures are returned for the log and
//! the rest goes on, as runtime-spec runtime.md "Lifecycle" demands.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci::spec::{Hook, State};

use super::sys::clone::pidfd_open;
use crate::error::{Error, Result};

/// How much of a hook's stderr is kept for its error.
const STDERR_LEN_MAX: u64 = 8 * 1024;

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
    let (name, args) = hook.args.split_first().map_or((&hook.path, &[][..]), |(name, args)| (name, args));
    let mut command = Command::new(&hook.path);
    command.arg0(name).args(args).env_clear();
    command.envs(hook.env.iter().filter_map(|pair| pair.split_once('=')));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    let deadline = hook.timeout.filter(|seconds| *seconds > 0);
    let deadline = deadline.map(|seconds| Instant::now() + Duration::from_secs(seconds.unsigned_abs()));
    let mut child = command.spawn().map_err(|cause| crate::error::describe(cause.raw_os_error().unwrap_or(0)))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook need not read its state; a state is far smaller than a pipe, so this never waits.
        let _ = stdin.write_all(&text);
    }
    let status = wait(&mut child, deadline)?;
    if status.success() {
        return Ok(());
    }
    let mut words = String::new();
    if let Some(stderr) = child.stderr.take() {
        // Its own children may still hold the pipe: take what is there.
        let _ = nix::fcntl::fcntl(&stderr, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK));
        let _ = stderr.take(STDERR_LEN_MAX).read_to_string(&mut words);
    }
    Err(format!("{status}, stderr: {}", words.trim()))
}

/// Waits for the end of a hook; at the deadline its whole process group is killed.
fn wait(child: &mut Child, deadline: Option<Instant>) -> Result<ExitStatus, String> {
    let text = |cause: std::io::Error| cause.to_string();
    let Some(deadline) = deadline else { return child.wait().map_err(text) };
    let pid = i32::try_from(child.id()).map_err(|cause| cause.to_string())?;
    let pidfd = pidfd_open(pid).map_err(|errno| errno.desc().to_owned())?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut waited = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut waited, timeout) {
            Ok(0) if Instant::now() >= deadline => {
                let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
                child.wait().map_err(text)?;
                return Err("timed out and was killed".into());
            }
            Ok(0) | Err(nix::Error::EINTR) => {}
            Ok(_) => return child.wait().map_err(text),
            Err(errno) => return Err(errno.desc().to_owned()),
        }
    }
}
