//! The way of a flow through tiers, policies and rules, for everything it may be.
//!
//! Rules: Calico's tiers by order, in each its policies by order, in each its rules in sequence.
//! Allow and Deny end it, Log is noted, Pass leaves the tier; the end of a tier in which an enforced
//! policy took part denies.

use super::{Policies, Policy, Question, Reach, RuleAction, facts::Facts};
use crate::feed::Direction;

/// Which policies are asked, and how closely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Those that can change the verdict, or log.
    Verdict,
    /// All, and what staged ones would do.
    Details,
}

/// A policy, by its tier and its place there.
pub(super) type Index = (usize, usize);

/// How far it came.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    policy: Index,
    /// The next rule; `None`: whether the policy takes part is not known yet.
    rule: Option<usize>,
    /// The last policy of this tier that took part.
    last: Option<Index>,
    logged_by: Option<Index>,
    /// Findings about staged policies until here.
    staged: usize,
}

/// A finding about a staged policy.
#[derive(Clone, Copy, Debug)]
enum Staged {
    /// One of its rules matched.
    Matched(Index, RuleAction),
    /// It took part, and no rule matched.
    Unmatched(Index),
    /// The end of this tier was reached, and no enforced policy had taken part.
    Skipped(usize),
}

/// One end of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    /// Allow or Deny; `None`: no policy decided.
    pub verdict: Option<RuleAction>,
    /// The policy that decided; at the end of a tier the last one that took part.
    pub policy: Option<Index>,
    /// Its rule; `None`: the end of the tier.
    pub rule: Option<usize>,
    /// The first policy that logs it.
    pub logged_by: Option<Index>,
}

