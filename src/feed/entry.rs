//! What one line of a feed names: a prefix or a range, perhaps at one port only.

use std::{fmt, net::IpAddr, str::FromStr};

use super::token::{self, Class};
use crate::{
    packet::Protocol,
    prefix::{Prefix, Range, subnets4, subnets6},
};

/// One line of a feed that names addresses, or a piece of one: a range is several prefixes.
///
/// Kept as small as it can be, since feeds have a million of them. The few that carry more (a
/// score, a tag, the range they were written as) have it in [`Parsed::notes`](super::Parsed::notes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The prefix in canonical form.
    pub prefix: Prefix,
}

/// An entry that names one port of its addresses: the rest of them is not meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The addresses.
    pub prefix: Prefix,
    /// The port at these addresses.
    pub port: PortMatch,
    /// Its note in the table, 0 for none.
    pub(super) note: u32,
}

/// Most addresses of an entry with a port: the kernel gets them one by one, so a wider one is left out.
const MAX_BOUND: usize = 256;

/// Number of addresses that an entry with a port lists at `prefix`; `None` when it is too wide for that.
pub fn bound_size(prefix: &Prefix) -> Option<usize> {
    let bits = prefix.net().max_prefix_len() - prefix.len();
    1usize
        .checked_shl(bits.into())
        .filter(|size| *size <= MAX_BOUND)
}

/// A port, and the protocol if the feed names one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortMatch {
    /// The protocol; `None` for any that has ports.
    pub proto: Option<Protocol>,
    /// The port, never 0.
    pub port: u16,
}

impl PortMatch {
    /// That port of any protocol; `None` for port 0.
    pub fn any(port: u16) -> Option<Self> {
        (port != 0).then_some(Self { proto: None, port })
    }

    /// True when `port` of `proto` is meant.
    pub fn matches(self, proto: Protocol, port: u16) -> bool {
        self.port == port && self.proto.map_or(proto.has_ports(), |mine| mine == proto)
    }
}

/// `443`, or `443/tcp` where the feed names the protocol.
impl fmt::Display for PortMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.port)?;
        match self.proto {
            Some(proto) => write!(f, "/{proto}"),
            None => Ok(()),
        }
    }
}

impl FromStr for PortMatch {
    type Err = IndicatorError;

    /// Reads what [`fmt::Display`] prints.
    fn from_str(text: &str) -> Result<Self, IndicatorError> {
        let (port, proto) = match text.split_once('/') {
            Some((port, proto)) => (port, Some(protocol(proto).ok_or(IndicatorError)?)),
            None => (text, None),
        };
        let good = (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse().ok().filter(|port| good && *port != 0);
        port.map(|port| Self { proto, port }).ok_or(IndicatorError)
    }
}

/// The protocols that have ports, by the names that [`Protocol`] prints.
fn protocol(name: &str) -> Option<Protocol> {
    [
        Protocol::TCP,
        Protocol::UDP,
        Protocol::SCTP,
        Protocol::UDPLITE,
        Protocol(33),
    ]
    .into_iter()
    .find(|proto| proto.to_string() == name)
}

/// First and last address of one family, `first <= last`; IPv4-mapped IPv6 is folded to IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    first: IpAddr,
    last: IpAddr,
}

impl Span {
    /// `None` when the families differ or the last address is before the first.
    pub fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        let span = Self {
            first: first.to_canonical(),
            last: last.to_canonical(),
        };
        (span.first.is_ipv4() == span.last.is_ipv4() && span.first <= span.last).then_some(span)
    }

    /// First address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// Last address, inside.
    pub fn last(&self) -> IpAddr {
        self.last
    }

    /// The span as a prefix, if it is one.
    pub fn prefix(&self) -> Option<Prefix> {
        if self.first == self.last {
            return Some(Prefix::host(self.first));
        }
        let mut prefixes = self.prefixes();
        let first = prefixes.next()?;
        prefixes.next().is_none().then_some(first)
    }

    /// The fewest prefixes that cover it exactly: at most 62 (IPv4) or 254 (IPv6).
    pub fn prefixes(&self) -> Box<dyn Iterator<Item = Prefix>> {
        match (self.first, self.last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => Box::new(subnets4(Range {
                first: first.into(),
                last: last.into(),
            })),
            (IpAddr::V6(first), IpAddr::V6(last)) => Box::new(subnets6(Range {
                first: first.into(),
                last: last.into(),
            })),
            _ => Box::new(std::iter::empty()),
        }
    }
}

impl From<Prefix> for Span {
    fn from(prefix: Prefix) -> Self {
        Self {
            first: prefix.addr(),
            last: prefix.last(),
        }
    }
}

/// A prefix where it is one (a single address without a length), else `first-last`.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix() {
            Some(prefix) => prefix.fmt(f),
            None => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// What an alert names: the addresses as the feed wrote them, and the port.
