//! Inclusive address ranges and canonical sets of them.

use std::{
    cmp::Ordering,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{Family, Prefix};

/// An address as an integer: `u32` for IPv4, `u128` for IPv6.
pub trait Address: Copy + Ord + std::fmt::Debug + std::hash::Hash + Send + Sync + 'static {
    /// Bits in an address.
    const BITS: u8;
    /// IP version.
    const FAMILY: Family;
    /// The next address, `None` past the last one.
    fn next(self) -> Option<Self>;
    /// The address before, `None` before the first one.
    fn prev(self) -> Option<Self>;
    /// The integer as an address.
    fn ip(self) -> IpAddr;
    /// First and last address of `prefix`, `None` for the other family.
    fn bounds(prefix: &Prefix) -> Option<Range<Self>>;
    /// Addresses in `first..=last`, saturating.
    fn span(first: Self, last: Self) -> u128;
    /// The address with all but the first `len` bits cleared.
    fn masked(self, len: u8) -> Self;
    /// The address with all but the first `len` bits set.
    fn filled(self, len: u8) -> Self;
}

impl Address for u32 {
    const BITS: u8 = 32;
    const FAMILY: Family = Family::V4;

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
    fn prev(self) -> Option<Self> {
        self.checked_sub(1)
    }
    fn ip(self) -> IpAddr {
        Ipv4Addr::from(self).into()
    }
    fn bounds(prefix: &Prefix) -> Option<Range<Self>> {
        match (prefix.addr(), prefix.last()) {
            (IpAddr::V4(first), IpAddr::V4(last)) => Some(Range {
                first: first.into(),
                last: last.into(),
            }),
            _ => None,
        }
    }
    fn span(first: Self, last: Self) -> u128 {
        u128::from(last.saturating_sub(first)) + 1
    }
    fn masked(self, len: u8) -> Self {
        self & u32::MAX
            .checked_shl(32 - u32::from(len.min(32)))
            .unwrap_or(0)
    }
    fn filled(self, len: u8) -> Self {
        self | u32::MAX.checked_shr(u32::from(len)).unwrap_or(0)
    }
}

impl Address for u128 {
    const BITS: u8 = 128;
    const FAMILY: Family = Family::V6;

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
    fn prev(self) -> Option<Self> {
        self.checked_sub(1)
    }
    fn ip(self) -> IpAddr {
        Ipv6Addr::from(self).into()
    }
    fn bounds(prefix: &Prefix) -> Option<Range<Self>> {
        match (prefix.addr(), prefix.last()) {
            (IpAddr::V6(first), IpAddr::V6(last)) => Some(Range {
                first: first.into(),
                last: last.into(),
            }),
            _ => None,
        }
    }
    fn span(first: Self, last: Self) -> u128 {
        last.saturating_sub(first).saturating_add(1)
    }
    fn masked(self, len: u8) -> Self {
        self & u128::MAX
            .checked_shl(128 - u32::from(len.min(128)))
            .unwrap_or(0)
    }
    fn filled(self, len: u8) -> Self {
        self | u128::MAX.checked_shr(u32::from(len)).unwrap_or(0)
    }
}

/// Addresses `first..=last`; `first <= last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range<A> {
    /// First address.
    pub first: A,
    /// Last address, inside.
    pub last: A,
}

impl<A: Address> Range<A> {
    /// The single address `addr`.
    pub fn host(addr: A) -> Self {
        Self {
            first: addr,
            last: addr,
        }
    }

    /// True for a single address.
    pub fn is_host(&self) -> bool {
        self.first == self.last
    }

    /// Number of addresses, saturating.
    pub fn span(&self) -> u128 {
        A::span(self.first, self.last)
    }
}

/// A set of addresses: sorted, disjoint, non-adjacent ranges, so equal sets are equal values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeSet<A>(Vec<Range<A>>);

impl<A> Default for RangeSet<A> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<A: Address> RangeSet<A> {
    /// Sorts `ranges` and merges what overlaps or touches.
    pub fn new(mut ranges: Vec<Range<A>>) -> Self {
        ranges.sort_unstable();
        ranges.dedup_by(|next, kept| {
            let joins = match kept.last.next() {
                Some(after) => next.first <= after,
                None => true,
            };
            if joins && next.last > kept.last {
                kept.last = next.last;
            }
            joins
        });
        Self(ranges)
    }

