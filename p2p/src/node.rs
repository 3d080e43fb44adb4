//! The core of a node: table, membership, broadcast and repair put together. In: messages of peers, local writes, time,
//! "it is on disk". Out: messages, dials, rows to store, changes. Reads no clock, draws no randomness, opens nothing: the
//! swarm and the simulator drive this same type.

pub mod dice;
pub mod event;
pub mod gossip;
mod keep;
pub mod links;
mod look;
pub mod rules;
pub mod write;

use std::collections::{BTreeMap, VecDeque};

use crate::id::NodeId;
use crate::membership::Role;
use crate::membership::view::View;
use crate::mesh::Alarm;
use crate::table::tombstone::ClosedDay;
use crate::table::{Body, Key, Position, Replica, Row, Table, rows};
use crate::wire::Message;
use links::Link;
use write::Pending;

pub use dice::Dice;
pub use event::{Input, Now, Output, Setup};
pub use write::{ACK_MS, AUDIT_MAX, OWED_MAX};

/// How often a node checks its root with one of its links.
pub const REPAIR_MS: u64 = 2_000;
/// How long pushed rows are collected into one batch.
pub const BATCH_MS: u64 = 10;
/// How soon after repair brought something the other links are checked.
pub const RIPPLE_MS: u64 = 50;
/// How often a node publishes its hot rows again, for those who missed them.
pub const HOT_REPUBLISH_MS: u64 = 30_000;
/// How often closed days of tombstones are looked at.
pub const TOMBSTONES_MS: u64 = 10_000;
/// How long an evicted peer is given to hear of it before its connection is closed.
pub const PARTING_MS: u64 = 500;
/// How many starts a peer may believe this node to be ahead of what its own disk says: a restored disk is behind by a few.
pub const EPOCH_STEP_MAX: u64 = 1 << 20;
/// Alarms kept; the oldest go first.
pub const ALARMS_MAX: usize = 64;
/// A peer's clock this far away is worth an alarm.
pub const CLOCK_ALARM_MS: i64 = 10_000;
/// Foreign epoch reports within [`CLONE_WINDOW_MS`] that mean that this key runs elsewhere too: one is a restored disk.
pub const CLONE_BUMPS: usize = 3;
/// See [`CLONE_BUMPS`].
pub const CLONE_WINDOW_MS: u64 = 60_000;

/// One node.
#[derive(Debug, Clone)]
pub struct Node {
    setup: Setup,
    replica: Replica,
    view: View,
    links: BTreeMap<NodeId, Link>,
    tries: BTreeMap<NodeId, links::Try>,
    marks: BTreeMap<NodeId, u64>,
    recent: VecDeque<(u64, Position)>,
    changes: u64,
    roles: BTreeMap<NodeId, Role>,
    /// Who was the first here to be called so, by the name's hash.
    names: BTreeMap<u64, NodeId>,
    published: BTreeMap<NodeId, Vec<ClosedDay>>,
    dropped: BTreeMap<u32, (u64, u64)>,
    /// Whom deletions have been waiting for, as was said last.
    blockers: String,
    dice: Dice,
    out: VecDeque<Output>,
    unsaved: BTreeMap<Position, Option<Vec<u8>>>,
    batch: u64,
    durable: u64,
    writes: BTreeMap<u64, Pending>,
    next_write: u64,
    next_ack: u64,
    owed: VecDeque<(u64, NodeId, u64)>,
    early: BTreeMap<NodeId, Vec<(NodeId, Vec<u8>)>>,
    /// How many rows `early` holds.
    early_rows: usize,
    certified: Vec<NodeId>,
    closing: Option<(u64, Vec<(u32, rows::Sum)>)>,
    beat_at: u64,
    repair_at: u64,
    ripple_at: Option<u64>,
    hot_at: u64,
    tombstones_at: u64,
    refute: bool,
    /// Peers that were evicted and are told so, until when.
    parting: BTreeMap<NodeId, u64>,
    bumps: VecDeque<u64>,
    cloned: BTreeMap<NodeId, u64>,
    expelled: bool,
    alarms: VecDeque<Alarm>,
    counters: BTreeMap<&'static str, u64>,
    audits: u64,
}

