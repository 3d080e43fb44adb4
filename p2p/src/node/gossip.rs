//! What travels on admitted links: pushes along the trees, repair, acknowledgements. In: messages. Out: messages, rows that
//! stand. Every row goes through [`Node::absorb`], wherever it comes from.

use super::links::{ASKED_MAX, EARLY_MAX, MARKS_MAX, Part};
use super::rules::Fit;
use super::{BATCH_MS, Node, Now, OWED_MAX, Output, RIPPLE_MS};
use crate::id::NodeId;
use crate::membership::{Role, ring};
use crate::sync;
use crate::table::rows::Class;
use crate::table::{Position, Refusal, Table, codec};
use crate::wire::{BATCH_MAX, Message, WireSum};

/// Links checked after repair brought something: enough for it to run through a cluster as an epidemic, few enough to be no
/// storm.
pub const RIPPLE_LINKS: usize = 6;
/// Recent changes worth sending unasked to a peer that comes back.
pub const CATCH_UP_MAX: usize = 4_096;
/// A peer with less than half our rows is new here and is sent the hot rows, up to this many.
pub const HOT_WELCOME_MAX: usize = 4_096;
/// Gates tried into each other site.
const GATES: usize = 4;

/// What came of a row of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// Something stands because of it.
    New,
    /// It is held already, or something newer.
    Known,
    /// It waits for its issuer's certificate.
    Early,
}

impl Node {
    pub(super) fn message(&mut self, now: Now, peer: NodeId, message: Message) {
        if self.floods(now, peer) {
            return;
        }
        if let Message::Hello(hello) = message {
            self.hello(now, peer, hello);
            return;
        }
        let Some(link) = self.links.get_mut(&peer) else { return };
        if !link.admitted {
            // Rows and claims come again by repair; what a stranger can make this node keep is a few hundred bytes.
            let small = matches!(
                message,
                Message::Beat(_) | Message::Ask | Message::Alive | Message::Stored(_) | Message::Root(..)
            );
            if small && link.early.len() < EARLY_MAX {
                link.early.push(message);
            }
            self.count("unadmitted_messages", 1);
            return;
        }
        let same_site = link.same_site;
        link.heard_ms = now.ms;
        if let Some((subject, verdict, of)) = self.view.heard(peer, now.ms) {
            self.say(now, subject, verdict, of);
        }
        match message {
            Message::Beat(beat) => self.beat_arrived(now, peer, beat),
            Message::Ask => self.send_beat(now, peer, true),
            Message::Push { until, ack, rows } => self.pushed(now, peer, until, ack, &rows),
            Message::Stored(ack) => {
                // Of this push alone: one before it may have been dropped on the way.
                let writes = self.links.get_mut(&peer).and_then(|link| link.asked.remove(&ack)).unwrap_or_default();
                for write in writes {
                    if let Some(pending) = self.writes.get_mut(&write) {
                        pending.confirmed += usize::from(pending.awaited.remove(&peer));
                    }
                }
            }
            Message::Root(global, site) => self.root_arrived(now, peer, global, site, same_site),
            Message::Sums(sums) => {
                let answers = sync::on_sums(self.replica.rows(), &sums, same_site);
                self.answer(peer, answers);
            }
            Message::Spans(spans) => {
                let answers = sync::on_spans(self.replica.rows(), &spans, same_site);
                self.answer(peer, answers);
            }
            Message::Want(wants) => {
                let answers = sync::on_want(self.replica.rows(), &wants, same_site);
                self.answer(peer, answers);
            }
            Message::Rows(rows) => {
                let mut news = false;
                for packed in &rows {
                    news |= self.absorb(now, peer, packed) == Ok(Taken::New);
                }
                if news {
                    self.count("rows_repaired", rows.len() as u64);
                    self.ripple_at.get_or_insert(now.ms + RIPPLE_MS);
                }
            }
            Message::Hello(_) | Message::Alive => {}
            Message::Unknown(_) => self.count("unknown_messages", 1),
        }
    }

    fn answer(&mut self, peer: NodeId, answers: Vec<Message>) {
        for answer in answers {
            self.out.push_back(Output::Send(peer, answer));
        }
    }

    /// Takes in a packed row of a peer, and the rows that waited for it.
    pub(super) fn absorb(&mut self, now: Now, peer: NodeId, packed: &[u8]) -> Result<Taken, Refusal> {
        let taken = self.absorb_one(now, peer, packed);
        while let Some(node) = self.certified.pop() {
            let early = self.early.remove(&node).unwrap_or_default();
            self.early_rows -= early.len();
            for (peer, packed) in early {
                // Refusals have their alarm; the row that came now is not to blame.
                let _ = self.absorb_one(now, peer, &packed);
            }
        }
        taken
    }

