//! How feeds are pulled: conditions, redirects, waits, many at once, TLS.

use std::{
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::support::{Conf, Daemon, Lab, Reply, Site, Tls, dropped, eventually, nft, web};

const AT: &str = "127.0.0.1:8099";
const LIST: &str = "203.0.113.1\n";

/// Seconds that may pass between a pull and the look at when the next one is.
const SLACK: i64 = 50;

/// Seconds from now until a time in `feeds --json`.
#[track_caller]
fn until(time: &serde_json::Value) -> i64 {
    let time = OffsetDateTime::parse(time.as_str().unwrap(), &Rfc3339).unwrap();
    (time - OffsetDateTime::now_utc()).whole_seconds()
}

#[test]
fn not_modified_is_a_success() {
    let Some(lab) = Lab::new() else { return };
    let modified = "Sat, 22 Aug 2026 01:00:29 GMT";
    let site = Site::start(&lab.host, AT, move |request| {
        if request.header("If-None-Match") == "\"v1\"" {
            Reply::status("304 Not Modified")
        } else {
            Reply::ok(LIST)
                .with("ETag: \"v1\"")
                .with(format!("Last-Modified: {modified}"))
        }
    });
    let conf = Conf::new(&lab).feed_from("f", "deny", &site.url("/list"));
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let first = daemon.row("f")["last_success"].clone();
    let row = eventually("a success at another second", || {
        let said = daemon.ok(&["refresh", "f"]);
        assert_eq!(said, "f: not modified, 1 entries\n");
        let row = daemon.row("f");
        (row["last_success"].as_str() > first.as_str()).then_some(row)
    });
    let last = site.last();
    assert_eq!(last.header("if-modified-since"), modified);
    assert!(last.header("user-agent").starts_with("feedgate/"));
    assert_eq!(row["entries"], 1);
    let confirmed = row["last_success"].clone();
    daemon.stop();

    // The validators and the time outlive a restart.
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert_eq!(site.last().header("if-none-match"), "\"v1\"");
    assert!(nft(&lab.host, &["list", "ruleset"]).contains("203.0.113.1"));
    site.reply(Reply::status("500 Oops"));
    daemon.fails(&["refresh"]);
    assert!(daemon.row("f")["last_success"].as_str() >= confirmed.as_str());
}

#[test]
fn redirects_only_to_the_same_scheme_or_upwards() {
    let Some(lab) = Lab::new() else { return };
    let to = |url: String| Reply::status("302 Found").with(format!("Location: {url}"));
    let tls = Tls::new("127.0.0.1");
    let ca = lab.path("ca.pem");
    std::fs::write(&ca, &tls.ca).unwrap();
    let secure = Site::start_tls(
        &lab.host,
        "127.0.0.1:8443",
        &tls,
        move |request| match request.target.as_str() {
            "/down" => to("http://127.0.0.1:8099/list".into()),
            _ => Reply::ok(LIST),
        },
    );
    let plain = Site::start(&lab.host, AT, move |request| {
        match request.target.as_str() {
            "/same" => to("/list".into()),
            "/up" => to("https://127.0.0.1:8443/list".into()),
            "/file" => to("file:///etc/passwd".into()),
            "/loop" => to("/loop".into()),
            _ => Reply::ok(LIST),
        }
    });
    let conf = Conf::new(&lab)
        .feed_from("same", "deny", &plain.url("/same"))
        .key("headers = { Authorization = \"Bearer s3cret\" }")
        .feed_from("up", "deny", &plain.url("/up"))
        .key("headers = { Authorization = \"Bearer s3cret\" }")
        .feed_from("down", "deny", &secure.url("/down"))
        .feed_from("file", "deny", &plain.url("/file"))
        .feed_from("loop", "deny", &plain.url("/loop"));
    let ca = ca.to_str().unwrap();
    let daemon = Daemon::start_with(&lab, &lab.host, &conf, &[("SSL_CERT_FILE", ca)]);
    for name in ["same", "up"] {
        assert_eq!(daemon.row(name)["entries"], 1, "{}", daemon.row(name));
    }
    for (name, says) in [
        ("down", "it leaves https for http"),
        ("file", "redirect to file:///etc/passwd refused"),
        ("loop", "more than 5 redirects"),
    ] {
        let said = daemon.fails(&["refresh", name]);
        assert!(said.contains(says), "{said}");
    }
    let looped = plain.seen().iter().filter(|r| r.target == "/loop").count();
    assert_eq!(
        looped % 6,
        0,
        "six requests for each of the pulls: {looped}"
    );
    // A key for one server is not for another.
    assert!(
        secure
            .seen()
            .iter()
            .all(|r| r.header("authorization").is_empty())
    );
    assert!(
        plain
            .seen()
            .iter()
            .any(|r| r.header("authorization") == "Bearer s3cret")
    );
}

#[test]
fn a_server_that_asks_to_wait_is_heeded_and_failures_back_off() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::start(&lab.host, AT, |request| match request.target.as_str() {
        "/later" => Reply::status("429 Slow down").with("Retry-After: 7200"),
        "/ages" => Reply::status("503 Busy").with("Retry-After: 99999999"),
        _ => Reply::status("500 Oops"),
    });
    let conf = Conf::new(&lab)
        .feed_from("later", "deny", &site.url("/later"))
        .feed_from("ages", "deny", &site.url("/ages"))
        .key("period = \"30days\"")
        .feed_from("fails", "deny", &site.url("/fails"))
        .key("period = \"5m\"");
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let next = |name: &str| until(&daemon.row(name)["next_pull"]);
    assert!((7100..=7200).contains(&next("later")), "{}", next("later"));
    assert!(
        (86_000..=86_400).contains(&next("ages")),
        "{}",
        next("ages")
    );
    // 1, 2, 4 minutes with up to a tenth more, then the period.
    let mut waits = vec![next("fails")];
    for _ in 0..3 {
        daemon.fails(&["refresh", "fails"]);
        waits.push(next("fails"));
    }
    for (wait, minutes) in waits.iter().zip([1, 2, 4, 5]) {
        let usual = minutes * 60;
        assert!(
            (usual - SLACK..=usual * 11 / 10).contains(wait),
            "{waits:?}"
        );
    }
    // Many failures of a feed with a long period are no danger either.
    for _ in 0..20 {
        daemon.fails(&["refresh", "ages"]);
    }
    assert!(daemon.ok(&["status"]).contains("answered 503"));
}

