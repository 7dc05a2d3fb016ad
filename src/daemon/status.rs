//! The state of the daemon as the client commands show it.

use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    path::Path,
    sync::atomic::Ordering,
    time::{Instant, SystemTime},
};

use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    Shared,
    abilities::Abilities,
    arming::Arming,
    core::{Core, FeedState},
    engine::lock,
    flow_log::FlowLogStatus,
    found,
    glance::Glance,
    include,
    policing::Policing,
    rails::Weighed,
    selftest,
    tally::LastHour,
    transition,
    watchdog::Late,
};
use crate::{
    alert::suppress,
    alertdb::DbStatus,
    config::OnQueueFull,
    feed::{Action, Bad, FeedName, Finding, LeftOut, Share},
    fetch::Place,
    host::clock::Uptime,
    nft::{Count, QueueKind, TableState},
    prefix::Family,
    queue::{State, states},
    ruleset::{Counter, Options, TableFamily},
    sink::SinkStats,
    snapshot::FeedReport,
};

/// The kernel's file about queues, of the namespace that the daemon is in.
pub(super) const QUEUES: &str = "/proc/self/net/netfilter/nfnetlink_queue";
/// Rows of the last hour that are shown.
const TOP: usize = 10;

/// Everything `feedgate status` shows.
#[derive(Debug, Serialize)]
pub struct Status {
    /// The daemon's version.
    pub version: &'static str,
    /// Its process.
    pub pid: u32,
    /// RFC 3339.
    pub started: Option<String>,
    /// The same in seconds since 1970.
    #[serde(skip)]
    pub started_unix: u64,
    /// What this kernel gives.
    pub kernel: Abilities,
    /// True when the table is in the kernel with the current feeds and packets are attributed.
    pub protected: bool,
    /// Why not, each in words.
    pub problems: Vec<String>,
    /// What means something else since an upgrade; of the first run after it only.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub notices: Vec<&'static str>,
    /// Those of them that say that the daemon itself is unwell.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unwell: Vec<String>,
    /// Loops of the daemon that do not answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stuck: Vec<Late>,
    /// Milliseconds since a change is being loaded. All else here is as of before it, except packets,
    /// queue, sinks and conntrack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loading_ms: Option<u128>,
    /// The table.
    pub table: Table,
    /// The packet queues.
    pub queue: Queue,
    /// The feeds.
    pub feeds: Vec<FeedStatus>,
    /// Tiers, policies and network sets.
    pub policies: Policing,
    /// The table's counters.
    pub counters: serde_json::Map<String, serde_json::Value>,
    /// What became of the packets that reached the daemon.
    pub packets: Packets,
    /// Who did what.
    pub last_hour: LastHour,
    /// Flows without an alert of their own.
    pub suppressed: Suppressed,
    /// The alert sinks.
    pub sinks: Vec<SinkStats>,
    /// The flow log, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flow_log: Option<FlowLogStatus>,
    /// The store of alerts, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<DbStatus>,
    /// The last self-test, where there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selftest: Option<serde_json::Value>,
    /// Conntrack entries, without which nothing is enforced.
    pub conntrack: Conntrack,
    /// Addresses that are never blocked, with the reason.
    pub exceptions: Vec<crate::snapshot::Exception>,
    /// Those of them that the daemon found and that feeds list.
    pub listed_exceptions: Vec<found::Listed>,
}

/// The table in the kernel.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// `inet`; in mode include also `ip` or `ip6`.
    pub family: &'static str,
    /// In mode include: the sets that are filled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filled: Option<Vec<String>>,
    /// `present`, `absent`, or whose it is.
    pub state: String,
    /// Elements in the sets of addresses.
    pub elements: usize,
    /// True when a prefilter stands in front of the IPv4 sets: where it pays (see [`crate::snapshot`]).
    pub prefilter4: bool,
    /// The same for IPv6.
    pub prefilter6: bool,
    /// Milliseconds of the last transaction.
    pub last_sync_ms: Option<u128>,
    /// Times it had to be put back.
    pub heals: u64,
    /// When that was last.
    pub last_heal_at: Option<String>,
    /// For how long the host was unprotected, and who did it.
    pub last_heal: Option<String>,
    /// True when nobody else can change it while the daemon lives.
    pub owned: bool,
    /// The IPv6 forms in which IPv4 entries hold too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ipv4_forms: Vec<transition::Shown>,
}

