//! `rm` and what follows every end: mounts, addresses, ports, files are given back. Each step may have been done before.

use super::{Container, Engine, Locked};
use crate::error::EngineError;
use crate::file::{self, Durable};
use crate::host::netns;
use crate::record::Status;
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
        let networks = self.networks();
        for attachment in self.attachments(container) {
            keep(networks.detach(&attachment).map_err(EngineError::from));
        }
        if container.run.exists() {
            // Also what a crash between connecting and writing it down has left.
            keep(networks.sweep(id).map_err(EngineError::from));
            keep(netns::unpin(&container.run.join("netns")).map_err(EngineError::io("unmount the network namespace")));
        }
        fs::remove_file(container.data.join("network.json")).ok();
        keep(self.rootfs_release(container));
        keep(remove_folder(&container.run).map_err(EngineError::io(format!("remove {}", container.run.display()))));
        first
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
        let locked = self.lock(name)?;
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
            self.stop_locked(&locked.container, Some(libc::SIGKILL), Some(0))?;
        }
        self.remove_locked(locked, volumes)
    }

    /// Removes a locked container that does not run.
    pub(super) fn remove_locked(&self, mut locked: Locked, volumes: bool) -> Result<(), EngineError> {
        locked.container.state.status = Status::Removing;
        file::save(&locked.container.data.join("state.json"), &locked.container.state, Durable::No)?;
        let container = &locked.container;
        let mut done = self.give_back(container);
        let removed = self.rootfs_remove(container);
        done = done.and(removed);
        let released = self.release_volumes(&container.record, volumes || container.record.wish.remove);
        done = done.and(released);
        self.release_ids(container);
        done?;
        self.event(&container.record, "destroy", &[]);
        self.names().release(container.name(), container.id())?;
        // The record goes last: until then `rm` can be said again.
        let data = container.data.clone();
        for entry in fs::read_dir(&data).map_err(EngineError::io(format!("read {}", data.display())))?.flatten() {
            if entry.file_name() != "record.json" && entry.file_name() != "lock" {
                let path = entry.path();
                let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
                let removed = if is_dir { remove_folder(&path) } else { fs::remove_file(&path) };
                removed.map_err(EngineError::io(format!("remove {}", path.display())))?;
            }
        }
        fs::remove_dir_all(&data).map_err(EngineError::io(format!("remove {}", data.display())))
    }
}

/// Removes a folder of ours; a mount in it is taken off first, so that nothing of anybody else is ever deleted.
fn remove_folder(folder: &Path) -> io::Result<()> {
    let meta = match fs::symlink_metadata(folder) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    unmount_below(folder, meta.dev(), 2)?;
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
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
