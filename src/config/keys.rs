//! Every key of the configuration, as a path without indexes.

use std::collections::BTreeSet;

const PATHS: &[&str] = &[
    "daemon.state-dir",
    "daemon.control-socket",
    "daemon.on-daemon-down",
    "daemon.selftest",
    "daemon.log-level",
    "nftables.mode",
    "nftables.family",
    "nftables.table",
    "nftables.owner",
    "nftables.hooks",
    "nftables.queue-first",
    "nftables.queue-count",
    "nftables.queue-max-len",
    "nftables.mark-mask",
    "nftables.cut-mask",
    "nftables.deny-with",
    "nftables.on-queue-full",
    "nftables.nat64-prefixes",
    "exceptions.prefixes",
    "exceptions.files",
    "exceptions.own-addresses",
    "exceptions.alert-found",
    "exceptions.private-networks",
    "pull.proxy",
    "pull.ca-files",
    "pull.connect-timeout",
    "pull.total-timeout",
    "feed.name",
    "feed.preset",
    "feed.url",
    "feed.action",
    "feed.directions",
    "feed.period",
    "feed.stale-after",
    "feed.expire-after",
    "feed.format",
    "feed.csv.field-num",
    "feed.csv.field-name",
    "feed.csv.header",
    "feed.csv.column-delimiter",
    "feed.csv.comment-delimiter",
    "feed.csv.record-size",
    "feed.csv.disable-record-size-validation",
    "feed.csv.port-column",
    "feed.csv.score-column",
    "feed.csv.tag-column",
    "feed.csv.only",
    "feed.json.path",
    "feed.json.address-key",
    "feed.json.port-key",
    "feed.json.score-key",
    "feed.json.tag-key",
    "feed.min-score",
    "feed.deny-score",
    "feed.origin",
    "feed.labels",
    "feed.severity",
    "feed.headers",
    "feed.enabled",
    "feed.max-entries",
    "feed.max-bytes",
    "feed.max-shrink",
    "feed.max-growth",
    "feed.max-share",
    "feed.max-bad",
    "feed.allow-empty",
    "feed.min-prefix4",
    "feed.min-prefix6",
    "consensus.deny-at",
    "attribution.timeout",
    "attribution.clients",
    "host.labels",
    "arm.after",
    "arm.max-share",
    "alerts.suppress",
    "alerts.scan-after",
    "alerts.rate-limit",
    "alerts.rate-limit-ingress",
    "alerts.durable",
    "alerts.json-file",
    "alerts.json-format",
    "alerts.store",
    "alerts.store-max-age",
    "alerts.store-max-size",
    "alerts.flow-log",
    "alerts.flow-log-aggregation",
    "alerts.syslog.address",
    "alerts.syslog.format",
    "alerts.syslog.facility",
    "alerts.syslog.queue",
    "alerts.syslog.spool",
    "alerts.syslog.ca-file",
    "alerts.syslog.cert-file",
    "alerts.syslog.key-file",
    "metrics.listen",
    "manifests.dir",
    "manifests.secrets-dir",
];

/// Keys of features that this version lacks: they parse, and give a warning.
const FUTURE: &[&str] = &[
    "exceptions.names",
    "feed.content",
    "feed.match",
    "feed.category",
    "host.mmdb",
    "alerts.webhook.url",
    "alerts.webhook.format",
    "alerts.webhook.secret",
    "alerts.webhook.severity",
    "alerts.webhook.feeds",
    "alerts.webhook.fields",
    "alerts.webhook.window",
    "dns.enabled",
    "dns.ports",
    "dns.deny-with",
    "dns.on-daemon-down",
    "dns.on-overload",
    "dns.answers",
    "dns.learned",
    "dns.dga.enabled",
    "dns.tunnel.enabled",
    "kubernetes.enabled",
    "kubernetes.node-name",
    "kubernetes.kubeconfig",
    "kubernetes.kinds",
    "kubernetes.namespace",
    "kubernetes.controller-url",
    "evidence.pcap-dir",
    "evidence.pcap-max-size",
    "evidence.mirror",
    "web.listen",
    "web.users-file",
    "web.base-path",
    "web.trusted-proxy",
];

/// Tables that are repeated.
const LISTS: &[&str] = &["feed", "alerts.syslog", "alerts.webhook"];

