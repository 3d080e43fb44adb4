//! Services in the simulated world: the shipped scheduler's core on every machine, fed with the rows of the shipped table, over
//! containers that only exist here. In: a world, services, faults. Out: what runs where; the capacity of each machine is
//! looked at all the time.
//!
//! Containers outlive the process of their machine's node and die with its host.

use std::collections::{BTreeMap, BTreeSet};

use p2p::id::NodeId;
use p2p::node::Dice;
use p2p::table::{Body, Key, Table};
use scheduler::core::{Action, Config, Core, Event};
use scheduler::model::{Answer, InstanceRow, NodeFacts, Reserve, ServiceRow, Slot};
use scheduler::node::cluster;
use scheduler::port::Observed;
use scheduler::service::{Amount, Mode, ServiceSpec};

use super::net::Profile;
use super::world::{Bug, Fault, Fed, World};

/// Virtual time goes on by this much between two looks at the cores.
const STEP_MS: u64 = 20;
/// How long a container takes to start and to stop.
const CONTAINER_MS: (u64, u64) = (100, 400);
/// From the start of a node's process to the end of its list of containers.
const LIST_MS: u64 = 150;
/// How often members are read in whole, as the node does.
const MEMBERS_MS: u64 = 5_000;
/// A call that finds nobody fails after this time.
const CALL_MS: u64 = 3_000;
/// What every machine has to give.
pub const MEMORY: u64 = 4 << 30;

#[derive(Debug, Clone)]
enum Due {
    Event(usize, u64, Box<Event>),
    Started(usize, String),
    Stopped(usize, String),
    Listed(usize, u64),
}

/// One container.
#[derive(Debug, Clone)]
struct Container {
    service_id: String,
    slot: Slot,
    running: bool,
}

/// The scheduler's side of one machine.
#[derive(Debug, Default)]
struct Desk {
    core: Option<Core>,
    /// Which start of the process this is.
    start: u64,
    containers: BTreeMap<String, Container>,
    /// Members and how often they had started, as told last.
    known: BTreeMap<String, u64>,
    members_at: u64,
    /// Whether its facts are in the table for this start.
    told: bool,
}

/// A world with services.
#[derive(Debug)]
pub struct Services {
    /// The machines and their tables.
    pub world: World,
    desks: Vec<Desk>,
    due: BTreeMap<(u64, u64), Due>,
    serial: u64,
    calls: BTreeMap<u64, (usize, u64, String)>,
    broken: Option<String>,
    dice: Dice,
    seed: u64,
}

fn facts(at: usize, site: &str) -> NodeFacts {
    NodeFacts {
        v: 1,
        name: format!("n{at}"),
        site: site.to_owned(),
        capacity: Amount { cpu_nanos: 4_000_000_000, memory_bytes: MEMORY, pids: 0 },
        ..NodeFacts::default()
    }
}

impl Services {
    /// Machines of one site that have just started, each with a scheduler.
    #[must_use]
    pub fn new(seed: u64, count: usize, profile: Profile, bug: Option<Bug>) -> Self {
        let mut world = World::new(seed, count, 1, profile);
        world.bug = bug;
        world.feed = Some(Vec::new());
        world.start_all();
        let desks = (0..count).map(|_| Desk::default()).collect();
        Self {
            world,
            desks,
            due: BTreeMap::new(),
            serial: 0,
            calls: BTreeMap::new(),
            broken: None,
            dice: Dice(seed ^ 0xca11),
            seed,
        }
    }

    /// Does something to the world. A host that dies takes its containers with it.
    pub fn fault(&mut self, fault: &Fault) {
        self.world.fault(fault);
        if let Fault::PowerOff(at) = fault {
            self.desks[*at].containers.clear();
        }
        if let Fault::Kill(at) | Fault::PowerOff(at) = fault {
            let desk = &mut self.desks[*at];
            (desk.core, desk.told) = (None, false);
            desk.start += 1;
        }
    }

