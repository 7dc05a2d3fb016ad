//! Manifests on disk: the applied resources in the state folder, and the folder of the admin's own.
//!
//! ```text
//! STATE/resources/KIND.NAME.yaml          an applied resource, behind a line with its checksum
//! STATE/resources/KIND.NAME.yaml.corrupt  one that was found damaged, moved aside
//! STATE/resources/journal                 a change of several of them that is being carried out
//! STATE/manifests-lastgood/FILE.good      the last good text of a file of the admin's folder
//! ```
//!
//! Files of the state folder are replaced as a whole, as those of [`crate::store`], and only read while
//! its lock is held. The admin's folder is only read. Does not decide which resource is in force.
//!
//! Every call blocks for the disk.

mod applied;
mod folder;
mod journal;
mod lastgood;
mod sealed;
#[cfg(test)]
mod tests;
mod watch;

pub use applied::{Applied, Loaded};
pub use folder::{FolderError, MAX_FILES, ManifestFile, Seen, is_manifest, read, seen};
pub use lastgood::LastGoodTexts;
pub use watch::Watch;
