//! Matches and actions of a rule.

use std::fmt;

use super::{Counter, Set, digit};
use crate::{packet::Protocol, prefix::Family};

/// Which address of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `saddr`
    Source,
    /// `daddr`
    Destination,
}

/// Where a key with a port has its protocol from.
///
/// In a set of ranges it must not be `meta l4proto`: nft 1.0.6 (Debian 12) takes that for a number in the
/// host's byte order and swaps its one byte (`byteorder reg 9 = hton(reg 9, 2, 1)`).
/// Kernels 6.12.117 and 7.3 refuse such an expression, and with it the whole ruleset. What comes from a
/// header or from connection tracking is in network order, and left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtoFrom {
    /// `meta l4proto`: what the kernel found behind all headers.
    Meta,
    /// `ip protocol`, `ip6 nexthdr`: wrong where IPv6 extension headers follow.
    Header,
    /// `ct original protocol`: packets that are not tracked, or invalid, do not match.
    Tracked,
    /// This number, whatever the header says: `ip6 nexthdr & 0x0 | 0x6`.
    Given(Protocol),
}

/// How a flow is keyed in a `recent_*` set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FlowKey {
    /// Addresses, ports and sequence number of a TCP SYN: its retransmits, and not the next connection
    /// that happens to have the same ports.
    Syn,
    /// Addresses, protocol, ports.
    Ports,
    /// Addresses, ICMP type and identifier of an echo.
    Echo,
    /// Addresses and protocol: everything else.
    Addresses,
}

impl FlowKey {
    /// All of them, the most specific first.
    pub const ALL: [Self; 4] = [Self::Syn, Self::Ports, Self::Echo, Self::Addresses];
}

/// One match or action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// All bits of the mask are set in the conntrack mark.
    CtMark(u32),
    /// `ct state established`
    Established,
    /// `ct state related`
    Related,
    /// `ct state untracked`: an admin's rule keeps the packet from connection tracking.
    Untracked,
    /// `meta l4proto PROTO`
    L4(Protocol),
    /// `tcp flags & (syn | ack) == syn`: the first packet of a TCP connection.
    IsSyn,
    /// `meta l4proto @port_protocols`
    HasPorts,
    /// `icmp type @echo4`: an echo request or reply.
    IsEcho(Family),
    /// `oif lo`
    ToLoopback,
    /// `iif lo`
    FromLoopback,
    /// `meta nfproto ipv4`
    Family(Family),
    /// `ip daddr @SET`; with a length, only the first bits are looked up.
    Address {
        /// IP version.
        family: Family,
        /// Source or destination.
        side: Side,
        /// Bits kept by the mask.
        mask: Option<u8>,
        /// A set of addresses.
        set: Set,
    },
    /// `ip6 nexthdr @extensions6`: extension headers stand between the IPv6 header and the payload.
    IsExtended,
    /// `ip daddr . meta l4proto . th dport @SET`: the address with a port.
    AddressPort {
        /// IP version.
        family: Family,
        /// Source or destination.
        side: Side,
        /// Where the protocol is read.
        proto: ProtoFrom,
        /// Whose port: at the address, or the receiver's.
        port: Side,
        /// A set of addresses with ports.
        set: Set,
    },
    /// The flow is in a `recent_*` set; protocol guards stand before it.
    InRecent(Set),
    /// Puts the flow into a `recent_*` set, or renews it.
    UpdateRecent(Set),
    /// `meta mark & MASK == VALUE`
    Mark {
        /// The bits to look at.
        mask: u32,
        /// Their value.
        value: u32,
    },
    /// `meta mark & MASK != 0`
    AnyMark(u32),
    /// `meta mark set meta mark & ~MASK`
    ClearMark(u32),
    /// `counter name NAME`
    Count(Counter),
    /// Asks the daemon; without it the packet goes on.
    Queue {
        /// First queue.
        first: u16,
        /// Number of queues; packets are spread by CPU.
        count: u16,
    },
    /// Ends this hook's chain; later base chains go on.
    Accept,
    /// Ends this chain; the one that jumped here goes on.
    Return,
    /// Ends the packet.
    Drop,
    /// TCP reset.
    RejectTcp,
    /// ICMP administratively prohibited.
    RejectIcmp,
    /// `jump CHAIN`
    Jump(String),
    /// `goto CHAIN`
    Goto(String),
}

/// A flow key in nft syntax.
pub(super) struct KeyText {
    pub(super) key: FlowKey,
    pub(super) family: Family,
}

