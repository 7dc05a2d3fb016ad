//! `sets.nft`: the elements as nft text, to be loaded before the daemon runs.
//!
//! The text stands on its own: it defines each set that it fills, so that a table which lacks one
//! never keeps an admin's ruleset from loading.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use super::{Shape, TABLE_COMMENT, TableFamily, include::open_prefilter};
use crate::{
    prefix::{Address, Family, Prefix, Range},
    snapshot::{Class, Content, FlowElement, PortBox, PortElement, SetName, Sets},
};

/// Elements of feeds written at most. nft needs 0.4 KB (hosts) to 1.3 KB (networks)
/// of memory for each while it loads them.
pub const MAX_ELEMENTS: usize = 500_000;
/// Elements a line.
const ON_A_LINE: usize = 8;

/// The elements of the sets that `there` names, at most `limit` of them from feeds, deny first.
/// `own`: the table is the daemon's and carries its comment.
pub fn elements(
    (family, table): (TableFamily, &str),
    sets: &Sets,
    there: &BTreeMap<SetName, Shape>,
    own: bool,
    limit: usize,
) -> String {
    let mut text = String::from(
        "# feedgate: the last good elements. Written by the daemon, which replaces this file: do not edit it.\n",
    );
    let table = Table { family, table };
    // Writing to a String cannot fail.
    let _ = write(&mut text, &table, sets, there, own, limit);
    text
}

struct Table<'a> {
    family: TableFamily,
    table: &'a str,
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family.as_str(), self.table)
    }
}

fn write(
    out: &mut String,
    table: &Table<'_>,
    sets: &Sets,
    there: &BTreeMap<SetName, Shape>,
    own: bool,
    limit: usize,
) -> fmt::Result {
    if own {
        writeln!(out, "add table {table} {{ comment \"{TABLE_COMMENT}\"; }}")?;
    } else {
        writeln!(out, "add table {table}")?;
    }
    for (name, shape) in there {
        let address = match name.family() {
            Family::V4 => "ipv4_addr",
            Family::V6 => "ipv6_addr",
        };
        let more = match name.kind() {
            kind if kind.has_ports() => " . inet_proto . inet_service",
            _ => "",
        };
        let flags = shape.to_string();
        let flags = if flags.is_empty() {
            flags
        } else {
            format!(" flags {flags};")
        };
        writeln!(
            out,
            "add set {table} {name} {{ type {address}{more};{flags} }}"
        )?;
        writeln!(out, "flush set {table} {name}")?;
    }
    let mut left = limit;
    // The prefilter counts for nothing and comes whole: it may cover more than what follows.
    for name in by_weight(there) {
        let content = open_prefilter(sets, name);
        let most = match name {
            SetName::Coarse { .. } | SetName::Resolvers { .. } => content.len(),
            SetName::Class { .. } => left.min(content.len()),
        };
        if most < content.len() {
            let more = content.len() - most;
            writeln!(
                out,
                "# {name}: {more} more do not fit into the limit of {limit} elements"
            )?;
        }
        if most > 0 {
            writeln!(out, "add element {table} {name} {{")?;
            match &*content {
                Content::V4(ranges) => write_ranges(out, ranges.iter().take(most))?,
                Content::V6(ranges) => write_ranges(out, ranges.iter().take(most))?,
                Content::Ports4(list) => write_ports(out, list.iter().take(most))?,
                Content::Ports6(list) => write_ports(out, list.iter().take(most))?,
                Content::Flows4(list) => write_flows(out, list.iter().take(most))?,
                Content::Flows6(list) => write_flows(out, list.iter().take(most))?,
            }
            writeln!(out, "}}")?;
        }
        if matches!(name, SetName::Class { .. }) {
            left -= most;
        }
    }
    Ok(())
}

/// Deny before the prefilter and watch: what a limit cuts off should be what only alerts.
fn by_weight(there: &BTreeMap<SetName, Shape>) -> Vec<SetName> {
    let watch = |name: &SetName| {
        matches!(
            name,
            SetName::Class {
                class: Class::Watch,
                ..
            }
        )
    };
    let mut names: Vec<SetName> = there.keys().copied().collect();
    names.sort_by_key(|name| (watch(name), *name));
    names
}

fn write_ranges<'a, A: Address>(
    out: &mut String,
    ranges: impl Iterator<Item = &'a Range<A>>,
) -> fmt::Result {
    for (i, range) in ranges.enumerate() {
        out.push_str(between(i));
        write_range(out, range)?;
    }
    out.push('\n');
    Ok(())
}

fn write_ports<'a, A: Address>(
    out: &mut String,
    elements: impl Iterator<Item = &'a PortElement<A>>,
) -> fmt::Result {
    for (i, element) in elements.enumerate() {
        out.push_str(between(i));
        // Numbers: nft has no name for every protocol with ports.
        let PortElement { addr, proto, port } = element;
        write!(out, "{} . {proto} . {port}", addr.ip())?;
    }
    out.push('\n');
    Ok(())
}

fn write_flows<'a, A: Address>(
    out: &mut String,
    elements: impl Iterator<Item = &'a FlowElement<A>>,
) -> fmt::Result {
    for (i, element) in elements.enumerate() {
        out.push_str(between(i));
        write_range(out, &element.addr)?;
        let PortBox { protos, ports } = element.at;
        write_numbers(out, protos)?;
        write_numbers(out, ports)?;
    }
    out.push('\n');
    Ok(())
}

