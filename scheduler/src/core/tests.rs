//! A handful of cores joined by a fake table and fake containers, under virtual time: what holds for every seed.

use super::*;
use crate::model::{Availability, Phase, RolloutState};
use crate::service::{FailureAction, Mode, ServiceSpec, UpdateOrder};
use std::collections::BTreeSet;

/// How long a row or a call takes to the others.
const LINK_MS: Ms = 20;
/// How long a container takes to start and to stop.
const CONTAINER_MS: Ms = 150;

enum Due {
    Event(usize, Box<Event>),
    Started(usize, String, String),
    Ended(usize, String, Option<i32>),
}

struct Sim {
    now: Ms,
    cores: Vec<Option<Core>>,
    due: BTreeMap<(Ms, u64), Due>,
    serial: u64,
    /// Containers that run: node, instance → image.
    running: BTreeMap<(usize, String), String>,
    reachable: Box<dyn Fn(usize, usize) -> bool>,
    notes: Vec<Note>,
    calls: BTreeMap<u64, (usize, String)>,
}

fn id(n: usize) -> NodeId {
    format!("node{n}")
}

fn index(id: &str) -> usize {
    id.trim_start_matches("node").parse().unwrap()
}

impl Sim {
    fn new(count: usize, seed: u64) -> Self {
        let cores = (0..count)
            .map(|n| Some(Core::new(Config { me: id(n), seed: seed.wrapping_mul(1000) + n as u64 }, 0)))
            .collect();
        let mut sim = Self {
            now: 0,
            cores,
            due: BTreeMap::new(),
            serial: 0,
            running: BTreeMap::new(),
            reachable: Box::new(|_, _| true),
            notes: Vec::new(),
            calls: BTreeMap::new(),
        };
        for n in 0..count {
            let facts = NodeFacts {
                v: 1,
                name: format!("n{n}"),
                site: format!("dc{}", n % 2),
                capacity: Amount { cpu_nanos: 4_000_000_000, memory_bytes: 4 << 30, pids: 0 },
                ..NodeFacts::default()
            };
            sim.broadcast(|_| Event::Member { node: id(n), liveness: Liveness::Alive });
            sim.broadcast(|_| Event::Facts(id(n), facts.clone()));
        }
        sim.broadcast(|_| Event::ContainersListed);
        sim.broadcast(|_| Event::TablesRead);
        sim
    }

    fn at(&mut self, at: Ms, due: Due) {
        self.serial += 1;
        self.due.insert((at, self.serial), due);
    }

    fn broadcast(&mut self, event: impl Fn(usize) -> Event) {
        for n in 0..self.cores.len() {
            self.at(self.now, Due::Event(n, Box::new(event(n))));
        }
    }

    fn put_service(&mut self, spec: ServiceSpec, generation: u64, previous: Option<ServiceSpec>) {
        let accepted = spec.clone().accept().unwrap();
        let row = ServiceRow {
            v: 1,
            id: "sid".to_owned(),
            generation,
            spec: spec.clone(),
            previous: previous.map(Box::new),
            rolled_back: false,
            created_ms: 0,
            updated_ms: 0,
            extra: BTreeMap::new(),
        };
        if generation > 1 {
            let rollout = RolloutRow {
                v: 1,
                service_id: "sid".to_owned(),
                revision: accepted.revision,
                generation,
                state: RolloutState::Updating,
                message: String::new(),
                started_ms: self.now,
                changed_ms: self.now,
            };
            self.broadcast(|_| Event::Rollout(spec.name.clone(), rollout.clone()));
        }
        self.broadcast(|_| Event::Service(Box::new(row.clone())));
    }

    /// The others learn it from the membership, its rows stay in the table.
    fn kill(&mut self, n: usize) {
        self.cores[n] = None;
        self.running.retain(|(node, _), _| *node != n);
        self.broadcast(|_| Event::Member { node: id(n), liveness: Liveness::Down });
    }

