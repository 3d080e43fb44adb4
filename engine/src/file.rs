//! Files that are replaced whole: a reader sees the old text or the new one, also after a crash.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The largest document read back, in bytes: records are some kilobytes; more is a damaged or hostile file.
pub const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

/// Whether the text must survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durable {
    /// Flushed to the disk before its name appears.
    Yes,
    /// May be lost with the power, never torn.
    No,
}

/// Why a document could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file system refused.
    #[error("{step} {}", path.display())]
    Io {
        /// What was being done.
        step: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The text is not what its name promises.
    #[error("read {}: it is damaged or of a newer version", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
}

impl FileError {
    /// Builds the mapping from an I/O error for one step on one path.
    pub fn io(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { step, path, source }
    }

    /// Whether the file was simply not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// What a document is read with at once, in bytes: a record has about two thousand.
const FIRST_READ_BYTES: usize = 8 * 1024;

/// Returns a neighbour's name to write `path` under first: nobody else's, be it another process or a thread of this one (a node
/// starts several containers at a time).
pub fn draft(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    path.with_extension(format!("new-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)))
}

/// Replaces a file by `bytes` through a temporary neighbour and a rename.
pub fn replace(path: &Path, bytes: &[u8], durable: Durable) -> Result<(), FileError> {
    let temporary = draft(path);
    let written = (|| {
        let mut file = fs::File::create(&temporary)?;
        file.write_all(bytes)?;
        if durable == Durable::Yes {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)
    })();
    written.map_err(|source| {
        fs::remove_file(&temporary).ok();
        FileError::Io { step: "write", path: path.to_owned(), source }
    })
}

/// Replaces a file by a document.
pub fn save<T: Serialize>(path: &Path, document: &T, durable: Durable) -> Result<(), FileError> {
    let text = serde_json::to_vec(document).map_err(|source| FileError::Malformed { path: path.to_owned(), source })?;
    if text.len() as u64 > DOCUMENT_BYTES_MAX {
        // It could not be read back.
        return Err(FileError::io("write", path)(io::Error::other(format!("larger than {DOCUMENT_BYTES_MAX} bytes"))));
    }
    replace(path, &text, durable)
}

/// Reads a document.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, FileError> {
    let bytes = read(path, DOCUMENT_BYTES_MAX)?;
    serde_json::from_slice(&bytes).map_err(|source| FileError::Malformed { path: path.to_owned(), source })
}

/// Reads at most `max` bytes of a file; a larger one is an error.
pub fn read(path: &Path, max: u64) -> Result<Vec<u8>, FileError> {
    use std::io::Read;
    // Most documents come with one read: `ps` reads thousands.
    let mut first = [0; FIRST_READ_BYTES];
    let mut file = fs::File::open(path).map_err(FileError::io("open", path))?;
    let count = loop {
        match file.read(&mut first) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => break other.map_err(FileError::io("read", path))?,
        }
    };
    let mut bytes = first[..count].to_vec();
    if count == FIRST_READ_BYTES {
        file.take(max + 1 - count as u64).read_to_end(&mut bytes).map_err(FileError::io("read", path))?;
    }
    if bytes.len() as u64 > max {
        return Err(FileError::io("read", path)(io::Error::other("larger than any file of its kind")));
    }
    Ok(bytes)
}
