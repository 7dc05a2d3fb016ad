//! Bytes of an IP packet into a [`Flow`].
//!
//! Only fixed header fields are read through `pnet_packet`; its option and payload getters trust
//! the lengths in the packet, so the slicing is done here.

use std::net::IpAddr;

use pnet_packet::{
    icmp::IcmpTypes,
    icmpv6::Icmpv6Types,
    ipv4::Ipv4Packet,
    ipv6::{ExtensionPacket, FragmentPacket, Ipv6Packet},
};
use thiserror::Error;

use super::{Flow, Protocol, Transport};

/// Extension headers followed before the rest counts as not readable.
const MAX_EXTENSIONS: usize = 16;

const IPV4_MIN: usize = 20;
const IPV6_HEADER: usize = 40;
const FRAGMENT_HEADER: usize = 8;

/// Where the flags of a TCP header are, and two of them (RFC 9293 section 3.1).
const TCP_FLAGS: usize = 13;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// Why bytes are no packet: not even both addresses are certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// There are no bytes.
    #[error("empty packet")]
    Empty,
    /// Neither IPv4 nor IPv6.
    #[error("IP version {0}: only 4 and 6 are known")]
    Version(u8),
    /// The fixed header is cut short.
    #[error("IPv{version} packet of {len} bytes: the header alone has {header}")]
    Short {
        /// IP version.
        version: u8,
        /// Bytes there are.
        len: usize,
        /// Bytes of the fixed header.
        header: usize,
    },
    /// An IPv4 header shorter than its fixed part.
    #[error("IPv4 header length of {0} words: at least 5 are needed")]
    HeaderLength(u8),
}

/// The flow a packet belongs to. `bytes` start at the IP header and may end anywhere.
///
/// A packet that is cut short, or whose lengths lie, gives what is certain: the addresses, the
/// last protocol number reached, and [`Transport::None`].
///
/// # Errors
/// [`DecodeError`] when the addresses themselves cannot be read.
pub fn decode(bytes: &[u8]) -> Result<Flow, DecodeError> {
    match bytes.first().map(|first| first >> 4) {
        None => Err(DecodeError::Empty),
        Some(4) => decode_v4(bytes),
        Some(6) => decode_v6(bytes),
        Some(version) => Err(DecodeError::Version(version)),
    }
}

/// True when the packet is known to open a TCP connection: a SYN without an ACK. Behind extension
/// headers of IPv6 it is not looked for.
pub fn opens(bytes: &[u8]) -> bool {
    let start = match bytes.first().map(|first| (first >> 4, first & 0xf)) {
        Some((4, words)) if is_first_tcp(bytes) => usize::from(words) * 4,
        Some((6, _)) if bytes.get(6) == Some(&Protocol::TCP.0) => IPV6_HEADER,
        _ => return false,
    };
    let flags = bytes.get(start + TCP_FLAGS);
    flags.is_some_and(|flags| flags & (SYN | ACK) == SYN)
}

/// TCP over IPv4, and not a later fragment.
fn is_first_tcp(bytes: &[u8]) -> bool {
    let offset = be16(bytes, 6).map(|word| word & 0x1fff);
    bytes.get(9) == Some(&Protocol::TCP.0) && offset == Some(0)
}

fn decode_v4(bytes: &[u8]) -> Result<Flow, DecodeError> {
    let header = Ipv4Packet::new(bytes).ok_or(DecodeError::Short {
        version: 4,
        len: bytes.len(),
        header: IPV4_MIN,
    })?;
    if header.get_header_length() < 5 {
        return Err(DecodeError::HeaderLength(header.get_header_length()));
    }
    let start = usize::from(header.get_header_length()) * 4;
    let total = usize::from(header.get_total_length());
    // A total length of 0 is a packet above 64 KiB (BIG TCP); one inside the header is a lie.
    let end = if total < start { bytes.len() } else { total };
    let proto = Protocol(header.get_next_level_protocol().0);
    let fragment = header.get_fragment_offset() != 0;
    let transport = if fragment {
        Transport::None
    } else {
        transport(proto, Protocol::ICMP, slice(bytes, start, end))
    };
    Ok(Flow {
        src: IpAddr::V4(header.get_source()),
        dst: IpAddr::V4(header.get_destination()),
        proto,
        transport,
        fragment,
    })
}

