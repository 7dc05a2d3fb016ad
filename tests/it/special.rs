//! Special addresses in a deny feed: the host keeps its network. DHCP, neighbour discovery, router
//! discovery and duplicate address detection, with the packets that they are made of.

use std::{
    net::{SocketAddrV6, UdpSocket},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::Duration,
};

use feedgate::demo::Netns;
use nix::{
    net::if_::if_nametoindex,
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, setsockopt,
        socket, sockopt,
    },
};

use crate::support::{Conf, Daemon, Lab, Meter, counter, dropped, eventually, ping, web};

/// What a careless feed lists, and one address that is denied.
const LISTED: &[&str] = &[
    "0.0.0.0",
    "255.255.255.255",
    "224.0.0.1",
    "169.254.169.254",
    "192.0.2.255",
    "::",
    "ff02::1",
    "ff02::2",
    "ff02::1:ff00:1",
    "ff02::1:ff00:2",
    "ff02::1:ff00:77",
    "fe80::1",
    "203.0.113.1",
];

fn daemon<'a>(lab: &'a Lab, netns: &'a Netns) -> Daemon<'a> {
    let conf = Conf::new(lab)
        .feed("sloppy", "deny", LISTED)
        .section("[exceptions]\nprivate-networks = \"keep\"");
    Daemon::start(lab, netns, &conf)
}

#[test]
fn they_are_counted_and_in_no_set() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let daemon = daemon(&lab, &lab.host);
    let row = daemon.row("sloppy");
    assert_eq!(
        (&row["special"], &row["entries"]),
        (&12.into(), &13.into()),
        "{row}"
    );
    let table = crate::support::nft(&lab.host, &["list", "table", "inet", "feedgate"]);
    for address in LISTED.iter().filter(|address| **address != "203.0.113.1") {
        let alone = |c: char| !(c.is_ascii_hexdigit() || c == '.' || c == ':');
        assert!(
            !table.split(alone).any(|word| word == *address),
            "{address}: {table}"
        );
    }
    assert!(dropped(&lab.host, "203.0.113.1:80"));
    let feeds = daemon.ok(&["feeds"]);
    assert!(
        feeds.contains("special addresses, never denied: 12 entries"),
        "{feeds}"
    );
    assert!(feeds.contains("0.0.0.0: unspecified"), "{feeds}");
    let status = daemon.ok(&["status"]);
    assert!(
        status.contains("12 entries are special addresses"),
        "{status}"
    );
    let lint = daemon.ctl(&["lint", "sloppy"]);
    let lint = String::from_utf8(lint.stdout).unwrap();
    assert!(
        lint.contains("with special addresses, which are never denied"),
        "{lint}"
    );
    for (address, what) in [
        ("255.255.255.255", "excepted: limited broadcast"),
        ("169.254.169.254", "excepted: link-local"),
        ("192.0.2.255", "excepted: broadcast address on eth0"),
        ("fe80::1", "excepted: link-local"),
    ] {
        let lookup = daemon.ok(&["lookup", address]);
        assert!(
            lookup.contains("are left alone") && lookup.contains(what),
            "{lookup}"
        );
        assert!(
            lookup.contains("does not count: special address"),
            "{lookup}"
        );
    }
}

/// A host without any address, on a wire with the gateway's `lan1`.
fn bare(lab: &Lab) -> Netns {
    let bare = Netns::create(lab.host.name().replace("-host", "-bare")).unwrap();
    bare.link("eth0", &lab.gateway, "lan1").unwrap();
    // Without an address the reverse path of an answer is none; the machine's own setting is inherited.
    let trusting = || {
        for which in ["all", "eth0"] {
            let path = format!("/proc/sys/net/ipv4/conf/{which}/rp_filter");
            std::fs::write(path, "0").unwrap();
        }
    };
    bare.enter(trusting).unwrap();
    lab.gateway
        .ip(&["addr add 198.18.5.1/24 dev lan1"])
        .unwrap();
    bare
}

fn on_device(netns: &Netns, device: &str, port: u16) -> UdpSocket {
    let socket = netns
        .enter(|| UdpSocket::bind(("0.0.0.0", port)))
        .unwrap()
        .unwrap();
    setsockopt(&socket, sockopt::BindToDevice, &device.into()).unwrap();
    socket.set_broadcast(true).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    socket
}

/// DISCOVER (0.0.0.0 to 255.255.255.255) and OFFER (to 255.255.255.255), RFC 2131.
fn discovers(lab: &Lab, client: &Netns) {
    let (client, server) = (
        on_device(client, "eth0", 68),
        on_device(&lab.gateway, "lan1", 67),
    );
    client.send_to(b"discover", "255.255.255.255:67").unwrap();
    let mut buffer = [0; 64];
    let (length, from) = server.recv_from(&mut buffer).expect("the DISCOVER arrives");
    assert_eq!(
        (&buffer[..length], from.to_string()),
        (&b"discover"[..], "0.0.0.0:68".into())
    );
    server.send_to(b"offer", "255.255.255.255:68").unwrap();
    let (length, _) = client.recv_from(&mut buffer).expect("the OFFER arrives");
    assert_eq!(&buffer[..length], b"offer");
}

