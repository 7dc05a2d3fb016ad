//! What /proc says of one process.

use std::{
    fs::{self, File},
    io::Read,
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use nix::{
    fcntl::{OFlag, open, openat, readlinkat},
    sys::stat::Mode,
    time::{ClockId, clock_gettime},
};

use super::{
    Capabilities,
    status::{MAX_COMMAND_LINE, Status, command_line, parse_login, parse_status},
};
use crate::helper::{Answer, Aside, Helper, Ticket, reads};

/// Most bytes read of a stat line: 52 numbers and a name of 15 bytes.
const MAX_STAT: u64 = 2048;

/// Most bytes read of a cgroup file: fourteen hierarchies with paths of 4,096 bytes.
const MAX_CGROUP: u64 = 64 * 1024;

/// Longest name of a process: 15 bytes and a line feed, and 63 of a kernel thread.
const MAX_COMM: usize = 64;

/// Most bytes read of a status file: some sixty lines, of which only the list of groups is long.
const MAX_STATUS: u64 = 64 * 1024;

/// How long the cgroup, group and capabilities of a process are believed while it runs the same
/// program with the same arguments: reading them costs 25 us, and they change rarely after a start.
const FRESH: Duration = Duration::from_secs(1);

/// Names of a folder read between two looks at the clock.
const ENTRIES_PER_CHECK: usize = 64;

/// Behind the link to an executable that is gone.
const DELETED: &str = " (deleted)";

/// Clock ticks in a second, USER_HZ: 100 on every architecture that Linux and Rust share.
const TICKS: u64 = 100;

/// A process that held the socket when all of this was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// Clock ticks since boot.
    pub(super) start: u64,
    /// The same by the clock on the wall.
    pub(super) started: Option<SystemTime>,
    pub(super) ppid: u32,
    pub(super) comm: String,
    pub(super) command_line: Option<String>,
    /// The process, or a file system that it uses, held up what had to be read: there is no command
    /// line, and an executable with ` (deleted)` behind it may be one of that name.
    pub(super) held_up: bool,
    /// `None`: not readable.
    pub(super) exe: Option<Executable>,
    /// Effective group.
    pub(super) gid: Option<u32>,
    /// Effective capabilities.
    pub(super) capabilities: Option<Capabilities>,
    /// The user that logged in (CONFIG_AUDIT).
    pub(super) session_uid: Option<u32>,
    /// Path of its cgroup.
    pub(super) cgroup: Option<String>,
}

/// The file a process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Executable {
    pub(super) path: String,
    /// It is not at `path` any more, or never was (memfd_create(2)).
    pub(super) deleted: bool,
}

/// A process kept open.
///
/// The kernel ties an open PROC/PID to the process itself, not to its number: what is read
/// through it is of the process whose start time was read with it, or fails. A later process with
/// the same number is never seen here.
#[derive(Debug)]
pub(super) struct Handle {
    pid: u32,
    start: u64,
    started: Option<SystemTime>,
    ppid: u32,
    folder: Arc<OwnedFd>,
    comm: File,
    /// `None`: not readable.
    arguments: Option<Arc<File>>,
    program: Program,
    /// When `program` was read.
    read: Option<Instant>,
    /// What a helper did not finish in time.
    pending: Option<Ticket<Words>>,
}

/// What the process, or a file system that it chose, may hold up.
#[derive(Debug, Default, PartialEq, Eq)]
struct Words {
    command_line: Option<String>,
    /// The file that PROC/PID/exe names with ` (deleted)` behind is not there under that name.
    deleted: bool,
}

/// What is read again when the process runs something else, and after a second.
#[derive(Debug, Default)]
struct Program {
    /// Where PROC/PID/exe leads.
    link: Option<String>,
    /// `None`: they were held up.
    words: Option<Words>,
    exe: Option<Executable>,
    cgroup: Option<String>,
    status: Status,
    session_uid: Option<u32>,
}

