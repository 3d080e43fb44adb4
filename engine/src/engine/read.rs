//! Verbs that look at one container and change nothing of its life: `logs`, `stats`, `top`, `port`, `diff`; and the small
//! changes `rename` and `update`.

use super::{Container, Engine};
use crate::cgroup::{self, Usage};
use crate::error::EngineError;
use crate::log::{Entry, Follow, Query};
use crate::monitor::protocol::{Client, Reply, Request};
use crate::name::{self, Claim};
use crate::wish::Resources;
use std::io;

/// One measurement of `stats`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sample {
    /// When.
    pub time: crate::time::Nanos,
    /// What the cgroup says.
    pub usage: Usage,
    /// Bytes received and sent by the container's interfaces.
    pub network: (u64, u64),
}

/// One line of `diff`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// The path inside.
    pub path: String,
    /// `A`, `C` or `D`.
    pub kind: char,
}

impl Engine {
    /// Reads a container's log, and goes on reading while it runs when `follow`.
    pub fn logs(
        &self,
        name: &str,
        query: &Query,
        follow: bool,
        out: &mut dyn FnMut(Entry) -> io::Result<()>,
    ) -> Result<(), EngineError> {
        let container = self.find(name)?;
        let log = &container.record.wish.log;
        if !follow {
            return Ok(query.read(log, &container.data, out)?);
        }
        let id = container.record.id.clone();
        query.read_and_follow(log, &container.data, out, &mut || match self.load(&id) {
            Ok(now) if now.state.status.is_active() => Follow::Wait,
            _ => Follow::Stop,
        })?;
        Ok(())
    }

    /// Measures a running container.
    pub fn sample(&self, container: &Container) -> Sample {
        let text =
            std::fs::read_to_string(format!("/proc/{}/net/dev", container.state.process.pid)).unwrap_or_default();
        Sample {
            time: crate::time::now(),
            usage: cgroup::usage(&self.cgroup_of(&container.record)),
            network: interface_bytes(&text),
        }
    }

    /// The processes of a container, by number in the host's namespace.
    pub fn processes(&self, container: &Container) -> Vec<i32> {
        if crate::roots::rootless().is_some() {
            // Without a cgroup of its own: what its first process has begotten.
            return begotten(container.state.process.pid);
        }
        cgroup::processes(&self.cgroup_of(&container.record))
    }

    /// Gives a container another name.
    pub fn rename(&self, old: &str, new: &str) -> Result<(), EngineError> {
        if !name::is_valid(new) {
            return Err(EngineError::Invalid(format!(
                "invalid container name {new:?}: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
            )));
        }
        let mut locked = self.lock(old)?;
        let id = locked.container.record.id.clone();
        let former = locked.container.record.name.clone();
        if former == new {
            return Err(EngineError::Invalid("renaming a container with the same name as its current name".to_owned()));
        }
        if let Claim::Taken(holder) = self.names().claim(new, &id)? {
            return Err(EngineError::NameTaken { name: new.to_owned(), holder });
        }
        new.clone_into(&mut locked.container.record.name);
        if let Err(error) = locked.save_record() {
            self.names().release(new, &id).ok();
            return Err(error);
        }
        self.names().release(&former, &id)?;
        if locked.is_active() {
            let networks = self.networks();
            let attachments = self.attachments(&locked.container);
            let has_names = |attachment: &&crate::network::Attachment| attachment.network != crate::host::slirp::NAME;
            attachments.iter().filter(has_names).try_for_each(|attachment| networks.rename(attachment, new))?;
        }
        if let Ok(mut client) = Client::connect(&locked.container.run) {
            // Only its log and events name it; a monitor that does not answer keeps the old name.
            client.send(&Request::Rename { name: new.to_owned() }).ok();
            client.reply_within(super::stop::ANSWER).ok();
        }
        self.event(&locked.container.record, "rename", &[("oldName", &former)]);
        Ok(())
    }

