//! What happens to a held packet: decode, match, attribute, alert, answer. In this order.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::{flow_log::FlowLog, tally::Tally, view::View};
use crate::{
    alert::{
        Alert,
        suppress::{Key, Outcome, Suppressor},
    },
    alertdb::AlertDb,
    attribution::{Attributor, Clues, Source},
    config::Hook,
    conntrack::Entry,
    feed::{Action, Direction},
    host::{links, wires::Wires},
    packet::{Flow, decode},
    policy::Decision,
    queue::{Answer, Held, Judge},
    sink::Sinks,
};

/// How long `durable` lets packets wait for the disk.
const DISK: Duration = Duration::from_secs(1);

/// What all queue threads share.
pub(super) struct Path {
    pub(super) view: View,
    pub(super) sinks: ArcSwap<Sinks>,
    pub(super) flow_log: ArcSwapOption<FlowLog>,
    /// The store of alerts, where there is one.
    pub(super) db: ArcSwapOption<AlertDb>,
    /// Verdicts wait until their alerts are in it.
    pub(super) durable: AtomicBool,
    pub(super) suppressor: Mutex<Suppressor>,
    pub(super) tally: Mutex<Tally>,
    pub(super) counts: Counts,
    pub(super) own_pid: u32,
    /// The table was gone: the next search for live flows looks at all of them.
    pub(super) search_all: AtomicBool,
}

/// What became of the packets that reached the daemon.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Packets received.
    pub(super) packets: AtomicU64,
    /// Packets that no feed lists: kernel and daemon differ for a moment.
    pub(super) unmatched: AtomicU64,
    /// Packets without a readable IP header.
    pub(super) malformed: AtomicU64,
    /// Flows of the daemon itself.
    pub(super) own: AtomicU64,
    /// Established flows found to be listed only later.
    pub(super) live: AtomicU64,
    /// Those of them that were cut.
    pub(super) cut: AtomicU64,
}

impl Path {
    /// Sends the alert, or counts it as a repeat, and counts the flow for status.
    pub(super) fn report(&self, alert: &Alert, now: Instant) {
        lock(&self.tally).count(alert, now);
        if let Some(log) = &*self.flow_log.load() {
            log.observe(alert);
        }
        let outcome = lock(&self.suppressor).observe(Key::of(alert), alert, now);
        if outcome == Outcome::Send {
            self.send(alert);
        }
    }

    /// Hands an alert to every target and to the store; never blocks.
    pub(super) fn send(&self, alert: &Alert) {
        self.sinks.load().submit(alert);
        if let Some(db) = &*self.db.load() {
            db.submit(alert);
        }
    }

    /// Tells that the kernel judged packets without the daemon.
    pub(super) fn report_unattributed(&self, denied: u64, passed: u64) {
        for (count, what) in [
            (
                denied,
                "packets to denied addresses were dropped without attribution",
            ),
            (
                passed,
                "packets to watched addresses were passed without attribution",
            ),
        ] {
            if count > 0 {
                tracing::warn!("{count} {what} (daemon stopped, overloaded, or starting)");
                self.sinks.load().report(count, what);
            }
        }
    }

    /// Sends the summaries of windows that ended before `now`; all of them with `None`.
    pub(super) fn summaries(&self, now: Option<Instant>) {
        let ended = {
            let mut suppressor = lock(&self.suppressor);
            match now {
                Some(now) => suppressor.expired(now),
                None => suppressor.drain(),
            }
        };
        for summary in &ended {
            self.send(summary);
        }
    }
}

/// Takes a lock that a panic cannot have poisoned: a panic aborts the process.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The judge of one queue thread.
pub(super) struct Engine {
    path: Arc<Path>,
    attributor: Attributor,
    wires: Wires,
}

impl Engine {
    pub(super) fn new(path: Arc<Path>, attributor: Attributor) -> Self {
        Self {
            path,
            attributor,
            wires: Wires::new(),
        }
    }

