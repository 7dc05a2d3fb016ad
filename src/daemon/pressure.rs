//! What a queue thread does when it falls behind, so that one that floods does not delay others: it
//! spends less time on those that took the most.
//!
//! A flood is most often one source and one indicator. Each kind of flow (user, address, card,
//! indicator) has a share of the thread's time, and so has each source with all its indicators. While
//! packets wait too long, flows of a kind that has used its share are not looked up: they are judged
//! like any flow, and their alert names the user or the machine: `attribution="unknown"`, with a
//! cause. What an overflowing queue passes on has not even that. Where the verdict depends on the
//! source, it is looked up all the same, in less time.

use std::{
    collections::HashMap,
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

use super::arrivals::Arrivals;
use crate::{
    config::Hook,
    feed::{Direction, Indicator},
    packet::Flow,
    policy::Decision,
    queue::Held,
};

/// What is said of a source that was not looked up, since its kind has used its share.
pub(super) const CAUSE: &str =
    "more new flows at once than can be looked up, and many of the same kind were";
/// The same, since all wait too long.
pub(super) const CAUSE_ALL: &str = "more new flows at once than can be looked up in time";

/// Behind when a packet has waited so long.
const LATE: Duration = Duration::from_millis(100);
/// Nobody is looked up any more when one has waited so long.
const TOO_LATE: Duration = Duration::from_millis(150);
/// A thread that was behind stays careful for so long: a flood that is folded does not look like one.
const HOLD: Duration = Duration::from_secs(5);
/// Of each second a kind may use a tenth.
const KIND_PART: u32 = 10;
/// Of each second the flows of one source, whatever their indicators, may use a quarter.
const SOURCE_PART: u32 = 4;
/// What is remembered of the time that was used.
const PERIOD: Duration = Duration::from_secs(1);
/// Lookups that must not be left out: all that wait should take no longer than this.
const HURRY: Duration = Duration::from_millis(50);
/// Each of those has at least, and at most.
const HURRIES: [Duration; 2] = [Duration::from_micros(100), Duration::from_millis(2)];

/// The queue fills up from this share of its length on, until it is below a quarter of that.
const FILLS: u64 = 16;
/// Not before so many wait, however short the queue is.
const LEAST: u64 = 64;
/// Flows of one kind that are looked up in each [`PERIOD`] while the queue fills up.
const ENOUGH: u32 = 64;
/// Of the others one in so many is looked up.
const SAMPLE: u32 = 64;
/// Kinds remembered; others are taken for one that has used its share.
const KINDS: usize = 4096;
/// How often it is looked for kinds to forget.
const FORGETS: Duration = Duration::from_millis(100);

/// The load of one queue.
pub(super) struct Pressure {
    arrivals: Arrivals,
    spending: Spending,
    counting: Counting,
    /// When a packet was late the last time.
    late: Option<Instant>,
    /// From so many waiting packets on the queue fills up.
    high: u64,
    fills: bool,
}

/// How much is done to find a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effort {
    /// All that is configured.
    Full,
    /// Less time than that.
    Within(Duration),
    /// None, and what is said of it.
    Nothing(&'static str),
}

impl Effort {
    /// In words, for the log.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Full => "source looked up",
            Self::Within(_) => "source looked up in less time",
            Self::Nothing(_) => "source not looked up",
        }
    }
}

/// Flows that most likely have one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    hook: Hook,
    uid: Option<u32>,
    mac: Option<[u8; 6]>,
    indev: Option<u32>,
    src: IpAddr,
    /// `None`: any.
    indicator: Option<Indicator>,
    direction: Direction,
}

impl Kind {
    pub(super) fn of(packet: &Held<'_>, flow: &Flow, decision: &Decision) -> Self {
        Self {
            hook: packet.hook,
            uid: packet.uid,
            mac: packet.mac,
            indev: packet.indev,
            src: flow.src,
            indicator: Some(decision.hit.indicator),
            direction: decision.direction,
        }
    }

    /// Itself and its source, with the part of each second that they may use.
    fn with_parts(self) -> [(Self, u32); 2] {
        let source = Self {
            indicator: None,
            ..self
        };
        [(self, KIND_PART), (source, SOURCE_PART)]
    }
}