/// The packet queues.
#[derive(Debug, Default, Serialize)]
pub struct Queue {
    /// How packets get there.
    pub kind: &'static str,
    /// First number.
    pub first: u16,
    /// How many.
    pub count: u16,
    /// What becomes of watched flows while it is full: `pass` or `drop`.
    pub on_full: &'static str,
    /// Packets that fit into all of them.
    pub capacity: u64,
    /// Packets waiting now.
    pub waiting: u64,
    /// Packets that the kernel dropped because a queue was full; those that it passed on are counted
    /// as unattributed.
    pub dropped: u64,
    /// The same where the socket's buffer was full.
    pub user_dropped: u64,
}

/// Flows without an alert of their own, by why; summaries tell of them.
#[derive(Debug)]
pub struct Suppressed(pub(super) suppress::Counts);

impl Serialize for Suppressed {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let suppress::Counts {
            repeats,
            scans,
            floods,
            held_back,
            held_back_ingress,
            ..
        } = self.0;
        let rows = [
            ("repeats", repeats),
            ("scans", scans),
            ("floods", floods),
            ("held_back", held_back),
            ("held_back_ingress", held_back_ingress),
        ];
        serializer.collect_map(rows)
    }
}

/// What became of the packets that reached the daemon.
#[derive(Debug, Serialize)]
pub struct Packets {
    /// All of them.
    pub received: u64,
    /// Not listed (any more): the kernel's sets decided.
    pub unmatched: u64,
    /// Without a readable IP header: the kernel's sets decided.
    pub malformed: u64,
    /// The daemon's own: let pass.
    pub own: u64,
    /// Let pass without an alert: they touch network sets only, and no rule logs them.
    pub quiet: u64,
    /// Let pass without an alert: of listed exceptions that were alerted within the day.
    pub excepted: u64,
    /// Judged without looking their source up, because the queue filled up.
    pub folded: u64,
    /// Denied by the kernel without the daemon, as reported; also before this daemon's start.
    pub unattributed_denied: u64,
    /// The same for those that it passed.
    pub unattributed_passed: u64,
    /// Judged with a source that was not found within `[attribution] timeout`.
    pub attribution_timeouts: u64,
    /// Flows that were established before their far end was listed: alerted.
    pub live_flows: u64,
    /// Those of them that were denied and cut.
    pub cut_flows: u64,
}

/// Conntrack's fill.
#[derive(Debug, Default, Serialize)]
pub struct Conntrack {
    /// Entries now.
    pub count: Option<u64>,
    /// Most entries.
    pub max: Option<u64>,
    /// Packets dropped because there was no room, or another packet of the flow was first.
    pub dropped: Option<u64>,
}

/// The state of one feed.
#[derive(Clone, Debug, Serialize)]
pub struct FeedStatus {
    /// Its name.
    pub name: FeedName,
    /// Where it is pulled from, without what may be secret; `None`: it is pushed.
    pub url: Option<String>,
    /// Its preset.
    pub preset: Option<&'static str>,
    /// Enforced at all.
    pub enabled: bool,
    /// How it comes to deny, where its configuration alone does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arming: Option<Arming>,
    /// What a match does; with a `deny-score`, that of an entry with such a score.
    pub action: Action,
    /// At or above it an entry is denied, the others alert.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deny_score: Option<u32>,
    /// True when it is older than `stale-after`.
    pub stale: bool,
    /// Entries in force.
    pub entries: usize,
    /// Malformed lines.
    pub bad: Bad,
    /// Names, URLs and the like.
    pub not_address: Bad,
    /// Entries wider than `min-prefix4` or `min-prefix6` allow.
    pub too_wide: Bad,
    /// Entries with host bits that were masked off.
    pub host_bits: usize,
    /// Size of the text in force, in bytes.
    pub bytes: Option<u64>,
    /// RFC 3339.
    pub last_attempt: Option<String>,
    /// A pull is going on, since `last_attempt`.
    pub pulling: bool,
    /// Pulls by their result, since the daemon started.
    pub pulls: BTreeMap<&'static str, u64>,
    /// RFC 3339.
    pub last_success: Option<String>,
    /// Seconds since then.
    pub age_s: Option<u64>,
    /// Why the last pull failed.
    pub last_error: Option<String>,
    /// An update that waits to be accepted.
    pub quarantined: Option<Held>,
    /// How much of the routable address space it denies, or would deny were it not on trial or held
    /// back; `None`: it denies nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<Share>,
    /// What it says about a limit of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over_share: Option<String>,
    /// What lint says of the data in force.
    pub findings: Vec<Shown>,
    /// Lines left out on purpose.
    pub left_out: LeftOut,
    /// When the feed says it was made; RFC 3339.
    pub updated: Option<String>,
    /// Duration of the last pull in milliseconds.
    pub elapsed_ms: Option<u128>,
    /// RFC 3339.
    pub next_pull: Option<String>,
    /// What became of the entries.
    #[serde(flatten)]
    pub report: FeedReport,
}

