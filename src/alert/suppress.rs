//! Repeats are counted instead of sent: one alert, then one summary for each window.
//!
//! Law: the counts of all alerts sent (1 each) and of all summaries add up to the flows observed.
//! A window is closed by [`Suppressor::expired`], so it lasts up to one timer period longer than
//! configured; a flow that comes in between is still counted in it.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::Alert;
use crate::{
    attribution::Source,
    feed::{Action, Direction, Indicator},
};

/// Most windows kept at once. Beyond that a new key is sent each time: nothing goes uncounted.
pub const MAX_KEYS: usize = 65_536;

/// What makes two alerts the same: who, which indicator, which way, which verdict. Not the ports.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    who: Who,
    /// Source address, where that is who sent it.
    addr: Option<IpAddr>,
    indicator: Indicator,
    direction: Direction,
    action: Action,
}

/// The source, by the best identity that is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    /// A process: the pid alone may be used again.
    Process { pid: u32, start: u64 },
    /// What a process belongs to.
    Owner(Box<Owner>),
    /// A LAN client.
    Client(String),
    /// Nobody was found; the address must do.
    Nobody,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Owner {
    uid: Option<u32>,
    exe: Option<String>,
    unit: Option<String>,
    container: Option<String>,
    pod: Option<String>,
    namespace: Option<String>,
}

impl Key {
    /// The key of `alert`.
    ///
    /// The source address belongs to it when the flow comes from outside (the attribution then
    /// names who receives) or no process or workload is known: one router's MAC address may stand
    /// for many senders.
    pub fn of(alert: &Alert) -> Self {
        let who = Who::of(&alert.source);
        let by_addr =
            alert.direction == Direction::Ingress || matches!(who, Who::Client(_) | Who::Nobody);
        Self {
            who,
            addr: by_addr.then_some(alert.flow.src),
            indicator: alert.indicator,
            direction: alert.direction,
            action: alert.action,
        }
    }
}

impl Who {
    fn of(source: &Source) -> Self {
        if let (Some(pid), Some(start)) = (source.pid, source.start) {
            return Self::Process { pid, start };
        }
        let workload = source.exe.is_some()
            || source.unit.is_some()
            || source.container.is_some()
            || source.pod.is_some();
        if source.uid.is_some() || workload {
            return Self::Owner(Box::new(Owner {
                uid: source.uid,
                exe: source.exe.clone(),
                unit: source.unit.clone(),
                container: source.container.clone(),
                pod: source.pod.clone(),
                namespace: source.namespace.clone(),
            }));
        }
        match &source.mac {
            Some(mac) => Self::Client(mac.clone()),
            None => Self::Nobody,
        }
    }
}

/// What to do with an observed alert.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Send it now.
    Send,
    /// It is in a later summary.
    Counted,
}

/// Open windows by key.
#[derive(Debug)]
pub struct Suppressor {
    window: Duration,
    max_keys: usize,
    open: HashMap<Arc<Key>, Option<Repeats>>,
    /// All windows are equally long: opened first is closed first.
    order: VecDeque<(Instant, Arc<Key>)>,
}

/// Flows held back in one window. Made at the first of them, so that a key without repeats is cheap.
#[derive(Debug)]
struct Repeats {
    /// The first one; its id, which nobody has seen, becomes the summary's.
    alert: Box<Alert>,
    count: u64,
    first: SystemTime,
    last: SystemTime,
}

impl Suppressor {
    /// Windows of `window` length; zero sends each alert.
    pub fn new(window: Duration) -> Self {
        Self::with_capacity(window, MAX_KEYS)
    }

