//! The architecture holds: pure modules know no operating system, edges do not know each other.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in test functions only

use std::{
    fs,
    path::{Path, PathBuf},
};

/// No operating system in these, nor an edge.
const PURE: [&str; 14] = [
    "import", "netlink", "prefix", "feed", "arm", "snapshot", "ruleset", "packet", "policy",
    "alert", "flowlog", "config", "manifest", "visible",
];

/// These talk to the operating system, each to its own part.
const EDGES: [&str; 12] = [
    "logging",
    "alertdb",
    "conntrack",
    "fetch",
    "nft",
    "queue",
    "attribution",
    "sink",
    "host",
    "control",
    "metrics",
    "resources",
];

/// `crate::EDGE::` that a pure module may name nevertheless: values, not I/O.
const VALUES: [&str; 1] = ["crate::attribution::"];

/// Paths that reach the operating system.
const SYSTEM: [&str; 23] = [
    "std::fs",
    "std::os",
    "std::process",
    "std::env",
    "std::thread",
    "std::io::stdin",
    "std::net::Tcp",
    "std::net::Udp",
    "tokio",
    "libc",
    "nix::",
    "mnl",
    "nftnl",
    "nfq",
    "reqwest",
    "hyper",
    "SystemTime::now",
    "Instant::now",
    "crate::background",
    "crate::helper",
    "crate::lacks",
    "crate::netlink_socket",
    "crate::route",
];

