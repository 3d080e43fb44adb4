//! Layers on disk as file systems: made once, shared by every image and container.
//!
//! In: a layer's blob and the digest that its plain tar must have. Out: `layers/ALG-HEX.d/` (unpacked, `fs/`) or
//! `layers/ALG-HEX.i/` (`tar` and an EROFS `index` over it), both with `meta.json`. Made in `tmp/`, verified against the
//! digest, renamed; a layer under its name is whole. Two processes that need the same one make it once.
//!
//! A layer is made without what lies below it. Few layers mean something only together with that: a hard link to a file
//! of a lower layer, a file in a directory that the layer does not mention and that is a link further down. Their facts
//! say so, and [`stack`](super::stack) unpacks them together with what is below: `layers/ALG-HEX.c/`, by chain id.

use crate::layer::compression;
use crate::layer::extract::{ExtractError, Extractor, Options, Whiteouts};
use crate::layer::tar::Reader;
use crate::layer::{LayerError, TarError};
use crate::progress::{Event, Progress};
use crate::store::{Store, StoreError, TemporaryDir, layout, sys};
use oci::digest::Hasher;
use oci::{Descriptor, Digest};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// The version of `meta.json`.
const META_VERSION: u32 = 3;
/// An index that is older is flushed when it is next used: the kernel has written it back meanwhile, by itself, and the
/// flush has nothing left to wait for (`vm.dirty_expire_centisecs` is 30 seconds).
const SETTLE_AFTER: Duration = Duration::from_secs(60);
/// The largest plain layer that is ever made, in bytes. Larger ones were never seen; disk space bounds it earlier.
const PLAIN_BYTES_MAX: u64 = 1 << 40;
/// A layer of more plain bytes than this must not have been compressed by more than `RATIO_MAX`.
const RATIO_FREE_BYTES: u64 = 1 << 30;
/// Real layers compress by 2 to 20; a gzip bomb by 1000.
const RATIO_MAX: u64 = 200;
/// How much of the disk stays free for others, in bytes.
const DISK_RESERVE_BYTES: u64 = 64 * 1024 * 1024;

/// How a layer lies on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Unpacked into a directory.
    Directory,
    /// The plain tar, and an EROFS image whose files point into it.
    Index,
    /// Unpacked into a directory together with every layer below; named by the chain id.
    Merged,
}

impl Form {
    fn suffix(self) -> &'static str {
        match self {
            Self::Directory => "d",
            Self::Index => "i",
            Self::Merged => "c",
        }
    }
}

/// What is known of a layer on disk. The format of `meta.json`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LayerMeta {
    /// The version of the format.
    pub version: u32,
    /// How it lies on the disk.
    pub form: Form,
    /// Bytes of the plain tar.
    pub plain: u64,
    /// Attributes of the layer's own root entry; `None` when it has none.
    pub root: Option<RootEntry>,
    /// What the layer needs of those below it.
    #[serde(default)]
    pub below: Below,
    /// The boot of the host in which it was made and since when nobody has waited for the disk. After another boot (a
    /// crash, a loss of power) such a layer does not count: it is made again from its blob, which is always flushed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
}

/// What a layer needs of the layers below it. Found while it is made, judged when it is stacked.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Below {
    /// Why the layer cannot be made without them; then it has facts and no tree.
    #[serde(default)]
    pub needs: Option<String>,
    /// Directories that hold entries of the layer but have none themselves, outermost first, in hexadecimal (names are
    /// bytes): they are as the layer has them only if nothing else is said of them below.
    #[serde(default)]
    pub implied: Vec<String>,
}

/// The most implied directories that are remembered of a layer; with more it needs what is below. Real layers that leave
/// directories out hold a handful of files.
const IMPLIED_MAX: usize = 4096;

impl Below {
    /// A layer that cannot be made alone.
    pub(crate) fn needs(reason: impl Into<String>) -> Self {
        Self { needs: Some(reason.into()), implied: Vec::new() }
    }

    /// A layer with these implied directories.
    pub(crate) fn implied(mut paths: Vec<Vec<u8>>) -> Self {
        if paths.len() > IMPLIED_MAX {
            return Self::needs(format!("it leaves out {} directories", paths.len()));
        }
        paths.sort();
        Self { needs: None, implied: paths.iter().map(hex::encode).collect() }
    }

    /// The implied directories.
    pub(crate) fn implied_paths(&self) -> impl Iterator<Item = Vec<u8>> {
        // What is no hexadecimal was not written by this program; its bytes name nothing.
        self.implied.iter().filter_map(|path| hex::decode(path).ok())
    }
}

