//! What happens to a held packet: decode, match, attribute, alert, answer. In this order.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::{
    arming::Trials,
    flow_log::FlowLog,
    judge::{self, Judged},
    meters::Meters,
    pressure::{Effort, Kind, Pressure},
    selftest::{Canary, Seen},
    tally::Tally,
    view::View,
    waiting::Base,
};
use crate::{
    alert::{
        Alert,
        daily::Daily,
        suppress::{ByAction, Outcome, Policy, Suppressor, Told},
    },
    alertdb::AlertDb,
    attribution::{Attributor, Clues, Source},
    config::Hook,
    conntrack::Entry,
    feed::{Action, Direction},
    host::{links, wires::Wires},
    packet::{Flow, decode, opens},
    policy::Decision,
    pulse::Pulse,
    queue::{Answer, Held, Judge},
    sink::Sinks,
    snapshot::Snapshot,
};

/// How long `durable` lets packets wait for the disk.
pub(super) const DISK: Duration = Duration::from_secs(1);

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
    /// Listed exceptions that were alerted within the last day.
    pub(super) found: Mutex<Daily>,
    /// They are alerted.
    pub(super) alert_found: AtomicBool,
    pub(super) tally: Mutex<Tally>,
    pub(super) counts: Counts,
    pub(super) meters: Meters,
    pub(super) own_pid: u32,
    /// The canary of a self-test.
    pub(super) canary: ArcSwapOption<Canary>,
    /// Feeds on trial, and what they would have denied.
    pub(super) trials: Trials,
    /// Flows alerted a moment ago, which a search for live flows finds too.
    pub(super) just: Just,
    /// The table was gone: the next search for live flows looks at all of them.
    pub(super) search_all: AtomicBool,
    /// When all live flows were searched last.
    pub(super) searched: Mutex<Option<SystemTime>>,
    /// Where the kernel's counters of verdicts began, and what they showed last.
    verdicts: Mutex<Option<(Base, ByAction)>>,
}

/// What became of the packets that reached the daemon.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Packets received.
    pub(super) packets: AtomicU64,
    /// Verdicts that were given.
    pub(super) answered: Flows,
    /// Those of them without an alert by design.
    pub(super) silent: Flows,
    /// Flows of alerts that no verdict stands for.
    pub(super) beside: Flows,
    /// Flows of alerts that were handed to the targets.
    pub(super) sent: Flows,
    /// Packets that no feed lists: kernel and daemon differ for a moment.
    pub(super) unmatched: AtomicU64,
    /// Packets without a readable IP header.
    pub(super) malformed: AtomicU64,
    /// Flows of the daemon itself.
    pub(super) own: AtomicU64,
    /// Flows that pass and touch network sets only: nothing is said of them.
    pub(super) quiet: AtomicU64,
    /// Flows of listed exceptions that pass and were alerted within the day.
    pub(super) excepted: AtomicU64,
    /// Established flows found to be listed only later.
    pub(super) live: AtomicU64,
    /// Those of them that were cut.
    pub(super) cut: AtomicU64,
    /// Flows whose source was not looked up, because the queue filled up.
    pub(super) folded: AtomicU64,
    /// Packets that the kernel denied without the daemon, as reported; also those of the time before
    /// this daemon.
    pub(super) unnamed_denied: AtomicU64,
    /// The same for those that it passed.
    pub(super) unnamed_passed: AtomicU64,
}

/// Flows by verdict.
#[derive(Debug, Default)]
pub(super) struct Flows {
    deny: AtomicU64,
    alert: AtomicU64,
}

impl Flows {
    pub(super) fn add(&self, action: Action, count: u64) {
        let sum = match action {
            Action::Deny => &self.deny,
            Action::Alert => &self.alert,
        };
        sum.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> ByAction {
        ByAction {
            deny: self.deny.load(Ordering::Relaxed),
            alert: self.alert.load(Ordering::Relaxed),
        }
    }
}

/// The last flows that were let pass, and when; bounded.
#[derive(Debug, Default)]
pub(super) struct Just(Mutex<VecDeque<Passed>>);

#[derive(Debug)]
struct Passed {
    at: Instant,
    flow: Flow,
    /// By what it was judged.
    by: Weak<Snapshot>,
    is_alerted: bool,
}

impl Just {
    /// A search that begins with a change of the sets sees flows of so long before.
    const KEPT: Duration = Duration::from_secs(5);
    const MOST: usize = 1024;

