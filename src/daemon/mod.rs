//! The daemon: wires the stages together, runs until it is told to stop.
//!
//! Threads: one for each queue (never blocked by anything below), the asynchronous runtime for
//! pulls, timers and the control socket, and the sinks' own.

mod abilities;
mod alerts;
mod arming;
mod arrivals;
mod boot;
mod confine;
mod core;
mod elements;
mod engine;
mod exposition;
mod flow_log;
mod flows;
mod found;
mod glance;
mod hand_over;
mod handler;
mod heal;
mod hostname;
mod housekeeping;
mod include;
mod intake;
mod journal;
mod judge;
mod lastgood;
mod live;
mod lookup;
mod meters;
mod notices;
#[cfg(test)]
mod policed;
mod policing;
mod pressure;
mod pulls;
mod rails;
mod reading;
mod reload;
mod resources;
mod selftest;
mod serving;
mod start;
mod status;
mod tally;
mod transition;
mod unroot;
mod view;
mod waiting;
mod watchdog;

use std::{
    ops::Range,
    path::{Path as FilePath, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, mpsc},
    time::{MissedTickBehavior, interval},
};

use self::{
    core::Core,
    housekeeping::{FIRST_LOOK, find_exceptions, housekeeping, known_exceptions},
    reload::{look_at_recalled, reload},
};
use crate::{
    alert::daily::Daily,
    config::{self, Config, Mode},
    control,
    feed::FeedName,
    fetch,
    helper::Helpers,
    host::{self, addresses},
    nft::NftError,
    queue::QueueError,
    sink::{SinkError, Sinks},
    store::{Store, StoreError},
};
pub use boot::{Loaded, load};
use engine::{Path, lock};
use flow_log::FlowLog;
pub use flow_log::FlowLogStatus;
pub use pulls::jittered;
pub(crate) use resources::{Checked as CheckedManifests, CheckedFile, check as check_manifests};
pub use selftest::{Order as SelftestOrder, Probe as SelftestProbe, probe as selftest_probe};
pub use status::{FeedStatus, Status};

/// How long the first pulls may hold back the ready message (DESIGN.md section 4).
const FIRST_PULLS: Duration = Duration::from_secs(10);
/// How long sinks may take to send what is queued when the daemon stops.
const FLUSH: Duration = Duration::from_secs(3);

