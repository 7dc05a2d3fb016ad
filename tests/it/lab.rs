//! The threat feed lab with its own manifests, as `make lab` shows it.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{eventually, feedgate, privileged};

/// `tests/lab/run`, which leaves its folders below one of our own.
struct Run {
    command: Command,
    folder: PathBuf,
}

impl Run {
    fn new(runc: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("lab-{runc}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/run"));
        command.env("FEEDGATE", feedgate()).env("RUNC", runc);
        command.env("TMPDIR", &folder);
        Self { command, folder }
    }

    /// Nothing is left of it: no folder, no group.
    fn assert_gone(&self, id: u32) {
        let left: Vec<_> = std::fs::read_dir(&self.folder).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        let group = format!("fglab{id}");
        let below = |folder: &Path| folder.join(&group).exists();
        let root = Path::new("/sys/fs/cgroup");
        assert!(!below(root));
        for hierarchy in std::fs::read_dir(root).into_iter().flatten().flatten() {
            assert!(!below(&hierarchy.path()), "{hierarchy:?}");
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn every_step_is_as_expected() {
    let has_runc = |folder: PathBuf| folder.join("runc").is_file();
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !privileged() {
        return;
    }
    if !std::env::split_paths(&path).any(has_runc) {
        eprintln!("skipped: runc is not installed");
        return;
    }
    goes_through("yes");
}

#[test]
fn every_step_is_as_expected_without_runc() {
    if privileged() {
        goes_through("no");
    }
}

fn goes_through(runc: &str) {
    let mut run = Run::new(runc);
    let child = run.command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = child.spawn().unwrap();
    let id = child.id();
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().unwrap();
    let said = String::from_utf8([stdout, stderr].concat()).unwrap();
    assert_eq!(status.code(), Some(0), "{said}");
    // The script checks each of them; here it is held that it does not leave one out.
    let mut rest = said.as_str();
    for shown in [
        "Step 1.",
        "flow-log-aggregation = 1",
        "Step 2.",
        "globalthreatfeed.projectcalico.org/training.ip.threatfeed created",
        "Step 3.",
        "errorConditions: []",
        "lastSuccessfulSync: ",
        "feed: training-ip-threatfeed",
        "  - 103.133.105.61/32",
        "Step 4.",
        "HTTP/1.1 200 OK",
        "Step 5.",
        "curl[",
        "container red",
        "action=\"alert\"",
        "comm=\"curl\" container=\"red\"",
        "red -> threatfeed.training.ip.threatfeed",
        "allowed egress 10.48.255.194 by curl, container red",
        "Step 6.",
        "tier.projectcalico.org/tigera-security created",
        "tigera-security.block-training-ipthreatfeed created",
        "Step 7.",
        "Timeout",
        "red -> threatfeed.training.ip.threatfeed",
        "denied egress 10.48.255.194 by curl, container red",
        "denied egress tcp",
        "denied by policy tigera-security.block-training-ipthreatfeed",
        "Step 8.",
        "alerts are dismissed",
        "tigera-security.block-training-ipthreatfeed deleted",
        "tier.projectcalico.org/tigera-security deleted",
        "training.ip.threatfeed deleted",
        "nft list ruleset is as it was before step 2.",
        "\"verdict\":\"alert\"",
        "Every step was as expected.",
    ] {
        let at = rest.find(shown);
        let at = at.unwrap_or_else(|| panic!("{shown} is not where it should be in {said}"));
        rest = &rest[at + shown.len()..];
    }
    run.assert_gone(id);
}

#[test]
fn nothing_is_left_when_it_is_stopped_on_the_way() {
    if !privileged() {
        return;
    }
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut run = Run::new("no");
        let out = run.folder.with_extension("out");
        let file = std::fs::File::create(&out).unwrap();
        let child = run.command.stdout(file).stderr(Stdio::null());
        let mut child = child.spawn().unwrap();
        // red runs by then, in its group.
        eventually("step 5", || {
            let said = std::fs::read_to_string(&out).unwrap();
            said.contains("Step 5.").then_some(())
        });
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        let status = child.wait().unwrap();
        std::fs::remove_file(&out).unwrap();
        assert_eq!(status.code(), Some(128 + signal as i32), "{signal}");
        run.assert_gone(child.id());
    }
}

#[test]
fn a_step_that_fails_is_said_and_leaves_nothing() {
    if !privileged() {
        return;
    }
    for (key, value, why) in [
        (
            "FEEDGATE",
            "/bin/true",
            "the daemon ended before it was ready",
        ),
        // Two lines of red's log after step 6 alone take longer.
        ("LAB_SECONDS", "1", "took more than 1 seconds"),
    ] {
        let mut run = Run::new("no");
        let child = run.command.env(key, value);
        let child = child.stdout(Stdio::null()).stderr(Stdio::piped());
        let child = child.spawn().unwrap();
        let id = child.id();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{said}");
        assert!(said.contains("FAILED: ") && said.contains(why), "{said}");
        run.assert_gone(id);
    }
}
