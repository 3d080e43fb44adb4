//! What is written down of a container: the record (what was asked for) and the state (what became of it).
//!
//! Both are versioned JSON in `data/containers/ID/`. The record changes by `rename`, `update` and `network connect`
//! alone. The state belongs to the monitor while it lives, else to whoever holds the container's lock.

use crate::health::Health;
use crate::host::process::ProcessId;
use crate::time::Nanos;
use crate::wish::Wish;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version of `record.json`.
pub const RECORD_VERSION: u32 = 1;
/// The version of `state.json`.
pub const STATE_VERSION: u32 = 1;

/// `record.json`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its unique name.
    pub name: String,
    /// When it was created.
    pub created: Nanos,
    /// The image as the user wrote it.
    pub image: String,
    /// The digest of the image's configuration.
    pub image_id: String,
    /// Everything the user asked for.
    pub wish: Wish,
    /// The image's part of the configuration, as it was when the container was created.
    pub defaults: ImageDefaults,
    /// Fields of a newer version, kept as they are.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// What an image says about the containers made from it. image-spec config.md "config"
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageDefaults {
    /// `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    pub cmd: Vec<String>,
    /// `Env`, as `NAME=VALUE`.
    pub env: Vec<String>,
    /// `WorkingDir`.
    pub workdir: String,
    /// `User`.
    pub user: String,
    /// `ExposedPorts`, as `80/tcp`.
    pub exposed: Vec<String>,
    /// `Volumes`: paths that get an anonymous volume.
    pub volumes: Vec<String>,
    /// `Labels`.
    pub labels: BTreeMap<String, String>,
    /// `StopSignal`.
    pub stop_signal: String,
    /// `Healthcheck`.
    pub health: Option<crate::health::Check>,
}

/// Where a container is in its life, in docker's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Made, never started.
    #[default]
    Created,
    /// Its process runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// Ended, waiting for its next start.
    Restarting,
    /// Being removed.
    Removing,
    /// Ended.
    Exited,
    /// Its monitor or its host went away in the middle; only `rm` and `start` make sense.
    Dead,
}

impl Status {
    /// docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }

    /// Whether a monitor should be there.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Restarting)
    }
}

/// `state.json`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// [`STATE_VERSION`].
    pub version: u32,
    /// Where it is in its life.
    pub status: Status,
    /// The container's first process.
    pub process: ProcessId,
    /// The monitor that holds it.
    pub monitor: ProcessId,
    /// The boot in which the two numbers above mean something.
    pub boot_id: String,
    /// The last start.
    pub started: Nanos,
    /// The last end.
    pub finished: Nanos,
    /// The last exit code, 128 + signal when killed by one.
    pub exit_code: i32,
    /// Whether the kernel killed something of it for want of memory since its last start.
    pub oom_killed: bool,
    /// Why it did not start, or what went wrong at its end.
    pub error: String,
    /// How often the restart policy has started it.
    pub restart_count: u32,
    /// Stopped by `stop` or `kill`: `unless-stopped` leaves it down at boot.
    pub stopped_by_hand: bool,
    /// Its health, when it is probed.
    pub health: Option<Health>,
    /// Fields of a newer version, kept as they are.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

impl State {
    /// A container that has just been made.
    pub fn created() -> Self {
        Self { version: STATE_VERSION, ..Self::default() }
    }

    /// What is true now: a state that speaks of processes of another boot, or of processes that are gone, says so.
    /// `monitored` is whether its monitor lives.
    #[must_use]
    pub fn truthful(mut self, boot_id: &str, monitored: bool) -> Self {
        if !self.status.is_active() {
            return self;
        }
        let same_boot = self.boot_id == boot_id;
        if same_boot && monitored {
            return self;
        }
        if same_boot && self.process.alive() {
            "its monitor was killed: `shoal rm -f` or `shoal restart` it".clone_into(&mut self.error);
            return self;
        }
        self.status = Status::Exited;
        if self.exit_code == 0 {
            self.exit_code = 255;
        }
        (if same_boot { "its monitor was killed and its exit code lost" } else { "the host was restarted" })
            .clone_into(&mut self.error);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_of_another_boot_is_not_running() {
        let own = ProcessId::own();
        let state =
            State { status: Status::Running, process: own, monitor: own, boot_id: "a".into(), ..State::created() };
        assert_eq!(state.clone().truthful("a", true).status, Status::Running);
        let later = state.truthful("b", true);
        assert_eq!((later.status, later.exit_code), (Status::Exited, 255));
    }

    #[test]
    fn fields_of_a_newer_version_survive_a_rewrite() {
        let text = r#"{"version":1,"status":"exited","tomorrow":{"a":1}}"#;
        let state: State = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_value(&state).unwrap()["tomorrow"]["a"], 1);
    }

    #[test]
    fn old_records_without_later_fields_are_read() {
        let record: Record = serde_json::from_str(r#"{"version":1,"id":"a","name":"b"}"#).unwrap();
        assert_eq!(record.name, "b");
    }
}
