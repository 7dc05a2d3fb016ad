//! Entries that are more than an address: ports, scores, ranges, and several feeds together.

use serde_json::Value;

use crate::support::{Conf, Daemon, Lab, connect, dropped, nft, web};

/// A second web server of the lab, on port 443.
fn https_port(lab: &Lab) -> feedgate::demo::Server {
    let bind = || std::net::TcpListener::bind("[::]:443");
    let listener = lab.server.enter(bind).unwrap().unwrap();
    feedgate::demo::Server::start(listener, |_| feedgate::demo::Response::text("s\n")).unwrap()
}

#[test]
fn an_entry_with_a_port_is_denied_at_that_port_only() {
    let Some(lab) = Lab::new() else { return };
    let (_web, _https) = (web(&lab.server), https_port(&lab));
    let feed = ["203.0.113.5:443", "[2001:db8:bad::5]:443", "203.0.113.6"];
    let conf = Conf::new(&lab).feed("c2", "deny", &feed);
    let (alerts, daemon) = Daemon::alerting(&lab, &lab.host, conf);

    assert!(dropped(&lab.host, "203.0.113.5:443"));
    assert!(dropped(&lab.host, "[2001:db8:bad::5]:443"));
    connect(&lab.host, "203.0.113.5:80").expect("another port");
    connect(&lab.host, "[2001:db8:bad::5]:80").expect("another port");
    assert!(dropped(&lab.host, "203.0.113.6:80"), "any port");
    for indicator in ["203.0.113.5:443", "[2001:db8:bad::5]:443"] {
        let wanted = [("indicator", indicator), ("action", "deny"), ("feed", "c2")];
        alerts
            .wait(&wanted)
            .assert(&[("dpt", "443"), ("proto", "tcp")]);
    }
    let wrong = alerts
        .all()
        .into_iter()
        .find(|alert| alert.get("dpt") == "80" && alert.get("dst") != "203.0.113.6");
    assert!(wrong.is_none(), "{wrong:?}");
    let set = nft(
        &lab.host,
        &["list", "set", "inet", "feedgate", "deny_ports4"],
    );
    assert!(set.contains("203.0.113.5 . tcp . 443"), "{set}");
    let shown = daemon.ok(&["lookup", "203.0.113.5"]);
    for line in [
        "egress: flows to 203.0.113.5 are left alone\n",
        "egress: flows to 203.0.113.5 port 443 are denied: 203.0.113.5:443 in c2",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }

    // The kernel does it alone too.
    daemon.kill();
    assert!(dropped(&lab.host, "203.0.113.5:443"));
    assert!(dropped(&lab.host, "[2001:db8:bad::5]:443"));
    connect(&lab.host, "203.0.113.5:80").expect("another port");
}

#[test]
fn a_network_with_a_port_that_is_too_wide_for_its_set_is_told() {
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab).feed("c2", "deny", &["198.18.0.0/15:443", "203.0.113.5:443"]);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let shown = daemon.ok(&["feeds"]);
    assert!(
        shown.contains("not enforced: 1 network with a port"),
        "{shown}"
    );
    let status = daemon.ok(&["status"]);
    assert!(
        status.contains("1 network with a port too wide to be enforced"),
        "{status}"
    );
}

#[test]
fn a_feed_is_split_by_its_scores() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let feed = [
        "203.0.113.1\t9",
        "203.0.113.2\t8",
        "203.0.113.3\t7",
        "203.0.113.4\t2",
        "203.0.113.5\t3",
    ];
    let conf = Conf::new(&lab)
        .feed("ipsum", "alert", &feed)
        .key("min-score = 3\ndeny-score = 8");
    let (alerts, daemon) = Daemon::alerting(&lab, &lab.host, conf);
    assert!(dropped(&lab.host, "203.0.113.1:80"));
    assert!(dropped(&lab.host, "203.0.113.2:80"));
    for last in [3, 4, 5] {
        connect(&lab.host, &format!("203.0.113.{last}:80")).unwrap();
    }
    for (dst, action) in [
        ("203.0.113.2", "deny"),
        ("203.0.113.3", "alert"),
        ("203.0.113.5", "alert"),
    ] {
        alerts.wait(&[("dst", dst), ("action", action), ("feed", "ipsum")]);
    }
    assert!(
        alerts
            .all()
            .iter()
            .all(|alert| alert.get("dst") != "203.0.113.4")
    );
    let shown = daemon.ok(&["feeds"]);
    assert!(shown.contains("deny from score 8, alert below"), "{shown}");
    assert!(
        shown.contains("left out on purpose: 1 below score"),
        "{shown}"
    );
}