/// An update that was held back.
#[derive(Clone, Debug, Serialize)]
pub struct Held {
    /// Why.
    pub why: String,
    /// RFC 3339.
    pub since: Option<String>,
}

/// A finding with its line for people.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// The finding.
    #[serde(flatten)]
    pub finding: Finding,
    /// The line.
    pub text: String,
}

impl Shown {
    pub(super) fn all(findings: &[Finding]) -> Vec<Self> {
        let shown = |finding: &Finding| Self {
            text: finding.to_string(),
            finding: finding.clone(),
        };
        findings.iter().map(shown).collect()
    }
}

/// Everything, by a glance at the state.
pub(super) fn of(shared: &Shared, glance: &Glance) -> Status {
    let now = Instant::now();
    let last_hour = lock(&shared.path.tally).last_hour(now, TOP);
    let sinks = shared.path.sinks.load().stats();
    let queue = queue(glance);
    let conntrack = conntrack();
    let flow_log = shared.path.flow_log.load();
    let flow_log = flow_log.as_ref().map(|log| log.status());
    let store = shared.path.db.load().as_ref().map(|db| db.status());
    let stuck = shared.pulses.late_now();
    let unwell = unwell(shared, &stuck);
    let mut problems = unwell.clone();
    problems.extend(self::problems(glance, &queue, &conntrack, &sinks));
    problems.extend(flow_log.as_ref().and_then(FlowLogStatus::problem));
    problems.extend(store.iter().flat_map(store_problems));
    let unsaved = shared.store.unsaved();
    problems.extend(unsaved.map(|why| format!("the state is not saved: {why}")));
    problems.extend(lock(&shared.listening).problem.clone());
    problems.extend(selftest::problem(shared));
    let protected = glance.broken.is_none()
        && !glance.nothing_known
        && glance.table.state == "present"
        && glance.queue_kind != QueueKind::Missing
        && glance.include_problems.is_empty()
        && !stuck.iter().any(|late| late.attributes);
    let counts = &shared.path.counts;
    let causes = shared.path.meters.causes();
    let suppressed = Suppressed(lock(&shared.path.suppressor).counts());
    Status {
        version: env!("CARGO_PKG_VERSION"),
        notices: shared.notices.clone(),
        pid: std::process::id(),
        started: rfc3339(Some(shared.started)),
        started_unix: unix(shared.started),
        kernel: shared.abilities.clone(),
        protected,
        problems,
        unwell,
        stuck: stuck.to_vec(),
        loading_ms: glance.busy_since.map(|since| since.elapsed().as_millis()),
        table: glance.table.clone(),
        queue,
        feeds: glance.feeds.clone(),
        policies: glance.policing.clone(),
        counters: glance.counters.clone(),
        packets: Packets {
            received: counts.packets.load(Ordering::Relaxed),
            unmatched: counts.unmatched.load(Ordering::Relaxed),
            malformed: counts.malformed.load(Ordering::Relaxed),
            own: counts.own.load(Ordering::Relaxed),
            quiet: counts.quiet.load(Ordering::Relaxed),
            excepted: counts.excepted.load(Ordering::Relaxed),
            folded: counts.folded.load(Ordering::Relaxed),
            unattributed_denied: counts.unnamed_denied.load(Ordering::Relaxed),
            unattributed_passed: counts.unnamed_passed.load(Ordering::Relaxed),
            attribution_timeouts: causes.get("timeout").copied().unwrap_or_default(),
            live_flows: counts.live.load(Ordering::Relaxed),
            cut_flows: counts.cut.load(Ordering::Relaxed),
        },
        last_hour,
        suppressed,
        sinks,
        flow_log,
        store,
        selftest: selftest::shown(shared),
        conntrack,
        listed_exceptions: found::listed(&glance.snapshot.index, &glance.exceptions),
        exceptions: glance.exceptions.clone(),
    }
}

