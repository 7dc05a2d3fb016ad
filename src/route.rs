//! Questions to the kernel's route netlink (rtnetlink(7)), of which two edges have some.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, SockProtocol, recv, send},
};

use crate::{
    netlink::{Attributes, DONE, DUMP, DUMP_INTERRUPTED, REQUEST, messages, request},
    netlink_socket,
};

/// One link with all its attributes is about 2 KiB; a part of a list has at most 32 KiB.
const BUFFER: usize = 32 * 1024;

/// A socket that asks one question at a time, of the network namespace it was opened in.
pub(crate) struct Route {
    socket: OwnedFd,
    sequence: u32,
    buffer: Box<[u8]>,
}

impl Route {
    pub(crate) fn open() -> Result<Self, Errno> {
        let socket = netlink_socket::open(SockProtocol::NetlinkRoute)?;
        netlink_socket::connect_to_kernel(&socket)?;
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
        let ask = request(kind, REQUEST, self.sequence, body, &[]);
        send(self.socket.as_raw_fd(), &ask, MsgFlags::empty())?;
        let length = loop {
            let length = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
            let datagram = self.buffer.get(..length).unwrap_or_default();
            // Another number: the late answer to an earlier question.
            if messages(datagram).any(|message| message.seq == self.sequence) {
                break length;
            }
        };
        let datagram = self.buffer.get(..length).unwrap_or_default();
        let answer = messages(datagram)
            .find(|message| message.seq == self.sequence)
            .ok_or(Errno::EBADMSG)?;
        match answer.errno() {
            Some(code) => Err(Errno::from_raw(code)),
            None => Ok(answer.payload),
        }
    }

    /// Gives each answer of a list to `each`, without its header, until that says no. The socket is used
    /// up: what was not read is still in it.
    ///
    /// # Errors
    /// What the kernel says; `EINTR`: the list changed meanwhile and may be wrong.
    pub(crate) fn list(
        mut self,
        kind: u16,
        body: &[u8],
        mut each: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), Errno> {
        let ask = request(kind, REQUEST | DUMP, 1, body, &[]);
        send(self.socket.as_raw_fd(), &ask, MsgFlags::empty())?;
        let mut interrupted = false;
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
            let datagram = self.buffer.get(..length).unwrap_or_default();
            for message in messages(datagram) {
                if let Some(code) = message.errno() {
                    return Err(Errno::from_raw(code));
                }
                interrupted |= message.flags & DUMP_INTERRUPTED != 0;
                if let Some(code) = message.broken_off() {
                    return Err(Errno::from_raw(code));
                }
                if message.kind == DONE {
                    return if interrupted {
                        Err(Errno::EINTR)
                    } else {
                        Ok(())
                    };
                }
                if !each(message.payload) {
                    return Ok(());
                }
            }
        }
    }
}

/// The value of the first attribute of this type.
pub(crate) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    Attributes(bytes).get(wanted)
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

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn a_list_has_everything_or_what_was_wanted_of_it() {
        let mut names = Vec::new();
        let name = |link: &[u8]| crate::netlink::text(attribute(&link[16..], 3).unwrap());
        let all = |link: &[u8]| {
            names.push(name(link));
            true
        };
        Route::open().unwrap().list(18, &[0; 16], all).unwrap();
        assert!(names.iter().any(|name| name == "lo"), "{names:?}");
        let mut seen = 0;
        let one = |_: &[u8]| {
            seen += 1;
            false
        };
        Route::open().unwrap().list(18, &[0; 16], one).unwrap();
        assert_eq!(seen, 1);
    }

    #[test]
    fn a_list_that_breaks_off_is_an_error() {
        let done = |code: i32| {
            let mut bytes = request(24, 2, 1, &[0; 12], &[]);
            bytes.extend(request(DONE, 2, 1, &code.to_ne_bytes(), &[]));
            bytes
        };
        for (code, expect) in [(0, None), (-90, Some(90))] {
            let bytes = done(code);
            let last = messages(&bytes).last().unwrap();
            assert_eq!(last.broken_off(), expect);
        }
    }
}
