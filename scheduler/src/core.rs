//! One node's share of the scheduler, without the world: events in, actions out, time as an argument.
//!
//! [`Core::handle`] takes what was seen, [`Core::poll_action`] says what to do, [`Core::poll_timeout`] when to come back
//! with [`Event::Tick`]. Everything is level-triggered: an event marks services as dirty, and the evaluation looks at rows
//! only, so a lost, doubled or late event changes nothing in the end.

mod duties;
mod gate;
mod stewardship;

use crate::model::{
    Answer, InstanceRow, Liveness, Ms, Node, NodeFacts, NodeId, NodePolicy, Release, Reserve, RolloutRow, ServiceRow,
    Slot,
};
use crate::place::Used;
use crate::port::Observed;
use crate::reconcile::{Standing, standing};
use crate::service::{Amount, Service};
use crate::steward::Dice;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Nothing is given up because of a node this one has never seen alive before it has listened this long.
const LISTEN_FIRST_MS: u64 = 10_000;
/// Reservations one node has under way at a time; the answer to a lost one comes after [`RESERVE_MS_MAX`].
const PENDING_MAX: usize = 256;
/// How long a reservation may stay unanswered, and its row unseen after the answer.
const RESERVE_MS_MAX: u64 = 5_000;
/// How long the rows of a node that was given up and started anew count for nothing unless it says more.
const UNHEARD_MS_MAX: u64 = 3_000;
/// How long a node that refused or did not answer is passed over for the service.
const AVOID_MS: u64 = 3_000;
/// The mass-failure brake begins in clusters of this size.
const BRAKE_NODES_MIN: usize = 10;
/// Verdicts within this time count together.
const BRAKE_WINDOW_MS: u64 = 30_000;
/// While braked, existing slots are re-placed one by one at this pace.
const BRAKED_PACE_MS: u64 = 1_000;
/// Ended instances of one slot whose rows and logs their node keeps.
const HISTORY_MAX: usize = 4;

/// What happened.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "the facts of a node are rare, and an event is handed over once")]
pub enum Event {
    /// Time passed.
    Tick,
    /// A node's liveness changed in this node's view.
    Member {
        /// The node.
        node: NodeId,
        /// What it is now.
        liveness: Liveness,
    },
    /// A node has started anew; tells its liveness after this.
    Restarted(NodeId),
    /// A node was evicted or forgotten.
    MemberGone(NodeId),
    /// A node's facts arrived.
    Facts(NodeId, NodeFacts),
    /// Operators changed what they say of a node; `None` when they say nothing any more.
    Policy(NodeId, Option<NodePolicy>),
    /// A service was made or changed.
    Service(Box<ServiceRow>),
    /// A service was removed.
    ServiceGone(String),
    /// A service's row is there and this version does not understand it: its instances are left as they are.
    ServiceUnclear(String),
    /// An instance's row arrived, or this node's own was read from disk.
    Instance(Box<InstanceRow>),
    /// An instance's row was dropped.
    InstanceGone {
        /// Whose row it was.
        node: NodeId,
        /// The instance.
        id: String,
    },
    /// How far an update is.
    Rollout(String, RolloutRow),
    /// No update is known for the service any more.
    RolloutGone(String),
    /// Somebody asks this node to run an instance. `call` comes back with the answer.
    Reserve(u64, Box<Reserve>),
    /// Somebody asks this node to stop an instance.
    Release(u64, Release),
    /// What became of a reservation this node asked for; an error counts as a refusal.
    Reserved {
        /// The reservation.
        id: String,
        /// The target's answer.
        answer: Answer,
    },
    /// What the engine sees of one of this node's containers.
    Container {
        /// The instance.
        id: String,
        /// What is seen.
        seen: Observed,
    },
    /// Every container that exists has been reported; instances without one have lost it.
    ContainersListed,
    /// Everything on this node's disk has been told; before, no container is a stranger.
    TablesRead,
    /// A container could not be stopped; it still runs.
    StopFailed {
        /// The instance.
        id: String,
        /// Why.
        message: String,
    },
    /// The nodes that may only read: they place nothing, and nobody waits for them to.
    Readers(BTreeSet<NodeId>),
    /// This node is not used any more (it was evicted): all its instances are given back, and it takes and places none.
    Retire,
    /// It stays a member after all.
    Stay,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Write this node's row of an instance. The container follows only when the write is durable.
    PutInstance(Box<InstanceRow>),
    /// Drop this node's row of an instance.
    DropInstance(String),
    /// Write how far an update is.
    PutRollout(String, RolloutRow),
    /// Write a service (an update that goes back).
    PutService(Box<ServiceRow>),
    /// Ask a node to run an instance; the answer comes as [`Event::Reserved`].
    Reserve(NodeId, Box<Reserve>),
    /// Ask a node to stop an instance; no answer is needed, it is asked again while it is wanted.
    Release(NodeId, Release),
    /// Answer a call.
    Answer(u64, Answer),
    /// Fetch the image, make the container and start it.
    Start(Box<InstanceRow>, Box<Service>),
    /// Stop a container: signal, then SIGKILL after the grace.
    Stop {
        /// The instance.
        id: String,
        /// Milliseconds of grace.
        grace_ms: Ms,
    },
    /// Remove a container with its log.
    Remove(String),
    /// Tell people.
    Note(Note),
}

