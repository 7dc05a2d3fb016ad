//! Files of root's in a folder that is feedgate's become another user's.
//!
//! Whoever took an earlier daemon over may have left anything there: nothing is followed out of the folder.
//! A link is not followed, another file system is not entered, a file that has a second name is left
//! alone (it may be anybody's, by a hard link), and each file is looked at and changed by one descriptor.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::Path,
};

use nix::{
    fcntl::{AtFlags, OFlag, openat},
    sys::stat::Mode,
    unistd::{Uid, fchownat},
};

/// Folders in folders; a state folder has two.
const DEEPEST: usize = 8;

/// Hands a file over, or a folder with all that is in it; nothing where nothing is. Groups stay.
pub(super) fn hand_over(path: &Path, to: Uid) -> io::Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path);
    match opened {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        opened => {
            let file = opened?;
            let device = file.metadata()?.dev();
            give(&file, to, device, DEEPEST)
        }
    }
}

fn give(file: &File, to: Uid, device: u64, depth: usize) -> io::Result<()> {
    let found = file.metadata()?;
    if found.dev() != device {
        return Ok(());
    }
    let is_folder = found.is_dir();
    if found.uid() == 0 && (is_folder || found.nlink() == 1) {
        match fchownat(file.as_fd(), "", Some(to), None, AtFlags::AT_EMPTY_PATH) {
            // It loads, and cannot be written by root either.
            Err(nix::errno::Errno::EROFS) => {}
            done => done?,
        }
    }
    if is_folder && depth > 0 {
        // By the descriptor: the name may lead elsewhere by now.
        for entry in fs::read_dir(format!("/proc/self/fd/{}", file.as_raw_fd()))? {
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let entry = openat(file.as_fd(), &*entry?.file_name(), flags, Mode::empty())?;
            give(&File::from(entry), to, device, depth - 1)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn owner(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().uid()
    }

    #[test]
    fn what_is_roots_in_the_folder_and_nothing_outside() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("skipped: only root gives files away");
        }
        let outside = tempfile::tempdir().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (secret, state) = (outside.path().join("secret"), folder.path().join("state"));
        fs::write(&secret, "x").unwrap();
        fs::create_dir_all(state.join("feeds")).unwrap();
        fs::write(state.join("feeds/a.last"), "x").unwrap();
        fs::write(state.join("other"), "x").unwrap();
        std::os::unix::fs::chown(state.join("other"), Some(7), None).unwrap();
        symlink(&secret, state.join("link")).unwrap();
        symlink(outside.path(), state.join("folder")).unwrap();
        fs::hard_link(&secret, outside.path().join("hard")).unwrap();
        fs::write(outside.path().join("second"), "x").unwrap();
        // Both temporary folders are on one file system.
        fs::hard_link(outside.path().join("second"), state.join("hard")).unwrap();

        hand_over(&state, Uid::from_raw(64900)).unwrap();
        for (path, uid) in [
            ("", 64900),
            ("feeds", 64900),
            ("feeds/a.last", 64900),
            ("link", 64900),
            ("other", 7),
            ("hard", 0),
        ] {
            assert_eq!(owner(&state.join(path)), uid, "{path}");
        }
        for path in ["", "secret", "second"] {
            assert_eq!(owner(&outside.path().join(path)), 0, "{path}");
        }
        hand_over(&state.join("gone"), Uid::from_raw(64900)).unwrap();
    }
}
