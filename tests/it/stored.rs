//! The store of alerts and its commands, with the real daemon: read, dismissed, verified; killed in mid-write;
//! and `durable`.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader},
    net::UdpSocket,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::{
    Alerts, Conf, Daemon, Lab, connect, dropped, eventually, feedgate, install, web,
};

const WATCHED: &str = "203.0.113.1";
const DENIED: &str = "203.0.113.2";

fn conf(lab: &Lab) -> Conf {
    Conf::new(lab)
        .feed("watch", "alert", &[WATCHED])
        .feed("block", "deny", &[DENIED])
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// A client command with the lab's configuration, whether a daemon runs or not.
fn client(lab: &Lab, arguments: &[&str]) -> Output {
    let config = lab.path("feedgate.toml");
    let mut command = Command::new(feedgate());
    command.args(arguments).arg("--config").arg(config);
    command.output().unwrap()
}

#[track_caller]
fn succeeds(lab: &Lab, arguments: &[&str]) -> String {
    let output = client(lab, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{arguments:?}: {said}{printed}");
    printed
}

/// `alerts list --json` with these words.
fn list(lab: &Lab, words: &[&str]) -> Vec<Value> {
    let arguments = [&["alerts", "list", "--json"], words].concat();
    let found = json(&succeeds(lab, &arguments));
    found.as_array().unwrap().clone()
}

/// Everything that is stored; nothing while there is no file.
fn all(lab: &Lab) -> Vec<Value> {
    let output = client(
        lab,
        &["alerts", "list", "--json", "--limit", "0", "--state", "all"],
    );
    if output.status.success() {
        json(&String::from_utf8(output.stdout).unwrap())
            .as_array()
            .unwrap()
            .clone()
    } else {
        Vec::new()
    }
}

fn id(item: &Value) -> &str {
    item["alert"]["event"]["id"].as_str().unwrap()
}

#[track_caller]
fn stored(lab: &Lab, count: usize) -> Vec<Value> {
    eventually(&format!("{count} alerts are stored"), || {
        Some(all(lab)).filter(|all| all.len() >= count)
    })
}

#[test]
fn alerts_are_listed_shown_dismissed_and_verified() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let (_alerts, daemon) = Daemon::alerting(&lab, &lab.host, conf(&lab));
    connect(&lab.host, &format!("{WATCHED}:80")).unwrap();
    connect(&lab.host, &format!("{WATCHED}:80")).unwrap();
    assert!(dropped(&lab.host, &format!("{DENIED}:80")));
    stored(&lab, 3);
    let me = fs::read_to_string("/proc/self/comm").unwrap();
    for (words, count) in [
        (&["--action", "deny"][..], 1),
        (&["--verdict", "alert"], 2),
        (&["--feed", "watch"], 2),
        (&["--feed", "none"], 0),
        (&["--source", me.trim()], 3),
        (&["--source", "192.0.2.2"], 3),
        (&["--source", "192.0.2.3"], 0),
        (&["--since", "1h"], 3),
        (&["--since", "2099-01-01T00:00:00Z"], 0),
        (&["--state", "dismissed"], 0),
        (&["--feed", "watch", "--limit", "1"], 1),
    ] {
        assert_eq!(list(&lab, words).len(), count, "{words:?}");
    }
    let all = list(&lab, &[]);
    assert_eq!(all[0]["alert"]["event"]["action"], "deny", "newest first");
    let table = daemon.ok(&["alerts", "list"]);
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(
        table.contains(id(&all[0])) && table.contains("203.0.113.2:80"),
        "{table}"
    );

    let shown = json(&daemon.ok(&["alerts", "show", &id(&all[0])[..30], "--json"]));
    assert_eq!(shown["alert"], all[0]["alert"]);
    let text = daemon.ok(&["alerts", "show", id(&all[0])]);
    assert!(
        text.contains("process.pid") && text.contains("feedgate.held_us"),
        "{text}"
    );
    let several = daemon.fails(&["alerts", "show", "0"]);
    assert!(
        several.contains("fits several alerts") && several.contains(id(&all[1])),
        "{several}"
    );
    assert!(
        daemon
            .fails(&["alerts", "show", "ffffffff"])
            .contains("no stored alert")
    );

    let done = json(&daemon.ok(&[
        "alerts",
        "dismiss",
        id(&all[1]),
        "--note",
        "our scanner",
        "--json",
    ]));
    assert_eq!(done["dismissed"], 1);
    let dismissed = list(&lab, &["--state", "dismissed"]);
    assert_eq!(dismissed[0]["dismissed"]["note"], "our scanner");
    assert_eq!(dismissed[0]["dismissed"]["by"]["uid"], 0);
    daemon.ok(&["alerts", "dismiss", "--all", "--feed", "watch"]);
    assert_eq!(list(&lab, &[]).len(), 1);
    assert_eq!(daemon.ctl(&["alerts", "dismiss"]).status.code(), Some(2));
    let both = daemon.ctl(&["alerts", "dismiss", id(&all[0]), "--feed", "watch"]);
    assert_eq!(both.status.code(), Some(2));

    let graph = json(&daemon.ok(&["graph", "--json"]));
    let edges = graph["edges"].as_array().unwrap();
    assert_eq!((edges.len(), &edges[0]["flows"]), (2, &Value::from(2)));
    assert_eq!(edges[0]["feeds"][0], "watch");
    assert_eq!(edges[0]["network_sets"][0], "threatfeed.watch");
    let text = daemon.ok(&["graph"]);
    assert!(
        text.contains(" -> threatfeed.watch\n  2 x allowed egress 203.0.113.1, "),
        "{text}"
    );
    assert!(
        daemon
            .ok(&["graph", "--dot"])
            .starts_with("digraph feedgate {")
    );
    assert!(
        daemon
            .ok(&["graph", "--feed", "none"])
            .contains("no stored alert fits")
    );

    let report = json(&daemon.ok(&["alerts", "verify", "--json"]));
    assert_eq!(
        (&report["ok"], &report["alerts"]),
        (&Value::from(true), &Value::from(3))
    );
    let status = daemon.status();
    assert_eq!(status["store"]["head"], report["head"]);
    assert!(daemon.ok(&["status"]).contains("store  "));
    daemon.ok(&[
        "alerts",
        "verify",
        "--anchor",
        report["head"].as_str().unwrap(),
    ]);
    // An intruder, while the daemon runs.
    sql(&lab, "DELETE FROM record WHERE seq = 3");
    let output = daemon.ctl(&["alerts", "verify"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.starts_with("CHANGED") && said.contains("record 3 is missing"),
        "{said}"
    );
}

fn database(lab: &Lab) -> PathBuf {
    lab.path("state/alerts.db")
}

/// Changes the database with SQLite's own tool.
fn sql(lab: &Lab, text: &str) {
    let done = Command::new("sqlite3")
        .arg(database(lab))
        .arg(text)
        .status();
    assert!(done.expect("sqlite3 is installed").success(), "{text}");
}

#[test]
fn without_a_daemon_the_file_is_read() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let daemon = Daemon::start(&lab, &lab.host, &conf(&lab));
    connect(&lab.host, &format!("{WATCHED}:80")).unwrap();
    let all = stored(&lab, 1);
    assert_eq!(daemon.stop().code(), Some(0));
    assert_eq!(list(&lab, &[]), all);
    assert!(succeeds(&lab, &["alerts", "show", id(&all[0])]).contains("203.0.113.1"));
    assert!(succeeds(&lab, &["graph"]).contains("203.0.113.1"));
    assert!(succeeds(&lab, &["alerts", "verify"]).starts_with("good: 2 records"));
    let refused = client(&lab, &["alerts", "dismiss", id(&all[0])]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no feedgate answers"));
    // Nobody may read it but root.
    let program = lab.path("feedgate");
    install(feedgate(), &program);
    let config = lab.path("feedgate.toml");
    let mut nobody = Command::new(&program);
    nobody
        .args(["alerts", "list", "--config"])
        .arg(&config)
        .uid(65_534)
        .gid(65_534);
    let output = nobody.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{said}");
    // Without any file the answer says what to do.
    fs::remove_file(database(&lab)).unwrap();
    let none = client(&lab, &["alerts", "list"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&none.stderr).contains("no alert was stored yet"));
}

/// A program that is ended with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn followers_see_what_comes_also_after_a_restart() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let conf = conf(&lab);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    connect(&lab.host, &format!("{WATCHED}:80")).unwrap();
    stored(&lab, 1);
    let mut follow = Command::new(feedgate());
    follow.args(["alerts", "follow", "--json", "--feed", "watch", "--config"]);
    follow.arg(lab.path("feedgate.toml"));
    let mut follow = Running(
        follow
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let (line, lines) = mpsc::channel();
    let (said, told) = mpsc::channel();
    let (out, err) = (
        follow.0.stdout.take().unwrap(),
        follow.0.stderr.take().unwrap(),
    );
    std::thread::spawn(move || {
        for text in BufReader::new(out).lines().map_while(Result::ok) {
            let _ = line.send(json(&text));
        }
    });
    std::thread::spawn(move || {
        for text in BufReader::new(err).lines().map_while(Result::ok) {
            let _ = said.send(text);
        }
    });
    let patience = Duration::from_secs(120);
    let seen = eventually("it follows", || {
        connect(&lab.host, &format!("{WATCHED}:80")).unwrap();
        lines.recv_timeout(Duration::from_secs(1)).ok()
    });
    assert!(
        seen["seq"].as_i64().unwrap() > 2,
        "what was there before is not shown"
    );
    assert_eq!(daemon.stop().code(), Some(0));
    assert!(
        told.recv_timeout(patience)
            .unwrap()
            .contains("waiting for it")
    );
    let _daemon = Daemon::start(&lab, &lab.host, &conf);
    assert!(
        told.recv_timeout(patience)
            .unwrap()
            .contains("answers again")
    );
    while lines.recv_timeout(Duration::from_millis(500)).is_ok() {}
    assert!(dropped(&lab.host, &format!("{DENIED}:80")));
    let port = connect(&lab.host, &format!("{WATCHED}:80"))
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let next = lines.recv_timeout(patience).unwrap();
    assert_eq!(next["alert"]["source"]["port"], port, "{next}");
}

#[test]
fn killed_in_mid_write_it_loses_only_the_last_alerts_and_says_so() {
    /// Threads that hand alerts on, to syslog first and then to the store: so many may be in between.
    const THREADS: usize = 4;
    let Some(lab) = Lab::new() else { return };
    let alerts = Alerts::listen(&lab);
    let conf = conf(&lab).alerts(&alerts);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _guard = StopOnDrop(&stop);
        scope.spawn(|| flood(&lab, &stop));
        for round in 0..4 {
            let before = alerts.all().len();
            let daemon = Daemon::start(&lab, &lab.host, &conf);
            if round > 0 {
                let told = daemon.status()["store"]["repaired"].clone();
                let told = told.as_str().unwrap_or_default().to_owned();
                assert!(told.contains("killed while the store was open"), "{told}");
                assert!(daemon.output().contains("killed while the store was open"));
            }
            let enough = 300 + 100 * round;
            eventually("alerts come", || {
                (alerts.all().len() > before + enough).then_some(())
            });
            let dead = daemon.killed();
            let stored: BTreeSet<String> =
                all(&lab).iter().map(|item| id(item).to_owned()).collect();
            let told = alerts.all();
            let ids = told[before..].iter().map(|alert| alert.get("id"));
            let is_stored: Vec<bool> = ids
                .filter(|id| !id.is_empty())
                .map(|id| stored.contains(id))
                .collect();
            // What the store has is the beginning of what syslog has, whatever the disk was busy with.
            let last = is_stored.iter().rposition(|stored| *stored).unwrap_or(0);
            let holes = is_stored[..last].iter().filter(|stored| !**stored).count();
            assert!(
                holes < THREADS,
                "{holes} alerts before a stored one are lost"
            );
            let lost = is_stored.iter().filter(|stored| !**stored).count();
            eprintln!("{lost} of {} alerts are lost", is_stored.len());
            assert!(succeeds(&lab, &["alerts", "verify"]).starts_with("good: "));
            drop(dead);
        }
        stop.store(true, Ordering::Relaxed);
    });
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert!(daemon.ok(&["alerts", "verify"]).starts_with("good: "));
    assert_eq!(daemon.stop().code(), Some(0));
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// New flows to the denied address, each with an alert of its own. Some 200 a second, which a debug
/// build stores on a busy machine without falling behind.
fn flood(lab: &Lab, stop: &AtomicBool) {
    let send = || {
        while !stop.load(Ordering::Relaxed) {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            let _ = socket.send_to(b"x", (DENIED, 9));
            std::thread::sleep(Duration::from_millis(4));
        }
    };
    lab.host.enter(send).unwrap();
}

/// The alerts in a copy of the files as they are now, as SQLite's own tool finds them.
fn in_the_file(lab: &Lab, to: &Path) -> String {
    for end in ["", "-wal"] {
        let from = lab.path(&format!("state/alerts.db{end}"));
        fs::copy(from, to.with_file_name(format!("copy.db{end}"))).unwrap();
    }
    let copy = to.with_file_name("copy.db");
    let ask = "SELECT body FROM record WHERE kind = 'alert' ORDER BY seq DESC LIMIT 3";
    let output = Command::new("sqlite3")
        .arg(&copy)
        .arg(ask)
        .output()
        .unwrap();
    for end in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(to.with_file_name(format!("copy.db{end}")));
    }
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn durable_means_on_disk_before_the_verdict() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let conf = conf(&lab).alerting("durable = true");
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let folder = tempfile::tempdir().unwrap();
    let mut missing = Vec::new();
    for round in 0..100 {
        let stream = connect(&lab.host, &format!("{WATCHED}:80")).unwrap();
        let port = stream.local_addr().unwrap().port();
        let found = in_the_file(&lab, &folder.path().join("x"));
        if !found.contains(&format!("\"port\":{port}")) {
            missing.push((round, port));
        }
    }
    // Only a disk that did not answer for a second lets a verdict go first, and that is counted.
    let late = daemon.status()["store"]["late_verdicts"].as_u64().unwrap();
    assert!(
        u64::try_from(missing.len()).unwrap() <= late,
        "{missing:?}, {late} late"
    );
    drop(daemon);
    for round in 0..5 {
        let daemon = Daemon::start(&lab, &lab.host, &conf);
        let port = connect(&lab.host, &format!("{WATCHED}:80")).unwrap();
        let port = port.local_addr().unwrap().port();
        daemon.kill();
        let newest = &all(&lab)[0];
        assert_eq!(newest["alert"]["source"]["port"], port, "round {round}");
    }
    assert!(succeeds(&lab, &["alerts", "verify"]).starts_with("good: "));
}

