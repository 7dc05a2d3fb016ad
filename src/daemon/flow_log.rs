//! The flow log: flows from the packet path and ends from conntrack, put together by one thread.
//!
//! The packet path only hands a flow over, into a bounded queue. An end is looked at after the flows
//! that were handed over before it was read, so that a flow is always known before it ends.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;

use super::{FLUSH, RunError, engine::lock, live::SEARCH};
use crate::{
    alert::Alert,
    config,
    conntrack::{Conntrack, ConntrackError, Events, count_traffic},
    flowlog::{Aggregator, Book, Ended, lost},
    pulse::Pulse,
    sink::{FlowLogFile, FlowLogStats},
};

/// How long sums are added up.
const INTERVAL: Duration = Duration::from_secs(60);
/// Intervals after which the table is looked through for flows whose end went unseen. After lost
/// notifications, and for flows that were cut, at the next one.
const SWEEP: u32 = 5;
/// A flow younger than that may not be in the table yet: its first packet is still held.
const YOUNG: Duration = Duration::from_secs(15);
/// How long the end of the daemon waits for what open flows have moved.
const LAST_LOOK: Duration = Duration::from_secs(2);
/// How long one wait for ends takes.
const TURN: Duration = Duration::from_millis(200);
/// Flows that wait for the thread at most.
const WAITING: usize = 16_384;

/// The log in numbers, for status.
#[derive(Clone, Debug, Serialize)]
pub struct FlowLogStatus {
    /// The file.
    pub file: PathBuf,
    /// 0, 1 or 2.
    pub aggregation: u8,
    /// Flows seen.
    pub seen: u64,
    /// Flows whose end is waited for, or that are summed up.
    pub open: u64,
    /// Flows that did not fit the queue to the log's thread; they are told in the log as a number.
    pub overflow: u64,
    /// Times that ends of connections were lost: their flows are logged as `gone`, some minutes later.
    pub lost_ends: u64,
    /// What became of the lines.
    #[serde(flatten)]
    pub lines: FlowLogStats,
}

impl FlowLogStatus {
    /// What is wrong with it, in words.
    pub(super) fn problem(&self) -> Option<String> {
        let file = self.file.display();
        if let Some(error) = &self.lines.last_error {
            let waiting = self.lines.waiting;
            return Some(format!("flow log {file}: {error}; {waiting} flows wait"));
        }
        let lost = self.lines.lost + self.overflow;
        (lost > 0).then(|| format!("flow log {file}: {lost} flows are told as a number only"))
    }
}

/// The running log.
pub(super) struct FlowLog {
    config: config::FlowLog,
    sender: SyncSender<Message>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    file: FlowLogFile,
    seen: AtomicU64,
    open: AtomicU64,
    overflow: AtomicU64,
    lost_ends: AtomicU64,
    /// Of the thread, which turns five times a second.
    pulse: Arc<Pulse>,
}

enum Message {
    Flow(Box<Alert>),
    /// End the interval now.
    Flush,
    /// End the log.
    Stop,
}

