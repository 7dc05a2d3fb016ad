//! Gateways of this network namespace's routes, from rtnetlink(7): those of all routing tables, with every
//! next hop of a route that has several.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use nix::{errno::Errno, net::if_};

use super::{Exception, LifelineError};
use crate::{
    netlink::Attributes,
    prefix::Prefix,
    route::{Route, i32_at, u16_at, u32_at},
};

/// Routes that are looked at. A router's full table has more; its default routes are listed first.
const MOST: usize = 200_000;
/// A list that changed while it was read is asked for again so often.
const TRIES: usize = 3;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
// linux/rtnetlink.h
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_MULTIPATH: u16 = 9;
const RTA_VIA: u16 = 18;
const RTN_UNICAST: u8 = 1;
/// A route that was learned for one destination.
const RTM_F_CLONED: u32 = 0x200;
const RTNH_F_DEAD: u8 = 1;
/// Length of `struct rtmsg`.
const RTMSG: usize = 12;
/// Length of `struct rtnexthop`.
const RTNEXTHOP: usize = 8;

/// A way out.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hop {
    destination: Prefix,
    gateway: IpAddr,
    /// The number of the interface.
    interface: u32,
}

/// Gateways of both families.
pub(super) fn gateways() -> Result<Vec<Exception>, LifelineError> {
    let mut hops = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let found = ask(family).map_err(|cause| LifelineError::Routes { cause })?;
        hops.extend(found);
    }
    let mut names = HashMap::new();
    let exception = |hop: Hop| {
        let interface = names
            .entry(hop.interface)
            .or_insert_with(|| name(hop.interface));
        let why = if hop.destination.is_empty() {
            format!("default gateway on {interface}")
        } else {
            format!("gateway to {} on {interface}", hop.destination)
        };
        super::host(hop.gateway, why)
    };
    Ok(hops.into_iter().map(exception).collect())
}

fn ask(family: u8) -> Result<Vec<Hop>, Errno> {
    let mut body = [0; RTMSG];
    body[0] = family;
    let mut tries = 0;
    loop {
        let (mut hops, mut seen) = (Vec::new(), 0);
        let each = |message: &[u8]| {
            seen += 1;
            hops.extend(read(message));
            seen < MOST
        };
        match Route::open()?.list(RTM_GETROUTE, &body, each) {
            Err(Errno::EINTR) if tries < TRIES => tries += 1,
            // The host has no IPv6.
            Err(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT) => return Ok(Vec::new()),
            // Better some of them twice than none.
            Ok(()) | Err(Errno::EINTR) => return Ok(hops),
            Err(e) => return Err(e),
        }
    }
}

fn name(interface: u32) -> String {
    let name = if_::if_indextoname(interface).ok();
    let name = name.and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| format!("interface {interface}"))
}

/// The gateways of one route, `struct rtmsg` and its attributes.
fn read(message: &[u8]) -> Vec<Hop> {
    hops(message).unwrap_or_default()
}

fn hops(message: &[u8]) -> Option<Vec<Hop>> {
    let [family, length] = *message.first_chunk()?;
    let (kind, flags) = (*message.get(7)?, u32_at(message, 8)?);
    if kind != RTN_UNICAST || flags & RTM_F_CLONED != 0 {
        return None;
    }
    let attributes = Attributes(message.get(RTMSG..)?);
    let destination = match attributes.get(RTA_DST) {
        Some(bytes) => address(family, bytes)?,
        None if family == AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        None => Ipv6Addr::UNSPECIFIED.into(),
    };
    let destination = Prefix::new(destination, length).ok()?;
    let hop = |attributes: Attributes<'_>, interface| {
        Some(Hop {
            destination,
            gateway: gateway(family, attributes)?,
            interface,
        })
    };
    let out = attributes.get(RTA_OIF).and_then(|bytes| u32_at(bytes, 0));
    let mut found = Vec::new();
    found.extend(out.and_then(|interface| hop(attributes, interface)));
    let mut rest = attributes.get(RTA_MULTIPATH).unwrap_or_default();
    while let Some(length) = u16_at(rest, 0).map(usize::from).filter(|l| *l >= RTNEXTHOP) {
        let Some(next) = rest.get(..length) else {
            break;
        };
        rest = rest.get((length + 3) & !3..).unwrap_or_default();
        let is_dead = next.get(2).is_some_and(|flags| flags & RTNH_F_DEAD != 0);
        let interface = i32_at(next, 4).and_then(|index| u32::try_from(index).ok());
        let Some(interface) = interface.filter(|_| !is_dead) else {
            continue;
        };
        let attributes = Attributes(next.get(RTNEXTHOP..).unwrap_or_default());
        found.extend(hop(attributes, interface));
    }
    Some(found)
}

