//! The simulated network: latency by site, loss as retransmission delay, cuts one-way or both. In: who sends to whom, when.
//! Out: when it arrives, or never. Connections are ordered and reliable as TCP is: loss delays everything behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use p2p::node::Dice;

/// How far nodes are apart.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// One way within a site, in µs: (least, spread).
    pub near_us: (u64, u64),
    /// One way between sites, in µs: (least, spread).
    pub far_us: (u64, u64),
    /// Lost segments of ten thousand.
    pub loss: u64,
}

impl Profile {
    /// One data centre.
    pub const LAN: Self = Self { near_us: (150, 300), far_us: (150, 300), loss: 0 };
    /// Sites with round trips up to 300 ms.
    pub const WAN: Self = Self { near_us: (150, 300), far_us: (20_000, 130_000), loss: 0 };
}

/// TCP's first wait before it sends again, in µs.
const RTO_US: u64 = 200_000;
/// Bytes that fit one segment; each segment may be lost by itself.
const SEGMENT: u64 = 1_400;
/// Healed cuts that are remembered.
const HEALED_MAX: usize = 4;

/// A cut between some machines and all others.
#[derive(Debug, Clone)]
struct Halves {
    one: Arc<BTreeSet<usize>>,
    since: u64,
}

impl Halves {
    fn part(&self, from: usize, to: usize) -> bool {
        self.one.contains(&from) != self.one.contains(&to)
    }
}

/// The state of the network.
#[derive(Debug)]
pub struct Net {
    profile: Profile,
    cuts: BTreeSet<(usize, usize)>,
    cut_since: BTreeMap<(usize, usize), u64>,
    halves: Vec<Halves>,
    /// Halves that were healed, and when: connections across them that stand still wait for TCP's next try.
    healed: Vec<(Halves, u64)>,
    arrived: BTreeMap<(usize, usize), u64>,
    stuck_until: BTreeMap<(usize, usize), u64>,
}

impl Net {
    /// A whole network.
    #[must_use]
    pub fn new(profile: Profile) -> Self {
        Self {
            profile,
            cuts: BTreeSet::new(),
            cut_since: BTreeMap::new(),
            halves: Vec::new(),
            healed: Vec::new(),
            arrived: BTreeMap::new(),
            stuck_until: BTreeMap::new(),
        }
    }

    /// Sets the loss, in segments of ten thousand.
    pub fn set_loss(&mut self, loss: u64) {
        self.profile.loss = loss;
    }

    /// Nothing passes from `from` to `to` any more.
    pub fn cut(&mut self, now: u64, from: usize, to: usize) {
        if self.cuts.insert((from, to)) {
            self.cut_since.insert((from, to), now);
        }
    }

    /// Nothing passes between these and the others any more.
    pub fn halve(&mut self, now: u64, one: BTreeSet<usize>) {
        self.halves.push(Halves { one: Arc::new(one), since: now });
    }

    /// Everything passes again. Connections that were cut wait for TCP's next try: up to as long as the cut lasted.
    pub fn heal(&mut self, now: u64, dice: &mut Dice) {
        let halves = std::mem::take(&mut self.halves);
        self.stuck_until.retain(|(from, to), _| !halves.iter().any(|halves| halves.part(*from, *to)));
        for pair in std::mem::take(&mut self.cuts) {
            let since = self.cut_since.remove(&pair).unwrap_or(now);
            self.stuck_until.insert(pair, now + dice.below(now - since + 1));
        }
        self.healed.extend(halves.into_iter().map(|halves| (halves, now)));
        // A connection that has not been used since the heal before the last does not stand any more.
        let old = self.healed.len().saturating_sub(HEALED_MAX);
        self.healed.drain(..old);
    }

    /// Until when what is sent on a standing connection waits because of cuts that were healed.
    fn stuck(&mut self, from: usize, to: usize, dice: &mut Dice) -> u64 {
        if let Some(until) = self.stuck_until.get(&(from, to)) {
            return *until;
        }
        let mut until = 0;
        for (halves, at) in self.healed.iter().filter(|(halves, _)| halves.part(from, to)) {
            until = until.max(at + dice.below(at - halves.since + 1));
        }
        self.stuck_until.insert((from, to), until);
        until
    }

    /// Whether anything passes from `from` to `to`.
    #[must_use]
    pub fn passes(&self, from: usize, to: usize) -> bool {
        !self.cuts.contains(&(from, to)) && !self.halves.iter().any(|halves| halves.part(from, to))
    }

    /// A new connection has nothing in front of it.
    pub fn fresh(&mut self, a: usize, b: usize) {
        for pair in [(a, b), (b, a)] {
            self.arrived.remove(&pair);
            self.stuck_until.insert(pair, 0);
        }
    }

    /// One way, without queues.
    pub fn latency(&self, same_site: bool, dice: &mut Dice) -> u64 {
        let (least, spread) = if same_site { self.profile.near_us } else { self.profile.far_us };
        least + dice.below(spread)
    }

    /// When `bytes` sent now arrive on the standing connection; `None` when they are stuck for good.
    pub fn arrival(
        &mut self,
        now: u64,
        from: usize,
        to: usize,
        bytes: u64,
        same_site: bool,
        dice: &mut Dice,
    ) -> Option<u64> {
        if !self.passes(from, to) {
            return None;
        }
        let mut at = now + self.latency(same_site, dice);
        for _ in 0..bytes.div_ceil(SEGMENT) {
            let mut wait = RTO_US;
            while self.profile.loss > 0 && dice.below(10_000) < self.profile.loss {
                at += wait;
                wait *= 2;
            }
        }
        let stuck = self.stuck(from, to, dice);
        let last = self.arrived.entry((from, to)).or_default();
        at = at.max(*last).max(stuck);
        *last = at;
        Some(at)
    }
}
