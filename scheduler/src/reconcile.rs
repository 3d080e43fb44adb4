//! Want − have, slot by slot: which instances fill a slot, which are outdated, which are on their way out. Pure and
//! level-triggered: the same rows give the same answer, whatever happened before.

use crate::model::Availability;
use crate::model::{InstanceRow, Liveness, Ms, Node, Phase, ServiceRow, Slot};
use crate::place::{allowed, filter::Obstacle};
use crate::service::{Mode, Service};
use std::collections::BTreeMap;

/// What a node's state means for the instances on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// They count.
    Good,
    /// They work, but shall move away (drain, a constraint no longer fulfilled).
    Leaving,
    /// They are given up.
    Lost,
}

/// Says what a node's state means for a service's instances on it at `now`.
#[must_use]
pub fn standing(service: &Service, node: &Node, now: Ms) -> Standing {
    match node.liveness {
        Liveness::Left => return Standing::Lost,
        Liveness::Down if now >= node.silent_since_ms.saturating_add(service.spec.lost_after_ms) => {
            return Standing::Lost;
        }
        _ if node.unheard => return Standing::Lost,
        _ => {}
    }
    let moved = node.policy.availability == Availability::Drain
        || (node.facts.v != 0 && matches!(allowed(service, node), Err(Obstacle::Constraint(_))));
    if moved { Standing::Leaving } else { Standing::Good }
}

/// What there is in one slot.
#[derive(Debug, Clone, Default)]
pub struct SlotView<'a> {
    /// Active instances with the wanted revision on good nodes, the one that survives first.
    pub current: Vec<&'a InstanceRow>,
    /// Active instances with another revision on good nodes.
    pub outdated: Vec<&'a InstanceRow>,
    /// Active instances on nodes they shall leave.
    pub leaving: Vec<&'a InstanceRow>,
    /// Instances that were told to stop and have not ended.
    pub stopping: Vec<&'a InstanceRow>,
    /// The instance with the wanted revision whose end was seen last.
    pub ended: Option<&'a InstanceRow>,
    /// Whether an active instance was on a node that is given up.
    pub lost: bool,
    /// Whether such a one was made after `ended`: then no end of its own emptied the slot.
    pub lost_last: bool,
}

impl SlotView<'_> {
    /// Says whether some instance of the slot, old or new, does its work.
    #[must_use]
    pub fn works(&self) -> bool {
        self.current.iter().chain(&self.outdated).chain(&self.leaving).any(|row| row.works())
    }
}

/// Returns the slots a service wants.
#[must_use]
pub fn wanted<'a>(service: &Service, nodes: impl Iterator<Item = &'a Node>) -> Vec<Slot> {
    match service.spec.mode {
        Mode::Replicated { replicas } => (0..replicas).map(Slot::Number).collect(),
        Mode::Global => nodes
            .filter(|node| matches!(node.liveness, Liveness::Alive | Liveness::Suspect))
            .filter(|node| node.policy.availability != Availability::Drain && node.facts.v != 0)
            .filter(|node| allowed(service, node).is_ok())
            .map(|node| Slot::Node(node.id.clone()))
            .collect(),
    }
}