/// Why the daemon did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration has mistakes; the text shows them all.
    #[error("{0}")]
    Config(String),
    /// A capability is missing.
    #[error("{0}")]
    Permission(String),
    /// nf_tables.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// A queue.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Alerts.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] control::ServerError),
    /// Pulling feeds.
    #[error(transparent)]
    Fetch(#[from] fetch::FetchError),
    /// Attribution.
    #[error(transparent)]
    Attribution(#[from] crate::attribution::AttributionError),
    /// The state folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The daemon could not go on.
    #[error("{0}")]
    Stopped(String),
    /// Something of the operating system.
    #[error("{step}: {source}")]
    System {
        /// What was being done.
        step: String,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// Why the daemon ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// SIGTERM or SIGINT: the deny sets stay in force.
    Stopped,
    /// `feedgate down`: the table is removed, and should stay so.
    Down,
}

/// What everything outside the packet path shares.
struct Shared {
    core: Mutex<Core>,
    /// A copy of what is shown of `core`, while that is busy.
    desk: Arc<glance::Desk>,
    path: Arc<Path>,
    client: ArcSwap<fetch::Client>,
    store: Store,
    resources: resources::Resources,
    /// What `sets.nft` holds.
    elements: Mutex<elements::Written>,
    config_file: PathBuf,
    started: SystemTime,
    /// What alerts call this host.
    hostname: Mutex<String>,
    /// What this kernel gives.
    abilities: abilities::Abilities,
    /// Threads for what another process may hold up.
    helpers: Helpers,
    /// Which loops answer.
    pulses: watchdog::Pulses,
    lasting: watchdog::Lasting,
    /// What journald keeps of the alerts.
    journal: Mutex<journal::Journal>,
    /// Numbers of the packet queues.
    queues: Range<u32>,
    /// The first pulls have ended, good or not.
    ready: AtomicBool,
    /// Whom the control socket lets in.
    door: Arc<control::Door>,
    /// A first pull has ended.
    progress: Notify,
    pulls: Mutex<pulls::Tasks>,
    /// One feed whose update killed the daemon once is read at a time.
    suspects: Arc<tokio::sync::Mutex<()>>,
    /// The self-test.
    selftest: Mutex<selftest::Place>,
    /// What means something else since an upgrade, told by this run.
    notices: Vec<&'static str>,
    /// What was said to be wrong with the addresses of servers.
    lifelines_told: Mutex<Vec<String>>,
    /// The last look at the host itself.
    own_look: Mutex<start::OwnLook>,
    /// Keeps what waits in memory.
    keeper: Arc<waiting::Keeper>,
    /// Who is logged in by SSH.
    ssh: Mutex<addresses::SshPeers>,
    /// Where metrics are served.
    listening: Mutex<serving::Listening>,
    /// Set by `down`: the table is to go.
    down: AtomicBool,
    stop: mpsc::Sender<()>,
    /// Why the daemon cannot go on.
    failure: Mutex<Option<String>>,
}

impl Shared {
    /// Watches over the threads that do what another process may hold up.
    fn watch_helpers(&self) {
        for helper in self.helpers.all() {
            let (name, helper) = (format!("helper {}", helper.name()), helper.clone());
            let since = move || helper.stuck_since();
            self.pulses.ask(name, watchdog::Terms::HELPER, since);
        }
    }

    /// Watches over the threads of sinks, store and flow log that are in force now, and over journald.
    fn watch_targets(&self, alerts: &config::Alerts) {
        *lock(&self.journal) = journal::Journal::of(alerts, &host::journal::Roots::default());
        let path = &self.path;
        let sinks = path.sinks.load().pulses().into_iter();
        let store = path.db.load().as_ref().map(|db| db.pulse());
        let store = store.map(|pulse| ("the alert store".to_owned(), pulse));
        let log = path.flow_log.load().as_ref().map(|log| log.pulses());
        for (name, pulse) in sinks.chain(store).chain(log.into_iter().flatten()) {
            self.pulses.watch(name, &pulse, watchdog::Terms::TARGET);
        }
    }
}

/// Runs the daemon with the configuration in `config_file` until SIGTERM, SIGINT or `down`.
pub fn run(config_file: &FilePath) -> Result<Ended, RunError> {
    let config = start::read_config(config_file)?;
    start::set_log_level(&config);
    start::check_capabilities()?;
    unroot::leave_root(config_file, &config);
    // Before the first thread, so that each has it. The self-test of the start runs a program.
    if !config.daemon.selftest {
        confine::confine();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("feedgate-async")
        .enable_all()
        .build()
        .map_err(|source| RunError::System {
            step: "starting the runtime".into(),
            source,
        })?;
    let result = runtime.block_on(serve(config, config_file));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn serve(config: Config, config_file: &FilePath) -> Result<Ended, RunError> {
    let signals = Signals::new()?;
    let store = Store::open(&config.daemon.state_dir)?;
    let notices = notices::due(&store);
    let resources = resources::Resources::open(&config)?;
    let (mut kernel, queues) = start::open_kernel(&config)?;
    let abilities = abilities::Abilities::find(&kernel, &queues);
    tracing::info!("{abilities}");
    // Another program's table is that program's to change.
    let own = config.nftables.mode == Mode::Own;
    let watch = own.then(|| start::watch(&mut kernel)).flatten();
    // Its file goes last of all.
    let server = Arc::new(control::Server::bind(&config.daemon.control_socket)?);
    let identity = start::identity();
    let hostname = Mutex::new(identity.hostname.clone());
    let sinks = Sinks::open(&config.alerts, identity, Some(&config.daemon.state_dir))?;
    let path = Arc::new(Path::new(sinks, start::policy(&config.alerts)));
    let flow_log = FlowLog::start(&config.alerts.flow_log)?;
    path.flow_log.store(flow_log.map(Arc::new));
    path.db.store(start::alert_db(&config)?);
    path.durable.store(config.alerts.durable, Ordering::Relaxed);
    let client = fetch::Client::new(config.pull.clone())?;
    let (stop, stopped) = mpsc::channel(1);
    let keeper = waiting::Keeper::new(&config.daemon.state_dir);
    let mut core = Core::new(config, kernel, Arc::clone(&path));
    core.take_resources(resources.resolve(&core.config));
    let pulses = watchdog::Pulses::new(Instant::now());
    let own_look = start::OwnLook::first(store.exceptions());
    let shared = Arc::new(Shared {
        desk: Arc::clone(&core.desk),
        path,
        client: ArcSwap::from_pointee(client),
        store,
        resources,
        elements: Mutex::default(),
        config_file: config_file.to_owned(),
        started: SystemTime::now(),
        hostname,
        abilities,
        helpers: Helpers::default().with_host(addresses::file_helper()),
        lasting: watchdog::Lasting::new(&pulses),
        pulses,
        journal: Mutex::default(),
        queues: status::numbers(core.kernel.options()),
        ready: AtomicBool::new(false),
        door: server.door(),
        progress: Notify::new(),
        pulls: Mutex::default(),
        suspects: Arc::default(),
        selftest: Mutex::default(),
        notices,
        lifelines_told: Mutex::default(),
        own_look: Mutex::new(own_look),
        keeper: Arc::new(keeper),
        ssh: Mutex::default(),
        listening: Mutex::default(),
        down: AtomicBool::new(false),
        stop,
        failure: Mutex::default(),
        core: Mutex::new(core),
    });
    notices::tell(&shared);
    *lock(&shared.path.found) = Daily::restore(shared.store.alerted());
    let watch_loops = watchdog::Watch::start(&shared)?;
    tokio::spawn(watchdog::turn(Arc::clone(&shared.lasting.runtime)));
    shared.watch_helpers();
    shared.watch_targets(&lock(&shared.core).config.alerts);
    let answering = answer_clients(&shared, Arc::clone(&server));
    let config = lock(&shared.core).whole_config();
    serving::restart(&shared, config.metrics.listen);
    let exceptions = find_exceptions(&shared, &config, FIRST_LOOK).await;
    let exceptions = exceptions.unwrap_or_else(|| known_exceptions(&shared, &config));
    {
        let mut core = lock(&shared.core);
        let _busy = core.busy();
        core.take_exceptions(exceptions);
        core.arming = arming::recall(&shared.store);
        // What was not confirmed is no longer on disk either, then.
        core.arming_changed = core.arming.was_pending();
        start::recall(&mut core, &shared.store);
        core.recall_transition(&shared.store);
        reading::recall(&mut core, &shared.store);
        core.resume_counters(&shared.store);
        waiting::resume(&shared.keeper, &shared.path, core.verdicts());
        start::first_table(&mut core)?;
        core.note_verdicts();
        include::tell(&mut core);
    }
    // What was resumed must not be told again.
    shared.keeper.keep(&shared.path);
    look_at_recalled(&shared);
    let mut threads = start::Threads::spawn(&shared, queues)?;
    if let Some(watch) = watch {
        let shared = Arc::clone(&shared);
        threads.add("watch", move |stop| heal::run(&shared, watch, stop))?;
    }
    threads.add_live(&shared)?;
    threads.add_manifests(&shared)?;
    pulls::restart(&shared);
    tokio::select! {
        () = housekeeping(&shared) => {}
        () = arming::run(&shared) => {}
        () = transition::run(&shared) => {}
        result = main_loop(&shared, signals, stopped) => result?,
    }
    answering.abort();
    watch_loops.stop();
    shut_down(&shared, threads);
    match lock(&shared.failure).take() {
        Some(why) => Err(RunError::Stopped(why)),
        None if shared.down.load(Ordering::Relaxed) => Ok(Ended::Down),
        None => Ok(Ended::Stopped),
    }
}

/// Answers client commands, also while the first table is being loaded.
fn answer_clients(
    shared: &Arc<Shared>,
    server: Arc<control::Server>,
) -> tokio::task::JoinHandle<()> {
    let (shared, accepting) = (Arc::clone(shared), Arc::clone(&shared.lasting.accepting));
    let turn = move || accepting.beat(Instant::now());
    let handle =
        move |caller, request, body| handler::answer(Arc::clone(&shared), caller, request, body);
    tokio::spawn(async move { server.serve(handle, turn).await })
}

/// Reports readiness, then reacts to signals until one says stop.
async fn main_loop(
    shared: &Arc<Shared>,
    mut signals: Signals,
    mut stopped: mpsc::Receiver<()>,
) -> Result<(), RunError> {
    let mut ready = std::pin::pin!(first_pulls(shared));
    let mut is_ready = false;
    let mut turn = interval(Duration::from_secs(1));
    turn.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        shared.lasting.main.beat(Instant::now());
        tokio::select! {
            _ = turn.tick() => {}
            () = ready.as_mut(), if !is_ready => {
                is_ready = true;
                shared.ready.store(true, Ordering::Relaxed);
                let line = one_line(shared);
                tracing::info!("ready: {line}");
                notify(&[NotifyState::Ready, NotifyState::Status(&line)]);
                test_itself(shared);
            }
            _ = signals.hangup.recv() => {
                reload(shared).await;
                // Ready again, as after a start: when the new feeds have been tried too.
                ready.set(first_pulls(shared));
                is_ready = false;
            }
            _ = signals.terminate.recv() => return Ok(()),
            _ = signals.interrupt.recv() => return Ok(()),
            _ = stopped.recv() => return Ok(()),
        }
    }
}

/// Where `[daemon] selftest` asks for it, in the background.
fn test_itself(shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    tokio::task::spawn_blocking(move || {
        let wanted = lock(&shared.core).config.daemon.selftest;
        if wanted {
            selftest::at_start(&shared);
            confine::confine();
        }
    });
}

/// Waits until each first pull has ended, at most [`FIRST_PULLS`].
async fn first_pulls(shared: &Shared) {
    let all = async {
        loop {
            let progress = shared.progress.notified();
            match try_core(shared).map(|core| core.first_pulls_done()) {
                Some(true) => return,
                Some(false) => progress.await,
                // A long load has it: the time limit must not wait for that.
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let _ = tokio::time::timeout(FIRST_PULLS, all).await;
}

/// The state, if nobody is at it right now.
fn try_core(shared: &Shared) -> Option<std::sync::MutexGuard<'_, Core>> {
    match shared.core.try_lock() {
        Ok(core) => Some(core),
        Err(std::sync::TryLockError::Poisoned(core)) => Some(core.into_inner()),
        Err(std::sync::TryLockError::WouldBlock) => None,
    }
}

/// The state in one line; never waits for a long load.
fn one_line(shared: &Shared) -> String {
    let line = try_core(shared).map(|core| core.one_line());
    line.unwrap_or_else(|| "a large feed is being loaded; the last good data are in force".into())
}

/// Stops asking, answers what is held, sends what is queued. Deny sets stay in force, unless `down` was asked for.
fn shut_down(shared: &Arc<Shared>, threads: start::Threads) {
    notify(&[NotifyState::Stopping]);
    lock(&shared.pulls).abort();
    shared.store.stop_reading();
    serving::restart(shared, None);
    let down = shared.down.load(Ordering::Relaxed);
    {
        let mut core = lock(&shared.core);
        if !down {
            core.count_unattributed(&shared.store);
            arming::end(&mut core, &shared.store);
        } else {
            let _ = arming::keep(&mut core, &shared.store, true);
        }
        let sets = core.path.view.current();
        // The rules of an inherited table name sets that the daemon does not know.
        if !down
            && !core.inherited
            && let Err(e) = core.kernel.stop_asking(&sets.sets)
        {
            tracing::warn!(
                "the queue rules stay in the kernel; packets pass them while no daemon listens: {e}"
            );
        }
    }
    threads.join();
    if down {
        live::release_all(lock(&shared.core).config.nftables.cut_mask);
    } else {
        elements::keep(shared, true);
    }
    let told = lock(&shared.path.suppressor).drain(Instant::now());
    shared.path.tell(told);
    if let Some(log) = &*shared.path.flow_log.load() {
        log.close();
    }
    for sink in shared.path.sinks.load().close(FLUSH) {
        if sink.dropped > 0 {
            tracing::warn!(
                "{}: {} alerts could not be delivered",
                sink.name,
                sink.dropped
            );
        }
    }
    if let Some(db) = shared.path.db.load_full() {
        db.close(FLUSH);
    }
    shared.keeper.close();
    tracing::info!(
        "stopped; {}",
        if down {
            "the table is removed (mode include: its sets are emptied)"
        } else {
            "deny sets stay in force"
        }
    );
}

/// Signals that matter, caught from the start.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, RunError> {
        let catch = |kind| {
            signal(kind).map_err(|source| RunError::System {
                step: "catching signals".into(),
                source,
            })
        };
        Ok(Self {
            hangup: catch(SignalKind::hangup())?,
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
        })
    }
}

/// Tells systemd; without systemd nothing happens.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        tracing::debug!("sd_notify: {e}");
    }
}

/// The feeds a name stands for: one, or all enabled ones that are pulled.
fn feeds_named(core: &Core, name: Option<&str>) -> Result<Vec<FeedName>, String> {
    let pulled =
        |state: &&self::core::FeedState| state.config.enabled && state.config.url.is_some();
    let Some(name) = name else {
        return Ok(core
            .feeds
            .values()
            .filter(pulled)
            .map(|state| state.config.name.clone())
            .collect());
    };
    let state = core
        .feeds
        .iter()
        .find(|(key, _)| key.as_str() == name)
        .map(|(_, state)| state);
    match state {
        None => Err(no_such_feed(name, core.feeds.keys().map(FeedName::as_str))),
        Some(state) if !state.config.enabled => Err(format!("feed {name} is not enabled")),
        Some(state) if state.config.url.is_none() => {
            Err(format!("feed {name} has no url: it is pushed, not pulled"))
        }
        Some(state) => Ok(vec![state.config.name.clone()]),
    }
}

/// Says which names there are.
fn no_such_feed<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    match known.collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => format!("no feed is named {name}; there is none at all"),
        names => format!("no feed is named {name}; there are {names}"),
    }
}
