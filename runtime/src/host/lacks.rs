//! What a kernel that refuses a namespace or a file system lacks, in words that say what to do.
//!
//! In: the errno of a refused call and what it asked for. Out: [`Error::HostLack`] where the cause is the kernel's
//! configuration or a limit of the host, else the plain failure.

use nix::errno::Errno;

use crate::error::{During, Error};
use crate::plan::namespaces::Kind;

/// Explains why namespaces of `kinds` could not be made.
pub fn namespaces(errno: Errno, kinds: u64, operation: &str) -> Error {
    let wanted: Vec<Kind> = Kind::all().filter(|kind| kinds & kind.flag() != 0).collect();
    let words = |list: &[Kind]| list.iter().map(|kind| kind.word()).collect::<Vec<_>>().join(", ");
    match errno {
        Errno::EINVAL | Errno::ENOSYS => {
            let exists = |kind: &Kind| std::fs::exists(format!("/proc/self/ns/{}", kind.proc_name())).unwrap_or(true);
            let missing: Vec<Kind> = wanted.into_iter().filter(|kind| !exists(kind)).collect();
            if missing.is_empty() {
                return plain(errno, operation);
            }
            let hint = "its kernel is built without them; leave them out of linux.namespaces".into();
            Error::HostLack { what: format!("namespaces of the kind {}", words(&missing)), hint }
        }
        Errno::ENOSPC => {
            let hint = "raise /proc/sys/user/max_*_namespaces, or nest less deep".into();
            Error::HostLack { what: format!("room for another namespace ({})", words(&wanted)), hint }
        }
        Errno::EPERM if kinds & Kind::User.flag() != 0 => {
            let hint = "see kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns and the \
                        seccomp filter around this process";
            Error::HostLack { what: "user namespaces for this user".into(), hint: hint.into() }
        }
        Errno::EPERM if kinds != 0 => {
            let hint = "run as root, or add a user namespace with mappings (spec --rootless writes one)".into();
            Error::HostLack { what: format!("permission to make namespaces ({})", words(&wanted)), hint }
        }
        errno => plain(errno, operation),
    }
}

/// Explains why ids of a mount could not be mapped.
pub fn id_mapping(errno: Errno, operation: &str) -> Error {
    match errno {
        Errno::EINVAL | Errno::ENOSYS => {
            let hint = format!("Linux 5.12 and a file system that can do it (tmpfs since 6.3) are needed: {operation}");
            Error::HostLack { what: "id-mapped mounts of this file system".into(), hint }
        }
        errno => plain(errno, operation),
    }
}

/// Explains why a file system of type `kind` could not be opened.
pub fn filesystem(errno: Errno, kind: &str) -> Error {
    match errno {
        Errno::ENODEV => {
            let hint = "the kernel is built without it, or its module is not loaded".into();
            Error::HostLack { what: format!("the file system {kind:?}"), hint }
        }
        errno => plain(errno, ""),
    }
}

fn plain(errno: Errno, operation: &str) -> Error {
    let failed: Result<(), Error> = Err::<(), Errno>(errno).during(|| operation);
    failed.expect_err("built from a failure one line above")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_permissions_are_told_apart_from_failures() {
        let said = |errno, kinds| namespaces(errno, kinds, "make the process").to_string();
        assert!(said(Errno::ENOSPC, Kind::User.flag()).contains("max_*_namespaces"));
        assert!(said(Errno::EPERM, Kind::User.flag()).contains("unprivileged_userns_clone"));
        assert!(said(Errno::EPERM, Kind::Mount.flag()).contains("run as root"));
        assert_eq!(said(Errno::ENOMEM, Kind::User.flag()), "make the process: out of memory");
        // Every kernel has mount namespaces: what it dislikes is something else.
        assert_eq!(said(Errno::EINVAL, Kind::Mount.flag()), "make the process: invalid argument");
    }
}
