//! Folders: create, lock, flush.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg, OFlag},
};

use super::error::{Step, StoreError};

const LOCK: &str = "lock";

/// Creates one folder, mode 0700, unless it is there.
pub(crate) fn create(path: &Path) -> Result<(), StoreError> {
    let failed = |source| StoreError::io(Step::CreateFolder, path, source);
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => match path.parent() {
            Some(above) if !above.as_os_str().is_empty() => sync(above),
            _ => sync(Path::new(".")),
        },
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            if fs::metadata(path).map_err(failed)?.is_dir() {
                Ok(())
            } else {
                Err(failed(io::ErrorKind::NotADirectory.into()))
            }
        }
        Err(e) => Err(failed(e)),
    }
}

/// Locks the state folder and leaves this process's pid in the lock file.
///
/// The lock belongs to the open file (flock(2)): it ends with the process, however that ends. The
/// file is never removed: a second process could then lock a new one beside the first.
///
/// Where the disk takes no lock file, the folder itself is locked; `None` where there is not even that:
/// the packet queues and the control socket have one owner, too.
pub(super) fn lock(state: &Path) -> Result<Option<Flock<File>>, StoreError> {
    let path = state.join(LOCK);
    let failed = |source| StoreError::io(Step::Lock, &path, source);
    let (file, writable) = match open_lock(&path).map_err(failed) {
        Err(e) if e.is_of_the_disk() => match File::open(state) {
            Ok(folder) => (folder, false),
            Err(_) => return Ok(None),
        },
        other => other?,
    };
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            if writable {
                let pid = format!("{}\n", std::process::id());
                let written = lock
                    .set_len(0)
                    .and_then(|()| lock.write_all(pid.as_bytes()));
                // The lock holds without it.
                written.map_err(failed).or_else(StoreError::excuse)?;
            }
            Ok(Some(lock))
        }
        Err((file, Errno::EWOULDBLOCK)) => Err(StoreError::InUse {
            state: state.to_owned(),
            pid: pid(file),
        }),
        Err((_, errno)) => Err(failed(errno.into())),
    }
}

/// Brings created, renamed and removed names of the folder to the disk.
pub(crate) fn sync(path: &Path) -> Result<(), StoreError> {
    match File::open(path).and_then(|folder| folder.sync_all()) {
        // Some file systems cannot flush a folder (fsync(2)); there is nothing better to do there.
        Err(e) if e.kind() != io::ErrorKind::InvalidInput => {
            Err(StoreError::io(Step::Sync, path, e))
        }
        _ => Ok(()),
    }
}

/// The lock file, and whether it can be written. On a disk that turned read-only it cannot, and is
/// locked all the same: data that can be loaded protects, and each save will say why it fails.
fn open_lock(path: &Path) -> io::Result<(File, bool)> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(OFlag::O_NOFOLLOW.bits());
    let writable = options
        .clone()
        .write(true)
        .create(true)
        .truncate(false) // the pid in it may be another's
        .mode(0o600)
        .open(path);
    match writable {
        Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            let file = options.open(path).map_err(|_| e)?;
            tracing::warn!(
                "{}: read-only; last good data is loaded but not saved",
                path.display()
            );
            Ok((file, false))
        }
        other => Ok((other?, true)),
    }
}

fn pid(lock: File) -> Option<u32> {
    let mut text = String::new();
    lock.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
