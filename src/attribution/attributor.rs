//! Flow to source, within a time limit.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use caps::Capability;

use super::{
    AttributionError, Clues, Grade, Mac, Roots, Source,
    cgroup_tree::CgroupTree,
    clients::Clients,
    containers::{Containers, Identity},
    finder::{Cause, Finder, Found, Question, Socket},
    holder::{Holders, Search},
    namespaces::Namespaces,
    process::{Process, cgroup_of},
    relatives::Sharer,
    sock_diag::SockDiag,
    users::Users,
};
use crate::{feed::Direction, helper::Helpers, lacks, packet::Flow};

/// Holders of a shared socket named beside the likeliest.
const MAX_SHARERS: usize = 4;

/// What it takes to look into other users' processes.
const LOOK_INTO: &[Capability] = &[Capability::CAP_SYS_PTRACE, Capability::CAP_DAC_READ_SEARCH];

/// The PID namespace that sees all processes (PROC_PID_INIT_INO, linux/proc_ns.h).
const INITIAL_PIDS: &str = "pid:[4026531836]";

/// Names the source of flows, one packet at a time; each queue thread has its own.
///
/// Grades:
/// - *exact*: sock_diag named the socket by the whole 5-tuple, or the one listening socket of an
///   incoming connection (`sock-diag-listener`), or an unconnected datagram socket that is the
///   only one on its local address and port; and the process that holds it, identified by pid and
///   start time, was read while the packet was held. The same inside the network namespace that a
///   forwarded packet comes from, with `netns-` before the method.
/// - *likely*: one candidate by less: one of several sockets on a local port, one of several
///   processes that hold the socket, the local end alone (`local-end`, a destination rewritten by
///   NAT; `raw-socket` and `ping-socket`), a user that differs from the queue's, the container of a
///   namespace (`netns`), or the network card of a forwarded packet (`forward`).
/// - *unknown*: no process; `cause` says why. What is known (user, unit, container) is there.
pub struct Attributor {
    proc: PathBuf,
    timeout: Duration,
    /// Less time for the flow in hand.
    limit: Option<Duration>,
    finder: Finder,
    cgroups: CgroupTree,
    holders: Holders,
    users: Users,
    containers: Containers,
    clients: Clients,
    namespaces: Namespaces,
}

impl Attributor {
    /// An attributor that takes at most `timeout` for a flow.
    ///
    /// # Errors
    /// Without a netlink socket to ask for sockets.
    pub fn new(roots: &Roots, timeout: Duration) -> Result<Self, AttributionError> {
        Self::with(roots, timeout, &Helpers::default())
    }

    /// The same with helpers that are others' too.
    ///
    /// # Errors
    /// As [`Attributor::new`].
    pub fn with(
        roots: &Roots,
        timeout: Duration,
        helpers: &Helpers,
    ) -> Result<Self, AttributionError> {
        let mut diag = SockDiag::open()?;
        diag.load_raw(Instant::now() + timeout);
        Ok(Self {
            proc: roots.proc.clone(),
            timeout,
            limit: None,
            finder: Finder::new(roots.proc.clone(), diag),
            cgroups: CgroupTree::new(&roots.cgroup, &roots.proc),
            holders: Holders::new(&roots.proc, &helpers.processes),
            users: Users::new(&helpers.names),
            containers: Containers::new(roots, &helpers.files),
            clients: Clients::new(roots, helpers),
            namespaces: Namespaces::new(&roots.proc),
        })
    }

    /// The same with names for LAN clients by MAC address (`00:00:5e:00:53:01`), which count more
    /// than those of lease files.
    #[must_use]
    pub fn with_clients(mut self, names: &BTreeMap<String, String>) -> Self {
        self.clients.set_static(names);
        self
    }

    /// Takes at most so long for a flow from now on, where that is less than its time limit; the cause of
    /// what is not found says so. `None`: the usual time.
    pub fn hurry(&mut self, limit: Option<Duration>) {
        self.limit = limit;
    }

