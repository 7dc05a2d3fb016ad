//! Which feeds list an address: longest prefix first, over all feeds at once.
//!
//! Prefixes nest or are disjoint, so they form a forest. Nodes are sorted by first address; the
//! last node that starts at or before an address, or one of its ancestors, is the most specific
//! match. An IPv4 lookup starts from a table of the first 16 bits.

use std::{net::IpAddr, sync::LazyLock};

use crate::{
    config::PrivateNetworks,
    feed::{Action, Direction, FeedName, Indicator, PortMatch, Scope, Severity, Span},
    packet::Protocol,
    prefix::{Address, Family, Prefix, RangeSet},
};

/// A feed as the index knows it.
#[derive(Clone, Debug)]
pub(super) struct Meta {
    pub(super) name: FeedName,
    pub(super) scope: Scope,
    pub(super) severity: Severity,
    /// Feeds with the same number count once in a consensus.
    pub(super) origin: u32,
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
}

/// One feed's entry that covers an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The feed.
    pub feed: FeedName,
    /// The entry, as the feed wrote it.
    pub indicator: Indicator,
    /// What the feed does.
    pub action: Action,
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
    pub(super) except: (RangeSet<u32>, RangeSet<u128>),
    pub(super) private: PrivateNetworks,
    /// Origins that must list an address before it is denied.
    pub(super) deny_at: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            except: Default::default(),
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
        v4.heads = heads(&v4.nodes);
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
    ) -> Self {
        Self {
            feeds,
            whole: whole.into_forests(),
            bound: bound.into_forests(),
            written,
            rules,
        }
    }

    /// What the feeds say about `addr`, with `port` there, as the far end of a flow in `direction`.
    pub fn lookup(&self, addr: IpAddr, port: Port, direction: Direction) -> Option<Hit> {
        let mut best: Option<(Action, Indicator)> = None;
        let mut feeds: Vec<&Meta> = Vec::new();
        self.visit(addr, |meta, action, ignored, entry| {
            let here = entry
                .port
                .is_none_or(|bound| port.is_some_and(|(proto, port)| meets(bound, proto, port)));
            if ignored.is_some() || !here || !meta.scope.covers(direction) {
                return;
            }
            // The most specific entry comes first, so it only gives way to a stronger action.
            if best.is_none_or(|(strongest, _)| action > strongest) {
                best = Some((action, entry));
            }
            feeds.push(meta);
        });
        let (mut action, indicator) = best?;
        if self.rules.deny_at > 1 && origins(&feeds) < self.rules.deny_at {
            action = Action::Alert;
        }
        let severity = feeds.iter().map(|meta| meta.severity).max()?;
        let mut feeds: Vec<FeedName> = feeds.into_iter().map(|meta| meta.name.clone()).collect();
        feeds.sort_unstable();
        feeds.dedup();
        Some(Hit {
            action,
            indicator,
            feeds,
            severity,
        })
    }

    /// Every entry that covers `addr`, also those for one port and those that do not count.
    pub fn listings(&self, addr: IpAddr) -> Vec<Listing> {
        let mut out = Vec::new();
        self.visit(addr, |meta, action, ignored, indicator| {
            out.push(Listing {
                feed: meta.name.clone(),
                indicator,
                action,
                scope: meta.scope,
                ignored,
            });
        });
        out
    }

    /// Calls `each` for every entry that covers `addr`: those for one port first, each kind most specific first.
    fn visit<'a>(
        &'a self,
        addr: IpAddr,
        mut each: impl FnMut(&'a Meta, Action, Option<&'static str>, Indicator),
    ) {
        let (excepted, private) = match addr {
            IpAddr::V4(addr) => (
                self.rules.except.0.contains(addr.into()),
                private4().contains(addr.into()),
            ),
            IpAddr::V6(addr) => (
                self.rules.except.1.contains(addr.into()),
                private6().contains(addr.into()),
            ),
        };
        let mut visit = |tag: Tag, port: Option<PortMatch>, prefix: Prefix| {
            let Some(meta) = self.feeds.get(usize::from(tag.feed)) else {
                return;
            };
            let (action, ignored) = match self.rules.private {
                _ if excepted => (tag.action, Some("exception")),
                PrivateNetworks::Refuse if private && !prefix.is_host() => {
                    (tag.action, Some("private network"))
                }
                PrivateNetworks::AlertOnly if private && !prefix.is_host() => (Action::Alert, None),
                _ => (tag.action, None),
            };
            let written = usize::try_from(tag.written)
                .ok()
                .and_then(|n| self.written.get(n.checked_sub(1)?));
            let span = written.copied().unwrap_or(Span::from(prefix));
            each(meta, action, ignored, Indicator { span, port });
        };
        match addr {
            IpAddr::V4(addr) => {
                let addr = u32::from(addr);
                let (bound, whole) = (&self.bound.0, &self.whole.0);
                bound.covering(addr, bucket(&bound.heads, addr), &mut |tag, prefix| {
                    visit(tag.tag, Some(tag.port), prefix)
                });
                whole.covering(addr, bucket(&whole.heads, addr), &mut |tag, prefix| {
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
}

/// What the kernel's port sets hold for an entry without a protocol: TCP and UDP.
pub(super) fn meets(bound: PortMatch, proto: Protocol, port: u16) -> bool {
    let any = matches!(proto, Protocol::TCP | Protocol::UDP);
    bound.port == port && bound.proto.map_or(any, |mine| mine == proto)
}

fn origins(feeds: &[&Meta]) -> usize {
    let mut origins: Vec<u32> = feeds.iter().map(|meta| meta.origin).collect();
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

#[derive(Debug)]
struct Node<A> {
    first: A,
    /// Index of the smallest node around this one; `NONE` for a root.
    parent: u32,
    /// Where this node's listings begin; they end where the next node's begin.
    tags: u32,
    len: u8,
}

const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Forest<A, L> {
    nodes: Vec<Node<A>>,
    tags: Vec<L>,
    /// For each value of the first 16 bits of an IPv4 address: nodes that start below it.
    heads: Vec<u32>,
}

impl<A, L> Default for Forest<A, L> {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            tags: Vec::new(),
            heads: Vec::new(),
        }
    }
}

impl<A: Address, L: Copy + Ord> Forest<A, L> {
    fn new(mut items: Vec<Item<A, L>>) -> Self {
        items.sort_unstable();
        items.dedup();
        let mut nodes: Vec<Node<A>> = Vec::new();
        let mut tags = Vec::with_capacity(items.len());
        let mut open: Vec<(u32, A)> = Vec::new();
        for item in items {
            if nodes
                .last()
                .is_none_or(|node| (node.first, node.len) != (item.first, item.len))
            {
                // Feed limits keep both counts far below 2^32; past it entries would be ignored, not misread.
                let (Ok(at), Ok(start)) = (u32::try_from(nodes.len()), u32::try_from(tags.len()))
                else {
                    break;
                };
                while open.pop_if(|(_, last)| *last < item.first).is_some() {}
                let parent = open.last().map_or(NONE, |(at, _)| *at);
                nodes.push(Node {
                    first: item.first,
                    parent,
                    tags: start,
                    len: item.len,
                });
                open.push((at, item.first.filled(item.len)));
            }
            tags.push(item.tag);
        }
        nodes.shrink_to_fit();
        Self {
            nodes,
            tags,
            heads: Vec::new(),
        }
    }

    /// Calls `each` with every listing of a prefix that covers `addr`, most specific first.
    fn covering(
        &self,
        addr: A,
        bucket: Option<std::ops::Range<usize>>,
        each: &mut impl FnMut(L, Prefix),
    ) {
        let bucket = bucket.unwrap_or(0..self.nodes.len());
        let within = self.nodes.get(bucket.clone()).unwrap_or_default();
        let after = bucket.start + within.partition_point(|node| node.first <= addr);
        let mut at = after.checked_sub(1);
        while let Some((i, node)) = at.and_then(|i| Some((i, self.nodes.get(i)?))) {
            if addr.masked(node.len) == node.first {
                self.each_tag(i, node, each);
            }
            at = (node.parent != NONE)
                .then_some(node.parent)
                .and_then(|parent| usize::try_from(parent).ok());
        }
    }

    fn each_tag(&self, i: usize, node: &Node<A>, each: &mut impl FnMut(L, Prefix)) {
        let Ok(prefix) = Prefix::new(node.first.ip(), node.len) else {
            return;
        };
        let next = self
            .nodes
            .get(i + 1)
            .map(|next| usize::try_from(next.tags).unwrap_or(usize::MAX));
        let start = usize::try_from(node.tags).unwrap_or(usize::MAX);
        for tag in self
            .tags
            .get(start..next.unwrap_or(self.tags.len()))
            .unwrap_or_default()
        {
            each(*tag, prefix);
        }
    }
}

fn heads(nodes: &[Node<u32>]) -> Vec<u32> {
    let mut heads = Vec::with_capacity((1 << 16) + 1);
    let mut at = 0u32;
    let mut nodes = nodes.iter().peekable();
    for head in 0..=u32::from(u16::MAX) {
        while nodes.next_if(|node| node.first >> 16 < head).is_some() {
            at += 1;
        }
        heads.push(at);
    }
    heads.push(at.saturating_add(u32::try_from(nodes.count()).unwrap_or(0)));
    heads
}

fn bucket(heads: &[u32], addr: u32) -> Option<std::ops::Range<usize>> {
    let head = usize::try_from(addr >> 16).ok()?;
    let (start, end) = (heads.get(head)?, heads.get(head + 1)?);
    Some(usize::try_from(*start).ok()?..usize::try_from(*end).ok()?)
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
    use super::*;

    #[test]
    fn private_space_is_complete() {
        assert_eq!(private4().ranges().len(), 8);
        assert_eq!(private6().ranges().len(), 4);
    }
}
