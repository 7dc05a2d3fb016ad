//! Flow to socket, in one network namespace.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::{Duration, Instant},
};

use nix::errno::Errno;

use super::{
    Grade,
    inet_diag::{Answer, Ends},
    proc_net::{self, Row},
    sock_diag::{Failure, Fit, SockDiag, is_datagram},
};
use crate::{
    feed::Direction,
    packet::{Flow, Protocol, Transport},
};

/// The socket of a flow, and how it was found.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) socket: Socket,
    pub(super) grade: Grade,
    pub(super) method: &'static str,
    pub(super) cause: Option<String>,
    /// Where the socket is connected to, when the packet goes elsewhere.
    pub(super) meant: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Socket {
    pub(super) inode: u32,
    pub(super) uid: u32,
    pub(super) cgroup: Option<u64>,
}

/// Method of what a raw socket sent.
const RAW: &str = "raw-socket";

/// Behind the time limit of a lookup that was cut short.
pub(super) const HURRY: &str = "more new flows at once than can be looked up in time";

/// Why there is no socket, in words.
pub(super) type Cause = String;

/// What is looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    pub(super) flow: &'a Flow,
    pub(super) direction: Direction,
    /// The user that the queue named.
    pub(super) uid: Option<u32>,
    /// Interface in the namespace of the socket, 0: not known.
    pub(super) device: u32,
    /// The first packet of a TCP connection: its sender's socket is opening one.
    pub(super) opens: bool,
    /// The packet was held by then.
    pub(super) held: Instant,
    /// Less time than usual: more packets wait than can be looked up.
    pub(super) hurries: bool,
    pub(super) timeout: Duration,
    pub(super) deadline: Instant,
}

/// Asks sock_diag, then the tables of /proc/net.
pub(super) struct Finder {
    /// The folder whose `net` has the tables.
    tables: PathBuf,
    diag: SockDiag,
    opening: Option<Opening>,
}

/// The TCP sockets that opened a connection at some time, by local port.
///
/// The kernel finds them by a walk through its whole table, so one walk serves all packets that were
/// held before it: whichever socket sent one of them existed by then, and if it is not there, it was
/// closed.
struct Opening {
    /// When the walk began.
    at: Instant,
    /// `None`: there were more than are kept.
    sockets: Option<Vec<Answer>>,
}

impl Question<'_> {
    pub(super) fn timed_out(&self) -> Cause {
        let timeout = humantime::format_duration(self.timeout);
        if self.hurries {
            format!("timeout after {timeout}: {HURRY}")
        } else {
            format!("timeout after {timeout}")
        }
    }
}

impl Opening {
    fn with_port(&self, port: u16) -> Option<&[Answer]> {
        let all = self.sockets.as_deref()?;
        let first = all.partition_point(|socket| socket.ends.local.port() < port);
        let rest = all.get(first..)?;
        rest.get(..rest.partition_point(|socket| socket.ends.local.port() == port))
    }
}

impl Finder {
    pub(super) fn new(tables: PathBuf, diag: SockDiag) -> Self {
        Self {
            tables,
            diag,
            opening: None,
        }
    }

    pub(super) fn find(&mut self, question: &Question<'_>) -> Result<Found, Cause> {
        let &Question {
            flow,
            direction,
            uid,
            ..
        } = question;
        let ends = ends(flow, direction);
        match flow.transport {
            _ if flow.fragment => Err("a later fragment carries no ports".to_owned()),
            Transport::Ports { .. } => self.find_by_ports(question, ends),
            Transport::None if flow.proto.has_ports() => {
                let writers = self.writers(question, ends)?;
                only_candidate(writers, RAW, uid, || {
                    "the packet ends before its ports".to_owned()
                })
            }
            Transport::Icmp { kind, .. } if is_kernels_own(flow, kind, direction, uid) => Err(
                format!("the kernel itself handles {} type {kind}", flow.proto),
            ),
            Transport::Icmp { id, .. } => self.find_raw(question, ends, id),
            Transport::None => self.find_raw(question, ends, None),
        }
    }

