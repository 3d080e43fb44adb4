//! What `run` and `create` ask for, as plain data: the CLI fills it from flags, the node from a service.
//!
//! Text of single flags is read in the rooms below: sizes, ulimits, devices, mounts.

mod device;
mod limit;
mod mount;
mod size;

pub use device::{Device, DeviceRate};
pub use limit::Ulimit;
pub use mount::{MountKind, MountWish, parse_mount, parse_tmpfs, parse_volume};
pub use size::{bytes, cpus_to_nanos, human_bytes, human_decimal};

use crate::health;
use crate::log::LogConfig;
use crate::restart;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A number of seconds that never end, as -1 asks for.
pub const FOR_EVER: u64 = u64::MAX;

/// Why the text of one flag was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?}: {reason}")]
pub struct WishError {
    /// What was given.
    pub text: String,
    /// What is expected instead.
    pub reason: String,
}

impl WishError {
    pub(crate) fn new(text: &str, reason: impl Into<String>) -> Self {
        Self { text: text.to_owned(), reason: reason.into() }
    }
}

/// Everything one container is asked to be. Empty means the default of docker's `run`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Wish {
    /// The image, as the user wrote it.
    pub image: String,
    /// `--rootfs`: the image is a directory of the host.
    pub rootfs: bool,
    /// `--name`; empty for a generated one.
    pub name: String,
    /// Arguments after the image.
    pub command: Vec<String>,
    /// `--entrypoint`; `Some([])` clears the image's.
    pub entrypoint: Option<Vec<String>>,
    /// `-e`, `--env-file`: `NAME=VALUE`, the last one wins.
    pub env: Vec<String>,
    /// `-l`, `--label-file`.
    pub labels: BTreeMap<String, String>,
    /// `--annotation`.
    pub annotations: BTreeMap<String, String>,
    /// `-w`.
    pub workdir: String,
    /// `-u`: name or id, with `:group`.
    pub user: String,
    /// `--group-add`.
    pub group_add: Vec<String>,
    /// `-t`.
    pub tty: bool,
    /// `-i`.
    pub interactive: bool,
    /// `-d`: nobody is attached at the start.
    pub detach: bool,
    /// `--rm`.
    pub remove: bool,
    /// `--init`.
    pub init: bool,
    /// `--restart`.
    pub restart: restart::Policy,
    /// `--health-*`; `None` takes the image's, `["NONE"]` switches it off.
    pub health: Option<health::Check>,
    /// `--log-driver`, `--log-opt`.
    pub log: LogConfig,
    /// `--stop-signal`; empty for the image's or SIGTERM.
    pub stop_signal: String,
    /// `--stop-timeout` in s, [`FOR_EVER`] for -1; 10 when not given.
    pub stop_timeout: Option<u64>,
    /// `--timeout` in s: the container is killed after it; 0 means never.
    pub timeout: u64,

    /// `--network`, each as written: `bridge`, `host`, `none`, `container:NAME`, a network's name with options.
    pub networks: Vec<String>,
    /// What `network connect` asked for, by network; the flags below are for the networks that are not in here.
    pub endpoints: BTreeMap<String, Endpoint>,
    /// `--network-alias`.
    pub network_aliases: Vec<String>,
    /// `-p`, each as written.
    pub publish: Vec<String>,
    /// `-P`.
    pub publish_all: bool,
    /// `--expose`.
    pub expose: Vec<String>,
    /// `--ip`.
    pub ip: Option<String>,
    /// `--ip6`.
    pub ip6: Option<String>,
    /// `--mac-address`.
    pub mac: Option<String>,
    /// `-h`.
    pub hostname: String,
    /// `--domainname`.
    pub domainname: String,
    /// `--add-host`, as `NAME:ADDRESS`.
    pub add_host: Vec<String>,
    /// `--dns`.
    pub dns: Vec<String>,
    /// `--dns-search`.
    pub dns_search: Vec<String>,
    /// `--dns-option`.
    pub dns_options: Vec<String>,
    /// `--link`, as `NAME:ALIAS`.
    pub links: Vec<String>,

    /// `-v`, `--mount`, `--tmpfs`.
    pub mounts: Vec<MountWish>,
    /// `--volumes-from`.
    pub volumes_from: Vec<String>,
    /// `--read-only`.
    pub read_only: bool,
    /// `--shm-size` in bytes; 64 MiB when 0.
    pub shm_size: u64,
    /// `--secret`, as `SOURCE:TARGET`.
    pub secrets: Vec<String>,

    /// `--privileged`.
    pub privileged: bool,
    /// `--cap-add`.
    pub cap_add: Vec<String>,
    /// `--cap-drop`.
    pub cap_drop: Vec<String>,
    /// `--security-opt`, each as written; a seccomp profile is read into `seccomp_profile`.
    pub security_opt: Vec<String>,
    /// The text of `seccomp=FILE`, as it was when the container was created.
    pub seccomp_profile: Option<String>,
    /// `--device`.
    pub devices: Vec<Device>,
    /// `--device-cgroup-rule`.
    pub device_cgroup_rules: Vec<String>,
    /// `--ulimit`.
    pub ulimits: Vec<Ulimit>,
    /// `--sysctl`.
    pub sysctls: BTreeMap<String, String>,
    /// `--pid`: empty, `host` or `container:NAME`.
    pub pid: String,
    /// `--ipc`: empty, `private`, `none`, `host`, `shareable` or `container:NAME`.
    pub ipc: String,
    /// `--uts`: empty or `host`.
    pub uts: String,
    /// `--userns`: empty, `host`, `auto` or `keep-id`.
    pub userns: String,
    /// `--cgroupns`: empty, `private` or `host`.
    pub cgroupns: String,

    /// `--cgroup-parent`.
    pub cgroup_parent: String,
    /// What the cgroup allows.
    pub resources: Resources,
    /// `--oom-score-adj`.
    pub oom_score_adj: Option<i32>,
    /// The platform asked for, empty for the host's.
    pub platform: String,
}

