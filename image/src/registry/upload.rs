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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Uploads that lie on the disk at once; the next gets `TOOMANYREQUESTS`. A thousand pushes of four layers each.
const KEPT_MAX: usize = 4096;
/// Uploads whose file is open at once; the ones that no request touches are closed beyond it and opened again when asked
/// for. A quarter of the usual limit of open files.
const OPEN_MAX: usize = 256;
/// An upload that nobody has touched this long is removed.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);
/// The same when [`KEPT_MAX`] is reached: longer than any client waits between two requests.
const ABANDONED_WHEN_FULL_AFTER: Duration = Duration::from_secs(3600);

/// All uploads of one registry.
#[derive(Debug)]
pub(crate) struct Uploads {
    state: Mutex<State>,
    kept_max: usize,
}

impl Default for Uploads {
    fn default() -> Self {
        Self { state: Mutex::default(), kept_max: KEPT_MAX }
    }
}

type Shared = Arc<tokio::sync::Mutex<Upload>>;

#[derive(Debug, Default)]
struct State {
    /// Those whose file is open, with when a request last asked for them.
    open: HashMap<String, (Shared, Instant)>,
    /// Those on the disk, as of the last count and what happened since.
    kept: usize,
}

impl State {
    /// Makes room for one more open file: what no request holds is closed, the longest untouched first.
    fn close_idle(&mut self) {
        while self.open.len() >= OPEN_MAX {
            let idle = self.open.iter().filter(|(_, (upload, _))| Arc::strong_count(upload) == 1);
            let Some(id) = idle.min_by_key(|(_, (_, touched))| *touched).map(|(id, _)| id.clone()) else { return };
            self.open.remove(&id);
        }
    }

    fn insert(&mut self, upload: Upload) -> Shared {
        self.close_idle();
        let id = upload.id.clone();
        let upload = Arc::new(tokio::sync::Mutex::new(upload));
        self.open.insert(id, (Arc::clone(&upload), Instant::now()));
        upload
    }
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
    pub(crate) fn start(&self, shelf: &Shelf, repository: &str) -> Result<Shared, Refusal> {
        if self.state().kept >= self.kept_max {
            self.sweep(shelf, ABANDONED_WHEN_FULL_AFTER);
        }
        let mut state = self.state();
        if state.kept >= self.kept_max {
            return Err(Refusal::new(
                Code::TooManyRequests,
                format!("{} uploads are unfinished already", self.kept_max),
            ));
        }
        let id = format!("{:016x}{:016x}", random(), random());
        let folder = shelf.uploads().join(&id);
        fs::create_dir(&folder)?;
        state.kept += 1;
        super::shelf::write_atomic(&folder.join("repository"), repository.as_bytes())?;
        let file = File::options().read(true).write(true).create_new(true).open(folder.join("data"))?;
        file.lock()?;
        let hasher = Some(Hasher::new(Algorithm::Sha256));
        Ok(state.insert(Upload { id, folder, file, offset: 0, hasher, finished: false }))
    }