impl fmt::Display for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ip, icmp) = match self.family {
            Family::V4 => ("ip", "icmp"),
            Family::V6 => ("ip6", "icmpv6"),
        };
        write!(f, "{ip} saddr . {ip} daddr . ")?;
        match self.key {
            FlowKey::Syn => f.write_str("tcp sport . tcp dport . tcp sequence"),
            FlowKey::Ports => f.write_str("meta l4proto . th sport . th dport"),
            FlowKey::Echo => write!(f, "{icmp} type . {icmp} id"),
            FlowKey::Addresses => f.write_str("meta l4proto"),
        }
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CtMark(mask) => write!(f, "ct mark & {mask:#010x} == {mask:#010x}"),
            Self::Established => f.write_str("ct state established"),
            Self::Related => f.write_str("ct state related"),
            Self::Untracked => f.write_str("ct state untracked"),
            Self::L4(Protocol::ICMPV6) => f.write_str("meta l4proto ipv6-icmp"),
            Self::L4(proto) => write!(f, "meta l4proto {proto}"),
            Self::IsSyn => f.write_str("tcp flags & (syn | ack) == syn"),
            Self::HasPorts => write!(f, "meta l4proto @{}", Set::PortProtocols),
            Self::IsEcho(Family::V4) => write!(f, "icmp type @{}", Set::Echo(Family::V4)),
            Self::IsEcho(Family::V6) => write!(f, "icmpv6 type @{}", Set::Echo(Family::V6)),
            Self::ToLoopback => f.write_str("oif \"lo\""),
            Self::FromLoopback => f.write_str("iif \"lo\""),
            Self::Family(family) => write!(f, "meta nfproto ipv{}", digit(*family)),
            Self::Address {
                family,
                side,
                mask,
                set,
            } => address(f, *family, *side, *mask, *set),
            Self::IsExtended => write!(f, "ip6 nexthdr @{}", Set::Extensions),
            Self::AddressPort {
                family,
                side,
                proto,
                port,
                set,
            } => {
                let (ip, side) = words(*family, *side);
                let port = match port {
                    Side::Source => "sport",
                    Side::Destination => "dport",
                };
                let header = match family {
                    Family::V4 => "ip protocol",
                    Family::V6 => "ip6 nexthdr",
                };
                write!(f, "{ip} {side} . ")?;
                match proto {
                    ProtoFrom::Meta => f.write_str("meta l4proto")?,
                    ProtoFrom::Header => f.write_str(header)?,
                    ProtoFrom::Tracked => f.write_str("ct original protocol")?,
                    ProtoFrom::Given(proto) => write!(f, "{header} & 0x0 | {:#x}", proto.0)?,
                }
                write!(f, " . th {port} @{set}")
            }
            Self::InRecent(set) => match set {
                Set::Recent { key, family, .. } => {
                    write!(
                        f,
                        "{} @{set}",
                        KeyText {
                            key: *key,
                            family: *family
                        }
                    )
                }
                _ => write!(f, "@{set}"),
            },
            Self::UpdateRecent(set) => match set {
                Set::Recent { key, family, .. } => {
                    write!(
                        f,
                        "update @{set} {{ {} }}",
                        KeyText {
                            key: *key,
                            family: *family
                        }
                    )
                }
                _ => write!(f, "update @{set}"),
            },
            Self::Mark { mask, value } => write!(f, "meta mark & {mask:#010x} == {value:#010x}"),
            Self::AnyMark(mask) => write!(f, "meta mark & {mask:#010x} != 0x00000000"),
            Self::ClearMark(mask) => write!(f, "meta mark set meta mark & {:#010x}", !mask),
            Self::Count(counter) => write!(f, "counter name \"{}\"", counter.as_str()),
            Self::Queue { first, count: 1 } => write!(f, "queue num {first} bypass"),
            Self::Queue { first, count } => {
                let last = u32::from(*first) + u32::from(*count) - 1;
                write!(f, "queue num {first}-{last} bypass,fanout")
            }
            Self::Accept => f.write_str("accept"),
            Self::Return => f.write_str("return"),
            Self::Drop => f.write_str("drop"),
            Self::RejectTcp => f.write_str("reject with tcp reset"),
            Self::RejectIcmp => f.write_str("reject with icmpx admin-prohibited"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

fn address(
    f: &mut fmt::Formatter<'_>,
    family: Family,
    side: Side,
    mask: Option<u8>,
    set: Set,
) -> fmt::Result {
    let (ip, side) = words(family, side);
    match (family, mask) {
        (_, None) => write!(f, "{ip} {side} @{set}"),
        (Family::V4, Some(len)) => {
            let mask = u32::MAX
                .checked_shl(32u32.saturating_sub(len.into()))
                .unwrap_or(0);
            write!(f, "{ip} {side} & {} @{set}", std::net::Ipv4Addr::from(mask))
        }
        (Family::V6, Some(len)) => {
            let mask = u128::MAX
                .checked_shl(128u32.saturating_sub(len.into()))
                .unwrap_or(0);
            write!(f, "{ip} {side} & {} @{set}", std::net::Ipv6Addr::from(mask))
        }
    }
}

fn words(family: Family, side: Side) -> (&'static str, &'static str) {
    let ip = match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    };
    match side {
        Side::Source => (ip, "saddr"),
        Side::Destination => (ip, "daddr"),
    }
}
