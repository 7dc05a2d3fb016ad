//! Which feeds list an address: longest prefix first, over all feeds at once.
//!
//! Prefixes nest or are disjoint, so they form a forest. Nodes are sorted by first address; the
//! last node that starts at or before an address, or one of its ancestors, is the most specific
//! match. An IPv4 lookup starts from a table of the first 16 bits.

use std::{
    cell::LazyCell,
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use super::{Regime, exception::Spared};
use crate::{
    config::PrivateNetworks,
    feed::{Action, Direction, FeedName, Indicator, PortMatch, Scope, Severity, Span},
    packet::Protocol,
    policy::Labels,
    prefix::{Address, Family, Forms, MULTICAST, PRIVATE, Prefix, RangeSet},
};

/// A feed, or a network set written by hand, as the index knows it.
#[derive(Clone, Debug)]
pub(super) struct Meta {
    pub(super) name: FeedName,
    pub(super) scope: Scope,
    pub(super) severity: Severity,
    /// Feeds with the same number count once in a consensus.
    pub(super) origin: u32,
    /// Labels of the network set that it is or keeps.
    pub(super) labels: Option<Arc<Labels>>,
    /// Its entries alert and deny by themselves; those of a network set written by hand do not.
    pub(super) is_feed: bool,
    /// What it denies only alerts.
    pub(super) trial: bool,
}

/// What the feeds say about the far end of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Deny if any feed denies, and as many agree as the consensus asks for.
    pub action: Action,
    /// The most specific entry of the feeds that decided, as its feed wrote it.
    pub indicator: Indicator,
    /// Every feed that lists it, sorted, without duplicates.
    pub feeds: Vec<FeedName>,
    /// Highest severity among them.
    pub severity: Severity,
    /// It only alerts because these feeds are on trial (`[arm] after`); empty otherwise.
    pub would_deny: Vec<FeedName>,
    /// Why it only alerts although some feed may deny it: an exception that the daemon found.
    pub exception: Option<Arc<str>>,
}

/// One feed's entry that covers an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The feed.
    pub feed: FeedName,
    /// The entry, as the feed wrote it.
    pub indicator: Indicator,
    /// What the feed does, were it not on trial.
    pub action: Action,
    /// It is on trial: what it denies only alerts.
    pub trial: bool,
    /// In which directions.
    pub scope: Scope,
    /// Why the entry does not count for this address, if so.
    pub ignored: Option<&'static str>,
}

/// The far end of a flow: protocol and port there.
pub type Port = Option<(Protocol, u16)>;

/// How entries are weighed.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) spared: Spared,
    pub(super) private: PrivateNetworks,
    /// Origins that must list an address before it is denied.
    pub(super) deny_at: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            spared: Spared::default(),
            private: PrivateNetworks::Refuse,
            deny_at: 1,
        }
    }
}

/// The index of one snapshot.
#[derive(Debug, Default)]
pub struct Index {
    feeds: Vec<Meta>,
    whole: (Forest<u32, Tag>, Forest<u128, Tag>),
    bound: (Forest<u32, BoundTag>, Forest<u128, BoundTag>),
    /// Ranges that entries are pieces of; a tag's number counts from 1.
    written: Vec<Span>,
    rules: Rules,
    regime: Regime,
    /// Addresses of these are read as their IPv4 address.
    forms: Forms,
}

/// An entry that covers an address.
pub(super) struct Seen<'a> {
    pub(super) meta: &'a Meta,
    pub(super) action: Action,
    /// Why it does not count, if so.
    pub(super) ignored: Option<&'static str>,
    pub(super) indicator: Indicator,
    /// The address is in the network set there.
    pub(super) is_member: bool,
}

impl Seen<'_> {
    /// True for an entry of all ports, and for one of this port.
    pub(super) fn is_at(&self, port: Port) -> bool {
        self.indicator
            .port
            .is_none_or(|bound| port.is_some_and(|(proto, port)| meets(bound, proto, port)))
    }
}

/// Entries of all feeds on their way into an index.
#[derive(Debug)]
pub(super) struct Items<L> {
    pub(super) v4: Vec<Item<u32, L>>,
    pub(super) v6: Vec<Item<u128, L>>,
}

impl<L> Default for Items<L> {
    fn default() -> Self {
        Self {
            v4: Vec::new(),
            v6: Vec::new(),
        }
    }
}

impl<L: Copy + Ord> Items<L> {
    pub(super) fn push(&mut self, prefix: &Prefix, tag: L) {
        let len = prefix.len();
        match prefix.addr() {
            IpAddr::V4(first) => self.v4.push(Item {
                first: first.into(),
                len,
                tag,
            }),
            IpAddr::V6(first) => self.v6.push(Item {
                first: first.into(),
                len,
                tag,
            }),
        }
    }

