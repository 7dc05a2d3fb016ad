//! What all kinds have: `apiVersion`, `kind`, `metadata`; and lists of resources.

use std::collections::BTreeSet;

use super::{
    Id, Kind, MAX_DOCUMENT, Metadata, Resource, Spec,
    cursor::Table,
    kind::is_name,
    log::{Lines, Log, Problem},
    network_set, policy, scalar, threat_feed, tier,
    tree::{Node, Value, short},
};
use crate::{config::nearest, policy::DEFAULT_TIER};

/// The version of every kind.
pub(super) const API_VERSION: &str = "projectcalico.org/v3";
/// Set on a document that shows a part of a network set's nets; see `print`.
pub(super) const PAGE_ANNOTATION: &str = "feedgate/nets";
/// Says where a resource is kept that was not applied.
const SOURCE_ANNOTATION: &str = "feedgate/source";
/// How annotations begin that the daemon writes.
const OWN_ANNOTATIONS: &str = "feedgate/";

/// Fields of a resource.
pub(super) const FIELDS: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];
/// Fields of a list.
const LIST_FIELDS: [&str; 4] = ["apiVersion", "kind", "metadata", "items"];
/// Fields of `metadata`; all but the first three are a cluster's, and are not kept.
pub(super) const METADATA: [&str; 14] = [
    "name",
    "labels",
    "annotations",
    "namespace",
    "generateName",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "ownerReferences",
    "finalizers",
    "selfLink",
];
/// Longest key of a label or annotation behind its prefix, and longest value of a label.
const LONGEST_LABEL: usize = 63;
/// Longest value of an annotation, in bytes: what Kubernetes allows for all of one resource.
const LONGEST_ANNOTATION: usize = 256 << 10;

/// Resources found so far, with document and offset.
#[derive(Default)]
pub(super) struct Found {
    resources: Vec<(Resource, usize, usize)>,
    ids: BTreeSet<Id>,
    /// The text is where its resources are kept.
    is_home: bool,
}

impl Found {
    /// Nothing yet of a text that is where its resources are kept.
    pub(super) fn kept_here() -> Self {
        Self {
            is_home: true,
            ..Self::default()
        }
    }

    pub(super) fn into_resources(self, lines: &Lines) -> Vec<super::Found> {
        let found = self.resources.into_iter();
        found
            .map(|(resource, document, start)| super::Found {
                resource,
                document,
                line: lines.line(start),
            })
            .collect()
    }
}

/// Reads one document: a resource, or a list of some. An empty one is nothing.
pub(super) fn read<'t>(log: &mut Log, found: &mut Found, text: &'t str, node: &Node<'t>) {
    if node.is_null() {
        return;
    }
    let Some(root) = Table::any(log, text, node, "") else {
        return;
    };
    match raw(&root, "kind") {
        Some(kind) if kind == "List" || kind.ends_with("List") => {
            list(log, found, text, node, kind)
        }
        _ => resource(log, found, text, node, "", None),
    }
}

/// `kind: List`, or the list of one kind, whose items need not say what they are.
fn list<'t>(log: &mut Log, found: &mut Found, text: &'t str, node: &Node<'t>, kind: &str) {
    let Some(root) = Table::open(log, text, node, "", &LIST_FIELDS) else {
        return;
    };
    let of = kind.strip_suffix("List").unwrap_or_default();
    let of_kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == of);
    let version = if of.is_empty() { "v1" } else { API_VERSION };
    if !of.is_empty() && of_kind.is_none() {
        root.error(log, "kind", unknown_kind(of));
        return;
    }
    match root.require(
        log,
        "apiVersion",
        &format!("add apiVersion: {version}"),
        scalar::text,
    ) {
        Some(written) if written != version => {
            let problem = Problem::new(format!("{} is not {version}", short(written)));
            root.error(log, "apiVersion", problem);
        }
        _ => {}
    }
    let Some(items) = root.get("items") else {
        return;
    };
    let Value::List(nodes) = &items.value else {
        root.error(log, "items", scalar::expected("a list", items));
        return;
    };
    for (i, node) in nodes.iter().enumerate() {
        resource(log, found, text, node, &format!("items[{i}]"), of_kind);
        log.resource(None);
    }
}