    /// The addresses of `prefixes` that belong to this family.
    pub fn of<'a>(prefixes: impl IntoIterator<Item = &'a Prefix>) -> Self {
        Self::new(prefixes.into_iter().filter_map(A::bounds).collect())
    }

    /// The ranges in order.
    pub fn ranges(&self) -> &[Range<A>] {
        &self.0
    }

    /// True when no address is inside.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of addresses, saturating.
    pub fn span(&self) -> u128 {
        self.0
            .iter()
            .fold(0u128, |sum, range| sum.saturating_add(range.span()))
    }

    /// True when `addr` is inside. O(log n).
    pub fn contains(&self, addr: A) -> bool {
        let after = self.0.partition_point(|range| range.first <= addr);
        after
            .checked_sub(1)
            .and_then(|i| self.0.get(i))
            .is_some_and(|range| addr <= range.last)
    }

    /// True when any address of `range` is inside. O(log n).
    pub fn intersects(&self, range: Range<A>) -> bool {
        let at = self.0.partition_point(|mine| mine.last < range.first);
        self.0.get(at).is_some_and(|mine| mine.first <= range.last)
    }

    /// The addresses that are in both. O(n + m).
    pub fn intersect(&self, other: &Self) -> Self {
        let (mut a, mut b) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut out = Vec::new();
        while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
            let (first, last) = (x.first.max(y.first), x.last.min(y.last));
            if first <= last {
                out.push(Range { first, last });
            }
            match x.last.cmp(&y.last) {
                Ordering::Less => a.next(),
                Ordering::Equal | Ordering::Greater => b.next(),
            };
        }
        Self(out)
    }

    /// The addresses of `self` that are not in `other`. O(n + m).
    pub fn subtract(&self, other: &Self) -> Self {
        let mut out = Vec::with_capacity(self.0.len());
        let mut holes = other.0.iter().copied().peekable();
        for range in &self.0 {
            let mut first = Some(range.first);
            while let (Some(start), Some(hole)) = (first, holes.peek().copied()) {
                if hole.first > range.last {
                    break;
                }
                if hole.last < start {
                    holes.next();
                    continue;
                }
                if hole.first > start
                    && let Some(last) = hole.first.prev()
                {
                    out.push(Range { first: start, last });
                }
                first = hole.last.next().filter(|next| *next <= range.last);
                if hole.last <= range.last {
                    holes.next();
                }
            }
            if let Some(start) = first {
                out.push(Range {
                    first: start,
                    last: range.last,
                });
            }
        }
        Self(out)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Addresses at the very top of the space, where "one past the end" does not exist.
    fn small() -> impl Strategy<Value = Vec<Range<u32>>> {
        let base = u32::MAX - 63;
        proptest::collection::vec((0u32..64, 0u32..64), 0..12).prop_map(move |pairs| {
            pairs
                .into_iter()
                .map(|(a, b)| Range {
                    first: base + a.min(b),
                    last: base + a.max(b),
                })
                .collect()
        })
    }

    fn naive(ranges: &[Range<u32>]) -> BTreeSet<u32> {
        ranges.iter().flat_map(|r| r.first..=r.last).collect()
    }

    proptest! {
        #[test]
        fn union_is_the_naive_set_and_canonical(ranges in small()) {
            let set = RangeSet::new(ranges.clone());
            prop_assert_eq!(naive(set.ranges()), naive(&ranges));
            for pair in set.ranges().windows(2) {
                prop_assert!(pair[0].last + 1 < pair[1].first);
            }
            prop_assert_eq!(set.span(), naive(&ranges).len() as u128);
        }

        #[test]
        fn subtraction_is_the_naive_difference(a in small(), b in small()) {
            let out = RangeSet::new(a.clone()).subtract(&RangeSet::new(b.clone()));
            let expect: BTreeSet<u32> = naive(&a).difference(&naive(&b)).copied().collect();
            prop_assert_eq!(naive(out.ranges()), expect.clone());
            prop_assert_eq!(out.clone(), RangeSet::new(out.ranges().to_vec()));
            for addr in u32::MAX - 64..=u32::MAX {
                prop_assert_eq!(out.contains(addr), expect.contains(&addr));
            }
        }
    }

    proptest! {
        #[test]
        fn intersection_is_the_naive_one(a in small(), b in small()) {
            let (a, b) = (RangeSet::new(a), RangeSet::new(b));
            let both = naive(a.ranges()).intersection(&naive(b.ranges())).copied().collect();
            let out = a.intersect(&b);
            prop_assert_eq!(naive(out.ranges()), both);
            prop_assert_eq!(out.clone(), RangeSet::new(out.ranges().to_vec()));
            prop_assert_eq!(out, b.intersect(&a));
        }
    }

    #[test]
    fn masks() {
        assert_eq!(0xffff_ffffu32.masked(20), 0xffff_f000);
        assert_eq!(0xffff_ffffu32.masked(0), 0);
        assert_eq!(u128::MAX.masked(32) >> 96, 0xffff_ffff);
        assert_eq!(u128::MAX.masked(128), u128::MAX);
    }
}
