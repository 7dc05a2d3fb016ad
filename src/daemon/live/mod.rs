//! Flows that are established already when a feed begins to list their far end.
//!
//! The packet path only sees first packets. After each change of the sets the conntrack table is
//! searched: what is listed now and was not before is alerted (`method="live-flow"`); what is denied
//! gets the cut bit in its mark, which the first rule of the inspect chains drops, in both
//! directions, and the socket of a local TCP flow is ended. A flow whose far end is denied no longer
//! loses the bit. Deleting the connection instead would be no cut: its next packet makes a new one.
//!
//! Where the verdict hangs on the source, it is looked up first. That is done again only after a change
//! of what is asked: policies, listings or network sets.

mod act;
mod finder;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant, SystemTime},
};

use super::{
    Shared,
    engine::{Path, lock},
    judge::{First, Judged, judge},
    watchdog::Terms,
};
use crate::{
    alert::Alert,
    attribution::{Attributor, Source},
    background,
    config::Hook,
    conntrack::{Conntrack, ConntrackError, Handle},
    feed::Action,
    host::addresses,
    packet::Flow,
    policy::Decision,
    pulse::Pulse,
    snapshot::Snapshot,
};

pub(super) use act::{Act, Change, hook};
use finder::Finder;

/// When a change is searched for a second time.
const AFTER: Duration = Duration::from_secs(1);
/// How long the thread waits before it looks whether it is to end.
const TURN: Duration = Duration::from_millis(200);
/// A search that takes longer ends with what it found: half a million connections take about a second.
pub(super) const SEARCH: Duration = Duration::from_secs(5);
/// Time for looking up processes in one search: a flow must not live on while others are looked up.
const ATTRIBUTE: Duration = Duration::from_millis(500);
/// The first flows are looked up all the same, however busy the host is.
const ALWAYS: u64 = 16;
/// Flows handled in one pass. More that are to be cut are found by the next pass, which follows at
/// once; more that are only watched are counted.
const AT_ONCE: usize = 16_384;
/// Passes for one change, in case marks do not stick.
const PASSES: usize = 64;
/// Time of one pass for flows that hang on their source: each of them is looked up.
const JUDGE: Duration = Duration::from_secs(2);
/// Verdicts by source that are remembered until a change is searched for a second time.
const JUDGED: usize = 65_536;

/// How far a search stands back behind the threads that hold packets (nice(2)).
const NICE: i32 = 5;

