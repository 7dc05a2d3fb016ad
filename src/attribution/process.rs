//! What /proc says of one process.

use std::{
    fs::{self, File},
    io::Read,
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use nix::{
    fcntl::{AtFlags, OFlag, open, openat, readlinkat},
    sys::stat::{FileStat, Mode, fstatat},
    time::{ClockId, clock_gettime},
};

use super::{
    Capabilities,
    status::{MAX_COMMAND_LINE, Status, command_line, parse_login, parse_status},
};

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
    folder: OwnedFd,
    comm: File,
    /// `None`: not readable.
    cmdline: Option<File>,
    program: Program,
    /// When `program` was read.
    read: Option<Instant>,
}

/// What is read again when the process runs something else, and after a second.
#[derive(Debug, Default)]
struct Program {
    /// Where PROC/PID/exe leads.
    link: Option<String>,
    command_line: Option<String>,
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
            cmdline: file_at(&folder, "cmdline"),
            folder,
            program: Program::default(),
            read: None,
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

    /// True when it waits in a system call on descriptor `fd`: whoever connects sleeps there
    /// while its first packet is held.
    pub(super) fn is_busy_with(&self, fd: u32) -> bool {
        read_at(&self.folder, "syscall", 256)
            .and_then(|line| parse_syscall(&line))
            .is_some_and(|(call, argument)| {
                argument == u64::from(fd) && SOCKET_CALLS.contains(&call)
            })
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
    /// has its group, capabilities and cgroup read anew.
    pub(super) fn describe(&mut self, now: Instant) -> Option<Process> {
        let link = readlinkat(&self.folder, "exe").ok();
        let link = link.map(|path| path.to_string_lossy().into_owned());
        let command_line = self.command_line();
        let fresh = |read: Instant| now.saturating_duration_since(read) < FRESH;
        let same = link == self.program.link && command_line == self.program.command_line;
        if !same || !self.read.is_some_and(fresh) {
            self.program = self.program(link, command_line);
            self.read = Some(now);
        }
        let program = &self.program;
        Some(Process {
            pid: self.pid,
            start: self.start,
            started: self.started,
            ppid: self.ppid,
            command_line: program.command_line.clone(),
            exe: program.exe.clone(),
            gid: program.status.gid,
            capabilities: program.status.capabilities,
            session_uid: program.session_uid,
            cgroup: program.cgroup.clone(),
            comm: self.comm()?, // last: it fails when the process is gone
        })
    }

    /// Its arguments now. More than what is kept is read, to see that something was cut.
    fn command_line(&self) -> Option<String> {
        let mut bytes = [0; MAX_COMMAND_LINE + 1];
        let length = self.cmdline.as_ref()?.read_at(&mut bytes, 0).ok()?;
        command_line(bytes.get(..length)?)
    }

    fn program(&self, link: Option<String>, command_line: Option<String>) -> Program {
        let cgroup = read_at(&self.folder, "cgroup", MAX_CGROUP)
            .and_then(|text| cgroup_path(&String::from_utf8_lossy(&text)).map(str::to_owned));
        let status = read_at(&self.folder, "status", MAX_STATUS);
        let login = read_at(&self.folder, "loginuid", 32);
        Program {
            exe: link.clone().map(|link| self.executable(link)),
            link,
            command_line,
            cgroup,
            status: status.map(|text| parse_status(&text)).unwrap_or_default(),
            session_uid: login.and_then(|text| parse_login(&text)),
        }
    }

    /// The kernel writes ` (deleted)` behind the path of a file that is gone. A file may have that
    /// in its name as well: then it is there.
    fn executable(&self, link: String) -> Executable {
        let Some(path) = link.strip_suffix(DELETED) else {
            return Executable {
                path: link,
                deleted: false,
            };
        };
        let file = |name: &str| fstatat(&self.folder, name, AtFlags::empty()).ok();
        let id = |file: FileStat| (file.st_dev, file.st_ino);
        let named = file(&format!("root{link}")).map(id);
        let deleted = named.is_none() || named != file("exe").map(id);
        let path = if deleted { path.to_owned() } else { link };
        Executable { path, deleted }
    }
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

/// The numbers among the names in a folder, such as processes, threads and descriptors.
pub(super) fn numbers(folder: &Path) -> std::io::Result<Vec<u32>> {
    let names = fs::read_dir(folder)?
        .flatten()
        .map(|entry| entry.file_name());
    Ok(names
        .filter_map(|name| name.to_str()?.parse().ok())
        .collect())
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
        let process = me.describe(Instant::now()).unwrap();
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
        assert!(handle.describe(Instant::now()).is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(handle.describe(Instant::now()), None);
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
        let process = handle.describe(Instant::now()).unwrap();
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
