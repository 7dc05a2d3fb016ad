//! Where SSH sessions come from: whoever administers this host must not be cut off by a feed.
//!
//! An address counts when all of this holds: a connection from it is established; its socket is held by
//! a session of sshd (or dropbear) that is logged in; the socket is root's own, and so is the listener
//! on its local port. A connection that has not logged in does not count: else anybody who reaches the
//! SSH port would be excepted. Nor does what a session forwards: such sockets are the user's.
//!
//! Any process may call itself sshd, and may hold up whoever reads its command line. So that is read last,
//! by a helper, and only of a process that holds a connection which a listener of root's accepted, and that
//! runs as root or was forked by a process that runs as root and the same executable.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{Exception, LifelineError, host};
use crate::{
    helper::{Aside, Helper, Pending, reads},
    host::clock::Uptime,
};

/// How long an address stays excepted when its last connection has ended: time to log in again.
pub const LINGER: Duration = Duration::from_secs(3600);
/// The reason that status and `lookup` give.
pub const SSH_PEER: &str = "SSH peer";
/// Addresses kept at most.
const MOST: usize = 256;
/// Open files of one session that are looked at.
const FILES: usize = 1024;
// include/net/tcp_states.h
const ESTABLISHED: &str = "01";
const LISTEN: &str = "0A";

/// Most bytes read of the title of a process.
const MAX_TITLE: usize = 256;
/// Most bytes read of a list of children, of a status and of a stat file.
const MAX_SMALL: u64 = 64 * 1024;
/// How long it is waited for the title of one process. One that was not read in time is no session.
const TITLE: Duration = Duration::from_millis(500);
/// Processes called sshd or dropbear that are looked at.
const PROCESSES: usize = 4096;

/// A process by its number and start time.
type Session = (u32, u64);

/// A process that may be a session by its name.
#[derive(Debug)]
struct Candidate {
    id: Session,
    folder: PathBuf,
    /// dropbear says nothing of its state.
    is_dropbear: bool,
}

/// The addresses that SSH sessions come from, and came from a while ago.
#[derive(Debug, Default)]
pub struct SshPeers {
    /// The processes that were looked at last.
    candidates: BTreeSet<Session>,
    /// Where the connections that they hold come from.
    peers: BTreeMap<Session, BTreeSet<IpAddr>>,
    until: BTreeMap<IpAddr, Uptime>,
    /// Titles that a helper has not read yet.
    pending: Pending<Session, Option<String>>,
    /// That it cannot be seen was told already.
    told: bool,
}

impl SshPeers {
    /// Looks again; cheap while no session begins or ends. Titles are read by `helper`.
    ///
    /// # Errors
    /// When sessions are there and where they come from cannot be seen, or processes are not listed: once,
    /// until it can be seen. The known addresses stay that long.
    pub fn look(&mut self, proc: &Path, now: Uptime, helper: &Helper) -> Result<(), LifelineError> {
        let candidates = match candidates(proc) {
            Ok(candidates) => candidates,
            Err(cause) => return self.unseen(cause),
        };
        let ids: BTreeSet<Session> = candidates.iter().map(|one| one.id).collect();
        let seen = if ids == self.candidates {
            Ok(())
        } else {
            let (peers, seen) = peers(proc, &candidates);
            self.peers = peers;
            self.candidates = if seen.is_ok() { ids } else { BTreeSet::new() };
            seen
        };
        let there = |id: &Session| candidates.iter().any(|one| one.id == *id);
        self.pending.retain(there);
        for one in candidates {
            if self.peers.contains_key(&one.id) && self.is_logged_in(&one, proc, helper) {
                let peers = self.peers.get(&one.id).into_iter().flatten();
                let until = peers.map(|peer| (*peer, now.after(LINGER)));
                self.until.extend(until);
            }
        }
        if seen.is_ok() {
            self.until.retain(|_, until| !until.left(now).is_zero());
        }
        while self.until.len() > MOST {
            let oldest = self.until.iter().min_by_key(|(_, until)| **until);
            let Some(oldest) = oldest.map(|(peer, _)| *peer) else {
                break;
            };
            self.until.remove(&oldest);
        }
        match seen {
            Err(cause) => self.unseen(cause),
            Ok(()) => {
                self.told = false;
                Ok(())
            }
        }
    }

