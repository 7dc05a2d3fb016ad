//! Syslog over TCP (RFC 6587): octet counting for RFC 5424 lines, a line feed behind older ones.

use std::{
    io::{self, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    os::fd::AsRawFd,
    time::Duration,
};

use nix::sys::socket::{MsgFlags, recv};

use super::{
    format::Formatter,
    worker::{SendError, Transport},
};
use crate::{
    alert::line::{Event, Layout, MAX_LINE},
    config::{Host, HostPort},
};

/// Longest wait for a connection, and for the receiver to take a line. Shorter in tests, which
/// wait for it.
const TIMEOUT: Duration = Duration::from_millis(if cfg!(test) { 300 } else { 5000 });

/// A TCP target. The name is resolved again for each connection.
pub(super) struct Tcp {
    peer: HostPort,
    formatter: Formatter,
    /// Octet counting, else a line feed.
    octets: bool,
    stream: Option<TcpStream>,
}

impl Tcp {
    pub(super) fn new(peer: HostPort, layout: Layout, octets: bool) -> Self {
        Self {
            peer,
            formatter: Formatter(layout),
            octets,
            stream: None,
        }
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let mut last = None;
        for addr in resolve(&self.peer)? {
            match TcpStream::connect_timeout(&addr, TIMEOUT) {
                Ok(stream) => {
                    stream.set_write_timeout(Some(TIMEOUT))?;
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
    }

    fn frame(&self, event: Event<'_>) -> io::Result<Vec<u8>> {
        let mut line = Vec::with_capacity(MAX_LINE + 1);
        self.formatter.write(&mut line, event, MAX_LINE)?;
        if !self.octets {
            line.push(b'\n');
            return Ok(line);
        }
        let mut frame = format!("{} ", line.len()).into_bytes();
        frame.append(&mut line);
        Ok(frame)
    }
}

impl Transport for Tcp {
    /// A line that was written in part is sent again, whole, on a new connection.
    fn send(&mut self, event: Event<'_>) -> Result<(), SendError> {
        let frame = self.frame(event).map_err(SendError::Broken)?;
        let mut stream = match self.stream.take().filter(is_open) {
            Some(stream) => stream,
            None => self.connect().map_err(SendError::Broken)?,
        };
        stream.write_all(&frame).map_err(SendError::Broken)?;
        self.stream = Some(stream);
        Ok(())
    }
}

/// False when the receiver has closed: a write would still succeed, and the line would be lost.
/// A receiver has nothing to say; what it says is read and forgotten.
fn is_open(stream: &TcpStream) -> bool {
    let mut buffer = [0; 512];
    loop {
        match recv(stream.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(nix::errno::Errno::EAGAIN) => return true,
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

/// The addresses of `peer`.
pub(super) fn resolve(peer: &HostPort) -> io::Result<Vec<SocketAddr>> {
    match &peer.host {
        Host::Addr(addr) => Ok(vec![SocketAddr::new(*addr, peer.port)]),
        Host::Name(name) => Ok((name.as_str(), peer.port).to_socket_addrs()?.collect()),
    }
}
