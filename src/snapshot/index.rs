//! Which feeds list an address: longest prefix first, over all feeds at once.
//!
//! Prefixes nest or are disjoint, so they form a forest. Nodes are sorted by first address; the
//! last node that starts at or before an address, or one of its ancestors, is the most specific
//! match. An IPv4 lookup starts from a table of its first bits, as many as leave a few nodes to each
//! value: at a million prefixes memory that is not in a cache is nearly all a lookup costs, so it
//! touches the table, one or two lines of nodes, and nothing else unless something is found.

use std::{net::IpAddr, sync::LazyLock};

use crate::{
    config::PrivateNetworks,
    feed::{Action, Direction, FeedName, Scope, Severity},
    prefix::{Address, Family, Prefix, RangeSet},
};

/// A feed as the index knows it.
#[derive(Clone, Debug)]
pub(super) struct Meta {
    pub(super) name: FeedName,
    pub(super) action: Action,
    pub(super) scope: Scope,
    pub(super) severity: Severity,
}

/// What the feeds say about an address in one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Deny if any feed denies.
    pub action: Action,
    /// The most specific prefix of the feeds that decided.
    pub indicator: Prefix,
    /// Every feed that lists the address, sorted, without duplicates.
    pub feeds: Vec<FeedName>,
    /// Highest severity among them.
    pub severity: Severity,
}

/// One feed's entry that covers an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The feed.
    pub feed: FeedName,
    /// The entry.
    pub prefix: Prefix,
    /// What the feed does.
    pub action: Action,
    /// In which directions.
    pub scope: Scope,
    /// Why the entry does not count for this address, if so.
    pub ignored: Option<&'static str>,
}

/// The index of one snapshot.
#[derive(Debug, Default)]
pub struct Index {
    feeds: Vec<Meta>,
    v4: Forest<u32>,
    v6: Forest<u128>,
    except: (RangeSet<u32>, RangeSet<u128>),
    private: Option<PrivateNetworks>,
}

impl Index {
    pub(super) fn new(
        feeds: Vec<Meta>,
        v4: Vec<Item<u32>>,
        v6: Vec<Item<u128>>,
        except: (RangeSet<u32>, RangeSet<u128>),
        private: PrivateNetworks,
    ) -> Self {
        let mut v4 = Forest::new(v4);
        v4.heads = Heads::new(&v4.nodes);
        Self {
            feeds,
            v4,
            v6: Forest::new(v6),
            except,
            private: Some(private),
        }
    }

    /// What the feeds say about `addr` when it is the far end of a flow in `direction`.
    pub fn lookup(&self, addr: IpAddr, direction: Direction) -> Option<Hit> {
        let mut best: Option<(Action, Prefix)> = None;
        let mut severity = Severity::Low;
        let mut feeds: Vec<FeedName> = Vec::new();
        self.visit(addr, |meta, prefix, action, ignored| {
            if ignored.is_some() || !meta.scope.covers(direction) {
                return;
            }
            // The most specific prefix comes first, so it only gives way to a stronger action.
            if best.is_none_or(|(strongest, _)| action > strongest) {
                best = Some((action, prefix));
            }
            severity = severity.max(meta.severity);
            feeds.push(meta.name.clone());
        });
        let (action, indicator) = best?;
        feeds.sort_unstable();
        feeds.dedup();
        Some(Hit {
            action,
            indicator,
            feeds,
            severity,
        })
    }

    /// Every entry that covers `addr`, most specific first, also those that do not count.
    pub fn listings(&self, addr: IpAddr) -> Vec<Listing> {
        let mut out = Vec::new();
        self.visit(addr, |meta, prefix, action, ignored| {
            out.push(Listing {
                feed: meta.name.clone(),
                prefix,
                action,
                scope: meta.scope,
                ignored,
            });
        });
        out
    }

