//! Questions to the kernel's route netlink (rtnetlink(7)) and the attributes of its answers.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv,
        send, socket,
    },
};

const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
/// Netlink attribute flags above the type.
const NLA_TYPE_MASK: u16 = 0x3fff;
/// One link with all its attributes is about 2 KiB.
const BUFFER: usize = 16 * 1024;

/// A socket that asks one question at a time, of the network namespace it was opened in.
pub(crate) struct Route {
    socket: OwnedFd,
    sequence: u32,
    buffer: Box<[u8]>,
}

impl Route {
    pub(crate) fn open() -> Result<Self, Errno> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkRoute,
        )?;
        // Connected to port 0: only the kernel can answer.
        connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; BUFFER].into_boxed_slice(),
        })
    }

    /// The answer to message `kind` with `body`, without its header.
    ///
    /// # Errors
    /// What the kernel says; it answers before `send` returns, so this never waits.
    pub(crate) fn get(&mut self, kind: u16, body: &[u8]) -> Result<&[u8], Errno> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER + body.len()).map_err(|_| Errno::EMSGSIZE)?;
        let mut request = length.to_ne_bytes().to_vec();
        request.extend(kind.to_ne_bytes());
        request.extend(NLM_F_REQUEST.to_ne_bytes());
        request.extend(self.sequence.to_ne_bytes());
        request.extend([0; 4]); // port ID: the kernel fills it in
        request.extend(body);
        send(self.socket.as_raw_fd(), &request, MsgFlags::empty())?;
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
            let message = self.buffer.get(..length).unwrap_or_default();
            if u32_at(message, 8) == Some(self.sequence) {
                break;
            }
        }
        answer(&self.buffer).ok_or(Errno::EBADMSG)?
    }
}

fn answer(message: &[u8]) -> Option<Result<&[u8], Errno>> {
    let length = usize::try_from(u32_at(message, 0)?).ok()?;
    let body = message.get(HEADER..length)?;
    Some(match u16_at(message, 4)? {
        NLMSG_ERROR => {
            let code = i32::from_ne_bytes(array_at(body, 0)?);
            Err(Errno::from_raw(code.saturating_neg()))
        }
        _ => Ok(body),
    })
}

/// Appends an attribute.
pub(crate) fn put(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(4);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The value of the first attribute of this type.
pub(crate) fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)?;
        let value = bytes.get(4..length)?;
        if kind & NLA_TYPE_MASK == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

/// A number in the host's byte order.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array_at(bytes, at).map(u16::from_ne_bytes)
}

/// A number in the host's byte order.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_ne_bytes)
}

/// A number in the host's byte order.
pub(crate) fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    array_at(bytes, at).map(i32::from_ne_bytes)
}

/// `N` bytes.
pub(crate) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn attributes_come_back() {
        let mut body = Vec::new();
        put(&mut body, 1, b"abc");
        put(&mut body, 7, &5_u32.to_ne_bytes());
        assert_eq!(attribute(&body, 1), Some(b"abc".as_slice()));
        assert_eq!(attribute(&body, 7).and_then(|v| u32_at(v, 0)), Some(5));
        assert_eq!(attribute(&body, 2), None);
    }

    #[test]
    fn the_kernel_says_what_is_not_there() {
        let mut ask = [0; 16];
        ask[4..8].copy_from_slice(&i32::MAX.to_ne_bytes());
        let mut route = Route::open().unwrap();
        assert_eq!(route.get(18, &ask), Err(Errno::ENODEV)); // RTM_GETLINK
        ask[4..8].copy_from_slice(&1_i32.to_ne_bytes());
        let link = route.get(18, &ask).unwrap();
        assert_eq!(attribute(&link[16..], 3), Some(b"lo\0".as_slice())); // IFLA_IFNAME
    }

    proptest! {
        #[test]
        fn any_bytes_end_without_panic(bytes in vec(any::<u8>(), 0..100), kind: u16) {
            let _ = answer(&bytes);
            let _ = attribute(&bytes, kind);
        }
    }
}
