//! Packets that no well-behaved program sends, and big ones, through the real queue.
//!
//! The law: what would pass to an unlisted address passes to a watched one too; of what goes to a
//! denied one nothing ever comes out, each packet is counted, and the daemon lives.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use feedgate::demo::Netns;
use nix::sys::socket::{setsockopt, sockopt};

use crate::support::{
    Alerts, Conf, Daemon, HOST_MAC, Lab, Meter, RawSender, connect, counter, echo, eventually, ping,
};

/// Between two packets, so that no buffer on their way overflows: that is not what is tested.
const PACE: Duration = Duration::from_micros(200);

/// Watched, denied and in no feed.
const V4: [&str; 3] = ["203.0.113.1", "203.0.113.2", "203.0.113.200"];
const V6: [&str; 3] = ["2001:db8:bad::1", "2001:db8:bad::2", "2001:db8:bad::200"];

/// Protocols with and without ports, and some that the kernel treats apart.
const PROTOCOLS: [u8; 13] = [0, 1, 2, 6, 17, 33, 47, 50, 58, 132, 136, 253, 255];

fn conf(lab: &Lab, alerts: &Alerts) -> Conf {
    Conf::new(lab)
        .alerts(alerts)
        .feed("watch", "alert", &[V4[0], V6[0]])
        .feed("block", "deny", &[V4[1], V6[1]])
}

/// Sends the same packets from the host to all three addresses, and holds the law for a daemon on
/// the host, or on the gateway that forwards them.
fn hold_the_law(
    lab: &Lab,
    (daemon, on): (&mut Daemon<'_>, &Netns),
    addresses: [&str; 3],
    packets: &[Vec<u8>],
) {
    let [watched, denied, unlisted] = addresses;
    let is_host = std::ptr::eq(on, &raw const lab.host);
    let meter = if is_host {
        Meter::start(&lab.gateway, "lan0", &addresses)
    } else {
        Meter::start(&lab.server, "eth0", &addresses)
    };
    assert!(ping(&lab.host, unlisted), "the neighbours are known");
    let (pings, before) = (meter.seen(unlisted), counted(on));
    let v6 = unlisted.contains(':');
    let raw = if v6 {
        RawSender::v6(&lab.host)
    } else {
        RawSender::v4(&lab.host)
    };
    let mut all = 0;
    for packet in packets {
        let send = |to: &str| {
            let to: IpAddr = to.parse().unwrap();
            std::thread::sleep(PACE);
            raw.send(to, &addressed(packet, to))
        };
        // Some lies are refused by newer kernels before any hook.
        if send(unlisted).is_ok() {
            send(watched).unwrap();
            let _ = send(denied); // a drop on output is an error for the sender
            all += 1;
        }
    }
    assert!(all > 0, "of {}", packets.len());
    eventually("each denied packet is counted", || {
        // A router drops some before its hooks, whoever they are for.
        let reached = if is_host {
            all
        } else {
            meter.seen(unlisted) - pings
        };
        (reached > 0 && counted(on) - before == reached).then_some(())
    });
    eventually(
        "what passes to an unlisted address passes to a watched one",
        || {
            let (passed, of_watched) = (meter.seen(unlisted) - pings, meter.seen(watched));
            let missing = passed.abs_diff(of_watched);
            (passed > 0 && missing <= clashes(on)).then_some(())
        },
    );
    assert_eq!(meter.seen(denied), 0, "of {all}");
    assert!(daemon.runs());
    assert!(daemon.ok(&["status"]).contains("PROTECTED"));
}

/// Packets to denied addresses so far, by the kernel's count.
fn counted(netns: &Netns) -> u64 {
    let names = ["denied", "denied_repeat", "denied_unattributed"];
    names.into_iter().map(|name| counter(netns, name)).sum()
}

/// Packets that the kernel dropped because another one of the same flow was tracked while they
/// were held: of well-behaved programs these are repeats.
fn clashes(netns: &Netns) -> u64 {
    let stat = || std::fs::read_to_string("/proc/thread-self/net/stat/nf_conntrack");
    let text = netns.enter(stat).unwrap().unwrap();
    let mut lines = text.lines().map(str::split_whitespace);
    let at = lines
        .next()
        .unwrap()
        .position(|name| name == "drop")
        .unwrap();
    let of_cpu = lines.map(|mut line| u64::from_str_radix(line.nth(at).unwrap(), 16).unwrap());
    of_cpu.sum()
}

/// With its destination put in.
fn addressed(packet: &[u8], to: IpAddr) -> Vec<u8> {
    let mut packet = packet.to_vec();
    match to {
        IpAddr::V4(to) => packet[16..20].copy_from_slice(&to.octets()),
        IpAddr::V6(to) => packet[24..40].copy_from_slice(&to.octets()),
    }
    packet
}

/// An IPv4 packet without a destination. `first` is the byte of version and header length,
/// `fragment` the word of flags and offset.
fn v4(first: u8, proto: u8, fragment: u16, behind: &[u8]) -> Vec<u8> {
    let from: Ipv4Addr = "192.0.2.2".parse().unwrap();
    let length = u16::try_from(20 + behind.len()).unwrap();
    let mut packet = vec![first, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 7]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, proto, 0, 0]);
    packet.extend(from.octets());
    packet.extend([0; 4]);
    packet.extend(behind);
    packet
}

