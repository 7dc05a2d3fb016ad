//! What other tools block by, as feeds: `feedgate import`.
//!
//! Pure: text in; feeds, files for them and remarks out. Only what a format really holds is taken
//! over; each thing that is not is listed with its line and the reason. Nothing is installed.

mod banip;
mod block;
mod crowdsec;
mod ipset;
mod lines;
mod suricata;
mod uci;

pub use block::Block;

use crate::feed::FeedName;

/// A tool whose files can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// `ipset save`.
    Ipset,
    /// The configuration of CrowdSec's firewall bouncer, YAML.
    Crowdsec,
    /// banIP's `/etc/config/banip` (UCI), or its list of feeds (JSON).
    Banip,
    /// Suricata's rules with addresses in their headers, a reputation list, or suricata.yaml.
    Suricata,
}

/// What became of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Import {
    /// Feeds for feedgate.toml.
    pub feeds: Vec<Block>,
    /// Files that they name, to be written where [`Place`] says.
    pub files: Vec<File>,
    /// Other lines for feedgate.toml: table, key and value in TOML.
    pub settings: Vec<(&'static str, &'static str, String)>,
    /// What was not taken over, or not as it was.
    pub remarks: Vec<Remark>,
}

/// A file of a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its name, a feed's name with an ending.
    pub name: String,
    /// Its text.
    pub text: String,
    /// It holds a secret: mode 0600.
    pub is_secret: bool,
}

/// Something that was not taken over.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Remark {
    /// Line in the file, from 1; `None`: the file as a whole.
    pub line: Option<usize>,
    /// What.
    pub what: String,
    /// Why, and what to do instead.
    pub why: String,
}

/// Where the file comes from and where its lists are to be.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The file's name without folder and ending, for names of feeds.
    pub stem: &'a str,
    /// The folder of the lists, an absolute path.
    pub folder: &'a str,
}

/// A file that cannot be read as what it is said to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ImportError {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong, and what was expected.
    pub message: String,
}

/// Reads `text`, a file of `tool`.
pub fn import(tool: Tool, text: &str, place: Place<'_>) -> Result<Import, ImportError> {
    let mut import = match tool {
        Tool::Ipset => ipset::import(text, place)?,
        Tool::Crowdsec => crowdsec::import(text)?,
        Tool::Banip => banip::import(text)?,
        Tool::Suricata => suricata::import(text, place)?,
    };
    import.remarks.sort();
    import.remarks.dedup();
    Ok(import)
}

impl Import {
    fn remark(
        &mut self,
        line: impl Into<Option<usize>>,
        what: impl Into<String>,
        why: impl Into<String>,
    ) {
        self.remarks.push(Remark {
            line: line.into(),
            what: what.into(),
            why: why.into(),
        });
    }

    /// The part for feedgate.toml.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        for (table, key, value) in &self.settings {
            text.push_str(&format!("[{table}]\n{key} = {value}\n\n"));
        }
        for feed in &self.feeds {
            text.push_str(&format!("{feed}\n"));
        }
        text
    }
}

/// A feed's name out of any text: other characters become dashes.
fn feed_name(text: &str) -> String {
    let mut name: String = text
        .chars()
        .map(|c| match c {
            c if c.is_ascii_alphanumeric() || "._-".contains(c) => c,
            _ => '-',
        })
        .take(100)
        .collect();
    if name.parse::<FeedName>().is_err() {
        name.insert_str(0, "list");
    }
    name
}

/// `file://` and the path of a list.
fn list_url(place: Place<'_>, file: &str) -> String {
    let path = format!("{}/{file}", place.folder.trim_end_matches('/'));
    url::Url::from_file_path(&path).map_or_else(|()| format!("file://{path}"), String::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(super) const PLACE: Place<'_> = Place {
        stem: "old",
        folder: "/etc/feedgate/lists",
    };

    /// Imports and checks that the daemon would take the result.
    pub(super) fn good(tool: Tool, text: &str) -> Import {
        let import = import(tool, text, PLACE).unwrap();
        is_configuration(&import);
        import
    }

    /// What was not taken over: line and subject.
    pub(super) fn told(import: &Import) -> Vec<(Option<usize>, &str)> {
        let remarks = import.remarks.iter();
        remarks.map(|remark| (remark.line, &*remark.what)).collect()
    }

    /// Name and text of each list.
    pub(super) fn files(import: &Import) -> Vec<(&str, &str)> {
        let files = import.files.iter();
        files.map(|file| (&*file.name, &*file.text)).collect()
    }

    fn is_configuration(import: &Import) {
        let toml = import.to_toml();
        let outcome = crate::config::parse(&toml, "imported");
        assert!(
            outcome.config.is_some(),
            "{toml}\n{:?}",
            outcome.diagnostics
        );
        assert!(outcome.diagnostics.is_empty(), "{:?}", outcome.diagnostics);
    }

    #[test]
    fn names_are_feed_names() {
        for (text, name) in [
            ("a b", "a-b"),
            ("", "list"),
            (".x", "list.x"),
            ("é", "list-"),
        ] {
            assert_eq!(feed_name(text), name);
            assert!(name.parse::<FeedName>().is_ok());
        }
    }

    /// Lines like those of the four formats.
    fn nearly() -> impl Strategy<Value = String> {
        let word = prop::sample::select(vec![
            "create",
            "add",
            "a",
            "hash:net",
            "hash:ip,port",
            "family",
            "inet",
            "inet6",
            "192.0.2.1",
            "192.0.2.0/24",
            "2001:db8::/32",
            "nomatch",
            "timeout",
            "5",
            "comment",
            "\"x y\"",
            "config",
            "option",
            "list",
            "ban_feed",
            "'drop'",
            "'country'",
            "ban_country",
            "'de'",
            "alert",
            "drop",
            "ip",
            "[192.0.2.1,!$X]",
            "any",
            "->",
            "<>",
            "$HOME_NET",
            "(msg:\"m\"; sid:1;)",
            "api_url:",
            "api_key:",
            "http://127.0.0.1:8080/",
            "update_frequency:",
            "10s",
            "192.0.2.1,1,10",
            "{",
            "}",
            "203.0.113.5,tcp:8080",
            "%YAML 1.1",
            "reputation-files:",
            "- x",
            "ban_blocktype",
            "'reject'",
        ]);
        let line = proptest::collection::vec(word, 0..9).prop_map(|words| words.join(" "));
        proptest::collection::vec(line, 0..12).prop_map(|lines| lines.join("\n"))
    }

    proptest! {
        #[test]
        fn what_comes_out_is_always_a_configuration(text in prop_oneof![nearly(), any::<String>()]) {
            for tool in [Tool::Ipset, Tool::Crowdsec, Tool::Banip, Tool::Suricata] {
                if let Ok(import) = import(tool, &text, PLACE) {
                    is_configuration(&import);
                }
            }
        }
    }
}
