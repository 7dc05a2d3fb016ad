//! Gateways of this network namespace's routes, from rtnetlink(7): those of all routing tables, with every
//! next hop of a route that has several, and of next-hop objects.
//!
//! Each gateway counts once, however many routes lead over it: routes that come and go elsewhere change
//! nothing here.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use nix::{errno::Errno, net::if_};

use super::{LifelineError, Lifelines};
use crate::{
    netlink::Attributes,
    route::{Route, i32_at, u16_at, u32_at},
};

/// Gateways of other than default routes that are kept; those of default routes always are.
const MOST: usize = 4_096;
/// Answers that are read of one list: several times the Internet's full table.
const MOST_ROUTES: usize = 4_000_000;
/// A list that changed while it was read is asked for again so often.
const TRIES: usize = 3;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
// linux/rtnetlink.h
const RTM_GETROUTE: u16 = 26;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_MULTIPATH: u16 = 9;
const RTA_VIA: u16 = 18;
const RTA_NH_ID: u16 = 30;
const RTN_UNICAST: u8 = 1;
/// A route that was learned for one destination.
const RTM_F_CLONED: u32 = 0x200;
const RTNH_F_DEAD: u8 = 1;
/// Length of `struct rtmsg`.
const RTMSG: usize = 12;
/// Length of `struct rtnexthop`.
const RTNEXTHOP: usize = 8;
// linux/nexthop.h
const RTM_GETNEXTHOP: u16 = 106;
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
/// Length of `struct nhmsg`.
const NHMSG: usize = 8;
/// Length of `struct nexthop_grp`.
const NEXTHOP_GRP: usize = 8;

/// A way out: a gateway, and the number of the interface that it is on.
type Hop = (IpAddr, u32);

/// What one route says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    is_default: bool,
    hops: Vec<Hop>,
    /// The next-hop object it goes over, where its hops are told there alone
    /// (net.ipv4.nexthop_compat_mode=0).
    object: Option<u32>,
}

/// A next-hop object: a hop, or a group of others.
#[derive(Debug, PartialEq, Eq)]
struct Object {
    id: u32,
    hop: Option<Hop>,
    group: Vec<u32>,
}

/// Gateways of both families, each once.
#[derive(Debug, Default)]
struct Gateways {
    default: BTreeSet<Hop>,
    /// Those of other routes, the first [`MOST`] of their order.
    other: BTreeSet<Hop>,
    /// Next-hop objects that routes name: the number, and whether a default route does.
    objects: HashSet<(u32, bool)>,
    /// Not all of them are here.
    is_cut: bool,
}

impl Gateways {
    fn add(&mut self, is_default: bool, hop: Hop) {
        if is_default {
            self.default.insert(hop);
            return;
        }
        self.other.insert(hop);
        if self.other.len() > MOST {
            // Whatever the order of the list, the same ones are kept.
            self.other.pop_last();
            self.is_cut = true;
        }
    }

    fn route(&mut self, found: Found) {
        for hop in found.hops {
            self.add(found.is_default, hop);
        }
        let object = found.object.map(|id| (id, found.is_default));
        self.objects.extend(object);
    }

    /// Puts the objects' hops in place of their numbers.
    fn resolve(&mut self, objects: &HashMap<u32, Object>) {
        for (id, is_default) in std::mem::take(&mut self.objects) {
            let Some(object) = objects.get(&id) else {
                continue;
            };
            // Groups hold no groups.
            let members = object.group.iter().filter_map(|id| objects.get(id));
            for hop in members.chain([object]).filter_map(|object| object.hop) {
                self.add(is_default, hop);
            }
        }
    }
}

/// Gateways of both families.
pub(super) fn gateways() -> Lifelines {
    let mut found = Gateways::default();
    let cause = look(&mut found).err();
    let mut lifelines = Lifelines::default();
    let failed = cause.map(|cause| LifelineError::Routes { cause });
    let cut = found
        .is_cut
        .then_some(LifelineError::ManyGateways { most: MOST });
    lifelines.problems.extend(failed.into_iter().chain(cut));
    let mut names = HashMap::new();
    let other = found.other.difference(&found.default);
    let other = other.map(|hop| ("gateway", hop));
    let hops = found.default.iter().map(|hop| ("default gateway", hop));
    for (what, (gateway, interface)) in hops.chain(other) {
        let interface = names.entry(*interface).or_insert_with(|| name(*interface));
        let why = format!("{what} on {interface}");
        lifelines.exceptions.push(super::host(*gateway, why));
    }
    lifelines
}

