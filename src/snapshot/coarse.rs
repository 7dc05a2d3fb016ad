//! The prefilter: every block (/24 for IPv4, /32 for IPv6) that holds a listed address.
//!
//! DESIGN.md proposes /20. With 120k hosts and 5k networks 5.4% of all addresses are in such a block and
//! go on to every class set, which is a third of what the prefilter costs; in a /24 it is 0.5%, for 70k
//! blocks instead of 49k. Whether a prefilter stands at all is decided by [`super::cost`].

use super::{Content, Kind, SetName, Sets, cost};
use crate::{
    feed::Direction,
    prefix::{Address, Range, RangeSet},
};

/// Prefix length of an IPv4 block.
pub const BLOCK4: u8 = 24;
/// Prefix length of an IPv6 block.
pub const BLOCK6: u8 = 32;
/// Blocks that wide ranges may add to the hash set; what is wider still goes to the interval set.
const MAX_FROM_WIDE: u128 = 1 << 17;
/// A range over more blocks than this is wide.
const NARROW: u128 = 16;
/// More blocks than this are no prefilter: they load longer than they help.
const MAX_BLOCKS: usize = 1 << 18;

/// Percent of the IPv6 packets that go through a NAT64, where there is one.
const IN_NAT64: u64 = 50;

/// Class sets that `nft/base.nft` asks for a packet of one direction.
const EVERY_SET: u64 = 14;

/// Adds the prefilter sets for what `sets` holds, for each IP version for which one pays; with `every_set`
/// a packet is looked up in sets that hold nothing too. `has_nat64`: much of what is sent over IPv6 goes to
/// the few blocks of a NAT64, which are listed.
pub(super) fn add(sets: &mut Sets, every_set: bool, has_nat64: bool) {
    let (mut v4, mut v6) = (Collector::new(BLOCK4), Collector::new(BLOCK6));
    for content in sets.0.values() {
        match content {
            Content::V4(ranges) => ranges.iter().for_each(|range| v4.add(*range)),
            Content::V6(ranges) => ranges.iter().for_each(|range| v6.add(*range)),
            Content::Ports4(list) => list.iter().for_each(|e| v4.add(Range::host(e.addr))),
            Content::Ports6(list) => list.iter().for_each(|e| v6.add(Range::host(e.addr))),
            Content::Flows4(list) => list.iter().for_each(|e| v4.add(e.addr)),
            Content::Flows6(list) => list.iter().for_each(|e| v6.add(e.addr)),
        }
    }
    v4.finish().put(sets, every_set, 0, Content::V4);
    let in_nat64 = if has_nat64 { IN_NAT64 } else { 0 };
    v6.finish().put(sets, every_set, in_nat64, Content::V6);
}

/// The prefilter of one IP version.
#[derive(Debug, PartialEq, Eq)]
struct Prefilter<A> {
    len: u8,
    /// First addresses of blocks.
    blocks: Vec<Range<A>>,
    /// What is wider than blocks should be.
    nets: Vec<Range<A>>,
}

impl<A: Address> Prefilter<A> {
    fn put(
        self,
        sets: &mut Sets,
        every_set: bool,
        listed: u64,
        content: fn(Vec<Range<A>>) -> Content,
    ) {
        if !self.pays(sets, every_set, listed) {
            return;
        }
        let family = A::FAMILY;
        for (kind, ranges) in [(Kind::Hosts, self.blocks), (Kind::Nets, self.nets)] {
            sets.put(SetName::Coarse { kind, family }, content(ranges));
        }
    }

    /// True when an unlisted address costs less with it than without it, in the direction that asks most.
    /// So many percent of the packets go to listed blocks anyway.
    fn pays(&self, sets: &Sets, every_set: bool, listed: u64) -> bool {
        if self.blocks.len() > MAX_BLOCKS {
            return false;
        }
        let own = cost::hash(self.blocks.len()) + cost::interval(self.nets.len());
        let all = [Direction::Egress, Direction::Ingress]
            .map(|direction| cost::classes(sets, direction, A::FAMILY))
            .into_iter()
            .max()
            .unwrap_or(0);
        let empty = if every_set {
            EVERY_SET * cost::hash(1)
        } else {
            0
        };
        let all = all + empty;
        let through = cost::share(all, self.covered(), 1 << self.len).max(all * listed / 100);
        own + through < all
    }