    /// As [`Suppressor::new`], with at most `max_keys` windows.
    pub fn with_capacity(window: Duration, max_keys: usize) -> Self {
        Self {
            window,
            max_keys,
            open: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Takes note of one alert (of `count` flows) at `now`.
    pub fn observe(&mut self, key: Key, alert: &Alert, now: Instant) -> Outcome {
        if self.window.is_zero() {
            return Outcome::Send;
        }
        match self.open.get_mut(&key) {
            Some(repeats) => {
                Repeats::add(repeats, alert);
                Outcome::Counted
            }
            None => {
                if self.order.len() < self.max_keys {
                    let key = Arc::new(key);
                    self.open.insert(Arc::clone(&key), None);
                    self.order.push_back((now, key));
                }
                Outcome::Send
            }
        }
    }

    /// Closes the windows that are over at `now` and returns their summaries, oldest first.
    pub fn expired(&mut self, now: Instant) -> Vec<Alert> {
        let mut summaries = Vec::new();
        while let Some((opened, _)) = self.order.front() {
            if now.saturating_duration_since(*opened) < self.window {
                break;
            }
            summaries.extend(self.close_oldest());
        }
        summaries
    }

    /// Closes every window, for shutdown and for a changed configuration.
    pub fn drain(&mut self) -> Vec<Alert> {
        let mut summaries = Vec::new();
        while !self.order.is_empty() {
            summaries.extend(self.close_oldest());
        }
        summaries
    }

    /// Number of open windows.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// True when no window is open.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    fn close_oldest(&mut self) -> Option<Alert> {
        let (_, key) = self.order.pop_front()?;
        self.open.remove(&key)?.map(Repeats::summary)
    }
}

impl Repeats {
    fn add(slot: &mut Option<Self>, alert: &Alert) {
        match slot {
            Some(repeats) => {
                repeats.count = repeats.count.saturating_add(alert.count);
                repeats.last = alert.time;
            }
            None => {
                *slot = Some(Self {
                    alert: Box::new(alert.clone()),
                    count: alert.count,
                    first: alert.time,
                    last: alert.time,
                });
            }
        }
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
    use crate::alert::example;

    const MINUTE: Duration = Duration::from_secs(60);

    fn observe(s: &mut Suppressor, alert: &Alert, now: Instant) -> Outcome {
        s.observe(Key::of(alert), alert, now)
    }

    #[test]
    fn first_is_sent_repeats_are_summed_then_sent_anew() {
        let mut s = Suppressor::new(MINUTE);
        let start = Instant::now();
        let mut alert = example::alert();
        let time = alert.time;
        assert_eq!(observe(&mut s, &alert, start), Outcome::Send);
        for n in 1..=3 {
            alert.id = uuid::Uuid::from_u128(n.into());
            alert.time = time + Duration::from_secs(n);
            alert.flow.transport = crate::packet::Transport::Ports { src: 5000, dst: 80 };
            assert_eq!(
                observe(&mut s, &alert, start + Duration::from_secs(n)),
                Outcome::Counted
            );
        }
        assert_eq!(s.expired(start + MINUTE / 2), []);
        let summary = s.expired(start + MINUTE).pop().unwrap();
        assert_eq!(summary.count, 3);
        assert_eq!(
            summary.window,
            Some((time + Duration::from_secs(1), time + Duration::from_secs(3)))
        );
        assert_eq!(summary.id, uuid::Uuid::from_u128(1), "an id of its own");
        assert_eq!(observe(&mut s, &alert, start + MINUTE), Outcome::Send);
        assert_eq!(s.drain(), [], "no repeats, no summary");
    }

    #[test]
    fn what_makes_a_difference() {
        let base = example::alert();
        let differs = |change: fn(&mut Alert)| {
            let mut other = base.clone();
            change(&mut other);
            Key::of(&base) != Key::of(&other)
        };
        assert!(differs(|a| a.action = Action::Alert));
        assert!(differs(|a| a.direction = Direction::Ingress));
        assert!(differs(|a| a.indicator = "10.48.0.0/16".parse().unwrap()));
        assert!(differs(|a| a.source.pid = Some(99)));
        assert!(differs(|a| a.source.start = Some(99)), "a pid used again");
        assert!(!differs(|a| a.flow.src = "10.0.0.2".parse().unwrap()));
        assert!(!differs(
            |a| a.flow.transport = crate::packet::Transport::None
        ));

        let mut lan = base.clone();
        lan.source = Source {
            mac: Some("00:00:5e:00:53:01".into()),
            ..Source::default()
        };
        let mut other = lan.clone();
        other.flow.src = "10.0.0.2".parse().unwrap();
        assert_ne!(
            Key::of(&lan),
            Key::of(&other),
            "two hosts behind one router"
        );
        other = base.clone();
        other.source.start = None;
        assert_ne!(Key::of(&base), Key::of(&other));
        other.source.unit = Some("ssh.service".into());
        let mut third = other.clone();
        third.source.pid = Some(7);
        assert_eq!(
            Key::of(&other),
            Key::of(&third),
            "a pid without a start time is no identity"
        );
    }

    #[test]
    fn zero_sends_each_and_a_full_table_too() {
        let alert = example::alert();
        let now = Instant::now();
        let mut s = Suppressor::new(Duration::ZERO);
        assert_eq!(observe(&mut s, &alert, now), Outcome::Send);
        assert_eq!(observe(&mut s, &alert, now), Outcome::Send);
        let mut s = Suppressor::with_capacity(MINUTE, 1);
        let mut other = alert.clone();
        other.action = Action::Alert;
        assert_eq!(observe(&mut s, &alert, now), Outcome::Send);
        assert_eq!(observe(&mut s, &other, now), Outcome::Send);
        assert_eq!(observe(&mut s, &other, now), Outcome::Send);
        assert_eq!(observe(&mut s, &alert, now), Outcome::Counted);
        assert_eq!(s.len(), 1);
    }

    #[test]
    #[ignore = "a measurement, run by hand in release mode"]
    fn cost() {
        let mut s = Suppressor::new(MINUTE);
        let alert = example::alert();
        let now = Instant::now();
        const N: u32 = 1_000_000;
        for _ in 0..N {
            let _ = observe(&mut s, &alert, now);
        }
        println!("{:?} for one repeat", now.elapsed() / N);
    }

    proptest! {
        #[test]
        fn every_flow_is_in_one_count(
            steps in prop::collection::vec((0u32..6, 0u64..40, any::<bool>()), 0..300),
            window in 0u64..90,
            max_keys in 0usize..5,
        ) {
            let mut s = Suppressor::with_capacity(Duration::from_secs(window), max_keys);
            let mut now = Instant::now();
            let (mut flows, mut told) = (0, 0);
            let mut alert = example::alert();
            for (pid, wait, collect) in steps {
                now += Duration::from_secs(wait);
                alert.source.pid = Some(pid);
                flows += 1;
                if observe(&mut s, &alert, now) == Outcome::Send {
                    told += 1;
                }
                if collect {
                    told += s.expired(now).iter().map(|summary| summary.count).sum::<u64>();
                }
                prop_assert!(s.len() <= max_keys && s.open.len() == s.order.len());
            }
            told += s.drain().iter().map(|summary| summary.count).sum::<u64>();
            prop_assert_eq!(told, flows);
        }
    }
}
