//! Which feeds list an address: longest prefix first, over all feeds at once.
//!
//! Prefixes nest or are disjoint, so they form a forest. Nodes are sorted by first address; the
//! last node that starts at or before an address, or one of its ancestors, is the most specific
//! match. An IPv4 lookup starts from a table of the first 16 bits.

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
        v4.heads = heads(&v4.nodes);
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
        let mut feeds: Vec<&Meta> = Vec::new();
        self.visit(addr, |meta, prefix, action, ignored| {
            if ignored.is_some() || !meta.scope.covers(direction) {
                return;
            }
            // The most specific prefix comes first, so it only gives way to a stronger action.
            if best.is_none_or(|(strongest, _)| action > strongest) {
                best = Some((action, prefix));
            }
            feeds.push(meta);
        });
        let (action, indicator) = best?;
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
        let (excepted, private) = match addr {
            IpAddr::V4(addr) => (
                self.except.0.contains(addr.into()),
                private4().contains(addr.into()),
            ),
            IpAddr::V6(addr) => (
                self.except.1.contains(addr.into()),
                private6().contains(addr.into()),
            ),
        };
        let mut visit = |feed: u32, prefix: Prefix| {
            let Some(meta) = usize::try_from(feed).ok().and_then(|i| self.feeds.get(i)) else {
                return;
            };
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
                    .covering(addr, bucket(&self.v4.heads, addr), &mut visit);
            }
            IpAddr::V6(addr) => self.v6.covering(addr.into(), None, &mut visit),
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
    /// Where this node's feeds begin; they end where the next node's begin.
    feeds: u32,
    len: u8,
}

const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Forest<A> {
    nodes: Vec<Node<A>>,
    feeds: Vec<u32>,
    /// For each value of the first 16 bits of an IPv4 address: nodes that start below it.
    heads: Vec<u32>,
}

impl<A> Default for Forest<A> {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            feeds: Vec::new(),
            heads: Vec::new(),
        }
    }
}

impl<A: Address> Forest<A> {
    fn new(mut items: Vec<Item<A>>) -> Self {
        items.sort_unstable();
        items.dedup();
        let mut nodes: Vec<Node<A>> = Vec::new();
        let mut feeds = Vec::with_capacity(items.len());
        let mut open: Vec<(u32, A)> = Vec::new();
        for item in items {
            if nodes
                .last()
                .is_none_or(|node| (node.first, node.len) != (item.first, item.len))
            {
                // Feed limits keep both counts far below 2^32; past it entries would be ignored, not misread.
                let (Ok(at), Ok(start)) = (u32::try_from(nodes.len()), u32::try_from(feeds.len()))
                else {
                    break;
                };
                while open.pop_if(|(_, last)| *last < item.first).is_some() {}
                let parent = open.last().map_or(NONE, |(at, _)| *at);
                nodes.push(Node {
                    first: item.first,
                    parent,
                    feeds: start,
                    len: item.len,
                });
                open.push((at, item.first.filled(item.len)));
            }
            feeds.push(item.feed);
        }
        nodes.shrink_to_fit();
        Self {
            nodes,
            feeds,
            heads: Vec::new(),
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
        while let Some((i, node)) = at.and_then(|i| Some((i, self.nodes.get(i)?))) {
            if addr.masked(node.len) == node.first {
                self.each_feed(i, node, each);
            }
            at = (node.parent != NONE)
                .then_some(node.parent)
                .and_then(|parent| usize::try_from(parent).ok());
        }
    }

    fn each_feed(&self, i: usize, node: &Node<A>, each: &mut impl FnMut(u32, Prefix)) {
        let Ok(prefix) = Prefix::new(node.first.ip(), node.len) else {
            return;
        };
        let end = self.nodes.get(i + 1).map_or(self.feeds.len(), |next| {
            usize::try_from(next.feeds).unwrap_or(usize::MAX)
        });
        let start = usize::try_from(node.feeds).unwrap_or(usize::MAX);
        for feed in self.feeds.get(start..end).unwrap_or_default() {
            each(*feed, prefix);
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
