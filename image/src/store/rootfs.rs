//! An image becomes a root file system: its layers below, the container's own changes on top.
//!
//! In: an image record and a container's directories. Out: a mounted overlay. `uses/ID` says that the container needs the
//! layers, from before they are looked for until [`remove`]; mounts can be made again from it after a restart of the host.
//! Preparing twice is preparing once.

use crate::progress::Progress;
use crate::store::layers::{Form, RootEntry};
use crate::store::{ImageRecord, Store, StoreError, layout, mounts, stack, sys};
use oci::Digest;
use rustix::fs::{Mode, Timespec, Timestamps};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags};
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The version of a `uses/ID` file.
const USE_VERSION: u32 = 1;

/// What a container asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootfsRequest {
    /// The container's id; names its `uses` file.
    pub id: String,
    /// A directory on a real disk that keeps the container's changes: `upper` and `work` are made in it.
    pub dir: PathBuf,
    /// Where the root file system is mounted; made when it is not there.
    pub mount: PathBuf,
    /// Where layers are mounted, once for all containers of the host: `run/layers`.
    pub layers: PathBuf,
}

/// Whom the owners of files are mapped to.
#[derive(Debug, Clone, Copy)]
pub struct Mapping<'a> {
    /// A user namespace with the map.
    pub userns: BorrowedFd<'a>,
    /// The user that its user 0 is outside.
    pub user: u32,
    /// The group that its group 0 is outside.
    pub group: u32,
}

/// A mounted root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rootfs {
    /// Where it is mounted.
    pub path: PathBuf,
    /// The container's changes, in overlayfs's form: what `diff` and `commit` read.
    pub upper: PathBuf,
    /// The layers' directories, top first.
    pub lower: Vec<PathBuf>,
}

/// Who uses which layers. The format of `uses/ID`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Use {
    /// The version of the format.
    pub(crate) version: u32,
    /// The container's directory: when it is gone, so is the use.
    pub(crate) dir: PathBuf,
    /// Where it is mounted.
    pub(crate) mount: PathBuf,
    /// Where layers are mounted.
    pub(crate) layers: PathBuf,
    /// The image's manifest.
    pub(crate) manifest: Digest,
    /// The image's config.
    pub(crate) config: Digest,
    /// The layers, base first.
    pub(crate) diff_ids: Vec<Digest>,
    /// Their form.
    pub(crate) form: Form,
}

/// Mounts the root file system of `image` for a container. What is missing is made: layers from their blobs, directories.
pub fn prepare(
    store: &Store,
    image: &ImageRecord,
    request: &RootfsRequest,
    progress: &dyn Progress,
) -> Result<Rootfs, StoreError> {
    make(store, image, request, None, progress)
}

/// Says that a container needs the layers of `image`, without mounting anything: one that was made and has not started.
pub fn claim(store: &Store, image: &ImageRecord, request: &RootfsRequest) -> Result<(), StoreError> {
    let diff_ids = store.diff_ids(image)?;
    sys::create_dirs(&request.dir).map_err(StoreError::io("create", &request.dir))?;
    write_use(store, image, request, &diff_ids, store.layer_form())
}

/// As [`prepare`], for a container in a user namespace of its own: everything in it belongs to whom `mapping` maps its owner
/// to. On disk nothing changes, also not in what the container writes. Needs mounts with an id map for overlayfs and the
/// layers' file systems: Linux 5.19 and 6.5.
pub fn prepare_mapped(
    store: &Store,
    image: &ImageRecord,
    request: &RootfsRequest,
    mapping: Mapping<'_>,
    progress: &dyn Progress,
) -> Result<Rootfs, StoreError> {
    make(store, image, request, Some(mapping), progress)
}

