//! The layers of an image, stacked: each by itself where it can stand alone, together with those below where not.
//!
//! In: an image, the form in which this host mounts layers, and a container. Out: the directories that show it, base first,
//! which stay until the container lets go of them. A layer that needs what is below it (a hard link to a file of a lower layer, a file in a
//! directory that is a link or has other attributes down there) is unpacked with all layers under it into one directory,
//! named by its chain id: what every tool makes that unpacks layers in order. The layers above it are shared as ever.

use crate::layer::extract::{Extractor, Options, Whiteouts};
use crate::layer::tar::Reader;
use crate::progress::{Event, Progress};
use crate::store::layers::{Below, Form, LayerMeta, LayerOnDisk, RootEntry};
use crate::store::{ImageRecord, Store, StoreError, mounts, sys};
use oci::Digest;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// An image's layers as directories.
pub(crate) struct Stack {
    /// The directories, base first; one may come twice.
    pub(crate) dirs: Vec<PathBuf>,
    /// What the topmost layer that mentions the root directory says about it.
    pub(crate) root: Option<RootEntry>,
}

/// Makes and mounts what is missing, for the container `id`.
pub(crate) fn make(
    store: &Store,
    image: &ImageRecord,
    diff_ids: &[Digest],
    form: Form,
    (layers_dir, id): (&Path, &str),
    progress: &dyn Progress,
) -> Result<Stack, StoreError> {
    let mut layers = Vec::with_capacity(diff_ids.len());
    for (blob, diff_id) in image.layers.iter().zip(diff_ids) {
        layers.push(store.ensure_layer(blob, diff_id, form, progress)?);
    }
    let alone = layers.iter().all(|layer| layer.meta.below == Below::default());
    let mut merged = if alone { None } else { merged_already(store, diff_ids)? };
    // Each turn merges more layers than the one before, or is the last.
    loop {
        let first = merged.as_ref().map_or(0, |(last, _)| last + 1);
        let rest = &layers[first..];
        let found = match rest.iter().rposition(|layer| layer.meta.below.needs.is_some()) {
            Some(place) => Found::Needs(place),
            None => mount((layers_dir, id), merged.as_ref().map(|(_, layer)| layer), rest)?,
        };
        match found {
            Found::Mounted(dirs) => {
                let own = rest.iter().rev().find_map(|layer| layer.meta.root);
                let root = own.or_else(|| merged.and_then(|(_, layer)| layer.meta.root));
                return Ok(Stack { dirs, root });
            }
            Found::Needs(place) => {
                let last = first + place;
                merged = Some((last, ensure_merged(store, image, diff_ids, last, progress)?));
            }
        }
    }
}

/// What looking at layers one over the other finds.
enum Found {
    /// The directories, base first.
    Mounted(Vec<PathBuf>),
    /// The place of a layer that needs what is below it.
    Needs(usize),
}

/// Directories as overlayfs wants them: top first, and each once, where it is on top: what it holds hides its lower self.
pub(crate) fn top_first(dirs: &[PathBuf]) -> Vec<PathBuf> {
    let mut seen = HashSet::new();
    dirs.iter().rev().filter(|dir| seen.insert(dir.as_path())).cloned().collect()
}

/// The longest part of the stack that was merged before, with the place of its last layer.
fn merged_already(store: &Store, diff_ids: &[Digest]) -> Result<Option<(usize, LayerOnDisk)>, StoreError> {
    for (place, chain_id) in oci::config::chain_ids(diff_ids).iter().enumerate().rev() {
        if let Some(layer) = store.layer(chain_id, Form::Merged)? {
            return Ok(Some((place, layer)));
        }
    }
    Ok(None)
}

/// Mounts layers over each other, as far as each can stand alone.
fn mount(
    (layers_dir, id): (&Path, &str),
    merged: Option<&LayerOnDisk>,
    layers: &[LayerOnDisk],
) -> Result<Found, StoreError> {
    let mut dirs: Vec<PathBuf> = merged.map(LayerOnDisk::tree).into_iter().collect();
    for (place, layer) in layers.iter().enumerate() {
        let has_implied = !layer.meta.below.implied.is_empty();
        if has_implied && !dirs.is_empty() && !stands_alone(&top_first(&dirs), &layer.meta.below)? {
            return Ok(Found::Needs(place));
        }
        dirs.push(match layer.meta.form {
            Form::Index => mounts::hold(layers_dir, layer, id)?,
            Form::Directory | Form::Merged => layer.tree(),
        });
    }
    Ok(Found::Mounted(dirs))
}

