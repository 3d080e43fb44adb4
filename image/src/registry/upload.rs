//! Uploads in progress: bytes arrive in order, the disk is the truth, the digest decides at the end.
//!
//! An upload is a folder `uploads/ID` with `repository` (one line) and `data`. The length of `data` is the offset, so an upload goes on
//! after the server was killed. The hash of what this process received is kept beside; after a restart the file is hashed
//! again, once, when the upload is finished. One request at a time may touch an upload (a lock in the process, `flock` between processes).

use super::error::{Code, Refusal};
use super::shelf::Shelf;
use crate::remote::transport::random;
use oci::digest::{Algorithm, Digest, Hasher};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// Uploads that may be open at once; the next gets `TOOMANYREQUESTS`.
const UPLOADS_MAX: usize = 4096;
/// An upload that nobody has touched this long is removed.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// All uploads of one registry.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    open: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Upload>>>>,
}

/// One upload.
#[derive(Debug)]
pub(crate) struct Upload {
    /// Its session id.
    pub(crate) id: String,
    folder: PathBuf,
    file: File,
    offset: u64,
    /// The sha256 of everything so far, when this process saw everything.
    hasher: Option<Hasher>,
    finished: bool,
}

impl Uploads {
    /// Starts an upload.
    pub(crate) fn start(&self, shelf: &Shelf, repository: &str) -> Result<Arc<tokio::sync::Mutex<Upload>>, Refusal> {
        let mut open = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if open.len() >= UPLOADS_MAX {
            return Err(Refusal::new(Code::TooManyRequests, format!("{UPLOADS_MAX} uploads are open already")));
        }
        let id = format!("{:016x}{:016x}", random(), random());
        let folder = shelf.uploads().join(&id);
        fs::create_dir(&folder)?;
        super::shelf::write_atomic(&folder.join("repository"), repository.as_bytes())?;
        let file = File::options().read(true).write(true).create_new(true).open(folder.join("data"))?;
        file.lock()?;
        let hasher = Some(Hasher::new(Algorithm::Sha256));
        let upload = Arc::new(tokio::sync::Mutex::new(Upload {
            id: id.clone(),
            folder,
            file,
            offset: 0,
            hasher,
            finished: false,
        }));
        open.insert(id, Arc::clone(&upload));
        Ok(upload)
    }

    /// Finds an upload of this repository, also one that an earlier process began.
    pub(crate) fn find(
        &self,
        shelf: &Shelf,
        repository: &str,
        id: &str,
    ) -> Result<Arc<tokio::sync::Mutex<Upload>>, Refusal> {
        let unknown = || Refusal::new(Code::BlobUploadUnknown, "no such upload in this repository");
        if id.len() != 32 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(unknown());
        }
        let folder = shelf.uploads().join(id);
        let owner = match fs::read_to_string(folder.join("repository")) {
            Ok(owner) => owner,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(unknown()),
            Err(error) => return Err(error.into()),
        };
        if owner != repository {
            return Err(unknown());
        }
        let mut open = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(upload) = open.get(id) {
            return Ok(Arc::clone(upload));
        }
        let mut file = match File::options().read(true).write(true).open(folder.join("data")) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(unknown()),
            Err(error) => return Err(error.into()),
        };
        if file.try_lock().is_err() {
            return Err(Refusal::new(Code::TooManyRequests, "another server is busy with this upload"));
        }
        let offset = file.seek(SeekFrom::End(0))?;
        let hasher = (offset == 0).then(|| Hasher::new(Algorithm::Sha256));
        let upload = Upload { id: id.to_owned(), folder, file, offset, hasher, finished: false };
        let upload = Arc::new(tokio::sync::Mutex::new(upload));
        open.insert(id.to_owned(), Arc::clone(&upload));
        Ok(upload)
    }

    /// Forgets an upload that is over.
    pub(crate) fn forget(&self, id: &str) {
        self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(id);
    }

    /// Removes uploads that nobody has touched for a day. Errors are the next sweep's business.
    pub(crate) fn sweep(&self, shelf: &Shelf) {
        let open = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for entry in fs::read_dir(shelf.uploads()).into_iter().flatten().flatten() {
            let touched = entry.path().join("data").metadata().or_else(|_| entry.metadata()).and_then(|m| m.modified());
            let old =
                touched.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > ABANDONED_AFTER));
            let known = entry.file_name().to_str().is_some_and(|id| open.contains_key(id));
            if old && !known {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

impl Upload {
    /// Bytes received.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Appends bytes.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        if self.finished {
            return Err(Refusal::new(Code::BlobUploadUnknown, "this upload is over"));
        }
        if let Err(error) = self.file.write_all(bytes) {
            // A write that stopped half way (a full disk) is undone: length and hash stay of one mind.
            let _ = self.file.set_len(self.offset);
            let _ = self.file.seek(SeekFrom::Start(self.offset));
            return Err(error.into());
        }
        self.offset += bytes.len() as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        Ok(())
    }

    /// Verifies the digest and moves the bytes into the repository. A wrong digest ends the upload.
    pub(crate) fn finish(&mut self, shelf: &Shelf, repository: &str, digest: &Digest) -> Result<(), Refusal> {
        if self.finished {
            return Err(Refusal::new(Code::BlobUploadUnknown, "this upload is over"));
        }
        let found = match self.hasher.take() {
            Some(hasher) if digest.algorithm() == Algorithm::Sha256 => hasher.finish(),
            _ => self.rehash(digest.algorithm())?,
        };
        self.finished = true;
        if found != *digest {
            self.discard();
            return Err(Refusal::new(Code::DigestInvalid, format!("the bytes are {found}, not {digest}")));
        }
        let adopted = shelf.adopt_blob(repository, digest, &self.folder.join("data"));
        self.discard();
        Ok(adopted?)
    }

    /// Drops the upload and its bytes.
    pub(crate) fn cancel(&mut self) {
        self.finished = true;
        self.discard();
    }

    fn discard(&self) {
        // What stays behind after an error here is swept a day later.
        let _ = fs::remove_dir_all(&self.folder);
    }

    fn rehash(&mut self, algorithm: Algorithm) -> io::Result<Digest> {
        let mut hasher = Hasher::new(algorithm);
        self.file.seek(SeekFrom::Start(0))?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match self.file.read(&mut buffer)? {
                0 => return Ok(hasher.finish()),
                read => hasher.update(&buffer[..read]),
            }
        }
    }
}

/// The path of an upload below the registry.
pub(crate) fn location(repository: &str, id: &str) -> String {
    format!("/v2/{repository}/blobs/uploads/{id}")
}

/// The `Range` of an upload's status: the last byte that is there, inclusive (`0-0` also for none, as every client expects).
pub(crate) fn range(offset: u64) -> String {
    format!("0-{}", offset.saturating_sub(1))
}
