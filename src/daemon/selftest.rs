//! The self-test: a canary goes through set, queue, attribution, alert and verdict, as any packet does.
//!
//! The canary is an address of a documentation range that no feed lists. It is put into the deny set; a
//! child process sends one datagram to it, which carries a token, so that no other packet is taken for
//! it. Its alert goes to every target and to the store, under the name of a feed that there is not,
//! and is not counted among the flows that were denied.

mod probe;
mod report;

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Shared, core::Core, engine::lock, status::rfc3339};
use crate::{
    attribution::Source,
    config::{Hook, Mode},
    control::Probed,
    feed::{Action, FeedData, FeedName, Limits, Scope, Severity, parse_plain},
    nft::QueueKind,
    ruleset::Counter,
    sink::SinkStats,
    snapshot::{Input, Snapshot},
};
pub use probe::{Probe, probe};
use report::Report;

const FEED: &str = FeedName::SELFTEST;
/// The discard service (RFC 863): nobody answers there.
const PORT: u16 = 9;
/// A self-test whose client is gone ends after that.
const LONGEST: Duration = Duration::from_secs(30);
/// How long the packet may take to the queue, besides its attribution.
const QUEUE: Duration = Duration::from_secs(3);
/// How long the targets may take to send the alert.
const TARGETS: Duration = Duration::from_secs(3);
/// Copies of the canary for a consensus; more feeds do not have to agree anywhere.
const COPIES: usize = 64;

/// What the packet path looks for.
#[derive(Debug)]
pub(super) struct Canary {
    addr: IpAddr,
    token: String,
    seen: Mutex<Option<Seen>>,
    came: Condvar,
}

/// What became of the canary's packet.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) at: SystemTime,
    pub(super) source: Source,
    pub(super) attribution: Duration,
    pub(super) alert: Duration,
    pub(super) action: Action,
    /// From its arrival in the daemon to its answer.
    pub(super) held: Duration,
}

impl Canary {
    /// True for the packet of the self-test's own child.
    pub(super) fn is_it(&self, dst: IpAddr, hook: Hook, bytes: &[u8]) -> bool {
        dst == self.addr && hook == Hook::Output && bytes.ends_with(self.token.as_bytes())
    }

    /// True until its packet came. Further ones, sent before the verdict of the first was in the kernel,
    /// are no news.
    pub(super) fn is_awaited(&self) -> bool {
        lock(&self.seen).is_none()
    }

    /// Takes what the packet path saw; the first packet counts.
    pub(super) fn saw(&self, seen: Seen) {
        lock(&self.seen).get_or_insert(seen);
        self.came.notify_all();
    }

    fn wait(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut seen = lock(&self.seen);
        while seen.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            seen = match self.came.wait_timeout(seen, left) {
                Ok((seen, _)) => seen,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        true
    }
}

/// The self-test that runs, and how the last one ended.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// One is being started.
    starts: bool,
    running: Option<Running>,
    pub(super) last: Option<Report>,
}

#[derive(Debug)]
struct Running {
    canary: Arc<Canary>,
    start: Instant,
    at: SystemTime,
    /// How long the transaction took that put the canary into the kernel.
    set: Duration,
    denied_before: Option<u64>,
    sinks_before: Vec<SinkStats>,
}

/// Where the child is to send what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// The canary.
    pub to: SocketAddr,
    /// What the datagram holds.
    pub token: String,
}

impl Core {
    /// The canary as feeds: as many origins as a consensus asks for.
    pub(super) fn canary_inputs(&self) -> Vec<Input> {
        let Some(addr) = self.canary else {
            return Vec::new();
        };
        let Ok(name) = FEED.parse::<FeedName>() else {
            return Vec::new();
        };
        let parsed = parse_plain(addr.to_string().as_bytes(), &Limits::default());
        let data = Arc::new(FeedData {
            parsed,
            pulled: SystemTime::UNIX_EPOCH,
            bytes: 0,
        });
        let copy = |number: usize| Input {
            name: name.clone(),
            action: Action::Deny,
            deny_score: None,
            scope: Scope::Both,
            severity: Severity::Low,
            origin: format!("{FEED}/{number}"),
            network_set: None,
            trial: false,
            data: Arc::clone(&data),
        };
        let copies = self.config.consensus.deny_at.clamp(1, COPIES);
        (0..copies).map(copy).collect()
    }
}

