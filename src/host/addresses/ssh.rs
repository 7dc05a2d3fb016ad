//! Where SSH sessions come from: whoever administers this host must not be cut off by a feed.
//!
//! An address counts when all of this holds: a connection from it is established; its socket is held by
//! a session of sshd (or dropbear) that is logged in; the socket is root's own, and so is the listener
//! on its local port. A connection that has not logged in does not count: else anybody who reaches the
//! SSH port would be excepted. Nor does what a session forwards: such sockets are the user's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufRead, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use super::{Exception, LifelineError, host};
use crate::host::clock::Uptime;

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

/// A process by its number and start time.
type Session = (u32, u64);

/// The addresses that SSH sessions come from, and came from a while ago.
#[derive(Debug, Default)]
pub struct SshPeers {
    /// What was looked at last; its addresses stay the same as long as the processes do.
    sessions: BTreeSet<Session>,
    live: BTreeSet<IpAddr>,
    until: BTreeMap<IpAddr, Uptime>,
    /// That it cannot be seen was told already.
    told: bool,
}

impl SshPeers {
    /// Looks again; cheap while no session begins or ends.
    ///
    /// # Errors
    /// When sessions are there and where they come from cannot be seen: once, until it can. The
    /// addresses of before stay.
    pub fn look(&mut self, proc: &Path, now: Uptime) -> Result<(), LifelineError> {
        let sessions = sessions(proc);
        let seen = if sessions == self.sessions {
            Ok(())
        } else {
            peers(proc, &sessions).map(|live| {
                self.live = live;
                self.sessions = sessions;
            })
        };
        for peer in &self.live {
            self.until.insert(*peer, now.after(LINGER));
        }
        self.until.retain(|_, until| !until.left(now).is_zero());
        while self.until.len() > MOST {
            let oldest = self.until.iter().min_by_key(|(_, until)| **until);
            let Some(oldest) = oldest.map(|(peer, _)| *peer) else {
                break;
            };
            self.until.remove(&oldest);
        }
        match seen {
            Err(cause) if !std::mem::replace(&mut self.told, true) => {
                Err(LifelineError::Ssh { cause })
            }
            Err(_) => Ok(()),
            Ok(()) => {
                self.told = false;
                Ok(())
            }
        }
    }

    /// What follows from the last look.
    pub fn exceptions(&self) -> Vec<Exception> {
        let peers = self.until.keys();
        peers.map(|peer| host(*peer, SSH_PEER.to_owned())).collect()
    }
}

/// Processes that are a session which is logged in.
fn sessions(proc: &Path) -> BTreeSet<Session> {
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let folder = proc.join(pid.to_string());
        let comm = fs::read_to_string(folder.join("comm")).ok()?;
        let logged_in = match comm.trim_end() {
            comm if comm.starts_with("sshd") => is_logged_in(&title(&folder)?),
            "dropbear" => has_other_child(proc, &folder, pid),
            _ => false,
        };
        logged_in.then(|| Some((pid, start(&folder)?))).flatten()
    })
    .collect()
}

/// The first word of the command line, which sshd writes its state into (setproctitle(3)).
fn title(folder: &Path) -> Option<String> {
    let bytes = fs::read(folder.join("cmdline")).ok()?;
    let first = bytes.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(first).into_owned())
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
    let children = fs::read_to_string(file).unwrap_or_default();
    let mut children = children.split_ascii_whitespace();
    children.any(|child| {
        let comm = fs::read_to_string(proc.join(child).join("comm"));
        comm.is_ok_and(|comm| comm.trim_end() != "dropbear")
    })
}

/// Field 22 of proc(5), stat.
fn start(folder: &Path) -> Option<u64> {
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Where the connections of `sessions` come from.
fn peers(proc: &Path, sessions: &BTreeSet<Session>) -> io::Result<BTreeSet<IpAddr>> {
    let mut inodes = BTreeSet::new();
    for (pid, _) in sessions {
        match sockets(&proc.join(pid.to_string()).join("fd")) {
            Ok(found) => inodes.extend(found),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {} // it has ended
            Err(e) => return Err(e),
        }
    }
    if inodes.is_empty() {
        return Ok(BTreeSet::new());
    }
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
                }) if inodes.contains(&inode) => connections.push((local, remote)),
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
    let accepted = connections.into_iter().filter(|(local, _)| accepted(local));
    Ok(accepted.map(|(_, remote)| remote.ip()).collect())
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

    use super::*;

    /// A /proc with these processes: pid, comm, title, inodes; and this table of sockets.
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
        peers.look(folder.path(), now).unwrap();
        let expect = ["198.51.100.5", "198.51.100.7", "2001:db8::7"];
        assert_eq!(found(&peers), expect);
        // They log out.
        fs::remove_dir_all(folder.path().join("7")).unwrap();
        fs::remove_dir_all(folder.path().join("9")).unwrap();
        let soon = now.after(LINGER - Duration::from_secs(1));
        peers.look(folder.path(), soon).unwrap();
        assert_eq!(found(&peers), expect);
        peers.look(folder.path(), now.after(LINGER)).unwrap();
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
        peers.look(folder.path(), Uptime::now()).unwrap();
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
        peers.look(folder.path(), now).unwrap();
        let other = proc(&[session], "", "");
        fs::rename(other.path().join("7"), folder.path().join("8")).unwrap();
        fs::remove_dir_all(folder.path().join("8/fd")).unwrap();
        fs::write(folder.path().join("8/fd"), "").unwrap(); // ENOTDIR stands for EACCES
        let problem = peers.look(folder.path(), now).unwrap_err().to_string();
        assert!(problem.contains("SSH"), "{problem}");
        peers.look(folder.path(), now).expect("told once");
        assert_eq!(found(&peers), ["198.51.100.7"]);
    }
}
