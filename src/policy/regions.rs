//! What rules distinguish: prefixes of the far end, protocols, and ranges of the receiver's ports.

use std::collections::{BTreeMap, BTreeSet};

use super::{Fact, Policies, PortRegion, Rule};
use crate::{feed::Direction, packet::Protocol, prefix::Prefix};

/// Where the ranges of a protocol's ports begin, 0 not among them.
type Cuts = BTreeMap<Protocol, BTreeSet<u16>>;

impl Policies {
    /// Prefixes that rules name for the far end: within the pieces that they, and the network sets,
    /// cut the address space into, the answer is the same for every address.
    pub fn far_nets(&self, direction: Direction) -> Vec<Prefix> {
        let nets: BTreeSet<Prefix> = self
            .rules(direction)
            .map(|rule| match direction {
                Direction::Egress => &rule.destination,
                Direction::Ingress => &rule.source,
            })
            .flat_map(|far| far.nets.iter().chain(&far.not_nets))
            .copied()
            .collect();
        nets.into_iter().collect()
    }

    /// The regions of a direction: disjoint, and together everything. The first is for every protocol
    /// that no other region names; it is alone where no rule names protocols or ports.
    pub fn port_regions(&self, direction: Direction) -> Vec<PortRegion> {
        let mut regions = vec![PortRegion {
            proto: None,
            ports: None,
        }];
        for (proto, cuts) in self.cuts(direction) {
            let proto = Some(proto);
            if !proto.is_some_and(Protocol::has_ports) {
                regions.push(PortRegion { proto, ports: None });
                continue;
            }
            let firsts = [0].into_iter().chain(cuts.iter().copied());
            let lasts = cuts.iter().map(|cut| cut.saturating_sub(1));
            for ports in firsts.zip(lasts.chain([u16::MAX])) {
                let ports = Some(ports);
                regions.push(PortRegion { proto, ports });
            }
        }
        regions
    }

    /// Protocol and receiver's port to ask about, for the answer of a whole region.
    pub fn facts_of(
        &self,
        direction: Direction,
        region: PortRegion,
    ) -> (Fact<Protocol>, Fact<Option<u16>>) {
        match (region.proto, region.ports) {
            (Some(proto), ports) => {
                let port = ports.map(|(first, _)| first);
                (Fact::Known(proto), Fact::Known(port))
            }
            (None, _) => {
                let named = self.cuts(direction);
                // Protocols that no rule names get the same answer; those with ports are all named
                // where a rule asks for ports without a protocol.
                let mut others = (0..=u8::MAX).rev().map(Protocol);
                let other = others.find(|proto| !named.contains_key(proto));
                match other {
                    Some(proto) if !named.is_empty() => {
                        let port = proto.has_ports().then_some(0);
                        (Fact::Known(proto), Fact::Known(port))
                    }
                    _ => (Fact::Unknown, Fact::Unknown),
                }
            }
        }
    }

    fn cuts(&self, direction: Direction) -> Cuts {
        let mut cuts = Cuts::new();
        for rule in self.rules(direction) {
            let asks_ports = [&rule.source, &rule.destination]
                .iter()
                .any(|end| !end.ports.is_empty() || !end.not_ports.is_empty());
            let protocols: Vec<Protocol> = match rule.protocol {
                Some(proto) => vec![proto],
                None if asks_ports => with_ports().collect(),
                None => Vec::new(),
            };
            for proto in protocols {
                let cuts = cuts.entry(proto).or_default();
                if proto.has_ports() {
                    cut(cuts, rule);
                }
            }
            if let Some(proto) = rule.not_protocol {
                cuts.entry(proto).or_default();
            }
        }
        cuts
    }

    fn rules(&self, direction: Direction) -> impl Iterator<Item = &Rule> {
        let policies = self.tiers().iter().flat_map(|(_, policies)| policies);
        policies
            .filter_map(move |policy| policy.rules(direction))
            .flatten()
    }
}

fn cut(cuts: &mut BTreeSet<u16>, rule: &Rule) {
    let receiver = &rule.destination;
    for (first, last) in receiver.ports.iter().chain(&receiver.not_ports) {
        cuts.extend(Some(*first).filter(|first| *first > 0));
        cuts.extend(last.checked_add(1));
    }
}

fn with_ports() -> impl Iterator<Item = Protocol> {
    (0..=u8::MAX)
        .map(Protocol)
        .filter(|proto| proto.has_ports())
}
