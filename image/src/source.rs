//! The ports of this crate: what pull, push, copy and the registry need of a place that keeps bytes by digest.
//!
//! The store implements them; tests bring their own. Plain types only, so that a peer-to-peer source can stand beside a
//! registry without either knowing the other.

use oci::digest::Digest;
use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::path::Path;

/// Bytes by digest. A digest that is answered for is complete and verified; there are no half blobs behind this port.
pub trait Blobs: Debug + Send + Sync {
    /// Returns the size in bytes, `None` when the blob is not there.
    fn size(&self, digest: &Digest) -> io::Result<Option<u64>>;

    /// Opens a blob for reading by position, `None` when it is not there.
    fn open(&self, digest: &Digest) -> io::Result<Option<File>>;

    /// Says that the blob is about to be named: a collection that runs at this moment keeps it. Returns `false` when it is not there.
    fn keep(&self, digest: &Digest) -> io::Result<bool>;

    /// Takes over the file at `path`, whose bytes the caller has verified against `digest`. It is synced and then moved, never
    /// copied; afterwards the path is gone, also when the blob was there already.
    fn adopt(&self, digest: &Digest, path: &Path) -> io::Result<()>;

    /// Stores a small document that the caller has verified.
    fn put(&self, digest: &Digest, bytes: &[u8]) -> io::Result<()>;
}

/// Reads a whole blob of at most `max` bytes, `None` when it is not there.
pub fn read(blobs: &dyn Blobs, digest: &Digest, max: u64) -> io::Result<Option<Vec<u8>>> {
    use std::io::Read as _;
    let Some(file) = blobs.open(digest)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{digest} is larger than {max} bytes")));
    }
    Ok(Some(bytes))
}
