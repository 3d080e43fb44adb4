//! A container's health: when the next probe is due, what its result means. Pure: times are arguments.

use crate::time::Nanos;
use serde::{Deserialize, Serialize};

/// How many results `inspect` shows; docker keeps five.
pub const LOG_ENTRIES_MAX: usize = 5;
/// How much of a probe's output is kept, in bytes; docker keeps 4096.
pub const OUTPUT_BYTES_MAX: usize = 4096;

/// What to probe and how often; times in nanoseconds as image configurations write them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Check {
    /// `["CMD", argv…]`, `["CMD-SHELL", line]` or `["NONE"]`.
    pub test: Vec<String>,
    /// Between two probes; 30 s when 0.
    pub interval: u64,
    /// Until a probe counts as failed; 30 s when 0.
    pub timeout: u64,
    /// Failures before this age do not count.
    pub start_period: u64,
    /// Between two probes during the start period; 5 s when 0.
    pub start_interval: u64,
    /// Failures in a row that make it unhealthy; 3 when 0.
    pub retries: u32,
}

impl Check {
    /// The command to run inside the container; `None` when there is nothing to probe.
    pub fn argv(&self) -> Option<Vec<String>> {
        match self.test.split_first() {
            Some((kind, rest)) if kind == "CMD" && !rest.is_empty() => Some(rest.to_vec()),
            Some((kind, [line])) if kind == "CMD-SHELL" => Some(vec!["/bin/sh".into(), "-c".into(), line.clone()]),
            _ => None,
        }
    }

    /// The pause between two probes in ns.
    pub fn interval_ns(&self) -> u64 {
        or_default(self.interval, 30_000_000_000)
    }

    /// The time a probe may take in ns.
    pub fn timeout_ns(&self) -> u64 {
        or_default(self.timeout, 30_000_000_000)
    }
}

fn or_default(value: u64, default: u64) -> u64 {
    if value == 0 { default } else { value }
}

/// docker's health words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// No probe has decided yet.
    #[default]
    Starting,
    /// The last probe succeeded.
    Healthy,
    /// Too many probes in a row failed.
    Unhealthy,
}

impl Status {
    /// docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// One result.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Entry {
    /// When the probe began.
    pub start: Nanos,
    /// When it ended.
    pub end: Nanos,
    /// 0 healthy, 1 unhealthy, -1 timed out.
    pub exit_code: i32,
    /// The beginning of its output.
    pub output: String,
}

/// What is known of a container's health.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Health {
    /// The verdict.
    pub status: Status,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last [`LOG_ENTRIES_MAX`] results, oldest first.
    pub log: Vec<Entry>,
}

impl Health {
    /// Takes in one result; `age` is how long the container has run. Returns whether the verdict changed.
    pub fn record(&mut self, check: &Check, entry: Entry, age: u64) -> bool {
        let before = self.status;
        if entry.exit_code == 0 {
            self.failing_streak = 0;
            self.status = Status::Healthy;
        } else if !(self.status == Status::Starting && age < check.start_period) {
            self.failing_streak += 1;
            if u64::from(self.failing_streak) >= or_default(u64::from(check.retries), 3) {
                self.status = Status::Unhealthy;
            }
        }
        self.log.push(entry);
        if self.log.len() > LOG_ENTRIES_MAX {
            self.log.remove(0);
        }
        self.status != before
    }

    /// How long after the end of one probe the next begins, in ns.
    pub fn pause(&self, check: &Check, age: u64) -> u64 {
        if self.status == Status::Starting && age < check.start_period {
            or_default(check.start_interval, 5_000_000_000).min(check.interval_ns())
        } else {
            check.interval_ns()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(exit_code: i32) -> Entry {
        Entry { exit_code, ..Entry::default() }
    }

    #[test]
    fn three_failures_in_a_row_make_it_unhealthy_and_one_success_healthy_again() {
        let (check, mut health) = (Check::default(), Health::default());
        assert!(!health.record(&check, result(1), 0));
        assert!(!health.record(&check, result(1), 0));
        assert!(health.record(&check, result(1), 0));
        assert_eq!(health.status, Status::Unhealthy);
        assert!(health.record(&check, result(0), 0));
        assert_eq!((health.status, health.failing_streak), (Status::Healthy, 0));
    }

    #[test]
    fn failures_of_the_start_period_do_not_count() {
        let check = Check { start_period: 10, retries: 1, ..Check::default() };
        let mut health = Health::default();
        health.record(&check, result(1), 5);
        assert_eq!(health.status, Status::Starting);
        health.record(&check, result(1), 11);
        assert_eq!(health.status, Status::Unhealthy);
    }

    #[test]
    fn only_the_last_results_are_kept() {
        let mut health = Health::default();
        for code in 0..9 {
            health.record(&Check::default(), result(code), 0);
        }
        assert_eq!(health.log.iter().map(|entry| entry.exit_code).collect::<Vec<_>>(), [4, 5, 6, 7, 8]);
    }

    #[test]
    fn none_and_nothing_mean_no_probe() {
        assert_eq!(Check { test: vec!["NONE".into()], ..Check::default() }.argv(), None);
        assert_eq!(Check::default().argv(), None);
        assert_eq!(Check { test: vec!["CMD".into(), "x".into()], ..Check::default() }.argv(), Some(vec!["x".into()]));
    }
}
