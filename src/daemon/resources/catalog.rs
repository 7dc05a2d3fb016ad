//! All manifests that there are, and which of them are in force. A value: reads and writes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    sync::Arc,
};

use crate::{
    config::{self, Config},
    manifest::{self, Id, Kind, Resource, Spec},
    policy::{DEFAULT_TIER, NetworkSet, Policies},
    resources::Seen,
};

/// How the names of network sets begin that feeds keep.
pub(super) const KEPT: &str = "threatfeed.";

/// A resource, and what does not have to be made of it again and again.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) resource: Arc<Resource>,
    pub(super) set: Option<Arc<NetworkSet>>,
}

impl Item {
    pub(super) fn new(resource: Resource) -> Self {
        Self {
            set: resource.network_set().map(Arc::new),
            resource: Arc::new(resource),
        }
    }
}

/// A file of the manifests folder.
#[derive(Clone, Debug, Default)]
pub(super) struct FileState {
    /// Digest of the text that was looked at last.
    pub(super) digest: Option<[u8; 32]>,
    /// What the last good text holds, each with its line.
    pub(super) items: Vec<(Item, usize)>,
    /// What is wrong with the present text, each in words.
    pub(super) problems: Vec<String>,
}

/// Everything that was applied, and everything in the folder.
#[derive(Clone, Debug, Default)]
pub(super) struct Catalog {
    pub(super) applied: BTreeMap<Id, Item>,
    /// Files of applied resources that were found damaged, and what is wrong.
    pub(super) damaged: BTreeMap<String, String>,
    /// The manifests folder.
    pub(super) dir: Option<PathBuf>,
    pub(super) files: BTreeMap<String, FileState>,
    /// Why the folder cannot be listed.
    pub(super) folder_problem: Option<String>,
    /// What the folder looked like when it was read last.
    pub(super) seen: Seen,
}

/// Where a resource is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Applied,
    File { path: PathBuf, line: usize },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Applied => f.write_str("applied"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// A resource and whether it is in force.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) item: Item,
    pub(super) origin: Origin,
    /// Why it is not in force.
    pub(super) why_not: Option<String>,
}

/// A feed that a manifest asks for.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::daemon) struct ManifestFeed {
    pub(in crate::daemon) config: config::Feed,
    /// It keeps the network set `threatfeed.NAME`.
    pub(in crate::daemon) keeps_set: bool,
}

/// What is in force, what is not, and why.
#[derive(Clone, Debug, Default)]
pub(in crate::daemon) struct Resolved {
    pub(super) entries: BTreeMap<Id, Entry>,
    pub(in crate::daemon) feeds: Vec<ManifestFeed>,
    pub(in crate::daemon) sets: Vec<Arc<NetworkSet>>,
    pub(in crate::daemon) policies: Arc<Policies>,
    /// Each in words: files, conflicts, what is not in force.
    pub(in crate::daemon) problems: Vec<String>,
}

impl Catalog {
    /// The path of a file of the folder.
    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.dir
            .as_deref()
            .map_or_else(|| file.into(), |dir| dir.join(file))
    }

    /// What is in force beside this configuration: that wins, then the folder, file by file, then what
    /// was applied.
    pub(super) fn resolve(&self, config: &Config) -> Resolved {
        let mut problems: Vec<String> = self.folder_problem.iter().cloned().collect();
        let files = self.files.values();
        problems.extend(files.flat_map(|file| file.problems.iter().cloned()));
        problems.extend(self.damaged.values().cloned());
        let mut entries = self.winners(&mut problems);
        judge(&mut entries, config);
        let bad = entries.iter().filter_map(|(id, entry)| {
            let why = entry.why_not.as_ref()?;
            Some(format!("{id} ({}) is not in force: {why}", entry.origin))
        });
        problems.extend(bad);
        in_force(entries, problems, config)
    }

    /// Of each kind and name one.
    fn winners(&self, problems: &mut Vec<String>) -> BTreeMap<Id, Entry> {
        let mut entries: BTreeMap<Id, Entry> = BTreeMap::new();
        for (file, state) in &self.files {
            for (item, line) in &state.items {
                let origin = Origin::File {
                    path: self.path(file),
                    line: *line,
                };
                add(&mut entries, problems, item, origin);
            }
        }
        for item in self.applied.values() {
            add(&mut entries, problems, item, Origin::Applied);
        }
        entries
    }
}

