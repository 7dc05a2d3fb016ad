//! Names and contents of the kernel's sets (DESIGN.md section 2).

use std::{collections::BTreeMap, fmt};

use crate::{
    feed::Scope,
    prefix::{Family, Range},
};

/// What the kernel does on a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Deny, also without the daemon.
    Deny,
    /// Ask the daemon, else pass.
    Watch,
}

/// How a set stores its elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Single addresses in a hash set: a miss costs about 50 ns.
    Hosts,
    /// Ranges in an interval set.
    Nets,
    /// Single addresses with a protocol and a port, in a hash set.
    Ports,
    /// Ranges of addresses, of protocols and of receiver's ports, in a concatenated interval set.
    Flows,
    /// Ranges that change their elements in a transaction, for as long as that takes (see [`super::Steps`]).
    Cover,
    /// The same of [`Kind::Ports`].
    PortsCover,
    /// The same of [`Kind::Flows`].
    FlowsCover,
}

impl Kind {
    /// True for sets of ranges.
    pub fn is_interval(self) -> bool {
        matches!(
            self,
            Self::Nets | Self::Flows | Self::Cover | Self::FlowsCover
        )
    }

    /// True for sets of addresses with protocols and ports, single ones and ranges.
    pub fn has_ports(self) -> bool {
        self.is_flows() || matches!(self, Self::Ports | Self::PortsCover)
    }

    /// True for sets of ranges of addresses, protocols and ports.
    pub fn is_flows(self) -> bool {
        matches!(self, Self::Flows | Self::FlowsCover)
    }
}

/// The name of a set of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetName {
    /// The addresses of a class and scope.
    Class {
        /// Deny or watch.
        class: Class,
        /// Directions.
        scope: Scope,
        /// Hash or interval.
        kind: Kind,
        /// IP version.
        family: Family,
    },
    /// The prefilter in front of all classes: blocks that hold any listed address.
    Coarse {
        /// Hash of blocks, or intervals of prefixes shorter than a block.
        kind: Kind,
        /// IP version.
        family: Family,
    },
    /// This host's resolvers at their ports, which are let pass before any class is asked.
    Resolvers {
        /// IP version.
        family: Family,
    },
}

impl SetName {
    /// IP version of the elements.
    pub fn family(self) -> Family {
        match self {
            Self::Class { family, .. }
            | Self::Coarse { family, .. }
            | Self::Resolvers { family } => family,
        }
    }

    /// Hash or interval.
    pub fn kind(self) -> Kind {
        match self {
            Self::Class { kind, .. } | Self::Coarse { kind, .. } => kind,
            Self::Resolvers { .. } => Kind::Ports,
        }
    }
}

/// `deny_out_nets4`, `watch_hosts6`, `coarse4`, `coarse_nets6`, `resolvers4`.
impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family() {
            Family::V4 => '4',
            Family::V6 => '6',
        };
        match self {
            Self::Class {
                class, scope, kind, ..
            } => {
                let class = match class {
                    Class::Deny => "deny",
                    Class::Watch => "watch",
                };
                let scope = match scope {
                    Scope::Both => "",
                    Scope::Out => "_out",
                    Scope::In => "_in",
                };
                let kind = match kind {
                    Kind::Hosts => "hosts",
                    Kind::Nets => "nets",
                    Kind::Ports => "ports",
                    Kind::Flows => "flows",
                    Kind::Cover => "cover",
                    Kind::PortsCover => "ports_cover",
                    Kind::FlowsCover => "flows_cover",
                };
                write!(f, "{class}{scope}_{kind}{family}")
            }
            Self::Coarse {
                kind: Kind::Nets, ..
            } => write!(f, "coarse_nets{family}"),
            Self::Coarse { .. } => write!(f, "coarse{family}"),
            Self::Resolvers { .. } => write!(f, "resolvers{family}"),
        }
    }
}

/// Elements of one set, sorted and disjoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// IPv4; in a hash set every range is a single address.
    V4(Vec<Range<u32>>),
    /// IPv6; in a hash set every range is a single address.
    V6(Vec<Range<u128>>),
    /// IPv4 addresses with a port.
    Ports4(Vec<PortElement<u32>>),
    /// IPv6 addresses with a port.
    Ports6(Vec<PortElement<u128>>),
    /// IPv4 addresses with protocols and receiver's ports.
    Flows4(Vec<FlowElement<u32>>),
    /// IPv6 addresses with protocols and receiver's ports.
    Flows6(Vec<FlowElement<u128>>),
}

