//! Puts the table back when somebody else changed it, and tells for how long it was not whole.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant, SystemTime},
};

use super::{Shared, core::Core, engine::lock};
use crate::{
    nft::{Applied, Change, NftError, Notice, Watch},
    snapshot::{Delta, Sets},
};

/// How long the listener waits before it looks whether it is to end.
const TURN: Duration = Duration::from_millis(200);
/// With more elements than this, denying again does not wait for what is only watched.
const DENY_FIRST: usize = 50_000;
/// So many repairs within [`WINDOW`] are done at once; what comes beyond is spaced out.
const AT_ONCE: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);
/// The longest pause between repairs.
const LONGEST: Duration = Duration::from_secs(30);

/// Repairs what the listener sees, until `stop`.
pub(super) fn run(shared: &Shared, mut watch: Watch, stop: &AtomicBool) {
    let mut pace = Pace::default();
    while !stop.load(Ordering::Relaxed) {
        let notices = match watch.next(TURN) {
            Ok(notices) => notices,
            Err(e) => {
                tracing::error!("{e}; the table is only looked at every few seconds from now on");
                return;
            }
        };
        for notice in notices {
            if !react(shared, &notice, &mut pace, stop) {
                return;
            }
        }
    }
}

/// False when the daemon ends meanwhile.
fn react(shared: &Shared, notice: &Notice, pace: &mut Pace, stop: &AtomicBool) -> bool {
    if !is_damaged(&lock(&shared.core), notice) {
        return true;
    }
    if let Some(pause) = pace.pause(Instant::now()) {
        if pace.is_news() {
            let last = describe(notice);
            tracing::error!(
                "the table was changed by others more than {AT_ONCE} times within a minute, last: {last}. \
                 Two programs fight over it: repairs wait up to {LONGEST:?} from now on, and the host is \
                 not protected meanwhile. Stop the other program, or give feedgate a table of its own"
            );
        }
        if !sleep(pause, stop) {
            return false;
        }
    }
    let mut core = lock(&shared.core);
    // Another thread may have put it back meanwhile, or `down` may have removed it for good.
    if shared.down.load(Ordering::Relaxed) || !is_damaged(&core, notice) {
        return true;
    }
    if let Err(e) = core.heal(notice) {
        tracing::error!("{e}");
    }
    pace.done(Instant::now());
    true
}

fn is_damaged(core: &Core, notice: &Notice) -> bool {
    match notice {
        Notice::Change(change) => !core.inherited && !core.kernel.replaced_since(change.generation),
        Notice::Unsure => {
            !core.inherited
                && core
                    .kernel
                    .is_whole(&core.path.view.current().sets)
                    .is_ok_and(|whole| !whole)
        }
    }
}

impl Core {
    /// Loads the whole table again, deny sets first, and tells what had happened to it.
    pub(super) fn heal(&mut self, notice: &Notice) -> Result<(), NftError> {
        if self.closed {
            return Ok(());
        }
        let seen = match notice {
            Notice::Change(change) => change.seen,
            Notice::Unsure => Instant::now(),
        };
        let current = self.path.view.current();
        let mut gap = None;
        let done = self.reload(&current.sets, || gap = Some(seen.elapsed()));
        let whole = seen.elapsed();
        self.path.search_all.store(true, Ordering::Relaxed);
        // That the newest feeds were refused is not mended by loading the ones before.
        let broken = self.broken.take();
        let done = self.finish(current, done);
        self.broken = self.broken.take().or(broken);
        done?;
        let gap = gap.unwrap_or(whole);
        self.heals += 1;
        let told = match notice {
            Notice::Change(_) => {
                format!(
                    "unprotected for {} ms, {}",
                    gap.as_millis(),
                    describe(notice)
                )
            }
            Notice::Unsure => format!("unprotected for an unknown time, {}", describe(notice)),
        };
        tracing::warn!("the table was put back: {told}; whole after {whole:?}");
        self.last_heal = Some((SystemTime::now(), told));
        let ms = u64::try_from(gap.as_millis()).unwrap_or(u64::MAX);
        let why = format!("the table was put back, changed by {}", describe(notice));
        self.path.sinks.load().unprotected(ms, &why);
        Ok(())
    }
}

