//! The messages of sock_diag for internet sockets (linux/inet_diag.h), as bytes. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::packet::Protocol;

const NETLINK_HEADER: usize = 16;
/// Bytes of the longest request: netlink header and `struct inet_diag_req`.
const LONGEST: usize = 76;
/// `struct inet_diag_msg`, which the attributes follow.
const ANSWER: usize = 72;
/// The request of `struct inet_diag_req`: TCP sockets of all families in one walk.
const TCPDIAG_GETSOCK: u16 = 18;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `INET_DIAG_NOCOOKIE`, in both halves: any socket.
const NO_COOKIE: [u8; 8] = [0xff; 8];
const INET_DIAG_CGROUP_ID: u16 = 21;
/// Netlink attribute flags above the type.
const NLA_TYPE_MASK: u16 = 0x3fff;

/// Protocol number of raw sockets that write whole IP packets, and of all raw sockets in a request.
pub(super) const IPPROTO_RAW: Protocol = Protocol(255);

/// A socket that waits for connections (net/tcp_states.h).
pub(super) const TCP_LISTEN: u8 = 10;
/// A socket whose connection is being made.
pub(super) const TCP_SYN_SENT: u8 = 2;

/// The local and the remote end of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

impl Ends {
    /// The other side's view.
    pub(super) fn swapped(self) -> Self {
        Self {
            local: self.remote,
            remote: self.local,
        }
    }

