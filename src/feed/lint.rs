//! What is odd about a feed: looked at before it blocks anything, and shown in status.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
};

use super::{Bad, Item, Known, Parsed};
use crate::prefix::{Address, Family, MULTICAST, PRIVATE, Prefix, RangeSet, SPECIAL};

/// Examples kept of each finding, and of a serious one: each of those is to be decided on.
const EXAMPLES: usize = 5;
const SERIOUS_EXAMPLES: usize = 20;

/// Prefixes up to that length are worth a look: the largest assignments of feeds that are about
/// criminals are mostly longer.
const WIDE4: u8 = 15;
const WIDE6: u8 = 31;

/// Space that nothing on the Internet answers from, besides multicast.
const RESERVED: [&str; 8] = [
    "192.0.0.0/24",
    "192.0.2.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "100::/64",
    "2001:db8::/32",
    "3fff::/20",
];

/// Something to look at.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// What it is.
    pub kind: FindingKind,
    /// Whose: the owner of known-good addresses, the other feed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// How many entries or lines.
    pub count: usize,
    /// The first few of them, as the feed has them.
    pub examples: Vec<String>,
}

/// What a finding is about, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// Entries with addresses that everybody uses.
    KnownGood,
    /// Entries in private, loopback or link-local space.
    Private,
    /// Entries in multicast, documentation and other reserved space.
    Reserved,
    /// Entries with special addresses: unspecified, loopback, link-local, multicast, broadcast.
    Special,
    /// Prefixes with very many addresses.
    Wide,
    /// Prefixes that were refused as too wide.
    TooWide,
    /// Malformed lines.
    Malformed,
    /// Lines about names and other things.
    NotAddress,
    /// Lines left out on purpose: score, filter, expiry, conditions.
    LeftOut,
    /// Prefixes with bits set behind their length.
    HostBits,
    /// Entries that are there twice, or inside others of the same feed.
    Redundant,
    /// Entries whose addresses all are in another feed.
    Overlap,
}

impl FindingKind {
    /// True when the feed may block what it should not.
    pub fn is_serious(self) -> bool {
        matches!(self, Self::KnownGood | Self::Private)
    }
}

/// A line for people.
impl Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, who) = (self.count, self.who.as_deref().unwrap_or_default());
        let (entries, lines) = (
            plural(count, "entry", "entries"),
            plural(count, "line", "lines"),
        );
        match self.kind {
            FindingKind::KnownGood => write!(f, "{count} {entries} with addresses of {who}"),
            FindingKind::Private => write!(f, "{count} {entries} in private space"),
            FindingKind::Reserved => write!(f, "{count} {entries} in reserved space"),
            FindingKind::Special => {
                write!(
                    f,
                    "{count} {entries} with special addresses, which are never denied"
                )
            }
            FindingKind::Wide => write!(f, "{count} very wide {entries}"),
            FindingKind::TooWide => write!(f, "{count} {lines} refused as too wide"),
            FindingKind::Malformed => write!(f, "{count} malformed {lines}"),
            FindingKind::NotAddress => write!(f, "{count} {lines} without an address"),
            FindingKind::LeftOut => write!(f, "{count} {lines} left out"),
            FindingKind::HostBits => write!(f, "{count} {entries} with bits behind the length"),
            FindingKind::Redundant => write!(f, "{count} {entries} twice or inside others"),
            FindingKind::Overlap => write!(f, "{count} {entries} also in feed {who}"),
        }?;
        match self.examples.as_slice() {
            [] => Ok(()),
            examples => write!(f, ": {}", examples.join(", ")),
        }
    }
}

