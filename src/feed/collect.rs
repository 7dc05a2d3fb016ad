//! Where a parser of any format puts what it finds: entries up to the limits, the rest as counts
//! and a few printable examples, so that memory stays bounded whatever the text is.

use std::{
    fmt::{Display, Write},
    time::SystemTime,
};

use super::{
    Bad, BadLine, Bound, Entry, Limits, Parsed, PortMatch, Span, except, notes::Interner,
    token::Class,
};
use crate::prefix::{Family, Prefix};

/// Characters of a refused line that are shown.
const SHOWN: usize = 80;

/// What is wrong with an entry that has to have a score.
const NO_SCORE: &str = "no score, and min-score asks for one";

/// A line (or record) of a feed's text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    /// Its number, from 1.
    pub(super) number: usize,
    /// Its bytes, without the line end.
    pub(super) text: &'a [u8],
}

/// What a line may carry beside its addresses.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Extra<'a> {
    /// A port from a column of its own.
    pub(super) port: Option<PortMatch>,
    /// The score, rounded down.
    pub(super) score: Option<u32>,
    /// The feed's word for it.
    pub(super) tag: Option<&'a [u8]>,
}

/// Fills a [`Parsed`].
pub(super) struct Collector<'a> {
    limits: &'a Limits,
    parsed: Parsed,
    interner: Interner,
    exceptions: Vec<Prefix>,
}

impl<'a> Collector<'a> {
    /// Expects about `lines` entries; only a hint for memory.
    pub(super) fn new(limits: &'a Limits, lines: usize) -> Self {
        let mut parsed = Parsed::default();
        parsed
            .entries
            .reserve(lines.min(limits.max_entries.saturating_add(1)));
        Self {
            limits,
            parsed,
            interner: Interner::default(),
            exceptions: Vec::new(),
        }
    }

    /// True once there are more entries than allowed: reading on is of no use.
    pub(super) fn full(&self) -> bool {
        self.parsed.count() > self.limits.max_entries
    }

    /// True when the feed is judged by score, so that entries need theirs.
    pub(super) fn wants_score(&self) -> bool {
        self.limits.min_score.is_some() || self.limits.deny_score.is_some()
    }

    /// Takes `prefix`, unless it is too wide: the fast way for a line that carries nothing else.
    pub(super) fn entry(&mut self, line: Line<'_>, prefix: Prefix, host_bits: bool) {
        if self.limits.min_score.is_some() {
            return self.bad(line, NO_SCORE);
        }
        if let Some(why) = self.too_wide(&prefix) {
            return self.parsed.too_wide.add(line, 1, why);
        }
        self.parsed.good += 1;
        self.parsed.host_bits += usize::from(host_bits);
        self.parsed.entries.push(Entry { prefix });
    }

    /// Takes what a token is, with what the line carries beside it.
    pub(super) fn class(&mut self, line: Line<'_>, class: Class, extra: Extra<'_>) {
        match class {
            Class::Prefix(prefix, host_bits) => self.span(line, prefix.into(), host_bits, extra),
            Class::Span(span, port) => {
                let port = port.or(extra.port);
                self.span(line, span, false, Extra { port, ..extra });
            }
            Class::NotAddress(what) => self.not_address(line, what),
            Class::Bad(why) => self.bad(line, why),
        }
    }

    /// Takes addresses: all of their prefixes or none.
    pub(super) fn span(&mut self, line: Line<'_>, span: Span, host_bits: bool, extra: Extra<'_>) {
        if let Some(least) = self.limits.min_score {
            match extra.score {
                None => return self.bad(line, NO_SCORE),
                Some(score) if score < least => return self.parsed.left_out.below_score += 1,
                Some(_) => {}
            }
        }
        if let Some(why) = span.prefixes().find_map(|prefix| self.too_wide(&prefix)) {
            return self.parsed.too_wide.add(line, 1, why);
        }
        self.parsed.good += 1;
        self.parsed.host_bits += usize::from(host_bits);
        let written = span.prefix().is_none().then_some(span);
        let id = self
            .interner
            .id(&mut self.parsed.notes, extra.score, extra.tag, written);
        for prefix in span.prefixes() {
            if self.full() {
                break;
            }
            self.push(prefix, extra.port, id);
        }
    }

    /// The feed's own exception: its addresses are taken out of wider entries at the end.
    pub(super) fn exception(&mut self, span: Span) {
        self.parsed.left_out.exceptions += 1;
        if self.exceptions.len() <= self.limits.max_entries {
            self.exceptions.extend(span.prefixes());
        }
    }

    /// Counts a row that the feed's filter does not want.
    pub(super) fn filtered(&mut self) {
        self.parsed.left_out.filtered += 1;
    }

    /// Counts an entry that is not in force.
    pub(super) fn expired(&mut self) {
        self.parsed.left_out.expired += 1;
    }

    /// Counts a condition that is more than a list of addresses.
    pub(super) fn unsupported(&mut self) {
        self.parsed.left_out.unsupported += 1;
    }

    /// Something changes at that time.
    pub(super) fn changes_at(&mut self, time: SystemTime) {
        let next = &mut self.parsed.next_expiry;
        *next = Some(next.map_or(time, |next| next.min(time)));
    }

    /// The feed says how many lines it has; the last word counts.
    pub(super) fn declare(&mut self, count: usize) {
        self.parsed.declared = Some(count);
    }

