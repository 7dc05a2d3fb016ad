//! Who sent the packet: process, user, unit, container, or LAN client, with how it was found and
//! how sure it is.
//!
//! An answer that is not certain says so: unknown stays unknown, with a cause.

use std::fmt;

use nix::errno::Errno;
use thiserror::Error;

mod attributor;
pub mod cgroup;
mod cgroup_tree;
mod holder;
mod inet_diag;
mod kernel;
mod proc_net;
mod process;
mod roots;
mod sock_diag;
#[cfg(test)]
mod tests;
mod users;

pub use attributor::Attributor;
pub use roots::Roots;

/// Why attribution cannot start.
#[derive(Debug, Error)]
pub enum AttributionError {
    /// No netlink socket.
    #[error("cannot open a sock_diag netlink socket: {0}; the kernel needs CONFIG_INET_DIAG")]
    Open(Errno),
    /// The netlink socket does not reach the kernel.
    #[error("cannot connect the sock_diag netlink socket to the kernel: {0}")]
    Connect(Errno),
}

/// How sure an attribution is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Grade {
    /// Nobody was found; `cause` says why.
    #[default]
    Unknown,
    /// One candidate, found by less than the whole flow.
    Likely,
    /// The kernel named the socket by the whole flow.
    Exact,
}

impl Grade {
    /// The word of the alert line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Likely => "likely",
            Self::Exact => "exact",
        }
    }
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The source of a flow. Absent fields are unknown. All texts are untrusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// How sure.
    pub grade: Grade,
    /// How it was found: `sock-diag`, `sock-diag-listener`, `local-end`, `nfqa-uid`, `forward`, `live-flow`, ...
    pub method: Option<&'static str>,
    /// Why something is missing, in words.
    pub cause: Option<String>,
    /// Owner of the socket.
    pub uid: Option<u32>,
    /// Name of `uid`.
    pub user: Option<String>,
    /// The process that holds the socket.
    pub pid: Option<u32>,
    /// Its start time in clock ticks since boot (proc(5), stat field 22): pid and start are its identity.
    pub start: Option<u64>,
    /// Its parent.
    pub ppid: Option<u32>,
    /// Path of its executable.
    pub exe: Option<String>,
    /// Its name (proc(5), comm; at most 15 bytes, chosen by the process).
    pub comm: Option<String>,
    /// systemd unit.
    pub unit: Option<String>,
    /// Container: the name where known, else the ID.
    pub container: Option<String>,
    /// Container image.
    pub image: Option<String>,
    /// Kubernetes pod: the name where known, else the UID.
    pub pod: Option<String>,
    /// Kubernetes namespace.
    pub namespace: Option<String>,
    /// Source MAC address of a forwarded or inbound packet, `00:00:5e:00:53:01`.
    pub mac: Option<String>,
    /// Name of a LAN client.
    pub client: Option<String>,
}
