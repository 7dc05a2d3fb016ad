//! What is known of the end of a flow that policies are for: a process, a container, a pod, a LAN client.

use super::{Labels, selector::NAMESPACE};
use crate::attribution::Source;

/// Keys that only attribution sets: a container cannot name itself by a label.
pub const RESERVED: [&str; 10] = [
    "unit",
    "user",
    "exe",
    "comm",
    "container",
    "image",
    "pod",
    "namespace",
    NAMESPACE,
    "client",
];

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

    /// What attribution found, on a host with these labels. A user without a name is its number.
    pub fn of(source: &Source, host: &Labels) -> Self {
        let user = source.user.clone();
        let user = user.or_else(|| {
            // Not before the name service has said that there is none.
            let uid = source.uid.filter(|_| source.is_complete)?;
            Some(uid.to_string())
        });
        let found = [
            ("unit", source.unit.clone()),
            ("user", user),
            ("exe", source.exe.clone()),
            ("comm", source.comm.clone()),
            ("container", source.container.clone()),
            ("image", source.image.clone()),
            ("pod", source.pod.clone()),
            ("namespace", source.namespace.clone()),
            (NAMESPACE, source.namespace.clone()),
            ("client", source.client.clone()),
        ];
        let own = source.labels.iter();
        let own = own.filter(|(key, _)| !RESERVED.contains(&key.as_str()));
        let mut labels: Labels = own
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        labels.extend(
            found
                .into_iter()
                .filter_map(|(key, value)| Some((key.to_owned(), value?))),
        );
        labels.extend(host.iter().map(|(key, value)| (key.clone(), value.clone())));
        Self {
            labels,
            is_complete: source.is_complete,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(pair).collect()
    }

    fn container() -> Source {
        Source {
            uid: Some(1001),
            user: Some("red".into()),
            comm: Some("curl".into()),
            exe: Some("/usr/bin/curl".into()),
            unit: Some("docker.service".into()),
            container: Some("red".into()),
            image: Some("curl:8".into()),
            pod: Some("web-0".into()),
            namespace: Some("shop".into()),
            is_complete: true,
            ..Source::default()
        }
    }

    #[test]
    fn every_thing_found_is_a_label() {
        let endpoint = Endpoint::of(&container(), &labels(&[("role", "gateway")]));
        assert_eq!(
            endpoint.labels,
            labels(&[
                ("role", "gateway"),
                ("user", "red"),
                ("comm", "curl"),
                ("exe", "/usr/bin/curl"),
                ("unit", "docker.service"),
                ("container", "red"),
                ("image", "curl:8"),
                ("pod", "web-0"),
                ("namespace", "shop"),
                ("projectcalico.org/namespace", "shop"),
            ])
        );
        assert!(endpoint.is_complete);
    }

    #[test]
    fn a_container_cannot_say_who_it_is() {
        let mut source = container();
        source.container = None;
        source.labels = Arc::new(labels(&[
            ("container", "blue"),
            ("unit", "ssh.service"),
            ("client", "printer"),
            ("role", "none"),
            ("app", "web"),
        ]));
        let endpoint = Endpoint::of(&source, &labels(&[("role", "gateway")]));
        let label = |key: &str| endpoint.labels.get(key).map(String::as_str);
        assert_eq!(label("container"), None);
        assert_eq!(label("client"), None);
        assert_eq!(label("unit"), Some("docker.service"));
        assert_eq!(label("role"), Some("gateway"), "the host's word counts");
        assert_eq!(label("app"), Some("web"));
    }

    #[test]
    fn a_user_is_its_number_only_where_it_has_no_name() {
        let mut source = container();
        source.user = None;
        let user = |source: &Source| {
            let endpoint = Endpoint::of(source, &Labels::new());
            endpoint.labels.get("user").cloned()
        };
        assert_eq!(user(&source).as_deref(), Some("1001"));
        source.is_complete = false;
        assert_eq!(user(&source), None);
    }

    #[test]
    fn nothing_found_is_anybody() {
        let host = labels(&[("role", "gateway")]);
        assert_eq!(
            Endpoint::of(&Source::default(), &host),
            Endpoint::any(&host)
        );
    }
}
