//! Socket inode to the process that has it open.
//!
//! The kernel does not say this; /proc/PID/fd has to be searched. Processes that were right
//! before are asked first, then those of the socket's cgroup, then all, then threads that do not
//! share their process's table of open files.

use std::{
    collections::{HashSet, VecDeque},
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Instant,
};

use super::{
    kernel::share_files,
    process::{Process, leads_to, read_while_held},
};

/// Holders remembered.
const MAX_RECENT: usize = 64;
/// Holders of the same cgroup whose likely descriptors are tried first.
const MAX_GUESSES: usize = 8;
/// Of those, how many have all their descriptors read before the cgroup's processes are listed.
const MAX_RESCANS: usize = 4;
/// Files read between two looks at the clock.
const LINKS_PER_CHECK: usize = 64;

/// How a search ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Search {
    Found(Process),
    Nobody {
        /// Processes whose descriptors may not be read.
        denied: usize,
    },
    Timeout,
}

/// Searches, and remembers who was right.
pub(super) struct Holders {
    proc: PathBuf,
    /// Last one right first.
    recent: VecDeque<Recent>,
    fds: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Recent {
    pid: u32,
    start: u64,
    /// Cgroup of the socket.
    cgroup: Option<u64>,
    fd: u32,
}

/// One search under way.
struct Goal {
    target: String,
    cgroup: Option<u64>,
    deadline: Instant,
    denied: usize,
}

/// The deadline passed.
struct Timeout;

impl Holders {
    pub(super) fn new(proc: &Path) -> Self {
        Self {
            proc: proc.to_owned(),
            recent: VecDeque::with_capacity(MAX_RECENT),
            fds: Vec::new(),
        }
    }

    /// The process that holds socket `inode`. `cgroup` is the socket's, `members` gives that
    /// cgroup's processes when they are needed.
    pub(super) fn find(
        &mut self,
        inode: u32,
        cgroup: Option<u64>,
        members: impl FnOnce() -> Vec<u32>,
        deadline: Instant,
    ) -> Search {
        let mut goal = Goal {
            target: format!("socket:[{inode}]"),
            cgroup,
            deadline,
            denied: 0,
        };
        match self.search(&mut goal, members) {
            Ok(Some(process)) => Search::Found(process),
            Ok(None) => Search::Nobody {
                denied: goal.denied,
            },
            Err(Timeout) => Search::Timeout,
        }
    }

    fn search(
        &mut self,
        goal: &mut Goal,
        members: impl FnOnce() -> Vec<u32>,
    ) -> Result<Option<Process>, Timeout> {
        if let Some(process) = self.guess(goal) {
            return Ok(Some(process));
        }
        let rescans: Vec<u32> = self
            .same_cgroup(goal)
            .take(MAX_RESCANS)
            .map(|recent| recent.pid)
            .collect();
        let mut tried = HashSet::new();
        if let Some(process) = self.scan_processes(goal, &rescans, &mut tried)? {
            return Ok(Some(process));
        }
        if let Some(process) = self.scan_processes(goal, &members(), &mut tried)? {
            return Ok(Some(process));
        }
        let all = self.all_processes();
        match self.scan_processes(goal, &all, &mut tried)? {
            Some(process) => Ok(Some(process)),
            None => self.scan_threads(goal, &all),
        }
    }

    fn scan_processes(
        &mut self,
        goal: &mut Goal,
        pids: &[u32],
        tried: &mut HashSet<u32>,
    ) -> Result<Option<Process>, Timeout> {
        for &pid in pids {
            if tried.insert(pid)
                && let Some(process) = self.scan_process(goal, pid)?
            {
                return Ok(Some(process));
            }
        }
        Ok(None)
    }

    fn same_cgroup(&self, goal: &Goal) -> impl Iterator<Item = Recent> {
        let cgroup = goal.cgroup;
        self.recent
            .iter()
            .copied()
            .filter(move |recent| recent.cgroup == cgroup)
    }

