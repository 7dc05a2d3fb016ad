//! What the control socket's requests do.

use std::sync::{Arc, atomic::Ordering};

use serde_json::{Value, json};

use super::{
    Shared, alerts, arming,
    engine::lock,
    glance::{blocking as in_place, glance_soon},
    intake::{self, Body},
    lookup, pulls,
    reading::Asked,
    resources, selftest, status,
};
use crate::{
    config::LogLevel,
    control::{Caller, Peer, Request, Response},
    feed::{Cover, FeedName, Known},
    logging,
};

/// Nobody reads it: whoever asked has gone.
const GONE: &str = "the client has gone";

/// Answers one request.
pub(super) async fn answer(
    shared: Arc<Shared>,
    caller: Caller,
    request: Request,
    body: Vec<u8>,
) -> Response {
    // `down` waits for the state first. All else is begun here, or not at all.
    if request != Request::Down && !caller.begin() {
        return Response::Error(GONE.into());
    }
    let peer = caller.peer;
    let result = match request {
        Request::Status => {
            blocking(&shared, |shared| {
                let glance = glance_soon(shared)?;
                value(&status::of(shared, &glance))
            })
            .await
        }
        Request::Feeds => blocking(&shared, |shared| value(&glance_soon(shared)?.feeds)).await,
        Request::Lookup { addr, asked } => {
            let work = move |shared: &Shared| {
                let (snapshot, glance) = (shared.path.view.current(), glance_soon(shared)?);
                let place = lookup::Place {
                    index: &snapshot.index,
                    trials: &shared.path.trials,
                    exceptions: &glance.exceptions,
                };
                value(&lookup::lookup(&place, addr, &asked)?)
            };
            blocking(&shared, work).await
        }
        Request::Ruleset { elements } => {
            blocking(&shared, move |shared| {
                let glance = glance_soon(shared)?;
                Ok(json!(super::elements::print(&glance, elements)))
            })
            .await
        }
        Request::Refresh {
            feed,
            dry_run: false,
        } => refresh(&shared, feed).await,
        Request::Refresh {
            feed,
            dry_run: true,
        } => preview(&shared, feed).await,
        Request::Accept { feed } => blocking(&shared, move |shared| accept(shared, &feed)).await,
        Request::Push { feed, .. } => {
            blocking(&shared, move |shared| push(shared, &feed, body)).await
        }
        Request::Lint { feed, .. } => match known(&body) {
            Ok(known) => lint(&shared, feed.as_deref(), Arc::new(known)).await,
            Err(message) => Err(message),
        },
        Request::Alerts { query } => {
            blocking(&shared, move |shared| alerts::answer(shared, &query)).await
        }
        Request::Dismiss { ids, all, note } => {
            let work = move |shared: &Shared| alerts::dismiss(shared, peer, ids, all, note);
            blocking(&shared, work).await
        }
        Request::Apply { dry_run, .. } => resources::apply(&shared, body, dry_run).await,
        Request::Get {
            words,
            selector,
            nets,
        } => {
            let work =
                move |shared: &Shared| resources::get(shared, &words, selector.as_deref(), nets);
            blocking(&shared, work).await
        }
        Request::Delete {
            words,
            ignore_not_found,
            dry_run,
            ..
        } => resources::delete(&shared, words, body, ignore_not_found, dry_run).await,
        Request::Deny { feed, step } => {
            let work = move |shared: &Shared| arming::deny(shared, &feed, step);
            blocking(&shared, work).await
        }
        Request::Log { level } => log(peer, level.as_deref()),
        Request::SelftestBegin => blocking(&shared, selftest::begin).await,
        Request::SelftestSeen => blocking(&shared, selftest::seen).await,
        Request::SelftestEnd { probed } => {
            blocking(&shared, move |shared| selftest::end(shared, &probed)).await
        }
        Request::Down => down(&shared, caller).await,
    };
    match result {
        Ok(value) => Response::Ok(value),
        Err(message) => Response::Error(message),
    }
}

/// Runs what takes locks or talks to the kernel away from the asynchronous threads.
async fn blocking<F>(shared: &Arc<Shared>, work: F) -> Result<Value, String>
where
    F: FnOnce(&Shared) -> Result<Value, String> + Send + 'static,
{
    let shared = Arc::clone(shared);
    tokio::task::spawn_blocking(move || work(&shared))
        .await
        .map_err(|e| e.to_string())?
}

/// What the log shows, after a change to `level`.
fn log(peer: Peer, level: Option<&str>) -> Result<Value, String> {
    if let Some(word) = level {
        let level = LogLevel::all().find(|level| level.as_str() == word);
        let level = level.ok_or_else(|| format!("{word:?} is not a level of the log"))?;
        logging::set(level).map_err(|e| e.to_string())?;
        tracing::warn!(
            "uid {} set the log to {word}, until the next reload",
            peer.uid
        );
    }
    Ok(json!(logging::shown()))
}

