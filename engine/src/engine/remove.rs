//! `rm` and what follows every end: mounts, addresses, ports, files are given back. Each step may have been done before.

use super::{Container, Engine, Locked, mounts};
use crate::error::EngineError;
use crate::file::{self, Durable};
use crate::host::{netns, slirp};
use crate::network::Mode;
use crate::record::Status;
use image::store::remove_tree;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, umount2};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

impl Engine {
    /// Gives back what a container that does not run still holds of the host: cgroup, network, mounts, run folder.
    /// Goes on after a failure and reports the first.
    pub(super) fn give_back(&self, container: &Container) -> Result<(), EngineError> {
        let id = container.id();
        let mut first = Ok(());
        let mut keep = |result: Result<(), EngineError>| {
            if first.is_ok() {
                first = result;
            }
        };
        if self.roots.runtime().join(id).exists() {
            keep(self.runtime_delete(id));
        }
        self.disconnect_all(container, &mut keep);
        if container.run.exists() {
            keep(netns::unpin(&container.run.join("netns")).map_err(EngineError::io("unmount the network namespace")));
        }
        keep(self.rootfs_release(container));
        keep(mounts::unpin(&container.run).map_err(EngineError::io("unmount the pinned parts of volumes")));
        if first.is_ok() {
            // The run folder goes last: as long as it is there, the next call looks for what a crash has left.
            first =
                remove_folder(&container.run).map_err(EngineError::io(format!("remove {}", container.run.display())));
        }
        first
    }

    /// Undoes every attachment; what cannot be undone stays on record for the next try.
    fn disconnect_all(&self, container: &Container, keep: &mut dyn FnMut(Result<(), EngineError>)) {
        if crate::roots::rootless().is_some() {
            slirp::stop(&container.run);
            fs::remove_file(container.data.join("network.json")).ok();
            return;
        }
        let networks = self.networks();
        let record = container.data.join("network.json");
        let attachments = self.attachments(container);
        let mut left = Vec::new();
        for attachment in &attachments {
            if let Err(error) = networks.detach(attachment) {
                keep(Err(error.into()));
                left.push(attachment.clone());
            }
        }
        // What a crash between connecting and writing it down has left: it is looked for among the leases of everybody, so only
        // where something is missing in the record.
        let connecting = container.data.join(super::connect::CONNECTING);
        let wanted = match Mode::parse(&container.record.wish.networks) {
            Ok(Mode::Networks(names)) => names.len(),
            _ => 0,
        };
        let incomplete = attachments.len() < wanted || connecting.exists();
        if incomplete && (container.run.exists() || record.exists()) {
            let swept = networks.sweep(container.id()).map_err(EngineError::from);
            if swept.is_ok() {
                fs::remove_file(&connecting).ok();
            }
            keep(swept);
        }
        if left.is_empty() {
            fs::remove_file(&record).ok();
        } else if left.len() < attachments.len() {
            keep(self.save_attachments(container, &left));
        }
    }