impl Core {
    /// Loads all of `sets` into a new table. Of a large one the deny sets come first, in a
    /// transaction of their own, and `denying` is called when they are in force; the second
    /// transaction only adds what is watched and the prefilter, so both together cost what one does.
    fn reload(&self, sets: &Sets, denying: impl FnOnce()) -> Result<Applied, NftError> {
        if sets.elements() > DENY_FIRST {
            let denied = sets.denied();
            if let Some(rest) = Delta::between(&denied, sets) {
                self.kernel.install(&denied)?;
                denying();
                return self.kernel.apply(&rest, sets);
            }
        }
        self.kernel.install(sets)
    }
}

/// `nft pid 812 (table deleted)`
fn describe(notice: &Notice) -> String {
    match notice {
        Notice::Change(Change {
            who: Some(who),
            what,
            ..
        }) => format!("{who} ({what})"),
        Notice::Change(Change { what, .. }) => format!("an unknown program ({what})"),
        Notice::Unsure => "an unknown program: nobody saw the change itself".to_owned(),
    }
}

/// False when `stop` ends it early.
fn sleep(pause: Duration, stop: &AtomicBool) -> bool {
    let until = Instant::now() + pause;
    while Instant::now() < until {
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        std::thread::sleep(TURN.min(until.saturating_duration_since(Instant::now())));
    }
    true
}

/// Spaces repairs out when somebody removes the table again and again.
#[derive(Debug, Default)]
struct Pace {
    /// Repairs within the last [`WINDOW`].
    recent: VecDeque<Instant>,
    /// Pauses in a row.
    pauses: u32,
}

impl Pace {
    /// How long the next repair has to wait; `None`: not at all.
    fn pause(&mut self, now: Instant) -> Option<Duration> {
        self.forget(now);
        if self.recent.len() < AT_ONCE {
            self.pauses = 0;
            return None;
        }
        let pause = Duration::from_secs(1) * 2u32.saturating_pow(self.pauses.min(16));
        self.pauses += 1;
        Some(pause.min(LONGEST))
    }

    /// True for the first pause in a row.
    fn is_news(&self) -> bool {
        self.pauses == 1
    }

    fn done(&mut self, now: Instant) {
        self.recent.push_back(now);
        self.forget(now);
    }

    fn forget(&mut self, now: Instant) {
        while self
            .recent
            .front()
            .is_some_and(|at| now.saturating_duration_since(*at) >= WINDOW)
        {
            self.recent.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_repairs_a_minute_are_immediate_then_they_wait_ever_longer() {
        let start = Instant::now();
        let mut pace = Pace::default();
        for i in 0..5 {
            let now = start + Duration::from_secs(i);
            assert_eq!(pace.pause(now), None);
            pace.done(now);
        }
        let mut now = start + Duration::from_secs(5);
        let mut waits = Vec::new();
        for _ in 0..7 {
            let wait = pace.pause(now).unwrap_or_default();
            waits.push((wait.as_secs(), pace.is_news()));
            now += wait;
            pace.done(now);
        }
        let expected = [
            (1, true),
            (2, false),
            (4, false),
            (8, false),
            (16, false),
            (30, false),
        ];
        assert_eq!(waits[..6], expected);
        assert!(waits[6].0 <= 30);
    }

    #[test]
    fn after_a_quiet_minute_the_next_repair_is_immediate() {
        let start = Instant::now();
        let mut pace = Pace::default();
        for _ in 0..5 {
            pace.done(start);
        }
        assert!(pace.pause(start).is_some());
        assert_eq!(pace.pause(start + WINDOW), None);
    }
}
