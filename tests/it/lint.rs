//! What is odd about a feed, before it blocks anything.

use std::process::Command;

use serde_json::Value;

use crate::support::{Conf, Daemon, Lab, Reply, Site, feedgate, nft};

fn lint(arguments: &[&str]) -> String {
    let output = Command::new(feedgate())
        .arg("lint")
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

const ODD: &str = "8.8.8.8\n10.1.2.3\n203.0.113.0/24\n203.0.113.9\n80.0.0.0/10\nfoo bar\n0.0.0.0/0\n80.1.1.1/24\n";

#[test]
fn a_file_is_looked_at_without_a_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("list.txt");
    std::fs::write(&file, ODD).unwrap();
    let path = file.to_str().unwrap();
    let said = lint(&[path]);
    for line in [
        "6 entries in 8 lines",
        "Google DNS: 8.8.8.8",
        "private space: 10.1.2.3",
        "reserved space: 203.0.113.0/24",
        "very wide entry: 80.0.0.0/10",
        "inside others: ",
        "malformed line: line 6: foo bar",
        "too wide: line 7: 0.0.0.0/0",
        "bits behind the length",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let known = folder.path().join("misp.json");
    let list = r#"{"name": "Our partners", "type": "cidr", "list": ["80.1.1.0/24"], "matching_attributes": []}"#;
    std::fs::write(&known, list).unwrap();
    let said = lint(&[path, "--known", known.to_str().unwrap()]);
    assert!(said.contains("addresses of Our partners"), "{said}");
    let json: Value = serde_json::from_str(&lint(&[path, "--json"])).unwrap();
    assert_eq!(json[0]["kind"], "known-good");
    std::fs::write(&file, "80.1.1.1\n").unwrap();
    assert!(lint(&[path]).contains("nothing odd"));
}

#[test]
fn a_structured_file_is_read_as_a_feed_or_a_preset_is() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let config = write(
        "feedgate.toml",
        "[[feed]]\nname = \"c2\"\nformat = \"csv\"\n[feed.csv]\nfield-name = \"ip\"\n",
    );
    let csv = write("c2.csv", "when,ip\ntoday,8.8.8.8\n");
    let said = lint(&[&csv, "--as", "c2", "--config", &config]);
    assert!(said.contains("Google DNS: 8.8.8.8"), "{said}");
    let drop = write("drop.json", "{\"cidr\":\"8.8.8.0/24\",\"sblid\":\"x\"}\n");
    let said = lint(&[&drop, "--as", "spamhaus-drop"]);
    assert!(said.contains("Google DNS: 8.8.8.0/24"), "{said}");
    // What can be told from the text needs no help.
    let stix = write(
        "bundle.json",
        r#"{"type": "bundle", "objects": [{"type": "indicator", "id": "indicator--1",
            "pattern_type": "stix", "pattern": "[ipv4-addr:value = '8.8.8.8']"}]}"#,
    );
    assert!(lint(&[&stix]).contains("Google DNS: 8.8.8.8"));
    let other = write("other.json", r#"{"data": ["8.8.8.8"]}"#);
    for (arguments, says) in [
        (vec!["lint", &other], "--as FEED"),
        (vec!["lint", &csv], "--as FEED"),
        (vec!["lint", &csv, "--as", "nobody"], "is named nobody"),
    ] {
        let output = Command::new(feedgate()).args(&arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(says), "{says}: {said}");
    }
}

