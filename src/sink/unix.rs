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
    format::Formatter,
    queue::Queue,
    worker::{SendError, Transport},
};
use crate::alert::{
    Alert,
    line::{Event, Layout, MAX_LINE},
};

/// Lengths to try when the socket says that a line is too long (EMSGSIZE): it has a small send
/// buffer. Receivers must take 480 bytes (RFC 5424 section 6.1).
const LIMITS: [usize; 3] = [MAX_LINE, 1024, 480];

/// How long the thread waits for a stream to take a line.
const STREAM_TIMEOUT: Duration = Duration::from_secs(5);

/// The socket, shared by the packet path and the sink's thread; locked only for calls that do not block.
#[derive(Debug)]
pub(super) struct UnixSink {
    path: PathBuf,
    formatter: Formatter,
    socket: Mutex<Socket>,
}

enum Socket {
    Closed,
    Datagram(Logger<LoggerBackend, Formatter>),
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
    pub(super) fn new(path: PathBuf, layout: Layout) -> Self {
        Self {
            path,
            formatter: Formatter(layout),
            socket: Mutex::new(Socket::Closed),
        }
    }

    /// Sends at once if nothing waits, else queues. The lock is held over both, so that lines of
    /// two threads stay in order.
    pub(super) fn submit(&self, queue: &Queue, alert: &Alert, share: impl FnOnce() -> Arc<Alert>) {
        let mut socket = self.lock();
        if queue.is_empty() && self.send(&mut socket, Event::Alert(alert)).is_ok() {
            queue.sent_directly();
        } else {
            queue.push(share());
        }
    }

    /// Sends without blocking; connects when it has to, and once again when the socket at the path
    /// was replaced.
    fn send(&self, socket: &mut Socket, event: Event<'_>) -> io::Result<()> {
        let fresh = matches!(socket, Socket::Closed);
        let result = self.send_once(socket, event);
        match result {
            Err(error) if !fresh && !is_busy(&error) && !matches!(socket, Socket::Stream) => {
                *socket = Socket::Closed;
                self.send_once(socket, event)
            }
            result => result,
        }
    }

    fn send_once(&self, socket: &mut Socket, event: Event<'_>) -> io::Result<()> {
        if matches!(socket, Socket::Closed) {
            *socket = self.connect()?;
        }
        let Socket::Datagram(logger) = socket else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let mut result = Ok(());
        for limit in LIMITS {
            result = logger.formatter.write(&mut logger.backend, event, limit);
            match &result {
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {}
                _ => break,
            }
        }
        if result.as_ref().is_err_and(|error| !is_busy(error)) {
            *socket = Socket::Closed;
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

/// The sink's thread's side.
#[derive(Debug)]
pub(super) struct UnixTransport {
    sink: Arc<UnixSink>,
    stream: Option<UnixStream>,
}

impl UnixTransport {
    pub(super) fn new(sink: Arc<UnixSink>) -> Self {
        Self { sink, stream: None }
    }

    fn send_stream(&mut self, event: Event<'_>) -> io::Result<()> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            empty => {
                let stream = UnixStream::connect(&self.sink.path)?;
                stream.set_write_timeout(Some(STREAM_TIMEOUT))?;
                empty.insert(stream)
            }
        };
        let mut line = Vec::with_capacity(MAX_LINE + 1);
        self.sink.formatter.write(&mut line, event, MAX_LINE)?;
        line.push(0); // what syslog(3) puts behind a line on a stream
        stream.write_all(&line)
    }
}

impl Transport for UnixTransport {
    fn send(&mut self, event: Event<'_>) -> Result<(), SendError> {
        let mut socket = self.sink.lock();
        match self.sink.send(&mut socket, event) {
            Ok(()) => return Ok(()),
            Err(_) if matches!(*socket, Socket::Stream) => {}
            Err(error) if is_busy(&error) => return Err(SendError::Busy(error)),
            Err(error) => return Err(SendError::Broken(error)),
        }
        drop(socket);
        self.send_stream(event).map_err(|error| {
            self.stream = None;
            *self.sink.lock() = Socket::Closed; // look again what is at the path
            SendError::Broken(error)
        })
    }
}
