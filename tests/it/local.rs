//! Flows of local processes (the output hook): who is named, what passes, what is dropped.

use std::time::{Duration, Instant};

use crate::support::{
    Conf, Daemon, Lab, connect, curl, curl_times_out, dropped, echo, exchange, ping, ping_lost,
    unanswered, web,
};

/// A SYN that waits for its verdict for so long is sent again, and asked about again.
const RETRY: Duration = Duration::from_secs(1);

#[test]
fn a_watched_address_is_reached_and_the_process_is_named() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let conf = Conf::new(&lab).feed("watch", "alert", &["203.0.113.0/30"]);
    let (alerts, _daemon) = Daemon::alerting(&lab, &lab.host, conf);

    let output = curl(&lab.host, &["http://203.0.113.1/"]);
    assert_eq!(output.stdout, b"hello\n");
    let alert = alerts.wait(&[("dst", "203.0.113.1")]);
    alert.assert(&[
        ("action", "alert"),
        ("direction", "egress"),
        ("attribution", "exact"),
        ("method", "sock-diag"),
        ("feed", "watch"),
        ("indicator", "203.0.113.0/30"),
        ("proto", "tcp"),
        ("src", "192.0.2.2"),
        ("dpt", "80"),
        ("iface", "eth0"),
        ("comm", "curl"),
        ("uid", "0"),
        ("ppid", &std::process::id().to_string()),
    ]);
    assert!(alert.get("exe").ends_with("/curl"), "{}", alert.line);
    assert!(!alert.get("id").is_empty());
}

#[test]
fn the_process_named_is_the_one_that_holds_the_socket() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let conf = Conf::new(&lab).feed("watch", "alert", &["203.0.113.1"]);
    let (alerts, _daemon) = Daemon::alerting(&lab, &lab.host, conf);

    let stream = connect(&lab.host, "203.0.113.1:80").unwrap();
    let port = stream.local_addr().unwrap().port().to_string();
    let exe = std::env::current_exe().unwrap();
    alerts.wait(&[("spt", &port)]).assert(&[
        ("pid", &std::process::id().to_string()),
        ("exe", exe.to_str().unwrap()),
        ("attribution", "exact"),
    ]);
}

#[test]
fn the_user_is_the_socket_owners() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let conf = Conf::new(&lab).feed("watch", "alert", &["203.0.113.1"]);
    let (alerts, _daemon) = Daemon::alerting(&lab, &lab.host, conf);

    let status = lab
        .host
        .command("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .args([
            "curl",
            "-s",
            "-m",
            "20",
            "-o",
            "/dev/null",
            "http://203.0.113.1/",
        ])
        .status()
        .unwrap();
    assert!(status.success());
    alerts.wait(&[("dst", "203.0.113.1")]).assert(&[
        ("uid", "65534"),
        ("user", "nobody"),
        ("comm", "curl"),
    ]);
}

#[test]
fn a_denied_address_is_dropped_and_the_process_is_named() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let conf = Conf::new(&lab).feed("block", "deny", &["203.0.113.1"]);
    let (alerts, _daemon) = Daemon::alerting(&lab, &lab.host, conf);

    assert!(curl_times_out(&lab.host, &["http://203.0.113.1/"]));
    alerts.wait(&[("dst", "203.0.113.1")]).assert(&[
        ("action", "deny"),
        ("direction", "egress"),
        ("attribution", "exact"),
        ("comm", "curl"),
        ("indicator", "203.0.113.1"),
    ]);
    connect(&lab.host, "203.0.113.200:80").expect("an address in no feed");
}

#[test]
fn ipv6_is_watched_and_denied_as_ipv4_is() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let conf = Conf::new(&lab)
        .feed("watch", "alert", &["2001:db8:bad::1"])
        .feed("block", "deny", &["2001:db8:bad::2/127"]);
    let (alerts, _daemon) = Daemon::alerting(&lab, &lab.host, conf);

    connect(&lab.host, "[2001:db8:bad::1]:80").unwrap();
    assert!(dropped(&lab.host, "[2001:db8:bad::3]:80"));
    connect(&lab.host, "[2001:db8:bad::4]:80").expect("an address in no feed");
    let pid = std::process::id().to_string();
    for (address, action) in [("2001:db8:bad::1", "alert"), ("2001:db8:bad::3", "deny")] {
        alerts.wait(&[("dst", address)]).assert(&[
            ("action", action),
            ("attribution", "exact"),
            ("pid", &pid),
        ]);
    }
}

