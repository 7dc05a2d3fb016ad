//! Every peer of the daemon goes away, at every point of the talk, by a close or a reset: the daemon goes
//! on. Without care each of them ends it by SIGPIPE, without a line in the log.

use std::{
    fs::{self, OpenOptions},
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::{fs::OpenOptionsExt as _, net::UnixStream},
    process::Command,
};

use nix::{
    fcntl::{FcntlArg, fcntl},
    sys::signal::Signal,
};

use crate::support::{
    Alerts, Conf, Daemon, End, Lab, Leaver, Phase, Tls, connect, dropped, eventually, feedgate,
    program, web,
};

const WATCHED: &str = "203.0.113.1:80";
const DENIED: &str = "203.0.113.2:80";
/// How often each way to go is tried: whether the daemon writes before or after is a race.
const TRIES: usize = 3;
const ENDS: [End; 2] = [End::Close, End::Reset];

fn conf(lab: &Lab) -> Conf {
    Conf::new(lab)
        .feed("watch", "alert", &["203.0.113.1"])
        .feed("block", "deny", &["203.0.113.2"])
}

/// It judges packets, names who sent them, and answers.
#[track_caller]
fn goes_on(lab: &Lab, daemon: &mut Daemon<'_>, alerts: &Alerts) {
    assert!(daemon.runs(), "it has ended");
    let stream = connect(&lab.host, WATCHED).unwrap();
    let port = stream.local_addr().unwrap().port().to_string();
    alerts.wait(&[("spt", &port), ("action", "alert")]);
    assert!(dropped(&lab.host, DENIED));
    daemon.ok(&["status"]);
}

/// Certificates that the daemon accepts.
fn tls(lab: &Lab) -> (Tls, String) {
    let tls = Tls::new("127.0.0.1");
    let ca = lab.path("ca.pem");
    fs::write(&ca, &tls.ca).unwrap();
    (tls, ca.display().to_string())
}

#[test]
fn a_feed_server_may_go_away_at_any_point() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let (tls, ca) = tls(&lab);
    let plain = Leaver::start(&lab.host, None);
    let secure = Leaver::start(&lab.host, Some(&tls));
    let conf = conf(&lab)
        .feed_from("plain", "alert", &plain.url("http"))
        .feed_from("secure", "alert", &secure.url("https"));
    let alerts = Alerts::listen(&lab);
    let conf = conf.alerts(&alerts);
    let mut daemon = Daemon::start_with(&lab, &lab.host, &conf, &[("SSL_CERT_FILE", &ca)]);
    for (name, server) in [("plain", &plain), ("secure", &secure)] {
        for phase in server.phases() {
            for end in ENDS {
                server.leave(phase, end);
                for _ in 0..TRIES {
                    let said = daemon.ctl(&["refresh", name]);
                    assert!(daemon.runs(), "{name}: {phase:?} {end:?}: it has ended");
                    // What a reset overtakes is lost.
                    let whole = phase == Phase::Answer && end == End::Close;
                    assert!(said.status.success() || !whole, "{said:?}");
                    assert!(
                        !said.status.success() || phase == Phase::Answer,
                        "{phase:?}"
                    );
                }
            }
        }
    }
    goes_on(&lab, &mut daemon, &alerts);
}

#[test]
fn a_log_server_may_go_away_at_any_point() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let (tls, ca) = tls(&lab);
    let plain = Leaver::start(&lab.host, None);
    let secure = Leaver::start(&lab.host, Some(&tls));
    let gone = Alerts::at(lab.path("gone.sock"));
    let alerts = Alerts::listen(&lab);
    let conf = conf(&lab)
        .syslog(&format!("tcp:{}", plain.address()), "")
        .syslog(
            &format!("tls:{}", secure.address()),
            &format!("ca-file = \"{ca}\""),
        )
        .syslog(&gone.address(), "")
        .alerts(&alerts);
    let mut daemon = Daemon::start(&lab, &lab.host, &conf);
    for phase in secure.phases() {
        for end in ENDS {
            plain.leave(phase, end);
            secure.leave(phase, end);
            let before = (plain.left(), secure.left());
            eventually("both have gone away again", || {
                let stream = connect(&lab.host, WATCHED).unwrap();
                let port = stream.local_addr().unwrap().port().to_string();
                alerts.wait(&[("spt", &port)]);
                assert!(daemon.runs(), "{phase:?} {end:?}: it has ended");
                (plain.left() > before.0 && secure.left() > before.1).then_some(())
            });
        }
    }
    drop(gone);
    fs::remove_file(lab.path("gone.sock")).unwrap();
    goes_on(&lab, &mut daemon, &alerts);
}