/// Adds what is there; what was found before an error stays.
fn look(found: &mut Gateways) -> Result<(), Errno> {
    let mut result = Ok(());
    for family in [AF_INET, AF_INET6] {
        let mut body = [0; RTMSG];
        body[0] = family;
        let mut seen = 0;
        let done = ask(RTM_GETROUTE, &body, |message| {
            seen += 1;
            found.route(read(message).unwrap_or_default());
            seen < MOST_ROUTES
        });
        found.is_cut |= seen >= MOST_ROUTES;
        result = result.and(done);
    }
    if !found.objects.is_empty() {
        let mut objects = HashMap::new();
        let done = ask(RTM_GETNEXTHOP, &[0; NHMSG], |message| {
            objects.extend(object(message).map(|object| (object.id, object)));
            objects.len() < MOST_ROUTES
        });
        found.resolve(&objects);
        result = result.and(done);
    }
    result
}

/// Gives `each` all answers, some of them twice where the list changes meanwhile.
fn ask(kind: u16, body: &[u8], mut each: impl FnMut(&[u8]) -> bool) -> Result<(), Errno> {
    let mut tries = 0;
    loop {
        match Route::open()?.list(kind, body, &mut each) {
            Err(Errno::EINTR) if tries < TRIES => tries += 1,
            // The host has no IPv6. A list that changes all the time was seen several times.
            Err(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::EINTR) => return Ok(()),
            done => return done,
        }
    }
}

fn name(interface: u32) -> String {
    let name = if_::if_indextoname(interface).ok();
    let name = name.and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| format!("interface {interface}"))
}

/// The gateways of one route, `struct rtmsg` and its attributes.
fn read(message: &[u8]) -> Option<Found> {
    let [family, length] = *message.first_chunk()?;
    let (kind, flags) = (*message.get(7)?, u32_at(message, 8)?);
    if kind != RTN_UNICAST || flags & RTM_F_CLONED != 0 {
        return None;
    }
    let attributes = Attributes(message.get(RTMSG..)?);
    let hop = |attributes: Attributes<'_>, interface| {
        gateway(family, attributes).map(|gateway| (gateway, interface))
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
    let object = attributes.get(RTA_NH_ID).and_then(|bytes| u32_at(bytes, 0));
    Some(Found {
        is_default: length == 0,
        object: object.filter(|_| found.is_empty()),
        hops: found,
    })
}

