//! Where alerts go: syslog over unix sockets, UDP, TCP and TLS, journald, and a JSON file.
//!
//! [`Sinks::submit`] is called while a packet is held, so it never blocks: a local datagram socket
//! gets its line at once, before the verdict; every other sink gets the alert into a bounded queue
//! that one thread empties. A socket that is gone or full hands over to its queue, and lines stay
//! in order. While a syslog target is down, or its queue fills, a second thread moves alerts to a
//! bounded spool on disk. What that cannot take is counted and told to the target when it works again.
//!
//! Of the syslog crate this uses `Facility`, `Severity`, the `LogFormat` trait, and
//! `Logger<LoggerBackend>` for local datagrams. It cannot do the rest. `Formatter5424` has a numeric
//! MSGID and sorts the keys of an element, `Formatter3164` pads the day with a zero and takes UTC
//! for local time. Its network backends connect once and never again, know no TLS, and do not tell
//! which lines arrived; a `BufWriter` keeps what a broken connection did not take, and sends it
//! again when it is dropped. So the formatter is our own behind the crate's trait, and the sockets
//! are our own behind it.
//!
//! Syslog has no acknowledgement (RFC 6587): a line has arrived when the receiver's kernel has it
//! (`outbox::Wire`). What a broken connection left unconfirmed is sent again on the next one.

mod file;
mod flow_log;
mod format;
mod lines;
mod outbox;
mod outq;
mod queue;
mod spool;
mod stream;
mod tls;
mod udp;
mod unix;
mod worker;

#[cfg(test)]
mod journald_tests;
#[cfg(test)]
mod outbox_tests;
#[cfg(test)]
mod rotation_tests;
#[cfg(test)]
mod rsyslog_tests;

use std::{
    borrow::Cow,
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
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
    background,
    config::{self, SyslogAddress, SyslogFormat},
    pulse::Pulse,
};

pub use crate::alert::line::Identity;
pub use flow_log::{FlowLogFile, FlowLogStats};
use format::Formatter;
use outbox::{Outbox, Wire};
use queue::Queue;
use spool::{Spool, folder_name};
use unix::UnixSink;
use worker::Transport;

/// Alerts that the queue of the JSON file holds while that cannot be written.
const QUEUE_LINES: usize = 8192;
/// How far the threads of sinks stand back behind those that hold packets (nice(2)).
const NICE: i32 = 10;
/// The folder of all spools, in the state folder.
const SPOOL: &str = "spool";
/// How long the thread of a sink may take to come back from a system call when it closes.
const GRACE: Duration = Duration::from_millis(500);

/// A sink cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The JSON file.
    #[error("alerts.json-file {path}: {source}; its folder must be writable for feedgate")]
    JsonFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The flow log.
    #[error("alerts.flow-log {path}: {source}; its folder must be writable for feedgate")]
    FlowLog {
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
    /// Alerts waiting in memory.
    pub queued: u64,
    /// Alerts waiting on disk.
    pub spooled: u64,
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
    /// What a syslog target has behind its queue.
    outbox: Option<Arc<Outbox>>,
}

