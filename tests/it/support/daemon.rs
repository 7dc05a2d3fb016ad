//! The real daemon and its client commands.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{ExitStatus, Output},
    time::Duration,
};

use feedgate::demo::{self, DaemonError, Netns};
use nix::sys::signal::Signal;

use super::{Conf, Lab, PATIENCE, within};

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
    /// Starts it and waits until it is ready.
    #[track_caller]
    pub(crate) fn start(lab: &'a Lab, netns: &'a Netns, conf: &Conf) -> Self {
        match Self::try_start(lab, netns, conf) {
            Ok(daemon) => daemon,
            Err(error) => panic!("{error}"),
        }
    }

    /// Starts `program`, which runs it with the arguments it is given, and waits until it is ready.
    #[track_caller]
    pub(crate) fn start_as(program: &Path, lab: &Lab, netns: &'a Netns, conf: &Conf) -> Self {
        match Self::spawn(program, lab, netns, conf) {
            Ok(daemon) => daemon,
            Err(error) => panic!("{error}"),
        }
    }

    /// Starts it and waits until it is ready, or has ended.
    pub(crate) fn try_start(lab: &Lab, netns: &'a Netns, conf: &Conf) -> Result<Self, DaemonError> {
        Self::spawn(feedgate(), lab, netns, conf)
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
