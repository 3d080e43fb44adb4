//! The process as it will be: user, limits, capabilities, labels, program. Shared by the first process and by `exec`.
//! runtime-spec config.md "Process"

use std::collections::BTreeMap;

use oci::spec::{self, Linux};
use serde::Serialize;

use super::capabilities::{self, Capabilities};
use super::landlock::{self, Landlock};
use super::rlimits::{self, Limit};
use super::schedule::{self, MemoryPolicy};
use super::seccomp::{self, Filter};
use crate::error::{Error, Result};
use crate::host::sys::schedule::Attr;

/// A compiled process.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Process {
    /// Program and arguments; never empty.
    pub args: Vec<String>,
    /// The environment.
    pub env: Vec<String>,
    /// The working directory.
    pub cwd: String,
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The file mode creation mask.
    pub umask: u32,
    /// The five sets. A configuration without `capabilities` grants none, as with runc.
    pub capabilities: Capabilities,
    /// Resource limits.
    pub rlimits: Vec<Limit>,
    /// Whether the process may never gain privileges.
    pub no_new_privileges: bool,
    /// The AppArmor profile.
    pub apparmor_profile: Option<String>,
    /// The SELinux label.
    pub selinux_label: Option<String>,
    /// The OOM killer's adjustment.
    pub oom_score_adj: Option<i32>,
    /// CPU scheduling.
    pub scheduler: Option<Attr>,
    /// I/O class and priority.
    pub io_priority: Option<(u32, u32)>,
    /// Execution domain.
    pub personality: Option<u64>,
    /// NUMA policy.
    pub memory_policy: Option<MemoryPolicy>,
    /// CPUs while joining and once joined, `exec` only.
    pub affinity: (Option<Vec<u64>>, Option<Vec<u64>>),
    /// Whether it gets a terminal.
    pub terminal: bool,
    /// The terminal's size, as rows and columns.
    pub console_size: Option<(u16, u16)>,
    /// Whether it gets a session keyring of its own.
    pub new_keyring: bool,
    /// The system call filter.
    pub seccomp: Option<Seccomp>,
    /// The paths and ports it is confined to.
    pub landlock: Option<Landlock>,
}

/// The system call filter of a process, and who is asked about its notifications.
#[derive(Debug, Clone, PartialEq)]
pub struct Seccomp {
    /// The compiled profile.
    pub filter: Filter,
    /// The socket of the agent.
    pub listener_path: String,
    /// Opaque text for the agent.
    pub listener_metadata: Option<String>,
}

/// A plan shows the size of a filter, not its instructions.
impl Serialize for Seccomp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut shown = serializer.serialize_struct("Seccomp", 3)?;
        shown.serialize_field("instructions", &self.filter.program.len())?;
        shown.serialize_field("flags", &self.filter.flags)?;
        shown.serialize_field("notify", &self.filter.notify)?;
        shown.end()
    }
}

/// The default mask, as runc's.
const UMASK: u32 = 0o022;

/// Checks and compiles `process`; oddities go to `warnings`.
pub fn compile(process: &spec::Process, warnings: &mut Vec<String>) -> Result<Process> {
    if process.args.is_empty() {
        return Err(Error::refusal("process.args", "args must not be empty"));
    }
    if !process.cwd.starts_with('/') {
        let reason =
            if process.cwd.is_empty() { "Cwd property must not be empty" } else { "Cwd must be an absolute path" };
        return Err(Error::refusal("process.cwd", reason));
    }
    for (field, texts) in [("process.args", &process.args), ("process.env", &process.env)] {
        if let Some(index) = texts.iter().position(|text| text.contains('\0')) {
            return Err(Error::refusal(format!("{field}[{index}]"), "has a NUL character inside"));
        }
    }
    let user = &process.user;
    let groups = user.additional_gids.iter().map(|gid| ("additionalGids", *gid));
    for (field, id) in [("uid", user.uid), ("gid", user.gid)].into_iter().chain(groups) {
        real_id(&format!("process.user.{field}"), id)?;
    }
    let adjustment = process.oom_score_adj;
    if adjustment.is_some_and(|value| !(-1000..=1000).contains(&value)) {
        return Err(Error::refusal("process.oomScoreAdj", "must be between -1000 and 1000"));
    }
    let affinity = |field: &str, list: Option<&String>| match list {
        Some(list) if !list.is_empty() => schedule::list(field, list).map(Some),
        _ => Ok(None),
    };
    let cpus = process.exec_cpu_affinity.clone().unwrap_or_default();
    let label = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    Ok(Process {
        args: process.args.clone(),
        env: process.env.clone(),
        cwd: process.cwd.clone(),
        uid: process.user.uid,
        gid: process.user.gid,
        groups: process.user.additional_gids.clone(),
        umask: process.user.umask.unwrap_or(UMASK),
        capabilities: process
            .capabilities
            .as_ref()
            .map_or_else(Capabilities::default, |sets| capabilities::compile(sets, warnings)),
        rlimits: rlimits::compile(&process.rlimits)?,
        no_new_privileges: process.no_new_privileges,
        apparmor_profile: label(&process.apparmor_profile),
        selinux_label: label(&process.selinux_label),
        oom_score_adj: adjustment,
        scheduler: process.scheduler.as_ref().map(schedule::scheduler).transpose()?,
        io_priority: process.io_priority.as_ref().map(schedule::io_priority).transpose()?,
        personality: None,
        memory_policy: None,
        affinity: (
            affinity("process.execCPUAffinity.initial", cpus.initial.as_ref())?,
            affinity("process.execCPUAffinity.final", cpus.last.as_ref())?,
        ),
        terminal: process.terminal,
        console_size: process.console_size.as_ref().map(|size| (size.height, size.width)),
        new_keyring: false,
        seccomp: None,
        landlock: None,
    })
}

