//! The rails: a bad update of a feed leaves the kernel's sets as they are, and says why.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::support::{
    Conf, Daemon, Lab, Reply, Site, connect, dropped, eventually, nft, ping, reached, web,
};

const AT: &str = "127.0.0.1:8099";

/// 20 entries, of which .1 is a server of the lab.
fn good() -> String {
    lines(1..=20)
}

fn lines(last: impl Iterator<Item = u32>) -> String {
    last.fold(String::new(), |mut text, last| {
        writeln!(text, "203.0.113.{last}").unwrap();
        text
    })
}

fn kernel(lab: &Lab) -> String {
    nft(&lab.host, &["list", "ruleset"])
}

fn conf(lab: &Lab, site: &Site) -> Conf {
    Conf::new(lab).feed_from("block", "deny", &site.url("/list"))
}

#[test]
fn each_rail_keeps_the_kernel_as_it_is_and_says_why() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::start(&lab.host, AT, |_| Reply::ok(good()));
    let conf = conf(&lab, &site)
        .key("max-entries = 500")
        .key("max-bytes = \"64KiB\"");
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let before = kernel(&lab);
    assert!(before.contains("203.0.113.20"), "{before}");
    let html = "<!DOCTYPE html>\n<html><body><p>Please log in</p></body></html>\n";
    let many: String = (0..501).fold(String::new(), |mut text, n| {
        writeln!(text, "198.18.{}.{}", n / 200, n % 200).unwrap();
        text
    });
    let declared = format!("# Entries : 21 ips\n{}", good());
    for (reply, says) in [
        (Reply::ok(""), "no entries, the last good one had 20"),
        (Reply::ok("# nothing today\n"), "allow-empty"),
        (Reply::ok(good() + "foo bar\n1.2.3\n"), "max-bad"),
        (Reply::ok(html), "HTML"),
        (Reply::ok(html).with("Content-Type: text/html"), "HTML"),
        (Reply::ok(lines(1..=9)), "fell from 20 to 9 entries"),
        (Reply::ok(good() + "198.18.0.0/16\n"), "max-growth"),
        (Reply::ok(declared), "says it has 21 entries"),
        (Reply::ok(many), "max-entries"),
        (Reply::ok(good() + &"#\n".repeat(40_000)), "max-bytes"),
        (Reply::ok("0.0.0.0/0\n128.0.0.0/1\n"), "wider"),
        (Reply::ok("0.0.0.0 ads.example\n".repeat(9)), "hosts file"),
        (Reply::ok("a.example\nb.example\n"), "no address"),
        (Reply::ok(b"\xff\xfe1\x002\x00".as_slice()), "UTF-16"),
        (Reply::status("503 Busy"), "answered 503"),
    ] {
        site.reply(reply);
        let said = daemon.fails(&["refresh", "block"]);
        assert!(said.contains(says), "{says}: {said}");
        assert_eq!(said.matches("feed block").count(), 1, "{said}");
        assert_eq!(kernel(&lab), before, "{says}");
        let row = daemon.row("block");
        assert_eq!(row["entries"], 20);
        assert!(row["last_error"].as_str().unwrap().contains(says), "{row}");
        for command in ["status", "feeds"] {
            let shown = daemon.ok(&[command]);
            assert!(shown.contains(says), "{command}: {shown}");
        }
    }
    site.reply(Reply::ok(good()));
    daemon.ok(&["refresh"]);
    assert!(daemon.row("block")["last_error"].is_null());
    assert!(!daemon.ok(&["status"]).contains('!'));
}

#[test]
fn an_empty_feed_is_taken_where_that_is_allowed() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::start(&lab.host, AT, |_| Reply::ok(good()));
    let conf = conf(&lab, &site).key("allow-empty = true");
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    site.reply(Reply::ok("# a good day\n"));
    daemon.ok(&["refresh"]);
    assert!(!kernel(&lab).contains("203.0.113."), "{}", kernel(&lab));
    assert_eq!(daemon.row("block")["entries"], 0);
}

#[test]
fn a_body_without_end_is_cut_off_at_max_bytes() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::start(&lab.host, AT, |_| Reply::ok(good()));
    let conf = conf(&lab, &site).key("max-bytes = \"1MiB\"");
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let before = kernel(&lab);
    site.reply(Reply::Endless("203.0.113.1\n".repeat(1000)));
    let said = daemon.fails(&["refresh"]);
    assert!(said.contains("max-bytes"), "{said}");
    let sent = eventually("the server sees it", || {
        let (sent, broken) = site.endless();
        (broken == 1).then_some(sent)
    });
    assert!(sent < 16 << 20, "{sent} bytes were taken");
    assert_eq!(kernel(&lab), before);
}

