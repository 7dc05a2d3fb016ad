//! Docker: `DATA-ROOT/containers/ID/config.v2.json`.
//!
//! Labels come from the image too, so whoever made that wrote them. Those of the kubelet count only
//! where cri-dockerd made the container: they win over the image's then.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;

use super::{Metadata, labels, read_json, text};
use crate::helper::Aside;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct File {
    /// With a slash in front.
    #[serde(default)]
    name: String,
    #[serde(default)]
    config: Config,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(default)]
    image: String,
    /// `null` where there are none.
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

/// How the names of all containers of cri-dockerd begin; a user of Docker who takes it as well could
/// as well set the labels.
const KUBELETS: &str = "k8s_";

pub(super) fn metadata(aside: &Aside, root: &Path, id: &str) -> Option<Metadata> {
    let file: File = read_json(
        aside,
        &root.join("containers").join(id).join("config.v2.json"),
    )?;
    let all = file.config.labels.unwrap_or_default();
    let name = file.name.trim_start_matches('/');
    let label = |key: &str| {
        let value = all.get(key).filter(|_| name.starts_with(KUBELETS));
        value.and_then(|value| text(value))
    };
    Some(Metadata {
        // What cri-dockerd calls k8s_NAME_... is NAME to its user.
        name: label("io.kubernetes.container.name").or_else(|| text(name)),
        image: text(&file.config.image),
        pod: label("io.kubernetes.pod.name"),
        namespace: label("io.kubernetes.pod.namespace"),
        labels: labels(&all),
    })
}
