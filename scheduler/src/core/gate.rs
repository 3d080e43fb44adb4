//! What must be known before anything is judged. In: "the tables are read", "the containers are listed", who has said what of
//! itself. Out: whether this node may act on its own instances, and whether it may place and route for everybody. A node that
//! has just started knows little; what it does not know yet is never taken for what is not there.

use super::{Core, Event};
use crate::model::{InstanceRow, Liveness, Ms, Phase};
use crate::port::Observed;

/// A node that has just started places and routes nothing before the living others have told what they run, or this long.
const SETTLE_MS_MAX: Ms = 3_000;
/// From the last other node's facts to the end of its other rows, which travel with them.
const SETTLE_MS: Ms = 250;

/// How long a container without a row is left alone after a start: this node's disk may have lost the row, and the others bring
/// it back.
const STRANGER_MS: Ms = 10_000;

/// How far this node's knowledge is since its start.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// Everything on this node's disk was read.
    tables_read: bool,
    /// Every container of this host was reported.
    listed: bool,
    /// Containers without a row: whose they are is not known yet.
    early: Vec<(String, Observed)>,
    /// Since when every living node has told its facts.
    told_since: Option<Ms>,
    /// Everything needed for placing and routing was heard once.
    settled: bool,
    /// When to look again.
    pub(super) wake: Option<Ms>,
}

impl Core {
    /// Says whether this node's own rows and containers have both been read: before, nothing here is judged.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.gate.tables_read && self.gate.listed
    }

    /// Says whether the others' rows have been heard too (or waited for long enough), so that what is missing is missing.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.gate.settled
    }

    pub(super) fn containers_listed(&mut self) {
        self.gate.listed = true;
        if self.ready() {
            self.missing_containers();
        }
    }

    pub(super) fn tables_read(&mut self) {
        self.gate.tables_read = true;
        self.judge_early();
        if self.ready() {
            self.missing_containers();
        }
    }

    /// Looks again at containers that had no row.
    fn judge_early(&mut self) {
        for (id, seen) in std::mem::take(&mut self.gate.early) {
            self.container_seen(&id, seen);
        }
    }

    /// Keeps a report of a container whose row may still come; `false` when it is time to judge.
    pub(super) fn too_early(&mut self, id: &str, seen: &Observed) -> bool {
        let judged = self.gate.tables_read && self.now >= self.begun + STRANGER_MS;
        if judged || self.instances.contains_key(id) {
            return false;
        }
        self.gate.early.retain(|(known, _)| known != id);
        self.gate.early.push((id.to_owned(), seen.clone()));
        true
    }

    /// A row of this node's own that came from elsewhere after everything was read (its disk was restored): its container is
    /// taken up again; when none was reported for it, there is none.
    pub(super) fn late_row(&mut self, row: &InstanceRow) {
        if row.node == self.me
            && let Some(at) = self.gate.early.iter().position(|(id, _)| *id == row.id)
        {
            let (id, seen) = self.gate.early.remove(at);
            self.container_seen(&id, seen);
            return;
        }
        let had_one = matches!(row.phase, Phase::Running | Phase::Stopping);
        if self.ready() && row.node == self.me && had_one && !self.own.get(&row.id).is_some_and(|own| own.seen) {
            let message = "its container is gone".to_owned();
            let seen = Observed::Ended { code: None, message };
            self.handle(self.now, Event::Container { id: row.id.clone(), seen });
        }
    }

    /// Looks whether this node knows enough to place and route.
    pub(super) fn settle(&mut self) {
        self.gate.wake = None;
        if self.ready() && !self.gate.early.is_empty() {
            let at = self.begun + STRANGER_MS;
            if self.now >= at {
                self.judge_early();
            } else {
                self.gate.wake = Some(at);
            }
        }
        if self.gate.settled || !self.ready() {
            return;
        }
        let mut others = self
            .nodes
            .values()
            .filter(|node| node.id != self.me && matches!(node.liveness, Liveness::Alive | Liveness::Suspect))
            .peekable();
        let alone = others.peek().is_none();
        let told = others.all(|node| node.facts.v != 0);
        if told {
            self.gate.told_since.get_or_insert(self.now);
        } else {
            self.gate.told_since = None;
        }
        let latest = self.begun + SETTLE_MS_MAX;
        let at = self.gate.told_since.map_or(latest, |since| latest.min(since + SETTLE_MS));
        if alone || self.now >= at {
            self.gate.settled = true;
            self.all_dirty();
        } else {
            self.gate.wake = Some(self.gate.wake.map_or(at, |wake| wake.min(at)));
        }
    }
}
