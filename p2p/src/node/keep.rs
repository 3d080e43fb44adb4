//! What stands, what of it belongs on this disk, and what everybody agrees to forget. In: rows that stand, keys that are gone,
//! time. Out: batches for the disk, changes for those who watch, published days of tombstones.

use super::{Node, Now, Output, links};
use crate::id::NodeId;
use crate::membership::Liveness;
use crate::table::row::Version;
use crate::table::tombstone::{self, ClosedDay};
use crate::table::{Key, Position, Row, Table, codec, rows};

/// Deletions that have waited for a member that is down for so many days are worth a word.
const BLOCKED_DAYS: u32 = 7;
/// Members named in it.
const BLOCKERS_NAMED: usize = 3;

impl Node {
    /// A row stands that did not before: keep it, tell about it, act on it.
    pub(super) fn stands(&mut self, now: Now, row: &Row) {
        let at = rows::position(&row.key);
        let packed = codec::encode(row);
        let owner = match row.version {
            Version::Owned { owner, .. } => Some(owner),
            Version::Shared { .. } => None,
        };
        if self.is_kept(row.key.table, owner) {
            self.unsaved.insert(at, Some(packed));
        }
        self.changes += 1;
        if !row.key.table.is_hot() {
            self.recent.push_back((self.changes, at));
            if self.recent.len() > links::RECENT_MAX {
                self.recent.pop_front();
            }
        }
        self.learn(now, row);
        self.out.push_back(Output::Changed(row.clone()));
    }

    /// Whether a row is kept on disk: shared rows, own rows, and the addresses of others.
    pub(super) fn is_kept(&self, table: Table, owner: Option<NodeId>) -> bool {
        if table.is_hot() || matches!(table, Table::BLOB_HOLDER | Table::CAPACITY) {
            return false;
        }
        owner.is_none_or(|owner| owner == self.setup.id || table == Table::NODE)
    }

    /// Hands everything that belongs on disk over once more: the disk had failed and is there again with the rows at these
    /// positions.
    pub fn store_again(&mut self, found: &[Position]) {
        let rows = self.replica.rows();
        let gone: Vec<Position> = found.iter().copied().filter(|at| rows.packed(*at).is_none()).collect();
        let kept: Vec<(Position, Option<Vec<u8>>)> = rows
            .all()
            .filter(|(_, packed)| {
                codec::head(packed).is_ok_and(|head| {
                    let owner = match head.version {
                        codec::VersionHead::Owned(owner, ..) => Some(owner),
                        codec::VersionHead::Shared(..) => None,
                    };
                    self.is_kept(head.table, owner)
                })
            })
            .map(|(at, packed)| (at, Some(packed.to_vec())))
            .collect();
        self.unsaved.extend(gone.into_iter().map(|at| (at, None)));
        self.unsaved.extend(kept);
        self.flush_store();
    }

    pub(super) fn forgotten(&mut self, keys: Vec<Key>) {
        for key in keys {
            self.unsaved.insert(rows::position(&key), None);
            self.out.push_back(Output::Gone(key));
        }
    }

    pub(super) fn flush_store(&mut self) {
        // A batch is numbered even when nothing is kept of it, so that whoever waits for it is answered.
        if self.unsaved.is_empty() && self.writes.values().all(|pending| pending.durable_at <= self.batch) {
            return;
        }
        self.batch += 1;
        let rows = std::mem::take(&mut self.unsaved).into_iter().collect();
        self.out.push_back(Output::Store(self.batch, rows));
    }

    /// Publishes closed days of tombstones and drops those everybody publishes the same.
    pub(super) fn forget_tombstones(&mut self, now: Now) {
        let held: Vec<(u32, rows::Sum)> =
            self.replica.rows().tombstone_days().filter(|(day, _)| tombstone::is_closed(*day, now.wall_ms)).collect();
        // Only what is on this disk is told: others forget theirs because of it.
        let batch = self.batch + u64::from(!self.unsaved.is_empty());
        let safe = self.closing.take().filter(|(batch, _)| *batch <= self.durable).map(|(_, days)| days);
        let closed: Vec<(u32, rows::Sum)> =
            held.iter().copied().filter(|day| safe.as_ref().is_some_and(|days| days.contains(day))).collect();
        self.closing = Some((batch, held.clone()));
        let mine: Vec<ClosedDay> = closed
            .iter()
            .map(|(day, sum)| ClosedDay { day: *day, print: sum.print, dropped: false })
            .chain(
                self.dropped
                    .iter()
                    .filter(|(day, _)| held.iter().all(|(other, _)| other != *day))
                    .map(|(day, (print, _))| ClosedDay { day: *day, print: *print, dropped: true }),
            )
            .collect();
        let me = self.setup.id;
        let waits = safe.is_none() && !held.is_empty();
        if !waits && self.published.get(&me).map_or(!mine.is_empty(), |old| *old != mine) {
            let body = tombstone::publish(&mine);
            let _ = self.put(now, Key::owned(Table::TOMBSTONES, me, ""), Some(body));
        }
        self.name_blockers(now, &held);
        for (day, sum) in closed {
            let others = self.view.peers().keys().filter(|node| **node != me);
            let agreed = tombstone::may_drop(day, sum, others.map(|node| self.published.get(node).map(Vec::as_slice)));
            if agreed {
                let keys = self.replica.drop_tombstones(day);
                self.count("tombstones_dropped", keys.len() as u64);
                self.forgotten(keys);
                self.dropped.insert(day, (sum.print, now.ms));
                while self.dropped.len() > 64 {
                    self.dropped.pop_first();
                }
            }
        }
    }

    /// Says once whom deletions have been waiting for: they are kept at every node for as long as a member that is down has not
    /// confirmed them, and only people know whether it will come back.
    fn name_blockers(&mut self, now: Now, held: &[(u32, rows::Sum)]) {
        let today = u32::try_from(now.wall_ms / tombstone::DAY_MS).unwrap_or(u32::MAX);
        let old: Vec<(u32, rows::Sum)> =
            held.iter().copied().filter(|(day, _)| day.saturating_add(BLOCKED_DAYS) <= today).collect();
        let waits = |node: &NodeId| {
            let published = self.published.get(node).map(Vec::as_slice);
            old.iter().any(|(day, sum)| !tombstone::may_drop(*day, *sum, std::iter::once(published)))
        };
        let blockers: Vec<String> = self
            .view
            .peers()
            .iter()
            .filter(|(node, peer)| peer.liveness == Liveness::Down && waits(node))
            .map(|(node, peer)| format!("{} ({node})", peer.facts.name))
            .take(BLOCKERS_NAMED)
            .collect();
        let names = if old.is_empty() { String::new() } else { blockers.join(", ") };
        if self.blockers == names {
            return;
        }
        self.blockers.clone_from(&names);
        if !names.is_empty() {
            let days = old.len();
            let text = format!(
                "deletions of {days} days are kept because {names} has not confirmed them and is down; evict it if it does not come back"
            );
            self.alarm(now, "tombstones", text);
        }
    }
}
