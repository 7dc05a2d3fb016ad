//! Puts the table back when somebody else changed it, and tells for how long it was not whole.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant, SystemTime},
};

use super::{Shared, core::Core, engine::lock, watchdog::Terms};
use crate::{
    nft::{Applied, Change, NftError, Notice, Watch},
    snapshot::{Delta, Sets},
    store::Store,
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
    let pulse = shared.pulses.begin("the watch of nf_tables", Terms::HEAL);
    while !stop.load(Ordering::Relaxed) {
        pulse.beat(Instant::now());
        let notices = match watch.next(TURN) {
            Ok(notices) => notices,
            Err(e) => {
                tracing::error!("{e}; the table is only looked at every few seconds from now on");
                return;
            }
        };
        // Its repairs hold the state, and that has a pulse of its own.
        pulse.rest();
        for notice in notices {
            if !react(shared, &notice, stop) {
                return;
            }
        }
    }
}

/// False when the daemon ends meanwhile.
fn react(shared: &Shared, notice: &Notice, stop: &AtomicBool) -> bool {
    loop {
        let pause = {
            let mut core = lock(&shared.core);
            // Another thread may have put it back meanwhile, or `down` may have removed it for good.
            if shared.down.load(Ordering::Relaxed) || !is_damaged(&core, notice) {
                return true;
            }
            match core.try_heal(notice, &shared.store) {
                Ok(pause) => pause,
                Err(e) => {
                    tracing::error!("{e}");
                    None
                }
            }
        };
        match pause {
            None => return true,
            Some(pause) if sleep(pause, stop) => {}
            Some(_) => return false,
        }
    }
}

fn is_damaged(core: &Core, notice: &Notice) -> bool {
    if core.inherited {
        return false;
    }
    let current = &core.path.view.current().sets;
    match notice {
        Notice::Change(change) => !core.kernel.replaced_since(change.generation),
        // What a flush leaves may look whole: only the generations tell.
        Notice::Lost { .. } => !core.kernel.is_alone().unwrap_or(false),
        Notice::Unsure => !core.kernel.is_whole(current).unwrap_or(false),
    }
}

impl Core {
    /// Repairs the table, or gives the time that this has to wait for because of earlier repairs.
    pub(super) fn try_heal(
        &mut self,
        notice: &Notice,
        store: &Store,
    ) -> Result<Option<Duration>, NftError> {
        let pause = self.pace.pause(Instant::now());
        if self.pace.is_news() {
            let last = describe(notice);
            tracing::error!(
                "the table was changed by others more than {AT_ONCE} times within a minute, last: {last}. \
                 Two programs fight over it: repairs wait up to {LONGEST:?} from now on, and the host is \
                 not protected meanwhile. Stop the other program, or give feedgate a table of its own"
            );
        }
        if pause.is_some() {
            return Ok(pause);
        }
        // The counters may begin again from zero.
        self.count_unattributed(store);
        let healed = self.heal(notice);
        self.pace.done(Instant::now());
        healed.map(|()| None)
    }

    /// Loads the whole table again, deny sets first, and tells what had happened to it.
    fn heal(&mut self, notice: &Notice) -> Result<(), NftError> {
        if self.closed {
            return Ok(());
        }
        let seen = match notice {
            Notice::Change(change) => change.seen,
            Notice::Lost { seen, .. } => *seen,
            Notice::Unsure => Instant::now(),
        };
        let _busy = self.busy();
        let current = self.path.view.current();
        let mut gap = None;
        let sure = matches!(notice, Notice::Change(_));
        let damaged = sure || !self.kernel.is_whole(&current.sets).unwrap_or(false);
        let done = self.reload(&current.sets, damaged, || gap = Some(seen.elapsed()));
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
            Notice::Change(_) | Notice::Lost { .. } => {
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
    /// Loads all of `sets` anew. Of a large one the deny sets come first, in a
    /// transaction of their own, and `denying` is called when they are in force; the second
    /// transaction only adds what is watched and the prefilter, so both together cost what one does.
    fn reload(
        &self,
        sets: &Sets,
        damaged: bool,
        denying: impl FnOnce(),
    ) -> Result<Applied, NftError> {
        if sets.elements() > DENY_FIRST {
            let denied = sets.denied();
            if let Some(rest) = Delta::between(&denied, sets) {
                self.kernel.reinstall(&denied, damaged)?;
                denying();
                return self.kernel.apply(&rest, sets);
            }
        }
        self.kernel.reinstall(sets, damaged)
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
        Notice::Lost {
            what: Some(what), ..
        } => format!("an unknown program ({what}, and more than the notifications could tell)"),
        Notice::Lost { what: None, .. } => "an unknown program: it changed more at once than the \
             notifications could tell, here or in another table"
            .to_owned(),
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

/// Spaces repairs out when somebody removes the table again and again, whoever sees that.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Repairs within the last [`WINDOW`].
    recent: VecDeque<Instant>,
    /// When the next repair may be done.
    not_before: Option<Instant>,
    /// Pauses in a row.
    pauses: u32,
    is_news: bool,
}

impl Pace {
    /// How long the next repair still has to wait; `None`: not at all.
    fn pause(&mut self, now: Instant) -> Option<Duration> {
        self.forget(now);
        if self.recent.len() < AT_ONCE {
            (self.pauses, self.not_before) = (0, None);
            return None;
        }
        let until = self.not_before.unwrap_or_else(|| {
            let pause = Duration::from_secs(1) * 2u32.saturating_pow(self.pauses.min(16));
            self.is_news = self.pauses == 0;
            self.pauses += 1;
            now + pause.min(LONGEST)
        });
        self.not_before = Some(until);
        Some(until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// True once when the first pause in a row begins.
    fn is_news(&mut self) -> bool {
        std::mem::take(&mut self.is_news)
    }

    fn done(&mut self, now: Instant) {
        self.recent.push_back(now);
        self.not_before = None;
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
            assert_eq!(pace.pause(now), None);
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
    fn who_asks_again_waits_for_the_same_moment() {
        let start = Instant::now();
        let mut pace = Pace::default();
        (0..5).for_each(|_| pace.done(start));
        let after = |ms| start + Duration::from_millis(ms);
        assert_eq!(pace.pause(start), Some(Duration::from_secs(1)));
        assert!(pace.is_news());
        assert_eq!(pace.pause(after(400)), Some(Duration::from_millis(600)));
        assert!(!pace.is_news());
        assert_eq!(pace.pause(after(1000)), None);
        pace.done(after(1000));
        assert_eq!(pace.pause(after(1000)), Some(Duration::from_secs(2)));
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
