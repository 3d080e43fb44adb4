//! Where instances go: filter by constraints and means, spread, then the better of two at random within the best tier.
//!
//! In: the nodes, the instances that count, one accepted service, a seed. Out: a node for each slot, or why there is none.
//! The choice is a suggestion; the target admits by [`admit`] against what it itself knows.

pub mod filter;
pub mod score;
pub mod spread;

use crate::model::{Availability, InstanceRow, Liveness, Node, NodeId, short_digest};
use crate::service::{Amount, PortMode, Service};
use crate::steward::Dice;
use filter::{NoFit, Obstacle};
use std::collections::{BTreeMap, BTreeSet};

/// What is set aside on one node already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Used {
    /// The sum of the reservations.
    pub amount: Amount,
    /// Host ports in use.
    pub ports: BTreeSet<(u16, crate::service::Protocol)>,
    /// Instances of each service, by its random id.
    pub per_service: BTreeMap<String, u32>,
}

impl Used {
    /// Counts an instance that has not ended.
    pub fn add(&mut self, row: &InstanceRow) {
        self.amount.cpu_nanos = self.amount.cpu_nanos.saturating_add(row.reserved.cpu_nanos);
        self.amount.memory_bytes = self.amount.memory_bytes.saturating_add(row.reserved.memory_bytes);
        self.ports.extend(row.host_ports.iter().map(|port| (port.published, port.protocol)));
        *self.per_service.entry(row.service_id.clone()).or_default() += 1;
    }
}

/// A node that passed the filter, with what is left on it; changes as slots are placed.
#[derive(Debug, Clone)]
struct Candidate<'a> {
    node: &'a Node,
    free: Amount,
    count: u32,
    groups: Vec<usize>,
    full: bool,
}

/// Places slots of one service. Made once for a service, then asked for each missing slot.
#[derive(Debug)]
pub struct Placer<'a> {
    service: &'a Service,
    candidates: Vec<Candidate<'a>>,
    /// Instances in each group of each preference: `groups[level][group]`.
    groups: Vec<Vec<u32>>,
    no_fit: NoFit,
    /// Nodes that could not get the image lately: taken only when no other fits.
    failing: BTreeSet<NodeId>,
    /// What nodes call the image, when it is known which one it is.
    image: Option<String>,
}

impl<'a> Placer<'a> {
    /// Filters the nodes. `avoid` are nodes that refused or failed lately; they count as an obstacle of their own.
    pub fn new(
        service: &'a Service,
        service_id: &str,
        nodes: impl Iterator<Item = &'a Node>,
        used: &BTreeMap<NodeId, Used>,
        avoid: &BTreeSet<NodeId>,
    ) -> Self {
        let nothing = Used::default();
        let mut placer = Self {
            service,
            candidates: Vec::new(),
            groups: vec![Vec::new(); service.preferences.len()],
            no_fit: NoFit::new(&service.spec.name),
            failing: BTreeSet::new(),
            image: service.spec.template.image.split_once('@').map(|(_, digest)| short_digest(digest)),
        };
        let mut names: Vec<BTreeMap<String, usize>> = vec![BTreeMap::new(); service.preferences.len()];
        for node in nodes {
            let used = used.get(&node.id).unwrap_or(&nothing);
            placer.no_fit.total += 1;
            let obstacle = eligible(service, node).err().or_else(|| means(service, service_id, node, used).err());
            let obstacle = obstacle.or_else(|| avoid.contains(&node.id).then_some(Obstacle::Refused));
            if let Some(obstacle) = obstacle {
                placer.no_fit.count(obstacle);
                continue;
            }
            let count = used.per_service.get(service_id).copied().unwrap_or(0);
            let mut groups = Vec::with_capacity(service.preferences.len());
            for (level, preference) in service.preferences.iter().enumerate() {
                // A group of a lower level is one inside its group of the level above: rack 1 of site a is not rack 1 of b.
                let outer = groups.last().map_or(0, |group: &usize| *group);
                let key = format!("{outer}/{}", preference.value(node));
                let next = names[level].len();
                let group = *names[level].entry(key).or_insert(next);
                if group == next {
                    placer.groups[level].push(0);
                }
                placer.groups[level][group] += count;
                groups.push(group);
            }
            let free = score::free(&node.facts.capacity, &used.amount);
            placer.candidates.push(Candidate { node, free, count, groups, full: false });
        }
        placer
    }

