//! What will be done to make a container, decided before anything is touched.
//!
//! In: an accepted container and facts about the host. Out: a [`Plan`]: namespaces, the ordered [`Step`]s inside them,
//! and the process. Pure: the same input gives the same plan, which `--plan` prints.

pub mod capabilities;
pub mod device_rules;
pub mod devices;
pub mod exec;
pub mod landlock;
pub mod mount_options;
pub mod mounts;
pub mod namespaces;
pub mod process;
pub mod rlimits;
pub mod schedule;
pub mod seccomp;
pub mod sysctl;

use serde::Serialize;

use crate::container::Container;
use crate::error::{Error, Result};
use crate::facts::HostFacts;

/// One thing the new process does to itself or to its file system, in order, before its own root becomes `/`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Sets how mounts of the host and of the new mount namespace see each other.
    HostPropagation(mounts::Propagation),
    /// Makes the root file system a mount of its own.
    Rootfs {
        /// Its absolute path on the host.
        path: String,
    },
    /// Makes one mount.
    Mount(Box<mounts::Mount>),
    /// Waits until the parent has moved this process into its cgroup, then takes a new cgroup namespace if planned.
    Cgroup {
        /// Whether a namespace is made.
        namespace: bool,
    },
    /// Makes one device node.
    Device(devices::Node),
    /// Makes one symbolic link, unless something is there.
    Link {
        /// Where it points.
        target: String,
        /// Where it is.
        path: String,
        /// Whether what is there is replaced.
        replace: bool,
    },
    /// Makes the working directory, unless it is there.
    WorkingDirectory(String),
    /// Sets the host name.
    Hostname(String),
    /// Sets the NIS domain name.
    Domainname(String),
    /// Writes one kernel parameter.
    Sysctl {
        /// Dots or slashes, as configured.
        key: String,
        /// The value.
        value: String,
    },
    /// Lets the parent run prestart and createRuntime hooks, then runs createContainer hooks here.
    Hooks,
    /// Makes the terminal and its `/dev/console`.
    Console,
    /// Makes one path read-only.
    ReadonlyPath(String),
    /// Hides one path.
    MaskedPath(String),
    /// Makes the mount of the root read-only.
    ReadonlyRoot,
    /// Enters the root.
    Enter(Entry),
    /// Sets the propagation of the container's own root.
    RootPropagation(mounts::Propagation),
}

/// How the root of the new process becomes its file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// pivot_root(2): the host's tree is gone afterwards.
    Pivot,
    /// `--no-pivot`: the mount is moved over `/`; for roots on a ramdisk.
    Move,
    /// No mount namespace: chroot(2) alone.
    Chroot,
}

/// Everything that will happen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// Namespaces to make and to join.
    pub namespaces: namespaces::Namespaces,
    /// What the new process does, in order.
    pub steps: Vec<Step>,
    /// What it is when it executes its program.
    pub process: process::Process,
    /// What was odd but no error, for the log.
    pub warnings: Vec<String>,
}

/// Where a container finds the folder with its socket of systemd's readiness protocol.
pub const NOTIFY_FOLDER: &str = "/run/notify";

const NOTIFY_ATTR: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;

/// Options of the command line that change a plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Use [`Entry::Move`].
    pub no_pivot: bool,
    /// Leave the session keyring as it is.
    pub no_new_keyring: bool,
}

/// Decides what to do for `container` on a host of these `facts`.
pub fn plan(container: &Container, facts: &HostFacts, options: Options) -> Result<Plan> {
    let mut warnings = Vec::new();
    let spec = &container.spec;
    let linux = spec.linux.clone().unwrap_or_default();
    let namespaces = container.namespaces.clone();
    let process = match &spec.process {
        Some(process) => process::compile(process, &mut warnings)?,
        None => return Err(Error::refusal("process", "process property must not be empty")),
    };
    let process = process.with_linux(&linux, !options.no_new_keyring)?.with_annotations(&spec.annotations)?;
    let mut steps = Vec::new();
    tree(container, facts, options, &mut steps)?;
    Ok(Plan { namespaces, steps, process, warnings })
}

