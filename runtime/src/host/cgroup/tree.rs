//! Directories of cgroups: make, list the processes, remove. Every wait has a deadline.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::dir::Dir;
use super::error::CgroupError;

/// Deeper than any tree of cgroups that works (a container may nest as it likes; the walk must end).
const DEPTH_MAX: usize = 64;

/// How long `cgroup.procs` may refuse a new task. A process that was just made can be in a state in which it cannot
/// be moved yet (EINVAL); it leaves it by itself.
const ATTACH_TIMEOUT: Duration = Duration::from_millis(150);
const ATTACH_PAUSE: Duration = Duration::from_millis(2);

/// Makes a directory and its parents. Says whether the directory itself is new; parents made here stay, as they do
/// with other runtimes: another container may be entering them at this moment.
pub(super) fn make(dir: &Path, mount: &Path) -> Result<bool, CgroupError> {
    let failed = |cause| CgroupError::Create { path: dir.to_owned(), cause };
    if dir == mount {
        return if dir.is_dir() { Ok(false) } else { Err(failed(io::Error::from_raw_os_error(libc::ENOENT))) };
    }
    // A parent can vanish between its making and ours, when somebody else cleans up: try again, but not for ever.
    for _ in 0..DEPTH_MAX {
        match fs::create_dir(dir) {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let parent = dir.parent().filter(|parent| parent.starts_with(mount)).ok_or_else(|| failed(error))?;
                make(parent, mount)?;
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Err(failed(io::Error::from_raw_os_error(libc::ENOENT)))
}

/// Moves a process (with all its threads) into a cgroup.
pub(super) fn attach(dir: Dir<'_>, pid: i32) -> Result<(), CgroupError> {
    attach_open(dir, pid).map(drop)
}

/// The same, for a caller that closes many files at once.
pub(super) fn attach_open(dir: Dir<'_>, pid: i32) -> Result<OwnedFd, CgroupError> {
    let deadline = Instant::now() + ATTACH_TIMEOUT;
    loop {
        match dir.write_open("cgroup.procs", &pid.to_string()) {
            Err(error) if error.errno() == Some(libc::EINVAL) && Instant::now() < deadline => {
                thread::sleep(ATTACH_PAUSE)
            }
            result => return result,
        }
    }
}

/// The processes of a cgroup, and of all below it. A cgroup that is not there has none.
pub(super) fn pids(dir: &Path, recursive: bool) -> Result<Vec<i32>, CgroupError> {
    let mut found = Vec::new();
    collect(dir, recursive, 0, &mut found)?;
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn collect(path: &Path, recursive: bool, depth: usize, found: &mut Vec<i32>) -> Result<(), CgroupError> {
    let dir = Dir::new(path);
    let text = match dir.read_if("cgroup.procs") {
        // A threaded cgroup lists threads only.
        Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => dir.read_if("cgroup.threads")?,
        result => result?,
    };
    let Some(text) = text else { return Ok(()) };
    for line in text.lines() {
        // 0 is a process outside our pid namespace: it exists, but cannot be named.
        found.push(
            line.trim().parse().map_err(|_| CgroupError::parse(&dir.file("cgroup.procs"), line, "a process id"))?,
        );
    }
    if recursive && depth < DEPTH_MAX {
        for child in children(path)? {
            collect(&child, true, depth + 1, found)?;
        }
    }
    Ok(())
}

/// The directories directly below.
pub(super) fn children(path: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let failed = |cause| CgroupError::Read { path: path.to_owned(), cause };
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) if gone(&error) => break,
            Err(error) => return Err(failed(error)),
        };
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

/// Removes a cgroup and all below it, until the deadline. A cgroup whose last process died a moment ago is busy for a
/// little while.
pub(super) fn remove(dir: &Path, deadline: Instant) -> Result<(), CgroupError> {
    let mut pause = Duration::from_micros(200);
    loop {
        let error = match remove_once(dir, 0) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let busy = matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOTEMPTY));
        if !busy || Instant::now() >= deadline {
            return Err(CgroupError::Remove { path: dir.to_owned(), cause: error, detail: inhabitants(dir) });
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Leaves first. On a cgroup file system rmdir(2) takes a directory away although it shows files.
fn remove_once(dir: &Path, depth: usize) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Err(error) if gone(&error) => return Ok(()),
        // EBUSY: processes or children; ENOTEMPTY does not come from cgroup file systems.
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) && depth < DEPTH_MAX => {}
        result => return result,
    }
    let children = children(dir).unwrap_or_default();
    if children.is_empty() {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    for child in children {
        remove_once(&child, depth + 1)?;
    }
    match fs::remove_dir(dir) {
        Err(error) if gone(&error) => Ok(()),
        result => result,
    }
}

fn inhabitants(dir: &Path) -> String {
    match pids(dir, true) {
        Ok(pids) if pids.is_empty() => String::new(),
        Ok(pids) => format!(" (processes {} live in it; kill them and delete again)", listed(&pids)),
        Err(_) => String::new(),
    }
}

fn listed(pids: &[i32]) -> String {
    let text: Vec<String> = pids.iter().take(8).map(ToString::to_string).collect();
    format!("{}{}", text.join(", "), if pids.len() > 8 { ", …" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Tree;
    use super::*;

    #[test]
    fn processes_are_listed_through_the_whole_tree_once() {
        let tree = Tree::new(&[("cgroup.procs", "3\n1\n"), ("a/cgroup.procs", "7\n3\n"), ("a/b/cgroup.procs", "9\n")]);
        assert_eq!(pids(tree.root(), false).unwrap(), [1, 3]);
        assert_eq!(pids(tree.root(), true).unwrap(), [1, 3, 7, 9]);
        assert!(pids(&tree.path("absent"), true).unwrap().is_empty());
    }

    #[test]
    fn garbage_in_a_list_of_processes_is_an_error() {
        assert!(pids(Tree::new(&[("cgroup.procs", "x\n")]).root(), false).is_err());
    }

    #[test]
    fn a_directory_is_made_with_its_parents_and_only_below_the_mount() {
        let tree = Tree::new(&[]);
        assert!(make(&tree.path("a/b/c"), tree.root()).unwrap());
        assert!(!make(&tree.path("a/b/c"), tree.root()).unwrap());
        assert!(make(&std::env::temp_dir().join("shoal-absent/x"), tree.root()).is_err());
    }

    #[test]
    fn a_directory_that_is_not_empty_is_given_up_at_the_deadline() {
        let tree = Tree::new(&[("cgroup.procs", "1\n")]);
        let error = remove(tree.root(), Instant::now()).unwrap_err();
        assert!(matches!(error, CgroupError::Remove { .. }), "{error}");
        remove(&tree.path("absent"), Instant::now()).unwrap();
    }
}
