//! Who watches what. In: changes. Out: bounded streams of them; a watcher that is too slow is told once that it missed some.

use std::collections::{BTreeMap, VecDeque};

use tokio::sync::mpsc;

use crate::id::NodeId;
use crate::membership::Liveness;
use crate::mesh::{Alarm, Change, MemberChange, WATCH_LAG_MAX};
use crate::node::ALARMS_MAX;
use crate::table::{Key, Row, Table};

#[derive(Debug)]
struct Watcher {
    sender: mpsc::Sender<Change>,
    lagged: bool,
}

/// Every watcher, and the shell's own alarms.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    tables: BTreeMap<Table, Vec<Watcher>>,
    /// Whether somebody is to be told that it missed some: not only with the next change, which may never come.
    lag: bool,
    members: Vec<mpsc::Sender<MemberChange>>,
    pub(crate) alarms: VecDeque<Alarm>,
}

impl Watchers {
    pub(crate) fn watch(&mut self, table: Table) -> mpsc::Receiver<Change> {
        let (sender, receiver) = mpsc::channel(WATCH_LAG_MAX);
        self.tables.entry(table).or_default().push(Watcher { sender, lagged: false });
        receiver
    }

    pub(crate) fn watch_members(&mut self) -> mpsc::Receiver<MemberChange> {
        let (sender, receiver) = mpsc::channel(WATCH_LAG_MAX);
        self.members.push(sender);
        receiver
    }

    pub(crate) fn changed(&mut self, row: Row) {
        let table = row.key.table;
        self.tell(table, &Change::Row(row));
    }

    pub(crate) fn gone(&mut self, key: Key) {
        let table = key.table;
        self.tell(table, &Change::Gone(key));
    }

    fn tell(&mut self, table: Table, change: &Change) {
        let Some(watchers) = self.tables.get_mut(&table) else { return };
        let mut lag = false;
        watchers.retain_mut(|watcher| {
            if watcher.lagged {
                match watcher.sender.try_send(Change::Lagged) {
                    Ok(()) => watcher.lagged = false,
                    Err(mpsc::error::TrySendError::Full(_)) => return true,
                    Err(mpsc::error::TrySendError::Closed(_)) => return false,
                }
            }
            match watcher.sender.try_send(change.clone()) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    watcher.lagged = true;
                    lag = true;
                    true
                }
                Err(mpsc::error::TrySendError::Closed(_)) => false,
            }
        });
        self.lag |= lag;
    }

    /// Tells those that missed changes so, as soon as they have read some of what waits for them.
    pub(crate) fn tell_lagged(&mut self) {
        if !self.lag {
            return;
        }
        self.lag = false;
        for watchers in self.tables.values_mut() {
            watchers.retain_mut(|watcher| {
                if !watcher.lagged {
                    return true;
                }
                match watcher.sender.try_send(Change::Lagged) {
                    Ok(()) => watcher.lagged = false,
                    Err(mpsc::error::TrySendError::Full(_)) => self.lag = true,
                    Err(mpsc::error::TrySendError::Closed(_)) => return false,
                }
                true
            });
        }
    }

    pub(crate) fn turned(&mut self, id: NodeId, liveness: Liveness, epoch: u64, at_ms: u64) {
        // A watcher thousands of changes behind is not reading; it is dropped and sees its stream end.
        self.members.retain(|sender| sender.try_send(MemberChange { id, liveness, epoch, at_ms }).is_ok());
    }

    /// The disk takes writes again: its alarm is over.
    pub(crate) fn calm(&mut self) {
        self.alarms.retain(|alarm| alarm.kind != "store");
    }

    /// Something of the shell for the operator.
    pub(crate) fn alarm(&mut self, text: &str) {
        if self.alarms.iter().any(|alarm| alarm.text == text) {
            return;
        }
        if self.alarms.len() >= ALARMS_MAX {
            self.alarms.pop_front();
        }
        let wall = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
        let at_ms = u64::try_from(wall.as_millis()).unwrap_or(u64::MAX);
        self.alarms.push_back(Alarm { at_ms, kind: "store".into(), text: text.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_missed_changes_is_told_although_nothing_changes_any_more() {
        let mut watchers = Watchers::default();
        let mut watcher = watchers.watch(Table::KV);
        for n in 0..WATCH_LAG_MAX + 5 {
            watchers.gone(Key::global(Table::KV, n.to_string()));
        }
        watchers.tell_lagged();
        for _ in 0..10 {
            assert!(matches!(watcher.try_recv(), Ok(Change::Gone(_))));
        }
        watchers.tell_lagged();
        watchers.tell_lagged();
        let mut rest = Vec::new();
        while let Ok(change) = watcher.try_recv() {
            rest.push(change);
        }
        assert_eq!(rest.iter().filter(|change| matches!(change, Change::Lagged)).count(), 1);
        assert!(matches!(rest.last(), Some(Change::Lagged)));
    }
}
