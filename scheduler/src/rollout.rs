//! The next step of a rolling update, from rows alone, so that any successor continues where a dead steward stopped. Pure.

use crate::model::{Ms, RolloutRow, RolloutState, ServiceRow, Slot};
use crate::reconcile::SlotView;
use crate::service::{FailureAction, Service, UpdateConfig, UpdateOrder};
use std::collections::{BTreeMap, BTreeSet};

/// How long a new instance without a health check must run before the next slot is touched, when the monitor time is not
/// shorter still: one that dies at once must not take a second slot with it.
pub const SETTLE_MS: Ms = 1_000;

/// What to do now for one update.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// Slots whose old instance is replaced now.
    pub replace: Vec<Slot>,
    /// The state to record, with its message.
    pub state: Option<(RolloutState, String)>,
    /// The spec before the update comes back.
    pub roll_back: bool,
}

/// What [`step`] looks at.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The service.
    pub service: &'a Service,
    /// How far the update is, `None` when its row has not arrived.
    pub rollout: Option<&'a RolloutRow>,
    /// The slots.
    pub slots: &'a BTreeMap<Slot, SlotView<'a>>,
    /// The wanted slots.
    pub wanted: &'a [Slot],
    /// Slots for which a reservation is under way.
    pub pending: &'a BTreeSet<Slot>,
    /// Instances that have worked long enough for the next slot to be touched.
    pub settled: &'a BTreeSet<String>,
    /// Slots without an instance that get none for now: the update goes on without them.
    pub hopeless: &'a BTreeSet<Slot>,
    /// Slots of which an instance of this update failed.
    pub failed: usize,
    /// Whether the pause between two batches is over.
    pub delay_over: bool,
    /// Whether every current instance has worked for the monitor time.
    pub monitored: bool,
    /// Whether there is a spec to go back to.
    pub can_roll_back: bool,
    /// Whether the service's last change was a way back.
    pub rolled_back: bool,
}

/// Returns the update settings in force: those of the way back while it lasts.
#[must_use]
pub fn config<'a>(service: &'a Service, rollout: Option<&RolloutRow>) -> &'a UpdateConfig {
    let back = rollout.is_some_and(|row| {
        row.revision == service.revision
            && matches!(row.state, RolloutState::RollbackStarted | RolloutState::RollbackPaused)
    });
    if back { &service.spec.rollback } else { &service.spec.update }
}

/// Decides the next step.
#[must_use]
pub fn step(facts: &Facts<'_>) -> Step {
    let rollout = facts.rollout.filter(|row| row.revision == facts.service.revision);
    let state = rollout.map_or(RolloutState::Completed, |row| row.state);
    let outdated: Vec<&Slot> = facts.wanted.iter().filter(|slot| is_outdated(facts, slot)).collect();
    let running = matches!(state, RolloutState::Updating | RolloutState::RollbackStarted);
    let done = matches!(state, RolloutState::Completed | RolloutState::RollbackCompleted);
    // The row of the last change lost to a concurrent one, which tells of another template: the slots of an update that
    // failed may hold nothing that is outdated, and its state would stand for ever.
    // (Or it is ahead of its service's row: who acts on this gives that row the time to come.)
    let lost = facts.rollout.is_some_and(|row| row.revision != facts.service.revision);
    if !running && ((outdated.is_empty() && !lost) || !done) {
        return Step::default();
    }
    if !running {
        // Outdated instances, or such a row, without an update under way: begin one.
        let state = if facts.rolled_back { RolloutState::RollbackStarted } else { RolloutState::Updating };
        return Step { state: Some((state, String::new())), ..Step::default() };
    }
    if let Some(step) = failure(facts, state) {
        return step;
    }
    let busy = facts.wanted.iter().filter(|slot| !facts.hopeless.contains(slot) && is_busy(facts, slot)).count();
    if outdated.is_empty() && busy == 0 && facts.monitored {
        let state = match state {
            RolloutState::RollbackStarted => RolloutState::RollbackCompleted,
            _ => RolloutState::Completed,
        };
        return Step { state: Some((state, String::new())), ..Step::default() };
    }
    if !facts.delay_over {
        return Step::default();
    }
    let config = config(facts.service, rollout);
    let budget = match config.parallelism {
        0 => usize::MAX,
        parallelism => usize::try_from(parallelism).unwrap_or(usize::MAX).saturating_sub(busy),
    };
    Step { replace: outdated.into_iter().take(budget).cloned().collect(), ..Step::default() }
}

/// Says which of the two instances of a slot goes first in this update.
#[must_use]
pub fn order(service: &Service, rollout: Option<&RolloutRow>) -> UpdateOrder {
    service.spec.order(config(service, rollout))
}

/// Returns the row with the spec before the last change; the number of replicas stays what it is now.
#[must_use]
pub fn rolled_back(row: &ServiceRow, now: Ms) -> ServiceRow {
    let mut next = row.clone();
    if let Some(previous) = next.previous.take() {
        let mode = next.spec.mode;
        next.previous = Some(Box::new(std::mem::replace(&mut next.spec, *previous)));
        if std::mem::discriminant(&next.spec.mode) == std::mem::discriminant(&mode) {
            next.spec.mode = mode;
        }
    }
    next.rolled_back = true;
    next.generation += 1;
    next.updated_ms = now;
    next
}

