//! Metrics and health, scraped from the real daemon, and the documents about them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    million::prefixes,
    support::{Alerts, Conf, Daemon, Lab, connect, curl, dropped, eventually, feedgate, web},
};

const LISTEN: &str = "127.0.0.1:9797";
const SECTION: &str = "[metrics]\nlisten = \"127.0.0.1:9797\"";

/// A file of the project.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The status and the body of an answer; `None` without one.
fn get(lab: &Lab, address: &str, path: &str, header: &str) -> Option<(u16, String)> {
    let url = format!("http://{address}{path}");
    let output = curl(&lab.host, &["-i", "-H", header, &url]);
    let text = String::from_utf8(output.stdout).unwrap();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

fn scrape(lab: &Lab) -> String {
    let (status, body) = get(lab, LISTEN, "/metrics", "Accept: text/plain").unwrap();
    assert_eq!(status, 200, "{body}");
    body
}

/// The value of a sample, written as in the exposition.
#[track_caller]
fn value(text: &str, sample: &str) -> f64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{sample} ")));
    line.unwrap_or_else(|| panic!("no {sample} in {text}"))
        .parse()
        .unwrap()
}

/// Metrics and their types, by the lines about types.
fn types(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let pairs = lines.map(|line| line.split_once(' ').unwrap());
    pairs
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect()
}

/// Names of our metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':');
    let names = text
        .split(word)
        .filter(|word| word.starts_with("feedgate_"));
    names.map(str::to_owned).collect()
}

fn promtool() -> Option<Command> {
    let own = feedgate()
        .parent()
        .unwrap()
        .with_file_name("tools")
        .join("promtool");
    let tool = if own.exists() { own } else { "promtool".into() };
    let found = Command::new(&tool).arg("--version").output().is_ok();
    let needed = std::env::var_os("CI").is_some();
    assert!(
        found || !needed,
        "promtool is missing (make test-deps); in CI that is a failure"
    );
    if !found {
        eprintln!("skipped: there is no promtool (make test-deps)");
    }
    found.then(|| Command::new(tool))
}

#[test]
fn what_is_served_is_what_is_documented() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let alerts = Alerts::listen(&lab);
    let conf = Conf::new(&lab)
        .alerts(&alerts)
        .alerting("suppress = \"1h\"")
        .section(SECTION)
        .feed("watch", "alert", &["203.0.113.1", "203.0.113.3"])
        .feed("block", "deny", &["203.0.113.2", "203.0.113.3"]);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    for _ in 0..3 {
        connect(&lab.host, "203.0.113.1:80").unwrap();
    }
    assert!(dropped(&lab.host, "203.0.113.3:80"));
    alerts.wait(&[("dst", "203.0.113.3")]);

    let text = scrape(&lab);
    // A connection may have been there when the search for live flows came to it.
    let live = value(&text, "feedgate_live_flows_total{what=\"alerted\"}");
    for (sample, wanted) in [
        (
            "feedgate_flows_total{verdict=\"pass\",direction=\"egress\"}",
            3.0 + live,
        ),
        (
            "feedgate_flows_total{verdict=\"deny\",direction=\"egress\"}",
            1.0,
        ),
        (
            "feedgate_feed_flows_total{feed=\"watch\",verdict=\"pass\",direction=\"egress\"}",
            3.0 + live,
        ),
        (
            "feedgate_feed_flows_total{feed=\"watch\",verdict=\"deny\",direction=\"egress\"}",
            1.0,
        ),
        (
            "feedgate_feed_flows_total{feed=\"block\",verdict=\"deny\",direction=\"egress\"}",
            1.0,
        ),
        (
            "feedgate_attributions_total{grade=\"exact\",method=\"sock-diag\"}",
            4.0,
        ),
        ("feedgate_attribution_causes_total{cause=\"timeout\"}", 0.0),
        ("feedgate_suppressed_flows_total{why=\"repeat\"}", 2.0),
        ("feedgate_verdict_duration_seconds_count", 4.0),
        ("feedgate_verdict_duration_seconds_bucket{le=\"+Inf\"}", 4.0),
        ("feedgate_protected", 1.0),
        ("feedgate_feed_entries{feed=\"block\"}", 2.0),
        ("feedgate_feed_stale{feed=\"block\"}", 0.0),
        (
            "feedgate_feed_pulls_total{feed=\"block\",result=\"changed\"}",
            1.0,
        ),
        ("feedgate_table_packets_total{counter=\"denied\"}", 1.0),
        ("feedgate_heals_total", 0.0),
    ] {
        assert!(
            (value(&text, sample) - wanted).abs() < 0.1,
            "{sample} in {text}"
        );
    }
    let sink = format!(
        "feedgate_alerts_sent_total{{sink=\"{}\"}}",
        alerts.address()
    );
    assert!(value(&text, &sink) >= 2.0);
    assert!(value(&text, "feedgate_sync_duration_seconds_count") >= 1.0);

    let (_, open) = get(
        &lab,
        LISTEN,
        "/metrics",
        "Accept: application/openmetrics-text; version=1.0.0",
    )
    .unwrap();
    assert!(open.ends_with("# EOF\n"), "{open}");
    let kind = curl(
        &lab.host,
        &[
            "-sI",
            "-H",
            "Accept: application/openmetrics-text",
            &format!("http://{LISTEN}/metrics"),
        ],
    );
    let kind = String::from_utf8(kind.stdout).unwrap();
    assert!(
        kind.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{kind}"
    );

    documented(&types(&text));
    checked(&text);
    assert_eq!(get(&lab, LISTEN, "/", "A: b").unwrap().0, 404);
    drop(daemon);
}