    /// How many blocks it lets through.
    fn covered(&self) -> u128 {
        let nets = self.nets.iter().map(|r| r.span() >> (A::BITS - self.len));
        let blocks = u128::try_from(self.blocks.len()).unwrap_or(u128::MAX);
        nets.fold(blocks, u128::saturating_add)
    }
}

/// Gathers blocks by their first address, and wide ranges rounded out to whole blocks.
struct Collector<A> {
    len: u8,
    blocks: Vec<A>,
    wide: Vec<Range<A>>,
}

impl<A: Address> Collector<A> {
    fn new(len: u8) -> Self {
        Self {
            len,
            blocks: Vec::new(),
            wide: Vec::new(),
        }
    }

    fn add(&mut self, range: Range<A>) {
        let rounded = Range {
            first: range.first.masked(self.len),
            last: last_of_block(range.last, self.len),
        };
        if self.count(&rounded) > NARROW {
            self.wide.push(rounded);
        } else {
            self.split(rounded);
        }
    }

    /// Adds each block of a range of whole blocks.
    fn split(&mut self, range: Range<A>) {
        let mut block = Some(range.first);
        while let Some(first) = block {
            // Neighbours in a sorted list mostly share their block.
            if self.blocks.last() != Some(&first) {
                self.blocks.push(first);
            }
            block = last_of_block(first, self.len)
                .next()
                .filter(|next| *next <= range.last);
        }
    }

    fn count(&self, range: &Range<A>) -> u128 {
        range.span() >> (A::BITS - self.len)
    }

    fn finish(mut self) -> Prefilter<A> {
        let nets = self.split_wide();
        let mut blocks = self.blocks;
        blocks.sort_unstable();
        blocks.dedup();
        blocks.retain(|first| !nets.contains(*first));
        Prefilter {
            len: self.len,
            blocks: blocks.into_iter().map(Range::host).collect(),
            nets: nets.ranges().to_vec(),
        }
    }

    /// Splits wide ranges, the narrowest first, for as long as there is room; the others stay whole.
    ///
    /// An interval set costs every packet more than the largest hash set does.
    fn split_wide(&mut self) -> RangeSet<A> {
        let mut wide = RangeSet::new(std::mem::take(&mut self.wide))
            .ranges()
            .to_vec();
        wide.sort_by_key(Range::span);
        let (mut room, mut whole) = (MAX_FROM_WIDE, Vec::new());
        for range in wide {
            match room.checked_sub(self.count(&range)) {
                Some(left) => {
                    room = left;
                    self.split(range);
                }
                None => whole.push(range),
            }
        }
        RangeSet::new(whole)
    }
}

