//! Repeats are counted instead of sent: one alert, then one summary for each window; one for what
//! is left of a scan; and counts of what a limit held back.
//!
//! Law: the counts of all alerts sent (1 each), of all summaries and of all that was held back add
//! up to the flows observed. A window is closed by [`Suppressor::expired`], so it lasts up to one
//! timer period longer than configured; a flow that comes in between is still counted in it.

mod key;
mod limit;
mod scans;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::Alert;
use key::Key;
pub use limit::HeldBack;
use limit::Limit;
pub use scans::LISTED;
use scans::Scans;

/// Most windows kept at once. Beyond that a new key is sent each time: nothing goes uncounted.
pub const MAX_KEYS: usize = 65_536;

/// When alerts are not sent one by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Repeats within this time are one summary; zero: each is sent, and there are no scans.
    pub window: Duration,
    /// Indicators of one source in a window that are sent one by one; zero: all.
    pub scan_after: u32,
    /// Alerts a second, summaries included; zero: no limit.
    pub rate_limit: u32,
}

/// What to do with an observed alert.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Send it now.
    Send,
    /// A repeat: it is in a later summary.
    Repeat,
    /// It is in the later summary of a scan.
    Scan,
    /// It is in a later count of what the limit held back.
    HeldBack,
}

/// What there is to tell.
#[must_use]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Summaries of repeats, oldest first, then those of scans.
    pub summaries: Vec<Alert>,
    /// What the limit held back.
    pub held_back: Vec<HeldBack>,
}

/// Flows that had no alert of their own, by why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Repeats.
    pub repeats: u64,
    /// Parts of scans.
    pub scans: u64,
    /// Over the limit; also what was a repeat or part of a scan, when its summary was.
    pub held_back: u64,
}

/// Open windows by key.
#[derive(Debug)]
pub struct Suppressor {
    policy: Policy,
    max_keys: usize,
    open: HashMap<Arc<Key>, Option<Repeats>>,
    /// All windows are equally long: opened first is closed first.
    order: VecDeque<(Instant, Arc<Key>)>,
    scans: Scans,
    limit: Limit,
    counts: Counts,
}

/// Flows without an alert of their own in one window. Made at the first of them, so that a key without
/// repeats is cheap.
#[derive(Debug)]
struct Repeats {
    /// The first one; its id, which nobody has seen, becomes the summary's.
    alert: Box<Alert>,
    count: u64,
    first: SystemTime,
    last: SystemTime,
}

impl Suppressor {
    /// Suppresses as `policy` says.
    pub fn new(policy: Policy) -> Self {
        Self::with_capacity(policy, MAX_KEYS)
    }

    /// As [`Suppressor::new`], with at most `max_keys` windows.
    pub fn with_capacity(policy: Policy, max_keys: usize) -> Self {
        Self {
            policy,
            max_keys,
            open: HashMap::new(),
            order: VecDeque::new(),
            scans: Scans::new(policy.scan_after, max_keys),
            limit: Limit::new(policy.rate_limit),
            counts: Counts::default(),
        }
    }

    /// Takes note of one alert (of `count` flows) at `now`.
    pub fn observe(&mut self, alert: &Alert, now: Instant) -> Outcome {
        if self.policy.window.is_zero() {
            return self.send(alert, now);
        }
        let key = Key::of(alert);
        if let Some(repeats) = self.open.get_mut(&key) {
            match repeats {
                Some(repeats) => repeats.add(alert),
                None => *repeats = Some(Repeats::of(alert)),
            }
            self.counts.repeats = self.counts.repeats.saturating_add(alert.count);
            return Outcome::Repeat;
        }
        if self.scans.hold(&key.origin, alert, now) {
            self.counts.scans = self.counts.scans.saturating_add(alert.count);
            return Outcome::Scan;
        }
        if self.order.len() < self.max_keys {
            let key = Arc::new(key);
            self.open.insert(Arc::clone(&key), None);
            self.order.push_back((now, key));
        }
        self.send(alert, now)
    }

    /// Closes the windows that are over at `now`, and tells what there is to tell then.
    pub fn expired(&mut self, now: Instant) -> Told {
        self.close(Some(now), now)
    }

    /// Closes every window and tells all, for shutdown.
    pub fn drain(&mut self, now: Instant) -> Told {
        self.close(None, now)
    }

    /// Goes on with another policy; what was counted by the one before is told.
    pub fn change(&mut self, policy: Policy, now: Instant) -> Told {
        let told = self.drain(now);
        let counts = self.counts;
        *self = Self::with_capacity(policy, self.max_keys);
        self.counts = counts;
        told
    }

    /// Flows that had no alert of their own, since the start.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Number of open windows, of sources and indicators and of sources alone.
    pub fn len(&self) -> usize {
        self.order.len() + self.scans.len()
    }

