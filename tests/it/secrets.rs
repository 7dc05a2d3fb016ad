//! Secrets of a configuration and of manifests are in no log, answer, metric or alert; at most in files that only the
//! daemon's user may read.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use feedgate::demo::Response;

use crate::support::{Conf, Daemon, FeedServer, Lab, connect, curl, eventually, web};

/// Each at another place.
const SECRETS: [&str; 6] = [
    "s3cret-of-the-user-part",
    "s3cret-of-the-query",
    "s3cret-of-the-header",
    "s3cret-of-the-header-file",
    "s3cret-of-the-manifest-url",
    "s3cret-of-the-manifest-header",
];

const METRICS: &str = "127.0.0.1:9479";

const MANIFEST: &str = "apiVersion: projectcalico.org/v3
kind: GlobalThreatFeed
metadata: {name: by-manifest}
spec:
  pull:
    http:
      url: http://127.0.0.1:8099/feed.txt?token=s3cret-of-the-manifest-url
      headers:
      - {name: X-Key, value: s3cret-of-the-manifest-header}
";

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

#[track_caller]
fn assert_no_secret(what: &str, text: &str) {
    for secret in SECRETS {
        if let Some(at) = text.find(secret) {
            let from = text[..at].rfind('\n').map_or(0, |at| at + 1);
            let line = text[from..].lines().next().unwrap_or_default();
            panic!("{what} has {secret}: {line}");
        }
    }
}

#[test]
fn no_secret_is_told_at_the_most_talkative_level() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let feed = FeedServer::start(&lab.host, "203.0.113.1\n");
    let key = lab.path("key");
    fs::write(&key, "s3cret-of-the-header-file\n").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let url = "http://me:s3cret-of-the-user-part@127.0.0.1:8099/feed.txt?key=s3cret-of-the-query";
    let headers = format!(
        "headers = {{ Authorization = \"s3cret-of-the-header\", X-Key = {{ file = \"{}\" }} }}",
        key.display()
    );
    let conf = Conf::new(&lab)
        .feed_from("told", "alert", url)
        .key(&headers)
        .json_file(&lab.path("alerts.json"))
        .section(&format!("[metrics]\nlisten = \"{METRICS}\""));
    let env = [("FEEDGATE_LOG", "trace")];
    let daemon = Daemon::start_with(&lab, &lab.host, &conf, &env);
    let applied = daemon.ctl_with(&["apply", "-f", "-"], MANIFEST.as_bytes());
    let said = String::from_utf8([applied.stdout, applied.stderr].concat()).unwrap();
    assert!(applied.status.success(), "{said}");
    assert_no_secret("apply", &said);
    // What goes wrong says most: a refusal, a body that is none, a configuration with mistakes.
    for status in [403, 500, 200] {
        feed.serve(Response {
            status,
            ..Response::text("<html>no list\n")
        });
        let refused = daemon.ctl(&["refresh"]);
        assert!(!refused.status.success());
        assert_no_secret(
            "refresh",
            &String::from_utf8([refused.stdout, refused.stderr].concat()).unwrap(),
        );
    }
    daemon.reload(&conf.text().replace("action = \"alert\"", "action = \"s\""));
    eventually("the reload is refused", || {
        daemon
            .output()
            .contains("the new configuration is refused")
            .then_some(())
    });
    connect(&lab.host, "203.0.113.1:80").unwrap();
    eventually("it is alerted", || {
        let events = fs::read_to_string(lab.path("alerts.json")).unwrap_or_default();
        events.contains("203.0.113.1").then_some(())
    });

    let output = daemon.output();
    assert!(output.contains("TRACE"), "{output}");
    assert_no_secret("the log", &output);
    for words in [
        &["status", "--json"][..],
        &["status"],
        &["feeds", "--json"],
        &["feeds"],
        &["alerts", "list", "--json"],
        &["get", "globalthreatfeeds"],
        &["lookup", "203.0.113.1"],
    ] {
        let output = daemon.ctl(words);
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_no_secret(&format!("{words:?}"), &said);
    }
    let metrics = curl(&lab.host, &[&format!("http://{METRICS}/metrics")]).stdout;
    assert!(metrics.starts_with(b"# "));
    assert_no_secret("the metrics", &String::from_utf8(metrics).unwrap());
    assert_no_secret(
        "the JSON file",
        &fs::read_to_string(lab.path("alerts.json")).unwrap(),
    );

    // An applied manifest is kept with its secrets, and its feed's name for them: for nobody else.
    let kept = files(&lab.path("state"));
    let holds =
        |path: &PathBuf| fs::read_to_string(path).is_ok_and(|text| text.contains(SECRETS[5]));
    assert!(kept.iter().any(holds), "{kept:?}");
    for path in kept {
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
    }
}
