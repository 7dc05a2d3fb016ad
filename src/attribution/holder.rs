//! Socket inode to the processes that have it open.
//!
//! The kernel does not say this; /proc/PID/fd has to be searched. Processes that were right
//! before are asked first, then those of the socket's cgroup, then all, then threads that do not
//! share their process's table of open files. Of each the lowest and the highest descriptors are read;
//! those in between of processes with many come when the others were asked, and in turns, so that one
//! process does not use up the time of all. Who was found is asked for relatives that inherited the
//! socket.

use std::{
    collections::{HashSet, VecDeque},
    io::ErrorKind,
    mem,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    descriptors::{Descriptors, Link},
    kernel::share_files,
    process::{Handle, Process, Unlisted, numbers},
    relatives::{Relative, Relatives, Sharer},
};
use crate::helper::{Aside, Helper};

/// Holders remembered, with three open files each.
const MAX_RECENT: usize = 32;
/// Holders of the same cgroup whose likely descriptors are tried first.
const MAX_GUESSES: usize = 8;
/// Of those, how many have all their descriptors read before the cgroup's processes are listed.
const MAX_RESCANS: usize = 4;
/// Descriptors remembered of each.
const MAX_EARLIER: usize = 4;
/// Descriptors tried next to the last one, when none of those is it.
const NEAR: [i32; 5] = [2, -1, -2, 3, -3];
/// How long it is waited for which threads of one process share their open files: a process may hold
/// that up, and others come after it.
const COMPARE: Duration = Duration::from_millis(20);
/// Files read between two looks at the clock.
const LINKS_PER_CHECK: usize = 64;

/// How a search ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Search {
    /// The holder, or the likeliest of several with the others behind it.
    Found(Process, Vec<Sharer>),
    Nobody {
        /// Processes whose descriptors may not be read.
        denied: usize,
        /// Processes whose threads could not be told apart in time.
        held_up: usize,
    },
    Timeout,
}

/// Searches, and remembers who was right.
pub(super) struct Holders {
    proc: PathBuf,
    /// Last one right first.
    recent: VecDeque<Recent>,
    relatives: Relatives,
    helper: Helper,
}

#[derive(Debug)]
struct Recent {
    handle: Handle,
    /// Cgroup of the socket.
    cgroup: Option<u64>,
    /// With a table of open files of its own.
    thread: Option<u32>,
    /// The descriptor it had last.
    fd: u32,
    /// Others that it had before, the last one first.
    earlier: VecDeque<u32>,
    /// Processes it may share sockets with, as of a count of forks.
    family: Option<(u64, Vec<Relative>)>,
}

/// One search under way.
struct Goal {
    target: String,
    cgroup: Option<u64>,
    deadline: Instant,
    /// Processes whose descriptors may not be read.
    denied: HashSet<u32>,
    /// Processes whose threads could not be told apart in time.
    held_up: usize,
    /// What is left of those with many descriptors.
    left: Vec<Owner>,
}

/// Who may hold the socket.
struct Owner {
    pid: u32,
    /// With a table of open files of its own.
    thread: Option<u32>,
    descriptors: Descriptors,
}

/// The deadline passed.
struct Timeout;

impl Holders {
    pub(super) fn new(proc: &Path, helper: &Helper) -> Self {
        Self {
            proc: proc.to_owned(),
            recent: VecDeque::with_capacity(MAX_RECENT),
            relatives: Relatives::new(proc, helper),
            helper: helper.clone(),
        }
    }