/// A daemon whose log goes to a pipe of the test's.
fn logging_to<'a>(lab: &'a Lab, alerts: &Alerts, level: &str) -> (fs::File, Daemon<'a>) {
    let fifo = lab.path("stderr");
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let mut options = OpenOptions::new();
    let reader = options.read(true).custom_flags(libc::O_NONBLOCK);
    let reader = reader.open(&fifo).unwrap();
    // As small as one can be: some lines fill it.
    fcntl(&reader, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    let (exe, log) = (feedgate().display(), fifo.display());
    let text = format!(
        "#!/bin/sh\n[ \"$1\" != run ] || exec 2>'{log}'\nFEEDGATE_LOG={level} exec '{exe}' \"$@\"\n"
    );
    let script = program(lab, "feedgate.sh", &text);
    let conf = conf(lab).alerts(alerts);
    (reader, Daemon::start_as(&script, lab, &lab.host, &conf))
}

#[test]
fn the_reader_of_its_log_may_go_away() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let alerts = Alerts::listen(&lab);
    let (reader, mut daemon) = logging_to(&lab, &alerts, "trace");
    drop(reader);
    for _ in 0..TRIES {
        daemon.ok(&["refresh"]);
        goes_on(&lab, &mut daemon, &alerts);
    }
    // The code of its end is not lost with the last line.
    assert_eq!(daemon.stop().code(), Some(0));
}

#[test]
fn the_reader_of_its_log_may_stand_still() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let alerts = Alerts::listen(&lab);
    let (mut reader, mut daemon) = logging_to(&lab, &alerts, "trace");
    let mut seen = Vec::new();
    let mut read = move || {
        let mut buffer = vec![0; 1 << 20];
        while let Ok(length @ 1..) = reader.read(&mut buffer) {
            seen.extend_from_slice(&buffer[..length]);
        }
        String::from_utf8_lossy(&seen).into_owned()
    };
    read();
    for _ in 0..100 {
        daemon.ok(&["refresh"]);
    }
    goes_on(&lab, &mut daemon, &alerts);
    eventually("it says that lines are missing", || {
        let missing = read().contains("lines of the log are missing here");
        daemon.ok(&["refresh"]);
        missing.then_some(())
    });
}

#[test]
fn clients_may_go_away_at_any_point() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let listed: Vec<String> = (0..20_000_u32)
        .map(|n| std::net::Ipv4Addr::from(0x0b00_0000 + 2 * n).to_string())
        .collect();
    let listed: Vec<&str> = listed.iter().map(String::as_str).collect();
    let conf = conf(&lab)
        .feed("large", "alert", &listed)
        .section("[metrics]\nlisten = \"127.0.0.1:9797\"");
    let (alerts, mut daemon) = Daemon::alerting(&lab, &lab.host, conf);
    // Every answer is larger than what the kernel holds of it, or as large as it may be at once.
    let requests = [
        "{\"command\":\"ruleset\",\"elements\":true}\n",
        "{\"command\":\"status\"}\n",
        "{\"command\":\"refresh\",\"feed\":null}\n",
        "{\"command\":\"push\",\"feed\":\"large\",\"bytes\":1000}\nhalf",
        "{\"command\":",
    ];
    for read in [0, 1, 5_000] {
        for request in requests {
            for _ in 0..TRIES {
                let mut stream = UnixStream::connect(lab.path("control.sock")).unwrap();
                stream.write_all(request.as_bytes()).unwrap();
                if request.contains("ruleset") {
                    let _ = stream.read(&mut vec![0; read]).unwrap();
                }
                drop(stream);
                assert!(daemon.runs(), "{request:?}: it has ended");
            }
        }
        for request in ["GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "GET /metr"] {
            for _ in 0..TRIES {
                let stream = lab.host.enter(|| TcpStream::connect("127.0.0.1:9797"));
                let mut stream = stream.unwrap().unwrap();
                stream.write_all(request.as_bytes()).unwrap();
                if request.len() > 10 {
                    // What is not read makes the close a reset.
                    let _ = stream.read(&mut vec![0; read]).unwrap();
                }
                drop(stream);
                assert!(daemon.runs(), "{request:?}: it has ended");
            }
        }
    }
    goes_on(&lab, &mut daemon, &alerts);
    // A command whose reader goes ends as others do.
    let mut command = daemon.ctl_command(&["nft", "print", "--elements"]);
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap());
    assert_eq!(
        ended,
        Some(Signal::SIGPIPE as i32),
        "quietly, as with `| head`"
    );
}
