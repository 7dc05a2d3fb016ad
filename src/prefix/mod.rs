//! IP prefixes and sets of addresses as sorted ranges: strict parsing, union, subtraction.
//!
//! Does not know feeds or the kernel.

mod range;
mod special;
mod transition;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

pub use range::{Address, Range, RangeSet};
pub use special::{MULTICAST, PRIVATE, SPECIAL, Special, routable4, routable6};
pub use transition::{Form, Forms, WELL_KNOWN};

/// IP version of an address, a prefix or a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4, 32 bits.
    V4,
    /// IPv6, 128 bits.
    V6,
}

/// A canonical CIDR prefix: host bits are zero, IPv4-mapped IPv6 (`::ffff:0:0/96`) is folded to IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(IpNet);

/// Why a text is not a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Neither a strict dotted quad (no leading zeros, no short forms) nor an IPv6 address.
    #[error("not an IP address")]
    Address,
    /// The part behind the slash is not a decimal length that fits the family.
    #[error("not a prefix length")]
    Length,
}

impl Prefix {
    /// The prefix of `len` bits that holds `addr`; host bits are masked off.
    pub fn new(addr: IpAddr, len: u8) -> Result<Self, PrefixError> {
        let net = IpNet::new(addr, len)
            .map_err(|_| PrefixError::Length)?
            .trunc();
        Ok(Self(fold_mapped(net)))
    }

    /// The single address `addr` (/32 or /128).
    pub fn host(addr: IpAddr) -> Self {
        Self(fold_mapped(IpNet::from(addr)))
    }

    /// Parses `address` or `address/length` and says whether host bits had to be masked off.
    pub fn parse(text: &str) -> Result<(Self, bool), PrefixError> {
        let (addr, len) = match text.split_once('/') {
            Some((addr, len)) => (addr, Some(len)),
            None => (text, None),
        };
        let addr: IpAddr = addr.parse().map_err(|_| PrefixError::Address)?;
        let Some(len) = len else {
            return Ok((Self::host(addr), false));
        };
        if len.is_empty() || len.len() > 3 || !len.bytes().all(|b| b.is_ascii_digit()) {
            return Err(PrefixError::Length);
        }
        let len = len.parse().map_err(|_| PrefixError::Length)?;
        let net = IpNet::new(addr, len).map_err(|_| PrefixError::Length)?;
        let trunc = net.trunc();
        Ok((Self(fold_mapped(trunc)), trunc != net))
    }

    /// First address of the prefix.
    pub fn addr(&self) -> IpAddr {
        self.0.addr()
    }

    /// Last address of the prefix.
    pub fn last(&self) -> IpAddr {
        self.0.broadcast()
    }

    /// Length in bits: 0..=32 or 0..=128.
    pub fn len(&self) -> u8 {
        self.0.prefix_len()
    }

    /// True for /0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True for a single address.
    pub fn is_host(&self) -> bool {
        self.0.prefix_len() == self.0.max_prefix_len()
    }

    /// IP version.
    pub fn family(&self) -> Family {
        match self.0 {
            IpNet::V4(_) => Family::V4,
            IpNet::V6(_) => Family::V6,
        }
    }

    /// True when `addr` is inside.
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.0.contains(&addr)
    }

    /// The `ipnet` value.
    pub fn net(&self) -> IpNet {
        self.0
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        Self::parse(text).map(|(prefix, _)| prefix)
    }
}

/// A single address prints without a length, as feeds write it.
impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_host() {
            self.0.addr().fmt(f)
        } else {
            self.0.fmt(f)
        }
    }
}

impl serde::Serialize for Prefix {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

fn fold_mapped(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    match (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96)) {
        (Some(v4), Some(len)) => Ipv4Net::new(v4, len).map_or(net, IpNet::V4),
        _ => net,
    }
}

/// The smallest list of prefixes that covers exactly `first..=last`.
pub fn subnets4(range: Range<u32>) -> impl Iterator<Item = Prefix> {
    ipnet::Ipv4Subnets::new(Ipv4Addr::from(range.first), Ipv4Addr::from(range.last), 0)
        .map(|net: Ipv4Net| Prefix(IpNet::V4(net)))
}

/// The smallest list of prefixes that covers exactly `first..=last`.
pub fn subnets6(range: Range<u128>) -> impl Iterator<Item = Prefix> {
    ipnet::Ipv6Subnets::new(Ipv6Addr::from(range.first), Ipv6Addr::from(range.last), 0)
        .map(|net: Ipv6Net| Prefix(IpNet::V6(net)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn strict_addresses_only() {
        for bad in [
            "012.1.1.1",
            "1.2.3",
            "0x7f000001",
            "1.2.3.4.5",
            "1.2.3.4/33",
            "1.2.3.4/",
            "::/129",
            "1.2.3.4/+8",
            "",
        ] {
            assert!(Prefix::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn host_bits_are_masked_and_reported() {
        assert_eq!(
            Prefix::parse("31.13.0.77/16").unwrap(),
            ("31.13.0.0/16".parse().unwrap(), true)
        );
        assert!(!Prefix::parse("31.13.0.0/16").unwrap().1);
    }

    #[test]
    fn mapped_v6_is_folded() {
        assert_eq!(
            "::ffff:1.2.3.4".parse::<Prefix>().unwrap().to_string(),
            "1.2.3.4"
        );
        assert_eq!(
            "::ffff:1.2.0.0/112".parse::<Prefix>().unwrap().to_string(),
            "1.2.0.0/16"
        );
    }

    proptest! {
        #[test]
        fn print_then_parse_is_identity(addr: IpAddr, len in 0u8..=32) {
            let prefix = Prefix::new(addr, len).unwrap();
            prop_assert_eq!(prefix.to_string().parse::<Prefix>().unwrap(), prefix);
        }

        #[test]
        fn parse_never_panics(text: String) {
            let _ = Prefix::parse(&text);
        }
    }
}
