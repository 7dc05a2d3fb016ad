//! The daemon's state behind one lock: feeds, exceptions, snapshot, kernel. Not on the packet path.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, atomic::Ordering, mpsc::SyncSender},
    time::{Duration, Instant, SystemTime},
};

use super::{
    arming, engine::Path, glance::Desk, heal::Pace, include, intake::Quarantined, rails::Weighed,
    resources::ManifestFeed, status, transition::InUse,
};
use crate::{
    alert::suppress::ByAction,
    arm::Book,
    config::{self, Config, Mode},
    feed::{FeedData, FeedName, Finding, formats::CrowdsecState},
    fetch::Validators,
    host::{
        addresses::{self, Files},
        clock::Uptime,
    },
    nft::{Applied, Kernel, NftError},
    policy::{NetworkSet, Policies},
    pulse::Pulse,
    ruleset::Counter,
    snapshot::{
        Delta, Exception, FlowReport, Input, Options, Regime, Report, Sets, Snapshot, build, steps,
    },
    store::Store,
};

/// One feed of the configuration or of a manifest, and what is known of it.
#[derive(Debug)]
pub(super) struct FeedState {
    pub(super) config: config::Feed,
    /// It keeps the network set `threatfeed.NAME`.
    pub(super) keeps_set: bool,
    /// The good data in force.
    pub(super) data: Option<Arc<FeedData>>,
    /// They are of another url, or were read in another way: they stay until there are new ones.
    pub(super) of_before: bool,
    pub(super) validators: Option<Validators>,
    pub(super) last_attempt: Option<SystemTime>,
    /// A pull is going on.
    pub(super) pulling: bool,
    pub(super) last_success: Option<SystemTime>,
    pub(super) last_error: Option<String>,
    /// How long the last pull took.
    pub(super) elapsed: Option<Duration>,
    pub(super) next_pull: Option<Uptime>,
    /// Failed pulls in a row.
    pub(super) failures: u32,
    /// Daemons that died in a row while they read its update.
    pub(super) deaths: u32,
    /// Pulls by their result, since the daemon started.
    pub(super) pulls: BTreeMap<&'static str, u64>,
    /// The decisions of a CrowdSec stream; empty for other formats.
    pub(super) stream: CrowdsecState,
    /// Somebody else asked the stream with this daemon's key: the next pull starts it anew.
    pub(super) stream_gap: bool,
    /// One pull at a time: two would each apply only their own delta of a stream.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
    /// Of its pulls.
    pub(super) pulse: Arc<Pulse>,
    /// An update that waits for `feedgate feeds accept`.
    pub(super) quarantine: Option<Quarantined>,
    /// What lint says of the data in force; `None`: not looked at yet.
    pub(super) findings: Option<Vec<Finding>>,
    /// How much of the address space the data deny, as counted last.
    pub(super) weighed: Option<Weighed>,
}

impl FeedState {
    fn new(config: config::Feed) -> Self {
        Self {
            config,
            keeps_set: true,
            data: None,
            of_before: false,
            validators: None,
            last_attempt: None,
            pulling: false,
            last_success: None,
            last_error: None,
            elapsed: None,
            next_pull: None,
            failures: 0,
            deaths: 0,
            pulls: BTreeMap::from([("changed", 0), ("unchanged", 0)]),
            stream: CrowdsecState::default(),
            stream_gap: false,
            turn: Arc::default(),
            pulse: Arc::default(),
            quarantine: None,
            findings: None,
            weighed: None,
        }
    }

    /// Older than the feed allows: by the last good pull, or by what the feed says of its own age.
    pub(super) fn is_stale(&self, now: SystemTime) -> bool {
        let too_old = |since: SystemTime| {
            now.duration_since(since).unwrap_or_default() > self.config.stale_after
        };
        let updated = self.data.as_ref().and_then(|data| data.parsed.updated);
        self.config.enabled
            && (self.last_success.is_none_or(too_old) || updated.is_some_and(too_old))
    }

    /// So old that it is to be given up.
    pub(super) fn is_expired(&self, now: SystemTime) -> bool {
        let age = self
            .last_success
            .map(|success| now.duration_since(success).unwrap_or_default());
        self.data.is_some()
            && self
                .config
                .expire_after
                .zip(age)
                .is_some_and(|(limit, age)| age > limit)
    }
}

