//! What other tools block by becomes feeds that the daemon reads.

use std::{
    path::Path,
    process::{Command, Output},
};

use crate::support::feedgate;

fn run(arguments: &[&str]) -> Output {
    Command::new(feedgate()).args(arguments).output().unwrap()
}

#[test]
fn an_ipset_becomes_feeds_that_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let fixture = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/formats/ipset.save"
    );
    let lists = path("lists");
    let import = ["import", "ipset", fixture, "--lists", &lists];
    let output = run(&import);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    for line in [
        "ipset.save:6: not taken over as it was: 192.0.2.64/26 nomatch of set example: a feed has no exceptions",
        "ipset.save:12: not taken over as it was: 203.0.113.6,eth0 of set services: ",
        "3 feeds, 4 remarks; 3 files written to ",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    // A list that is there is never overwritten.
    let again = run(&import);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("it is there already"));

    let config = path("feedgate.toml");
    let socket = path("control.sock");
    let toml = String::from_utf8(output.stdout).unwrap();
    std::fs::write(
        &config,
        format!("{toml}\n[daemon]\ncontrol-socket = \"{socket}\"\n"),
    )
    .unwrap();
    let check = run(&["check", "--config", &config]);
    assert!(check.status.success(), "{check:?}");
    for (feed, entries) in [
        ("example", "7 entries"),
        ("example6", "1 entries"),
        ("services", "1 entries"),
    ] {
        let lint = run(&["lint", feed, "--config", &config]);
        let said = String::from_utf8_lossy(&lint.stdout).into_owned();
        assert!(
            lint.status.success() && said.contains(entries),
            "{feed}: {lint:?}"
        );
    }
}

#[test]
fn a_key_is_written_for_its_owner_only_and_never_printed() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bouncer.yaml");
    std::fs::write(&file, "api_url: http://127.0.0.1:8080/\napi_key: s3cret\n").unwrap();
    let lists = folder.path().join("lists");
    let file = file.to_str().unwrap();
    let output = run(&[
        "import",
        "crowdsec",
        file,
        "--json",
        "--lists",
        lists.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{output:?}");
    assert!(!format!("{output:?}").contains("s3cret"));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["feeds"][0]["name"], "crowdsec");
    let key = lists.join("crowdsec-key");
    assert_eq!(std::fs::read_to_string(&key).unwrap(), "s3cret\n");
    assert_eq!(mode(&key), 0o600);

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }
}

#[test]
fn what_is_something_else_is_refused_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x");
    std::fs::write(&file, "create a hash:net\n192.0.2.1\n").unwrap();
    let output = run(&["import", "ipset", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("line 2: `192.0.2.1` is no line of `ipset save`"),
        "{said}"
    );
    assert!(output.stdout.is_empty());
    assert_eq!(run(&["import", "iptables", "x"]).status.code(), Some(2));
}
