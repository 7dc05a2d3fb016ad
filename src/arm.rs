//! Which feeds deny now: new deny feeds on trial (`[arm] after`), and what `feedgate deny` says.
//!
//! A deny feed is new from its first data on until `after` has passed; it only alerts so long. What
//! `feedgate deny` arms is taken back unless it is confirmed in time. Knows no clock and no disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::feed::FeedName;
pub use rails::{Claim, Rails};

/// The wall clock and that of the host may drift apart by that much between two looks; more means
/// that somebody has set the wall clock.
const DRIFT: Duration = Duration::from_secs(60);

/// Different sources counted for one feed; more count as this many.
pub const MAX_SOURCES: usize = 1_000;

/// What becomes of a feed's entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// As its configuration says.
    AsConfigured,
    /// What its configuration denies only alerts.
    Trial,
    /// Everything is denied.
    Deny,
}

/// A feed of the configuration, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub name: FeedName,
    /// Its configuration denies all of its entries, or those with a high score.
    pub denies: bool,
    /// It has data: before that nothing is tried out.
    pub has_data: bool,
    /// Where its data come from and how they are read and used; `None`: they are pushed.
    pub source: Option<String>,
}

/// What time it is.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// On the wall: for what outlives the process.
    pub wall: SystemTime,
    /// Of the process: for what does not.
    pub instant: Instant,
    /// Since the host booted, sleep included: shows whether the wall clock was set.
    pub uptime: Duration,
}

/// Something that changed by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A deny feed is new: it only alerts until then.
    Began(FeedName, SystemTime),
    /// A trial is over, or there is none: it denies from now on.
    Armed(FeedName),
    /// Nobody confirmed: it only alerts again.
    TakenBack(FeedName),
    /// It is no deny feed any more, or not configured any more.
    Forgotten(FeedName),
    /// It denied by `feedgate deny`; it is not configured any more, or as a feed that alerts.
    Ended(FeedName),
    /// The first is called as the second now: the source is the same, so it is no new feed.
    Renamed(FeedName, FeedName),
    /// The wall clock was set, and the ends of trials follow it.
    ClockSet,
}

/// Why `feedgate deny` does not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArmError {
    /// It denies anyway.
    #[error("feed {0} denies already, by its configuration")]
    Denies(FeedName),
    /// It denies by an earlier command.
    #[error("feed {0} is kept denying already; take that back with: feedgate deny --undo {0}")]
    Kept(FeedName),
    /// There is nothing to keep.
    #[error(
        "feed {0} is not waiting to be confirmed (it may have been taken back); arm it with: feedgate deny --confirm 60s {0}"
    )]
    NotPending(FeedName),
    /// There is nothing to take back.
    #[error("feed {0} does not deny by `feedgate deny`: nothing is taken back")]
    NotArmed(FeedName),
    /// It has no data.
    #[error("feed {0} is not enabled or has no data yet: there is nothing to deny")]
    NoData(FeedName),
}

/// Flows that a feed on trial would have denied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Would {
    /// How many.
    pub flows: u64,
    /// Of how many sources: hashes of who it was, at most [`MAX_SOURCES`].
    sources: BTreeSet<u64>,
}

impl Would {
    /// Counts a flow of a source.
    pub fn count(&mut self, source: u64) {
        self.flows = self.flows.saturating_add(1);
        if self.sources.len() < MAX_SOURCES {
            self.sources.insert(source);
        }
    }

    /// Number of different sources, at most [`MAX_SOURCES`].
    pub fn sources(&self) -> usize {
        self.sources.len()
    }
}

/// A feed on trial, as the packet path sees it.
#[derive(Debug)]
pub struct Trial {
    /// It denies from then on.
    pub until: SystemTime,
    would: Arc<Mutex<Would>>,
}

impl Trial {
    /// Counts a flow that would have been denied.
    pub fn count(&self, source: u64) {
        locked(&self.would).count(source);
    }
}

