//! Standing mirrors: a repository's tags kept equal somewhere else, for as long as a row says so. In: policies, what nodes say
//! of their last runs, who lives. Out: whether it is this node's turn. Pure. Two nodes at once are safe: what is there is not
//! sent again and a tag is written last.

use crate::model::{Liveness, Ms, Node, NodeId};
use crate::steward::mix;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The shortest time between two looks at the source, in ms: a look costs two requests a tag.
pub const EVERY_MS_MIN: u64 = 1_000;
/// The longest: a day.
pub const EVERY_MS_MAX: u64 = 86_400_000;
/// How often a run that found nothing new is told: more would be rows for nothing.
pub const TELL_MS: u64 = 15_000;
/// How long each further node in the order waits for the one before it, beyond what that one may keep to itself.
const TURN_MS: u64 = 3 * TELL_MS;
/// The shortest time between a run that failed and the next.
const FAILED_MS: u64 = 5_000;
/// The longest: what is wanted once an hour does not wait an hour for a line that was down for a moment.
const FAILED_MS_MAX: u64 = 60_000;
/// Globs in one policy.
const GLOBS_MAX: usize = 64;
/// Reasons of failed tags that are kept.
pub const FAILED_MAX: usize = 8;

/// What to keep equal to what (table `mirror-policy`, shared, keyed by name).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Format version, 1.
    pub v: u32,
    /// A random id; a policy that is removed and made again has another one.
    #[serde(default)]
    pub id: String,
    /// Its name.
    pub name: String,
    /// The repository that is read.
    pub from: String,
    /// The repository that is written.
    pub to: String,
    /// Globs; a tag must match one. Empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// Globs; a tag must match none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Signatures, SBOMs and whatever else refers to an image travel too.
    #[serde(default)]
    pub all: bool,
    /// Bytes a second in each direction; absent: as fast as it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<u64>,
    /// The registries may speak plain HTTP or have certificates that nobody vouches for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
    /// Milliseconds between two looks at the source.
    pub every_ms: Ms,
    /// Only nodes of this site do it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// When it was made, in ms since 1970.
    #[serde(default)]
    pub created_ms: Ms,
    /// Fields of a newer version, kept as they came.
    #[serde(flatten)]
    pub extra: BTreeMap<String, serde_json::Value>,
}

/// How far a node's mirroring is (table `mirror-state`, owned, keyed by the policy's id).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Format version, 1.
    pub v: u32,
    /// The policy's random id.
    pub policy_id: String,
    /// The policy's name.
    pub name: String,
    /// Whether a run is under way.
    pub running: bool,
    /// When the last run began (the node's clock).
    pub began_ms: Ms,
    /// When it ended.
    #[serde(default)]
    pub ended_ms: Ms,
    /// What it did.
    #[serde(default)]
    pub report: Report,
    /// Why the run as a whole failed; empty when it did not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// Bytes copied by this node since it began with the policy.
    #[serde(default)]
    pub bytes_total: u64,
    /// Fields of a newer version, kept as they came.
    #[serde(flatten)]
    pub extra: BTreeMap<String, serde_json::Value>,
}

/// What one run did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Tags that were looked at.
    pub tags: u64,
    /// Tags that were copied.
    pub copied: u64,
    /// Bytes that were copied.
    pub bytes: u64,
    /// Tags that failed.
    pub failed: u64,
    /// Why, at most [`FAILED_MAX`] of them: `TAG: reason`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

impl Policy {
    /// Checks what a person wrote.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub fn check(&self) -> Result<(), String> {
        crate::service::check_name(&self.name).map_err(|reason| format!("name: {reason}"))?;
        if let Some(field) = self.extra.keys().next() {
            return Err(format!("{field}: this version of shoal does not know the field"));
        }
        for (field, text) in [("from", &self.from), ("to", &self.to)] {
            text.parse::<oci::Reference>().map_err(|error| format!("{field}: {text:?}: {error}"))?;
        }
        if self.from == self.to {
            return Err("from and to are the same repository".to_owned());
        }
        if !(EVERY_MS_MIN..=EVERY_MS_MAX).contains(&self.every_ms) {
            return Err(format!("every: {} ms is not between a second and a day", self.every_ms));
        }
        if self.include.len() + self.exclude.len() > GLOBS_MAX {
            return Err(format!("more than {GLOBS_MAX} globs"));
        }
        if self.bandwidth == Some(0) {
            return Err("bandwidth: it must be more than 0".to_owned());
        }
        Ok(())
    }
}

