//! What the real daemon says when it is unwell itself: status, metrics, probes, log.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::sys::{
    signal::Signal,
    stat::{Mode, SFlag, makedev, mknod},
};

use crate::support::{
    Alerts, Conf, Daemon, Halted, Lab, connect, curl, eventually, feedgate, nft, program, web,
};

const LISTEN: &str = "127.0.0.1:9797";
const SECTION: &str = "[metrics]\nlisten = \"127.0.0.1:9797\"";
const QUICK: &str = "[attribution]\ntimeout = \"50ms\"";
/// The watchdog's time, in microseconds as systemd says it: half of it is the longest turn of a queue thread.
const WATCHDOG: (&str, &str) = ("WATCHDOG_USEC", "8000000");

/// The status and the body of a page; `None` without an answer.
fn get(lab: &Lab, path: &str) -> Option<(u16, String)> {
    let output = curl(&lab.host, &["-i", &format!("http://{LISTEN}{path}")]);
    let text = String::from_utf8(output.stdout).unwrap();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

fn first_line(daemon: &Daemon<'_>) -> String {
    let text = daemon.ok(&["status"]);
    text.lines().next().unwrap_or_default().to_owned()
}

/// Whether the metric of this loop says that it does not answer.
fn stuck(lab: &Lab, name: &str) -> Option<bool> {
    let (_, text) = get(lab, "/metrics")?;
    let sample = format!("feedgate_loop_stuck{{loop=\"{name}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&sample))?;
    Some(value == "1")
}

fn problems(lab: &Lab) -> u64 {
    let (_, text) = get(lab, "/metrics").unwrap();
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix("feedgate_problems "));
    value.unwrap().parse().unwrap()
}

/// Lines of the log with these words.
fn said(daemon: &Daemon<'_>, words: &str) -> usize {
    daemon.output().matches(words).count()
}

#[test]
fn a_queue_thread_that_hangs_is_told_everywhere() {
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab)
        .section(QUICK)
        .section(SECTION)
        .feed("f", "alert", &["203.0.113.1"]);
    let daemon = Daemon::start_with(&lab, &lab.host, &conf, &[WATCHDOG]);
    assert!(first_line(&daemon).starts_with("PROTECTED  table "));
    assert_eq!(get(&lab, "/livez"), Some((200, "ok\n".into())));
    assert_eq!(stuck(&lab, "queue 4470"), Some(false));
    assert_eq!(problems(&lab), 0);

    let begin = Instant::now();
    let halted = Halted::of(daemon.pid(), "queue-4470");
    let line = eventually("status says so", || {
        let line = first_line(&daemon);
        (!line.starts_with("PROTECTED")).then_some(line)
    });
    // Its last turn was before the halt, by a fifth of a second at most.
    assert!(
        begin.elapsed() >= Duration::from_millis(1_500),
        "not before"
    );
    let wanted = "NOT PROTECTED  queue 4470 has not answered for ";
    assert!(line.starts_with(wanted), "{line}");
    let status = daemon.status();
    assert_eq!(status["protected"], false);
    assert_eq!(status["stuck"][0]["loop"], "queue 4470");
    assert_eq!(stuck(&lab, "queue 4470"), Some(true));
    assert!(problems(&lab) >= 1);
    let (code, body) = get(&lab, "/healthz").unwrap();
    assert_eq!(code, 503, "{body}");
    assert!(body.contains("queue 4470 has not answered"), "{body}");
    // A restart is the only help when the longest turn is over, and not before.
    let (code, body) = eventually("liveness gives it up", || {
        get(&lab, "/livez").filter(|(code, _)| *code == 503)
    });
    assert!(
        body.starts_with("queue 4470 has not answered"),
        "{code} {body}"
    );
    assert!(begin.elapsed() >= Duration::from_secs(3), "not before");
    assert_eq!(get(&lab, "/readyz").unwrap().0, 200);

    drop(halted);
    eventually("all is well again", || {
        first_line(&daemon)
            .starts_with("PROTECTED  table ")
            .then_some(())
    });
    assert_eq!(get(&lab, "/livez"), Some((200, "ok\n".into())));
    assert_eq!(get(&lab, "/healthz"), Some((200, "ok\n".into())));
    assert_eq!(stuck(&lab, "queue 4470"), Some(false));
    for line in [
        "queue 4470 has not answered for",
        "queue 4470 answers again",
    ] {
        assert_eq!(said(&daemon, line), 1, "{}", daemon.output());
    }
}

