//! Addresses that are not denied, whatever a feed says: why, and what an exception of each kind does.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use crate::prefix::{Address, Prefix, Range, RangeSet, SPECIAL};

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
            _ => ExceptionKind::Found,
        };
        Some(Self { prefix, why, kind })
    }
}

/// What an exception does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExceptionKind {
    /// The administrator's own: never denied and never alerted.
    Configured,
    /// An address of this host, which is at no far end.
    Own,
    /// Found by the daemon.
    Found,
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
}

impl Spared {
    /// With `alert_found` what the daemon found is watched, else it is as silent as the rest.
    pub(super) fn new(exceptions: &[Exception], alert_found: bool) -> Self {
        let (mut except, mut special, mut found) = (Vec::new(), table().to_vec(), Vec::new());
        for exception in exceptions {
            match exception.kind {
                ExceptionKind::Special => special.push(exception.prefix),
                ExceptionKind::Found if alert_found => found.push(exception),
                _ => except.push(exception.prefix),
            }
        }
        Self {
            except: Space::of(except.iter()),
            special: Space::of(special.iter()),
            found: Space::of(found.iter().map(|exception| &exception.prefix)),
            reasons: reasons(&found),
        }
    }

    /// Why a listed address is not denied.
    pub(super) fn exemption(&self, addr: IpAddr) -> Option<Arc<str>> {
        if let Some(why) = self.reasons.get(&addr) {
            return Some(Arc::clone(why));
        }
        // Of a network: the daemon finds none, and a file of the state folder may name one.
        self.found
            .contains(addr)
            .then(|| "found by the daemon".into())
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