impl Pressure {
    /// Of queue number `queue`, which holds `max_len` packets; `file` is the kernel's about queues.
    pub(super) fn new(file: &Path, queue: u16, max_len: u32) -> Self {
        Self {
            arrivals: Arrivals::new(file, queue),
            spending: Spending::default(),
            counting: Counting::default(),
            late: None,
            high: (u64::from(max_len) / FILLS).max(LEAST),
            fills: false,
        }
    }

    /// The queue's number.
    pub(super) fn queue(&self) -> u16 {
        self.arrivals.queue()
    }

    /// When packet number `id`, which is judged at `now`, was held at the latest.
    pub(super) fn held_by(&mut self, id: u32, now: Instant) -> Instant {
        self.arrivals.of(id, now)
    }

    /// How much to do for the source of a packet that was held by then. `depends`: the verdict depends on
    /// the source.
    pub(super) fn effort(
        &mut self,
        kind: &Kind,
        depends: bool,
        held: Instant,
        now: Instant,
    ) -> Effort {
        let age = now.saturating_duration_since(held);
        if age >= LATE {
            self.late = Some(now);
        }
        let since = |late: Instant| now.saturating_duration_since(late);
        let is_late = self.late.is_some_and(|late| since(late) < HOLD);
        let is_over = is_late && self.spending.is_over(kind, now);
        let is_many = self.fills() && self.counting.is_over(kind, now);
        match (depends, is_over || is_many, age >= TOO_LATE) {
            (false, true, _) => Effort::Nothing(CAUSE),
            (false, false, true) => Effort::Nothing(CAUSE_ALL),
            (true, true, _) | (true, _, true) => Effort::Within(self.hurry()),
            (_, false, false) => Effort::Full,
        }
    }

    /// Notes what the lookup of a flow took.
    pub(super) fn took(&mut self, kind: &Kind, time: Duration, now: Instant) {
        self.spending.add(kind, time, now);
    }

    /// The time of one lookup, such that all that wait are looked up soon.
    fn hurry(&self) -> Duration {
        let waiting = u32::try_from(self.arrivals.waiting()).unwrap_or(u32::MAX);
        let [least, most] = HURRIES;
        (HURRY / waiting.max(1)).clamp(least, most)
    }

    fn fills(&mut self) -> bool {
        let waiting = self.arrivals.waiting();
        self.fills = waiting >= self.high || (self.fills && waiting >= self.high / 4);
        self.fills
    }
}

/// The time that kinds of flows have used.
#[derive(Default)]
struct Spending {
    kinds: HashMap<Kind, Spent>,
    forgot: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Spent {
    time: Duration,
    at: Instant,
}

impl Spent {
    /// What is left of it later: a kind gets its part of each second back.
    fn left(self, part: u32, now: Instant) -> Duration {
        let since = now.saturating_duration_since(self.at);
        self.time.saturating_sub(since / part)
    }
}

impl Spending {
    /// True when this kind, or its source, has used its share.
    fn is_over(&self, kind: &Kind, now: Instant) -> bool {
        kind.with_parts().iter().any(|(kind, part)| {
            let share = PERIOD / *part;
            match self.kinds.get(kind) {
                Some(spent) => spent.left(*part, now) >= share,
                None => self.kinds.len() >= KINDS,
            }
        })
    }

    fn add(&mut self, kind: &Kind, time: Duration, now: Instant) {
        for (kind, part) in kind.with_parts() {
            self.forget(now);
            let is_full = self.kinds.len() >= KINDS;
            if is_full && !self.kinds.contains_key(&kind) {
                continue;
            }
            let before = self.kinds.get(&kind).map(|spent| spent.left(part, now));
            // After a second without lookups it is within its share.
            let time = (before.unwrap_or_default() + time).min(PERIOD / part * 2);
            self.kinds.insert(kind, Spent { time, at: now });
        }
    }

