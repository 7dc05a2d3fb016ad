//! The lines of one syslog target between its queue and its socket, in memory and on disk.
//!
//! A line stays here until the receiver's kernel has it ([`Wire::unconfirmed`]); what a broken
//! connection left unconfirmed is sent again, first of all. The order is that of the alerts: lines
//! that are held, then those on disk, then the queue. [`keep`] moves the queue to disk when it
//! fills or the target is down, on a thread of its own: the sender may stand in a system call.

use std::{
    collections::VecDeque,
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    format::Formatter,
    queue::{Queue, Task},
    spool::{Position, Read, Record, Spool},
    worker::{SendError, pause},
};
use crate::{
    alert::{
        Alert,
        line::{Event, Loss, MAX_LINE},
    },
    pulse::Pulse,
};

/// How often sent lines are looked after while there is nothing else to do: at first, and later.
const LOOK: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));
/// How often a spool that another user still has open is tried.
const LOCKED: Duration = Duration::from_millis(20);
/// The longest pause before a new attempt while the queue closes.
const AT_END: Duration = Duration::from_millis(5);
/// Alerts that go to disk in one write.
const BATCH: usize = 256;

const DAMAGED: &str = "the spool was damaged";
const TOO_LONG: &str = "the socket takes no line of that length";

/// The way of lines to a receiver. Connects when it has to.
pub(super) trait Wire {
    /// Hands `line` over whole, or fails. After [`SendError::Busy`] it is called again with the same
    /// line; after any other error [`Wire::unconfirmed`] still tells of the old connection until
    /// [`Wire::disconnect`].
    fn send(&mut self, line: &[u8]) -> Result<(), SendError>;

    /// How many of the lines sent last on this connection the receiver may not have.
    fn unconfirmed(&mut self) -> usize {
        0
    }

    /// An error if the connection broke since the last call.
    fn check(&mut self) -> Result<(), SendError> {
        Ok(())
    }

    /// Ends the connection at once: what is unconfirmed must not arrive later.
    fn disconnect(&mut self) {}
}

/// The lines of one target.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: Arc<Queue>,
    formatter: Formatter,
    /// Longest line that the socket takes.
    limit: AtomicUsize,
    backlog: Mutex<Backlog>,
    /// Of the thread that moves alerts to disk.
    pub(super) keeper: Arc<Pulse>,
}

/// Locked before the queue, never the other way around.
#[derive(Debug)]
struct Backlog {
    /// Lines taken from disk or queue, oldest first.
    held: VecDeque<Held>,
    /// The first so many are on their way.
    flying: usize,
    disk: Disk,
    /// Nothing more is sent.
    closed: bool,
}

#[derive(Debug)]
enum Disk {
    /// Not wanted.
    None,
    /// To be opened, with that bound.
    Wanted(PathBuf, u64),
    Open(Spool),
}

#[derive(Debug)]
struct Held {
    line: Arc<[u8]>,
    /// An alert, not a report.
    is_alert: bool,
    alert: Option<Arc<Alert>>,
    /// Behind its place on disk. Those on disk come before those that are not.
    stored: Option<Position>,
}

/// What the sender does next.
enum Next {
    Send(Arc<[u8]>),
    /// Nothing to send.
    Wait,
    /// Nothing to send, but lines to look after.
    Look,
    /// Another user still has the spool.
    Locked,
    Stop,
}

impl Outbox {
    /// `spool`: a folder and the bytes that it may hold.
    pub(super) fn new(
        queue: Arc<Queue>,
        formatter: Formatter,
        spool: Option<(PathBuf, u64)>,
    ) -> Self {
        let disk = match spool {
            Some((folder, bound)) => Disk::Wanted(folder, bound),
            None => Disk::None,
        };
        let outbox = Self {
            queue,
            formatter,
            limit: AtomicUsize::new(MAX_LINE),
            keeper: Arc::default(),
            backlog: Mutex::new(Backlog {
                held: VecDeque::new(),
                flying: 0,
                disk,
                closed: false,
            }),
        };
        outbox.open(&mut outbox.lock());
        outbox
    }

    /// The target.
    pub(super) fn name(&self) -> &str {
        self.queue.name()
    }

    /// True when it has a place on disk.
    pub(super) fn has_spool(&self) -> bool {
        !matches!(self.lock().disk, Disk::None)
    }

