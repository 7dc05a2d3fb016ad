//! Where a parser of any format puts what it finds: entries up to the limits, the rest as counts
//! and a few printable examples, so that memory stays bounded whatever the text is.

use std::fmt::{Display, Write};

use super::{Bad, BadLine, Entry, Limits, Parsed};
use crate::prefix::{Family, Prefix};

/// Characters of a refused line that are shown.
const SHOWN: usize = 80;

/// A line (or record) of a feed's text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    /// Its number, from 1.
    pub(super) number: usize,
    /// Its bytes, without the line end.
    pub(super) text: &'a [u8],
}

/// Fills a [`Parsed`].
pub(super) struct Collector<'a> {
    limits: &'a Limits,
    parsed: Parsed,
}

impl<'a> Collector<'a> {
    /// Expects about `lines` entries; only a hint for memory.
    pub(super) fn new(limits: &'a Limits, lines: usize) -> Self {
        let mut parsed = Parsed::default();
        parsed
            .entries
            .reserve(lines.min(limits.max_entries.saturating_add(1)));
        Self { limits, parsed }
    }

    /// True once there are more entries than allowed: reading on is of no use.
    pub(super) fn full(&self) -> bool {
        self.parsed.entries.len() > self.limits.max_entries
    }

    /// Takes `prefix`, unless it is too wide.
    pub(super) fn entry(&mut self, line: Line<'_>, prefix: Prefix, host_bits: bool) {
        let shortest = match prefix.family() {
            Family::V4 => self.limits.min_prefix4,
            Family::V6 => self.limits.min_prefix6,
        };
        if prefix.is_empty() {
            self.parsed.too_wide.add(line, 1, "a default route");
            return;
        }
        if prefix.len() < shortest {
            let why = match prefix.family() {
                Family::V4 => "prefix shorter than min-prefix4",
                Family::V6 => "prefix shorter than min-prefix6",
            };
            self.parsed.too_wide.add(line, 1, why);
            return;
        }
        self.parsed.host_bits += usize::from(host_bits);
        self.parsed.entries.push(Entry { prefix });
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

    /// All that was found.
    pub(super) fn finish(self) -> Parsed {
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
