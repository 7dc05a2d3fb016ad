//! Each format end to end: pulled over HTTP by the daemon, in the kernel.

use std::{
    io::Write as _,
    sync::{Arc, Mutex},
};

use serde_json::json;

use crate::support::{
    Alerts, Conf, Daemon, Lab, Reply, Site, connect, dropped, eventually, nft, web,
};

const AT: &str = "127.0.0.1:8099";

fn sets(lab: &Lab) -> String {
    nft(&lab.host, &["list", "ruleset"])
}

/// A daemon with one deny feed of this body.
#[track_caller]
fn check(body: impl Into<Vec<u8>>, keys: &str, listed: &[&str], not: &[&str]) {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let body = body.into();
    let site = Site::start(&lab.host, AT, move |_| Reply::ok(body.clone()));
    let conf = Conf::new(&lab)
        .feed_from("f", "deny", &site.url("/list"))
        .key(keys);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let said = daemon.ok(&["feeds"]);
    for address in listed {
        assert!(dropped(&lab.host, address), "{address}: {said}");
    }
    for address in not {
        connect(&lab.host, address).unwrap_or_else(|e| panic!("{address}: {e}: {said}"));
    }
}

#[test]
fn csv_with_its_options() {
    check(
        "% made by hand\nwhen;dst_ip;dst_port;status;score\nx;203.0.113.1;80;online;9\n\
         x;\"203.0.113.2\";443;online;9\nx;203.0.113.3;80;offline;9\nx;203.0.113.4;80;online;1\n",
        "format = \"csv\"\nmin-score = 5\nmax-shrink = \"90%\"\n[feed.csv]\nfield-name = \"dst_ip\"\n\
         header = true\ncolumn-delimiter = \";\"\ncomment-delimiter = \"%\"\nrecord-size = 5\n\
         port-column = \"dst_port\"\nscore-column = \"score\"\nonly = { status = \"online\" }",
        &["203.0.113.1:80"],
        &["203.0.113.2:80", "203.0.113.3:80", "203.0.113.4:80"],
    );
}

#[test]
fn csv_by_number_and_ragged() {
    check(
        "a,203.0.113.1\nb,203.0.113.2,more\n",
        "format = \"csv\"\n[feed.csv]\nfield-num = 1\ndisable-record-size-validation = true",
        &["203.0.113.1:80", "203.0.113.2:80"],
        &["203.0.113.3:80"],
    );
}

#[test]
fn json_by_a_path() {
    let body = json!({ "data": [{ "ip": "203.0.113.1", "bad": true }, { "ip": "203.0.113.2", "bad": false },
        { "ip": "2001:db8:bad::1", "bad": true }] });
    check(
        body.to_string(),
        "format = \"json\"\n[feed.json]\npath = \"$.data[?@.bad == true].ip\"",
        &["203.0.113.1:80", "[2001:db8:bad::1]:80"],
        &["203.0.113.2:80"],
    );
}

#[test]
fn json_objects_with_ports() {
    let body = json!([{ "ip_address": "203.0.113.1", "port": 80 }, { "ip_address": "203.0.113.2", "port": 443 }]);
    check(
        body.to_string(),
        "format = \"json\"\n[feed.json]\npath = \"$[*]\"\naddress-key = \"ip_address\"\nport-key = \"port\"",
        &["203.0.113.1:80"],
        &["203.0.113.2:80"],
    );
}

#[test]
fn json_lines() {
    check(
        "{\"cidr\":\"203.0.113.0/30\",\"sblid\":\"SBL1\"}\n{\"cidr\":\"2001:db8:bad::/126\",\"sblid\":\"SBL2\"}\n\
         {\"type\":\"metadata\",\"timestamp\":1784000000,\"size\":2,\"records\":2}\n",
        "format = \"jsonl\"\n[feed.json]\npath = \"$\"\naddress-key = \"cidr\"\ntag-key = \"sblid\"",
        &["203.0.113.1:80", "[2001:db8:bad::1]:80"],
        &["203.0.113.5:80"],
    );
}

#[test]
fn stix() {
    let indicator = |n: u32, pattern: &str, more: serde_json::Value| {
        let mut object = json!({ "type": "indicator", "spec_version": "2.1", "id": format!("indicator--{n}"),
            "created": "2024-01-01T12:00:00Z", "modified": "2024-01-01T12:00:00Z",
            "pattern_type": "stix", "pattern": pattern, "valid_from": "2024-01-01T12:00:00Z" });
        object
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        object
    };
    let body = json!({ "type": "bundle", "id": "bundle--1", "objects": [
        indicator(1, "[ipv4-addr:value = '203.0.113.1']", json!({})),
        indicator(2, "[ipv4-addr:value = '203.0.113.2']", json!({ "valid_until": "2024-02-01T00:00:00Z" })),
        indicator(3, "[ipv4-addr:value = '203.0.113.3']", json!({ "revoked": true })),
        indicator(4, "[ipv6-addr:value ISSUBSET '2001:db8:bad::/126']", json!({})),
    ] });
    check(
        body.to_string(),
        "format = \"stix\"",
        &["203.0.113.1:80", "[2001:db8:bad::1]:80"],
        &["203.0.113.2:80", "203.0.113.3:80"],
    );
}

