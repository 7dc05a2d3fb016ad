//! JSON documents and JSON lines, with a JSONPath (RFC 9535) to the entries.
//!
//! What the path matches must be text. An array it matches stands for its items, one level deep,
//! since Calico's `$.ips` means the same as RFC 9535's `$.ips[*]`.

use std::{borrow::Cow, fmt, str::FromStr};

use serde_json::Value;

use super::{MAX_MEMORY, document, memory, take};
use crate::feed::{
    Limits, Parsed, Refusal,
    collect::{Collector, Extra, Line, without_mark},
    date,
    plain::score,
};

/// Where the entries of a document are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JsonOptions {
    /// What leads to the entries: their texts, arrays of them, or, with `address`, objects.
    pub path: Option<JsonPath>,
    /// The member of a matched object that holds the address.
    pub address: Option<String>,
    /// The member with the port.
    pub port: Option<String>,
    /// The member with the score.
    pub score: Option<String>,
    /// The member with a word for the entry.
    pub tag: Option<String>,
}

impl From<JsonPath> for JsonOptions {
    fn from(path: JsonPath) -> Self {
        Self {
            path: Some(path),
            ..Self::default()
        }
    }
}

/// A path to the entries of a document, or of each line.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(serde_json_path::JsonPath);

/// The text is no JSONPath.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a JSONPath: {0}; it starts with $, as in $.ips[*] (RFC 9535)")]
pub struct JsonPathError(String);

impl FromStr for JsonPath {
    type Err = JsonPathError;

    fn from_str(text: &str) -> Result<Self, JsonPathError> {
        let parsed = serde_json_path::JsonPath::parse(text);
        parsed
            .map(Self)
            .map_err(|error| JsonPathError(error.to_string()))
    }
}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Reads one document. Refused lines are numbered by their place among the matches.
pub fn parse_json(text: &[u8], options: &JsonOptions, limits: &Limits) -> Result<Parsed, Refusal> {
    let Some(path) = &options.path else {
        return Err(Refusal::NoPath { format: "json" });
    };
    let text = without_mark(text);
    let mut out = Collector::new(limits, 0);
    if text.trim_ascii().is_empty() {
        return Ok(out.finish());
    }
    let document = document(text)?;
    super::warninglist::refuse(&document)?;
    let matches = path.0.query(&document);
    for (index, value) in matches.iter().flat_map(|value| items(value)).enumerate() {
        options.take(value, index + 1, &mut out);
        if out.full() {
            break;
        }
    }
    Ok(out.finish())
}

/// Reads one document a line; blank lines are skipped. An object with `"type": "metadata"` says how
/// many there are and when they were written (Spamhaus). Any other line in which the path matches
/// nothing counts as one without address.
pub fn parse_jsonl(text: &[u8], options: &JsonOptions, limits: &Limits) -> Result<Parsed, Refusal> {
    let Some(path) = &options.path else {
        return Err(Refusal::NoPath { format: "jsonl" });
    };
    let text = without_mark(text);
    let mut out = Collector::new(limits, 0);
    for (index, text) in text.split(|b| *b == b'\n').enumerate() {
        let line = Line {
            number: index + 1,
            text,
        };
        options.read_line(line, path, &mut out);
        if out.full() {
            break;
        }
    }
    Ok(out.finish())
}

impl JsonOptions {
    fn read_line(&self, line: Line<'_>, path: &JsonPath, out: &mut Collector<'_>) {
        let text = line.text.trim_ascii();
        if text.is_empty() {
            return;
        }
        if memory(text) > MAX_MEMORY {
            return out.bad(line, "too many values in one line");
        }
        let Ok(document) = serde_json::from_slice::<Value>(text) else {
            return out.bad(line, "not JSON");
        };
        if document.get("type").and_then(Value::as_str) == Some("metadata") {
            return metadata(&document, out);
        }
        let matches = path.0.query(&document);
        if matches.is_empty() {
            return out.not_address(line, "the path matches nothing");
        }
        for value in matches.iter().flat_map(|value| items(value)) {
            self.take(value, line.number, out);
            if out.full() {
                break;
            }
        }
    }

    fn take(&self, value: &Value, number: usize, out: &mut Collector<'_>) {
        let member = |key: &Option<String>| value.get(key.as_deref()?);
        let (address, extra) = match &self.address {
            None => (Some(value), Extra::default()),
            Some(_) => {
                let port = member(&self.port).filter(|port| !port.is_null());
                let port = match port.map(|port| plain(port).parse()) {
                    None => None,
                    Some(Ok(port)) => Some(port),
                    Some(Err(_)) => return out.bad(shown(number, value), "not a port"),
                };
                let extra = Extra {
                    port,
                    score: member(&self.score).and_then(|value| score(plain(value).as_bytes())),
                    tag: member(&self.tag).and_then(Value::as_str).map(str::as_bytes),
                };
                (member(&self.address), extra)
            }
        };
        match address {
            Some(Value::String(text)) => {
                let text = text.as_bytes();
                take(Line { number, text }, text, extra, out);
            }
            Some(other) => out.bad(shown(number, other), "the path must lead to text"),
            None => out.bad(shown(number, value), "no member of that name"),
        }
    }
}

/// What stands for a value in a message: its text may be large.
fn shown(number: usize, value: &Value) -> Line<'static> {
    Line {
        number,
        text: kind(value).as_bytes(),
    }
}

fn metadata(document: &Value, out: &mut Collector<'_>) {
    let number = |key| document.get(key).and_then(Value::as_u64);
    if let Some(records) = number("records").and_then(|records| usize::try_from(records).ok()) {
        out.declare(records);
    }
    if let Some(time) = number("timestamp").and_then(date::unix) {
        out.made_at(time);
    }
}

