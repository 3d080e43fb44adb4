//! The image store: an OCI image layout on disk, plus what makes it fast and safe.
//!
//! ```text
//! oci-layout  index.json  blobs/ALG/HEX     the layout; other tools read it in place
//! index.lock                                one writer of index.json at a time
//! tmp/                                      blobs and layers being written, each locked by its writer
//! partial/                                  downloads that can go on, with their journals
//! layers/                                   layers as mountable file systems
//! sending/                                  where pushes of ours are, for those that are killed
//! leases/  uses/  gc.lock                   what is not garbage, and who says so
//! ```
//!
//! In: bytes, names. Out: verified blobs, image records, mounted root file systems. Any number of processes work in one
//! store; none of them has to be running.

mod adopt;
mod check;
mod erofs;
mod error;
mod index;
mod ingest;
pub mod layers;
pub mod layout;
pub(crate) mod lease;
mod mounts;
pub mod names;
mod partial;
pub mod rootfs;
pub(crate) mod sending;
mod stack;
pub(crate) mod sys;
mod tree;
mod unpack;

pub use check::Checked;
pub use error::StoreError;
pub use ingest::Ingest;
pub use layout::Layout;
pub use names::ImageRecord;
pub use partial::{Claim, Partial};
pub(crate) use tree::remove_at;
pub use tree::{clear_tree, remove_tree};

use lease::Lease;
use oci::Digest;
use oci::manifest::Manifest;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A handle to an image store. Clones share one lease: everything that was written or claimed through a handle is held
/// against garbage collection until the last clone is gone.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
    lease: Arc<Mutex<Option<Lease>>>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    layout: Layout,
    recent: Mutex<Recent>,
}

/// Two leases in turn: what was held lately stays held for between one and two periods.
#[derive(Debug, Default)]
struct Recent {
    now: Option<(Instant, Lease)>,
    before: Option<Lease>,
}

/// How long [`Store::hold_recent`] holds at least: an upload and the manifest that names it are minutes apart at most.
const RECENT_PERIOD: Duration = Duration::from_secs(600);

impl Inner {
    pub(crate) fn path(&self) -> &Path {
        self.layout.path()
    }
}

impl Store {
    /// Opens the store in the directory `path`, making an empty one where there is none.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        for name in ["tmp", "partial", "layers", "leases", "uses"] {
            let dir = path.join(name);
            sys::create_dirs(&dir).map_err(StoreError::io("create the directory", &dir))?;
        }
        let layout = Layout::create(path)?;
        Ok(Self { inner: Arc::new(Inner { layout, recent: Mutex::default() }), lease: Arc::default() })
    }

    /// A handle to the same store with a lease of its own: for one request of a long-lived process.
    #[must_use]
    pub fn leased(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), lease: Arc::default() }
    }

    /// The directory of the store.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.inner.path()
    }

    /// The image layout.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    /// Whether the blob is here. For a decision to rely on it, [`Store::hold`] it first.
    pub fn has(&self, digest: &Digest) -> Result<bool, StoreError> {
        Ok(self.layout().find_blob(digest)?.is_some())
    }

    /// The size of a blob in bytes; `None` when it is not here.
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        Ok(self.layout().find_blob(digest)?.map(|(_, size)| size))
    }

    /// Opens a blob for reading.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        self.layout().open_blob(digest)
    }

    /// Reads a small blob into memory and verifies it.
    pub fn read_blob(&self, digest: &Digest, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        self.layout().read_blob(digest, bytes_max)
    }

    /// Reads a manifest or index and verifies it. `declared` is the type its descriptor gives.
    pub fn manifest(&self, digest: &Digest, declared: Option<&str>) -> Result<Manifest, StoreError> {
        self.layout().read_manifest(digest, declared)
    }

    /// Reads a whole blob and says whether it is what its digest promises.
    pub fn verify_blob(&self, digest: &Digest) -> Result<bool, StoreError> {
        self.layout().verify_blob(digest)
    }

    /// Holds `digest` against garbage collection for as long as this handle or a clone of it lives.
    pub fn hold(&self, digest: &Digest) -> Result<(), StoreError> {
        let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        if lease.is_none() {
            *lease = Some(Lease::start(&self.inner)?);
        }
        match &*lease {
            Some(lease) => lease.hold(&self.inner, digest),
            None => unreachable!("it was just started"),
        }
    }

    /// Holds `digest` for the next ten to twenty minutes, as long as the process lives: for servers, whose requests end
    /// before what they brought is named.
    pub fn hold_recent(&self, digest: &Digest) -> Result<(), StoreError> {
        let mut recent = self.inner.recent.lock().unwrap_or_else(PoisonError::into_inner);
        match &recent.now {
            Some((since, lease)) if since.elapsed() < RECENT_PERIOD => return lease.hold(&self.inner, digest),
            _ => {}
        }
        let fresh = Lease::start(&self.inner)?;
        fresh.hold(&self.inner, digest)?;
        recent.before = recent.now.replace((Instant::now(), fresh)).map(|(_, lease)| lease);
        Ok(())
    }

    /// A new file in `tmp/`, locked so that garbage collection sees that someone writes it.
    pub(crate) fn temporary(&self, what: &str) -> Result<(File, PathBuf), StoreError> {
        let path = self.path().join("tmp").join(sys::unique_name(what));
        let lock_path = self.path().join("gc.lock");
        let lock = layout::open_lock(&lock_path)?;
        // Between creation and lock the file looks abandoned: no sweep may run.
        lock.lock_shared().map_err(StoreError::io("lock", &lock_path))?;
        let file = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(StoreError::io("create", &path))?;
        file.lock().map_err(StoreError::io("lock", &path))?;
        Ok((file, path))
    }
}