/// What is shown of a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// On trial until then.
    pub trial_until: Option<SystemTime>,
    /// What it would have denied so far.
    pub would: Would,
    /// Denying by `feedgate deny` until then, unless it is confirmed: so much is left.
    pub pending: Option<Duration>,
    /// Denying by `feedgate deny`, confirmed then.
    pub kept_since: Option<SystemTime>,
}

/// What is known of the feeds.
#[derive(Debug, Default)]
pub struct Book {
    after: Duration,
    feeds: BTreeMap<FeedName, Entry>,
    /// An earlier daemon ended before an arm was confirmed.
    was_pending: bool,
    /// What an earlier daemon knew is lost.
    lost: bool,
    /// When it was settled last.
    looked: Option<Now>,
    /// How much of the address space they may deny.
    pub rails: Rails,
}

#[derive(Debug, Default)]
struct Entry {
    /// When it was first seen to deny, by the clock as it is now.
    since: Option<SystemTime>,
    /// The same by the clock of an earlier daemon, while this one's is behind that.
    before: Option<SystemTime>,
    /// Its trial is over.
    armed: bool,
    /// `feedgate deny`, confirmed then.
    kept: Option<SystemTime>,
    /// `feedgate deny`, to be confirmed by then.
    pending: Option<Instant>,
    would: Arc<Mutex<Would>>,
    source: Option<String>,
}

impl Entry {
    fn on_trial(&self, after: Duration) -> Option<SystemTime> {
        let since = self.since.filter(|_| !self.armed)?;
        since.checked_add(after)
    }

    /// What becomes known when it is no more.
    fn gone(&self, name: FeedName) -> Change {
        if self.kept.is_some() || self.pending.is_some() {
            Change::Ended(name)
        } else {
            Change::Forgotten(name)
        }
    }

    /// Its trial follows the clock; true when that makes a difference.
    fn follow(&mut self, clock: Clock, now: SystemTime) -> bool {
        let Some(since) = self.since.filter(|_| !self.armed) else {
            return false;
        };
        let may_know = matches!(clock, Clock::First | Clock::Ahead(_));
        let before = self.before.take_if(|before| may_know && *before <= now);
        // Behind the beginning of a trial: what an earlier daemon knew is right again later.
        if clock == Clock::First && before.is_none() && since > now {
            self.before.get_or_insert(since);
        }
        let moved = match clock {
            _ if before.is_some() => before,
            Clock::Ahead(by) => since.checked_add(by),
            Clock::Back(by) => since.checked_sub(by),
            Clock::First | Clock::Goes => None,
        };
        self.since = Some(moved.unwrap_or(since).min(now));
        moved.is_some()
    }

    fn is_idle(&self) -> bool {
        self.since.is_none() && self.kept.is_none() && self.pending.is_none()
    }
}

/// The wall clock since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clock {
    /// There was none.
    First,
    /// It goes as it should.
    Goes,
    /// It was set ahead by so much.
    Ahead(Duration),
    /// It was set back by so much.
    Back(Duration),
}

impl Clock {
    fn between(before: Option<Now>, now: Now) -> Self {
        let Some(before) = before else {
            return Self::First;
        };
        let passed = now.uptime.saturating_sub(before.uptime);
        let Some(expected) = before.wall.checked_add(passed) else {
            return Self::Goes;
        };
        match now.wall.duration_since(expected) {
            Ok(by) if by > DRIFT => Self::Ahead(by),
            Err(e) if e.duration() > DRIFT => Self::Back(e.duration()),
            _ => Self::Goes,
        }
    }
}

impl Book {
    /// A book of which everything is lost: whatever denies when it is first looked at counts as tried
    /// out. What has protected for long must not stop because of a damaged file.
    pub fn lost() -> Self {
        Self {
            lost: true,
            ..Self::unwritten()
        }
    }