impl Sinks {
    /// Opens the JSON file and the spools, and starts the threads of each sink. A syslog target
    /// that is not there yet is no error: its lines wait. `state` is the state folder; without
    /// one, or where it cannot be written, nothing is spooled.
    pub fn open(
        alerts: &config::Alerts,
        identity: Identity,
        state: Option<&Path>,
    ) -> Result<Self, SinkError> {
        let mut sinks = Self { list: Vec::new() };
        if let Some(path) = &alerts.json_file {
            let observer = Observer::of(identity.hostname.clone());
            let file =
                file::JsonFile::open(path, alerts.json_format, observer).map_err(|source| {
                    SinkError::JsonFile {
                        path: path.clone(),
                        source,
                    }
                })?;
            let name = format!("json-file:{}", path.display());
            sinks.start(Queue::new(name, QUEUE_LINES), file)?;
        }
        let spools = state.map(|state| state.join(SPOOL));
        let mut folders = BTreeSet::new();
        for target in &alerts.syslog {
            let spool = spools
                .as_deref()
                .filter(|_| target.spool > 0)
                .map(|spools| (spool_of(target, spools, &mut folders), target.spool));
            sinks.add_syslog(target, &identity, spool)?;
        }
        if let Some(spools) = &spools {
            tell_left_over(spools, &folders);
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

    /// The pulses of the threads of each sink, with what they do: `sink udp:host:514`.
    pub fn pulses(&self) -> Vec<(String, Arc<Pulse>)> {
        let mut all = Vec::new();
        for sink in &self.list {
            let name = sink.queue.name();
            all.push((format!("sink {name}"), Arc::clone(&sink.queue.pulse)));
            let outbox = sink.outbox.as_ref().filter(|outbox| outbox.has_spool());
            let keeper = outbox.map(|outbox| Arc::clone(&outbox.keeper));
            all.extend(keeper.map(|pulse| (format!("the spool of {name}"), pulse)));
        }
        all
    }

    /// Opens the JSON file again, after a log rotation renamed it (SIGHUP). If that fails, the error is
    /// in the statistics and alerts wait until the path can be written.
    pub fn reopen(&self) {
        for sink in self.list.iter().filter(|sink| sink.outbox.is_none()) {
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
            if let Some(outbox) = &sink.outbox
                && !sink.queue.wait_finished(until + GRACE)
            {
                outbox.finish(); // its thread stands in a system call
            }
            sink.queue.wait_closed(until);
        }
        self.stats()
    }

    fn add_syslog(
        &mut self,
        target: &config::SyslogTarget,
        identity: &Identity,
        spool: Option<(PathBuf, u64)>,
    ) -> Result<(), SinkError> {
        let formatter = Formatter(Layout {
            form: format::form(target.format, &target.address),
            facility: format::facility(target.facility),
            identity: identity.clone(),
        });
        let queue = Arc::new(Queue::new(target.address.to_string(), target.queue));
        let outbox = Outbox::new(Arc::clone(&queue), formatter.clone(), spool);
        let outbox = Arc::new(outbox);
        let octets = target.format == SyslogFormat::Rfc5424;
        let mut direct = None;
        match &target.address {
            SyslogAddress::Unix(path) => {
                let sink = Arc::new(UnixSink::new(path.clone(), formatter));
                direct = Some(Arc::clone(&sink));
                self.post(&outbox, unix::UnixWire::new(sink))?;
            }
            SyslogAddress::Udp(peer) => self.post(&outbox, udp::Udp::new(peer.clone()))?,
            SyslogAddress::Tcp(peer) => {
                self.post(&outbox, stream::Tcp::new(peer.clone(), octets, None))?;
            }
            SyslogAddress::Tls(peer) => {
                let client = tls::Client::new(peer.host.clone(), target.tls.clone());
                // Octet counting is all that RFC 5425 knows.
                self.post(&outbox, stream::Tcp::new(peer.clone(), true, Some(client)))?;
            }
        }
        self.list.push(Sink {
            queue,
            direct,
            outbox: Some(outbox),
        });
        Ok(())
    }

    /// Starts the threads of a syslog target.
    fn post(
        &self,
        outbox: &Arc<Outbox>,
        wire: impl Wire + Send + 'static,
    ) -> Result<(), SinkError> {
        let sender = Arc::clone(outbox);
        self.spawn("sink", outbox.name(), move || outbox::run(&sender, wire))?;
        if outbox.has_spool() {
            let keeper = Arc::clone(outbox);
            self.spawn("spool", outbox.name(), move || outbox::keep(&keeper))?;
        }
        Ok(())
    }

    fn start(
        &mut self,
        queue: Queue,
        transport: impl Transport + Send + 'static,
    ) -> Result<(), SinkError> {
        let queue = Arc::new(queue);
        let worker = Arc::clone(&queue);
        self.spawn("sink", queue.name(), move || {
            worker::run(&worker, transport)
        })?;
        self.list.push(Sink {
            queue,
            direct: None,
            outbox: None,
        });
        Ok(())
    }

    /// Not joined: a thread inside a system call must not hold up the end of the daemon.
    fn spawn(
        &self,
        what: &str,
        sink: &str,
        work: impl FnOnce() + Send + 'static,
    ) -> Result<(), SinkError> {
        let thread = thread::Builder::new().name(format!("{what}-{}", self.list.len()));
        let work = || {
            background::give_way(NICE);
            work();
        };
        match thread.spawn(work) {
            Ok(_) => Ok(()),
            Err(source) => Err(SinkError::Thread {
                name: sink.to_owned(),
                source,
            }),
        }
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

/// The folder of a target's spool; two targets that are the same get two.
fn spool_of(target: &config::SyslogTarget, spools: &Path, used: &mut BTreeSet<String>) -> PathBuf {
    let name = folder_name(&target.address.to_string(), target.format.name());
    let mut folder = name.clone();
    let mut number = 1;
    while !used.insert(folder.clone()) {
        number += 1;
        folder = format!("{name}-{number}");
    }
    spools.join(folder)
}

/// Tells of alerts that wait for targets that are no longer configured. Empty folders are removed.
fn tell_left_over(spools: &Path, used: &BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir(spools) else {
        return; // nothing was spooled yet
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if used.contains(&name) || !entry.path().is_dir() {
            continue;
        }
        // Who is just closing tells it by itself.
        let Ok((spool, _)) = Spool::open(&entry.path(), 0) else {
            continue;
        };
        match spool.alerts() {
            0 => drop(std::fs::remove_dir(entry.path())), // only when it is empty
            alerts => tracing::warn!(
                folder = %entry.path().display(),
                alerts,
                "alerts wait on disk for a target that is not configured: they are sent when it is \
                 again; remove the folder to give them up"
            ),
        }
    }
}

#[cfg(test)]
mod tests;
