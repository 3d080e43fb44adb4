//! The store behind the ports of [`crate::source`]: what the registry server and `copy` need of it.
//!
//! In: verified files and documents. Out: blobs. Digests are held for a while after each call ([`Store::hold_recent`]),
//! because what names them comes with a later request.

use crate::source::Blobs;
use crate::store::ingest::publish;
use crate::store::{Store, StoreError};
use oci::Digest;
use std::fs::File;
use std::io;
use std::path::Path;

impl Store {
    /// Takes over the file at `path`, on the store's file system, whose bytes the caller has verified against `digest`.
    pub fn adopt(&self, digest: &Digest, path: &Path) -> Result<(), StoreError> {
        let own = self.leased();
        own.hold_recent(digest)?;
        let file = File::open(path).map_err(StoreError::io("open", path))?;
        publish(&own, &file, path, digest)?;
        // Gone already, unless an equal blob was there.
        let _ = std::fs::remove_file(path);
        Ok(())
    }
}

impl Blobs for Store {
    fn size(&self, digest: &Digest) -> io::Result<Option<u64>> {
        self.blob_size(digest).map_err(into_io)
    }

    fn open(&self, digest: &Digest) -> io::Result<Option<File>> {
        self.layout().find_blob(digest).map(|found| found.map(|(file, _)| file)).map_err(into_io)
    }

    fn keep(&self, digest: &Digest) -> io::Result<bool> {
        let own = self.leased();
        own.hold_recent(digest).map_err(into_io)?;
        self.has(digest).map_err(into_io)
    }

    fn adopt(&self, digest: &Digest, path: &Path) -> io::Result<()> {
        Self::adopt(self, digest, path).map_err(into_io)
    }

    fn put(&self, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        self.hold_recent(digest).map_err(into_io)?;
        self.leased().put_as("application/octet-stream", bytes, digest.algorithm()).map(drop).map_err(into_io)
    }
}

/// The kernel's answer stays what it is (a full disk must be told from a broken one); the rest is wrapped.
fn into_io(error: StoreError) -> io::Error {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    let mut kind = io::ErrorKind::Other;
    while let Some(at) = source {
        if let Some(inner) = at.downcast_ref::<io::Error>() {
            kind = inner.kind();
            break;
        }
        source = at.source();
    }
    io::Error::new(kind, error)
}
