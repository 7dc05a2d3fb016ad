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
    pub(super) timeout: Duration,
    pub(super) deadline: Instant,
}

/// Asks sock_diag, then the tables of /proc/net.
pub(super) struct Finder {
    /// The folder whose `net` has the tables.
    tables: PathBuf,
    diag: SockDiag,
}

impl Question<'_> {
    pub(super) fn timed_out(&self) -> Cause {
        format!("timeout after {}", humantime::format_duration(self.timeout))
    }
}

impl Finder {
    pub(super) fn new(tables: PathBuf, diag: SockDiag) -> Self {
        Self { tables, diag }
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
        let rows = proc_net::local_end(&self.tables, proto, ends, sends, question.deadline)
            .map_err(|proc_net::Timeout| question.timed_out())?;
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