/// A range of protocols with a range of receiver's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortBox {
    /// First and last IP protocol number.
    pub protos: (u8, u8),
    /// First and last port of the receiver; all of them for protocols without ports.
    pub ports: (u16, u16),
}

/// Addresses with protocols and receiver's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowElement<A> {
    /// The addresses.
    pub addr: Range<A>,
    /// The protocols and ports.
    pub at: PortBox,
}

/// An address with a protocol and the port at that address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortElement<A> {
    /// The address.
    pub addr: A,
    /// IP protocol number.
    pub proto: u8,
    /// The port at the address.
    pub port: u16,
}

impl Content {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::V4(ranges) => ranges.len(),
            Self::V6(ranges) => ranges.len(),
            Self::Ports4(elements) => elements.len(),
            Self::Ports6(elements) => elements.len(),
            Self::Flows4(elements) => elements.len(),
            Self::Flows6(elements) => elements.len(),
        }
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The contents of all sets; only sets that hold something are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sets(pub(super) BTreeMap<SetName, Content>);

impl Sets {
    /// The names of the sets.
    pub fn names(&self) -> impl Iterator<Item = SetName> + '_ {
        self.0.keys().copied()
    }

    /// Names and contents.
    pub fn iter(&self) -> impl Iterator<Item = (SetName, &Content)> {
        self.0.iter().map(|(name, content)| (*name, content))
    }

    /// One set's content.
    pub fn get(&self, name: SetName) -> Option<&Content> {
        self.0.get(&name)
    }

    /// Elements in all class sets, without the prefilter.
    pub fn elements(&self) -> usize {
        self.0
            .iter()
            .filter(|(name, _)| matches!(name, SetName::Class { .. }))
            .map(|(_, content)| content.len())
            .sum()
    }

    /// Address ranges with protocols and ports.
    pub fn flows(&self) -> usize {
        let flows = self.0.iter().filter(|(name, _)| name.kind() == Kind::Flows);
        flows.map(|(_, content)| content.len()).sum()
    }

    /// True when a prefilter stands in front of the class sets of `family`.
    pub fn has_prefilter(&self, family: Family) -> bool {
        [Kind::Hosts, Kind::Nets]
            .into_iter()
            .any(|kind| self.0.contains_key(&SetName::Coarse { kind, family }))
    }

    /// The sets that deny, and what is let pass before them, without the prefilter: what must be in force
    /// first.
    pub fn denied(&self) -> Self {
        let is_denied = |name: &SetName| {
            matches!(
                name,
                SetName::Class {
                    class: Class::Deny,
                    ..
                } | SetName::Resolvers { .. }
            )
        };
        let sets = self.0.iter().filter(|(name, _)| is_denied(name));
        Self(
            sets.map(|(name, content)| (*name, content.clone()))
                .collect(),
        )
    }

    /// Covers for the ranges that are denied, with and without ports, while the sets that hold them are
    /// replaced.
    pub fn covers(&self) -> Self {
        let mut covers = Self::default();
        for (name, content) in &self.0 {
            if let SetName::Class {
                class: Class::Deny,
                scope,
                kind,
                family,
            } = *name
                && kind.is_interval()
            {
                let name = SetName::Class {
                    class: Class::Deny,
                    scope,
                    kind: match kind.is_flows() {
                        true => Kind::FlowsCover,
                        false => Kind::Cover,
                    },
                    family,
                };
                covers.put(name, content.clone());
            }
        }
        covers
    }

    /// True when there is no set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same sets without the prefilter.
    pub fn without_prefilter(&self) -> Self {
        let is_coarse = |name: &SetName| matches!(name, SetName::Coarse { .. });
        Self(
            self.0
                .iter()
                .filter(|(name, _)| !is_coarse(name))
                .map(|(n, c)| (*n, c.clone()))
                .collect(),
        )
    }

    /// The same sets with `more`, which are not among them.
    pub fn with(&self, more: &Self) -> Self {
        let mut all = self.0.clone();
        all.extend(
            more.0
                .iter()
                .map(|(name, content)| (*name, content.clone())),
        );
        Self(all)
    }

    pub(super) fn put(&mut self, name: SetName, content: Content) {
        if !content.is_empty() {
            self.0.insert(name, content);
        }
    }
}

/// From contents that are sorted and disjoint.
impl FromIterator<(SetName, Content)> for Sets {
    fn from_iter<I: IntoIterator<Item = (SetName, Content)>>(contents: I) -> Self {
        let mut sets = Self::default();
        for (name, content) in contents {
            sets.put(name, content);
        }
        sets
    }
}
