//! From a feed's text to the kernel's sets: bad feeds, changed feeds, feeds that overlap.

use std::{
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use feedgate::demo::Response;

use crate::support::{
    Conf, Daemon, FeedServer, Lab, Pace, Stream, connect, dropped, eventually, nft, web,
};

const HTML: &str =
    "<!DOCTYPE html>\n<html><body>\n<h1>503</h1>\n<p>Try later</p>\n</body></html>\n";

#[test]
fn garbage_lines_are_counted_and_the_good_ones_load() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    // 40 good lines, one bad: below max-bad.
    let mut lines: Vec<_> = (1..=39)
        .map(|n| format!("198.51.100.{}", n + 100))
        .collect();
    lines.push("203.0.113.1 # the one".into());
    lines.push("not-an-address".into());
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    let conf = Conf::new(&lab).feed("block", "deny", &lines);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert!(dropped(&lab.host, "203.0.113.1:80"));
    let status = daemon.ok(&["status", "--json"]);
    assert!(status.contains("not-an-address"), "{status}");
}

#[test]
fn a_bad_pull_keeps_the_last_good_data() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let feed = FeedServer::start(&lab.host, "203.0.113.1\n203.0.113.4/31\n");
    let conf = Conf::new(&lab).feed_over_http("block", "deny");
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let good = nft(&lab.host, &["list", "ruleset"]);
    assert!(good.contains("203.0.113.1"), "{good}");

    let html = Response {
        content_type: "text/html",
        ..Response::text(HTML)
    };
    let error = Response {
        status: 503,
        ..Response::text("203.0.113.9\n")
    };
    for (what, answer) in [
        ("an HTML page", html),
        ("HTML sold as text", Response::text(HTML)),
        ("an empty body", Response::text("")),
        ("only comments", Response::text("# nothing today\n")),
        ("only garbage", Response::text("foo\nbar\n999.1.1.1\n")),
        ("an error status", error),
    ] {
        feed.serve(answer);
        let refresh = daemon.ctl(&["refresh", "block"]);
        assert_eq!(refresh.status.code(), Some(1), "{what} is refused");
        assert_eq!(nft(&lab.host, &["list", "ruleset"]), good, "{what}");
    }
    assert!(dropped(&lab.host, "203.0.113.1:80"));
    assert!(daemon.ok(&["status", "--json"]).contains("block"));

    feed.serve(Response::text("203.0.113.6\n203.0.113.1\n"));
    daemon.ok(&["refresh", "block"]);
    assert!(
        dropped(&lab.host, "203.0.113.6:80"),
        "a good pull is taken again"
    );
}

#[test]
fn a_feed_that_never_came_does_not_hold_the_others_up() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let conf = Conf::new(&lab)
        .feed_from("missing", "deny", "http://127.0.0.1:1/feed.txt")
        .feed("block", "deny", &["203.0.113.1"]);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert!(dropped(&lab.host, "203.0.113.1:80"));
    connect(&lab.host, "203.0.113.200:80").unwrap();
    assert!(daemon.ok(&["status", "--json"]).contains("missing"));
}

#[test]
fn refresh_returns_when_the_change_is_in_the_kernel() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let feed = FeedServer::start(&lab.host, "203.0.113.1\n203.0.113.2\n");
    let conf = Conf::new(&lab).feed_over_http("block", "deny");
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    connect(&lab.host, "203.0.113.5:80").unwrap();

    feed.serve(Response::text("203.0.113.2\n203.0.113.5\n"));
    daemon.ok(&["refresh"]);
    let rules = nft(&lab.host, &["list", "ruleset"]);
    assert!(rules.contains("203.0.113.5"), "{rules}");
    assert!(dropped(&lab.host, "203.0.113.5:80"));
    assert!(dropped(&lab.host, "203.0.113.2:80"));
    connect(&lab.host, "203.0.113.1:80").expect("no longer listed");
}

