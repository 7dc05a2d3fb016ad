//! From a body as it was pulled or pushed to entries that may be enforced.

use std::time::SystemTime;

use super::{
    FeedData, Limits, Parsed, Refusal,
    collect::without_mark,
    formats::{CrowdsecState, JsonPath, parse_csv, parse_json, parse_jsonl, parse_stix},
    judge, parse_plain, refuse_body, unpack,
};
use crate::config::{Feed, Format};

/// Unpacks `bytes`, reads them in the feed's format and judges the whole against `previous`, the
/// last good data. `now` decides what has run out.
///
/// An error leaves the last good data in force. One that
/// [can be accepted](Refusal::can_be_accepted) goes away with `previous` = `None`.
///
/// A pushed feed (one without a URL) of format plain may also be a document `{"ips": [...]}`. For
/// format crowdsec, `bytes` is the answer to `startup=true`; deltas need a [`CrowdsecState`].
pub fn read(
    bytes: &[u8],
    feed: &Feed,
    now: SystemTime,
    previous: Option<&FeedData>,
) -> Result<Parsed, Refusal> {
    let limits = Limits::from(feed);
    let text = unpack(bytes, &limits)?;
    refuse_body(&text, &limits)?;
    let parsed = match feed.format {
        Format::Plain if feed.url.is_none() && is_document(&text) => {
            parse_json(&text, &pushed_path()?.into(), &limits)?
        }
        Format::Plain => parse_plain(&text, &limits),
        Format::Csv => parse_csv(&text, &feed.csv, &limits)?,
        Format::Json => parse_json(&text, &feed.json, &limits)?,
        Format::Jsonl => parse_jsonl(&text, &feed.json, &limits)?,
        Format::Stix => parse_stix(&text, now, &limits)?,
        Format::Crowdsec => {
            let mut state = CrowdsecState::default();
            state.apply(&text, now, &limits)?;
            state.parsed(now, &limits)
        }
    };
    judge(parsed, &text, &limits, previous)
}

fn is_document(text: &[u8]) -> bool {
    without_mark(text).trim_ascii_start().starts_with(b"{")
}

/// Where Calico's pushed feeds have their addresses.
fn pushed_path() -> Result<JsonPath, Refusal> {
    "$.ips"
        .parse()
        .map_err(|_| Refusal::NoPath { format: "plain" })
}
