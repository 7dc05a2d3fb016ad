//! Many indicators of one source, or many sources of one indicator: the first few are alerted, the
//! others become one alert with a list.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    hash::Hash,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Repeats, sources::Distinct};
use crate::{
    alert::{Alert, Flood, Scan},
    feed::{FeedName, Indicator, Severity},
};

/// Indicators that the list of one scan holds, and sources that the list of one flood holds.
pub const LISTED: usize = 64;
/// The same of all of them together: a thousand scanners must not fill the memory with lists.
const ALL_LISTED: usize = 65_536;

/// What differs between the alerts of one fold.
pub(super) trait Members {
    /// Those of the first alert.
    fn of(alert: &Alert) -> Self;
    /// Takes note of one more alert; true when the list grew. Without `room` it must not.
    fn add(&mut self, alert: &Alert, room: bool) -> bool;
    /// Length of the list.
    fn listed(&self) -> usize;
    /// Puts the list into a summary.
    fn describe(&self, summary: &mut Alert);
}

/// The windows of one kind of fold.
#[derive(Debug)]
pub(super) struct Folds<K, M> {
    /// Members that are alerted one by one; zero: all.
    after: u32,
    max: usize,
    /// Windows with a summary; beyond that members are alerted one by one.
    max_held: usize,
    open: HashMap<Arc<K>, Window<M>>,
    /// All windows are equally long: opened first is closed first.
    order: VecDeque<(Instant, Arc<K>)>,
    /// Windows with a summary now.
    held: usize,
    /// Members in all lists.
    listed: usize,
}

#[derive(Debug)]
struct Window<M> {
    /// Members that were alerted on their own.
    alerted: u32,
    held: Option<Held<M>>,
}

/// The flows of one fold that had no alert of their own.
#[derive(Clone, Debug)]
pub(super) struct Held<M> {
    repeats: Repeats,
    members: M,
    feeds: BTreeSet<FeedName>,
    severity: Severity,
}

impl<K: Clone + Eq + Hash, M: Members> Folds<K, M> {
    pub(super) fn new(after: u32, max: usize, max_held: usize) -> Self {
        Self {
            after,
            max,
            max_held,
            open: HashMap::new(),
            order: VecDeque::new(),
            held: 0,
            listed: 0,
        }
    }

    /// Takes note of an alert that is not a repeat; true when it is part of a fold, whose summary
    /// follows.
    pub(super) fn hold(&mut self, key: &K, alert: &Alert, now: Instant) -> bool {
        if self.after == 0 {
            return false;
        }
        let Some(window) = self.open.get_mut(key) else {
            self.begin(key, now);
            return false;
        };
        if window.alerted < self.after {
            window.alerted += 1;
            return false;
        }
        let room = self.listed < ALL_LISTED;
        let listed = match &mut window.held {
            Some(held) => held.add(alert, room),
            None if self.held >= self.max_held => return false,
            None => {
                window.held = Some(Held::new(alert));
                self.held += 1;
                true
            }
        };
        self.listed += usize::from(listed);
        true
    }

    fn begin(&mut self, key: &K, now: Instant) {
        if self.order.len() < self.max {
            let key = Arc::new(key.clone());
            let window = Window {
                alerted: 1,
                held: None,
            };
            self.open.insert(Arc::clone(&key), window);
            self.order.push_back((now, key));
        }
    }

    /// The summaries of the windows that are over at `now`, oldest first; of all with `None`.
    pub(super) fn close(&mut self, window: Duration, now: Option<Instant>) -> Vec<Alert> {
        let mut summaries = Vec::new();
        while let Some((opened, _)) = self.order.front() {
            if now.is_some_and(|now| now.saturating_duration_since(*opened) < window) {
                break;
            }
            let Some((_, key)) = self.order.pop_front() else {
                break;
            };
            let held = self.open.remove(&key).and_then(|window| window.held);
            if let Some(held) = held {
                self.held = self.held.saturating_sub(1);
                self.listed = self.listed.saturating_sub(held.members.listed());
                summaries.push(held.summary());
            }
        }
        summaries
    }

    /// What is held in all windows.
    pub(super) fn held(&self) -> impl Iterator<Item = &Held<M>> {
        self.open.values().filter_map(|window| window.held.as_ref())
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }
}

impl<M: Members> Held<M> {
    fn new(alert: &Alert) -> Self {
        Self {
            repeats: Repeats::of(alert),
            members: M::of(alert),
            feeds: alert.feeds.iter().cloned().collect(),
            severity: alert.severity,
        }
    }

    /// Counts one more flow; true when the list grew.
    fn add(&mut self, alert: &Alert, room: bool) -> bool {
        self.repeats.add(alert);
        self.severity = self.severity.max(alert.severity);
        for feed in &alert.feeds {
            if !self.feeds.contains(feed) {
                self.feeds.insert(feed.clone());
            }
        }
        self.members.add(alert, room)
    }

    /// The alert that stands for all of its flows.
    pub(super) fn summary(&self) -> Alert {
        let mut summary = Alert {
            feeds: self.feeds.iter().cloned().collect(),
            severity: self.severity,
            ..self.repeats.summary()
        };
        self.members.describe(&mut summary);
        summary
    }
}

/// The indicators of a scan, in the order in which they were touched.
#[derive(Clone, Debug)]
pub(super) struct Indicators {
    list: Vec<Indicator>,
    more: bool,
}

impl Members for Indicators {
    fn of(alert: &Alert) -> Self {
        Self {
            list: vec![alert.indicator],
            more: false,
        }
    }

    fn add(&mut self, alert: &Alert, room: bool) -> bool {
        // Most likely the one before.
        if self.list.iter().rev().any(|i| *i == alert.indicator) {
            return false;
        }
        let room = room && self.list.len() < LISTED;
        if room {
            self.list.push(alert.indicator);
        } else {
            self.more = true;
        }
        room
    }

    fn listed(&self) -> usize {
        self.list.len()
    }

    fn describe(&self, summary: &mut Alert) {
        let mut list = self.list.iter().copied();
        if let Some(first) = list.next() {
            summary.indicator = first;
        }
        summary.scan = Some(Scan {
            further: list.collect(),
            more: self.more,
        });
    }
}

/// The source addresses of a flood, in the order in which they came, and how many there were.
#[derive(Clone, Debug)]
pub(super) struct Sources {
    list: Vec<IpAddr>,
    all: Distinct,
}

impl Members for Sources {
    fn of(alert: &Alert) -> Self {
        let mut all = Distinct::default();
        all.add(&alert.flow.src);
        Self {
            list: vec![alert.flow.src],
            all,
        }
    }

    fn add(&mut self, alert: &Alert, room: bool) -> bool {
        let source = alert.flow.src;
        self.all.add(&source);
        let room = room && self.list.len() < LISTED && !self.list.contains(&source);
        if room {
            self.list.push(source);
        }
        room
    }

    fn listed(&self) -> usize {
        self.list.len()
    }

    fn describe(&self, summary: &mut Alert) {
        let (sources, is_exact) = self.all.count();
        summary.flood = Some(Flood {
            sources,
            is_exact,
            further: self.list.iter().skip(1).copied().collect(),
        });
    }
}
