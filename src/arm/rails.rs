//! How much of the routable address space feeds may deny (`max-share`, `[arm] max-share`).
//!
//! A feed may deny what its limits allow, and no more than what it denied already or a person accepted.
//! What is over that only alerts. What a policy denies, and what denied before there were limits, stays
//! in force and is only reported.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    feed::{Cover, FeedName, Refusal, Share},
    prefix::Family,
};

/// What a feed denies, or would deny were it not on trial or held back.
pub struct Claim<'a> {
    /// The feed.
    pub name: &'a FeedName,
    /// How much.
    pub share: Share,
    /// Its `max-share`, 0.0..=1.0.
    pub max_share: f64,
    /// Policies deny it: it is never held back.
    pub by_policy: bool,
    /// What exactly; costs time, and is asked for only where the sum of the shares is too large.
    pub cover: Box<dyn Fn() -> Cover + 'a>,
}

/// Which feeds denied before the limits were known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Before {
    /// All that have data.
    #[default]
    All,
    These(BTreeSet<FeedName>),
}

/// What each feed may deny.
#[derive(Debug, Default)]
pub struct Rails {
    admitted: BTreeMap<FeedName, Admitted>,
    held: BTreeMap<FeedName, Refusal>,
    over: BTreeMap<FeedName, Refusal>,
    /// `None` after the first look.
    before: Option<Before>,
}

/// So much a feed may deny whatever the limits say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Admitted {
    pub(super) share: Share,
    /// A person accepted it.
    pub(super) accepted: bool,
}

impl Rails {
    /// Those of a state folder that says nothing of them: what denies at the first look stays in force.
    pub(super) fn unknown() -> Self {
        Self {
            before: Some(Before::All),
            ..Self::default()
        }
    }

    /// Those of an earlier version, of which these feeds denied.
    pub(super) fn after(denied: BTreeSet<FeedName>) -> Self {
        Self {
            before: Some(Before::These(denied)),
            ..Self::default()
        }
    }

    pub(super) fn known(admitted: BTreeMap<FeedName, Admitted>) -> Self {
        Self {
            admitted,
            ..Self::default()
        }
    }

    /// `None` while nothing is known: whoever reads it later finds what is found now.
    pub(super) fn admitted(&self) -> Option<&BTreeMap<FeedName, Admitted>> {
        self.before.is_none().then_some(&self.admitted)
    }

    /// Whether a feed may deny what it would deny now. `standing` is what is denied now, its own included;
    /// all together may deny `max_all`.
    ///
    /// # Errors
    /// Which limit it is over.
    pub fn weigh(
        &self,
        new: &Claim<'_>,
        standing: &[Claim<'_>],
        max_all: f64,
    ) -> Result<(), Refusal> {
        let had = self.share_of(new.name);
        if let Some(family) = new.share.over(new.max_share, &had) {
            return Err(Refusal::Share {
                family,
                part: new.share.part(family),
                max_share: new.max_share,
            });
        }
        let others = || standing.iter().filter(|other| other.name != new.name);
        let sum = others().fold(new.share, |sum, other| sum.plus(&other.share));
        let families = [Family::V4, Family::V6];
        if families.iter().all(|family| sum.part(*family) <= max_all) {
            return Ok(());
        }
        let join = |all: Cover, other: &Claim<'_>| all.join(&(other.cover)());
        let all = others().fold((new.cover)(), join).share();
        let before = standing.iter().fold(Cover::default(), join).share();
        match all.over(max_all, &before) {
            Some(family) => Err(Refusal::Sum {
                family,
                part: all.part(family),
                max_share: max_all,
            }),
            None => Ok(()),
        }
    }

    /// Looks at all feeds that deny and have data; `configured` are all that there are. True when what is
    /// held back, or what a restart should know, is another than before.
    pub fn settle(
        &mut self,
        claims: Vec<Claim<'_>>,
        max_all: f64,
        configured: &BTreeSet<FeedName>,
    ) -> bool {
        let admitted = self.admitted.clone();
        if let Some(before) = self.before.take() {
            for claim in claims.iter().filter(|claim| before.holds(claim.name)) {
                self.admit(claim.name, claim.share, false);
            }
        }
        let denying: BTreeSet<FeedName> = claims.iter().map(|claim| claim.name.clone()).collect();
        self.admitted.retain(|name, admitted| {
            configured.contains(name) && (admitted.accepted || denying.contains(name))
        });
        let fits = |claim: &Claim<'_>| claim.share.is_within(&self.share_of(claim.name));
        let (mut standing, new): (Vec<_>, Vec<_>) = claims.into_iter().partition(fits);
        let was_held = std::mem::take(&mut self.held);
        for claim in new {
            match self.weigh(&claim, &standing, max_all) {
                Err(why) if !claim.by_policy => {
                    self.held.insert(claim.name.clone(), why);
                }
                _ => standing.push(claim),
            }
        }
        self.over.clear();
        for claim in &standing {
            let accepted = self.accepted(claim.name);
            self.admit(claim.name, claim.share, accepted);
            if let Some(family) = claim.share.over(claim.max_share, &Share::default())
                && !accepted
            {
                let why = Refusal::Share {
                    family,
                    part: claim.share.part(family),
                    max_share: claim.max_share,
                };
                self.over.insert(claim.name.clone(), why);
            }
        }
        self.held != was_held || self.admitted != admitted
    }

    /// A person takes what a feed would deny now.
    pub fn accept(&mut self, name: &FeedName, share: Share) {
        self.admit(name, share, true);
    }

    /// Why a feed only alerts, if so.
    pub fn held(&self, name: &FeedName) -> Option<&Refusal> {
        self.held.get(name)
    }

    /// The feeds that only alert.
    pub fn all_held(&self) -> BTreeSet<FeedName> {
        self.held.keys().cloned().collect()
    }

    /// What limit a feed is over that stays in force all the same, since it denied before there was one
    /// or policies deny it.
    pub fn over(&self, name: &FeedName) -> Option<&Refusal> {
        self.over.get(name)
    }

    fn admit(&mut self, name: &FeedName, share: Share, accepted: bool) {
        self.admitted
            .insert(name.clone(), Admitted { share, accepted });
    }

    fn share_of(&self, name: &FeedName) -> Share {
        self.admitted
            .get(name)
            .map(|known| known.share)
            .unwrap_or_default()
    }

    fn accepted(&self, name: &FeedName) -> bool {
        self.admitted.get(name).is_some_and(|known| known.accepted)
    }
}

impl Before {
    fn holds(&self, name: &FeedName) -> bool {
        match self {
            Self::All => true,
            Self::These(names) => names.contains(name),
        }
    }
}

/// The form in which it outlives the process. Numbers of addresses do not fit those of JSON.
#[derive(Serialize, Deserialize)]
pub(super) struct Row {
    v4: String,
    v6: String,
    #[serde(default)]
    accepted: bool,
}

impl From<&Admitted> for Row {
    fn from(admitted: &Admitted) -> Self {
        Self {
            v4: admitted.share.v4.to_string(),
            v6: admitted.share.v6.to_string(),
            accepted: admitted.accepted,
        }
    }
}

impl Row {
    pub(super) fn admitted(&self) -> Option<Admitted> {
        Some(Admitted {
            share: Share {
                v4: self.v4.parse().ok()?,
                v6: self.v6.parse().ok()?,
            },
            accepted: self.accepted,
        })
    }
}

#[cfg(test)]
#[path = "rails_tests.rs"]
mod tests;