    fn passed(&self, passed: Passed) {
        let mut flows = lock(&self.0);
        if flows.len() >= Self::MOST {
            flows.pop_front();
        }
        flows.push_back(passed);
    }

    /// True when the packet path has alerted this flow just before `now`.
    pub(super) fn has_alerted(&self, flow: &Flow, now: Instant) -> bool {
        self.any(flow, now, |passed| passed.is_alerted)
    }

    /// True when the packet path has let this flow pass just before `now`, by this snapshot.
    pub(super) fn has_judged(&self, flow: &Flow, by: &Arc<Snapshot>, now: Instant) -> bool {
        let by = Arc::as_ptr(by);
        self.any(flow, now, |passed| std::ptr::eq(passed.by.as_ptr(), by))
    }

    fn any(&self, flow: &Flow, now: Instant, is_it: impl Fn(&Passed) -> bool) -> bool {
        let flows = lock(&self.0);
        let recent = flows
            .iter()
            .rev()
            .take_while(|passed| now.saturating_duration_since(passed.at) < Self::KEPT);
        recent
            .into_iter()
            .any(|passed| is_same(&passed.flow, flow) && is_it(passed))
    }
}

impl Path {
    /// A path without a flow log and a store.
    pub(super) fn new(sinks: Sinks, policy: Policy) -> Self {
        Self {
            view: View::default(),
            sinks: ArcSwap::from_pointee(sinks),
            flow_log: ArcSwapOption::empty(),
            db: ArcSwapOption::empty(),
            durable: AtomicBool::new(false),
            suppressor: Mutex::new(Suppressor::new(policy)),
            found: Mutex::default(),
            alert_found: AtomicBool::new(true),
            tally: Mutex::default(),
            counts: Counts::default(),
            meters: Meters::default(),
            own_pid: std::process::id(),
            just: Just::default(),
            search_all: AtomicBool::new(false),
            searched: Mutex::default(),
            verdicts: Mutex::default(),
            trials: Trials::default(),
            canary: ArcSwapOption::empty(),
        }
    }

    /// Sends the alert, or counts it as a repeat, and counts the flow for status.
    pub(super) fn report(&self, alert: &Alert, now: Instant) {
        self.meters.count(alert);
        lock(&self.tally).count(alert, now);
        if let Some(log) = &*self.flow_log.load() {
            log.observe(alert);
        }
        // Once a day for an address and feed: what was sent before is no reason to leave it out.
        let sends = alert.exception.is_some()
            || lock(&self.suppressor).observe(alert, now) == Outcome::Send;
        if sends {
            self.send(alert);
        }
    }

    /// Hands an alert to every target and to the store; never blocks.
    pub(super) fn send(&self, alert: &Alert) {
        self.counts.sent.add(alert.action, alert.count);
        self.sinks.load().submit(alert);
        if let Some(db) = &*self.db.load() {
            db.submit(alert);
        }
    }

    /// As [`Self::report`], for a flow that the kernel had let pass before: no verdict stands for it.
    pub(super) fn report_live(&self, alert: &Alert, now: Instant) {
        self.counts.beside.add(alert.action, alert.count);
        self.report(alert, now);
    }

    /// Takes note of the kernel's counters of verdicts. They begin again from zero with a new table.
    pub(super) fn note_verdicts(&self, counted: ByAction) {
        let answered = self.counts.answered.get();
        let mut verdicts = lock(&self.verdicts);
        let base = match *verdicts {
            Some((base, seen)) if counted.deny >= seen.deny && counted.alert >= seen.alert => base,
            _ => Base::new(counted, answered),
        };
        *verdicts = Some((base, counted));
    }

    /// Where the kernel's counters of verdicts began.
    pub(super) fn base(&self) -> Option<Base> {
        lock(&self.verdicts).map(|(base, _)| base)
    }

