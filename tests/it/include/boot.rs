//! `sets.nft`: protection from boot on, before there is a daemon.

use super::{DENIED, WATCHED, feeds, include, shipped_with, stop_and_read};
use crate::support::{
    Conf, Daemon, Lab, Pace, Stream, connect, dropped, load, load_with, nft, ping, web,
};

/// The sets that the file fills, with their elements.
fn filled(file: &str) -> impl Iterator<Item = (&str, &str)> {
    let parts = file.split("add element inet feedgate ").skip(1);
    parts.map(|part| part.split_once(' ').unwrap())
}

#[test]
fn sets_nft_holds_what_the_kernel_held_less_exceptions() {
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab).feed(
        "block",
        "deny",
        &["203.0.113.1", "198.51.100.0/24", "192.0.2.2", "192.0.2.1"],
    );
    let file = stop_and_read(&lab, Daemon::start(&lab, &lab.host, &conf));
    assert!(
        file.contains("203.0.113.1") && file.contains("198.51.100.0/24"),
        "{file}"
    );
    assert!(!file.contains("192.0.2.2"), "the own address: {file}");
    // The gateway passes with an alert: it is asked about, and in no set that denies.
    let holding: Vec<&str> = filled(&file)
        .filter(|(_, elements)| elements.contains("192.0.2.1"))
        .map(|(set, _)| set)
        .collect();
    assert_eq!(holding, ["watch_hosts4"], "{file}");
    nft(&lab.host, &["flush", "ruleset"]);
    load_with(
        &lab.host,
        &["-c"],
        &shipped_with(&lab.path("state/sets*.nft")),
    )
    .unwrap();
    load(&lab.host, &shipped_with(&lab.path("state/sets*.nft")));
    let _web = web(&lab.server);
    assert!(dropped(&lab.host, DENIED), "at boot, without a daemon");
    connect(&lab.host, WATCHED).unwrap();
    assert!(ping(&lab.host, "192.0.2.1"), "the gateway");
    // A daemon that finds no data leaves the file alone.
    let empty = Conf::new(&lab).feed_from("none", "deny", "file:///nonexistent/x");
    let second = Daemon::start(&lab, &lab.host, &empty);
    assert!(
        dropped(&lab.host, DENIED),
        "the table from boot stays in force"
    );
    assert_eq!(stop_and_read(&lab, second), file);
}

#[test]
fn no_packet_gets_out_from_boot_through_the_takeover() {
    let Some(lab) = Lab::new() else { return };
    for conf in [feeds(Conf::new(&lab)), feeds(include(&lab, &[]))] {
        let _ = Daemon::start(&lab, &lab.host, &feeds(Conf::new(&lab))).stop();
        nft(&lab.host, &["flush", "ruleset"]);
        let mut open = Stream::start(&lab, &["203.0.113.1"], 9999, Pace::Steady);
        open.wait_for_arrivals(10); // without any table
        open.end();

        load(&lab.host, &shipped_with(&lab.path("state/sets*.nft")));
        let denied = Stream::start(&lab, &["203.0.113.1"], 9998, Pace::Steady);
        let mut beside = Stream::start(&lab, &["203.0.113.200"], 9997, Pace::Steady);
        let daemon = Daemon::start(&lab, &lab.host, &conf);
        denied.wait_for_more(300);
        // And through a reload of the boot ruleset while the daemon runs, and its end. A daemon that
        // owns its table does not let others replace it.
        if let Err(refused) = load_with(&lab.host, &[], &shipped_with(&lab.path("state/sets*.nft")))
        {
            assert!(refused.contains("Operation not permitted"), "{refused}");
        }
        denied.wait_for_more(300);
        daemon.stop();
        beside.wait_for_arrivals(100); // an unlisted address goes on
        let (sent, arrived) = denied.end();
        assert_eq!(arrived, 0, "of {sent}");
    }
}
