//! Ingest: bytes of unknown truth become a blob, or nothing.
//!
//! In: a stream, perhaps with a promised digest and size. Out: the verified blob under its digest. On the way: a temporary
//! file locked by its writer → digest and size checked → made durable → renamed. A writer that dies leaves a file that
//! nobody locks, and garbage collection takes it.

use crate::store::{Store, StoreError, sys};
use oci::digest::{Algorithm, Hasher};
use oci::{Descriptor, Digest};
use rustix::fs::{AtFlags, Mode, OFlags};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// A blob being written in one go. Dropping it without [`Ingest::commit`] removes what was written.
#[derive(Debug)]
pub struct Ingest {
    store: Store,
    file: Option<File>,
    temporary: PathBuf,
    hasher: Hasher,
    written: u64,
    expected: Option<Digest>,
    size: Option<u64>,
}

impl Ingest {
    pub(crate) fn start(store: &Store, expected: Option<Digest>, size: Option<u64>) -> Result<Self, StoreError> {
        if let Some(digest) = &expected {
            store.hold(digest)?;
        }
        let (file, temporary) = store.temporary("ingest")?;
        let algorithm = expected.map_or(Algorithm::Sha256, |digest| digest.algorithm());
        let hasher = Hasher::new(algorithm);
        Ok(Self { store: store.clone(), file: Some(file), temporary, hasher, written: 0, expected, size })
    }

    /// Bytes written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Checks what was written, makes it durable and gives it its name. Returns digest and size in bytes.
    pub fn commit(mut self) -> Result<(Digest, u64), StoreError> {
        let file = self.file.take().expect("only commit takes the file, and commit consumes the ingest");
        let digest = self.hasher.clone().finish();
        if let Some(size) = self.size
            && size != self.written
        {
            let name = self.expected.map_or_else(|| digest.to_string(), |digest| digest.to_string());
            return Err(StoreError::Size { name, expected: size, actual: self.written, at_least: false });
        }
        if let Some(expected) = &self.expected
            && *expected != digest
        {
            return Err(StoreError::Mismatch { expected: expected.to_string(), actual: digest.to_string() });
        }
        self.store.hold(&digest)?;
        publish(&self.store, &file, &self.temporary, &digest)?;
        Ok((digest, self.written))
    }
}

impl Write for Ingest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let total = self.written + bytes.len() as u64;
        if self.size.is_some_and(|size| total > size) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("more than the promised {} bytes arrived", self.size.unwrap_or(0)),
            ));
        }
        let file = self.file.as_mut().expect("the file is there until commit");
        file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.written = total;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        // After a commit the name is gone already; a failure leaves a file for the next collection.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

/// Makes the verified file `temporary` the blob `digest`. An equal blob that is already there stays.
pub(crate) fn publish(store: &Store, file: &File, temporary: &Path, digest: &Digest) -> Result<(), StoreError> {
    let blob = store.layout().blob_path(digest);
    if let Some((_, size)) = store.layout().find_blob(digest)?
        && file.metadata().is_ok_and(|metadata| metadata.len() == size)
    {
        return Ok(());
    }
    file.sync_all().map_err(StoreError::io("make durable", temporary))?;
    rustix::fs::fchmod(file, rustix::fs::Mode::from_raw_mode(0o644))
        .map_err(StoreError::errno("change the mode of", temporary))?;
    let to = store.layout().blob_folder(digest.algorithm())?;
    let is_blob = || store.layout().verify_blob(digest).unwrap_or(false);
    move_verified(file, temporary, &to, &digest.hex(), is_blob)
        .map_err(StoreError::io("give the blob its name", &blob))?;
    rustix::fs::fsync(&to).map_err(StoreError::errno("make durable the folder of", &blob))
}

/// Moves the open file, which lies at `from`, to `name` in the folder `to`. What was verified is the open file: something
/// else keeps the blob's name only when `is_blob` finds that it is the blob, as another writer of it moves there, too.
fn move_verified(file: &File, from: &Path, to: &OwnedFd, name: &str, is_blob: impl FnOnce() -> bool) -> io::Result<()> {
    let own = rustix::fs::fstat(file)?;
    let is_own = |folder: &OwnedFd, name: &std::ffi::OsStr| {
        let found = sys::stat_at(folder, name)?;
        Ok::<_, io::Error>(found.is_some_and(|found| (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)))
    };
    let replaced = || io::Error::other("another file was put in its place");
    let (Some(parent), Some(base)) = (from.parent(), from.file_name()) else { return Err(replaced()) };
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::open(parent, flags, Mode::empty())?;
    if !is_own(&folder, base)? {
        return Err(replaced());
    }
    rustix::fs::renameat(&folder, base, to, name)?;
    if is_own(to, name.as_ref())? || is_blob() {
        return Ok(());
    }
    rustix::fs::unlinkat(to, name, AtFlags::empty())?;
    Err(replaced())
}