#[test]
fn a_consensus_counts_each_origin_once() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let conf = Conf::new(&lab)
        .section("[consensus]\ndeny-at = 2")
        .feed("drop", "deny", &["203.0.113.0/30", "203.0.113.7"])
        .key("origin = \"spamhaus\"")
        .feed("firehol", "deny", &["203.0.113.1"])
        .key("origin = \"spamhaus\"")
        .feed("dshield", "deny", &["203.0.113.2", "2001:db8:bad::2"])
        .feed("watch", "alert", &["203.0.113.7"]);
    let (alerts, daemon) = Daemon::alerting(&lab, &lab.host, conf);
    connect(&lab.host, "203.0.113.1:80").expect("two feeds of one origin");
    connect(&lab.host, "[2001:db8:bad::2]:80").expect("one feed");
    assert!(dropped(&lab.host, "203.0.113.2:80"), "two origins");
    assert!(alerts.wait(&[("dst", "203.0.113.1")]).get("action") == "alert");
    alerts
        .wait(&[("dst", "203.0.113.2")])
        .assert(&[("action", "deny"), ("feed", "drop,dshield")]);
    let lookup: Value =
        serde_json::from_str(&daemon.ok(&["lookup", "203.0.113.2", "--json"])).unwrap();
    assert_eq!(lookup["egress"]["action"], "deny", "{lookup}");
    daemon.kill();
    assert!(dropped(&lab.host, "203.0.113.2:80"));
    connect(&lab.host, "203.0.113.1:80").unwrap();
}

#[test]
fn a_range_is_named_as_its_feed_wrote_it() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let feed = ["203.0.113.3-203.0.113.6", "::ffff:203.0.113.8"];
    let conf = Conf::new(&lab).feed("p2p", "deny", &feed);
    let (alerts, daemon) = Daemon::alerting(&lab, &lab.host, conf);
    for last in [3, 6, 8] {
        assert!(
            dropped(&lab.host, &format!("203.0.113.{last}:80")),
            "{last}"
        );
    }
    for last in [2, 7] {
        connect(&lab.host, &format!("203.0.113.{last}:80")).unwrap();
    }
    alerts.wait(&[
        ("dst", "203.0.113.6"),
        ("indicator", "203.0.113.3-203.0.113.6"),
    ]);
    alerts.wait(&[("dst", "203.0.113.8"), ("indicator", "203.0.113.8")]);
    let shown = daemon.ok(&["lookup", "203.0.113.4"]);
    assert!(shown.contains("203.0.113.3-203.0.113.6"), "{shown}");
}

#[test]
fn feeds_say_what_they_share() {
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab)
        .feed(
            "a",
            "deny",
            &["203.0.113.0/28", "203.0.113.0/29", "203.0.113.16/29"],
        )
        .feed("b", "alert", &["203.0.113.8/29", "198.18.0.1"])
        .feed("c", "alert", &["198.18.0.2"]);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let row = daemon.row("a");
    assert_eq!(
        (&row["entries"], &row["merged"]),
        (&3.into(), &1.into()),
        "{row}"
    );
    assert_eq!(row["addresses"], "24");
    assert_eq!(row["overlaps"][0]["feed"], "b", "{row}");
    assert_eq!(row["overlaps"][0]["addresses"], "8");
    assert_eq!(daemon.row("b")["overlaps"][0]["feed"], "a");
    assert_eq!(daemon.row("c")["overlaps"].as_array().unwrap().len(), 0);
    let shown = daemon.ok(&["feeds"]);
    for part in [
        "3 entries, 1 prefix after merging, 24 addresses; ",
        "overlap: 8 addresses also in b",
        "last success 20",
        ", took ",
        ", next 20",
        "file:///",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}
