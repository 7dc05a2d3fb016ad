//! The flow log: every flow that touched a feed, with what it moved, at its end. Pure.
//!
//! [`Book`] keeps flows from their first packet to their end, [`Aggregator`] makes lines of ended ones:
//! one for each, or sums by source or by indicator (the levels of Calico's flow logs).
//!
//! Law, at each level: the `num_flows` of all lines add up to the flows that [`Book::begin`] took. What
//! does not fit the bounds is in a line with less detail, never in none.
//!
//! Knows neither conntrack nor files.

mod aggregate;
mod book;
mod crowd;
mod line;
mod who;

pub use aggregate::{Aggregator, Level, MAX_GROUPS};
pub use book::{Book, MAX_OPEN};
pub use crowd::INGRESS_LINES;
pub use line::{Line, lost};

use std::time::SystemTime;

use crate::alert::Alert;

/// What went one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes, IP headers included.
    pub bytes: u64,
}

/// What went both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From the one who began.
    pub orig: Count,
    /// Back to it.
    pub reply: Count,
}

impl Traffic {
    fn add(&mut self, more: &Self) {
        for (sum, more) in [(&mut self.orig, more.orig), (&mut self.reply, more.reply)] {
            sum.packets = sum.packets.saturating_add(more.packets);
            sum.bytes = sum.bytes.saturating_add(more.bytes);
        }
    }
}

/// Why a flow is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// It was denied: there is no more of it.
    Denied,
    /// It was established when its address was listed, and was cut.
    Cut,
    /// Its connection ended.
    Ended,
    /// Its connection is no longer there; its end went unseen.
    Gone,
    /// The log ends, the flow goes on.
    Stopped,
    /// Too many flows were open at once to wait for its end.
    Full,
}

impl Reason {
    /// The word of the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Cut => "cut",
            Self::Ended => "ended",
            Self::Gone => "gone",
            Self::Stopped => "stopped",
            Self::Full => "full",
        }
    }
}

/// A flow that is over, as far as the log goes.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its first packet.
    pub alert: Box<Alert>,
    /// When it was over.
    pub end: SystemTime,
    /// What it moved, where the kernel counted.
    pub traffic: Option<Traffic>,
    /// Why it is logged.
    pub reason: Reason,
}
