//! All feeds together at one moment: the kernel's sets, the index behind them, and what was left out.
//!
//! Pure. A new snapshot is built from the feeds' good data; [`Delta`] says how the kernel's sets get
//! from the old one to the new one.

mod build;
mod classes;
mod coarse;
mod cost;
mod covers;
mod delta;
mod exception;
mod index;
mod members;
#[cfg(test)]
mod policy_tests;
mod regions;
mod report;
mod ruled;
mod sets;
mod steps;
mod sweep;
#[cfg(test)]
pub(crate) mod tests;
mod transition;

use std::collections::BTreeMap;

pub use build::{Input, Options, build};
pub use coarse::{BLOCK4, BLOCK6};
pub use delta::{Delta, Elements, SetDelta};
pub use exception::{Exception, ExceptionKind, RESOLVER, RESOLVER_PORTS};
pub use index::{Hit, Index, Listing, Port};
pub(crate) use members::hit_of;
pub use members::{Member, Regime};
pub use sets::{Class, Content, FlowElement, Kind, PortBox, PortElement, SetName, Sets};
pub use steps::{Steps, steps};
pub use transition::Transition;

use crate::feed::{FeedName, Share};

/// Everything that follows from the feeds at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// What the kernel holds.
    pub sets: Sets,
    /// What the daemon asks.
    pub index: Index,
    /// What was left out.
    pub report: Report,
}

/// What a snapshot left out of the kernel, for status.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Report {
    /// For each feed: numbers after merging, and what exceptions removed.
    pub feeds: BTreeMap<FeedName, FeedReport>,
    /// What policies ask by protocol and port.
    pub flows: FlowReport,
    /// How much of the routable address space is denied, at all ports and whatever the source.
    pub denied: Share,
}

/// Address ranges with protocols and ports, which load slowly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct FlowReport {
    /// In the kernel.
    pub elements: usize,
    /// Too many for the kernel: the daemon decides about their addresses, packet by packet.
    pub too_many: usize,
}

impl FlowReport {
    /// From here on they are worth a warning: 30,000 take 0.4 seconds to load, 100,000 take 4.
    const SLOW: usize = 30_000;

    /// What the admin should know, if anything.
    pub fn warning(&self) -> Option<String> {
        if self.too_many > 0 {
            return Some(format!(
                "policies that name ports would need {} address ranges with ports, more than the {} that \
                 the kernel loads in a few seconds: the daemon decides about these addresses, and while it \
                 is down daemon.on-daemon-down does, for all their ports",
                self.too_many,
                ruled::MAX_FLOWS
            ));
        }
        (self.elements > Self::SLOW).then(|| {
            format!(
                "policies that name ports need {} address ranges with ports in the kernel: loading them \
                 takes seconds (30,000 take 0.4, 100,000 take 4); a rule for all ports needs none",
                self.elements
            )
        })
    }
}

/// What two feeds have in common.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Overlap {
    /// The other feed.
    pub feed: FeedName,
    /// Addresses in both, as text: IPv6 does not fit a JSON number.
    pub addresses: String,
}

/// What became of one feed's entries.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct FeedReport {
    /// Entries that count.
    pub entries: usize,
    /// Ranges left after merging this feed's own overlapping and adjacent prefixes.
    pub merged: usize,
    /// Addresses covered, as text: IPv6 does not fit a JSON number.
    pub addresses: String,
    /// Entries with a port that cover more than 256 addresses: left out.
    pub wide_bound: usize,
    /// Entries touched by an exception: how many, and the first few with the reason.
    pub excepted: usize,
    /// Examples of the above: `192.0.2.1: own address on eth0`.
    pub excepted_examples: Vec<String>,
    /// Entries with special addresses, which are never denied and never alerted.
    pub special: usize,
    /// Examples of the above: `255.255.255.255: limited broadcast`.
    pub special_examples: Vec<String>,
    /// Addresses that other feeds list too.
    pub overlaps: Vec<Overlap>,
    /// Networks of private space that were left out or only watched.
    pub private: usize,
    /// Examples of the above.
    pub private_examples: Vec<String>,
}
