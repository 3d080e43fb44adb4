//! What happened lately, numbered, so that a watcher that lost its connection continues where it was (`Last-Event-ID`).
//! A ring in memory: a node's journal begins anew with every start, and the id says so.

use super::Clock;
use std::collections::VecDeque;
use std::sync::Mutex;
use tokio::sync::Notify;

/// Entries kept: at ten a second, seven minutes of an outage can be caught up.
const ENTRIES_MAX: usize = 4_096;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number within this start.
    pub serial: u64,
    /// The name of the event.
    pub kind: String,
    /// Its JSON.
    pub data: String,
}

/// The ring.
#[derive(Debug)]
pub struct Journal {
    clock: Clock,
    boot: u64,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    entries: VecDeque<Entry>,
}

impl Journal {
    /// Begins a journal; its name is the time it began.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, boot: clock.now(), state: Mutex::default(), changed: Notify::new() }
    }

    /// Notes something about a service or a node.
    pub fn note(&self, kind: &str, subject: &str, message: &str) {
        let data = serde_json::json!({
            "time_ms": self.clock.wall(), "kind": kind, "subject": subject, "message": message,
        });
        self.push(kind, data.to_string());
    }

    /// Adds an entry with its JSON.
    pub fn push(&self, kind: &str, data: String) {
        let mut state = self.state.lock().expect("no holder panics");
        let serial = state.next;
        state.next += 1;
        if state.entries.len() == ENTRIES_MAX {
            state.entries.pop_front();
        }
        state.entries.push_back(Entry { serial, kind: kind.to_owned(), data });
        drop(state);
        self.changed.notify_waiters();
    }

    /// Returns the entry's id on the wire.
    #[must_use]
    pub fn id(&self, serial: u64) -> String {
        format!("{}-{serial}", self.boot)
    }

    /// Returns the number after the one that `last_id` names: where to continue; `None` when it is of another start or no
    /// longer kept, so that the watcher must read everything anew.
    #[must_use]
    pub fn after(&self, last_id: &str) -> Option<u64> {
        let (boot, serial) = last_id.split_once('-')?;
        let next = serial.parse::<u64>().ok()?.checked_add(1)?;
        let state = self.state.lock().expect("no holder panics");
        let oldest = state.entries.front().map_or(state.next, |entry| entry.serial);
        (boot.parse() == Ok(self.boot) && next >= oldest && next <= state.next).then_some(next)
    }

    /// Returns the number of the next entry.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.state.lock().expect("no holder panics").next
    }

    /// Returns the entries from `serial` on, waiting until there is one. The first has a greater number when those between are
    /// no longer kept. Dropping the future is safe.
    pub async fn read(&self, serial: u64) -> Vec<Entry> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before looking, so that an entry pushed in between wakes it.
            changed.as_mut().enable();
            let found: Vec<Entry> = {
                let state = self.state.lock().expect("no holder panics");
                state.entries.iter().filter(|entry| entry.serial >= serial).cloned().collect()
            };
            if !found.is_empty() {
                return found;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_continues_where_it_was_or_learns_that_it_cannot() {
        let journal = Journal::new(Clock::start());
        for n in 0..ENTRIES_MAX + 10 {
            journal.note("placed", "web", &n.to_string());
        }
        assert_eq!(journal.after(&journal.id(20)), Some(21));
        assert_eq!(journal.after(&journal.id(3)), None);
        assert_eq!(journal.after("1-20"), None);
        assert_eq!(journal.after("nonsense"), None);
    }
}