/// An IPv6 packet without a destination; `length`: what it says of itself.
fn v6(next: u8, length: Option<u16>, behind: &[u8]) -> Vec<u8> {
    let from: Ipv6Addr = "2001:db8:1::2".parse().unwrap();
    let length = length.unwrap_or_else(|| u16::try_from(behind.len()).unwrap());
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(from.octets());
    packet.extend([0; 16]);
    packet.extend(behind);
    packet
}

/// A TCP segment with a data offset of `words`, flags, and options.
fn tcp(words: u8, flags: u8, options: &[u8]) -> Vec<u8> {
    let mut segment = vec![0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0];
    segment.extend([words << 4, flags, 0x20, 0, 0, 0, 0, 0]);
    segment.extend(options);
    segment
}

/// A UDP datagram that says it has `length` bytes.
fn udp(length: u16, data: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0x9c, 0x40, 0, 53];
    datagram.extend(length.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(data);
    datagram
}

/// Transport headers cut short at each length that matters, and those that lie.
fn transports() -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    for proto in PROTOCOLS {
        for length in [0, 1, 3, 4, 8, 19] {
            all.push((proto, vec![0; length]));
            all.push((proto, vec![0xff; length]));
        }
    }
    for words in [0, 1, 4, 5, 6, 15] {
        for flags in [0, 0x02, 0x07, 0x12, 0xff] {
            all.push((6, tcp(words, flags, &[])));
        }
    }
    // Options of no length, which an endless loop would wait for, and ones beyond the header.
    for option in [
        [2, 0, 0, 0],
        [8, 0, 1, 1],
        [0xff, 0, 0, 0],
        [3, 0xff, 1, 0],
        [1, 1, 1, 2],
    ] {
        all.push((6, tcp(6, 0x02, &option)));
    }
    for length in [0, 7, 8, 9, 0xffff] {
        all.push((17, udp(length, b"data")));
        all.push((136, udp(length, b"data")));
    }
    for kind in [0, 3, 5, 8, 11, 12, 13, 40, 128, 129, 255] {
        all.push((1, vec![kind, 0, 0, 0, 0, 9, 0, 1]));
        all.push((58, vec![kind, 0, 0, 0, 0, 9, 0, 1]));
    }
    all
}

