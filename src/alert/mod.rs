//! The alert: one event about one flow (or a counted repeat of it), and its pure renderings.
//!
//! Does not send anything ([`crate::sink`]).

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use crate::{
    attribution::Source,
    feed::{Action, Direction, FeedName, Severity},
    packet::Flow,
    prefix::Prefix,
};

/// One alert (DESIGN.md section 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Unique, sortable by time (UUID version 7, RFC 9562).
    pub id: uuid::Uuid,
    /// When the packet was seen.
    pub time: SystemTime,
    /// The verdict that was given.
    pub action: Action,
    /// Which address matched: destination (egress) or source (ingress).
    pub direction: Direction,
    /// The flow.
    pub flow: Flow,
    /// Every feed that lists the address, sorted.
    pub feeds: Vec<FeedName>,
    /// The most specific matching prefix, as its feed wrote it.
    pub indicator: Prefix,
    /// Highest severity of the feeds.
    pub severity: Severity,
    /// The policy that decided, if one did.
    pub policy: Option<String>,
    /// Interface: outgoing for output, incoming for input and forward.
    pub iface: Option<String>,
    /// Who did it.
    pub source: Source,
    /// Addresses and ports after NAT, where they differ.
    pub nat_dst: Option<(IpAddr, Option<u16>)>,
    /// Flows this alert stands for: 1, or more in a summary of suppressed repeats.
    pub count: u64,
    /// Times of the first and last flow of a summary.
    pub window: Option<(SystemTime, SystemTime)>,
    /// How long the packet was held until the alert was handed on.
    pub held: Duration,
}
