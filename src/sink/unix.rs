//! A local syslog socket: straight from the packet path when it takes the line, else by the queue.

use std::{
    io::{self, Write},
    os::unix::net::{UnixDatagram, UnixStream},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use syslog::{Logger, LoggerBackend};

use super::{
    format::Formatter, outbox::Wire, outq, queue::Queue, stream::drain, worker::SendError,
};
use crate::alert::{
    Alert,
    line::{Event, MAX_LINE},
};

/// Lengths to try when the socket says that a line is too long (EMSGSIZE): it has a small send
/// buffer. Receivers must take 480 bytes (RFC 5424 section 6.1).
const LIMITS: [usize; 3] = [MAX_LINE, 1024, 480];

/// How long the thread waits for a stream to take more of a line; then its reader is busy.
const STREAM_TIMEOUT: Duration = Duration::from_millis(200);

/// The socket, shared by the packet path and the sink's thread; locked only for calls that do not block.
#[derive(Debug)]
pub(super) struct UnixSink {
    path: PathBuf,
    formatter: Formatter,
    socket: Mutex<Socket>,
}

type Link = Logger<LoggerBackend, Formatter>;

enum Socket {
    Closed,
    Datagram(Link),
    /// A stream socket is at the path; only the sink's thread writes to it.
    Stream,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Closed => "Closed",
            Self::Datagram(_) => "Datagram",
            Self::Stream => "Stream",
        })
    }
}

impl UnixSink {
    pub(super) fn new(path: PathBuf, formatter: Formatter) -> Self {
        Self {
            path,
            formatter,
            socket: Mutex::new(Socket::Closed),
        }
    }

    /// Sends at once if nothing waits, else queues. The lock is held over both, so that lines of
    /// two threads stay in order.
    pub(super) fn submit(&self, queue: &Queue, alert: &Alert, share: impl FnOnce() -> Arc<Alert>) {
        let mut socket = self.lock();
        let send = |socket: &mut Socket| self.send(socket, |s| self.write(s, Event::Alert(alert)));
        if queue.is_empty() && send(&mut socket).is_ok() {
            queue.sent_directly();
        } else {
            queue.push(share());
        }
    }

    /// Sends without blocking; connects when it has to, and once again when the socket at the path
    /// was replaced.
    fn send(
        &self,
        socket: &mut Socket,
        mut write: impl FnMut(&mut Link) -> io::Result<()>,
    ) -> io::Result<()> {
        let fresh = matches!(socket, Socket::Closed);
        let result = self.send_once(socket, &mut write);
        match result {
            Err(error)
                if !fresh
                    && !is_busy(&error)
                    && !is_too_long(&error)
                    && !matches!(socket, Socket::Stream) =>
            {
                *socket = Socket::Closed;
                self.send_once(socket, &mut write)
            }
            result => result,
        }
    }

    fn send_once(
        &self,
        socket: &mut Socket,
        write: &mut impl FnMut(&mut Link) -> io::Result<()>,
    ) -> io::Result<()> {
        if matches!(socket, Socket::Closed) {
            *socket = self.connect()?;
        }
        let Socket::Datagram(link) = socket else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let result = write(link);
        if result
            .as_ref()
            .is_err_and(|error| !is_busy(error) && !is_too_long(error))
        {
            *socket = Socket::Closed;
        }
        result
    }

    /// Writes the line of `event`, a shorter one if it must be.
    fn write(&self, link: &mut Link, event: Event<'_>) -> io::Result<()> {
        let mut result = Ok(());
        for limit in LIMITS {
            result = link.formatter.write(&mut link.backend, event, limit);
            match &result {
                Err(error) if is_too_long(error) => {}
                _ => break,
            }
        }
        result
    }

    /// Connecting a datagram socket does not block.
    fn connect(&self) -> io::Result<Socket> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        match socket.connect(&self.path) {
            Ok(()) => Ok(Socket::Datagram(Logger::new(
                LoggerBackend::Unix(socket),
                self.formatter.clone(),
            ))),
            Err(error) if error.raw_os_error() == Some(libc::EPROTOTYPE) => Ok(Socket::Stream),
            Err(error) => Err(error),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Socket> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The receiver lives but its queue is full.
fn is_busy(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
}

fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMSGSIZE)
}

/// The sink's thread's side.
#[derive(Debug)]
pub(super) struct UnixWire {
    sink: Arc<UnixSink>,
    stream: Option<Stream>,
}

/// A connection, where the path is a stream socket.
#[derive(Debug)]
struct Stream {
    socket: UnixStream,
    /// Rest of the line that is being written.
    rest: Vec<u8>,
    /// Lines since its reader had read everything.
    unread: usize,
}

impl UnixWire {
    pub(super) fn new(sink: Arc<UnixSink>) -> Self {
        Self { sink, stream: None }
    }

    fn send_stream(&mut self, line: &[u8]) -> io::Result<()> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            empty => {
                let socket = UnixStream::connect(&self.sink.path)?;
                socket.set_write_timeout(Some(STREAM_TIMEOUT))?;
                empty.insert(Stream {
                    socket,
                    rest: Vec::new(),
                    unread: 0,
                })
            }
        };
        if stream.rest.is_empty() {
            stream.rest = line.to_vec();
            stream.rest.push(0); // what syslog(3) puts behind a line on a stream
        }
        while !stream.rest.is_empty() {
            match stream.socket.write(&stream.rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => drop(stream.rest.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        stream.unread += 1;
        Ok(())
    }
}

impl Wire for UnixWire {
    fn send(&mut self, line: &[u8]) -> Result<(), SendError> {
        if self.stream.is_none() {
            let mut socket = self.sink.lock();
            let write = |link: &mut Link| match &link.backend {
                LoggerBackend::Unix(socket) => socket.send(line).map(drop),
                _ => Err(io::ErrorKind::Unsupported.into()),
            };
            match self.sink.send(&mut socket, write) {
                Ok(()) => return Ok(()),
                Err(_) if matches!(*socket, Socket::Stream) => {}
                Err(error) if is_busy(&error) => return Err(SendError::Busy(error)),
                Err(error) if is_too_long(&error) => {
                    let shorter = LIMITS.into_iter().find(|limit| *limit < line.len());
                    return Err(SendError::TooLong(shorter.unwrap_or_default()));
                }
                Err(error) => return Err(SendError::Broken(error)),
            }
        }
        self.check()?;
        self.send_stream(line).map_err(|error| {
            if is_busy(&error) {
                SendError::Busy(error)
            } else {
                SendError::Broken(error)
            }
        })
    }

    /// The send queue of a unix socket is empty when its reader has read everything; that of a
    /// reader that is gone is empty as well.
    fn unconfirmed(&mut self) -> usize {
        let Some(stream) = &mut self.stream else {
            return 0;
        };
        let read = outq::unacknowledged(&stream.socket).is_ok_and(|open| open == 0);
        if read && drain(&stream.socket) {
            stream.unread = 0;
        }
        stream.unread
    }

    fn check(&mut self) -> Result<(), SendError> {
        if self
            .stream
            .as_ref()
            .is_none_or(|stream| drain(&stream.socket))
        {
            return Ok(());
        }
        let text = "the receiver closed the connection";
        let error = io::Error::new(io::ErrorKind::ConnectionReset, text);
        Err(SendError::Closed(error))
    }

    fn disconnect(&mut self) {
        if self.stream.take().is_some() {
            *self.sink.lock() = Socket::Closed; // look again what is at the path
        }
    }
}