    fn visit<'a>(
        &'a self,
        addr: IpAddr,
        mut each: impl FnMut(&'a Meta, Prefix, Action, Option<&'static str>),
    ) {
        let mut place = None;
        let mut visit = |feed: u32, prefix: Prefix| {
            let Some(meta) = usize::try_from(feed).ok().and_then(|i| self.feeds.get(i)) else {
                return;
            };
            // Most addresses are in no feed: only those that are pay for this.
            let (excepted, private) = *place.get_or_insert_with(|| self.place(addr));
            let (action, ignored) = match self.private {
                _ if excepted => (meta.action, Some("exception")),
                Some(PrivateNetworks::Refuse) if private && !prefix.is_host() => {
                    (meta.action, Some("private network"))
                }
                Some(PrivateNetworks::AlertOnly) if private && !prefix.is_host() => {
                    (Action::Alert, None)
                }
                _ => (meta.action, None),
            };
            each(meta, prefix, action, ignored);
        };
        match addr {
            IpAddr::V4(addr) => {
                let addr = u32::from(addr);
                self.v4
                    .covering(addr, self.v4.heads.bucket(addr), &mut visit);
            }
            IpAddr::V6(addr) => self.v6.covering(addr.into(), None, &mut visit),
        }
    }

    /// Whether `addr` is an exception, and whether it is in private space.
    fn place(&self, addr: IpAddr) -> (bool, bool) {
        match addr {
            IpAddr::V4(addr) => (
                self.except.0.contains(addr.into()),
                private4().contains(addr.into()),
            ),
            IpAddr::V6(addr) => (
                self.except.1.contains(addr.into()),
                private6().contains(addr.into()),
            ),
        }
    }
}

/// A prefix and the feed that lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Item<A> {
    pub(super) first: A,
    pub(super) len: u8,
    pub(super) feed: u32,
}

#[derive(Debug)]
struct Node<A> {
    first: A,
    /// Index of the smallest node around this one; `NONE` for a root.
    parent: u32,
    /// The feed, if `count` is 1; else where this node's feeds begin.
    feeds: u32,
    count: u16,
    len: u8,
}

const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Forest<A> {
    nodes: Vec<Node<A>>,
    feeds: Vec<u32>,
    /// Empty for IPv6, whose first bits are nearly all the same.
    heads: Heads,
}

impl<A> Default for Forest<A> {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            feeds: Vec::new(),
            heads: Heads::default(),
        }
    }
}

impl<A: Address> Forest<A> {
    fn new(mut items: Vec<Item<A>>) -> Self {
        items.sort_unstable();
        items.dedup();
        let mut nodes: Vec<Node<A>> = Vec::new();
        let mut feeds = Vec::new();
        let mut open: Vec<(u32, A)> = Vec::new();
        for same in items.chunk_by(|a, b| (a.first, a.len) == (b.first, b.len)) {
            let Some(Item { first, len, feed }) = same.first().copied() else {
                break;
            };
            // Feed limits keep all counts far below these; past them entries would be ignored, not misread.
            let (Ok(at), Ok(start), Ok(count)) = (
                u32::try_from(nodes.len()),
                u32::try_from(feeds.len()),
                u16::try_from(same.len()),
            ) else {
                break;
            };
            while open.pop_if(|(_, last)| *last < first).is_some() {}
            let parent = open.last().map_or(NONE, |(at, _)| *at);
            nodes.push(Node {
                first,
                parent,
                feeds: if count == 1 { feed } else { start },
                count,
                len,
            });
            open.push((at, first.filled(len)));
            if count > 1 {
                feeds.extend(same.iter().map(|item| item.feed));
            }
        }
        nodes.shrink_to_fit();
        Self {
            nodes,
            feeds,
            heads: Heads::default(),
        }
    }

    /// Calls `each` with (feed, prefix) for every node that covers `addr`, most specific first.
    fn covering(
        &self,
        addr: A,
        bucket: Option<std::ops::Range<usize>>,
        each: &mut impl FnMut(u32, Prefix),
    ) {
        let bucket = bucket.unwrap_or(0..self.nodes.len());
        let within = self.nodes.get(bucket.clone()).unwrap_or_default();
        let after = bucket.start + within.partition_point(|node| node.first <= addr);
        let mut at = after.checked_sub(1);
        while let Some(node) = at.and_then(|i| self.nodes.get(i)) {
            if addr.masked(node.len) == node.first {
                self.each_feed(node, each);
            }
            at = (node.parent != NONE)
                .then_some(node.parent)
                .and_then(|parent| usize::try_from(parent).ok());
        }
    }

