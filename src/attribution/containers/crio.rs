//! CRI-O: `DRIVER-containers/ID/userdata/config.json`, whose annotations are described in its
//! own annotations package (github.com/cri-o/cri-o, pkg/annotations).

use std::{collections::BTreeMap, path::Path};

use super::{Metadata, containerd::Spec, labels, podman::folders, read_json, text};

pub(super) fn metadata(root: &Path, id: &str) -> Option<Metadata> {
    folders(root).find_map(|folder| {
        let spec: Spec = read_json(&folder.join(id).join("userdata/config.json"))?;
        of(&spec.annotations?)
    })
}

/// `None` for a container that CRI-O did not make.
fn of(annotations: &BTreeMap<String, String>) -> Option<Metadata> {
    let get = |key: &str| annotations.get(key).and_then(|value| text(value));
    let crio = |key: &str| get(&format!("io.kubernetes.cri-o.{key}"));
    let kind = crio("ContainerType")?;
    // The pod's labels, as JSON text; keys that the kubelet sets are among them.
    let all: BTreeMap<String, String> = annotations
        .get("io.kubernetes.cri-o.Labels")
        .and_then(|json| serde_json::from_str(json).ok())
        .unwrap_or_default();
    let label = |key: &str| get(key).or_else(|| all.get(key).and_then(|value| text(value)));
    let sandbox = (kind == "sandbox").then(|| "POD".to_owned());
    Some(Metadata {
        name: sandbox
            .or_else(|| label("io.kubernetes.container.name"))
            .or_else(|| crio("ContainerName"))
            .or_else(|| crio("Name")),
        image: crio("ImageName").or_else(|| crio("Image")),
        pod: label("io.kubernetes.pod.name").or_else(|| crio("KubeName")),
        namespace: label("io.kubernetes.pod.namespace").or_else(|| crio("Namespace")),
        labels: labels(&all),
    })
}
