//! Against a real systemd-journald with a /run of its own; its sockets are reached through /proc.
//!
//! Needs root and systemd-journald. Without them these tests say so and end; where `CI` is set they fail.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use super::{
    tests::{alert, identity, syslog, wait_for},
    *,
};

const LIMIT: Duration = Duration::from_secs(60);
const JOURNALD: &str = "/lib/systemd/systemd-journald";

/// A journald, and a process that keeps its mount namespace over restarts.
struct Journald {
    holder: Child,
    daemon: Child,
}

impl Journald {
    fn start() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() || !Path::new(JOURNALD).exists() {
            let why = "needs root and systemd-journald";
            assert!(
                std::env::var_os("CI").is_none(),
                "{why}; in CI that is a failure"
            );
            eprintln!("skipped: {why}");
            return None;
        }
        let script = "mount -t tmpfs tmpfs /run && mkdir -p /run/log/journal /run/systemd/journal \
                      && touch /run/ready && exec sleep 600";
        let mut unshare = Command::new("unshare");
        let holder = unshare
            .args(["-m", "--propagation", "private", "sh", "-c", script])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let run = run(&holder);
        wait_until(|| run.join("ready").exists());
        let daemon = spawn(&holder);
        let journald = Self { holder, daemon };
        journald.wait_for_sockets();
        Some(journald)
    }

    fn socket(&self, name: &str) -> PathBuf {
        run(&self.holder).join("systemd/journal").join(name)
    }

    /// Its sockets are made anew, as without systemd nobody keeps them.
    fn stop(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
        for name in ["socket", "dev-log", "stdout"] {
            std::fs::remove_file(self.socket(name)).unwrap();
        }
    }

    fn start_again(&mut self) {
        self.daemon = spawn(&self.holder);
        self.wait_for_sockets();
    }

    fn wait_for_sockets(&self) {
        wait_until(|| self.socket("socket").exists() && self.socket("dev-log").exists());
    }

    /// What journalctl shows of us, waiting for `count` entries.
    fn entries(&self, count: usize) -> Vec<Value> {
        let pid = self.holder.id().to_string();
        let mut entries = Vec::new();
        wait_until(|| {
            let mut journalctl = Command::new("nsenter");
            let output = journalctl
                .args([
                    "-m",
                    "-t",
                    &pid,
                    "journalctl",
                    "-o",
                    "json",
                    "--no-pager",
                    "-t",
                    "feedgate",
                ])
                .output()
                .unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            entries = text
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect();
            entries.len() >= count
        });
        entries
    }
}

impl Drop for Journald {
    fn drop(&mut self) {
        for child in [&mut self.daemon, &mut self.holder] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn run(holder: &Child) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root/run", holder.id()))
}

fn spawn(holder: &Child) -> Child {
    let pid = holder.id().to_string();
    let mut nsenter = Command::new("nsenter");
    let nsenter = nsenter
        .args(["-m", "-t", &pid, JOURNALD])
        .stdin(Stdio::null());
    nsenter.stderr(Stdio::null()).spawn().unwrap()
}

fn wait_until(mut good: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !good() {
        assert!(Instant::now() < end);
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn fields_are_readable_and_a_restart_loses_nothing() {
    let Some(mut journald) = Journald::start() else {
        return;
    };
    let open = |name: &str, format| {
        let address = SyslogAddress::Unix(journald.socket(name));
        Sinks::open(&syslog(address, format), identity(), None).unwrap()
    };
    let native = open("socket", SyslogFormat::Journal);
    let classic = open("dev-log", SyslogFormat::Rfc3164);
    let mut hostile = alert(1);
    hostile.source.comm = Some("x\nPRIORITY=0\nFEEDGATE_ACTION=\"]\u{1b}".into());
    native.submit(&hostile);
    let [entry] = &journald.entries(1)[..] else {
        panic!("more than one entry")
    };
    for (field, value) in [
        ("_TRANSPORT", "journal"),
        ("PRIORITY", "5"),
        ("SYSLOG_FACILITY", "10"),
        ("FEEDGATE_ACTION", "deny"),
        ("FEEDGATE_FEED", "ipsum"),
        ("FEEDGATE_PID", "1234"),
        ("FEEDGATE_ID", "00000000-0000-0000-0000-000000000001"),
        ("FEEDGATE_COMM", "x?PRIORITY=0?FEEDGATE_ACTION=\"]?"),
    ] {
        assert_eq!(entry[field], value, "{field} of {entry:#}");
    }
    let text = entry["MESSAGE"].as_str().unwrap();
    assert!(
        text.starts_with("denied egress tcp 10.0.0.1:4711 -> "),
        "{text}"
    );

    classic.submit(&alert(2));
    let entry = &journald.entries(2)[1];
    assert_eq!(
        (&entry["_TRANSPORT"], &entry["SYSLOG_PID"]),
        (&"syslog".into(), &"42".into())
    );
    let text = entry["MESSAGE"].as_str().unwrap();
    assert!(text.starts_with("[feedgate@32473 id=\"00000000-0000-0000-0000-000000000002\" "));

    journald.stop();
    for n in 3..6 {
        native.submit(&alert(n));
        classic.submit(&alert(n));
    }
    wait_for(&native, |stats| {
        stats.queued == 3 && stats.last_error.is_some()
    });
    journald.start_again();
    let entries = journald.entries(8);
    let ids: Vec<&Value> = entries
        .iter()
        .filter_map(|entry| entry.get("FEEDGATE_ID"))
        .collect();
    let expect = [1, 3, 4, 5].map(|n| format!("00000000-0000-0000-0000-{n:012}"));
    assert_eq!(ids, expect.iter().collect::<Vec<_>>());
    assert_eq!(entries.len(), 8);
}