/// What a layer says about the root directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RootEntry {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, seconds since 1970.
    pub mtime: i64,
    /// Its nanoseconds.
    #[serde(default)]
    pub mtime_nanos: u32,
}

impl LayerMeta {
    pub(crate) fn new(form: Form, plain: u64, root: Option<RootEntry>, below: Below) -> Self {
        Self { version: META_VERSION, form, plain, root, below, boot: None }
    }
}

impl RootEntry {
    /// What this entry, the root's, says.
    pub(crate) fn of(entry: &crate::layer::tar::Entry) -> Self {
        Self { mode: entry.mode, uid: entry.uid, gid: entry.gid, mtime: entry.mtime.0, mtime_nanos: entry.mtime.1 }
    }
}

/// A layer that is ready to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerOnDisk {
    /// The digest of the plain tar; the chain id of a [`Form::Merged`] one.
    pub diff_id: Digest,
    /// Its directory below `layers/`.
    pub path: PathBuf,
    /// What is known of it.
    pub meta: LayerMeta,
}

impl LayerOnDisk {
    /// The unpacked tree ([`Form::Directory`], [`Form::Merged`]).
    #[must_use]
    pub fn tree(&self) -> PathBuf {
        self.path.join("fs")
    }

    /// The plain tar ([`Form::Index`]).
    #[must_use]
    pub fn tar(&self) -> PathBuf {
        self.path.join("tar")
    }

    /// The EROFS image over the tar ([`Form::Index`]).
    #[must_use]
    pub fn index(&self) -> PathBuf {
        self.path.join("index")
    }
}

impl Store {
    /// The directory of a layer in one form.
    pub(crate) fn layer_path(&self, diff_id: &Digest, form: Form) -> PathBuf {
        let name = format!("{}-{}.{}", diff_id.algorithm().name(), diff_id.hex(), form.suffix());
        self.path().join("layers").join(name)
    }

