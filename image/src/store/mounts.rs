//! Layers as mounts: one read-only EROFS mount a layer, shared by every container of the host.
//!
//! In: a layer in index form. Out: `run/layers/ALG-HEX`, mounted. Mounting and unmounting happen under the lock of that
//! folder, and what no container uses is unmounted; the page cache is shared because the mount is.

use crate::store::layers::{Form, LayerOnDisk};
use crate::store::{Store, StoreError, layout, rootfs, sys};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};
use std::collections::HashSet;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Mounts a layer in `layers` unless it is, and returns where.
pub(crate) fn mount_layer(layers: &Path, layer: &LayerOnDisk) -> Result<PathBuf, StoreError> {
    sys::create_dirs(layers).map_err(StoreError::io("create", layers))?;
    let name = format!("{}-{}", layer.diff_id.algorithm().name(), layer.diff_id.hex());
    let target = layers.join(name);
    let _lock = lock(layers)?;
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
    if !layers.exists() {
        return Ok(());
    }
    let _lock = lock(layers)?;
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

fn lock(layers: &Path) -> Result<std::fs::File, StoreError> {
    let path = layers.join(".lock");
    let lock = layout::open_lock(&path)?;
    lock.lock().map_err(StoreError::io("lock", &path))?;
    Ok(lock)
}
