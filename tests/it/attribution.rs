//! Who is named when it is hard: short-lived, shared, hidden, gone, and inside containers.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Stdio},
};

use feedgate::{attribution::Roots, demo::Netns};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{
    Alerts, Conf, Daemon, HOST_MAC, Lab, RawSender, connect, echo, eventually, feedgate, program,
    web,
};

/// Runs of each program in the test of short-lived processes; short_lived.rs measures a thousand.
const RUNS: usize = 100;

#[test]
fn every_short_lived_process_is_named_exactly() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let conf = Conf::new(&lab).feed("watch", "alert", &["203.0.113.1"]);
    let (alerts, _daemon) = Daemon::alerting(&lab, &lab.host, conf);

    let mut started = Vec::new();
    for run in 0..RUNS {
        for (step, (program, arguments)) in [
            ("bash", ["-c", "exec 3<>/dev/tcp/203.0.113.1/80"]),
            ("curl", ["-sS", "http://203.0.113.1/"]),
        ]
        .into_iter()
        .enumerate()
        {
            // A port of its own for each: a flow with the ports of an earlier one is allowed by
            // the kernel's own memory for up to a minute, without a question to the daemon.
            let port = 20_000 + 2 * run + step;
            only_port(&lab.host, port);
            let mut command = lab.host.command(program);
            let child = command.args(arguments).stdout(Stdio::null()).spawn();
            let mut child = child.unwrap();
            started.push((port, (program, child.id())));
            assert!(child.wait().unwrap().success());
        }
    }
    // The first of each port: a busy machine may send a SYN again, and ask about it again.
    let all = eventually("an alert for each", || {
        let mut first = BTreeMap::new();
        for alert in alerts.all() {
            first.entry(alert.get("spt").to_owned()).or_insert(alert);
        }
        (first.len() == started.len()).then_some(first)
    });
    for (port, (program, pid)) in started {
        let alert = &all[&port.to_string()];
        alert.assert(&[
            ("pid", &pid.to_string()),
            ("attribution", "exact"),
            ("comm", program),
        ]);
        let exe = alert.get("exe");
        assert!(exe.ends_with(&format!("/{program}")), "{}", alert.line);
    }
}

#[test]
fn a_process_that_ended_while_held_is_not_guessed() {
    let Some(lab) = Lab::new() else { return };
    let _echo = echo(&lab.server, "203.0.113.3:53");
    let conf = Conf::new(&lab).feed("watch", "alert", &["203.0.113.3"]);
    let (alerts, daemon) = Daemon::alerting(&lab, &lab.host, conf);

    daemon.freeze();
    let script = "echo hello > /dev/udp/203.0.113.3/53";
    let status = lab.host.command("bash").args(["-c", script]).status();
    assert!(status.unwrap().success());
    daemon.signal(Signal::SIGCONT);
    let alert = alerts.wait(&[("dst", "203.0.113.3")]);
    alert.assert(&[("attribution", "unknown"), ("pid", ""), ("uid", "0")]);
    assert_ne!(alert.get("cause"), "", "{}", alert.line);
}

#[test]
fn without_cap_sys_ptrace_the_flow_is_reported_and_the_cause_is_said_once() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let (alerts, daemon) = started_by(
        &lab,
        "exec setpriv --bounding-set -sys_ptrace --inh-caps -sys_ptrace",
    );

    for _ in 0..3 {
        let stream = connect(&lab.host, "203.0.113.1:80").unwrap();
        let port = stream.local_addr().unwrap().port().to_string();
        let alert = alerts.wait(&[("spt", &port)]);
        alert.assert(&[("attribution", "unknown"), ("pid", ""), ("uid", "0")]);
        let cause = alert.get("cause");
        assert!(cause.contains("CAP_SYS_PTRACE"), "{}", alert.line);
    }
    let said = daemon.output();
    assert_eq!(said.matches("CAP_SYS_PTRACE").count(), 1, "{said}");
}

/// By sock_diag where the kernel lists raw sockets so, else by /proc/net: what is said is the same.
#[test]
fn the_only_raw_socket_is_likely_and_of_two_none_is() {
    let Some(lab) = Lab::new() else { return };
    let feed = ["203.0.113.1", "203.0.113.2"];
    let conf = Conf::new(&lab).feed("watch", "alert", &feed);
    let (alerts, _daemon) = Daemon::alerting(&lab, &lab.host, conf);
    // An experimental protocol (RFC 3692), to hosts that need not answer.
    let packet = |last| {
        let mut packet = vec![0x45, 0, 0, 28, 0, 7, 0, 0, 64, 253, 0, 0];
        packet.extend([192, 0, 2, 2, 203, 0, 113, last]);
        packet.extend(*b"no ports");
        packet
    };
    let pid = std::process::id().to_string();

    let raw = RawSender::v4(&lab.host);
    raw.send("203.0.113.1".parse().unwrap(), &packet(1))
        .unwrap();
    let alert = alerts.wait(&[("dst", "203.0.113.1")]);
    alert.assert(&[
        ("proto", "253"),
        ("method", "raw-socket"),
        ("attribution", "likely"),
        ("pid", &pid),
        ("uid", "0"),
    ]);
    let _second = RawSender::v4(&lab.host);
    raw.send("203.0.113.2".parse().unwrap(), &packet(2))
        .unwrap();
    let alert = alerts.wait(&[("dst", "203.0.113.2")]);
    alert.assert(&[("attribution", "unknown"), ("pid", ""), ("uid", "0")]);
    assert!(alert.get("cause").contains("2 sockets"), "{}", alert.line);
}

