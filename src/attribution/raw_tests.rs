//! Raw, ping and kernel sockets: what is theirs, and that no stranger is blamed. Each test has a
//! network namespace of its own, since other programs' raw sockets would count. As root.

use std::{
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::symlink,
    },
    path::Path,
    time::{Duration, Instant},
};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, socket,
};
use tempfile::TempDir;

use super::{
    inet_diag::{Answer, Ends, IPPROTO_RAW},
    proc_net::Row,
    sock_diag::SockDiag,
    *,
};
use crate::{
    demo::Netns,
    feed::Direction::Egress,
    packet::{Flow, Protocol, Transport},
};

const AMPLE: Duration = Duration::from_secs(20);
/// Where the flows of these tests come from and go to.
const FROM: [u8; 4] = [127, 0, 0, 1];
const TO: [u8; 4] = [127, 0, 0, 9];

/// Runs `work` in a network namespace that nobody else is in.
fn alone(name: &str, work: impl FnOnce(&Roots) + Send) {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: network namespaces need root");
    }
    let netns = Netns::create(format!("fgraw-{}-{name}", std::process::id())).unwrap();
    // The tables of the thread, not of the process.
    let proc = TempDir::new().unwrap();
    symlink("/proc/thread-self/net", proc.path().join("net")).unwrap();
    for name in [&std::process::id().to_string(), "self", "1"] {
        symlink(Path::new("/proc").join(name), proc.path().join(name)).unwrap();
    }
    let roots = Roots {
        proc: proc.path().to_owned(),
        ..Roots::default()
    };
    netns.enter(|| work(&roots)).unwrap();
}

fn local(roots: &Roots, flow: &Flow, uid: Option<u32>) -> Source {
    let clues = Clues {
        uid,
        ..Clues::default()
    };
    let mut attributor = Attributor::new(roots, AMPLE).unwrap();
    attributor.local(flow, Egress, &clues)
}

#[track_caller]
fn assert_mine(source: &Source, method: &str) {
    assert_eq!(source.pid, Some(std::process::id()), "{source:?}");
    assert_eq!(
        (source.grade, source.method),
        (Grade::Likely, Some(method)),
        "{source:?}"
    );
}

#[track_caller]
fn assert_nobodys(source: &Source) -> &str {
    assert_eq!(
        (source.grade, source.pid),
        (Grade::Unknown, None),
        "{source:?}"
    );
    source.cause.as_deref().unwrap()
}

fn flow(proto: Protocol, transport: Transport) -> Flow {
    Flow {
        src: IpAddr::from(FROM),
        dst: IpAddr::from(TO),
        proto,
        transport,
        fragment: false,
    }
}

fn with_ports(proto: Protocol) -> Flow {
    flow(proto, Transport::Ports { src: 5000, dst: 80 })
}

fn raw(proto: SockProtocol) -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Inet, SockType::Raw, flags, proto).unwrap()
}

#[test]
fn a_raw_socket_is_likely() {
    alone("raw", |roots| {
        // An experimental protocol (RFC 3692).
        let asked = flow(Protocol(253), Transport::None);
        assert_nobodys(&local(roots, &asked, Some(0)));
        let _socket = raw(SockProtocol::Raw);
        assert_mine(&local(roots, &asked, Some(0)), "raw-socket");
        let _second = raw(SockProtocol::Raw);
        let source = local(roots, &asked, Some(0));
        assert!(assert_nobodys(&source).contains("2 sockets"));
    });
}

/// Raw sockets of these ends by sock_diag and by /proc/net, in the order of their inodes.
fn listed(roots: &Roots, proto: Protocol, ends: Ends) -> Option<(Vec<Row>, Vec<Row>)> {
    let deadline = Instant::now() + AMPLE;
    let keep = |answer: &Answer| proc_net::is_between(&Row::of_raw(answer), ends);
    let mut diag = SockDiag::open().unwrap();
    let answers = diag
        .raws(proto, ends.local.is_ipv6(), keep, deadline)
        .unwrap()?;
    let mut diag: Vec<Row> = answers.iter().map(Row::of_raw).collect();
    let mut table = proc_net::raws(&roots.proc, proto, ends, deadline).unwrap();
    diag.sort_by_key(|row| row.inode);
    table.sort_by_key(|row| row.inode);
    Some((diag, table))
}

