//! What becomes of an established flow when feeds, network sets or policies change. Pure.

use std::{collections::HashSet, net::IpAddr};

use super::super::judge::First;
use crate::{
    config::Hook,
    conntrack::Entry,
    packet::Flow,
    snapshot::{Index, Snapshot},
};

/// What becomes of a live flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::daemon) enum Act {
    /// Alert, and cut what is denied: whoever it is.
    Alert(First),
    /// Who it is decides: to be looked up.
    Judge(First),
    /// It is denied no longer.
    Release,
}

impl Act {
    /// True when a further pass does not find the flow again: its mark changes, or it is remembered.
    pub(super) fn is_lasting(&self) -> bool {
        match self {
            Self::Release | Self::Judge(_) => true,
            Self::Alert(first) => first.denies(),
        }
    }
}

/// From which snapshot to which.
#[derive(Clone, Copy, Debug)]
pub(in crate::daemon) struct Change<'a> {
    /// Flows that it lists were alerted.
    known: &'a Snapshot,
    /// Flows that hang on their source were judged by it.
    judged: &'a Snapshot,
    current: &'a Snapshot,
    /// Other policies are in force than in `judged`.
    has_new_policies: bool,
}

impl<'a> Change<'a> {
    /// From `known` and `judged` to `current`.
    pub(in crate::daemon) fn new(
        known: &'a Snapshot,
        judged: &'a Snapshot,
        current: &'a Snapshot,
    ) -> Self {
        Self {
            known,
            judged,
            current,
            has_new_policies: judged.index.regime() != current.index.regime(),
        }
    }

    /// What becomes of a flow; `None`: nothing.
    pub(in crate::daemon) fn act(
        &self,
        entry: &Entry<'_>,
        hook: Hook,
        cut_mask: u32,
    ) -> Option<Act> {
        let flow = entry.filtered();
        let is_cut = entry.mark & cut_mask != 0;
        let first = First::of(&self.current.index, &flow, hook);
        if let Some(first) = first.as_ref().filter(|first| first.depends()) {
            let is_due = !entry.over && self.asks_anew(&flow, hook);
            return is_due.then(|| Act::Judge(first.clone()));
        }
        let denied = first.as_ref().is_some_and(First::denies);
        if is_cut && !denied {
            return Some(Act::Release);
        }
        // A flow whose answer is still on its way is cut too: that answer would make it established.
        if is_cut || entry.over || (!entry.live && !denied) {
            return None;
        }
        let first = first.filter(|first| !first.is_quiet())?;
        (denied || self.is_news(&flow, hook)).then_some(Act::Alert(first))
    }

    /// True when nothing was said of such a flow before.
    pub(super) fn is_news(&self, flow: &Flow, hook: Hook) -> bool {
        First::of(&self.known.index, flow, hook).is_none_or(|before| before.is_quiet())
    }

    /// True when the verdict by source may be another than before.
    fn asks_anew(&self, flow: &Flow, hook: Hook) -> bool {
        let (old, new) = (&self.judged.index, &self.current.index);
        self.has_new_policies
            || First::of(old, flow, hook) != First::of(new, flow, hook)
            || !in_same_sets(old, new, flow)
    }
}

/// True when both ends are in the same network sets as before.
fn in_same_sets(old: &Index, new: &Index, flow: &Flow) -> bool {
    let ends = [(flow.dst, flow.dst_port()), (flow.src, flow.src_port())];
    ends.into_iter().all(|(addr, port)| {
        let port = port.map(|port| (flow.proto, port));
        old.members(addr, port) == new.members(addr, port)
    })
}