/// What is odd about `parsed`, the worst first. `others` are the other feeds by name, and `known`
/// is what is known to be good.
pub fn lint(parsed: &Parsed, others: &[(&str, &Parsed)], known: &Known) -> Vec<Finding> {
    let mut found = Findings::default();
    let spaces = [
        (FindingKind::Private, Space::of(&PRIVATE)),
        (
            FindingKind::Reserved,
            Space::of(&[&RESERVED[..], &MULTICAST].concat()),
        ),
        (
            FindingKind::Special,
            Space::of(&SPECIAL.map(|special| special.net)),
        ),
    ];
    let whole = Space::of_prefixes(parsed.prefixes());
    for item in parsed.items() {
        for owner in known.owners(&item.prefix) {
            found.entry(FindingKind::KnownGood, Some(owner), &item);
        }
        for (kind, space) in &spaces {
            if space.meets(&item.prefix) {
                found.entry(*kind, None, &item);
            }
        }
        let wide = match item.prefix.family() {
            Family::V4 => WIDE4,
            Family::V6 => WIDE6,
        };
        if item.prefix.len() <= wide {
            found.entry(FindingKind::Wide, None, &item);
        }
    }
    redundant(parsed, &mut found);
    if !whole.is_empty() {
        for (name, other) in others {
            let other = Space::of_prefixes(other.prefixes());
            let inside = |item: &Item<'_>| other.covers(&item.prefix);
            for item in parsed.items().filter(inside) {
                found.entry(FindingKind::Overlap, Some(name), &item);
            }
        }
    }
    found.lines(FindingKind::TooWide, &parsed.too_wide);
    found.lines(FindingKind::Malformed, &parsed.bad);
    found.lines(FindingKind::NotAddress, &parsed.not_address);
    found.number(FindingKind::LeftOut, parsed.left_out.total());
    found.number(FindingKind::HostBits, parsed.host_bits);
    found.finish()
}

/// Entries without a port that are the same as another one, or inside it.
fn redundant(parsed: &Parsed, found: &mut Findings) {
    let mut entries: Vec<(usize, Prefix)> = parsed
        .entries
        .iter()
        .enumerate()
        .map(|(index, entry)| (index, entry.prefix))
        .collect();
    // Wider ones first where they start alike, so that what holds an entry comes before it.
    entries.sort_unstable_by_key(|(index, prefix)| (prefix.addr(), prefix.len(), *index));
    let mut outer: Option<Prefix> = None;
    for (_, prefix) in entries {
        match outer {
            Some(outer) if outer.contains(prefix.addr()) => {
                found.add(FindingKind::Redundant, None, || prefix.to_string());
            }
            _ => outer = Some(prefix),
        }
    }
}

/// Findings by kind and owner.
#[derive(Default)]
struct Findings(BTreeMap<(FindingKind, Option<String>), (usize, Vec<String>)>);

impl Findings {
    fn entry(&mut self, kind: FindingKind, who: Option<&str>, item: &Item<'_>) {
        self.add(kind, who, || item.indicator().to_string());
    }

    fn add(&mut self, kind: FindingKind, who: Option<&str>, example: impl FnOnce() -> String) {
        let (count, examples) = self.0.entry((kind, who.map(str::to_owned))).or_default();
        *count += 1;
        let keep = if kind.is_serious() {
            SERIOUS_EXAMPLES
        } else {
            EXAMPLES
        };
        if examples.len() < keep {
            let example = example();
            // The pieces of one range are one example.
            if examples.last() != Some(&example) {
                examples.push(example);
            }
        }
    }

    fn lines(&mut self, kind: FindingKind, lines: &Bad) {
        if lines.count > 0 {
            let examples = lines.examples.iter().map(ToString::to_string).collect();
            self.0.insert((kind, None), (lines.count, examples));
        }
    }

    fn number(&mut self, kind: FindingKind, count: usize) {
        if count > 0 {
            self.0.insert((kind, None), (count, Vec::new()));
        }
    }

    fn finish(self) -> Vec<Finding> {
        self.0
            .into_iter()
            .map(|((kind, who), (count, examples))| Finding {
                kind,
                who,
                count,
                examples,
            })
            .collect()
    }
}

/// A set of addresses of both families.
struct Space(RangeSet<u32>, RangeSet<u128>);

impl Space {
    fn of(nets: &[&str]) -> Self {
        let prefixes: Vec<Prefix> = nets.iter().filter_map(|net| net.parse().ok()).collect();
        Self::of_prefixes(prefixes.iter())
    }