    /// Changes limits and the restart policy of a container, also while it runs.
    pub fn update(
        &self,
        name: &str,
        change: &dyn Fn(&mut Resources),
        restart: Option<crate::restart::Policy>,
    ) -> Result<(), EngineError> {
        let mut locked = self.lock(name)?;
        let wish = &mut locked.container.record.wish;
        change(&mut wish.resources);
        // Refused now, not at the next start, which may be weeks away.
        super::create::check_resources(&wish.resources)?;
        if let Some(policy) = restart {
            if wish.remove && policy != crate::restart::Policy::No {
                return Err(EngineError::Invalid("a container with --rm has no restart policy".to_owned()));
            }
            wish.restart = policy;
        }
        if locked.is_active() {
            let container = &locked.container;
            let mut resources = super::prepare::resources(&container.record.wish.resources)?;
            if let Some(nanos) = container.record.wish.resources.nano_cpus {
                let cpu = resources.cpu.get_or_insert_default();
                cpu.period = Some(100_000);
                cpu.quota = Some((nanos / 10_000).max(1000));
            }
            self.runtime_update(container, &resources)?;
            keep_for_restarts(container, resources)?;
            if let (Some(policy), Ok(mut client)) = (restart, Client::connect(&container.run)) {
                let speak = || EngineError::io(format!("speak to the monitor of {}", container.name()));
                client.send(&Request::Restart { policy }).map_err(speak())?;
                client.reply_within(super::stop::ANSWER).map_err(speak())?;
            }
        }
        locked.save_record()?;
        self.event(&locked.container.record, "update", &[]);
        Ok(())
    }

