//! When feeds are pulled: on their periods with jitter, again after failures, a few at a time.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{sync::Semaphore, task::JoinHandle};

use super::{
    Shared,
    core::Core,
    engine::lock,
    glance::blocking,
    intake::{self, Body, Preview},
    lastgood,
    reading::{self, Asked, Reading},
    resources::Turnover,
    watchdog::Terms,
};
use crate::{
    config::{self, Format},
    feed::{FeedName, Known},
    fetch::{FetchError, Pulled, Validators},
    host::clock::Uptime,
    pulse::Pulse,
};

/// First wait after a failed pull; it doubles up to the feed's period.
const RETRY: Duration = Duration::from_secs(60);
/// Pulls at the same time: each may hold a body of `max-bytes`.
const AT_ONCE: usize = 8;
/// Of them, pulls from one server, so that one that hangs does not hold back the others.
const FROM_ONE_SERVER: usize = 2;
/// The longest that a server's `Retry-After` is heeded.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);
/// How often a pull that takes long says that it goes on.
const PATIENCE: Duration = Duration::from_secs(5);
/// A loop looks at least this often: timers stand still while the host sleeps, and entries run out by
/// the wall clock, which may be set.
const LOOK: Duration = Duration::from_secs(30);

/// The running pull loops.
#[derive(Debug)]
pub(super) struct Tasks {
    running: Vec<(FeedName, JoinHandle<()>)>,
    places: Arc<Semaphore>,
    /// By scheme, host and port of the configured URLs.
    servers: HashMap<String, Arc<Semaphore>>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self {
            running: Vec::new(),
            places: Arc::new(Semaphore::new(AT_ONCE)),
            servers: HashMap::new(),
        }
    }
}

impl Tasks {
    pub(super) fn abort(&mut self) {
        for (_, task) in self.running.drain(..) {
            task.abort();
        }
    }

    fn start(&mut self, shared: &Arc<Shared>, name: FeedName) {
        let (shared, feed) = (Arc::clone(shared), name.clone());
        let task = tokio::spawn(async move { keep_pulling(&shared, &feed).await });
        self.running.push((name, task));
    }

    /// The places at a URL's server, and those of all servers together.
    fn places(&mut self, url: Option<&url::Url>) -> [Arc<Semaphore>; 2] {
        let server = url.map(|url| url.origin().ascii_serialization());
        let server = self.servers.entry(server.unwrap_or_default());
        let server = server.or_insert_with(|| Arc::new(Semaphore::new(FROM_ONE_SERVER)));
        [Arc::clone(server), Arc::clone(&self.places)]
    }
}

/// Starts a loop for each feed that is pulled, in place of those of an earlier configuration.
pub(super) fn restart(shared: &Arc<Shared>) {
    let feeds = {
        let mut core = blocking(|| lock(&shared.core));
        let states = core.feeds.values_mut();
        states.for_each(|state| {
            // Its loop ends, and what a stream's server has answered by then is lost.
            state.stream_gap |= std::mem::take(&mut state.pulling);
        });
        super::feeds_named(&core, None).unwrap_or_default()
    };
    let mut tasks = lock(&shared.pulls);
    tasks.abort();
    tasks.servers.clear();
    for name in feeds {
        tasks.start(shared, name);
    }
    shared.progress.notify_waiters();
}

/// The loops of feeds that came, changed or went; those of all others go on.
pub(super) fn follow(shared: &Arc<Shared>, turnover: &Turnover) {
    if turnover.changed.is_empty() && turnover.gone.is_empty() {
        return;
    }
    let feeds = {
        let mut core = blocking(|| lock(&shared.core));
        for name in &turnover.changed {
            if let Some(state) = core.feeds.get_mut(name) {
                state.stream_gap |= std::mem::take(&mut state.pulling);
            }
        }
        super::feeds_named(&core, None).unwrap_or_default()
    };
    let mut tasks = lock(&shared.pulls);
    tasks.running.retain(|(name, task)| {
        let stays = !turnover.changed.contains(name) && !turnover.gone.contains(name);
        if !stays {
            task.abort();
        }
        stays
    });
    for name in feeds
        .into_iter()
        .filter(|name| turnover.changed.contains(name))
    {
        tasks.start(shared, name);
    }
    shared.progress.notify_waiters();
}

/// What a feed's loop does next.
enum Next {
    Pull,
    /// Entries run out.
    Expire(Box<config::Feed>),
    Wait(Duration),
}