fn resource<'t>(
    log: &mut Log,
    found: &mut Found,
    text: &'t str,
    node: &Node<'t>,
    path: &str,
    usual: Option<Kind>,
) {
    let before = log.errors();
    let Some(any) = Table::any(log, text, node, path) else {
        return;
    };
    log.resource(described(&any, usual));
    if usual.is_none() || any.has("apiVersion") {
        version(log, &any);
    }
    let Some(kind) = kind(log, &any, usual) else {
        return;
    };
    let length = node.place.end.saturating_sub(node.place.start);
    if length > MAX_DOCUMENT && kind != Kind::GlobalNetworkSet {
        let problem = Problem::new(format!("longer than {} KiB", MAX_DOCUMENT >> 10));
        log.error(path, node.place.start, problem);
        return;
    }
    let Some(root) = Table::open(log, text, node, path, &FIELDS) else {
        return;
    };
    if let Some((why, help)) = kept_elsewhere(&root, kind, found.is_home) {
        let problem = Problem::new(format!("left out: {why}"));
        root.warning(log, "metadata", problem.help(help));
        return;
    }
    let mut metadata = metadata(log, &root, kind);
    if found.is_home {
        let annotations = &mut metadata.annotations;
        annotations.retain(|key, _| !key.starts_with(OWN_ANNOTATIONS));
    }
    let Some(spec) = spec(log, &root, kind, &metadata) else {
        return;
    };
    let mut resource = Resource { metadata, spec };
    if let Spec::Policy(spec) = &resource.spec {
        resource.metadata.name = spec.policy.name.to_string();
    }
    let id = resource.id();
    if !id.name.is_empty() && found.ids.contains(&id) {
        let problem = Problem::new(format!("{id} is there twice"));
        root.error_below(log, "metadata", "name", problem.help("keep one of them"));
    }
    if log.errors() == before {
        found.ids.insert(id);
        let start = node.place.start;
        found.resources.push((resource, log.document(), start));
    }
}

/// Who keeps a resource that `get` printed, and what to do instead of applying it: it comes back from
/// there.
fn kept_elsewhere(
    root: &Table<'_, '_>,
    kind: Kind,
    is_home: bool,
) -> Option<(String, &'static str)> {
    let metadata = root.get("metadata")?;
    let annotations = below(metadata, "annotations").filter(|_| !is_home);
    let source = annotations.and_then(|all| below(all, SOURCE_ANNOTATION));
    // A file of the manifests folder may be gone by now: who has that in sight decides.
    if let Some(source) = source.filter(|source| !is_of_a_manifest(source)) {
        let name = below(metadata, "name").and_then(|name| scalar::text(name).ok());
        if kind == Kind::Tier && name == Some(DEFAULT_TIER) {
            return Some(("it is always there".into(), "remove it from the manifest"));
        }
        let source = scalar::text(source).map_or_else(|_| String::new(), short);
        return Some((format!("it is kept in {source}"), "change it there"));
    }
    let name = below(metadata, "name")?;
    let is_feeds = kind == Kind::GlobalNetworkSet
        && scalar::text(name).is_ok_and(|name| name.starts_with("threatfeed."))
        && below(metadata, "ownerReferences").is_some();
    is_feeds.then(|| ("its feed keeps it".into(), "apply the GlobalThreatFeed"))
}

/// `FILE:LINE`, as what the manifests folder keeps is annotated.
fn is_of_a_manifest(source: &Node<'_>) -> bool {
    let line = scalar::text(source)
        .ok()
        .and_then(|text| text.rsplit_once(':'));
    line.is_some_and(|(_, line)| !line.is_empty() && line.bytes().all(|b| b.is_ascii_digit()))
}

/// A field of a map.
fn below<'a, 't>(node: &'a Node<'t>, name: &str) -> Option<&'a Node<'t>> {
    let Value::Map(pairs) = &node.value else {
        return None;
    };
    let mut pairs = pairs.iter();
    pairs
        .find(|(key, _)| key.text == name)
        .map(|(_, node)| node)
}

fn version(log: &mut Log, root: &Table<'_, '_>) {
    let help = format!("add apiVersion: {API_VERSION}");
    let Some(version) = root.require(log, "apiVersion", &help, scalar::text) else {
        return;
    };
    if version == API_VERSION {
        return;
    }
    let problem = Problem::new(format!("{} is not {API_VERSION}", short(version)));
    let problem = problem.help(match version {
        "crd.projectcalico.org/v1" => {
            "that is how Calico stores resources: get them as projectcalico.org/v3 \
             (calicoctl get KIND NAME -o yaml), or change apiVersion"
        }
        _ => "feedgate takes Calico's resources of that version only",
    });
    root.error(log, "apiVersion", problem);
}

fn kind(log: &mut Log, root: &Table<'_, '_>, usual: Option<Kind>) -> Option<Kind> {
    if let (Some(usual), false) = (usual, root.has("kind")) {
        return Some(usual);
    }
    let help = "add kind: GlobalThreatFeed, or another kind of Calico";
    let word = root.require(log, "kind", help, scalar::text)?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == word);
    if kind.is_none() {
        root.error(log, "kind", unknown_kind(word));
    }
    kind
}

fn unknown_kind(word: &str) -> Problem {
    let words = Kind::ALL.map(Kind::as_str);
    let problem = Problem::new(format!("{} is not a kind that feedgate takes", short(word)));
    match nearest(word, words.into_iter()) {
        Some(near) => problem.help(format!("did you mean {near}?")),
        None => problem.help(format!("known are {}", words.join(", "))),
    }
}

