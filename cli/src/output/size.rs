//! Sizes for people, as docker prints them: powers of 1000, three significant digits.

/// `7.8MB`, `170MB`, `1.23GB`.
pub(crate) fn bytes(size: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = size as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    let text = format!("{value:.digits$}");
    let text = if digits > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_have_three_digits() {
        for (size, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (7_812_345, "7.81MB"),
            (170_401_280, "170MB"),
            (1_230_000_000, "1.23GB"),
        ] {
            assert_eq!(bytes(size), text);
        }
    }
}
