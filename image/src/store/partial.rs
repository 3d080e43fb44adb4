//! Partial blobs: a download that survives cuts, crashes and kill -9.
//!
//! In: ranges in any order, from several threads. Out: the verified blob. `partial/ALG-HEX` holds the bytes at their
//! places and is locked by the one process that fetches; `partial/ALG-HEX.journal` holds a line for each finished range
//! with its CRC-32, written after the bytes. On resume every range is read again and kept when its CRC still holds, so a
//! torn write costs that range and nothing more. What makes the blob true is the digest at the end.

use crate::store::ingest::publish;
use crate::store::{Store, StoreError};
use oci::Digest;
use oci::digest::Hasher;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A range is written into the journal when it has this many bytes: what a crash can cost for each stream.
const RECORD_BYTES: u64 = 1024 * 1024;
/// How many bytes are read at once when a range is verified or hashed.
const READ_BYTES: usize = 256 * 1024;
/// The most ranges that a journal is read for: a 64 GiB layer in records of 1 MiB.
const RECORDS_MAX: usize = 65_536;

/// What claiming a blob led to.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time, taken apart where it is made")]
pub enum Claim {
    /// It is in the store; nothing to fetch. Its size in bytes.
    Present(u64),
    /// It is the caller's to fetch; some of it may be here already.
    Mine(Partial),
    /// Another process (or task) is fetching it. Claim again in a while: it ends as `Present`, or as `Mine` when the other
    /// gave up.
    Busy,
}

/// A blob being fetched in ranges. Dropping it keeps what has arrived for the next attempt.
#[derive(Debug)]
pub struct Partial {
    store: Store,
    digest: Digest,
    size: u64,
    file: File,
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    journal: File,
    /// Ranges that arrived, by start; disjoint, and merged where they touch.
    ranges: BTreeMap<u64, u64>,
    /// Ranges that arrived and are not in the journal yet: start → (end, CRC so far).
    open: BTreeMap<u64, (u64, flate2::Crc)>,
    /// The digest over the first `hashed` bytes.
    hasher: Hasher,
    hashed: u64,
}

impl Store {
    /// Claims the blob `digest` of `size` bytes for fetching. Never blocks; holds the blob against garbage collection.
    pub fn claim(&self, digest: &Digest, size: u64) -> Result<Claim, StoreError> {
        self.hold(digest)?;
        if let Some(found) = self.present(digest, size)? {
            return Ok(found);
        }
        let path = self.path().join("partial").join(format!("{}-{}", digest.algorithm().name(), digest.hex()));
        let file = loop {
            let file = crate::store::layout::open_lock(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(std::fs::TryLockError::WouldBlock) => return Ok(Claim::Busy),
                Err(std::fs::TryLockError::Error(error)) => return Err(StoreError::io("lock", &path)(error)),
            }
            // The one who had it may have finished and removed the file between our open and our lock.
            if crate::store::layout::same_file(&file, &path) {
                break file;
            }
        };
        if let Some(found) = self.present(digest, size)? {
            let _ = std::fs::remove_file(&path);
            return Ok(found);
        }
        Partial::open(self.clone(), *digest, size, file, path).map(Claim::Mine)
    }

    fn present(&self, digest: &Digest, size: u64) -> Result<Option<Claim>, StoreError> {
        match self.layout().find_blob(digest)? {
            Some((_, actual)) if actual == size => Ok(Some(Claim::Present(actual))),
            Some((_, actual)) => {
                Err(StoreError::Size { name: digest.to_string(), expected: size, actual, at_least: false })
            }
            None => Ok(None),
        }
    }
}

