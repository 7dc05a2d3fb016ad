//! What is done every few seconds: summaries, addresses that are never blocked, the table's health.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use tokio::time::{MissedTickBehavior, interval};

use super::{Shared, elements, engine::lock, found, hostname, include, start, watchdog::Terms};
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
/// How long a turn waits for it; what comes later is taken by a later turn.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a reload waits for it.
pub(super) const LONGEST_LOOK: Duration = Duration::from_secs(10);
/// And the start, which knows nothing of the host without it.
pub(super) const FIRST_LOOK: Duration = Duration::from_secs(60);
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
    let mut look = None;
    loop {
        tokio::select! {
            _ = summaries.tick() => {
                shared.lasting.housekeeping.beat(Instant::now());
                shared.path.summaries(Instant::now());
                let (keeper, path) = (Arc::clone(&shared.keeper), Arc::clone(&shared.path));
                // Not waited for: a disk that does not answer must not stop the timers.
                drop(tokio::task::spawn_blocking(move || keeper.keep(&path)));
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
                // One that hangs is no reason for another, and the rest goes on without it.
                if look.is_none() && (resolve || Instant::now() >= next_look) {
                    let config = config.clone();
                    look = Some(tokio::spawn(look_for_exceptions(Arc::clone(shared), config, resolve)));
                }
                let found = match &mut look {
                    Some(task) => tokio::time::timeout(PATIENCE, task).await.ok(),
                    None => None,
                };
                if let Some(found) = &found {
                    look = None;
                    let took = found.as_ref().map_or(Duration::ZERO, |(_, took)| *took);
                    next_look = Instant::now() + took.saturating_sub(LOOK) * SHARE;
                }
                let exceptions = found.and_then(Result::ok).and_then(|(found, _)| found);
                let shared = Arc::clone(shared);
                let work = move || {
                    health(&shared, exceptions);
                    found::look(&shared);
                    hostname::follow(&shared, &config);
                    elements::keep(&shared, false);
                };
                let _ = tokio::task::spawn_blocking(work).await;
            }
        }
    }
}

/// Looks for what is never blocked, and how long the host's own part of that took.
async fn look_for_exceptions(
    shared: Arc<Shared>,
    config: Config,
    resolve: bool,
) -> (Option<Found>, Duration) {
    if resolve {
        let found = ask_for_exceptions(&shared, &config).await;
        return (found.map(|found| (config, found)), Duration::ZERO);
    }
    let work = move || {
        let begin = Instant::now();
        let found = own_exceptions(&shared, &config.exceptions);
        (Some((config, found)), begin.elapsed())
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_default()
}

/// Exceptions, and the configuration that they are of.
type Found = (Config, Vec<Exception>);

/// Puts the table back if it is gone, and takes new host addresses into account.
fn health(shared: &Shared, found: Option<Found>) {
    let mut core = lock(&shared.core);
    if shared.down.load(Ordering::Relaxed) {
        return;
    }
    // A look may have begun before a reload.
    let found = found.filter(|(config, _)| *config == core.whole_config());
    let moved = found.is_some_and(|(_, exceptions)| core.take_exceptions(exceptions));
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

/// Everything that is never blocked: configuration, files, host, servers. `None` when the host does not
/// say within `limit`: then what is known goes on.
pub(super) async fn find_exceptions(
    shared: &Arc<Shared>,
    config: &Config,
    limit: Duration,
) -> Option<Vec<Exception>> {
    let found = tokio::time::timeout(limit, ask_for_exceptions(shared, config)).await;
    found.unwrap_or_else(|_| {
        tracing::warn!(
            "the look for addresses that are never blocked takes longer than {} s: those known stay \
             excepted, new ones are not yet",
            limit.as_secs()
        );
        None
    })
}

/// What is known without a look at the host.
pub(super) fn known_exceptions(shared: &Shared, config: &Config) -> Vec<Exception> {
    let configured = config.exceptions.prefixes.iter();
    let configured = configured.map(|prefix| start::configured(*prefix));
    let known = if config.exceptions.own_addresses {
        shared.store.exceptions()
    } else {
        Vec::new()
    };
    configured.chain(known).collect()
}

async fn ask_for_exceptions(shared: &Arc<Shared>, config: &Config) -> Option<Vec<Exception>> {
    let mut servers = Vec::new();
    let (mut unresolved, mut failed) = (false, false);
    if config.exceptions.own_addresses {
        let found = addresses::servers(config, &addresses::Roots::default(), RESOLVE).await;
        start::warn_of_news(&found.problems, &mut lock(&shared.lifelines_told));
        unresolved = found.problems.iter().any(LifelineError::is_of_a_name);
        failed = found.problems.iter().any(LifelineError::is_of_a_failure);
        servers = found.exceptions;
    }
    let (shared, exceptions) = (Arc::clone(shared), config.exceptions.clone());
    let work = move || {
        {
            let mut core = lock(&shared.core);
            if failed {
                // A name that does not resolve now still is where it was, or one in a file that cannot be read.
                let old = std::mem::take(&mut core.servers).into_iter();
                let old = old.filter(|server| !servers.contains(server));
                let room = MOST_SERVERS.saturating_sub(servers.len());
                let old: Vec<Exception> = old.take(room).collect();
                servers.extend(old);
                servers.sort();
            }
            (core.servers, core.unresolved) = (servers, unresolved);
        }
        own_exceptions(&shared, &exceptions)
    };
    tokio::task::spawn_blocking(work).await.ok()
}

/// The same with the servers' addresses as they were resolved last.
fn own_exceptions(shared: &Shared, config: &config::Exceptions) -> Vec<Exception> {
    let pulse = shared.pulses.begin("the look for exceptions", Terms::LOOK);
    let found = addresses::files(&config.files);
    // The state has a pulse of its own.
    pulse.rest();
    let (files, servers) = {
        let mut core = lock(&shared.core);
        (core.take_files(found), core.servers.clone())
    };
    pulse.beat(Instant::now());
    let guarded = if config.own_addresses {
        let mut ssh = lock(&shared.ssh);
        if let Err(problem) = ssh.look("/proc".as_ref(), Uptime::now(), &shared.helpers.look) {
            tracing::warn!("{problem}");
        }
        [servers, ssh.exceptions()].concat()
    } else {
        servers
    };
    let mut look = lock(&shared.own_look);
    start::exceptions(config, files, guarded, &mut look)
}