    fn run(&mut self, for_ms: Ms) {
        let end = self.now + for_ms;
        loop {
            self.drain();
            let timer = self.cores.iter().flatten().filter_map(Core::poll_timeout).min();
            let next = self.due.keys().next().map(|(at, _)| *at);
            let Some(next) = [timer, next].into_iter().flatten().min().filter(|at| *at <= end) else { break };
            self.now = next.max(self.now);
            while let Some(entry) = self.due.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let due = entry.remove();
                self.deliver(due);
            }
            for n in 0..self.cores.len() {
                let now = self.now;
                if let Some(core) = &mut self.cores[n]
                    && core.poll_timeout().is_some_and(|at| at <= now)
                {
                    core.handle(now, Event::Tick);
                }
            }
            self.check_capacity();
        }
        self.now = end;
    }

    fn deliver(&mut self, due: Due) {
        let now = self.now;
        let (n, event) = match due {
            Due::Event(n, event) => (n, *event),
            Due::Started(n, id, image) => {
                if self.cores[n].is_none() {
                    return;
                }
                self.running.insert((n, id.clone()), image.clone());
                if image.contains("crash") {
                    self.at(now + CONTAINER_MS, Due::Ended(n, id.clone(), Some(1)));
                }
                let seen =
                    Observed::Running { container: format!("c{id}"), health: Default::default(), addresses: vec![] };
                (n, Event::Container { id, seen })
            }
            Due::Ended(n, id, code) => {
                if self.running.remove(&(n, id.clone())).is_none() {
                    return;
                }
                (n, Event::Container { id, seen: Observed::Ended { code, message: String::new() } })
            }
        };
        if let Some(core) = &mut self.cores[n] {
            core.handle(now, event);
        }
    }

    fn drain(&mut self) {
        for n in 0..self.cores.len() {
            while let Some(action) = self.cores[n].as_mut().and_then(Core::poll_action) {
                self.act(n, action);
            }
        }
    }

    fn spread(&mut self, from: usize, event: impl Fn() -> Event) {
        for n in (0..self.cores.len()).filter(|n| *n != from) {
            if (self.reachable)(from, n) {
                self.at(self.now + LINK_MS, Due::Event(n, Box::new(event())));
            }
        }
    }

    fn act(&mut self, n: usize, action: Action) {
        let later = self.now + LINK_MS;
        match action {
            Action::PutInstance(row) => self.spread(n, || Event::Instance(row.clone())),
            Action::DropInstance(id) => {
                self.spread(n, || Event::InstanceGone { node: self::id(n), id: id.clone() });
            }
            Action::PutRollout(name, row) => self.spread(n, || Event::Rollout(name.clone(), row.clone())),
            Action::PutService(row) => self.spread(n, || Event::Service(row.clone())),
            Action::Reserve(to, reserve) => {
                let to = index(&to);
                if self.cores[to].is_some() && (self.reachable)(n, to) {
                    self.serial += 1;
                    let call = self.serial;
                    self.calls.insert(call, (n, reserve.id.clone()));
                    self.at(later, Due::Event(to, Box::new(Event::Reserve(call, reserve))));
                }
            }
            Action::Release(to, release) => {
                self.at(later, Due::Event(index(&to), Box::new(Event::Release(0, release))))
            }
            Action::Answer(call, answer) => {
                if let Some((asker, id)) = self.calls.remove(&call) {
                    self.at(later, Due::Event(asker, Box::new(Event::Reserved { id, answer })));
                }
            }
            Action::Start(row, service) => {
                let image = service.spec.template.image.clone();
                self.at(self.now + CONTAINER_MS, Due::Started(n, row.id.clone(), image));
            }
            Action::Stop { id, .. } => self.at(self.now + CONTAINER_MS, Due::Ended(n, id, Some(143))),
            Action::Remove(id) => {
                self.running.remove(&(n, id));
            }
            Action::Note(note) => self.notes.push(note),
        }
    }

    /// S6: no node has more reserved than it has.
    fn check_capacity(&self) {
        for (n, core) in self.cores.iter().enumerate() {
            let Some(core) = core else { continue };
            let memory: u64 = core
                .instances()
                .filter(|row| row.node == id(n) && !row.phase.ended())
                .map(|row| row.reserved.memory_bytes)
                .sum();
            assert!(memory <= 4 << 30, "node{n} reserves {memory}");
        }
    }

    fn count(&self, image: &str) -> usize {
        self.running.values().filter(|running| *running == image).count()
    }

    fn on_node(&self, n: usize) -> usize {
        self.running.keys().filter(|(node, _)| *node == n).count()
    }

    /// The slots that run, as the node that runs them says.
    fn slots(&self) -> Vec<Slot> {
        let mut out: Vec<Slot> = self
            .running
            .keys()
            .filter_map(|(n, id)| self.cores[*n].as_ref()?.instances.get(id).map(|row| row.slot.clone()))
            .collect();
        out.sort();
        out
    }
}

fn spec(image: &str, replicas: u32) -> ServiceSpec {
    let mut spec = ServiceSpec::new("web", image);
    spec.mode = Mode::Replicated { replicas };
    spec
}

fn numbers(count: u32) -> Vec<Slot> {
    (0..count).map(Slot::Number).collect()
}

#[test]
fn replicas_run_once_each_and_nothing_more_happens() {
    for seed in 0..20 {
        let mut sim = Sim::new(5, seed);
        sim.put_service(spec("a:1", 7), 1, None);
        sim.run(20_000);
        assert_eq!(sim.slots(), numbers(7), "seed {seed}");
        assert!((0..5).all(|n| sim.on_node(n) >= 1), "seed {seed}");
    }
}

#[test]
fn a_dead_nodes_slots_are_filled_within_a_second_of_the_verdict() {
    for seed in 0..20 {
        let mut sim = Sim::new(3, seed);
        sim.put_service(spec("a:1", 6), 1, None);
        sim.run(10_000);
        sim.kill(usize::try_from(seed).unwrap() % 3);
        sim.run(1_000);
        assert_eq!(sim.slots(), numbers(6), "seed {seed}");
        sim.run(20_000);
        assert_eq!(sim.slots(), numbers(6), "seed {seed}");
    }
}

#[test]
fn the_last_node_alone_takes_everything_that_fits() {
    let mut sim = Sim::new(3, 3);
    let mut wish = spec("a:1", 6);
    wish.template.resources.reservations.memory_bytes = 1 << 30;
    sim.put_service(wish, 1, None);
    sim.run(10_000);
    sim.kill(0);
    sim.kill(1);
    sim.run(20_000);
    assert_eq!(sim.on_node(2), 4);
    assert!(sim.notes.iter().any(|note| note.message.contains("short of memory (need 1G")), "{:?}", sim.notes);
}

