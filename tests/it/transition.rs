//! IPv4 entries in IPv6: NAT64 and 6to4.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::support::{
    Conf, Daemon, Lab, connect, dropped, eventually, feedgate, nft, program, web,
};

/// 203.0.113.1 to .5 through the NAT64 that the gateway leads to; the server has these addresses.
const FORM: &str = "64:ff9b::203.0.113.";

fn far(last: u8) -> String {
    format!("[{FORM}{last}]:80")
}

/// Addresses of a NAT64 at the server, behind the gateway; the host's own route is not there yet.
fn nat64(lab: &Lab, prefix: &str) {
    let addresses: Vec<String> = (1..6)
        .map(|n| format!("addr add {prefix}203.0.113.{n}/128 dev lo"))
        .collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    lab.server.ip(&addresses).unwrap();
    lab.gateway
        .ip(&[&format!("route add {prefix}/96 via 2001:db8:2::2")])
        .unwrap();
}

const ROUTE: &str = "64:ff9b::/96 via 2001:db8:1::1";

fn sets(lab: &Lab) -> String {
    nft(&lab.host, &["list", "ruleset"])
}

fn conf(lab: &Lab) -> Conf {
    Conf::new(lab)
        .feed(
            "block",
            "deny",
            &["203.0.113.1", "203.0.113.3", "203.0.113.4:80"],
        )
        .feed("look", "alert", &["203.0.113.2"])
        .section("[exceptions]\nprefixes = [\"203.0.113.3\"]")
}

#[test]
fn nat64_is_covered_while_a_route_leads_there() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    nat64(&lab, "64:ff9b::");
    let config = conf(&lab);
    let (alerts, daemon) = Daemon::alerting(&lab, &lab.host, conf(&lab));
    let text = config.alerts(&alerts).text();
    // Without a route of its own it is not in use here; asked about, it is read as what it is all the same.
    assert!(!sets(&lab).contains("64:ff9b::"), "{}", sets(&lab));
    let looked = daemon.ok(&["lookup", &format!("{FORM}1")]);
    assert!(
        looked.starts_with("egress: flows to 64:ff9b::cb00:7101 are denied"),
        "{looked}"
    );
    assert!(
        looked.contains("listed by block: 203.0.113.1 (deny)"),
        "{looked}"
    );
    assert!(looked.contains("stands for 203.0.113.1"), "{looked}");

    lab.host.ip(&[&format!("route add {ROUTE}")]).unwrap();
    daemon.reload(&text);
    eventually("it is in use", || {
        sets(&lab).contains("64:ff9b::cb00:7101").then_some(())
    });
    assert!(dropped(&lab.host, &far(1)));
    let alert = alerts.wait(&[("action", "deny"), ("dst", "64:ff9b::cb00:7101")]);
    alert.assert(&[
        ("feed", "block"),
        ("indicator", "203.0.113.1"),
        ("attribution", "exact"),
    ]);
    connect(&lab.host, &far(2)).unwrap();
    let alert = alerts.wait(&[("action", "alert"), ("dst", "64:ff9b::cb00:7102")]);
    alert.assert(&[("feed", "look"), ("indicator", "203.0.113.2")]);
    connect(&lab.host, &far(3)).expect("it is an exception");
    assert!(dropped(&lab.host, &far(4)), "an entry with a port");
    connect(&lab.host, &far(5)).expect("it is not listed");
    assert!(dropped(&lab.host, "203.0.113.1:80"));
    let status = daemon.ok(&["status"]);
    assert!(
        status.contains("IPv4 entries also hold in NAT64 64:ff9b::/96 (route)"),
        "{status}"
    );
    let printed = daemon.ok(&["nft", "print"]);
    assert!(
        printed.contains("# IPv4 entries also hold in NAT64 64:ff9b::/96"),
        "{printed}"
    );

    lab.host.ip(&[&format!("route del {ROUTE}")]).unwrap();
    daemon.reload(&text);
    eventually("it is no longer in use", || {
        (!sets(&lab).contains("64:ff9b::")).then_some(())
    });
    assert!(dropped(&lab.host, "203.0.113.1:80"));
}

