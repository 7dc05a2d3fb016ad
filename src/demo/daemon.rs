//! One `feedgate run` in a network namespace, started and ended by its caller.

use std::{
    fs, io,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::netns::Netns;

/// How often a condition is looked at again.
pub const TICK: Duration = Duration::from_millis(10);

/// A daemon of the binary `exe`; killed on drop.
#[derive(Debug)]
pub struct Daemon {
    exe: PathBuf,
    config: PathBuf,
    output: PathBuf,
    notify: UnixDatagram,
    child: Child,
}

/// The daemon did not start, or a command for it did not run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A file or process of it could not be made.
    #[error("cannot start {what}: {source}")]
    Start {
        /// The file or program.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// It ended before it was ready.
    #[error("the daemon ended before it was ready ({status}); it said:\n{output}")]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// Its output.
        output: String,
    },
    /// It did not send READY=1 in time.
    #[error("the daemon was not ready within {waited:?}; it said:\n{output}")]
    NotReady {
        /// How long it was waited for.
        waited: Duration,
        /// Its output.
        output: String,
    },
    /// The caller no longer wants to wait.
    #[error("interrupted")]
    Interrupted,
}

impl Daemon {
    /// Starts `exe run --config FILE` in `netns`, with its notify socket and output in `dir`; does
    /// not wait ([`Daemon::ready`]).
    pub fn spawn(
        exe: &Path,
        netns: &Netns,
        dir: &Path,
        config: &Path,
    ) -> Result<Self, DaemonError> {
        let (socket, output) = (dir.join("notify"), dir.join("daemon.out"));
        let failed = |what: &Path| {
            let what = what.display().to_string();
            |source| DaemonError::Start { what, source }
        };
        let _ = fs::remove_file(&socket); // of the daemon before this one
        let notify = UnixDatagram::bind(&socket).map_err(failed(&socket))?;
        notify
            .set_read_timeout(Some(TICK))
            .map_err(failed(&socket))?;
        let log = fs::File::create(&output).map_err(failed(&output))?;
        let log_too = log.try_clone().map_err(failed(&output))?;
        let child = netns
            .command(exe)
            .arg("run")
            .arg("--config")
            .arg(config)
            .env("NOTIFY_SOCKET", &socket)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_too)
            .spawn()
            .map_err(failed(exe))?;
        Ok(Self {
            exe: exe.to_owned(),
            config: config.to_owned(),
            output,
            notify,
            child,
        })
    }

    /// Waits for READY=1 (sd_notify(3)) until `limit` is over or `go_on` says false.
    pub fn ready(&mut self, limit: Duration, go_on: impl Fn() -> bool) -> Result<(), DaemonError> {
        let start = Instant::now();
        while start.elapsed() < limit {
            if !go_on() {
                return Err(DaemonError::Interrupted);
            }
            if self.notifications().contains(&"READY=1".to_owned()) {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                let output = self.output();
                return Err(DaemonError::Ended { status, output });
            }
        }
        Err(DaemonError::NotReady {
            waited: limit,
            output: self.output(),
        })
    }

    /// The lines of the next notification; none when none came within a tick.
    pub fn notifications(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let length = self.notify.recv(&mut buffer).unwrap_or(0);
        let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
        text.lines().map(str::to_owned).collect()
    }

    /// Its process; nsenter replaced itself by the daemon.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it wrote so far.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// Runs `feedgate ARGUMENTS --config FILE` in `netns`.
    pub fn ctl(&self, netns: &Netns, arguments: &[&str]) -> io::Result<Output> {
        self.ctl_command(netns, arguments).output()
    }

    /// The command of [`Daemon::ctl`].
    pub fn ctl_command(&self, netns: &Netns, arguments: &[&str]) -> Command {
        let mut command = netns.command(&self.exe);
        command.args(arguments).arg("--config").arg(&self.config);
        command
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = i32::try_from(self.pid()).map_err(io::Error::other)?;
        Ok(kill(Pid::from_raw(pid), signal)?)
    }

    /// Waits until it has ended; `None` when `limit` is over first.
    pub fn wait(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let start = Instant::now();
        loop {
            let status = self.child.try_wait()?;
            if status.is_some() || start.elapsed() >= limit {
                return Ok(status);
            }
            std::thread::sleep(TICK);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
