//! The pids controller; one file, the same in both versions. runtime-spec config-linux.md "PIDs"

use oci::spec::LinuxPids;

use super::super::dir::Dir;
use super::super::error::CgroupError;

pub(in super::super) fn apply(dir: Dir<'_>, pids: &LinuxPids) -> Result<(), CgroupError> {
    match limit(pids) {
        Some(limit) => dir.write("pids.max", &limit),
        None => Ok(()),
    }
}

/// What goes into `pids.max`: nothing for an absent limit and for 0, which engines write for "not set".
pub(in super::super) fn limit(pids: &LinuxPids) -> Option<String> {
    match pids.limit {
        None | Some(0) => None,
        Some(limit) if limit < 0 => Some("max".to_owned()),
        Some(limit) => Some(limit.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_not_set_and_negative_is_no_limit() {
        let limit = |limit| super::limit(&LinuxPids { limit });
        assert_eq!(limit(None), None);
        assert_eq!(limit(Some(0)), None);
        assert_eq!(limit(Some(-1)).as_deref(), Some("max"));
        assert_eq!(limit(Some(7)).as_deref(), Some("7"));
    }
}