    /// The processes that hold socket `inode`. `cgroup` is the socket's, `members` gives that
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
            denied: HashSet::new(),
            held_up: 0,
            left: Vec::new(),
        };
        match self.search(&mut goal, members) {
            Ok(Some(process)) => self.with_sharers(process, &goal),
            Ok(None) => Search::Nobody {
                denied: goal.denied.len(),
                held_up: goal.held_up,
            },
            Err(Timeout) => Search::Timeout,
        }
    }

    fn search(
        &mut self,
        goal: &mut Goal,
        members: impl FnOnce() -> Vec<u32>,
    ) -> Result<Option<Process>, Timeout> {
        goal.check_time()?;
        if let Some(process) = self.guess(goal) {
            return Ok(Some(process));
        }
        let rescans: Vec<u32> = self
            .recent
            .iter()
            .filter(|recent| recent.cgroup == goal.cgroup)
            .take(MAX_RESCANS)
            .map(|recent| recent.handle.pid())
            .collect();
        let mut tried = HashSet::new();
        if let Some(process) = self.scan_processes(goal, &rescans, &mut tried)? {
            return Ok(Some(process));
        }
        if let Some(process) = self.scan_processes(goal, &members(), &mut tried)? {
            return Ok(Some(process));
        }
        // Its own cgroup is by far the likeliest, but a quarter of the time is for all others.
        let now = Instant::now();
        let most = goal.deadline.saturating_duration_since(now) / 4 * 3;
        if let Some(process) = self.scan_left(goal, now + most) {
            return Ok(Some(process));
        }
        let all = self.all_processes(goal)?;
        if let Some(process) = self.scan_processes(goal, &all, &mut tried)? {
            return Ok(Some(process));
        }
        if let Some(process) = self.scan_threads(goal, &all)? {
            return Ok(Some(process));
        }
        if let Some(process) = self.scan_left(goal, goal.deadline) {
            return Ok(Some(process));
        }
        goal.check_time()?;
        Ok(None)
    }

    /// What is left of processes with many descriptors, one part of each in turn, until `until`.
    fn scan_left(&mut self, goal: &mut Goal, until: Instant) -> Option<Process> {
        let mut left = VecDeque::from(mem::take(&mut goal.left));
        while let Some(mut owner) = left.pop_front() {
            if Instant::now() >= until {
                left.push_front(owner);
                break;
            }
            let fds = owner.descriptors.more();
            if fds.is_empty() {
                continue;
            }
            if let Link::At(fd) = owner.descriptors.first_to(&fds, &goal.target)
                && let Some(process) = self.prove(goal, owner.pid, owner.thread, fd)
            {
                return Some(process);
            }
            owner.descriptors.close();
            left.push_back(owner);
        }
        goal.left = left.into();
        None
    }

    /// Looks for others that hold the socket of the holder just found, which is the first of the
    /// recent ones.
    fn with_sharers(&mut self, process: Process, goal: &Goal) -> Search {
        let Some(holder) = self.recent.front_mut() else {
            return Search::Found(process, Vec::new());
        };
        let forks = self.relatives.forks();
        if holder.family.as_ref().map(|(at, _)| Some(*at)) != Some(forks) {
            let family = self.relatives.of(&holder.handle, goal.deadline);
            holder.family = Some((forks.unwrap_or_default(), family));
        }
        let family = holder.family.as_ref().map(|(_, family)| family.as_slice());
        let (busy, sharers) = self.relatives.sharers(
            &holder.handle,
            family.unwrap_or_default(),
            holder.fd,
            &goal.target,
            goal.deadline,
        );
        if sharers.is_empty() {
            return Search::Found(process, sharers);
        }
        let (first, others) = likeliest_first(sharer_of(&process, busy), sharers);
        if first.pid == process.pid {
            return Search::Found(process, others);
        }
        match self.relatives.describe(&first, goal.deadline) {
            Some(first) => Search::Found(first, others),
            // It has just ended: the holder that was found is still one.
            None => {
                let others = others.into_iter().filter(|other| other.pid != process.pid);
                let others = others.collect();
                Search::Found(process, others)
            }
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
                && let Some(process) = self.scan_folder(goal, pid, None)?
            {
                return Ok(Some(process));
            }
        }
        Ok(None)
    }

    /// The descriptors next to the last one and those it had before: a process that opens one connection
    /// after the other gets the same number, or the next; one with several at once takes turns.
    fn guess(&mut self, goal: &Goal) -> Option<Process> {
        let mut at = 0;
        let mut guesses = 0;
        while let Some(recent) = self.recent.get_mut(at) {
            if recent.cgroup != goal.cgroup {
                at += 1;
                continue;
            }
            if guesses == MAX_GUESSES {
                return None;
            }
            guesses += 1;
            let next = recent.fd.saturating_add(1);
            let near = NEAR
                .iter()
                .filter_map(|&step| recent.fd.checked_add_signed(step));
            let mut likely = [recent.fd, next]
                .into_iter()
                .chain(recent.earlier.iter().copied().filter(|&fd| fd != next))
                .chain(near);
            let hit = likely.find(|&fd| {
                let link = link(recent.thread, fd);
                recent.handle.leads_to(&link, &goal.target)
            });
            let process = hit.and_then(|_| recent.handle.describe(&self.helper, goal.deadline));
            if process.is_some() || recent.handle.comm().is_none() {
                let mut found = self.recent.remove(at)?;
                let Some(fd) = hit.filter(|_| process.is_some()) else {
                    continue; // it has ended
                };
                found.had(fd);
                self.recent.push_front(found);
                return process;
            }
            at += 1;
        }
        None
    }

    /// The descriptors of a process, or of a thread with its own: of both ends of their numbers, and all
    /// where they are few.
    fn scan_folder(
        &mut self,
        goal: &mut Goal,
        pid: u32,
        thread: Option<u32>,
    ) -> Result<Option<Process>, Timeout> {
        goal.check_time()?;
        let mut folder = self.proc.join(pid.to_string());
        if let Some(thread) = thread {
            folder.extend(["task".to_owned(), thread.to_string()]);
        }
        let mut descriptors = Descriptors::of(folder);
        let fds = match descriptors.ends() {
            Ok(fds) => fds,
            Err(error) => {
                if error.kind() == ErrorKind::PermissionDenied {
                    goal.denied.insert(pid);
                }
                return Ok(None);
            }
        };
        for fds in fds.chunks(LINKS_PER_CHECK) {
            match descriptors.first_to(fds, &goal.target) {
                Link::At(fd) => return Ok(self.prove(goal, pid, thread, fd)),
                Link::Denied => {
                    goal.denied.insert(pid);
                    return Ok(None);
                }
                Link::None => {}
            }
            goal.check_time()?;
        }
        if descriptors.has_more() {
            descriptors.close();
            goal.left.push(Owner {
                pid,
                thread,
                descriptors,
            });
        }
        Ok(None)
    }

    /// Opens the process, and reads the descriptor again through what was opened.
    fn prove(&mut self, goal: &Goal, pid: u32, thread: Option<u32>, fd: u32) -> Option<Process> {
        let mut handle = Handle::open(&self.proc, pid)?;
        if !handle.leads_to(&link(thread, fd), &goal.target) {
            return None;
        }
        let process = handle.describe(&self.helper, goal.deadline)?;
        let known = self.recent.iter().position(|r| r.handle.pid() == pid);
        let earlier = known.and_then(|at| self.recent.remove(at));
        self.recent.truncate(MAX_RECENT - 1);
        let mut recent = Recent {
            handle,
            cgroup: goal.cgroup,
            thread,
            fd,
            earlier: VecDeque::new(),
            family: None,
        };
        if let Some(before) = earlier.filter(|before| before.thread == thread) {
            recent.earlier = before.earlier;
            recent.fd = before.fd;
            recent.had(fd);
        }
        self.recent.push_front(recent);
        Some(process)
    }

    /// Threads with a table of their own (unshare(2), CLONE_FILES), and those that outlive the
    /// first thread of their process.
    fn scan_threads(&mut self, goal: &mut Goal, pids: &[u32]) -> Result<Option<Process>, Timeout> {
        for &pid in pids {
            if goal.denied.contains(&pid) {
                continue; // its threads are as closed
            }
            let tasks = self.proc.join(pid.to_string()).join("task");
            let mut threads = match numbers(&tasks, usize::MAX, goal.deadline) {
                Ok(threads) => threads,
                Err(Unlisted::Timeout) => return Err(Timeout),
                Err(Unlisted::Io) => continue,
            };
            threads.retain(|&thread| thread != pid);
            for thread in self.with_own_files(goal, pid, threads) {
                if let Some(process) = self.scan_folder(goal, pid, Some(thread))? {
                    return Ok(Some(process));
                }
            }
        }
        Ok(None)
    }

    /// Those of `threads` that have a table of open files of their own; none where that is not known in
    /// time.
    fn with_own_files(&self, goal: &mut Goal, pid: u32, threads: Vec<u32>) -> Vec<u32> {
        if threads.is_empty() {
            return threads;
        }
        let deadline = goal.deadline.min(Instant::now() + COMPARE);
        let compare = move |aside: &Aside| -> Vec<u32> {
            let own = |&thread: &u32| !share_files(aside, pid, thread);
            threads.into_iter().filter(own).collect()
        };
        let own = self.helper.ask(deadline, compare);
        goal.held_up += usize::from(own.is_none());
        own.unwrap_or_default()
    }

    fn all_processes(&self, goal: &Goal) -> Result<Vec<u32>, Timeout> {
        let mut pids = match numbers(&self.proc, usize::MAX, goal.deadline) {
            Ok(pids) => pids,
            Err(Unlisted::Timeout) => return Err(Timeout),
            Err(Unlisted::Io) => Vec::new(),
        };
        pids.sort_unstable_by(|a, b| b.cmp(a));
        Ok(pids)
    }
}

