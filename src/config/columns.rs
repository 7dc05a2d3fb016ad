//! `[feed.csv]` and `[feed.json]`: where the entries of a structured text are.

use toml::de::DeValue;

use super::{
    log::Log,
    read::Table,
    value::{self, Problem},
};
use crate::feed::formats::{Column, CsvOptions, JsonOptions, JsonPath, JsonPathError, RecordSize};

/// The columns of a CSV feed; `None` when the table is not written. One that is written counts as
/// a whole: nothing of a preset's table is left.
pub(super) fn csv(log: &mut Log<'_>, feed: &Table<'_>) -> Option<CsvOptions> {
    if !feed.has("csv") {
        return None;
    }
    let table = feed.table(log, "csv");
    let usual = CsvOptions::default();
    let number = table.read(log, "field-num", value::integer(0..=usize::MAX));
    let name = table.read(log, "field-name", value::label);
    let header = table.read(log, "header", value::boolean);
    let size = table.read(log, "record-size", value::integer(1..=usize::MAX));
    let any_size = table.read(log, "disable-record-size-validation", value::boolean);
    exclusive(log, &table, "field-num", "field-name");
    if any_size == Some(true) {
        exclusive(log, &table, "record-size", "disable-record-size-validation");
    }
    if name.is_some() && header == Some(false) {
        let problem = Problem::new("a column is found by its name only in a header");
        let problem = problem.help("set header = true, or use field-num");
        log.error(&table.path("header"), table.place("header"), problem);
    }
    let record_size = match (size, any_size) {
        (_, Some(true)) => RecordSize::Any,
        (Some(size), _) => RecordSize::Exactly(size),
        (None, _) => usual.record_size,
    };
    let named = name.is_some();
    Some(CsvOptions {
        column: match (name, number) {
            (Some(name), _) => Column::Name(name),
            (None, Some(number)) => Column::Number(number),
            (None, None) => usual.column,
        },
        header: header.unwrap_or(named),
        delimiter: table.read_or(log, "column-delimiter", delimiter, usual.delimiter),
        comment: table.read_or(log, "comment-delimiter", comment, usual.comment),
        record_size,
        port: table.read(log, "port-column", column),
        score: table.read(log, "score-column", column),
        tag: table.read(log, "tag-column", column),
        only: table.map(log, "only", column_name, value::label),
    })
}

/// The members of a JSON feed; `None` when the table is not written.
pub(super) fn json(log: &mut Log<'_>, feed: &Table<'_>) -> Option<JsonOptions> {
    if !feed.has("json") {
        return None;
    }
    let table = feed.table(log, "json");
    let address = table.read(log, "address-key", value::label);
    for key in ["port-key", "score-key", "tag-key"] {
        if table.has(key) && !table.has("address-key") {
            let problem = Problem::new("needs address-key")
                .help("a path to objects, and address-key for the member with the address");
            log.error(&table.path(key), table.place(key), problem);
        }
    }
    Some(JsonOptions {
        path: table.read(log, "path", path),
        address,
        port: table.read(log, "port-key", value::label),
        score: table.read(log, "score-key", value::label),
        tag: table.read(log, "tag-key", value::label),
    })
}

fn exclusive(log: &mut Log<'_>, table: &Table<'_>, first: &str, second: &str) {
    if table.has(first) && table.has(second) {
        let problem = Problem::new(format!("excludes {first}")).help("keep one of them");
        log.error(&table.path(second), table.place(second), problem);
    }
}

fn path(value: &DeValue<'_>) -> Result<JsonPath, Problem> {
    value::text(value)?
        .parse()
        .map_err(|error: JsonPathError| Problem::new(error.to_string()))
}

/// A column by name, or by number from 0.
fn column(value: &DeValue<'_>) -> Result<Column, Problem> {
    match value {
        DeValue::Integer(_) => value::integer(0..=usize::MAX)(value).map(Column::Number),
        DeValue::String(_) => value::label(value).map(|name| Column::from(name.as_str())),
        _ => Err(Problem::expected(
            "the name or the number of a column",
            value,
        )),
    }
}

fn column_name(name: &str) -> Result<String, Problem> {
    if name.is_empty() || name.len() > 256 || name.chars().any(char::is_control) {
        return Err(Problem::new("not the name of a column"));
    }
    Ok(name.to_owned())
}

/// One ASCII character that cannot be taken for another part of a record.
fn delimiter(value: &DeValue<'_>) -> Result<u8, Problem> {
    match value::text(value)?.as_bytes() {
        [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r' | 0) => Ok(*byte),
        _ => Err(Problem::new(
            "must be one ASCII character, and no quote or line end",
        )),
    }
}

/// One ASCII character, or nothing for no comments.
fn comment(value: &DeValue<'_>) -> Result<Option<u8>, Problem> {
    match value.as_str() {
        Some("") => Ok(None),
        _ => delimiter(value).map(Some),
    }
}
