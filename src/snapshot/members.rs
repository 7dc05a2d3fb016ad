//! Which network sets hold an address, and the policies that ask for it.

use std::{net::IpAddr, sync::Arc};

use super::{Hit, Index, Port};
use crate::{
    config::OnDaemonDown,
    feed::{Action, FeedName, Indicator, Severity},
    policy::{Endpoint, Labels, Policies},
};

/// What the policies of a snapshot are, and what they are asked with. A snapshot keeps its own: feeds
/// and policies always answer together.
#[derive(Clone, Debug, PartialEq)]
pub struct Regime {
    /// Tiers and policies.
    pub policies: Arc<Policies>,
    /// Nothing is known of it but the host's labels.
    pub anybody: Arc<Endpoint>,
    /// The answer where it depends on what is not known.
    pub on_daemon_down: OnDaemonDown,
}

impl Regime {
    /// These policies on a host with these labels.
    pub fn new(policies: Arc<Policies>, host: &Labels, on_daemon_down: OnDaemonDown) -> Self {
        Self {
            policies,
            anybody: Arc::new(Endpoint::any(host)),
            on_daemon_down,
        }
    }

    /// The host's labels, which every endpoint has.
    pub fn host(&self) -> &Labels {
        &self.anybody.labels
    }

    /// What happens where the answer depends on what is not known.
    pub fn when_unknown(&self) -> Action {
        match self.on_daemon_down {
            OnDaemonDown::Allow => Action::Alert,
            OnDaemonDown::Deny => Action::Deny,
        }
    }
}

impl Default for Regime {
    fn default() -> Self {
        Self::new(Arc::default(), &Labels::new(), OnDaemonDown::Allow)
    }
}

/// A network set that holds an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// The feed that keeps it, or its own name.
    pub name: &'a FeedName,
    /// A feed keeps it: it is named `threatfeed.NAME`.
    pub is_feed: bool,
    /// Its labels.
    pub labels: &'a Labels,
    /// Its most specific entry that covers the address.
    pub indicator: Indicator,
    severity: Severity,
}

impl Member<'_> {
    /// The name of the network set.
    pub fn set_name(&self) -> String {
        match self.is_feed {
            true => format!("threatfeed.{}", self.name),
            false => self.name.to_string(),
        }
    }
}

impl Index {
    /// True when a feed with this name keeps a network set.
    pub fn keeps_set(&self, feed: &str) -> bool {
        let mut metas = self.metas().iter();
        metas.any(|meta| meta.is_feed && meta.labels.is_some() && meta.name.as_str() == feed)
    }

    /// The network sets that hold `addr` with `port` there, whatever the directions of their feeds.
    ///
    /// Exceptions are in none, and neither is what a feed may only alert about.
    pub fn members(&self, addr: IpAddr, port: Port) -> Vec<Member<'_>> {
        let mut members: Vec<Member<'_>> = Vec::new();
        self.visit(addr, |seen| {
            let Some(labels) = &seen.meta.labels else {
                return;
            };
            let (name, is_feed) = (&seen.meta.name, seen.meta.is_feed);
            let known = |m: &Member<'_>| m.is_feed == is_feed && m.name == name;
            if seen.is_member && seen.is_at(port) && !members.iter().any(known) {
                members.push(Member {
                    name,
                    is_feed,
                    labels,
                    indicator: seen.indicator,
                    severity: seen.meta.severity,
                });
            }
        });
        members
    }
}

/// What an alert says about a flow that no feed speaks about: the network sets that hold its far end.
pub(crate) fn hit_of(members: &[Member<'_>]) -> Option<Hit> {
    let mut feeds: Vec<FeedName> = members.iter().map(|member| member.name.clone()).collect();
    feeds.sort_unstable();
    feeds.dedup();
    Some(Hit {
        action: Action::Alert,
        indicator: members.first()?.indicator,
        feeds,
        severity: members.iter().map(|member| member.severity).max()?,
        would_deny: Vec::new(),
        exception: None,
    })
}
