//! Asks the kernel which socket a flow belongs to (sock_diag(7)), without walking its tables.

use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, SockProtocol, recv, send},
};

use super::{
    AttributionError,
    inet_diag::{Answer, Ends, IPPROTO_RAW, Message, Query, TCP_LISTEN, encode, messages},
};
use crate::{netlink_socket, packet::Protocol};

/// The largest datagram of a netlink dump.
const BUFFER: usize = 32 * 1024;

/// Sockets kept from a list: more than one is ambiguous already.
const MAX_LISTED: usize = 64;

/// Sockets kept of those that open a connection.
const MAX_OPENING: usize = 32 * 1024;

/// The kernel was built without CONFIG_INET_RAW_DIAG, or its module cannot be loaded: asking again
/// would start modprobe each time.
static NO_RAW: AtomicBool = AtomicBool::new(false);

/// One netlink socket, for one thread.
pub(super) struct SockDiag {
    socket: OwnedFd,
    sequence: u32,
    buffer: Box<[u8]>,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The deadline has passed.
    Timeout,
    /// The kernel refused, as it does for protocols built without sock_diag.
    Kernel(Errno),
}

/// How an answer fits the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// All of the 5-tuple.
    Whole,
    /// A listening socket of the local end.
    Listener,
    /// A socket of the local end that is connected to nobody.
    Unconnected,
}