#[test]
fn what_differs_much_is_held_back_until_it_is_accepted() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let site = Site::start(&lab.host, AT, |_| Reply::ok(good()));
    let daemon = Daemon::start(&lab, &lab.host, &conf(&lab, &site));
    let before = kernel(&lab);
    assert!(
        daemon
            .fails(&["feeds", "accept", "block"])
            .contains("no update")
    );

    site.reply(Reply::ok("203.0.113.2\n203.0.113.200\n"));
    let said = daemon.fails(&["refresh", "block"]);
    assert!(said.contains("feedgate feeds accept block"), "{said}");
    assert_eq!(said.matches("--dry-run").count(), 1, "{said}");
    let held = daemon.row("block")["quarantined"].clone();
    assert!(
        held["why"].as_str().unwrap().contains("max-shrink"),
        "{held}"
    );
    assert!(daemon.ok(&["feeds"]).contains("held back since"));

    // It is looked at as it came, whatever the server says by now.
    site.reply(Reply::status("404 Gone"));
    let shown = daemon.ok(&["refresh", "block", "--dry-run"]);
    for line in [
        "block: 2 entries; nothing was changed",
        "+ 1 entries: 203.0.113.200",
        "- 19 entries: 203.0.113.1, ",
        "held back",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    assert_eq!(kernel(&lab), before);
    connect(&lab.host, "203.0.113.200:80").expect("not yet");

    daemon.ok(&["feeds", "accept", "block"]);
    assert!(dropped(&lab.host, "203.0.113.200:80"));
    connect(&lab.host, "203.0.113.1:80").expect("no longer listed");
    let row = daemon.row("block");
    assert!(
        row["quarantined"].is_null() && row["last_error"].is_null(),
        "{row}"
    );
    // What was accepted is the last good data from now on.
    site.reply(Reply::ok("203.0.113.2\n203.0.113.200\n203.0.113.3\n"));
    daemon.ok(&["refresh"]);
}

#[test]
fn an_update_that_goes_back_is_no_longer_held() {
    let Some(lab) = Lab::new() else { return };
    let etag = |tag: &str| format!("ETag: \"{tag}\"");
    let site = Site::start(&lab.host, AT, move |_| Reply::ok(good()).with(etag("1")));
    let daemon = Daemon::start(&lab, &lab.host, &conf(&lab, &site));
    site.reply(Reply::ok("203.0.113.2\n").with(etag("2")));
    daemon.fails(&["refresh"]);
    assert!(daemon.row("block")["quarantined"].is_object());
    site.answer(|request| {
        assert_eq!(request.header("if-none-match"), "\"1\"");
        Reply::status("304 Not Modified")
    });
    daemon.ok(&["refresh"]);
    assert!(daemon.row("block")["quarantined"].is_null());
}

#[test]
fn a_preview_changes_nothing() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::start(&lab.host, AT, |_| Reply::ok(good()));
    let daemon = Daemon::start(&lab, &lab.host, &conf(&lab, &site));
    let before = kernel(&lab);
    site.reply(Reply::ok(lines(3..=22) + "8.8.8.8\n"));
    let shown: Value =
        serde_json::from_str(&daemon.ok(&["refresh", "block", "--dry-run", "--json"])).unwrap();
    let row = &shown[0];
    assert_eq!((&row["added"], &row["removed"]), (&json!(3), &json!(2)));
    assert_eq!(
        row["removed_examples"],
        json!(["203.0.113.1", "203.0.113.2"])
    );
    assert_eq!(row["findings"][0]["kind"], "known-good", "{row}");
    assert!(row["elements_added"].as_u64().unwrap() >= 3, "{row}");
    let text = daemon.ok(&["refresh", "--dry-run"]);
    assert!(text.contains("Google DNS: 8.8.8.8"), "{text}");
    assert_eq!(kernel(&lab), before);
    assert_eq!(daemon.row("block")["entries"], 20);
}