/// Searches after each change until `stop`, and once at the start.
pub(super) fn run(
    shared: &Shared,
    changed: &Receiver<()>,
    attributor: Attributor,
    stop: &AtomicBool,
) {
    background::give_way(NICE);
    let pulse = shared
        .pulses
        .begin("the search for live flows", Terms::SEARCH);
    let mut search = Search {
        path: Arc::clone(&shared.path),
        known: Arc::default(),
        before: None,
        judged: HashMap::new(),
        turn: 0,
        finder: Finder::new(attributor),
        silent: false,
        pulse: Arc::clone(&pulse),
    };
    search.catch_up(shared, stop);
    let mut again = None;
    while !stop.load(Ordering::Relaxed) {
        pulse.beat(Instant::now());
        match changed.recv_timeout(TURN) {
            Ok(()) => {
                search.catch_up(shared, stop);
                again = Some(Instant::now() + AFTER);
            }
            // Packets that were decided just before the change have made their connections by now.
            Err(RecvTimeoutError::Timeout) if again.is_some_and(|at| Instant::now() >= at) => {
                let done = search.once_more(shared, stop);
                again = (!done).then(|| Instant::now() + AFTER);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// After `down` no rule asks for the cut bit any more: it is taken off what still has it.
pub(super) fn release_all(cut_mask: u32) {
    let deadline = Instant::now() + SEARCH;
    let released = Conntrack::open().and_then(|mut table| table.unmark_all(cut_mask, deadline));
    match released {
        Ok(0) => {}
        Ok(count) => tracing::info!("{count} flows are no longer cut"),
        Err(e) => tracing::debug!("{e}"),
    }
}

struct Search {
    path: Arc<Path>,
    /// What live flows were searched for last.
    known: Arc<Snapshot>,
    /// The one before, until its change was searched for a second time.
    before: Option<Arc<Snapshot>>,
    /// What was decided by source until then.
    judged: HashMap<Flow, Outcome>,
    /// Number of the change.
    turn: u64,
    finder: Finder,
    /// An error was told already.
    silent: bool,
    pulse: Arc<Pulse>,
}

/// A flow to act on.
struct Found {
    handle: Handle,
    filtered: Flow,
    sent: Flow,
    meant: Option<(IpAddr, Option<u16>)>,
    hook: Hook,
    is_cut: bool,
    act: Act,
}

/// A verdict by source.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    /// Of which change.
    turn: u64,
    action: Action,
    policy: Option<Arc<str>>,
}

/// What one pass is about.
#[derive(Clone, Copy)]
struct Pass<'a> {
    change: Change<'a>,
    current: &'a Arc<Snapshot>,
    cut_mask: u32,
    /// Until when processes are looked up only to be named.
    name_until: Instant,
    /// Until when they are looked up for a verdict.
    judge_until: Instant,
}

#[derive(Default)]
struct Done {
    /// Flows looked up for a verdict.
    judged: u64,
    /// Flows that wait for the next pass.
    put_off: u64,
    alerted: u64,
    cut: u64,
    released: u64,
}

impl Search {
    /// Searches for what the snapshot in force lists and the one before did not.
    fn catch_up(&mut self, shared: &Shared, stop: &AtomicBool) {
        let current = self.path.view.current();
        if self.path.search_all.swap(false, Ordering::Relaxed) {
            // While the table was gone, flows began that nobody looked at.
            (self.known, self.before) = (Arc::default(), None);
            self.judged.clear();
        }
        if Arc::ptr_eq(&current, &self.known)
            || (current.sets.elements() == 0 && self.known.sets.elements() == 0)
        {
            return;
        }
        self.turn += 1;
        // Until the second search is done, flows turn up that were judged by the first of them.
        self.before.get_or_insert_with(|| Arc::clone(&self.known));
        if self.passes(shared, &current, stop) {
            self.known = current;
            *lock(&self.path.searched) = Some(SystemTime::now());
        }
    }

    /// Searches again for the same; false when that failed.
    fn once_more(&mut self, shared: &Shared, stop: &AtomicBool) -> bool {
        let current = self.path.view.current();
        let done = self.passes(shared, &current, stop);
        if done {
            *lock(&self.path.searched) = Some(SystemTime::now());
            self.known = current;
            self.before = None;
            self.judged.clear();
        }
        done
    }

    /// Searches until nothing is left over; false when it could not be finished.
    fn passes(&mut self, shared: &Shared, current: &Arc<Snapshot>, stop: &AtomicBool) -> bool {
        // The state has a pulse of its own.
        self.pulse.rest();
        let options = lock(&shared.core).kernel.options().clone();
        for _ in 0..PASSES {
            self.pulse.beat(Instant::now());
            if stop.load(Ordering::Relaxed) {
                return false;
            }
            match self.search(current, &options.hooks, options.cut_mask) {
                Ok(complete) => {
                    self.silent = false;
                    if complete {
                        return true;
                    }
                }
                Err(e) => {
                    if !std::mem::replace(&mut self.silent, true) {
                        tracing::error!(
                            "established flows are not searched for listed addresses: {e}"
                        );
                    }
                    return false;
                }
            }
        }
        false
    }

    /// One pass; false when there was more than fits one.
    fn search(
        &mut self,
        current: &Arc<Snapshot>,
        hooks: &[Hook],
        cut_mask: u32,
    ) -> Result<bool, ConntrackError> {
        let start = Instant::now();
        let mut table = Conntrack::open()?;
        let own = addresses::local();
        let known = Arc::clone(&self.known);
        let before = self.before.clone().unwrap_or_else(|| Arc::clone(&known));
        let change = Change::new(&known, &before, current);
        let mut found: Vec<Found> = Vec::new();
        let (mut searched, mut left_over, mut uncounted) = (0u64, false, 0u64);
        let listed = table.list(None, start + SEARCH, |entry| {
            searched += 1;
            let Some(hook) = hook(entry, &own).filter(|hook| hooks.contains(hook)) else {
                return;
            };
            let Some(act) = change.act(entry, hook, cut_mask) else {
                return;
            };
            let filtered = entry.filtered();
            if matches!(act, Act::Judge(_)) && self.has_judged(&filtered, current) {
                return;
            }
            if found.len() >= AT_ONCE {
                if act.is_lasting() {
                    left_over = true;
                } else {
                    uncounted += 1;
                }
                return;
            }
            found.push(Found {
                handle: entry.handle(),
                filtered,
                sent: entry.sent(),
                meant: entry.meant(),
                hook,
                is_cut: entry.mark & cut_mask != 0,
                act,
            });
        });
        // What was found before the time ran out is acted on.
        let in_time = match listed {
            Ok(()) => true,
            Err(ConntrackError::Timeout { .. }) => false,
            Err(e) => return Err(e),
        };
        let listed = start.elapsed();
        let mut done = Done::default();
        // What is denied for everybody does not wait until processes are looked up.
        found.sort_by_key(|flow| matches!(flow.act, Act::Judge(_)));
        let now = Instant::now();
        let pass = Pass {
            change,
            current,
            cut_mask,
            name_until: now + ATTRIBUTE,
            judge_until: now + ATTRIBUTE + JUDGE,
        };
        for flow in found {
            if let Err(e) = self.handle(&mut table, flow, &pass, &mut done) {
                tracing::warn!("a flow could not be cut or released: {e}");
            }
        }
        if done.alerted + done.cut + done.released > 0 {
            tracing::info!(
                "{searched} connections searched in {listed:?}: {} to listed addresses alerted, {} cut, \
                 {} released, in {:?}",
                done.alerted,
                done.cut,
                done.released,
                start.elapsed()
            );
        }
        if uncounted > 0 && !left_over {
            let what = "established flows to watched addresses were too many to alert one by one";
            tracing::warn!("{uncounted} {what}");
            self.path.sinks.load().report(uncounted, what);
        }
        Ok(in_time && !left_over && done.put_off == 0)
    }

    /// True when the source was looked up since the last change, here or with its first packet.
    fn has_judged(&self, flow: &Flow, current: &Arc<Snapshot>) -> bool {
        let outcome = self.judged.get(flow);
        outcome.is_some_and(|outcome| outcome.turn == self.turn)
            || (self.path.just).has_judged(flow, current, Instant::now())
    }

    fn handle(
        &mut self,
        table: &mut Conntrack,
        found: Found,
        pass: &Pass<'_>,
        done: &mut Done,
    ) -> Result<(), ConntrackError> {
        match &found.act {
            Act::Release => {
                done.released += u64::from(table.mark(&found.handle, pass.cut_mask, false)?);
                Ok(())
            }
            Act::Alert(first) => {
                if !first.denies() && self.has_just_passed(&found, pass.current) {
                    return Ok(()); // its first packet came after the change
                }
                let is_due = |decision: &Decision, far| self.path.is_due(decision, far);
                let Some(first) = first.clone().due(&found.filtered, is_due) else {
                    return Ok(());
                };
                let until = (done.alerted >= ALWAYS).then_some(pass.name_until);
                let index = &pass.current.index;
                let attribute = |direction| self.finder.attribute(&found, direction, until);
                // Who decided, and whether it is logged, may hang on the source all the same.
                match judge(index, &found.filtered, &first, attribute) {
                    Some(judged) if !judged.decision.is_quiet => {
                        self.carry_out(table, &found, judged, pass, done)
                    }
                    _ => Ok(()),
                }
            }
            Act::Judge(first) => {
                // One at least, so that there is an end to it.
                if done.judged > 0 && Instant::now() >= pass.judge_until {
                    done.put_off += 1;
                    return Ok(());
                }
                done.judged += 1;
                let first = first.clone();
                self.judge(table, &found, &first, pass, done)
            }
        }
    }

    /// The first packet of the flow came after the change, or just before.
    fn has_just_passed(&self, found: &Found, current: &Arc<Snapshot>) -> bool {
        let (just, now) = (&self.path.just, Instant::now());
        just.has_alerted(&found.filtered, now) || just.has_judged(&found.filtered, current, now)
    }

    /// Looks up whose flow it is, and does what is decided then, if it is not what was before.
    fn judge(
        &mut self,
        table: &mut Conntrack,
        found: &Found,
        first: &First,
        pass: &Pass<'_>,
        done: &mut Done,
    ) -> Result<(), ConntrackError> {
        let index = &pass.current.index;
        let attribute = |direction| self.finder.attribute(found, direction, None);
        let Some(judged) = judge(index, &found.filtered, first, attribute) else {
            return Ok(());
        };
        let decision = &judged.decision;
        let outcome = Outcome {
            turn: self.turn,
            action: decision.action(),
            policy: decision.policy.clone(),
        };
        let before = if self.judged.len() < JUDGED || self.judged.contains_key(&found.filtered) {
            self.judged.insert(found.filtered, outcome.clone())
        } else {
            None
        };
        let same = |old: Outcome| (old.action, old.policy) == (outcome.action, outcome.policy);
        let is_told = before.is_some_and(same);
        match (decision.action(), found.is_cut) {
            (Action::Deny, true) => Ok(()),
            (Action::Deny, false) => self.carry_out(table, found, judged, pass, done),
            // Its socket is gone with the cut, so nobody knows whose it was.
            (Action::Alert, true) if decision.depends => Ok(()),
            (Action::Alert, true) => {
                done.released += u64::from(table.mark(&found.handle, pass.cut_mask, false)?);
                Ok(())
            }
            (Action::Alert, false) => {
                let is_news = pass.change.is_news(&found.filtered, found.hook);
                if decision.is_quiet
                    || is_told
                    || !is_news
                    || self.has_just_passed(found, pass.current)
                {
                    return Ok(());
                }
                self.carry_out(table, found, judged, pass, done)
            }
        }
    }

    /// Alerts, and cuts what is denied.
    fn carry_out(
        &mut self,
        table: &mut Conntrack,
        found: &Found,
        judged: Judged,
        pass: &Pass<'_>,
        done: &mut Done,
    ) -> Result<(), ConntrackError> {
        let Judged { decision, source } = judged;
        // The daemon must reach its feeds and logs whatever they list.
        if source.pid == Some(self.path.own_pid) && found.hook == Hook::Output {
            return Ok(());
        }
        let seen = (decision.direction, found.filtered.src);
        let source = self.path.trials.note(source, &decision.hit, seen);
        let action = decision.action();
        self.path
            .report_live(&alert(found, decision, source), Instant::now());
        done.alerted += 1;
        let counts = &self.path.counts;
        counts.live.fetch_add(1, Ordering::Relaxed);
        if action == Action::Deny && table.mark(&found.handle, pass.cut_mask, true)? {
            counts.cut.fetch_add(1, Ordering::Relaxed);
            done.cut += 1;
            self.finder.end_connection(found);
        }
        Ok(())
    }
}

fn alert(found: &Found, decision: Decision, source: Source) -> Alert {
    Alert {
        id: uuid::Uuid::now_v7(),
        time: SystemTime::now(),
        action: decision.action,
        direction: decision.direction,
        flow: found.filtered,
        feeds: decision.hit.feeds,
        indicator: decision.hit.indicator,
        scan: None,
        flood: None,
        severity: decision.hit.severity,
        policy: decision.policy,
        exception: decision.hit.exception,
        iface: None,
        source,
        nat_dst: found.meant,
        count: 1,
        window: None,
        held: Duration::ZERO,
    }
}
