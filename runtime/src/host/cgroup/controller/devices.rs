//! Applies device rules: lines into a v1 cgroup, an eBPF program onto a v2 one.

use std::fs::File;

use super::super::dir::Dir;
use super::super::error::CgroupError;
use crate::host::sys::bpf;
use crate::plan::device_rules::{self, DeviceError, Emulated, Rule};

/// The name under which our programs are found again; at most 15 bytes. bpf(2)
const PROGRAM_NAME: &str = "shoal_devices";

pub(in super::super) fn invalid(error: DeviceError) -> CgroupError {
    CgroupError::Invalid {
        what: "device rules",
        value: "linux.resources.devices".to_owned(),
        reason: error.to_string(),
    }
}

/// Brings a v1 cgroup to the rules with the fewest writes and reads the result back.
pub(in super::super) fn apply_v1(dir: Dir<'_>, rules: &[Rule]) -> Result<(), CgroupError> {
    let target = Emulated::from_rules(rules).map_err(invalid)?;
    let now = || Emulated::from_list(&dir.read("devices.list")?).map_err(invalid);
    let lines = now()?.transition(&target);
    if lines.is_empty() {
        return Ok(());
    }
    let mut files = [dir.writer("devices.deny")?, dir.writer("devices.allow")?];
    for line in lines {
        files[usize::from(line.allow)].write(&line.text)?;
    }
    if target.is_shown_by(&now()?) {
        return Ok(());
    }
    Err(CgroupError::Unavailable {
        what: "the device rules".to_owned(),
        reason: format!("the parent of {} allows less than the container asks for", dir.path().display()),
    })
}

/// Puts the program of the rules in force. A program of ours that is there already is replaced in one step, so there
/// is no moment without a filter; programs of others (systemd attaches its own) stay.
pub(in super::super) fn apply_v2(dir: Dir<'_>, rules: &[Rule]) -> Result<(), CgroupError> {
    let failed = |step| move |cause| CgroupError::DeviceFilter { step, path: dir.path().to_owned(), cause };
    let cgroup = File::open(dir.path()).map_err(|cause| CgroupError::Read { path: dir.path().to_owned(), cause })?;
    let program = bpf::load_device_program(&device_rules::program(rules), PROGRAM_NAME).map_err(failed("load"))?;
    let mut old = ours(&cgroup).map_err(failed("query"))?.into_iter();
    match old.next() {
        Some(first) => bpf::replace(&cgroup, &program, &first)
            .or_else(|_| bpf::attach(&cgroup, &program).and_then(|()| bpf::detach(&cgroup, &first)))
            .map_err(failed("replace"))?,
        None => bpf::attach(&cgroup, &program).map_err(failed("attach"))?,
    }
    for rest in old {
        bpf::detach(&cgroup, &rest).map_err(failed("detach"))?;
    }
    Ok(())
}

fn ours(cgroup: &File) -> std::io::Result<Vec<std::os::fd::OwnedFd>> {
    let mut found = Vec::new();
    for id in bpf::attached(cgroup)? {
        // A program that vanished between the two calls is nobody's any more.
        let Ok(program) = bpf::program_by_id(id) else { continue };
        if bpf::program_name(&program)? == PROGRAM_NAME {
            found.push(program);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture::Tree;
    use super::*;

    #[test]
    fn a_cgroup_that_already_fits_is_not_written() {
        let list = "c *:* m\nb *:* m\nc 1:3 rwm\nc 1:5 rwm\nc 1:7 rwm\nc 1:8 rwm\nc 1:9 rwm\nc 5:0 rwm\nc 5:2 rwm\nc 136:* rwm\n";
        let tree = Tree::new(&[("devices.list", list)]);
        apply_v1(tree.dir(), &device_rules::rules(&[]).unwrap()).unwrap();
    }

    #[test]
    fn a_parent_that_gives_less_is_an_error() {
        let tree = Tree::new(&[("devices.list", "c 1:3 rwm\n"), ("devices.allow", ""), ("devices.deny", "")]);
        let error = apply_v1(tree.dir(), &device_rules::rules(&[]).unwrap()).unwrap_err();
        assert!(error.to_string().contains("allows less"), "{error}");
        assert!(tree.text("devices.allow").contains("c 1:9 rwm"), "the writes were made");
    }
}