#[test]
fn sock_diag_names_the_raw_sockets_of_proc_net_and_their_cgroup() {
    alone("diag", |roots| {
        let end = |ip: [u8; 4]| SocketAddr::from((ip, 0));
        let ends = Ends {
            local: end(FROM),
            remote: end(TO),
        };
        let Some((none, _)) = listed(roots, Protocol::ICMP, ends) else {
            return eprintln!("skipped: this kernel does not list raw sockets by sock_diag");
        };
        assert_eq!(none, []);
        let agreed = |proto, ends| {
            let (diag, table) = listed(roots, proto, ends).unwrap();
            assert!(diag.iter().all(|row| row.cgroup.is_some()), "{diag:?}");
            let without = |row: Row| Row {
                cgroup: None,
                ..row
            };
            assert_eq!(diag.into_iter().map(without).collect::<Vec<_>>(), table);
            table.len()
        };
        let icmp = [SockProtocol::Icmp; 4].map(raw);
        let whole = raw(SockProtocol::Raw);
        // One is of another local address, one talks to another host, one to this one with a port.
        bind(
            icmp[0].as_raw_fd(),
            &SockaddrStorage::from(end([127, 0, 0, 2])),
        )
        .unwrap();
        std::process::Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status()
            .unwrap();
        for (socket, to) in [
            (&icmp[1], end([127, 0, 0, 8])),
            (&icmp[2], SocketAddr::from((TO, 7))),
        ] {
            connect(socket.as_raw_fd(), &SockaddrStorage::from(to)).unwrap();
        }
        assert_eq!(agreed(Protocol::ICMP, ends), 2);
        // Who writes whole packets may send this one. Nobody has a socket of its own for it.
        assert_eq!(agreed(Protocol(253), ends), 1);
        assert_eq!(agreed(IPPROTO_RAW, ends), 1);
        drop(whole);
        assert_eq!(agreed(Protocol(253), ends), 0);
        let v6 = Ends {
            local: "[::1]:0".parse().unwrap(),
            remote: "[2001:db8::1]:0".parse().unwrap(),
        };
        let flags = SockFlag::SOCK_CLOEXEC;
        let icmpv6 = SockProtocol::IcmpV6;
        let _v6 = socket(AddressFamily::Inet6, SockType::Raw, flags, icmpv6).unwrap();
        assert_eq!(agreed(Protocol::ICMPV6, v6), 1);
        assert_eq!(agreed(Protocol::ICMP, v6), 0);
    });
}

/// More sockets than are kept of a list, and the one that counts is the last of it or the first.
#[test]
fn a_raw_socket_is_found_among_many_of_other_addresses() {
    alone("many", |roots| {
        let echo = Transport::Icmp {
            kind: 8,
            code: 0,
            id: Some(1),
        };
        let asked = flow(Protocol::ICMP, echo);
        let elsewhere = || {
            let socket = raw(SockProtocol::Icmp);
            let other = SocketAddr::from(([127, 0, 0, 2], 0));
            bind(socket.as_raw_fd(), &SockaddrStorage::from(other)).unwrap();
            socket
        };
        let _before: Vec<OwnedFd> = (0..70).map(|_| elsewhere()).collect();
        assert_nobodys(&local(roots, &asked, Some(0)));
        let _one = raw(SockProtocol::Icmp);
        let _after: Vec<OwnedFd> = (0..70).map(|_| elsewhere()).collect();
        assert_mine(&local(roots, &asked, Some(0)), "raw-socket");
    });
}

