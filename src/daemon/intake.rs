//! A feed's text on its way in: read, judged, enforced, stored. Or held back, or only looked at.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::{Shared, engine::lock, lastgood, rails, status::Shown};
use crate::{
    config::{self, Format},
    feed::{
        Cover, FeedData, FeedName, Finding, Indicator, Known, Limits, Parsed, Refusal, Share,
        formats::CrowdsecState, judge, lint, read, unpack,
    },
    fetch::Validators,
    snapshot::Delta,
};

/// Examples shown of entries that come or go.
const EXAMPLES: usize = 5;

/// A text as it came.
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    pub(super) validators: Validators,
    /// For a CrowdSec stream: it starts anew instead of going on.
    pub(super) startup: bool,
    /// When it came; the durations in a CrowdSec stream count from there.
    pub(super) at: SystemTime,
}

impl Body {
    /// A text without validators: pushed.
    pub(super) fn pushed(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            validators: Validators::default(),
            startup: true,
            at: SystemTime::now(),
        }
    }
}

/// An update that is sound in itself and differs too much from the last good data.
#[derive(Debug)]
pub(super) struct Quarantined {
    /// The text; of a CrowdSec stream, all decisions that it led to.
    bytes: Arc<Vec<u8>>,
    validators: Validators,
    pub(super) why: String,
    pub(super) since: SystemTime,
}

impl Quarantined {
    /// The update, as if it came again.
    pub(super) fn body(&self) -> Body {
        Body {
            bytes: self.bytes.to_vec(),
            validators: self.validators.clone(),
            startup: true,
            at: self.since,
        }
    }
}

/// A text that may be enforced.
struct Good {
    parsed: Parsed,
    /// The stream's new state, for format crowdsec.
    stream: Option<CrowdsecState>,
}

/// Reads and judges a text against the data in force.
fn examine(
    body: &Body,
    feed: &config::Feed,
    stream: &CrowdsecState,
    now: SystemTime,
    previous: Option<&FeedData>,
) -> Result<Good, Refusal> {
    if feed.format != Format::Crowdsec {
        return Ok(Good {
            parsed: read(&body.bytes, feed, now, previous)?,
            stream: None,
        });
    }
    let limits = Limits::from(feed);
    let text = unpack(&body.bytes, &limits)?;
    let stream = follow(stream, &text, body, now, &limits)?;
    let parsed = judge(stream.parsed(now, &limits), &text, &limits, previous)?;
    Ok(Good {
        parsed,
        stream: Some(stream),
    })
}

/// The state of a CrowdSec stream after `text`.
fn follow(
    stream: &CrowdsecState,
    text: &[u8],
    body: &Body,
    now: SystemTime,
    limits: &Limits,
) -> Result<CrowdsecState, Refusal> {
    let mut stream = if body.startup {
        CrowdsecState::default()
    } else {
        stream.clone()
    };
    stream.apply(text, body.at, limits)?;
    stream.prune(now);
    Ok(stream)
}

/// Reads, judges, enforces and stores one text. `accept`: also one that differs much from the last good data.
pub(super) fn take(
    shared: &Shared,
    feed: &config::Feed,
    body: Body,
    accept: bool,
) -> Result<(), String> {
    let (previous, stream) = {
        let core = lock(&shared.core);
        let Some(state) = core.feeds.get(&feed.name) else {
            return Err(format!(
                "feed {} is gone: it was taken out meanwhile",
                feed.name
            ));
        };
        // Another url is another list: how much it differs says nothing.
        let comparable = state.data.clone().filter(|_| !state.of_before);
        (comparable, state.stream.clone())
    };
    let now = SystemTime::now();
    let against = if accept { None } else { previous.as_deref() };
    let good = match examine(&body, feed, &stream, now, against) {
        Ok(good) => good,
        Err(refusal) if refusal.can_be_accepted() => {
            return Err(quarantine(shared, feed, body, &stream, &refusal, now));
        }
        Err(refusal) => return Err(refusal.to_string()),
    };
    let size = u64::try_from(body.bytes.len()).unwrap_or(u64::MAX);
    let data = Arc::new(FeedData {
        parsed: good.parsed,
        pulled: now,
        bytes: size,
    });
    let cover = match weigh(shared, feed, &data) {
        (Err(refusal), _) if !accept => {
            return Err(quarantine(shared, feed, body, &stream, &refusal, now));
        }
        (_, cover) => cover,
    };
    let kept = good
        .stream
        .as_ref()
        .map(|stream| stream.to_stream(now).into_bytes())
        .unwrap_or(body.bytes);
    {
        let mut core = lock(&shared.core);
        // A reload may have taken the feed away or changed how it is read while it was pulled.
        if core
            .feeds
            .get(&feed.name)
            .is_none_or(|state| state.config != *feed)
        {
            return Err("the configuration changed during the pull".into());
        }
        let share = cover.share();
        if accept && share != Share::default() {
            core.arming.rails.accept(&feed.name, share);
            core.arming_changed = true;
        }
        core.accept(&feed.name, data).map_err(|e| e.to_string())?;
        if let Some(state) = core.feeds.get_mut(&feed.name) {
            state.validators = Some(body.validators.clone());
            state.stream = good.stream.unwrap_or_default();
            state.stream_gap &= !body.startup;
            state.quarantine = None;
            state.findings = None;
        }
    }
    lastgood::keep(&shared.store, feed, kept, &body.validators, now);
    // It was deleted after it was accepted: its data must not come back with the next feed of that name.
    if !lock(&shared.core).feeds.contains_key(&feed.name)
        && let Err(e) = shared.store.remove(&feed.name)
    {
        tracing::warn!("feed {}: {e}", feed.name);
    }
    look(shared, &feed.name);
    Ok(())
}

