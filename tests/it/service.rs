//! What the daemon tells its service manager, and the table of a boot before it runs.

use std::{fs, process::Output, time::Duration};

use crate::support::{
    Conf, Daemon, Halted, Lab, dropped, eventually, feedgate, nft, ping, reached, web,
};
use feedgate::demo::Netns;

/// The watchdog's time, in microseconds as systemd says it.
const WATCHDOG: (&str, &str) = ("WATCHDOG_USEC", "2000000");

#[test]
fn a_queue_thread_that_hangs_silences_the_watchdog() {
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab)
        .section("[attribution]\ntimeout = \"50ms\"")
        .feed("f", "alert", &["203.0.113.1"]);
    let daemon = Daemon::start_with(&lab, &lab.host, &conf, &[WATCHDOG]);
    let told = || {
        let all = daemon.notifications();
        all.iter().any(|state| state == "WATCHDOG=1").then_some(())
    };
    for _ in 0..2 {
        eventually("a sign of life", told);
    }
    let thread = Halted::of(daemon.pid(), "queue-4470");
    eventually("the daemon sees that it hangs", || {
        let output = daemon.output();
        output
            .contains("the watchdog gets no sign of life because of queue 4470")
            .then_some(())
    });
    // The rest of the daemon is as lively as ever, and that is not enough.
    daemon.ok(&["refresh", "f"]);
    while !daemon.notifications().is_empty() {}
    let since = std::time::Instant::now();
    while since.elapsed() < Duration::from_secs(2) {
        assert_eq!(told(), None, "nobody may call that alive");
    }
    drop(thread);
    eventually("a sign of life again", told);
    assert_eq!(daemon.output().matches("has not answered for").count(), 1);
}

#[test]
fn a_reload_says_when_it_begins_and_when_it_is_in_force() {
    let Some(lab) = Lab::new() else { return };
    let conf = |list: &[&str]| Conf::new(&lab).feed("f", "deny", list);
    let daemon = Daemon::start(&lab, &lab.host, &conf(&["203.0.113.1"]));
    let other = conf(&["203.0.113.1"]).feed("g", "deny", &["203.0.113.2"]);
    for (text, elements) in [(other.text().as_str(), 2), ("nonsense", 2)] {
        daemon.reload(text);
        let begun = eventually("RELOADING=1", || {
            let told = daemon.notifications();
            told.contains(&"RELOADING=1".to_owned()).then_some(told)
        });
        // Type=notify-reload asks for the time, to tell this reload from an earlier one.
        let time = begun.iter().find_map(|l| l.strip_prefix("MONOTONIC_USEC="));
        assert!(time.unwrap().parse::<u64>().unwrap() > 0, "{begun:?}");
        let ended = eventually("READY=1", || {
            let told = daemon.notifications();
            told.contains(&"READY=1".to_owned()).then_some(told)
        });
        let status = format!("STATUS={elements} elements of 2 feeds in the kernel");
        assert!(ended.contains(&status), "{ended:?}");
    }
}

#[test]
fn a_boot_has_the_last_good_sets_before_the_daemon() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    // The gateway is an exception, for as long as the daemon sees a route: it passes with an alert, so that
    // it stands among what is watched.
    let list = ["203.0.113.1", "192.0.2.1"];
    let conf = Conf::new(&lab).feed("f", "deny", &list);
    let load = || load(&lab.host, &lab);
    fs::write(lab.path("feedgate.toml"), conf.text()).unwrap();
    assert!(said(&load()).contains("nothing to load: no good data"));
    assert!(nft(&lab.host, &["list", "ruleset"]).is_empty());

    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let beside = load();
    assert_eq!(beside.status.code(), Some(1), "{}", said(&beside));
    assert!(
        said(&beside).contains("another feedgate"),
        "{}",
        said(&beside)
    );
    daemon.stop();
    assert!(said(&load()).contains("is there already and stays as it is"));
    // As after a boot: no table, and neither addresses nor routes yet.
    nft(&lab.host, &["delete", "table", "inet", "feedgate"]);
    fs::remove_file(lab.path("f.txt")).unwrap();
    lab.host
        .ip(&["addr flush dev eth0", "route flush default"])
        .unwrap();
    let loaded = load();
    assert!(
        said(&loaded).contains("2 elements, from the last good data of 1 feeds"),
        "{}",
        said(&loaded)
    );
    let table = nft(&lab.host, &["list", "table", "inet", "feedgate"]);
    assert_eq!(sets_with(&table, "203.0.113.1"), ["deny_hosts4"], "{table}");
    assert_eq!(sets_with(&table, "192.0.2.1"), ["watch_hosts4"], "{table}");
    assert!(!table.contains("bypass"), "nobody would answer: {table}");

    lab.host
        .ip(&[
            "addr add 192.0.2.2/24 dev eth0",
            "route add default via 192.0.2.1",
        ])
        .unwrap();
    assert!(dropped(&lab.host, "203.0.113.1:80"));
    assert!(reached(&lab.host, "203.0.113.2:80").is_some());
    assert!(ping(&lab.host, "192.0.2.1"), "the gateway");
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert!(dropped(&lab.host, "203.0.113.1:80"));
    let status = daemon.status();
    assert!(daemon.ok(&["status"]).contains("PROTECTED"), "{status}");
    daemon.ok(&["down"]);
    assert!(nft(&lab.host, &["list", "ruleset"]).is_empty());
}

