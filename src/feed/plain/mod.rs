//! One address, prefix or range a line, with comments and trailing columns, in the dialects that
//! real lists are written in.
//!
//! The rules, line by line:
//! - Lines end with LF or CRLF; a UTF-8 byte order mark in front is skipped.
//! - `#` and `;` start a comment anywhere in a line. One behind an entry is its tag; one that has the
//!   line to itself may say how many entries there are and when the list was made.
//! - Columns are separated by spaces, tabs or commas; the first one is the entry. The second one is
//!   its score where the feed is judged by score. Others are not read, with two exceptions that keep
//!   a network from being cut to its first address or a sink from being listed:
//!   - `start end length` (DShield) is that network, and the fourth column its score; `start - end`
//!     is that range; any other second address of the same family makes the line bad.
//!   - `0.0.0.0 name` (also 127.0.0.0/8, `::`, `::1`) is a line of a hosts file, never an entry.
//! - What a column can be is decided in one place: strict addresses only, host bits are masked off
//!   and counted, names and URLs count apart, everything else is malformed.
//! - Lines of `ipset save`, of Tor's exit-addresses and of P2P lists are known by their first word or
//!   their shape.

mod dialect;

use std::net::IpAddr;

use super::{
    Limits, Parsed, Span,
    collect::{Collector, Extra, Line, without_mark},
    header,
    token::{Class, address, classify, is_hosts_name},
};
use crate::prefix::Prefix;

/// Reads newline-delimited text. Never fails: what cannot be read is counted, and
/// [`judge`](super::judge) decides about the whole. Stops one entry past `limits.max_entries`.
pub fn parse_plain(text: &[u8], limits: &Limits) -> Parsed {
    let text = without_mark(text);
    let lines = text.iter().filter(|b| **b == b'\n').count() + 1;
    let mut reader = Reader {
        out: Collector::new(limits, lines),
        node: None,
    };
    for (index, text) in text.split(|b| *b == b'\n').enumerate() {
        let number = index + 1;
        reader.line(Line { number, text });
        if reader.out.full() {
            break;
        }
    }
    reader.out.finish()
}

struct Reader<'a> {
    out: Collector<'a>,
    /// The fingerprint of the Tor node whose addresses follow.
    node: Option<&'a [u8]>,
}

impl<'a> Reader<'a> {
    fn line(&mut self, line: Line<'a>) {
        let (data, comment) = split_comment(line.text);
        let data = data.trim_ascii();
        if data.is_empty() {
            if let Some(comment) = comment {
                header::read(comment, &mut self.out);
            }
            return;
        }
        let (first, rest) = split_column(data);
        if first.is_empty() {
            return self.out.bad(line, "the first column is empty");
        }
        let class = classify(first);
        match class {
            Class::Prefix(prefix, host_bits) => {
                let bare = comment.is_none() && !self.out.wants_score();
                if rest.is_empty() && bare {
                    return self.out.entry(line, prefix, host_bits);
                }
                self.columns(line, class, prefix, rest, comment);
            }
            Class::Span(..) => self.take(line, class, rest, comment),
            Class::NotAddress(_) | Class::Bad(_) => {
                if !self.dialect(line, data) {
                    self.out.class(line, class, Extra::default());
                }
            }
        }
    }

    /// A prefix with more behind it.
    fn columns(
        &mut self,
        line: Line<'_>,
        class: Class,
        first: Prefix,
        rest: &[u8],
        comment: Option<&[u8]>,
    ) {
        match with_columns(first, rest) {
            Columns::Ignored => self.take(line, class, rest, comment),
            Columns::Network(network, rest) => {
                self.take(line, Class::Prefix(network, false), rest, comment);
            }
            Columns::Range(span) => self.take(line, Class::Span(span, None), &[], comment),
            Columns::Unclear => self.out.bad(line, "a second address: a range?"),
            Columns::Hosts => self.out.hosts_line(line),
        }
    }

    fn take(&mut self, line: Line<'_>, class: Class, rest: &[u8], comment: Option<&[u8]>) {
        let score = if self.out.wants_score() {
            score(split_column(rest).0)
        } else {
            None
        };
        let extra = Extra {
            port: None,
            score,
            tag: comment.and_then(tag),
        };
        self.out.class(line, class, extra);
    }
}

/// What the columns behind the first one make of a line.
enum Columns<'a> {
    /// Nothing.
    Ignored,
    /// The network of a DShield line, and the columns behind its length.
    Network(Prefix, &'a [u8]),
    /// `start - end`.
    Range(Span),
    /// A second address that makes no sense.
    Unclear,
    /// A line of a hosts file.
    Hosts,
}

fn with_columns(first: Prefix, rest: &[u8]) -> Columns<'_> {
    let (second, rest) = split_column(rest);
    if is_sink(first) && is_hosts_name(second) {
        return Columns::Hosts;
    }
    if second == b"-" {
        let last = dotted(split_column(rest).0).filter(|_| first.is_host());
        let span = last.and_then(|last| Span::new(first.addr(), last));
        return span.map_or(Columns::Unclear, Columns::Range);
    }
    match dotted(second) {
        Some(end) if first.is_host() && end.is_ipv4() == first.addr().is_ipv4() => {
            network(first.addr(), end, rest)
        }
        _ => Columns::Ignored,
    }
}

