//! One node's copy of the table. In: its own writes and packed rows of peers. Out: the rows that now stand because of it.
//! Checks owner, size and kind of every row; makes conflict rows; never sends and never stores.

use std::collections::{BTreeMap, BTreeSet};

use super::codec::{self, Head, RowError, VersionHead};
use super::row::{ANCESTORS_MAX, Body, KEY_ID_MAX, Key, Row, SITE_MAX, Scope, Table, Version};
use super::rows::{Merged, Position, Rows, position};
use super::tombstone;
use crate::id::NodeId;

/// Rows named in `mesh status` as not understood; older ones are pushed out.
pub const QUARANTINE_MAX: usize = 256;

/// Why a row is not taken in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The bytes are no row.
    #[error(transparent)]
    Row(#[from] RowError),
    /// An owned row under another node's key, or with another owner in its version.
    #[error("write {key}: only the node its id starts with may write it")]
    WrongOwner {
        /// Which row.
        key: String,
    },
    /// A shared version in an owned table or the reverse.
    #[error("write {key}: the table {table} does not take this kind of version")]
    WrongKind {
        /// Which row.
        key: String,
        /// Its table.
        table: String,
    },
    /// A row of another site.
    #[error("write {key}: it belongs to another site")]
    WrongSite {
        /// Which row.
        key: String,
    },
    /// The writer was evicted or may only read.
    #[error("write {key}: node {writer} may not write")]
    Writer {
        /// Which row.
        key: String,
        /// Who wrote it.
        writer: NodeId,
    },
    /// A key or body out of bounds.
    #[error("write {key}: {what} has {length} bytes, at most {most} are allowed")]
    Oversize {
        /// Which row.
        key: String,
        /// Which part.
        what: &'static str,
        /// Its length.
        length: usize,
        /// The bound.
        most: usize,
    },
    /// A table of a newer feature level than the cluster's.
    #[error("write {key}: the table needs feature level {needs}, the cluster is at {has}; upgrade every node first")]
    Level {
        /// Which row.
        key: String,
        /// What it needs.
        needs: u16,
        /// What the cluster has.
        has: u16,
    },
    /// Nothing is there to delete.
    #[error("delete {key}: no such row")]
    Missing {
        /// Which row.
        key: String,
    },
}

/// One node's copy of the table.
#[derive(Debug, Clone)]
pub struct Replica {
    me: NodeId,
    site: String,
    epoch: u64,
    seq: u64,
    rows: Rows,
    evicted: BTreeSet<NodeId>,
    readers: BTreeSet<NodeId>,
    quarantine: BTreeMap<Position, (Key, String)>,
}

impl Replica {
    /// An empty copy for the node `me` of `site` in its start number `epoch`.
    #[must_use]
    pub fn new(me: NodeId, site: String, epoch: u64) -> Self {
        Self {
            me,
            site,
            epoch,
            seq: 0,
            rows: Rows::default(),
            evicted: BTreeSet::new(),
            readers: BTreeSet::new(),
            quarantine: BTreeMap::new(),
        }
    }

    /// The rows, for reading.
    #[must_use]
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// This node's epoch.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The sequence of this node's last write in this epoch.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Starts a later epoch; an earlier one is ignored.
    pub fn enter_epoch(&mut self, epoch: u64) {
        if epoch > self.epoch {
            (self.epoch, self.seq) = (epoch, 0);
        }
    }

    /// The next version of a row this node owns.
    fn next_owned(&mut self) -> Version {
        self.seq += 1;
        Version::Owned { owner: self.me, epoch: self.epoch, seq: self.seq }
    }

    /// Puts back a packed row of this node's own disk, without checks of owner or site.
    ///
    /// # Errors
    /// When the bytes are no row.
    pub fn load(&mut self, packed: &[u8]) -> Result<(), RowError> {
        let head = codec::head(packed)?;
        self.rows.merge(&head, packed);
        Ok(())
    }

