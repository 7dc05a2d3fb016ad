//! `WATCHDOG=1` for systemd, and only while packets would be answered.
//!
//! A timer alone would go on telling that all is well while a queue thread hangs. So each queue thread
//! leaves a mark at every turn of its loop, idle turns too, and the state's lock has to be free now and
//! then. Work that is known to take long says so when it begins, and is given more time. Where one of them
//! stays away, nothing is told, and systemd kills and restarts the daemon; the deny sets hold meanwhile.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};

use super::{Shared, engine, notify, try_core};

/// How long a piece of work that said so may hold the state: a load of millions of elements on a slow
/// machine does so for a minute.
const LONGEST_WORK: Duration = Duration::from_secs(300);
/// How long anything else may hold it: a write to a disk that is slow to answer.
const LONGEST_HOLD: Duration = Duration::from_secs(60);

/// When something was last seen at work.
#[derive(Debug)]
pub(super) struct Pulse {
    base: Instant,
    /// Milliseconds since `base`.
    at: AtomicU64,
}

impl Pulse {
    /// Something that was at work just now.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            base: now,
            at: AtomicU64::new(0),
        }
    }

    /// It is at work.
    pub(super) fn beat(&self, now: Instant) {
        let since = now.saturating_duration_since(self.base).as_millis();
        let since = u64::try_from(since).unwrap_or(u64::MAX);
        self.at.store(since, Ordering::Relaxed);
    }

    /// How long ago that was.
    fn age(&self, now: Instant) -> Duration {
        let at = Duration::from_millis(self.at.load(Ordering::Relaxed));
        now.saturating_duration_since(self.base).saturating_sub(at)
    }
}

/// What has to be at work, each with the longest pause that it may make.
#[derive(Debug)]
pub(super) struct Watched(Vec<(String, Arc<Pulse>, Duration)>);

impl Watched {
    /// The first that made a longer pause than it may, and how long that is by now.
    fn stuck(&self, now: Instant) -> Option<(&str, Duration)> {
        let ages = self
            .0
            .iter()
            .map(|(name, pulse, limit)| (name, pulse.age(now), limit));
        let mut late = ages.filter(|(_, age, limit)| age > *limit);
        late.next().map(|(name, age, _)| (name.as_str(), age))
    }
}

/// How long a queue thread may need for one turn: half of what systemd waits, and never less than two
/// packets that wait for their source and for the disk as long as the configuration lets them.
fn longest_turn(watchdog: Duration, attribution: Duration) -> Duration {
    (watchdog / 2).max((attribution + engine::DISK) * 2)
}

/// Long work on the state that goes on since then is still no hang.
fn is_in_time(since: Duration) -> bool {
    since <= LONGEST_WORK - LONGEST_HOLD
}

/// Tells systemd four times in the time that it waits, for ever; without `WatchdogSec=` never.
pub(super) async fn feed(shared: Arc<Shared>, queues: Vec<(String, Arc<Pulse>)>) {
    let Some(watchdog) = sd_notify::watchdog_enabled().filter(|time| !time.is_zero()) else {
        return;
    };
    let attribution = super::engine::lock(&shared.core).config.attribution.timeout;
    let turn = longest_turn(watchdog, attribution);
    let mut watched: Vec<_> = queues
        .into_iter()
        .map(|(name, pulse)| (name, pulse, turn))
        .collect();
    let state = Arc::new(Pulse::new(Instant::now()));
    // The main loop waits for the state, and for the disk.
    for (name, pulse, limit) in [
        ("the daemon's state", &state, LONGEST_HOLD),
        ("the main loop", &shared.main, LONGEST_WORK),
    ] {
        watched.push((name.into(), Arc::clone(pulse), limit.max(turn)));
    }
    let watched = Watched(watched);
    let mut timer = interval((watchdog / 4).max(Duration::from_millis(1)));
    timer.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut told = false;
    loop {
        timer.tick().await;
        let is_free = try_core(&shared).is_some();
        if is_free || shared.desk.works_for().is_some_and(is_in_time) {
            state.beat(Instant::now());
        }
        match watched.stuck(Instant::now()) {
            None => {
                told = false;
                notify(&[NotifyState::Watchdog]);
            }
            Some((what, since)) if !told => {
                told = true;
                tracing::error!(
                    "{what} has not answered for {since:.1?}: the watchdog gets no sign of life, \
                     so that systemd restarts the daemon; deny sets stay in force"
                );
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::glance;

    #[test]
    fn each_pause_that_is_too_long_is_seen_and_ends_with_a_beat() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let [queue, state] = [(); 2].map(|()| Arc::new(Pulse::new(start)));
        let watched = Watched(vec![
            (
                "queue 1".into(),
                Arc::clone(&queue),
                Duration::from_millis(100),
            ),
            (
                "state".into(),
                Arc::clone(&state),
                Duration::from_millis(500),
            ),
        ]);
        assert_eq!(watched.stuck(after(100)), None);
        let late = Some(("queue 1", Duration::from_millis(101)));
        assert_eq!(watched.stuck(after(101)), late);
        queue.beat(after(450));
        assert_eq!(watched.stuck(after(500)), None);
        queue.beat(after(501));
        // A healthy queue thread does not speak for the state.
        let late = Some(("state", Duration::from_millis(501)));
        assert_eq!(watched.stuck(after(501)), late);
        state.beat(after(501));
        assert_eq!(watched.stuck(after(502)), None);
    }

    /// A hang of the state is seen within a minute, unless a long work was announced: then within five.
    #[test]
    fn only_announced_work_may_hold_the_state_for_minutes() {
        let desk = glance::Desk::default();
        assert_eq!(desk.works_for(), None, "nobody has announced anything");
        assert!(LONGEST_HOLD < LONGEST_WORK);
        assert!(is_in_time(LONGEST_WORK - LONGEST_HOLD));
        assert!(!is_in_time(LONGEST_WORK));
    }

    #[test]
    fn a_turn_may_last_as_long_as_the_configuration_lets_packets_wait() {
        let seconds = Duration::from_secs;
        let usual = Duration::from_millis(50);
        assert_eq!(longest_turn(seconds(30), usual), seconds(15));
        assert_eq!(longest_turn(seconds(3), seconds(5)), seconds(12));
    }
}
