//! The effective configuration as TOML that parses back to the same value.

use std::{collections::BTreeMap, fmt::Write as _, path::Path, time::Duration};

use super::{
    Config, Feed, HeaderValue, Proxy, SyslogAddress, SyslogTarget,
    words::{self, Words},
};
use crate::feed::{
    Direction, Scope,
    formats::{Column, CsvOptions, JsonOptions, RecordSize},
};
use crate::visible::escape;

/// `config` as TOML, every key of this version with its value.
///
/// Holds what the file holds, secrets included: credentials in URLs and header values.
pub fn to_toml(config: &Config) -> String {
    let mut out = Printer::default();

    let daemon = &config.daemon;
    out.table("[daemon]");
    out.path("state-dir", &daemon.state_dir);
    out.path("control-socket", &daemon.control_socket);
    out.word(
        "on-daemon-down",
        words::ON_DAEMON_DOWN,
        daemon.on_daemon_down,
    );
    out.plain("selftest", daemon.selftest);
    out.word("log-level", words::LOG_LEVELS, daemon.log_level);

    let nftables = &config.nftables;
    out.table("[nftables]");
    out.word("mode", words::MODES, nftables.mode);
    out.text("family", &nftables.family);
    out.text("table", &nftables.table);
    out.plain("owner", nftables.owner);
    out.list("hooks", &nftables.hooks, |hook| {
        words::print(words::HOOKS, *hook).to_owned()
    });
    out.plain("queue-first", nftables.queue_first);
    out.plain("queue-count", nftables.queue_count);
    out.plain("queue-max-len", nftables.queue_max_len);
    out.text("mark-mask", &format!("{:#010x}", nftables.mark_mask));
    out.text("cut-mask", &format!("{:#010x}", nftables.cut_mask));
    out.word("deny-with", words::DENY_WITH, nftables.deny_with);
    out.word(
        "on-queue-full",
        words::ON_QUEUE_FULL,
        nftables.on_queue_full,
    );
    out.list(
        "nat64-prefixes",
        &nftables.nat64_prefixes,
        ToString::to_string,
    );

    let exceptions = &config.exceptions;
    out.table("[exceptions]");
    out.list("prefixes", &exceptions.prefixes, ToString::to_string);
    out.list("files", &exceptions.files, |file| {
        file.display().to_string()
    });
    out.plain("own-addresses", exceptions.own_addresses);
    out.plain("alert-found", exceptions.alert_found);
    out.word(
        "private-networks",
        words::PRIVATE_NETWORKS,
        exceptions.private_networks,
    );

    let pull = &config.pull;
    out.table("[pull]");
    out.text(
        "proxy",
        match &pull.proxy {
            Proxy::Environment => "environment",
            Proxy::Direct => "none",
            Proxy::Url(url) => url.as_str(),
        },
    );
    out.list("ca-files", &pull.ca_files, |file| {
        file.display().to_string()
    });
    out.duration("connect-timeout", pull.connect_timeout);
    out.duration("total-timeout", pull.total_timeout);

    for feed in &config.feeds {
        out.feed(feed);
    }

    out.table("[consensus]");
    out.plain("deny-at", config.consensus.deny_at);

    let attribution = &config.attribution;
    out.table("[attribution]");
    out.duration("timeout", attribution.timeout);
    out.map("clients", &attribution.clients, |name| quote(name));

    if !config.host.labels.is_empty() {
        out.table("[host]");
        out.map("labels", &config.host.labels, |label| quote(label));
    }

    out.table("[arm]");
    out.duration("after", config.arm.after);
    out.plain("max-share", share(config.arm.max_share));

    let alerts = &config.alerts;
    out.table("[alerts]");
    out.duration("suppress", alerts.suppress);
    out.plain("scan-after", alerts.scan_after);
    out.plain("rate-limit", alerts.rate_limit);
    out.plain("rate-limit-ingress", alerts.rate_limit_ingress);
    out.plain("durable", alerts.durable);
    out.path_or_none("json-file", alerts.json_file.as_deref());
    out.word("json-format", words::JSON_FORMATS, alerts.json_format);
    let store = &alerts.store;
    out.text("store", store.file.as_deref().unwrap_or_default());
    out.duration("store-max-age", store.max_age);
    out.text("store-max-size", &size(store.max_size));
    let flow_log = &alerts.flow_log;
    out.path_or_none("flow-log", flow_log.file.as_deref());
    out.plain("flow-log-aggregation", flow_log.aggregation);
    if alerts.syslog.is_empty() {
        out.plain("syslog", "[]");
    }
    for target in &alerts.syslog {
        out.target(target);
    }

    if let Some(listen) = config.metrics.listen {
        out.table("[metrics]");
        out.text("listen", &listen.to_string());
    }

    let manifests = &config.manifests;
    out.table("[manifests]");
    out.path_or_none("dir", manifests.dir.as_deref());
    out.path("secrets-dir", &manifests.secrets_dir);
    out.done
}

