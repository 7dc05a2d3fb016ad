//! What a feed's text holds.

use std::{fmt, time::SystemTime};

use super::{Bound, Entry, Indicator, Note, Notes, PortMatch, Span};
use crate::prefix::Prefix;

/// What a feed's text holds. Each line that is neither blank nor comment is in exactly one class:
/// it gave entries, or it is counted in `bad`, `not_address`, `too_wide` or `left_out`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Good entries, in the feed's order, those for all ports; with `bound`, at most one more than
    /// [`Limits::max_entries`](super::Limits::max_entries).
    pub entries: Vec<Entry>,
    /// Good entries for one port only.
    pub bound: Vec<Bound>,
    /// Scores, tags and ranges of `entries` and `bound`.
    pub notes: Notes,
    /// Lines that gave entries.
    pub good: usize,
    /// Malformed lines: they count towards [`Limits::max_bad`](super::Limits::max_bad).
    pub bad: Bad,
    /// Well-formed lines about something else: host names, URLs, lines of a hosts file. They do not
    /// count towards `max_bad`, since mixed lists are full of them.
    pub not_address: Bad,
    /// Lines left out because their prefix is shorter than the feed may have.
    pub too_wide: Bad,
    /// Well-formed lines left out on purpose.
    pub left_out: LeftOut,
    /// Lines of a hosts file (`0.0.0.0 name`); each is in `not_address` too.
    pub hosts_lines: usize,
    /// Entries with host bits set under the mask, which were masked off.
    pub host_bits: usize,
    /// How many lines with data the feed says it has.
    pub declared: Option<usize>,
    /// When the feed says it was made.
    pub updated: Option<SystemTime>,
    /// When an entry runs out or comes into force: the text must be read again then.
    pub next_expiry: Option<SystemTime>,
}

impl Parsed {
    /// Lines that hold data, of whatever class.
    pub fn lines(&self) -> usize {
        self.good
            + self.bad.count
            + self.not_address.count
            + self.too_wide.count
            + self.left_out.total()
    }

    /// Number of entries, with and without a port.
    pub fn count(&self) -> usize {
        self.entries.len() + self.bound.len()
    }

    /// All entries with what they carry: those for all ports first, each kind in the feed's order.
    pub fn items(&self) -> impl Iterator<Item = Item<'_>> + Clone {
        let whole = self.entries.iter().enumerate().map(|(index, entry)| Item {
            prefix: entry.prefix,
            port: None,
            note: self.notes.of_entry(index),
        });
        let bound = self.bound.iter().map(|bound| Item {
            prefix: bound.prefix,
            port: Some(bound.port),
            note: self.notes.by_id(bound.note),
        });
        whole.chain(bound)
    }

    /// Prefixes of all entries.
    pub fn prefixes(&self) -> impl Iterator<Item = &Prefix> + Clone {
        let whole = self.entries.iter().map(|entry| &entry.prefix);
        whole.chain(self.bound.iter().map(|bound| &bound.prefix))
    }
}

/// One entry with what it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item<'a> {
    /// The addresses.
    pub prefix: Prefix,
    /// The port, `None` for all.
    pub port: Option<PortMatch>,
    /// What else the feed says.
    pub note: Option<&'a Note>,
}

impl<'a> Item<'a> {
    /// The feed's score.
    pub fn score(&self) -> Option<u32> {
        self.note?.score
    }

    /// The feed's word for it.
    pub fn tag(&self) -> Option<&'a str> {
        self.note?.tag.as_deref()
    }

    /// What an alert names.
    pub fn indicator(&self) -> Indicator {
        let written = self.note.and_then(|note| note.written.as_deref());
        Indicator {
            span: written.copied().unwrap_or(Span::from(self.prefix)),
            port: self.port,
        }
    }
}

/// Lines that are well-formed, about addresses, and left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct LeftOut {
    /// Their score is below `min-score`.
    pub below_score: usize,
    /// Rows of a table that the feed's filter does not want, decisions that are no bans.
    pub filtered: usize,
    /// Run out, revoked, or not yet in force.
    pub expired: usize,
    /// Conditions that are more than a list of addresses.
    pub unsupported: usize,
    /// The feed's own exceptions, which were subtracted from its entries.
    pub exceptions: usize,
}

impl LeftOut {
    /// All of them.
    pub fn total(&self) -> usize {
        self.below_score + self.filtered + self.expired + self.unsupported + self.exceptions
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
