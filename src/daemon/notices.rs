//! What means something else than in the version before, said once in log and status: by the first
//! start on a state folder that an earlier version has used.

use std::collections::BTreeSet;

use super::Shared;
use crate::store::Store;

/// A notice: what it is kept by, and its text.
type Notice = (&'static str, &'static str);

const NOTICES: [Notice; 4] = [
    (
        "found-exceptions",
        "gateways, SSH peers, log servers, proxies and the Kubernetes API are never denied, as before, and \
         now alert once a day where a feed lists them; exceptions.alert-found = false keeps them silent",
    ),
    (
        "resolver-ports",
        "resolvers are exceptions at ports 53 and 853 only; at other ports a listed resolver is denied like \
         any other address",
    ),
    (
        "feed-servers",
        "the servers of feeds are no exceptions any more: the daemon reaches a listed one, other programs \
         do not",
    ),
    (
        "special-addresses",
        "unspecified, loopback, link-local, multicast and broadcast addresses are never denied, whatever \
         feeds list",
    ),
];

/// The notices that are due, which count as told from now on; none on a new state folder.
pub(super) fn due(store: &Store) -> Vec<&'static str> {
    let told: BTreeSet<String> = store.notices();
    let mut due: Vec<Notice> = NOTICES.to_vec();
    due.retain(|(id, _)| !told.contains(*id));
    if due.is_empty() {
        return Vec::new();
    }
    let all = NOTICES.map(|(id, _)| id.to_owned());
    let all: BTreeSet<String> = told.into_iter().chain(all).collect();
    if let Err(e) = store.save_notices(&all) {
        tracing::warn!("what is new may be told again at the next start: {e}");
    }
    if !store.is_of_before() {
        return Vec::new();
    }
    due.into_iter().map(|(_, text)| text).collect()
}

/// Says them in the log; status has them until the daemon ends.
pub(super) fn tell(shared: &Shared) {
    for text in &shared.notices {
        tracing::info!("new in this version: {text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_is_told_once_and_a_new_installation_of_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| Store::open(&folder.path().join(name)).unwrap();
        assert!(due(&open("new")).is_empty());
        let old = open("old");
        old.save_reported((0, 0)).unwrap();
        drop(old);
        assert_eq!(due(&open("old")).len(), NOTICES.len());
        assert!(due(&open("old")).is_empty());
        // What a later version adds is told by itself.
        let more = open("more");
        more.save_notices(&["found-exceptions".to_owned(), "later".to_owned()].into())
            .unwrap();
        more.save_reported((0, 0)).unwrap();
        drop(more);
        assert_eq!(due(&open("more")).len(), NOTICES.len() - 1);
        assert!(open("more").notices().contains("later"));
    }
}
