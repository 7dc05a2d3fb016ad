//! A JSON value as YAML in block style. Texts that could be read as anything else stand in quotes.

use serde_json::Value;

use crate::visible::escape;

/// The value as a YAML document, with a newline at its end.
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => block(&mut out, value, 0),
        Value::Array(list) if !list.is_empty() => block(&mut out, value, 0),
        flat => {
            out.push_str(&scalar(flat));
            out.push('\n');
        }
    }
    out
}

/// A map or list that is not empty, in lines of its own.
fn block(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                indent(out, depth);
                pair(out, key, value, depth);
            }
        }
        Value::Array(list) => {
            for value in list {
                indent(out, depth);
                out.push_str("- ");
                item(out, value, depth);
            }
        }
        _ => {}
    }
}

/// `key: value`, the indent being there. Lists stand below their key without a further indent.
fn pair(out: &mut String, key: &str, value: &Value, depth: usize) {
    out.push_str(&text(key));
    out.push(':');
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            block(out, value, depth + 1);
        }
        Value::Array(list) if !list.is_empty() => {
            out.push('\n');
            block(out, value, depth);
        }
        flat => {
            out.push(' ');
            out.push_str(&scalar(flat));
            out.push('\n');
        }
    }
}

/// What stands behind a dash.
fn item(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (number, (key, value)) in map.iter().enumerate() {
                if number > 0 {
                    indent(out, depth + 1);
                }
                pair(out, key, value, depth + 1);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            // A list in a list begins on a line of its own.
            out.pop();
            out.push('\n');
            block(out, value, depth + 1);
        }
        flat => {
            out.push_str(&scalar(flat));
            out.push('\n');
        }
    }
}

fn indent(out: &mut String, depth: usize) {
    (0..depth).for_each(|_| out.push_str("  "));
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(value) => text(value),
        // Also `{}` and `[]`.
        other => other.to_string(),
    }
}

/// A text, in quotes unless it can only be read as one.
fn text(value: &str) -> String {
    if is_plain(value) {
        return value.to_owned();
    }
    let mut out = String::with_capacity(value.len() + 2);
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            // What may not stand in YAML.
            '\u{fffe}' | '\u{ffff}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            // What steers a terminal or breaks a line.
            c => match escape(c) {
                Some(escaped) => out.push_str(&escaped),
                None => out.push(c),
            },
        }
    }
    out.push('"');
    out
}

fn is_plain(value: &str) -> bool {
    const WORDS: [&str; 10] = [
        "true", "false", "yes", "no", "on", "off", "null", "y", "n", "nan",
    ];
    // A number, a date, a time; but no number has a slash or ends as durations do.
    let is_number_like = value.starts_with(|c: char| c.is_ascii_digit())
        && !value.contains('/')
        && !value.ends_with(['h', 'm', 's']);
    value.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && value.chars().all(|c| (' '..='~').contains(&c))
        && !value.ends_with([' ', ':'])
        && !value.contains(": ")
        && !value.contains(" #")
        && !is_number_like
        && !WORDS.iter().any(|word| value.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn block_style() {
        let value = json!({ "a": [1, "x", { "b": true, "c": [] }, [["y"], {}]], "d": { "e": null }, "1": "2" });
        assert_eq!(
            to_yaml(&value),
            "\"1\": \"2\"\na:\n- 1\n- x\n- b: true\n  c: []\n-\n  -\n    - \"y\"\n  - {}\nd:\n  e: null\n"
        );
        assert_eq!(to_yaml(&json!([])), "[]\n");
    }

    fn value() -> impl Strategy<Value = Value> {
        let text = prop_oneof![
            any::<String>(),
            "[ -~]{0,12}",
            "(yes|No|null|~|1e3|0x1f|.5|1:20|2026-01-31|[0-9.]{1,9}|-|- a|a: b|a #b|\\|)",
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            text.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(text.clone(), inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]
        /// Whatever is written is read back as it was, by a reader that is not ours.
        #[test]
        fn another_reader_reads_the_same(value in value()) {
            let text = to_yaml(&value);
            let read: Value = serde_saphyr::from_str(&text).map_err(|e| {
                TestCaseError::fail(format!("{e}\n{text}"))
            })?;
            prop_assert_eq!(read, value, "{}", text);
        }
    }
}