impl SockDiag {
    pub(super) fn open() -> Result<Self, AttributionError> {
        let socket =
            netlink_socket::open(SockProtocol::NetlinkSockDiag).map_err(AttributionError::Open)?;
        netlink_socket::connect_to_kernel(&socket).map_err(AttributionError::Connect)?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; BUFFER].into_boxed_slice(),
        })
    }

    /// The socket of these ends. An answer that does not fit them is none: the kernel's lookup
    /// falls back to wildcard sockets. `device`: the interface that the packet uses, 0: not known.
    pub(super) fn find(
        &mut self,
        proto: Protocol,
        ends: Ends,
        device: u32,
        deadline: Instant,
    ) -> Result<Option<(Answer, Fit)>, Failure> {
        // udp_dump_one takes the source of the request as the remote end; kernels before 5.8 did
        // not all do so. The order that is wrong finds another socket or none.
        let orders: &[Ends] = if is_datagram(proto) {
            &[ends.swapped(), ends]
        } else {
            &[ends]
        };
        for &order in orders {
            let found = self.one(proto, order, device, deadline)?;
            if let Some(fitting) = found.and_then(|answer| Some((answer, fit(&answer, ends)?))) {
                return Ok(Some(fitting));
            }
        }
        Ok(None)
    }

    /// The listening socket of the local end.
    pub(super) fn listener(
        &mut self,
        proto: Protocol,
        ends: Ends,
        device: u32,
        deadline: Instant,
    ) -> Result<Option<Answer>, Failure> {
        let found = self.one(proto, ends.listening(), device, deadline)?;
        Ok(found.filter(|answer| fit(answer, ends) == Some(Fit::Listener)))
    }

    /// True when `ends.local` could belong to one socket only. Walks the protocol's table
    /// (about 15 us for each address family with 16,384 empty slots).
    pub(super) fn is_only_one(
        &mut self,
        proto: Protocol,
        ends: Ends,
        deadline: Instant,
    ) -> Result<bool, Failure> {
        Ok(self.at_local_end(proto, ends, deadline)?.len() == 1)
    }

    /// The sockets whose local end is `ends.local`, whatever they are connected to. Walks the
    /// protocol's table once for each address family: of TCP 2.4 ms where it has 262,144 slots.
    pub(super) fn at_local_end(
        &mut self,
        proto: Protocol,
        ends: Ends,
        deadline: Instant,
    ) -> Result<Vec<Answer>, Failure> {
        let mut found: Vec<Answer> = Vec::new();
        // IPv4 flows can belong to IPv6 sockets, not the other way round.
        for v6 in [false, true] {
            if ends.local.is_ipv6() && !v6 {
                continue;
            }
            let port = ends.local.port();
            let query = Query::Port { v6, port };
            let keep = |socket: &Answer| is_local_end(socket, ends);
            found.extend(self.ask(query, proto, keep, deadline)?);
        }
        Ok(found)
    }

    /// All TCP sockets that open a connection, by local port; `None`: there are more than are kept.
    /// Walks the table of TCP once.
    pub(super) fn opening(&mut self, deadline: Instant) -> Result<Option<Vec<Answer>>, Failure> {
        let mut found = self.ask(Query::Opening, Protocol::TCP, |_| true, deadline)?;
        found.sort_unstable_by_key(|answer| answer.ends.local.port());
        Ok((found.len() < MAX_OPENING).then_some(found))
    }

    /// Raw sockets of this protocol that `keep` holds for, or where there are none those that write
    /// whole packets; `None` where the kernel does not list raw sockets.
    pub(super) fn raws(
        &mut self,
        proto: Protocol,
        v6: bool,
        keep: impl Fn(&Answer) -> bool,
        deadline: Instant,
    ) -> Result<Option<Vec<Answer>>, Failure> {
        for number in [proto, IPPROTO_RAW] {
            match self.raws_of(number, v6, &keep, deadline)? {
                Some(none) if none.is_empty() => {}
                other => return Ok(other),
            }
        }
        Ok(Some(Vec::new()))
    }

    /// Has the kernel load its module for raw sockets, if there is one: not while a packet is held.
    pub(super) fn load_raw(&mut self, deadline: Instant) {
        let _: Result<_, Failure> = self.raws_of(IPPROTO_RAW, false, |_: &Answer| false, deadline);
    }

    fn raws_of(
        &mut self,
        number: Protocol,
        v6: bool,
        keep: impl Fn(&Answer) -> bool,
        deadline: Instant,
    ) -> Result<Option<Vec<Answer>>, Failure> {
        if NO_RAW.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match self.ask(Query::Raw { v6 }, number, keep, deadline) {
            Ok(answers) => Ok(Some(answers)),
            Err(Failure::Kernel(Errno::ENOENT | Errno::EINVAL | Errno::EOPNOTSUPP)) => {
                NO_RAW.store(true, Ordering::Relaxed);
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Ends the TCP connection with exactly these ends, as its process sees it with ECONNABORTED; false
    /// when there is none. Needs CAP_NET_ADMIN and CONFIG_INET_DIAG_DESTROY.
    pub(super) fn destroy(&mut self, ends: Ends, deadline: Instant) -> Result<bool, Failure> {
        let found = self.one(Protocol::TCP, ends, 0, deadline)?;
        let Some(answer) = found.filter(|answer| fit(answer, ends) == Some(Fit::Whole)) else {
            return Ok(false);
        };
        let cookie = answer.cookie;
        let query = Query::Destroy { ends, cookie };
        match self.ask(query, Protocol::TCP, |_| true, deadline) {
            Ok(_) => Ok(true),
            // It has ended by itself, or its ports have another connection by now.
            Err(Failure::Kernel(Errno::ENOENT | Errno::ESTALE)) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    fn one(
        &mut self,
        proto: Protocol,
        ends: Ends,
        device: u32,
        deadline: Instant,
    ) -> Result<Option<Answer>, Failure> {
        match self.ask(Query::One { ends, device }, proto, |_| true, deadline) {
            Ok(answers) => Ok(answers.first().copied()),
            Err(Failure::Kernel(Errno::ENOENT)) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// The answers that `keep` holds for.
    fn ask(
        &mut self,
        query: Query,
        proto: Protocol,
        keep: impl Fn(&Answer) -> bool,
        deadline: Instant,
    ) -> Result<Vec<Answer>, Failure> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = encode(query, proto, self.sequence);
        send(self.socket.as_raw_fd(), &request, MsgFlags::empty()).map_err(Failure::Kernel)?;
        let single = matches!(query, Query::One { .. });
        let most = match query {
            Query::Opening => MAX_OPENING,
            _ => MAX_LISTED,
        };
        let mut answers = Vec::new();
        loop {
            let length = self.receive(deadline)?;
            for (sequence, message) in messages(self.buffer.get(..length).unwrap_or_default()) {
                if sequence != self.sequence {
                    continue; // the late answer to an earlier question
                }
                match message {
                    Message::Socket(answer) if single => return Ok(vec![answer]),
                    Message::Socket(answer) if answers.len() < most && keep(&answer) => {
                        answers.push(answer);
                    }
                    Message::Error(0) => return Ok(answers),
                    Message::Error(code) => return Err(Failure::Kernel(Errno::from_raw(code))),
                    Message::Done => return Ok(answers),
                    Message::Socket(_) | Message::Other => {}
                }
            }
        }
    }

    /// One datagram into the buffer. The kernel answers before `send` returns, so this waits
    /// only when something is out of order.
    fn receive(&mut self, deadline: Instant) -> Result<usize, Failure> {
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(length) => return Ok(length),
                Err(Errno::EAGAIN) => self.wait(deadline)?,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Failure::Kernel(errno)),
            }
        }
    }

    fn wait(&self, deadline: Instant) -> Result<(), Failure> {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut polled = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, timeout) {
            Ok(0) => Err(Failure::Timeout),
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(Failure::Kernel(errno)),
        }
    }
}

/// Protocols without connections: any socket of the local end may send anywhere.
pub(super) fn is_datagram(proto: Protocol) -> bool {
    proto == Protocol::UDP || proto == Protocol::UDPLITE
}

fn fit(answer: &Answer, ends: Ends) -> Option<Fit> {
    if answer.ends == ends {
        return Some(Fit::Whole);
    }
    let remote = answer.ends.remote;
    let talks_to_nobody = remote.port() == 0 && remote.ip().is_unspecified();
    if !talks_to_nobody || !is_local_end(answer, ends) {
        None
    } else if answer.state == TCP_LISTEN {
        Some(Fit::Listener)
    } else {
        Some(Fit::Unconnected)
    }
}

fn is_local_end(answer: &Answer, ends: Ends) -> bool {
    let local = answer.ends.local;
    local.port() == ends.local.port()
        && (local.ip() == ends.local.ip() || local.ip().is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(local: &str, remote: &str, state: u8) -> Answer {
        Answer {
            ends: Ends {
                local: local.parse().unwrap(),
                remote: remote.parse().unwrap(),
            },
            state,
            uid: 0,
            inode: 1,
            cgroup: None,
            cookie: [0; 8],
        }
    }

    #[test]
    fn an_answer_must_fit_the_whole_flow() {
        let ends = answer("192.0.2.1:5000", "198.51.100.7:80", 1).ends;
        let fits = |local, remote, state| fit(&answer(local, remote, state), ends);
        assert_eq!(
            fits("192.0.2.1:5000", "198.51.100.7:80", 1),
            Some(Fit::Whole)
        );
        assert_eq!(fits("0.0.0.0:5000", "0.0.0.0:0", 10), Some(Fit::Listener));
        assert_eq!(fits("[::]:5000", "[::]:0", 7), Some(Fit::Unconnected));
        assert_eq!(fits("192.0.2.1:5000", "198.51.100.8:80", 1), None);
        assert_eq!(fits("192.0.2.1:5000", "198.51.100.7:81", 1), None);
        assert_eq!(fits("192.0.2.1:5001", "0.0.0.0:0", 7), None);
        assert_eq!(fits("192.0.2.2:5000", "0.0.0.0:0", 7), None);
    }

    #[test]
    fn a_late_answer_is_not_taken_for_this_one() {
        let late = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut diag = SockDiag::open().unwrap();
        let remote = "192.0.2.1:9".parse().unwrap();
        let local = late.local_addr().unwrap();
        let request = encode(
            Query::One {
                ends: Ends {
                    local: remote,
                    remote: local,
                },
                device: 0,
            },
            Protocol::UDP,
            99,
        );
        send(diag.socket.as_raw_fd(), &request, MsgFlags::empty()).unwrap();
        let ends = Ends {
            local: "127.0.0.1:1".parse().unwrap(),
            remote,
        };
        let deadline = Instant::now() + std::time::Duration::from_secs(5);
        assert_eq!(diag.find(Protocol::TCP, ends, 0, deadline), Ok(None));
    }

    #[test]
    fn a_connection_is_ended_and_its_listener_goes_on() {
        use std::{io::Read as _, net::TcpListener, net::TcpStream};
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = listener.local_addr().unwrap();
        let mut stream = TcpStream::connect(there).unwrap();
        let ends = Ends {
            local: stream.local_addr().unwrap(),
            remote: there,
        };
        let mut diag = SockDiag::open().unwrap();
        let deadline = Instant::now() + std::time::Duration::from_secs(20);
        match diag.destroy(ends, deadline) {
            Ok(ended) => assert!(ended),
            Err(Failure::Kernel(Errno::EPERM | Errno::EOPNOTSUPP)) => {
                eprintln!("skipped: SOCK_DESTROY needs root and CONFIG_INET_DIAG_DESTROY");
                return;
            }
            Err(failure) => panic!("{failure:?}"),
        }
        let error = stream.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
        // Only the listener fits the ends of a connection that is not there.
        let nobody = Ends {
            local: there,
            remote: "127.0.0.1:1".parse().unwrap(),
        };
        assert_eq!(diag.destroy(nobody, deadline), Ok(false));
        TcpStream::connect(there).expect("the listener goes on");
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let mut diag = SockDiag::open().unwrap();
        assert_eq!(diag.receive(Instant::now()), Err(Failure::Timeout));
    }
}