/// Pulls when the feed is due, for ever.
async fn keep_pulling(shared: &Arc<Shared>, name: &FeedName) {
    loop {
        let next = {
            let core = blocking(|| lock(&shared.core));
            let Some(state) = core.feeds.get(name) else {
                return;
            };
            let pull = state.next_pull.map(|at| at.left(Uptime::now()));
            // What is of another url cannot be read again from disk.
            let data = state.data.as_deref().filter(|_| !state.of_before);
            match (pull, intake::next_expiry(data, SystemTime::now())) {
                (None | Some(Duration::ZERO), _) => Next::Pull,
                (_, Some(Duration::ZERO)) => Next::Expire(Box::new(state.config.clone())),
                (Some(pull), expiry) => Next::Wait(pull.min(expiry.unwrap_or(LOOK)).min(LOOK)),
            }
        };
        match next {
            Next::Pull => {
                let _ = pull(shared, name, Asked::ForAll).await;
            }
            Next::Expire(feed) => {
                let shared = Arc::clone(shared);
                let work = move || intake::expire_entries(&shared, &feed, SystemTime::now());
                let _ = tokio::task::spawn_blocking(work).await;
                // What cannot be read again is tried no more than now and then.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Next::Wait(wait) => tokio::time::sleep(wait).await,
        }
    }
}

/// What a pull changed.
#[derive(Debug, serde::Serialize)]
pub(super) struct Outcome {
    pub(super) feed: FeedName,
    pub(super) changed: bool,
    pub(super) entries: usize,
}

/// Pulls once; returns when the result is in the kernel, or failed.
pub(super) async fn pull(
    shared: &Arc<Shared>,
    name: &FeedName,
    asked: Asked,
) -> Result<Outcome, String> {
    let (found, total) = {
        let core = blocking(|| lock(&shared.core));
        let state = core.feeds.get(name);
        let found = state.map(|state| (Arc::clone(&state.turn), Arc::clone(&state.pulse)));
        (found, core.config.pull.total_timeout)
    };
    let (turn, pulse) =
        found.ok_or_else(|| format!("feed {name} is gone: it was taken out meanwhile"))?;
    let _turn = turn.lock().await;
    let (feed, validators, startup, deaths) = {
        let mut core = blocking(|| lock(&shared.core));
        let Some(state) = core.feeds.get_mut(name) else {
            return Err(format!("feed {name} is gone: it was taken out meanwhile"));
        };
        state.last_attempt = Some(SystemTime::now());
        state.pulling = true;
        let validators = if state.data.is_some() {
            state.validators.clone()
        } else {
            None
        };
        // A stream goes on only where the daemon has followed it without a gap.
        (
            state.config.clone(),
            validators,
            state.stream.is_empty() || state.stream_gap || state.failures > 0,
            state.deaths,
        )
    };
    if let Some(why) = reading::held(deaths, asked) {
        let held = Failed {
            why: why.replace("NAME", name.as_str()),
            retry_after: None,
            kind: Some("held-back"),
        };
        let outcome = blocking(|| record(shared, &feed, Duration::ZERO, Err(held)));
        shared.progress.notify_waiters();
        return outcome;
    }
    let mut reading = Reading::new(shared, &feed, deaths).await;
    let start = Instant::now();
    let what = format!("the pull of feed {name}");
    shared.pulses.watch(what, &pulse, Terms::pull(total));
    let got = fetch(shared, &feed, validators.as_ref(), startup, &pulse).await;
    let _work = pulse.work();
    let result = match got {
        Err(e) => Err(Failed {
            retry_after: e.retry_after(),
            kind: Some(e.kind()),
            why: in_short(&feed.name, &e),
        }),
        Ok(got) => {
            let (shared, feed) = (Arc::clone(shared), feed.clone());
            let work = move || match got {
                Some(body) => {
                    reading.begin();
                    let taken = intake::take(&shared, &feed, body, false);
                    reading.survived();
                    taken.map(|()| true)
                }
                None => {
                    lastgood::confirm(&shared.store, &feed, SystemTime::now());
                    Ok(false)
                }
            };
            let done = tokio::task::spawn_blocking(work)
                .await
                .map_err(|e| e.to_string())
                .and_then(|done| done);
            done.map_err(|why| Failed {
                why,
                retry_after: None,
                kind: None,
            })
        }
    };
    // May load the table of the first pulls.
    let outcome = blocking(|| record(shared, &feed, start.elapsed(), result));
    shared.progress.notify_waiters();
    outcome
}

/// Pulls, judges, and changes nothing. A quarantined update is looked at without another pull.
pub(super) async fn preview(
    shared: &Arc<Shared>,
    name: &FeedName,
    known: Arc<Known>,
) -> Result<Preview, String> {
    let (feed, held) = {
        let mut core = blocking(|| lock(&shared.core));
        let Some(state) = core.feeds.get_mut(name) else {
            return Err(format!("feed {name} is gone: it was taken out meanwhile"));
        };
        let held = state.quarantine.as_ref().map(intake::Quarantined::body);
        // The server counts this look as seen: the next delta would start after it.
        state.stream_gap |= held.is_none();
        (state.config.clone(), held)
    };
    let body = match held {
        Some(body) => body,
        // A person waits for it, and sees whether it ends.
        None => fetch(shared, &feed, None, true, &Pulse::default())
            .await
            .map_err(|e| in_short(name, &e))?
            .ok_or("the server sent nothing, although nothing was known of the feed")?,
    };
    let shared = Arc::clone(shared);
    let work = move || intake::preview(&shared, &feed, &body, &known);
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| e.to_string())?
}

