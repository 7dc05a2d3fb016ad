//! What policies are made of, as validated values (facts: Calico's resource reference, projectcalico.org/v3).

use std::{cmp::Ordering, collections::BTreeMap, fmt, sync::Arc};

use super::Selector;
use crate::{
    feed::{Direction, FeedName},
    packet::Protocol,
    prefix::Prefix,
};

/// Labels of an endpoint or of a network set.
pub type Labels = BTreeMap<String, String>;

/// The tier of policies that name none, and its order.
pub const DEFAULT_TIER: &str = "default";
/// The order of the default tier.
pub const DEFAULT_TIER_ORDER: f64 = 1_000_000.0;

/// Where a tier or a policy stands: lower first, none last; then by name.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Order(pub Option<f64>);

impl Eq for Order {}

impl Ord for Order {
    fn cmp(&self, other: &Self) -> Ordering {
        let value = |order: &Self| order.0.unwrap_or(f64::INFINITY);
        value(self).total_cmp(&value(other))
    }
}

impl PartialOrd for Order {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A tier: its policies are asked together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub order: Order,
}

/// A GlobalNetworkPolicy or StagedGlobalNetworkPolicy.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Its full name, `<tier>.<name>`.
    pub name: Arc<str>,
    /// The tier it is in.
    pub tier: String,
    /// Where it stands in its tier.
    pub order: Order,
    /// The endpoints it is for.
    pub selector: Selector,
    /// Labels of the namespace of the endpoints it is for; `None`: any, also none.
    pub namespace_selector: Option<Selector>,
    /// It has rules for what comes in.
    pub has_ingress: bool,
    /// It has rules for what goes out.
    pub has_egress: bool,
    /// Rules for what comes in, in sequence.
    pub ingress: Vec<Rule>,
    /// Rules for what goes out, in sequence.
    pub egress: Vec<Rule>,
    /// It is only reported, not enforced.
    pub is_staged: bool,
}

impl Policy {
    /// Its rules for a direction, in sequence; `None`: it has no say there.
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.has_ingress.then_some(&self.ingress),
            Direction::Egress => self.has_egress.then_some(&self.egress),
        }
        .map(Vec::as_slice)
    }
}

/// A GlobalNetworkSet: written by hand, or kept by a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSet {
    /// Its name. One that a feed keeps is named `threatfeed.FEED`.
    pub name: FeedName,
    /// Its labels, for rules to select by.
    pub labels: Labels,
    /// Its addresses.
    pub nets: Vec<Prefix>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RuleAction {
    /// Let it pass.
    Allow,
    /// Deny it.
    Deny,
    /// Note it and go on with the next rule.
    Log,
    /// Leave the tier.
    Pass,
}

impl RuleAction {
    /// The word of a manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "Allow",
            Self::Deny => "Deny",
            Self::Log => "Log",
            Self::Pass => "Pass",
        }
    }

    /// What it does to a flow, behind "would".
    pub(super) fn verb(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Log => "log",
            Self::Pass => "pass it to the next tier",
        }
    }
}

impl fmt::Display for RuleAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// What it does.
    pub action: RuleAction,
    /// Only this protocol.
    pub protocol: Option<Protocol>,
    /// Any protocol but this.
    pub not_protocol: Option<Protocol>,
    /// Only this IP version, 4 or 6.
    pub ip_version: Option<u8>,
    /// What it asks of the sender.
    pub source: Entity,
    /// What it asks of the receiver.
    pub destination: Entity,
}

/// What a rule asks of one end of a flow; everything that is there must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entity {
    /// The end is an endpoint, or inside a network set, with such labels.
    pub selector: Option<Selector>,
    /// The end is neither an endpoint nor inside a network set with such labels.
    pub not_selector: Option<Selector>,
    /// Its address is in one of these; empty: in any.
    pub nets: Vec<Prefix>,
    /// Its address is in none of these.
    pub not_nets: Vec<Prefix>,
    /// Its port is in one of these ranges, first and last; empty: any.
    pub ports: Vec<(u16, u16)>,
    /// Its port is in none of these.
    pub not_ports: Vec<(u16, u16)>,
}

impl Entity {
    /// True when it asks for nothing.
    pub fn is_any(&self) -> bool {
        *self == Self::default()
    }
}