#[test]
fn scaling_up_and_down_keeps_the_lowest_slots() {
    let mut sim = Sim::new(3, 1);
    sim.put_service(spec("a:1", 2), 1, None);
    sim.run(5_000);
    sim.put_service(spec("a:1", 9), 1, None);
    sim.run(5_000);
    assert_eq!(sim.slots(), numbers(9));
    sim.put_service(spec("a:1", 3), 1, None);
    sim.run(5_000);
    assert_eq!(sim.slots(), numbers(3));
    sim.broadcast(|_| Event::ServiceGone("web".to_owned()));
    sim.run(5_000);
    assert!(sim.running.is_empty());
    assert_eq!(sim.cores.iter().flatten().map(|core| core.instances().count()).sum::<usize>(), 0);
}

#[test]
fn a_drained_node_empties_without_a_gap() {
    let mut sim = Sim::new(3, 5);
    sim.put_service(spec("a:1", 6), 1, None);
    sim.run(10_000);
    let policy = NodePolicy { v: 1, availability: Availability::Drain, ..NodePolicy::default() };
    sim.broadcast(|_| Event::Policy(id(1), Some(policy.clone())));
    for _ in 0..100 {
        sim.run(100);
        assert!(sim.slots().into_iter().collect::<BTreeSet<_>>().len() == 6);
    }
    assert_eq!(sim.on_node(1), 0);
    assert_eq!(sim.slots(), numbers(6));
}

#[test]
fn an_update_replaces_every_slot_and_start_first_leaves_no_gap() {
    for order in [UpdateOrder::StopFirst, UpdateOrder::StartFirst] {
        let mut sim = Sim::new(3, 8);
        let old = spec("a:1", 5);
        sim.put_service(old.clone(), 1, None);
        sim.run(10_000);
        let mut new = spec("a:2", 5);
        new.update.order = order;
        sim.put_service(new, 2, Some(old));
        let mut least = usize::MAX;
        for _ in 0..300 {
            sim.run(100);
            least = least.min(sim.running.len());
        }
        assert_eq!((sim.count("a:2"), sim.count("a:1")), (5, 0), "{order:?}");
        assert_eq!(sim.slots(), numbers(5));
        assert_eq!(least, if order == UpdateOrder::StartFirst { 5 } else { 4 }, "{order:?}");
        let core = sim.cores[0].as_ref().unwrap();
        assert_eq!(core.rollout("web").unwrap().state, RolloutState::Completed);
    }
}

#[test]
fn a_bad_update_pauses_or_goes_back() {
    for (action, good) in [(FailureAction::Pause, 3), (FailureAction::Rollback, 4)] {
        let mut sim = Sim::new(3, 8);
        let old = spec("a:1", 4);
        sim.put_service(old.clone(), 1, None);
        sim.run(10_000);
        let mut new = spec("crash:2", 4);
        new.update.failure_action = action;
        sim.put_service(new, 2, Some(old));
        sim.run(60_000);
        assert_eq!(sim.count("a:1"), good, "{action:?}");
        let state = sim.cores[0].as_ref().unwrap().rollout("web").unwrap().state;
        let wanted = if good == 3 { RolloutState::Paused } else { RolloutState::RollbackCompleted };
        assert_eq!(state, wanted);
    }
}

#[test]
fn a_way_back_is_named_so_also_where_its_row_comes_later_than_the_services_or_never() {
    for delay in [Some(0), Some(600), None] {
        let mut sim = Sim::new(3, 8);
        let (old, new) = (spec("a:1", 3), spec("a:2", 3));
        sim.put_service(old, 1, None);
        sim.run(10_000);
        sim.put_service(new, 2, Some(spec("a:1", 3)));
        sim.run(60_000);
        let core = sim.cores[0].as_ref().unwrap();
        let back = crate::rollout::rolled_back(core.service("web").unwrap().0, sim.now);
        let row = RolloutRow {
            revision: back.spec.clone().accept().unwrap().revision,
            generation: back.generation,
            state: RolloutState::RollbackStarted,
            ..core.rollout("web").unwrap().clone()
        };
        sim.broadcast(|_| Event::Service(Box::new(back.clone())));
        if let Some(delay) = delay {
            for n in 0..3 {
                let event = Box::new(Event::Rollout("web".to_owned(), row.clone()));
                sim.at(sim.now + delay, Due::Event(n, event));
            }
        }
        sim.run(60_000);
        assert_eq!(sim.count("a:1"), 3);
        for core in sim.cores.iter().flatten() {
            assert_eq!(core.rollout("web").unwrap().state, RolloutState::RollbackCompleted, "{delay:?}");
        }
    }
}