pub(super) fn value(of: &impl serde::Serialize) -> Result<Value, String> {
    serde_json::to_value(of).map_err(|e| e.to_string())
}

async fn refresh(shared: &Arc<Shared>, feed: Option<String>) -> Result<Value, String> {
    let names = in_place(|| super::feeds_named(&lock(&shared.core), feed.as_deref()))?;
    let asked = match feed {
        Some(_) => Asked::ByName,
        None => Asked::ForAll,
    };
    let mut pulls = tokio::task::JoinSet::new();
    for name in names {
        let shared = Arc::clone(shared);
        pulls.spawn(async move {
            pulls::pull(&shared, &name, asked)
                .await
                .map_err(|e| named(&name, e))
        });
    }
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for result in pulls.join_all().await {
        match result {
            Ok(outcome) => done.push(outcome),
            Err(e) => failed.push(e),
        }
    }
    if failed.is_empty() {
        value(&done)
    } else {
        Err(failed.join("\n"))
    }
}

async fn preview(shared: &Arc<Shared>, feed: Option<String>) -> Result<Value, String> {
    let names = {
        let core = in_place(|| lock(&shared.core));
        let named = core.feeds.values().find(|state| {
            let can_be_looked_at = state.quarantine.is_some() || state.config.url.is_some();
            feed.as_deref() == Some(state.config.name.as_str()) && can_be_looked_at
        });
        match named {
            // Also what was pushed and held back, and a feed that is not enabled yet.
            Some(state) => vec![state.config.name.clone()],
            None => super::feeds_named(&core, feed.as_deref())?,
        }
    };
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    let known = Arc::new(Known::embedded());
    for name in names {
        match pulls::preview(shared, &name, Arc::clone(&known)).await {
            Ok(preview) => done.push(preview),
            Err(e) => failed.push(named(&name, e)),
        }
    }
    if failed.is_empty() {
        value(&done)
    } else {
        Err(failed.join("\n"))
    }
}

/// Takes the update that waits in quarantine.
fn accept(shared: &Shared, name: &str) -> Result<Value, String> {
    let (feed, body) = {
        let mut core = lock(&shared.core);
        let state = core
            .feeds
            .values()
            .find(|state| state.config.name.as_str() == name);
        let state = state.ok_or_else(|| format!("no feed is named {name}"))?;
        let body = state.quarantine.as_ref().map(intake::Quarantined::body);
        let feed = state.config.clone();
        if body.is_none() {
            let share = core.accept_share(&feed.name);
            let share = share
                .ok_or_else(|| format!("feed {name} has no update that waits to be accepted"))?;
            core.sync().map_err(|e| e.to_string())?;
            tracing::info!("feed {name}: what it lists may be denied, by hand: {share}");
        }
        (feed, body)
    };
    if let Some(body) = body {
        intake::take(shared, &feed, body, true)?;
    }
    let mut core = lock(&shared.core);
    arming::keep(&mut core, &shared.store, true).map_err(|e| {
        format!("feed {name}: that is done and in force, but a restart would not know of it; it is stored as soon as that works: {e}")
    })?;
    drop(core);
    taken(shared, &feed.name)
}

/// Takes a text for a feed that is pushed.
fn push(shared: &Shared, name: &str, bytes: Vec<u8>) -> Result<Value, String> {
    let feed = {
        let core = lock(&shared.core);
        let state = core
            .feeds
            .values()
            .find(|state| state.config.name.as_str() == name);
        let state = state.ok_or_else(|| format!("no feed is named {name}"))?;
        if let Some(url) = &state.config.url {
            let place = crate::fetch::Place::new(&state.config.name, url);
            return Err(format!(
                "{place} is pulled, not pushed: a push would be overwritten; remove its url to push it"
            ));
        }
        if !state.config.enabled {
            return Err(format!("feed {name} is not enabled"));
        }
        state.config.clone()
    };
    if let Err(why) = intake::take(shared, &feed, Body::pushed(bytes), false) {
        if let Some(state) = lock(&shared.core).feeds.get_mut(&feed.name) {
            state.last_attempt = Some(std::time::SystemTime::now());
            state.last_error = Some(why.clone());
        }
        tracing::warn!("feed {name}: a pushed text is refused: {why}");
        return Err(named(name, why));
    }
    taken(shared, &feed.name)
}