#[test]
fn a_raw_socket_is_not_blamed_for_what_other_sockets_send() {
    alone("ports", |roots| {
        let _socket = raw(SockProtocol::Raw);
        let (sctp, tcp) = (with_ports(Protocol::SCTP), with_ports(Protocol::TCP));
        let half = flow(Protocol::TCP, Transport::None);
        // No TCP socket sends half a header.
        assert_mine(&local(roots, &half, Some(0)), "raw-socket");
        if !Path::new("/proc/net/sctp").exists() {
            // The kernel has no such sockets: a program does it by itself.
            assert_mine(&local(roots, &sctp, Some(0)), "raw-socket");
        }
        // A TCP socket that was closed meanwhile, or this one.
        let source = local(roots, &tcp, Some(0));
        assert!(assert_nobodys(&source).contains("or a raw socket of this user"));
        // Another user, or none that the queue could name.
        for uid in [Some(4242), None] {
            for flow in [&sctp, &half, &tcp] {
                let source = local(roots, flow, uid);
                assert!(!assert_nobodys(&source).contains("raw socket"));
            }
        }
    });
}

#[test]
fn a_ping_is_of_the_socket_with_its_id() {
    alone("ping", |roots| {
        let echo = |id| {
            let transport = Transport::Icmp {
                kind: 8,
                code: 0,
                id: Some(id),
            };
            local(roots, &flow(Protocol::ICMP, transport), Some(0))
        };
        fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").unwrap();
        let flags = SockFlag::SOCK_CLOEXEC;
        let icmp = SockProtocol::Icmp;
        let ping = socket(AddressFamily::Inet, SockType::Datagram, flags, icmp).unwrap();
        let end = SockaddrStorage::from(SocketAddr::from((FROM, 4711)));
        bind(ping.as_raw_fd(), &end).unwrap();
        assert_mine(&echo(4711), "ping-socket");
        assert_nobodys(&echo(4712));
        // With it the other ID has a likely source, and the first one still its own.
        let _raw = raw(icmp);
        assert_mine(&echo(4711), "ping-socket");
        assert_mine(&echo(4712), "raw-socket");
    });
}

/// VXLAN is the kernel's own program on a UDP socket, as WireGuard is.
#[test]
fn a_socket_of_the_kernel_is_told_from_one_that_nobody_may_see() {
    alone("kernel", |roots| {
        let add = "link add vx0 type vxlan id 7 remote 127.0.0.9 dstport 4789 dev lo";
        let mut ip = std::process::Command::new("ip");
        let made = ip.args(add.split(' ')).status().unwrap();
        let up = std::process::Command::new("ip")
            .args(["link", "set", "vx0", "up"])
            .status()
            .unwrap();
        if !made.success() || !up.success() {
            return eprintln!("skipped: this kernel has no VXLAN");
        }
        let asked = flow(
            Protocol::UDP,
            Transport::Ports {
                src: 4789,
                dst: 4789,
            },
        );
        let pids = fs::read_link("/proc/self/ns/pid").unwrap();
        if pids.as_os_str() != "pid:[4026531836]" {
            return eprintln!("skipped: not in the initial PID namespace");
        }
        let source = local(roots, &asked, None);
        assert!(
            assert_nobodys(&source).contains("kernel itself"),
            "{source:?}"
        );
        assert_eq!(source.method, Some("kernel-socket"));
        // A process table that hides others cannot tell.
        let hidden = TempDir::new().unwrap();
        let hidden = Roots {
            proc: hidden.path().to_owned(),
            ..roots.clone()
        };
        let source = local(&hidden, &asked, None);
        assert!(assert_nobodys(&source).contains("no visible holder"));
        assert_eq!(source.method, Some("sock-diag"));
        // What a process holds is never the kernel's.
        let udp = UdpSocket::bind((IpAddr::from(FROM), 0)).unwrap();
        let port = udp.local_addr().unwrap().port();
        let asked = flow(Protocol::UDP, Transport::Ports { src: port, dst: 9 });
        assert_eq!(local(roots, &asked, None).pid, Some(std::process::id()));
    });
}