fn write_numbers<T: Eq + fmt::Display>(out: &mut String, (first, last): (T, T)) -> fmt::Result {
    if first == last {
        write!(out, " . {first}")
    } else {
        write!(out, " . {first}-{last}")
    }
}

/// What stands before the element with this number.
fn between(i: usize) -> &'static str {
    match i {
        0 => "\t",
        _ if i.is_multiple_of(ON_A_LINE) => ",\n\t",
        _ => ", ",
    }
}

fn write_range<A: Address>(out: &mut String, range: &Range<A>) -> fmt::Result {
    if range.is_host() {
        return write!(out, "{}", range.first.ip());
    }
    match as_prefix(range) {
        Some(prefix) => write!(out, "{prefix}"),
        None => write!(out, "{}-{}", range.first.ip(), range.last.ip()),
    }
}

fn as_prefix<A: Address>(range: &Range<A>) -> Option<Prefix> {
    let len = (0..A::BITS).find(|len| {
        range.first.masked(*len) == range.first && range.first.filled(*len) == range.last
    })?;
    Prefix::new(range.first.ip(), len).ok()
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::SystemTime};

    use super::*;
    use crate::{
        config::Feed,
        feed::{Action, FeedData, Limits, parse_plain},
        ruleset::full,
        snapshot::{self, Input, build},
    };

    fn sets(lists: &[(Action, &[&str])]) -> Sets {
        let inputs: Vec<Input> = lists
            .iter()
            .enumerate()
            .map(|(i, (action, list))| {
                let mut feed = Feed::new(format!("f{i}").parse().unwrap());
                feed.action = *action;
                let parsed = parse_plain(list.join("\n").as_bytes(), &Limits::default());
                let pulled = SystemTime::UNIX_EPOCH;
                let data = FeedData {
                    parsed,
                    pulled,
                    bytes: 0,
                };
                Input::new(&feed, Arc::new(data))
            })
            .collect();
        build(&inputs, &[], snapshot::Options::default()).sets
    }

    fn usual() -> BTreeMap<SetName, Shape> {
        full()
            .into_iter()
            .map(|name| (name, Shape::usual(name)))
            .collect()
    }

    #[test]
    fn elements_are_written_as_nft_reads_them() {
        let sets = sets(&[
            (
                Action::Deny,
                &[
                    "192.0.2.1",
                    "198.51.100.0/24",
                    "198.51.101.0/25",
                    "2001:db8::/32",
                    "192.0.2.5:443/tcp",
                    "[2001:db9::2]:53/udp",
                ],
            ),
            (Action::Alert, &["192.0.2.9"]),
        ]);
        let text = elements((TableFamily::Inet, "feedgate"), &sets, &usual(), true, 100);
        for line in [
            "add set inet feedgate deny_hosts4 { type ipv4_addr; }",
            "flush set inet feedgate deny_hosts4",
            "add element inet feedgate deny_hosts4 {\n\t192.0.2.1\n}",
            "add element inet feedgate deny_nets4 {\n\t198.51.100.0-198.51.101.127\n}",
            "add element inet feedgate deny_nets6 {\n\t2001:db8::/32\n}",
            "add set inet feedgate deny_ports4 { type ipv4_addr . inet_proto . inet_service; }",
            "add element inet feedgate deny_ports4 {\n\t192.0.2.5 . 6 . 443\n}",
            "add element inet feedgate deny_ports6 {\n\t2001:db9::2 . 17 . 53\n}",
            "add element inet feedgate watch_hosts4 {\n\t192.0.2.9\n}",
            "add element inet feedgate coarse4 {",
            "add set inet feedgate deny_nets4 { type ipv4_addr; flags interval; }",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        assert!(
            !text.contains("element inet feedgate coarse_nets4"),
            "nothing is wide: {text}"
        );
        assert!(!text.contains("0.0.0.0/0"), "the prefilter is closed");
    }

    #[test]
    fn a_limit_keeps_deny_and_says_what_is_missing() {
        let sets = sets(&[
            (Action::Deny, &["192.0.2.1", "192.0.2.2"]),
            (Action::Alert, &["192.0.2.8", "192.0.2.9"]),
        ]);
        let text = elements((TableFamily::Ip, "filter"), &sets, &usual(), false, 3);
        assert!(text.contains("\t192.0.2.1, 192.0.2.2\n"), "{text}");
        assert!(
            text.contains("\t192.0.2.8\n") && !text.contains("192.0.2.9"),
            "{text}"
        );
        assert!(text.contains("# watch_hosts4: 1 more"), "{text}");
        assert!(text.contains("add table ip filter\n"), "{text}");
    }

    #[test]
    fn only_sets_that_are_there_are_named() {
        let there = usual()
            .into_iter()
            .filter(|(name, _)| name.to_string() == "deny_nets4")
            .collect();
        let sets = sets(&[(Action::Deny, &["192.0.2.1", "192.0.2.4/31"])]);
        let text = elements((TableFamily::Inet, "x"), &sets, &there, false, 3);
        assert!(
            text.contains("\t192.0.2.4/31\n") && !text.contains("hosts"),
            "{text}"
        );
    }
}
