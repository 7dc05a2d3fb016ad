//! `feedgate selftest`: a canary through the whole path, and what is said when that is broken.

use serde_json::Value;

use crate::support::{Alerts, Conf, Daemon, Lab, counter_in, eventually, load, nft};

const STEPS: [&str; 8] = [
    "set",
    "send",
    "queue",
    "attribution",
    "alert",
    "verdict",
    "drop",
    "removal",
];

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn names(report: &Value) -> Vec<&str> {
    let steps = report["steps"].as_array().unwrap();
    steps
        .iter()
        .map(|step| step["name"].as_str().unwrap())
        .collect()
}

/// The first step that failed, with what it says.
fn failed(report: &Value) -> &Value {
    let mut steps = report["steps"].as_array().unwrap().iter();
    steps.find(|step| step["ok"] == false).unwrap()
}

#[test]
fn a_canary_goes_all_the_way_and_never_leaves_the_host() {
    let Some(lab) = Lab::new() else { return };
    load(
        &lab.gateway,
        "table inet seen { counter seen { }; chain c { type filter hook prerouting priority -300; \
         udp dport 9 counter name seen; }; }",
    );
    let conf = Conf::new(&lab).feed("list", "alert", &["203.0.113.254"]);
    let (alerts, daemon) = Daemon::alerting(&lab, &lab.host, conf);
    let before = daemon.ok(&["status"]);
    assert!(
        before.contains("selftest   not run since the start"),
        "{before}"
    );
    let said = daemon.ok(&["selftest"]);
    for name in STEPS {
        assert!(said.contains(&format!("ok     {name}")), "{said}");
    }
    assert!(said.contains("passed in "), "{said}");
    // 203.0.113.254 is listed, so another one was chosen.
    let canary = "203.0.113.253";
    assert!(said.contains(canary), "{said}");
    let alert = alerts.wait(&[("feed", "feedgate-selftest")]);
    alert.assert(&[
        ("action", "deny"),
        ("dst", canary),
        ("indicator", canary),
        ("attribution", "exact"),
        ("comm", "feedgate-probe"),
    ]);
    let report = json(&daemon.ok(&["selftest", "--json"]));
    assert_eq!(
        (&report["passed"], names(&report)),
        (&Value::Bool(true), STEPS.to_vec())
    );
    for step in ["set", "queue", "attribution", "alert", "verdict", "removal"] {
        let steps = report["steps"].as_array().unwrap();
        let step = steps.iter().find(|found| found["name"] == step).unwrap();
        assert!(step["us"].is_u64(), "{step}");
    }
    // It is no flow that was denied, and nothing of it stays.
    let status = daemon.status();
    assert_eq!(status["last_hour"]["denied"], 0);
    assert_eq!(status["selftest"]["passed"], true);
    assert!(status["selftest"]["age_s"].is_u64());
    assert!(daemon.ok(&["status"]).contains("selftest   passed "));
    assert!(daemon.ok(&["lookup", canary]).contains("left alone"));
    assert!(!nft(&lab.host, &["list", "table", "inet", "feedgate"]).contains(canary));
    assert_eq!(counter_in(&lab.gateway, ["inet", "seen"], "seen"), 0);
}

#[test]
fn it_works_with_a_consensus_and_rejects_too() {
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab)
        .feed("list", "alert", &["203.0.113.1"])
        .nftables("deny-with = \"reject\"")
        .section("[consensus]\ndeny-at = 3");
    let (_alerts, daemon) = Daemon::alerting(&lab, &lab.host, conf);
    let said = daemon.ok(&["selftest"]);
    assert!(said.contains("passed in "), "{said}");
}

#[test]
fn the_daemon_tests_itself_at_its_start() {
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab)
        .daemon("selftest = true")
        .feed("list", "alert", &["203.0.113.1"]);
    let (alerts, daemon) = Daemon::alerting(&lab, &lab.host, conf);
    let last = eventually("it has run", || {
        let status = daemon.status();
        status.get("selftest").cloned()
    });
    assert_eq!(last["passed"], true, "{last}");
    assert!(daemon.output().contains("the self-test passed in "));
    let alert = alerts.wait(&[("feed", "feedgate-selftest")]);
    assert_eq!(alert.get("ppid"), daemon.pid().to_string());
}

#[test]
fn what_is_broken_is_named_with_what_to_do() {
    let Some(lab) = Lab::new() else { return };
    // A target that is not there.
    let conf = Conf::new(&lab).feed("list", "alert", &["203.0.113.1"]);
    let silent = conf.clone().syslog("unix:/nowhere/log", "");
    let daemon = Daemon::start(&lab, &lab.host, &silent);
    let output = daemon.ctl(&["selftest", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report = json(&String::from_utf8(output.stdout).unwrap());
    let step = failed(&report);
    assert_eq!(step["name"], "alert");
    assert!(
        step["text"]
            .as_str()
            .unwrap()
            .contains("unix:/nowhere/log failed"),
        "{step}"
    );
    assert!(step["help"].is_string());
    let status = daemon.ok(&["status"]);
    assert!(
        status.contains("! the self-test failed at alert: "),
        "{status}"
    );
    assert!(status.contains("selftest   FAILED"), "{status}");
    daemon.stop();
    // Another program drops the packet first.
    let alerts = Alerts::listen(&lab);
    let daemon = Daemon::start(&lab, &lab.host, &conf.clone().alerts(&alerts));
    load(
        &lab.host,
        "table inet other { chain c { type filter hook output priority -300; udp dport 9 drop; }; }",
    );
    let output = daemon.ctl(&["selftest"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("FAILED send"), "{said}");
    assert!(said.contains("FAILED in "), "{said}");
    daemon.stop();
    // Nothing of this host itself is looked at.
    let forward = conf.nftables("hooks = [\"forward\"]");
    let daemon = Daemon::start(&lab, &lab.host, &forward.alerts(&alerts));
    let output = daemon.ctl(&["selftest"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("not testable: [nftables] hooks has no \"output\""),
        "{said}"
    );
    let status = daemon.ok(&["status"]);
    assert!(!status.contains("! the self-test"), "{status}");
}

#[test]
fn a_self_test_whose_client_is_gone_blocks_the_next_one_for_a_while_only() {
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab).feed("list", "alert", &["203.0.113.1"]);
    let (_alerts, daemon) = Daemon::alerting(&lab, &lab.host, conf);
    let socket = lab.path("control.sock");
    let begun = feedgate::control::call(&socket, &feedgate::control::Request::SelftestBegin);
    assert!(begun.unwrap()["order"]["to"].is_string());
    let said = daemon.fails(&["selftest"]);
    assert!(said.contains("another self-test is running"), "{said}");
    // Its canary goes by itself, after half a minute.
    let listed = |daemon: &Daemon<'_>| daemon.ok(&["lookup", "203.0.113.254"]);
    assert!(listed(&daemon).contains("denied"));
    eventually("the canary is gone", || {
        listed(&daemon).contains("left alone").then_some(())
    });
    let said = daemon.ok(&["selftest"]);
    assert!(said.contains("passed in "), "{said}");
}