#[test]
fn pure_modules_know_no_operating_system() {
    let mut found = Vec::new();
    for file in PURE.iter().flat_map(|module| sources(module)) {
        for path in paths(&file) {
            let edge = EDGES
                .iter()
                .any(|edge| path.starts_with(&format!("crate::{edge}")));
            let value = VALUES.iter().any(|value| path.starts_with(value));
            let system = SYSTEM.iter().any(|system| path.contains(system));
            if system || (edge && !value) {
                found.push(format!("{}: {path}", file.display()));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn edges_do_not_know_each_other() {
    let mut found = Vec::new();
    for module in EDGES {
        for file in sources(module) {
            for path in paths(&file) {
                let other = EDGES
                    .iter()
                    .find(|edge| **edge != module && path.starts_with(&format!("crate::{edge}")));
                let value = VALUES.iter().any(|value| path.starts_with(value));
                if other.is_some() && !value {
                    found.push(format!("{}: {path}", file.display()));
                }
            }
        }
    }
    assert!(
        found.is_empty(),
        "only the daemon wires edges together: {found:#?}"
    );
}

/// What another process may hold up: files below /proc/PID for which the kernel takes a lock of the process's
/// own, and calls that ask a name service.
const HELD_UP: [&str; 16] = [
    "cmdline",
    "environ",
    "maps",
    "smaps",
    "numa_maps",
    "pagemap",
    "mem",
    "auxv",
    "syscall",
    "stack",
    "io",
    "from_uid(",
    "from_name(",
    "from_gid(",
    "getgrouplist(",
    "to_socket_addrs(",
];

/// Reads of a whole file without a bound, and calls that follow a path to whatever file system it leads to. The
/// files of `daemon` are its own.
const UNBOUNDED: [&str; 4] = [
    "fs::read(",
    "fs::read_to_string(",
    "canonicalize(",
    "fs::metadata(",
];

/// Those that are there nevertheless, and why they may be.
const ALLOWED: [(&str, &str, &str); 8] = [
    (
        "attribution/cgroup_tree.rs",
        "canonicalize(",
        "at the start",
    ),
    ("attribution/cgroup_tree.rs", "fs::metadata(", "of cgroup2"),
    ("attribution/roots.rs", "fs::read(", "at the start"),
    ("daemon/unroot.rs", "from_name(", "at the start"),
    ("host/journal.rs", "canonicalize(", "of a socket's path"),
    ("host/journal.rs", "fs::metadata(", "journald's own files"),
    ("host/journal.rs", "fs::read_to_string(", "the same"),
    (
        "host/modes.rs",
        "fs::metadata(",
        "at the start, and for check",
    ),
];

#[test]
fn what_another_process_may_hold_up_is_read_by_helpers() {
    let mut found = std::collections::BTreeSet::new();
    for (module, bounded) in [("attribution", true), ("host", true), ("daemon", false)] {
        let unbounded = UNBOUNDED.iter().filter(|_| bounded);
        let forbidden: Vec<&str> = HELD_UP.iter().chain(unbounded).copied().collect();
        for file in sources(module) {
            let code = code(&file);
            let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
            let name = file.strip_prefix(src).unwrap().to_str().unwrap().to_owned();
            let there = |what: &&&str| {
                let named = [format!("\"{what}\""), format!("/{what}\"")];
                named.iter().any(|form| code.contains(form))
                    || (what.ends_with('(') && code.contains(**what))
            };
            let there = forbidden.iter().filter(there);
            found.extend(there.map(|what| (name.clone(), *what)));
        }
    }
    let allowed = ALLOWED.map(|(file, what, _)| (file.to_owned(), what));
    assert_eq!(
        found,
        allowed.into(),
        "read it through crate::helper::reads, or say here why it cannot be held up"
    );
}

#[test]
fn every_stage_is_there() {
    for module in PURE.iter().chain(&EDGES) {
        assert!(!sources(module).is_empty(), "src/{module}");
    }
}

/// The Rust files of a module, or of its folder.
fn sources(module: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![root.join(format!("{module}.rs"))];
    let mut folders = vec![root.join(module)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.retain(|file| file.is_file() && is_product_code(file));
    files
}

/// A Rust file that is not for tests alone (`tests.rs`, `tests/...`, `..._tests.rs`).
fn is_product_code(file: &Path) -> bool {
    let test = |name: &std::ffi::OsStr| {
        let name = name.to_string_lossy();
        name == "tests" || name.ends_with("tests.rs")
    };
    let src = file.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap();
    file.extension().is_some_and(|ext| ext == "rs") && !src.iter().any(test)
}

/// What a file holds before its tests, without comments.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let code = text.split("#[cfg(test)]").next().unwrap();
    let lines = code.lines();
    lines
        .map(|line| line.split("//").next().unwrap().to_owned() + "\n")
        .collect()
}

/// The paths a file names in code before its tests: imports unfolded, and paths in expressions.
fn paths(file: &Path) -> Vec<String> {
    let code = code(file);
    let mut paths = Vec::new();
    for statement in code.split(';').filter_map(|text| text.split_once("use ")) {
        unfold("", statement.1, &mut paths);
    }
    let word = |char: char| !(char.is_alphanumeric() || char == '_' || char == ':');
    paths.extend(
        code.split(word)
            .filter(|text| text.contains("::"))
            .map(str::to_owned),
    );
    paths
}

/// `a::{b, c::{d, e}}` into `a::b`, `a::c::d`, `a::c::e`.
fn unfold(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else {
        let leaf = tree.split(" as ").next().unwrap();
        paths.push(format!("{prefix}{leaf}"));
        return;
    };
    let prefix = format!("{prefix}{}", head.trim());
    let rest = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let (mut depth, mut start) = (0_usize, 0);
    for (at, char) in rest.char_indices() {
        match char {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                unfold(&prefix, &rest[start..at], paths);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !rest[start..].trim().is_empty() {
        unfold(&prefix, &rest[start..], paths);
    }
}

#[test]
fn the_scan_finds_what_is_there() {
    let all: Vec<_> = sources("fetch")
        .iter()
        .flat_map(|file| paths(file))
        .collect();
    for wanted in ["reqwest", "tokio", "crate::feed"] {
        assert!(
            all.iter().any(|path| path.starts_with(wanted)),
            "{wanted} in {all:?}"
        );
    }
}

#[test]
fn imports_unfold() {
    let mut paths = Vec::new();
    unfold(
        "",
        "std::{collections::BTreeMap, net::{IpAddr, TcpStream as Tcp}, fs}",
        &mut paths,
    );
    assert_eq!(
        paths,
        [
            "std::collections::BTreeMap",
            "std::net::IpAddr",
            "std::net::TcpStream",
            "std::fs"
        ]
    );
}
