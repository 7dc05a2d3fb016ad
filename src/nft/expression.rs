//! Statements of a rule as libnftnl expressions.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString},
    ptr::NonNull,
};

use nftnl::{Rule, expr::Expression};
use nftnl_sys as sys;

use super::{QueueKind, message::attribute};
use crate::{
    packet::Protocol,
    prefix::Family,
    ruleset::{FlowKey, ProtoFrom, Set, Side, Statement},
};

// linux/netfilter/nf_tables.h
const REG_VERDICT: u32 = 0;
/// The 16-byte register 1; concatenations go on in 4-byte registers from there.
const REG: u32 = 1;
const REG32: u32 = 8;
const META_MARK: u32 = 3;
const META_IIF: u32 = 4;
const META_OIF: u32 = 5;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const CT_STATE: u32 = 0;
const CT_MARK: u32 = 3;
const CT_PROTOCOL: u32 = 10;
/// IP_CT_DIR_ORIGINAL
const ORIGINAL: u8 = 0;
const STATE_ESTABLISHED: u32 = 2;
const STATE_RELATED: u32 = 4;
const STATE_UNTRACKED: u32 = 64;
const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
/// Offsets in the TCP header, and two of its flags (RFC 9293, section 3.1).
const TCP_SEQUENCE: u32 = 4;
const TCP_FLAGS: u32 = 13;
const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;
const DYNSET_UPDATE: u32 = 1;
const OBJECT_COUNTER: u32 = 1;
const QUEUE_BYPASS: u16 = 1;
const QUEUE_FANOUT: u16 = 2;
const REJECT_TCP_RST: u32 = 1;
const REJECT_ICMPX: u32 = 2;
const ICMPX_ADMIN_PROHIBITED: u8 = 3;
const VERDICT_DROP: u32 = 0;
const VERDICT_ACCEPT: u32 = 1;
const VERDICT_JUMP: i32 = -3;
const VERDICT_GOTO: i32 = -4;
const VERDICT_RETURN: i32 = -5;
/// Interface index of `lo` in every network namespace.
const LOOPBACK: u32 = 1;

/// One expression: its type and attributes.
pub(super) struct Expr {
    name: &'static CStr,
    attributes: Vec<(u32, Value)>,
}

enum Value {
    U8(u8),
    U16(u16),
    U32(u32),
    Text(CString),
    Bytes(Vec<u8>),
    /// libnftnl keeps the pointer of a target's info and frees it: it gets a copy from malloc.
    Given(Vec<u8>),
}

impl Expr {
    fn new(name: &'static CStr) -> Self {
        Self {
            name,
            attributes: Vec::new(),
        }
    }

    fn u8(mut self, key: u32, value: u8) -> Self {
        self.attributes.push((key, Value::U8(value)));
        self
    }

    fn u16(mut self, key: u32, value: u16) -> Self {
        self.attributes.push((key, Value::U16(value)));
        self
    }

    fn u32(mut self, key: u32, value: u32) -> Self {
        self.attributes.push((key, Value::U32(value)));
        self
    }

    fn text(mut self, key: u32, value: &str) -> Self {
        // Names of sets and chains are ours and hold no NUL; an empty name is refused by the kernel.
        self.attributes
            .push((key, Value::Text(CString::new(value).unwrap_or_default())));
        self
    }

    fn given(mut self, key: u32, value: Vec<u8>) -> Self {
        self.attributes.push((key, Value::Given(value)));
        self
    }

    fn bytes(mut self, key: u32, value: &[u8]) -> Self {
        self.attributes.push((key, Value::Bytes(value.to_vec())));
        self
    }
}

impl Expression for Expr {
    fn to_expr(&self, _: &Rule<'_>) -> NonNull<sys::nftnl_expr> {
        // SAFETY: a static, terminated name.
        let Some(expr) = NonNull::new(unsafe { sys::nftnl_expr_alloc(self.name.as_ptr()) }) else {
            // Out of memory, or a libnftnl that lacks the expression: no rule can be built without it.
            std::process::abort();
        };
        let raw = expr.as_ptr();
        for (key, value) in &self.attributes {
            let key = attribute(*key);
            // SAFETY: `raw` is live; libnftnl copies strings and bytes, and owns what is Given.
            unsafe {
                match value {
                    Value::U8(value) => sys::nftnl_expr_set_u8(raw, key, *value),
                    Value::U16(value) => sys::nftnl_expr_set_u16(raw, key, *value),
                    Value::U32(value) => sys::nftnl_expr_set_u32(raw, key, *value),
                    Value::Text(value) => {
                        sys::nftnl_expr_set_str(raw, key, value.as_ptr());
                    }
                    Value::Bytes(value) => {
                        let len = u32::try_from(value.len()).unwrap_or(0);
                        sys::nftnl_expr_set(raw, key, value.as_ptr().cast(), len);
                    }
                    Value::Given(value) => {
                        let copy = libc::malloc(value.len().max(1));
                        if copy.is_null() {
                            std::process::abort();
                        }
                        std::ptr::copy_nonoverlapping(value.as_ptr(), copy.cast(), value.len());
                        sys::nftnl_expr_set(
                            raw,
                            key,
                            copy,
                            u32::try_from(value.len()).unwrap_or(0),
                        );
                    }
                }
            }
        }
        expr
    }
}