/// The daemon's state.
pub(super) struct Core {
    pub(super) config: Config,
    pub(super) kernel: Kernel,
    pub(super) feeds: BTreeMap<FeedName, FeedState>,
    pub(super) exceptions: Vec<Exception>,
    /// Tiers and policies.
    pub(super) policies: Arc<Policies>,
    /// Network sets written by hand.
    pub(super) network_sets: Vec<Arc<NetworkSet>>,
    /// Feeds of manifests, beside those of the configuration.
    pub(super) manifest_feeds: Arc<Vec<ManifestFeed>>,
    /// What is wrong with manifests, each in words.
    pub(super) manifest_problems: Vec<String>,
    pub(super) path: Arc<Path>,
    /// The address of the self-test that runs.
    pub(super) canary: Option<IpAddr>,
    /// Which feeds deny now.
    pub(super) arming: Book,
    /// It changed since it was stored.
    pub(super) arming_changed: bool,
    /// What was stored of it.
    pub(super) arming_saved: arming::Saved,
    /// Where a copy for the client commands lies during long work.
    pub(super) desk: Arc<Desk>,
    /// The last transaction.
    pub(super) applied: Option<Applied>,
    /// Why the kernel does not hold what it should.
    pub(super) broken: Option<String>,
    /// Times the table had to be put back.
    pub(super) heals: u64,
    /// How soon it may be put back again.
    pub(super) pace: Pace,
    /// When and what the last time was.
    pub(super) last_heal: Option<(SystemTime, String)>,
    /// The exception files as they were when all of them could be read.
    files: Vec<Exception>,
    /// What is wrong with the exception files.
    pub(super) file_problems: Vec<String>,
    /// Addresses of feed and syslog servers, as resolved last.
    pub(super) servers: Vec<Exception>,
    /// Some of their names did not resolve.
    pub(super) unresolved: bool,
    /// `down` has removed the table: nothing may bring it back.
    pub(super) closed: bool,
    /// The kernel still has the table of an earlier run, and there are no good data to replace it.
    pub(super) inherited: bool,
    /// Told after each change of the kernel's sets.
    pub(super) changed: Option<SyncSender<()>>,
    /// Mode include: what was said to be wrong with the admin's table.
    pub(super) told: Vec<String>,
    /// The unattributed counters as last reported.
    unattributed: (u64, u64),
    /// What full queues dropped, as last reported.
    queue_drops: u64,
    /// What policies by port cost, as last told.
    flows: FlowReport,
    /// IPv6 forms of IPv4 addresses that this network uses.
    pub(super) in_use: InUse,
    /// All that is denied was over `[arm] max-share`, and that was told.
    pub(super) told_of_denied: bool,
    /// Feeds of which it was told that they are held back by their share, and that they are over it.
    pub(super) rails_said: (BTreeSet<FeedName>, BTreeSet<FeedName>),
}

impl Core {
    pub(super) fn new(config: Config, kernel: Kernel, path: Arc<Path>) -> Self {
        let mut core = Self {
            config: Config::default(),
            kernel,
            feeds: BTreeMap::new(),
            exceptions: Vec::new(),
            policies: Arc::default(),
            network_sets: Vec::new(),
            manifest_feeds: Arc::default(),
            manifest_problems: Vec::new(),
            path,
            canary: None,
            arming: Book::default(),
            arming_changed: false,
            arming_saved: arming::Saved::new(),
            desk: Arc::default(),
            applied: None,
            broken: None,
            heals: 0,
            pace: Pace::default(),
            last_heal: None,
            files: Vec::new(),
            file_problems: Vec::new(),
            servers: Vec::new(),
            unresolved: false,
            closed: false,
            inherited: false,
            changed: None,
            told: Vec::new(),
            unattributed: (0, 0),
            queue_drops: 0,
            flows: FlowReport::default(),
            told_of_denied: false,
            in_use: InUse::default(),
            rails_said: Default::default(),
        };
        core.take_config(config);
        core
    }

    /// Takes a configuration, as [`Core::take_feeds`] takes its feeds.
    pub(super) fn take_config(&mut self, config: Config) {
        if self.config.exceptions.files != config.exceptions.files {
            self.files.clear();
        }
        self.config = config;
        let alert_found = self.config.exceptions.alert_found;
        self.path.alert_found.store(alert_found, Ordering::Relaxed);
        self.take_feeds();
    }

