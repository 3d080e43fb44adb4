//! `monitor.json`: everything the monitor needs to know, decided by whoever started it.

use crate::health::Check;
use crate::log::LogConfig;
use crate::restart::Policy;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The version of `monitor.json`.
pub const PLAN_VERSION: u32 = 1;

/// One container as its monitor sees it. The monitor's working directory is the container's run folder, which holds
/// the bundle.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    /// [`PLAN_VERSION`].
    pub version: u32,
    /// The container's id.
    pub id: String,
    /// Its name, for logs and events.
    pub name: String,
    /// Its image, for logs and events.
    pub image: String,
    /// Its labels, for events.
    pub labels: std::collections::BTreeMap<String, String>,
    /// The runtime's program.
    pub runtime: PathBuf,
    /// The runtime's state folder.
    pub runtime_root: PathBuf,
    /// The container's data folder, where state and log live.
    pub data: PathBuf,
    /// The events file.
    pub events: PathBuf,
    /// Its cgroup, as in the specification's `cgroupsPath`.
    pub cgroup: String,
    /// A terminal instead of pipes.
    pub tty: bool,
    /// Its first rows and columns.
    pub size: Option<(u16, u16)>,
    /// Stdin is a pipe that clients can write to, not `/dev/null`.
    pub stdin: bool,
    /// Stdin ends when the first client that was attached to it goes away.
    pub stdin_once: bool,
    /// Where the log goes.
    pub log: LogConfig,
    /// What is written beside each line of it.
    pub log_attributes: std::collections::BTreeMap<String, String>,
    /// When to start again.
    pub restart: Policy,
    /// What to probe.
    pub health: Option<Check>,
    /// The signal number `stop` begins with.
    pub stop_signal: i32,
    /// Kill it after so many seconds; 0 means never.
    pub timeout: u64,
    /// Host ports to be held against other programs.
    pub ports: Vec<crate::network::PublishedPort>,
    /// Host ports that the monitor itself leads to the container.
    pub forwards: Vec<crate::network::publish::Forward>,
    /// The folder of the networks' resolvers, `run/networks`; empty where containers have none.
    pub networks: PathBuf,
    /// Restarts counted before this monitor was started.
    pub restart_count: u32,
    /// The command that gives back mounts, addresses and files after the end.
    pub cleanup: Vec<String>,
}
