//! From an interface of this host to what is at the other end of it: through VLANs, a bridge's
//! forwarding table and its port to a veth pair into another network namespace.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::{
    attribution::Peer,
    netlink::put,
    route::{Route, attribute, i32_at, u16_at, u32_at},
};

/// An interface that changed is seen after at most this time.
const FRESH: Duration = Duration::from_secs(1);
/// Interfaces remembered.
const CAPACITY: usize = 1024;
/// VLAN on a bridge on a VLAN, and one more.
const MAX_HOPS: usize = 4;

const AF_BRIDGE: u8 = 7;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
// linux/rtnetlink.h, linux/if_link.h, linux/neighbour.h
const RTM_GETLINK: u16 = 18;
const RTM_GETROUTE: u16 = 26;
const RTM_GETNEIGH: u16 = 30;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VLAN_ID: u16 = 1;
const RTEXT_FILTER_SKIP_STATS: u32 = 8;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_VLAN: u16 = 5;
const NDA_MASTER: u16 = 9;
/// Length of `struct ifinfomsg`.
const IFINFOMSG: usize = 16;
/// Length of `struct rtmsg`.
const RTMSG: usize = 12;
/// Length of `struct ndmsg`.
const NDMSG: usize = 12;

/// Follows the links of the network namespace it was made in.
#[derive(Default)]
pub struct Wires {
    route: Option<Route>,
    links: HashMap<u32, (Instant, Option<Link>)>,
}

/// What an interface is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Link {
    kind: Kind,
    /// Index of the lower device or of the other end.
    other: Option<u32>,
    /// The namespace where `other` is, when that is not this one.
    nsid: Option<i32>,
    vlan: Option<u16>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    Bridge,
    Vlan,
    /// veth, netkit.
    Pair,
    #[default]
    Other,
}

impl Wires {
    /// Knows nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The end in another network namespace of what is behind interface `device`. Behind a bridge
    /// that is the port where `mac` was last seen. `None`: a machine on a real wire, or not known.
    pub fn peer(&mut self, device: u32, mac: Option<[u8; 6]>) -> Option<Peer> {
        let (mut device, mut vlan) = (device, None);
        for _ in 0..MAX_HOPS {
            let link = self.link(device)?;
            device = match link.kind {
                Kind::Bridge => self
                    .port(device, mac?, vlan)
                    .filter(|port| *port != device)?,
                Kind::Vlan if link.nsid.is_none() => {
                    vlan = link.vlan;
                    link.other?
                }
                Kind::Pair => {
                    return Some(Peer {
                        nsid: link.nsid?,
                        device: link.other?,
                    });
                }
                Kind::Vlan | Kind::Other => return None,
            };
        }
        None
    }

    /// The interface that packets to `ip` leave by.
    pub fn device_to(&mut self, ip: IpAddr) -> Option<u32> {
        let (family, address) = octets(ip);
        let mut ask = vec![family, u8::try_from(address.len() * 8).ok()?];
        ask.resize(RTMSG, 0);
        put(&mut ask, RTA_DST, &address);
        let answer = self.ask(RTM_GETROUTE, &ask)?;
        u32_at(attribute(answer.get(RTMSG..)?, RTA_OIF)?, 0)
    }

    /// The link-layer address of a neighbour (ip-neighbour(8)), as far as it is resolved.
    pub fn mac_of(&mut self, device: u32, ip: IpAddr) -> Option<[u8; 6]> {
        let (family, address) = octets(ip);
        let mut ask = neighbour(family, device);
        put(&mut ask, NDA_DST, &address);
        let answer = self.ask(RTM_GETNEIGH, &ask)?;
        let mac = attribute(answer.get(NDMSG..)?, NDA_LLADDR)?;
        mac.try_into().ok()
    }

    /// The port of a bridge that leads to `mac`.
    fn port(&mut self, bridge: u32, mac: [u8; 6], vlan: Option<u16>) -> Option<u32> {
        // Without VLAN filtering the table has no VLANs, with it untagged traffic is in VLAN 1.
        let vlans = vlan.map_or_else(|| vec![0, 1], |vlan| vec![vlan, 0]);
        vlans.into_iter().find_map(|vlan: u16| {
            let mut ask = neighbour(AF_BRIDGE, 0);
            put(&mut ask, NDA_MASTER, &bridge.to_ne_bytes());
            put(&mut ask, NDA_LLADDR, &mac);
            if vlan != 0 {
                put(&mut ask, NDA_VLAN, &vlan.to_ne_bytes());
            }
            u32_at(self.ask(RTM_GETNEIGH, &ask)?, 4)
        })
    }

