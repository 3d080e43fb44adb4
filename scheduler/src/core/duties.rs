//! The owner's side: what this node does with the instances it runs. It alone admits, starts, stops and writes their rows;
//! which of its instances are superfluous it derives from rows, nobody has to tell it.

use super::{Action, Core, HISTORY_MAX, Known, Own};
use crate::model::{Answer, Health, InstanceRow, Liveness, Ms, Phase, Release, Reserve, Slot};
use crate::place::{Used, admit};
use crate::port::Observed;
use crate::reconcile::{Standing, standing};
use crate::service::{Mode, PortMode};
use std::collections::{BTreeMap, BTreeSet};

/// How long the winner among duplicates must be seen working before the loser stops.
const DUPLICATE_GRACE_MS: u64 = 2_000;
/// From "stopping" in the table to the stop signal, for instances that worked: every node has taken them out of its routes and
/// names by then.
const ROUTES_MS: u64 = 1_000;
/// An instance on a draining node stops at the latest after this time, replaced or not.
const DRAIN_MS_MAX: u64 = 30_000;
/// An instance whose service is unknown stops after this time; the row of a new service may come later than the
/// reservation.
const ORPHAN_MS: u64 = 10_000;
/// How long after a failed stop it is tried again.
const STOP_AGAIN_MS: u64 = 2_000;

impl Core {
    /// Admits or refuses one more instance, against what this node itself knows.
    pub(super) fn reserve_asked(&mut self, call: u64, reserve: Reserve) {
        let answer = match self.admitted(&reserve) {
            Ok(()) => Answer::Accepted,
            Err(reason) => Answer::Refused(reason),
        };
        self.actions.push_back(Action::Answer(call, answer));
    }

    fn admitted(&mut self, reserve: &Reserve) -> Result<(), String> {
        if self.instances.contains_key(&reserve.id) {
            return Ok(());
        }
        if self.retired {
            return Err("it is no member any more".to_owned());
        }
        if !self.ready() {
            return Err("it has just started and looks for its containers".to_owned());
        }
        if self.unclear.contains(&reserve.service.spec.name) {
            return Err("it does not understand the service's row".to_owned());
        }
        let service = reserve.service.spec.clone().accept().map_err(|error| error.to_string())?;
        if let Some(known) = self.services.get(&service.spec.name)
            && known.row.id == reserve.service.id
            && known.row.generation > reserve.service.generation
        {
            return Err("it knows a newer generation of the service".to_owned());
        }
        let node = self.nodes.get(&self.me).ok_or_else(|| "its facts are not known yet".to_owned())?;
        let mut used = Used::default();
        for row in self.instances.values().filter(|row| row.node == self.me && !row.phase.ended()) {
            used.add(row);
        }
        admit(&service, &reserve.service.id, node, &used).map_err(|obstacle| obstacle.to_string())?;
        let me = self.me.clone();
        let same = |row: &&InstanceRow| row.node == me && row.slot == reserve.slot && row.revision == service.revision;
        if self.instances_of(&reserve.service.id).filter(same).any(|row| !row.phase.ended()) {
            return Err("it runs an instance of this slot".to_owned());
        }
        let host_ports = service
            .spec
            .ports
            .iter()
            .filter(|port| port.mode == PortMode::Host && port.published != 0)
            .copied()
            .collect();
        let row = InstanceRow {
            v: 1,
            id: reserve.id.clone(),
            node: self.me.clone(),
            service: service.spec.name.clone(),
            service_id: reserve.service.id.clone(),
            slot: reserve.slot.clone(),
            revision: service.revision.clone(),
            generation: reserve.service.generation,
            image: service.spec.template.image.clone(),
            reserved: service.spec.template.resources.reservations,
            host_ports,
            phase: Phase::Reserved,
            health: Health::None,
            attempt: reserve.attempt,
            container: None,
            addresses: Vec::new(),
            exit_code: None,
            message: String::new(),
            no_image: false,
            ran_ms: 0,
            created_ms: self.now,
            changed_ms: self.now,
            extra: BTreeMap::new(),
        };
        let known = Known { row: reserve.service.clone(), service };
        self.own.insert(row.id.clone(), Own { reserved_with: Some(Box::new(known)), ..Own::default() });
        self.put(row);
        Ok(())
    }

    /// Stops an instance because the steward of its service says so.
    pub(super) fn release_asked(&mut self, call: u64, release: &Release) {
        let answer = match self.instances.get(&release.id) {
            Some(row) if row.node == self.me && self.is_outdated_by(row, release) => {
                Answer::Refused("it knows a newer generation of the service".to_owned())
            }
            Some(row) if row.node == self.me => {
                self.stop(&release.id, &release.message);
                Answer::Accepted
            }
            _ => Answer::Refused("no such instance here".to_owned()),
        };
        self.actions.push_back(Action::Answer(call, answer));
    }