#[test]
fn a_way_back_whose_row_lost_to_the_pause_is_named_all_the_same() {
    let mut sim = Sim::new(3, 8);
    let old = spec("a:1", 3);
    sim.put_service(old.clone(), 1, None);
    sim.run(10_000);
    sim.put_service(spec("crash:2", 3), 2, Some(old));
    sim.run(60_000);
    let core = sim.cores[0].as_ref().unwrap();
    assert_eq!(core.rollout("web").unwrap().state, RolloutState::Paused);
    let back = crate::rollout::rolled_back(core.service("web").unwrap().0, sim.now);
    sim.broadcast(|_| Event::Service(Box::new(back.clone())));
    sim.run(60_000);
    assert_eq!(sim.count("a:1"), 3);
    for core in sim.cores.iter().flatten() {
        assert_eq!(core.rollout("web").unwrap().state, RolloutState::RollbackCompleted);
    }
}

#[test]
fn the_row_of_an_update_that_comes_before_its_service_s_is_not_taken_for_a_lost_one() {
    let mut sim = Sim::new(3, 8);
    let old = spec("a:1", 3);
    sim.put_service(old.clone(), 1, None);
    sim.run(10_000);
    sim.put_service(spec("a:2", 3), 2, Some(old));
    // The service's row takes a little longer than the update's, on every node.
    for at in sim.due.keys().copied().collect::<Vec<_>>() {
        if matches!(&sim.due[&at], Due::Event(_, event) if matches!(**event, Event::Service(_))) {
            let due = sim.due.remove(&at).unwrap();
            sim.at(sim.now + 20, due);
        }
    }
    sim.run(15);
    let began = sim.cores[0].as_ref().unwrap().rollout("web").unwrap().clone();
    sim.run(900);
    for core in sim.cores.iter().flatten() {
        assert_eq!(core.rollout("web"), Some(&began), "nobody began another");
    }
    let stops = |core: &Core| core.instances().any(|row| row.phase >= Phase::Stopping);
    assert!(sim.cores.iter().flatten().any(stops), "it began at once");
    sim.run(30_000);
    assert_eq!(sim.count("a:2"), 3);
    let told = sim.notes.iter().filter(|note| note.kind == "rollout").count();
    assert_eq!(told, 1, "{:?}", sim.notes);
}

#[test]
fn the_row_of_an_update_that_never_came_to_its_service_holds_nothing_up_for_ever() {
    let mut sim = Sim::new(2, 8);
    sim.put_service(spec("a:1", 2), 1, None);
    sim.run(10_000);
    let row = RolloutRow {
        v: 1,
        service_id: "sid".to_owned(),
        revision: "of a template that nobody wrote".to_owned(),
        generation: 2,
        state: RolloutState::Updating,
        message: String::new(),
        started_ms: 0,
        changed_ms: 0,
    };
    sim.broadcast(|_| Event::Rollout("web".to_owned(), row.clone()));
    sim.run(60_000);
    for core in sim.cores.iter().flatten() {
        assert_eq!(core.rollout("web").unwrap().state, RolloutState::Completed);
    }
    assert_eq!(sim.count("a:1"), 2);
}

#[test]
fn who_knows_an_older_generation_stops_nothing() {
    let mut sim = Sim::new(1, 3);
    sim.put_service(spec("a:1", 1), 1, None);
    sim.run(5_000);
    sim.put_service(spec("a:1", 2), 2, None);
    sim.run(5_000);
    let instance = sim.running.keys().next().unwrap().1.clone();
    let core = sim.cores[0].as_mut().unwrap();
    core.handle(10_000, Event::Release(7, Release { id: instance.clone(), message: "go".to_owned(), generation: 1 }));
    assert!(matches!(actions(core).as_slice(), [Action::Answer(7, Answer::Refused(_))]));
    assert_eq!(core.instances[&instance].phase, Phase::Running);
}

#[test]
fn nobody_ends_another_nodes_instance_by_a_row_of_the_same_id() {
    let mut sim = Sim::new(2, 3);
    sim.put_service(spec("a:1", 2), 1, None);
    sim.run(5_000);
    let core = sim.cores[0].as_mut().unwrap();
    let row = core.instances().find(|row| row.node == id(1)).unwrap().clone();
    core.handle(5_000, Event::InstanceGone { node: id(9), id: row.id.clone() });
    assert!(core.instances.contains_key(&row.id));
    core.handle(5_000, Event::InstanceGone { node: id(1), id: row.id.clone() });
    assert!(!core.instances.contains_key(&row.id));
}

#[test]
fn a_node_that_could_not_leave_runs_services_again() {
    let mut sim = Sim::new(1, 3);
    sim.put_service(spec("a:1", 2), 1, None);
    sim.run(5_000);
    sim.broadcast(|_| Event::Retire);
    sim.run(5_000);
    assert_eq!(sim.running.len(), 0);
    sim.broadcast(|_| Event::Stay);
    sim.run(5_000);
    assert_eq!(sim.slots(), numbers(2));
}

#[test]
fn a_crash_loop_slows_down_and_does_not_flood_the_table() {
    let mut sim = Sim::new(3, 8);
    sim.put_service(spec("crash:1", 1), 1, None);
    sim.run(120_000);
    let ends = sim.notes.iter().filter(|note| note.kind == "ended").count();
    assert!((5..12).contains(&ends), "{ends}");
    let rows = sim.cores[0].as_ref().unwrap().instances().count();
    assert!(rows <= 3 * (HISTORY_MAX + 1), "{rows}");
}

