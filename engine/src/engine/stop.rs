//! `stop`, `kill`, `pause`, `unpause`, `wait`: what is asked of a running container goes to its monitor.

use super::{Container, Engine};
use crate::error::EngineError;
use crate::monitor::lock;
use crate::monitor::protocol::{Client, Reply, Request, Word};
use crate::record::Status;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long `stop` waits before it kills, in s; docker's.
pub const STOP_TIMEOUT_S: u64 = 10;
/// How long a monitor may take to go after its last word.
const SETTLE: Duration = Duration::from_secs(5);
/// How long a monitor may take to go once it has heard that everything is cleaned up.
const GOES: Duration = Duration::from_secs(1);
/// How long a monitor may take to listen; it does before it starts anything.
const REACH: Duration = Duration::from_secs(10);
/// How long a monitor may take to answer beyond what it was asked to wait for; then it is held to be hung, and is killed.
pub(super) const ANSWER: Duration = Duration::from_secs(10);
/// How long a monitor may be found stopped (SIGSTOP, a tracer) before it is killed: it can neither stop nor log anything.
const STOPPED: Duration = Duration::from_secs(2);
/// How often it is looked at while it says nothing.
const ANSWER_LOOK: Duration = Duration::from_millis(200);
/// How often it is tried.
const REACH_LOOK: Duration = Duration::from_millis(2);

impl Engine {
    /// Stops a container: its stop signal, then SIGKILL after `timeout_s` (-1 waits for ever). One that does not run is
    /// left as it is.
    pub fn stop(&self, name: &str, signal_text: Option<&str>, timeout_s: Option<i64>) -> Result<(), EngineError> {
        let signal = signal_text.map(signal).transpose()?;
        let container = self.find(name)?;
        let timeout = timeout_ms(&container, timeout_s)?;
        let mut answered = None;
        if container.monitored && container.state.status.is_active() {
            // The lock is not held meanwhile: who wants it to stop sooner can say so.
            let heard = self.asked(&container, signal, timeout)?;
            if heard.is_some() {
                self.settle(&container);
            }
            answered = Some(heard);
        }
        let locked = match self.lock(container.id()) {
            // Removed by somebody who waited for the same.
            Err(EngineError::NoSuchContainer { .. }) => return Ok(()),
            other => other?,
        };
        let promise = match (locked.is_active(), answered) {
            // It did not run: nothing of it changes.
            (false, None) => return self.give_back(&locked.container),
            (false, Some(promise)) => promise,
            // It had stopped, and somebody else has started it again.
            (true, Some(Some(_))) => return Ok(()),
            (true, Some(None)) => {
                self.without_monitor(&locked.container)?;
                None
            }
            (true, None) => self.stop_locked(&locked.container, signal, timeout)?,
        };
        let container = self.load(locked.container.id())?;
        self.give_back(&container)?;
        self.event(&container.record, "stop", &[]);
        if container.record.wish.remove {
            self.remove_locked(locked, false)?;
        }
        drop(promise);
        Ok(())
    }

    /// Stops a container whose lock is held and waits until it has ended for good. What is returned is kept until everything is
    /// given back: the monitor cleans up when this command is killed over it.
    pub(super) fn stop_locked(
        &self,
        container: &Container,
        signal: Option<i32>,
        timeout_ms: Option<u64>,
    ) -> Result<Option<Promise>, EngineError> {
        let promise = self.asked(container, signal, timeout_ms)?;
        if promise.is_some() {
            self.settle(container);
        }
        self.without_monitor(container)?;
        Ok(promise)
    }

    /// Tells the monitor to kill and goes on; it may be gone. As long as the promise is held, what follows the end is ours.
    pub(super) fn kill_at_once(&self, container: &Container) -> Option<Promise> {
        let mut client = Client::connect(&container.run).ok()?;
        let stop = Request::Stop { signal: Some(libc::SIGKILL), timeout_ms: Some(0) };
        client.send(&Request::CleanupIsMine).and_then(|()| client.send(&stop)).ok()?;
        Some(Promise(client))
    }

