//! The bounded queue between the packet path and the thread that writes, with the store's counters.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc::SyncSender},
    time::{Duration, Instant, SystemTime},
};

use super::{
    Anchor, DbStatus, Dismissed, Person, Progress, Which, micros,
    record::{Link, hex},
    rfc3339,
};
use crate::{
    alert::{Alert, ecs::Observer, suppress::ByAction},
    config::AlertStore,
    feed::Direction,
    pulse::Pulse,
};

/// Alerts of one transaction.
pub(super) const BATCH: usize = 1_000;
/// How long an alert waits for others to share its transaction.
const GATHER: Duration = Duration::from_millis(100);
/// How often there is a turn without any alert.
const TURN: Duration = Duration::from_secs(1);
/// Commands that wait at most.
const COMMANDS: usize = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    path: PathBuf,
    capacity: usize,
    state: Mutex<State>,
    /// The writer waits on it.
    work: Condvar,
    /// Who waits for the disk, or for the end, waits on it.
    done: Condvar,
    /// Of the writer, at work while the disk may block it.
    pub(super) pulse: Arc<Pulse>,
}

#[derive(Debug, Default)]
struct State {
    /// Those of the batch under way stay until they are on disk.
    items: VecDeque<Arc<Alert>>,
    /// When the front one came.
    since: Option<Instant>,
    commands: VecDeque<Command>,
    /// Alerts taken since the start.
    taken: u64,
    /// Those of them that are on disk.
    stored: u64,
    /// Somebody waits until so many of the taken ones are on disk.
    wanted: u64,
    dropped: u64,
    /// Flows of alerts that are on disk, or were dropped.
    flows: ByAction,
    /// The newest record when `flows` was as it is.
    flows_at: Option<i64>,
    /// Dropped, and not yet in the chain.
    lost: u64,
    /// `sync` timed out, and the disk has not caught up since.
    behind: bool,
    late_verdicts: u64,
    last_error: Option<String>,
    repaired: Option<(SystemTime, String)>,
    head: Option<Link>,
    records: u64,
    bytes: u64,
    /// Set when closing: work ends then, done or not.
    until: Option<Instant>,
    finished: bool,
}

/// What is asked of the writer besides alerts.
#[derive(Debug)]
pub(super) enum Command {
    /// Dismiss, then answer.
    Dismiss {
        which: Which,
        person: Person,
        note: String,
        reply: SyncSender<Result<Dismissed, String>>,
    },
    /// Other bounds.
    Bounds(AlertStore),
    /// Another name of this host, from the next alert on.
    Observer(Observer),
}

/// What the writer does next.
#[derive(Debug)]
pub(super) enum Task {
    /// Store these and the number of the lost, then call [`Queue::stored`].
    Batch(Vec<Arc<Alert>>, u64),
    /// Do it.
    Command(Command),
    /// Nothing came for a while.
    Turn,
    /// End.
    Stop,
}

/// What is known of the database after it was written to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub(super) head: Link,
    pub(super) records: u64,
    pub(super) bytes: u64,
}

impl Queue {
    pub(super) fn new(path: &Path, capacity: usize) -> Self {
        Self {
            path: path.to_owned(),
            capacity,
            state: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
            pulse: Arc::default(),
        }
    }

    pub(super) fn push(&self, alert: &Alert) {
        // Whoever can make up sources must not take all of the room.
        let capacity = match alert.direction {
            Direction::Egress => self.capacity,
            Direction::Ingress => self.capacity / 2,
        };
        let mut state = self.lock();
        if state.items.len() >= capacity || state.until.is_some() {
            state.dropped += 1;
            state.lost += 1;
            state.flows.add(alert.action, alert.count);
            return;
        }
        state.items.push_back(Arc::new(alert.clone()));
        state.taken += 1;
        // The writer sleeps until the first one comes, and then until the batch is full.
        let wake = state.items.len() == 1 || state.items.len() == BATCH;
        state.since.get_or_insert_with(Instant::now);
        drop(state);
        if wake {
            self.work.notify_one();
        }
    }

