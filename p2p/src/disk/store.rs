//! The table on disk: redb, one thread, grouped commits. In: batches of rows. Out: "everything up to this batch is durable".
//! A commit is fsynced; a cut at any write leaves the last commit. Format `table.redb/1`.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use redb::{Database, Durability, ReadableDatabase as _, ReadableTable as _, StorageBackend, TableDefinition};

use crate::table::Position;

const ROWS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("rows");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const FORMAT: u64 = 1;
/// Batches that may wait for the disk; the next one is given back to its sender.
pub const BATCHES_MAX: usize = 1_024;
/// Memory redb may use for pages: the table is in our own memory already.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// Rows by position; `None` deletes.
pub type Batch = Vec<(Position, Option<Vec<u8>>)>;

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database.
    #[error("keep the table on disk: {0}")]
    Redb(#[from] redb::Error),
    /// A database of a newer build.
    #[error("open the table on disk: its format is {0}, this build knows {FORMAT}; upgrade this node")]
    Format(u64),
    /// The thread has ended.
    #[error("keep the table on disk: the store has stopped after an error")]
    Stopped,
}

/// What the store tells of itself, in order.
#[derive(Debug)]
pub enum Told {
    /// Everything up to this batch is durable.
    Batch(u64),
    /// This epoch is durable.
    Epoch(u64),
    /// The store has stopped: nothing more becomes durable.
    Failed(StoreError),
}

enum Job {
    Batch(u64, Batch),
    Epoch(u64),
}

/// The store's handle.
#[derive(Debug)]
pub struct Store {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Batch(number, rows) => write!(f, "Batch({number}, {} rows)", rows.len()),
            Self::Epoch(epoch) => write!(f, "Epoch({epoch})"),
        }
    }
}

/// What a start finds.
#[derive(Debug, Default)]
pub struct Found {
    /// The greatest epoch persisted.
    pub epoch: u64,
    /// Packed rows.
    pub rows: Vec<Vec<u8>>,
    /// Where they lie, in the same order.
    pub positions: Vec<Position>,
}

fn any<E: Into<redb::Error>>(error: E) -> StoreError {
    StoreError::Redb(error.into())
}

fn load(db: &Database) -> Result<Found, StoreError> {
    let write = db.begin_write().map_err(any)?;
    {
        write.open_table(ROWS).map_err(any)?;
        let mut meta = write.open_table(META).map_err(any)?;
        let format = meta.get("format").map_err(any)?.map(|value| value.value());
        match format {
            None => drop(meta.insert("format", FORMAT).map_err(any)?),
            Some(FORMAT) => {}
            Some(other) => return Err(StoreError::Format(other)),
        }
    }
    write.commit().map_err(any)?;
    let read = db.begin_read().map_err(any)?;
    let epoch = read.open_table(META).map_err(any)?.get("epoch").map_err(any)?.map_or(0, |value| value.value());
    let (mut rows, mut positions) = (Vec::new(), Vec::new());
    for entry in read.open_table(ROWS).map_err(any)?.iter().map_err(any)? {
        let (at, packed) = entry.map_err(any)?;
        positions.push(at.value());
        rows.push(packed.value().to_vec());
    }
    Ok(Found { epoch, rows, positions })
}

/// One commit of batches and perhaps an epoch.
fn commit(db: &Database, batches: &[Batch], epoch: Option<u64>) -> Result<(), StoreError> {
    let mut write = db.begin_write().map_err(any)?;
    write.set_durability(Durability::Immediate).map_err(|error| StoreError::Redb(redb::Error::from(error)))?;
    write.set_quick_repair(true);
    {
        let mut rows = write.open_table(ROWS).map_err(any)?;
        for (at, packed) in batches.iter().flatten() {
            match packed {
                Some(packed) => drop(rows.insert(at, packed.as_slice()).map_err(any)?),
                None => drop(rows.remove(at).map_err(any)?),
            }
        }
        if let Some(epoch) = epoch {
            write.open_table(META).map_err(any)?.insert("epoch", epoch).map_err(any)?;
        }
    }
    write.commit().map_err(any)
}