#[test]
fn hidepid_leaves_the_user_and_a_cause() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let (alerts, _daemon) = started_by(
        &lab,
        "[ -z \"$HIDDEN\" ] && HIDDEN=1 exec unshare -m -- \"$0\" \"$@\"\n\
         mount -t proc -o hidepid=invisible,gid=54321 proc /proc || exit 3\n\
         exec setpriv --bounding-set -sys_ptrace --inh-caps -sys_ptrace",
    );

    connect(&lab.host, "203.0.113.1:80").unwrap();
    let alert = alerts.wait(&[("dst", "203.0.113.1")]);
    alert.assert(&[("attribution", "unknown"), ("pid", ""), ("uid", "0")]);
    assert!(alert.get("cause").contains("hidepid"), "{}", alert.line);
}

#[test]
fn the_right_container_behind_a_bridge_is_named_with_its_process() {
    let Some(lab) = Lab::new() else { return };
    let Some(groups) = Groups::create() else {
        return;
    };
    let _web = web(&lab.server);
    let conf = Conf::new(&lab).feed("watch", "alert", &["203.0.113.0/29"]);
    let (alerts, _daemon) = Daemon::alerting(&lab, &lab.gateway, conf);
    add_bridge(&lab);
    let ids = ["a", "b", "c"].map(|digit| digit.repeat(64));
    let pod = "3f2b1c9e-0d4e-4a55-9c3b-7f0e5d6a1b2c";
    let paths = [
        format!("docker/{}", ids[0]),
        format!("libpod_parent/libpod-{}", ids[1]),
        format!("kubepods/besteffort/pod{pod}/{}", ids[2]),
    ];
    let mut containers: Vec<Container> = (0..3)
        .map(|at| Container::start(&lab, at + 11, groups.add(&paths[at])))
        .collect();
    for (at, container) in containers.iter_mut().enumerate() {
        let target = format!("203.0.113.{}", at + 1);
        container.connect(&target);
        let mac = format!("00:00:5e:00:53:{}", at + 11);
        alerts.wait(&[("dst", &target)]).assert(&[
            ("attribution", "exact"),
            ("method", "netns-sock-diag"),
            ("pid", &container.child.id().to_string()),
            ("comm", "bash"),
            ("container", &ids[at]),
            ("pod", if at == 2 { pod } else { "" }),
            ("src", &format!("198.18.0.{}", at + 11)),
            ("iface", "cbr0"),
            ("mac", &mac),
        ]);
    }
}

#[test]
fn a_lan_client_has_the_name_of_the_configuration() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let conf = Conf::new(&lab)
        .section(&format!(
            "[attribution]\ntimeout = \"5s\"\nclients = {{ \"{HOST_MAC}\" = \"printer\" }}"
        ))
        .feed("watch", "alert", &["203.0.113.1"]);
    let (alerts, _daemon) = Daemon::alerting(&lab, &lab.gateway, conf);

    connect(&lab.host, "203.0.113.1:80").unwrap();
    alerts
        .wait(&[("dst", "203.0.113.1")])
        .assert(&[("client", "printer"), ("mac", HOST_MAC)]);
}

/// The next connection from `netns` has this port.
fn only_port(netns: &Netns, port: usize) {
    let range = "/proc/sys/net/ipv4/ip_local_port_range";
    netns
        .enter(|| fs::write(range, format!("{port} {port}")))
        .unwrap()
        .unwrap();
}

/// A daemon that watches 203.0.113.1, started by a program that does `lines`: the last of them runs it
/// with the arguments given.
fn started_by<'a>(lab: &'a Lab, lines: &str) -> (Alerts, Daemon<'a>) {
    let alerts = Alerts::listen(lab);
    let conf = Conf::new(lab)
        .alerts(&alerts)
        .feed("watch", "alert", &["203.0.113.1"]);
    let daemon = feedgate().display();
    let text = format!("#!/bin/sh\n{lines} {daemon} \"$@\"\n");
    let wrapper = program(lab, "wrapper", &text);
    (alerts, Daemon::start_as(&wrapper, lab, &lab.host, &conf))
}

