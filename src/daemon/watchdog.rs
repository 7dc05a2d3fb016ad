//! Which loops of the daemon do not answer: for status, `/livez`, `/healthz`, the metrics, the log, and for
//! systemd's watchdog.
//!
//! A timer alone would go on telling that all is well while a queue thread hangs. So each loop leaves a
//! mark at each of its turns, or while it is at work ([`crate::pulse`]), and one thread looks at all of
//! them. That thread takes no lock that anybody keeps while they do something; the state's own lock is
//! only tried. What it finds is read without a lock, so that it can be told while everything else hangs.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, Thread},
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use sd_notify::NotifyState;
use serde::Serialize;

use super::{RunError, Shared, engine, engine::lock, journal::Over, notify, status, try_core};
use crate::{host::clock::Uptime, pulse::Pulse};

/// How often the pulses are looked at.
const TICK: Duration = Duration::from_millis(250);
/// A thread that did not run for so long stood still, and all others with it.
const STOOD_STILL: Duration = Duration::from_secs(2);
/// A watch that has not looked for so long knows nothing.
const BLIND: Duration = Duration::from_secs(10);
/// Times of standing still that are remembered: none of them counts as anybody's pause.
const REMEMBERED: usize = 64;
/// How long a queue thread may be away before that is a problem, at least.
const QUEUE: Duration = Duration::from_secs(2);
/// The watchdog's time where systemd has named none.
const WATCHDOG: Duration = Duration::from_secs(30);
/// How long a piece of work that said so may hold the state: a load of millions of elements on a slow
/// machine does so for a minute.
const LONGEST_WORK: Duration = Duration::from_secs(300);
/// How long anything else may hold it: a write to a disk that is slow to answer.
const LONGEST_HOLD: Duration = Duration::from_secs(60);
/// What is a problem before that.
const LONG_HOLD: Duration = Duration::from_secs(20);

/// What it means that a loop does not answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// Longest pause without a problem.
    pub(super) limit: Duration,
    /// Longest pause before a restart is the only help; `None`: a restart would not help.
    pub(super) restart: Option<Duration>,
    /// Packets are attributed only while it answers.
    pub(super) attributes: bool,
    /// What does not work meanwhile, in words.
    pub(super) effect: &'static str,
}

impl Terms {
    /// A pause that is a problem, and no reason for a restart.
    pub(super) const fn problem(limit: Duration, effect: &'static str) -> Self {
        Self {
            limit,
            restart: None,
            attributes: false,
            effect,
        }
    }

    /// Of a thread that writes alerts or flows.
    pub(super) const TARGET: Self = Self::problem(
        Duration::from_secs(10),
        "what it has to write waits in its queue",
    );
    /// Of a pull, from the first name to the sets in the kernel.
    pub(super) const fn pull(total: Duration) -> Self {
        let limit = total.saturating_add(LONGEST_WORK);
        Self::problem(limit, "the last good data stay in force")
    }
    /// Of a look for addresses that are never blocked.
    pub(super) const LOOK: Self = Self::problem(
        Duration::from_secs(10),
        "a new address of the host is not excepted; those known stay so",
    );
    /// Of the search for established flows.
    pub(super) const SEARCH: Self = Self::problem(
        Duration::from_secs(30),
        "established flows to newly listed addresses are not searched for",
    );
    /// Of the listener for changes of the table by others.
    pub(super) const HEAL: Self = Self::problem(
        Duration::from_secs(10),
        "a change of the table by others is noticed only after seconds",
    );
    /// Of the watch over the folder of manifests.
    pub(super) const MANIFESTS: Self = Self::problem(
        Duration::from_secs(30),
        "changed manifests are not taken; what is in force stays",
    );
    /// Of the server of metrics and probes.
    pub(super) const METRICS: Self = Self::problem(
        Duration::from_secs(10),
        "metrics and probes are not answered",
    );

    /// Of threads that do what another process may hold up.
    pub(super) const HELPER: Self = Self::problem(
        Duration::from_secs(10),
        "what it was to read of processes, files or names is left out; nobody waits for it",
    );