    /// Says stop to the monitor and waits for the last word; `None` when there is none to be had.
    fn asked(
        &self,
        container: &Container,
        signal: Option<i32>,
        timeout_ms: Option<u64>,
    ) -> Result<Option<Promise>, EngineError> {
        let Some(mut client) = reach(container) else { return Ok(None) };
        let speak = || EngineError::io(format!("speak to the monitor of {}", container.name()));
        let asked =
            client.send(&Request::CleanupIsMine).and_then(|()| client.send(&Request::Stop { signal, timeout_ms }));
        // It may end by itself at this very moment: its last words are then all that is to be heard.
        unless_gone(asked).map_err(speak())?;
        if container.state.status == Status::Paused {
            // A frozen process takes no signal but in its sleep.
            match self.runtime_verb(container, "resume") {
                Err(error) if lock::held(&container.run) == Some(true) && !self.is_thawed(container) => {
                    return Err(error);
                }
                _ => {}
            }
        }
        let patience = timeout_ms.and_then(|timeout| ANSWER.checked_add(Duration::from_millis(timeout)));
        let deadline = patience.and_then(|patience| Instant::now().checked_add(patience));
        let mut stopped = None;
        loop {
            match client.reply_within(ANSWER_LOOK).map_err(speak())? {
                Word::Said(Reply::Exited { last: true, .. } | Reply::Failed { .. }) => {
                    return Ok(Some(Promise(client)));
                }
                Word::Gone => {
                    lock::await_free(&container.run, SETTLE);
                    let killed =
                        self.load(container.id()).is_ok_and(|now| !now.monitored && now.state.status.is_active());
                    // Its last word may be in the state. One that was killed has left none, and its container runs on.
                    return Ok((!killed).then_some(Promise(client)));
                }
                Word::Said(_) => {}
                Word::Silent => {
                    let at = Instant::now();
                    let since = container.state.monitor.is_stopped().then(|| *stopped.get_or_insert(at));
                    if since.is_none() {
                        stopped = None;
                    }
                    if since.is_some_and(|since| at >= since + STOPPED) || deadline.is_some_and(|due| at >= due) {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Whether a container is frozen no more: its monitor thaws it too, before it kills, and says so a moment later.
    fn is_thawed(&self, container: &Container) -> bool {
        let deadline = Instant::now() + STOPPED;
        while Instant::now() < deadline {
            match self.load(container.id()) {
                Ok(now) if now.state.status == Status::Paused => std::thread::sleep(REACH_LOOK),
                _ => return true,
            }
        }
        false
    }

    /// Waits until the monitor itself is gone: only then do its state and its files stand still.
    pub(super) fn settle(&self, container: &Container) {
        if lock::held(&container.run).is_some() {
            lock::await_free(&container.run, SETTLE);
        } else if let Some(handle) = container.state.monitor.open() {
            // A monitor of a version without the lock.
            let patience = u16::try_from(SETTLE.as_millis()).unwrap_or(u16::MAX);
            poll(&mut [PollFd::new(handle.as_fd(), PollFlags::POLLIN)], PollTimeout::from(patience)).ok();
        }
    }

    /// What is left to stop where no monitor answers: nothing when it has written down the end, else a container whose
    /// monitor was killed. Its process is killed too, its exit code is lost.
    fn without_monitor(&self, container: &Container) -> Result<(), EngineError> {
        let now = self.load(container.id())?;
        if now.monitored
            && let Some(handle) = now.state.monitor.open()
        {
            // It holds its lock and listens to nobody.
            crate::host::sys::pidfd_send_signal(handle.as_fd(), libc::SIGKILL).ok();
            lock::await_free(&container.run, SETTLE);
        } else if !now.state.status.is_active() {
            return Ok(());
        }
        if let Some(handle) = now.state.process.open() {
            crate::host::sys::pidfd_send_signal(handle.as_fd(), libc::SIGKILL).ok();
            poll(&mut [PollFd::new(handle.as_fd(), PollFlags::POLLIN)], PollTimeout::from(10_000u16)).ok();
        }
        let mut state = now.state;
        state.status = Status::Exited;
        state.stopped_by_hand = true;
        state.exit_code = 137;
        state.finished = crate::time::now();
        crate::file::save(&container.data.join("state.json"), &state, crate::file::Durable::Yes)?;
        Ok(())
    }

    /// Sends a signal to a container's first process.
    pub fn kill(&self, name: &str, signal_text: &str) -> Result<(), EngineError> {
        let signal = signal(signal_text)?;
        let container = self.find(name)?;
        if !container.state.status.is_active() || container.state.status == Status::Restarting {
            return Err(container.state_error("is not running"));
        }
        let heard = match Client::connect(&container.run) {
            Ok(mut client) => {
                client.send(&Request::Signal { signal }).and_then(|()| client.reply_within(ANSWER)).and_then(|word| {
                    match word {
                        Word::Said(_) if signal == libc::SIGKILL && container.state.status == Status::Running => {
                            // As docker: what follows finds it ended.
                            await_end(&mut client);
                            Ok(true)
                        }
                        Word::Said(_) => Ok(true),
                        Word::Gone => Ok(false),
                        // It is stopped or hung: the process is signalled past it.
                        Word::Silent => container.state.process.signal(signal).map(|()| true),
                    }
                })
            }
            Err(_) => container.state.process.signal(signal).map(|()| true),
        };
        match heard {
            Ok(true) => {}
            Err(error) if !is_gone(&error) => {
                return Err(EngineError::io(format!("signal container {}", container.name()))(error));
            }
            _ => return Err(container.state_error("is not running")),
        }
        if container.state.status == Status::Paused && signal == libc::SIGKILL {
            self.runtime_verb(&container, "resume")?;
        }
        self.event(&container.record, "kill", &[("signal", &signal.to_string())]);
        Ok(())
    }

    /// Stops and starts a container. It stays locked in between: `--rm` and other commands find it running or running.
    pub fn restart(
        &self,
        name: &str,
        signal_text: Option<&str>,
        timeout_s: Option<i64>,
    ) -> Result<Vec<String>, EngineError> {
        let signal = signal_text.map(signal).transpose()?;
        let mut locked = self.lock(name)?;
        let mut promise = None;
        if locked.is_active() {
            let timeout_ms = timeout_ms(&locked.container, timeout_s)?;
            promise = self.stop_locked(&locked.container, signal, timeout_ms)?;
            self.event(&locked.container.record, "stop", &[]);
            locked.container = self.load(locked.container.id())?;
        }
        let launch = self.launch(locked, None)?;
        drop(promise);
        self.event(&launch.container.record, "restart", &[]);
        Ok(launch.warnings)
    }

    /// Freezes all processes of a container.
    pub fn pause(&self, name: &str) -> Result<(), EngineError> {
        let locked = self.lock(name)?;
        match locked.container.state.status {
            Status::Running => {}
            Status::Paused => return Err(locked.container.state_error("is already paused")),
            _ => return Err(locked.container.state_error("is not running")),
        }
        self.runtime_verb(&locked.container, "pause")?;
        self.tell_paused(&locked.container, true)?;
        self.event(&locked.container.record, "pause", &[]);
        Ok(())
    }

    /// Freezes a container for the sake of this process: whenever it ends, killed or not, its monitor thaws the container.
    pub(super) fn freeze(&self, name: &str) -> Result<Client, EngineError> {
        let locked = self.lock(name)?;
        let container = &locked.container;
        if container.state.status != Status::Running {
            return Err(container.state_error("is not running any more"));
        }
        let speak = || EngineError::io(format!("speak to the monitor of {}", container.name()));
        let mut client = Client::connect(&container.run).map_err(speak())?;
        // A monitor of an older version refuses: then only an end of this process by its own will thaws.
        client.send(&Request::ThawAfterMe).map_err(speak())?;
        client.reply_within(ANSWER).map_err(speak())?;
        // The runtime holds the connection too: were this process killed now, the monitor would wait for what it still does.
        let held = client.stream().try_clone().map_err(speak())?;
        self.runtime_verb_with(container, "pause", Stdio::from(OwnedFd::from(held)))?;
        client.send(&Request::Paused { paused: true }).map_err(speak())?;
        refused(container, &client.reply_within(ANSWER).map_err(speak())?)?;
        self.event(&container.record, "pause", &[]);
        Ok(client)
    }

    /// Thaws what [`Engine::freeze`] froze.
    pub(super) fn thaw(&self, name: &str, mut client: Client) -> Result<(), EngineError> {
        let locked = self.lock(name)?;
        if locked.container.state.status != Status::Paused {
            // Thawed or ended meanwhile.
            return Ok(());
        }
        self.runtime_verb(&locked.container, "resume")?;
        let speak = || EngineError::io(format!("speak to the monitor of {}", locked.container.name()));
        client.send(&Request::Paused { paused: false }).map_err(speak())?;
        client.reply_within(ANSWER).map_err(speak())?;
        self.event(&locked.container.record, "unpause", &[]);
        Ok(())
    }

    /// Thaws all processes of a container.
    pub fn unpause(&self, name: &str) -> Result<(), EngineError> {
        let locked = self.lock(name)?;
        if locked.container.state.status != Status::Paused {
            return Err(locked.container.state_error("is not paused"));
        }
        self.runtime_verb(&locked.container, "resume")?;
        self.tell_paused(&locked.container, false)?;
        self.event(&locked.container.record, "unpause", &[]);
        Ok(())
    }

    fn tell_paused(&self, container: &Container, paused: bool) -> Result<(), EngineError> {
        let speak = || EngineError::io(format!("speak to the monitor of {}", container.name()));
        let mut client = Client::connect(&container.run).map_err(speak())?;
        client.send(&Request::Paused { paused }).map_err(speak())?;
        refused(container, &client.reply_within(ANSWER).map_err(speak())?)
    }

    /// Waits until a container ends and returns its exit code; at once for one that does not run.
    pub fn wait(&self, name: &str) -> Result<i32, EngineError> {
        let container = self.find(name)?;
        if !container.state.status.is_active() {
            return Ok(container.state.exit_code);
        }
        let speak = || EngineError::io(format!("speak to the monitor of {}", container.name()));
        if let Ok(mut client) = Client::connect(&container.run) {
            while let Some(reply) = client.reply().map_err(speak())? {
                if let Reply::Exited { code, .. } = reply {
                    return Ok(code);
                }
            }
        } else if let Some(handle) = container.state.process.open() {
            poll(&mut [PollFd::new(handle.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).ok();
        }
        // Ended between the two looks, or its monitor was killed.
        self.load(container.id()).map(|container| container.state.exit_code)
    }

    /// Runs one verb of the runtime on a container.
    pub(super) fn runtime_verb(&self, container: &Container, verb: &str) -> Result<(), EngineError> {
        self.runtime_verb_with(container, verb, Stdio::null())
    }

    fn runtime_verb_with(&self, container: &Container, verb: &str, stdin: Stdio) -> Result<(), EngineError> {
        let output = Command::new(self.runtime()?)
            .arg("--root")
            .arg(self.roots.runtime())
            .args([verb, container.id()])
            .stdin(stdin)
            .output()
            .map_err(EngineError::io("execute the runtime"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(EngineError::Runtime {
            step: format!("{verb} container {}", container.name()),
            message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }
}

/// What a command owes a monitor that leaves the cleanup to it: the word that it is done, and until then the open connection.
#[derive(Debug)]
#[must_use]
pub(super) struct Promise(pub(super) Client);

impl Drop for Promise {
    fn drop(&mut self) {
        if self.0.send(&Request::Cleaned).is_ok() {
            // It answers by going; no process of ours is left behind when this command ends.
            while let Ok(Word::Said(_)) = self.0.reply_within(GOES) {}
        }
    }
}

/// Waits for the word of the end, for a while: nothing depends on it.
fn await_end(client: &mut Client) {
    let deadline = Instant::now() + ANSWER;
    while Instant::now() < deadline {
        match client.reply_within(ANSWER_LOOK) {
            Ok(Word::Silent) => {}
            Ok(Word::Said(Reply::Exited { .. }) | Word::Gone) | Err(_) => return,
            Ok(Word::Said(_)) => {}
        }
    }
}

/// A monitor that does not let its container be frozen has thawed it.
fn refused(container: &Container, word: &Word) -> Result<(), EngineError> {
    match word {
        Word::Said(Reply::Refused { message }) => Err(container.state_error(message.clone())),
        _ => Ok(()),
    }
}

/// How long a stop waits before it kills: what was said now, what was said at `run`, docker's default.
fn timeout_ms(container: &Container, timeout_s: Option<i64>) -> Result<Option<u64>, EngineError> {
    match timeout_s {
        Some(-1) => Ok(None),
        Some(seconds) => u64::try_from(seconds)
            .map(|seconds| Some(seconds.saturating_mul(1000)))
            .map_err(|_| EngineError::Invalid(format!("-t {seconds}: seconds, or -1 to wait for ever"))),
        None => match container.record.wish.stop_timeout.unwrap_or(STOP_TIMEOUT_S) {
            crate::wish::FOR_EVER => Ok(None),
            seconds => Ok(Some(seconds.saturating_mul(1000))),
        },
    }
}

/// Connects to a monitor; one that has just been started may not listen yet. `None` when there is none.
fn reach(container: &Container) -> Option<Client> {
    let deadline = Instant::now() + REACH;
    loop {
        if let Ok(client) = Client::connect(&container.run) {
            return Some(client);
        }
        if lock::held(&container.run) != Some(true) || Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(REACH_LOOK);
    }
}

/// Whether an error means that the other side, or the process, has ended.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotFound)
        || error.raw_os_error() == Some(libc::ESRCH)
}

fn unless_gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if is_gone(&error) => Ok(()),
        other => other,
    }
}

/// Reads a signal: `TERM`, `SIGTERM`, `15`, `RTMIN+3`.
pub fn signal(text: &str) -> Result<i32, EngineError> {
    let refuse = || EngineError::Invalid(format!("invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err(refuse()) };
    }
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    for (base, number) in [("RTMIN", 34), ("RTMAX", 64)] {
        if let Some(rest) = bare.strip_prefix(base) {
            let offset: i32 = if rest.is_empty() { 0 } else { rest.parse().map_err(|_| refuse())? };
            return Some(number + offset).filter(|number| (34..=64).contains(number)).ok_or_else(refuse);
        }
    }
    let alias = match bare {
        "CLD" => "CHLD",
        "POLL" => "IO",
        "IOT" => "ABRT",
        other => other,
    };
    format!("SIG{alias}").parse::<nix::sys::signal::Signal>().map(|signal| signal as i32).map_err(|_| refuse())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_in_every_spelling() {
        for (text, number) in [("9", 9), ("KILL", 9), ("sigterm", 15), ("RTMIN+3", 37), ("SIGRTMAX", 64), ("WINCH", 28)]
        {
            assert_eq!(signal(text).unwrap(), number, "{text}");
        }
        for bad in ["0", "65", "SIGFOO", "", "RTMIN+99", "-1"] {
            assert!(signal(bad).is_err(), "{bad}");
        }
    }
}