/// A walk: an iterator over the ends of all ways that agree with what is known; for the verdict, until
/// nothing new can come.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    policies: &'a Policies,
    direction: Direction,
    scope: Scope,
    facts: Facts<'a, Place>,
    place: Option<Place>,
    staged: Vec<Staged>,
    /// What came out so far.
    seen: Reach,
    most: Option<Reach>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(policies: &'a Policies, question: &'a Question<'a>, scope: Scope) -> Self {
        Self {
            policies,
            direction: question.direction,
            scope,
            facts: Facts::new(question, Place::default()),
            place: Some(Place::default()),
            staged: Vec::new(),
            seen: Reach::default(),
            most: None,
        }
    }

    /// True when the ends so far were reached without an assumption.
    pub(super) fn is_certain(&self) -> bool {
        self.facts.is_certain()
    }

    /// How many conditions on unknown facts were compared so far.
    pub(super) fn work(&self) -> usize {
        self.facts.work()
    }

    /// What staged policies would have done on the last way, each as if it alone were enforced.
    pub(super) fn staged(&self) -> impl Iterator<Item = (Index, RuleAction)> {
        let is_skipped = |tier: usize| {
            let mut found = self.staged.iter();
            found.any(|found| matches!(found, Staged::Skipped(skipped) if *skipped == tier))
        };
        self.staged.iter().filter_map(move |found| match *found {
            Staged::Matched(index, action) => Some((index, action)),
            Staged::Unmatched(index) => is_skipped(index.0).then_some((index, RuleAction::Deny)),
            Staged::Skipped(_) => None,
        })
    }

    /// What rules and tiers could say at most of this far end, with no look at the rest.
    fn most(&self) -> Reach {
        let policies = self.policies.tiers().iter().flat_map(|(_, all)| all);
        let mut most = Reach {
            fall: true,
            ..Reach::default()
        };
        for policy in policies.filter(|policy| !policy.is_staged) {
            let Some(rules) = policy.rules(self.direction) else {
                continue;
            };
            // The end of its tier.
            most.deny = true;
            for rule in rules.iter().filter(|rule| self.facts.far_matches(rule)) {
                most.allow |= rule.action == RuleAction::Allow;
                most.log |= rule.action == RuleAction::Log;
            }
        }
        most
    }

    /// True when nothing can come out that did not before.
    fn is_done(&mut self) -> bool {
        if self.scope == Scope::Details {
            return false;
        }
        let most = self.most.unwrap_or_else(|| self.most());
        self.most = Some(most);
        self.seen == most
    }

    /// Goes on from a place to the end.
    fn run(&mut self, mut at: Place) -> Leaf {
        let tiers = self.policies.tiers();
        while let Some((_, policies)) = tiers.get(at.policy.0) {
            let Some(policy) = policies.get(at.policy.1) else {
                if let Some(last) = at.last {
                    return Leaf::new(at, Some(RuleAction::Deny), Some(last), None);
                }
                self.skip_tier(&mut at);
                continue;
            };
            self.facts.at(at);
            if let Some(rule) = at.rule {
                let verdict = self.rule(&mut at, policy, rule);
                if verdict.is_some() {
                    return Leaf::new(at, verdict, Some(at.policy), Some(rule));
                }
            } else if policy.is_staged {
                self.stage(&mut at, policy);
                at.policy.1 += 1;
            } else if self.takes_part(at, policy) {
                at.last = Some(at.policy);
                at.rule = Some(0);
            } else {
                at.policy.1 += 1;
            }
        }
        Leaf::new(at, None, None, None)
    }

    fn takes_part(&mut self, at: Place, policy: &'a Policy) -> bool {
        let Some(rules) = policy.rules(self.direction) else {
            return false;
        };
        // Whether it takes part says nothing then: the tier denies at its end anyway.
        let is_idle = self.scope == Scope::Verdict
            && at.last.is_some()
            && !rules.iter().any(|rule| self.facts.far_matches(rule));
        !is_idle
            && self
                .facts
                .selects(&policy.selector, policy.namespace_selector.as_ref())
    }

    /// Asks one rule and moves on; Allow or Deny when it decides.
    fn rule(&mut self, at: &mut Place, policy: &'a Policy, index: usize) -> Option<RuleAction> {
        let rules = policy.rules(self.direction).unwrap_or_default();
        let Some(rule) = rules.get(index) else {
            at.rule = None;
            at.policy.1 += 1;
            return None;
        };
        let is_noted = rule.action == RuleAction::Log && at.logged_by.is_some();
        if is_noted || !self.facts.matches(rule) {
            at.rule = Some(index + 1);
            return None;
        }
        match rule.action {
            RuleAction::Allow | RuleAction::Deny => return Some(rule.action),
            RuleAction::Log => {
                at.logged_by = Some(at.policy);
                at.rule = Some(index + 1);
            }
            RuleAction::Pass => at.next_tier(),
        }
        None
    }

    fn skip_tier(&mut self, at: &mut Place) {
        if at.staged > 0 {
            self.staged.push(Staged::Skipped(at.policy.0));
            at.staged += 1;
        }
        at.next_tier();
    }

    /// Notes what a staged policy would do.
    fn stage(&mut self, at: &mut Place, policy: &'a Policy) {
        let Some(rules) = policy.rules(self.direction) else {
            return;
        };
        if self.scope == Scope::Verdict
            || !self
                .facts
                .selects(&policy.selector, policy.namespace_selector.as_ref())
        {
            return;
        }
        let mut asked = rules.iter().filter(|rule| rule.action != RuleAction::Log);
        self.staged
            .push(match asked.find(|rule| self.facts.matches(rule)) {
                Some(rule) => Staged::Matched(at.policy, rule.action),
                None => Staged::Unmatched(at.policy),
            });
        at.staged += 1;
    }
}

impl Iterator for Walk<'_> {
    type Item = Leaf;

    fn next(&mut self) -> Option<Leaf> {
        let at = match self.place.take() {
            Some(start) => start,
            None if self.facts.is_certain() || self.is_done() => return None,
            None => self.facts.next()?,
        };
        self.staged.truncate(at.staged);
        let leaf = self.run(at);
        self.seen.add(&leaf);
        Some(leaf)
    }
}

impl Place {
    fn next_tier(&mut self) {
        self.policy = (self.policy.0 + 1, 0);
        self.rule = None;
        self.last = None;
    }
}

impl Leaf {
    fn new(
        at: Place,
        verdict: Option<RuleAction>,
        policy: Option<Index>,
        rule: Option<usize>,
    ) -> Self {
        Self {
            verdict,
            policy,
            rule,
            logged_by: at.logged_by,
        }
    }
}