#[test]
fn a_configured_prefix_is_covered_from_the_start() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    nat64(&lab, "2001:db8:64::");
    let config =
        conf(&lab).nftables("nat64-prefixes = [\"2001:db8:64::/96\", \"2001:db8:65::/48\"]");
    let daemon = Daemon::start(&lab, &lab.host, &config);
    assert!(dropped(&lab.host, "[2001:db8:64::203.0.113.1]:80"));
    connect(&lab.host, "[2001:db8:64::203.0.113.3]:80").expect("it is an exception");
    connect(&lab.host, "[2001:db8:64::203.0.113.5]:80").unwrap();
    // RFC 6052 section 2.2: the octet in the middle, and any suffix.
    let looked = daemon.ok(&["lookup", "2001:db8:65:cb00:71:100:0:1"]);
    assert!(
        looked.contains("listed by block: 203.0.113.1 (deny)"),
        "{looked}"
    );
    assert!(
        sets(&lab).contains("2001:db8:65:cb00:71:100::/88"),
        "{}",
        sets(&lab)
    );
}

#[test]
fn six_to_four_is_covered_where_the_host_has_such_an_address() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    lab.host
        .ip(&["addr add 2002:c000:202::1/128 dev eth0 nodad"])
        .unwrap();
    lab.server
        .ip(&[
            "addr add 2002:cb00:7101::1/128 dev lo",
            "addr add 2002:cb00:7105::1/128 dev lo",
        ])
        .unwrap();
    lab.gateway
        .ip(&[
            "route add 2002:cb00::/24 via 2001:db8:2::2",
            "route add 2002:c000:202::/48 via 2001:db8:1::2",
        ])
        .unwrap();
    let daemon = Daemon::start(&lab, &lab.host, &conf(&lab));
    assert!(dropped(&lab.host, "[2002:cb00:7101::1]:80"));
    connect(&lab.host, "[2002:cb00:7105::1]:80").unwrap();
    assert!(daemon.ok(&["status"]).contains("6to4 2002::/16 (address)"));
}

/// Answers every question with these bytes as an AAAA record.
struct Resolver {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Resolver {
    fn start(lab: &Lab, address: std::net::Ipv6Addr) -> Self {
        let socket = lab
            .host
            .enter(|| UdpSocket::bind("127.0.0.53:53"))
            .unwrap()
            .unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&answer(&buffer[..length], address), from);
                }
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// RFC 1035: the question again, and for AAAA one answer; for anything else none.
fn answer(question: &[u8], address: std::net::Ipv6Addr) -> Vec<u8> {
    let name = question[12..].iter().position(|byte| *byte == 0).unwrap() + 13;
    let is_aaaa =
        question[name..name + 2] == [0, 28] && question[12..].starts_with(b"\x08ipv4only\x04arpa");
    let mut out = question[..2].to_vec();
    out.extend([0x81, 0x80, 0, 1, 0, u8::from(is_aaaa), 0, 0, 0, 0]);
    out.extend(&question[12..name + 4]);
    if is_aaaa {
        out.extend([0xc0, 12, 0, 28, 0, 1, 0, 0, 0, 60, 0, 16]);
        out.extend(address.octets());
    }
    out
}

#[test]
fn the_resolver_tells_the_prefix_and_a_restart_remembers_it() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    nat64(&lab, "2001:db8:77::");
    let resolver = Resolver::start(&lab, "2001:db8:77::192.0.0.170".parse().unwrap());
    let resolv = lab.path("resolv.conf");
    std::fs::write(
        &resolv,
        "nameserver 127.0.0.53\noptions timeout:1 attempts:1\n",
    )
    .unwrap();
    let text = format!(
        "#!/bin/sh\nexec unshare -m sh -c 'mount --bind {} /etc/resolv.conf && exec {} \"$@\"' sh \"$@\"\n",
        resolv.display(),
        feedgate().display()
    );
    let with_resolver = program(&lab, "with-resolver.sh", &text);
    let daemon = Daemon::start_as(&with_resolver, &lab, &lab.host, &conf(&lab));
    eventually("it is asked and followed", || {
        sets(&lab).contains("2001:db8:77::cb00:7101").then_some(())
    });
    assert!(dropped(&lab.host, "[2001:db8:77::203.0.113.1]:80"));
    assert!(
        daemon
            .ok(&["status"])
            .contains("NAT64 2001:db8:77::/96 (resolver)")
    );
    daemon.stop();
    // Now nobody answers.
    drop(resolver);
    let daemon = Daemon::start_as(&with_resolver, &lab, &lab.host, &conf(&lab));
    assert!(dropped(&lab.host, "[2001:db8:77::203.0.113.1]:80"));
    daemon.ok(&["status"]);
}
