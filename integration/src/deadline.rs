//! Waiting for a condition: polled with a deadline, never a bare sleep.

use std::time::{Duration, Instant};

/// How often a condition is looked at. Short, so that a test ends soon after its condition holds.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Polls `condition` until it returns a value or `within` has passed.
///
/// # Panics
/// When the deadline passes, naming `what` was awaited.
pub fn eventually<T>(what: &str, within: Duration, condition: impl FnMut() -> Option<T>) -> T {
    soon(within, condition).unwrap_or_else(|| panic!("not within {within:?}: {what}"))
}

/// Polls `condition` until it returns a value, `None` when `within` has passed: for cleaning up, which must not panic.
pub fn soon<T>(within: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// The rhythm of what a test makes: requests of a load, pieces through a slow link. Never a wait for something to happen.
pub fn pace(rhythm: Duration) {
    std::thread::sleep(rhythm);
}

/// Watches a value for as long as `during`: what must stand still.
///
/// # Panics
/// When it changes, naming `what` should not have.
pub fn unchanged<T: PartialEq + std::fmt::Debug>(what: &str, during: Duration, mut value: impl FnMut() -> T) {
    let until = Instant::now() + during;
    let first = value();
    while Instant::now() < until {
        std::thread::sleep(POLL_INTERVAL);
        assert_eq!(first, value(), "changed: {what}");
    }
}
