//! What is true of an address, and what follows from it.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use crate::{
    config::PrivateNetworks,
    feed::{Action, Direction, Scope},
    policy::{Fact, Labels, Policies, Question, Reach},
    prefix::Prefix,
    snapshot::{Class, Input, Options, PortBox, Regime, index::Rules, regions::Regions},
};

/// What a prefix of the sweep means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// Nothing counts here.
    Exception,
    /// No entry of a feed counts here.
    Special,
    /// What is listed here is watched, whatever policies say.
    Found,
    /// Networks of private space are refused, or only alert.
    Private,
    /// Some entry with a port is for this address.
    Bound,
    /// Inside this prefix of a rule.
    Net(usize),
    /// Inside this network set that was written by hand.
    Set(usize),
    /// A feed lists it.
    Entry {
        feed: usize,
        action: Action,
        is_net: bool,
    },
}

/// Marks that are not of a list.
const SINGLES: [Mark; 5] = [
    Mark::Exception,
    Mark::Special,
    Mark::Found,
    Mark::Private,
    Mark::Bound,
];
const SINGLE: usize = SINGLES.len();
/// Marks of a feed: two actions, each for hosts and networks.
const OF_FEED: usize = 4;

/// A feed, as far as its entries have a say.
struct Feed {
    scope: Scope,
    /// Feeds of one origin count once.
    origin: usize,
    /// Number of its network set's labels.
    group: Option<usize>,
}

/// What is true of an address.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) is_excepted: bool,
    pub(super) has_bound: bool,
    is_special: bool,
    is_found: bool,
    is_private: bool,
    /// Feeds that list it, and what they do.
    entries: Vec<(usize, Action)>,
    /// Labels of the network sets that hold it.
    groups: BTreeSet<usize>,
    /// Prefixes of rules that hold it.
    nets: Vec<usize>,
}

type Asked = (Direction, Vec<usize>, Vec<usize>);

