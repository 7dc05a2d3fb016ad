//! SIGKILL while repeats and scans wait in memory: the next daemon tells them, or their number.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, UdpSocket},
};

use crate::support::{Alert, Alerts, Conf, Daemon, Lab, counter, eventually};

/// Datagrams to these hosts of 203.0.113.0/24, each a flow of its own, by one process.
fn send(lab: &Lab, hosts: std::ops::RangeInclusive<u8>, ports: std::ops::Range<u16>) -> UdpSocket {
    let work = || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for port in ports {
            for host in hosts.clone() {
                let to: IpAddr = Ipv4Addr::new(203, 0, 113, host).into();
                // A drop on output is an error for the sender.
                let _ = socket.send_to(b"x", (to, port));
            }
        }
        socket
    };
    lab.host.enter(work).unwrap()
}

fn conf(lab: &Lab, alerts: &Alerts) -> Conf {
    Conf::new(lab)
        .alerts(alerts)
        .alerting("suppress = \"1h\"")
        .feed("block", "deny", &["203.0.113.0/25"])
}

/// The same with an indicator for each host, so that many of them are a scan.
fn scan_conf(lab: &Lab, alerts: &Alerts) -> Conf {
    let hosts: Vec<String> = (1..=100).map(|n| format!("203.0.113.{n}")).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    Conf::new(lab)
        .alerts(alerts)
        .alerting("suppress = \"1h\"")
        .feed("block", "deny", &hosts)
}

/// Every packet has its verdict, and the kernel has counted it.
fn judged(lab: &Lab, count: u64) {
    eventually("every packet is judged", || {
        (counter(&lab.host, "denied") == count).then_some(())
    });
}

/// What is kept on disk, with what is in lines and numbers, stands for all flows; gives its part. (How many
/// have a line of their own differs: a child that this process forks holds the socket for a moment, and
/// is a source of its own.)
fn kept(lab: &Lab, alerts: &Alerts, sent: u64) -> u64 {
    eventually("what waits is kept", || {
        let text = fs::read_to_string(lab.path("state/waiting")).ok()?;
        let counts = text.split("\\\"count\\\":").skip(1);
        let counts = counts.filter_map(|rest| rest.split([',', '}']).next()?.parse::<u64>().ok());
        let waiting: u64 = counts.sum();
        let (flows, missing) = told(alerts);
        (waiting + flows + missing == sent).then_some(waiting)
    })
}

/// Flows of all lines: the last line of an id stands for it. And those that are told as missing.
fn told(alerts: &Alerts) -> (u64, u64) {
    let (mut by_id, mut missing) = (BTreeMap::new(), 0);
    for alert in alerts.all() {
        let count = count(&alert);
        match alert.get("id") {
            "" => {
                let cause = alert.get("cause");
                assert!(cause.contains("lost when the daemon was killed"), "{cause}");
                missing += count;
            }
            id => {
                by_id.insert(id.to_owned(), count);
            }
        }
    }
    (by_id.into_values().sum(), missing)
}

fn count(alert: &Alert) -> u64 {
    alert.get("count").parse().unwrap()
}

fn summaries(alerts: &Alerts) -> Vec<Alert> {
    let all = alerts.all().into_iter();
    all.filter(|alert| !alert.get("first").is_empty()).collect()
}

fn verified(daemon: &Daemon<'_>) {
    let said = daemon.ok(&["alerts", "verify"]);
    assert!(said.starts_with("good: "), "{said}");
}