#[test]
fn prefixes_that_are_too_wide_are_refused_one_by_one() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let wide = ["0.0.0.0/0", "203.0.0.0/7", "::/0", "2001:d00::/18"];
    let feed = [
        "203.0.113.1",
        wide[0],
        wide[1],
        "2001:db8:bad::1",
        wide[2],
        wide[3],
    ];
    let conf = Conf::new(&lab)
        .feed("block", "deny", &feed)
        .feed("narrow", "deny", &["203.0.113.0/24", "203.0.113.8/30"])
        .key("min-prefix4 = 25");
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert!(dropped(&lab.host, "203.0.113.1:80"));
    assert!(dropped(&lab.host, "[2001:db8:bad::1]:80"));
    assert!(dropped(&lab.host, "203.0.113.8:80"));
    connect(&lab.host, "203.0.113.2:80").expect("only the default routes would cover it");
    connect(&lab.host, "[2001:db8:bad::2]:80").unwrap();
    let row = daemon.row("block");
    assert_eq!(row["too_wide"]["count"], 4, "{row}");
    let shown = daemon.ok(&["feeds"]);
    assert!(shown.contains("refused as too wide: 4 lines"), "{shown}");
    assert!(shown.contains("0.0.0.0/0"), "{shown}");
}

#[test]
fn the_daemon_never_cuts_its_own_lifelines() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    // The feed's server is in the network it lists, and so is the syslog server.
    let feed = "203.0.113.1\n203.0.113.5\n203.0.113.6\n203.0.113.7\n203.0.113.9\n\
        198.51.100.0/24\n192.0.2.0/24\n2001:db8:1::/48\n2001:db8:bad::1\n";
    let site = Site::start(&lab.server, "198.51.100.2:8099", move |_| Reply::ok(feed));
    std::fs::write(lab.path("spare.txt"), "# ours\n203.0.113.5 # office\n").unwrap();
    let list = json!({ "name": "Our CDN", "type": "cidr", "matching_attributes": [],
        "list": ["203.0.113.6/32", "203.0.113.7"] });
    std::fs::write(lab.path("misp.json"), list.to_string()).unwrap();
    let dir = lab.dir.display();
    let conf = conf(&lab, &site)
        .syslog("udp:203.0.113.1:514", "")
        .section(&format!(
            "[exceptions]\nprefixes = [\"203.0.113.9\"]\n\
             files = [\"{dir}/spare.txt\", \"{dir}/misp.json\"]"
        ));
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    for last in [1, 5, 6, 7, 9] {
        connect(&lab.host, &format!("203.0.113.{last}:80")).unwrap();
    }
    assert!(ping(&lab.host, "192.0.2.1"), "the gateway");
    assert!(ping(&lab.host, "2001:db8:1::1"), "the gateway");
    assert!(dropped(&lab.host, "[2001:db8:bad::1]:80"));
    daemon.ok(&["refresh"]); // the server of the feed, for the daemon alone
    let row = daemon.row("block");
    assert_eq!(row["excepted"], 7, "{row}");
    let status = daemon.status();
    let excepted = status["exceptions"].to_string();
    for why in [
        "exceptions.prefixes",
        "spare.txt:2",
        "misp.json (Our CDN)",
        "gateway",
        "own address",
        "syslog server",
    ] {
        assert!(excepted.contains(why), "{why}: {excepted}");
    }
    assert!(!excepted.contains("server of feed"), "{excepted}");
    let shown = daemon.ok(&["feeds"]);
    assert!(
        shown.contains("touched by an exception: 7 entries"),
        "{shown}"
    );
    assert!(shown.contains("203.0.113.1: syslog server"), "{shown}");
    let status = daemon.ok(&["status"]);
    assert!(
        status.contains("7 entries are touched by exceptions"),
        "{status}"
    );
}

/// A feed that another one denies, as whoever answers for the name of its server could make it.
#[test]
fn the_name_of_a_feeds_server_excepts_nobody() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let site = Site::start(&lab.server, "203.0.113.5:8099", |_| {
        Reply::ok("203.0.113.1\n")
    });
    let conf = Conf::new(&lab)
        .feed("good", "deny", &["203.0.113.5", "203.0.113.6"])
        .feed_from("evil", "alert", &site.url("/list"));
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let own = daemon.status()["packets"]["own"].as_u64();
    daemon.ok(&["refresh", "evil"]);
    assert!(
        daemon.status()["packets"]["own"].as_u64() > own,
        "the daemon's own flow was asked"
    );
    for address in ["203.0.113.5:80", "203.0.113.5:8099", "203.0.113.6:80"] {
        assert!(dropped(&lab.host, address), "{address}");
    }
    let lookup = daemon.ok(&["lookup", "203.0.113.5"]);
    assert!(
        lookup.contains("are denied") && !lookup.contains("excepted"),
        "{lookup}"
    );
}

