//! The container's process as the monitor holds it: born by the runtime's command line, its ends of pipes or terminal,
//! its exit code.

use super::plan::Plan;
use crate::host::process::ProcessId;
use crate::host::sys;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

/// A running container.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) process: ProcessId,
    /// Readable when it has ended.
    pub(super) handle: OwnedFd,
    pub(super) io: Ends,
}

/// The monitor's ends of its input and output.
#[derive(Debug, Default)]
pub(super) struct Ends {
    pub(super) stdin: Option<OwnedFd>,
    /// Stdout, or everything of a terminal.
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
}

/// Why it did not start.
#[derive(Debug)]
pub(super) struct StartError {
    /// 125, 126 or 127.
    pub(super) code: u8,
    pub(super) message: String,
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self { code: 125, message: format!("start the runtime: {error}") }
    }
}

const LOG: &str = "runtime.log";
const PID_FILE: &str = "pid";
const CONSOLE: &str = "console.sock";

/// Runs `runtime run --detach` in the container's run folder (the working directory) and takes hold of the process.
pub(super) fn start(plan: &Plan) -> Result<Child, StartError> {
    for left in [LOG, PID_FILE, CONSOLE] {
        fs::remove_file(left).ok();
    }
    let mut command = Command::new(&plan.runtime);
    command.arg("--root").arg(&plan.runtime_root).args(["--log", LOG, "--log-format", "json"]);
    command.args(["run", "--detach", "--bundle", ".", "--pid-file", PID_FILE]);
    // The runtime would stay until the program says that it is ready, and nobody reads its output meanwhile.
    command.env_remove("NOTIFY_SOCKET");
    let mut ends = Ends::default();
    let mut listener = None;
    let mut diagnosis = None;
    if plan.tty {
        listener = Some(UnixListener::bind(CONSOLE)?);
        command.args(["--console-socket", CONSOLE]).stdin(Stdio::null()).stdout(Stdio::null());
        let (read, write) = pipe()?;
        diagnosis = Some(read);
        command.stderr(Stdio::from(write));
    } else {
        if plan.stdin {
            let (read, write) = pipe()?;
            command.stdin(Stdio::from(read));
            ends.stdin = Some(write);
        } else {
            command.stdin(Stdio::null());
        }
        let (read, write) = pipe()?;
        ends.stdout = Some(read);
        command.stdout(Stdio::from(write));
        let (read, write) = pipe()?;
        ends.stderr = Some(read);
        command.stderr(Stdio::from(write));
    }
    command.arg(&plan.id);
    let status = command.spawn().and_then(|mut child| {
        // The parent's copies of the far ends close here: the pipes end when the container's processes do.
        drop(command);
        child.wait()
    });
    let status = status
        .map_err(|error| StartError { code: 125, message: format!("run {}: {error}", plan.runtime.display()) })?;
    if !status.success() {
        let stderr = diagnosis.as_ref().or(ends.stderr.as_ref());
        let error = explain(stderr);
        force_delete(plan);
        return Err(error);
    }
    let pid: i32 = fs::read_to_string(PID_FILE)?
        .trim()
        .parse()
        .map_err(|_| StartError { code: 125, message: "the runtime wrote no process number".into() })?;
    // Until it is waited for, the number cannot be reused: it is our child by adoption (we are its subreaper).
    let handle = sys::pidfd_open(pid)?;
    let process = ProcessId::of(pid).unwrap_or(ProcessId { pid, start: 0 });
    if let Some(listener) = listener {
        let (stream, _) = listener.accept()?;
        let terminal = sys::receive_descriptor(stream.as_fd())?
            .ok_or_else(|| StartError { code: 125, message: "the runtime sent no terminal".into() })?;
        if let Some((rows, columns)) = plan.size {
            sys::set_window_size(terminal.as_fd(), rows, columns).ok();
        }
        ends.stdin = Some(terminal.try_clone()?);
        ends.stdout = Some(terminal);
        fs::remove_file(CONSOLE).ok();
    }
    for end in [&ends.stdin, &ends.stdout, &ends.stderr].into_iter().flatten() {
        nonblocking(end)?;
    }
    Ok(Child { process, handle, io: ends })
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?)
}

fn nonblocking(fd: &OwnedFd) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// What the runtime said when it failed: the errno of its log's last error when it gives one, else its words.
fn explain(stderr: Option<&OwnedFd>) -> StartError {
    let mut text = String::new();
    if let Ok(bytes) = crate::file::read(LOG.as_ref(), crate::file::DOCUMENT_BYTES_MAX) {
        for line in bytes.split(|&byte| byte == b'\n') {
            let Ok(line) = serde_json::from_slice::<LogLine>(line) else { continue };
            if line.level == "error" || line.level == "fatal" {
                if let Some(errno) = line.errno.filter(|_| line.phase.as_deref().is_none_or(|phase| phase == "exec")) {
                    return StartError { code: code_of_errno(errno), message: line.msg };
                }
                text = line.msg;
            }
        }
    }
    if text.is_empty()
        && let Some(stderr) = stderr
    {
        let mut bytes = Vec::new();
        if let Ok(copy) = stderr.try_clone() {
            nonblocking(&copy).ok();
            File::from(copy).take(64 * 1024).read_to_end(&mut bytes).ok();
        }
        text = String::from_utf8_lossy(&bytes).trim().to_owned();
    }
    StartError { code: 0, message: if text.is_empty() { "the runtime failed without a word".into() } else { text } }
}

/// `docker run`'s exit code for a command that could not be executed.
pub fn code_of_errno(errno: i32) -> u8 {
    match errno {
        libc::ENOENT | libc::ENOTDIR => 127,
        libc::EACCES | libc::ENOEXEC | libc::EISDIR | libc::EPERM | libc::ELOOP => 126,
        _ => 125,
    }
}

#[derive(serde::Deserialize)]
struct LogLine {
    #[serde(default)]
    level: String,
    #[serde(default)]
    msg: String,
    errno: Option<i32>,
    phase: Option<String>,
}

/// Reaps the container's process; the exit code is 128 + signal when a signal ended it.
pub(super) fn reap(process: ProcessId) -> i32 {
    match sys::wait_child(process.pid, 0) {
        Ok(Some((_, code))) => code,
        // Not our child: the runtime did not let it be adopted. Its code cannot be known.
        _ => 255,
    }
}

/// Reaps orphans that were handed to us; the container's own process is reaped by [`reap`] alone.
pub(super) fn reap_orphans(keep: &[i32]) {
    while let Ok(Some(pid)) = sys::ended_child() {
        if keep.contains(&pid) || sys::wait_child(pid, libc::WNOHANG).is_err() {
            return;
        }
    }
}

/// Thaws the container; whether it was frozen.
pub(super) fn resume(plan: &Plan) -> bool {
    let mut command = Command::new(&plan.runtime);
    command.arg("--root").arg(&plan.runtime_root).args(["resume", &plan.id]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Removes what the runtime keeps of a container that has ended: its state and its cgroup.
pub(super) fn force_delete(plan: &Plan) {
    let mut command = Command::new(&plan.runtime);
    command.arg("--root").arg(&plan.runtime_root).args(["delete", "--force", &plan.id]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // A container the runtime does not know is what is wanted.
    command.status().ok();
}
