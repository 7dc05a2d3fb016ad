//! Which feeds deny now, wired: the packet path counts for feeds on trial, a timer arms and takes back,
//! `feedgate deny` and the state folder do the rest. The rules are in [`crate::arm`].

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Shared, core::Core, engine::lock, lastgood, selftest, status::rfc3339};
use crate::{
    arm::{Book, Candidate, Change, MAX_SOURCES, Now, Shown, Trial},
    attribution::Source,
    config,
    control::DenyStep,
    feed::{Action, Direction, FeedName},
    host::clock::Uptime,
    snapshot::Hit,
    store::{Store, StoreError},
};

/// How often it is looked whether a trial or the time for a confirmation is over.
const TURN: Duration = Duration::from_secs(1);
/// Counts of trials are stored so often; changes at once.
const SAVE: Duration = Duration::from_secs(60);
/// The shortest and the longest time for a confirmation, in seconds.
const CONFIRM: std::ops::RangeInclusive<u64> = 5..=86_400;
/// How the cause of an alert begins that a feed on trial would have denied.
pub(super) const WOULD: &str = "would be denied";

/// What is in the state folder of what is known.
#[derive(Debug)]
pub(super) struct Saved {
    text: Vec<u8>,
    /// When that was looked at last.
    at: Instant,
    /// The last attempt failed, and that was told.
    failed: bool,
}

impl Saved {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self {
            text: Vec::new(),
            at: Instant::now(),
            failed: false,
        }
    }
}

/// The feeds on trial, for the packet path.
#[derive(Debug, Default)]
pub(super) struct Trials {
    trials: ArcSwap<BTreeMap<FeedName, Trial>>,
    /// Held back by their share of the address space.
    held: ArcSwap<BTreeSet<FeedName>>,
}

impl Trials {
    fn publish(&self, trials: BTreeMap<FeedName, Trial>) {
        self.trials.store(Arc::new(trials));
    }

    /// These feeds only alert until somebody accepts them.
    pub(super) fn hold(&self, held: BTreeSet<FeedName>) {
        self.held.store(Arc::new(held));
    }

    /// Counts a flow that would have been denied, and says so in its cause.
    pub(super) fn note(
        &self,
        source: Source,
        hit: &Hit,
        (direction, src): (Direction, IpAddr),
    ) -> Source {
        let Some(words) = self.words(&hit.would_deny) else {
            return source;
        };
        let trials = self.trials.load();
        let who = identity(&source, direction, src);
        for trial in hit.would_deny.iter().filter_map(|feed| trials.get(feed)) {
            trial.count(who);
        }
        let cause = match source.cause {
            Some(cause) => format!("{cause}; {words}"),
            None => words,
        };
        Source {
            cause: Some(cause),
            ..source
        }
    }

    /// What becomes of what these feeds list, once the first of them is armed; `None` without any.
    pub(super) fn words(&self, feeds: &[FeedName]) -> Option<String> {
        if feeds.is_empty() {
            return None;
        }
        let held = self.held.load();
        if let Some(feed) = feeds.iter().find(|feed| held.contains(*feed)) {
            return Some(format!(
                "{WOULD}: {feed} is held back until `feedgate feeds accept {feed}`"
            ));
        }
        let trials = self.trials.load();
        let known = feeds
            .iter()
            .filter_map(|feed| Some((trials.get(feed)?.until, feed)));
        let Some((until, feed)) = known.min() else {
            return Some(format!("{WOULD} in a moment")); // armed since the packet was matched
        };
        let until = rfc3339(Some(until)).unwrap_or_default();
        Some(format!("{WOULD}: {feed} denies from {until} on"))
    }
}

/// Who it was, without what each new process has of its own.
fn identity(source: &Source, direction: Direction, src: IpAddr) -> u64 {
    let mut hasher = DefaultHasher::new();
    let workload = (&source.pod, &source.container, &source.unit);
    let program = (source.uid, &source.exe, &source.client, &source.mac);
    (workload, program).hash(&mut hasher);
    let is_known = source.uid.is_some() || source.exe.is_some() || source.container.is_some();
    if direction == Direction::Ingress || !is_known {
        src.hash(&mut hasher);
    }
    hasher.finish()
}

