//! Why policies decide as they do, for people: tier by tier, policy by policy, rule by rule.

use std::{collections::BTreeSet, fmt, sync::Arc};

use super::{
    Order, Policies, Policy, Question, Rule, RuleAction, Selector,
    facts::{Ask, End, Facts},
};
use crate::feed::Direction;

/// Most ways that one condition on unknown facts may have.
const MAX_WAYS: usize = 256;

/// One line of an explanation.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The tier; empty for what comes after all.
    pub tier: String,
    /// The policy; `None`: the tier as a whole.
    pub policy: Option<Arc<str>>,
    /// Index of the rule; `None`: the policy as a whole.
    pub rule: Option<(Direction, usize)>,
    /// What was found.
    pub finding: Finding,
}

/// What was found about a tier, a policy or a rule.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// The tier is asked.
    Tier(Order),
    /// Every policy of the tier stands aside, or may.
    Skipped,
    /// The end of the tier denies: a policy took part, and no rule decided. Only perhaps, when it
    /// depends on facts whether one took part.
    EndDenies(Truth),
    /// The policy has no rules for the direction.
    NoRules(Direction),
    /// Whether the policy takes part, and with which words of its selectors.
    TakesPart(Truth, String),
    /// Whether the rule matches; if not, the condition that fails.
    Rule(RuleAction, Truth, String),
    /// Staged policies stand before what is found about them.
    Staged(Box<Finding>),
    /// What comes out.
    Result(String),
}

/// Whether something holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Truth {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// That hangs on facts which are not known, in words.
    Depends(BTreeSet<String>),
}

impl Policies {
    /// The way of the question through all tiers, and what comes out.
    pub fn explain(&self, question: &Question<'_>) -> Vec<Step> {
        let mut guide = Guide {
            question,
            steps: Vec::new(),
            unknown: BTreeSet::new(),
        };
        for (tier, policies) in self.tiers() {
            guide.note(&tier.name, None, None, Finding::Tier(tier.order));
            if guide.tier(&tier.name, policies) {
                break;
            }
        }
        let text = self.result(question, &guide.unknown);
        guide.note("", None, None, Finding::Result(text));
        for (policy, action) in self.rule(question).into_iter().flat_map(|r| r.staged) {
            let text = format!("staged {policy} would {}", action.verb());
            guide.note("", None, None, Finding::Result(text));
        }
        guide.steps
    }

    fn result(&self, question: &Question<'_>, unknown: &BTreeSet<String>) -> String {
        let Some(ruling) = self.rule(question) else {
            let reach = self.explore(question);
            let may = [
                (reach.allow, "a policy allows it"),
                (reach.deny, "a policy denies it"),
                (
                    reach.fall,
                    "no policy decides, and the feeds' own action does",
                ),
            ];
            let may: Vec<_> = may
                .iter()
                .filter_map(|(is, text)| is.then_some(*text))
                .collect();
            return format!("depends on {}: {}", listed(unknown), may.join(", or "));
        };
        let done = match ruling.verdict {
            None => return "no policy decides: the feeds' own action does".to_owned(),
            Some(RuleAction::Allow) => "allowed",
            Some(_) => "denied",
        };
        match (ruling.policy, ruling.rule) {
            (Some(policy), Some(rule)) => {
                let direction = question.direction.as_str();
                format!("{done} by {policy}, {direction} rule {}", rule + 1)
            }
            (Some(policy), None) if ruling.verdict == Some(RuleAction::Deny) => {
                format!("{done} at the end of the tier of {policy}, where no rule decided")
            }
            _ => format!("{done}, but by which rule depends on {}", listed(unknown)),
        }
    }
}

/// Collects the steps.
struct Guide<'a> {
    question: &'a Question<'a>,
    steps: Vec<Step>,
    /// Facts that something hung on, in words.
    unknown: BTreeSet<String>,
}

/// Where a flow goes from a policy.
#[derive(PartialEq)]
enum Next {
    Policy,
    Tier,
    End,
}

