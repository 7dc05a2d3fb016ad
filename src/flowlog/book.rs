//! Flows from their first packet to their end.

use std::{
    collections::{HashMap, VecDeque},
    time::{Instant, SystemTime},
};

use super::{Ended, Reason, Traffic};
use crate::{
    alert::Alert,
    feed::{Action, Direction},
    packet::{Flow, Protocol, Transport},
};

/// Most flows that are open at once: about 40 MB.
pub const MAX_OPEN: usize = 32_768;

/// What a connection and the packet that began it have in common.
type Key = (std::net::IpAddr, std::net::IpAddr, Protocol, Transport);

fn key(flow: &Flow) -> Key {
    (flow.src, flow.dst, flow.proto, flow.transport)
}

/// Open flows by their addresses, protocol and ports.
#[derive(Debug)]
pub struct Book {
    max: usize,
    count: usize,
    /// Those of them that came in.
    ingress: usize,
    cut: usize,
    /// Oldest first: ports may be used again before the end of the flow before was told, and a packet
    /// of a connection that nobody answers is asked about again.
    open: HashMap<Key, VecDeque<Open>>,
}

#[derive(Debug)]
struct Open {
    alert: Box<Alert>,
    since: Instant,
    /// As of the last look at the table.
    traffic: Option<Traffic>,
    /// It was in the table at the last look.
    seen: bool,
}

impl Open {
    fn end(self, reason: Reason, traffic: Option<Traffic>, end: SystemTime) -> Ended {
        Ended {
            // Two clocks, or one that was set back.
            end: end.max(self.alert.time),
            traffic: traffic.or(self.traffic),
            alert: self.alert,
            reason,
        }
    }

    fn is_cut(&self) -> bool {
        self.alert.action == Action::Deny
    }
}

impl Default for Book {
    fn default() -> Self {
        Self::with_capacity(MAX_OPEN)
    }
}

impl Book {
    /// At most `max` flows are open at once.
    pub fn with_capacity(max: usize) -> Self {
        Self {
            max,
            count: 0,
            ingress: 0,
            cut: 0,
            open: HashMap::new(),
        }
    }

    /// Takes the first packet of a flow; gives it back at once when there is no end to wait for.
    pub fn begin(&mut self, alert: Box<Alert>, now: Instant) -> Option<Ended> {
        // A denied packet makes no connection; one that is cut had one before.
        let was_live = alert.source.method == Some("live-flow");
        let reason = match alert.action {
            Action::Deny if !was_live => Some(Reason::Denied),
            _ if self.count >= self.max => Some(Reason::Full),
            // Sources that are made up must not take the room of what goes out.
            _ if came_in(&alert) && self.ingress >= self.max.div_ceil(2) => Some(Reason::Full),
            _ => None,
        };
        let end = alert.time;
        let open = Open {
            alert,
            since: now,
            traffic: None,
            seen: false,
        };
        if let Some(reason) = reason {
            return Some(open.end(reason, None, end));
        }
        self.count += 1;
        self.ingress += usize::from(came_in(&open.alert));
        self.cut += usize::from(open.is_cut());
        let flows = self.open.entry(key(&open.alert.flow)).or_default();
        flows.push_back(open);
        None
    }

    /// A connection ended at `at`; the oldest flow that it can be is over.
    pub fn end(&mut self, flow: &Flow, traffic: Option<Traffic>, at: SystemTime) -> Option<Ended> {
        let key = key(flow);
        let flows = self.open.get_mut(&key)?;
        let open = flows.pop_front();
        if flows.is_empty() {
            self.open.remove(&key);
        }
        let open = open?;
        self.closed(&open);
        let reason = if open.is_cut() {
            Reason::Cut
        } else {
            Reason::Ended
        };
        Some(open.end(reason, traffic, at))
    }

    /// A connection is in the table, and has moved so much.
    pub fn see(&mut self, flow: &Flow, traffic: Option<Traffic>) {
        let flows = self.open.get_mut(&key(flow));
        if let Some(open) = flows.and_then(|flows| flows.front_mut()) {
            open.seen = true;
            open.traffic = traffic.or(open.traffic);
        }
    }

    /// After the whole table was seen: what began before `before` and is not in it is gone, what was
    /// cut has moved all that it will.
    pub fn sweep(&mut self, before: Instant, at: SystemTime) -> Vec<Ended> {
        let mut ended = Vec::new();
        for flows in self.open.values_mut() {
            let mut kept = VecDeque::new();
            for mut open in flows.drain(..) {
                let seen = std::mem::take(&mut open.seen);
                if open.is_cut() && (seen || open.since < before) {
                    ended.push(open.end(Reason::Cut, None, at));
                } else if !seen && open.since < before {
                    ended.push(open.end(Reason::Gone, None, at));
                } else {
                    kept.push_back(open);
                }
            }
            *flows = kept;
        }
        self.open.retain(|_, flows| !flows.is_empty());
        self.count = self.open.values().map(VecDeque::len).sum();
        let ingress = self.open.values().flatten();
        self.ingress = ingress.filter(|open| came_in(&open.alert)).count();
        self.cut = self.open.values().flatten().filter(|o| o.is_cut()).count();
        ended
    }

