//! `exec`: one more process in a running container, born by the runtime, without the monitor.

mod carry;

use super::{Container, Engine, Streams, attach};
use crate::account;
use crate::error::EngineError;
use crate::host::rootfs::{Program, Rootfs};
use crate::host::{process, sys};
use crate::record::Status;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci::spec::{Process, Spec};
use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What `exec` asks for.
#[derive(Debug, Clone, Default)]
pub struct ExecWish {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `-e`.
    pub env: Vec<String>,
    /// `-w`.
    pub workdir: String,
    /// `-u`.
    pub user: String,
    /// `-t`.
    pub tty: bool,
    /// `-i`.
    pub interactive: bool,
    /// `-d`.
    pub detach: bool,
    /// `--privileged`.
    pub privileged: bool,
    /// The keys that leave it running.
    pub detach_keys: Vec<u8>,
}

impl Engine {
    /// Runs a process in a container with this process's stdin, stdout and stderr; returns its exit code, 0 at once when
    /// detached.
    pub fn exec(&self, name: &str, wish: &ExecWish) -> Result<i32, EngineError> {
        let container = self.find(name)?;
        match container.state.status {
            Status::Running => {}
            Status::Paused => return Err(container.state_error("is paused: unpause it first")),
            _ => return Err(container.state_error("is not running")),
        }
        let spec: Spec = crate::file::load(&container.run.join("config.json"))?;
        let process = self.exec_process(&container, &spec, wish)?;
        let exec_id = crate::name::new_id();
        let happened = |action: &str, more: &[(&str, &str)]| {
            let more: Vec<_> = [("execID", exec_id.as_str())].into_iter().chain(more.iter().copied()).collect();
            self.event(&container.record, action, &more);
        };
        let command = wish.args.join(" ");
        happened(&format!("exec_create: {command}"), &[]);
        happened(&format!("exec_start: {command}"), &[]);
        let (folder, _held) = exec_folder(&container.run).map_err(EngineError::io("make a folder for the exec"))?;
        let ended = crate::file::save(&folder.join("process.json"), &process, crate::file::Durable::No)
            .map_err(EngineError::from)
            .and_then(|()| {
                if wish.tty {
                    self.exec_tty(&container, &folder, wish)
                } else {
                    self.exec_pipes(&container, &folder, wish)
                }
            });
        let code = match ended {
            Ok(code) => Ok(code),
            // Beside a process of ours the runtime has our stderr, and has said on it what its log says.
            Err(error) => match self.explain_exec(&container, &folder, &process, error) {
                EngineError::Start { code, .. } if !wish.tty && !wish.detach && has_said(&folder) => {
                    Ok(i32::from(code))
                }
                error => Err(error),
            },
        };
        fs::remove_dir_all(&folder).ok();
        // Nobody waits for one in the background: its end is not seen.
        if let Ok(code) = &code
            && !wish.detach
        {
            happened("exec_die", &[("exitCode", &code.to_string())]);
        }
        code
    }

