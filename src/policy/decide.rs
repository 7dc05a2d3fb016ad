//! The verdict on one flow: feeds, network sets and policies of one snapshot together.

use std::{net::IpAddr, sync::Arc};

use super::{Endpoint, Fact, Labels, Question, RuleAction, Ruling};
use crate::{
    config::Hook,
    feed::{Action, Direction},
    packet::Flow,
    snapshot::{Hit, Index, hit_of},
};

/// The answer for a flow that touches a feed or a network set.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Which address matched.
    pub direction: Direction,
    /// What the feeds say about it, with the action decided on; where only network sets hold it, their names.
    pub hit: Hit,
    /// Let it pass or deny it.
    pub action: Action,
    /// The policy that decided; `None`: the feeds did.
    pub policy: Option<Arc<str>>,
    /// A Log rule of this policy matched on the way.
    pub logged_by: Option<Arc<str>>,
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

    /// It is about the end of a forwarded flow that counts more.
    pub fn outranks(&self, other: &Self) -> bool {
        self.rank() > other.rank()
    }

    /// Denied for sure first, then what more must be known of, then what alerts.
    fn rank(&self) -> (bool, bool, bool, bool) {
        let denies = self.action == Action::Deny;
        (
            denies && !self.depends,
            denies,
            self.depends,
            !self.is_quiet,
        )
    }
}

/// Decides about a flow; `None` when nothing lists it.
///
/// Output looks at the destination, input at the source, forward at both: there, deny wins, and
/// else the destination is named. A forwarded flow has an endpoint in each direction: where both are
/// known, ask [`decide_toward`] for each and take the [`stronger`].
pub fn decide(index: &Index, flow: &Flow, hook: Hook, endpoint: &Endpoint) -> Option<Decision> {
    let ask = |direction| decide_toward(index, flow, direction, endpoint);
    match hook {
        Hook::Output => ask(Direction::Egress),
        Hook::Input => ask(Direction::Ingress),
        Hook::Forward => stronger(ask(Direction::Egress), ask(Direction::Ingress)),
    }
}

/// Of the answers about the two ends of a forwarded flow the one that counts: what denies, then what
/// depends on the endpoint, then what alerts; the first one of two that are alike.
pub fn stronger(out: Option<Decision>, back: Option<Decision>) -> Option<Decision> {
    match (out, back) {
        (Some(out), Some(back)) if back.outranks(&out) => Some(back),
        (out, back) => out.or(back),
    }
}

/// Decides about one end of a flow: the destination in egress, where `endpoint` is the sender; the
/// source in ingress, where it is the receiver. An IPv6 form of an IPv4 address is asked about as both,
/// and the [`stronger`] answer counts.
pub fn decide_toward(
    index: &Index,
    flow: &Flow,
    direction: Direction,
    endpoint: &Endpoint,
) -> Option<Decision> {
    let (near, far, port) = match direction {
        Direction::Egress => (flow.src, flow.dst, flow.dst_port()),
        Direction::Ingress => (flow.dst, flow.src, flow.src_port()),
    };
    let ask = |far| decide_at(index, flow, direction, endpoint, (near, far, port));
    match index.ipv4(far) {
        None => ask(far),
        Some(v4) => stronger(ask(v4), ask(far)),
    }
}

/// The same with the far end's address as it is to be read.
fn decide_at(
    index: &Index,
    flow: &Flow,
    direction: Direction,
    endpoint: &Endpoint,
    (near, far, port): (IpAddr, IpAddr, Option<u16>),
) -> Option<Decision> {
    let port = port.map(|port| (flow.proto, port));
    let hit = index.lookup(far, port, direction);
    let regime = index.regime();
    // What the daemon found is never denied, by no policy either.
    if regime.policies.is_empty() || index.exemption(far, port, direction).is_some() {
        return hit.map(|hit| by_feeds(direction, hit));
    }
    let members = index.members(far, port);
    let listed = hit.is_some();
    let hit = hit.or_else(|| hit_of(&members))?;
    let labels: Vec<&Labels> = members.iter().map(|member| member.labels).collect();
    let question = question(flow, direction, (near, far), endpoint, &labels);
    if let Some(ruling) = regime.policies.rule(&question) {
        return Some(by_ruling(direction, hit, listed, ruling));
    }
    // Who decides depends on what is not known; the verdict need not: the feeds may deny as well.
    let reach = regime.policies.explore_verdict(&question, hit.action);
    let certain = reach.action(Some(hit.action));
    let action = certain.unwrap_or_else(|| regime.when_unknown());
    Some(Decision {
        depends: certain.is_none(),
        is_quiet: !listed && certain == Some(Action::Alert) && !reach.log,
        ..with_action(direction, hit, action)
    })
}

/// What the policies are asked about a packet.
fn question<'a>(
    flow: &Flow,
    direction: Direction,
    (near, far): (IpAddr, IpAddr),
    endpoint: &'a Endpoint,
    far_sets: &'a [&'a Labels],
) -> Question<'a> {
    // A later fragment, or a header cut short: there are ports, and nobody sees them.
    let hidden = flow.proto.has_ports() && flow.src_port().is_none();
    let port = |port| {
        if hidden {
            Fact::Unknown
        } else {
            Fact::Known(port)
        }
    };
    Question {
        direction,
        endpoint,
        near: Fact::Known(near),
        far,
        far_sets,
        proto: Fact::Known(flow.proto),
        src_port: port(flow.src_port()),
        dst_port: port(flow.dst_port()),
    }
}

fn by_ruling(direction: Direction, mut hit: Hit, listed: bool, ruling: Ruling) -> Decision {
    if ruling.verdict.is_some() {
        // Trials are of what feeds deny by themselves.
        hit.would_deny.clear();
    }
    let action = match ruling.verdict {
        Some(RuleAction::Deny) => Action::Deny,
        Some(_) => Action::Alert,
        None => hit.action,
    };
    let would_deny = ruling
        .staged
        .iter()
        .any(|(_, action)| *action == RuleAction::Deny);
    let passes = action == Action::Alert;
    Decision {
        is_quiet: passes && !listed && ruling.logged_by.is_none() && !would_deny,
        staged: staged(&ruling.staged),
        policy: ruling.verdict.and(ruling.policy),
        logged_by: ruling.logged_by,
        ..with_action(direction, hit, action)
    }
}

fn by_feeds(direction: Direction, hit: Hit) -> Decision {
    let action = hit.action;
    with_action(direction, hit, action)
}

fn with_action(direction: Direction, hit: Hit, action: Action) -> Decision {
    Decision {
        direction,
        hit: Hit { action, ..hit },
        action,
        policy: None,
        logged_by: None,
        depends: false,
        is_quiet: false,
        staged: None,
    }
}

fn staged(rulings: &[(Arc<str>, RuleAction)]) -> Option<String> {
    let words: Vec<String> = rulings
        .iter()
        .map(|(policy, action)| format!("staged {policy} would {}", action.verb()))
        .collect();
    (!words.is_empty()).then(|| words.join("; "))
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
