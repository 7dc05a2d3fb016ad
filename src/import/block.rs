//! A `[[feed]]` block with only the keys that matter.

use std::fmt;

use crate::{config, visible::is_hidden};

/// A feed for feedgate.toml.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// Its name.
    pub name: String,
    /// Lines above it.
    pub comments: Vec<String>,
    /// Keys and values, values in TOML.
    pub keys: Vec<(&'static str, String)>,
    /// Keys and values of `[feed.csv]`.
    pub csv: Vec<(&'static str, String)>,
}

impl Block {
    pub(super) fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    pub(super) fn text(mut self, key: &'static str, value: &str) -> Self {
        self.keys.push((key, quote(value)));
        self
    }

    pub(super) fn raw(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.keys.push((key, value.into()));
        self
    }

    pub(super) fn comment(mut self, text: impl Into<String>) -> Self {
        self.comments.push(text.into());
        self
    }
}

/// A string of TOML.
pub(super) fn quote(text: &str) -> String {
    if text.chars().any(is_hidden) {
        // The crate leaves C1 and what turns text around as they are.
        return config::quote(text);
    }
    toml::Value::from(text).to_string()
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for comment in &self.comments {
            // A comment is one line.
            let line: String = comment.chars().filter(|c| !is_hidden(*c)).collect();
            writeln!(f, "# {line}")?;
        }
        writeln!(f, "[[feed]]\nname = {}", quote(&self.name))?;
        for (key, value) in &self.keys {
            writeln!(f, "{key} = {value}")?;
        }
        if !self.csv.is_empty() {
            writeln!(f, "[feed.csv]")?;
        }
        for (key, value) in &self.csv {
            writeln!(f, "{key} = {value}")?;
        }
        Ok(())
    }
}
