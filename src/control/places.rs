//! How many clients are answered at once, so that none keeps all others out.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Clients answered at once.
const ALL: usize = 32;
/// Of these, for root only.
const KEPT: usize = 2;
/// Clients of one user answered at once. Root is not held to this: root can stop the daemon anyway.
const EACH: usize = 8;
/// Connections of one user, with those that wait for a place.
const EACH_OPEN: usize = 64;
/// KiB of texts that are held at once for all users but root: two of the longest, [`super::MAX_BODY`].
const TEXTS: usize = 512 << 10;
/// Connections of all users but root: each is a file descriptor of the daemon.
const ALL_OPEN: usize = 192;

/// The places of one socket.
#[derive(Debug)]
pub(super) struct Places {
    common: Arc<Semaphore>,
    kept: Arc<Semaphore>,
    texts: Arc<Semaphore>,
    users: Mutex<HashMap<u32, User>>,
}

#[derive(Debug)]
struct User {
    /// Connections.
    open: usize,
    places: Arc<Semaphore>,
}

impl Places {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            common: Arc::new(Semaphore::new(ALL - KEPT)),
            kept: Arc::new(Semaphore::new(KEPT)),
            texts: Arc::new(Semaphore::new(TEXTS)),
            users: Mutex::default(),
        })
    }

    /// Counts a connection of this user in; `None` when there are too many. Never waits.
    pub(super) fn enter(self: &Arc<Self>, uid: u32) -> Option<Entered> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let others: usize = users
            .iter()
            .filter(|(uid, _)| **uid != 0)
            .map(|(_, user)| user.open)
            .sum();
        let open = users.get(&uid).map_or(0, |user| user.open);
        if open >= EACH_OPEN || (uid != 0 && others >= ALL_OPEN) {
            return None;
        }
        let user = users.entry(uid).or_insert_with(|| User {
            open: 0,
            places: Arc::new(Semaphore::new(if uid == 0 { ALL } else { EACH })),
        });
        user.open += 1;
        Some(Entered {
            uid,
            own: Arc::clone(&user.places),
            places: Arc::clone(self),
        })
    }

    fn leave(&self, uid: u32) {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(user) = users.get_mut(&uid) {
            user.open = user.open.saturating_sub(1);
            if user.open == 0 {
                users.remove(&uid);
            }
        }
    }
}

/// A connection that was counted in; counted out when it is dropped.
#[derive(Debug)]
pub(super) struct Entered {
    uid: u32,
    own: Arc<Semaphore>,
    places: Arc<Places>,
}

/// A place; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _own: Option<OwnedSemaphorePermit>,
    _of_all: Option<OwnedSemaphorePermit>,
}

impl Entered {
    /// Waits for a place, in the order of coming.
    pub(super) async fn place(&self) -> Place {
        let (common, kept) = (&self.places.common, &self.places.kept);
        let own = Arc::clone(&self.own).acquire_owned().await;
        let of_all = if self.uid == 0 {
            tokio::select! {
                biased;
                place = Arc::clone(common).acquire_owned() => place,
                place = Arc::clone(kept).acquire_owned() => place,
            }
        } else {
            Arc::clone(common).acquire_owned().await
        };
        // No semaphore is ever closed, so both are there.
        Place {
            _own: own.ok(),
            _of_all: of_all.ok(),
        }
    }
}

impl Entered {
    /// Waits until there is room for a text of so many bytes; it is free again when the result is dropped.
    pub(super) async fn room(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX);
        let kib = kib.min(u32::try_from(TEXTS).unwrap_or(u32::MAX));
        if self.uid == 0 || kib == 0 {
            return None;
        }
        let texts = Arc::clone(&self.places.texts);
        texts.acquire_many_owned(kib).await.ok()
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.places.leave(self.uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The place, if there is one right now.
    fn now(entered: &Entered) -> Option<Place> {
        let mut place = std::pin::pin!(entered.place());
        let waker = std::task::Waker::noop();
        match place
            .as_mut()
            .poll(&mut std::task::Context::from_waker(waker))
        {
            std::task::Poll::Ready(place) => Some(place),
            std::task::Poll::Pending => None,
        }
    }

    fn fill(places: &Arc<Places>, uid: u32, count: usize) -> Vec<(Entered, Option<Place>)> {
        let entered = (0..count).map(|_| places.enter(uid).unwrap());
        let with_place = |entered| {
            let place = now(&entered);
            (entered, place)
        };
        entered.map(with_place).collect()
    }

    fn seated(clients: &[(Entered, Option<Place>)]) -> usize {
        clients.iter().filter(|(_, place)| place.is_some()).count()
    }

    #[test]
    fn one_user_leaves_places_to_others_and_all_of_them_leave_two_to_root() {
        let places = Places::new();
        let first = fill(&places, 1000, 40);
        assert_eq!(seated(&first), EACH);
        let others: Vec<_> = (1001..1004).map(|uid| fill(&places, uid, 9)).collect();
        let all: usize = others.iter().map(|clients| seated(clients)).sum();
        assert_eq!(all + seated(&first), ALL - KEPT);
        let root = fill(&places, 0, 3);
        assert_eq!(seated(&root), KEPT);
        // A place that becomes free is the next one's.
        drop(others);
        assert!(now(&places.enter(0).unwrap()).is_some());
        drop((first, root));
        assert!(
            places.users.lock().unwrap().is_empty(),
            "all are counted out"
        );
        assert_eq!(seated(&fill(&places, 0, ALL + 1)), ALL, "root may have all");
    }

    #[test]
    fn texts_are_bounded() {
        let places = Places::new();
        let now = |entered: &Entered, bytes| {
            let mut room = std::pin::pin!(entered.room(bytes));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            room.as_mut().poll(&mut context)
        };
        let entered = places.enter(1000).unwrap();
        let held: Vec<_> = (0..2)
            .map(|_| now(&entered, crate::control::MAX_BODY))
            .collect();
        assert!(held.iter().all(std::task::Poll::is_ready));
        assert!(now(&entered, 1).is_pending());
        assert!(now(&entered, 0).is_ready());
        assert!(
            now(&places.enter(0).unwrap(), 1 << 30).is_ready(),
            "root is not held up"
        );
        drop(held);
        assert!(now(&entered, crate::control::MAX_BODY).is_ready());
    }

    #[test]
    fn connections_are_bounded() {
        let places = Places::new();
        let mut open = fill(&places, 1000, EACH_OPEN);
        assert!(places.enter(1000).is_none());
        open.pop();
        open.extend(fill(&places, 1000, 1));
        open.extend(fill(&places, 1001, EACH_OPEN));
        open.extend(fill(&places, 1002, ALL_OPEN - 2 * EACH_OPEN));
        assert!(places.enter(1003).is_none());
        assert!(places.enter(0).is_some(), "those do not count for root");
    }
}