#[test]
fn two_sides_of_a_cut_both_serve_and_one_copy_remains_after_the_heal() {
    for seed in 0..10 {
        let mut sim = Sim::new(4, seed);
        sim.put_service(spec("a:1", 4), 1, None);
        sim.run(10_000);
        sim.reachable = Box::new(|a, b| a / 2 == b / 2);
        let verdict = |sim: &mut Sim, liveness| {
            for n in 0..4 {
                for other in (0..4).filter(|other| other / 2 != n / 2) {
                    sim.at(sim.now, Due::Event(n, Box::new(Event::Member { node: id(other), liveness })));
                }
            }
        };
        verdict(&mut sim, Liveness::Down);
        sim.run(10_000);
        assert_eq!(sim.running.len(), 8, "seed {seed}");
        sim.reachable = Box::new(|_, _| true);
        verdict(&mut sim, Liveness::Alive);
        let rows: Vec<InstanceRow> = sim.cores.iter().flatten().flat_map(|core| core.instances().cloned()).collect();
        for row in rows {
            sim.broadcast(|_| Event::Instance(Box::new(row.clone())));
        }
        sim.run(10_000);
        assert_eq!(sim.slots(), numbers(4), "seed {seed}");
    }
}

#[test]
fn a_global_service_runs_once_on_every_node_it_may() {
    let mut sim = Sim::new(4, 2);
    let mut wish = spec("a:1", 1);
    wish.mode = Mode::Global;
    wish.placement.constraints = vec!["node.name != n2".to_owned()];
    sim.put_service(wish, 1, None);
    sim.run(10_000);
    assert_eq!((0..4).map(|n| sim.on_node(n)).collect::<Vec<_>>(), [1, 1, 0, 1]);
    sim.kill(3);
    sim.run(10_000);
    assert_eq!(sim.running.len(), 2);
}

#[test]
fn a_restarted_node_adopts_what_runs_and_starts_what_did_not() {
    let mut sim = Sim::new(2, 4);
    sim.put_service(spec("a:1", 4), 1, None);
    sim.run(10_000);
    let old = sim.cores[0].take().unwrap();
    let mut core = Core::new(Config { me: id(0), seed: 99 }, sim.now);
    for node in old.nodes() {
        core.handle(sim.now, Event::Member { node: node.id.clone(), liveness: Liveness::Alive });
        core.handle(sim.now, Event::Facts(node.id.clone(), node.facts.clone()));
    }
    for (row, _) in old.services() {
        core.handle(sim.now, Event::Service(Box::new(row.clone())));
    }
    for row in old.instances() {
        core.handle(sim.now, Event::Instance(Box::new(row.clone())));
    }
    let mine: Vec<String> = sim.running.keys().filter(|(n, _)| *n == 0).map(|(_, id)| id.clone()).collect();
    let lost = mine[0].clone();
    sim.running.remove(&(0, lost.clone()));
    for id in mine.iter().filter(|id| **id != lost) {
        let seen = Observed::Running { container: id.clone(), health: Default::default(), addresses: vec![] };
        core.handle(sim.now, Event::Container { id: id.clone(), seen });
    }
    core.handle(sim.now, Event::TablesRead);
    core.handle(sim.now, Event::ContainersListed);
    sim.cores[0] = Some(core);
    sim.run(10_000);
    assert_eq!(sim.slots(), numbers(4));
    assert!(mine[1..].iter().all(|id| sim.running.contains_key(&(0, id.clone()))));
    assert_eq!(sim.cores[0].as_ref().unwrap().instances[&lost].phase, Phase::Failed);
}

/// What a node has on its disk when it starts again.
struct Disk {
    services: Vec<ServiceRow>,
    own: Vec<InstanceRow>,
    nodes: Vec<NodeId>,
}

impl Disk {
    fn of(core: &Core) -> Self {
        Self {
            services: core.services().map(|(row, _)| row.clone()).collect(),
            own: core.instances().filter(|row| row.node == core.me).cloned().collect(),
            nodes: core.nodes().map(|node| node.id.clone()).collect(),
        }
    }

    fn read(&self, core: &mut Core, now: Ms) {
        for node in &self.nodes {
            core.handle(now, Event::Member { node: node.clone(), liveness: Liveness::Alive });
        }
        for row in &self.services {
            core.handle(now, Event::Service(Box::new(row.clone())));
        }
        for row in &self.own {
            core.handle(now, Event::Instance(Box::new(row.clone())));
        }
        core.handle(now, Event::TablesRead);
    }
}

fn actions(core: &mut Core) -> Vec<Action> {
    std::iter::from_fn(|| core.poll_action()).collect()
}

fn seen_running(id: &str) -> Observed {
    Observed::Running { container: format!("c{id}"), health: Default::default(), addresses: vec![] }
}