/// Gives classes.
pub(super) struct Judge<'a> {
    feeds: Vec<Feed>,
    /// Group of each network set that was written by hand.
    sets: Vec<usize>,
    /// Distinct labels of network sets.
    groups: Vec<&'a Labels>,
    /// Prefixes of rules.
    pub(super) nets: Vec<Prefix>,
    regions: [Regions; 2],
    regime: &'a Regime,
    /// The policies as they would be with one more of the staged ones enforced.
    staged: Vec<Policies>,
    private: PrivateNetworks,
    deny_at: usize,
    explored: HashMap<Asked, Vec<Reach>>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(inputs: &'a [Input], options: &'a Options, rules: &Rules) -> Self {
        let policies = &options.regime.policies;
        let mut groups: Vec<&Labels> = Vec::new();
        let mut numbers: HashMap<&Labels, usize> = HashMap::new();
        let mut group = |labels: &'a Labels| {
            *numbers.entry(labels).or_insert_with(|| {
                groups.push(labels);
                groups.len() - 1
            })
        };
        let mut origins: HashMap<&str, usize> = HashMap::new();
        let feeds = inputs
            .iter()
            .map(|input| {
                let next = origins.len();
                Feed {
                    scope: input.scope,
                    origin: *origins.entry(&input.origin).or_insert(next),
                    group: input.network_set.as_ref().map(&mut group),
                }
            })
            .collect();
        let sets = options.network_sets.iter().map(|set| group(&set.labels));
        let sets = sets.collect();
        let mut nets = policies.far_nets(Direction::Egress);
        nets.extend(policies.far_nets(Direction::Ingress));
        nets.sort_unstable();
        nets.dedup();
        let regions = [Direction::Egress, Direction::Ingress]
            .map(|direction| Regions::new(policies.port_regions(direction)));
        Self {
            feeds,
            sets,
            groups,
            nets,
            regions,
            regime: &options.regime,
            staged: policies.each_staged(),
            private: rules.private,
            deny_at: rules.deny_at,
            explored: HashMap::new(),
        }
    }

    pub(super) fn regions(&self, direction: Direction) -> &Regions {
        let [egress, ingress] = &self.regions;
        match direction {
            Direction::Egress => egress,
            Direction::Ingress => ingress,
        }
    }

    /// The number of a mark in the sweep.
    pub(super) fn number(&self, mark: Mark) -> u32 {
        let sets = SINGLE + self.nets.len();
        let number = match mark {
            Mark::Exception => 0,
            Mark::Special => 1,
            Mark::Found => 2,
            Mark::Private => 3,
            Mark::Bound => 4,
            Mark::Net(number) => SINGLE + number,
            Mark::Set(number) => sets + number,
            Mark::Entry {
                feed,
                action,
                is_net,
            } => {
                let kind = 2 * usize::from(action == Action::Deny) + usize::from(is_net);
                sets + self.sets.len() + OF_FEED * feed + kind
            }
        };
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    /// The number of an entry's mark.
    pub(super) fn entry(&self, feed: usize, action: Action, is_net: bool) -> u32 {
        self.number(Mark::Entry {
            feed,
            action,
            is_net,
        })
    }

    fn mark(&self, number: u32) -> Option<Mark> {
        let number = usize::try_from(number).ok()?;
        let Some(rest) = number.checked_sub(SINGLE) else {
            return SINGLES.get(number).copied();
        };
        let Some(rest) = rest.checked_sub(self.nets.len()) else {
            return Some(Mark::Net(rest));
        };
        let Some(rest) = rest.checked_sub(self.sets.len()) else {
            return Some(Mark::Set(rest));
        };
        Some(Mark::Entry {
            feed: rest / OF_FEED,
            action: match rest % OF_FEED {
                0 | 1 => Action::Alert,
                _ => Action::Deny,
            },
            is_net: rest % 2 == 1,
        })
    }

    /// What is true where these marks are.
    pub(super) fn facts(&self, marks: impl Iterator<Item = u32>) -> Facts {
        let marks: Vec<Mark> = marks.filter_map(|number| self.mark(number)).collect();
        let mut facts = Facts {
            is_excepted: marks.contains(&Mark::Exception),
            is_special: marks.contains(&Mark::Special),
            is_found: marks.contains(&Mark::Found),
            is_private: marks.contains(&Mark::Private),
            has_bound: marks.contains(&Mark::Bound),
            ..Facts::default()
        };
        for mark in marks {
            self.note(&mut facts, mark);
        }
        facts.nets.sort_unstable();
        facts.nets.dedup();
        facts
    }

    /// The same with entries for one port.
    pub(super) fn with(&self, facts: &Facts, marks: impl Iterator<Item = u32>) -> Facts {
        let mut facts = facts.clone();
        for mark in marks.filter_map(|number| self.mark(number)) {
            self.note(&mut facts, mark);
        }
        facts
    }

    fn note(&self, facts: &mut Facts, mark: Mark) {
        match mark {
            Mark::Exception | Mark::Special | Mark::Found | Mark::Private | Mark::Bound => {}
            Mark::Entry { .. } if facts.is_special => {}
            Mark::Net(number) => facts.nets.push(number),
            Mark::Set(number) => facts.groups.extend(self.sets.get(number)),
            Mark::Entry {
                feed,
                action,
                is_net,
            } => match self.private {
                PrivateNetworks::Refuse if facts.is_private && is_net => {}
                // What may only alert is no reason for a policy to deny.
                PrivateNetworks::AlertOnly if facts.is_private && is_net => {
                    facts.entries.push((feed, Action::Alert));
                }
                _ => {
                    facts.entries.push((feed, action));
                    let group = self.feeds.get(feed).and_then(|feed| feed.group);
                    facts.groups.extend(group);
                }
            },
        }
    }

    /// The class in each region of protocols and ports.
    pub(super) fn classes(
        &mut self,
        facts: &Facts,
        far: IpAddr,
        direction: Direction,
    ) -> Vec<Option<Class>> {
        let count = self.regions(direction).list.len();
        let built_in = self.built_in(facts, direction);
        if facts.is_excepted || (built_in.is_none() && facts.groups.is_empty()) {
            return vec![None; count];
        }
        if facts.is_found {
            return vec![built_in.map(|_| Class::Watch); count];
        }
        let when_unknown = self.when_unknown();
        let reach = self.reach(facts, far, direction);
        let classes = reach.iter().map(|reach| match reach.action(built_in) {
            Some(Action::Deny) => Some(Class::Deny),
            Some(Action::Alert) => (built_in.is_some() || reach.log).then_some(Class::Watch),
            None => Some(when_unknown),
        });
        classes.collect()
    }

    /// The same with the ranges of protocols and ports.
    pub(super) fn parts(
        &mut self,
        facts: &Facts,
        far: IpAddr,
        direction: Direction,
    ) -> Vec<(Option<Class>, PortBox)> {
        let classes = self.classes(facts, far, direction);
        self.boxed(&classes, direction)
    }

    /// Classes of regions with the ranges of protocols and ports.
    pub(super) fn boxed(
        &self,
        classes: &[Option<Class>],
        direction: Direction,
    ) -> Vec<(Option<Class>, PortBox)> {
        let regions = self.regions(direction);
        let boxed = |(at, class): (usize, &Option<Class>)| {
            let class = *class;
            regions.boxes(at).into_iter().map(move |part| (class, part))
        };
        classes.iter().enumerate().flat_map(boxed).collect()
    }

    /// The class of what depends on the endpoint.
    pub(super) fn when_unknown(&self) -> Class {
        match self.regime.when_unknown() {
            Action::Deny => Class::Deny,
            Action::Alert => Class::Watch,
        }
    }

    /// What the feeds themselves do.
    fn built_in(&self, facts: &Facts, direction: Direction) -> Option<Action> {
        let mut strongest = None;
        let mut origins = BTreeSet::new();
        for (feed, action) in &facts.entries {
            let Some(feed) = self.feeds.get(*feed) else {
                continue;
            };
            if feed.scope.covers(direction) {
                strongest = strongest.max(Some(*action));
                origins.insert(feed.origin);
            }
        }
        strongest.map(|action| match self.deny_at {
            2.. if origins.len() < self.deny_at => Action::Alert,
            _ => action,
        })
    }

    /// What policies can answer in each region, over all endpoints.
    fn reach(&mut self, facts: &Facts, far: IpAddr, direction: Direction) -> &[Reach] {
        let groups: Vec<usize> = facts.groups.iter().copied().collect();
        let key = (direction, groups, facts.nets.clone());
        if !self.explored.contains_key(&key) {
            let reach = self.explore(&key.1, far, direction);
            self.explored.insert(key.clone(), reach);
        }
        self.explored.get(&key).map_or(&[][..], Vec::as_slice)
    }

    fn explore(&self, groups: &[usize], far: IpAddr, direction: Direction) -> Vec<Reach> {
        let far_sets: Vec<&Labels> = groups
            .iter()
            .filter_map(|group| self.groups.get(*group).copied())
            .collect();
        let policies = &self.regime.policies;
        let regions = &self.regions(direction).list;
        let reach = regions.iter().map(|region| {
            // Within a region every port gets the same answer.
            let (proto, dst_port) = policies.facts_of(direction, *region);
            let question = Question {
                direction,
                endpoint: &self.regime.anybody,
                near: Fact::Unknown,
                far,
                far_sets: &far_sets,
                proto,
                // What is sent from is as good as random, but for protocols without ports.
                src_port: match dst_port {
                    Fact::Known(None) => Fact::Known(None),
                    _ => Fact::Unknown,
                },
                dst_port,
            };
            let mut reach = policies.explore(&question);
            // What a staged policy would deny is told, and so it must be seen.
            if !reach.deny && !reach.log {
                let mut staged = self.staged.iter();
                reach.log = staged.any(|policies| policies.explore(&question).deny);
            }
            reach
        });
        reach.collect()
    }
}
