//! Who acts first for a service: nodes in the order of their rendezvous hash. A hint that avoids duplicate work, not an
//! election: two nodes that disagree about the order are safe, because the target of a reservation alone decides.

use crate::model::NodeId;

/// Milliseconds that each further node in the order waits before it does the work of the one before it. One push of a row
/// over a slow link (300 ms) and one reservation (two such) fit in it.
pub const PATIENCE_MS: u64 = 1_500;

/// Returns a 64-bit hash of two words that is the same in every version: FNV-1a over both, then splitmix64's finish.
#[must_use]
pub fn mix(first: &str, second: &str) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in first.bytes().chain([0xff]).chain(second.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    finish(hash)
}

/// Returns the place of `me` in the order of `nodes` for `subject`, 0 first; `None` when `me` is not among them.
pub fn rank<'a>(subject: &str, me: &NodeId, nodes: impl Iterator<Item = &'a NodeId>) -> Option<usize> {
    let mine = (mix(subject, me), me);
    let mut seen = false;
    let mut before = 0;
    for node in nodes {
        if node == me {
            seen = true;
        } else if (mix(subject, node), node) > mine {
            before += 1;
        }
    }
    seen.then_some(before)
}

/// A small deterministic stream of numbers: the seed is an argument, so every choice can be replayed.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Starts a stream from a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        finish(self.0)
    }

    /// Returns a number below `bound`; `bound` must not be zero.
    pub fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "a choice among nothing");
        let wide = u128::from(self.roll()) * (bound as u128);
        usize::try_from(wide >> 64).expect("below bound, which is a usize")
    }

    /// Returns a 25-digit id whose first digits are the time, so that of two ids the smaller is the older one.
    pub fn id(&mut self, now_ms: u64) -> String {
        format!("{:012x}{:013x}", now_ms & 0xffff_ffff_ffff, self.roll() >> 12)
    }
}

fn finish(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_has_another_place_and_all_agree() {
        let nodes: Vec<NodeId> = (0..7).map(|n| format!("node{n}")).collect();
        let mut places: Vec<usize> = nodes.iter().map(|me| rank("web", me, nodes.iter()).unwrap()).collect();
        places.sort_unstable();
        assert_eq!(places, (0..7).collect::<Vec<_>>());
        assert_eq!(rank("web", &"stranger".to_owned(), nodes.iter()), None);
    }

    #[test]
    fn stewards_of_many_services_are_spread() {
        let nodes: Vec<NodeId> = (0..5).map(|n| format!("node{n}")).collect();
        let mut first = [0usize; 5];
        for service in 0..1000 {
            let name = format!("s{service}");
            let winner = nodes.iter().position(|me| rank(&name, me, nodes.iter()) == Some(0)).unwrap();
            first[winner] += 1;
        }
        assert!(first.iter().all(|&n| n > 120), "{first:?}");
    }

    #[test]
    fn later_ids_sort_later() {
        let mut dice = Dice::new(1);
        assert!(dice.id(1000) < dice.id(1001));
    }
}