    /// The process of this host that sent (egress) or would receive (ingress) the packet.
    pub fn local(&mut self, flow: &Flow, direction: Direction, clues: &Clues) -> Source {
        let question = self.question(flow, direction, clues, clues.device(direction));
        let mut source = match self.finder.find(&question) {
            Ok(found) => self.describe_own(found, &question),
            Err(cause) => Source {
                method: clues.uid.map(|_| "nfqa-uid"),
                uid: clues.uid,
                cause: Some(self.or_descriptors(cause)),
                ..Source::default()
            },
        };
        self.add_user(&mut source, question.deadline);
        self.add_client(&mut source, clues.mac, question.deadline);
        source
    }

    /// What sent (egress) or would receive (ingress) a forwarded packet: a process in another
    /// network namespace of this host, or a machine of the LAN.
    pub fn forwarded(&mut self, flow: &Flow, direction: Direction, clues: &Clues) -> Source {
        let device = clues.peer.map_or(0, |peer| peer.device);
        let nobody = Clues {
            uid: None,
            ..*clues
        };
        let question = self.question(flow, direction, &nobody, device);
        let mut source = match clues.peer {
            Some(peer) => self.in_namespace(peer.nsid, &question),
            None => machine(clues.mac),
        };
        if clues.peer.is_some() {
            self.add_user(&mut source, question.deadline);
        }
        self.add_client(&mut source, clues.mac, question.deadline);
        source
    }

    /// What is known of a source without looking for it: user and network card. `cause` says why it is
    /// not looked for. Waits for nothing.
    pub fn unasked(&mut self, clues: &Clues, cause: &str) -> Source {
        let mut source = Source {
            method: clues.uid.map(|_| "nfqa-uid"),
            uid: clues.uid,
            cause: Some(cause.to_owned()),
            ..Source::default()
        };
        let now = Instant::now();
        self.add_user(&mut source, now);
        self.add_client(&mut source, clues.mac, now);
        source
    }

    /// Ends a TCP connection of this host, so that its process learns of it at once; `Ok(false)` when no
    /// socket has the flow.
    ///
    /// # Errors
    /// In words, where the kernel refuses (built without CONFIG_INET_DIAG_DESTROY).
    pub fn end_connection(&mut self, flow: &Flow, direction: Direction) -> Result<bool, String> {
        let question = self.question(flow, direction, &Clues::default(), 0);
        self.finder.destroy(&question)
    }