    const fn fatal(limit: Duration, restart: Duration, effect: &'static str) -> Self {
        Self {
            restart: Some(restart),
            ..Self::problem(limit, effect)
        }
    }

    /// Of a queue thread. `attribution` is how long one packet may wait for its source.
    pub(super) fn queue(attribution: Duration) -> Self {
        let restart = longest_turn(watchdog().unwrap_or(WATCHDOG), attribution);
        Self {
            attributes: true,
            ..Self::fatal(
                QUEUE.max(attribution * 2 + engine::DISK),
                restart,
                "watched flows wait and nobody is named; deny sets stay in force",
            )
        }
    }
}

/// The loops that are watched, by name.
#[derive(Debug)]
pub(super) struct Pulses {
    loops: Mutex<Vec<Watched>>,
    /// What did not answer at the last look.
    late: ArcSwap<Vec<Late>>,
    /// That look.
    looks: Pulse,
    /// What journald may have dropped.
    over: ArcSwapOption<Over>,
}

struct Watched {
    name: String,
    source: Source,
    terms: Terms,
}

/// Where it is known from that a loop works.
enum Source {
    /// Gone with its loop.
    Pulse(Weak<Pulse>),
    /// Whoever has the loop says since when it has not answered.
    Asked(Box<dyn Fn() -> Option<Instant> + Send + Sync>),
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watched").field(&self.name).finish()
    }
}

impl Watched {
    fn is_alive(&self) -> bool {
        match &self.source {
            Source::Pulse(pulse) => pulse.strong_count() > 0,
            Source::Asked(_) => true,
        }
    }

    fn is_of(&self, pulse: &Arc<Pulse>) -> bool {
        matches!(&self.source, Source::Pulse(own) if std::ptr::eq(own.as_ptr(), Arc::as_ptr(pulse)))
    }

    fn since(&self) -> Option<Instant> {
        match &self.source {
            Source::Pulse(pulse) => pulse.upgrade()?.since(),
            Source::Asked(since) => since(),
        }
    }
}

/// A loop that made a longer pause than it may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Late {
    /// Its name.
    #[serde(rename = "loop")]
    pub name: String,
    /// For how long it has not answered, in milliseconds.
    pub for_ms: u64,
    /// Only a restart helps.
    pub restart: bool,
    /// Packets are not attributed meanwhile.
    #[serde(skip)]
    pub attributes: bool,
    /// What does not work meanwhile.
    pub effect: &'static str,
}

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = Duration::from_millis(self.for_ms).as_secs_f64();
        let Self { name, effect, .. } = self;
        write!(f, "{name} has not answered for {seconds:.1} s: {effect}")
    }
}