    /// Writes a service at a machine; returns whether it was taken.
    pub fn put_service(&mut self, at: usize, name: &str, replicas: u32, memory: u64) -> bool {
        let key = Key::global(Table::SERVICE, name);
        let before = self.world.machines[at].node.as_ref().and_then(|node| node.get(&key));
        let before = before.and_then(|row| row.body.parse::<ServiceRow>().ok());
        let mut spec = ServiceSpec::new(name, "image:1");
        spec.mode = Mode::Replicated { replicas };
        spec.template.resources.reservations.memory_bytes = memory;
        let row = ServiceRow {
            v: 1,
            id: before.as_ref().map_or_else(|| format!("id-of-{name}"), |row| row.id.clone()),
            generation: before.map_or(1, |row| row.generation + 1),
            spec,
            previous: None,
            rolled_back: false,
            created_ms: 0,
            updated_ms: self.world.now_ms(),
            extra: BTreeMap::new(),
        };
        self.world.put(at, key, Body::json(&row).ok().map(|body| body.0))
    }

    /// Runs for so many virtual ms.
    pub fn run(&mut self, ms: u64) {
        let end = self.world.now_ms() + ms;
        while self.world.now_ms() < end {
            self.world.run(STEP_MS.min(end - self.world.now_ms()));
            self.step();
        }
    }

    fn at(&mut self, after_ms: u64, due: Due) {
        self.serial += 1;
        self.due.insert((self.world.now_ms() + after_ms, self.serial), due);
    }

    fn step(&mut self) {
        let now = self.world.now_ms();
        let fed = self.world.feed.replace(Vec::new()).unwrap_or_default();
        for at in 0..self.desks.len() {
            if self.world.runs(at) && self.desks[at].core.is_none() {
                self.begin(at);
            }
        }
        for (at, fed) in fed {
            self.feed(at, fed);
        }
        while let Some(entry) = self.due.first_entry().filter(|entry| entry.key().0 <= now) {
            let due = entry.remove();
            self.deliver(due);
        }
        for at in 0..self.desks.len() {
            if self.world.is_stalled(at) {
                continue;
            }
            if self.desks[at].core.is_some() && self.desks[at].members_at <= now {
                self.desks[at].members_at = now + MEMBERS_MS;
                self.members(at);
            }
            if let Some(core) = self.desks[at].core.as_mut()
                && core.poll_timeout().is_some_and(|due| due <= now)
            {
                core.handle(now, Event::Tick);
            }
            while let Some(action) = self.desks[at].core.as_mut().and_then(Core::poll_action) {
                self.act(at, action);
            }
            self.announce(at);
        }
        self.look_at_capacity();
    }

    /// A node's process begins: what its disk has is told, then its containers.
    fn begin(&mut self, at: usize) {
        let now = self.world.now_ms();
        let me = self.world.machines[at].id.to_string();
        let desk = &mut self.desks[at];
        desk.core = Some(Core::new(Config { me, seed: self.seed ^ (desk.start << 8) ^ at as u64 }, now));
        (desk.known, desk.members_at) = (BTreeMap::new(), now + MEMBERS_MS);
        let start = desk.start;
        self.members(at);
        let tables = [Table::NODE_FACTS, Table::NODE_POLICY, Table::SERVICE, Table::ROLLOUT, Table::INSTANCE];
        for table in tables {
            let node = self.world.machines[at].node.as_ref();
            for row in node.map(|node| node.rows(table, "", true)).unwrap_or_default() {
                self.feed(at, Fed::Row(row));
            }
        }
        self.tell(at, Event::TablesRead);
        self.at(LIST_MS, Due::Listed(at, start));
    }

    fn tell(&mut self, at: usize, event: Event) {
        let now = self.world.now_ms();
        if let Some(core) = &mut self.desks[at].core {
            core.handle(now, event);
        }
    }

    fn members(&mut self, at: usize) {
        let Some(node) = &self.world.machines[at].node else { return };
        let members = node.members();
        for member in members {
            self.member(at, member.id, member.liveness);
        }
    }

