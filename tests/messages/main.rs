//! Every error and warning of the code has an entry in docs/troubleshooting.md, and every entry a message.
//!
//! A text of the code counts as a message unless its place says that it is none. The places left out are listed in
//! `places.rs`: a new message is missed only there, or where an entry fits it by chance.
//! What comes from libraries (clap, toml, TLS, the system) is not held.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // clippy.toml allows them in test functions only

mod code;
mod places;

use std::{collections::BTreeMap, fs, path::Path};

use code::{Text, letters, texts};
use places::Place;

/// Letters that an entry and a message must have for sure: `not UTF-8` has six.
const ENOUGH: usize = 6;

/// One entry may explain so many messages.
const MOST: usize = 15;

/// Texts that only carry another one, which has an entry, or end a list.
const CARRIERS: [&str; 12] = [
    "…: cannot …: …; …",
    "feedgate: …",
    "warning: …",
    "Warning: …",
    "reload: …",
    "anchor: …",
    "alert store …: ……",
    "expected …",
    "and … more",
    "(and … more)",
    "the end",
    "the request",
];

#[test]
fn every_message_is_explained() {
    let entries = entries();
    let (messages, wrappers) = messages();
    let missing: Vec<String> = messages
        .iter()
        .filter(|message| {
            !entries
                .iter()
                .any(|entry| explains(entry, &message.template))
        })
        .map(|message| {
            let place = message.place.join("/");
            format!(
                "src/{}:{} {place}: {}",
                message.file, message.line, message.template
            )
        })
        .collect();
    assert!(
        missing.is_empty(),
        "docs/troubleshooting.md has no entry for {} of {}:\n{}",
        missing.len(),
        messages.len(),
        missing.join("\n")
    );
    // Fewer mean that the search misses some. Texts such as `{path}: {source}` only carry another message.
    assert!(messages.len() > 850, "{} messages", messages.len());
    let wraps: Vec<&str> = wrappers.iter().map(|text| text.template.as_str()).collect();
    assert!(wraps.len() < 125, "{} only wrap: {wraps:?}", wraps.len());
}

#[test]
fn every_message_explained_is_one_of_the_code() {
    let ours = texts().iter().map(|text| text.template.clone());
    let said: Vec<String> = ours.chain(echoes()).collect();
    let entries = entries();
    let is_said = |entry: &&String| said.iter().any(|text| fits(entry, text));
    let stale: Vec<&String> = entries.iter().filter(|entry| !is_said(entry)).collect();
    assert!(stale.is_empty(), "no text of the code is like: {stale:#?}");
    assert!(entries.len() > 800, "{} entries", entries.len());
}

#[test]
fn the_contents_name_every_section_and_rows_stand_in_tables() {
    let page = document("docs/troubleshooting.md");
    let contents: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("- ["))
        .collect();
    let headings: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .collect();
    assert_eq!(contents.len(), headings.len());
    for (content, heading) in contents.iter().zip(headings) {
        let anchor = heading
            .to_lowercase()
            .replace(' ', "-")
            .replace(['`', ','], "");
        let link = format!("{heading}](#{anchor})");
        assert!(content.starts_with(&link), "{content} is not {link}");
    }
    for (before, row) in page.lines().zip(page.lines().skip(1)) {
        assert!(
            !row.starts_with("| `") || before.starts_with("| "),
            "no table around {row}"
        );
    }
}

#[test]
fn no_entry_explains_everything() {
    let (messages, _) = messages();
    let mut seen = BTreeMap::new();
    for entry in entries() {
        assert!(letters(&entry) >= ENOUGH, "{entry} says too little");
        let of = |message: &&&Text| fits(&entry, &message.template);
        let count = messages.iter().filter(of).count();
        assert!(count <= MOST, "{entry} is for {count} messages");
        let twice = seen.insert(entry.clone(), ());
        assert!(twice.is_none(), "{entry} is there twice");
    }
}

#[test]
fn what_the_scripts_of_the_packages_say_is_explained() {
    let entries = entries();
    let said = echoes();
    for text in &said {
        assert!(entries.iter().any(|entry| fits(entry, text)), "{text}");
    }
    assert!(said.len() >= 5, "{said:?}");
}

#[test]
fn what_is_left_out_is_there() {
    let texts = texts();
    let mut idle = Vec::new();
    for (file, place, why) in places::ANSWERS {
        let one = texts
            .iter()
            .any(|text| places::place(text) == Place::Unknown && places::is_at(text, file, place));
        if !one {
            idle.push(format!("src/{file} {place} ({why})"));
        }
    }
    assert!(idle.is_empty(), "nothing to leave out there: {idle:#?}");
}

#[test]
fn an_entry_fits_by_its_fixed_parts_in_their_order() {
    assert!(fits("queue … is taken: …", "queue … is taken: set another"));
    assert!(!fits("queue … is taken: …", "is taken: queue …"));
    assert!(!fits("no such feed", "no feed"));
    let long = "the url … is not what it was; say so, and ask those who know it what they mean";
    assert!(fits("the url …", long) && !explains("the url …", long));
    assert!(fits("missing", "missing") && !fits("missing", "its name is missing"));
}

#[test]
fn the_search_finds_texts_with_their_places() {
    let texts = texts();
    let place = |file: &str, start: &str| {
        let mut found = texts.iter().filter(|text| text.file == file);
        let text = found
            .find(|text| text.text.starts_with(start))
            .expect(start);
        text.place.last().unwrap().clone()
    };
    assert_eq!(place("queue/mod.rs", "queue {queue} is taken"), "#error");
    assert_eq!(place("daemon/confine.rs", "the daemon may still"), "warn!");
    assert_eq!(place("config/address.rs", "not a proxy"), "Problem::new");
    let tests = texts.iter().find(|text| text.text.starts_with("skipped: "));
    assert!(tests.is_none(), "{}", tests.unwrap().file);
}

/// Texts that a user may see when something is wrong, and of those the ones that only wrap another.
fn messages() -> (Vec<&'static Text>, Vec<&'static Text>) {
    let messages = texts().iter().filter(|text| places::is_message(text));
    messages.partition(|message| {
        letters(&message.template) >= ENOUGH && !CARRIERS.contains(&message.template.as_str())
    })
}

/// The messages in the first column of the tables; a row may have several.
fn entries() -> Vec<String> {
    let page = document("docs/troubleshooting.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.map(|row| row.split(" | ").next().unwrap());
    cells
        .flat_map(|cell| cell.split('`').step_by(2))
        .map(str::to_owned)
        .collect()
}

/// Whether a text is like an entry, and the entry is a good part of it: a few words in a long text may be chance.
fn explains(entry: &str, text: &str) -> bool {
    fits(entry, text) && letters(entry) * 8 >= letters(text)
}

/// Whether a text has the fixed parts of an entry, in their order. An entry of one word must be the whole text.
fn fits(entry: &str, text: &str) -> bool {
    if !entry.contains([' ', '…']) {
        return entry == text;
    }
    let mut rest = text;
    entry.split('…').map(str::trim).all(|part| {
        let found = rest.split_once(part);
        rest = found.map_or(rest, |(_, after)| after);
        found.is_some()
    })
}

/// What the scripts of the packages print.
fn echoes() -> Vec<String> {
    [
        "debian/postinst",
        "debian/prerm",
        "debian/postrm",
        "Cargo.toml",
    ]
    .iter()
    .flat_map(|file| {
        let script = document(file);
        let said = script.split("echo \"").skip(1);
        said.map(|rest| rest.split('"').next().unwrap().trim().to_owned())
            .collect::<Vec<_>>()
    })
    .collect()
}

fn document(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}