/// Refuses what would change a namespace of the host that the configuration names by its path.
fn check_own(container: &Container) -> Result<()> {
    let spec = &container.spec;
    let namespaces = &container.namespaces;
    if namespaces.hosts.contains(&namespaces::Kind::Mount) {
        return Err(Error::refusal("linux.namespaces", "the path of the mount namespace is the host's own"));
    }
    if namespaces.hosts.contains(&namespaces::Kind::Uts) {
        for (field, name) in [("hostname", &spec.hostname), ("domainname", &spec.domainname)] {
            if name.as_ref().is_some_and(|name| !name.is_empty()) {
                return Err(Error::refusal(field, format!("unable to set {field} in the host's UTS namespace")));
            }
        }
    }
    let devices = spec.linux.as_ref().is_some_and(|linux| !linux.net_devices.is_empty());
    if devices && namespaces.hosts.contains(&namespaces::Kind::Network) {
        let reason = "unable to move network devices into the host's network namespace";
        return Err(Error::refusal("linux.netDevices", reason));
    }
    Ok(())
}

/// The steps that make the file system, in the order they are applied.
fn tree(container: &Container, facts: &HostFacts, options: Options, steps: &mut Vec<Step>) -> Result<()> {
    let spec = &container.spec;
    let linux = spec.linux.clone().unwrap_or_default();
    let namespaces = &container.namespaces;
    let private = namespaces.has(namespaces::Kind::Mount);
    check_own(container)?;
    let root_propagation = match &linux.rootfs_propagation {
        Some(word) if !word.is_empty() => Some(mounts::Propagation::parse(word).ok_or_else(|| {
            Error::refusal("linux.rootfsPropagation", format!("{word:?} is none of shared, slave, private, unbindable"))
        })?),
        _ => None,
    };
    if private {
        let default = mounts::Propagation { flag: mounts::PropagationFlag::Slave, recursive: true };
        let host = root_propagation.unwrap_or(default);
        steps.push(Step::HostPropagation(mounts::Propagation { recursive: true, ..host }));
        steps.push(Step::Rootfs { path: container.rootfs.display().to_string() });
    }

    let cgroup_namespace = namespaces.creates(namespaces::Kind::Cgroup);
    let mut in_cgroup = false;
    for (index, mount) in spec.mounts.iter().enumerate() {
        if !private {
            return Err(Error::refusal(format!("mounts[{index}]"), "mounts need a mount namespace of the container"));
        }
        let mut mount = mounts::compile(index, mount, container)?;
        if facts.rootless && matches!(mount.source, mounts::Source::Cgroup { namespace: false, .. }) {
            // The container may be in a cgroup of the caller's, who can write to it (CVE-2023-25809).
            mount.attr.set |= libc::MOUNT_ATTR_RDONLY;
        }
        if mount.is_cgroup() && !in_cgroup {
            in_cgroup = true;
            steps.push(Step::Cgroup { namespace: cgroup_namespace });
        }
        steps.push(Step::Mount(Box::new(mount)));
    }
    if let Some(path) = facts.notify_socket.as_ref().filter(|_| private) {
        let source = mounts::Source::Bind { path: path.clone(), recursive: false };
        let mut mount = mounts::Mount::plain(spec.mounts.len(), NOTIFY_FOLDER, source);
        // It may speak there, and change nothing.
        mount.attr.set |= libc::MOUNT_ATTR_RDONLY | NOTIFY_ATTR;
        steps.push(Step::Mount(Box::new(mount)));
    }
    if private {
        devices::steps(container, facts, steps)?;
    }
    if let Some(process) = &spec.process {
        steps.push(Step::WorkingDirectory(process.cwd.clone()));
    }
    if let Some(name) = spec.hostname.as_ref().filter(|name| !name.is_empty()) {
        steps.push(Step::Hostname(name.clone()));
    }
    if let Some(name) = spec.domainname.as_ref().filter(|name| !name.is_empty()) {
        steps.push(Step::Domainname(name.clone()));
    }
    for (key, value) in &linux.sysctl {
        sysctl::check(key, namespaces)?;
        steps.push(Step::Sysctl { key: key.clone(), value: value.clone() });
    }
    // No hook and no filter may run before the process is in its cgroup: this is the last moment.
    if !in_cgroup {
        steps.push(Step::Cgroup { namespace: cgroup_namespace });
    }
    steps.push(Step::Hooks);
    if spec.process.as_ref().is_some_and(|process| process.terminal) {
        steps.push(Step::Console);
    }
    for path in &linux.readonly_paths {
        steps.push(Step::ReadonlyPath(path.clone()));
    }
    for path in &linux.masked_paths {
        steps.push(Step::MaskedPath(path.clone()));
    }
    if private && spec.root.as_ref().is_some_and(|root| root.readonly) {
        steps.push(Step::ReadonlyRoot);
    }
    steps.push(Step::Enter(match (private, options.no_pivot) {
        (false, _) => Entry::Chroot,
        (true, true) => Entry::Move,
        (true, false) => Entry::Pivot,
    }));
    if let Some(propagation) = root_propagation {
        steps.push(Step::RootPropagation(propagation));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
