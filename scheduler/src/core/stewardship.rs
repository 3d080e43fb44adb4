//! The steward's side: what a service lacks is placed, reservations are asked for and their answers taken, updates make
//! their next step. Every node runs this; its place in the service's order says how long it waits first.

use super::{AVOID_MS, Action, BRAKE_WINDOW_MS, BRAKED_PACE_MS, Core, Known, PENDING_MAX, Pending, RESERVE_MS_MAX};
use crate::health::{Next, after_end};
use crate::model::{
    Answer, InstanceRow, Liveness, Ms, Node, NodeId, Phase, Release, Reserve, RolloutRow, RolloutState, Slot,
};
use crate::place::{Placer, Used, eligible, filter::NoFit, means};
use crate::reconcile::{SlotView, Standing, slots, wanted};
use crate::rollout;
use crate::service::UpdateOrder;
use crate::steward::{PATIENCE_MS, rank};
use std::collections::{BTreeMap, BTreeSet};

/// How long each further node in the order waits before it continues an update that does not move.
const ROLLOUT_PATIENCE_MS: u64 = 15_000;
/// How long the row of an update may come after its service's, before another update is begun in its place.
const ROLLOUT_ROW_MS: u64 = 1_000;
/// How long the row of an update may be ahead of its service's, before it is taken for one whose service was never written.
const ROLLOUT_AHEAD_MS: u64 = 10_000;
/// How long to wait after no node fitted; a change of any node or instance comes sooner.
const NO_FIT_RETRY_MS: u64 = 5_000;

/// How long a node that could not get an image once is passed over for it; doubled by each further time that is remembered.
const NO_IMAGE_MS: u64 = 5_000;
/// At most so often: 80 seconds.
const NO_IMAGE_DOUBLINGS: u32 = 4;
/// How long a slot must have been without an instance that fits nowhere for an update to go on without it.
const HOPELESS_MS: u64 = 2_000;

/// When to look again, the earliest of what was asked.
#[derive(Debug, Default)]
struct Wake(Option<Ms>);

impl Wake {
    fn at(&mut self, at: Ms) {
        self.0 = Some(self.0.map_or(at, |before| before.min(at)));
    }
}

impl Core {
    /// Looks at one service and does what this node's place in its order asks for.
    pub(super) fn steward(&mut self, name: &str, used: &mut BTreeMap<NodeId, Used>) {
        if self.retired {
            return;
        }
        let Some(known) = self.services.get(name).filter(|_| !self.unclear.contains(name)).cloned() else { return };
        let now = self.now;
        let places = |node: &&Node| node.liveness == Liveness::Alive && !self.readers.contains(&node.id);
        let alive = self.nodes.values().filter(places).map(|node| &node.id);
        let Some(rank) = rank(&known.row.id, &self.me, alive) else { return };
        let rank = u64::try_from(rank).unwrap_or(u64::MAX);
        let wanted = wanted(&known.service, self.placeable());
        let rows: Vec<_> = self.instances_of(&known.row.id).cloned().collect();
        let ended_at = |row: &InstanceRow| self.ended_seen.get(&row.id).copied().unwrap_or(now);
        let stands = |row: &InstanceRow| self.standing_of(&known.service, row);
        let slots = slots(&known.row, &known.service, &wanted, rows.iter(), stands, ended_at);
        let mut wake = Wake::default();
        self.wake_for_lost(&known, &mut wake);

        let pending: BTreeSet<Slot> = self
            .pending
            .values()
            .filter(|pending| pending.service_id == known.row.id)
            .map(|pending| pending.slot.clone())
            .collect();
        let rollout = self.rollouts.get(name).filter(|row| row.service_id == known.row.id).cloned();
        let order = rollout::order(&known.service, rollout.as_ref());
        let mut missing = BTreeMap::new();
        for slot in &wanted {
            if let Some(attempt) = self.missing(&known, slot, &slots[slot], &pending, order, &mut wake) {
                missing.insert(slot.clone(), attempt);
            }
        }
        let progress_at = self.watches.get(name).map_or(now, |watch| watch.progress_at);
        let turn_at = progress_at.saturating_add(rank.saturating_mul(ROLLOUT_PATIENCE_MS));
        let starts = if now >= turn_at {
            self.advance(&known, rollout.as_ref(), &slots, &wanted, &pending, order, &mut wake)
        } else {
            wake.at(turn_at);
            Vec::new()
        };
        self.forget_found(name, &missing);
        let due = self.due(name, &missing, &slots, rank, &mut wake);
        let due: Vec<(Slot, u32)> = due.into_iter().chain(starts.into_iter().map(|slot| (slot, 0))).collect();
        self.place(&known, due, used, &mut wake);
        self.watches.entry(name.to_owned()).or_default().wake = wake.0;
    }

