//! The bounded queue between the packet path and one sink's thread, with the sink's counters.

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::SinkStats;
use crate::alert::{Alert, line::LossKind};

/// Texts of different reports that wait at most.
const REPORTS: usize = 64;
/// What is beyond that.
const OTHERS: &str = "of various kinds, while this target was down for long";
/// Why a full queue drops.
const QUEUE_FULL: &str = "the queue was full";

/// Alerts in order, until each is delivered.
#[derive(Debug)]
pub(super) struct Queue {
    name: String,
    capacity: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The front one may be on its way; it leaves only when it is delivered.
    items: VecDeque<Arc<Alert>>,
    /// Dropped and not yet told to the sink, and why.
    lost: u64,
    cause: &'static str,
    /// Counts to tell, by what they count.
    reports: BTreeMap<(LossKind, Cow<'static, str>), u64>,
    sent: u64,
    dropped: u64,
    last_error: Option<String>,
    reopen: bool,
    /// Set when closing: work ends then, done or not.
    until: Option<Instant>,
    finished: bool,
}

/// What the sink's thread does next.
#[derive(Clone, Debug)]
pub(super) enum Task {
    /// Deliver it, then call [`Queue::delivered`].
    Alert(Arc<Alert>),
    /// Tell the sink that so many alerts were dropped, then call [`Queue::delivered`].
    Lost(u64, &'static str),
    /// Tell the sink of so many packets without an alert of their own, or milliseconds without protection.
    Report(u64, LossKind, Cow<'static, str>),
    /// Open the file again, then go on.
    Reopen,
    /// End.
    Stop,
}

impl Queue {
    pub(super) fn new(name: String, capacity: usize) -> Self {
        Self {
            name,
            capacity,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Appends an alert, or counts it as dropped.
    pub(super) fn push(&self, alert: Arc<Alert>) {
        let mut state = self.lock();
        if state.items.len() < self.capacity && state.until.is_none() {
            state.items.push_back(alert);
            self.changed.notify_all();
        } else {
            state.lose(1, QUEUE_FULL);
        }
    }

    /// Adds to a count that is told when the sink gets to it.
    pub(super) fn report(&self, count: u64, kind: LossKind, what: Cow<'static, str>) {
        let mut state = self.lock();
        // A sink that is down for long must not collect different texts without end, nor lose a number.
        let key = (kind, what);
        let known = state.reports.len() < REPORTS || state.reports.contains_key(&key);
        let key = if known {
            key
        } else {
            (kind, Cow::Borrowed(OTHERS))
        };
        *state.reports.entry(key).or_default() += count;
        drop(state);
        self.changed.notify_all();
    }

    /// True when nothing waits, so that a line may go around the queue without overtaking.
    pub(super) fn is_empty(&self) -> bool {
        let state = self.lock();
        state.items.is_empty() && state.lost == 0
    }

    /// Counts an alert that went around the queue.
    pub(super) fn sent_directly(&self) {
        let mut state = self.lock();
        state.sent += 1;
        state.last_error = None;
    }

    /// Blocks until there is something to do. `again` is a task that failed: it stays the next
    /// one, because a part of it may be written.
    pub(super) fn next(&self, again: Option<Task>) -> Task {
        let mut state = self.lock();
        loop {
            if state.until.is_some_and(|until| Instant::now() >= until) {
                return Task::Stop;
            }
            if std::mem::take(&mut state.reopen) {
                return Task::Reopen;
            }
            if let Some(task) = again {
                return task;
            }
            // The report does not wait for the very end: a sink that is always a little behind must learn of it too.
            if state.lost > 0 && state.items.len() <= self.capacity / 2 {
                return Task::Lost(state.lost, state.cause);
            }
            if let Some(((kind, what), count)) = state.reports.first_key_value() {
                return Task::Report(*count, *kind, what.clone());
            }
            if let Some(alert) = state.items.front() {
                return Task::Alert(Arc::clone(alert));
            }
            if state.until.is_some() {
                return Task::Stop;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The task is done. True when this ends a time of errors.
    pub(super) fn delivered(&self, task: &Task) -> bool {
        let mut state = self.lock();
        match task {
            Task::Alert(_) => {
                state.items.pop_front();
                state.sent += 1;
            }
            Task::Lost(count, _) => state.lost = state.lost.saturating_sub(*count),
            Task::Report(count, kind, what) => {
                let key = (*kind, what.clone());
                let left = state.reports.remove(&key);
                let left = left.map_or(0, |all| all.saturating_sub(*count));
                if left > 0 {
                    state.reports.insert(key, left);
                }
            }
            Task::Reopen | Task::Stop => {}
        }
        state.last_error.take().is_some()
    }

    /// The task failed and will be tried again. True when it is the first failure after a success.
    pub(super) fn failed(&self, error: String) -> bool {
        self.lock().last_error.replace(error).is_none()
    }

    /// What `task` had delivered turned out lost.
    pub(super) fn undelivered(&self, task: &Task, cause: &'static str) {
        let mut state = self.lock();
        match task {
            Task::Alert(_) => {
                state.sent = state.sent.saturating_sub(1);
                state.lose(1, cause);
            }
            Task::Lost(count, _) => {
                state.lost += count;
                state.cause = cause;
            }
            Task::Report(count, kind, what) => {
                *state.reports.entry((*kind, what.clone())).or_default() += count;
            }
            Task::Reopen | Task::Stop => {}
        }
    }

    /// Waits for `pause`, or until there is something else to do than to try again.
    pub(super) fn pause(&self, pause: Duration) {
        let end = Instant::now() + pause;
        let mut state = self.lock();
        while !state.reopen {
            let end = state.until.map_or(end, |until| until.min(end));
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Asks for a [`Task::Reopen`].
    pub(super) fn reopen(&self) {
        self.lock().reopen = true;
        self.changed.notify_all();
    }

    /// Takes no more alerts, and ends the thread when the queue is empty or at `until`.
    pub(super) fn close(&self, until: Instant) {
        let mut state = self.lock();
        state.until = Some(state.until.map_or(until, |old| old.min(until)));
        self.changed.notify_all();
    }

    /// The thread has ended.
    pub(super) fn finished(&self) {
        self.lock().finished = true;
        self.changed.notify_all();
    }

    /// Waits until the thread has ended, or until `until`; what is left then is dropped.
    pub(super) fn wait_closed(&self, until: Instant) {
        let mut state = self.lock();
        while !state.finished {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let rest = u64::try_from(state.items.len()).unwrap_or(u64::MAX);
        state.items.clear();
        state.lose(rest, "the daemon stopped");
        if state.lost > 0 {
            tracing::warn!(sink = %self.name, alerts = state.lost, "alerts were not delivered");
        }
    }

    pub(super) fn stats(&self) -> SinkStats {
        let state = self.lock();
        SinkStats {
            name: self.name.clone(),
            sent: state.sent,
            queued: u64::try_from(state.items.len()).unwrap_or(u64::MAX),
            dropped: state.dropped,
            last_error: state.last_error.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn lose(&mut self, count: u64, cause: &'static str) {
        if count > 0 {
            self.lost += count;
            self.dropped += count;
            self.cause = cause;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_many_kinds_are_summed_and_not_lost() {
        let queue = Queue::new("a".into(), 1);
        for n in 0..1_000 {
            queue.report(2, LossKind::HeldBack, format!("flows of {n}").into());
        }
        queue.close(Instant::now() + Duration::from_secs(60));
        let (mut rows, mut sum) = (0, 0);
        loop {
            let task = queue.next(None);
            let Task::Report(count, kind, _) = &task else {
                break;
            };
            assert_eq!(*kind, LossKind::HeldBack);
            (rows, sum) = (rows + 1, sum + count);
            queue.delivered(&task);
        }
        assert_eq!((rows, sum), (REPORTS + 1, 2_000));
    }
}