    /// See [`super::AlertDb::sync`].
    pub(super) fn sync(&self, limit: Duration, verdicts: u64) -> bool {
        let until = Instant::now() + limit;
        let mut state = self.lock();
        let target = state.taken;
        while state.stored < target || state.lost > 0 {
            // What a full queue dropped will not get there however long one waits.
            let left = until.saturating_duration_since(Instant::now());
            if state.behind || state.lost > 0 || state.finished || left.is_zero() {
                return self.late(&mut state, verdicts);
            }
            if state.wanted < target {
                state.wanted = target;
                self.work.notify_one();
            }
            state = self
                .done
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }

    fn late(&self, state: &mut State, verdicts: u64) -> bool {
        state.late_verdicts += verdicts;
        if !std::mem::replace(&mut state.behind, true) {
            tracing::error!(
                "[alerts] durable: alerts are not on disk in time ({}); verdicts are given without waiting \
                 until {} catches up: denied flows stay denied, alerted flows pass",
                state.last_error.as_deref().unwrap_or("the disk is slow"),
                self.path.display()
            );
        }
        false
    }

    pub(super) fn command(&self, command: Command) -> Result<(), String> {
        let mut state = self.lock();
        if state.until.is_some() || state.finished {
            return Err("the alert store is being closed; ask again when the daemon runs".into());
        }
        if state.commands.len() >= COMMANDS {
            return Err("the alert store is busy; try again".into());
        }
        state.commands.push_back(command);
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Blocks until there is something to do.
    pub(super) fn next(&self) -> Task {
        let turn = Instant::now() + TURN;
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            if state.until.is_some_and(|until| now >= until) {
                return Task::Stop;
            }
            if let Some(command) = state.commands.pop_front() {
                return Task::Command(command);
            }
            let wait = if state.items.is_empty() && state.lost == 0 {
                if state.until.is_some() {
                    return Task::Stop;
                }
                turn.saturating_duration_since(now)
            } else {
                let full = state.items.len() >= BATCH || state.items.is_empty();
                let waited = state.since.map_or(GATHER, |since| now - since);
                if full || waited >= GATHER || state.wanted > state.stored || state.until.is_some()
                {
                    let batch = state.items.iter().take(BATCH).cloned().collect();
                    return Task::Batch(batch, state.lost);
                }
                GATHER - waited
            };
            if wait.is_zero() {
                return Task::Turn;
            }
            state = self
                .work
                .wait_timeout(state, wait)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// The first `count` alerts, and a record of `lost` others, are on disk. True when this ends a time of errors.
    pub(super) fn stored(&self, count: usize, lost: u64, head: Link) -> bool {
        let mut guard = self.lock();
        let state = &mut *guard;
        let count = count.min(state.items.len());
        for alert in state.items.drain(..count) {
            state.flows.add(alert.action, alert.count);
        }
        state.flows_at = Some(head.seq);
        state.stored += u64::try_from(count).unwrap_or(u64::MAX);
        state.lost = state.lost.saturating_sub(lost);
        state.since = (!state.items.is_empty()).then(Instant::now);
        if state.stored == state.taken && state.lost == 0 && std::mem::take(&mut state.behind) {
            tracing::info!("alerts are on disk before their verdicts again");
        }
        let again = state.last_error.take().is_some();
        drop(guard);
        self.done.notify_all();
        again
    }

    /// Notes what the database holds now.
    pub(super) fn written(&self, written: Written) {
        let mut state = self.lock();
        state.flows_at.get_or_insert(written.head.seq);
        state.head = Some(written.head);
        state.records = written.records;
        state.bytes = written.bytes;
    }

    /// It does not work now. True when it did before.
    pub(super) fn failed(&self, error: String) -> bool {
        self.lock().last_error.replace(error).is_none()
    }

    /// It works, and nothing waits that could say so.
    pub(super) fn works(&self) -> bool {
        self.lock().last_error.take().is_some()
    }

    pub(super) fn repaired(&self, at: SystemTime, what: String) {
        self.lock().repaired = Some((at, what));
    }

    /// Waits for `pause`; false when it is time to end.
    pub(super) fn pause(&self, pause: Duration) -> bool {
        let end = Instant::now() + pause;
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            if state.until.is_some_and(|until| now >= until) {
                return false;
            }
            let end = state.until.map_or(end, |until| until.min(end));
            let left = end.saturating_duration_since(now);
            if left.is_zero() {
                return true;
            }
            // Commands are refused meanwhile rather than left waiting.
            let why = state.last_error.clone().unwrap_or_default();
            state.commands.retain(|command| match command {
                Command::Dismiss { reply, .. } => {
                    let why = format!("the alert store does not work now: {why}");
                    let _ = reply.try_send(Err(why));
                    false
                }
                Command::Bounds(_) | Command::Observer(_) => true,
            });
            state = self
                .work
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    pub(super) fn end(&self, until: Instant) {
        let mut state = self.lock();
        state.until = Some(state.until.map_or(until, |old| old.min(until)));
        drop(state);
        self.work.notify_all();
    }

    /// Ends the writer, and waits for that until `until`.
    pub(super) fn close(&self, until: Instant) {
        self.end(until);
        let left = until.saturating_duration_since(Instant::now());
        let waited = self
            .done
            .wait_timeout_while(self.lock(), left, |state| !state.finished);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        let rest = u64::try_from(state.items.len()).unwrap_or(u64::MAX);
        state.items.clear();
        state.dropped += rest;
        state.lost += rest;
        if state.lost > 0 {
            tracing::warn!(
                "alert store {}: {} alerts were not stored",
                self.path.display(),
                state.lost
            );
        }
    }

    pub(super) fn finished(&self) {
        self.lock().finished = true;
        self.done.notify_all();
    }

    /// Flows that are on disk or were dropped, and up to which record; `None` before it is open.
    pub(super) fn progress(&self) -> Option<Progress> {
        let state = self.lock();
        Some(Progress {
            flows: state.flows,
            head: state.flows_at?,
        })
    }

    pub(super) fn head(&self) -> Option<Anchor> {
        self.lock().head.map(Anchor::from)
    }

    pub(super) fn status(&self) -> DbStatus {
        let state = self.lock();
        DbStatus {
            file: self.path.clone(),
            stored: state.stored,
            queued: u64::try_from(state.items.len()).unwrap_or(u64::MAX),
            dropped: state.dropped,
            last_error: state.last_error.clone(),
            records: state.records,
            head: state
                .head
                .map(|link| format!("{}:{}", link.seq, hex(&link.hash))),
            bytes: state.bytes,
            repaired_at: state.repaired.as_ref().map(|(at, _)| rfc3339(micros(*at))),
            repaired: state.repaired.as_ref().map(|(_, what)| what.clone()),
            late_verdicts: state.late_verdicts,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
