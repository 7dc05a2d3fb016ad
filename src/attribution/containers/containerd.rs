//! containerd: the bundle's `config.json` (OCI runtime specification) in its state folder. CRI,
//! ctr and nerdctl say in annotations what they know.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;

use super::{Metadata, labels, read_json, text};

/// Most namespaces (of containerd) looked through.
const MAX_NAMESPACES: usize = 64;

#[derive(Deserialize)]
pub(super) struct Spec {
    #[serde(default)]
    pub(super) annotations: Option<BTreeMap<String, String>>,
}

pub(super) fn metadata(root: &Path, id: &str) -> Option<Metadata> {
    let tasks = root.join("io.containerd.runtime.v2.task");
    let namespaces = fs::read_dir(tasks).ok()?.flatten().take(MAX_NAMESPACES);
    namespaces
        .filter_map(|namespace| read_json::<Spec>(&namespace.path().join(id).join("config.json")))
        .map(|spec| of(&spec.annotations.unwrap_or_default(), id))
        .next()
}

fn of(annotations: &BTreeMap<String, String>, id: &str) -> Metadata {
    let get = |key: &str| annotations.get(key).and_then(|value| text(value));
    let cri = |key: &str| get(&format!("io.kubernetes.cri.{key}"));
    let sandbox = (cri("container-type").as_deref() == Some("sandbox")).then(|| "POD".to_owned());
    Metadata {
        // A name given by hand (ctr) is the ID itself.
        name: cri("container-name")
            .or(sandbox)
            .or_else(|| get("nerdctl/name"))
            .or_else(|| text(id)),
        image: cri("image-name").or_else(|| get("nerdctl/image")),
        pod: cri("sandbox-name"),
        namespace: cri("sandbox-namespace"),
        labels: labels(annotations),
    }
}