/// Refuses the one number that is no id: to the kernel it means "no change", and who is to become that user would stay
/// root.
pub(super) fn real_id(field: &str, id: u32) -> Result<()> {
    if id == u32::MAX {
        return Err(Error::refusal(field, format!("{id} is no id, the last one is {}", u32::MAX - 1)));
    }
    Ok(())
}

impl Process {
    /// System calls the filter names and nobody knows; profiles for newer kernels have them, which is no warning.
    pub fn unknown_calls(&self) -> &[String] {
        self.seccomp.as_ref().map_or(&[], |seccomp| &seccomp.filter.unknown)
    }

    /// Adds what `config.json` says about the process outside of `process`.
    pub fn with_linux(mut self, linux: &Linux, new_keyring: bool) -> Result<Self> {
        self.personality = linux.personality.as_ref().map(personality).transpose()?;
        self.memory_policy = linux.memory_policy.as_ref().map(schedule::memory_policy).transpose()?;
        self.new_keyring = new_keyring;
        self.seccomp = linux.seccomp.as_ref().map(filter).transpose()?;
        Ok(self)
    }
}

impl Process {
    /// Adds what annotations say, of the container for all of its processes.
    pub fn with_annotations(mut self, annotations: &BTreeMap<String, String>) -> Result<Self> {
        self.landlock = landlock::compile(annotations, self.no_new_privileges)?;
        Ok(self)
    }
}

fn filter(profile: &spec::LinuxSeccomp) -> Result<Seccomp> {
    let wrong = |error: seccomp::SeccompError| Error::refusal("seccomp", error.to_string());
    let host = seccomp::Arch::host().ok_or(seccomp::SeccompError::Host).map_err(wrong)?;
    let filter = seccomp::compile(profile, host).map_err(wrong)?;
    Ok(Seccomp {
        filter,
        listener_path: profile.listener_path.clone().unwrap_or_default(),
        listener_metadata: profile.listener_metadata.clone(),
    })
}

/// personality(2): `PER_LINUX` and `PER_LINUX32`.
fn personality(personality: &spec::LinuxPersonality) -> Result<u64> {
    if let Some(flag) = personality.flags.first() {
        return Err(Error::refusal("linux.personality.flags", format!("{flag:?}: no flag is defined")));
    }
    match personality.domain.as_str() {
        "LINUX" => Ok(0),
        "LINUX32" => Ok(8),
        other => Err(Error::refusal("linux.personality.domain", format!("{other:?} is neither LINUX nor LINUX32"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_that_means_no_change_is_no_user_and_no_group() {
        let with = |user: spec::User| {
            let process = spec::Process { args: vec!["x".into()], cwd: "/".into(), user, ..spec::Process::default() };
            compile(&process, &mut Vec::new())
        };
        let last = u32::MAX - 1;
        let user = spec::User { uid: last, gid: last, additional_gids: vec![last], ..spec::User::default() };
        assert_eq!(with(user).expect("the last id is one").uid, last);
        for user in [
            spec::User { uid: u32::MAX, ..spec::User::default() },
            spec::User { gid: u32::MAX, ..spec::User::default() },
            spec::User { additional_gids: vec![0, u32::MAX], ..spec::User::default() },
        ] {
            assert!(with(user).expect_err("no id").to_string().contains("is no id"));
        }
    }
}