fn decode_v6(bytes: &[u8]) -> Result<Flow, DecodeError> {
    let header = Ipv6Packet::new(bytes).ok_or(DecodeError::Short {
        version: 6,
        len: bytes.len(),
        header: IPV6_HEADER,
    })?;
    // A payload length of 0 is a jumbogram or BIG TCP.
    let end = match usize::from(header.get_payload_length()) {
        0 => bytes.len(),
        length => IPV6_HEADER + length,
    };
    let upper = skip_extensions(header.get_next_header().0, slice(bytes, IPV6_HEADER, end));
    let transport = match upper.rest {
        Some(rest) => transport(upper.proto, Protocol::ICMPV6, rest),
        None => Transport::None,
    };
    Ok(Flow {
        src: IpAddr::V6(header.get_source()),
        dst: IpAddr::V6(header.get_destination()),
        proto: upper.proto,
        transport,
        fragment: upper.fragment,
    })
}

/// What lies behind the extension headers.
struct Upper<'a> {
    proto: Protocol,
    /// `None`: no transport header follows, or it was not reached.
    rest: Option<&'a [u8]>,
    fragment: bool,
}

/// Follows the chain of extension headers the kernel itself follows (net/ipv6/exthdrs_core.c).
fn skip_extensions(mut next: u8, mut rest: &[u8]) -> Upper<'_> {
    let unreached = |next, fragment| Upper {
        proto: Protocol(next),
        rest: None,
        fragment,
    };
    for _ in 0..MAX_EXTENSIONS {
        let length = match next {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => extension_length(rest, 8, 1),
            AUTHENTICATION => extension_length(rest, 4, 2),
            FRAGMENT => Some(FRAGMENT_HEADER),
            _ => {
                return Upper {
                    proto: Protocol(next),
                    rest: Some(rest),
                    fragment: false,
                };
            }
        };
        if next == FRAGMENT && is_later_fragment(rest) {
            let inner = ExtensionPacket::new(rest).map_or(next, |e| e.get_next_header().0);
            return unreached(inner, true);
        }
        let Some((header, behind)) = length.and_then(|length| rest.split_at_checked(length)) else {
            return unreached(next, false);
        };
        let Some(header) = ExtensionPacket::new(header) else {
            return unreached(next, false);
        };
        next = header.get_next_header().0;
        rest = behind;
    }
    unreached(next, false)
}

/// Length in bytes of the extension header at the start of `rest`: its length field counts
/// `unit` bytes and leaves out the first `implied` units (RFC 8200 section 4.3, RFC 4302 section 2.2).
fn extension_length(rest: &[u8], unit: usize, implied: usize) -> Option<usize> {
    let header = ExtensionPacket::new(rest)?;
    Some((usize::from(header.get_hdr_ext_len()) + implied) * unit)
}

/// True when `rest` starts with the fragment header of a fragment other than the first.
fn is_later_fragment(rest: &[u8]) -> bool {
    // FragmentPacket::get_fragment_offset keeps a reserved bit; the offset is the upper 13 bits.
    FragmentPacket::new(rest).is_some_and(|f| f.get_fragment_offset_with_flags() >> 3 != 0)
}

/// The transport fields at the start of `payload`. `icmp` is the ICMP of this IP version.
fn transport(proto: Protocol, icmp: Protocol, payload: &[u8]) -> Transport {
    if proto.has_ports() {
        // All of them start with both ports; eight bytes may be all an ICMP-sized copy leaves.
        match (be16(payload, 0), be16(payload, 2)) {
            (Some(src), Some(dst)) => Transport::Ports { src, dst },
            _ => Transport::None,
        }
    } else if proto == icmp {
        match (payload.first(), payload.get(1)) {
            (Some(&kind), Some(&code)) => Transport::Icmp {
                kind,
                code,
                id: is_echo(icmp, kind).then(|| be16(payload, 4)).flatten(),
            },
            _ => Transport::None,
        }
    } else {
        Transport::None
    }
}

