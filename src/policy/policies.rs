//! All tiers and policies in force, and what they answer.

use std::{net::IpAddr, sync::Arc};

use super::{Endpoint, Labels, Policy, RuleAction, Tier};
use crate::{feed::Direction, packet::Protocol, prefix::Prefix};

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
    /// Sorts them as they are asked. The default tier need not be among `tiers`; a policy of a tier
    /// that is not there is left out.
    pub fn new(tiers: Vec<Tier>, policies: Vec<Policy>) -> Self {
        let _ = (tiers, policies);
        Self::default()
    }

    /// True when there is no policy, staged ones included.
    pub fn is_empty(&self) -> bool {
        self.tiers.is_empty()
    }

    /// Prefixes that rules name for the far end: within the pieces that they, and the network sets,
    /// cut the address space into, the answer is the same for every address.
    pub fn far_nets(&self, direction: Direction) -> Vec<Prefix> {
        let _ = direction;
        Vec::new()
    }

    /// The regions of a direction; one of any protocol where no rule names protocols or receiver's ports.
    pub fn port_regions(&self, direction: Direction) -> Vec<PortRegion> {
        let _ = direction;
        vec![PortRegion {
            proto: None,
            ports: None,
        }]
    }

    /// Every answer that some endpoint and flow can get that agrees with what is known.
    pub fn explore(&self, question: &Question<'_>) -> Reach {
        let _ = question;
        Reach {
            fall: true,
            ..Reach::default()
        }
    }

    /// The answer, or `None` when it depends on what is not known.
    pub fn rule(&self, question: &Question<'_>) -> Option<Ruling> {
        let _ = question;
        Some(Ruling {
            verdict: None,
            policy: None,
            rule: None,
            logged_by: None,
            staged: Vec::new(),
        })
    }
}
