//! A file of lines that others rotate: whole lines, none lost, none torn.
//!
//! Each line is appended in one call where the system takes it whole. Before each line the path is
//! looked at: a file that was renamed, removed or replaced meanwhile is left, and the line goes into a
//! new one. So a rotation by rename needs no signal; [`LineFile::reopen`] is for those that send one.
//! A file that was truncated (copytruncate) goes on at its new end, because it is opened to append.
//! When a line fits only in part (a full disk), that part is taken off again.
//!
//! What a program other than this one loses is beyond its reach: `copytruncate` drops lines that come
//! between its copy and its truncation, and a rotation that packs the renamed file at once loses a line
//! that was on its way into it.

use std::{
    fs::{self, DirBuilder, File, Metadata, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// How long a renamed file's successor is waited for, and how often it is looked for.
const SUCCESSOR: Duration = Duration::from_millis(100);
const STEP: Duration = Duration::from_millis(5);

/// An open file of lines.
#[derive(Debug)]
pub(super) struct LineFile {
    path: PathBuf,
    file: File,
    /// Which file it is: device and inode.
    identity: (u64, u64),
    /// Bytes of the present line that are in the file and could not be taken off.
    stuck: Option<Stuck>,
}

/// A line that is in the file in part.
#[derive(Clone, Copy, Debug)]
struct Stuck {
    written: usize,
    /// Length of the file behind it.
    end: u64,
}

impl LineFile {
    /// As [`LineFile::open`], and makes the folder, mode 0750, where there is none.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
            DirBuilder::new()
                .recursive(true)
                .mode(0o750)
                .create(folder)?;
        }
        Self::open(path)
    }

    /// Opens `path` to append, and creates it with mode 0640; its folder must exist.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        let identity = identity(&file.metadata()?);
        Ok(Self {
            path: path.to_owned(),
            file,
            identity,
            stuck: None,
        })
    }

    /// Appends `line`, which ends in a newline. After an error the same line must come again: what of it
    /// is in the file, if anything, is not written twice.
    pub(super) fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let length = self.follow()?;
        // Truncated since: the part is gone, so the line begins anew.
        let written = match self.stuck.take() {
            Some(stuck) if stuck.end <= length => stuck.written,
            _ => 0,
        };
        self.write(line, written, length)
    }

    /// Opens the path again, whatever is there now.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        *self = Self::open(&self.path)?;
        Ok(())
    }

    /// Leaves a rotation that makes the new file itself the time to do so: logrotate moves what it
    /// finds in its place to a name of its own.
    fn wait_for_successor(&self) {
        for _ in 0..SUCCESSOR.as_millis() / STEP.as_millis() {
            if self.path.exists() {
                return;
            }
            thread::sleep(STEP);
        }
    }

    /// Makes sure that the path is this file; gives its length.
    fn follow(&mut self) -> io::Result<u64> {
        match fs::metadata(&self.path) {
            Ok(now) if identity(&now) == self.identity => return Ok(now.len()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.wait_for_successor(),
            Err(error) => return Err(error),
        }
        self.reopen()?;
        Ok(self.file.metadata()?.len())
    }

    fn write(&mut self, line: &[u8], mut written: usize, start: u64) -> io::Result<()> {
        let fresh = written == 0;
        while let Some(rest) = line.get(written..).filter(|rest| !rest.is_empty()) {
            match self.file.write(rest) {
                Ok(0) => return self.undo(written, start, fresh, io::ErrorKind::WriteZero.into()),
                Ok(n) => written += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.undo(written, start, fresh, error),
            }
        }
        Ok(())
    }

    /// Takes a part of a line off the file's end, unless somebody else wrote to it.
    fn undo(
        &mut self,
        written: usize,
        start: u64,
        fresh: bool,
        error: io::Error,
    ) -> io::Result<()> {
        if written == 0 {
            return Err(error);
        }
        let end = self.file.metadata().map_or(0, |now| now.len());
        let ours = start.checked_add(u64::try_from(written).unwrap_or(u64::MAX));
        let taken = fresh && ours == Some(end) && self.file.set_len(start).is_ok();
        self.stuck = (!taken).then_some(Stuck { written, end });
        Err(error)
    }
}