    /// Every flow that is open still, for the end of the log.
    pub fn drain(&mut self, at: SystemTime) -> Vec<Ended> {
        (self.count, self.ingress, self.cut) = (0, 0, 0);
        let open = self.open.drain().flat_map(|(_, flows)| flows);
        let end = |open: Open| open.end(Reason::Stopped, None, at);
        open.map(end).collect()
    }

    /// Flows that are open.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True when none is.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Flows among them that were cut: a look at the table ends them.
    pub fn cut(&self) -> usize {
        self.cut
    }

    fn closed(&mut self, open: &Open) {
        self.count = self.count.saturating_sub(1);
        let came_in = usize::from(came_in(&open.alert));
        self.ingress = self.ingress.saturating_sub(came_in);
        self.cut = self.cut.saturating_sub(usize::from(open.is_cut()));
    }
}

fn came_in(alert: &Alert) -> bool {
    alert.direction == Direction::Ingress
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{alert::example, flowlog::Count};

    fn alert(action: Action, port: u16) -> Box<Alert> {
        let mut alert = example::alert();
        alert.action = action;
        alert.flow.transport = Transport::Ports { src: port, dst: 80 };
        Box::new(alert)
    }

    fn traffic(bytes: u64) -> Option<Traffic> {
        Some(Traffic {
            orig: Count { packets: 1, bytes },
            reply: Count::default(),
        })
    }

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn a_flow_waits_for_its_end_a_denied_one_does_not() {
        let mut book = Book::default();
        let start = Instant::now();
        let denied = book.begin(alert(Action::Deny, 1), start).unwrap();
        assert_eq!((denied.reason, denied.traffic), (Reason::Denied, None));
        let passed = alert(Action::Alert, 1);
        let flow = passed.flow;
        assert!(book.begin(passed, start).is_none());
        let other = alert(Action::Alert, 2).flow;
        assert!(book.end(&other, None, NOW).is_none(), "not one of ours");
        let ended = book.end(&flow, traffic(100), NOW).unwrap();
        assert_eq!((ended.reason, ended.traffic), (Reason::Ended, traffic(100)));
        assert!(ended.end >= ended.alert.time && book.is_empty());
    }

    #[test]
    fn ports_used_again_end_oldest_first() {
        let mut book = Book::default();
        let start = Instant::now();
        for id in [1, 2] {
            let mut again = alert(Action::Alert, 1);
            again.id = uuid::Uuid::from_u128(id);
            assert!(book.begin(again, start).is_none());
        }
        let flow = alert(Action::Alert, 1).flow;
        let ids = [1, 2].map(|_| book.end(&flow, None, NOW).unwrap().alert.id.as_u128());
        assert_eq!(ids, [1, 2]);
    }

    #[test]
    fn what_the_table_lacks_is_gone_and_what_was_cut_is_done() {
        let mut book = Book::default();
        let start = Instant::now();
        let mut cut = alert(Action::Deny, 3);
        cut.source.method = Some("live-flow");
        for flow in [
            alert(Action::Alert, 1),
            alert(Action::Alert, 2),
            cut.clone(),
        ] {
            assert!(book.begin(flow, start).is_none());
        }
        assert_eq!((book.len(), book.cut()), (3, 1));
        let later = start + Duration::from_secs(10);
        let young = alert(Action::Alert, 4);
        assert!(book.begin(young, later).is_none());
        book.see(&alert(Action::Alert, 2).flow, traffic(7));
        book.see(&cut.flow, traffic(9));
        let mut ended = book.sweep(later, NOW);
        ended.sort_by_key(|ended| ended.reason);
        let seen: Vec<_> = ended.iter().map(|e| (e.reason, e.traffic)).collect();
        assert_eq!(seen, [(Reason::Cut, traffic(9)), (Reason::Gone, None)]);
        assert_eq!((book.len(), book.cut()), (2, 0));
        let left = book.drain(NOW);
        assert!(left.iter().all(|ended| ended.reason == Reason::Stopped));
        assert!(
            left.iter().any(|ended| ended.traffic == traffic(7)),
            "as of the last look"
        );
    }

    #[test]
    fn a_full_book_logs_at_once() {
        let mut book = Book::with_capacity(1);
        let start = Instant::now();
        assert!(book.begin(alert(Action::Alert, 1), start).is_none());
        let full = book.begin(alert(Action::Alert, 2), start).unwrap();
        assert_eq!((full.reason, book.len()), (Reason::Full, 1));
    }
}
