//! What the configuration has in the form of manifests: its feeds, and the network sets that feeds keep.

use std::{borrow::Cow, collections::BTreeMap, path::Path};

use serde_json::{Value, json};

use super::apply::OWN;
use crate::{
    config::{self, Format},
    control::Window,
    feed::FeedData,
    fetch::Place,
    manifest::{
        Content, FeedPull, FeedType, Metadata, NetworkSetSpec, PullFormat, Resource, Spec,
        ThreatFeedSpec,
    },
};

/// Nets shown of a network set that a feed keeps, unless asked for more.
const SHOWN: usize = 1_000;

/// A feed of the configuration as a GlobalThreatFeed. Its URL is without what may be secret; what
/// a manifest cannot say is in annotations.
pub(super) fn of_feed(feed: &config::Feed, file: &Path) -> Resource {
    let mut annotations = BTreeMap::new();
    let mut note = |key: &str, value: String| annotations.insert(format!("{OWN}{key}"), value);
    note("source", file.display().to_string());
    note("action", feed.action.as_str().to_owned());
    if let Some(preset) = feed.preset {
        note("preset", preset.name.to_owned());
    }
    let format = match (feed.format, &feed.json.path) {
        (Format::Csv, _) => PullFormat::Csv(feed.csv.clone()),
        (Format::Json, Some(path)) => PullFormat::Json(path.clone()),
        (Format::Plain, _) => PullFormat::Lines,
        (other, _) => {
            note("format", other.as_str().to_owned());
            PullFormat::Lines
        }
    };
    let url = feed
        .url
        .as_ref()
        .and_then(|url| Place::new(&feed.name, url).url.parse().ok());
    let pull = url.map(|url| FeedPull {
        period: feed.period,
        url,
        headers: Vec::new(),
        format,
    });
    Resource {
        metadata: Metadata {
            name: feed.name.to_string(),
            labels: feed.labels.clone(),
            annotations,
        },
        spec: Spec::ThreatFeed(ThreatFeedSpec {
            content: Content::IpSet,
            is_enabled: feed.enabled,
            description: None,
            feed_type: FeedType::Custom,
            network_set: Some(feed.labels.clone()),
            pull,
        }),
    }
}

/// The network set that a feed keeps, and which of its nets these are.
pub(super) fn kept_set(
    feed: &config::Feed,
    data: Option<&FeedData>,
    window: Window,
    source: Option<&str>,
) -> (Value, Option<String>) {
    let all = data.map_or(0, |data| data.parsed.entries.len());
    let limit = match window.limit {
        Some(0) => usize::MAX,
        Some(limit) => limit,
        None => SHOWN,
    };
    let entries = data.into_iter().flat_map(|data| &data.parsed.entries);
    let nets: Vec<String> = entries
        .skip(window.offset)
        .take(limit)
        .map(|entry| entry.prefix.net().to_string())
        .collect();
    let note = note(feed.name.as_str(), nets.len(), all, window);
    let bound = data.map_or(0, |data| data.parsed.bound.len());
    let annotations = [
        ("source", source.map(str::to_owned)),
        ("bound-to-ports", (bound > 0).then(|| bound.to_string())),
        ("nets", note.clone()),
    ];
    let annotations: BTreeMap<String, String> = annotations
        .into_iter()
        .filter_map(|(key, value)| Some((format!("{OWN}{key}"), value?)))
        .collect();
    let object = json!({
        "apiVersion": API,
        "kind": "GlobalNetworkSet",
        "metadata": {
            "name": format!("{}{}", super::catalog::KEPT, feed.name),
            "labels": feed.labels,
            "annotations": annotations,
            "ownerReferences": [
                { "apiVersion": API, "kind": "GlobalThreatFeed", "name": feed.name },
            ],
        },
        "spec": { "nets": nets },
    });
    (object, note)
}

/// The version of all manifests.
const API: &str = "projectcalico.org/v3";

/// A network set written by hand with the nets that were asked for, all of them unless others were;
/// says which are shown. One that is only a part says so itself, and cannot be applied.
pub(super) fn part(resource: &Resource, window: Window) -> (Cow<'_, Resource>, Option<String>) {
    let Spec::NetworkSet(spec) = &resource.spec else {
        return (Cow::Borrowed(resource), None);
    };
    let limit = window.limit.filter(|limit| *limit > 0);
    let limit = limit.unwrap_or(usize::MAX);
    let nets = spec.nets.iter().skip(window.offset).take(limit);
    let shown = nets.clone().count();
    let note = note(&resource.metadata.name, shown, spec.nets.len(), window);
    let Some(told) = &note else {
        return (Cow::Borrowed(resource), None);
    };
    let mut metadata = resource.metadata.clone();
    metadata
        .annotations
        .insert(format!("{OWN}nets"), told.clone());
    let spec = Spec::NetworkSet(NetworkSetSpec {
        nets: nets.copied().collect(),
        domains: spec.domains.clone(),
    });
    (Cow::Owned(Resource { metadata, spec }), note)
}

/// Which nets are shown; `None` when all are.
fn note(name: &str, shown: usize, all: usize, window: Window) -> Option<String> {
    if shown == all {
        return None;
    }
    let first = window.offset;
    if shown == 0 {
        return Some(format!(
            "{name}: no net behind the first {first}, there are {all}"
        ));
    }
    let last = first.saturating_add(shown);
    let more = if last < all {
        format!("; the next with --offset {last}, all with --limit 0")
    } else {
        String::new()
    };
    Some(format!(
        "{name}: nets {} to {last} of {all}{more}",
        first + 1
    ))
}