#[test]
fn of_two_feeds_deny_wins_and_both_are_named() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let conf = Conf::new(&lab)
        .feed("wide", "alert", &["203.0.113.0/29", "2001:db8:bad::/64"])
        .feed("narrow", "deny", &["203.0.113.1", "2001:db8:bad::1"]);
    let (alerts, _daemon) = Daemon::alerting(&lab, &lab.host, conf);

    assert!(dropped(&lab.host, "203.0.113.1:80"));
    assert!(dropped(&lab.host, "[2001:db8:bad::1]:80"));
    connect(&lab.host, "203.0.113.2:80").unwrap();
    for (address, indicator) in [
        ("203.0.113.1", "203.0.113.1"),
        ("2001:db8:bad::1", "2001:db8:bad::1"),
    ] {
        alerts.wait(&[("dst", address)]).assert(&[
            ("action", "deny"),
            ("feed", "narrow,wide"),
            ("indicator", indicator),
        ]);
    }
    alerts
        .wait(&[("dst", "203.0.113.2")])
        .assert(&[("action", "alert"), ("feed", "wide")]);
}

#[test]
fn overlapping_and_adjacent_prefixes_load() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let feed = [
        "203.0.113.0/30",
        "203.0.113.2",
        "203.0.113.4/31",
        "203.0.113.0/29",
        "255.255.255.255",
    ];
    let conf = Conf::new(&lab).feed("block", "deny", &feed);
    let _daemon = Daemon::start(&lab, &lab.host, &conf);
    assert!(dropped(&lab.host, "203.0.113.2:80"));
    assert!(dropped(&lab.host, "203.0.113.7:80"));
    connect(&lab.host, "203.0.113.8:80").expect("the next address is not listed");
}

#[test]
fn exceptions_and_own_addresses_are_never_denied() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let feed = ["203.0.113.0/29", "192.0.2.0/24"];
    let conf = Conf::new(&lab)
        .feed("block", "deny", &feed)
        .section("[exceptions]\nprefixes = [\"203.0.113.3\"]");
    let _daemon = Daemon::start(&lab, &lab.host, &conf);
    assert!(dropped(&lab.host, "203.0.113.2:80"));
    connect(&lab.host, "203.0.113.3:80").expect("an exception");
    connect(&lab.host, "203.0.113.200:80").expect("the gateway 192.0.2.1 is not denied");
    assert!(crate::support::ping(&lab.host, "192.0.2.1"), "the gateway");
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_set_is_never_empty_while_feeds_change() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let feed = FeedServer::start(&lab.host, "203.0.113.1\n203.0.113.8/31\n198.51.100.0/24\n");
    let conf = Conf::new(&lab).feed_over_http("block", "deny");
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let (stop, tries) = (AtomicBool::new(false), AtomicU32::new(0));

    std::thread::scope(|scope| {
        let hammers = ["203.0.113.1:80", "203.0.113.9:80"].map(|address| {
            let (stop, tries, host) = (&stop, &tries, &lab.host);
            scope.spawn(move || {
                host.enter(|| {
                    let mut through = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let address = address.parse().unwrap();
                        let limit = Duration::from_millis(10);
                        through += u32::from(TcpStream::connect_timeout(&address, limit).is_ok());
                        tries.fetch_add(1, Ordering::Relaxed);
                    }
                    through
                })
                .unwrap()
            })
        });
        // A panic below must not leave them running: the scope waits for them.
        let _guard = StopOnDrop(&stop);
        // Each change also regroups the prefixes that contain the two addresses.
        let others = [
            "203.0.113.0/30",
            "203.0.113.2",
            "203.0.113.10",
            "203.0.113.0/28",
        ];
        for round in 0..20 {
            let other = others[round % others.len()];
            feed.serve(Response::text(format!(
                "203.0.113.1\n203.0.113.8/31\n198.51.100.0/24\n{other}\n"
            )));
            daemon.ok(&["refresh"]);
        }
        eventually("enough tries", || {
            (tries.load(Ordering::Relaxed) > 50).then_some(())
        });
        stop.store(true, Ordering::Relaxed);
        for hammer in hammers {
            assert_eq!(hammer.join().unwrap(), 0, "connections through");
        }
    });
}

