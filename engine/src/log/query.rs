//! `logs`: reads the files of a container oldest first, filters by time, keeps the last lines, follows what comes.

use super::{LogConfig, Stream, tailing};
use crate::host::sys;
use crate::time::{Nanos, parse};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::VecDeque;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What to read.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// The last so many entries; all when `None`.
    pub tail: Option<usize>,
    /// Not before.
    pub since: Option<Nanos>,
    /// Not after.
    pub until: Option<Nanos>,
}

/// One log entry: mostly a line with its newline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which output.
    pub stream: Stream,
    /// When it was written.
    pub time: Nanos,
    /// The text as the container wrote it.
    pub text: Vec<u8>,
    /// What came before it may have been rotated away before it could be read.
    pub after_gap: bool,
}

/// What a line of a file says; `None` for a damaged one.
pub(super) type Decode = fn(&[u8]) -> Option<Entry>;

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The driver keeps nothing that can be read back.
    #[error("the log driver {driver} does not support reading")]
    NotKept {
        /// Which driver.
        driver: String,
    },
    /// The file system refused.
    #[error("read the log {}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What a follower should do when there is nothing new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// Wait for more.
    Wait,
    /// The container has ended: read the rest and stop.
    Stop,
}

/// The largest line accepted from a log file: a piece of 16 KiB grows at most six-fold when escaped.
const RAW_LINE_BYTES_MAX: u64 = 128 * 1024;

impl Query {
    /// Reads what is there and hands every entry to `out`, oldest first.
    pub fn read(
        &self,
        config: &LogConfig,
        data: &Path,
        out: &mut dyn FnMut(Entry) -> io::Result<()>,
    ) -> Result<(), QueryError> {
        self.read_and_follow(config, data, out, &mut || Follow::Stop)
    }

    /// Reads what is there, then what comes, until `state` says stop or `out` fails.
    pub fn read_and_follow(
        &self,
        config: &LogConfig,
        data: &Path,
        out: &mut dyn FnMut(Entry) -> io::Result<()>,
        state: &mut dyn FnMut() -> Follow,
    ) -> Result<(), QueryError> {
        let path = config.file(data).ok_or_else(|| QueryError::NotKept { driver: config.driver().to_owned() })?;
        let decode: Decode = if config.driver() == "json-file" { from_json } else { from_k8s };
        self.run(&path, data, decode, config.max_file(), out, state).map_err(|source| QueryError::Io { path, source })
    }

    fn run(
        &self,
        path: &Path,
        data: &Path,
        decode: Decode,
        max_file: u32,
        out: &mut dyn FnMut(Entry) -> io::Result<()>,
        state: &mut dyn FnMut() -> Follow,
    ) -> io::Result<()> {
        let notice = sys::watch(data, libc::IN_MODIFY | libc::IN_MOVED_TO | libc::IN_CREATE | libc::IN_DELETE);
        let (mut files, _) = tailing::newer(path, max_file, None)?;
        match (self.tail, self.since, self.until) {
            (Some(tail), _, None) => tailing::last_lines(&mut files, tail)?,
            (None, Some(since), _) => {
                files.iter_mut().try_for_each(|file| tailing::skip_before(file, decode, since))?
            }
            _ => {}
        }
        let wanted = |entry: &Entry| {
            self.since.is_none_or(|since| entry.time >= since) && self.until.is_none_or(|until| entry.time <= until)
        };
        let mut kept: VecDeque<Entry> = VecDeque::new();
        let mut reader = None;
        for file in files {
            let reader = reader.insert(Reader::new(file));
            drain(reader, decode, &mut |entry| {
                match self.tail {
                    _ if !wanted(&entry) => {}
                    None => out(entry)?,
                    Some(0) => {}
                    Some(tail) => {
                        if kept.len() == tail {
                            kept.pop_front();
                        }
                        kept.push_back(entry);
                    }
                }
                Ok(true)
            })?;
        }
        kept.into_iter().try_for_each(&mut *out)?;
        let mut gap = false;
        let mut emit = |mut entry: Entry, gap: &mut bool| -> io::Result<bool> {
            entry.after_gap = std::mem::take(gap);
            if wanted(&entry) {
                out(entry)?;
                return Ok(true);
            }
            Ok(self.until.is_none_or(|until| entry.time <= until))
        };
        loop {
            // The state is asked first: what was written before the end is read after it.
            let next = state();
            if let Some(reader) = &mut reader
                && !drain(reader, decode, &mut |entry| emit(entry, &mut gap))?
            {
                return Ok(());
            }
            let here = fs::metadata(path).ok().map(|meta| meta.ino());
            let known = reader.as_ref().map(|reader| reader.inode);
            if here.is_some() && here != known {
                // Written between the last look and the renaming; nobody writes to this one any more.
                if let Some(reader) = &mut reader
                    && !drain(reader, decode, &mut |entry| emit(entry, &mut gap))?
                {
                    return Ok(());
                }
                let (files, met) = tailing::newer(path, max_file, known)?;
                // A log of one file leaves no trace of how often it was begun anew.
                gap |= known.is_some() && !met && max_file > 1;
                for file in files {
                    let reader = reader.insert(Reader::new(file));
                    if !drain(reader, decode, &mut |entry| emit(entry, &mut gap))? {
                        return Ok(());
                    }
                }
                continue;
            }
            if next == Follow::Stop {
                return Ok(());
            }
            wait(notice.as_ref().ok());
        }
    }
}

