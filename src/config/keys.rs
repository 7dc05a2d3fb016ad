//! Every key of the configuration, and whether this version acts on it.
//!
//! A row is a path without indexes. A feature that becomes real flips its row from [`off`] to [`on`].

/// One row.
struct Row {
    path: &'static str,
    in_effect: bool,
}

const fn on(path: &'static str) -> Row {
    Row {
        path,
        in_effect: true,
    }
}

#[allow(dead_code)] // goes with the warning that it stands for
const fn off(path: &'static str) -> Row {
    Row {
        path,
        in_effect: false,
    }
}

const ROWS: &[Row] = &[
    on("daemon.state-dir"),
    on("daemon.control-socket"),
    on("daemon.on-daemon-down"),
    on("daemon.selftest"),
    on("nftables.mode"),
    on("nftables.family"),
    on("nftables.table"),
    on("nftables.owner"),
    on("nftables.hooks"),
    on("nftables.queue-first"),
    on("nftables.queue-count"),
    on("nftables.queue-max-len"),
    on("nftables.mark-mask"),
    on("nftables.cut-mask"),
    on("nftables.deny-with"),
    on("nftables.on-queue-full"),
    on("exceptions.prefixes"),
    on("exceptions.files"),
    on("exceptions.own-addresses"),
    on("exceptions.private-networks"),
    on("pull.proxy"),
    on("pull.ca-files"),
    on("pull.connect-timeout"),
    on("pull.total-timeout"),
    on("feed.name"),
    on("feed.preset"),
    on("feed.url"),
    on("feed.action"),
    on("feed.directions"),
    on("feed.period"),
    on("feed.stale-after"),
    on("feed.expire-after"),
    on("feed.format"),
    on("feed.csv.field-num"),
    on("feed.csv.field-name"),
    on("feed.csv.header"),
    on("feed.csv.column-delimiter"),
    on("feed.csv.comment-delimiter"),
    on("feed.csv.record-size"),
    on("feed.csv.disable-record-size-validation"),
    on("feed.csv.port-column"),
    on("feed.csv.score-column"),
    on("feed.csv.tag-column"),
    on("feed.csv.only"),
    on("feed.json.path"),
    on("feed.json.address-key"),
    on("feed.json.port-key"),
    on("feed.json.score-key"),
    on("feed.json.tag-key"),
    on("feed.min-score"),
    on("feed.deny-score"),
    on("feed.origin"),
    on("feed.labels"),
    on("feed.severity"),
    on("feed.headers"),
    on("feed.enabled"),
    on("feed.max-entries"),
    on("feed.max-bytes"),
    on("feed.max-shrink"),
    on("feed.max-growth"),
    on("feed.max-bad"),
    on("feed.allow-empty"),
    on("feed.min-prefix4"),
    on("feed.min-prefix6"),
    on("consensus.deny-at"),
    on("attribution.timeout"),
    on("attribution.clients"),
    on("host.labels"),
    on("arm.after"),
    on("alerts.suppress"),
    on("alerts.scan-after"),
    on("alerts.rate-limit"),
    on("alerts.durable"),
    on("alerts.json-file"),
    on("alerts.json-format"),
    on("alerts.store"),
    on("alerts.store-max-age"),
    on("alerts.store-max-size"),
    on("alerts.flow-log"),
    on("alerts.flow-log-aggregation"),
    on("alerts.syslog.address"),
    on("alerts.syslog.format"),
    on("alerts.syslog.facility"),
    on("alerts.syslog.queue"),
    on("alerts.syslog.spool"),
    on("alerts.syslog.ca-file"),
    on("alerts.syslog.cert-file"),
    on("alerts.syslog.key-file"),
    on("metrics.listen"),
    on("manifests.dir"),
    on("manifests.secrets-dir"),
];

/// True when `path` is a key, or a table that holds keys.
pub(super) fn known(path: &str) -> bool {
    paths().any(|known| {
        known
            .strip_prefix(path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

/// True when this version acts on `path`. A table is always in effect.
pub(super) fn in_effect(path: &str) -> bool {
    ROWS.iter()
        .find(|row| row.path == path)
        .is_none_or(|row| row.in_effect)
}

/// Paths of all keys.
pub(super) fn paths() -> impl Iterator<Item = &'static str> {
    ROWS.iter().map(|row| row.path)
}

/// What to say about `key`, which table `table` does not have.
pub(super) fn suggest(table: &str, key: &str) -> String {
    if let Some(near) = near(table, key) {
        return format!("did you mean `{near}`?");
    }
    let here = children(table);
    let elsewhere = paths().find_map(|path| {
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

/// Names directly below `table`, in the order of [`ROWS`].
fn children(table: &str) -> Vec<&'static str> {
    let mut names: Vec<&str> = paths()
        .filter_map(|path| match table {
            "" => Some(path),
            _ => path.strip_prefix(table)?.strip_prefix('.'),
        })
        .filter_map(|rest| rest.split('.').next())
        .collect();
    names.dedup();
    names
}

/// A table as its header is written.
fn header(table: &str) -> String {
    match table {
        "feed" | "alerts.syslog" => format!("[[{table}]]"),
        _ => format!("[{table}]"),
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
        assert_eq!(suggest("arm", "zzzzzz"), "[arm] has the keys after");
    }
}