#[test]
fn a_disk_that_does_not_answer_delays_durable_verdicts_only_once() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    fs::create_dir(lab.path("state")).unwrap();
    // The writer waits for this lock and cannot write.
    let file = fs::File::create(lab.path("state/alerts.db.head")).unwrap();
    let lock = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock);
    let lock = lock.map_err(|(_, e)| e).unwrap();
    let daemon = Daemon::start(&lab, &lab.host, &conf(&lab).alerting("durable = true"));
    let begun = Instant::now();
    connect(&lab.host, &format!("{WATCHED}:80")).expect("it passes, a second late");
    assert!(
        begun.elapsed() >= Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
    assert!(
        dropped(&lab.host, &format!("{DENIED}:80")),
        "denied stays denied"
    );
    let quick = (0..5).map(|_| {
        let begun = Instant::now();
        connect(&lab.host, &format!("{WATCHED}:80")).unwrap();
        begun.elapsed()
    });
    assert!(
        quick.min().unwrap() < Duration::from_millis(500),
        "others do not wait"
    );
    let status = daemon.status();
    assert!(
        status["store"]["late_verdicts"].as_u64().unwrap() >= 7,
        "{status:#}"
    );
    let said = daemon.ok(&["status"]);
    assert!(said.contains("before their alert was on disk"), "{said}");
    assert!(daemon.output().contains("alerts are not on disk in time"));
    drop(lock);
    stored(&lab, 7);
    let late = || daemon.status()["store"]["late_verdicts"].as_u64().unwrap();
    let before = late();
    connect(&lab.host, &format!("{WATCHED}:80")).unwrap();
    assert_eq!(late(), before, "it waits again");
    assert!(
        daemon
            .output()
            .contains("on disk before their verdicts again")
    );
}