/// The table of docs/metrics.md has every metric with its type and no other; dashboard and rules use
/// none that is not there.
fn documented(types: &BTreeMap<String, String>) {
    let text = fs::read_to_string(file("docs/metrics.md")).unwrap();
    let rows = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `feedgate_"));
    let rows = rows.map(|row| {
        let mut cells = row.split('|').map(str::trim);
        let name = cells.next().unwrap().split('`').next().unwrap();
        (format!("feedgate_{name}"), cells.next().unwrap().to_owned())
    });
    assert_eq!(rows.collect::<BTreeMap<_, _>>(), *types);

    let mut samples: BTreeSet<String> = BTreeSet::new();
    for (name, kind) in types {
        let suffixes: &[&str] = match kind.as_str() {
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        samples.extend(suffixes.iter().map(|suffix| format!("{name}{suffix}")));
    }
    for path in ["docs/grafana-dashboard.json", "docs/prometheus-rules.yml"] {
        let used = names(&fs::read_to_string(file(path)).unwrap());
        assert!(used.len() > 10, "{path}: {used:?}");
        let unknown: Vec<_> = used.difference(&samples).collect();
        assert!(unknown.is_empty(), "{path}: {unknown:?}");
    }
}

/// A parser that is not ours reads it and has nothing to say.
fn checked(text: &str) {
    let Some(mut tool) = promtool() else { return };
    tool.args(["check", "metrics"]).stdin(Stdio::piped());
    let mut child = tool
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

#[test]
fn rules_and_dashboard_are_sound() {
    let dashboard = fs::read_to_string(file("docs/grafana-dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        assert!(
            panel["title"]
                .as_str()
                .is_some_and(|title| !title.is_empty())
        );
        assert!(
            panel["type"] == "row" || panel["targets"][0]["expr"].is_string(),
            "{panel}"
        );
    }
    let Some(mut tool) = promtool() else { return };
    let output = tool
        .args(["check", "rules"])
        .arg(file("docs/prometheus-rules.yml"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("SUCCESS"),
        "{said}"
    );
    let Some(mut tool) = promtool() else { return };
    let output = tool
        .args(["test", "rules"])
        .arg(file("tests/fixtures/prometheus-rules-test.yml"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[test]
fn trials_what_is_armed_and_the_self_test_are_measured() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let alerts = Alerts::listen(&lab);
    let conf = Conf::new(&lab)
        .alerts(&alerts)
        .section(SECTION)
        .section("[arm]\nafter = \"2h\"")
        .feed("new", "deny", &["203.0.113.1"])
        .feed("watch", "alert", &["203.0.113.2"])
        .feed("plain", "alert", &["203.0.113.3"]);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let arming = |text: &str, feed: &str| {
        let states = ["trial", "pending", "kept"];
        states.map(|state| {
            let sample = format!("feedgate_feed_arming{{feed=\"{feed}\",state=\"{state}\"}}");
            value(text, &sample)
        })
    };
    for _ in 0..2 {
        connect(&lab.host, "203.0.113.1:80").unwrap();
    }
    let flows = "feedgate_feed_trial_flows_total{feed=\"new\"}";
    eventually("both flows are counted", || {
        (value(&scrape(&lab), flows) > 1.5).then_some(())
    });
    daemon.ok(&["deny", "--confirm", "1h", "watch"]);
    let text = scrape(&lab);
    assert_eq!(arming(&text, "new"), [1.0, 0.0, 0.0]);
    assert_eq!(arming(&text, "watch"), [0.0, 1.0, 0.0]);
    assert_eq!(arming(&text, "plain"), [0.0; 3]);
    let source = value(&text, "feedgate_feed_trial_sources{feed=\"new\"}");
    assert!((source - 1.0).abs() < 0.1, "{text}");
    let left = |feed| {
        value(
            &text,
            &format!("feedgate_feed_arming_left_seconds{{feed=\"{feed}\"}}"),
        )
    };
    assert!((3_600.0..7_201.0).contains(&left("new")), "{text}");
    assert!((1.0..3_601.0).contains(&left("watch")), "{text}");
    assert!(!text.contains("left_seconds{feed=\"plain\"}"), "{text}");
    assert!(
        !text.contains("\nfeedgate_selftest_passed "),
        "there was none: {text}"
    );
    daemon.ok(&["deny", "--keep", "watch"]);
    assert_eq!(arming(&scrape(&lab), "watch"), [0.0, 0.0, 1.0]);

    daemon.ok(&["selftest"]);
    let text = scrape(&lab);
    for sample in [
        "feedgate_selftest_passed",
        "feedgate_selftest_step_passed{step=\"verdict\"}",
        "feedgate_selftest_step_passed{step=\"removal\"}",
    ] {
        assert!(
            (value(&text, sample) - 1.0).abs() < 0.1,
            "{sample} in {text}"
        );
    }
    assert!(value(&text, "feedgate_selftest_age_seconds") < 60.0);
    let took = value(
        &text,
        "feedgate_selftest_step_duration_seconds{step=\"queue\"}",
    );
    assert!(took > 0.0 && took < 5.0, "{took}");
    documented(&types(&text));
    checked(&text);
}

#[test]
fn health_is_red_until_a_feed_is_there() {
    let Some(lab) = Lab::new() else { return };
    let late = lab.path("late.txt");
    let conf = Conf::new(&lab).section(SECTION).feed_from(
        "late",
        "deny",
        &format!("file://{}", late.display()),
    );
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let health = || get(&lab, LISTEN, "/healthz", "A: b").unwrap();
    let (status, body) = health();
    assert_eq!(status, 503, "{body}");
    assert!(body.starts_with("protection is off\n"), "{body}");
    assert!(body.contains("feed late is stale: "), "{body}");
    let failed = "feedgate_feed_pulls_total{feed=\"late\",result=\"file\"}";
    assert!(value(&scrape(&lab), failed) >= 1.0);
    fs::write(&late, "203.0.113.1\n").unwrap();
    daemon.ok(&["refresh", "late"]);
    assert_eq!(health(), (200, "ok\n".to_owned()));
}

#[test]
fn a_taken_port_is_told_and_tried_again_and_a_reload_moves() {
    let Some(lab) = Lab::new() else { return };
    let taken = lab
        .host
        .enter(|| TcpListener::bind(LISTEN))
        .unwrap()
        .unwrap();
    let conf = Conf::new(&lab).feed("block", "deny", &["203.0.113.1"]);
    let served = conf.clone().section(SECTION);
    let daemon = Daemon::start(&lab, &lab.host, &served);
    let problem = format!("metrics are not served on {LISTEN}: ");
    eventually("the problem is shown", || {
        let status = daemon.status();
        assert_eq!(status["protected"], true);
        let problems = status["problems"].as_array().unwrap().clone();
        problems
            .iter()
            .any(|p| p.as_str().unwrap().starts_with(&problem))
            .then_some(())
    });
    assert!(dropped(&lab.host, "203.0.113.1:80"));
    drop(taken);
    eventually("it is served once the port is free", || {
        get(&lab, LISTEN, "/healthz", "A: b")
    });
    assert_eq!(daemon.status()["problems"], Value::Array(Vec::new()));

    let other = "127.0.0.1:9798";
    daemon.reload(
        &conf
            .clone()
            .section(&SECTION.replace("9797", "9798"))
            .text(),
    );
    eventually("a reload moves it", || {
        let there = get(&lab, other, "/healthz", "A: b").is_some();
        let gone = get(&lab, LISTEN, "/healthz", "A: b").is_none();
        (there && gone).then_some(())
    });
    daemon.reload(&conf.text());
    eventually("and ends it", || {
        get(&lab, other, "/healthz", "A: b").is_none().then_some(())
    });
}

#[test]
fn a_long_load_does_not_keep_health_waiting() {
    let Some(lab) = Lab::new() else { return };
    let many = lab.path("many.txt");
    fs::write(&many, prefixes(250_000)).unwrap();
    let small = Conf::new(&lab)
        .section(SECTION)
        .feed("small", "deny", &["203.0.113.1"]);
    let large = small
        .clone()
        .feed_from("many", "deny", &format!("file://{}", many.display()));
    let daemon = Daemon::start(&lab, &lab.host, &small);
    daemon.reload(&large.text());
    eventually("both are answered in the middle of the load", || {
        let loading = || daemon.status()["loading_ms"].as_u64();
        let before = loading()?;
        let health = get(&lab, LISTEN, "/healthz", "A: b")?;
        let text = scrape(&lab);
        let after = loading()?;
        assert!([200, 503].contains(&health.0), "{health:?}");
        assert!(text.contains("feedgate_protected 1"), "{text}");
        (after > before).then_some(())
    });
}
