//! One connection as ctnetlink writes it.

use std::net::IpAddr;

use crate::{
    flowlog::{Count, Traffic},
    netlink::{self, Attributes, be32},
    packet::{Flow, Protocol, Transport},
};

// linux/netfilter/nfnetlink_conntrack.h
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOINFO: u16 = 4;
const MARK: u16 = 8;
const COUNTERS_ORIG: u16 = 9;
const COUNTERS_REPLY: u16 = 10;
const ZONE: u16 = 18;
const COUNTER_PACKETS: u16 = 1;
const COUNTER_BYTES: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;
const PROTO_ICMP: [u16; 3] = [4, 5, 6];
const PROTO_ICMP6: [u16; 3] = [7, 8, 9];
const PROTOINFO_TCP: u16 = 1;
const TCP_STATE: u16 = 1;
/// `IPS_SEEN_REPLY` (linux/netfilter/nf_conntrack_common.h): what `ct state established` asks for.
const SEEN_REPLY: u32 = 1 << 1;
/// `TCP_CONNTRACK_TIME_WAIT` and `TCP_CONNTRACK_CLOSE` (nf_conntrack_tcp.h): nobody talks any more.
const TCP_OVER: [u8; 2] = [7, 8];
// sys/socket.h
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Bytes of `struct nfgenmsg`.
const NFGEN: usize = 4;

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Upper-layer protocol.
    pub proto: Protocol,
    /// Ports or ICMP fields.
    pub transport: Transport,
}

/// One connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// As its first packet was before any translation.
    pub origin: Tuple,
    /// As answers come in: addresses after translation.
    pub reply: Tuple,
    /// The mark.
    pub mark: u32,
    /// Packets went both ways, and TCP has not ended: its packets pass as `ct state established`.
    pub live: bool,
    /// TCP has ended.
    pub over: bool,
    /// What it has moved; `None` where the kernel does not count (`nf_conntrack_acct`).
    pub traffic: Option<Traffic>,
    family: u8,
    zone: Option<u16>,
    raw: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Reads a message behind its netlink header; `None` for what is no connection.
    pub(super) fn read(payload: &'a [u8]) -> Option<Self> {
        Self::from_attributes(payload.get(NFGEN..)?)
    }

    /// Reads the attributes of a connection, as a queue gives them with a packet too (NFQA_CT).
    pub fn from_attributes(bytes: &'a [u8]) -> Option<Self> {
        let attributes = Attributes(bytes);
        let raw = attributes.get(TUPLE_ORIG)?;
        let status = attributes.get(STATUS).and_then(be32).unwrap_or(0);
        let tcp_state = attributes
            .nested(PROTOINFO)
            .and_then(|info| info.nested(PROTOINFO_TCP))
            .and_then(|tcp| tcp.get(TCP_STATE))
            .and_then(|state| state.first());
        let over = tcp_state.is_some_and(|state| TCP_OVER.contains(state));
        let origin = tuple(Attributes(raw))?;
        Some(Self {
            origin,
            reply: tuple(attributes.nested(TUPLE_REPLY)?)?,
            mark: attributes.get(MARK).and_then(be32).unwrap_or(0),
            live: status & SEEN_REPLY != 0 && !over,
            over,
            traffic: traffic(attributes),
            family: if origin.src.is_ipv4() {
                AF_INET
            } else {
                AF_INET6
            },
            zone: attributes.get(ZONE).and_then(be16),
            raw,
        })
    }

    /// The flow as the filter hooks see its first packet: source before, destination after translation.
    pub fn filtered(&self) -> Flow {
        self.flow(&self.reply)
    }

    /// The flow as its sender meant it, before any translation.
    pub fn sent(&self) -> Flow {
        Flow {
            dst: self.origin.dst,
            transport: self.origin.transport,
            ..self.filtered()
        }
    }

    /// Where its sender meant it to go, when NAT has changed that: address and port.
    pub fn meant(&self) -> Option<(IpAddr, Option<u16>)> {
        let end = |flow: Flow| (flow.dst, flow.dst_port());
        let meant = end(self.sent());
        (meant != end(self.filtered())).then_some(meant)
    }

    /// What finds the connection again.
    pub fn handle(&self) -> Handle {
        Handle {
            family: self.family,
            zone: self.zone,
            tuple: self.raw.to_owned(),
        }
    }

    fn flow(&self, far: &Tuple) -> Flow {
        let transport = match (self.origin.transport, far.transport) {
            (Transport::Ports { src, .. }, Transport::Ports { src: dst, .. }) => {
                Transport::Ports { src, dst }
            }
            (origin, _) => origin,
        };
        Flow {
            src: self.origin.src,
            dst: far.src,
            proto: self.origin.proto,
            transport,
            fragment: false,
        }
    }
}