fn make(
    store: &Store,
    image: &ImageRecord,
    request: &RootfsRequest,
    mapping: Option<Mapping<'_>>,
    progress: &dyn Progress,
) -> Result<Rootfs, StoreError> {
    let diff_ids = store.diff_ids(image)?;
    for digest in image.layers.iter().map(|layer| &layer.digest).chain([&image.manifest.digest, &image.config.digest]) {
        store.hold(digest)?;
    }
    let form = store.layer_form();
    sys::create_dirs(&request.dir).map_err(StoreError::io("create", &request.dir))?;
    write_use(store, image, request, &diff_ids, form)?;
    let stack = stack::make(store, image, &diff_ids, form, (&request.layers, &request.id), progress)?;
    let lower = lower_dirs(request, &stack.dirs)?;
    let upper = request.dir.join("upper");
    let work = request.dir.join("work");
    make_upper(&upper, stack.root)?;
    sys::create_dirs(&work).map_err(StoreError::io("create", &work))?;
    sys::create_dirs(&request.mount).map_err(StoreError::io("create", &request.mount))?;
    if !is_mount_point(&request.mount)? {
        match mapping {
            None => mount_overlay(&lower, &upper, &work, &request.mount)?,
            Some(mapping) => mount_mapped(&lower, &request.dir, &request.mount, mapping)?,
        }
    }
    Ok(Rootfs { path: request.mount.clone(), upper, lower })
}

/// Unmounts the root file system of a container that stopped. Its changes stay, and so does its claim on the layers.
pub fn release(store: &Store, request: &RootfsRequest) -> Result<(), StoreError> {
    if request.mount.exists() && is_mount_point(&request.mount)? {
        unmount(&request.mount)?;
    }
    // Absent when the layers are plain directories.
    let _ = std::fs::remove_dir(&request.mount);
    match read_use(&use_path(store, &request.id))? {
        Some(used) => mounts::let_go(&used.layers, &used.diff_ids, &request.id),
        None => Ok(()),
    }
}

/// Unmounts the root file system of a container that is removed, deletes its changes and gives up its claim.
pub fn remove(store: &Store, request: &RootfsRequest) -> Result<(), StoreError> {
    release(store, request)?;
    for name in ["upper", "work"] {
        let path = request.dir.join(name);
        // Whatever the container has made of it, deeper than any path.
        super::tree::remove_tree(&path).map_err(StoreError::io("remove", &path))?;
    }
    let path = use_path(store, &request.id);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StoreError::io("remove", &path)(error)),
        _ => Ok(()),
    }
}

/// Every claim on layers whose container still has its directory, by container id. Claims without one are dropped when
/// `sweep` is set.
pub(crate) fn uses(store: &Store, sweep: bool) -> Result<Vec<(String, Use)>, StoreError> {
    let dir = store.path().join("uses");
    let mut uses = Vec::new();
    for entry in std::fs::read_dir(&dir).map_err(StoreError::io("read the directory", &dir))? {
        let entry = entry.map_err(StoreError::io("read the directory", &dir))?;
        let id = entry.file_name().to_string_lossy().into_owned();
        if id.starts_with('.') {
            continue;
        }
        // Its container was removed meanwhile.
        let Some(used) = read_use(&entry.path())? else { continue };
        // Not being able to look is not being gone.
        if used.dir.try_exists().map_err(StoreError::io("look at", &used.dir))? {
            uses.push((id, used));
        } else if sweep {
            mounts::let_go(&used.layers, &used.diff_ids, &id)?;
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok(uses)
}

/// Reads the claim of one container; `None` when there is none.
fn read_use(path: &Path) -> Result<Option<Use>, StoreError> {
    let raw = match std::fs::read(path) {
        Ok(raw) => raw,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("read the use", path)(error)),
    };
    let used: Use = serde_json::from_slice(&raw).map_err(|source| StoreError::Document {
        what: "the use",
        digest: path.display().to_string(),
        source,
    })?;
    if used.version != USE_VERSION {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let reason = format!("uses/{name} has version {}, which a newer shoal wrote", used.version);
        return Err(StoreError::Invalid { name, reason });
    }
    Ok(Some(used))
}

fn use_path(store: &Store, id: &str) -> PathBuf {
    store.path().join("uses").join(id)
}

fn write_use(
    store: &Store,
    image: &ImageRecord,
    request: &RootfsRequest,
    diff_ids: &[Digest],
    form: Form,
) -> Result<(), StoreError> {
    let id = &request.id;
    if id.is_empty() || id.starts_with('.') || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return Err(StoreError::Invalid { name: id.clone(), reason: "it is not a container id".into() });
    }
    let used = Use {
        version: USE_VERSION,
        dir: request.dir.clone(),
        mount: request.mount.clone(),
        layers: request.layers.clone(),
        manifest: image.manifest.digest,
        config: image.config.digest,
        diff_ids: diff_ids.to_vec(),
        form,
    };
    let raw = serde_json::to_vec(&used).expect("a use has only string keys");
    let path = use_path(store, id);
    if std::fs::read(&path).is_ok_and(|old| old == raw) {
        return Ok(());
    }
    let lock_path = store.path().join("gc.lock");
    let lock = layout::open_lock(&lock_path)?;
    lock.lock_shared().map_err(StoreError::io("lock", &lock_path))?;
    let temporary = path.with_file_name(format!(".{}", sys::unique_name("use")));
    // Durable: after a power cut half a use would stop every collection, and none would give the layers away.
    let write = || {
        let mut file = std::fs::File::create_new(&temporary)?;
        file.write_all(&raw)?;
        file.sync_data()?;
        std::fs::rename(&temporary, &path)?;
        sys::sync_dir(&store.path().join("uses"))
    };
    write().map_err(|error| {
        let _ = std::fs::remove_file(&temporary);
        StoreError::io("write", &path)(error)
    })
}