    fn member(&mut self, at: usize, id: NodeId, liveness: p2p::membership::Liveness) {
        let Some(node) = &self.world.machines[at].node else { return };
        let (epoch, name) = (node.epoch_of_member(id), id.to_string());
        if self.desks[at].known.insert(name.clone(), epoch).is_some_and(|before| before < epoch) {
            self.tell(at, Event::Restarted(name.clone()));
        }
        self.tell(at, Event::Member { node: name, liveness: cluster::liveness(liveness) });
    }

    fn feed(&mut self, at: usize, fed: Fed) {
        let event = match fed {
            Fed::Row(row) if row.deleted => cluster::gone(row.key.table, &row.key),
            Fed::Row(row) => cluster::event(row.key.table, &row).ok().flatten(),
            Fed::Gone(key) => cluster::gone(key.table, &key),
            Fed::Turned(id, liveness) => return self.member(at, id, liveness),
        };
        if let Some(event) = event {
            self.tell(at, event);
        }
    }

    /// Once it knows its own, a node says what it offers.
    fn announce(&mut self, at: usize) {
        if self.desks[at].told || !self.desks[at].core.as_ref().is_some_and(Core::ready) {
            return;
        }
        self.desks[at].told = true;
        let (id, site) = (self.world.machines[at].id, self.world.machines[at].site.clone());
        let mut facts = facts(at, &site);
        if self.world.bug == Some(Bug::ClaimsTooMuch) {
            facts.capacity.memory_bytes *= 2;
        }
        let body = Body::json(&facts).ok().map(|body| body.0);
        self.world.put(at, Key::owned(Table::NODE_FACTS, id, ""), body);
    }

    fn deliver(&mut self, due: Due) {
        match due {
            Due::Event(at, start, event) => {
                if self.desks[at].start == start {
                    self.tell(at, *event);
                }
            }
            Due::Listed(at, start) => {
                if self.desks[at].start == start && self.desks[at].core.is_some() {
                    let ids: Vec<String> = self.desks[at].containers.keys().cloned().collect();
                    for id in ids {
                        self.report(at, &id);
                    }
                    self.tell(at, Event::ContainersListed);
                }
            }
            Due::Started(at, id) => {
                if let Some(container) = self.desks[at].containers.get_mut(&id) {
                    container.running = true;
                    self.report(at, &id);
                }
            }
            Due::Stopped(at, id) => {
                if self.desks[at].containers.remove(&id).is_some() {
                    let seen = Observed::Ended { code: Some(143), message: String::new() };
                    self.tell(at, Event::Container { id, seen });
                }
            }
        }
    }

    fn report(&mut self, at: usize, id: &str) {
        let Some(container) = self.desks[at].containers.get(id) else { return };
        let seen = if container.running {
            Observed::Running { container: format!("c-{id}"), health: Default::default(), addresses: vec![] }
        } else {
            Observed::Starting
        };
        self.tell(at, Event::Container { id: id.to_owned(), seen });
    }

    fn put(&mut self, at: usize, key: Key, body: &impl serde::Serialize) {
        let body = Body::json(body).ok().map(|body| body.0);
        self.world.put(at, key, body);
    }

