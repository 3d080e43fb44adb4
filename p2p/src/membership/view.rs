//! The membership core: observation, verdict rows, liveness. In: node rows, watch rows, heartbeats, time. Out: verdicts to
//! write, changes of liveness. It sends nothing itself and reads no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::brake::Brake;
use super::ring::{OBSERVERS, Rings};
use super::{Liveness, Role};
use crate::id::NodeId;
use crate::table::codec::{Reader, put_varint};
use crate::table::row::Body;

/// How often the core looks; also the finest time it judges by.
pub const TICK_MS: u64 = 500;
/// How often a node tells each of four observers that it lives: four messages a second in all. With fewer observers each
/// hears more often, so that the messages stay as many.
pub const BEAT_MS: u64 = 1_000;
/// The shortest period of heartbeats: with one or two observers.
pub const BEAT_MS_MIN: u64 = 500;
/// Silence beyond one heartbeat period after which an observer asks for a heartbeat: one was lost, or the rings differ for a
/// moment.
pub const ASK_AFTER_MS: u64 = 900;
/// Silence beyond one heartbeat period after which an observer says Suspect.
pub const SUSPECT_AFTER_MS: u64 = 1_500;
/// Silence beyond one heartbeat period after which an observer says Missing: a stall of three seconds passes it by.
pub const MISSING_AFTER_MS: u64 = 3_300;
/// The same when the peer's host answers that nobody listens: the process is gone, not slow.
pub const REFUSED_AFTER_MS: u64 = 2_000;
/// A tick this late means that this process stalled, and its silence is its own.
pub const STALL_MS: u64 = 2 * TICK_MS;

/// What a node says of itself in its row of the table `node`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Its name.
    pub name: String,
    /// Its site.
    pub site: String,
    /// Its public key, as hex.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// Where to dial it, the best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Labels it was started with.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Random name of this start.
    #[serde(default)]
    pub instance: u64,
    /// The program's version.
    #[serde(default)]
    pub version: String,
    /// The feature level it speaks.
    #[serde(default)]
    pub level: u16,
    /// Fields of newer builds.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

/// (epoch, sequence) of a node row: what a verdict is about.
pub type Incarnation = (u64, u64);

/// What an observer says of its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It answers.
    Fine,
    /// It has been silent for a while.
    Suspect,
    /// It has been silent for longer than a stall explains.
    Missing,
}

/// The body of a watch row.
#[must_use]
pub fn watch_body(verdict: Verdict, of: Incarnation) -> Body {
    let mut out = vec![verdict as u8];
    put_varint(&mut out, of.0);
    put_varint(&mut out, of.1);
    Body(out)
}

/// Reads a watch row's body.
#[must_use]
pub fn read_watch(body: &[u8]) -> Option<(Verdict, Incarnation)> {
    let mut reader = Reader::new(body);
    let verdict = match reader.byte().ok()? {
        0 => Verdict::Fine,
        1 => Verdict::Suspect,
        2 => Verdict::Missing,
        _ => return None,
    };
    Some((verdict, (reader.varint().ok()?, reader.varint().ok()?)))
}

/// What is known of a member.
#[derive(Debug, Clone)]
pub struct Peer {
    /// What it says of itself.
    pub facts: Arc<Facts>,
    /// Of which node row.
    pub incarnation: Incarnation,
    /// What it may do.
    pub role: Role,
    /// What is believed of it.
    pub liveness: Liveness,
    /// Since when, by this node's wall clock.
    pub since_ms: u64,
    votes: BTreeMap<NodeId, (Verdict, Incarnation)>,
}

impl Peer {
    fn valid(&self, vote: &(Verdict, Incarnation)) -> bool {
        vote.0 > Verdict::Fine && vote.1 >= self.incarnation
    }

    /// Who says that it is silent.
    pub fn accusers(&self) -> impl Iterator<Item = (NodeId, Verdict)> + '_ {
        self.votes.iter().filter(|(_, vote)| self.valid(vote)).map(|(who, vote)| (*who, vote.0))
    }
}

#[derive(Debug, Clone, Copy)]
struct Watched {
    heard_ms: u64,
    /// How often it sends heartbeats.
    beat_ms: u64,
    refused: bool,
    said: Verdict,
}

