//! The real daemon and its client commands.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use feedgate::demo::{self, DaemonError, Netns};
use nix::sys::signal::Signal;

use super::{Alerts, Conf, Lab, PATIENCE, eventually, within};

/// It is ready after that time at the latest, whether its first pulls have ended or not.
const FIRST_PULLS: Duration = Duration::from_secs(10);

/// The binary under test.
pub(crate) fn feedgate() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_feedgate"))
}

/// A daemon in a namespace of the lab.
pub(crate) struct Daemon<'a> {
    netns: &'a Netns,
    config: PathBuf,
    inner: demo::Daemon,
}

impl<'a> Daemon<'a> {
    /// Starts it and waits until it is ready and each first pull has ended.
    #[track_caller]
    pub(crate) fn start(lab: &'a Lab, netns: &'a Netns, conf: &Conf) -> Self {
        Self::start_as(feedgate(), lab, netns, conf)
    }

    /// Starts it with a syslog target of the test, waits until it is ready, and gives both.
    #[track_caller]
    pub(crate) fn alerting(lab: &'a Lab, netns: &'a Netns, conf: Conf) -> (Alerts, Self) {
        let alerts = Alerts::listen(lab);
        let daemon = Self::start(lab, netns, &conf.alerts(&alerts));
        (alerts, daemon)
    }

    /// The same with `program`, which runs it with the arguments it is given.
    #[track_caller]
    pub(crate) fn start_as(program: &Path, lab: &Lab, netns: &'a Netns, conf: &Conf) -> Self {
        let start = Instant::now();
        let daemon = match Self::spawn(program, lab, netns, conf) {
            Ok(daemon) => daemon,
            Err(error) => panic!("{error}"),
        };
        if start.elapsed() >= FIRST_PULLS {
            daemon.wait_for_first_pulls();
        }
        daemon
    }

    /// On a busy machine it may be ready before its first pulls have ended.
    #[track_caller]
    fn wait_for_first_pulls(&self) {
        let waits = |row: &serde_json::Value| {
            row["enabled"] == true && row["url"].is_string() && row["next_pull"].is_null()
        };
        eventually("each first pull has ended", || {
            let rows = self.ok(&["feeds", "--json"]);
            let rows: serde_json::Value = serde_json::from_str(&rows).unwrap();
            (!rows.as_array().unwrap().iter().any(waits)).then_some(())
        });
    }

    /// Starts it with further environment variables, as [`Self::start`] does.
    #[track_caller]
    pub(crate) fn start_with(
        lab: &'a Lab,
        netns: &'a Netns,
        conf: &Conf,
        env: &[(&str, &str)],
    ) -> Self {
        let set: Vec<_> = env.iter().map(|(k, v)| format!("{k}='{v}'")).collect();
        let exe = feedgate().display();
        let text = format!("#!/bin/sh\n{} exec '{exe}' \"$@\"\n", set.join(" "));
        let script = program(lab, "feedgate.sh", &text);
        Self::start_as(&script, lab, netns, conf)
    }

    /// Starts it and waits until it is ready, or has ended.
    pub(crate) fn try_start(lab: &Lab, netns: &'a Netns, conf: &Conf) -> Result<Self, DaemonError> {
        Self::try_start_as(feedgate(), lab, netns, conf)
    }

    /// The same with `program`, which runs it with the arguments it is given.
    pub(crate) fn try_start_as(
        program: &Path,
        lab: &Lab,
        netns: &'a Netns,
        conf: &Conf,
    ) -> Result<Self, DaemonError> {
        Self::spawn(program, lab, netns, conf)
    }

    fn spawn(
        program: &Path,
        lab: &Lab,
        netns: &'a Netns,
        conf: &Conf,
    ) -> Result<Self, DaemonError> {
        let config = lab.path("feedgate.toml");
        fs::write(&config, conf.text()).unwrap();
        let mut inner = demo::Daemon::spawn(program, netns, &lab.dir, &config)?;
        inner.ready(within(PATIENCE), || true)?;
        Ok(Self {
            netns,
            config,
            inner,
        })
    }

