//! Mode include: the daemon fills the sets of a table that is the admin's.

use std::{fs, process::Command};

use feedgate::{nft::Kernel, ruleset};

use super::{
    DENIED, WATCHED, everything, feeds, include, native_queue, options, rules, shipped,
    shipped_with, stop_and_read, without_queue,
};
use crate::support::{
    Alerts, Daemon, Lab, connect, dropped, eventually, feedgate, load, load_with, nft, ping,
    reached, web,
};

#[test]
fn include_fills_the_shipped_table_and_empties_it_again() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    load(&lab.host, &shipped_with(&lab.path("none*.nft")));
    let (before, whole) = (rules(&lab), nft(&lab.host, &["list", "ruleset"]));
    let conf = feeds(include(&lab, &[]));
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let enforced = || {
        assert!(dropped(&lab.host, DENIED));
        assert!(dropped(&lab.host, "[2001:db8:bad::1]:80"));
        assert!(dropped(&lab.host, "203.0.113.8:80"));
        assert!(ping(&lab.host, "203.0.113.8"), "listed with a port");
        connect(&lab.host, WATCHED).unwrap();
        connect(&lab.host, "203.0.113.200:80").unwrap();
    };
    enforced();
    assert_eq!(rules(&lab), before, "only elements changed");
    let now = daemon.status();
    assert_eq!(
        now["table"]["filled"].as_array().unwrap().len(),
        ruleset::full().len()
    );
    let problems = now["problems"].to_string();
    assert!(
        problems.contains("enforces only") && !problems.contains("no set"),
        "{problems}"
    );
    let text = daemon.ok(&["status"]);
    assert!(text.contains("table inet feedgate present"), "{text}");
    let printed = daemon.ok(&["nft", "print", "--elements"]);
    assert!(
        printed.contains("203.0.113.1") && printed.contains("198.18.0.0/15"),
        "{printed}"
    );

    let output = daemon.ctl(&["selftest"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("FAILED queue"), "{said}");
    assert!(said.contains("include inspect.nft"), "{said}");

    // A delta, then the table made again by a reload of the admin's ruleset.
    let more = conf.clone().feed("more", "deny", &["203.0.113.3"]);
    daemon.reload(&more.text());
    eventually("the new feed is enforced", || {
        dropped(&lab.host, "203.0.113.3:80").then_some(())
    });
    enforced();
    load(&lab.host, &shipped_with(&lab.path("none*.nft")));
    eventually("the new table is filled", || {
        dropped(&lab.host, DENIED).then_some(())
    });
    enforced();
    assert_eq!(rules(&lab), before);

    // The kernel tells the number of elements (6.18): a flush by somebody else is seen by it.
    nft(
        &lab.host,
        &["flush", "set", "inet", "feedgate", "deny_hosts4"],
    );
    eventually("the set is filled again", || {
        dropped(&lab.host, DENIED).then_some(())
    });
    let heals = daemon.status()["table"]["heals"].as_u64();
    assert_eq!(
        heals,
        Some(2),
        "nothing else was taken for a change by somebody else"
    );

    daemon.ok(&["down"]);
    assert_eq!(nft(&lab.host, &["list", "ruleset"]), whole, "byte for byte");
    connect(&lab.host, DENIED).unwrap();
}

#[test]
fn include_with_queue_rules_names_who_it_was() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    // What base.nft and inspect.nft give where nft can load both: put there over netlink, since
    // nft has no text for the xt target.
    let sets = everything().sets;
    lab.host
        .enter(|| Kernel::open(options()).unwrap().install(&sets).unwrap())
        .unwrap();
    let alerts = Alerts::listen(&lab);
    let conf = feeds(include(&lab, &[])).alerts(&alerts);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert!(dropped(&lab.host, DENIED));
    connect(&lab.host, WATCHED).unwrap();
    let pid = std::process::id().to_string();
    alerts.wait(&[("dst", "203.0.113.1"), ("action", "deny"), ("pid", &pid)]);
    alerts.wait(&[("dst", "203.0.113.2"), ("action", "alert"), ("pid", &pid)]);
    connect(&lab.host, "203.0.113.9:80").expect("what the sets held before is gone");
    let said = daemon.ok(&["selftest"]);
    assert!(said.contains("passed in "), "{said}");
    let now = daemon.status();
    assert_eq!(
        (&now["protected"], &now["problems"]),
        (&true.into(), &serde_json::json!([]))
    );
}

