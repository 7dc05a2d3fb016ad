//! How much of the globally routable address space entries cover.
//!
//! Overlaps count once; private, documentation and other special networks do not count. An entry with a
//! port counts like any other.

use std::fmt;

use crate::prefix::{Address, Family, Prefix, RangeSet, routable4, routable6};

/// Routable addresses of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cover {
    v4: RangeSet<u32>,
    v6: RangeSet<u128>,
}

impl Cover {
    /// What these prefixes cover.
    pub fn of(prefixes: impl Iterator<Item = Prefix> + Clone) -> Self {
        Self {
            v4: union(prefixes.clone()).intersect(routable4()),
            v6: union(prefixes).intersect(routable6()),
        }
    }

    /// What these ranges cover.
    pub fn of_ranges(v4: &RangeSet<u32>, v6: &RangeSet<u128>) -> Self {
        Self {
            v4: v4.intersect(routable4()),
            v6: v6.intersect(routable6()),
        }
    }

    /// What either covers.
    #[must_use]
    pub fn join(&self, other: &Self) -> Self {
        let v4 = [self.v4.ranges(), other.v4.ranges()].concat();
        let v6 = [self.v6.ranges(), other.v6.ranges()].concat();
        Self {
            v4: RangeSet::new(v4),
            v6: RangeSet::new(v6),
        }
    }

    /// How much that is.
    pub fn share(&self) -> Share {
        Share {
            v4: self.v4.span(),
            v6: self.v6.span(),
        }
    }
}

fn union<A: Address>(prefixes: impl Iterator<Item = Prefix>) -> RangeSet<A> {
    RangeSet::new(prefixes.filter_map(|prefix| A::bounds(&prefix)).collect())
}

/// A number of routable addresses of each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// IPv4 addresses.
    pub v4: u128,
    /// IPv6 addresses.
    pub v6: u128,
}

impl Share {
    /// The part of a family's routable space, 0.0..=1.0.
    pub fn part(&self, family: Family) -> f64 {
        let (count, all) = match family {
            Family::V4 => (self.v4, routable4().span()),
            Family::V6 => (self.v6, routable6().span()),
        };
        ratio(count, all)
    }

    /// Addresses of a family.
    pub fn count(&self, family: Family) -> u128 {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// No more of either family than `other`.
    pub fn is_within(&self, other: &Self) -> bool {
        self.v4 <= other.v4 && self.v6 <= other.v6
    }

    /// The first family of which it has more than `limit` (0.0..=1.0) allows, and more than `other` has.
    pub fn over(&self, limit: f64, other: &Self) -> Option<Family> {
        let is_over = |family: &Family| {
            self.count(*family) > other.count(*family) && self.part(*family) > limit
        };
        [Family::V4, Family::V6].into_iter().find(is_over)
    }

    /// The sum, which is no less than what both cover together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            v4: self.v4.saturating_add(other.v4),
            v6: self.v6.saturating_add(other.v6),
        }
    }
}

/// `0.02% of routable IPv4, less than 0.01% of routable IPv6`; a family without addresses is left out.
impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let families = [Family::V4, Family::V6].into_iter();
        let some: Vec<String> = families
            .filter(|family| self.count(*family) > 0)
            .map(|family| of(self.part(family), family))
            .collect();
        match some.as_slice() {
            [] => f.write_str("no routable address"),
            some => f.write_str(&some.join(", ")),
        }
    }
}

/// As JSON: percent of each family's routable space, and the words.
impl serde::Serialize for Share {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("ipv4_percent", &(100.0 * self.part(Family::V4)))?;
        map.serialize_entry("ipv6_percent", &(100.0 * self.part(Family::V6)))?;
        map.serialize_entry("text", &self.to_string())?;
        map.end()
    }
}

/// `0.02% of routable IPv4`.
pub(super) fn of(part: f64, family: Family) -> String {
    let name = match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    let percent = 100.0 * part;
    if percent < 0.01 {
        return format!("less than 0.01% of routable {name}");
    }
    format!("{percent:.2}% of routable {name}")
}

/// To some nine digits, which is more than a limit in percent has.
fn ratio(count: u128, all: u128) -> f64 {
    const SCALE: u128 = 1 << 31;
    // Addresses of IPv6 have no room for the factor.
    let shift = all.checked_ilog2().unwrap_or(0).saturating_sub(64);
    let scaled = (count >> shift).saturating_mul(SCALE) / (all >> shift).max(1);
    f64::from(u32::try_from(scaled).unwrap_or(u32::MAX)) / f64::from(1u32 << 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn cover(nets: &[&str]) -> Cover {
        let nets: Vec<Prefix> = nets.iter().map(|net| net.parse().unwrap()).collect();
        Cover::of(nets.iter().copied())
    }

    #[test]
    fn half_of_the_internet_and_all_of_it() {
        let all = cover(&["0.0.0.0/0", "::/0"]).share();
        assert_eq!(
            all.to_string(),
            "100.00% of routable IPv4, 100.00% of routable IPv6"
        );
        let half = cover(&["128.0.0.0/1"]).share();
        assert!((0.40..0.45).contains(&half.part(Family::V4)), "{half}");
        assert_eq!(half.over(0.05, &Share::default()), Some(Family::V4));
        assert_eq!(half.over(0.05, &half), None);
        assert_eq!(half.over(0.5, &Share::default()), None);
    }

    #[test]
    fn special_space_does_not_count() {
        let special = cover(&["10.0.0.0/8", "203.0.113.0/24", "224.0.0.0/3", "fe80::/10"]);
        assert_eq!(special.share().to_string(), "no routable address");
        let one = cover(&["1.1.1.1", "2606:4700::/32"]).share();
        assert_eq!(one.count(Family::V4), 1);
        assert_eq!(
            one.to_string(),
            "less than 0.01% of routable IPv4, less than 0.01% of routable IPv6"
        );
        // A /19, the widest that a feed may have by default.
        let wide = cover(&["2600::/19"]).share();
        assert!((wide.part(Family::V6) - 1.0 / 65_536.0).abs() < 1e-7);
    }

    proptest! {
        /// Around the end of 10.0.0.0/8 and the beginning of 11.0.0.0/8, address by address.
        #[test]
        fn a_share_is_the_naive_count(nets in prop::collection::vec((0u32..64, 26u8..=32), 0..12)) {
            const BASE: u32 = 0x0aff_ffe0;
            let prefix = |(at, len): &(u32, u8)| {
                Prefix::new(std::net::Ipv4Addr::from(BASE + at).into(), *len).unwrap()
            };
            let prefixes: Vec<Prefix> = nets.iter().map(prefix).collect();
            let naive: BTreeSet<u32> = prefixes
                .iter()
                .filter_map(u32::bounds)
                .flat_map(|range| range.first..=range.last)
                .filter(|addr| addr >> 24 == 11)
                .collect();
            let (a, b) = prefixes.split_at(prefixes.len() / 2);
            let of = |part: &[Prefix]| Cover::of(part.iter().copied());
            let count = u128::try_from(naive.len()).unwrap();
            prop_assert_eq!(of(&prefixes).share(), Share { v4: count, v6: 0 });
            prop_assert_eq!(of(a).join(&of(b)), of(&prefixes));
            prop_assert!(of(&prefixes).share().is_within(&of(a).share().plus(&of(b).share())));
        }
    }
}
