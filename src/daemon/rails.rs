//! The limits on what feeds may deny, wired: what an update, a command or a new configuration would deny
//! is weighed before it is in force. The rules are in [`crate::arm::Rails`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
};

use super::core::{Core, FeedState};
use crate::{
    arm::{Claim, Force},
    config,
    feed::{Action, Cover, FeedData, FeedName, Refusal, Share},
    policy::Endpoint,
    snapshot::Input,
};

/// What was counted of a feed's data, so that they need not be counted again.
#[derive(Debug)]
pub(super) struct Weighed {
    /// Not kept for this: they may be gone.
    data: Weak<FeedData>,
    rule: Rule,
    share: Share,
}

impl Weighed {
    fn is_of(&self, data: &Arc<FeedData>) -> bool {
        std::ptr::eq(self.data.as_ptr(), Arc::as_ptr(data))
    }

    /// How much is denied; `None`: nothing.
    pub(super) fn share(&self) -> Option<Share> {
        self.rule.denies().then_some(self.share)
    }
}

/// What decides which entries are denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    force: Force,
    action: Action,
    deny_score: Option<u32>,
    by_policy: bool,
}

impl Rule {
    /// Some entries may be denied.
    fn denies(&self) -> bool {
        self.force == Force::Deny
            || self.by_policy
            || self.action == Action::Deny
            || self.deny_score.is_some()
    }
}

/// What data of a feed deny under a rule.
pub(super) fn cover(feed: &config::Feed, data: &Arc<FeedData>, rule: &Rule) -> Cover {
    if !rule.denies() {
        return Cover::default();
    }
    let input = Input::new(feed, Arc::clone(data)).with(rule.force);
    Cover::of(input.denied(rule.by_policy))
}

impl Core {
    /// What decides which entries of a feed are denied now.
    pub(super) fn rule(&self, state: &FeedState) -> Rule {
        let feed = &state.config;
        let by_policy = state.keeps_set && !self.policies.is_empty() && {
            let anybody = Endpoint::any(&self.config.host.labels);
            self.policies.may_deny(&anybody, &feed.labels)
        };
        Rule {
            force: self.arming.force(&feed.name),
            action: feed.action,
            deny_score: feed.deny_score,
            by_policy,
        }
    }

    /// Looks what feeds would deny and holds back what is over a limit.
    pub(super) fn settle_rails(&mut self) {
        self.weigh_all();
        let claims = claims(&self.feeds);
        let max_all = self.config.arm.max_share;
        let configured = self.feeds.keys().cloned().collect();
        let (was_held, was_over) = self.rails_said.clone();
        let mut rails = std::mem::take(&mut self.arming.rails);
        let changed = rails.settle(claims, max_all, &configured);
        let is_over = |name: &&FeedName| rails.over(name).is_some();
        let over: BTreeSet<FeedName> = self.feeds.keys().filter(is_over).cloned().collect();
        let held = rails.all_held();
        self.arming.rails = rails;
        for name in held.difference(&was_held).chain(over.difference(&was_over)) {
            self.limit_problem(name)
                .iter()
                .for_each(|text| tracing::warn!("{text}"));
        }
        for name in was_held
            .difference(&held)
            .filter(|name| self.feeds.contains_key(*name))
        {
            tracing::info!("feed {name} is no longer held back by its share of the address space");
        }
        self.arming_changed |= changed;
        self.path.trials.hold(held.clone());
        self.rails_said = (held, over);
    }

    /// What is to be said of a feed that is over a limit.
    pub(super) fn limit_problem(&self, name: &FeedName) -> Option<String> {
        let rails = &self.arming.rails;
        let why = |why: &Refusal| in_words(why, name);
        let held = rails
            .held(name)
            .map(|held| format!("feed {name} only alerts: {}", why(held)));
        held.or_else(|| {
            let over = rails.over(name)?;
            Some(format!(
                "feed {name} stays in force as it was, and larger updates are held back: {}",
                why(over)
            ))
        })
    }