    /// A book of which nothing was ever stored: what denies at the first look denied before, whatever the
    /// limits of its share say.
    pub fn unwritten() -> Self {
        Self {
            rails: Rails::unknown(),
            ..Self::default()
        }
    }

    /// Looks at the feeds that are enabled, after a change of them and now and then. What comes back
    /// is to be told; if there is any, the kernel's sets are to follow and the book is to be saved.
    pub fn settle(&mut self, feeds: &[Candidate], after: Duration, now: Now) -> Vec<Change> {
        self.after = after;
        let lost = std::mem::take(&mut self.lost);
        let mut changes = Vec::new();
        if self.follow_clock(now) {
            changes.push(Change::ClockSet);
        }
        self.turn_over(feeds, &mut changes);
        for feed in feeds {
            let entry = self.feeds.entry(feed.name.clone()).or_default();
            entry.source.clone_from(&feed.source);
            let name = || feed.name.clone();
            if entry.pending.is_some_and(|until| until <= now.instant) {
                entry.pending = None;
                changes.push(Change::TakenBack(name()));
            }
            match entry.since {
                Some(_) if !feed.denies => {
                    changes.push(entry.gone(name()));
                    *entry = Entry {
                        source: feed.source.clone(),
                        ..Entry::default()
                    };
                }
                None if feed.denies && feed.has_data => {
                    // Who was kept denying has been tried out.
                    entry.armed = after.is_zero() || entry.kept.is_some() || lost;
                    (entry.since, entry.kept, entry.pending) = (Some(now.wall), None, None);
                    changes.push(match entry.on_trial(after) {
                        Some(until) => Change::Began(name(), until),
                        None => Change::Armed(name()),
                    });
                }
                _ => {}
            }
            if entry.on_trial(after).is_some_and(|until| until <= now.wall) {
                (entry.armed, entry.kept, entry.pending) = (true, None, None);
                changes.push(Change::Armed(name()));
            }
        }
        self.feeds.retain(|_, entry| !entry.is_idle());
        changes
    }

    /// Somebody may have set the wall clock since the last look, as a host without a battery does at
    /// each boot: what was left of a trial is left of it still. True when it matters to one.
    fn follow_clock(&mut self, now: Now) -> bool {
        let clock = Clock::between(self.looked.replace(now), now);
        let mut any = false;
        for entry in self.feeds.values_mut() {
            any |= entry.follow(clock, now.wall);
        }
        any
    }

    /// Forgets feeds that are no more; one that only has another name keeps what is known of it.
    fn turn_over(&mut self, feeds: &[Candidate], changes: &mut Vec<Change>) {
        let there: BTreeSet<&FeedName> = feeds.iter().map(|feed| &feed.name).collect();
        let known = std::mem::take(&mut self.feeds);
        let (stay, gone): (BTreeMap<_, _>, BTreeMap<_, _>) = known
            .into_iter()
            .partition(|(name, _)| there.contains(name));
        self.feeds = stay;
        for (old, entry) in gone {
            let is_it = |feed: &&Candidate| {
                entry.since.is_some()
                    && feed.denies
                    && feed.source.is_some()
                    && feed.source == entry.source
                    && !self.feeds.contains_key(&feed.name)
            };
            match feeds.iter().find(is_it) {
                Some(feed) => {
                    changes.push(Change::Renamed(old, feed.name.clone()));
                    // What nobody confirmed was said of the other name.
                    let entry = Entry {
                        pending: None,
                        ..entry
                    };
                    self.feeds.insert(feed.name.clone(), entry);
                }
                None => changes.push(entry.gone(old)),
            }
        }
    }

    /// What becomes of a feed's entries.
    pub fn force(&self, name: &FeedName) -> Force {
        let Some(entry) = self.feeds.get(name) else {
            return Force::AsConfigured;
        };
        let overridden = entry.kept.is_some() || entry.pending.is_some();
        match entry.since {
            None if overridden => Force::Deny,
            Some(_) if !overridden && !entry.armed => Force::Trial,
            _ => Force::AsConfigured,
        }
    }

