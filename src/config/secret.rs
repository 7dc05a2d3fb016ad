//! Which bytes of the configuration's text are secrets, so that no diagnostic shows them.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::keys;

/// `text` with every secret replaced by stars; byte offsets and lines stay.
///
/// Secrets are what stands before an `@` and behind a `?` in a URL, and values of headers. So is
/// the value of a feed's unknown key, `token = "..."`, unless it is a known one misspelled.
pub(super) fn starred(text: &str) -> String {
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut hidden = urls(text);
    headers(root.get_ref(), &mut hidden);
    if !errors.is_empty() {
        hidden.extend(lines(text));
    }
    hidden.sort_by_key(|range| range.start);
    let mut hidden = hidden.into_iter().peekable();
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        while hidden.next_if(|range| range.end <= at).is_some() {}
        let secret = hidden.peek().is_some_and(|range| range.contains(&at));
        if secret && !c.is_ascii_whitespace() {
            out.extend(std::iter::repeat_n('*', c.len_utf8()));
        } else {
            out.push(c);
        }
    }
    out
}

fn urls(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for (at, mark) in text.match_indices("://") {
        let start = at + mark.len();
        let rest = text.get(start..).unwrap_or_default();
        let url = rest.split(['"', '\'', '\n']).next().unwrap_or_default();
        if let Some(user) = url.rfind('@') {
            found.push(start..start + user);
        }
        if let Some(query) = url.find('?') {
            found.push(start + query + 1..start + url.len());
        }
    }
    found
}

fn headers(root: &DeTable<'_>, found: &mut Vec<Range<usize>>) {
    if let Some(stray) = root.get("headers") {
        leaves(stray.get_ref(), stray.span(), found);
    }
    match root.get("feed").map(Spanned::get_ref) {
        Some(DeValue::Array(feeds)) => {
            for feed in feeds.iter() {
                feed_secrets(feed.get_ref(), found);
            }
        }
        Some(single) => feed_secrets(single, found),
        None => {}
    }
}

/// The same by lines, for a text with syntax errors: the parser may not know what stands there.
fn lines(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let (mut in_feed, mut in_headers) = (false, false);
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let code = line.trim_start();
        if code.starts_with('[') {
            in_feed = code.contains("feed");
            in_headers = code.contains("header");
        } else if !code.starts_with('#') {
            let key = code
                .split(|c: char| c.is_whitespace() || "=.\"'".contains(c))
                .next()
                .unwrap_or_default();
            if in_headers || key.starts_with("header") || in_feed && may_hold_secrets(key) {
                let value = code.find(['=', '"', '\'']).unwrap_or(key.len());
                let start = at + line.len() - code.len() + value;
                let equals = code.get(value..).is_some_and(|rest| rest.starts_with('='));
                found.push(start + usize::from(equals)..at + line.len());
            }
        }
        at += line.len();
    }
    found
}

fn feed_secrets(feed: &DeValue<'_>, found: &mut Vec<Range<usize>>) {
    for (key, value) in feed.as_table().into_iter().flatten() {
        if may_hold_secrets(key.get_ref()) {
            leaves(value.get_ref(), value.span(), found);
        }
    }
}

fn may_hold_secrets(key: &str) -> bool {
    keys::near("feed", key).is_none_or(|near| near == "headers")
}

/// Scalars and lists below `value`, but for the `file` of a `{ file = "..." }`.
fn leaves(value: &DeValue<'_>, span: Range<usize>, found: &mut Vec<Range<usize>>) {
    match value {
        DeValue::Table(table) => {
            for (key, value) in table {
                if key.get_ref() != "file" {
                    leaves(value.get_ref(), value.span(), found);
                }
            }
        }
        _ => found.push(span),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn credentials_queries_and_header_values_are_hidden() {
        let text = r#"
[[feed]]
name = "a"
url = "https://user:pa@ss@host/list?token=1"
headers = { Authorization = "Bearer x", Other = { file = "/t" } }
header = { Cookie = "ü" }
token = "x"
peroid = "24h"
"#;
        assert_eq!(
            starred(text),
            r#"
[[feed]]
name = "a"
url = "https://**********@host/list?*******"
headers = { Authorization = ******* **, Other = { file = "/t" } }
header = { Cookie = **** }
token = ***
peroid = "24h"
"#
        );
    }

    #[test]
    fn syntax_errors_reveal_nothing() {
        for text in [
            "[[feed]]\nheaders = { A = \"hunter2 }\nperiod = '1h'",
            "[[feed]]\nheaders = { A = \"hunter2\" B = 'hunter2' }\n",
            "[[feed]]\nheaders { A = \"hunter2\" }\n",
            "[[feed\nheaders.A = \"hunter2\" x\n",
            "[[feed]]\nheaders.A = \"\"\"\nhunter2\\q\"\"\"\n",
            "[[feed]]\n[feed.headers]\nA \"hunter2\"\nurl hunter2",
            "[[feed]]\n\"token\" \"hunter2\"\n",
            "headers = 'hunter2'",
        ] {
            assert!(!starred(text).contains("hunter2"), "{}", starred(text));
        }
    }

    #[test]
    fn syntax_errors_of_other_keys_stay_readable() {
        let text = "[daemon]\nstate-dir = \"/x\n[[feed]]\nperiod = 24h\nurl = \"https://a/b\n";
        assert_eq!(starred(text), text);
    }

    proptest! {
        #[test]
        fn offsets_stay(text in "(.|\n|://|@|\\[\\[feed]]\n|x='a'\n){0,40}") {
            let out = starred(&text);
            prop_assert_eq!(out.len(), text.len());
            for (at, c) in text.char_indices().filter(|(_, c)| *c == '\n') {
                prop_assert_eq!(out[at..].chars().next(), Some(c));
            }
        }
    }
}