/// The expressions of one statement, in the order nft itself would write them.
pub(super) fn compile(statement: &Statement, queue: QueueKind) -> Vec<Expr> {
    match statement {
        Statement::CtMark(mask) => {
            vec![ct(CT_MARK), and32(*mask), cmp(CMP_EQ, &mask.to_ne_bytes())]
        }
        Statement::Established => ct_state(STATE_ESTABLISHED),
        Statement::Related => ct_state(STATE_RELATED),
        Statement::Untracked => ct_state(STATE_UNTRACKED),
        Statement::L4(proto) => vec![meta(META_L4PROTO, REG), cmp(CMP_EQ, &[proto.0])],
        Statement::IsSyn => vec![
            meta(META_L4PROTO, REG),
            cmp(CMP_EQ, &[Protocol::TCP.0]),
            payload(TRANSPORT_HEADER, TCP_FLAGS, 1, REG),
            and(&[TCP_SYN | TCP_ACK]),
            cmp(CMP_EQ, &[TCP_SYN]),
        ],
        Statement::HasPorts => vec![meta(META_L4PROTO, REG), lookup(Set::PortProtocols)],
        Statement::IsEcho(family) => {
            let mut all = nfproto(*family);
            let proto = if *family == Family::V4 { 1 } else { 58 };
            all.extend([meta(META_L4PROTO, REG), cmp(CMP_EQ, &[proto])]);
            all.extend([
                payload(TRANSPORT_HEADER, 0, 1, REG),
                lookup(Set::Echo(*family)),
            ]);
            all
        }
        Statement::ToLoopback => vec![meta(META_OIF, REG), cmp(CMP_EQ, &LOOPBACK.to_ne_bytes())],
        Statement::FromLoopback => vec![meta(META_IIF, REG), cmp(CMP_EQ, &LOOPBACK.to_ne_bytes())],
        Statement::Family(family) => nfproto(*family),
        Statement::Address {
            family,
            side,
            mask,
            set,
        } => address(*family, *side, *mask, *set),
        Statement::IsExtended => {
            let mut all = nfproto(Family::V6);
            all.extend([next_header(Family::V6, REG), lookup(Set::Extensions)]);
            all
        }
        Statement::AddressPort {
            family,
            side,
            proto,
            port,
            set,
        } => address_port(*family, *side, *proto, *port, *set),
        Statement::InRecent(set) => recent(*set, lookup(*set)),
        Statement::UpdateRecent(set) => recent(*set, update(*set)),
        Statement::Mark { mask, value } => {
            vec![
                meta(META_MARK, REG),
                and32(*mask),
                cmp(CMP_EQ, &value.to_ne_bytes()),
            ]
        }
        Statement::AnyMark(mask) => {
            vec![
                meta(META_MARK, REG),
                and32(*mask),
                cmp(CMP_NEQ, &0u32.to_ne_bytes()),
            ]
        }
        Statement::ClearMark(mask) => vec![
            meta(META_MARK, REG),
            and32(!mask),
            Expr::new(c"meta")
                .u32(sys::NFTNL_EXPR_META_KEY, META_MARK)
                .u32(sys::NFTNL_EXPR_META_SREG, REG),
        ],
        Statement::Count(counter) => vec![
            Expr::new(c"objref")
                .u32(sys::NFTNL_EXPR_OBJREF_IMM_TYPE, OBJECT_COUNTER)
                .text(sys::NFTNL_EXPR_OBJREF_IMM_NAME, counter.as_str()),
        ],
        Statement::Queue { first, count } => ask(*first, *count, queue),
        Statement::Accept => vec![verdict(VERDICT_ACCEPT)],
        Statement::Return => vec![verdict(u32::from_ne_bytes(VERDICT_RETURN.to_ne_bytes()))],
        Statement::Drop => vec![verdict(VERDICT_DROP)],
        Statement::RejectTcp => vec![reject(REJECT_TCP_RST, 0)],
        Statement::RejectIcmp => vec![reject(REJECT_ICMPX, ICMPX_ADMIN_PROHIBITED)],
        Statement::Jump(chain) => vec![to_chain(VERDICT_JUMP, chain)],
        Statement::Goto(chain) => vec![to_chain(VERDICT_GOTO, chain)],
    }
}