/// Something worth telling people: it goes to the node's event stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// One word: `placed`, `no-fit`, `lost`, `brake`, `rollout`, `duplicate`, `ended`.
    pub kind: &'static str,
    /// The service or node it is about.
    pub subject: String,
    /// A sentence.
    pub message: String,
}

/// What a core starts with.
#[derive(Debug, Clone)]
pub struct Config {
    /// This node.
    pub me: NodeId,
    /// The seed of every choice.
    pub seed: u64,
}

/// A known service: its row and the accepted form.
#[derive(Debug, Clone)]
struct Known {
    row: ServiceRow,
    service: Service,
}

/// A reservation under way.
#[derive(Debug, Clone)]
struct Pending {
    service: String,
    service_id: String,
    slot: Slot,
    node: NodeId,
    amount: Amount,
    deadline: Ms,
}

/// What this node remembers of its own instances beyond their rows.
#[derive(Debug, Clone, Default)]
struct Own {
    /// When the container is told to stop; the routes have changed by then.
    stop_at: Option<Ms>,
    stop_sent: bool,
    start_sent: bool,
    /// Whether the end counts as a failure although it was ordered (an unhealthy instance).
    failing: Option<String>,
    /// Since when a better duplicate works.
    beaten_since: Option<Ms>,
    /// Since when it should leave this node.
    leaving_since: Option<Ms>,
    /// Since when its service is unknown.
    orphan_since: Option<Ms>,
    /// The service it was reserved with, until the row arrives.
    reserved_with: Option<Box<Known>>,
    /// When it began to run.
    running_since: Option<Ms>,
    /// Whether a container was reported.
    seen: bool,
}

/// What stands of one service by the local clock.
#[derive(Debug, Clone, Default)]
struct Watch {
    /// Since when a slot lacks an instance.
    missing_since: BTreeMap<Slot, Ms>,
    /// When something of the service changed last.
    progress_at: Ms,
    /// When its own row changed last.
    changed_at: Ms,
    /// When to look again.
    wake: Option<Ms>,
    /// Why the last slot could not be placed.
    no_fit: Option<String>,
    /// Nodes passed over, until when.
    avoid: BTreeMap<NodeId, Ms>,
}

