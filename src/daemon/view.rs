//! The index that queue threads ask, replaced without locks while they run.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::{
    config::Hook,
    packet::Flow,
    policy::{Decision, Endpoint, decide},
    snapshot::Snapshot,
};

/// The snapshot in force, and the one before while a change is on its way into the kernel.
///
/// A new snapshot is published before the kernel has its sets, so that no queued packet finds an
/// index that does not know it yet; packets that matched the old sets still find the old index.
#[derive(Debug, Default)]
pub(super) struct View(ArcSwap<Pair>);

#[derive(Debug, Default)]
struct Pair {
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

    /// Decides about a flow.
    pub(super) fn decide(&self, flow: &Flow, hook: Hook, endpoint: &Endpoint) -> Option<Decision> {
        let pair = self.0.load();
        decide(&pair.current.index, flow, hook, endpoint).or_else(|| {
            pair.previous
                .as_ref()
                .and_then(|snapshot| decide(&snapshot.index, flow, hook, endpoint))
        })
    }
}