    /// Ends the TCP connection of a flow; `Ok(false)` when no socket has it.
    pub(super) fn destroy(&mut self, question: &Question<'_>) -> Result<bool, Cause> {
        let ends = ends(question.flow, question.direction);
        match self.diag.destroy(ends, question.deadline) {
            Ok(ended) => Ok(ended),
            Err(Failure::Timeout) => Err(question.timed_out()),
            Err(Failure::Kernel(errno)) => Err(format!("SOCK_DESTROY: {errno}")),
        }
    }

    fn find_by_ports(&mut self, question: &Question<'_>, ends: Ends) -> Result<Found, Cause> {
        let proto = question.flow.proto;
        let failure = match self.find_exactly(question, ends) {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => None,
            Err(Failure::Timeout) => return Err(question.timed_out()),
            Err(Failure::Kernel(errno)) => Some(errno),
        };
        let sends = question.direction == Direction::Egress;
        let rows = self.at_local_end(question, ends)?;
        let writers = if rows.iter().all(|row| row.inode == 0) {
            self.writers(question, ends)?
        } else {
            Vec::new()
        };
        // What the kernel has no sockets for, a program does by itself (SCTP in user space). Of the
        // others a socket that was closed meanwhile is likelier.
        if !writers.is_empty() && !proc_net::has_table(proto) {
            return only_candidate(writers, RAW, question.uid, || no_socket(question, failure));
        }
        let found = only_candidate(rows, "local-end", question.uid, || {
            let none = no_socket(question, failure);
            if writers.is_empty() {
                none
            } else {
                format!("{none}; or a raw socket of this user wrote the packet")
            }
        });
        found.map(|found| Found {
            // A listener takes what comes, whatever NAT made of it, and does not know.
            meant: found.meant.filter(|end| sends && *end != ends.remote),
            ..found
        })
    }

