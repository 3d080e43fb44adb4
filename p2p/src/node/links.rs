//! Standing links: hello, heartbeats, dials, floods. In: connections, hellos, heartbeats. Out: hellos, heartbeats, dials,
//! hang-ups. What travels on an admitted link is decided elsewhere.

use std::collections::BTreeMap;

use super::{CLOCK_ALARM_MS, CLONE_BUMPS, CLONE_WINDOW_MS, EPOCH_STEP_MAX, Node, Now, Output, PARTING_MS};
use crate::admission::{Certificate, check_chain};
use crate::id::NodeId;
use crate::membership::Liveness;
use crate::table::row::Version;
use crate::table::{Key, Table, codec, rows};
use crate::wire::{Beat, Hello, Message};

/// First wait after a failed dial; doubles up to [`DIAL_MAX_MS`].
pub const DIAL_MIN_MS: u64 = 500;
/// Longest wait between dials: a healed cut is found within it.
pub const DIAL_MAX_MS: u64 = 1_600;
/// The node with the greater id leaves the first dial to the other.
pub const DIAL_COURTESY_MS: u64 = 1_500;
/// A link without a hello for this long is closed.
pub const HELLO_MS: u64 = 3_000;
/// Malformed messages after which a peer is hung up on: one is a bug, many are a broken build or worse.
pub const BAD_MAX: u32 = 8;
/// Messages a second from one peer beyond which it is hung up on: a thousand nodes at full write rate stay far below.
pub const FLOOD_MAX: u32 = 20_000;
/// Heartbeats between two measurements of round trip and clock, once they are known.
pub const MEASURE_EVERY: u64 = 16;
/// Recent changes remembered for peers that come back after a cut.
pub const RECENT_MAX: usize = 8_192;
/// Peers for which it is remembered up to where both were equal.
pub const MARKS_MAX: usize = 256;

/// Silence after which the link of a peer that is missed by its observers is closed.
pub const SILENT_MS: u64 = 3_000;
/// Messages kept for a moment when they overtake the hello.
pub const EARLY_MAX: usize = 32;

/// Hellos of one link that are answered although it stands already: two ends that both think so must not greet for ever.
pub const GREETED_MAX: u8 = 3;

/// Pushes of one link that may wait for their confirmation; the oldest are given up, and their writers say `local`.
pub const ASKED_MAX: usize = 4_096;

/// Rows of one part of the tree that wait to be pushed, and the writes to confirm with them.
#[derive(Debug, Clone, Default)]
pub struct Part {
    pub(super) rows: Vec<Vec<u8>>,
    pub(super) writes: Vec<u64>,
}

/// One standing connection to a peer.
#[derive(Debug, Clone, Default)]
pub struct Link {
    /// Whether the peer has shown a certificate of this cluster.
    pub admitted: bool,
    /// Whether both are of one site.
    pub same_site: bool,
    pub(super) since_ms: u64,
    pub(super) heard_ms: u64,
    pub(super) instance: u64,
    /// How often it had started when it said hello: known before its row arrives.
    pub(super) epoch: u64,
    /// The process that held this key before, and our wall clock when another said hello under it.
    pub(super) former: Option<(u64, u64)>,
    pub(super) their_ms: Option<(u64, u64)>,
    pub(super) rtt_ms: Option<u64>,
    pub(super) offset_ms: Option<i64>,
    pub(super) pushes: BTreeMap<NodeId, Part>,
    pub(super) push_bytes: usize,
    /// Writes whose confirmation each push asked for.
    pub(super) asked: BTreeMap<u64, Vec<u64>>,
    pub(super) flush_at: Option<u64>,
    /// After a reconnect: from which change on the peer may lack rows, until that was tried.
    pub(super) catch_up: Option<u64>,
    /// What came before the peer's hello, which travels on another stream.
    pub(super) early: Vec<Message>,
    /// Hellos that came although this one stood: each was answered.
    greeted: u8,
    bad: u32,
    window_ms: u64,
    window: u32,
}