fn spec(log: &mut Log, root: &Table<'_, '_>, kind: Kind, metadata: &Metadata) -> Option<Spec> {
    match kind {
        Kind::GlobalThreatFeed => Some(Spec::ThreatFeed(threat_feed::read(log, root))),
        Kind::GlobalNetworkSet => Some(Spec::NetworkSet(network_set::read(log, root))),
        Kind::Tier => Some(Spec::Tier(tier::read(log, root, &metadata.name))),
        Kind::GlobalNetworkPolicy => policy::read(log, root, &metadata.name, false),
        Kind::StagedGlobalNetworkPolicy => policy::read(log, root, &metadata.name, true),
    }
}

/// `metadata`; a wrong name is reported and left empty.
fn metadata(log: &mut Log, root: &Table<'_, '_>, kind: Kind) -> Metadata {
    if !root.has("metadata") {
        root.missing(log, "metadata", "add metadata with a name");
    }
    let Some(table) = root.table(log, "metadata", &METADATA) else {
        return Metadata::default();
    };
    if table.has("namespace") {
        let problem = Problem::new(format!("a {kind} has no namespace"));
        table.error(log, "namespace", problem.help("remove it"));
    }
    if table.has("generateName") {
        let problem = Problem::new("names are not generated");
        table.error(log, "generateName", problem.help("write name"));
    }
    let name = table.require(log, "name", "add a name", |node| name(node, kind));
    let labels = table.texts(log, "labels", label_key, label_value);
    let annotations = table.texts(log, "annotations", label_key, annotation_value);
    if let Some(shown) = annotations.get(PAGE_ANNOTATION) {
        let problem = Problem::new(format!("this is only a part of the set: {}", short(shown)));
        let problem = problem.help(format!(
            "get the whole set with --limit 0, or remove the annotation {PAGE_ANNOTATION}"
        ));
        table.error(log, "annotations", problem);
    }
    Metadata {
        name: name.unwrap_or_default(),
        labels,
        annotations,
    }
}

fn name(node: &Node<'_>, kind: Kind) -> Result<String, Problem> {
    let name = scalar::text(node)?;
    if !is_name(name) {
        let problem = Problem::new(format!("{} is not a name", short(name)));
        return Err(problem.help(
            "a name has at most 253 lower-case letters, digits, - and ., \
             and begins and ends with a letter or digit",
        ));
    }
    let (longest, prefix) = match kind {
        // Its network set is named `threatfeed.NAME`.
        Kind::GlobalThreatFeed => (117, None),
        Kind::GlobalNetworkSet => (128, Some("threatfeed.")),
        _ => (253, None),
    };
    if name.len() > longest {
        let problem = Problem::new(format!("longer than {longest} characters"));
        return Err(problem.help(format!("shorten it: that is the limit for a {kind}")));
    }
    match prefix.filter(|prefix| name.starts_with(prefix)) {
        Some(prefix) => Err(
            Problem::new(format!("sets named {prefix}NAME are kept by feeds"))
                .help("choose another name, or apply the GlobalThreatFeed instead"),
        ),
        None => Ok(name.to_owned()),
    }
}

/// A key of a label or annotation: a name, behind an optional DNS prefix and a slash.
pub(super) fn label_key(key: &str) -> Result<(), Problem> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if prefix.is_none_or(is_name) && !name.is_empty() && is_label(name) {
        return Ok(());
    }
    Err(Problem::new("not the key of a label").help(
        "a key has at most 63 letters, digits, -, _ and ., begins and ends with a letter or digit, \
         and may stand behind a DNS name and a slash",
    ))
}

/// A value of a label.
pub(super) fn label_value(value: &str) -> Result<(), Problem> {
    if is_label(value) {
        return Ok(());
    }
    Err(Problem::new("not the value of a label").help(
        "a value has at most 63 letters, digits, -, _ and ., and begins and ends with a letter or digit",
    ))
}

fn annotation_value(value: &str) -> Result<(), Problem> {
    if value.len() <= LONGEST_ANNOTATION {
        return Ok(());
    }
    let limit = LONGEST_ANNOTATION >> 10;
    Err(Problem::new(format!("longer than {limit} KiB")))
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let outer = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= LONGEST_LABEL
        && bytes.iter().all(|b| inner(*b))
        && outer(bytes.first())
        && outer(bytes.last())
}

/// `kind/name` as far as they are readable, for messages.
fn described(root: &Table<'_, '_>, usual: Option<Kind>) -> Option<String> {
    let kind = raw(root, "kind").or(usual.map(Kind::as_str))?;
    let name = match root.get("metadata").map(|node| &node.value) {
        Some(Value::Map(pairs)) => pairs
            .iter()
            .find(|(key, _)| key.text == "name")
            .and_then(|(_, node)| scalar::text(node).ok()),
        _ => None,
    };
    let printable = |text: &str| -> String {
        let kept = text.chars().filter(|c| c.is_ascii_graphic());
        kept.take(80).collect()
    };
    Some(match name {
        Some(name) => format!("{}/{}", printable(kind), printable(name)),
        None => printable(kind),
    })
}

fn raw<'a>(root: &Table<'a, '_>, key: &str) -> Option<&'a str> {
    root.get(key).and_then(|node| scalar::text(node).ok())
}