    /// The layer when it is on disk in this form.
    pub fn layer(&self, diff_id: &Digest, form: Form) -> Result<Option<LayerOnDisk>, StoreError> {
        let path = self.layer_path(diff_id, form);
        let meta_path = path.join("meta.json");
        let raw = match std::fs::read(&meta_path) {
            Ok(raw) => raw,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("read", &meta_path)(error)),
        };
        match serde_json::from_slice::<LayerMeta>(&raw) {
            Ok(meta) if meta.version == META_VERSION && meta.form == form => {
                Ok(settled(LayerOnDisk { diff_id: *diff_id, path, meta }))
            }
            // Another version's layer is made again from the blob.
            _ => Ok(None),
        }
    }

    /// The layer in this form, made from its blob when it is not on disk.
    pub fn ensure_layer(
        &self,
        blob: &Descriptor,
        diff_id: &Digest,
        form: Form,
        progress: &dyn Progress,
    ) -> Result<LayerOnDisk, StoreError> {
        self.hold(diff_id)?;
        if let Some(layer) = self.layer(diff_id, form)? {
            return Ok(layer);
        }
        // A layer without an index form was unpacked the first time.
        if form == Form::Index
            && let Some(layer) = self.layer(diff_id, Form::Directory)?
        {
            return Ok(layer);
        }
        self.make_once(diff_id, form, |path| self.make_layer(blob, diff_id, form, path, progress))
    }

    /// Makes what is not there with `make`, in one process at a time.
    pub(crate) fn make_once(
        &self,
        id: &Digest,
        form: Form,
        make: impl FnOnce(&Path) -> Result<LayerOnDisk, StoreError>,
    ) -> Result<LayerOnDisk, StoreError> {
        let path = self.layer_path(id, form);
        let lock_path = path.with_extension(format!("{}.lock", form.suffix()));
        let lock = layout::lock_named(&lock_path)?;
        if let Some(layer) = self.layer(id, form)? {
            return Ok(layer);
        }
        let made = make(&path);
        // Whoever waits for the lock looks again by name, so the file can go while it is locked.
        let _ = std::fs::remove_file(&lock_path);
        drop(lock);
        made
    }

    fn make_layer(
        &self,
        blob: &Descriptor,
        diff_id: &Digest,
        form: Form,
        path: &Path,
        progress: &dyn Progress,
    ) -> Result<LayerOnDisk, StoreError> {
        let temporary = self.temporary_dir("layer")?;
        let meta = match form {
            Form::Index => match self.make_index(blob, diff_id, temporary.path(), progress)? {
                Ok(meta) => meta,
                Err(reason) => {
                    drop(temporary);
                    return self.make_fallback(blob, diff_id, &reason.0, progress);
                }
            },
            Form::Directory | Form::Merged => self.make_directory(blob, diff_id, temporary.path(), progress)?,
        };
        self.name_layer(temporary, diff_id, path, meta)
    }

    /// Gives a whole layer in a temporary directory its name.
    pub(crate) fn name_layer(
        &self,
        temporary: TemporaryDir,
        id: &Digest,
        path: &Path,
        meta: LayerMeta,
    ) -> Result<LayerOnDisk, StoreError> {
        let mut meta = meta;
        if meta.form == Form::Index && meta.below.needs.is_none() {
            // The tar and its index can be made again, so that nobody has to wait for hundreds of megabytes to be on disk.
            meta.boot = boot_id().map(str::to_owned);
        }
        let meta_path = temporary.path().join("meta.json");
        let raw = serde_json::to_vec(&meta).expect("layer facts have only string keys");
        std::fs::write(&meta_path, raw).map_err(StoreError::io("write", &meta_path))?;
        if meta.boot.is_none() {
            make_durable(temporary.path(), &meta)?;
        }
        // What lies there is of another version or lost its facts.
        if path.exists() {
            let old = self.temporary_dir("old")?;
            std::fs::rename(path, old.path().join("layer")).map_err(StoreError::io("replace", path))?;
        }
        std::fs::rename(temporary.path(), path).map_err(StoreError::io("give the layer its name", path))?;
        if meta.boot.is_none() {
            let layers = self.path().join("layers");
            sys::sync_dir(&layers).map_err(StoreError::io("make durable", &layers))?;
        }
        Ok(LayerOnDisk { diff_id: *id, path: path.to_owned(), meta })
    }

    /// Whether this layer was made in an earlier boot and may not have reached the disk: it is made again when it is needed.
    pub(crate) fn is_of_another_boot(&self, diff_id: &Digest, form: Form) -> bool {
        let Ok(raw) = std::fs::read(self.layer_path(diff_id, form).join("meta.json")) else { return false };
        // What a crash left half written cannot be read.
        match serde_json::from_slice::<LayerMeta>(&raw) {
            Ok(meta) => meta.boot.is_some() && meta.boot.as_deref() != boot_id(),
            Err(_) => raw.is_empty() || raw.contains(&0),
        }
    }

    /// Unpacks a layer that has no index form. It lies under the name of the directory form.
    fn make_fallback(
        &self,
        blob: &Descriptor,
        diff_id: &Digest,
        reason: &str,
        progress: &dyn Progress,
    ) -> Result<LayerOnDisk, StoreError> {
        progress.event(Event::Message(&format!("layer {} is unpacked: {reason}", blob.digest.short())));
        self.ensure_layer(blob, diff_id, Form::Directory, progress)
    }

    fn make_directory(
        &self,
        blob: &Descriptor,
        diff_id: &Digest,
        dir: &Path,
        progress: &dyn Progress,
    ) -> Result<LayerMeta, StoreError> {
        let tree = self.empty_tree(dir)?;
        let root = sys::open_dir(&tree).map_err(StoreError::io("open", &tree))?;
        let owners = sys::keeps_owners();
        let whiteouts = if sys::is_host_root() { Whiteouts::Overlay } else { Whiteouts::OverlayUser };
        let mut extractor = Extractor::new(root, Options { whiteouts, owners });
        let mut below = Below::default();
        let plain = self.read_layer(blob, diff_id, progress, |plain| {
            let mut reader = Reader::new(plain);
            match extractor.layer(&mut reader) {
                Ok(()) => below = Below::implied(extractor.implied()),
                Err(ExtractError::Below { path, reason }) => below = Below::needs(format!("{path}: {reason}")),
                Err(error) => return Err(error.into()),
            }
            Ok(reader.drain()?)
        })?;
        let root = extractor.root_entry();
        if below.needs.is_some() {
            super::remove_tree(&tree).map_err(StoreError::io("remove", &tree))?;
        }
        Ok(LayerMeta::new(Form::Directory, plain, root, below))
    }

    /// An empty `fs/` in the directory of a layer that is being made: 0755, as a root directory that no layer mentions.
    pub(crate) fn empty_tree(&self, dir: &Path) -> Result<PathBuf, StoreError> {
        let tree = dir.join("fs");
        sys::create_dirs(&tree).map_err(StoreError::io("create", &tree))?;
        let root = sys::open_dir(&tree).map_err(StoreError::io("open", &tree))?;
        rustix::fs::fchmod(&root, rustix::fs::Mode::from_raw_mode(0o755))
            .map_err(StoreError::errno("change the mode of", &tree))?;
        Ok(tree)
    }

    /// Runs `work` over the layer's plain stream, which it reads to the end, then checks that the stream was what `diff_id`
    /// promises. Returns the plain size in bytes.
    pub(crate) fn read_layer(
        &self,
        blob: &Descriptor,
        diff_id: &Digest,
        progress: &dyn Progress,
        work: impl FnOnce(&mut Plain<'_>) -> Result<(), LayerError>,
    ) -> Result<u64, StoreError> {
        let failed =
            |source: LayerError| StoreError::Layer { digest: blob.digest.to_string(), source: Box::new(source) };
        let mut plain = self.plain_layer(blob, diff_id, progress)?;
        let worked = work(&mut plain);
        if let Some(max) = plain.exceeded {
            return Err(failed(LayerError::Bomb { max, packed: blob.size }));
        }
        match worked {
            Ok(()) => {}
            Err(LayerError::Tar(TarError::Read { source, .. })) => {
                return Err(failed(LayerError::Io { step: "read it", source }));
            }
            Err(error) => return Err(failed(error)),
        }
        let (actual, bytes) = plain.finish();
        if actual != *diff_id {
            return Err(failed(LayerError::DiffId { expected: diff_id.to_string(), actual: actual.to_string() }));
        }
        progress.event(Event::Done { digest: &blob.digest });
        Ok(bytes)
    }

    /// The plain bytes of a layer's blob, counted, bounded and hashed.
    pub(crate) fn plain_layer<'a>(
        &self,
        blob: &'a Descriptor,
        diff_id: &Digest,
        progress: &'a dyn Progress,
    ) -> Result<Plain<'a>, StoreError> {
        let path = self.layout().blob_path(&blob.digest);
        let file = self.open_blob(&blob.digest)?;
        let packed = Packed { file, done: 0, shown: 0, blob, progress };
        let (stream, _) = compression::plain(packed).map_err(StoreError::io("read the layer", &path))?;
        let free = sys::free_bytes(self.path()).map_err(StoreError::io("ask for the free space of", self.path()))?;
        let room = free.saturating_sub(DISK_RESERVE_BYTES);
        let ratio = RATIO_FREE_BYTES.max(blob.size.saturating_mul(RATIO_MAX));
        let max = PLAIN_BYTES_MAX.min(room).min(ratio);
        Ok(Plain { stream, hasher: Hasher::new(diff_id.algorithm()), read: 0, max, exceeded: None })
    }
}