    /// The same local end, talking to nobody: what a listener has.
    pub(super) fn listening(self) -> Self {
        let any = match self.local.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        Self {
            local: self.local,
            remote: SocketAddr::new(any, 0),
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Query {
    /// The one socket the kernel looks up by these ends.
    One {
        /// Local and remote end.
        ends: Ends,
        /// Index of the interface that the packet uses: sockets bound to another one are not
        /// found, and with 0 none that is bound, as all with link-local addresses are.
        device: u32,
    },
    /// Every socket of this family with this local port.
    Port {
        /// IPv6, where sockets for both families live too.
        v6: bool,
        /// Local port.
        port: u16,
    },
    /// Every TCP socket whose connection is being made, of both families.
    Opening,
    /// Every raw socket of this family that was made for this protocol number. The kernel's lookup of
    /// one would name the first of several.
    Raw {
        /// IPv6.
        v6: bool,
    },
    /// The end of the one socket that has these ends and this cookie (SOCK_DESTROY).
    Destroy {
        /// Local and remote end.
        ends: Ends,
        /// Tells it from all other sockets since boot: without it the kernel's lookup may fall back to
        /// the listening socket.
        cookie: [u8; 8],
    },
}

/// One socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// IPv4-mapped addresses are given as IPv4. The local port of a raw socket is its protocol number.
    pub(super) ends: Ends,
    /// net/tcp_states.h
    pub(super) state: u8,
    pub(super) uid: u32,
    /// 0: no process owns it (time-wait, or a connection not accepted yet).
    pub(super) inode: u32,
    /// Cgroup of its creation; since Linux 5.9.
    pub(super) cgroup: Option<u64>,
    /// Tells it from all other sockets since boot.
    pub(super) cookie: [u8; 8],
}

/// One netlink message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Socket(Answer),
    /// End of a list.
    Done,
    /// A positive errno; 0 is an acknowledgement.
    Error(i32),
    /// Something else, or not readable.
    Other,
}

/// The bytes of a request.
pub(super) fn encode(query: Query, proto: Protocol, sequence: u32) -> Vec<u8> {
    let (v6, flags, interface) = match query {
        Query::One { ends, device } => (ends.local.is_ipv6(), NLM_F_REQUEST, device),
        Query::Port { v6, .. } | Query::Raw { v6 } => (v6, NLM_F_REQUEST | NLM_F_DUMP, 0),
        Query::Opening => (false, NLM_F_REQUEST | NLM_F_DUMP, 0),
        Query::Destroy { ends, .. } => (ends.local.is_ipv6(), NLM_F_REQUEST | NLM_F_ACK, 0),
    };
    let (kind, cookie) = match query {
        Query::Destroy { cookie, .. } => (SOCK_DESTROY, cookie),
        Query::Opening => (TCPDIAG_GETSOCK, NO_COOKIE),
        Query::One { .. } | Query::Port { .. } | Query::Raw { .. } => {
            (SOCK_DIAG_BY_FAMILY, NO_COOKIE)
        }
    };
    let family = if v6 { AF_INET6 } else { AF_INET };
    let mut out = Vec::with_capacity(LONGEST);
    match query {
        // The family is not looked at, the protocol is that of the message's kind.
        Query::Opening => out.extend([family, 0, 0, 0]),
        // `struct inet_diag_req_raw` has the number where the others have padding.
        Query::Raw { .. } => out.extend([family, IPPROTO_RAW.0, 0, proto.0]),
        _ => out.extend([family, proto.0, 0, 0]),
    }
    if query != Query::Opening {
        out.extend(u32::MAX.to_ne_bytes()); // states: all
    }
    match query {
        Query::One { ends, .. } | Query::Destroy { ends, .. } => {
            out.extend(ends.local.port().to_be_bytes());
            out.extend(ends.remote.port().to_be_bytes());
            out.extend(address(ends.local.ip()));
            out.extend(address(ends.remote.ip()));
        }
        Query::Port { port, .. } => put_local_port(&mut out, port),
        Query::Opening => put_local_port(&mut out, 0),
        // A list is filtered by the port only, which is where the kernel keeps the number.
        Query::Raw { .. } => put_local_port(&mut out, proto.0.into()),
    }
    out.extend(u32::to_ne_bytes(interface));
    out.extend(cookie);
    if query == Query::Opening {
        out.extend((1_u32 << TCP_SYN_SENT).to_ne_bytes()); // states
        out.extend([0; 4]);
    }
    framed(kind, flags, sequence, &out)
}

/// A message with its header; the kernel fills the port ID in.
fn framed(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(NETLINK_HEADER + body.len()).unwrap_or_default();
    let mut out = Vec::with_capacity(LONGEST);
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend([0; 4]);
    out.extend(body);
    out
}

/// A local port (0: any), and nothing else of the ends.
fn put_local_port(out: &mut Vec<u8>, port: u16) {
    out.extend(port.to_be_bytes());
    out.extend([0; 2 + 16 + 16]);
}

/// The messages in one datagram, each with its sequence number.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u32, Message)> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let kind = u16_at(bytes, 4)?;
        let sequence = u32_at(bytes, 8)?;
        let body = bytes.get(NETLINK_HEADER..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((sequence, message(kind, body)))
    })
}

fn message(kind: u16, body: &[u8]) -> Message {
    match kind {
        // A list that the kernel could not make ends with the reason.
        NLMSG_DONE => match i32_at(body, 0) {
            Some(code) if code < 0 => Message::Error(code.saturating_neg()),
            _ => Message::Done,
        },
        NLMSG_ERROR => match i32_at(body, 0) {
            Some(code) => Message::Error(code.saturating_neg()),
            None => Message::Other,
        },
        SOCK_DIAG_BY_FAMILY | TCPDIAG_GETSOCK => {
            answer(body).map_or(Message::Other, Message::Socket)
        }
        _ => Message::Other,
    }
}

fn answer(body: &[u8]) -> Option<Answer> {
    let family = *body.first()?;
    let state = *body.get(1)?;
    let end = |port: usize, ip: usize| {
        Some(SocketAddr::new(
            ip_at(body, ip, family)?,
            be16_at(body, port)?,
        ))
    };
    Some(Answer {
        ends: Ends {
            local: end(4, 8)?,
            remote: end(6, 24)?,
        },
        state,
        uid: u32_at(body, 64)?,
        inode: u32_at(body, 68)?,
        cgroup: attribute(body.get(ANSWER..)?, INET_DIAG_CGROUP_ID)
            .and_then(|value| u64_at(value, 0)),
        cookie: array_at(body, 44)?,
    })
}