    fn into_forests(self) -> (Forest<u32, L>, Forest<u128, L>) {
        let mut v4 = Forest::new(self.v4);
        v4.heads = Heads::new(&v4.keys);
        (v4, Forest::new(self.v6))
    }
}

impl Index {
    pub(super) fn new(
        feeds: Vec<Meta>,
        whole: Items<Tag>,
        bound: Items<BoundTag>,
        written: Vec<Span>,
        rules: Rules,
        regime: Regime,
    ) -> Self {
        Self {
            feeds,
            whole: whole.into_forests(),
            bound: bound.into_forests(),
            written,
            rules,
            regime,
            forms: Forms::default(),
        }
    }

    /// The same, with these forms of IPv4 addresses.
    pub(super) fn reading(self, forms: Forms) -> Self {
        Self { forms, ..self }
    }

    /// The IPv4 address that `addr` stands for, whether or not it is an exception.
    pub fn stands_for(&self, addr: IpAddr) -> Option<IpAddr> {
        self.forms.ipv4(addr).map(IpAddr::V4)
    }

    /// The IPv4 address that a flow to or from `addr` is about (NAT64, 6to4); `None` for any other
    /// address, and for one that is an exception as it is written.
    pub fn ipv4(&self, addr: IpAddr) -> Option<IpAddr> {
        let v4 = self.forms.ipv4(addr)?;
        let place = self.place(addr);
        (!place.excepted && !place.found).then_some(v4.into())
    }

    /// The feeds and network sets.
    pub(super) fn metas(&self) -> &[Meta] {
        &self.feeds
    }

    /// The policies in force, and what they are asked with.
    pub fn regime(&self) -> &Regime {
        &self.regime
    }

    /// What the feeds say about `addr`, with `port` there, as the far end of a flow in `direction`.
    pub fn lookup(&self, addr: IpAddr, port: Port, direction: Direction) -> Option<Hit> {
        let mut best: Option<(Action, Indicator)> = None;
        let mut severity = Severity::Low;
        let mut origins = Vec::new();
        let (mut feeds, mut would_deny): (Vec<FeedName>, Vec<FeedName>) = (Vec::new(), Vec::new());
        // Most addresses are in no feed: only those that are pay for this.
        let exemption = LazyCell::new(|| self.exemption(addr, port, direction));
        self.visit(addr, |seen| {
            let (meta, action) = (seen.meta, seen.action);
            let counts = seen.ignored.is_none() && seen.is_at(port);
            if !counts || !meta.is_feed || !meta.scope.covers(direction) {
                return;
            }
            let action = if exemption.is_some() {
                Action::Alert
            } else if meta.trial && action == Action::Deny {
                would_deny.push(meta.name.clone());
                Action::Alert
            } else {
                action
            };
            // The most specific entry comes first, so it only gives way to a stronger action.
            if best.is_none_or(|(strongest, _)| action > strongest) {
                best = Some((action, seen.indicator));
            }
            severity = severity.max(meta.severity);
            feeds.push(meta.name.clone());
            if self.rules.deny_at > 1 {
                origins.push(meta.origin);
            }
        });
        let (mut action, indicator) = best?;
        let exception = exemption.clone();
        if self.rules.deny_at > 1 && distinct(origins) < self.rules.deny_at {
            action = Action::Alert;
            would_deny.clear();
        }
        if action == Action::Deny {
            would_deny.clear();
        }
        for names in [&mut feeds, &mut would_deny] {
            if names.len() > 1 {
                names.sort_unstable();
                names.dedup();
            }
        }
        Some(Hit {
            action,
            indicator,
            feeds,
            severity,
            would_deny,
            exception,
        })
    }

    /// Why a listed `addr`, with `port` there, is not denied as the far end of a flow in `direction`: an
    /// exception that the daemon found.
    pub fn exemption(&self, addr: IpAddr, port: Port, direction: Direction) -> Option<Arc<str>> {
        self.rules.spared.exemption(addr, port, direction)
    }

    /// Every entry that covers `addr`, also those for one port and those that do not count.
    pub fn listings(&self, addr: IpAddr) -> Vec<Listing> {
        let mut out = Vec::new();
        self.visit(addr, |seen| {
            if seen.meta.is_feed {
                out.push(Listing {
                    feed: seen.meta.name.clone(),
                    indicator: seen.indicator,
                    action: seen.action,
                    trial: seen.meta.trial,
                    scope: seen.meta.scope,
                    ignored: seen.ignored,
                });
            }
        });
        out
    }