impl Partial {
    fn open(store: Store, digest: Digest, size: u64, file: File, path: PathBuf) -> Result<Self, StoreError> {
        let journal_path = path.with_extension("journal");
        let header = format!("shoal-partial 1 {size}\n");
        let text = match std::fs::read_to_string(&journal_path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            // A journal that is not text is a torn one: nothing in it counts.
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => String::new(),
            Err(error) => return Err(StoreError::io("read the journal", &journal_path)(error)),
        };
        let mut ranges = BTreeMap::new();
        let mut kept = header.clone();
        if let Some(records) = text.strip_prefix(&header) {
            for record in records.split_inclusive('\n').take(RECORDS_MAX) {
                if let Some((range, crc)) = parse_record(record)
                    && range.end <= size
                    && crc_of(&file, &range).is_some_and(|actual| actual == crc)
                {
                    kept.push_str(record);
                    insert(&mut ranges, range);
                }
            }
        }
        // The journal is rewritten with what still holds, then appended to.
        std::fs::write(&journal_path, &kept).map_err(StoreError::io("write the journal", &journal_path))?;
        let journal = File::options()
            .append(true)
            .open(&journal_path)
            .map_err(StoreError::io("open the journal", &journal_path))?;
        if ranges.is_empty() {
            // Bytes without a record are of no use.
            file.set_len(0).map_err(StoreError::io("empty", &path))?;
        }
        let hasher = Hasher::new(digest.algorithm());
        let state = Mutex::new(State { journal, ranges, open: BTreeMap::new(), hasher, hashed: 0 });
        Ok(Self { store, digest, size, file, path, state })
    }

    /// The blob's digest.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The blob's size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that have arrived, now and in earlier runs.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.lock().ranges.iter().map(|(start, end)| end - start).sum()
    }

    /// The ranges that are still missing, in order.
    #[must_use]
    pub fn missing(&self) -> Vec<Range<u64>> {
        let state = self.lock();
        gaps(&state.ranges, &(0..self.size))
    }

    /// Takes `bytes` that belong at `offset`. What has arrived before stays as it is. Bytes beyond the size are an error.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let end = offset.saturating_add(bytes.len() as u64);
        if end > self.size {
            let name = self.digest.to_string();
            return Err(StoreError::Size { name, expected: self.size, actual: end, at_least: true });
        }
        let mut state = self.lock();
        for gap in gaps(&state.ranges, &(offset..end)) {
            let from = usize::try_from(gap.start - offset).expect("a gap lies within the bytes given");
            let to = usize::try_from(gap.end - offset).expect("a gap lies within the bytes given");
            let part = &bytes[from..to];
            self.file.write_all_at(part, gap.start).map_err(StoreError::io("write", &self.path))?;
            insert(&mut state.ranges, gap.clone());
            if state.hashed == gap.start {
                state.hasher.update(part);
                state.hashed = gap.end;
            }
            self.note(&mut state, &gap, part)?;
        }
        Ok(())
    }

    /// Adds a range to the run it continues, and writes the run into the journal when it is long enough.
    fn note(&self, state: &mut State, range: &Range<u64>, bytes: &[u8]) -> Result<(), StoreError> {
        let run = state.open.iter().find(|(_, (end, _))| *end == range.start).map(|(start, _)| *start);
        let start = run.unwrap_or(range.start);
        let entry = state.open.entry(start).or_insert_with(|| (range.start, flate2::Crc::new()));
        entry.0 = range.end;
        entry.1.update(bytes);
        if entry.0 - start >= RECORD_BYTES {
            self.record(state, start)?;
        }
        Ok(())
    }

    fn record(&self, state: &mut State, start: u64) -> Result<(), StoreError> {
        if let Some((end, crc)) = state.open.remove(&start) {
            let line = format!("{start} {} {:08x}\n", end - start, crc.sum());
            state.journal.write_all(line.as_bytes()).map_err(StoreError::io("write the journal of", &self.path))?;
        }
        Ok(())
    }

    /// Checks size and digest, makes the blob durable and gives it its name. When the digest is wrong everything that
    /// arrived is thrown away: which range lied cannot be told.
    pub fn commit(self) -> Result<(), StoreError> {
        let missing = self.missing();
        if !missing.is_empty() {
            let name = self.digest.to_string();
            return Err(StoreError::Size { name, expected: self.size, actual: self.received(), at_least: false });
        }
        self.file.set_len(self.size).map_err(StoreError::io("set the length of", &self.path))?;
        let digest = self.finish_hash()?;
        if digest != self.digest {
            self.lock().open.clear();
            let _ = std::fs::remove_file(self.path.with_extension("journal"));
            let _ = std::fs::remove_file(&self.path);
            return Err(StoreError::Mismatch { expected: self.digest.to_string(), actual: digest.to_string() });
        }
        publish(&self.store, &self.file, &self.path, &self.digest)?;
        self.lock().open.clear();
        let _ = std::fs::remove_file(self.path.with_extension("journal"));
        // Gone already, unless an equal blob appeared by another way.
        let _ = std::fs::remove_file(&self.path);
        Ok(())
    }

    /// The digest over everything: what was hashed as it arrived, and the rest from the file.
    fn finish_hash(&self) -> Result<Digest, StoreError> {
        let mut state = self.lock();
        let mut buffer = vec![0; READ_BYTES];
        while state.hashed < self.size {
            let want = usize::try_from((self.size - state.hashed).min(READ_BYTES as u64)).unwrap_or(READ_BYTES);
            let read =
                self.file.read_at(&mut buffer[..want], state.hashed).map_err(StoreError::io("read", &self.path))?;
            if read == 0 {
                break;
            }
            state.hasher.update(&buffer[..read]);
            state.hashed += read as u64;
        }
        Ok(state.hasher.clone().finish())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Runs too short for a record are recorded now; a failure costs them and nothing else.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for start in state.open.keys().copied().collect::<Vec<_>>() {
            let _ = self.record(&mut state, start);
        }
    }
}