impl Core {
    /// Looks which feeds are new, tried out or not confirmed; true when the sets are to follow.
    pub(super) fn settle_arming(&mut self) -> bool {
        let states = self.feeds.values().filter(|state| state.config.enabled);
        let candidates: Vec<Candidate> = states.map(candidate).collect();
        let now = Now {
            wall: SystemTime::now(),
            instant: Instant::now(),
            uptime: Uptime::now().since_boot(),
        };
        let after = self.config.arm.after;
        let changes = self.arming.settle(&candidates, after, now);
        changes.iter().for_each(tell);
        self.path.trials.publish(self.arming.trials());
        self.arming_changed |= !changes.is_empty();
        !changes.is_empty()
    }

    fn candidate(&self, name: &str) -> Result<Candidate, String> {
        let state = self.feeds.iter().find(|(feed, _)| feed.as_str() == name);
        let (_, state) = state
            .ok_or_else(|| super::no_such_feed(name, self.feeds.keys().map(FeedName::as_str)))?;
        let mut candidate = candidate(state);
        candidate.has_data &= state.config.enabled;
        Ok(candidate)
    }
}

fn candidate(state: &super::core::FeedState) -> Candidate {
    let config = &state.config;
    Candidate {
        name: config.name.clone(),
        denies: config.action == Action::Deny || config.deny_score.is_some(),
        has_data: state.data.is_some(),
        source: config.url.is_some().then(|| source(config)),
    }
}

/// Where the data come from, and what becomes of them: with other options the same list denies others.
fn source(config: &config::Feed) -> String {
    let read = (config.format, &config.csv, &config.json, config.min_score);
    let limits = (config.min_prefix4, config.min_prefix6);
    let used = (config.action, config.deny_score, config.scope);
    let digest = Sha256::digest(format!("{read:?} {limits:?} {used:?}"));
    let digest: String = digest.iter().take(8).map(|b| format!("{b:02x}")).collect();
    format!("{} {digest}", lastgood::source(config))
}

fn tell(change: &Change) {
    match change {
        Change::Began(feed, until) => {
            let until = rfc3339(Some(*until)).unwrap_or_default();
            tracing::info!(
                "feed {feed} is a new deny feed: it only alerts until {until} ([arm] after)"
            );
        }
        Change::Armed(feed) => tracing::info!("feed {feed} denies from now on"),
        Change::TakenBack(feed) => {
            tracing::warn!("feed {feed}: nobody confirmed `feedgate deny`, so it only alerts again")
        }
        Change::Forgotten(feed) => tracing::debug!("feed {feed} is no deny feed any more"),
        Change::Ended(feed) => tracing::warn!(
            "feed {feed} denied by `feedgate deny` and was removed or changed: that ends here. Under another name it is a feed of its own: feedgate deny --confirm 60s NAME"
        ),
        Change::Renamed(old, new) => {
            tracing::info!(
                "feed {new} has the url that {old} had, and its options: it goes on as that, without a new trial"
            )
        }
        Change::ClockSet => {
            tracing::info!("the clock was set: the trials of new deny feeds end by the new time")
        }
    }
}

/// What an earlier daemon knew.
pub(super) fn recall(store: &Store) -> Book {
    let text = match store.arming() {
        Ok(Some(text)) => text,
        Ok(None) => return Book::unwritten(),
        Err(e) => {
            tracing::error!("{e}; deny feeds that have data count as tried out");
            return Book::lost();
        }
    };
    Book::from_json(&text).unwrap_or_else(|e| {
        tracing::error!(
            "what is known of trials is damaged ({e}): deny feeds that have data count as tried out"
        );
        Book::lost()
    })
}

/// The timer, for ever.
pub(super) async fn run(shared: &Arc<Shared>) {
    loop {
        shared.lasting.arming.beat(Instant::now());
        tokio::time::sleep(TURN).await;
        let shared = Arc::clone(shared);
        // Away from the asynchronous threads: a long load may hold the state.
        let work = move || {
            turn(&shared);
            selftest::tidy(&shared);
        };
        let _ = tokio::task::spawn_blocking(work).await;
    }
}

/// The daemon stops, and its sets stay in the kernel: nothing that is not confirmed may stay with them.
/// Where the kernel refuses, the state folder goes on saying so, for the next daemon.
pub(super) fn end(core: &mut Core, store: &Store) {
    if core.arming.take_back_pending()
        && let Err(e) = core.sync()
    {
        tracing::error!("what `feedgate deny` did is not taken back: {e}; the next start does it");
        // A turn of the timer that waits for the state would store that nothing is left to do.
        core.closed = true;
        return;
    }
    let _ = keep(core, store, true);
}

