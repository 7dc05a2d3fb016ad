//! Numbers of the packet path, for metrics and status: atomics only. Nothing here locks, and nothing
//! that is configured allocates.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;

use super::arming::WOULD;
use crate::{
    alert::Alert,
    attribution::{Grade, Source},
    feed::{Action, Direction, FeedName},
};

/// How a source was found; what is not here is `other`.
const METHODS: [&str; 17] = [
    "sock-diag",
    "sock-diag-listener",
    "local-end",
    "raw-socket",
    "ping-socket",
    "kernel-socket",
    "nfqa-uid",
    "forward",
    "netns",
    "netns-sock-diag",
    "netns-sock-diag-listener",
    "netns-local-end",
    "netns-raw-socket",
    "netns-ping-socket",
    "netns-packet-socket",
    "live-flow",
    "other",
];

/// The same name as it is written here, if it is one of them.
pub(super) fn method_named(name: &str) -> Option<&'static str> {
    METHODS.into_iter().find(|method| *method == name)
}

/// Parts of causes, and the kind that each one is of; the first that fits counts.
const CAUSES: [(&str, &str); 30] = [
    ("more new flows at once", "overload"),
    ("timeout after", "timeout"),
    ("also held by", "shared"),
    ("not readable", "not-readable"),
    ("out of file descriptors", "not-readable"),
    ("has no visible holder", "no-holder"),
    ("the socket has no owner", "no-holder"),
    ("no socket: ", "no-socket"),
    ("no socket of this host", "no-socket"),
    ("no socket on the local end", "no-socket"),
    ("no ping or raw socket", "no-socket"),
    ("the kernel itself", "kernel"),
    ("a later fragment", "no-ports"),
    ("the packet ends before", "no-ports"),
    ("may be its source", "ambiguous"),
    ("several sockets share", "ambiguous"),
    ("packet sockets there", "ambiguous"),
    ("a raw socket of this user", "ambiguous"),
    ("the queue names uid", "user-differs"),
    ("live flows", "live-flow"),
    ("there is no packet", "live-flow"),
    ("link-layer address", "no-link-address"),
    ("network namespace", "namespace"),
    ("enter a namespace", "namespace"),
    ("enters a namespace", "namespace"),
    ("it has ended", "no-holder"),
    ("policies ask for", "policy"),
    ("staged ", "policy"),
    ("logged by ", "policy"),
    ("", "other"),
];

/// Bounds of the time that a packet waits for its verdict, in microseconds.
const VERDICT: [u64; 16] = [
    10, 25, 50, 75, 100, 150, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000,
    1_000_000,
];
/// Bounds of the time of a change of the kernel's sets, in microseconds.
const SYNC: [u64; 11] = [
    1_000, 5_000, 10_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    30_000_000,
];

const GRADES: [Grade; 3] = [Grade::Unknown, Grade::Likely, Grade::Exact];
pub(super) const ACTIONS: [Action; 2] = [Action::Alert, Action::Deny];
pub(super) const DIRECTIONS: [Direction; 2] = [Direction::Egress, Direction::Ingress];

/// All of them.
#[derive(Debug)]
pub(super) struct Meters {
    flows: Flows,
    feeds: ArcSwap<BTreeMap<FeedName, Arc<Flows>>>,
    attributions: [[AtomicU64; METHODS.len()]; GRADES.len()],
    causes: [AtomicU64; CAUSES.len()],
    /// From a packet's arrival in the daemon to its answer.
    pub(super) verdict: Histogram<{ VERDICT.len() }>,
    /// Changes of the kernel's sets.
    pub(super) sync: Histogram<{ SYNC.len() }>,
}

/// Flows by verdict and direction.
#[derive(Debug, Default)]
pub(super) struct Flows([[AtomicU64; 2]; 2]);

impl Default for Meters {
    fn default() -> Self {
        Self {
            flows: Flows::default(),
            feeds: ArcSwap::default(),
            attributions: Default::default(),
            causes: Default::default(),
            verdict: Histogram::new(&VERDICT),
            sync: Histogram::new(&SYNC),
        }
    }
}