/// The directories to stack, top first.
fn lower_dirs(request: &RootfsRequest, dirs: &[PathBuf]) -> Result<Vec<PathBuf>, StoreError> {
    let mut lower = stack::top_first(dirs);
    if lower.is_empty() {
        // An image without layers: overlayfs wants something below.
        let empty = request.dir.join("empty");
        sys::create_dirs(&empty).map_err(StoreError::io("create", &empty))?;
        lower.push(empty);
    }
    Ok(lower)
}

/// Makes the container's own layer. Its root is what the merged root shows, so it takes the image's attributes.
fn make_upper(upper: &Path, root: Option<RootEntry>) -> Result<(), StoreError> {
    if upper.exists() {
        return Ok(());
    }
    // Made under another name first: a crash must not leave it with wrong attributes.
    let temporary = upper.with_file_name(sys::unique_name("upper"));
    sys::create_dirs(&temporary).map_err(StoreError::io("create", &temporary))?;
    let fd = sys::open_dir(&temporary).map_err(StoreError::io("open", &temporary))?;
    let root = root.unwrap_or(RootEntry { mode: 0o755, uid: 0, gid: 0, mtime: 0, mtime_nanos: 0 });
    let step = "set the attributes of";
    if sys::keeps_owners() {
        let (uid, gid) = (rustix::fs::Uid::from_raw(root.uid), rustix::fs::Gid::from_raw(root.gid));
        rustix::fs::fchown(&fd, Some(uid), Some(gid)).map_err(StoreError::errno(step, &temporary))?;
    }
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(root.mode)).map_err(StoreError::errno(step, &temporary))?;
    let time = Timespec { tv_sec: root.mtime, tv_nsec: root.mtime_nanos.into() };
    rustix::fs::futimens(&fd, &Timestamps { last_access: time, last_modification: time })
        .map_err(StoreError::errno(step, &temporary))?;
    std::fs::rename(&temporary, upper).map_err(StoreError::io("create", upper))
}

/// Mounts overlayfs. Layers are given one by one (kernel 6.5 on), so that neither their number nor their length meets the
/// 4096 bytes of mount(2)'s options; older kernels get that.
fn mount_overlay(lower: &[PathBuf], upper: &Path, work: &Path, target: &Path) -> Result<(), StoreError> {
    let step = "mount the layers on";
    let user = !sys::is_host_root();
    let made = (|| {
        let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_string(fs.as_fd(), "source", "shoal")?;
        for dir in lower {
            rustix::mount::fsconfig_set_string(fs.as_fd(), "lowerdir+", dir)?;
        }
        rustix::mount::fsconfig_set_string(fs.as_fd(), "upperdir", upper)?;
        rustix::mount::fsconfig_set_string(fs.as_fd(), "workdir", work)?;
        // Whatever the host's default: with an index a second mount of these directories is refused while somebody still
        // looks at the first.
        rustix::mount::fsconfig_set_string(fs.as_fd(), "index", "off")?;
        if user {
            rustix::mount::fsconfig_set_flag(fs.as_fd(), "userxattr")?;
        }
        rustix::mount::fsconfig_create(fs.as_fd())?;
        rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    })();
    match made {
        Ok(mount) => rustix::mount::move_mount(
            mount.as_fd(),
            "",
            rustix::fs::CWD,
            target,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .map_err(StoreError::errno(step, target)),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            let escape = |path: &Path| path.display().to_string().replace('\\', "\\\\").replace([':', ','], "\\:");
            let dirs: Vec<String> = lower.iter().map(|dir| escape(dir)).collect();
            let options = format!(
                "lowerdir={},upperdir={},workdir={},index=off{}",
                dirs.join(":"),
                escape(upper),
                escape(work),
                if user { ",userxattr" } else { "" }
            );
            let options = std::ffi::CString::new(options)
                .map_err(|_| StoreError::io(step, target)(std::io::Error::other("a path holds a NUL")))?;
            rustix::mount::mount(
                "shoal",
                target,
                "overlay",
                rustix::mount::MountFlags::empty(),
                Some(options.as_c_str()),
            )
            .map_err(StoreError::errno(step, target))
        }
        Err(errno) => Err(StoreError::errno(step, target)(errno)),
    }
}

