//! `spec` of a GlobalThreatFeed.

use std::time::Duration;

use url::Url;

use super::{
    Content, FeedPull, FeedType, Header, HeaderSource, KeyRef, PullFormat, ThreatFeedSpec,
    cursor::Table,
    envelope::{label_key, label_value},
    kind::is_name,
    log::{Log, Problem},
    scalar,
    tree::{Node, short},
};
use crate::feed::formats::{
    Column, CsvOptions, JsonPath, JsonPathError, RecordSize, parse_go_duration,
};

pub(super) const FIELDS: [&str; 6] = [
    "content",
    "mode",
    "description",
    "feedType",
    "globalNetworkSet",
    "pull",
];
pub(super) const CSV: [&str; 7] = [
    "fieldNum",
    "fieldName",
    "header",
    "columnDelimiter",
    "commentDelimiter",
    "recordSize",
    "disableRecordSizeValidation",
];
/// Time between pulls where none is written.
pub(super) const PERIOD: Duration = Duration::from_secs(24 * 3600);
/// The shortest time between pulls.
const SHORTEST: Duration = Duration::from_secs(5 * 60);
/// The longest: what the configuration allows.
const LONGEST: Duration = Duration::from_secs(315_576_000);

pub(super) fn read(log: &mut Log, root: &Table<'_, '_>) -> ThreatFeedSpec {
    let usual = ThreatFeedSpec {
        content: Content::default(),
        is_enabled: true,
        description: None,
        feed_type: FeedType::default(),
        network_set: None,
        pull: None,
    };
    let Some(spec) = root.table(log, "spec", &FIELDS) else {
        return usual;
    };
    let content = content(log, &spec);
    let mode = [("Enabled", true), ("Disabled", false)];
    let feed_type = [("Custom", FeedType::Custom), ("Builtin", FeedType::Builtin)];
    ThreatFeedSpec {
        content,
        is_enabled: spec
            .read(log, "mode", |node| scalar::word(node, &mode))
            .unwrap_or(usual.is_enabled),
        description: spec.read(log, "description", description),
        feed_type: spec
            .read(log, "feedType", |node| scalar::word(node, &feed_type))
            .unwrap_or_default(),
        network_set: network_set(log, &spec, content),
        pull: pull(log, &spec),
    }
}

fn content(log: &mut Log, spec: &Table<'_, '_>) -> Content {
    let words = [
        ("IPSet", Content::IpSet),
        ("DomainNameSet", Content::DomainNameSet),
    ];
    let content = spec.read(log, "content", |node| scalar::word(node, &words));
    if content == Some(Content::DomainNameSet) {
        let problem = Problem::new("feedgate matches addresses only");
        let problem = problem.help("names in this feed are skipped; its addresses are taken");
        spec.warning(log, "content", problem);
    }
    content.unwrap_or_default()
}

fn description(node: &Node<'_>) -> Result<String, Problem> {
    const LONGEST: usize = 256;
    let text = scalar::text(node)?;
    let length = text.chars().count();
    if length > LONGEST {
        let problem = Problem::new(format!(
            "must have at most {LONGEST} characters, has {length}"
        ));
        return Err(problem.help("shorten it"));
    }
    Ok(text.to_owned())
}

fn network_set(
    log: &mut Log,
    spec: &Table<'_, '_>,
    content: Content,
) -> Option<std::collections::BTreeMap<String, String>> {
    let table = spec.table(log, "globalNetworkSet", &["labels"])?;
    if content != Content::IpSet {
        let problem = Problem::new("only with content IPSet");
        spec.error(
            log,
            "globalNetworkSet",
            problem.help("remove it, or set content: IPSet"),
        );
    }
    if !spec.has("pull") {
        let problem = Problem::new("only with pull");
        spec.error(
            log,
            "globalNetworkSet",
            problem.help("remove it, or add pull.http.url"),
        );
    }
    Some(table.texts(log, "labels", label_key, label_value))
}

fn pull(log: &mut Log, spec: &Table<'_, '_>) -> Option<FeedPull> {
    let pull = spec.table(log, "pull", &["period", "http"])?;
    let period = pull.read(log, "period", period);
    if !pull.has("http") {
        pull.missing(
            log,
            "http",
            "add http with a url, or remove pull to push the feed",
        );
    }
    let http = pull.table(log, "http", &["url", "headers", "format"])?;
    let headers = headers(log, &http);
    let format = format(log, &http);
    let url = http.require(log, "url", "add url: https://HOST/PATH", url)?;
    Some(FeedPull {
        period: period.unwrap_or(PERIOD),
        url,
        headers,
        format,
    })
}

fn period(node: &Node<'_>) -> Result<Duration, Problem> {
    const HELP: &str = "write numbers and units as Go does, such as 24h, 1h30m or 5m";
    let text = scalar::text(node).map_err(|problem| problem.help(HELP))?;
    let parsed = parse_go_duration(text)
        .ok_or_else(|| Problem::new(format!("{} is not a duration", short(text))).help(HELP))?;
    match parsed {
        (false, period) if period > LONGEST => Err(Problem::new("must be at most 87660h")),
        (false, period) if period >= SHORTEST => Ok(period),
        _ => Err(Problem::new("must be at least 5m").help("that is Calico's shortest")),
    }
}