/// The bridge of the containers.
pub(crate) fn add_bridge(lab: &Lab) {
    lab.gateway
        .ip(&[
            "link add cbr0 type bridge",
            "link set cbr0 up",
            "addr add 198.18.0.1/24 dev cbr0",
        ])
        .unwrap();
}

/// A shell in a network namespace and a cgroup of its own.
pub(crate) struct Container {
    child: Child,
    input: ChildStdin,
    _netns: Netns,
}

impl Container {
    /// Behind the bridge `cbr0` of the gateway, as 198.18.0.`last`.
    pub(crate) fn start(lab: &Lab, last: usize, group: PathBuf) -> Self {
        let netns = Netns::create(format!("{}-{last}", lab.gateway.name())).unwrap();
        let port = format!("port{last}");
        lab.gateway.link(&port, &netns, "eth0").unwrap();
        lab.gateway
            .ip(&[&format!("link set {port} master cbr0")])
            .unwrap();
        netns
            .ip(&[
                &format!("link set eth0 address 00:00:5e:00:53:{last}"),
                &format!("addr add 198.18.0.{last}/24 dev eth0"),
                "route add default via 198.18.0.1",
            ])
            .unwrap();
        // Replies find their way.
        let _ = lab.server.ip(&["route add 198.18.0.0/24 via 198.51.100.1"]);
        let script =
            "echo $$ > \"$0\"; echo ready; while read -r ip; do exec 3<>/dev/tcp/$ip/80; done";
        let mut child = netns
            .command("bash")
            .args(["-c", script])
            .arg(group.join("cgroup.procs"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self {
            input: child.stdin.take().unwrap(),
            child,
            _netns: netns,
        }
    }

    pub(crate) fn connect(&mut self, ip: &str) {
        writeln!(self.input, "{ip}").unwrap();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Control groups below one of this test, removed on drop.
pub(crate) struct Groups {
    top: PathBuf,
    made: std::cell::RefCell<Vec<PathBuf>>,
}

impl Groups {
    pub(crate) fn create() -> Option<Self> {
        let top = Roots::default()
            .cgroup
            .join(format!("feedgate-it-{}", std::process::id()));
        if let Err(error) = fs::create_dir_all(&top) {
            eprintln!("skipped: no cgroup2 mount to write to: {error}");
            return None;
        }
        Some(Self {
            made: vec![top.clone()].into(),
            top,
        })
    }

    pub(crate) fn add(&self, path: &str) -> PathBuf {
        let mut group = self.top.clone();
        for part in Path::new(path) {
            group.push(part);
            let _ = fs::create_dir(&group); // there already: shared with another
            self.made.borrow_mut().push(group.clone());
        }
        group
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for group in self.made.borrow().iter().rev() {
            let _ = fs::remove_dir(group);
        }
    }
}

#[test]
fn the_json_event_tells_more_of_the_process_than_the_line() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let alerts = Alerts::listen(&lab);
    let file = lab.path("alerts.json");
    let conf =
        Conf::new(&lab)
            .alerts(&alerts)
            .json_file(&file)
            .feed("watch", "alert", &["203.0.113.1"]);
    let _daemon = Daemon::start(&lab, &lab.host, &conf);

    // A copy that is gone by the time it connects, and has one capability left.
    let copy = lab.path("bash");
    fs::copy("/bin/bash", &copy).unwrap();
    let script = format!(
        "rm {}; exec 3<>/dev/tcp/203.0.113.1/80; : \x1b[2J",
        copy.display()
    );
    let mut command = lab.host.command("setpriv");
    command.args([
        "--regid=65534",
        "--clear-groups",
        "--bounding-set=-all,+net_raw",
    ]);
    let mut child = command.arg(&copy).args(["-c", &script]).spawn().unwrap();
    assert!(child.wait().unwrap().success());
    let alert = alerts.wait(&[("dst", "203.0.113.1")]);
    alert.assert(&[("pid", &child.id().to_string()), ("attribution", "exact")]);
    let path = copy.display();
    alert.assert(&[("exe", &format!("{path} (deleted)"))]);
    let event = eventually("the event is in the file", || {
        let text = fs::read_to_string(&file).ok()?;
        serde_json::from_str::<serde_json::Value>(text.lines().next()?).ok()
    });
    let line = format!("{path} -c {script}");
    for (pointer, wanted) in [
        ("/process/pid", json!(child.id())),
        ("/process/executable", json!(path.to_string())),
        ("/process/command_line", json!(line)),
        ("/process/group/id", json!("65534")),
        ("/process/parent/pid", json!(std::process::id())),
        (
            "/process/thread/capabilities/effective",
            json!(["CAP_NET_RAW"]),
        ),
        ("/feedgate/exe_deleted", json!(true)),
    ] {
        assert_eq!(event.pointer(pointer), Some(&wanted), "{pointer}: {event}");
    }
    assert!(event.pointer("/process/start").unwrap().is_string());
    assert!(!fs::read_to_string(&file).unwrap().contains('\x1b'));
}