#[cfg(test)]
impl Entry<'static> {
    /// A live TCP connection, for tests of others.
    pub(crate) fn example(src: &str, dst: &str) -> Self {
        let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
        let tuple = |src, dst, ports: (u16, u16)| Tuple {
            src,
            dst,
            proto: Protocol::TCP,
            transport: Transport::Ports {
                src: ports.0,
                dst: ports.1,
            },
        };
        Self {
            origin: tuple(src, dst, (40_000, 443)),
            reply: tuple(dst, src, (443, 40_000)),
            mark: 0,
            live: true,
            over: false,
            traffic: None,
            family: AF_INET,
            zone: None,
            raw: &[],
        }
    }
}

/// What finds a connection in the kernel again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handle {
    family: u8,
    zone: Option<u16>,
    /// The original tuple, as the kernel wrote it.
    tuple: Vec<u8>,
}

impl Handle {
    pub(super) fn head(&self) -> [u8; NFGEN] {
        [self.family, 0, 0, 0]
    }

    pub(super) fn attributes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.tuple.len() + 32);
        netlink::put_nested(&mut out, TUPLE_ORIG, &self.tuple);
        if let Some(zone) = self.zone {
            netlink::put(&mut out, ZONE, &zone.to_be_bytes());
        }
        out
    }
}

fn traffic(attributes: Attributes<'_>) -> Option<Traffic> {
    let count = |way| {
        let counters: Attributes<'_> = attributes.nested(way)?;
        let number = |kind| {
            counters
                .get(kind)?
                .first_chunk()
                .map(|b| u64::from_be_bytes(*b))
        };
        Some(Count {
            packets: number(COUNTER_PACKETS)?,
            bytes: number(COUNTER_BYTES)?,
        })
    };
    Some(Traffic {
        orig: count(COUNTERS_ORIG)?,
        reply: count(COUNTERS_REPLY)?,
    })
}

fn tuple(attributes: Attributes<'_>) -> Option<Tuple> {
    let ip = attributes.nested(TUPLE_IP)?;
    let proto = attributes.nested(TUPLE_PROTO)?;
    let number = *proto.get(PROTO_NUM)?.first()?;
    let port = |kind| proto.get(kind).and_then(be16);
    let transport = match (port(PROTO_SRC_PORT), port(PROTO_DST_PORT)) {
        (Some(src), Some(dst)) if Protocol(number).has_ports() => Transport::Ports { src, dst },
        _ => icmp(proto),
    };
    Some(Tuple {
        src: address(ip, 1, 3)?,
        dst: address(ip, 2, 4)?,
        proto: Protocol(number),
        transport,
    })
}

fn icmp(proto: Attributes<'_>) -> Transport {
    for [id, kind, code] in [PROTO_ICMP, PROTO_ICMP6] {
        let byte = |number| proto.get(number).and_then(|value| value.first()).copied();
        if let (Some(kind), Some(code)) = (byte(kind), byte(code)) {
            let id = proto.get(id).and_then(be16);
            return Transport::Icmp { kind, code, id };
        }
    }
    Transport::None
}

fn address(ip: Attributes<'_>, v4: u16, v6: u16) -> Option<IpAddr> {
    let four = ip.get(v4).and_then(|bytes| bytes.first_chunk::<4>());
    let six = || ip.get(v6).and_then(|bytes| bytes.first_chunk::<16>());
    four.map(|bytes| IpAddr::from(*bytes))
        .or_else(|| six().map(|bytes| IpAddr::from(*bytes)))
}

