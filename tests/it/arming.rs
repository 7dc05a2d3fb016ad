//! New deny feeds on trial, and `feedgate deny`.

use nix::sys::signal::Signal;

use crate::support::{Alerts, Conf, Daemon, Lab, connect, dropped, eventually, reached, web};

const LISTED: &str = "203.0.113.1";
const WEB: &str = "203.0.113.1:80";

fn text(daemon: &Daemon<'_>) -> String {
    let row = daemon.row("list");
    row["arming"]["text"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn state(daemon: &Daemon<'_>) -> String {
    let row = daemon.row("list");
    row["arming"]["state"].as_str().unwrap_or("none").to_owned()
}

#[test]
fn a_new_deny_feed_only_alerts_until_its_trial_is_over() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let after = |time: &str| format!("[arm]\nafter = \"{time}\"");
    let alerts = Alerts::listen(&lab);
    let deny = || {
        let conf = Conf::new(&lab).feed("list", "deny", &[LISTED]);
        conf.alerts(&alerts)
    };
    let conf = deny().section(&after("2h"));
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert_eq!(state(&daemon), "trial");
    connect(&lab.host, WEB).unwrap();
    connect(&lab.host, WEB).unwrap();
    let alert = alerts.wait(&[("action", "alert"), ("dst", LISTED)]);
    let until = daemon.row("list")["arming"]["until"]
        .as_str()
        .unwrap()
        .to_owned();
    let cause = format!("would be denied: list denies from {until} on");
    alert.assert(&[("cause", &cause), ("attribution", "exact")]);
    eventually("both are counted", || {
        text(&daemon)
            .contains("would have denied 2 flows of 1 source so far")
            .then_some(())
    });
    let status = daemon.ok(&["status"]);
    assert!(
        status.contains("arming     list armed in 1h 59m"),
        "{status}"
    );
    assert!(status.contains("list deny (on trial) 1"), "{status}");
    assert!(daemon.ok(&["feeds"]).contains("  armed in 1h 59m"));
    let lookup = daemon.ok(&["lookup", LISTED]);
    assert!(lookup.contains("let pass with an alert"), "{lookup}");
    assert!(lookup.contains(&cause), "{lookup}");
    assert!(lookup.contains("(deny, on trial)"), "{lookup}");
    // Neither a reload nor a restart begins the trial anew, or forgets what was counted.
    daemon.reload(&conf.text());
    daemon.stop();
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert_eq!(daemon.row("list")["arming"]["until"], until);
    assert!(text(&daemon).contains("denied 2 flows of 1 source"));
    // It is over, by the clock, without a restart.
    daemon.reload(&deny().section(&after("1s")).text());
    eventually("it denies", || (state(&daemon) == "none").then_some(()));
    assert!(dropped(&lab.host, WEB));
    alerts.wait(&[("action", "deny"), ("dst", LISTED)]);
    // A longer one is for new feeds.
    daemon.reload(&deny().section(&after("9h")).text());
    eventually("the reload is done", || {
        let output = daemon.output();
        (output.matches("configuration reloaded").count() == 2).then_some(())
    });
    assert!(dropped(&lab.host, WEB));
    // From alert to deny it is new.
    let alerting = Conf::new(&lab).feed("list", "alert", &[LISTED]);
    let alerting = alerting.alerts(&alerts).section(&after("9h"));
    daemon.reload(&alerting.text());
    eventually("it only alerts", || reached(&lab.host, WEB));
    daemon.reload(&deny().section(&after("9h")).text());
    eventually("a trial begins", || {
        (state(&daemon) == "trial").then_some(())
    });
    connect(&lab.host, WEB).unwrap();
}

#[test]
fn what_nobody_confirms_is_taken_back() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let conf = Conf::new(&lab).feed("list", "alert", &[LISTED]);
    let (alerts, daemon) = Daemon::alerting(&lab, &lab.host, conf.clone());
    connect(&lab.host, WEB).unwrap();
    let said = daemon.ok(&["deny", "--confirm", "1h", "list"]);
    assert!(
        said.contains("list: denied from now on, 1 entries"),
        "{said}"
    );
    assert!(said.contains("feedgate deny --keep list"), "{said}");
    assert!(dropped(&lab.host, WEB));
    alerts.wait(&[("action", "deny"), ("dst", LISTED)]);
    assert!(
        text(&daemon).contains("taken back in 3"),
        "{}",
        text(&daemon)
    );
    assert!(daemon.ok(&["status"]).contains("list deny (by command) 1"));
    daemon.ok(&["deny", "--undo", "list"]);
    connect(&lab.host, WEB).unwrap();
    // By itself, and the command is long gone.
    daemon.ok(&["deny", "--confirm", "5s", "list"]);
    eventually("it is taken back", || reached(&lab.host, WEB));
    assert_eq!(state(&daemon), "none");
    assert!(daemon.output().contains("nobody confirmed `feedgate deny`"));
    let said = daemon.fails(&["deny", "--keep", "list"]);
    assert!(said.contains("not waiting to be confirmed"), "{said}");
    // Killed in between: the kernel denies until the next daemon is there, and that one does not.
    daemon.ok(&["deny", "--confirm", "1h", "list"]);
    let daemon = daemon.killed();
    assert!(dropped(&lab.host, WEB));
    let said = daemon.fails(&["status"]);
    assert!(
        said.contains("WITHOUT A DAEMON  table inet feedgate is in the kernel"),
        "{said}"
    );
    assert!(
        said.contains("nobody confirmed it: the next start takes it back"),
        "{said}"
    );
    drop(daemon);
    let daemon = Daemon::start(&lab, &lab.host, &conf.clone().alerts(&alerts));
    connect(&lab.host, WEB).unwrap();
    assert_eq!(state(&daemon), "none");
    // Stopped in between: it is taken back before the daemon ends.
    daemon.ok(&["deny", "--confirm", "1h", "list"]);
    daemon.signal(Signal::SIGTERM);
    eventually("it is taken back", || reached(&lab.host, WEB));
}