/// `START LENGTH CRC32` with its line end: a line without one was torn.
fn parse_record(record: &str) -> Option<(Range<u64>, u32)> {
    let mut words = record.strip_suffix('\n')?.split(' ');
    let start: u64 = words.next()?.parse().ok()?;
    let length: u64 = words.next()?.parse().ok()?;
    let crc = u32::from_str_radix(words.next()?, 16).ok()?;
    (words.next().is_none() && length > 0).then_some((start..start.checked_add(length)?, crc))
}

fn crc_of(file: &File, range: &Range<u64>) -> Option<u32> {
    let mut crc = flate2::Crc::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut at = range.start;
    while at < range.end {
        let want = usize::try_from((range.end - at).min(READ_BYTES as u64)).ok()?;
        let read = file.read_at(&mut buffer[..want], at).ok()?;
        if read == 0 {
            return None;
        }
        crc.update(&buffer[..read]);
        at += read as u64;
    }
    Some(crc.sum())
}

/// Adds a range, merging it with those it touches.
fn insert(ranges: &mut BTreeMap<u64, u64>, range: Range<u64>) {
    let (mut start, mut end) = (range.start, range.end);
    while let Some((&other_start, &other_end)) = ranges.range(..=end).next_back() {
        if other_end < start {
            break;
        }
        ranges.remove(&other_start);
        start = start.min(other_start);
        end = end.max(other_end);
    }
    if start < end {
        ranges.insert(start, end);
    }
}

/// What of `within` is not in `ranges`, in order.
fn gaps(ranges: &BTreeMap<u64, u64>, within: &Range<u64>) -> Vec<Range<u64>> {
    let mut gaps = Vec::new();
    let mut at = within.start;
    let first = ranges.range(..=at).next_back().map_or(at, |(start, _)| *start);
    for (&start, &end) in ranges.range(first..within.end) {
        if start > at {
            gaps.push(at..start);
        }
        at = at.max(end);
    }
    if at < within.end {
        gaps.push(at..within.end);
    }
    gaps
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, clippy::single_range_in_vec_init, reason = "small numbers; gaps are ranges")]
mod tests {
    use super::*;
    use crate::store::testing::scratch;
    use proptest::prelude::*;

