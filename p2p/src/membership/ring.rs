//! The two rings: every site's, and the one of all nodes. In: who is in. Out: a node's observers, the links to keep, the
//! parts of a broadcast. Pure arithmetic over sorted lists.

use std::collections::BTreeMap;

use crate::id::NodeId;

/// How many nodes observe each node. Three of four may be wrong together only when three machines are.
pub const OBSERVERS: usize = 4;
/// Clusters up to this size keep a link between every two nodes: at about 23 KB a connection it costs less than thinking.
pub const FULL_MESH_MAX: usize = 12;

/// Up to this many members each node of a site's ring keeps links at distances 1, 2, 4, 8…; in larger ones at 1, 4, 16, 64…:
/// half as many, since every connection costs 12 bytes a second at rest (Yamux measures round trips by itself). A broadcast to
/// 1,000 takes up to 13 hops of about 10 ms then.
pub const NARROW_MAX: usize = 64;

/// Members in ring order; nodes that are down or left are not in it.
#[derive(Debug, Clone, Default)]
pub struct Rings {
    sites: BTreeMap<String, Vec<NodeId>>,
    world: Vec<(u64, NodeId)>,
}

/// The place on the world ring: another order than the site ring's, so that neighbours there are strangers here.
fn scatter(node: NodeId) -> u64 {
    let mut x = node.0 ^ 0x9e37_79b9_7f4a_7c15;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The element `step` places after (or before) where `at` sits or would sit, without `at` itself.
fn around<T: Ord + Copy>(ring: &[T], at: T, step: isize) -> Option<T> {
    let (place, present) = match ring.binary_search(&at) {
        Ok(place) => (place, true),
        Err(place) => (place, false),
    };
    let others = ring.len() - usize::from(present);
    if others == 0 || step == 0 || step.unsigned_abs() > others {
        return None;
    }
    let length = isize::try_from(ring.len()).ok()?;
    let place = isize::try_from(place).ok()?;
    // An absent element sits between place-1 and place: its first successor is at `place` itself.
    let offset = if present || step < 0 { step } else { step - 1 };
    let index = (place + offset).rem_euclid(length);
    Some(ring[usize::try_from(index).ok()?])
}

impl Rings {
    /// Builds the rings of these members and their sites.
    pub fn new<'a>(members: impl Iterator<Item = (NodeId, &'a str)>) -> Self {
        let mut rings = Self::default();
        for (node, site) in members {
            match rings.sites.get_mut(site) {
                Some(ring) => ring.push(node),
                None => {
                    rings.sites.insert(site.to_owned(), vec![node]);
                }
            }
            rings.world.push((scatter(node), node));
        }
        for ring in rings.sites.values_mut() {
            ring.sort_unstable();
            ring.dedup();
        }
        rings.world.sort_unstable();
        rings.world.dedup();
        rings
    }

    /// How many nodes are in.
    #[must_use]
    pub fn len(&self) -> usize {
        self.world.len()
    }

    /// Whether nobody is in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.world.is_empty()
    }

    /// How much further each link reaches than the one before.
    #[must_use]
    pub fn fan(&self) -> usize {
        if self.len() <= NARROW_MAX { 2 } else { 4 }
    }

    /// A site's ring, in its order.
    #[must_use]
    pub fn site(&self, site: &str) -> &[NodeId] {
        self.sites.get(site).map_or(&[], Vec::as_slice)
    }

    /// The sites that have members.
    pub fn sites(&self) -> impl Iterator<Item = &str> {
        self.sites.keys().map(String::as_str)
    }

    /// The observers of a node of `site`: its neighbours on both rings, nearest first, at most [`OBSERVERS`].
    #[must_use]
    pub fn observers(&self, node: NodeId, site: &str) -> Vec<NodeId> {
        let mut found = Vec::with_capacity(OBSERVERS);
        let site = self.site(site);
        let mut add = |candidate: Option<NodeId>| {
            if let Some(candidate) = candidate
                && found.len() < OBSERVERS
                && !found.contains(&candidate)
            {
                found.push(candidate);
            }
            found.len() == OBSERVERS
        };
        let reach = isize::try_from(OBSERVERS).expect("four") + 1;
        'all: for distance in 1..=reach {
            for step in [distance, -distance] {
                if add(around(site, node, step)) {
                    break 'all;
                }
            }
            for step in [distance, -distance] {
                if add(around(&self.world, (scatter(node), node), step).map(|(_, node)| node)) {
                    break 'all;
                }
            }
        }
        found
    }

    /// The nodes after `me` on the ring of `site`, up to and without `until`; all others when `until` is `me`.
    #[must_use]
    pub fn arc(&self, site: &str, me: NodeId, until: NodeId) -> Vec<NodeId> {
        let ring = self.site(site);
        let start = match ring.binary_search(&me) {
            Ok(place) => place + 1,
            Err(place) => place,
        };
        let span = until.0.wrapping_sub(me.0);
        ring.iter()
            .cycle()
            .skip(start)
            .take(ring.len())
            .copied()
            .take_while(|node| *node != me && (span == 0 || node.0.wrapping_sub(me.0) < span))
            .collect()
    }

    /// The node of `site` that `me` of another site hands a broadcast to: candidates in order, the nearest successors.
    pub fn gates<'a>(&'a self, site: &str, me: NodeId) -> impl Iterator<Item = NodeId> + 'a {
        let ring = self.site(site);
        let start = ring.binary_search(&me).unwrap_or_else(|place| place);
        ring.iter().cycle().skip(start).take(ring.len()).copied()
    }

    /// The peers a node keeps a link to: everybody in a small cluster; else its neighbours, the nodes at growing
    /// distances (see [`NARROW_MAX`]) on its site's ring, and one gate into each other site.
    #[must_use]
    pub fn links(&self, me: NodeId, my_site: &str) -> Vec<NodeId> {
        let mut links: Vec<NodeId> = if self.len() <= FULL_MESH_MAX {
            self.world.iter().map(|(_, node)| *node).collect()
        } else {
            let mut links = self.observers(me, my_site);
            let arc = self.arc(my_site, me, me);
            let mut distance = 1;
            while distance <= arc.len() {
                links.push(arc[distance - 1]);
                distance *= self.fan();
            }
            links.extend(self.sites().filter(|site| *site != my_site).filter_map(|site| self.gates(site, me).next()));
            links
        };
        links.retain(|node| *node != me);
        links.sort_unstable();
        links.dedup();
        links
    }
}

