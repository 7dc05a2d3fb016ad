//! Syslog over UDP (RFC 5426): one line a datagram.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use syslog::{Logger, LoggerBackend};

use super::{
    format::Formatter,
    stream::resolve,
    worker::{SendError, Transport},
};
use crate::{
    alert::line::{Event, Layout, MAX_LINE},
    config::HostPort,
};

/// A UDP target. The name is resolved again after each error.
pub(super) struct Udp {
    peer: HostPort,
    formatter: Formatter,
    logger: Option<Logger<LoggerBackend, Formatter>>,
}

impl Udp {
    pub(super) fn new(peer: HostPort, layout: Layout) -> Self {
        Self {
            peer,
            formatter: Formatter(layout),
            logger: None,
        }
    }

    fn connect(&self) -> io::Result<Logger<LoggerBackend, Formatter>> {
        let mut last = None;
        for addr in resolve(&self.peer)? {
            match open(addr) {
                Ok(socket) => {
                    let backend = LoggerBackend::Udp(socket, addr);
                    return Ok(Logger::new(backend, self.formatter.clone()));
                }
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

impl Transport for Udp {
    fn send(&mut self, event: Event<'_>) -> Result<(), SendError> {
        let mut logger = match self.logger.take() {
            Some(logger) => logger,
            None => self.connect().map_err(SendError::Broken)?,
        };
        match logger.formatter.write(&mut logger.backend, event, MAX_LINE) {
            Ok(()) => {
                self.logger = Some(logger);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                Err(SendError::Refused(error))
            }
            Err(error) => Err(SendError::Broken(error)),
        }
    }
}