#[test]
fn udp_is_watched_and_denied() {
    let Some(lab) = Lab::new() else { return };
    let _echoes = ["203.0.113.1:53", "203.0.113.2:53", "[2001:db8:bad::1]:53"]
        .map(|address| echo(&lab.server, address));
    let conf = Conf::new(&lab)
        .feed("watch", "alert", &["203.0.113.1", "2001:db8:bad::1"])
        .feed("block", "deny", &["203.0.113.2"]);
    let (alerts, _daemon) = Daemon::alerting(&lab, &lab.host, conf);

    exchange(&lab.host, "203.0.113.1:53").unwrap();
    exchange(&lab.host, "[2001:db8:bad::1]:53").unwrap();
    assert!(unanswered(&lab.host, "203.0.113.2:53"));
    let pid = std::process::id().to_string();
    for (address, action) in [
        ("203.0.113.1", "alert"),
        ("2001:db8:bad::1", "alert"),
        ("203.0.113.2", "deny"),
    ] {
        alerts.wait(&[("dst", address)]).assert(&[
            ("action", action),
            ("proto", "udp"),
            ("dpt", "53"),
            ("pid", &pid),
        ]);
    }
}

#[test]
fn icmp_is_watched_and_denied() {
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab)
        .feed("watch", "alert", &["203.0.113.1", "2001:db8:bad::1"])
        .feed("block", "deny", &["203.0.113.2", "2001:db8:bad::2"]);
    let (alerts, _daemon) = Daemon::alerting(&lab, &lab.host, conf);

    assert!(ping(&lab.host, "203.0.113.1"));
    assert!(ping(&lab.host, "2001:db8:bad::1"));
    assert!(ping_lost(&lab.host, "203.0.113.2"));
    assert!(ping_lost(&lab.host, "2001:db8:bad::2"));
    for (address, action) in [
        ("203.0.113.1", "alert"),
        ("2001:db8:bad::1", "alert"),
        ("203.0.113.2", "deny"),
        ("2001:db8:bad::2", "deny"),
    ] {
        let alert = alerts.wait(&[("dst", address)]);
        alert.assert(&[("action", action), ("direction", "egress")]);
        assert!(alert.get("proto").contains("icmp"), "{}", alert.line);
        assert_ne!(alert.get("attribution"), "", "{}", alert.line);
    }
}

#[test]
fn an_established_flow_is_one_alert() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let conf = Conf::new(&lab).feed("watch", "alert", &["203.0.113.1"]);
    let (alerts, _daemon) = Daemon::alerting(&lab, &lab.host, conf);

    let start = Instant::now();
    curl(&lab.host, &["http://203.0.113.1/"]);
    curl(&lab.host, &["http://203.0.113.1/"]);
    connect(&lab.host, "203.0.113.1:80").unwrap();
    let retried = start.elapsed() >= RETRY;
    alerts.wait(&[("pid", &std::process::id().to_string())]);
    // The search of live flows, once more a second after the start, may find them too.
    let mut ports: Vec<_> = alerts
        .all()
        .iter()
        .filter(|alert| alert.get("method") != "live-flow")
        .map(|alert| alert.get("spt").to_owned())
        .collect();
    if retried {
        ports.sort();
        ports.dedup();
    }
    assert_eq!(ports.len(), 3, "{:#?}", alerts.all());
}

#[test]
fn the_labs_private_address_is_watched() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let feed = ["198.51.100.77", "10.48.255.194"];
    let conf = Conf::new(&lab).feed("training.ip.threatfeed", "alert", &feed);
    let (alerts, _daemon) = Daemon::alerting(&lab, &lab.host, conf);

    connect(&lab.host, "10.48.255.194:80").unwrap();
    alerts
        .wait(&[("dst", "10.48.255.194")])
        .assert(&[("feed", "training.ip.threatfeed"), ("action", "alert")]);
}

#[test]
fn deny_with_reject_answers_at_once() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let conf = Conf::new(&lab).nftables("deny-with = \"reject\"").feed(
        "block",
        "deny",
        &["203.0.113.1", "2001:db8:bad::1"],
    );
    let (alerts, _daemon) = Daemon::alerting(&lab, &lab.host, conf);

    for address in ["203.0.113.1:80", "[2001:db8:bad::1]:80"] {
        let error = connect(&lab.host, address).unwrap_err();
        assert_eq!(
            error.kind(),
            std::io::ErrorKind::ConnectionRefused,
            "{address}"
        );
    }
    alerts.wait(&[("dst", "203.0.113.1"), ("action", "deny")]);
}
