//! Destinations that NAT rewrites: which end the alert names, and where its sender meant to go.

use std::{fs, net::UdpSocket};

use feedgate::demo::Netns;
use serde_json::{Value, json};

use crate::support::{Alerts, Conf, Daemon, Lab, connect, curl, echo, eventually, load, web};

/// Rewritten to [`LISTED`]: what a service address or a published port is to Docker and kube-proxy.
const SERVICE: &str = "198.18.0.80:8080";
const LISTED: &str = "203.0.113.1";

/// True where a queue must tell the connection of a packet (CONFIG_NETFILTER_NETLINK_GLUE_CT): Debian's
/// kernels do. Elsewhere what NAT did to a held packet may be known from its sender's socket only.
fn must_tell() -> bool {
    std::env::var_os("FEEDGATE_TEST_NATIVE_QUEUE").is_some()
}

fn rewrite(netns: &Netns, hook: &str, match_and_target: &str) {
    let rules = format!(
        "table ip nat {{ chain c {{ type nat hook {hook} priority -100; {match_and_target}; }}; }}"
    );
    load(netns, &rules);
}

#[test]
fn a_local_flow_says_where_it_meant_to_go() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let _echo = echo(&lab.server, "203.0.113.1:53");
    rewrite(
        &lab.host,
        "output",
        "ip daddr 198.18.0.80 tcp dport 8080 dnat to 203.0.113.1:80; \
         ip daddr 198.18.0.80 udp dport 8053 dnat to 203.0.113.1:53",
    );
    let alerts = Alerts::listen(&lab);
    let file = lab.path("alerts.json");
    let conf = Conf::new(&lab)
        .alerts(&alerts)
        .json_file(&file)
        .feed("watch", "alert", &[LISTED]);
    let _daemon = Daemon::start(&lab, &lab.host, &conf);

    let pid = std::process::id().to_string();
    let stream = connect(&lab.host, SERVICE).unwrap();
    let port = stream.local_addr().unwrap().port().to_string();
    let alert = alerts.wait(&[("spt", &port)]);
    alert.assert(&[
        ("dst", LISTED),
        ("dpt", "80"),
        ("natdst", "198.18.0.80"),
        ("natdpt", "8080"),
        ("pid", &pid),
    ]);
    match (alert.get("attribution"), alert.get("method")) {
        ("exact", "sock-diag") => {}
        ("likely", "local-end") if !must_tell() => {}
        _ => panic!("{}", alert.line),
    }
    let event = eventually("the event is in the file", || {
        let text = fs::read_to_string(&file).ok()?;
        serde_json::from_str::<Value>(text.lines().next()?).ok()
    });
    let ends = &event["destination"];
    assert_eq!(ends["ip"], json!(LISTED), "{event}");
    let before = json!({ "ip": "198.18.0.80", "port": 8080 });
    assert_eq!(ends["nat"], before, "{event}");

    // A datagram of a connected socket; the answer comes from where it was sent to.
    let socket = crate::support::exchange(&lab.host, "198.18.0.80:8053").unwrap();
    let port = socket.local_addr().unwrap().port().to_string();
    alerts.wait(&[("spt", &port)]).assert(&[
        ("dst", LISTED),
        ("dpt", "53"),
        ("natdst", "198.18.0.80"),
        ("natdpt", "8053"),
        ("pid", &pid),
    ]);
    // Nothing is said of a flow that nobody rewrites.
    let stream = connect(&lab.host, "203.0.113.1:80").unwrap();
    let port = stream.local_addr().unwrap().port().to_string();
    alerts.wait(&[("spt", &port)]).assert(&[
        ("natdst", ""),
        ("natdpt", ""),
        ("attribution", "exact"),
    ]);
}

#[test]
fn a_live_flow_says_where_it_meant_to_go_and_its_process_is_found() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    rewrite(
        &lab.host,
        "output",
        "ip daddr 198.18.0.80 tcp dport 8080 dnat to 203.0.113.1:80",
    );
    let conf = Conf::new(&lab).feed("watch", "alert", &["203.0.113.9"]);
    let (alerts, daemon) = Daemon::alerting(&lab, &lab.host, conf);
    let stream = connect(&lab.host, SERVICE).unwrap();
    let port = stream.local_addr().unwrap().port().to_string();
    fs::write(lab.path("watch.txt"), format!("203.0.113.9\n{LISTED}\n")).unwrap();
    daemon.ok(&["refresh", "watch"]);
    alerts.wait(&[("spt", &port)]).assert(&[
        ("method", "live-flow"),
        ("attribution", "exact"),
        ("pid", &std::process::id().to_string()),
        ("dst", LISTED),
        ("natdst", "198.18.0.80"),
        ("natdpt", "8080"),
    ]);
}

/// A published port: only connection tracking knows which address the listed host spoke to.
#[test]
fn an_inbound_flow_says_which_address_was_spoken_to() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.host);
    rewrite(
        &lab.host,
        "prerouting",
        "ip daddr 192.0.2.2 tcp dport 8080 redirect to :80",
    );
    let conf = Conf::new(&lab).feed("watch", "alert", &[LISTED]);
    let (alerts, _daemon) = Daemon::alerting(&lab, &lab.host, conf);
    let output = curl(
        &lab.server,
        &["--interface", LISTED, "http://192.0.2.2:8080/"],
    );
    assert_eq!(output.stdout, b"hello\n");
    let alert = alerts.wait(&[("src", LISTED)]);
    alert.assert(&[
        ("direction", "ingress"),
        ("dst", "192.0.2.2"),
        ("dpt", "80"),
        ("attribution", "exact"),
        ("method", "sock-diag-listener"),
        ("pid", &std::process::id().to_string()),
    ]);
    match (alert.get("natdst"), alert.get("natdpt")) {
        ("192.0.2.2", "8080") => {}
        ("", "") if !must_tell() => {
            println!("this kernel does not tell the connection of a held packet");
        }
        _ => panic!("{}", alert.line),
    }
}

/// A socket that is connected elsewhere is not blamed for what another one sent from its port.
#[test]
fn an_unconnected_socket_names_no_other_destination() {
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab).feed("watch", "alert", &[LISTED]);
    let (alerts, _daemon) = Daemon::alerting(&lab, &lab.host, conf);
    let socket = lab.host.enter(|| UdpSocket::bind("0.0.0.0:0"));
    let socket = socket.unwrap().unwrap();
    socket.send_to(b"x", (LISTED, 53)).unwrap();
    let port = socket.local_addr().unwrap().port().to_string();
    let alert = alerts.wait(&[("spt", &port)]);
    alert.assert(&[("natdst", ""), ("attribution", "exact")]);
}