    fn act(&mut self, at: usize, action: Action) {
        let me = self.world.machines[at].id;
        match action {
            Action::PutInstance(row) => self.put(at, Key::owned(Table::INSTANCE, me, &row.id), &*row),
            Action::DropInstance(id) => {
                self.world.put(at, Key::owned(Table::INSTANCE, me, &id), None);
            }
            Action::PutRollout(name, row) => self.put(at, Key::global(Table::ROLLOUT, name), &row),
            Action::PutService(row) => self.put(at, Key::global(Table::SERVICE, row.spec.name.clone()), &*row),
            Action::Reserve(to, reserve) => self.call_reserve(at, &to, reserve),
            Action::Release(to, release) => {
                if let Some((to, wait)) = self.way(at, &to) {
                    let start = self.desks[to].start;
                    self.at(wait, Due::Event(to, start, Box::new(Event::Release(0, release))));
                }
            }
            Action::Answer(call, answer) => {
                if let Some((asker, start, id)) = self.calls.remove(&call) {
                    let (id_of_asker, late) = (self.world.machines[asker].id.to_string(), CALL_MS);
                    let event = match self.way(at, &id_of_asker) {
                        Some((_, wait)) => (wait, Event::Reserved { id, answer }),
                        None => (late, Event::Reserved { id, answer: Answer::Refused("no answer".to_owned()) }),
                    };
                    self.at(event.0, Due::Event(asker, start, Box::new(event.1)));
                }
            }
            Action::Start(row, _) => self.start(at, &row),
            Action::Stop { id, .. } => {
                let wait = CONTAINER_MS.0 + self.dice.below(CONTAINER_MS.1);
                self.at(wait, Due::Stopped(at, id));
            }
            Action::Remove(id) => {
                self.desks[at].containers.remove(&id);
            }
            Action::Note(_) => {}
        }
    }

    fn start(&mut self, at: usize, row: &InstanceRow) {
        match self.world.bug {
            Some(Bug::StartsNothing) => return,
            Some(Bug::StartsTwice) => {
                let twin = Container { service_id: row.service_id.clone(), slot: row.slot.clone(), running: true };
                self.desks[at].containers.insert(format!("{}-again", row.id), twin);
            }
            _ => {}
        }
        let container = Container { service_id: row.service_id.clone(), slot: row.slot.clone(), running: false };
        self.desks[at].containers.insert(row.id.clone(), container);
        let wait = CONTAINER_MS.0 + self.dice.below(CONTAINER_MS.1);
        self.at(wait, Due::Started(at, row.id.clone()));
    }

    /// The machine with an id and how long a call takes to it; `None` when nothing passes.
    fn way(&mut self, from: usize, to: &str) -> Option<(usize, u64)> {
        let id = to.parse::<NodeId>().ok()?;
        let to = self.world.machines.iter().position(|machine| machine.id == id)?;
        let open = from == to || self.world.passes(from, to);
        (open && self.desks[to].core.is_some()).then(|| (to, 1 + self.dice.below(STEP_MS)))
    }

    fn call_reserve(&mut self, from: usize, to: &str, reserve: Box<Reserve>) {
        let (id, start) = (reserve.id.clone(), self.desks[from].start);
        match self.way(from, to) {
            Some((to, wait)) => {
                self.serial += 1;
                let (call, there) = (self.serial, self.desks[to].start);
                self.calls.insert(call, (from, start, id));
                self.at(wait, Due::Event(to, there, Box::new(Event::Reserve(call, reserve))));
            }
            None => {
                let answer = Answer::Refused("nobody answers".to_owned());
                self.at(CALL_MS, Due::Event(from, start, Box::new(Event::Reserved { id, answer })));
            }
        }
    }

    /// S6, all the time: no node has set aside more than it has.
    fn look_at_capacity(&mut self) {
        for (at, desk) in self.desks.iter().enumerate() {
            let Some(core) = &desk.core else { continue };
            let me = self.world.machines[at].id.to_string();
            let own = core.instances().filter(|row| row.node == me && !row.phase.ended());
            let memory: u64 = own.map(|row| row.reserved.memory_bytes).sum();
            if memory > MEMORY && self.broken.is_none() {
                let at_ms = self.world.now_ms();
                self.broken = Some(format!("S6: n{at} has set aside {memory} bytes of {MEMORY} (at {at_ms} ms)"));
            }
        }
    }

    /// S6: see [`Services`].
    ///
    /// # Errors
    /// In words.
    pub fn nobody_was_over_reserved(&self) -> Result<(), String> {
        self.broken.clone().map_or(Ok(()), Err)
    }