    fn runtime_delete(&self, id: &str) -> Result<(), EngineError> {
        let output = Command::new(self.runtime()?)
            .arg("--root")
            .arg(self.roots.runtime())
            .args(["delete", "--force", id])
            .stdin(Stdio::null())
            .output()
            .map_err(EngineError::io("execute the runtime"))?;
        if output.status.success() || !self.roots.runtime().join(id).exists() {
            return Ok(());
        }
        Err(EngineError::Runtime {
            step: format!("delete {id}"),
            message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    /// What follows the end of a container nobody is attached to; the monitor becomes this command. One that was started
    /// again in between is left alone.
    pub fn cleanup(&self, name: &str) -> Result<(), EngineError> {
        let locked = match self.lock(name) {
            Err(EngineError::NoSuchContainer { .. }) => return Ok(()),
            other => other?,
        };
        if locked.is_active() {
            return Ok(());
        }
        let given_back = self.give_back(&locked.container);
        if locked.container.record.wish.remove && locked.container.state.status == Status::Exited {
            return self.remove_locked(locked, true);
        }
        given_back
    }

    /// Removes a container. `force` stops a running one with SIGKILL; `volumes` takes its anonymous volumes along.
    pub fn remove(&self, name: &str, force: bool, volumes: bool) -> Result<(), EngineError> {
        let mut killing = None;
        if force {
            match self.find(name) {
                Err(EngineError::File(damage)) if !damage.is_missing() => return self.remove_damaged(name),
                // Whoever holds its lock now may be waiting for it to stop.
                Ok(container) if container.monitored && container.state.status.is_active() => {
                    killing = self.kill_at_once(&container);
                }
                _ => {}
            }
        }
        let locked = self.lock(name)?;
        let mut promise = None;
        if locked.is_active() {
            if !force {
                let container = &locked.container;
                let reason = match container.state.status {
                    Status::Paused => "is paused and cannot be removed; unpause and stop it, or use -f",
                    Status::Restarting => "is restarting and cannot be removed; stop it, or use -f",
                    _ => "is running and cannot be removed; stop it, or use -f",
                };
                return Err(container.state_error(reason));
            }
            promise = self.stop_locked(&locked.container, Some(libc::SIGKILL), Some(0))?;
        }
        let removed = self.remove_locked(locked, volumes);
        drop((promise, killing));
        removed
    }

    /// Removes a container whose files cannot be read: whatever is known by its id.
    fn remove_damaged(&self, name: &str) -> Result<(), EngineError> {
        let id = self.resolve(name)?;
        let data = self.roots.container_data(&id);
        let step = || EngineError::io(format!("lock container {name}"));
        let _lock = super::lock_file(&data).map_err(step())?;
        let run = self.roots.container_run(&id);
        if crate::monitor::lock::held(&run) == Some(true) {
            return Err(EngineError::State {
                name: name.to_owned(),
                reason: format!("cannot be read and runs: kill its process (shoal-monitor {})", run.display()),
            });
        }
        let record = crate::record::Record { id: id.clone(), ..Default::default() };
        let state = crate::record::State::created();
        let container = Container { record, state, data: data.clone(), run, monitored: false };
        let given_back = self.give_back(&container);
        let removed = self.rootfs_remove(&container);
        given_back.and(removed)?;
        self.volumes().forget(&id)?;
        self.release_ids(&container);
        remove_data(&data)?;
        Ok(self.names().sweep()?)
    }

    /// Removes a locked container that does not run. Until everything it holds is given back its record stays, and `rm` can
    /// be said again.
    pub(super) fn remove_locked(&self, mut locked: Locked, volumes: bool) -> Result<(), EngineError> {
        locked.container.state.status = Status::Removing;
        file::save(&locked.container.data.join("state.json"), &locked.container.state, Durable::No)?;
        let container = &locked.container;
        let mut done = self.give_back(container);
        let removed = self.rootfs_remove(container);
        done = done.and(removed);
        let released = self.release_volumes(&container.record, volumes || container.record.wish.remove);
        done.and(released)?;
        self.release_ids(container);
        self.event(&container.record, "destroy", &[]);
        self.names().release(container.name(), container.id())?;
        remove_data(&container.data)?;
        if self.ids()?.is_empty() {
            self.remove_cgroup_parents();
        }
        Ok(())
    }

    /// Removes the cgroups above the containers' own, in every hierarchy. Whatever lives in one keeps it.
    fn remove_cgroup_parents(&self) {
        let cgroup = self.roots.cgroup();
        let Some(own) = cgroup.strip_prefix('/') else { return };
        let mount = Path::new("/sys/fs/cgroup");
        let hierarchies = fs::read_dir(mount).into_iter().flatten().flatten().map(|entry| entry.path());
        for hierarchy in hierarchies.chain([mount.to_owned()]) {
            let mut folder = hierarchy.join(own);
            // HASH, then `shoal`, which other roots may share.
            while folder != hierarchy && fs::remove_dir(&folder).is_ok() && folder.pop() {}
        }
    }

    /// Removes folders of containers without a record that nobody is making or removing: what a killed `create` or `rm` has
    /// left. Returns how many.
    pub fn sweep_folders(&self) -> Result<usize, EngineError> {
        let mut swept = 0;
        for id in self.ids()? {
            let data = self.roots.container_data(&id);
            if data.join("record.json").exists() {
                continue;
            }
            // Whoever makes or removes it holds its lock; a folder that has none yet gets one.
            let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(data.join("lock"));
            let Ok(file) = file else { continue };
            let Ok(_lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { continue };
            if !data.join("record.json").exists() {
                self.volumes().forget(&id)?;
                remove_data(&data)?;
                swept += 1;
            }
        }
        self.names().sweep()?;
        self.volumes().sweep()?;
        if self.ids()?.is_empty() {
            // Whoever removed the last one may have been killed before it came to this.
            self.remove_cgroup_parents();
        }
        Ok(swept)
    }
}

/// Removes a container's data folder. Everything else goes first, then the record, then the lock: whoever sees a record sees
/// a container that can be removed, and whoever waits for the lock finds nothing.
pub(super) fn remove_data(data: &Path) -> Result<(), EngineError> {
    for entry in fs::read_dir(data).map_err(EngineError::io(format!("read {}", data.display())))?.flatten() {
        if entry.file_name() != "record.json" && entry.file_name() != "lock" {
            let path = entry.path();
            remove_folder(&path).map_err(EngineError::io(format!("remove {}", path.display())))?;
        }
    }
    for name in ["record.json", "lock"] {
        let path = data.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(EngineError::io(format!("remove {}", path.display()))(error));
            }
            _ => {}
        }
    }
    remove_tree(data).map_err(EngineError::io(format!("remove {}", data.display())))
}

/// Removes a folder of ours; a mount in it is taken off first, so that nothing of anybody else is ever deleted.
fn remove_folder(folder: &Path) -> io::Result<()> {
    let meta = match fs::symlink_metadata(folder) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if meta.is_dir() {
        unmount_below(folder, meta.dev(), 2)?;
    }
    remove_tree(folder)
}

fn unmount_below(folder: &Path, device: u64, depth: u32) -> io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        let path = entry.path();
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.dev() != device {
            umount2(&path, MntFlags::MNT_DETACH)?;
        } else if meta.is_dir() && depth > 0 {
            unmount_below(&path, device, depth - 1)?;
        }
    }
    Ok(())
}