/// A text without its quotes, or a number.
fn plain(value: &Value) -> Cow<'_, str> {
    match value {
        Value::String(text) => Cow::Borrowed(text.trim()),
        Value::Number(number) => Cow::Owned(number.to_string()),
        _ => Cow::Borrowed(""),
    }
}

/// A match, or the items of a matched array.
fn items(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) => items,
        other => std::slice::from_ref(other),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: impl AsRef<[u8]>, path: &str) -> Result<Parsed, Refusal> {
        let path: JsonPath = path.parse().unwrap();
        parse_json(text.as_ref(), &path.into(), &Limits::default())
    }

    fn read_lines(text: impl AsRef<[u8]>, path: &str) -> Parsed {
        let path: JsonPath = path.parse().unwrap();
        parse_jsonl(text.as_ref(), &path.into(), &Limits::default()).unwrap()
    }

    fn entries(parsed: &Parsed) -> Vec<String> {
        let entries = parsed.entries.iter();
        entries.map(|entry| entry.prefix.to_string()).collect()
    }

    #[test]
    fn a_path_into_objects() {
        let text = include_bytes!("../../../tests/fixtures/formats/c2.json");
        let parsed = read(text, "$[*].ip_address").unwrap();
        assert_eq!(entries(&parsed), ["192.0.2.103", "198.51.100.3"]);
        let parsed = read(text, "$[?@.status == 'online'].ip_address").unwrap();
        assert_eq!(entries(&parsed), ["198.51.100.3"]);
    }

    #[test]
    fn a_matched_array_stands_for_its_items() {
        let text = include_bytes!("../../../tests/fixtures/formats/warninglist.json");
        for path in ["$.list", "$.list[*]"] {
            let parsed = read(text, path).unwrap();
            assert_eq!(
                entries(&parsed),
                ["192.0.2.0/24", "2001:db8::/32", "198.51.100.1"]
            );
        }
        let parsed = read("{\"ips\": [[\"192.0.2.1\"]]}", "$.ips").unwrap();
        assert_eq!(parsed.bad.examples[0].text, "an array");
    }

    #[test]
    fn what_is_no_address_is_counted() {
        let text =
            r#"{"ips": ["192.0.2.1", 7, null, "", "a.example", "192.0.2.1:80", " 192.0.2.2 "]}"#;
        let parsed = read(text, "$.ips").unwrap();
        assert_eq!(entries(&parsed), ["192.0.2.1", "192.0.2.2"]);
        assert_eq!((parsed.bad.count, parsed.not_address.count), (3, 1));
        assert_eq!(parsed.bound.len(), 1);
        assert_eq!(
            parsed.bad.examples[0].to_string(),
            "line 2: a number (the path must lead to text)"
        );
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for text in ["{", "192.0.2.1\n192.0.2.2", "[1,]", &"[".repeat(100_000)] {
            let refusal = read(text, "$").unwrap_err();
            assert!(matches!(refusal, Refusal::NotJson { .. }), "{refusal}");
        }
        assert_eq!(read(" \n", "$").unwrap(), Parsed::default());
        assert_eq!(read("{}", "$.ips").unwrap(), Parsed::default());
    }

    #[test]
    fn too_many_values_are_not_even_read() {
        let text = format!("[{}0]", "{},".repeat(800_000));
        let refusal = read(&text, "$").unwrap_err();
        assert!(matches!(refusal, Refusal::TooManyValues), "{refusal}");
        assert_eq!(read_lines(&text, "$").bad.count, 1);
    }

    #[test]
    fn lines_with_metadata_at_the_end() {
        let text = include_bytes!("../../../tests/fixtures/formats/drop.jsonl");
        let parsed = read_lines(text, "$.cidr");
        assert_eq!(
            entries(&parsed),
            ["192.0.2.0/25", "2001:db8::/32", "198.51.100.0/24"]
        );
        assert_eq!((parsed.lines(), parsed.declared), (3, Some(3)));
        assert!(parsed.updated.is_some());
        let parsed = read_lines("{\"cidr\":\"192.0.2.1\"}\r\n\r\noops\r\n", "$.cidr");
        assert_eq!(entries(&parsed), ["192.0.2.1"]);
        assert_eq!(
            parsed.bad.examples[0].to_string(),
            "line 3: oops (not JSON)"
        );
    }

    #[test]
    fn paths_that_are_none() {
        for text in ["", "ips", "$.", "$[", "{.ips}"] {
            assert!(text.parse::<JsonPath>().is_err(), "{text}");
        }
        assert_eq!(
            "$.ips[*]".parse::<JsonPath>().unwrap().to_string(),
            "$.ips[*]"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(text: Vec<u8>) {
            let _ = read(&text, "$..*");
            read_lines(&text, "$..*");
        }

        #[test]
        fn any_near_miss_is_survived(text in "[0-9a.:,\"\\[\\]{}\\n ]{0,100}") {
            let _ = read(&text, "$..*");
            read_lines(&text, "$..*");
        }

        #[test]
        fn print_then_parse_is_identity(addrs: Vec<std::net::IpAddr>) {
            let text = serde_json::json!({ "ips": addrs }).to_string();
            let parsed = read(text, "$.ips").unwrap();
            let hosts: Vec<_> = addrs.into_iter().map(crate::prefix::Prefix::host).collect();
            let read: Vec<_> = parsed.entries.iter().map(|entry| entry.prefix).collect();
            prop_assert_eq!(read, hosts);
        }
    }
}