/// `http` or `https`. No message quotes it, it may hold credentials.
fn url(node: &Node<'_>) -> Result<Url, Problem> {
    const SCHEMES: &str = "write https://HOST/PATH or http://HOST/PATH";
    let text = scalar::text(node)?;
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Problem::new("a URL has no spaces or control characters"));
    }
    let url = Url::parse(text)
        .map_err(|error| Problem::new(format!("not a URL: {error}")).help(SCHEMES))?;
    match url.scheme() {
        "http" | "https" if text.contains("://") => Ok(url),
        "http" | "https" => Err(Problem::new("not a URL: no // behind the scheme").help(SCHEMES)),
        _ => Err(Problem::new("the scheme must be https or http").help(SCHEMES)),
    }
}

fn headers(log: &mut Log, http: &Table<'_, '_>) -> Vec<Header> {
    let mut headers: Vec<Header> = Vec::new();
    for table in http.tables(log, "headers", &["name", "value", "valueFrom"]) {
        let name = table.require(log, "name", "add the header's name", header_name);
        let value = header_source(log, &table);
        let (Some(name), Some(value)) = (name, value) else {
            continue;
        };
        if headers
            .iter()
            .any(|header| header.name.eq_ignore_ascii_case(&name))
        {
            let problem = Problem::new("this header is there twice");
            table.error(log, "name", problem.help("keep one of them"));
        }
        headers.push(Header { name, value });
    }
    headers
}

/// A field name (RFC 9110 section 5.1).
fn header_name(node: &Node<'_>) -> Result<String, Problem> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let name = scalar::text(node)?;
    if !name.is_empty() && name.bytes().all(token) {
        Ok(name.to_owned())
    } else {
        Err(Problem::new("not the name of an HTTP header")
            .help("use letters, digits and dashes, such as Authorization"))
    }
}

/// No message quotes a value: it is often a secret.
fn header_source(log: &mut Log, table: &Table<'_, '_>) -> Option<HeaderSource> {
    let (value, from) = (table.has("value"), table.has("valueFrom"));
    if value && from {
        let problem = Problem::new("excludes value").help("keep one of them");
        table.error(log, "valueFrom", problem);
        return None;
    }
    if from {
        return value_from(log, table);
    }
    let help = "add value, or valueFrom for one in a file";
    table.require(log, "value", help, |node| {
        // `scalar::text` quotes what is no text.
        let text = scalar::text(node).map_err(|problem| Problem {
            help: Some("quote it".to_owned()),
            ..problem
        })?;
        // What field-value allows (RFC 9110 section 5.5) but for obsolete bytes above 127.
        if text.chars().all(|c| c == '\t' || (' '..='~').contains(&c)) {
            Ok(HeaderSource::Value(text.to_owned()))
        } else {
            Err(Problem::new(
                "the value of a header has no control characters and only ASCII",
            ))
        }
    })
}

fn value_from(log: &mut Log, table: &Table<'_, '_>) -> Option<HeaderSource> {
    let from = table.table(log, "valueFrom", &["secretKeyRef", "configMapKeyRef"])?;
    let (secret, map) = (from.has("secretKeyRef"), from.has("configMapKeyRef"));
    match (secret, map) {
        (true, true) => {
            let problem = Problem::new("excludes secretKeyRef").help("keep one of them");
            from.error(log, "configMapKeyRef", problem);
            None
        }
        (true, false) => key_ref(log, &from, "secretKeyRef").map(HeaderSource::Secret),
        (false, true) => key_ref(log, &from, "configMapKeyRef").map(HeaderSource::ConfigMap),
        (false, false) => {
            from.missing(log, "secretKeyRef", "add secretKeyRef or configMapKeyRef");
            None
        }
    }
}

fn key_ref(log: &mut Log, from: &Table<'_, '_>, key: &str) -> Option<KeyRef> {
    let table = from.table(log, key, &["name", "key", "optional"])?;
    let optional = table.read(log, "optional", scalar::boolean);
    let name = table.require(
        log,
        "name",
        "add the name of the folder below secrets-dir",
        |node| {
            let name = scalar::text(node)?;
            // Neither `..` nor a slash gets through.
            if is_name(name) {
                return Ok(name.to_owned());
            }
            let problem = Problem::new(format!("{} is not a name", short(name)));
            Err(problem.help("a name has lower-case letters, digits, - and ."))
        },
    );
    let key = table.require(
        log,
        "key",
        "add the name of the file in that folder",
        file_name,
    );
    Some(KeyRef {
        name: name?,
        key: key?,
        optional: optional.unwrap_or(false),
    })
}