/// Gets the text, with the others taking their turns; `None`: not modified.
async fn fetch(
    shared: &Arc<Shared>,
    feed: &config::Feed,
    validators: Option<&Validators>,
    startup: bool,
    pulse: &Pulse,
) -> Result<Option<Body>, FetchError> {
    // The server's own place first: who waits for it must not take one of all.
    let [server, all] = lock(&shared.pulls).places(feed.url.as_ref());
    let _at_server = server.acquire().await;
    let _place = all.acquire().await;
    let _work = pulse.work();
    let mut feed = feed.clone();
    if feed.format == Format::Crowdsec
        && let Some(url) = &mut feed.url
    {
        ask_stream(url, startup);
    }
    let client = shared.client.load_full();
    let work = client.pull(
        &feed,
        if feed.format == Format::Crowdsec {
            None
        } else {
            validators
        },
    );
    let mut work = std::pin::pin!(work);
    let start = Instant::now();
    let pulled = loop {
        match tokio::time::timeout(PATIENCE, &mut work).await {
            Ok(pulled) => break pulled?,
            Err(_) => tracing::info!(
                "feed {}: still pulling after {} s",
                feed.name,
                start.elapsed().as_secs()
            ),
        }
    };
    Ok(match pulled {
        Pulled::Unchanged => None,
        Pulled::Body {
            bytes, validators, ..
        } => Some(Body {
            bytes,
            validators,
            startup,
            at: SystemTime::now(),
        }),
    })
}

/// `?startup=true` asks for all decisions, `false` for what changed since this key's last call.
fn ask_stream(url: &mut url::Url, startup: bool) {
    let kept: Vec<(String, String)> = url
        .query_pairs()
        .filter(|(key, _)| key != "startup")
        .map(|(k, v)| (k.into_owned(), v.into_owned()))
        .collect();
    let mut pairs = url.query_pairs_mut();
    pairs.clear();
    pairs
        .extend_pairs(kept)
        .append_pair("startup", if startup { "true" } else { "false" });
}

/// The error without the feed's name, which stands before it wherever it is shown.
fn in_short(name: &FeedName, error: &FetchError) -> String {
    let text = error.to_string();
    let rest = text.strip_prefix(&format!("feed {name} ("));
    match rest.and_then(|rest| rest.split_once("): ")) {
        Some((url, what)) => format!("{url}: {what}"),
        None => text,
    }
}

struct Failed {
    why: String,
    /// What the server asked for.
    retry_after: Option<Duration>,
    /// Why there was no text; `None`: there was one, and it was not taken.
    kind: Option<&'static str>,
}