    /// The descriptors next to the last one: a process that opens one connection after the other
    /// gets the same number, or the next.
    fn guess(&mut self, goal: &Goal) -> Option<Process> {
        let candidates: Vec<Recent> = self.same_cgroup(goal).take(MAX_GUESSES).collect();
        for recent in candidates {
            let folder = self.proc.join(recent.pid.to_string()).join("fd");
            if !folder.exists() {
                self.recent.retain(|other| other.pid != recent.pid);
                continue;
            }
            for fd in [
                recent.fd,
                recent.fd.saturating_add(1),
                recent.fd.saturating_add(2),
            ] {
                let link = folder.join(fd.to_string());
                if !leads_to(&link, &goal.target) {
                    continue;
                }
                let start = Some(recent.start);
                let process = read_while_held(&self.proc, recent.pid, &link, &goal.target, start);
                if let Some(process) = process {
                    self.remember(goal, &process, fd);
                    return Some(process);
                }
            }
        }
        None
    }

    fn scan_process(&mut self, goal: &mut Goal, pid: u32) -> Result<Option<Process>, Timeout> {
        let folder = self.proc.join(pid.to_string()).join("fd");
        self.scan_folder(goal, pid, &folder)
    }

    /// All descriptors of a folder, newest number first.
    fn scan_folder(
        &mut self,
        goal: &mut Goal,
        pid: u32,
        folder: &Path,
    ) -> Result<Option<Process>, Timeout> {
        goal.check_time()?;
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => {
                goal.denied += usize::from(error.kind() == ErrorKind::PermissionDenied);
                return Ok(None);
            }
        };
        self.fds.clear();
        self.fds.extend(
            entries
                .flatten()
                .filter_map(|entry| number(&entry.file_name())),
        );
        self.fds.sort_unstable_by(|a, b| b.cmp(a));
        let Some(fd) = first_link(&self.fds, folder, goal)? else {
            return Ok(None);
        };
        let link = folder.join(fd.to_string());
        let process = read_while_held(&self.proc, pid, &link, &goal.target, None);
        if let Some(process) = &process {
            self.remember(goal, process, fd);
        }
        Ok(process)
    }

    /// Threads with a table of their own (unshare(2), CLONE_FILES), and those that outlive the
    /// first thread of their process.
    fn scan_threads(&mut self, goal: &mut Goal, pids: &[u32]) -> Result<Option<Process>, Timeout> {
        for &pid in pids {
            goal.check_time()?;
            let tasks = self.proc.join(pid.to_string()).join("task");
            for tid in numbers(&tasks) {
                if tid == pid || share_files(pid, tid) {
                    continue;
                }
                let folder = tasks.join(tid.to_string()).join("fd");
                if let Some(process) = self.scan_folder(goal, pid, &folder)? {
                    return Ok(Some(process));
                }
            }
        }
        Ok(None)
    }

    fn all_processes(&self) -> Vec<u32> {
        let mut pids = numbers(&self.proc);
        pids.sort_unstable_by(|a, b| b.cmp(a));
        pids
    }

    fn remember(&mut self, goal: &Goal, process: &Process, fd: u32) {
        self.recent.retain(|recent| recent.pid != process.pid);
        self.recent.truncate(MAX_RECENT - 1);
        self.recent.push_front(Recent {
            pid: process.pid,
            start: process.start,
            cgroup: goal.cgroup,
            fd,
        });
    }
}

impl Goal {
    fn check_time(&self) -> Result<(), Timeout> {
        if Instant::now() < self.deadline {
            Ok(())
        } else {
            Err(Timeout)
        }
    }
}

fn first_link(fds: &[u32], folder: &Path, goal: &Goal) -> Result<Option<u32>, Timeout> {
    for chunk in fds.chunks(LINKS_PER_CHECK) {
        for &fd in chunk {
            if leads_to(&folder.join(fd.to_string()), &goal.target) {
                return Ok(Some(fd));
            }
        }
        goal.check_time()?;
    }
    Ok(None)
}