    /// Writes (`Some`) or deletes (`None`) a row here. `id` is random and names the writing. Returns the rows that now stand.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn write(
        &mut self,
        key: Key,
        body: Option<Body>,
        wall_ms: u64,
        id: u64,
        level: u16,
    ) -> Result<Vec<Row>, Refusal> {
        self.check_local(&key, body.as_ref(), level)?;
        let held = self.rows.get(&key);
        if body.is_none() && held.as_ref().is_none_or(|row| row.deleted) {
            return Err(Refusal::Missing { key: key.to_string() });
        }
        let version = if key.table.is_owned() {
            self.next_owned()
        } else {
            shared_after(held.as_ref().map(|row| &row.version), wall_ms, self.me, id)
        };
        let deleted = body.is_none();
        let body = body.unwrap_or_else(|| tombstone::body(wall_ms));
        self.merge(&codec::encode(&Row { key, version, deleted, body }))
    }

    fn check_local(&self, key: &Key, body: Option<&Body>, level: u16) -> Result<(), Refusal> {
        let over = |what, length, most| Refusal::Oversize { key: key.to_string(), what, length, most };
        if key.id.is_empty() || key.id.len() > KEY_ID_MAX {
            return Err(over("key", key.id.len(), KEY_ID_MAX));
        }
        if let Scope::Site(site) = &key.scope
            && (site.is_empty() || site.len() > SITE_MAX)
        {
            return Err(over("site", site.len(), SITE_MAX));
        }
        if let Some(body) = body
            && body.0.len() > key.table.body_max()
        {
            return Err(over("body", body.0.len(), key.table.body_max()));
        }
        match key.table.schema() {
            Some(schema) if schema.since_level <= level => Ok(()),
            schema => Err(Refusal::Level {
                key: key.to_string(),
                needs: schema.map_or(u16::MAX, |schema| schema.since_level),
                has: level,
            }),
        }
    }

    /// Takes in a packed row of a peer (or of this node). Returns the rows that now stand because of it: nothing, the row, or
    /// the row with conflict rows beside it.
    ///
    /// # Errors
    /// See [`Refusal`]; nothing has changed then.
    pub fn merge(&mut self, packed: &[u8]) -> Result<Vec<Row>, Refusal> {
        let head = codec::head(packed)?;
        self.check(&head)?;
        let mut stand = Vec::new();
        let (at, merged) = self.rows.merge(&head, packed);
        let loser = match merged {
            Merged::Unchanged => return Ok(stand),
            Merged::Replaced => None,
            Merged::Won(loser) => Some(loser),
            Merged::Lost => Some(packed.into()),
        };
        if !matches!(self.rows.packed(at), Some(held) if held != packed) {
            self.quarantine.remove(&at);
            // The row itself comes first: writers answer with it.
            stand.push(head.to_row());
            self.drop_false_conflicts(at, &head, &mut stand);
        }
        if let Some(loser) = loser {
            self.record_conflict(at, &loser, &mut stand);
        }
        Ok(stand)
    }

    /// Whether a row may be held at all.
    fn check(&self, head: &Head<'_>) -> Result<(), Refusal> {
        let key = || head.to_row().key.to_string();
        if head.site.is_some_and(|site| site != self.site) {
            return Err(Refusal::WrongSite { key: key() });
        }
        let (owned, writer) = match head.version {
            VersionHead::Owned(owner, ..) => (true, owner),
            VersionHead::Shared(_, _, writer, ..) => (false, writer),
        };
        if head.table.schema().is_some() && head.table.is_owned() != owned {
            return Err(Refusal::WrongKind { key: key(), table: head.table.to_string() });
        }
        if owned && head.key_owner() != Some(writer) {
            return Err(Refusal::WrongOwner { key: key() });
        }
        // An evicted node's owned rows are forgotten; what it wrote into shared rows while it was a member stays. Of who may only
        // read nothing counts but what it says of itself, whoever passes it on: an instance of its own would be given traffic.
        // Certificates and revocations count by their signatures, whoever wrote the row: a reader may leave, too.
        let signed = matches!(head.table, Table::CERTIFICATE | Table::REVOKED);
        let beyond = self.readers.contains(&writer) && !signed && !(owned && head.table.is_of_readers());
        if (owned && self.evicted.contains(&writer)) || beyond {
            return Err(Refusal::Writer { key: key(), writer });
        }
        Ok(())
    }

    /// The key under which the loser `id` of the row at `at` is kept.
    fn conflict_key(at: Position, site: Option<&str>, id: u64) -> Key {
        let name = format!("{at:032x}-{id:016x}");
        site.map_or_else(
            || Key::global(Table::CONFLICT, name.clone()),
            |site| Key::site(site, Table::CONFLICT, name.clone()),
        )
    }

    /// Keeps a loser as a row that every node that saw it writes byte for byte the same.
    fn record_conflict(&mut self, at: Position, loser: &[u8], stand: &mut Vec<Row>) {
        let head = codec::head(loser).expect("it was read before it was merged");
        let VersionHead::Shared(_, time_ms, writer, id, _) = head.version else { return };
        // Two deletions or resolutions of one conflict at once: whichever stands, it is gone.
        if head.table == Table::CONFLICT {
            return;
        }
        let named = blake3::hash(&[&id.to_be_bytes()[..], b"conflict"].concat());
        let row = Row {
            key: Self::conflict_key(at, head.site, id),
            version: Version::Shared {
                generation: 1,
                time_ms,
                writer,
                id: u64::from_be_bytes(named.as_bytes()[..8].try_into().expect("eight of 32 bytes")),
                ancestors: Vec::new(),
            },
            deleted: false,
            body: Body(loser.to_vec()),
        };
        let packed = codec::encode(&row);
        // A packed row always fits: see CONFLICT_BODY_MAX. Were it not so, nothing is kept here, as nowhere else.
        let Ok(head) = codec::head(&packed) else { return };
        if matches!(self.rows.merge(&head, &packed).1, Merged::Replaced) {
            stand.push(row);
        }
    }

    /// A loser that turns out to be an ancestor of what stands was no loser.
    fn drop_false_conflicts(&mut self, at: Position, head: &Head<'_>, stand: &mut Vec<Row>) {
        let class = super::rows::Class::of(Table::CONFLICT, head.site.is_some());
        let VersionHead::Shared(_, time_ms, writer, _, ancestors) = head.version else { return };
        if self.rows.sum(class).count == 0 || head.table == Table::CONFLICT {
            return;
        }
        for chunk in ancestors.chunks_exact(8) {
            let id = u64::from_be_bytes(chunk.try_into().expect("chunks of eight"));
            let key = Self::conflict_key(at, head.site, id);
            let Some(held) = self.rows.get(&key).filter(|row| !row.deleted) else { continue };
            let Version::Shared { id: held_id, .. } = held.version else { continue };
            // The same tombstone on every node that finds out: its name follows from what it replaces.
            let version = shared_after(Some(&held.version), time_ms, writer, held_id.wrapping_add(1));
            let row = Row { key, version, deleted: true, body: tombstone::body(time_ms) };
            let packed = codec::encode(&row);
            self.rows.merge(&codec::head(&packed).expect("it was just written"), &packed);
            stand.push(row);
        }
    }

    /// Forgets a node for ever: its owned rows go and come back no more. Returns their keys.
    pub fn evict(&mut self, node: NodeId) -> Vec<Key> {
        if !self.evicted.insert(node) {
            return Vec::new();
        }
        self.remove_owned(node, |_| true)
    }

    /// Whether a node was evicted.
    #[must_use]
    pub fn is_evicted(&self, node: NodeId) -> bool {
        self.evicted.contains(&node)
    }

    /// The nodes that were evicted.
    #[must_use]
    pub fn evicted(&self) -> &BTreeSet<NodeId> {
        &self.evicted
    }

    /// Marks whether a node's certificate lets it only read. Returns the keys of owned rows that came before its certificate and
    /// are not for readers to write: they are forgotten.
    pub fn mark_reader(&mut self, node: NodeId, only_reads: bool) -> Vec<Key> {
        if !only_reads {
            self.readers.remove(&node);
            return Vec::new();
        }
        if !self.readers.insert(node) {
            return Vec::new();
        }
        self.remove_owned(node, |table| !table.is_of_readers())
    }

    /// Removes owned rows of a node without a trace.
    fn remove_owned(&mut self, node: NodeId, doomed: impl Fn(Table) -> bool) -> Vec<Key> {
        let doomed: Vec<Position> = self
            .rows
            .all()
            .filter(|(_, packed)| {
                let head = codec::head(packed).expect("only rows that were read are held");
                matches!(head.version, VersionHead::Owned(owner, ..) if owner == node) && doomed(head.table)
            })
            .map(|(at, _)| at)
            .collect();
        doomed.into_iter().filter_map(|at| self.rows.remove(at)).map(|row| row.key).collect()
    }

    /// Forgets one row without a trace, because what it rests on is gone. Returns its key.
    pub fn forget(&mut self, key: &Key) -> Option<Key> {
        self.rows.remove(position(key)).map(|row| row.key)
    }

    /// Drops one day's tombstones. Returns their keys.
    pub fn drop_tombstones(&mut self, day: u32) -> Vec<Key> {
        self.rows.tombstones_of(day).into_iter().filter_map(|at| self.rows.remove(at)).map(|row| row.key).collect()
    }

    /// Names a row as not understood, until it is written anew.
    pub fn quarantine(&mut self, key: Key, reason: String) {
        if self.quarantine.len() >= QUARANTINE_MAX {
            self.quarantine.pop_first();
        }
        self.quarantine.insert(position(&key), (key, reason));
    }

    /// The rows not understood, with the reasons.
    pub fn quarantined(&self) -> impl Iterator<Item = &(Key, String)> {
        self.quarantine.values()
    }
}

/// The version of a writing over `held`.
fn shared_after(held: Option<&Version>, wall_ms: u64, writer: NodeId, id: u64) -> Version {
    match held {
        Some(Version::Shared { generation, time_ms, id: parent, ancestors, .. }) => Version::Shared {
            generation: generation.saturating_add(1),
            // A clock that went back must not make the history look reversed; a wild one is bounded by the generation.
            time_ms: wall_ms.max(if *time_ms <= wall_ms.saturating_add(tombstone::DAY_MS) { *time_ms } else { 0 }),
            writer,
            id,
            ancestors: std::iter::once(*parent).chain(ancestors.iter().copied()).take(ANCESTORS_MAX).collect(),
        },
        _ => Version::Shared { generation: 1, time_ms: wall_ms, writer, id, ancestors: Vec::new() },
    }
}

#[cfg(test)]
mod tests;