impl Meters {
    /// Counts by these feeds from now on; those that stay go on.
    pub(super) fn set_feeds<'a>(&self, names: impl Iterator<Item = &'a FeedName>) {
        let old = self.feeds.load();
        let row = |name: &FeedName| (name.clone(), old.get(name).cloned().unwrap_or_default());
        self.feeds.store(Arc::new(names.map(row).collect()));
    }

    /// Counts the flow of an alert.
    pub(super) fn count(&self, alert: &Alert) {
        self.flows.count(alert);
        let feeds = self.feeds.load();
        for flows in alert.feeds.iter().filter_map(|feed| feeds.get(feed)) {
            flows.count(alert);
        }
        self.attributed(&alert.source);
    }

    fn attributed(&self, source: &Source) {
        let method = source.method.unwrap_or("other");
        let known = METHODS.iter().position(|known| *known == method);
        let column = known.unwrap_or(METHODS.len() - 1);
        let grade = GRADES.iter().position(|grade| *grade == source.grade);
        let row = grade.and_then(|row| self.attributions.get(row));
        if let Some(cell) = row.and_then(|row| row.get(column)) {
            cell.fetch_add(1, Relaxed);
        }
        // Behind that nothing is said of the source.
        let cause = source
            .cause
            .as_ref()
            .and_then(|cause| cause.split(WOULD).next());
        if let Some(cause) = cause.filter(|cause| !cause.is_empty()) {
            let kind = CAUSES.iter().position(|(part, _)| cause.contains(part));
            if let Some(cell) = kind.and_then(|kind| self.causes.get(kind)) {
                cell.fetch_add(1, Relaxed);
            }
        }
    }

    /// All flows.
    pub(super) fn flows(&self) -> &Flows {
        &self.flows
    }

    /// Flows of each feed.
    pub(super) fn feeds(&self) -> Arc<BTreeMap<FeedName, Arc<Flows>>> {
        self.feeds.load_full()
    }

    /// Attributions by grade and method, those that there were.
    pub(super) fn attributions(&self) -> Vec<(&'static str, &'static str, u64)> {
        let rows = GRADES.iter().zip(&self.attributions);
        rows.flat_map(|(grade, row)| {
            let cells = METHODS.iter().zip(row);
            cells.map(|(method, cell)| (grade.as_str(), *method, cell.load(Relaxed)))
        })
        .filter(|(_, _, count)| *count > 0)
        .collect()
    }

    /// Why something of a source was not known, by kind.
    pub(super) fn causes(&self) -> BTreeMap<&'static str, u64> {
        let mut kinds = BTreeMap::new();
        for ((_, kind), cell) in CAUSES.iter().zip(&self.causes) {
            *kinds.entry(*kind).or_default() += cell.load(Relaxed);
        }
        kinds
    }
}

impl Flows {
    fn count(&self, alert: &Alert) {
        if let Some(cell) = self.cell(alert.action, alert.direction) {
            cell.fetch_add(1, Relaxed);
        }
    }

    /// How many there were.
    pub(super) fn get(&self, action: Action, direction: Direction) -> u64 {
        let cell = self.cell(action, direction);
        cell.map_or(0, |cell| cell.load(Relaxed))
    }

    fn cell(&self, action: Action, direction: Direction) -> Option<&AtomicU64> {
        let row = ACTIONS.iter().position(|known| *known == action)?;
        let column = DIRECTIONS.iter().position(|known| *known == direction)?;
        self.0.get(row)?.get(column)
    }
}

/// Durations in buckets.
#[derive(Debug)]
pub(super) struct Histogram<const N: usize> {
    /// Upper bounds in microseconds, ascending.
    bounds: &'static [u64; N],
    buckets: [AtomicU64; N],
    over: AtomicU64,
    nanos: AtomicU64,
}

/// A histogram as it was at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    /// Seconds.
    pub(super) sum: f64,
    pub(super) count: u64,
    /// Upper bound in seconds, the last one infinite, and how many there were in this bucket alone.
    pub(super) buckets: Vec<(f64, u64)>,
}

impl<const N: usize> Histogram<N> {
    fn new(bounds: &'static [u64; N]) -> Self {
        Self {
            bounds,
            buckets: [const { AtomicU64::new(0) }; N],
            over: AtomicU64::new(0),
            nanos: AtomicU64::new(0),
        }
    }

    /// Counts one.
    pub(super) fn observe(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let place = self.bounds.partition_point(|bound| bound * 1_000 < nanos);
        let bucket = self.buckets.get(place).unwrap_or(&self.over);
        bucket.fetch_add(1, Relaxed);
        self.nanos.fetch_add(nanos, Relaxed);
    }

