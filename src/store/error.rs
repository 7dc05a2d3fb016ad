//! What can go wrong with the state folder, and what to do about it.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use super::SOURCE_MAX;
use crate::feed::FeedName;

/// The state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A system call failed.
    #[error("{}: cannot {step}: {source}; {}", path.display(), advice(source.kind()))]
    Io {
        /// What was tried.
        step: Step,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process holds the lock.
    #[error(
        "state folder {} is in use by another feedgate{}; stop that one, or set daemon.state-dir to another folder",
        state.display(), Holder(*pid)
    )]
    InUse {
        /// The state folder.
        state: PathBuf,
        /// The other's pid, in its own pid namespace; `None` when the lock file holds none.
        pid: Option<u32>,
    },
    /// A feed's data is damaged and was moved aside.
    #[error("{}: {damage}; kept as {} for a look, the feed will be pulled again", path.display(), aside.display())]
    Corrupt {
        /// The damaged file's usual place.
        path: PathBuf,
        /// What is wrong with it.
        damage: Damage,
        /// Where it is now.
        aside: PathBuf,
    },
    /// A feed's data is damaged and could not be moved aside.
    #[error("{}: {damage}; the feed will be pulled again (moving the file aside failed: {source}; {})", path.display(), advice(source.kind()))]
    CorruptStays {
        /// The damaged file.
        path: PathBuf,
        /// What is wrong with it.
        damage: Damage,
        /// Why it is still there.
        source: io::Error,
    },
    /// The URL of a feed is too long to be stored.
    #[error("{}: the feed's URL has {length} bytes, and at most {SOURCE_MAX} can be stored; shorten it", path.display())]
    LongSource {
        /// The file that was to be written.
        path: PathBuf,
        /// Bytes of the URL.
        length: usize,
    },
}

/// What was tried when a system call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Create a folder.
    CreateFolder,
    /// Open or lock the lock file, or write the pid into it.
    Lock,
    /// List a folder.
    List,
    /// Read a file.
    Read,
    /// Write a temporary file.
    Write,
    /// fsync a file or a folder.
    Sync,
    /// Rename the temporary file into place.
    Rename,
    /// Remove a file.
    Remove,
}

/// What is wrong with a stored file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// No header of ours.
    #[error("its first line is not feedgate's header")]
    NotOurs,
    /// Written by another version.
    #[error("its format is version {0}, which this feedgate does not know")]
    Version(u32),
    /// Our header, but not as we write it.
    #[error("its header is damaged")]
    Header,
    /// The data of another feed.
    #[error("it holds the data of feed {0}")]
    OtherFeed(FeedName),
    /// A body above the feed's `max-bytes`.
    #[error("its data has {length} bytes, above the feed's max-bytes of {max}")]
    TooLarge {
        /// Bytes by its header.
        length: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// Cut off, or something was added.
    #[error("it holds {found} bytes of data instead of {length}")]
    Length {
        /// Bytes by its header.
        length: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// Changed since it was written.
    #[error("its checksum is wrong")]
    Checksum,
}

impl StoreError {
    pub(crate) fn io(step: Step, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        Self::Io { step, path, source }
    }

    /// The disk is read-only, full or broken: nobody's mistake, and no reason to protect nobody.
    pub(crate) fn is_of_the_disk(&self) -> bool {
        let Self::Io { source, .. } = self else {
            return false;
        };
        let codes = [libc::EROFS, libc::ENOSPC, libc::EDQUOT, libc::EIO];
        source
            .raw_os_error()
            .is_some_and(|code| codes.contains(&code))
    }

    /// Goes on with nothing where the disk alone is to blame.
    pub(crate) fn excuse<T: Default>(self) -> Result<T, Self> {
        if self.is_of_the_disk() {
            Ok(T::default())
        } else {
            Err(self)
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CreateFolder => "create the folder",
            Self::Lock => "lock it",
            Self::List => "list the folder",
            Self::Read => "read it",
            Self::Write => "write it",
            Self::Sync => "bring it to the disk (fsync)",
            Self::Rename => "put the new file in place (rename)",
            Self::Remove => "remove it",
        })
    }
}

struct Holder(Option<u32>);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => write!(f, " (pid {pid})"),
            None => Ok(()),
        }
    }
}

fn advice(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free space on its file system or raise the quota"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "make its file system writable (in a systemd unit: StateDirectory= or ReadWritePaths=), or set daemon.state-dir to a folder that is"
        }
        io::ErrorKind::PermissionDenied => {
            "the state folder must belong to feedgate's user, or set daemon.state-dir to a folder that does"
        }
        io::ErrorKind::NotFound => "create the folder above it, or correct daemon.state-dir",
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => {
            "something else has that name: move it away, or correct daemon.state-dir"
        }
        _ => "look for errors of the disk in the kernel's log",
    }
}
