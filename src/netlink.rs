//! Netlink messages and attributes as bytes (netlink(7), linux/netlink.h): checked reading, plain writing.

/// Bytes of a netlink message header.
pub const HEADER: usize = 16;
/// `NLMSG_ERROR`
pub const ERROR: u16 = 2;
/// `NLMSG_DONE`
pub const DONE: u16 = 3;
/// `NLM_F_REQUEST`
pub const REQUEST: u16 = 1;
/// `NLM_F_ACK`
pub const ACK: u16 = 4;
/// `NLM_F_DUMP`
pub const DUMP: u16 = 0x300;
/// `NLM_F_DUMP_INTR`: what is listed changed meanwhile, so that the list may be wrong.
pub const DUMP_INTERRUPTED: u16 = 0x10;
/// `NLA_F_NESTED`
const NESTED: u16 = 0x8000;
/// Bits of an attribute's type field that are its type.
const TYPE_MASK: u16 = 0x3fff;

/// One netlink message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Message type.
    pub kind: u16,
    /// Flags, `NLM_F_*`.
    pub flags: u16,
    /// Sequence number of the request.
    pub seq: u32,
    /// Port of the socket that asked for it, also in notifications of what it changed; 0: the kernel.
    pub port: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes behind a family header of `skip` bytes.
    pub fn attributes(&self, skip: usize) -> Attributes<'a> {
        Attributes(self.payload.get(skip..).unwrap_or_default())
    }

    /// For `NLMSG_ERROR`: the errno, 0 for an acknowledgement.
    pub fn errno(&self) -> Option<i32> {
        (self.kind == ERROR)
            .then(|| {
                self.payload
                    .first_chunk()
                    .map(|bytes| i32::from_ne_bytes(*bytes))
            })?
            .map(i32::abs)
    }

    /// For `NLMSG_DONE`: the errno of a list that broke off before its end.
    pub fn broken_off(&self) -> Option<i32> {
        let code = self.payload.first_chunk().filter(|_| self.kind == DONE);
        let code = code.map(|bytes| i32::from_ne_bytes(*bytes))?;
        (code < 0).then_some(code.saturating_neg())
    }
}

/// Splits a datagram into messages; stops at the first that does not fit.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
        let message = bytes.get(..len).filter(|_| len >= HEADER)?;
        bytes = bytes.get(aligned(len)..).unwrap_or_default();
        Some(Message {
            kind: u16_at(message, 4)?,
            flags: u16_at(message, 6)?,
            seq: u32_at(message, 8)?,
            port: u32_at(message, 12)?,
            payload: message.get(HEADER..)?,
        })
    })
}

/// Iterates over (type, value); stops at the first attribute that does not fit.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & TYPE_MASK;
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(aligned(len)..).unwrap_or_default();
        Some((kind, value))
    }
}

impl<'a> Attributes<'a> {
    /// The value of the first attribute of this type.
    pub fn get(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find(|(k, _)| *k == kind).map(|(_, value)| value)
    }

    /// The attributes nested in the first attribute of this type.
    pub fn nested(self, kind: u16) -> Option<Attributes<'a>> {
        self.get(kind).map(Attributes)
    }
}

/// One request with its header; `flags` are those of netlink(7), `head` is the family's own header.
pub fn request(kind: u16, flags: u16, seq: u32, head: &[u8], attributes: &[u8]) -> Vec<u8> {
    let len = HEADER + aligned(head.len()) + attributes.len();
    let mut message = Vec::with_capacity(len);
    message.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&flags.to_ne_bytes());
    message.extend_from_slice(&seq.to_ne_bytes());
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(head);
    message.resize(HEADER + aligned(head.len()), 0);
    message.extend_from_slice(attributes);
    message
}

/// A number in network byte order.
pub fn be32(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|b| u32::from_be_bytes(*b))
}

/// Appends an attribute with its padding.
pub fn put(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    out.extend_from_slice(&len.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(value);
    out.resize(aligned(out.len()), 0);
}

/// Appends an attribute that holds attributes.
pub fn put_nested(out: &mut Vec<u8>, kind: u16, content: &[u8]) {
    put(out, kind | NESTED, content);
}

/// A zero-terminated string.
pub fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

fn aligned(len: usize) -> usize {
    len.saturating_add(3) & !3
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|b| u16::from_ne_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|b| u32::from_ne_bytes(*b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn attributes_round_trip() {
        let mut inner = Vec::new();
        put(&mut inner, 1, b"abc\0");
        put(&mut inner, 2, b"x");
        let mut out = Vec::new();
        put_nested(&mut out, 7, &inner);
        let nested = Attributes(&out).nested(7).unwrap();
        assert_eq!(text(nested.get(1).unwrap()), "abc");
        assert_eq!(nested.get(2), Some(&b"x"[..]));
        assert_eq!(nested.get(3), None);
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes: Vec<u8>) {
            for message in messages(&bytes) {
                let _ = (message.errno(), message.attributes(4).count());
            }
        }
    }
}