#[test]
fn a_scan_that_waited_is_told_by_the_next_daemon() {
    let Some(lab) = Lab::new() else { return };
    let alerts = Alerts::listen(&lab);
    let conf = scan_conf(&lab, &alerts);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let _open = send(&lab, 1..=100, 9..10);
    judged(&lab, 100);
    let waiting = kept(&lab, &alerts, 100);
    daemon.kill();
    assert_eq!(told(&alerts), (100 - waiting, 0));
    assert!(
        waiting >= 40,
        "the first twenty of up to three sources: {waiting}"
    );

    let daemon = Daemon::start(&lab, &lab.host, &conf);
    eventually("the scan is told", || {
        (told(&alerts) == (100, 0)).then_some(())
    });
    let summaries = summaries(&alerts);
    let scan = summaries
        .iter()
        .max_by_key(|summary| count(summary))
        .unwrap();
    // Of flows that waited too long to be looked up on a busy machine the user is known, not the process.
    let (pid, own) = (scan.get("pid"), std::process::id().to_string());
    assert!(pid == own || scan.get("method") == "nfqa-uid", "{scan:?}");
    scan.assert(&[("action", "deny"), ("uid", "0")]);
    assert!(scan.line.contains(", scan of "), "{}", scan.line);
    let id = scan.get("id").to_owned();
    assert!(daemon.output().contains("the last daemon was killed"));
    eventually("it is stored", || {
        let list = daemon.ok(&["alerts", "list", "--json", "--limit", "0"]);
        list.contains(&id).then_some(())
    });
    verified(&daemon);
    // Killed again before anything new came: nothing is told twice.
    daemon.kill();
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    daemon.stop();
    assert_eq!(told(&alerts), (100, 0));
    assert_eq!(self::summaries(&alerts).len(), summaries.len());
    assert!(!lab.path("state/waiting").exists(), "everything was told");
}

#[test]
fn repeats_that_waited_are_told_also_without_a_store() {
    let Some(lab) = Lab::new() else { return };
    let alerts = Alerts::listen(&lab);
    let conf = conf(&lab, &alerts).alerting("store = \"\"");
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let _open = send(&lab, 1..=1, 1..101);
    judged(&lab, 100);
    let waiting = kept(&lab, &alerts, 100);
    daemon.kill();
    assert_eq!(told(&alerts), (100 - waiting, 0));
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    daemon.stop();
    assert_eq!(told(&alerts), (100, 0));
    let summaries = summaries(&alerts);
    assert_eq!(summaries.iter().map(count).sum::<u64>(), waiting);
    summaries[0].assert(&[("indicator", "203.0.113.0/25"), ("dst", "203.0.113.1")]);
}

/// Each line is in the store, which is up to a tenth of a second later.
fn stored(daemon: &Daemon<'_>, alerts: &Alerts) {
    eventually("every alert is stored", || {
        let list = daemon.ok(&["alerts", "list", "--json", "--limit", "0"]);
        let lines = alerts.all();
        let mut ids = lines.iter().map(|alert| alert.get("id"));
        ids.all(|id| list.contains(id)).then_some(())
    });
}

/// Law: what the kernel denied by verdict is in a line, or in the number of the missing.
#[test]
fn what_came_in_the_last_second_is_told_as_a_number() {
    let Some(lab) = Lab::new() else { return };
    let alerts = Alerts::listen(&lab);
    let conf = conf(&lab, &alerts);
    let mut sent = 0;
    let mut open = Vec::new();
    for round in 0..4u16 {
        let daemon = Daemon::start(&lab, &lab.host, &conf);
        let first = 1_000 * (round + 1);
        open.push(send(&lab, 1..=1, first..first + 50));
        sent += 50;
        judged(&lab, sent);
        if round % 2 == 1 {
            kept(&lab, &alerts, sent);
            // And some more just before the kill.
            open.push(send(&lab, 1..=1, first + 50..first + 80));
            sent += 30;
            judged(&lab, sent);
        }
        stored(&daemon, &alerts);
        daemon.kill();
        let daemon = Daemon::start(&lab, &lab.host, &conf);
        let sums = eventually("all flows are in a line or a number", || {
            let (flows, missing) = told(&alerts);
            (flows + missing >= sent).then_some((flows, missing))
        });
        eprintln!("round {round}: {sums:?} of {sent}");
        assert_eq!(sums.0 + sums.1, sent, "{sums:?}");
        verified(&daemon);
        daemon.stop();
        assert_eq!(told(&alerts), sums, "a clean end adds nothing");
    }
}
