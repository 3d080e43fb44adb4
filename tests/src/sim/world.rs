//! The world: nodes with disks, a queue of events, faults. In: a seed, sizes, faults and writes at chosen times. Out: the same
//! history for the same seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;

use p2p::admission::Certificate;
use p2p::id::{ClusterId, NodeId};
use p2p::membership::view::Facts;
use p2p::membership::{Liveness, Role};
use p2p::mesh::Durability;
use p2p::node::{Dice, Input, Node, Now, Output, Setup};
use p2p::table::row::Version;
use p2p::table::{Body, Key, Position, Row, Table, codec};
use p2p::wire::{Lane, Message};

use super::net::{Net, Profile};

/// Virtual midnight of the start, in ms since 1970.
pub const WALL_START: u64 = 1_800_000_000_000;
/// What Noise and Yamux add to a frame that travels alone, in bytes.
pub const OVERHEAD: u64 = 12 + 18;
/// How long a commit takes, in µs: (least, spread).
const COMMIT_US: (u64, u64) = (500, 4_000);
/// How long a dial waits for a host that does not answer, in µs.
const DIAL_TIMEOUT_US: u64 = 5_000_000;
const ROOT: [u8; 32] = [9; 32];

/// What is done to the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The process dies; its host closes its connections and refuses dials.
    Kill(usize),
    /// The host dies: nobody is told.
    PowerOff(usize),
    /// The process starts from its disk.
    Start(usize),
    /// The process does not run for so many ms.
    Stall(usize, u64),
    /// Nothing passes from the first to the second.
    CutOneWay(usize, usize),
    /// Nothing passes between these and the others.
    Halve(Vec<usize>),
    /// Everything passes again.
    Heal,
    /// Its clock jumps by so many ms.
    Skew(usize, i64),
    /// Segments of ten thousand that are lost.
    Loss(u64),
}

/// A bug put into the world on purpose, to see that a checker catches it: what a faulty build would do to its disk or to
/// what it receives. The cores themselves are the shipped ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Tombstones are not there after a start.
    ForgetsTombstones,
    /// Losers of concurrent writings are not there after a start, nor taken from others.
    ForgetsConflicts,
    /// The first machine keeps what it has written, whatever others say.
    KeepsItsOwn,
    /// Rows of tables that are not known are not there after a start, nor taken from others.
    ForgetsUnknown,
    /// The disk says "durable" and keeps no keys and values.
    LiesAboutDurability,
    /// A row of a node that never was is on the first machine's disk.
    ForgesOwner,
    /// Pushed and repaired keys of others never reach the first machine.
    Deaf,
    /// On the disk, a tombstone does not take the place of what it deletes.
    Resurrects,
    /// Every container is started a second time.
    StartsTwice,
    /// No container is ever started.
    StartsNothing,
    /// Every node says that it has twice the memory it has.
    ClaimsTooMuch,
}

impl Bug {
    /// Whether a row is still on the disk at a start.
    fn keeps(self, packed: &[u8]) -> bool {
        codec::head(packed).is_ok_and(|head| match self {
            Self::ForgetsTombstones => !head.deleted,
            Self::ForgetsConflicts => head.table != Table::CONFLICT,
            Self::ForgetsUnknown => head.table.schema().is_some(),
            Self::LiesAboutDurability => head.table != Table::KV,
            _ => true,
        })
    }

    /// Whether a machine takes a row from others.
    fn takes(self, at: usize, own: NodeId, packed: &[u8]) -> bool {
        let Ok(head) = codec::head(packed) else { return true };
        let writer = head.to_row().version.writer();
        match self {
            Self::ForgetsConflicts => head.table != Table::CONFLICT,
            Self::ForgetsUnknown => head.table.schema().is_some(),
            Self::KeepsItsOwn => at != 0 || head.table != Table::KV || writer == own,
            Self::Deaf => at != 0 || head.table != Table::KV,
            _ => true,
        }
    }
}