    /// Takes the feeds of the configuration and of manifests; feeds that stay the same keep their data,
    /// those of other feeds that have a new url or are read in a new way stay in force until the first
    /// good data after that.
    pub(super) fn take_feeds(&mut self) {
        let mut old = std::mem::take(&mut self.feeds);
        let configured = self.config.feeds.iter().map(|feed| (feed, true));
        let manifests = self.manifest_feeds.iter();
        let manifests = manifests.map(|feed| (&feed.config, feed.keeps_set));
        for (feed, keeps_set) in configured.chain(manifests) {
            let mut state = match old.remove(&feed.name) {
                Some(mut state) if same_text(&state.config, feed) => {
                    if state.config != *feed {
                        // A new period, or a header that was wrong: tried at once.
                        (state.next_pull, state.failures, state.deaths) = (None, 0, 0);
                    }
                    state.config = feed.clone();
                    state
                }
                Some(state) => FeedState {
                    of_before: state.data.is_some(),
                    data: state.data,
                    last_success: state.last_success,
                    pulls: state.pulls,
                    ..FeedState::new(feed.clone())
                },
                None => FeedState::new(feed.clone()),
            };
            state.keeps_set = keeps_set;
            self.feeds.insert(feed.name.clone(), state);
        }
        self.path.meters.set_feeds(self.feeds.keys());
    }

    /// The exceptions of the admin's files. While one of them has a mistake, what the files held
    /// before counts too: nobody is blocked by a slip of the editor.
    pub(super) fn take_files(&mut self, found: Files) -> Vec<Exception> {
        let problems: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        if problems != self.file_problems {
            problems
                .iter()
                .for_each(|problem| tracing::error!("exceptions: {problem}"));
            self.file_problems = problems;
        }
        let mut exceptions = found.exceptions;
        if self.file_problems.is_empty() {
            self.files.clone_from(&exceptions);
        } else {
            exceptions.extend(self.files.iter().cloned());
        }
        exceptions
    }

    /// What the feeds and exceptions give now.
    fn build(&self) -> Snapshot {
        self.build_with(None)
    }

    /// What they would give with other data of one feed.
    pub(super) fn snapshot_with(&self, name: &FeedName, data: Arc<FeedData>) -> Snapshot {
        let _busy = self.busy();
        self.build_with(Some((name, data)))
    }

    fn build_with(&self, other: Option<(&FeedName, Arc<FeedData>)>) -> Snapshot {
        let data = |state: &FeedState| match &other {
            Some((name, data)) if **name == state.config.name => Some(Arc::clone(data)),
            _ => state.data.clone(),
        };
        let asked = |state: &FeedState| {
            let name = &state.config.name;
            state.config.enabled || other.as_ref().is_some_and(|(other, _)| *other == name)
        };
        let enabled = self.feeds.values().filter(|state| asked(state));
        let mut inputs: Vec<Input> = enabled
            .filter_map(|s| {
                let mut input = Input::new(&s.config, data(s)?);
                input.network_set = input.network_set.filter(|_| s.keeps_set);
                let mut input = input.with(self.arming.force(&s.config.name));
                input.trial |= self.arming.rails.held(&s.config.name).is_some();
                Some(input)
            })
            .collect();
        inputs.extend(self.canary_inputs());
        let options = Options {
            private: self.config.exceptions.private_networks,
            deny_at: self.config.consensus.deny_at,
            every_set: self.config.nftables.mode == Mode::Include,
            alert_found: self.config.exceptions.alert_found,
            by_port: include::has_resolver_rule(&self.kernel),
            network_sets: self.network_sets.clone(),
            regime: Regime::new(
                Arc::clone(&self.policies),
                &self.config.host.labels,
                self.config.daemon.on_daemon_down,
            ),
            transition: self.transition(),
        };
        build(&inputs, &self.exceptions, options)
    }

    /// Gives up feeds that are older than their `expire-after`; true when there were any.
    pub(super) fn expire_feeds(&mut self, now: SystemTime) -> bool {
        let mut any = false;
        for state in self
            .feeds
            .values_mut()
            .filter(|state| state.is_expired(now))
        {
            let limit = state.config.expire_after.unwrap_or_default();
            let why = format!(
                "older than expire-after ({}): its data are given up",
                humantime::format_duration(limit)
            );
            tracing::error!("feed {}: {why}", state.config.name);
            state.data = None;
            state.last_error = Some(why);
            any = true;
        }
        any
    }

    /// Puts the whole table into the kernel.
    pub(super) fn install(&mut self) -> Result<(), NftError> {
        // A table that an earlier run left holds more than there are data for.
        if self.closed || self.inherited {
            return Ok(());
        }
        let _busy = self.busy();
        self.settle_arming();
        self.settle_rails();
        let next = Arc::new(self.build());
        self.path.view.announce(Arc::clone(&next));
        let done = self.kernel.install(&next.sets);
        self.finish(next, done)
    }