/// Arms and takes back.
fn turn(shared: &Shared) {
    let mut core = lock(&shared.core);
    if core.closed {
        return;
    }
    if core.settle_arming() {
        let _busy = core.busy();
        if let Err(e) = core.sync() {
            tracing::error!("{e}");
        }
    }
    let _ = keep(&mut core, &shared.store, false);
}

/// Stores what is known, if it changed; counts of trials once a minute, or `now`. A failure is told once,
/// and it is tried again after a minute.
pub(super) fn keep(core: &mut Core, store: &Store, now: bool) -> Result<(), StoreError> {
    if !now && !core.arming_changed && core.arming_saved.at.elapsed() < SAVE {
        return Ok(());
    }
    let text = core.arming.to_json();
    core.arming_changed = false;
    core.arming_saved.at = Instant::now();
    if core.arming_saved.text == text {
        return Ok(());
    }
    // The disk may be slow to answer.
    let _busy = core.busy();
    let stored = store.save_arming(&text);
    let failed = std::mem::replace(&mut core.arming_saved.failed, stored.is_err());
    match &stored {
        Ok(()) => {
            core.arming_saved.text = text;
            if failed {
                tracing::info!("which feeds were tried out is stored again");
            }
        }
        Err(e) if !failed => {
            tracing::warn!("a restart will not know which feeds were tried out: {e}");
        }
        Err(_) => {}
    }
    stored
}

/// `feedgate deny`.
pub(super) fn deny(shared: &Shared, feed: &str, step: DenyStep) -> Result<Value, String> {
    let mut core = lock(&shared.core);
    if core.closed {
        return Err("the table is being removed (feedgate down)".into());
    }
    let candidate = core.candidate(feed)?;
    let name = candidate.name.clone();
    match step {
        DenyStep::Arm { seconds } if !CONFIRM.contains(&seconds) => {
            return Err(format!(
                "the time to confirm must be {}s to 24h, not {seconds}s",
                CONFIRM.start()
            ));
        }
        DenyStep::Arm { seconds } => {
            core.may_deny_all(&name)?;
            let until = Instant::now() + Duration::from_secs(seconds);
            core.arming
                .arm(&candidate, until)
                .map_err(|e| e.to_string())?;
            // On disk before it is in the kernel: a daemon that is killed now must know of it.
            if let Err(e) = keep(&mut core, &shared.store, true) {
                let _ = core.arming.undo(&name);
                // It may have waited to be confirmed already.
                if let Err(e) = core.sync() {
                    tracing::error!("{e}");
                }
                return Err(format!(
                    "feed {name} is not armed, since a daemon that is killed would not know of it: {e}"
                ));
            }
            if let Err(e) = core.sync() {
                // Of this feed only: others may wait to be confirmed too.
                let _ = core.arming.undo(&name);
                let _ = keep(&mut core, &shared.store, true);
                return Err(e.to_string());
            }
            tracing::warn!(
                "feed {name} denies, by `feedgate deny`; taken back in {seconds}s unless it is confirmed"
            );
        }
        DenyStep::Keep => {
            let now = SystemTime::now();
            core.arming.keep(&name, now).map_err(|e| e.to_string())?;
            tracing::warn!("feed {name} is kept denying, by `feedgate deny`");
        }
        DenyStep::Undo => {
            core.arming.undo(&name).map_err(|e| e.to_string())?;
            core.sync().map_err(|e| e.to_string())?;
            tracing::warn!("feed {name}: what `feedgate deny` did is taken back");
        }
    }
    keep(&mut core, &shared.store, true).map_err(|e| {
        format!("feed {name}: that is done and in force, but a restart would not know of it; it is stored as soon as that works: {e}")
    })?;
    let state = core.feeds.get(&name);
    let entries = state.and_then(|state| state.data.as_ref());
    let shown = core.arming.shown(&name, Instant::now());
    Ok(json!({
        "feed": name,
        "entries": entries.map(|data| data.parsed.count()),
        "arming": shown.map(|shown| Arming::of(&name, &shown)),
    }))
}

/// How a feed comes to deny, or not yet.
#[derive(Clone, Debug, Serialize)]
pub struct Arming {
    /// `trial`: it only alerts for now. `pending`: it denies, and that is taken back unless it is
    /// confirmed. `kept`: it denies by `feedgate deny`.
    pub state: &'static str,
    /// Seconds until it is armed, or taken back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_s: Option<u64>,
    /// The same as a time; RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// When it was confirmed; RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Flows that it would have denied on trial.
    pub would_have_denied: u64,
    /// Of so many sources; 1000 stands for that many or more.
    pub sources: usize,
    /// All of that in words.
    pub text: String,
}

