//! The kernel ruleset as a pure value, printed in nft(8) syntax.
//!
//! [`build`] makes the table of DESIGN.md section 2; [`crate::nft`] sends the same value over
//! netlink. A test loads the printed text with nft and compares the two.

mod build;
mod elements;
mod include;
mod statement;

use std::fmt;

pub use build::{Options, build};
pub use elements::{MAX_ELEMENTS, elements};
pub use include::{Shape, base, declarations, full, inspect, open_prefilter};
pub use statement::{FlowKey, ProtoFrom, Side, Statement};

use crate::{
    config::Hook,
    prefix::Family,
    snapshot::{Kind, SetName},
};

/// What marks a table as ours; other tables of the same name are never touched.
pub const TABLE_COMMENT: &str = "managed by feedgate";

/// The family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableFamily {
    /// Both IP versions.
    Inet,
    /// IPv4 alone.
    Ip,
    /// IPv6 alone.
    Ip6,
}

impl TableFamily {
    /// The family of this name; anything unknown is inet, which the configuration has checked.
    pub fn of(name: &str) -> Self {
        match name {
            "ip" => Self::Ip,
            "ip6" => Self::Ip6,
            _ => Self::Inet,
        }
    }

    /// As nft writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        }
    }

    /// True when its chains see packets of this IP version.
    pub fn sees(self, family: Family) -> bool {
        match self {
            Self::Inet => true,
            Self::Ip => family == Family::V4,
            Self::Ip6 => family == Family::V6,
        }
    }
}

/// A counter object of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counter {
    /// Packets handed to the queue.
    Queued,
    /// First packets that the daemon let pass.
    Allowed,
    /// First packets that the daemon denied.
    Denied,
    /// Later packets of a flow that was denied.
    DeniedRepeat,
    /// Packets of a deny set dropped without the daemon.
    DeniedUnattributed,
    /// Packets of a watch set passed without the daemon.
    PassedUnattributed,
    /// Packets of established flows that were cut.
    Cut,
}

impl Counter {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 7] = [
        Self::Queued,
        Self::Allowed,
        Self::Denied,
        Self::DeniedRepeat,
        Self::DeniedUnattributed,
        Self::PassedUnattributed,
        Self::Cut,
    ];

    /// Its name in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::DeniedRepeat => "denied_repeat",
            Self::DeniedUnattributed => "denied_unattributed",
            Self::PassedUnattributed => "passed_unattributed",
            Self::Cut => "cut",
        }
    }
}

/// The verdict that a `recent_*` set remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Remembered {
    /// The flow passes.
    Allow,
    /// The flow is denied.
    Deny,
}

/// A set of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Set {
    /// Addresses from feeds, or the prefilter.
    Addresses(SetName),
    /// Protocols whose header starts with two ports.
    PortProtocols,
    /// IPv6 extension headers that the kernel skips to find the payload.
    Extensions,
    /// ICMP echo request and reply.
    Echo(Family),
    /// Verdicts of flows without an established conntrack entry.
    Recent {
        /// Which verdict.
        verdict: Remembered,
        /// How the flow is keyed.
        key: FlowKey,
        /// IP version.
        family: Family,
    },
}

impl Set {
    /// Seconds a `recent_*` element lives.
    pub const RECENT_TIMEOUT: u64 = 60;
    /// Elements a `recent_*` set holds at most.
    pub const RECENT_SIZE: u32 = 65_536;
    /// How the names of `recent_*` sets begin.
    pub const RECENT_PREFIX: &str = "recent_";
    /// TCP, UDP, DCCP, SCTP, UDP-Lite.
    pub const PORT_PROTOCOLS: [u8; 5] = [6, 17, 33, 132, 136];

    /// Hop-by-hop options, routing, fragment, destination options: what nf_tables goes past to find the
    /// protocol (`nft_set_pktinfo_ipv6`; the authentication header is a protocol to it).
    pub const EXTENSIONS: [u8; 4] = [0, 43, 44, 60];

    /// True for sets that hold feed data and are created only when something is in them.
    pub fn is_addresses(self) -> bool {
        matches!(self, Self::Addresses(_))
    }

    /// Elements that never change.
    pub fn constants(self) -> &'static [u8] {
        match self {
            Self::PortProtocols => &Self::PORT_PROTOCOLS,
            Self::Extensions => &Self::EXTENSIONS,
            Self::Echo(Family::V4) => &[0, 8],
            Self::Echo(Family::V6) => &[128, 129],
            _ => &[],
        }
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Addresses(name) => name.fmt(f),
            Self::PortProtocols => f.write_str("port_protocols"),
            Self::Extensions => f.write_str("extensions6"),
            Self::Echo(family) => write!(f, "echo{}", digit(family)),
            Self::Recent {
                verdict,
                key,
                family,
            } => {
                let verdict = match verdict {
                    Remembered::Allow => "recent_allow",
                    Remembered::Deny => "recent_deny",
                };
                let key = match key {
                    FlowKey::Syn => "_syn",
                    FlowKey::Ports => "",
                    FlowKey::Echo => "_echo",
                    FlowKey::Addresses => "_other",
                };
                write!(f, "{verdict}{key}{}", digit(family))
            }
        }
    }
}

