//! The client commands and the exit codes (DESIGN.md section 4).

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Output},
};

use serde_json::{Value, json};

use crate::support::{Conf, Daemon, Lab, feedgate, install, nft, privileged};

fn run(arguments: &[&str]) -> Output {
    Command::new(feedgate()).args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    let both = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8(both).unwrap()
}

/// A configuration that names nothing of this host's own, unless `text` does.
fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    let mut text = text.to_owned();
    for (table, keys) in [
        ("daemon", "state-dir = \"/nonexistent/state\""),
        ("manifests", "dir = \"\""),
    ] {
        if !text.contains(&format!("[{table}]")) {
            text += &format!("\n[{table}]\n{keys}\n");
        }
    }
    fs::write(&file, text).unwrap();
    file
}

#[test]
fn usage_mistakes_are_2() {
    for arguments in [&["--nonsense"][..], &["nonsense"], &["lookup"], &[]] {
        let output = run(arguments);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            text(&output)
        );
    }
}

#[test]
fn help_and_version_are_0() {
    assert!(text(&run(&["--help"])).contains("lookup"));
    assert!(text(&run(&["--version"])).contains(env!("CARGO_PKG_VERSION")));
    assert_eq!(run(&["--help"]).status.code(), Some(0));
}

#[test]
fn a_broken_configuration_is_78_with_line_and_caret() {
    let config = file("[daemon]\nstate-dri = \"/var/lib/feedgate\"\n");
    let path = config.path().to_str().unwrap();
    for arguments in [["check", "--config", path], ["--config", path, "check"]] {
        let output = run(&arguments);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains(path) && said.contains(":2:"), "{said}");
        assert!(said.contains("state-dri") && said.contains('^'), "{said}");
    }
}

#[test]
fn a_configuration_that_is_no_utf8_is_78_with_its_place() {
    let config = file("");
    fs::write(config.path(), b"[daemon]\n# \xff\n").unwrap();
    let path = config.path().to_str().unwrap();
    for verb in ["check", "status"] {
        let output = run(&[verb, "--config", path]);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains(&format!("{path}:2:3: not UTF-8")), "{said}");
    }
}

#[test]
fn check_tells_programs_too() {
    let check = |text: &str| -> (Option<i32>, Value) {
        let config = file(text);
        let output = run(&[
            "check",
            "--json",
            "--config",
            config.path().to_str().unwrap(),
        ]);
        (
            output.status.code(),
            serde_json::from_slice(&output.stdout).unwrap(),
        )
    };
    let (code, good) = check("[arm]\nafter = \"1s\"\n[[feed]]\nname = \"a\"\n");
    assert_eq!(
        (code, &good["good"], &good["feeds"]),
        (Some(0), &json!(true), &json!(1))
    );
    let (code, bad) = check("[daemon]\nnonsense = 1\n[[feed]]\nperiod = 5\n");
    assert_eq!((code, &bad["good"]), (Some(78), &json!(false)));
    let found = &bad["diagnostics"];
    assert_eq!(found.as_array().unwrap().len(), 3, "{found}");
    let first = json!([
        found[0]["level"],
        found[0]["key"],
        found[0]["line"],
        found[0]["column"]
    ]);
    assert_eq!(first, json!(["error", "daemon.nonsense", 2, 1]));
}

#[test]
fn a_header_file_that_everybody_reads_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    fs::write(&key, "s3cret\n").unwrap();
    let config = file(&format!(
        "[[feed]]\nname = \"a\"\nurl = \"https://feeds.example/a\"\n\
         headers = {{ X-Key = {{ file = \"{}\" }} }}\n",
        key.display()
    ));
    let path = config.path().to_str().unwrap();
    for (mode, warned) in [(0o644, true), (0o640, false)] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let output = run(&["check", "--config", path]);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert_eq!(said.contains("chmod o-r"), warned, "{said}");
    }
}

