//! Listed addresses that are exceptions, and when each was alerted: once a day for each address and feed.
//!
//! Pure: time is an argument. Bounded: of more pairs than fit the one that was alerted first is
//! forgotten, and may be alerted again within the day.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use crate::feed::FeedName;

/// How long a pair of address and feed is not alerted again.
pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Pairs that are remembered.
pub const MOST: usize = 4_096;

/// What was alerted within the last day.
#[derive(Debug, Default)]
pub struct Daily {
    told: HashMap<(IpAddr, FeedName), SystemTime>,
    changed: bool,
}

impl Daily {
    /// Goes on with what an earlier run alerted.
    pub fn restore(told: impl IntoIterator<Item = (IpAddr, FeedName, SystemTime)>) -> Self {
        let told = told.into_iter().take(MOST);
        Self {
            told: told.map(|(addr, feed, at)| ((addr, feed), at)).collect(),
            changed: false,
        }
    }

    /// True when some of `feeds` has not been alerted for `addr` within the day before `now`; all of
    /// them are then, from `now` on.
    pub fn is_news(&mut self, addr: IpAddr, feeds: &[FeedName], now: SystemTime) -> bool {
        let told = |feed: &FeedName| self.told.get(&(addr, feed.clone()));
        let is_known = |feed: &FeedName| told(feed).is_some_and(|at| is_within_a_day(*at, now));
        if feeds.iter().all(is_known) {
            return false;
        }
        for feed in feeds {
            self.make_room(now);
            self.told.insert((addr, feed.clone()), now);
        }
        self.changed = true;
        true
    }

    /// What was alerted, if it changed since this was asked last.
    pub fn changes(&mut self) -> Option<Vec<(IpAddr, FeedName, SystemTime)>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let rows = self.told.iter();
        let rows = rows.map(|((addr, feed), at)| (*addr, feed.clone(), *at));
        let mut rows: Vec<_> = rows.collect();
        rows.sort();
        Some(rows)
    }

    fn make_room(&mut self, now: SystemTime) {
        if self.told.len() < MOST {
            return;
        }
        self.told.retain(|_, at| is_within_a_day(*at, now));
        if self.told.len() >= MOST
            && let Some(first) = self.told.iter().min_by_key(|(_, at)| **at)
        {
            let first = first.0.clone();
            self.told.remove(&first);
        }
    }
}

/// A time to come is of a clock that was set back: it counts for nothing.
fn is_within_a_day(at: SystemTime, now: SystemTime) -> bool {
    now.duration_since(at).is_ok_and(|age| age < DAY)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn feeds(names: &[&str]) -> Vec<FeedName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn once_a_day_for_each_address_and_feed() {
        let (start, hour) = (SystemTime::UNIX_EPOCH + DAY, Duration::from_secs(3600));
        let [one, two]: [IpAddr; 2] = ["192.0.2.1", "192.0.2.2"].map(|addr| addr.parse().unwrap());
        let mut book = Daily::default();
        assert!(book.is_news(one, &feeds(&["a"]), start));
        assert!(!book.is_news(one, &feeds(&["a"]), start + 23 * hour));
        assert!(book.is_news(two, &feeds(&["a"]), start), "another address");
        assert!(
            book.is_news(one, &feeds(&["a", "b"]), start + hour),
            "another feed"
        );
        assert!(!book.is_news(one, &feeds(&["b"]), start + 24 * hour));
        // The pair with a was told again with b.
        assert!(!book.is_news(one, &feeds(&["a"]), start + 24 * hour));
        assert!(book.is_news(one, &feeds(&["a"]), start + 25 * hour));
        assert!(
            book.is_news(one, &feeds(&["a"]), start),
            "the clock was set back"
        );
    }

    #[test]
    fn it_is_kept_and_goes_on() {
        let now = SystemTime::UNIX_EPOCH + DAY;
        let addr = "2001:db8::1".parse().unwrap();
        let mut book = Daily::default();
        assert_eq!(book.changes(), None);
        assert!(book.is_news(addr, &feeds(&["a"]), now));
        let kept = book.changes().unwrap();
        assert_eq!(book.changes(), None);
        let mut next = Daily::restore(kept);
        assert!(!next.is_news(addr, &feeds(&["a"]), now));
        assert_eq!(next.changes(), None);
    }

    #[test]
    fn it_has_a_bound() {
        let now = SystemTime::UNIX_EPOCH + DAY;
        let addr = |number: u32| IpAddr::from(Ipv4Addr::from(number));
        let mut book = Daily::default();
        for number in 0..u32::try_from(MOST).unwrap() + 9 {
            let at = now + Duration::from_secs(number.into());
            assert!(book.is_news(addr(number), &feeds(&["a"]), at));
        }
        assert_eq!(book.told.len(), MOST);
        let later = now + Duration::from_secs(9_000);
        assert!(!book.is_news(addr(9), &feeds(&["a"]), later));
        assert!(
            book.is_news(addr(8), &feeds(&["a"]), later),
            "the first were forgotten"
        );
    }
}
