//! `[[feed]]`, key by key.

use std::{collections::BTreeMap, time::Duration};

use toml::de::DeValue;

use super::{
    Feed, Format, HeaderValue, address, columns,
    defaults::stale_after,
    diagnostic::Related,
    keys,
    log::Log,
    read::Table,
    sections::label_name,
    value::{self, LONGEST, Problem, quoted},
    words,
};
use crate::feed::{Direction, FeedName, NameError, Preset, Scope, presets};

const MINUTE: Duration = Duration::from_secs(60);

/// All feeds that are right; a wrong one is reported, and so is a name's second use.
pub(super) fn feeds(log: &mut Log<'_>, root: &Table<'_>) -> Vec<Feed> {
    let tables = root.tables(log, "feed").unwrap_or_default();
    let mut first: BTreeMap<FeedName, &Table<'_>> = BTreeMap::new();
    let mut feeds = Vec::new();
    for table in &tables {
        let Some(feed) = feed(log, table) else {
            continue;
        };
        if feed.name.as_str() == FeedName::SELFTEST {
            let problem = Problem::new("is the name that alerts of a self-test have");
            let problem = problem.help("give the feed another name");
            log.error(&table.path("name"), table.place("name"), problem);
        }
        if let Some(other) = first.get(&feed.name) {
            same_name(log, table, other, &feed.name);
            continue;
        }
        first.insert(feed.name.clone(), table);
        feeds.push(feed);
    }
    feeds
}

fn same_name(log: &mut Log<'_>, table: &Table<'_>, first: &Table<'_>, name: &FeedName) {
    let problem = Problem::new(format!(
        "\"{name}\" is also the name of {}",
        first.path("name").trim_end_matches(".name")
    ))
    .help("each feed needs a name of its own");
    let related = Related {
        message: "first used here".to_owned(),
        span: first.place("name"),
    };
    log.error_with(&table.path("name"), table.place("name"), problem, related);
}

/// One feed. `None` when it has no good name; everything else falls back to its default.
fn feed(log: &mut Log<'_>, table: &Table<'_>) -> Option<Feed> {
    let name = table.require(log, "name", "add name = \"...\"", |value| {
        value::text(value)?
            .parse()
            .map_err(|error: NameError| Problem::new(error.to_string()))
    });
    let preset = table.read(log, "preset", preset);
    // The other keys of a nameless feed are judged all the same.
    let usual = usual(name.clone(), preset)?;
    let period = table.read_or(
        log,
        "period",
        value::duration(MINUTE..=LONGEST),
        usual.period,
    );
    let stale_after = match preset {
        Some(preset) if period == usual.period => preset.stale_after(),
        _ => stale_after(period),
    };
    let format = table.read_or(log, "format", value::word(words::FORMATS), usual.format);
    let feed = Feed {
        preset,
        period,
        url: table.read(log, "url", address::url).or(usual.url),
        format,
        csv: columns::csv(log, table).unwrap_or(usual.csv),
        json: columns::json(log, table).unwrap_or(usual.json),
        min_score: table
            .read(log, "min-score", value::integer(0..=u32::MAX))
            .or(usual.min_score),
        deny_score: table.read(log, "deny-score", value::integer(0..=u32::MAX)),
        origin: table.read(log, "origin", value::label).or(usual.origin),
        action: table.read_or(log, "action", value::word(words::ACTIONS), usual.action),
        scope: table
            .set(log, "directions", value::word(words::DIRECTIONS))
            .map_or(usual.scope, |directions| scope(&directions)),
        stale_after: table.read_or(
            log,
            "stale-after",
            value::duration(MINUTE..=LONGEST),
            stale_after,
        ),
        expire_after: table.read_or(
            log,
            "expire-after",
            value::duration_or_never(MINUTE..=LONGEST),
            usual.expire_after,
        ),
        severity: table.read_or(
            log,
            "severity",
            value::word(words::SEVERITIES),
            usual.severity,
        ),
        labels: table.map(log, "labels", label_name, value::label),
        headers: table.map(log, "headers", header_name, header_value),
        enabled: table.read_or(log, "enabled", value::boolean, usual.enabled),
        max_entries: table.read_or(
            log,
            "max-entries",
            value::integer(1..=usize::MAX),
            usual.max_entries,
        ),
        max_bytes: table.read_or(log, "max-bytes", value::size, usual.max_bytes),
        max_shrink: table.read_or(log, "max-shrink", value::share, usual.max_shrink),
        max_growth: table.read_or(log, "max-growth", value::growth, usual.max_growth),
        max_share: table.read_or(log, "max-share", value::share, usual.max_share),
        max_bad: table.read_or(log, "max-bad", value::share, usual.max_bad),
        allow_empty: table
            .read(log, "allow-empty", value::boolean)
            // A stream says by id what is gone: no decisions left is an answer, not a failure.
            .unwrap_or(usual.allow_empty || format == Format::Crowdsec),
        min_prefix4: table.read_or(
            log,
            "min-prefix4",
            value::integer(0..=32),
            usual.min_prefix4,
        ),
        min_prefix6: table.read_or(
            log,
            "min-prefix6",
            value::integer(0..=128),
            usual.min_prefix6,
        ),
        name: usual.name,
    };
    judge(log, table, &feed);
    name.is_some().then_some(feed)
}