    /// Denies from now on, until `until` unless [`Self::keep`] comes before.
    pub fn arm(&mut self, feed: &Candidate, until: Instant) -> Result<(), ArmError> {
        let name = || feed.name.clone();
        if !feed.has_data {
            return Err(ArmError::NoData(name()));
        }
        let entry = self.feeds.entry(feed.name.clone()).or_default();
        let refused = if entry.kept.is_some() {
            Some(ArmError::Kept(name()))
        } else if feed.denies && entry.on_trial(self.after).is_none() {
            Some(ArmError::Denies(name()))
        } else {
            None
        };
        match refused {
            Some(why) => {
                self.feeds.retain(|_, entry| !entry.is_idle());
                Err(why)
            }
            None => {
                entry.pending = Some(until);
                Ok(())
            }
        }
    }

    /// Confirms [`Self::arm`].
    pub fn keep(&mut self, name: &FeedName, now: SystemTime) -> Result<(), ArmError> {
        let entry = self.feeds.get_mut(name);
        match entry.filter(|entry| entry.pending.is_some()) {
            Some(entry) => {
                (entry.kept, entry.pending) = (Some(now), None);
                Ok(())
            }
            None => Err(ArmError::NotPending(name.clone())),
        }
    }

    /// Takes back what [`Self::arm`] or [`Self::keep`] did.
    pub fn undo(&mut self, name: &FeedName) -> Result<(), ArmError> {
        let entry = self.feeds.get_mut(name);
        match entry.filter(|entry| entry.kept.is_some() || entry.pending.is_some()) {
            Some(entry) => {
                (entry.kept, entry.pending) = (None, None);
                self.feeds.retain(|_, entry| !entry.is_idle());
                Ok(())
            }
            None => Err(ArmError::NotArmed(name.clone())),
        }
    }

    /// Takes back all that is not confirmed; true when there was any.
    pub fn take_back_pending(&mut self) -> bool {
        let pending = self.feeds.values_mut().map(|entry| entry.pending.take());
        let any = pending.flatten().count() > 0;
        self.feeds.retain(|_, entry| !entry.is_idle());
        any
    }

    /// True while something denies that nobody has confirmed yet.
    pub fn has_pending(&self) -> bool {
        self.feeds.values().any(|entry| entry.pending.is_some())
    }

    /// True when the daemon before this one ended before an arm was confirmed.
    pub fn was_pending(&self) -> bool {
        self.was_pending
    }

    /// The feeds on trial.
    pub fn trials(&self) -> BTreeMap<FeedName, Trial> {
        let on_trial = |(name, entry): (&FeedName, &Entry)| {
            let trial = Trial {
                until: entry.on_trial(self.after)?,
                would: Arc::clone(&entry.would),
            };
            (self.force(name) == Force::Trial).then(|| (name.clone(), trial))
        };
        self.feeds.iter().filter_map(on_trial).collect()
    }

    /// What is to be shown of a feed; `None`: nothing.
    pub fn shown(&self, name: &FeedName, now: Instant) -> Option<Shown> {
        let entry = self.feeds.get(name)?;
        let shown = Shown {
            trial_until: entry.on_trial(self.after),
            would: locked(&entry.would).clone(),
            pending: entry
                .pending
                .map(|until| until.saturating_duration_since(now)),
            kept_since: entry.kept,
        };
        let any = shown.trial_until.is_some() || shown.pending.is_some();
        (any || shown.kept_since.is_some()).then_some(shown)
    }
}

fn locked(would: &Mutex<Would>) -> std::sync::MutexGuard<'_, Would> {
    would.lock().unwrap_or_else(PoisonError::into_inner)
}

mod rails;
mod stored;
#[cfg(test)]
mod tests;
