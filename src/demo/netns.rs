//! Network namespaces made for one run: hosts on one machine, with addresses of their own.
//!
//! Built with `ip netns`, entered with `nsenter` (`ip netns exec` mounts a fresh /sys and so hides
//! the cgroups) or by a thread of the caller. Used by the demo and by the integration tests.

use std::{
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Where `ip netns` keeps its names (ip-netns(8)).
const NAMES: &str = "/run/netns";

/// Proxies of the caller's environment; none is reachable from a namespace without uplink.
const PROXIES: [&str; 6] = [
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
];

/// A named network namespace with its loopback up; deleted, with its processes killed, on drop.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

/// A namespace could not be made, changed or entered.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// A tool is missing or does not start.
    #[error("cannot run `{tool}`: {source}; is its package installed?")]
    Tool {
        /// The tool.
        tool: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// `ip` ran and refused.
    #[error("`ip {arguments}` failed: {stderr}")]
    Ip {
        /// Its arguments, or the batch it was given.
        arguments: String,
        /// What it said.
        stderr: String,
    },
    /// The namespace could not be entered.
    #[error("cannot enter network namespace {name}: {source}")]
    Enter {
        /// Its name.
        name: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Netns {
    /// Makes the namespace `name` and sets its loopback up.
    pub fn create(name: impl Into<String>) -> Result<Self, NetnsError> {
        let name = name.into();
        ip(&["netns", "add", &name], "")?;
        let netns = Self { name };
        netns.trust_addresses()?;
        netns.ip(&["link set lo up"])?;
        Ok(netns)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that holds it open.
    pub fn path(&self) -> PathBuf {
        Path::new(NAMES).join(&self.name)
    }

    /// Runs `ip` commands in it, in order; the first that fails ends the run.
    pub fn ip(&self, commands: &[&str]) -> Result<(), NetnsError> {
        ip(&["-n", &self.name, "-batch", "-"], &commands.join("\n"))
    }

    /// Joins `self` and `other` with a veth pair, one end in each, both up.
    pub fn link(&self, end: &str, other: &Self, other_end: &str) -> Result<(), NetnsError> {
        let pair = format!(
            "link add {end} type veth peer name {other_end} netns {}",
            other.name
        );
        self.ip(&[&pair, &format!("link set {end} up")])?;
        other.ip(&[&format!("link set {other_end} up")])
    }

    /// Makes it a router for both families.
    pub fn forward(&self) -> Result<(), NetnsError> {
        let written = self.enter(|| {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
        })?;
        written.map_err(|source| self.entering(source))
    }

    /// A command that will run in it, with the caller's cgroup and without proxies.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path().display()))
            .arg("--")
            .arg(program);
        for proxy in PROXIES {
            command.env_remove(proxy);
        }
        command
    }

    /// Runs `work` in it, on a thread of its own; sockets made there stay in it.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let file = File::open(self.path()).map_err(|source| self.entering(source))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(file, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            });
            match thread.join() {
                Ok(result) => result.map_err(|errno: nix::Error| self.entering(errno.into())),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Switches duplicate address detection off: an IPv6 address, the link-local one of a router
    /// too, is of use at once, not two seconds later.
    fn trust_addresses(&self) -> Result<(), NetnsError> {
        self.enter(|| {
            for which in ["all", "default"] {
                // Not there: a kernel without IPv6.
                let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/accept_dad"), "0");
            }
        })
    }

    fn entering(&self, source: io::Error) -> NetnsError {
        NetnsError::Enter {
            name: self.name.clone(),
            source,
        }
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Removes namespaces named `PREFIX-PID-...` whose process PID is gone.
pub fn sweep(prefix: &str) {
    let Ok(entries) = std::fs::read_dir(NAMES) else {
        return; // no namespace was ever made
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    for name in names.filter_map(|name| name.into_string().ok()) {
        if owner(prefix, &name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            remove(&name);
        }
    }
}

/// The process that made `name`, when it has the form `PREFIX-PID-...`.
pub fn owner(prefix: &str, name: &str) -> Option<u32> {
    let rest = name.strip_prefix(prefix)?.strip_prefix('-')?;
    rest.split('-').next()?.parse().ok()
}

/// Kills what runs in the namespace, then deletes it. It may be gone already.
fn remove(name: &str) {
    if let Ok(output) = Command::new("ip").args(["netns", "pids", name]).output() {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for pid in text.lines().filter_map(|line| line.trim().parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    let _ = Command::new("ip")
        .args(["netns", "del", name])
        .stderr(Stdio::null())
        .status();
}

fn ip(arguments: &[&str], input: &str) -> Result<(), NetnsError> {
    let output =
        feed("ip", arguments, input).map_err(|source| NetnsError::Tool { tool: "ip", source })?;
    if output.status.success() {
        return Ok(());
    }
    Err(NetnsError::Ip {
        arguments: [arguments, &[input]].concat().join(" "),
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// Runs a tool with `input` on its standard input.
fn feed(tool: &str, arguments: &[&str], input: &str) -> io::Result<Output> {
    let mut child = Command::new(tool)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that ends early says why on stderr.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_owner() {
        assert_eq!(owner("fgdemo", "fgdemo-12-red"), Some(12));
        assert_eq!(owner("fg", "fgdemo-12-red"), None);
        assert_eq!(owner("fg", "fg-x-red"), None);
    }
}