/// The id of this boot; `None` where the kernel does not say.
fn boot_id() -> Option<&'static str> {
    static ID: OnceLock<Option<String>> = OnceLock::new();
    let read = || {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(text.trim().to_owned()).filter(|id| !id.is_empty())
    };
    ID.get_or_init(read).as_deref()
}

/// The layer, when what was written of it is still there: always in the boot that wrote it, later when it was flushed. The
/// first use after [`SETTLE_AFTER`] flushes it.
fn settled(layer: LayerOnDisk) -> Option<LayerOnDisk> {
    let Some(boot) = &layer.meta.boot else { return Some(layer) };
    if boot_id() != Some(boot) {
        return None;
    }
    let meta_path = layer.path.join("meta.json");
    let age = std::fs::metadata(&meta_path).and_then(|metadata| metadata.modified()).map(|at| at.elapsed());
    if !matches!(age, Ok(Ok(age)) if age > SETTLE_AFTER) {
        return Some(layer);
    }
    let settled = LayerMeta { boot: None, ..layer.meta.clone() };
    if make_durable(&layer.path, &settled).is_err() {
        // The disk could not take it: what is in memory today is gone tomorrow.
        return None;
    }
    // One that cannot be written (a full disk) counts until the next boot.
    let fresh = layer.path.join(sys::unique_name(".meta"));
    let raw = serde_json::to_vec(&settled).expect("layer facts have only string keys");
    let written = File::create_new(&fresh)
        .and_then(|mut file| file.write_all(&raw).and_then(|()| file.sync_data()))
        .and_then(|()| std::fs::rename(&fresh, &meta_path));
    if written.is_err() {
        let _ = std::fs::remove_file(&fresh);
    }
    Some(LayerOnDisk { meta: settled, ..layer })
}

