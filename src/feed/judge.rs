//! Whether a feed's text is good enough to replace what is enforced.

use super::{
    Bad, BadLine, FeedData, LeftOut, Limits, Parsed, bound_size, change, collect::without_mark,
    cover,
};
use crate::prefix::Family;

/// Why a whole text is refused; the last good data stays.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// More than [`Limits::max_bytes`].
    #[error(
        "the text has {bytes} bytes, more than max-bytes ({limit}); raise max-bytes if the feed really is that large"
    )]
    TooLarge {
        /// Size of the text.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A UTF-16 byte order mark, or the zero bytes of UTF-16 without one.
    #[error(
        "the text is UTF-16 (two bytes for each character); the feed must be served as UTF-8 or ASCII"
    )]
    Utf16,
    /// The magic bytes of a packed file that is not unpacked, or a packed file inside another one.
    #[error(
        "the body is packed ({0}), which is not unpacked; use the feed's plain text, gzip or zstd address"
    )]
    Packed(&'static str),
    /// A gzip or zstd body that is damaged.
    #[error("the {kind} body cannot be unpacked: {cause}; it is damaged or cut off, pull it again")]
    Damaged {
        /// How it is packed.
        kind: &'static str,
        /// What is wrong with it.
        cause: String,
    },
    /// A packed body that unpacks to more than [`Limits::max_bytes`].
    #[error(
        "the body unpacks to more than max-bytes ({limit}); raise max-bytes if the feed really is that large"
    )]
    UnpacksTooLarge {
        /// The limit.
        limit: u64,
    },
    /// The text starts with `<`.
    #[error(
        "the text is an HTML or XML page (it starts with \"<\"), most likely an error or login page; open the address in a browser and correct it"
    )]
    Html,
    /// Most lines are those of a hosts file.
    #[error(
        "{lines} of {of} lines are those of a hosts file (such as 0.0.0.0 name): the addresses in it are sinks, not indicators; use the feed's list of IP addresses"
    )]
    HostsFile {
        /// Lines of a hosts file.
        lines: usize,
        /// Lines with data.
        of: usize,
    },
    /// More than [`Limits::max_entries`].
    #[error(
        "the text has more than max-entries ({limit}) entries; raise max-entries if the feed really is that large"
    )]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// Nothing in it, and the feed may not be empty.
    #[error("the text has no entries{}{}; if this feed may be empty, set allow-empty = true", describe(.left_out), before(.previous))]
    Empty {
        /// Entries of the last good data.
        previous: Option<usize>,
        /// Lines that were left out on purpose.
        left_out: LeftOut,
    },
    /// Nothing in it, not even the count that the last good data had.
    #[error(
        "the text has no entries and, unlike the last good one, does not say how many it should have: it is cut off; pull it again"
    )]
    CutOff,
    /// The text says how many lines it has, and has another number of them.
    #[error(
        "the text says it has {declared} entries, and has {found}: it is cut off or damaged; pull it again"
    )]
    Count {
        /// What it says.
        declared: usize,
        /// Lines with data in it.
        found: usize,
    },
    /// Fewer entries or addresses than [`Limits::max_shrink`] allows.
    #[error(
        "the feed fell from {before} to {after} {unit}, more than max-shrink ({:.1}%) allows; look at it with `feedgate refresh FEED --dry-run`, take it with `feedgate feeds accept FEED`, or raise max-shrink", .max_shrink * 100.0
    )]
    Shrunk {
        /// Before.
        before: u128,
        /// Now.
        after: u128,
        /// Of what.
        unit: &'static str,
        /// The limit, 0.0..=1.0.
        max_shrink: f64,
    },
    /// More addresses than [`Limits::max_growth`] allows.
    #[error(
        "the feed grew from {before} to {after} addresses (an IPv6 /64 counts as one), more than max-growth ({max_growth}x) allows; look at it with `feedgate refresh FEED --dry-run`, take it with `feedgate feeds accept FEED`, or raise max-growth"
    )]
    Grown {
        /// Before, by [`weight`](super::weight).
        before: u128,
        /// Now.
        after: u128,
        /// The limit.
        max_growth: f64,
    },
    /// More of the routable space than the feed may deny.
    #[error(
        "the feed would deny {}, more than max-share ({:.1}%) allows; look at it with `feedgate refresh FEED --dry-run`, take it with `feedgate feeds accept FEED`, or raise max-share", cover::of(*.part, *.family), .max_share * 100.0
    )]
    Share {
        /// Of which family.
        family: Family,
        /// The part of it, 0.0..=1.0.
        part: f64,
        /// The limit, 0.0..=1.0.
        max_share: f64,
    },
    /// More of the routable space than all feeds together may deny.
    #[error(
        "with it all deny feeds together would deny {}, more than arm.max-share ({:.1}%) allows; look at it with `feedgate refresh FEED --dry-run`, take it with `feedgate feeds accept FEED`, or raise arm.max-share", cover::of(*.part, *.family), .max_share * 100.0
    )]
    Sum {
        /// Of which family.
        family: Family,
        /// The part of it, 0.0..=1.0.
        part: f64,
        /// The limit, 0.0..=1.0.
        max_share: f64,
    },
    /// A list of what is known to be good.
    #[error(
        "the document is a MISP warninglist ({name}): what it lists is known to be good; use it for exceptions.files or lint, never as a feed"
    )]
    AllowList {
        /// Its name.
        name: String,
    },
    /// One page of several.
    #[error(
        "the document says that there is more of it, and only its first page was read; ask the server for larger pages (such as ?limit=10000 in the URL)"
    )]
    FirstPage,
    /// The format needs a setting that the feed has not.
    #[error("format {format} needs a path to the addresses; set path = \"$...\" in [feed.json]")]
    NoPath {
        /// The format.
        format: &'static str,
    },
    /// No line could be read.
    #[error(
        "none of {count} lines is an IP address or prefix, first {first}; check the address and the format of the feed"
    )]
    Garbage {
        /// Malformed lines.
        count: usize,
        /// The first of them.
        first: BadLine,
    },
    /// Only names, URLs and records about other things.
    #[error(
        "the text has no address, only {count} host names, URLs or other records, first {first}; use the feed's list of IP addresses"
    )]
    OnlyNames {
        /// Such lines.
        count: usize,
        /// The first of them.
        first: BadLine,
    },
    /// Every entry is wider than the feed may have.
    #[error(
        "every entry ({count}) is wider than the feed may have, first {first}; lower min-prefix4 or min-prefix6 if that is meant"
    )]
    AllTooWide {
        /// Such entries.
        count: usize,
        /// The first of them.
        first: BadLine,
    },
    /// The column of a CSV format is not in the header.
    #[error(
        "no column is named {name} in the header row or the comments before it; check the name, or give the column's number"
    )]
    NoColumn {
        /// The name looked for.
        name: String,
    },
    /// The text of a JSON format is none.
    #[error(
        "the text is not a JSON document: {cause}; check the address, or use format jsonl for one document a line"
    )]
    NotJson {
        /// What is wrong with it.
        cause: String,
    },
    /// A JSON document that would take too much memory.
    #[error(
        "the JSON document has too many values to be read at once; use the feed's plain text or JSON lines"
    )]
    TooManyValues,
    /// A larger share of malformed lines than [`Limits::max_bad`].
    #[error("{bad} of {of} lines are malformed, more than max-bad ({:.1}%), first {first}; check the format of the feed, or raise max-bad", .max_bad * 100.0)]
    Malformed {
        /// Malformed lines.
        bad: usize,
        /// Lines with data.
        of: usize,
        /// The limit, 0.0..=1.0.
        max_bad: f64,
        /// The first of them.
        first: BadLine,
    },
}

