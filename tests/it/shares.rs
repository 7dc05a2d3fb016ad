//! How much of the address space feeds may deny: what is over it waits for a person, whichever way it comes.

use std::{fmt::Write as _, fs};

use crate::support::{Conf, Daemon, Lab, eventually, nft};

/// `count` of the /8 from 20.0.0.0 on; three are 1.4% of routable IPv4.
fn eights(count: u32) -> String {
    (20..20 + count).fold(String::new(), |mut text, n| {
        writeln!(text, "{n}.0.0.0/8").unwrap();
        text
    })
}

fn conf(lab: &Lab, action: &str, text: &str) -> Conf {
    let file = lab.path("wide.txt");
    fs::write(&file, text).unwrap();
    Conf::new(lab).feed_from("wide", action, &format!("file://{}", file.display()))
}

fn write(lab: &Lab, text: &str) {
    fs::write(lab.path("wide.txt"), text).unwrap();
}

/// The daemon's view and the kernel's sets.
fn denies(lab: &Lab, daemon: &Daemon<'_>) -> bool {
    let lookup = daemon.ok(&["lookup", "20.1.2.3"]);
    let denied = lookup.contains("are denied");
    let sets = nft(&lab.host, &["list", "ruleset"]);
    assert_eq!(
        sets.contains("20.0.0.0"),
        denied || lookup.contains("alert"),
        "{lookup}"
    );
    denied
}

#[test]
fn a_first_pull_of_half_the_internet_is_held_back() {
    let Some(lab) = Lab::new() else { return };
    let all = (1..224).filter(|n| ![10, 127].contains(n));
    let lines = |line: fn(u32) -> String| -> String { all.clone().map(line).collect() };
    for text in [
        lines(|n| format!("{n}.0.0.0/8\n")),
        lines(|n| format!("{n}.0.0.0/9\n{n}.128.0.0/9\n")),
        lines(|n| format!("{n}.0.0.1-{n}.255.255.254\n")),
    ] {
        let daemon = Daemon::start(&lab, &lab.host, &conf(&lab, "deny", &text));
        let said = daemon.fails(&["refresh", "wide"]);
        assert!(
            said.contains("of routable IPv4, more than max-share (5.0%)"),
            "{said}"
        );
        assert!(said.contains("feedgate feeds accept wide"), "{said}");
        let row = daemon.row("wide");
        assert_eq!(row["entries"], 0, "{row}");
        assert!(
            row["quarantined"]["why"]
                .as_str()
                .unwrap()
                .contains("max-share"),
            "{row}"
        );
        assert!(
            daemon.ok(&["status"]).contains("more than max-share"),
            "{row}"
        );
        assert!(daemon.ok(&["feeds"]).contains("held back since"));
        assert!(!nft(&lab.host, &["list", "ruleset"]).contains("20.0.0.0"));
        let shown = daemon.ok(&["refresh", "wide", "--dry-run"]);
        assert!(
            shown.contains("covers 99.") || shown.contains("covers 100."),
            "{shown}"
        );
        assert!(shown.contains("it would be held back"), "{shown}");
        daemon.stop();
        nft(&lab.host, &["delete", "table", "inet", "feedgate"]);
        fs::remove_dir_all(lab.path("state")).unwrap();
    }
}

#[test]
fn what_is_accepted_stays_and_may_not_grow() {
    let Some(lab) = Lab::new() else { return };
    let config = conf(&lab, "deny", &eights(14));
    let daemon = Daemon::start(&lab, &lab.host, &config);
    assert!(!denies(&lab, &daemon));
    daemon.ok(&["feeds", "accept", "wide"]);
    assert!(denies(&lab, &daemon));
    daemon.ok(&["refresh"]);
    assert!(!daemon.ok(&["status"]).contains('!'));
    daemon.stop();
    let daemon = Daemon::start(&lab, &lab.host, &config);
    assert!(denies(&lab, &daemon));
    assert!(
        !daemon.ok(&["status"]).contains('!'),
        "{}",
        daemon.ok(&["status"])
    );
    write(&lab, &eights(15));
    assert!(daemon.fails(&["refresh"]).contains("max-share"));
    assert!(denies(&lab, &daemon), "the last good data stay");
    assert_eq!(daemon.row("wide")["entries"], 14);
    // A feed that only alerts may list what it likes.
    daemon.reload(&conf(&lab, "alert", &eights(40)).text());
    eventually("it alerts", || {
        (daemon.row("wide")["entries"] == 40).then_some(())
    });
    assert!(!denies(&lab, &daemon));
}

#[test]
fn an_alert_feed_comes_to_deny_no_more_than_that() {
    let Some(lab) = Lab::new() else { return };
    let alerting = conf(&lab, "alert", &eights(14));
    let daemon = Daemon::start(&lab, &lab.host, &alerting);
    let said = daemon.fails(&["deny", "--confirm", "60s", "wide"]);
    assert!(
        said.contains("is not armed") && said.contains("max-share (5.0%)"),
        "{said}"
    );
    assert!(!denies(&lab, &daemon));
    // The same by a new configuration.
    daemon.reload(&conf(&lab, "deny", &eights(14)).text());
    let problem = "feed wide only alerts: the feed would deny 6.34% of routable IPv4";
    eventually("it is told", || {
        daemon.ok(&["status"]).contains(problem).then_some(())
    });
    assert!(!denies(&lab, &daemon));
    let lookup = daemon.ok(&["lookup", "20.1.2.3"]);
    assert!(
        lookup.contains("would be denied: wide is held back until"),
        "{lookup}"
    );
    assert!(daemon.output().contains(problem));
    // It is not forgotten in a restart.
    daemon.stop();
    let daemon = Daemon::start(&lab, &lab.host, &conf(&lab, "deny", &eights(14)));
    assert!(!denies(&lab, &daemon));
    daemon.ok(&["feeds", "accept", "wide"]);
    assert!(denies(&lab, &daemon));
    assert!(!daemon.ok(&["status"]).contains(problem));
    // What was accepted may be armed by the command as well.
    daemon.reload(&alerting.text());
    eventually("it alerts", || (!denies(&lab, &daemon)).then_some(()));
    daemon.ok(&["deny", "--confirm", "60s", "wide"]);
    assert!(denies(&lab, &daemon));
    daemon.ok(&["deny", "--undo", "wide"]);
}