    /// Tells of flows whose alerts a killed daemon took with it.
    pub(super) fn report_missing(&self, missing: ByAction) {
        let counts = &self.counts;
        for (count, sum, what) in [
            (
                missing.deny,
                &counts.unnamed_denied,
                "packets to denied addresses were dropped, and their alerts were lost when the daemon was killed",
            ),
            (
                missing.alert,
                &counts.unnamed_passed,
                "packets to watched addresses were passed, and their alerts were lost when the daemon was killed",
            ),
        ] {
            sum.fetch_add(count, Ordering::Relaxed);
            if count > 0 {
                tracing::warn!("{count} {what}");
                self.sinks.load().report(count, what);
            }
        }
    }

    /// Tells that the kernel judged packets without the daemon.
    pub(super) fn report_unattributed(&self, denied: u64, passed: u64) {
        let counts = &self.counts;
        for (count, sum, what) in [
            (
                denied,
                &counts.unnamed_denied,
                "packets to denied addresses were dropped without attribution",
            ),
            (
                passed,
                &counts.unnamed_passed,
                "packets to watched addresses were passed without attribution",
            ),
        ] {
            sum.fetch_add(count, Ordering::Relaxed);
            if count > 0 {
                tracing::warn!("{count} {what} (daemon stopped, overloaded, or starting)");
                self.sinks.load().report(count, what);
            }
        }
    }

    /// Tells that full queues dropped packets: `on-queue-full` says so.
    pub(super) fn report_dropped(&self, count: u64) {
        let what = "packets were dropped without attribution, since the queue was full";
        if count > 0 {
            tracing::warn!("{count} {what}");
            self.sinks.load().report(count, what);
        }
    }

    /// Sends what the suppressor has to tell at `now`.
    pub(super) fn summaries(&self, now: Instant) {
        let told = lock(&self.suppressor).expired(now);
        self.tell(told);
    }

