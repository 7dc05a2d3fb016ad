//! The first bytes of a packet into a flow: addresses, protocol, ports, ICMP type and id.
//!
//! Pure. Packets come from anyone: any bytes give a [`Flow`] or an error, never a panic.

use std::{fmt, net::IpAddr};

mod decode;

pub use decode::{DecodeError, decode, opens};

/// IP protocol number (IANA), with the names alerts use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP for IPv4.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);
    /// UDP-Lite.
    pub const UDPLITE: Self = Self(136);

    /// True when the transport header starts with a source and a destination port.
    pub fn has_ports(self) -> bool {
        matches!(
            self,
            Self::TCP | Self::UDP | Self::SCTP | Self::UDPLITE | Self(33)
        )
    }
}

/// Name for the common ones, the number for the rest.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ICMP => f.write_str("icmp"),
            Self::TCP => f.write_str("tcp"),
            Self::UDP => f.write_str("udp"),
            Self::ICMPV6 => f.write_str("icmpv6"),
            Self::SCTP => f.write_str("sctp"),
            Self::UDPLITE => f.write_str("udplite"),
            Self(number) => number.fmt(f),
        }
    }
}

/// What follows the IP header, as far as it identifies the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Transport {
    /// Protocols with ports: TCP, UDP, SCTP, UDP-Lite, DCCP.
    Ports {
        /// Source port.
        src: u16,
        /// Destination port.
        dst: u16,
    },
    /// ICMP and ICMPv6.
    Icmp {
        /// Message type.
        kind: u8,
        /// Message code.
        code: u8,
        /// Identifier of an echo request or reply.
        id: Option<u16>,
    },
    /// Any other protocol, a later fragment, or a header cut short.
    None,
}

/// Who talks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Source address; an IPv4-mapped IPv6 address stays as the packet has it.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Upper-layer protocol, behind any IPv6 extension headers.
    pub proto: Protocol,
    /// Ports or ICMP fields.
    pub transport: Transport,
    /// True for a fragment other than the first: there is no transport header.
    pub fragment: bool,
}

impl Flow {
    /// Source port, where there are ports.
    pub fn src_port(&self) -> Option<u16> {
        match self.transport {
            Transport::Ports { src, .. } => Some(src),
            _ => None,
        }
    }

    /// Destination port, where there are ports.
    pub fn dst_port(&self) -> Option<u16> {
        match self.transport {
            Transport::Ports { dst, .. } => Some(dst),
            _ => None,
        }
    }
}
