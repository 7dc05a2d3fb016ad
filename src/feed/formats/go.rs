//! Durations as Go prints them, which CrowdSec and Calico use.

use std::time::Duration;

/// Reads a Go duration such as `167h59m20.890999684s`, `-5m`, `1.5h`, `300ms` or `0`: whether it is
/// negative, and how long. `None` for what is none, and for more than about 290 years.
pub fn parse_duration(text: &str) -> Option<(bool, Duration)> {
    const LONGEST: usize = 64;
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some((negative, Duration::ZERO));
    }
    if rest.is_empty() || rest.len() > LONGEST {
        return None;
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at_checked(end)?;
        let end = behind
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(behind.len());
        let (unit, behind) = behind.split_at_checked(end)?;
        total = total.checked_add(nanoseconds(number, unit)?)?;
        rest = behind;
    }
    let total = u64::try_from(total)
        .ok()
        .filter(|total| *total <= u64::MAX / 2)?;
    Some((negative, Duration::from_nanos(total)))
}

fn nanoseconds(number: &str, unit: &str) -> Option<u128> {
    let unit: u128 = match unit {
        "h" => 3_600_000_000_000,
        "m" => 60_000_000_000,
        "s" => 1_000_000_000,
        "ms" => 1_000_000,
        "us" | "µs" | "μs" => 1_000,
        "ns" => 1,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    // More digits than that are below a nanosecond of any unit.
    let fraction = fraction.get(..fraction.len().min(15))?;
    let scale = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let part: u128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    whole.checked_mul(unit)?.checked_add(part * unit / scale)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms() {
        for (text, negative, seconds) in [
            ("167h59m20.890999684s", false, 604_760.890_999_684),
            ("-75h34m54.509128301s", true, 272_094.509_128_301),
            ("1.5h", false, 5400.0),
            ("300ms", false, 0.3),
            ("2µs", false, 0.000_002),
            ("+.5s", false, 0.5),
            ("0", false, 0.0),
        ] {
            let (minus, duration) = parse_duration(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(minus, negative, "{text}");
            assert!((duration.as_secs_f64() - seconds).abs() < 1e-6, "{text}");
        }
        for text in [
            "",
            "-",
            "1",
            "h",
            "1d",
            "1h2",
            "1..2s",
            ".s",
            "999999999999h",
            "1 h",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "[0-9hmsnu.µ+-]{0,80}") {
            let _ = parse_duration(&text);
        }
    }
}