#[test]
fn containers_that_are_listed_before_the_tables_are_read_are_nobody_s_strangers() {
    let mut sim = Sim::new(2, 4);
    sim.put_service(spec("a:1", 4), 1, None);
    sim.run(10_000);
    let disk = Disk::of(sim.cores[0].as_ref().unwrap());
    let mut core = Core::new(Config { me: id(0), seed: 99 }, sim.now);
    for row in &disk.own {
        core.handle(sim.now, Event::Container { id: row.id.clone(), seen: seen_running(&row.id) });
    }
    core.handle(sim.now, Event::Container { id: "stranger".to_owned(), seen: seen_running("stranger") });
    core.handle(sim.now, Event::ContainersListed);
    assert!(!core.ready());
    assert_eq!(actions(&mut core), []);
    disk.read(&mut core, sim.now);
    assert!(core.ready());
    // Its row may have been lost with this node's disk: the others bring it back, or nobody knows it.
    assert_eq!(actions(&mut core), []);
    assert!(core.poll_timeout().is_some_and(|at| at <= sim.now + 10_000));
    core.handle(sim.now + 10_000, Event::Tick);
    assert!(actions(&mut core).contains(&Action::Remove("stranger".to_owned())));
    assert!(core.instances().all(|row| row.phase == Phase::Running));
}

#[test]
fn a_node_that_lost_its_table_takes_its_containers_up_again_when_the_others_bring_their_rows() {
    let mut sim = Sim::new(2, 4);
    sim.put_service(spec("a:1", 4), 1, None);
    sim.run(10_000);
    let disk = Disk::of(sim.cores[0].as_ref().unwrap());
    let mut core = Core::new(Config { me: id(0), seed: 99 }, sim.now);
    for row in &disk.own {
        core.handle(sim.now, Event::Container { id: row.id.clone(), seen: seen_running(&row.id) });
    }
    core.handle(sim.now, Event::ContainersListed);
    core.handle(sim.now, Event::TablesRead);
    assert!(actions(&mut core).iter().all(|action| !matches!(action, Action::Remove(_) | Action::Stop { .. })));
    for row in &disk.own {
        core.handle(sim.now + 500, Event::Instance(Box::new(row.clone())));
    }
    for row in &disk.services {
        core.handle(sim.now + 600, Event::Service(Box::new(row.clone())));
    }
    core.handle(sim.now + 20_000, Event::Tick);
    assert!(actions(&mut core).iter().all(|action| !matches!(action, Action::Remove(_) | Action::Stop { .. })));
    assert!(!disk.own.is_empty() && core.instances().all(|row| row.phase == Phase::Running));
}

#[test]
fn a_restarted_node_places_nothing_before_the_others_have_told_what_they_run() {
    let mut sim = Sim::new(3, 6);
    sim.put_service(spec("a:1", 6), 1, None);
    sim.run(10_000);
    for n in 0..3 {
        let old = sim.cores[n].take().unwrap();
        let disk = Disk::of(&old);
        let mut core = Core::new(Config { me: id(n), seed: 5 }, sim.now);
        for row in &disk.own {
            core.handle(sim.now, Event::Container { id: row.id.clone(), seen: seen_running(&row.id) });
        }
        core.handle(sim.now, Event::ContainersListed);
        disk.read(&mut core, sim.now);
        sim.cores[n] = Some(core);
        sim.run(1_000);
        assert!(!sim.cores[n].as_ref().unwrap().settled());
        for node in old.nodes() {
            let event = Event::Facts(node.id.clone(), node.facts.clone());
            sim.at(sim.now, Due::Event(n, Box::new(event)));
        }
        for row in old.instances() {
            sim.at(sim.now + 5, Due::Event(n, Box::new(Event::Instance(Box::new(row.clone())))));
        }
        sim.run(10_000);
        assert_eq!(sim.slots(), numbers(6), "node{n}");
        assert!(sim.notes.iter().all(|note| note.kind != "duplicate"), "{:?}", sim.notes);
    }
}

#[test]
fn a_restarted_node_acts_alone_when_nobody_tells_it_anything() {
    let sim = Sim::new(2, 6);
    let mut core = Core::new(Config { me: id(0), seed: 5 }, sim.now);
    for n in 0..2 {
        core.handle(0, Event::Member { node: id(n), liveness: Liveness::Alive });
    }
    core.handle(0, Event::ContainersListed);
    core.handle(0, Event::TablesRead);
    assert_eq!(actions(&mut core), []);
    let at = core.poll_timeout().unwrap();
    core.handle(at, Event::Tick);
    assert_eq!(actions(&mut core), []);
    assert!(core.settled() && at == 3_000);
}

#[test]
fn a_row_of_its_own_that_comes_later_is_checked_against_its_containers() {
    let mut core = Core::new(Config { me: id(0), seed: 5 }, 0);
    core.handle(0, Event::ContainersListed);
    core.handle(0, Event::TablesRead);
    let late = crate::health::tests::row("i", "node0", Phase::Running);
    core.handle(5, Event::Instance(Box::new(late)));
    assert_eq!(core.instances["i"].phase, Phase::Failed);
    assert_eq!(core.instances["i"].message, "its container is gone");
}