#[test]
fn a_feed_is_looked_at_before_it_is_enabled() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::start(&lab.host, "127.0.0.1:8099", |_| Reply::ok(ODD));
    let conf = Conf::new(&lab)
        .feed_from("new", "deny", &site.url("/list"))
        .key("enabled = false\nmax-bad = \"50%\"")
        .feed("old", "deny", &["203.0.113.0/25", "80.1.1.0/24"]);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let said = daemon.ok(&["lint", "new"]);
    assert!(said.contains("Google DNS: 8.8.8.8"), "{said}");
    assert!(
        said.contains("also in feed old: 203.0.113.9, 80.1.1.0/24"),
        "{said}"
    );
    assert!(
        !nft(&lab.host, &["list", "ruleset"]).contains("8.8.8.8"),
        "nothing is enforced"
    );
    assert_eq!(daemon.row("new")["entries"], 0);
    let known = lab.path("misp.json");
    let list = r#"{"name": "Our partners", "type": "cidr", "list": ["80.1.1.0/24"], "matching_attributes": []}"#;
    std::fs::write(&known, list).unwrap();
    for feed in ["new", "old"] {
        let said = daemon.ok(&["lint", feed, "--known", known.to_str().unwrap()]);
        assert!(said.contains("with addresses of Our partners: "), "{said}");
    }
    assert!(
        daemon
            .fails(&["lint", "nobody"])
            .contains("no feed is named nobody")
    );
}

#[test]
fn a_feed_is_looked_at_without_a_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let (list, config) = (folder.path().join("l"), folder.path().join("feedgate.toml"));
    std::fs::write(&list, ODD).unwrap();
    let text = format!(
        "[daemon]\ncontrol-socket = \"{0}/socket\"\n[[feed]]\nname = \"new\"\nurl = \"file://{0}/l\"\n",
        folder.path().display()
    );
    std::fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    let said = lint(&["new", "--config", config]);
    assert!(said.starts_with("feed new: 6 entries"), "{said}");
    assert!(said.contains("Google DNS: 8.8.8.8"), "{said}");
    let mut command = Command::new(feedgate());
    let output = command
        .args(["lint", "nobody", "--config", config])
        .output();
    assert_eq!(output.unwrap().status.code(), Some(1));
}

#[test]
fn the_findings_are_in_the_status() {
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab)
        .feed("odd", "alert", &ODD.lines().collect::<Vec<_>>())
        .key("max-bad = \"50%\"");
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let row = daemon.row("odd");
    let kinds: Vec<_> = row["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["kind"].clone())
        .collect();
    for kind in [
        "known-good",
        "private",
        "reserved",
        "wide",
        "too-wide",
        "malformed",
        "redundant",
        "host-bits",
    ] {
        assert!(kinds.contains(&kind.into()), "{kind}: {row}");
    }
    assert_eq!(row["bad"]["examples"][0]["text"], "foo bar", "{row}");
    let shown = daemon.ok(&["feeds"]);
    assert!(
        shown.contains("lint: 1 entry with addresses of Google DNS: 8.8.8.8"),
        "{shown}"
    );
    assert!(
        shown.contains("malformed: 1 line\n    line 6: foo bar"),
        "{shown}"
    );
    assert!(daemon.ok(&["status", "--json"]).contains("Google DNS"));
    let status = daemon.ok(&["status"]);
    assert!(
        status.contains("odd") && status.contains("Google DNS"),
        "{status}"
    );
}

#[test]
fn the_labs_feed_has_resolvers_and_cdns_in_it() {
    let Some(file) = crate::feeds::shared("lab/feed.txt") else {
        return;
    };
    let said = lint(&[file.to_str().unwrap()]);
    println!("{said}");
    let text = std::fs::read_to_string(&file).unwrap();
    let listed = |address: &str| text.lines().any(|line| line.trim() == address);
    let json: Value = serde_json::from_str(&lint(&[file.to_str().unwrap(), "--json"])).unwrap();
    let good: Vec<&Value> = json
        .as_array()
        .unwrap()
        .iter()
        .filter(|f| f["kind"] == "known-good")
        .collect();
    assert!(!good.is_empty(), "{said}");
    for finding in &good {
        assert!(finding["who"].is_string(), "{finding}");
        for example in finding["examples"].as_array().unwrap() {
            assert!(
                listed(example.as_str().unwrap()),
                "{example} is in the feed as written"
            );
        }
    }
    let owners = good
        .iter()
        .map(|f| f["who"].to_string())
        .collect::<String>();
    assert!(owners.contains("Cloudflare"), "{owners}");
}
