//! What a queue thread does when it falls behind: of sources that it has looked up often enough, it
//! counts flows without looking them up again, so that the queue does not overflow.
//!
//! A flood is most often one source and one indicator. The first flows of each kind (user, address,
//! card, indicator) are looked up all the same, and one of many later on, so that other processes
//! with the same marks show too. The others are judged like any flow, and their alert names the user
//! or the machine: `attribution="unknown"`, with a cause. What an overflowing queue passes on has
//! not even that.

use std::{
    collections::HashMap,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::{
    config::Hook,
    feed::{Direction, Indicator},
    packet::Flow,
    policy::Decision,
    queue::{Held, states},
};

/// What is said of a source that was not looked up.
pub(super) const CAUSE: &str =
    "more new flows at once than can be looked up, and many of the same kind were";

/// The queue is looked at once for so many packets.
const EVERY: u32 = 64;
/// Behind from this share of the queue's length on, until it is below a quarter of that.
const SHARE: u64 = 16;
/// Not before so many wait, however short the queue is.
const LEAST: u64 = 64;
/// Flows of one kind that are looked up in each [`PERIOD`] before the others are counted.
const ENOUGH: u32 = 64;
/// Of the others one in so many is looked up.
const SAMPLE: u32 = 64;
const PERIOD: Duration = Duration::from_secs(1);
/// Kinds remembered for a period; flows of more are all looked up.
const KINDS: usize = 4096;

/// The load of one queue.
pub(super) struct Pressure {
    /// The kernel's file about queues.
    file: PathBuf,
    queue: u16,
    high: u64,
    packets: u32,
    behind: bool,
    since: Option<Instant>,
    kinds: HashMap<Kind, u32>,
}

/// Flows that most likely have one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    hook: Hook,
    uid: Option<u32>,
    mac: Option<[u8; 6]>,
    indev: Option<u32>,
    src: IpAddr,
    indicator: Indicator,
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
            indicator: decision.hit.indicator,
            direction: decision.direction,
        }
    }
}

impl Pressure {
    /// Of queue number `queue`, which holds `max_len` packets; `file` is the kernel's about queues.
    pub(super) fn new(file: PathBuf, queue: u16, max_len: u32) -> Self {
        Self {
            file,
            queue,
            high: (u64::from(max_len) / SHARE).max(LEAST),
            packets: 0,
            behind: false,
            since: None,
            kinds: HashMap::new(),
        }
    }

    /// True when the packet's source is not to be looked up. Never to be asked where the verdict hangs
    /// on the source.
    pub(super) fn folds(&mut self, kind: impl FnOnce() -> Option<Kind>, now: Instant) -> bool {
        if self.packets.is_multiple_of(EVERY) {
            self.look();
        }
        self.packets = self.packets.wrapping_add(1);
        if !self.behind {
            return false;
        }
        let over = |since: Instant| now.saturating_duration_since(since) >= PERIOD;
        if self.since.is_none_or(over) {
            self.since = Some(now);
            self.kinds.clear();
        }
        let Some(kind) = kind() else {
            return false;
        };
        if self.kinds.len() >= KINDS && !self.kinds.contains_key(&kind) {
            return false;
        }
        let seen = self.kinds.entry(kind).or_default();
        *seen = seen.saturating_add(1);
        *seen > ENOUGH && !seen.is_multiple_of(SAMPLE)
    }

    fn look(&mut self) {
        let states = states(&self.file);
        let mine = states.iter().find(|state| state.number == self.queue);
        let waiting = mine.map_or(0, |state| state.waiting);
        self.behind = waiting >= self.high || (self.behind && waiting >= self.high / 4);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn kind(uid: u32) -> Kind {
        Kind {
            hook: Hook::Output,
            uid: Some(uid),
            mac: None,
            indev: None,
            src: "192.0.2.2".parse().unwrap(),
            indicator: "203.0.113.1".parse().unwrap(),
            direction: Direction::Egress,
        }
    }

    /// How many of so many flows are folded.
    fn folded(pressure: &mut Pressure, flows: u32, uid: u32, now: Instant) -> usize {
        (0..flows)
            .filter(|_| pressure.folds(|| Some(kind(uid)), now))
            .count()
    }

    #[test]
    fn only_a_queue_that_fills_up_folds_and_only_what_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("queues");
        let waiting = |count: u32| {
            let text = format!(" 9 1 60000 2 256 0 0 0 1\n 7 1 {count} 2 256 0 0 0 1\n");
            fs::write(&file, text).unwrap();
        };
        waiting(99);
        let mut pressure = Pressure::new(file.clone(), 7, 1600);
        let now = Instant::now();
        assert_eq!(folded(&mut pressure, 640, 1, now), 0, "it keeps up");
        waiting(100);
        assert_eq!(folded(&mut pressure, 640, 1, now), 640 - 64 - 9);
        assert_eq!(folded(&mut pressure, 64, 2, now), 0, "another user is new");
        waiting(25);
        assert_eq!(folded(&mut pressure, 64, 1, now), 63, "not yet caught up");
        waiting(24);
        assert_eq!(folded(&mut pressure, 64, 1, now), 0);
        waiting(1600);
        let later = now + PERIOD;
        assert_eq!(folded(&mut pressure, 128, 1, later), 63, "looked up anew");
    }
}
