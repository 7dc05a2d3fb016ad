//! Flows that are established when a feed begins, or ceases, to list their far end.

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    process::Stdio,
    time::{Duration, Instant},
};

use feedgate::demo::Netns;

use crate::support::{
    Alert, Alerts, Conf, Daemon, HOST_MAC, Lab, PATIENCE, connect, echo, eventually,
};

/// Sends every byte back, to everybody, on port 7 of `netns`; ends with the test process.
pub(crate) fn echo_tcp(netns: &Netns) {
    let listener = netns
        .enter(|| TcpListener::bind("[::]:7"))
        .unwrap()
        .unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let (mut from, mut to) = (stream.try_clone().unwrap(), stream);
                let _ = std::io::copy(&mut from, &mut to);
            });
        }
    });
}

/// True when a byte comes back, for which it waits long: what was cut for a while goes on with the
/// retransmission that is due, and the pauses between them double.
pub(crate) fn alive(stream: &mut TcpStream) -> bool {
    answers_within(stream, PATIENCE)
}

/// True when no byte comes back within a second.
pub(crate) fn silent(stream: &mut TcpStream) -> bool {
    !answers_within(stream, Duration::from_secs(1))
}

fn answers_within(stream: &mut TcpStream, limit: Duration) -> bool {
    stream.set_read_timeout(Some(limit)).unwrap();
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut [0]).is_ok()
}

/// Fails the test unless this process is named. The daemon looks flows up for half a second; where a
/// machine is so busy that this is over, the alert must say so.
#[track_caller]
fn assert_mine(alert: &Alert) {
    if alert
        .get("cause")
        .starts_with("too many live flows at once")
    {
        println!("a busy machine: {}", alert.line);
    } else {
        alert.assert(&[("pid", &std::process::id().to_string())]);
    }
}

/// Replaces a feed's list and has it pulled.
fn relist(lab: &Lab, daemon: &Daemon<'_>, feed: &str, lines: &[&str]) {
    fs::write(lab.path(&format!("{feed}.txt")), lines.join("\n") + "\n").unwrap();
    daemon.ok(&["refresh", feed]);
}

/// Many enough that one address more or less is no loss that the daemon holds back.
const OTHERS: [&str; 12] = [
    "198.18.0.1",
    "198.18.0.3",
    "198.18.0.5",
    "198.18.0.7",
    "198.18.0.9",
    "198.18.0.11",
    "198.18.0.13",
    "198.18.0.15",
    "198.18.0.17",
    "198.18.0.19",
    "198.18.0.21",
    "2001:db8:bad::77",
];

fn conf(lab: &Lab, alerts: &Alerts) -> Conf {
    Conf::new(lab)
        .alerts(alerts)
        .feed("block", "deny", &OTHERS)
        .feed("watch", "alert", &OTHERS)
}