/// IPv4 packets with all of these, with lying header lengths, odd versions and options.
fn malformed_v4() -> Vec<Vec<u8>> {
    let mut packets: Vec<Vec<u8>> = transports()
        .into_iter()
        .map(|(proto, payload)| v4(0x45, proto, 0, &payload))
        .collect();
    for first in [0x40, 0x41, 0x44, 0x05, 0x55, 0x65, 0xf5] {
        packets.push(v4(first, 17, 0, &udp(12, b"data")));
    }
    // Options without a length, and nothing but options.
    for (words, options) in [
        (6, vec![7, 0, 0, 0]),
        (6, vec![0x44, 0, 5, 0]),
        (6, vec![0x83, 0xff, 4, 0]),
        (15, vec![1; 40]),
        (15, [0x94, 0, 0, 0].repeat(10)),
    ] {
        let behind = [options, udp(12, b"data")].concat();
        packets.push(v4(0x40 | words, 17, 0, &behind));
        let options = &behind[..usize::from(words) * 4 - 20];
        packets.push(v4(0x40 | words, 6, 0, options));
    }
    packets.push(v4(0x45, 17, 0x8000, &udp(12, b"data"))); // the reserved flag
    packets
}

/// IPv6 packets with all of these, with lying lengths and chains of extension headers.
fn malformed_v6() -> Vec<Vec<u8>> {
    let mut packets: Vec<Vec<u8>> = transports()
        .into_iter()
        .map(|(proto, payload)| v6(proto, None, &payload))
        .collect();
    let datagram = udp(12, b"data");
    for length in [0, 1, 7, 0xffff] {
        packets.push(v6(17, Some(length), &datagram));
    }
    for chain in [
        &[60][..],
        &[0, 60],
        &[43, 60, 51],
        &[60; 8],
        &[60; 20],
        &[51, 51, 60],
        &[59],
    ] {
        let whole = chained(chain, 17, &datagram);
        let first = chain[0];
        packets.push(v6(first, None, &whole));
        for cut in [1, 2, 7, 8, 9, 15] {
            packets.push(v6(first, None, &whole[..cut.min(whole.len())]));
        }
        let mut beyond = whole.clone();
        beyond[1] = 0xff; // the first header says that it is longer than the packet
        packets.push(v6(first, None, &beyond));
    }
    packets
}

#[test]
fn malformed_and_truncated_ipv4_packets() {
    let Some(lab) = Lab::new() else { return };
    let alerts = Alerts::listen(&lab);
    let mut daemon = Daemon::start(&lab, &lab.host, &conf(&lab, &alerts));
    hold_the_law(&lab, (&mut daemon, &lab.host), V4, &malformed_v4());
    for (address, action) in [(V4[0], "alert"), (V4[1], "deny")] {
        alerts.wait(&[("dst", address), ("action", action), ("proto", "tcp")]);
    }
}

#[test]
fn ipv6_chains_and_truncated_packets() {
    let Some(lab) = Lab::new() else { return };
    let alerts = Alerts::listen(&lab);
    let mut daemon = Daemon::start(&lab, &lab.host, &conf(&lab, &alerts));
    hold_the_law(&lab, (&mut daemon, &lab.host), V6, &malformed_v6());
    for (address, action) in [(V6[0], "alert"), (V6[1], "deny")] {
        alerts.wait(&[("dst", address), ("action", action), ("dpt", "53")]);
    }
}

#[test]
fn malformed_packets_through_a_gateway() {
    let Some(lab) = Lab::new() else { return };
    let alerts = Alerts::listen(&lab);
    let mut daemon = Daemon::start(&lab, &lab.gateway, &conf(&lab, &alerts));
    hold_the_law(&lab, (&mut daemon, &lab.gateway), V4, &malformed_v4());
    for (address, action) in [(V4[0], "alert"), (V4[1], "deny")] {
        alerts.wait(&[("dst", address), ("proto", "tcp")]).assert(&[
            ("action", action),
            ("mac", HOST_MAC),
            ("iface", "lan0"),
        ]);
    }
}

#[test]
fn ipv6_chains_through_a_gateway() {
    let Some(lab) = Lab::new() else { return };
    let alerts = Alerts::listen(&lab);
    let mut daemon = Daemon::start(&lab, &lab.gateway, &conf(&lab, &alerts));
    hold_the_law(&lab, (&mut daemon, &lab.gateway), V6, &malformed_v6());
    for (address, action) in [(V6[0], "alert"), (V6[1], "deny")] {
        alerts
            .wait(&[("dst", address), ("dpt", "53")])
            .assert(&[("action", action), ("mac", HOST_MAC)]);
    }
}