#[test]
fn a_boot_knows_policies_network_sets_and_what_was_kept() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let conf = Conf::new(&lab)
        .section("[arm]\nafter = \"24h\"")
        .feed("trial", "deny", &["203.0.113.3"])
        .feed("kept", "alert", &["203.0.113.4"]);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let manifests = lab.path("m.yaml");
    fs::write(&manifests, DENIED_SET).unwrap();
    daemon.ok(&["apply", "-f", manifests.to_str().unwrap()]);
    daemon.ok(&["deny", "--confirm", "10m", "kept"]);
    daemon.ok(&["deny", "--keep", "kept"]);
    daemon.stop();
    nft(&lab.host, &["delete", "table", "inet", "feedgate"]);

    let loaded = load(&lab.host, &lab);
    assert!(loaded.status.success(), "{}", said(&loaded));
    for denied in ["203.0.113.1:80", "203.0.113.4:80"] {
        assert!(dropped(&lab.host, denied), "{denied}");
    }
    // On trial: it only alerts.
    assert!(reached(&lab.host, "203.0.113.3:80").is_some());
}

/// A network set written by hand, denied to everybody.
const DENIED_SET: &str = "\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata:
  name: bad
  labels: {kind: bad}
spec:
  nets: [203.0.113.1/32]
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata:
  name: default.no-bad
spec:
  selector: all()
  types: [Egress]
  egress:
  - action: Deny
    destination: {selector: kind == 'bad'}
  - action: Pass
";

#[test]
fn somebody_elses_table_is_left_alone_at_a_boot() {
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab).feed("f", "deny", &["203.0.113.1"]);
    Daemon::start(&lab, &lab.host, &conf).stop();
    nft(&lab.host, &["delete", "table", "inet", "feedgate"]);
    nft(&lab.host, &["add", "table", "inet", "feedgate"]);
    let refused = load(&lab.host, &lab);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(
        said(&refused).contains("is not feedgate's"),
        "{}",
        said(&refused)
    );
}

#[test]
fn no_thread_of_the_daemon_may_run_a_program() {
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab).feed("f", "alert", &["203.0.113.1"]);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap() {
        let Ok(status) = fs::read_to_string(task.unwrap().path().join("status")) else {
            continue; // one that has ended
        };
        for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
            assert!(status.contains(line), "{line} in {status}");
        }
        threads += 1;
    }
    assert!(threads > 3, "{threads}");
}

fn load(netns: &Netns, lab: &Lab) -> Output {
    let mut command = netns.command(feedgate());
    command.args(["nft", "load", "--config"]);
    command.arg(lab.path("feedgate.toml")).output().unwrap()
}

/// Names of the sets in a listing that hold this.
fn sets_with<'a>(listing: &'a str, element: &str) -> Vec<&'a str> {
    let sets = listing.split("\tset ").skip(1);
    let sets = sets.filter_map(|text| text.split("\n\t}").next()?.split_once(" {"));
    sets.filter(|(_, body)| body.contains(element))
        .map(|(name, _)| name)
        .collect()
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}