/// When to dial a peer next.
#[derive(Debug, Clone, Copy, Default)]
pub struct Try {
    at_ms: u64,
    wait_ms: u64,
}

/// The half of an instance that heartbeats carry.
fn short(instance: u64) -> u32 {
    u32::try_from(instance & u64::from(u32::MAX)).expect("32 bits are left")
}

impl Node {
    pub(super) fn connected(&mut self, now: Now, peer: NodeId) {
        if self.replica.is_evicted(peer) {
            // It may not have heard: this node shows who it is, so that the revocation is believed, and hangs up.
            self.say_hello(peer);
            self.tell_evicted(now, peer);
            return;
        }
        if self.cloned.get(&peer).is_some_and(|until| now.ms < *until) {
            self.out.push_back(Output::Hangup(peer, "its key is in use on two machines".into()));
            return;
        }
        self.links.insert(peer, Link { since_ms: now.ms, heard_ms: now.ms, ..Link::default() });
        self.say_hello(peer);
    }

    fn say_hello(&mut self, peer: NodeId) {
        let hello = Hello {
            cluster: self.setup.cluster,
            chain: self.setup.chain.clone(),
            instance: self.setup.facts.instance,
            epoch: self.replica.epoch(),
            your_epoch: self.epoch_of(peer),
            site: self.setup.facts.site.clone(),
            level: self.setup.facts.level,
        };
        self.out.push_back(Output::Send(peer, Message::Hello(hello)));
    }

    /// Sends an evicted peer the row that says so, and closes its connection a moment later. Whatever it says is not heard.
    pub(super) fn tell_evicted(&mut self, now: Now, peer: NodeId) {
        let key = Key::global(Table::REVOKED, peer.to_string());
        if let Some(packed) = self.replica.rows().packed(rows::position(&key)).map(<[u8]>::to_vec) {
            self.out.push_back(Output::Send(peer, Message::Rows(vec![packed])));
        }
        self.parting.insert(peer, now.ms + PARTING_MS);
    }

    /// Closes the connections of evicted peers that have had time to hear of it.
    pub(super) fn part(&mut self, now: Now) {
        let due: Vec<NodeId> = self.parting.iter().filter(|(_, at)| now.ms >= **at).map(|(peer, _)| *peer).collect();
        for peer in due {
            self.parting.remove(&peer);
            self.out.push_back(Output::Hangup(peer, "it was evicted or left".into()));
        }
    }

    pub(super) fn disconnected(&mut self, now: Now, peer: NodeId) {
        if self.links.remove(&peer).is_none() {
            return;
        }
        for pending in self.writes.values_mut() {
            pending.awaited.remove(&peer);
        }
        // A closed connection is a hint, never a verdict: look at once.
        self.tries.insert(peer, Try { at_ms: now.ms, wait_ms: DIAL_MIN_MS });
        self.keep_links(now);
    }

    fn epoch_of(&self, node: NodeId) -> u64 {
        match self.replica.rows().get(&Key::owned(Table::NODE, node, "")).map(|row| row.version) {
            Some(Version::Owned { epoch, .. }) => epoch,
            _ => 0,
        }
    }

