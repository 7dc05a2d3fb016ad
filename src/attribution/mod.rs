//! Who sent the packet: process, user, unit, container, or LAN client, with how it was found and
//! how sure it is.
//!
//! An answer that is not certain says so: unknown stays unknown, with a cause.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Instant, SystemTime},
};

use nix::errno::Errno;
use thiserror::Error;

use crate::{feed::Direction, lacks};

mod abilities;
mod attributor;
mod capabilities;
pub mod cgroup;
mod cgroup_tree;
mod clients;
#[cfg(test)]
mod closed_tests;
pub mod containers;
mod descriptors;
mod finder;
mod holder;
mod inet_diag;
mod kernel;
#[cfg(test)]
mod namespace_tests;
mod namespaces;
mod proc_net;
mod process;
#[cfg(test)]
mod program_tests;
#[cfg(test)]
mod raw_tests;
mod relatives;
mod roots;
mod sock_diag;
mod status;
#[cfg(test)]
mod tests;
mod users;

pub use abilities::Abilities;
pub use attributor::Attributor;
pub use capabilities::Capabilities;
pub use roots::Roots;

/// Why attribution cannot start.
#[derive(Debug, Error)]
pub enum AttributionError {
    /// No netlink socket.
    #[error("cannot open a sock_diag netlink socket: {}", without_socket(*.0))]
    Open(Errno),
    /// The netlink socket does not reach the kernel.
    #[error("cannot connect the sock_diag netlink socket to the kernel: {0}")]
    Connect(Errno),
}

/// The error, and what would mend it.
fn without_socket(errno: Errno) -> String {
    match (lacks::descriptors(errno), errno) {
        (Some(few), _) => few.to_owned(),
        (None, Errno::EPROTONOSUPPORT) => format!("{errno}; the kernel needs CONFIG_INET_DIAG"),
        (None, _) => errno.to_string(),
    }
}

/// A link-layer address.
pub type Mac = [u8; 6];

/// What the queue and the host tell of a packet besides its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clues {
    /// Owner of the sending socket (NFQA_UID).
    pub uid: Option<u32>,
    /// Index of the incoming interface.
    pub indev: Option<u32>,
    /// Index of the outgoing interface.
    pub outdev: Option<u32>,
    /// Link-layer address of the machine on this side: the sender (egress, and what comes in), or
    /// the neighbour that a forwarded packet goes to (ingress).
    pub mac: Option<Mac>,
    /// The network namespace that a forwarded packet comes from or goes to.
    pub peer: Option<Peer>,
    /// It is the first packet of a TCP connection: a SYN without an ACK.
    pub opens: bool,
    /// The packet was held by then; `None`: nothing is known before now.
    pub held: Option<Instant>,
}

impl Clues {
    /// Index of the interface that the packet uses on its socket's host, 0: not known.
    fn device(&self, direction: Direction) -> u32 {
        let index = match direction {
            Direction::Egress => self.outdev,
            Direction::Ingress => self.indev,
        };
        index.unwrap_or(0)
    }
}

/// The end of a virtual link in another network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Number of that namespace in the own one (IFLA_LINK_NETNSID).
    pub nsid: i32,
    /// Index of the interface there.
    pub device: u32,
}

/// How sure an attribution is.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Source {
    /// How sure.
    pub grade: Grade,
    /// How it was found: `sock-diag`, `sock-diag-listener`, `local-end`, `raw-socket`, `ping-socket`,
    /// `kernel-socket`, `nfqa-uid`, `forward`, `netns`, `netns-` before one of the first five,
    /// `netns-packet-socket`, `live-flow`.
    #[serde(skip)]
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
    /// The same by the clock on the wall, to a hundredth of a second.
    pub started: Option<SystemTime>,
    /// Its parent.
    pub ppid: Option<u32>,
    /// Path of its executable.
    pub exe: Option<String>,
    /// The file that `exe` names is gone, or was never there (memfd_create(2)).
    pub exe_deleted: bool,
    /// Its arguments with spaces between, at most 256 bytes; not in the alert line.
    pub command_line: Option<String>,
    /// Its effective group.
    pub gid: Option<u32>,
    /// Its effective capabilities.
    pub capabilities: Option<Capabilities>,
    /// The user whose login it descends from: the kernel's audit record of it, else the slice of
    /// its session.
    pub session_uid: Option<u32>,
    /// Name of `session_uid`.
    pub session_user: Option<String>,
    /// Its name (proc(5), comm; at most 15 bytes, chosen by the process).
    pub comm: Option<String>,
    /// systemd unit.
    pub unit: Option<String>,
    /// systemd slice that the unit is in.
    pub slice: Option<String>,
    /// Container: the name where known, else the ID.
    pub container: Option<String>,
    /// Container image.
    pub image: Option<String>,
    /// Kubernetes pod: the name where known, else the UID.
    pub pod: Option<String>,
    /// Kubernetes namespace.
    pub namespace: Option<String>,
    /// Labels of the container, for policies; not in the alert line.
    #[serde(skip)]
    pub labels: Arc<BTreeMap<String, String>>,
    /// MAC address of the machine on this side of a forwarded packet, or of the sender of an
    /// inbound one, `00:00:5e:00:53:01`.
    pub mac: Option<String>,
    /// Name of a LAN client.
    pub client: Option<String>,
    /// Where its socket is connected to, when the packet goes elsewhere: NAT has changed that.
    #[serde(skip)]
    pub meant: Option<SocketAddr>,
    /// Nothing is left to be found: what is absent above is not there, and `labels` are all.
    pub is_complete: bool,
}
