//! The folder of the admin's manifests.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::fcntl::OFlag;

use crate::manifest::MAX_TEXT;

/// More files are not read.
pub const MAX_FILES: usize = 1_000;
/// All files together, in bytes.
const MAX_TOTAL: u64 = 256 << 20;
/// Longest name of a file, in bytes: that of its last good copy is longer.
const MAX_NAME: usize = 200;
/// How names of manifests end.
const ENDS: [&str; 3] = [".yaml", ".yml", ".json"];

/// The folder is there and cannot be listed.
#[derive(Debug, thiserror::Error)]
#[error("cannot list the manifests folder {}: {source}; what was read of it before stays in force", path.display())]
pub struct FolderError {
    /// The folder.
    pub path: PathBuf,
    /// The system's answer.
    pub source: io::Error,
}

/// A file of the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestFile {
    /// Its name in the folder.
    pub name: String,
    /// Its text, or why there is none.
    pub text: Result<String, String>,
}

/// What the files of a folder looked like: another value says that something changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen(BTreeMap<String, Option<[i64; 7]>>);

/// True for a file that is read: `*.yaml`, `*.yml`, `*.json`, not hidden.
pub fn is_manifest(name: &str) -> bool {
    !name.starts_with('.') && ENDS.iter().any(|end| name.ends_with(end))
}

/// What the folder looks like; empty when it is not there.
pub fn seen(dir: &Path) -> Seen {
    let names = list(dir).unwrap_or_default();
    let look = |name: String| {
        let stat = fs::metadata(dir.join(&name)).ok();
        let stat = stat.map(|stat| {
            let unsigned = |value: u64| i64::from_ne_bytes(value.to_ne_bytes());
            [
                unsigned(stat.dev()),
                unsigned(stat.ino()),
                unsigned(stat.size()),
                stat.mtime(),
                stat.mtime_nsec(),
                stat.ctime(),
                stat.ctime_nsec(),
            ]
        });
        (name, stat)
    };
    Seen(names.into_iter().map(look).collect())
}

/// Every manifest of the folder by name; none when the folder is not there.
pub fn read(dir: &Path) -> Result<Vec<ManifestFile>, FolderError> {
    let names = list(dir).map_err(|source| FolderError {
        path: dir.to_owned(),
        source,
    })?;
    let mut left = MAX_TOTAL;
    let mut files = Vec::new();
    for (number, name) in names.into_iter().enumerate() {
        let text = if number >= MAX_FILES {
            Err(format!(
                "not read: the folder has more than {MAX_FILES} manifests"
            ))
        } else if name.len() > MAX_NAME {
            Err(format!("not read: its name has more than {MAX_NAME} bytes"))
        } else {
            text(&dir.join(&name), left)
        };
        if let Ok(text) = &text {
            left = left.saturating_sub(u64::try_from(text.len()).unwrap_or(u64::MAX));
        }
        files.push(ManifestFile { name, text });
    }
    Ok(files)
}

/// Names of manifests, sorted.
fn list(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut names = Vec::new();
    for entry in entries {
        // A name that is no text is shown as well as can be, and then not found.
        let name = entry?.file_name().to_string_lossy().into_owned();
        if is_manifest(&name) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn text(path: &Path, left: u64) -> Result<String, String> {
    let failed = |e: io::Error| format!("cannot be read: {e}");
    // A pipe or device of that name must not hold the daemon.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)
        .map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err("not a file".to_owned());
    }
    let limit = left.min(u64::try_from(MAX_TEXT).unwrap_or(u64::MAX));
    let mut bytes = Vec::new();
    let size = take(file, limit + 1, &mut bytes).map_err(failed)?;
    if size > limit {
        return Err(format!(
            "not read: a manifest may have {} MiB, and all together {} MiB",
            MAX_TEXT >> 20,
            MAX_TOTAL >> 20
        ));
    }
    String::from_utf8(bytes).map_err(|e| {
        let good = e.utf8_error().valid_up_to();
        let before = e.as_bytes().get(..good).unwrap_or_default();
        let line = 1 + before.iter().filter(|b| **b == b'\n').count();
        format!("line {line} is not UTF-8")
    })
}

fn take(file: File, limit: u64, into: &mut Vec<u8>) -> io::Result<u64> {
    let read = file.take(limit).read_to_end(into)?;
    Ok(u64::try_from(read).unwrap_or(u64::MAX))
}