/// A key of a secret, as Kubernetes allows it; on a host a file's name.
fn file_name(node: &Node<'_>) -> Result<String, Problem> {
    let key = scalar::text(node)?;
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let good = (1..=253).contains(&key.len()) && key.bytes().all(inner) && !key.starts_with("..");
    if good && key != "." {
        return Ok(key.to_owned());
    }
    let problem = Problem::new(format!("{} is not a key", short(key)));
    Err(problem.help("a key has letters, digits, -, _ and ., and does not begin with .."))
}

fn format(log: &mut Log, http: &Table<'_, '_>) -> PullFormat {
    const WORDS: [&str; 3] = ["newlineDelimited", "json", "csv"];
    let Some(format) = http.table(log, "format", &WORDS) else {
        return PullFormat::Lines;
    };
    let written: Vec<&str> = format
        .fields()
        .filter(|field| WORDS.contains(field))
        .collect();
    if let [first, others @ ..] = written.as_slice() {
        for other in others {
            let problem = Problem::new(format!("excludes {first}")).help("keep one of them");
            format.error(log, other, problem);
        }
    }
    let _ = format.table(log, "newlineDelimited", &[]);
    let json = format.table(log, "json", &["path"]).and_then(|json| {
        json.require(
            log,
            "path",
            "add path: $.ips[*], the path to the entries",
            |node| {
                let path: Result<JsonPath, JsonPathError> = scalar::text(node)?.parse();
                path.map_err(|error| Problem::new(error.to_string()))
            },
        )
    });
    let csv = csv(log, &format);
    match (json, csv) {
        (Some(path), _) => PullFormat::Json(path),
        (None, Some(csv)) => PullFormat::Csv(csv),
        (None, None) => PullFormat::Lines,
    }
}

fn csv(log: &mut Log, format: &Table<'_, '_>) -> Option<CsvOptions> {
    let table = format.table(log, "csv", &CSV)?;
    let usual = CsvOptions::default();
    let number = table.read(log, "fieldNum", size);
    let name = table.read(log, "fieldName", |node| match scalar::text(node)? {
        "" => Err(Problem::new("must not be empty")),
        name => Ok(name.to_owned()),
    });
    let header = table
        .read(log, "header", scalar::boolean)
        .unwrap_or(usual.header);
    let any_size = table.read(log, "disableRecordSizeValidation", scalar::boolean) == Some(true);
    let record_size = table.read(log, "recordSize", |node| match size(node)? {
        0 => Err(Problem::new("must be at least 1")),
        size => Ok(size),
    });
    exclusive(log, &table, "fieldNum", "fieldName");
    if any_size {
        exclusive(log, &table, "recordSize", "disableRecordSizeValidation");
    }
    if table.has("fieldName") && !header {
        let problem = Problem::new("a column is found by its name only in a header");
        table.error(
            log,
            "fieldName",
            problem.help("add header: true, or use fieldNum"),
        );
    }
    let delimiter = table.read(log, "columnDelimiter", delimiter);
    let comment = table.read(log, "commentDelimiter", delimiter_of_comments);
    let delimiter = delimiter.unwrap_or(usual.delimiter);
    let comment = comment.unwrap_or(usual.comment);
    if comment == Some(delimiter) {
        let problem = Problem::new("is also the columnDelimiter");
        table.error(
            log,
            "commentDelimiter",
            problem.help("use another character"),
        );
    }
    Some(CsvOptions {
        column: match (name, number) {
            (Some(name), _) => Column::Name(name),
            (None, Some(number)) => Column::Number(number),
            (None, None) => usual.column.clone(),
        },
        header,
        delimiter,
        comment,
        record_size: match (any_size, record_size) {
            (true, _) => RecordSize::Any,
            (false, Some(size)) => RecordSize::Exactly(size),
            (false, None) => usual.record_size,
        },
        ..usual
    })
}

fn exclusive(log: &mut Log, table: &Table<'_, '_>, first: &str, second: &str) {
    if table.has(first) && table.has(second) {
        let problem = Problem::new(format!("excludes {first}")).help("keep one of them");
        table.error(log, second, problem);
    }
}

fn size(node: &Node<'_>) -> Result<usize, Problem> {
    // More columns than that no record has.
    const MOST: u64 = 65_536;
    let number = scalar::integer(node)?;
    usize::try_from(number)
        .ok()
        .filter(|_| number <= MOST)
        .ok_or_else(|| Problem::new(format!("must be at most {MOST}")))
}

/// One ASCII character that cannot be taken for another part of a record.
fn delimiter(node: &Node<'_>) -> Result<u8, Problem> {
    match scalar::text(node)?.as_bytes() {
        [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r' | 0) => Ok(*byte),
        _ => Err(Problem::new(
            "must be one ASCII character, and no quote or line end",
        )),
    }
}

/// The same, or nothing for no comments.
fn delimiter_of_comments(node: &Node<'_>) -> Result<Option<u8>, Problem> {
    match scalar::text(node)? {
        "" => Ok(None),
        _ => delimiter(node).map(Some),
    }
}
