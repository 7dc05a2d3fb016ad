//! What waits in memory for the end of its window, for whoever keeps it where it outlives the process.

use std::time::Instant;

use super::{
    HeldBack, Outcome, Repeats, Suppressor, Told,
    folds::{Held, Indicators, Sources},
};
use crate::{
    alert::Alert,
    feed::{Action, Direction},
};

/// Most summaries that are given at once; what goes out comes first.
pub const MAX_WAITING: usize = 4_096;

/// The state of a moment. Cheap to take: what costs time is done by [`Waiting::summaries`].
#[derive(Debug, Default)]
pub struct Waiting {
    parts: Vec<Part>,
    /// What the limits held back and nobody was told yet.
    pub held_back: Vec<HeldBack>,
    /// All flows that they held back since the start.
    pub all_held_back: ByAction,
}

/// Flows by the verdict that was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ByAction {
    /// Denied.
    pub deny: u64,
    /// Let pass.
    pub alert: u64,
}

impl ByAction {
    /// Adds `count` flows.
    pub fn add(&mut self, action: Action, count: u64) {
        let sum = match action {
            Action::Deny => &mut self.deny,
            Action::Alert => &mut self.alert,
        };
        *sum = sum.saturating_add(count);
    }

    /// The sums of both.
    #[must_use]
    pub fn plus(self, more: Self) -> Self {
        Self {
            deny: self.deny.saturating_add(more.deny),
            alert: self.alert.saturating_add(more.alert),
        }
    }
}

/// One summary to be.
#[derive(Debug)]
pub(super) enum Part {
    Repeats(Repeats),
    Scan(Held<Indicators>),
    Flood(Held<Sources>),
}

impl Part {
    fn summary(&self) -> Alert {
        match self {
            Self::Repeats(repeats) => repeats.summary(),
            Self::Scan(held) => held.summary(),
            Self::Flood(held) => held.summary(),
        }
    }
}

impl Waiting {
    /// The summaries, as they would be if all windows closed at that moment.
    pub fn summaries(&self) -> impl Iterator<Item = Alert> {
        self.parts.iter().map(Part::summary)
    }
}

impl Suppressor {
    /// What waits now.
    pub fn waiting(&self) -> Waiting {
        let parts = self.egress.parts().chain(self.ingress.parts());
        Waiting {
            parts: parts.take(MAX_WAITING).collect(),
            held_back: [self.egress.held_back(), self.ingress.held_back()].concat(),
            all_held_back: self.counts.all_held_back,
        }
    }

    /// A number that changes with what waits.
    pub fn changes(&self) -> u64 {
        self.egress.changes().wrapping_add(self.ingress.changes())
    }

    /// Takes the summaries that an earlier process left, and tells those that the limits let pass.
    pub fn resume(&mut self, summaries: Vec<Alert>, now: Instant) -> Told {
        let mut told = Told::default();
        for summary in summaries {
            let side = match summary.direction {
                Direction::Egress => &mut self.egress,
                Direction::Ingress => &mut self.ingress,
            };
            if side.send(&summary, now, &mut self.counts) == Outcome::Send {
                told.summaries.push(summary);
            }
        }
        told
    }
}