    /// Brings the kernel from the snapshot in force to what the feeds give now, in one transaction.
    pub(super) fn sync(&mut self) -> Result<(), NftError> {
        if self.closed {
            return Ok(());
        }
        if self.inherited {
            return self.leave_inherited();
        }
        let _busy = self.busy();
        let start = Instant::now();
        self.settle_arming();
        self.settle_rails();
        let next = Arc::new(self.build());
        let current = self.path.view.current();
        let Some(delta) = Delta::between(&current.sets, &next.sets) else {
            if !answers_anew(&current, &next) {
                self.path.view.settle(next);
                return Ok(());
            }
            // An empty change still makes the kernel forget the verdicts that it remembers.
            self.path.view.announce(Arc::clone(&next));
            let done = self.kernel.apply(&Delta::default(), &next.sets);
            return self.finish(next, done);
        };
        self.path.view.announce(Arc::clone(&next));
        let (added, removed) = delta.changed_elements();
        let built = start.elapsed();
        let done = self
            .carry_out(&delta, &current.sets, &next.sets)
            .or_else(|error| {
                tracing::warn!("a change was refused, so the whole table is loaded again: {error}");
                self.kernel.install(&next.sets)
            });
        if let Ok(applied) = &done {
            tracing::info!(
                "kernel updated: {added} elements added, {removed} removed in sets that stay, \
                 {} sets new, {} gone; built in {built:?}, applied in {:?}",
                delta.created.len(),
                delta.dropped.len(),
                applied.elapsed
            );
        }
        self.finish(next, done)
    }

    /// One transaction, or three where an address moves between elements: the first covers it, the
    /// last takes the cover away. In an admin's table there is no set for covers.
    fn carry_out(&self, delta: &Delta, old: &Sets, new: &Sets) -> Result<Applied, NftError> {
        if self.kernel.included().is_some() {
            return self.kernel.apply(delta, new);
        }
        let mut total = Applied {
            elements: 0,
            elapsed: Duration::ZERO,
        };
        for (delta, after) in steps(old, new) {
            let applied = self.kernel.apply(&delta, &after)?;
            total.elements += applied.elements;
            total.elapsed += applied.elapsed;
        }
        Ok(total)
    }

    pub(super) fn finish(
        &mut self,
        next: Arc<Snapshot>,
        done: Result<Applied, NftError>,
    ) -> Result<(), NftError> {
        match done {
            Ok(applied) => {
                self.warn_of_flows(&next.report.flows);
                self.warn_of_denied(&next.report.denied);
                self.path.view.settle(next);
                self.path.meters.sync.observe(applied.elapsed);
                self.applied = Some(applied);
                self.broken = None;
                if let Some(changed) = &self.changed {
                    // A message that waits already stands for this change too.
                    let _ = changed.try_send(());
                }
                Ok(())
            }
            Err(error) => {
                // The kernel still has what it had: so does the index.
                let pair = self.path.view.previous_or_current();
                self.path.view.settle(pair);
                tracing::error!("the kernel does not hold the current feeds: {error}");
                self.broken = Some(error.to_string());
                Err(error)
            }
        }
    }

    /// Says what policies by port cost, once for each change that makes them cost more.
    fn warn_of_flows(&mut self, now: &FlowReport) {
        let warning = now.warning();
        if warning.is_some() != self.flows.warning().is_some() || now.too_many > self.flows.too_many
        {
            warning.iter().for_each(|text| tracing::warn!("{text}"));
        }
        self.flows = *now;
    }

    /// Takes a feed's new good data into the kernel.
    pub(super) fn accept(&mut self, name: &FeedName, data: Arc<FeedData>) -> Result<(), NftError> {
        if let Some(state) = self.feeds.get_mut(name) {
            state.data = Some(data);
            state.of_before = false;
        }
        self.sync()
    }

    /// Replaces the table of an earlier run once every feed has been tried and some data are good.
    pub(super) fn leave_inherited(&mut self) -> Result<(), NftError> {
        let has_data = self.feeds.values().any(|feed| feed.data.is_some());
        if !self.inherited || !has_data || !self.first_pulls_done() {
            return Ok(());
        }
        self.inherited = false;
        self.install()
    }

    /// True when each feed that is pulled has been tried once.
    pub(super) fn first_pulls_done(&self) -> bool {
        let waits =
            |s: &FeedState| s.config.enabled && s.config.url.is_some() && s.next_pull.is_none();
        !self.feeds.values().any(waits)
    }

