//! What becomes of a flow: a pure function of the index, the flow and the hook.

mod endpoint;
mod explain;
mod facts;
#[cfg(test)]
mod facts_tests;
mod model;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod naive_tests;
mod policies;
#[cfg(test)]
mod policies_tests;
mod regions;
mod selector;
#[cfg(test)]
mod spec_tests;
#[cfg(test)]
mod tree_tests;
mod walk;

pub use endpoint::Endpoint;
pub use explain::{Finding, Step, Truth};
pub use model::{
    DEFAULT_TIER, DEFAULT_TIER_ORDER, Entity, Labels, NetworkSet, Order, Policy, Rule, RuleAction,
    Tier,
};
pub use policies::{Fact, Policies, PortRegion, Question, Reach, Ruling};
pub use selector::{Selector, SelectorError};

use std::sync::Arc;

use crate::{
    config::Hook,
    feed::{Action, Direction},
    packet::Flow,
    snapshot::{Hit, Index},
};

/// The answer for a flow that touches a feed or a network set.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Which address matched.
    pub direction: Direction,
    /// What the feeds say about it.
    pub hit: Hit,
    /// Let it pass or deny it.
    pub action: Action,
    /// The policy that decided; `None`: the feeds did.
    pub policy: Option<Arc<str>>,
    /// The verdict hangs on labels that are not known; `action` is what `on-daemon-down` says.
    pub depends: bool,
    /// It passes and touches no feed, only network sets: nothing to alert.
    pub is_quiet: bool,
    /// What staged policies would have done, in words: `staged POLICY would deny`.
    pub staged: Option<String>,
}

impl Decision {
    /// Let it pass or deny it.
    pub fn action(&self) -> Action {
        self.action
    }
}

/// Decides about a flow; `None` when nothing lists it.
///
/// Output looks at the destination, input at the source, forward at both: there, deny wins, and
/// else the destination is named.
pub fn decide(index: &Index, flow: &Flow, hook: Hook, endpoint: &Endpoint) -> Option<Decision> {
    let ask = |direction| {
        let (far_end, port) = match direction {
            Direction::Egress => (flow.dst, flow.dst_port()),
            Direction::Ingress => (flow.src, flow.src_port()),
        };
        let port = port.map(|port| (flow.proto, port));
        let hit = index.lookup(far_end, port, direction)?;
        let _ = endpoint;
        Some(Decision {
            direction,
            action: hit.action,
            hit,
            policy: None,
            depends: false,
            is_quiet: false,
            staged: None,
        })
    };
    match hook {
        Hook::Output => ask(Direction::Egress),
        Hook::Input => ask(Direction::Ingress),
        Hook::Forward => match (ask(Direction::Egress), ask(Direction::Ingress)) {
            (Some(out), Some(back)) => Some(if back.action() > out.action() {
                back
            } else {
                out
            }),
            (out, back) => out.or(back),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::SystemTime};

    use super::*;
    use crate::{
        config,
        feed::{FeedData, Limits, parse_plain},
        packet::{Protocol, Transport},
        snapshot::{Input, Options, build},
    };

    fn index() -> Index {
        let feed = |name: &str, action, prefix: &str| {
            let mut feed = config::Feed::new(name.parse().unwrap());
            feed.action = action;
            let parsed = parse_plain(prefix.as_bytes(), &Limits::default());
            let data = FeedData {
                parsed,
                pulled: SystemTime::UNIX_EPOCH,
                bytes: 0,
            };
            Input::new(&feed, Arc::new(data))
        };
        let inputs = [
            feed("w", Action::Alert, "203.0.113.1"),
            feed("d", Action::Deny, "198.51.100.1"),
            feed("p", Action::Deny, "203.0.113.1:2"),
        ];
        build(&inputs, &[], Options::default()).index
    }

    fn flow(src: &str, dst: &str) -> Flow {
        let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
        let transport = Transport::Ports { src: 1, dst: 80 };
        Flow {
            src,
            dst,
            proto: Protocol::TCP,
            transport,
            fragment: false,
        }
    }

    #[test]
    fn the_hook_selects_the_address() {
        let index = index();
        let seen = |hook, src, dst| {
            decide(&index, &flow(src, dst), hook, &Endpoint::default())
                .map(|d| (d.direction, d.action()))
        };
        let (watched, denied, other) = ("203.0.113.1", "198.51.100.1", "192.0.2.1");
        assert_eq!(
            seen(Hook::Output, other, watched),
            Some((Direction::Egress, Action::Alert))
        );
        assert_eq!(seen(Hook::Output, denied, other), None);
        assert_eq!(
            seen(Hook::Input, denied, other),
            Some((Direction::Ingress, Action::Deny))
        );
        assert_eq!(
            seen(Hook::Forward, denied, other),
            Some((Direction::Ingress, Action::Deny))
        );
        assert_eq!(
            seen(Hook::Forward, denied, watched),
            Some((Direction::Ingress, Action::Deny))
        );
        assert_eq!(
            seen(Hook::Forward, watched, watched),
            Some((Direction::Egress, Action::Alert))
        );
        assert_eq!(seen(Hook::Forward, other, other), None);
    }

    #[test]
    fn an_entry_with_a_port_means_only_that_port() {
        let index = index();
        let mut flow = flow("192.0.2.1", "203.0.113.1");
        let seen = |flow: &Flow| {
            decide(&index, flow, Hook::Output, &Endpoint::default())
                .map(|d| (d.action(), d.hit.indicator.to_string()))
        };
        assert_eq!(seen(&flow), Some((Action::Alert, "203.0.113.1".into())));
        flow.transport = Transport::Ports { src: 80, dst: 2 };
        assert_eq!(seen(&flow), Some((Action::Deny, "203.0.113.1:2".into())));
        flow.proto = Protocol::SCTP;
        assert_eq!(seen(&flow), Some((Action::Alert, "203.0.113.1".into())));
    }
}
