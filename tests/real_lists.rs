//! Real lists load whole: excerpts that are part of the repository, and the lists themselves where
//! they lie beside it.

use std::path::Path;

use feedgate::feed::{FindingKind, Known, Limits, Parsed, judge, lint, parse_plain};

const LAB: &[u8] = include_bytes!("fixtures/lab-excerpt.txt");
const IPSUM: &[u8] = include_bytes!("fixtures/ipsum-excerpt.txt");

fn entries(parsed: &Parsed) -> Vec<String> {
    let entries = parsed.entries.iter();
    entries.map(|entry| entry.prefix.to_string()).collect()
}

#[test]
fn the_lab_excerpt() {
    let parsed = parse_plain(LAB, &Limits::default());
    assert_eq!((parsed.entries.len(), parsed.lines()), (197, 197));
    let shown = entries(&parsed);
    for entry in [
        "10.48.255.194",
        "193.176.211.0/24",
        "2606:4700:30::6812:3594",
    ] {
        assert!(shown.iter().any(|e| e == entry), "{entry}");
    }
    let v6 = parsed.entries.iter().filter(|e| e.prefix.addr().is_ipv6());
    assert_eq!(v6.count(), 3);
}

/// What lint knows to be good in a list, by owner.
fn known_good(parsed: &Parsed) -> Vec<(String, usize)> {
    lint(parsed, &[], &Known::embedded())
        .into_iter()
        .filter(|finding| finding.kind == FindingKind::KnownGood)
        .map(|finding| (finding.who.unwrap_or_default(), finding.count))
        .collect()
}

#[test]
fn lint_finds_what_is_good_in_the_lab_excerpt() {
    let parsed = parse_plain(LAB, &Limits::default());
    assert_eq!(known_good(&parsed), [("Cloudflare".to_owned(), 4)]);
    let findings = lint(&parsed, &[], &Known::embedded());
    let private = findings.iter().find(|f| f.kind == FindingKind::Private);
    assert_eq!(
        private.map(|f| f.examples.as_slice()),
        Some(&["10.48.255.194".to_owned()][..])
    );
}

#[test]
fn the_ipsum_excerpt() {
    let parsed = parse_plain(IPSUM, &Limits::default());
    assert_eq!((parsed.entries.len(), parsed.lines()), (193, 193));
    assert_eq!(entries(&parsed)[0], "77.90.185.20");
}

#[test]
fn the_whole_lists_where_they_are_at_hand() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    for (name, count) in [("lab/feed.txt", 5_161), ("data/ipsum.txt", 120_430)] {
        let places = [&beside, Path::new("/work/shared")];
        let text = places
            .iter()
            .find_map(|at| std::fs::read(at.join(name)).ok());
        let Some(text) = text else {
            eprintln!("skipped: {name} is not on this machine");
            continue;
        };
        let limits = Limits::default();
        let parsed = judge(parse_plain(&text, &limits), &text, &limits, None).unwrap();
        assert_eq!(
            (parsed.entries.len(), parsed.lines()),
            (count, count),
            "{name}"
        );
        assert_eq!(parsed.host_bits, 0, "{name}");
        if name == "lab/feed.txt" {
            // Counted by hand with another tool. The resolvers are those that malware asks.
            let expect = [
                ("Alternate DNS", 1),
                ("Apple", 4),
                ("Cloudflare", 13),
                ("Fastly", 1),
                ("Imperva", 1),
                ("Microsoft 365", 1),
                ("OpenNIC", 8),
            ];
            let expect = expect.map(|(who, count)| (who.to_owned(), count));
            assert_eq!(known_good(&parsed), expect);
            let text: String = lint(&parsed, &[], &Known::embedded())
                .iter()
                .map(ToString::to_string)
                .collect();
            for address in [
                "198.101.242.72",
                "91.217.137.37",
                "107.154.160.132",
                "172.67.217.95",
            ] {
                assert!(text.contains(address), "{address}: {text}");
            }
        }
    }
}
