//! Resources that were applied through the control socket.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::{
    journal::{self, Write},
    sealed,
};
use crate::{
    manifest::{self, Id, Level, Resource},
    store::{self, Step, StoreError},
};

const FOLDER: &str = "resources";
pub(super) const ENDS: &str = ".yaml";
pub(super) const CORRUPT: &str = ".corrupt";
/// Longest beginning of a file name; a longer one is cut and gets a digest.
const LONGEST: usize = 200;

/// The folder of applied resources, one file each.
#[derive(Debug)]
pub struct Applied {
    folder: PathBuf,
}

/// What the folder holds.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The sound resources, sorted by kind and name.
    pub resources: Vec<Resource>,
    /// File names of the damaged ones, and what is wrong, each in words. They stay where they are, or
    /// moved aside, until the resource is applied again or deleted.
    pub damaged: BTreeMap<String, String>,
}

impl Applied {
    /// Creates the folder (mode 0700) if it is missing, removes unfinished files in it, and finishes a
    /// change that a killed process left half done. Where the disk does not take that, it is told, and
    /// [`Self::load`] gives the resources as they are after it.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let folder = state_dir.join(FOLDER);
        store::create(&folder).or_else(StoreError::excuse)?;
        store::remove_unfinished(&folder, |_| true)?;
        if let Err(e) = journal::resume(&folder) {
            tracing::error!(
                "an apply or delete that was cut short is not finished on disk yet: {e}; mend that: the next start, apply or delete tries again"
            );
        }
        Ok(Self { folder })
    }

    /// Finishes what an earlier change left to do, and writes down that these are about to be saved, or
    /// removed where there is no text. Until [`Self::end`] the next [`Self::open`] does so, should this
    /// process not live to.
    ///
    /// # Errors
    /// When the disk does not take it; then nothing of these changes will happen.
    pub fn begin(&self, changes: &[(Id, Option<String>)]) -> Result<(), StoreError> {
        journal::begin(&self.folder, &writes(changes))
    }

    /// Writes these changes down in place of those that [`Self::begin`] was given.
    ///
    /// # Errors
    /// When the disk does not take it; then those stay.
    pub fn turn_back(&self, changes: &[(Id, Option<String>)]) -> Result<(), StoreError> {
        journal::put(&self.folder, &writes(changes))
    }

    /// All of it is done, or taken back.
    pub fn end(&self) -> Result<(), StoreError> {
        journal::end(&self.folder)
    }

    /// Reads every file; a damaged one is moved aside to `FILE.corrupt`, in place of an older one. What
    /// is written down and not on disk yet counts as if it were.
    pub fn load(&self) -> Result<Loaded, StoreError> {
        let failed = |source| StoreError::io(Step::List, &self.folder, source);
        let mut loaded = Loaded::default();
        let pending = journal::pending(&self.folder);
        let texts = pending.iter().filter_map(|write| {
            let text = write.text.as_deref()?;
            Some((&write.file, text))
        });
        for (file, text) in texts {
            match resource(file, text) {
                Ok(resource) => loaded.resources.push(resource),
                Err(why) => {
                    loaded
                        .damaged
                        .insert(file.clone(), format!("{file}: {why}"));
                }
            }
        }
        let is_pending = |file: &str| pending.iter().any(|write| write.file == file);
        let entries = match fs::read_dir(&self.folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            entries => Some(entries.map_err(failed)?),
        };
        for entry in entries.into_iter().flatten() {
            let file = entry.map_err(failed)?.file_name();
            let Some(file) = file.to_str() else { continue };
            if is_pending(file.strip_suffix(CORRUPT).unwrap_or(file)) {
                continue;
            }
            if let Some(name) = file.strip_suffix(CORRUPT) {
                let what = format!(
                    "{} is damaged and not in force: apply the resource again, or delete the file",
                    self.folder.join(file).display()
                );
                loaded.damaged.entry(name.to_owned()).or_insert(what);
            } else if file.ends_with(ENDS) {
                match self.read(file) {
                    Ok(resource) => loaded.resources.push(resource),
                    Err(why) => {
                        let what = self.move_aside(file, &why);
                        loaded.damaged.insert(file.to_owned(), what);
                    }
                }
            }
        }
        loaded.resources.sort_by_key(Resource::id);
        Ok(loaded)
    }

    /// Replaces the text of a resource; it is on disk when this returns. A damaged copy goes.
    pub fn save(&self, id: &Id, text: &str) -> Result<(), StoreError> {
        let write = Write {
            file: Self::file(id),
            text: Some(text.to_owned()),
        };
        write.carry_out(&self.folder).map(|_| ())
    }

    /// Removes a resource, and a damaged copy of it. False when there was none.
    pub fn remove(&self, id: &Id) -> Result<bool, StoreError> {
        let write = Write {
            file: Self::file(id),
            text: None,
        };
        write.carry_out(&self.folder)
    }

    /// The name of a resource's file. Names of resources hold no `/` and begin with no dot.
    pub fn file(id: &Id) -> String {
        let mut name = format!("{}.{}", id.kind.singular(), id.name);
        if name.len() > LONGEST {
            let digest = Sha256::digest(&name);
            let digest = digest.iter().take(8).map(|byte| format!("{byte:02x}"));
            let digest: String = digest.collect();
            name = name.chars().take(LONGEST - 20).collect();
            name = format!("{name}~{digest}");
        }
        name + ENDS
    }

    fn read(&self, file: &str) -> Result<Resource, String> {
        let path = self.folder.join(file);
        let size = fs::metadata(&path).map_err(|e| e.to_string())?.len();
        if size > u64::try_from(manifest::MAX_TEXT).unwrap_or(u64::MAX) {
            return Err(format!("it has {size} bytes"));
        }
        let text = sealed::open(fs::read(&path).map_err(|e| e.to_string())?)?;
        resource(file, &text)
    }

    /// What became of it, in words.
    fn move_aside(&self, file: &str, why: &str) -> String {
        let path = self.folder.join(file);
        let aside = self.folder.join(format!("{file}{CORRUPT}"));
        match fs::rename(&path, &aside) {
            Ok(()) => format!(
                "{}: {why}; kept as {} and not in force: apply the resource again, or delete the file",
                path.display(),
                aside.display()
            ),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                format!("{}: {why}", path.display())
            }
            Err(e) => format!(
                "{}: {why}; not in force, and it cannot be moved aside: {e}",
                path.display()
            ),
        }
    }
}

fn writes(changes: &[(Id, Option<String>)]) -> Vec<Write> {
    let write = |(id, text): &(Id, Option<String>)| Write {
        file: Applied::file(id),
        text: text.clone(),
    };
    changes.iter().map(write).collect()
}

/// The one resource of a file's text.
fn resource(file: &str, text: &str) -> Result<Resource, String> {
    let parsed = manifest::parse(text);
    let mut mistakes = parsed.mistakes.iter();
    if let Some(mistake) = mistakes.find(|mistake| mistake.level == Level::Error) {
        return Err(mistake.to_string());
    }
    let mut found = parsed.resources.into_iter().map(|found| found.resource);
    match (found.next(), found.next()) {
        (Some(resource), None) if Applied::file(&resource.id()) == file => Ok(resource),
        _ => Err("it does not hold the resource that its name says".to_owned()),
    }
}
