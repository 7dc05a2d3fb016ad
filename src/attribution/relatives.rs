//! Processes that inherited a socket: parent, children and siblings of its holder.
//!
//! A descriptor keeps its number through fork(2), so one link of each relative is read, and of a
//! descendant standard input, where servers such as inetd put it. A socket that was sent to a
//! stranger (SCM_RIGHTS) is not seen here.

use std::{
    fs::{self, File},
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use super::process::{self, Handle, Process, numbers, parent_of, read_limited};
use crate::helper::Helper;

/// Relatives asked.
const MAX_RELATIVES: usize = 16;
/// Threads of one process whose children are listed.
const MAX_THREADS: usize = 64;
/// Ancestors asked, as long as each holds the socket.
const MAX_ANCESTORS: usize = 8;
/// Most bytes read of a list of children.
const MAX_CHILDREN: u64 = 4096;
/// Where a child that was made to serve one connection has it.
const STDIN: u32 = 0;
/// Init, and the kernel's own parent; they share sockets with all or with none.
const ROOTS: u32 = 2;

/// One of several processes that hold a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sharer {
    pub(super) pid: u32,
    /// Clock ticks since boot.
    pub(super) start: u64,
    pub(super) comm: String,
    /// It is in a system call on the socket.
    pub(super) busy: bool,
}

/// The folder of a process, and one of its descriptors.
type Open = (Arc<OwnedFd>, u32);

/// A process that may have inherited a socket, or whose parent it was inherited from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Relative {
    pid: u32,
    /// It comes from the holder by fork(2).
    is_descendant: bool,
}

/// Asks a process table.
pub(super) struct Relatives {
    proc: PathBuf,
    /// Its last field is the number of the newest process or thread.
    loadavg: Option<File>,
    helper: Helper,
}

impl Relatives {
    pub(super) fn new(proc: &Path, helper: &Helper) -> Self {
        Self {
            proc: proc.to_owned(),
            loadavg: File::open(proc.join("loadavg")).ok(),
            helper: helper.clone(),
        }
    }

    /// A number that changes with each fork and each new thread of the host; `None`: not readable.
    pub(super) fn forks(&self) -> Option<u64> {
        let mut bytes = [0; 128];
        let length = self.loadavg.as_ref()?.read_at(&mut bytes, 0).ok()?;
        let text = std::str::from_utf8(bytes.get(..length)?).ok()?;
        text.split_ascii_whitespace().last()?.parse().ok()
    }

    /// Parent, descendants and siblings of `holder`, at most 16.
    pub(super) fn of(&self, holder: &Handle, deadline: Instant) -> Vec<Relative> {
        let mut found = Vec::new();
        let parent = Some(holder.ppid()).filter(|&parent| parent > ROOTS);
        found.extend(parent);
        let before = found.len();
        self.descendants(holder.pid(), holder.pid(), &mut found, deadline);
        let own = before..found.len();
        if let Some(parent) = parent {
            self.descendants(parent, holder.pid(), &mut found, deadline);
        }
        let relative = |(at, pid)| Relative {
            pid,
            is_descendant: own.contains(&at),
        };
        found.into_iter().enumerate().map(relative).collect()
    }

    /// Those of `family` that hold socket `target` too, and the ancestors of its parent that do; and whether
    /// `holder` itself waits in a system call on its descriptor `fd`, where there are others.
    pub(super) fn sharers(
        &self,
        holder: &Handle,
        family: &[Relative],
        fd: u32,
        target: &str,
        deadline: Instant,
    ) -> (bool, Vec<Sharer>) {
        let mut sharers = Vec::new();
        for &relative in family {
            if Instant::now() >= deadline {
                break;
            }
            sharers.extend(self.sharer(relative, fd, target));
        }
        let mut pid = holder.ppid();
        for _ in 0..MAX_ANCESTORS {
            let holds = |(sharer, _): &(Sharer, Open)| sharer.pid == pid;
            if !sharers.iter().any(holds) || Instant::now() >= deadline {
                break;
            }
            let Some(parent) = parent_of(&self.proc, pid).filter(|&parent| parent > ROOTS) else {
                break;
            };
            pid = parent;
            if !family.iter().any(|relative| relative.pid == pid) {
                let ancestor = Relative {
                    pid,
                    is_descendant: false,
                };
                sharers.extend(self.sharer(ancestor, fd, target));
            }
        }
        self.with_busy((holder.folder(), fd), sharers, deadline)
    }

