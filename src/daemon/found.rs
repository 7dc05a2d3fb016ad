//! Exceptions that the daemon found and that a feed lists: not denied, and alerted once a day for each
//! address and feed, so that a login from a listed address is seen.
//!
//! Mostly by the first packet of a flow, which is held and attributed like any other. What no packet
//! can tell is found by a look at what is listed: an own address is at no far end, and who
//! logged in from an address that only an egress feed lists came in by a flow that nothing asks about.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::{
    Shared,
    core::Core,
    engine::{Path, lock},
};
use crate::{
    alert::Alert,
    attribution::Source,
    feed::{Action, Direction, FeedName, Severity},
    host::addresses::SSH_PEER,
    packet::{Flow, Protocol, Transport},
    policy::Decision,
    snapshot::{Exception, ExceptionKind, Index, Listing},
};

/// How an alert without a packet came about.
const METHOD: &str = "look";
/// Why such an alert names no process.
const CAUSE: &str =
    "no packet was held: the address is an exception of this host and a feed lists it";
/// Any port will do to ask for a route.
const PORT: u16 = 9;

/// An exception that a feed lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// The address and why it is not denied.
    #[serde(flatten)]
    pub exception: Exception,
    /// The feeds, sorted.
    pub feeds: Vec<FeedName>,
}

/// The exceptions of this host that feeds list.
pub(super) fn listed(index: &Index, exceptions: &[Exception]) -> Vec<Listed> {
    let found = exceptions.iter().filter(|e| is_of_host(e));
    let listed = found.filter_map(|exception| {
        let listings = index.listings(exception.prefix.addr());
        let feeds = feeds(listings.iter());
        let exception = exception.clone();
        (!feeds.is_empty()).then_some(Listed { exception, feeds })
    });
    listed.collect()
}

fn is_of_host(exception: &Exception) -> bool {
    let of_host = !matches!(
        exception.kind,
        ExceptionKind::Configured | ExceptionKind::Special
    );
    of_host && exception.prefix.is_host() && !exception.prefix.addr().is_loopback()
}

fn feeds<'a>(listings: impl Iterator<Item = &'a Listing>) -> Vec<FeedName> {
    let mut feeds: Vec<FeedName> = listings.map(|listing| listing.feed.clone()).collect();
    feeds.sort_unstable();
    feeds.dedup();
    feeds
}

impl Path {
    /// True when a decision is to be alerted: not for an exception that was alerted within the day.
    pub(super) fn is_due(&self, decision: &Decision, far: IpAddr) -> bool {
        if decision.hit.exception.is_none() {
            return true;
        }
        let alerts = self.alert_found.load(Ordering::Relaxed);
        let now = SystemTime::now();
        alerts && lock(&self.found).is_news(far, &decision.hit.feeds, now)
    }
}

/// Alerts what no packet tells of, and keeps what was alerted.
pub(super) fn look(shared: &Shared) {
    let now = SystemTime::now();
    if shared.path.alert_found.load(Ordering::Relaxed) {
        let due = alerts(&lock(&shared.core), now);
        for alert in due {
            tell(&alert);
            // No verdict stands for it.
            shared.path.counts.beside.add(alert.action, alert.count);
            shared.path.send(&alert);
        }
    }
    let Some(changes) = lock(&shared.path.found).changes() else {
        return;
    };
    if let Err(e) = shared.store.save_alerted(&changes) {
        tracing::warn!("listed exceptions may be alerted twice after a restart: {e}");
    }
}

fn tell(alert: &Alert) {
    let why = alert.exception.as_deref().unwrap_or_default();
    let feeds: Vec<&str> = alert.feeds.iter().map(FeedName::as_str).collect();
    let (address, feeds) = (&alert.indicator, feeds.join(", "));
    tracing::warn!("{why}: {address} is listed by {feeds}; it is an exception, and not denied");
}

fn alerts(core: &Core, now: SystemTime) -> Vec<Alert> {
    let snapshot = core.path.view.current();
    let due = core.exceptions.iter().filter(|e| is_of_host(e));
    let due = due.filter_map(|exception| {
        let addr = exception.prefix.addr();
        let listings = snapshot.index.listings(addr);
        let unseen: Vec<&Listing> = listings
            .iter()
            .filter(|listing| is_unseen(exception, listing))
            .collect();
        let feeds = feeds(unseen.iter().copied());
        let first = unseen.first()?;
        if !lock(&core.path.found).is_news(addr, &feeds, now) {
            return None;
        }
        let severities = feeds.iter().filter_map(|feed| core.feeds.get(feed));
        let severity = severities.map(|state| state.config.severity).max();
        Some(Alert {
            severity: severity.unwrap_or(Severity::Medium),
            indicator: first.indicator,
            ..alert(exception, feeds, now)
        })
    });
    due.collect()
}

/// True for a listing that no packet to or from the address would be alerted for.
fn is_unseen(exception: &Exception, listing: &Listing) -> bool {
    match exception.kind {
        // The kernel lets pass what goes to a resolver, and what comes from it is an ordinary flow.
        ExceptionKind::Own | ExceptionKind::Resolver => true,
        // The login itself was an ingress flow.
        ExceptionKind::Found if exception.why.starts_with(SSH_PEER) => {
            !listing.scope.covers(Direction::Ingress)
        }
        _ => false,
    }
}

/// Between the address and this host, without ports: none was seen.
fn alert(exception: &Exception, feeds: Vec<FeedName>, now: SystemTime) -> Alert {
    let addr = exception.prefix.addr();
    let own = local_toward(addr).unwrap_or(addr);
    let (direction, proto, src, dst) = match exception.kind {
        ExceptionKind::Resolver => (Direction::Egress, Protocol::UDP, own, addr),
        _ => (Direction::Ingress, Protocol::TCP, addr, own),
    };
    Alert {
        id: uuid::Uuid::now_v7(),
        time: now,
        action: Action::Alert,
        direction,
        flow: Flow {
            src,
            dst,
            proto,
            transport: Transport::None,
            fragment: false,
        },
        feeds,
        indicator: exception.prefix.into(),
        scan: None,
        flood: None,
        severity: Severity::Medium,
        policy: None,
        exception: Some(Arc::from(exception.why.as_str())),
        iface: None,
        source: Source {
            method: Some(METHOD),
            cause: Some(CAUSE.to_owned()),
            ..Source::default()
        },
        nat_dst: None,
        count: 1,
        window: None,
        held: Duration::ZERO,
    }
}

/// The address that this host would send from. Connecting a datagram socket asks for a route and sends
/// nothing.
fn local_toward(addr: IpAddr) -> Option<IpAddr> {
    let any: SocketAddr = match addr {
        IpAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        IpAddr::V6(_) => ([0; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect((addr, PORT)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}