/// On a machine with nothing else to do; how long it took is printed.
#[test]
fn a_stream_to_an_address_that_is_denied_later_is_cut_within_a_second() {
    let Some(lab) = Lab::new() else { return };
    let alerts = Alerts::listen(&lab);
    echo_tcp(&lab.server);
    let daemon = Daemon::start(&lab, &lab.host, &conf(&lab, &alerts));
    let open = |address: &str| connect(&lab.host, address).unwrap();
    let mut denied = open("203.0.113.1:7");
    let mut denied6 = open("[2001:db8:bad::1]:7");
    let mut watched = open("203.0.113.2:7");
    let mut unrelated = open("203.0.113.200:7");
    let streams = [&mut denied, &mut denied6, &mut watched, &mut unrelated];
    assert!(streams.into_iter().all(alive));

    let start = Instant::now();
    let more = [&OTHERS[..], &["203.0.113.0/30", "2001:db8:bad::1"]].concat();
    relist(&lab, &daemon, "block", &more);
    let found = eventually("the cut is alerted", || {
        let alerts = alerts.all();
        alerts
            .into_iter()
            .find(|alert| alert.get("dst") == "203.0.113.1")
    });
    found.assert(&[
        ("action", "deny"),
        ("method", "live-flow"),
        ("direction", "egress"),
        ("feed", "block"),
        ("indicator", "203.0.113.0/30"),
        ("dpt", "7"),
        ("spt", &denied.local_addr().unwrap().port().to_string()),
    ]);
    assert_mine(&found);
    alerts.wait(&[("dst", "2001:db8:bad::1"), ("method", "live-flow")]);
    println!("cut and alerted after {:?}", start.elapsed());
    eventually("both are cut", || {
        (daemon.status()["packets"]["cut_flows"] == 3).then_some(())
    });
    let aborted = Some(ErrorKind::ConnectionAborted);
    eventually("its process is told, where the kernel can", || {
        let error = denied.take_error().unwrap();
        let cannot = daemon.output().contains("cut flows are not ended");
        (error.map(|error| error.kind()) == aborted || cannot).then_some(())
    });
    assert!(silent(&mut denied) && silent(&mut denied6));
    assert!(alive(&mut unrelated));
}

#[test]
fn a_stream_to_an_address_that_is_watched_later_is_alerted_and_goes_on() {
    let Some(lab) = Lab::new() else { return };
    let alerts = Alerts::listen(&lab);
    echo_tcp(&lab.server);
    let daemon = Daemon::start(&lab, &lab.host, &conf(&lab, &alerts));
    let mut watched = connect(&lab.host, "203.0.113.2:7").unwrap();
    let mut unrelated = connect(&lab.host, "203.0.113.200:7").unwrap();
    assert!(alive(&mut watched) && alive(&mut unrelated));
    relist(
        &lab,
        &daemon,
        "watch",
        &[&OTHERS[..], &["203.0.113.2"]].concat(),
    );
    let alert = alerts.wait(&[("dst", "203.0.113.2"), ("method", "live-flow")]);
    alert.assert(&[("action", "alert")]);
    assert_mine(&alert);
    // A further change that does not concern it says nothing more about it.
    let _third = connect(&lab.host, "203.0.113.3:7").unwrap();
    relist(
        &lab,
        &daemon,
        "watch",
        &[&OTHERS[..], &["203.0.113.2", "203.0.113.3"]].concat(),
    );
    alerts.wait(&[("dst", "203.0.113.3"), ("method", "live-flow")]);
    assert!(alive(&mut watched) && alive(&mut unrelated));
    assert_eq!(alerts.all().len(), 2, "{:?}", alerts.all());
}

#[test]
fn a_forwarded_stream_is_cut_too() {
    let Some(lab) = Lab::new() else { return };
    let alerts = Alerts::listen(&lab);
    echo_tcp(&lab.server);
    let daemon = Daemon::start(&lab, &lab.gateway, &conf(&lab, &alerts));
    let mut denied = connect(&lab.host, "203.0.113.1:7").unwrap();
    assert!(alive(&mut denied));
    relist(
        &lab,
        &daemon,
        "block",
        &[&OTHERS[..], &["203.0.113.1"]].concat(),
    );
    let alert = alerts.wait(&[("dst", "203.0.113.1"), ("method", "live-flow")]);
    alert.assert(&[("src", "192.0.2.2"), ("action", "deny"), ("mac", HOST_MAC)]);
    eventually("it is cut", || silent(&mut denied).then_some(()));

    // The list shrinks again: what it cut goes on.
    relist(&lab, &daemon, "block", &OTHERS);
    assert!(alive(&mut denied));
}

