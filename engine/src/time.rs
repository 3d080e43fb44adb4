//! Times as users and documents write them: RFC 3339 in UTC with nanoseconds, durations as Go prints them.
//!
//! In: nanoseconds since 1970 and text. Out: text and nanoseconds. The clock is read in [`now`] alone.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970-01-01T00:00:00Z; 0 stands for "never".
pub type Nanos = u64;

const SECOND: u64 = 1_000_000_000;

/// Reads the wall clock.
pub fn now() -> Nanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Writes `2006-01-02T15:04:05.999999999Z`; 0 becomes docker's `0001-01-01T00:00:00Z`.
pub fn rfc3339(time: Nanos) -> String {
    if time == 0 {
        return "0001-01-01T00:00:00Z".to_owned();
    }
    let (seconds, nanos) = (time / SECOND, time % SECOND);
    let (year, month, day) = civil(seconds / 86_400);
    let rest = seconds % 86_400;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{nanos:09}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Days since 1970 to year, month, day (Howard Hinnant's algorithm for the proleptic Gregorian calendar).
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

/// Reads a point in time as docker's `--since` does: RFC 3339 (with or without time, zone), unix seconds with fraction,
/// or a Go duration before `now`.
pub fn parse(text: &str, now: Nanos) -> Option<Nanos> {
    parse_in(text, now, &|seconds| seconds)
}

/// The same, for what a user types: a time without a zone is of this process's zone.
pub fn parse_local(text: &str, now: Nanos) -> Option<Nanos> {
    parse_in(text, now, &crate::host::sys::local_to_utc)
}

/// `local` turns seconds of a zone's clock into those since the epoch.
fn parse_in(text: &str, now: Nanos, local: &dyn Fn(i64) -> i64) -> Option<Nanos> {
    if let Some(ago) = duration(text) {
        return Some(now.saturating_sub(ago));
    }
    if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && !text.is_empty() {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        return whole.parse::<u64>().ok()?.checked_mul(SECOND)?.checked_add(fraction_nanos(fraction)?);
    }
    let (date, clock) = text.split_once(['T', ' ']).unwrap_or((text, "00:00:00"));
    let mut parts = date.splitn(3, '-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    if !(1970..=2500).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let (clock, offset) = zone(clock)?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let mut parts = clock.splitn(3, ':').map(|part| part.parse::<u64>().ok());
    let (hour, minute) = (parts.next()??, parts.next().unwrap_or(Some(0))?);
    let second = parts.next().unwrap_or(Some(0))?;
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = i64::try_from(days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second).ok()?;
    let seconds = offset.map_or_else(|| local(seconds), |offset| seconds - offset);
    u64::try_from(seconds).ok()?.checked_mul(SECOND)?.checked_add(fraction_nanos(fraction)?)
}

/// Splits a trailing zone off a clock: `Z`, `+02:00`, or nothing.
fn zone(clock: &str) -> Option<(&str, Option<i64>)> {
    if let Some(clock) = clock.strip_suffix('Z') {
        return Some((clock, Some(0)));
    }
    let Some(at) = clock.rfind(['+', '-']) else { return Some((clock, None)) };
    let (hours, minutes) = clock[at + 1..].split_once(':')?;
    let seconds = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
    Some((&clock[..at], Some(if clock.as_bytes()[at] == b'-' { -seconds } else { seconds })))
}

fn fraction_nanos(text: &str) -> Option<u64> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((0..9).fold(0, |sum, at| sum * 10 + u64::from(text.as_bytes().get(at).map_or(0, |digit| digit - b'0'))))
}

fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year / 400;
    let yoe = year % 400;
    let mp = (month + 9) % 12;
    let doy = (153 * mp + 2) / 5 + day - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

/// Reads a Go duration such as `1h30m`, `500ms`, `1.5s`, `0`, in nanoseconds.
pub fn duration(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut sum = 0u64;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (number, tail) = rest.split_at(end);
        let unit_end = tail.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(tail.len());
        let (unit, after) = tail.split_at(unit_end);
        let scale = match unit {
            "ns" => 1,
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" => SECOND,
            "m" => 60 * SECOND,
            "h" => 3600 * SECOND,
            "d" => 86_400 * SECOND,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
        let part =
            u64::try_from(u128::from(fraction_nanos(fraction)?) * u128::from(scale) / u128::from(SECOND)).ok()?;
        sum = sum.checked_add(whole.checked_mul(scale)?)?.checked_add(part)?;
        rest = after;
    }
    (!text.is_empty()).then_some(sum)
}

/// How long, in docker's words: `Less than a second`, `5 seconds`, `About a minute`, `3 hours`, `2 weeks`.
pub fn human(nanos: u64) -> String {
    let seconds = nanos / SECOND;
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 14 => format!("{} days", hours / 24),
        () if hours < 24 * 60 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_go_out_and_come_back() {
        for time in [1_000_000_000_123_456_789, 951_827_696_000_000_000, 4_102_444_799_999_999_999] {
            assert_eq!(parse(&rfc3339(time), 0), Some(time));
        }
        assert_eq!(rfc3339(951_782_400_000_000_000), "2000-02-29T00:00:00.000000000Z");
    }

    #[test]
    fn since_takes_every_spelling_docker_documents() {
        let now = 2_000_000_000 * SECOND;
        assert_eq!(parse("10m", now), Some(now - 600 * SECOND));
        assert_eq!(parse("1136073845", now), Some(1_136_073_845 * SECOND));
        assert_eq!(parse("1136073845.000000001", now), Some(1_136_073_845 * SECOND + 1));
        assert_eq!(parse("2006-01-02", now), Some(1_136_160_000 * SECOND));
        assert_eq!(parse("2006-01-02T15:04:05+01:00", now), Some(1_136_210_645 * SECOND));
        assert_eq!(parse("yesterday", now), None);
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(duration("1h30m"), Some(5400 * SECOND));
        assert_eq!(duration("1.5s"), Some(1_500_000_000));
        assert_eq!(duration("5"), None);
        assert_eq!(duration(""), None);
    }
}