    fn absorb_one(&mut self, now: Now, peer: NodeId, packed: &[u8]) -> Result<Taken, Refusal> {
        if !self.may_bring(peer, packed) {
            self.count("rows_of_readers_ignored", 1);
            return Ok(Taken::Known);
        }
        let taken = match self.admissible(now, packed) {
            Ok(Fit::Yes) => self.replica.merge(packed),
            Ok(Fit::Ignored) => Ok(Vec::new()),
            Ok(Fit::Early(issuer)) => {
                self.keep_early(issuer, peer, packed);
                return Ok(Taken::Early);
            }
            Err(refusal) => Err(refusal),
        };
        match taken {
            Ok(stand) => {
                for row in &stand {
                    self.stands(now, row);
                }
                self.count("merges", 1);
                Ok(if stand.is_empty() { Taken::Known } else { Taken::New })
            }
            Err(refusal) => {
                self.count("rows_refused", 1);
                // A row of an evicted node is on its way out everywhere; anything else is worth a look.
                if !matches!(refusal, Refusal::Writer { .. }) {
                    self.alarm(now, "refused-row", format!("node {peer} sent a row that was refused: {refusal}"));
                }
                Err(refusal)
            }
        }
    }

    fn pushed(&mut self, now: Now, peer: NodeId, until: NodeId, ack: u64, rows: &[Vec<u8>]) {
        let me = self.setup.id;
        let arc = self.view.rings().arc(&self.setup.facts.site, me, until);
        let mut parts = match self.role(me) {
            // Nobody takes what a reader passes on.
            Role::Reader => Vec::new(),
            _ => ring::split(&arc, until, self.view.rings().fan(), |node| self.is_linked(node)),
        };
        parts.extend(self.leaves(peer));
        let mut whole = true;
        for packed in rows {
            let taken = self.absorb(now, peer, packed);
            whole &= matches!(taken, Ok(Taken::New | Taken::Known));
            if taken.is_err() {
                continue;
            }
            for (child, until) in &parts {
                self.queue_push(now, *child, *until, packed.clone(), 0);
            }
        }
        // Confirmed is only what was taken in whole.
        if ack > 0 && whole {
            let batch = self.batch + u64::from(!self.unsaved.is_empty());
            if self.owed.len() >= OWED_MAX {
                self.owed.pop_front();
            }
            self.owed.push_back((batch, peer, ack));
        }
    }

    /// Whether a peer may bring a row: a reader brings its own and what is signed, nothing else; rows themselves are not
    /// signed, and who only looks is not trusted to pass them on.
    fn may_bring(&self, peer: NodeId, packed: &[u8]) -> bool {
        if self.roles.get(&peer) != Some(&Role::Reader) {
            return true;
        }
        codec::head(packed).is_ok_and(|head| match head.version {
            codec::VersionHead::Owned(owner, ..) => {
                owner == peer && head.key_owner() == Some(peer) && head.table.is_of_readers()
            }
            codec::VersionHead::Shared(..) => matches!(head.table, Table::CERTIFICATE | Table::REVOKED),
        })
    }

    /// Readers this node passes everything on to: they are in no tree, each has its nearest observer for that.
    fn leaves(&self, but: NodeId) -> Vec<(NodeId, NodeId)> {
        let leaves = self.view.leaves().iter().copied();
        leaves.filter(|leaf| *leaf != but && self.is_linked(*leaf)).map(|leaf| (leaf, leaf)).collect()
    }

    /// Sends a row of this node down its tree. Returns the children that are asked to confirm.
    pub(super) fn broadcast(&mut self, now: Now, packed: &[u8], ack: u64) -> Vec<NodeId> {
        let me = self.setup.id;
        let sited = codec::head(packed).is_ok_and(|head| head.site.is_some());
        let site = self.setup.facts.site.clone();
        let arc = self.view.rings().arc(&site, me, me);
        let mut parts = ring::split(&arc, me, self.view.rings().fan(), |node| self.is_linked(node));
        if !sited {
            let rings = self.view.rings();
            for other in rings.sites().filter(|other| **other != site) {
                let gate = rings.gates(other, me).take(GATES).find(|gate| self.is_linked(*gate));
                parts.extend(gate.map(|gate| (gate, gate)));
            }
        }
        parts.extend(self.leaves(me));
        // Two confirmations are needed; a few more peers are asked, because one of them may be slow or gone.
        const ASKED: usize = 4;
        for (at, (child, until)) in parts.iter().enumerate() {
            self.queue_push(now, *child, *until, packed.to_vec(), if at < ASKED { ack } else { 0 });
        }
        parts.into_iter().take(ASKED).map(|(child, _)| child).collect()
    }