impl Node {
    /// A node with the rows of its disk. Rows that cannot be read are alarms, never a refusal to start.
    pub fn new(setup: Setup, disk: impl IntoIterator<Item = Vec<u8>>, now: Now) -> Self {
        let mut replica = Replica::new(setup.id, setup.facts.site.clone(), setup.epoch);
        let view = View::new(setup.id, setup.facts.site.clone());
        let mut unread = 0u64;
        for packed in disk {
            unread += u64::from(replica.load(&packed).is_err());
        }
        let dice = Dice(setup.seed ^ setup.id.0);
        let mut node = Self {
            replica,
            view,
            links: BTreeMap::new(),
            tries: BTreeMap::new(),
            marks: BTreeMap::new(),
            recent: VecDeque::new(),
            changes: 0,
            roles: BTreeMap::new(),
            names: BTreeMap::new(),
            published: BTreeMap::new(),
            dropped: BTreeMap::new(),
            blockers: String::new(),
            dice,
            out: VecDeque::new(),
            unsaved: BTreeMap::new(),
            batch: 0,
            durable: 0,
            writes: BTreeMap::new(),
            next_write: 0,
            next_ack: 0,
            owed: VecDeque::new(),
            early: BTreeMap::new(),
            early_rows: 0,
            certified: Vec::new(),
            closing: None,
            beat_at: now.ms,
            repair_at: now.ms,
            ripple_at: None,
            hot_at: now.ms + HOT_REPUBLISH_MS,
            tombstones_at: now.ms,
            refute: false,
            parting: BTreeMap::new(),
            bumps: VecDeque::new(),
            cloned: BTreeMap::new(),
            expelled: false,
            alarms: VecDeque::new(),
            counters: BTreeMap::new(),
            audits: 0,
            setup,
        };
        for certificate in
            node.setup.chain.iter().filter_map(|bytes| crate::admission::Certificate::from_bytes(bytes).ok())
        {
            node.roles.insert(certificate.node(), certificate.role);
        }
        // Revocations first, certificates next: rows of evicted nodes must not come alive in between.
        for table in [Table::REVOKED, Table::CERTIFICATE, Table::NODE, Table::WATCH, Table::TOMBSTONES] {
            let rows: Vec<Row> = node.replica.rows().table(table).map(|(_, head)| head.to_row()).collect();
            for row in rows {
                node.learn(now, &row);
            }
        }
        node.audits = node.own_rows(Table::AUDIT).len() as u64;
        if unread > 0 {
            node.alarm(now, "store", format!("{unread} rows on this disk cannot be read; peers bring them back"));
        }
        node.out.retain(|output| matches!(output, Output::Alarm(_) | Output::Expelled(_) | Output::Epoch(_)));
        node.introduce(now);
        node.dice.0 ^= now.ms;
        node.repair_at = now.ms + node.dice.below(REPAIR_MS);
        node.flush_store();
        node
    }

    /// Writes this node's certificates and its node row.
    fn introduce(&mut self, now: Now) {
        let chain = self.setup.chain.clone();
        // The root's first: whoever receives them knows each issuer before what it signed.
        for bytes in chain.into_iter().rev() {
            let Ok(certificate) = crate::admission::Certificate::from_bytes(&bytes) else { continue };
            let key = Key::global(Table::CERTIFICATE, certificate.node().to_string());
            if self.replica.rows().get(&key).is_none_or(|row| row.body.0 != bytes) {
                let _ = self.put(now, key, Some(Body(bytes)));
            }
        }
        self.write_facts(now);
    }

    /// Writes this node's row again, which also refutes verdicts about it.
    fn write_facts(&mut self, now: Now) {
        let body = Body::json(&self.setup.facts).expect("facts are plain data with text keys");
        let key = Key::owned(Table::NODE, self.setup.id, "");
        if let Err(refusal) = self.put(now, key, Some(body)) {
            self.alarm(now, "node-row", format!("this node's own row cannot be written: {refusal}"));
        }
    }

