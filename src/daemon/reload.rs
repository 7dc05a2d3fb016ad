//! A new configuration, at SIGHUP.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use sd_notify::NotifyState;

use super::{
    FLUSH, FlowLog, RunError, Shared, engine::lock, glance, housekeeping, intake, notify, pulls,
    resources, serving, start,
};
use crate::{
    config::{self, Config},
    feed::FeedName,
    fetch,
    sink::Sinks,
};

/// SIGHUP: a good configuration replaces the one in force, a broken one is refused.
pub(super) async fn reload(shared: &Arc<Shared>) {
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now());
    notify(&states);
    match start::read_config(&shared.config_file) {
        Ok(config) => {
            start::set_log_level(&config);
            if let Err(e) = take_config(shared, config).await {
                tracing::error!("reload: {e}");
            }
        }
        Err(e) => {
            tracing::error!("the new configuration is refused, the old one stays in force:\n{e}")
        }
    }
}

async fn take_config(shared: &Arc<Shared>, new: Config) -> Result<(), RunError> {
    // Also when [pull] is the same: its CA files may be new.
    let client = fetch::Client::new(new.pull.clone())?;
    let old = glance::blocking(|| lock(&shared.core).config.clone());
    let new = start::keep_what_needs_a_restart(&old, new);
    let flow_log = next_flow_log(shared, &new.alerts.flow_log)?;
    if old.alerts == new.alerts {
        shared.path.sinks.load().reopen();
    } else {
        let identity = start::identity();
        lock(&shared.hostname).clone_from(&identity.hostname);
        let sinks = Arc::new(Sinks::open(
            &new.alerts,
            identity,
            Some(&new.daemon.state_dir),
        )?);
        let policy = start::policy(&new.alerts);
        let told = lock(&shared.path.suppressor).change(policy, Instant::now());
        shared.path.tell(told);
        let old = shared.path.sinks.swap(sinks);
        tokio::task::spawn_blocking(move || old.close(FLUSH));
    }
    take_alert_store(shared, &old, &new)?;
    // Feeds of manifests stay; the folder is read again.
    let _turn = shared.resources.turn.lock().await;
    glance::blocking(|| shared.resources.read_folder(new.manifests.dir.as_deref()));
    let whole = resources::with_feeds(&new, shared.resources.resolve(&new).feeds);
    if let Some(log) = flow_log {
        change_flow_log(shared, log);
    }
    shared.watch_targets(&new.alerts);
    shared.client.store(Arc::new(client));
    serving::restart(shared, new.metrics.listen);
    let rules_change = old.nftables != new.nftables;
    let limit = housekeeping::LONGEST_LOOK;
    let exceptions = housekeeping::find_exceptions(shared, &whole, limit).await;
    let blocking = Arc::clone(shared);
    let synced = tokio::task::spawn_blocking(move || {
        // Members of a group that was made meanwhile may ask, too.
        blocking.door.find_group();
        let mut core = lock(&blocking.core);
        let _busy = core.busy();
        // Feeds and exceptions of the new configuration take effect together.
        core.kernel
            .set_options(crate::ruleset::Options::new(&new.nftables));
        let gone = resources::take_config(&mut core, &blocking.resources, new);
        start::recall(&mut core, &blocking.store);
        if let Some(exceptions) = exceptions {
            core.take_exceptions(exceptions);
        }
        core.look_at_transition();
        let done = if rules_change {
            // The counters of the table that goes.
            core.count_unattributed(&blocking.store);
            core.install()
        } else {
            core.sync()
        };
        drop(core);
        resources::forget(&blocking, &gone);
        done
    });
    let synced = synced.await;
    look_at_recalled(shared);
    pulls::restart(shared);
    match synced {
        Ok(result) => result?,
        Err(e) => {
            return Err(RunError::System {
                step: "reload".into(),
                source: e.into(),
            });
        }
    }
    tracing::info!("configuration reloaded");
    Ok(())
}

/// The flow log of a new configuration; `None`: that of the old one goes on, in its file opened again.
fn next_flow_log(
    shared: &Shared,
    config: &config::FlowLog,
) -> Result<Option<Option<FlowLog>>, RunError> {
    match &*shared.path.flow_log.load() {
        Some(log) if log.is_of(config) => {
            log.flush();
            Ok(None)
        }
        None if config.file.is_none() => Ok(None),
        _ => FlowLog::start(config).map(Some),
    }
}

fn change_flow_log(shared: &Shared, log: Option<FlowLog>) {
    if let Some(old) = shared.path.flow_log.swap(log.map(Arc::new)) {
        tokio::task::spawn_blocking(move || old.close());
    }
}

/// Other bounds, or another store; the old one is closed behind.
fn take_alert_store(shared: &Arc<Shared>, old: &Config, new: &Config) -> Result<(), RunError> {
    let path = &shared.path;
    let (was, is) = (&old.alerts.store, &new.alerts.store);
    if was.file != is.file {
        let old = path.db.swap(start::alert_db(new)?);
        if let Some(old) = old {
            tokio::task::spawn_blocking(move || old.close(FLUSH));
        }
    } else if let Some(db) = path.db.load_full().filter(|_| was != is) {
        db.set_bounds(is);
    }
    path.durable.store(new.alerts.durable, Ordering::Relaxed);
    Ok(())
}

/// Lints, behind the enforcement, what came from disk.
pub(super) fn look_at_recalled(shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    tokio::task::spawn_blocking(move || {
        let names: Vec<FeedName> = lock(&shared.core).feeds.keys().cloned().collect();
        for name in names {
            intake::look(&shared, &name);
        }
    });
}