/// Waits for a change of the folder, at most a second: a monitor that was killed changes nothing.
fn wait(notice: Option<&std::os::fd::OwnedFd>) {
    let Some(notice) = notice else {
        std::thread::sleep(std::time::Duration::from_millis(100));
        return;
    };
    poll(&mut [PollFd::new(notice.as_fd(), PollFlags::POLLIN)], PollTimeout::from(1000u16)).ok();
    let mut events = [0u8; 4096];
    while nix::unistd::read(notice, &mut events).is_ok_and(|count| count > 0) {}
}

/// Hands out what a file has by now; `false` when no more is wanted.
fn drain(reader: &mut Reader, decode: Decode, take: &mut dyn FnMut(Entry) -> io::Result<bool>) -> io::Result<bool> {
    while let Some(entry) = reader.next(decode)? {
        if !take(entry)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Reads whole lines of one file; half a line is left for the next time.
#[derive(Debug)]
pub(super) struct Reader {
    file: BufReader<fs::File>,
    inode: u64,
}

impl Reader {
    pub(super) fn new(file: fs::File) -> Self {
        let inode = file.metadata().map(|meta| meta.ino()).unwrap_or_default();
        Self { file: BufReader::with_capacity(64 * 1024, file), inode }
    }

    pub(super) fn next(&mut self, decode: Decode) -> io::Result<Option<Entry>> {
        loop {
            let mut line = Vec::new();
            let count = (&mut self.file).take(RAW_LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
            if count == 0 {
                return Ok(None);
            }
            if line.last() != Some(&b'\n') && (count as u64) < RAW_LINE_BYTES_MAX {
                let back = i64::try_from(count).unwrap_or(i64::MAX);
                self.file.seek(SeekFrom::Current(-back))?;
                return Ok(None);
            }
            // A damaged line (the disk was full, the host died) is skipped.
            if let Some(entry) = decode(&line) {
                return Ok(Some(entry));
            }
        }
    }
}

impl Reader {
    /// Passes over the rest of a line.
    pub(super) fn pass_line(&mut self) -> io::Result<()> {
        self.file.skip_until(b'\n').map(|_| ())
    }
}

fn from_json(line: &[u8]) -> Option<Entry> {
    #[derive(serde::Deserialize)]
    struct Line {
        log: String,
        stream: String,
        time: String,
    }
    let line: Line = serde_json::from_slice(line).ok()?;
    let stream = if line.stream == "stderr" { Stream::Stderr } else { Stream::Stdout };
    Some(Entry { stream, time: parse(&line.time, 0)?, text: line.log.into_bytes(), after_gap: false })
}

fn from_k8s(line: &[u8]) -> Option<Entry> {
    let mut parts = line.splitn(4, |&byte| byte == b' ');
    let time = parse(std::str::from_utf8(parts.next()?).ok()?, 0)?;
    let stream = if parts.next()? == b"stderr" { Stream::Stderr } else { Stream::Stdout };
    let partial = parts.next()? == b"P";
    let mut text = parts.next()?.to_vec();
    if partial {
        text.pop();
    }
    Some(Entry { stream, time, text, after_gap: false })
}
