//! Readers of the structured formats. Each one turns a text and its options into the same
//! [`Parsed`](super::Parsed) as the plain reader, by the same rules for what an entry may be.

mod crowdsec;
mod csv;
mod go;
mod json;
mod pattern;
mod stix;
mod warninglist;

pub use crowdsec::{Change, CrowdsecState};
pub use csv::{Column, CsvOptions, RecordSize, parse_csv};
pub use go::parse_duration as parse_go_duration;
pub use json::{JsonOptions, JsonPath, JsonPathError, parse_json, parse_jsonl};
pub use stix::parse_stix;
pub use warninglist::{Warninglist, parse_warninglist};

use super::{
    Refusal,
    collect::{Collector, Extra, Line, printable},
    token::classify,
};

/// Memory a JSON document may take, in bytes, as [`memory`] estimates it. `{},` takes two hundred
/// times its text, so that the size of the text alone bounds nothing.
const MAX_MEMORY: usize = 512 << 20;

/// Characters of an error text that are shown.
const SHOWN: usize = 200;

/// Takes the value of one record.
fn take(line: Line<'_>, value: &[u8], extra: Extra<'_>, out: &mut Collector<'_>) {
    let value = value.trim_ascii();
    if value.is_empty() {
        return out.bad(line, "the value is empty");
    }
    out.class(line, classify(value), extra);
}

/// Reads one JSON document; refuses what would take too much memory as values.
fn document(text: &[u8]) -> Result<serde_json::Value, Refusal> {
    if memory(text) > MAX_MEMORY {
        return Err(Refusal::TooManyValues);
    }
    serde_json::from_slice(text).map_err(|error| not_json(&error))
}

/// At least the memory that the values of `text` take, in bytes: an object is a B-tree node of 632
/// bytes, and another one for every five keys or more; a value in a growing array has twice its 32
/// bytes; strings are no longer than their text.
fn memory(text: &[u8]) -> usize {
    let values = text.iter().map(|b| match b {
        b'{' => 640,
        b',' | b':' | b'[' => 64,
        _ => 1,
    });
    values.fold(64, usize::saturating_add)
}

fn not_json(error: &serde_json::Error) -> Refusal {
    Refusal::NotJson {
        cause: printable(error.to_string().as_bytes(), SHOWN),
    }
}