fn identity(of: &Metadata) -> (u64, u64) {
    (of.dev(), of.ino())
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_folder_is_made_at_first_and_never_again() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("log/feedgate");
        let mut file = LineFile::create(&folder.join("alerts.json")).unwrap();
        file.append(b"one\n").unwrap();
        let mode = fs::metadata(&folder).unwrap().mode();
        assert_eq!(mode & 0o777, 0o750);
        fs::remove_dir_all(&folder).unwrap();
        let error = file.append(b"two\n").unwrap_err();
        assert_eq!(
            error.kind(),
            io::ErrorKind::NotFound,
            "somebody took it away"
        );
    }

    #[test]
    fn follows_a_rename_a_removal_and_a_truncation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let mut file = LineFile::open(&path).unwrap();
        file.append(b"1\n").unwrap();
        fs::rename(&path, dir.path().join("a.1")).unwrap();
        file.append(b"2\n").unwrap();
        assert_eq!(
            (read(&dir.path().join("a.1")), read(&path)),
            ("1\n".into(), "2\n".into())
        );
        fs::remove_file(&path).unwrap();
        file.append(b"3\n").unwrap();
        assert_eq!(read(&path), "3\n");
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(0)
            .unwrap();
        file.append(b"4\n").unwrap();
        assert_eq!(read(&path), "4\n");
    }

    #[test]
    fn a_folder_that_is_gone_is_an_error_and_its_return_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("log");
        let path = folder.join("a");
        fs::create_dir(&folder).unwrap();
        let mut file = LineFile::open(&path).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert!(file.append(b"1\n").is_err());
        fs::create_dir(&folder).unwrap();
        file.append(b"1\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
    }

    #[test]
    fn a_disk_that_is_full_gets_no_half_line() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: a file system of two pages needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        // Of this thread alone: the mount goes with it.
        let work = || {
            use nix::sched::{CloneFlags, unshare};
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            for arguments in [
                &["--make-rprivate", "/"][..],
                &["-t", "tmpfs", "-o", "size=8192", "tmpfs"],
            ] {
                let mut mount = std::process::Command::new("mount");
                mount.args(arguments);
                if arguments.len() > 2 {
                    mount.arg(dir.path());
                }
                assert!(mount.status().unwrap().success());
            }
            let filler = dir.path().join("filler");
            fs::write(&filler, vec![0; 4096]).unwrap();
            let path = dir.path().join("a");
            let lines: Vec<Vec<u8>> = (b'a'..=b'b')
                .map(|letter| [vec![letter; 2999], vec![b'\n']].concat())
                .collect();
            let mut file = LineFile::open(&path).unwrap();
            file.append(&lines[0]).unwrap();
            let error = file.append(&lines[1]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            assert_eq!(fs::read(&path).unwrap(), lines[0]);
            fs::remove_file(&filler).unwrap();
            file.append(&lines[1]).unwrap();
            assert_eq!(fs::read(&path).unwrap(), lines.concat());
        };
        std::thread::scope(|scope| scope.spawn(work).join()).unwrap();
    }

    #[test]
    fn a_part_is_taken_off_or_finished_and_never_doubled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut file = LineFile::open(&path).unwrap();
        file.append(b"before\n").unwrap();
        // As after a write that took three bytes of a line and then failed.
        let broken = || io::Error::from(io::ErrorKind::StorageFull);
        file.file.write_all(b"lin").unwrap();
        file.undo(3, 7, true, broken()).unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "before\n");
        file.append(b"line\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "before\nline\n");
        // Somebody else wrote behind it: nothing may be taken off, so the rest follows.
        file.file.write_all(b"moXX").unwrap();
        file.undo(2, 12, true, broken()).unwrap_err();
        file.append(b"more\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "before\nline\nmoXXre\n");
        // A rotation in between: the whole line again.
        file.file.write_all(b"laXX").unwrap();
        file.undo(2, 19, true, broken()).unwrap_err();
        fs::rename(&path, dir.path().join("a.1")).unwrap();
        file.append(b"last\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "last\n");
    }
}