#[test]
fn include_says_which_sets_are_missing_and_wrong() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let own = "table ip filter {\n\
        set deny_hosts4 { type ipv4_addr; flags interval; }\n\
        set deny_nets4 { type ipv4_addr; }\n\
        set mine { type ipv4_addr; elements = { 192.0.2.77 }; }\n\
        chain out { type filter hook output priority 0; ip daddr @deny_hosts4 counter drop; }\n}\n";
    load(&lab.host, own);
    let before = rules(&lab);
    let conf = feeds(include(&lab, &["family = \"ip\"", "table = \"filter\""]));
    let file = lab.path("before.toml");
    fs::write(&file, conf.text()).unwrap();
    let mut print = Command::new(feedgate());
    let output = print.args(["nft", "print", "--config"]).arg(file).output();
    let wanted = String::from_utf8(output.unwrap().stdout).unwrap();
    assert!(
        wanted.contains("table ip filter {") && wanted.contains("set deny_nets4"),
        "{wanted}"
    );
    assert!(!wanted.contains("nets6"), "{wanted}");
    load_with(&lab.host, &["-c"], &wanted.replace("ip filter", "ip other")).unwrap();

    let more = conf
        .clone()
        .feed("pair", "deny", &["203.0.113.6", "203.0.113.7"]);
    let daemon = Daemon::start(&lab, &lab.host, &more);
    assert!(
        dropped(&lab.host, DENIED),
        "filled although it has flags interval"
    );
    assert!(dropped(&lab.host, "203.0.113.6:80"));
    assert!(dropped(&lab.host, "203.0.113.7:80"));
    daemon.reload(&conf.text());
    eventually("they pass again", || reached(&lab.host, "203.0.113.7:80"));
    assert!(dropped(&lab.host, DENIED));
    let now = daemon.status();
    let problems = now["problems"].to_string();
    for part in [
        "set deny_nets4 of ip filter cannot be filled: it needs `flags interval`",
        "ip filter has no set watch_hosts4 that can be filled: its 1 elements are not enforced",
        "ip filter sees one IP version only: ",
        "enforces only: no rule of table ip filter queues to 4470",
    ] {
        assert!(problems.contains(part), "{part} in {problems}");
    }
    assert_eq!(now["protected"], false);
    assert_eq!(now["table"]["filled"], serde_json::json!(["deny_hosts4"]));
    assert_eq!(rules(&lab), before);
    assert!(nft(&lab.host, &["list", "set", "ip", "filter", "mine"]).contains("192.0.2.77"));
    let file = stop_and_read(&lab, daemon);
    assert!(
        file.contains("add set ip filter deny_hosts4 { type ipv4_addr; flags interval; }"),
        "{file}"
    );
    assert!(
        !file.contains("watch_hosts4"),
        "a set that is not there is not named: {file}"
    );
    load_with(&lab.host, &["-c"], &file).unwrap();

    // Without the daemon too: down empties the sets, and nothing else.
    let config = lab.path("feedgate.toml");
    let output = lab
        .host
        .command(feedgate().to_str().unwrap())
        .arg("--config")
        .arg(config)
        .arg("down")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("ip filter are emptied"),
        "{output:?}"
    );
    assert_eq!(rules(&lab), before);
    connect(&lab.host, DENIED).unwrap();
}

#[test]
fn include_waits_for_a_table_that_is_not_there() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let daemon = Daemon::start(&lab, &lab.host, &feeds(include(&lab, &[])));
    let problems = daemon.status()["problems"].to_string();
    assert!(
        problems.contains("table inet feedgate does not exist"),
        "{problems}"
    );
    assert_eq!(nft(&lab.host, &["list", "ruleset"]), "", "it makes none");
    load(&lab.host, &shipped_with(&lab.path("none*.nft")));
    eventually("it is filled", || dropped(&lab.host, DENIED).then_some(()));
}

#[test]
fn the_server_example_enforces() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let text = fs::read_to_string(shipped("examples/server.nft")).unwrap();
    let text = text.replace(
        "/var/lib/feedgate/",
        &format!("{}/", lab.path("state").display()),
    );
    let text = if native_queue(&lab.host) {
        text
    } else {
        without_queue(&text)
    };
    load(&lab.host, &text);
    let conf = include(&lab, &["table = \"filter\""]).feed(
        "block",
        "deny",
        &["203.0.113.1", "203.0.113.4/31", "2001:db8:bad::1"],
    );
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    for address in [DENIED, "203.0.113.5:80", "[2001:db8:bad::1]:80"] {
        assert!(reached(&lab.host, address).is_none(), "{address}");
    }
    connect(&lab.host, WATCHED).unwrap();
    let problems = daemon.status()["problems"].to_string();
    assert!(!problems.contains("no set"), "{problems}");
}