    /// An error the first time.
    fn unseen(&mut self, cause: io::Error) -> Result<(), LifelineError> {
        match std::mem::replace(&mut self.told, true) {
            true => Ok(()),
            false => Err(LifelineError::Ssh { cause }),
        }
    }

    fn is_logged_in(&mut self, one: &Candidate, proc: &Path, helper: &Helper) -> bool {
        if one.is_dropbear {
            return has_other_child(proc, &one.folder, one.id.0);
        }
        let path = one.folder.join(reads::CMDLINE);
        let deadline = Instant::now() + TITLE;
        let read = move |aside: &Aside| title(aside, &path);
        let title = self.pending.ask(helper, one.id, deadline, read);
        title.flatten().is_some_and(|title| is_logged_in(&title))
    }

    /// What follows from the last look.
    pub fn exceptions(&self) -> Vec<Exception> {
        let peers = self.until.keys();
        peers.map(|peer| host(*peer, SSH_PEER.to_owned())).collect()
    }
}

/// Processes that are called sshd or dropbear, and are root's.
fn candidates(proc: &Path) -> io::Result<Vec<Candidate>> {
    let entries = fs::read_dir(proc)?.flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let candidates = pids.filter_map(|pid| {
        let folder = proc.join(pid.to_string());
        let comm = small(&folder.join("comm"))?;
        let is_dropbear = comm.trim_end() == "dropbear";
        let may_be = is_dropbear || comm.starts_with("sshd");
        (may_be && is_roots(proc, &folder))
            .then(|| start(&folder))
            .flatten()
            .map(|start| Candidate {
                id: (pid, start),
                folder,
                is_dropbear,
            })
    });
    Ok(candidates.take(PROCESSES).collect())
}

/// The first word of the command line, which sshd writes its state into (setproctitle(3)).
fn title(aside: &Aside, path: &Path) -> Option<String> {
    let mut bytes = [0; MAX_TITLE];
    let bytes = reads::beginning(aside, &File::open(path).ok()?, &mut bytes)?;
    let first = bytes.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(first).into_owned())
}

/// True when it runs as root, or its parent does and runs the same executable: sshd forks a process that
/// runs as the user who has logged in. No other user's process has such a parent.
fn is_roots(proc: &Path, folder: &Path) -> bool {
    let status = |folder: &Path| small(&folder.join("status"));
    let is_root = |status: &str| {
        let uids = field(status, "Uid").unwrap_or_default();
        let mut uids = uids.split_ascii_whitespace();
        uids.next() == Some("0") && uids.all(|uid| uid == "0")
    };
    let Some(own) = status(folder) else {
        return false;
    };
    if is_root(&own) {
        return true;
    }
    let Some(parent) = field(&own, "PPid").map(|pid| proc.join(pid)) else {
        return false;
    };
    let program = |of: &Path| {
        let link = |name: &str| fs::read_link(of.join(name)).ok();
        Some((link("exe")?, link("ns/mnt")?))
    };
    let same = program(folder).is_some_and(|own| program(&parent) == Some(own));
    same && status(&parent).is_some_and(|status| is_root(&status))
}

/// The value behind `KEY:` in PROC/PID/status (proc_pid_status(5)).
fn field<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    let mut fields = status.lines().filter_map(|line| line.split_once(':'));
    fields
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value.trim())
}

