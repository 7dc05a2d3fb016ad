//! Readers of the structured formats. Each one turns a text and its options into the same
//! [`Parsed`](super::Parsed) as the plain reader, by the same rules for what an entry may be.
//!
//! A record's port and score are not read: entries have neither.

mod csv;
mod json;

pub use csv::{Column, CsvOptions, RecordSize, parse_csv};
pub use json::{JsonPath, JsonPathError, parse_json, parse_jsonl};

use super::{
    collect::{Collector, Line},
    token::{Class, classify},
};

/// Takes the value of one record.
fn take(line: Line<'_>, value: &[u8], out: &mut Collector<'_>) {
    let value = value.trim_ascii();
    if value.is_empty() {
        return out.bad(line, "the value is empty");
    }
    match classify(value) {
        Class::Prefix(prefix, host_bits) => out.entry(line, prefix, host_bits),
        Class::NotAddress(what) => out.not_address(line, what),
        Class::Bad(why) => out.bad(line, why),
    }
}