impl Recent {
    /// Remembers that descriptor `fd` was the one this time.
    fn had(&mut self, fd: u32) {
        if fd == self.fd {
            return;
        }
        self.earlier.retain(|&earlier| earlier != fd);
        self.earlier.push_front(self.fd);
        self.earlier.truncate(MAX_EARLIER);
        self.fd = fd;
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

fn sharer_of(process: &Process, busy: bool) -> Sharer {
    Sharer {
        pid: process.pid,
        start: process.start,
        comm: process.comm.clone(),
        busy,
    }
}

/// Whoever is in a system call on the socket; then the newest: a socket is mostly opened to be
/// handed to a child.
fn likeliest_first(holder: Sharer, sharers: Vec<Sharer>) -> (Sharer, Vec<Sharer>) {
    let rank = |sharer: &Sharer| (sharer.busy, sharer.start, sharer.pid);
    let mut others = sharers;
    others.sort_by_key(|sharer| std::cmp::Reverse(rank(sharer)));
    match others.first() {
        Some(other) if rank(other) > rank(&holder) => {
            let first = others.remove(0);
            let at = others.partition_point(|other| rank(other) > rank(&holder));
            others.insert(at, holder);
            (first, others)
        }
        _ => (holder, others),
    }
}

fn link(thread: Option<u32>, fd: u32) -> String {
    match thread {
        Some(thread) => format!("task/{thread}/fd/{fd}"),
        None => format!("fd/{fd}"),
    }
}

#[cfg(test)]
mod tests;