    /// Passes over nodes that could not get the image lately while another fits.
    #[must_use]
    pub fn without(mut self, failing: BTreeSet<NodeId>) -> Self {
        self.failing = failing;
        self
    }

    /// Chooses a node for one more instance and counts it there.
    pub fn place(&mut self, dice: &mut Dice) -> Result<NodeId, NoFit> {
        let tier = self.best_tier();
        if tier.is_empty() {
            return Err(self.why());
        }
        let first = tier[dice.below(tier.len())];
        let second = tier[dice.below(tier.len())];
        let wish = self.service.spec.template.resources.reservations;
        let load = |index: usize| {
            let candidate = &self.candidates[index];
            score::load_after(&candidate.node.facts.capacity, &candidate.free, &wish)
        };
        let chosen = if load(second) < load(first) { second } else { first };
        self.take(chosen);
        Ok(self.candidates[chosen].node.id.clone())
    }

    /// Returns why no node fits now.
    #[must_use]
    pub fn why(&self) -> NoFit {
        let mut no_fit = self.no_fit.clone();
        for candidate in self.candidates.iter().filter(|candidate| candidate.full) {
            let used = Used { per_service: BTreeMap::from([(String::new(), candidate.count)]), ..Used::default() };
            let mut node = candidate.node.clone();
            node.facts.capacity = candidate.free;
            let obstacle = means(self.service, "", &node, &used).err().unwrap_or(Obstacle::HostPort);
            no_fit.count(obstacle);
        }
        no_fit
    }

    /// Returns how many nodes could take an instance now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.candidates.iter().filter(|candidate| !candidate.full).count()
    }

    /// The candidates with the fewest instances, level by level of the preferences, then by node.
    fn best_tier(&self) -> Vec<usize> {
        let key = |candidate: &Candidate<'_>, level: usize| match candidate.groups.get(level) {
            Some(group) => self.groups[level][*group],
            None => candidate.count,
        };
        let mut tier: Vec<usize> = (0..self.candidates.len()).filter(|&index| !self.candidates[index].full).collect();
        let fails = |index: &usize| self.failing.contains(&self.candidates[*index].node.id);
        keep_if_any(&mut tier, |index| !fails(index));
        for level in 0..=self.groups.len() {
            let Some(least) = tier.iter().map(|&index| key(&self.candidates[index], level)).min() else { break };
            tier.retain(|&index| key(&self.candidates[index], level) == least);
        }
        // Of equals those that need not fetch the image.
        if let Some(image) = &self.image {
            keep_if_any(&mut tier, |index| self.candidates[*index].node.facts.images.contains(image));
        }
        tier
    }

    fn take(&mut self, index: usize) {
        let wish = self.service.spec.template.resources.reservations;
        let candidate = &mut self.candidates[index];
        candidate.count += 1;
        candidate.free.cpu_nanos = candidate.free.cpu_nanos.saturating_sub(wish.cpu_nanos);
        candidate.free.memory_bytes = candidate.free.memory_bytes.saturating_sub(wish.memory_bytes);
        for (level, group) in candidate.groups.iter().enumerate() {
            self.groups[level][*group] += 1;
        }
        let most = self.service.spec.placement.max_replicas_per_node;
        let one_each = most != 0 && candidate.count >= most;
        let host_port = self.service.spec.ports.iter().any(|port| port.mode == PortMode::Host && port.published != 0);
        let lacks = candidate.free.cpu_nanos < wish.cpu_nanos || candidate.free.memory_bytes < wish.memory_bytes;
        candidate.full = one_each || host_port || lacks;
    }
}

/// Keeps those that fulfil a wish, or all when none does.
fn keep_if_any(tier: &mut Vec<usize>, wish: impl Fn(&usize) -> bool) {
    if tier.iter().any(&wish) {
        tier.retain(wish);
    }
}

/// Networks that every host has, or that are a way to share another's.
fn is_everywhere(network: &str) -> bool {
    matches!(network, "bridge" | "host" | "none" | "mesh" | "default") || network.starts_with("container:")
}