/// One node's share of the scheduler. See the file's head.
#[derive(Debug)]
pub struct Core {
    me: NodeId,
    now: Ms,
    begun: Ms,
    dice: Dice,
    nodes: BTreeMap<NodeId, Node>,
    /// What operators say of nodes that are not known.
    policies: BTreeMap<NodeId, NodePolicy>,
    services: BTreeMap<String, Known>,
    instances: BTreeMap<String, InstanceRow>,
    by_service: BTreeMap<String, BTreeSet<String>>,
    rollouts: BTreeMap<String, RolloutRow>,
    own: BTreeMap<String, Own>,
    watches: BTreeMap<String, Watch>,
    pending: BTreeMap<String, Pending>,
    /// Since when an instance works, by the local clock.
    works_since: BTreeMap<String, Ms>,
    /// When an ended instance's end was seen, by the local clock.
    ended_seen: BTreeMap<String, Ms>,
    dirty: BTreeSet<String>,
    own_dirty: bool,
    own_wake: Option<Ms>,
    gate: gate::Gate,
    /// Services whose row is not understood.
    unclear: BTreeSet<String>,
    /// Whether this node has given its instances back and takes none.
    retired: bool,
    /// Nodes that may only read.
    readers: BTreeSet<NodeId>,
    /// Nodes that are down and have spoken since: they are coming back, and say what they run.
    spoke: BTreeSet<NodeId>,
    /// Nodes that came back anew, and until when it is waited for what they say: it may have come before.
    unheard_until: BTreeMap<NodeId, Ms>,
    downs: VecDeque<Ms>,
    brake_until: Ms,
    brake_begun: Ms,
    braked_next: Ms,
    actions: VecDeque<Action>,
}

impl Core {
    /// Starts with nothing known.
    #[must_use]
    pub fn new(config: Config, now: Ms) -> Self {
        Self {
            me: config.me,
            now,
            begun: now,
            dice: Dice::new(config.seed),
            nodes: BTreeMap::new(),
            policies: BTreeMap::new(),
            services: BTreeMap::new(),
            instances: BTreeMap::new(),
            by_service: BTreeMap::new(),
            rollouts: BTreeMap::new(),
            own: BTreeMap::new(),
            watches: BTreeMap::new(),
            pending: BTreeMap::new(),
            works_since: BTreeMap::new(),
            ended_seen: BTreeMap::new(),
            dirty: BTreeSet::new(),
            own_dirty: false,
            own_wake: None,
            gate: gate::Gate::default(),
            unclear: BTreeSet::new(),
            retired: false,
            readers: BTreeSet::new(),
            spoke: BTreeSet::new(),
            unheard_until: BTreeMap::new(),
            downs: VecDeque::new(),
            brake_until: 0,
            brake_begun: 0,
            braked_next: 0,
            actions: VecDeque::new(),
        }
    }