    /// Opens the spool. False while the sink of an earlier configuration still has it; lines must
    /// not overtake its.
    fn open(&self, backlog: &mut Backlog) -> bool {
        let Disk::Wanted(folder, bound) = &backlog.disk else {
            return true;
        };
        match Spool::open(folder, *bound) {
            Ok((spool, torn)) => {
                if torn > 0 {
                    self.queue.lose(torn, DAMAGED);
                }
                if spool.alerts() > 0 {
                    tracing::info!(
                        sink = self.queue.name(),
                        alerts = spool.alerts(),
                        "alerts of before wait on disk and are sent first"
                    );
                }
                backlog.disk = Disk::Open(spool);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.queue.allow_direct(false);
                return false;
            }
            Err(error) => {
                tracing::error!(
                    sink = self.queue.name(),
                    folder = %folder.display(),
                    %error,
                    "the spool cannot be opened; alerts wait in memory only"
                );
                backlog.disk = Disk::None;
            }
        }
        self.count(backlog);
        self.queue.allow_direct(true);
        true
    }

    fn next(&self) -> Next {
        let mut backlog = self.lock();
        let closing = self.queue.closing();
        if backlog.closed || closing.is_some_and(|until| Instant::now() >= until) {
            return Next::Stop;
        }
        if !self.open(&mut backlog) {
            return Next::Locked;
        }
        let spools = matches!(backlog.disk, Disk::Open(_));
        if closing.is_some() && spools && self.queue.is_failing() {
            return Next::Stop; // the disk keeps them
        }
        if backlog.held.len() == backlog.flying {
            self.take(&mut backlog);
        }
        match backlog.held.get(backlog.flying) {
            Some(held) => Next::Send(Arc::clone(&held.line)),
            None if backlog.flying > 0 => Next::Look,
            None if closing.is_some() => Next::Stop,
            None => Next::Wait,
        }
    }

    /// Takes the next line from disk, else from the queue.
    fn take(&self, backlog: &mut Backlog) {
        while let Disk::Open(spool) = &mut backlog.disk {
            match spool.next() {
                Ok(Some(Read::Line(line, is_alert, place))) => {
                    backlog.held.push_back(Held {
                        line: line.into(),
                        is_alert,
                        alert: None,
                        stored: Some(place),
                    });
                    return;
                }
                Ok(Some(Read::Damaged(place))) => {
                    self.queue.lose(1, DAMAGED);
                    spool.uncount(place);
                    if backlog.held.is_empty() {
                        self.forget(spool, place, 0);
                    }
                    self.count(backlog);
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(sink = self.queue.name(), %error, "the spool cannot be read");
                    self.queue.lose(spool.alerts(), DAMAGED);
                    backlog.disk = Disk::None;
                    self.count(backlog);
                }
            }
        }
        if let Some(held) = self.queue.take().and_then(|task| self.held(task)) {
            backlog.held.push_back(held);
        }
    }

    fn held(&self, task: Task) -> Option<Held> {
        let (line, alert) = match task {
            Task::Alert(alert) => (self.render(Event::Alert(&alert)), Some(alert)),
            Task::Lost(count, cause) => {
                let loss = Loss::undelivered(&self.queue, count, cause);
                (self.render(Event::Lost(&loss)), None)
            }
            Task::Report(count, kind, what) => {
                let loss = Loss::of(&self.queue, kind, count, what);
                (self.render(Event::Lost(&loss)), None)
            }
            Task::Reopen | Task::Stop => return None,
        };
        Some(Held {
            line: line.into(),
            is_alert: alert.is_some(),
            alert,
            stored: None,
        })
    }

    fn render(&self, event: Event<'_>) -> Vec<u8> {
        let limit = self.limit.load(Ordering::Relaxed);
        let mut line = Vec::with_capacity(1024);
        let _ = self.formatter.write(&mut line, event, limit); // a Vec takes everything
        line
    }

    /// The line that [`Next::Send`] gave is on its way.
    fn sent(&self) {
        let mut backlog = self.lock();
        backlog.flying = (backlog.flying + 1).min(backlog.held.len());
    }

    /// All lines that are on their way have arrived but for the last `open`. True when that is
    /// news.
    fn confirm(&self, open: usize) -> bool {
        let mut backlog = self.lock();
        let count = backlog.flying.saturating_sub(open);
        if count == 0 || backlog.closed {
            return false;
        }
        backlog.flying -= count;
        self.remove(&mut backlog, count, true);
        true
    }

