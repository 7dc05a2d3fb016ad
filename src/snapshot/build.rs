//! From feeds and exceptions to a snapshot.

use std::{collections::HashMap, sync::Arc};

use super::{
    Class, Content, Exception, FlowReport, Index, Regime, Report, SetName, Sets, Snapshot,
    Transition, classes, coarse,
    exception::{Spared, union},
    index::{BoundTag, Items, Meta, Rules, Tag},
    report::feed_reports,
    transition,
};
use crate::{
    arm::Force,
    config,
    config::PrivateNetworks,
    feed::{Action, Cover, FeedData, FeedName, Item, Scope, Severity, Share, Span, bound_size},
    policy::{Labels, NetworkSet},
    prefix::{Family, Prefix, RangeSet},
};

/// One feed with its good data.
#[derive(Clone, Debug)]
pub struct Input {
    /// Its name.
    pub name: FeedName,
    /// What a match does, where no score decides.
    pub action: Action,
    /// With a score at or above it an entry is denied, with any other it alerts.
    pub deny_score: Option<u32>,
    /// Directions.
    pub scope: Scope,
    /// Severity of its alerts.
    pub severity: Severity,
    /// Feeds of one origin count once in a consensus.
    pub origin: String,
    /// Labels of the network set that it keeps, `threatfeed.NAME`; `None`: it keeps none.
    pub network_set: Option<Labels>,
    /// It is on trial: what it denies only alerts.
    pub trial: bool,
    /// Its entries.
    pub data: Arc<FeedData>,
}

impl Input {
    /// A feed of the configuration with `data`.
    pub fn new(feed: &config::Feed, data: Arc<FeedData>) -> Self {
        Self {
            name: feed.name.clone(),
            action: feed.action,
            deny_score: feed.deny_score,
            scope: feed.scope,
            severity: feed.severity,
            origin: feed.origin().to_owned(),
            network_set: Some(feed.labels.clone()),
            trial: false,
            data,
        }
    }

    /// The same feed with what it denies now.
    #[must_use]
    pub fn with(self, force: Force) -> Self {
        match force {
            Force::AsConfigured => self,
            Force::Trial => Self {
                trial: true,
                ..self
            },
            Force::Deny => Self {
                action: Action::Deny,
                deny_score: None,
                ..self
            },
        }
    }

    /// The addresses of the entries that are denied, were the feed not on trial; with `all`, of all that
    /// count.
    pub fn denied(&self, all: bool) -> impl Iterator<Item = Prefix> + Clone {
        let counts = |item: &Item<'_>| item.port.is_none() || bound_size(&item.prefix).is_some();
        let denies = move |item: &Item<'_>| all || self.action_for(item.score()) == Action::Deny;
        let items = self.data.parsed.items().filter(counts).filter(denies);
        items.map(|item| item.prefix)
    }

    /// What an entry does now.
    pub(super) fn action_now(&self, score: Option<u32>) -> Action {
        if self.trial {
            Action::Alert
        } else {
            self.action_for(score)
        }
    }

    /// What an entry does, were the feed not on trial.
    pub(super) fn action_for(&self, score: Option<u32>) -> Action {
        match self.deny_score {
            None => self.action,
            Some(deny) if score.is_some_and(|score| score >= deny) => Action::Deny,
            Some(_) => Action::Alert,
        }
    }
}

/// How feeds are weighed together.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// What happens to networks of private space.
    pub private: PrivateNetworks,
    /// Origins that must list an address before it is denied; 1: any.
    pub deny_at: usize,
    /// The rules are the admin's and ask every set that there can be, also those that hold nothing.
    pub every_set: bool,
    /// A listed address that the daemon found as an exception alerts; else it is silent.
    pub alert_found: bool,
    /// The rules let resolvers pass at their ports; else resolvers are exceptions at all ports.
    pub by_port: bool,
    /// Network sets written by hand.
    pub network_sets: Vec<Arc<NetworkSet>>,
    /// The policies in force.
    pub regime: Regime,
    /// The IPv6 forms in which IPv4 entries hold too.
    pub transition: Transition,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            private: PrivateNetworks::Refuse,
            deny_at: 1,
            every_set: false,
            alert_found: true,
            by_port: true,
            network_sets: Vec::new(),
            regime: Regime::default(),
            transition: Transition::default(),
        }
    }
}