    fn question<'a>(
        &self,
        flow: &'a Flow,
        direction: Direction,
        clues: &Clues,
        device: u32,
    ) -> Question<'a> {
        let now = Instant::now();
        let limit = self.limit.filter(|&limit| limit < self.timeout);
        let timeout = limit.unwrap_or(self.timeout);
        Question {
            flow,
            direction,
            uid: clues.uid,
            device,
            opens: clues.opens,
            held: clues.held.unwrap_or(now),
            hurries: limit.is_some(),
            timeout,
            deadline: now + timeout,
        }
    }

    /// The process in the namespace, else the container that the namespace is of.
    fn in_namespace(&mut self, nsid: i32, question: &Question<'_>) -> Source {
        let answer = match self.namespaces.find(nsid, question) {
            Ok(answer) => answer,
            Err(cause) => {
                return Source {
                    method: Some("netns"),
                    cause: Some(self.or_descriptors(cause)),
                    ..Source::default()
                };
            }
        };
        let mut source = match answer.found {
            Ok(found) => self.describe(found, question),
            Err(cause) if answer.packet_sockets > 0 => Source {
                method: Some("netns-packet-socket"),
                cause: Some(format!(
                    "{cause}; packet sockets there ({}) can write any packet",
                    answer.packet_sockets
                )),
                ..Source::default()
            },
            Err(cause) => Source {
                method: Some("netns"),
                cause: Some(cause),
                ..Source::default()
            },
        };
        if source.container.is_none() && source.pod.is_none() {
            let cgroup = cgroup_of(&self.proc, answer.member);
            let identity = self.identity(cgroup.as_deref(), question.deadline);
            // A pod's containers share the namespace: which of them it was is not known.
            if identity.pod.is_some() {
                source.pod.clone_from(&identity.pod);
                source.namespace.clone_from(&identity.namespace);
            } else {
                source.container.clone_from(&identity.container);
                source.image.clone_from(&identity.image);
                if source.pid.is_none() {
                    source.labels = Arc::clone(&identity.labels);
                }
            }
            let known = source.pod.is_some() || source.container.is_some();
            if known && source.grade == Grade::Unknown {
                source.grade = Grade::Likely;
            }
        }
        source
    }

    /// A socket of this host: of a process, or of the kernel itself (WireGuard, VXLAN, NFS).
    fn describe_own(&mut self, found: Found, question: &Question<'_>) -> Source {
        let socket = found.socket;
        let source = self.describe(found, question);
        if source.pid.is_some() || !self.is_kernels(socket, question) {
            return source;
        }
        Source {
            method: Some("kernel-socket"),
            uid: source.uid,
            cause: Some("a socket of the kernel itself (WireGuard, VXLAN, NFS, ...)".to_owned()),
            ..Source::default()
        }
    }

    /// True when the socket is still there and no process can have it: all processes were seen,
    /// and the queue named no user, as it does for every socket with a descriptor.
    fn is_kernels(&mut self, socket: Socket, question: &Question<'_>) -> bool {
        let is_candidate = socket.inode != 0 && question.uid.is_none();
        let all_seen = || {
            fs::read_link(self.proc.join("self/ns/pid"))
                .is_ok_and(|space| space.as_os_str() == INITIAL_PIDS)
                && fs::read_dir(self.proc.join("1/fd")).is_ok()
        };
        if !is_candidate || Instant::now() >= question.deadline || !all_seen() {
            return false;
        }
        let again = self.finder.find(question);
        again.is_ok_and(|again| again.socket.inode == socket.inode)
    }

    /// Adds the process, unit and container to a socket.
    fn describe(&mut self, found: Found, question: &Question<'_>) -> Source {
        let Found {
            socket,
            grade,
            method,
            cause,
            meant,
        } = found;
        let deadline = question.deadline;
        let path = socket.cgroup.and_then(|id| self.cgroups.path(id, deadline));
        let members = || match &path {
            Some(path) => self.cgroups.processes(path, deadline),
            None => Vec::new(),
        };
        let search = self
            .holders
            .find(socket.inode, socket.cgroup, members, deadline);
        let mut source = Source {
            grade,
            method: Some(method),
            cause,
            uid: Some(socket.uid),
            meant,
            ..Source::default()
        };
        let mut cgroup = path;
        match search {
            Search::Found(process, sharers) => {
                cgroup = process.cgroup.clone().or(cgroup);
                set_process(&mut source, process);
                if !sharers.is_empty() {
                    source.grade = source.grade.min(Grade::Likely);
                    add_cause(&mut source, &also_held_by(&sharers));
                }
            }
            Search::Nobody { denied, held_up } => {
                let cause = self.no_holder(socket.inode, denied, held_up);
                set_unknown(&mut source, cause);
            }
            Search::Timeout => set_unknown(&mut source, question.timed_out()),
        }
        let identity = self.identity(cgroup.as_deref(), deadline);
        set_identity(&mut source, &identity);
        source.is_complete = source.pid.is_some()
            && source.exe.is_some()
            && cgroup.is_some()
            && identity.is_complete;
        if let Some(queue) = question.uid.filter(|&uid| uid != socket.uid) {
            source.grade = source.grade.min(Grade::Likely);
            let differs = format!(
                "the queue names uid {queue}, the socket belongs to uid {}",
                socket.uid
            );
            add_cause(&mut source, &differs);
        }
        source
    }

    /// `cause`, or why nothing could be seen at all.
    fn or_descriptors(&self, cause: Cause) -> Cause {
        lacks::descriptors_now(&self.proc).map_or(cause, str::to_owned)
    }

    fn no_holder(&self, inode: u32, denied: usize, held_up: usize) -> Cause {
        if inode == 0 {
            return "the socket has no owner: the process closed it".to_owned();
        }
        if let Some(few) = lacks::descriptors_now(&self.proc) {
            return format!("socket inode {inode} has no visible holder: {few}");
        }
        match (held_up, denied) {
            (0, 0) => format!("socket inode {inode} has no visible holder (hidepid or exited)"),
            (0, denied) => format!(
                "socket inode {inode} has no visible holder; /proc/PID/fd of {denied} processes is \
                 not readable ({})",
                lacks::capabilities(LOOK_INTO)
            ),
            (held_up, _) => format!(
                "socket inode {inode} has no visible holder; the threads of {held_up} processes \
                 are not readable in time"
            ),
        }
    }

    fn identity(&mut self, cgroup: Option<&str>, deadline: Instant) -> Arc<Identity> {
        cgroup.map_or_else(Arc::default, |path| self.containers.of(path, deadline))
    }

    fn add_user(&mut self, source: &mut Source, deadline: Instant) {
        source.user = source.uid.and_then(|uid| self.users.name(uid, deadline));
        let answered = |uid| self.users.has_answered(uid);
        source.is_complete = source.is_complete && source.uid.is_some_and(answered);
        source.session_user = match (source.session_uid, source.uid) {
            (session, uid) if session == uid => source.user.clone(),
            (session, _) => session.and_then(|uid| self.users.name(uid, deadline)),
        };
    }

    fn add_client(&mut self, source: &mut Source, mac: Option<Mac>, deadline: Instant) {
        source.mac = mac.map(format_mac);
        source.client = mac.and_then(|mac| self.clients.name(mac, deadline));
        // A machine of the LAN has no more than a name. Without one, a container whose place behind a
        // bridge is not known looks the same.
        if source.method == Some("forward") && source.client.is_some() {
            source.is_complete = true;
        }
    }
}