/// Extension headers of eight bytes (12 for AH) in front of `behind`.
pub(crate) fn chained(chain: &[u8], proto: u8, behind: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (at, kind) in chain.iter().enumerate() {
        let next = chain.get(at + 1).copied().unwrap_or(proto);
        match kind {
            51 => bytes.extend([next, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]),
            43 => bytes.extend([next, 0, 4, 0, 0, 0, 0, 0]), // segment routing, none left
            _ => bytes.extend([next, 0, 1, 4, 0, 0, 0, 0]),  // one PadN option
        }
    }
    bytes.extend(behind);
    bytes
}

#[test]
fn fragments_as_they_are() {
    let Some(lab) = Lab::new() else { return };
    let alerts = Alerts::listen(&lab);
    let mut daemon = Daemon::start(&lab, &lab.host, &conf(&lab, &alerts));
    let data = [7; 64];
    let packets = [
        v4(0x45, 17, 0x2000, &udp(1000, &data[..56])), // the first one, with its ports
        v4(0x45, 17, 0x2008, &data),                   // one behind it
        v4(0x45, 17, 0x0010, &data),                   // the last one
        v4(0x45, 6, 0x0001, &data),                    // over the end of a TCP header (RFC 1858)
        v4(0x45, 1, 0x1fff, &data[..8]),               // beyond 64 KiB
    ];
    hold_the_law(&lab, (&mut daemon, &lab.host), V4, &packets);
    let alert = alerts.wait(&[("dst", V4[1]), ("proto", "tcp")]);
    alert.assert(&[("dpt", ""), ("action", "deny"), ("attribution", "unknown")]);
    assert!(alert.get("cause").contains("fragment"), "{}", alert.line);

    // Connection tracking keeps fragments of IPv6 until they are complete, on every host that has it.
    let meter = Meter::start(&lab.gateway, "lan0", &V6);
    let raw = RawSender::v6(&lab.host);
    let datagram = udp(64, &data[..56]);
    for to in V6 {
        let to: IpAddr = to.parse().unwrap();
        for (offset_and_more, part) in [(1_u16, &datagram[..32]), (32, &datagram[32..])] {
            let mut behind = vec![17, 0];
            behind.extend(offset_and_more.to_be_bytes());
            behind.extend([0, 0, 0, 9]);
            behind.extend(part);
            let _ = raw.send(to, &addressed(&v6(44, None, &behind), to));
        }
    }
    alerts
        .wait(&[("dst", V6[1])])
        .assert(&[("dpt", "53"), ("action", "deny")]);
    for address in [V6[0], V6[2]] {
        eventually("the whole datagram passes", || {
            (meter.seen(address) > 0).then_some(())
        });
    }
    assert_eq!(meter.seen(V6[1]), 0);
}

#[test]
fn a_datagram_in_fragments_is_one_flow_on_a_gateway() {
    let Some(lab) = Lab::new() else { return };
    let _echoes = ["203.0.113.1:53", "203.0.113.2:53", "[2001:db8:bad::1]:53"]
        .map(|address| echo(&lab.server, address));
    let alerts = Alerts::listen(&lab);
    let _daemon = Daemon::start(&lab, &lab.gateway, &conf(&lab, &alerts));
    let meter = Meter::start(&lab.server, "eth0", &[V4[0], V4[1], V6[0], V6[1]]);
    for (watched, denied) in [(V4[0], V4[1]), (V6[0], V6[1])] {
        exchange_bytes(&lab.host, watched, 4000);
        eventually("all fragments arrive", || {
            (meter.seen(watched) == 3).then_some(())
        });
        send_bytes(&lab.host, denied, 4000);
        let alert = alerts.wait(&[("dst", denied)]);
        alert.assert(&[("action", "deny"), ("dpt", "53")]);
        assert_eq!(meter.seen(denied), 0);
        let of_watched = alerts.all();
        let of_watched = of_watched.iter().filter(|a| a.get("dst") == watched);
        assert_eq!(of_watched.count(), 1, "one flow, one alert");
    }
}

