//! Exceptions that the daemon found are never denied, and alert once a day for each address and feed.

use crate::support::{Alerts, Conf, Daemon, Lab, counter, eventually, nft, ping};

const GATEWAY: &str = "192.0.2.1";
const WHY: &str = "default gateway on eth0";

fn of_gateway(alerts: &Alerts) -> usize {
    let all = alerts.all();
    all.iter()
        .filter(|alert| alert.get("indicator") == GATEWAY)
        .count()
}

/// Flows that passed without an alert.
fn silent(daemon: &Daemon<'_>) -> u64 {
    daemon.status()["packets"]["excepted"].as_u64().unwrap()
}

#[test]
fn a_listed_gateway_passes_and_is_alerted_once() {
    let Some(lab) = Lab::new() else { return };
    let alerts = Alerts::listen(&lab);
    let conf = Conf::new(&lab)
        .feed("list", "deny", &[GATEWAY, "203.0.113.1"])
        .alerts(&alerts);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert!(ping(&lab.host, GATEWAY));
    let alert = alerts.wait(&[("exception", WHY)]);
    alert.assert(&[
        ("action", "alert"),
        ("direction", "egress"),
        ("feed", "list"),
        ("dst", GATEWAY),
        ("comm", "ping"),
    ]);
    let before = silent(&daemon);
    assert!(ping(&lab.host, GATEWAY) && ping(&lab.host, GATEWAY));
    assert!(
        silent(&daemon) >= before + 2,
        "they were queued, and nothing was said"
    );
    assert_eq!(of_gateway(&alerts), 1);
    assert_eq!(counter(&lab.host, "denied"), 0);
    // It is stored after it is sent.
    let shown = eventually("the alert is stored", || {
        let output = daemon.ctl(&["alerts", "show", alert.get("id")]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then_some(text)
    });
    assert!(
        shown.contains("deny: exception default gateway on eth0"),
        "{shown}"
    );
    assert!(shown.contains("feedgate.exception"), "{shown}");
    // Another feed is news.
    let conf = conf.feed("more", "deny", &["192.0.2.1/32"]);
    daemon.reload(&conf.text());
    alerts_of_more(&lab, &alerts);
    // What was alerted is kept.
    let count = of_gateway(&alerts);
    eventually("it is kept", || {
        let kept = std::fs::read_to_string(lab.path("state/alerted")).unwrap_or_default();
        (kept.contains("192.0.2.1 list ") && kept.contains("192.0.2.1 more ")).then_some(())
    });
    daemon.stop();
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert!(ping(&lab.host, GATEWAY));
    assert!(silent(&daemon) > 0);
    assert_eq!(of_gateway(&alerts), count);
}

#[track_caller]
fn alerts_of_more(lab: &Lab, alerts: &Alerts) {
    eventually("the second feed is told", || {
        assert!(ping(&lab.host, GATEWAY));
        let all = alerts.all();
        all.iter()
            .any(|alert| alert.get("feed") == "list,more" && alert.get("exception") == WHY)
            .then_some(())
    });
}

#[test]
fn with_the_daemon_dead_it_passes_too() {
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab).feed("list", "deny", &[GATEWAY, "2001:db8:1::1"]);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    daemon.freeze();
    let _killed = daemon.killed();
    assert!(ping(&lab.host, GATEWAY));
    assert!(ping(&lab.host, "2001:db8:1::1"));
}

#[test]
fn alert_found_false_is_silent() {
    let Some(lab) = Lab::new() else { return };
    let alerts = Alerts::listen(&lab);
    let conf = Conf::new(&lab)
        .feed("list", "deny", &[GATEWAY, "203.0.113.1"])
        .section("[exceptions]\nalert-found = false")
        .alerts(&alerts);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert!(ping(&lab.host, GATEWAY));
    let table = nft(&lab.host, &["list", "table", "inet", "feedgate"]);
    assert!(!table.contains(GATEWAY), "{table}");
    let lookup = daemon.ok(&["lookup", GATEWAY]);
    assert!(lookup.contains("left alone"), "{lookup}");
    assert_eq!((silent(&daemon), of_gateway(&alerts)), (0, 0));
}

/// No packet can tell of an own address: a look does.
#[test]
fn a_listed_own_address_is_told_and_asked_about_by_no_packet() {
    let Some(lab) = Lab::new() else { return };
    let alerts = Alerts::listen(&lab);
    let conf = Conf::new(&lab)
        .feed("list", "deny", &["192.0.2.2", "203.0.113.1"])
        .alerts(&alerts);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    alerts.wait(&[("exception", "own address on eth0"), ("method", "look")]);
    assert!(ping(&lab.host, "192.0.2.2") && ping(&lab.gateway, "192.0.2.2"));
    assert_eq!(counter(&lab.host, "queued"), 0);
    let said = daemon.output();
    assert!(
        said.contains("own address on eth0: 192.0.2.2 is listed by list"),
        "{said}"
    );
}
