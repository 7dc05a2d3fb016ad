//! Repeats are counted instead of sent: one alert, then one summary for each window; one for what
//! is left of a scan, or of a flood; and counts of what a limit held back.
//!
//! The two directions share nothing: whoever can make up sources fills the windows and the limit of
//! what comes in, and those of what goes out stay as they are.
//!
//! Law: the counts of all alerts sent (1 each), of all summaries and of all that was held back add
//! up to the flows observed. A window is closed by [`Suppressor::expired`], so it lasts up to one
//! timer period longer than configured; a flow that comes in between is still counted in it.

mod folds;
mod key;
mod limit;
mod side;
mod sources;
mod waiting;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::Alert;
use crate::feed::Direction;
pub use folds::LISTED;
pub use limit::HeldBack;
use limit::{INGRESS, Limit};
use side::Side;
pub(crate) use sources::Distinct;
pub use sources::EXACT;
pub use waiting::{ByAction, MAX_WAITING, Waiting};

/// Most windows kept at once for what goes out. Beyond that a new key is sent each time: nothing goes
/// uncounted.
pub const MAX_KEYS: usize = 65_536;
/// The same for what comes in, whose sources anybody can make up.
pub const MAX_INGRESS_KEYS: usize = 16_384;
/// Sources of one indicator in a window that are alerted one by one; more are a flood.
pub const FLOOD_AFTER: u32 = 20;

/// When alerts are not sent one by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Repeats within this time are one summary; zero: each is sent, and there are no scans and floods.
    pub window: Duration,
    /// Indicators of one source in a window that are sent one by one; zero: all.
    pub scan_after: u32,
    /// Alerts a second of each direction, summaries included; zero: no limit.
    pub rate_limit: u32,
    /// The same for what comes in; the lower of the two holds there.
    pub rate_limit_ingress: u32,
}

impl Policy {
    /// The limit of a direction, with the name of its key.
    fn limit(&self, direction: Direction) -> Limit {
        let (all, ingress) = (self.rate_limit, self.rate_limit_ingress);
        let own = match direction {
            Direction::Ingress => ingress > 0 && (all == 0 || ingress < all),
            Direction::Egress => false,
        };
        if own {
            Limit::new(ingress, INGRESS)
        } else {
            Limit::new(all, "rate-limit")
        }
    }
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
    /// It is in the later summary of a flood.
    Flood,
    /// It is in a later count of what the limit held back.
    HeldBack,
}

/// What there is to tell.
#[must_use]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Summaries of what went out, then of what came in: of repeats, oldest first, of floods, of scans.
    pub summaries: Vec<Alert>,
    /// What the limit held back.
    pub held_back: Vec<HeldBack>,
}

impl Told {
    fn and(mut self, more: Self) -> Self {
        self.summaries.extend(more.summaries);
        self.held_back.extend(more.held_back);
        self
    }
}

/// Flows that had no alert of their own, by why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Repeats.
    pub repeats: u64,
    /// Parts of scans.
    pub scans: u64,
    /// Parts of floods.
    pub floods: u64,
    /// Over `rate-limit`; also what was a repeat or part of a scan or flood, when its summary was.
    pub held_back: u64,
    /// The same for `rate-limit-ingress`.
    pub held_back_ingress: u64,
    /// Both, by verdict.
    pub all_held_back: ByAction,
}

/// Open windows by direction and key.
#[derive(Debug)]
pub struct Suppressor {
    egress: Side,
    ingress: Side,
    counts: Counts,
}

/// Flows without an alert of their own in one window. Made at the first of them, so that a key without
/// repeats is cheap.
#[derive(Clone, Debug)]
struct Repeats {
    /// The first one; its id, which nobody has seen, becomes the summary's.
    alert: Arc<Alert>,
    count: u64,
    first: SystemTime,
    last: SystemTime,
}

impl Suppressor {
    /// Suppresses as `policy` says.
    pub fn new(policy: Policy) -> Self {
        Self::with_capacity(policy, MAX_KEYS, MAX_INGRESS_KEYS)
    }

    /// As [`Suppressor::new`], with at most so many windows of each direction.
    pub fn with_capacity(policy: Policy, max_keys: usize, max_ingress_keys: usize) -> Self {
        Self {
            egress: Side::new(&policy, Direction::Egress, max_keys),
            ingress: Side::new(&policy, Direction::Ingress, max_ingress_keys),
            counts: Counts::default(),
        }
    }

    /// Takes note of one alert (of `count` flows) at `now`.
    pub fn observe(&mut self, alert: &Alert, now: Instant) -> Outcome {
        let side = match alert.direction {
            Direction::Egress => &mut self.egress,
            Direction::Ingress => &mut self.ingress,
        };
        side.observe(alert, now, &mut self.counts)
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
        let (egress, ingress) = (self.egress.max_keys(), self.ingress.max_keys());
        let counts = self.counts;
        *self = Self::with_capacity(policy, egress, ingress);
        self.counts = counts;
        told
    }

    /// Flows that had no alert of their own, since the start.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Number of open windows: of sources and indicators, of sources alone, and of indicators alone.
    pub fn len(&self) -> usize {
        self.egress.len() + self.ingress.len()
    }

    /// True when no window is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `until`: the windows that are over then, or all.
    fn close(&mut self, until: Option<Instant>, now: Instant) -> Told {
        let egress = self.egress.close(until, now, &mut self.counts);
        egress.and(self.ingress.close(until, now, &mut self.counts))
    }
}

impl Repeats {
    fn of(alert: &Alert) -> Self {
        Self {
            alert: Arc::new(alert.clone()),
            count: alert.count,
            first: alert.time,
            last: alert.time,
        }
    }

    fn add(&mut self, alert: &Alert) {
        self.count = self.count.saturating_add(alert.count);
        self.last = alert.time;
    }

    fn summary(&self) -> Alert {
        Alert {
            count: self.count,
            time: self.last,
            window: Some((self.first, self.last)),
            held: Duration::ZERO,
            ..(*self.alert).clone()
        }
    }
}

#[cfg(test)]
mod tests;
