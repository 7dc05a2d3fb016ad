//! The threat feed lab with its own manifests, as `make lab` shows it.

use std::process::Command;

use crate::support::{feedgate, privileged};

#[test]
fn every_step_is_as_expected() {
    if !privileged() {
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/run");
    let output = Command::new(script)
        .env("FEEDGATE", feedgate())
        .output()
        .unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    // The script checks each of them; here it is held that it does not leave one out.
    let mut rest = said.as_str();
    for shown in [
        "Step 1.",
        "Step 2.",
        "training.ip.threatfeed created",
        "Step 3.",
        "lastSuccessfulSync: ",
        "feed: training-ip-threatfeed",
        "Step 4.",
        "HTTP/1.1 200 OK",
        "Step 5.",
        "container=\"red\"",
        "red -> threatfeed.training.ip.threatfeed",
        "allowed egress",
        "Step 6.",
        "tigera-security.block-training-ipthreatfeed created",
        "Step 7.",
        "Timeout",
        "denied egress",
        "denied by policy tigera-security.block-training-ipthreatfeed",
        "Step 8.",
        "deleted",
        "Every step was as expected.",
    ] {
        let at = rest.find(shown);
        let at = at.unwrap_or_else(|| panic!("{shown} is not where it should be in {said}"));
        rest = &rest[at..];
    }
}
