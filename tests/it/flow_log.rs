//! The flow log: real flows, what they moved, and the levels of aggregation.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, UdpSocket},
    path::{Path, PathBuf},
    time::Duration,
};

use feedgate::demo::Netns;
use serde_json::{Value, json};

use crate::support::{
    Conf, Daemon, Lab, connect, echo, eventually, exchange, load, ping, unanswered,
};

/// IPv4 and UDP headers.
const UDP_HEADERS: u64 = 28;
/// What [`exchange`] sends.
const HELLO: u64 = 5;

/// A daemon on the host with a flow log, two feeds, and connections that are forgotten soon.
struct Logged<'a> {
    lab: &'a Lab,
    conf: Conf,
    daemon: Daemon<'a>,
}

impl<'a> Logged<'a> {
    fn start(lab: &'a Lab, aggregation: u8) -> Self {
        forget_soon(&lab.host);
        let conf = Conf::new(lab)
            .feed("watch", "alert", &["203.0.113.1", "203.0.113.2"])
            .feed("block", "deny", &["203.0.113.3"])
            .alerting(&format!("flow-log = \"{}\"", file(lab).display()))
            .alerting(&format!("flow-log-aggregation = {aggregation}"));
        let daemon = Daemon::start(lab, &lab.host, &conf);
        Self { lab, conf, daemon }
    }

    /// Waits until each flow has ended.
    #[track_caller]
    fn ended(&self, seen: u64) {
        eventually("every flow has ended", || {
            // A look at the table ends what is over: else the kernel takes its time.
            let mut cat = self.lab.host.command("cat");
            cat.arg("/proc/self/net/nf_conntrack").output().unwrap();
            let log = &self.daemon.status()["flow_log"];
            (log["seen"] == seen && log["open"] == 0).then_some(())
        });
    }

    /// Ends the interval.
    fn flush(&self) {
        self.daemon.reload(&self.conf.text());
    }

    #[track_caller]
    fn wait(&self, count: usize) -> Vec<Value> {
        wait(&file(self.lab), count)
    }
}

fn file(lab: &Lab) -> PathBuf {
    lab.path("flows.json")
}

/// Waits for so many lines.
#[track_caller]
fn wait(path: &Path, count: usize) -> Vec<Value> {
    eventually(&format!("{count} lines in {}", path.display()), || {
        let text = fs::read_to_string(path).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines: Vec<Value> = whole
            .lines()
            .map(|line| serde_json::from_str(line).expect(line))
            .collect();
        assert!(lines.len() <= count, "more than {count}: {lines:#?}");
        (lines.len() == count).then_some(lines)
    })
}

/// Connections that are over leave the table after a second instead of minutes.
fn forget_soon(netns: &Netns) {
    let write = || {
        for name in [
            "icmp_timeout",
            "udp_timeout",
            "udp_timeout_stream",
            "tcp_timeout_close",
            "tcp_timeout_close_wait",
            "tcp_timeout_fin_wait",
            "tcp_timeout_last_ack",
            "tcp_timeout_time_wait",
        ] {
            let path = format!("/proc/sys/net/netfilter/nf_conntrack_{name}");
            fs::write(&path, "1").unwrap_or_else(|e| panic!("{path}: {e}"));
        }
    };
    netns.enter(write).unwrap();
}

/// Answers one connection after another on port 7: a line for each line.
fn lines_back(netns: &Netns) {
    let listener = netns
        .enter(|| TcpListener::bind("[::]:7"))
        .unwrap()
        .unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut line = Vec::new();
                while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                    let _ = stream.write_all(&line);
                    line.clear();
                }
            });
        }
    });
}

/// Sends `length` bytes over a new connection and waits until they are back.
fn talk(netns: &Netns, address: &str, length: usize) -> std::net::TcpStream {
    let mut stream = connect(netns, address).unwrap();
    let mut text = vec![b'x'; length - 1];
    text.push(b'\n');
    stream.write_all(&text).unwrap();
    stream.read_exact(&mut text).unwrap();
    stream
}

fn number(line: &Value, key: &str) -> u64 {
    line[key]
        .as_u64()
        .unwrap_or_else(|| panic!("{key} in {line:#}"))
}