#[test]
fn a_service_row_that_is_not_understood_leaves_its_instances_alone() {
    for restarted in [false, true] {
        let mut sim = Sim::new(2, 3);
        sim.put_service(spec("a:1", 4), 1, None);
        sim.run(10_000);
        if restarted {
            let old = sim.cores[0].take().unwrap();
            let mut disk = Disk::of(&old);
            disk.services.clear();
            let mut core = Core::new(Config { me: id(0), seed: 99 }, sim.now);
            core.handle(sim.now, Event::ServiceUnclear("web".to_owned()));
            disk.read(&mut core, sim.now);
            for row in old.instances().filter(|row| row.node == id(0)) {
                core.handle(sim.now, Event::Container { id: row.id.clone(), seen: seen_running(&row.id) });
            }
            core.handle(sim.now, Event::ContainersListed);
            sim.cores[0] = Some(core);
        }
        let row = sim.cores[1].as_ref().unwrap().service("web").unwrap().0.clone();
        let newer = ServiceRow { v: 2, generation: 2, spec: spec("b:1", 4), ..row.clone() };
        sim.broadcast(|_| Event::Service(Box::new(newer.clone())));
        sim.broadcast(|_| Event::ServiceUnclear("web".to_owned()));
        sim.run(60_000);
        assert_eq!((sim.slots(), sim.count("a:1")), (numbers(4), 4), "restarted: {restarted}");
        // Understood again, it goes on.
        sim.put_service(spec("a:1", 2), 3, None);
        sim.run(10_000);
        assert_eq!(sim.slots(), numbers(2), "restarted: {restarted}");
    }
}

#[test]
fn nodes_that_may_only_read_place_nothing_and_nobody_waits_for_them() {
    for seed in 0..10 {
        let mut sim = Sim::new(3, seed);
        sim.broadcast(|_| Event::Readers(BTreeSet::from([id(0), id(1)])));
        sim.run(1_000);
        sim.put_service(spec("a:1", 3), 1, None);
        sim.run(1_000);
        assert_eq!(sim.slots(), numbers(3), "seed {seed}");
        assert!(sim.cores[..2].iter().flatten().all(|core| core.pending.is_empty()));
    }
}

#[test]
fn a_container_that_cannot_be_stopped_is_not_called_ended_and_is_tried_again() {
    let mut sim = Sim::new(1, 3);
    sim.put_service(spec("a:1", 1), 1, None);
    sim.run(5_000);
    let instance = sim.running.keys().next().unwrap().1.clone();
    let core = sim.cores[0].as_mut().unwrap();
    core.handle(5_000, Event::Release(0, Release { id: instance.clone(), message: "go".to_owned(), generation: 1 }));
    let stops = |core: &mut Core| actions(core).iter().filter(|action| matches!(action, Action::Stop { .. })).count();
    assert_eq!(stops(core), 0, "it leaves the routes first");
    core.handle(6_000, Event::Tick);
    assert_eq!(stops(core), 1);
    core.handle(6_100, Event::StopFailed { id: instance.clone(), message: "the runtime hangs".to_owned() });
    assert_eq!(stops(core), 0);
    assert_eq!(core.instances[&instance].phase, Phase::Stopping);
    let again = core.poll_timeout().unwrap();
    core.handle(again, Event::Tick);
    assert_eq!(stops(core), 1);
}

#[test]
fn what_worked_leaves_the_routes_a_second_before_it_is_signalled_also_in_an_update() {
    let mut sim = Sim::new(3, 8);
    let old = spec("a:1", 3);
    sim.put_service(old.clone(), 1, None);
    sim.run(10_000);
    let mut new = spec("a:2", 3);
    new.update.order = UpdateOrder::StartFirst;
    sim.put_service(new, 2, Some(old));
    let mut left: BTreeMap<String, Ms> = BTreeMap::new();
    let mut gone = 0;
    for _ in 0..3_000 {
        sim.run(10);
        let rows: Vec<InstanceRow> = sim.cores[0].as_ref().unwrap().instances().cloned().collect();
        for row in rows.into_iter().filter(|row| row.image == "a:1") {
            if row.phase == Phase::Stopping {
                left.entry(row.id.clone()).or_insert(sim.now);
            }
            if row.phase.ended()
                && let Some(since) = left.remove(&row.id)
            {
                assert!(sim.now - since >= 1_000, "{} ms", sim.now - since);
                gone += 1;
            }
        }
    }
    assert_eq!((gone, sim.count("a:2")), (3, 3));
}

#[test]
fn what_a_node_ran_in_its_former_life_does_not_count_until_it_speaks() {
    let mut core = Core::new(Config { me: id(0), seed: 5 }, 0);
    let facts = NodeFacts { v: 1, ..NodeFacts::default() };
    for n in 0..2 {
        core.handle(0, Event::Member { node: id(n), liveness: Liveness::Alive });
        core.handle(0, Event::Facts(id(n), facts.clone()));
    }
    let row = crate::health::tests::row("i", "node1", Phase::Running);
    let service = spec("a:1", 1).accept().unwrap();
    let stands = |core: &Core| core.standing_of(&service, &row);
    // Its process alone was started anew, and nobody gave it up: what it runs, runs.
    core.handle(1, Event::Restarted(id(1)));
    assert_eq!(stands(&core), Standing::Good);
    core.handle(2, Event::Member { node: id(1), liveness: Liveness::Down });
    core.handle(5_000, Event::Restarted(id(1)));
    core.handle(5_000, Event::Member { node: id(1), liveness: Liveness::Alive });
    assert_eq!(stands(&core), Standing::Lost);
    core.handle(5_100, Event::Facts(id(1), facts));
    assert_eq!(stands(&core), Standing::Good);
    // What it said may have come before the news that it is back: it is not waited for long.
    core.handle(5_200, Event::Member { node: id(1), liveness: Liveness::Down });
    core.handle(5_300, Event::Restarted(id(1)));
    core.handle(5_300, Event::Member { node: id(1), liveness: Liveness::Alive });
    assert_eq!(stands(&core), Standing::Lost);
    core.handle(8_300, Event::Tick);
    assert_eq!(stands(&core), Standing::Good);
    // A cut that healed: it is the same life.
    core.handle(8_400, Event::Member { node: id(1), liveness: Liveness::Down });
    core.handle(9_000, Event::Member { node: id(1), liveness: Liveness::Alive });
    assert_eq!(stands(&core), Standing::Good);
    // Whether it is, is not known at first: nothing is sent there, and when it turns out that it is not, nothing counts.
    let doubtful = |core: &Core| core.nodes().any(|node| node.doubtful);
    assert!(doubtful(&core));
    core.handle(9_100, Event::Restarted(id(1)));
    assert_eq!(stands(&core), Standing::Lost);
    core.handle(12_000, Event::Tick);
    assert_eq!((stands(&core), doubtful(&core)), (Standing::Lost, true));
    core.handle(12_100, Event::Tick);
    assert_eq!((stands(&core), doubtful(&core)), (Standing::Good, false));
}