/// The good end of an accept or a push.
fn taken(shared: &Shared, name: &FeedName) -> Result<Value, String> {
    let mut core = lock(&shared.core);
    let state = core
        .feeds
        .get_mut(name)
        .ok_or_else(|| format!("feed {name} is gone: it was taken out meanwhile"))?;
    let now = std::time::SystemTime::now();
    (state.last_attempt, state.last_success) = (Some(now), Some(now));
    state.last_error = None;
    let entries = state.data.as_ref().map_or(0, |data| data.parsed.count());
    tracing::info!("feed {name}: taken by hand, {entries} entries");
    value(&pulls::Outcome {
        feed: name.clone(),
        changed: true,
        entries,
    })
}

/// Lints one feed, or all. What has no data yet is pulled for it, and not enforced: a feed can be
/// looked at while it is not enabled.
async fn lint(
    shared: &Arc<Shared>,
    name: Option<&str>,
    known: Arc<Known>,
) -> Result<Value, String> {
    let wanted: Vec<(FeedName, Option<Arc<crate::feed::FeedData>>, bool)> = {
        let core = in_place(|| lock(&shared.core));
        let wanted = core
            .feeds
            .values()
            .filter(|state| name.is_none_or(|name| state.config.name.as_str() == name));
        let row = |state: &super::core::FeedState| {
            let name = state.config.name.clone();
            (name, state.data.clone(), state.config.url.is_some())
        };
        wanted.map(row).collect()
    };
    if let (true, Some(name)) = (wanted.is_empty(), name) {
        return Err(format!("no feed is named {name}"));
    }
    let mut found = Vec::new();
    for (name, data, has_url) in wanted {
        let (entries, share, findings) = match (data, has_url) {
            (Some(data), _) => {
                let entries = data.parsed.count();
                let (shared, name, known) = (Arc::clone(shared), name.clone(), Arc::clone(&known));
                let work = move || {
                    let share = Cover::of(data.parsed.prefixes().copied()).share();
                    (
                        share,
                        intake::findings(&shared, &name, &data.parsed, &known),
                    )
                };
                let found = tokio::task::spawn_blocking(work).await;
                let (share, findings) = found.map_err(|e| e.to_string())?;
                (entries, share, status::Shown::all(&findings))
            }
            (None, true) => {
                let preview = pulls::preview(shared, &name, Arc::clone(&known)).await;
                let preview = preview.map_err(|e| format!("feed {name}: {e}"))?;
                (preview.entries, preview.share, preview.findings)
            }
            (None, false) => {
                return Err(format!(
                    "feed {name} has no data yet: lint the file before it is pushed"
                ));
            }
        };
        let lines: Vec<&str> = findings.iter().map(|shown| shown.text.as_str()).collect();
        found.push(
            json!({ "feed": name, "entries": entries, "share": share, "findings": findings, "lines": lines }),
        );
    }
    Ok(json!(found))
}

/// The embedded list of known-good addresses and those that came with a request.
fn known(lists: &[u8]) -> Result<Known, String> {
    #[derive(serde::Deserialize)]
    struct List {
        name: String,
        prefixes: Vec<String>,
    }
    let mut known = Known::embedded();
    if lists.is_empty() {
        return Ok(known);
    }
    let lists: Vec<List> =
        serde_json::from_slice(lists).map_err(|e| format!("the known-good lists: {e}"))?;
    for list in lists {
        let prefixes = list.prefixes.iter();
        known.add(&list.name, prefixes.filter_map(|text| text.parse().ok()));
    }
    Ok(known)
}

/// An error with the feed's name, unless it has it already.
pub(super) fn named(name: impl std::fmt::Display, error: String) -> String {
    if error.starts_with(&format!("feed {name}")) {
        error
    } else {
        format!("feed {name}: {error}")
    }
}

async fn down(shared: &Arc<Shared>, caller: Caller) -> Result<Value, String> {
    let removed = blocking(shared, move |shared| {
        let mut core = lock(&shared.core);
        // Whoever gave up waiting has done something else since, and must not find the table gone later.
        if !caller.begin() {
            tracing::warn!("down is not carried out: its client has gone");
            return Err(GONE.into());
        }
        // Set under the lock, so that nobody puts the table back in between.
        shared.down.store(true, Ordering::Relaxed);
        core.closed = true;
        let removed = core.kernel.remove();
        if removed.is_err() {
            shared.down.store(false, Ordering::Relaxed);
            core.closed = false;
        }
        removed
            .map(|was_there| json!({ "removed": was_there }))
            .map_err(|e| e.to_string())
    })
    .await;
    if removed.is_ok() {
        // The answer leaves first.
        let stop = shared.stop.clone();
        tokio::spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            let _ = stop.send(()).await;
        });
    }
    removed
}