/// Whether a feed's new data deny more than they may, and what they deny.
fn weigh(
    shared: &Shared,
    feed: &config::Feed,
    data: &Arc<FeedData>,
) -> (Result<(), Refusal>, Cover) {
    let rule = {
        let core = lock(&shared.core);
        core.feeds.get(&feed.name).map(|state| core.rule(state))
    };
    let Some(rule) = rule else {
        return (Ok(()), Cover::default());
    };
    // Outside the lock: a million entries take a while.
    let cover = rails::cover(feed, data, &rule);
    let may = lock(&shared.core).weigh(&feed.name, &rule, &cover);
    (may, cover)
}

/// Lints a feed's data in force if that has not been done yet. What it shares with other feeds is
/// in the snapshot's report, which is made anew when any of them changes.
pub(super) fn look(shared: &Shared, name: &FeedName) {
    let data = {
        let core = lock(&shared.core);
        let state = core.feeds.get(name).filter(|s| s.findings.is_none());
        state.and_then(|state| state.data.clone())
    };
    let Some(data) = data else { return };
    let findings = lint(&data.parsed, &[], &Known::embedded());
    if let Some(state) = lock(&shared.core).feeds.get_mut(name)
        && state
            .data
            .as_ref()
            .is_some_and(|now| Arc::ptr_eq(now, &data))
    {
        state.findings = Some(findings);
    }
}

fn quarantine(
    shared: &Shared,
    feed: &config::Feed,
    body: Body,
    stream: &CrowdsecState,
    refusal: &Refusal,
    now: SystemTime,
) -> String {
    let why = rails::in_words(refusal, &feed.name);
    let bytes = if feed.format == Format::Crowdsec {
        let limits = Limits::from(feed);
        let after = unpack(&body.bytes, &limits)
            .and_then(|text| follow(stream, &text, &body, now, &limits));
        match after {
            Ok(after) => after.to_stream(now).into_bytes(),
            Err(_) => return why,
        }
    } else {
        body.bytes
    };
    if let Some(state) = lock(&shared.core).feeds.get_mut(&feed.name) {
        state.quarantine = Some(Quarantined {
            bytes: Arc::new(bytes),
            validators: body.validators,
            why: why.clone(),
            since: now,
        });
    }
    why
}

/// What is odd about a feed's entries, beside the other feeds.
pub(super) fn findings(
    shared: &Shared,
    name: &FeedName,
    parsed: &Parsed,
    known: &Known,
) -> Vec<Finding> {
    let others: Vec<(FeedName, Arc<FeedData>)> = {
        let core = lock(&shared.core);
        let others = core
            .feeds
            .values()
            .filter(|state| state.config.name != *name);
        others
            .filter_map(|s| Some((s.config.name.clone(), Arc::clone(s.data.as_ref()?))))
            .collect()
    };
    let others: Vec<(&str, &Parsed)> = others
        .iter()
        .map(|(name, data)| (name.as_str(), &data.parsed))
        .collect();
    lint(parsed, &others, known)
}

/// What an update would change.
#[derive(Debug, Serialize)]
pub(super) struct Preview {
    feed: FeedName,
    /// Why it would be refused, or held back.
    refused: Option<String>,
    /// Entries it has.
    pub(super) entries: usize,
    /// How much of the routable address space they cover, alerting ones too.
    pub(super) share: Share,
    added: usize,
    added_examples: Vec<Indicator>,
    removed: usize,
    removed_examples: Vec<Indicator>,
    /// Elements that come and go in the kernel.
    elements_added: usize,
    elements_removed: usize,
    /// What lint says of it, known-good addresses first.
    pub(super) findings: Vec<Shown>,
    /// Established flows of this host that would be alerted or cut.
    flows: super::flows::Touched,
}

