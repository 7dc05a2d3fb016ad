//! The reads that another process may hold up. Each takes an [`Aside`], so that none can be made
//! elsewhere; `tests/structure.rs` looks for those that go around it.

use std::{
    borrow::Cow,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read},
    os::{
        fd::OwnedFd,
        unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    },
    path::Path,
};

use nix::{
    fcntl::AtFlags,
    sys::stat::fstatat,
    unistd::{Uid, User},
};

use super::Aside;

const ROOT: u32 = 0;

/// The arguments below /proc/PID: the kernel waits for the process's memory map (mmap_lock).
pub const CMDLINE: &str = "cmdline";
/// The system call that it is in: the kernel waits for an execve(2) of it (exec_update_lock), and that for
/// the memory map.
pub const SYSCALL: &str = "syscall";

/// Whose file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Whoever it belongs to, also by a symbolic link.
    Anybody,
    /// Root's, or of the user that its folder belongs to, as a DHCP server has it. A folder that
    /// everybody may write to, such as /tmp, belongs to root, and a symbolic link in it to whoever
    /// made it: that is refused.
    Folder,
}

/// The name of a user by the system's name service, which may ask a server (getpwuid(3)).
pub fn user_name(_: &Aside, uid: u32) -> Option<String> {
    let user = User::from_uid(Uid::from_raw(uid)).ok()??;
    Some(user.name)
}

/// The first bytes of an open file, as many as `buffer` takes; for [`CMDLINE`] and the like.
pub fn beginning<'a>(_: &Aside, file: &File, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let length = file.read_at(buffer, 0).ok()?;
    buffer.get(..length)
}

/// True when two paths below `folder` lead to the same file; asks its file system, which may be a process.
pub fn is_same_file(_: &Aside, folder: &OwnedFd, a: &str, b: &str) -> bool {
    let id = |path: &str| {
        let stat = fstatat(folder, path, AtFlags::empty()).ok()?;
        Some((stat.st_dev, stat.st_ino))
    };
    id(a).is_some_and(|file| id(b) == Some(file))
}

/// A whole regular file.
///
/// # Errors
/// As [`open`], and when the file cannot be read or has more than `most` bytes.
pub fn file(aside: &Aside, path: &Path, most: u64, owner: Owner) -> io::Result<Vec<u8>> {
    let bytes = open(aside, path, owner)?.beginning(most.saturating_add(1))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > most) {
        return Err(io::Error::other(format!("it has more than {most} bytes")));
    }
    Ok(bytes)
}

/// A regular file that is open.
#[derive(Debug)]
pub struct Regular {
    file: File,
    stamp: Stamp,
}

/// What changes with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
}

/// Opens a regular file.
///
/// # Errors
/// When it cannot be opened, is something else (a FIFO would wait for its writer) or belongs to
/// somebody else than `owner` allows.
pub fn open(_: &Aside, path: &Path, owner: Owner) -> io::Result<Regular> {
    let file = match owner {
        Owner::Anybody => open_at_once(path, 0)?,
        Owner::Folder => of_folder(path)?,
    };
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let stamp = Stamp {
        inode: (meta.dev(), meta.ino()),
        size: meta.size(),
        modified: (meta.mtime(), meta.mtime_nsec()),
    };
    Ok(Regular { file, stamp })
}

impl Regular {
    /// Differs when the file was changed or replaced.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Its first `most` bytes.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn beginning(self, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// Without O_NONBLOCK a FIFO would not even be opened before it has a writer.
fn open_at_once(path: &Path, flags: i32) -> io::Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | flags;
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags).open(path)
}

fn of_folder(path: &Path) -> io::Result<File> {
    let mut path = Cow::Borrowed(path);
    if folder(&path)?.mode() & libc::S_IWOTH == 0 {
        path = fs::canonicalize(&path)?.into();
    }
    let file = open_at_once(&path, libc::O_NOFOLLOW).map_err(|e| match e.raw_os_error() {
        Some(libc::ELOOP) => io::Error::other("it is a symbolic link in a folder of everybody's"),
        _ => e,
    })?;
    let owner = file.metadata()?.uid();
    if owner != ROOT && owner != folder(&path)?.uid() {
        let who = format!("it belongs to uid {owner}, neither root nor the owner of its folder");
        return Err(io::Error::other(who));
    }
    Ok(file)
}

fn folder(path: &Path) -> io::Result<Metadata> {
    fs::metadata(path.parent().unwrap_or(Path::new("/")))
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::{PermissionsExt, chown, symlink},
        time::{Duration, Instant},
    };

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;
    use crate::helper::Helper;

    fn read(path: &Path, owner: Owner) -> Result<Vec<u8>, String> {
        let (helper, path) = (Helper::new("test", 1), path.to_owned());
        let soon = Instant::now() + Duration::from_secs(30);
        let read = move |aside: &Aside| file(aside, &path, 8, owner).map_err(|e| e.to_string());
        helper.ask(soon, read).expect("it does not wait")
    }

    #[test]
    fn a_fifo_and_a_folder_are_refused_and_do_not_hold_anything_up() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        for (path, owner) in [
            (fifo.as_path(), Owner::Anybody),
            (fifo.as_path(), Owner::Folder),
            (dir.path(), Owner::Anybody),
        ] {
            let refused = read(path, owner).unwrap_err();
            assert_eq!(refused, "it is not a regular file", "{path:?}");
        }
    }

    #[test]
    fn a_file_is_read_up_to_a_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert!(read(&path, Owner::Folder).is_err(), "there is none");
        fs::write(&path, "12345678").unwrap();
        assert_eq!(read(&path, Owner::Folder).unwrap(), b"12345678");
        fs::write(&path, "123456789").unwrap();
        assert!(read(&path, Owner::Folder).unwrap_err().contains("8 bytes"));
    }

    #[test]
    fn a_file_of_somebody_else_is_refused() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root can give a file away");
            assert!(std::env::var_os("CI").is_none(), "CI runs this as root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let [path, link] = ["file", "link"].map(|name| dir.path().join(name));
        fs::write(&path, "lease").unwrap();
        symlink(&path, &link).unwrap();
        assert!(read(&path, Owner::Folder).is_ok());
        assert!(read(&link, Owner::Folder).is_ok(), "root made the link");
        chown(&path, Some(65534), None).unwrap();
        for path in [&path, &link] {
            let refused = read(path, Owner::Folder).unwrap_err();
            assert!(refused.contains("belongs to uid 65534"), "{refused}");
            assert!(read(path, Owner::Anybody).is_ok());
        }
        // As Kea and its folder.
        chown(dir.path(), Some(65534), None).unwrap();
        assert!(read(&path, Owner::Folder).is_ok());
        // As /tmp.
        chown(dir.path(), Some(0), None).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        chown(&path, Some(0), None).unwrap();
        assert!(read(&path, Owner::Folder).is_ok());
        let refused = read(&link, Owner::Folder).unwrap_err();
        assert!(refused.contains("symbolic link"), "{refused}");
    }
}
