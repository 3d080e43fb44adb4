//! An image's defaults and a user's wishes become a [`Spec`]: docker's rules and docker's defaults. Pure.
//!
//! In: facts that somebody has looked up already (numeric ids, device numbers, paths of mounts). Out: a document for the
//! runtime. Nothing here reads a file, a name service or a clock.

pub mod capability;
pub mod seccomp;

use crate::spec::{
    Linux, LinuxCapabilities, LinuxCpu, LinuxDevice, LinuxDeviceCgroup, LinuxIdMapping, LinuxNamespace, LinuxResources,
    LinuxSeccomp, Mount, OCI_VERSION, PosixRlimit, Process, Root, Spec, User,
};
use std::collections::BTreeMap;

/// The environment's `PATH` when neither the image nor the user sets one; docker's.
pub const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The size of `/dev/shm` in bytes when none is asked for; docker's 64 MiB.
pub const DEFAULT_SHM_BYTES: u64 = 64 << 20;

/// What is hidden from a container; docker's list.
pub const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// What a container sees but cannot write; docker's list.
pub const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Where a namespace comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Namespace {
    /// A new one.
    #[default]
    Private,
    /// The host's.
    Host,
    /// The one behind this path.
    Path(String),
}

/// Which system call filter.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Seccomp {
    /// [`seccomp::default_profile`].
    #[default]
    Default,
    /// None.
    Unconfined,
    /// The user's own.
    Profile(LinuxSeccomp),
}

/// Everything that makes one container, looked up and checked.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Wish {
    /// The root file system's path.
    pub rootfs: String,
    /// No writing to it.
    pub read_only: bool,
    /// Program and arguments.
    pub args: Vec<String>,
    /// The environment, `NAME=VALUE`, later ones win.
    pub env: Vec<String>,
    /// The working directory.
    pub cwd: String,
    /// Numeric ids.
    pub user: User,
    /// A terminal.
    pub tty: bool,
    /// The host name.
    pub hostname: String,
    /// The NIS domain name.
    pub domainname: String,
    /// All capabilities, no filter, all devices, nothing masked.
    pub privileged: bool,
    /// Capabilities added to docker's default, `ALL` for all.
    pub cap_add: Vec<String>,
    /// Capabilities taken away, `ALL` for all.
    pub cap_drop: Vec<String>,
    /// The system call filter.
    pub seccomp: Seccomp,
    /// No privileges by set-uid programs.
    pub no_new_privileges: bool,
    /// The AppArmor profile, where the host has AppArmor.
    pub apparmor: Option<String>,
    /// The SELinux label of the process, where the host has SELinux.
    pub selinux_label: Option<String>,
    /// The SELinux label of its mounts.
    pub mount_label: Option<String>,
    /// Paths that are not masked although they are by default; `ALL` for all.
    pub unmask: Vec<String>,
    /// Further masked paths.
    pub mask: Vec<String>,
    /// The network.
    pub network: Namespace,
    /// Process numbers.
    pub pid: Namespace,
    /// System V IPC and POSIX queues.
    pub ipc: Namespace,
    /// Host name.
    pub uts: Namespace,
    /// Control groups.
    pub cgroup: Namespace,
    /// User ids; empty for the host's.
    pub uid_mappings: Vec<LinuxIdMapping>,
    /// Group ids.
    pub gid_mappings: Vec<LinuxIdMapping>,
    /// Mounts after the default ones; one at the place of a default one replaces it.
    pub mounts: Vec<Mount>,
    /// Devices besides the ones every container has.
    pub devices: Vec<LinuxDevice>,
    /// What the device cgroup allows besides those.
    pub device_rules: Vec<LinuxDeviceCgroup>,
    /// What the cgroup allows.
    pub resources: LinuxResources,
    /// Billionths of a CPU, which become quota and period.
    pub nano_cpus: Option<i64>,
    /// Limits; their names without `RLIMIT_`.
    pub rlimits: Vec<PosixRlimit>,
    /// Kernel parameters.
    pub sysctl: BTreeMap<String, String>,
    /// `/dev/shm` in bytes; 0 for the default.
    pub shm_size: u64,
    /// The out-of-memory score.
    pub oom_score_adj: Option<i32>,
    /// The cgroup's path.
    pub cgroups_path: String,
    /// Free text.
    pub annotations: BTreeMap<String, String>,
    /// The host's kernel, for rules that need a least version.
    pub kernel: (u32, u32),
}

/// Why a wish cannot become a specification.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConversionError {
    /// Neither the image nor the user names a program.
    #[error("no command specified: the image has none, give one after the image's name")]
    NoCommand,
    /// A capability that Linux does not have.
    #[error("unknown capability {name:?}")]
    Capability {
        /// As given.
        name: String,
    },
    /// A flag that contradicts another.
    #[error("{0}")]
    Conflict(String),
}

