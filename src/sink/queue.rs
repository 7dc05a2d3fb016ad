//! The bounded queue between the packet path and one sink's thread, with the sink's counters.

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::SinkStats;
use crate::{
    alert::{Alert, line::LossKind},
    pulse::Pulse,
};

/// Texts of different reports that wait at most.
const REPORTS: usize = 64;
/// What is beyond that.
const OTHERS: &str = "of various kinds, while this target was down for long";
/// Why a full queue drops.
const QUEUE_FULL: &str = "the queue was full";
/// Why the end of the daemon drops.
const SPOOL_FULL: &str = "the daemon stopped, and the spool was full";
/// A target that fails for so long is down: what waits goes to disk.
const DOWN: Duration = Duration::from_secs(1);
/// How often a disk that takes no more is asked again.
const DISK: Duration = Duration::from_millis(500);

/// Alerts in order, until each is delivered.
#[derive(Debug)]
pub(super) struct Queue {
    name: String,
    capacity: usize,
    state: Mutex<State>,
    changed: Condvar,
    /// For the one that moves alerts to disk.
    pressed: Condvar,
    /// Of its thread, at work while a target may block it.
    pub(super) pulse: Arc<Pulse>,
}

#[derive(Debug, Default)]
struct State {
    /// Alerts that its thread took and that have not arrived yet.
    held: u64,
    /// Alerts on disk.
    spooled: u64,
    /// What was left on disk is not known yet.
    closed_to_direct: bool,
    failing_since: Option<Instant>,
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
            pressed: Condvar::new(),
            pulse: Arc::default(),
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
            if state.items.len() > self.capacity / 2 {
                self.pressed.notify_all();
            }
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
        let waiting = state.held + state.spooled + state.lost;
        state.items.is_empty() && waiting == 0 && !state.closed_to_direct
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
        let mut state = self.lock();
        state.failing_since.get_or_insert_with(Instant::now);
        self.pressed.notify_all();
        state.last_error.replace(error).is_none()
    }

    /// Takes the next task out, without waiting. Whoever takes it is answerable for it: an alert
    /// counts as held.
    pub(super) fn take(&self) -> Option<Task> {
        let mut state = self.lock();
        if state.lost > 0 && state.items.len() <= self.capacity / 2 {
            let lost = std::mem::take(&mut state.lost);
            return Some(Task::Lost(lost, state.cause));
        }
        if let Some(((kind, what), count)) = state.reports.pop_first() {
            return Some(Task::Report(count, kind, what));
        }
        let alert = state.items.pop_front()?;
        state.held += 1;
        Some(Task::Alert(alert))
    }

    /// The first alerts, at most `most`; they stay.
    pub(super) fn peek(&self, most: usize) -> Vec<Arc<Alert>> {
        self.lock().items.iter().take(most).cloned().collect()
    }

    /// The first `count` alerts are on disk now.
    pub(super) fn moved_to_disk(&self, count: usize) {
        let mut state = self.lock();
        let count = count.min(state.items.len());
        state.items.drain(..count);
        state.spooled += u64::try_from(count).unwrap_or(0);
    }

    /// Alerts that its thread holds, and alerts on disk.
    pub(super) fn set_waiting(&self, held: u64, spooled: u64) {
        let mut state = self.lock();
        (state.held, state.spooled) = (held, spooled);
    }

    /// Whether lines may go around the queue at all.
    pub(super) fn allow_direct(&self, allow: bool) {
        self.lock().closed_to_direct = !allow;
    }

    /// So many alerts have arrived.
    pub(super) fn arrived(&self, alerts: u64) {
        self.lock().sent += alerts;
    }

    /// Lines are taken. True when this ends a time of errors.
    pub(super) fn works(&self) -> bool {
        let mut state = self.lock();
        state.failing_since = None;
        state.last_error.take().is_some()
    }

    /// What waits is lost, and `held` alerts more. The counts that are to be told, at last.
    pub(super) fn give_up(&self, held: u64) -> Vec<Task> {
        let mut state = self.lock();
        let rest = held + u64::try_from(state.items.len()).unwrap_or(u64::MAX);
        state.items.clear();
        state.held = 0;
        state.lose(rest, SPOOL_FULL);
        let mut last = Vec::new();
        if state.lost > 0 {
            tracing::warn!(sink = %self.name, alerts = state.lost, "alerts were not delivered");
            last.push(Task::Lost(std::mem::take(&mut state.lost), state.cause));
        }
        while let Some(((kind, what), count)) = state.reports.pop_first() {
            last.push(Task::Report(count, kind, what));
        }
        last
    }

    /// Alerts that are lost for good.
    pub(super) fn lose(&self, count: u64, cause: &'static str) {
        self.lock().lose(count, cause);
    }

    /// Waits until there is something to take, at most for `limit`, or until the queue closes.
    pub(super) fn wait(&self, limit: Option<Duration>) {
        let end = limit.map(|limit| Instant::now() + limit);
        let mut state = self.lock();
        while state.items.is_empty() && state.reports.is_empty() && state.lost == 0 {
            if state.until.is_some() && limit.is_none() {
                return;
            }
            state = match end.map(|end| end.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return,
                Some(left) => {
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let waited = self.changed.wait(state);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
    }

    /// Waits until alerts should go to disk: more than half of the queue is used, or the target is
    /// down. `full`: the disk took no more a moment ago. False when the queue closes.
    pub(super) fn wait_pressed(&self, full: bool) -> bool {
        let mut state = self.lock();
        let start = Instant::now();
        loop {
            if state.until.is_some() || state.finished {
                return false;
            }
            let now = Instant::now();
            let down = state
                .failing_since
                .is_some_and(|since| now.saturating_duration_since(since) >= DOWN);
            let pressed = state.items.len() > self.capacity / 2
                || down && (state.held > 0 || !state.items.is_empty());
            if pressed && (!full || now.saturating_duration_since(start) >= DISK) {
                return true;
            }
            state = if state.failing_since.is_some() || full {
                let waited = self.pressed.wait_timeout(state, DISK / 2);
                waited.unwrap_or_else(PoisonError::into_inner).0
            } else {
                let waited = self.pressed.wait(state);
                waited.unwrap_or_else(PoisonError::into_inner)
            };
        }
    }

    /// When it closes; `None` while it is open.
    pub(super) fn closing(&self) -> Option<Instant> {
        self.lock().until
    }

    /// The target fails, and not only its first attempt.
    pub(super) fn is_failing(&self) -> bool {
        self.lock().failing_since.is_some()
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

    /// Waits for `pause`, or until the queue closes.
    pub(super) fn pause_while_open(&self, pause: Duration) {
        let end = Instant::now() + pause;
        let mut state = self.lock();
        while state.until.is_none() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
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
        self.pressed.notify_all();
    }

    /// The thread has ended.
    pub(super) fn finished(&self) {
        self.lock().finished = true;
        self.changed.notify_all();
        self.pressed.notify_all();
    }

    /// Waits until the thread has ended, or until `until`. True when it has.
    pub(super) fn wait_finished(&self, until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now());
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), left, |state| !state.finished);
        waited.unwrap_or_else(PoisonError::into_inner).0.finished
    }

    /// Waits until the thread has ended, or until `until`; what is left then is dropped.
    pub(super) fn wait_closed(&self, until: Instant) {
        self.wait_finished(until);
        let mut state = self.lock();
        let rest = state.held + u64::try_from(state.items.len()).unwrap_or(u64::MAX);
        state.held = 0;
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
            queued: state.held + u64::try_from(state.items.len()).unwrap_or(u64::MAX),
            spooled: state.spooled,
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