/// The network of `start end length`, if the three agree.
fn network(start: IpAddr, end: IpAddr, rest: &[u8]) -> Columns<'_> {
    let (length, rest) = split_column(rest);
    std::str::from_utf8(length)
        .ok()
        .and_then(|length| Prefix::new(start, length.parse().ok()?).ok())
        .filter(|prefix| prefix.addr() == start && prefix.last() == end)
        .map_or(Columns::Unclear, |prefix| Columns::Network(prefix, rest))
}

fn dotted(token: &[u8]) -> Option<IpAddr> {
    // Most second columns are words and numbers: do not even try them.
    let digits = token.first().is_some_and(u8::is_ascii_hexdigit) || token.starts_with(b":");
    let dotted = token.contains(&b'.') || token.contains(&b':');
    if !(digits && dotted) {
        return None;
    }
    address(std::str::from_utf8(token).ok()?)
}

/// A number, rounded down: thresholds are whole numbers, so nothing is lost.
pub(super) fn score(token: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(token).ok()?.trim();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !(digits(whole) && digits(fraction)) {
        return None;
    }
    Some(whole.parse().unwrap_or(u32::MAX))
}

/// The tag in the comment behind an entry. AlienVault separates its columns by `#`: there it is the
/// fourth, the kind of activity.
fn tag(comment: &[u8]) -> Option<&[u8]> {
    let spaced = comment.first().is_none_or(u8::is_ascii_whitespace);
    let mut columns = comment.split(|b| *b == b'#');
    let tag = match columns.nth(2) {
        Some(activity) if !spaced && columns.next().is_some() => activity,
        _ => comment,
    };
    let tag = tag.trim_ascii();
    (!tag.is_empty()).then_some(tag)
}

/// Addresses that hosts files send unwanted names to.
fn is_sink(prefix: Prefix) -> bool {
    prefix.is_host() && (prefix.addr().is_loopback() || prefix.addr().is_unspecified())
}

/// A line before its comment, and the comment without its marks.
fn split_comment(line: &[u8]) -> (&[u8], Option<&[u8]>) {
    let Some(end) = line.iter().position(|b| is_mark(*b)) else {
        return (line, None);
    };
    let (data, comment) = line.split_at_checked(end).unwrap_or((line, &[]));
    let start = comment.iter().position(|b| !is_mark(*b));
    let comment = start.and_then(|start| comment.get(start..));
    (data, Some(comment.unwrap_or_default()))
}

fn is_mark(byte: u8) -> bool {
    matches!(byte, b'#' | b';')
}

/// The first column and what is behind its separators.
fn split_column(data: &[u8]) -> (&[u8], &[u8]) {
    let Some(end) = data.iter().position(|b| is_separator(*b)) else {
        return (data, &[]);
    };
    let (first, rest) = data.split_at_checked(end).unwrap_or((data, &[]));
    let start = rest
        .iter()
        .position(|b| !is_separator(*b))
        .unwrap_or(rest.len());
    (first, rest.get(start..).unwrap_or_default())
}