fn record(
    shared: &Shared,
    feed: &config::Feed,
    elapsed: Duration,
    result: Result<bool, Failed>,
) -> Result<Outcome, String> {
    let name = &feed.name;
    let mut core = lock(&shared.core);
    let broken = core.broken.clone();
    let Some(state) = core.feeds.get_mut(name) else {
        return Err(format!("feed {name} is gone: it was taken out meanwhile"));
    };
    state.elapsed = Some(elapsed);
    state.pulling = false;
    let counted = match &result {
        Ok(true) => "changed",
        Ok(false) => "unchanged",
        Err(failed) => failed.kind.unwrap_or_else(|| {
            let held = state.quarantine.as_ref().map(|held| &held.why);
            match Some(&failed.why) {
                why if why == held => "held-back",
                why if why == broken.as_ref() => "kernel",
                _ => "refused",
            }
        }),
    };
    *state.pulls.entry(counted).or_default() += 1;
    let now = SystemTime::now();
    let wait = match &result {
        Ok(changed) => {
            state.failures = 0;
            state.last_success = Some(now);
            state.last_error = None;
            // What was held back is gone from the server, or was taken.
            state.quarantine = None;
            if let Some(data) = &state.data {
                let parsed = &data.parsed;
                tracing::info!(
                    "feed {name}: {}, {} entries, {} malformed lines, {} without an address, {} too wide, in {elapsed:?}",
                    if *changed { "pulled" } else { "not modified" },
                    parsed.count(),
                    parsed.bad.count,
                    parsed.not_address.count,
                    parsed.too_wide.count,
                );
            }
            jittered(feed.period)
        }
        Err(failed) => {
            let doubled = RETRY.saturating_mul(1 << state.failures.min(16));
            state.failures = state.failures.saturating_add(1);
            if state.last_error.as_ref() != Some(&failed.why) {
                let kept = match state.data {
                    Some(_) => "the last good data stay in force",
                    None => "there is no good data yet",
                };
                tracing::warn!(
                    "{}; {kept}",
                    super::handler::named(name, failed.why.clone())
                );
            }
            state.last_error = Some(failed.why.clone());
            let wait = jittered(doubled.min(feed.period));
            let asked = failed.retry_after.unwrap_or_default();
            wait.max(asked.min(LONGEST_RETRY_AFTER))
        }
    };
    state.next_pull = Some(Uptime::now().after(wait));
    let entries = state.data.as_ref().map_or(0, |data| data.parsed.count());
    if matches!(result, Ok(true)) {
        tell_private(&core, name);
    }
    core.leave_inherited().map_err(|e| e.to_string())?;
    result
        .map(|changed| Outcome {
            feed: name.clone(),
            changed,
            entries,
        })
        .map_err(|failed| failed.why)
}

/// Says that networks of private space were in the feed: nobody expects them there.
fn tell_private(core: &Core, name: &FeedName) {
    let snapshot = core.path.view.current();
    let Some(report) = snapshot.report.feeds.get(name).filter(|r| r.private > 0) else {
        return;
    };
    tracing::warn!(
        "feed {name}: {} networks of private space are in it and are not denied \
         (exceptions.private-networks), such as {}",
        report.private,
        report.private_examples.join(", ")
    );
}

/// Up to a tenth later, so that a thousand hosts do not ask at once.
pub fn jittered(period: Duration) -> Duration {
    let random = RandomState::new().hash_one(SystemTime::now());
    let tenth = u64::try_from(period.as_millis() / 10)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    period + Duration::from_millis(random % tenth)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_at_most_a_tenth() {
        let period = Duration::from_secs(1000);
        let waits: Vec<Duration> = (0..100).map(|_| jittered(period)).collect();
        assert!(
            waits
                .iter()
                .all(|wait| (period..=period + period / 10).contains(wait))
        );
        assert!(waits.iter().any(|wait| wait != waits.first().unwrap()));
    }

    #[test]
    fn an_error_names_its_feed_once() {
        let name: FeedName = "f".parse().unwrap();
        let url = "http://203.0.113.1/list?token=x".parse().unwrap();
        let at = crate::fetch::Place::new(&name, &url);
        let text = in_short(&name, &FetchError::Refused { at });
        assert!(
            text.starts_with("http://203.0.113.1/list: connection refused"),
            "{text}"
        );
    }

    #[test]
    fn a_stream_is_asked_for_once_whole_then_for_changes() {
        let mut url: url::Url = "http://127.0.0.1:8080/v1/decisions/stream?scopes=ip&startup=false"
            .parse()
            .unwrap();
        ask_stream(&mut url, true);
        assert_eq!(url.query(), Some("scopes=ip&startup=true"));
        ask_stream(&mut url, false);
        assert_eq!(url.query(), Some("scopes=ip&startup=false"));
    }
}