fn meta(key: u32, register: u32) -> Expr {
    Expr::new(c"meta")
        .u32(sys::NFTNL_EXPR_META_KEY, key)
        .u32(sys::NFTNL_EXPR_META_DREG, register)
}

fn ct(key: u32) -> Expr {
    Expr::new(c"ct")
        .u32(sys::NFTNL_EXPR_CT_KEY, key)
        .u32(sys::NFTNL_EXPR_CT_DREG, REG)
}

fn ct_state(state: u32) -> Vec<Expr> {
    vec![
        ct(CT_STATE),
        and32(state),
        cmp(CMP_NEQ, &0u32.to_ne_bytes()),
    ]
}

fn cmp(op: u32, value: &[u8]) -> Expr {
    Expr::new(c"cmp")
        .u32(sys::NFTNL_EXPR_CMP_SREG, REG)
        .u32(sys::NFTNL_EXPR_CMP_OP, op)
        .bytes(sys::NFTNL_EXPR_CMP_DATA, value)
}

fn and32(mask: u32) -> Expr {
    and(&mask.to_ne_bytes())
}

fn and(mask: &[u8]) -> Expr {
    and_xor(REG, mask, &vec![0; mask.len()])
}

/// `register = register & mask ^ xor`, both of the same length.
fn and_xor(register: u32, mask: &[u8], xor: &[u8]) -> Expr {
    Expr::new(c"bitwise")
        .u32(sys::NFTNL_EXPR_BITWISE_SREG, register)
        .u32(sys::NFTNL_EXPR_BITWISE_DREG, register)
        .u32(
            sys::NFTNL_EXPR_BITWISE_LEN,
            u32::try_from(mask.len()).unwrap_or(0),
        )
        .bytes(sys::NFTNL_EXPR_BITWISE_MASK, mask)
        .bytes(sys::NFTNL_EXPR_BITWISE_XOR, xor)
}

fn payload(base: u32, offset: u32, len: u32, register: u32) -> Expr {
    Expr::new(c"payload")
        .u32(sys::NFTNL_EXPR_PAYLOAD_DREG, register)
        .u32(sys::NFTNL_EXPR_PAYLOAD_BASE, base)
        .u32(sys::NFTNL_EXPR_PAYLOAD_OFFSET, offset)
        .u32(sys::NFTNL_EXPR_PAYLOAD_LEN, len)
}

fn lookup(set: Set) -> Expr {
    Expr::new(c"lookup")
        .u32(sys::NFTNL_EXPR_LOOKUP_SREG, REG)
        .text(sys::NFTNL_EXPR_LOOKUP_SET, &set.to_string())
}

fn update(set: Set) -> Expr {
    Expr::new(c"dynset")
        .u32(sys::NFTNL_EXPR_DYNSET_SREG_KEY, REG)
        .u32(sys::NFTNL_EXPR_DYNSET_OP, DYNSET_UPDATE)
        .text(sys::NFTNL_EXPR_DYNSET_SET_NAME, &set.to_string())
}

fn nfproto(family: Family) -> Vec<Expr> {
    let number = match family {
        Family::V4 => 2,
        Family::V6 => 10,
    };
    vec![meta(META_NFPROTO, REG), cmp(CMP_EQ, &[number])]
}

/// Offset of the source address, offset of the destination address, length.
fn layout(family: Family) -> (u32, u32, u32) {
    match family {
        Family::V4 => (12, 16, 4),
        Family::V6 => (8, 24, 16),
    }
}

fn address(family: Family, side: Side, mask: Option<u8>, set: Set) -> Vec<Expr> {
    let (source, destination, len) = layout(family);
    let offset = match side {
        Side::Source => source,
        Side::Destination => destination,
    };
    let mut all = nfproto(family);
    all.push(payload(NETWORK_HEADER, offset, len, REG));
    if let Some(bits) = mask {
        let bytes: Vec<u8> = match family {
            Family::V4 => u32::MAX
                .checked_shl(32u32.saturating_sub(bits.into()))
                .unwrap_or(0)
                .to_be_bytes()
                .into(),
            Family::V6 => u128::MAX
                .checked_shl(128u32.saturating_sub(bits.into()))
                .unwrap_or(0)
                .to_be_bytes()
                .into(),
        };
        all.push(and(&bytes));
    }
    all.push(lookup(set));
    all
}

/// `ip protocol`, `ip6 nexthdr`
fn next_header(family: Family, register: u32) -> Expr {
    let offset = match family {
        Family::V4 => 9,
        Family::V6 => 6,
    };
    payload(NETWORK_HEADER, offset, 1, register)
}

