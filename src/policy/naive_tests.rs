//! The naive interpreter: Calico's rules as loops over one flow of which everything is known.
//!
//! It shares nothing with the evaluator but the values of questions and answers.

use super::{
    RuleAction,
    spec_tests::{Case, Spec, SpecEnd, SpecPolicy, SpecRule},
    tree_tests::NAMESPACE,
};
use crate::feed::Direction;

/// What happens to a flow.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub verdict: Option<RuleAction>,
    pub policy: Option<String>,
    pub rule: Option<usize>,
    pub logged_by: Option<String>,
    pub staged: Vec<(String, RuleAction)>,
}

/// What happens to a flow, and what staged policies would have done, each alone.
pub fn answer(spec: &Spec, case: &Case) -> Answer {
    let enforced = trace(spec, case, None);
    let mut staged = Vec::new();
    for (_, policies) in tiers(spec) {
        for policy in policies.into_iter().filter(|policy| policy.is_staged) {
            let would = trace(spec, case, Some(&policy.name));
            let matched = would.matched.iter().find(|(name, ..)| *name == policy.name);
            if let Some((_, _, action)) = matched {
                staged.push((policy.name.clone(), *action));
            } else if would.denied_by_end == Some(vec![policy.name.clone()]) {
                staged.push((policy.name.clone(), RuleAction::Deny));
            }
        }
    }
    let (verdict, policy, rule) = match (enforced.denied_by_end, enforced.matched.last()) {
        (Some(took_part), _) => (Some(RuleAction::Deny), took_part.last().cloned(), None),
        (None, Some((name, rule, action @ (RuleAction::Allow | RuleAction::Deny)))) => {
            (Some(*action), Some(name.clone()), Some(*rule))
        }
        _ => (None, None, None),
    };
    Answer {
        verdict,
        policy,
        rule,
        logged_by: enforced.logged_by,
        staged,
    }
}

#[derive(Default)]
struct Trace {
    /// Rules that matched, other than Log.
    matched: Vec<(String, usize, RuleAction)>,
    /// The policies that took part in the tier whose end denied.
    denied_by_end: Option<Vec<String>>,
    logged_by: Option<String>,
}

/// The way of a flow, with one staged policy enforced as well.
fn trace(spec: &Spec, case: &Case, also: Option<&str>) -> Trace {
    let mut trace = Trace::default();
    'tiers: for (_, policies) in tiers(spec) {
        let mut took_part = Vec::new();
        for policy in policies {
            if policy.is_staged && also != Some(&policy.name) {
                continue;
            }
            let Some(rules) = policy.rules(case.direction) else {
                continue;
            };
            if !selects(policy, case) {
                continue;
            }
            took_part.push(policy.name.clone());
            for (i, rule) in rules.iter().enumerate() {
                if !matches(rule, case) {
                    continue;
                }
                if rule.action == RuleAction::Log {
                    if trace.logged_by.is_none() {
                        trace.logged_by = Some(policy.name.clone());
                    }
                    continue;
                }
                trace.matched.push((policy.name.clone(), i, rule.action));
                if rule.action == RuleAction::Pass {
                    continue 'tiers;
                }
                return trace;
            }
        }
        if !took_part.is_empty() {
            trace.denied_by_end = Some(took_part);
            return trace;
        }
    }
    trace
}

/// Tiers and their policies as they are asked.
fn tiers(spec: &Spec) -> Vec<(String, Vec<&SpecPolicy>)> {
    let mut tiers: Vec<(f64, String)> = vec![(1_000_000.0, "default".to_owned())];
    for tier in &spec.tiers {
        tiers.push((tier.order.0.unwrap_or(f64::MAX), tier.name.clone()));
    }
    tiers.sort_by(|a, b| a.partial_cmp(b).unwrap());
    let of = |tier: &str| {
        let mut policies: Vec<_> = spec.policies.iter().filter(|p| p.tier == tier).collect();
        policies.sort_by(|a, b| {
            let key = |policy: &SpecPolicy| policy.order.unwrap_or(f64::MAX);
            (key(a), &a.name).partial_cmp(&(key(b), &b.name)).unwrap()
        });
        policies
    };
    let tiers = tiers.into_iter();
    tiers.map(|(_, name)| (name.clone(), of(&name))).collect()
}

fn selects(policy: &SpecPolicy, case: &Case) -> bool {
    let namespace = case.labels.get(NAMESPACE).map(String::as_str);
    if let Some(selector) = &policy.namespace
        && !selector.is_true_of_namespace(namespace)
    {
        return false;
    }
    policy.selector.is_true(&case.labels)
}

fn matches(rule: &SpecRule, case: &Case) -> bool {
    if rule.protocol.is_some_and(|proto| proto != case.proto) {
        return false;
    }
    if rule.not_protocol == Some(case.proto) {
        return false;
    }
    let version = if case.far.is_ipv4() { 4 } else { 6 };
    if rule.ip_version.is_some_and(|wanted| wanted != version) {
        return false;
    }
    let out = case.direction == Direction::Egress;
    end_matches(&rule.source, case, out, case.src_port)
        && end_matches(&rule.destination, case, !out, case.dst_port)
}

fn end_matches(end: &SpecEnd, case: &Case, is_near: bool, port: Option<u16>) -> bool {
    let has = |selector: &super::tree_tests::Tree| {
        if is_near {
            selector.is_true(&case.labels)
        } else {
            case.far_sets.iter().any(|set| selector.is_true_of_set(set))
        }
    };
    if let Some(selector) = &end.selector
        && !has(selector)
    {
        return false;
    }
    if let Some(selector) = &end.not_selector
        && has(selector)
    {
        return false;
    }
    let addr = if is_near { case.near } else { case.far };
    if !end.nets.is_empty() && !end.nets.iter().any(|net| net.contains(addr)) {
        return false;
    }
    if end.not_nets.iter().any(|net| net.contains(addr)) {
        return false;
    }
    let within = |ranges: &[(u16, u16)]| {
        ranges
            .iter()
            .any(|(first, last)| port.is_some_and(|port| *first <= port && port <= *last))
    };
    if !end.ports.is_empty() && !within(&end.ports) {
        return false;
    }
    !within(&end.not_ports)
}