/// Sorts a service's instances into its slots. `stands` says what an instance's node means, `ended_at` when its end was seen
/// here (ids carry the clocks of many nodes, so they do not order ends); every slot that is wanted or has an instance appears.
pub fn slots<'a>(
    row: &ServiceRow,
    service: &Service,
    wanted: &[Slot],
    instances: impl Iterator<Item = &'a InstanceRow>,
    stands: impl Fn(&InstanceRow) -> Standing,
    ended_at: impl Fn(&InstanceRow) -> Ms,
) -> BTreeMap<Slot, SlotView<'a>> {
    let mut out: BTreeMap<Slot, SlotView<'a>> = wanted.iter().map(|slot| (slot.clone(), SlotView::default())).collect();
    let mut lost: BTreeMap<&Slot, &str> = BTreeMap::new();
    for instance in instances.filter(|instance| instance.service_id == row.id) {
        let view = out.entry(instance.slot.clone()).or_default();
        let newest = lost.entry(&instance.slot).or_default();
        let is_current = instance.revision == service.revision;
        if instance.phase.ended() {
            let order = |row: &'a InstanceRow| (ended_at(row), &row.id);
            if is_current && view.ended.is_none_or(|last| order(last) < order(instance)) {
                view.ended = Some(instance);
            }
            continue;
        }
        match (stands(instance), instance.phase) {
            (Standing::Lost, _) => {
                view.lost = true;
                *newest = (*newest).max(instance.id.as_str());
            }
            (_, Phase::Stopping) => view.stopping.push(instance),
            (Standing::Leaving, _) => view.leaving.push(instance),
            (Standing::Good, _) if is_current => view.current.push(instance),
            (Standing::Good, _) => view.outdated.push(instance),
        }
    }
    for (slot, view) in &mut out {
        let newest = lost.get(slot).copied().unwrap_or_default();
        view.lost_last = view.lost && view.ended.is_none_or(|ended| ended.id.as_str() < newest);
        view.current.sort_by(|a, b| if a.beats(b) { std::cmp::Ordering::Less } else { std::cmp::Ordering::Greater });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::row;
    use crate::service::ServiceSpec;

    fn service_row(spec: ServiceSpec) -> ServiceRow {
        ServiceRow {
            v: 1,
            id: "sid".to_owned(),
            generation: 1,
            spec,
            previous: None,
            rolled_back: false,
            created_ms: 0,
            updated_ms: 0,
            extra: BTreeMap::new(),
        }
    }

    #[test]
    fn instances_fall_into_their_slots() {
        let spec = ServiceSpec::new("web", "a");
        let service = spec.clone().accept().unwrap();
        let mut good = row("1", "a", Phase::Running);
        good.revision.clone_from(&service.revision);
        let old = row("2", "a", Phase::Running);
        let mut dead = row("3", "lost", Phase::Running);
        dead.slot = Slot::Number(1);
        let all = [good, old, dead];
        let stands = |row: &InstanceRow| if row.node == "lost" { Standing::Lost } else { Standing::Good };
        let slots = slots(&service_row(spec), &service, &[Slot::Number(0), Slot::Number(1)], all.iter(), stands, |_| 0);
        assert_eq!(slots[&Slot::Number(0)].current.len(), 1);
        assert_eq!(slots[&Slot::Number(0)].outdated.len(), 1);
        assert!(slots[&Slot::Number(1)].lost && slots[&Slot::Number(1)].current.is_empty());
    }

    #[test]
    fn a_slot_whose_last_instance_went_with_its_node_is_told_from_one_that_ended() {
        let spec = ServiceSpec::new("web", "a");
        let service = spec.clone().accept().unwrap();
        let stands = |row: &InstanceRow| if row.node == "lost" { Standing::Lost } else { Standing::Good };
        let last = |ended: &str, lost: &str| {
            let mut failed = row(ended, "a", Phase::Failed);
            failed.revision.clone_from(&service.revision);
            let all = [failed, row(lost, "lost", Phase::Running)];
            let wanted = [Slot::Number(0)];
            slots(&service_row(spec.clone()), &service, &wanted, all.iter(), stands, |_| 0)[&wanted[0]].lost_last
        };
        assert!(last("1", "2"));
        assert!(!last("2", "1"), "its successor ended by itself");
    }

    #[test]
    fn the_end_that_was_seen_last_counts_whatever_clock_made_the_ids() {
        let spec = ServiceSpec::new("web", "a");
        let service = spec.clone().accept().unwrap();
        let mut ahead = row("f-of-a-clock-that-is-ahead", "a", Phase::Failed);
        let mut behind = row("0-of-a-clock-that-is-behind", "b", Phase::Failed);
        for row in [&mut ahead, &mut behind] {
            row.revision.clone_from(&service.revision);
        }
        let all = [ahead, behind];
        let seen = |row: &InstanceRow| if row.node == "b" { 2 } else { 1 };
        let slots = slots(&service_row(spec), &service, &[], all.iter(), |_| Standing::Good, seen);
        assert_eq!(slots[&Slot::Number(0)].ended.unwrap().node, "b");
    }

    #[test]
    fn the_working_then_the_older_instance_survives() {
        let (working, starting) = (row("9", "a", Phase::Running), row("1", "b", Phase::Starting));
        assert!(working.beats(&starting) && !starting.beats(&working));
        let (older, newer) = (row("1", "a", Phase::Running), row("2", "b", Phase::Running));
        assert!(older.beats(&newer) && !newer.beats(&older));
    }
}