#[test]
fn packets_of_nine_thousand_bytes() {
    let Some(lab) = Lab::new() else { return };
    let large = |netns: &Netns, devices: &[&str]| {
        let commands: Vec<String> = devices
            .iter()
            .map(|device| format!("link set {device} mtu 9000"))
            .collect();
        let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
        netns.ip(&commands).unwrap();
    };
    large(&lab.host, &["eth0"]);
    large(&lab.gateway, &["lan0", "wan0"]);
    large(&lab.server, &["eth0"]);
    let _echoes = ["203.0.113.1:53", "[2001:db8:bad::1]:53"].map(|a| echo(&lab.server, a));
    let alerts = Alerts::listen(&lab);
    let _daemon = Daemon::start(&lab, &lab.host, &conf(&lab, &alerts));
    let meter = Meter::start(&lab.server, "eth0", &[V4[0], V4[1], V6[0], V6[1]]);
    let pid = std::process::id().to_string();
    for (watched, denied) in [(V4[0], V4[1]), (V6[0], V6[1])] {
        // Open until they are named.
        let _sockets = [
            exchange_bytes(&lab.host, watched, 8900),
            send_bytes(&lab.host, denied, 8900),
        ];
        for (address, action) in [(watched, "alert"), (denied, "deny")] {
            alerts
                .wait(&[("dst", address)])
                .assert(&[("action", action), ("pid", &pid)]);
        }
        assert_eq!(meter.seen(watched), 1, "it was one packet");
        assert_eq!(meter.seen(denied), 0);
    }
}

#[test]
fn a_datagram_burst_that_the_kernel_segments_later_is_one_flow() {
    let Some(lab) = Lab::new() else { return };
    let alerts = Alerts::listen(&lab);
    let _daemon = Daemon::start(&lab, &lab.host, &conf(&lab, &alerts));
    let meter = Meter::start(&lab.gateway, "lan0", &[V4[0], V4[1], V6[0], V6[1]]);
    for (watched, denied) in [(V4[0], V4[1]), (V6[0], V6[1])] {
        // Open until they are named.
        let _sockets = [watched, denied].map(|to| {
            let socket = udp_socket(&lab.host, to);
            setsockopt(&socket, sockopt::UdpGsoSegment, &1000).expect("UDP_SEGMENT");
            // Ten datagrams in one system call and one packet.
            let _ = socket.send(&[7; 10_000]);
            socket
        });
        for (address, action) in [(watched, "alert"), (denied, "deny")] {
            alerts.wait(&[("dst", address)]).assert(&[
                ("action", action),
                ("attribution", "exact"),
                ("dpt", "53"),
            ]);
        }
        // One packet where the devices segment, ten where they do not.
        eventually("the burst passes", || {
            (meter.seen(watched) > 0).then_some(())
        });
        assert_eq!(meter.seen(denied), 0);
        let of_watched = alerts.all();
        let of_watched = of_watched.iter().filter(|a| a.get("dst") == watched);
        assert_eq!(of_watched.count(), 1, "one packet, one alert");
    }
}

#[test]
fn large_segments_of_a_stream_that_began_before_the_daemon() {
    let Some(lab) = Lab::new() else { return };
    let sink = Sink::start(&lab.server);
    let alerts = Alerts::listen(&lab);
    // Without a ruleset nobody tracks connections yet: what follows is new to the kernel.
    let mut watched = connect(&lab.host, "203.0.113.1:9000").unwrap();
    let mut denied = connect(&lab.host, "203.0.113.2:9000").unwrap();
    let _daemon = Daemon::start(&lab, &lab.host, &conf(&lab, &alerts));

    let data = vec![7; 1 << 20];
    denied.set_nonblocking(true).unwrap();
    let _ = denied.write(&data);
    watched.write_all(&data).unwrap();
    let pid = std::process::id().to_string();
    for (address, action) in [(V4[0], "alert"), (V4[1], "deny")] {
        alerts.wait(&[("dst", address), ("dpt", "9000")]).assert(&[
            ("action", action),
            ("attribution", "exact"),
            ("pid", &pid),
        ]);
    }
    eventually("a megabyte arrives", || {
        (sink.received(V4[0]) == 1 << 20).then_some(())
    });
    assert_eq!(sink.received(V4[1]), 0);
}