#[test]
fn each_flow_has_a_line_with_what_it_moved() {
    let Some(lab) = Lab::new() else { return };
    lines_back(&lab.server);
    let _echo = echo(&lab.server, "203.0.113.2:53");
    let log = Logged::start(&lab, 0);
    assert!(
        log.daemon
            .output()
            .contains("nf_conntrack_acct is switched on"),
        "{}",
        log.daemon.output()
    );

    // At once: nothing of it will follow.
    assert!(unanswered(&lab.host, "203.0.113.3:53"));
    let denied = log.wait(1).remove(0);
    for (key, value) in [
        ("verdict", json!("deny")),
        ("direction", json!("egress")),
        ("feed", json!(["block"])),
        ("indicator", json!("203.0.113.3")),
        ("dst", json!("203.0.113.3")),
        ("dpt", json!(53)),
        ("proto", json!("udp")),
        ("pid", json!(std::process::id())),
        ("num_flows", json!(1)),
        ("end_reason", json!("denied")),
        ("orig_bytes", Value::Null),
    ] {
        assert_eq!(denied[key], value, "{key} in {denied:#}");
    }

    const LENGTH: u64 = 10_000;
    let stream = talk(&lab.host, "203.0.113.1:7", 10_000);
    let port = stream.local_addr().unwrap().port();
    drop(stream);
    drop(exchange(&lab.host, "203.0.113.2:53").unwrap());
    assert!(ping(&lab.host, "203.0.113.1"));
    log.ended(4);
    let lines = log.wait(4);
    let of = |proto: &str| {
        let found = lines[1..].iter().find(|line| line["proto"] == proto);
        found.unwrap_or_else(|| panic!("no {proto} in {lines:#?}"))
    };

    let tcp = of("tcp");
    for (key, value) in [
        ("verdict", json!("alert")),
        ("feed", json!(["watch"])),
        ("src", json!("192.0.2.2")),
        ("spt", json!(port)),
        ("dst", json!("203.0.113.1")),
        ("dpt", json!(7)),
        ("attribution", json!("exact")),
        ("end_reason", json!("ended")),
    ] {
        assert_eq!(tcp[key], value, "{key} in {tcp:#}");
    }
    assert!(tcp["start"].as_str() <= tcp["end"].as_str());
    for way in ["orig", "reply"] {
        let packets = number(tcp, &format!("{way}_packets"));
        let headers = number(tcp, &format!("{way}_bytes")) - LENGTH;
        // 20 bytes each of IP and TCP, and at most 40 of TCP options.
        assert!(packets >= 3, "{tcp:#}");
        assert!(
            (40 * packets..=80 * packets).contains(&headers),
            "{headers} bytes of headers in {tcp:#}"
        );
    }

    let icmp = of("icmp");
    // ping sends 56 bytes behind 8 of ICMP.
    assert_eq!(number(icmp, "orig_bytes"), 20 + 8 + 56, "{icmp:#}");
    assert_eq!(number(icmp, "reply_packets"), 1, "{icmp:#}");

    let udp = of("udp");
    for way in ["orig", "reply"] {
        assert_eq!(number(udp, &format!("{way}_packets")), 1, "{udp:#}");
        let bytes = number(udp, &format!("{way}_bytes"));
        assert_eq!(bytes, UDP_HEADERS + HELLO, "{udp:#}");
    }
}

#[test]
fn a_forwarded_flow_that_nat_rewrites_is_followed_to_its_end() {
    let Some(lab) = Lab::new() else { return };
    let _echo = echo(&lab.server, "203.0.113.1:53");
    load(
        &lab.gateway,
        "table ip nat { \
             chain in { type nat hook prerouting priority -100; \
                 ip daddr 198.18.0.80 udp dport 8053 dnat to 203.0.113.1:53; }; \
             chain out { type nat hook postrouting priority 100; oifname wan0 masquerade; }; \
         }",
    );
    let conf = Conf::new(&lab)
        .feed("watch", "alert", &["203.0.113.1"])
        .alerting(&format!("flow-log = \"{}\"", file(&lab).display()));
    let daemon = Daemon::start(&lab, &lab.gateway, &conf);
    forget_soon(&lab.gateway);
    exchange(&lab.host, "198.18.0.80:8053").unwrap();
    let line = eventually("the flow has ended", || {
        let mut cat = lab.gateway.command("cat");
        cat.arg("/proc/self/net/nf_conntrack").output().unwrap();
        (daemon.status()["flow_log"]["written"] == 1).then(|| wait(&file(&lab), 1).remove(0))
    });
    assert_eq!(
        (&line["src"], &line["dst"]),
        (&json!("192.0.2.2"), &json!("203.0.113.1"))
    );
    assert_eq!(
        (&line["dpt"], &line["end_reason"]),
        (&json!(53), &json!("ended"))
    );
    assert_eq!(number(&line, "reply_bytes"), UDP_HEADERS + HELLO);
}

#[test]
fn a_flow_whose_end_goes_unseen_is_logged_all_the_same() {
    let Some(lab) = Lab::new() else { return };
    // Dropped behind feedgate's chains: there is never a connection.
    load(
        &lab.host,
        "table ip t { chain c { type filter hook output priority 50; udp dport 99 drop; }; }",
    );
    let log = Logged::start(&lab, 0);
    assert!(unanswered(&lab.host, "203.0.113.1:99"));
    // The connection of a younger flow may not be there yet: its packet may still be held.
    std::thread::sleep(Duration::from_secs(20));
    log.flush();
    let line = log.wait(1).remove(0);
    assert_eq!(
        (&line["end_reason"], &line["verdict"]),
        (&json!("gone"), &json!("alert"))
    );
    assert_eq!(line["orig_bytes"], Value::Null);
}

