//! Sizes, times and processor shares as people write them (`512M`, `1m30s`, `0.25`), and back again for tables.
//! Pure text handling; never rounds silently to zero and never wraps.

use thiserror::Error;

/// A quantity that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is not a {kind}: {reason}")]
pub struct QuantityError {
    /// What was written.
    pub text: String,
    /// What was expected there.
    pub kind: &'static str,
    /// Why it does not fit, with an example.
    pub reason: &'static str,
}

/// One processor in the unit of [`parse_cpus`].
pub const CPU_NANOS: u64 = 1_000_000_000;

/// Returns the bytes of `512`, `64k`, `512M`, `1.5g`, `2GiB`, `512MB`; every suffix is a power of 1024, as docker reads it.
pub fn parse_bytes(text: &str) -> Result<u64, QuantityError> {
    let fail = |reason| QuantityError { text: text.to_owned(), kind: "size", reason };
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(fail("write a number and one of b, k, m, g, t, as in 512m")),
    };
    scaled(number, 1 << shift).ok_or_else(|| fail("write a number and one of b, k, m, g, t, as in 512m"))
}

/// Returns the milliseconds of `500ms`, `10s`, `1m30s`, `2h`; a bare `0` is zero, any other bare number is refused.
pub fn parse_duration_ms(text: &str) -> Result<u64, QuantityError> {
    let fail = || QuantityError {
        text: text.to_owned(),
        kind: "duration",
        reason: "write a number with ms, s, m or h, as in 1m30s",
    };
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(fail());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(fail)?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let part = match unit {
            "us" | "µs" => scaled(number, 1).map(|us| us / 1000),
            "ms" => scaled(number, 1),
            "s" => scaled(number, 1_000),
            "m" => scaled(number, 60_000),
            "h" => scaled(number, 3_600_000),
            "d" => scaled(number, 86_400_000),
            _ => None,
        };
        total = part.and_then(|ms| total.checked_add(ms)).ok_or_else(fail)?;
        rest = next;
    }
    Ok(total)
}

/// Returns the billionths of a processor of `0.25`, `1`, `2.5`.
pub fn parse_cpus(text: &str) -> Result<u64, QuantityError> {
    scaled(text.trim(), CPU_NANOS).ok_or_else(|| QuantityError {
        text: text.to_owned(),
        kind: "number of processors",
        reason: "write a decimal number, as in 0.25",
    })
}

/// Shows bytes with one suffix and no more digits than needed: `512M`, `1.5G`, `300M`.
#[must_use]
pub fn show_bytes(bytes: u64) -> String {
    for (shift, unit) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
        if bytes >> shift >= 1 {
            let tenths = (u128::from(bytes) * 10) >> shift;
            return if tenths.is_multiple_of(10) || tenths >= 1000 {
                format!("{}{unit}", tenths / 10)
            } else {
                format!("{}.{}{unit}", tenths / 10, tenths % 10)
            };
        }
    }
    format!("{bytes}B")
}

/// Shows billionths of a processor as a decimal number without trailing zeros: `0.25`.
#[must_use]
pub fn show_cpus(nanos: u64) -> String {
    let whole = nanos / CPU_NANOS;
    let rest = format!("{:09}", nanos % CPU_NANOS);
    let rest = rest.trim_end_matches('0');
    if rest.is_empty() { whole.to_string() } else { format!("{whole}.{rest}") }
}

/// Shows milliseconds as the largest exact unit: `500ms`, `10s`, `1m30s`.
#[must_use]
pub fn show_duration_ms(ms: u64) -> String {
    if ms == 0 {
        return "0s".to_owned();
    }
    if !ms.is_multiple_of(1000) {
        return format!("{ms}ms");
    }
    let (hours, minutes, seconds) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    let mut out = String::new();
    for (value, unit) in [(hours, "h"), (minutes, "m"), (seconds, "s")] {
        if value > 0 {
            out.push_str(&format!("{value}{unit}"));
        }
    }
    out
}

/// Shows how long ago something was, in docker's words: `12 seconds ago`, `About a minute ago`.
#[must_use]
pub fn show_ago(ms: u64) -> String {
    let seconds = ms / 1000;
    let words = match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..3600 => format!("{} minutes", seconds / 60),
        3600..7200 => "About an hour".to_owned(),
        7200..172_800 => format!("{} hours", seconds / 3600),
        172_800..1_209_600 => format!("{} days", seconds / 86_400),
        _ => format!("{} weeks", seconds / 604_800),
    };
    format!("{words} ago")
}

/// Multiplies a decimal number by `scale` exactly; `None` on anything that is not one, on overflow and on `.` alone.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.len() > 12 {
        return None;
    }
    let digits = |part: &str| if part.is_empty() { Some(0u64) } else { part.parse::<u64>().ok() };
    if !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    let base = digits(whole)?.checked_mul(scale)?;
    let tens = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let part = u128::from(digits(fraction)?) * u128::from(scale) / tens;
    base.checked_add(u64::try_from(part).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        assert_eq!(parse_bytes("512").unwrap(), 512);
        assert_eq!(parse_bytes("64k").unwrap(), 65536);
        assert_eq!(parse_bytes("1.5g").unwrap(), 1_610_612_736);
        assert_eq!(parse_bytes("128MB").unwrap(), 134_217_728);
        assert!(parse_bytes("-1").is_err());
        assert!(parse_bytes("12x").is_err());
        assert!(parse_bytes("99999999999t").is_err());
    }

    #[test]
    fn durations_add_their_parts() {
        assert_eq!(parse_duration_ms("1m30s").unwrap(), 90_000);
        assert_eq!(parse_duration_ms("500ms").unwrap(), 500);
        assert_eq!(parse_duration_ms("0").unwrap(), 0);
        assert!(parse_duration_ms("10").is_err());
        assert!(parse_duration_ms("").is_err());
    }

    #[test]
    fn shown_quantities_are_short() {
        assert_eq!(show_bytes(536_870_912), "512M");
        assert_eq!(show_bytes(1_610_612_736), "1.5G");
        assert_eq!(show_cpus(250_000_000), "0.25");
        assert_eq!(show_duration_ms(90_000), "1m30s");
        assert_eq!(show_ago(61_000), "About a minute ago");
    }
}