/// Merges the feeds, subtracts the exceptions, and builds sets, index and report.
pub fn build(inputs: &[Input], exceptions: &[Exception], options: Options) -> Snapshot {
    // Listings number their feeds and network sets with 16 bits.
    let inputs = inputs.get(..usize::from(u16::MAX)).unwrap_or(inputs);
    let exceptions = &*options.transition.exceptions(exceptions);
    let rules = Rules {
        spared: Spared::new(exceptions, options.alert_found, options.by_port),
        private: options.private,
        deny_at: options.deny_at,
    };
    let index = index(inputs, &options, rules.clone());
    let (mut sets, too_many) = classes::sets(inputs, &options, &index, &rules);
    let denied = denied(&sets);
    let report = Report {
        feeds: feed_reports(inputs, exceptions, &rules),
        flows: FlowReport {
            elements: sets.flows(),
            too_many,
        },
        denied,
    };
    let in_use = &options.transition.in_use;
    let spared = &rules.spared;
    let silent = union(&spared.except.v6, &spared.special.v6);
    transition::add(&mut sets, in_use, &union(&silent, &spared.found.v6));
    let has_nat64 = in_use.iter().any(|form| !form.is_six_to_four());
    coarse::add(&mut sets, options.every_set, has_nat64);
    // Behind the prefilter: what is not listed never gets so far.
    add_resolvers(&mut sets, &rules.spared);
    Snapshot {
        sets,
        index,
        report,
    }
}

/// What the sets deny, but for single ports.
fn denied(sets: &Sets) -> Share {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (name, content) in sets.iter() {
        match (name, content) {
            (
                SetName::Class {
                    class: Class::Deny, ..
                },
                Content::V4(ranges),
            ) => v4.extend_from_slice(ranges),
            (
                SetName::Class {
                    class: Class::Deny, ..
                },
                Content::V6(ranges),
            ) => v6.extend_from_slice(ranges),
            _ => {}
        }
    }
    Cover::of_ranges(&RangeSet::new(v4), &RangeSet::new(v6)).share()
}

/// The resolvers of each family that has anything to be let pass from.
fn add_resolvers(sets: &mut Sets, spared: &Spared) {
    let asks = |family| sets.names().any(|name| name.family() == family);
    let (v4, v6) = (asks(Family::V4), asks(Family::V6));
    if v4 {
        let family = Family::V4;
        sets.put(
            SetName::Resolvers { family },
            Content::Ports4(spared.resolvers()),
        );
    }
    if v6 {
        let family = Family::V6;
        sets.put(
            SetName::Resolvers { family },
            Content::Ports6(spared.resolvers()),
        );
    }
}

fn index(inputs: &[Input], options: &Options, rules: Rules) -> Index {
    let mut origins: HashMap<&str, u32> = HashMap::new();
    let mut written = Written::default();
    let (mut whole, mut bound) = (Items::default(), Items::default());
    let mut metas = Vec::with_capacity(inputs.len());
    for (feed, input) in (0u16..).zip(inputs) {
        let next = u32::try_from(origins.len()).unwrap_or(u32::MAX);
        let origin = *origins.entry(&input.origin).or_insert(next);
        metas.push(Meta {
            name: input.name.clone(),
            scope: input.scope,
            severity: input.severity,
            origin,
            labels: input.network_set.clone().map(Arc::new),
            is_feed: true,
            trial: input.trial,
        });
        for item in input.data.parsed.items() {
            let range = item.note.and_then(|note| note.written.as_deref());
            let tag = Tag {
                feed,
                action: input.action_for(item.score()),
                written: written.number(range),
            };
            match item.port {
                None => whole.push(&item.prefix, tag),
                Some(port) if bound_size(&item.prefix).is_some() => {
                    bound.push(&item.prefix, BoundTag { tag, port })
                }
                Some(_) => {}
            }
        }
    }
    let first = u16::try_from(inputs.len()).unwrap_or(u16::MAX);
    for (number, set) in (first..u16::MAX).zip(&options.network_sets) {
        metas.push(Meta {
            name: set.name.clone(),
            scope: Scope::Both,
            severity: Severity::Medium,
            origin: u32::MAX,
            labels: Some(Arc::new(set.labels.clone())),
            is_feed: false,
            trial: false,
        });
        for net in &set.nets {
            let tag = Tag {
                feed: number,
                action: Action::Alert,
                written: 0,
            };
            whole.push(net, tag);
        }
    }
    let regime = options.regime.clone();
    let forms = options.transition.read.clone();
    Index::new(metas, whole, bound, written.list, rules, regime).reading(forms)
}

/// Ranges that entries are pieces of, each once, numbered from 1.
#[derive(Default)]
struct Written {
    list: Vec<Span>,
    last: Option<(Span, u32)>,
}

impl Written {
    /// The pieces of a range follow each other in a feed.
    fn number(&mut self, span: Option<&Span>) -> u32 {
        let Some(span) = span else { return 0 };
        match self.last {
            Some((last, number)) if last == *span => number,
            _ => {
                self.list.push(*span);
                let number = u32::try_from(self.list.len()).unwrap_or(0);
                self.last = Some((*span, number));
                number
            }
        }
    }
}
