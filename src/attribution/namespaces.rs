//! Sockets in other network namespaces: of containers and pods whose packets this host forwards.
//!
//! sock_diag answers for the namespace its socket was opened in. A thread made for it enters the
//! namespace, opens the socket and ends; the caller's thread stays where it is. An open socket
//! keeps a namespace alive, so it is closed when the process it was found by has ended, and when
//! it was not used for a while.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    fs::{self, File},
    io::ErrorKind,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use caps::Capability;
use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    sched::{CloneFlags, setns},
    sys::stat::Mode,
};

use super::{
    finder::{Cause, Finder, Found, Question},
    proc_net,
    process::{Unlisted, numbers},
    sock_diag::SockDiag,
};
use crate::{
    feed::Direction,
    lacks,
    netlink::put,
    route::{Route, attribute, i32_at},
};

/// Namespaces with an open socket.
const CAPACITY: usize = 64;
/// How long an unused socket stays open.
const IDLE: Duration = Duration::from_secs(10);
/// How often it is looked for namespaces that have ended.
const SWEEP: Duration = Duration::from_millis(500);
/// How long a namespace without a process is not looked for again.
const MISSING: Duration = Duration::from_secs(1);
/// Namespaces remembered as missing.
const MAX_MISSING: usize = 256;

// linux/rtnetlink.h, linux/net_namespace.h
const RTM_GETNSID: u16 = 90;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
/// `struct rtgenmsg`, padded.
const RTGENMSG: [u8; 4] = [0; 4];

/// Finds sockets by the number of a namespace.
pub(super) struct Namespaces {
    proc: PathBuf,
    route: Option<Route>,
    open: Arc<Mutex<Open>>,
    missing: HashMap<i32, (Instant, Cause)>,
}

/// What a namespace says of a flow.
pub(super) struct Answer {
    pub(super) found: Result<Found, Cause>,
    /// Packet sockets in it, when nothing was found.
    pub(super) packet_sockets: usize,
    /// One of its processes.
    pub(super) member: u32,
}

#[derive(Default)]
struct Open {
    spaces: Vec<Space>,
    /// A thread closes what is not needed any more.
    swept: bool,
}

struct Space {
    nsid: i32,
    member: Member,
    finder: Result<Finder, Cause>,
    /// The folder whose `net` has the tables.
    tables: PathBuf,
    used: Instant,
}

/// A process of the namespace.
struct Member {
    pid: u32,
    /// PROC/PID, which is tied to this process.
    folder: File,
    /// `net:[INODE]`
    name: OsString,
}

impl Namespaces {
    pub(super) fn new(proc: &Path) -> Self {
        Self {
            proc: proc.to_owned(),
            route: None,
            open: Arc::default(),
            missing: HashMap::new(),
        }
    }

    /// The socket in the namespace that has number `nsid` in this one.
    ///
    /// # Errors
    /// Why the namespace cannot be asked.
    pub(super) fn find(&mut self, nsid: i32, question: &Question<'_>) -> Result<Answer, Cause> {
        let open = Arc::clone(&self.open);
        let mut open = lock(&open);
        if let Some(space) = open.get(nsid) {
            return Ok(space.ask(question));
        }
        let now = Instant::now();
        if let Some((since, cause)) = self.missing.get(&nsid)
            && now.duration_since(*since) < MISSING
        {
            return Err(cause.clone());
        }
        match self.enter(nsid, question) {
            Ok(space) => {
                self.missing.remove(&nsid);
                open.insert(space, &self.open);
                open.get(nsid)
                    .map(|space| space.ask(question))
                    .ok_or_else(|| "the network namespace it comes from has ended".to_owned())
            }
            Err(cause) => {
                if self.missing.len() >= MAX_MISSING {
                    self.missing.clear();
                }
                self.missing.insert(nsid, (now, cause.clone()));
                Err(cause)
            }
        }
    }

    fn enter(&mut self, nsid: i32, question: &Question<'_>) -> Result<Space, Cause> {
        let (member, file) = self.member(nsid, question)?;
        let tables = self
            .proc
            .join(format!("self/fd/{}", member.folder.as_raw_fd()));
        Ok(Space {
            nsid,
            member,
            finder: open_inside(file).map(|diag| Finder::new(tables.clone(), diag)),
            tables,
            used: Instant::now(),
        })
    }

    /// A process of the namespace, and the namespace's file.
    fn member(&mut self, nsid: i32, question: &Question<'_>) -> Result<(Member, File), Cause> {
        let mut seen = HashSet::new();
        seen.extend(
            fs::read_link(self.proc.join("thread-self/ns/net")).map(PathBuf::into_os_string),
        );
        let mut denied = 0_usize;
        let mut pids = match numbers(&self.proc, usize::MAX, question.deadline) {
            Ok(pids) => pids,
            Err(Unlisted::Timeout) => return Err(question.timed_out()),
            Err(Unlisted::Io) => Vec::new(),
        };
        pids.sort_unstable(); // a pod's first process, which stays, before those it started
        for pid in pids {
            if Instant::now() >= question.deadline {
                return Err(question.timed_out());
            }
            let path = self.proc.join(format!("{pid}/ns/net"));
            let name = match fs::read_link(&path) {
                Ok(name) => name.into_os_string(),
                Err(error) => {
                    denied += usize::from(error.kind() == ErrorKind::PermissionDenied);
                    continue;
                }
            };
            if !seen.insert(name.clone()) {
                continue;
            }
            let Ok(file) = File::open(&path) else {
                continue;
            };
            if self.nsid_of(&file) == Some(nsid)
                && let Some(member) = Member::open(&self.proc, pid, name)
            {
                return Ok((member, file));
            }
        }
        let none = "no process is visible in the network namespace it comes from";
        Err(match denied {
            0 => none.to_owned(),
            denied => {
                let why = lacks::capabilities(&[Capability::CAP_SYS_PTRACE]);
                format!("{none}; those of {denied} processes are not readable ({why})")
            }
        })
    }