    /// Finds out who of them is busy with the socket, as far as that is read in time.
    fn with_busy(
        &self,
        holder: Open,
        sharers: Vec<(Sharer, Open)>,
        deadline: Instant,
    ) -> (bool, Vec<Sharer>) {
        if sharers.is_empty() {
            return (false, Vec::new());
        }
        let (mut sharers, open): (Vec<_>, Vec<_>) = sharers.into_iter().unzip();
        let all: Vec<Open> = std::iter::once(holder).chain(open).collect();
        let busy = self
            .helper
            .ask(deadline, move |aside| process::busy(aside, &all));
        let mut busy = busy.unwrap_or_default().into_iter();
        let holder = busy.next().unwrap_or(false);
        for (sharer, busy) in sharers.iter_mut().zip(busy) {
            sharer.busy = busy;
        }
        (holder, sharers)
    }

    fn sharer(&self, relative: Relative, fd: u32, target: &str) -> Option<(Sharer, Open)> {
        let pid = relative.pid;
        let leads = |fd: u32| {
            let link = self.proc.join(format!("{pid}/fd/{fd}"));
            fs::read_link(link).is_ok_and(|found| found.as_os_str() == target)
        };
        let stdin = (relative.is_descendant && fd != STDIN).then_some(STDIN);
        let fd = [Some(fd), stdin]
            .into_iter()
            .flatten()
            .find(|&fd| leads(fd))?;
        let handle = Handle::open(&self.proc, pid)?;
        if !handle.leads_to(&format!("fd/{fd}"), target) {
            return None;
        }
        let sharer = Sharer {
            pid,
            start: handle.start(),
            busy: false,
            comm: handle.comm()?,
        };
        Some((sharer, (handle.folder(), fd)))
    }

    /// All of one that is named first; `None` when it has gone meanwhile.
    pub(super) fn describe(&self, sharer: &Sharer, deadline: Instant) -> Option<Process> {
        let mut handle = Handle::open(&self.proc, sharer.pid)?;
        if handle.start() != sharer.start {
            return None;
        }
        handle.describe(&self.helper, deadline)
    }

    fn descendants(&self, of: u32, but: u32, found: &mut Vec<u32>, deadline: Instant) {
        let mut parents = vec![of];
        while let Some(parent) = parents.pop() {
            for child in self.children(parent, deadline) {
                if found.len() >= MAX_RELATIVES {
                    return;
                }
                if child != but && !found.contains(&child) {
                    found.push(child);
                    parents.push(child);
                }
            }
        }
    }

    /// Empty on kernels without CONFIG_PROC_CHILDREN.
    fn children(&self, pid: u32, deadline: Instant) -> Vec<u32> {
        let tasks = self.proc.join(pid.to_string()).join("task");
        let threads = numbers(&tasks, MAX_THREADS, deadline).unwrap_or_default();
        threads
            .into_iter()
            .take_while(|_| Instant::now() < deadline)
            .filter_map(|thread| {
                read_limited(&tasks.join(format!("{thread}/children")), MAX_CHILDREN)
            })
            .flat_map(|list| {
                let list = String::from_utf8_lossy(&list).into_owned();
                let pids: Vec<u32> = list
                    .split_ascii_whitespace()
                    .filter_map(|pid| pid.parse().ok())
                    .collect();
                pids
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader},
        process::{Command, Stdio},
        time::Duration,
    };

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[test]
    fn each_fork_is_counted() {
        let relatives = Relatives::new(Path::new("/proc"), &Helper::new("test", 1));
        let before = relatives.forks().unwrap();
        Command::new("true").status().unwrap();
        assert_ne!(relatives.forks(), Some(before));
        assert_eq!(
            Relatives::new(Path::new("/nowhere"), &Helper::new("test", 1)).forks(),
            None
        );
    }

    #[test]
    fn parent_and_children_are_relatives() {
        let relatives = Relatives::new(Path::new("/proc"), &Helper::new("test", 1));
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 60 & echo $!; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let sleep: u32 = line.trim().parse().unwrap();
        let me = Handle::open(Path::new("/proc"), std::process::id()).unwrap();
        assert!(relatives.children(me.pid(), soon()).contains(&shell.id()));
        assert!(relatives.of(&me, soon()).len() <= MAX_RELATIVES);
        let of_shell = relatives.of(
            &Handle::open(Path::new("/proc"), shell.id()).unwrap(),
            soon(),
        );
        let relative = |pid, is_descendant| Relative { pid, is_descendant };
        assert!(
            of_shell.contains(&relative(me.pid(), false)),
            "{of_shell:?}"
        );
        assert!(of_shell.contains(&relative(sleep, true)), "{of_shell:?}");
        Command::new("kill").arg(line.trim()).status().unwrap();
        shell.kill().unwrap();
        shell.wait().unwrap();
    }
}
