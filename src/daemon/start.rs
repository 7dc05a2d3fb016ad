//! What happens once at the start: configuration, capabilities, kernel, queues, threads.

use std::{
    path::Path as FilePath,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::sync_channel,
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use caps::{CapSet, Capability};

use super::{
    RunError, Shared, core::Core, engine::Engine, lastgood, live, pressure::Pressure, resources,
    status, watchdog::Terms,
};
use crate::{
    alert::{ecs::Observer, line::Identity, suppress::Policy},
    alertdb::AlertDb,
    attribution::{Attributor, Roots},
    config::{self, Config},
    fetch,
    host::{addresses, modes},
    logging,
    nft::{Kernel, NftError, QueueKind, TableState, Watch},
    prefix::Prefix,
    pulse::Pulse,
    queue::{MarkBits, Queue, QueueError},
    ruleset::Options,
    snapshot::{Exception, ExceptionKind},
    store::Store,
};

/// Why an address of the configuration is an exception.
pub(super) const CONFIGURED: &str = "exceptions.prefixes";

/// Reads and checks the configuration; loose files go to the log, mistakes into the error.
pub(super) fn read_config(file: &FilePath) -> Result<Config, RunError> {
    let bytes = std::fs::read(file).map_err(|e| {
        RunError::Config(format!(
            "cannot read {}: {e}; name another file with --config",
            file.display()
        ))
    })?;
    let origin = file.display().to_string();
    let text = config::decode(bytes, &origin).map_err(RunError::Config)?;
    let outcome = config::parse(&text, &origin);
    for warning in outcome.warnings(&origin) {
        tracing::warn!("{warning}");
    }
    match outcome.config {
        Some(config) => {
            let headers = fetch::loose_headers(&config.feeds);
            for warning in headers.into_iter().chain(modes::loose(file, &config)) {
                tracing::warn!("{warning}");
            }
            Ok(config)
        }
        None => Err(RunError::Config(config::render(
            &outcome.diagnostics,
            &text,
            &origin,
            false,
        ))),
    }
}

/// Has the log show what the configuration and the environment say.
pub(super) fn set_log_level(config: &Config) {
    if let Err(e) = logging::configure(config.daemon.log_level) {
        tracing::warn!("the log goes on as it is: {e}");
    }
}

/// CAP_NET_ADMIN is a must; what attribution needs is worth a warning.
pub(super) fn check_capabilities() -> Result<(), RunError> {
    need_net_admin()?;
    let wanted = [
        (
            Capability::CAP_SYS_PTRACE,
            "open files of other users' processes stay hidden: many flows have no pid",
        ),
        (
            Capability::CAP_DAC_READ_SEARCH,
            "open files of other users' processes stay hidden: many flows have no pid",
        ),
    ];
    for (capability, effect) in wanted {
        if !has(capability) {
            tracing::warn!("{capability} is missing: {effect}");
        }
    }
    // A choice of the unit's, not a mistake; the first flow that it matters to is worth the warning.
    if !has(Capability::CAP_SYS_ADMIN) {
        tracing::info!(
            "network namespaces cannot be entered: containers are named, their processes not \
             (CAP_SYS_ADMIN; the pod profile of the unit has it)"
        );
    }
    Ok(())
}

/// CAP_NET_ADMIN, without which nothing can be done.
pub(super) fn need_net_admin() -> Result<(), RunError> {
    if has(Capability::CAP_NET_ADMIN) {
        return Ok(());
    }
    Err(RunError::Permission(
        "CAP_NET_ADMIN is missing: nftables sets and packet queues need it. \
         Run feedgate as root, or as a service with AmbientCapabilities=CAP_NET_ADMIN"
            .into(),
    ))
}

fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

/// Opens nf_tables, refuses somebody else's table, binds the queues.
pub(super) fn open_kernel(config: &Config) -> Result<(Kernel, Vec<Queue>), RunError> {
    let nftables = &config.nftables;
    // First of all netlink sockets: each queue looks for its own among the new ones.
    let queues: Result<Vec<Queue>, QueueError> = (0..nftables.queue_count)
        .filter_map(|i| nftables.queue_first.checked_add(i))
        .map(|number| Queue::open(number, nftables.queue_max_len, nftables.on_queue_full))
        .collect();
    let kernel = Kernel::open(Options::new(nftables))?;
    kernel.may_touch(&kernel.table_state()?)?;
    match kernel.queue_kind() {
        _ if nftables.mode == config::Mode::Include => tracing::info!(
            "mode include: the sets of table {} {} are filled",
            nftables.family,
            nftables.table
        ),
        QueueKind::Missing => {
            tracing::error!(
                "no packet can be attributed: {}. Deny sets are enforced all the same",
                QueueKind::Missing.as_str()
            );
        }
        kind => tracing::info!("packets are queued by the {}", kind.as_str()),
    }
    Ok((kernel, queues?))
}

/// Listens for what others do to the table. Without it the table is looked at every few seconds.
pub(super) fn watch(kernel: &mut Kernel) -> Option<Watch> {
    if kernel.owns() {
        tracing::info!("nobody else can change the table while this daemon runs");
    }
    kernel
        .watch()
        .inspect_err(|e| tracing::error!("{e}; a removed table is noticed only after seconds"))
        .ok()
}

/// Takes up the last good data of feeds as [`recall_feeds`] does, and says what is stored of others.
pub(super) fn recall(core: &mut Core, store: &Store) {
    recall_feeds(core, store);
    match store.names() {
        Ok(names) => {
            for name in names.iter().filter(|name| !core.feeds.contains_key(*name)) {
                tracing::info!("there are stored data of {name}, which is no longer configured");
            }
        }
        Err(e) => tracing::warn!("{e}"),
    }
}

/// Takes up the last good data of feeds that have none yet, or none of their present configuration.
pub(super) fn recall_feeds(core: &mut Core, store: &Store) {
    for state in core
        .feeds
        .values_mut()
        .filter(|state| state.config.enabled && (state.data.is_none() || state.of_before))
    {
        let now = std::time::SystemTime::now();
        if let Some(recalled) = lastgood::recall(store, &state.config, now) {
            state.of_before = false;
            state.last_success = Some(recalled.data.pulled);
            state.data = Some(Arc::new(recalled.data));
            if state.is_expired(now) {
                tracing::warn!(
                    "feed {}: the last good data are older than expire-after and are not used",
                    state.config.name
                );
                state.data = None;
                continue;
            }
            state.validators = recalled.validators;
        } else if state.of_before {
            tracing::info!(
                "feed {}: what is in force stays until there are data of the new configuration",
                state.config.name
            );
        }
    }
}

/// The table before the first pull: what the last good data give. A table that an earlier daemon
/// left stays as it is until there is data: its deny sets must not be lost to an empty start.
pub(super) fn first_table(core: &mut Core) -> Result<(), NftError> {
    let waits = |feed: &super::core::FeedState| {
        feed.config.enabled && feed.config.url.is_some() && feed.data.is_none()
    };
    let missing = core.feeds.values().any(waits);
    // Before any pull: what the last good data deny denied before.
    core.settle_arming();
    core.settle_rails();
    if missing && core.arming.was_pending() {
        tracing::warn!(
            "the last run ended before `feedgate deny` was confirmed: its table does not stay in force"
        );
    } else if missing && core.kernel.table_state()? == TableState::Ours {
        tracing::warn!("no good data of some feed yet: the table of the last run stays in force");
        core.inherited = true;
        return Ok(());
    }
    core.install()
}

/// What a look at the host leaves to the next one.
#[derive(Default)]
pub(super) struct OwnLook {
    answers: addresses::Answers,
    /// What was said to be wrong.
    told: Vec<String>,
}

impl OwnLook {
    /// The first look of this run: what cannot be looked at is as an earlier run `knew` it.
    pub(super) fn first(knew: Vec<Exception>) -> Self {
        Self {
            answers: addresses::Answers::known(knew, &addresses::Roots::default()),
            told: Vec::new(),
        }
    }
}

/// Exceptions of the configuration and of the host. What could not be found out is as it was at the `last`
/// look, and is told if it was not told then.
pub(super) fn exceptions(
    config: &config::Exceptions,
    files: Vec<Exception>,
    servers: Vec<Exception>,
    last: &mut OwnLook,
) -> Vec<Exception> {
    let mut all: Vec<Exception> = config.prefixes.iter().copied().map(configured).collect();
    all.extend(files);
    if config.own_addresses {
        let own = addresses::own(&addresses::Roots::default(), &mut last.answers);
        warn_of_news(&own.problems, &mut last.told);
        all.extend(own.exceptions);
        all.extend(servers);
    }
    all.sort();
    all.dedup();
    all
}

/// An exception of the configuration.
pub(super) fn configured(prefix: Prefix) -> Exception {
    Exception {
        kind: ExceptionKind::Configured,
        prefix,
        why: CONFIGURED.into(),
    }
}

/// Warns of what was not `told` at the last look.
pub(super) fn warn_of_news(problems: impl IntoIterator<Item: ToString>, told: &mut Vec<String>) {
    let problems = problems.into_iter().map(|problem| problem.to_string());
    let problems: Vec<String> = problems.collect();
    for problem in problems.iter().filter(|problem| !told.contains(problem)) {
        tracing::warn!("{problem}");
    }
    *told = problems;
}

/// What only a restart can change keeps its old value, with a warning.
pub(super) fn keep_what_needs_a_restart(old: &Config, mut new: Config) -> Config {
    let keep = |what: &str, changed: bool| {
        if changed {
            tracing::warn!("{what} changed: this takes effect after a restart");
        }
        changed
    };
    // The level of the log follows at once.
    let log_level = new.daemon.log_level;
    new.daemon.log_level = old.daemon.log_level;
    if keep("[daemon]", old.daemon != new.daemon) {
        new.daemon = old.daemon.clone();
    }
    new.daemon.log_level = log_level;
    let queues = |n: &config::Nftables| {
        (
            (n.mode, n.family.clone(), n.table.clone()),
            n.queue_first,
            n.queue_count,
            n.queue_max_len,
            n.on_queue_full,
            n.mark_mask,
        )
    };
    if keep(
        "[nftables] mode, table, queue or mark",
        queues(&old.nftables) != queues(&new.nftables),
    ) {
        let deny_with = new.nftables.deny_with;
        let hooks = std::mem::take(&mut new.nftables.hooks);
        let nat64_prefixes = std::mem::take(&mut new.nftables.nat64_prefixes);
        new.nftables = config::Nftables {
            deny_with,
            hooks,
            nat64_prefixes,
            ..old.nftables.clone()
        };
    }
    if keep("[attribution]", old.attribution != new.attribution) {
        new.attribution = old.attribution.clone();
    }
    new
}

/// When alerts are not sent one by one.
pub(super) fn policy(alerts: &config::Alerts) -> Policy {
    Policy {
        window: alerts.suppress,
        scan_after: alerts.scan_after,
        rate_limit: alerts.rate_limit,
        rate_limit_ingress: alerts.rate_limit_ingress,
    }
}

/// Who the alerts come from.
pub(super) fn identity() -> Identity {
    let hostname = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok());
    Identity {
        hostname: hostname.unwrap_or_else(|| "localhost".into()),
        pid: std::process::id(),
        app: "feedgate".into(),
    }
}