impl<'a> Guide<'a> {
    /// True when the way ends in this tier.
    fn tier(&mut self, tier: &str, policies: &'a [Policy]) -> bool {
        let mut part = Truth::No;
        for policy in policies {
            let (takes_part, next) = self.policy(tier, policy);
            match next {
                Next::Policy => {}
                Next::Tier => return false,
                Next::End => return true,
            }
            if !policy.is_staged {
                part = part.or(takes_part);
            }
        }
        let finding = match part {
            Truth::No => Finding::Skipped,
            part => Finding::EndDenies(part),
        };
        let is_end = finding == Finding::EndDenies(Truth::Yes);
        self.note(tier, None, None, finding);
        is_end
    }

    /// Whether it takes part, and where the flow goes for certain.
    fn policy(&mut self, tier: &str, policy: &'a Policy) -> (Truth, Next) {
        let direction = self.question.direction;
        let name = Some(&policy.name);
        let Some(rules) = policy.rules(direction) else {
            self.note_of(policy, tier, name, None, Finding::NoRules(direction));
            return (Truth::No, Next::Policy);
        };
        let (part, words) = self.takes_part(policy);
        let finding = Finding::TakesPart(part.clone(), words);
        self.note_of(policy, tier, name, None, finding);
        if part == Truth::No {
            return (part, Next::Policy);
        }
        for (index, rule) in rules.iter().enumerate() {
            let (truth, why) = self.matches(rule);
            let matched = truth == Truth::Yes;
            let finding = Finding::Rule(rule.action, truth, why);
            self.note_of(policy, tier, name, Some((direction, index)), finding);
            if matched && rule.action != RuleAction::Log {
                let next = match rule.action {
                    _ if policy.is_staged || part != Truth::Yes => Next::Policy,
                    RuleAction::Pass => Next::Tier,
                    _ => Next::End,
                };
                return (part, next);
            }
        }
        (part, Next::Policy)
    }

    fn takes_part(&mut self, policy: &'a Policy) -> (Truth, String) {
        let part = self.truth(|facts| facts.endpoint(&policy.selector));
        let Some(selector) = &policy.namespace_selector else {
            return (part, policy.selector.to_string());
        };
        let namespace = self.truth(|facts| facts.namespace(selector));
        let words = match (&part, &namespace) {
            (Truth::No, _) => policy.selector.to_string(),
            (_, Truth::No) => format!("namespaceSelector {selector}"),
            _ => format!("{}, namespaceSelector {selector}", policy.selector),
        };
        let both = |facts: &mut Facts<'a, ()>| facts.selects(&policy.selector, Some(selector));
        (self.truth(both), words)
    }

    /// Whether a rule matches; else the first condition that fails.
    fn matches(&mut self, rule: &'a Rule) -> (Truth, String) {
        for (condition, why) in conditions(self.question, rule) {
            if self.truth(|facts| condition(facts)) == Truth::No {
                return (Truth::No, why);
            }
        }
        let truth = self.truth(|facts| facts.matches(rule));
        let why = match truth {
            Truth::No => "its conditions exclude each other".to_owned(),
            _ => String::new(),
        };
        (truth, why)
    }