/// Mounts overlayfs over copies of its layers' mounts that map owners through `userns`, the container's own folder among
/// them. Overlayfs keeps copies of its own, so these have their places in a mount namespace of a thread's, which ends with it.
fn mount_mapped(lower: &[PathBuf], dir: &Path, target: &Path, mapping: Mapping<'_>) -> Result<(), StoreError> {
    let step = "mount the layers with mapped owners on";
    let made = std::thread::scope(|scope| scope.spawn(|| mapped_overlay(lower, dir, target, mapping)).join());
    let made = made.unwrap_or_else(|_| Err(std::io::Error::other("a thread died")));
    let mount = made.map_err(StoreError::io(step, target))?;
    rustix::mount::move_mount(mount.as_fd(), "", rustix::fs::CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(StoreError::errno(step, target))
}

fn mapped_overlay(lower: &[PathBuf], dir: &Path, target: &Path, mapping: Mapping<'_>) -> std::io::Result<OwnedFd> {
    use rustix::mount::{MountFlags, MountPropagationFlags, OpenTreeFlags};
    sys::own_mounts()?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let mut mapped = Vec::with_capacity(lower.len() + 1);
    for folder in lower.iter().map(PathBuf::as_path).chain([dir]) {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = rustix::mount::open_tree(rustix::fs::CWD, folder, flags)?;
        sys::set_idmap(tree.as_fd(), mapping.userns)?;
        mapped.push(tree);
    }
    rustix::mount::mount("shoal", target, "tmpfs", MountFlags::empty(), None)?;
    // Overlayfs makes its own files as whoever mounts it, and on a mapped mount only mapped users can own files.
    sys::make_files_as(mapping.user, mapping.group)?;
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(fs.as_fd(), "source", "shoal")?;
    for (at, tree) in mapped.iter().enumerate() {
        let place = target.join(at.to_string());
        std::fs::create_dir(&place)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(tree.as_fd(), "", rustix::fs::CWD, &place, flags)?;
        if at < lower.len() {
            rustix::mount::fsconfig_set_string(fs.as_fd(), "lowerdir+", &place)?;
        } else {
            rustix::mount::fsconfig_set_string(fs.as_fd(), "upperdir", place.join("upper"))?;
            rustix::mount::fsconfig_set_string(fs.as_fd(), "workdir", place.join("work"))?;
        }
    }
    rustix::mount::fsconfig_set_string(fs.as_fd(), "index", "off")?;
    rustix::mount::fsconfig_create(fs.as_fd())?;
    Ok(rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

/// Whether something is mounted on `path` itself.
pub(crate) fn is_mount_point(path: &Path) -> Result<bool, StoreError> {
    use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};
    let stat = rustix::fs::statx(
        rustix::fs::CWD,
        path,
        AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT,
        StatxFlags::empty(),
    )
    .map_err(StoreError::errno("look at", path))?;
    Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

pub(crate) fn unmount(path: &Path) -> Result<(), StoreError> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(rustix::io::Errno::INVAL) => Ok(()),
        Err(errno) => Err(StoreError::errno("unmount", path)(errno)),
    }
}