    /// The process: the container's own with the user's changes.
    fn exec_process(&self, container: &Container, spec: &Spec, wish: &ExecWish) -> Result<Process, EngineError> {
        let mut process = spec.process.clone().unwrap_or_default();
        process.args.clone_from(&wish.args);
        process.terminal = wish.tty;
        process.console_size =
            crate::host::terminal::size().filter(|_| wish.tty && !wish.detach).map(super::launch::console_size);
        for entry in &wish.env {
            let name = entry.split('=').next().unwrap_or_default();
            process.env.retain(|known| known.split('=').next() != Some(name));
            if entry.contains('=') {
                process.env.push(entry.clone());
            }
        }
        if wish.tty && !process.env.iter().any(|entry| entry.starts_with("TERM=")) {
            process.env.push("TERM=xterm".to_owned());
        }
        if !wish.workdir.is_empty() {
            if !wish.workdir.starts_with('/') {
                return Err(EngineError::Invalid(format!(
                    "-w {:?}: the working directory must be absolute",
                    wish.workdir
                )));
            }
            process.cwd.clone_from(&wish.workdir);
        }
        if !wish.user.is_empty() {
            let root = self.root_of(container)?;
            let read = |path: &str| root.text(path).map_err(EngineError::io(format!("read the container's {path}")));
            let groups = &container.record.wish.group_add;
            let account = account::resolve(&wish.user, groups, &read("/etc/passwd")?, &read("/etc/group")?)
                .map_err(|error| EngineError::Start { code: 126, message: error.to_string() })?;
            process.user = account.user;
            let record = &container.record;
            let given = [&record.defaults.env, &record.wish.env, &wish.env];
            if !given.into_iter().flatten().any(|entry| entry.starts_with("HOME=")) {
                // Ours so far: that of the container's own user.
                process.env.retain(|entry| !entry.starts_with("HOME="));
                process.env.push(format!("HOME={}", account.home));
            }
        }
        if let Some(capabilities) = &mut process.capabilities {
            if wish.privileged {
                let all = oci::conversion::capability::effective(true, &[], &[])?;
                capabilities.bounding.clone_from(&all);
                capabilities.effective.clone_from(&all);
                capabilities.permitted = all;
                super::prepare::within_bound(capabilities);
            } else if process.user.uid == 0 {
                capabilities.effective.clone_from(&capabilities.bounding);
                capabilities.permitted.clone_from(&capabilities.bounding);
            } else {
                capabilities.effective.clear();
                capabilities.permitted.clear();
            }
            capabilities.inheritable.clear();
            capabilities.ambient.clear();
        }
        Ok(process)
    }

    /// The root file system as the container's first process sees it.
    fn root_of(&self, container: &Container) -> Result<Rootfs, EngineError> {
        let path = format!("/proc/{}/root", container.state.process.pid);
        Rootfs::open(Path::new(&path)).map_err(EngineError::io(format!("open the root of {}", container.name())))
    }

    fn exec_command(&self, container: &Container, folder: &Path) -> Result<Command, EngineError> {
        let mut command = Command::new(self.runtime()?);
        command.arg("--root").arg(self.roots.runtime());
        command.arg("--log").arg(folder.join("log")).args(["--log-format", "json"]);
        command.args(["exec", "--process"]).arg(folder.join("process.json"));
        command.current_dir(&container.run);
        Ok(command)
    }