fn run(db: &Database, jobs: &Receiver<Job>, tell: &dyn Fn(Told)) {
    while let Ok(first) = jobs.recv() {
        let (mut batches, mut upto, mut epoch) = (Vec::new(), None, None);
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                Job::Batch(number, rows) => {
                    batches.push(rows);
                    upto = Some(number);
                }
                Job::Epoch(number) => epoch = Some(number),
            }
            next = if batches.len() < BATCHES_MAX { jobs.try_recv().ok() } else { None };
        }
        let empty = batches.iter().all(Vec::is_empty) && epoch.is_none();
        match if empty { Ok(()) } else { commit(db, &batches, epoch) } {
            Ok(()) => {
                epoch.into_iter().for_each(|epoch| tell(Told::Epoch(epoch)));
                upto.into_iter().for_each(|upto| tell(Told::Batch(upto)));
            }
            Err(error) => {
                tell(Told::Failed(error));
                return;
            }
        }
    }
}

impl Store {
    /// Opens the database at `path` and reads it. `tell` is called from the store's thread and must not wait for whoever
    /// hands over batches.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn open(path: &Path, tell: impl Fn(Told) + Send + 'static) -> Result<(Self, Found), StoreError> {
        let db = Database::builder().set_cache_size(CACHE_BYTES).create(path).map_err(any)?;
        Self::with(db, tell)
    }

    /// The same over any backend: the place where tests tear writes.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn open_backend(
        backend: impl StorageBackend,
        tell: impl Fn(Told) + Send + 'static,
    ) -> Result<(Self, Found), StoreError> {
        let db = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend).map_err(any)?;
        Self::with(db, tell)
    }

    fn with(db: Database, tell: impl Fn(Told) + Send + 'static) -> Result<(Self, Found), StoreError> {
        let found = load(&db)?;
        let (jobs, inbox) = sync_channel(BATCHES_MAX);
        let thread = std::thread::Builder::new()
            .name("mesh-store".into())
            .spawn(move || run(&db, &inbox, &tell))
            .map_err(|error| StoreError::Redb(redb::Error::Io(error)))?;
        Ok((Self { jobs: Some(jobs), thread: Some(thread) }, found))
    }

    /// Hands over a batch without waiting; gives it back when [`BATCHES_MAX`] are waiting already.
    ///
    /// # Errors
    /// [`StoreError::Stopped`].
    pub fn put(&self, number: u64, rows: Batch) -> Result<Option<Batch>, StoreError> {
        let jobs = self.jobs.as_ref().ok_or(StoreError::Stopped)?;
        match jobs.try_send(Job::Batch(number, rows)) {
            Ok(()) => Ok(None),
            Err(TrySendError::Full(Job::Batch(_, rows))) => Ok(Some(rows)),
            Err(TrySendError::Full(Job::Epoch(_)) | TrySendError::Disconnected(_)) => Err(StoreError::Stopped),
        }
    }

    /// Persists an epoch, with everything handed over before; [`Told::Epoch`] says when. Waits while [`BATCHES_MAX`] batches
    /// are waiting: for the start and for threads that may wait.
    ///
    /// # Errors
    /// [`StoreError::Stopped`].
    pub fn keep_epoch(&self, epoch: u64) -> Result<(), StoreError> {
        let jobs = self.jobs.as_ref().ok_or(StoreError::Stopped)?;
        jobs.send(Job::Epoch(epoch)).map_err(|_| StoreError::Stopped)
    }

    /// As [`Store::keep_epoch`] without waiting; `false` when there was no room.
    ///
    /// # Errors
    /// [`StoreError::Stopped`].
    pub fn try_keep_epoch(&self, epoch: u64) -> Result<bool, StoreError> {
        let jobs = self.jobs.as_ref().ok_or(StoreError::Stopped)?;
        match jobs.try_send(Job::Epoch(epoch)) {
            Ok(()) => Ok(true),
            Err(TrySendError::Full(_)) => Ok(false),
            Err(TrySendError::Disconnected(_)) => Err(StoreError::Stopped),
        }
    }
}

impl Drop for Store {
    /// Everything handed over is committed first.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
