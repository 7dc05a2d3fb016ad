//! Tells of connections that end, with what they moved where the kernel counts it.
//!
//! The kernel tells of every connection of the network namespace, and only of those that began while
//! somebody listened. What a full buffer did not take is noticed as lost, not how many there were.

use std::{
    fs,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, NetlinkAddr, SockProtocol, bind, recv, setsockopt, sockopt},
};

use super::{ConntrackError, Entry, SUBSYSTEM};
use crate::{flowlog::Traffic, netlink, netlink_socket, packet::Flow};

/// `NFNLGRP_CONNTRACK_DESTROY` (linux/netfilter/nfnetlink_compat.h), as bind(2) takes it: one bit.
const DESTROYED: u32 = 4;
/// `IPCTNL_MSG_CT_DELETE`
const DELETE: u16 = SUBSYSTEM | 2;
/// Some 40,000 ends: the kernel uses it only while they wait.
const RECEIVE_BUFFER: usize = 32 << 20;
/// Datagrams taken in one turn.
const TURN: usize = 4096;
/// Below the root of sysctls.
const ACCOUNTING: &str = "net/netfilter/nf_conntrack_acct";

/// A connection that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destroyed {
    /// As the filter hooks saw its first packet.
    pub flow: Flow,
    /// What it moved; `None` where the kernel did not count.
    pub traffic: Option<Traffic>,
}

/// The listener, for one thread.
#[derive(Debug)]
pub struct Events {
    socket: OwnedFd,
    buffer: Box<[u8]>,
}

impl Events {
    /// Listens in this thread's network namespace from now on.
    pub fn open() -> Result<Self, ConntrackError> {
        Self::with_buffer(RECEIVE_BUFFER)
    }

    pub(super) fn with_buffer(bytes: usize) -> Result<Self, ConntrackError> {
        let fail = |step| {
            move |e: Errno| ConntrackError::Socket {
                step,
                source: e.into(),
            }
        };
        let socket = netlink_socket::open(SockProtocol::NetlinkNetFilter)
            .map_err(fail("opening a socket for the ends of connections"))?;
        setsockopt(&socket, sockopt::RcvBufForce, &bytes)
            .map_err(fail("enlarging the buffer for the ends of connections"))?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, DESTROYED))
            .map_err(fail("listening for the ends of connections"))?;
        Ok(Self {
            socket,
            buffer: vec![0; 1 << 16].into_boxed_slice(),
        })
    }

    /// Waits at most `limit` for ends and gives those that are there; true when some were lost.
    pub fn next(&mut self, limit: Duration) -> Result<(Vec<Destroyed>, bool), ConntrackError> {
        let fail = |e: Errno| ConntrackError::Socket {
            step: "listening for the ends of connections",
            source: e.into(),
        };
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(fail(e)),
        }
        let (mut ends, mut lost) = (Vec::new(), false);
        for _ in 0..TURN {
            match recv(
                self.socket.as_raw_fd(),
                &mut self.buffer,
                MsgFlags::MSG_DONTWAIT,
            ) {
                Ok(len) => ends.extend(read(self.buffer.get(..len).unwrap_or_default())),
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                // What waited before the overflow is still there to be read.
                Err(Errno::ENOBUFS) => lost = true,
                Err(e) => return Err(fail(e)),
            }
        }
        Ok((ends, lost))
    }
}

fn read(bytes: &[u8]) -> impl Iterator<Item = Destroyed> {
    netlink::messages(bytes)
        .filter(|message| message.kind == DELETE)
        .filter_map(|message| Entry::read(message.payload))
        .map(|entry| Destroyed {
            flow: entry.filtered(),
            traffic: entry.traffic,
        })
}

/// Makes the kernel count bytes and packets of connections that begin from now on, in this network
/// namespace; true when it did not before. `sysctls` is /proc/sys.
pub fn count_traffic(sysctls: &Path) -> std::io::Result<bool> {
    let path = sysctls.join(ACCOUNTING);
    if fs::read_to_string(&path)?.trim() != "0" {
        return Ok(false);
    }
    fs::write(&path, "1\n")?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counting_is_switched_on_once() {
        let dir = tempfile::tempdir().unwrap();
        assert!(count_traffic(dir.path()).is_err());
        let path = dir.path().join(ACCOUNTING);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "0\n").unwrap();
        assert!(count_traffic(dir.path()).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
        assert!(!count_traffic(dir.path()).unwrap());
    }
}
