//! Flows that are established already when a feed begins to list their far end.
//!
//! The packet path only sees first packets. After each change of the sets the conntrack table is
//! searched: what is listed now and was not before is alerted (`method="live-flow"`); what is denied
//! gets the cut bit in its mark, which the first rule of the inspect chains drops, in both
//! directions, and the socket of a local TCP flow is ended. A flow whose far end is denied no longer
//! loses the bit. Deleting the connection instead would be no cut: its next packet makes a new one.

use std::{
    collections::HashSet,
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
};
use crate::{
    alert::Alert,
    attribution::{Attributor, Clues, Source},
    config::Hook,
    conntrack::{Conntrack, ConntrackError, Entry, Handle},
    feed::{Action, Direction},
    host::{addresses, wires::Wires},
    packet::{Flow, Protocol},
    policy::{Decision, Endpoint, decide},
    snapshot::Snapshot,
};

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

/// Searches after each change until `stop`, and once at the start.
pub(super) fn run(
    shared: &Shared,
    changed: &Receiver<()>,
    attributor: Attributor,
    stop: &AtomicBool,
) {
    let mut search = Search {
        path: Arc::clone(&shared.path),
        known: Arc::default(),
        attributor,
        wires: Wires::new(),
        silent: false,
        cannot_end: false,
    };
    search.catch_up(shared);
    let mut again = None;
    while !stop.load(Ordering::Relaxed) {
        match changed.recv_timeout(TURN) {
            Ok(()) => {
                search.catch_up(shared);
                again = Some(Instant::now() + AFTER);
            }
            // Packets that were decided just before the change have made their connections by now.
            Err(RecvTimeoutError::Timeout) if again.is_some_and(|at| Instant::now() >= at) => {
                again = (!search.once_more(shared)).then(|| Instant::now() + AFTER);
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
    attributor: Attributor,
    wires: Wires,
    /// An error was told already.
    silent: bool,
    /// That sockets cannot be ended was told already.
    cannot_end: bool,
}

/// A flow to act on.
struct Found {
    handle: Handle,
    filtered: Flow,
    sent: Flow,
    meant: Option<(IpAddr, Option<u16>)>,
    hook: Hook,
    act: Act,
}

/// What becomes of a live flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Alert, and cut what is denied.
    Alert(Decision),
    /// It is denied no longer.
    Release,
}

#[derive(Default)]
struct Done {
    alerted: u64,
    cut: u64,
    released: u64,
}

impl Search {
    /// Searches for what the snapshot in force lists and the one before did not.
    fn catch_up(&mut self, shared: &Shared) {
        let current = self.path.view.current();
        if self.path.search_all.swap(false, Ordering::Relaxed) {
            // While the table was gone, flows began that nobody looked at.
            self.known = Arc::default();
        }
        if Arc::ptr_eq(&current, &self.known)
            || (current.sets.elements() == 0 && self.known.sets.elements() == 0)
        {
            return;
        }
        if self.passes(shared, &current) {
            self.known = current;
        }
    }

    /// Searches again for the same; false when that failed.
    fn once_more(&mut self, shared: &Shared) -> bool {
        let current = self.path.view.current();
        let done = self.passes(shared, &current);
        if done {
            self.known = current;
        }
        done
    }

    /// Searches until nothing is left over; false when it could not be finished.
    fn passes(&mut self, shared: &Shared, current: &Snapshot) -> bool {
        let options = lock(&shared.core).kernel.options().clone();
        for _ in 0..PASSES {
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
        current: &Snapshot,
        hooks: &[Hook],
        cut_mask: u32,
    ) -> Result<bool, ConntrackError> {
        let start = Instant::now();
        let mut table = Conntrack::open()?;
        let own = addresses::local();
        let mut found: Vec<Found> = Vec::new();
        let (mut searched, mut left_over, mut uncounted) = (0u64, false, 0u64);
        let listed = table.list(None, start + SEARCH, |entry| {
            searched += 1;
            let Some(hook) = hook(entry, &own).filter(|hook| hooks.contains(hook)) else {
                return;
            };
            let Some(act) = act(entry, hook, &self.known, current, cut_mask) else {
                return;
            };
            if found.len() >= AT_ONCE {
                if is_marking(&act) {
                    left_over = true;
                } else {
                    uncounted += 1;
                }
                return;
            }
            found.push(Found {
                handle: entry.handle(),
                filtered: entry.filtered(),
                sent: entry.sent(),
                meant: entry.meant(),
                hook,
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
        let attribute_until = Instant::now() + ATTRIBUTE;
        for flow in found {
            if let Err(e) = self.handle(&mut table, flow, cut_mask, attribute_until, &mut done) {
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
        Ok(in_time && !left_over)
    }

    fn handle(
        &mut self,
        table: &mut Conntrack,
        found: Found,
        cut_mask: u32,
        attribute_until: Instant,
        done: &mut Done,
    ) -> Result<(), ConntrackError> {
        let decision = match &found.act {
            Act::Release => {
                done.released += u64::from(table.mark(&found.handle, cut_mask, false)?);
                return Ok(());
            }
            Act::Alert(decision) => decision.clone(),
        };
        if decision.action() == Action::Alert && self.path.just.has(&found.filtered, Instant::now())
        {
            return Ok(()); // its first packet came after the change
        }
        let until = (done.alerted >= ALWAYS).then_some(attribute_until);
        let source = self.attribute(&found, &decision, until);
        // The daemon must reach its feeds and logs whatever they list.
        if source.pid == Some(self.path.own_pid) && found.hook == Hook::Output {
            return Ok(());
        }
        let seen = (decision.direction, found.filtered.src);
        let source = self.path.trials.note(source, &decision.hit, seen);
        let action = decision.action();
        self.path
            .report(&alert(&found, decision, source), Instant::now());
        done.alerted += 1;
        let counts = &self.path.counts;
        counts.live.fetch_add(1, Ordering::Relaxed);
        if action == Action::Deny && table.mark(&found.handle, cut_mask, true)? {
            counts.cut.fetch_add(1, Ordering::Relaxed);
            done.cut += 1;
            self.end_connection(&found);
        }
        Ok(())
    }

    /// Ends the socket of a local TCP flow that was cut. Its process would wait for answers otherwise,
    /// and the kernel send again for minutes what is dropped. The reset meets the cut bit and stays here.
    fn end_connection(&mut self, found: &Found) {
        if found.filtered.proto != Protocol::TCP {
            return;
        }
        let ended = match found.hook {
            Hook::Forward => return,
            Hook::Output => self
                .attributor
                .end_connection(&found.sent, Direction::Egress),
            Hook::Input => self
                .attributor
                .end_connection(&found.filtered, Direction::Ingress),
        };
        match ended {
            Ok(ended) => tracing::trace!(ended, "socket of a cut flow"),
            // The cut bit is enough.
            Err(why) => {
                if !std::mem::replace(&mut self.cannot_end, true) {
                    tracing::warn!("the sockets of cut flows are not ended: {why}");
                }
            }
        }
    }

    fn attribute(&mut self, found: &Found, decision: &Decision, until: Option<Instant>) -> Source {
        let mut source = match found.hook {
            _ if until.is_some_and(|until| Instant::now() >= until) => Source {
                cause: Some("too many live flows at once to look all of them up".into()),
                ..Source::default()
            },
            Hook::Forward => self.attribute_forwarded(found, decision.direction),
            // The socket knows the address it was connected to, not what NAT made of it.
            Hook::Output => {
                self.attributor
                    .local(&found.sent, decision.direction, &Clues::default())
            }
            Hook::Input => {
                self.attributor
                    .local(&found.filtered, decision.direction, &Clues::default())
            }
        };
        source.method = Some("live-flow");
        source
    }

    /// There is no packet that shows the interface and the sender's card: the route back and the
    /// neighbour table do, as far as they lead there.
    fn attribute_forwarded(&mut self, found: &Found, direction: Direction) -> Source {
        let (flow, inside) = match direction {
            Direction::Egress => (&found.sent, found.filtered.src),
            Direction::Ingress => (&found.filtered, found.filtered.dst),
        };
        let device = self.wires.device_to(inside);
        let mac = device.and_then(|device| self.wires.mac_of(device, inside));
        let clues = Clues {
            mac,
            peer: device.and_then(|device| self.wires.peer(device, mac)),
            ..Clues::default()
        };
        self.attributor.forwarded(flow, direction, &clues)
    }
}

/// Where the flow's first packet was filtered; `None` within this host.
pub(super) fn hook(entry: &Entry<'_>, own: &HashSet<IpAddr>) -> Option<Hook> {
    let is_own = |addr: IpAddr| addr.is_loopback() || own.contains(&addr);
    match (is_own(entry.origin.src), is_own(entry.reply.src)) {
        (true, true) => None,
        (true, false) => Some(Hook::Output),
        (false, true) => Some(Hook::Input),
        (false, false) => Some(Hook::Forward),
    }
}

/// What becomes of a flow between the `known` snapshot and `current`.
pub(super) fn act(
    entry: &Entry<'_>,
    hook: Hook,
    known: &Snapshot,
    current: &Snapshot,
    cut_mask: u32,
) -> Option<Act> {
    let flow = entry.filtered();
    let is_cut = entry.mark & cut_mask != 0;
    let now = decide(&current.index, &flow, hook, &Endpoint::default());
    let denied = now.as_ref().map(Decision::action) == Some(Action::Deny);
    if is_cut && !denied {
        return Some(Act::Release);
    }
    // A flow whose answer is still on its way is cut too: that answer would make it established.
    if is_cut || entry.over || (!entry.live && !denied) {
        return None;
    }
    let now = now?;
    let is_news = decide(&known.index, &flow, hook, &Endpoint::default()).is_none();
    (denied || is_news).then_some(Act::Alert(now))
}

/// True when the flow's mark changes, so that a further pass does not find it again.
fn is_marking(act: &Act) -> bool {
    match act {
        Act::Release => true,
        Act::Alert(decision) => decision.action() == Action::Deny,
    }
}

fn alert(found: &Found, decision: Decision, source: Source) -> Alert {
    Alert {
        id: uuid::Uuid::now_v7(),
        time: SystemTime::now(),
        action: decision.hit.action,
        direction: decision.direction,
        flow: found.filtered,
        feeds: decision.hit.feeds,
        indicator: decision.hit.indicator,
        scan: None,
        severity: decision.hit.severity,
        policy: None,
        iface: None,
        source,
        nat_dst: found.meant,
        count: 1,
        window: None,
        held: Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config,
        conntrack::Entry,
        feed::{FeedData, Limits, parse_plain},
        snapshot::{Input, Options, build},
    };

    const BIT: u32 = 0x0800_0000;

    fn listing(action: Action) -> Snapshot {
        let mut feed = config::Feed::new("f".parse().unwrap());
        feed.action = action;
        let parsed = parse_plain(b"203.0.113.1", &Limits::default());
        let data = FeedData {
            parsed,
            pulled: SystemTime::UNIX_EPOCH,
            bytes: 0,
        };
        build(
            &[Input::new(&feed, Arc::new(data))],
            &[],
            Options::default(),
        )
    }

    fn entry(mark: u32, live: bool) -> Entry<'static> {
        let mut entry = Entry::example("192.0.2.2", "203.0.113.1");
        (entry.mark, entry.live) = (mark, live);
        entry
    }

    /// The action alerted, or `None` for a release.
    fn seen(entry: &Entry<'_>, known: &Snapshot, current: &Snapshot) -> Option<Option<Action>> {
        act(entry, Hook::Output, known, current, BIT).map(|act| match act {
            Act::Alert(decision) => Some(decision.action()),
            Act::Release => None,
        })
    }

    #[test]
    fn what_is_news_is_alerted_what_is_denied_is_cut_what_is_free_is_released() {
        let (none, watch, deny) = (
            Snapshot::default(),
            listing(Action::Alert),
            listing(Action::Deny),
        );
        let (plain, cut) = (entry(1, true), entry(BIT | 1, true));
        assert_eq!(seen(&plain, &none, &watch), Some(Some(Action::Alert)));
        assert_eq!(seen(&plain, &watch, &watch), None, "alerted already");
        assert_eq!(seen(&plain, &watch, &deny), Some(Some(Action::Deny)));
        assert_eq!(
            seen(&plain, &deny, &deny),
            Some(Some(Action::Deny)),
            "it must be cut, whenever it began"
        );
        assert_eq!(seen(&cut, &none, &deny), None, "cut already");
        assert_eq!(seen(&cut, &deny, &watch), Some(None));
        assert_eq!(seen(&cut, &deny, &none), Some(None));
        assert_eq!(
            seen(&entry(0, false), &none, &watch),
            None,
            "its packets are still new, so the packet path sees them"
        );
        assert_eq!(
            seen(&entry(0, false), &none, &deny),
            Some(Some(Action::Deny)),
            "the answer on its way would make it established"
        );
        let mut ended = entry(0, false);
        ended.over = true;
        assert_eq!(seen(&ended, &none, &deny), None);
    }

    #[test]
    fn the_ends_tell_the_hook() {
        let own = HashSet::from(["192.0.2.2".parse().unwrap()]);
        let hook = |src, dst| hook(&Entry::example(src, dst), &own);
        assert_eq!(hook("192.0.2.2", "203.0.113.1"), Some(Hook::Output));
        assert_eq!(hook("203.0.113.1", "192.0.2.2"), Some(Hook::Input));
        assert_eq!(hook("198.51.100.1", "203.0.113.1"), Some(Hook::Forward));
        assert_eq!(hook("192.0.2.2", "127.0.0.1"), None);
    }
}