    /// Sends the summaries, and the counts of what the rate limit held back.
    pub(super) fn tell(&self, told: Told) {
        for summary in &told.summaries {
            self.send(summary);
        }
        let sinks = self.sinks.load();
        let mut by_limit: BTreeMap<&str, u64> = BTreeMap::new();
        for row in &told.held_back {
            *by_limit.entry(row.limit).or_default() += row.count;
        }
        for (limit, flows) in by_limit {
            tracing::warn!("{flows} flows were over {limit}; they are counted, not alerted");
        }
        for row in told.held_back {
            sinks.held_back(row.count, row.what);
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
    pressure: Pressure,
    pulse: Arc<Pulse>,
}

impl Engine {
    pub(super) fn new(
        path: Arc<Path>,
        attributor: Attributor,
        pressure: Pressure,
        pulse: Arc<Pulse>,
    ) -> Self {
        Self {
            path,
            attributor,
            wires: Wires::new(),
            pressure,
            pulse,
        }
    }

    fn answer(&mut self, packet: &Held<'_>, start: Instant) -> Fate {
        let path = Arc::clone(&self.path);
        let counts = &path.counts;
        counts.packets.fetch_add(1, Ordering::Relaxed);
        let Ok(flow) = decode(packet.bytes) else {
            counts.malformed.fetch_add(1, Ordering::Relaxed);
            return Fate(Answer::Pass, "has no readable header");
        };
        let snapshots = path.view.load();
        let Some((snapshot, first)) = snapshots.first(&flow, packet.hook) else {
            counts.unmatched.fetch_add(1, Ordering::Relaxed);
            return Fate(Answer::Pass, "nothing lists it");
        };
        // Before the source is looked up: of an exception it is asked for once a day.
        let Some(first) = first.due(&flow, |decision, far| path.is_due(decision, far)) else {
            counts.excepted.fetch_add(1, Ordering::Relaxed);
            counts.silent.add(Action::Alert, 1);
            return Fate(Answer::Allow, "an exception, alerted today");
        };
        let connection = packet
            .connection
            .and_then(Entry::from_attributes)
            .filter(|entry| is_of(entry, &flow));
        let canary = path.canary.load();
        let canary = canary
            .as_ref()
            .filter(|canary| canary.is_it(flow.dst, packet.hook, packet.bytes));
        let asked = Instant::now();
        let held = self.pressure.held_by(packet.id, start);
        let kind = first.leading().map(|d| Kind::of(packet, &flow, d));
        let effort = kind.map_or(Effort::Full, |kind| {
            self.pressure.effort(&kind, first.depends(), held, start)
        });
        let effort = match effort {
            Effort::Nothing(_) | Effort::Within(_) if is_of_a_user_alone(packet) => Effort::Full,
            effort => effort,
        };
        let judged = if let Effort::Nothing(cause) = effort {
            counts.folded.fetch_add(1, Ordering::Relaxed);
            let source = self.attributor.unasked(&clues(packet, held), cause);
            let decision = first.leading().cloned();
            decision.map(|decision| judge::annotated(decision, source))
        } else {
            self.attributor.hurry(match effort {
                Effort::Within(limit) => Some(limit),
                Effort::Full | Effort::Nothing(_) => None,
            });
            judge::judge(&snapshot.index, &flow, &first, |direction| {
                // The sender's socket knows where it was connected to, not what NAT made of it.
                let sent = match direction {
                    Direction::Egress => connection.map_or(flow, |entry| Flow {
                        fragment: flow.fragment,
                        ..entry.sent()
                    }),
                    Direction::Ingress => flow,
                };
                self.attribute(packet, &sent, direction, held)
            })
        };
        let attribution = asked.elapsed();
        if let Some(kind) = &kind {
            self.pressure.took(kind, attribution, asked + attribution);
        }
        let Some(Judged { decision, source }) = judged else {
            return Fate(Answer::Pass, "nothing lists it");
        };
        // The daemon must reach its feeds and logs whatever they list. By the kernel's word on whose
        // socket it is as well: no other user's flow passes for being taken for the daemon's.
        if source.pid == Some(path.own_pid) && is_of_own_user(packet) {
            counts.own.fetch_add(1, Ordering::Relaxed);
            // A listed log server is told of all the same: nobody else may ever speak to it.
            if decision.hit.exception.is_none() {
                counts.silent.add(Action::Alert, 1);
                return Fate(Answer::Allow, "the daemon's own");
            }
        }
        let action = decision.action();
        if action == Action::Alert {
            path.just.passed(Passed {
                at: start,
                flow,
                by: Arc::downgrade(snapshot),
                is_alerted: !decision.is_quiet,
            });
        }
        if decision.is_quiet {
            counts.quiet.fetch_add(1, Ordering::Relaxed);
            counts.silent.add(Action::Alert, 1);
            return Fate(Answer::Allow, "touches network sets only");
        }
        let meant = match connection {
            Some(entry) => entry.meant(),
            None => source.meant.map(|end| (end.ip(), Some(end.port()))),
        };
        let seen = (decision.direction, flow.src);
        let source = path.trials.note(source, &decision.hit, seen);
        let alert = Alert {
            nat_dst: meant,
            ..alert(packet, flow, decision, source, start)
        };
        match canary {
            None => path.report(&alert, start),
            Some(canary) if !canary.is_awaited() => counts.silent.add(action, 1),
            Some(canary) => {
                let handing = Instant::now();
                path.send(&alert);
                canary.saw(Seen {
                    at: alert.time.checked_sub(alert.held).unwrap_or(alert.time),
                    attribution,
                    alert: handing.elapsed(),
                    action,
                    held: start.elapsed(),
                    source: alert.source,
                });
            }
        }
        let answer = match action {
            Action::Alert => Answer::Allow,
            Action::Deny => Answer::Deny,
        };
        Fate(answer, effort.as_str())
    }

    /// One line about the packet, at level TRACE.
    fn trace(&self, packet: &Held<'_>, fate: &Fate, took: Duration) {
        let Fate(answer, why) = fate;
        let queue = self.pressure.queue();
        let flow = match decode(packet.bytes) {
            Ok(flow) => in_words(&flow),
            Err(error) => error.to_string(),
        };
        let hook = match packet.hook {
            Hook::Output => "output",
            Hook::Input => "input",
            Hook::Forward => "forward",
        };
        let id = packet.id;
        tracing::trace!("queue {queue}, packet {id}, {hook}, {flow}: {answer:?}, {why}, {took:?}");
    }

    fn attribute(
        &mut self,
        packet: &Held<'_>,
        flow: &Flow,
        direction: Direction,
        held: Instant,
    ) -> Source {
        let mut clues = clues(packet, held);
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
    fn turn(&mut self) {
        self.pulse.beat(Instant::now());
    }

    /// Answers for one packet; its alert is handed on before this returns.
    fn judge(&mut self, packet: &Held<'_>) -> Answer {
        let start = Instant::now();
        let fate = self.answer(packet, start);
        match fate.0 {
            Answer::Allow => self.path.counts.answered.add(Action::Alert, 1),
            Answer::Deny => self.path.counts.answered.add(Action::Deny, 1),
            Answer::Pass => {}
        }
        let took = start.elapsed();
        self.path.meters.verdict.observe(took);
        if tracing::enabled!(tracing::Level::TRACE) {
            self.trace(packet, &fate, took);
        }
        fate.0
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

/// True for what a socket of the daemon's user sends, as far as the kernel says whose it is.
fn is_of_own_user(packet: &Held<'_>) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    packet.hook == Hook::Output && packet.uid.is_none_or(|uid| uid == own)
}

/// True for a packet that is most likely the daemon's own, since it has a user for itself: it is looked
/// up however full the queue is, so that feeds are pulled.
fn is_of_a_user_alone(packet: &Held<'_>) -> bool {
    let root = nix::unistd::geteuid().is_root();
    !root && packet.uid.is_some() && is_of_own_user(packet)
}

/// What became of a packet, and why.
struct Fate(Answer, &'static str);

/// A flow in one line; everything in it is a number.
fn in_words(flow: &Flow) -> String {
    let Flow {
        src, dst, proto, ..
    } = flow;
    match (flow.src_port(), flow.dst_port()) {
        (Some(from), Some(to)) => format!("{proto} {src} port {from} to {dst} port {to}"),
        _ => format!("{proto} {src} to {dst}"),
    }
}

/// Of a packet that was held by then.
fn clues(packet: &Held<'_>, held: Instant) -> Clues {
    Clues {
        uid: packet.uid,
        indev: packet.indev,
        outdev: packet.outdev,
        mac: packet.mac,
        peer: None,
        opens: opens(packet.bytes),
        held: Some(held),
    }
}

/// True when the connection is of this flow, seen from its first sender: only then it tells what NAT did.
fn is_of(entry: &Entry<'_>, flow: &Flow) -> bool {
    is_same(&entry.filtered(), flow)
}

/// The same ends, and the same ports if `flow` has any.
fn is_same(seen: &Flow, flow: &Flow) -> bool {
    let ends = |flow: &Flow| (flow.src, flow.dst, flow.proto);
    let has_ports = flow.dst_port().is_some();
    ends(seen) == ends(flow)
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
        action: decision.action,
        direction: decision.direction,
        flow,
        feeds: decision.hit.feeds,
        indicator: decision.hit.indicator,
        scan: None,
        flood: None,
        severity: decision.hit.severity,
        policy: decision.policy,
        exception: decision.hit.exception,
        iface: index.and_then(links::name),
        source,
        nat_dst: None,
        count: 1,
        window: None,
        held: start.elapsed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::example;

    #[test]
    fn what_passed_just_now_is_known_for_a_moment() {
        let (just, now) = (Just::default(), Instant::now());
        let (one, two) = (Arc::new(Snapshot::default()), Arc::new(Snapshot::default()));
        let passed = |flow, is_alerted| Passed {
            at: now,
            flow,
            by: Arc::downgrade(&one),
            is_alerted,
        };
        let flow = example::alert().flow;
        let mut other = flow;
        other.transport = crate::packet::Transport::Ports { src: 1, dst: 80 };
        just.passed(passed(flow, true));
        assert!(just.has_alerted(&flow, now) && !just.has_alerted(&other, now));
        assert!(just.has_judged(&flow, &one, now));
        assert!(!just.has_judged(&flow, &two, now), "by another snapshot");
        let later = now + Just::KEPT;
        assert!(!just.has_alerted(&flow, later) && !just.has_judged(&flow, &one, later));
        for _ in 0..Just::MOST {
            just.passed(passed(other, false));
        }
        assert!(!just.has_alerted(&flow, now) && !just.has_alerted(&other, now));
        assert!(just.has_judged(&other, &one, now));
    }
}