#[test]
fn what_a_reader_says_it_runs_stops_nobody_and_counts_for_nothing() {
    let mut sim = Sim::new(3, 8);
    sim.put_service(spec("a:1", 3), 1, None);
    sim.run(10_000);
    let reader = || "reader".to_owned();
    sim.broadcast(|_| Event::Readers(BTreeSet::from([reader()])));
    sim.broadcast(|_| Event::Member { node: reader(), liveness: Liveness::Alive });
    let true_row = sim.cores[0].as_ref().unwrap().instances().next().unwrap().clone();
    // It works, and is older than the one that is there.
    let row = InstanceRow { id: "0".to_owned(), node: reader(), ..true_row };
    sim.broadcast(|_| Event::Instance(Box::new(row.clone())));
    sim.run(20_000);
    assert_eq!(sim.count("a:1"), 3);
    for core in sim.cores.iter().flatten() {
        assert!(core.instances().all(|row| row.node != reader()));
    }
    // Nor does one that was a member before.
    sim.broadcast(|_| Event::Readers(BTreeSet::new()));
    sim.broadcast(|_| Event::Instance(Box::new(row.clone())));
    sim.broadcast(|_| Event::Readers(BTreeSet::from([reader()])));
    sim.run(1_000);
    for core in sim.cores.iter().flatten() {
        assert!(core.instances().all(|row| row.node != reader()));
    }
}

#[test]
fn what_is_said_of_a_node_that_nobody_named_waits_for_it() {
    let mut core = Core::new(Config { me: id(0), seed: 1 }, 0);
    let policy = NodePolicy { v: 1, availability: Availability::Drain, ..NodePolicy::default() };
    core.handle(1, Event::Policy("gone".to_owned(), Some(policy)));
    assert_eq!(core.nodes().count(), 0, "a row of a node that has left makes no node");
    core.handle(2, Event::Member { node: "gone".to_owned(), liveness: Liveness::Alive });
    assert_eq!(core.nodes().next().unwrap().policy.availability, Availability::Drain);
    core.handle(3, Event::MemberGone("gone".to_owned()));
    assert_eq!(core.nodes().count(), 0);
}

#[test]
fn an_updates_row_that_comes_before_its_service_begins_no_other() {
    let mut sim = Sim::new(3, 8);
    let old = spec("a:1", 3);
    sim.put_service(old.clone(), 1, None);
    sim.run(20_000);
    let new = spec("b:2", 3);
    let revision = new.clone().accept().unwrap().revision;
    let rollout = RolloutRow {
        v: 1,
        service_id: "sid".to_owned(),
        revision: revision.clone(),
        generation: 2,
        state: RolloutState::Updating,
        message: String::new(),
        started_ms: sim.now,
        changed_ms: sim.now,
    };
    sim.broadcast(|_| Event::Rollout("web".to_owned(), rollout.clone()));
    sim.run(500);
    for core in sim.cores.iter().flatten() {
        assert_eq!(core.rollout("web"), Some(&rollout), "it stands as it came");
    }
    assert_eq!(sim.count("a:1"), 3);
    sim.put_service(new, 2, Some(old));
    sim.run(60_000);
    assert_eq!(sim.count("b:2"), 3);
    for core in sim.cores.iter().flatten() {
        assert_eq!(core.rollout("web").unwrap().state, RolloutState::Completed);
    }
}

#[test]
fn an_update_goes_on_beside_a_slot_that_fits_nowhere() {
    // Three nodes take one each: the fourth slot waits for a node that may never come.
    let mut sim = Sim::new(3, 8);
    let one_each = |image: &str| {
        let mut spec = spec(image, 4);
        spec.placement.max_replicas_per_node = 1;
        spec
    };
    sim.put_service(one_each("a:1"), 1, None);
    sim.run(20_000);
    assert_eq!(sim.count("a:1"), 3);
    sim.put_service(one_each("b:2"), 2, Some(one_each("a:1")));
    sim.run(120_000);
    assert_eq!((sim.count("a:1"), sim.count("b:2")), (0, 3));
}
