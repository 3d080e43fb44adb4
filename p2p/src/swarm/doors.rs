//! Who may hold streams open towards this node, and how many. In: who comes. Out: a pass, or none. Members and strangers
//! have bounds of their own, so that no number of strangers keeps a member out; nobody waits at a door.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, RwLock};

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
    members: BTreeMap<NodeId, usize>,
    strangers: usize,
}

/// The right to hold one stream; given back when dropped.
#[derive(Debug)]
pub(crate) struct Pass {
    door: Arc<Door>,
    node: NodeId,
    stranger: bool,
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
        let stranger = !self.knows(node);
        let mut inside = self.inside.lock().expect("nobody panics while holding it");
        if stranger {
            if inside.strangers >= STRANGERS_MAX {
                return None;
            }
            inside.strangers += 1;
        } else {
            let held = inside.members.entry(node).or_default();
            if *held >= self.per_member {
                return None;
            }
            *held += 1;
        }
        Some(Pass { door: Arc::clone(self), node, stranger })
    }
}

impl Pass {
    /// A stranger that has become a member makes room for the next; called now and then.
    pub(crate) fn look_again(&mut self) {
        if self.stranger && self.door.knows(self.node) {
            let mut inside = self.door.inside.lock().expect("nobody panics while holding it");
            inside.strangers -= 1;
            *inside.members.entry(self.node).or_default() += 1;
            self.stranger = false;
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut inside = self.door.inside.lock().expect("nobody panics while holding it");
        if self.stranger {
            inside.strangers -= 1;
        } else if let Some(held) = inside.members.get_mut(&self.node) {
            *held -= 1;
            if *held == 0 {
                inside.members.remove(&self.node);
            }
        }
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
        assert!(door.inside.lock().unwrap().members.is_empty());
    }
}
