//! Files: replace as a whole, remove.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use super::{
    error::{Step, StoreError},
    folder,
};

const PREFIX: &[u8] = b".";
const SUFFIX: &[u8] = b".tmp";

/// Replaces `folder/name` by the parts, one after the other; mode 0600. The caller holds the
/// folder's lock and its turn, since the temporary name is always the same.
pub(crate) fn replace(folder: &Path, name: &str, parts: &[&[u8]]) -> Result<(), StoreError> {
    folder::create(folder)?;
    let temporary = folder.join(format!(".{name}.tmp"));
    let path = folder.join(name);
    let replaced = write(&temporary, parts).and_then(|()| {
        fs::rename(&temporary, &path).map_err(|e| StoreError::io(Step::Rename, &path, e))
    });
    if replaced.is_err() {
        // Gives its space back; the first error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    replaced?;
    folder::sync(folder)
}

/// Removes a file; false when it is not there.
pub(crate) fn remove(path: &Path) -> Result<bool, StoreError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(StoreError::io(Step::Remove, path, e)),
    }
}

/// Removes temporary files of a process that was killed, those whose final name is `ours`. One
/// that resists is only logged: it hinders nothing until it is to be written again.
pub(crate) fn remove_unfinished(
    folder: &Path,
    ours: impl Fn(&[u8]) -> bool,
) -> Result<(), StoreError> {
    let failed = |source| StoreError::io(Step::List, folder, source);
    let entries = match fs::read_dir(folder) {
        // On a disk that never took it.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let file = entry.file_name();
        let name = file
            .as_encoded_bytes()
            .strip_prefix(PREFIX)
            .and_then(|name| name.strip_suffix(SUFFIX));
        if name.is_some_and(&ours) {
            match remove(&entry.path()) {
                Ok(_) => tracing::info!("removed the unfinished file {}", entry.path().display()),
                Err(error) => tracing::warn!(
                    "an unfinished file of an earlier run cannot be removed: {error}"
                ),
            }
        }
    }
    Ok(())
}

fn write(path: &Path, parts: &[&[u8]]) -> Result<(), StoreError> {
    let failed = |source| StoreError::io(Step::Write, path, source);
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {} // one that is left over must not lend its mode or lead elsewhere
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    for part in parts {
        file.write_all(part).map_err(failed)?;
    }
    file.sync_all()
        .map_err(|source| StoreError::io(Step::Sync, path, source))
}