/// Where the flow's first packet was filtered; `None` within this host.
pub(in crate::daemon) fn hook(entry: &Entry<'_>, own: &HashSet<IpAddr>) -> Option<Hook> {
    let is_own = |addr: IpAddr| addr.is_loopback() || own.contains(&addr);
    match (is_own(entry.origin.src), is_own(entry.reply.src)) {
        (true, true) => None,
        (true, false) => Some(Hook::Output),
        (false, true) => Some(Hook::Input),
        (false, false) => Some(Hook::Forward),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::SystemTime};

    use super::*;
    use crate::{
        config,
        daemon::policed::{Rules, policed},
        feed::{Action, FeedData, Limits, parse_plain},
        policy::{Decision, RuleAction},
        snapshot::{Input, Options, build},
    };

    const BIT: u32 = 0x0800_0000;
    const RED: Rules<'_> = Rules {
        selector: "user == 'red'",
        action: RuleAction::Deny,
        is_staged: false,
        is_ingress_too: false,
        lists_both: false,
        on_daemon_down: config::OnDaemonDown::Allow,
    };

    fn listing(action: Action) -> Snapshot {
        let mut feed = config::Feed::new("f".parse().unwrap());
        feed.action = action;
        let parsed = parse_plain(b"203.0.113.1", &Limits::default());
        let data = FeedData {
            parsed,
            pulled: SystemTime::UNIX_EPOCH,
            bytes: 0,
        };
        build(
            &[Input::new(&feed, Arc::new(data))],
            &[],
            Options::default(),
        )
    }

    fn entry(mark: u32, live: bool) -> Entry<'static> {
        let mut entry = Entry::example("192.0.2.2", "203.0.113.1");
        (entry.mark, entry.live) = (mark, live);
        entry
    }

    /// The action alerted, or `None` for a release.
    fn seen(entry: &Entry<'_>, known: &Snapshot, current: &Snapshot) -> Option<Option<Action>> {
        let act = Change::new(known, known, current).act(entry, Hook::Output, BIT);
        act.map(|act| match act {
            Act::Alert(first) => first.leading().map(Decision::action),
            Act::Release => None,
            Act::Judge(_) => unreachable!("there are no policies"),
        })
    }

    #[test]
    fn what_is_news_is_alerted_what_is_denied_is_cut_what_is_free_is_released() {
        let (none, watch, deny) = (
            Snapshot::default(),
            listing(Action::Alert),
            listing(Action::Deny),
        );
        let (plain, cut) = (entry(1, true), entry(BIT | 1, true));
        assert_eq!(seen(&plain, &none, &watch), Some(Some(Action::Alert)));
        assert_eq!(seen(&plain, &watch, &watch), None, "alerted already");
        assert_eq!(seen(&plain, &watch, &deny), Some(Some(Action::Deny)));
        assert_eq!(
            seen(&plain, &deny, &deny),
            Some(Some(Action::Deny)),
            "it must be cut, whenever it began"
        );
        assert_eq!(seen(&cut, &none, &deny), None, "cut already");
        assert_eq!(seen(&cut, &deny, &watch), Some(None));
        assert_eq!(seen(&cut, &deny, &none), Some(None));
        assert_eq!(
            seen(&entry(0, false), &none, &watch),
            None,
            "its packets are still new, so the packet path sees them"
        );
        assert_eq!(
            seen(&entry(0, false), &none, &deny),
            Some(Some(Action::Deny)),
            "the answer on its way would make it established"
        );
        let mut ended = entry(0, false);
        ended.over = true;
        assert_eq!(seen(&ended, &none, &deny), None);
    }

    #[test]
    fn what_hangs_on_the_source_is_judged_when_something_asks_anew() {
        let (none, red) = (policed(&Rules::denying("user == 'x'")), policed(&RED));
        let act = |entry: &Entry<'_>, judged: &Snapshot, current: &Snapshot| {
            Change::new(judged, judged, current).act(entry, Hook::Output, BIT)
        };
        let judges = |entry: &Entry<'_>, judged: &Snapshot, current: &Snapshot| {
            matches!(act(entry, judged, current), Some(Act::Judge(_)))
        };
        let (plain, cut) = (entry(0, true), entry(BIT, true));
        assert!(judges(&plain, &Snapshot::default(), &red));
        assert!(judges(&plain, &none, &red), "another policy");
        assert!(
            judges(&entry(0, false), &none, &red),
            "its answer is on its way"
        );
        assert_eq!(act(&plain, &red, &red), None, "judged already");
        assert_eq!(act(&cut, &red, &red), None);
        assert!(judges(&cut, &none, &red), "perhaps it is allowed now");
        let free = listing(Action::Alert);
        assert_eq!(act(&cut, &red, &free), Some(Act::Release));
        let denied = policed(&Rules::denying("all()"));
        assert!(matches!(act(&plain, &red, &denied), Some(Act::Alert(_))));
        assert_eq!(act(&cut, &red, &denied), None, "cut already");
        let mut over = entry(0, true);
        over.over = true;
        assert_eq!(act(&over, &none, &red), None);
    }

    #[test]
    fn the_ends_tell_the_hook() {
        let own = HashSet::from(["192.0.2.2".parse().unwrap()]);
        let hook = |src, dst| hook(&Entry::example(src, dst), &own);
        assert_eq!(hook("192.0.2.2", "203.0.113.1"), Some(Hook::Output));
        assert_eq!(hook("203.0.113.1", "192.0.2.2"), Some(Hook::Input));
        assert_eq!(hook("198.51.100.1", "203.0.113.1"), Some(Hook::Forward));
        assert_eq!(hook("192.0.2.2", "127.0.0.1"), None);
    }
}
