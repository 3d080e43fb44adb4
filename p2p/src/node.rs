//! The core of a node: table, membership, broadcast and repair put together. In: messages of peers, local writes, time,
//! "it is on disk". Out: messages, dials, rows to store, changes. Reads no clock, draws no randomness, opens nothing: the
//! swarm and the simulator drive this same type.

pub mod gossip;
pub mod links;
pub mod rules;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::admission::Verify;
use crate::id::{ClusterId, NodeId};
use crate::membership::view::{Facts, View};
use crate::membership::{Liveness, Member, Role};
use crate::mesh::{Alarm, Durability};
use crate::table::row::Version;
use crate::table::tombstone::{self, ClosedDay};
use crate::table::{Body, Key, Position, Refusal, Replica, Row, Table, codec, rows};
use crate::wire::Message;
use links::Link;

/// How often a node checks its root with one of its links.
pub const REPAIR_MS: u64 = 2_000;
/// How long pushed rows are collected into one batch.
pub const BATCH_MS: u64 = 10;
/// How soon after repair brought something the other links are checked.
pub const RIPPLE_MS: u64 = 50;
/// How long a write waits for two peers before it is called local.
pub const ACK_MS: u64 = 800;
/// Confirmations owed to peers while the disk is slow; the oldest go first, and their writers say `local`.
pub const OWED_MAX: usize = 65_536;
/// How often a node publishes its hot rows again, for those who missed them.
pub const HOT_REPUBLISH_MS: u64 = 30_000;
/// How often closed days of tombstones are looked at.
pub const TOMBSTONES_MS: u64 = 10_000;
/// Alarms kept; the oldest go first.
pub const ALARMS_MAX: usize = 64;
/// A peer's clock this far away is worth an alarm.
pub const CLOCK_ALARM_MS: i64 = 10_000;
/// Foreign epoch reports within [`CLONE_WINDOW_MS`] that mean that this key runs elsewhere too: one is a restored disk.
pub const CLONE_BUMPS: usize = 3;
/// See [`CLONE_BUMPS`].
pub const CLONE_WINDOW_MS: u64 = 60_000;
/// Audit rows a node keeps; the next one writes over the oldest.
pub const AUDIT_MAX: u64 = 1_000;

/// The two clocks of a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Monotonic, in ms from any start.
    pub ms: u64,
    /// The wall clock, in ms since 1970.
    pub wall_ms: u64,
}

/// What a node is made of.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Its id.
    pub id: NodeId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its certificates, its own first, up to the one the root signed, as bytes.
    pub chain: Vec<Vec<u8>>,
    /// What it says of itself.
    pub facts: Facts,
    /// Its epoch: already persisted, greater than any before.
    pub epoch: u64,
    /// The check of signatures.
    pub verify: Verify,
    /// Seed of its random choices.
    pub seed: u64,
}

/// What happens to a node.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// A connection to this peer stands; the transport has checked its key.
    Connected(NodeId),
    /// No connection to this peer stands any more.
    Disconnected(NodeId),
    /// Dialling failed; `refused` when its host answered that nobody listens.
    DialFailed {
        /// Whom.
        peer: NodeId,
        /// See above.
        refused: bool,
    },
    /// A message of a peer.
    Message(NodeId, Message),
    /// Bytes of a peer that are no message.
    Bad(NodeId, String),
    /// Everything up to this batch is on disk.
    Durable(u64),
    /// The disk has failed: nothing that waits for it will be confirmed.
    StoreFailed,
    /// This node's own addresses have changed.
    Addresses(Vec<String>),
}

/// What a node wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Send this, in order within its lane; may be dropped when the peer does not read.
    Send(NodeId, Message),
    /// Connect to this peer at one of these addresses.
    Dial(NodeId, Vec<String>),
    /// Close all connections to this peer.
    Hangup(NodeId, String),
    /// Put these on disk (`None`: delete) and answer with [`Input::Durable`].
    Store(u64, Vec<(Position, Option<Vec<u8>>)>),
    /// Persist this epoch before anything else is sent.
    Epoch(u64),
    /// A row stands.
    Changed(Row),
    /// A row is forgotten.
    Gone(Key),
    /// A member's liveness changed.
    Turned(NodeId, Liveness),
    /// A write is as safe as it will be said to be.
    Acked(u64, Durability),
    /// Something for the operator.
    Alarm(Alarm),
    /// This node was evicted, or its key runs elsewhere too: it must stop taking part.
    Expelled(String),
}

