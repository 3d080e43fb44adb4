//! The process of a container. runtime-spec config.md "Process"; also what `exec --process` reads.

use super::document::document;

document! {
    /// A process to run in a container.
    pub struct Process {
        /// Whether it gets a terminal.
        pub terminal: bool,
        /// The terminal's size at the start.
        pub console_size: Option<ConsoleSize>,
        /// As whom it runs.
        pub user: User,
        /// The program and its arguments.
        pub args: Vec<String>,
        /// The environment, as `NAME=value`.
        pub env: Vec<String>,
        /// The working directory, absolute, inside the container.
        pub cwd: String,
        /// The five capability sets.
        pub capabilities: Option<LinuxCapabilities>,
        /// Resource limits.
        pub rlimits: Vec<PosixRlimit>,
        /// Whether the process may never gain privileges.
        pub no_new_privileges: bool,
        /// The AppArmor profile.
        pub apparmor_profile: Option<String>,
        /// The OOM killer's adjustment, -1000 to 1000.
        pub oom_score_adj: Option<i32>,
        /// CPU scheduling.
        pub scheduler: Option<Scheduler>,
        /// The SELinux label.
        pub selinux_label: Option<String>,
        /// I/O scheduling.
        pub io_priority: Option<IoPriority>,
        /// CPUs of a process that joins the container.
        #[serde(rename = "execCPUAffinity")]
        pub exec_cpu_affinity: Option<ExecCpuAffinity>,
    }
}

document! {
    /// The size of a terminal, in characters.
    pub struct ConsoleSize {
        /// Rows.
        pub height: u16,
        /// Columns.
        pub width: u16,
    }
}

document! {
    /// User and groups of a process.
    pub struct User {
        /// User id inside the container.
        pub uid: u32,
        /// Group id inside the container.
        pub gid: u32,
        /// The file mode creation mask.
        pub umask: Option<u32>,
        /// Supplementary groups.
        pub additional_gids: Vec<u32>,
        /// The user's name; other platforms only, kept as it was read.
        pub username: Option<String>,
    }
}

document! {
    /// Capability names (`CAP_CHOWN`), by set.
    pub struct LinuxCapabilities {
        /// What may ever be had.
        pub bounding: Vec<String>,
        /// What is checked.
        pub effective: Vec<String>,
        /// What survives an execve together with a file's own.
        pub inheritable: Vec<String>,
        /// What may be made effective.
        pub permitted: Vec<String>,
        /// What survives the execve of an ordinary program.
        pub ambient: Vec<String>,
    }
}

document! {
    /// One resource limit. setrlimit(2)
    pub struct PosixRlimit {
        /// Its name, as `RLIMIT_NOFILE`.
        #[serde(rename = "type")]
        pub kind: String,
        /// The ceiling.
        pub hard: u64,
        /// The limit in force.
        pub soft: u64,
    }
}

document! {
    /// CPU scheduling. sched_setattr(2)
    pub struct Scheduler {
        /// `SCHED_OTHER`, `SCHED_FIFO`, `SCHED_RR`, `SCHED_BATCH`, `SCHED_ISO`, `SCHED_IDLE`, `SCHED_DEADLINE`.
        pub policy: String,
        /// The nice value of `SCHED_OTHER` and `SCHED_BATCH`.
        pub nice: Option<i32>,
        /// The static priority of `SCHED_FIFO` and `SCHED_RR`.
        pub priority: Option<i32>,
        /// Names as `SCHED_FLAG_RESET_ON_FORK`.
        pub flags: Vec<String>,
        /// Nanoseconds, `SCHED_DEADLINE` only.
        pub runtime: Option<u64>,
        /// Nanoseconds, `SCHED_DEADLINE` only.
        pub deadline: Option<u64>,
        /// Nanoseconds, `SCHED_DEADLINE` only.
        pub period: Option<u64>,
    }
}

document! {
    /// I/O scheduling. ioprio_set(2)
    pub struct IoPriority {
        /// `IOPRIO_CLASS_RT`, `IOPRIO_CLASS_BE` or `IOPRIO_CLASS_IDLE`.
        pub class: String,
        /// The priority in the class, 0 to 7.
        pub priority: i32,
    }
}

document! {
    /// CPU lists (`0-3,7`) for processes that join the container.
    pub struct ExecCpuAffinity {
        /// While the runtime moves into the container's cgroup.
        pub initial: Option<String>,
        /// Once it is there.
        #[serde(rename = "final")]
        pub last: Option<String>,
    }
}

/// User 0 is a user: the field is always written.
impl super::document::Empty for User {
    fn is_empty(&self) -> bool {
        false
    }
}