    /// The feed says when it was made; the latest word counts.
    pub(super) fn made_at(&mut self, time: SystemTime) {
        self.parsed.updated = self.parsed.updated.max(Some(time));
    }

    fn push(&mut self, prefix: Prefix, port: Option<PortMatch>, note: u32) {
        match port {
            Some(port) => self.parsed.bound.push(Bound { prefix, port, note }),
            None => {
                self.parsed.notes.set(self.parsed.entries.len(), note);
                self.parsed.entries.push(Entry { prefix });
            }
        }
    }

    fn too_wide(&self, prefix: &Prefix) -> Option<&'static str> {
        let (shortest, why) = match prefix.family() {
            Family::V4 => (self.limits.min_prefix4, "prefix shorter than min-prefix4"),
            Family::V6 => (self.limits.min_prefix6, "prefix shorter than min-prefix6"),
        };
        if prefix.is_empty() {
            Some("a default route")
        } else {
            (prefix.len() < shortest).then_some(why)
        }
    }

    /// Counts a malformed line.
    pub(super) fn bad(&mut self, line: Line<'_>, why: &str) {
        self.bad_lines(line, 1, why);
    }

    /// Counts a malformed record of `count` lines.
    pub(super) fn bad_lines(&mut self, line: Line<'_>, count: usize, why: impl Display) {
        self.parsed.bad.add(line, count, why);
    }

    /// Counts a line about something that has no address.
    pub(super) fn not_address(&mut self, line: Line<'_>, why: &str) {
        self.parsed.not_address.add(line, 1, why);
    }

    /// Counts a line of a hosts file.
    pub(super) fn hosts_line(&mut self, line: Line<'_>) {
        self.parsed.hosts_lines += 1;
        self.not_address(line, "a hosts file line: its address is a sink");
    }

    /// All that was found, less the feed's own exceptions.
    pub(super) fn finish(mut self) -> Parsed {
        if !self.exceptions.is_empty() {
            except::subtract(&mut self.parsed, &self.exceptions, &mut self.interner);
            let room = self.limits.max_entries.saturating_add(1);
            self.parsed.entries.truncate(room);
        }
        self.parsed
    }
}

impl Bad {
    fn add(&mut self, line: Line<'_>, count: usize, why: impl Display) {
        self.count += count;
        if self.examples.len() < Self::KEEP {
            self.examples.push(BadLine {
                line: line.number,
                text: printable(line.text, SHOWN),
                why: why.to_string(),
            });
        }
    }
}

/// `text` behind a UTF-8 byte order mark, if there is one.
pub(super) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// `text` as at most `longest` printable characters: what is not UTF-8, control characters and
/// invisible ones are written as escapes, and a cut is marked.
pub(crate) fn printable(text: &[u8], longest: usize) -> String {
    let mut out = String::new();
    let mut shown = 0;
    // Four bytes are the longest character.
    let head = text.len().min(longest.saturating_mul(4));
    let head = text.get(..head).unwrap_or_default();
    let chunks = head.trim_ascii().utf8_chunks();
    let pieces = chunks.flat_map(|chunk| {
        let good = chunk.valid().chars().map(|c| match c {
            '"' | '\'' => c.to_string(),
            _ => c.escape_debug().to_string(),
        });
        let bad = chunk.invalid().iter().map(|byte| {
            let mut piece = String::new();
            // Writing to a String cannot fail.
            let _ = write!(piece, "\\x{byte:02x}");
            piece
        });
        good.chain(bad)
    });
    for piece in pieces {
        shown += piece.chars().count();
        if shown >= longest {
            out.push('…');
            break;
        }
        out.push_str(&piece);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn printable_shows_what_would_hide() {
        for (text, shown) in [
            (&b"  \"a\" 'b' \r"[..], "\"a\" 'b'"),
            (b"a\x1b[31m\x00", "a\\u{1b}[31m\\0"),
            (b"\xffa", "\\xffa"),
            ("a\u{202e}b".as_bytes(), "a\\u{202e}b"),
            ("dürr".as_bytes(), "dürr"),
        ] {
            assert_eq!(printable(text, SHOWN), shown);
        }
    }

    #[test]
    fn defaults_are_kept_and_a_default_route_never_passes() {
        let open = Limits {
            min_prefix4: 0,
            min_prefix6: 0,
            ..Limits::default()
        };
        for (limits, prefix, passes) in [
            (&Limits::default(), "10.0.0.0/8", true),
            (&Limits::default(), "10.0.0.0/7", false),
            (&Limits::default(), "2001::/19", true),
            (&Limits::default(), "2001::/18", false),
            (&open, "128.0.0.0/1", true),
            (&open, "0.0.0.0/0", false),
            (&open, "::/0", false),
            (&open, "::ffff:0:0/96", false),
        ] {
            let mut out = Collector::new(limits, 1);
            let line = Line {
                number: 1,
                text: prefix.as_bytes(),
            };
            out.entry(line, prefix.parse().unwrap(), false);
            let parsed = out.finish();
            assert_eq!(parsed.entries.len() == 1, passes, "{prefix}");
            assert_eq!(parsed.too_wide.count == 0, passes, "{prefix}");
        }
    }

    proptest! {
        #[test]
        fn printable_is_short_and_has_no_control_characters(text: Vec<u8>) {
            let shown = printable(&text, SHOWN);
            prop_assert!(shown.chars().count() <= SHOWN);
            prop_assert!(!shown.chars().any(char::is_control));
        }
    }
}
