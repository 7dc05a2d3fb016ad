//! `feedgate delete`: only what was applied.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    Shared,
    apply::{Plan, carry, read, results},
    catalog::{Catalog, KEPT, Origin, tier},
};
use crate::{
    config::Config,
    daemon::{engine::lock, glance::blocking},
    manifest::{self, Id, Kind, Target},
    policy::DEFAULT_TIER,
    resources::Applied,
};

/// Deletes what the words name, or what the manifests of a request hold.
pub(in crate::daemon) async fn delete(
    shared: &Arc<Shared>,
    words: Vec<String>,
    body: Vec<u8>,
    ignore_not_found: bool,
    dry_run: bool,
) -> Result<Value, String> {
    let (targets, warnings) = if words.is_empty() {
        let read = tokio::task::spawn_blocking(move || read(&body, "nothing was deleted"))
            .await
            .map_err(|e| e.to_string())??;
        let targets = read.resources.into_keys().map(Target::One);
        (targets.collect(), read.warnings)
    } else {
        let words = words.iter().map(String::as_str);
        let targets = manifest::targets(words).map_err(|e| e.to_string())?;
        (targets, Vec::new())
    };
    let _turn = shared.resources.turn.lock().await;
    let (plan, missing) = blocking(|| {
        let config = lock(&shared.core).config.clone();
        let catalog = lock(&shared.resources.catalog).clone();
        plan(&catalog, &config, &targets)
    })?;
    let missing = missing.iter().filter(|_| !ignore_not_found);
    let missing: Vec<Value> = missing
        .map(|id| json!({ "kind": id.kind.plural(), "name": id.name }))
        .collect();
    let answer = json!({
        "results": results(&plan.results),
        "missing": missing,
        "warnings": warnings,
        "dry_run": dry_run,
    });
    if !dry_run {
        carry(shared, plan).await?;
    }
    Ok(answer)
}

/// What deleting does, and what is not there.
pub(super) fn plan(
    catalog: &Catalog,
    config: &Config,
    targets: &[Target],
) -> Result<(Plan, Vec<Id>), String> {
    let before = catalog.resolve(config);
    let mut plan = Plan {
        catalog: catalog.clone(),
        results: Vec::new(),
        writes: Vec::new(),
    };
    let (mut missing, mut refused) = (Vec::new(), Vec::new());
    for id in ids(catalog, targets) {
        let had = plan.catalog.applied.remove(&id).is_some();
        let damaged = plan.catalog.damaged.remove(&Applied::file(&id)).is_some();
        if had || damaged {
            plan.writes.push((id.clone(), None));
            plan.results.push((id, "deleted"));
            continue;
        }
        let entry = before.entries.get(&id).map(|entry| &entry.origin);
        match (entry, kept_by(&id, config)) {
            (Some(origin @ Origin::File { .. }), _) => {
                refused.push(format!("{id} is kept in {origin}: delete it there"));
            }
            (_, Some(why)) => refused.push(format!("{id} cannot be deleted: {why}")),
            _ if is_kept_set(&id, &before.feeds) => refused.push(format!(
                "{id} cannot be deleted: the feed keeps it; delete the feed, or take globalNetworkSet out of it"
            )),
            _ => missing.push(id),
        }
    }
    refused.extend(tiers_in_use(&plan));
    if refused.is_empty() {
        return Ok((plan, missing));
    }
    refused.push("nothing was deleted".to_owned());
    Err(refused.join("\n"))
}

/// Each once; of a kind all that were applied.
fn ids(catalog: &Catalog, targets: &[Target]) -> Vec<Id> {
    let mut all: Vec<Id> = Vec::new();
    for target in targets {
        match target {
            Target::One(id) => all.push(id.clone()),
            Target::Kind(kind) => {
                all.extend(
                    catalog
                        .applied
                        .keys()
                        .filter(|id| id.kind == *kind)
                        .cloned(),
                );
            }
        }
    }
    // What others name goes last.
    all.sort_by(|a, b| b.cmp(a));
    all.dedup();
    all
}

/// Why something of the configuration, or what is always there, cannot be deleted.
fn kept_by(id: &Id, config: &Config) -> Option<String> {
    let configured = |name: &str| config.feeds.iter().any(|feed| feed.name.as_str() == name);
    let feed = match id.kind {
        Kind::GlobalThreatFeed => id.name.as_str(),
        Kind::GlobalNetworkSet => id.name.strip_prefix(KEPT)?,
        Kind::Tier if id.name == DEFAULT_TIER => {
            return Some("this tier is always there".to_owned());
        }
        _ => return None,
    };
    configured(feed)
        .then(|| "it is of a [[feed]] of the configuration; remove that and reload".to_owned())
}

fn is_kept_set(id: &Id, feeds: &[super::ManifestFeed]) -> bool {
    let name = id
        .name
        .strip_prefix(KEPT)
        .filter(|_| id.kind == Kind::GlobalNetworkSet);
    name.is_some_and(|name| {
        feeds
            .iter()
            .any(|f| f.keeps_set && f.config.name.as_str() == name)
    })
}

/// Tiers that go although policies are in them.
fn tiers_in_use(plan: &Plan) -> Vec<String> {
    let gone = plan
        .results
        .iter()
        .filter(|(id, _)| id.kind == Kind::Tier && id.name != DEFAULT_TIER);
    let still_there = |name: &str| {
        let items = plan.catalog.files.values().flat_map(|file| &file.items);
        items.into_iter().any(|(item, _)| {
            item.resource.kind() == Kind::Tier && item.resource.metadata.name == name
        })
    };
    let gone = gone.filter(|(id, _)| !still_there(&id.name));
    gone.filter_map(|(id, _)| {
        let in_files = plan
            .catalog
            .files
            .values()
            .flat_map(|file| file.items.iter().map(|(item, _)| item));
        let items = plan.catalog.applied.values().chain(in_files);
        let policies: Vec<String> = items
            .filter(|item| tier(&item.resource) == Some(&id.name))
            .map(|item| item.resource.id().to_string())
            .collect();
        (!policies.is_empty()).then(|| {
            format!(
                "{id} still has policies: {}; delete them first",
                policies.join(", ")
            )
        })
    })
    .collect()
}