    /// Whether a condition holds, whatever is unknown.
    fn truth(&mut self, mut condition: impl FnMut(&mut Facts<'a, ()>) -> bool) -> Truth {
        let mut facts = Facts::new(self.question, ());
        let (mut yes, mut no, mut asked) = (false, false, BTreeSet::new());
        for _ in 0..MAX_WAYS {
            let found = condition(&mut facts);
            yes |= found;
            no |= !found;
            asked.extend(facts.asked().map(words));
            if (yes && no) || facts.next().is_none() {
                break;
            }
        }
        match (yes, no) {
            (true, true) => {
                self.unknown.extend(asked.iter().cloned());
                Truth::Depends(asked)
            }
            (true, false) => Truth::Yes,
            _ => Truth::No,
        }
    }

    fn note(
        &mut self,
        tier: &str,
        policy: Option<&Arc<str>>,
        rule: Option<(Direction, usize)>,
        finding: Finding,
    ) {
        self.steps.push(Step {
            tier: tier.to_owned(),
            policy: policy.cloned(),
            rule,
            finding,
        });
    }

    fn note_of(
        &mut self,
        of: &Policy,
        tier: &str,
        policy: Option<&Arc<str>>,
        rule: Option<(Direction, usize)>,
        finding: Finding,
    ) {
        let finding = match of.is_staged {
            true => Finding::Staged(Box::new(finding)),
            false => finding,
        };
        self.note(tier, policy, rule, finding);
    }
}

impl Truth {
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Yes, _) | (_, Self::Yes) => Self::Yes,
            (Self::No, other) | (other, Self::No) => other,
            (Self::Depends(mut on), Self::Depends(others)) => {
                on.extend(others);
                Self::Depends(on)
            }
        }
    }
}

type Condition<'a> = (Box<dyn Fn(&mut Facts<'a, ()>) -> bool + 'a>, String);

/// The conditions of a rule, each with the words for its failure.
fn conditions<'a>(question: &'a Question<'a>, rule: &'a Rule) -> Vec<Condition<'a>> {
    let mut all: Vec<Condition<'a>> = Vec::new();
    let far = question.far;
    if let Some(version) = rule.ip_version {
        let why = format!("ipVersion: {far} is not IPv{version}");
        all.push((Box::new(move |facts| facts.version() == version), why));
    }
    if let Some(proto) = rule.protocol {
        let why = format!("protocol: it is not {proto}");
        all.push((Box::new(move |facts| facts.protocol(proto)), why));
    }
    if let Some(proto) = rule.not_protocol {
        let why = format!("notProtocol: it is {proto}");
        all.push((Box::new(move |facts| !facts.protocol(proto)), why));
    }
    far_conditions(question, rule, &mut all);
    for (name, end, entity) in [
        ("destination", End::Receiver, &rule.destination),
        ("source", End::Sender, &rule.source),
    ] {
        if !entity.ports.is_empty() || !entity.not_ports.is_empty() {
            let why = match entity.ports.is_empty() {
                true => format!("{name}.notPorts has the port"),
                false => format!("{name}.ports: the port is not among them"),
            };
            all.push((Box::new(move |facts| facts.ports(end, entity)), why));
        }
    }
    near_conditions(question, rule, &mut all);
    all
}

fn far_conditions<'a>(question: &'a Question<'a>, rule: &'a Rule, all: &mut Vec<Condition<'a>>) {
    let (name, far) = match question.direction {
        Direction::Egress => ("destination", &rule.destination),
        Direction::Ingress => ("source", &rule.source),
    };
    let addr = question.far;
    if !far.nets.is_empty() {
        let why = format!("{name}.nets: {addr} is in none of them");
        all.push((Box::new(move |facts| facts.is_far_in(&far.nets)), why));
    }
    if !far.not_nets.is_empty() {
        let why = format!("{name}.notNets: {addr} is in one of them");
        all.push((Box::new(move |facts| !facts.is_far_in(&far.not_nets)), why));
    }
    if let Some(selector) = &far.selector {
        let why = match question.far_sets.is_empty() {
            true => format!("{name}.selector: {addr} is in no network set"),
            false => format!("{name}.selector: {addr} is in no network set with {selector}"),
        };
        all.push((Box::new(move |facts| facts.in_set(selector)), why));
    }
    if let Some(selector) = &far.not_selector {
        let why = format!("{name}.notSelector: {addr} is in a network set with {selector}");
        all.push((Box::new(move |facts| !facts.in_set(selector)), why));
    }
}