/// What a feed is where nothing is written.
fn usual(name: Option<FeedName>, preset: Option<&'static Preset>) -> Option<Feed> {
    let name = name.or_else(|| "nameless".parse().ok())?;
    Some(match preset {
        Some(preset) => preset.feed(name),
        None => Feed::new(name),
    })
}

/// What only several keys together can get wrong.
fn judge(log: &mut Log<'_>, table: &Table<'_>, feed: &Feed) {
    if let (Some(least), Some(deny)) = (feed.min_score, feed.deny_score)
        && deny < least
    {
        let problem = match table.has("min-score") {
            true => Problem::new("must not be below min-score"),
            false => Problem::new(format!("must not be below min-score ({least})")),
        };
        let place = table.place("deny-score");
        log.error(&table.path("deny-score"), place, problem);
    }
    if matches!(feed.format, Format::Json | Format::Jsonl) && feed.json.path.is_none() {
        let problem = Problem::new("needs the path to the addresses")
            .help("add path = \"$...\" in a table [feed.json] below this feed");
        log.error(&table.path("format"), table.place("format"), problem);
    }
}

/// A preset by its name.
fn preset(value: &DeValue<'_>) -> Result<&'static Preset, Problem> {
    let name = value::text(value)?;
    if let Some(preset) = Preset::find(name) {
        return Ok(preset);
    }
    let names = || presets().iter().map(|preset| preset.name);
    let problem = Problem::new(format!(
        "{} is not a preset; known are {}",
        quoted(name),
        names().collect::<Vec<_>>().join(", ")
    ));
    Err(match keys::nearest(name, names()) {
        Some(near) => problem.help(format!("did you mean {near:?}?")),
        None => problem.help("write url, format and period for a feed without a preset"),
    })
}

fn scope(directions: &[Direction]) -> Scope {
    match directions {
        [Direction::Egress] => Scope::Out,
        [Direction::Ingress] => Scope::In,
        _ => Scope::Both,
    }
}

/// A field name (RFC 9110 section 5.1), in lower case: names differ by more than their case.
fn header_name(name: &str) -> Result<String, Problem> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if !name.is_empty() && name.bytes().all(token) {
        Ok(name.to_ascii_lowercase())
    } else {
        Err(Problem::new("not the name of an HTTP header")
            .help("use letters, digits and dashes, such as Authorization"))
    }
}

/// A text, or `{ file = "PATH" }`. No message quotes the value: it is often a secret.
fn header_value(value: &DeValue<'_>) -> Result<HeaderValue, Problem> {
    match value {
        DeValue::String(text) => {
            // What field-value allows (RFC 9110 section 5.5) but for obsolete bytes above 127.
            if text.chars().all(|c| c == '\t' || (' '..='~').contains(&c)) {
                Ok(HeaderValue::Text(text.to_string()))
            } else {
                Err(Problem::new(
                    "the value of a header has no control characters and only ASCII",
                ))
            }
        }
        DeValue::Table(table) => match (table.len(), table.get("file")) {
            (1, Some(file)) => value::path(file.get_ref()).map(HeaderValue::File),
            _ => Err(Problem::new("expected { file = \"PATH\" }")),
        },
        _ => Err(Problem::expected("a text or { file = \"PATH\" }", value)),
    }
}