/// The protocol of a key, in `register`.
fn proto(from: ProtoFrom, family: Family, register: u32) -> Vec<Expr> {
    match from {
        ProtoFrom::Meta => vec![meta(META_L4PROTO, register)],
        ProtoFrom::Header => vec![next_header(family, register)],
        ProtoFrom::Tracked => vec![
            Expr::new(c"ct")
                .u32(sys::NFTNL_EXPR_CT_KEY, CT_PROTOCOL)
                .u32(sys::NFTNL_EXPR_CT_DREG, register)
                .u8(sys::NFTNL_EXPR_CT_DIR, ORIGINAL),
        ],
        ProtoFrom::Given(Protocol(number)) => vec![
            next_header(family, register),
            and_xor(register, &[0], &[number]),
        ],
    }
}

fn address_port(family: Family, side: Side, from: ProtoFrom, port: Side, set: Set) -> Vec<Expr> {
    let (source, destination, len) = layout(family);
    let offset = match side {
        Side::Source => source,
        Side::Destination => destination,
    };
    let port = match port {
        Side::Source => 0,
        Side::Destination => 2,
    };
    let next = REG32 + len / 4;
    let mut all = nfproto(family);
    all.push(payload(NETWORK_HEADER, offset, len, REG));
    all.extend(proto(from, family, next));
    all.push(payload(TRANSPORT_HEADER, port, 2, next + 1));
    all.push(lookup(set));
    all
}

/// Loads the flow key of a `recent_*` set into consecutive registers, then `end` uses it.
fn recent(set: Set, end: Expr) -> Vec<Expr> {
    let Set::Recent { key, family, .. } = set else {
        return vec![end];
    };
    let (source, destination, len) = layout(family);
    let mut all = nfproto(family);
    if key == FlowKey::Syn {
        all.extend([meta(META_L4PROTO, REG), cmp(CMP_EQ, &[Protocol::TCP.0])]);
    }
    all.push(payload(NETWORK_HEADER, source, len, REG));
    all.push(payload(NETWORK_HEADER, destination, len, REG32 + len / 4));
    let next = REG32 + len / 2;
    match key {
        FlowKey::Syn => all.extend([
            payload(TRANSPORT_HEADER, 0, 2, next),
            payload(TRANSPORT_HEADER, 2, 2, next + 1),
            payload(TRANSPORT_HEADER, TCP_SEQUENCE, 4, next + 2),
        ]),
        FlowKey::Ports => all.extend([
            meta(META_L4PROTO, next),
            payload(TRANSPORT_HEADER, 0, 2, next + 1),
            payload(TRANSPORT_HEADER, 2, 2, next + 2),
        ]),
        FlowKey::Echo => all.extend([
            payload(TRANSPORT_HEADER, 0, 1, next),
            payload(TRANSPORT_HEADER, 4, 2, next + 1),
        ]),
        FlowKey::Addresses => all.push(meta(META_L4PROTO, next)),
    }
    all.push(end);
    all
}

fn ask(first: u16, count: u16, queue: QueueKind) -> Vec<Expr> {
    let flags = QUEUE_BYPASS | if count > 1 { QUEUE_FANOUT } else { 0 };
    match queue {
        QueueKind::Native => vec![
            Expr::new(c"queue")
                .u16(sys::NFTNL_EXPR_QUEUE_NUM, first)
                .u16(sys::NFTNL_EXPR_QUEUE_TOTAL, count)
                .u16(sys::NFTNL_EXPR_QUEUE_FLAGS, flags),
        ],
        QueueKind::Compat => {
            // struct xt_NFQ_info_v3, padded to 8 bytes.
            let mut info = Vec::with_capacity(8);
            for field in [first, count, flags, 0] {
                info.extend_from_slice(&field.to_ne_bytes());
            }
            vec![
                Expr::new(c"target")
                    .text(sys::NFTNL_EXPR_TG_NAME, "NFQUEUE")
                    .u32(sys::NFTNL_EXPR_TG_REV, 3)
                    .given(sys::NFTNL_EXPR_TG_INFO, info),
            ]
        }
        QueueKind::Missing => vec![],
    }
}

fn verdict(code: u32) -> Expr {
    Expr::new(c"immediate")
        .u32(sys::NFTNL_EXPR_IMM_DREG, REG_VERDICT)
        .u32(sys::NFTNL_EXPR_IMM_VERDICT, code)
}

fn to_chain(code: i32, chain: &str) -> Expr {
    Expr::new(c"immediate")
        .u32(sys::NFTNL_EXPR_IMM_DREG, REG_VERDICT)
        .u32(
            sys::NFTNL_EXPR_IMM_VERDICT,
            u32::from_ne_bytes(code.to_ne_bytes()),
        )
        .text(sys::NFTNL_EXPR_IMM_CHAIN, chain)
}

fn reject(kind: u32, code: u8) -> Expr {
    Expr::new(c"reject")
        .u32(sys::NFTNL_EXPR_REJECT_TYPE, kind)
        .u8(sys::NFTNL_EXPR_REJECT_CODE, code)
}