#[test]
fn files_that_are_not_there_are_all_told() {
    let config = file(
        "[[feed]]\nname = \"a\"\nurl = \"https://feeds.example/a\"\n\
         headers = { X-Key = { file = \"/nonexistent/key\" } }\n\
         [[feed]]\nname = \"b\"\nurl = \"file:///nonexistent/list\"\n\
         [[feed]]\nname = \"off\"\nurl = \"file:///nonexistent/off\"\nenabled = false\n\
         [[alerts.syslog]]\naddress = \"tls:192.0.2.1:6514\"\nca-file = \"/nonexistent/ca.pem\"\n",
    );
    let output = run(&["check", "--config", config.path().to_str().unwrap()]);
    let said = text(&output);
    // The daemon starts without them, and so a pipeline that has no secrets can check.
    assert_eq!(output.status.code(), Some(0), "{said}");
    for path in [
        "/nonexistent/key",
        "/nonexistent/list",
        "/nonexistent/ca.pem",
    ] {
        assert!(said.contains(&format!("{path} is not there")), "{said}");
    }
    assert!(
        said.contains("3 warnings") && !said.contains("/off"),
        "{said}"
    );
}

#[test]
fn a_missing_configuration_is_78() {
    let output = run(&["check", "--config", "/nonexistent/feedgate.toml"]);
    assert_eq!(output.status.code(), Some(78), "{}", text(&output));
    assert!(text(&output).contains("/nonexistent/feedgate.toml"));
}

#[test]
fn a_good_configuration_is_0() {
    let config =
        file("[[feed]]\nname = \"a\"\nurl = \"https://feeds.example/a.txt\"\naction = \"deny\"\n");
    let path = config.path().to_str().unwrap();
    assert_eq!(run(&["check", "--config", path]).status.code(), Some(0));
    let printed = text(&run(&["check", "--print", "--config", path]));
    assert!(printed.contains("https://feeds.example/a.txt"), "{printed}");
}

#[test]
fn status_without_a_daemon_is_1() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    let config = file(&format!(
        "[daemon]\ncontrol-socket = \"{}\"\n",
        socket.display()
    ));
    let output = run(&["status", "--config", config.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(
        text(&output).contains(socket.to_str().unwrap()),
        "{}",
        text(&output)
    );
}

#[test]
fn status_says_what_holds_without_a_daemon() {
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab).feed("block", "deny", &["203.0.113.1"]);
    let daemon = Daemon::start(&lab, &lab.host, &conf).killed();
    let said = daemon.fails(&["status"]);
    assert!(said.contains("no feedgate answers on"), "{said}");
    assert!(
        said.contains("is in the kernel: what it denies stays denied"),
        "{said}"
    );
    assert!(!said.contains("nobody confirmed"), "{said}");
    let output = daemon.ctl_command(&["status", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let left: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&left["running"], &left["table"]["state"]),
        (&false.into(), &"present".into()),
        "{left}"
    );
    let first = left["says"][0].as_str().unwrap();
    assert!(first.starts_with("WITHOUT A DAEMON"), "{left}");
    nft(&lab.host, &["delete", "table", "inet", "feedgate"]);
    let said = daemon.fails(&["status"]);
    assert!(
        said.contains("NOT PROTECTED  there is no table inet feedgate"),
        "{said}"
    );
}

#[test]
fn status_does_not_call_the_table_of_a_running_daemon_unprotected() {
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab).feed("block", "deny", &["203.0.113.1"]);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    if !nft(&lab.host, &["list", "table", "inet", "feedgate"]).contains("owner") {
        eprintln!("skipped: owned tables need kernel 6.9");
        return;
    }
    fs::remove_file(lab.path("control.sock")).unwrap();
    let said = daemon.fails(&["status"]);
    assert!(
        said.contains("is held by a running program") && !said.contains("NOT PROTECTED"),
        "{said}"
    );
}