impl Refusal {
    /// True for an update that is sound in itself and only differs too much from the last good data, or
    /// would deny too much: it may be shown and accepted (read it again without `previous`).
    pub fn can_be_accepted(&self) -> bool {
        matches!(
            self,
            Self::Shrunk { .. } | Self::Grown { .. } | Self::Share { .. } | Self::Sum { .. }
        )
    }
}

/// Lets `parsed`, read from `text`, pass or says why not. `previous` is the last good data.
pub fn judge(
    parsed: Parsed,
    text: &[u8],
    limits: &Limits,
    previous: Option<&FeedData>,
) -> Result<Parsed, Refusal> {
    refuse_body(text, limits)?;
    refuse_hosts_file(&parsed)?;
    if parsed.count() > limits.max_entries || bound_addresses(&parsed) > limits.max_entries {
        return Err(Refusal::TooMany {
            limit: limits.max_entries,
        });
    }
    refuse_count(&parsed)?;
    if parsed.count() == 0 {
        refuse_empty(&parsed, limits, previous)?;
    }
    refuse_malformed(&parsed, limits)?;
    // An empty list was allowed by name: that it shrank to nothing is then no news.
    if let Some(previous) = previous.filter(|_| parsed.count() > 0) {
        change::refuse(&parsed, &previous.parsed, limits)?;
    }
    Ok(parsed)
}

