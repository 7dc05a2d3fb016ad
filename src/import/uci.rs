//! OpenWrt's configuration files: `config`, `option` and `list` lines (UCI).

use super::ImportError;

/// One `option` or `list` line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) line: usize,
    pub(super) key: String,
    pub(super) value: String,
}

/// All items of a file; sections are not told apart, since banIP has one.
pub(super) fn items(text: &str) -> Result<Vec<Item>, ImportError> {
    let mut items = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let words = words(text).map_err(|message| ImportError {
            line,
            message: message.into(),
        })?;
        match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [] | ["config" | "package", ..] => {}
            ["option" | "list", key, value] => items.push(Item {
                line,
                key: key.into(),
                value: value.into(),
            }),
            _ => {
                return Err(ImportError {
                    line,
                    message: "expected `config TYPE`, `option KEY 'VALUE'` or `list KEY 'VALUE'`"
                        .into(),
                });
            }
        }
    }
    Ok(items)
}

/// The words of a line; quotes as a shell has them.
fn words(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('\\', Some('"') | None) => word.get_or_insert_default().extend(chars.next()),
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('\'' | '"', None) => {
                word.get_or_insert_default();
                quote = Some(c);
            }
            ('#', None) if word.is_none() => break,
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed");
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_comments() {
        let text = "config banip 'global'\n\toption a '1' # yes\n\tlist b \"x \\\" y\"\n\n# no\n list c d\n";
        let seen: Vec<(usize, String, String)> = items(text)
            .unwrap()
            .into_iter()
            .map(|i| (i.line, i.key, i.value))
            .collect();
        let expect = [(2, "a", "1"), (3, "b", "x \" y"), (6, "c", "d")];
        assert_eq!(
            seen,
            expect.map(|(line, key, value)| (line, key.to_owned(), value.to_owned()))
        );
        for bad in ["option a", "option 'a", "192.0.2.1"] {
            assert!(items(bad).is_err(), "{bad}");
        }
    }
}