    /// Whether a feed may deny `new` under a rule.
    ///
    /// # Errors
    /// Which limit that is over.
    pub(super) fn weigh(
        &mut self,
        name: &FeedName,
        rule: &Rule,
        new: &Cover,
    ) -> Result<(), Refusal> {
        self.weigh_all();
        let Some(state) = self.feeds.get(name) else {
            return Ok(());
        };
        let claim = Claim {
            name,
            share: new.share(),
            max_share: state.config.max_share,
            by_policy: rule.by_policy,
            cover: Box::new(|| new.clone()),
        };
        let standing: Vec<Claim<'_>> = claims(&self.feeds)
            .into_iter()
            .filter(|claim| self.arming.rails.held(claim.name).is_none())
            .collect();
        let max_all = self.config.arm.max_share;
        self.arming.rails.weigh(&claim, &standing, max_all)
    }

    /// Whether everything that a feed has may be denied, by `feedgate deny`.
    pub(super) fn may_deny_all(&mut self, name: &FeedName) -> Result<(), String> {
        let Some(state) = self.feeds.get(name) else {
            return Ok(());
        };
        let rule = Rule {
            force: Force::Deny,
            ..self.rule(state)
        };
        let Some(data) = &state.data else {
            return Ok(());
        };
        let new = cover(&state.config, data, &rule);
        let may = self.weigh(name, &rule, &new);
        may.map_err(|why| format!("feed {name} is not armed: {}", in_words(&why, name)))
    }

    /// Says once that policies deny more than feeds may: that is the admin's own decision.
    pub(super) fn warn_of_denied(&mut self, denied: &Share) {
        let max_all = self.config.arm.max_share;
        let is_over = denied.over(max_all, &Share::default()).is_some();
        if is_over && !self.told_of_denied && !self.policies.is_empty() {
            tracing::warn!(
                "what is denied covers {denied}, more than arm.max-share ({:.1}%): what policies and network sets deny is not held back",
                max_all * 100.0
            );
        }
        self.told_of_denied = is_over;
    }

    /// Counts what was not counted yet.
    fn weigh_all(&mut self) {
        let enabled = self.feeds.values().filter(|state| state.config.enabled);
        let found: Vec<(FeedName, Weighed)> = enabled
            .filter_map(|state| {
                let data = state.data.as_ref()?;
                let rule = self.rule(state);
                let is_known = |known: &Weighed| known.rule == rule && known.is_of(data);
                if state.weighed.as_ref().is_some_and(is_known) {
                    return None;
                }
                let share = cover(&state.config, data, &rule).share();
                let data = Arc::downgrade(data);
                Some((state.config.name.clone(), Weighed { data, rule, share }))
            })
            .collect();
        for (name, weighed) in found {
            if let Some(state) = self.feeds.get_mut(&name) {
                state.weighed = Some(weighed);
            }
        }
    }

    /// A person takes what a feed has now, also were all of it denied; `None` when no limit is in the way.
    pub(super) fn accept_share(&mut self, name: &FeedName) -> Option<Share> {
        self.weigh_all();
        let state = self.feeds.get(name)?;
        let data = state.data.as_ref()?;
        let rule = match self.rule(state) {
            rule if rule.denies() => rule,
            rule => Rule {
                force: Force::Deny,
                ..rule
            },
        };
        let share = cover(&state.config, data, &rule);
        let is_told = self.limit_problem(name).is_some();
        let is_limited = is_told || self.weigh(name, &rule, &share).is_err();
        let share = share.share();
        is_limited.then(|| {
            self.arming.rails.accept(name, share);
            self.arming_changed = true;
            share
        })
    }
}

/// What each feed denies that has data, as counted.
fn claims(feeds: &BTreeMap<FeedName, FeedState>) -> Vec<Claim<'_>> {
    feeds.values().filter_map(claim).collect()
}

fn claim(state: &FeedState) -> Option<Claim<'_>> {
    let (data, weighed) = (state.data.as_ref()?, state.weighed.as_ref()?);
    let counts = state.config.enabled && weighed.is_of(data);
    (counts && weighed.rule.denies()).then(|| Claim {
        name: &state.config.name,
        share: weighed.share,
        max_share: state.config.max_share,
        by_policy: weighed.rule.by_policy,
        cover: Box::new(move || cover(&state.config, data, &weighed.rule)),
    })
}

/// A refusal with the feed's name in the commands that it asks for.
pub(super) fn in_words(refusal: &Refusal, name: &FeedName) -> String {
    refusal.to_string().replace("FEED", name.as_str())
}