#[test]
fn a_header_from_a_file_that_others_can_write_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::start(&lab.host, AT, |request| match request.header("x-key") {
        "s3cret" => Reply::ok(LIST),
        _ => Reply::status("401 Unauthorized"),
    });
    let key = lab.path("key");
    std::fs::write(&key, "s3cret\n").unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o666)).unwrap();
    let conf = Conf::new(&lab)
        .feed_from("f", "deny", &site.url("/list"))
        .key(&format!(
            "headers = {{ X-Key = {{ file = \"{}\" }} }}",
            key.display()
        ));
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let error = daemon.row("f")["last_error"].to_string();
    assert!(
        error.contains("chmod go-w") && !error.contains("s3cret"),
        "{error}"
    );
    assert!(site.seen().is_empty(), "nothing was sent");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    daemon.ok(&["refresh", "f"]);
    assert!(!daemon.output().contains("s3cret"));
}

#[test]
fn refresh_pulls_one_or_all_and_knows_the_names() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::start(&lab.host, AT, |_| Reply::ok(LIST));
    let conf = Conf::new(&lab)
        .feed_from("a", "deny", &site.url("/a"))
        .feed_from("b", "deny", &site.url("/b"))
        .feed_from("off", "deny", &site.url("/off"))
        .key("enabled = false");
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let count = |path: &str| site.seen().iter().filter(|r| r.target == path).count();
    daemon.ok(&["refresh", "a"]);
    assert_eq!((count("/a"), count("/b")), (2, 1));
    daemon.ok(&["refresh"]);
    assert_eq!((count("/a"), count("/b"), count("/off")), (3, 2, 0));
    assert!(
        daemon
            .fails(&["refresh", "c"])
            .contains("there are a, b, off")
    );
    assert!(daemon.fails(&["refresh", "off"]).contains("not enabled"));
    let json = daemon.ok(&["refresh", "--json"]);
    assert!(json.contains("\"changed\": true"), "{json}");
}