    pub(super) fn hello(&mut self, now: Now, peer: NodeId, hello: Hello) {
        if !self.links.contains_key(&peer) {
            return;
        }
        let refuse = |reason: String| Output::Hangup(peer, reason);
        let chain: Result<Vec<Certificate>, _> =
            hello.chain.iter().map(|bytes| Certificate::from_bytes(bytes)).collect();
        let checked = chain.and_then(|chain| {
            let leaf = check_chain(&chain, self.setup.cluster, self.setup.verify)?.clone();
            if hello.cluster != self.setup.cluster {
                return Err(crate::admission::AdmissionError::ForeignCluster {
                    theirs: hello.cluster,
                    ours: self.setup.cluster,
                });
            }
            if leaf.node() != peer {
                return Err(crate::admission::AdmissionError::NotYours { subject: leaf.node(), peer });
            }
            // Whoever was evicted admits nobody any more: what it signed before is in the table, and nothing else counts.
            for certificate in &chain {
                let issuer = NodeId::of_key(&certificate.issuer);
                if self.replica.is_evicted(certificate.node()) && certificate.node() == peer {
                    return Err(crate::admission::AdmissionError::Revoked(peer));
                }
                if self.replica.is_evicted(issuer) && self.certificate(certificate.node()).as_ref() != Some(certificate)
                {
                    return Err(crate::admission::AdmissionError::IssuerRevoked {
                        subject: certificate.node(),
                        issuer,
                    });
                }
            }
            Ok(leaf)
        });
        let ahead = hello.your_epoch > self.replica.epoch().saturating_add(EPOCH_STEP_MAX);
        let leaf = match checked {
            Ok(_) if ahead || hello.epoch > codec::EPOCH_MAX => {
                let why = format!("node {peer} speaks of start number {}, which nobody reaches", hello.your_epoch);
                self.out.push_back(refuse(why.clone()));
                self.alarm(now, "admission", why);
                self.links.remove(&peer);
                return;
            }
            Ok(leaf) => leaf,
            Err(error) => {
                self.out.push_back(refuse(error.to_string()));
                self.alarm(now, "admission", format!("refused {peer}: {error}"));
                self.links.remove(&peer);
                return;
            }
        };
        let Some(link) = self.links.get_mut(&peer) else { return };
        let anew = link.admitted && link.instance != hello.instance;
        // Its end of the link is new, and may be waiting for a hello that went on the former one.
        let again = link.admitted && link.instance == hello.instance && link.greeted < GREETED_MAX;
        link.greeted += u8::from(again);
        if anew {
            link.former = Some((link.instance, now.wall_ms));
        }
        link.admitted = true;
        link.instance = hello.instance;
        link.epoch = hello.epoch;
        link.same_site = hello.site == self.setup.facts.site;
        link.catch_up = self.marks.get(&peer).copied();
        self.tries.remove(&peer);
        self.roles.insert(peer, leaf.role);
        if hello.your_epoch > self.replica.epoch() {
            self.bump(now, hello.your_epoch, false);
        }
        if let Some((subject, verdict, of)) = self.view.heard(peer, now.ms) {
            self.say(now, subject, verdict, of);
        }
        let early = self.links.get_mut(&peer).map(|link| std::mem::take(&mut link.early)).unwrap_or_default();
        if again {
            self.say_hello(peer);
        }
        self.send_root(peer);
        self.send_beat(now, peer, true);
        if anew {
            // Does the process before it still answer? Then two run at once.
            self.send_linked(peer, Message::Ask);
        }
        for message in early {
            self.message(now, peer, message);
        }
    }

    /// A peer knows a later epoch of this node than this node itself: a restored disk, or the same key elsewhere.
    pub(super) fn bump(&mut self, now: Now, seen: u64, elsewhere: bool) {
        while self.bumps.front().is_some_and(|at| at + CLONE_WINDOW_MS < now.ms) {
            self.bumps.pop_front();
        }
        if elsewhere {
            self.bumps.push_back(now.ms);
        }
        if self.bumps.len() >= CLONE_BUMPS {
            let why = "this node's key is in use on another machine at the same time; give one of them a new identity (remove its mesh folder and join again) and evict this one";
            self.expel(now, "cloned-key", why.to_owned());
            return;
        }
        let epoch = seen + 1;
        self.replica.enter_epoch(epoch);
        self.out.push_back(Output::Epoch(epoch));
        self.refute = true;
    }

