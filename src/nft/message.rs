//! Messages of a transaction that the nftnl crate lacks, built by libnftnl or written directly.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString, c_char, c_void},
    ptr::NonNull,
};

use nftnl::{MsgType, NlMsg};
use nftnl_sys as sys;

use super::{
    element::{constant, flow_element, port_element, range_elements},
    wire,
};
use crate::{
    prefix::Family,
    ruleset::{Counter, FlowKey, Set, TABLE_COMMENT},
    snapshot::{Content, Kind},
};

/// `inet`
const INET: u16 = 1;
/// Netlink elements go into messages of at most this many bytes: an attribute holds 64 KiB at most.
const CHUNK: usize = 60_000;

// linux/netfilter/nf_tables.h
const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWSET: u16 = 9;
const DELSET: u16 = 11;
const NEWSETELEM: u16 = 12;
const DELSETELEM: u16 = 14;
const NEWOBJ: u16 = 18;
const TABLE_OWNER: u32 = 0x2;
const TABLE_PERSIST: u32 = 0x4;
const SET_INTERVAL: u32 = 0x4;
const SET_TIMEOUT: u32 = 0x10;
const SET_EVAL: u32 = 0x20;
const SET_CONCAT: u32 = 0x80;
const OBJECT_COUNTER: u32 = 1;
const NLM_CREATE: u16 = 0x400;
const NLM_EXCL: u16 = 0x200;
const NLM_ACK: u16 = 4;

// Data types by nft's numbers (nftables, include/datatype.h): they only make listings readable.
const TYPE_IP: u32 = 7;
const TYPE_IP6: u32 = 8;
const TYPE_PROTO: u32 = 12;
const TYPE_SERVICE: u32 = 13;
const TYPE_ICMP: u32 = 14;
const TYPE_MARK: u32 = 19;
const TYPE_ICMP6: u32 = 29;

/// A message of attributes that are already encoded.
#[derive(Clone)]
pub(super) struct RawMessage {
    family: u16,
    add: (u16, u16),
    del: (u16, u16),
    attributes: Vec<u8>,
}

impl RawMessage {
    /// The table with the comment that marks it as ours.
    pub(super) fn table(name: &CStr) -> Self {
        let mut comment = vec![0, u8::try_from(TABLE_COMMENT.len() + 1).unwrap_or(u8::MAX)];
        comment.extend_from_slice(TABLE_COMMENT.as_bytes());
        comment.push(0);
        let mut attributes = Vec::new();
        wire::put(&mut attributes, 1, name.to_bytes_with_nul());
        wire::put(&mut attributes, 6, &comment);
        Self {
            family: INET,
            add: (NEWTABLE, NLM_CREATE | NLM_ACK),
            del: (DELTABLE, NLM_ACK),
            attributes,
        }
    }

    /// The same, owned by the socket that sends it: gone with the socket it would be without PERSIST.
    pub(super) fn owned_table(name: &CStr) -> Self {
        Self::flagged_table(name, TABLE_OWNER | TABLE_PERSIST)
    }

    /// Owned, and gone with its socket: only to ask whether the kernel knows owners.
    pub(super) fn fleeting_table(name: &CStr) -> Self {
        Self::flagged_table(name, TABLE_OWNER)
    }

    fn flagged_table(name: &CStr, flags: u32) -> Self {
        let mut message = Self::table(name);
        wire::put(&mut message.attributes, 2, &flags.to_be_bytes());
        message
    }

    /// With Del: a set by its name.
    pub(super) fn set(table: &CStr, name: &CStr) -> Self {
        let mut attributes = Vec::new();
        wire::put(&mut attributes, 1, table.to_bytes_with_nul());
        wire::put(&mut attributes, 2, name.to_bytes_with_nul());
        Self {
            family: INET,
            add: (NEWSET, NLM_CREATE | NLM_ACK),
            del: (DELSET, NLM_ACK),
            attributes,
        }
    }

    /// One-byte elements that never change.
    pub(super) fn constants(table: &CStr, set: Set) -> Self {
        let mut list = Vec::new();
        for value in set.constants() {
            constant(&mut list, *value);
        }
        Self::elements(table, set, &list)
    }

    /// With Del: every element of the set.
    pub(super) fn all_elements(table: &CStr, set: Set) -> Self {
        Self::elements(table, set, &[])
    }

