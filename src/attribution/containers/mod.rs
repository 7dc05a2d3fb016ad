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
};
use crate::helper::{
    Answer, Aside, Helper, Ticket,
    reads::{self, Owner},
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

/// Has the files read by a helper, and remembers.
pub struct Containers {
    roots: RuntimeRoots,
    helper: Helper,
    known: HashMap<String, Known>,
}

struct Known {
    identity: Arc<Identity>,
    until: Instant,
    reading: Option<Ticket<Reading>>,
}

/// What the runtimes' files say of a path.
struct Reading {
    /// The one that the path names, or runc's files do.
    container: Option<ContainerId>,
    metadata: Option<Metadata>,
}

impl Containers {
    /// Reads below `roots`.
    pub fn new(roots: &Roots, helper: &Helper) -> Self {
        Self {
            roots: roots.runtimes.clone(),
            helper: helper.clone(),
            known: HashMap::new(),
        }
    }

    /// What the cgroup with this path, relative to the root of its hierarchy, is. Without the runtime's
    /// files where they are not read by `deadline`; the first caller waits for them, and a late reading is
    /// there the next time.
    pub fn of(&mut self, path: &str, deadline: Instant) -> Arc<Identity> {
        let now = Instant::now();
        let mut before = None;
        if let Some(known) = self.known.get_mut(path) {
            known.take(path, now);
            if known.reading.is_some() || now < known.until {
                return Arc::clone(&known.identity);
            }
            before = Some(Arc::clone(&known.identity));
        }
        let (roots, container) = (self.roots.clone(), identify(path).container);
        let of = path.to_owned();
        let read = move |aside: &Aside| Reading::of(aside, &roots, &of, container);
        let mut known = Known {
            identity: before.unwrap_or_else(|| Arc::new(identity(path, None))),
            until: now,
            reading: self.helper.start(read),
        };
        known.take(path, deadline);
        let identity = Arc::clone(&known.identity);
        if self.known.len() >= CAPACITY {
            self.known.clear();
        }
        self.known.insert(path.to_owned(), known);
        identity
    }
}

impl Known {
    /// Takes what was read, if that is there by `deadline`.
    fn take(&mut self, path: &str, deadline: Instant) {
        let Some(reading) = &self.reading else { return };
        match reading.wait(deadline) {
            Answer::Late => {}
            Answer::Lost => self.reading = None,
            Answer::Done(reading) => {
                let fresh = match (&reading.container, &reading.metadata) {
                    (Some(_), None) => RETRY,
                    _ => FRESH,
                };
                self.until = Instant::now() + fresh;
                self.identity = Arc::new(identity(path, Some(reading)));
                self.reading = None;
            }
        }
    }
}

/// What the path says, and the files.
fn identity(path: &str, reading: Option<Reading>) -> Identity {
    let found = identify(path);
    let was_read = reading.is_some();
    let (container, metadata) = match reading {
        Some(reading) => (reading.container, reading.metadata),
        None => (found.container, None),
    };
    let has_files = container.as_ref().is_some_and(|id| has_files(id.runtime()));
    let is_complete = metadata.is_some() || (was_read && !has_files);
    let metadata = metadata.unwrap_or_default();
    Identity {
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
    }
}

impl Reading {
    fn of(aside: &Aside, roots: &RuntimeRoots, path: &str, container: Option<ContainerId>) -> Self {
        let container = container.or_else(|| runc::container(aside, &roots.runc, path));
        let metadata = container.as_ref().and_then(|id| metadata(aside, roots, id));
        Self {
            container,
            metadata,
        }
    }
}

/// Asks the runtime that the path names, or each.
fn metadata(aside: &Aside, roots: &RuntimeRoots, container: &ContainerId) -> Option<Metadata> {
    let id = container.as_str();
    if !is_one_name(id) {
        return None;
    }
    let docker = || docker::metadata(aside, &roots.docker, id);
    let containerd = || containerd::metadata(aside, &roots.containerd, id);
    let podman = || {
        roots
            .storage
            .iter()
            .find_map(|root| podman::metadata(aside, root, id))
    };
    let crio = || {
        roots
            .storage
            .iter()
            .find_map(|root| crio::metadata(aside, root, id))
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

/// True for a runtime whose files hold names, images and labels.
fn has_files(runtime: Runtime) -> bool {
    !matches!(runtime, Runtime::Lxc | Runtime::Machine | Runtime::Runc)
}

/// True when `id` cannot lead out of the folder it is looked for in.
fn is_one_name(id: &str) -> bool {
    !id.is_empty() && id != "." && id != ".." && !id.contains('/')
}

fn read_json<T: serde::de::DeserializeOwned>(aside: &Aside, path: &Path) -> Option<T> {
    let bytes = reads::file(aside, path, MAX_FILE, Owner::Anybody).ok()?;
    serde_json::from_slice(&bytes).ok()
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
