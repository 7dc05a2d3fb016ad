//! What the kernel makes of an answer: the sets of recent verdicts carry it from the first packet to
//! the last, also against the class of the set; and how a denied packet ends.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read as _, Write as _},
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use feedgate::{
    config,
    demo::Netns,
    feed::{Action, FeedData, Limits, parse_plain},
    nft::Kernel,
    packet::{Protocol, decode},
    queue::{Answer, MarkBits, Queue},
    ruleset::Options,
    snapshot::{self, Input},
};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::{
        socket::{
            AddressFamily, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
        },
        time::{TimeVal, TimeValLike},
    },
    unistd::Pid,
};

use crate::support::{
    Alerts, Conf, Daemon, Lab, Meter, PATIENCE, RawSender, connect, counter, dropped, echo,
    eventually, exchange, load, ping, ping_lost, unanswered, web,
};

/// In a deny set, and let pass by the answer.
const ALLOWED: [&str; 2] = ["203.0.113.2", "2001:db8:bad::2"];
/// In a watch set, and denied by the answer.
const DENIED: [&str; 2] = ["203.0.113.1", "2001:db8:bad::1"];
/// A protocol without ports: ESP. Of those that the kernel does not know, it answers packets with a good
/// checksum only.
const NO_PORTS: u8 = 50;

type Asked = Arc<Mutex<BTreeMap<(IpAddr, Protocol), u64>>>;

/// A table in the host's namespace, and a thread that answers against its classes, as a policy by
/// source will.
struct Judge {
    asked: Asked,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    _kernel: Kernel,
}

impl Judge {
    fn start(netns: &Netns) -> Self {
        let options = Options::new(&config::Nftables::default());
        let marks = MarkBits {
            mask: options.mark_mask,
            allow: options.allow_bit(),
            deny: options.deny_bit(),
        };
        let number = options.queue_first;
        let feeds = [
            feed("block", Action::Deny, &ALLOWED),
            feed("watch", Action::Alert, &DENIED),
        ];
        let inputs: Vec<Input> = feeds
            .iter()
            .map(|(feed, data)| Input::new(feed, Arc::clone(data)))
            .collect();
        let sets = snapshot::build(&inputs, &[], snapshot::Options::default()).sets;
        let open = || {
            let kernel = Kernel::open(options).unwrap();
            kernel.install(&sets).unwrap();
            (
                kernel,
                Queue::open(number, 1024, config::OnQueueFull::Pass).unwrap(),
            )
        };
        let (kernel, queue) = netns.enter(open).unwrap();
        let (asked, stop) = (Asked::default(), Arc::new(AtomicBool::new(false)));
        let (count, stopped) = (Arc::clone(&asked), Arc::clone(&stop));
        let allowed = ALLOWED.map(|address| address.parse::<IpAddr>().unwrap());
        let thread = std::thread::spawn(move || {
            let judge = |held: &feedgate::queue::Held<'_>| {
                let flow = decode(held.bytes).unwrap();
                *count
                    .lock()
                    .unwrap()
                    .entry((flow.dst, flow.proto))
                    .or_default() += 1;
                if allowed.contains(&flow.dst) {
                    Answer::Allow
                } else {
                    Answer::Deny
                }
            };
            queue.run(marks, &stopped, judge).unwrap();
        });
        Self {
            asked,
            stop,
            thread: Some(thread),
            _kernel: kernel,
        }
    }

    /// How often it was asked about packets of this protocol to `address`.
    fn asked(&self, address: &str, proto: Protocol) -> u64 {
        let key = (address.parse().unwrap(), proto);
        *self.asked.lock().unwrap().get(&key).unwrap_or(&0)
    }

    /// Fails the test unless `talk`, one flow of several packets, is asked about once. A machine so busy
    /// that an answer takes as long as a retransmission gets further tries.
    #[track_caller]
    fn asked_once(&self, address: &str, proto: Protocol, talk: impl Fn()) {
        let once = (0..10).any(|_| {
            let before = self.asked(address, proto);
            talk();
            let asked = self.asked(address, proto) - before;
            assert!(asked > 0, "{address} was not asked about");
            asked == 1
        });
        assert!(once, "{address} is asked about again and again");
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn feed(name: &str, action: Action, lines: &[&str]) -> (config::Feed, Arc<FeedData>) {
    let mut feed = config::Feed::new(name.parse().unwrap());
    feed.action = action;
    let parsed = parse_plain(lines.join("\n").as_bytes(), &Limits::default());
    let data = FeedData {
        parsed,
        pulled: SystemTime::UNIX_EPOCH,
        bytes: 0,
    };
    (feed, Arc::new(data))
}

fn with_port(address: &str, port: u16) -> String {
    let address: IpAddr = address.parse().unwrap();
    std::net::SocketAddr::new(address, port).to_string()
}

#[test]
fn a_tcp_flow_that_is_allowed_into_a_deny_set_works_from_its_second_syn_to_its_end() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    // The first SYN is lost behind the host: the next one comes from a flow that nobody answered yet.
    load(
        &lab.gateway,
        "table inet lossy { set once { typeof ip daddr . tcp sport; flags dynamic; size 64; }; \
         chain c { type filter hook forward priority 0; \
         ip daddr 203.0.113.2 tcp flags & (syn | ack) == syn ip daddr . tcp sport != @once \
         add @once { ip daddr . tcp sport } counter drop; }; }",
    );
    let judge = Judge::start(&lab.host);
    for address in ALLOWED {
        judge.asked_once(address, Protocol::TCP, || {
            let mut stream = connect(&lab.host, &with_port(address, 80)).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream
                .write_all(b"GET / HTTP/1.0\r\n\r\n")
                .expect("a request");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.ends_with("hello\n"), "{answer}");
        });
    }
    let denied = ["denied", "denied_repeat", "denied_unattributed"];
    let counts = denied.map(|name| counter(&lab.host, name));
    assert_eq!(counts, [0; 3]);
}