    /// Calls `each` for every entry that covers `addr`: those for one port first, each kind most specific first.
    pub(super) fn visit<'a>(&'a self, addr: IpAddr, mut each: impl FnMut(Seen<'a>)) {
        let mut place = None;
        let mut visit = |tag: Tag, port: Option<PortMatch>, prefix: Prefix| {
            let Some(meta) = self.feeds.get(usize::from(tag.feed)) else {
                return;
            };
            // Most addresses are in no feed: only those that are pay for this.
            let place = *place.get_or_insert_with(|| self.place(addr));
            let refused = place.private && meta.is_feed && !prefix.is_host();
            let (action, ignored) = match self.rules.private {
                _ if place.excepted => (tag.action, Some("exception")),
                _ if place.special && meta.is_feed => (tag.action, Some("special address")),
                PrivateNetworks::Refuse if refused => (tag.action, Some("private network")),
                PrivateNetworks::AlertOnly if refused => (Action::Alert, None),
                _ => (tag.action, None),
            };
            // What may only alert is no reason for a policy to deny.
            let only_alerts = refused && self.rules.private == PrivateNetworks::AlertOnly;
            let written = usize::try_from(tag.written)
                .ok()
                .and_then(|n| self.written.get(n.checked_sub(1)?));
            let span = written.copied().unwrap_or(Span::from(prefix));
            each(Seen {
                meta,
                action,
                ignored,
                indicator: Indicator { span, port },
                is_member: meta.labels.is_some()
                    && ignored.is_none()
                    && !only_alerts
                    && !place.found,
            });
        };
        match addr {
            IpAddr::V4(addr) => {
                let addr = u32::from(addr);
                let (bound, whole) = (&self.bound.0, &self.whole.0);
                bound.covering(addr, bound.heads.bucket(addr), &mut |tag, prefix| {
                    visit(tag.tag, Some(tag.port), prefix)
                });
                whole.covering(addr, whole.heads.bucket(addr), &mut |tag, prefix| {
                    visit(tag, None, prefix)
                });
            }
            IpAddr::V6(addr) => {
                let addr = u128::from(addr);
                self.bound.1.covering(addr, None, &mut |tag, prefix| {
                    visit(tag.tag, Some(tag.port), prefix)
                });
                self.whole
                    .1
                    .covering(addr, None, &mut |tag, prefix| visit(tag, None, prefix));
            }
        }
    }

    fn place(&self, addr: IpAddr) -> Place {
        let spared = &self.rules.spared;
        Place {
            excepted: spared.except.contains(addr),
            special: spared.special.contains(addr),
            found: spared.found.contains(addr),
            private: match addr {
                IpAddr::V4(addr) => private4().contains(addr.into()),
                IpAddr::V6(addr) => private6().contains(addr.into()),
            },
        }
    }
}

/// What is true of an address whoever lists it.
#[derive(Clone, Copy)]
struct Place {
    excepted: bool,
    special: bool,
    found: bool,
    private: bool,
}

/// What the kernel's port sets hold for an entry without a protocol: TCP and UDP.
pub(super) fn meets(bound: PortMatch, proto: Protocol, port: u16) -> bool {
    let any = matches!(proto, Protocol::TCP | Protocol::UDP);
    bound.port == port && bound.proto.map_or(any, |mine| mine == proto)
}

fn distinct(mut origins: Vec<u32>) -> usize {
    origins.sort_unstable();
    origins.dedup();
    origins.len()
}

/// A feed's listing of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tag {
    pub(super) feed: u16,
    pub(super) action: Action,
    /// Number of the range it is a piece of; 0: it is the prefix itself.
    pub(super) written: u32,
}

/// The same for one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BoundTag {
    pub(super) tag: Tag,
    pub(super) port: PortMatch,
}

/// A prefix and who lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Item<A, L> {
    pub(super) first: A,
    pub(super) len: u8,
    pub(super) tag: L,
}

/// What a search looks at: sixteen bytes for IPv4, so that the nodes that share an address's first
/// bits are in a few neighbouring cache lines. Most addresses, listed or not, cost no other memory.
#[derive(Debug)]
struct Key<A, L> {
    first: A,
    /// The first listing, which mostly is the only one.
    tag: L,
    len: u8,
    /// No other node is around this one, and it has no further listings.
    is_alone: bool,
}

/// What else is known of a node, looked at only when it may cover the address.
#[derive(Debug)]
struct Node {
    /// Index of the smallest node around this one; its own for a root.
    parent: u32,
    /// Where further listings of this prefix begin.
    more: u32,
    /// How many further ones there are.
    further: u16,
}

#[derive(Debug)]
struct Forest<A, L> {
    keys: Vec<Key<A, L>>,
    nodes: Vec<Node>,
    tags: Vec<L>,
    /// Empty for IPv6, whose first bits are nearly all the same.
    heads: Heads,
}

impl<A, L> Default for Forest<A, L> {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            nodes: Vec::new(),
            tags: Vec::new(),
            heads: Heads::default(),
        }
    }
}