/// Puts the canary into the kernel. Gives the order for the child, or a report of why there is none.
pub(super) fn begin(shared: &Shared) -> Result<Value, String> {
    {
        let mut place = lock(&shared.selftest);
        let runs = |running: &Running| running.start.elapsed() < LONGEST;
        if place.starts || place.running.as_ref().is_some_and(runs) {
            return Err("another self-test is running; try again in a minute".into());
        }
        place.starts = true;
    }
    // Not under that lock: a long load may hold the state, and status asks for the last result.
    let started = start(shared);
    let mut place = lock(&shared.selftest);
    place.starts = false;
    match started {
        Ok(running) => {
            let canary = &running.canary;
            let to = SocketAddr::new(canary.addr, PORT);
            let token = canary.token.clone();
            place.running = Some(running);
            Ok(json!({ "order": Order { to, token } }))
        }
        Err(report) => {
            place.last = Some(report.clone());
            Ok(json!({ "report": report }))
        }
    }
}

fn start(shared: &Shared) -> Result<Running, Report> {
    let mut core = lock(&shared.core);
    let (start, at) = (Instant::now(), SystemTime::now());
    if !core.kernel.options().hooks.contains(&Hook::Output) {
        let why =
            "[nftables] hooks has no \"output\", and the canary is a packet of this host itself";
        return Err(Report::untestable(at, why));
    }
    let Some(addr) = choose(&core, &core.path.view.current()) else {
        let why =
            "this host has no route to any address of a documentation range that no feed lists";
        return Err(Report::untestable(at, why));
    };
    let sinks_before = core.path.sinks.load().stats();
    let denied_before = denied(&core);
    let token = format!("{FEED} {}", uuid::Uuid::now_v7());
    let canary = Arc::new(Canary {
        addr,
        token,
        seen: Mutex::default(),
        came: Condvar::new(),
    });
    core.canary = Some(addr);
    let refused = match core.sync() {
        Err(e) => Some(e.to_string()),
        Ok(()) if core.closed => Some("the table is being removed (feedgate down)".into()),
        Ok(()) if core.inherited => {
            Some("the table of the last run is in force until some feed has good data".into())
        }
        Ok(()) => None,
    };
    if let Some(why) = refused {
        core.canary = None;
        return Err(Report::no_set(at, start.elapsed(), &why));
    }
    core.path.canary.store(Some(Arc::clone(&canary)));
    Ok(Running {
        canary,
        start,
        at,
        set: start.elapsed(),
        denied_before,
        sinks_before,
    })
}

/// Waits until the packet came; false when it did not.
pub(super) fn seen(shared: &Shared) -> Result<Value, String> {
    let canary = {
        let place = lock(&shared.selftest);
        let running = place.running.as_ref().ok_or_else(not_running)?;
        Arc::clone(&running.canary)
    };
    let timeout = lock(&shared.core).config.attribution.timeout;
    Ok(json!(canary.wait(QUEUE + timeout)))
}

/// Takes the canary out of the kernel and says how it went.
pub(super) fn end(shared: &Shared, probed: &Probed) -> Result<Value, String> {
    let running = lock(&shared.selftest)
        .running
        .take()
        .ok_or_else(not_running)?;
    let sinks = wait_for_targets(shared, &running.sinks_before);
    let (removal, denied, options) = {
        let mut core = lock(&shared.core);
        let denied = denied(&core);
        let start = Instant::now();
        let removed = remove(&mut core).map(|()| start.elapsed());
        let options = (
            core.config.nftables.mode == Mode::Include,
            core.config.nftables.queue_first,
            core.kernel.queue_kind() == QueueKind::Missing,
        );
        (removed, denied, options)
    };
    let seen = lock(&running.canary.seen).take();
    let counted = match (running.denied_before, denied) {
        (Some(before), Some(after)) => Some(after.saturating_sub(before)),
        _ => None,
    };
    let facts = report::Facts {
        at: running.at,
        addr: running.canary.addr,
        set: running.set,
        probed,
        seen: seen.as_ref(),
        sinks_before: &running.sinks_before,
        sinks: &sinks,
        has_store: shared.path.db.load().is_some(),
        counted,
        removal,
        is_include: options.0,
        queue: options.1,
        no_queue: options.2,
        total: running.start.elapsed(),
    };
    let report = Report::of(&facts);
    let value = serde_json::to_value(&report).map_err(|e| e.to_string());
    lock(&shared.selftest).last = Some(report);
    value
}

fn not_running() -> String {
    format!(
        "no self-test is running; it may have taken longer than {} s",
        LONGEST.as_secs()
    )
}

/// Ends a self-test whose client is gone.
pub(super) fn tidy(shared: &Shared) {
    let mut place = lock(&shared.selftest);
    let is_over = |running: &Running| running.start.elapsed() >= LONGEST;
    if !place.running.as_ref().is_some_and(is_over) {
        return;
    }
    place.running = None;
    drop(place);
    tracing::warn!("a self-test did not end: its canary is taken out of the kernel");
    if let Err(e) = remove(&mut lock(&shared.core)) {
        tracing::error!("{e}");
    }
}

