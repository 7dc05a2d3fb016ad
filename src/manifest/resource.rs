//! Resources as validated values.

use std::{collections::BTreeMap, fmt, time::Duration};

use url::Url;

use super::Kind;
use crate::{
    feed::formats::{CsvOptions, JsonPath},
    policy::{self, Labels, Order, Policy},
    prefix::Prefix,
};

/// A resource: what it is called, and what it asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// Name, labels and annotations.
    pub metadata: Metadata,
    /// What it asks for, by kind.
    pub spec: Spec,
}

/// A kind and a name: no two resources share both.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// The kind.
    pub kind: Kind,
    /// The name; that of a policy begins with its tier.
    pub name: String,
}

/// `globalthreatfeed/NAME`, as kubectl writes it.
impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.singular(), self.name)
    }
}

/// `metadata`. What a cluster adds (`uid`, `managedFields`, ...) is not kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// A DNS subdomain name; that of a policy is `<tier>.<name>`.
    pub name: String,
    /// Labels. Those of a network set are what rules select by.
    pub labels: Labels,
    /// Annotations: kept, and shown.
    pub annotations: BTreeMap<String, String>,
}

/// `spec`, by kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Spec {
    /// Of a GlobalThreatFeed.
    ThreatFeed(ThreatFeedSpec),
    /// Of a GlobalNetworkSet.
    NetworkSet(NetworkSetSpec),
    /// Of a GlobalNetworkPolicy or StagedGlobalNetworkPolicy.
    Policy(PolicySpec),
    /// Of a Tier.
    Tier(TierSpec),
}

impl Resource {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match &self.spec {
            Spec::ThreatFeed(_) => Kind::GlobalThreatFeed,
            Spec::NetworkSet(_) => Kind::GlobalNetworkSet,
            Spec::Policy(spec) if spec.policy.is_staged => Kind::StagedGlobalNetworkPolicy,
            Spec::Policy(_) => Kind::GlobalNetworkPolicy,
            Spec::Tier(_) => Kind::Tier,
        }
    }

    /// Its kind and name.
    pub fn id(&self) -> Id {
        Id {
            kind: self.kind(),
            name: self.metadata.name.clone(),
        }
    }

    /// The policy to evaluate; `None` for other kinds, and for staged ones whose action is
    /// [`StagedAction::Delete`] or [`StagedAction::Ignore`].
    pub fn policy(&self) -> Option<&Policy> {
        match &self.spec {
            Spec::Policy(spec) => match spec.staged_action {
                Some(StagedAction::Delete | StagedAction::Ignore) => None,
                Some(StagedAction::Set | StagedAction::Learn) | None => Some(&spec.policy),
            },
            _ => None,
        }
    }

    /// The tier; `None` for other kinds.
    pub fn tier(&self) -> Option<policy::Tier> {
        match &self.spec {
            Spec::Tier(spec) => Some(policy::Tier {
                name: self.metadata.name.clone(),
                order: spec.order,
            }),
            _ => None,
        }
    }

    /// The network set; `None` for other kinds.
    pub fn network_set(&self) -> Option<policy::NetworkSet> {
        match &self.spec {
            Spec::NetworkSet(spec) => Some(policy::NetworkSet {
                // A name that was read fits; one made otherwise may not.
                name: self.metadata.name.parse().ok()?,
                labels: self.metadata.labels.clone(),
                nets: spec.nets.clone(),
            }),
            _ => None,
        }
    }
}

/// What a GlobalThreatFeed asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct ThreatFeedSpec {
    /// What its text holds.
    pub content: Content,
    /// `mode: Enabled`: it is pulled and watched at all.
    pub is_enabled: bool,
    /// For people, at most 256 characters.
    pub description: Option<String>,
    /// Who wrote it; nothing hangs on it.
    pub feed_type: FeedType,
    /// Labels of the GlobalNetworkSet `threatfeed.NAME` that it keeps; `None`: it keeps none.
    pub network_set: Option<Labels>,
    /// How it is pulled; `None`: it is pushed.
    pub pull: Option<FeedPull>,
}

/// `spec.content`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Content {
    /// Addresses and prefixes.
    #[default]
    IpSet,
    /// Names. Only addresses among them are matched.
    DomainNameSet,
}

impl Content {
    /// The word of a manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IpSet => "IPSet",
            Self::DomainNameSet => "DomainNameSet",
        }
    }
}

/// `spec.feedType`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FeedType {
    /// Written by the user.
    #[default]
    Custom,
    /// Comes with the product.
    Builtin,
}

impl FeedType {
    /// The word of a manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Custom => "Custom",
            Self::Builtin => "Builtin",
        }
    }
}

/// `spec.pull`
#[derive(Clone, Debug, PartialEq)]
pub struct FeedPull {
    /// Time between pulls, at least five minutes.
    pub period: Duration,
    /// Where from, `http` or `https`.
    pub url: Url,
    /// Request headers; names differ by more than their case.
    pub headers: Vec<Header>,
    /// How the text is read.
    pub format: PullFormat,
}

/// One of `spec.pull.http.headers`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its name, as written.
    pub name: String,
    /// Where its value is.
    pub value: HeaderSource,
}

/// Where the value of a header is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderSource {
    /// In the manifest.
    Value(String),
    /// `secretKeyRef`
    Secret(KeyRef),
    /// `configMapKeyRef`
    ConfigMap(KeyRef),
}

/// A key of a secret or config map; on a host the file `NAME/KEY` below a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRef {
    /// Name of the secret or config map.
    pub name: String,
    /// The key in it.
    pub key: String,
    /// Without it the header is left out.
    pub optional: bool,
}

/// `spec.pull.http.format`
#[derive(Clone, Debug, PartialEq)]
pub enum PullFormat {
    /// `newlineDelimited`, or nothing.
    Lines,
    /// `json`
    Json(JsonPath),
    /// `csv`
    Csv(CsvOptions),
}

/// What a GlobalNetworkSet asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkSetSpec {
    /// Its addresses, as they were written.
    pub nets: Vec<Prefix>,
    /// Names: kept and shown, not matched.
    pub domains: Vec<String>,
}

/// What a policy asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicySpec {
    /// All that decides; its name is that of the metadata.
    pub policy: Policy,
    /// `spec.stagedAction`; `None` in a policy that is not staged.
    pub staged_action: Option<StagedAction>,
}

/// `spec.stagedAction`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StagedAction {
    /// The policy as it will be.
    #[default]
    Set,
    /// The policy of that name will be deleted: not evaluated.
    Delete,
    /// Not evaluated.
    Ignore,
    /// Made by a tool that learns; evaluated as [`Self::Set`].
    Learn,
}

impl StagedAction {
    /// The word of a manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Set => "Set",
            Self::Delete => "Delete",
            Self::Ignore => "Ignore",
            Self::Learn => "Learn",
        }
    }
}

/// What a Tier asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierSpec {
    /// Where it stands.
    pub order: Order,
}
