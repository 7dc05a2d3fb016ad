//! Manifests in the daemon: kept, resolved, put into force.
//!
//! One change at a time goes through [`Resources::turn`]: an apply, a delete, a change of the folder, a
//! reload. Each ends in [`enforce`]. The locks are taken in this order: turn, core, catalog.

mod apply;
mod catalog;
mod check;
mod delete;
mod folder;
mod get;
mod object;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, atomic::Ordering},
};

use super::{
    Shared, core::Core, engine::lock, find_exceptions, glance::blocking,
    housekeeping::LONGEST_LOOK, intake, pulls, start,
};
use crate::{
    config::Config,
    feed::FeedName,
    fetch,
    resources::{Applied, LastGoodTexts},
    snapshot::Exception,
    store::StoreError,
};
pub(super) use apply::apply;
use catalog::{Catalog, Item};
pub(super) use catalog::{ManifestFeed, Resolved};
pub(crate) use check::{Checked, CheckedFile, check};
pub(super) use delete::delete;
pub(super) use folder::run;
pub(super) use get::get;

/// What is kept of manifests.
#[derive(Debug)]
pub(super) struct Resources {
    /// One change at a time.
    pub(super) turn: tokio::sync::Mutex<()>,
    catalog: Mutex<Catalog>,
    applied: Applied,
    texts: LastGoodTexts,
}

impl Resources {
    /// Takes up what was applied, and what is in the folder.
    pub(super) fn open(config: &Config) -> Result<Self, StoreError> {
        let state = &config.daemon.state_dir;
        let applied = Applied::open(state)?;
        let loaded = applied.load()?;
        let items = loaded
            .resources
            .into_iter()
            .map(|resource| (resource.id(), Item::new(resource)));
        let resources = Self {
            turn: tokio::sync::Mutex::default(),
            catalog: Mutex::new(Catalog {
                applied: items.collect(),
                damaged: loaded.damaged,
                ..Catalog::default()
            }),
            applied,
            texts: LastGoodTexts::open(state)?,
        };
        resources.read_folder(config.manifests.dir.as_deref());
        Ok(resources)
    }

    /// What is in force beside this configuration.
    pub(super) fn resolve(&self, config: &Config) -> Resolved {
        lock(&self.catalog).resolve(config)
    }

    /// The manifests folder that is watched.
    fn dir(&self) -> Option<std::path::PathBuf> {
        lock(&self.catalog).dir.clone()
    }

    /// Reads the folder; true when that changed anything.
    pub(super) fn read_folder(&self, dir: Option<&Path>) -> bool {
        let before = lock(&self.catalog).clone();
        let after = folder::read(&before, &self.texts, dir);
        let changed = folder::differs(&before, &after);
        *lock(&self.catalog) = after;
        changed
    }
}

impl Core {
    /// The configuration with the feeds of manifests.
    pub(super) fn whole_config(&self) -> Config {
        with_feeds(&self.config, self.manifest_feeds.to_vec())
    }

    /// Takes what manifests ask for in place of what they asked for before. The next
    /// [`Core::sync`] brings it into the kernel.
    pub(super) fn take_resources(&mut self, resolved: Resolved) -> Turnover {
        let old: BTreeMap<FeedName, &ManifestFeed> = self
            .manifest_feeds
            .iter()
            .map(|feed| (feed.config.name.clone(), feed))
            .collect();
        let new: BTreeMap<FeedName, &ManifestFeed> = resolved
            .feeds
            .iter()
            .map(|feed| (feed.config.name.clone(), feed))
            .collect();
        let changed = new
            .iter()
            .filter(|(name, feed)| old.get(*name) != Some(*feed));
        let gone = old.keys().filter(|name| !new.contains_key(*name));
        let turnover = Turnover {
            changed: changed.map(|(name, _)| name.clone()).collect(),
            gone: gone.cloned().collect(),
        };
        (self.policies, self.network_sets) = (resolved.policies, resolved.sets);
        self.manifest_feeds = Arc::new(resolved.feeds);
        for problem in resolved
            .problems
            .iter()
            .filter(|p| !self.manifest_problems.contains(p))
        {
            tracing::error!("{problem}");
        }
        self.manifest_problems = resolved.problems;
        self.take_feeds();
        turnover
    }
}