#[test]
fn a_slip_in_an_exception_file_blocks_nobody() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let spare = lab.path("spare.txt");
    std::fs::write(&spare, "203.0.113.1\n").unwrap();
    let conf = Conf::new(&lab)
        .feed("block", "deny", &["203.0.113.1", "203.0.113.2"])
        .section(&format!("[exceptions]\nfiles = [\"{}\"]", spare.display()));
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    connect(&lab.host, "203.0.113.1:80").unwrap();
    std::fs::write(&spare, "203.0.113.l\n203.0.113.2\n").unwrap();
    let shown = eventually("the mistake is told", || {
        let status = daemon.ok(&["status"]);
        status.contains("spare.txt:1").then_some(status)
    });
    assert!(shown.contains("! "), "{shown}");
    connect(&lab.host, "203.0.113.1:80").expect("as before the slip");
    eventually("what can be read counts", || {
        reached(&lab.host, "203.0.113.2:80")
    });
    std::fs::remove_file(&spare).unwrap();
    std::fs::write(&spare, "203.0.113.2\n").unwrap();
    eventually("mended", || {
        dropped(&lab.host, "203.0.113.1:80").then_some(())
    });
}

/// As FireHOL's level 1 has them: private, loopback and multicast space among criminals.
const FIREHOL: &str = "# firehol_level1\n# Entries : 6 subnets\n#\n10.0.0.0/8\n127.0.0.0/8\n\
    192.0.2.0/30\n192.168.0.0/16\n203.0.113.0/29\n224.0.0.0/3\n";

/// A LAN of 10.9.9.0/24 and 192.168.9.0/24 behind the gateway, and the private server of the lab.
fn lan(lab: &Lab) {
    lab.gateway
        .ip(&[
            "addr add 10.9.9.1/24 dev lan0",
            "addr add 192.168.9.1/24 dev lan0",
            "route add 10.77.0.1/32 via 198.51.100.2",
        ])
        .unwrap();
    lab.host
        .ip(&[
            "addr add 10.9.9.2/24 dev eth0",
            "addr add 192.168.9.2/24 dev eth0",
        ])
        .unwrap();
    lab.server.ip(&["addr add 10.77.0.1/32 dev lo"]).unwrap();
}

#[test]
fn private_networks_in_a_feed_do_not_cut_the_lan() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    lan(&lab);
    let site = Site::start(&lab.host, AT, |_| Reply::ok(FIREHOL));
    let conf = conf(&lab, &site).feed("lab", "deny", &["10.48.255.194"]);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    for address in ["10.9.9.1", "192.168.9.1", "127.0.0.1"] {
        assert!(ping(&lab.host, address), "{address}");
    }
    connect(&lab.host, "10.77.0.1:80").expect("private space behind the gateway");
    assert!(dropped(&lab.host, "203.0.113.1:80"), "the rest of the feed");
    assert!(
        dropped(&lab.host, "10.48.255.194:80"),
        "a single private host is kept"
    );
    let row = daemon.row("block");
    assert_eq!(row["private"], 3, "{row}");
    let wide = &row["too_wide"]["examples"][0];
    assert_eq!(wide["text"], "224.0.0.0/3", "{row}");
    let shown = daemon.ok(&["feeds"]);
    assert!(shown.contains("networks of private space"), "{shown}");
    assert!(
        shown.contains("10.0.0.0/8, 127.0.0.0/8, 192.168.0.0/16"),
        "{shown}"
    );
    let said = "3 networks of private space are in it and are not denied";
    assert!(daemon.output().contains(said), "{}", daemon.output());
    let status = daemon.ok(&["status"]);
    assert!(
        status.contains("3 networks of private space not denied"),
        "{status}"
    );
}

#[test]
fn private_networks_can_be_watched_or_kept() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    lan(&lab);
    let alerts = crate::support::Alerts::listen(&lab);
    let site = Site::start(&lab.host, AT, |_| Reply::ok(FIREHOL));
    let with = |word: &str| {
        conf(&lab, &site)
            .alerts(&alerts)
            .section(&format!("[exceptions]\nprivate-networks = \"{word}\""))
    };
    let daemon = Daemon::start(&lab, &lab.host, &with("alert-only"));
    connect(&lab.host, "10.77.0.1:80").unwrap();
    alerts
        .wait(&[("dst", "10.77.0.1")])
        .assert(&[("action", "alert"), ("indicator", "10.0.0.0/8")]);
    daemon.reload(&with("keep").text());
    eventually("kept as the feed says", || {
        dropped(&lab.host, "10.77.0.1:80").then_some(())
    });
}
