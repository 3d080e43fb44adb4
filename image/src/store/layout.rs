//! An OCI image layout on disk: `oci-layout`, `index.json`, `blobs/ALGORITHM/HEX`. The store is one; so are directories
//! that other tools wrote.
//!
//! In: a directory. Out: its index, and blobs as open files. A blob that is a link or no regular file is refused, so that
//! a layout from elsewhere never names a file of this host.

use crate::store::StoreError;
use crate::store::sys;
use oci::Digest;
use oci::digest::{Algorithm, Hasher};
use oci::manifest::{ImageIndex, MANIFEST_BYTES_MAX, Manifest};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The marker file's content. image-spec image-layout.md "oci-layout file".
pub const LAYOUT_MARKER: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
/// The largest `index.json` that is read, in bytes: some 200,000 names.
const INDEX_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A directory that is an OCI image layout.
#[derive(Debug)]
pub struct Layout {
    path: PathBuf,
    dir: OwnedFd,
}

impl Layout {
    /// Opens a layout; it must exist.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let dir = sys::open_dir(path).map_err(StoreError::io("open the image layout", path))?;
        let layout = Self { path: path.to_owned(), dir };
        let refused = |reason: &str| StoreError::NotALayout { path: path.to_owned(), reason: reason.to_owned() };
        let marker = layout.read_file("oci-layout", 4096)?.ok_or_else(|| refused("it has no file oci-layout"))?;
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Marker {
            image_layout_version: String,
        }
        let marker: Marker =
            serde_json::from_slice(&marker).map_err(|_| refused("its file oci-layout has no imageLayoutVersion"))?;
        if !marker.image_layout_version.starts_with("1.") {
            return Err(refused(&format!("version {} is not supported, only 1.x", marker.image_layout_version)));
        }
        Ok(layout)
    }

    /// Opens a layout, making an empty one where there is none.
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        for algorithm in Algorithm::ALL {
            let blobs = path.join("blobs").join(algorithm.name());
            sys::create_dirs(&blobs).map_err(StoreError::io("create the directory", &blobs))?;
        }
        let marker = path.join("oci-layout");
        if !marker.try_exists().map_err(StoreError::io("look at", &marker))? {
            // The index goes first: a layout that calls itself one is whole.
            let dir = sys::open_dir(path).map_err(StoreError::io("open the image layout", path))?;
            let layout = Self { path: path.to_owned(), dir };
            if layout.read_file("index.json", INDEX_BYTES_MAX)?.is_none() {
                layout.write_index(&ImageIndex::new(Vec::new()))?;
            }
            layout.replace("oci-layout", LAYOUT_MARKER.as_bytes())?;
        }
        Self::open(path)
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a blob lies or would lie.
    #[must_use]
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path.join(blob_name(digest))
    }

    /// Opens the folder of one algorithm's blobs, which no link may stand for.
    pub(crate) fn blob_folder(&self, algorithm: Algorithm) -> Result<OwnedFd, StoreError> {
        let name = format!("blobs/{}", algorithm.name());
        let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY;
        sys::open_no_links(&self.dir, name.as_str(), flags)
            .map_err(StoreError::errno("open the folder", self.path.join(&name)))
    }

    /// Opens a blob for reading, with its size in bytes; `None` when it is not here.
    pub fn find_blob(&self, digest: &Digest) -> Result<Option<(File, u64)>, StoreError> {
        let name = blob_name(digest);
        let found = sys::open_regular(&self.dir, name.as_str())
            .map_err(StoreError::io("open the blob", self.path.join(&name)))?;
        Ok(found.map(|(file, stat)| (file, u64::try_from(stat.st_size).unwrap_or(0))))
    }

    /// Opens a blob for reading.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        match self.find_blob(digest)? {
            Some((file, _)) => Ok(file),
            None => Err(StoreError::Missing { digest: *digest, path: self.path.clone() }),
        }
    }

    /// Reads a small blob into memory and verifies it.
    pub fn read_blob(&self, digest: &Digest, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        let Some((mut file, size)) = self.find_blob(digest)? else {
            return Err(StoreError::Missing { digest: *digest, path: self.path.clone() });
        };
        let raw = read_bounded(&mut file, size, bytes_max, &digest.to_string(), &self.blob_path(digest))?;
        if digest.matches(&raw) {
            return Ok(raw);
        }
        let actual = Digest::of(digest.algorithm(), &raw).to_string();
        Err(StoreError::Mismatch { expected: digest.to_string(), actual })
    }

    /// Reads a manifest or index. `declared` is the type its descriptor gives.
    pub fn read_manifest(&self, digest: &Digest, declared: Option<&str>) -> Result<Manifest, StoreError> {
        let raw = self.read_blob(digest, MANIFEST_BYTES_MAX)?;
        Ok(Manifest::parse_with(raw, declared, digest.algorithm())?)
    }

    /// Reads a whole blob and says whether it is what its digest promises.
    pub fn verify_blob(&self, digest: &Digest) -> Result<bool, StoreError> {
        let mut file = self.open_blob(digest)?;
        let mut hasher = Hasher::new(digest.algorithm());
        std::io::copy(&mut file, &mut hasher).map_err(StoreError::io("read the blob", self.blob_path(digest)))?;
        Ok(hasher.finish() == *digest)
    }

    /// The names and what they point at.
    pub fn index(&self) -> Result<ImageIndex, StoreError> {
        let Some(raw) = self.read_file("index.json", INDEX_BYTES_MAX)? else {
            let reason = "it has no file index.json".to_owned();
            return Err(StoreError::NotALayout { path: self.path.clone(), reason });
        };
        serde_json::from_slice(&raw).map_err(|source| StoreError::Document {
            what: "the index",
            digest: self.path.join("index.json").display().to_string(),
            source,
        })
    }

    /// Changes the index: one writer at a time, and readers see the old or the new one. Not written when `change` fails or
    /// leaves it as it was.
    pub fn update_index<T, E: From<StoreError>>(
        &self,
        change: impl FnOnce(&mut ImageIndex) -> Result<T, E>,
    ) -> Result<T, E> {
        let lock_path = self.path.join("index.lock");
        let lock = open_lock(&lock_path)?;
        lock.lock().map_err(StoreError::io("lock", &lock_path))?;
        let before = self.index()?;
        let mut index = before.clone();
        let result = change(&mut index)?;
        if index != before {
            self.write_index(&index)?;
        }
        Ok(result)
    }

    fn write_index(&self, index: &ImageIndex) -> Result<(), StoreError> {
        let raw = serde_json::to_vec(index).expect("an index has only string keys");
        self.replace("index.json", &raw)
    }

    /// Writes a small file whole: temporary, durable, renamed.
    pub(crate) fn replace(&self, name: &str, raw: &[u8]) -> Result<(), StoreError> {
        let path = self.path.join(name);
        let temporary = self.path.join(format!(".{}", sys::unique_name(name)));
        let write = || {
            let mut file = File::create_new(&temporary)?;
            file.write_all(raw)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            sys::sync_dir(&self.path)
        };
        write().map_err(|error| {
            let _ = std::fs::remove_file(&temporary);
            StoreError::io("write", &path)(error)
        })
    }

    /// Reads a small file of the layout, refusing links; `None` when there is none.
    fn read_file(&self, name: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path.join(name);
        match sys::open_regular(&self.dir, name).map_err(StoreError::io("open", &path))? {
            None => Ok(None),
            Some((mut file, stat)) => {
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                read_bounded(&mut file, size, bytes_max, name, &path).map(Some)
            }
        }
    }
}

