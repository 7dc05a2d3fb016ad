//! A cgroup path into unit, container and pod, with the names that the container runtimes keep in
//! files of their own. Answers are cached by path, and read again while no name was found.

mod containerd;
mod crio;
mod docker;
mod podman;
mod runc;

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Roots,
    cgroup::{ContainerId, Runtime, identify},
    process::read_limited,
};

/// Paths remembered; then all are read again.
const CAPACITY: usize = 4096;
/// A container is in its cgroup before its runtime has written all its files: how long a look
/// that found no name is good for.
const RETRY: Duration = Duration::from_secs(1);
/// How long names are good for: a container can be renamed.
const FRESH: Duration = Duration::from_secs(60);
/// Largest file of a runtime that is read: podman's list of all containers is the largest.
const MAX_FILE: u64 = 4 << 20;
/// Labels kept of one container.
const MAX_LABELS: usize = 64;
/// Longest text kept, in bytes.
const MAX_TEXT: usize = 1024;

/// Where the container runtimes keep their files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeRoots {
    /// Docker's data-root, with `containers/ID/config.v2.json`.
    pub docker: PathBuf,
    /// containerd's state folder, with `io.containerd.runtime.v2.task/NAMESPACE/ID/config.json`.
    pub containerd: PathBuf,
    /// Storage of podman and CRI-O, with `DRIVER-containers/containers.json` and
    /// `DRIVER-containers/ID/userdata/config.json`; the first that knows a container counts.
    pub storage: Vec<PathBuf>,
    /// runc's state folder, with `ID/state.json`.
    pub runc: PathBuf,
}

/// The places of the runtimes' packages.
impl Default for RuntimeRoots {
    fn default() -> Self {
        Self {
            docker: "/var/lib/docker".into(),
            containerd: "/run/containerd".into(),
            storage: vec![
                "/run/containers/storage".into(),
                "/var/lib/containers/storage".into(),
            ],
            runc: "/run/runc".into(),
        }
    }
}

/// What a process is part of. All texts are untrusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// systemd unit.
    pub unit: Option<String>,
    /// systemd slice that the unit is in.
    pub slice: Option<String>,
    /// The user whose session it is in.
    pub session_uid: Option<u32>,
    /// Name of the container, else its ID.
    pub container: Option<String>,
    /// Image the container was made from, as its runtime names it.
    pub image: Option<String>,
    /// Kubernetes pod: its name, else its UID.
    pub pod: Option<String>,
    /// Kubernetes namespace.
    pub namespace: Option<String>,
    /// Labels of the container, at most 64.
    pub labels: Arc<BTreeMap<String, String>>,
    /// All that there is was read: its runtime's files, where it has any.
    pub is_complete: bool,
}

/// What a runtime's file says of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Metadata {
    name: Option<String>,
    image: Option<String>,
    pod: Option<String>,
    namespace: Option<String>,
    labels: BTreeMap<String, String>,
}

/// Reads and remembers.
pub struct Containers {
    roots: RuntimeRoots,
    known: HashMap<String, Known>,
}

struct Known {
    identity: Arc<Identity>,
    until: Instant,
}

impl Containers {
    /// Reads below `roots`.
    pub fn new(roots: &Roots) -> Self {
        Self {
            roots: roots.runtimes.clone(),
            known: HashMap::new(),
        }
    }

    /// What the cgroup with this path, relative to the root of its hierarchy, is. After `deadline`
    /// without the runtime's files.
    pub fn of(&mut self, path: &str, deadline: Instant) -> Arc<Identity> {
        let now = Instant::now();
        if let Some(known) = self.known.get(path)
            && now < known.until
        {
            return Arc::clone(&known.identity);
        }
        let found = identify(path);
        let container = found
            .container
            .or_else(|| runc::container(&self.roots.runc, path));
        let in_time = now < deadline;
        let metadata = container
            .as_ref()
            .filter(|_| in_time)
            .and_then(|id| self.metadata(id));
        let fresh = match (&container, &metadata) {
            (Some(_), None) if in_time => RETRY,
            (Some(_), None) => Duration::ZERO,
            _ => FRESH,
        };
        let has_files = container.as_ref().is_some_and(|id| has_files(id.runtime()));
        let is_complete = !has_files || metadata.is_some();
        let metadata = metadata.unwrap_or_default();
        let identity = Arc::new(Identity {
            unit: found.unit,
            slice: found.slice,
            session_uid: found.session_uid,
            container: metadata
                .name
                .or_else(|| container.map(|id| id.as_str().to_owned())),
            image: metadata.image,
            pod: metadata.pod.or(found.pod_uid),
            namespace: metadata.namespace,
            labels: Arc::new(metadata.labels),
            is_complete,
        });
        if self.known.len() >= CAPACITY {
            self.known.clear();
        }
        let known = Known {
            identity: Arc::clone(&identity),
            until: now + fresh,
        };
        self.known.insert(path.to_owned(), known);
        identity
    }

    /// Asks the runtime that the path names, or each.
    fn metadata(&self, container: &ContainerId) -> Option<Metadata> {
        let id = container.as_str();
        if !is_one_name(id) {
            return None;
        }
        let roots = &self.roots;
        let docker = || docker::metadata(&roots.docker, id);
        let containerd = || containerd::metadata(&roots.containerd, id);
        let podman = || {
            roots
                .storage
                .iter()
                .find_map(|root| podman::metadata(root, id))
        };
        let crio = || {
            roots
                .storage
                .iter()
                .find_map(|root| crio::metadata(root, id))
        };
        match container.runtime() {
            Runtime::Docker => docker(),
            Runtime::Podman => podman(),
            Runtime::Containerd => containerd(),
            Runtime::Crio => crio(),
            Runtime::Unknown => containerd().or_else(docker).or_else(crio).or_else(podman),
            Runtime::Lxc | Runtime::Machine | Runtime::Runc => None,
        }
    }
}

/// True for a runtime whose files hold names, images and labels.
fn has_files(runtime: Runtime) -> bool {
    !matches!(runtime, Runtime::Lxc | Runtime::Machine | Runtime::Runc)
}

/// True when `id` cannot lead out of the folder it is looked for in.
fn is_one_name(id: &str) -> bool {
    !id.is_empty() && id != "." && id != ".." && !id.contains('/')
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&read_limited(path, MAX_FILE)?).ok()
}

/// A text that says something, cut to 1,024 bytes.
fn text(text: &str) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    let end = (0..=MAX_TEXT.min(text.len()))
        .rev()
        .find(|&end| text.is_char_boundary(end))?;
    text.get(..end).map(str::to_owned)
}

/// At most 64 labels.
fn labels<'a>(all: impl IntoIterator<Item = (&'a String, &'a String)>) -> BTreeMap<String, String> {
    all.into_iter()
        .take(MAX_LABELS)
        .filter_map(|(key, value)| Some((text(key)?, text(value).unwrap_or_default())))
        .collect()
}

#[cfg(test)]
mod tests;
