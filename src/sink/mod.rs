//! Where alerts go: syslog over unix sockets, UDP and TCP, and a JSON file.
//!
//! [`Sinks::submit`] is called while a packet is held, so it never blocks: a local datagram socket
//! gets its line at once, before the verdict; every other sink gets the alert into a bounded queue
//! that one thread empties. A socket that is gone or full hands over to its queue, and lines stay
//! in order. What a full queue could not take is counted and told to that sink when it works again.
//!
//! Of the syslog crate this uses `Facility`, `Severity`, the `LogFormat` trait and
//! `Logger<LoggerBackend>` for datagrams. Not its formatters: `Formatter5424` has a numeric MSGID
//! and sorts the keys of an element, `Formatter3164` pads the day with a zero and takes UTC for
//! local time. Not its stream backends: a `BufWriter` keeps what a broken connection did not take,
//! and sends it again when it is dropped.
//!
//! Syslog over TCP has no acknowledgement (RFC 6587): lines in the kernel's send buffer at the
//! moment a connection breaks are lost unseen.

mod file;
mod format;
mod queue;
mod stream;
mod udp;
mod unix;
mod worker;

#[cfg(test)]
mod rsyslog_tests;

use std::{
    borrow::Cow,
    io,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crate::{
    alert::{
        Alert,
        ecs::Observer,
        line::{Layout, LossKind},
    },
    config::{self, Host, HostPort, SyslogAddress, SyslogFormat},
};

pub use crate::alert::line::Identity;
use queue::Queue;
use unix::UnixSink;
use worker::Transport;

/// Alerts a queue holds for a sink that does not take them now.
pub const QUEUE_LINES: usize = 8192;

/// A sink cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The JSON file.
    #[error(
        "alerts.json-file {path}: {source}; its folder must exist and be writable for feedgate"
    )]
    JsonFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A thread.
    #[error("cannot start the thread of sink {name}: {source}; check the limit of tasks")]
    Thread {
        /// The sink.
        name: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Counters of one sink, since it was opened.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SinkStats {
    /// As the configuration writes it: `unix:/dev/log`, `udp:host:514`, `json-file:/var/log/...`.
    pub name: String,
    /// Alerts handed over.
    pub sent: u64,
    /// Alerts waiting.
    pub queued: u64,
    /// Alerts given up.
    pub dropped: u64,
    /// The last error, in words; `None` when it works.
    pub last_error: Option<String>,
}

/// All sinks of a configuration.
#[derive(Debug)]
pub struct Sinks {
    list: Vec<Sink>,
}

#[derive(Debug)]
struct Sink {
    queue: Arc<Queue>,
    /// The way around the queue.
    direct: Option<Arc<UnixSink>>,
}

impl Sinks {
    /// Opens the JSON file and starts one thread for each sink. A syslog target that is not there
    /// yet is no error: its lines wait.
    pub fn open(alerts: &config::Alerts, identity: Identity) -> Result<Self, SinkError> {
        Self::with_capacity(alerts, identity, QUEUE_LINES)
    }

    fn with_capacity(
        alerts: &config::Alerts,
        identity: Identity,
        capacity: usize,
    ) -> Result<Self, SinkError> {
        let mut sinks = Self { list: Vec::new() };
        if let Some(path) = &alerts.json_file {
            let observer = Observer {
                hostname: identity.hostname.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
            };
            let file =
                file::JsonFile::open(path, observer).map_err(|source| SinkError::JsonFile {
                    path: path.clone(),
                    source,
                })?;
            let name = format!("json-file:{}", path.display());
            sinks.start(Queue::new(name, capacity), None, file)?;
        }
        for target in &alerts.syslog {
            sinks.add_syslog(target, &identity, capacity)?;
        }
        Ok(sinks)
    }

    /// Hands one alert to every sink; never blocks.
    pub fn submit(&self, alert: &Alert) {
        let mut shared = None;
        for sink in &self.list {
            let mut share = || Arc::clone(shared.get_or_insert_with(|| Arc::new(alert.clone())));
            match &sink.direct {
                Some(direct) => direct.submit(&sink.queue, alert, share),
                None => sink.queue.push(share()),
            }
        }
    }

    /// Tells every sink of `count` packets that `what` says; never blocks.
    pub fn report(&self, count: u64, what: &'static str) {
        for sink in &self.list {
            sink.queue
                .report(count, LossKind::Unattributed, Cow::Borrowed(what));
        }
    }

    /// Tells every sink that the table was not whole for so many milliseconds, and `why`, in printable
    /// ASCII; never blocks.
    pub fn unprotected(&self, milliseconds: u64, why: &str) {
        for sink in &self.list {
            let why = Cow::Owned(format!("milliseconds without full protection: {why}"));
            sink.queue.report(milliseconds, LossKind::Unprotected, why);
        }
    }

    /// Tells every sink of `count` flows without an alert because of the rate limit, of which `what` says
    /// more in printable ASCII; never blocks.
    pub fn held_back(&self, count: u64, what: String) {
        let what = Cow::<'static, str>::Owned(what);
        for sink in &self.list {
            sink.queue.report(count, LossKind::HeldBack, what.clone());
        }
    }

    /// Counters of each sink: the JSON file first, then syslog targets in the configuration's order.
    pub fn stats(&self) -> Vec<SinkStats> {
        self.list.iter().map(|sink| sink.queue.stats()).collect()
    }

    /// Opens the JSON file again, after a log rotation renamed it (SIGHUP). If that fails, the old
    /// one goes on and the error is in the statistics.
    pub fn reopen(&self) {
        for sink in &self.list {
            sink.queue.reopen();
        }
    }

    /// Sends what is queued, for at most `deadline`, and returns the final counters. What is left
    /// then counts as dropped and is told in the daemon's own log.
    pub fn close(&self, deadline: Duration) -> Vec<SinkStats> {
        let until = Instant::now() + deadline;
        for sink in &self.list {
            sink.queue.close(until);
        }
        for sink in &self.list {
            sink.queue.wait_closed(until);
        }
        self.stats()
    }

    fn add_syslog(
        &mut self,
        target: &config::SyslogTarget,
        identity: &Identity,
        capacity: usize,
    ) -> Result<(), SinkError> {
        let layout = Layout {
            form: format::form(target.format, &target.address),
            facility: format::facility(target.facility),
            identity: identity.clone(),
        };
        let queue = Queue::new(target_name(&target.address), capacity);
        match &target.address {
            SyslogAddress::Unix(path) => {
                let direct = Arc::new(UnixSink::new(path.clone(), layout));
                let transport = unix::UnixTransport::new(Arc::clone(&direct));
                self.start(queue, Some(direct), transport)
            }
            SyslogAddress::Udp(peer) => {
                self.start(queue, None, udp::Udp::new(peer.clone(), layout))
            }
            SyslogAddress::Tcp(peer) => {
                let octets = target.format == SyslogFormat::Rfc5424;
                let stream = stream::Tcp::new(peer.clone(), layout, octets);
                self.start(queue, None, stream)
            }
        }
    }

    fn start(
        &mut self,
        queue: Queue,
        direct: Option<Arc<UnixSink>>,
        transport: impl Transport + Send + 'static,
    ) -> Result<(), SinkError> {
        let name = queue.name().to_owned();
        let queue = Arc::new(queue);
        let worker = Arc::clone(&queue);
        // Not joined: a thread inside a system call must not hold up the end of the daemon.
        thread::Builder::new()
            .name(format!("sink-{}", self.list.len()))
            .spawn(move || worker::run(&worker, transport))
            .map_err(|source| SinkError::Thread { name, source })?;
        self.list.push(Sink { queue, direct });
        Ok(())
    }
}

/// Threads end with their sinks, also without [`Sinks::close`].
impl Drop for Sinks {
    fn drop(&mut self) {
        for sink in &self.list {
            sink.queue.close(Instant::now());
        }
    }
}

fn target_name(address: &SyslogAddress) -> String {
    match address {
        SyslogAddress::Unix(path) => format!("unix:{}", path.display()),
        SyslogAddress::Udp(peer) => format!("udp:{}", peer_name(peer)),
        SyslogAddress::Tcp(peer) => format!("tcp:{}", peer_name(peer)),
    }
}

fn peer_name(peer: &HostPort) -> String {
    match &peer.host {
        Host::Addr(addr) => std::net::SocketAddr::new(*addr, peer.port).to_string(),
        Host::Name(name) => format!("{name}:{}", peer.port),
    }
}

#[cfg(test)]
mod tests;
