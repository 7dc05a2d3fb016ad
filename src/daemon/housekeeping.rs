//! What is done every few seconds: summaries, addresses that are never blocked, the table's health.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use tokio::time::{MissedTickBehavior, interval};

use super::{Shared, elements, engine::lock, found, hostname, include, start};
use crate::{
    config::{self, Config},
    host::{
        addresses::{self, LifelineError},
        clock::Uptime,
    },
    nft,
    snapshot::Exception,
};

/// How often host addresses, the table and the counters are looked at.
const TICK: Duration = Duration::from_secs(5);
/// How often ended suppression windows are looked for.
const SUMMARIES: Duration = Duration::from_secs(1);
/// Names of servers are resolved again after this many ticks.
const RESOLVE_TICKS: u32 = 60;
/// A name that takes longer to resolve is tried again at the next turn.
const RESOLVE: Duration = Duration::from_secs(2);

/// Answers of before are kept up to that many addresses, while some name does not resolve.
const MOST_SERVERS: usize = 256;

/// What a look at the host's addresses may take at each turn.
const LOOK: Duration = Duration::from_millis(200);
/// What takes longer, as with a million routes, gets a part of the time only: one by this.
const SHARE: u32 = 50;

/// Timers: summaries, host addresses, the table's health.
pub(super) async fn housekeeping(shared: &Arc<Shared>) {
    let mut summaries = interval(SUMMARIES);
    let mut tick = interval(TICK);
    for timer in [&mut summaries, &mut tick] {
        timer.set_missed_tick_behavior(MissedTickBehavior::Skip);
    }
    let mut ticks = 0u32;
    let mut next_look = Instant::now();
    loop {
        tokio::select! {
            _ = summaries.tick() => {
                shared.main.beat(Instant::now());
                shared.path.summaries(Instant::now());
            }
            _ = tick.tick() => {
                ticks = ticks.wrapping_add(1);
                // Away from this thread: signals and the control socket must not wait for a long load.
                let asked = Arc::clone(shared);
                let ask = move || {
                    let core = lock(&asked.core);
                    (core.whole_config(), core.unresolved)
                };
                let Ok((config, unresolved)) = tokio::task::spawn_blocking(ask).await else { continue };
                let resolve = ticks.is_multiple_of(RESOLVE_TICKS) || unresolved;
                let resolved = if resolve { Some(find_exceptions(shared, &config).await) } else { None };
                let looks = Instant::now() >= next_look;
                let shared = Arc::clone(shared);
                let work = move || {
                    let begin = Instant::now();
                    let exceptions = resolved
                        .or_else(|| looks.then(|| own_exceptions(&shared, &config.exceptions)));
                    let took = begin.elapsed();
                    health(&shared, exceptions);
                    found::look(&shared);
                    hostname::follow(&shared, &config);
                    elements::keep(&shared, false);
                    took
                };
                if let (Ok(took), true) = (tokio::task::spawn_blocking(work).await, looks) {
                    next_look = Instant::now() + took.saturating_sub(LOOK) * SHARE;
                }
            }
        }
    }
}

/// Puts the table back if it is gone, and takes new host addresses into account.
fn health(shared: &Shared, exceptions: Option<Vec<Exception>>) {
    let mut core = lock(&shared.core);
    if shared.down.load(Ordering::Relaxed) {
        return;
    }
    let moved = exceptions.is_some_and(|exceptions| core.take_exceptions(exceptions));
    let changed = core.expire_feeds(SystemTime::now()) || moved;
    if let Some(result) = include::health(&mut core, changed) {
        if let Err(e) = result {
            tracing::error!("{e}");
        }
        core.count_unattributed(&shared.store);
        return;
    }
    let result = match core.kernel.table_state() {
        // The listener is faster; this is for a table that went unseen.
        Ok(nft::TableState::Absent) => {
            // Too soon after many repairs: the next turn, or the listener, asks again.
            core.try_heal(&nft::Notice::Unsure, &shared.store)
                .map(|_wait| ())
        }
        Ok(_) if changed => {
            tracing::info!("exceptions or the age of a feed changed: the sets are updated");
            core.sync()
        }
        Ok(_) if core.broken.is_some() => core.install(),
        Ok(_) => Ok(()),
        Err(e) => Err(e),
    };
    if let Err(e) = result {
        tracing::error!("{e}");
    }
    core.count_unattributed(&shared.store);
}

/// Everything that is never blocked: configuration, files, host, servers.
pub(super) async fn find_exceptions(shared: &Arc<Shared>, config: &Config) -> Vec<Exception> {
    let mut servers = Vec::new();
    let mut problems = false;
    if config.exceptions.own_addresses {
        let found = addresses::servers(config, &addresses::Roots::default(), RESOLVE).await;
        start::warn_of_news(&found.problems, &mut lock(&shared.lifelines_told));
        problems = found.problems.iter().any(LifelineError::is_of_a_name);
        servers = found.exceptions;
    }
    let (shared, exceptions) = (Arc::clone(shared), config.exceptions.clone());
    let work = move || {
        {
            let mut core = lock(&shared.core);
            if problems {
                // A name that does not resolve now still is where it was.
                let old = std::mem::take(&mut core.servers).into_iter();
                let old = old.filter(|server| !servers.contains(server));
                let room = MOST_SERVERS.saturating_sub(servers.len());
                let old: Vec<Exception> = old.take(room).collect();
                servers.extend(old);
                servers.sort();
            }
            (core.servers, core.unresolved) = (servers, problems);
        }
        own_exceptions(&shared, &exceptions)
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_default()
}

/// The same with the servers' addresses as they were resolved last.
fn own_exceptions(shared: &Shared, config: &config::Exceptions) -> Vec<Exception> {
    let found = addresses::files(&config.files);
    let (files, servers) = {
        let mut core = lock(&shared.core);
        (core.take_files(found), core.servers.clone())
    };
    let guarded = if config.own_addresses {
        let mut ssh = lock(&shared.ssh);
        if let Err(problem) = ssh.look("/proc".as_ref(), Uptime::now(), &shared.helpers.look) {
            tracing::warn!("{problem}");
        }
        [servers, ssh.exceptions()].concat()
    } else {
        servers
    };
    let mut told = lock(&shared.own_lifelines_told);
    start::exceptions(config, files, guarded, &mut told)
}
