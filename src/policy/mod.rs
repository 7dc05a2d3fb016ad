//! What becomes of a flow: a pure function of the index, the flow and the hook.

use crate::{
    config::Hook,
    feed::{Action, Direction},
    packet::Flow,
    snapshot::{Hit, Index},
};

/// The answer for a flow that some feed lists.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Which address matched.
    pub direction: Direction,
    /// What the feeds say about it.
    pub hit: Hit,
}

impl Decision {
    /// Let it pass or deny it.
    pub fn action(&self) -> Action {
        self.hit.action
    }
}

/// Decides about a flow; `None` when no feed lists it.
///
/// Output looks at the destination, input at the source, forward at both: there, deny wins, and
/// else the destination is named.
pub fn decide(index: &Index, flow: &Flow, hook: Hook) -> Option<Decision> {
    let ask = |direction| {
        let far_end = match direction {
            Direction::Egress => flow.dst,
            Direction::Ingress => flow.src,
        };
        index
            .lookup(far_end, direction)
            .map(|hit| Decision { direction, hit })
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
        config::PrivateNetworks,
        feed::{Entry, FeedData, Parsed, Scope, Severity},
        packet::{Protocol, Transport},
        snapshot::{Input, build},
    };

    fn index() -> Index {
        let feed = |name: &str, action, prefix: &str| {
            let entries = vec![Entry {
                prefix: prefix.parse().unwrap(),
            }];
            let parsed = Parsed {
                entries,
                ..Parsed::default()
            };
            let data = FeedData {
                parsed,
                pulled: SystemTime::UNIX_EPOCH,
                bytes: 0,
            };
            let name = name.parse().unwrap();
            Input {
                name,
                action,
                scope: Scope::Both,
                severity: Severity::Low,
                data: Arc::new(data),
            }
        };
        let inputs = [
            feed("w", Action::Alert, "203.0.113.1"),
            feed("d", Action::Deny, "198.51.100.1"),
        ];
        build(&inputs, &[], PrivateNetworks::Refuse).index
    }

    fn flow(src: &str, dst: &str) -> Flow {
        let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
        let transport = Transport::Ports { src: 1, dst: 2 };
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
            decide(&index, &flow(src, dst), hook).map(|d| (d.direction, d.action()))
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
}