/// A small deterministic generator (SplitMix64): its choices need to be spread, not secret.
#[derive(Debug, Clone)]
pub struct Dice(pub u64);

impl Dice {
    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// An index below `length`; 0 when `length` is 0.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }

    /// A number below `end`; 0 when `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.roll() % end }
    }
}

#[derive(Debug, Clone)]
struct Pending {
    durable_at: u64,
    /// Peers that were asked to confirm and have not yet.
    awaited: BTreeSet<NodeId>,
    confirmed: usize,
    stored: bool,
    until_ms: u64,
}

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
    published: BTreeMap<NodeId, Vec<ClosedDay>>,
    dropped: BTreeMap<u32, (u64, u64)>,
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
    certified: Vec<NodeId>,
    closing: Option<(u64, Vec<(u32, rows::Sum)>)>,
    beat_at: u64,
    repair_at: u64,
    ripple_at: Option<u64>,
    hot_at: u64,
    tombstones_at: u64,
    refute: bool,
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
            published: BTreeMap::new(),
            dropped: BTreeMap::new(),
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
            certified: Vec::new(),
            closing: None,
            beat_at: now.ms,
            repair_at: now.ms,
            ripple_at: None,
            hot_at: now.ms + HOT_REPUBLISH_MS,
            tombstones_at: now.ms,
            refute: false,
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

    /// This node's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.setup.id
    }

    /// What it was made of.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Its copy of the table.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Its view of the members.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Since when the mass-failure brake holds.
    pub fn brake(&mut self, wall_ms: u64) -> Option<u64> {
        self.view.brake(wall_ms)
    }

    /// Peers with a connection on which both have shown their certificates.
    pub fn linked(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.links.iter().filter(|(_, link)| link.admitted).map(|(peer, _)| *peer)
    }

    /// Whether this peer has shown a certificate of this cluster on the standing connection.
    #[must_use]
    pub fn is_linked(&self, peer: NodeId) -> bool {
        self.links.get(&peer).is_some_and(|link| link.admitted)
    }

    /// How often a member has started, as far as is known here: by its row, or by what it said on the standing connection.
    #[must_use]
    pub fn epoch_of_member(&self, node: NodeId) -> u64 {
        let row = self.view.peers().get(&node).map_or(0, |peer| peer.incarnation.0);
        self.links.get(&node).map_or(row, |link| row.max(link.epoch))
    }

    /// The alarms, oldest first.
    pub fn alarms(&self) -> impl Iterator<Item = &Alarm> {
        self.alarms.iter()
    }

    /// Counters by name.
    #[must_use]
    pub fn counters(&self) -> &BTreeMap<&'static str, u64> {
        &self.counters
    }

    /// The public key of a member, from its certificate.
    #[must_use]
    pub fn public_key(&self, node: NodeId) -> Option<[u8; 32]> {
        self.certificate(node).map(|certificate| certificate.subject)
    }

    /// What a member may do; no more than read while its certificate is not known.
    #[must_use]
    pub fn role(&self, node: NodeId) -> Role {
        self.roles.get(&node).copied().unwrap_or(Role::Reader)
    }

    /// Every node whose certificate is known and that was not evicted.
    pub fn certified(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.roles.keys().copied().filter(|node| !self.replica.is_evicted(*node))
    }

    /// The live row under a key; owned rows of nodes that are down are there too.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Row> {
        self.replica.rows().get(key).filter(|row| !row.deleted)
    }

    /// Live rows of a table whose id starts with `prefix`, in the order of keys; without those of nodes that are down, unless
    /// `include_down`.
    #[must_use]
    pub fn rows(&self, table: Table, prefix: &str, include_down: bool) -> Vec<Row> {
        let mut rows: Vec<Row> = self
            .replica
            .rows()
            .table(table)
            .filter(|(_, head)| !head.deleted && head.id.starts_with(prefix))
            .filter(|(_, head)| match head.version {
                codec::VersionHead::Owned(owner, ..) if !include_down && table != Table::NODE => {
                    owner == self.setup.id || self.view.is_up(owner)
                }
                _ => true,
            })
            .map(|(_, head)| head.to_row())
            .collect();
        rows.sort_by(|a, b| a.key.cmp(&b.key));
        rows
    }

    fn own_rows(&self, table: Table) -> Vec<Row> {
        let me = self.setup.id;
        let mine = |head: &codec::Head<'_>| matches!(head.version, codec::VersionHead::Owned(owner, ..) if owner == me);
        self.replica.rows().table(table).filter(|(_, head)| mine(head)).map(|(_, head)| head.to_row()).collect()
    }

    /// Every member, in the order of ids.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        self.view
            .peers()
            .iter()
            .map(|(id, peer)| {
                let link = self.links.get(id);
                Member {
                    id: *id,
                    name: peer.facts.name.clone(),
                    site: peer.facts.site.clone(),
                    role: peer.role,
                    liveness: peer.liveness,
                    addresses: peer.facts.addresses.clone(),
                    labels: peer.facts.labels.clone(),
                    epoch: self.epoch_of_member(*id),
                    version: peer.facts.version.clone(),
                    feature_level: peer.facts.level,
                    is_self: *id == self.setup.id,
                    connected: link.is_some_and(|link| link.admitted),
                    rtt_us: link.and_then(|link| link.rtt_ms).map(|ms| ms * 1000),
                    clock_offset_ms: link.and_then(|link| link.offset_ms),
                    since_ms: peer.since_ms,
                }
            })
            .collect()
    }

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
        [Some(self.view.due_ms().unwrap_or(0)), flush, write, self.ripple_at, Some(self.repair_at), Some(self.beat_at)]
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
            self.repair_at = now.ms + REPAIR_MS * 3 / 4 + self.dice.below(REPAIR_MS / 2);
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
        if now.ms >= self.hot_at {
            self.hot_at = now.ms + HOT_REPUBLISH_MS;
            self.republish_hot(now);
        }
        if now.ms >= self.tombstones_at {
            self.tombstones_at = now.ms + TOMBSTONES_MS;
            self.forget_tombstones(now);
        }
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

    /// Answers what has become durable: writes of this node, and pushes of peers that asked.
    fn settle(&mut self, now: Now) {
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

    /// A row stands that did not before: keep it, tell about it, act on it.
    fn stands(&mut self, now: Now, row: &Row) {
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
    fn is_kept(&self, table: Table, owner: Option<NodeId>) -> bool {
        if table.is_hot() || table == Table::BLOB_HOLDER {
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

    fn forgotten(&mut self, keys: Vec<Key>) {
        for key in keys {
            self.unsaved.insert(rows::position(&key), None);
            self.out.push_back(Output::Gone(key));
        }
    }

    fn flush_store(&mut self) {
        // A batch is numbered even when nothing is kept of it, so that whoever waits for it is answered.
        if self.unsaved.is_empty() && self.writes.values().all(|pending| pending.durable_at <= self.batch) {
            return;
        }
        self.batch += 1;
        let rows = std::mem::take(&mut self.unsaved).into_iter().collect();
        self.out.push_back(Output::Store(self.batch, rows));
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

    /// This node's own addresses, facts of others by id.
    #[must_use]
    pub fn facts(&self, node: NodeId) -> Option<Arc<Facts>> {
        self.view.peers().get(&node).map(|peer| Arc::clone(&peer.facts))
    }

    /// Publishes closed days of tombstones and drops those everybody publishes the same.
    fn forget_tombstones(&mut self, now: Now) {
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
}

#[cfg(test)]
mod tests;
