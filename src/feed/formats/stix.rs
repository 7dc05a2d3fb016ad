//! Indicators of a STIX 2.0 or 2.1 bundle, or of a TAXII 2.1 envelope.

use std::{collections::HashMap, time::SystemTime};

use serde_json::Value;

use super::{document, pattern};
use crate::feed::{
    Limits, Parsed, Refusal,
    collect::{Collector, Extra, Line, without_mark},
    date,
    token::{Class, classify},
};

/// Reads the indicators that are in force at `now`. Of objects with the same id, the one modified
/// last counts. The confidence is the score, the name the tag. Refused lines are numbered by their
/// place among the objects.
pub fn parse_stix(text: &[u8], now: SystemTime, limits: &Limits) -> Result<Parsed, Refusal> {
    let text = without_mark(text);
    let mut out = Collector::new(limits, 0);
    if text.trim_ascii().is_empty() {
        return Ok(out.finish());
    }
    let document = document(text)?;
    if document.get("more").and_then(Value::as_bool) == Some(true) {
        return Err(Refusal::FirstPage);
    }
    for (number, object) in newest(objects(&document)?) {
        indicator(object, number, now, &mut out);
        if out.full() {
            break;
        }
    }
    Ok(out.finish())
}

/// The objects of a bundle, or of an envelope, which has none when there is nothing to tell.
fn objects(document: &Value) -> Result<&[Value], Refusal> {
    let bundle = document.get("type").and_then(Value::as_str) == Some("bundle");
    match (document, document.get("objects")) {
        (_, Some(Value::Array(objects))) => Ok(objects),
        (Value::Object(members), None) if bundle || members.is_empty() => Ok(&[]),
        _ => Err(Refusal::NotJson {
            cause: "a STIX bundle or TAXII envelope has \"objects\"".to_owned(),
        }),
    }
}

/// The newest version of each indicator with its number, in the order of the text.
fn newest(objects: &[Value]) -> Vec<(usize, &Value)> {
    let mut by_id: HashMap<&str, (usize, &Value)> = HashMap::new();
    let mut nameless = Vec::new();
    let indicators = objects
        .iter()
        .enumerate()
        .filter(|(_, object)| text(object, "type") == Some("indicator"));
    for (index, object) in indicators {
        let Some(id) = text(object, "id") else {
            nameless.push((index + 1, object));
            continue;
        };
        let version = (index + 1, object);
        let kept = by_id.entry(id).or_insert(version);
        if modified(object) >= modified(kept.1) {
            *kept = version;
        }
    }
    let mut newest: Vec<(usize, &Value)> = by_id.into_values().chain(nameless).collect();
    newest.sort_unstable_by_key(|(number, _)| *number);
    newest
}

fn indicator(object: &Value, number: usize, now: SystemTime, out: &mut Collector<'_>) {
    let pattern_text = text(object, "pattern").unwrap_or_default();
    let line = Line {
        number,
        text: pattern_text.as_bytes(),
    };
    // STIX 2.0 knows no other type.
    if !matches!(text(object, "pattern_type"), None | Some("stix")) {
        return out.not_address(line, "a pattern of another language");
    }
    let addresses = match pattern::parse(pattern_text) {
        pattern::Pattern::Addresses(addresses) => addresses,
        pattern::Pattern::Other => return out.not_address(line, "a pattern without addresses"),
        pattern::Pattern::Condition => return out.unsupported(),
        pattern::Pattern::Malformed => return out.bad(line, "not a STIX pattern"),
    };
    match in_force(object, now, out) {
        Some(true) => {}
        Some(false) => return out.expired(),
        None => return out.bad(line, "a time that is none"),
    }
    if is_benign(object) {
        return out.filtered();
    }
    let score = object.get("confidence").and_then(Value::as_u64);
    let extra = Extra {
        port: None,
        score: score.and_then(|score| u32::try_from(score).ok()),
        tag: text(object, "name").map(str::as_bytes),
    };
    for address in &addresses {
        match classify(address.trim().as_bytes()) {
            // A value that is no address is a mistake, not a name to be left out.
            Class::NotAddress(_) => out.bad(line, "not an IP address"),
            class => out.class(line, class, extra),
        }
        if out.full() {
            break;
        }
    }
}

/// True when the indicator is about what is known to be good (STIX 2.1, vocabulary
/// indicator-type-ov): it must never be denied.
fn is_benign(object: &Value) -> bool {
    let types = object.get("indicator_types").and_then(Value::as_array);
    types.is_some_and(|types| !types.is_empty() && types.iter().all(|word| word == "benign"))
}