    fn each_feed(&self, node: &Node<A>, each: &mut impl FnMut(u32, Prefix)) {
        let Ok(prefix) = Prefix::new(node.first.ip(), node.len) else {
            return;
        };
        if node.count == 1 {
            return each(node.feeds, prefix);
        }
        let start = usize::try_from(node.feeds).unwrap_or(usize::MAX);
        let end = start.saturating_add(node.count.into());
        for feed in self.feeds.get(start..end).unwrap_or_default() {
            each(*feed, prefix);
        }
    }
}

/// For each value of an IPv4 address's first bits: how many nodes start below it.
#[derive(Debug, Default)]
struct Heads {
    starts: Vec<u32>,
    /// Bits of an address behind the first ones.
    shift: u32,
}

impl Heads {
    /// About four nodes for each value: they fill one cache line, and a million nodes need 1 MB here.
    fn new(nodes: &[Node<u32>]) -> Self {
        let bits = nodes
            .len()
            .checked_ilog2()
            .unwrap_or(0)
            .saturating_sub(1)
            .clamp(8, 20);
        let shift = 32 - bits;
        let mut starts = Vec::with_capacity((1 << bits) + 1);
        let mut at = 0u32;
        let mut nodes = nodes.iter().peekable();
        for head in 0..1u32 << bits {
            while nodes.next_if(|node| node.first >> shift < head).is_some() {
                at += 1;
            }
            starts.push(at);
        }
        starts.push(at.saturating_add(u32::try_from(nodes.count()).unwrap_or(0)));
        Self { starts, shift }
    }

    /// The nodes that start with the first bits of `addr`.
    fn bucket(&self, addr: u32) -> Option<std::ops::Range<usize>> {
        let head = usize::try_from(addr.checked_shr(self.shift)?).ok()?;
        let (start, end) = (self.starts.get(head)?, self.starts.get(head + 1)?);
        Some(usize::try_from(*start).ok()?..usize::try_from(*end).ok()?)
    }
}

/// IPv4 networks that a feed has no business to list as networks (DESIGN.md section 3).
pub(super) fn private4() -> &'static RangeSet<u32> {
    static SET: LazyLock<RangeSet<u32>> = LazyLock::new(|| private(Family::V4));
    &SET
}

/// The same for IPv6.
pub(super) fn private6() -> &'static RangeSet<u128> {
    static SET: LazyLock<RangeSet<u128>> = LazyLock::new(|| private(Family::V6));
    &SET
}

fn private<A: Address>(family: Family) -> RangeSet<A> {
    const NETS: [&str; 12] = [
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "224.0.0.0/3",
        "::/8",
        "fc00::/7",
        "fe80::/10",
        "ff00::/8",
    ];
    let prefixes: Vec<Prefix> = NETS
        .iter()
        .filter_map(|net| net.parse().ok())
        .filter(|p: &Prefix| p.family() == family)
        .collect();
    RangeSet::of(&prefixes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn private_space_is_complete() {
        assert_eq!(private4().ranges().len(), 8);
        assert_eq!(private6().ranges().len(), 4);
    }

    /// Prefixes that nest and share first bits; the same one in several feeds.
    fn items() -> impl Strategy<Value = Vec<Item<u32>>> {
        let item = (0u32..6, 0u32..4, 6u8..=32, 0u32..3).prop_map(|(high, low, len, feed)| {
            let addr = (high.wrapping_sub(3) << 22) | low;
            Item {
                first: addr.masked(len),
                len,
                feed,
            }
        });
        proptest::collection::vec(item, 0..30)
    }

    proptest! {
        #[test]
        fn covering_finds_what_a_scan_finds(items in items(), high in 0u32..7, low in 0u32..6) {
            let addr = (high.wrapping_sub(3) << 22).wrapping_add(low).wrapping_sub(1);
            let mut scan: Vec<(u8, u32)> = items
                .iter()
                .filter(|item| addr.masked(item.len) == item.first)
                .map(|item| (item.len, item.feed))
                .collect();
            scan.sort_unstable_by_key(|(len, feed)| (std::cmp::Reverse(*len), *feed));
            scan.dedup();
            let forest = Forest::new(items);
            let heads = Heads::new(&forest.nodes);
            for bucket in [heads.bucket(addr), None] {
                let mut found = Vec::new();
                forest.covering(addr, bucket, &mut |feed, prefix: Prefix| found.push((prefix.len(), feed)));
                prop_assert_eq!(&found, &scan);
            }
        }
    }
}
