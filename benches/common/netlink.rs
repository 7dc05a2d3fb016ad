//! The least that a netfilter transaction can be: bytes prepared before, one `sendmsg`, one answer.
//!
//! Written for the floor, and to set up connection tracking; independent of the library on purpose.

use std::{
    io::IoSlice,
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use feedgate::snapshot::Content;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendmsg,
    setsockopt, socket, sockopt,
};

const REQUEST: u16 = 1;
pub const ACK: u16 = 4;
pub const CREATE: u16 = 0x400;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NFTABLES: u16 = 10;
const NESTED: u16 = 0x8000;
/// Elements in one message; their list must stay below 64 KiB.
const ELEMENTS: usize = 1500;

/// A NETLINK_NETFILTER socket.
pub struct Socket(OwnedFd);

impl Socket {
    pub fn open() -> Self {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        );
        Self(fd.expect("a netlink socket"))
    }

    /// Sends `bytes`, whose last message asks for an answer; returns the time until it is there.
    pub fn send(&self, bytes: &[u8]) -> Duration {
        let room = (bytes.len() * 2).max(1 << 20);
        setsockopt(&self.0, sockopt::SndBufForce, &room).expect("CAP_NET_ADMIN");
        let mut answer = vec![0; 1 << 16];
        let start = Instant::now();
        let sent = sendmsg(
            self.0.as_raw_fd(),
            &[IoSlice::new(bytes)],
            &[],
            MsgFlags::empty(),
            Some(&NetlinkAddr::new(0, 0)),
        );
        assert_eq!(sent.expect("sent"), bytes.len());
        let len = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty()).expect("answer");
        let elapsed = start.elapsed();
        // Length, type (2: error), flags, sequence, port, then the error number.
        let error = i32::from_ne_bytes(answer[16..20].try_into().expect("four bytes"));
        assert!(len >= 20 && error == 0, "the kernel refused: error {error}");
        elapsed
    }
}

/// A transaction of nf_tables as bytes.
pub struct Batch {
    bytes: Vec<u8>,
    family: u8,
    /// Where the last message starts.
    last: usize,
}

impl Batch {
    /// For tables of this family (1: inet, 2: ip).
    pub fn new(family: u8) -> Self {
        let mut bytes = Vec::new();
        message(&mut bytes, BATCH_BEGIN, REQUEST, [0, 0, 0, 10], &[]);
        Self {
            bytes,
            family,
            last: 0,
        }
    }

    /// Adds a message of nf_tables.
    pub fn add(&mut self, kind: u16, flags: u16, attributes: &[u8]) {
        self.last = self.bytes.len();
        let kind = NFTABLES << 8 | kind;
        message(
            &mut self.bytes,
            kind,
            REQUEST | flags,
            [self.family, 0, 0, 0],
            attributes,
        );
    }

    /// NEWTABLE
    pub fn table(&mut self, table: &str) {
        self.add(0, CREATE, &attribute(1, &zero_ended(table)));
    }

    /// DELTABLE
    pub fn delete_table(&mut self, table: &str) {
        self.add(2, 0, &attribute(1, &zero_ended(table)));
    }

    /// NEWSET of IPv4 addresses.
    pub fn set(&mut self, table: &str, set: &str, interval: bool, id: u32) {
        let mut out = attribute(1, &zero_ended(table));
        out.extend(attribute(2, &zero_ended(set)));
        out.extend(attribute(3, &(u32::from(interval) * 4).to_be_bytes()));
        out.extend(attribute(4, &7u32.to_be_bytes()));
        out.extend(attribute(5, &4u32.to_be_bytes()));
        out.extend(attribute(10, &id.to_be_bytes()));
        self.add(9, CREATE, &out);
    }

    /// NEWSETELEM, or DELSETELEM, for every element of `content`.
    pub fn elements(
        &mut self,
        table: &str,
        set: &str,
        interval: bool,
        add: bool,
        content: &Content,
    ) {
        let Content::V4(ranges) = content else {
            panic!("the floor knows IPv4 only")
        };
        let mut head = attribute(1, &zero_ended(table));
        head.extend(attribute(2, &zero_ended(set)));
        for chunk in ranges.chunks(ELEMENTS) {
            let mut list = Vec::with_capacity(ELEMENTS * 40);
            for range in chunk {
                element(&mut list, range.first, false);
                if interval && let Some(end) = range.last.checked_add(1) {
                    element(&mut list, end, true);
                }
            }
            let mut out = head.clone();
            out.extend(attribute(3 | NESTED, &list));
            let (kind, flags) = if add { (12, CREATE) } else { (14, 0) };
            self.add(kind, flags, &out);
        }
    }

    /// DELSETELEM without elements: all of them.
    pub fn flush(&mut self, table: &str, set: &str) {
        let mut out = attribute(1, &zero_ended(table));
        out.extend(attribute(2, &zero_ended(set)));
        self.add(14, 0, &out);
    }

    /// Ends the batch; its last message answers for all of it.
    pub fn finish(mut self) -> Vec<u8> {
        let flags = self.last + 6;
        self.bytes[flags] |= u8::try_from(ACK).expect("small");
        message(&mut self.bytes, BATCH_END, REQUEST, [0, 0, 0, 10], &[]);
        self.bytes
    }
}

/// A netlink message with the netfilter header `head`.
pub fn message(out: &mut Vec<u8>, kind: u16, flags: u16, head: [u8; 4], attributes: &[u8]) {
    let len = u32::try_from(20 + attributes.len()).expect("below 4 GB");
    out.extend(len.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend((REQUEST | flags).to_ne_bytes());
    out.extend([0; 8]);
    out.extend(head);
    out.extend(attributes);
}

/// One attribute with its padding.
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(4 + value.len()).expect("an attribute holds 64 KiB");
    let mut out = Vec::with_capacity(value.len() + 8);
    out.extend(len.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// An attribute that holds attributes.
pub fn nest(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NESTED, &parts.concat())
}

fn element(out: &mut Vec<u8>, key: u32, end: bool) {
    let total: u16 = if end { 24 } else { 16 };
    out.extend(total.to_ne_bytes());
    out.extend((1 | NESTED).to_ne_bytes());
    if end {
        out.extend(8u16.to_ne_bytes());
        out.extend(3u16.to_ne_bytes());
        out.extend(1u32.to_be_bytes());
    }
    out.extend(12u16.to_ne_bytes());
    out.extend((1 | NESTED).to_ne_bytes());
    out.extend(8u16.to_ne_bytes());
    out.extend(1u16.to_ne_bytes());
    out.extend(key.to_be_bytes());
}

fn zero_ended(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}