    fn link(&mut self, index: u32) -> Option<Link> {
        let now = Instant::now();
        if let Some((read, link)) = self.links.get(&index)
            && now.duration_since(*read) < FRESH
        {
            return link.clone();
        }
        let mut ask = vec![0; IFINFOMSG];
        ask.splice(4..8, index.to_ne_bytes());
        put(
            &mut ask,
            IFLA_EXT_MASK,
            &RTEXT_FILTER_SKIP_STATS.to_ne_bytes(),
        );
        let link = self.ask(RTM_GETLINK, &ask).and_then(parse_link);
        if self.links.len() >= CAPACITY {
            self.links.clear();
        }
        self.links.insert(index, (now, link.clone()));
        link
    }

    fn ask(&mut self, kind: u16, body: &[u8]) -> Option<&[u8]> {
        if self.route.is_none() {
            self.route = Route::open().ok();
        }
        self.route.as_mut()?.get(kind, body).ok()
    }
}

fn octets(ip: IpAddr) -> (u8, Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => (AF_INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (AF_INET6, ip.octets().to_vec()),
    }
}

/// `struct ndmsg`.
fn neighbour(family: u8, device: u32) -> Vec<u8> {
    let mut message = vec![family, 0, 0, 0];
    message.extend(device.to_ne_bytes());
    message.resize(NDMSG, 0);
    message
}

fn parse_link(answer: &[u8]) -> Option<Link> {
    let attributes = answer.get(IFINFOMSG..)?;
    let info = attribute(attributes, IFLA_LINKINFO).unwrap_or_default();
    let kind = attribute(info, IFLA_INFO_KIND).unwrap_or_default();
    let kind = kind.split(|&byte| byte == 0).next()?;
    let data = attribute(info, IFLA_INFO_DATA).unwrap_or_default();
    Some(Link {
        kind: match kind {
            b"bridge" => Kind::Bridge,
            b"vlan" => Kind::Vlan,
            b"veth" | b"netkit" => Kind::Pair,
            _ => Kind::Other,
        },
        other: attribute(attributes, IFLA_LINK).and_then(|value| u32_at(value, 0)),
        nsid: attribute(attributes, IFLA_LINK_NETNSID).and_then(|value| i32_at(value, 0)),
        vlan: attribute(data, IFLA_VLAN_ID).and_then(|value| u16_at(value, 0)),
    })
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::demo::Netns;

    #[test]
    fn a_bridge_leads_to_the_namespace_behind_its_port() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("skipped: network namespaces need root");
        }
        let make = |name| Netns::create(format!("fgwire-{}-{name}", std::process::id())).unwrap();
        let (host, one, other) = (make("host"), make("one"), make("other"));
        host.ip(&[
            "link add br0 type bridge",
            "link set br0 up",
            "addr add 192.0.2.1/24 dev br0",
        ])
        .unwrap();
        for (ns, port, ip, mac) in [
            (&one, "port1", "192.0.2.11", "00:00:5e:00:53:11"),
            (&other, "port2", "192.0.2.12", "00:00:5e:00:53:12"),
        ] {
            host.link(port, ns, "eth0").unwrap();
            host.ip(&[&format!("link set {port} master br0")]).unwrap();
            ns.ip(&[
                &format!("link set eth0 address {mac}"),
                &format!("addr add {ip}/24 dev eth0"),
            ])
            .unwrap();
            // The bridge learns the address from a packet.
            ns.command("ping")
                .args(["-c1", "-W1", "192.0.2.1"])
                .output()
                .unwrap();
        }
        let found = host.enter(|| {
            let index = |name| nix::net::if_::if_nametoindex(name).unwrap();
            let mut wires = Wires::new();
            let bridge = index("br0");
            let mac = |last| Some([0, 0, 0x5e, 0, 0x53, last]);
            assert_eq!(
                wires.mac_of(bridge, "192.0.2.12".parse().unwrap()),
                mac(0x12)
            );
            assert_eq!(wires.device_to("192.0.2.12".parse().unwrap()), Some(bridge));
            assert_eq!(wires.device_to("198.51.100.1".parse().unwrap()), None);
            assert_eq!(wires.peer(bridge, mac(0x99)), None);
            assert_eq!(wires.peer(bridge, None), None);
            assert_eq!(wires.peer(1, mac(0x11)), None);
            let direct = wires.peer(index("port1"), None);
            let behind = [wires.peer(bridge, mac(0x11)), wires.peer(bridge, mac(0x12))];
            assert_eq!(direct, behind[0]);
            behind
        });
        let [Some(first), Some(second)] = found.unwrap() else {
            panic!("both have a peer");
        };
        assert_ne!(first.nsid, second.nsid);
    }

    proptest! {
        #[test]
        fn any_answer_is_survived(bytes in vec(any::<u8>(), 0..200)) {
            let _ = parse_link(&bytes);
        }
    }
}
