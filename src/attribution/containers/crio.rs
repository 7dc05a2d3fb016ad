//! CRI-O: `DRIVER-containers/ID/userdata/config.json`, whose annotations are described in its
//! own annotations package (github.com/cri-o/cri-o, pkg/annotations).
//!
//! podman keeps its containers in the same storage, and copies the annotations of an image: a container
//! that says it is podman's is not CRI-O's, whatever else its annotations say. Labels of the kubelet
//! come before annotations that an image could bring.

use std::{collections::BTreeMap, path::Path};

use super::{Metadata, containerd::Spec, labels, podman::folders, read_json, text};
use crate::helper::Aside;

pub(super) fn metadata(aside: &Aside, root: &Path, id: &str) -> Option<Metadata> {
    folders(aside, root).find_map(|folder| {
        let spec: Spec = read_json(aside, &folder.join(id).join("userdata/config.json"))?;
        of(&spec.annotations?)
    })
}

/// `None` for a container that CRI-O did not make.
fn of(annotations: &BTreeMap<String, String>) -> Option<Metadata> {
    let get = |key: &str| annotations.get(key).and_then(|value| text(value));
    let crio = |key: &str| get(&format!("io.kubernetes.cri-o.{key}"));
    if get("io.container.manager").as_deref() == Some("libpod") {
        return None;
    }
    let kind = crio("ContainerType")?;
    // The pod's labels, as JSON text; keys that the kubelet sets are among them.
    let all: BTreeMap<String, String> = annotations
        .get("io.kubernetes.cri-o.Labels")
        .and_then(|json| serde_json::from_str(json).ok())
        .unwrap_or_default();
    let own = |key: &str| all.get(key).and_then(|value| text(value));
    let label = |key: &str| own(key).or_else(|| get(key));
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