impl FlowLog {
    /// Opens the file and starts the thread; `None` where no log is configured.
    pub(super) fn start(config: &config::FlowLog) -> Result<Option<Self>, RunError> {
        let Some(path) = &config.file else {
            return Ok(None);
        };
        let file = FlowLogFile::open(path)?;
        count_bytes();
        let events = Events::open().inspect_err(|e| {
            tracing::error!("flows are logged without what they moved, some minutes late: {e}");
        });
        let shared = Arc::new(Shared {
            file,
            seen: AtomicU64::default(),
            open: AtomicU64::default(),
            overflow: AtomicU64::default(),
            lost_ends: AtomicU64::default(),
            pulse: Arc::new(Pulse::new(Instant::now())),
        });
        let (sender, messages) = sync_channel(WAITING);
        let logger = Logger {
            shared: Arc::clone(&shared),
            messages,
            events: events.ok(),
            book: Book::default(),
            sums: Aggregator::new(config.aggregation.into()),
            untold: 0,
            sweep_due: false,
            silent: false,
        };
        let thread = thread::Builder::new()
            .name("flow-log".into())
            .spawn(move || logger.run())
            .map_err(|source| RunError::System {
                step: "starting the thread of the flow log".into(),
                source,
            })?;
        Ok(Some(Self {
            config: config.clone(),
            sender,
            shared,
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// Takes the first packet of a flow; never blocks.
    pub(super) fn observe(&self, alert: &Alert) {
        self.shared.seen.fetch_add(1, Ordering::Relaxed);
        let message = Message::Flow(Box::new(alert.clone()));
        if self.sender.try_send(message).is_err() {
            self.shared.overflow.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The pulses of its threads.
    pub(super) fn pulses(&self) -> [(String, Arc<Pulse>); 2] {
        [
            ("the flow log".into(), Arc::clone(&self.shared.pulse)),
            ("the flow log's file".into(), self.shared.file.pulse()),
        ]
    }

    /// True when it is the log of this configuration.
    pub(super) fn is_of(&self, config: &config::FlowLog) -> bool {
        self.config == *config
    }

    /// Ends the interval and opens the file again (SIGHUP).
    pub(super) fn flush(&self) {
        // A full queue keeps the thread busy; its interval ends by itself.
        let _ = self.sender.try_send(Message::Flush);
        self.shared.file.reopen();
    }

    /// Logs what is still open, writes all lines, and ends.
    pub(super) fn close(&self) {
        let _ = self.sender.send(Message::Stop);
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
        let left = self.shared.file.close(FLUSH);
        if left.lost > 0 {
            tracing::warn!("{} flows are not in the flow log", left.lost);
        }
    }

    pub(super) fn status(&self) -> FlowLogStatus {
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        FlowLogStatus {
            file: self.config.file.clone().unwrap_or_default(),
            aggregation: self.config.aggregation,
            seen: count(&self.shared.seen),
            open: count(&self.shared.open),
            overflow: count(&self.shared.overflow),
            lost_ends: count(&self.shared.lost_ends),
            lines: self.shared.file.stats(),
        }
    }
}

/// Counting costs the kernel little, but it changes the host: so only for a log, and never unsaid.
fn count_bytes() {
    match count_traffic(Path::new("/proc/sys")) {
        Ok(false) => {}
        Ok(true) => tracing::info!(
            "net.netfilter.nf_conntrack_acct is switched on for the flow log, and stays on"
        ),
        Err(e) => tracing::warn!(
            "the flow log has no bytes and packets: net.netfilter.nf_conntrack_acct cannot be \
             switched on: {e}; set it to 1 in /etc/sysctl.d"
        ),
    }
}

/// The thread's own.
struct Logger {
    shared: Arc<Shared>,
    messages: Receiver<Message>,
    events: Option<Events>,
    book: Book,
    sums: Aggregator,
    /// Overflow that is in the log already.
    untold: u64,
    sweep_due: bool,
    /// A failed look at the table was told already.
    silent: bool,
}

impl Logger {
    fn run(mut self) {
        let mut flush_at = Instant::now() + INTERVAL;
        let mut intervals = 0u32;
        loop {
            self.shared.pulse.beat(Instant::now());
            let ends = self.wait();
            let (flush, stop) = self.take_flows();
            for end in ends {
                let over = self.book.end(&end.flow, end.traffic, SystemTime::now());
                self.log(over);
            }
            if stop {
                return self.stop();
            }
            let now = Instant::now();
            if flush || now >= flush_at {
                intervals = intervals.wrapping_add(1);
                flush_at = now + INTERVAL;
                let late = intervals.is_multiple_of(SWEEP) && !self.book.is_empty();
                if self.sweep_due || flush || late || self.book.cut() > 0 {
                    self.sweep(now);
                }
                self.flush();
            }
            let open = u64::try_from(self.book.len()).unwrap_or(u64::MAX);
            self.shared.open.store(open, Ordering::Relaxed);
        }
    }

    /// Waits a moment, for ends where the kernel tells them.
    fn wait(&mut self) -> Vec<crate::conntrack::Destroyed> {
        let Some(events) = &mut self.events else {
            thread::sleep(TURN);
            return Vec::new();
        };
        match events.next(TURN) {
            Ok((ends, lost)) => {
                if lost {
                    self.shared.lost_ends.fetch_add(1, Ordering::Relaxed);
                    self.sweep_due = true;
                }
                ends
            }
            Err(e) => {
                tracing::error!("flows are logged without what they moved, some minutes late: {e}");
                self.events = None;
                Vec::new()
            }
        }
    }

    /// Takes the flows that wait; whether the interval, and whether the log is to end.
    fn take_flows(&mut self) -> (bool, bool) {
        let mut flush = false;
        // At most as many as fit the queue: ends must not wait for a flood.
        for _ in 0..WAITING {
            match self.messages.recv_timeout(Duration::ZERO) {
                Ok(Message::Flow(alert)) => {
                    let over = self.book.begin(alert, Instant::now());
                    self.log(over);
                }
                Ok(Message::Flush) => flush = true,
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return (flush, true),
                Err(RecvTimeoutError::Timeout) => break,
            }
        }
        (flush, false)
    }

    fn log(&mut self, over: impl IntoIterator<Item = Ended>) {
        for ended in over {
            if let Some(line) = self.sums.add(ended) {
                self.shared.file.write(line);
            }
        }
    }

    fn flush(&mut self) {
        for line in self.sums.flush() {
            self.shared.file.write(line);
        }
        let overflow = self.shared.overflow.load(Ordering::Relaxed);
        let flows = overflow.saturating_sub(self.untold);
        if flows > 0 {
            self.untold = overflow;
            tracing::warn!("{flows} flows came too fast for the flow log");
            let why = "too many flows at once";
            self.shared.file.write(lost(flows, why, SystemTime::now()));
        }
    }

    /// Looks the table through for what is no longer in it.
    fn sweep(&mut self, now: Instant) {
        self.sweep_due = false;
        let before = now.checked_sub(YOUNG).unwrap_or(now);
        match self.look(now + SEARCH) {
            Ok(()) => {
                self.silent = false;
                let over = self.book.sweep(before, SystemTime::now());
                self.log(over);
            }
            Err(e) => {
                self.sweep_due = true;
                if !std::mem::replace(&mut self.silent, true) {
                    tracing::warn!("ends of flows may be missed in the flow log: {e}");
                }
            }
        }
    }

    fn look(&mut self, until: Instant) -> Result<(), ConntrackError> {
        let book = &mut self.book;
        Conntrack::open()?.list(None, until, |entry| {
            book.see(&entry.filtered(), entry.traffic);
        })
    }

    fn stop(mut self) {
        // For what they moved so far.
        if !self.book.is_empty()
            && let Err(e) = self.look(Instant::now() + LAST_LOOK)
        {
            tracing::debug!("{e}");
        }
        let over = self.book.drain(SystemTime::now());
        self.log(over);
        self.flush();
        self.shared.pulse.rest();
    }
}