/// Whether an indicator counts at `now`; `None` when its times cannot be read.
fn in_force(object: &Value, now: SystemTime, out: &mut Collector<'_>) -> Option<bool> {
    if object.get("revoked").and_then(Value::as_bool) == Some(true) {
        return Some(false);
    }
    let time = |key| {
        text(object, key)
            .map(|time| date::parse(time).ok_or(()))
            .transpose()
    };
    let from = time("valid_from").ok()?;
    let until = time("valid_until").ok()?;
    if until.is_some_and(|until| until <= now) {
        return Some(false);
    }
    if let Some(from) = from.filter(|from| *from > now) {
        out.changes_at(from);
        return Some(false);
    }
    until.into_iter().for_each(|until| out.changes_at(until));
    Some(true)
}

fn modified(object: &Value) -> Option<SystemTime> {
    date::parse(text(object, "modified").or(text(object, "created"))?)
}

fn text<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get(key)?.as_str()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// 2024-02-01.
    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_706_745_600)
    }

    fn read(text: impl AsRef<[u8]>) -> Result<Parsed, Refusal> {
        parse_stix(text.as_ref(), now(), &Limits::default())
    }

    fn bundle(objects: &[Value]) -> String {
        serde_json::json!({"type": "bundle", "objects": objects}).to_string()
    }

    fn object(extra: Value) -> Value {
        let mut object = serde_json::json!({
            "type": "indicator", "id": "indicator--1", "pattern_type": "stix",
            "pattern": "[ipv4-addr:value = '192.0.2.1']", "modified": "2024-01-01T00:00:00.5Z"
        });
        for (key, value) in extra.as_object().unwrap() {
            object[key] = value.clone();
        }
        object
    }

    #[test]
    fn the_newest_version_counts() {
        let old = object(serde_json::json!({}));
        let new =
            object(serde_json::json!({"modified": "2024-01-01T00:00:00.6Z", "revoked": true}));
        for objects in [[old.clone(), new.clone()], [new, old]] {
            let parsed = read(bundle(&objects)).unwrap();
            assert_eq!((parsed.count(), parsed.left_out.expired), (0, 1));
        }
    }

    #[test]
    fn validity() {
        for (times, counts, next) in [
            (
                serde_json::json!({"valid_until": "2024-02-01T00:00:00Z"}),
                0,
                None,
            ),
            (
                serde_json::json!({"valid_until": "2024-02-01T00:00:09.2Z"}),
                1,
                Some(9),
            ),
            (
                serde_json::json!({"valid_from": "2024-02-01T00:00:07Z"}),
                0,
                Some(7),
            ),
            (
                serde_json::json!({"valid_from": "2024-02-01T00:00:00Z"}),
                1,
                None,
            ),
        ] {
            let parsed = read(bundle(&[object(times.clone())])).unwrap();
            assert_eq!(parsed.count(), counts, "{times}");
            let next = next.map(Duration::from_secs);
            let found = parsed
                .next_expiry
                .map(|at| at.duration_since(now()).unwrap());
            assert_eq!(
                found.map(|at| at.as_secs()),
                next.map(|at| at.as_secs()),
                "{times}"
            );
        }
        let parsed = read(bundle(&[object(
            serde_json::json!({"valid_until": "soon"}),
        )]))
        .unwrap();
        assert_eq!(parsed.bad.count, 1);
    }

    #[test]
    fn what_is_benign_is_left_out() {
        for (types, entries) in [
            (serde_json::json!(["benign"]), 0),
            (serde_json::json!(["malicious-activity"]), 1),
            (serde_json::json!([]), 1),
        ] {
            let object = object(serde_json::json!({ "indicator_types": types }));
            let parsed = read(bundle(&[object])).unwrap();
            assert_eq!(parsed.count(), entries, "{types}");
            assert_eq!(parsed.left_out.filtered, 1 - entries);
        }
    }

    #[test]
    fn envelopes() {
        assert_eq!(read("{}").unwrap(), Parsed::default());
        let text = serde_json::json!({"more": false, "objects": [object(serde_json::json!({}))]});
        assert_eq!(read(text.to_string()).unwrap().count(), 1);
        let text = serde_json::json!({"more": true, "next": "2", "objects": []});
        assert_eq!(read(text.to_string()), Err(Refusal::FirstPage));
        for text in ["[]", "{\"title\": \"not found\"}", "192.0.2.1"] {
            assert!(matches!(read(text), Err(Refusal::NotJson { .. })), "{text}");
        }
    }

    #[test]
    fn other_languages_are_no_addresses() {
        let sigma = object(serde_json::json!({"pattern_type": "sigma", "pattern": "192.0.2.1"}));
        assert_eq!(read(bundle(&[sigma])).unwrap().not_address.count, 1);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(text: Vec<u8>) {
            let _ = read(text);
        }

        #[test]
        fn any_pattern_is_survived(pattern in ".{0,60}", id in "[ab]?", time in "20[0-9-]{8}T[0-9:]{8}Z") {
            let object = object(serde_json::json!({"pattern": pattern, "id": id, "valid_from": time}));
            let _ = read(bundle(&[object]));
        }
    }
}