/// Program and arguments: the user's entrypoint clears the image's command, the user's command replaces it.
pub fn argv(
    image_entrypoint: &[String],
    image_cmd: &[String],
    entrypoint: Option<&[String]>,
    command: &[String],
) -> Result<Vec<String>, ConversionError> {
    let (head, tail) = match entrypoint {
        Some(own) => (own, command),
        None if command.is_empty() => (image_entrypoint, image_cmd),
        None => (image_entrypoint, command),
    };
    let argv: Vec<String> = head.iter().chain(tail).cloned().collect();
    if argv.is_empty() { Err(ConversionError::NoCommand) } else { Ok(argv) }
}

/// The environment: a PATH, the host name, a terminal's type, the image's, the user's; later ones replace earlier ones
/// in place. A name of the user's without `=` takes the variable away.
pub fn environment(image: &[String], user: &[String], hostname: &str, tty: bool) -> Vec<String> {
    let mut env: Vec<String> = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if tty {
        env.push("TERM=xterm".to_owned());
    }
    for (at, entry) in image.iter().chain(user).enumerate() {
        let name = entry.split('=').next().unwrap_or_default();
        if at >= image.len() && !entry.contains('=') {
            env.retain(|known| known.split('=').next() != Some(name));
            continue;
        }
        let same = |known: &&mut String| known.split('=').next() == Some(name);
        match env.iter_mut().find(same) {
            Some(known) => known.clone_from(entry),
            None => env.push(entry.clone()),
        }
    }
    env
}

/// Builds the document.
pub fn spec(wish: &Wish) -> Result<Spec, ConversionError> {
    let capabilities = capability::effective(wish.privileged, &wish.cap_add, &wish.cap_drop)?;
    let root_like = wish.user.uid == 0;
    let empty_unless_root = if root_like { capabilities.clone() } else { Vec::new() };
    let process = Process {
        terminal: wish.tty,
        user: wish.user.clone(),
        args: wish.args.clone(),
        env: wish.env.clone(),
        cwd: if wish.cwd.is_empty() { "/".to_owned() } else { wish.cwd.clone() },
        capabilities: Some(LinuxCapabilities {
            bounding: capabilities.clone(),
            effective: empty_unless_root.clone(),
            permitted: empty_unless_root,
            inheritable: Vec::new(),
            ambient: Vec::new(),
        }),
        rlimits: wish.rlimits.clone(),
        no_new_privileges: wish.no_new_privileges,
        apparmor_profile: wish.apparmor.clone().filter(|_| !wish.privileged),
        selinux_label: wish.selinux_label.clone(),
        oom_score_adj: wish.oom_score_adj,
        ..Process::default()
    };
    if process.args.is_empty() {
        return Err(ConversionError::NoCommand);
    }
    Ok(Spec {
        oci_version: OCI_VERSION.to_owned(),
        process: Some(process),
        root: Some(Root { path: wish.rootfs.clone(), readonly: wish.read_only }),
        hostname: (wish.uts == Namespace::Private && !wish.hostname.is_empty()).then(|| wish.hostname.clone()),
        domainname: (wish.uts == Namespace::Private && !wish.domainname.is_empty()).then(|| wish.domainname.clone()),
        mounts: mounts(wish),
        annotations: wish.annotations.clone(),
        linux: Some(linux(wish, &capabilities)?),
        ..Spec::default()
    })
}

fn linux(wish: &Wish, capabilities: &[String]) -> Result<Linux, ConversionError> {
    let mut namespaces = vec![LinuxNamespace { kind: "mount".to_owned(), path: None }];
    for (kind, choice) in [
        ("network", &wish.network),
        ("pid", &wish.pid),
        ("ipc", &wish.ipc),
        ("uts", &wish.uts),
        ("cgroup", &wish.cgroup),
    ] {
        match choice {
            Namespace::Private => namespaces.push(LinuxNamespace { kind: kind.to_owned(), path: None }),
            Namespace::Path(path) => {
                namespaces.push(LinuxNamespace { kind: kind.to_owned(), path: Some(path.clone()) })
            }
            Namespace::Host => {}
        }
    }
    if !wish.uid_mappings.is_empty() {
        namespaces.push(LinuxNamespace { kind: "user".to_owned(), path: None });
    }
    let unmask_all = wish.privileged || wish.unmask.iter().any(|path| path.eq_ignore_ascii_case("all"));
    let unless_unmasked = |paths: &[&str]| -> Vec<String> {
        if unmask_all {
            return Vec::new();
        }
        paths
            .iter()
            .filter(|path| !wish.unmask.iter().any(|open| open == *path))
            .map(|path| (*path).to_owned())
            .collect()
    };
    let mut masked_paths = unless_unmasked(&MASKED_PATHS);
    masked_paths.extend(wish.mask.iter().cloned());
    Ok(Linux {
        uid_mappings: wish.uid_mappings.clone(),
        gid_mappings: wish.gid_mappings.clone(),
        sysctl: sysctl(wish)?,
        resources: Some(resources(wish)?),
        cgroups_path: (!wish.cgroups_path.is_empty()).then(|| wish.cgroups_path.clone()),
        namespaces,
        devices: wish.devices.clone(),
        seccomp: match &wish.seccomp {
            _ if wish.privileged => None,
            Seccomp::Unconfined => None,
            Seccomp::Profile(profile) => Some(profile.clone()),
            Seccomp::Default => Some(seccomp::default_profile(capabilities, wish.kernel)),
        },
        masked_paths,
        readonly_paths: unless_unmasked(&READONLY_PATHS),
        mount_label: wish.mount_label.clone(),
        ..Linux::default()
    })
}

