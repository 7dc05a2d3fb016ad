//! Kinds by their many names, and what a command line asks for.

use std::{fmt, str::FromStr};

use super::Id;
use crate::policy::DEFAULT_TIER;

/// A kind of resource. Sorted so that one that others name comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Where policies stand.
    Tier,
    /// Addresses with labels.
    GlobalNetworkSet,
    /// A feed.
    GlobalThreatFeed,
    /// A policy.
    GlobalNetworkPolicy,
    /// A policy that is only reported.
    StagedGlobalNetworkPolicy,
}

impl Kind {
    /// All kinds, sorted.
    pub const ALL: [Self; 5] = [
        Self::Tier,
        Self::GlobalNetworkSet,
        Self::GlobalThreatFeed,
        Self::GlobalNetworkPolicy,
        Self::StagedGlobalNetworkPolicy,
    ];

    /// The word of a manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tier => "Tier",
            Self::GlobalNetworkSet => "GlobalNetworkSet",
            Self::GlobalThreatFeed => "GlobalThreatFeed",
            Self::GlobalNetworkPolicy => "GlobalNetworkPolicy",
            Self::StagedGlobalNetworkPolicy => "StagedGlobalNetworkPolicy",
        }
    }

    /// The plural of a command line.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Tier => "tiers",
            Self::GlobalNetworkSet => "globalnetworksets",
            Self::GlobalThreatFeed => "globalthreatfeeds",
            Self::GlobalNetworkPolicy => "globalnetworkpolicies",
            Self::StagedGlobalNetworkPolicy => "stagedglobalnetworkpolicies",
        }
    }

    /// The singular of a command line.
    pub fn singular(self) -> &'static str {
        match self {
            Self::Tier => "tier",
            Self::GlobalNetworkSet => "globalnetworkset",
            Self::GlobalThreatFeed => "globalthreatfeed",
            Self::GlobalNetworkPolicy => "globalnetworkpolicy",
            Self::StagedGlobalNetworkPolicy => "stagedglobalnetworkpolicy",
        }
    }

    /// The short form of a command line.
    pub fn short(self) -> Option<&'static str> {
        match self {
            Self::Tier => None,
            Self::GlobalNetworkSet => Some("gns"),
            Self::GlobalThreatFeed => Some("gtf"),
            Self::GlobalNetworkPolicy => Some("gnp"),
            Self::StagedGlobalNetworkPolicy => Some("sgnp"),
        }
    }

    /// True for both kinds of policy.
    pub fn is_policy(self) -> bool {
        matches!(
            self,
            Self::GlobalNetworkPolicy | Self::StagedGlobalNetworkPolicy
        )
    }

    /// The resource of that kind a user means by `name`: a policy of the default tier may be named
    /// without it.
    pub fn id(self, name: &str) -> Id {
        let name = if self.is_policy() && !name.contains('.') {
            format!("{DEFAULT_TIER}.{name}")
        } else {
            name.to_owned()
        };
        Id { kind: self, name }
    }
}

/// The word of a manifest.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Plural, singular or short form in any case, with or without `.p`, `.projectcalico.org` or
/// `.v3.projectcalico.org`.
impl FromStr for Kind {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let lower = text.to_ascii_lowercase();
        let word = [".v3.projectcalico.org", ".projectcalico.org", ".p"]
            .iter()
            .find_map(|suffix| lower.strip_suffix(suffix))
            .unwrap_or(&lower);
        Self::ALL
            .into_iter()
            .find(|kind| {
                word == kind.plural() || word == kind.singular() || Some(word) == kind.short()
            })
            .ok_or_else(|| TargetError::Kind(shortened(text)))
    }
}

/// What a command is about: one resource, or all of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// All of a kind.
    Kind(Kind),
    /// One resource.
    One(Id),
}

/// Why words of a command line name no resources.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No such kind.
    #[error(
        "{0:?} is not a kind; known are globalthreatfeeds (gtf), globalnetworksets (gns), \
         globalnetworkpolicies (gnp), stagedglobalnetworkpolicies (sgnp), tiers, and all"
    )]
    Kind(String),
    /// Nothing is named.
    #[error("name a kind, such as globalthreatfeeds, or KIND/NAME")]
    Nothing,
    /// `KIND NAME` and `KIND/NAME` in one.
    #[error("{0:?}: either KIND NAME... or KIND/NAME..., not both")]
    Mixed(String),
    /// `all NAME`
    #[error("a name needs a kind, and \"all\" is none")]
    NameOfAll,
    /// Nothing on one side of the slash, or a name that cannot be one.
    #[error("{0:?} is not a name: lower-case letters, digits, - and .")]
    Name(String),
}

/// What the words behind `get`, `describe` or `delete` name: `KIND[,KIND...] [NAME...]`, `all`, or
/// `KIND/NAME...`. Kinds are not repeated.
pub fn targets<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Vec<Target>, TargetError> {
    let words: Vec<&str> = words.into_iter().collect();
    let (first, names) = words.split_first().ok_or(TargetError::Nothing)?;
    if first.contains('/') {
        return words.iter().map(|word| one(word)).collect();
    }
    let kinds = kinds(first)?;
    if let Some(word) = names.iter().find(|word| word.contains('/')) {
        return Err(TargetError::Mixed(shortened(word)));
    }
    if names.is_empty() {
        return Ok(kinds.into_iter().map(Target::Kind).collect());
    }
    if first.eq_ignore_ascii_case("all") {
        return Err(TargetError::NameOfAll);
    }
    let mut found = Vec::new();
    for kind in kinds {
        for name in names {
            found.push(Target::One(kind.id(checked(name)?)));
        }
    }
    Ok(found)
}

fn kinds(list: &str) -> Result<Vec<Kind>, TargetError> {
    if list.eq_ignore_ascii_case("all") {
        return Ok(Kind::ALL.to_vec());
    }
    let mut found = Vec::new();
    for word in list.split(',') {
        let kind = word.parse()?;
        if !found.contains(&kind) {
            found.push(kind);
        }
    }
    Ok(found)
}

fn one(word: &str) -> Result<Target, TargetError> {
    let (kind, name) = word
        .split_once('/')
        .ok_or_else(|| TargetError::Mixed(shortened(word)))?;
    let kind: Kind = kind.parse()?;
    Ok(Target::One(kind.id(checked(name)?)))
}

fn checked(name: &str) -> Result<&str, TargetError> {
    if is_name(name) {
        Ok(name)
    } else {
        Err(TargetError::Name(shortened(name)))
    }
}

/// A DNS subdomain name (RFC 1123), as Kubernetes has it: at most 253 characters.
pub(super) fn is_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let label = |label: &str| {
        label.bytes().all(inner)
            && !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// Short enough for a message.
fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}