/// Makes a layer's files durable.
fn make_durable(dir: &Path, meta: &LayerMeta) -> Result<(), StoreError> {
    let files: &[&str] = match meta.form {
        _ if meta.below.needs.is_some() => &["meta.json"],
        // Nobody else's writes are waited for.
        Form::Index => &["tar", "index", "meta.json"],
        // One flush of the file system instead of one for each of ten thousand files.
        Form::Directory | Form::Merged => {
            let folder = File::open(dir).map_err(StoreError::io("open", dir))?;
            return rustix::fs::syncfs(&folder).map_err(StoreError::errno("make durable", dir));
        }
    };
    for name in files {
        let path = dir.join(name);
        let file = File::open(&path).map_err(StoreError::io("open", &path))?;
        file.sync_data().map_err(StoreError::io("make durable", &path))?;
    }
    sys::sync_dir(dir).map_err(StoreError::io("make durable", dir))
}

/// The compressed bytes of a layer; tells progress.
struct Packed<'a> {
    file: File,
    done: u64,
    shown: u64,
    blob: &'a Descriptor,
    progress: &'a dyn Progress,
}

impl Read for Packed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.done += read as u64;
        if read == 0 || self.done - self.shown >= 1024 * 1024 {
            self.shown = self.done;
            let (digest, size) = (&self.blob.digest, self.blob.size);
            self.progress.event(Event::Unpacking { digest, done: self.done, size });
        }
        Ok(read)
    }
}

/// The plain bytes of a layer: hashed as they pass, and no more of them than is allowed.
pub(crate) struct Plain<'a> {
    stream: Box<dyn Read + Send + 'a>,
    hasher: Hasher,
    read: u64,
    max: u64,
    exceeded: Option<u64>,
}

impl Plain<'_> {
    fn finish(self) -> (Digest, u64) {
        (self.hasher.finish(), self.read)
    }
}

impl Read for Plain<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer)?;
        self.read += read as u64;
        if self.read > self.max {
            self.exceeded = Some(self.max);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "more plain bytes than are allowed"));
        }
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::scratch;
    use std::time::SystemTime;

    fn index(store: &Store) -> LayerOnDisk {
        let id = Digest::sha256(b"layer");
        let made = |path: &Path| {
            let temporary = store.temporary_dir("layer")?;
            std::fs::write(temporary.path().join("tar"), "tar").unwrap();
            std::fs::write(temporary.path().join("index"), "index").unwrap();
            let meta = LayerMeta::new(Form::Index, 3, None, Below::default());
            store.name_layer(temporary, &id, path, meta)
        };
        store.make_once(&id, Form::Index, made).unwrap()
    }

    fn facts(layer: &LayerOnDisk) -> LayerMeta {
        serde_json::from_slice(&std::fs::read(layer.path.join("meta.json")).unwrap()).unwrap()
    }

    #[test]
    fn an_index_that_nobody_flushed_counts_in_its_own_boot_only() {
        let (_dir, store) = scratch();
        let layer = index(&store);
        assert_eq!(facts(&layer).boot.as_deref(), boot_id());
        assert!(store.layer(&layer.diff_id, Form::Index).unwrap().is_some());
        assert!(!store.is_of_another_boot(&layer.diff_id, Form::Index));
        let before = LayerMeta { boot: Some("another".into()), ..layer.meta.clone() };
        std::fs::write(layer.path.join("meta.json"), serde_json::to_vec(&before).unwrap()).unwrap();
        assert!(store.layer(&layer.diff_id, Form::Index).unwrap().is_none());
        assert!(store.is_of_another_boot(&layer.diff_id, Form::Index));
        // Made again in its place.
        let again = index(&store);
        assert_eq!(facts(&again).boot.as_deref(), boot_id());
        // A crash may have left the name and none of the bytes.
        std::fs::write(layer.path.join("meta.json"), [0; 100]).unwrap();
        assert!(store.layer(&layer.diff_id, Form::Index).unwrap().is_none());
        assert!(store.is_of_another_boot(&layer.diff_id, Form::Index));
    }

    #[test]
    fn an_index_is_flushed_at_its_first_use_after_a_minute() {
        let (_dir, store) = scratch();
        let layer = index(&store);
        let path = layer.path.join("meta.json");
        let old = SystemTime::now() - SETTLE_AFTER - Duration::from_secs(1);
        File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
        let found = store.layer(&layer.diff_id, Form::Index).unwrap().unwrap();
        assert_eq!((found.meta.boot.clone(), facts(&layer).boot), (None, None));
        assert_eq!(std::fs::read_dir(&layer.path).unwrap().count(), 3, "tar, index and facts");
        assert_eq!(store.layer(&layer.diff_id, Form::Index).unwrap(), Some(found));
    }
}