    /// True when no window is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn send(&mut self, alert: &Alert, now: Instant) -> Outcome {
        if self.limit.pass(alert, now) {
            return Outcome::Send;
        }
        self.counts.held_back = self.counts.held_back.saturating_add(alert.count);
        Outcome::HeldBack
    }

    /// `until`: the windows that are over then, or all.
    fn close(&mut self, until: Option<Instant>, now: Instant) -> Told {
        let mut summaries = Vec::new();
        while let Some((opened, _)) = self.order.front() {
            let age = |now: Instant| now.saturating_duration_since(*opened);
            if until.is_some_and(|now| age(now) < self.policy.window) {
                break;
            }
            if let Some((_, key)) = self.order.pop_front() {
                let repeats = self.open.remove(&key).flatten();
                summaries.extend(repeats.map(Repeats::summary));
            }
        }
        summaries.extend(self.scans.close(self.policy.window, until));
        summaries.retain(|summary| self.send(summary, now) == Outcome::Send);
        Told {
            summaries,
            held_back: self.limit.due(until),
        }
    }
}

impl Repeats {
    fn of(alert: &Alert) -> Self {
        Self {
            alert: Box::new(alert.clone()),
            count: alert.count,
            first: alert.time,
            last: alert.time,
        }
    }

    fn add(&mut self, alert: &Alert) {
        self.count = self.count.saturating_add(alert.count);
        self.last = alert.time;
    }

