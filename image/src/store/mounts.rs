//! Layers as mounts: one read-only EROFS mount a layer, shared by every container of the host.
//!
//! In: a layer in index form. Out: `run/layers/ALG-HEX`, mounted, and `run/layers/.held/ALG-HEX/ID` for each container that
//! needs it. Whoever takes the last hold of a layer away unmounts it; the page cache is shared because the mount is. `.lock`
//! of that folder has one holder at a time, for as long as it takes to look at a few names: whatever many containers do at
//! once, none reads what the others are.

use crate::store::layers::LayerOnDisk;
use crate::store::{StoreError, layout, rootfs, sys};
use oci::Digest;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Where the holds of the layers in `layers` are.
const HELD: &str = ".held";

/// Mounts a layer in `layers` unless it is, and returns where. It stays for as long as the container `id` holds it: until
/// [`let_go`].
pub(crate) fn hold(layers: &Path, layer: &LayerOnDisk, id: &str) -> Result<PathBuf, StoreError> {
    let name = name(&layer.diff_id);
    let target = layers.join(&name);
    let held = layers.join(HELD).join(&name);
    let hold = held.join(id);
    sys::create_dirs(layers).map_err(StoreError::io("create", layers))?;
    let _lock = lock(layers)?;
    sys::create_dirs(&held).map_err(StoreError::io("create", &held))?;
    std::fs::File::create(&hold).map_err(StoreError::io("create", &hold))?;
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

/// Takes the holds of the container `id` on these layers away, and unmounts those that nobody holds then. What is not held,
/// and not mounted, is left alone.
pub(crate) fn let_go(layers: &Path, diff_ids: &[Digest], id: &str) -> Result<(), StoreError> {
    if diff_ids.is_empty() || !layers.try_exists().map_err(StoreError::io("look at", layers))? {
        return Ok(());
    }
    let _lock = lock(layers)?;
    for diff_id in diff_ids {
        let name = name(diff_id);
        let held = layers.join(HELD).join(&name);
        let hold = held.join(id);
        unless_missing(std::fs::remove_file(&hold)).map_err(StoreError::io("remove", &hold))?;
        match unless_missing(std::fs::remove_dir(&held)) {
            Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => continue,
            other => other.map_err(StoreError::io("remove", &held))?,
        }
        let target = layers.join(&name);
        if !target.try_exists().map_err(StoreError::io("look at", &target))? {
            continue;
        }
        if rootfs::is_mount_point(&target)? {
            rootfs::unmount(&target)?;
        }
        // Not empty when someone else put it there: then it is not ours to remove.
        let _ = std::fs::remove_dir(&target);
    }
    // The last one takes the folder along.
    let _ = std::fs::remove_dir(layers.join(HELD));
    Ok(())
}

fn name(diff_id: &Digest) -> String {
    format!("{}-{}", diff_id.algorithm().name(), diff_id.hex())
}

fn lock(layers: &Path) -> Result<std::fs::File, StoreError> {
    let path = layers.join(".lock");
    let lock = layout::open_lock(&path)?;
    lock.lock().map_err(StoreError::io("lock", &path))?;
    Ok(lock)
}

fn unless_missing(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_stays_until_its_last_holder_lets_go() {
        let dir = tempfile::tempdir().unwrap();
        let layers = dir.path().join("run/layers");
        let layer = oci::Digest::sha256(b"layer");
        let (held, place) = (layers.join(HELD).join(name(&layer)), layers.join(name(&layer)));
        // As `hold` leaves them, without the mount, which only root can make.
        for folder in [&held, &place] {
            std::fs::create_dir_all(folder).unwrap();
        }
        for id in ["a", "b"] {
            std::fs::write(held.join(id), "").unwrap();
        }
        let_go(&layers, &[layer], "stranger").unwrap();
        let_go(&layers, &[layer], "a").unwrap();
        let_go(&layers, &[layer], "a").unwrap();
        assert!(place.exists() && held.join("b").exists());
        let_go(&layers, &[layer], "b").unwrap();
        assert!(!place.exists() && !layers.join(HELD).exists());
        let_go(&layers, &[layer], "b").unwrap();
    }

    #[test]
    fn many_let_go_at_once_and_the_layer_goes_with_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let layers = dir.path().join("run/layers");
        let layer = oci::Digest::sha256(b"layer");
        let (held, place) = (layers.join(HELD).join(name(&layer)), layers.join(name(&layer)));
        std::fs::create_dir_all(&held).unwrap();
        std::fs::create_dir_all(&place).unwrap();
        let ids: Vec<String> = (0..16).map(|number| number.to_string()).collect();
        ids.iter().for_each(|id| std::fs::write(held.join(id), "").unwrap());
        std::thread::scope(|scope| {
            for id in &ids {
                scope.spawn(|| let_go(&layers, &[layer], id).unwrap());
            }
        });
        assert!(!place.exists() && !held.exists());
    }
}