/// What `network connect` asks for beside the two names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    /// `--ip`.
    pub ip: Option<Ipv4Addr>,
    /// `--ip6`.
    pub ip6: Option<Ipv6Addr>,
    /// `--alias`.
    pub aliases: Vec<String>,
    /// `--mac-address`.
    pub mac: Option<String>,
}

/// Resource flags; `None` means unlimited or the kernel's default.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// `-m` in bytes.
    pub memory: Option<i64>,
    /// `--memory-swap` in bytes, memory included; -1 for no limit.
    pub memory_swap: Option<i64>,
    /// `--memory-reservation` in bytes.
    pub memory_reservation: Option<i64>,
    /// `--memory-swappiness`.
    pub memory_swappiness: Option<u64>,
    /// `--oom-kill-disable`.
    pub oom_kill_disable: bool,
    /// `--cpus` in billionths of a CPU.
    pub nano_cpus: Option<i64>,
    /// `--cpu-shares`.
    pub cpu_shares: Option<u64>,
    /// `--cpu-period` in µs.
    pub cpu_period: Option<u64>,
    /// `--cpu-quota` in µs.
    pub cpu_quota: Option<i64>,
    /// `--cpuset-cpus`.
    pub cpuset_cpus: String,
    /// `--cpuset-mems`.
    pub cpuset_mems: String,
    /// `--pids-limit`; -1 for no limit.
    pub pids: Option<i64>,
    /// `--blkio-weight`.
    pub blkio_weight: Option<u16>,
    /// `--device-read-bps`.
    pub read_bps: Vec<DeviceRate>,
    /// `--device-write-bps`.
    pub write_bps: Vec<DeviceRate>,
    /// `--device-read-iops`.
    pub read_iops: Vec<DeviceRate>,
    /// `--device-write-iops`.
    pub write_iops: Vec<DeviceRate>,
}