/// Returns one of these networks that a node does not have.
#[must_use]
pub fn lacks_network<'a>(networks: &'a [String], node: &Node) -> Option<&'a str> {
    let has = node.facts.networks.as_ref()?;
    let mut asked = networks.iter().filter(|network| !is_everywhere(network));
    asked.find(|network| !has.contains(*network)).map(String::as_str)
}

/// Says whether a service may run on a node at all: alive, not draining, every constraint fulfilled.
pub fn eligible(service: &Service, node: &Node) -> Result<(), Obstacle> {
    match node.liveness {
        Liveness::Alive => {}
        Liveness::Suspect => return Err(Obstacle::Suspect),
        Liveness::Down | Liveness::Left => return Err(Obstacle::Down),
    }
    match node.policy.availability {
        Availability::Active => {}
        Availability::Pause => return Err(Obstacle::Paused),
        Availability::Drain => return Err(Obstacle::Draining),
    }
    if node.facts.v == 0 {
        return Err(Obstacle::Unknown);
    }
    if let Some(network) = lacks_network(&service.spec.template.networks, node) {
        return Err(Obstacle::Network(network.to_owned()));
    }
    allowed(service, node)
}

/// Says whether every constraint of a service is fulfilled by a node, whatever its state.
pub fn allowed(service: &Service, node: &Node) -> Result<(), Obstacle> {
    match service.constraints.iter().find(|constraint| !constraint.holds(node)) {
        Some(constraint) => Err(Obstacle::Constraint(constraint.to_string())),
        None => Ok(()),
    }
}

/// Says whether a node has room for one more instance beside what is set aside there.
pub fn means(service: &Service, service_id: &str, node: &Node, used: &Used) -> Result<(), Obstacle> {
    let wish = service.spec.template.resources.reservations;
    let free = score::free(&node.facts.capacity, &used.amount);
    if wish.memory_bytes > free.memory_bytes {
        return Err(Obstacle::Memory { need: wish.memory_bytes, free: free.memory_bytes });
    }
    if wish.cpu_nanos > free.cpu_nanos {
        return Err(Obstacle::Cpu { need: wish.cpu_nanos, free: free.cpu_nanos });
    }
    let most = service.spec.placement.max_replicas_per_node;
    if most != 0 && used.per_service.get(service_id).copied().unwrap_or(0) >= most {
        return Err(Obstacle::MaxReplicas(most));
    }
    let taken = service
        .spec
        .ports
        .iter()
        .any(|port| port.mode == PortMode::Host && used.ports.contains(&(port.published, port.protocol)));
    if taken { Err(Obstacle::HostPort) } else { Ok(()) }
}

