//! The pulse of a loop: when it was last seen at work, for whoever watches over it.
//!
//! A loop that turns all the time beats at each turn. One that waits for work for as long as there is
//! none rests meanwhile, and is at work from [`Pulse::work`] on until that is dropped. Beating costs an
//! atomic store, so a loop that holds packets may do it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// What a resting pulse holds.
const RESTS: u64 = u64::MAX;

/// When something was last seen at work.
#[derive(Debug)]
pub struct Pulse {
    base: Instant,
    /// Milliseconds since `base`.
    at: AtomicU64,
}

impl Default for Pulse {
    /// Of a loop that waits for work.
    fn default() -> Self {
        Self {
            base: Instant::now(),
            at: AtomicU64::new(RESTS),
        }
    }
}

impl Pulse {
    /// Of a loop that is at work since `now`.
    pub fn new(now: Instant) -> Self {
        Self {
            base: now,
            at: AtomicU64::new(0),
        }
    }

    /// It is at work.
    pub fn beat(&self, now: Instant) {
        let since = now.saturating_duration_since(self.base).as_millis();
        let since = u64::try_from(since).unwrap_or(RESTS).min(RESTS - 1);
        self.at.store(since, Ordering::Relaxed);
    }

    /// It waits for work, for as long as there is none.
    pub fn rest(&self) {
        self.at.store(RESTS, Ordering::Relaxed);
    }

    /// A piece of work begins; it ends when the result is dropped.
    #[must_use]
    pub fn work(&self) -> Work<'_> {
        self.beat(Instant::now());
        Work(self)
    }

    /// Since when it is at work without a further sign; `None` while it waits for work.
    pub fn since(&self) -> Option<Instant> {
        let at = self.at.load(Ordering::Relaxed);
        let at = (at != RESTS).then(|| Duration::from_millis(at))?;
        self.base.checked_add(at)
    }
}

/// A piece of work.
#[derive(Debug)]
pub struct Work<'a>(&'a Pulse);

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.0.rest();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turning_loop_ages_and_a_resting_one_does_not() {
        let start = Instant::now();
        let pulse = Pulse::new(start);
        assert_eq!(pulse.since(), Some(start));
        let later = start + Duration::from_millis(1500);
        pulse.beat(later);
        assert_eq!(pulse.since(), Some(later));
        pulse.rest();
        assert_eq!(pulse.since(), None);
    }

    #[test]
    fn work_begins_and_ends() {
        let pulse = Pulse::default();
        assert_eq!(pulse.since(), None);
        let work = pulse.work();
        assert!(pulse.since().is_some());
        drop(work);
        assert_eq!(pulse.since(), None);
    }
}