#[test]
fn a_tcp_flow_that_is_denied_in_a_watch_set_gets_nothing_out() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let judge = Judge::start(&lab.host);
    let meter = Meter::start(&lab.gateway, "lan0", &DENIED);
    for address in DENIED {
        judge.asked_once(address, Protocol::TCP, || {
            // Two SYNs of one flow.
            assert!(dropped(&lab.host, &with_port(address, 80)));
        });
        assert_eq!(meter.seen(address), 0);
    }
    assert!(counter(&lab.host, "denied_repeat") >= 2);
}

#[test]
fn datagrams_echoes_and_packets_without_ports_follow_the_answer_too() {
    let Some(lab) = Lab::new() else { return };
    let _echoes = ["203.0.113.2:53", "[2001:db8:bad::2]:53"].map(|to| echo(&lab.server, to));
    let judge = Judge::start(&lab.host);
    let all = [ALLOWED, DENIED].concat();
    let meter = Meter::start(&lab.gateway, "lan0", &all);
    for (address, icmp) in ALLOWED.into_iter().zip([Protocol::ICMP, Protocol::ICMPV6]) {
        judge.asked_once(address, Protocol::UDP, || {
            exchange(&lab.host, &with_port(address, 53)).expect("an answer");
        });
        judge.asked_once(address, icmp, || assert!(ping(&lab.host, address)));
    }
    for (address, icmp) in DENIED.into_iter().zip([Protocol::ICMP, Protocol::ICMPV6]) {
        judge.asked_once(address, Protocol::UDP, || {
            assert!(unanswered(&lab.host, &with_port(address, 53)));
        });
        judge.asked_once(address, icmp, || assert!(ping_lost(&lab.host, address)));
        assert_eq!(meter.seen(address), 0);
    }

    // One way only: no answer makes such a flow established.
    let raw = RawSender::v4(&lab.host);
    let before = meter.seen(ALLOWED[0]);
    let proto = Protocol(NO_PORTS);
    for (address, wanted) in [(ALLOWED[0], 5), (DENIED[0], 0)] {
        let to: IpAddr = address.parse().unwrap();
        raw.send(to, &without_ports(address)).unwrap();
        eventually("the first packet is asked about", || {
            (judge.asked(address, proto) == 1).then_some(())
        });
        settle(&lab.host, address, wanted > 0);
        for _ in 0..4 {
            let _ = raw.send(to, &without_ports(address)); // a drop on output is an error
        }
        if wanted > 0 {
            eventually("all of them pass", || {
                (meter.seen(address) - before == wanted).then_some(())
            });
        } else {
            assert_eq!(meter.seen(address), 0);
        }
        assert_eq!(judge.asked(address, proto), 1, "{address}");
    }
}

/// Waits until the verdict of the packet without ports is remembered: it is given a moment after the
/// question.
fn settle(netns: &Netns, address: &str, allowed: bool) {
    let verdict = if allowed { "allow" } else { "deny" };
    eventually("its verdict is remembered", || {
        let rules = crate::support::nft(netns, &["list", "table", "inet", "feedgate"]);
        let mut sets = rules.split("\tset ");
        let set = sets.find(|set| {
            set.starts_with(&format!("recent_{verdict}"))
                && set.contains(&format!("{address} . esp"))
        });
        set.map(drop)
    });
}

/// An IPv4 packet of a protocol without ports.
fn without_ports(to: &str) -> Vec<u8> {
    let to: std::net::Ipv4Addr = to.parse().unwrap();
    let mut packet = vec![0x45, 0, 0, 28, 0, 7, 0, 0, 64, NO_PORTS, 0, 0];
    packet.extend([192, 0, 2, 2]);
    packet.extend(to.octets());
    packet.extend(*b"no ports");
    packet
}