/// Where a hop goes: an address of the route's family, or of the other one.
fn gateway(family: u8, attributes: Attributes<'_>) -> Option<IpAddr> {
    let own = attributes.get(RTA_GATEWAY);
    let gateway = match own {
        Some(bytes) => address(family, bytes)?,
        None => {
            let via = attributes.get(RTA_VIA)?;
            let family = u8::try_from(u16_at(via, 0)?).ok()?;
            address(family, via.get(2..)?)?
        }
    };
    (!gateway.is_unspecified()).then_some(gateway)
}

fn address(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => Some(Ipv4Addr::from(*bytes.first_chunk()?).into()),
        AF_INET6 => Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::netlink::put;

    /// A route of the main table to `length` bits of a destination.
    fn route(family: u8, length: u8, kind: u8, flags: u32) -> Vec<u8> {
        let mut message = vec![family, length, 0, 0, 254, 3, 0, kind];
        message.extend(flags.to_ne_bytes());
        message
    }

    fn shown(message: &[u8]) -> Vec<String> {
        let hops = read(message).into_iter();
        hops.map(|hop| {
            format!(
                "{} via {} on {}",
                hop.destination, hop.gateway, hop.interface
            )
        })
        .collect()
    }

    fn next(flags: u8, interface: i32, gateway: &[u8]) -> Vec<u8> {
        let mut attributes = Vec::new();
        put(&mut attributes, RTA_GATEWAY, gateway);
        let length = u16::try_from(RTNEXTHOP + attributes.len()).unwrap();
        let mut hop = length.to_ne_bytes().to_vec();
        hop.extend([flags, 0]);
        hop.extend(interface.to_ne_bytes());
        hop.extend(attributes);
        hop
    }

    #[test]
    fn routes_with_one_gateway() {
        let mut default = route(AF_INET, 0, RTN_UNICAST, 0);
        put(&mut default, RTA_GATEWAY, &[192, 0, 2, 1]);
        put(&mut default, RTA_OIF, &2_u32.to_ne_bytes());
        assert_eq!(shown(&default), ["0.0.0.0/0 via 192.0.2.1 on 2"]);
        let mut lan = route(AF_INET, 16, RTN_UNICAST, 0);
        put(&mut lan, RTA_DST, &[10, 8, 0, 0]);
        put(&mut lan, RTA_OIF, &2_u32.to_ne_bytes());
        assert_eq!(shown(&lan), [""; 0], "on the link");
        let mut via = vec![AF_INET6, 0];
        via.extend("fe80::1".parse::<Ipv6Addr>().unwrap().octets());
        put(&mut lan, RTA_VIA, &via);
        assert_eq!(shown(&lan), ["10.8.0.0/16 via fe80::1 on 2"]);
        let mut six = route(AF_INET6, 32, RTN_UNICAST, 0);
        let to: Ipv6Addr = "2001:db8::".parse().unwrap();
        put(&mut six, RTA_DST, &to.octets());
        let gateway: Ipv6Addr = "fe80::2".parse().unwrap();
        put(&mut six, RTA_GATEWAY, &gateway.octets());
        put(&mut six, RTA_OIF, &3_u32.to_ne_bytes());
        assert_eq!(shown(&six), ["2001:db8::/32 via fe80::2 on 3"]);
    }

    #[test]
    fn every_next_hop_that_lives_counts_and_no_route_that_is_none() {
        let mut hops = next(0, 2, &[192, 0, 2, 1]);
        hops.extend(next(RTNH_F_DEAD, 3, &[192, 0, 2, 2]));
        hops.extend(next(0, 4, &[198, 51, 100, 1]));
        let mut many = route(AF_INET, 0, RTN_UNICAST, 0);
        put(&mut many, RTA_MULTIPATH, &hops);
        let expect = [
            "0.0.0.0/0 via 192.0.2.1 on 2",
            "0.0.0.0/0 via 198.51.100.1 on 4",
        ];
        assert_eq!(shown(&many), expect);
        // Blackholes, and what was learned for one destination.
        for (kind, flags) in [(6, 0), (RTN_UNICAST, RTM_F_CLONED)] {
            let mut message = route(AF_INET, 0, kind, flags);
            put(&mut message, RTA_GATEWAY, &[192, 0, 2, 1]);
            put(&mut message, RTA_OIF, &2_u32.to_ne_bytes());
            assert_eq!(shown(&message), [""; 0]);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>, length: u16) {
            let mut message = route(AF_INET, 0, RTN_UNICAST, 0);
            put(&mut message, RTA_MULTIPATH, &[length.to_ne_bytes().to_vec(), bytes.clone()].concat());
            let _ = (read(&bytes).len(), read(&message).len());
        }
    }
}