#[test]
fn an_unconfirmed_deny_does_not_stay_with_the_table_of_the_last_run() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let conf = Conf::new(&lab).feed("list", "alert", &[LISTED]);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    daemon.ok(&["deny", "--confirm", "1h", "list"]);
    daemon.kill();
    // A feed without data would make the next daemon keep the table as it is.
    let conf = conf.feed_from("missing", "deny", "file:///nowhere/feed.txt");
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    connect(&lab.host, WEB).unwrap();
    assert!(
        daemon
            .output()
            .contains("ended before `feedgate deny` was confirmed")
    );
}

/// A daemon that is killed could not take back what it never wrote down.
#[test]
fn what_cannot_be_stored_is_not_armed() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let conf = Conf::new(&lab).feed("list", "alert", &[LISTED]);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    // A folder is in the way of the file.
    let file = lab.path("state/arming.json");
    let _ = std::fs::remove_file(&file);
    std::fs::create_dir(&file).unwrap();
    let said = daemon.fails(&["deny", "--confirm", "1h", "list"]);
    assert!(said.contains("feed list is not armed"), "{said}");
    assert_eq!(state(&daemon), "none");
    connect(&lab.host, WEB).unwrap();
    std::fs::remove_dir(&file).unwrap();
    daemon.ok(&["deny", "--confirm", "1h", "list"]);
    assert!(dropped(&lab.host, WEB));
    // What is confirmed is in force, and whoever asked knows that it is not stored.
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let said = daemon.fails(&["deny", "--keep", "list"]);
    assert!(said.contains("a restart would not know of it"), "{said}");
    assert_eq!(state(&daemon), "kept");
    let output = daemon.output();
    let told = "a restart will not know which feeds were tried out";
    assert_eq!(output.matches(told).count(), 2, "{output}");
}

/// Who is locked out switches the host off and on: the include of the boot must not lock him out again.
#[test]
fn what_nobody_confirmed_is_not_in_the_sets_of_a_boot() {
    let Some(lab) = Lab::new() else { return };
    let list = lab.path("late.txt");
    let url = format!("file://{}", list.display());
    let conf = Conf::new(&lab).feed_from("list", "alert", &url);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    // No file was written yet: there were no data. With them one is due.
    std::fs::write(&list, LISTED).unwrap();
    daemon.ok(&["refresh", "list"]);
    daemon.ok(&["deny", "--confirm", "1h", "list"]);
    // The host is looked at every five seconds, and the file written after that: with the second
    // address the turn of the first is over.
    for address in ["192.0.2.77", "192.0.2.78"] {
        lab.host
            .ip(&[&format!("addr add {address}/24 dev eth0")])
            .unwrap();
        eventually("the address is known", || {
            let lookup = daemon.ok(&["lookup", address]);
            lookup.contains("excepted: own address").then_some(())
        });
    }
    let file = lab.path("state/sets.nft");
    let denies = || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let mut sets = text
            .split("add element")
            .filter(|set| set.contains("_hosts4"));
        sets.any(|set| set.contains(" deny_") && set.contains(LISTED))
    };
    assert!(!denies(), "{}", std::fs::read_to_string(&file).unwrap());
    daemon.ok(&["deny", "--keep", "list"]);
    daemon.stop();
    assert!(denies(), "{}", std::fs::read_to_string(&file).unwrap());
}

