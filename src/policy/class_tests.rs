//! The kernel's class of an address against the naive interpreter, asked about every endpoint.

use std::sync::Arc;

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::{
    NetworkSet, RuleAction,
    model_tests::everybody,
    spec_tests::{cases, specs},
};
use crate::{
    config::{self, OnDaemonDown, PrivateNetworks},
    feed::{Action, Direction, FeedData, Limits, Scope, parse_plain},
    prefix::Prefix,
    snapshot::{Input, Options, Regime, build, tests::kernel},
};

/// A feed that lists a prefix around the far end.
fn feed(number: usize, action: Action, net: Prefix) -> Input {
    let mut feed = config::Feed::new(format!("f{number}").parse().unwrap());
    (feed.action, feed.scope) = (action, Scope::Both);
    let limits = Limits {
        min_prefix4: 1,
        min_prefix6: 1,
        ..Limits::default()
    };
    let parsed = parse_plain(net.to_string().as_bytes(), &limits);
    assert_eq!(parsed.good, 1);
    let pulled = std::time::SystemTime::UNIX_EPOCH;
    let data = FeedData {
        parsed,
        pulled,
        bytes: 0,
    };
    Input::new(&feed, Arc::new(data))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn the_class_of_an_address_is_the_interpreters_answer(
        spec in specs(), case in cases(),
        kept in vec(option::of(select(vec![Action::Alert, Action::Deny])), 3),
        plain in option::of(select(vec![Action::Alert, Action::Deny])),
        lens in vec(0u8..3, 4), down in any::<bool>(),
    ) {
        let answers = everybody(&spec, &case);
        prop_assume!(answers.is_some());
        let answers = answers.unwrap_or_default();
        let net = |at: usize| {
            let whole = if case.far.is_ipv4() { 32 } else { 128 };
            Prefix::new(case.far, whole - 8 * lens[at]).unwrap()
        };
        let (mut inputs, mut network_sets, mut built_in) = (Vec::new(), Vec::new(), None);
        for (i, labels) in case.far_sets.iter().enumerate() {
            match kept[i] {
                Some(action) => {
                    let network_set = Some(labels.clone());
                    inputs.push(Input { network_set, ..feed(i, action, net(i)) });
                    built_in = built_in.max(Some(action));
                }
                None => network_sets.push(Arc::new(NetworkSet {
                    name: format!("s{i}").parse().unwrap(),
                    labels: labels.clone(),
                    nets: vec![net(i)],
                })),
            }
        }
        if let Some(action) = plain {
            inputs.push(Input { network_set: None, ..feed(9, action, net(3)) });
            built_in = built_in.max(Some(action));
        }
        let on_down = if down { OnDaemonDown::Deny } else { OnDaemonDown::Allow };
        let regime = Regime::new(Arc::new(spec.build()), &Default::default(), on_down);
        let unknown = regime.when_unknown();
        let touched = built_in.is_some() || !network_sets.is_empty();
        let is_ruled = !regime.policies.is_empty();
        let options = Options {
            private: PrivateNetworks::Keep,
            network_sets,
            regime,
            ..Options::default()
        };
        let sets = build(&inputs, &[], options).sets;
        let receiver = case.dst_port.unwrap_or(0);
        let at = match case.direction {
            Direction::Egress => receiver,
            Direction::Ingress => case.src_port.unwrap_or(0),
        };
        let class = kernel(&sets, case.far, case.proto, (at, receiver), case.direction);

        let denies = |verdict: &Option<RuleAction>| match verdict {
            Some(verdict) => *verdict == RuleAction::Deny,
            None => built_in == Some(Action::Deny),
        };
        let denied = answers.iter().filter(|answer| denies(&answer.verdict)).count();
        let is_told = answers.iter().any(|answer| {
            let staged = answer.staged.iter().any(|(_, action)| *action == RuleAction::Deny);
            answer.logged_by.is_some() || staged
        });
        let expect = match denied {
            _ if !touched => None,
            0 => (built_in.is_some() || (is_told && is_ruled)).then_some(Action::Alert),
            some if some == answers.len() => Some(Action::Deny),
            _ => Some(unknown),
        };
        prop_assert_eq!(class, expect, "{:#?}", answers);
    }
}
