//! The index that queue threads ask, replaced without locks while they run.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::judge::First;
use crate::{config::Hook, packet::Flow, snapshot::Snapshot};

/// The snapshot in force, and the one before while a change is on its way into the kernel.
///
/// A new snapshot is published before the kernel has its sets, so that no queued packet finds an
/// index that does not know it yet; packets that matched the old sets still find the old index.
#[derive(Debug, Default)]
pub(super) struct View(ArcSwap<Pair>);

/// What a packet is judged by, all of it by the same.
#[derive(Debug, Default)]
pub(super) struct Pair {
    current: Arc<Snapshot>,
    previous: Option<Arc<Snapshot>>,
}

impl View {
    /// The snapshot in force.
    pub(super) fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0.load().current)
    }

    /// The snapshot whose sets the kernel has while a change is on its way.
    pub(super) fn previous_or_current(&self) -> Arc<Snapshot> {
        let pair = self.0.load();
        Arc::clone(pair.previous.as_ref().unwrap_or(&pair.current))
    }

    /// Answers from `next`, and from the one in force for what `next` does not know.
    pub(super) fn announce(&self, next: Arc<Snapshot>) {
        let previous = Some(self.current());
        self.0.store(Arc::new(Pair {
            current: next,
            previous,
        }));
    }

    /// The kernel has the sets of `current`.
    pub(super) fn settle(&self, current: Arc<Snapshot>) {
        self.0.store(Arc::new(Pair {
            current,
            previous: None,
        }));
    }

    /// What a packet is judged by.
    pub(super) fn load(&self) -> Guard<Arc<Pair>> {
        self.0.load()
    }
}

impl Pair {
    /// The snapshot that lists a flow, and what it says whoever it is.
    pub(super) fn first(&self, flow: &Flow, hook: Hook) -> Option<(&Arc<Snapshot>, First)> {
        let snapshots = [Some(&self.current), self.previous.as_ref()];
        snapshots
            .into_iter()
            .flatten()
            .find_map(|snapshot| Some((snapshot, First::of(&snapshot.index, flow, hook)?)))
    }
}
