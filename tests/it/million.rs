//! A feed of a million prefixes.

use std::{fmt::Write as _, fs, time::Instant};

use crate::support::{Conf, Daemon, Lab};

/// `count` different prefixes that look random and are the same in each run.
pub(crate) fn prefixes(count: u32) -> String {
    let mut text = String::with_capacity(20 << 20);
    for n in 0..count {
        // An odd factor walks through all 2^24 values before one comes again; they are the /24s and
        // hosts of 1.0.0.0 to 100.0.0.0 and of 128.0.0.0 to 191.0.0.0 without special space.
        let mixed = n.wrapping_mul(0x9E37_79B1) >> 8;
        let [_, a, b, c] = mixed.to_be_bytes();
        let first = if a < 128 { 1 + a % 9 } else { 128 + a % 32 };
        let last = u8::try_from(n % 251).unwrap();
        if n % 4 == 0 {
            writeln!(text, "{first}.{b}.{c}.0/{}", 24 + n % 8).unwrap();
        } else {
            writeln!(text, "{first}.{b}.{c}.{last}").unwrap();
        }
    }
    text
}

#[test]
fn a_million_prefixes_load_and_answer() {
    let Some(lab) = Lab::new() else { return };
    let file = lab.path("million.txt");
    fs::write(&file, prefixes(1_000_000)).unwrap();
    let conf = Conf::new(&lab)
        .feed_from("million", "deny", &format!("file://{}", file.display()))
        .feed("small", "alert", &["203.0.113.1"]);
    let start = Instant::now();
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    // Ready comes after ten seconds at most, loaded or not.
    let row = crate::support::eventually("it is loaded", || {
        let row = daemon.row("million");
        (row["entries"] == 1_000_000).then_some(row)
    });
    println!("loaded in {:?}: {} ranges", start.elapsed(), row["merged"]);
    assert!(daemon.ok(&["status"]).starts_with("PROTECTED"));
    let listed = fs::read_to_string(&file).unwrap();
    let line = listed.lines().nth(123_457).unwrap();
    let shown = daemon.ok(&["lookup", line.split('/').next().unwrap()]);
    assert!(shown.contains("denied"), "{shown}");
    assert!(daemon.ok(&["lookup", "203.0.113.2"]).contains("left alone"));
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let peak = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    println!("{peak}");
    let kib: u64 = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib < 400 << 10, "{peak}");
}