    /// Gives `emit` the messages that carry `content`, each below the attribute size limit, with the
    /// number of elements in it. One at a time: a million elements are tens of megabytes.
    pub(super) fn content(
        table: &CStr,
        set: Set,
        content: &Content,
        emit: impl FnMut(&Self, usize),
    ) {
        let interval = matches!(set, Set::Addresses(name) if name.kind().is_interval());
        Self::content_as(table, set, content, interval, emit);
    }

    /// The same for a set that somebody declared with or without `flags interval`.
    pub(super) fn content_as(
        table: &CStr,
        set: Set,
        content: &Content,
        interval: bool,
        emit: impl FnMut(&Self, usize),
    ) {
        match content {
            Content::V4(ranges) => chunks(table, set, ranges, emit, |list, range| {
                range_elements(list, range, interval, u32::to_be_bytes);
            }),
            Content::V6(ranges) => chunks(table, set, ranges, emit, |list, range| {
                range_elements(list, range, interval, u128::to_be_bytes);
            }),
            Content::Ports4(elements) => chunks(table, set, elements, emit, |list, element| {
                port_element(
                    list,
                    &element.addr.to_be_bytes(),
                    element.proto,
                    element.port,
                );
            }),
            Content::Ports6(elements) => chunks(table, set, elements, emit, |list, element| {
                port_element(
                    list,
                    &element.addr.to_be_bytes(),
                    element.proto,
                    element.port,
                );
            }),
            Content::Flows4(elements) => chunks(table, set, elements, emit, |list, element| {
                flow_element(list, element, u32::to_be_bytes);
            }),
            Content::Flows6(elements) => chunks(table, set, elements, emit, |list, element| {
                flow_element(list, element, u128::to_be_bytes);
            }),
        }
    }

    /// For a table of another family than inet.
    pub(super) fn in_family(mut self, family: u16) -> Self {
        self.family = family;
        self
    }

    /// Asks for an answer also when all is well.
    pub(super) fn acknowledged(mut self) -> Self {
        self.add.1 |= NLM_ACK;
        self.del.1 |= NLM_ACK;
        self
    }

    /// EXCL: an element that is there already means that kernel and daemon differ; that must not pass unnoticed.
    fn elements(table: &CStr, set: Set, list: &[u8]) -> Self {
        let mut attributes = Vec::with_capacity(list.len() + 80);
        wire::put(&mut attributes, 1, table.to_bytes_with_nul());
        let mut name = set.to_string().into_bytes();
        name.push(0);
        wire::put(&mut attributes, 2, &name);
        if !list.is_empty() {
            wire::put_nested(&mut attributes, 3, list);
        }
        Self {
            family: INET,
            add: (NEWSETELEM, NLM_CREATE | NLM_EXCL),
            del: (DELSETELEM, 0),
            attributes,
        }
    }
}

// SAFETY: `attributes` is at most CHUNK plus one element plus two names, below the 64 KiB + a page of the buffer;
// longer ones are cut to that, which the kernel refuses.
unsafe impl NlMsg for RawMessage {
    unsafe fn write(&self, buf: *mut c_void, seq: u32, kind: MsgType) {
        let (kind, flags) = match kind {
            MsgType::Add => self.add,
            MsgType::Del => self.del,
        };
        let len = self.attributes.len().min(65_000);
        // SAFETY: the caller gives a buffer of nft_nlmsg_maxsize() bytes (64 KiB + a page); header (20 bytes) and
        // `len` bytes fit. The header is aligned because the buffer is.
        unsafe {
            let header =
                sys::nftnl_nlmsg_build_hdr(buf.cast::<c_char>(), kind, self.family, flags, seq);
            let end = usize::try_from((*header).nlmsg_len).unwrap_or(20);
            std::ptr::copy_nonoverlapping(self.attributes.as_ptr(), buf.cast::<u8>().add(end), len);
            (*header).nlmsg_len = u32::try_from(end + len).unwrap_or(0);
        }
    }
}

/// A set without its elements; created with Add, removed with Del.
pub(super) struct SetMessage {
    set: NonNull<sys::nftnl_set>,
}

