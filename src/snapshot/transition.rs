//! IPv4 in IPv6: what the IPv4 sets hold, in the forms of NAT64 and 6to4 in the IPv6 sets.
//!
//! The IPv4 sets are copied as they are in the end: exceptions, private networks, consensus and policies
//! have had their say. Of an address that an IPv6 entry lists as well the stronger class counts.

use std::collections::BTreeMap;

use super::{
    Class, Content, Exception, FlowElement, Kind, PortElement, SetName, Sets, classes::sort,
};
use crate::{
    feed::Scope,
    prefix::{Family, Form, Forms, Range, RangeSet},
};

/// The forms in which IPv4 entries hold too.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transition {
    /// Addresses of these are read as their IPv4 address.
    pub read: Forms,
    /// In these an IPv4 exception spares what IPv6 entries list as well; not in what only a resolver
    /// says: who answers for it could choose what is spared.
    pub spared: Forms,
    /// The kernel's sets hold IPv4 elements in these.
    pub in_use: Forms,
}

impl Transition {
    /// IPv4 exceptions with their IPv6 forms.
    pub(super) fn exceptions(&self, exceptions: &[Exception]) -> Vec<Exception> {
        let mut all = exceptions.to_vec();
        for exception in exceptions
            .iter()
            .filter(|e| e.prefix.family() == Family::V4)
        {
            let prefixes = self
                .spared
                .iter()
                .flat_map(|form| form.prefixes(&exception.prefix));
            all.extend(prefixes.map(|prefix| Exception {
                prefix,
                ..exception.clone()
            }));
        }
        all
    }
}

/// Adds the IPv4 elements of all class sets in their IPv6 forms, but for IPv6 exceptions.
pub(super) fn add(sets: &mut Sets, forms: &Forms, except: &RangeSet<u128>) {
    if forms.is_empty() {
        return;
    }
    let mut copies: BTreeMap<(Class, Scope), Copy> = BTreeMap::new();
    for (name, content) in sets.iter() {
        if let SetName::Class { class, scope, .. } = name {
            let copy = copies.entry((class, scope)).or_default();
            forms.iter().for_each(|form| copy.take(form, content));
        }
    }
    for ((class, scope), copy) in copies {
        copy.put(sets, except, &|kind| SetName::Class {
            class,
            scope,
            kind,
            family: Family::V6,
        });
    }
}

/// IPv6 forms of what one class and scope holds.
#[derive(Default)]
struct Copy {
    hosts: Vec<Range<u128>>,
    nets: Vec<Range<u128>>,
    ports: Vec<PortElement<u128>>,
    flows: Vec<FlowElement<u128>>,
}

impl Copy {
    fn take(&mut self, form: &Form, content: &Content) {
        match content {
            Content::V4(ranges) => {
                for range in ranges {
                    let is_host = range.is_host() && form.is_exact();
                    let list = if is_host {
                        &mut self.hosts
                    } else {
                        &mut self.nets
                    };
                    list.extend(form.ranges(*range));
                }
            }
            // With 6to4 an address is a whole network, for which there are no elements with ports.
            Content::Ports4(list) => self.ports.extend(list.iter().filter_map(|element| {
                Some(PortElement {
                    addr: form.host(element.addr)?,
                    proto: element.proto,
                    port: element.port,
                })
            })),
            Content::Flows4(list) => self.flows.extend(list.iter().flat_map(|flow| {
                let at = flow.at;
                form.ranges(flow.addr)
                    .map(move |addr| FlowElement { addr, at })
            })),
            Content::V6(_) | Content::Ports6(_) | Content::Flows6(_) => {}
        }
    }

    /// Joins it with what the IPv6 sets hold. No host is in a net of its class and scope, and no range
    /// with ports overlaps another one.
    fn put(mut self, sets: &mut Sets, except: &RangeSet<u128>, name: &impl Fn(Kind) -> SetName) {
        let mut nets = RangeSet::new(self.nets).subtract(except).ranges().to_vec();
        self.hosts.retain(|host| !except.contains(host.first));
        self.ports.retain(|element| !except.contains(element.addr));
        if let Some(Content::V6(there)) = sets.get(name(Kind::Nets)) {
            nets.extend_from_slice(there);
        }
        if let Some(Content::V6(there)) = sets.get(name(Kind::Hosts)) {
            self.hosts.extend_from_slice(there);
        }
        if let Some(Content::Ports6(there)) = sets.get(name(Kind::Ports)) {
            self.ports.extend_from_slice(there);
        }
        let mut flows = match sets.get(name(Kind::Flows)) {
            Some(Content::Flows6(there)) => there.clone(),
            _ => Vec::new(),
        };
        let taken = RangeSet::new(flows.iter().map(|flow| flow.addr).collect());
        for flow in self.flows {
            let left = RangeSet::new(vec![flow.addr])
                .subtract(except)
                .subtract(&taken);
            let at = flow.at;
            flows.extend(
                left.ranges()
                    .iter()
                    .map(|addr| FlowElement { addr: *addr, at }),
            );
        }
        let nets = RangeSet::new(nets);
        self.hosts.retain(|host| !nets.contains(host.first));
        sort(&mut self.hosts);
        sort(&mut self.ports);
        sort(&mut flows);
        sets.put(name(Kind::Hosts), Content::V6(self.hosts));
        sets.put(name(Kind::Nets), Content::V6(nets.ranges().to_vec()));
        sets.put(name(Kind::Ports), Content::Ports6(self.ports));
        sets.put(name(Kind::Flows), Content::Flows6(flows));
    }
}

#[cfg(test)]
#[path = "transition_tests.rs"]
mod tests;