impl Pulses {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            loops: Mutex::default(),
            late: ArcSwap::default(),
            looks: Pulse::new(now),
            over: ArcSwapOption::empty(),
        }
    }

    /// Watches over a loop until its pulse is gone; once, however often it is asked to.
    pub(super) fn watch(&self, name: impl Into<String>, pulse: &Arc<Pulse>, terms: Terms) {
        let mut loops = lock(&self.loops);
        loops.retain(Watched::is_alive);
        if loops.iter().any(|watched| watched.is_of(pulse)) {
            return;
        }
        loops.push(Watched {
            name: name.into(),
            source: Source::Pulse(Arc::downgrade(pulse)),
            terms,
        });
    }

    /// Watches over threads whose owner says since when they have not answered.
    pub(super) fn ask(
        &self,
        name: impl Into<String>,
        terms: Terms,
        since: impl Fn() -> Option<Instant> + Send + Sync + 'static,
    ) {
        lock(&self.loops).push(Watched {
            name: name.into(),
            source: Source::Asked(Box::new(since)),
            terms,
        });
    }

    /// A new loop that is watched from now on; it is at work.
    pub(super) fn begin(&self, name: impl Into<String>, terms: Terms) -> Arc<Pulse> {
        let pulse = Arc::new(Pulse::new(Instant::now()));
        self.watch(name, &pulse, terms);
        pulse
    }

    /// The loops that do not answer, the worst first; takes no lock.
    pub(super) fn late(&self) -> Arc<Vec<Late>> {
        let pause = self.looks.since().map_or(Duration::ZERO, |at| at.elapsed());
        if pause <= BLIND {
            return self.late.load_full();
        }
        let blind = Late {
            name: "the watch over all loops".into(),
            for_ms: milliseconds(pause),
            restart: true,
            attributes: false,
            effect: "nobody knows whether the daemon works",
        };
        Arc::new(vec![blind])
    }

    /// The same; just after a time of standing still it waits for a moment, until all have had the chance
    /// to answer.
    pub(super) fn late_now(&self) -> Arc<Vec<Late>> {
        for _ in 0..4 {
            if self.looks.since().is_none_or(|at| at.elapsed() <= 2 * TICK) {
                break;
            }
            thread::sleep(TICK);
        }
        self.late()
    }

    /// What journald may have dropped.
    pub(super) fn over(&self) -> Option<Arc<Over>> {
        self.over.load_full()
    }

    /// The names of all loops, each once.
    pub(super) fn names(&self) -> Vec<String> {
        let loops = lock(&self.loops);
        let alive = loops.iter().filter(|one| one.is_alive());
        let mut names: Vec<String> = alive.map(|one| one.name.clone()).collect();
        names.sort();
        names.dedup();
        names
    }

    fn find_late(&self, now: Instant, stills: &Stills) -> Vec<Late> {
        let loops = lock(&self.loops);
        let mut late = BTreeMap::new();
        for watched in loops.iter() {
            let Some(since) = watched.since() else {
                continue;
            };
            let pause = stills.without(now.saturating_duration_since(since), since);
            if pause <= watched.terms.limit {
                continue;
            }
            let found = Late {
                name: watched.name.clone(),
                for_ms: milliseconds(pause),
                restart: watched.terms.restart.is_some_and(|longest| pause > longest),
                attributes: watched.terms.attributes,
                effect: watched.terms.effect,
            };
            // Of several with one name the one that hangs longest.
            let worst: &mut Late = late.entry(&watched.name).or_insert_with(|| found.clone());
            if worst.for_ms < found.for_ms {
                *worst = found;
            }
        }
        let mut late: Vec<Late> = late.into_values().collect();
        late.sort_by_key(|late| (!late.attributes, !late.restart));
        late
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// When the whole daemon stood still: the end, and how long it was.
#[derive(Debug, Default)]
struct Stills(Vec<(Instant, Duration)>);

impl Stills {
    fn add(&mut self, end: Instant, time: Duration) {
        if self.0.len() >= REMEMBERED {
            self.0.remove(0);
        }
        self.0.push((end, time));
    }

    /// A pause since `since` without the times in which nobody could answer.
    fn without(&self, pause: Duration, since: Instant) -> Duration {
        let after = self.0.iter().filter(|(end, _)| *end > since);
        let still: Duration = after.map(|(_, time)| *time).sum();
        pause.saturating_sub(still)
    }
}

/// How long a queue thread may need for one turn: half of what systemd waits, and never less than two
/// packets that wait for their source and for the disk as long as the configuration lets them.
fn longest_turn(watchdog: Duration, attribution: Duration) -> Duration {
    (watchdog / 2).max((attribution + engine::DISK) * 2)
}

/// Long work on the state that goes on since then is still no hang.
fn is_in_time(since: Duration) -> bool {
    since <= LONGEST_WORK - LONGEST_HOLD
}

/// What systemd waits for a sign of life; `None` without `WatchdogSec=`.
fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|time| !time.is_zero())
}

/// The asynchronous runtime has a loop of its own, which does nothing but turn.
pub(super) async fn turn(pulse: Arc<Pulse>) {
    loop {
        pulse.beat(Instant::now());
        tokio::time::sleep(TICK * 2).await;
    }
}

