//! What can go wrong, sorted by who must act: the caller, the host, or nobody because it is a bug.
//!
//! In: causes from plans and system calls. Out: one error whose text says step, object and cause, and which can travel
//! from a stage of the new process to the command that waits for it.

use serde::{Deserialize, Serialize};

/// A failed operation of the runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Error {
    /// The configuration asks for something that cannot be; the caller must change it.
    #[error("{field}: {reason}")]
    Refusal {
        /// The field of `config.json`, or the flag.
        field: String,
        /// Why, and what would be accepted.
        reason: String,
    },
    /// The host cannot do what was asked.
    #[error("this host lacks {what}: {hint}")]
    HostLack {
        /// The missing feature.
        what: String,
        /// What would help.
        hint: String,
    },
    /// A step failed.
    #[error("{operation}: {}", describe(*.errno))]
    Failed {
        /// The step and its object, as `mount proc on /proc`.
        operation: String,
        /// The cause.
        errno: i32,
    },
    /// The cgroup could not be made, entered, limited or removed.
    #[error("{reason}")]
    Cgroup {
        /// What failed.
        reason: String,
    },
    /// The container is not in a state for this operation, or does not exist.
    #[error("{reason}")]
    State {
        /// In runc's words, which its callers search for.
        reason: String,
    },
    /// The process of the container could not be executed.
    #[error("unable to start container process: exec: {program:?}: {reason}")]
    Exec {
        /// As the configuration names it.
        program: String,
        /// In runc's words, which its callers search for.
        reason: String,
    },
    /// A hook failed; what it wrote to stderr is in the reason.
    #[error("error running {list} hook #{index} ({path}): {reason}")]
    Hook {
        /// The list of hooks.
        list: String,
        /// Its place in the list, from 0.
        index: usize,
        /// The program.
        path: String,
        /// How it ended.
        reason: String,
    },
    /// A checkpoint could not be made or restored.
    #[error("criu failed: {operation}: {reason}")]
    Checkpoint {
        /// What was asked of CRIU.
        operation: String,
        /// CRIU's own words, and where its log is.
        reason: String,
    },
    /// Our own invariant does not hold.
    #[error("{what} (this is a bug in shoal-runtime; please report it)")]
    Bug {
        /// What was found.
        what: String,
    },
}

/// The result of most functions of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A refusal of `field`.
    pub fn refusal(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Refusal { field: field.into(), reason: reason.into() }
    }

    /// A state error.
    pub fn state(reason: impl Into<String>) -> Self {
        Self::State { reason: reason.into() }
    }

    /// The errno of a failed step, else 0.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Failed { errno, .. } => *errno,
            _ => 0,
        }
    }
}

impl From<crate::host::cgroup::CgroupError> for Error {
    fn from(error: crate::host::cgroup::CgroupError) -> Self {
        Self::Cgroup { reason: error.to_string() }
    }
}

/// The cause in the words callers of runc search for (Go's: lower case).
pub fn describe(errno: i32) -> String {
    let text = nix::errno::Errno::from_raw(errno).desc();
    let mut letters = text.chars();
    match (letters.next(), letters.next()) {
        // "I/O error" and the like keep their capitals.
        (Some(first), Some(second)) if second.is_lowercase() => {
            format!("{}{}", first.to_lowercase(), &text[first.len_utf8()..])
        }
        _ => text.to_owned(),
    }
}

/// The same for an error of the standard library, which would add `(os error N)`.
pub fn words(cause: &std::io::Error) -> String {
    cause.raw_os_error().map_or_else(|| cause.to_string(), describe)
}

/// Names the step a system call belonged to.
pub trait During<T> {
    /// Turns a failure into [`Error::Failed`]; `operation` is only built then.
    fn during<S: Into<String>>(self, operation: impl FnOnce() -> S) -> Result<T>;
}

/// A failed step; a system call that does not exist is a lack of the host.
fn failed(operation: String, errno: i32) -> Error {
    if errno != nix::libc::ENOSYS {
        return Error::Failed { operation, errno };
    }
    let hint = "Linux 5.12 or newer is needed, and an outer seccomp filter must not hide its calls".into();
    Error::HostLack { what: format!("a system call ({operation})"), hint }
}

impl<T> During<T> for nix::Result<T> {
    fn during<S: Into<String>>(self, operation: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|errno| failed(operation().into(), errno as i32))
    }
}

impl<T> During<T> for std::io::Result<T> {
    fn during<S: Into<String>>(self, operation: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|cause| failed(operation().into(), cause.raw_os_error().unwrap_or(nix::libc::EINVAL)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_reads_as_step_object_cause() {
        let failed: Result<()> = Err(nix::Error::EPERM).during(|| "mount proc on /proc");
        assert_eq!(failed.expect_err("failed").to_string(), "mount proc on /proc: operation not permitted");
    }
}