#[test]
fn the_period_has_jitter_and_a_reload_pulls_what_changed() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::start(&lab.host, AT, |request| match request.header("x-key") {
        "right" => Reply::ok(LIST),
        _ => Reply::status("401 Unauthorized"),
    });
    let with = |key: &str| {
        Conf::new(&lab)
            .feed_from("f", "deny", &site.url("/list"))
            .key(&format!(
                "headers = {{ X-Key = \"{key}\" }}\nperiod = \"10h\""
            ))
    };
    let daemon = Daemon::start(&lab, &lab.host, &with("wrong"));
    let said = daemon.fails(&["refresh"]);
    assert!(said.contains("check the feed's headers"), "{said}");
    daemon.reload(&with("right").text());
    let row = eventually("pulled at once", || {
        let row = daemon.row("f");
        (row["entries"] == 1 && row["next_pull"].is_string()).then_some(row)
    });
    let next = until(&row["next_pull"]);
    assert!((36_000 - SLACK..=39_600).contains(&next), "{next}");
}

#[test]
fn servers_that_hang_hold_nobody_back() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let hung = Site::start(&lab.host, "127.0.0.1:8098", |_| Reply::Hang);
    let site = Site::start(&lab.host, AT, |_| {
        Reply::Late(Duration::from_millis(300), LIST.into())
    });
    let mut conf = Conf::new(&lab).section("[pull]\ntotal-timeout = \"10m\"");
    for n in 0..12 {
        conf = conf.feed_from(&format!("a-hangs-{n:02}"), "deny", &hung.url("/x"));
    }
    for n in 0..6 {
        conf = conf.feed_from(&format!("b-good-{n}"), "deny", &site.url(&format!("/{n}")));
    }
    let start = Instant::now();
    // Not `start`: that would wait for the pulls that hang.
    let daemon = Daemon::try_start(&lab, &lab.host, &conf).unwrap();
    let took = start.elapsed();
    assert!(
        took >= Duration::from_secs(9),
        "ready after {took:?} although a pull hangs"
    );
    for n in 0..6 {
        let name = format!("b-good-{n}");
        eventually("a feed of the other server is there", || {
            (daemon.row(&name)["entries"] == 1).then_some(())
        });
    }
    assert!(dropped(&lab.host, "203.0.113.1:80"));
    assert!(hung.most() <= 2, "{} at once from one server", hung.most());
    assert!(site.most() <= 2, "{} at once from one server", site.most());
    assert_eq!(daemon.row("a-hangs-00")["pulling"], true);
    assert!(daemon.ok(&["feeds"]).contains("being pulled now"));
    let status = daemon.ok(&["status"]);
    assert!(
        status.contains("feed a-hangs-00 has not been pulled yet"),
        "{status}"
    );
    // Which two of them have their turn first is not said.
    assert!(
        daemon.output().contains(": still pulling after"),
        "{}",
        daemon.output()
    );
}

#[test]
fn https_with_a_ca_of_its_own() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let tls = Tls::new("127.0.0.1");
    let site = Site::start_tls(&lab.host, "127.0.0.1:8443", &tls, |_| Reply::ok(LIST));
    let ca = lab.path("ca.pem");
    std::fs::write(&ca, &tls.ca).unwrap();
    let conf = Conf::new(&lab).feed_from("f", "deny", &site.url("/list"));
    let env = [("SSL_CERT_FILE", ca.to_str().unwrap())];
    let daemon = Daemon::start_with(&lab, &lab.host, &conf, &env);
    assert!(
        dropped(&lab.host, "203.0.113.1:80"),
        "{}",
        daemon.ok(&["status"])
    );
    daemon.stop();

    std::fs::write(&ca, Tls::new("127.0.0.1").ca).unwrap();
    let daemon = Daemon::start_with(&lab, &lab.host, &conf, &env);
    let error = daemon.row("f")["last_error"].as_str().unwrap().to_owned();
    for part in [
        "https://127.0.0.1:8443/list",
        "TLS",
        "certificate",
        "CA certificates",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(
        dropped(&lab.host, "203.0.113.1:80"),
        "the last good data stay"
    );
}