    /// Whether who asks to stop an instance has not seen the service's last change yet.
    fn is_outdated_by(&self, row: &InstanceRow, release: &Release) -> bool {
        let known = self.services.get(&row.service).filter(|known| known.row.id == row.service_id);
        release.generation != 0 && known.is_some_and(|known| known.row.generation > release.generation)
    }

    /// Takes what the engine sees of a container.
    pub(super) fn container_seen(&mut self, id: &str, seen: Observed) {
        if self.too_early(id, &seen) {
            return;
        }
        let Some(mut row) = self.instances.get(id).filter(|row| row.node == self.me).cloned() else {
            // A container with our label and no row: a row that was dropped while this node was down.
            self.actions.push_back(Action::Remove(id.to_owned()));
            return;
        };
        let now = self.now;
        let own = self.own.entry(id.to_owned()).or_default();
        own.seen = true;
        if row.phase.ended() {
            if matches!(seen, Observed::Running { .. }) {
                self.actions.push_back(Action::Stop { id: id.to_owned(), grace_ms: 0 });
            }
            return;
        }
        // Not had the image is an end like others, and remembered as what it is.
        let seen = match seen {
            Observed::NoImage(message) => {
                row.no_image = true;
                Observed::Ended { code: None, message }
            }
            seen => seen,
        };
        match seen {
            Observed::NoImage(_) => {}
            Observed::Preparing => advance(&mut row, Phase::Preparing),
            Observed::Starting => advance(&mut row, Phase::Starting),
            Observed::Running { container, health, addresses } => {
                own.start_sent = true;
                own.running_since.get_or_insert(now);
                if own.stop_sent && row.phase == Phase::Stopping {
                    return;
                }
                row.container = Some(container);
                row.health = health;
                row.addresses = addresses;
                advance(&mut row, Phase::Running);
                if health == Health::Unhealthy && own.failing.is_none() {
                    own.failing = Some("unhealthy: its health check failed".to_owned());
                    self.put_if_changed(row);
                    self.stop(id, "unhealthy");
                    return;
                }
            }
            Observed::Ended { code, message } => {
                row.ran_ms = own.running_since.map_or(row.ran_ms, |since| now - since);
                row.exit_code = code;
                let ordered = row.phase == Phase::Stopping;
                let failing = own.failing.take();
                row.phase = match (&failing, ordered, code) {
                    (Some(_), _, _) => Phase::Failed,
                    (None, true, _) => Phase::Shutdown,
                    (None, false, Some(0)) => Phase::Complete,
                    (None, false, _) => Phase::Failed,
                };
                if let Some(message) = failing.or_else(|| (!ordered || row.message.is_empty()).then_some(message)) {
                    row.message = message;
                }
                let task = row.slot.task_name(&row.service);
                let code = code.map_or_else(String::new, |code| format!(", exit code {code}"));
                let text = format!("{task} {}{code}: {}", row.phase.word().to_lowercase(), row.message);
                self.note("ended", &row.service, text.trim_end_matches([':', ' ']).to_owned());
            }
        }
        self.put_if_changed(row);
    }

    /// Instances without a container after all were listed: those that never had one are started, the others have failed.
    pub(super) fn missing_containers(&mut self) {
        let ids: Vec<String> = self
            .own
            .iter()
            .filter(|(id, own)| !own.seen && self.instances.get(*id).is_some_and(|row| !row.phase.ended()))
            .map(|(id, _)| id.clone())
            .collect();
        for id in ids {
            let Some(row) = self.instances.get(&id) else { continue };
            match row.phase {
                Phase::Reserved | Phase::Preparing | Phase::Starting => {}
                _ => {
                    let message = "its container is gone".to_owned();
                    self.container_seen(&id, Observed::Ended { code: None, message });
                }
            }
        }
        self.own_dirty = true;
    }

    /// Takes that a container could not be stopped: it is still there, and it is tried again.
    pub(super) fn stop_failed(&mut self, id: &str, message: &str) {
        let now = self.now;
        let Some(row) = self.instances.get(id).filter(|row| row.node == self.me && !row.phase.ended()) else { return };
        let (service, task) = (row.service.clone(), row.slot.task_name(&row.service));
        let own = self.own.entry(id.to_owned()).or_default();
        own.stop_sent = false;
        own.stop_at = Some(now + STOP_AGAIN_MS);
        self.own_dirty = true;
        self.note("stop", &service, format!("{task} could not be stopped and is tried again: {message}"));
    }

