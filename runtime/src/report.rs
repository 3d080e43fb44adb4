//! An error as members of a JSON log line: phase, operation, path, errno, hint.
//!
//! In: an [`Error`]. Out: [`Report`], whose members and phases are stable: programs may depend on them. Members that
//! do not apply are left out.

use serde::Serialize;

use crate::error::Error;

/// What a program needs to know about an error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// `command-line`, `config`, `host`, `setup`, `cgroup`, `state`, `exec`, `hook`, `checkpoint` or `bug`.
    pub phase: &'static str,
    /// What was being done.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operation: String,
    /// The file, or the field of `config.json`, it was done to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// The kernel's answer.
    #[serde(skip_serializing_if = "is_zero")]
    pub errno: i32,
    /// What to do next.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape serde asks for")]
fn is_zero(errno: &i32) -> bool {
    *errno == 0
}

impl Report {
    /// A wrong command line.
    pub fn command_line() -> Self {
        Self { phase: "command-line", hint: "see shoal-runtime --help".into(), ..Self::default() }
    }
}

impl From<&Error> for Report {
    fn from(error: &Error) -> Self {
        match error.clone() {
            Error::Refusal { field, reason } => {
                Self { phase: "config", operation: "check".into(), path: field, errno: 0, hint: reason }
            }
            Error::HostLack { what, hint } => Self { phase: "host", operation: what, hint, ..Self::default() },
            Error::Failed { operation, errno } => Self {
                phase: "setup",
                path: object(&operation).to_owned(),
                hint: hint(errno).to_owned(),
                operation,
                errno,
            },
            Error::Cgroup { reason } => Self { phase: "cgroup", operation: reason, ..Self::default() },
            Error::State { reason } => Self { phase: "state", operation: reason, ..Self::default() },
            Error::Exec { program, reason } => {
                Self { phase: "exec", operation: "execute".into(), path: program, hint: reason, ..Self::default() }
            }
            Error::Hook { list, index, path, reason } => {
                Self { phase: "hook", operation: format!("{list}[{index}]"), path, hint: reason, ..Self::default() }
            }
            Error::Checkpoint { operation, reason } => {
                Self { phase: "checkpoint", operation, hint: reason, ..Self::default() }
            }
            Error::Bug { what } => {
                Self { phase: "bug", operation: what, hint: "please report it".into(), ..Self::default() }
            }
        }
    }
}

/// The object of a step: the last absolute path its words name.
fn object(operation: &str) -> &str {
    operation.split_ascii_whitespace().rfind(|word| word.starts_with('/')).unwrap_or_default()
}

/// What usually helps.
fn hint(errno: i32) -> &'static str {
    match errno {
        libc::EPERM | libc::EACCES => "the user, a capability, a security module or an outer filter forbids it",
        libc::ENOENT | libc::ENOTDIR => "make what is missing, or correct the path in config.json",
        libc::ENOSPC | libc::EDQUOT => "free space, inodes or kernel objects, or raise the limit",
        libc::EROFS => "it lies on a read-only file system: mount a writable one there",
        libc::ENOMEM => "raise the memory limit of the container, or free memory",
        libc::ELOOP => "a symbolic link is in the way, which could lead out of the container",
        libc::EBUSY => "something still uses it",
        libc::EMFILE | libc::ENFILE => "raise the limit of open files",
        libc::EINVAL => "the kernel does not accept a value of config.json for this step, or is too old for it",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_only_what_applies() {
        let error = Error::Failed { operation: "mount proc on /proc (step 3 of 9)".into(), errno: libc::EPERM };
        let text = serde_json::to_value(Report::from(&error)).expect("plain data");
        assert_eq!(text["phase"], "setup");
        assert_eq!(text["path"], "/proc");
        assert_eq!(text["errno"], libc::EPERM);
        let text = serde_json::to_value(Report::from(&Error::state("container does not exist"))).expect("plain data");
        assert_eq!(text.as_object().map(serde_json::Map::len), Some(2));
    }
}