impl Store {
    /// Starts writing a blob. `expected` and `size` (bytes) are checked where they are known.
    pub fn ingest(&self, expected: Option<Digest>, size: Option<u64>) -> Result<Ingest, StoreError> {
        Ingest::start(self, expected, size)
    }

    /// Stores bytes that are in memory; returns a descriptor of them.
    pub fn put(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor, StoreError> {
        self.put_as(media_type, bytes, Algorithm::Sha256)
    }

    /// Like [`Store::put`], named by another algorithm.
    pub fn put_as(&self, media_type: &str, bytes: &[u8], algorithm: Algorithm) -> Result<Descriptor, StoreError> {
        let digest = Digest::of(algorithm, bytes);
        self.hold(&digest)?;
        if !self.has(&digest)? {
            let mut ingest = self.ingest(Some(digest), Some(bytes.len() as u64))?;
            ingest.write_all(bytes).map_err(StoreError::io("write the blob", self.layout().blob_path(&digest)))?;
            ingest.commit()?;
        }
        Ok(Descriptor::new(media_type, digest, bytes.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::scratch;

    #[test]
    fn what_keeps_its_promise_becomes_a_blob_and_no_temporary_stays() {
        let (dir, store) = scratch();
        let digest = Digest::sha256(b"hello");
        let mut ingest = store.ingest(Some(digest), Some(5)).unwrap();
        ingest.write_all(b"hel").unwrap();
        assert!(!store.has(&digest).unwrap(), "no name before it is verified");
        ingest.write_all(b"lo").unwrap();
        assert_eq!(ingest.commit().unwrap(), (digest, 5));
        assert_eq!(store.read_blob(&digest, 10).unwrap(), b"hello");
        assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn a_broken_promise_leaves_nothing() {
        let (dir, store) = scratch();
        let digest = Digest::sha256(b"hello");
        let mut wrong = store.ingest(Some(digest), Some(5)).unwrap();
        wrong.write_all(b"jello").unwrap();
        assert!(matches!(wrong.commit(), Err(StoreError::Mismatch { .. })));
        let mut short = store.ingest(Some(digest), Some(5)).unwrap();
        short.write_all(b"hel").unwrap();
        assert!(matches!(short.commit(), Err(StoreError::Size { .. })));
        let mut long = store.ingest(Some(digest), Some(5)).unwrap();
        assert!(long.write_all(b"hello world").is_err());
        drop(long);
        assert!(!store.has(&digest).unwrap());
        assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(dir.path().join("blobs/sha256")).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_was_put_in_the_place_of_the_verified_one_never_gets_its_name() {
        let (dir, store) = scratch();
        let (outside, digest) = (dir.path().join("outside"), Digest::sha256(b"hello"));
        std::fs::write(&outside, "of the host").unwrap();
        for swap in [true, false] {
            let mut ingest = store.ingest(Some(digest), Some(5)).unwrap();
            ingest.write_all(b"hello").unwrap();
            let temporary = ingest.temporary.clone();
            std::fs::remove_file(&temporary).unwrap();
            if swap {
                std::os::unix::fs::symlink(&outside, &temporary).unwrap();
            } else {
                std::fs::write(&temporary, "jello").unwrap();
            }
            assert!(ingest.commit().is_err());
            assert!(!store.has(&digest).unwrap());
        }
        assert_eq!(std::fs::read_to_string(&outside).unwrap(), "of the host");
    }

    #[test]
    fn writers_of_one_blob_at_once_do_not_take_it_from_each_other() {
        let (_dir, store) = scratch();
        for round in 0..100_u32 {
            let put = || store.put("a/b", &round.to_le_bytes()).unwrap();
            std::thread::scope(|scope| {
                let writers: Vec<_> = (0..4).map(|_| scope.spawn(put)).collect();
                for writer in writers {
                    let blob = writer.join().expect("no writer fails");
                    assert!(store.has(&blob.digest).unwrap(), "round {round}");
                }
            });
        }
    }

    #[test]
    fn both_algorithms_have_their_own_folder() {
        let (dir, store) = scratch();
        store.put_as("a/b", b"x", Algorithm::Sha512).unwrap();
        store.put("a/b", b"x").unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("blobs/sha512")).unwrap().count(), 1);
        assert_eq!(std::fs::read_dir(dir.path().join("blobs/sha256")).unwrap().count(), 1);
    }
}