    /// Runs a client command.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> Output {
        self.inner.ctl(self.netns, arguments).unwrap()
    }

    /// A client command that is not run yet.
    pub(crate) fn ctl_command(&self, arguments: &[&str]) -> Command {
        self.inner.ctl_command(self.netns, arguments)
    }

    /// Runs a client command that must succeed; gives what it printed.
    #[track_caller]
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.ctl(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{arguments:?}: {}: {stderr}",
            output.status
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Writes another configuration and sends SIGHUP; does not wait.
    pub(crate) fn reload(&self, config: &str) {
        fs::write(&self.config, config).unwrap();
        self.inner.signal(Signal::SIGHUP).unwrap();
    }

    /// Runs a client command that must fail with exit code 1; gives what it said.
    #[track_caller]
    pub(crate) fn fails(&self, arguments: &[&str]) -> String {
        let output = self.ctl(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        said
    }

    /// Runs a client command with something on its standard input.
    pub(crate) fn ctl_with(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = self.inner.ctl_command(self.netns, arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        // A command that refuses early closes the pipe.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }

    /// `status --json`.
    #[track_caller]
    pub(crate) fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.ok(&["status", "--json"])).unwrap()
    }

    /// The row of a feed in `feeds --json`.
    #[track_caller]
    pub(crate) fn row(&self, feed: &str) -> serde_json::Value {
        let rows: serde_json::Value = serde_json::from_str(&self.ok(&["feeds", "--json"])).unwrap();
        let mut rows = rows.as_array().unwrap().iter();
        rows.find(|row| row["name"] == feed).unwrap().clone()
    }

    /// What it tells its service manager next (sd_notify(3)), a state a line; empty after a while without.
    pub(crate) fn notifications(&self) -> Vec<String> {
        self.inner.notifications()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.inner.pid()
    }

    /// SIGKILL; the process is gone when this returns.
    pub(crate) fn kill(self) {
        self.killed();
    }

    /// SIGKILL; for client commands afterwards.
    pub(crate) fn killed(mut self) -> Self {
        self.inner.signal(Signal::SIGKILL).unwrap();
        self.ended();
        self
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.inner.signal(signal).unwrap();
    }

    /// SIGSTOP; every thread stands still when this returns.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
        let tasks = format!("/proc/{}/task", self.pid());
        eventually("every thread has stopped", || {
            let stopped = |task: fs::DirEntry| {
                let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                stat.rsplit_once(") ")
                    .is_some_and(|(_, rest)| rest.starts_with('T'))
            };
            let all = fs::read_dir(&tasks).unwrap().flatten().all(stopped);
            all.then_some(())
        });
    }

    /// True while it has not ended.
    pub(crate) fn runs(&mut self) -> bool {
        self.inner.wait(Duration::ZERO).unwrap().is_none()
    }

    /// Writes the configuration file again, without a signal.
    pub(crate) fn restore(&self, conf: &Conf) {
        fs::write(&self.config, conf.text()).unwrap();
    }

    /// Starts another daemon with the same configuration beside it.
    pub(crate) fn second(&self, lab: &Lab) -> Result<(), DaemonError> {
        let dir = lab.path("second");
        fs::create_dir(&dir).unwrap();
        let mut inner = demo::Daemon::spawn(feedgate(), self.netns, &dir, &self.config)?;
        inner.ready(within(PATIENCE), || true)
    }

    /// SIGTERM; how it ended.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.inner.signal(Signal::SIGTERM).unwrap();
        self.ended()
    }

    /// Waits until it has ended by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        self.inner.wait(within(PATIENCE)).unwrap().expect("it ends")
    }

    /// What it wrote so far.
    pub(crate) fn output(&self) -> String {
        self.inner.output()
    }
}

/// A program in the lab's folder with this text.
pub(crate) fn program(lab: &Lab, name: &str, text: &str) -> PathBuf {
    let (file, path) = (lab.path(&format!("{name}.text")), lab.path(name));
    fs::write(&file, text).unwrap();
    install(&file, &path);
    path
}

/// Copies a program, for everybody to run. By another process: where a test of this one forks at the
/// wrong moment, its child would hold the new file open for writing, and it could not be run (ETXTBSY).
pub(crate) fn install(from: &Path, to: &Path) {
    let mut command = Command::new("install");
    let status = command.args(["-m", "0755"]).arg(from).arg(to).status();
    assert!(status.unwrap().success(), "{}", to.display());
}

/// `nft ARGUMENTS -f -` in a namespace.
///
/// # Errors
/// What nft complained about.
pub(crate) fn load_with(netns: &Netns, arguments: &[&str], text: &str) -> Result<(), String> {
    let mut command = netns.command("nft");
    command.args(arguments).args(["-f", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    output.status.success().then_some(()).ok_or(said)
}

/// Loads a ruleset into a namespace.
#[track_caller]
pub(crate) fn load(netns: &Netns, text: &str) {
    if let Err(said) = load_with(netns, &[], text) {
        panic!("{said}");
    }
}

/// What `nft` lists in a namespace, without counters.
#[track_caller]
pub(crate) fn nft(netns: &Netns, arguments: &[&str]) -> String {
    let output = netns
        .command("nft")
        .arg("-s")
        .args(arguments)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nft {arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}
