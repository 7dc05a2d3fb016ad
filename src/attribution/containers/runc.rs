//! runc by hand: the cgroup is named after the container, which nothing in the path tells from
//! any other group, but runc keeps a state file of that name.

use std::path::Path;

use super::{
    super::cgroup::{ContainerId, Runtime},
    is_one_name,
};
use crate::helper::Aside;

/// The innermost part of the path that is a container of runc.
pub(super) fn container(_: &Aside, root: &Path, path: &str) -> Option<ContainerId> {
    if !root.is_dir() {
        return None;
    }
    path.rsplit('/')
        .filter(|part| is_one_name(part))
        .find(|part| root.join(part).join("state.json").is_file())
        .and_then(|part| ContainerId::new(part, Runtime::Runc))
}
