//! All tiers and policies in force, and what they answer.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use super::{
    DEFAULT_TIER, DEFAULT_TIER_ORDER, Endpoint, Labels, Order, Policy, RuleAction, Tier,
    walk::{Index, Leaf, Scope, Walk},
};
use crate::{
    feed::{Action, Direction},
    packet::Protocol,
};

/// Most ways through the policies that [`Policies::explore`] looks at.
const MAX_LEAVES: usize = 4096;
/// Most conditions on unknown facts that it compares: some 50 ms.
const MAX_WORK: usize = 1 << 22;
/// Most ways on which a ruling's details have to agree.
const MAX_DETAILS: usize = 256;

/// A fact of a flow, or that it may be anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fact<T> {
    /// It is this.
    Known(T),
    /// It may be anything.
    Unknown,
}

/// What policies are asked.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Egress: the endpoint is the sender.
    pub direction: Direction,
    /// The endpoint.
    pub endpoint: &'a Endpoint,
    /// Its address.
    pub near: Fact<IpAddr>,
    /// The address at the other end.
    pub far: IpAddr,
    /// Labels of the network sets that hold `far`.
    pub far_sets: &'a [&'a Labels],
    /// The protocol.
    pub proto: Fact<Protocol>,
    /// The sender's port; `None`: the protocol has none.
    pub src_port: Fact<Option<u16>>,
    /// The receiver's port.
    pub dst_port: Fact<Option<u16>>,
}

/// What may come out of a question with unknown facts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reach {
    /// A policy allows it.
    pub allow: bool,
    /// A policy denies it, or the end of a tier does.
    pub deny: bool,
    /// No policy decides: the feeds do.
    pub fall: bool,
    /// A rule logs it.
    pub log: bool,
}

/// Which policy decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// Allow or Deny; `None`: no policy decided.
    pub verdict: Option<RuleAction>,
    /// The policy that decided; at the end of a tier the last policy of it that selected the endpoint.
    pub policy: Option<Arc<str>>,
    /// Index of its rule; `None`: the end of the tier denied.
    pub rule: Option<usize>,
    /// A Log rule of this policy matched on the way.
    pub logged_by: Option<Arc<str>>,
    /// What staged policies would have decided, and which.
    pub staged: Vec<(Arc<str>, RuleAction)>,
}

/// A part of all protocols and receiver's ports within which the answer does not depend on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRegion {
    /// This protocol; `None`: every protocol that no other region names.
    pub proto: Option<Protocol>,
    /// First and last port; `None`: the protocol has no ports.
    pub ports: Option<(u16, u16)>,
}

/// All tiers and policies in force.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policies {
    tiers: Vec<(Tier, Vec<Policy>)>,
}

impl Policies {
    /// Sorts them as they are asked. The default tier need not be among `tiers`, and its order is
    /// always the same; a policy of a tier that is not there is left out.
    pub fn new(mut tiers: Vec<Tier>, policies: Vec<Policy>) -> Self {
        tiers.retain(|tier| tier.name != DEFAULT_TIER);
        tiers.push(Tier {
            name: DEFAULT_TIER.to_owned(),
            order: Order(Some(DEFAULT_TIER_ORDER)),
        });
        tiers.sort_by(|a, b| (a.order, &a.name).cmp(&(b.order, &b.name)));
        tiers.dedup_by(|a, b| a.name == b.name);
        let mut tiers: Vec<_> = tiers.into_iter().map(|tier| (tier, Vec::new())).collect();
        for policy in policies {
            let home = tiers.iter_mut().find(|(tier, _)| tier.name == policy.tier);
            if let Some((_, home)) = home {
                home.push(policy);
            }
        }
        for (_, policies) in &mut tiers {
            policies.sort_by(|a, b| (a.order, &a.name).cmp(&(b.order, &b.name)));
        }
        tiers.retain(|(_, policies)| !policies.is_empty());
        Self { tiers }
    }

    /// True when there is no policy, staged ones included.
    pub fn is_empty(&self) -> bool {
        self.tiers.is_empty()
    }

    /// Tiers with policies, as they are asked.
    pub fn tiers(&self) -> &[(Tier, Vec<Policy>)] {
        &self.tiers
    }

    /// The same policies with one of the staged ones enforced, for each of these.
    pub fn each_staged(&self) -> Vec<Self> {
        let all = || self.tiers.iter().flat_map(|(_, policies)| policies);
        let with = |staged: &Policy| {
            let enforced = |policy: &Policy| Policy {
                is_staged: policy.is_staged && policy != staged,
                ..policy.clone()
            };
            let tiers = self.tiers.iter().map(|(tier, _)| tier.clone()).collect();
            Self::new(tiers, all().map(enforced).collect())
        };
        all().filter(|policy| policy.is_staged).map(with).collect()
    }

    /// Every answer that some endpoint and flow can get that agrees with what is known.
    ///
    /// Exact, unless there are too many ways through the policies: then everything is reported.
    pub fn explore(&self, question: &Question<'_>) -> Reach {
        self.explore_until(question, Reach::is_all)
    }

