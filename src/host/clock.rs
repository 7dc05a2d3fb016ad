//! A clock that nobody sets: for when something is to happen next. What is shown is wall-clock time.

use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};

/// Time since the host booted, sleep included (CLOCK_BOOTTIME). A step of the wall clock does not move it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uptime(Duration);

impl Uptime {
    /// The time now.
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME)
            .or_else(|_| clock_gettime(ClockId::CLOCK_MONOTONIC));
        Self(now.map(Duration::from).unwrap_or_default())
    }

    /// The time since the boot.
    pub fn since_boot(self) -> Duration {
        self.0
    }

    /// So much later.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(wait))
    }

    /// How long it is from `now` to this time; zero when it has come.
    pub fn left(self, now: Self) -> Duration {
        self.0.saturating_sub(now.0)
    }

    /// What a wall clock that shows `wall` at `now` will show at this time.
    pub fn shown(self, now: Self, wall: SystemTime) -> Option<SystemTime> {
        wall.checked_add(self.left(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_the_wall_clock_changes_what_is_shown_and_not_when() {
        let now = Uptime(Duration::from_secs(1000));
        let next = now.after(Duration::from_secs(60));
        let day = Duration::from_secs(24 * 3600);
        let wall = SystemTime::UNIX_EPOCH + 2 * day;
        for wall in [wall, wall - day, wall + day] {
            assert_eq!(next.left(now), Duration::from_secs(60));
            assert_eq!(next.shown(now, wall), Some(wall + Duration::from_secs(60)));
        }
        assert_eq!(next.left(next.after(day)), Duration::ZERO);
    }

    #[test]
    fn it_does_not_run_backwards() {
        let (first, second) = (Uptime::now(), Uptime::now());
        assert!(Uptime::default() < first && first <= second);
    }
}