/// What is wrong with the daemon itself.
fn unwell(shared: &Shared, stuck: &[Late]) -> Vec<String> {
    let over = shared.pulses.over().map(|over| over.to_string());
    stuck.iter().map(Late::to_string).chain(over).collect()
}

pub(super) fn feeds(core: &Core) -> Vec<FeedStatus> {
    let report = core.report();
    let now = SystemTime::now();
    core.feeds
        .values()
        .map(|state| {
            let name = &state.config.name;
            let arming = core.arming.shown(name, Instant::now());
            FeedStatus {
                arming: arming.map(|shown| Arming::of(name, &shown)),
                over_share: core.limit_problem(name),
                ..feed(state, report.feeds.get(name), now)
            }
        })
        .collect()
}

fn feed(state: &FeedState, report: Option<&FeedReport>, now: SystemTime) -> FeedStatus {
    let parsed = state.data.as_ref().map(|data| &data.parsed);
    let bad = |of: fn(&crate::feed::Parsed) -> &Bad| parsed.map(of).cloned().unwrap_or_default();
    let url = state.config.url.as_ref();
    FeedStatus {
        name: state.config.name.clone(),
        url: url.map(|url| Place::new(&state.config.name, url).url),
        preset: state.config.preset.map(|preset| preset.name),
        arming: None,
        enabled: state.config.enabled,
        action: match state.config.deny_score {
            Some(_) => Action::Deny,
            None => state.config.action,
        },
        deny_score: state.config.deny_score,
        stale: state.is_stale(now),
        entries: parsed.map_or(0, crate::feed::Parsed::count),
        bad: bad(|p| &p.bad),
        not_address: bad(|p| &p.not_address),
        too_wide: bad(|p| &p.too_wide),
        host_bits: parsed.map_or(0, |parsed| parsed.host_bits),
        bytes: state.data.as_ref().map(|data| data.bytes),
        last_attempt: rfc3339(state.last_attempt),
        pulling: state.pulling,
        pulls: state.pulls.clone(),
        last_success: rfc3339(state.last_success),
        age_s: state
            .last_success
            .map(|at| now.duration_since(at).unwrap_or_default().as_secs()),
        last_error: state.last_error.clone(),
        quarantined: state.quarantine.as_ref().map(|held| Held {
            why: held.why.clone(),
            since: rfc3339(Some(held.since)),
        }),
        share: state.weighed.as_ref().and_then(Weighed::share),
        over_share: None,
        findings: Shown::all(state.findings.as_deref().unwrap_or_default()),
        left_out: parsed.map(|parsed| parsed.left_out).unwrap_or_default(),
        updated: rfc3339(parsed.and_then(|parsed| parsed.updated)),
        elapsed_ms: state.elapsed.map(|elapsed| elapsed.as_millis()),
        next_pull: rfc3339(state.next_pull.and_then(|at| at.shown(Uptime::now(), now))),
        report: report.cloned().unwrap_or_default(),
    }
}

