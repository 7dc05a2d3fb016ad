//! Tiers, policies and network sets in numbers, for status.

use serde::Serialize;

use super::core::Core;
use crate::{
    config::OnDaemonDown,
    feed::Direction,
    policy::{Entity, Policy},
};

/// What is in force of policies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Policing {
    /// Tiers with policies, in the order in which they are asked.
    pub tiers: Vec<String>,
    /// Policies that are enforced.
    pub enforced: usize,
    /// Those of them that ask for the source: they need the daemon.
    pub by_source: usize,
    /// Policies that are only reported.
    pub staged: usize,
    /// Network sets that feeds keep.
    pub feed_sets: usize,
    /// Network sets written by hand.
    pub network_sets: usize,
    /// What becomes of flows that hang on their source while it is not known: `allow` or `deny`.
    pub on_daemon_down: &'static str,
}

impl Policing {
    pub(super) fn of(core: &Core) -> Self {
        let tiers = core.policies.tiers();
        let all = || tiers.iter().flat_map(|(_, policies)| policies);
        let enforced = || all().filter(|policy| !policy.is_staged);
        let feeds = core.feeds.values();
        Self {
            tiers: tiers.iter().map(|(tier, _)| tier.name.clone()).collect(),
            enforced: enforced().count(),
            by_source: enforced().filter(|policy| asks_for_source(policy)).count(),
            staged: all().filter(|policy| policy.is_staged).count(),
            feed_sets: feeds
                .filter(|state| state.config.enabled && state.keeps_set)
                .count(),
            network_sets: core.network_sets.len(),
            on_daemon_down: word(core.config.daemon.on_daemon_down),
        }
    }
}

/// The word of the configuration.
pub(super) fn word(choice: OnDaemonDown) -> &'static str {
    match choice {
        OnDaemonDown::Allow => "allow",
        OnDaemonDown::Deny => "deny",
    }
}

/// True when the policy is for some endpoints only, or a rule of it is.
fn asks_for_source(policy: &Policy) -> bool {
    let some = policy.selector.to_string() != "all()" || policy.namespace_selector.is_some();
    let near = |direction| {
        let rules = policy.rules(direction).unwrap_or_default();
        rules.iter().any(move |rule| match direction {
            Direction::Egress => !rule.source.is_any(),
            Direction::Ingress => asks_beyond_ports(&rule.destination),
        })
    };
    some || near(Direction::Egress) || near(Direction::Ingress)
}

/// The receiver's port is in every packet, and in the kernel's sets.
fn asks_beyond_ports(entity: &Entity) -> bool {
    let beyond = Entity {
        ports: Vec::new(),
        not_ports: Vec::new(),
        ..entity.clone()
    };
    !beyond.is_any()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Order, Rule, RuleAction};

    fn policy(selector: &str) -> Policy {
        Policy {
            name: "default.p".into(),
            tier: "default".into(),
            order: Order(None),
            selector: selector.parse().unwrap(),
            namespace_selector: None,
            has_ingress: true,
            has_egress: true,
            ingress: vec![rule()],
            egress: vec![rule()],
            is_staged: false,
        }
    }

    fn rule() -> Rule {
        Rule {
            action: RuleAction::Deny,
            protocol: None,
            not_protocol: None,
            ip_version: None,
            source: Entity::default(),
            destination: Entity::default(),
        }
    }

    #[test]
    fn who_is_asked_for() {
        assert!(!asks_for_source(&policy("all()")));
        assert!(asks_for_source(&policy("unit == 'nginx.service'")));
        let mut near = policy("all()");
        near.egress[0].source.nets = vec!["192.0.2.0/24".parse().unwrap()];
        assert!(asks_for_source(&near));
        let mut far = policy("all()");
        far.egress[0].destination.selector = Some("has(feed)".parse().unwrap());
        far.ingress[0].destination.ports = vec![(80, 80)];
        far.ingress[0].source.nets = vec!["192.0.2.0/24".parse().unwrap()];
        assert!(!asks_for_source(&far));
        far.ingress[0].destination.selector = Some("has(unit)".parse().unwrap());
        assert!(asks_for_source(&far));
    }
}
