//! What the control socket's requests do.

use std::sync::{Arc, atomic::Ordering};

use serde_json::{Value, json};

use super::{Shared, engine::lock, pulls, status};
use crate::{
    control::{Request, Response},
    feed::Direction,
    snapshot::Snapshot,
};

/// Answers one request.
pub(super) async fn answer(shared: Arc<Shared>, request: Request) -> Response {
    let result = match request {
        Request::Status => blocking(&shared, |shared| value(&status::status(shared))).await,
        Request::Feeds => {
            blocking(&shared, |shared| value(&status::feeds(&lock(&shared.core)))).await
        }
        Request::Lookup { addr } => value(&lookup(&shared.path.view.current(), addr)),
        Request::Ruleset { elements } => {
            blocking(&shared, move |shared| {
                Ok(json!(super::elements::print(&lock(&shared.core), elements)))
            })
            .await
        }
        Request::Refresh { feed } => refresh(&shared, feed).await,
        Request::Down => down(&shared).await,
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

fn value(of: &impl serde::Serialize) -> Result<Value, String> {
    serde_json::to_value(of).map_err(|e| e.to_string())
}

async fn refresh(shared: &Arc<Shared>, feed: Option<String>) -> Result<Value, String> {
    let names = super::feeds_named(&lock(&shared.core), feed.as_deref())?;
    let mut pulls = tokio::task::JoinSet::new();
    for name in names {
        let shared = Arc::clone(shared);
        pulls.spawn(async move {
            pulls::pull(&shared, &name)
                .await
                .map_err(|e| format!("feed {name}: {e}"))
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

/// What a lookup found.
#[derive(serde::Serialize)]
struct Answer {
    address: std::net::IpAddr,
    /// For each direction what becomes of a flow, `null`: nothing.
    egress: Option<Verdict>,
    ingress: Option<Verdict>,
    /// Every entry that covers the address, most specific first.
    listings: Vec<Listed>,
}

#[derive(serde::Serialize)]
struct Verdict {
    action: crate::feed::Action,
    indicator: crate::prefix::Prefix,
    feeds: Vec<crate::feed::FeedName>,
    severity: &'static str,
}

#[derive(serde::Serialize)]
struct Listed {
    feed: crate::feed::FeedName,
    prefix: crate::prefix::Prefix,
    action: crate::feed::Action,
    #[serde(skip_serializing_if = "Option::is_none")]
    ignored: Option<&'static str>,
}

fn lookup(snapshot: &Snapshot, address: std::net::IpAddr) -> Answer {
    let address = address.to_canonical();
    let verdict = |direction| {
        let hit = snapshot.index.lookup(address, direction)?;
        Some(Verdict {
            action: hit.action,
            indicator: hit.indicator,
            feeds: hit.feeds,
            severity: hit.severity.as_str(),
        })
    };
    let listings = snapshot.index.listings(address).into_iter();
    let listings = listings.map(|l| Listed {
        feed: l.feed,
        prefix: l.prefix,
        action: l.action,
        ignored: l.ignored,
    });
    Answer {
        address,
        egress: verdict(Direction::Egress),
        ingress: verdict(Direction::Ingress),
        listings: listings.collect(),
    }
}

async fn down(shared: &Arc<Shared>) -> Result<Value, String> {
    let removed = blocking(shared, |shared| {
        let core = lock(&shared.core);
        // Set under the lock, so that nobody puts the table back in between.
        shared.down.store(true, Ordering::Relaxed);
        core.kernel
            .remove()
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
    } else {
        shared.down.store(false, Ordering::Relaxed);
    }
    removed
}