impl Handle {
    /// `None` where there is no such process, or it may not be seen.
    pub(super) fn open(proc: &Path, pid: u32) -> Option<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let folder = open(&proc.join(pid.to_string()), flags, Mode::empty()).ok()?;
        let stat = parse_stat(&read_at(&folder, "stat", MAX_STAT)?)?;
        Some(Self {
            pid,
            start: stat.start,
            started: started(stat.start),
            ppid: stat.ppid,
            comm: file_at(&folder, "comm")?,
            arguments: file_at(&folder, reads::CMDLINE).map(Arc::new),
            folder: Arc::new(folder),
            program: Program::default(),
            read: None,
            pending: None,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Clock ticks since boot.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// The parent when it was opened.
    pub(super) fn ppid(&self) -> u32 {
        self.ppid
    }

    /// True when `link` (`fd/N` or `task/TID/fd/N`) leads to `target`, `socket:[INODE]`.
    pub(super) fn leads_to(&self, link: &str, target: &str) -> bool {
        readlinkat(&self.folder, link).is_ok_and(|found| found.as_os_str() == target)
    }

    /// Its folder, for [`is_busy_with`] on another thread.
    pub(super) fn folder(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.folder)
    }

    /// Its name now; `None` when it is gone.
    pub(super) fn comm(&self) -> Option<String> {
        let mut bytes = [0; MAX_COMM];
        let length = self.comm.read_at(&mut bytes, 0).ok()?;
        let name = bytes.get(..length)?;
        let name = name.strip_suffix(b"\n").unwrap_or(name);
        Some(String::from_utf8_lossy(name).into_owned())
    }

    /// Reads what may change; `None` when the process has gone meanwhile.
    ///
    /// Name, executable and arguments are read each time, so that what was true before an
    /// execve(2) is never told after it: a program with other arguments, or another program, also
    /// has its group, capabilities and cgroup read anew. What `helper` has not read in half of the time
    /// that is left is left out.
    pub(super) fn describe(&mut self, helper: &Helper, deadline: Instant) -> Option<Process> {
        let link = readlinkat(self.folder.as_ref(), "exe").ok();
        let link = link.map(|path| path.to_string_lossy().into_owned());
        let words = self.words(link.as_deref(), helper, deadline);
        let now = Instant::now();
        let fresh = |read: Instant| now.saturating_duration_since(read) < FRESH;
        let same = link == self.program.link && words == self.program.words;
        if !same || !self.read.is_some_and(fresh) {
            self.program = self.program(link, words);
            self.read = Some(now);
        }
        let program = &self.program;
        let words = program.words.as_ref();
        Some(Process {
            pid: self.pid,
            start: self.start,
            started: self.started,
            ppid: self.ppid,
            command_line: words.and_then(|words| words.command_line.clone()),
            held_up: words.is_none(),
            exe: program.exe.clone(),
            gid: program.status.gid,
            capabilities: program.status.capabilities,
            session_uid: program.session_uid,
            cgroup: program.cgroup.clone(),
            comm: self.comm()?, // last: it fails when the process is gone
        })
    }

    /// What a helper reads of the process now; `None` where that is not there in time. A process
    /// that holds up one read is not asked again before that has ended.
    fn words(&mut self, link: Option<&str>, helper: &Helper, deadline: Instant) -> Option<Words> {
        if let Some(pending) = self.pending.take()
            && pending.wait(Instant::now()) == Answer::Late
        {
            self.pending = Some(pending);
            return None;
        }
        let (folder, arguments) = (Arc::clone(&self.folder), self.arguments.clone());
        let link = link.filter(|link| link.ends_with(DELETED));
        let link = link.map(str::to_owned);
        let read = move |aside: &Aside| Words {
            command_line: arguments.and_then(|file| arguments_of(aside, &file)),
            deleted: link.is_some_and(|link| is_gone(aside, &folder, &link)),
        };
        let ticket = helper.start(read)?;
        // What policies ask for comes after it: a process must not use up their time as well.
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now);
        match ticket.wait(now + left / 2) {
            Answer::Done(words) => Some(words),
            Answer::Lost => None,
            Answer::Late => {
                self.pending = Some(ticket);
                None
            }
        }
    }