#[test]
fn standing_still_is_said_and_is_nobodys_hang() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let conf = Conf::new(&lab)
        .section(QUICK)
        .section(SECTION)
        .feed("f", "alert", &["203.0.113.1"]);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    daemon.freeze();
    let waits = lab.host.enter(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        for port in 1..=5 {
            socket.send_to(b"x", ("203.0.113.1", port)).unwrap();
        }
        socket
    });
    // That it stands still for so long is what this test is about.
    thread::sleep(Duration::from_secs(4));
    daemon.signal(Signal::SIGCONT);
    // The first answer after it already knows that nobody hangs.
    assert!(first_line(&daemon).starts_with("PROTECTED  table "));
    let line = eventually("the log says so", || {
        let output = daemon.output();
        let line = output.lines().find(|line| line.contains("stood still"));
        line.map(str::to_owned)
    });
    // One may be judged in the moment in which they are counted.
    let counted = (4..=6).any(|n| line.contains(&format!(": {n} packets waited for it")));
    assert!(counted, "{line}");
    assert_eq!(get(&lab, "/livez"), Some((200, "ok\n".into())));
    assert_eq!(said(&daemon, "has not answered"), 0, "{}", daemon.output());
    drop(waits);
}

/// A receiver of alerts over TLS that begins its answer and never comes to its end: each byte of it is in
/// time, so that no limit of a single read ends it.
#[test]
fn a_sink_that_is_stuck_is_told_and_no_reason_for_a_restart() {
    let Some(lab) = Lab::new() else { return };
    let listener = lab.host.enter(|| TcpListener::bind("127.0.0.1:6514"));
    let listener = listener.unwrap().unwrap();
    let server = thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut first = [0];
            match stream.read(&mut first) {
                Ok(1) if first == *b"q" => return,
                Ok(1) => drip(stream),
                _ => {}
            }
        }
    });
    let alerts = Alerts::listen(&lab);
    let conf = Conf::new(&lab)
        .section(QUICK)
        .section(SECTION)
        .alerts(&alerts)
        .syslog("tls:127.0.0.1:6514", "")
        .feed("f", "alert", &["203.0.113.1"]);
    let _web = web(&lab.server);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    connect(&lab.host, "203.0.113.1:80").unwrap();
    let name = "sink tls:127.0.0.1:6514";
    let line = eventually("status says so", || {
        let line = first_line(&daemon);
        (!line.starts_with("PROTECTED")).then_some(line)
    });
    let wanted = format!("UNWELL  {name} has not answered for ");
    assert!(line.starts_with(&wanted), "{line}");
    assert_eq!(daemon.status()["protected"], true);
    assert_eq!(stuck(&lab, name), Some(true));
    let (code, body) = get(&lab, "/livez").unwrap();
    assert_eq!(code, 200, "a restart does not help: {body}");
    assert!(body.starts_with(&format!("ok\n{name} has not")), "{body}");
    assert_eq!(get(&lab, "/healthz").unwrap().0, 503);
    // Others get their alerts.
    alerts.wait(&[("dst", "203.0.113.1")]);
    drop(daemon);
    let quit = lab.host.enter(|| TcpStream::connect("127.0.0.1:6514"));
    quit.unwrap().unwrap().write_all(b"q").unwrap();
    server.join().unwrap();
}

/// A record of 16,000 bytes, one in a while, for as long as somebody reads.
fn drip(mut stream: TcpStream) {
    let mut bytes: &[u8] = &[0x16, 3, 3, 0x3e, 0x80, 2, 0, 0x3e, 0x7c];
    while stream.write_all(&bytes[..1]).is_ok() {
        bytes = if bytes.len() > 1 { &bytes[1..] } else { bytes };
        thread::sleep(Duration::from_millis(200));
    }
}

/// A file system that never answers: whoever looks at something on it waits until this is dropped.
struct Silent {
    holder: Child,
    folder: PathBuf,
}

impl Silent {
    fn new(lab: &Lab) -> Self {
        let [device, folder] = ["fuse", "silent"].map(|name| lab.path(name));
        fs::create_dir(&folder).unwrap();
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        mknod(&device, SFlag::S_IFCHR, mode, makedev(10, 229)).unwrap();
        let script = "exec 5<>$1; mount -i -t fuse -o fd=5,rootmode=40000,user_id=0,group_id=0,allow_other \
                      none $2; echo; exec sleep 600";
        let mut command = Command::new("sh");
        command.args(["-ec", script, "sh"]).args([&device, &folder]);
        let mut holder = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = [0];
        holder
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut line)
            .unwrap();
        Self { holder, folder }
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // Without its holder it answers with an error.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
    }
}

