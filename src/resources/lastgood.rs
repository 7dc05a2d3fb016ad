//! The last good text of each file of the manifests folder, for a start while the file is broken.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::sealed;
use crate::store::{self, Step, StoreError};

const FOLDER: &str = "manifests-lastgood";
const ENDS: &str = ".good";
/// Holds the path of the manifests folder that the texts are of.
const OF: &str = "of";

/// The folder of last good texts.
#[derive(Debug)]
pub struct LastGoodTexts {
    folder: PathBuf,
}

impl LastGoodTexts {
    /// Creates the folder (mode 0700) if it is missing, and removes unfinished files in it.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let folder = state_dir.join(FOLDER);
        store::create(&folder).or_else(StoreError::excuse)?;
        store::remove_unfinished(&folder, |_| true)?;
        Ok(Self { folder })
    }

    /// Forgets the texts of any other folder than `dir`.
    pub fn claim(&self, dir: &Path) -> Result<(), StoreError> {
        let wanted = dir.as_os_str().as_encoded_bytes();
        let of = fs::read(self.folder.join(OF)).unwrap_or_default();
        if of == wanted {
            return Ok(());
        }
        for name in self.names()? {
            self.remove(&name)?;
        }
        store::replace(&self.folder, OF, &[wanted])
    }

    /// Replaces the text of a file; it is on disk when this returns.
    pub fn save(&self, file: &str, text: &str) -> Result<(), StoreError> {
        let head = sealed::head(text);
        let name = format!("{file}{ENDS}");
        store::replace(&self.folder, &name, &[head.as_bytes(), text.as_bytes()])
    }

    /// The text of a file; `None` when there is none.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn load(&self, file: &str) -> Result<Option<String>, String> {
        let path = self.folder.join(format!("{file}{ENDS}"));
        let told = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        match fs::read(&path) {
            Ok(bytes) => sealed::open(bytes).map(Some).map_err(|why| told(&why)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(told(&e)),
        }
    }

    /// Removes the text of a file. False when there was none.
    pub fn remove(&self, file: &str) -> Result<bool, StoreError> {
        store::remove(&self.folder.join(format!("{file}{ENDS}")))
    }

    /// Names of the files there are texts of.
    pub fn names(&self) -> Result<Vec<String>, StoreError> {
        let failed = |source| StoreError::io(Step::List, &self.folder, source);
        let mut names = Vec::new();
        let entries = match fs::read_dir(&self.folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(names),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let file = entry.map_err(failed)?.file_name();
            let name = file.to_str().and_then(|file| file.strip_suffix(ENDS));
            names.extend(name.map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }
}
