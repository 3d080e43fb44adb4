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
/// Uploads of one client that lie on the disk at once.
const KEPT_PER_CLIENT_MAX: usize = KEPT_MAX / 4;
/// The same as [`ABANDONED_AFTER`] when [`KEPT_MAX`] is reached: longer than any client waits between two requests.
const ABANDONED_WHEN_FULL_AFTER: Duration = Duration::from_secs(3600);
/// How often the disk is looked through for these.
const SWEEP_WHEN_FULL_EVERY: Duration = Duration::from_secs(10);
/// Uploads looked at for one that holds nothing and can make room.
const EVICTION_LOOKS_MAX: usize = 64;

/// All uploads of one registry.
#[derive(Debug)]
pub(crate) struct Uploads {
    state: Mutex<State>,
    kept_max: usize,
    kept_per_client_max: usize,
}

impl Default for Uploads {
    fn default() -> Self {
        Self { state: Mutex::default(), kept_max: KEPT_MAX, kept_per_client_max: KEPT_PER_CLIENT_MAX }
    }
}

type Shared = Arc<tokio::sync::Mutex<Upload>>;

#[derive(Debug, Default)]
struct State {
    /// Those whose file is open, with when a request last asked for them.
    open: HashMap<String, (Shared, Instant)>,
    /// Those on the disk, as of the last count and what happened since.
    kept: HashMap<String, Kept>,
    /// When the disk was last looked through because there were too many.
    swept: Option<Instant>,
}

/// What is known of an upload without looking at it.
#[derive(Debug)]
struct Kept {
    /// Who began it; nobody's name for one of an earlier or another process.
    client: String,
    since: Instant,
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

    /// Who has most uploads.
    fn busiest(&self) -> String {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for kept in self.kept.values() {
            *counts.entry(&kept.client).or_default() += 1;
        }
        counts.into_iter().max_by_key(|(_, count)| *count).map_or_else(String::new, |(client, _)| client.to_owned())
    }

    /// Removes the client's oldest upload that holds no byte; `false` when none is found.
    fn evict(&mut self, shelf: &Shelf, client: &str) -> bool {
        let mut own: Vec<(Instant, String)> = self
            .kept
            .iter()
            .filter(|(_, kept)| kept.client == client)
            .map(|(id, kept)| (kept.since, id.clone()))
            .collect();
        own.sort_unstable();
        for (_, id) in own.into_iter().take(EVICTION_LOOKS_MAX) {
            let length = shelf.uploads().join(&id).join("data").metadata().map(|metadata| metadata.len());
            // One without its file was never finished being begun, or is gone.
            if length.map_or(true, |length| length == 0) && self.remove(shelf, &id) {
                self.kept.remove(&id);
                return true;
            }
        }
        false
    }

