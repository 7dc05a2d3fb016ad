//! Floods and scans: whatever is folded, held back or judged by the kernel alone, the numbers told add
//! up to the flows there were.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, UdpSocket},
};

use feedgate::demo::Netns;

use crate::support::{Alert, Alerts, Conf, Daemon, Lab, RawSender, counter, eventually};

/// The numbers of all lines that a test got.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sums {
    /// Lines of alerts.
    alerts: u64,
    /// Flows in alerts and summaries.
    flows: u64,
    /// Flows over the rate limit.
    held_back: u64,
    /// Packets that the kernel judged alone.
    unattributed: u64,
    lost: u64,
}

impl Sums {
    fn of(alerts: &Alerts) -> Self {
        let mut sums = Self::default();
        for alert in alerts.all() {
            let count: u64 = alert.get("count").parse().unwrap();
            match (alert.get("id"), alert.get("cause")) {
                ("", cause) if cause.starts_with("flows over rate-limit") => {
                    sums.held_back += count
                }
                ("", cause) if cause.contains("without attribution") => sums.unattributed += count,
                ("", _) => sums.lost += count,
                _ => {
                    sums.alerts += 1;
                    sums.flows += count;
                }
            }
        }
        sums
    }
}

/// Sends a datagram to each address at each of some ports. Gives the sockets, which must not close
/// before their packets are judged.
#[must_use]
fn send(netns: &Netns, to: &[IpAddr], ports: std::ops::Range<u16>) -> Vec<UdpSocket> {
    // What waits in a queue counts for its socket, which waits when that is too much.
    const ONE_SOCKET: u16 = 100;
    let work = || {
        let mut sockets = Vec::new();
        for port in ports {
            if sockets.is_empty() || port.is_multiple_of(ONE_SOCKET) {
                sockets.push(UdpSocket::bind("0.0.0.0:0").unwrap());
            }
            let socket = sockets.last().unwrap();
            for &address in to {
                // A drop on output is an error for the sender.
                let _ = socket.send_to(b"x", (address, port));
            }
        }
        sockets
    };
    netns.enter(work).unwrap()
}

/// Flows that were denied by the daemon, and packets that the kernel dropped without it.
fn denied(netns: &Netns) -> (u64, u64) {
    (
        counter(netns, "denied"),
        counter(netns, "denied_unattributed"),
    )
}

fn hosts(count: u8) -> Vec<IpAddr> {
    (1..=count)
        .map(|n| Ipv4Addr::new(203, 0, 113, n).into())
        .collect()
}

fn listed(hosts: &[IpAddr]) -> Vec<String> {
    hosts.iter().map(ToString::to_string).collect()
}

/// Stops the daemon, so that all is told, and holds the law for what it and the kernel counted.
fn settle(lab: &Lab, daemon: Daemon<'_>, alerts: &Alerts, sent: u64) -> (Sums, serde_json::Value) {
    eventually("every packet is counted by the kernel", || {
        let (flows, unattributed) = denied(&lab.host);
        (flows + unattributed + counter(&lab.host, "denied_repeat") == sent).then_some(())
    });
    let status = daemon.status();
    daemon.stop();
    let (flows, unattributed) = denied(&lab.host);
    let sums = eventually("the numbers told add up to the flows", || {
        let sums = Sums::of(alerts);
        (sums.flows + sums.held_back == flows && sums.unattributed == unattributed).then_some(sums)
    });
    assert_eq!(sums.lost, 0, "{sums:?}");
    let counted = &status["last_hour"]["denied"];
    assert_eq!(*counted, flows, "by the daemon, {sums:?}");
    (sums, status)
}

