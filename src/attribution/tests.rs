//! Attribution of real sockets by the real kernel.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use tempfile::TempDir;

use super::*;
use crate::{
    feed::Direction::{Egress, Ingress},
    packet::{Flow, Protocol, Transport},
};

const AMPLE: Duration = Duration::from_secs(20);

fn attributor() -> Attributor {
    Attributor::new(&Roots::default(), AMPLE).unwrap()
}

fn flow(proto: Protocol, src: SocketAddr, dst: SocketAddr) -> Flow {
    Flow {
        src: src.ip().to_canonical(),
        dst: dst.ip().to_canonical(),
        proto,
        transport: Transport::Ports {
            src: src.port(),
            dst: dst.port(),
        },
        fragment: false,
    }
}

/// The queue named this user.
fn by(uid: u32) -> Clues {
    Clues {
        uid: Some(uid),
        ..Clues::default()
    }
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Start time by another way than the code under test: the name of a test holds no parentheses.
fn start_of(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    fields[19].parse().unwrap()
}

/// A connection of this process to itself that nobody accepted.
struct Pair {
    _server: TcpListener,
    client: TcpStream,
}

impl Pair {
    /// The client's end is bound: no connection of another test can have its port too.
    fn open() -> Self {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .unwrap();
        let any = SockaddrStorage::from(addr("127.0.0.1:0"));
        bind(client.as_raw_fd(), &any).unwrap();
        let to = SockaddrStorage::from(server.local_addr().unwrap());
        connect(client.as_raw_fd(), &to).unwrap();
        Self {
            _server: server,
            client: client.into(),
        }
    }

    fn local(&self) -> SocketAddr {
        self.client.local_addr().unwrap()
    }

    fn flow(&self) -> Flow {
        flow(
            Protocol::TCP,
            self.local(),
            self.client.peer_addr().unwrap(),
        )
    }
}

#[track_caller]
fn assert_me(source: &Source, grade: Grade, method: &str) {
    let me = std::process::id();
    assert_eq!(source.pid, Some(me), "{source:?}");
    assert_eq!(
        (source.grade, source.method),
        (grade, Some(method)),
        "{source:?}"
    );
    assert_eq!(source.start, Some(start_of(me)));
    assert_eq!(source.ppid, Some(std::os::unix::process::parent_id()));
    let exe = std::env::current_exe().unwrap();
    assert_eq!(source.exe.as_deref(), exe.to_str());
    let comm = fs::read_to_string("/proc/self/comm").unwrap();
    assert_eq!(source.comm.as_deref(), Some(comm.trim_end()));
    assert_eq!(source.uid, Some(nix::unistd::geteuid().as_raw()));
}

#[track_caller]
fn assert_tcp_is_mine(listen: &str, connect: &str) {
    let server = TcpListener::bind(listen).unwrap();
    let mut to = addr(connect);
    to.set_port(server.local_addr().unwrap().port());
    let client = TcpStream::connect(to).unwrap();
    let flow = flow(
        Protocol::TCP,
        client.local_addr().unwrap(),
        client.peer_addr().unwrap(),
    );
    let source = attributor().local(&flow, Egress, &Clues::default());
    assert_me(&source, Grade::Exact, "sock-diag");
    assert_eq!(source.cause, None);
}

#[test]
fn tcp_over_ipv4() {
    assert_tcp_is_mine("127.0.0.1:0", "127.0.0.1:0");
}

#[test]
fn tcp_over_ipv6() {
    assert_tcp_is_mine("[::1]:0", "[::1]:0");
}

#[test]
fn ipv4_of_an_ipv6_socket() {
    assert_tcp_is_mine("127.0.0.1:0", "[::ffff:127.0.0.1]:0");
}

#[test]
fn the_user_has_a_name() {
    let pair = Pair::open();
    let flow = pair.flow();
    let uid = nix::unistd::geteuid();
    let source = attributor().local(&flow, Egress, &by(uid.as_raw()));
    let user = nix::unistd::User::from_uid(uid).unwrap();
    assert_eq!(source.user, user.map(|user| user.name));
    assert_me(&source, Grade::Exact, "sock-diag");
}

#[test]
fn udp_connected_and_not() {
    for (local, remote) in [
        ("127.0.0.1:0", "127.0.0.1:9"),
        ("[::1]:0", "[::1]:9"),
        ("[::]:0", "127.0.0.1:9"),
        ("0.0.0.0:0", "127.0.0.1:9"),
    ] {
        let socket = UdpSocket::bind(local).unwrap();
        let remote = addr(remote);
        let mut sent_from = remote;
        sent_from.set_port(socket.local_addr().unwrap().port());
        let flow = flow(Protocol::UDP, sent_from, remote);
        assert_me(
            &attributor().local(&flow, Egress, &Clues::default()),
            Grade::Exact,
            "sock-diag",
        );
        let back = Flow {
            src: flow.dst,
            dst: flow.src,
            transport: Transport::Ports {
                src: 9,
                dst: sent_from.port(),
            },
            ..flow
        };
        assert_me(
            &attributor().local(&back, Ingress, &Clues::default()),
            Grade::Exact,
            "sock-diag",
        );
        if local.contains("127.0.0.1") || local.contains("[::1]") {
            socket.connect(remote).unwrap();
            assert_me(
                &attributor().local(&flow, Egress, &Clues::default()),
                Grade::Exact,
                "sock-diag",
            );
        }
    }
}

#[test]
fn udp_sockets_on_one_port_are_only_likely() {
    let open = |port: u16| {
        let fd = socket(
            AddressFamily::Inet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .unwrap();
        setsockopt(&fd, sockopt::ReusePort, &true).unwrap();
        bind(
            fd.as_raw_fd(),
            &SockaddrStorage::from(SocketAddr::from(([127, 0, 0, 1], port))),
        )
        .unwrap();
        UdpSocket::from(fd)
    };
    let one = open(0);
    let local = one.local_addr().unwrap();
    let _other = open(local.port());
    let source = attributor().local(
        &flow(Protocol::UDP, local, addr("127.0.0.1:9")),
        Egress,
        &Clues::default(),
    );
    assert_me(&source, Grade::Likely, "sock-diag");
    assert!(source.cause.unwrap().contains("several sockets"));
}

#[test]
fn a_listener_is_the_target_of_what_comes_in() {
    for listen in ["127.0.0.1:0", "[::]:0", "0.0.0.0:0"] {
        let server = TcpListener::bind(listen).unwrap();
        let mut to = addr("127.0.0.1:0");
        to.set_port(server.local_addr().unwrap().port());
        let source = attributor().local(
            &flow(Protocol::TCP, addr("203.0.113.7:5555"), to),
            Ingress,
            &Clues::default(),
        );
        assert_me(&source, Grade::Exact, "sock-diag-listener");
    }
}

#[test]
fn a_connection_that_nobody_accepted_goes_to_the_listener() {
    let pair = Pair::open();
    let flow = pair.flow();
    assert_me(
        &attributor().local(&flow, Ingress, &Clues::default()),
        Grade::Exact,
        "sock-diag-listener",
    );
}

#[test]
fn a_rewritten_destination_is_likely_by_the_local_end() {
    let pair = Pair::open();
    let flow = flow(Protocol::TCP, pair.local(), addr("192.0.2.80:80"));
    let source = attributor().local(&flow, Egress, &Clues::default());
    assert_me(&source, Grade::Likely, "local-end");
    assert_eq!(source.meant, Some(pair.client.peer_addr().unwrap()));
    let exact = attributor().local(&pair.flow(), Egress, &Clues::default());
    assert_eq!((exact.grade, exact.meant), (Grade::Exact, None));
}

#[test]
fn a_user_that_differs_is_not_exact() {
    let pair = Pair::open();
    let flow = pair.flow();
    let source = attributor().local(&flow, Egress, &by(4242));
    assert_me(&source, Grade::Likely, "sock-diag");
    assert!(source.cause.unwrap().contains("uid 4242"));
}

#[test]
fn a_flow_that_does_not_exist_stays_unknown() {
    let nobody = flow(Protocol::TCP, addr("127.0.0.1:1"), addr("192.0.2.1:80"));
    let source = attributor().local(&nobody, Egress, &by(0));
    assert_eq!(
        (source.grade, source.method, source.uid),
        (Grade::Unknown, Some("nfqa-uid"), Some(0))
    );
    assert!(source.cause.unwrap().contains("no socket"));
    let source = attributor().local(&nobody, Egress, &Clues::default());
    assert_eq!((source.method, source.uid, source.pid), (None, None, None));
    let to_nobody = flow(Protocol::UDP, addr("192.0.2.1:80"), addr("127.0.0.1:1"));
    let source = attributor().local(&to_nobody, Ingress, &Clues::default());
    assert_eq!(
        source.cause.as_deref(),
        Some("no socket of this host takes udp port 1")
    );
}

#[test]
fn what_has_no_ports_says_so() {
    let mut flow = flow(Protocol::UDP, addr("127.0.0.1:1"), addr("192.0.2.1:80"));
    flow.transport = Transport::None;
    let cause = |flow: &Flow, direction| {
        attributor()
            .local(flow, direction, &Clues::default())
            .cause
            .unwrap()
    };
    assert!(cause(&flow, Egress).contains("ends before its ports"));
    flow.fragment = true;
    assert!(cause(&flow, Egress).contains("later fragment"));
    let icmp = |kind| Flow {
        proto: Protocol::ICMP,
        transport: Transport::Icmp {
            kind,
            code: 0,
            id: Some(1),
        },
        fragment: false,
        ..flow
    };
    assert!(cause(&icmp(3), Egress).contains("the kernel itself"));
    assert!(cause(&icmp(8), Ingress).contains("the kernel itself"));
}

#[test]
fn the_time_limit_ends_the_search() {
    let pair = Pair::open();
    let flow = pair.flow();
    let mut attributor = Attributor::new(&Roots::default(), Duration::ZERO).unwrap();
    let source = attributor.local(&flow, Egress, &Clues::default());
    assert_eq!((source.grade, source.pid), (Grade::Unknown, None));
    assert_eq!(source.cause.as_deref(), Some("timeout after 0s"));
}

#[test]
fn a_hidden_process_is_not_guessed() {
    let pair = Pair::open();
    let flow = pair.flow();
    let empty = TempDir::new().unwrap();
    let roots = Roots {
        proc: empty.path().to_owned(),
        cgroup: empty.path().to_owned(),
        ..Roots::default()
    };
    let source = Attributor::new(&roots, AMPLE)
        .unwrap()
        .local(&flow, Egress, &Clues::default());
    assert_eq!((source.grade, source.pid), (Grade::Unknown, None));
    assert!(source.cause.unwrap().contains("no visible holder"));
    assert!(source.uid.is_some());
}

#[test]
fn a_thread_with_its_own_files_is_found() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = server.local_addr().unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let thread = thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES).unwrap();
        let client = TcpStream::connect(to).unwrap();
        sender.send(client.local_addr().unwrap()).unwrap();
        let _ = wait.recv();
    });
    let flow = flow(Protocol::TCP, receiver.recv().unwrap(), to);
    assert_me(
        &attributor().local(&flow, Egress, &Clues::default()),
        Grade::Exact,
        "sock-diag",
    );
    drop(done);
    thread.join().unwrap();
}

