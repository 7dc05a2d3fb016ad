//! The kernel's table of connections (ctnetlink): lists established flows, sets a bit of their mark, and
//! tells of those that end.
//!
//! Knows nothing of feeds. A flow that has ended between listing and marking is no error.

mod entry;
#[cfg(test)]
mod event_tests;
mod events;

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use caps::Capability;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, SockProtocol, recv, send, setsockopt, sockopt},
};

pub use entry::{Entry, Handle, Tuple};
pub use events::{Destroyed, Events, count_traffic};

use crate::{
    lacks,
    netlink::{self, ACK, DUMP, REQUEST},
    netlink_socket,
};

// linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h
const SUBSYSTEM: u16 = 1 << 8;
const CT_NEW: u16 = SUBSYSTEM;
const CT_GET: u16 = SUBSYSTEM | 1;
const MARK: u16 = 8;
const MARK_MASK: u16 = 21;
const RECEIVE_BUFFER: usize = 1 << 20;
/// The kernel answers a request for one flow within this time.
const ANSWER: Duration = Duration::from_secs(1);

/// What went wrong between the daemon and ctnetlink.
#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    /// A system call.
    #[error("{step}: {source}{}", needed(source))]
    Socket {
        /// What was being done.
        step: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel refused a request.
    #[error("the kernel refused {what}: {}", errno.desc())]
    Refused {
        /// The request.
        what: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// No answer in time.
    #[error("the kernel did not answer {what} in time")]
    Timeout {
        /// The request.
        what: String,
    },
}

/// What would mend it, by what is missing.
fn needed(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM | Errno::EACCES) => {
            format!("; {}", lacks::capabilities(&[Capability::CAP_NET_ADMIN]))
        }
        Some(Errno::EPROTONOSUPPORT | Errno::EOPNOTSUPP | Errno::ECONNREFUSED) => {
            "; a kernel with CONFIG_NF_CT_NETLINK is needed".to_owned()
        }
        Some(errno) => lacks::descriptors(errno).map_or_else(String::new, |few| format!("; {few}")),
        None => String::new(),
    }
}

/// A ctnetlink socket, for one thread.
#[derive(Debug)]
pub struct Conntrack {
    socket: OwnedFd,
    seq: u32,
    buffer: Box<[u8]>,
}

impl Conntrack {
    /// Opens the table of this thread's network namespace.
    pub fn open() -> Result<Self, ConntrackError> {
        let fail = |step| {
            move |e: Errno| ConntrackError::Socket {
                step,
                source: e.into(),
            }
        };
        let socket = netlink_socket::open(SockProtocol::NetlinkNetFilter)
            .map_err(fail("opening a socket for conntrack"))?;
        netlink_socket::connect_to_kernel(&socket)
            .map_err(fail("connecting a socket for conntrack"))?;
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
            .map_err(fail("enlarging the buffer for conntrack"))?;
        Ok(Self {
            socket,
            seq: 0,
            buffer: vec![0; 1 << 16].into_boxed_slice(),
        })
    }

    /// Calls `each` for every flow of both families; with `marked`, for those that have these bits in
    /// their mark. A flow that comes or goes meanwhile may be missed.
    pub fn list(
        &mut self,
        marked: Option<u32>,
        deadline: Instant,
        mut each: impl FnMut(&Entry<'_>),
    ) -> Result<(), ConntrackError> {
        let mut filter = Vec::new();
        if let Some(bits) = marked {
            netlink::put(&mut filter, MARK, &bits.to_be_bytes());
            netlink::put(&mut filter, MARK_MASK, &bits.to_be_bytes());
        }
        let what = || "a list of connections".to_owned();
        self.request(CT_GET, REQUEST | DUMP, &[0, 0, 0, 0], &filter)?;
        loop {
            let (seq, bytes) = self.receive(deadline, what)?;
            for message in netlink::messages(bytes).filter(|m| m.seq == seq) {
                match message.errno() {
                    Some(0) => {}
                    Some(errno) => return Err(refused(what(), errno)),
                    None if message.kind == netlink::DONE => return Ok(()),
                    None => {
                        // Kernels without the filter list everything.
                        let entry = Entry::read(message.payload)
                            .filter(|entry| marked.is_none_or(|bits| entry.mark & bits == bits));
                        if let Some(entry) = entry {
                            each(&entry);
                        }
                    }
                }
            }
        }
    }

    /// Sets (or takes off) the bits `mask` of a flow's mark and no others; false when the flow is gone.
    pub fn mark(&mut self, flow: &Handle, mask: u32, on: bool) -> Result<bool, ConntrackError> {
        let what = || "a mark on a connection".to_owned();
        let mut attributes = flow.attributes();
        let value = if on { mask } else { 0 };
        netlink::put(&mut attributes, MARK, &value.to_be_bytes());
        netlink::put(&mut attributes, MARK_MASK, &mask.to_be_bytes());
        self.request(CT_NEW, REQUEST | ACK, &flow.head(), &attributes)?;
        let deadline = Instant::now() + ANSWER;
        loop {
            let (seq, bytes) = self.receive(deadline, what)?;
            for message in netlink::messages(bytes).filter(|m| m.seq == seq) {
                match message.errno().map(|errno| (errno, Errno::from_raw(errno))) {
                    Some((0, _)) => return Ok(true),
                    Some((_, Errno::ENOENT)) => return Ok(false),
                    Some((errno, _)) => return Err(refused(what(), errno)),
                    None => {}
                }
            }
        }
    }

    /// Takes the bits `mask` off every flow's mark; how many had them.
    pub fn unmark_all(&mut self, mask: u32, deadline: Instant) -> Result<usize, ConntrackError> {
        let mut flows = Vec::new();
        self.list(Some(mask), deadline, |entry| flows.push(entry.handle()))?;
        for flow in &flows {
            self.mark(flow, mask, false)?;
        }
        Ok(flows.len())
    }

    fn request(
        &mut self,
        kind: u16,
        flags: u16,
        head: &[u8],
        attributes: &[u8],
    ) -> Result<(), ConntrackError> {
        self.seq = self.seq.wrapping_add(1);
        let message = netlink::request(kind, flags, self.seq, head, attributes);
        match send(self.socket.as_raw_fd(), &message, MsgFlags::empty()) {
            Ok(_) => Ok(()),
            Err(e) => Err(ConntrackError::Socket {
                step: "asking conntrack",
                source: e.into(),
            }),
        }
    }

    /// The next datagram, with the sequence number that answers have.
    fn receive(
        &mut self,
        deadline: Instant,
        what: impl Fn() -> String,
    ) -> Result<(u32, &[u8]), ConntrackError> {
        let fail = |e: Errno| ConntrackError::Socket {
            step: "waiting for conntrack's answer",
            source: e.into(),
        };
        let len = loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(len) => break len,
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(e) => return Err(fail(e)),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ConntrackError::Timeout { what: what() });
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(fail(e)),
            }
        };
        Ok((self.seq, self.buffer.get(..len).unwrap_or_default()))
    }
}

fn refused(what: String, errno: i32) -> ConntrackError {
    ConntrackError::Refused {
        what,
        errno: Errno::from_raw(errno),
    }
}