fn udp_socket(netns: &Netns, to: &str) -> UdpSocket {
    let to: IpAddr = to.parse().unwrap();
    let any: IpAddr = if to.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = netns.enter(|| UdpSocket::bind((any, 0))).unwrap().unwrap();
    socket.connect(SocketAddr::new(to, 53)).unwrap();
    socket
}

/// Sends a datagram of `length` bytes to port 53; gives the socket.
fn send_bytes(netns: &Netns, to: &str, length: usize) -> UdpSocket {
    let socket = udp_socket(netns, to);
    // A drop on output is an error for the sender.
    let _ = socket.send(&vec![7; length]);
    socket
}

/// The same, and waits for what the echo server sends back.
#[track_caller]
fn exchange_bytes(netns: &Netns, to: &str, length: usize) -> UdpSocket {
    let socket = send_bytes(netns, to, length);
    socket
        .set_read_timeout(Some(crate::support::PATIENCE))
        .unwrap();
    assert!(socket.recv(&mut [0; 4096]).unwrap() > 1000);
    socket
}

/// Counts the bytes that come in at port 9000 of the first nine listed addresses.
struct Sink(Arc<[AtomicU64; 10]>);

impl Sink {
    /// Ends with the test process.
    fn start(netns: &Netns) -> Self {
        let listener = netns
            .enter(|| TcpListener::bind("0.0.0.0:9000"))
            .unwrap()
            .unwrap();
        let counts: Arc<[AtomicU64; 10]> = Arc::default();
        let shown = Arc::clone(&counts);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counts = Arc::clone(&counts);
                std::thread::spawn(move || swallow(stream, &counts));
            }
        });
        Self(shown)
    }

    fn received(&self, address: &str) -> u64 {
        self.0[last(address.parse().unwrap())].load(Ordering::Relaxed)
    }
}

fn swallow(mut stream: TcpStream, counts: &[AtomicU64; 10]) {
    let at = last(stream.local_addr().unwrap().ip());
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        counts[at].fetch_add(u64::try_from(length).unwrap(), Ordering::Relaxed);
    }
}

/// The last number of an address.
fn last(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(address) => usize::from(address.octets()[3]),
        IpAddr::V6(address) => usize::from(address.octets()[15]),
    }
}

/// VXLAN, as WireGuard, is a program of the kernel on a UDP socket.
#[test]
fn a_tunnel_of_the_kernel_is_reported_as_the_kernels() {
    let Some(lab) = Lab::new() else { return };
    let alerts = Alerts::listen(&lab);
    // All processes of the machine are looked at, once: the kernel remembers the flow.
    let conf = conf(&lab, &alerts).section("[attribution]\ntimeout = \"10s\"");
    let _daemon = Daemon::start(&lab, &lab.host, &conf);
    let tunnel = lab.host.ip(&[
        "link add vx0 type vxlan id 7 remote 203.0.113.1 srcport 4789 4790 dstport 4789 dev eth0",
        "addr add 198.18.5.1/24 dev vx0",
        "link set vx0 up",
    ]);
    if let Err(error) = tunnel {
        return eprintln!("skipped: this kernel has no VXLAN: {error}");
    }
    // The tunnel sends what it likes, such as router solicitations; this is one more.
    ping(&lab.host, "198.18.5.2");
    let alert = alerts.wait(&[("dst", "203.0.113.1"), ("dpt", "4789")]);
    alert.assert(&[("attribution", "unknown"), ("pid", ""), ("proto", "udp")]);
    let pids = std::fs::read_link("/proc/self/ns/pid").unwrap();
    if pids.as_os_str() == "pid:[4026531836]" {
        alert.assert(&[("method", "kernel-socket")]);
    }
}
