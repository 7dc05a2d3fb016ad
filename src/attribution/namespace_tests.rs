//! Attribution across network namespaces and interfaces, on the real kernel. As root.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::*;
use crate::{
    demo::Netns,
    feed::Direction::{Egress, Ingress},
    host::wires::Wires,
    packet::{Flow, Protocol, Transport},
};

const AMPLE: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(120);
const ID: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn attributor() -> Attributor {
    Attributor::new(&Roots::default(), AMPLE).unwrap()
}

fn flow(proto: Protocol, src: &str, dst: &str) -> Flow {
    let [src, dst]: [SocketAddr; 2] = [src, dst].map(|end| end.parse().unwrap());
    Flow {
        src: src.ip(),
        dst: dst.ip(),
        proto,
        transport: Transport::Ports {
            src: src.port(),
            dst: dst.port(),
        },
        fragment: false,
    }
}

fn netns(name: &str) -> Option<Netns> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return None;
    }
    Some(Netns::create(format!("fgattr-{}-{name}", std::process::id())).unwrap())
}

/// A process that holds something until it is dropped.
struct Held {
    child: Child,
    /// The line it wrote when it was ready.
    said: String,
}

impl Held {
    /// A shell that opens, writes one line, and waits.
    fn start(mut command: Command, script: &str) -> Self {
        let mut child = command
            .args(["-c", &format!("{script}; read -r _")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut said).unwrap();
        let said = said.trim().to_owned();
        assert!(said.starts_with("ready"), "{said}");
        Self { child, said }
    }

    fn pid(&self) -> Option<u32> {
        Some(self.child.id())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A namespace with 192.0.2.2 behind interface `port` of `host`, whose only free port is 40000.
fn guest(host: &Netns, name: &str, port: &str) -> Netns {
    let guest = netns(name).unwrap();
    host.link(port, &guest, "eth0").unwrap();
    guest
        .ip(&[
            "addr add 192.0.2.2/24 dev eth0",
            "route add default via 192.0.2.1",
        ])
        .unwrap();
    let range = "/proc/sys/net/ipv4/ip_local_port_range";
    guest
        .enter(|| fs::write(range, "40000 40000"))
        .unwrap()
        .unwrap();
    guest
}

/// What `port` of the calling thread's namespace leads to.
fn clues(port: &str) -> Clues {
    let index = nix::net::if_::if_nametoindex(port).unwrap();
    Clues {
        mac: Some([0, 0, 0x5e, 0, 0x53, 1]),
        peer: Some(Wires::new().peer(index, None).expect("a veth pair")),
        ..Clues::default()
    }
}

#[test]
fn one_flow_in_two_namespaces_is_two_processes() {
    let Some(host) = netns("host") else { return };
    let guests = [guest(&host, "one", "port1"), guest(&host, "two", "port2")];
    let open = "exec 3<>/dev/udp/198.51.100.7/53; echo ready";
    let [one, two] = guests
        .each_ref()
        .map(|guest| Held::start(guest.command("bash"), open));
    let same = flow(Protocol::UDP, "192.0.2.2:40000", "198.51.100.7:53");
    host.enter(|| {
        let mut attributor = attributor();
        let own = fs::read_link("/proc/thread-self/ns/net").unwrap();
        for (port, process) in [("port1", &one), ("port2", &two), ("port1", &one)] {
            let source = attributor.forwarded(&same, Egress, &clues(port));
            assert_eq!(source.pid, process.pid(), "{source:?}");
            assert_eq!(source.grade, Grade::Exact, "{source:?}");
            assert_eq!(source.method, Some("netns-sock-diag"));
            assert_eq!(source.comm.as_deref(), Some("bash"));
            assert_eq!(source.mac.as_deref(), Some("00:00:5e:00:53:01"));
        }
        // What the feed lists may answer, too.
        let back = flow(Protocol::UDP, "198.51.100.7:53", "192.0.2.2:40000");
        let source = attributor.forwarded(&back, Ingress, &clues("port2"));
        assert_eq!((source.grade, source.pid), (Grade::Exact, two.pid()));
        // This namespace itself has no such socket, and the thread is still in it.
        let source = attributor.local(&same, Egress, &Clues::default());
        assert_eq!((source.grade, source.pid), (Grade::Unknown, None));
        assert_eq!(fs::read_link("/proc/thread-self/ns/net").unwrap(), own);
    })
    .unwrap();
}

#[test]
fn a_rewritten_destination_is_likely_and_no_socket_is_unknown() {
    let Some(host) = netns("nathost") else { return };
    let guest = guest(&host, "nat", "port1");
    let script = "exec 3<>/dev/udp/198.51.100.7/53; echo ready";
    let process = Held::start(guest.command("bash"), script);
    host.enter(|| {
        let mut attributor = attributor();
        let after_dnat = flow(Protocol::UDP, "192.0.2.2:40000", "203.0.113.9:5353");
        let source = attributor.forwarded(&after_dnat, Egress, &clues("port1"));
        assert_eq!(source.pid, process.pid(), "{source:?}");
        assert_eq!(source.grade, Grade::Likely);
        assert_eq!(source.method, Some("netns-local-end"));
        assert_eq!(source.meant, Some("198.51.100.7:53".parse().unwrap()));
        let other = flow(Protocol::UDP, "192.0.2.2:41000", "203.0.113.9:5353");
        let source = attributor.forwarded(&other, Egress, &clues("port1"));
        assert_eq!((source.pid, source.method), (None, Some("netns")));
        assert!(source.cause.unwrap().contains("no socket"));
    })
    .unwrap();
}

#[test]
fn packet_sockets_are_told_and_nobody_is_blamed() {
    let Some(host) = netns("pkhost") else { return };
    let guest = guest(&host, "pk", "port1");
    let process = Held::start(guest.command("bash"), "echo ready");
    let open = || {
        nix::sys::socket::socket(
            nix::sys::socket::AddressFamily::Packet,
            nix::sys::socket::SockType::Raw,
            nix::sys::socket::SockFlag::SOCK_CLOEXEC,
            nix::sys::socket::SockProtocol::EthAll,
        )
    };
    let socket = guest.enter(open).unwrap().unwrap();
    let asked = flow(Protocol::UDP, "192.0.2.2:40000", "198.51.100.7:53");
    let ask = || attributor().forwarded(&asked, Egress, &clues("port1"));
    let source = host.enter(ask).unwrap();
    assert_eq!((source.grade, source.pid), (Grade::Unknown, None));
    assert_eq!(source.method, Some("netns-packet-socket"));
    assert!(source.cause.unwrap().contains("packet sockets there (1)"));
    drop(socket);
    let source = host.enter(ask).unwrap();
    assert_eq!(source.method, Some("netns"));
    drop(process);
}

#[test]
fn a_namespace_that_ended_is_let_go_and_its_number_is_not_trusted() {
    let Some(host) = netns("endhost") else { return };
    let guest = guest(&host, "end", "port1");
    let script = "exec 3<>/dev/udp/198.51.100.7/53; echo ready";
    let process = Held::start(guest.command("bash"), script);
    host.enter(|| {
        let mut attributor = attributor();
        let asked = flow(Protocol::UDP, "192.0.2.2:40000", "198.51.100.7:53");
        let clues = clues("port1");
        let source = attributor.forwarded(&asked, Egress, &clues);
        assert_eq!((source.grade, source.pid), (Grade::Exact, process.pid()));
        drop(process);
        drop(guest);
        // Nothing keeps the namespace: its end of the pair goes with it.
        // The kernel has one worker for all namespaces that go.
        let start = Instant::now();
        while nix::net::if_::if_nametoindex("port1").is_ok() {
            assert!(start.elapsed() < PATIENCE, "the namespace is still there");
            std::thread::sleep(Duration::from_millis(10));
        }
        let source = attributor.forwarded(&asked, Egress, &clues);
        assert_eq!((source.grade, source.pid), (Grade::Unknown, None));
        let cause = source.cause.unwrap();
        assert!(cause.contains("no process"), "{cause}");
    })
    .unwrap();
}

#[test]
fn a_container_is_named_with_and_without_its_process() {
    let Some(host) = netns("cthost") else { return };
    let top = Roots::default()
        .cgroup
        .join(format!("feedgate-netns-{}", std::process::id()));
    let groups = ["docker", ID].into_iter().scan(top.clone(), |path, part| {
        path.push(part);
        Some(path.clone())
    });
    let groups: Vec<PathBuf> = [top.clone()].into_iter().chain(groups).collect();
    if fs::create_dir_all(groups.last().unwrap()).is_err() {
        return eprintln!("skipped: no cgroup2 mount that this user may write to");
    }
    let guest = guest(&host, "ct", "port1");
    let join = groups.last().unwrap().join("cgroup.procs");
    let script = format!(
        "echo $$ > {}; exec 3<>/dev/udp/198.51.100.7/53; echo ready",
        join.display()
    );
    let process = Held::start(guest.command("bash"), &script);
    host.enter(|| {
        let mut attributor = attributor();
        let asked = flow(Protocol::UDP, "192.0.2.2:40000", "198.51.100.7:53");
        let source = attributor.forwarded(&asked, Egress, &clues("port1"));
        assert_eq!((source.grade, source.pid), (Grade::Exact, process.pid()));
        assert_eq!(source.container.as_deref(), Some(ID));
        let closed = flow(Protocol::UDP, "192.0.2.2:41000", "198.51.100.7:53");
        let source = attributor.forwarded(&closed, Egress, &clues("port1"));
        assert_eq!((source.grade, source.pid), (Grade::Likely, None));
        assert_eq!(source.container.as_deref(), Some(ID));
        assert!(source.cause.unwrap().contains("no socket"));
    })
    .unwrap();
    drop(process);
    for group in groups.iter().rev() {
        let _ = fs::remove_dir(group);
    }
}

#[test]
fn sockets_bound_to_an_interface_are_found_by_it() {
    let Some(host) = netns("llhost") else { return };
    let guest = netns("ll").unwrap();
    host.link("eth0", &guest, "eth0").unwrap();
    host.ip(&["addr add fe80::1/64 dev eth0 nodad"]).unwrap();
    guest.ip(&["addr add fe80::2/64 dev eth0 nodad"]).unwrap();
    let index = |ns: &Netns| {
        ns.enter(|| nix::net::if_::if_nametoindex("eth0").unwrap())
            .unwrap()
    };
    let scoped = |ip: &str, port, ns| {
        SocketAddr::V6(std::net::SocketAddrV6::new(
            ip.parse().unwrap(),
            port,
            0,
            index(ns),
        ))
    };
    let to = scoped("fe80::2", 8080, &guest);
    let server = guest.enter(|| TcpListener::bind(to)).unwrap().unwrap();
    let client = host
        .enter(|| TcpStream::connect(scoped("fe80::2", 8080, &host)))
        .unwrap()
        .unwrap();
    let port = client.local_addr().unwrap().port();
    let sent = flow(
        Protocol::TCP,
        &format!("[fe80::1]:{port}"),
        "[fe80::2]:8080",
    );
    let me = Some(std::process::id());
    host.enter(|| {
        let clues = Clues {
            outdev: Some(index(&host)),
            ..Clues::default()
        };
        let source = attributor().local(&sent, Egress, &clues);
        assert_eq!((source.grade, source.pid), (Grade::Exact, me), "{source:?}");
        assert_eq!(source.method, Some("sock-diag"));
    })
    .unwrap();
    guest
        .enter(|| {
            let clues = Clues {
                indev: Some(index(&guest)),
                ..Clues::default()
            };
            let source = attributor().local(&sent, Ingress, &clues);
            assert_eq!(source.pid, me, "{source:?}");
            assert_eq!(source.grade, Grade::Exact);
        })
        .unwrap();
    drop(server);
}

#[test]
fn all_holders_of_an_inherited_socket_are_named() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = server.local_addr().unwrap();
    let script = format!(
        "exec 3<>/dev/tcp/{}/{}; sleep 60 & echo ready $!",
        to.ip(),
        to.port()
    );
    let parent = Held::start(Command::new("bash"), &script);
    let child: u32 = parent.said.rsplit(' ').next().unwrap().parse().unwrap();
    let (_stream, from) = server.accept().unwrap();
    let shared = flow(Protocol::TCP, &from.to_string(), &to.to_string());
    let mut attributor = attributor();
    for _ in 0..2 {
        let source = attributor.local(&shared, Egress, &Clues::default());
        assert_eq!(source.grade, Grade::Likely, "{source:?}");
        let cause = source.cause.unwrap();
        let held = [source.pid.unwrap()].into_iter().chain(
            cause
                .strip_prefix("also held by ")
                .unwrap()
                .split(", ")
                .map(|one| one.split(' ').next().unwrap().parse().unwrap()),
        );
        let mut held: Vec<u32> = held.collect();
        held.sort_unstable();
        let mut expect = [parent.child.id(), child];
        expect.sort_unstable();
        assert_eq!(held, expect, "{cause}");
    }
    let _ = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.try_into().unwrap()),
        nix::sys::signal::Signal::SIGKILL,
    );
}