/// Three flows to one address, from three ports, one to another, and one that is denied.
fn five_flows(log: &Logged<'_>) {
    let host = &log.lab.host;
    let _sockets: Vec<UdpSocket> = (0..3)
        .map(|_| exchange(host, "203.0.113.1:53").unwrap())
        .collect();
    exchange(host, "203.0.113.2:53").unwrap();
    assert!(unanswered(host, "203.0.113.3:53"));
    log.ended(5);
    assert_eq!(fs::read_to_string(file(log.lab)).unwrap(), "", "not yet");
    log.flush();
}

#[test]
fn by_source_flows_are_summed_over_ports() {
    let Some(lab) = Lab::new() else { return };
    let _echos = ["203.0.113.1:53", "203.0.113.2:53"].map(|address| echo(&lab.server, address));
    let log = Logged::start(&lab, 1);
    five_flows(&log);
    let lines = log.wait(3);
    let to = |dst: &str| lines.iter().find(|line| line["dst"] == dst).unwrap();
    let three = to("203.0.113.1");
    assert_eq!(three["num_flows"], 3);
    assert_eq!(three["pid"], std::process::id());
    assert_eq!((&three["dpt"], &three["spt"]), (&json!(53), &Value::Null));
    for way in ["orig", "reply"] {
        let bytes = number(three, &format!("{way}_bytes"));
        assert_eq!(bytes, 3 * (UDP_HEADERS + HELLO), "{three:#}");
    }
    assert_eq!(to("203.0.113.2")["num_flows"], 1);
    let denied = to("203.0.113.3");
    assert_eq!(
        (&denied["verdict"], &denied["num_flows"]),
        (&json!("deny"), &json!(1))
    );
    assert_eq!(denied["num_uncounted"], 1);
}

#[test]
fn by_indicator_processes_are_summed_too() {
    let Some(lab) = Lab::new() else { return };
    let _echos = ["203.0.113.1:53", "203.0.113.2:53"].map(|address| echo(&lab.server, address));
    let log = Logged::start(&lab, 2);
    five_flows(&log);
    let lines = log.wait(3);
    let flows: u64 = lines.iter().map(|line| number(line, "num_flows")).sum();
    assert_eq!(flows, 5);
    for line in &lines {
        assert_eq!(line["uid"], 0, "{line:#}");
        for absent in ["pid", "src", "dst", "dpt", "proto"] {
            assert_eq!(line[absent], Value::Null, "{absent} in {line:#}");
        }
    }
}

#[test]
fn a_flow_that_goes_on_is_logged_at_the_end_of_the_log() {
    let Some(lab) = Lab::new() else { return };
    lines_back(&lab.server);
    let log = Logged::start(&lab, 0);
    let _stream = talk(&lab.host, "203.0.113.1:7", 1000);
    eventually("the flow is open", || {
        (log.daemon.status()["flow_log"]["open"] == 1).then_some(())
    });
    assert!(log.daemon.stop().success());
    let line = wait(&file(&lab), 1).remove(0);
    assert_eq!(line["end_reason"], "stopped");
    assert!(number(&line, "orig_bytes") > 1000, "{line:#}");
}

#[test]
fn a_reload_follows_a_rotation_and_another_level() {
    let Some(lab) = Lab::new() else { return };
    let log = Logged::start(&lab, 0);
    assert!(unanswered(&lab.host, "203.0.113.3:1"));
    log.wait(1);
    let old = lab.path("flows.json.1");
    fs::rename(file(&lab), &old).unwrap();
    log.flush();
    eventually("the file is there again", || {
        file(&lab).exists().then_some(())
    });
    assert!(unanswered(&lab.host, "203.0.113.3:2"));
    let line = log.wait(1).remove(0);
    assert_eq!(line["dpt"], 2);
    assert_eq!(wait(&old, 1)[0]["dpt"], 1);

    let conf = Conf::new(&lab)
        .feed("block", "deny", &["203.0.113.3"])
        .alerting(&format!("flow-log = \"{}\"", file(&lab).display()))
        .alerting("flow-log-aggregation = 2");
    log.daemon.reload(&conf.text());
    eventually("the level is another one", || {
        (log.daemon.status()["flow_log"]["aggregation"] == 2).then_some(())
    });
    assert!(unanswered(&lab.host, "203.0.113.3:3"));
    assert!(log.daemon.stop().success());
    let lines = wait(&file(&lab), 2);
    assert_eq!(
        (&lines[1]["dpt"], &lines[1]["num_flows"]),
        (&Value::Null, &json!(1))
    );
}