#[test]
fn a_forwarded_stream_of_a_namespace_of_this_host_names_its_process() {
    let Some(lab) = Lab::new() else { return };
    let alerts = Alerts::listen(&lab);
    echo_tcp(&lab.server);
    let daemon = Daemon::start(&lab, &lab.gateway, &conf(&lab, &alerts));
    let mut command = lab.host.command("bash");
    command.args([
        "-c",
        "exec 3<>/dev/tcp/203.0.113.2/7; echo >&3; read -r <&3; echo open; read -r",
    ]);
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = pipes.spawn().unwrap();
    let mut line = String::new();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "open\n");
    let more = [&OTHERS[..], &["203.0.113.2"]].concat();
    relist(&lab, &daemon, "watch", &more);
    let alert = alerts.wait(&[("dst", "203.0.113.2"), ("method", "live-flow")]);
    alert.assert(&[
        ("src", "192.0.2.2"),
        ("mac", HOST_MAC),
        ("pid", &child.id().to_string()),
        ("comm", "bash"),
        ("attribution", "exact"),
    ]);
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[test]
fn an_inbound_flow_is_cut_and_down_lets_it_go() {
    let Some(lab) = Lab::new() else { return };
    let alerts = Alerts::listen(&lab);
    let _echo = echo(&lab.host, "192.0.2.2:53");
    let daemon = Daemon::start(&lab, &lab.host, &conf(&lab, &alerts));
    let socket = lab
        .server
        .enter(|| UdpSocket::bind("203.0.113.5:0"))
        .unwrap()
        .unwrap();
    socket.connect("192.0.2.2:53").unwrap();
    let wait = |limit| socket.set_read_timeout(Some(limit)).unwrap();
    let answered = || socket.send(b"hello").is_ok() && socket.recv(&mut [0; 16]).is_ok();
    wait(PATIENCE);
    assert!(answered() && answered());
    wait(Duration::from_millis(500));
    relist(
        &lab,
        &daemon,
        "block",
        &[&OTHERS[..], &["203.0.113.5"]].concat(),
    );
    let alert = alerts.wait(&[("src", "203.0.113.5"), ("method", "live-flow")]);
    alert.assert(&[("action", "deny"), ("direction", "ingress")]);
    assert_mine(&alert);
    eventually("it is cut", || (!answered()).then_some(()));
    daemon.ok(&["down"]);
    eventually("no bit is left", || answered().then_some(()));
    eventually("no mark is left", || {
        let mut command = lab.host.command("cat");
        let output = command.arg("/proc/self/net/nf_conntrack").output().unwrap();
        let table = String::from_utf8(output.stdout).unwrap();
        assert!(table.contains("203.0.113.5"), "{table}");
        (!table.contains("mark=134217728")).then_some(())
    });
}

#[test]
fn a_preview_shows_the_established_flows_it_would_touch() {
    let Some(lab) = Lab::new() else { return };
    let alerts = Alerts::listen(&lab);
    echo_tcp(&lab.server);
    let daemon = Daemon::start(&lab, &lab.host, &conf(&lab, &alerts));
    let mut stream = connect(&lab.host, "203.0.113.1:7").unwrap();
    assert!(alive(&mut stream));
    let more = [&OTHERS[..], &["203.0.113.1"]].concat();
    fs::write(lab.path("block.txt"), more.join("\n") + "\n").unwrap();

    let preview = daemon.ok(&["refresh", "block", "--dry-run", "--json"]);
    let preview: serde_json::Value = serde_json::from_str(&preview).unwrap();
    let flows = &preview[0]["flows"];
    assert_eq!(flows["count"], 1, "{preview}");
    let example = &flows["examples"][0];
    let port = stream.local_addr().unwrap().port();
    assert_eq!(
        example["flow"],
        format!("tcp 192.0.2.2:{port} -> 203.0.113.1:7")
    );
    assert_eq!(example["action"], "deny");
    assert_eq!(example["indicator"], "203.0.113.1");
    let said = daemon.ok(&["refresh", "block", "--dry-run"]);
    assert!(said.contains("would be cut"), "{said}");
    assert!(alive(&mut stream), "nothing was changed");
}
