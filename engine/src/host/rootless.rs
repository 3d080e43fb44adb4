//! The engine of a user without root's rights: everything happens in a user namespace in which that user is root, with a
//! mount namespace beside it, both held by one sleeping process a user.
//!
//! In: the roots. Out: this process inside both namespaces. The first command makes them, later ones enter; subordinate ids
//! come through newuidmap(1) and newgidmap(1), and without them the user's own id is the only one.

use crate::error::EngineError;
use crate::file::{self, Durable};
use crate::host::process::{ProcessId, boot_id};
use crate::host::userns::Holder;
use crate::roots::Roots;
use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::process::Command;

const RECORD: &str = "rootless.json";
const LOCK: &str = "rootless.lock";
const RECORD_VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    boot_id: String,
    process: ProcessId,
}

/// Enters the user's namespaces, which are made when there are none. Returns what the user should know. To be called before
/// any thread is started. Root has nothing to enter.
pub fn enter(roots: &Roots, monitor: &Path) -> Result<Vec<String>, EngineError> {
    if let Some(uid) = crate::roots::rootless()
        && roots.run.starts_with(crate::roots::shared_run(uid))
    {
        for folder in [&crate::roots::shared_run(uid), &roots.run] {
            private(folder)?;
        }
    }
    if nix::unistd::geteuid().is_root() {
        return Ok(Vec::new());
    }
    let step = |step: &'static str| move |error: io::Error| EngineError::io(step)(error);
    // Asked while this is still the user's own namespace.
    let uid = crate::roots::rootless().unwrap_or_default();
    let mut folders = fs::DirBuilder::new();
    folders.recursive(true).mode(0o700);
    folders.create(&roots.run).map_err(EngineError::io(format!("make {}", roots.run.display())))?;
    let lock = fs::OpenOptions::new().write(true).create(true).truncate(false).open(roots.run.join(LOCK));
    let lock = lock.and_then(|file| Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error.into()));
    let lock = lock.map_err(step("lock the user's namespaces"))?;
    let path = roots.run.join(RECORD);
    let known: Option<Record> = file::load(&path).ok();
    let mut warnings = Vec::new();
    let process = match known {
        Some(record) if record.version == RECORD_VERSION && record.boot_id == boot_id() && record.process.alive() => {
            record.process
        }
        _ => {
            let holder = Holder::start(monitor, true).map_err(step("make a user namespace"))?;
            if let Err(why) = map_subordinate(holder.pid(), uid) {
                warnings.push(format!("{why}: only files of one owner can be had"));
                holder.map_self().map_err(step("map this user to root of a user namespace"))?;
            }
            let process = holder.stay().map_err(step("keep the user namespace"))?;
            file::save(&path, &Record { version: RECORD_VERSION, boot_id: boot_id(), process }, Durable::No)?;
            process
        }
    };
    drop(lock);
    let open = |kind: &str| fs::File::open(format!("/proc/{}/ns/{kind}", process.pid));
    let (user, mounts) = (open("user"), open("mnt"));
    let cwd = std::env::current_dir().map_err(step("find the working directory"))?;
    let entered = user.and_then(|user| Ok((user, mounts?))).and_then(|(user, mounts)| {
        setns(user, CloneFlags::CLONE_NEWUSER)?;
        setns(mounts, CloneFlags::CLONE_NEWNS)?;
        Ok(())
    });
    entered.map_err(step("enter the user's namespaces"))?;
    // The new mount namespace has led to its root.
    std::env::set_current_dir(cwd).map_err(step("return to the working directory"))?;
    Ok(warnings)
}

/// Makes a folder where others may have been first, and refuses one that is not this user's alone: its owner could put other
/// programs into the containers. Names in a folder that passes stay what they are, since nobody else can change them.
fn private(folder: &Path) -> Result<(), EngineError> {
    let step = || EngineError::io(format!("make {}", folder.display()));
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(step()(error)),
        _ => {}
    }
    let found = fs::symlink_metadata(folder).map_err(step())?;
    let problem = if !found.is_dir() {
        "is no folder".to_owned()
    } else if found.uid() != nix::unistd::geteuid().as_raw() {
        format!("belongs to user {}", found.uid())
    } else if found.mode() & 0o022 != 0 {
        "can be written by others".to_owned()
    } else {
        return Ok(());
    };
    Err(EngineError::Invalid(format!("{} {problem}: set XDG_RUNTIME_DIR to a folder of your own", folder.display())))
}

/// Maps root to the user, and what follows to the user's subordinate ids.
fn map_subordinate(pid: u32, uid: u32) -> Result<(), String> {
    let user = nix::unistd::User::from_uid(uid.into()).ok().flatten();
    let name = user.map(|user| user.name).unwrap_or_default();
    let gid = nix::unistd::getegid().as_raw();
    for (program, file, own) in [("newuidmap", "/etc/subuid", uid), ("newgidmap", "/etc/subgid", gid)] {
        let text = fs::read_to_string(file).unwrap_or_default();
        let ranges = ranges(&text, &name, uid);
        if ranges.is_empty() {
            return Err(format!("{file} gives no ids to user {uid}"));
        }
        let mut command = Command::new(program);
        command.arg(pid.to_string()).args(["0".to_owned(), own.to_string(), "1".to_owned()]);
        let mut inside = 1;
        for (first, count) in ranges {
            command.args([inside, first, count].map(|number: u32| number.to_string()));
            inside += count;
        }
        let output = command.output().map_err(|error| format!("execute {program} (package uidmap): {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
    }
    Ok(())
}

/// A user's ranges in the text of `/etc/subuid`.
fn ranges(text: &str, name: &str, uid: u32) -> Vec<(u32, u32)> {
    let uid = uid.to_string();
    let range = |line: &str| {
        let mut fields = line.split(':');
        let owner = fields.next().filter(|owner| *owner == name && !name.is_empty() || *owner == uid)?;
        let _ = owner;
        Some((fields.next()?.parse().ok()?, fields.next()?.trim().parse().ok()?))
    };
    text.lines().filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_folder_that_others_can_write_or_own_is_refused() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let room = std::env::temp_dir().join(format!("shoal-private-{}", std::process::id()));
        fs::create_dir(&room).unwrap();
        let own = room.join("own");
        private(&own).unwrap();
        private(&own).unwrap();
        assert_eq!(fs::metadata(&own).unwrap().mode() & 0o7777, 0o700);
        fs::set_permissions(&own, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(private(&own).unwrap_err().to_string().contains("XDG_RUNTIME_DIR"));
        fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).unwrap();
        symlink(&own, room.join("link")).unwrap();
        assert!(private(&room.join("link")).unwrap_err().to_string().contains("is no folder"));
        // Only root can give a folder away.
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&own, Some(12345), None).unwrap();
            assert!(private(&own).unwrap_err().to_string().contains("belongs to user 12345"));
        }
        fs::remove_dir_all(&room).unwrap();
    }

    #[test]
    fn a_users_ranges_are_found_by_name_and_by_number() {
        let text = "root:1:2\nann:100000:65536\n1000:300000:10\nbad line\nann:x:1\n";
        assert_eq!(ranges(text, "ann", 1000), [(100_000, 65_536), (300_000, 10)]);
        assert_eq!(ranges(text, "", 7), []);
    }
}