/// A small file that the kernel answers by itself.
fn small(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    let mut limited = File::open(path).ok()?.take(MAX_SMALL);
    limited.read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// `sshd: admin@pts/0`, `sshd-session: admin@notty`, and `sshd: admin` while nothing but ports is
/// forwarded. Before that it is `sshd: admin [priv]`, `[net]`, `[accepted]`, `unknown [net]`.
fn is_logged_in(title: &str) -> bool {
    let user = ["sshd: ", "sshd-session: "]
        .iter()
        .find_map(|program| title.strip_prefix(program));
    user.is_some_and(|user| {
        let user = user.trim_end();
        !user.is_empty() && user != "unknown" && !user.contains(['[', ' '])
    })
}

/// dropbear says nothing of its state; a session has a shell or a command.
fn has_other_child(proc: &Path, folder: &Path, pid: u32) -> bool {
    let file = folder.join("task").join(pid.to_string()).join("children");
    let children = small(&file).unwrap_or_default();
    let mut children = children.split_ascii_whitespace();
    children.any(|child| {
        let comm = small(&proc.join(child).join("comm"));
        comm.is_some_and(|comm| comm.trim_end() != "dropbear")
    })
}

/// Field 22 of proc(5), stat.
fn start(folder: &Path) -> Option<u64> {
    let stat = small(&folder.join("stat"))?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Where the connections that these processes hold come from, as far as that can be seen.
fn peers(
    proc: &Path,
    candidates: &[Candidate],
) -> (BTreeMap<Session, BTreeSet<IpAddr>>, io::Result<()>) {
    let mut holders: BTreeMap<u64, Vec<Session>> = BTreeMap::new();
    let mut seen = Ok(());
    for one in candidates {
        match sockets(&one.folder.join("fd")) {
            Ok(found) => {
                for inode in found {
                    holders.entry(inode).or_default().push(one.id);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {} // it has ended
            Err(e) => seen = Err(e),
        }
    }
    let mut peers: BTreeMap<Session, BTreeSet<IpAddr>> = BTreeMap::new();
    if holders.is_empty() {
        return (peers, seen);
    }
    match accepted(proc, |inode| holders.contains_key(&inode)) {
        Ok(accepted) => {
            for (inode, peer) in accepted {
                for id in holders.get(&inode).into_iter().flatten() {
                    peers.entry(*id).or_default().insert(peer);
                }
            }
        }
        Err(e) => seen = Err(e),
    }
    (peers, seen)
}

/// The connections among `of` that a listener of root's accepted: socket inode and remote address.
fn accepted(proc: &Path, of: impl Fn(u64) -> bool) -> io::Result<Vec<(u64, IpAddr)>> {
    let (mut listeners, mut connections) = (Vec::new(), Vec::new());
    for table in ["net/tcp", "net/tcp6"] {
        let file = match File::open(proc.join(table)) {
            Ok(file) => BufReader::new(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue, // no IPv6
            Err(e) => return Err(e),
        };
        for line in file.lines() {
            match row(&line?) {
                Some(Row::Listener(local)) => listeners.push(local),
                Some(Row::Connection {
                    local,
                    remote,
                    inode,
                }) if of(inode) => connections.push((local, remote, inode)),
                _ => {}
            }
        }
    }
    let accepted = |local: &SocketAddr| {
        listeners.iter().any(|listener| {
            listener.port() == local.port()
                && (listener.ip().is_unspecified() || listener.ip() == local.ip())
        })
    };
    connections.retain(|(local, _, _)| accepted(local));
    let peer = |(_, remote, inode): (_, SocketAddr, u64)| (inode, remote.ip());
    Ok(connections.into_iter().map(peer).collect())
}

fn sockets(folder: &Path) -> io::Result<Vec<u64>> {
    let files = fs::read_dir(folder)?.take(FILES).flatten();
    let links = files.filter_map(|file| fs::read_link(file.path()).ok());
    let inode = |link: std::path::PathBuf| {
        let number = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
        number.parse().ok()
    };
    Ok(links.filter_map(inode).collect())
}

/// A socket that root made.
#[derive(Debug, PartialEq, Eq)]
enum Row {
    Listener(SocketAddr),
    Connection {
        local: SocketAddr,
        remote: SocketAddr,
        inode: u64,
    },
}

/// A line of /proc/net/tcp or tcp6 (Documentation/networking/proc_net_tcp.rst).
fn row(line: &str) -> Option<Row> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (local, remote) = (words.next()?, words.next()?);
    let state = words.next()?;
    let mut rest = words.skip(3);
    let (uid, inode) = (rest.next()?, rest.nth(1)?);
    if uid != "0" {
        return None;
    }
    match state {
        LISTEN => Some(Row::Listener(end(local)?)),
        ESTABLISHED => Some(Row::Connection {
            local: end(local)?,
            remote: end(remote)?,
            inode: inode.parse().ok()?,
        }),
        _ => None,
    }
}

/// `0100007F:0016`: 32-bit words in the machine's own order.
fn end(text: &str) -> Option<SocketAddr> {
    let (addr, port) = text.split_once(':')?;
    let word = |at: usize| -> Option<[u8; 4]> {
        let digits = addr.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip: IpAddr = match addr.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    /// A /proc with these processes of root's: pid, comm, title, inodes; and this table of sockets.
    fn proc(processes: &[(u32, &str, &str, &[u64])], tcp: &str, tcp6: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("net")).unwrap();
        fs::write(folder.path().join("net/tcp"), tcp).unwrap();
        fs::write(folder.path().join("net/tcp6"), tcp6).unwrap();
        for (pid, comm, title, inodes) in processes {
            let of = folder.path().join(pid.to_string());
            fs::create_dir_all(of.join("fd")).unwrap();
            fs::write(of.join("comm"), format!("{comm}\n")).unwrap();
            fs::write(of.join("cmdline"), format!("{title}\0\0")).unwrap();
            let stat = format!("{pid} (a) b) S {} 77 0\n", ["0"; 18].join(" "));
            fs::write(of.join("stat"), stat).unwrap();
            run_as(folder.path(), *pid, 0, 1, "/usr/sbin/sshd");
            for inode in *inodes {
                symlink(
                    format!("socket:[{inode}]"),
                    of.join("fd").join(inode.to_string()),
                )
                .unwrap();
            }
        }
        folder
    }

    /// The user, parent and executable of a process.
    fn run_as(proc: &Path, pid: u32, uid: u32, parent: u32, exe: &str) {
        let of = proc.join(pid.to_string());
        let status = format!("Name:\tsshd\nPPid:\t{parent}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n");
        fs::write(of.join("status"), status).unwrap();
        fs::create_dir_all(of.join("ns")).unwrap();
        for (link, to) in [("exe", exe), ("ns/mnt", "mnt:[1]")] {
            let _ = fs::remove_file(of.join(link));
            symlink(to, of.join(link)).unwrap();
        }
    }

    fn helper() -> Helper {
        Helper::new("test", 2)
    }

    fn hex(end: &str) -> String {
        let end: SocketAddr = end.parse().unwrap();
        let bytes = match end.ip() {
            IpAddr::V4(addr) => addr.octets().to_vec(),
            IpAddr::V6(addr) => addr.octets().to_vec(),
        };
        let words = bytes.chunks(4).map(|word| {
            let word = u32::from_ne_bytes(word.try_into().unwrap());
            format!("{word:08X}")
        });
        format!("{}:{:04X}", words.collect::<String>(), end.port())
    }

    fn line(local: &str, remote: &str, state: &str, uid: u32, inode: u64) -> String {
        let (local, remote) = (hex(local), hex(remote));
        format!(
            "   1: {local} {remote} {state} 00000000:00000000 00:00000000 00000000 {uid:5} 0 {inode} 1 x\n"
        )
    }

    fn found(peers: &SshPeers) -> Vec<String> {
        let all = peers.exceptions();
        assert!(all.iter().all(|e| e.why == SSH_PEER));
        all.iter().map(|e| e.prefix.to_string()).collect()
    }

    const NONE: &str = "0.0.0.0:0";

    #[test]
    fn sessions_by_what_sshd_says_of_itself() {
        for title in [
            "sshd: admin@pts/0",
            "sshd: admin@notty",
            "sshd-session: root@pts/1,pts/2",
            "sshd: a.b@corp@pts/0",
            "sshd: admin",
        ] {
            assert!(is_logged_in(title), "{title}");
        }
        for title in [
            "sshd: admin [priv]",
            "sshd: admin [net]",
            "sshd: unknown [net]",
            "sshd: unknown",
            "sshd: [accepted]",
            "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups",
            "/usr/sbin/sshd -D",
            "sshd: ",
            "sshd-auth: admin [net]",
            "bash",
        ] {
            assert!(!is_logged_in(title), "{title}");
        }
    }

    #[test]
    fn only_who_is_logged_in_counts_and_stays_for_an_hour() {
        let tcp = [
            line("0.0.0.0:2222", NONE, LISTEN, 0, 10),
            line("0.0.0.0:8080", NONE, LISTEN, 1000, 11), // ssh -R
            line("192.0.2.2:2222", "198.51.100.7:4000", ESTABLISHED, 0, 20),
            line("192.0.2.2:2222", "198.51.100.8:4000", ESTABLISHED, 0, 21), // not logged in
            line("192.0.2.2:8080", "198.51.100.9:4000", ESTABLISHED, 1000, 22),
            line("192.0.2.2:40000", "203.0.113.1:443", ESTABLISHED, 1000, 23), // ssh -L
            line("192.0.2.2:40001", "203.0.113.2:443", ESTABLISHED, 0, 24),    // ssh -L of root
            line("192.0.2.2:2222", "198.51.100.6:4000", "06", 0, 20),
        ]
        .concat();
        let tcp6 = [
            line("[::]:22", "[::]:0", LISTEN, 0, 30),
            line("[2001:db8::2]:22", "[2001:db8::7]:4000", ESTABLISHED, 0, 31),
            line(
                "[::ffff:192.0.2.2]:22",
                "[::ffff:198.51.100.5]:9",
                ESTABLISHED,
                0,
                32,
            ),
        ]
        .concat();
        let sessions: [(u32, &str, &str, &[u64]); 4] = [
            (7, "sshd", "sshd: admin@pts/0", &[20, 22, 23, 24]),
            (8, "sshd", "sshd: root [net]", &[21]),
            (9, "sshd-session", "sshd-session: root@notty", &[31, 32]),
            (10, "bash", "sshd: x@pts/0", &[21]),
        ];
        let folder = proc(&sessions, &tcp, &tcp6);
        let (mut peers, now) = (SshPeers::default(), Uptime::now());
        peers.look(folder.path(), now, &helper()).unwrap();
        let expect = ["198.51.100.5", "198.51.100.7", "2001:db8::7"];
        assert_eq!(found(&peers), expect);
        // They log out.
        fs::remove_dir_all(folder.path().join("7")).unwrap();
        fs::remove_dir_all(folder.path().join("9")).unwrap();
        let soon = now.after(LINGER - Duration::from_secs(1));
        peers.look(folder.path(), soon, &helper()).unwrap();
        assert_eq!(found(&peers), expect);
        peers
            .look(folder.path(), now.after(LINGER), &helper())
            .unwrap();
        assert_eq!(found(&peers), [""; 0]);
    }

    #[test]
    fn dropbear_is_a_session_with_a_shell() {
        let tcp = [
            line("192.0.2.2:22", NONE, LISTEN, 0, 10),
            line("192.0.2.2:22", "198.51.100.7:1", ESTABLISHED, 0, 20),
            line("192.0.2.2:22", "198.51.100.8:1", ESTABLISHED, 0, 21),
        ]
        .concat();
        let folder = proc(
            &[
                (7, "dropbear", "/usr/sbin/dropbear", &[20]),
                (8, "dropbear", "/usr/sbin/dropbear", &[21]),
                (9, "ash", "-ash", &[]),
            ],
            &tcp,
            "",
        );
        for (pid, children) in [(7, "9 "), (8, "7 ")] {
            let task = folder.path().join(format!("{pid}/task/{pid}"));
            fs::create_dir_all(&task).unwrap();
            fs::write(task.join("children"), children).unwrap();
        }
        let mut peers = SshPeers::default();
        peers.look(folder.path(), Uptime::now(), &helper()).unwrap();
        assert_eq!(found(&peers), ["198.51.100.7"]);
    }

    #[test]
    fn what_cannot_be_seen_is_told_and_what_was_known_stays() {
        let tcp = [
            line("192.0.2.2:22", NONE, LISTEN, 0, 10),
            line("192.0.2.2:22", "198.51.100.7:1", ESTABLISHED, 0, 20),
        ]
        .concat();
        let session: (u32, &str, &str, &[u64]) = (7, "sshd", "sshd: admin@pts/0", &[20]);
        let folder = proc(&[session], &tcp, "");
        let (mut peers, now) = (SshPeers::default(), Uptime::now());
        peers.look(folder.path(), now, &helper()).unwrap();
        let other = proc(&[session], "", "");
        fs::rename(other.path().join("7"), folder.path().join("8")).unwrap();
        fs::remove_dir_all(folder.path().join("8/fd")).unwrap();
        fs::write(folder.path().join("8/fd"), "").unwrap(); // ENOTDIR stands for EACCES
        let problem = peers
            .look(folder.path(), now, &helper())
            .unwrap_err()
            .to_string();
        assert!(problem.contains("SSH"), "{problem}");
        peers
            .look(folder.path(), now, &helper())
            .expect("told once");
        assert_eq!(found(&peers), ["198.51.100.7"]);
        // However long it lasts, and when not even processes are listed.
        let later = now.after(LINGER * 2);
        fs::remove_dir_all(folder.path().join("7")).unwrap();
        let file = folder.path().join("8/fd");
        for proc in [folder.path(), file.as_path()] {
            peers.look(proc, later, &helper()).unwrap();
            assert_eq!(found(&peers), ["198.51.100.7"]);
        }
        fs::remove_dir_all(folder.path().join("8")).unwrap();
        peers.look(folder.path(), later, &helper()).unwrap();
        assert_eq!(found(&peers), [""; 0]);
    }

    /// Three connections that a listener of root's accepted.
    fn three() -> String {
        [
            line("192.0.2.2:22", NONE, LISTEN, 0, 10),
            line("192.0.2.2:22", "198.51.100.7:1", ESTABLISHED, 0, 20),
            line("192.0.2.2:22", "198.51.100.8:1", ESTABLISHED, 0, 21),
            line("192.0.2.2:22", "198.51.100.9:1", ESTABLISHED, 0, 22),
        ]
        .concat()
    }

    /// Whoever opens the command line of this process waits for ever.
    fn hold_up(proc: &Path, pid: u32) {
        let cmdline = proc.join(format!("{pid}/cmdline"));
        fs::remove_file(&cmdline).unwrap();
        mkfifo(&cmdline, Mode::S_IRUSR).unwrap();
    }

    #[test]
    fn a_process_that_calls_itself_sshd_is_not_read() {
        let sessions: [(u32, &str, &str, &[u64]); 4] = [
            (6, "sshd", "sshd: admin [priv]", &[20]),
            (7, "sshd", "sshd: admin@pts/0", &[20]),
            (8, "sshd", "sshd: evil@pts/0", &[21]),
            (9, "sshd", "sshd: evil@pts/0", &[22]),
        ];
        let folder = proc(&sessions, &three(), "");
        run_as(folder.path(), 7, 1000, 6, "/usr/sbin/sshd");
        // A user's, and one that root's process started but that runs something else.
        run_as(folder.path(), 8, 1000, 7, "/usr/sbin/sshd");
        run_as(folder.path(), 9, 1000, 6, "/home/evil/sshd");
        hold_up(folder.path(), 8);
        hold_up(folder.path(), 9);
        let (mut peers, helper) = (SshPeers::default(), Helper::new("test", 1));
        peers.look(folder.path(), Uptime::now(), &helper).unwrap();
        assert_eq!(found(&peers), ["198.51.100.7"]);
        assert!(peers.pending.is_empty());
    }

    #[test]
    fn a_session_that_holds_up_its_reader_is_left_out_and_the_others_are_found() {
        let sessions: [(u32, &str, &str, &[u64]); 3] = [
            (7, "sshd", "sshd: root@pts/0", &[20]),
            (8, "sshd", "sshd: root@pts/1", &[21]),
            (9, "sshd", "sshd: root@pts/2", &[22]),
        ];
        let folder = proc(&sessions, &three(), "");
        hold_up(folder.path(), 7);
        let (mut peers, helper) = (SshPeers::default(), helper());
        for _ in 0..3 {
            peers.look(folder.path(), Uptime::now(), &helper).unwrap();
            assert_eq!(found(&peers), ["198.51.100.8", "198.51.100.9"]);
            assert_eq!(peers.pending.len(), 1, "it is asked once");
        }
    }

    #[test]
    fn a_title_is_read_up_to_a_length() {
        let long = format!("sshd: {}", "a".repeat(1 << 20));
        let folder = proc(&[(7, "sshd", &long, &[20])], &three(), "");
        let path = folder.path().join("7/cmdline");
        let soon = Instant::now() + Duration::from_secs(30);
        let read = helper().ask(soon, move |aside| title(aside, &path));
        assert_eq!(read.unwrap().unwrap().len(), MAX_TITLE);
    }
}
