//! Who may hold streams open towards this node, and how many. In: who comes. Out: a pass, or none. Members and strangers
//! have bounds of their own, so that no number of strangers keeps a member out; nobody waits at a door. A stream whose connection this
//! node closed itself is told nothing by the multiplexer: its holder is sent out from here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, RwLock};

use tokio::sync::Notify;

use crate::id::NodeId;
use crate::membership::Role;

/// Streams of one lane or protocol that nodes without a known certificate hold open at once: a burst of joins, and what a
/// flood may cost.
pub(crate) const STRANGERS_MAX: usize = 64;

/// Who stands where right now: kept by the task, read by its helpers.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// Nodes whose certificate is known.
    pub(crate) certified: BTreeSet<NodeId>,
    /// Nodes linked right now, and what they may do: their calls and streams are answered.
    pub(crate) linked: BTreeMap<NodeId, Role>,
}

/// Shared between the task and its helpers.
pub(crate) type Admitted = Arc<RwLock<Standing>>;

/// The door of one lane or protocol.
#[derive(Debug)]
pub(crate) struct Door {
    standing: Admitted,
    per_member: usize,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    /// Whoever holds streams, the oldest first.
    seats: BTreeMap<NodeId, Vec<Seat>>,
    strangers: usize,
    next: u64,
}

#[derive(Debug)]
struct Seat {
    number: u64,
    stranger: bool,
    leave: Arc<Notify>,
}

impl Inside {
    fn remove(&mut self, node: NodeId, gone: impl Fn(&Seat) -> bool) {
        let Some(seats) = self.seats.get_mut(&node) else { return };
        for seat in seats.extract_if(.., |seat| gone(seat)) {
            self.strangers -= usize::from(seat.stranger);
            // Kept for whoever is not waiting just now.
            seat.leave.notify_one();
        }
        if seats.is_empty() {
            self.seats.remove(&node);
        }
    }
}

/// The right to hold one stream; given back when dropped.
#[derive(Debug)]
pub(crate) struct Pass {
    door: Arc<Door>,
    node: NodeId,
    number: u64,
    stranger: bool,
    leave: Arc<Notify>,
}

impl Door {
    /// A door through which each member may hold `per_member` streams open.
    pub(crate) fn new(standing: Admitted, per_member: usize) -> Arc<Self> {
        Arc::new(Self { standing, per_member, inside: Mutex::default() })
    }

    fn knows(&self, node: NodeId) -> bool {
        let standing = self.standing.read().expect("nobody panics while holding it");
        standing.certified.contains(&node) || standing.linked.contains_key(&node)
    }

    /// Lets a node in, or says that it has to go.
    pub(crate) fn enter(self: &Arc<Self>, node: NodeId) -> Option<Pass> {
        self.seat(node, false)
    }

    /// Lets a node in; of a member's streams the oldest has to leave when there are too many: it is of a connection that is
    /// gone without a word, and the newest is the one in use.
    pub(crate) fn enter_newest(self: &Arc<Self>, node: NodeId) -> Option<Pass> {
        self.seat(node, true)
    }

    fn seat(self: &Arc<Self>, node: NodeId, replace: bool) -> Option<Pass> {
        let stranger = !self.knows(node);
        let mut inside = self.inside.lock().expect("nobody panics while holding it");
        if stranger {
            if inside.strangers >= STRANGERS_MAX {
                return None;
            }
            inside.strangers += 1;
        } else {
            let own = inside.seats.get(&node).into_iter().flatten().filter(|seat| !seat.stranger);
            let (held, oldest) = own.fold((0, None), |(held, oldest), seat| (held + 1, oldest.or(Some(seat.number))));
            if held >= self.per_member {
                let oldest = oldest.filter(|_| replace)?;
                inside.remove(node, |seat| seat.number == oldest);
            }
        }
        inside.next += 1;
        let (number, leave) = (inside.next, Arc::new(Notify::new()));
        inside.seats.entry(node).or_default().push(Seat { number, stranger, leave: Arc::clone(&leave) });
        Some(Pass { door: Arc::clone(self), node, number, stranger, leave })
    }

    /// Sends out whoever holds streams of a node's former connections: they may never hear of their end.
    pub(crate) fn clear(&self, node: NodeId) {
        self.inside.lock().expect("nobody panics while holding it").remove(node, |_| true);
    }
}

impl Pass {
    /// A stranger that has become a member makes room for the next; called now and then.
    pub(crate) fn look_again(&mut self) {
        if self.stranger && self.door.knows(self.node) {
            let mut inside = self.door.inside.lock().expect("nobody panics while holding it");
            let mut seats = inside.seats.get_mut(&self.node).into_iter().flatten();
            if let Some(seat) = seats.find(|seat| seat.number == self.number) {
                seat.stranger = false;
                inside.strangers -= 1;
            }
            self.stranger = false;
        }
    }

    /// Resolves when its holder has to leave.
    pub(crate) fn left(&self) -> impl Future<Output = ()> + Send + use<> {
        let leave = Arc::clone(&self.leave);
        async move { leave.notified().await }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut inside = self.door.inside.lock().expect("nobody panics while holding it");
        inside.remove(self.node, |seat| seat.number == self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_fill_their_own_room_and_never_the_members() {
        let standing = Admitted::default();
        standing.write().unwrap().certified.insert(NodeId(1));
        let door = Door::new(Arc::clone(&standing), 2);
        let mut strangers: Vec<Pass> = (10..10 + STRANGERS_MAX as u64).filter_map(|n| door.enter(NodeId(n))).collect();
        assert_eq!(strangers.len(), STRANGERS_MAX);
        assert!(door.enter(NodeId(9)).is_none(), "the strangers' room is full");
        let held = [door.enter(NodeId(1)), door.enter(NodeId(1))];
        assert!(held.iter().all(Option::is_some) && door.enter(NodeId(1)).is_none(), "two each");
        // One of them turns out to be a member: another stranger fits.
        standing.write().unwrap().linked.insert(NodeId(10), Role::Member);
        strangers[0].look_again();
        assert!(door.enter(NodeId(9)).is_some());
        drop((held, strangers));
        assert_eq!(door.inside.lock().unwrap().strangers, 0);
        assert!(door.inside.lock().unwrap().seats.is_empty());
    }

    #[tokio::test]
    async fn streams_that_never_heard_of_their_end_keep_nobody_out() {
        let standing = Admitted::default();
        standing.write().unwrap().certified.insert(NodeId(1));
        let door = Door::new(Arc::clone(&standing), 2);
        let held = [door.enter_newest(NodeId(1)).unwrap(), door.enter_newest(NodeId(1)).unwrap()];
        let third = door.enter_newest(NodeId(1)).expect("the newest is let in");
        held[0].left().await;
        drop(held);
        assert_eq!(door.inside.lock().unwrap().seats[&NodeId(1)].len(), 1);
        // Strangers that were hung up on leave room for other strangers.
        let strangers: Vec<Pass> = (10..10 + STRANGERS_MAX as u64).filter_map(|n| door.enter(NodeId(n))).collect();
        assert!(door.enter(NodeId(9)).is_none());
        door.clear(NodeId(10));
        strangers[0].left().await;
        assert!(door.enter(NodeId(9)).is_some());
        door.clear(NodeId(1));
        third.left().await;
        drop((strangers, third));
        assert_eq!(door.inside.lock().unwrap().strangers, 0);
    }
}