/// The value of the first attribute of this type.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)?;
        let value = bytes.get(4..length)?;
        if kind & NLA_TYPE_MASK == wanted {
            return Some(value);
        }
        bytes = bytes.get(aligned(length)..)?;
    }
}

/// An address in the 16 bytes the kernel keeps for both families.
fn address(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V6(ip) => ip.octets(),
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
    }
}

fn ip_at(bytes: &[u8], at: usize, family: u8) -> Option<IpAddr> {
    match family {
        AF_INET => Some(IpAddr::from(array_at::<4>(bytes, at)?)),
        AF_INET6 => Some(IpAddr::from(array_at::<16>(bytes, at)?).to_canonical()),
        _ => None,
    }
}

fn be16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array_at(bytes, at).map(u16::from_be_bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array_at(bytes, at).map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_ne_bytes)
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    array_at(bytes, at).map(i32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array_at(bytes, at).map(u64::from_ne_bytes)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// Netlink pads messages and attributes to four bytes.
fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn ends(local: &str, remote: &str) -> Ends {
        Ends {
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
        }
    }

    fn one(local: &str, remote: &str, device: u32) -> Query {
        let ends = ends(local, remote);
        Query::One { ends, device }
    }

    /// An answer as the kernel writes it, with a cgroup attribute behind another one.
    fn reply(family: u8, local: [u8; 16], remote: [u8; 16], sequence: u32) -> Vec<u8> {
        let mut body = vec![family, 1, 0, 0];
        body.extend(1234_u16.to_be_bytes());
        body.extend(80_u16.to_be_bytes());
        body.extend(local);
        body.extend(remote);
        body.extend([0; 4]);
        body.extend([9; 8]);
        body.extend([0; 12]);
        body.extend(1000_u32.to_ne_bytes());
        body.extend(4711_u32.to_ne_bytes());
        body.extend([5, 0, 8, 0, 1, 0, 0, 0]);
        body.extend(12_u16.to_ne_bytes());
        body.extend(INET_DIAG_CGROUP_ID.to_ne_bytes());
        body.extend(77_u64.to_ne_bytes());
        let mut bytes = u32::try_from(NETLINK_HEADER + body.len())
            .unwrap()
            .to_ne_bytes()
            .to_vec();
        bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        bytes.extend([0; 2]);
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn a_request_is_full_to_the_last_byte() {
        for query in [
            one("192.0.2.1:5", "198.51.100.1:80", 7),
            Query::Port { v6: true, port: 53 },
        ] {
            let bytes = encode(query, Protocol::TCP, 9);
            assert_eq!(&bytes[64..], &[0xff; 8]);
            assert_eq!(u32_at(&bytes, 0), Some(72));
            assert_eq!(u32_at(&bytes, 8), Some(9));
        }
        let one = encode(one("192.0.2.1:5", "198.51.100.1:80", 7), Protocol::TCP, 9);
        assert_eq!(u32_at(&one, 60), Some(7));
        assert_eq!(one[16..18], [AF_INET, 6]);
        assert_eq!(one[24..28], [0, 5, 0, 80]);
        assert_eq!(one[28..32], [192, 0, 2, 1]);
        assert_eq!(one[44..48], [198, 51, 100, 1]);
        let ends = ends("192.0.2.1:5", "198.51.100.1:80");
        let cookie = [1, 2, 3, 4, 5, 6, 7, 8];
        let end = encode(Query::Destroy { ends, cookie }, Protocol::TCP, 9);
        assert_eq!(end[4..8], [21, 0, 5, 0]);
        assert_eq!(end[64..], cookie);
    }

    #[test]
    fn a_request_for_raw_sockets_has_the_protocol_in_both_places() {
        let v4 = encode(Query::Raw { v6: false }, Protocol::ICMP, 9);
        assert_eq!(v4[4..6], 20_u16.to_ne_bytes());
        assert_eq!(v4[6..8], 0x301_u16.to_ne_bytes());
        assert_eq!(v4[16..20], [AF_INET, 255, 0, 1]);
        assert_eq!(v4[20..24], [0xff; 4]);
        assert_eq!(v4[24..28], [0, 1, 0, 0]);
        assert_eq!(v4[28..64], [0; 36]);
        assert_eq!(v4[64..], [0xff; 8]);
        let v6 = encode(Query::Raw { v6: true }, IPPROTO_RAW, 9);
        assert_eq!(v6[16..20], [AF_INET6, 255, 0, 255]);
        assert_eq!(v6[24..28], [0, 255, 0, 0]);
        // Of the others that byte is padding.
        let port = encode(Query::Port { v6: false, port: 1 }, Protocol::UDP, 9);
        assert_eq!(port[16..20], [AF_INET, 17, 0, 0]);
    }

    #[test]
    fn a_request_for_connections_being_made_names_their_state_alone() {
        let bytes = encode(Query::Opening, Protocol::TCP, 9);
        assert_eq!(bytes.len(), LONGEST);
        assert_eq!(u32_at(&bytes, 0), Some(76));
        assert_eq!(bytes[4..8], [18, 0, 1, 3]);
        assert_eq!(bytes[16..20], [AF_INET, 0, 0, 0]);
        assert_eq!(bytes[20..60], [0; 40]);
        assert_eq!(bytes[60..68], [0xff; 8]);
        assert_eq!(u32_at(&bytes, 68), Some(4));
        assert_eq!(bytes[72..], [0; 4]);
    }

    #[test]
    fn an_answer_is_read_whole_with_mapped_addresses_as_ipv4() {
        let mapped = |last| {
            "::ffff:192.0.2.0"
                .parse::<Ipv6Addr>()
                .map(|ip| {
                    let mut octets = ip.octets();
                    octets[15] = last;
                    octets
                })
                .unwrap()
        };
        let mut bytes = reply(AF_INET6, mapped(1), mapped(2), 3);
        bytes.extend(reply(
            AF_INET,
            address(Ipv4Addr::LOCALHOST.into()),
            [0; 16],
            4,
        ));
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!(all.len(), 2);
        assert_eq!(
            all[0],
            (
                3,
                Message::Socket(Answer {
                    ends: ends("192.0.2.1:1234", "192.0.2.2:80"),
                    state: 1,
                    uid: 1000,
                    inode: 4711,
                    cgroup: Some(77),
                    cookie: [9; 8],
                })
            )
        );
        assert_eq!(all[1].0, 4);
    }

    #[test]
    fn an_error_gives_its_number() {
        let mut bytes = 36_u32.to_ne_bytes().to_vec();
        bytes.extend(NLMSG_ERROR.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend((-2_i32).to_ne_bytes());
        bytes.extend([0; 16]);
        assert_eq!(
            messages(&bytes).collect::<Vec<_>>(),
            [(0, Message::Error(2))]
        );
    }

    #[test]
    fn the_end_of_a_list_may_be_an_error() {
        let end = |code: &[u8]| {
            let length = u32::try_from(NETLINK_HEADER + code.len()).unwrap();
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend(NLMSG_DONE.to_ne_bytes());
            bytes.extend([0; 10]);
            bytes.extend(code);
            messages(&bytes).map(|(_, message)| message).next()
        };
        assert_eq!(end(&0_i32.to_ne_bytes()), Some(Message::Done));
        assert_eq!(end(&[]), Some(Message::Done));
        assert_eq!(end(&(-2_i32).to_ne_bytes()), Some(Message::Error(2)));
    }

    proptest! {
        #[test]
        fn any_bytes_end_without_panic(bytes in vec(any::<u8>(), 0..400)) {
            prop_assert!(messages(&bytes).count() <= bytes.len() / NETLINK_HEADER);
        }

        #[test]
        fn a_damaged_answer_never_panics(at in 0_usize..120, value: u8, cut in 0_usize..130) {
            let mut bytes = reply(AF_INET, [1; 16], [2; 16], 1);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            bytes.truncate(cut);
            prop_assert!(messages(&bytes).count() <= 8);
        }
    }
}