#[test]
fn dhcp_works_on_a_client_that_denies_them() {
    let Some(lab) = Lab::new() else { return };
    let bare = bare(&lab);
    let _daemon = daemon(&lab, &bare);
    discovers(&lab, &bare);
    assert_eq!(counter(&bare, "queued"), 0);
}

#[test]
fn dhcp_works_on_a_server_that_denies_them() {
    let Some(lab) = Lab::new() else { return };
    let bare = bare(&lab);
    let _daemon = daemon(&lab, &lab.gateway);
    discovers(&lab, &bare);
    assert_eq!(counter(&lab.gateway, "queued"), 0);
}

#[test]
fn a_directed_broadcast_passes() {
    let Some(lab) = Lab::new() else { return };
    let _daemon = daemon(&lab, &lab.host);
    let (host, gateway) = (
        on_device(&lab.host, "eth0", 9999),
        on_device(&lab.gateway, "lan0", 9999),
    );
    host.send_to(b"hello", "192.0.2.255:9999").unwrap();
    let (length, _) = gateway
        .recv_from(&mut [0; 16])
        .expect("the broadcast arrives");
    assert_eq!(length, 5);
}

/// An ICMPv6 socket that sends as neighbour discovery does (RFC 4861): hop limit 255.
fn icmp6(netns: &Netns) -> OwnedFd {
    let open = || {
        socket(
            AddressFamily::Inet6,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::IcmpV6,
        )
    };
    let socket = netns.enter(open).unwrap().unwrap();
    setsockopt(&socket, sockopt::Ipv6MulticastHops, &255).unwrap();
    socket
}

fn send(netns: &Netns, device: &str, to: &str, message: &[u8]) {
    let socket = icmp6(netns);
    let index = netns.enter(|| if_nametoindex(device)).unwrap().unwrap();
    let to = SocketAddrV6::new(to.parse().unwrap(), 0, 0, index);
    let to = SockaddrIn6::from(to);
    sendto(socket.as_fd().as_raw_fd(), message, &to, MsgFlags::empty()).unwrap();
}

fn set(netns: &Netns, key: &str, value: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{key}");
    netns
        .enter(|| std::fs::write(path, value))
        .unwrap()
        .unwrap();
}

fn addresses(netns: &Netns) -> String {
    let output = netns
        .command("ip")
        .args(["-6", "addr", "show", "dev", "eth0"])
        .output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

/// Router advertisement of 2001:db8:aa::/64 for autoconfiguration; no default route.
fn advertisement() -> Vec<u8> {
    let mut message = vec![134, 0, 0, 0, 64, 0, 0, 0];
    message.extend([0; 8]);
    message.extend([3, 4, 64, 0xc0]);
    message.extend(3600_u32.to_be_bytes());
    message.extend(1800_u32.to_be_bytes());
    message.extend([0; 4]);
    message.extend(
        "2001:db8:aa::"
            .parse::<std::net::Ipv6Addr>()
            .unwrap()
            .octets(),
    );
    message
}

#[test]
fn neighbours_and_routers_are_found_and_duplicate_addresses_seen() {
    let Some(lab) = Lab::new() else { return };
    lab.gateway
        .ip(&[
            "addr flush dev lan0 scope link",
            "addr add fe80::1/64 dev lan0",
            "addr add 2001:db8:1::77/64 dev lan0",
        ])
        .unwrap();
    let daemon = daemon(&lab, &lab.host);
    let wire = ["ff02::2", "ff02::1:ff00:1", "ff02::1:ff00:77", "ff02::1"];
    let meter = Meter::start(&lab.gateway, "lan0", &wire);
    // Neighbour solicitation to ff02::1:ff00:1.
    lab.host.ip(&["neigh flush dev eth0"]).unwrap();
    let before = meter.seen("ff02::1:ff00:1");
    assert!(ping(&lab.host, "2001:db8:1::1"));
    assert!(meter.seen("ff02::1:ff00:1") > before);
    // Router solicitation, and what all nodes hear.
    send(&lab.host, "eth0", "ff02::2", &[133, 0, 0, 0, 0, 0, 0, 0]);
    send(&lab.host, "eth0", "ff02::1", &[128, 0, 0, 0, 0, 1, 0, 1]);
    eventually("both arrive", || {
        (meter.seen("ff02::2") > 0 && meter.seen("ff02::1") > 0).then_some(())
    });
    // Router advertisement from fe80::1 to ff02::1.
    set(&lab.host, "eth0/accept_ra", "2");
    eventually("the host takes the prefix", || {
        send(&lab.gateway, "lan0", "ff02::1", &advertisement());
        addresses(&lab.host).contains("2001:db8:aa:").then_some(())
    });
    // Duplicate address detection, from :: to ff02::1:ff00:77.
    set(&lab.host, "eth0/accept_dad", "1");
    lab.host
        .ip(&["addr add 2001:db8:1::77/64 dev eth0"])
        .unwrap();
    eventually("the duplicate is seen", || {
        addresses(&lab.host).contains("dadfailed").then_some(())
    });
    assert_eq!(counter(&lab.host, "queued"), 0);
    assert!(daemon.status()["protected"].as_bool().unwrap());
}
