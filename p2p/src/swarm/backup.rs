//! Backups: every live shared row as one document, and back as edits. In: rows or a document. Out: a document or rows. Reading and
//! writing documents happens beside the task; rows are written piece by piece, with everything else of the node in between.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Task;
use crate::id::ClusterId;
use crate::mesh::{Actor, Error};
use crate::table::row::Version;
use crate::table::{Row, Table, codec};

/// Format of a backup document.
pub(crate) const BACKUP_FORMAT: u32 = 1;
/// Tables a backup leaves out: they belong to this cluster's members, not to its users.
const NOT_BACKED_UP: [Table; 5] = [Table::CERTIFICATE, Table::REVOKED, Table::TOKEN, Table::CONFLICT, Table::API_TOKEN];
/// How long the task writes rows of a restore before it looks after everything else: far below a heartbeat's period.
const PIECE: Duration = Duration::from_millis(5);
/// The pause between two pieces.
const PAUSE: Duration = Duration::from_millis(1);
/// Restores at once; one more is refused.
const RESTORES_MAX: usize = 4;

#[derive(serde::Serialize, serde::Deserialize)]
struct Backup {
    format: u32,
    cluster: ClusterId,
    rows: Vec<String>,
}

/// A restore that is going on.
pub(crate) struct Restoring {
    rows: std::vec::IntoIter<Row>,
    written: usize,
    actor: Actor,
    answer: oneshot::Sender<Result<usize, Error>>,
}

/// The restores that are going on, and when the next piece is due.
#[derive(Default)]
pub(crate) struct Restores {
    waiting: VecDeque<Restoring>,
    due: Option<Instant>,
}

impl Restores {
    /// Resolves when the next piece is due; never when there is none.
    pub(crate) async fn due(&self) {
        match self.due {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    }
}

fn refused(reason: impl Into<String>) -> Error {
    Error::Refused { key: "backup".into(), reason: reason.into() }
}

/// The document of packed rows.
pub(crate) fn document(cluster: ClusterId, rows: &[Vec<u8>]) -> Vec<u8> {
    let backup = Backup { format: BACKUP_FORMAT, cluster, rows: rows.iter().map(hex::encode).collect() };
    serde_json::to_vec(&backup).expect("plain data with text keys")
}

/// The rows of a document. All are read before the first is written: half a restore helps nobody.
pub(crate) fn read(document: &[u8]) -> Result<Vec<Row>, Error> {
    let backup: Backup = serde_json::from_slice(document).map_err(|error| refused(format!("not a backup: {error}")))?;
    if backup.format != BACKUP_FORMAT {
        return Err(refused(format!("format {} is not known; it was written by a newer build", backup.format)));
    }
    let mut rows = Vec::with_capacity(backup.rows.len());
    for text in &backup.rows {
        let row = hex::decode(text).ok().and_then(|bytes| codec::decode(&bytes).ok());
        let row = row.ok_or_else(|| refused("a row of it cannot be read"))?;
        if row.deleted || matches!(row.version, Version::Owned { .. }) || NOT_BACKED_UP.contains(&row.key.table) {
            return Err(refused(format!("{} does not belong into a backup", row.key)));
        }
        rows.push(row);
    }
    Ok(rows)
}

impl Task {
    /// The packed rows of a backup.
    pub(crate) fn backup(&self) -> Vec<Vec<u8>> {
        let belongs = |packed: &[u8]| {
            codec::head(packed).is_ok_and(|head| {
                !head.deleted
                    && matches!(head.version, codec::VersionHead::Shared(..))
                    && !NOT_BACKED_UP.contains(&head.table)
            })
        };
        let rows = self.node.replica().rows();
        rows.all().filter(|(_, packed)| belongs(packed)).map(|(_, packed)| packed.to_vec()).collect()
    }

    /// Takes in the rows of a backup; they are written piece by piece from now on.
    pub(crate) fn restore(&mut self, rows: Vec<Row>, actor: Actor, answer: oneshot::Sender<Result<usize, Error>>) {
        if self.restores.waiting.len() >= RESTORES_MAX {
            drop(answer.send(Err(refused(format!("{RESTORES_MAX} restores are going on already")))));
            return;
        }
        self.restores.waiting.push_back(Restoring { rows: rows.into_iter(), written: 0, actor, answer });
        self.restores.due.get_or_insert_with(Instant::now);
    }

    /// Writes the next rows of the oldest restore.
    pub(crate) fn restore_piece(&mut self) {
        let Some(mut restoring) = self.restores.waiting.pop_front() else {
            self.restores.due = None;
            return;
        };
        let until = Instant::now() + PIECE;
        let done = loop {
            let Some(row) = restoring.rows.next() else { break Some(Ok(())) };
            if self.node.get(&row.key).is_some_and(|held| held.body == row.body) {
                continue;
            }
            if let Err(error) = self.write(&row.key, Some(row.body)) {
                break Some(Err(error));
            }
            restoring.written += 1;
            self.act();
            if Instant::now() >= until {
                break None;
            }
        };
        match done {
            None => self.restores.waiting.push_front(restoring),
            Some(done) => {
                let Restoring { written, actor, answer, .. } = restoring;
                self.audit(&actor, &format!("restore {written} rows"));
                drop(answer.send(done.map(|()| written)));
            }
        }
        self.restores.due = (!self.restores.waiting.is_empty()).then(|| Instant::now() + PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodeId;
    use crate::table::{Body, Key};

    #[test]
    fn a_document_reads_back_and_what_does_not_belong_into_one_is_refused() {
        let row = |key: Key, deleted| Row {
            key,
            version: Version::Shared { generation: 1, time_ms: 1, writer: NodeId(1), id: 2, ancestors: Vec::new() },
            deleted,
            body: Body(b"body".to_vec()),
        };
        let good = row(Key::global(Table::KV, "a"), false);
        let of = |row: &Row| document(ClusterId(7), &[codec::encode(row)]);
        assert_eq!(read(&of(&good)).unwrap(), [good]);
        for bad in [row(Key::global(Table::TOKEN, "a"), false), row(Key::global(Table::KV, "a"), true)] {
            assert!(read(&of(&bad)).unwrap_err().to_string().contains("does not belong"));
        }
        assert!(read(b"{}").unwrap_err().to_string().contains("not a backup"));
        let newer = String::from_utf8(document(ClusterId(7), &[])).unwrap().replace("\"format\":1", "\"format\":2");
        assert!(read(newer.as_bytes()).unwrap_err().to_string().contains("newer build"));
    }
}
