//! `feedgate check`: the manifests folder beside the configuration, without a daemon.

use std::path::PathBuf;

use super::catalog::{Catalog, FileState, Item};
use crate::{
    config::Config,
    manifest::{self, Level, Mistake},
    resources,
};

/// What is wrong with one file of the manifests folder.
#[derive(Debug)]
pub(crate) struct CheckedFile {
    /// The file.
    pub(crate) path: PathBuf,
    /// Its text; empty when it could not be read.
    pub(crate) text: String,
    /// Errors and warnings in it.
    pub(crate) mistakes: Vec<Mistake>,
}

/// What is wrong with the manifests folder.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// All files with mistakes or warnings.
    pub(crate) files: Vec<CheckedFile>,
    /// Resources without a mistake.
    pub(crate) resources: usize,
    /// What else is wrong, each in words.
    pub(crate) errors: Vec<String>,
    /// What is wrong unless something was applied that is not in the folder.
    pub(crate) warnings: Vec<String>,
}

impl Checked {
    /// Mistakes, those in the files' texts included.
    pub(crate) fn count(&self) -> usize {
        let mistakes = self.files.iter().flat_map(|file| &file.mistakes);
        let wrong = mistakes.filter(|mistake| mistake.level == Level::Error);
        self.errors.len() + wrong.count()
    }
}

/// Reads and judges the folder of `config`.
pub(crate) fn check(config: &Config) -> Checked {
    let mut checked = Checked::default();
    let Some(dir) = &config.manifests.dir else {
        return checked;
    };
    let files = match resources::read(dir) {
        Ok(files) => files,
        Err(e) => {
            checked.errors.push(e.to_string());
            return checked;
        }
    };
    let mut catalog = Catalog {
        dir: Some(dir.clone()),
        ..Catalog::default()
    };
    for file in files {
        let path = dir.join(&file.name);
        let text = match file.text {
            Ok(text) => text,
            Err(why) => {
                checked.errors.push(format!("{}: {why}", path.display()));
                continue;
            }
        };
        let parsed = manifest::parse_kept(&text);
        let mistakes = parsed.mistakes;
        let items = parsed.resources.into_iter();
        let items: Vec<_> = items
            .map(|found| (Item::new(found.resource), found.line))
            .collect();
        checked.resources += items.len();
        let state = FileState {
            items,
            ..FileState::default()
        };
        catalog.files.insert(file.name, state);
        if !mistakes.is_empty() {
            checked.files.push(CheckedFile {
                path,
                text,
                mistakes,
            });
        }
    }
    let resolved = catalog.resolve(config);
    // The only thing that is wrong with a policy by itself is its tier, which may have been applied.
    let (waits, wrong) = resolved.problems.into_iter().partition(|problem| {
        let mut entries = resolved.entries.iter();
        entries.any(|(id, entry)| {
            id.kind.is_policy()
                && entry.why_not.is_some()
                && problem.starts_with(&format!("{id} ("))
        })
    });
    (checked.warnings, checked.errors) = (waits, [checked.errors, wrong].concat());
    checked
}