/// Splits an arc among those of it that can be reached: (child, where its part ends), such that each child is about `fan`
/// times as far as the one before. Nodes nobody can be reached for are left to repair.
#[must_use]
pub fn split(arc: &[NodeId], until: NodeId, fan: usize, usable: impl Fn(NodeId) -> bool) -> Vec<(NodeId, NodeId)> {
    let mut children: Vec<NodeId> = Vec::new();
    let mut slot = 1;
    while slot <= arc.len() {
        let end = (slot * fan - 1).min(arc.len());
        children.extend(arc[slot - 1..end].iter().copied().find(|node| usable(*node)));
        slot *= fan;
    }
    (0..children.len()).map(|at| (children[at], children.get(at + 1).copied().unwrap_or(until))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn rings(sites: &[(&'static str, u64)]) -> (Rings, Vec<(NodeId, &'static str)>) {
        let mut members = Vec::new();
        for (site, count) in sites {
            for n in 0..*count {
                members.push((NodeId(scatter(NodeId(n + site.len() as u64 * 10_000))), *site));
            }
        }
        (Rings::new(members.iter().map(|(node, site)| (*node, *site))), members)
    }

    #[test]
    fn everybody_has_four_observers_or_all_there_are() {
        for sites in
            [&[("a", 1)][..], &[("a", 2)], &[("a", 5)], &[("a", 1), ("bb", 9)], &[("a", 40), ("bb", 30), ("ccc", 1)]]
        {
            let (rings, members) = rings(sites);
            for (node, site) in &members {
                let observers = rings.observers(*node, site);
                assert_eq!(observers.len(), OBSERVERS.min(members.len() - 1), "{sites:?}");
                assert!(!observers.contains(node));
                // A node that is down keeps (other) observers.
                let without = Rings::new(members.iter().filter(|(other, _)| other != node).map(|(n, s)| (*n, *s)));
                assert_eq!(without.observers(*node, site), observers);
            }
        }
    }

    #[test]
    fn a_broadcast_reaches_everybody_of_the_site_exactly_once() {
        for count in [1u64, 2, 3, 7, 50, 333] {
            let (rings, members) = rings(&[("a", count)]);
            let start = members[0].0;
            let (mut seen, mut queue, mut depth) = (BTreeSet::from([start]), vec![(start, start, 0)], 0);
            while let Some((node, until, hops)) = queue.pop() {
                depth = depth.max(hops);
                let arc = rings.arc("a", node, until);
                for (child, until) in split(&arc, until, rings.fan(), |_| true) {
                    assert!(rings.links(node, "a").contains(&child), "a child is a link");
                    assert!(seen.insert(child), "twice");
                    queue.push((child, until, hops + 1));
                }
            }
            assert_eq!(seen.len() as u64, count);
            assert!(depth <= 13, "{depth} hops");
        }
    }

    #[test]
    fn a_child_that_cannot_be_reached_is_bridged_by_its_neighbour() {
        let (rings, members) = rings(&[("a", 64)]);
        let me = members[0].0;
        let arc = rings.arc("a", me, me);
        let dead = arc[3];
        let parts = split(&arc, me, rings.fan(), |node| node != dead);
        let (_, covered): (Vec<_>, Vec<_>) = parts.iter().copied().unzip();
        assert!(!parts.iter().any(|(child, _)| *child == dead));
        assert_eq!(*covered.last().unwrap(), me);
        assert!(split(&arc, me, rings.fan(), |_| false).is_empty());
    }
}