impl Arming {
    /// What is shown of `name`.
    pub(super) fn of(name: &FeedName, shown: &Shown) -> Self {
        let now = SystemTime::now();
        let (flows, sources) = (shown.would.flows, shown.would.sources());
        let base = Self {
            state: "trial",
            left_s: None,
            until: None,
            since: None,
            would_have_denied: flows,
            sources,
            text: String::new(),
        };
        if let Some(left) = shown.pending {
            // Rounded up: 0 would mean that it is over.
            let left_s = left.as_secs() + u64::from(left.subsec_nanos() > 0);
            return Self {
                state: "pending",
                left_s: Some(left_s),
                until: rfc3339(now.checked_add(left)),
                text: format!(
                    "denies now, taken back in {left_s}s unless confirmed with: feedgate deny --keep {name}"
                ),
                ..base
            };
        }
        if let Some(since) = shown.kept_since {
            let since = rfc3339(Some(since));
            let plain = match shown.trial_until {
                Some(_) => "its trial is cut short. Take it",
                None => {
                    "write action = \"deny\" into the configuration to make it plain, or take it"
                }
            };
            let text = format!(
                "denies since {} by `feedgate deny`; {plain} back with: feedgate deny --undo {name}",
                since.as_deref().unwrap_or("-")
            );
            return Self {
                state: "kept",
                since,
                text,
                ..base
            };
        }
        let until = shown.trial_until.unwrap_or(now);
        let left = until.duration_since(now).unwrap_or_default();
        let at_least = if sources == MAX_SOURCES {
            "at least "
        } else {
            ""
        };
        Self {
            left_s: Some(left.as_secs()),
            until: rfc3339(Some(until)),
            text: format!(
                "armed in {}: would have denied {flows} {} of {at_least}{sources} {} so far",
                in_short(left),
                if flows == 1 { "flow" } else { "flows" },
                if sources == 1 { "source" } else { "sources" },
            ),
            ..base
        }
    }
}

/// The two largest units: `23h 59m`, `3d 2h`, `42s`.
fn in_short(left: Duration) -> String {
    let seconds = left.as_secs();
    let (days, hours) = (seconds / 86_400, seconds / 3_600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    let parts = [(days, "d"), (hours, "h"), (minutes, "m"), (rest, "s")];
    let parts = parts.iter().skip_while(|(number, _)| *number == 0).take(2);
    let words: Vec<String> = parts
        .filter(|(number, _)| *number > 0)
        .map(|(number, unit)| format!("{number}{unit}"))
        .collect();
    if words.is_empty() {
        "0s".to_owned()
    } else {
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_short() {
        for (seconds, expect) in [
            (0, "0s"),
            (42, "42s"),
            (60, "1m"),
            (3_599, "59m 59s"),
            (86_399, "23h 59m"),
            (86_400, "1d"),
            (90_061, "1d 1h"),
        ] {
            assert_eq!(in_short(Duration::from_secs(seconds)), expect);
        }
    }

    #[test]
    fn a_source_is_the_same_in_its_next_process() {
        let curl = |pid, uid| Source {
            pid: Some(pid),
            uid: Some(uid),
            exe: Some("/usr/bin/curl".into()),
            ..Source::default()
        };
        let (a, b) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let out = Direction::Egress;
        assert_eq!(identity(&curl(1, 0), out, a), identity(&curl(2, 0), out, b));
        assert_ne!(identity(&curl(1, 0), out, a), identity(&curl(1, 9), out, a));
        let nobody = Source::default();
        assert_ne!(identity(&nobody, out, a), identity(&nobody, out, b));
        let back = Direction::Ingress;
        assert_ne!(
            identity(&curl(1, 0), back, a),
            identity(&curl(1, 0), back, b)
        );
    }

    #[test]
    fn without_a_trial_nothing_is_said() {
        let trials = Trials::default();
        assert_eq!(trials.words(&[]), None);
        let hit = Hit {
            action: Action::Alert,
            indicator: "192.0.2.1".parse().unwrap(),
            feeds: vec!["f".parse().unwrap()],
            severity: crate::feed::Severity::Low,
            would_deny: Vec::new(),
            exception: None,
        };
        let source = Source::default();
        let end = (Direction::Egress, "192.0.2.1".parse().unwrap());
        assert_eq!(trials.note(source.clone(), &hit, end), source);
    }
}