///
/// As text: `192.0.2.1`, `192.0.2.0/24`, `192.0.2.1-192.0.2.9`, `192.0.2.1:443`,
/// `[2001:db8::1]:443`, `192.0.2.0/24:443/tcp`. A range that is exactly one prefix is written as it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Indicator {
    /// The addresses.
    pub span: Span,
    /// The port, `None` for all.
    pub port: Option<PortMatch>,
}

/// The text is no indicator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address, prefix or range, with or without a port")]
pub struct IndicatorError;

impl From<Prefix> for Indicator {
    fn from(prefix: Prefix) -> Self {
        Self {
            span: prefix.into(),
            port: None,
        }
    }
}

impl fmt::Display for Indicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            None => self.span.fmt(f),
            Some(port) if self.span.first.is_ipv4() => write!(f, "{}:{port}", self.span),
            Some(port) => write!(f, "[{}]:{port}", self.span),
        }
    }
}

impl FromStr for Indicator {
    type Err = IndicatorError;

    /// Reads what [`fmt::Display`] prints; host bits are masked off.
    fn from_str(text: &str) -> Result<Self, IndicatorError> {
        match token::classify(text.as_bytes()) {
            Class::Prefix(prefix, _) => Ok(prefix.into()),
            Class::Span(span, port) => Ok(Self { span, port }),
            Class::NotAddress(_) | Class::Bad(_) => Err(IndicatorError),
        }
    }
}

impl serde::Serialize for Indicator {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_entry_is_small() {
        assert!(size_of::<Entry>() <= 20, "{}", size_of::<Entry>());
        assert!(size_of::<Bound>() <= 28, "{}", size_of::<Bound>());
    }

    #[test]
    fn forms() {
        for (text, shown) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1/32", "192.0.2.1"),
            ("192.0.2.0-192.0.2.255", "192.0.2.0/24"),
            ("192.0.2.1-192.0.2.9", "192.0.2.1-192.0.2.9"),
            ("192.0.2.1:443", "192.0.2.1:443"),
            ("192.0.2.0/24:443/tcp", "192.0.2.0/24:443/tcp"),
            ("[2001:db8::1]:53/udp", "[2001:db8::1]:53/udp"),
            ("[2001:db8::/32]:53", "[2001:db8::/32]:53"),
            ("2001:db8::1-2001:db8::2", "2001:db8::1-2001:db8::2"),
            ("[2001:db8::1-2001:db8::2]:9", "[2001:db8::1-2001:db8::2]:9"),
            ("192.0.2.1-192.0.2.9:80", "192.0.2.1-192.0.2.9:80"),
            ("[::ffff:192.0.2.1]:53", "192.0.2.1:53"),
            ("::ffff:192.0.2.1-::ffff:192.0.2.2", "192.0.2.1-192.0.2.2"),
        ] {
            assert_eq!(text.parse::<Indicator>().unwrap().to_string(), shown);
        }
        for bad in [
            "192.0.2.1:0",
            "192.0.2.1:65536",
            "192.0.2.1:+80",
            "192.0.2.1:80/icmp",
            "192.0.2.9-192.0.2.1",
            "192.0.2.1-2001:db8::1",
            "[2001:db8::1]:",
            "[2001:db8::1]x",
            "192.0.2.1-",
        ] {
            assert!(bad.parse::<Indicator>().is_err(), "{bad}");
        }
        assert!("[192.0.2.1]:80".parse::<Indicator>().is_ok());
    }

    #[test]
    fn a_port_matches_its_protocol() {
        let any = PortMatch::any(53).unwrap();
        assert!(any.matches(Protocol::TCP, 53) && any.matches(Protocol::UDP, 53));
        assert!(!any.matches(Protocol::TCP, 54) && !any.matches(Protocol::ICMP, 53));
        let udp: PortMatch = "53/udp".parse().unwrap();
        assert!(udp.matches(Protocol::UDP, 53) && !udp.matches(Protocol::TCP, 53));
    }

    proptest! {
        #[test]
        fn print_then_parse_is_identity(a: IpAddr, b: IpAddr, len in 1u8..=32, port: Option<u16>, tcp: bool) {
            let span = Span::new(a.min(b), a.max(b))
                .unwrap_or_else(|| Prefix::new(a, len).unwrap().into());
            let proto = tcp.then_some(Protocol::TCP);
            let port = port.filter(|port| *port != 0).map(|port| PortMatch { proto, port });
            let indicator = Indicator { span, port };
            prop_assert_eq!(indicator.to_string().parse(), Ok(indicator));
        }

        #[test]
        fn the_prefixes_of_a_span_are_the_span(a: std::net::Ipv4Addr, b: std::net::Ipv4Addr) {
            let span = Span::new(a.min(b).into(), a.max(b).into()).unwrap();
            let prefixes: Vec<Prefix> = span.prefixes().collect();
            prop_assert!(prefixes.len() <= 62);
            let set = crate::prefix::RangeSet::<u32>::of(&prefixes);
            prop_assert_eq!(set.ranges(), [Range { first: u32::from(a.min(b)), last: a.max(b).into() }]);
        }
    }
}
