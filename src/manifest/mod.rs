//! Calico v3 manifests: YAML or JSON text into typed, validated resources, and back.
//!
//! Every mistake of every document is found in one pass and reported with document, line, column and
//! path. What a resource asks for that a host cannot do is refused, not ignored. Does not read files,
//! keep resources or evaluate policies. Facts: Calico's resource reference, projectcalico.org/v3.

mod convert;
mod cursor;
mod envelope;
mod kind;
mod label_selector;
mod log;
mod network_set;
mod policy;
mod print;
#[cfg(test)]
mod refusal_tests;
mod resource;
mod rule;
mod scalar;
#[cfg(test)]
mod tests;
mod threat_feed;
mod tier;
mod tree;
mod yaml;

pub use convert::feed;
pub use kind::{Kind, Target, TargetError, targets};
pub use label_selector::{LabelSelector, LabelSelectorError};
pub use log::{Level, Mistake, render};
pub use resource::{
    Content, FeedPull, FeedType, Header, HeaderSource, Id, KeyRef, Metadata, NetworkSetSpec,
    PolicySpec, PullFormat, Resource, Spec, StagedAction, ThreatFeedSpec, TierSpec,
};
pub use yaml::to_yaml;

/// Longest text that is read at all, in bytes: a network set of a million prefixes fits.
pub const MAX_TEXT: usize = 64 << 20;
/// Longest document of any kind but GlobalNetworkSet, in bytes.
pub const MAX_DOCUMENT: usize = 1 << 20;

/// A resource and where its document begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The resource.
    pub resource: Resource,
    /// Number of its document in the text, from 1; those of a `List` share one.
    pub document: usize,
    /// Line, from 1.
    pub line: usize,
}

/// What a text holds.
#[must_use]
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// Resources without a mistake, in the text's order; no two have the same kind and name.
    pub resources: Vec<Found>,
    /// Errors and warnings, in the text's order.
    pub mistakes: Vec<Mistake>,
}

impl Parsed {
    /// True when something is an error. A warning alone refuses nothing.
    pub fn has_errors(&self) -> bool {
        let mut levels = self.mistakes.iter().map(|mistake| mistake.level);
        levels.any(|level| level == Level::Error)
    }
}

/// Reads all documents of a YAML or JSON text. A document with an error gives no resource, and hides
/// none of the others. What `get` printed of a resource that a feed or the configuration keeps is left
/// out, with a warning.
pub fn parse(text: &str) -> Parsed {
    read(text, envelope::Found::default())
}

/// Reads a text of the manifests folder. Its resources are kept there, whatever `get` wrote into it
/// about another place.
pub fn parse_kept(text: &str) -> Parsed {
    read(text, envelope::Found::kept_here())
}

fn read(text: &str, mut found: envelope::Found) -> Parsed {
    let mut log = log::Log::default();
    tree::each_document(&mut log, text, |log, document| {
        envelope::read(log, &mut found, text, document);
    });
    let (mistakes, lines) = log.finish(text);
    let resources = found.into_resources(&lines);
    Parsed {
        resources,
        mistakes,
    }
}
