//! Flows routed through this host (the forward hook): the client of the LAN is named.

use crate::support::{
    Conf, Daemon, HOST_MAC, Lab, connect, curl, curl_times_out, dropped, echo, ping_lost,
    unanswered, web,
};

#[test]
fn a_lan_client_is_named_by_interface_and_mac() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let conf = Conf::new(&lab).feed("watch", "alert", &["203.0.113.1", "2001:db8:bad::1"]);
    let (alerts, _daemon) = Daemon::alerting(&lab, &lab.gateway, conf);

    for (url, src, dst) in [
        ("203.0.113.1:80", "192.0.2.2", "203.0.113.1"),
        ("[2001:db8:bad::1]:80", "2001:db8:1::2", "2001:db8:bad::1"),
    ] {
        connect(&lab.host, url).unwrap();
        let alert = alerts.wait(&[("dst", dst)]);
        alert.assert(&[
            ("action", "alert"),
            ("direction", "egress"),
            ("src", src),
            ("iface", "lan0"),
            ("mac", HOST_MAC),
            ("pid", ""),
        ]);
    }
}

#[test]
fn a_denied_address_is_not_reached_through_the_gateway() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let _echo = echo(&lab.server, "203.0.113.3:53");
    let feed = ["203.0.113.1", "203.0.113.3", "2001:db8:bad::1"];
    let conf = Conf::new(&lab).feed("block", "deny", &feed);
    let (alerts, _daemon) = Daemon::alerting(&lab, &lab.gateway, conf);

    assert!(dropped(&lab.host, "203.0.113.1:80"));
    assert!(dropped(&lab.host, "[2001:db8:bad::1]:80"));
    assert!(ping_lost(&lab.host, "203.0.113.1"));
    assert!(unanswered(&lab.host, "203.0.113.3:53"));
    connect(&lab.host, "203.0.113.200:80").expect("an address in no feed");
    connect(&lab.host, "[2001:db8:bad::200]:80").expect("an address in no feed");
    for address in feed {
        alerts
            .wait(&[("dst", address)])
            .assert(&[("action", "deny"), ("mac", HOST_MAC)]);
    }
}

#[test]
fn a_denied_address_does_not_reach_the_lan() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.host);
    let conf = Conf::new(&lab).feed("block", "deny", &["203.0.113.1"]);
    let (alerts, _daemon) = Daemon::alerting(&lab, &lab.gateway, conf);

    let denied = ["--interface", "203.0.113.1", "http://192.0.2.2/"];
    assert!(curl_times_out(&lab.server, &denied));
    let other = ["--interface", "203.0.113.200", "http://192.0.2.2/"];
    assert!(curl(&lab.server, &other).status.success());
    alerts.wait(&[("src", "203.0.113.1")]).assert(&[
        ("action", "deny"),
        ("direction", "ingress"),
        ("dst", "192.0.2.2"),
        ("iface", "wan0"),
    ]);
}

#[test]
fn a_denied_source_is_denied_behind_a_watched_destination_without_the_daemon() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let conf = Conf::new(&lab)
        .feed("watch", "alert", &["203.0.113.1"])
        .feed("block", "deny", &["192.0.2.2"]);
    let daemon = Daemon::start(&lab, &lab.gateway, &conf);
    assert!(dropped(&lab.host, "203.0.113.1:80"));
    daemon.kill();
    assert!(dropped(&lab.host, "203.0.113.1:80"));
}
