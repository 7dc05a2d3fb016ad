//! Space that is not the Internet's (IANA's special-purpose address registries), and what is.

use std::sync::LazyLock;

use super::{Address, Prefix, RangeSet};

/// Private, loopback and link-local networks, and those that mean this host or network.
pub const PRIVATE: [&str; 10] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "::/8",
    "fc00::/7",
    "fe80::/10",
];

/// Multicast, and what is above it.
pub const MULTICAST: [&str; 2] = ["224.0.0.0/3", "ff00::/8"];

/// IPv4 space that nothing on the Internet answers from: what is not globally reachable in
/// <https://www.iana.org/assignments/iana-ipv4-special-registry> (as of 2025), less what it has inside
/// larger blocks of its own, and multicast (RFC 5771).
pub const NOT_ROUTABLE4: [&str; 16] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "255.255.255.255/32",
];

/// All global unicast IPv6 addresses that IANA gives out (RFC 4291, RFC 3587).
pub const GLOBAL6: &str = "2000::/3";

/// What is not globally reachable in it by <https://www.iana.org/assignments/iana-ipv6-special-registry>
/// (as of 2025); the few addresses of 2001::/23 that are do not count.
pub const NOT_ROUTABLE6: [&str; 4] = ["2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"];

/// The globally routable IPv4 addresses.
pub fn routable4() -> &'static RangeSet<u32> {
    static SET: LazyLock<RangeSet<u32>> = LazyLock::new(|| set(&["0.0.0.0/0"], &NOT_ROUTABLE4));
    &SET
}

/// The globally routable IPv6 addresses.
pub fn routable6() -> &'static RangeSet<u128> {
    static SET: LazyLock<RangeSet<u128>> = LazyLock::new(|| set(&[GLOBAL6], &NOT_ROUTABLE6));
    &SET
}

fn set<A: Address>(all: &[&str], less: &[&str]) -> RangeSet<A> {
    let parse =
        |nets: &[&str]| -> Vec<Prefix> { nets.iter().filter_map(|net| net.parse().ok()).collect() };
    RangeSet::of(&parse(all)).subtract(&RangeSet::of(&parse(less)))
}

/// Addresses that a host needs to have a network at all: without them there is neither DHCP nor
/// neighbour discovery, and a host in a cloud has no credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Special {
    /// The network.
    pub net: &'static str,
    /// What it is.
    pub what: &'static str,
    /// Who says so.
    pub source: &'static str,
}

/// All special addresses but the directed broadcasts, which follow from the host's own networks.
pub const SPECIAL: [Special; 9] = [
    special("0.0.0.0/32", "unspecified", "RFC 1122, 3.2.1.3 (a)"),
    special("127.0.0.0/8", "loopback", "RFC 1122, 3.2.1.3 (g)"),
    special("169.254.0.0/16", "link-local", "RFC 3927, 2.1"),
    special("224.0.0.0/4", "multicast", "RFC 5771, 3"),
    special("255.255.255.255/32", "limited broadcast", "RFC 919, 7"),
    special("::/128", "unspecified", "RFC 4291, 2.5.2"),
    special("::1/128", "loopback", "RFC 4291, 2.5.3"),
    special("fe80::/10", "link-local", "RFC 4291, 2.5.6"),
    special("ff00::/8", "multicast", "RFC 4291, 2.7"),
];

const fn special(net: &'static str, what: &'static str, source: &'static str) -> Special {
    Special { net, what, source }
}

impl Special {
    /// The network as a prefix; `None` for a text that is none, which no row of the table has.
    pub fn prefix(&self) -> Option<Prefix> {
        self.net.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_read_whole() {
        // 2^32 less 2^24 (0/8, 10/8, 127/8) and so on, by hand.
        let not = 3 * (1 << 24)
            + (1 << 22)
            + 2 * (1 << 16)
            + (1 << 20)
            + 5 * (1 << 8)
            + (1 << 17)
            + (1 << 29);
        assert_eq!(routable4().span(), (1u128 << 32) - not);
        let not6 = (1u128 << 105) + (1 << 96) + (1 << 112) + (1 << 108);
        assert_eq!(routable6().span(), (1u128 << 125) - not6);
    }

    #[test]
    fn private_and_multicast_space_is_not_routable() {
        for net in PRIVATE.iter().chain(&MULTICAST) {
            let net: Prefix = net.parse().unwrap();
            assert!(u32::bounds(&net).is_none_or(|range| !routable4().intersects(range)));
            assert!(u128::bounds(&net).is_none_or(|range| !routable6().intersects(range)));
        }
    }

    #[test]
    fn every_row_is_a_prefix_as_it_is_written() {
        for row in SPECIAL {
            let (prefix, masked) = Prefix::parse(row.net).unwrap();
            assert!(!masked && Some(prefix) == row.prefix(), "{row:?}");
            assert!(row.source.starts_with("RFC "), "{row:?}");
        }
    }

    #[test]
    fn hosts_of_private_networks_are_none_of_them() {
        let special = |addr: &str| {
            let addr = addr.parse().unwrap();
            SPECIAL
                .iter()
                .any(|row| row.prefix().unwrap().contains(addr))
        };
        for addr in [
            "0.0.0.0",
            "127.0.0.1",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "ff02::1:ff00:2",
        ] {
            assert!(special(addr), "{addr}");
        }
        for addr in [
            "0.0.0.1",
            "10.48.255.194",
            "100.64.0.1",
            "172.16.0.1",
            "192.168.1.255",
            "240.0.0.1",
            "255.255.255.254",
            "::2",
            "fc00::1",
            "fec0::1",
            "2001:db8::1",
        ] {
            assert!(!special(addr), "{addr}");
        }
    }
}
