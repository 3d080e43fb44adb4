//! Uploads of ours that are under way: where at a registry a blob is being sent, so that a push that was killed goes on there.
//!
//! In: a repository of a registry, a digest, the places (upload locations) that the registry names. Out: the last of them.
//! `sending/HEX` (the SHA-256 of repository and digest) holds `shoal-sending 1`, what it is about, and a line for each
//! place, appended before bytes are sent there. It is locked by the one process that sends, and goes when the blob is
//! there. It is a hint: the registry says how much it has, and one that forgot the upload gets a new one.

use crate::store::layout::{open_lock, same_file};
use crate::store::{Store, StoreError};
use oci::Digest;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

/// The first line.
const HEADER: &str = "shoal-sending 1";
/// Bytes of such a file before it is begun anew: a registry that puts its state into the location uses a kilobyte a chunk.
const BYTES_MAX: u64 = 1 << 20;
/// Bytes of one place. Longer ones are not remembered.
const PLACE_BYTES_MAX: usize = 16 << 10;

/// One upload that this process carries out.
#[derive(Debug)]
pub(crate) struct Sending {
    path: PathBuf,
    file: File,
    head: String,
    place: Option<String>,
}

impl Store {
    /// The upload of `digest` to `repository` (with its registry); `None` while another process sends the same.
    pub(crate) fn sending(&self, repository: &str, digest: &Digest) -> Result<Option<Sending>, StoreError> {
        let dir = self.path().join("sending");
        crate::store::sys::create_dirs(&dir).map_err(StoreError::io("create the directory", &dir))?;
        let about = format!("{repository} {digest}");
        let path = dir.join(Digest::sha256(about.as_bytes()).hex());
        let mut file = loop {
            let file = open_lock(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
                Err(std::fs::TryLockError::Error(error)) => return Err(StoreError::io("lock", &path)(error)),
            }
            // The one who had it may have removed the file between our open and our lock.
            if same_file(&file, &path) {
                break file;
            }
        };
        let mut text = Vec::new();
        (&mut file).take(BYTES_MAX).read_to_end(&mut text).map_err(StoreError::io("read", &path))?;
        let head = format!("{HEADER}\n{about}\n");
        let text = String::from_utf8(text).unwrap_or_default();
        let place = text.strip_prefix(&head).and_then(last_line).map(str::to_owned);
        let mut sending = Sending { path, file, head, place };
        sending.begin()?;
        Ok(Some(sending))
    }
}

impl Sending {
    /// Where an earlier process sent to.
    pub(crate) fn place(&self) -> Option<&str> {
        self.place.as_deref()
    }

    /// Remembers where the next bytes go.
    pub(crate) fn moved(&mut self, place: &str) -> Result<(), StoreError> {
        if self.place.as_deref() == Some(place) || place.len() > PLACE_BYTES_MAX || place.contains('\n') {
            return Ok(());
        }
        self.place = Some(place.to_owned());
        let length = self.file.metadata().map_err(StoreError::io("look at", &self.path))?.len();
        if length + place.len() as u64 >= BYTES_MAX {
            return self.begin();
        }
        self.append(&format!("{place}\n"))
    }

    /// Writes the file anew with what is known last.
    fn begin(&mut self) -> Result<(), StoreError> {
        self.file.set_len(0).map_err(StoreError::io("empty", &self.path))?;
        let text = self.place.iter().fold(self.head.clone(), |head, place| head + place + "\n");
        self.append(&text)
    }

    fn append(&mut self, text: &str) -> Result<(), StoreError> {
        // One write: a reader sees whole lines or a last one without its end, which does not count.
        self.file
            .seek(SeekFrom::End(0))
            .and_then(|_| self.file.write_all(text.as_bytes()))
            .map_err(StoreError::io("write", &self.path))
    }

    /// The blob is there: nothing needs to be remembered.
    pub(crate) fn finished(self) {
        // What cannot be removed is taken by a later collection.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The last line that was written whole.
fn last_line(text: &str) -> Option<&str> {
    let whole = &text[..=text.rfind('\n')?];
    whole.lines().last()
}

#[cfg(test)]
mod tests {
    use crate::store::testing::scratch;
    use oci::Digest;
    use std::io::Write;

    #[test]
    fn the_last_place_is_found_again_and_a_torn_one_does_not_count() {
        let (dir, store) = scratch();
        let digest = Digest::sha256(b"x");
        let mut sending = store.sending("r.test/a", &digest).unwrap().unwrap();
        assert_eq!(sending.place(), None);
        assert!(store.sending("r.test/a", &digest).unwrap().is_none(), "one process at a time");
        assert!(store.sending("r.test/b", &digest).unwrap().is_some(), "another repository is another upload");
        sending.moved("http://r.test/v2/a/blobs/uploads/1?state=1").unwrap();
        sending.moved("http://r.test/v2/a/blobs/uploads/1?state=2").unwrap();
        sending.file.write_all(b"http://r.test/v2/torn").unwrap();
        drop(sending);
        let sending = store.sending("r.test/a", &digest).unwrap().unwrap();
        assert_eq!(sending.place(), Some("http://r.test/v2/a/blobs/uploads/1?state=2"));
        drop(sending);
        let sending = store.sending("r.test/a", &digest).unwrap().unwrap();
        assert_eq!(sending.place(), Some("http://r.test/v2/a/blobs/uploads/1?state=2"), "kept by looking");
        sending.finished();
        assert_eq!(store.sending("r.test/a", &digest).unwrap().unwrap().place(), None);
        assert_eq!(std::fs::read_dir(dir.path().join("sending")).unwrap().count(), 2);
    }

    #[test]
    fn another_version_and_another_upload_are_begun_anew() {
        let (dir, store) = scratch();
        let digest = Digest::sha256(b"x");
        drop(store.sending("r.test/a", &digest).unwrap().unwrap());
        let path = std::fs::read_dir(dir.path().join("sending")).unwrap().next().unwrap().unwrap().path();
        for text in ["shoal-sending 2\nr.test/a\nhttp://x/\n", "\u{0}\u{1}", "shoal-sending 1\nr.test/b y\nhttp://x/\n"]
        {
            std::fs::write(&path, text).unwrap();
            assert_eq!(store.sending("r.test/a", &digest).unwrap().unwrap().place(), None, "{text:?}");
        }
    }

    #[test]
    fn many_places_do_not_make_the_file_grow_without_end() {
        let (dir, store) = scratch();
        let digest = Digest::sha256(b"x");
        let mut sending = store.sending("r.test/a", &digest).unwrap().unwrap();
        for n in 0..3000 {
            sending.moved(&format!("http://r.test/{n}?{}", "s".repeat(1000))).unwrap();
        }
        let size: u64 =
            std::fs::read_dir(dir.path().join("sending")).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(size < 2 << 20, "{size}");
        drop(sending);
        let found = store.sending("r.test/a", &digest).unwrap().unwrap();
        assert!(found.place().is_some_and(|place| place.starts_with("http://r.test/2999?")));
    }
}
