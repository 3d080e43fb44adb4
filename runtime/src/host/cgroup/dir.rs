//! One cgroup directory: reads and writes of its small files, each error naming file and value.
//!
//! Never creates a file: on a real cgroup they are the kernel's, on a fixture tree they are the test's.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::error::CgroupError;

/// The most that is read of one file. The longest in practice (`memory.stat`, `cgroup.procs` of a huge cgroup)
/// stays far below; a fixture or a bind mount must not exhaust memory.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What is asked for at once: a page, which most files of a cgroup do not fill by half.
const FIRST_READ: usize = 4096;

/// A directory of one hierarchy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dir<'a> {
    path: &'a Path,
}

impl<'a> Dir<'a> {
    pub(super) fn new(path: &'a Path) -> Self {
        Self { path }
    }

    pub(super) fn path(self) -> &'a Path {
        self.path
    }

    pub(super) fn file(self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(super) fn has(self, name: &str) -> bool {
        self.file(name).exists()
    }

    /// Writes a value with one `write(2)`.
    pub(super) fn write(self, name: &str, value: &str) -> Result<(), CgroupError> {
        self.write_open(name, value).map(drop)
    }

    /// The same, for a caller that closes many files at once.
    pub(super) fn write_open(self, name: &str, value: &str) -> Result<OwnedFd, CgroupError> {
        let path = self.file(name);
        put(&path, value).map_err(|cause| CgroupError::Write { path, value: value.to_owned(), cause })
    }

    /// Opens a file for several writes, each its own `write(2)`.
    pub(super) fn writer(self, name: &str) -> Result<Writer, CgroupError> {
        let path = self.file(name);
        match OpenOptions::new().append(true).open(&path) {
            Ok(file) => Ok(Writer { path, file }),
            Err(cause) => Err(CgroupError::Write { path, value: String::new(), cause }),
        }
    }

    /// Reads a whole file, without the trailing newline.
    pub(super) fn read(self, name: &str) -> Result<String, CgroupError> {
        let path = self.file(name);
        match get(&path) {
            Ok(mut text) => {
                text.truncate(text.trim_end().len());
                Ok(text)
            }
            Err(cause) => Err(CgroupError::Read { path, cause }),
        }
    }

    /// Reads a file that may be absent.
    pub(super) fn read_if(self, name: &str) -> Result<Option<String>, CgroupError> {
        match self.read(name) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads one number; `max` is `u64::MAX`, a negative number (v1's "no limit") too.
    pub(super) fn number(self, name: &str) -> Result<u64, CgroupError> {
        let text = self.read(name)?;
        number(&text).ok_or_else(|| CgroupError::parse(&self.file(name), &text, "a number"))
    }

    /// Reads one number of a file that may be absent.
    pub(super) fn number_if(self, name: &str) -> Result<Option<u64>, CgroupError> {
        let Some(text) = self.read_if(name)? else { return Ok(None) };
        number(&text).map(Some).ok_or_else(|| CgroupError::parse(&self.file(name), &text, "a number"))
    }

    /// Reads `key value` lines in file order.
    pub(super) fn pairs(self, name: &str) -> Result<Vec<(String, u64)>, CgroupError> {
        let text = self.read(name)?;
        let mut pairs = Vec::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let mut words = line.split_ascii_whitespace();
            let pair = match (words.next(), words.next().and_then(number)) {
                (Some(key), Some(value)) => (key.to_owned(), value),
                _ => return Err(CgroupError::parse(&self.file(name), line, "a key and a number")),
            };
            pairs.push(pair);
        }
        Ok(pairs)
    }

    /// The number behind one key of a `key value` file; `None` if the file or the key is not there.
    pub(super) fn value_of(self, name: &str, key: &str) -> Result<Option<u64>, CgroupError> {
        match self.pairs(name) {
            Ok(pairs) => Ok(pairs.into_iter().find(|(found, _)| found == key).map(|(_, value)| value)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// An open file of a cgroup.
#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    file: File,
}

impl Writer {
    pub(super) fn write(&mut self, value: &str) -> Result<(), CgroupError> {
        self.file.write_all(value.as_bytes()).map_err(|cause| CgroupError::Write {
            path: self.path.clone(),
            value: value.to_owned(),
            cause,
        })
    }
}

/// Reads a number as cgroup files write it.
pub(super) fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    match text {
        "max" => Some(u64::MAX),
        _ if text.starts_with('-') => text.parse::<i64>().ok().map(|_| u64::MAX),
        _ => text.parse().ok(),
    }
}

fn put(path: &Path, value: &str) -> io::Result<OwnedFd> {
    let mut file = OpenOptions::new().write(true).truncate(true).open(path)?;
    file.write_all(value.as_bytes()).map(|()| file.into())
}

fn get(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut text = vec![0; FIRST_READ];
    let length = file.read(&mut text)?;
    text.truncate(length);
    // The kernel fills a page with whole lines: far less than one is all there is, and the call that says so is saved.
    if length > FIRST_READ / 2 {
        file.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
    }
    String::from_utf8(text).map_err(|_| io::Error::from_raw_os_error(libc::EILSEQ))
}