    /// S4: every slot of a service is filled by a container that runs.
    ///
    /// # Errors
    /// In words.
    pub fn every_slot_is_filled(&self, name: &str, replicas: u32) -> Result<(), String> {
        let running = self.running(name);
        let empty: Vec<u32> = (0..replicas).filter(|slot| !running.contains_key(&Slot::Number(*slot))).collect();
        if empty.is_empty() { Ok(()) } else { Err(format!("S4: slots {empty:?} of {name} are empty")) }
    }

    /// S5: no slot has two containers, and nothing runs that nobody wants.
    ///
    /// # Errors
    /// In words.
    pub fn nothing_runs_twice(&self, name: &str, replicas: u32) -> Result<(), String> {
        for (slot, machines) in self.running(name) {
            let wanted = matches!(slot, Slot::Number(number) if number < replicas);
            if machines.len() > 1 || !wanted {
                return Err(format!("S5: slot {slot} of {name} (of {replicas}) runs on {machines:?}"));
            }
        }
        Ok(())
    }

    /// Slots of a service with the machines their containers run on.
    fn running(&self, name: &str) -> BTreeMap<Slot, Vec<usize>> {
        let mut running: BTreeMap<Slot, Vec<usize>> = BTreeMap::new();
        for (at, desk) in self.desks.iter().enumerate() {
            let of_it = |container: &&Container| container.running && container.service_id == format!("id-of-{name}");
            for container in desk.containers.values().filter(of_it) {
                running.entry(container.slot.clone()).or_default().push(at);
            }
        }
        running
    }
}

/// Runs one random history of services: scaled up and down while machines die, stall and are cut off; then everything is healed
/// and every slot must be filled once.
///
/// # Errors
/// The broken promise.
pub fn history(seed: u64, count: usize, bug: Option<Bug>) -> Result<(), String> {
    let mut dice = Dice(seed ^ 0x5e41);
    let mut services = Services::new(seed, count, Profile::LAN, bug);
    services.run(4_000);
    let names = ["web", "db"];
    // Two thirds of what all machines together have, so that half of them cannot hold everything.
    let memory = [256 << 20, 1 << 30];
    for (name, memory) in names.iter().zip(memory) {
        services.put_service(dice.index(count), name, 3, memory);
    }
    services.run(3_000);
    for _ in 0..20 + dice.below(20) {
        let at = dice.index(count);
        match dice.below(12) {
            0..=3 => {
                let which = dice.index(2);
                let most = if which == 0 { 12 } else { 2 * count as u64 };
                let replicas = u32::try_from(1 + dice.below(most)).unwrap_or(1);
                services.put_service(at, names[which], replicas, memory[which]);
            }
            4 => services.fault(&Fault::Kill(at)),
            5 => services.fault(&Fault::PowerOff(at)),
            6 => services.fault(&Fault::Stall(at, 200 + dice.below(8_000))),
            7 => services.fault(&Fault::CutOneWay(at, (at + 1) % count)),
            8 => services.fault(&Fault::Halve((0..count).filter(|_| dice.below(2) == 0).collect())),
            9 => services.fault(&Fault::Heal),
            10 => services.fault(&Fault::Loss(dice.below(300))),
            _ => services.fault(&Fault::Start(at)),
        }
        services.run(dice.below(4_000));
    }
    services.fault(&Fault::Heal);
    services.fault(&Fault::Loss(0));
    (0..count).for_each(|at| services.fault(&Fault::Start(at)));
    services.run(20_000);
    // The last word on both services, so that what is wanted does not depend on who won while there were sides.
    let wanted: BTreeSet<(usize, u32)> = [(0, 5), (1, 4)].into();
    for (which, replicas) in &wanted {
        services.put_service(dice.index(count), names[*which], *replicas, memory[*which]);
    }
    services.run(60_000);
    services.nobody_was_over_reserved()?;
    for (which, replicas) in wanted {
        services.every_slot_is_filled(names[which], replicas)?;
        services.nothing_runs_twice(names[which], replicas)?;
    }
    super::checks::roots_are_equal(&services.world)
}
