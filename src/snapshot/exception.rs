//! Addresses that are not denied, whatever a feed says: why, and what an exception of each kind does.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use super::{Port, PortElement};
use crate::{
    feed::Direction,
    packet::Protocol,
    prefix::{Address, Prefix, Range, RangeSet, SPECIAL},
};

/// An address that is never denied, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Exception {
    /// The addresses.
    pub prefix: Prefix,
    /// Where it comes from: `own address on eth0`, `resolver`, `configuration`, ...
    pub why: String,
    /// What it does.
    pub kind: ExceptionKind,
}

impl Exception {
    /// The row of [`SPECIAL`] that holds an address.
    pub fn special(addr: IpAddr) -> Option<Self> {
        let mut rows = SPECIAL
            .iter()
            .filter_map(|row| Some((row.prefix()?, row.what)));
        let (prefix, what) = rows.find(|(prefix, _)| prefix.contains(addr))?;
        Some(Self {
            prefix,
            why: what.to_owned(),
            kind: ExceptionKind::Special,
        })
    }

    /// An exception that the state folder holds, which keeps prefix and reason only; `None` for the
    /// server of a feed, which version 0.1 excepted for everybody.
    pub fn known(prefix: Prefix, why: String) -> Option<Self> {
        let kind = match &why {
            why if why.starts_with("server of feed ") => return None,
            why if why.starts_with("own address") => ExceptionKind::Own,
            why if why.starts_with("broadcast address") => ExceptionKind::Special,
            why if why == RESOLVER => ExceptionKind::Resolver,
            _ => ExceptionKind::Found,
        };
        Some(Self { prefix, why, kind })
    }
}

/// Why a resolver is an exception.
pub const RESOLVER: &str = "resolver";
/// Where a resolver is asked: DNS (RFC 1035), DNS over TLS (RFC 7858) and over QUIC (RFC 9250).
pub const RESOLVER_PORTS: [u16; 2] = [53, 853];

/// What an exception does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExceptionKind {
    /// The administrator's own: never denied and never alerted.
    Configured,
    /// An address of this host, which is at no far end.
    Own,
    /// Found by the daemon: never denied, and alerted when a feed lists it.
    Found,
    /// A resolver of this host: the same at the ports of [`RESOLVER_PORTS`], and an ordinary address at all
    /// others.
    Resolver,
    /// A broadcast address of one of the host's networks; no entry of a feed counts there.
    Special,
}

/// A set of addresses of both families.
#[derive(Clone, Debug, Default)]
pub(super) struct Space {
    pub(super) v4: RangeSet<u32>,
    pub(super) v6: RangeSet<u128>,
}

impl Space {
    pub(super) fn of<'a>(prefixes: impl Iterator<Item = &'a Prefix> + Clone) -> Self {
        Self {
            v4: RangeSet::of(prefixes.clone()),
            v6: RangeSet::of(prefixes),
        }
    }

    pub(super) fn contains(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(addr) => self.v4.contains(addr.into()),
            IpAddr::V6(addr) => self.v6.contains(addr.into()),
        }
    }

    /// True when some address of `prefix` is in it.
    pub(super) fn meets(&self, prefix: &Prefix) -> bool {
        u32::bounds(prefix).is_some_and(|range| self.v4.intersects(range))
            || u128::bounds(prefix).is_some_and(|range| self.v6.intersects(range))
    }
}

/// Both sets together.
pub(super) fn union<A: Address>(a: &RangeSet<A>, b: &RangeSet<A>) -> RangeSet<A> {
    let all: Vec<Range<A>> = [a.ranges(), b.ranges()].concat();
    RangeSet::new(all)
}

/// Exceptions by what they do.
#[derive(Clone, Debug, Default)]
pub(super) struct Spared {
    /// Nothing counts here.
    pub(super) except: Space,
    /// No entry of a feed counts here.
    pub(super) special: Space,
    /// What is listed here is watched, not denied.
    pub(super) found: Space,
    /// Why, of each address.
    reasons: HashMap<IpAddr, Arc<str>>,
    /// Resolvers, which the kernel lets pass at their ports.
    resolvers: BTreeSet<IpAddr>,
}

