//! The last good data: enforced at the start without any network, and given up when too old.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use crate::support::{Conf, Daemon, Lab, Reply, Site, connect, dropped, eventually, reached, web};

const AT: &str = "127.0.0.1:8099";

#[test]
fn a_restart_without_the_server_enforces_what_is_on_disk() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let site = Site::start(&lab.host, AT, |_| Reply::ok("203.0.113.1\n8.8.8.8\n"));
    let conf = Conf::new(&lab).feed_from("f", "deny", &site.url("/list"));
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    daemon.stop();
    drop(site);
    // As after a boot: no table, no server.
    crate::support::nft(&lab.host, &["delete", "table", "inet", "feedgate"]);
    connect(&lab.host, "203.0.113.1:80").unwrap();

    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert!(dropped(&lab.host, "203.0.113.1:80"));
    let row = daemon.row("f");
    assert!(
        row["last_error"]
            .as_str()
            .unwrap()
            .contains("connection refused"),
        "{row}"
    );
    assert!(row["last_success"].is_string(), "{row}");
    assert!(row["findings"].to_string().contains("Google DNS"), "{row}");
    assert!(
        daemon
            .output()
            .contains("2 entries from the last good data"),
        "{}",
        daemon.output()
    );
}

#[test]
fn damage_is_noticed_and_the_feed_pulled_again() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let site = Site::start(&lab.host, AT, |_| {
        Reply::ok("203.0.113.1\n").with("ETag: \"1\"")
    });
    let conf = Conf::new(&lab).feed_from("f", "deny", &site.url("/list"));
    Daemon::start(&lab, &lab.host, &conf).stop();
    let file = lab.path("state/feeds/f.last");
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 2;
    bytes[last] = b'2'; // 203.0.113.2
    fs::write(&file, bytes).unwrap();

    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert!(dropped(&lab.host, "203.0.113.1:80"));
    connect(&lab.host, "203.0.113.2:80").expect("never pulled");
    assert!(
        site.last().header("if-none-match").is_empty(),
        "nothing to compare with"
    );
    assert!(lab.path("state/feeds/f.last.corrupt").exists());
    assert!(
        daemon.output().contains("f.last.corrupt"),
        "{}",
        daemon.output()
    );
}

#[test]
fn data_from_another_url_stay_in_force_and_are_not_used_at_a_start() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let site = Site::start(&lab.host, AT, |_| Reply::ok("203.0.113.1\n"));
    let conf = |url: &str| Conf::new(&lab).feed_from("f", "deny", url);
    let daemon = Daemon::start(&lab, &lab.host, &conf(&site.url("/list?key=a")));
    site.reply(Reply::status("404 Not Found"));
    daemon.reload(&conf(&site.url("/list?key=b")).text());
    eventually("the other url is tried", || {
        daemon.row("f")["last_error"].is_string().then_some(())
    });
    assert!(dropped(&lab.host, "203.0.113.1:80"), "they stay");
    daemon.reload(&conf(&site.url("/list?key=a")).text());
    eventually("the first one is still on disk", || {
        let said = daemon.output();
        (said.matches("1 entries from the last good data").count() == 1).then_some(())
    });
    daemon.stop();
    crate::support::nft(&lab.host, &["delete", "table", "inet", "feedgate"]);
    let daemon = Daemon::start(&lab, &lab.host, &conf(&site.url("/other")));
    connect(&lab.host, "203.0.113.1:80").unwrap();
    assert!(
        daemon.output().contains("from another url"),
        "{}",
        daemon.output()
    );
}

/// Makes what is stored for feed `f` so many seconds old: the daemon that restarts takes it up like that.
fn age(lab: &Lab, seconds: u64) {
    use feedgate::store::Store;
    let store = Store::open(&lab.path("state")).unwrap();
    let name = "f".parse().unwrap();
    let mut good = store.load(&name, 1 << 20).unwrap().unwrap();
    good.pulled = SystemTime::now() - Duration::from_secs(seconds);
    store.save(&name, &good).unwrap();
}

#[test]
fn old_data_are_told_and_let_go() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let site = Site::start(&lab.host, AT, |_| Reply::ok("203.0.113.1\n"));
    let conf = Conf::new(&lab)
        .feed_from("f", "deny", &site.url("/list"))
        .key("period = \"5m\"\nstale-after = \"2m\"\nexpire-after = \"10m\"")
        .feed("other", "deny", &["203.0.113.2"]);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert!(!daemon.ok(&["status"]).contains("stale"));
    daemon.stop();
    site.reply(Reply::status("500 Oops"));

    // Stale: still enforced, with a warning.
    age(&lab, 130);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert!(dropped(&lab.host, "203.0.113.1:80"));
    let status = daemon.ok(&["status"]);
    assert!(status.contains("! feed f is stale: http://"), "{status}");
    assert!(daemon.ok(&["feeds"]).contains("STALE"));
    daemon.stop();

    // It expires while the daemon runs.
    age(&lab, 600 - 8);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    eventually("the data are given up", || {
        reached(&lab.host, "203.0.113.1:80")
    });
    assert!(dropped(&lab.host, "203.0.113.2:80"), "the other feed stays");
    let row = daemon.row("f");
    assert_eq!(row["entries"], 0);
    assert!(
        daemon.output().contains("older than expire-after"),
        "{}",
        daemon.output()
    );
    daemon.stop();

    // And is not taken up again.
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert!(
        daemon.output().contains("are not used"),
        "{}",
        daemon.output()
    );
    connect(&lab.host, "203.0.113.1:80").unwrap();
    daemon.reload(&conf.section("[host]").text());
    eventually("it is reloaded", || {
        daemon
            .output()
            .contains("configuration reloaded")
            .then_some(())
    });
    connect(&lab.host, "203.0.113.1:80").expect("nor by a reload");
    // A good pull brings it back.
    site.reply(Reply::ok("203.0.113.1\n"));
    daemon.ok(&["refresh", "f"]);
    assert!(dropped(&lab.host, "203.0.113.1:80"));
}

#[test]
fn what_its_publisher_left_alone_is_stale_too() {
    let Some(lab) = Lab::new() else { return };
    let old = "# Last update: Sat, 22 Aug 2020 03:00:29 +0200\n203.0.113.1\n";
    let site = Site::start(&lab.host, AT, move |_| Reply::ok(old));
    let conf = Conf::new(&lab).feed_from("f", "deny", &site.url("/list"));
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let status = daemon.ok(&["status"]);
    assert!(
        status.contains("feed f is stale: its publisher made it at 2020-08-22"),
        "{status}"
    );
}
