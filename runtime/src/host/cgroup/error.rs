//! What can go wrong with a cgroup. Every message names the object, the cause and, where there is one, the next step.

use std::io;
use std::path::{Path, PathBuf};

use super::systemd::BusError;

/// Why an operation on a cgroup failed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A file could not be read.
    #[error("read {path}: {}", crate::error::words(.cause))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        cause: io::Error,
    },
    /// A file did not accept a value.
    #[error("write {value:?} to {path}: {}", crate::error::words(.cause))]
    Write {
        /// The file.
        path: PathBuf,
        /// What was written.
        value: String,
        /// What the kernel answered.
        cause: io::Error,
    },
    /// A file holds something that is not what the kernel documents.
    #[error("parse {path}: {text:?} is not {expected}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What it holds, cut to a readable length.
        text: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// A directory could not be made.
    #[error("create cgroup {path}: {}", crate::error::words(.cause))]
    Create {
        /// The directory.
        path: PathBuf,
        /// What the kernel answered.
        cause: io::Error,
    },
    /// A directory could not be removed in time.
    #[error("remove cgroup {path}: {}{detail}", crate::error::words(.cause))]
    Remove {
        /// The directory.
        path: PathBuf,
        /// What the kernel answered last.
        cause: io::Error,
        /// Who is still inside, if anybody.
        detail: String,
    },
    /// `cgroupsPath` or the path of a sub-cgroup cannot be used.
    #[error("cgroup path {path:?}: {reason}")]
    Path {
        /// The path as written.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The cgroup exists and processes live in it.
    #[error("container's cgroup is not empty: {count} process(es) found in {path}")]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// How many processes.
        count: usize,
    },
    /// The cgroup was not there when the container was planned, and somebody else has made it since.
    #[error("cgroup {path} was made by another command at the same moment; choose another cgroupsPath or try again")]
    Taken {
        /// The directory.
        path: PathBuf,
    },
    /// The cgroup exists and is frozen.
    #[error("container's cgroup {path} is unexpectedly frozen")]
    Frozen {
        /// The directory.
        path: PathBuf,
    },
    /// A limit was asked for that nothing on this host can enforce.
    #[error("cannot set {what}: {reason}")]
    Unavailable {
        /// The limit.
        what: String,
        /// Why not, and what would help.
        reason: String,
    },
    /// A value that makes no sense.
    #[error("invalid {what} {value:?}: {reason}")]
    Invalid {
        /// The field.
        what: &'static str,
        /// Its value.
        value: String,
        /// What is wrong.
        reason: String,
    },
    /// A limit below what is in use, and the user asked to have that refused.
    #[error("rejecting {what} {limit} <= usage {usage}")]
    BelowUsage {
        /// Which limit.
        what: &'static str,
        /// The limit in bytes.
        limit: i64,
        /// The usage in bytes.
        usage: u64,
    },
    /// Something did not happen in time.
    #[error("{what} did not finish within {ms} ms")]
    Timeout {
        /// What.
        what: String,
        /// How long it was waited for.
        ms: u64,
    },
    /// No cgroup file system was found.
    #[error("no cgroup hierarchy is mounted: mount cgroup2 on /sys/fs/cgroup, or use --cgroup-manager disabled")]
    NoHierarchy,
    /// The eBPF device filter was refused.
    #[error("{step} the device filter for {path}: {}", crate::error::words(.cause))]
    DeviceFilter {
        /// `load`, `attach` or `detach`.
        step: &'static str,
        /// The cgroup.
        path: PathBuf,
        /// What the kernel answered.
        cause: io::Error,
    },
    /// systemd did not do as asked.
    #[error("systemd: {0}")]
    Systemd(#[from] BusError),
    /// The saved state was written by a version that this one cannot read.
    #[error("cgroup state version {found} is not supported (this version reads up to {supported})")]
    StateVersion {
        /// What the file says.
        found: u32,
        /// What is known here.
        supported: u32,
    },
}

impl CgroupError {
    /// The kernel's error number behind this error, if there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Read { cause, .. }
            | Self::Write { cause, .. }
            | Self::Create { cause, .. }
            | Self::Remove { cause, .. }
            | Self::DeviceFilter { cause, .. } => cause.raw_os_error(),
            _ => None,
        }
    }

    /// Whether the file or directory is not there (or is being removed).
    pub fn is_missing(&self) -> bool {
        matches!(self.errno(), Some(libc::ENOENT | libc::ENODEV))
    }

    /// Whether an unprivileged user simply may not do this.
    pub(super) fn is_permission(&self) -> bool {
        matches!(self.errno(), Some(libc::EACCES | libc::EPERM | libc::EROFS))
    }

    pub(super) fn parse(path: &Path, text: &str, expected: &'static str) -> Self {
        Self::Parse { path: path.to_owned(), text: text.chars().take(80).collect(), expected }
    }
}
