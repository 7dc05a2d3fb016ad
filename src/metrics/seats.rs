//! Who of many connections may stay: each new one may, and the one that has been idle longest goes.
//!
//! Whoever holds connections without asking anything, or without reading the answer, can only push out
//! others like it: who asks is answered within moments, long before it is the oldest.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// The seats of one server.
#[derive(Debug)]
pub(super) struct Seats {
    capacity: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    /// By age, the oldest first.
    seats: BTreeMap<u64, Taker>,
}

#[derive(Debug)]
struct Taker {
    /// Its whole request is here.
    has_asked: bool,
    /// Dropped when it has to go.
    _stay: oneshot::Sender<()>,
}

/// A seat; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    number: u64,
}

impl Seats {
    pub(super) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            capacity,
            taken: Mutex::default(),
        })
    }

    /// A seat for a new connection. The second value ends when it has to go for a newer one.
    pub(super) fn take(self: &Arc<Self>) -> (Seat, oneshot::Receiver<()>) {
        let (stay, goes) = oneshot::channel();
        let mut taken = self.lock();
        while taken.seats.len() >= self.capacity {
            let idle = taken.seats.iter().find(|(_, taker)| !taker.has_asked);
            let oldest = idle.or_else(|| taken.seats.first_key_value());
            let Some(number) = oldest.map(|(number, _)| *number) else {
                break;
            };
            taken.seats.remove(&number);
        }
        let number = taken.next;
        taken.next += 1;
        let taker = Taker {
            has_asked: false,
            _stay: stay,
        };
        taken.seats.insert(number, taker);
        drop(taken);
        let seats = Arc::clone(self);
        (Seat { seats, number }, goes)
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Its whole request is here.
    pub(super) fn has_asked(&self) {
        if let Some(taker) = self.seats.lock().seats.get_mut(&self.number) {
            taker.has_asked = true;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.lock().seats.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goes(goes: &mut oneshot::Receiver<()>) -> bool {
        goes.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn the_oldest_that_has_not_asked_goes_first() {
        let seats = Seats::new(3);
        let mut all: Vec<_> = (0..3).map(|_| seats.take()).collect();
        all[0].0.has_asked();
        let mut newest = seats.take();
        assert_eq!(
            all.iter_mut().map(|(_, end)| goes(end)).collect::<Vec<_>>(),
            [false, true, false]
        );
        // Where all have asked, the oldest of all.
        all[2].0.has_asked();
        newest.0.has_asked();
        let _another = seats.take();
        assert!(goes(&mut all[0].1) && !goes(&mut all[2].1) && !goes(&mut newest.1));
    }

    #[test]
    fn a_seat_that_is_left_is_free() {
        let seats = Seats::new(2);
        let (mut one, two) = (seats.take(), seats.take());
        drop(two);
        let _three = seats.take();
        assert!(!goes(&mut one.1));
        assert_eq!(seats.lock().seats.len(), 2);
    }
}
