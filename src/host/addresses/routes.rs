//! Gateways of the main routing table, from /proc/net/route and /proc/net/ipv6_route
//! (kernel: net/ipv4/fib_trie.c, net/ipv6/route.c).
//!
//! The files show neither other tables nor the further next hops of a multipath route.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use super::{Exception, LifelineError, read};
use crate::prefix::Prefix;

/// `RTF_UP | RTF_GATEWAY` (linux/route.h).
const UP_AND_GATEWAY: u32 = 0x3;

/// A route through a gateway.
struct Route<'a> {
    destination: Prefix,
    gateway: IpAddr,
    interface: &'a str,
}

/// IPv4 gateways.
pub(super) fn gateways4(file: &Path) -> Result<Vec<Exception>, LifelineError> {
    gateways(file, route4)
}

/// IPv6 gateways.
pub(super) fn gateways6(file: &Path) -> Result<Vec<Exception>, LifelineError> {
    gateways(file, route6)
}

fn gateways(
    file: &Path,
    route: fn(&str) -> Option<Route<'_>>,
) -> Result<Vec<Exception>, LifelineError> {
    let text = read(file).map_err(|cause| LifelineError::Read {
        file: file.to_owned(),
        what: "gateways",
        cause,
    })?;
    Ok(text.lines().filter_map(route).map(exception).collect())
}

fn exception(route: Route<'_>) -> Exception {
    let Route {
        destination,
        gateway,
        interface,
    } = route;
    let why = if destination.is_empty() {
        format!("default gateway on {interface}")
    } else {
        format!("gateway to {destination} on {interface}")
    };
    super::host(gateway, why)
}

/// Columns: Iface Destination Gateway Flags RefCnt Use Metric Mask ... Addresses are eight hex
/// digits of the number in the host's byte order.
fn route4(line: &str) -> Option<Route<'_>> {
    let columns: Vec<&str> = line.split_ascii_whitespace().collect();
    let column = |index: usize| u32::from_str_radix(columns.get(index)?, 16).ok();
    let addr = |index| Some(Ipv4Addr::from(column(index)?.to_ne_bytes()));
    let length = addr(7)?.to_bits().leading_ones();
    let gateway = addr(2)?;
    let usable = column(3)? & UP_AND_GATEWAY == UP_AND_GATEWAY && !gateway.is_unspecified();
    usable.then_some(Route {
        destination: Prefix::new(addr(1)?.into(), length.try_into().ok()?).ok()?,
        gateway: gateway.into(),
        interface: columns.first()?,
    })
}

/// Columns: destination, its length, source, its length, next hop, metric, references, use, flags,
/// interface; all numbers are hexadecimal, addresses in network order.
fn route6(line: &str) -> Option<Route<'_>> {
    let columns: Vec<&str> = line.split_ascii_whitespace().collect();
    let addr = |index: usize| {
        let number = u128::from_str_radix(columns.get(index)?, 16).ok()?;
        Some(Ipv6Addr::from(number))
    };
    let length = u8::from_str_radix(columns.get(1)?, 16).ok()?;
    let flags = u32::from_str_radix(columns.get(8)?, 16).ok()?;
    let gateway = addr(4)?;
    let usable = flags & UP_AND_GATEWAY == UP_AND_GATEWAY && !gateway.is_unspecified();
    usable.then_some(Route {
        destination: Prefix::new(addr(0)?.into(), length).ok()?,
        gateway: gateway.into(),
        interface: columns.get(9)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(route: Option<Route<'_>>) -> Option<String> {
        let Exception { prefix, why } = exception(route?);
        Some(format!("{prefix}: {why}"))
    }

    fn hex(bytes: [u8; 4]) -> String {
        format!("{:08X}", u32::from_ne_bytes(bytes))
    }

    #[test]
    fn lines_of_the_ipv4_table() {
        let line = |to, via, flags, mask| {
            let [to, via, mask] = [to, via, mask].map(hex);
            format!("eth0\t{to}\t{via}\t{flags}\t0\t0\t100\t{mask}\t0\t0\t0   ")
        };
        for (line, expect) in [
            (
                line([0; 4], [192, 0, 2, 1], "0003", [0; 4]),
                Some("192.0.2.1: default gateway on eth0"),
            ),
            (
                line([10, 8, 0, 0], [192, 0, 2, 9], "0003", [255, 255, 0, 0]),
                Some("192.0.2.9: gateway to 10.8.0.0/16 on eth0"),
            ),
            (
                line([10, 8, 0, 1], [192, 0, 2, 9], "0007", [255; 4]),
                Some("192.0.2.9: gateway to 10.8.0.1 on eth0"),
            ),
            // On the link, down, and a route without a next hop.
            (
                line([192, 0, 2, 0], [0; 4], "0001", [255, 255, 255, 0]),
                None,
            ),
            (line([0; 4], [192, 0, 2, 1], "0002", [0; 4]), None),
            (line([0; 4], [0; 4], "0003", [0; 4]), None),
            ("Iface\tDestination\tGateway \tFlags".to_owned(), None),
        ] {
            assert_eq!(shown(route4(&line)).as_deref(), expect, "{line}");
        }
    }

    #[test]
    fn lines_of_the_ipv6_table() {
        let zero = "0".repeat(32);
        let line = |to: &str, length, via: &str, flags| {
            format!(
                "{to:0<32} {length} {zero} 00 {via:0>32} 00000400 00000002 00000000 {flags} eth0"
            )
        };
        for (line, expect) in [
            (
                line("", "00", "1", "00000003"),
                Some("::1: default gateway on eth0"),
            ),
            (
                line(
                    "20010db8",
                    "20",
                    "fe800000000000000000000000000001",
                    "00450003",
                ),
                Some("fe80::1: gateway to 2001:db8::/32 on eth0"),
            ),
            (line("fd", "40", "0", "00000001"), None),
            (line("", "00", "0", "00200200"), None),
            (line("", "zz", "1", "00000003"), None),
        ] {
            assert_eq!(shown(route6(&line)).as_deref(), expect, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_survived(line: String) {
            let _ = (route4(&line).is_some(), route6(&line).is_some());
        }
    }
}