impl Watched {
    /// Silence after which to ask, to suspect, to miss.
    fn limits(&self) -> [u64; 3] {
        let missing = self.beat_ms + MISSING_AFTER_MS;
        let missing = if self.refused { missing.min(REFUSED_AFTER_MS) } else { missing };
        [self.beat_ms + ASK_AFTER_MS, (self.beat_ms + SUSPECT_AFTER_MS).min(missing), missing]
    }
}

/// The period of a node's heartbeats, from the number of its observers.
#[must_use]
pub fn beat_ms(observers: usize) -> u64 {
    (BEAT_MS * observers as u64 / OBSERVERS as u64).clamp(BEAT_MS_MIN, BEAT_MS)
}

/// What a tick wants done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Verdicts to write: (subject, verdict, of which incarnation).
    pub write: Vec<(NodeId, Verdict, Incarnation)>,
    /// Subjects to ask for a heartbeat.
    pub ask: Vec<NodeId>,
    /// This node's own timer was late: it judged nobody.
    pub stalled: bool,
}

/// A change of liveness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turned {
    /// Who.
    pub node: NodeId,
    /// What was believed.
    pub from: Liveness,
    /// What is believed now.
    pub to: Liveness,
    /// Whether this failure pulled the mass-failure brake.
    pub brake: bool,
}

/// The membership as one node sees it.
#[derive(Debug, Clone)]
pub struct View {
    me: NodeId,
    my_site: String,
    peers: BTreeMap<NodeId, Peer>,
    rings: Rings,
    rings_stale: bool,
    observers: Vec<NodeId>,
    leaves: Vec<NodeId>,
    watched: BTreeMap<NodeId, Watched>,
    due_ms: Option<u64>,
    /// A dial was refused since the last tick: what that shortens is looked at now.
    hurry: bool,
    brake: Brake,
    accused: BTreeSet<NodeId>,
}

impl View {
    /// The view of node `me` of `site`, which knows nobody yet.
    #[must_use]
    pub fn new(me: NodeId, site: String) -> Self {
        Self {
            me,
            my_site: site,
            peers: BTreeMap::new(),
            rings: Rings::default(),
            rings_stale: true,
            observers: Vec::new(),
            leaves: Vec::new(),
            watched: BTreeMap::new(),
            due_ms: None,
            hurry: false,
            brake: Brake::default(),
            accused: BTreeSet::new(),
        }
    }

    /// Every member that was not removed.
    #[must_use]
    pub fn peers(&self) -> &BTreeMap<NodeId, Peer> {
        &self.peers
    }

    /// The rings of those that are not down.
    #[must_use]
    pub fn rings(&self) -> &Rings {
        &self.rings
    }

    /// This node's observers: whom it sends heartbeats.
    #[must_use]
    pub fn observers(&self) -> &[NodeId] {
        &self.observers
    }

    /// The readers whose nearest observer this node is: it passes rows on to them, since readers are in no ring.
    #[must_use]
    pub fn leaves(&self) -> &[NodeId] {
        &self.leaves
    }

    /// Whom this node observes.
    pub fn subjects(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.watched.keys().copied()
    }

    /// What is believed of a node; `None` when it is no member.
    #[must_use]
    pub fn liveness(&self, node: NodeId) -> Option<Liveness> {
        self.peers.get(&node).map(|peer| peer.liveness)
    }

    /// Whether a node is a member and not down.
    #[must_use]
    pub fn is_up(&self, node: NodeId) -> bool {
        self.liveness(node).is_some_and(|liveness| liveness < Liveness::Down)
    }

    /// The lowest feature level of the members.
    #[must_use]
    pub fn level(&self) -> u16 {
        self.peers.values().map(|peer| peer.facts.level).min().unwrap_or(1)
    }

    /// Since when the mass-failure brake holds.
    pub fn brake(&mut self, wall_ms: u64) -> Option<u64> {
        self.brake.since(wall_ms)
    }

    /// A node row stands. Returns a change of liveness when it refutes verdicts.
    pub fn set_facts(
        &mut self,
        node: NodeId,
        facts: Facts,
        role: Role,
        incarnation: Incarnation,
        wall_ms: u64,
    ) -> Option<Turned> {
        match self.peers.get_mut(&node) {
            Some(peer) => {
                self.rings_stale |= peer.facts.site != facts.site || peer.role != role;
                peer.facts = Arc::new(facts);
                peer.role = role;
                peer.incarnation = peer.incarnation.max(incarnation);
            }
            None => {
                self.rings_stale = true;
                let peer = Peer {
                    facts: Arc::new(facts),
                    incarnation,
                    role,
                    liveness: Liveness::Alive,
                    since_ms: wall_ms,
                    votes: BTreeMap::new(),
                };
                self.peers.insert(node, peer);
            }
        }
        self.evaluate(node, wall_ms)
    }