#[test]
fn reject_answers_datagrams_echoes_and_packets_without_ports() {
    let Some(lab) = Lab::new() else { return };
    // The gateway also answers what a daemon asks of names here, and a kernel limits its errors.
    let limit = "/proc/sys/net/ipv4/icmp_ratelimit";
    let unlimited = lab.gateway.enter(|| std::fs::write(limit, "0"));
    unlimited.unwrap().unwrap();
    for netns in [&lab.host, &lab.gateway] {
        let conf = Conf::new(&lab).nftables("deny-with = \"reject\"").feed(
            "block",
            "deny",
            &["203.0.113.2", "2001:db8:bad::2"],
        );
        let daemon = Daemon::start(&lab, netns, &conf);
        for address in ALLOWED {
            let error = exchange(&lab.host, &with_port(address, 53)).unwrap_err();
            let told = [
                ErrorKind::HostUnreachable,
                ErrorKind::PermissionDenied, // EACCES of IPv6
            ];
            assert!(told.contains(&error.kind()), "{address}: {error}");
            let mut command = lab.host.command("ping");
            command.args(["-n", "-c", "1", "-W", "20", address]);
            let said = command.output().unwrap();
            let said = String::from_utf8(said.stdout).unwrap();
            let filtered = ["filtered", "prohibited"];
            assert!(filtered.iter().any(|word| said.contains(word)), "{said}");
        }
        assert!(is_told_of_no_ports(&lab.host), "no answer to ESP");
        // The next one is to answer alone.
        daemon.ok(&["down"]);
    }
}

/// True when a packet without ports to a denied address is answered with ICMP type 3 code 13.
fn is_told_of_no_ports(netns: &Netns) -> bool {
    let open = || {
        let icmp = SockProtocol::Icmp;
        socket(
            AddressFamily::Inet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            icmp,
        )
    };
    let icmp = netns.enter(open).unwrap().unwrap();
    setsockopt(&icmp, sockopt::ReceiveTimeout, &TimeVal::seconds(20)).unwrap();
    let _ = RawSender::v4(netns).send(
        "203.0.113.2".parse().unwrap(),
        &without_ports("203.0.113.2"),
    );
    let fd = std::os::fd::AsRawFd::as_raw_fd(&icmp);
    let mut bytes = [0; 256];
    while let Ok(length) = recv(fd, &mut bytes, nix::sys::socket::MsgFlags::empty()) {
        // The IP header, type and code, and the header of the packet that it is about.
        if length > 37 && bytes[20..22] == [3, 13] && bytes[28 + 9] == NO_PORTS {
            return true;
        }
    }
    false
}

/// How many packets each bound queue was given, by its number.
fn given(netns: &Netns) -> Vec<u64> {
    let read = || std::fs::read_to_string("/proc/thread-self/net/netfilter/nfnetlink_queue");
    let text = netns.enter(read).unwrap().unwrap();
    let field = |line: &str, at| line.split_whitespace().nth(at)?.parse::<u64>().ok();
    let queues = text.lines();
    let queues = queues.filter_map(|line| Some((field(line, 0)?, field(line, 7)?)));
    queues.collect::<BTreeMap<_, _>>().into_values().collect()
}

#[test]
fn each_processor_has_its_queue() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let alerts = Alerts::listen(&lab);
    let conf = Conf::new(&lab)
        .nftables("queue-count = 2")
        .alerts(&alerts)
        .feed("watch", "alert", &["203.0.113.1"]);
    let _daemon = Daemon::start(&lab, &lab.host, &conf);
    assert_eq!(given(&lab.host).len(), 2);
    let usable = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let cpus: Vec<usize> = (0..CpuSet::count())
        .filter(|&cpu| usable.is_set(cpu).unwrap())
        .collect();
    // Queue number = first + processor modulo queues.
    for parity in [0, 1] {
        let Some(&cpu) = cpus.iter().find(|cpu| *cpu % 2 == parity) else {
            return eprintln!("skipped: one processor");
        };
        let before = given(&lab.host);
        let pinned = || {
            let mut one = CpuSet::new();
            one.set(cpu).unwrap();
            sched_setaffinity(Pid::from_raw(0), &one).unwrap();
            std::net::TcpStream::connect_timeout(
                &"203.0.113.1:80".parse().unwrap(),
                Duration::from_secs(20),
            )
        };
        let stream = lab.host.enter(pinned).unwrap().unwrap();
        let port = stream.local_addr().unwrap().port().to_string();
        alerts.wait(&[("spt", &port)]).assert(&[
            ("pid", &std::process::id().to_string()),
            ("attribution", "exact"),
        ]);
        let after = given(&lab.host);
        assert!(after[parity] > before[parity], "{before:?} {after:?}");
    }
}
