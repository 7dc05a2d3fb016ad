//! `feedgate describe`: a resource for people.
#![allow(clippy::indexing_slicing)] // a missing key of a serde_json value reads as null

use serde_json::Value;

use super::{ask, table::visible};

/// Columns of the keys at the top.
const KEYS: usize = 14;

/// The head as kubectl has it, then every field by name.
pub(super) fn render(item: &Value) -> String {
    let object = &item["object"];
    let meta = &object["metadata"];
    let mut out = String::new();
    line(&mut out, "Name", ask::text(&meta["name"]));
    pairs(&mut out, "Labels", &meta["labels"], "=");
    pairs(&mut out, "Annotations", &meta["annotations"], ": ");
    line(&mut out, "API Version", ask::text(&object["apiVersion"]));
    line(&mut out, "Kind", ask::text(&object["kind"]));
    for owner in meta["ownerReferences"].as_array().into_iter().flatten() {
        let (kind, name) = (ask::text(&owner["kind"]), ask::text(&owner["name"]));
        line(&mut out, "Kept by", &format!("{kind} {name}"));
    }
    for key in ["spec", "status"] {
        if object[key].is_object() {
            out.push_str(&format!("{}:\n", title(key)));
            tree(&mut out, &object[key], 1);
        }
    }
    out
}

fn line(out: &mut String, key: &str, value: &str) {
    let key = format!("{key}:");
    out.push_str(&format!("{key:<KEYS$}{}\n", visible(value)));
}

fn pairs(out: &mut String, key: &str, map: &Value, between: &str) {
    let pairs = map.as_object().into_iter().flatten();
    let mut key = key;
    let mut any = false;
    for (name, value) in pairs {
        let text = format!("{name}{between}{}", ask::text(value));
        if any {
            out.push_str(&format!("{:KEYS$}{}\n", "", visible(&text)));
        } else {
            line(out, key, &text);
        }
        key = "";
        any = true;
    }
    if !any {
        line(out, key, "<none>");
    }
}

fn tree(out: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let key = title(key);
                match scalar(value) {
                    Some(text) => out.push_str(&format!("{indent}{key}:  {text}\n")),
                    None => {
                        out.push_str(&format!("{indent}{key}:\n"));
                        tree(out, value, depth + 1);
                    }
                }
            }
        }
        Value::Array(list) => {
            for (number, value) in list.iter().enumerate() {
                match scalar(value) {
                    Some(text) => out.push_str(&format!("{indent}{text}\n")),
                    None => {
                        out.push_str(&format!("{indent}- {}:\n", number + 1));
                        tree(out, value, depth + 2);
                    }
                }
            }
        }
        other => out.push_str(&format!("{indent}{other}\n")),
    }
}

/// On the line of its key; `None` when it takes lines of its own.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Object(map) if map.is_empty() => Some("{}".to_owned()),
        Value::Array(list) if list.is_empty() => Some("<none>".to_owned()),
        Value::Object(_) | Value::Array(_) => None,
        Value::String(text) => Some(visible(text)),
        other => Some(other.to_string()),
    }
}

/// `lastSuccessfulSync` as `Last Successful Sync`; keys that are no such word stay as they are.
fn title(key: &str) -> String {
    if !key.chars().all(|c| c.is_ascii_alphanumeric()) {
        return visible(key);
    }
    let mut out = String::new();
    for (at, c) in key.chars().enumerate() {
        if at == 0 {
            out.extend(c.to_uppercase());
        } else {
            if c.is_ascii_uppercase() {
                out.push(' ');
            }
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_resource_is_told_field_by_field() {
        let item = json!({ "object": {
            "apiVersion": "projectcalico.org/v3", "kind": "GlobalThreatFeed",
            "metadata": { "name": "f", "labels": { "a": "b", "c": "d" } },
            "spec": { "pull": { "http": { "url": "https://example.net/\u{1b}[2J" } }, "list": ["x", { "k": 1 }] },
            "status": { "lastSuccessfulSync": "2026-01-01T00:00:00Z", "errorConditions": [] },
        }});
        assert_eq!(
            render(&item),
            "Name:         f\n\
             Labels:       a=b\n\
             \x20             c=d\n\
             Annotations:  <none>\n\
             API Version:  projectcalico.org/v3\n\
             Kind:         GlobalThreatFeed\n\
             Spec:\n\
             \x20 List:\n\
             \x20   x\n\
             \x20   - 2:\n\
             \x20       K:  1\n\
             \x20 Pull:\n\
             \x20   Http:\n\
             \x20     Url:  https://example.net/?[2J\n\
             Status:\n\
             \x20 Error Conditions:  <none>\n\
             \x20 Last Successful Sync:  2026-01-01T00:00:00Z\n"
        );
    }
}