/// What the daemon reads of the host does not answer: that is told, and the rest goes on, also its end.
#[test]
fn a_read_that_hangs_is_told_and_holds_up_nothing() {
    let Some(lab) = Lab::new() else { return };
    let file = lab.path("never.txt");
    fs::write(&file, "192.0.2.77\n").unwrap();
    let conf = Conf::new(&lab)
        .nftables("owner = false")
        .section(SECTION)
        .section(&format!("[exceptions]\nfiles = [\"{}\"]", file.display()))
        .feed("f", "deny", &["203.0.113.1"]);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let silent = Silent::new(&lab);
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink(silent.folder.join("file"), &file).unwrap();
    let line = eventually("status says so", || {
        let line = first_line(&daemon);
        (!line.starts_with("PROTECTED")).then_some(line)
    });
    let wanted = "UNWELL  helper host-files has not answered for ";
    assert!(line.starts_with(wanted), "{line}");
    assert_eq!(stuck(&lab, "helper host-files"), Some(true));
    let (code, body) = get(&lab, "/livez").unwrap();
    assert_eq!(code, 200, "a restart does not help: {body}");
    let listed = |daemon: &Daemon<'_>| daemon.ok(&["status", "--json"]).contains("192.0.2.77");
    assert!(listed(&daemon), "what was known stays");
    nft(&lab.host, &["delete", "table", "inet", "feedgate"]);
    eventually("the table is put back", || {
        (daemon.status()["table"]["state"] == "present").then_some(())
    });
    let other = conf.clone().feed("g", "deny", &["203.0.113.2"]);
    daemon.reload(&other.text());
    eventually("a reload goes on without it", || {
        (daemon.status()["table"]["elements"] == 2).then_some(())
    });
    let times = said(&daemon, "helper host-files has not answered for");
    assert_eq!(times, 1, "{}", daemon.output());
    assert!(daemon.stop().success());
}

#[test]
fn a_stale_feed_is_no_reason_for_a_restart() {
    let Some(lab) = Lab::new() else { return };
    let missing = lab.path("missing.txt");
    let conf = Conf::new(&lab).section(SECTION).feed_from(
        "away",
        "deny",
        &format!("file://{}", missing.display()),
    );
    let _daemon = Daemon::start(&lab, &lab.host, &conf);
    assert_eq!(get(&lab, "/livez"), Some((200, "ok\n".into())));
    assert_eq!(get(&lab, "/readyz"), Some((200, "ok\n".into())));
    let (code, body) = get(&lab, "/healthz").unwrap();
    assert_eq!(code, 503);
    assert!(body.contains("feed away is stale"), "{body}");
}

/// One process, from the probe's own address.
#[test]
fn idle_connections_starve_no_probe() {
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab)
        .section(SECTION)
        .feed("f", "deny", &["203.0.113.1"]);
    let _daemon = Daemon::start(&lab, &lab.host, &conf);
    let idle = || {
        lab.host
            .enter(|| TcpStream::connect(LISTEN))
            .unwrap()
            .unwrap()
    };
    let mut held: Vec<TcpStream> = (0..300).map(|_| idle()).collect();
    for path in ["/livez", "/readyz", "/healthz", "/metrics"] {
        let begin = Instant::now();
        let (code, body) = get(&lab, path).unwrap();
        assert_eq!(code, 200, "{path} {body}");
        // curl's own limit is far longer; a probe's is a second by default.
        assert!(begin.elapsed() < Duration::from_secs(4), "{path}");
        // Whoever was sent away comes again, and asks without ever reading.
        for _ in 0..100 {
            let mut stream = idle();
            let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n");
            held.push(stream);
        }
    }
}

/// journald's limit, in a mount namespace with a `/run` of its own.
#[test]
fn more_alerts_than_journald_keeps_are_told() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let alerts = Alerts::listen(&lab);
    let socket = alerts.address();
    let socket = socket.strip_prefix("unix:").unwrap();
    let text = format!(
        "#!/bin/sh\nexec unshare --mount sh -ec 'mount -t tmpfs none /run\n\
         mkdir -p /run/systemd/journal /run/systemd/journald.conf.d\n\
         touch /run/systemd/journal/dev-log\n\
         mount --bind {socket} /run/systemd/journal/dev-log\n\
         printf \"RateLimitBurst=5\\nRateLimitIntervalSec=10s\\n\" > /run/systemd/journald.conf.d/zz.conf\n\
         exec {exe} \"$@\"' sh \"$@\"\n",
        exe = feedgate().display()
    );
    let script = program(&lab, "feedgate.sh", &text);
    let conf = Conf::new(&lab)
        .section(QUICK)
        .syslog("unix:/run/systemd/journal/dev-log", "")
        .feed("f", "alert", &["203.0.113.1"]);
    let daemon = Daemon::start_as(&script, &lab, &lab.host, &conf);
    assert!(first_line(&daemon).starts_with("PROTECTED  table "));
    for _ in 0..30 {
        connect(&lab.host, "203.0.113.1:80").unwrap();
    }
    let line = eventually("status says so", || {
        let line = first_line(&daemon);
        (!line.starts_with("PROTECTED")).then_some(line)
    });
    assert!(line.starts_with("UNWELL  "), "{line}");
    assert!(
        line.contains("alerts went to journald in 10s, which keeps 5"),
        "{line}"
    );
    eventually("an interval with less", || {
        first_line(&daemon)
            .starts_with("PROTECTED  table ")
            .then_some(())
    });
    assert_eq!(said(&daemon, "alerts went to journald"), 1);
    assert_eq!(said(&daemon, "within its rate limit again"), 1);
}
