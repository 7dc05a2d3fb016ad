//! Community ID, version 1, seed 0: the flow hash that Zeek, Suricata and others share
//! (<https://github.com/corelight/community-id-spec>).

use std::net::IpAddr;

use base64::{Engine, engine::general_purpose::STANDARD};
use sha1::{Digest, Sha1};

use crate::packet::{Flow, Protocol, Transport};

/// The Community ID of `flow`, equal for both directions; `None` where the packet lacks the ports
/// or the ICMP type it is made from.
pub fn community_id(flow: &Flow) -> Option<String> {
    let (ports, one_way) = endpoints(flow)?;
    let swap = match (flow.src, flow.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => (src.octets().as_slice(), ports.map(|p| p.0))
            .gt(&(dst.octets().as_slice(), ports.map(|p| p.1))),
        (IpAddr::V6(src), IpAddr::V6(dst)) => (src.octets().as_slice(), ports.map(|p| p.0))
            .gt(&(dst.octets().as_slice(), ports.map(|p| p.1))),
        _ => return None,
    };
    let swap = swap && !one_way;
    let (first, second) = if swap {
        (flow.dst, flow.src)
    } else {
        (flow.src, flow.dst)
    };
    let mut hash = Sha1::new().chain_update([0, 0]); // seed
    for addr in [first, second] {
        match addr {
            IpAddr::V4(addr) => hash.update(addr.octets()),
            IpAddr::V6(addr) => hash.update(addr.octets()),
        }
    }
    hash.update([flow.proto.0, 0]);
    if let Some((src, dst)) = ports {
        let (first, second) = if swap { (dst, src) } else { (src, dst) };
        hash.update(first.to_be_bytes());
        hash.update(second.to_be_bytes());
    }
    Some(format!("1:{}", STANDARD.encode(hash.finalize())))
}

/// The port pair that is hashed, if the protocol has one, and whether the flow has one direction.
#[allow(clippy::type_complexity)]
fn endpoints(flow: &Flow) -> Option<(Option<(u16, u16)>, bool)> {
    match (flow.proto, flow.transport) {
        (Protocol::TCP | Protocol::UDP | Protocol::SCTP, Transport::Ports { src, dst }) => {
            Some((Some((src, dst)), false))
        }
        (Protocol::ICMP | Protocol::ICMPV6, Transport::Icmp { kind, code, .. }) => {
            let answer = match flow.proto {
                Protocol::ICMP => icmp_counterpart(kind),
                _ => icmpv6_counterpart(kind),
            };
            Some((
                Some((kind.into(), answer.unwrap_or(code).into())),
                answer.is_none(),
            ))
        }
        (Protocol::TCP | Protocol::UDP | Protocol::SCTP | Protocol::ICMP | Protocol::ICMPV6, _) => {
            None
        }
        _ => Some((None, false)),
    }
}

/// Request and reply types (RFC 792, 950, 1256).
fn icmp_counterpart(kind: u8) -> Option<u8> {
    Some(match kind {
        0 => 8,
        8 => 0,
        9 => 10,
        10 => 9,
        13 => 14,
        14 => 13,
        15 => 16,
        16 => 15,
        17 => 18,
        18 => 17,
        _ => return None,
    })
}

/// Request and reply types (RFC 4443, 2710, 4861, 4620, 6275).
fn icmpv6_counterpart(kind: u8) -> Option<u8> {
    Some(match kind {
        128 | 130 | 133 | 135 | 139 | 144 => kind + 1,
        129 | 131 | 134 | 136 | 140 | 145 => kind - 1,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(proto: u8, src: &str, dst: &str, a: u16, b: u16) -> String {
        let proto = Protocol(proto);
        let transport = match proto {
            Protocol::ICMP | Protocol::ICMPV6 => Transport::Icmp {
                kind: a.try_into().unwrap(),
                code: b.try_into().unwrap(),
                id: None,
            },
            proto if proto.has_ports() => Transport::Ports { src: a, dst: b },
            _ => Transport::None,
        };
        community_id(&Flow {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            proto,
            transport,
            fragment: false,
        })
        .unwrap()
    }

    /// The values of the specification's own baseline table.
    #[test]
    fn published_values() {
        for (proto, src, dst, a, b, want) in [
            (
                6,
                "128.232.110.120",
                "66.35.250.204",
                34855,
                80,
                "LQU9qZlK+B5F3KDmev6m5PMibrg=",
            ),
            (
                6,
                "66.35.250.204",
                "128.232.110.120",
                80,
                34855,
                "LQU9qZlK+B5F3KDmev6m5PMibrg=",
            ),
            (
                17,
                "192.168.1.52",
                "8.8.8.8",
                54585,
                53,
                "d/FP5EW3wiY1vCndhwleRRKHowQ=",
            ),
            (
                132,
                "192.168.170.56",
                "192.168.170.8",
                7,
                7,
                "MP2EtRCAUIZvTw6MxJHLV7N7JDs=",
            ),
            (
                46,
                "10.1.12.1",
                "10.1.12.2",
                0,
                0,
                "KHlLkgoJW7ifUTyTSgyVfkFHzKw=",
            ),
            (
                46,
                "10.1.12.2",
                "10.1.12.1",
                0,
                0,
                "KHlLkgoJW7ifUTyTSgyVfkFHzKw=",
            ),
            (
                1,
                "192.168.0.89",
                "192.168.0.1",
                8,
                0,
                "X0snYXpgwiv9TZtqg64sgzUn6Dk=",
            ),
            (
                1,
                "192.168.0.1",
                "192.168.0.89",
                0,
                0,
                "X0snYXpgwiv9TZtqg64sgzUn6Dk=",
            ),
            (
                1,
                "10.0.0.1",
                "10.0.0.2",
                11,
                0,
                "YHxtAirCG//0OzkcVAukqKQN9xM=",
            ),
            (
                6,
                "2001:470:e5bf:dead:4957:2174:e82c:4887",
                "2607:f8b0:400c:c03::1a",
                63943,
                25,
                "/qFaeAR+gFe1KYjMzVDsMv+wgU4=",
            ),
            (
                58,
                "fe80::200:86ff:fe05:80da",
                "fe80::260:97ff:fe07:69ea",
                135,
                0,
                "dGHyGvjMfljg6Bppwm3bg0LO8TY=",
            ),
            (
                58,
                "3ffe:501:0:1001::2",
                "3ffe:507:0:1:200:86ff:fe05:80da",
                129,
                0,
                "+TW+HtLHvV1xnGhV1lv7XoJrqQg=",
            ),
            (
                58,
                "3ffe:501:410:0:2c0:dfff:fe47:33e",
                "3ffe:507:0:1:200:86ff:fe05:80da",
                1,
                4,
                "hLZd0XGWojozrvxqE0dWB1iM6R0=",
            ),
        ] {
            assert_eq!(
                id(proto, src, dst, a, b),
                format!("1:{want}"),
                "{proto} {src} {dst}"
            );
        }
    }

    #[test]
    fn a_later_fragment_has_none() {
        let mut flow = crate::alert::example::alert().flow;
        flow.transport = Transport::None;
        assert_eq!(community_id(&flow), None);
    }
}