    /// A member's certificate came after its row, or changed.
    pub fn set_role(&mut self, node: NodeId, role: Role) {
        if let Some(peer) = self.peers.get_mut(&node) {
            self.rings_stale |= peer.role != role;
            peer.role = role;
        }
    }

    /// A watch row stands. Returns a change of liveness, and whether the verdict is about this node and wants refuting.
    pub fn set_watch(
        &mut self,
        observer: NodeId,
        subject: NodeId,
        verdict: Verdict,
        of: Incarnation,
        wall_ms: u64,
    ) -> (Option<Turned>, bool) {
        let Some(peer) = self.peers.get_mut(&subject) else { return (None, false) };
        peer.votes.insert(observer, (verdict, of));
        if subject == self.me {
            return (None, peer.valid(&(verdict, of)));
        }
        (self.evaluate(subject, wall_ms), false)
    }

    /// A node left or was evicted.
    pub fn remove(&mut self, node: NodeId) -> Option<Turned> {
        let peer = self.peers.remove(&node)?;
        for other in self.peers.values_mut() {
            other.votes.remove(&node);
        }
        self.accused.remove(&node);
        self.watched.remove(&node);
        self.rings_stale = true;
        Some(Turned { node, from: peer.liveness, to: Liveness::Left, brake: false })
    }

    /// A heartbeat (or any message) of a node arrived. Returns a verdict to withdraw.
    pub fn heard(&mut self, node: NodeId, now_ms: u64) -> Option<(NodeId, Verdict, Incarnation)> {
        let watched = self.watched.get_mut(&node)?;
        watched.heard_ms = now_ms;
        watched.refused = false;
        if watched.said == Verdict::Fine {
            return None;
        }
        watched.said = Verdict::Fine;
        Some((node, Verdict::Fine, self.peers.get(&node)?.incarnation))
    }

    /// Dialling a node was refused by its host.
    pub fn refused(&mut self, node: NodeId) {
        if let Some(watched) = self.watched.get_mut(&node) {
            self.hurry |= !watched.refused;
            watched.refused = true;
        }
    }

    /// How often this node sends heartbeats.
    #[must_use]
    pub fn beat_ms(&self) -> u64 {
        beat_ms(self.observers.len())
    }

    /// When the next tick is due.
    #[must_use]
    pub fn due_ms(&self) -> Option<u64> {
        self.due_ms.filter(|_| !self.hurry)
    }

    /// Looks at whom this node observes.
    pub fn tick(&mut self, now_ms: u64) -> Judgement {
        let late = self.due_ms.map_or(0, |due| now_ms.saturating_sub(due));
        self.due_ms = Some(now_ms + TICK_MS);
        self.hurry = false;
        self.refresh(now_ms);
        let mut judgement = Judgement { stalled: late > STALL_MS, ..Judgement::default() };
        if judgement.stalled {
            // The silence may be ours: everybody gets the full time again, and is asked.
            for (node, watched) in &mut self.watched {
                watched.heard_ms = now_ms;
                watched.refused = false;
                judgement.ask.push(*node);
            }
            return judgement;
        }
        let mut due_ms = now_ms + TICK_MS;
        for (node, watched) in &mut self.watched {
            let silent = now_ms.saturating_sub(watched.heard_ms);
            let [ask, suspect, missing] = watched.limits();
            let verdict = if silent >= missing {
                Verdict::Missing
            } else if silent >= suspect {
                Verdict::Suspect
            } else {
                Verdict::Fine
            };
            if silent >= ask {
                judgement.ask.push(*node);
            }
            if verdict > watched.said {
                watched.said = verdict;
                if let Some(peer) = self.peers.get(node) {
                    judgement.write.push((*node, verdict, peer.incarnation));
                }
            }
            // The next verdict comes when it is due, not at the next round.
            let next = [suspect, missing].into_iter().find(|limit| *limit > silent);
            due_ms = due_ms.min(next.map_or(u64::MAX, |limit| watched.heard_ms + limit));
        }
        self.due_ms = Some(due_ms);
        judgement
    }

