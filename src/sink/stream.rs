//! Syslog over TCP (RFC 6587) and over TLS (RFC 5425): octet counting, or a line feed behind the
//! lines of the older forms.
//!
//! TCP alone loses what is in the send buffer when a connection breaks. So lines count as arrived
//! only when the receiver's kernel has acknowledged their last byte (SIOCOUTQ, tcp(7)), and a
//! connection that the receiver has closed is noticed before a line is written to it. A receiver
//! that dies with lines in its own buffers loses them: syslog has no acknowledgement of its own.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    os::fd::AsRawFd,
    time::Duration,
};

use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};

use super::{
    outbox::Wire,
    outq,
    tls::{Client, Session},
    worker::SendError,
};
use crate::config::{Host, HostPort};

/// Longest wait for a connection. Shorter in tests, which wait for it.
pub(super) const CONNECT: Duration = Duration::from_millis(if cfg!(test) { 300 } else { 5000 });

/// Longest wait for the receiver to take more of a line; then it is busy.
const WRITE: Duration = Duration::from_millis(200);

/// A receiver that acknowledges nothing for so long, or takes nothing, is gone (TCP_USER_TIMEOUT).
const GONE: u32 = 60_000;

/// A TCP or TLS target. The name is resolved again for each connection.
pub(super) struct Tcp {
    peer: HostPort,
    /// Octet counting, else a line feed.
    octets: bool,
    tls: Option<Client>,
    link: Option<Link>,
}

/// One connection.
struct Link {
    socket: Socket,
    tls: Option<Box<Session>>,
    /// Rest of the line that is being written; with TLS the session has it.
    rest: Vec<u8>,
    /// A line is being written.
    in_line: bool,
    /// Where the lines end that the receiver's kernel may not have, in bytes written.
    ends: VecDeque<u64>,
}

/// A socket that counts what was written.
pub(super) struct Socket {
    stream: TcpStream,
    written: u64,
}

impl Tcp {
    pub(super) fn new(peer: HostPort, octets: bool, tls: Option<Client>) -> Self {
        Self {
            peer,
            octets,
            tls,
            link: None,
        }
    }

    fn connect(&self) -> io::Result<Link> {
        let mut last = None;
        for addr in resolve(&self.peer)? {
            match self.open(addr) {
                Ok(link) => return Ok(link),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
    }

    fn open(&self, addr: SocketAddr) -> io::Result<Link> {
        let stream = TcpStream::connect_timeout(&addr, CONNECT)?;
        stream.set_nodelay(true)?;
        setsockopt(&stream, sockopt::KeepAlive, &true)?;
        setsockopt(&stream, sockopt::TcpUserTimeout, &GONE)?;
        let mut socket = Socket { stream, written: 0 };
        let tls = match &self.tls {
            Some(client) => Some(Box::new(client.handshake(&mut socket)?)),
            None => None,
        };
        socket.stream.set_write_timeout(Some(WRITE))?;
        Ok(Link {
            socket,
            tls,
            rest: Vec::new(),
            in_line: false,
            ends: VecDeque::new(),
        })
    }

    fn frame(&self, line: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(line.len() + 5);
        if self.octets {
            frame.extend_from_slice(format!("{} ", line.len()).as_bytes());
            frame.extend_from_slice(line);
        } else {
            frame.extend_from_slice(line);
            frame.push(b'\n');
        }
        frame
    }
}

impl Wire for Tcp {
    fn send(&mut self, line: &[u8]) -> Result<(), SendError> {
        self.check()?;
        let frame = self.frame(line);
        let link = match &mut self.link {
            Some(link) => link,
            None => {
                let link = self.connect().map_err(SendError::Broken)?;
                self.link.insert(link)
            }
        };
        match link.write(frame) {
            Ok(()) => Ok(()),
            Err(error) if is_busy(&error) => Err(SendError::Busy(error)),
            Err(error) => Err(SendError::Broken(error)),
        }
    }

    fn unconfirmed(&mut self) -> usize {
        let Some(link) = &mut self.link else { return 0 };
        // Without an answer nothing is confirmed.
        if let Ok(open) = outq::unacknowledged(&link.socket.stream) {
            let acknowledged = link.socket.written.saturating_sub(open);
            while link.ends.front().is_some_and(|end| *end <= acknowledged) {
                link.ends.pop_front();
            }
        }
        link.ends.len()
    }

    fn check(&mut self) -> Result<(), SendError> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        match &mut link.tls {
            Some(session) => session
                .listen(&mut link.socket)
                .map_err(SendError::Broken)?,
            None => drain(&link.socket.stream),
        }
        .then_some(())
        .ok_or_else(|| {
            let text = "the receiver closed the connection";
            SendError::Closed(io::Error::new(io::ErrorKind::ConnectionReset, text))
        })
    }

    /// With a reset where lines are unconfirmed: the kernel would go on sending them, and they are
    /// sent on the next connection too.
    fn disconnect(&mut self) {
        let open = self.unconfirmed() > 0;
        let Some(mut link) = self.link.take() else {
            return;
        };
        if open || link.in_line {
            let linger = libc::linger {
                l_onoff: 1,
                l_linger: 0,
            };
            let _ = setsockopt(&link.socket.stream, sockopt::Linger, &linger);
        } else if let Some(session) = &mut link.tls {
            session.close(&mut link.socket);
        }
    }
}

impl Link {
    /// Writes the line, or the rest of it after a busy receiver.
    fn write(&mut self, frame: Vec<u8>) -> io::Result<()> {
        if !self.in_line {
            self.in_line = true;
            match &mut self.tls {
                Some(session) => session.take(&frame)?,
                None => self.rest = frame,
            }
        }
        match &mut self.tls {
            Some(session) => session.flush(&mut self.socket)?,
            None => {
                while !self.rest.is_empty() {
                    let written = self.socket.write(&self.rest)?;
                    self.rest.drain(..written);
                }
            }
        }
        self.in_line = false;
        self.ends.push_back(self.socket.written);
        Ok(())
    }
}

impl Socket {
    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.stream.write(bytes) {
                Ok(0) if !bytes.is_empty() => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.written += u64::try_from(written).unwrap_or(0);
                    return Ok(written);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn is_busy(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    ) && error.raw_os_error() != Some(libc::ETIMEDOUT)
}

/// False when the receiver has closed: a write would still succeed, and the line would be lost.
/// A receiver has nothing to say; what it says is read and forgotten.
pub(super) fn drain(socket: &impl AsRawFd) -> bool {
    let mut buffer = [0; 512];
    loop {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
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
        Host::Name(name) => (name.as_str(), peer.port)
            .to_socket_addrs()
            .map(Iterator::collect)
            .map_err(|error| {
                io::Error::new(error.kind(), format!("cannot resolve {name}: {error}"))
            }),
    }
}
