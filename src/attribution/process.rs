//! What /proc says of one process.

use std::{
    fs::{self, File},
    io::Read,
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    fcntl::{OFlag, open, openat, readlinkat},
    sys::stat::Mode,
};

/// Most bytes read of a stat line: 52 numbers and a name of 15 bytes.
const MAX_STAT: u64 = 2048;

/// Most bytes read of a cgroup file: fourteen hierarchies with paths of 4,096 bytes.
const MAX_CGROUP: u64 = 64 * 1024;

/// Longest name of a process: 15 bytes and a line feed, and 63 of a kernel thread.
const MAX_COMM: usize = 64;

/// How long the cgroup of a process is believed: reading it costs 15 us, and to move a process
/// after its start is rare.
const CGROUP_FRESH: Duration = Duration::from_secs(1);

/// A process that held the socket when all of this was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// Clock ticks since boot.
    pub(super) start: u64,
    pub(super) ppid: u32,
    pub(super) comm: String,
    /// With ` (deleted)` behind it when the file is gone; `None`: not readable.
    pub(super) exe: Option<String>,
    /// Path of its cgroup.
    pub(super) cgroup: Option<String>,
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
    ppid: u32,
    folder: OwnedFd,
    comm: File,
    exe: Option<String>,
    cgroup: Option<String>,
    cgroup_read: Option<Instant>,
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
            ppid: stat.ppid,
            comm: file_at(&folder, "comm")?,
            folder,
            exe: None,
            cgroup: None,
            cgroup_read: None,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
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
    pub(super) fn describe(&mut self, now: Instant) -> Option<Process> {
        let exe = readlinkat(&self.folder, "exe").ok();
        let exe = exe.map(|path| path.to_string_lossy().into_owned());
        let fresh = |read: Instant| now.saturating_duration_since(read) < CGROUP_FRESH;
        if exe != self.exe || !self.cgroup_read.is_some_and(fresh) {
            self.cgroup = read_at(&self.folder, "cgroup", MAX_CGROUP)
                .and_then(|text| cgroup_path(&String::from_utf8_lossy(&text)).map(str::to_owned));
            self.cgroup_read = Some(now);
            self.exe.clone_from(&exe);
        }
        Some(Process {
            pid: self.pid,
            start: self.start,
            ppid: self.ppid,
            exe,
            cgroup: self.cgroup.clone(),
            comm: self.comm()?, // last: it fails when the process is gone
        })
    }
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
        assert_eq!(
            process.exe,
            std::env::current_exe().unwrap().to_str().map(str::to_owned)
        );
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
        assert_eq!(process.exe.as_deref(), Some("/bin/gone (deleted)"));
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