/// A duration as `humantime` reads it, in units that do not surprise: `24h`, not `1day`.
fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if duration.subsec_nanos() != 0 {
        humantime::format_duration(duration).to_string()
    } else if seconds != 0 && seconds.is_multiple_of(3600) {
        format!("{}h", seconds / 3600)
    } else if seconds != 0 && seconds.is_multiple_of(60) {
        format!("{}m", seconds / 60)
    } else {
        format!("{seconds}s")
    }
}

/// Bytes in the largest binary unit that divides them.
fn size(bytes: u64) -> String {
    [("GiB", 30), ("MiB", 20), ("KiB", 10)]
        .into_iter()
        .find(|(_, shift)| bytes.is_multiple_of(1 << shift))
        .map_or_else(
            || format!("{bytes}B"),
            |(unit, shift)| format!("{}{unit}", bytes >> shift),
        )
}

/// A percentage where that is exact, else the shortest number that is.
fn share(share: f64) -> String {
    let percent = (share * 1e6).round() / 1e4;
    if percent / 100.0 == share {
        format!("\"{percent}%\"")
    } else {
        format!("{share:?}")
    }
}

/// A basic string (TOML 1.0, section String).
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c => match escape(c) {
                Some(escaped) => out.push_str(&escaped),
                None => out.push(c),
            },
        }
    }
    out.push('"');
    out
}

/// Writes `key = value` lines.
#[derive(Default)]
struct Printer {
    done: String,
}

impl Printer {
    fn feed(&mut self, feed: &Feed) {
        let directions: &[Direction] = match feed.scope {
            Scope::Both => &[Direction::Egress, Direction::Ingress],
            Scope::Out => &[Direction::Egress],
            Scope::In => &[Direction::Ingress],
        };
        self.table("[[feed]]");
        self.text("name", feed.name.as_str());
        if let Some(preset) = feed.preset {
            self.text("preset", preset.name);
        }
        match &feed.url {
            Some(url) => self.text("url", url.as_str()),
            None => self.note("no url: the feed is pushed"),
        }
        self.word("action", words::ACTIONS, feed.action);
        self.list("directions", directions, ToString::to_string);
        self.duration("period", feed.period);
        self.duration("stale-after", feed.stale_after);
        match feed.expire_after {
            Some(age) => self.duration("expire-after", age),
            None => self.text("expire-after", "never"),
        }
        self.word("format", words::FORMATS, feed.format);
        if let Some(score) = feed.min_score {
            self.plain("min-score", score);
        }
        if let Some(score) = feed.deny_score {
            self.plain("deny-score", score);
        }
        if let Some(origin) = &feed.origin {
            self.text("origin", origin);
        }
        self.map("labels", &feed.labels, |label| quote(label));
        self.word("severity", words::SEVERITIES, feed.severity);
        self.map("headers", &feed.headers, |value| match value {
            HeaderValue::Text(text) => quote(text),
            HeaderValue::File(path) | HeaderValue::OptionalFile(path) => {
                format!("{{ file = {} }}", quote(&path.to_string_lossy()))
            }
        });
        self.plain("enabled", feed.enabled);
        self.plain("max-entries", feed.max_entries);
        self.text("max-bytes", &size(feed.max_bytes));
        self.plain("max-shrink", share(feed.max_shrink));
        self.text("max-growth", &format!("{}x", feed.max_growth));
        self.plain("max-share", share(feed.max_share));
        self.plain("max-bad", share(feed.max_bad));
        self.plain("allow-empty", feed.allow_empty);
        self.plain("min-prefix4", feed.min_prefix4);
        self.plain("min-prefix6", feed.min_prefix6);
        // A table that is written counts as a whole, so one that says nothing stays out, unless a
        // preset would fill it.
        if feed.preset.is_some() || feed.csv != CsvOptions::default() {
            self.csv(&feed.csv);
        }
        if feed.preset.is_some() || feed.json != JsonOptions::default() {
            self.json(&feed.json);
        }
    }