#[test]
fn udp_lite_is_found_as_udp_is() {
    for (v6, local) in [
        (false, "127.0.0.1:0"),
        (true, "[::1]:0"),
        (true, "[::ffff:127.0.0.1]:0"),
    ] {
        let Ok(socket) = super::kernel::udplite_socket(v6) else {
            return eprintln!("skipped: this kernel has no UDP-Lite");
        };
        bind(socket.as_raw_fd(), &SockaddrStorage::from(addr(local))).unwrap();
        let bound = UdpSocket::from(socket);
        let from = bound.local_addr().unwrap();
        let mut to = from;
        to.set_port(9);
        let source = attributor().local(&flow(Protocol::UDPLITE, from, to), Egress, &by(0));
        assert_me(&source, Grade::Exact, "sock-diag");
    }
}

#[test]
fn without_cgroup2_the_unit_is_that_of_systemds_hierarchy() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    let flow = flow(
        Protocol::TCP,
        client.local_addr().unwrap(),
        client.peer_addr().unwrap(),
    );
    let id = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    let v1 = format!("12:pids:/docker/{id}\n4:memory:/docker/{id}\n1:name=systemd:/docker/{id}\n");
    let hybrid = "12:pids:/system.slice/a.service\n1:name=systemd:/system.slice/a.service\n0::/\n";
    let elsewhere = "5:cpu:/\n1:name=systemd:/\n0::/user.slice/user-1000.slice/session-3.scope\n";
    for (cgroup, unit, container, session) in [
        (v1.as_str(), None, Some(id), None),
        (hybrid, Some("a.service"), None, None),
        (elsewhere, Some("session-3.scope"), None, Some(1000)),
    ] {
        let (proc, cgroups) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let me = proc.path().join(std::process::id().to_string());
        fs::create_dir(&me).unwrap();
        for name in ["fd", "exe", "stat", "comm", "cmdline", "status", "task"] {
            std::os::unix::fs::symlink(format!("/proc/self/{name}"), me.join(name)).unwrap();
        }
        fs::write(me.join("cgroup"), cgroup).unwrap();
        let roots = Roots {
            proc: proc.path().to_owned(),
            // A host of version 1 only has no such mount.
            cgroup: cgroups.path().to_owned(),
            ..Roots::default()
        };
        let mut attributor = Attributor::new(&roots, AMPLE).unwrap();
        let source = attributor.local(&flow, Egress, &Clues::default());
        assert_eq!(source.pid, Some(std::process::id()), "{source:?}");
        assert_eq!(source.grade, Grade::Exact);
        assert_eq!(source.unit.as_deref(), unit);
        assert_eq!(source.container.as_deref(), container);
        assert_eq!(source.session_uid, session);
    }
}