#[test]
fn a_scan_of_one_process_is_twenty_alerts_and_a_list() {
    let Some(lab) = Lab::new() else { return };
    let hosts = hosts(254);
    let lines = listed(&hosts);
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let conf = Conf::new(&lab)
        .alerting("suppress = \"1h\"")
        .feed("block", "deny", &lines);
    let (alerts, daemon) = Daemon::alerting(&lab, &lab.host, conf);
    let _open = send(&lab.host, &hosts, 9..15);
    let (sums, status) = settle(&lab, daemon, &alerts, 254 * 6);
    // One alert and one summary of repeats for each of the first indicators, one of the scan. While this
    // process forks, its child holds the socket too, and flows that wait too long on a busy machine are
    // known by their user: those are sources of their own.
    let all = alerts.all();
    let mut by_source: BTreeMap<(&str, &str), Vec<&Alert>> = BTreeMap::new();
    for alert in &all {
        let source = (alert.get("attribution"), alert.get("pid"));
        by_source.entry(source).or_default().push(alert);
    }
    for alerts in by_source.values() {
        assert!(alerts.len() <= 41, "{sums:?} {alerts:#?}");
    }
    let is_scan = |alert: &&Alert| alert.line.contains(", scan of ");
    let scans: Vec<&Alert> = all.iter().filter(is_scan).collect();
    let text = ", scan of more than 64 further indicators";
    let scan = scans.iter().find(|scan| scan.line.contains(text));
    let scan = scan.unwrap_or_else(|| panic!("{scans:?}"));
    scan.assert(&[("action", "deny"), ("feed", "block"), ("uid", "0")]);
    let source = (scan.get("attribution"), scan.get("pid"));
    let others = by_source[&source]
        .iter()
        .filter(|alert| !alert.line.contains(", scan of "));
    let alone: BTreeSet<&str> = others.map(|alert| alert.get("indicator")).collect();
    assert_eq!(alone.len(), 20, "{alone:?}");
    let listed = scan.get("indicator").strip_suffix(",...");
    let listed: Vec<&str> = listed.unwrap().split(',').collect();
    let different: BTreeSet<&str> = listed.iter().copied().collect();
    assert_eq!(different.len(), listed.len(), "{listed:?}");
    assert!(different.is_disjoint(&alone), "{listed:?}");
    assert!(!scan.get("first").is_empty() && !scan.get("last").is_empty());
    let count = |alert: &&Alert| alert.get("count").parse::<u64>().unwrap();
    let scanned: u64 = scans.iter().map(count).sum();
    assert_eq!(status["suppressed"]["scans"], scanned);
    assert!(scanned > sums.flows / 2, "{scanned} of {sums:?}");
}

#[test]
fn a_flood_from_many_sources_is_held_back_by_number() {
    let Some(lab) = Lab::new() else { return };
    let alerts = Alerts::listen(&lab);
    let sources: Vec<Ipv4Addr> = (0..150).map(|n| Ipv4Addr::new(198, 18, 0, n)).collect();
    let lines: Vec<String> = sources.iter().map(ToString::to_string).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let conf = Conf::new(&lab)
        .alerts(&alerts)
        .alerting("suppress = \"1h\"\nrate-limit = 5")
        .feed("block", "deny", &lines);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let raw = RawSender::v4(&lab.server);
    let to: IpAddr = "192.0.2.2".parse().unwrap();
    let rounds = 4;
    for port in 0..rounds {
        for source in &sources {
            raw.send(to, &datagram(*source, 5000 + port)).unwrap();
        }
    }
    let sent = u64::from(rounds) * u64::try_from(sources.len()).unwrap();
    let (sums, status) = settle(&lab, daemon, &alerts, sent);
    assert!(sums.held_back > 0, "{sums:?}");
    let held = status["suppressed"]["held_back"].as_u64().unwrap();
    assert!(held > 0 && held <= sums.held_back, "{held} before {sums:?}");
    let told = alerts.all();
    let told: Vec<&str> = told.iter().map(|alert| alert.get("cause")).collect();
    let row = "flows over rate-limit denied: feed block, indicator 198.18.0.";
    assert!(told.iter().any(|cause| cause.starts_with(row)), "{told:?}");
}