fn failure(facts: &Facts<'_>, state: RolloutState) -> Option<Step> {
    let config = config(facts.service, facts.rollout);
    let slots = facts.wanted.len().max(1);
    #[expect(clippy::cast_precision_loss, reason = "slots are at most 10,000")]
    let ratio = facts.failed as f32 / slots as f32;
    if facts.failed == 0 || ratio <= config.max_failure_ratio || config.failure_action == FailureAction::Continue {
        return None;
    }
    let message = format!("{} of {} slots failed with the new template", facts.failed, facts.wanted.len());
    if state == RolloutState::RollbackStarted {
        return Some(Step { state: Some((RolloutState::RollbackPaused, message)), ..Step::default() });
    }
    if config.failure_action == FailureAction::Rollback && facts.can_roll_back {
        return Some(Step {
            roll_back: true,
            state: Some((RolloutState::RollbackStarted, message)),
            ..Step::default()
        });
    }
    Some(Step { state: Some((RolloutState::Paused, message)), ..Step::default() })
}

fn is_outdated(facts: &Facts<'_>, slot: &Slot) -> bool {
    let view = &facts.slots[slot];
    view.current.is_empty() && !view.outdated.is_empty() && !facts.pending.contains(slot)
}

/// A slot is busy while its replacement has not settled.
fn is_busy(facts: &Facts<'_>, slot: &Slot) -> bool {
    let view = &facts.slots[slot];
    let replaced = view.current.iter().any(|row| facts.settled.contains(&row.id));
    if view.current.is_empty() && !view.outdated.is_empty() && !facts.pending.contains(slot) {
        return false;
    }
    // Start-first: the old instance still has to go once the new one works.
    !replaced || !view.outdated.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::row;
    use crate::model::{InstanceRow, Phase};
    use crate::service::ServiceSpec;

    struct Case {
        service: Service,
        rows: Vec<InstanceRow>,
        state: RolloutState,
        failed: usize,
        rolled_back: bool,
        hopeless: BTreeSet<Slot>,
    }

    impl Case {
        fn new(old: u32, new: u32) -> Self {
            let service = ServiceSpec::new("web", "a").accept().unwrap();
            let mut rows = Vec::new();
            for slot in 0..old + new {
                let mut instance = row(&format!("{slot}"), "n", Phase::Running);
                instance.slot = Slot::Number(slot);
                if slot >= old {
                    instance.revision.clone_from(&service.revision);
                }
                rows.push(instance);
            }
            let (state, hopeless) = (RolloutState::Updating, BTreeSet::new());
            Self { service, rows, state, failed: 0, rolled_back: false, hopeless }
        }

        fn step(&self) -> Step {
            let wanted: Vec<Slot> =
                self.rows.iter().map(|row| row.slot.clone()).chain(self.hopeless.iter().cloned()).collect();
            let mut slots: BTreeMap<Slot, SlotView<'_>> = BTreeMap::new();
            for slot in &self.hopeless {
                slots.entry(slot.clone()).or_default();
            }
            for row in &self.rows {
                let view = slots.entry(row.slot.clone()).or_default();
                match row.revision == self.service.revision {
                    true => view.current.push(row),
                    false => view.outdated.push(row),
                }
            }
            let rollout = RolloutRow {
                v: 1,
                service_id: "sid".to_owned(),
                revision: self.service.revision.clone(),
                generation: 1,
                state: self.state,
                message: String::new(),
                started_ms: 0,
                changed_ms: 0,
            };
            step(&Facts {
                service: &self.service,
                rollout: Some(&rollout),
                slots: &slots,
                wanted: &wanted,
                pending: &BTreeSet::new(),
                hopeless: &self.hopeless,
                settled: &self.rows.iter().filter(|row| row.works()).map(|row| row.id.clone()).collect(),
                failed: self.failed,
                delay_over: true,
                monitored: true,
                can_roll_back: true,
                rolled_back: self.rolled_back,
            })
        }
    }

    #[test]
    fn one_slot_at_a_time_and_the_next_only_when_the_first_works() {
        let mut case = Case::new(3, 1);
        assert_eq!(case.step().replace, [Slot::Number(0)]);
        case.rows[3].phase = Phase::Starting;
        assert!(case.step().replace.is_empty());
        case.service.spec.update.parallelism = 0;
        assert_eq!(case.step().replace.len(), 3);
    }

    #[test]
    fn a_slot_that_gets_no_instance_holds_no_update_up() {
        let mut case = Case::new(2, 0);
        case.hopeless = BTreeSet::from([Slot::Number(7)]);
        assert_eq!(case.step().replace, [Slot::Number(0)]);
        let mut case = Case::new(0, 2);
        case.hopeless = BTreeSet::from([Slot::Number(7)]);
        assert_eq!(case.step().state, Some((RolloutState::Completed, String::new())));
    }

    #[test]
    fn the_end_is_recorded() {
        assert_eq!(Case::new(0, 3).step().state, Some((RolloutState::Completed, String::new())));
    }

    #[test]
    fn failures_pause_go_on_or_go_back() {
        let mut case = Case::new(3, 1);
        case.failed = 1;
        assert_eq!(case.step().state.unwrap().0, RolloutState::Paused);
        case.service.spec.update.failure_action = FailureAction::Rollback;
        assert!(case.step().roll_back);
        case.service.spec.update.failure_action = FailureAction::Continue;
        assert_eq!(case.step().replace.len(), 1);
        case.service.spec.update.failure_action = FailureAction::Pause;
        case.service.spec.update.max_failure_ratio = 0.5;
        assert_eq!(case.step().replace.len(), 1);
    }

    #[test]
    fn what_is_outdated_after_the_way_back_is_replaced_too() {
        let mut case = Case::new(1, 2);
        case.state = RolloutState::RollbackCompleted;
        assert_eq!(case.step().state, Some((RolloutState::Updating, String::new())));
        case.rolled_back = true;
        assert_eq!(case.step().state, Some((RolloutState::RollbackStarted, String::new())));
    }

    #[test]
    fn a_paused_update_does_nothing() {
        let mut case = Case::new(3, 1);
        case.state = RolloutState::Paused;
        assert_eq!(case.step(), Step::default());
    }
}