    /// Returns why a slot of a service has no instance, found anew from what this node knows, whoever its steward is; `None`
    /// when every slot has one, or one is on its way.
    #[must_use]
    pub fn no_fit(&self, name: &str) -> Option<String> {
        let known = self.services.get(name)?;
        let wanted = wanted(&known.service, self.placeable());
        let used = self.used();
        let avoid = BTreeSet::new();
        let has_one = |slot: &Slot| {
            let counts = |row: &InstanceRow| self.standing_of(&known.service, row) != Standing::Lost;
            self.instances_of(&known.row.id).any(|row| row.slot == *slot && !row.phase.ended() && counts(row))
        };
        let waits = |slot: &Slot| {
            // A slot whose instances ended by themselves waits for its restart policy, not for a node.
            let ended = |row: &InstanceRow| {
                row.revision == known.service.revision && matches!(row.phase, Phase::Failed | Phase::Complete)
            };
            self.instances_of(&known.row.id).any(|row| row.slot == *slot && ended(row))
        };
        let missing = wanted.iter().find(|slot| !has_one(slot) && !waits(slot))?;
        match missing {
            Slot::Node(node) => self.fits(known, node, &used, &avoid).err(),
            Slot::Number(_) => {
                let placer = Placer::new(&known.service, &known.row.id, self.placeable(), &used, &avoid);
                (placer.open() == 0).then(|| placer.why())
            }
        }
        .map(|why| why.to_string())
    }

