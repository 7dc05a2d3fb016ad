//! Text to merged prefixes, against iprange; and the index that packets are looked up in.

use std::{hint::black_box, net::IpAddr, path::Path, process::Command};

use feedgate::{
    feed::{Direction, Limits, Parsed, parse_plain},
    prefix::{Prefix, RangeSet},
    snapshot::build,
};

use crate::common::{
    data, median,
    process::{Used, helper, installed, run, thread_time, values},
    ratio,
    table::Row,
};

const ROUNDS: usize = 9;
const MILLION: usize = 1_000_000;

/// Wall times and the largest memory of a program over the rounds.
#[derive(Default)]
struct Runs {
    seconds: Vec<f64>,
    peak_mb: f64,
    output: String,
}

impl Runs {
    fn add(&mut self, used: Used) {
        self.seconds.push(used.wall.as_secs_f64());
        self.peak_mb = self.peak_mb.max(used.peak_mb);
        self.output = used.output;
    }

    fn text(&self, whose: &str) -> String {
        let ms = median(&self.seconds) * 1e3;
        format!("{ms:.0} ms, {:.0} MB{whose}", self.peak_mb)
    }
}

pub fn rows() -> Vec<Row> {
    let folder = tempfile::tempdir().unwrap();
    let random = folder.path().join("random.txt");
    run(helper("write-prefixes").arg(&random));
    let scored = folder.path().join("ipsum.txt");
    let bare = folder.path().join("ipsum-bare.txt");
    let (text, what) = data::ipsum();
    std::fs::write(&scored, &text).unwrap();
    std::fs::write(&bare, first_column(&text)).unwrap();
    drop(text);

    let mut rows = against_iprange("1M random prefixes", &random, &random);
    rows.extend(against_iprange(what, &scored, &scored));
    // iprange warns about every second column, which costs it more than the work.
    rows.truncate(rows.len() - 1);
    rows.extend(against_iprange(
        &format!("{what}, iprange: no scores"),
        &scored,
        &bare,
    ));
    rows.extend(lookups());
    rows
}

fn first_column(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let hosts = lines.filter_map(|line| line.split_whitespace().next());
    hosts.collect::<Vec<_>>().join("\n") + "\n"
}

fn against_iprange(what: &str, ours: &Path, theirs: &Path) -> Vec<Row> {
    let (mut merged, mut built, mut peer) = (Runs::default(), Runs::default(), Runs::default());
    let iprange = installed("iprange");
    for _ in 0..ROUNDS {
        merged.add(run(helper("merge").arg(ours)));
        if iprange {
            let mut command = Command::new("iprange");
            peer.add(run(command
                .arg("-C")
                .arg(theirs)
                .stderr(std::process::Stdio::null())));
        }
        built.add(run(helper("build").arg(ours)));
    }
    let (merge, snapshot) = (
        format!("parse + merge, {what}"),
        format!("parse + snapshot, {what}"),
    );
    let memory = Row::limit(
        &format!("peak memory of that, {what}"),
        built.peak_mb,
        "MB",
        String::new(),
        Some(150.0),
    );
    if !iprange {
        return vec![
            Row::skipped(&merge, "iprange not installed"),
            Row::skipped(&snapshot, "iprange not installed"),
            memory,
        ];
    }
    // iprange prints "lines,addresses": both must have understood the same.
    let addresses = peer.output.trim().rsplit(',').next().unwrap_or_default();
    let covered = values(&merged.output)["addresses"];
    assert_eq!(addresses.parse(), Ok(covered), "addresses of {what}");
    let row = |name: &str, runs: &Runs, target| {
        let compared = ratio(&runs.seconds, &peer.seconds);
        Row::ratio(name, runs.text(""), peer.text(" iprange"), compared, target)
    };
    vec![
        row(&merge, &merged, Some(1.0)),
        row(&snapshot, &built, None),
        memory,
    ]
}