#[test]
fn an_admins_table_without_sets_that_deny_denies_nothing() {
    let Some(lab) = Lab::new() else { return };
    let config = lab.path("include.toml");
    fs::write(
        &config,
        format!(
            "[daemon]\ncontrol-socket = \"{}\"\nstate-dir = \"{}\"\n[nftables]\nmode = \"include\"\ntable = \"filter\"\n",
            lab.path("none.sock").display(),
            lab.path("state").display()
        ),
    )
    .unwrap();
    let status = || {
        let mut command = lab.host.command(feedgate());
        let output = command.args(["status", "--config"]).arg(&config).output();
        text(&output.unwrap())
    };
    nft(&lab.host, &["add", "table", "inet", "filter"]);
    let said = status();
    assert!(
        said.contains("NOT PROTECTED  table inet filter has no set of feedgate's"),
        "{said}"
    );
    nft(
        &lab.host,
        &["add set inet filter deny_out_hosts4 { type ipv4_addr; }"],
    );
    let said = status();
    assert!(said.contains("what it denies stays denied"), "{said}");
}

#[test]
fn no_privileges_is_77_and_names_the_capability() {
    if !privileged() {
        return;
    }
    // Another user may not be able to walk to the build folder: give it a copy.
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let exe = dir.path().join("feedgate");
    install(feedgate(), &exe);
    let config = dir.path().join("feedgate.toml");
    fs::write(&config, "[daemon]\nstate-dir = \"/tmp\"\n").unwrap();
    for verb in ["run", "demo", "down"] {
        let output = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
            .arg(&exe)
            .args([verb, "--config"])
            .arg(&config)
            .output()
            .unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(77), "{verb}: {said}");
        assert!(said.contains("CAP_NET_ADMIN"), "{verb}: {said}");
    }
}

#[test]
fn the_reading_commands_tell_what_the_daemon_does() {
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab)
        .feed("block", "deny", &["203.0.113.0/24", "2001:db8:bad::1"])
        .feed("watch", "alert", &["203.0.113.1"]);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let json =
        |arguments: &[&str]| -> Value { serde_json::from_str(&daemon.ok(arguments)).unwrap() };

    let status = json(&["status", "--json"]);
    assert_eq!(status["protected"], true, "{status}");
    assert_eq!(status["problems"], json!([]), "{status}");
    assert_eq!(status["table"]["state"], "present", "{status}");
    assert_eq!(status["table"]["elements"], 3, "{status}");
    let feed = |name: &str, entries: u64| json!({ "name": name, "entries": entries });
    let feeds: Vec<Value> = status["feeds"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| json!({ "name": f["name"], "entries": f["entries"] }))
        .collect();
    assert_eq!(feeds, [feed("block", 2), feed("watch", 1)]);
    let said = daemon.ok(&["status"]);
    assert!(said.starts_with("PROTECTED"), "{said}");
    assert!(said.lines().count() <= 10, "ten lines must do: {said}");

    let listed = json(&["lookup", "203.0.113.1", "--json"]);
    for direction in ["egress", "ingress"] {
        assert_eq!(listed[direction]["action"], "deny", "{listed}");
        assert_eq!(listed[direction]["class"], "deny", "{listed}");
        assert_eq!(
            listed[direction]["feeds"],
            json!(["block", "watch"]),
            "{listed}"
        );
        assert_eq!(listed[direction]["indicator"], "203.0.113.0/24", "{listed}");
    }
    assert_eq!(
        listed["listings"][0]["indicator"], "203.0.113.1",
        "most specific first: {listed}"
    );
    let unlisted = json(&["lookup", "198.51.100.9", "--json"]);
    assert_eq!(
        (&unlisted["egress"], &unlisted["listings"]),
        (&Value::Null, &json!([]))
    );
    let six = json(&["lookup", "2001:db8:bad::1", "--json"]);
    assert_eq!(six["egress"]["feeds"], json!(["block"]), "{six}");
    assert_eq!(
        daemon.ctl(&["lookup", "not-an-address"]).status.code(),
        Some(2)
    );

    let rules = daemon.ok(&["nft", "print"]);
    for part in [
        "table inet feedgate",
        "set deny_nets4",
        "chain inspect_output",
        "queue num",
    ] {
        assert!(rules.contains(part), "{part} in {rules}");
    }
    let elements = daemon.ok(&["nft", "print", "--elements"]);
    assert!(elements.starts_with(&rules), "{elements}");
    assert!(elements.contains("203.0.113.0/24"), "{elements}");
}
