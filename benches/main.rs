//! `make bench`: one run, one table; feedgate beside the kernel's floor and the tools people use.
//!
//! `cargo bench [-- feed|kernel|load|path|flows|others|store|alerts|fleet ...] [--check]`. The parent stays small and measures processes: each
//! figure comes from a helper (this program again) with memory, and where needed a network namespace,
//! of its own. `--check` fails when a target is missed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)] // a bench stops at the first surprise

mod alerts;
mod common;
mod feed;
mod fleet;
mod flows;
mod kernel;
mod load;
mod others;
mod path;
mod store;

use std::process::ExitCode;

use common::{machine, table};

/// A piece of the table: its name and what it measures.
type Piece = (&'static str, fn() -> Vec<table::Row>);

const PIECES: [Piece; 9] = [
    ("feed", feed::rows),
    ("kernel", kernel::rows),
    ("load", load::rows),
    ("path", path::rows),
    ("flows", flows::rows),
    ("others", others::rows),
    ("store", store::rows),
    ("alerts", alerts::rows),
    ("fleet", fleet::rows),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == "helper") {
        helper(&words[1..]);
        return ExitCode::SUCCESS;
    }
    // cargo adds --bench.
    let named: Vec<&String> = words.iter().filter(|w| !w.starts_with("--")).collect();
    let header = machine::header();
    let mut rows = Vec::new();
    for (name, measure) in PIECES {
        if named.is_empty() || named.iter().any(|word| *word == name) {
            eprintln!("measuring: {name}");
            rows.extend(measure());
        }
    }
    let missed = table::print(&header, &rows);
    ExitCode::from(u8::from(missed > 0 && words.iter().any(|w| w == "--check")))
}

fn helper(words: &[String]) {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["write-prefixes", path] => feed::write_prefixes(path),
        ["merge", path] => feed::merge(path),
        ["build", path] => feed::build_snapshot(path),
        ["lookup"] => feed::lookup(),
        ["write-nft", folder] => kernel::write_nft(folder),
        ["load", which, case] => kernel::load(which, case),
        ["connects"] => load::time_connects(),
        ["heal", case, _] => load::flush_and_heal(case),
        ["memory"] => kernel::memory(),
        ["nft", file, then] => kernel::nft(file, then),
        ["packets"] => path::packets(),
        ["flows"] => flows::time_flows(),
        ["opensnitch"] => flows::time_opensnitch(),
        ["durable"] => flows::time_durable(),
        ["flood"] => flows::time_flood(),
        ["others", how, rate] => others::time_others(how, rate),
        ["flood-others", how, rate] => others::flood(how, rate),
        ["store"] => store::time_store(),
        ["fleet", case] => fleet::time_fleet(case),
        ["alerts"] => alerts::time_alerts(),
        ["daemon-memory"] => flows::daemon_memory(),
        _ => panic!("no such helper: {words:?}"),
    }
}
