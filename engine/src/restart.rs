//! When a container that ended is started again, and after how long. Pure: times are arguments.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The first pause before a restart; docker's documented 100 ms.
pub const PAUSE_FIRST_MS: u64 = 100;
/// The longest pause; docker's documented minute.
pub const PAUSE_MAX_MS: u64 = 60_000;
/// A container that ran this long has started well: its pauses begin anew. docker's documented 10 s.
pub const GOOD_RUN_MS: u64 = 10_000;

/// `--restart`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Never.
    #[default]
    No,
    /// After a non-zero exit code, at most `max` times in a row (0: without limit).
    OnFailure {
        /// How many restarts in a row; 0 means no limit.
        max: u32,
    },
    /// Always, also after a reboot, even when it was stopped by hand before it.
    Always,
    /// Always, unless it was stopped by hand.
    UnlessStopped,
}

/// Why a text is no restart policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid restart policy {text:?}: use no, always, unless-stopped or on-failure[:N]")]
pub struct PolicyError {
    text: String,
}

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || PolicyError { text: text.to_owned() };
        match text.split_once(':') {
            None if text.is_empty() || text == "no" => Ok(Self::No),
            None if text == "always" => Ok(Self::Always),
            None if text == "unless-stopped" => Ok(Self::UnlessStopped),
            None if text == "on-failure" => Ok(Self::OnFailure { max: 0 }),
            Some(("on-failure", max)) => Ok(Self::OnFailure { max: max.parse().map_err(|_| refuse())? }),
            _ => Err(refuse()),
        }
    }
}

impl Policy {
    /// docker's name of the policy, without its count.
    pub fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::OnFailure { .. } => "on-failure",
            Self::Always => "always",
            Self::UnlessStopped => "unless-stopped",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnFailure { max } if *max > 0 => write!(out, "on-failure:{max}"),
            other => out.write_str(other.name()),
        }
    }
}

/// The memory of one container's restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backoff {
    /// The last pause taken, in ms; 0 before the first.
    pause_ms: u64,
    /// Restarts in a row that did not lead to a good run.
    failures: u32,
}

impl Backoff {
    /// Decides after an exit: `Some(pause in ms)` to restart, `None` to stay down.
    pub fn after_exit(&mut self, policy: Policy, exit_code: i32, ran_ms: u64, stopped_by_hand: bool) -> Option<u64> {
        if ran_ms >= GOOD_RUN_MS {
            *self = Self::default();
        }
        let again = match policy {
            _ if stopped_by_hand => false,
            Policy::No => false,
            Policy::Always | Policy::UnlessStopped => true,
            Policy::OnFailure { max } => exit_code != 0 && (max == 0 || self.failures < max),
        };
        if !again {
            return None;
        }
        self.failures += 1;
        self.pause_ms = if self.pause_ms == 0 { PAUSE_FIRST_MS } else { (self.pause_ms * 2).min(PAUSE_MAX_MS) };
        Some(self.pause_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_begin_anew_after_a_good_run() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..12).map(|_| backoff.after_exit(Policy::Always, 1, 5, false).unwrap()).collect();
        assert_eq!(&pauses[..4], [100, 200, 400, 800]);
        assert_eq!(pauses[11], PAUSE_MAX_MS);
        assert_eq!(backoff.after_exit(Policy::Always, 0, GOOD_RUN_MS, false), Some(PAUSE_FIRST_MS));
    }

    #[test]
    fn on_failure_counts_and_ignores_success() {
        let policy: Policy = "on-failure:2".parse().unwrap();
        let mut backoff = Backoff::default();
        assert!(backoff.after_exit(policy, 0, 1, false).is_none());
        assert!(backoff.after_exit(policy, 1, 1, false).is_some());
        assert!(backoff.after_exit(policy, 1, 1, false).is_some());
        assert!(backoff.after_exit(policy, 1, 1, false).is_none());
    }

    #[test]
    fn a_stop_by_hand_wins_over_every_policy() {
        for policy in [Policy::Always, Policy::UnlessStopped, Policy::OnFailure { max: 0 }] {
            assert!(Backoff::default().after_exit(policy, 1, 1, true).is_none());
        }
    }

    #[test]
    fn unknown_policies_are_refused_with_the_known_ones() {
        let message = "sometimes".parse::<Policy>().unwrap_err().to_string();
        assert!(message.contains("unless-stopped"), "{message}");
        assert!("on-failure:x".parse::<Policy>().is_err());
        assert!("always:3".parse::<Policy>().is_err());
    }
}