fn numbers(folder: &Path) -> Vec<u32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| number(&entry.file_name()))
        .collect()
}

fn number(name: &std::ffi::OsStr) -> Option<u32> {
    name.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, time::Duration};

    use tempfile::TempDir;

    use super::*;

    /// Above every real pid, so that kcmp finds none of them.
    const P: u32 = 1 << 30;

    struct Fixture(TempDir);

    impl Fixture {
        fn new() -> Self {
            Self(TempDir::new().unwrap())
        }

        fn process(&self, pid: u32, start: u64) {
            let folder = self.0.path().join(pid.to_string());
            fs::create_dir_all(folder.join("fd")).unwrap();
            let stat =
                format!("{pid} (p) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 {start} 1 1 1");
            fs::write(folder.join("stat"), stat).unwrap();
        }

        fn socket(&self, folder: &str, fd: u32, inode: u32) {
            let folder = self.0.path().join(folder).join("fd");
            fs::create_dir_all(&folder).unwrap();
            symlink(format!("socket:[{inode}]"), folder.join(fd.to_string())).unwrap();
        }

        fn holders(&self) -> Holders {
            Holders::new(self.0.path())
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn pid(search: &Search) -> Option<u32> {
        match search {
            Search::Found(process) => Some(process.pid),
            _ => None,
        }
    }

    #[test]
    fn the_cgroup_is_searched_before_all_of_proc() {
        let fixture = Fixture::new();
        for (at, inode) in [(0, 10), (1, 11), (2, 11)] {
            fixture.process(P + at, 5);
            fixture.socket(&(P + at).to_string(), 3, inode);
        }
        let mut holders = fixture.holders();
        assert_eq!(
            pid(&holders.find(11, Some(1), || vec![P + 1], soon())),
            Some(P + 1)
        );
        // Not in its cgroup any more: the fallback finds it.
        assert_eq!(
            pid(&holders.find(10, Some(1), || vec![P + 1], soon())),
            Some(P)
        );
        assert_eq!(
            holders.find(12, None, Vec::new, soon()),
            Search::Nobody { denied: 0 }
        );
    }

    #[test]
    fn a_holder_is_remembered_only_with_its_start_time() {
        let fixture = Fixture::new();
        fixture.process(P, 5);
        fixture.socket(&P.to_string(), 3, 10);
        fixture.socket(&P.to_string(), 4, 11);
        let mut holders = fixture.holders();
        assert_eq!(pid(&holders.find(10, Some(1), || vec![P], soon())), Some(P));
        let unasked = || panic!("the guess must hit");
        assert_eq!(pid(&holders.find(11, Some(1), unasked, soon())), Some(P));
        // The pid is another process now: read anew, never with the old start.
        fixture.process(P, 6);
        let Search::Found(process) = holders.find(11, Some(1), || vec![P], soon()) else {
            panic!("not found");
        };
        assert_eq!(process.start, 6);
    }

    #[test]
    fn a_thread_with_its_own_table_is_found() {
        let fixture = Fixture::new();
        fixture.process(P, 5);
        fixture.socket(&format!("{P}/task/{P}"), 3, 10);
        fixture.socket(&format!("{P}/task/{}", P + 1), 3, 11);
        assert_eq!(
            pid(&fixture.holders().find(11, None, Vec::new, soon())),
            Some(P)
        );
    }

    #[test]
    fn the_search_ends_at_the_deadline() {
        let fixture = Fixture::new();
        fixture.process(P, 5);
        let found = fixture.holders().find(11, None, || vec![P], Instant::now());
        assert_eq!(found, Search::Timeout);
    }

    #[test]
    fn memory_is_bounded() {
        let fixture = Fixture::new();
        let mut holders = fixture.holders();
        for at in 0..100 {
            fixture.process(P + at, 5);
            fixture.socket(&(P + at).to_string(), 3, at);
            assert!(pid(&holders.find(at, None, || vec![P + at], soon())).is_some());
        }
        assert!(holders.recent.len() <= MAX_RECENT);
    }
}
