//! Stops every process of a cgroup and lets them go on. Never waits longer than a deadline; a freeze that does not
//! finish is undone.

use std::fs::File;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::super::dir::Dir;
use super::super::error::CgroupError;

/// How long a cgroup may take to freeze. A process in uninterruptible sleep holds it up; runc gives up after about as long.
const FREEZE_TIMEOUT_MS: u64 = 2_000;

/// After so many looks at a v1 cgroup that stays FREEZING it is thawed for a moment: a new task that appeared during
/// the walk keeps it there forever otherwise.
const LOOKS_BEFORE_THAW: u32 = 50;

const V1_PAUSE: Duration = Duration::from_micros(200);

/// Freezes a v1 cgroup. Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst
pub(in super::super) fn freeze_v1(dir: Dir<'_>) -> Result<(), CgroupError> {
    let result = freeze_v1_until(dir, Instant::now() + Duration::from_millis(FREEZE_TIMEOUT_MS));
    if result.is_err() {
        // Half frozen is worse than running; the first error is the one to report.
        let _ = dir.write("freezer.state", "THAWED");
    }
    result
}

fn freeze_v1_until(dir: Dir<'_>, deadline: Instant) -> Result<(), CgroupError> {
    let mut looks = 0;
    loop {
        dir.write("freezer.state", "FROZEN")?;
        let state = dir.read("freezer.state")?;
        match state.as_str() {
            "FROZEN" => return Ok(()),
            "FREEZING" => {}
            _ => return Err(CgroupError::parse(&dir.file("freezer.state"), &state, "FREEZING or FROZEN")),
        }
        if Instant::now() >= deadline {
            return Err(CgroupError::Timeout {
                what: format!("freezing {}", dir.path().display()),
                ms: FREEZE_TIMEOUT_MS,
            });
        }
        looks += 1;
        if looks % LOOKS_BEFORE_THAW == 0 {
            dir.write("freezer.state", "THAWED")?;
        }
        thread::sleep(V1_PAUSE);
    }
}

/// Lets a v1 cgroup go on.
pub(in super::super) fn thaw_v1(dir: Dir<'_>) -> Result<(), CgroupError> {
    dir.write("freezer.state", "THAWED")
}

/// Whether this very cgroup (and not only a parent) was told to freeze.
pub(in super::super) fn is_frozen_v1(dir: Dir<'_>) -> Result<bool, CgroupError> {
    match dir.read_if("freezer.state")?.as_deref() {
        None | Some("THAWED") => Ok(false),
        Some(_) => Ok(dir.number_if("freezer.self_freezing")? != Some(0)),
    }
}

/// Freezes a v2 cgroup. Documentation/admin-guide/cgroup-v2.rst "cgroup.freeze"
pub(in super::super) fn freeze_v2(dir: Dir<'_>) -> Result<(), CgroupError> {
    dir.write("cgroup.freeze", "1")?;
    let result = wait_frozen_v2(dir);
    if result.is_err() {
        let _ = dir.write("cgroup.freeze", "0");
    }
    result
}

fn wait_frozen_v2(dir: Dir<'_>) -> Result<(), CgroupError> {
    wait_event(dir, "frozen", 1, FREEZE_TIMEOUT_MS)
}

/// Waits until `cgroup.events` says `key value`; the kernel wakes the poll at every change.
pub(in super::super) fn wait_event(dir: Dir<'_>, key: &str, value: u64, timeout_ms: u64) -> Result<(), CgroupError> {
    let path = dir.file("cgroup.events");
    let deadline = Instant::now() + Duration::from_millis(timeout_ms);
    loop {
        // The descriptor that is polled must be read first, and be opened before the state is looked at.
        let file = File::open(&path).map_err(|cause| CgroupError::Read { path: path.clone(), cause })?;
        if dir.value_of("cgroup.events", key)? == Some(value) {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(CgroupError::Timeout { what: format!("{key} {value} in {}", path.display()), ms: timeout_ms });
        }
        // A slice at a time: a change between open and poll would otherwise be slept through.
        let slice = u16::try_from(left.as_millis().clamp(1, 20)).unwrap_or(20);
        let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
        let _ = nix::poll::poll(&mut fds, PollTimeout::from(slice));
    }
}

/// Lets a v2 cgroup go on.
pub(in super::super) fn thaw_v2(dir: Dir<'_>) -> Result<(), CgroupError> {
    dir.write("cgroup.freeze", "0")
}

/// Whether this very cgroup was told to freeze.
pub(in super::super) fn is_frozen_v2(dir: Dir<'_>) -> Result<bool, CgroupError> {
    Ok(dir.number_if("cgroup.freeze")? == Some(1))
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture::Tree;
    use super::*;

    #[test]
    fn a_cgroup_whose_parent_is_frozen_is_not_itself_paused() {
        let tree = Tree::new(&[("freezer.state", "FROZEN\n"), ("freezer.self_freezing", "0\n")]);
        assert!(!is_frozen_v1(tree.dir()).unwrap());
        tree.put("freezer.self_freezing", "1\n");
        assert!(is_frozen_v1(tree.dir()).unwrap());
        assert!(!is_frozen_v1(Tree::new(&[]).dir()).unwrap());
    }

    #[test]
    fn a_v2_cgroup_that_never_freezes_is_thawed_again_at_the_deadline() {
        let tree = Tree::new(&[("cgroup.freeze", "0\n"), ("cgroup.events", "populated 1\nfrozen 0\n")]);
        let error = wait_event(tree.dir(), "frozen", 1, 30).unwrap_err();
        assert!(matches!(error, CgroupError::Timeout { .. }));
        tree.put("cgroup.events", "populated 1\nfrozen 1\n");
        freeze_v2(tree.dir()).unwrap();
        assert!(is_frozen_v2(tree.dir()).unwrap());
        thaw_v2(tree.dir()).unwrap();
        assert!(!is_frozen_v2(tree.dir()).unwrap());
    }
}