    /// Reports packets that the kernel judged without the daemon since the last report, of this or
    /// an earlier daemon.
    pub(super) fn count_unattributed(&mut self, store: &Store) {
        let drops = status::queue_drops(self.kernel.options());
        // The queues are this daemon's own: they begin at zero with it.
        let since = drops.saturating_sub(std::mem::replace(&mut self.queue_drops, drops));
        self.path.report_dropped(since);
        let Ok(counters) = self.kernel.counters() else {
            return;
        };
        let packets = |counter| counters.get(&counter).map_or(0, |count| count.packets);
        self.path.note_verdicts(verdicts(packets));
        let now = (
            packets(Counter::DeniedUnattributed),
            packets(Counter::PassedUnattributed),
        );
        // The counters start again from zero when the table is loaded whole.
        let since = |new: u64, old: u64| if new >= old { new - old } else { new };
        let (denied, passed) = (
            since(now.0, self.unattributed.0),
            since(now.1, self.unattributed.1),
        );
        if now != self.unattributed {
            self.unattributed = now;
            self.path.report_unattributed(denied, passed);
            if let Err(e) = store.save_reported(now) {
                tracing::warn!(
                    "packets without attribution may be reported twice after a restart: {e}"
                );
            }
        }
    }

    /// First packets that the kernel denied and let pass by the verdict of a daemon.
    pub(super) fn verdicts(&self) -> Option<ByAction> {
        let counters = self.kernel.counters().ok()?;
        let packets = |counter| counters.get(&counter).map_or(0, |count| count.packets);
        Some(verdicts(packets))
    }

    /// Compares them with what was answered.
    pub(super) fn note_verdicts(&self) {
        if let Some(counted) = self.verdicts() {
            self.path.note_verdicts(counted);
        }
    }

    /// Goes on from what an earlier daemon reported of the table that is there.
    pub(super) fn resume_counters(&mut self, store: &Store) {
        self.unattributed = store.reported();
        self.count_unattributed(store);
    }

    /// The state in one line, for systemd's status and the log.
    pub(super) fn one_line(&self) -> String {
        let snapshot = self.path.view.current();
        let failed: Vec<String> = self
            .feeds
            .values()
            .filter_map(|s| {
                s.last_error
                    .as_ref()
                    .map(|e| format!("{}: {e}", s.config.name))
            })
            .collect();
        let good = self.feeds.values().filter(|s| s.data.is_some()).count();
        let feeds = if good == 1 { "feed" } else { "feeds" };
        let mut line = format!(
            "{} elements of {good} {feeds} in the kernel",
            snapshot.sets.elements()
        );
        if let Some(broken) = &self.broken {
            line = format!("NOT PROTECTED: {broken}");
        }
        if !failed.is_empty() {
            line.push_str("; failed: ");
            line.push_str(&failed.join("; "));
        }
        line
    }

    /// Takes the exceptions found now; true when they differ.
    pub(super) fn take_exceptions(&mut self, exceptions: Vec<Exception>) -> bool {
        let changed = self.exceptions != exceptions;
        self.exceptions = exceptions;
        changed
    }

    /// The exceptions that neither the configuration nor its files name: they are of the host, and a
    /// boot without a network does not find them again.
    pub(super) fn host_exceptions(&self) -> Vec<Exception> {
        let files: BTreeSet<&Exception> = self.files.iter().collect();
        // Who was logged in is nobody any more after a boot.
        let computed = |e: &&Exception| {
            e.why != super::start::CONFIGURED
                && !e.why.starts_with(addresses::SSH_PEER)
                && !files.contains(*e)
        };
        self.exceptions.iter().filter(computed).cloned().collect()
    }

    /// The report of the snapshot in force.
    pub(super) fn report(&self) -> Report {
        self.path.view.current().report.clone()
    }
}

fn verdicts(packets: impl Fn(Counter) -> u64) -> ByAction {
    ByAction {
        deny: packets(Counter::Denied),
        alert: packets(Counter::Allowed),
    }
}

/// True when verdicts by source may be others although the sets stay what they are.
fn answers_anew(old: &Snapshot, new: &Snapshot) -> bool {
    let (old, new) = (old.index.regime(), new.index.regime());
    old != new || !new.policies.is_empty()
}

/// True when the text of `new` would be read as that of `old` was.
fn same_text(old: &config::Feed, new: &config::Feed) -> bool {
    let reading = config::Feed {
        preset: new.preset,
        action: new.action,
        scope: new.scope,
        period: new.period,
        stale_after: new.stale_after,
        expire_after: new.expire_after,
        deny_score: new.deny_score,
        origin: new.origin.clone(),
        severity: new.severity,
        labels: new.labels.clone(),
        headers: new.headers.clone(),
        enabled: new.enabled,
        max_share: new.max_share,
        ..old.clone()
    };
    // Scores are read only where some key asks for them.
    reading == *new && old.deny_score.is_some() == new.deny_score.is_some()
}