/// Kernel parameters: only namespaced ones, and only of a namespace of its own.
fn sysctl(wish: &Wish) -> Result<BTreeMap<String, String>, ConversionError> {
    let mut all = BTreeMap::new();
    if !wish.privileged && wish.network == Namespace::Private || matches!(wish.network, Namespace::Path(_)) {
        // docker's two: a user may open low ports and ping without a capability.
        all.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
        if wish.uid_mappings.is_empty() {
            all.insert("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned());
        }
    }
    for (name, value) in &wish.sysctl {
        let refuse = |why: &str| ConversionError::Conflict(format!("sysctl {name}: {why}"));
        let ipc = ["kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax"];
        let is_ipc = ipc.contains(&name.as_str())
            || matches!(name.as_str(), "kernel.shmmni" | "kernel.shm_rmid_forced")
            || name.starts_with("fs.mqueue.");
        match () {
            () if is_ipc && wish.ipc == Namespace::Host => return Err(refuse("not allowed with --ipc host")),
            () if name.starts_with("net.") && wish.network == Namespace::Host => {
                return Err(refuse("not allowed with --network host"));
            }
            () if is_ipc || name.starts_with("net.") => {}
            () => return Err(refuse("this kernel parameter is not per container")),
        }
        all.insert(name.clone(), value.clone());
    }
    Ok(all)
}

fn resources(wish: &Wish) -> Result<LinuxResources, ConversionError> {
    let mut resources = wish.resources.clone();
    if let Some(nanos) = wish.nano_cpus {
        let cpu = resources.cpu.get_or_insert_with(LinuxCpu::default);
        if cpu.quota.is_some() || cpu.period.is_some() {
            return Err(ConversionError::Conflict("--cpus and --cpu-period/--cpu-quota exclude each other".to_owned()));
        }
        const PERIOD_US: i64 = 100_000;
        cpu.period = Some(PERIOD_US.unsigned_abs());
        cpu.quota = Some((nanos / (1_000_000_000 / PERIOD_US)).max(1000));
    }
    resources.devices = if wish.privileged {
        vec![LinuxDeviceCgroup { allow: true, access: Some("rwm".to_owned()), ..LinuxDeviceCgroup::default() }]
    } else {
        let deny = LinuxDeviceCgroup { allow: false, access: Some("rwm".to_owned()), ..LinuxDeviceCgroup::default() };
        let allow = |kind: &str, major: Option<i64>, minor: Option<i64>, access: &str| LinuxDeviceCgroup {
            allow: true,
            kind: Some(kind.to_owned()),
            major,
            minor,
            access: Some(access.to_owned()),
        };
        let mut rules = vec![
            deny,
            // Any node may be made; only those below may be used.
            allow("c", None, None, "m"),
            allow("b", None, None, "m"),
        ];
        for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
            rules.push(allow("c", Some(major), Some(minor), "rwm"));
        }
        rules.push(allow("c", Some(136), None, "rwm"));
        rules.extend(wish.device_rules.iter().cloned());
        rules
    };
    Ok(resources)
}

/// docker's default mounts, then the user's, shorter paths first so that none hides another.
fn mounts(wish: &Wish) -> Vec<Mount> {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| Mount {
        destination: destination.to_owned(),
        kind: Some(kind.to_owned()),
        source: Some(source.to_owned()),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        ..Mount::default()
    };
    let sys = if wish.privileged { "rw" } else { "ro" };
    let shm = if wish.shm_size == 0 { DEFAULT_SHM_BYTES } else { wish.shm_size };
    let mut all = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", sys]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &[sys, "nosuid", "noexec", "nodev"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ];
    match &wish.ipc {
        Namespace::Host => all.push(mount("/dev/shm", "bind", "/dev/shm", &["rbind"])),
        _ => all.push(mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", &format!("size={shm}")],
        )),
    }
    if wish.network == Namespace::Host && !wish.uid_mappings.is_empty() {
        // sysfs belongs to the network namespace: with the host's one and other ids it can only be bound.
        all.retain(|mount| mount.destination != "/sys");
        all.insert(1, mount("/sys", "bind", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"]));
    }
    if wish.pid == Namespace::Host && !wish.uid_mappings.is_empty() {
        all.retain(|mount| mount.destination != "/proc");
        all.insert(0, mount("/proc", "bind", "/proc", &["rbind", "nosuid", "noexec", "nodev"]));
    }
    let same = |one: &str, other: &str| one.trim_end_matches('/') == other.trim_end_matches('/');
    all.retain(|default| !wish.mounts.iter().any(|own| same(&own.destination, &default.destination)));
    let mut own = wish.mounts.clone();
    own.sort_by_key(|mount| mount.destination.trim_end_matches('/').matches('/').count());
    all.extend(own);
    all
}

#[cfg(test)]
mod tests;