/// Addresses of the entries with a port: the kernel gets them one by one.
fn bound_addresses(parsed: &Parsed) -> usize {
    let listed = parsed
        .bound
        .iter()
        .filter_map(|bound| bound_size(&bound.prefix));
    listed.fold(0, usize::saturating_add)
}

/// Refuses what can be told from `text` without parsing it: its size and what it starts with.
/// [`judge`] does this too; before the parser it saves the work.
pub fn refuse_body(text: &[u8], limits: &Limits) -> Result<(), Refusal> {
    let bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
    if bytes > limits.max_bytes {
        let limit = limits.max_bytes;
        return Err(Refusal::TooLarge { bytes, limit });
    }
    if is_utf16(text) {
        return Err(Refusal::Utf16);
    }
    for (magic, name) in PACKED {
        if text.starts_with(magic) {
            return Err(Refusal::Packed(name));
        }
    }
    let start = without_mark(text);
    if start.trim_ascii_start().starts_with(b"<") {
        return Err(Refusal::Html);
    }
    Ok(())
}

/// True for text with a UTF-16 byte order mark (that of little-endian UTF-32 starts with it), and for
/// one without a mark that begins with a line of ASCII in either order.
fn is_utf16(text: &[u8]) -> bool {
    const LOOKED_AT: usize = 16;
    if text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") {
        return true;
    }
    let pairs = || text.chunks_exact(2).take(LOOKED_AT);
    let little = |pair: &[u8]| matches!(pair, [1..=0x7f, 0]);
    let big = |pair: &[u8]| matches!(pair, [0, 1..=0x7f]);
    pairs().count() >= 4 && (pairs().all(little) || pairs().all(big))
}

/// Magic bytes: RFC 1952, RFC 8878, the bzip2, xz and ZIP file formats.
const PACKED: [(&[u8], &str); 5] = [
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"PK\x03\x04", "zip"),
];

fn refuse_hosts_file(parsed: &Parsed) -> Result<(), Refusal> {
    let (lines, of) = (parsed.hosts_lines, parsed.lines());
    if lines > of / 2 {
        return Err(Refusal::HostsFile { lines, of });
    }
    Ok(())
}

fn refuse_count(parsed: &Parsed) -> Result<(), Refusal> {
    let found = parsed.lines();
    match parsed.declared {
        Some(declared) if declared != found => Err(Refusal::Count { declared, found }),
        _ => Ok(()),
    }
}

fn refuse_empty(
    parsed: &Parsed,
    limits: &Limits,
    previous: Option<&FeedData>,
) -> Result<(), Refusal> {
    // Lines that were refused are no sign of a feed that is empty on purpose.
    if let Some((count, first)) = some(&parsed.bad) {
        return Err(Refusal::Garbage { count, first });
    }
    if let Some((count, first)) = some(&parsed.too_wide) {
        return Err(Refusal::AllTooWide { count, first });
    }
    if let Some((count, first)) = some(&parsed.not_address) {
        return Err(Refusal::OnlyNames { count, first });
    }
    let counted = previous.is_some_and(|data| data.parsed.declared.is_some());
    if counted && parsed.declared.is_none() {
        return Err(Refusal::CutOff);
    }
    if limits.allow_empty {
        return Ok(());
    }
    Err(Refusal::Empty {
        previous: previous.map(|data| data.parsed.count()),
        left_out: parsed.left_out,
    })
}

