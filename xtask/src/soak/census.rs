//! What a leak of containers would show in, counted on the host before and after.
//!
//! In: the folder of a soak and the word that all its container ids start with. Out: a [`Census`] to compare. It counts what
//! belongs to the soak, so that other work on the machine cannot hide or feign a leak; mounts are those of the soak's own
//! namespace, and processes are its descendants, orphans included, since the soak adopts them.

use crate::shell::{self, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Folders outside the soak's own where a runtime could leave something named after a container.
const OUTSIDE: [&str; 6] = ["/run", "/tmp", "/var/tmp", "/dev/shm", "/var/run/netns", "/etc"];

/// One count of everything.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Census {
    /// Open descriptors of the soak itself: what a runtime leaked into its parent.
    descriptors: usize,
    /// Mounts of the soak's mount namespace that were not there when it began (those of others may vanish meanwhile).
    mounts: usize,
    /// Cgroups named after a container of the soak, in every hierarchy.
    cgroups: usize,
    /// Running or dead processes below the soak.
    processes: usize,
    /// Files and folders below the soak's folder: bundle, root file system, state.
    files: usize,
    /// Files named after a container of the soak elsewhere.
    files_outside: usize,
    /// System V objects and POSIX queues of the host.
    ipc: usize,
}

impl Census {
    /// Counts now.
    pub(crate) fn take(folder: &Path, word: &str, known: &Mounts) -> Result<Self> {
        let folder = folder.to_string_lossy().into_owned();
        Ok(Self {
            descriptors: fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
            mounts: Mounts::now()?.0.difference(&known.0).count(),
            cgroups: found(&["/sys/fs/cgroup", "-type", "d", "-name", &format!("*{word}*")]),
            processes: descendants(std::process::id()).len(),
            files: found(&[&folder]),
            files_outside: OUTSIDE
                .iter()
                .map(|place| found(&[place, "-maxdepth", "3", "-name", &format!("*{word}*")]))
                .sum(),
            ipc: ["shm", "sem", "msg"]
                .iter()
                .filter_map(|kind| fs::read_to_string(format!("/proc/sysvipc/{kind}")).ok())
                .map(|text| text.lines().count())
                .sum(),
        })
    }
}

/// How many paths `find` prints; what vanishes meanwhile is not counted, so its exit code is of no interest.
fn found(args: &[&str]) -> usize {
    let output = std::process::Command::new("find").args(args).output();
    output.map_or(0, |output| output.stdout.iter().filter(|byte| **byte == b'\n').count())
}

/// The mounts of this namespace, by the kernel's number.
#[derive(Debug)]
pub(crate) struct Mounts(BTreeSet<String>);

impl Mounts {
    /// Reads them.
    pub(crate) fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/self/mountinfo").map_err(|error| format!("read mountinfo: {error}"))?;
        Ok(Self(text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()))
    }
}

/// Every process below `pid`.
fn descendants(pid: u32) -> BTreeSet<u32> {
    let mut all = BTreeSet::new();
    let mut next = vec![pid];
    while let Some(pid) = next.pop() {
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            next.extend(
                text.split_whitespace().filter_map(|word| word.parse::<u32>().ok()).filter(|pid| all.insert(*pid)),
            );
        }
    }
    all
}

/// Goes on in a mount namespace of its own, so that mounts of other work do not count. Returns whether this is the child.
pub(crate) fn in_own_mounts() -> Result<bool> {
    const MARK: &str = "SHOAL_SOAK_OWN_MOUNTS";
    if std::env::var_os(MARK).is_some() {
        // Orphans of the runtime come to this process and are counted.
        nix::sys::prctl::set_child_subreaper(true).map_err(|error| format!("become a subreaper: {error}"))?;
        return Ok(true);
    }
    let me = std::env::current_exe().map_err(|error| format!("find xtask itself: {error}"))?;
    let mut command = std::process::Command::new("unshare");
    // Shared below, so that a mount which a runtime lets escape from its own namespace arrives here.
    command.args(["--mount", "--propagation", "private", "--"]);
    command.args(["sh", "-c", "mount --make-rshared / && exec \"$@\"", "sh"]);
    command.arg(me).args(std::env::args_os().skip(1)).env(MARK, "1");
    shell::status(command).map(|()| false)
}