/// New flows at full speed to addresses that stay denied while the elements that hold them change:
/// a host becomes part of a network and back, a network grows and shrinks.
#[test]
fn no_datagram_gets_out_while_addresses_move_between_elements() {
    let Some(lab) = Lab::new() else { return };
    let feed = FeedServer::start(&lab.host, "203.0.113.1\n203.0.113.8/31\n198.51.100.0/24\n");
    let conf = Conf::new(&lab)
        .feed_over_http("block", "deny")
        .key("max-shrink = \"100%\"");
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let stream = Stream::start(&lab, &["203.0.113.1", "203.0.113.9"], 9, Pace::Full);
    for round in 0..40 {
        let moved = [
            "203.0.113.0/30",
            "203.0.113.2",
            "203.0.113.0/28",
            "203.0.113.10",
        ];
        feed.serve(Response::text(format!(
            "203.0.113.1\n203.0.113.8/31\n198.51.100.0/24\n{}\n",
            moved[round % moved.len()]
        )));
        daemon.ok(&["refresh"]);
        stream.wait_for_more(30);
    }
    let (sent, arrived) = stream.end();
    assert_eq!(arrived, 0, "of {sent} datagrams");
}

/// A file of the folder beside the repository that holds real input; `None` where it is not.
pub(crate) fn shared(name: &str) -> Option<std::path::PathBuf> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let places = ["../shared", "../../shared"].map(|place| root.join(place).join(name));
    let found = places.into_iter().find_map(|path| path.canonicalize().ok());
    if found.is_none() {
        eprintln!("skipped: no ../shared/{name}");
    }
    found
}

/// Gives the server a public address, which nothing outside the lab can see.
fn move_in(lab: &Lab, address: std::net::IpAddr) {
    let gateway = if address.is_ipv4() {
        "198.51.100.2"
    } else {
        "2001:db8:2::2"
    };
    lab.server
        .ip(&[&format!("addr add {address} dev lo")])
        .unwrap();
    lab.gateway
        .ip(&[&format!("route add {address} via {gateway}")])
        .unwrap();
}

#[test]
fn the_labs_own_feed_loads_and_matches() {
    let Some(file) = shared("lab/feed.txt") else {
        return;
    };
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let conf = Conf::new(&lab).feed_from("lab", "deny", &format!("file://{}", file.display()));
    let (alerts, _daemon) = Daemon::alerting(&lab, &lab.host, conf);
    move_in(&lab, "2606:4700:30::6812:3594".parse().unwrap());
    move_in(&lab, "193.176.211.7".parse().unwrap());

    for (address, indicator) in [
        ("10.48.255.194:80", "10.48.255.194"),
        ("[2606:4700:30::6812:3594]:80", "2606:4700:30::6812:3594"),
        ("193.176.211.7:80", "193.176.211.0/24"),
    ] {
        assert!(dropped(&lab.host, address), "{address}");
        alerts.wait(&[("indicator", indicator), ("action", "deny")]);
    }
    connect(&lab.host, "203.0.113.200:80").expect("an address in no feed");
}

#[test]
fn ipsum_loads_and_matches() {
    let Some(file) = shared("data/ipsum.txt") else {
        return;
    };
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let text = std::fs::read_to_string(&file).unwrap();
    let mut listed = text.lines().filter(|line| !line.starts_with('#'));
    let first = listed
        .next()
        .and_then(|line| line.split_whitespace().next())
        .unwrap();
    move_in(&lab, first.parse().unwrap());
    let conf = Conf::new(&lab).feed_from("ipsum", "deny", &format!("file://{}", file.display()));
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    // Ready comes after ten seconds at most, loaded or not.
    eventually("it is loaded", || {
        daemon.row("ipsum")["last_success"]
            .is_string()
            .then_some(())
    });
    assert!(dropped(&lab.host, &format!("{first}:80")));
    connect(&lab.host, "203.0.113.200:80").expect("an address in no feed");
}