    /// A verdict this node wrote was refuted by a newer node row: it has to be found anew.
    fn unsay(&mut self, node: NodeId) {
        if let Some(watched) = self.watched.get_mut(&node) {
            watched.said = Verdict::Fine;
        }
    }

    /// Builds the rings anew if members came, went, died or came back.
    pub fn refresh(&mut self, now_ms: u64) -> bool {
        if !std::mem::take(&mut self.rings_stale) {
            return false;
        }
        self.rings = Rings::new(
            self.peers
                .iter()
                .filter(|(node, peer)| peer.liveness < Liveness::Down || **node == self.me)
                // Readers neither pass rows on nor judge others; they are observed like everybody.
                .filter(|(_, peer)| peer.role != Role::Reader)
                .map(|(node, peer)| (*node, peer.facts.site.as_str())),
        );
        self.observers = self.rings.observers(self.me, &self.my_site);
        let mut watched = BTreeMap::new();
        self.leaves.clear();
        for (node, peer) in &self.peers {
            let observers = self.rings.observers(*node, &peer.facts.site);
            if peer.role == Role::Reader && peer.liveness < Liveness::Down && observers.first() == Some(&self.me) {
                self.leaves.push(*node);
            }
            if *node != self.me && observers.contains(&self.me) {
                let beat_ms = beat_ms(observers.len());
                let fresh = Watched { heard_ms: now_ms, beat_ms, refused: false, said: Verdict::Fine };
                let before = self.watched.get(node).copied().unwrap_or(fresh);
                watched.insert(*node, Watched { beat_ms, ..before });
            }
        }
        self.watched = watched;
        true
    }

    /// What to believe of a node, from the verdicts about it.
    fn evaluate(&mut self, node: NodeId, wall_ms: u64) -> Option<Turned> {
        let peer = self.peers.get(&node)?;
        let before = peer.liveness;
        if node == self.me {
            return None;
        }
        let accusers: Vec<(NodeId, Verdict)> = peer.accusers().collect();
        if accusers.is_empty() {
            self.accused.remove(&node);
        } else {
            self.accused.insert(node);
        }
        let after = if accusers.is_empty() {
            Liveness::Alive
        } else if before == Liveness::Down || self.is_lost(node, &peer.facts.site, &accusers) {
            Liveness::Down
        } else if self.is_suspect(node, &peer.facts.site, &accusers) {
            Liveness::Suspect
        } else {
            Liveness::Alive
        };
        if after == before {
            return None;
        }
        let site = peer.facts.site.clone();
        let peer = self.peers.get_mut(&node)?;
        (peer.liveness, peer.since_ms) = (after, wall_ms);
        self.rings_stale |= (before == Liveness::Down) != (after == Liveness::Down);
        let mut brake = false;
        if after == Liveness::Down {
            let in_site = self.peers.values().filter(|peer| peer.facts.site == site).count();
            brake = self.brake.down(wall_ms, &site, in_site, self.peers.len());
        } else if before == Liveness::Down {
            self.brake.up(&site);
        }
        if after == Liveness::Alive && accusers.is_empty() {
            self.unsay(node);
        }
        Some(Turned { node, from: before, to: after, brake })
    }

    /// Three of four observers say Missing, or all of them that live.
    fn is_lost(&self, node: NodeId, site: &str, accusers: &[(NodeId, Verdict)]) -> bool {
        let observers = self.rings.observers(node, site);
        let says =
            |observer: &NodeId| accusers.iter().any(|(who, verdict)| who == observer && *verdict == Verdict::Missing);
        let votes = observers.iter().filter(|observer| says(observer)).count();
        votes >= 3 || (votes > 0 && observers.iter().filter(|observer| self.counts(**observer)).all(says))
    }

    /// Whether an observer's silence about another counts for it: not while somebody misses the observer itself. Behind a cut
    /// into halves nobody waits for what the other half would say.
    fn counts(&self, observer: NodeId) -> bool {
        observer == self.me || (self.liveness(observer) == Some(Liveness::Alive) && !self.accused.contains(&observer))
    }

