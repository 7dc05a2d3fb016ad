//! Text of others made harmless for a terminal: which characters steer it or hide in it, and how they
//! are written instead.

use std::fmt::Write;

/// True for a character that must not reach a terminal or a line-based reader as it is.
///
/// C0, DEL and C1 (Unicode category Cc), line and paragraph separators, and the format characters
/// that are invisible or change the direction of text (Unicode Standard Annex #9, Technical
/// Report #36).
pub(crate) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

/// Text with `?` for each character that could steer a terminal or break a line.
pub(crate) fn visible(text: &str) -> String {
    text.chars()
        .map(|c| if is_hidden(c) { '?' } else { c })
        .collect()
}

/// The same of several lines, which may hold tabs.
pub(crate) fn visible_lines(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => c,
            c if is_hidden(c) => '?',
            c => c,
        })
        .collect()
}

/// JSON text with every hidden character but a line feed written as `\uXXXX`: the value is the same.
///
/// In JSON these stand inside strings only, and a line feed only outside of them.
pub(crate) fn escape_json(json: String) -> String {
    let hides = |c: char| is_hidden(c) && c != '\n';
    if !json.chars().any(hides) {
        return json;
    }
    let mut out = String::with_capacity(json.len() + 64);
    for c in json.chars() {
        if hides(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}"); // writing to a String cannot fail
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// The escape of a hidden character inside a double-quoted text of YAML or TOML, where that is needed.
pub(crate) fn escape(c: char) -> Option<String> {
    let code = u32::from(c);
    is_hidden(c).then(|| match code {
        0..=0xffff => format!("\\u{code:04X}"),
        _ => format!("\\U{code:08X}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_stays_the_same_value() {
        let value = serde_json::json!({ "a\u{9b}": ["\u{202e}\u{e0041}\u{1b}\n", 1] });
        for json in [value.to_string(), format!("{value:#}")] {
            let out = escape_json(json);
            assert!(!out.chars().any(|c| is_hidden(c) && c != '\n'), "{out:?}");
            assert_eq!(
                serde_json::from_str::<serde_json::Value>(&out).unwrap(),
                value
            );
        }
        assert_eq!(escape('\u{9b}').as_deref(), Some("\\u009B"));
        assert_eq!(escape('\u{e0041}').as_deref(), Some("\\U000E0041"));
        assert_eq!(escape('a'), None);
    }

    #[test]
    fn nothing_steers_a_terminal() {
        assert_eq!(visible("a\u{1b}[2J\n\u{9b}\u{202e}é"), "a?[2J???é");
        assert_eq!(visible_lines("a\u{9b}\n\tb\r"), "a?\n\tb?");
    }
}