fn be16(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|b| u16::from_be_bytes(*b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use netlink::{put, put_nested};

    fn encode(tuple: [(&str, u16); 2]) -> Vec<u8> {
        let (mut ip, mut proto, mut out) = (Vec::new(), Vec::new(), Vec::new());
        for (kind, (addr, _)) in (1..).zip(tuple) {
            match addr.parse().unwrap() {
                IpAddr::V4(addr) => put(&mut ip, kind, &addr.octets()),
                IpAddr::V6(addr) => put(&mut ip, kind + 2, &addr.octets()),
            }
        }
        put(&mut proto, PROTO_NUM, &[6]);
        put(&mut proto, PROTO_SRC_PORT, &tuple[0].1.to_be_bytes());
        put(&mut proto, PROTO_DST_PORT, &tuple[1].1.to_be_bytes());
        put_nested(&mut out, TUPLE_IP, &ip);
        put_nested(&mut out, TUPLE_PROTO, &proto);
        out
    }

    fn payload(status: u32, tcp_state: u8) -> Vec<u8> {
        let (mut out, mut tcp, mut info) = (vec![2, 0, 0, 0], Vec::new(), Vec::new());
        let origin = encode([("192.0.2.2", 40000), ("10.96.0.10", 443)]);
        let reply = encode([("203.0.113.1", 8443), ("198.51.100.7", 40001)]);
        put_nested(&mut out, TUPLE_ORIG, &origin);
        put_nested(&mut out, TUPLE_REPLY, &reply);
        put(&mut out, STATUS, &status.to_be_bytes());
        put(&mut tcp, TCP_STATE, &[tcp_state]);
        put_nested(&mut info, PROTOINFO_TCP, &tcp);
        put_nested(&mut out, PROTOINFO, &info);
        put(&mut out, MARK, &0x0800_0001u32.to_be_bytes());
        out
    }

    #[test]
    fn a_translated_flow_is_read_as_hooks_and_sender_see_it() {
        let payload = payload(SEEN_REPLY, 3);
        let entry = Entry::read(&payload).unwrap();
        let seen = entry.filtered();
        assert_eq!(seen.src.to_string(), "192.0.2.2");
        assert_eq!(seen.dst.to_string(), "203.0.113.1");
        assert_eq!(
            (seen.src_port(), seen.dst_port()),
            (Some(40000), Some(8443))
        );
        let sent = entry.sent();
        assert_eq!(sent.dst.to_string(), "10.96.0.10");
        assert_eq!((sent.src_port(), sent.dst_port()), (Some(40000), Some(443)));
        assert_eq!(
            entry.meant(),
            Some(("10.96.0.10".parse().unwrap(), Some(443)))
        );
        assert_eq!(Entry::example("192.0.2.2", "203.0.113.1").meant(), None);
        assert_eq!((entry.mark, entry.live), (0x0800_0001, true));
        assert_eq!(entry.handle().tuple, entry.raw);
    }

    #[test]
    fn what_was_counted_is_read() {
        let mut payload = payload(SEEN_REPLY, 3);
        assert_eq!(Entry::read(&payload).unwrap().traffic, None);
        for (way, packets, bytes) in [(COUNTERS_ORIG, 3u64, 200u64), (COUNTERS_REPLY, 2, 1 << 40)] {
            let mut counters = Vec::new();
            put(&mut counters, COUNTER_PACKETS, &packets.to_be_bytes());
            put(&mut counters, COUNTER_BYTES, &bytes.to_be_bytes());
            put_nested(&mut payload, way, &counters);
        }
        let count = |packets, bytes| Count { packets, bytes };
        assert_eq!(
            Entry::read(&payload).unwrap().traffic,
            Some(Traffic {
                orig: count(3, 200),
                reply: count(2, 1 << 40)
            })
        );
    }

    #[test]
    fn one_way_and_ended_flows_are_not_live() {
        assert!(!Entry::read(&payload(0, 3)).unwrap().live);
        assert!(!Entry::read(&payload(SEEN_REPLY, 7)).unwrap().live);
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes: Vec<u8>, cut in 0usize..200) {
            let _ = Entry::read(&bytes);
            let mut payload = payload(SEEN_REPLY, 3);
            payload.truncate(cut);
            let _ = Entry::read(&payload);
        }
    }
}
