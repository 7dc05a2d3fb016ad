//! Ends of real connections, in a network namespace of the test. As root.

use std::{
    fs,
    net::UdpSocket,
    path::Path,
    time::{Duration, Instant},
};

use super::events::{Destroyed, Events, count_traffic};
use crate::{
    demo::Netns,
    flowlog::{Count, Traffic},
};

const PATIENCE: Duration = Duration::from_secs(120);
const FLOWS: usize = 300;

/// One-way flows over the loopback of this thread's namespace, until the kernel has forgotten them.
fn flows_that_end(netns: &Netns) {
    let server = UdpSocket::bind("127.0.0.1:9").unwrap();
    // Ports of the kernel's choice may be the same twice: one connection.
    for port in (10_000..).take(FLOWS) {
        let socket = UdpSocket::bind(("127.0.0.1", port)).unwrap();
        socket.send_to(b"hello", "127.0.0.1:9").unwrap();
    }
    drop(server);
    let start = Instant::now();
    loop {
        // Whoever reads the table makes the kernel drop what is over.
        let mut cat = netns.command("cat");
        let output = cat.arg("/proc/self/net/nf_conntrack").output().unwrap();
        if !String::from_utf8_lossy(&output.stdout).contains("dport=9 ") {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "they do not end");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Everything that is told, and whether some was lost.
fn all(mut events: Events) -> (Vec<Destroyed>, bool) {
    let (mut all, mut any_lost) = (Vec::new(), false);
    loop {
        let (ends, lost) = events.next(Duration::from_millis(100)).unwrap();
        any_lost |= lost;
        if ends.is_empty() && !lost {
            return (all, any_lost);
        }
        all.extend(ends);
    }
}

fn run(name: &str, open: fn() -> Events) -> Option<(Vec<Destroyed>, bool)> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return None;
    }
    let netns = Netns::create(format!("fgends-{}-{name}", std::process::id())).unwrap();
    netns.ip(&["link set lo up"]).unwrap();
    // Connections are tracked where a rule asks for their state.
    let mut nft = netns.command("nft");
    let rules = "add table inet t; add chain inet t c { type filter hook output priority 0; }; \
                 add rule inet t c ct state new accept";
    assert!(nft.arg(rules).status().unwrap().success());
    let work = || {
        count_traffic(Path::new("/proc/sys")).unwrap();
        fs::write("/proc/sys/net/netfilter/nf_conntrack_udp_timeout", "1").unwrap();
        let events = open();
        flows_that_end(&netns);
        all(events)
    };
    Some(netns.enter(work).unwrap())
}

#[test]
fn every_end_is_told_with_what_it_moved() {
    let Some((ends, lost)) = run("all", || Events::open().unwrap()) else {
        return;
    };
    let ours: Vec<_> = ends
        .iter()
        .filter(|end| end.flow.dst_port() == Some(9))
        .collect();
    assert_eq!((ours.len(), lost), (FLOWS, false));
    // 28 bytes of IPv4 and UDP headers.
    let traffic = Traffic {
        orig: Count {
            packets: 1,
            bytes: 33,
        },
        reply: Count::default(),
    };
    assert!(
        ours.iter().all(|end| end.traffic == Some(traffic)),
        "{ours:?}"
    );
}

#[test]
fn ends_that_do_not_fit_the_buffer_are_noticed_as_lost() {
    let Some((ends, lost)) = run("lost", || Events::with_buffer(4096).unwrap()) else {
        return;
    };
    assert!(
        lost && !ends.is_empty() && ends.len() < FLOWS,
        "{}",
        ends.len()
    );
}