#[test]
fn a_feed_with_a_new_name_has_no_new_trial() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let list = lab.path("list.txt");
    std::fs::write(&list, LISTED).unwrap();
    let named = |name| {
        let conf = Conf::new(&lab).feed_from(name, "deny", &format!("file://{}", list.display()));
        conf.section("[arm]\nafter = \"9h\"")
    };
    let short = named("old").text().replace("9h", "5s");
    let daemon = Daemon::start(&lab, &lab.host, &named("old"));
    daemon.reload(&short);
    eventually("its trial is over", || {
        dropped(&lab.host, WEB).then_some(())
    });
    daemon.reload(&named("new").text());
    eventually("it is there under its new name", || {
        let output = daemon.output();
        output.contains("feed new: pulled, 1 entries").then_some(())
    });
    assert!(dropped(&lab.host, WEB), "{}", daemon.output());
    assert!(
        daemon
            .output()
            .contains("feed new has the url that old had")
    );
    // With other options the same list denies others: that is new.
    daemon.reload(
        &named("strict")
            .text()
            .replace("action = \"deny\"", "action = \"deny\"\nmin-prefix4 = 24"),
    );
    eventually("it is on trial", || reached(&lab.host, WEB));
    daemon.reload(&short.replace("\"old\"", "\"new\""));
    eventually("its trial is over", || {
        dropped(&lab.host, WEB).then_some(())
    });
    daemon.stop();
    let daemon = Daemon::start(&lab, &lab.host, &named("third"));
    eventually("also over a restart", || {
        let output = daemon.output();
        output
            .contains("feed third: pulled, 1 entries")
            .then_some(())
    });
    assert!(dropped(&lab.host, WEB), "{}", daemon.output());
}

#[test]
fn what_is_confirmed_stays_also_over_a_restart() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let conf = Conf::new(&lab).feed("list", "alert", &[LISTED]);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    daemon.ok(&["deny", "--confirm", "1h", "list"]);
    let said = daemon.ok(&["deny", "--keep", "list"]);
    assert!(said.contains("write action = \"deny\""), "{said}");
    daemon.stop();
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert!(dropped(&lab.host, WEB));
    assert_eq!(state(&daemon), "kept");
    assert!(daemon.ok(&["feeds"]).contains("denies since 2"));
    let said = daemon.fails(&["deny", "--confirm", "1h", "list"]);
    assert!(said.contains("is kept denying already"), "{said}");
    // Written down, it is plain, and no trial begins.
    let plain = Conf::new(&lab).feed("list", "deny", &[LISTED]);
    daemon.reload(&plain.section("[arm]\nafter = \"9h\"").text());
    eventually("it is plain", || (state(&daemon) == "none").then_some(()));
    assert!(dropped(&lab.host, WEB));
    let said = daemon.fails(&["deny", "--confirm", "1h", "list"]);
    assert!(
        said.contains("denies already, by its configuration"),
        "{said}"
    );
    let said = daemon.fails(&["deny", "--undo", "list"]);
    assert!(said.contains("nothing is taken back"), "{said}");
    for (wrong, why) in [("1s", "must be 5s to 24h"), ("25h", "must be 5s to 24h")] {
        let said = daemon.fails(&["deny", "--confirm", wrong, "list"]);
        assert!(said.contains(why), "{said}");
    }
    let said = daemon.fails(&["deny", "--confirm", "1m", "other"]);
    assert!(said.contains("no feed is named other"), "{said}");
}

#[test]
fn on_a_terminal_enter_keeps_it_and_a_lost_terminal_does_not() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let conf = Conf::new(&lab).feed("list", "alert", &[LISTED]);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let ask = |then: &str| {
        let exe = crate::support::feedgate().display().to_string();
        let config = lab.path("feedgate.toml").display().to_string();
        // script(1) gives the command a terminal.
        let command = format!("{exe} --config {config} deny --confirm 1h list");
        let shell = format!("{then} | script -qefc '{command}' /dev/null");
        let mut run = lab.host.command("sh");
        run.args(["-c", &shell]).output().unwrap()
    };
    // The terminal goes away when its input ends.
    let output = ask("sleep 1");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("Press Enter to keep it"), "{said}");
    assert_eq!(state(&daemon), "pending");
    daemon.ok(&["deny", "--undo", "list"]);
    // What was typed before the question is no answer: a pasted line may go on after the command.
    let output = ask("(echo; sleep 1)");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("Press Enter to keep it"), "{said}");
    assert_eq!(state(&daemon), "pending");
    daemon.ok(&["deny", "--undo", "list"]);
    let output = ask("(sleep 1; echo; sleep 1)");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("list: kept; it denies since"), "{said}");
    assert_eq!(state(&daemon), "kept");
}