pub(super) fn table(core: &Core) -> Table {
    let snapshot = core.path.view.current();
    let state = match core.kernel.table_state() {
        Ok(TableState::Ours) => "present".to_owned(),
        Ok(TableState::Absent) => "absent".to_owned(),
        Ok(state) => format!("not feedgate's: {}", state.refusal().unwrap_or_default()),
        Err(e) => e.to_string(),
    };
    let has_prefilter = |family| snapshot.sets.has_prefilter(family);
    Table {
        name: core.kernel.options().table.clone(),
        family: family(core),
        filled: core.kernel.included().map(|seen| include::sets(&seen)),
        state,
        elements: snapshot.sets.elements(),
        prefilter4: has_prefilter(Family::V4),
        prefilter6: has_prefilter(Family::V6),
        last_sync_ms: core.applied.map(|applied| applied.elapsed.as_millis()),
        heals: core.heals,
        last_heal_at: rfc3339(core.last_heal.as_ref().map(|(at, _)| *at)),
        last_heal: core.last_heal.as_ref().map(|(_, what)| what.clone()),
        owned: core.kernel.owns(),
        ipv4_forms: core.in_use.shown(),
    }
}

fn family(core: &Core) -> &'static str {
    core.kernel
        .options()
        .include
        .unwrap_or(TableFamily::Inet)
        .as_str()
}

fn queue(glance: &Glance) -> Queue {
    let (options, nftables) = (&glance.options, &glance.nftables);
    let mut queue = Queue {
        kind: glance.queue_kind.as_str(),
        first: options.queue_first,
        count: options.queue_count,
        on_full: match nftables.on_queue_full {
            OnQueueFull::Pass => "pass",
            OnQueueFull::Drop => "drop",
        },
        capacity: u64::from(nftables.queue_max_len) * u64::from(options.queue_count),
        ..Queue::default()
    };
    for state in own_queues(options) {
        queue.waiting += state.waiting;
        queue.dropped += state.dropped;
        queue.user_dropped += state.user_dropped;
    }
    queue
}

fn own_queues(options: &Options) -> impl Iterator<Item = State> {
    states_of(numbers(options))
}

/// The numbers of the queues.
pub(super) fn numbers(options: &Options) -> Range<u32> {
    let first = u32::from(options.queue_first);
    first..first + u32::from(options.queue_count)
}

fn states_of(mine: Range<u32>) -> impl Iterator<Item = State> {
    let all = states(Path::new(QUEUES)).into_iter();
    all.filter(move |state| mine.contains(&u32::from(state.number)))
}

/// Packets that wait in these queues.
pub(super) fn waiting(queues: &Range<u32>) -> u64 {
    states_of(queues.clone()).map(|state| state.waiting).sum()
}

/// Packets that the kernel dropped because a queue was full.
pub(super) fn queue_drops(options: &Options) -> u64 {
    own_queues(options)
        .map(|state| state.dropped + state.user_dropped)
        .sum()
}