    /// Finds an upload of this repository, also one that an earlier process began.
    pub(crate) fn find(&self, shelf: &Shelf, repository: &str, id: &str) -> Result<Shared, Refusal> {
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
        let mut state = self.state();
        if let Some((upload, touched)) = state.open.get_mut(id) {
            *touched = Instant::now();
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
        Ok(state.insert(Upload { id: id.to_owned(), folder, file, offset, hasher, finished: false }))
    }

    /// Forgets an upload that is over.
    pub(crate) fn forget(&self, id: &str) {
        let mut state = self.state();
        state.open.remove(id);
        state.kept = state.kept.saturating_sub(1);
    }

    /// Removes uploads that nobody has touched for a day, and counts the others.
    pub(crate) fn sweep_abandoned(&self, shelf: &Shelf) {
        self.sweep(shelf, ABANDONED_AFTER);
    }

    /// Removes uploads that nobody has touched for this long. Errors are the next sweep's business.
    fn sweep(&self, shelf: &Shelf, age_max: Duration) {
        let mut state = self.state();
        state.kept = 0;
        for entry in fs::read_dir(shelf.uploads()).into_iter().flatten().flatten() {
            let data = entry.path().join("data");
            let touched = data.metadata().or_else(|_| entry.metadata()).and_then(|m| m.modified());
            let old = touched.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > age_max));
            let id = entry.file_name().to_string_lossy().into_owned();
            let busy = state.open.get(&id).is_some_and(|(upload, _)| Arc::strong_count(upload) > 1);
            if old && !busy {
                // Closed before the lock is asked for: it is the other servers' locks that count.
                state.open.remove(&id);
                let free = File::open(&data).map_or(true, |file| file.try_lock().is_ok());
                if free && fs::remove_dir_all(entry.path()).is_ok() {
                    continue;
                }
            }
            state.kept += 1;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::scratch;

    fn shelf() -> (tempfile::TempDir, Shelf) {
        let (dir, store) = scratch();
        let shelf = Shelf::open(&dir.path().join("registry"), Arc::new(store)).unwrap();
        (dir, shelf)
    }

    fn touch(shelf: &Shelf, id: &str, age: Duration) {
        let data = File::options().write(true).open(shelf.uploads().join(id).join("data")).unwrap();
        data.set_modified(SystemTime::now() - age).unwrap();
    }

    fn id(upload: &Shared) -> String {
        upload.try_lock().unwrap().id.clone()
    }

    #[test]
    fn an_abandoned_upload_goes_while_the_server_runs_and_a_busy_one_stays() {
        let (_dir, shelf) = shelf();
        let uploads = Uploads::default();
        let [abandoned, busy, young] = [(); 3].map(|()| uploads.start(&shelf, "a/b").unwrap());
        let ids = [&abandoned, &busy, &young].map(id);
        let day = ABANDONED_AFTER + Duration::from_secs(60);
        touch(&shelf, &ids[0], day);
        touch(&shelf, &ids[1], day);
        drop((abandoned, young));
        uploads.sweep_abandoned(&shelf);
        assert!(
            matches!(uploads.find(&shelf, "a/b", &ids[0]), Err(refusal) if refusal.code == Code::BlobUploadUnknown)
        );
        assert!(!shelf.uploads().join(&ids[0]).exists());
        assert!(uploads.find(&shelf, "a/b", &ids[1]).is_ok());
        assert!(uploads.find(&shelf, "a/b", &ids[2]).is_ok());
        assert_eq!(uploads.state().kept, 2);
        drop(busy);
    }

    #[test]
    fn files_of_uploads_that_no_request_touches_are_closed_and_the_upload_goes_on() {
        let (_dir, shelf) = shelf();
        let uploads = Uploads::default();
        let first = uploads.start(&shelf, "a/b").unwrap();
        let first_id = id(&first);
        first.try_lock().unwrap().append(b"half").unwrap();
        drop(first);
        for _ in 0..OPEN_MAX {
            drop(uploads.start(&shelf, "a/b").unwrap());
        }
        assert_eq!(uploads.state().open.len(), OPEN_MAX);
        assert!(!uploads.state().open.contains_key(&first_id), "the oldest was closed");
        let again = uploads.find(&shelf, "a/b", &first_id).unwrap();
        let mut again = again.try_lock().unwrap();
        assert_eq!(again.offset(), 4);
        again.append(b" done").unwrap();
        again.finish(&shelf, "a/b", &Digest::sha256(b"half done")).unwrap();
    }

    #[test]
    fn unfinished_uploads_are_bounded_and_old_ones_make_room() {
        let (_dir, shelf) = shelf();
        let uploads = Uploads { kept_max: 20, ..Uploads::default() };
        let old = id(&uploads.start(&shelf, "a/b").unwrap());
        uploads.state().kept = 20;
        // Counted anew: the number was wrong.
        assert!(uploads.start(&shelf, "a/b").is_ok());
        for _ in 2..20 {
            fs::create_dir(shelf.uploads().join(format!("{:032x}", random()))).unwrap();
        }
        uploads.state().kept = 20;
        assert!(matches!(uploads.start(&shelf, "a/b"), Err(refusal) if refusal.code == Code::TooManyRequests));
        touch(&shelf, &old, ABANDONED_WHEN_FULL_AFTER + Duration::from_secs(60));
        assert!(uploads.start(&shelf, "a/b").is_ok());
        assert!(!shelf.uploads().join(&old).exists());
    }
}