/// A state row with the time this node saw it change.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The row.
    pub state: State,
    /// When, by the local clock.
    pub at: Ms,
}

impl Policy {
    /// Says whether a push to a repository, by its name within its registry, is one to what this reads. Names alone are compared:
    /// a registry has many addresses, and a look too many costs a request.
    #[must_use]
    pub fn reads(&self, repository: &str) -> bool {
        self.from.parse::<oci::Reference>().is_ok_and(|from| from.repository() == repository)
    }
}

/// The nodes that may do it, in the order of their turns. Who failed last time comes last: another may reach what this one does
/// not.
fn order<'a>(
    policy: &Policy,
    nodes: impl Iterator<Item = &'a Node>,
    states: &BTreeMap<NodeId, Seen>,
) -> Vec<&'a NodeId> {
    let may = |node: &&Node| {
        node.liveness == Liveness::Alive && policy.site.as_ref().is_none_or(|site| node.facts.site == *site)
    };
    let mut order: Vec<&NodeId> = nodes.filter(may).map(|node| &node.id).collect();
    order.sort_by_key(|node| {
        let of_policy = states.get(*node).filter(|seen| seen.state.policy_id == policy.id);
        let failed = of_policy.is_some_and(|seen| !seen.state.error.is_empty());
        (failed, std::cmp::Reverse(mix(&policy.id, node)), *node)
    });
    order
}

/// Says whether `me` is the one to look when something is said to have been pushed: the first in the order, while no other is
/// at it.
#[must_use]
pub fn looks_now<'a>(
    policy: &Policy,
    me: &NodeId,
    nodes: impl Iterator<Item = &'a Node>,
    states: &BTreeMap<NodeId, Seen>,
) -> bool {
    let busy = |node: &NodeId| {
        node != me && states.get(node).is_some_and(|seen| seen.state.policy_id == policy.id && seen.state.running)
    };
    let order = order(policy, nodes, states);
    order.first() == Some(&me) && !order.iter().any(|node| busy(node))
}

