//! Elements of sets as netlink attributes, written without temporaries: there are millions of them.

use crate::{
    prefix::{Address, Range},
    snapshot::{FlowElement, PortBox},
};

// linux/netfilter/nf_tables.h
const ELEM_INTERVAL_END: u32 = 1;
const ELEM_KEY: u16 = 1;
const ELEM_KEY_END: u16 = 10;

/// One byte.
pub(super) fn constant(list: &mut Vec<u8>, value: u8) {
    element(list, &[value], Closed::No);
}

/// A range of addresses; in a set that is no interval set, its first one.
pub(super) fn range_elements<A: Address, const N: usize>(
    list: &mut Vec<u8>,
    range: &Range<A>,
    interval: bool,
    bytes: fn(A) -> [u8; N],
) {
    element(list, &bytes(range.first), Closed::No);
    // An interval ends before its end element; the last address of the space has none.
    if interval && let Some(end) = range.last.next() {
        element(list, &bytes(end), Closed::Before);
    }
}

/// Address, protocol and port, each padded to four bytes.
pub(super) fn port_element(list: &mut Vec<u8>, addr: &[u8], proto: u8, port: u16) {
    let (key, len) = port_key(addr, proto, port);
    element(list, key.get(..len).unwrap_or_default(), Closed::No);
}

/// The same from a first to a last value of each part.
pub(super) fn flow_element<A: Address, const N: usize>(
    list: &mut Vec<u8>,
    flow: &FlowElement<A>,
    bytes: fn(A) -> [u8; N],
) {
    let PortBox { protos, ports } = flow.at;
    let (first, len) = port_key(&bytes(flow.addr.first), protos.0, ports.0);
    let (last, _) = port_key(&bytes(flow.addr.last), protos.1, ports.1);
    let last = last.get(..len).unwrap_or_default();
    element(list, first.get(..len).unwrap_or_default(), Closed::At(last));
}

/// The key of an address with a port, and its length.
fn port_key(addr: &[u8], proto: u8, port: u16) -> ([u8; 24], usize) {
    let mut key = [0u8; 24];
    let len = addr.len();
    let [high, low] = port.to_be_bytes();
    let parts = [(0, addr), (len, &[proto][..]), (len + 4, &[high, low][..])];
    for (at, part) in parts {
        if let Some(place) = key.get_mut(at..at + part.len()) {
            place.copy_from_slice(part);
        }
    }
    (key, len + 8)
}

/// How the range that an element begins ends.
#[derive(Clone, Copy)]
enum Closed<'a> {
    /// Not with this element.
    No,
    /// The element is the end: the range ends before it.
    Before,
    /// With this key (kernel 5.6).
    At(&'a [u8]),
}

/// NFTA_LIST_ELEM { [NFTA_SET_ELEM_FLAGS], NFTA_SET_ELEM_KEY { NFTA_DATA_VALUE }, [NFTA_SET_ELEM_KEY_END] },
/// written without temporaries.
fn element(out: &mut Vec<u8>, key: &[u8], closed: Closed<'_>) {
    let more = match closed {
        Closed::No => 0,
        Closed::Before => 8,
        Closed::At(last) => key_len(last),
    };
    header(out, 4 + more + key_len(key), 1 | 0x8000);
    if let Closed::Before = closed {
        header(out, 8, 3);
        out.extend_from_slice(&ELEM_INTERVAL_END.to_be_bytes());
    }
    put_key(out, key, ELEM_KEY);
    if let Closed::At(last) = closed {
        put_key(out, last, ELEM_KEY_END);
    }
}

/// Bytes of a key with its two headers.
fn key_len(key: &[u8]) -> usize {
    8 + key.len().div_ceil(4) * 4
}

fn put_key(out: &mut Vec<u8>, key: &[u8], kind: u16) {
    let end = out.len() + key_len(key);
    header(out, key_len(key), kind | 0x8000);
    header(out, 4 + key.len(), 1);
    out.extend_from_slice(key);
    out.resize(end, 0);
}

fn header(out: &mut Vec<u8>, len: usize, kind: u16) {
    out.extend_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
}
