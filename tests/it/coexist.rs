//! Beside other tables: nothing of theirs changes, `down` leaves no trace; and a restart leaves no gap.

use feedgate::demo::Netns;
use nix::sys::signal::Signal;

use crate::support::{
    Conf, Daemon, Lab, Pace, Stream, connect, dropped, eventually, load, nft, web,
};

/// What Docker, firewalld and iptables-nft leave on a host: NAT, sets with flags, maps, compat matches' names.
const OTHERS: &str = r#"
table ip nat {
    chain DOCKER {
        iifname "docker0" counter return
        iifname != "docker0" tcp dport 8080 counter dnat to 172.17.0.2:80
    }
    chain POSTROUTING {
        type nat hook postrouting priority srcnat; policy accept;
        oifname != "docker0" ip saddr 172.17.0.0/16 counter masquerade
    }
    chain PREROUTING {
        type nat hook prerouting priority dstnat; policy accept;
        fib daddr type local counter jump DOCKER
    }
}
table ip filter {
    chain DOCKER-USER {
        counter return
    }
    chain FORWARD {
        type filter hook forward priority filter; policy accept;
        counter jump DOCKER-USER
        oifname "docker0" ct state related,established counter accept
    }
}
table inet firewalld {
    set trusted {
        type ipv4_addr
        flags interval
        elements = { 192.0.2.0/25, 198.51.100.7 }
    }
    set banned {
        type ipv4_addr
        flags timeout
        timeout 1d
        elements = { 198.18.0.9 }
    }
    set metered {
        type ipv4_addr . inet_service
        size 1024
        flags dynamic,timeout
        timeout 1m
    }
    map zones {
        type ifname : verdict
        elements = { "eth9" : accept }
    }
    chain filter_INPUT {
        type filter hook input priority filter + 10; policy accept;
        ct state { established, related } accept
        iifname vmap @zones
        ip saddr @trusted accept
        ip saddr @banned drop
        tcp dport 9 update @metered { ip saddr . tcp dport limit rate 3/second } accept
    }
}
table inet feedgate2 {
    comment "not ours"
    chain c {
        type filter hook output priority filter - 10; policy accept;
        meta mark 0x00000001 counter accept
    }
}
"#;

fn conf(lab: &Lab) -> Conf {
    Conf::new(lab)
        .feed("block", "deny", &["203.0.113.1", "198.18.0.0/15"])
        .feed("watch", "alert", &["203.0.113.2", "2001:db8:bad::2"])
}

/// The whole ruleset with handles, without counts; times that run are cut off.
fn everything(netns: &Netns) -> String {
    let listing = nft(netns, &["-a", "list", "ruleset"]);
    let lines = listing.lines().map(|line| {
        let (head, _) = line.split_once(" expires ").unwrap_or((line, ""));
        head.to_owned() + "\n"
    });
    lines.collect()
}

/// Rules of the real iptables-nft, where it is installed.
fn iptables(netns: &Netns) {
    for arguments in [
        "-A INPUT -p tcp --dport 22 -m comment --comment ssh -j ACCEPT",
        "-t mangle -A PREROUTING -p udp -j MARK --set-mark 0x1",
    ] {
        let mut command = netns.command("iptables-nft");
        let status = command.args(arguments.split(' ')).status();
        if !status.is_ok_and(|status| status.success()) {
            eprintln!("without iptables-nft: it is not installed");
            return;
        }
    }
}

#[test]
fn nothing_of_others_changes_and_down_leaves_no_trace() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    load(&lab.host, OTHERS);
    iptables(&lab.host);
    let before = everything(&lab.host);
    let without_ours = |listing: &str| {
        let start = listing.find("table inet feedgate {").unwrap();
        let end = start + listing[start..].find("\n}\n").unwrap() + 3;
        listing[..start].to_owned() + &listing[end..]
    };
    let daemon = Daemon::start(&lab, &lab.host, &conf(&lab));
    assert!(dropped(&lab.host, "203.0.113.1:80"));
    connect(&lab.host, "203.0.113.2:80").unwrap();
    assert_eq!(without_ours(&everything(&lab.host)), before, "installed");

    let more = conf(&lab).feed("more", "deny", &["203.0.113.3", "2001:db8:bad::/64"]);
    daemon.reload(&more.text());
    eventually("more is listed", || {
        nft(&lab.host, &["list", "table", "inet", "feedgate"])
            .contains("203.0.113.3")
            .then_some(())
    });
    assert_eq!(without_ours(&everything(&lab.host)), before, "changed");

    daemon.ok(&["down"]);
    assert_eq!(everything(&lab.host), before, "down");
}

#[test]
fn down_without_a_daemon_leaves_no_trace_either() {
    let Some(lab) = Lab::new() else { return };
    load(&lab.host, OTHERS);
    let before = everything(&lab.host);
    let dead = Daemon::start(&lab, &lab.host, &conf(&lab)).killed();
    dead.ok(&["down"]);
    assert_eq!(everything(&lab.host), before);
}

#[test]
fn a_restart_leaves_no_gap() {
    let Some(lab) = Lab::new() else { return };
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        for owner in ["owner = true", "owner = false"] {
            let conf = conf(&lab).nftables(owner);
            let mut first = Daemon::start(&lab, &lab.host, &conf);
            let stream = Stream::start(&lab, &["203.0.113.1"], 9, Pace::Steady);
            first.signal(signal);
            first.ended();
            let second = Daemon::start(&lab, &lab.host, &conf);
            stream.wait_for_more(300);
            let (sent, arrived) = stream.end();
            assert_eq!(arrived, 0, "of {sent} with {signal} and {owner}");
            second.ok(&["down"]);
        }
    }
}
