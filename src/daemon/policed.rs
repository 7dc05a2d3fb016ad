//! For tests: a snapshot with a feed that alerts, and one policy.

use std::{sync::Arc, time::SystemTime};

use crate::{
    config::{self, OnDaemonDown},
    feed::{Action, FeedData, Limits, parse_plain},
    packet::{Flow, Protocol, Transport},
    policy::{Entity, Labels, Order, Policies, Policy, Rule, RuleAction},
    snapshot::{Input, Options, Regime, Snapshot, build},
};

/// What the one policy says.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) selector: &'a str,
    pub(super) action: RuleAction,
    pub(super) is_staged: bool,
    /// It has the same rules for what comes in.
    pub(super) is_ingress_too: bool,
    /// The feed lists both ends of the flow.
    pub(super) lists_both: bool,
    pub(super) on_daemon_down: OnDaemonDown,
}

impl<'a> Rules<'a> {
    /// Denies the feed to these endpoints.
    pub(super) fn denying(selector: &'a str) -> Self {
        Self {
            selector,
            action: RuleAction::Deny,
            is_staged: false,
            is_ingress_too: false,
            lists_both: false,
            on_daemon_down: OnDaemonDown::Allow,
        }
    }
}

/// The flow that the feed lists.
pub(super) fn flow() -> Flow {
    Flow {
        src: "192.0.2.2".parse().unwrap(),
        dst: "203.0.113.1".parse().unwrap(),
        proto: Protocol::TCP,
        transport: Transport::Ports { src: 4711, dst: 80 },
        fragment: false,
    }
}

pub(super) fn policed(rules: &Rules<'_>) -> Snapshot {
    let mut feed = config::Feed::new("f".parse().unwrap());
    feed.action = Action::Alert;
    feed.labels = [("feed".to_owned(), "f".to_owned())].into();
    let text = match rules.lists_both {
        true => "203.0.113.1\n192.0.2.2\n",
        false => "203.0.113.1\n",
    };
    let data = FeedData {
        parsed: parse_plain(text.as_bytes(), &Limits::default()),
        pulled: SystemTime::UNIX_EPOCH,
        bytes: 0,
    };
    let policies = Policies::new(vec![], vec![policy(rules)]);
    let host: Labels = [("role".to_owned(), "gateway".to_owned())].into();
    let options = Options {
        regime: Regime::new(Arc::new(policies), &host, rules.on_daemon_down),
        ..Options::default()
    };
    build(&[Input::new(&feed, Arc::new(data))], &[], options)
}

fn policy(rules: &Rules<'_>) -> Policy {
    let rule = |action, selects_far: bool, is_egress: bool| {
        let mut far = Entity::default();
        if selects_far {
            far.selector = Some("feed == 'f'".parse().unwrap());
        }
        let (source, destination) = match is_egress {
            true => (Entity::default(), far),
            false => (far, Entity::default()),
        };
        Rule {
            action,
            protocol: None,
            not_protocol: None,
            ip_version: None,
            source,
            destination,
        }
    };
    let list = |is_egress| {
        vec![
            rule(rules.action, true, is_egress),
            rule(RuleAction::Pass, false, is_egress),
        ]
    };
    Policy {
        name: "default.p".into(),
        tier: "default".into(),
        order: Order(None),
        selector: rules.selector.parse().unwrap(),
        namespace_selector: None,
        has_ingress: rules.is_ingress_too,
        has_egress: true,
        ingress: if rules.is_ingress_too {
            list(false)
        } else {
            vec![]
        },
        egress: list(true),
        is_staged: rules.is_staged,
    }
}
