//! The windows and the limit of one direction.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Counts, FLOOD_AFTER, HeldBack, Outcome, Policy, Repeats, Told,
    folds::{Folds, Indicators, Sources},
    key::{Key, Origin},
    limit::Limit,
    waiting::Part,
};
use crate::{alert::Alert, feed::Direction};

/// Floods that are summed up at once; each takes some 10 kB.
const FLOODS: usize = 1_024;

/// See the module.
#[derive(Debug)]
pub(super) struct Side {
    window: Duration,
    max_keys: usize,
    open: HashMap<Arc<Key>, Option<Repeats>>,
    /// All windows are equally long: opened first is closed first.
    order: VecDeque<(Instant, Arc<Key>)>,
    /// Many indicators of one source.
    scans: Folds<Origin, Indicators>,
    /// Many sources of one indicator.
    floods: Folds<Key, Sources>,
    limit: Limit,
    /// Grows with each change of what waits.
    changes: u64,
}

impl Side {
    pub(super) fn new(policy: &Policy, direction: Direction, max_keys: usize) -> Self {
        // Sources of what goes out are this side's own: there are not many, and each one matters.
        let flood_after = match direction {
            Direction::Egress => 0,
            Direction::Ingress => FLOOD_AFTER,
        };
        Self {
            window: policy.window,
            max_keys,
            open: HashMap::new(),
            order: VecDeque::new(),
            scans: Folds::new(policy.scan_after, max_keys, max_keys),
            floods: Folds::new(flood_after, max_keys, FLOODS),
            limit: policy.limit(direction),
            changes: 0,
        }
    }

    /// Takes note of one alert (of `count` flows) at `now`.
    pub(super) fn observe(&mut self, alert: &Alert, now: Instant, counts: &mut Counts) -> Outcome {
        let outcome = self.outcome(alert, now, counts);
        if outcome != Outcome::Send {
            self.changes = self.changes.wrapping_add(1);
        }
        outcome
    }

    fn outcome(&mut self, alert: &Alert, now: Instant, counts: &mut Counts) -> Outcome {
        if self.window.is_zero() {
            return self.send(alert, now, counts);
        }
        let key = Key::of(alert);
        if let Some(repeats) = self.open.get_mut(&key) {
            match repeats {
                Some(repeats) => repeats.add(alert),
                None => *repeats = Some(Repeats::of(alert)),
            }
            counts.repeats = counts.repeats.saturating_add(alert.count);
            return Outcome::Repeat;
        }
        // Before the source gets a window: a flood must not fill the table with its sources.
        if self.floods.hold(&key.of_any_source(), alert, now) {
            counts.floods = counts.floods.saturating_add(alert.count);
            return Outcome::Flood;
        }
        if self.scans.hold(&key.origin, alert, now) {
            counts.scans = counts.scans.saturating_add(alert.count);
            return Outcome::Scan;
        }
        if self.order.len() < self.max_keys {
            let key = Arc::new(key);
            self.open.insert(Arc::clone(&key), None);
            self.order.push_back((now, key));
        }
        self.send(alert, now, counts)
    }

    /// Closes the windows that are over at `until`, or all, and tells what there is to tell at `now`.
    pub(super) fn close(
        &mut self,
        until: Option<Instant>,
        now: Instant,
        counts: &mut Counts,
    ) -> Told {
        let mut summaries = Vec::new();
        while let Some((opened, _)) = self.order.front() {
            let age = |now: Instant| now.saturating_duration_since(*opened);
            if until.is_some_and(|now| age(now) < self.window) {
                break;
            }
            if let Some((_, key)) = self.order.pop_front() {
                let repeats = self.open.remove(&key).flatten();
                summaries.extend(repeats.map(|repeats| repeats.summary()));
            }
        }
        summaries.extend(self.floods.close(self.window, until));
        summaries.extend(self.scans.close(self.window, until));
        let closed = summaries.len();
        summaries.retain(|summary| self.send(summary, now, counts) == Outcome::Send);
        let held_back = self.limit.due(until);
        if closed + held_back.len() > 0 {
            self.changes = self.changes.wrapping_add(1);
        }
        Told {
            summaries,
            held_back,
        }
    }

    /// What would be a summary if all windows closed now.
    pub(super) fn parts(&self) -> impl Iterator<Item = Part> {
        let repeats = self.open.values().flatten().cloned().map(Part::Repeats);
        let floods = self.floods.held().cloned().map(Part::Flood);
        let scans = self.scans.held().cloned().map(Part::Scan);
        repeats.chain(floods).chain(scans)
    }

    /// What the limit held back and has not told.
    pub(super) fn held_back(&self) -> Vec<HeldBack> {
        self.limit.told()
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    pub(super) fn len(&self) -> usize {
        self.order.len() + self.floods.len() + self.scans.len()
    }

    pub(super) fn max_keys(&self) -> usize {
        self.max_keys
    }

    /// Whether the limit lets it pass; what it does not is counted.
    pub(super) fn send(&mut self, alert: &Alert, now: Instant, counts: &mut Counts) -> Outcome {
        if self.limit.pass(alert, now) {
            return Outcome::Send;
        }
        counts.all_held_back.add(alert.action, alert.count);
        let count = match self.limit.is_of_ingress() {
            true => &mut counts.held_back_ingress,
            false => &mut counts.held_back,
        };
        *count = count.saturating_add(alert.count);
        Outcome::HeldBack
    }
}
