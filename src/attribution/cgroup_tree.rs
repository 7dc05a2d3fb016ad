//! The mounted cgroup2 tree: the path of a cgroup ID, and the processes of a path.

use std::{
    collections::HashMap,
    fs::{self, File},
    os::{
        fd::AsRawFd,
        unix::fs::{DirEntryExt, MetadataExt},
    },
    path::{Path, PathBuf},
    time::Instant,
};

use nix::{
    errno::Errno,
    sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs},
};

use super::{kernel::open_cgroup, process::read_until};

/// Paths remembered; then all are looked up again.
const CAPACITY: usize = 4096;

/// Files and folders seen in one walk through the tree.
const MAX_WALK: usize = 1_000_000;

/// Most bytes read of one list of processes: about 130,000 of them.
const MAX_PROCS: u64 = 1 << 20;

/// A cgroup2 mount and what is known of it.
pub(super) struct CgroupTree {
    root: PathBuf,
    proc: PathBuf,
    /// Only of a real cgroup2 mount: other file systems call its handles stale.
    mount: Option<File>,
    /// `None`: there is no such cgroup any more. IDs are not used twice.
    paths: HashMap<u64, Option<String>>,
}

impl CgroupTree {
    pub(super) fn new(root: &Path, proc: &Path) -> Self {
        Self {
            root: root.canonicalize().unwrap_or_else(|_| root.to_owned()),
            proc: proc.to_owned(),
            mount: File::open(root).ok().filter(is_cgroup2),
            paths: HashMap::new(),
        }
    }

    /// The path of a cgroup below the mount, `/` for the root; `None` where there is none.
    pub(super) fn path(&mut self, id: u64, deadline: Instant) -> Option<String> {
        if let Some(known) = self.paths.get(&id) {
            return known.clone();
        }
        match self.by_handle(id) {
            Ok(path) => self.remember(id, Some(path)),
            Err(Errno::ESTALE | Errno::ENOENT) => self.remember(id, None),
            // Not permitted, or no kernfs.
            Err(_) => self.walk(id, deadline),
        }
        self.paths.get(&id).cloned().flatten()
    }

    /// The processes of a cgroup, highest (most often newest) number first, as far as they are listed by
    /// `deadline`.
    pub(super) fn processes(&self, path: &str, deadline: Instant) -> Vec<u32> {
        let list = self
            .root
            .join(path.trim_start_matches('/'))
            .join("cgroup.procs");
        let text = read_until(&list, MAX_PROCS, deadline).unwrap_or_default();
        let mut pids: Vec<u32> = text
            .split(|&byte| byte == b'\n')
            .filter_map(|line| std::str::from_utf8(line).ok()?.parse().ok())
            .filter(|&pid| pid != 0) // a process of another pid namespace
            .collect();
        pids.sort_unstable_by(|a, b| b.cmp(a));
        pids
    }

    fn by_handle(&self, id: u64) -> Result<String, Errno> {
        let mount = self.mount.as_ref().ok_or(Errno::ENOTDIR)?;
        let folder = open_cgroup(mount, id)?;
        let link = self.proc.join(format!("self/fd/{}", folder.as_raw_fd()));
        let path = fs::read_link(link).map_err(|_| Errno::EACCES)?;
        self.below_root(&path).ok_or(Errno::EXDEV)
    }

    /// Compares inode numbers, which are cgroup IDs, and remembers all that it sees.
    fn walk(&mut self, id: u64, deadline: Instant) {
        let mut folders = vec![self.root.clone()];
        if fs::metadata(&self.root).is_ok_and(|root| root.ino() == id) {
            return self.remember(id, Some("/".to_owned()));
        }
        let mut visited = 0_usize;
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                visited += 1;
                if visited > MAX_WALK || Instant::now() >= deadline {
                    return; // not known, and not known to be gone
                }
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                let path = entry.path();
                if let Some(below) = self.below_root(&path) {
                    self.remember(entry.ino(), Some(below));
                }
                folders.push(path);
            }
            if self.paths.contains_key(&id) {
                return;
            }
        }
        self.remember(id, None);
    }

    fn below_root(&self, path: &Path) -> Option<String> {
        let below = path.strip_prefix(&self.root).ok()?;
        Some(format!("/{}", below.to_string_lossy()))
    }

    fn remember(&mut self, id: u64, path: Option<String>) {
        if self.paths.len() >= CAPACITY {
            self.paths.clear();
        }
        self.paths.insert(id, path);
    }
}

fn is_cgroup2(folder: &File) -> bool {
    fstatfs(folder).is_ok_and(|stat| stat.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn fixture() -> TempDir {
        let dir = TempDir::new().unwrap();
        fs::create_dir_all(dir.path().join("system.slice/a.service/sub")).unwrap();
        fs::create_dir_all(dir.path().join("docker")).unwrap();
        fs::write(dir.path().join("docker/cgroup.procs"), "7\n0\n900\n30\nx\n").unwrap();
        dir
    }

    #[test]
    fn a_folder_is_found_by_its_inode_number() {
        let dir = fixture();
        let mut tree = CgroupTree::new(dir.path(), Path::new("/nowhere"));
        let id = |path: &str| fs::metadata(dir.path().join(path)).unwrap().ino();
        let sub = id("system.slice/a.service/sub");
        assert_eq!(
            tree.path(sub, soon()).as_deref(),
            Some("/system.slice/a.service/sub")
        );
        assert_eq!(tree.path(id(""), soon()).as_deref(), Some("/"));
        assert_eq!(tree.path(1 << 60, soon()), None);
    }

    #[test]
    fn a_walk_that_ran_out_of_time_is_tried_again() {
        let dir = fixture();
        let mut tree = CgroupTree::new(dir.path(), Path::new("/nowhere"));
        let id = fs::metadata(dir.path().join("docker")).unwrap().ino();
        assert_eq!(tree.path(id, Instant::now()), None);
        assert_eq!(tree.path(id, soon()).as_deref(), Some("/docker"));
    }

    #[test]
    fn the_newest_process_comes_first() {
        let dir = fixture();
        let tree = CgroupTree::new(dir.path(), Path::new("/nowhere"));
        assert_eq!(tree.processes("/docker", soon()), [900, 30, 7]);
        assert_eq!(tree.processes("/none", soon()), [0_u32; 0]);
    }
}
