//! The newest record's number and hash in a file of their own, so that a database that was cut at its
//! end is noticed; and the lock that makes one daemon the only writer.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg, OFlag},
};

use super::record::{Link, hex, unhex};

/// Every version of the file is as long as the last: one write replaces it whole.
const LENGTH: usize = 128;
const MAGIC: &str = "feedgate-alerts-1";

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) link: Link,
    /// The daemon that wrote it has closed the store since.
    pub(super) closed: bool,
}

impl Head {
    fn to_text(self) -> String {
        let state = if self.closed { "closed" } else { "open" };
        let (seq, hash) = (self.link.seq, hex(&self.link.hash));
        let line = format!("{MAGIC} {seq} {hash} {state}");
        format!("{line:<width$}\n", width = LENGTH - 1)
    }

    fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [MAGIC, seq, hash, state] = words[..] else {
            return None;
        };
        Some(Self {
            link: Link {
                seq: seq.parse().ok().filter(|seq| *seq >= 0)?,
                hash: unhex(hash)?,
            },
            closed: match state {
                "closed" => true,
                "open" => false,
                _ => return None,
            },
        })
    }

    /// What the file at `path` says; `None` when it is not there or not readable as one.
    pub(super) fn read(path: &Path) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(path).ok()?)
    }
}

/// The file, locked.
#[derive(Debug)]
pub(super) struct HeadFile(Flock<File>);

impl HeadFile {
    /// Opens and locks it (flock(2)); [`io::ErrorKind::WouldBlock`] when another process has it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self(lock)),
            Err((_, Errno::EWOULDBLOCK)) => Err(io::ErrorKind::WouldBlock.into()),
            Err((_, errno)) => Err(errno.into()),
        }
    }

    /// Replaces what it says. Not synced: it never says more than the database has on disk.
    pub(super) fn write(&self, head: Head) -> io::Result<()> {
        self.0.write_all_at(head.to_text().as_bytes(), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_was_written_and_nobody_else_may_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alerts.db.head");
        assert_eq!(Head::read(&path), None);
        let file = HeadFile::open(&path).unwrap();
        let second = HeadFile::open(&path).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::WouldBlock);
        for closed in [false, true] {
            let head = Head {
                link: Link::START.next(1, "alert", "{}"),
                closed,
            };
            file.write(head).unwrap();
            assert_eq!(Head::read(&path), Some(head));
            assert_eq!(std::fs::metadata(&path).unwrap().len(), 128);
        }
        drop(file);
        for bad in ["", "feedgate-alerts-1 x y open", "\u{0}\u{0}"] {
            std::fs::write(&path, bad).unwrap();
            assert_eq!(Head::read(&path), None);
        }
    }
}
