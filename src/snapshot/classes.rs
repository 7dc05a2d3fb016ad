//! The sets of each class: feeds' entries by action and direction, merged, exceptions subtracted.

use std::collections::BTreeMap;

use super::{
    Class, Content, FlowElement, Index, Input, Kind, Options, PortElement, SetName, Sets,
    exception::union,
    index::{Rules, private4, private6},
    ruled,
};
use crate::{
    config::PrivateNetworks,
    feed::{Action, Direction, PortMatch, Scope, bound_size},
    packet::Protocol,
    prefix::{Address, Prefix, Range, RangeSet},
};

/// All class sets, and how many ranges with ports were too many for them.
pub(super) fn sets(
    inputs: &[Input],
    options: &Options,
    index: &Index,
    rules: &Rules,
) -> (Sets, usize) {
    let mut sets = Sets::default();
    let spared = &rules.spared;
    let v4 = Family {
        except: &spared.except.v4,
        special: &spared.special.v4,
        found: &spared.found.v4,
        reserved: private4(),
        wrap: Content::V4,
        ports: Content::Ports4,
        flows: Content::Flows4,
    };
    let v6 = Family {
        except: &spared.except.v6,
        special: &spared.special.v6,
        found: &spared.found.v6,
        reserved: private6(),
        wrap: Content::V6,
        ports: Content::Ports6,
        flows: Content::Flows6,
    };
    if options.regime.policies.is_empty() {
        v4.add(&mut sets, inputs, index, rules);
        v6.add(&mut sets, inputs, index, rules);
        return (sets, 0);
    }
    let (pools4, more4) = ruled::pools(&v4, inputs, options, rules);
    v4.put(&mut sets, pools4);
    let (pools6, more6) = ruled::pools(&v6, inputs, options, rules);
    v6.put(&mut sets, pools6);
    (sets, more4 + more6)
}

/// Entries of one class and scope, before merging.
pub(super) struct Pool<A> {
    pub(super) hosts: Vec<Range<A>>,
    pub(super) nets: Vec<Range<A>>,
    pub(super) ports: Vec<PortElement<A>>,
    pub(super) flows: Vec<FlowElement<A>>,
}

impl<A> Default for Pool<A> {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            nets: Vec::new(),
            ports: Vec::new(),
            flows: Vec::new(),
        }
    }
}

pub(super) type Pools<A> = BTreeMap<(Class, Scope), Pool<A>>;

/// What differs between IPv4 and IPv6.
pub(super) struct Family<'a, A> {
    pub(super) except: &'a RangeSet<A>,
    /// No entry of a feed counts there.
    pub(super) special: &'a RangeSet<A>,
    /// What is listed there is watched and never denied.
    pub(super) found: &'a RangeSet<A>,
    pub(super) reserved: &'a RangeSet<A>,
    wrap: fn(Vec<Range<A>>) -> Content,
    ports: fn(Vec<PortElement<A>>) -> Content,
    flows: fn(Vec<FlowElement<A>>) -> Content,
}