    /// True when some endpoint's flows with the addresses of a network set may be denied by a policy,
    /// which has `labels`; prefixes that rules name beside are not looked at.
    pub fn may_deny(&self, anybody: &Endpoint, labels: &Labels) -> bool {
        let far_sets = [labels];
        let asked = |direction| {
            let regions = self.port_regions(direction).into_iter();
            regions.map(move |region| (direction, self.facts_of(direction, region)))
        };
        let both = [Direction::Egress, Direction::Ingress];
        both.into_iter()
            .flat_map(asked)
            .any(|(direction, (proto, dst_port))| {
                let question = Question {
                    direction,
                    endpoint: anybody,
                    near: Fact::Unknown,
                    far: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                    far_sets: &far_sets,
                    proto,
                    src_port: Fact::Unknown,
                    dst_port,
                };
                self.explore(&question).deny
            })
    }

    /// The same, but no further than to see that the verdict depends, where the feeds say `by_feeds`.
    pub(super) fn explore_verdict(&self, question: &Question<'_>, by_feeds: Action) -> Reach {
        self.explore_until(question, |reach| reach.action(Some(by_feeds)).is_none())
    }

    /// The same, at most until `enough` is known.
    fn explore_until(&self, question: &Question<'_>, enough: impl Fn(&Reach) -> bool) -> Reach {
        let mut reach = Reach::default();
        let mut walk = Walk::new(self, question, Scope::Verdict);
        let mut leaves = 0;
        while let Some(leaf) = walk.next() {
            reach.add(&leaf);
            leaves += 1;
            if enough(&reach) {
                break;
            }
            if leaves >= MAX_LEAVES || walk.work() > MAX_WORK {
                return Reach::ALL;
            }
        }
        reach
    }

    /// The answer, or `None` when it depends on what is not known.
    ///
    /// Where the verdict is the same whatever is unknown, but not who decides it, `policy` and `rule`
    /// are `None`; `logged_by` is a policy that may log it, and `staged` what is certain.
    pub fn rule(&self, question: &Question<'_>) -> Option<Ruling> {
        let mut walk = Walk::new(self, question, Scope::Details);
        let leaf = walk.next()?;
        let mut ruling = self.ruling(leaf, &walk);
        if walk.is_certain() {
            return Some(ruling);
        }
        // Packets wait for this: the second answer that is possible ends it.
        let reach = self.explore_until(question, |reach| !reach.is_single());
        if !reach.is_single() {
            return None;
        }
        let mut leaves = 1;
        while let Some(leaf) = walk.next() {
            let other = self.ruling(leaf, &walk);
            ruling.agree(&other);
            leaves += 1;
            if leaves >= MAX_DETAILS || walk.work() > MAX_WORK {
                ruling.policy = None;
                ruling.rule = None;
                ruling.staged.clear();
                break;
            }
        }
        Some(ruling)
    }

    fn ruling(&self, leaf: Leaf, walk: &Walk<'_>) -> Ruling {
        let staged = walk.staged();
        Ruling {
            verdict: leaf.verdict,
            policy: leaf.policy.and_then(|index| self.name(index)),
            rule: leaf.rule,
            logged_by: leaf.logged_by.and_then(|index| self.name(index)),
            staged: staged
                .filter_map(|(index, action)| Some((self.name(index)?, action)))
                .collect(),
        }
    }

    fn name(&self, (tier, policy): Index) -> Option<Arc<str>> {
        let (_, policies) = self.tiers.get(tier)?;
        policies.get(policy).map(|policy| policy.name.clone())
    }
}

impl Reach {
    /// Anything is possible.
    pub const ALL: Self = Self {
        allow: true,
        deny: true,
        fall: true,
        log: true,
    };

    /// True when only one of allow, deny and fall is possible.
    pub fn is_single(&self) -> bool {
        u8::from(self.allow) + u8::from(self.deny) + u8::from(self.fall) == 1
    }

    /// What becomes of the flow where the feeds say `by_feeds`; `None`: it depends.
    pub fn action(&self, by_feeds: Option<Action>) -> Option<Action> {
        let by_feeds = by_feeds == Some(Action::Deny);
        let denies = self.deny || (self.fall && by_feeds);
        let passes = self.allow || (self.fall && !by_feeds);
        match (denies, passes) {
            (true, true) => None,
            (true, false) => Some(Action::Deny),
            (false, _) => Some(Action::Alert),
        }
    }

    fn is_all(&self) -> bool {
        *self == Self::ALL
    }

    pub(super) fn add(&mut self, leaf: &Leaf) {
        match leaf.verdict {
            Some(RuleAction::Allow) => self.allow = true,
            Some(_) => self.deny = true,
            None => self.fall = true,
        }
        self.log |= leaf.logged_by.is_some();
    }
}

impl Ruling {
    /// Keeps what `other` says as well, and who may log.
    fn agree(&mut self, other: &Self) {
        if (&self.policy, self.rule) != (&other.policy, other.rule) {
            if self.policy != other.policy {
                self.policy = None;
            }
            self.rule = None;
        }
        if self.logged_by.is_none() {
            self.logged_by.clone_from(&other.logged_by);
        }
        self.staged.retain(|found| other.staged.contains(found));
    }
}