    /// Removes an upload that no request and no other server is busy with.
    fn remove(&mut self, shelf: &Shelf, id: &str) -> bool {
        if self.open.get(id).is_some_and(|(upload, _)| Arc::strong_count(upload) > 1) {
            return false;
        }
        // Closed before the lock is asked for: it is the other servers' locks that count.
        self.open.remove(id);
        let folder = shelf.uploads().join(id);
        let free = File::open(folder.join("data")).map_or(true, |file| file.try_lock().is_ok());
        free && match fs::remove_dir_all(folder) {
            Ok(()) => true,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
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
    /// Starts an upload for a client. Who has too many loses the oldest of his that holds nothing; when there are too many
    /// altogether, whoever has most does.
    pub(crate) fn start(&self, shelf: &Shelf, repository: &str, client: &str) -> Result<Shared, Refusal> {
        let mut state = self.state();
        if state.kept.len() >= self.kept_max && state.swept.is_none_or(|at| at.elapsed() >= SWEEP_WHEN_FULL_EVERY) {
            state.swept = Some(Instant::now());
            sweep(&mut state, shelf, ABANDONED_WHEN_FULL_AFTER);
        }
        let own = state.kept.values().filter(|kept| kept.client == client).count();
        let room = if own >= self.kept_per_client_max {
            state.evict(shelf, client)
        } else if state.kept.len() >= self.kept_max {
            let most = state.busiest();
            state.evict(shelf, &most)
        } else {
            true
        };
        if !room {
            let (count, whose) = if own >= self.kept_per_client_max { (own, "yours") } else { (self.kept_max, "all") };
            return Err(Refusal::new(
                Code::TooManyRequests,
                format!("{count} uploads ({whose}) are unfinished already"),
            ));
        }
        let id = format!("{:016x}{:016x}", random(), random());
        let folder = shelf.uploads().join(&id);
        fs::create_dir(&folder)?;
        state.kept.insert(id.clone(), Kept { client: client.to_owned(), since: Instant::now() });
        // Not durable: what a machine forgets that loses power, its clients begin again.
        fs::write(folder.join("repository"), repository)?;
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
        state.kept.remove(id);
    }

    /// Removes uploads that nobody has touched for a day, and counts the others.
    pub(crate) fn sweep_abandoned(&self, shelf: &Shelf) {
        sweep(&mut self.state(), shelf, ABANDONED_AFTER);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes uploads that nobody has touched for this long. Errors are the next sweep's business.
fn sweep(state: &mut State, shelf: &Shelf, age_max: Duration) {
    let mut before = std::mem::take(&mut state.kept);
    for entry in fs::read_dir(shelf.uploads()).into_iter().flatten().flatten() {
        let data = entry.path().join("data");
        let touched = data.metadata().or_else(|_| entry.metadata()).and_then(|m| m.modified());
        let old = touched.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > age_max));
        let id = entry.file_name().to_string_lossy().into_owned();
        if old && state.remove(shelf, &id) {
            continue;
        }
        let kept = before.remove(&id).unwrap_or_else(|| Kept { client: String::new(), since: Instant::now() });
        state.kept.insert(id, kept);
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
        let [abandoned, busy, young] = [(); 3].map(|()| uploads.start(&shelf, "a/b", "client").unwrap());
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
        assert_eq!(uploads.state().kept.len(), 2);
        drop(busy);
    }

    #[test]
    fn files_of_uploads_that_no_request_touches_are_closed_and_the_upload_goes_on() {
        let (_dir, shelf) = shelf();
        let uploads = Uploads::default();
        let first = uploads.start(&shelf, "a/b", "client").unwrap();
        let first_id = id(&first);
        first.try_lock().unwrap().append(b"half").unwrap();
        drop(first);
        for _ in 0..OPEN_MAX {
            drop(uploads.start(&shelf, "a/b", "client").unwrap());
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
        let uploads = Uploads { kept_max: 20, kept_per_client_max: 20, ..Uploads::default() };
        // They hold bytes: none may go.
        let begin = |client: &str| {
            let upload = uploads.start(&shelf, "a/b", client)?;
            upload.try_lock().unwrap().append(b"x")?;
            Ok::<_, Refusal>(id(&upload))
        };
        let old = begin("one").unwrap();
        for number in 1..20 {
            begin(if number % 2 == 0 { "one" } else { "two" }).unwrap();
        }
        assert!(matches!(begin("one"), Err(refusal) if refusal.code == Code::TooManyRequests));
        touch(&shelf, &old, ABANDONED_WHEN_FULL_AFTER + Duration::from_secs(60));
        // The disk is not looked through for every request beyond the bound.
        assert!(begin("one").is_err());
        uploads.state().swept = None;
        begin("one").unwrap();
        assert!(!shelf.uploads().join(&old).exists());
    }

    #[test]
    fn a_client_who_begins_uploads_without_end_is_in_nobodys_way_but_his_own() {
        let (_dir, shelf) = shelf();
        let uploads = Uploads { kept_max: 20, kept_per_client_max: 10, ..Uploads::default() };
        let busy = uploads.start(&shelf, "a/b", "flood").unwrap();
        let second = id(&uploads.start(&shelf, "a/b", "flood").unwrap());
        for _ in 0..50 {
            drop(uploads.start(&shelf, "a/b", "flood").unwrap());
        }
        assert_eq!(uploads.state().kept.len(), 10);
        assert!(!shelf.uploads().join(second).exists(), "the oldest that is empty and not busy made room");
        assert!(shelf.uploads().join(id(&busy)).exists());
        let own = id(&uploads.start(&shelf, "a/b", "somebody").unwrap());
        for number in 0..50 {
            drop(uploads.start(&shelf, "a/b", &format!("flood {}", number % 3)).unwrap());
        }
        assert_eq!(uploads.state().kept.len(), 20);
        assert!(shelf.uploads().join(own).exists(), "whoever has most makes room");
    }
}
