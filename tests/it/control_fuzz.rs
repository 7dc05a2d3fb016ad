//! Whatever is sent to the control socket, the daemon answers or closes, goes on, and serves others.

use std::{
    cell::Cell,
    fs,
    io::{Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use crate::support::{Conf, Daemon, Lab, eventually};

/// Inputs of each kind.
const CASES: u32 = 300;
/// No answer may take longer: far above what it takes.
const ANSWER: Duration = Duration::from_secs(60);
/// What the daemon may hold more afterwards, in KiB.
const MEMORY: u64 = 64 << 10;

/// One connection: what is sent is not all read where the daemon answers early. Gives the answer.
fn talk(socket: &Path, bytes: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(ANSWER)).unwrap();
    stream.set_write_timeout(Some(ANSWER)).unwrap();
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    // Closed with bytes of ours unread is ECONNRESET; only waiting for ever is a fault.
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert!(
            error.kind() != std::io::ErrorKind::WouldBlock,
            "no answer to {bytes:?}"
        );
    }
    answer
}

/// A request, or nearly: every command, with values of the right and of the wrong kind, cut and bent.
fn near_valid() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        "[a-z-]{0,12}",
        Just("block".to_owned()),
        Just("\\u0000".to_owned()),
        Just("../../etc/shadow".to_owned()),
        "\\PC{0,40}",
    ];
    let value = prop_oneof![
        word.clone()
            .prop_map(|text| serde_json::Value::from(text).to_string()),
        any::<u64>().prop_map(|number| number.to_string()),
        (0_u64..100).prop_map(|number| number.to_string()),
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("-1e999".to_owned()),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        Just("[\"all\"]".to_owned()),
        Just("\"192.0.2.1\"".to_owned()),
        (1_usize..2_000).prop_map(|depth| "[".repeat(depth)),
    ];
    let command = prop::sample::select(vec![
        "status", "feeds", "refresh", "accept", "push", "lint", "lookup", "ruleset", "alerts",
        "dismiss", "apply", "get", "delete", "Down", "reboot",
    ]);
    let key = prop::sample::select(vec![
        "feed",
        "bytes",
        "dry_run",
        "addr",
        "asked",
        "elements",
        "query",
        "ids",
        "all",
        "note",
        "words",
        "selector",
        "nets",
        "ignore_not_found",
        "limit",
        "command",
    ]);
    let keys = prop::collection::vec((key, value), 0..4);
    let body = prop::collection::vec(any::<u8>(), 0..200);
    (command, keys, body, any::<prop::sample::Index>(), 0_u8..8).prop_map(
        |(command, keys, body, at, bend)| {
            let mut line = format!("{{\"command\":\"{command}\"");
            for (key, value) in keys {
                line += &format!(",\"{key}\":{value}");
            }
            line += "}\n";
            let mut bytes = [line.into_bytes(), body].concat();
            let at = at.index(bytes.len());
            match bend {
                0 => bytes.truncate(at),
                1 => bytes[at] = bytes[at].wrapping_add(1),
                2 => bytes.insert(at, b'\n'),
                _ => {}
            }
            bytes
        },
    )
}

fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn nothing_that_is_sent_stops_the_daemon_or_others() {
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab).feed("block", "deny", &["203.0.113.1"]);
    let mut daemon = Daemon::start(&lab, &lab.host, &conf);
    let socket = lab.path("control.sock");
    let before = memory(daemon.pid());
    let noise = prop::collection::vec(any::<u8>(), 0..4_000);
    let input = prop_oneof![1 => noise, 3 => near_valid()];
    let mut runner = TestRunner::new(Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    });
    // `down` is not among the commands: the daemon would end, as it should.
    let (done, refused, closed) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let tried = runner.run(&input, |bytes| {
        let answer = talk(&socket, &bytes);
        if answer.is_empty() {
            closed.update(|count| count + 1);
            return Ok(());
        }
        let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        let is = |key| answer.get(key).is_some();
        prop_assert!(is("ok") || is("error"), "{}", answer);
        let kind = if is("ok") { &done } else { &refused };
        kind.update(|count| count + 1);
        Ok(())
    });
    if let Err(error) = tried {
        panic!("{error}");
    }
    let met = [done.get(), refused.get(), closed.get()];
    assert!(
        met[..2].iter().all(|count| *count > 0),
        "done, refused, closed: {met:?}"
    );
    eprintln!("done, refused, closed: {met:?}");
    // Too long, and more than is announced.
    for bytes in [vec![b'['; 1 << 20], vec![b'x'; 1 << 20], vec![0; 1 << 20]] {
        talk(&socket, &bytes);
    }
    for bytes in [u64::MAX, 256 << 20, 1] {
        let line = format!("{{\"command\":\"apply\",\"bytes\":{bytes}}}\n");
        let answer = String::from_utf8(talk(&socket, line.as_bytes())).unwrap();
        assert!(answer.starts_with("{\"error\":"), "{answer}");
    }
    assert!(daemon.runs());
    assert!(!daemon.output().contains("panicked"), "{}", daemon.output());
    assert_eq!(daemon.status()["table"]["state"], "present");
    let grown = memory(daemon.pid()).saturating_sub(before);
    assert!(grown < MEMORY, "{grown} KiB");
}

#[test]
fn clients_that_say_nothing_hold_up_others_for_seconds_only() {
    let Some(lab) = Lab::new() else { return };
    let daemon = Daemon::start(&lab, &lab.host, &Conf::new(&lab));
    let socket = lab.path("control.sock");
    // More than are served at once, each with half a request.
    let silent: Vec<UnixStream> = (0..40)
        .map(|_| {
            let mut stream = UnixStream::connect(&socket).unwrap();
            stream.write_all(b"{\"command\":").unwrap();
            stream
        })
        .collect();
    let begun = Instant::now();
    eventually("others are served", || {
        daemon.ctl(&["status"]).status.success().then_some(())
    });
    eprintln!("served after {:?}", begun.elapsed());
    // Each of the silent ones is let go, and none is answered.
    for mut stream in silent {
        stream.set_read_timeout(Some(ANSWER)).unwrap();
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert!(error.kind() != std::io::ErrorKind::WouldBlock, "still open");
        }
        assert!(answer.is_empty(), "{answer:?}");
    }
}

#[test]
fn a_manifest_that_is_a_bomb_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let daemon = Daemon::start(&lab, &lab.host, &Conf::new(&lab));
    let before = memory(daemon.pid());
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let same = vec![format!("*a{}", n - 1); 9].join(", ");
        laughs += &format!("a{n}: &a{n} [{same}]\n");
    }
    let deep = format!("kind: {}\n", "[".repeat(200_000));
    for bomb in [laughs, deep] {
        let output = daemon.ctl_with(&["apply", "-f", "-"], bomb.as_bytes());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.len() < 20_000, "{}", said.len());
        eprintln!("{}", said.lines().next().unwrap_or_default());
    }
    let grown = memory(daemon.pid()).saturating_sub(before);
    assert!(grown < MEMORY, "{grown} KiB");
    assert_eq!(daemon.status()["table"]["state"], "present");
}
