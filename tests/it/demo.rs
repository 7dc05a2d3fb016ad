//! `feedgate demo`: as expected to the end, and nothing left behind, also when it is interrupted.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{eventually, feedgate, privileged};

/// Namespaces and folders of the demo with this process ID.
fn left(pid: u32) -> Vec<String> {
    let netns = std::fs::read_dir("/run/netns")
        .into_iter()
        .flatten()
        .flatten();
    let names = netns.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| name.starts_with(&format!("fgdemo-{pid}-")))
        .collect()
}

#[test]
fn every_step_is_as_expected() {
    if !privileged() {
        return;
    }
    let mut demo = Command::new(feedgate());
    demo.arg("demo")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = demo.spawn().unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    for word in [
        "HTTP/1.1 200 OK",
        "Timeout",
        "action=\"deny\"",
        "Every step was as expected",
    ] {
        assert!(said.contains(word), "{word} in {said}");
    }
    assert_eq!(left(pid), [""; 0]);
}

/// Starts a demo, waits for a word of it, and sends a signal.
fn interrupted_at(word: &str, signal: Signal) -> (u32, std::process::ExitStatus) {
    let mut child = Command::new(feedgate())
        .arg("demo")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    // Kept open: a closed pipe would end the demo before the signal does.
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reached = lines.any(|line| line.unwrap().contains(word));
    assert!(reached, "the demo came to {word}");
    assert_eq!(left(pid).len(), 3);
    kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
    (pid, child.wait().unwrap())
}

#[test]
fn ctrl_c_leaves_nothing() {
    if !privileged() {
        return;
    }
    let (pid, status) = interrupted_at("3. red runs", Signal::SIGINT);
    assert_eq!(left(pid), [""; 0], "gone when the command returns");
    assert_eq!(status.code(), Some(130));
}

#[test]
fn sigkill_leaves_nothing() {
    if !privileged() {
        return;
    }
    let (pid, _) = interrupted_at("3. red runs", Signal::SIGKILL);
    eventually("the guard cleans up", || left(pid).is_empty().then_some(()));
}