impl<A: Address> Family<'_, A> {
    fn add(&self, sets: &mut Sets, inputs: &[Input], index: &Index, rules: &Rules) {
        let mut pools = self.pools(inputs, rules.private);
        if rules.private == PrivateNetworks::AlertOnly {
            self.move_to_watch(&mut pools, self.reserved, false);
        }
        self.move_to_watch(&mut pools, self.found, true);
        if rules.deny_at > 1 {
            pools = split_by_consensus(pools, &self.boundaries(inputs), index);
        }
        let spared = union(self.except, self.special);
        for pool in pools.values_mut() {
            let nets = RangeSet::new(std::mem::take(&mut pool.nets));
            let nets = if rules.private == PrivateNetworks::Refuse {
                nets.subtract(self.reserved)
            } else {
                nets
            };
            let nets = nets.subtract(&spared);
            pool.hosts
                .retain(|host| !nets.contains(host.first) && !spared.contains(host.first));
            pool.ports.retain(|element| !spared.contains(element.addr));
            pool.nets = nets.ranges().to_vec();
        }
        self.put(sets, pools);
    }

    /// Makes sets of what is in the pools; hosts are in no net of the same pool.
    fn put(&self, sets: &mut Sets, pools: Pools<A>) {
        for ((class, scope), mut pool) in pools {
            let nets = RangeSet::new(pool.nets);
            sort(&mut pool.hosts);
            sort(&mut pool.ports);
            sort(&mut pool.flows);
            let name = |kind| SetName::Class {
                class,
                scope,
                kind,
                family: A::FAMILY,
            };
            sets.put(name(Kind::Hosts), (self.wrap)(pool.hosts));
            sets.put(name(Kind::Nets), (self.wrap)(nets.ranges().to_vec()));
            sets.put(name(Kind::Ports), (self.ports)(pool.ports));
            sets.put(name(Kind::Flows), (self.flows)(pool.flows));
        }
    }

    fn pools(&self, inputs: &[Input], private: PrivateNetworks) -> Pools<A> {
        let mut pools = Pools::default();
        for input in inputs {
            for item in input.data.parsed.items() {
                let Some(range) = A::bounds(&item.prefix) else {
                    continue;
                };
                let class = class(input.action_now(item.score()));
                match item.port {
                    None => {
                        let pool = pools.entry((class, input.scope)).or_default();
                        if range.is_host() {
                            pool.hosts.push(range)
                        } else {
                            pool.nets.push(range)
                        }
                    }
                    Some(port) if bound_size(&item.prefix).is_some() => {
                        self.bound(
                            &mut pools,
                            (class, input.scope),
                            &item.prefix,
                            range,
                            port,
                            private,
                        );
                    }
                    Some(_) => {}
                }
            }
        }
        pools
    }

    /// An entry with a port, address by address.
    fn bound(
        &self,
        pools: &mut Pools<A>,
        (class, scope): (Class, Scope),
        prefix: &Prefix,
        range: Range<A>,
        port: PortMatch,
        private: PrivateNetworks,
    ) {
        let mut next = Some(range.first);
        while let Some(addr) = next {
            next = addr.next().filter(|next| *next <= range.last);
            let class = match private {
                PrivateNetworks::Refuse if !prefix.is_host() && self.reserved.contains(addr) => {
                    continue;
                }
                PrivateNetworks::AlertOnly if !prefix.is_host() && self.reserved.contains(addr) => {
                    Class::Watch
                }
                _ => class,
            };
            let pool = pools.entry((class, scope)).or_default();
            let elements = protocols(&port).iter().map(|proto| PortElement {
                addr,
                proto: proto.0,
                port: port.port,
            });
            pool.ports.extend(elements);
        }
    }

    /// Every address at which what counts for it may change, sorted: the ends of entries, exceptions,
    /// special addresses and private space.
    fn boundaries(&self, inputs: &[Input]) -> Vec<A> {
        let entries = inputs.iter().flat_map(|input| input.data.parsed.prefixes());
        let spared = [self.except, self.special, self.found, self.reserved];
        let spared = spared.into_iter().flat_map(RangeSet::ranges);
        let mut cuts = Vec::new();
        for range in entries.filter_map(A::bounds).chain(spared.copied()) {
            cuts.push(range.first);
            cuts.extend(range.last.next());
        }
        cuts.sort_unstable();
        cuts.dedup();
        cuts
    }

    /// Watches what deny pools have of `space`: networks, and with `hosts` single addresses and entries
    /// with a port too.
    fn move_to_watch(&self, pools: &mut Pools<A>, space: &RangeSet<A>, hosts: bool) {
        if space.is_empty() {
            return;
        }
        for scope in [Scope::Both, Scope::Out, Scope::In] {
            let Some(deny) = pools.get_mut(&(Class::Deny, scope)) else {
                continue;
            };
            let mut watched = Pool::default();
            let nets = RangeSet::new(std::mem::take(&mut deny.nets));
            let denied = nets.subtract(space);
            watched.nets = nets.subtract(&denied).ranges().to_vec();
            deny.nets = denied.ranges().to_vec();
            if hosts {
                let is_spared = |host: &mut Range<A>| space.contains(host.first);
                watched.hosts.extend(deny.hosts.extract_if(.., is_spared));
                let is_spared = |element: &mut PortElement<A>| space.contains(element.addr);
                watched.ports.extend(deny.ports.extract_if(.., is_spared));
            }
            let watch = pools.entry((Class::Watch, scope)).or_default();
            watch.hosts.append(&mut watched.hosts);
            watch.nets.append(&mut watched.nets);
            watch.ports.append(&mut watched.ports);
        }
    }
}

/// The protocols that an entry with a port is for.
pub(super) fn protocols(port: &PortMatch) -> &[Protocol] {
    match &port.proto {
        Some(proto) => std::slice::from_ref(proto),
        None => &[Protocol::TCP, Protocol::UDP],
    }
}

pub(super) fn sort<T: Ord>(list: &mut Vec<T>) {
    list.sort_unstable();
    list.dedup();
}

/// Denied is only what enough origins list; the rest of the deny pools is watched. How many agree
/// depends on the direction, so each direction gets pools of its own. The index answers for every
/// address between two boundaries of entries, so both always agree.
fn split_by_consensus<A: Address>(pools: Pools<A>, cuts: &[A], index: &Index) -> Pools<A> {
    let mut out = Pools::default();
    for ((of, scope), pool) in pools {
        // An address of a watch pool is denied only with an entry of a deny pool, which covers it there.
        if of == Class::Watch {
            let watch = out.entry((of, scope)).or_default();
            watch.hosts.extend(&pool.hosts);
            watch.nets.extend(&pool.nets);
        }
        for (direction, narrow) in [
            (Direction::Egress, Scope::Out),
            (Direction::Ingress, Scope::In),
        ] {
            if !scope.covers(direction) {
                continue;
            }
            let weigh = |addr: A, port| {
                index
                    .lookup(addr.ip(), port, direction)
                    .map_or(Class::Watch, |hit| class(hit.action))
            };
            for element in &pool.ports {
                let class = weigh(element.addr, Some((Protocol(element.proto), element.port)));
                out.entry((class, narrow)).or_default().ports.push(*element);
            }
            if of == Class::Watch {
                continue;
            }
            for host in &pool.hosts {
                out.entry((weigh(host.first, None), narrow))
                    .or_default()
                    .hosts
                    .push(*host);
            }
            for net in &pool.nets {
                for piece in pieces(*net, cuts) {
                    out.entry((weigh(piece.first, None), narrow))
                        .or_default()
                        .nets
                        .push(piece);
                }
            }
        }
    }
    out
}

fn pieces<A: Address>(range: Range<A>, cuts: &[A]) -> Vec<Range<A>> {
    let from = cuts.partition_point(|cut| *cut <= range.first);
    let inside = cuts
        .get(from..)
        .unwrap_or_default()
        .iter()
        .take_while(|cut| **cut <= range.last);
    let mut first = range.first;
    let mut out = Vec::new();
    for cut in inside {
        if let Some(last) = cut.prev() {
            out.push(Range { first, last });
        }
        first = *cut;
    }
    out.push(Range {
        first,
        last: range.last,
    });
    out
}

fn class(action: Action) -> Class {
    match action {
        Action::Deny => Class::Deny,
        Action::Alert => Class::Watch,
    }
}