/// True when `path` is a key whose feature this version lacks.
pub(super) fn is_future(path: &str) -> bool {
    FUTURE.contains(&path)
}

/// True when `path` is a table of nothing but keys whose feature this version lacks.
pub(super) fn is_future_table(path: &str) -> bool {
    let inside = |known: &&&str| **known != path && holds(path, known);
    FUTURE.iter().any(|known| inside(&known)) && !paths().any(|known| holds(path, known))
}

/// True when the table `path` is repeated, as `[[path]]`.
pub(super) fn is_list(path: &str) -> bool {
    LISTS.contains(&path)
}

/// True when `path` is a key, or a table that holds keys.
pub(super) fn known(path: &str) -> bool {
    every().any(|known| holds(path, known))
}

/// True when `path` is the key `known`, or a table that it is in.
fn holds(path: &str, known: &str) -> bool {
    known
        .strip_prefix(path)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Paths of all keys of this version.
pub(super) fn paths() -> impl Iterator<Item = &'static str> {
    PATHS.iter().copied()
}

fn every() -> impl Iterator<Item = &'static str> {
    paths().chain(FUTURE.iter().copied())
}

/// What to say about `key`, which table `table` does not have.
pub(super) fn suggest(table: &str, key: &str) -> String {
    if let Some(near) = near(table, key) {
        return format!("did you mean `{near}`?");
    }
    let here = children(table);
    let elsewhere = every().find_map(|path| {
        let (home, name) = path.rsplit_once('.')?;
        (name == key).then_some(home)
    });
    match elsewhere {
        Some(home) => format!("`{key}` is a key of {}", header(home)),
        None if table.is_empty() => format!("the tables are {}", here.join(", ")),
        None => format!("{} has the keys {}", header(table), here.join(", ")),
    }
}

/// The key of `table` that is `key` but for a typing mistake.
pub(super) fn near(table: &str, key: &str) -> Option<&'static str> {
    nearest(key, children(table).into_iter())
}

/// The word of `words` that is `text` but for a typing mistake.
pub(crate) fn nearest<'a>(text: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const LONGEST: usize = 64;
    if text.len() > LONGEST {
        return None;
    }
    words
        .map(|word| (distance(text, word), word))
        .filter(|(distance, word)| *distance <= (word.len() / 3).max(1))
        .min()
        .map(|(_, word)| word)
}

/// Names directly below `table`, in the order of [`PATHS`] and [`FUTURE`].
fn children(table: &str) -> Vec<&'static str> {
    let mut names: Vec<&str> = every()
        .filter_map(|path| match table {
            "" => Some(path),
            _ => path.strip_prefix(table)?.strip_prefix('.'),
        })
        .filter_map(|rest| rest.split('.').next())
        .collect();
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(*name));
    names
}

/// A table as its header is written.
fn header(table: &str) -> String {
    if is_list(table) {
        format!("[[{table}]]")
    } else {
        format!("[{table}]")
    }
}

/// Levenshtein distance in characters; case counts as no difference.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.to_lowercase().chars().enumerate() {
        let mut left = i + 1;
        let mut next = vec![left];
        for (y, pair) in b.iter().zip(row.windows(2)) {
            let [diagonal, above] = pair else { continue };
            left = (diagonal + usize::from(x != *y))
                .min(above + 1)
                .min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expect) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("Period", "period", 0),
            ("stat-dir", "state-dir", 1),
        ] {
            assert_eq!(distance(a, b), expect, "{a} {b}");
        }
    }

    #[test]
    fn tables_and_keys_are_known_prefixes_of_names_are_not() {
        assert!(known("alerts.syslog"));
        assert!(known("alerts.syslog.format"));
        assert!(!known("alerts.sys"));
        assert!(!known("nftables.mode=include"));
    }

    #[test]
    fn suggestions() {
        assert_eq!(suggest("feed", "perod"), "did you mean `period`?");
        assert_eq!(suggest("daemon", "state_dir"), "did you mean `state-dir`?");
        assert_eq!(suggest("", "feeds"), "did you mean `feed`?");
        assert_eq!(
            suggest("alerts", "facility"),
            "`facility` is a key of [[alerts.syslog]]"
        );
        assert_eq!(
            suggest("arm", "zzzzzz"),
            "[arm] has the keys after, max-share"
        );
    }
}