    fn mine(store: &Store, digest: &Digest, size: u64) -> Partial {
        match store.claim(digest, size).unwrap() {
            Claim::Mine(partial) => partial,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ranges_in_any_order_become_the_blob_and_leave_nothing_beside_it() {
        let (dir, store) = scratch();
        let digest = Digest::sha256(b"hello world");
        let partial = mine(&store, &digest, 11);
        assert!(matches!(store.leased().claim(&digest, 11).unwrap(), Claim::Busy));
        partial.write_at(6, b"world").unwrap();
        assert_eq!(partial.missing(), [0..6]);
        partial.write_at(0, b"hello ").unwrap();
        partial.commit().unwrap();
        assert!(matches!(store.claim(&digest, 11).unwrap(), Claim::Present(11)));
        assert_eq!(std::fs::read_dir(dir.path().join("partial")).unwrap().count(), 0);
    }

    #[test]
    fn what_arrived_before_a_cut_is_not_fetched_again() {
        let (_dir, store) = scratch();
        let data: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        let digest = Digest::sha256(&data);
        let partial = mine(&store, &digest, data.len() as u64);
        partial.write_at(0, &data[..1_500_000]).unwrap();
        partial.write_at(2_000_000, &data[2_000_000..2_000_100]).unwrap();
        drop(partial);
        let partial = mine(&store, &digest, data.len() as u64);
        assert_eq!(partial.missing(), [1_500_000..2_000_000, 2_000_100..3_000_000]);
        for gap in partial.missing() {
            partial.write_at(gap.start, &data[gap.start as usize..gap.end as usize]).unwrap();
        }
        partial.commit().unwrap();
        assert!(store.verify_blob(&digest).unwrap());
    }

    #[test]
    fn a_range_that_was_torn_on_disk_is_fetched_again() {
        let (dir, store) = scratch();
        let data = vec![7u8; 2_500_000];
        let digest = Digest::sha256(&data);
        let partial = mine(&store, &digest, data.len() as u64);
        partial.write_at(0, &data[..1_200_000]).unwrap();
        partial.write_at(1_200_000, &data[1_200_000..2_500_000]).unwrap();
        drop(partial);
        let path = dir.path().join(format!("partial/sha256-{}", digest.hex()));
        File::options().write(true).open(&path).unwrap().write_all_at(b"x", 10).unwrap();
        let journal = path.with_extension("journal");
        let mut text = std::fs::read_to_string(&journal).unwrap();
        text.push_str("0 99"); // a torn last line
        std::fs::write(&journal, text).unwrap();
        let partial = mine(&store, &digest, data.len() as u64);
        assert_eq!(partial.missing(), [0..1_200_000]);
        partial.write_at(0, &data[..1_200_000]).unwrap();
        partial.commit().unwrap();
    }

    #[test]
    fn a_wrong_digest_throws_everything_away() {
        let (dir, store) = scratch();
        let digest = Digest::sha256(b"right");
        let partial = mine(&store, &digest, 5);
        partial.write_at(0, b"wrong").unwrap();
        assert!(matches!(partial.commit(), Err(StoreError::Mismatch { .. })));
        assert_eq!(std::fs::read_dir(dir.path().join("partial")).unwrap().count(), 0);
        let partial = mine(&store, &digest, 5);
        assert!(partial.write_at(3, b"toolong").is_err());
        assert_eq!(partial.missing(), [0..5]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn ranges_and_gaps_always_make_the_whole(parts in proptest::collection::vec((0u64..200, 1u64..60), 0..12)) {
            let mut ranges = BTreeMap::new();
            let mut model = [false; 300];
            for (start, length) in parts {
                insert(&mut ranges, start..start + length);
                model[start as usize..(start + length) as usize].fill(true);
            }
            let mut seen = [true; 300];
            for gap in gaps(&ranges, &(0..300)) {
                seen[gap.start as usize..gap.end as usize].fill(false);
            }
            prop_assert_eq!(seen, model);
            let inner = gaps(&ranges, &(50..120));
            prop_assert!(inner.iter().all(|gap| gap.start >= 50 && gap.end <= 120));
            prop_assert_eq!(inner.iter().map(|gap| gap.end - gap.start).sum::<u64>(), model[50..120].iter().filter(|x| !**x).count() as u64);
        }
    }
}
