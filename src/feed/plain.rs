//! One address or prefix a line, with `#` and `;` comments and trailing columns.
//!
//! The rules, line by line:
//! - Lines end with LF or CRLF; a UTF-8 byte order mark in front is skipped.
//! - `#` and `;` start a comment anywhere in a line. Blank lines are skipped.
//! - Columns are separated by spaces, tabs or commas; the first one is the entry, the others are not
//!   read, with two exceptions that keep a network from being cut to its first address or a sink
//!   from being listed:
//!   - `start end length` (DShield) is that network; any other second address of the same family
//!     makes the line bad, since it looks like a range.
//!   - `0.0.0.0 name` (also 127.0.0.0/8, `::`, `::1`) is a line of a hosts file, never an entry.
//! - What a column can be is decided in one place: strict addresses only, host bits are masked off
//!   and counted, names and URLs count apart, everything else is malformed.

use std::net::IpAddr;

use super::{
    Limits, Parsed,
    collect::{Collector, Line, without_mark},
    token::{Class, classify, is_hosts_name},
};
use crate::prefix::Prefix;

/// Reads newline-delimited text. Never fails: what cannot be read is counted, and
/// [`judge`](super::judge) decides about the whole. Stops one entry past `limits.max_entries`.
pub fn parse_plain(text: &[u8], limits: &Limits) -> Parsed {
    let text = without_mark(text);
    let lines = text.iter().filter(|b| **b == b'\n').count() + 1;
    let mut out = Collector::new(limits, lines);
    for (index, text) in text.split(|b| *b == b'\n').enumerate() {
        let line = Line {
            number: index + 1,
            text,
        };
        read_line(line, &mut out);
        if out.full() {
            break;
        }
    }
    out.finish()
}

fn read_line(line: Line<'_>, out: &mut Collector<'_>) {
    let data = before_comment(line.text).trim_ascii();
    if data.is_empty() {
        return;
    }
    let (first, rest) = split_column(data);
    if first.is_empty() {
        return out.bad(line, "the first column is empty");
    }
    match classify(first) {
        Class::Prefix(prefix, host_bits) if rest.is_empty() => out.entry(line, prefix, host_bits),
        Class::Prefix(prefix, host_bits) => match with_columns(prefix, rest) {
            Columns::Ignored => out.entry(line, prefix, host_bits),
            Columns::Network(network) => out.entry(line, network, false),
            Columns::Range => out.bad(line, "a second address: a range?"),
            Columns::Hosts => out.hosts_line(line),
        },
        Class::NotAddress(what) => out.not_address(line, what),
        Class::Bad(why) => out.bad(line, why),
    }
}

/// What the columns behind the first one make of a line.
enum Columns {
    /// Nothing.
    Ignored,
    /// The network of a DShield line.
    Network(Prefix),
    /// A range.
    Range,
    /// A line of a hosts file.
    Hosts,
}

fn with_columns(first: Prefix, rest: &[u8]) -> Columns {
    let (second, rest) = split_column(rest);
    if is_sink(first) && is_hosts_name(second) {
        return Columns::Hosts;
    }
    match address(second) {
        Some(end) if first.is_host() && end.is_ipv4() == first.addr().is_ipv4() => {
            network(first.addr(), end, rest).map_or(Columns::Range, Columns::Network)
        }
        _ => Columns::Ignored,
    }
}

/// The network of `start end length`, if the three agree.
fn network(start: IpAddr, end: IpAddr, rest: &[u8]) -> Option<Prefix> {
    let (length, _) = split_column(rest);
    let length = std::str::from_utf8(length).ok()?.parse().ok()?;
    Prefix::new(start, length)
        .ok()
        .filter(|prefix| prefix.addr() == start && prefix.last() == end)
}

fn address(token: &[u8]) -> Option<IpAddr> {
    // Most second columns are words and numbers: do not even try them.
    let digits = token.first().is_some_and(u8::is_ascii_hexdigit) || token.starts_with(b":");
    let dotted = token.contains(&b'.') || token.contains(&b':');
    if !(digits && dotted) {
        return None;
    }
    std::str::from_utf8(token).ok()?.parse().ok()
}

/// Addresses that hosts files send unwanted names to.
fn is_sink(prefix: Prefix) -> bool {
    prefix.is_host() && (prefix.addr().is_loopback() || prefix.addr().is_unspecified())
}

fn before_comment(line: &[u8]) -> &[u8] {
    match line.iter().position(|b| matches!(b, b'#' | b';')) {
        Some(end) => line.get(..end).unwrap_or_default(),
        None => line,
    }
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
            "Start\tEnd\tNetmask",
            "1.2.3.4:80",
            "1.2.3.4-1.2.3.9",
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
