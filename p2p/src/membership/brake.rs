//! The mass-failure brake. In: when members turned Down. Out: whether it holds. It slows the re-placement of existing slots;
//! create, scale and update are never held back by it.

/// Clusters below this size have no brake: in them every failure is a large part.
pub const NODES_MIN: usize = 10;
/// Failures within this time count together.
pub const WINDOW_MS: u64 = 30_000;
/// How long the brake holds after the last mass failure.
pub const HOLD_MS: u64 = 30_000;
/// While it holds on after [`HOLD_MS`], one slot is re-placed in this time.
pub const SLOT_EVERY_MS: u64 = 1_000;

/// Remembers failures of the last [`WINDOW_MS`].
#[derive(Debug, Clone, Default)]
pub struct Brake {
    failures: std::collections::VecDeque<(u64, String)>,
    since_ms: Option<u64>,
}

impl Brake {
    /// A member of `site` turned Down. `in_site` and `in_all` are the sizes before. Returns whether the brake was pulled just
    /// now, which is worth an alarm.
    pub fn down(&mut self, now_ms: u64, site: &str, in_site: usize, in_all: usize) -> bool {
        self.forget(now_ms);
        self.failures.push_back((now_ms, site.to_owned()));
        let here = self.failures.iter().filter(|(_, other)| other == site).count();
        let all = self.failures.len();
        let mass = in_all >= NODES_MIN && (here > 3.max(in_site / 5) || all * 3 > in_all);
        let pulled = mass && self.since_ms.is_none();
        if mass {
            self.since_ms.get_or_insert(now_ms);
        }
        pulled
    }

    /// A member answers again.
    pub fn up(&mut self, site: &str) {
        if let Some(at) = self.failures.iter().rposition(|(_, other)| other == site) {
            self.failures.remove(at);
        }
    }

    /// Since when the brake holds, if it does.
    pub fn since(&mut self, now_ms: u64) -> Option<u64> {
        self.forget(now_ms);
        if self.failures.is_empty() && self.since_ms.is_some_and(|since| now_ms >= since + HOLD_MS + WINDOW_MS) {
            self.since_ms = None;
        }
        self.since_ms
    }

    fn forget(&mut self, now_ms: u64) {
        while self.failures.front().is_some_and(|(at, _)| at + WINDOW_MS < now_ms) {
            self.failures.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rack_pulls_it_and_single_failures_do_not() {
        let mut brake = Brake::default();
        for n in 0..20 {
            assert!(!brake.down(n * 31_000, "a", 20, 60), "far apart");
        }
        let mut brake = Brake::default();
        assert_eq!((0..6).filter(|n| brake.down(*n, "a", 20, 60)).count(), 1, "the fifth of twenty pulls it, once");
        assert_eq!(brake.since(100), Some(4));
        assert_eq!(brake.since(200_000), None);
        let mut small = Brake::default();
        assert!((0..5).all(|n| !small.down(n, "a", 9, 9)), "small clusters have none");
    }
}