    pub(super) fn beat_arrived(&mut self, now: Now, peer: NodeId, beat: Beat) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        // What the former process sent before it died may come late; an echo of what we said since cannot.
        let lives = |(former, since): (u64, u64)| beat.instance == short(former) && beat.echo_ms >= since;
        if beat.echo_ms > 0 && link.former.is_some_and(lives) {
            let why = format!(
                "the key of node {peer} is in use on two machines at once; refused on both; evict it and join again with a new identity"
            );
            self.alarm(now, "cloned-key", why.clone());
            self.links.remove(&peer);
            self.tries.insert(peer, Try { at_ms: now.ms + CLONE_WINDOW_MS, wait_ms: DIAL_MAX_MS });
            if self.cloned.len() >= MARKS_MAX {
                self.cloned.pop_first();
            }
            self.cloned.insert(peer, now.ms + CLONE_WINDOW_MS);
            self.out.push_back(Output::Hangup(peer, why));
            return;
        }
        if beat.sent_ms > 0 {
            link.their_ms = Some((beat.sent_ms, now.ms));
        }
        if beat.echo_ms > 0 && beat.sent_ms > 0 {
            let rtt = now.wall_ms.saturating_sub(beat.echo_ms).saturating_sub(beat.held_ms);
            // The least of recent round trips is the distance; queues only add.
            link.rtt_ms = Some(link.rtt_ms.map_or(rtt, |old| rtt.min(old + old / 16 + 1)));
            let offset = i64::try_from(beat.sent_ms + rtt / 2).unwrap_or(i64::MAX)
                - i64::try_from(now.wall_ms).unwrap_or(i64::MAX);
            link.offset_ms = Some(offset);
            if offset.abs() > CLOCK_ALARM_MS {
                let far = offset.unsigned_abs() / 10_000 * 10;
                self.alarm(now, "clock", format!("the clock of node {peer} differs by about {far} s; writes at the same time resolve by it: set it right"));
            }
        }
    }

    pub(super) fn beat(&mut self, now: Now) {
        self.beat_at = now.ms + self.view.beat_ms();
        let beats = self.counters.entry("beats").or_default();
        *beats += 1;
        let measure = *beats % MEASURE_EVERY < 2;
        let observers = self.view.observers().to_vec();
        // Whatever is said is heard as a heartbeat too: most checks of repair take the place of one. The others go to any link,
        // so that far ones are compared as well.
        let due = !measure && now.ms + self.view.beat_ms() / 2 >= self.repair_at && self.dice.below(4) > 0;
        let checked = due.then(|| self.dice.index(observers.len().max(1)));
        let checked = checked.and_then(|at| observers.get(at).copied()).filter(|peer| self.is_linked(*peer));
        for peer in observers {
            if Some(peer) == checked {
                self.send_root(peer);
                self.repair_at = self.next_repair(now);
            } else {
                self.send_beat(now, peer, measure);
            }
        }
        // Links nobody has shown a certificate on are closed; so are those of peers that only dialled.
        let silent: Vec<NodeId> = self
            .links
            .iter()
            .filter(|(_, link)| !link.admitted && now.ms > link.since_ms + HELLO_MS)
            .map(|(peer, _)| *peer)
            .collect();
        for peer in silent {
            self.links.remove(&peer);
            self.out.push_back(Output::Hangup(peer, "it showed no certificate in time".into()));
        }
    }

    pub(super) fn send_beat(&mut self, now: Now, peer: NodeId, measure: bool) {
        let epoch = self.replica.epoch();
        let seq = self.view.peers().get(&self.setup.id).map_or(0, |me| me.incarnation.1);
        let Some(link) = self.links.get(&peer).filter(|link| link.admitted) else { return };
        if !measure && link.rtt_ms.is_some() {
            self.out.push_back(Output::Send(peer, Message::Alive));
            return;
        }
        let instance = short(self.setup.facts.instance);
        let mut beat = Beat { instance, epoch, seq, sent_ms: now.wall_ms, ..Beat::default() };
        if let Some((theirs, at)) = link.their_ms {
            beat.echo_ms = theirs;
            beat.held_ms = now.ms.saturating_sub(at);
        }
        self.out.push_back(Output::Send(peer, Message::Beat(beat)));
    }

    pub(super) fn send_linked(&mut self, peer: NodeId, message: Message) {
        if self.is_linked(peer) {
            self.out.push_back(Output::Send(peer, message));
        }
    }

    pub(super) fn bad(&mut self, now: Now, peer: NodeId, reason: &str) {
        self.count("bad_messages", 1);
        self.alarm(now, "bad-message", format!("node {peer} sent {reason}"));
        let Some(link) = self.links.get_mut(&peer) else { return };
        link.bad += 1;
        if link.bad >= BAD_MAX {
            self.links.remove(&peer);
            self.out.push_back(Output::Hangup(peer, format!("it sends what is no message: {reason}")));
        }
    }

    /// Whether this peer sends more than anybody needs to.
    pub(super) fn floods(&mut self, now: Now, peer: NodeId) -> bool {
        let Some(link) = self.links.get_mut(&peer) else { return false };
        if now.ms >= link.window_ms + 1_000 {
            (link.window_ms, link.window) = (now.ms, 0);
        }
        link.window += 1;
        if link.window <= FLOOD_MAX {
            return false;
        }
        self.links.remove(&peer);
        self.tries.insert(peer, Try { at_ms: now.ms + CLONE_WINDOW_MS, wait_ms: DIAL_MAX_MS });
        self.alarm(
            now,
            "flood",
            format!("node {peer} sends more than {FLOOD_MAX} messages a second; hung up for a minute"),
        );
        self.out.push_back(Output::Hangup(peer, "it floods".into()));
        true
    }

    /// Dials whom this node should have a link to and has not.
    pub(super) fn keep_links(&mut self, now: Now) {
        let me = self.setup.id;
        let mut wanted = self.view.rings().links(me, &self.setup.facts.site);
        wanted.extend(self.view.subjects());
        wanted.extend(self.view.observers());
        wanted.sort_unstable();
        wanted.dedup();
        for peer in wanted {
            if peer == me || self.links.contains_key(&peer) || self.replica.is_evicted(peer) {
                continue;
            }
            let courtesy = if me > peer { DIAL_COURTESY_MS } else { 0 };
            let next = *self.tries.entry(peer).or_insert(Try { at_ms: now.ms + courtesy, wait_ms: DIAL_MIN_MS });
            if now.ms < next.at_ms {
                continue;
            }
            let jitter = self.dice.below(next.wait_ms / 4 + 1);
            let wait_ms = (next.wait_ms * 2).min(DIAL_MAX_MS);
            self.tries.insert(peer, Try { at_ms: now.ms + next.wait_ms + jitter, wait_ms });
            let addresses = self.facts(peer).map(|facts| facts.addresses.clone()).unwrap_or_default();
            self.count("dials", 1);
            self.out.push_back(Output::Dial(peer, addresses));
        }
        if self.tries.len() > 4 * MARKS_MAX {
            self.tries.retain(|_, next| next.at_ms + CLONE_WINDOW_MS > now.ms);
        }
    }

    /// Closes a link that has said nothing for long: after a cut, TCP itself would try again only minutes later.
    pub(super) fn drop_silent(&mut self, now: Now, peer: NodeId) {
        let silent = self.links.get(&peer).is_some_and(|link| now.ms > link.heard_ms + SILENT_MS);
        if silent {
            self.out.push_back(Output::Hangup(peer, "it has been silent for too long".into()));
            self.disconnected(now, peer);
        }
    }

    /// What this node tells its users about a change of liveness.
    pub(super) fn turned(&mut self, now: Now, turned: crate::membership::view::Turned) {
        self.out.push_back(Output::Turned(turned.node, turned.to));
        match turned.to {
            Liveness::Down => {
                self.count("downs", 1);
                self.drop_silent(now, turned.node);
            }
            Liveness::Alive if turned.from == Liveness::Down => self.count("returns", 1),
            _ => {}
        }
        if turned.brake {
            self.alarm(now, "mass-failure", "many nodes turned down within 30 s; re-placement of existing slots is slowed until it is clear what happened".into());
        }
    }
}