#[test]
fn the_proxy_of_the_environment_is_used_and_never_cut_off() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let proxy = Site::start(&lab.server, "203.0.113.9:3128", |request| {
        assert_eq!(request.target, "http://203.0.113.77/list");
        Reply::ok("203.0.113.0/24\n")
    });
    let conf = Conf::new(&lab).feed_from("f", "deny", "http://203.0.113.77/list");
    let env = [("http_proxy", "http://203.0.113.9:3128")];
    let daemon = Daemon::start_with(&lab, &lab.host, &conf, &env);
    assert!(
        dropped(&lab.host, "203.0.113.1:80"),
        "{}",
        daemon.ok(&["feeds"])
    );
    daemon.ok(&["refresh"]);
    assert_eq!(proxy.seen().len(), 2);
    let shown = daemon.ok(&["feeds"]);
    assert!(shown.contains("touched by an exception"), "{shown}");
    assert!(daemon.ok(&["status", "--json"]).contains("proxy"));
}

#[test]
fn ca_and_proxy_of_the_configuration() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let tls = Tls::new("127.0.0.1");
    let site = Site::start_tls(&lab.host, "127.0.0.1:8443", &tls, |_| Reply::ok(LIST));
    let proxy = Site::start(&lab.server, "203.0.113.9:3128", |_| {
        Reply::ok("203.0.113.8/31\n")
    });
    let ca = lab.path("ca.pem");
    let pull = |more: &str| format!("[pull]\nca-files = [\"{}\"]\n{more}", ca.display());
    let conf = Conf::new(&lab).feed_from("f", "deny", &site.url("/list"));
    // A file that is not there is no reason not to start.
    let daemon = Daemon::start(&lab, &lab.host, &conf.clone().section(&pull("")));
    assert!(
        daemon.output().contains("ca.pem of pull.ca-files"),
        "{}",
        daemon.output()
    );
    assert_eq!(daemon.ctl(&["check"]).status.code(), Some(78));
    assert!(daemon.row("f")["last_error"].to_string().contains("TLS"));
    std::fs::write(&ca, &tls.ca).unwrap();
    daemon.reload(&conf.clone().section(&pull("")).text());
    eventually("the reload reads the file", || {
        daemon.ctl(&["refresh", "f"]).status.success().then_some(())
    });
    assert!(dropped(&lab.host, "203.0.113.1:80"));

    let by_proxy = Conf::new(&lab)
        .feed_from("p", "deny", "http://203.0.113.77/list")
        .section(&pull("proxy = \"http://203.0.113.9:3128\""));
    daemon.reload(&by_proxy.text());
    eventually("pulled through the proxy", || {
        dropped(&lab.host, "203.0.113.8:80").then_some(())
    });
    assert_eq!(proxy.last().target, "http://203.0.113.77/list");
    daemon.ok(&["refresh"]);
    assert!(
        daemon
            .ok(&["feeds"])
            .contains("203.0.113.8/31: proxy of pull.proxy")
    );
}

/// What was pulled from an old url stays in force until the new one has given something good, and is no
/// measure for that.
#[test]
fn the_data_of_an_old_url_stay_until_the_new_one_is_good() {
    let Some(lab) = Lab::new() else { return };
    let listed =
        |daemon: &Daemon<'_>, address: &str| daemon.ok(&["lookup", address]).contains("denied");
    let file = |name: &str| format!("file://{}", lab.path(name).display());
    let old: String = (1..=100).map(|i| format!("203.0.113.{i}\n")).collect();
    std::fs::write(lab.path("old.txt"), old).unwrap();
    let conf = |url: &str| Conf::new(&lab).feed_from("f", "deny", url);
    let daemon = Daemon::start(&lab, &lab.host, &conf(&file("old.txt")));
    assert!(listed(&daemon, "203.0.113.7"));

    daemon.reload(&conf(&file("new.txt")).text());
    eventually("the new url is tried", || {
        let row = daemon.row("f");
        let tried = row["url"]
            .as_str()
            .is_some_and(|url| url.ends_with("new.txt"))
            && row["last_error"].is_string();
        tried.then_some(())
    });
    assert!(listed(&daemon, "203.0.113.7"), "{}", daemon.output());
    assert_eq!(daemon.row("f")["entries"], 100);

    // One of a hundred: a much smaller update of the same url would be held back.
    std::fs::write(lab.path("new.txt"), "198.51.100.1\n").unwrap();
    daemon.ok(&["refresh", "f"]);
    assert!(listed(&daemon, "198.51.100.1"), "{}", daemon.output());
    assert!(!listed(&daemon, "203.0.113.7"));
    assert_eq!(daemon.row("f")["entries"], 1);
}
