//! What the client commands show of the daemon's state, at once also while a long load holds its lock.
//!
//! Whoever keeps the lock for long leaves a copy first. Nobody can change the state until the lock is
//! free again, so the copy is as good as the state itself.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, TryLockError},
    time::{Duration, Instant},
};

use super::{
    Shared,
    core::Core,
    engine::lock,
    include,
    policing::Policing,
    status::{self, FeedStatus, Table},
};
use crate::{
    config::{self, Config},
    feed::{FeedData, FeedName},
    nft::{Included, QueueKind},
    ruleset::Options,
    snapshot::{Exception, Snapshot},
};

/// Between two looks at a lock that somebody has for a moment.
const MOMENT: Duration = Duration::from_millis(2);
/// How long a client waits for the state: it is to hear something within ten seconds.
const SOON: Duration = Duration::from_secs(5);

/// The state as of one moment.
pub(super) struct Glance {
    pub(super) options: Options,
    pub(super) nftables: config::Nftables,
    pub(super) queue_kind: QueueKind,
    pub(super) included: Option<Included>,
    /// What is wrong with the admin's table.
    pub(super) include_problems: Vec<String>,
    /// What the kernel holds.
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) table: Table,
    pub(super) counters: serde_json::Map<String, serde_json::Value>,
    pub(super) feeds: Vec<FeedStatus>,
    pub(super) config: Config,
    /// The good data of each feed.
    pub(super) data: BTreeMap<FeedName, Arc<FeedData>>,
    /// What is wrong with manifests.
    pub(super) manifest_problems: Vec<String>,
    pub(super) policing: Policing,
    pub(super) exceptions: Vec<Exception>,
    pub(super) broken: Option<String>,
    pub(super) file_problems: Vec<String>,
    pub(super) inherited: bool,
    /// No feed has any data.
    pub(super) nothing_known: bool,
    /// When the work began that holds the state since then.
    pub(super) busy_since: Option<Instant>,
}

impl Glance {
    fn of(core: &Core) -> Self {
        let mut enabled = core.feeds.values().filter(|state| state.config.enabled);
        let any = enabled.clone().next().is_some();
        let states = core.feeds.values();
        let data =
            states.filter_map(|s| Some((s.config.name.clone(), Arc::clone(s.data.as_ref()?))));
        Self {
            options: core.kernel.options().clone(),
            nftables: core.config.nftables.clone(),
            queue_kind: core.kernel.queue_kind(),
            // Asks the kernel, and so is first: in mode include it sees the admin's table.
            table: status::table(core),
            included: core.kernel.included(),
            include_problems: include::problems(core),
            snapshot: core.path.view.current(),
            counters: status::counters(core),
            feeds: status::feeds(core),
            config: core.config.clone(),
            data: data.collect(),
            manifest_problems: core.manifest_problems.clone(),
            policing: Policing::of(core),
            exceptions: core.exceptions.clone(),
            broken: core.broken.clone(),
            file_problems: core.file_problems.clone(),
            inherited: core.inherited,
            nothing_known: any && !core.inherited && enabled.all(|state| state.data.is_none()),
            busy_since: None,
        }
    }
}

/// Where the copy lies while the state is busy.
#[derive(Default)]
pub(super) struct Desk(Mutex<Option<Arc<Glance>>>);

impl Desk {
    /// For how long a work goes on that announced itself by [`Core::busy`]; `None` without one, and
    /// while the copy is being made.
    pub(super) fn works_for(&self) -> Option<Duration> {
        let place = self.0.try_lock().ok()?;
        Some(place.as_ref()?.busy_since?.elapsed())
    }
}

/// Takes the copy away when the work is done.
pub(super) struct Busy(Option<Arc<Desk>>);

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(desk) = &self.0 {
            *lock(&desk.0) = None;
        }
    }
}

impl Core {
    /// To be called before work that takes long; that work is done when the result is dropped.
    #[must_use]
    pub(super) fn busy(&self) -> Busy {
        let mut place = lock(&self.desk.0);
        // Part of a longer work: its copy stays.
        if place.is_some() {
            return Busy(None);
        }
        let glance = Glance {
            busy_since: Some(Instant::now()),
            ..Glance::of(self)
        };
        *place = Some(Arc::new(glance));
        Busy(Some(Arc::clone(&self.desk)))
    }
}

/// The state now; never waits for a long load. `None` when somebody keeps the state for longer than
/// `limit` without a copy.
pub(super) fn glance_within(shared: &Shared, limit: Duration) -> Option<Arc<Glance>> {
    let start = Instant::now();
    while start.elapsed() < limit {
        match shared.core.try_lock() {
            Ok(core) => return Some(Arc::new(Glance::of(&core))),
            Err(TryLockError::Poisoned(core)) => {
                return Some(Arc::new(Glance::of(&core.into_inner())));
            }
            Err(TryLockError::WouldBlock) => {}
        }
        // Whoever makes the copy has it for a moment.
        let place = shared.desk.0.try_lock();
        if let Some(glance) = place.ok().and_then(|place| place.clone()) {
            return Some(glance);
        }
        std::thread::sleep(MOMENT);
    }
    None
}

/// The same for somebody who waits: an error when the state is held for long by something that left no copy.
pub(super) fn glance_soon(shared: &Shared) -> Result<Arc<Glance>, String> {
    glance_within(shared, SOON).ok_or_else(|| {
        format!(
            "the daemon lives, but its state has been held for {} s by something that hangs, such as a disk: \
             its log may say more (journalctl -u feedgate); deny sets stay in force",
            SOON.as_secs()
        )
    })
}

/// Takes a lock, or does something else that blocks, in asynchronous code: other tasks go on meanwhile.
pub(super) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}
