//! Flow to source, within a time limit.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{
    AttributionError, Grade, Roots, Source,
    cgroup::identify,
    cgroup_tree::CgroupTree,
    holder::{Holders, Search},
    inet_diag::{Answer, Ends},
    proc_net::{self, Row},
    process::Process,
    sock_diag::{Failure, Fit, SockDiag, is_datagram},
    users::Users,
};
use crate::{
    feed::Direction,
    packet::{Flow, Protocol, Transport},
};

/// Names the source of flows, one packet at a time; each queue thread has its own.
///
/// Grades:
/// - *exact*: sock_diag named the socket by the whole 5-tuple, or the one listening socket of an
///   incoming connection (`sock-diag-listener`), or an unconnected datagram socket that is the
///   only one on its local address and port; and the process that holds it, identified by pid and
///   start time, was read while the packet was held.
/// - *likely*: one candidate by less: one of several sockets on a local port, the local end alone
///   (`local-end`; a destination rewritten by NAT, raw and ping sockets), or a user that differs
///   from the queue's.
/// - *unknown*: no process; `cause` says why. What is known (user, unit, container) is there.
pub struct Attributor {
    proc: PathBuf,
    timeout: Duration,
    diag: SockDiag,
    cgroups: CgroupTree,
    holders: Holders,
    users: Users,
}

/// The socket of a flow, and how it was found.
struct Found {
    socket: Socket,
    grade: Grade,
    method: &'static str,
    cause: Option<String>,
}

#[derive(Clone, Copy)]
struct Socket {
    inode: u32,
    uid: u32,
    cgroup: Option<u64>,
}

/// Why there is no socket, in words.
type Cause = String;

impl Attributor {
    /// An attributor that takes at most `timeout` for a flow.
    ///
    /// # Errors
    /// Without a netlink socket to ask for sockets.
    pub fn new(roots: &Roots, timeout: Duration) -> Result<Self, AttributionError> {
        Ok(Self {
            proc: roots.proc.clone(),
            timeout,
            diag: SockDiag::open()?,
            cgroups: CgroupTree::new(&roots.cgroup, &roots.proc),
            holders: Holders::new(&roots.proc),
            users: Users::new(),
        })
    }

    /// The process of this host that sent (egress) or would receive (ingress) the packet.
    /// `nfqa_uid` is the user the queue named with it (NFQA_UID).
    pub fn local(&mut self, flow: &Flow, direction: Direction, nfqa_uid: Option<u32>) -> Source {
        let deadline = Instant::now() + self.timeout;
        let mut source = match self.find_socket(flow, direction, nfqa_uid, deadline) {
            Ok(found) => self.describe(found, nfqa_uid, deadline),
            Err(cause) => Source {
                method: nfqa_uid.map(|_| "nfqa-uid"),
                uid: nfqa_uid,
                cause: Some(cause),
                ..Source::default()
            },
        };
        source.user = source.uid.and_then(|uid| self.users.name(uid, deadline));
        source
    }

    /// The machine that sent a forwarded packet, as far as its network card tells.
    pub fn forwarded(&mut self, mac: Option<[u8; 6]>) -> Source {
        let cause = "forwarded, and the packet has no link-layer source address";
        Source {
            grade: if mac.is_some() {
                Grade::Likely
            } else {
                Grade::Unknown
            },
            method: Some("forward"),
            cause: mac.is_none().then(|| cause.to_owned()),
            mac: mac.map(format_mac),
            ..Source::default()
        }
    }

    fn find_socket(
        &mut self,
        flow: &Flow,
        direction: Direction,
        nfqa_uid: Option<u32>,
        deadline: Instant,
    ) -> Result<Found, Cause> {
        let ends = ends(flow, direction);
        match flow.transport {
            _ if flow.fragment => Err("a later fragment carries no ports".to_owned()),
            Transport::Ports { .. } => {
                self.find_by_ports(flow.proto, ends, direction, nfqa_uid, deadline)
            }
            Transport::None if flow.proto.has_ports() => {
                Err("the packet ends before its ports".to_owned())
            }
            Transport::Icmp { kind, .. } if is_kernels_own(flow, kind, direction, nfqa_uid) => Err(
                format!("the kernel itself handles {} type {kind}", flow.proto),
            ),
            Transport::Icmp { id, .. } => self.find_raw(flow.proto, ends, id, nfqa_uid, deadline),
            Transport::None => self.find_raw(flow.proto, ends, None, nfqa_uid, deadline),
        }
    }