#[test]
fn a_forwarded_packet_has_a_network_card() {
    let flow = flow(Protocol::TCP, addr("192.0.2.2:5000"), addr("192.0.2.80:80"));
    let clues = Clues {
        mac: Some([0, 0, 0x5e, 0, 0x53, 0xab]),
        ..Clues::default()
    };
    let names = [("00:00:5e:00:53:ab".to_owned(), "printer".to_owned())].into();
    let mut attributor = attributor().with_clients(&names);
    let source = attributor.forwarded(&flow, Egress, &clues);
    assert_eq!(source.mac.as_deref(), Some("00:00:5e:00:53:ab"));
    assert_eq!(source.client.as_deref(), Some("printer"));
    assert_eq!(
        (source.grade, source.method, source.cause),
        (Grade::Likely, Some("forward"), None)
    );
    let source = attributor.forwarded(&flow, Egress, &Clues::default());
    assert_eq!(
        (source.grade, source.method, source.mac),
        (Grade::Unknown, Some("forward"), None)
    );
    assert!(source.cause.is_some());
}

/// A shell that connects when it is told to, and holds the connection until dropped.
struct Client {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Client {
    fn start(to: SocketAddr) -> Self {
        let script = format!(
            "read -r _; exec 3<>/dev/tcp/{}/{}; echo ready; read -r _; exit 0",
            to.ip(),
            to.port()
        );
        let mut child = Command::new("bash")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            input,
            output,
        }
    }

