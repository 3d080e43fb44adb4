//! Layers as mounts: one read-only EROFS mount a layer, shared by every container of the host.
//!
//! In: a layer in index form. Out: `run/layers/ALG-HEX`, mounted. What no container uses is unmounted; the page cache is
//! shared because the mount is. Two locks of that folder: `.lock` is shared by everyone who is about to stack layers and
//! exclusive while idle ones are unmounted; `.mounting` has one holder, who mounts.

use crate::store::layers::{Form, LayerOnDisk};
use crate::store::{Store, StoreError, layout, rootfs, sys};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};
use std::collections::HashSet;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Says that layers of this folder are being stacked: none is unmounted while the returned lock is held.
pub(crate) fn stacking(layers: &Path) -> Result<std::fs::File, StoreError> {
    sys::create_dirs(layers).map_err(StoreError::io("create", layers))?;
    let path = layers.join(".lock");
    let lock = layout::open_lock(&path)?;
    lock.lock_shared().map_err(StoreError::io("lock", &path))?;
    Ok(lock)
}

/// Mounts a layer in `layers` unless it is, and returns where. The caller holds [`stacking`].
pub(crate) fn mount_layer(layers: &Path, layer: &LayerOnDisk) -> Result<PathBuf, StoreError> {
    let name = format!("{}-{}", layer.diff_id.algorithm().name(), layer.diff_id.hex());
    let target = layers.join(name);
    let _lock = lock(layers, ".mounting")?;
    sys::create_dirs(&target).map_err(StoreError::io("create", &target))?;
    if !rootfs::is_mount_point(&target)? {
        mount_index(&layer.index(), &layer.tar(), &target)?;
    }
    Ok(target)
}

/// Mounts an EROFS image whose files point into `tar`, both as plain files: no loop device.
pub(crate) fn mount_index(index: &Path, tar: &Path, target: &Path) -> Result<(), StoreError> {
    let mount = open_index(index, tar).map_err(StoreError::errno("mount the layer", index))?;
    rustix::mount::move_mount(mount.as_fd(), "", rustix::fs::CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(StoreError::errno("mount the layer on", target))
}

/// Makes the mount without a place in the tree.
pub(crate) fn open_index(index: &Path, tar: &Path) -> Result<std::os::fd::OwnedFd, rustix::io::Errno> {
    let fs = rustix::mount::fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(fs.as_fd(), "source", index)?;
    rustix::mount::fsconfig_set_string(fs.as_fd(), "device", tar)?;
    rustix::mount::fsconfig_set_flag(fs.as_fd(), "ro")?;
    rustix::mount::fsconfig_create(fs.as_fd())?;
    rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)
}

/// Unmounts the layers in `layers` that no container uses. The container `except` does not count: it has just stopped,
/// and its layers are mounted again when it starts.
pub(crate) fn unmount_idle(store: &Store, layers: &Path, except: Option<&str>) -> Result<(), StoreError> {
    if !layers.try_exists().map_err(StoreError::io("look at", layers))? {
        return Ok(());
    }
    let _lock = lock(layers, ".lock")?;
    let needed: HashSet<String> = rootfs::uses(store, false)?
        .into_iter()
        .filter(|(id, used)| used.form == Form::Index && except != Some(id.as_str()) && used.mount.exists())
        .flat_map(|(_, used)| used.diff_ids)
        .map(|diff_id| format!("{}-{}", diff_id.algorithm().name(), diff_id.hex()))
        .collect();
    for entry in std::fs::read_dir(layers).map_err(StoreError::io("read the directory", layers))? {
        let entry = entry.map_err(StoreError::io("read the directory", layers))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || needed.contains(&name) {
            continue;
        }
        let path = entry.path();
        if rootfs::is_mount_point(&path)? {
            rootfs::unmount(&path)?;
        }
        // Not empty when someone else put it there: then it is not ours to remove.
        let _ = std::fs::remove_dir(&path);
    }
    Ok(())
}

fn lock(layers: &Path, name: &str) -> Result<std::fs::File, StoreError> {
    let path = layers.join(name);
    let lock = layout::open_lock(&path)?;
    lock.lock().map_err(StoreError::io("lock", &path))?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::scratch;

    #[test]
    fn nothing_is_unmounted_while_someone_stacks_layers() {
        let (dir, store) = scratch();
        let layers = dir.path().join("run/layers");
        let stacking = stacking(&layers).unwrap();
        // The folder of a layer, as it is between `mount_layer` and the overlay.
        let layer = layers.join("sha256-00");
        std::fs::create_dir(&layer).unwrap();
        let lock = layout::open_lock(&layers.join(".lock")).unwrap();
        assert!(lock.try_lock().is_err(), "the lock of unmount_idle is taken");
        assert!(lock.try_lock_shared().is_ok(), "others stack beside it");
        drop(lock);
        let other = std::thread::spawn({
            let layers = layers.clone();
            move || unmount_idle(&store, &layers, None)
        });
        while !other.is_finished() {
            assert!(layer.exists(), "it is not taken while it is being stacked");
            // Let go as soon as the other one waits, or at once: the order of the two is the lock's business.
            std::thread::yield_now();
            if std::fs::read_to_string("/proc/locks").is_ok_and(|locks| locks.contains("-> FLOCK")) {
                break;
            }
        }
        assert!(layer.exists());
        drop(stacking);
        other.join().unwrap().unwrap();
        assert!(!layer.exists());
    }
}