    /// Takes one event. Cheap: the evaluation waits for [`Self::poll_action`], so a burst of rows is looked at once.
    pub fn handle(&mut self, now: Ms, event: Event) {
        self.now = now.max(self.now);
        match event {
            Event::Tick => self.tick(),
            Event::Member { node, liveness } => self.member(node, liveness),
            Event::Restarted(node) => {
                let known = self.node_mut(&node);
                if known.liveness == Liveness::Down || known.doubtful {
                    known.unheard = true;
                    self.unheard_until.insert(node, self.now + UNHEARD_MS_MAX);
                }
            }
            Event::MemberGone(node) => {
                if let Some(known) = self.nodes.remove(&node) {
                    self.policies.insert(node, known.policy);
                }
                self.all_dirty();
            }
            Event::Facts(node, facts) => {
                let known = self.node_mut(&node);
                known.facts = facts;
                // A node tells its facts once it knows its rows and containers.
                (known.unheard, known.doubtful) = (false, false);
                self.unheard_until.remove(&node);
                if self.node_mut(&node).liveness == Liveness::Down {
                    self.spoke.insert(node);
                }
                self.all_dirty();
            }
            Event::Policy(node, policy) => self.policy_changed(node, policy),
            Event::Service(row) => self.service_changed(*row),
            Event::ServiceUnclear(name) => {
                self.unclear.insert(name);
                self.own_dirty = true;
            }
            Event::ServiceGone(name) => {
                self.unclear.remove(&name);
                self.services.remove(&name);
                self.watches.remove(&name);
                self.own_dirty = true;
            }
            Event::Instance(row) => self.instance_changed(*row),
            Event::InstanceGone { node, id } => {
                if self.instances.get(&id).is_some_and(|row| row.node == node) {
                    self.instance_gone(&id);
                }
            }
            Event::Rollout(name, row) => {
                if self.services.get(&name).is_some_and(|known| known.service.revision != row.revision) {
                    // Written before its service's row, which is on its way: nothing is begun in its place until that had time.
                    self.watches.entry(name.clone()).or_default().changed_at = self.now;
                }
                self.rollouts.insert(name.clone(), row);
                self.dirty.insert(name);
            }
            Event::RolloutGone(name) => {
                self.rollouts.remove(&name);
                self.dirty.insert(name);
            }
            Event::Reserve(call, reserve) => self.reserve_asked(call, *reserve),
            Event::Release(call, release) => self.release_asked(call, &release),
            Event::Reserved { id, answer } => self.reserve_answered(&id, answer),
            Event::Container { id, seen } => self.container_seen(&id, seen),
            Event::ContainersListed => self.containers_listed(),
            Event::TablesRead => self.tables_read(),
            Event::StopFailed { id, message } => self.stop_failed(&id, &message),
            Event::Readers(readers) if readers == self.readers => {}
            Event::Readers(readers) => {
                self.readers = readers;
                let of_readers = |row: &&InstanceRow| self.readers.contains(&row.node);
                let ids: Vec<String> = self.instances.values().filter(of_readers).map(|row| row.id.clone()).collect();
                ids.iter().for_each(|id| self.instance_gone(id));
                self.all_dirty();
            }
            Event::Retire => self.retire(),
            Event::Stay => {
                self.retired = false;
                self.all_dirty();
            }
        }
    }

    /// Returns the next thing to do, evaluating what is dirty when nothing is queued; `None` when there is nothing.
    pub fn poll_action(&mut self) -> Option<Action> {
        if self.actions.is_empty() {
            self.evaluate();
        }
        self.actions.pop_front()
    }