impl Spared {
    /// With `alert_found` what the daemon found is watched, else it is as silent as the rest. Without
    /// `by_port` the kernel has no rule for resolvers: they are exceptions at all ports.
    pub(super) fn new(exceptions: &[Exception], alert_found: bool, by_port: bool) -> Self {
        let (mut except, mut special, mut found) = (Vec::new(), table().to_vec(), Vec::new());
        let mut resolvers = BTreeSet::new();
        for exception in exceptions {
            match exception.kind {
                ExceptionKind::Special => special.push(exception.prefix),
                // A host of 6to4 is a network, for which there are no elements with ports.
                ExceptionKind::Resolver if by_port && exception.prefix.is_host() => {
                    resolvers.insert(exception.prefix.addr());
                }
                ExceptionKind::Resolver if alert_found => found.push(exception),
                ExceptionKind::Found if alert_found => found.push(exception),
                _ => except.push(exception.prefix),
            }
        }
        Self {
            except: Space::of(except.iter()),
            special: Space::of(special.iter()),
            found: Space::of(found.iter().map(|exception| &exception.prefix)),
            reasons: reasons(&found),
            resolvers,
        }
    }

    /// The resolvers of a family at their ports, as a set holds them.
    pub(super) fn resolvers<A: Address>(&self) -> Vec<PortElement<A>> {
        let special = |addr: &&IpAddr| !self.special.contains(**addr);
        let hosts = self.resolvers.iter().filter(special);
        let hosts = hosts.filter_map(|addr| Some(A::bounds(&Prefix::host(*addr))?.first));
        let protos = [Protocol::TCP, Protocol::UDP];
        let at = |addr| {
            let ports = move |proto: Protocol| {
                RESOLVER_PORTS.map(|port| PortElement {
                    addr,
                    proto: proto.0,
                    port,
                })
            };
            protos.into_iter().flat_map(ports)
        };
        hosts.flat_map(at).collect()
    }

    /// Why a listed address is not denied.
    pub(super) fn exemption(
        &self,
        addr: IpAddr,
        port: Port,
        direction: Direction,
    ) -> Option<Arc<str>> {
        if self.resolves(addr, port, direction) {
            return Some(RESOLVER.into());
        }
        if let Some(why) = self.reasons.get(&addr) {
            return Some(Arc::clone(why));
        }
        // Of a network: the daemon finds none, and a file of the state folder may name one.
        self.found
            .contains(addr)
            .then(|| "found by the daemon".into())
    }
}

impl Spared {
    /// True for a question to a resolver.
    fn resolves(&self, addr: IpAddr, port: Port, direction: Direction) -> bool {
        let Some((proto, port)) = port else {
            return false;
        };
        direction == Direction::Egress
            && RESOLVER_PORTS.contains(&port)
            && [Protocol::TCP, Protocol::UDP].contains(&proto)
            && self.resolvers.contains(&addr)
    }
}

/// The reasons of each single address, with commas between.
fn reasons(exceptions: &[&Exception]) -> HashMap<IpAddr, Arc<str>> {
    let mut all: HashMap<IpAddr, BTreeSet<&str>> = HashMap::new();
    for exception in exceptions.iter().filter(|e| e.prefix.is_host()) {
        let whys = all.entry(exception.prefix.addr()).or_default();
        whys.insert(&exception.why);
    }
    let joined = |whys: BTreeSet<&str>| whys.into_iter().collect::<Vec<_>>().join(", ").into();
    all.into_iter()
        .map(|(addr, whys)| (addr, joined(whys)))
        .collect()
}

/// The networks of [`SPECIAL`].
fn table() -> &'static [Prefix] {
    static TABLE: LazyLock<Vec<Prefix>> =
        LazyLock::new(|| SPECIAL.iter().filter_map(|row| row.prefix()).collect());
    &TABLE
}

/// What is special about `prefix`, were it so: `limited broadcast`.
pub(super) fn special_of(prefix: &Prefix, exceptions: &[Exception]) -> Option<String> {
    let overlaps = |of: &Prefix| of.contains(prefix.addr()) || prefix.contains(of.addr());
    let row = SPECIAL
        .iter()
        .find(|row| row.prefix().is_some_and(|of| overlaps(&of)));
    let found = || {
        let mut special = exceptions.iter();
        let found = special.find(|e| e.kind == ExceptionKind::Special && overlaps(&e.prefix));
        found.map(|e| e.why.clone())
    };
    row.map(|row| row.what.to_owned()).or_else(found)
}
