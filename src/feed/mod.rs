//! A feed: its name, what its entries mean, and the pure step from text to entries.
//!
//! [`parse_plain`] reads what can be read and counts the rest by class; [`judge`] decides whether
//! the whole is good enough to replace what is enforced. Does not fetch ([`crate::fetch`]) and does
//! not merge feeds ([`crate::snapshot`]).

mod collect;
pub mod formats;
mod judge;
mod limits;
mod name;
mod plain;
mod token;

use std::{fmt, time::SystemTime};

pub(crate) use collect::printable;
pub use judge::{Refusal, judge, refuse_body};
pub use limits::Limits;
pub use name::{FeedName, NameError};
pub use plain::parse_plain;

use crate::prefix::Prefix;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// One line of a feed that names addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The prefix as the feed wrote it (canonical form).
    pub prefix: Prefix,
}

/// What a feed's text holds. Each line that is neither blank nor comment is in exactly one class:
/// `entries`, `bad`, `not_address` or `too_wide`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Good entries, in the feed's order; at most one more than [`Limits::max_entries`].
    pub entries: Vec<Entry>,
    /// Malformed lines: they count towards [`Limits::max_bad`].
    pub bad: Bad,
    /// Well-formed lines about something else: host names, URLs, lines of a hosts file. They do not
    /// count towards [`Limits::max_bad`], since mixed lists are full of them.
    pub not_address: Bad,
    /// Entries left out because their prefix is shorter than the feed may have.
    pub too_wide: Bad,
    /// Lines of a hosts file (`0.0.0.0 name`); each is in `not_address` too.
    pub hosts_lines: usize,
    /// Entries with host bits set under the mask, which were masked off.
    pub host_bits: usize,
}

impl Parsed {
    /// Lines that hold data, of whatever class.
    pub fn lines(&self) -> usize {
        self.entries.len() + self.bad.count + self.not_address.count + self.too_wide.count
    }
}

/// Refused lines: how many, and the first few of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Bad {
    /// Number of refused lines.
    pub count: usize,
    /// The first [`Bad::KEEP`] of them.
    pub examples: Vec<BadLine>,
}

impl Bad {
    /// How many examples are kept.
    pub const KEEP: usize = 5;
}

/// A refused line.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct BadLine {
    /// Line number, from 1.
    pub line: usize,
    /// The text, printable, at most 80 characters.
    pub text: String,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {} ({})", self.line, self.text, self.why)
    }
}

/// A feed's good data: what the daemon enforces until a better pull replaces it.
#[derive(Clone, Debug)]
pub struct FeedData {
    /// The parsed and accepted entries.
    pub parsed: Parsed,
    /// When it was pulled.
    pub pulled: SystemTime,
    /// Size of the text in bytes.
    pub bytes: u64,
}
