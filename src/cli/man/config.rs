//! feedgate.toml(5), made of the comments of the shipped file.

use clap_mangen::roff::{Roff, bold, italic, roman};

use super::{MANUAL, section, source};
use crate::config::EXAMPLE;

/// The least that is of use.
const SMALLEST: &str = r#"[[feed]]
name = "blocklist"
url = "https://example.net/blocklist.txt"
action = "alert"
"#;

/// The page.
pub(super) fn page() -> Roff {
    let mut roff = Roff::new();
    roff.control("TH", ["FEEDGATE.TOML", "5", "", &source(), MANUAL]);
    roff.control("SH", ["NAME"]);
    roff.text([roman("feedgate.toml - the configuration of feedgate")]);
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([italic("/etc/feedgate/feedgate.toml")]);
    roff.control("SH", ["DESCRIPTION"]);
    paragraphs(
        &mut roff,
        &[
            "A file in TOML. An empty one is good. An unknown key is a mistake, and a file with a \
             mistake is refused as a whole: feedgate check shows each with its line and column.",
            "Below, each key is shown with its default, or, where it says (example), with a value \
             that shows its form. \"Later\" keys are accepted and checked, but have no effect in this \
             version and say so.",
            "Durations are texts such as \"50ms\", \"90s\", \"24h\" or \"7days\". Sizes are \
             \"64MiB\" or a number of bytes. Shares are \"5%\" or 0.05. Paths are absolute.",
            "After a change: feedgate check, then systemctl reload feedgate.",
        ],
    );
    for table in tables(EXAMPLE) {
        roff.control("SH", [table.heading.as_str()]);
        if !table.about.is_empty() {
            roff.text([roman(&table.about)]);
        }
        for entry in &table.entries {
            entry.write(&mut roff);
        }
    }
    roff.control("SH", ["EXAMPLES"]);
    roff.text([roman("Watch what talks to the addresses of a list:")]);
    roff.control("PP", []);
    roff.control("EX", []);
    for line in SMALLEST.lines() {
        roff.text([roman(line)]);
    }
    roff.control("EE", []);
    section::see_also(&mut roff, &["feedgate(8)", "feedgate-check(8)"]);
    roff
}

fn paragraphs(roff: &mut Roff, texts: &[&str]) {
    for (index, text) in texts.iter().enumerate() {
        if index > 0 {
            roff.control("PP", []);
        }
        roff.text([roman(*text)]);
    }
}

/// A table of the file.
#[derive(Debug, PartialEq, Eq)]
struct Table {
    /// As written: `[daemon]`, `[[feed]]`.
    heading: String,
    /// What stands above the heading.
    about: String,
    entries: Vec<Entry>,
}

/// Keys that one comment explains.
#[derive(Debug, Default, PartialEq, Eq)]
struct Entry {
    keys: Vec<(String, String)>,
    about: String,
    /// The values are no defaults.
    example: bool,
}

impl Entry {
    fn write(&self, roff: &mut Roff) {
        for (index, (key, value)) in self.keys.iter().enumerate() {
            roff.control(if index == 0 { "TP" } else { "TQ" }, []);
            let mark = if self.example || key == "name" {
                " (example)"
            } else {
                ""
            };
            roff.text([bold(key), roman(format!(" = {value}{mark}"))]);
        }
        if !self.about.is_empty() {
            roff.text([roman(&self.about)]);
        }
    }
}

/// Reads the shipped file: headings and keys, commented out or not, each below its comment.
fn tables(text: &str) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    let mut entry = Entry::default();
    let mut comment = Vec::new();
    for line in text.lines() {
        let code = line.strip_prefix('#').unwrap_or(line);
        if code.starts_with('[') {
            finish(&mut tables, &mut entry);
            tables.push(Table {
                heading: code.to_owned(),
                // The head of the file stands above the first table.
                about: if tables.is_empty() {
                    String::new()
                } else {
                    explain(&comment).0
                },
                entries: Vec::new(),
            });
            comment.clear();
        } else if let Some((key, value)) = pair(code) {
            if !comment.is_empty() {
                finish(&mut tables, &mut entry);
                (entry.about, entry.example) = explain(&comment);
                comment.clear();
            }
            entry.keys.push((key.to_owned(), value.to_owned()));
        } else if !code.trim().is_empty() {
            comment.push(code.trim());
        }
    }
    finish(&mut tables, &mut entry);
    tables
}

/// Puts the entry into the last table, and begins another one.
fn finish(tables: &mut [Table], entry: &mut Entry) {
    let entry = std::mem::take(entry);
    if let (Some(table), false) = (tables.last_mut(), entry.keys.is_empty()) {
        table.entries.push(entry);
    }
}

/// A comment as one text, and whether its keys are mere examples.
fn explain(lines: &[&str]) -> (String, bool) {
    let text = lines.join(" ");
    let example = text.contains("(example)") || text.starts_with("Or ");
    let text = match text.strip_suffix("example") {
        // The word by itself marks a table.
        Some(rest) if rest.is_empty() || rest.ends_with(". ") => rest,
        _ => &text,
    };
    let text = text
        .trim_start_matches("example ")
        .replace(". (example)", ".")
        .replace(" (example)", "");
    (text.trim().to_owned(), example)
}

fn pair(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once(" = ")?;
    let good = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    good.then_some((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_belong_to_the_keys_below_them() {
        let read = tables(
            "# Head.\n\n[a]\n# One\n# text.\n#x = 1\n#y = 2\n# Other (example).\n#z = \"3\"\n\n# A list.\n\
             # example\n#[[b]]\n# Or else.\n#name = \"n\"\n",
        );
        let keys = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            let owned = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into()));
            owned.collect()
        };
        let expect = [
            Table {
                heading: "[a]".into(),
                about: String::new(),
                entries: vec![
                    Entry {
                        keys: keys(&[("x", "1"), ("y", "2")]),
                        about: "One text.".into(),
                        example: false,
                    },
                    Entry {
                        keys: keys(&[("z", "\"3\"")]),
                        about: "Other.".into(),
                        example: true,
                    },
                ],
            },
            Table {
                heading: "[[b]]".into(),
                about: "A list.".into(),
                entries: vec![Entry {
                    keys: keys(&[("name", "\"n\"")]),
                    about: "Or else.".into(),
                    example: true,
                }],
            },
        ];
        assert_eq!(read, expect);
    }

    #[test]
    fn every_line_of_the_shipped_file_is_read() {
        let lines = EXAMPLE.lines().map(|l| l.strip_prefix('#').unwrap_or(l));
        let keys = lines.clone().filter(|line| pair(line).is_some()).count();
        let headings = lines.filter(|line| line.starts_with('[')).count();
        let tables = tables(EXAMPLE);
        assert_eq!(tables.len(), headings);
        let entries = tables.iter().flat_map(|table| &table.entries);
        assert_eq!(entries.map(|entry| entry.keys.len()).sum::<usize>(), keys);
    }
}