/// Feeds of manifests that came, changed or went.
#[derive(Debug, Default)]
pub(super) struct Turnover {
    /// New ones, and those that are pulled or read in another way.
    pub(super) changed: BTreeSet<FeedName>,
    /// Those that are no more.
    pub(super) gone: BTreeSet<FeedName>,
}

/// A configuration with the feeds of manifests beside its own.
pub(super) fn with_feeds(config: &Config, feeds: Vec<ManifestFeed>) -> Config {
    let mut config = config.clone();
    config
        .feeds
        .extend(feeds.into_iter().map(|feed| feed.config));
    config
}

/// A reload: another configuration, and with it what is in force of manifests. Gives the feeds of
/// manifests that are no more, and of the configuration neither.
pub(super) fn take_config(
    core: &mut Core,
    resources: &Resources,
    new: Config,
) -> BTreeSet<FeedName> {
    let resolved = resources.resolve(&new);
    // Neither without the feeds of the other for a moment: they would lose their data.
    core.config = Config {
        exceptions: core.config.exceptions.clone(),
        ..new.clone()
    };
    let mut turnover = core.take_resources(resolved);
    core.take_config(new);
    turnover.gone.retain(|name| !core.feeds.contains_key(name));
    turnover.gone
}

/// Brings what the catalog says into force; returns when it is in the kernel. The caller has the turn.
async fn enforce(shared: &Arc<Shared>) -> Result<(), String> {
    let whole = blocking(|| {
        let core = lock(&shared.core);
        let feeds = shared.resources.resolve(&core.config).feeds;
        let url = |feed: &ManifestFeed| feed.config.url.clone();
        let urls: Vec<_> = feeds.iter().map(url).collect();
        let same = core.manifest_feeds.iter().map(url).eq(urls);
        (!same).then(|| with_feeds(&core.config, feeds))
    });
    // The server of a new feed is never blocked, whatever the feed says.
    let exceptions = match &whole {
        Some(config) => find_exceptions(shared, config, LONGEST_LOOK).await,
        None => None,
    };
    let own = Arc::clone(shared);
    let work = move || carry_out(&own, exceptions);
    let (turnover, done) = tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| e.to_string())?;
    pulls::follow(shared, &turnover);
    done
}

fn carry_out(
    shared: &Shared,
    exceptions: Option<Vec<Exception>>,
) -> (Turnover, Result<(), String>) {
    let (turnover, done) = {
        let mut core = lock(&shared.core);
        let _busy = core.busy();
        let resolved = shared.resources.resolve(&core.config);
        let feeds: Vec<_> = resolved
            .feeds
            .iter()
            .map(|feed| feed.config.clone())
            .collect();
        let turnover = core.take_resources(resolved);
        let changed = feeds
            .into_iter()
            .filter(|feed| turnover.changed.contains(&feed.name));
        for warning in fetch::loose_headers(&changed.collect::<Vec<_>>()) {
            tracing::warn!("{warning}");
        }
        start::recall_feeds(&mut core, &shared.store);
        if let Some(exceptions) = exceptions {
            core.take_exceptions(exceptions);
        }
        let done = if shared.down.load(Ordering::Relaxed) {
            Ok(())
        } else {
            core.sync()
                .map_err(|e| format!("it is kept, but the kernel does not hold it yet: {e}"))
        };
        (turnover, done)
    };
    forget(shared, &turnover.gone);
    for name in &turnover.changed {
        intake::look(shared, name);
    }
    (turnover, done)
}

/// Removes the stored data of feeds that are no more.
pub(super) fn forget(shared: &Shared, gone: &BTreeSet<FeedName>) {
    for name in gone {
        if let Err(e) = shared.store.remove(name) {
            tracing::warn!("feed {name}: its stored data stay: {e}");
        }
    }
}
