//! Running a program to its end with a deadline, its output captured.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// No command of a test needs longer on two busy cores; a hang shows as this and not as a hung suite.
const DEADLINE: Duration = Duration::from_secs(120);

/// A program to run: arguments, environment, network namespace, input and deadline.
#[derive(Debug, Clone)]
pub struct Cmd {
    program: OsString,
    args: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
    input: Vec<u8>,
    deadline: Duration,
}

/// What a program left behind when it ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The command line, for messages.
    pub line: String,
    /// Exit status.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Cmd {
    /// A command for `program`, found through PATH unless it is a path.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            envs: Vec::new(),
            folder: None,
            input: Vec::new(),
            deadline: DEADLINE,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.envs.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn folder(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// Sets the bytes of standard input (default: none).
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// Sets the time after which the command is killed and the test fails.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Returns the command line as one would type it.
    pub fn line(&self) -> String {
        std::iter::once(&self.program)
            .chain(&self.args)
            .map(|word| word.to_string_lossy().into_owned())
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Returns the standard library's command, for tests that need to hold the process.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).envs(self.envs.iter().map(|(name, value)| (name, value)));
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command
    }

    /// Runs the command to its end.
    ///
    /// # Panics
    /// When it cannot be started or does not end before its deadline (it is then killed).
    pub fn run(&self) -> Outcome {
        self.attempt().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Like [`Cmd::run`], for whoever tidies up: a panic in a `Drop` would hide what a test found, or end its neighbours.
    ///
    /// # Errors
    /// When it cannot be started or does not end before its deadline (it is then killed).
    pub fn attempt(&self) -> Result<Outcome, String> {
        let line = self.line();
        let mut child = self
            .command()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("start {line}: {error}"))?;
        let mut stdin = child.stdin.take().expect("stdin is piped");
        let input = self.input.clone();
        let feeder = std::thread::spawn(move || {
            // A program that does not read its input closes the pipe: not an error of the test.
            let _ = stdin.write_all(&input);
        });
        let stdout = drain(child.stdout.take().expect("stdout is piped"));
        let stderr = drain(child.stderr.take().expect("stderr is piped"));
        let status = wait(&mut child, &line, self.deadline)?;
        feeder.join().expect("the feeder does not panic");
        Ok(Outcome { status, stdout: finish(stdout), stderr: finish(stderr), line })
    }

    /// Runs the command and returns its standard output.
    ///
    /// # Panics
    /// When it fails.
    pub fn ok(&self) -> String {
        self.run().expect_success().stdout
    }
}

impl Outcome {
    /// Returns itself when the program succeeded.
    ///
    /// # Panics
    /// When it did not, with all it printed.
    #[must_use]
    pub fn expect_success(self) -> Self {
        assert!(
            self.status.success(),
            "{}\n{}\nstdout: {}\nstderr: {}",
            self.line,
            self.status,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Returns itself when the program ended with the exit code `code`.
    ///
    /// # Panics
    /// When it ended otherwise.
    #[must_use]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{}\nstdout: {}\nstderr: {}", self.line, self.stdout, self.stderr);
        self
    }

    /// Returns itself when the program failed.
    ///
    /// # Panics
    /// When it succeeded.
    #[must_use]
    pub fn expect_failure(self) -> Self {
        assert!(!self.status.success(), "{} succeeded\nstdout: {}\nstderr: {}", self.line, self.stdout, self.stderr);
        self
    }
}

/// A pipe being read to its end, or until it stays empty after the program's end (a detached container keeps its copy for
/// ever).
struct Drain {
    ended: Arc<AtomicBool>,
    reader: std::thread::JoinHandle<Vec<u8>>,
}

/// How long after the program's end its pipe may stay open and empty. The reader itself takes the time: one that was not
/// given a processor meanwhile has still to read what the program had said.
const PIPE_GRACE: Duration = Duration::from_millis(300);

/// The largest pipe without privilege.
const PIPE_LEN_MAX: usize = 1 << 20;

/// How often the reader looks whether the program has ended.
const LOOK_MS: u16 = 20;

fn drain(mut pipe: impl Read + AsFd + Send + 'static) -> Drain {
    let ended = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&ended);
    let reader = std::thread::spawn(move || {
        let (mut bytes, mut buffer) = (Vec::new(), [0; 64 * 1024]);
        let (mut seen, mut left) = (None::<Instant>, PIPE_LEN_MAX);
        loop {
            let is_over = seen.is_some_and(|seen| seen.elapsed() >= PIPE_GRACE);
            let ready = poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], PollTimeout::from(LOOK_MS));
            match ready {
                Ok(0) if is_over => return bytes,
                Ok(0) | Err(_) => {}
                Ok(_) => match pipe.read(&mut buffer) {
                    Ok(0) | Err(_) => return bytes,
                    Ok(count) => {
                        bytes.extend_from_slice(&buffer[..count]);
                        // More than a pipe holds is said by another, who may go on without end.
                        left -= count.min(left) * usize::from(seen.is_some());
                        if left == 0 {
                            return bytes;
                        }
                    }
                },
            }
            if seen.is_none() && told.load(Ordering::Acquire) {
                seen = Some(Instant::now());
            }
        }
    });
    Drain { ended, reader }
}

fn finish(drain: Drain) -> String {
    drain.ended.store(true, Ordering::Release);
    String::from_utf8_lossy(&drain.reader.join().expect("a reader does not panic")).into_owned()
}

fn wait(child: &mut Child, line: &str, within: Duration) -> Result<ExitStatus, String> {
    let deadline = Instant::now() + within;
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(status) = child.try_wait().expect("a child of ours can be waited for") {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            // The process may have ended in between; then there is nothing to kill.
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("{line}: still running after {within:?}"));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}