    fn attribute(&mut self, packet: &Held<'_>, flow: &Flow, direction: Direction) -> Source {
        let mut clues = Clues {
            uid: packet.uid,
            indev: packet.indev,
            outdev: packet.outdev,
            mac: packet.mac,
            peer: None,
        };
        if packet.hook != Hook::Forward {
            return self.attributor.local(flow, direction, &clues);
        }
        // The side of the LAN or the containers is the one that the feed does not list.
        let device = match direction {
            Direction::Egress => packet.indev,
            Direction::Ingress => packet.outdev,
        };
        if direction == Direction::Ingress {
            clues.mac = device.and_then(|device| self.wires.mac_of(device, flow.dst));
        }
        clues.peer = device.and_then(|device| self.wires.peer(device, clues.mac));
        self.attributor.forwarded(flow, direction, &clues)
    }
}

impl Judge for Engine {
    /// Answers for one packet; its alert is handed on before this returns.
    fn judge(&mut self, packet: &Held<'_>) -> Answer {
        let start = Instant::now();
        let path = Arc::clone(&self.path);
        let counts = &path.counts;
        counts.packets.fetch_add(1, Ordering::Relaxed);
        let Ok(flow) = decode(packet.bytes) else {
            counts.malformed.fetch_add(1, Ordering::Relaxed);
            return Answer::Pass;
        };
        let Some(decision) = path.view.decide(&flow, packet.hook) else {
            counts.unmatched.fetch_add(1, Ordering::Relaxed);
            return Answer::Pass;
        };
        let connection = packet
            .connection
            .and_then(Entry::from_attributes)
            .filter(|entry| is_of(entry, &flow));
        // The sender's socket knows where it was connected to, not what NAT made of it.
        let sent = match decision.direction {
            Direction::Egress => connection.map_or(flow, |entry| Flow {
                fragment: flow.fragment,
                ..entry.sent()
            }),
            Direction::Ingress => flow,
        };
        let source = self.attribute(packet, &sent, decision.direction);
        // The daemon must reach its feeds and logs whatever they list.
        if source.pid == Some(path.own_pid) && packet.hook == Hook::Output {
            counts.own.fetch_add(1, Ordering::Relaxed);
            return Answer::Allow;
        }
        let action = decision.action();
        let meant = match connection {
            Some(entry) => entry.meant(),
            None => source.meant.map(|end| (end.ip(), Some(end.port()))),
        };
        let alert = Alert {
            nat_dst: meant,
            ..alert(packet, flow, decision, source, start)
        };
        path.report(&alert, start);
        match action {
            Action::Alert => Answer::Allow,
            Action::Deny => Answer::Deny,
        }
    }

    fn waits(&self) -> bool {
        self.path.durable.load(Ordering::Relaxed)
    }

    /// Repeats that are only counted have no alert of their own to wait for.
    fn settle(&mut self, answers: u64) {
        if let Some(db) = &*self.path.db.load() {
            // What comes too late is counted and told by the store.
            let _ = db.sync(DISK, answers);
        }
    }
}

/// True when the connection is of this flow, seen from its first sender: only then it tells what NAT did.
fn is_of(entry: &Entry<'_>, flow: &Flow) -> bool {
    let ends = |flow: &Flow| (flow.src, flow.dst, flow.proto);
    let seen = entry.filtered();
    let has_ports = flow.dst_port().is_some();
    ends(&seen) == ends(flow)
        && (!has_ports || (seen.src_port(), seen.dst_port()) == (flow.src_port(), flow.dst_port()))
}

fn alert(
    packet: &Held<'_>,
    flow: Flow,
    decision: Decision,
    source: Source,
    start: Instant,
) -> Alert {
    let index = match packet.hook {
        Hook::Output => packet.outdev,
        Hook::Input | Hook::Forward => packet.indev,
    };
    Alert {
        id: uuid::Uuid::now_v7(),
        time: SystemTime::now(),
        action: decision.hit.action,
        direction: decision.direction,
        flow,
        feeds: decision.hit.feeds,
        indicator: decision.hit.indicator,
        severity: decision.hit.severity,
        policy: None,
        iface: index.and_then(links::name),
        source,
        nat_dst: None,
        count: 1,
        window: None,
        held: start.elapsed(),
    }
}
