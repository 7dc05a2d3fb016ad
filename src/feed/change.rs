//! Whether an update differs too much from the last good data to be taken unseen.

use std::net::IpAddr;

use super::{Limits, Parsed, Refusal};
use crate::prefix::{Address, Range, RangeSet};

/// How much of the address space `parsed` covers: IPv4 addresses, plus IPv6 /64 networks of which
/// any part is covered. A /64 is what one subscriber or host has; counted in addresses, the
/// smallest IPv6 network would hide whatever happens to the IPv4 part.
pub fn weight(parsed: &Parsed) -> u128 {
    let v4 = RangeSet::<u32>::of(parsed.prefixes()).span();
    let v6 = parsed.prefixes().filter_map(|prefix| {
        let (IpAddr::V6(first), IpAddr::V6(last)) = (prefix.addr(), prefix.last()) else {
            return None;
        };
        Some(Range {
            first: u128::from(first).masked(64) >> 64,
            last: u128::from(last) >> 64,
        })
    });
    v4.saturating_add(RangeSet::new(v6.collect()).span())
}

/// Refuses what lost too many entries or addresses, or gained too many addresses.
pub(super) fn refuse(now: &Parsed, last: &Parsed, limits: &Limits) -> Result<(), Refusal> {
    let count = |parsed: &Parsed| u128::try_from(parsed.count()).unwrap_or(u128::MAX);
    let (before, after) = (weight(last), weight(now));
    shrunk(count(last), count(now), "entries", limits)?;
    shrunk(before, after, "addresses", limits)?;
    if before > 0 && number(after) > number(before) * limits.max_growth {
        let max_growth = limits.max_growth;
        return Err(Refusal::Grown {
            before,
            after,
            max_growth,
        });
    }
    Ok(())
}

fn shrunk(before: u128, after: u128, unit: &'static str, limits: &Limits) -> Result<(), Refusal> {
    let max_shrink = limits.max_shrink;
    if number(after) < number(before) * (1.0 - max_shrink) {
        return Err(Refusal::Shrunk {
            before,
            after,
            unit,
            max_shrink,
        });
    }
    Ok(())
}

/// Near enough for a comparison of sizes.
#[allow(clippy::cast_precision_loss)]
fn number(count: u128) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::parse_plain;

    fn change(last: &str, now: &str) -> Result<(), Refusal> {
        let limits = Limits::default();
        let read = |text: &str| parse_plain(text.as_bytes(), &limits);
        refuse(&read(now), &read(last), &limits)
    }

    fn hosts(count: u8) -> String {
        (0..count).map(|i| format!("203.0.113.{i}\n")).collect()
    }

    #[test]
    fn half_may_go_and_no_more() {
        assert_eq!(change(&hosts(10), &hosts(5)), Ok(()));
        let refusal = change(&hosts(10), &hosts(4)).unwrap_err();
        assert!(refusal.can_be_accepted());
        assert!(
            refusal
                .to_string()
                .starts_with("the feed fell from 10 to 4 entries, more than max-shrink (50.0%)"),
            "{refusal}"
        );
    }

    #[test]
    fn a_lost_network_counts_by_its_addresses() {
        let networks = hosts(10) + "198.51.100.0/24\n";
        let refusal = change(&networks, &hosts(10)).unwrap_err();
        assert!(
            matches!(
                refusal,
                Refusal::Shrunk {
                    before: 266,
                    after: 10,
                    ..
                }
            ),
            "{refusal}"
        );
    }

    #[test]
    fn ten_times_the_addresses_and_no_more() {
        assert_eq!(change(&hosts(10), &hosts(100)), Ok(()));
        let refusal = change(&hosts(10), &hosts(101)).unwrap_err();
        assert!(
            matches!(
                refusal,
                Refusal::Grown {
                    before: 10,
                    after: 101,
                    ..
                }
            ),
            "{refusal}"
        );
        let refusal = change(&hosts(10), &(hosts(10) + "198.0.0.0/8\n")).unwrap_err();
        assert!(matches!(refusal, Refusal::Grown { .. }), "{refusal}");
    }

    #[test]
    fn networks_of_ipv6_count_by_the_slash_64() {
        assert_eq!(change("2001:db8::1\n", "2001:db8::/64\n"), Ok(()));
        assert!(change(&hosts(10), &(hosts(10) + "2001:db8::/32\n")).is_err());
    }

    #[test]
    fn a_first_filling_is_no_growth() {
        assert_eq!(change("", "198.0.0.0/8\n"), Ok(()));
    }
}
