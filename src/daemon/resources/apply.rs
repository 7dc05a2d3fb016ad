//! `feedgate apply`: all documents are checked first; with a mistake in one nothing is applied.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::{
    Resources, Shared,
    catalog::{Catalog, Item, Origin},
    enforce,
};
use crate::{
    config::Config,
    control::{MAX_TEXTS, Text},
    daemon::{engine::lock, glance::blocking},
    manifest::{self, Id, Level, Resource},
    resources::Applied,
};

/// Most resources that can be applied.
const MOST: usize = 10_000;
/// Annotations of this beginning are the daemon's own, and are not kept.
pub(super) const OWN: &str = "feedgate/";

/// What a change does to the catalog and to the files.
pub(super) struct Plan {
    pub(super) catalog: Catalog,
    pub(super) results: Vec<(Id, &'static str)>,
    /// Resources to write, those to remove without any.
    pub(super) writes: Vec<(Id, Option<Arc<Resource>>)>,
}

/// What the manifests of a request hold.
pub(super) struct Read {
    pub(super) resources: BTreeMap<Id, Resource>,
    pub(super) warnings: Vec<String>,
}

/// Puts the manifests of a request into force.
pub(in crate::daemon) async fn apply(
    shared: &Arc<Shared>,
    body: Vec<u8>,
    dry_run: bool,
) -> Result<Value, String> {
    let read = tokio::task::spawn_blocking(move || read(&body, "nothing was applied"))
        .await
        .map_err(|e| e.to_string())??;
    let _turn = shared.resources.turn.lock().await;
    let plan = blocking(|| {
        let config = lock(&shared.core).config.clone();
        let catalog = lock(&shared.resources.catalog).clone();
        plan(&catalog, &config, read.resources)
    })?;
    let answer = json!({
        "results": results(&plan.results),
        "warnings": read.warnings,
        "dry_run": dry_run,
    });
    if !dry_run {
        carry(shared, plan).await?;
    }
    Ok(answer)
}

/// Writes what a plan says, and brings it into force.
pub(super) async fn carry(shared: &Arc<Shared>, plan: Plan) -> Result<(), String> {
    if plan.writes.is_empty() {
        return Ok(());
    }
    for (id, result) in plan
        .results
        .iter()
        .filter(|(_, result)| *result != UNCHANGED)
    {
        tracing::info!("{id} {result}");
    }
    blocking(|| shared.resources.keep(plan))?;
    enforce(shared).await
}

pub(super) const UNCHANGED: &str = "unchanged";

pub(super) fn results(results: &[(Id, &'static str)]) -> Vec<Value> {
    let row = |(id, result): &(Id, &'static str)| json!({ "kind": id.kind.singular(), "name": id.name, "result": result });
    results.iter().map(row).collect()
}

/// All resources of a request's body. Mistakes are told each on a line; the last line says that
/// `nothing` was done.
pub(super) fn read(body: &[u8], nothing: &str) -> Result<Read, String> {
    let texts: Vec<Text> =
        serde_json::from_slice(body).map_err(|e| format!("the manifests: {e}"))?;
    if texts.len() > MAX_TEXTS {
        return Err(format!("more than {MAX_TEXTS} manifests; {nothing}"));
    }
    let mut found = Read {
        resources: BTreeMap::new(),
        warnings: Vec::new(),
    };
    let mut lines = String::new();
    let mut places: BTreeMap<Id, String> = BTreeMap::new();
    let mut errors = 0_usize;
    for text in &texts {
        let parsed = manifest::parse(&text.text);
        for mistake in &parsed.mistakes {
            match mistake.level {
                Level::Warning => found.warnings.push(format!("{}:{mistake}", text.name)),
                Level::Error => errors += 1,
            }
        }
        let wrong: Vec<_> = parsed
            .mistakes
            .iter()
            .filter(|m| m.level == Level::Error)
            .cloned()
            .collect();
        lines.push_str(&manifest::render(&wrong, &text.name));
        for new in parsed.resources {
            let (id, place) = (new.resource.id(), format!("{}:{}", text.name, new.line));
            if let Some(first) = places.get(&id) {
                errors += 1;
                lines.push_str(&format!(
                    "{place}: error: {id} is in {first} too; keep one of them\n"
                ));
            } else {
                places.insert(id.clone(), place);
                found.resources.insert(id, new.resource);
            }
        }
    }
    if errors > 0 {
        let mistakes = if errors == 1 { "mistake" } else { "mistakes" };
        return Err(format!("{lines}{errors} {mistakes}; {nothing}"));
    }
    if found.resources.is_empty() {
        // What was left out says why.
        let why = found.warnings.iter().map(|warning| format!("{warning}\n"));
        let why: String = why.collect();
        return Err(format!("{why}the manifests hold no resource; {nothing}"));
    }
    Ok(found)
}

/// What applying these resources does; refused when one of them could not be in force.
pub(super) fn plan(
    catalog: &Catalog,
    config: &Config,
    resources: BTreeMap<Id, Resource>,
) -> Result<Plan, String> {
    let before = catalog.resolve(config);
    let mut plan = Plan {
        catalog: catalog.clone(),
        results: Vec::new(),
        writes: Vec::new(),
    };
    let mut refused = Vec::new();
    for (id, mut resource) in resources {
        let annotations = &mut resource.metadata.annotations;
        annotations.retain(|key, _| !key.starts_with(OWN));
        let elsewhere = before
            .entries
            .get(&id)
            .filter(|entry| entry.origin != Origin::Applied);
        if let Some(entry) = elsewhere {
            // What `get` printed may come back as it is.
            if is_same(&entry.item.resource, &resource) {
                plan.results.push((id, UNCHANGED));
                continue;
            }
            refused.push(format!("{id} is kept in {}: change it there", entry.origin));
            continue;
        }
        let result = match catalog.applied.get(&id) {
            Some(old) if *old.resource == resource => UNCHANGED,
            Some(_) => "configured",
            None => "created",
        };
        if result != UNCHANGED {
            let item = Item::new(resource);
            plan.writes
                .push((id.clone(), Some(Arc::clone(&item.resource))));
            plan.catalog.damaged.remove(&Applied::file(&id));
            plan.catalog.applied.insert(id.clone(), item);
        }
        plan.results.push((id, result));
    }
    if plan.catalog.applied.len() > MOST {
        refused.push(format!("more than {MOST} resources cannot be applied"));
    }
    let after = plan.catalog.resolve(config);
    refused.extend(
        after
            .problems
            .into_iter()
            .filter(|problem| !before.problems.contains(problem)),
    );
    if refused.is_empty() {
        return Ok(plan);
    }
    refused.push("nothing was applied".to_owned());
    Err(refused.join("\n"))
}

/// The same but for annotations of feedgate's own.
fn is_same(there: &Resource, new: &Resource) -> bool {
    let own = |key: &String| key.starts_with(OWN);
    let mut there = there.clone();
    there.metadata.annotations.retain(|key, _| !own(key));
    there == *new
}

impl Resources {
    /// Writes the files of a plan, then takes its catalog. When a file cannot be written, it and those
    /// before it are put back. Of who is killed in between the next start does the rest.
    pub(super) fn keep(&self, plan: Plan) -> Result<(), String> {
        let text = |(id, resource): &(Id, Option<Arc<Resource>>)| {
            (id.clone(), resource.as_ref().map(|it| it.to_yaml()))
        };
        let changes: Vec<(Id, Option<String>)> = plan.writes.iter().map(text).collect();
        self.applied
            .begin(&changes)
            .map_err(|e| format!("nothing was changed: {e}"))?;
        for (at, (id, text)) in changes.iter().enumerate() {
            if let Err(e) = self.write(id, text.as_deref()) {
                // It may be there all the same: the rename went well, what comes after it did not.
                self.put_back(changes.iter().take(at + 1).map(|(id, _)| id));
                return Err(format!("nothing was changed: {id}: {e}"));
            }
        }
        // What stays written down is done once more by the next change or start, which changes nothing.
        if let Err(e) = self.applied.end() {
            tracing::warn!("{e}");
        }
        *lock(&self.catalog) = plan.catalog;
        Ok(())
    }

    fn put_back<'a>(&self, done: impl Iterator<Item = &'a Id>) {
        let before = lock(&self.catalog).clone();
        let old = |id: &Id| before.applied.get(id).map(|item| item.resource.to_yaml());
        let old: Vec<(Id, Option<String>)> = done.map(|id| (id.clone(), old(id))).collect();
        let turned = self.applied.turn_back(&old);
        let mut whole = true;
        for (id, text) in &old {
            if let Err(e) = self.write(id, text.as_deref()) {
                whole = false;
                tracing::error!("{id} cannot be put back as it was: {e}");
            }
        }
        let knows_the_way = turned.is_ok();
        // Else what is written down is the way back: the next change or start goes it to its end.
        let left = if whole { self.applied.end() } else { turned };
        match left {
            Err(e) if knows_the_way => tracing::warn!("{e}"),
            Err(e) => {
                tracing::error!("what was not applied may be in force after a restart: {e}");
            }
            Ok(()) => {}
        }
    }

    fn write(&self, id: &Id, text: Option<&str>) -> Result<(), String> {
        let done = match text {
            Some(text) => self.applied.save(id, text),
            None => self.applied.remove(id).map(|_| ()),
        };
        done.map_err(|e| e.to_string())
    }
}