#[test]
fn another_store_or_none_by_a_reload() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let first = conf(&lab);
    let daemon = Daemon::start(&lab, &lab.host, &first);
    connect(&lab.host, &format!("{WATCHED}:80")).unwrap();
    stored(&lab, 1);
    daemon.reload(
        &first
            .clone()
            .alerting("store = \"other.db\"\nstore-max-size = \"2MiB\"")
            .text(),
    );
    eventually("the other one is in use", || {
        let file = daemon.status()["store"]["file"].clone();
        file.as_str()
            .is_some_and(|file| file.ends_with("other.db"))
            .then_some(())
    });
    connect(&lab.host, &format!("{WATCHED}:80")).unwrap();
    assert_eq!(stored(&lab, 1).len(), 1);
    daemon.reload(&first.alerting("store = \"\"").text());
    eventually("none is", || {
        daemon.status()["store"].is_null().then_some(())
    });
    connect(&lab.host, &format!("{WATCHED}:80")).unwrap();
    assert!(
        daemon
            .fails(&["alerts", "list"])
            .contains("there is no store of alerts")
    );
}

#[test]
fn durable_without_a_store_is_a_mistake_with_a_caret() {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    fs::write(&file, "[alerts]\nstore = \"\"\ndurable = true\n").unwrap();
    let mut check = Command::new(feedgate());
    let output = check
        .args(["check", "--config"])
        .arg(file.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains(":3:") && said.contains('^'), "{said}");
    assert!(said.contains("needs the store"), "{said}");
}
