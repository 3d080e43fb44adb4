//! The monitor's part in health: a probe is started inside the container, read, timed out, told.
//!
//! In: the plan's check, the runtime's `exec`. Out: health in the state, `health_status` events. What the results mean is
//! decided in [`crate::health`].

use super::Monitor;
use crate::file::Durable;
use crate::health;
use crate::host::process::ProcessId;
use crate::host::sys;
use crate::monitor::protocol::Reply;
use crate::record::Status;
use crate::time::now;
use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How often a probe's output is read in one round, 4 KiB each: a pipe's worth.
const PROBE_READS_MAX: usize = 16;

/// How long after a failed probe orphans are looked for: what it left ends at once, when the container ends.
const ORPHANS_FOR: Duration = Duration::from_secs(1);

/// A probe in flight.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) child: std::process::Child,
    pub(super) handle: OwnedFd,
    pub(super) output: OwnedFd,
    text: Vec<u8>,
    start: u64,
    deadline: Deadline,
}

/// When a probe has taken too long. A frozen container's clock stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deadline {
    At(Instant),
    /// So much was left when the container was frozen.
    Left(Duration),
    /// It has passed: the probe was killed, and its end is waited for.
    Passed,
}

impl Deadline {
    /// What it is at `now`.
    fn at(self, now: Instant, frozen: bool) -> Self {
        match self {
            Self::At(due) if frozen => Self::Left(due.saturating_duration_since(now)),
            Self::Left(left) if !frozen => Self::At(now + left),
            Self::At(due) if due <= now => Self::Passed,
            other => other,
        }
    }
}

impl Probe {
    /// When it must be looked at again; a probe that was killed, or is frozen, tells by its handle.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.deadline {
            Deadline::At(due) => Some(due),
            Deadline::Left(_) | Deadline::Passed => None,
        }
    }

    /// Kills it when its time is over.
    pub(super) fn look(&mut self, now: Instant, frozen: bool) {
        let before = self.deadline;
        self.deadline = before.at(now, frozen);
        if self.deadline == Deadline::Passed && before != Deadline::Passed {
            kill_probe(self);
        }
    }
}

impl Monitor {
    pub(super) fn probe_start(&mut self) {
        if self.child.is_none() || self.state.status == Status::Paused {
            self.probe_at = Some(Instant::now() + Duration::from_secs(1));
            return;
        }
        let Some(check) = &self.plan.health else { return };
        let Some(argv) = check.argv() else { return };
        let timeout = Duration::from_nanos(check.timeout_ns());
        let Ok((output, write)) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC | nix::fcntl::OFlag::O_NONBLOCK)
        else {
            return;
        };
        fs::remove_file("probe.pid").ok();
        let Ok(also) = write.try_clone() else { return };
        let mut command = Command::new(&self.plan.runtime);
        command.arg("--root").arg(&self.plan.runtime_root).args(["exec", "--pid-file", "probe.pid", &self.plan.id]);
        command.args(argv).stdin(Stdio::null()).stdout(Stdio::from(write)).stderr(Stdio::from(also));
        let started = command.spawn();
        drop(command);
        let start = now();
        match started.and_then(|child| {
            let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
            Ok((child, sys::pidfd_open(pid)?))
        }) {
            Ok((child, handle)) => {
                let deadline = Deadline::At(Instant::now() + timeout);
                self.probe = Some(Probe { child, handle, output, text: Vec::new(), start, deadline });
            }
            Err(error) => {
                let output = error.to_string();
                self.probed(health::Entry { start, end: now(), exit_code: 1, output });
            }
        }
    }

    pub(super) fn probe_progress(&mut self) {
        let Some(probe) = &mut self.probe else { return };
        let ended = probe.child.try_wait();
        let mut buffer = [0u8; 4096];
        // A probe that never stops writing gets its turn like everything else.
        for _ in 0..PROBE_READS_MAX {
            let Ok(count @ 1..) = nix::unistd::read(&probe.output, &mut buffer) else { break };
            let room = health::OUTPUT_BYTES_MAX.saturating_sub(probe.text.len());
            probe.text.extend_from_slice(&buffer[..count.min(room)]);
        }
        let Ok(Some(status)) = ended else {
            return;
        };
        let Some(probe) = self.probe.take() else { return };
        if !status.success() {
            self.orphans_until = Some(Instant::now() + ORPHANS_FOR);
        }
        let (exit_code, output) = if probe.deadline == Deadline::Passed {
            let seconds = self.plan.health.as_ref().map_or(0, health::Check::timeout_ns) / 1_000_000;
            (-1, format!("Health check exceeded timeout ({seconds}ms)"))
        } else {
            (status.code().unwrap_or(-1), String::from_utf8_lossy(&probe.text).into_owned())
        };
        self.probed(health::Entry { start: probe.start, end: now(), exit_code, output });
    }

    fn probed(&mut self, entry: health::Entry) {
        let Some(check) = self.plan.health.clone() else { return };
        let age = u64::try_from(self.started_at.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let changed = self.health.record(&check, entry.clone(), age);
        self.probe_at = Some(Instant::now() + Duration::from_nanos(self.health.pause(&check, age)));
        self.state.health = Some(self.health.clone());
        self.save(Durable::No);
        if changed {
            self.event(&format!("health_status: {}", self.health.status.as_str()), &[]);
        }
        if std::mem::take(&mut self.probe_asked) {
            for connection in &mut self.connections {
                connection.reply(&Reply::Probed { entry: entry.clone() });
            }
        }
    }
}

/// Kills the process a probe started inside the container; the runtime that waits for it ends by itself.
fn kill_probe(probe: &mut Probe) {
    let mut text = String::new();
    let inside = fs::File::open("probe.pid").and_then(|mut file| file.read_to_string(&mut text)).ok();
    match inside.and_then(|_| text.trim().parse().ok()).and_then(ProcessId::of) {
        Some(process) => drop(process.signal(libc::SIGKILL)),
        None => drop(probe.child.kill()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_probe_stands_still_while_the_container_is_frozen() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let frozen = Deadline::At(after(2)).at(after(1), true);
        assert_eq!(frozen, Deadline::Left(Duration::from_secs(1)));
        assert_eq!(frozen.at(after(100), true), frozen, "nothing is due, however long");
        let thawed = frozen.at(after(100), false);
        assert_eq!(thawed, Deadline::At(after(101)));
        assert_eq!(thawed.at(after(100), false), thawed);
        assert_eq!(thawed.at(after(101), false), Deadline::Passed);
        assert_eq!(Deadline::Passed.at(after(200), true), Deadline::Passed, "it is killed once");
    }
}
