//! The cpuset controller. On v1 a new cpuset is empty and nobody may enter it until it has CPUs and memory nodes.

use std::path::Path;

use oci::spec::LinuxCpu;

use super::super::dir::Dir;
use super::super::error::CgroupError;

/// The name of a file: v1 mounted with `noprefix` leaves out `cpuset.`.
fn file(dir: Dir<'_>, name: &str) -> String {
    let prefixed = format!("cpuset.{name}");
    if !dir.has(&prefixed) && dir.has(name) { name.to_owned() } else { prefixed }
}

fn text(value: Option<&String>) -> Option<&str> {
    value.map(String::as_str).filter(|value| !value.is_empty())
}

pub(in super::super) fn apply_v1(dir: Dir<'_>, cpu: &LinuxCpu) -> Result<(), CgroupError> {
    for (name, value) in [("cpus", text(cpu.cpus.as_ref())), ("mems", text(cpu.mems.as_ref()))] {
        if let Some(value) = value {
            dir.write(&file(dir, name), value)?;
        }
    }
    Ok(())
}

pub(in super::super) fn apply_v2(dir: Dir<'_>, cpu: &LinuxCpu) -> Result<(), CgroupError> {
    for (name, value) in [("cpuset.cpus", text(cpu.cpus.as_ref())), ("cpuset.mems", text(cpu.mems.as_ref()))] {
        if let Some(value) = value {
            dir.write(name, value)?;
        }
    }
    Ok(())
}

/// Gives a v1 cpuset, and every ancestor up to the mount, what its parent has, wherever it is empty.
pub(in super::super) fn inherit_v1(dir: &Path, mount: &Path, fresh: bool) -> Result<(), CgroupError> {
    if dir == mount || !dir.starts_with(mount) {
        return Ok(());
    }
    let here = Dir::new(dir);
    if fresh && inherit_fresh(here) {
        return Ok(());
    }
    let files = ["cpus", "mems"].map(|name| file(here, name));
    let mut empty = Vec::new();
    for name in files {
        if here.read_if(&name)?.is_some_and(|value| value.is_empty()) {
            empty.push(name);
        }
    }
    if empty.is_empty() {
        return Ok(());
    }
    let Some(parent) = dir.parent() else { return Ok(()) };
    inherit_v1(parent, mount, false)?;
    for name in empty {
        let value = Dir::new(parent).read(&name)?;
        here.write(&name, &value)?;
    }
    Ok(())
}

/// The usual case in few calls: a directory that was just made is empty, and its parent is not. Says whether it was so.
fn inherit_fresh(here: Dir<'_>) -> bool {
    let Some(parent) = here.path().parent().map(Dir::new) else { return false };
    ["cpuset.cpus", "cpuset.mems"]
        .into_iter()
        .all(|name| parent.read(name).is_ok_and(|value| !value.is_empty() && here.write(name, &value).is_ok()))
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture::Tree;
    use super::*;

    #[test]
    fn an_empty_cpuset_inherits_through_empty_parents() {
        let tree = Tree::new(&[
            ("cpuset.cpus", "0-3\n"),
            ("cpuset.mems", "0\n"),
            ("a/cpuset.cpus", "\n"),
            ("a/cpuset.mems", "\n"),
            ("a/b/cpuset.cpus", "1\n"),
            ("a/b/cpuset.mems", ""),
        ]);
        inherit_v1(&tree.path("a/b"), &tree.path(""), false).unwrap();
        assert_eq!([tree.text("a/cpuset.cpus"), tree.text("a/cpuset.mems")], ["0-3", "0"]);
        assert_eq!([tree.text("a/b/cpuset.cpus"), tree.text("a/b/cpuset.mems")], ["1\n", "0"]);
    }
}
