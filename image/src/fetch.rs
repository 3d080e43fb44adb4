//! How bytes are asked for: pauses between attempts, and which ranges next. Pure.
//!
//! In: counts, sizes, a random number, what a server said. Out: a pause, or ranges. Never a clock, never the network.

use std::ops::Range;
use std::time::Duration;

/// The first pause after a failure; doubled each time.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
/// No pause grows beyond this by doubling.
const PAUSE_MAX: Duration = Duration::from_secs(20);
/// The longest `Retry-After` that is obeyed; a server that wants more is treated as failed with its own words.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);
/// Failures in a row, without one new byte, before a transfer is given up.
pub const ATTEMPTS_MAX: u32 = 6;
/// Bytes of one range request when a blob is fetched over several connections: large enough that a request's cost
/// vanishes, small enough that four connections finish together.
pub const RANGE_BYTES: u64 = 16 << 20;
/// Connections one blob may use at once.
pub const RANGES_IN_FLIGHT_MAX: usize = 4;
/// Blobs of one image in flight at once.
pub const BLOBS_IN_FLIGHT_MAX: usize = 6;
/// Bytes of a manifest or index; distribution-spec "Pushing Manifests" asks registries for at least 4 MiB.
pub const MANIFEST_MAX: u64 = 4 << 20;

/// Returns how long to wait before attempt `attempt` (1 = after the first failure): doubling with full jitter from `random`,
/// or what the server asked for when that is longer (`None` when it asked for more than [`RETRY_AFTER_MAX`]).
#[must_use]
pub fn pause(attempt: u32, random: u64, retry_after: Option<Duration>) -> Option<Duration> {
    let ceiling = PAUSE_FIRST.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(PAUSE_MAX);
    let millis = u64::try_from(ceiling.as_millis()).unwrap_or(u64::MAX);
    // At least half of it: a jitter that may be zero hammers a server that is down.
    let own = Duration::from_millis(millis / 2 + random % (millis / 2 + 1));
    match retry_after {
        Some(asked) if asked > RETRY_AFTER_MAX => None,
        Some(asked) => Some(asked.max(own)),
        None => Some(own),
    }
}

/// Reads `Retry-After`: seconds, or an HTTP date relative to `now_unix` seconds.
#[must_use]
pub fn retry_after(value: &str, now_unix: u64) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    Some(Duration::from_secs(http_date(value)?.saturating_sub(now_unix)))
}

/// Reads an RFC 9110 IMF-fixdate (`Sun, 06 Nov 1994 08:49:37 GMT`) as seconds since 1970.
fn http_date(text: &str) -> Option<u64> {
    let mut words = text.split_once(", ")?.1.split(' ');
    let day: u64 = words.next()?.parse().ok()?;
    let month = words.next()?;
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = u64::try_from(months.iter().position(|m| *m == month)?).ok()? + 1;
    let year: u64 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.split(':').map(str::parse::<u64>);
    let (hour, minute, second) = (clock.next()?.ok()?, clock.next()?.ok()?, clock.next()?.ok()?);
    if !(1970..=9999).contains(&year) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days from civil (Howard Hinnant), March based.
    let y = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (y / 400, y % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Returns what is missing of `0..size` when `have` (in any order, overlaps allowed) is there.
#[must_use]
pub fn missing(size: u64, have: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut have: Vec<_> = have.iter().filter(|r| r.start < r.end).cloned().collect();
    have.sort_by_key(|range| range.start);
    let mut gaps = Vec::new();
    let mut at = 0;
    for range in have {
        if range.start > at {
            gaps.push(at..range.start.min(size));
        }
        at = at.max(range.end);
        if at >= size {
            return gaps;
        }
    }
    if at < size {
        gaps.push(at..size);
    }
    gaps
}

/// Cuts gaps into pieces of at most `bytes`, in order.
#[must_use]
pub fn cut(gaps: &[Range<u64>], bytes: u64) -> Vec<Range<u64>> {
    let bytes = bytes.max(1);
    let mut pieces = Vec::new();
    for gap in gaps {
        let mut at = gap.start;
        while at < gap.end {
            let end = gap.end.min(at.saturating_add(bytes));
            pieces.push(at..end);
            at = end;
        }
    }
    pieces
}

/// The first byte, last byte and total of a `Content-Range: bytes a-b/total` (total `None` for `*`).
#[must_use]
pub fn content_range(value: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    (first <= last && total.is_none_or(|total| last < total)).then_some((first, last, total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pauses_double_up_to_the_ceiling_and_obey_the_server() {
        assert_eq!(pause(1, 0, None), Some(Duration::from_millis(100)));
        assert_eq!(pause(3, 0, None), Some(Duration::from_millis(400)));
        assert_eq!(pause(40, 0, None), Some(Duration::from_secs(10)));
        assert_eq!(pause(1, 7, Some(Duration::from_secs(3))), Some(Duration::from_secs(3)));
        assert_eq!(pause(1, 7, Some(Duration::from_secs(3600))), None);
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        assert_eq!(retry_after("7", 0), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_770), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Thu, 01 Jan 1970 00:00:01 GMT", 0), Some(Duration::from_secs(1)));
        assert_eq!(retry_after("soon", 0), None);
    }

    #[test]
    fn content_ranges_are_read_strictly() {
        assert_eq!(content_range("bytes 0-4/10"), Some((0, 4, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, 9, None)));
        for bad in ["bytes 5-4/10", "bytes 0-10/10", "0-4/10", "bytes -4/10", "bytes 0-4"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_there_and_what_is_missing_cover_everything_once(
            size in 0u64..300,
            have in proptest::collection::vec((0u64..300, 0u64..80), 0..8),
            piece in 1u64..40,
        ) {
            let have: Vec<_> = have.into_iter().map(|(at, len)| at..at + len).collect();
            let pieces = cut(&missing(size, &have), piece);
            for byte in 0..size {
                let there = have.iter().any(|r| r.contains(&byte));
                let asked = pieces.iter().filter(|r| r.contains(&byte)).count();
                prop_assert_eq!(asked, usize::from(!there));
            }
            prop_assert!(pieces.iter().all(|r| r.end <= size && r.end - r.start <= piece));
        }

        #[test]
        fn any_retry_after_is_read_without_a_panic(text in "\\PC{0,40}", now in any::<u64>()) {
            let _ = retry_after(&text, now);
            let _ = content_range(&text);
        }
    }
}
