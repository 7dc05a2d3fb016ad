//! Flows from listed addresses to this host (the input hook).

use crate::support::{Conf, Daemon, Lab, curl, curl_times_out, ping_from, ping_from_lost, web};

/// Addresses of the server that are listed, and the host's web server as they reach it.
const LISTED: [(&str, &str); 2] = [
    ("203.0.113.1", "http://192.0.2.2/"),
    ("2001:db8:bad::1", "http://[2001:db8:1::2]/"),
];

#[test]
fn a_watched_address_comes_in_and_is_reported() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.host);
    let conf = Conf::new(&lab).feed("watch", "alert", &LISTED.map(|(from, _)| from));
    let (alerts, _daemon) = Daemon::alerting(&lab, &lab.host, conf);

    for (from, to) in LISTED {
        let output = curl(&lab.server, &["--interface", from, to]);
        assert_eq!(output.stdout, b"hello\n");
        alerts.wait(&[("src", from)]).assert(&[
            ("action", "alert"),
            ("direction", "ingress"),
            ("proto", "tcp"),
            ("dpt", "80"),
            ("iface", "eth0"),
        ]);
    }
}

#[test]
fn a_denied_address_does_not_come_in() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.host);
    let conf = Conf::new(&lab).feed("block", "deny", &LISTED.map(|(from, _)| from));
    let (alerts, _daemon) = Daemon::alerting(&lab, &lab.host, conf);

    for (from, to) in LISTED {
        assert!(curl_times_out(&lab.server, &["--interface", from, to]));
        alerts
            .wait(&[("src", from)])
            .assert(&[("action", "deny"), ("direction", "ingress")]);
    }
    let other = curl(
        &lab.server,
        &["--interface", "203.0.113.200", "http://192.0.2.2/"],
    );
    assert_eq!(other.stdout, b"hello\n", "an address in no feed");
}

#[test]
fn a_denied_address_cannot_ping_this_host() {
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab).feed("block", "deny", &["203.0.113.1"]);
    let (alerts, _daemon) = Daemon::alerting(&lab, &lab.host, conf);

    assert!(ping_from_lost(&lab.server, "203.0.113.1", "192.0.2.2"));
    assert!(ping_from(&lab.server, "203.0.113.200", "192.0.2.2"));
    alerts
        .wait(&[("src", "203.0.113.1")])
        .assert(&[("direction", "ingress")]);
}

#[test]
fn a_feed_of_one_direction_leaves_the_other_alone() {
    let Some(lab) = Lab::new() else { return };
    let (_web, _web_too) = (web(&lab.host), web(&lab.server));
    let conf = Conf::new(&lab)
        .feed("out", "deny", &["203.0.113.1"])
        .key("directions = [\"egress\"]")
        .feed("in", "deny", &["203.0.113.2"])
        .key("directions = [\"ingress\"]");
    let _daemon = Daemon::start(&lab, &lab.host, &conf);

    let from = |address| ["--interface", address, "http://192.0.2.2/"];
    assert!(curl(&lab.server, &from("203.0.113.1")).status.success());
    assert!(curl_times_out(&lab.server, &from("203.0.113.2")));
    assert!(curl_times_out(&lab.host, &["http://203.0.113.1/"]));
    assert!(curl(&lab.host, &["http://203.0.113.2/"]).status.success());
}