    fn connect(&mut self, server: &TcpListener) -> Flow {
        self.input.write_all(b"go\n").unwrap();
        let (_stream, from) = server.accept().unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        flow(Protocol::TCP, from, server.local_addr().unwrap())
    }

    #[track_caller]
    fn assert_source(&self, source: &Source) {
        assert_eq!(source.pid, Some(self.child.id()), "{source:?}");
        assert_eq!(source.grade, Grade::Exact, "{source:?}");
        assert_eq!(source.start, Some(start_of(self.child.id())));
        assert_eq!(source.ppid, Some(std::process::id()));
        assert_eq!(source.comm.as_deref(), Some("bash"));
        assert!(source.exe.as_deref().unwrap().ends_with("/bash"));
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn processes_are_told_apart() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = server.local_addr().unwrap();
    let (mut one, mut other) = (Client::start(to), Client::start(to));
    let (flow_one, flow_other) = (one.connect(&server), other.connect(&server));
    let mut attributor = attributor();
    for _ in 0..3 {
        one.assert_source(&attributor.local(&flow_one, Egress, &Clues::default()));
        other.assert_source(&attributor.local(&flow_other, Egress, &Clues::default()));
    }
    let pid = one.child.id();
    drop(one);
    // A connection of another test may have got the same local end: it is no more than likely then.
    let source = attributor.local(&flow_one, Egress, &Clues::default());
    assert_ne!(source.grade, Grade::Exact, "{source:?}");
    assert_ne!(source.pid, Some(pid), "{source:?}");
    assert!(source.pid.is_some() || source.cause.is_some(), "{source:?}");
}

/// Groups below the cgroup2 mount, removed with everything in them.
struct Group {
    top: PathBuf,
    leaf: PathBuf,
}

impl Group {
    fn create(below: &str) -> Option<Self> {
        let top = Roots::default()
            .cgroup
            .join(format!("feedgate-test-{}", std::process::id()));
        let leaf = top.join(below);
        fs::create_dir_all(&leaf).ok()?;
        Some(Self { top, leaf })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let mut folder: &Path = &self.leaf;
        while folder.starts_with(&self.top) {
            let _ = fs::remove_dir(folder);
            folder = folder.parent().unwrap();
        }
    }
}

#[test]
fn a_process_in_a_cgroup_has_its_unit_and_container() {
    const ID: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    let Some(group) = Group::create(&format!("system.slice/docker-{ID}.scope")) else {
        return eprintln!("skipped: no cgroup2 mount that this user may write to");
    };
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = Client::start(server.local_addr().unwrap());
    fs::write(
        group.leaf.join("cgroup.procs"),
        client.child.id().to_string(),
    )
    .unwrap();
    let flow = client.connect(&server);
    let mut attributor = attributor();
    let source = attributor.local(&flow, Egress, &Clues::default());
    client.assert_source(&source);
    assert_eq!(source.unit, Some(format!("docker-{ID}.scope")));
    assert_eq!(source.container.as_deref(), Some(ID));
    // What the socket itself says is enough when its process cannot be seen.
    let empty = TempDir::new().unwrap();
    let roots = Roots {
        proc: empty.path().to_owned(),
        ..Roots::default()
    };
    let hidden = Attributor::new(&roots, AMPLE)
        .unwrap()
        .local(&flow, Egress, &Clues::default());
    assert_eq!((hidden.grade, hidden.pid), (Grade::Unknown, None));
    assert_eq!(hidden.container.as_deref(), Some(ID));
    drop(client);
}
