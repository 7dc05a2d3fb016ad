//! containerd: the bundle's `config.json` (OCI runtime specification) in its state folder. CRI,
//! ctr and nerdctl say in annotations what they know. Those of CRI count in its own namespace only.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;

use super::{Metadata, labels, read_json, text};
use crate::helper::Aside;

/// The namespace of containerd in which its CRI plugin, and nobody else, makes containers.
const CRI: &str = "k8s.io";
/// Most namespaces (of containerd) looked through.
const MAX_NAMESPACES: usize = 64;

#[derive(Deserialize)]
pub(super) struct Spec {
    #[serde(default)]
    pub(super) annotations: Option<BTreeMap<String, String>>,
}

pub(super) fn metadata(aside: &Aside, root: &Path, id: &str) -> Option<Metadata> {
    let tasks = root.join("io.containerd.runtime.v2.task");
    let mut namespaces = fs::read_dir(tasks).ok()?.flatten().take(MAX_NAMESPACES);
    namespaces.find_map(|namespace| {
        let spec: Spec = read_json(aside, &namespace.path().join(id).join("config.json"))?;
        let is_cri = namespace.file_name() == CRI;
        Some(of(&spec.annotations.unwrap_or_default(), id, is_cri))
    })
}

fn of(annotations: &BTreeMap<String, String>, id: &str, is_cri: bool) -> Metadata {
    let get = |key: &str| annotations.get(key).and_then(|value| text(value));
    let cri = |key: &str| is_cri.then(|| get(&format!("io.kubernetes.cri.{key}")))?;
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