fn is_echo(icmp: Protocol, kind: u8) -> bool {
    if icmp == Protocol::ICMP {
        kind == IcmpTypes::EchoRequest.0 || kind == IcmpTypes::EchoReply.0
    } else {
        kind == Icmpv6Types::EchoRequest.0 || kind == Icmpv6Types::EchoReply.0
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let pair: [u8; 2] = bytes.get(at..at + 2)?.try_into().ok()?;
    Some(u16::from_be_bytes(pair))
}

/// `bytes[start..end]`, as much of it as there is.
fn slice(bytes: &[u8], start: usize, end: usize) -> &[u8] {
    bytes.get(start..end.min(bytes.len())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    /// An IPv4 packet with `options` (a multiple of four bytes) and a fragment offset in units of eight bytes.
    fn v4(
        src: Ipv4Addr,
        dst: Ipv4Addr,
        proto: u8,
        options: &[u8],
        offset: u16,
        payload: &[u8],
    ) -> Vec<u8> {
        let header = 20 + options.len();
        let mut bytes = vec![0x40 | u8::try_from(header / 4).unwrap(), 0];
        bytes.extend(u16::try_from(header + payload.len()).unwrap().to_be_bytes());
        bytes.extend([0, 1]);
        bytes.extend((offset | 0x2000).to_be_bytes());
        bytes.extend([64, proto, 0, 0]);
        bytes.extend(src.octets());
        bytes.extend(dst.octets());
        bytes.extend(options);
        bytes.extend(payload);
        bytes
    }

    /// One extension header: its type and, for all but fragments, its length beyond the minimum.
    type Extension = (u8, u8);

    fn v6(
        src: Ipv6Addr,
        dst: Ipv6Addr,
        extensions: &[Extension],
        offset: u16,
        proto: u8,
        payload: &[u8],
    ) -> Vec<u8> {
        let mut chain = Vec::new();
        for (at, &(kind, extra)) in extensions.iter().enumerate() {
            let next = extensions.get(at + 1).map_or(proto, |e| e.0);
            let start = chain.len();
            chain.extend([next, extra]);
            let length = match kind {
                FRAGMENT => {
                    chain.extend(((offset << 3) | 1).to_be_bytes());
                    8
                }
                AUTHENTICATION => (usize::from(extra) + 2) * 4,
                _ => (usize::from(extra) + 1) * 8,
            };
            chain.resize(start + length, 0xaa);
        }
        chain.extend(payload);
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend(u16::try_from(chain.len()).unwrap().to_be_bytes());
        bytes.extend([extensions.first().map_or(proto, |e| e.0), 64]);
        bytes.extend(src.octets());
        bytes.extend(dst.octets());
        bytes.extend(chain);
        bytes
    }

    fn with_ports(src: u16, dst: u16) -> Vec<u8> {
        [src.to_be_bytes(), dst.to_be_bytes(), [0, 8], [0, 0]].concat()
    }

    fn port_protocol() -> impl Strategy<Value = u8> {
        prop::sample::select(vec![6_u8, 17, 33, 132, 136])
    }

    fn extension() -> impl Strategy<Value = Extension> {
        (
            prop::sample::select(vec![
                HOP_BY_HOP,
                ROUTING,
                FRAGMENT,
                AUTHENTICATION,
                DESTINATION_OPTIONS,
            ]),
            0_u8..4,
        )
    }

    fn whole(src: IpAddr, dst: IpAddr, proto: u8, (sport, dport): (u16, u16)) -> Flow {
        Flow {
            src,
            dst,
            proto: Protocol(proto),
            transport: Transport::Ports {
                src: sport,
                dst: dport,
            },
            fragment: false,
        }
    }

    #[test]
    fn only_a_syn_opens_a_connection() {
        let tcp = |flags: u8| {
            let mut header = [0; 20];
            header[13] = flags;
            header
        };
        let (a, b) = (Ipv4Addr::LOCALHOST, Ipv4Addr::new(192, 0, 2, 1));
        for (flags, wanted) in [(0x02, true), (0xc2, true), (0x12, false), (0x10, false)] {
            for options in [&[][..], &[1; 8]] {
                let packet = v4(a, b, 6, options, 0, &tcp(flags));
                assert_eq!(opens(&packet), wanted, "{flags:x}");
            }
            let packet = v6(
                Ipv6Addr::LOCALHOST,
                Ipv6Addr::LOCALHOST,
                &[],
                0,
                6,
                &tcp(flags),
            );
            assert_eq!(opens(&packet), wanted, "{flags:x}");
        }
        assert!(!opens(&v4(a, b, 17, &[], 0, &tcp(2))), "not TCP");
        assert!(!opens(&v4(a, b, 6, &[], 7, &tcp(2))), "a later fragment");
        assert!(!opens(&v4(a, b, 6, &[], 0, &[])), "cut short");
        assert!(!opens(&[]));
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn bytes_that_look_like_ip_never_panic(version in prop::sample::select(vec![0x40_u8, 0x60]), low in 0_u8..16, next in extension(), rest in vec(any::<u8>(), 0..200)) {
            let mut bytes = rest;
            if let Some(first) = bytes.first_mut() {
                *first = version | low;
            }
            for at in [6, 9] {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = next.0;
                }
            }
            let _ = decode(&bytes);
        }

        #[test]
        fn ipv4_ports_come_back(src: [u8; 4], dst: [u8; 4], proto in port_protocol(), words in 0_usize..=10, sport: u16, dport: u16) {
            let (src, dst) = (Ipv4Addr::from(src), Ipv4Addr::from(dst));
            let flow = decode(&v4(src, dst, proto, &vec![1; words * 4], 0, &with_ports(sport, dport))).unwrap();
            prop_assert_eq!(flow, whole(src.into(), dst.into(), proto, (sport, dport)));
        }

        #[test]
        fn ipv6_chains_come_back(src: u128, dst: u128, chain in vec(extension(), 0..16), proto in port_protocol(), sport: u16, dport: u16) {
            let (src, dst) = (Ipv6Addr::from(src), Ipv6Addr::from(dst));
            let flow = decode(&v6(src, dst, &chain, 0, proto, &with_ports(sport, dport))).unwrap();
            prop_assert_eq!(flow, whole(src.into(), dst.into(), proto, (sport, dport)));
        }

        #[test]
        fn a_cut_packet_never_says_something_else(chain in vec(extension(), 0..6), cut in option::of(0_usize..200)) {
            let whole = v6(Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED, &chain, 0, 17, &with_ports(5, 6));
            let bytes = &whole[..cut.unwrap_or(whole.len()).min(whole.len())];
            if let Ok(flow) = decode(bytes) {
                prop_assert_eq!(flow.src, IpAddr::V6(Ipv6Addr::LOCALHOST));
                let ports = Transport::Ports { src: 5, dst: 6 };
                prop_assert!(flow.transport == Transport::None || flow.transport == ports);
                prop_assert!(!flow.fragment);
            }
        }

        #[test]
        fn other_protocols_come_by_number(proto in 0_u8..=255, payload in vec(any::<u8>(), 0..40)) {
            prop_assume!(!Protocol(proto).has_ports() && proto != 1);
            let flow = decode(&v4(Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST, proto, &[], 0, &payload)).unwrap();
            prop_assert_eq!((flow.proto, flow.transport), (Protocol(proto), Transport::None));
        }
    }

    const A4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const B4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
    const A6: Ipv6Addr = Ipv6Addr::LOCALHOST;

    #[test]
    fn echo_has_an_id_and_errors_have_none() {
        let icmp = |proto, payload: &[u8]| {
            decode(&v4(A4, B4, proto, &[], 0, payload))
                .unwrap()
                .transport
        };
        assert_eq!(
            icmp(1, &[8, 0, 0, 0, 0x12, 0x34, 0, 1]),
            Transport::Icmp {
                kind: 8,
                code: 0,
                id: Some(0x1234)
            }
        );
        assert_eq!(
            icmp(1, &[3, 1, 0, 0, 0x12, 0x34, 0, 1]),
            Transport::Icmp {
                kind: 3,
                code: 1,
                id: None
            }
        );
        assert_eq!(
            icmp(1, &[8, 0]),
            Transport::Icmp {
                kind: 8,
                code: 0,
                id: None
            }
        );
        assert_eq!(icmp(1, &[8]), Transport::None);
        let v6 = decode(&v6(
            A6,
            A6,
            &[(HOP_BY_HOP, 0)],
            0,
            58,
            &[128, 0, 0, 0, 0, 7, 0, 1],
        ))
        .unwrap();
        assert_eq!(
            v6.transport,
            Transport::Icmp {
                kind: 128,
                code: 0,
                id: Some(7)
            }
        );
        // ICMP of the other version is just a number.
        assert_eq!(icmp(58, &[128, 0, 0, 0, 0, 7]), Transport::None);
    }

    #[test]
    fn later_fragments_have_no_ports() {
        let four = decode(&v4(A4, B4, 17, &[], 185, &with_ports(1, 2))).unwrap();
        assert!(four.fragment);
        assert_eq!(
            (four.proto, four.transport),
            (Protocol::UDP, Transport::None)
        );
        let first = decode(&v6(A6, A6, &[(FRAGMENT, 0)], 0, 17, &with_ports(1, 2))).unwrap();
        assert!(!first.fragment);
        assert_eq!(first.src_port(), Some(1));
        let later = decode(&v6(A6, A6, &[(FRAGMENT, 0)], 1, 17, &with_ports(1, 2))).unwrap();
        assert!(later.fragment);
        assert_eq!(
            (later.proto, later.transport),
            (Protocol::UDP, Transport::None)
        );
    }

    #[test]
    fn lying_lengths_give_what_is_certain() {
        // Options reach beyond the packet.
        let mut bytes = v4(A4, B4, 6, &[], 0, &with_ports(1, 2));
        bytes[0] = 0x4f;
        assert_eq!(decode(&bytes).unwrap().transport, Transport::None);
        // The total length ends inside the ports, in the header, or is zero.
        let mut bytes = v4(A4, B4, 6, &[], 0, &with_ports(1, 2));
        bytes[3] = 22;
        assert_eq!(decode(&bytes).unwrap().transport, Transport::None);
        bytes[3] = 0;
        assert_eq!(decode(&bytes).unwrap().dst_port(), Some(2));
        // Padding after the packet is no port.
        let mut bytes = v4(A4, B4, 6, &[], 0, &[]);
        bytes.extend([0, 1, 0, 2]);
        assert_eq!(decode(&bytes).unwrap().transport, Transport::None);
        // An extension header that reaches beyond the packet.
        let mut bytes = v6(A6, A6, &[(ROUTING, 0)], 0, 6, &with_ports(1, 2));
        bytes[41] = 255;
        let flow = decode(&bytes).unwrap();
        assert_eq!(
            (flow.proto, flow.transport),
            (Protocol(ROUTING), Transport::None)
        );
    }

    #[test]
    fn a_chain_without_end_is_not_followed() {
        let chain = [(DESTINATION_OPTIONS, 0); MAX_EXTENSIONS + 1];
        let flow = decode(&v6(A6, A6, &chain, 0, 6, &with_ports(1, 2))).unwrap();
        assert_eq!(
            (flow.proto, flow.transport),
            (Protocol(DESTINATION_OPTIONS), Transport::None)
        );
    }

    #[test]
    fn what_is_no_packet_is_an_error() {
        assert_eq!(decode(&[]), Err(DecodeError::Empty));
        assert_eq!(decode(&[0x50; 60]), Err(DecodeError::Version(5)));
        assert_eq!(decode(&[0x44; 60]), Err(DecodeError::HeaderLength(4)));
        assert_eq!(
            decode(&[0x45; 19]),
            Err(DecodeError::Short {
                version: 4,
                len: 19,
                header: 20
            })
        );
        assert_eq!(
            decode(&[0x60; 39]),
            Err(DecodeError::Short {
                version: 6,
                len: 39,
                header: 40
            })
        );
    }
}