    /// Names a row as not understood.
    pub fn quarantine(&mut self, now: Now, key: Key, reason: String) {
        self.alarm(
            now,
            "quarantine",
            format!("row {key} is not understood ({reason}); its writer runs another version or has a fault"),
        );
        self.replica.quarantine(key, reason);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When to call [`Node::handle`] with [`Input::Tick`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> u64 {
        let flush = self.links.values().filter_map(|link| link.flush_at).min();
        // What is not on this disk yet waits for that, however late it gets.
        let write = self.writes.values().filter(|pending| pending.stored).map(|pending| pending.until_ms).min();
        let parting = self.parting.values().min().copied();
        [
            Some(self.view.due_ms().unwrap_or(0)),
            flush,
            write,
            parting,
            self.ripple_at,
            Some(self.repair_at),
            Some(self.beat_at),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(0)
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Now, input: Input) {
        if self.expelled {
            return;
        }
        match input {
            Input::Tick => self.tick(now),
            Input::Connected(peer) => self.connected(now, peer),
            Input::Disconnected(peer) => self.disconnected(now, peer),
            Input::DialFailed { peer, refused } => {
                if refused {
                    self.view.refused(peer);
                }
            }
            Input::Message(peer, message) => self.message(now, peer, message),
            Input::Bad(peer, reason) => self.bad(now, peer, &reason),
            Input::Durable(batch) => self.durable = self.durable.max(batch),
            Input::StoreFailed => {
                self.writes.clear();
                self.owed.clear();
                self.closing = None;
            }
            Input::Addresses(addresses) => {
                if self.setup.facts.addresses != addresses {
                    self.setup.facts.addresses = addresses;
                    self.write_facts(now);
                }
            }
        }
        // Rows written right after a member came must already travel to it.
        if self.view.refresh(now.ms) {
            self.reconsider(now);
            self.keep_links(now);
        }
        self.settle(now);
        self.flush_store();
    }

    fn tick(&mut self, now: Now) {
        if self.view.due_ms().is_none_or(|due| now.ms >= due) {
            let judgement = self.view.tick(now.ms);
            if judgement.stalled {
                self.count("stalls", 1);
            }
            for (subject, verdict, of) in judgement.write {
                if verdict == crate::membership::view::Verdict::Missing {
                    self.drop_silent(now, subject);
                }
                self.say(now, subject, verdict, of);
            }
            for subject in judgement.ask {
                self.send_linked(subject, Message::Ask);
            }
            if std::mem::take(&mut self.refute) {
                self.write_facts(now);
            }
            self.reconsider(now);
            self.keep_links(now);
        }
        if now.ms >= self.beat_at {
            self.beat(now);
        }
        self.flush_pushes(now);
        if now.ms >= self.repair_at {
            self.repair_at = self.next_repair(now);
            let linked: Vec<NodeId> = self.linked().collect();
            if !linked.is_empty() {
                let peer = linked[self.dice.index(linked.len())];
                self.send_root(peer);
            }
        }
        if self.ripple_at.is_some_and(|at| now.ms >= at) {
            self.ripple_at = None;
            self.ripple();
        }
        self.part(now);
        if now.ms >= self.hot_at {
            self.hot_at = now.ms + HOT_REPUBLISH_MS;
            self.republish_hot(now);
        }
        if now.ms >= self.tombstones_at {
            self.tombstones_at = now.ms + TOMBSTONES_MS;
            self.forget_tombstones(now);
        }
    }

    /// When to check the root next.
    fn next_repair(&mut self, now: Now) -> u64 {
        now.ms + REPAIR_MS * 3 / 4 + self.dice.below(REPAIR_MS / 2)
    }

    /// Writes a verdict about a subject.
    fn say(&mut self, now: Now, subject: NodeId, verdict: crate::membership::view::Verdict, of: (u64, u64)) {
        let key = Key::owned(Table::WATCH, self.setup.id, &subject.to_string());
        let _ = self.put(now, key, Some(crate::membership::view::watch_body(verdict, of)));
        self.count("verdicts", 1);
    }

    fn reconsider(&mut self, now: Now) {
        for turned in self.view.reconsider(now.wall_ms) {
            self.turned(now, turned);
        }
    }

    fn alarm(&mut self, now: Now, kind: &str, text: String) {
        // The same alarm again tells nothing new within a minute.
        if self.alarms.iter().rev().any(|old| old.kind == kind && old.text == text && old.at_ms + 60_000 > now.wall_ms)
        {
            return;
        }
        if self.alarms.len() >= ALARMS_MAX {
            self.alarms.pop_front();
        }
        let alarm = Alarm { at_ms: now.wall_ms, kind: kind.to_owned(), text };
        self.alarms.push_back(alarm.clone());
        self.out.push_back(Output::Alarm(alarm));
        self.count("alarms", 1);
    }

    fn count(&mut self, name: &'static str, by: u64) {
        *self.counters.entry(name).or_default() += by;
    }

    fn expel(&mut self, now: Now, kind: &str, why: String) {
        self.alarm(now, kind, why.clone());
        let peers: Vec<NodeId> = self.links.keys().copied().collect();
        for peer in peers {
            self.out.push_back(Output::Hangup(peer, why.clone()));
        }
        self.links.clear();
        self.expelled = true;
        self.out.push_back(Output::Expelled(why));
    }
}

#[cfg(test)]
mod tests;