    /// Forgets the kinds that have all their time back, now and then.
    fn forget(&mut self, now: Instant) {
        let is_soon = |at: Instant| now.saturating_duration_since(at) < FORGETS;
        if self.kinds.len() < KINDS || self.forgot.is_some_and(is_soon) {
            return;
        }
        self.forgot = Some(now);
        let part = |kind: &Kind| match kind.indicator {
            Some(_) => KIND_PART,
            None => SOURCE_PART,
        };
        self.kinds
            .retain(|kind, spent| spent.left(part(kind), now) > Duration::ZERO);
    }
}

/// The flows of each kind while the queue fills up.
#[derive(Default)]
struct Counting {
    since: Option<Instant>,
    kinds: HashMap<Kind, u32>,
}

impl Counting {
    /// Counts one more, and says whether enough of its kind were looked up.
    fn is_over(&mut self, kind: &Kind, now: Instant) -> bool {
        let over = |since: Instant| now.saturating_duration_since(since) >= PERIOD;
        if self.since.is_none_or(over) {
            self.since = Some(now);
            self.kinds.clear();
        }
        if self.kinds.len() >= KINDS && !self.kinds.contains_key(kind) {
            return true;
        }
        let seen = self.kinds.entry(*kind).or_default();
        *seen = seen.saturating_add(1);
        *seen > ENOUGH && !seen.is_multiple_of(SAMPLE)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    fn kind(uid: u32) -> Kind {
        Kind {
            hook: Hook::Output,
            uid: Some(uid),
            mac: None,
            indev: None,
            src: "192.0.2.2".parse().unwrap(),
            indicator: Some("203.0.113.1".parse().unwrap()),
            direction: Direction::Egress,
        }
    }

    fn calm() -> Pressure {
        Pressure::new(Path::new("/nonexistent"), 7, 65_536)
    }

    /// How many of so many flows that do not wait are folded.
    fn folded(pressure: &mut Pressure, flows: u32, uid: u32, now: Instant) -> usize {
        let mut flow = |_: &u32| {
            pressure.held_by(1, now);
            pressure.effort(&kind(uid), false, now, now) == Effort::Nothing(CAUSE)
        };
        (0..flows).filter(|at| flow(at)).count()
    }

    #[test]
    fn only_a_queue_that_fills_up_folds_by_number() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("queues");
        let waiting = |count: u32| {
            let text = format!(" 9 1 60000 2 256 0 0 0 1\n 7 1 {count} 2 256 0 0 0 1\n");
            fs::write(&file, text).unwrap();
        };
        waiting(99);
        let mut pressure = Pressure::new(&file, 7, 1600);
        let begun = Instant::now();
        let at = |millis: u32| begun + MILLI * millis;
        assert_eq!(folded(&mut pressure, 640, 1, at(0)), 0, "it keeps up");
        waiting(100);
        assert_eq!(folded(&mut pressure, 640, 1, at(1)), 640 - 64 - 9);
        assert_eq!(
            folded(&mut pressure, 64, 2, at(2)),
            0,
            "another user is new"
        );
        waiting(25);
        assert_eq!(folded(&mut pressure, 64, 1, at(3)), 63, "not yet caught up");
        waiting(24);
        assert_eq!(folded(&mut pressure, 64, 1, at(4)), 0);
        waiting(1600);
        let later = at(1001);
        assert_eq!(folded(&mut pressure, 128, 1, later), 63, "a new period");
    }

    #[test]
    fn a_kind_that_used_its_share_is_folded_while_packets_are_late() {
        let (mut pressure, begun) = (calm(), Instant::now());
        pressure.took(&kind(1), MILLI * 99, begun);
        let effort =
            |pressure: &mut Pressure, uid, held, now| pressure.effort(&kind(uid), false, held, now);
        // Behind, and within its share.
        let now = begun + MILLI * 100;
        assert_eq!(effort(&mut pressure, 1, begun, now), Effort::Full);
        pressure.took(&kind(1), MILLI * 40, now);
        let fold = Effort::Nothing(CAUSE);
        assert_eq!(effort(&mut pressure, 1, begun, now), fold);
        assert_eq!(effort(&mut pressure, 2, begun, now), Effort::Full, "others");
        // It has caught up and remembers.
        let later = now + MILLI * 10;
        assert_eq!(effort(&mut pressure, 1, later, later), fold);
        // A tenth of each second comes back.
        let later = now + MILLI * 300;
        assert_eq!(effort(&mut pressure, 1, later, later), Effort::Full);
        pressure.took(&kind(1), MILLI * 50, later);
        assert_eq!(effort(&mut pressure, 1, later, later), fold);
        let calm = now + HOLD;
        assert_eq!(effort(&mut pressure, 1, calm, calm), Effort::Full);
    }