    /// The number of a namespace as seen from the own one.
    fn nsid_of(&mut self, namespace: &File) -> Option<i32> {
        if self.route.is_none() {
            self.route = Route::open().ok();
        }
        let mut ask = RTGENMSG.to_vec();
        put(&mut ask, NETNSA_FD, &namespace.as_raw_fd().to_ne_bytes());
        let answer = self.route.as_mut()?.get(RTM_GETNSID, &ask).ok()?;
        i32_at(attribute(answer.get(RTGENMSG.len()..)?, NETNSA_NSID)?, 0)
    }
}

impl Open {
    /// The open namespace, when the process it was found by is still in it. A number is given to
    /// another namespace only after this one has ended.
    fn get(&mut self, nsid: i32) -> Option<&mut Space> {
        let at = self.spaces.iter().position(|space| space.nsid == nsid)?;
        if !self.spaces.get(at)?.member.is_there() {
            self.spaces.remove(at);
            return None;
        }
        self.spaces.get_mut(at)
    }

    fn insert(&mut self, space: Space, shared: &Arc<Mutex<Self>>) {
        if self.spaces.len() >= CAPACITY
            && let Some(oldest) =
                (0..self.spaces.len()).min_by_key(|&at| self.spaces.get(at).map(|space| space.used))
        {
            self.spaces.swap_remove(oldest);
        }
        if !self.swept {
            let shared = Arc::downgrade(shared);
            self.swept = thread::Builder::new()
                .name("namespaces".into())
                .spawn(move || sweep(&shared))
                .is_ok();
        }
        self.spaces.push(space);
    }
}

impl Space {
    fn ask(&mut self, question: &Question<'_>) -> Answer {
        self.used = Instant::now();
        let found = match &mut self.finder {
            Ok(finder) => finder.find(question),
            Err(cause) => Err(cause.clone()),
        };
        let packet_sockets = match (&found, question.direction) {
            (Err(_), Direction::Egress) => proc_net::packet_sockets(&self.tables),
            _ => 0,
        };
        Answer {
            packet_sockets,
            found: found.map(|found| Found {
                method: inside(found.method),
                ..found
            }),
            member: self.member.pid,
        }
    }
}

impl Member {
    /// `None` when the process has left the namespace meanwhile.
    fn open(proc: &Path, pid: u32, name: OsString) -> Option<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let folder = open(&proc.join(pid.to_string()), flags, Mode::empty()).ok()?;
        let member = Self {
            pid,
            folder: File::from(folder),
            name,
        };
        member.is_there().then_some(member)
    }

    fn is_there(&self) -> bool {
        nix::fcntl::readlinkat(&self.folder, "ns/net").is_ok_and(|name| name == self.name)
    }
}

/// Closes what is not needed any more, until nothing is left.
fn sweep(open: &Weak<Mutex<Open>>) {
    loop {
        thread::sleep(SWEEP);
        let Some(open) = open.upgrade() else { return };
        let mut open = lock(&open);
        open.spaces
            .retain(|space| space.used.elapsed() < IDLE && space.member.is_there());
        if open.spaces.is_empty() {
            open.swept = false;
            return;
        }
    }
}

/// A panic aborts the process, so none can have poisoned the lock.
fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens a sock_diag socket in a namespace, from a thread that enters it and ends.
fn open_inside(namespace: File) -> Result<SockDiag, Cause> {
    let work = move || -> Result<SockDiag, Cause> {
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| {
            let why = lacks::capabilities(&[Capability::CAP_SYS_ADMIN]);
            if errno == Errno::EPERM {
                warn_once(&why);
            }
            format!("cannot enter the network namespace it comes from: {errno} ({why})")
        })?;
        SockDiag::open().map_err(|error| error.to_string())
    };
    let thread = thread::Builder::new()
        .name("enter-netns".into())
        .spawn(work);
    let thread = thread.map_err(|error| format!("no thread to enter a namespace: {error}"))?;
    thread
        .join()
        .unwrap_or_else(|_| Err("the thread that enters a namespace failed".to_owned()))
}

fn warn_once(why: &str) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            "{why}: network namespaces cannot be entered, so flows of \
             containers are attributed to their container at most, not to a process"
        );
    }
}

/// How a socket was found, in another namespace.
fn inside(method: &'static str) -> &'static str {
    match method {
        "sock-diag" => "netns-sock-diag",
        "sock-diag-listener" => "netns-sock-diag-listener",
        "local-end" => "netns-local-end",
        "ping-socket" => "netns-ping-socket",
        "raw-socket" => "netns-raw-socket",
        other => other,
    }
}