/// Whether what lies below says nothing of a layer's implied directories that the layer itself does not.
fn stands_alone(lower: &[PathBuf], below: &Below) -> Result<bool, StoreError> {
    let Some(view) = view(lower)? else { return Ok(false) };
    for path in below.implied_paths() {
        let opened = sys::open_no_links(&view, path.as_slice(), OFlags::RDONLY | OFlags::DIRECTORY);
        match opened {
            Ok(directory)
                if is_plain(&directory).map_err(StoreError::errno("look at a directory of", &lower[0]))? => {}
            Err(Errno::NOENT) => {}
            // Other attributes; a link or a file on the way.
            Ok(_) | Err(Errno::LOOP | Errno::NOTDIR) => return Ok(false),
            Err(errno) => return Err(StoreError::errno("look at a directory of", &lower[0])(errno)),
        }
    }
    Ok(true)
}

/// Whether a directory is what an implied one is: 0755, root's, without attributes.
fn is_plain(directory: &OwnedFd) -> Result<bool, Errno> {
    let stat = rustix::fs::fstat(directory)?;
    let owned = !rustix::process::geteuid().is_root() || (stat.st_uid, stat.st_gid) == (0, 0);
    let mut names = vec![0u8; 4096];
    let length = match rustix::fs::flistxattr(directory, &mut names) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        // More names than fit: not plain.
        Err(Errno::RANGE) => return Ok(false),
        Err(errno) => return Err(errno),
    };
    let mut names = names[..length].split(|b| *b == 0).filter(|name| !name.is_empty());
    // A label of a security module is the host's.
    let bare = names.all(|name| name.starts_with(b"trusted.overlay.") || name == b"security.selinux");
    Ok(stat.st_mode & 0o7777 == 0o755 && owned && bare)
}

/// What the directories show together; `None` where the kernel cannot stack them without a place in the tree.
fn view(lower: &[PathBuf]) -> Result<Option<OwnedFd>, StoreError> {
    if let [only] = lower {
        return sys::open_dir(only).map(Some).map_err(StoreError::io("open", only));
    }
    let mounted = (|| {
        let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for dir in lower {
            rustix::mount::fsconfig_set_string(fs.as_fd(), "lowerdir+", dir)?;
        }
        if !sys::is_host_root() {
            rustix::mount::fsconfig_set_flag(fs.as_fd(), "userxattr")?;
        }
        rustix::mount::fsconfig_create(fs.as_fd())?;
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY;
        let mount = rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        rustix::fs::openat(&mount, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    })();
    match mounted {
        Ok(view) => Ok(Some(view)),
        // An older kernel, or one that lets only root mount: merging is always right.
        Err(Errno::INVAL | Errno::NOSYS | Errno::PERM | Errno::NODEV) => Ok(None),
        Err(errno) => Err(StoreError::errno("stack the layers over", &lower[lower.len() - 1])(errno)),
    }
}

/// The layers up to the one at `last` in one directory, unpacked in order when they are not there.
fn ensure_merged(
    store: &Store,
    image: &ImageRecord,
    diff_ids: &[Digest],
    last: usize,
    progress: &dyn Progress,
) -> Result<LayerOnDisk, StoreError> {
    let chain_id = oci::config::chain_ids(diff_ids)[last];
    // Held against a collection by the container's use, which names the layers.
    if let Some(layer) = store.layer(&chain_id, Form::Merged)? {
        return Ok(layer);
    }
    let short = image.layers[last].digest.short();
    progress.event(Event::Message(&format!("layer {short} is unpacked together with those below, which it relies on")));
    store.make_once(&chain_id, Form::Merged, |path| {
        let temporary = store.temporary_dir("merged")?;
        let tree = store.empty_tree(temporary.path())?;
        let root = sys::open_dir(&tree).map_err(StoreError::io("open", &tree))?;
        let owners = sys::keeps_owners();
        let mut extractor = Extractor::new(root, Options { whiteouts: Whiteouts::Merge, owners });
        let mut plain = 0;
        for (blob, diff_id) in image.layers.iter().zip(diff_ids).take(last + 1) {
            plain += store.read_layer(blob, diff_id, progress, |plain| {
                let mut reader = Reader::new(plain);
                extractor.layer(&mut reader)?;
                Ok(reader.drain()?)
            })?;
        }
        let meta = LayerMeta::new(Form::Merged, plain, extractor.root_entry(), Below::default());
        store.name_layer(temporary, &chain_id, path, meta)
    })
}