/// Decides at the target whether it takes one more instance.
pub fn admit(service: &Service, service_id: &str, node: &Node, used: &Used) -> Result<(), Obstacle> {
    eligible(service, node)?;
    means(service, service_id, node, used)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NodeFacts;
    use crate::service::ServiceSpec;

    fn nodes(count: usize) -> Vec<Node> {
        (0..count)
            .map(|n| Node {
                id: format!("id{n}"),
                facts: NodeFacts {
                    v: 1,
                    name: format!("n{n}"),
                    site: format!("dc{}", n % 2),
                    labels: BTreeMap::from([("zone".to_owned(), if n < 2 { "eu" } else { "us" }.to_owned())]),
                    capacity: Amount { cpu_nanos: 4_000_000_000, memory_bytes: 1 << 30, pids: 0 },
                    ..NodeFacts::default()
                },
                ..Node::default()
            })
            .collect()
    }

    fn place_all(spec: ServiceSpec, nodes: &[Node], count: usize) -> (Vec<NodeId>, Option<NoFit>) {
        let service = spec.accept().unwrap();
        let (used, avoid) = (BTreeMap::new(), BTreeSet::new());
        let mut placer = Placer::new(&service, "sid", nodes.iter(), &used, &avoid);
        let mut dice = Dice::new(7);
        let mut out = Vec::new();
        for _ in 0..count {
            match placer.place(&mut dice) {
                Ok(node) => out.push(node),
                Err(why) => return (out, Some(why)),
            }
        }
        (out, None)
    }

    #[test]
    fn replicas_are_spread_over_nodes() {
        let nodes = nodes(5);
        let (mut placed, why) = place_all(ServiceSpec::new("web", "a"), &nodes, 5);
        assert!(why.is_none());
        placed.sort();
        placed.dedup();
        assert_eq!(placed.len(), 5);
    }

    #[test]
    fn of_equal_nodes_one_that_holds_the_image_is_taken_and_spreading_comes_first() {
        let mut nodes = nodes(4);
        nodes[2].facts.images.insert("0123456789abcdef".to_owned());
        let digest = format!("0123456789abcdef{}", "0".repeat(48));
        let spec = ServiceSpec::new("web", &format!("a:1@sha256:{digest}"));
        for _ in 0..8 {
            let (placed, _) = place_all(spec.clone(), &nodes, 4);
            assert_eq!(placed[0], "id2");
            assert_eq!(placed.iter().collect::<BTreeSet<_>>().len(), 4, "{placed:?}");
        }
    }

    #[test]
    fn a_node_that_could_not_get_the_image_is_taken_last() {
        let nodes = nodes(3);
        let service = ServiceSpec::new("web", "a").accept().unwrap();
        let (used, avoid) = (BTreeMap::new(), BTreeSet::new());
        let all = |failing: &[&str]| {
            let failing = failing.iter().map(|id| (*id).to_owned()).collect();
            let mut placer = Placer::new(&service, "sid", nodes.iter(), &used, &avoid).without(failing);
            let mut dice = Dice::new(7);
            (0..4).map(|_| placer.place(&mut dice).unwrap()).collect::<BTreeSet<_>>()
        };
        assert_eq!(all(&["id0", "id1"]), BTreeSet::from(["id2".to_owned()]));
        assert_eq!(all(&["id0", "id1", "id2"]).len(), 3, "when all fail none is passed over");
    }

    #[test]
    fn a_network_that_a_node_lacks_keeps_a_service_from_it() {
        let mut nodes = nodes(3);
        nodes[0].facts.networks = Some(BTreeSet::new());
        nodes[1].facts.networks = Some(BTreeSet::from(["back".to_owned()]));
        let mut spec = ServiceSpec::new("web", "a");
        spec.template.networks = vec!["back".to_owned(), "host".to_owned()];
        let (placed, _) = place_all(spec, &nodes, 2);
        assert_eq!(placed.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from(["id1".to_owned(), "id2".to_owned()]));
    }

    #[test]
    fn preferences_spread_over_sites_before_nodes() {
        let nodes = nodes(5);
        let mut spec = ServiceSpec::new("web", "a");
        spec.placement.preferences = vec!["node.site".to_owned()];
        let (placed, _) = place_all(spec, &nodes, 4);
        let odd = placed.iter().filter(|id| id.as_str() == "id1" || id.as_str() == "id3").count();
        assert_eq!(odd, 2, "{placed:?}");
    }

    #[test]
    fn why_not_says_each_reason_with_its_number() {
        let mut nodes = nodes(5);
        nodes[0].facts.capacity.memory_bytes = 300 << 20;
        nodes[1].facts.capacity.memory_bytes = 200 << 20;
        nodes[4].policy.availability = Availability::Drain;
        let mut spec = ServiceSpec::new("web", "a");
        spec.placement.constraints = vec!["node.labels.zone==eu".to_owned()];
        spec.template.resources.reservations.memory_bytes = 512 << 20;
        let (_, why) = place_all(spec, &nodes, 1);
        assert_eq!(
            why.unwrap().to_string(),
            "0/5 nodes fit web: 2 lack node.labels.zone == eu, 2 short of memory (need 512M, best free 300M), 1 draining"
        );
    }

    #[test]
    fn a_full_mesh_names_what_is_full() {
        let nodes = nodes(2);
        let mut spec = ServiceSpec::new("web", "a");
        spec.placement.max_replicas_per_node = 1;
        let (placed, why) = place_all(spec, &nodes, 3);
        assert_eq!(placed.len(), 2);
        assert_eq!(why.unwrap().to_string(), "0/2 nodes fit web: 2 already run 1 of it (max_replicas_per_node)");
    }

    #[test]
    fn no_node_gets_more_than_it_has() {
        let nodes = nodes(3);
        let mut spec = ServiceSpec::new("web", "a");
        spec.template.resources.reservations.memory_bytes = 400 << 20;
        let (placed, why) = place_all(spec, &nodes, 10);
        assert_eq!(placed.len(), 6);
        assert!(why.unwrap().to_string().contains("3 short of memory"));
    }
}
