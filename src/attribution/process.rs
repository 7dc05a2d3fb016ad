//! What /proc says of one process.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

/// Most bytes read of a stat line: 52 numbers and a name of 15 bytes.
const MAX_STAT: u64 = 2048;

/// Most bytes read of a cgroup file: fourteen hierarchies with paths of 4,096 bytes.
const MAX_CGROUP: u64 = 64 * 1024;

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

/// The fields of interest of PROC/PID/stat (proc(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) comm: String,
    pub(super) ppid: u32,
    pub(super) start: u64,
}

/// Reads the process behind `pid` and makes sure that one and the same process holds `link` (a
/// path of the form PROC/PID/fd/N that leads to `target`): a start time from before, or one read
/// now, must stand unchanged after everything else was read. `None`: it does not.
pub(super) fn read_while_held(
    proc: &Path,
    pid: u32,
    link: &Path,
    target: &str,
    known_start: Option<u64>,
) -> Option<Process> {
    let folder = proc.join(pid.to_string());
    let start = match known_start {
        Some(start) => start,
        None => read_stat(&folder)?.start,
    };
    if !leads_to(link, target) {
        return None;
    }
    let exe = fs::read_link(folder.join("exe")).ok();
    let cgroup = read_limited(&folder.join("cgroup"), MAX_CGROUP);
    let stat = read_stat(&folder).filter(|stat| stat.start == start)?;
    Some(Process {
        pid,
        start,
        ppid: stat.ppid,
        comm: stat.comm,
        exe: exe.map(|path| path.to_string_lossy().into_owned()),
        cgroup: cgroup
            .and_then(|text| cgroup_path(&String::from_utf8_lossy(&text)).map(str::to_owned)),
    })
}

/// True when `link` leads to `target`, `socket:[INODE]`.
pub(super) fn leads_to(link: &Path, target: &str) -> bool {
    fs::read_link(link).is_ok_and(|found| found.as_os_str() == target)
}

/// At most `limit` bytes of a file.
pub(super) fn read_limited(path: &Path, limit: u64) -> Option<Vec<u8>> {
    // One read takes most files of /proc whole.
    let mut bytes = Vec::with_capacity(4096);
    File::open(path)
        .ok()?
        .take(limit)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(bytes)
}

fn read_stat(folder: &Path) -> Option<Stat> {
    parse_stat(&read_limited(&folder.join("stat"), MAX_STAT)?)
}

/// `PID (COMM) STATE PPID ... START ...`. The name may hold spaces, parentheses and any bytes.
fn parse_stat(line: &[u8]) -> Option<Stat> {
    let open = line.iter().position(|&byte| byte == b'(')?;
    let close = line.iter().rposition(|&byte| byte == b')')?;
    let comm = line.get(open + 1..close)?;
    let rest = std::str::from_utf8(line.get(close + 1..)?).ok()?;
    // The state, field 3, is the first.
    let mut fields = rest.split_ascii_whitespace().skip(1);
    let ppid = fields.next()?.parse().ok()?;
    let start = fields.nth(22 - 5)?.parse().ok()?;
    Some(Stat {
        comm: String::from_utf8_lossy(comm).into_owned(),
        ppid,
        start,
    })
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
            assert_eq!(
                stat,
                Stat {
                    comm: comm.to_owned(),
                    ppid: 4,
                    start: 99
                }
            );
        }
    }

    #[test]
    fn this_process_is_read() {
        let me = Path::new("/proc/self");
        let stat = read_stat(me).unwrap();
        assert_eq!(stat.ppid, std::os::unix::process::parent_id());
        assert!(stat.start > 0);
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
    fn a_process_that_changed_under_the_pid_is_not_taken() {
        let proc = TempDir::new().unwrap();
        let folder = proc.path().join("7");
        fs::create_dir_all(folder.join("fd")).unwrap();
        fs::write(folder.join("stat"), stat_line("sh", 1, 99)).unwrap();
        fs::write(folder.join("cgroup"), "0::/x.service\n").unwrap();
        symlink("/bin/gone (deleted)", folder.join("exe")).unwrap();
        let link = folder.join("fd/3");
        symlink("socket:[5]", &link).unwrap();
        let read = |target: &str, start| read_while_held(proc.path(), 7, &link, target, start);
        let process = read("socket:[5]", None).unwrap();
        assert_eq!((process.pid, process.start, process.ppid), (7, 99, 1));
        assert_eq!(process.exe.as_deref(), Some("/bin/gone (deleted)"));
        assert_eq!(process.cgroup.as_deref(), Some("/x.service"));
        assert_eq!(read("socket:[5]", Some(99)), Some(process));
        assert_eq!(read("socket:[5]", Some(98)), None);
        assert_eq!(read("socket:[6]", None), None);
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in vec(any::<u8>(), 0..200), text in "[0-9a-z:/\n=]{0,100}") {
            let _ = parse_stat(&bytes);
            let _ = cgroup_path(&text);
        }
    }
}