#[test]
fn gzip() {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(b"203.0.113.1\n").unwrap();
    check(
        packed.finish().unwrap(),
        "",
        &["203.0.113.1:80"],
        &["203.0.113.2:80"],
    );
}

#[test]
fn zstd() {
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    let packed = ruzstd::encoding::compress_to_vec(&b"203.0.113.1\n"[..], level);
    check(packed, "", &["203.0.113.1:80"], &["203.0.113.2:80"]);
}

#[test]
fn a_stix_indicator_that_runs_out_leaves_the_kernel() {
    let Some(lab) = Lab::new() else { return };
    // Counted from the pull, however long the daemon took to start.
    let site = Site::start(&lab.host, AT, |_| {
        let soon = time::OffsetDateTime::now_utc() + time::Duration::seconds(8);
        let until = soon.format(&time::format_description::well_known::Rfc3339);
        let body = json!({ "type": "bundle", "id": "bundle--1", "objects": [{ "type": "indicator",
            "id": "indicator--1", "modified": "2024-01-01T12:00:00Z", "pattern_type": "stix",
            "pattern": "[ipv4-addr:value = '203.0.113.1']", "valid_until": until.unwrap() }] });
        Reply::ok(body.to_string())
    });
    let conf = Conf::new(&lab)
        .feed_from("f", "deny", &site.url("/"))
        .key("format = \"stix\"");
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    // The log keeps it: on a busy machine it has run out by now.
    let said = daemon.output();
    assert!(said.contains("feed f: pulled, 1 entries"), "{said}");
    eventually("it runs out", || {
        (!sets(&lab).contains("203.0.113.1")).then_some(())
    });
    assert_eq!(daemon.row("f")["entries"], 0);
    assert_eq!(site.seen().len(), 1, "without another pull");
}

/// A LAPI: the first call with `startup=true` gives all decisions, each later one what changed.
struct Lapi {
    site: Site,
    state: Arc<Mutex<LapiState>>,
}

#[derive(Default)]
struct LapiState {
    all: Vec<(i64, String)>,
    new: Vec<(i64, String)>,
    deleted: Vec<(i64, String)>,
}

fn decision((id, value): &(i64, String), duration: &str) -> serde_json::Value {
    json!({ "id": id, "value": value, "scope": "Ip", "type": "ban", "duration": duration,
        "origin": "CAPI", "scenario": "example/ssh-bf" })
}

impl Lapi {
    fn start(lab: &Lab) -> Self {
        let state: Arc<Mutex<LapiState>> = Arc::default();
        let inner = Arc::clone(&state);
        let site = Site::start(&lab.host, "127.0.0.1:8080", move |request| {
            if request.header("X-Api-Key") != "s3cret" {
                return Reply::status("403 Forbidden");
            }
            let mut state = inner.lock().unwrap();
            let (new, deleted) = (
                std::mem::take(&mut state.new),
                std::mem::take(&mut state.deleted),
            );
            let told = if request.target.contains("startup=true") {
                &state.all
            } else {
                &new
            };
            let new: Vec<_> = told.iter().map(|d| decision(d, "4h")).collect();
            let deleted: Vec<_> = deleted.iter().map(|d| decision(d, "-1s")).collect();
            Reply::ok(json!({ "new": new, "deleted": deleted }).to_string())
        });
        Self { site, state }
    }

    fn ban(&self, id: i64, value: &str) {
        let mut state = self.state.lock().unwrap();
        state.all.push((id, value.into()));
        state.new.push((id, value.into()));
    }

    fn pardon(&self, id: i64) {
        let mut state = self.state.lock().unwrap();
        let at = state
            .all
            .iter()
            .position(|(other, _)| *other == id)
            .unwrap();
        let gone = state.all.remove(at);
        state.deleted.push(gone);
    }

    fn last(&self) -> String {
        self.site.last().target
    }
}

fn crowdsec(lab: &Lab, lapi: &Lapi) -> Conf {
    use std::os::unix::fs::PermissionsExt as _;
    let key = lab.path("key");
    std::fs::write(&key, "s3cret\n").unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    Conf::new(lab)
        .feed_from("crowdsec", "deny", &lapi.site.url("/v1/decisions/stream"))
        .key("format = \"crowdsec\"\nallow-empty = true\nperiod = \"1h\"")
        .key(&format!(
            "headers = {{ X-Api-Key = {{ file = \"{}\" }} }}",
            key.display()
        ))
}

