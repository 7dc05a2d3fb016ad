//! When the packets of a queue came, as far as it can be known.
//!
//! A packet of local output carries no time, and the kernel does not say how long one waits. But it
//! numbers packets as they come, and tells the number of the last one: whichever of them has that
//! number or a lower one was there by then. So the age of a packet is known from below, within the
//! time between two looks.

use std::{
    collections::VecDeque,
    path::Path,
    time::{Duration, Instant},
};

use crate::queue::States;

/// Between two looks.
const EVERY: Duration = Duration::from_millis(1);
/// Looks remembered; of more every second one is forgotten.
const MOST: usize = 1024;

/// Looks at one queue.
pub(super) struct Arrivals {
    states: States,
    queue: u16,
    looks: VecDeque<Look>,
    waiting: u64,
}

#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    /// Number of the last packet then.
    last: u32,
}

impl Arrivals {
    /// Of queue number `queue`; `file` is the kernel's about queues.
    pub(super) fn new(file: &Path, queue: u16) -> Self {
        Self {
            states: States::open(file),
            queue,
            looks: VecDeque::new(),
            waiting: 0,
        }
    }

    /// When packet number `id`, which is judged at `now`, was there at the latest. Packets are asked
    /// about in their order.
    pub(super) fn of(&mut self, id: u32, now: Instant) -> Instant {
        let is_due = |last: &Look| now.saturating_duration_since(last.at) >= EVERY;
        if self.looks.back().is_none_or(is_due) {
            self.look(now);
        }
        while self.looks.front().is_some_and(|look| !covers(look, id)) {
            self.looks.pop_front();
        }
        self.looks.front().map_or(now, |look| look.at)
    }

    /// The queue's number.
    pub(super) fn queue(&self) -> u16 {
        self.queue
    }

    /// Packets that wait, as of the last look.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting
    }

    fn look(&mut self, now: Instant) {
        let Some(state) = self.states.get(self.queue) else {
            self.waiting = 0;
            return;
        };
        self.waiting = state.waiting;
        if self.looks.len() >= MOST {
            let mut at = 0_usize;
            self.looks.retain(|_| {
                at += 1;
                !at.is_multiple_of(2) // the oldest stays
            });
        }
        let last = state.last;
        self.looks.push_back(Look { at: now, last });
    }
}

/// True when the packet had come by then; numbers wrap around.
fn covers(look: &Look, id: u32) -> bool {
    look.last.wrapping_sub(id) < u32::MAX / 2
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn a_packet_is_as_old_as_the_first_look_that_saw_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("queues");
        let write = |waiting: u32, last: u32| {
            let line = format!(" 7 1 {waiting} 2 256 0 0 {last} 1\n");
            fs::write(&file, line).unwrap();
        };
        write(1, 1);
        let mut arrivals = Arrivals::new(&file, 7);
        let begun = Instant::now();
        let at = |millis: u32| begun + MILLI * millis;
        assert_eq!(arrivals.of(1, at(0)), at(0));
        write(9, 10);
        assert_eq!(
            arrivals.of(2, at(0)),
            at(0),
            "seen at once: nothing is known"
        );
        assert_eq!(arrivals.of(3, at(20)), at(20));
        assert_eq!(arrivals.waiting(), 9);
        write(7, 12);
        assert_eq!(arrivals.of(4, at(70)), at(20), "of the look before");
        assert_eq!(arrivals.of(10, at(90)), at(20));
        assert_eq!(arrivals.of(11, at(95)), at(70));
        assert_eq!(arrivals.of(13, at(95)), at(95), "of none");
    }

    #[test]
    fn numbers_wrap_and_memory_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("queues");
        fs::write(&file, format!("7 1 1 2 256 0 0 {} 1\n", 5)).unwrap();
        let mut arrivals = Arrivals::new(&file, 7);
        let begun = Instant::now();
        for millis in 0..3000 {
            let at = arrivals.of(u32::MAX - 2, begun + MILLI * millis);
            assert!(at <= begun + MILLI, "as old as ever: {millis}");
        }
        assert!(arrivals.looks.len() <= MOST);
        let later = begun + MILLI * 4000;
        assert_eq!(arrivals.of(6, later), later);
        let gone = Arrivals::new(&folder.path().join("none"), 7).of(1, later);
        assert_eq!(gone, later);
    }
}