#[test]
fn a_push_is_weighed_and_so_is_the_sum_of_all_feeds() {
    let Some(lab) = Lab::new() else { return };
    let config = conf(&lab, "deny", &eights(10)).text()
        + "\n[[feed]]\nname = \"pushed\"\naction = \"deny\"\n[[feed]]\nname = \"more\"\naction = \"deny\"\n";
    let small = conf(&lab, "deny", &eights(10));
    let daemon = Daemon::start(&lab, &lab.host, &small);
    daemon.reload(&config);
    eventually("the feeds are there", || {
        (daemon.ok(&["feeds"]).contains("more")).then_some(())
    });
    let push = |feed: &str, from: u32, count: u32| {
        let text: String = (from..from + count)
            .map(|n| format!("{n}.0.0.0/8\n"))
            .collect();
        daemon.ctl_with(&["push", feed, "-"], text.as_bytes())
    };
    let refused = push("pushed", 40, 14);
    assert!(!refused.status.success());
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("more than max-share"), "{said}");
    assert!(push("pushed", 40, 10).status.success());
    let refused = push("more", 60, 5);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        said.contains("all deny feeds together would deny 11.3"),
        "{said}"
    );
    assert!(said.contains("arm.max-share (10.0%)"), "{said}");
    assert!(!refused.status.success());
    // What another feed denies already adds nothing.
    assert!(push("more", 20, 10).status.success());
    assert!(
        push("more", 60, 5).stderr.starts_with(b"feedgate"),
        "it is held back"
    );
    daemon.ok(&["feeds", "accept", "more"]);
    let ruleset = nft(&lab.host, &["list", "ruleset"]);
    assert!(ruleset.contains("60.0.0.0"), "{ruleset}");
}

#[test]
fn data_in_force_stay_at_an_upgrade() {
    let Some(lab) = Lab::new() else { return };
    let daemon = Daemon::start(
        &lab,
        &lab.host,
        &conf(&lab, "deny", &eights(14)).key("max-share = \"100%\""),
    );
    assert!(denies(&lab, &daemon));
    daemon.stop();
    // What 0.1 wrote has no shares.
    let file = lab.path("state").join("arming.json");
    let mut book: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert!(book.as_object_mut().unwrap().remove("shares").is_some());
    fs::write(&file, book.to_string()).unwrap();
    let daemon = Daemon::start(&lab, &lab.host, &conf(&lab, "deny", &eights(14)));
    assert!(denies(&lab, &daemon));
    let status = daemon.ok(&["status"]);
    assert!(
        status.contains("feed wide stays in force as it was"),
        "{status}"
    );
    write(&lab, &eights(15));
    assert!(daemon.fails(&["refresh"]).contains("max-share"));
    assert!(denies(&lab, &daemon));
    daemon.ok(&["feeds", "accept", "wide"]);
    assert_eq!(daemon.row("wide")["entries"], 15);
    assert!(!daemon.ok(&["status"]).contains('!'));
}

#[test]
fn lint_says_the_share() {
    let Some(lab) = Lab::new() else { return };
    let daemon = Daemon::start(&lab, &lab.host, &conf(&lab, "alert", &eights(3)));
    let file = lab.path("wide.txt");
    for target in ["wide", file.to_str().unwrap()] {
        let said = daemon.ok(&["lint", target]);
        assert!(said.contains("covers 1.36% of routable IPv4"), "{said}");
    }
}

/// What an admin writes is in force at once; what comes from outside after that is weighed.
#[test]
fn a_policy_denies_at_once_and_the_feed_may_not_grow_under_it() {
    let Some(lab) = Lab::new() else { return };
    let config = conf(&lab, "alert", &eights(14)).key("labels = { feed = \"wide\" }");
    let daemon = Daemon::start(&lab, &lab.host, &config);
    assert!(!denies(&lab, &daemon));
    let policy = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\n\
        metadata: {name: default.block}\nspec:\n  selector: all()\n  types: [Egress]\n  egress:\n  \
        - {action: Deny, destination: {selector: feed == 'wide'}}\n  - {action: Pass}\n";
    let applied = daemon.ctl_with(&["apply", "-f", "-"], policy.as_bytes());
    assert!(applied.status.success(), "{applied:?}");
    assert!(denies(&lab, &daemon));
    let status = daemon.ok(&["status"]);
    assert!(
        status.contains("feed wide stays in force as it was"),
        "{status}"
    );
    assert!(
        !daemon.output().contains("what is denied covers"),
        "6.3% are not over 10%"
    );
    write(&lab, &eights(15));
    assert!(daemon.fails(&["refresh"]).contains("max-share"));
    assert_eq!(daemon.row("wide")["entries"], 14);
    write(&lab, &eights(13));
    daemon.ok(&["refresh"]);
    assert_eq!(daemon.row("wide")["entries"], 13);
}