fn is_separator(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b',')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: impl AsRef<[u8]>) -> Parsed {
        parse_plain(text.as_ref(), &Limits::default())
    }

    fn entries(parsed: &Parsed) -> Vec<String> {
        let entries = parsed.entries.iter();
        entries.map(|entry| entry.prefix.to_string()).collect()
    }

    #[test]
    fn lines_that_are_entries() {
        for (line, entry) in [
            ("1.2.3.4", "1.2.3.4"),
            ("  1.2.3.4\t\r", "1.2.3.4"),
            ("1.2.3.0/24", "1.2.3.0/24"),
            ("1.2.3.4/32", "1.2.3.4"),
            ("31.13.0.77/16", "31.13.0.0/16"),
            ("2001:DB8:0::1", "2001:db8::1"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
            ("1.2.3.4 # a comment", "1.2.3.4"),
            ("1.2.3.4#a comment", "1.2.3.4"),
            ("1.10.16.0/20 ; SBL256894", "1.10.16.0/20"),
            ("1.2.3.4\t10", "1.2.3.4"),
            ("1.2.3.4,10,example", "1.2.3.4"),
            ("1.2.3.4 , 10", "1.2.3.4"),
            ("1.2.3.4 2026-01-01 21:24:53", "1.2.3.4"),
            ("1.2.3.4 example.com", "1.2.3.4"),
            ("1.2.3.4 2001:db8::1", "1.2.3.4"),
            ("10.0.0.1 intranet", "10.0.0.1"),
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.1 10", "127.0.0.1"),
            (
                "5.188.86.0\t5.188.86.255\t24\t5959\tPIN-AS ,\tRU",
                "5.188.86.0/24",
            ),
        ] {
            let parsed = parse(line);
            assert_eq!(entries(&parsed), [entry], "{line}");
            assert_eq!(parsed.lines(), 1, "{line}");
        }
    }

    #[test]
    fn lines_that_are_nothing() {
        for line in [
            "",
            " \t\r",
            "#",
            "# 1.2.3.4",
            ";1.2.3.4",
            "   ; x",
            "\u{feff}",
            "Start\tEnd\tNetmask",
        ] {
            assert_eq!(parse(line), Parsed::default(), "{line}");
        }
    }

    #[test]
    fn lines_that_are_bad() {
        for line in [
            ",1.2.3.4",
            "garbage 1.2.3.4",
            "\"1.2.3.4\",\"80\"",
            "Starts\tEnd\tNetmask",
            "1.2.3.4:80x",
            "1.2.3.9-1.2.3.4",
            "1.2.3.9 - 1.2.3.4",
            "1.2.3.0/24 - 1.2.3.4",
            "1.2.3.4 1.2.3.9",
            // The three do not agree.
            "5.188.86.0\t5.188.86.255\t25",
            "5.188.86.7\t5.188.86.255\t24",
            "\u{0}1.2.3.4",
        ] {
            let parsed = parse(line);
            assert_eq!((parsed.bad.count, parsed.lines()), (1, 1), "{line}");
        }
    }

    #[test]
    fn sinks_of_a_hosts_file_are_no_entries() {
        for line in [
            "0.0.0.0 ads.example",
            "127.0.0.1\tlocalhost",
            "::1 ip6-localhost",
            ":: x",
        ] {
            let parsed = parse(line);
            assert_eq!(
                (parsed.hosts_lines, parsed.not_address.count),
                (1, 1),
                "{line}"
            );
            assert!(parsed.entries.is_empty(), "{line}");
        }
    }

    #[test]
    fn examples_carry_line_numbers_and_stop_at_five() {
        let parsed = parse("\u{feff}1.2.3.4\r\n# x\r\n\r\nx\ty\r\n".to_owned() + &"z\n".repeat(9));
        assert_eq!(parsed.entries.len(), 1);
        assert_eq!(parsed.bad.count, 10);
        assert_eq!(parsed.bad.examples.len(), 5);
        assert_eq!(
            parsed.bad.examples[0].to_string(),
            "line 4: x\\ty (not an IP address)"
        );
    }

    #[test]
    fn host_bits_are_counted() {
        assert_eq!(parse("31.13.0.77/16\n31.13.0.0/16\n").host_bits, 1);
    }

    #[test]
    fn stops_one_entry_past_the_limit() {
        let limits = Limits {
            max_entries: 10,
            ..Limits::default()
        };
        let parsed = parse_plain("1.2.3.4\n".repeat(1000).as_bytes(), &limits);
        assert_eq!(parsed.entries.len(), 11);
    }

    /// Prefixes no wider than the defaults allow (a mapped IPv6 one may fold to a wide IPv4 one).
    fn good() -> impl Strategy<Value = Prefix> {
        (any::<IpAddr>(), 19u8..=128)
            .prop_map(|(addr, len)| Prefix::new(addr, len.min(longest(addr))).unwrap())
            .prop_filter("wide", |prefix| prefix.len() >= 19)
    }

    fn longest(addr: IpAddr) -> u8 {
        if addr.is_ipv4() { 32 } else { 128 }
    }

    /// Any bytes, or nearly an entry.
    fn other_line() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            any::<Vec<u8>>(),
            "[0-9a-f.:/ ,#;\t-]{0,20}".prop_map(String::into_bytes),
        ]
        .prop_map(|line| line.into_iter().filter(|b| *b != b'\n').collect())
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(text: Vec<u8>) {
            let parsed = parse(&text);
            prop_assert!(parsed.lines() <= text.len());
        }

        #[test]
        fn any_near_miss_is_survived(text in "[0-9a-f.:/ ,#;\"\\-\\[\\]\n\t]{0,200}") {
            parse(text);
        }

        #[test]
        fn print_then_parse_is_identity(prefixes in proptest::collection::vec(good(), 0..40)) {
            let text: String = prefixes.iter().map(|prefix| format!("{prefix}\n")).collect();
            let parsed = parse(text);
            let read: Vec<Prefix> = parsed.entries.iter().map(|entry| entry.prefix).collect();
            prop_assert_eq!(read, prefixes);
            prop_assert_eq!(parsed.bad.count + parsed.host_bits, 0);
        }

        #[test]
        fn a_good_line_stays_good_in_any_company(
            prefix in good(),
            before in proptest::collection::vec(other_line(), 0..10),
            after in proptest::collection::vec(other_line(), 0..10),
        ) {
            let good = prefix.to_string().into_bytes();
            // A byte order mark counts at the start of the text only.
            let first = vec![b"#".to_vec()];
            let alone = [first.clone(), before.clone(), after.clone()].concat();
            let alone = parse(alone.join(&b'\n'));
            let mixed = parse([first, before, vec![good], after].concat().join(&b'\n'));
            prop_assert_eq!(mixed.entries.len(), alone.entries.len() + 1);
            prop_assert_eq!(mixed.lines(), alone.lines() + 1);
            prop_assert!(mixed.entries.iter().any(|entry| entry.prefix == prefix));
        }
    }
}
