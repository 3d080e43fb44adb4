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

    /// Appends whole records, each ended by a line feed; rotates before the record that would pass the limit, so that a batch is spread
    /// over as many files as it needs. Only a record larger than the limit makes a file larger than it.
    pub(super) fn append(&mut self, mut records: &[u8]) -> io::Result<()> {
        while !records.is_empty() {
            let room = self.max_size.saturating_sub(self.size);
            let fits = if self.max_size == 0 { records.len() } else { whole_records(records, room) };
            let part = match (fits, self.size) {
                (0, 0) => first_record(records),
                (0, _) => {
                    self.rotate()?;
                    continue;
                }
                (fits, _) => fits,
            };
            self.file.write_all(&records[..part])?;
            self.size += part as u64;
            records = &records[part..];
        }
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

/// Length of the whole records at the beginning of `records` that fit into `room` bytes.
fn whole_records(records: &[u8], room: u64) -> usize {
    let room = usize::try_from(room).map_or(records.len(), |room| room.min(records.len()));
    records[..room].iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1)
}

/// Length of the first record, whatever its size.
fn first_record(records: &[u8]) -> usize {
    records.iter().position(|&byte| byte == b'\n').map_or(records.len(), |end| end + 1)
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
