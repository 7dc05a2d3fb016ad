//! Sockets that were closed before their first packet is looked at, and those that only look like it.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect, getsockname,
        listen, socket,
    },
};

use super::*;
use crate::{
    feed::Direction::Egress,
    packet::{Flow, Protocol, Transport},
};

fn attributor() -> Attributor {
    Attributor::new(&Roots::default(), Duration::from_secs(20)).unwrap()
}

/// A server that takes no further connections: whoever connects to it waits for an answer.
struct Silent {
    server: OwnedFd,
    _full: Vec<TcpStream>,
}

impl Silent {
    fn start() -> Self {
        let server = stream();
        listen(&server, Backlog::new(0).unwrap()).unwrap();
        let at = name(&server);
        Self {
            _full: vec![TcpStream::connect(at).unwrap()],
            server,
        }
    }

    /// A connection that is being made.
    fn connect(&self) -> OwnedFd {
        let client = stream();
        let to = SockaddrStorage::from(name(&self.server));
        assert_eq!(connect(client.as_raw_fd(), &to), Err(Errno::EINPROGRESS));
        client
    }
}

fn stream() -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    bind(made.as_raw_fd(), &SockaddrStorage::from(any)).unwrap();
    made
}

fn name(socket: &OwnedFd) -> SocketAddr {
    let name: SockaddrStorage = getsockname(socket.as_raw_fd()).unwrap();
    SocketAddr::from(*name.as_sockaddr_in().unwrap())
}

/// A flow from there to elsewhere than the socket is connected to, as NAT makes it.
fn elsewhere(from: SocketAddr) -> Flow {
    Flow {
        src: from.ip(),
        dst: IpAddr::from([192, 0, 2, 80]),
        proto: Protocol::TCP,
        transport: Transport::Ports {
            src: from.port(),
            dst: 80,
        },
        fragment: false,
    }
}

fn first_packet(held: Instant) -> Clues {
    Clues {
        uid: Some(nix::unistd::geteuid().as_raw()),
        opens: true,
        held: Some(held),
        ..Clues::default()
    }
}

/// One walk through the kernel's table serves the packets that were held before it, and no other.
#[test]
fn a_walk_serves_the_packets_that_were_held_before() {
    let server = Silent::start();
    let mut attributor = attributor();
    let mut ask = |socket: &OwnedFd, held| {
        attributor.local(&elsewhere(name(socket)), Egress, &first_packet(held))
    };
    let (first, second) = (server.connect(), server.connect());
    let before = Instant::now();
    for socket in [&first, &second, &first] {
        let source = ask(socket, before);
        assert_eq!(source.pid, Some(std::process::id()), "{source:?}");
        assert_eq!(source.grade, Grade::Likely);
        assert_eq!(source.method, Some("local-end"));
        assert_eq!(source.meant, Some(name(&server.server)));
    }
    // Opened after the walk: only another walk sees it.
    let third = server.connect();
    let source = ask(&third, before);
    assert_eq!((source.grade, source.pid), (Grade::Unknown, None));
    let cause = "no socket: the process closed it, or the kernel sent this";
    assert_eq!(source.cause.as_deref(), Some(cause));
    let source = ask(&third, Instant::now());
    assert_eq!(source.pid, Some(std::process::id()), "{source:?}");
}

#[test]
fn a_closed_socket_is_nobodys_whatever_else_has_its_port() {
    // A connection that exists does not send a first packet.
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    let mut attributor = attributor();
    let flow = elsewhere(client.local_addr().unwrap());
    let source = attributor.local(&flow, Egress, &first_packet(Instant::now()));
    assert_eq!((source.grade, source.pid), (Grade::Unknown, None));
    assert_eq!(source.method, Some("nfqa-uid"));
    // Of one in mid-stream it may be the sender, behind NAT.
    let clues = Clues {
        opens: false,
        ..first_packet(Instant::now())
    };
    let source = attributor.local(&flow, Egress, &clues);
    assert_eq!(source.pid, Some(std::process::id()), "{source:?}");
}

#[test]
fn who_is_in_a_hurry_begins_no_walk_and_says_so() {
    let server = Silent::start();
    let waiting = server.connect();
    let mut attributor = attributor();
    let flow = elsewhere(name(&waiting));
    let before = Instant::now();
    attributor.hurry(Some(Duration::from_secs(10)));
    for opens in [true, false] {
        let clues = Clues {
            opens,
            ..first_packet(before)
        };
        let source = attributor.local(&flow, Egress, &clues);
        let cause = "timeout after 10s: more new flows at once than can be looked up in time";
        assert_eq!(source.cause.as_deref(), Some(cause));
        assert_eq!(source.pid, None);
    }
    // A walk that another flow needed serves it too, and what needs none is found.
    attributor.hurry(None);
    attributor.local(&flow, Egress, &first_packet(before));
    attributor.hurry(Some(Duration::from_secs(10)));
    let source = attributor.local(&flow, Egress, &first_packet(before));
    assert_eq!(source.pid, Some(std::process::id()), "{source:?}");
    let direct = Flow {
        dst: name(&server.server).ip(),
        transport: Transport::Ports {
            src: name(&waiting).port(),
            dst: name(&server.server).port(),
        },
        ..flow
    };
    let source = attributor.local(&direct, Egress, &first_packet(Instant::now()));
    assert_eq!(source.grade, Grade::Exact, "{source:?}");
}