fn conntrack() -> Conntrack {
    let read = |name: &str| {
        fs::read_to_string(format!("/proc/sys/net/netfilter/nf_conntrack_{name}"))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    let stat = fs::read_to_string("/proc/self/net/stat/nf_conntrack");
    Conntrack {
        count: read("count"),
        max: read("max"),
        dropped: stat.ok().and_then(|text| dropped(&text)),
    }
}

/// The sum of column `drop` of all processors, in hexadecimal.
fn dropped(stat: &str) -> Option<u64> {
    let mut lines = stat.lines().map(str::split_whitespace);
    let column = lines.next()?.position(|name| name == "drop")?;
    let of_cpu =
        |mut line: std::str::SplitWhitespace<'_>| u64::from_str_radix(line.nth(column)?, 16).ok();
    Some(lines.filter_map(of_cpu).sum())
}

pub(super) fn counters(core: &Core) -> serde_json::Map<String, serde_json::Value> {
    let counts = core.kernel.counters().unwrap_or_default();
    Counter::ALL
        .into_iter()
        .map(|counter| {
            let Count { packets, bytes } = counts.get(&counter).copied().unwrap_or_default();
            (
                counter.as_str().to_owned(),
                serde_json::json!({ "packets": packets, "bytes": bytes }),
            )
        })
        .collect()
}

/// What is wrong with the store of alerts, or was since the start.
fn store_problems(store: &DbStatus) -> Vec<String> {
    let mut all = Vec::new();
    let file = store.file.display();
    if let Some(error) = &store.last_error {
        all.push(format!("alert store {file}: {error}"));
    }
    if let (Some(at), Some(what)) = (&store.repaired_at, &store.repaired) {
        all.push(format!("alert store {file}: {at}: {what}"));
    }
    if store.dropped > 0 {
        all.push(format!(
            "alert store {file}: {} alerts were not stored",
            store.dropped
        ));
    }
    if store.late_verdicts > 0 {
        all.push(format!(
            "{} verdicts were given before their alert was on disk, because the disk took too long ([alerts] durable)",
            store.late_verdicts
        ));
    }
    all
}

fn problems(
    glance: &Glance,
    queue: &Queue,
    conntrack: &Conntrack,
    sinks: &[SinkStats],
) -> Vec<String> {
    let mut all = Vec::new();
    let (table, feeds) = (&glance.table, &glance.feeds);
    if table.state != "present" && glance.include_problems.is_empty() {
        all.push(format!(
            "table {} {} is {}; the log says why (journalctl -u feedgate)",
            table.family, table.name, table.state
        ));
    }
    all.extend(glance.include_problems.iter().cloned());
    all.extend(glance.broken.iter().cloned());
    all.extend(glance.file_problems.iter().cloned());
    all.extend(glance.manifest_problems.iter().cloned());
    if glance.inherited {
        all.push("no good data of some feed yet: the table of the last run is in force".into());
    }
    if glance.queue_kind == QueueKind::Missing && glance.included.is_none() {
        all.push(format!(
            "nothing is attributed: {}",
            QueueKind::Missing.as_str()
        ));
    }
    if queue.dropped + queue.user_dropped > 0 {
        let lost = queue.dropped + queue.user_dropped;
        all.push(format!(
            "{lost} packets did not fit into the queue and were dropped (on-queue-full)"
        ));
    }
    if let (Some(count), Some(max)) = (conntrack.count, conntrack.max)
        && count.saturating_mul(10) >= max.saturating_mul(9)
    {
        all.push(format!(
            "conntrack is nearly full: {count} of {max}; raise net.netfilter.nf_conntrack_max"
        ));
    }
    if feeds.iter().all(|feed| !feed.enabled) && glance.policing.network_sets == 0 {
        all.push(
            "no feed is enabled: nothing is watched or denied; add a [[feed]], or apply a GlobalThreatFeed"
                .into(),
        );
    }
    let enabled = || feeds.iter().filter(|feed| feed.enabled);
    all.extend(enabled().filter_map(feed_problem));
    all.extend(enabled().filter_map(|feed| feed.over_share.clone()));
    for sink in sinks.iter().filter(|sink| sink.dropped > 0) {
        all.push(format!(
            "{}: {} alerts were not delivered",
            sink.name, sink.dropped
        ));
    }
    all
}

/// What is wrong with a feed, in words.
pub(super) fn feed_problem(feed: &FeedStatus) -> Option<String> {
    match (&feed.last_error, feed.stale) {
        (Some(error), true) => Some(format!("feed {} is stale: {error}", feed.name)),
        (Some(error), false) => Some(format!("feed {}: {error}", feed.name)),
        (None, true) => Some(format!("feed {} {}", feed.name, why_stale(feed))),
        (None, false) => None,
    }
}

/// Why a feed is stale although nothing went wrong.
fn why_stale(feed: &FeedStatus) -> String {
    match (&feed.last_success, &feed.updated, &feed.url) {
        (None, _, Some(_)) => "has not been pulled yet".into(),
        (None, _, None) => "has not been pushed yet".into(),
        (Some(_), Some(updated), _) => {
            format!("is stale: its publisher made it at {updated} and not since")
        }
        (Some(success), None, Some(_)) => format!("is stale: last pulled at {success}"),
        (Some(success), None, None) => format!("is stale: last pushed at {success}"),
    }
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

pub(super) fn rfc3339(time: Option<SystemTime>) -> Option<String> {
    let time = OffsetDateTime::from(time?);
    time.replace_nanosecond(0).ok()?.format(&Rfc3339).ok()
}