    /// Removes the first `count` lines.
    fn remove(&self, backlog: &mut Backlog, count: usize, arrived: bool) {
        let (mut alerts, mut stored, mut place) = (0, 0, None);
        for held in backlog.held.drain(..count.min(backlog.held.len())) {
            alerts += u64::from(held.is_alert);
            stored += u64::from(held.is_alert && held.stored.is_some());
            place = held.stored.or(place);
        }
        if let Disk::Open(spool) = &mut backlog.disk {
            // A damaged record behind the last line goes with it.
            let read = backlog.held.is_empty().then(|| spool.place());
            if let Some(place) = read.or(place) {
                self.forget(spool, place, stored);
            }
        }
        if arrived {
            self.queue.arrived(alerts);
        } else {
            self.queue.lose(alerts, TOO_LONG);
        }
        self.count(backlog);
    }

    fn forget(&self, spool: &mut Spool, place: Position, alerts: u64) {
        if let Err(error) = spool.arrived(place, alerts) {
            tracing::warn!(
                sink = self.queue.name(),
                %error,
                "the spool cannot be written; alerts may be sent twice after a restart"
            );
        }
    }

    /// The connection is gone: what was on its way is sent again.
    fn broke(&self) {
        self.lock().flying = 0;
    }

    /// The socket takes `limit` bytes at most: a shorter line, or none if it cannot be made.
    fn shorten(&self, limit: usize) {
        self.limit.fetch_min(limit, Ordering::Relaxed);
        let mut backlog = self.lock();
        let flying = backlog.flying;
        let Some(held) = backlog.held.get_mut(flying) else {
            return;
        };
        let old = held.line.len();
        if let Some(alert) = held.alert.clone() {
            held.line = self.render(Event::Alert(&alert)).into();
        }
        if held.line.len() >= old && flying == 0 {
            self.remove(&mut backlog, 1, false);
        }
    }

    /// Moves what waits in memory to disk. False when not all of it fits.
    fn store(&self) -> bool {
        let mut backlog = self.lock();
        let backlog = &mut *backlog;
        if backlog.closed {
            return true;
        }
        self.store_in(backlog)
    }

    fn store_in(&self, backlog: &mut Backlog) -> bool {
        let Disk::Open(spool) = &mut backlog.disk else {
            return false;
        };
        let stored = Self::store_held(&mut backlog.held, spool).and_then(|all| {
            let done = all && self.store_queue(spool)?;
            spool.sync()?;
            Ok(done)
        });
        self.count(backlog);
        stored.unwrap_or_else(|error| {
            self.queue
                .failed(format!("the spool takes no more: {error}"));
            false
        })
    }

    /// Lines on their way may be lost with the connection: they are older than the queue.
    fn store_held(held: &mut VecDeque<Held>, spool: &mut Spool) -> io::Result<bool> {
        let first = held.partition_point(|held| held.stored.is_some());
        let records: Vec<Record<'_>> = held
            .range(first..)
            .map(|held| Record {
                line: &held.line,
                alert: held.is_alert,
            })
            .collect();
        let places = spool.append(&records, false)?;
        let all = places.len() == records.len();
        drop(records);
        for (held, place) in held.range_mut(first..).zip(&places) {
            held.stored = Some(*place);
            spool.skip(*place);
        }
        Ok(all)
    }

    fn store_queue(&self, spool: &mut Spool) -> io::Result<bool> {
        loop {
            let alerts = self.queue.peek(BATCH);
            if alerts.is_empty() {
                return Ok(true);
            }
            let lines: Vec<Vec<u8>> = alerts
                .iter()
                .map(|alert| self.render(Event::Alert(alert)))
                .collect();
            let records: Vec<Record<'_>> = lines
                .iter()
                .map(|line| Record { line, alert: true })
                .collect();
            let written = spool.append(&records, false)?.len();
            self.queue.moved_to_disk(written);
            if written < alerts.len() {
                return Ok(false);
            }
        }
    }