fn near_conditions<'a>(question: &'a Question<'a>, rule: &'a Rule, all: &mut Vec<Condition<'a>>) {
    let (name, near) = match question.direction {
        Direction::Egress => ("source", &rule.source),
        Direction::Ingress => ("destination", &rule.destination),
    };
    if !near.nets.is_empty() {
        let why = format!("{name}.nets: the endpoint's address is in none of them");
        all.push((Box::new(move |facts| facts.near(&near.nets)), why));
    }
    if !near.not_nets.is_empty() {
        let why = format!("{name}.notNets: the endpoint's address is in one of them");
        all.push((Box::new(move |facts| !facts.near(&near.not_nets)), why));
    }
    let of = |selector: &Option<Selector>| selector.as_ref().map(Selector::to_string);
    if let (Some(selector), Some(text)) = (&near.selector, of(&near.selector)) {
        let why = format!("{name}.selector: the endpoint is not {text}");
        all.push((Box::new(move |facts| facts.endpoint(selector)), why));
    }
    if let (Some(selector), Some(text)) = (&near.not_selector, of(&near.not_selector)) {
        let why = format!("{name}.notSelector: the endpoint is {text}");
        all.push((Box::new(move |facts| !facts.endpoint(selector)), why));
    }
}

/// The fact that is unknown.
fn words(ask: Ask<'_>) -> String {
    match ask {
        Ask::Label(key, _) => format!("the label {key}"),
        Ask::Near(_) => "the endpoint's address".to_owned(),
        Ask::Protocol(_) | Ask::HasPorts => "the protocol".to_owned(),
        Ask::Port(End::Sender, _) => "the source port".to_owned(),
        Ask::Port(End::Receiver, _) => "the destination port".to_owned(),
    }
}

fn listed(words: &BTreeSet<String>) -> String {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.split_last() {
        None => "too much".to_owned(),
        Some((last, [])) => (*last).to_owned(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

/// A line, indented by what it is about: a tier, a policy in it, a rule of that.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (staged, finding) = match &self.finding {
            Finding::Staged(inner) => (" (staged)", inner.as_ref()),
            other => ("", other),
        };
        match (&self.policy, self.rule) {
            (Some(_), Some((direction, index))) => {
                write!(
                    f,
                    "    {} rule {}, {finding}",
                    direction.as_str(),
                    index + 1
                )
            }
            (Some(policy), None) => write!(f, "  {policy}{staged}: {finding}"),
            (None, _) => match finding {
                Finding::Tier(order) => match order.0 {
                    Some(order) => write!(f, "tier {} (order {order})", self.tier),
                    None => write!(f, "tier {} (no order: last)", self.tier),
                },
                Finding::Result(text) => write!(f, "result: {text}"),
                other => write!(f, "  end of the tier: {other}"),
            },
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tier(_) => f.write_str("asked"),
            Self::Skipped => f.write_str("no policy takes part, on to the next tier"),
            Self::EndDenies(Truth::Depends(on)) => {
                write!(
                    f,
                    "denies what no rule decided, if a policy takes part: depends on {}",
                    listed(on)
                )
            }
            Self::EndDenies(_) => {
                f.write_str("denies, since a policy takes part and no rule decided")
            }
            Self::NoRules(direction) => write!(f, "no rules for {}", direction.as_str()),
            Self::TakesPart(Truth::Yes, words) => write!(f, "takes part, by {words}"),
            Self::TakesPart(Truth::No, words) => write!(f, "not for this endpoint, by {words}"),
            Self::TakesPart(Truth::Depends(on), words) => {
                write!(
                    f,
                    "takes part or not, by {words}: depends on {}",
                    listed(on)
                )
            }
            Self::Rule(action, Truth::Yes, _) => write!(f, "{action}: matches"),
            Self::Rule(action, Truth::No, why) => write!(f, "{action}: no, {why}"),
            Self::Rule(action, Truth::Depends(on), _) => {
                write!(f, "{action}: depends on {}", listed(on))
            }
            Self::Staged(finding) => finding.fmt(f),
            Self::Result(text) => f.write_str(text),
        }
    }
}