#[test]
fn the_stream_of_crowdsec() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let alerts = Alerts::listen(&lab);
    let lapi = Lapi::start(&lab);
    for (id, value) in [
        (1, "203.0.113.1"),
        (2, "203.0.113.2"),
        (3, "203.0.113.3"),
        (4, "2001:db8:bad::1"),
    ] {
        lapi.ban(id, value);
    }
    let conf = crowdsec(&lab, &lapi).alerts(&alerts);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert!(lapi.last().contains("startup=true"), "{}", lapi.last());
    assert!(dropped(&lab.host, "203.0.113.1:80"));
    assert!(dropped(&lab.host, "[2001:db8:bad::1]:80"));

    // Deltas by id.
    lapi.pardon(1);
    lapi.ban(5, "203.0.113.5");
    daemon.ok(&["refresh"]);
    assert!(lapi.last().contains("startup=false"), "{}", lapi.last());
    connect(&lab.host, "203.0.113.1:80").expect("pardoned");
    assert!(dropped(&lab.host, "203.0.113.5:80"));
    assert!(
        dropped(&lab.host, "203.0.113.2:80"),
        "not told again, and still in force"
    );
    assert_eq!(daemon.row("crowdsec")["entries"], 4);

    // A look takes the delta away from the daemon: it starts anew.
    lapi.ban(6, "203.0.113.6");
    let shown = daemon.ok(&["refresh", "crowdsec", "--dry-run"]);
    assert!(shown.contains("+ 1 entries: 203.0.113.6"), "{shown}");
    daemon.ok(&["refresh"]);
    assert!(dropped(&lab.host, "203.0.113.6:80"));
    daemon.ok(&["refresh"]);
    assert!(lapi.last().contains("startup=false"), "{}", lapi.last());
    assert_eq!(daemon.row("crowdsec")["entries"], 5);
    daemon.stop();

    // After a restart without the LAPI the decisions hold; with it, they start anew.
    lapi.site.reply(Reply::status("502 Bad Gateway"));
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert!(dropped(&lab.host, "203.0.113.6:80"));
    assert!(lapi.last().contains("startup=true"), "{}", lapi.last());
    assert_eq!(daemon.row("crowdsec")["entries"], 5);
}

#[test]
fn a_first_large_blocklist_of_crowdsec_can_be_accepted() {
    let Some(lab) = Lab::new() else { return };
    let lapi = Lapi::start(&lab);
    lapi.ban(1, "203.0.113.1");
    let daemon = Daemon::start(&lab, &lab.host, &crowdsec(&lab, &lapi));
    for n in 0..100 {
        lapi.ban(100 + n, &format!("198.18.0.{n}"));
    }
    let said = daemon.fails(&["refresh"]);
    assert!(said.contains("max-growth"), "{said}");
    assert!(!sets(&lab).contains("198.18.0."), "held back");
    daemon.ok(&["feeds", "accept", "crowdsec"]);
    assert!(sets(&lab).contains("198.18.0.99"));
    daemon.ok(&["refresh"]);
    assert_eq!(daemon.row("crowdsec")["entries"], 101);
}

#[test]
fn presets() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let site = Site::start(&lab.host, AT, |_| {
        Reply::ok("# IPsum\n203.0.113.1\t10\n203.0.113.2\t3\n203.0.113.3\t2\n")
    });
    let conf = Conf::new(&lab)
        .feed_from("f", "deny", &site.url("/ipsum.txt"))
        .key("preset = \"ipsum\"");
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert!(dropped(&lab.host, "203.0.113.2:80"));
    connect(&lab.host, "203.0.113.3:80").expect("below the preset's min-score");
    assert_eq!(daemon.row("f")["preset"], "ipsum");

    let listed = daemon.ok(&["feeds", "presets"]);
    for name in [
        "feodo",
        "spamhaus-drop",
        "firehol-level1",
        "dshield",
        "et-block",
        "cins",
        "blocklist-de",
        "tor-exit",
        "ipsum",
    ] {
        assert!(listed.contains(&format!("{name} ")), "{name}: {listed}");
    }
    assert!(
        listed.contains("licence: ") && listed.contains("https://"),
        "{listed}"
    );
    let json: serde_json::Value =
        serde_json::from_str(&daemon.ok(&["feeds", "presets", "--json"])).unwrap();
    let first = &json[0];
    for key in [
        "name",
        "url",
        "licence",
        "note",
        "about",
        "period-seconds",
        "format",
        "directions",
    ] {
        assert!(!first[key].is_null(), "{key}: {first}");
    }
}