    fn runtime_update(&self, container: &Container, resources: &oci::spec::LinuxResources) -> Result<(), EngineError> {
        let file = container.run.join("resources.json");
        crate::file::save(&file, resources, crate::file::Durable::No)?;
        let output = std::process::Command::new(self.runtime()?)
            .arg("--root")
            .arg(self.roots.runtime())
            .args(["update", "--resources"])
            .arg(&file)
            .arg(container.id())
            .output()
            .map_err(EngineError::io("execute the runtime"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(EngineError::Runtime {
            step: format!("update container {}", container.name()),
            message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    /// What a container has changed in its root file system, sorted by path.
    pub fn diff(&self, name: &str) -> Result<Vec<Change>, EngineError> {
        let container = self.find(name)?;
        let Some(upper) = self.upper(&container) else {
            return Err(EngineError::Invalid("a container on --rootfs keeps no changes apart".to_owned()));
        };
        let lower = self.image_root(&container)?;
        let mut changes = Vec::new();
        walk_upper(&upper, &lower, std::path::Path::new("/"), &mut changes)
            .map_err(EngineError::io(format!("read the changes of {}", container.name())))?;
        changes.sort();
        Ok(changes)
    }

    /// Probes a container's health now.
    pub fn probe(&self, name: &str) -> Result<crate::health::Entry, EngineError> {
        let container = self.find(name)?;
        let speak = || EngineError::io(format!("speak to the monitor of {}", container.name()));
        if !container.state.status.is_active() {
            return Err(container.state_error("is not running"));
        }
        let mut client = Client::connect(&container.run).map_err(speak())?;
        client.send(&Request::Probe).map_err(speak())?;
        loop {
            match client.reply().map_err(speak())? {
                Some(Reply::Probed { entry }) => return Ok(entry),
                Some(Reply::Refused { message }) => return Err(EngineError::Invalid(message)),
                Some(Reply::Exited { .. }) | None => return Err(container.state_error("ended during the probe")),
                Some(_) => {}
            }
        }
    }
}

/// Places that every container gets something mounted on; what was made there to mount on is nobody's change. Docker keeps
/// them in a layer of its own below the container's.
const MOUNTED: [&str; 6] = ["/dev", "/proc", "/sys", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];

/// Reads overlayfs's form of changes: a device 0/0 is a removal; what the image has too is a change, else an addition.
/// Returns whether something was left out.
fn walk_upper(
    upper: &std::path::Path,
    lower: &[std::path::PathBuf],
    inside: &std::path::Path,
    out: &mut Vec<Change>,
) -> io::Result<bool> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let entries = match std::fs::read_dir(upper) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut left_out = false;
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let inside = inside.join(&name);
        let meta = std::fs::symlink_metadata(&path)?;
        let relative = inside.strip_prefix("/").unwrap_or(&inside);
        let known = lower.iter().find_map(|layer| std::fs::symlink_metadata(layer.join(relative)).ok());
        let kind = match &known {
            _ if meta.file_type().is_char_device() && meta.rdev() == 0 => 'D',
            Some(_) => 'C',
            None => 'A',
        };
        if kind != 'D' && MOUNTED.iter().any(|place| inside.as_os_str() == *place) {
            left_out = true;
            continue;
        }
        let place = out.len();
        out.push(Change { path: inside.to_string_lossy().into_owned(), kind });
        if meta.is_dir() && walk_upper(&path, lower, &inside, out)? && out.len() == place + 1 {
            // The directory is here for the sake of what was left out, unless it was changed itself.
            let same = |known: std::fs::Metadata| {
                (known.mode(), known.uid(), known.gid()) == (meta.mode(), meta.uid(), meta.gid())
            };
            if known.is_none_or(same) {
                out.pop();
            }
            left_out = true;
        }
    }
    Ok(left_out)
}

/// A process and all below it.
fn begotten(first: i32) -> Vec<i32> {
    let mut all = vec![first];
    let mut at = 0;
    while let Some(&pid) = all.get(at) {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(text.split_whitespace().filter_map(|word| word.parse::<i32>().ok()));
        }
        at += 1;
    }
    all
}

/// Sums `/proc/PID/net/dev` without loopback.
fn interface_bytes(text: &str) -> (u64, u64) {
    text.lines().skip(2).fold((0, 0), |(received, sent), line| {
        let Some((name, numbers)) = line.split_once(':') else { return (received, sent) };
        if name.trim() == "lo" {
            return (received, sent);
        }
        let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        (received + numbers.first().unwrap_or(&0), sent + numbers.get(8).unwrap_or(&0))
    })
}

/// Writes changed limits into the document by which the monitor starts the container again.
fn keep_for_restarts(container: &Container, changed: oci::spec::LinuxResources) -> Result<(), EngineError> {
    let path = container.run.join("config.json");
    let mut spec: oci::spec::Spec = crate::file::load(&path)?;
    let own = spec.linux.get_or_insert_default().resources.get_or_insert_default();
    own.memory = changed.memory.or_else(|| own.memory.take());
    own.cpu = changed.cpu.or_else(|| own.cpu.take());
    own.pids = changed.pids.or_else(|| own.pids.take());
    own.block_io = changed.block_io.or_else(|| own.block_io.take());
    Ok(crate::file::save(&path, &spec, crate::file::Durable::No)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_was_made_to_mount_on_is_no_change() {
        let room = std::env::temp_dir().join(format!("shoal-diff-{}", std::process::id()));
        let (upper, lower) = (room.join("upper"), room.join("lower"));
        for folder in
            ["upper/etc", "upper/proc", "upper/dev/pts", "upper/home/x", "upper/var", "lower/etc", "lower/home"]
        {
            fs::create_dir_all(room.join(folder)).unwrap();
        }
        fs::create_dir_all(lower.join("var")).unwrap();
        for file in ["upper/etc/hosts", "upper/home/x/new"] {
            fs::write(room.join(file), "").unwrap();
        }
        let changes = || {
            let mut out = Vec::new();
            walk_upper(&upper, std::slice::from_ref(&lower), std::path::Path::new("/"), &mut out).unwrap();
            out.sort();
            out.iter().map(|change| format!("{} {}", change.kind, change.path)).collect::<Vec<_>>()
        };
        assert_eq!(changes(), ["C /home", "A /home/x", "A /home/x/new", "C /var"]);
        fs::write(upper.join("etc/mine"), "").unwrap();
        assert_eq!(changes()[..2], ["C /etc", "A /etc/mine"]);
        fs::remove_dir_all(&room).unwrap();
    }
}