/// The machine that sent a forwarded packet, as far as its network card tells.
fn machine(mac: Option<Mac>) -> Source {
    let cause = "forwarded, and the link-layer address of the machine is not known";
    Source {
        grade: if mac.is_some() {
            Grade::Likely
        } else {
            Grade::Unknown
        },
        method: Some("forward"),
        cause: mac.is_none().then(|| cause.to_owned()),
        ..Source::default()
    }
}

fn set_process(source: &mut Source, process: Process) {
    source.pid = Some(process.pid);
    source.start = Some(process.start);
    source.started = process.started;
    source.ppid = Some(process.ppid);
    source.comm = Some(process.comm);
    source.command_line = process.command_line;
    source.gid = process.gid;
    source.capabilities = process.capabilities;
    source.session_uid = process.session_uid;
    if process.exe.is_none() {
        add_cause(source, "its executable is not readable");
    }
    if process.held_up {
        add_cause(source, "its command line is not readable in time");
    }
    (source.exe, source.exe_deleted) = match process.exe {
        Some(exe) => (Some(exe.path), exe.deleted),
        None => (None, false),
    };
}

fn set_identity(source: &mut Source, identity: &Identity) {
    source.unit.clone_from(&identity.unit);
    source.slice.clone_from(&identity.slice);
    source.session_uid = source.session_uid.or(identity.session_uid);
    source.container.clone_from(&identity.container);
    source.image.clone_from(&identity.image);
    source.pod.clone_from(&identity.pod);
    source.namespace.clone_from(&identity.namespace);
    source.labels = Arc::clone(&identity.labels);
}

fn also_held_by(sharers: &[Sharer]) -> Cause {
    let named: Vec<String> = sharers
        .iter()
        .take(MAX_SHARERS)
        .map(|Sharer { pid, comm, .. }| format!("{pid} ({comm})"))
        .collect();
    let more = sharers.len().saturating_sub(MAX_SHARERS);
    match more {
        0 => format!("also held by {}", named.join(", ")),
        more => format!("also held by {} and {more} more", named.join(", ")),
    }
}

fn set_unknown(source: &mut Source, cause: Cause) {
    source.grade = Grade::Unknown;
    add_cause(source, &cause);
}

fn add_cause(source: &mut Source, cause: &str) {
    source.cause = Some(match source.cause.take() {
        Some(first) => format!("{first}; {cause}"),
        None => cause.to_owned(),
    });
}

fn format_mac(mac: Mac) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}