    fn summary(self) -> Alert {
        Alert {
            count: self.count,
            time: self.last,
            window: Some((self.first, self.last)),
            held: Duration::ZERO,
            ..*self.alert
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{alert::example, feed::Action};

    const MINUTE: Duration = Duration::from_secs(60);

    fn policy(window: Duration) -> Policy {
        Policy {
            window,
            scan_after: 20,
            rate_limit: 0,
        }
    }

    #[test]
    fn first_is_sent_repeats_are_summed_then_sent_anew() {
        let mut s = Suppressor::new(policy(MINUTE));
        let start = Instant::now();
        let mut alert = example::alert();
        let time = alert.time;
        assert_eq!(s.observe(&alert, start), Outcome::Send);
        for n in 1..=3 {
            alert.id = uuid::Uuid::from_u128(n.into());
            alert.time = time + Duration::from_secs(n);
            alert.flow.transport = crate::packet::Transport::Ports { src: 5000, dst: 80 };
            let now = start + Duration::from_secs(n);
            assert_eq!(s.observe(&alert, now), Outcome::Repeat);
        }
        assert_eq!(s.expired(start + MINUTE / 2), Told::default());
        let summary = s.expired(start + MINUTE).summaries.pop().unwrap();
        assert_eq!((summary.count, &summary.scan), (3, &None));
        assert_eq!(
            summary.window,
            Some((time + Duration::from_secs(1), time + Duration::from_secs(3)))
        );
        assert_eq!(summary.id, uuid::Uuid::from_u128(1), "an id of its own");
        assert_eq!(s.observe(&alert, start + MINUTE), Outcome::Send);
        let told = s.drain(start + MINUTE);
        assert_eq!(told, Told::default(), "no repeats, no summary");
        assert_eq!(s.counts().repeats, 3);
    }

    #[test]
    fn a_scan_is_some_alerts_and_one_list() {
        let scan_after = 3;
        let mut s = Suppressor::new(Policy {
            scan_after,
            ..policy(MINUTE)
        });
        let start = Instant::now();
        let mut alert = example::alert();
        let time = alert.time;
        let mut sent = 0;
        for n in 1..=100 {
            alert.indicator = format!("192.0.2.{n}").parse().unwrap();
            alert.time = time + Duration::from_secs(n);
            let feed = if n == 7 { "other" } else { "ipsum" };
            alert.feeds = vec![feed.parse().unwrap()];
            match s.observe(&alert, start) {
                Outcome::Send => sent += 1,
                outcome => assert_eq!(outcome, Outcome::Scan),
            }
        }
        assert_eq!(sent, scan_after);
        assert_eq!(
            s.observe(&alert, start),
            Outcome::Scan,
            "an indicator again"
        );
        alert.indicator = "192.0.2.2".parse().unwrap();
        assert_eq!(s.observe(&alert, start), Outcome::Repeat, "of one alerted");
        alert.source.pid = Some(7);
        assert_eq!(s.observe(&alert, start), Outcome::Send, "another process");

        let mut told = s.expired(start + MINUTE).summaries;
        assert_eq!(told.iter().map(|summary| summary.count).sum::<u64>(), 99);
        let summary = told.pop().unwrap();
        let scan = summary.scan.unwrap();
        assert_eq!(summary.count, 98);
        assert_eq!(
            summary.window,
            Some((time + Duration::from_secs(4), alert.time))
        );
        assert_eq!(summary.indicator.to_string(), "192.0.2.4");
        assert_eq!(scan.further.len(), LISTED - 1);
        assert_eq!(scan.further[0].to_string(), "192.0.2.5");
        assert!(scan.more);
        let feeds: Vec<&str> = summary.feeds.iter().map(|feed| feed.as_str()).collect();
        assert_eq!(feeds, ["ipsum", "other"]);
        assert_eq!(s.counts().scans, 98);
    }

    #[test]
    fn a_limit_holds_back_summaries_too() {
        let mut s = Suppressor::new(Policy {
            rate_limit: 1,
            ..policy(MINUTE)
        });
        let start = Instant::now();
        let mut alert = example::alert();
        for pid in [1, 1, 2, 2] {
            alert.source.pid = Some(pid);
            let _ = s.observe(&alert, start);
        }
        let told = s.expired(start + MINUTE);
        assert_eq!((told.summaries.len(), told.held_back.len()), (1, 1));
        assert_eq!(told.held_back[0].count, 2, "of the second process");
        assert_eq!(s.counts().held_back, 2);
        let changed = s.change(policy(MINUTE), start + MINUTE);
        assert_eq!(changed, Told::default());
        assert_eq!(s.counts().held_back, 2, "it goes on");
    }

    #[test]
    fn zero_sends_each_and_a_full_table_too() {
        let alert = example::alert();
        let now = Instant::now();
        let mut s = Suppressor::new(policy(Duration::ZERO));
        assert_eq!(s.observe(&alert, now), Outcome::Send);
        assert_eq!(s.observe(&alert, now), Outcome::Send);
        let mut s = Suppressor::with_capacity(policy(MINUTE), 1);
        let mut other = alert.clone();
        other.action = Action::Alert;
        assert_eq!(s.observe(&alert, now), Outcome::Send);
        assert_eq!(s.observe(&other, now), Outcome::Send);
        assert_eq!(s.observe(&other, now), Outcome::Send);
        assert_eq!(s.observe(&alert, now), Outcome::Repeat);
        assert_eq!(s.len(), 2, "of the source and indicator, and of the source");
    }

    #[test]
    #[ignore = "a measurement, run by hand in release mode"]
    fn cost() {
        let mut s = Suppressor::new(policy(MINUTE));
        let mut alert = example::alert();
        let now = Instant::now();
        const N: u32 = 1_000_000;
        for _ in 0..N {
            let _ = s.observe(&alert, now);
        }
        println!("{:?} for one repeat", now.elapsed() / N);
        let now = Instant::now();
        for n in 0..N {
            alert.indicator =
                crate::prefix::Prefix::host(std::net::Ipv4Addr::from(n).into()).into();
            let _ = s.observe(&alert, now);
        }
        println!("{:?} for one of a scan", now.elapsed() / N);
    }

    prop_compose! {
        fn any_policy()(window in 0u64..90, scan_after in 0u32..5, rate_limit in 0u32..4) -> Policy {
            Policy { window: Duration::from_secs(window), scan_after, rate_limit }
        }
    }

    /// A flow of one of some sources to one of some indicators, after a while; then perhaps the timer, or
    /// a reload.
    #[derive(Clone, Debug)]
    struct Step {
        pid: u32,
        host: u8,
        feed: u8,
        deny: bool,
        wait: u64,
        timer: bool,
        reload: Option<Policy>,
    }

    prop_compose! {
        fn any_step()(pid in 0u32..4, host in 0u8..9, feed in 0u8..3, deny: bool, wait in 0u64..15_000,
                      timer: bool, reload in prop::option::weighted(0.02, any_policy())) -> Step {
            Step { pid, host, feed, deny, wait, timer, reload }
        }
    }

    proptest! {
        #[test]
        fn every_flow_is_in_one_count(
            steps in prop::collection::vec(any_step(), 0..300),
            policy in any_policy(),
            max_keys in 0usize..9,
        ) {
            let mut s = Suppressor::with_capacity(policy, max_keys);
            let mut now = Instant::now();
            let (mut flows, mut told) = (0, 0);
            let mut alert = example::alert();
            let sum = |told: Told| {
                told.summaries.iter().map(|summary| summary.count).sum::<u64>()
                    + told.held_back.iter().map(|row| row.count).sum::<u64>()
            };
            for step in steps {
                now += Duration::from_millis(step.wait);
                alert.source.pid = Some(step.pid);
                alert.indicator = format!("192.0.2.{}", step.host).parse().unwrap();
                alert.feeds = vec![format!("feed-{}", step.feed).parse().unwrap()];
                alert.action = if step.deny { Action::Deny } else { Action::Alert };
                flows += 1;
                told += u64::from(s.observe(&alert, now) == Outcome::Send);
                if step.timer {
                    told += sum(s.expired(now));
                }
                if let Some(policy) = step.reload {
                    told += sum(s.change(policy, now));
                }
                prop_assert!(s.order.len() <= max_keys && s.open.len() == s.order.len());
                prop_assert!(s.scans.len() <= max_keys);
            }
            told += sum(s.drain(now));
            prop_assert_eq!(told, flows);
            prop_assert!(s.is_empty());
        }
    }
}
