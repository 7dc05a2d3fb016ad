//! TCP connections with ports that were used a moment ago, and SYNs that are sent again.

use std::fs;

use feedgate::demo::Netns;

use crate::support::{Alerts, Conf, Daemon, Lab, counter, counter_in, eventually, nft, web};

#[test]
fn the_next_connection_with_the_same_ports_is_named_too() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let alerts = Alerts::listen(&lab);
    let conf =
        Conf::new(&lab)
            .alerts(&alerts)
            .feed("watch", "alert", &["203.0.113.1", "2001:db8:bad::1"]);
    let _daemon = Daemon::start(&lab, &lab.host, &conf);

    let mut pids = Vec::new();
    for address in ["203.0.113.1", "[2001:db8:bad::1]"] {
        for _ in 0..3 {
            only_port(&lab.host, 20_000);
            pids.push(eventually("the port is free again", || {
                let mut curl = lab.host.command("curl");
                let mut curl = curl
                    .args(["-sS", "-o", "/dev/null", &format!("http://{address}/")])
                    .spawn()
                    .unwrap();
                let pid = curl.id().to_string();
                curl.wait().unwrap().success().then_some(pid)
            }));
        }
    }
    let all = eventually("an alert for each connection", || {
        Some(alerts.all()).filter(|all| all.len() >= pids.len())
    });
    for pid in &pids {
        let named = all.iter().any(|alert| alert.get("pid") == pid);
        assert!(named, "{pid} of {pids:?} is missing: {all:#?}");
    }
    assert!(all.iter().all(|alert| alert.get("spt") == "20000"));
}

#[test]
fn a_syn_that_is_sent_again_is_asked_about_once() {
    let Some(lab) = Lab::new() else { return };
    let alerts = Alerts::listen(&lab);
    let conf = Conf::new(&lab)
        .alerts(&alerts)
        .feed("watch", "alert", &["203.0.113.1"])
        .feed("block", "deny", &["203.0.113.2"]);
    let _daemon = Daemon::start(&lab, &lab.host, &conf);
    // Nobody answers, so that the kernel sends the SYN again and again.
    nft(
        &lab.server,
        &["add table ip mute; add counter ip mute syns; \
             add chain ip mute in { type filter hook prerouting priority -300; }; \
             add rule ip mute in ip daddr 203.0.113.1 counter name syns drop"],
    );
    let mut clients = ["203.0.113.1", "203.0.113.2"].map(|address| {
        let mut bash = lab.host.command("bash");
        let script = format!("exec 3<>/dev/tcp/{address}/80");
        bash.args(["-c", &script]).spawn().unwrap()
    });
    eventually("the SYN is sent again", || {
        (counter_in(&lab.server, ["ip", "mute"], "syns") >= 2).then_some(())
    });
    let repeated = || counter(&lab.host, "denied_repeat") >= 1;
    eventually("the denied one too", || repeated().then_some(()));
    for client in &mut clients {
        client.kill().unwrap();
        client.wait().unwrap();
    }
    for address in ["203.0.113.1", "203.0.113.2"] {
        let count = alerts
            .all()
            .iter()
            .filter(|a| a.get("dst") == address)
            .count();
        assert_eq!(count, 1, "{address}");
    }
}

/// Leaves one port for connections, free again a second after it was used.
fn only_port(netns: &Netns, port: u16) {
    let write = || {
        fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "1")?;
        let range = "/proc/sys/net/ipv4/ip_local_port_range";
        fs::write(range, format!("{port} {port}"))
    };
    netns.enter(write).unwrap().unwrap();
}