/// The loops that there are from the start to the end.
#[derive(Debug)]
pub(super) struct Lasting {
    /// Summaries, exceptions, the table's health.
    pub(super) housekeeping: Arc<Pulse>,
    /// Signals, reloads.
    pub(super) main: Arc<Pulse>,
    /// Trials and confirmations.
    pub(super) arming: Arc<Pulse>,
    /// The runtime of all of these.
    pub(super) runtime: Arc<Pulse>,
    /// Connections of client commands are accepted.
    pub(super) accepting: Arc<Pulse>,
    /// Somebody got the state's lock.
    state: Arc<Pulse>,
}

impl Lasting {
    pub(super) fn new(pulses: &Pulses) -> Self {
        let turn = watchdog().unwrap_or(WATCHDOG) / 2;
        let begin = |name: &str, limit, restart: Duration, effect| {
            pulses.begin(name, Terms::fatal(limit, restart.max(turn), effect))
        };
        Self {
            housekeeping: begin(
                "housekeeping",
                LONGEST_WORK,
                LONGEST_WORK,
                "summaries wait, and a new address of the host is not noticed",
            ),
            main: begin(
                "the main loop",
                LONGEST_WORK,
                LONGEST_WORK,
                "signals and reloads wait",
            ),
            arming: begin(
                "the arming timer",
                LONGEST_WORK,
                LONGEST_WORK,
                "what was not confirmed is not taken back",
            ),
            runtime: begin(
                "the asynchronous runtime",
                LONG_HOLD / 2,
                LONGEST_HOLD,
                "no feed is pulled and no command answered",
            ),
            accepting: begin(
                "the control socket",
                LONG_HOLD / 2,
                LONGEST_HOLD,
                "no command is answered",
            ),
            state: begin(
                "the daemon's state",
                LONG_HOLD,
                LONGEST_HOLD,
                "nothing can be changed, and status shows nothing",
            ),
        }
    }
}

/// The thread that looks at all pulses.
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Watch {
    /// Starts it.
    pub(super) fn start(shared: &Arc<Shared>) -> Result<Self, RunError> {
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, ends) = (Arc::clone(shared), Arc::clone(&stop));
        let thread = thread::Builder::new().name("watch-loops".into());
        let thread = thread.spawn(move || Watcher::new(&shared).run(&ends));
        let thread = thread.map_err(|source| RunError::System {
            step: "starting the thread that watches over the loops".into(),
            source,
        })?;
        Ok(Self { stop, thread })
    }

    /// Ends it: what ends hangs for a moment, and rightly.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        Thread::unpark(self.thread.thread());
    }
}

struct Watcher<'a> {
    shared: &'a Shared,
    stills: Stills,
    /// Who was late at the last look, and since when.
    known: BTreeMap<String, u64>,
    /// What systemd waits for a sign of life, and when it got the last one.
    watchdog: Option<Duration>,
    told: Option<Instant>,
    /// The watchdog gets no sign, and that was said.
    silent: bool,
    /// Packets that had been judged by the last look.
    judged: u64,
}

