//! Writing the id maps of a new user namespace: directly where the caller may, else through newuidmap and newgidmap.
//! user_namespaces(7)

use std::process::Command;

use super::procfs::Procfs;
use crate::error::{During, Error, Result};
use crate::facts::HostFacts;
use crate::plan::namespaces::{Namespaces, Range};

/// Writes both maps of the process `pid`.
pub fn write(procfs: &Procfs, pid: i32, namespaces: &Namespaces, facts: &HostFacts) -> Result<()> {
    let (uids, gids) = (&namespaces.uid_mappings, &namespaces.gid_mappings);
    if facts.euid == 0 {
        procfs.write(&format!("{pid}/gid_map"), &lines(gids))?;
        return procfs.write(&format!("{pid}/uid_map"), &lines(uids));
    }
    let own = |ranges: &[Range], id: u32| matches!(ranges, [only] if only.count == 1 && only.outside == id);
    if own(gids, nix::unistd::getegid().as_raw()) {
        // Without a helper's privilege the kernel wants the door to other groups closed first.
        procfs.write(&format!("{pid}/setgroups"), "deny")?;
        procfs.write(&format!("{pid}/gid_map"), &lines(gids))?;
    } else {
        help("newgidmap", pid, gids)?;
    }
    if own(uids, facts.euid) {
        procfs.write(&format!("{pid}/uid_map"), &lines(uids))
    } else {
        help("newuidmap", pid, uids)
    }
}

/// The map as the kernel reads it.
pub fn lines(ranges: &[Range]) -> String {
    ranges.iter().map(|range| format!("{} {} {}\n", range.inside, range.outside, range.count)).collect()
}

fn help(program: &str, pid: i32, ranges: &[Range]) -> Result<()> {
    let mut command = Command::new(program);
    command.arg(pid.to_string());
    for range in ranges {
        command.args([range.inside, range.outside, range.count].map(|number| number.to_string()));
    }
    let output = match command.output() {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
            let hint = "install uidmap, or map a single id to yourself (shoal-runtime spec --rootless does)";
            return Err(Error::HostLack { what: program.into(), hint: hint.into() });
        }
        output => output.during(|| format!("execute {program}"))?,
    };
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let hint = format!("{}; see /etc/subuid and /etc/subgid", text.trim());
    Err(Error::HostLack { what: format!("a permitted id map ({program} refused)"), hint })
}
