//! Many indicators of one source: the first few are alerted, the others become one alert with a list.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Repeats, key::Origin};
use crate::{
    alert::{Alert, Scan},
    feed::{FeedName, Indicator, Severity},
};

/// Indicators that the list of one scan holds.
pub const LISTED: usize = 64;
/// The same of all scans together: a thousand scanners must not fill the memory with lists.
const ALL_LISTED: usize = 65_536;

/// The windows of sources.
#[derive(Debug)]
pub(super) struct Scans {
    /// Indicators of one source that are alerted one by one; zero: all.
    after: u32,
    max: usize,
    open: HashMap<Arc<Origin>, Window>,
    /// All windows are equally long: opened first is closed first.
    order: VecDeque<(Instant, Arc<Origin>)>,
    /// Indicators in all lists.
    listed: usize,
}

#[derive(Debug, Default)]
struct Window {
    /// Indicators that were alerted on their own.
    alerted: u32,
    held: Option<Held>,
}

/// The flows of one scan that had no alert of their own.
#[derive(Debug)]
struct Held {
    repeats: Repeats,
    /// In the order in which they were touched.
    indicators: Vec<Indicator>,
    more: bool,
    feeds: BTreeSet<FeedName>,
    severity: Severity,
}

impl Scans {
    pub(super) fn new(after: u32, max: usize) -> Self {
        Self {
            after,
            max,
            open: HashMap::new(),
            order: VecDeque::new(),
            listed: 0,
        }
    }

    /// Takes note of an indicator that has no window of its own; true when it is part of a scan,
    /// which tells of it later.
    pub(super) fn hold(&mut self, origin: &Origin, alert: &Alert, now: Instant) -> bool {
        if self.after == 0 {
            return false;
        }
        let Some(window) = self.open.get_mut(origin) else {
            if self.order.len() < self.max {
                let origin = Arc::new(origin.clone());
                let window = Window {
                    alerted: 1,
                    held: None,
                };
                self.open.insert(Arc::clone(&origin), window);
                self.order.push_back((now, origin));
            }
            return false;
        };
        if window.alerted < self.after {
            window.alerted += 1;
            return false;
        }
        let room = self.listed < ALL_LISTED;
        let listed = match &mut window.held {
            Some(held) => held.add(alert, room),
            None => {
                window.held = Some(Held::new(alert));
                true
            }
        };
        self.listed += usize::from(listed);
        true
    }

    /// The summaries of the windows that are over at `now`, oldest first; of all with `None`.
    pub(super) fn close(&mut self, window: Duration, now: Option<Instant>) -> Vec<Alert> {
        let mut summaries = Vec::new();
        while let Some((opened, _)) = self.order.front() {
            if now.is_some_and(|now| now.saturating_duration_since(*opened) < window) {
                break;
            }
            let Some((_, origin)) = self.order.pop_front() else {
                break;
            };
            let held = self.open.remove(&origin).and_then(|window| window.held);
            if let Some(held) = held {
                self.listed = self.listed.saturating_sub(held.indicators.len());
                summaries.push(held.summary());
            }
        }
        summaries
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }
}

impl Held {
    fn new(alert: &Alert) -> Self {
        Self {
            repeats: Repeats::of(alert),
            indicators: vec![alert.indicator],
            more: false,
            feeds: alert.feeds.iter().cloned().collect(),
            severity: alert.severity,
        }
    }

    /// Counts one more flow; true when its indicator is new in the list.
    fn add(&mut self, alert: &Alert, room: bool) -> bool {
        self.repeats.add(alert);
        self.severity = self.severity.max(alert.severity);
        for feed in &alert.feeds {
            if !self.feeds.contains(feed) {
                self.feeds.insert(feed.clone());
            }
        }
        // Most likely the one before.
        if self.indicators.iter().rev().any(|i| *i == alert.indicator) {
            return false;
        }
        let room = room && self.indicators.len() < LISTED;
        if room {
            self.indicators.push(alert.indicator);
        } else {
            self.more = true;
        }
        room
    }

    fn summary(self) -> Alert {
        let mut indicators = self.indicators.into_iter();
        let alert = self.repeats.summary();
        Alert {
            indicator: indicators.next().unwrap_or(alert.indicator),
            feeds: self.feeds.into_iter().collect(),
            severity: self.severity,
            scan: Some(Scan {
                further: indicators.collect(),
                more: self.more,
            }),
            ..alert
        }
    }
}
