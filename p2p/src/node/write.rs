//! This node's own writes and how safe they are. In: rows to write, confirmations. Out: rows that travel, and for each write
//! once whether it is replicated or local.

use std::collections::BTreeSet;

use super::{Node, Now, Output};
use crate::id::NodeId;
use crate::membership::Role;
use crate::mesh::Durability;
use crate::table::row::Version;
use crate::table::{Body, Key, Refusal, Row, Table, codec};
use crate::wire::Message;

/// How long a write waits for two peers before it is called local.
pub const ACK_MS: u64 = 800;
/// Confirmations owed to peers while the disk is slow; the oldest go first, and their writers say `local`.
pub const OWED_MAX: usize = 65_536;
/// Audit rows a node keeps; the next one writes over the oldest.
pub const AUDIT_MAX: u64 = 1_000;

/// A write that is not as safe yet as it will be said to be.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) durable_at: u64,
    /// Peers that were asked to confirm and have not yet.
    pub(super) awaited: BTreeSet<NodeId>,
    pub(super) confirmed: usize,
    pub(super) stored: bool,
    pub(super) until_ms: u64,
}

impl Node {
    /// Writes (`Some`) or deletes (`None`) a row. Returns it and the number [`Output::Acked`] will name; hot rows have none.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn put(&mut self, now: Now, key: Key, body: Option<Body>) -> Result<(Row, Option<u64>), Refusal> {
        if self.role(self.setup.id) == Role::Reader && !key.table.is_owned() && key.table != Table::CERTIFICATE {
            return Err(Refusal::Writer { key: key.to_string(), writer: self.setup.id });
        }
        let level = self.view.level().max(1);
        let name = self.dice.roll();
        let hot = key.table.is_hot();
        let stand = self.replica.write(key, body, now.wall_ms, name, level)?;
        let Some(row) = stand.first().cloned() else {
            return Err(Refusal::Missing { key: "a row that a newer writing of this node stands over".into() });
        };
        let write = (!hot).then(|| {
            self.next_write += 1;
            self.next_write
        });
        let awaited = self.broadcast(now, &codec::encode(&row), write.unwrap_or(0));
        for row in &stand {
            self.stands(now, row);
        }
        if let Some(write) = write {
            let batch = self.batch + 1;
            let awaited = awaited.into_iter().collect();
            let pending =
                Pending { durable_at: batch, awaited, confirmed: 0, stored: false, until_ms: now.ms + ACK_MS };
            self.writes.insert(write, pending);
        }
        self.flush_store();
        Ok((row, write))
    }

    /// Tells the others that this node leaves, without acting on it here: its links stay until they have heard.
    pub fn farewell(&mut self, now: Now, revocation: Body) {
        let version = Version::Shared {
            generation: 1,
            time_ms: now.wall_ms,
            writer: self.setup.id,
            id: self.dice.roll(),
            ancestors: Vec::new(),
        };
        let key = Key::global(Table::REVOKED, self.setup.id.to_string());
        self.broadcast(now, &codec::encode(&Row { key, version, deleted: false, body: revocation }), 0);
        self.flush_pushes(Now { ms: u64::MAX, ..now });
    }

    /// Leaves an audit row: who did what from where.
    pub fn audit(&mut self, now: Now, who: &str, from: &str, what: &str) {
        let slot = self.audits % AUDIT_MAX;
        self.audits += 1;
        let key = Key::owned(Table::AUDIT, self.setup.id, &format!("{slot:04}"));
        let what: String = what.chars().take(512).collect();
        let body = serde_json::json!({ "at_ms": now.wall_ms, "who": who, "from": from, "what": what });
        if let Ok(body) = Body::json(&body) {
            let _ = self.put(now, key, Some(body));
        }
    }

    /// Answers what has become durable: writes of this node, and pushes of peers that asked.
    pub(super) fn settle(&mut self, now: Now) {
        while let Some((batch, peer, ack)) = self.owed.front().copied() {
            if batch > self.durable {
                break;
            }
            self.owed.pop_front();
            self.send_linked(peer, Message::Stored(ack));
        }
        if self.writes.is_empty() {
            return;
        }
        let members = self.view.peers().len();
        let need = 2.min(members.saturating_sub(1));
        let reachable = self.linked().count();
        let durable = self.durable;
        let mut done = Vec::new();
        for (write, pending) in &mut self.writes {
            pending.stored |= pending.durable_at <= durable;
            if !pending.stored {
                continue;
            }
            if pending.confirmed >= need {
                done.push((*write, Durability::Replicated));
            } else if reachable < need || now.ms >= pending.until_ms {
                done.push((*write, Durability::Local));
            }
        }
        for (write, durability) in done {
            self.writes.remove(&write);
            self.out.push_back(Output::Acked(write, durability));
        }
    }
}
