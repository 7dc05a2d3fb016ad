//! podman: the list `DRIVER-containers/containers.json` of its storage library, and the OCI
//! configuration beside it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{Metadata, containerd::Spec, labels, read_json, text};
use crate::helper::Aside;

/// Storage drivers looked through.
const MAX_DRIVERS: usize = 8;

#[derive(Deserialize)]
struct Entry {
    id: String,
    #[serde(default)]
    names: Option<Vec<String>>,
    /// JSON text.
    #[serde(default)]
    metadata: String,
}

#[derive(Default, Deserialize)]
struct Details {
    #[serde(default, rename = "image-name")]
    image_name: String,
    #[serde(default)]
    name: String,
}

pub(super) fn metadata(aside: &Aside, root: &Path, id: &str) -> Option<Metadata> {
    folders(aside, root).find_map(|folder| {
        let list: Vec<Entry> = read_json(aside, &folder.join("containers.json"))?;
        let entry = list.into_iter().find(|entry| entry.id == id)?;
        let details: Details = serde_json::from_str(&entry.metadata).unwrap_or_default();
        let name = entry.names.unwrap_or_default().into_iter().next();
        Some(Metadata {
            name: name
                .and_then(|name| text(&name))
                .or_else(|| text(&details.name)),
            image: text(&details.image_name),
            labels: annotations(aside, &folder, id),
            ..Metadata::default()
        })
    })
}

/// Its labels are in a database; the annotations are what a file has.
fn annotations(aside: &Aside, folder: &Path, id: &str) -> BTreeMap<String, String> {
    let spec: Option<Spec> = read_json(aside, &folder.join(id).join("userdata/config.json"));
    let all = spec.and_then(|spec| spec.annotations).unwrap_or_default();
    labels(&all)
}

/// `overlay-containers`, `vfs-containers`, ... below a storage root.
pub(super) fn folders(_: &Aside, root: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().ends_with("-containers"))
        })
        .take(MAX_DRIVERS)
}
