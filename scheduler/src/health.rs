//! What follows the end of an instance: nothing, or a new one after a back-off. Pure.

use crate::model::{InstanceRow, Ms, Phase};
use crate::service::{RestartCondition, RestartPolicy};

/// The longest pause between two instances of a crash-looping slot.
pub const BACKOFF_MS_MAX: u64 = 60_000;
/// How often the pause doubles after instances whose container could not even be made.
const UNMADE_DOUBLINGS: u32 = 2;
/// An instance that ran this long makes the failures before it forgotten, unless the spec says otherwise.
pub const FORGET_AFTER_MS: u64 = 10_000;

/// What follows the end of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The slot is left alone.
    Never,
    /// A new instance, this long after the end was seen, with this count of failures in a row.
    After {
        /// Milliseconds to wait.
        wait_ms: Ms,
        /// Failures in a row so far.
        attempt: u32,
    },
}

/// Decides what follows the end of `last`, the latest instance of its slot with the wanted revision.
#[must_use]
pub fn after_end(policy: &RestartPolicy, last: &InstanceRow) -> Next {
    let failed = match last.phase {
        Phase::Failed => true,
        Phase::Complete => false,
        // Stopped on purpose (drain, scale, duplicate): the slot is filled again at once when it is wanted.
        _ => return Next::After { wait_ms: 0, attempt: 0 },
    };
    let wanted = match policy.condition {
        RestartCondition::None => false,
        RestartCondition::OnFailure => failed,
        RestartCondition::Any => true,
    };
    if !wanted {
        return Next::Never;
    }
    let forget = if policy.window_ms == 0 { FORGET_AFTER_MS } else { policy.window_ms };
    let attempt = if last.ran_ms >= forget { 1 } else { last.attempt.saturating_add(1) };
    if policy.max_attempts != 0 && attempt > policy.max_attempts {
        return Next::Never;
    }
    // One that never had a container has not crashed: the next node may have its image, or a peer that was silent.
    let doublings = if failed && last.container.is_none() && last.exit_code.is_none() { UNMADE_DOUBLINGS } else { 16 };
    let doubled = policy.delay_ms.saturating_mul(1 << (attempt - 1).min(doublings));
    Next::After { wait_ms: doubled.min(BACKOFF_MS_MAX.max(policy.delay_ms)), attempt }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::{Health, Slot};

    /// A failed instance of slot 0, for this crate's tests.
    pub(crate) fn row(id: &str, node: &str, phase: Phase) -> InstanceRow {
        InstanceRow {
            v: 1,
            id: id.to_owned(),
            node: node.to_owned(),
            service: "web".to_owned(),
            service_id: "sid".to_owned(),
            slot: Slot::Number(0),
            revision: "r1".to_owned(),
            generation: 1,
            image: "a".to_owned(),
            reserved: crate::service::Amount::default(),
            host_ports: Vec::new(),
            phase,
            health: Health::None,
            attempt: 0,
            container: None,
            addresses: Vec::new(),
            exit_code: None,
            message: String::new(),
            no_image: false,
            ran_ms: 0,
            created_ms: 0,
            changed_ms: 0,
            extra: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn a_crash_loop_waits_longer_each_time_up_to_a_minute() {
        let policy = RestartPolicy::default();
        let mut last = InstanceRow { exit_code: Some(1), ..row("1", "a", Phase::Failed) };
        let mut waits = Vec::new();
        for _ in 0..9 {
            let Next::After { wait_ms, attempt } = after_end(&policy, &last) else { panic!("it is wanted") };
            waits.push(wait_ms);
            last.attempt = attempt;
        }
        assert_eq!(waits, [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000]);
        last.ran_ms = 20_000;
        assert_eq!(after_end(&policy, &last), Next::After { wait_ms: 1000, attempt: 1 });
        // One that could not be made, since nobody gave its image, has not crashed.
        let unmade = InstanceRow { attempt: 8, ..row("1", "a", Phase::Failed) };
        assert_eq!(after_end(&policy, &unmade), Next::After { wait_ms: 4_000, attempt: 9 });
    }

    #[test]
    fn the_condition_and_the_number_of_attempts_are_kept() {
        let mut policy = RestartPolicy { condition: RestartCondition::OnFailure, ..RestartPolicy::default() };
        assert_eq!(after_end(&policy, &row("1", "a", Phase::Complete)), Next::Never);
        policy.max_attempts = 1;
        let mut last = row("1", "a", Phase::Failed);
        assert!(matches!(after_end(&policy, &last), Next::After { .. }));
        last.attempt = 1;
        assert_eq!(after_end(&policy, &last), Next::Never);
        assert_eq!(after_end(&policy, &row("1", "a", Phase::Shutdown)), Next::After { wait_ms: 0, attempt: 0 });
    }
}