/// A next-hop object, `struct nhmsg` and its attributes.
fn object(message: &[u8]) -> Option<Object> {
    let family = *message.first()?;
    let attributes = Attributes(message.get(NHMSG..)?);
    let number = |kind| attributes.get(kind).and_then(|bytes| u32_at(bytes, 0));
    let gateway = attributes.get(NHA_GATEWAY);
    let gateway = gateway.and_then(|bytes| address(family, bytes));
    let gateway = gateway.filter(|gateway| !gateway.is_unspecified());
    let group = attributes.get(NHA_GROUP).unwrap_or_default();
    let group = group.chunks_exact(NEXTHOP_GRP);
    Some(Object {
        id: number(NHA_ID)?,
        hop: gateway.zip(number(NHA_OIF)),
        group: group.filter_map(|member| u32_at(member, 0)).collect(),
    })
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
        let Some(found) = read(message) else {
            return Vec::new();
        };
        let what = if found.is_default { "default " } else { "" };
        let hops = found.hops.iter();
        hops.map(|(gateway, interface)| format!("{what}{gateway} on {interface}"))
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
        assert_eq!(shown(&default), ["default 192.0.2.1 on 2"]);
        let mut lan = route(AF_INET, 16, RTN_UNICAST, 0);
        put(&mut lan, RTA_OIF, &2_u32.to_ne_bytes());
        assert_eq!(shown(&lan), [""; 0], "on the link");
        let mut via = vec![AF_INET6, 0];
        via.extend("fe80::1".parse::<Ipv6Addr>().unwrap().octets());
        put(&mut lan, RTA_VIA, &via);
        assert_eq!(shown(&lan), ["fe80::1 on 2"]);
        let mut six = route(AF_INET6, 32, RTN_UNICAST, 0);
        let gateway: Ipv6Addr = "fe80::2".parse().unwrap();
        put(&mut six, RTA_GATEWAY, &gateway.octets());
        put(&mut six, RTA_OIF, &3_u32.to_ne_bytes());
        assert_eq!(shown(&six), ["fe80::2 on 3"]);
    }

    #[test]
    fn every_next_hop_that_lives_counts_and_no_route_that_is_none() {
        let mut hops = next(0, 2, &[192, 0, 2, 1]);
        hops.extend(next(RTNH_F_DEAD, 3, &[192, 0, 2, 2]));
        hops.extend(next(0, 4, &[198, 51, 100, 1]));
        let mut many = route(AF_INET, 0, RTN_UNICAST, 0);
        put(&mut many, RTA_MULTIPATH, &hops);
        let expect = ["default 192.0.2.1 on 2", "default 198.51.100.1 on 4"];
        assert_eq!(shown(&many), expect);
        // Blackholes, and what was learned for one destination.
        for (kind, flags) in [(6, 0), (RTN_UNICAST, RTM_F_CLONED)] {
            let mut message = route(AF_INET, 0, kind, flags);
            put(&mut message, RTA_GATEWAY, &[192, 0, 2, 1]);
            put(&mut message, RTA_OIF, &2_u32.to_ne_bytes());
            assert_eq!(shown(&message), [""; 0]);
        }
    }

    #[test]
    fn next_hops_of_objects_and_groups() {
        let member = |id: u32| [id.to_ne_bytes(), [0; 4]].concat();
        let mut one = vec![AF_INET, 0, 0, 0, 0, 0, 0, 0];
        put(&mut one, NHA_ID, &7_u32.to_ne_bytes());
        put(&mut one, NHA_OIF, &2_u32.to_ne_bytes());
        put(&mut one, NHA_GATEWAY, &[192, 0, 2, 1]);
        let mut two = vec![AF_INET6, 0, 0, 0, 0, 0, 0, 0];
        put(&mut two, NHA_ID, &8_u32.to_ne_bytes());
        put(&mut two, NHA_OIF, &3_u32.to_ne_bytes());
        let gateway: Ipv6Addr = "fe80::2".parse().unwrap();
        put(&mut two, NHA_GATEWAY, &gateway.octets());
        let mut group = vec![0; NHMSG];
        put(&mut group, NHA_ID, &9_u32.to_ne_bytes());
        put(
            &mut group,
            NHA_GROUP,
            &[member(7), member(8), member(99)].concat(),
        );
        let objects = [one, two, group].map(|message| object(&message).unwrap());
        let objects = objects.into_iter().map(|object| (object.id, object));
        let objects: HashMap<u32, Object> = objects.collect();
        let over = |length, id: u32| {
            let mut message = route(AF_INET, length, RTN_UNICAST, 0);
            put(&mut message, RTA_NH_ID, &id.to_ne_bytes());
            read(&message).unwrap()
        };
        let mut found = Gateways::default();
        found.route(over(0, 9));
        found.route(over(16, 7));
        found.route(over(16, 100));
        found.resolve(&objects);
        let first: IpAddr = [192, 0, 2, 1].into();
        assert_eq!(
            found.default,
            BTreeSet::from([(first, 2), (gateway.into(), 3)])
        );
        assert_eq!(found.other, BTreeSet::from([(first, 2)]));
    }

    #[test]
    fn many_routes_over_one_gateway_are_one_and_default_routes_are_kept_however_late() {
        let hop = |number: u32| (IpAddr::from(Ipv4Addr::from(number)), 1);
        let found = |order: &mut dyn Iterator<Item = u32>| {
            let mut found = Gateways::default();
            for number in order {
                let gateway = hop(0x0a00_0000 + number % 5_000);
                found.route(Found {
                    hops: vec![gateway],
                    ..Found::default()
                });
            }
            found.route(Found {
                is_default: true,
                hops: vec![hop(0x0b00_0000)],
                object: None,
            });
            found
        };
        let (up, down) = (found(&mut (0..20_000)), found(&mut (0..20_000).rev()));
        assert_eq!((up.other.len(), up.is_cut), (MOST, true));
        assert_eq!(up.other, down.other);
        assert_eq!(up.default, BTreeSet::from([hop(0x0b00_0000)]));
        let few = found(&mut (0..20_000).map(|number| number % 3));
        assert_eq!((few.other.len(), few.is_cut), (3, false));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>, length: u16) {
            let mut message = route(AF_INET, 0, RTN_UNICAST, 0);
            put(&mut message, RTA_MULTIPATH, &[length.to_ne_bytes().to_vec(), bytes.clone()].concat());
            let _ = (read(&bytes), read(&message), object(&bytes));
        }
    }
}