#[test]
fn made_up_sources_are_a_few_lines_and_cost_an_outgoing_alert_nothing() {
    const SENT: u32 = 20_000;
    const PORT: u16 = 100;
    let Some(lab) = Lab::new() else { return };
    let (json, flows) = (lab.path("alerts.json"), lab.path("flows.json"));
    let conf = Conf::new(&lab)
        .json_file(&json)
        .alerting(&format!(
            "suppress = \"1h\"\nflow-log = \"{}\"",
            flows.display()
        ))
        .feed("block", "deny", &["198.18.0.0/15", "203.0.113.1"]);
    let (alerts, daemon) = Daemon::alerting(&lab, &lab.host, conf);
    let raw = RawSender::v4(&lab.server);
    let to: IpAddr = "192.0.2.2".parse().unwrap();
    // Each a source of its own, all over the network.
    let storm = |numbers: std::ops::Range<u32>| {
        for n in numbers {
            let source = Ipv4Addr::from(0xc612_0000 + n * 6);
            raw.send(to, &datagram(source, PORT)).unwrap();
        }
    };
    storm(0..SENT / 2);
    let _open = send(&lab.host, &hosts(1), 9..10);
    storm(SENT / 2..SENT);
    alerts.wait(&[("direction", "egress"), ("dst", "203.0.113.1")]);
    let stored = eventually("what goes out is stored", || {
        let list = daemon.ok(&[
            "alerts", "list", "--json", "--feed", "block", "--limit", "0",
        ]);
        list.contains("203.0.113.1").then_some(list)
    });
    let stored: Vec<serde_json::Value> = serde_json::from_str(&stored).unwrap();
    assert!(stored.len() <= 50, "{}", stored.len());
    let (sums, status) = settle(&lab, daemon, &alerts, u64::from(SENT) + 1);
    // Twenty of each receiver, which may look different while the queue is full, and the summaries.
    assert!(sums.alerts <= 50, "{sums:?}");
    let floods: Vec<Alert> = alerts
        .all()
        .into_iter()
        .filter(|alert| !alert.get("sources").is_empty())
        .collect();
    let number = |alert: &Alert, key: &str| alert.get(key).parse::<u64>().unwrap();
    let flood = floods.iter().max_by_key(|alert| number(alert, "count"));
    let flood = flood.expect("a summary of the flood");
    flood.assert(&[
        ("action", "deny"),
        ("direction", "ingress"),
        ("indicator", "198.18.0.0/15"),
    ]);
    let (sources, count) = (number(flood, "sources"), number(flood, "count"));
    assert!(sources.abs_diff(count) <= count / 10, "{}", flood.line);
    assert!(flood.line.contains(", flood from "), "{}", flood.line);
    let floods: u64 = floods.iter().map(|alert| number(alert, "count")).sum();
    assert!(status["suppressed"]["floods"].as_u64().unwrap() <= floods);
    // The files: as few lines, and the flow log adds up, whatever came too fast for it.
    let lines = |path: &std::path::Path| -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    assert!(lines(&json).len() <= 60, "{}", lines(&json).len());
    let logged = lines(&flows);
    assert!(logged.len() <= 200, "{}", logged.len());
    let sum = |line: &serde_json::Value| line["num_flows"].as_u64().unwrap();
    let (seen, _) = denied(&lab.host);
    assert_eq!(logged.iter().map(sum).sum::<u64>(), seen);
    let out = logged.iter().find(|line| line["direction"] == "egress");
    assert_eq!(out.unwrap()["dst"], "203.0.113.1");
}

/// A UDP datagram to 192.0.2.2, port 9.
fn datagram(from: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 29, 0, 7, 0, 0, 64, 17, 0, 0];
    packet.extend(from.octets());
    packet.extend([192, 0, 2, 2]);
    packet.extend(port.to_be_bytes());
    packet.extend([0, 9, 0, 9, 0, 0, b'x']);
    packet
}

/// A small queue that stands still for a moment overflows and is then far behind: most of a flood is
/// folded by user, what did not fit is counted by the kernel.
#[test]
fn a_flood_of_one_indicator_is_folded_when_the_queue_fills_up() {
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab)
        .nftables("queue-max-len = 2048")
        .alerting("suppress = \"1h\"")
        .feed("block", "deny", &["203.0.113.1"]);
    let (alerts, daemon) = Daemon::alerting(&lab, &lab.host, conf);
    daemon.freeze();
    let _open = send(&lab.host, &hosts(1), 1..2501);
    daemon.signal(nix::sys::signal::Signal::SIGCONT);
    let (sums, status) = settle(&lab, daemon, &alerts, 2500);
    assert_eq!(sums.unattributed, 2500 - 2048);
    assert!(sums.alerts <= 8, "{sums:?}");
    let folded = status["packets"]["folded"].as_u64().unwrap();
    assert!(folded > 1000, "{folded}");
    let all = alerts.all();
    let by_user = all
        .iter()
        .find(|alert| alert.get("cause").starts_with("more new flows"));
    by_user.unwrap().assert(&[
        ("attribution", "unknown"),
        ("uid", "0"),
        ("method", "nfqa-uid"),
    ]);
    let pid = std::process::id().to_string();
    assert!(
        all.iter().any(|alert| alert.get("pid") == pid),
        "the process is named"
    );
}