    fn find_by_ports(
        &mut self,
        proto: Protocol,
        ends: Ends,
        direction: Direction,
        nfqa_uid: Option<u32>,
        deadline: Instant,
    ) -> Result<Found, Cause> {
        let failure = match self.find_exactly(proto, ends, direction, deadline) {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => None,
            Err(Failure::Timeout) => return Err(self.timed_out()),
            Err(Failure::Kernel(errno)) => Some(errno),
        };
        let sends = direction == Direction::Egress;
        let rows = proc_net::local_end(&self.proc, proto, ends, sends, deadline)
            .map_err(|proc_net::Timeout| self.timed_out())?;
        let none = || match (failure, direction) {
            (Some(errno), _) => {
                format!("sock_diag for {proto}: {errno}; no socket on the local end")
            }
            (None, Direction::Egress) => {
                "no socket: the process closed it, or the kernel sent this".to_owned()
            }
            (None, Direction::Ingress) => format!(
                "no socket of this host takes {proto} port {}",
                ends.local.port()
            ),
        };
        only_candidate(rows, nfqa_uid, none)
    }

    /// By sock_diag.
    fn find_exactly(
        &mut self,
        proto: Protocol,
        ends: Ends,
        direction: Direction,
        deadline: Instant,
    ) -> Result<Option<Found>, Failure> {
        let Some((answer, fit)) = self.diag.find(proto, ends, deadline)? else {
            return Ok(None);
        };
        match fit {
            Fit::Whole if answer.inode != 0 => Ok(Some(exact(answer, "sock-diag"))),
            // A connection that is not accepted yet, or not any more.
            Fit::Whole if !is_datagram(proto) => {
                let listener = self.diag.listener(proto, ends, deadline)?;
                Ok(listener.map(|answer| listening(answer, direction)))
            }
            Fit::Whole => Ok(None),
            Fit::Listener => Ok(Some(listening(answer, direction))),
            Fit::Unconnected => {
                let mut found = exact(answer, "sock-diag");
                if !self.diag.is_only_one(proto, ends, deadline)? {
                    found.grade = Grade::Likely;
                    found.cause =
                        Some("several sockets share the local address and port".to_owned());
                }
                Ok(Some(found))
            }
        }
    }

    fn find_raw(
        &mut self,
        proto: Protocol,
        ends: Ends,
        id: Option<u16>,
        nfqa_uid: Option<u32>,
        deadline: Instant,
    ) -> Result<Found, Cause> {
        let rows = proc_net::raw(&self.proc, proto, ends, id, deadline)
            .map_err(|proc_net::Timeout| self.timed_out())?;
        only_candidate(rows, nfqa_uid, || {
            format!("no ping or raw socket for {proto}: the kernel's own, or closed")
        })
    }

    /// Adds the process, unit and container to a socket.
    fn describe(&mut self, found: Found, nfqa_uid: Option<u32>, deadline: Instant) -> Source {
        let Found {
            socket,
            grade,
            method,
            cause,
        } = found;
        let path = socket.cgroup.and_then(|id| self.cgroups.path(id, deadline));
        let members = || match &path {
            Some(path) => self.cgroups.processes(path),
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
            ..Source::default()
        };
        match search {
            Search::Found(process) => {
                let own = process.cgroup.clone();
                set_process(&mut source, process);
                set_cgroup(&mut source, own.or(path).as_deref());
            }
            Search::Nobody { denied } => {
                set_cgroup(&mut source, path.as_deref());
                set_unknown(&mut source, no_holder(socket.inode, denied));
            }
            Search::Timeout => {
                set_cgroup(&mut source, path.as_deref());
                let cause = self.timed_out();
                set_unknown(&mut source, cause);
            }
        }
        if let Some(queue) = nfqa_uid.filter(|&uid| uid != socket.uid) {
            source.grade = source.grade.min(Grade::Likely);
            let differs = format!(
                "the queue names uid {queue}, the socket belongs to uid {}",
                socket.uid
            );
            add_cause(&mut source, &differs);
        }
        source
    }