/// Opens the store of alerts, where one is configured.
pub(super) fn alert_db(config: &Config) -> Result<Option<Arc<AlertDb>>, RunError> {
    let store = &config.alerts.store;
    let Some(name) = &store.file else {
        return Ok(None);
    };
    let observer = Observer::of(identity().hostname);
    let path = config.daemon.state_dir.join(name);
    let db = AlertDb::start(&path, store, observer).map_err(|source| RunError::System {
        step: "starting the thread of the alert store".into(),
        source,
    })?;
    Ok(Some(Arc::new(db)))
}

/// The queue threads.
pub(super) struct Threads {
    stop: Arc<AtomicBool>,
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    pub(super) fn spawn(shared: &Arc<Shared>, queues: Vec<Queue>) -> Result<Self, RunError> {
        let (options, attribution, max_len) = {
            let core = super::lock(&shared.core);
            (
                core.kernel.options().clone(),
                core.config.attribution.clone(),
                core.config.nftables.queue_max_len,
            )
        };
        let marks = MarkBits {
            mask: options.mark_mask,
            allow: options.allow_bit(),
            deny: options.deny_bit(),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let mut handles = Vec::new();
        for queue in queues {
            let number = queue.number();
            let (roots, timeout) = (Roots::default(), attribution.timeout);
            let attributor = Attributor::with(&roots, timeout, &shared.helpers)?
                .with_clients(&attribution.clients);
            let pressure = Pressure::new(FilePath::new(status::QUEUES), number, max_len);
            let pulse = Arc::new(Pulse::new(Instant::now()));
            if queue.turns() {
                let terms = Terms::queue(attribution.timeout);
                shared
                    .pulses
                    .watch(format!("queue {number}"), &pulse, terms);
            }
            let engine = Engine::new(Arc::clone(&shared.path), attributor, pressure, pulse);
            let (stop, quit, failed) = (Arc::clone(&stop), shared.stop.clone(), Arc::clone(shared));
            let work = move || {
                if let Err(e) = queue.run(marks, &stop, engine) {
                    tracing::error!("{e}; the daemon stops, deny sets stay in force");
                    *super::lock(&failed.failure) = Some(e.to_string());
                    let _ = quit.blocking_send(());
                }
            };
            let thread = thread::Builder::new()
                .name(format!("queue-{number}"))
                .spawn(work);
            handles.push(thread.map_err(|source| RunError::System {
                step: "starting a queue thread".into(),
                source,
            })?);
        }
        Ok(Self { stop, handles })
    }

    /// Starts one more thread; it looks at its argument now and then and ends when that says so.
    pub(super) fn add(
        &mut self,
        name: &str,
        work: impl FnOnce(&AtomicBool) + Send + 'static,
    ) -> Result<(), RunError> {
        let stop = Arc::clone(&self.stop);
        let thread = thread::Builder::new().name(name.to_owned());
        let thread = thread.spawn(move || work(&stop));
        self.handles.push(thread.map_err(|source| RunError::System {
            step: format!("starting the thread {name}"),
            source,
        })?);
        Ok(())
    }

    /// Starts the search of live flows, and tells it of each change from now on.
    pub(super) fn add_live(&mut self, shared: &Arc<Shared>) -> Result<(), RunError> {
        let (changed, changes) = sync_channel(1);
        let timeout = {
            let mut core = super::lock(&shared.core);
            core.changed = Some(changed);
            core.config.attribution.timeout
        };
        let attributor = Attributor::with(&Roots::default(), timeout, &shared.helpers)?;
        let shared = Arc::clone(shared);
        self.add("live-flows", move |stop| {
            live::run(&shared, &changes, attributor, stop);
        })
    }

    /// Starts to watch the folder of manifests.
    pub(super) fn add_manifests(&mut self, shared: &Arc<Shared>) -> Result<(), RunError> {
        let (shared, runtime) = (Arc::clone(shared), tokio::runtime::Handle::current());
        self.add("manifests", move |stop| {
            resources::run(&shared, &runtime, stop)
        })
    }

    /// Lets the threads answer what is still held, and ends them.
    pub(super) fn join(self) {
        self.stop.store(true, Ordering::Relaxed);
        for handle in self.handles {
            let _ = handle.join();
        }
    }
}
