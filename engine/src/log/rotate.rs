//! A file that is renamed to `.1`, `.2`, … when it has grown too large; the oldest disappears.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The current file and its rules.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    file: fs::File,
    size: u64,
    max_size: u64,
    max_file: u32,
}

impl File {
    /// Opens for appending; `max_size` 0 never rotates, `max_file` counts the current file too.
    pub(super) fn open(path: &Path, max_size: u64, max_file: u32) -> io::Result<Self> {
        let file = append(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, size, max_size, max_file: max_file.max(1) })
    }

    /// Appends whole records; rotates before a write that would pass the limit.
    pub(super) fn append(&mut self, records: &[u8]) -> io::Result<()> {
        if self.max_size > 0 && self.size > 0 && self.size + records.len() as u64 > self.max_size {
            self.rotate()?;
        }
        self.file.write_all(records)?;
        self.size += records.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        if self.max_file == 1 {
            // The only file there may be: begin it anew under the same name.
            fs::remove_file(&self.path)?;
        } else {
            for number in (1..self.max_file - 1).rev() {
                match fs::rename(numbered(&self.path, number), numbered(&self.path, number + 1)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            fs::rename(&self.path, numbered(&self.path, 1))?;
        }
        self.file = append(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

/// `PATH.NUMBER`.
pub(super) fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}
