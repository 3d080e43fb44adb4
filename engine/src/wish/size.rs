//! Sizes and shares as docker writes them: `512m`, `1.5g`, `0.5` CPUs.

use super::WishError;

/// Reads bytes: a number with an optional fraction and `b k m g t p` (powers of 1024), with `b` or `ib` after them.
pub fn bytes(text: &str) -> Result<u64, WishError> {
    let refuse = || WishError::new(text, "a size is a number with b, k, m, g or t, as in 512m");
    let lower = text.trim().to_ascii_lowercase();
    let end = lower.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(end);
    let scale: u64 = match unit.trim() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        "p" | "pb" | "pib" => 1 << 50,
        _ => return Err(refuse()),
    };
    let thousandths = fixed(number, 3).ok_or_else(refuse)?;
    u64::try_from(thousandths * u128::from(scale) / 1000).map_err(|_| refuse())
}

/// Reads `--cpus` into billionths of a CPU.
pub fn cpus_to_nanos(text: &str) -> Result<i64, WishError> {
    fixed(text, 9)
        .and_then(|nanos| i64::try_from(nanos).ok())
        .ok_or_else(|| WishError::new(text, "a number of CPUs with at most nine decimals, as in 1.5"))
}

/// Reads a decimal number into an integer scaled by ten to the `digits`; more decimals are cut off.
fn fixed(text: &str, digits: usize) -> Option<u128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if (whole.is_empty() && fraction.is_empty()) || whole.len() > 20 {
        return None;
    }
    if !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let padded: String = fraction.chars().chain(std::iter::repeat('0')).take(digits).collect();
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    Some(whole * 10u128.pow(u32::try_from(digits).ok()?) + padded.parse::<u128>().unwrap_or(0))
}

/// Writes bytes in powers of 1024 with four significant digits, as `stats` does: `1.5MiB`.
pub fn human_bytes(bytes: u64) -> String {
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"], 4)
}

/// Writes bytes in powers of 1000 with three significant digits, as `ps -s` and `images` do: `1.5MB`.
pub fn human_decimal(bytes: u64) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB"], 3)
}

fn scaled(bytes: u64, base: f64, units: &[&str], digits: usize) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= base && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    let whole = format!("{value:.0}").len();
    let text = format!("{value:.*}", digits.saturating_sub(whole));
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(bytes("512m").unwrap(), 512 << 20);
        assert_eq!(bytes("1.5g").unwrap(), 3 << 29);
        assert_eq!(bytes("64KiB").unwrap(), 65_536);
        assert_eq!(bytes("7").unwrap(), 7);
        for bad in ["", "m", "-1", "1x", "1e9", "99999999999999999999g"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cpus_have_nine_decimals() {
        assert_eq!(cpus_to_nanos("1.5").unwrap(), 1_500_000_000);
        assert_eq!(cpus_to_nanos(".25").unwrap(), 250_000_000);
        assert!(cpus_to_nanos("two").is_err());
    }

    #[test]
    fn sizes_are_printed_as_docker_prints_them() {
        assert_eq!(human_decimal(1_240_000), "1.24MB");
        assert_eq!(human_decimal(0), "0B");
        assert_eq!(human_bytes(1_572_864), "1.5MiB");
        assert_eq!(human_bytes(524_288), "512KiB");
    }
}