fn lookups() -> Vec<Row> {
    let mut all: std::collections::BTreeMap<String, Vec<f64>> = Default::default();
    for _ in 0..3 {
        for (key, value) in values(&run(&mut helper("lookup")).output) {
            all.entry(key).or_default().push(value);
        }
    }
    ["miss", "hit"]
        .map(|key| {
            let name = format!("index lookup, 1M prefixes, {key}");
            let read = format!("{:.0} ns one random read of 16 MB", median(&all["read"]));
            Row::limit(&name, median(&all[key]), "ns", read, Some(100.0))
        })
        .into()
}

/// Helper: a file of 1M random prefixes, /24 to /32.
pub fn write_prefixes(path: &str) {
    std::fs::write(path, data::text(&data::prefixes(MILLION, 1, 24..=32))).unwrap();
}

/// Helper: what `iprange -C` does.
pub fn merge(path: &str) {
    let parsed = parse(path);
    let prefixes = || parsed.entries.iter().map(|entry| &entry.prefix);
    let v4 = RangeSet::<u32>::of(prefixes());
    let v6 = RangeSet::<u128>::of(prefixes());
    println!("ranges {}", v4.ranges().len() + v6.ranges().len());
    println!("addresses {}", v4.span() + v6.span());
}

/// Helper: what the daemon does with a feed: sets, index and report.
pub fn build_snapshot(path: &str) {
    let mut input = data::input(
        "bench",
        feedgate::feed::Action::Deny,
        feedgate::feed::Scope::Both,
        &[],
    );
    std::sync::Arc::get_mut(&mut input.data).unwrap().parsed = parse(path);
    let snapshot = build(&[input], &[], feedgate::snapshot::Options::default());
    println!("elements {}", snapshot.sets.elements());
}

fn parse(path: &str) -> Parsed {
    let text = std::fs::read(path).unwrap();
    let parsed = parse_plain(&text, &Limits::default());
    assert_eq!(parsed.bad.count, 0);
    parsed
}

/// Helper: nanoseconds a lookup over random addresses, listed and not.
pub fn lookup() {
    let prefixes = data::prefixes(MILLION, 1, 24..=32);
    let index = data::snapshot(&prefixes).index;
    let mut random = data::Random::new(2);
    let mut misses = Vec::with_capacity(MILLION);
    while misses.len() < MILLION {
        let addr = IpAddr::V4(random.public().into());
        if index.lookup(addr, None, Direction::Egress).is_none() {
            misses.push(addr);
        }
    }
    let hits: Vec<IpAddr> = (0..MILLION)
        .map(|_| {
            let at = random.below(u32::try_from(prefixes.len()).unwrap());
            inside(&prefixes[usize::try_from(at).unwrap()], &mut random)
        })
        .collect();
    for (name, addresses, found) in [("miss", &misses, 0), ("hit", &hits, MILLION)] {
        let times: Vec<f64> = (0..5)
            .map(|_| {
                let start = thread_time();
                let hits = addresses.iter().filter(|addr| {
                    black_box(index.lookup(**addr, None, Direction::Egress)).is_some()
                });
                assert_eq!(hits.count(), found);
                (thread_time() - start).as_secs_f64() * 1e9 / MILLION as f64
            })
            .collect();
        println!("{name} {}", median(&times));
    }
    println!("read {}", random_read());
}

/// Nanoseconds of a read that depends on the one before, over as much memory as a million nodes take.
fn random_read() -> f64 {
    let mut random = data::Random::new(3);
    let bound = 4 << 20;
    let mut next: Vec<u32> = (0..bound).collect();
    // One cycle through all (Sattolo).
    for i in (1..bound).rev() {
        next.swap(
            usize::try_from(i).unwrap(),
            usize::try_from(random.below(i)).unwrap(),
        );
    }
    let start = thread_time();
    let mut at = 0u32;
    for _ in 0..MILLION {
        at = next[usize::try_from(at).unwrap()];
    }
    black_box(at);
    (thread_time() - start).as_secs_f64() * 1e9 / MILLION as f64
}

fn inside(prefix: &Prefix, random: &mut data::Random) -> IpAddr {
    let (IpAddr::V4(first), IpAddr::V4(last)) = (prefix.addr(), prefix.last()) else {
        return prefix.addr();
    };
    let (first, last) = (u32::from(first), u32::from(last));
    IpAddr::V4((first + random.below(last - first + 1)).into())
}