    fn queue_push(&mut self, now: Now, child: NodeId, until: NodeId, packed: Vec<u8>, ack: u64) {
        let Some(link) = self.links.get(&child) else { return };
        let bytes = packed.len() + 8;
        // A large row travels alone: together with what waits it could be more than a frame takes.
        if link.push_bytes > 0 && link.push_bytes + bytes > BATCH_MAX {
            self.flush_link(child);
        }
        let Some(link) = self.links.get_mut(&child) else { return };
        link.push_bytes += bytes;
        let part = link.pushes.entry(until).or_default();
        part.rows.push(packed);
        if ack > 0 {
            part.writes.push(ack);
        }
        link.flush_at.get_or_insert(now.ms + BATCH_MS);
        if link.push_bytes >= BATCH_MAX {
            self.flush_link(child);
        }
        self.count("payload_sends", 1);
    }

    fn flush_link(&mut self, peer: NodeId) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        link.flush_at = None;
        link.push_bytes = 0;
        for (until, Part { rows, writes }) in std::mem::take(&mut link.pushes) {
            let mut ack = 0;
            if !writes.is_empty() {
                self.next_ack += 1;
                ack = self.next_ack;
                if link.asked.len() >= ASKED_MAX {
                    link.asked.pop_first();
                }
                link.asked.insert(ack, writes);
            }
            self.out.push_back(Output::Send(peer, Message::Push { until, ack, rows }));
        }
    }

    pub(super) fn flush_pushes(&mut self, now: Now) {
        let due: Vec<NodeId> = self
            .links
            .iter()
            .filter(|(_, link)| link.flush_at.is_some_and(|at| now.ms >= at))
            .map(|(peer, _)| *peer)
            .collect();
        for peer in due {
            self.flush_link(peer);
        }
    }

    pub(super) fn send_root(&mut self, peer: NodeId) {
        let root = sync::root(self.replica.rows());
        self.count("repair_rounds", 1);
        self.send_linked(peer, root);
    }

    pub(super) fn ripple(&mut self) {
        let mut linked: Vec<NodeId> = self.linked().collect();
        for _ in 0..RIPPLE_LINKS {
            if linked.is_empty() {
                break;
            }
            let peer = linked.swap_remove(self.dice.index(linked.len()));
            self.send_root(peer);
        }
    }

    fn root_arrived(&mut self, now: Now, peer: NodeId, global: WireSum, site: WireSum, same_site: bool) {
        let rows = self.replica.rows();
        let Some(sums) = sync::on_root(rows, global, site, same_site) else {
            let changes = self.changes;
            if self.marks.len() >= MARKS_MAX && !self.marks.contains_key(&peer) {
                self.marks.pop_first();
            }
            self.marks.insert(peer, changes);
            if let Some(link) = self.links.get_mut(&peer) {
                link.catch_up = None;
            }
            return;
        };
        if u64::from(global.count) * 2 < rows.root().0.count.into() && same_site {
            self.welcome(peer);
        }
        // After a cut, what changed since both were equal is nearly always the whole difference: send that, then compare.
        let since = self.links.get_mut(&peer).and_then(|link| link.catch_up.take());
        if let Some(since) = since
            && let Some(positions) = self.changed_since(since)
        {
            let answers = sync::pack(
                self.replica.rows(),
                positions.into_iter().filter(|at| same_site || !Class::at(*at).sited()),
            );
            self.answer(peer, answers);
            self.send_root(peer);
            let _ = now;
            return;
        }
        self.out.push_back(Output::Send(peer, sums));
    }

    /// What changed here since a change, each position once; `None` when that is too long ago or too much.
    fn changed_since(&self, since: u64) -> Option<Vec<Position>> {
        let oldest = self.recent.front().map_or(self.changes + 1, |(change, _)| *change);
        if since + 1 < oldest {
            return None;
        }
        let mut positions: Vec<Position> =
            self.recent.iter().filter(|(change, _)| *change > since).map(|(_, at)| *at).collect();
        positions.sort_unstable();
        positions.dedup();
        (positions.len() <= CATCH_UP_MAX).then_some(positions)
    }

    /// Sends the hot rows to a peer that has just come.
    fn welcome(&mut self, peer: NodeId) {
        let hot = [Table::HEALTH, Table::SITE_SUMMARY];
        let rows = self.replica.rows();
        let positions: Vec<Position> =
            hot.iter().flat_map(|table| rows.table(*table).map(|(at, _)| at)).take(HOT_WELCOME_MAX).collect();
        let answers = sync::pack(rows, positions.into_iter());
        self.answer(peer, answers);
    }

    pub(super) fn republish_hot(&mut self, now: Now) {
        let me = self.setup.id;
        let hot = [Table::HEALTH, Table::SITE_SUMMARY];
        let own: Vec<Vec<u8>> = hot
            .iter()
            .flat_map(|table| self.replica.rows().table(*table))
            .filter(|(_, head)| matches!(head.version, codec::VersionHead::Owned(owner, ..) if owner == me))
            .filter_map(|(at, _)| self.replica.rows().packed(at).map(<[u8]>::to_vec))
            .collect();
        for packed in own {
            self.broadcast(now, &packed, 0);
        }
    }
}