    /// Gives every instance back.
    pub(super) fn retire(&mut self) {
        self.retired = true;
        let mine: Vec<String> = self.own.keys().cloned().collect();
        for id in mine {
            self.stop(&id, "the node leaves the mesh");
        }
    }

    /// Does what is due for every instance this node runs.
    pub(super) fn do_duties(&mut self) {
        self.own_wake = None;
        let mine: Vec<String> = self.own.keys().cloned().collect();
        for id in &mine {
            let Some(row) = self.instances.get(id).cloned() else { continue };
            if row.phase.ended() {
                continue;
            }
            if row.phase != Phase::Stopping
                && let Some(reason) = self.superfluous(&row)
            {
                self.stop(id, &reason);
            }
            self.drive(id);
        }
        self.prune(&mine);
    }

    /// Starts what is reserved, signals what has waited long enough.
    fn drive(&mut self, id: &str) {
        let Some(row) = self.instances.get(id).cloned() else { return };
        let now = self.now;
        let listed = self.ready();
        let unclear = self.unclear.contains(&row.service);
        let known = self.known_for(&row);
        let own = self.own.entry(id.to_owned()).or_default();
        match row.phase {
            Phase::Stopping => {
                let at = *own.stop_at.get_or_insert(now);
                if own.stop_sent || !listed {
                    return;
                }
                if at > now {
                    self.wake_own(at);
                    return;
                }
                own.stop_sent = true;
                // Of an older template only what the service keeps of it is known.
                let kept = || {
                    let service = &self.services.get(&row.service).filter(|known| known.row.id == row.service_id)?.row;
                    Some(service.previous.as_deref().unwrap_or(&service.spec).template.stop_grace_ms)
                };
                let grace_ms = known.map(|known| known.service.spec.template.stop_grace_ms).or_else(kept);
                let grace_ms = grace_ms.unwrap_or(10_000);
                if own.start_sent || own.seen {
                    self.actions.push_back(Action::Stop { id: id.to_owned(), grace_ms });
                } else {
                    self.container_seen(id, Observed::Ended { code: None, message: String::new() });
                }
            }
            Phase::Reserved | Phase::Preparing | Phase::Starting if !own.start_sent && listed && !unclear => {
                let Some(known) = known.filter(|known| known.service.revision == row.revision) else {
                    let message = "its template is no longer known".to_owned();
                    own.failing = None;
                    self.container_seen(id, Observed::Ended { code: None, message });
                    return;
                };
                own.start_sent = true;
                self.actions.push_back(Action::Start(Box::new(row), Box::new(known.service)));
            }
            _ => {}
        }
    }

    /// Returns why an instance is no longer wanted here.
    fn superfluous(&mut self, row: &InstanceRow) -> Option<String> {
        let now = self.now;
        if self.unclear.contains(&row.service) {
            return None;
        }
        let table = self.services.get(&row.service).filter(|known| known.row.id == row.service_id).cloned();
        let Some(known) = table else {
            let newer = self.services.contains_key(&row.service);
            let own = self.own.entry(row.id.clone()).or_default();
            let since = *own.orphan_since.get_or_insert(now);
            // A row of the same name with another id: the service was removed and made again.
            let wait = if own.reserved_with.is_some() && !newer { ORPHAN_MS } else { 0 };
            if now >= since + wait {
                return Some("its service was removed".to_owned());
            }
            self.wake_own(since + wait);
            return None;
        };
        let own = self.own.entry(row.id.clone()).or_default();
        own.orphan_since = None;
        own.reserved_with = None;
        let wanted = match (&row.slot, known.service.spec.mode) {
            (Slot::Number(number), Mode::Replicated { replicas }) => *number < replicas,
            (Slot::Node(node), Mode::Global) => *node == self.me,
            _ => false,
        };
        if !wanted {
            return Some("the service was scaled down".to_owned());
        }
        let others = self.others(row, &known);
        let replaced = others.iter().any(|other| other.revision == known.service.revision && other.works());
        if row.revision != known.service.revision && replaced {
            return Some("replaced by an update".to_owned());
        }
        self.leaving(row, &known, replaced).or_else(|| self.duplicate(row, &others))
    }

    /// Instances of the same slot that count.
    fn others(&self, row: &InstanceRow, known: &Known) -> Vec<InstanceRow> {
        self.instances_of(&row.service_id)
            .filter(|other| other.id != row.id && other.slot == row.slot && !other.phase.ended())
            .filter(|other| other.phase != Phase::Stopping)
            .filter(|other| self.standing_of(&known.service, other) == Standing::Good)
            .filter(|other| self.nodes.get(&other.node).is_some_and(|node| node.liveness == Liveness::Alive))
            .cloned()
            .collect()
    }