    fn program(&self, link: Option<String>, words: Option<Words>) -> Program {
        let cgroup = read_at(&self.folder, "cgroup", MAX_CGROUP)
            .and_then(|text| cgroup_path(&String::from_utf8_lossy(&text)).map(str::to_owned));
        let status = read_at(&self.folder, "status", MAX_STATUS);
        let login = read_at(&self.folder, "loginuid", 32);
        let deleted = words.as_ref().map(|words| words.deleted);
        Program {
            exe: link.clone().map(|link| executable(link, deleted)),
            link,
            words,
            cgroup,
            status: status.map(|text| parse_status(&text)).unwrap_or_default(),
            session_uid: login.and_then(|text| parse_login(&text)),
        }
    }
}

/// The arguments in PROC/PID/cmdline. More than what is kept is read, to see that something was cut.
fn arguments_of(aside: &Aside, file: &File) -> Option<String> {
    let mut bytes = [0; MAX_COMMAND_LINE + 1];
    command_line(reads::beginning(aside, file, &mut bytes)?)
}

/// The kernel writes ` (deleted)` behind the path of a file that is gone. A file may have that in its
/// name as well: then it is there.
fn is_gone(aside: &Aside, folder: &OwnedFd, link: &str) -> bool {
    !reads::is_same_file(aside, folder, &format!("root{link}"), "exe")
}

/// `deleted` is `None` where that was not found out in time.
fn executable(link: String, deleted: Option<bool>) -> Executable {
    match (link.strip_suffix(DELETED), deleted) {
        (None, _) | (_, Some(false)) => Executable {
            path: link,
            deleted: false,
        },
        (Some(path), Some(true)) => Executable {
            path: path.to_owned(),
            deleted: true,
        },
        // Without knowing it, no shorter name is made up.
        (Some(_), None) => Executable {
            path: link,
            deleted: true,
        },
    }
}

/// Which of these processes, by their folders, wait in a system call on the descriptor beside them:
/// whoever connects sleeps there while its first packet is held.
pub(super) fn busy(aside: &Aside, of: &[(Arc<OwnedFd>, u32)]) -> Vec<bool> {
    let is_busy = |(folder, fd): &(Arc<OwnedFd>, u32)| {
        let mut bytes = [0; 256];
        let line = file_at(folder, reads::SYSCALL)?;
        let (call, argument) = parse_syscall(reads::beginning(aside, &line, &mut bytes)?)?;
        Some(argument == u64::from(*fd) && SOCKET_CALLS.contains(&call))
    };
    of.iter().map(|one| is_busy(one).unwrap_or(false)).collect()
}

/// A start time by the clock on the wall, to a hundredth of a second.
fn started(ticks: u64) -> Option<SystemTime> {
    let up = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?);
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()?;
    let since = now.checked_sub(up)? + Duration::from_millis(ticks.checked_mul(1000 / TICKS)?);
    let hundredths = since.as_millis() / 10 * 10;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(u64::try_from(hundredths).ok()?))
}

/// Calls whose first argument is a socket.
const SOCKET_CALLS: [libc::c_long; 11] = [
    libc::SYS_connect,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_read,
    libc::SYS_accept,
    libc::SYS_accept4,
];

/// `NUMBER 0xARGUMENT ...` (proc_pid_syscall(5)); `running` when it is in none.
fn parse_syscall(line: &[u8]) -> Option<(libc::c_long, u64)> {
    let mut fields = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let number = fields.next()?.parse().ok()?;
    let argument = fields.next()?.strip_prefix("0x")?;
    Some((number, u64::from_str_radix(argument, 16).ok()?))
}

/// At most `limit` bytes of a file.
pub(super) fn read_limited(path: &Path, limit: u64) -> Option<Vec<u8>> {
    read_open(File::open(path).ok()?, limit)
}

/// The same, as far as it is read by `deadline`.
pub(super) fn read_until(path: &Path, limit: u64, deadline: Instant) -> Option<Vec<u8>> {
    let mut file = File::open(path).ok()?.take(limit);
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    while Instant::now() < deadline {
        match file.read(&mut part).ok()? {
            0 => break,
            length => bytes.extend_from_slice(part.get(..length)?),
        }
    }
    Some(bytes)
}

/// The path of the cgroup of a process; `None` where that is not readable.
pub(super) fn cgroup_of(proc: &Path, pid: u32) -> Option<String> {
    let text = read_limited(&proc.join(format!("{pid}/cgroup")), MAX_CGROUP)?;
    cgroup_path(&String::from_utf8_lossy(&text)).map(str::to_owned)
}