    /// Returns when [`Event::Tick`] is due at the latest; `None` while nothing waits for time.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Ms> {
        let services = self.watches.values().filter_map(|watch| watch.wake);
        let pending = self.pending.values().map(|pending| pending.deadline);
        services
            .chain(pending)
            .chain(self.own_wake)
            .chain(self.gate.wake)
            .chain(self.unheard_until.values().copied())
            .min()
    }

    /// Returns the nodes as this one sees them, ordered by id.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// Says whether a node may only read.
    #[must_use]
    pub fn is_reader(&self, node: &NodeId) -> bool {
        self.readers.contains(node)
    }

    /// Returns the services, ordered by name.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceRow, &Service)> {
        self.services.values().map(|known| (&known.row, &known.service))
    }

    /// Returns one service.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<(&ServiceRow, &Service)> {
        self.services.get(name).map(|known| (&known.row, &known.service))
    }

    /// Returns every instance, ordered by id.
    pub fn instances(&self) -> impl Iterator<Item = &InstanceRow> {
        self.instances.values()
    }

    /// Returns the instances of one service by its random id, ordered by id.
    pub fn instances_of<'a>(&'a self, service_id: &str) -> impl Iterator<Item = &'a InstanceRow> + use<'a> {
        self.by_service.get(service_id).into_iter().flatten().filter_map(|id| self.instances.get(id))
    }

    /// Returns how far the last update of a service is.
    #[must_use]
    pub fn rollout(&self, name: &str) -> Option<&RolloutRow> {
        self.rollouts.get(name)
    }

    /// Says what an instance's node means for it.
    #[must_use]
    pub fn standing_of(&self, service: &Service, row: &InstanceRow) -> Standing {
        match self.nodes.get(&row.node) {
            Some(node) => standing(service, node, self.now),
            None if self.now < self.begun + LISTEN_FIRST_MS => Standing::Good,
            None => Standing::Lost,
        }
    }

    fn node_mut(&mut self, id: &NodeId) -> &mut Node {
        let (now, me, policies) = (self.now, &self.me, &mut self.policies);
        self.nodes.entry(id.clone()).or_insert_with(|| Node {
            id: id.clone(),
            policy: policies.remove(id).unwrap_or_default(),
            // A row of a node the membership has not named yet: nothing is placed there and nothing given up.
            liveness: if id == me { Liveness::Alive } else { Liveness::Suspect },
            since_ms: now,
            silent_since_ms: now,
            ..Node::default()
        })
    }

    /// What is said of a node that nobody has named yet waits for it: most are rows of nodes that have left.
    fn policy_changed(&mut self, node: NodeId, policy: Option<NodePolicy>) {
        match (self.nodes.get_mut(&node), policy) {
            (Some(known), policy) => {
                known.policy = policy.unwrap_or_default();
                self.all_dirty();
            }
            (None, Some(policy)) => drop(self.policies.insert(node, policy)),
            (None, None) => drop(self.policies.remove(&node)),
        }
    }

    fn member(&mut self, node: NodeId, liveness: Liveness) {
        let now = self.now;
        let before = self.nodes.get(&node).map(|known| known.liveness);
        let spoke = before != Some(liveness) && self.spoke.remove(&node);
        let known = self.node_mut(&node);
        if before != Some(liveness) {
            if matches!(before, None | Some(Liveness::Alive)) || liveness == Liveness::Alive {
                known.silent_since_ms = now;
            }
            known.liveness = liveness;
            known.since_ms = now;
            if before == Some(Liveness::Down) && liveness != Liveness::Left && !spoke {
                // That it lives may be heard from a third node before it is heard that it started anew: nothing is sent to what
                // it ran before until it speaks, or has had the time to.
                known.doubtful = true;
                self.unheard_until.insert(node, now + UNHEARD_MS_MAX);
            }
            if liveness == Liveness::Down && before.is_some() {
                self.count_down();
            }
        }
        self.all_dirty();
    }

    /// Counts a verdict and applies the brake when too many come together.
    fn count_down(&mut self) {
        let now = self.now;
        self.downs.push_back(now);
        while self.downs.front().is_some_and(|&at| at + BRAKE_WINDOW_MS < now) {
            self.downs.pop_front();
        }
        let total = self.nodes.len();
        let many = self.downs.len() > (total / 5).max(3) || self.downs.len() * 3 > total;
        if total < BRAKE_NODES_MIN || !many {
            return;
        }
        if now >= self.brake_until {
            self.brake_begun = now;
            self.actions.push_back(Action::Note(Note {
                kind: "brake",
                subject: "mesh".to_owned(),
                message: format!(
                    "{} of {total} nodes went down within 30 s: their slots are re-placed one a second, after 30 s",
                    self.downs.len()
                ),
            }));
        }
        self.brake_until = now + 2 * BRAKE_WINDOW_MS;
    }

    fn service_changed(&mut self, row: ServiceRow) {
        let name = row.spec.name.clone();
        let accepted = match row.v {
            1 => row.spec.clone().accept().map_err(|error| error.to_string()),
            other => Err(format!("it has version {other}, this node knows 1")),
        };
        match accepted {
            Ok(service) => {
                self.unclear.remove(&name);
                let watch = self.watches.entry(name.clone()).or_default();
                (watch.progress_at, watch.changed_at) = (self.now, self.now);
                self.services.insert(name.clone(), Known { row, service });
                self.dirty.insert(name);
                self.own_dirty = true;
            }
            Err(error) => {
                let message = format!("the service's row is not used, its instances stay as they are: {error}");
                self.note("quarantine", &name, message);
                self.unclear.insert(name);
            }
        }
    }

    fn instance_changed(&mut self, row: InstanceRow) {
        if row.node == self.me && self.instances.contains_key(&row.id) {
            // This node's rows come from here; an echo tells nothing new.
            return;
        }
        if self.readers.contains(&row.node) {
            // It runs nothing: nobody believes what it says it runs.
            return;
        }
        self.index(row.clone());
        self.late_row(&row);
    }

    /// Stores a row and keeps the local clocks about it.
    fn index(&mut self, row: InstanceRow) {
        let (id, now) = (row.id.clone(), self.now);
        self.pending.remove(&id);
        if row.works() {
            self.works_since.entry(id.clone()).or_insert(now);
        } else {
            self.works_since.remove(&id);
        }
        if row.phase.ended() {
            self.ended_seen.entry(id.clone()).or_insert(now);
        }
        self.by_service.entry(row.service_id.clone()).or_default().insert(id.clone());
        if let Some(watch) = self.watches.get_mut(&row.service) {
            watch.progress_at = now;
        }
        self.dirty.insert(row.service.clone());
        if row.node == self.me {
            self.own.entry(id.clone()).or_default();
        }
        self.own_dirty = true;
        self.instances.insert(id, row);
    }

    fn instance_gone(&mut self, id: &str) {
        let Some(row) = self.instances.remove(id) else { return };
        self.works_since.remove(id);
        self.ended_seen.remove(id);
        self.own.remove(id);
        if let Some(ids) = self.by_service.get_mut(&row.service_id) {
            ids.remove(id);
            if ids.is_empty() {
                self.by_service.remove(&row.service_id);
            }
        }
        self.dirty.insert(row.service);
        self.own_dirty = true;
    }

    fn all_dirty(&mut self) {
        self.dirty.extend(self.services.keys().cloned());
        self.own_dirty = true;
    }

    fn tick(&mut self) {
        let now = self.now;
        for (name, watch) in &mut self.watches {
            // Taken, so that a service nobody looks at now does not wake this node again and again.
            if watch.wake.take_if(|at| *at <= now).is_some() {
                self.dirty.insert(name.clone());
            }
        }
        self.own_dirty |= self.own_wake.is_some_and(|at| at <= now);
        while let Some(node) = self.unheard_until.iter().find(|(_, at)| **at <= now).map(|(node, _)| node.clone()) {
            self.unheard_until.remove(&node);
            let known = self.node_mut(&node);
            (known.unheard, known.doubtful) = (false, false);
            self.all_dirty();
        }
        let late: Vec<String> =
            self.pending.iter().filter(|(_, pending)| pending.deadline <= now).map(|(id, _)| id.clone()).collect();
        for id in late {
            self.reserve_answered(&id, Answer::Refused("it did not answer in time".to_owned()));
        }
    }

    fn evaluate(&mut self) {
        if !self.ready() {
            return;
        }
        self.settle();
        if std::mem::take(&mut self.own_dirty) {
            self.do_duties();
        }
        if !self.settled() {
            return;
        }
        let dirty = std::mem::take(&mut self.dirty);
        if dirty.is_empty() {
            return;
        }
        let mut used = self.used();
        for name in dirty {
            self.steward(&name, &mut used);
        }
    }

    /// What is set aside on every node, reservations under way included.
    fn used(&self) -> BTreeMap<NodeId, Used> {
        let mut used: BTreeMap<NodeId, Used> = BTreeMap::new();
        for row in self.instances.values().filter(|row| !row.phase.ended()) {
            used.entry(row.node.clone()).or_default().add(row);
        }
        for pending in self.pending.values() {
            let on_node = used.entry(pending.node.clone()).or_default();
            on_node.amount.cpu_nanos = on_node.amount.cpu_nanos.saturating_add(pending.amount.cpu_nanos);
            on_node.amount.memory_bytes = on_node.amount.memory_bytes.saturating_add(pending.amount.memory_bytes);
            *on_node.per_service.entry(pending.service_id.clone()).or_default() += 1;
        }
        used
    }

    fn note(&mut self, kind: &'static str, subject: &str, message: String) {
        self.actions.push_back(Action::Note(Note { kind, subject: subject.to_owned(), message }));
    }
}

#[cfg(test)]
mod tests;
