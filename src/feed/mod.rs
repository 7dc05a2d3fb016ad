//! A feed: its name, what its entries mean, and the pure step from text to entries.
//!
//! [`read`] is the whole step: it unpacks the body, reads it in the feed's format, counts what cannot
//! be read by class, and decides whether the whole is good enough to replace what is enforced
//! ([`judge`]). [`lint`] says what is odd about a feed before it blocks anything. Does not fetch ([`crate::fetch`]) and does
//! not merge feeds ([`crate::snapshot`]).

mod change;
mod collect;
mod cover;
mod date;
mod entry;
mod except;
pub mod formats;
mod header;
mod judge;
mod known;
mod limits;
mod lint;
mod name;
mod notes;
mod parsed;
mod plain;
mod presets;
mod read;
mod token;
mod unpack;

use std::fmt;

pub use change::weight;
pub(crate) use collect::printable;
pub use cover::{Cover, Share};
pub(crate) use date::parse as parse_date;
pub use entry::{Bound, Entry, Indicator, IndicatorError, PortMatch, Span, bound_size};
pub use judge::{Refusal, judge, refuse_body};
pub use known::Known;
pub use limits::Limits;
pub use lint::{Finding, FindingKind, lint};
pub use name::{FeedName, NameError};
pub use notes::{Note, Notes};
pub use parsed::{Bad, BadLine, FeedData, Item, LeftOut, Parsed};
pub use plain::parse_plain;
pub use presets::{Preset, presets};
pub use read::read;
pub use unpack::unpack;

/// What is done with a flow that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Let it pass and log it.
    Alert,
    /// Drop or reject it and log it.
    Deny,
}

impl serde::Serialize for Action {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl Action {
    /// The word of the configuration and of the alert line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::Deny => "deny",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which way a flow goes, seen from this host or from the network behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Towards a listed address: the destination matched.
    Egress,
    /// From a listed address: the source matched.
    Ingress,
}

impl serde::Serialize for Direction {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl Direction {
    /// The word of the configuration and of the alert line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The directions a feed applies to; at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Both directions.
    Both,
    /// Egress only.
    Out,
    /// Ingress only.
    In,
}

impl Scope {
    /// True when the scope covers `direction`.
    pub fn covers(self, direction: Direction) -> bool {
        matches!(
            (self, direction),
            (Self::Both, _) | (Self::Out, Direction::Egress) | (Self::In, Direction::Ingress)
        )
    }
}

/// How bad a match is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Informational.
    Low,
    /// The default.
    Medium,
    /// Look at it today.
    High,
    /// Look at it now.
    Critical,
}

impl Severity {
    /// The word of the configuration and of the alert line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