    fn leaving(&mut self, row: &InstanceRow, known: &Known, replaced: bool) -> Option<String> {
        let now = self.now;
        let leaving =
            self.nodes.get(&self.me).is_some_and(|node| standing(&known.service, node, now) == Standing::Leaving);
        let own = self.own.entry(row.id.clone()).or_default();
        if !leaving {
            own.leaving_since = None;
            return None;
        }
        let since = *own.leaving_since.get_or_insert(now);
        let at_once = replaced || known.service.spec.excludes_overlap() || known.service.spec.mode == Mode::Global;
        if at_once || now >= since + DRAIN_MS_MAX {
            return Some("it may no longer run on this node".to_owned());
        }
        self.wake_own(since + DRAIN_MS_MAX);
        None
    }

    fn duplicate(&mut self, row: &InstanceRow, others: &[InstanceRow]) -> Option<String> {
        let now = self.now;
        let beaten = others.iter().any(|other| other.revision == row.revision && other.works() && other.beats(row));
        let own = self.own.entry(row.id.clone()).or_default();
        if !beaten {
            own.beaten_since = None;
            return None;
        }
        let since = *own.beaten_since.get_or_insert(now);
        if now >= since + DUPLICATE_GRACE_MS {
            let task = row.slot.task_name(&row.service);
            self.note("duplicate", &row.service, format!("{task} runs twice: the one on this node stops"));
            return Some("another instance of its slot works".to_owned());
        }
        self.wake_own(since + DUPLICATE_GRACE_MS);
        None
    }

    /// Takes an instance out of the routes now, and stops it when everybody knows.
    fn stop(&mut self, id: &str, reason: &str) {
        let Some(mut row) = self.instances.get(id).cloned() else { return };
        if row.phase.ended() || row.phase == Phase::Stopping {
            return;
        }
        // By ports or by name: whatever works is being used, also one of an older template, which is no longer known here.
        let routed = row.works();
        let own = self.own.entry(id.to_owned()).or_default();
        own.stop_at = Some(if routed { self.now + ROUTES_MS } else { self.now });
        row.phase = Phase::Stopping;
        row.message = reason.to_owned();
        self.put(row);
    }

    /// Drops the rows and containers of old ended instances.
    fn prune(&mut self, mine: &[String]) {
        let mut kept: BTreeMap<(&str, Slot), usize> = BTreeMap::new();
        let mut drop: BTreeSet<String> = BTreeSet::new();
        for id in mine.iter().rev() {
            let Some(row) = self.instances.get(id).filter(|row| row.phase.ended()) else { continue };
            let known = self.services.get(&row.service).filter(|known| known.row.id == row.service_id);
            let beyond = match (&row.slot, known.map(|known| known.service.spec.mode)) {
                (Slot::Number(number), Some(Mode::Replicated { replicas })) => *number >= replicas,
                (_, None) => !self.unclear.contains(&row.service),
                _ => false,
            };
            let count = kept.entry((&row.service_id, row.slot.clone())).or_default();
            *count += 1;
            if beyond || *count > HISTORY_MAX {
                drop.insert(id.clone());
            }
        }
        for id in drop {
            self.actions.push_back(Action::Remove(id.clone()));
            self.actions.push_back(Action::DropInstance(id.clone()));
            self.instance_gone(&id);
        }
    }

    /// The service an instance was made from: the table's, else the one the reservation carried.
    fn known_for(&self, row: &InstanceRow) -> Option<Known> {
        let table = self
            .services
            .get(&row.service)
            .filter(|known| known.row.id == row.service_id && known.service.revision == row.revision);
        let carried = || self.own.get(&row.id).and_then(|own| own.reserved_with.as_deref());
        table.or_else(carried).cloned()
    }

    fn wake_own(&mut self, at: Ms) {
        self.own_wake = Some(self.own_wake.map_or(at, |before| before.min(at)));
    }

    fn put_if_changed(&mut self, row: InstanceRow) {
        if self.instances.get(&row.id) != Some(&row) {
            self.put(row);
        }
    }

    fn put(&mut self, mut row: InstanceRow) {
        if self.instances.get(&row.id).is_none_or(|before| before.phase != row.phase) {
            row.changed_ms = self.now;
        }
        self.index(row.clone());
        self.actions.push_back(Action::PutInstance(Box::new(row)));
    }
}

/// Moves a row forward; phases never go back.
fn advance(row: &mut InstanceRow, phase: Phase) {
    row.phase = row.phase.max(phase);
}
