//! Deletions by day. In: clocks and the digests members publish. Out: which day's tombstones may be forgotten.
//!
//! Nothing is forgotten by age: a day that is over is published as (day, digest); it is dropped when every member that is
//! not evicted publishes the same digest. A node that was off for a month has not published, so nothing is dropped.

use super::codec::{Reader, put_varint};
use super::row::Body;
use super::rows::Sum;

/// Milliseconds of a day.
pub const DAY_MS: u64 = 86_400_000;
/// How many days a published row names at most: days with tombstones that could not be dropped, the oldest first.
pub const DAYS_MAX: usize = 512;

/// The body of a tombstone written at `time_ms`.
#[must_use]
pub fn body(time_ms: u64) -> Body {
    let mut out = Vec::new();
    put_varint(&mut out, time_ms / DAY_MS);
    Body(out)
}

/// The day a tombstone was written; day 0 when its body says nothing sensible.
#[must_use]
pub fn day_of(body: &[u8]) -> u32 {
    Reader::new(body).varint().ok().and_then(|day| u32::try_from(day).ok()).unwrap_or(0)
}

/// One closed day as a node publishes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClosedDay {
    /// Days since 1970.
    pub day: u32,
    /// What the node holds of it; zero rows once dropped.
    pub print: u64,
    /// Whether the node has dropped tombstones of this digest.
    pub dropped: bool,
}

/// The body of a node's row in the table `tombstones`.
#[must_use]
pub fn publish(days: &[ClosedDay]) -> Body {
    let mut out = Vec::new();
    for closed in days.iter().take(DAYS_MAX) {
        put_varint(&mut out, u64::from(closed.day));
        out.push(u8::from(closed.dropped));
        out.extend_from_slice(&closed.print.to_be_bytes());
    }
    Body(out)
}

/// Reads what a node published; what cannot be read ends the list.
#[must_use]
pub fn published(body: &[u8]) -> Vec<ClosedDay> {
    let mut reader = Reader::new(body);
    let mut days = Vec::new();
    while reader.left() > 0 && days.len() < DAYS_MAX {
        let (Ok(day), Ok(dropped), Ok(print)) = (reader.varint(), reader.byte(), reader.word()) else { break };
        let Ok(day) = u32::try_from(day) else { break };
        days.push(ClosedDay { day, print, dropped: dropped & 1 != 0 });
    }
    days
}

/// Whether `day` is over for everybody, clocks a day apart included.
#[must_use]
pub fn is_closed(day: u32, wall_ms: u64) -> bool {
    (u64::from(day) + 2) * DAY_MS <= wall_ms
}

/// Whether this node, which holds `mine` of a closed day, may drop it: every other member publishes the same digest, held
/// or already dropped.
pub fn may_drop<'a>(day: u32, mine: Sum, mut others: impl Iterator<Item = Option<&'a [ClosedDay]>>) -> bool {
    others.all(|published| {
        published.is_some_and(|days| days.iter().any(|closed| closed.day == day && closed.print == mine.print))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_dropped_only_when_everybody_publishes_the_same() {
        let mine = Sum { count: 2, print: 77 };
        let same = [ClosedDay { day: 5, print: 77, dropped: false }];
        let gone = [ClosedDay { day: 5, print: 77, dropped: true }];
        let other = [ClosedDay { day: 5, print: 78, dropped: false }];
        assert!(may_drop(5, mine, [Some(&same[..]), Some(&gone[..])].into_iter()));
        assert!(!may_drop(5, mine, [Some(&same[..]), Some(&other[..])].into_iter()));
        assert!(!may_drop(5, mine, [Some(&same[..]), None].into_iter()), "a node that is off keeps everything");
        assert!(!may_drop(6, mine, [Some(&same[..])].into_iter()));
        assert_eq!(published(&publish(&same).0), same);
    }

    #[test]
    fn today_and_yesterday_are_never_closed() {
        let wall = 100 * DAY_MS + 5;
        assert!(!is_closed(100, wall) && !is_closed(99, wall) && is_closed(98, wall));
        assert_eq!(day_of(&body(wall).0), 100);
    }
}
