//! Pulling feeds on their periods, and taking what is good into the kernel.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::task::JoinHandle;

use super::{Shared, engine::lock, lastgood};
use crate::{
    config,
    feed::{FeedData, FeedName, Limits, Parsed, Refusal, judge, parse_plain, refuse_body},
    fetch::{Pulled, Validators},
};

/// First wait after a failed pull; it doubles up to the feed's period.
const RETRY: Duration = Duration::from_secs(60);

/// The running pull loops.
#[derive(Debug, Default)]
pub(super) struct Tasks(Vec<JoinHandle<()>>);

impl Tasks {
    pub(super) fn abort(&mut self) {
        for task in self.0.drain(..) {
            task.abort();
        }
    }
}

/// Starts a loop for each feed that is pulled, in place of those of an earlier configuration.
pub(super) fn restart(shared: &Arc<Shared>) {
    let feeds = super::feeds_named(&lock(&shared.core), None).unwrap_or_default();
    let mut tasks = lock(&shared.pulls);
    tasks.abort();
    for name in feeds {
        let shared = Arc::clone(shared);
        tasks.0.push(tokio::spawn(
            async move { keep_pulling(&shared, &name).await },
        ));
    }
    shared.progress.notify_waiters();
}

/// Pulls when the feed is due, for ever.
async fn keep_pulling(shared: &Arc<Shared>, name: &FeedName) {
    loop {
        let wait = {
            let core = lock(&shared.core);
            let Some(state) = core.feeds.get(name) else {
                return;
            };
            state
                .next_pull
                .map(|next| next.duration_since(SystemTime::now()).unwrap_or_default())
        };
        if let Some(wait) = wait {
            // Looked at again now and then: a refresh by hand moves the time.
            tokio::time::sleep(wait.min(Duration::from_secs(30))).await;
            let due = lock(&shared.core)
                .feeds
                .get(name)
                .is_none_or(|s| s.next_pull.is_none_or(|at| at <= SystemTime::now()));
            if !due {
                continue;
            }
        }
        let _ = pull(shared, name).await;
    }
}

/// What a pull changed.
#[derive(Debug, serde::Serialize)]
pub(super) struct Outcome {
    feed: FeedName,
    changed: bool,
    entries: usize,
}

/// Pulls once; returns when the result is in the kernel, or failed.
pub(super) async fn pull(shared: &Arc<Shared>, name: &FeedName) -> Result<Outcome, String> {
    let (feed, validators) = {
        let mut core = lock(&shared.core);
        let Some(state) = core.feeds.get_mut(name) else {
            return Err(format!("feed {name} is gone"));
        };
        state.last_attempt = Some(SystemTime::now());
        let validators = state
            .data
            .is_some()
            .then(|| state.validators.clone())
            .flatten();
        (state.config.clone(), validators)
    };
    let start = Instant::now();
    let result = match shared.client.pull(&feed, validators.as_ref()).await {
        Err(e) => Err(e.to_string()),
        Ok(Pulled::Unchanged) => Ok(None),
        Ok(Pulled::Body {
            bytes, validators, ..
        }) => {
            let shared = Arc::clone(shared);
            let feed = feed.clone();
            let work = move || take(&shared, &feed, bytes, validators);
            tokio::task::spawn_blocking(work)
                .await
                .map_err(|e| e.to_string())
                .and_then(|done| done)
                .map(Some)
        }
    };
    let outcome = record(shared, name, &feed.period, start.elapsed(), result);
    shared.progress.notify_waiters();
    outcome
}

/// Reads and judges a feed's text.
pub(super) fn read(
    bytes: &[u8],
    feed: &config::Feed,
    previous: Option<&FeedData>,
) -> Result<Parsed, Refusal> {
    let limits = Limits::from(feed);
    refuse_body(bytes, &limits)?;
    judge(parse_plain(bytes, &limits), bytes, &limits, previous)
}

/// Reads, judges, enforces and stores one body.
fn take(
    shared: &Shared,
    feed: &config::Feed,
    bytes: Vec<u8>,
    validators: Validators,
) -> Result<(), String> {
    let previous = lock(&shared.core)
        .feeds
        .get(&feed.name)
        .and_then(|state| state.data.clone());
    let parsed = read(&bytes, feed, previous.as_deref()).map_err(|e| e.to_string())?;
    let pulled = SystemTime::now();
    let data = FeedData {
        parsed,
        pulled,
        bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
    };
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
        core.accept(&feed.name, data).map_err(|e| e.to_string())?;
        if let Some(state) = core.feeds.get_mut(&feed.name) {
            state.validators = Some(validators.clone());
        }
    }
    lastgood::keep(&shared.store, feed, bytes, &validators, pulled);
    Ok(())
}

fn record(
    shared: &Shared,
    name: &FeedName,
    period: &Duration,
    elapsed: Duration,
    result: Result<Option<()>, String>,
) -> Result<Outcome, String> {
    let mut core = lock(&shared.core);
    let Some(state) = core.feeds.get_mut(name) else {
        return Err(format!("feed {name} is gone"));
    };
    state.elapsed = Some(elapsed);
    let now = SystemTime::now();
    let wait = match &result {
        Ok(changed) => {
            state.failures = 0;
            state.last_success = Some(now);
            state.last_error = None;
            if let Some(data) = &state.data {
                let parsed = &data.parsed;
                tracing::info!(
                    "feed {name}: {}, {} entries, {} malformed lines, {} names, {} too wide, in {elapsed:?}",
                    if changed.is_some() {
                        "pulled"
                    } else {
                        "not modified"
                    },
                    parsed.entries.len(),
                    parsed.bad.count,
                    parsed.not_address.count,
                    parsed.too_wide.count,
                );
            }
            *period
        }
        Err(e) => {
            let doubled = RETRY.saturating_mul(1 << state.failures.min(16));
            state.failures = state.failures.saturating_add(1);
            if state.last_error.as_ref() != Some(e) {
                let kept = if state.data.is_some() {
                    "the last good data stay in force"
                } else {
                    "there is no good data yet"
                };
                tracing::warn!("feed {name}: {e}; {kept}");
            }
            state.last_error = Some(e.clone());
            doubled.min(*period)
        }
    };
    state.next_pull = Some(now + wait);
    let entries = state
        .data
        .as_ref()
        .map_or(0, |data| data.parsed.entries.len());
    if let Err(e) = core.leave_inherited() {
        return Err(e.to_string());
    }
    result.map(|changed| Outcome {
        feed: name.clone(),
        changed: changed.is_some(),
        entries,
    })
}