/// Returns when it is `me`'s turn for a policy that this node knows `since` (the local clock); `None` while another node is at
/// it, or when this node may not. `states` are the rows of this policy by node.
#[must_use]
pub fn turn<'a>(
    policy: &Policy,
    me: &NodeId,
    nodes: impl Iterator<Item = &'a Node>,
    states: &BTreeMap<NodeId, Seen>,
    since: Ms,
) -> Option<Ms> {
    let of = |node: &NodeId| states.get(node).filter(|seen| seen.state.policy_id == policy.id);
    let nodes: Vec<&Node> = nodes.collect();
    // What nodes of another site say they did counts for nothing; what one did that is gone does.
    let foreign = |id: &NodeId| {
        let other = |node: &&Node| policy.site.as_ref().is_some_and(|site| node.facts.site != *site);
        nodes.iter().any(|node| node.id == *id && other(node))
    };
    let order = order(policy, nodes.iter().copied(), states);
    if order.iter().any(|node| *node != me && of(node).is_some_and(|seen| seen.state.running)) {
        return None;
    }
    let rank = u64::try_from(order.iter().position(|node| *node == me)?).unwrap_or(u64::MAX);
    let of_policy = states.iter().filter(|(node, seen)| seen.state.policy_id == policy.id && !foreign(node));
    let last = of_policy.map(|(_, seen)| seen).max_by_key(|seen| seen.at);
    let base = last.map_or(since, |seen| {
        let failed = !seen.state.error.is_empty() || seen.state.report.failed > 0;
        seen.at.saturating_add(if failed { policy.every_ms.clamp(FAILED_MS, FAILED_MS_MAX) } else { policy.every_ms })
    });
    Some(base.saturating_add(rank.saturating_mul(TURN_MS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        Policy {
            v: 1,
            id: "p1".to_owned(),
            name: "shop".to_owned(),
            from: "a.example:5000/shop/web".to_owned(),
            to: "b.example:5000/shop/web".to_owned(),
            every_ms: 10_000,
            ..Policy::default()
        }
    }

    fn nodes() -> Vec<Node> {
        let node = |id: &str, site: &str| {
            let mut node = Node { id: id.to_owned(), ..Node::default() };
            node.facts.site = site.to_owned();
            node
        };
        vec![node("a", "x"), node("b", "x"), node("c", "y")]
    }

    fn seen(at: Ms, running: bool, error: &str) -> Seen {
        let state = State { policy_id: "p1".to_owned(), running, error: error.to_owned(), ..State::default() };
        Seen { state, at }
    }

    #[test]
    fn of_a_push_one_node_is_told_to_look() {
        let (nodes, mut states) = (nodes(), BTreeMap::new());
        let who = |states: &BTreeMap<NodeId, Seen>| -> Vec<NodeId> {
            let looks = |node: &&Node| looks_now(&policy(), &node.id, nodes.iter(), states);
            nodes.iter().filter(looks).map(|node| node.id.clone()).collect()
        };
        let first = who(&states);
        assert_eq!(first.len(), 1);
        states.insert(first[0].clone(), seen(1, false, "refused"));
        let second = who(&states);
        assert!(second.len() == 1 && second != first, "who failed comes last");
        states.insert(first[0].clone(), seen(1, true, ""));
        assert_eq!(who(&states), first, "it is at it, and looks again");
        states.insert("c".to_owned(), seen(1, true, ""));
        states.insert("b".to_owned(), seen(1, true, ""));
        assert_eq!(who(&states), Vec::<NodeId>::new());
        assert!(policy().reads("shop/web") && !policy().reads("shop/we"));
    }

    /// The nodes in the order of their turns.
    fn turns(states: &BTreeMap<NodeId, Seen>, nodes: &[Node]) -> Vec<(Ms, NodeId)> {
        let turn = |node: &Node| Some((turn(&policy(), &node.id, nodes.iter(), states, 100)?, node.id.clone()));
        let mut all: Vec<_> = nodes.iter().filter_map(turn).collect();
        all.sort();
        all
    }

    #[test]
    fn one_node_acts_at_once_and_the_others_wait_for_it() {
        let first = turns(&BTreeMap::new(), &nodes());
        assert_eq!(first.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [100, 100 + TURN_MS, 100 + 2 * TURN_MS]);
        // After a run everybody counts from it; the same node goes first.
        let steward = first[0].1.clone();
        let again = turns(&BTreeMap::from([(steward.clone(), seen(500, false, ""))]), &nodes());
        assert_eq!(again[0], (10_500, steward));
    }

    #[test]
    fn nobody_acts_while_a_living_node_is_at_it_and_the_next_does_when_it_dies() {
        let mut nodes = nodes();
        let steward = turns(&BTreeMap::new(), &nodes)[0].1.clone();
        let states = BTreeMap::from([(steward.clone(), seen(500, true, ""))]);
        let others = turns(&states, &nodes);
        assert_eq!(others.len(), 1, "the steward itself, when it comes back, goes on: {others:?}");
        nodes.iter_mut().find(|node| node.id == steward).unwrap().liveness = Liveness::Down;
        let next = turns(&states, &nodes);
        assert_eq!((next.len(), next[0].0), (2, 10_500));
    }

    #[test]
    fn who_failed_goes_last_and_sites_are_kept() {
        let steward = turns(&BTreeMap::new(), &nodes())[0].1.clone();
        let states = BTreeMap::from([(steward.clone(), seen(500, false, "connection refused"))]);
        let next = turns(&states, &nodes());
        assert_eq!(next.last().unwrap().1, steward);
        let mut far = policy();
        far.site = Some("y".to_owned());
        let nodes = nodes();
        let may = |me: &str| turn(&far, &me.to_owned(), nodes.iter(), &BTreeMap::new(), 1).is_some();
        assert_eq!(["a", "b", "c"].map(may), [false, false, true]);
    }

    #[test]
    fn what_cannot_be_mirrored_is_refused_with_its_field() {
        assert_eq!(policy().check(), Ok(()));
        let wrong = |change: fn(&mut Policy)| {
            let mut policy = policy();
            change(&mut policy);
            policy.check().unwrap_err()
        };
        assert!(wrong(|policy| policy.name = "a b".to_owned()).starts_with("name: "));
        assert!(wrong(|policy| policy.from = "UPPER/Case:".to_owned()).starts_with("from: "));
        assert!(wrong(|policy| policy.to = policy.from.clone()).contains("same repository"));
        assert!(wrong(|policy| policy.every_ms = 10).starts_with("every: "));
        assert!(wrong(|policy| policy.bandwidth = Some(0)).starts_with("bandwidth: "));
    }
}