fn last_of_block<A: Address>(addr: A, len: u8) -> A {
    addr.masked(len).filled(len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{feed::Scope, prefix::Family, snapshot::Class};

    fn blocks<A: Address>(ranges: &[Range<A>], len: u8) -> (Vec<Range<A>>, Vec<Range<A>>) {
        let mut collector = Collector::new(len);
        ranges.iter().for_each(|range| collector.add(*range));
        let prefilter = collector.finish();
        (prefilter.blocks, prefilter.nets)
    }

    fn nets(family: Family) -> SetName {
        SetName::Class {
            class: Class::Deny,
            scope: Scope::Both,
            kind: Kind::Nets,
            family,
        }
    }

    fn covered<A: Address>(hosts: &[Range<A>], nets: &[Range<A>], addr: A, len: u8) -> bool {
        hosts.iter().any(|h| h.first == addr.masked(len))
            || nets.iter().any(|n| n.first <= addr && addr <= n.last)
    }

    proptest! {
        #[test]
        fn no_listed_address_is_outside(list in proptest::collection::vec((any::<u32>(), 0u32..32), 1..20)) {
            let list: Vec<_> = list.into_iter().map(|(a, bits)| Range { first: a, last: a | (u32::MAX >> bits >> 6) }).collect();
            let ranges = RangeSet::new(list).ranges().to_vec();
            let (hosts, wide) = blocks(&ranges, BLOCK4);
            for range in &ranges {
                for addr in [range.first, range.last, range.first / 2 + range.last / 2] {
                    prop_assert!(covered(&hosts, &wide, addr, BLOCK4));
                }
            }
        }
    }

    fn ranges(count: u32, step: u32, size: u32) -> Vec<Range<u32>> {
        let range = |n: u32| Range {
            first: n * step,
            last: n * step + size - 1,
        };
        (1..=count).map(range).collect()
    }

    fn sets(given: &[(SetName, Vec<Range<u32>>)]) -> Sets {
        let mut sets = Sets::default();
        for (name, ranges) in given {
            sets.put(*name, Content::V4(ranges.clone()));
        }
        add(&mut sets, false, false);
        sets
    }

    fn has_prefilter(sets: &Sets) -> bool {
        sets.names()
            .any(|name| matches!(name, SetName::Coarse { .. }))
    }

    fn class(class: Class, scope: Scope, kind: Kind) -> SetName {
        SetName::Class {
            class,
            scope,
            kind,
            family: Family::V4,
        }
    }

    #[test]
    fn a_prefilter_stands_where_it_pays() {
        let hosts = class(Class::Deny, Scope::Both, Kind::Hosts);
        let watched = class(Class::Watch, Scope::Both, Kind::Hosts);
        let (all, few) = (
            vec![Range {
                first: 0,
                last: u32::MAX,
            }],
            ranges(50_000, 4096, 1),
        );
        let many = ranges(5_000, 65_536, 256);
        assert!(
            !has_prefilter(&sets(&[(nets(Family::V4), all)])),
            "it would hold everything"
        );
        assert!(
            !has_prefilter(&sets(&[(hosts, few.clone())])),
            "one hash set is as quick as another"
        );
        assert!(
            has_prefilter(&sets(&[(nets(Family::V4), many.clone())])),
            "an interval set is slow"
        );
        assert!(has_prefilter(&sets(&[
            (hosts, few.clone()),
            (nets(Family::V4), many)
        ])));
        assert!(has_prefilter(&sets(&[
            (hosts, few.clone()),
            (watched, few)
        ])));
        let too_many = ranges(300_000, 4096, 2);
        assert!(
            !has_prefilter(&sets(&[(nets(Family::V4), too_many)])),
            "it would load for too long"
        );
    }

    #[test]
    fn rules_that_ask_every_set_always_have_one_that_filters() {
        let hosts = class(Class::Deny, Scope::Both, Kind::Hosts);
        let mut sets = Sets::default();
        sets.put(hosts, Content::V4(ranges(50_000, 4096, 1)));
        add(&mut sets, true, false);
        assert!(has_prefilter(&sets));
    }

    #[test]
    fn a_direction_that_asks_little_does_not_speak_against_it() {
        let few = ranges(50_000, 4096, 1);
        let out = |class_| class(class_, Scope::Out, Kind::Hosts);
        let given = [(out(Class::Deny), few.clone()), (out(Class::Watch), few)];
        assert!(has_prefilter(&sets(&given)));
    }

    #[test]
    fn wide_ranges_are_split_while_there_is_room() {
        // A /12 and a /16 have 4,096 and 256 blocks; a /4 has too many.
        let wide: [Range<u32>; 3] = [
            Range {
                first: 0x2000_0000,
                last: 0x200f_ffff,
            },
            Range {
                first: 0x3000_0000,
                last: 0x3000_ffff,
            },
            Range {
                first: 0x4000_0000,
                last: 0x4fff_ffff,
            },
        ];
        let (blocks, nets) = blocks(&wide, BLOCK4);
        assert_eq!(blocks.len(), 4096 + 256);
        assert_eq!(nets, wide[2..]);
    }

    #[test]
    fn top_of_the_space() {
        let (hosts, wide) = blocks(&[Range::host(u32::MAX)], BLOCK4);
        assert_eq!((hosts, wide), (vec![Range::host(0xffff_ff00)], vec![]));
        let (hosts, wide) = blocks(
            &[Range {
                first: 0u128,
                last: u128::MAX,
            }],
            BLOCK6,
        );
        assert_eq!((hosts.len(), wide.len()), (0, 1));
    }
}
