//! `stop`, `kill`, `pause`, `unpause`, `wait`: what is asked of a running container goes to its monitor.

use super::{Container, Engine};
use crate::error::EngineError;
use crate::monitor::protocol::{Client, Reply, Request};
use crate::record::Status;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

/// How long `stop` waits before it kills, in s; docker's.
pub const STOP_TIMEOUT_S: u64 = 10;

impl Engine {
    /// Stops a container: its stop signal, then SIGKILL after `timeout_s` (-1 waits for ever). One that does not run is
    /// left as it is.
    pub fn stop(&self, name: &str, signal_text: Option<&str>, timeout_s: Option<i64>) -> Result<(), EngineError> {
        let signal = signal_text.map(signal).transpose()?;
        let locked = self.lock(name)?;
        let container = &locked.container;
        if !locked.is_active() {
            return Ok(());
        }
        let own = container.record.wish.stop_timeout.unwrap_or(STOP_TIMEOUT_S);
        let timeout_ms = match timeout_s {
            Some(-1) => None,
            Some(seconds) if seconds < 0 => {
                return Err(EngineError::Invalid(format!("-t {seconds}: seconds, or -1 to wait for ever")));
            }
            Some(seconds) => Some(seconds.unsigned_abs() * 1000),
            None => Some(own * 1000),
        };
        self.stop_locked(container, signal, timeout_ms)?;
        let container = self.load(container.id())?;
        self.give_back(&container)?;
        self.event(&container.record, "stop", &[]);
        if container.record.wish.remove {
            self.remove_locked(locked, false)?;
        }
        Ok(())
    }

    /// Stops a container whose lock is held and waits until it has ended for good.
    pub(super) fn stop_locked(
        &self,
        container: &Container,
        signal: Option<i32>,
        timeout_ms: Option<u64>,
    ) -> Result<(), EngineError> {
        let Ok(mut client) = Client::connect(&container.run) else { return self.kill_orphan(container) };
        let speak = || EngineError::io(format!("speak to the monitor of {}", container.name()));
        client.send(&Request::CleanupIsMine).map_err(speak())?;
        client.send(&Request::Stop { signal, timeout_ms }).map_err(speak())?;
        if container.state.status == Status::Paused {
            // A frozen process takes no signal but in its sleep.
            self.runtime_verb(container, "resume")?;
        }
        loop {
            match client.reply().map_err(speak())? {
                Some(Reply::Exited { last: true, .. }) | None => break,
                Some(_) => {}
            }
        }
        self.settle(container);
        Ok(())
    }

    /// Waits until the monitor itself is gone: only then do its state and its files stand still.
    pub(super) fn settle(&self, container: &Container) {
        if let Some(handle) = container.state.monitor.open() {
            poll(&mut [PollFd::new(handle.as_fd(), PollFlags::POLLIN)], PollTimeout::from(5000u16)).ok();
        }
    }

    /// A container without a monitor: its process is killed, its exit code lost.
    fn kill_orphan(&self, container: &Container) -> Result<(), EngineError> {
        if let Some(handle) = container.state.process.open() {
            crate::host::sys::pidfd_send_signal(handle.as_fd(), libc::SIGKILL).ok();
            poll(&mut [PollFd::new(handle.as_fd(), PollFlags::POLLIN)], PollTimeout::from(10_000u16)).ok();
        }
        let mut state = container.state.clone();
        state.status = Status::Exited;
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
        match Client::connect(&container.run) {
            Ok(mut client) => {
                let speak = || EngineError::io(format!("speak to the monitor of {}", container.name()));
                client.send(&Request::Signal { signal }).map_err(speak())?;
                client.reply().map_err(speak())?;
            }
            Err(_) => container
                .state
                .process
                .signal(signal)
                .map_err(EngineError::io(format!("signal container {}", container.name())))?,
        }
        if container.state.status == Status::Paused && signal == libc::SIGKILL {
            self.runtime_verb(&container, "resume")?;
        }
        self.event(&container.record, "kill", &[("signal", &signal.to_string())]);
        Ok(())
    }

    /// Stops and starts a container.
    pub fn restart(
        &self,
        name: &str,
        signal: Option<&str>,
        timeout_s: Option<i64>,
    ) -> Result<Vec<String>, EngineError> {
        let container = self.find(name)?;
        if container.record.wish.remove && container.state.status.is_active() {
            // `--rm` must not take it away between its two lives.
            let locked = self.lock(container.id())?;
            let timeout = timeout_s.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(STOP_TIMEOUT_S);
            let signal = signal.map(self::signal).transpose()?;
            self.stop_locked(&locked.container, signal, Some(timeout * 1000))?;
            let id = locked.unlock().record.id;
            let warnings = self.launch(self.lock(&id)?, None)?.warnings;
            self.event(&container.record, "restart", &[]);
            return Ok(warnings);
        }
        self.stop(container.id(), signal, timeout_s)?;
        let warnings = self.start(container.id())?;
        self.event(&container.record, "restart", &[]);
        Ok(warnings)
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
        client.reply().map_err(speak())?;
        Ok(())
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
        let output = Command::new(self.runtime()?)
            .arg("--root")
            .arg(self.roots.runtime())
            .args([verb, container.id()])
            .stdin(Stdio::null())
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
