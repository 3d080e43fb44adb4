//! The files of one rotated log, opened so that nothing between them is missed, and the place in them where reading begins.
//!
//! In: the path of the current file. Out: readers, oldest first. The writer renames while this looks: files are opened from the
//! newest to the oldest, so that one that moves meanwhile is met twice, and never not at all.

use super::query::{Decode, Reader};
use super::rotate;
use crate::time::Nanos;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// How much is read at once on the way back from the end.
const BLOCK_BYTES: u64 = 64 * 1024;

/// Every file there is, oldest first, up to but without the one with inode `known`, which must be among the older ones;
/// `false` when it is not there any more.
pub(super) fn newer(path: &Path, max_file: u32, known: Option<u64>) -> io::Result<(Vec<fs::File>, bool)> {
    let mut found: Vec<(u64, fs::File)> = Vec::new();
    let mut met = false;
    for number in 0..max_file {
        let name = if number == 0 { path.to_owned() } else { rotate::numbered(path, number) };
        let file = match fs::File::open(&name) {
            Ok(file) => file,
            // Between two renames there may be a gap; an older one may stand behind it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let inode = file.metadata()?.ino();
        if Some(inode) == known {
            met = true;
            break;
        }
        if !found.iter().any(|(other, _)| *other == inode) {
            found.push((inode, file));
        }
    }
    Ok((found.into_iter().rev().map(|(_, file)| file).collect(), met))
}

/// Leaves out what is not among the last `count` lines of these files: whole files, and the beginning of the oldest that is kept.
pub(super) fn last_lines(files: &mut Vec<fs::File>, count: usize) -> io::Result<()> {
    let mut missing = count;
    for at in (0..files.len()).rev() {
        let (lines, offset) = lines_from_end(&files[at], missing)?;
        missing -= lines;
        if missing == 0 {
            files[at].seek(SeekFrom::Start(offset))?;
            files.drain(..at);
            break;
        }
    }
    Ok(())
}

/// How many of the last `count` lines are in this file, and where the first of them begins.
fn lines_from_end(file: &fs::File, count: usize) -> io::Result<(usize, u64)> {
    let mut end = file.metadata()?.len();
    let (mut lines, mut first) = (0, true);
    while end > 0 {
        let start = end.saturating_sub(BLOCK_BYTES);
        let mut block = vec![0; usize::try_from(end - start).unwrap_or(0)];
        file.read_exact_at(&mut block, start)?;
        for (at, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            // A line feed ends the line before it; what follows the last is no whole line yet.
            if first {
                first = false;
            } else {
                lines += 1;
            }
            if lines == count {
                return Ok((lines, start + at as u64 + 1));
            }
        }
        end = start;
    }
    // The first line of the file has no line feed before it.
    Ok((lines + usize::from(!first), 0))
}

/// Moves to a line before the first that was written at `since` or later, as far as times only grow.
pub(super) fn skip_before(file: &mut fs::File, decode: Decode, since: Nanos) -> io::Result<()> {
    let (mut low, mut high) = (0, file.metadata()?.len());
    while high - low > BLOCK_BYTES {
        let middle = low + (high - low) / 2;
        match line_after(file, middle, decode)? {
            Some(time) if time < since => low = middle,
            _ => high = middle,
        }
    }
    file.seek(SeekFrom::Start(low))?;
    if low > 0 {
        // To the beginning of a line: the rest of this one is older still.
        let mut byte = [0];
        let mut reader = io::BufReader::new(&*file);
        let mut passed = 0;
        while reader.read(&mut byte)? == 1 {
            passed += 1;
            if byte[0] == b'\n' {
                break;
            }
        }
        file.seek(SeekFrom::Start(low + passed))?;
    }
    Ok(())
}

/// The time of the first whole line after `offset`.
fn line_after(file: &fs::File, offset: u64, decode: Decode) -> io::Result<Option<Nanos>> {
    let mut file = file.try_clone()?;
    file.seek(SeekFrom::Start(offset))?;
    let mut reader = Reader::new(file);
    reader.pass_line()?;
    Ok(reader.next(decode)?.map(|entry| entry.time))
}