fn remove(core: &mut Core) -> Result<(), String> {
    core.path.canary.store(None);
    core.canary = None;
    core.sync().map_err(|e| e.to_string())
}

/// The whole self-test by the daemon itself, at its start; the log has the result.
pub(super) fn at_start(shared: &Shared) {
    match whole(shared) {
        Ok(report) if report.passed => tracing::info!("{}", report.line()),
        Ok(report) if !report.testable => tracing::warn!("{}", report.line()),
        Ok(report) => tracing::error!("{}", report.line()),
        Err(e) => {
            tracing::error!("the self-test did not run: {e}; try it with `feedgate selftest`")
        }
    }
}

fn whole(shared: &Shared) -> Result<Report, String> {
    let value = begin(shared)?;
    if let Some(report) = lock(&shared.selftest).last.clone()
        && value.get("report").is_some()
    {
        return Ok(report);
    }
    let order = value.get("order").cloned().unwrap_or_default();
    let order: Order = serde_json::from_value(order).map_err(|e| e.to_string())?;
    let probed = Probe::run(&order, || {
        seen(shared).is_ok_and(|seen| seen == Value::Bool(true))
    });
    end(shared, &probed)?;
    let last = lock(&shared.selftest).last.clone();
    last.ok_or_else(not_running)
}

/// For status: the last result with its age.
pub(super) fn shown(shared: &Shared) -> Option<Value> {
    let last = lock(&shared.selftest).last.clone()?;
    let age = last.at.elapsed().unwrap_or_default().as_secs();
    let mut value = serde_json::to_value(&last).ok()?;
    if let Some(map) = value.as_object_mut() {
        map.insert("age_s".into(), age.into());
        map.insert("at".into(), json!(rfc3339(Some(last.at))));
    }
    Some(value)
}

/// What status calls a problem.
pub(super) fn problem(shared: &Shared) -> Option<String> {
    let place = lock(&shared.selftest);
    let last = place.last.as_ref()?;
    (last.testable && !last.passed).then(|| last.line())
}

/// Packets that the daemon denied, by the kernel's own counter.
fn denied(core: &Core) -> Option<u64> {
    let counters = core.kernel.counters().ok()?;
    counters.get(&Counter::Denied).map(|count| count.packets)
}

/// Waits until each target has sent something more, or says what is wrong.
fn wait_for_targets(shared: &Shared, before: &[SinkStats]) -> Vec<SinkStats> {
    let until = Instant::now() + TARGETS;
    loop {
        let now = shared.path.sinks.load().stats();
        let waits = |sink: &SinkStats| {
            let old = before.iter().find(|old| old.name == sink.name);
            old.is_some_and(|old| sink.sent == old.sent) && sink.last_error.is_none()
        };
        if !now.iter().any(waits) || Instant::now() >= until {
            return now;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An address of a documentation range (RFC 5737, RFC 3849) that nobody lists or excepts, and that
/// this host has a route to.
fn choose(core: &Core, snapshot: &Snapshot) -> Option<IpAddr> {
    let v4 = [[203, 0, 113], [198, 51, 100], [192, 0, 2]];
    let v4 = v4
        .iter()
        .flat_map(|[a, b, c]| (1..=254u8).rev().map(|d| IpAddr::from([*a, *b, *c, d])));
    let v6 = (1..=254u16).map(|last| IpAddr::from([0x2001, 0xdb8, 0xfeed, 0, 0, 0, 0, last]));
    let is_free = |addr: &IpAddr| {
        snapshot.index.listings(*addr).is_empty()
            && !core.exceptions.iter().any(|e| e.prefix.contains(*addr))
    };
    // A range without a route has none for its other addresses either, mostly: few are tried.
    let mut tried = 0;
    v4.chain(v6).filter(is_free).find(|addr| {
        tried += 1;
        tried <= 1_000 && has_route(*addr)
    })
}

fn has_route(addr: IpAddr) -> bool {
    let any = if addr.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    // Connecting a datagram socket asks for a route and sends nothing.
    UdpSocket::bind(any).is_ok_and(|socket| socket.connect((addr, PORT)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_packet_with_the_token_is_the_canary() {
        let addr: IpAddr = "203.0.113.254".parse().unwrap();
        let canary = Canary {
            addr,
            token: "secret".into(),
            seen: Mutex::default(),
            came: Condvar::new(),
        };
        assert!(canary.is_it(addr, Hook::Output, b"headers secret"));
        assert!(!canary.is_it(addr, Hook::Output, b"headers other"));
        assert!(!canary.is_it(addr, Hook::Forward, b"headers secret"));
        let other = "203.0.113.1".parse().unwrap();
        assert!(!canary.is_it(other, Hook::Output, b"headers secret"));
        assert!(!canary.wait(Duration::from_millis(1)));
    }
}