/// The path of a blob inside a layout.
#[must_use]
pub fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// Opens (and creates) a lock file.
pub(crate) fn open_lock(path: &Path) -> Result<File, StoreError> {
    File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .map_err(StoreError::io("open the lock", path))
}

/// Opens, creates and locks a lock file that its holder may remove: what is locked in the end is what lies at `path`.
pub(crate) fn lock_named(path: &Path) -> Result<File, StoreError> {
    loop {
        let lock = open_lock(path)?;
        lock.lock().map_err(StoreError::io("lock", path))?;
        if same_file(&lock, path) {
            return Ok(lock);
        }
    }
}

/// Whether the open file is what lies at `path`.
pub(crate) fn same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(a), Ok(b)) => a.ino() == b.ino() && a.dev() == b.dev(),
        _ => false,
    }
}

fn read_bounded(file: &mut File, size: u64, max: u64, name: &str, path: &Path) -> Result<Vec<u8>, StoreError> {
    let refused = |bytes| StoreError::TooLarge { name: name.to_owned(), bytes, max };
    if size > max {
        return Err(refused(size));
    }
    let mut raw = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    // The file may grow while it is read: the bound holds for what is read, too.
    file.take(max + 1).read_to_end(&mut raw).map_err(StoreError::io("read", path))?;
    if raw.len() as u64 > max { Err(refused(raw.len() as u64)) } else { Ok(raw) }
}