impl SetMessage {
    pub(super) fn new(table: &CStr, set: Set, id: u32) -> Option<Self> {
        let name = CString::new(set.to_string()).ok()?;
        let shape = Shape::of(set);
        // SAFETY: plain allocation; null is handled by NonNull.
        let this = Self {
            set: NonNull::new(unsafe { sys::nftnl_set_alloc() })?,
        };
        let raw = this.set.as_ptr();
        // SAFETY: `raw` is a live set; libnftnl copies the strings.
        unsafe {
            sys::nftnl_set_set_str(raw, attribute(sys::NFTNL_SET_TABLE), table.as_ptr());
            sys::nftnl_set_set_str(raw, attribute(sys::NFTNL_SET_NAME), name.as_ptr());
            sys::nftnl_set_set_u32(raw, attribute(sys::NFTNL_SET_FAMILY), INET.into());
            sys::nftnl_set_set_u32(raw, attribute(sys::NFTNL_SET_ID), id);
            sys::nftnl_set_set_u32(raw, attribute(sys::NFTNL_SET_FLAGS), shape.flags);
            sys::nftnl_set_set_u32(raw, attribute(sys::NFTNL_SET_KEY_TYPE), shape.key_type);
            sys::nftnl_set_set_u32(raw, attribute(sys::NFTNL_SET_KEY_LEN), shape.key_len);
            if let Set::Addresses(name) = set
                && name.kind().is_flows()
            {
                // Bytes of each part, before padding (NFTA_SET_DESC_CONCAT, kernel 5.6).
                let parts: [u8; 3] = match name.family() {
                    Family::V4 => [4, 1, 2],
                    Family::V6 => [16, 1, 2],
                };
                sys::nftnl_set_set_data(
                    raw,
                    attribute(sys::NFTNL_SET_DESC_CONCAT),
                    parts.as_ptr().cast::<c_void>(),
                    3,
                );
            }
            if let Set::Recent { .. } = set {
                sys::nftnl_set_set_u32(raw, attribute(sys::NFTNL_SET_DESC_SIZE), Set::RECENT_SIZE);
                sys::nftnl_set_set_u64(
                    raw,
                    attribute(sys::NFTNL_SET_TIMEOUT),
                    Set::RECENT_TIMEOUT * 1000,
                );
            }
        }
        Some(this)
    }
}

impl Drop for SetMessage {
    fn drop(&mut self) {
        // SAFETY: allocated by nftnl_set_alloc and not freed elsewhere.
        unsafe { sys::nftnl_set_free(self.set.as_ptr()) };
    }
}

// SAFETY: a set without elements is a few hundred bytes.
unsafe impl NlMsg for SetMessage {
    unsafe fn write(&self, buf: *mut c_void, seq: u32, kind: MsgType) {
        let (kind, flags) = match kind {
            MsgType::Add => (NEWSET, NLM_CREATE | NLM_ACK),
            MsgType::Del => (DELSET, NLM_ACK),
        };
        // SAFETY: the caller gives a buffer for the largest message; the set is live.
        unsafe {
            let header = sys::nftnl_nlmsg_build_hdr(buf.cast::<c_char>(), kind, INET, flags, seq);
            sys::nftnl_set_nlmsg_build_payload(header, self.set.as_ptr());
        }
    }
}

/// How a set looks to the kernel.
struct Shape {
    flags: u32,
    key_type: u32,
    key_len: u32,
}

impl Shape {
    fn of(set: Set) -> Self {
        match set {
            Set::Addresses(name) => {
                let (address, bytes) = ip(name.family());
                let (flags, types, key_len) = match name.kind() {
                    Kind::Hosts => (0, vec![address], bytes),
                    Kind::Nets | Kind::Cover => (SET_INTERVAL, vec![address], bytes),
                    Kind::Ports | Kind::PortsCover => {
                        (0, vec![address, TYPE_PROTO, TYPE_SERVICE], bytes + 8)
                    }
                    Kind::Flows | Kind::FlowsCover => (
                        SET_INTERVAL | SET_CONCAT,
                        vec![address, TYPE_PROTO, TYPE_SERVICE],
                        bytes + 8,
                    ),
                };
                Self {
                    flags,
                    key_type: concatenated(&types),
                    key_len,
                }
            }
            Set::PortProtocols | Set::Extensions => Self {
                flags: 0,
                key_type: TYPE_PROTO,
                key_len: 1,
            },
            Set::Echo(family) => Self {
                flags: 0,
                key_type: icmp(family),
                key_len: 1,
            },
            Set::Recent { key, family, .. } => {
                let (address, bytes) = ip(family);
                let (types, rest): (Vec<u32>, u32) = match key {
                    // nft has no number for a plain 32-bit integer.
                    FlowKey::Syn => (
                        vec![address, address, TYPE_SERVICE, TYPE_SERVICE, TYPE_MARK],
                        12,
                    ),
                    FlowKey::Ports => (
                        vec![address, address, TYPE_PROTO, TYPE_SERVICE, TYPE_SERVICE],
                        12,
                    ),
                    FlowKey::Echo => (vec![address, address, icmp(family), TYPE_SERVICE], 8),
                    FlowKey::Addresses => (vec![address, address, TYPE_PROTO], 4),
                };
                let key_type = concatenated(&types);
                Self {
                    flags: SET_TIMEOUT | SET_EVAL,
                    key_type,
                    key_len: 2 * bytes + rest,
                }
            }
        }
    }
}