    fn of_prefixes<'a>(prefixes: impl Iterator<Item = &'a Prefix> + Clone) -> Self {
        Self(RangeSet::of(prefixes.clone()), RangeSet::of(prefixes))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty() && self.1.is_empty()
    }

    fn meets(&self, prefix: &Prefix) -> bool {
        u32::bounds(prefix).is_some_and(|range| self.0.intersects(range))
            || u128::bounds(prefix).is_some_and(|range| self.1.intersects(range))
    }

    fn covers(&self, prefix: &Prefix) -> bool {
        u32::bounds(prefix).is_some_and(|range| covers(&self.0, range.first, range.last))
            || u128::bounds(prefix).is_some_and(|range| covers(&self.1, range.first, range.last))
    }
}

fn covers<A: Address>(set: &RangeSet<A>, first: A, last: A) -> bool {
    let at = set.ranges().partition_point(|range| range.last < first);
    let range = set.ranges().get(at);
    range.is_some_and(|range| range.first <= first && last <= range.last)
}

fn plural(count: usize, one: &'static str, many: &'static str) -> &'static str {
    if count == 1 { one } else { many }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::{Limits, parse_plain};

    fn read(text: &str) -> Parsed {
        let limits = Limits {
            min_prefix4: 1,
            ..Limits::default()
        };
        parse_plain(text.as_bytes(), &limits)
    }

    fn shown(text: &str, others: &[(&str, &Parsed)]) -> Vec<String> {
        let findings = lint(&read(text), others, &Known::embedded());
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_everybody_uses() {
        assert_eq!(
            shown("8.8.8.8\n8.8.8.0/24\n1.1.1.1:53\n80.1.2.3\n", &[]),
            [
                "1 entry with addresses of Cloudflare DNS: 1.1.1.1:53",
                "2 entries with addresses of Google DNS: 8.8.8.8, 8.8.8.0/24",
                "1 entry twice or inside others: 8.8.8.8",
            ]
        );
    }

    #[test]
    fn a_warninglist_is_known_too() {
        let mut known = Known::none();
        let text = include_bytes!("../../tests/fixtures/formats/misp-warninglist.json");
        known.warninglist(&crate::feed::formats::parse_warninglist(text).unwrap());
        let findings = lint(&read("192.0.2.0-192.0.2.99\n"), &[], &known);
        assert_eq!(findings[0].kind, FindingKind::KnownGood);
        assert_eq!(
            findings[0].who.as_deref(),
            Some("Ranges of an example network")
        );
        assert_eq!(findings[0].examples, ["192.0.2.0-192.0.2.99"]);
    }

    #[test]
    fn space_width_and_lines() {
        let text =
            "10.1.2.3\n192.168.0.0/16\n224.0.0.0/3\n80.0.0.0/15\n80.9.9.9/24\noops\na.example\n";
        assert_eq!(
            shown(text, &[]),
            [
                "2 entries in private space: 10.1.2.3, 192.168.0.0/16",
                "1 entry in reserved space: 224.0.0.0/3",
                "1 entry with special addresses, which are never denied: 224.0.0.0/3",
                "2 very wide entries: 224.0.0.0/3, 80.0.0.0/15",
                "1 malformed line: line 6: oops (not an IP address)",
                "1 line without an address: line 7: a.example (a host name)",
                "1 entry with bits behind the length",
            ]
        );
        assert_eq!(
            shown("80.1.2.3\n2001:67c::/32\n", &[]),
            Vec::<String>::new()
        );
    }

    #[test]
    fn twice_and_inside() {
        assert_eq!(
            shown("80.1.2.0/24\n80.1.2.3\n80.1.2.0/24\n80.1.3.0\n", &[]),
            ["2 entries twice or inside others: 80.1.2.0/24, 80.1.2.3"]
        );
    }

    #[test]
    fn other_feeds() {
        let (all, none) = (read("80.1.0.0/17\n80.1.128.0/17\n"), read("80.2.0.0/16\n"));
        assert_eq!(
            shown("80.1.0.0/16\n81.1.1.1\n", &[("a", &all), ("b", &none)]),
            ["1 entry also in feed a: 80.1.0.0/16"]
        );
        assert_eq!(shown("", &[("a", &all)]), Vec::<String>::new());
    }
}