fn add(entries: &mut BTreeMap<Id, Entry>, problems: &mut Vec<String>, item: &Item, origin: Origin) {
    let id = item.resource.id();
    if let Some(first) = entries.get(&id) {
        problems.push(match origin {
            Origin::Applied => format!(
                "{id} is in {} and was applied too: the file's is in force; `feedgate delete {id}` deletes the other",
                first.origin
            ),
            origin => format!(
                "{id} is in {} and in {origin}: the first is in force; remove one of them",
                first.origin
            ),
        });
        return;
    }
    let item = item.clone();
    entries.insert(
        id,
        Entry {
            item,
            origin,
            why_not: None,
        },
    );
}

/// Says of each that cannot be in force why.
fn judge(entries: &mut BTreeMap<Id, Entry>, config: &Config) {
    let of_kind = |kind: Kind| -> BTreeSet<String> {
        let ids = entries.keys().filter(|id| id.kind == kind);
        ids.map(|id| id.name.clone()).collect()
    };
    let (tiers, feeds) = (of_kind(Kind::Tier), of_kind(Kind::GlobalThreatFeed));
    let configured = |name: &str| config.feeds.iter().any(|feed| feed.name.as_str() == name);
    for (id, entry) in entries.iter_mut() {
        let name = id.name.as_str();
        entry.why_not = match id.kind {
            Kind::GlobalThreatFeed if configured(name) => Some(format!(
                "a [[feed]] of the configuration is named {name} and is in force; rename one of them"
            )),
            Kind::GlobalNetworkSet if name.starts_with(KEPT) => Some(format!(
                "names that begin with {KEPT} are for the network sets that feeds keep; rename it"
            )),
            Kind::GlobalNetworkSet if configured(name) || feeds.contains(name) => {
                Some(format!("a feed is named {name}; rename one of them"))
            }
            Kind::GlobalNetworkPolicy | Kind::StagedGlobalNetworkPolicy => {
                let tier = tier(&entry.item.resource);
                tier.filter(|tier| *tier != DEFAULT_TIER && !tiers.contains(*tier))
                    .map(|tier| format!("its tier {tier} is not there; apply a Tier of that name"))
            }
            Kind::Tier | Kind::GlobalNetworkSet | Kind::GlobalThreatFeed => None,
        };
    }
}

/// The tier of a policy, also of one that is not evaluated.
pub(super) fn tier(resource: &Resource) -> Option<&str> {
    match &resource.spec {
        Spec::Policy(spec) => Some(&spec.policy.tier),
        _ => None,
    }
}

/// The feed that a GlobalThreatFeed asks for.
fn feed(resource: &Resource, config: &Config) -> Result<ManifestFeed, String> {
    let keeps_set = match &resource.spec {
        Spec::ThreatFeed(spec) => spec.network_set.is_some(),
        _ => false,
    };
    Ok(ManifestFeed {
        config: manifest::feed(resource, &config.manifests.secrets_dir)
            .map_err(|e| e.to_string())?
            .ok_or("it is no feed")?,
        keeps_set,
    })
}

fn in_force(entries: BTreeMap<Id, Entry>, mut problems: Vec<String>, config: &Config) -> Resolved {
    let good = || entries.values().filter(|entry| entry.why_not.is_none());
    let resources = || good().map(|entry| &*entry.item.resource);
    let tiers = resources().filter_map(Resource::tier).collect();
    let policies = resources().filter_map(|r| r.policy().cloned()).collect();
    let policies = Arc::new(Policies::new(tiers, policies));
    let sets = good().filter_map(|entry| entry.item.set.clone()).collect();
    let mut feeds = Vec::new();
    for resource in resources().filter(|r| r.kind() == Kind::GlobalThreatFeed) {
        match feed(resource, config) {
            Ok(feed) => feeds.push(feed),
            Err(why) => problems.push(format!("{} is not in force: {why}", resource.id())),
        }
    }
    Resolved {
        entries,
        feeds,
        sets,
        policies,
        problems,
    }
}