    /// The nodes that instances may be put on: not those that only look.
    pub(crate) fn placeable(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| !self.readers.contains(&node.id))
    }

    /// Asks to come back when a down node's instances are given up.
    fn wake_for_lost(&self, known: &Known, wake: &mut Wake) {
        for node in self.nodes.values().filter(|node| node.liveness == Liveness::Down) {
            let at = node.silent_since_ms.saturating_add(known.service.spec.lost_after_ms);
            if at > self.now {
                wake.at(at);
            }
        }
    }

    /// Returns the count of failures before, when a slot needs a new instance now.
    fn missing(
        &self,
        known: &Known,
        slot: &Slot,
        view: &SlotView<'_>,
        pending: &BTreeSet<Slot>,
        order: UpdateOrder,
        wake: &mut Wake,
    ) -> Option<u32> {
        if !view.current.is_empty() || !view.outdated.is_empty() || pending.contains(slot) {
            return None;
        }
        let last_first = order == UpdateOrder::StopFirst && known.service.spec.excludes_overlap();
        if last_first && (!view.leaving.is_empty() || !view.stopping.is_empty()) {
            return None;
        }
        // Stop first: what an update replaces has ended before its successor starts.
        let is_outdated = |row: &&InstanceRow| row.revision != known.service.revision;
        if order == UpdateOrder::StopFirst && view.stopping.iter().any(is_outdated) {
            return None;
        }
        let Some(last) = view.ended else { return Some(0) };
        match after_end(&known.service.spec.template.restart, last) {
            Next::Never => None,
            Next::After { wait_ms, attempt } => {
                // What went with its node has not crashed, however often nodes go.
                let first = (wait_ms.min(known.service.spec.template.restart.delay_ms), 0);
                let (wait_ms, attempt) = if view.lost_last { first } else { (wait_ms, attempt) };
                let seen = self.ended_seen.get(&last.id).copied().unwrap_or(self.now);
                if seen.saturating_add(wait_ms) <= self.now {
                    return Some(attempt);
                }
                wake.at(seen.saturating_add(wait_ms));
                None
            }
        }
    }

    fn forget_found(&mut self, name: &str, missing: &BTreeMap<Slot, u32>) {
        let now = self.now;
        let watch = self.watches.entry(name.to_owned()).or_default();
        watch.missing_since.retain(|slot, _| missing.contains_key(slot));
        for slot in missing.keys() {
            watch.missing_since.entry(slot.clone()).or_insert(now);
        }
        if missing.is_empty() {
            watch.no_fit = None;
        }
        watch.avoid.retain(|_, until| *until > now);
    }

    /// The missing slots whose turn has come: this node's place in the order and the brake allow it.
    fn due(
        &mut self,
        name: &str,
        missing: &BTreeMap<Slot, u32>,
        slots: &BTreeMap<Slot, SlotView<'_>>,
        rank: u64,
        wake: &mut Wake,
    ) -> Vec<(Slot, u32)> {
        let now = self.now;
        let mut due = Vec::new();
        for (slot, attempt) in missing {
            let since = self.watches.get(name).and_then(|watch| watch.missing_since.get(slot)).copied().unwrap_or(now);
            let turn_at = since.saturating_add(rank.saturating_mul(PATIENCE_MS));
            if turn_at > now {
                wake.at(turn_at);
                continue;
            }
            if slots[slot].lost && now < self.brake_until {
                let at = self.braked_next.max(self.brake_begun + BRAKE_WINDOW_MS);
                if at > now {
                    wake.at(at);
                    continue;
                }
                self.braked_next = now + BRAKED_PACE_MS;
            }
            due.push((slot.clone(), *attempt));
        }
        due
    }

    /// Chooses nodes for slots and asks them.
    fn place(&mut self, known: &Known, due: Vec<(Slot, u32)>, used: &mut BTreeMap<NodeId, Used>, wake: &mut Wake) {
        if due.is_empty() {
            return;
        }
        let name = known.row.spec.name.clone();
        let avoid: BTreeSet<NodeId> =
            self.watches.get(&name).map(|watch| watch.avoid.keys().cloned().collect()).unwrap_or_default();
        let mut dice = self.dice.clone();
        let mut chosen: Vec<(Slot, u32, NodeId)> = Vec::new();
        let mut why: Option<NoFit> = None;
        {
            let failing = self.without_image(known, wake);
            let mut placer =
                Placer::new(&known.service, &known.row.id, self.placeable(), used, &avoid).without(failing);
            let room = PENDING_MAX.saturating_sub(self.pending.len());
            for (slot, attempt) in due.into_iter().take(room) {
                let node = match &slot {
                    Slot::Node(node) => self.fits(known, node, used, &avoid),
                    Slot::Number(_) => placer.place(&mut dice),
                };
                match node {
                    Ok(node) => chosen.push((slot, attempt, node)),
                    Err(no_fit) => {
                        why = Some(no_fit);
                        if matches!(slot, Slot::Number(_)) {
                            break;
                        }
                    }
                }
            }
        }
        self.dice = dice;
        self.tell_no_fit(&name, why, wake);
        let amount = known.service.spec.template.resources.reservations;
        for (slot, attempt, node) in chosen {
            let id = self.dice.id(self.now);
            let on_node = used.entry(node.clone()).or_default();
            on_node.amount.cpu_nanos = on_node.amount.cpu_nanos.saturating_add(amount.cpu_nanos);
            on_node.amount.memory_bytes = on_node.amount.memory_bytes.saturating_add(amount.memory_bytes);
            *on_node.per_service.entry(known.row.id.clone()).or_default() += 1;
            self.pending.insert(
                id.clone(),
                Pending {
                    service: name.clone(),
                    service_id: known.row.id.clone(),
                    slot: slot.clone(),
                    node: node.clone(),
                    amount,
                    deadline: self.now + RESERVE_MS_MAX,
                },
            );
            self.actions
                .push_back(Action::Reserve(node, Box::new(Reserve { id, slot, attempt, service: known.row.clone() })));
        }
    }

    /// Nodes that could not get the service's image lately: longer the oftener they could not.
    fn without_image(&self, known: &Known, wake: &mut Wake) -> BTreeSet<NodeId> {
        let failed = |row: &&InstanceRow| row.no_image && row.image == known.service.spec.template.image;
        let mut nodes: BTreeMap<&NodeId, (Ms, u32)> = BTreeMap::new();
        for row in self.instances_of(&known.row.id).filter(failed) {
            let seen = self.ended_seen.get(&row.id).copied().unwrap_or(self.now);
            let entry = nodes.entry(&row.node).or_default();
            *entry = (entry.0.max(seen), entry.1 + 1);
        }
        let mut out = BTreeSet::new();
        for (node, (last, times)) in nodes {
            let until = last + NO_IMAGE_MS.saturating_mul(1 << times.min(NO_IMAGE_DOUBLINGS));
            if until > self.now {
                wake.at(until);
                out.insert(node.clone());
            }
        }
        out
    }

    /// Checks the one node that a global service's slot names.
    fn fits(
        &self,
        known: &Known,
        node: &NodeId,
        used: &BTreeMap<NodeId, Used>,
        avoid: &BTreeSet<NodeId>,
    ) -> Result<NodeId, NoFit> {
        let mut no_fit = NoFit::new(&known.row.spec.name);
        no_fit.total = 1;
        let Some(view) = self.nodes.get(node) else { return Err(no_fit) };
        let nothing = Used::default();
        let used = used.get(node).unwrap_or(&nothing);
        let obstacle = eligible(&known.service, view)
            .err()
            .or_else(|| means(&known.service, &known.row.id, view, used).err())
            .or_else(|| avoid.contains(node).then_some(crate::place::filter::Obstacle::Refused));
        match obstacle {
            None => Ok(node.clone()),
            Some(obstacle) => {
                no_fit.count(obstacle);
                Err(no_fit)
            }
        }
    }

    fn tell_no_fit(&mut self, name: &str, why: Option<NoFit>, wake: &mut Wake) {
        let text = why.map(|why| why.to_string());
        if text.is_some() {
            wake.at(self.now + NO_FIT_RETRY_MS);
        }
        let watch = self.watches.entry(name.to_owned()).or_default();
        if watch.no_fit == text {
            return;
        }
        watch.no_fit.clone_from(&text);
        if let Some(text) = text {
            self.note("no-fit", name, text);
        }
    }

    /// Takes the answer of a target.
    pub(super) fn reserve_answered(&mut self, id: &str, answer: Answer) {
        let Some(pending) = self.pending.get_mut(id) else { return };
        match answer {
            // It counts as under way until its row is seen.
            Answer::Accepted => pending.deadline = self.now + RESERVE_MS_MAX,
            Answer::Refused(reason) => {
                let pending = self.pending.remove(id).expect("it was just there");
                let until = self.now + AVOID_MS;
                let watch = self.watches.entry(pending.service.clone()).or_default();
                watch.avoid.insert(pending.node.clone(), until);
                let slot = pending.slot.task_name(&pending.service);
                self.note("refused", &pending.service, format!("{} does not take {slot}: {reason}", pending.node));
                self.dirty.insert(pending.service);
            }
        }
    }

    /// Makes the next step of an update; returns the slots for which a new instance starts beside the old one.
    #[expect(clippy::too_many_arguments, reason = "one story told in order, from facts already gathered")]
    fn advance(
        &mut self,
        known: &Known,
        rollout: Option<&RolloutRow>,
        slots: &BTreeMap<Slot, SlotView<'_>>,
        wanted: &[Slot],
        pending: &BTreeSet<Slot>,
        order: UpdateOrder,
        wake: &mut Wake,
    ) -> Vec<Slot> {
        let now = self.now;
        let config = *rollout::config(&known.service, rollout);
        let since = |row: &&InstanceRow| self.works_since.get(&row.id).copied();
        let current: Vec<Option<Ms>> = slots.values().flat_map(|view| &view.current).map(&since).collect();
        let settle_ms = match known.service.spec.template.healthcheck {
            Some(_) => 0,
            None => config.monitor_ms.min(rollout::SETTLE_MS),
        };
        let settled: BTreeSet<String> = slots
            .values()
            .flat_map(|view| &view.current)
            .filter(|row| since(row).is_some_and(|at| now >= at.saturating_add(settle_ms)))
            .map(|row| row.id.clone())
            .collect();
        let last = current.iter().flatten().max().copied();
        let monitored_at = last.map_or(0, |at| at.saturating_add(config.monitor_ms));
        let delay_at = last.map_or(0, |at| at.saturating_add(config.delay_ms));
        let hopeless = self.hopeless(known, slots, wanted, pending, wake);
        let generation = rollout.map_or(u64::MAX, |row| row.generation);
        let failed: BTreeSet<&Slot> = self
            .instances_of(&known.row.id)
            .filter(|row| row.phase == Phase::Failed && row.revision == known.service.revision)
            .filter(|row| row.generation >= generation)
            .map(|row| &row.slot)
            .collect();
        let step = rollout::step(&rollout::Facts {
            service: &known.service,
            rollout,
            slots,
            wanted,
            pending,
            settled: &settled,
            hopeless: &hopeless,
            failed: failed.len(),
            delay_over: now >= delay_at,
            monitored: current.iter().all(Option::is_some) && now >= monitored_at,
            can_roll_back: known.row.previous.is_some(),
            rolled_back: known.row.rolled_back,
        });
        let unseen = rollout.is_none_or(|row| row.revision != known.service.revision);
        if unseen && step.state.is_some() {
            // Who changed the service wrote the update's row before; the two travel apart.
            let changed_at = self.watches.get(&known.row.spec.name).map_or(now, |watch| watch.changed_at);
            // The row of a later change is ahead of its service's, which may have been cut off on its way.
            let is_later = rollout.is_some_and(|row| row.generation > known.row.generation);
            let begins_at = changed_at + if is_later { ROLLOUT_AHEAD_MS } else { ROLLOUT_ROW_MS };
            if now < begins_at {
                wake.at(begins_at);
                return Vec::new();
            }
        }
        let under_way = rollout.is_some_and(|row| {
            row.revision == known.service.revision
                && matches!(row.state, RolloutState::Updating | RolloutState::RollbackStarted)
        });
        if under_way {
            let settled_at = last.map_or(0, |at| at.saturating_add(settle_ms));
            for at in [monitored_at, delay_at, settled_at].into_iter().filter(|at| *at > now) {
                wake.at(at);
            }
        }
        self.apply(known, rollout, slots, step, order)
    }

    /// Slots that stay empty for now: their tasks have done what they were to do, or nothing fits them.
    fn hopeless(
        &self,
        known: &Known,
        slots: &BTreeMap<Slot, SlotView<'_>>,
        wanted: &[Slot],
        pending: &BTreeSet<Slot>,
        wake: &mut Wake,
    ) -> BTreeSet<Slot> {
        let watch = self.watches.get(&known.row.spec.name);
        let nowhere = watch.is_some_and(|watch| watch.no_fit.is_some());
        let mut waits_in_vain = |slot: &Slot| {
            let Some(since) = watch.and_then(|watch| watch.missing_since.get(slot)).filter(|_| nowhere) else {
                return false;
            };
            let at = since + HOPELESS_MS;
            if at > self.now {
                wake.at(at);
            }
            at <= self.now
        };
        let is_hopeless = |slot: &&Slot| {
            let view = &slots[*slot];
            let empty = view.current.is_empty() && view.outdated.is_empty() && view.leaving.is_empty();
            if !empty || !view.stopping.is_empty() || pending.contains(*slot) {
                return false;
            }
            let ended = |last| matches!(after_end(&known.service.spec.template.restart, last), Next::Never);
            view.ended.is_some_and(ended) || waits_in_vain(slot)
        };
        wanted.iter().filter(is_hopeless).cloned().collect()
    }

    fn apply(
        &mut self,
        known: &Known,
        rollout: Option<&RolloutRow>,
        slots: &BTreeMap<Slot, SlotView<'_>>,
        step: rollout::Step,
        order: UpdateOrder,
    ) -> Vec<Slot> {
        let name = known.row.spec.name.clone();
        if let Some((state, message)) = step.state {
            let mut service = known.row.clone();
            if step.roll_back {
                service = rollout::rolled_back(&known.row, self.now);
            }
            let revision = service.spec.clone().accept().map_or_else(|_| String::new(), |accepted| accepted.revision);
            // What an earlier update left behind tells nothing about this one.
            let rollout = rollout.filter(|row| step.roll_back || row.revision == revision);
            let row = RolloutRow {
                v: 1,
                service_id: service.id.clone(),
                revision,
                generation: if step.roll_back || rollout.is_none() {
                    service.generation
                } else {
                    rollout.map_or(0, |row| row.generation)
                },
                state,
                message: message.clone(),
                started_ms: rollout.map_or(self.now, |row| row.started_ms),
                changed_ms: self.now,
            };
            self.note("rollout", &name, format!("{state:?} {message}").trim_end().to_owned());
            self.rollouts.insert(name.clone(), row.clone());
            self.actions.push_back(Action::PutRollout(name.clone(), row));
            if step.roll_back {
                self.actions.push_back(Action::PutService(Box::new(service.clone())));
                self.service_changed(service);
            }
            self.dirty.insert(name);
            return Vec::new();
        }
        if order == UpdateOrder::StartFirst {
            return step.replace;
        }
        for row in step.replace.iter().flat_map(|slot| &slots[slot].outdated) {
            let message = "replaced by an update".to_owned();
            let release = Release { id: row.id.clone(), message, generation: known.row.generation };
            self.actions.push_back(Action::Release(row.node.clone(), release));
        }
        Vec::new()
    }
}