/// nft's number of a concatenation: six bits for each part.
fn concatenated(types: &[u32]) -> u32 {
    types.iter().fold(0, |all, one| all << 6 | one)
}

fn ip(family: Family) -> (u32, u32) {
    match family {
        Family::V4 => (TYPE_IP, 4),
        Family::V6 => (TYPE_IP6, 16),
    }
}

fn icmp(family: Family) -> u32 {
    match family {
        Family::V4 => TYPE_ICMP,
        Family::V6 => TYPE_ICMP6,
    }
}

/// A named counter, starting at zero.
pub(super) struct CounterMessage {
    object: NonNull<sys::nftnl_obj>,
}

impl CounterMessage {
    pub(super) fn new(table: &CStr, counter: Counter) -> Option<Self> {
        let name = CString::new(counter.as_str()).ok()?;
        // SAFETY: plain allocation; null is handled by NonNull.
        let this = Self {
            object: NonNull::new(unsafe { sys::nftnl_obj_alloc() })?,
        };
        let raw = this.object.as_ptr();
        // SAFETY: `raw` is a live object; libnftnl copies the strings. The type comes first, it selects the fields.
        unsafe {
            sys::nftnl_obj_set_u32(raw, attribute(sys::NFTNL_OBJ_TYPE), OBJECT_COUNTER);
            sys::nftnl_obj_set_u32(raw, attribute(sys::NFTNL_OBJ_FAMILY), INET.into());
            sys::nftnl_obj_set_str(raw, attribute(sys::NFTNL_OBJ_TABLE), table.as_ptr());
            sys::nftnl_obj_set_str(raw, attribute(sys::NFTNL_OBJ_NAME), name.as_ptr());
            sys::nftnl_obj_set_u64(raw, attribute(sys::NFTNL_OBJ_CTR_PKTS), 0);
            sys::nftnl_obj_set_u64(raw, attribute(sys::NFTNL_OBJ_CTR_BYTES), 0);
        }
        Some(this)
    }
}

impl Drop for CounterMessage {
    fn drop(&mut self) {
        // SAFETY: allocated by nftnl_obj_alloc and not freed elsewhere.
        unsafe { sys::nftnl_obj_free(self.object.as_ptr()) };
    }
}

// SAFETY: a counter is about a hundred bytes.
unsafe impl NlMsg for CounterMessage {
    unsafe fn write(&self, buf: *mut c_void, seq: u32, _: MsgType) {
        // SAFETY: the caller gives a buffer for the largest message; the object is live.
        unsafe {
            let header = sys::nftnl_nlmsg_build_hdr(
                buf.cast::<c_char>(),
                NEWOBJ,
                INET,
                NLM_CREATE | NLM_ACK,
                seq,
            );
            sys::nftnl_obj_nlmsg_build_payload(header, self.object.as_ptr());
        }
    }
}

fn chunks<T>(
    table: &CStr,
    set: Set,
    items: &[T],
    mut emit: impl FnMut(&RawMessage, usize),
    encode: impl Fn(&mut Vec<u8>, &T),
) {
    let mut list = Vec::with_capacity(CHUNK + 128);
    let mut count = 0;
    for item in items {
        encode(&mut list, item);
        count += 1;
        if list.len() >= CHUNK {
            emit(&RawMessage::elements(table, set, &list), count);
            list.clear();
            count = 0;
        }
    }
    if count > 0 {
        emit(&RawMessage::elements(table, set, &list), count);
    }
}

/// libnftnl's attribute numbers are small; bindgen gives them as u32.
pub(super) fn attribute(number: u32) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}