/// A directory in `tmp/`, locked by its writer; removed with what is in it unless it was renamed.
#[derive(Debug)]
pub(crate) struct TemporaryDir {
    path: PathBuf,
    /// Holds the lock.
    _handle: File,
}

impl TemporaryDir {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        // Renamed away in the good case; else the next collection takes what cannot be removed now.
        let _ = remove_tree(&self.path);
    }
}

impl Store {
    /// A new directory in `tmp/`.
    pub(crate) fn temporary_dir(&self, what: &str) -> Result<TemporaryDir, StoreError> {
        let path = self.path().join("tmp").join(sys::unique_name(what));
        let lock_path = self.path().join("gc.lock");
        let lock = layout::open_lock(&lock_path)?;
        lock.lock_shared().map_err(StoreError::io("lock", &lock_path))?;
        sys::create_dirs(&path).map_err(StoreError::io("create", &path))?;
        let handle = File::open(&path).map_err(StoreError::io("open", &path))?;
        handle.lock().map_err(StoreError::io("lock", &path))?;
        Ok(TemporaryDir { path, _handle: handle })
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::Store;
    use oci::Descriptor;
    use oci::manifest::{ImageManifest, media};

    /// A whole image of one layer that holds `content`; three blobs, no name.
    pub(crate) fn image(store: &Store, content: &[u8]) -> Descriptor {
        let mut tar = crate::layer::write::Writer::new(Vec::new());
        tar.plain_file("content", content.len() as u64, &mut &*content).expect("memory takes everything");
        let tar = tar.finish().expect("memory takes everything");
        let layer = store.put(media::OCI_LAYER, &tar).expect("the store takes a layer");
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
            layer.digest
        );
        let config = store.put(media::OCI_CONFIG, config.as_bytes()).expect("the store takes a config");
        let manifest = ImageManifest::new(config, vec![layer]);
        let raw = serde_json::to_vec(&manifest).expect("a manifest is JSON");
        store.put(media::OCI_MANIFEST, &raw).expect("the store takes a manifest")
    }

    /// An empty store in a directory that goes with the first value.
    pub(crate) fn scratch() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let store = Store::open(dir.path()).expect("an empty directory becomes a store");
        (dir, store)
    }
}