impl<A: Address, L: Copy + Ord> Forest<A, L> {
    fn new(mut items: Vec<Item<A, L>>) -> Self {
        items.sort_unstable();
        items.dedup();
        let mut forest = Self::default();
        let mut open: Vec<(u32, A)> = Vec::new();
        for same in items.chunk_by(|a, b| (a.first, a.len) == (b.first, b.len)) {
            let Some((Item { first, len, tag }, rest)) = same.split_first() else {
                break;
            };
            // Feed limits keep all counts far below these; past them entries would be ignored, not misread.
            let (Ok(at), Ok(more), Ok(further)) = (
                u32::try_from(forest.nodes.len()),
                u32::try_from(forest.tags.len()),
                u16::try_from(rest.len()),
            ) else {
                break;
            };
            while open.pop_if(|(_, last)| *last < *first).is_some() {}
            let parent = open.last().map_or(at, |(at, _)| *at);
            let is_alone = parent == at && further == 0;
            forest.keys.push(Key {
                first: *first,
                tag: *tag,
                len: *len,
                is_alone,
            });
            forest.nodes.push(Node {
                parent,
                more,
                further,
            });
            open.push((at, first.filled(*len)));
            forest.tags.extend(rest.iter().map(|item| item.tag));
        }
        forest.keys.shrink_to_fit();
        forest.nodes.shrink_to_fit();
        forest
    }

    /// Calls `each` with every listing of a prefix that covers `addr`, most specific first.
    fn covering(
        &self,
        addr: A,
        bucket: Option<std::ops::Range<usize>>,
        each: &mut impl FnMut(L, Prefix),
    ) {
        let bucket = bucket.unwrap_or(0..self.keys.len());
        let within = self.keys.get(bucket.clone()).unwrap_or_default();
        let after = bucket.start + within.partition_point(|key| key.first <= addr);
        let mut at = after.checked_sub(1);
        while let Some((i, key)) = at.and_then(|i| Some((i, self.keys.get(i)?))) {
            let covers = addr.masked(key.len) == key.first;
            if covers && let Ok(prefix) = Prefix::new(key.first.ip(), key.len) {
                each(key.tag, prefix);
                if !key.is_alone {
                    self.each_further(i, prefix, each);
                }
            }
            if key.is_alone {
                return;
            }
            let parent = self
                .nodes
                .get(i)
                .and_then(|node| usize::try_from(node.parent).ok());
            at = parent.filter(|parent| *parent != i);
        }
    }

    fn each_further(&self, i: usize, prefix: Prefix, each: &mut impl FnMut(L, Prefix)) {
        let Some(node) = self.nodes.get(i) else {
            return;
        };
        let start = usize::try_from(node.more).unwrap_or(usize::MAX);
        let end = start.saturating_add(node.further.into());
        for tag in self.tags.get(start..end).unwrap_or_default() {
            each(*tag, prefix);
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
    /// About eight nodes for each value, and at most 128 Ki values: the table stays in the
    /// processor's second cache, which is worth more than a shorter search behind it.
    fn new<L>(keys: &[Key<u32, L>]) -> Self {
        let bits = keys
            .len()
            .checked_ilog2()
            .unwrap_or(0)
            .saturating_sub(3)
            .clamp(8, 17);
        let shift = 32 - bits;
        let mut starts = Vec::with_capacity((1 << bits) + 1);
        let mut at = 0u32;
        let mut keys = keys.iter().peekable();
        for head in 0..1u32 << bits {
            while keys.next_if(|key| key.first >> shift < head).is_some() {
                at += 1;
            }
            starts.push(at);
        }
        starts.push(at.saturating_add(u32::try_from(keys.count()).unwrap_or(0)));
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
    let prefixes: Vec<Prefix> = PRIVATE
        .iter()
        .chain(&MULTICAST)
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
    fn items() -> impl Strategy<Value = Vec<Item<u32, u32>>> {
        let item = (0u32..6, 0u32..4, 6u8..=32, 0u32..3).prop_map(|(high, low, len, tag)| {
            let addr = (high.wrapping_sub(3) << 22) | low;
            Item {
                first: addr.masked(len),
                len,
                tag,
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
                .map(|item| (item.len, item.tag))
                .collect();
            scan.sort_unstable_by_key(|(len, feed)| (std::cmp::Reverse(*len), *feed));
            scan.dedup();
            let forest = Forest::new(items);
            let heads = Heads::new(&forest.keys);
            for bucket in [heads.bucket(addr), None] {
                let mut found = Vec::new();
                forest.covering(addr, bucket, &mut |feed, prefix: Prefix| found.push((prefix.len(), feed)));
                prop_assert_eq!(&found, &scan);
            }
        }
    }
}
