//! Syslog over UDP (RFC 5426): one line a datagram.
//!
//! Where nobody listens, the kernel says so a moment after a datagram (ICMP): the last one counts
//! as arrived only when no such error came for a while. What else becomes of a datagram nobody knows.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use super::{outbox::Wire, stream::resolve, worker::SendError};
use crate::config::HostPort;

/// How long an ICMP error may take.
const DOUBT: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 1000 });

/// A UDP target. The name is resolved again after each error.
pub(super) struct Udp {
    peer: HostPort,
    socket: Option<UdpSocket>,
    /// When the last datagram went.
    last: Option<Instant>,
}

impl Udp {
    pub(super) fn new(peer: HostPort) -> Self {
        Self {
            peer,
            socket: None,
            last: None,
        }
    }

    fn connect(&self) -> io::Result<UdpSocket> {
        let mut last = None;
        for addr in resolve(&self.peer)? {
            match open(addr) {
                Ok(socket) => return Ok(socket),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
    }
}

/// Connected, so that the kernel reports a port nobody listens on.
fn open(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = match addr {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
    }?;
    socket.connect(addr)?;
    Ok(socket)
}

impl Wire for Udp {
    fn send(&mut self, line: &[u8]) -> Result<(), SendError> {
        let socket = match &self.socket {
            Some(socket) => socket,
            None => {
                let socket = self.connect().map_err(SendError::Broken)?;
                self.socket.insert(socket)
            }
        };
        socket.send(line).map_err(SendError::Broken)?;
        self.last = Some(Instant::now());
        Ok(())
    }

    fn unconfirmed(&mut self) -> usize {
        usize::from(self.last.is_some_and(|last| last.elapsed() < DOUBT))
    }

    fn check(&mut self) -> Result<(), SendError> {
        match self.socket.as_ref().map(UdpSocket::take_error) {
            Some(Ok(Some(error)) | Err(error)) => Err(SendError::Broken(error)),
            Some(Ok(None)) | None => Ok(()),
        }
    }

    fn disconnect(&mut self) {
        (self.socket, self.last) = (None, None);
    }
}