#[derive(Debug, Clone)]
enum Event {
    Wake(usize, u64),
    Deliver { from: usize, to: usize, connection: u64, message: Arc<Message> },
    Up { a: usize, b: usize, starts: (u64, u64) },
    Closed { at: usize, peer: usize, connection: u64 },
    DialFailed { at: usize, peer: usize, start: u64, refused: bool },
    Durable { at: usize, start: u64, batch: u64 },
}

#[derive(Debug)]
struct Queued {
    at: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// What a node writes at once: positions with their rows, `None` where one goes.
type Batch = Vec<(Position, Option<Vec<u8>>)>;

/// One simulated machine.
#[derive(Debug)]
pub struct Machine {
    /// The core, while the process runs.
    pub node: Option<Node>,
    /// Its id.
    pub id: NodeId,
    /// Its site.
    pub site: String,
    /// What its disk holds.
    pub disk: BTreeMap<Position, Vec<u8>>,
    /// The greatest epoch on its disk.
    pub epoch: u64,
    host_up: bool,
    start: u64,
    skew_ms: i64,
    stalled_until: u64,
    wake_at: u64,
    links: BTreeMap<usize, u64>,
    store_free_at: u64,
    /// Batches that are on their way to the disk, the oldest first.
    writing: VecDeque<(u64, Batch)>,
}

impl Machine {
    /// The oldest batch reaches the disk; a batch is whole or not there, as the store promises.
    fn commit(&mut self, bug: Option<Bug>) {
        for (position, packed) in self.writing.pop_front().map(|(_, rows)| rows).unwrap_or_default() {
            let is_tombstone = || packed.as_ref().is_some_and(|row| codec::head(row).is_ok_and(|head| head.deleted));
            if bug == Some(Bug::Resurrects) && is_tombstone() {
                continue;
            }
            match packed {
                Some(packed) => self.disk.insert(position, packed),
                None => self.disk.remove(&position),
            };
        }
    }
}

/// What was counted.
#[derive(Debug, Default, Clone)]
pub struct Counts {
    /// Messages delivered to the network.
    pub messages: u64,
    /// Bytes, with what Noise and Yamux add.
    pub bytes: u64,
    /// The same by lane.
    pub lane_bytes: BTreeMap<Lane, u64>,
    /// Rows pushed, each sending counted.
    pub payload_sends: u64,
    /// How often the direction of repair changed: twice the round trips when two machines talk.
    pub turns: u64,
    /// Events worked on.
    pub events: u64,
}

/// A write the world remembers.
#[derive(Debug, Clone)]
pub struct Written {
    /// Where.
    pub at: usize,
    /// The row as written.
    pub row: Row,
    /// How it was acknowledged; `None` when it never was.
    pub acked: Option<Durability>,
}

/// What a core told those who watch it.
#[derive(Debug, Clone)]
pub enum Fed {
    /// A row stands.
    Row(Row),
    /// A row is forgotten.
    Gone(Key),
    /// A member's liveness changed.
    Turned(NodeId, Liveness),
}

/// A change of liveness somebody saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// When, in ms.
    pub at_ms: u64,
    /// Who.
    pub observer: usize,
    /// Whom.
    pub subject: usize,
    /// What.
    pub liveness: Liveness,
}

/// Everything.
#[derive(Debug)]
pub struct World {
    /// The machines.
    pub machines: Vec<Machine>,
    /// Counters.
    pub counts: Counts,
    /// Every write made through [`World::put`].
    pub writes: Vec<Written>,
    /// Every change of liveness.
    pub seen: Vec<Seen>,
    /// What is wrong with this world's build, if anything.
    pub bug: Option<Bug>,
    /// What the machines told those who watch them, when somebody does.
    pub feed: Option<Vec<(usize, Fed)>>,
    /// Alarms by machine.
    pub alarms: Vec<(usize, String)>,
    /// When each machine first had a row with this text as its key's id, in ms, for the keys that are watched.
    pub arrivals: BTreeMap<String, BTreeMap<usize, u64>>,
    now: u64,
    queue: BinaryHeap<Reverse<Queued>>,
    number: u64,
    connections: u64,
    net: Net,
    dice: Dice,
    index: BTreeMap<NodeId, usize>,
    pending: BTreeMap<(usize, u64), usize>,
    /// Who sent the last message of repair.
    spoke: usize,
    seed: u64,
}