    /// By sock_diag.
    fn find_exactly(
        &mut self,
        question: &Question<'_>,
        ends: Ends,
    ) -> Result<Option<Found>, Failure> {
        let &Question {
            direction,
            device,
            deadline,
            ..
        } = question;
        let proto = question.flow.proto;
        let Some((answer, fit)) = self.diag.find(proto, ends, device, deadline)? else {
            return Ok(None);
        };
        match fit {
            Fit::Whole if answer.inode != 0 => Ok(Some(exact(answer, "sock-diag"))),
            // A connection that is not accepted yet, or not any more.
            Fit::Whole if !is_datagram(proto) => {
                let listener = self.diag.listener(proto, ends, device, deadline)?;
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

    /// The sockets of the local end that may have sent the packet, or would take it.
    fn at_local_end(&mut self, question: &Question<'_>, ends: Ends) -> Result<Vec<Row>, Cause> {
        let proto = question.flow.proto;
        let sends = question.direction == Direction::Egress;
        let deadline = question.deadline;
        if !proc_net::has_table(proto) {
            return Ok(Vec::new());
        }
        let is_walk = proto == Protocol::TCP;
        let found = if is_walk && sends && question.opens {
            self.opening_at(question, ends)
        } else if is_walk && question.hurries {
            Err(Failure::Timeout)
        } else {
            self.diag.at_local_end(proto, ends, deadline)
        };
        match found {
            Ok(answers) => {
                let rows = answers.iter().map(Row::of).collect();
                Ok(proc_net::candidates(rows, proto, sends))
            }
            Err(Failure::Timeout) => Err(question.timed_out()),
            // Without sock_diag for this protocol.
            Err(Failure::Kernel(_)) => {
                proc_net::local_end(&self.tables, proto, ends, sends, deadline)
                    .map_err(|proc_net::Timeout| question.timed_out())
            }
        }
    }

    /// The sockets of the local end that open a connection: from the last walk through the table when
    /// that began after the packet was held, else from another one. None can be cut short, so who is in
    /// a hurry does not begin one.
    fn opening_at(&mut self, question: &Question<'_>, ends: Ends) -> Result<Vec<Answer>, Failure> {
        let is_usable = |opening: &Opening| opening.at >= question.held;
        if !self.opening.as_ref().is_some_and(is_usable) {
            self.opening = None;
            if question.hurries {
                return Err(Failure::Timeout);
            }
            let at = Instant::now();
            let sockets = self.diag.opening(question.deadline)?;
            self.opening = Some(Opening { at, sockets });
        }
        let port = ends.local.port();
        let opening = self.opening.as_ref();
        match opening.and_then(|opening| opening.with_port(port)) {
            Some(sockets) => {
                let here = |socket: &&Answer| proc_net::is_at(&Row::of(socket), ends);
                Ok(sockets.iter().filter(here).copied().collect())
            }
            None if question.hurries => Err(Failure::Timeout),
            None => {
                let deadline = question.deadline;
                self.diag.at_local_end(Protocol::TCP, ends, deadline)
            }
        }
    }

    /// Raw sockets of the user that the queue named, which may have written headers with ports
    /// themselves. Without a name there are none: it means that an open socket sent the packet.
    fn writers(&mut self, question: &Question<'_>, ends: Ends) -> Result<Vec<Row>, Cause> {
        let Some(uid) = question
            .uid
            .filter(|_| question.direction == Direction::Egress)
        else {
            return Ok(Vec::new());
        };
        let mut rows = self.raws(question, ends)?;
        rows.retain(|row| row.uid == uid && row.inode != 0);
        Ok(rows)
    }

    /// Raw sockets that may have sent or would receive the packet.
    fn raws(&mut self, question: &Question<'_>, ends: Ends) -> Result<Vec<Row>, Cause> {
        let proto = question.flow.proto;
        let deadline = question.deadline;
        let is_candidate = |answer: &Answer| proc_net::is_between(&Row::of_raw(answer), ends);
        let v6 = ends.local.is_ipv6();
        match self.diag.raws(proto, v6, is_candidate, deadline) {
            Ok(Some(answers)) => Ok(answers.iter().map(Row::of_raw).collect()),
            Err(Failure::Timeout) => Err(question.timed_out()),
            Ok(None) | Err(Failure::Kernel(_)) => {
                proc_net::raws(&self.tables, proto, ends, deadline)
                    .map_err(|proc_net::Timeout| question.timed_out())
            }
        }
    }

    fn find_raw(
        &mut self,
        question: &Question<'_>,
        ends: Ends,
        id: Option<u16>,
    ) -> Result<Found, Cause> {
        let proto = question.flow.proto;
        let late = |proc_net::Timeout| question.timed_out();
        let pings = match id {
            Some(id) => proc_net::pings(&self.tables, ends, id, question.deadline).map_err(late)?,
            None => Vec::new(),
        };
        let (rows, method) = if pings.is_empty() {
            (self.raws(question, ends)?, RAW)
        } else {
            (pings, "ping-socket")
        };
        only_candidate(rows, method, question.uid, || {
            format!("no ping or raw socket for {proto}: the kernel's own, or closed")
        })
    }
}

fn no_socket(question: &Question<'_>, failure: Option<Errno>) -> Cause {
    let proto = question.flow.proto;
    match (failure, question.direction) {
        (Some(errno), _) => format!("sock_diag for {proto}: {errno}; no socket on the local end"),
        (None, Direction::Egress) => {
            "no socket: the process closed it, or the kernel sent this".to_owned()
        }
        (None, Direction::Ingress) => format!(
            "no socket of this host takes {proto} port {}",
            question.flow.dst_port().unwrap_or_default()
        ),
    }
}

/// The flow seen from the socket's host. Without ports they are 0.
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
        meant: None,
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
    method: &'static str,
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
                cgroup: row.cgroup,
            },
            grade: Grade::Likely,
            method,
            cause: None,
            meant: Some(row.ends.remote).filter(|end| end.port() != 0),
        }),
        many => Err(format!(
            "{} sockets may be its source, none by the whole flow",
            many.len()
        )),
    }
}