    fn timed_out(&self) -> Cause {
        format!("timeout after {}", humantime::format_duration(self.timeout))
    }
}

/// The flow seen from this host. Without ports they are 0.
fn ends(flow: &Flow, direction: Direction) -> Ends {
    let end = |ip: IpAddr, port: Option<u16>| SocketAddr::new(ip.to_canonical(), port.unwrap_or(0));
    let sent = Ends {
        local: end(flow.src, flow.src_port()),
        remote: end(flow.dst, flow.dst_port()),
    };
    match direction {
        Direction::Egress => sent,
        Direction::Ingress => sent.swapped(),
    }
}

/// The kernel answers echo requests and sends errors; a user named by the queue means that a
/// process wrote the message.
fn is_kernels_own(flow: &Flow, kind: u8, direction: Direction, nfqa_uid: Option<u32>) -> bool {
    let (request, reply) = if flow.proto == Protocol::ICMPV6 {
        (128, 129)
    } else {
        (8, 0)
    };
    match direction {
        Direction::Egress => kind != request && nfqa_uid.is_none(),
        Direction::Ingress => kind != reply,
    }
}

fn exact(answer: Answer, method: &'static str) -> Found {
    Found {
        socket: Socket {
            inode: answer.inode,
            uid: answer.uid,
            cgroup: answer.cgroup,
        },
        grade: Grade::Exact,
        method,
        cause: None,
    }
}

/// The listener is the target of what comes in; what goes out from its port is only likely its.
fn listening(answer: Answer, direction: Direction) -> Found {
    let mut found = exact(answer, "sock-diag-listener");
    if direction == Direction::Egress {
        found.grade = Grade::Likely;
    }
    found
}

/// The one socket among candidates of the local end.
fn only_candidate(
    mut rows: Vec<Row>,
    nfqa_uid: Option<u32>,
    none: impl FnOnce() -> Cause,
) -> Result<Found, Cause> {
    rows.retain(|row| row.inode != 0);
    if let Some(uid) = nfqa_uid {
        rows.retain(|row| row.uid == uid);
    }
    match rows.as_slice() {
        [] => Err(none()),
        [row] => Ok(Found {
            socket: Socket {
                inode: row.inode,
                uid: row.uid,
                cgroup: None,
            },
            grade: Grade::Likely,
            method: "local-end",
            cause: None,
        }),
        many => Err(format!(
            "{} sockets may be its source, none by the whole flow",
            many.len()
        )),
    }
}

fn set_process(source: &mut Source, process: Process) {
    source.pid = Some(process.pid);
    source.start = Some(process.start);
    source.ppid = Some(process.ppid);
    source.comm = Some(process.comm);
    if process.exe.is_none() {
        add_cause(source, "its executable is not readable");
    }
    source.exe = process.exe;
}

fn set_cgroup(source: &mut Source, path: Option<&str>) {
    let identity = path.map(identify).unwrap_or_default();
    source.unit = identity.unit;
    source.container = identity.container.map(|id| id.as_str().to_owned());
    source.pod = identity.pod_uid;
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

fn no_holder(inode: u32, denied: usize) -> Cause {
    match (inode, denied) {
        (0, _) => "the socket has no owner: the process closed it".to_owned(),
        (_, 0) => format!("socket inode {inode} has no visible holder (hidepid or exited)"),
        (_, denied) => {
            format!("no CAP_SYS_PTRACE: /proc/PID/fd of {denied} processes is not readable")
        }
    }
}

fn format_mac(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}