    /// What it holds.
    pub(super) fn seen(&self) -> Seen {
        let bounds = self.bounds.iter().map(|bound| seconds(*bound));
        let counts = self.buckets.iter().chain([&self.over]);
        let buckets: Vec<(f64, u64)> = bounds
            .chain([f64::INFINITY])
            .zip(counts.map(|count| count.load(Relaxed)))
            .collect();
        let nanos = Duration::from_nanos(self.nanos.load(Relaxed));
        Seen {
            sum: nanos.as_secs_f64(),
            count: buckets.iter().map(|(_, count)| count).sum(),
            buckets,
        }
    }
}

fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::alert::example;

    #[test]
    fn flows_are_counted_by_feed_and_go_on_after_a_reload() {
        let meters = Meters::default();
        let (a, b): (FeedName, FeedName) = ("a".parse().unwrap(), "b".parse().unwrap());
        meters.set_feeds([&a, &b].into_iter());
        let mut alert = example::alert();
        alert.feeds = vec![a.clone(), b.clone()];
        meters.count(&alert);
        alert.feeds.pop();
        alert.direction = Direction::Ingress;
        meters.count(&alert);
        let of = |name: &FeedName, direction| {
            meters
                .feeds()
                .get(name)
                .map_or(99, |flows| flows.get(Action::Deny, direction))
        };
        assert_eq!(of(&a, Direction::Egress), 1);
        assert_eq!(of(&b, Direction::Egress), 1);
        assert_eq!(of(&b, Direction::Ingress), 0);
        assert_eq!(meters.flows().get(Action::Deny, Direction::Ingress), 1);
        assert_eq!(meters.flows().get(Action::Alert, Direction::Ingress), 0);
        meters.set_feeds([&a].into_iter());
        assert_eq!(of(&a, Direction::Ingress), 1);
        assert_eq!(of(&b, Direction::Ingress), 99);
    }

    #[test]
    fn sources_are_counted_by_grade_method_and_cause() {
        let meters = Meters::default();
        let source = |method, cause: &str| Source {
            method,
            cause: Some(cause.to_owned()),
            ..Source::default()
        };
        meters.attributed(&source(Some("forward"), "timeout after 50ms"));
        meters.attributed(&source(Some("new-one"), "because"));
        meters.attributed(&example::alert().source);
        assert_eq!(
            meters.attributions(),
            [
                ("unknown", "forward", 1),
                ("unknown", "other", 1),
                ("exact", "sock-diag", 1),
            ]
        );
        let causes = meters.causes();
        assert_eq!((causes["timeout"], causes["other"]), (1, 1));
        assert_eq!(causes.values().sum::<u64>(), 2);
    }

    /// The causes of docs/troubleshooting.md are all of a kind.
    #[test]
    fn documented_causes_are_of_a_kind() {
        let text = include_str!("../../docs/troubleshooting.md");
        let table = text
            .split("\n## An alert without a process\n")
            .nth(1)
            .unwrap();
        let table = table.split("\n## ").next().unwrap();
        let mut seen = 0;
        for cause in table.lines().filter_map(|line| line.strip_prefix("| `")) {
            let cause = cause.split('`').next().unwrap();
            let kind = CAUSES.iter().find(|(part, _)| cause.contains(part));
            assert_ne!(kind.unwrap().1, "other", "{cause}");
            seen += 1;
        }
        assert!(seen > 12, "{seen}");
    }

    #[test]
    fn durations_fall_into_buckets() {
        let histogram = Histogram::new(&VERDICT);
        for micros in [0, 10, 11, 999, 1_000_000, 1_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        let seen = histogram.seen();
        assert_eq!(seen.count, 6);
        assert_eq!(seen.buckets[0], (0.00001, 2));
        assert_eq!(seen.buckets[1], (0.000025, 1));
        assert_eq!(seen.buckets[8], (0.001, 1));
        assert_eq!(seen.buckets[15], (1.0, 1));
        assert_eq!(seen.buckets[16], (f64::INFINITY, 1));
        assert!((seen.sum - 2.001_021).abs() < 1e-9, "{}", seen.sum);
    }

    #[test]
    #[ignore = "a measurement, run by hand in release mode"]
    fn cost() {
        let meters = Meters::default();
        let alert = example::alert();
        meters.set_feeds(alert.feeds.iter());
        const N: u32 = 1_000_000;
        let now = Instant::now();
        for _ in 0..N {
            meters.count(std::hint::black_box(&alert));
            meters.verdict.observe(Duration::from_micros(80));
        }
        println!("{:?} for one flow", now.elapsed() / N);
    }
}
