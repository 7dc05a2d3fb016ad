//! The real daemon, as it is built for this bench, in the namespace of the calling thread.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// A running daemon; killed on drop.
pub struct Daemon {
    child: Child,
    folder: TempDir,
}

impl Daemon {
    /// With one feed of these lines, alerts to a JSON file, on output; returns when it is ready.
    pub fn start(action: &str, lines: &str) -> Self {
        Self::start_with(action, lines, "")
    }

    /// The same, with further lines in `[alerts]`.
    pub fn start_with(action: &str, lines: &str, alerts: &str) -> Self {
        let alerting = format!(
            "json-file = \"AT/alerts.json\"\n{alerts}\n\
             [[alerts.syslog]]\naddress = \"udp:127.0.0.1:9\"\n"
        );
        Self::start_as(action, lines, &alerting)
    }

    /// The same with just this in `[alerts]`, where `AT` stands for a folder of its own.
    pub fn start_as(action: &str, lines: &str, alerting: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().display();
        std::fs::write(folder.path().join("feed"), lines).unwrap();
        let mut config = String::new();
        write!(
            config,
            "[daemon]\nstate-dir = \"{at}/state\"\ncontrol-socket = \"{at}/control.sock\"\n\
             [nftables]\nhooks = [\"output\"]\nowner = false\n\
             [exceptions]\nown-addresses = false\nprivate-networks = \"keep\"\n\
             [[feed]]\nname = \"bench\"\nurl = \"file://{at}/feed\"\naction = \"{action}\"\n\
             [alerts]\n{}",
            alerting.replace("AT", &at.to_string())
        )
        .unwrap();
        std::fs::write(folder.path().join("feedgate.toml"), config).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = program(folder.path(), &["run"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let daemon = Self { child, folder };
        daemon.wait();
        daemon
    }

    fn wait(&self) {
        let begun = Instant::now();
        while !self.log().contains("ready: ") {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "not ready: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Its JSON alerts so far.
    pub fn alerts(&self) -> Vec<Value> {
        let file: PathBuf = self.folder.path().join("alerts.json");
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Flows of one kind in the last hour: `alerted` or `denied`.
    pub fn flows(&self, kind: &str) -> u64 {
        self.status()["last_hour"][kind].as_u64().unwrap()
    }

    /// Watched packets that the kernel judged without the daemon, in packets.
    pub fn unattributed(&self) -> u64 {
        self.status()["counters"]["passed_unattributed"]["packets"]
            .as_u64()
            .unwrap()
    }

    /// Waits until so many alerts are stored; gives how many are, and how many verdicts did not wait for theirs.
    pub fn stored(&self, wanted: u64) -> (u64, u64) {
        let begun = Instant::now();
        loop {
            let status = self.status();
            let number = |key: &str| status["store"][key].as_u64().unwrap();
            let stored = number("stored");
            if stored >= wanted || begun.elapsed() > Duration::from_secs(30) {
                return (stored, number("late_verdicts"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Counts of packets: `folded`, and `flows` that were alerted.
    pub fn packets(&self) -> BTreeMap<&'static str, u64> {
        let status = self.status();
        let folded = status["packets"]["folded"].as_u64().unwrap();
        let alerted = status["last_hour"]["alerted"].as_u64().unwrap();
        [("folded", folded), ("flows", alerted)].into()
    }

    fn status(&self) -> Value {
        let output = program(self.folder.path(), &["status", "--json"])
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Resident memory now, in MB.
    pub fn resident_mb(&self) -> f64 {
        let file = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(file).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line.unwrap().split_whitespace().nth(1).unwrap();
        kib.parse::<f64>().unwrap() / 1024.0
    }

    /// Ends it as systemd does, and gives what is left of it.
    pub fn stop(mut self) -> Vec<Value> {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.child.wait().unwrap();
        self.alerts()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program(folder: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_feedgate"));
    command
        .args(words)
        .arg("--config")
        .arg(folder.join("feedgate.toml"));
    command
}