/// The parent of a process.
pub(super) fn parent_of(proc: &Path, pid: u32) -> Option<u32> {
    let line = read_limited(&proc.join(format!("{pid}/stat")), MAX_STAT)?;
    Some(parse_stat(&line)?.ppid)
}

/// Why a folder has no list of numbers.
#[derive(Debug)]
pub(super) enum Unlisted {
    /// The deadline passed.
    Timeout,
    /// It cannot be read.
    Io,
}

/// The numbers among the names in a folder, such as processes, threads and descriptors: at most `most`.
pub(super) fn numbers(folder: &Path, most: usize, deadline: Instant) -> Result<Vec<u32>, Unlisted> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).map_err(|_| Unlisted::Io)?;
    for (at, entry) in entries.flatten().enumerate() {
        if at.is_multiple_of(ENTRIES_PER_CHECK) && Instant::now() >= deadline {
            return Err(Unlisted::Timeout);
        }
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok());
        found.extend(number);
        if found.len() >= most {
            break;
        }
    }
    Ok(found)
}

fn read_at(folder: &OwnedFd, name: &str, limit: u64) -> Option<Vec<u8>> {
    read_open(file_at(folder, name)?, limit)
}

fn read_open(file: File, limit: u64) -> Option<Vec<u8>> {
    // One read takes most files of /proc whole.
    let mut bytes = Vec::with_capacity(4096);
    file.take(limit).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn file_at(folder: &OwnedFd, name: &str) -> Option<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    openat(folder, name, flags, Mode::empty())
        .ok()
        .map(File::from)
}

/// The fields of interest of PROC/PID/stat (proc(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stat {
    ppid: u32,
    start: u64,
}

/// `PID (COMM) STATE PPID ... START ...`. The name may hold spaces, parentheses and any bytes.
fn parse_stat(line: &[u8]) -> Option<Stat> {
    let close = line.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(line.get(close + 1..)?).ok()?;
    // The state, field 3, is the first.
    let mut fields = rest.split_ascii_whitespace().skip(1);
    let ppid = fields.next()?.parse().ok()?;
    let start = fields.nth(22 - 5)?.parse().ok()?;
    Some(Stat { ppid, start })
}

