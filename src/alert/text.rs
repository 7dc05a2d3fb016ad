//! Untrusted text made fit for a log line: nothing invisible, nothing that ends a line or turns
//! it around, bounded.

use crate::visible::is_hidden;

/// Behind a value that was cut.
const CUT: &str = "...";

/// Appends `value` as the inside of an RFC 5424 PARAM-VALUE (section 6.3.3).
///
/// Each hidden character becomes one `?`; `"`, `\` and `]` are escaped. At most `max` bytes are
/// appended, escapes included; a longer value is cut between two characters and ends in `...`.
pub(crate) fn push_value(out: &mut String, value: &str, max: usize) {
    let start = out.len();
    let mut cut = start;
    for c in value.chars() {
        if out.len() - start + CUT.len() <= max {
            cut = out.len();
        }
        match c {
            '"' | '\\' | ']' => out.extend(['\\', c]),
            c if is_hidden(c) => out.push('?'),
            c => out.push(c),
        }
        if out.len() - start > max {
            out.truncate(cut);
            out.push_str(CUT);
            return;
        }
    }
}

/// Appends `word` as one word of the plain sentence: printable ASCII without spaces, at most
/// `max` characters; a space becomes `_`, anything else `?`.
pub(crate) fn push_word(out: &mut String, word: &str, max: usize) {
    out.extend(word.chars().take(max).map(|c| match c {
        ' ' => '_',
        c if c.is_ascii_graphic() => c,
        _ => '?',
    }));
    if word.chars().nth(max).is_some() {
        out.push_str(CUT);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(text: &str, max: usize) -> String {
        let mut out = String::new();
        push_value(&mut out, text, max);
        out
    }

    #[test]
    fn escapes_and_replaces() {
        assert_eq!(value(r#"a"b\c]d"#, 256), r#"a\"b\\c\]d"#);
        assert_eq!(
            value("\u{1b}[31m\nx\u{85}\u{202e}é", 256),
            "?[31m?x??é",
            "one mark for each hidden character, letters stay"
        );
    }

    #[test]
    fn cuts_between_characters() {
        assert_eq!(value("abcdef", 6), "abcdef");
        assert_eq!(value("abcdefg", 6), "abc...");
        assert_eq!(value("abéfgh", 6), "ab...");
        assert_eq!(
            value(r"ab\\\\", 6),
            "ab...",
            "an escape is never cut in half"
        );
    }

    proptest! {
        #[test]
        fn bounded_and_visible(text in crate::alert::example::nasty(), max in 3usize..300) {
            let out = value(&text, max);
            prop_assert!(out.len() <= max);
            prop_assert!(!out.chars().any(is_hidden));
            let mut word = String::new();
            push_word(&mut word, &text, max);
            prop_assert!(word.bytes().all(|b| b.is_ascii_graphic()) && word.len() <= max + 3);
        }
    }
}