/// A base chain's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// `type route` (reroutes when the mark changed) instead of `type filter`.
    pub route: bool,
    /// The hook.
    pub hook: Hook,
    /// Relative to `filter` (0).
    pub priority: i32,
}

/// A chain with its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// `None` for a chain that is jumped to.
    pub base: Option<Base>,
    /// Each rule is a list of matches and actions.
    pub rules: Vec<Vec<Statement>>,
}

/// The whole table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// Table name; the family is `inet`.
    pub table: String,
    /// Sets, without their elements.
    pub sets: Vec<Set>,
    /// Chains; a chain stands before those that jump to it.
    pub chains: Vec<Chain>,
}

fn digit(family: Family) -> char {
    match family {
        Family::V4 => '4',
        Family::V6 => '6',
    }
}

/// The table as `nft -f` reads it, without elements.
impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {} {{", self.table)?;
        writeln!(f, "\tcomment \"{TABLE_COMMENT}\"")?;
        for counter in Counter::ALL {
            writeln!(f, "\tcounter {} {{ }}", counter.as_str())?;
        }
        self.write_content(f)?;
        writeln!(f, "}}")
    }
}

impl Ruleset {
    /// Sets and chains.
    fn write_content(&self, f: &mut impl fmt::Write) -> fmt::Result {
        for set in &self.sets {
            writeln!(f, "\tset {set} {{")?;
            write_set(f, *set)?;
            writeln!(f, "\t}}")?;
        }
        for chain in &self.chains {
            writeln!(f, "\tchain {} {{", chain.name)?;
            write_chain(f, chain)?;
            writeln!(f, "\t}}")?;
        }
        Ok(())
    }
}

fn write_set(f: &mut impl fmt::Write, set: Set) -> fmt::Result {
    match set {
        Set::Addresses(name) => {
            let family = match name.family() {
                Family::V4 => "ipv4_addr",
                Family::V6 => "ipv6_addr",
            };
            match name.kind() {
                Kind::Hosts => writeln!(f, "\t\ttype {family}"),
                Kind::Nets | Kind::Cover => writeln!(f, "\t\ttype {family}\n\t\tflags interval"),
                Kind::Ports | Kind::PortsCover => {
                    writeln!(f, "\t\ttype {family} . inet_proto . inet_service")
                }
                Kind::Flows | Kind::FlowsCover => writeln!(
                    f,
                    "\t\ttype {family} . inet_proto . inet_service\n\t\tflags interval"
                ),
            }
        }
        Set::PortProtocols => {
            writeln!(
                f,
                "\t\ttype inet_proto\n\t\telements = {{ tcp, udp, dccp, sctp, udplite }}"
            )
        }
        Set::Extensions => {
            writeln!(f, "\t\ttype inet_proto\n\t\telements = {{ 0, 43, 44, 60 }}")
        }
        Set::Echo(Family::V4) => {
            writeln!(
                f,
                "\t\ttype icmp_type\n\t\telements = {{ echo-reply, echo-request }}"
            )
        }
        Set::Echo(Family::V6) => {
            writeln!(
                f,
                "\t\ttype icmpv6_type\n\t\telements = {{ echo-request, echo-reply }}"
            )
        }
        Set::Recent { key, family, .. } => {
            writeln!(f, "\t\ttypeof {}", statement::KeyText { key, family })?;
            writeln!(
                f,
                "\t\tsize {}\n\t\tflags dynamic,timeout",
                Set::RECENT_SIZE
            )?;
            writeln!(f, "\t\ttimeout {}s", Set::RECENT_TIMEOUT)
        }
    }
}

fn write_chain(f: &mut impl fmt::Write, chain: &Chain) -> fmt::Result {
    if let Some(base) = chain.base {
        let kind = if base.route { "route" } else { "filter" };
        let hook = match base.hook {
            Hook::Output => "output",
            Hook::Input => "input",
            Hook::Forward => "forward",
        };
        let sign = if base.priority < 0 { '-' } else { '+' };
        let distance = base.priority.unsigned_abs();
        writeln!(
            f,
            "\t\ttype {kind} hook {hook} priority filter {sign} {distance}; policy accept;"
        )?;
    }
    for rule in &chain.rules {
        f.write_str("\t\t")?;
        for (i, statement) in rule.iter().enumerate() {
            if i > 0 {
                f.write_str(" ")?;
            }
            write!(f, "{statement}")?;
        }
        writeln!(f)?;
    }
    Ok(())
}