    /// More than half of its live observers miss it, or this node itself does: one that alone cannot reach it (a cable between
    /// the two) takes it out of nobody's routes but its own.
    fn is_suspect(&self, node: NodeId, site: &str, accusers: &[(NodeId, Verdict)]) -> bool {
        let says = |observer: &NodeId| accusers.iter().any(|(who, _)| who == observer);
        if says(&self.me) {
            return true;
        }
        let observers = self.rings.observers(node, site);
        let say = observers.iter().filter(|observer| says(observer)).count();
        let do_not = observers.iter().filter(|observer| !says(observer) && self.counts(**observer)).count();
        say > do_not
    }

    /// Looks again at everybody under a verdict: observers may have died or changed since.
    pub fn reconsider(&mut self, wall_ms: u64) -> Vec<Turned> {
        let accused: Vec<NodeId> = self.accused.iter().copied().collect();
        accused.into_iter().filter_map(|node| self.evaluate(node, wall_ms)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(site: &str) -> Facts {
        Facts {
            name: "n".into(),
            site: site.into(),
            key: String::new(),
            addresses: vec![],
            labels: BTreeMap::new(),
            instance: 0,
            version: String::new(),
            level: 1,
            other: serde_json::Map::new(),
        }
    }

    fn view(nodes: u64) -> View {
        let mut view = View::new(NodeId(0), "a".into());
        for n in 0..nodes {
            view.set_facts(NodeId(n), facts("a"), Role::Member, (1, 1), 0);
        }
        view.tick(0);
        view
    }

    #[test]
    fn silence_is_suspected_then_missed_and_a_heartbeat_takes_it_back() {
        // One observer or two hear a node twice a second, four once: the verdicts follow.
        for (nodes, verdicts) in [
            (2, [(2_000, Verdict::Suspect), (3_800, Verdict::Missing)]),
            (3, [(2_000, Verdict::Suspect), (3_800, Verdict::Missing)]),
            (5, [(2_500, Verdict::Suspect), (4_300, Verdict::Missing)]),
        ] {
            let mut view = view(nodes);
            assert_eq!(view.beat_ms(), if nodes == 5 { 1_000 } else { 500 });
            let (mut said, mut now) = (Vec::new(), 0);
            while now < 6_000 {
                now = view.due_ms().unwrap();
                let written = view.tick(now).write.into_iter().filter(|(node, ..)| *node == NodeId(1));
                said.extend(written.map(|(_, verdict, _)| (now, verdict)));
            }
            assert_eq!(said, verdicts, "{nodes} nodes");
        }
        let (mut view, now) = (view(2), 9_000);
        view.tick(TICK_MS);
        view.watched.get_mut(&NodeId(1)).unwrap().said = Verdict::Missing;
        assert_eq!(view.heard(NodeId(1), now), Some((NodeId(1), Verdict::Fine, (1, 1))));
        assert_eq!(view.heard(NodeId(1), now), None);
    }

    #[test]
    fn a_node_that_was_late_itself_judges_nobody() {
        let mut view = view(2);
        view.tick(TICK_MS);
        let judgement = view.tick(TICK_MS + 9_000);
        assert!(judgement.stalled && judgement.write.is_empty());
        assert_eq!(judgement.ask, [NodeId(1)]);
    }

    #[test]
    fn a_refused_dial_shortens_the_wait() {
        let mut view = view(2);
        view.refused(NodeId(1));
        assert_eq!(view.due_ms(), None, "it is looked at now");
        view.tick(0);
        let at = loop {
            let now = view.due_ms().unwrap();
            if view.tick(now).write.iter().any(|(_, verdict, _)| *verdict == Verdict::Missing) {
                break now;
            }
        };
        assert_eq!(at, REFUSED_AFTER_MS);
    }

    #[test]
    fn three_of_four_observers_or_all_live_ones_make_it_down_and_a_newer_row_refutes() {
        let mut view = view(9);
        let subject = NodeId(5);
        let observers = view.rings().observers(subject, "a");
        let mut turned = None;
        for (n, observer) in observers.iter().take(3).enumerate() {
            // Two of four are no majority: who is cut off from one neighbour is nobody's suspect.
            let own = observers[..n].contains(&NodeId(0));
            assert_eq!(view.liveness(subject), Some(if own { Liveness::Suspect } else { Liveness::Alive }));
            turned = view.set_watch(*observer, subject, Verdict::Missing, (1, 1), 9).0.or(turned);
        }
        assert_eq!(turned.unwrap().to, Liveness::Down);
        view.set_watch(observers[3], subject, Verdict::Missing, (0, 9), 9);
        let back = view.set_facts(subject, facts("a"), Role::Member, (1, 2), 10).unwrap();
        assert_eq!((back.from, back.to), (Liveness::Down, Liveness::Alive));
    }

    #[test]
    fn the_last_node_decides_alone() {
        let mut view = view(3);
        view.set_watch(NodeId(0), NodeId(1), Verdict::Missing, (1, 1), 5);
        assert_eq!(view.liveness(NodeId(1)), Some(Liveness::Suspect), "the third may still see it");
        view.set_watch(NodeId(0), NodeId(2), Verdict::Missing, (1, 1), 5);
        view.reconsider(6);
        assert_eq!((view.liveness(NodeId(1)), view.liveness(NodeId(2))), (Some(Liveness::Down), Some(Liveness::Down)));
    }

    #[test]
    fn a_minority_of_observers_makes_nobody_suspect_to_the_others() {
        let mut view = view(4);
        // Node 3 alone misses node 2, and the reverse; this node reaches both.
        view.set_watch(NodeId(3), NodeId(2), Verdict::Missing, (1, 1), 5);
        view.set_watch(NodeId(2), NodeId(3), Verdict::Missing, (1, 1), 5);
        view.reconsider(6);
        assert_eq!(
            (view.liveness(NodeId(2)), view.liveness(NodeId(3))),
            (Some(Liveness::Alive), Some(Liveness::Alive))
        );
        // What this node misses itself it does not route to.
        view.set_watch(NodeId(0), NodeId(2), Verdict::Suspect, (1, 1), 7);
        assert_eq!(view.liveness(NodeId(2)), Some(Liveness::Suspect));
    }

    #[test]
    fn behind_a_cut_into_halves_two_observers_of_four_suffice() {
        let mut view = view(9);
        let subject = NodeId(5);
        let observers = view.rings().observers(subject, "a");
        // Two observers are on this side; the other two are missed by somebody here themselves.
        let here: Vec<NodeId> = observers.iter().copied().filter(|node| *node != NodeId(0)).take(2).collect();
        for node in observers.iter().filter(|node| !here.contains(node) && **node != NodeId(0)) {
            view.set_watch(NodeId(0), *node, Verdict::Missing, (1, 1), 5);
        }
        for node in here {
            view.set_watch(node, subject, Verdict::Missing, (1, 1), 6);
        }
        view.set_watch(NodeId(0), subject, Verdict::Missing, (1, 1), 6);
        view.reconsider(7);
        assert_eq!(view.liveness(subject), Some(Liveness::Down));
    }

    #[test]
    fn readers_are_observed_and_observe_nobody() {
        let mut view = view(4);
        view.set_role(NodeId(3), Role::Reader);
        view.tick(10);
        assert_eq!(view.rings().len(), 3);
        assert!(
            view.rings().observers(NodeId(3), "a").len() == 3
                && !view.rings().observers(NodeId(1), "a").contains(&NodeId(3))
        );
        assert_eq!(view.leaves().contains(&NodeId(3)), view.rings().observers(NodeId(3), "a")[0] == NodeId(0));
    }

    #[test]
    fn a_verdict_about_this_node_wants_refuting() {
        let mut view = view(3);
        assert!(view.set_watch(NodeId(1), NodeId(0), Verdict::Suspect, (1, 1), 5).1);
        assert!(!view.set_watch(NodeId(1), NodeId(0), Verdict::Suspect, (0, 9), 5).1, "of an earlier incarnation");
    }

    #[test]
    fn watch_rows_read_back() {
        let body = watch_body(Verdict::Missing, (3, 700));
        assert_eq!(read_watch(&body.0), Some((Verdict::Missing, (3, 700))));
        assert_eq!(read_watch(&[9, 1, 1]), None);
        assert_eq!(read_watch(&[]), None);
    }

    proptest::proptest! {
        #[test]
        fn no_body_of_a_verdict_or_of_facts_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..80)) {
            if let Some((verdict, of)) = read_watch(&bytes) {
                proptest::prop_assert_eq!(read_watch(&watch_body(verdict, of).0), Some((verdict, of)));
            }
            let _ = serde_json::from_slice::<Facts>(&bytes);
            let _ = crate::table::tombstone::published(&bytes);
            let _ = crate::table::tombstone::day_of(&bytes);
        }
    }
}
