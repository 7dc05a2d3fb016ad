//! One change of several applied resources is whole: it is written down before the first file is
//! touched. After a kill in the middle the next start does the rest; as long as the disk does not take
//! it, what is written down counts as if it were done ([`pending`]).
//!
//! `STATE/resources/journal` is there only while a change is not on disk as a whole.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    applied::{CORRUPT, ENDS},
    sealed,
};
use crate::store::{self, Step, StoreError};

const JOURNAL: &str = "journal";

/// A file of the folder, and its new text; `None`: it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Write {
    pub(super) file: String,
    pub(super) text: Option<String>,
}

impl Write {
    /// Does it, in `folder`. The result is on disk when this returns.
    pub(super) fn carry_out(&self, folder: &Path) -> Result<bool, StoreError> {
        let corrupt = folder.join(format!("{}{CORRUPT}", self.file));
        match &self.text {
            Some(text) => {
                let head = sealed::head(text);
                let parts = [head.as_bytes(), text.as_bytes()];
                store::replace(folder, &self.file, &parts)?;
                store::remove(&corrupt)?;
                Ok(true)
            }
            None => {
                let good = store::remove(&folder.join(&self.file))?;
                let corrupt = store::remove(&corrupt)?;
                if good || corrupt {
                    store::sync(folder)?;
                }
                Ok(good || corrupt)
            }
        }
    }

    /// A name that a resource's file could have.
    fn is_sound(&self) -> bool {
        self.file.ends_with(ENDS) && !self.file.starts_with('.') && !self.file.contains('/')
    }
}

/// Writes a change down: from here on it happens, whatever becomes of this process. What an earlier
/// change has left to do is done before.
pub(super) fn begin(folder: &Path, writes: &[Write]) -> Result<(), StoreError> {
    resume(folder)?;
    // A single file is replaced as a whole anyway.
    if writes.len() < 2 {
        return Ok(());
    }
    put(folder, writes)
}

/// Writes down what is to be done, in place of what was written down before.
pub(super) fn put(folder: &Path, writes: &[Write]) -> Result<(), StoreError> {
    let failed =
        |e: serde_json::Error| StoreError::io(Step::Write, &folder.join(JOURNAL), e.into());
    let text = serde_json::to_string(writes).map_err(failed)?;
    let head = sealed::head(&text);
    store::replace(folder, JOURNAL, &[head.as_bytes(), text.as_bytes()])
}

/// What is written down and not known to be done; nothing where that cannot be read.
pub(super) fn pending(folder: &Path) -> Vec<Write> {
    let bytes = fs::read(folder.join(JOURNAL)).ok();
    bytes.and_then(|bytes| read(bytes).ok()).unwrap_or_default()
}

/// The change is carried out, or taken back.
pub(super) fn end(folder: &Path) -> Result<(), StoreError> {
    if store::remove(&folder.join(JOURNAL))? {
        store::sync(folder)?;
    }
    Ok(())
}

/// Carries out what is written down. A journal that is damaged is kept aside: nothing of it can be
/// trusted.
pub(super) fn resume(folder: &Path) -> Result<(), StoreError> {
    let path = folder.join(JOURNAL);
    let writes = match fs::read(&path) {
        Ok(bytes) => read(bytes),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(StoreError::io(Step::Read, &path, e)),
    };
    match writes {
        Ok(writes) => {
            for write in &writes {
                write.carry_out(folder)?;
            }
            tracing::warn!(
                "an apply or delete of {} resources was cut short: the rest is done now",
                writes.len()
            );
            end(folder)
        }
        Err(why) => {
            let aside = folder.join(format!("{JOURNAL}.damaged"));
            tracing::error!(
                "{}: {why}; kept as {}. Of what was being applied a part may be missing: apply it again",
                path.display(),
                aside.display()
            );
            fs::rename(&path, &aside).map_err(|e| StoreError::io(Step::Rename, &path, e))
        }
    }
}

fn read(bytes: Vec<u8>) -> Result<Vec<Write>, String> {
    let text = sealed::open(bytes)?;
    let writes: Vec<Write> = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    match writes.iter().find(|write| !write.is_sound()) {
        Some(write) => Err(format!("{:?} is not the file of a resource", write.file)),
        None => Ok(writes),
    }
}