impl<'a> Watcher<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            stills: Stills::default(),
            known: BTreeMap::new(),
            watchdog: watchdog(),
            told: None,
            silent: false,
            judged: 0,
        }
    }

    fn run(mut self, stop: &AtomicBool) {
        let pause = self.watchdog.map_or(TICK, |time| TICK.min(time / 4));
        let pause = pause.max(Duration::from_millis(1));
        loop {
            let before = (Uptime::now(), Instant::now());
            thread::park_timeout(pause);
            if stop.load(Ordering::Relaxed) {
                return self.shared.pulses.looks.rest();
            }
            self.look_for_a_still(before, pause);
            let now = Instant::now();
            self.ask_for_the_state(now);
            let late = self.shared.pulses.find_late(now, &self.stills);
            self.tell(&late);
            self.feed(&late, now);
            self.count_lines(now);
            self.shared.pulses.late.store(Arc::new(late));
            self.shared.pulses.looks.beat(now);
        }
    }

    /// Nobody ran: stopped, suspended, or without a processor. That is nobody's pause.
    fn look_for_a_still(&mut self, before: (Uptime, Instant), pause: Duration) {
        // A packet that is being judged still waits for the kernel.
        let judged = self.shared.path.meters.verdict.seen().count;
        let since = judged.saturating_sub(std::mem::replace(&mut self.judged, judged));
        let now = Instant::now();
        // The kernel's monotonic clock stands still while the host sleeps, its other clock does not.
        let whole = Uptime::now().left(before.0).saturating_sub(pause);
        let awake = now.saturating_duration_since(before.1);
        let awake = awake.saturating_sub(pause);
        if whole < STOOD_STILL {
            return;
        }
        self.stills.add(now, awake);
        let slept = whole.saturating_sub(awake);
        let what = if slept > awake {
            "the host slept"
        } else {
            "the daemon stood still (stopped, or without a processor)"
        };
        let waiting = status::waiting(&self.shared.queues);
        tracing::warn!(
            "{what} for {:.1} s: {} packets waited for it; deny sets stayed in force",
            whole.as_secs_f64(),
            since.saturating_add(waiting),
        );
    }

    /// Whether journald got more than it keeps.
    fn count_lines(&self, now: Instant) {
        let mut journal = lock(&self.shared.journal);
        let over = if journal.is_limited() {
            let sent = journal.sent(&self.shared.path.sinks.load().stats());
            journal.watch(now, sent)
        } else {
            None
        };
        self.shared.pulses.over.store(over.map(Arc::new));
    }

    /// Its lock is only tried: nobody may have to wait for this thread, nor this thread for anybody.
    fn ask_for_the_state(&self, now: Instant) {
        let is_free = try_core(self.shared).is_some();
        if is_free || self.shared.desk.works_for().is_some_and(is_in_time) {
            self.shared.lasting.state.beat(now);
        }
    }

    /// One line for each change.
    fn tell(&mut self, late: &[Late]) {
        for one in late {
            if self.known.insert(one.name.clone(), one.for_ms).is_none() {
                if one.attributes || one.restart {
                    tracing::error!("{one}");
                } else {
                    tracing::warn!("{one}");
                }
            }
        }
        self.known.retain(|name, for_ms| {
            let still = late.iter().any(|one| one.name == *name);
            if !still {
                let after = Duration::from_millis(*for_ms).as_secs_f64();
                tracing::info!("{name} answers again, after {after:.1} s");
            }
            still
        });
    }

    /// Four signs of life at least in the time that systemd waits, and none while only a restart helps.
    fn feed(&mut self, late: &[Late], now: Instant) {
        let Some(watchdog) = self.watchdog else {
            return;
        };
        if let Some(one) = late.iter().find(|late| late.restart) {
            if !std::mem::replace(&mut self.silent, true) {
                tracing::error!(
                    "the watchdog gets no sign of life because of {}: systemd restarts the daemon; \
                     deny sets stay in force",
                    one.name
                );
            }
            return;
        }
        self.silent = false;
        let is_due = |told| now.saturating_duration_since(told) >= watchdog / 5;
        if self.told.is_none_or(is_due) {
            self.told = Some(now);
            notify(&[NotifyState::Watchdog]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::glance;

    const EFFECT: &str = "nothing works";

    fn terms(limit: u64, restart: Option<u64>) -> Terms {
        Terms {
            restart: restart.map(Duration::from_millis),
            ..Terms::problem(Duration::from_millis(limit), EFFECT)
        }
    }

    fn names(late: &[Late]) -> Vec<(&str, u64, bool)> {
        let row = |late| {
            let Late {
                name,
                for_ms,
                restart,
                ..
            }: &Late = late;
            (name.as_str(), *for_ms, *restart)
        };
        late.iter().map(row).collect()
    }

    #[test]
    fn each_pause_that_is_too_long_is_seen_and_ends_with_a_beat() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let pulses = Pulses::new(start);
        let [queue, sink] = [(); 2].map(|()| Arc::new(Pulse::new(start)));
        pulses.watch("queue 1", &queue, terms(100, Some(300)));
        pulses.watch("sink", &sink, terms(500, None));
        let late = |ms| pulses.find_late(after(ms), &Stills::default());
        assert_eq!(names(&late(100)), []);
        assert_eq!(names(&late(101)), [("queue 1", 101, false)]);
        assert_eq!(names(&late(301)), [("queue 1", 301, true)]);
        queue.beat(after(450));
        assert_eq!(names(&late(500)), []);
        queue.beat(after(501));
        // A healthy queue thread does not speak for the sink, for which no restart helps.
        assert_eq!(names(&late(501)), [("sink", 501, false)]);
        assert_eq!(
            names(&late(900)),
            [("queue 1", 399, true), ("sink", 900, false)]
        );
        sink.rest();
        queue.beat(after(5_000));
        assert_eq!(names(&late(5_000)), []);
        drop(queue);
        assert_eq!(names(&late(9_000)), [], "a loop that ended hangs no more");
        assert_eq!(pulses.names(), ["sink"]);
    }

    #[test]
    fn of_loops_with_one_name_the_worst_counts() {
        let start = Instant::now();
        let pulses = Pulses::new(start);
        let [one, two] = [(); 2].map(|()| Arc::new(Pulse::new(start)));
        pulses.watch("look", &one, terms(100, None));
        pulses.watch("look", &two, terms(100, None));
        two.beat(start + Duration::from_millis(200));
        let late = pulses.find_late(start + Duration::from_millis(400), &Stills::default());
        assert_eq!(names(&late), [("look", 400, false)]);
        assert_eq!(pulses.names(), ["look"]);
    }

    #[test]
    fn a_time_of_standing_still_is_nobodys_pause() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let pulses = Pulses::new(start);
        let [hung, fine] = [(); 2].map(|()| Arc::new(Pulse::new(start)));
        pulses.watch("hung", &hung, terms(100, None));
        pulses.watch("fine", &fine, terms(100, None));
        fine.beat(after(200));
        let mut stills = Stills::default();
        stills.add(after(10_200), Duration::from_millis(10_000));
        let late = pulses.find_late(after(10_210), &stills);
        assert_eq!(names(&late), [("hung", 210, false)]);
        let late = pulses.find_late(after(10_400), &stills);
        assert_eq!(names(&late), [("fine", 200, false), ("hung", 400, false)]);
        for _ in 0..2 * REMEMBERED {
            stills.add(after(10_500), Duration::from_millis(1));
        }
        assert_eq!(stills.0.len(), REMEMBERED);
    }

    /// Whoever does not look cannot say that all is well.
    #[test]
    fn a_watch_that_hangs_is_not_well() {
        let Some(start) = Instant::now().checked_sub(2 * BLIND) else {
            return;
        };
        let pulses = Pulses::new(start);
        assert!(pulses.late().first().is_some_and(|late| late.restart));
        pulses.looks.beat(Instant::now());
        assert_eq!(*pulses.late(), []);
    }

    /// A hang of the state is seen within a minute, unless a long work was announced: then within five.
    #[test]
    fn only_announced_work_may_hold_the_state_for_minutes() {
        let desk = glance::Desk::default();
        assert_eq!(desk.works_for(), None, "nobody has announced anything");
        assert!(LONGEST_HOLD < LONGEST_WORK);
        assert!(is_in_time(LONGEST_WORK - LONGEST_HOLD));
        assert!(!is_in_time(LONGEST_WORK));
    }

    #[test]
    fn a_turn_may_last_as_long_as_the_configuration_lets_packets_wait() {
        let seconds = Duration::from_secs;
        let usual = Duration::from_millis(50);
        assert_eq!(longest_turn(seconds(30), usual), seconds(15));
        assert_eq!(longest_turn(seconds(3), seconds(5)), seconds(12));
        assert_eq!(Terms::queue(usual).limit, seconds(2));
        assert_eq!(Terms::queue(seconds(5)).limit, seconds(11));
    }
}
