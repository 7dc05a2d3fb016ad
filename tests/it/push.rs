//! Feeds without a URL: their text is pushed through the control socket.

use crate::support::{Conf, Daemon, Lab, connect, dropped, nft, web};

/// A feed that is pushed, and one that is pulled.
fn conf(lab: &Lab) -> Conf {
    let conf = Conf::new(lab).feed("pulled", "alert", &["198.18.0.1"]);
    // A feed without url: the builder always writes one, so it is a section of its own.
    conf.section("[[feed]]\nname = \"pushed\"\naction = \"deny\"\nmax-bytes = \"1MiB\"")
}

#[test]
fn a_text_or_a_list_is_pushed() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let daemon = Daemon::start(&lab, &lab.host, &conf(&lab));
    let status = daemon.ok(&["status"]);
    assert!(
        status.contains("feed pushed has not been pushed yet"),
        "{status}"
    );

    let file = lab.path("list.txt");
    std::fs::write(&file, "# mine\n203.0.113.1\n203.0.113.2\n").unwrap();
    let said = daemon.ok(&["push", "pushed", file.to_str().unwrap()]);
    assert_eq!(said, "pushed: taken, in the kernel, 2 entries\n");
    assert!(dropped(&lab.host, "203.0.113.1:80"));

    let json = br#"{"ips": ["203.0.113.3", "203.0.113.2", "2001:db8:bad::1"]}"#;
    let output = daemon.ctl_with(&["push", "pushed", "-"], json);
    assert!(output.status.success(), "{output:?}");
    assert!(dropped(&lab.host, "203.0.113.3:80"));
    assert!(dropped(&lab.host, "[2001:db8:bad::1]:80"));
    connect(&lab.host, "203.0.113.1:80").expect("no longer listed");
    let row = daemon.row("pushed");
    assert!(
        row["last_success"].is_string() && row["stale"] == false,
        "{row}"
    );
    daemon.stop();

    // It is kept over a restart.
    let daemon = Daemon::start(&lab, &lab.host, &conf(&lab));
    assert!(dropped(&lab.host, "203.0.113.3:80"));
    assert!(!daemon.ok(&["status"]).contains("pushed yet"));
}

#[test]
fn what_is_no_list_is_refused_and_changes_nothing() {
    let Some(lab) = Lab::new() else { return };
    let daemon = Daemon::start(&lab, &lab.host, &conf(&lab));
    let push = |feed: &str, text: &[u8]| {
        let output = daemon.ctl_with(&["push", feed, "-"], text);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(
        daemon
            .ctl_with(&["push", "pushed", "-"], b"203.0.113.1\n")
            .status
            .success()
    );
    let before = nft(&lab.host, &["list", "ruleset"]);
    let large = "203.0.113.1 # padding\n".repeat(60_000);
    for (text, says) in [
        (&b""[..], "no entries"),
        (b"\0\x01\x02garbage\n", "is an IP address"),
        (b"<html>no</html>", "HTML"),
        (br#"{"ips": [1, 2]}"#, ""),
        (br#"{"ips": ["203.0.113.1""#, ""),
        (large.as_bytes(), "max-bytes"),
    ] {
        let said = push("pushed", text);
        assert!(said.contains(says), "{says}: {said}");
        assert!(said.starts_with("feedgate: feed pushed: "), "{said}");
        assert_eq!(nft(&lab.host, &["list", "ruleset"]), before, "{says}");
    }
    assert!(
        daemon.row("pushed")["last_error"]
            .as_str()
            .unwrap()
            .contains("max-bytes")
    );
    let said = push("pulled", b"203.0.113.9\n");
    assert!(said.contains("is pulled, not pushed"), "{said}");
    assert!(push("nobody", b"203.0.113.9\n").contains("no feed is named nobody"));
    assert!(
        daemon
            .fails(&["push", "pushed", "/does/not/exist"])
            .contains("/does/not/exist")
    );
    assert!(
        daemon
            .fails(&["refresh", "pushed"])
            .contains("it is pushed, not pulled")
    );
    assert_eq!(nft(&lab.host, &["list", "ruleset"]), before);
}

#[test]
fn a_push_that_shrinks_much_waits_for_an_accept() {
    let Some(lab) = Lab::new() else { return };
    let daemon = Daemon::start(&lab, &lab.host, &conf(&lab));
    let many: String = (1..100).map(|n| format!("203.0.113.{n}\n")).collect();
    assert!(
        daemon
            .ctl_with(&["push", "pushed", "-"], many.as_bytes())
            .status
            .success()
    );
    let output = daemon.ctl_with(&["push", "pushed", "-"], b"203.0.113.1\n");
    assert_eq!(output.status.code(), Some(1));
    let shown = daemon.ok(&["refresh", "pushed", "--dry-run"]);
    assert!(shown.contains("- 98 entries"), "{shown}");
    daemon.ok(&["feeds", "accept", "pushed"]);
    assert_eq!(daemon.row("pushed")["entries"], 1);
}
