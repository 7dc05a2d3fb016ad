//! At most so many alerts a second; what is beyond is counted by feed and source, or by feed and
//! indicator where others choose the source.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use crate::{
    alert::{
        Alert,
        sentence::{feed_words, source_words},
    },
    feed::{Action, Direction},
};

/// How long counts are collected before they are told.
const COLLECT: Duration = Duration::from_secs(10);
/// Rows that are counted apart; what is beyond is one row by verdict.
const ROWS: usize = 256;
/// Rows that are told apart, those with most flows.
const TOLD: usize = 16;
/// The key of the limit of what comes in.
pub(super) const INGRESS: &str = "rate-limit-ingress";
const SECOND: Duration = Duration::from_secs(1);

/// Flows that had no alert because of the limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldBack {
    /// The key of the configuration that says so.
    pub limit: &'static str,
    /// How many.
    pub count: u64,
    /// Verdict, feeds and source or indicator, in printable ASCII.
    pub what: String,
}

/// The limit, and what it held back.
#[derive(Debug)]
pub(super) struct Limit {
    rate: u32,
    /// Its key in the configuration.
    key: &'static str,
    /// When the alerts that were sent would all have been sent, had they come evenly.
    paid_until: Option<Instant>,
    rows: HashMap<Row, u64>,
    others: BTreeMap<Action, u64>,
    since: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Row {
    action: Action,
    feeds: String,
    /// `source curl[1234]`, or `indicator 198.18.0.0/15`.
    whose: String,
}

impl Row {
    fn of(alert: &Alert) -> Self {
        let whose = match alert.direction {
            Direction::Egress => format!("source {}", source_words(alert)),
            Direction::Ingress => format!("indicator {}", alert.indicator),
        };
        Self {
            action: alert.action,
            feeds: feed_words(alert),
            whose,
        }
    }
}

impl Limit {
    /// `rate` alerts a second, as many at once; zero: no limit.
    pub(super) fn new(rate: u32, key: &'static str) -> Self {
        Self {
            rate,
            key,
            paid_until: None,
            rows: HashMap::new(),
            others: BTreeMap::new(),
            since: None,
        }
    }

    /// True when `alert` may be sent; else its flows are counted.
    pub(super) fn pass(&mut self, alert: &Alert, now: Instant) -> bool {
        if self.rate == 0 || self.pay(now) {
            return true;
        }
        self.since.get_or_insert(now);
        let row = Row::of(alert);
        let count = if self.rows.len() < ROWS || self.rows.contains_key(&row) {
            self.rows.entry(row).or_default()
        } else {
            self.others.entry(alert.action).or_default()
        };
        *count = count.saturating_add(alert.count);
        false
    }

    /// What was held back, when it is time to tell; with `None` at once.
    pub(super) fn due(&mut self, now: Option<Instant>) -> Vec<HeldBack> {
        let Some(since) = self.since else {
            return Vec::new();
        };
        if now.is_some_and(|now| now.saturating_duration_since(since) < COLLECT) {
            return Vec::new();
        }
        let told = self.told();
        self.since = None;
        self.rows.clear();
        self.others.clear();
        told
    }

    /// What was held back and not told yet: the rows with most flows, and all others by verdict.
    pub(super) fn told(&self) -> Vec<HeldBack> {
        let mut rows: Vec<(&Row, u64)> = self.rows.iter().map(|(row, n)| (row, *n)).collect();
        rows.sort_by(|(a, x), (b, y)| y.cmp(x).then_with(|| a.cmp(b)));
        let mut others = self.others.clone();
        let mut told = Vec::new();
        for (n, (row, count)) in rows.into_iter().enumerate() {
            if n < TOLD {
                let what = format!("feed {}, {}", row.feeds, row.whose);
                told.push(self.held_back(count, row.action, &what));
            } else {
                let sum = others.entry(row.action).or_default();
                *sum = sum.saturating_add(count);
            }
        }
        let others = others.into_iter();
        told.extend(
            others.map(|(action, count)| self.held_back(count, action, "other feeds and sources")),
        );
        told
    }

    /// True when it is the one of `rate-limit-ingress`.
    pub(super) fn is_of_ingress(&self) -> bool {
        self.key == INGRESS
    }

    fn held_back(&self, count: u64, action: Action, what: &str) -> HeldBack {
        HeldBack {
            limit: self.key,
            count,
            what: format!("flows over {} {}: {what}", self.key, verdict(action)),
        }
    }

    /// One alert's share of time, if there is any left: a second's worth may be spent at once.
    fn pay(&mut self, now: Instant) -> bool {
        let share = SECOND / self.rate.max(1);
        let paid = self.paid_until.map_or(now, |until| until.max(now)) + share;
        let in_time = paid.saturating_duration_since(now) <= SECOND;
        if in_time {
            self.paid_until = Some(paid);
        }
        in_time
    }
}

fn verdict(action: Action) -> &'static str {
    match action {
        Action::Alert => "passed",
        Action::Deny => "denied",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::example;

    #[test]
    fn a_second_at_once_then_evenly() {
        let start = Instant::now();
        let mut limit = Limit::new(10, "rate-limit");
        let alert = example::alert();
        let passed = |limit: &mut Limit, tries: u32, at: Duration| {
            (0..tries)
                .filter(|_| limit.pass(&alert, start + at))
                .count()
        };
        assert_eq!(passed(&mut limit, 50, Duration::ZERO), 10);
        assert_eq!(passed(&mut limit, 50, Duration::from_millis(250)), 2);
        assert_eq!(passed(&mut limit, 50, Duration::from_millis(1250)), 10);
        assert_eq!(passed(&mut limit, 50, Duration::from_secs(60)), 10);
        let told = limit.due(None);
        let only = told.first().unwrap();
        assert_eq!((told.len(), only.count), (1, 200 - 32));
        assert_eq!(
            only.what,
            "flows over rate-limit denied: feed ipsum, source curl[1234] user red unit cron.service"
        );
        assert_eq!(limit.due(None), []);
    }

    #[test]
    fn counts_are_collected_and_many_sources_are_others() {
        let start = Instant::now();
        let mut limit = Limit::new(1, "rate-limit");
        let mut alert = example::alert();
        let _ = limit.pass(&alert, start);
        for pid in 0..1_000 {
            alert.source.pid = Some(pid);
            alert.count = 2;
            assert!(!limit.pass(&alert, start));
        }
        assert_eq!(limit.due(Some(start + COLLECT / 2)), []);
        let told = limit.due(Some(start + COLLECT));
        assert_eq!(told.len(), TOLD + 1);
        assert_eq!(told.iter().map(|row| row.count).sum::<u64>(), 2_000);
        let last = told.last().unwrap();
        assert_eq!(
            last.what,
            "flows over rate-limit denied: other feeds and sources"
        );
    }
}
