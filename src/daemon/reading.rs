//! An update that kills the daemon, above all by the memory that it takes, does so twice and no more: the
//! third daemon leaves it alone, and goes on with the last good data.
//!
//! A mark on disk names the feed while its update is being read ([`crate::store`]). A feed that has a death
//! to its name is read while no other suspect is, so that the second death names the right one.

use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use super::{Shared, core::Core, engine::lock};
use crate::{
    config,
    feed::FeedName,
    store::{Store, TOO_OFTEN},
};

/// What `max-bytes` is unless set: texts of that length fit into the memory, however many come at once. Of a feed
/// that allows more, one may fill it before it is read. In bytes.
const LARGE: u64 = 64 << 20;

/// Who asks for a pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// A timer, or somebody who asks for all feeds.
    ForAll,
    /// A person who names this feed.
    ByName,
}

/// An update that is being read; its mark goes when this is dropped.
pub(super) struct Reading {
    shared: Arc<Shared>,
    feed: FeedName,
    /// Those before this one.
    deaths: u32,
    marked: bool,
    _alone: Option<OwnedMutexGuard<()>>,
}

impl Reading {
    /// Waits for the turn of a suspect.
    pub(super) async fn new(shared: &Arc<Shared>, feed: &config::Feed, deaths: u32) -> Self {
        let alone = match deaths {
            0 => None,
            _ => Some(Arc::clone(&shared.suspects).lock_owned().await),
        };
        let mut reading = Self {
            shared: Arc::clone(shared),
            feed: feed.name.clone(),
            deaths,
            marked: false,
            _alone: alone,
        };
        if feed.max_bytes > LARGE {
            reading.begin();
        }
        reading
    }

    /// Its text is here, and is read now.
    pub(super) fn begin(&mut self) {
        self.marked = true;
        self.shared.store.begin_reading(&self.feed, self.deaths);
    }

    /// It has been read, taken or not, and the daemon lives.
    pub(super) fn survived(mut self) {
        self.deaths = 0;
        if let Some(state) = lock(&self.shared.core).feeds.get_mut(&self.feed) {
            state.deaths = 0;
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if self.marked {
            self.shared.store.end_reading(&self.feed, self.deaths);
        }
    }
}

/// Why a feed with so many deaths to its name is not pulled by itself; `None`: it is.
pub(super) fn held(deaths: u32, asked: Asked) -> Option<String> {
    (deaths >= TOO_OFTEN && asked == Asked::ForAll).then(|| {
        format!(
            "not pulled: the daemon died {deaths} times while it read the update of this feed; \
             `feedgate refresh NAME` tries again (memory: the unit's MemoryMax=; max-entries and max-bytes of the feed)"
        )
    })
}

/// Takes up what the marks say of the last daemon's end.
pub(super) fn recall(core: &mut Core, store: &Store) {
    for (name, deaths) in store.deaths() {
        if let Some(state) = core.feeds.get_mut(&name) {
            state.deaths = deaths;
            tracing::warn!(
                "feed {name}: a daemon died while it read the update of this feed ({deaths} in a row)"
            );
        }
    }
}