fn accept_all(_: &[u8; 32], _: &[u8], _: &[u8; 64]) -> bool {
    true
}

fn subject(seed: u64, number: usize) -> [u8; 32] {
    *blake3_of(&[&seed.to_be_bytes()[..], &(number as u64).to_be_bytes()].concat())
}

fn blake3_of(bytes: &[u8]) -> Box<[u8; 32]> {
    // Any spread of bits will do here; the dice have one.
    let mut dice = Dice(
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)),
    );
    let mut out = Box::new([0; 32]);
    for chunk in out.chunks_exact_mut(8) {
        chunk.copy_from_slice(&dice.roll().to_be_bytes());
    }
    out
}

impl World {
    /// A cluster of `count` machines over `sites` sites that have known each other for long. Nothing runs yet: see
    /// [`World::start_all`].
    #[must_use]
    pub fn new(seed: u64, count: usize, sites: usize, profile: Profile) -> Self {
        let mut machines = Vec::new();
        let mut common: Vec<Vec<u8>> = Vec::new();
        for number in 0..count {
            let key = subject(seed, number);
            let id = NodeId::of_key(&key);
            let site = format!("s{}", number % sites.max(1));
            let certificate = Self::certificate(key).to_bytes();
            common.push(codec::encode(&Row {
                key: Key::global(Table::CERTIFICATE, id.to_string()),
                version: Version::Shared {
                    generation: 1,
                    time_ms: WALL_START,
                    writer: id,
                    id: id.0,
                    ancestors: vec![],
                },
                deleted: false,
                body: Body(certificate),
            }));
            let facts = Self::facts(number, &site, 1);
            common.push(codec::encode(&Row {
                key: Key::owned(Table::NODE, id, ""),
                version: Version::Owned { owner: id, epoch: 1, seq: 1 },
                deleted: false,
                body: Body::json(&facts).expect("facts are plain data"),
            }));
            machines.push(Machine {
                node: None,
                id,
                site,
                disk: BTreeMap::new(),
                epoch: 0,
                host_up: true,
                start: 0,
                skew_ms: 0,
                stalled_until: 0,
                wake_at: u64::MAX,
                links: BTreeMap::new(),
                store_free_at: 0,
                writing: VecDeque::new(),
            });
        }
        let disk: BTreeMap<Position, Vec<u8>> = common
            .into_iter()
            .map(|packed| (p2p::table::rows::position(&codec::decode(&packed).expect("just written").key), packed))
            .collect();
        for machine in &mut machines {
            machine.disk = disk.clone();
            // Its own row is written at its first start, exactly as the others hold it already.
            machine.disk.remove(&p2p::table::rows::position(&Key::owned(Table::NODE, machine.id, "")));
        }
        let index = machines.iter().enumerate().map(|(at, machine)| (machine.id, at)).collect();
        Self {
            machines,
            counts: Counts::default(),
            writes: Vec::new(),
            seen: Vec::new(),
            bug: None,
            feed: None,
            alarms: Vec::new(),
            arrivals: BTreeMap::new(),
            now: 1_000_000,
            queue: BinaryHeap::new(),
            number: 0,
            connections: 0,
            net: Net::new(profile),
            dice: Dice(seed),
            index,
            pending: BTreeMap::new(),
            spoke: usize::MAX,
            seed,
        }
    }

    fn certificate(key: [u8; 32]) -> Certificate {
        Certificate {
            cluster: ClusterId::of_root(&ROOT),
            subject: key,
            issuer: ROOT,
            role: Role::Operator,
            token: 0,
            issued_ms: WALL_START,
            signature: [0; 64],
        }
    }