fn refuse_malformed(parsed: &Parsed, limits: &Limits) -> Result<(), Refusal> {
    let Some((bad, first)) = some(&parsed.bad) else {
        return Ok(());
    };
    let of = parsed.lines();
    if number(bad) / number(of) > limits.max_bad {
        return Err(Refusal::Malformed {
            bad,
            of,
            max_bad: limits.max_bad,
            first,
        });
    }
    Ok(())
}

fn some(lines: &Bad) -> Option<(usize, BadLine)> {
    let first = lines.examples.first()?;
    Some((lines.count, first.clone()))
}

fn number(lines: usize) -> f64 {
    f64::from(u32::try_from(lines).unwrap_or(u32::MAX))
}

fn describe(left_out: &LeftOut) -> String {
    match left_out.total() {
        0 => String::new(),
        lines => format!(
            " but {lines} left out ({} below min-score, {} by the filter, {} expired, {} unsupported)",
            left_out.below_score, left_out.filtered, left_out.expired, left_out.unsupported
        ),
    }
}

fn before(previous: &Option<usize>) -> String {
    match previous {
        Some(entries) if *entries > 0 => format!(", the last good one had {entries}"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::feed::parse_plain;

    fn read(text: impl AsRef<[u8]>, limits: &Limits) -> Result<Parsed, Refusal> {
        let text = text.as_ref();
        judge(parse_plain(text, limits), text, limits, None)
    }

    fn refused(text: impl AsRef<[u8]>) -> Refusal {
        read(text, &Limits::default()).unwrap_err()
    }

    fn lines(count: usize, line: &str) -> String {
        format!("{line}\n").repeat(count)
    }

    fn nothing(previous: Option<usize>) -> Refusal {
        Refusal::Empty {
            previous,
            left_out: LeftOut::default(),
        }
    }

    #[test]
    fn good_lines_pass_and_the_rest_is_counted() {
        let text = lines(98, "203.0.113.9") + "garbage\n0.0.0.0/0\n" + &lines(900, "example.com");
        let parsed = read(&text, &Limits::default()).unwrap();
        assert_eq!(parsed.entries.len(), 98);
        assert_eq!(parsed.bad.count, 1);
        assert_eq!(
            parsed.too_wide.examples[0].to_string(),
            "line 100: 0.0.0.0/0 (a default route)"
        );
        assert_eq!(parsed.not_address.count, 900);
        assert_eq!(parsed.lines(), 1000);
    }

    #[test]
    fn too_large() {
        let limits = Limits {
            max_bytes: 10,
            ..Limits::default()
        };
        assert!(read("1.2.3.4\n\n\n", &limits).is_ok());
        let refusal = read("1.2.3.4\n\n\n\n", &limits).unwrap_err();
        assert_eq!(
            refusal,
            Refusal::TooLarge {
                bytes: 11,
                limit: 10
            }
        );
    }

    #[test]
    fn utf16_in_either_order() {
        assert_eq!(refused(b"\xff\xfe1\x00.\x00"), Refusal::Utf16);
        assert_eq!(refused(b"\xfe\xff\x001\x00."), Refusal::Utf16);
        // As iconv writes it, without a mark.
        for shift in [0, 8] {
            let units = "192.0.2.1\n".encode_utf16().map(|unit| unit << shift);
            let text: Vec<u8> = units.flat_map(u16::to_le_bytes).collect();
            assert_eq!(refused(text), Refusal::Utf16);
        }
    }

    #[test]
    fn packed_bodies_are_named() {
        assert_eq!(refused(b"BZh9"), Refusal::Packed("bzip2"));
        assert_eq!(refused(b"\x1f\x8b\x08\x00"), Refusal::Packed("gzip"));
        assert_eq!(refused(b"\x28\xb5\x2f\xfd"), Refusal::Packed("zstd"));
        assert_eq!(refused(b"PK\x03\x04"), Refusal::Packed("zip"));
    }

    #[test]
    fn html_behind_a_mark_and_spaces() {
        for text in ["<!DOCTYPE html>", "\u{feff}\r\n\t <html>", "<?xml?>"] {
            assert_eq!(refused(text), Refusal::Html, "{text}");
        }
        // An address in the page does not save it.
        assert_eq!(refused("<p>\n203.0.113.9\n"), Refusal::Html);
    }

    #[test]
    fn a_hosts_file() {
        let text =
            "# names\n127.0.0.1 localhost\n::1 localhost\n0.0.0.0\tbad.example\n203.0.113.9\n";
        assert_eq!(refused(text), Refusal::HostsFile { lines: 3, of: 4 });
        // A feed with one such line loads without it.
        let text = lines(9, "203.0.113.9") + "127.0.0.1 localhost\n";
        assert_eq!(read(text, &Limits::default()).unwrap().entries.len(), 9);
    }

    #[test]
    fn too_many_entries() {
        let limits = Limits {
            max_entries: 3,
            ..Limits::default()
        };
        assert!(read(lines(3, "203.0.113.9"), &limits).is_ok());
        let refusal = read(lines(4, "203.0.113.9"), &limits).unwrap_err();
        assert_eq!(refusal, Refusal::TooMany { limit: 3 });
    }

    #[test]
    fn empty_unless_allowed() {
        let limits = Limits {
            allow_empty: true,
            ..Limits::default()
        };
        for text in ["", "\n\n", "# nothing today\n; really\n", "\u{feff}"] {
            assert_eq!(refused(text), nothing(None));
            assert!(read(text, &limits).unwrap().entries.is_empty());
        }
        // allow-empty does not turn garbage into an empty feed.
        assert!(matches!(
            read("oops", &limits),
            Err(Refusal::Garbage { .. })
        ));
    }

    #[test]
    fn empty_after_non_empty_says_so() {
        let limits = Limits::default();
        let last = FeedData {
            parsed: parse_plain(b"1.2.3.4\n5.6.7.8", &limits),
            pulled: SystemTime::UNIX_EPOCH,
            bytes: 15,
        };
        let refusal = judge(Parsed::default(), b"", &limits, Some(&last)).unwrap_err();
        assert_eq!(refusal, nothing(Some(2)));
        assert!(refusal.to_string().contains("the last good one had 2"));
    }

    #[test]
    fn garbage_shows_its_first_line() {
        let text = "Database error\ntry again later\n";
        assert_eq!(
            refused(text).to_string(),
            "none of 2 lines is an IP address or prefix, first line 1: Database error (not an IP \
             address); check the address and the format of the feed"
        );
    }

    #[test]
    fn only_names() {
        assert!(matches!(
            refused("example.com\nexample.org\n"),
            Refusal::OnlyNames { count: 2, .. }
        ));
    }

    #[test]
    fn only_wide_prefixes() {
        assert!(matches!(
            refused("0.0.0.0/0\n::/0\n"),
            Refusal::AllTooWide { count: 2, .. }
        ));
    }

    #[test]
    fn malformed_above_the_share() {
        // Five of a hundred are 5%, six of a hundred are more.
        let text = |bad| lines(100 - bad, "203.0.113.9") + &lines(bad, "garbage");
        assert!(read(text(5), &Limits::default()).is_ok());
        let refusal = refused(text(6));
        assert!(matches!(
            refusal,
            Refusal::Malformed {
                bad: 6,
                of: 100,
                ..
            }
        ));
        assert!(refusal.to_string().contains("max-bad (5.0%)"), "{refusal}");
    }

    #[test]
    fn a_declared_count_must_fit() {
        let text = "# Entries : 3 subnets, 300 unique IPs\n203.0.113.9\n0.0.0.0/0\noops\n";
        let limits = Limits {
            max_bad: 0.5,
            ..Limits::default()
        };
        // What was refused is there all the same.
        assert!(read(text, &limits).is_ok());
        let cut = text.replace("oops\n", "");
        let refusal = read(cut, &limits).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "the text says it has 3 entries, and has 2: it is cut off or damaged; pull it again"
        );
    }

    #[test]
    fn an_empty_text_without_its_usual_count_is_cut_off() {
        let limits = Limits {
            allow_empty: true,
            ..Limits::default()
        };
        let last = FeedData {
            parsed: parse_plain(b"1.2.3.4\n# END 1 entries\n", &limits),
            pulled: SystemTime::UNIX_EPOCH,
            bytes: 24,
        };
        let read = |text: &[u8]| judge(parse_plain(text, &limits), text, &limits, Some(&last));
        assert_eq!(read(b"# head\n"), Err(Refusal::CutOff));
        assert!(read(b"# head\n# END 0 entries\n").is_ok());
    }
}
