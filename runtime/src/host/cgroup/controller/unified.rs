//! `resources.unified`: files of cgroup v2 written as they are. runtime-spec config-linux.md "Unified"

use std::collections::BTreeMap;

use super::super::dir::Dir;
use super::super::error::CgroupError;

pub(in super::super) fn apply(dir: Dir<'_>, files: &BTreeMap<String, String>) -> Result<(), CgroupError> {
    for (name, value) in files {
        let controller = check(name)?;
        match dir.write(name, value) {
            Err(error)
                if matches!(error.errno(), Some(libc::ENOENT | libc::EPERM | libc::EACCES)) && !dir.has(name) =>
            {
                return Err(CgroupError::Unavailable {
                    what: format!("unified resource {name:?}"),
                    reason: format!("controller {controller:?} is not available in {}", dir.path().display()),
                });
            }
            result => result?,
        }
    }
    Ok(())
}

/// The controller of a file name such as `memory.high`; anything that is not a plain file name is refused.
pub(in super::super) fn check(name: &str) -> Result<&str, CgroupError> {
    let invalid = |reason: &str| CgroupError::Invalid {
        what: "unified resource",
        value: name.to_owned(),
        reason: reason.to_owned(),
    };
    if name.contains('/') {
        return Err(invalid("must be a file name (no slashes)"));
    }
    match name.split_once('.') {
        Some((controller, rest)) if !controller.is_empty() && !rest.is_empty() => Ok(controller),
        _ => Err(invalid("must be in the form CONTROLLER.PARAMETER")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture::Tree;
    use super::*;

    #[test]
    fn files_are_written_and_paths_refused() {
        let tree = Tree::new(&[("memory.high", "max")]);
        let set = |name: &str| apply(tree.dir(), &BTreeMap::from([(name.to_owned(), "5".to_owned())]));
        set("memory.high").unwrap();
        assert_eq!(tree.text("memory.high"), "5");
        for name in ["../memory.high", "memory", ".x", "a."] {
            assert!(set(name).is_err(), "{name}");
        }
        assert!(set("rdma.max").unwrap_err().to_string().contains("\"rdma\" is not available"));
    }
}
