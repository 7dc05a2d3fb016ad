//! What is known of the end of a flow that policies are for: a process, a container, a pod, a LAN client.

use super::Labels;

/// An endpoint by its labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Known labels: the host's, which win, and what attribution found: `unit`, `user`, `exe`, `comm`,
    /// `container`, `image`, `pod`, `namespace` (and `projectcalico.org/namespace`), `client`, and the
    /// labels of the container or pod.
    pub labels: Labels,
    /// There are no other labels. Else a label that is not here may have any value, or none.
    pub is_complete: bool,
}

impl Endpoint {
    /// Nothing is known but the host's labels.
    pub fn any(host: &Labels) -> Self {
        Self {
            labels: host.clone(),
            is_complete: false,
        }
    }
}