/// The path that tells most in PROC/PID/cgroup: of cgroup2 (`0::`), or, where that is the root
/// (cgroup v1 and hybrid hosts that do not use it), of systemd's hierarchy, or the longest.
fn cgroup_path(text: &str) -> Option<&str> {
    let hierarchies = || {
        text.lines().filter_map(|line| {
            let (_, line) = line.split_once(':')?;
            line.split_once(':')
        })
    };
    let of = |wanted| {
        hierarchies()
            .find(|(name, _)| *name == wanted)
            .map(|(_, path)| path)
    };
    let says_something = |path: &&str| *path != "/";
    of("")
        .filter(says_something)
        .or_else(|| of("name=systemd").filter(says_something))
        .or_else(|| {
            hierarchies()
                .map(|(_, path)| path)
                .max_by_key(|path| path.len())
        })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::{collection::vec, prelude::*};
    use tempfile::TempDir;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    fn stat_line(comm: &str, ppid: u32, start: u64) -> String {
        format!("7 ({comm}) S {ppid} 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 {start} 1 1 1")
    }

    #[test]
    fn a_name_cannot_forge_the_other_fields() {
        for comm in ["sh", "a b", ") S 1 (", "x) R 1 1 1 1 1", "", "((()"] {
            let stat = parse_stat(stat_line(comm, 4, 99).as_bytes()).unwrap();
            assert_eq!(stat, Stat { ppid: 4, start: 99 });
        }
    }

    #[test]
    fn this_process_is_read() {
        let pid = std::process::id();
        let mut me = Handle::open(Path::new("/proc"), pid).unwrap();
        let process = me.describe(&Helper::new("test", 1), soon()).unwrap();
        assert_eq!(process.ppid, std::os::unix::process::parent_id());
        assert!(process.start > 0);
        let exe = std::env::current_exe().unwrap();
        assert_eq!(
            process.exe,
            Some(Executable {
                path: exe.to_str().unwrap().to_owned(),
                deleted: false
            })
        );
        assert_eq!(process.gid, Some(nix::unistd::getegid().as_raw()));
        assert!(process.capabilities.is_some());
        let arguments: Vec<String> = std::env::args().collect();
        let line = process.command_line.unwrap();
        assert!(
            arguments
                .join(" ")
                .starts_with(line.trim_end_matches("..."))
        );
        assert!(process.started.unwrap() <= SystemTime::now());
        let comm = fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(process.comm, comm.trim_end());
        assert_eq!(cgroup_of(Path::new("/proc"), pid), process.cgroup);
        assert_eq!(parent_of(Path::new("/proc"), pid), Some(process.ppid));
    }

    #[test]
    fn a_process_that_ended_is_not_read() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let mut handle = Handle::open(Path::new("/proc"), child.id()).unwrap();
        assert!(handle.describe(&Helper::new("test", 1), soon()).is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(handle.describe(&Helper::new("test", 1), soon()), None);
        assert!(!handle.leads_to("fd/0", "/dev/null"));
    }

    #[test]
    fn a_system_call_names_its_descriptor() {
        let line = format!(
            "{} 0x5 0x7ffd 0x10 0x0 0x0 0x0 0x7ffc 0x7f00\n",
            libc::SYS_connect
        );
        assert_eq!(parse_syscall(line.as_bytes()), Some((libc::SYS_connect, 5)));
        assert_eq!(parse_syscall(b"running\n"), None);
        assert_eq!(parse_syscall(b"-1 0x7ffd 0x7f00\n"), Some((-1, 0x7ffd)));
    }

    #[test]
    fn the_cgroup_that_tells_most_is_taken() {
        assert_eq!(
            cgroup_path("9:name=systemd:/a\n0::/system.slice/b.service\n"),
            Some("/system.slice/b.service")
        );
        assert_eq!(
            cgroup_path("9:name=systemd:/a/b\n4:memory:/longer/than/that\n0::/\n"),
            Some("/a/b")
        );
        assert_eq!(
            cgroup_path("9:name=systemd:/\n4:memory:/docker/x\n3:cpu:/\n"),
            Some("/docker/x")
        );
        assert_eq!(cgroup_path("0::/\n"), Some("/"));
        assert_eq!(cgroup_path("0::/a:b/c\n"), Some("/a:b/c"));
        assert_eq!(cgroup_path("junk\n\n"), None);
    }

    #[test]
    fn another_process_under_the_pid_is_not_taken_for_it() {
        let proc = TempDir::new().unwrap();
        let folder = proc.path().join("7");
        let create = |start| {
            fs::create_dir_all(folder.join("fd")).unwrap();
            fs::write(folder.join("stat"), stat_line("sh", 1, start)).unwrap();
            fs::write(folder.join("comm"), "sh\n").unwrap();
            fs::write(folder.join("cgroup"), "0::/x.service\n").unwrap();
            symlink("/bin/gone (deleted)", folder.join("exe")).unwrap();
            symlink("socket:[5]", folder.join("fd/3")).unwrap();
        };
        create(99);
        let mut handle = Handle::open(proc.path(), 7).unwrap();
        assert!(handle.leads_to("fd/3", "socket:[5]"));
        assert!(!handle.leads_to("fd/3", "socket:[6]"));
        let process = handle.describe(&Helper::new("test", 1), soon()).unwrap();
        assert_eq!((process.pid, process.start, process.ppid), (7, 99, 1));
        assert_eq!(process.comm, "sh");
        let gone = Executable {
            path: "/bin/gone".to_owned(),
            deleted: true,
        };
        assert_eq!(process.exe, Some(gone));
        assert_eq!(process.cgroup.as_deref(), Some("/x.service"));
        fs::remove_dir_all(&folder).unwrap();
        create(100);
        assert!(!handle.leads_to("fd/3", "socket:[5]"));
        assert_eq!(Handle::open(proc.path(), 7).unwrap().start, 100);
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in vec(any::<u8>(), 0..200), text in "[0-9a-z:/\n=]{0,100}") {
            let _ = parse_stat(&bytes);
            let _ = parse_syscall(&bytes);
            let _ = cgroup_path(&text);
        }
    }
}
