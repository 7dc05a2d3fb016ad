//! Client commands while a large load holds the daemon's state.

use std::{
    fs,
    time::{Duration, Instant},
};

use feedgate::demo;
use serde_json::Value;

use crate::{
    million::prefixes,
    support::{Conf, Daemon, Lab, PATIENCE, eventually, feedgate, within},
};

/// Enough for a load that takes a while. No more: while any daemon of any test listens to nf_tables, the
/// kernel needs 8 KiB for each element of a transaction, and tests run side by side.
const MANY: u32 = 250_000;

fn status(daemon: &Daemon<'_>) -> Value {
    serde_json::from_str(&daemon.ok(&["status", "--json"])).unwrap()
}

/// One status answered in the middle of a load, and one more in the same load after `nft print` and
/// `feeds`: nobody has waited for its end.
#[test]
fn status_and_print_do_not_wait_for_a_load() {
    let Some(lab) = Lab::new() else { return };
    let file = lab.path("many.txt");
    fs::write(&file, prefixes(MANY)).unwrap();
    let small = Conf::new(&lab).feed("small", "deny", &["203.0.113.1"]);
    let large = Conf::new(&lab)
        .feed("small", "deny", &["203.0.113.1"])
        .feed_from("million", "deny", &format!("file://{}", file.display()));
    let daemon = Daemon::start(&lab, &lab.host, &small);
    let before = status(&daemon);
    assert!(before.get("loading_ms").is_none(), "{before}");
    daemon.reload(&large.text());

    let start = Instant::now();
    let (mut calls, mut slowest) = (0, Duration::ZERO);
    let mut ask = || {
        let call = Instant::now();
        let answer = status(&daemon);
        calls += 1;
        slowest = slowest.max(call.elapsed());
        answer
    };
    let mut seen = false;
    let loaded = loop {
        let during = ask();
        let row = |status: &Value, name: &str| {
            let rows = status["feeds"].as_array().unwrap();
            rows.iter().find(|row| row["name"] == name).cloned()
        };
        if row(&during, "million").is_some_and(|row| row["last_success"].is_string()) {
            break during;
        }
        if let Some(ms) = during["loading_ms"].as_u64()
            && row(&during, "million").is_some()
            && !seen
        {
            // As before: the kernel has not got it yet.
            assert_eq!(during["table"]["elements"], before["table"]["elements"]);
            assert_eq!(during["protected"], true, "{during}");
            assert_eq!(row(&during, "small").unwrap()["entries"], 1);
            let printed = daemon.ok(&["nft", "print", "--elements"]);
            assert!(printed.contains("203.0.113.1"), "{}", printed.len());
            assert!(daemon.ok(&["feeds"]).contains("small"));
            seen = ask()["loading_ms"].as_u64().is_some_and(|later| later > ms);
        }
        assert!(start.elapsed() < within(PATIENCE), "{during}");
        // The load is to get the processor.
        std::thread::sleep(Duration::from_millis(50));
    };
    println!(
        "{calls} times asked in {:?}, the slowest took {slowest:?}",
        start.elapsed()
    );
    assert!(seen, "no answer came during the load");
    assert_ne!(loaded["table"]["elements"], before["table"]["elements"]);
}

/// A daemon that starts with many last good data answers before they are in the kernel.
#[test]
fn a_start_with_many_data_is_answered_meanwhile() {
    let Some(lab) = Lab::new() else { return };
    let file = lab.path("many.txt");
    fs::write(&file, prefixes(MANY)).unwrap();
    let conf = Conf::new(&lab).feed_from("many", "deny", &format!("file://{}", file.display()));
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    eventually("they are in the kernel and on disk", || {
        let loaded = daemon.row("many")["last_success"].is_string();
        (loaded && lab.path("state/feeds/many.last").exists()).then_some(())
    });
    daemon.stop();

    let config = lab.path("feedgate.toml");
    let mut second = demo::Daemon::spawn(feedgate(), &lab.host, &lab.dir, &config).unwrap();
    let during = eventually("a status comes in the middle of the load", || {
        let output = second.ctl(&lab.host, &["status", "--json"]).unwrap();
        let status: Value = serde_json::from_slice(&output.stdout).ok()?;
        status["loading_ms"].is_u64().then_some(status)
    });
    // The table of the run before is in force.
    assert_eq!(during["table"]["state"], "present", "{during}");
    second.ready(within(PATIENCE), || true).unwrap();
}