    /// The end: what has not arrived goes to disk, and counts to tell as well. May be called by
    /// another thread than the sender's, which then does nothing more.
    pub(super) fn finish(&self) {
        let mut backlog = self.lock();
        let backlog = &mut *backlog;
        if std::mem::replace(&mut backlog.closed, true) {
            return;
        }
        self.open(backlog);
        self.store_in(backlog);
        if let Disk::Open(spool) = &mut backlog.disk {
            // What the spool did not take is lost, and the receiver is to learn of it later.
            let unstored = backlog.held.iter().filter(|held| held.stored.is_none());
            let unstored = unstored.filter(|held| held.is_alert).count();
            let last = self.queue.give_up(u64::try_from(unstored).unwrap_or(0));
            let last: Vec<Held> = last
                .into_iter()
                .filter_map(|task| self.held(task))
                .collect();
            let records: Vec<Record<'_>> = last
                .iter()
                .map(|held| Record {
                    line: &held.line,
                    alert: false,
                })
                .collect();
            if let Err(error) = spool.append(&records, true).and_then(|_| spool.sync()) {
                tracing::warn!(sink = self.queue.name(), %error, "the spool cannot be written");
            }
            if spool.alerts() > 0 {
                tracing::warn!(
                    sink = self.queue.name(),
                    alerts = spool.alerts(),
                    folder = %spool.folder().display(),
                    "alerts stay on disk; they are sent when this target is configured"
                );
            }
            self.queue.set_waiting(0, spool.alerts());
            backlog.disk = Disk::None;
        }
    }

    /// Tells the queue what is held in memory only, and what is on disk.
    fn count(&self, backlog: &Backlog) {
        let stored = backlog.held.partition_point(|held| held.stored.is_some());
        let held = backlog.held.len() - stored;
        let spooled = match &backlog.disk {
            Disk::Open(spool) => spool.alerts(),
            Disk::None | Disk::Wanted(..) => 0,
        };
        self.queue
            .set_waiting(u64::try_from(held).unwrap_or(0), spooled);
    }

    fn lock(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sender's thread: runs until the queue closes.
pub(super) fn run(outbox: &Outbox, mut wire: impl Wire) {
    let queue = &outbox.queue;
    let mut attempts = 0;
    let mut look = LOOK.0;
    loop {
        queue.pulse.beat(Instant::now());
        if outbox.confirm(wire.unconfirmed()) {
            attempts = 0;
            if queue.works() {
                tracing::info!(sink = queue.name(), "alerts are delivered again");
            }
        }
        let result = match outbox.next() {
            Next::Stop => break,
            Next::Send(line) => {
                look = LOOK.0;
                wire.send(&line).map(|()| outbox.sent())
            }
            Next::Wait => {
                queue.pulse.rest();
                queue.wait(None);
                Ok(())
            }
            Next::Locked => {
                queue.pulse.rest();
                thread::sleep(LOCKED);
                Ok(())
            }
            Next::Look => {
                queue.pulse.rest();
                queue.wait(Some(look));
                queue.pulse.beat(Instant::now());
                look = (look * 2).min(LOOK.1);
                wire.check()
            }
        };
        match result {
            Ok(()) => continue,
            Err(SendError::TooLong(limit)) => {
                outbox.shorten(limit);
                continue;
            }
            Err(SendError::Busy(error)) => {
                queue.pulse.rest();
                wait_again(queue, &SendError::Busy(error), attempts);
            }
            Err(error) => {
                let open = wire.unconfirmed();
                wire.disconnect();
                outbox.confirm(open);
                outbox.broke();
                queue.pulse.rest();
                // A receiver that restarts closes; the next attempt tells whether it is back.
                if attempts > 0 || !matches!(error, SendError::Closed(_)) {
                    wait_again(queue, &error, attempts);
                }
            }
        }
        attempts += 1;
    }
    let open = wire.unconfirmed();
    wire.disconnect();
    outbox.confirm(open);
    outbox.finish();
    queue.pulse.rest();
    queue.finished();
}

/// Waits before the next attempt. While the queue closes, a receiver whose buffer is full is no failure:
/// it may take the rest until the end.
fn wait_again(queue: &Queue, error: &SendError, attempts: u32) {
    match (queue.closing(), error) {
        (None, _) => queue.pause_while_open(pause(queue, error, attempts)),
        (Some(_), SendError::Busy(_)) => queue.pause(AT_END),
        (Some(_), _) => queue.pause(pause(queue, error, attempts).min(AT_END)),
    }
}

/// The thread that moves the queue to disk: runs until the queue closes.
pub(super) fn keep(outbox: &Outbox) {
    let mut full = false;
    while outbox.queue.wait_pressed(full) {
        let _work = outbox.keeper.work();
        full = !outbox.store();
    }
}
