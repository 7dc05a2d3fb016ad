//! `feedgate get` and `describe`: every resource as it is in force, with its status.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    ManifestFeed, Resolved, Shared,
    apply::OWN,
    catalog::{Entry, KEPT, Origin, tier},
    object,
};
use crate::{
    config,
    control::Window,
    daemon::{
        engine::lock,
        glance::{Glance, glance_soon},
        status::{self, FeedStatus},
    },
    manifest::{self, Id, Kind, LabelSelector, Metadata, Resource, Spec, Target},
    policy::{DEFAULT_TIER, DEFAULT_TIER_ORDER, Labels, Order},
};

/// One resource for a client.
#[derive(Debug, Serialize)]
struct Row {
    /// The kind's singular.
    kind: &'static str,
    name: String,
    object: Value,
    /// Head and cell.
    columns: Vec<(&'static str, String)>,
    /// Further ones for `-o wide`.
    wide: Vec<(&'static str, String)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// All that is asked for.
pub(in crate::daemon) fn get(
    shared: &Shared,
    words: &[String],
    selector: Option<&str>,
    nets: Window,
) -> Result<Value, String> {
    let targets = manifest::targets(words.iter().map(String::as_str)).map_err(|e| e.to_string())?;
    let selector: LabelSelector = selector
        .unwrap_or_default()
        .parse()
        .map_err(|e| format!("-l: {e}"))?;
    let shelf = Shelf::of(shared, nets)?;
    let all = shelf.ids();
    let (mut items, mut missing) = (Vec::new(), Vec::new());
    for target in targets {
        match target {
            Target::Kind(kind) => {
                let ids = all.iter().filter(|(id, _)| id.kind == kind);
                let ids = ids.filter(|(_, labels)| selector.matches(labels));
                items.extend(ids.filter_map(|(id, _)| shelf.row(id)));
            }
            Target::One(id) => match all.get(&id) {
                Some(labels) if selector.matches(labels) => items.extend(shelf.row(&id)),
                Some(_) => {}
                None => missing.push(json!({ "kind": id.kind.plural(), "name": id.name })),
            },
        }
    }
    Ok(json!({ "items": items, "missing": missing }))
}

/// Everything that can be shown.
struct Shelf<'a> {
    shared: &'a Shared,
    glance: Arc<Glance>,
    resolved: Resolved,
    nets: Window,
}

impl<'a> Shelf<'a> {
    fn of(shared: &'a Shared, nets: Window) -> Result<Self, String> {
        let glance = glance_soon(shared)?;
        let resolved = shared.resources.resolve(&glance.config);
        Ok(Self {
            shared,
            glance,
            resolved,
            nets,
        })
    }

    /// Kinds, names and labels of all.
    fn ids(&self) -> BTreeMap<Id, Labels> {
        let entries = self.resolved.entries.iter();
        let mut all: BTreeMap<Id, Labels> = entries
            .map(|(id, entry)| (id.clone(), entry.item.resource.metadata.labels.clone()))
            .collect();
        for (feed, _) in self.configured() {
            all.insert(
                Kind::GlobalThreatFeed.id(feed.name.as_str()),
                feed.labels.clone(),
            );
        }
        for (feed, _) in self.keepers() {
            let name = format!("{KEPT}{}", feed.name);
            all.insert(Kind::GlobalNetworkSet.id(&name), feed.labels.clone());
        }
        all.entry(Kind::Tier.id(DEFAULT_TIER)).or_default();
        all
    }

    fn row(&self, id: &Id) -> Option<Row> {
        if id.kind == Kind::GlobalThreatFeed
            && let Some((feed, source)) = self
                .configured()
                .find(|(feed, _)| feed.name.as_str() == id.name)
        {
            let resource = object::of_feed(feed, &self.shared.config_file);
            return Some(self.feed(id, &resource, &source, None));
        }
        if id.kind == Kind::GlobalNetworkSet
            && let Some(name) = id.name.strip_prefix(KEPT)
            && let Some((feed, source)) =
                self.keepers().find(|(feed, _)| feed.name.as_str() == name)
        {
            return Some(self.kept(id, feed, source.as_deref()));
        }
        match self.resolved.entries.get(id) {
            Some(entry) => Some(self.entry(id, entry)),
            None => (*id == Kind::Tier.id(DEFAULT_TIER)).then(|| self.default_tier(id)),
        }
    }

    /// Feeds of the configuration, and where they are.
    fn configured(&self) -> impl Iterator<Item = (&config::Feed, String)> {
        let source = self.shared.config_file.display().to_string();
        self.glance
            .config
            .feeds
            .iter()
            .map(move |feed| (feed, source.clone()))
    }

    /// Feeds that keep a network set, and where they are when not applied.
    fn keepers(&self) -> impl Iterator<Item = (&config::Feed, Option<String>)> {
        let keeps = self.resolved.feeds.iter().filter(|feed| feed.keeps_set);
        let own = keeps.map(|feed: &ManifestFeed| {
            let id = Kind::GlobalThreatFeed.id(feed.config.name.as_str());
            let entry = self.resolved.entries.get(&id);
            (&feed.config, entry.and_then(|entry| source(&entry.origin)))
        });
        self.configured()
            .map(|(feed, source)| (feed, Some(source)))
            .chain(own)
    }

    fn entry(&self, id: &Id, entry: &Entry) -> Row {
        let resource = &entry.item.resource;
        let (origin, why_not) = (entry.origin.to_string(), entry.why_not.as_deref());
        if id.kind == Kind::GlobalThreatFeed {
            return self.feed(id, resource, &origin, why_not);
        }
        let (part, note) = object::part(resource, self.nets);
        let object = shown(&part, &entry.origin);
        let state = ("STATUS", state(resource, why_not).to_owned());
        let mut columns = Vec::new();
        let mut wide = Vec::new();
        match &resource.spec {
            Spec::NetworkSet(spec) => {
                columns.extend([
                    ("NETS", spec.nets.len().to_string()),
                    ("FEED", NONE.to_owned()),
                ]);
                wide.push(("LABELS", labels(&resource.metadata.labels)));
            }
            Spec::Policy(spec) => {
                columns.extend([
                    ("TIER", spec.policy.tier.clone()),
                    ("ORDER", order(spec.policy.order)),
                    (
                        "TYPES",
                        types(spec.policy.has_ingress, spec.policy.has_egress),
                    ),
                ]);
                wide.push(("SELECTOR", spec.policy.selector.to_string()));
            }
            Spec::Tier(spec) => {
                columns.push(("ORDER", order(spec.order)));
                columns.push(("POLICIES", self.policies_of(&id.name)));
            }
            Spec::ThreatFeed(_) => {}
        }
        columns.push(state);
        wide.push(("SOURCE", origin));
        wide.push(("PROBLEM", why_not.unwrap_or(NONE).to_owned()));
        Row {
            kind: id.kind.singular(),
            name: id.name.clone(),
            object,
            columns,
            wide,
            note,
        }
    }

    /// Policies of a tier, staged ones included.
    fn policies_of(&self, name: &str) -> String {
        let entries = self.resolved.entries.values();
        entries
            .filter(|entry| tier(&entry.item.resource) == Some(name))
            .count()
            .to_string()
    }

    fn default_tier(&self, id: &Id) -> Row {
        let resource = Resource {
            metadata: Metadata {
                name: DEFAULT_TIER.to_owned(),
                annotations: BTreeMap::from([(format!("{OWN}source"), "always there".to_owned())]),
                ..Metadata::default()
            },
            spec: Spec::Tier(manifest::TierSpec {
                order: Order(Some(DEFAULT_TIER_ORDER)),
            }),
        };
        Row {
            kind: id.kind.singular(),
            name: id.name.clone(),
            object: resource.to_json(),
            columns: vec![
                ("ORDER", order(Order(Some(DEFAULT_TIER_ORDER)))),
                ("POLICIES", self.policies_of(DEFAULT_TIER)),
                ("STATUS", "in force".to_owned()),
            ],
            wide: vec![
                ("SOURCE", "always there".to_owned()),
                ("PROBLEM", NONE.to_owned()),
            ],
            note: None,
        }
    }

    fn feed(&self, id: &Id, resource: &Resource, origin: &str, why_not: Option<&str>) -> Row {
        let status = self
            .glance
            .feeds
            .iter()
            .find(|feed| feed.name.as_str() == id.name);
        // The status of another feed of that name is not its own.
        let status = status.filter(|_| why_not.is_none());
        let errors = errors(status, why_not, self.glance.broken.as_deref());
        let is_applied = origin == Origin::Applied.to_string();
        let mut object = annotated(resource, Some(origin).filter(|_| !is_applied));
        if let Value::Object(fields) = &mut object {
            fields.insert("status".to_owned(), self.feed_status(status, &errors));
        }
        let spec = match &resource.spec {
            Spec::ThreatFeed(spec) => Some(spec),
            _ => None,
        };
        let mode = match spec {
            Some(spec) if !spec.is_enabled => "Disabled",
            _ => "Enabled",
        };
        let pull = spec.and_then(|spec| spec.pull.as_ref());
        let text = |text: Option<String>| text.unwrap_or_else(|| NONE.to_owned());
        let row = |of: fn(&FeedStatus) -> String| text(status.map(of));
        Row {
            kind: id.kind.singular(),
            name: id.name.clone(),
            object,
            columns: vec![
                ("MODE", mode.to_owned()),
                ("ENTRIES", row(|feed| feed.entries.to_string())),
                (
                    "STALE",
                    row(|feed| if feed.stale { "yes" } else { "no" }.to_owned()),
                ),
                (
                    "ERROR",
                    text(errors.first().map(|(_, message)| message.clone())),
                ),
            ],
            wide: vec![
                (
                    "LAST-SYNC",
                    text(status.and_then(|feed| feed.last_success.clone())),
                ),
                (
                    "PERIOD",
                    text(pull.map(|pull| humantime::format_duration(pull.period).to_string())),
                ),
                (
                    "URL",
                    status
                        .and_then(|feed| feed.url.clone())
                        .unwrap_or_else(|| "pushed".to_owned()),
                ),
                ("SOURCE", origin.to_owned()),
            ],
            note: None,
        }
    }

    /// `status`, as Calico has it.
    fn feed_status(&self, feed: Option<&FeedStatus>, errors: &[(&str, String)]) -> Value {
        let mut status = serde_json::Map::new();
        if let Some(at) = feed.and_then(|feed| feed.last_success.as_ref()) {
            status.insert("lastSuccessfulSync".to_owned(), json!(at));
        }
        let searched = *lock(&self.shared.path.searched);
        let has_data = feed.is_some_and(|feed| feed.enabled && feed.bytes.is_some());
        if let Some(at) = status::rfc3339(searched.filter(|_| has_data)) {
            status.insert("lastSuccessfulSearch".to_owned(), json!(at));
        }
        let conditions = errors
            .iter()
            .map(|(kind, message)| json!({ "type": kind, "message": message }));
        status.insert("errorConditions".to_owned(), conditions.collect());
        Value::Object(status)
    }

    fn kept(&self, id: &Id, feed: &config::Feed, source: Option<&str>) -> Row {
        let data = self.glance.data.get(&feed.name).map(|data| &**data);
        let (object, note) = object::kept_set(feed, data, self.nets, source);
        let nets = data.map_or(0, |data| data.parsed.entries.len());
        Row {
            kind: id.kind.singular(),
            name: id.name.clone(),
            object,
            columns: vec![
                ("NETS", nets.to_string()),
                ("FEED", feed.name.to_string()),
                (
                    "STATUS",
                    if feed.enabled {
                        "in force"
                    } else {
                        "not in force"
                    }
                    .to_owned(),
                ),
            ],
            wide: vec![
                ("LABELS", labels(&feed.labels)),
                ("SOURCE", source.unwrap_or("applied").to_owned()),
                ("PROBLEM", NONE.to_owned()),
            ],
            note,
        }
    }
}

/// What a resource does, in a word or two. A staged policy is only reported, or not even asked.
fn state(resource: &Resource, why_not: Option<&str>) -> &'static str {
    match &resource.spec {
        _ if why_not.is_some() => "not in force",
        Spec::Policy(spec) if spec.policy.is_staged => match resource.policy() {
            Some(_) => "staged",
            None => "not asked",
        },
        _ => "in force",
    }
}

/// What stands where there is nothing, as in kubectl.
const NONE: &str = "<none>";

/// What is wrong with a feed: the kind and the words.
fn errors(
    feed: Option<&FeedStatus>,
    why_not: Option<&str>,
    broken: Option<&str>,
) -> Vec<(&'static str, String)> {
    let mut errors = Vec::new();
    errors.extend(why_not.map(|why| ("NotInForce", why.to_owned())));
    if let Some(feed) = feed.filter(|feed| feed.enabled) {
        match &feed.last_error {
            Some(error) => errors.push(("PullFailed", error.clone())),
            None if feed.stale => {
                errors.extend(status::feed_problem(feed).map(|why| ("Stale", why)))
            }
            None => {}
        }
        errors.extend(broken.map(|why| ("GlobalNetworkSetSyncFailed", why.to_owned())));
    }
    errors
}

/// The object of a resource; one that can only be changed elsewhere says where.
fn shown(resource: &Resource, origin: &Origin) -> Value {
    annotated(resource, source(origin).as_deref())
}

/// Where it can be changed; `None` for what was applied.
fn source(origin: &Origin) -> Option<String> {
    match origin {
        Origin::Applied => None,
        Origin::File { .. } => Some(origin.to_string()),
    }
}

fn annotated(resource: &Resource, source: Option<&str>) -> Value {
    let Some(source) = source else {
        return resource.to_json();
    };
    let mut resource = resource.clone();
    let annotations = &mut resource.metadata.annotations;
    annotations.insert(format!("{OWN}source"), source.to_owned());
    resource.to_json()
}

fn labels(labels: &Labels) -> String {
    if labels.is_empty() {
        return NONE.to_owned();
    }
    let pairs: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

fn order(order: Order) -> String {
    order
        .0
        .map_or_else(|| NONE.to_owned(), |order| order.to_string())
}

fn types(ingress: bool, egress: bool) -> String {
    let words = [(ingress, "Ingress"), (egress, "Egress")];
    let words: Vec<&str> = words
        .iter()
        .filter(|(is, _)| *is)
        .map(|(_, word)| *word)
        .collect();
    words.join(",")
}
