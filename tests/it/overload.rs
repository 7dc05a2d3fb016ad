//! The cases of docs/overload.md that no other test has: a full queue that drops, a time without a
//! daemon by its numbers, and attribution over its budget.

use std::net::UdpSocket;

use nix::sys::signal::Signal;

use crate::support::{Alerts, Conf, Daemon, Lab, Meter, connect, counter, curl, eventually, web};

const WATCHED: &str = "203.0.113.1";
const DENIED: &str = "203.0.113.2";
/// Packets that the queue holds at most.
const QUEUE: u64 = 32;
const SENT: u64 = 100;

fn conf(lab: &Lab) -> Conf {
    Conf::new(lab)
        .feed("watch", "alert", &[WATCHED])
        .feed("block", "deny", &[DENIED])
}

/// Sends datagrams, each a flow of its own.
fn send(lab: &Lab, to: &str) {
    let work = || {
        for _ in 0..SENT {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            // A drop on output is an error for the sender.
            let _ = socket.send_to(b"x", (to, 9));
        }
    };
    lab.host.enter(work).unwrap();
}

#[test]
fn a_full_queue_drops_what_is_watched_too_when_told_so() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let alerts = Alerts::listen(&lab);
    let conf = conf(&lab).alerts(&alerts).nftables(&format!(
        "queue-max-len = {QUEUE}\non-queue-full = \"drop\""
    ));
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let meter = Meter::start(&lab.gateway, "lan0", &[WATCHED, DENIED]);
    daemon.freeze();
    send(&lab, WATCHED);
    send(&lab, DENIED);
    assert_eq!(
        meter.seen(WATCHED) + meter.seen(DENIED),
        0,
        "nothing gets out"
    );
    daemon.signal(Signal::SIGCONT);

    let dropped = 2 * SENT - QUEUE;
    eventually("what was held is judged", || {
        (meter.seen(WATCHED) == QUEUE).then_some(())
    });
    let cause = "packets were dropped without attribution, since the queue was full";
    alerts.wait(&[("count", &dropped.to_string()), ("cause", cause)]);
    let status = daemon.status();
    assert_eq!(status["queue"]["on_full"], "drop");
    assert_eq!(status["queue"]["capacity"], QUEUE);
    assert_eq!(status["queue"]["dropped"], dropped);
    let said = daemon.ok(&["status"]);
    let problem = format!("{dropped} packets did not fit into the queue and were dropped");
    assert!(said.contains(&problem), "{said}");
    assert_eq!(counter(&lab.host, "passed_unattributed"), 0);
    connect(&lab.host, &format!("{WATCHED}:80")).expect("all is as before");
}

#[test]
fn without_a_daemon_the_kernel_decides_and_the_next_one_tells() {
    let Some(lab) = Lab::new() else { return };
    let alerts = Alerts::listen(&lab);
    let conf = conf(&lab)
        .alerts(&alerts)
        .section("[metrics]\nlisten = \"127.0.0.1:9797\"")
        // It is for verdicts that need the daemon: what is watched passes all the same.
        .nftables("on-queue-full = \"drop\"");
    let meter = Meter::start(&lab.gateway, "lan0", &[WATCHED, DENIED]);
    Daemon::start(&lab, &lab.host, &conf).kill();
    send(&lab, WATCHED);
    send(&lab, DENIED);
    eventually("what is watched passes", || {
        (meter.seen(WATCHED) == SENT).then_some(())
    });
    assert_eq!(meter.seen(DENIED), 0);

    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let count = SENT.to_string();
    for cause in [
        "packets to denied addresses were dropped without attribution",
        "packets to watched addresses were passed without attribution",
    ] {
        alerts.wait(&[("count", &count), ("cause", cause)]);
    }
    let metrics = curl(&lab.host, &["http://127.0.0.1:9797/metrics"]);
    let metrics = String::from_utf8(metrics.stdout).unwrap();
    for verdict in ["deny", "pass"] {
        let sample =
            format!("feedgate_unattributed_packets_total{{verdict=\"{verdict}\"}} {SENT}\n");
        assert!(metrics.contains(&sample), "{sample} in {metrics}");
    }
    assert_eq!(daemon.status()["packets"]["unattributed_denied"], SENT);
}

/// A process with so many open files that its socket is not found in a millisecond.
#[test]
fn a_source_that_is_not_found_in_time_is_counted() {
    let Some(lab) = Lab::new() else { return };
    let conf = conf(&lab).section("[attribution]\ntimeout = \"1ms\"");
    let (alerts, daemon) = Daemon::alerting(&lab, &lab.host, conf);
    let meter = Meter::start(&lab.gateway, "lan0", &[WATCHED, DENIED]);
    // The sockets are the last ones that are looked at.
    let script = format!(
        "exec 5<>/dev/udp/{WATCHED}/9 6<>/dev/udp/{DENIED}/9
         n=$(ulimit -Hn); [ $n = unlimited ] || [ $n -gt 20000 ] && n=20000; ulimit -Sn $n
         for ((fd = 10; fd < n; fd++)); do eval \"exec $fd</dev/null\"; done
         echo x >&5; echo x >&6; read -r"
    );
    let mut command = lab.host.command("bash");
    command
        .args(["-c", &script])
        .stdin(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    for (dst, action) in [(WATCHED, "alert"), (DENIED, "deny")] {
        alerts.wait(&[("dst", dst)]).assert(&[
            ("action", action),
            ("attribution", "unknown"),
            ("cause", "timeout after 1ms"),
        ]);
    }
    drop(child.stdin.take());
    child.wait().unwrap();
    eventually("what is watched passes", || {
        (meter.seen(WATCHED) == 1).then_some(())
    });
    assert_eq!(meter.seen(DENIED), 0);
    assert_eq!(daemon.status()["packets"]["attribution_timeouts"], 2);
}
