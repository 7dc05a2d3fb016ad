//! One process that floods, and others: it is counted, they are named.

use std::{
    fs::File,
    net::UdpSocket,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use feedgate::demo::Netns;

use crate::support::{Alert, Alerts, Conf, Daemon, Lab, eventually};

const FLOODED: &str = "203.0.113.1";
const OTHER: &str = "203.0.113.2";
/// Files that are open beside the sockets: to read where all of them lead takes longer than packets may
/// wait.
const FILES: usize = 15_000;
const SOCKETS: usize = 300;
/// Flows that others try until one of them was looked up while the flood goes on.
const TRIES: usize = 40;

/// Sockets of this process amid so many files that each takes long to be found.
struct Flood {
    sockets: Vec<UdpSocket>,
    _files: Vec<File>,
    sent: AtomicU64,
    stop: AtomicBool,
}

impl Flood {
    fn new(netns: &Netns) -> Self {
        // As many as this process may have: to raise that takes CAP_SYS_RESOURCE.
        let own = ["--pid", &std::process::id().to_string()];
        let mut hard = Command::new("prlimit");
        hard.args(["--nofile", "--noheadings", "--raw", "--output=HARD"])
            .args(own);
        let hard = String::from_utf8(hard.output().unwrap().stdout).unwrap();
        let hard = hard.trim();
        let mut raise = Command::new("prlimit");
        raise.arg(format!("--nofile={hard}:{hard}")).args(own);
        assert!(raise.status().unwrap().success());
        let most = hard.parse().unwrap_or(usize::MAX);
        assert!(most > FILES + SOCKETS + 100, "{hard} files are too few");
        let null = File::open("/dev/null").unwrap();
        let open = |count: usize| (0..count).map(|_| null.try_clone().unwrap());
        let mut files: Vec<File> = open(FILES / 3).collect();
        let sockets = netns.enter(|| {
            let socket = |_| UdpSocket::bind("0.0.0.0:0").unwrap();
            (0..SOCKETS).map(socket).collect()
        });
        files.extend(open(FILES / 3 * 2));
        Self {
            sockets: sockets.unwrap(),
            _files: files,
            sent: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        }
    }

    /// Ends it when this is dropped, also when a test fails.
    fn end(&self) -> End<'_> {
        End(&self.stop)
    }

    /// New flows without a pause, then 200 a second, from sockets whose numbers are not near each other.
    fn run(&self) {
        for at in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let socket = &self.sockets[at * 37 % SOCKETS];
            let port = u16::try_from(1 + at / SOCKETS).unwrap();
            // A drop on output is an error for the sender.
            let _ = socket.send_to(b"x", (FLOODED, port));
            self.sent.fetch_add(1, Ordering::Relaxed);
            if at >= SOCKETS {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Another process that sends one datagram and stays until it is dropped.
struct Sender(Child);

impl Sender {
    fn start(netns: &Netns) -> Self {
        let script = format!("exec 3<>/dev/udp/{OTHER}/9; echo x >&3; read -r _");
        let mut command = netns.command("bash");
        command.args(["-c", &script]).stdin(Stdio::piped());
        Self(command.stderr(Stdio::null()).spawn().unwrap())
    }

    fn alert(&self, alerts: &Alerts) -> Alert {
        let port = |alert: &Alert| alert.get("dst") == OTHER && alert.get("dpt") == "9";
        eventually("an alert of the other process", || {
            alerts.all().into_iter().rev().find(|alert| port(alert))
        })
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The number of flows whose source was not looked up.
fn folded(daemon: &Daemon<'_>) -> u64 {
    daemon.status()["packets"]["folded"].as_u64().unwrap()
}

#[test]
fn a_flood_that_is_slow_to_name_is_folded_and_others_are_named() {
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab).feed("block", "deny", &[FLOODED, OTHER]);
    let (alerts, daemon) = Daemon::alerting(&lab, &lab.host, conf);
    let flood = Flood::new(&lab.host);
    let senders = std::thread::scope(|scope| {
        let _end = flood.end();
        scope.spawn(|| flood.run());
        eventually("the flood is folded", || {
            (folded(&daemon) > 100).then_some(())
        });
        let before = folded(&daemon);
        let mut senders = Vec::new();
        let is_named = loop {
            let sender = Sender::start(&lab.host);
            let pid = sender.0.id().to_string();
            eventually("the other's flow is judged", || {
                let all = alerts.all();
                let theirs = all.iter().filter(|alert| alert.get("dst") == OTHER);
                (theirs.count() > senders.len()).then_some(())
            });
            let alert = sender.alert(&alerts);
            senders.push(sender);
            if alert.get("pid") == pid || senders.len() == TRIES {
                break alert.get("pid") == pid && alert.get("attribution") == "exact";
            }
        };
        assert!(is_named, "{:?}", senders.len());
        eventually("and the flood still is", || {
            (folded(&daemon) > before).then_some(())
        });
        senders.len()
    });
    let sent = flood.sent.load(Ordering::Relaxed) + u64::try_from(senders).unwrap();
    eventually("each flow has its alert", || {
        (u64::try_from(alerts.all().len()).unwrap() == sent).then_some(())
    });
    let status = daemon.status();
    assert_eq!(status["last_hour"]["denied"], sent);
    let all = alerts.all();
    let is_folded = |alert: &&Alert| alert.get("cause").starts_with("more new flows at once");
    let by_user = all.iter().filter(is_folded);
    assert_eq!(
        by_user.clone().count(),
        usize::try_from(folded(&daemon)).unwrap()
    );
    for alert in by_user {
        alert.assert(&[("attribution", "unknown"), ("uid", "0"), ("action", "deny")]);
    }
}

/// Who must be looked up for the verdict gets less time, and then what is set for unknown sources.
#[test]
fn a_flood_whose_verdict_depends_on_its_source_gets_less_time() {
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab)
        .feed("watch", "alert", &[FLOODED, OTHER])
        .key("labels = { feed = \"watch\" }");
    let (alerts, daemon) = Daemon::alerting(&lab, &lab.host, conf);
    let policy = "apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: default.never}
spec:
  selector: comm == 'never'
  types: [Egress]
  egress:
  - {action: Deny, destination: {selector: feed == 'watch'}}
  - {action: Pass}
";
    let output = daemon.ctl_with(&["apply", "-f", "-"], policy.as_bytes());
    assert!(output.status.success(), "{output:?}");
    let flood = Flood::new(&lab.host);
    std::thread::scope(|scope| {
        let _end = flood.end();
        scope.spawn(|| flood.run());
        eventually("some had less time", || {
            let all = alerts.all();
            let mut short = all.iter().filter(|alert| is_short(alert));
            short.nth(99).map(|_| ())
        });
    });
    let sent = flood.sent.load(Ordering::Relaxed);
    eventually("each flow has its alert", || {
        (u64::try_from(alerts.all().len()).unwrap() == sent).then_some(())
    });
    assert_eq!(folded(&daemon), 0, "none of them may be left out");
    for alert in alerts.all().iter().filter(|alert| is_short(alert)) {
        alert.assert(&[
            ("attribution", "unknown"),
            ("uid", "0"),
            ("action", "alert"),
        ]);
        let cause = "policies ask for what is not known of the source; on-daemon-down decides";
        assert!(alert.get("cause").ends_with(cause), "{alert:?}");
    }
}

fn is_short(alert: &Alert) -> bool {
    let cause = alert.get("cause");
    cause.starts_with("timeout after ")
        && cause.contains(": more new flows at once than can be looked up in time")
}