    #[test]
    fn who_is_not_behind_is_never_folded() {
        let (mut pressure, now) = (calm(), Instant::now());
        pressure.took(&kind(1), MILLI * 900, now);
        let held = now - LATE + MILLI;
        assert_eq!(pressure.effort(&kind(1), false, held, now), Effort::Full);
    }

    #[test]
    fn a_source_with_many_indicators_has_a_share_too() {
        let (mut pressure, now) = (calm(), Instant::now());
        let to = |last: u8| Kind {
            indicator: Some(format!("203.0.113.{last}").parse().unwrap()),
            ..kind(1)
        };
        for last in 0..5 {
            pressure.took(&to(last), MILLI * 50, now);
        }
        let effort = |pressure: &mut Pressure, kind| pressure.effort(&kind, false, now - LATE, now);
        assert_eq!(effort(&mut pressure, to(99)), Effort::Nothing(CAUSE));
        assert_eq!(effort(&mut pressure, kind(2)), Effort::Full);
        // Where all wait too long, nobody is looked up.
        let all = pressure.effort(&kind(2), false, now - TOO_LATE, now);
        assert_eq!(all, Effort::Nothing(CAUSE_ALL));
    }

    #[test]
    fn a_verdict_that_depends_on_the_source_gets_less_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("queues");
        let begun = Instant::now();
        for (waiting, millis, micros) in [(0, 0, 2_000), (50, 1, 1_000), (9_000, 2, 100)] {
            fs::write(&file, format!("7 1 {waiting} 2 256 0 0 0 1\n")).unwrap();
            let mut pressure = Pressure::new(&file, 7, 1 << 20);
            let now = begun + MILLI * millis;
            pressure.held_by(1, now);
            pressure.took(&kind(1), MILLI * 200, now);
            let effort = |pressure: &mut Pressure, uid, age| {
                pressure.effort(&kind(uid), true, now - age, now)
            };
            let less = Effort::Within(Duration::from_micros(micros));
            assert_eq!(effort(&mut pressure, 1, LATE), less);
            assert_eq!(effort(&mut pressure, 2, LATE), Effort::Full);
            assert_eq!(effort(&mut pressure, 2, TOO_LATE), less);
        }
    }

    #[test]
    fn memory_is_bounded_and_who_is_too_many_is_folded() {
        let (mut pressure, now) = (calm(), Instant::now());
        let kinds = u32::try_from(KINDS).unwrap();
        for uid in 0..kinds {
            pressure.took(&kind(uid), MILLI, now);
        }
        assert!(pressure.spending.kinds.len() <= KINDS);
        let new = kind(kinds + 1);
        let effort = pressure.effort(&new, false, now - LATE, now);
        assert_eq!(effort, Effort::Nothing(CAUSE));
        // Once the others have their time back, they are forgotten.
        let later = now + PERIOD;
        pressure.took(&new, MILLI, later);
        assert_eq!(pressure.spending.kinds.len(), 2);
    }

    proptest! {
        /// Whatever lookups take: while packets are late, a kind gets its share of the time, what it had
        /// at the beginning, and one lookup.
        #[test]
        fn a_flood_gets_a_tenth_of_the_time(
            lookups in prop::collection::vec((1_u64..60, 0_u64..30), 1..300),
        ) {
            let (mut pressure, begun) = (calm(), Instant::now());
            let (mut now, mut used, mut longest) = (begun, Duration::ZERO, Duration::ZERO);
            for (millis, pause) in lookups {
                let time = Duration::from_millis(millis);
                if pressure.effort(&kind(1), false, now - LATE, now) == Effort::Full {
                    now += time;
                    used += time;
                    longest = longest.max(time);
                    pressure.took(&kind(1), time, now);
                }
                now += Duration::from_millis(pause);
                let most = PERIOD / KIND_PART + now.duration_since(begun) / KIND_PART + longest;
                prop_assert!(used <= most, "{used:?} of {:?}", now.duration_since(begun));
            }
        }
    }
}