    /// Without a terminal the process gets pipes.
    fn exec_pipes(&self, container: &Container, folder: &Path, wish: &ExecWish) -> Result<i32, EngineError> {
        let mut command = self.exec_command(container, folder)?;
        if wish.detach {
            command.arg("--detach").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        }
        command.arg("--pid-file").arg(folder.join("pid")).arg(container.id());
        let run = |mut command: Command| {
            if wish.detach {
                return command.status();
            }
            let pipes = carry::Pipes::lay(&mut command, wish.interactive)?;
            let mut child = command.spawn()?;
            // With its ends of the pipes.
            drop(command);
            pipes.carry(&mut child)
        };
        let status = run(command).map_err(EngineError::io("execute the runtime"))?;
        use std::os::unix::process::ExitStatusExt;
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255);
        if code != 0 && !folder.join("pid").exists() {
            return Err(EngineError::Start { code: 0, message: String::new() });
        }
        Ok(code)
    }

    /// With a terminal this process holds its other end, and adopts the process to learn its exit code.
    fn exec_tty(&self, container: &Container, folder: &Path, wish: &ExecWish) -> Result<i32, EngineError> {
        nix::sys::prctl::set_child_subreaper(true)
            .map_err(io::Error::from)
            .map_err(EngineError::io("adopt the process"))?;
        let name = folder.file_name().map(PathBuf::from).unwrap_or_default().join("console");
        let handle = fs::File::open(folder).map_err(EngineError::io("open the exec's folder"))?;
        let short = format!("/proc/self/fd/{}/console", std::os::fd::AsRawFd::as_raw_fd(&handle));
        let listener = UnixListener::bind(short).map_err(EngineError::io("listen for the terminal"))?;
        let mut command = self.exec_command(container, folder)?;
        command.args(["--detach", "--tty", "--console-socket"]).arg(name);
        command.arg("--pid-file").arg(folder.join("pid")).arg(container.id());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = command.status().map_err(EngineError::io("execute the runtime"))?;
        if !status.success() {
            return Err(EngineError::Start { code: 0, message: String::new() });
        }
        let pid: i32 =
            fs::read_to_string(folder.join("pid")).ok().and_then(|text| text.trim().parse().ok()).ok_or_else(|| {
                EngineError::Runtime { step: "exec".into(), message: "the runtime wrote no process number".into() }
            })?;
        let ended = sys::pidfd_open(pid).map_err(EngineError::io("watch the process"))?;
        let (stream, _) = listener.accept().map_err(EngineError::io("take the terminal"))?;
        let terminal =
            sys::receive_descriptor(stream.as_fd()).map_err(EngineError::io("take the terminal"))?.ok_or_else(
                || EngineError::Runtime { step: "exec".into(), message: "the runtime sent no terminal".into() },
            )?;
        // Whatever becomes of this command, the program keeps its terminal.
        let (gone, here) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
            .map_err(io::Error::from)
            .map_err(EngineError::io("make a pipe"))?;
        let copy = terminal.try_clone().map_err(EngineError::io("hold the terminal"))?;
        let mut holder = Command::new(self.monitor()?);
        holder.arg(crate::host::terminal::HOLD).stdin(Stdio::from(copy)).stdout(Stdio::from(gone));
        holder.status().map_err(EngineError::io("hold the terminal"))?;
        drop(holder);
        let _here = here;
        if wish.detach {
            return Ok(0);
        }
        let detached = attach::terminal(terminal, &ended, wish).map_err(EngineError::io("carry the terminal"))?;
        if detached {
            return Ok(0);
        }
        poll(&mut [PollFd::new(ended.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).ok();
        Ok(sys::wait_child(pid, 0).ok().flatten().map_or(255, |(_, code)| code))
    }

    /// Why the process did not begin: the runtime's errno, else what the root file system says.
    fn explain_exec(&self, container: &Container, folder: &Path, process: &Process, error: EngineError) -> EngineError {
        let EngineError::Start { .. } = error else { return error };
        let last = last_error(folder);
        let errno = last.as_ref().and_then(|line| line["errno"].as_i64()).and_then(|errno| i32::try_from(errno).ok());
        let message = last
            .as_ref()
            .and_then(|line| line["msg"].as_str())
            .unwrap_or("the runtime failed without a word")
            .to_owned();
        let path = process.env.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or("/usr/bin:/bin");
        let program = process.args.first().map_or("", String::as_str);
        let found = self.root_of(container).map(|root| root.program(program, &process.cwd, path));
        let code = match (errno, found) {
            (Some(errno), _) if crate::monitor::code_of_errno(errno) != 125 => crate::monitor::code_of_errno(errno),
            (_, Ok(Program::Missing)) => 127,
            (_, Ok(Program::NotExecutable)) => 126,
            _ => 126,
        };
        EngineError::Start { code, message }
    }
}

/// What an exec's folder is called.
const FOLDER: &str = "exec-";

/// Makes a folder that is this exec's for as long as it is held, and takes those of killed ones away.
fn exec_folder(run: &Path) -> io::Result<(PathBuf, fs::File)> {
    for entry in fs::read_dir(run)?.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(FOLDER.as_bytes())
            && let Ok(left) = fs::File::open(entry.path())
            && left.try_lock().is_ok()
        {
            // Another exec may be at the same; what stays is for the next.
            fs::remove_dir_all(entry.path()).ok();
        }
    }
    let name = format!("{FOLDER}{:08x}", u32::from_be_bytes(process::random()));
    // Under another name until it is locked.
    let (draft, folder) = (run.join(format!(".{name}")), run.join(&name));
    fs::create_dir(&draft)?;
    let held = fs::File::open(&draft)?;
    held.lock()?;
    fs::rename(&draft, &folder)?;
    Ok((folder, held))
}

/// The last error in the runtime's log.
fn last_error(folder: &Path) -> Option<serde_json::Value> {
    let mut text = String::new();
    fs::File::open(folder.join("log")).and_then(|file| file.take(64 * 1024).read_to_string(&mut text)).ok();
    text.lines().rev().find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        (line["level"] == "error").then_some(line)
    })
}

fn has_said(folder: &Path) -> bool {
    last_error(folder).is_some()
}

impl Engine {
    /// The streams of a command that only listens.
    pub fn listener() -> Streams {
        Streams { stdin: false, stdout: true, stderr: true, size: None }
    }
}