    fn csv(&mut self, csv: &CsvOptions) {
        self.table("[feed.csv]");
        match &csv.column {
            Column::Number(number) => self.plain("field-num", number),
            Column::Name(name) => self.text("field-name", name),
        }
        self.plain("header", csv.header);
        self.text("column-delimiter", &char::from(csv.delimiter).to_string());
        let comment = csv.comment.map(char::from).map(String::from);
        self.text("comment-delimiter", &comment.unwrap_or_default());
        match csv.record_size {
            RecordSize::First => self.plain("disable-record-size-validation", false),
            RecordSize::Exactly(size) => self.plain("record-size", size),
            RecordSize::Any => self.plain("disable-record-size-validation", true),
        }
        for (key, column) in [
            ("port-column", &csv.port),
            ("score-column", &csv.score),
            ("tag-column", &csv.tag),
        ] {
            match column {
                Some(Column::Number(number)) => self.plain(key, number),
                Some(Column::Name(name)) => self.text(key, name),
                None => {}
            }
        }
        self.map("only", &csv.only, |value| quote(value));
    }

    fn json(&mut self, json: &JsonOptions) {
        self.table("[feed.json]");
        if let Some(path) = &json.path {
            self.text("path", &path.to_string());
        }
        for (key, member) in [
            ("address-key", &json.address),
            ("port-key", &json.port),
            ("score-key", &json.score),
            ("tag-key", &json.tag),
        ] {
            if let Some(member) = member {
                self.text(key, member);
            }
        }
    }

    fn target(&mut self, target: &SyslogTarget) {
        self.table("[[alerts.syslog]]");
        self.text("address", &target.address.to_string());
        self.word("format", words::SYSLOG_FORMATS, target.format);
        self.text("facility", target.facility.name);
        self.plain("queue", target.queue);
        match target.spool {
            0 => self.plain("spool", 0),
            bytes => self.text("spool", &size(bytes)),
        }
        for (key, file) in [
            ("ca-file", &target.tls.ca),
            ("cert-file", &target.tls.cert),
            ("key-file", &target.tls.key),
        ] {
            // Elsewhere they are mistakes.
            if matches!(target.address, SyslogAddress::Tls(_)) {
                self.path_or_none(key, file.as_deref());
            }
        }
    }

    fn table(&mut self, header: &str) {
        if !self.done.is_empty() {
            self.done.push('\n');
        }
        self.done.push_str(header);
        self.done.push('\n');
    }

    fn plain(&mut self, key: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.done, "{key} = {value}");
    }

    fn note(&mut self, text: &str) {
        let _ = writeln!(self.done, "# {text}");
    }

    fn text(&mut self, key: &str, value: &str) {
        self.plain(key, quote(value));
    }

    fn path(&mut self, key: &str, value: &Path) {
        self.text(key, &value.to_string_lossy());
    }

    fn path_or_none(&mut self, key: &str, value: Option<&Path>) {
        self.path(key, value.unwrap_or(Path::new("")));
    }

    fn duration(&mut self, key: &str, value: Duration) {
        self.text(key, &duration(value));
    }

    fn word<T: PartialEq>(&mut self, key: &str, words: Words<T>, value: T) {
        self.text(key, words::print(words, value));
    }

    fn list<T>(&mut self, key: &str, items: &[T], print: impl Fn(&T) -> String) {
        let items: Vec<String> = items.iter().map(|item| quote(&print(item))).collect();
        self.plain(key, format!("[{}]", items.join(", ")));
    }

    fn map<T>(&mut self, key: &str, map: &BTreeMap<String, T>, print: impl Fn(&T) -> String) {
        let pairs: Vec<String> = map
            .iter()
            .map(|(name, value)| format!("{} = {}", quote(name), print(value)))
            .collect();
        let inner = pairs.join(", ");
        if inner.is_empty() {
            self.plain(key, "{}");
        } else {
            self.plain(key, format!("{{ {inner} }}"));
        }
    }
}