/// Looks at a text and changes nothing.
pub(super) fn preview(
    shared: &Shared,
    feed: &config::Feed,
    body: &Body,
    known: &Known,
) -> Result<Preview, String> {
    let now = SystemTime::now();
    let (previous, comparable, stream) = {
        let core = lock(&shared.core);
        let Some(state) = core.feeds.get(&feed.name) else {
            return Err(format!(
                "feed {} is gone: it was taken out meanwhile",
                feed.name
            ));
        };
        let data = state.data.clone();
        (data, !state.of_before, state.stream.clone())
    };
    let against = previous.as_deref().filter(|_| comparable);
    let (good, refused) = match examine(body, feed, &stream, now, against) {
        Ok(good) => (good, None),
        Err(refusal) if refusal.can_be_accepted() => (
            examine(body, feed, &stream, now, None).map_err(|e| e.to_string())?,
            Some(rails::in_words(&refusal, &feed.name)),
        ),
        Err(refusal) => return Err(refusal.to_string()),
    };
    let all = |parsed: &Parsed| -> BTreeSet<Indicator> {
        parsed.items().map(|item| item.indicator()).collect()
    };
    let new = all(&good.parsed);
    let old = previous
        .as_ref()
        .map(|data| all(&data.parsed))
        .unwrap_or_default();
    let findings = Shown::all(&findings(shared, &feed.name, &good.parsed, known));
    let entries = good.parsed.count();
    let share = Cover::of(good.parsed.prefixes().copied()).share();
    let data = Arc::new(FeedData {
        parsed: good.parsed,
        pulled: now,
        bytes: 0,
    });
    let refused = refused.or_else(|| {
        let (may, _) = weigh(shared, feed, &data);
        may.err()
            .map(|refusal| rails::in_words(&refusal, &feed.name))
    });
    let (next, hooks) = {
        let core = lock(&shared.core);
        (
            core.snapshot_with(&feed.name, data),
            core.kernel.options().hooks.clone(),
        )
    };
    let current = shared.path.view.current();
    let (elements_added, elements_removed) = Delta::between(&current.sets, &next.sets)
        .map_or((0, 0), |delta| delta.elements(&current.sets, &next.sets));
    let flows = super::flows::touched(&current, &next, &hooks).map_err(|e| e.to_string())?;
    Ok(Preview {
        feed: feed.name.clone(),
        refused,
        entries,
        share,
        added: new.difference(&old).count(),
        added_examples: new.difference(&old).take(EXAMPLES).copied().collect(),
        removed: old.difference(&new).count(),
        removed_examples: old.difference(&new).take(EXAMPLES).copied().collect(),
        elements_added,
        elements_removed,
        findings,
        flows,
    })
}

/// Takes away what has run out by `now`: a feed's entries that say so themselves.
pub(super) fn expire_entries(
    shared: &Shared,
    feed: &config::Feed,
    now: SystemTime,
) -> Result<(), String> {
    let limits = Limits::from(feed);
    let (stream, previous) = {
        let core = lock(&shared.core);
        let Some(state) = core.feeds.get(&feed.name) else {
            return Ok(());
        };
        let Some(data) = state.data.clone() else {
            return Ok(());
        };
        (state.stream.clone(), data)
    };
    // Of a stream from before a restart only what is on disk is known.
    let parsed = if feed.format == Format::Crowdsec && !stream.is_empty() {
        stream.parsed(now, &limits)
    } else {
        // That nothing is left is what is expected here.
        let feed = config::Feed {
            allow_empty: true,
            ..feed.clone()
        };
        match lastgood::recall(&shared.store, &feed, now) {
            // What is on disk may be older than what is in force, when it could not be stored.
            Some(recalled) if recalled.data.pulled == previous.pulled => recalled.data.parsed,
            Some(_) | None => return Ok(()),
        }
    };
    let with = |parsed| {
        Arc::new(FeedData {
            parsed,
            pulled: previous.pulled,
            bytes: previous.bytes,
        })
    };
    let data = with(parsed);
    // Entries may begin at some time, too.
    let (data, refused) = match weigh(shared, feed, &data) {
        (Ok(()), _) => (data, None),
        (Err(refusal), _) => {
            let kept = Parsed {
                next_expiry: data.parsed.next_expiry,
                ..previous.parsed.clone()
            };
            (with(kept), Some(rails::in_words(&refusal, &feed.name)))
        }
    };
    let mut core = lock(&shared.core);
    let state = core.feeds.get(&feed.name);
    // A pull may have brought newer data meanwhile.
    if state
        .and_then(|state| state.data.as_ref())
        .is_some_and(|now| Arc::ptr_eq(now, &previous))
    {
        core.accept(&feed.name, data).map_err(|e| e.to_string())?;
        if let (Some(why), Some(state)) = (refused, core.feeds.get_mut(&feed.name)) {
            tracing::warn!(
                "feed {}: entries that begin now are not taken: {why}",
                feed.name
            );
            state.last_error = Some(why);
        }
    }
    Ok(())
}

/// Time until a feed's entries change by themselves.
pub(super) fn next_expiry(data: Option<&FeedData>, now: SystemTime) -> Option<Duration> {
    data?
        .parsed
        .next_expiry
        .map(|at| at.duration_since(now).unwrap_or_default())
}