    fn facts(number: usize, site: &str, start: u64) -> Facts {
        Facts {
            name: format!("n{number}"),
            site: site.to_owned(),
            key: String::new(),
            addresses: Vec::new(),
            labels: BTreeMap::new(),
            instance: start << 32 | number as u64,
            version: String::new(),
            level: 1,
            other: serde_json::Map::new(),
        }
    }

    /// Puts a packed row on a machine's disk before it starts, as if it had always been there.
    pub fn seed_row(&mut self, at: usize, row: &Row) {
        self.machines[at].disk.insert(p2p::table::rows::position(&row.key), codec::encode(row));
    }

    /// Starts every machine within half a second.
    pub fn start_all(&mut self) {
        for at in 0..self.machines.len() {
            self.fault(&Fault::Start(at));
            let step = 500_000 / self.machines.len() as u64;
            self.run_until_us(self.now + step);
        }
    }

    /// Virtual time in ms.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.now / 1_000
    }

    /// The world's dice, for scenarios.
    pub fn dice(&mut self) -> &mut Dice {
        &mut self.dice
    }

    fn clock(&self, at: usize) -> Now {
        let ms = self.now / 1_000;
        let wall = i64::try_from(WALL_START + ms).unwrap_or(i64::MAX) + self.machines[at].skew_ms;
        Now { ms, wall_ms: u64::try_from(wall).unwrap_or(0) }
    }

    fn push(&mut self, at: u64, event: Event) {
        self.number += 1;
        self.queue.push(Reverse(Queued { at, number: self.number, event }));
    }

    /// Runs for so many virtual ms.
    pub fn run(&mut self, ms: u64) {
        self.run_until_us(self.now + ms * 1_000);
    }

    fn run_until_us(&mut self, until: u64) {
        while self.queue.peek().is_some_and(|Reverse(next)| next.at <= until) {
            let Some(Reverse(next)) = self.queue.pop() else { break };
            self.now = self.now.max(next.at);
            self.counts.events += 1;
            self.event(next.event);
        }
        self.now = self.now.max(until);
    }

    /// Runs until `done` holds, looking every 10 ms, for at most `ms`; returns how long it took.
    pub fn run_until(&mut self, ms: u64, mut done: impl FnMut(&Self) -> bool) -> Option<u64> {
        let start = self.now_ms();
        while self.now_ms() < start + ms {
            if done(self) {
                return Some(self.now_ms() - start);
            }
            self.run(10);
        }
        done(self).then(|| self.now_ms() - start)
    }

    fn same_site(&self, a: usize, b: usize) -> bool {
        self.machines[a].site == self.machines[b].site
    }

    fn event(&mut self, event: Event) {
        let busy = match &event {
            Event::Wake(at, _)
            | Event::DialFailed { at, .. }
            | Event::Durable { at, .. }
            | Event::Closed { at, .. } => *at,
            Event::Deliver { to, .. } => *to,
            Event::Up { a, .. } => *a,
        };
        let stalled = self.machines[busy].stalled_until;
        if stalled > self.now && self.machines[busy].node.is_some() {
            self.push(stalled, event);
            return;
        }
        match event {
            Event::Wake(at, start) => {
                if self.machines[at].start == start && self.machines[at].wake_at <= self.now {
                    self.machines[at].wake_at = u64::MAX;
                    self.handle(at, Input::Tick);
                }
            }
            Event::Deliver { from, to, connection, message } => {
                if self.machines[to].links.get(&from) == Some(&connection) {
                    let id = self.machines[from].id;
                    let mut message = Arc::unwrap_or_clone(message);
                    if let (Some(bug), Message::Push { rows, .. } | Message::Rows(rows)) = (self.bug, &mut message) {
                        let own = self.machines[to].id;
                        rows.retain(|packed| bug.takes(to, own, packed));
                    }
                    self.handle(to, Input::Message(id, message));
                }
            }
            Event::Up { a, b, starts } => self.connect(a, b, starts),
            Event::Closed { at, peer, connection } => {
                if self.machines[at].links.get(&peer) == Some(&connection) {
                    self.machines[at].links.remove(&peer);
                    let id = self.machines[peer].id;
                    self.handle(at, Input::Disconnected(id));
                }
            }
            Event::DialFailed { at, peer, start, refused } => {
                if self.machines[at].start == start {
                    let peer = self.machines[peer].id;
                    self.handle(at, Input::DialFailed { peer, refused });
                }
            }
            Event::Durable { at, start, batch } => {
                if self.machines[at].start == start {
                    self.machines[at].commit(self.bug);
                    self.handle(at, Input::Durable(batch));
                }
            }
        }
    }

    fn connect(&mut self, a: usize, b: usize, starts: (u64, u64)) {
        let alive = |machine: &Machine, start| machine.start == start && machine.node.is_some();
        if !alive(&self.machines[a], starts.0)
            || !alive(&self.machines[b], starts.1)
            || self.machines[a].links.contains_key(&b)
        {
            return;
        }
        // The other end may still hold a dead connection: the new one replaces it.
        if self.machines[b].links.remove(&a).is_some() {
            let id = self.machines[a].id;
            self.handle(b, Input::Disconnected(id));
        }
        self.connections += 1;
        self.net.fresh(a, b);
        self.machines[a].links.insert(b, self.connections);
        self.machines[b].links.insert(a, self.connections);
        let (ida, idb) = (self.machines[a].id, self.machines[b].id);
        self.handle(a, Input::Connected(idb));
        self.handle(b, Input::Connected(ida));
    }

    fn handle(&mut self, at: usize, input: Input) {
        let now = self.clock(at);
        if let Some(node) = &mut self.machines[at].node {
            node.handle(now, input);
            self.drain(at);
        }
    }

    /// Does what a core wants done, and notes when it wants to be woken.
    fn drain(&mut self, at: usize) {
        while let Some(output) = self.machines[at].node.as_mut().and_then(Node::poll_output) {
            match output {
                Output::Send(to, message) => self.send(at, to, message),
                Output::Dial(peer, _) => self.dial(at, peer),
                Output::Hangup(peer, _) => {
                    if let Some(peer) = self.index.get(&peer).copied() {
                        self.hang_up(at, peer);
                    }
                }
                Output::Store(batch, rows) => {
                    let took = COMMIT_US.0 + self.dice.below(COMMIT_US.1);
                    let machine = &mut self.machines[at];
                    machine.store_free_at = machine.store_free_at.max(self.now) + took;
                    machine.writing.push_back((batch, rows));
                    let (due, start) = (machine.store_free_at, machine.start);
                    self.push(due, Event::Durable { at, start, batch });
                }
                Output::Epoch(epoch) => self.machines[at].epoch = self.machines[at].epoch.max(epoch),
                Output::Changed(row) => {
                    if let Some(arrivals) = self.arrivals.get_mut(&row.key.id) {
                        arrivals.entry(at).or_insert(self.now / 1_000);
                    }
                    self.tell(at, || Fed::Row(row));
                }
                Output::Gone(key) => self.tell(at, || Fed::Gone(key)),
                Output::Turned(node, liveness) => {
                    self.tell(at, || Fed::Turned(node, liveness));
                    if let Some(subject) = self.index.get(&node).copied() {
                        self.seen.push(Seen { at_ms: self.now / 1_000, observer: at, subject, liveness });
                    }
                }
                Output::Acked(write, durability) => {
                    if let Some(index) = self.pending.remove(&(at, write)) {
                        self.writes[index].acked = Some(durability);
                    }
                }
                Output::Alarm(alarm) => self.alarms.push((at, format!("{}: {}", alarm.kind, alarm.text))),
                Output::Expelled(why) => self.alarms.push((at, format!("expelled: {why}"))),
            }
        }
        let machine = &mut self.machines[at];
        let Some(node) = &machine.node else { return };
        let due = (node.poll_timeout() * 1_000).max(self.now + 100);
        if due < machine.wake_at {
            machine.wake_at = due;
            let start = machine.start;
            self.push(due, Event::Wake(at, start));
        }
    }

    fn tell(&mut self, at: usize, fed: impl FnOnce() -> Fed) {
        if let Some(feed) = &mut self.feed {
            feed.push((at, fed()));
        }
    }

    fn send(&mut self, from: usize, to: NodeId, message: Message) {
        let Some(to) = self.index.get(&to).copied() else { return };
        let Some(connection) = self.machines[from].links.get(&to).copied() else { return };
        let bytes = message.framed_len() as u64 + OVERHEAD;
        self.counts.messages += 1;
        self.counts.bytes += bytes;
        *self.counts.lane_bytes.entry(message.lane()).or_default() += bytes;
        if message.lane() == Lane::Repair && std::mem::replace(&mut self.spoke, from) != from {
            self.counts.turns += 1;
        }
        if let Message::Push { rows, .. } = &message {
            self.counts.payload_sends += rows.len() as u64;
        }
        let same_site = self.same_site(from, to);
        if let Some(at) = self.net.arrival(self.now, from, to, bytes, same_site, &mut self.dice) {
            self.push(at, Event::Deliver { from, to, connection, message: Arc::new(message) });
        }
    }

    fn dial(&mut self, from: usize, to: NodeId) {
        let Some(to) = self.index.get(&to).copied() else { return };
        let start = self.machines[from].start;
        if !self.net.passes(from, to) || !self.net.passes(to, from) || !self.machines[to].host_up {
            self.push(self.now + DIAL_TIMEOUT_US, Event::DialFailed { at: from, peer: to, start, refused: false });
            return;
        }
        let same_site = self.same_site(from, to);
        let one_way = self.net.latency(same_site, &mut self.dice);
        if self.machines[to].node.is_none() {
            self.push(self.now + 2 * one_way, Event::DialFailed { at: from, peer: to, start, refused: true });
            return;
        }
        // TCP, Noise and Yamux take two round trips.
        let starts = (start, self.machines[to].start);
        self.push(self.now + 4 * one_way, Event::Up { a: from, b: to, starts });
    }

    fn hang_up(&mut self, at: usize, peer: usize) {
        let Some(connection) = self.machines[at].links.remove(&peer) else { return };
        let id = self.machines[peer].id;
        self.handle(at, Input::Disconnected(id));
        if self.net.passes(at, peer) {
            let same_site = self.same_site(at, peer);
            let due = self.now + self.net.latency(same_site, &mut self.dice);
            self.push(due, Event::Closed { at: peer, peer: at, connection });
        }
    }

    /// Does something to the world now.
    pub fn fault(&mut self, fault: &Fault) {
        match fault {
            Fault::Kill(at) | Fault::PowerOff(at) => {
                let told = matches!(fault, Fault::Kill(_));
                // Of what was on its way to the disk, some has arrived and nobody was told.
                let arrived = self.dice.index(self.machines[*at].writing.len() + 1);
                let machine = &mut self.machines[*at];
                (0..arrived).for_each(|_| machine.commit(self.bug));
                machine.writing.clear();
                machine.node = None;
                machine.start += 1;
                machine.host_up = told;
                machine.wake_at = u64::MAX;
                machine.stalled_until = 0;
                let links = std::mem::take(&mut machine.links);
                self.pending.retain(|(owner, _), _| owner != at);
                for (peer, connection) in links {
                    if told && self.net.passes(*at, peer) {
                        let same_site = self.same_site(*at, peer);
                        let due = self.now + self.net.latency(same_site, &mut self.dice);
                        self.push(due, Event::Closed { at: peer, peer: *at, connection });
                    }
                }
            }
            Fault::Start(at) => self.start(*at),
            Fault::Stall(at, ms) => self.machines[*at].stalled_until = self.now + ms * 1_000,
            Fault::CutOneWay(from, to) => self.net.cut(self.now, *from, *to),
            Fault::Halve(half) => {
                self.net.halve(self.now, half.iter().copied().collect());
            }
            Fault::Heal => self.net.heal(self.now, &mut self.dice),
            Fault::Skew(at, ms) => self.machines[*at].skew_ms = *ms,
            Fault::Loss(loss) => self.net.set_loss(*loss),
        }
    }

    fn start(&mut self, at: usize) {
        if self.machines[at].node.is_some() {
            return;
        }
        let number = at;
        let machine = &mut self.machines[at];
        machine.host_up = true;
        machine.start += 1;
        machine.epoch += 1;
        machine.store_free_at = self.now;
        let key = subject(self.seed, number);
        let setup = Setup {
            id: machine.id,
            cluster: ClusterId::of_root(&ROOT),
            chain: vec![Self::certificate(key).to_bytes()],
            facts: Self::facts(number, &machine.site, machine.epoch),
            epoch: machine.epoch,
            verify: accept_all,
            seed: self.seed ^ machine.start,
        };
        let bug = self.bug;
        let whole = |packed: &&Vec<u8>| bug.is_none_or(|bug| bug.keeps(packed));
        let mut rows: Vec<Vec<u8>> = machine.disk.values().filter(whole).cloned().collect();
        if bug == Some(Bug::ForgesOwner) && at == 0 {
            let nobody = NodeId(1);
            rows.push(codec::encode(&Row {
                key: Key::owned(Table::INSTANCE, nobody, "forged"),
                version: Version::Owned { owner: nobody, epoch: 1, seq: 1 },
                deleted: false,
                body: Body(vec![1]),
            }));
        }
        let now = self.clock(at);
        self.machines[at].node = Some(Node::new(setup, rows, now));
        self.drain(at);
        self.handle(at, Input::Tick);
    }

    /// The machine with this id.
    #[must_use]
    pub fn machine_of(&self, id: NodeId) -> Option<&Machine> {
        self.index.get(&id).map(|at| &self.machines[*at])
    }

    /// Whether a machine's process runs.
    #[must_use]
    pub fn runs(&self, at: usize) -> bool {
        self.machines[at].node.is_some()
    }

    /// Whether a machine's process stands still.
    #[must_use]
    pub fn is_stalled(&self, at: usize) -> bool {
        self.machines[at].stalled_until > self.now
    }

    /// Whether a call and its answer pass between two machines.
    #[must_use]
    pub fn passes(&self, a: usize, b: usize) -> bool {
        self.net.passes(a, b) && self.net.passes(b, a)
    }

    /// Writes (`Some`) or deletes (`None`) a row at a machine. Returns whether it was taken.
    pub fn put(&mut self, at: usize, key: Key, body: Option<Vec<u8>>) -> bool {
        let now = self.clock(at);
        let Some(node) = &mut self.machines[at].node else { return false };
        let Ok((row, write)) = node.put(now, key, body.map(Body)) else { return false };
        self.writes.push(Written { at, row: row.clone(), acked: None });
        if let Some(write) = write {
            self.pending.insert((at, write), self.writes.len() - 1);
        }
        if let Some(arrivals) = self.arrivals.get_mut(&row.key.id) {
            arrivals.insert(at, self.now / 1_000);
        }
        self.drain(at);
        true
    }

    /// Whether all running machines have the same root.
    #[must_use]
    pub fn is_converged(&self) -> bool {
        let mut roots =
            self.machines.iter().filter_map(|machine| machine.node.as_ref()).map(|node| node.replica().rows().root().0);
        let Some(first) = roots.next() else { return true };
        roots.all(|root| root == first)
    }

    /// Whether every running machine believes every running machine alive and every other down.
    #[must_use]
    pub fn agrees_on_liveness(&self) -> bool {
        self.machines.iter().filter_map(|machine| machine.node.as_ref()).all(|node| {
            self.machines.iter().all(|other| {
                other.id == node.id()
                    || node.view().liveness(other.id)
                        == Some(if other.node.is_some() { Liveness::Alive } else { Liveness::Down })
            })
        })
    }
}
