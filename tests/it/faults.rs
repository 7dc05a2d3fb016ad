//! The daemon stopped, overloaded or killed while packets come: what passes, what does not, and
//! that all of it is counted.

use std::{
    net::{IpAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use feedgate::demo::Netns;
use nix::sys::signal::Signal;

use crate::support::{
    Alerts, Conf, Daemon, Lab, Meter, connect, counter, dropped, eventually, web,
};

const WATCHED: &str = "203.0.113.1";
const DENIED: &str = "203.0.113.2";
const DENIED6: &str = "2001:db8:bad::2";

/// Between two rounds of a slow flood.
const PACE: Duration = Duration::from_millis(2);

/// Packets that the queue holds at most.
const QUEUE: u64 = 32;

fn conf(lab: &Lab, alerts: &Alerts) -> Conf {
    Conf::new(lab)
        .nftables(&format!("queue-max-len = {QUEUE}"))
        .alerts(alerts)
        .feed("watch", "alert", &[WATCHED])
        .feed("block", "deny", &[DENIED, DENIED6])
}

/// Sends datagrams, each a flow of its own, to each of `addresses` in turn until told to stop, with
/// a pause between two rounds. Gives the number of rounds.
fn flood(netns: &Netns, addresses: &[&str], pause: Duration, stop: &AtomicBool) -> u64 {
    let to: Vec<IpAddr> = addresses.iter().map(|to| to.parse().unwrap()).collect();
    let send = || {
        let mut rounds = 0;
        while !stop.load(Ordering::Relaxed) {
            for &to in &to {
                let any: IpAddr = if to.is_ipv4() {
                    [0; 4].into()
                } else {
                    [0; 16].into()
                };
                let socket = UdpSocket::bind((any, 0)).unwrap();
                // A drop on output is an error for the sender.
                let _ = socket.send_to(b"x", (to, 9));
            }
            rounds += 1;
            std::thread::sleep(pause);
        }
        rounds
    };
    netns.enter(send).unwrap()
}

/// Ends a flood, also when its test fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The sum of the counts in lines that tell of packets without attribution.
fn unattributed(alerts: &Alerts, what: &str) -> u64 {
    let all = alerts.all().into_iter();
    all.filter(|alert| alert.get("cause").contains(what) && alert.get("id").is_empty())
        .map(|alert| alert.get("count").parse::<u64>().unwrap())
        .sum()
}

/// Alerts of single flows to `address`.
fn alerted(alerts: &Alerts, address: &str) -> u64 {
    let all = alerts.all();
    let count = all
        .iter()
        .filter(|alert| alert.get("dst") == address)
        .count();
    u64::try_from(count).unwrap()
}

#[test]
fn a_daemon_that_stands_still_for_ten_seconds() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let alerts = Alerts::listen(&lab);
    let daemon = Daemon::start(&lab, &lab.host, &conf(&lab, &alerts));
    let meter = Meter::start(&lab.gateway, "lan0", &[WATCHED, DENIED, DENIED6]);
    let count = |name| counter(&lab.host, name);

    daemon.signal(Signal::SIGSTOP);
    let stop = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let _guard = StopOnDrop(&stop);
        let sender = scope.spawn(|| flood(&lab.host, &[WATCHED, DENIED, DENIED6], PACE, &stop));
        let until = Instant::now() + Duration::from_secs(10);
        eventually("the queue is full: watched flows pass", || {
            (meter.seen(WATCHED) > 0).then_some(())
        });
        connect(&lab.host, &format!("{WATCHED}:80")).expect("a watched flow passes");
        assert!(dropped(&lab.host, &format!("{DENIED}:80")));
        assert!(dropped(&lab.host, &format!("[{DENIED6}]:80")));
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
        stop.store(true, Ordering::Relaxed);
        sender.join().unwrap()
    });
    assert!(sent > 2 * QUEUE, "{sent}");
    assert!(count("denied_unattributed") > 0 && count("passed_unattributed") > 0);
    assert_eq!(count("allowed") + count("denied"), 0, "nobody answers");

    daemon.signal(Signal::SIGCONT);
    // Those that were held are answered, and named or not: nothing is guessed of a closed socket.
    eventually("what was held is alerted", || {
        let held = alerted(&alerts, WATCHED) + alerted(&alerts, DENIED) + alerted(&alerts, DENIED6);
        (held == QUEUE).then_some(())
    });
    eventually("what was not held is reported by its number", || {
        let denied = unattributed(&alerts, "denied addresses were dropped");
        let passed = unattributed(&alerts, "watched addresses were passed");
        let told = denied == count("denied_unattributed") && passed == count("passed_unattributed");
        told.then_some(())
    });
    // Two connections of this test are SYNs, sent again as long as nobody answers.
    let denied = count("denied") + count("denied_repeat") + count("denied_unattributed");
    assert!(denied >= 2 * sent, "{denied} of {}", 2 * sent);
    eventually("all watched datagrams arrive, the held ones late", || {
        (meter.seen(WATCHED) >= sent).then_some(())
    });
    assert_eq!(meter.seen(DENIED) + meter.seen(DENIED6), 0);

    // All is as before.
    let stream = connect(&lab.host, &format!("{WATCHED}:80")).unwrap();
    let port = stream.local_addr().unwrap().port().to_string();
    alerts
        .wait(&[("spt", &port), ("proto", "tcp")])
        .assert(&[("pid", &std::process::id().to_string())]);
}

#[test]
fn a_daemon_killed_in_mid_flood() {
    let Some(lab) = Lab::new() else { return };
    let alerts = Alerts::listen(&lab);
    let conf = conf(&lab, &alerts);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let meter = Meter::start(&lab.gateway, "lan0", &[WATCHED, DENIED, DENIED6]);

    let stop = AtomicBool::new(false);
    let (sent, unnamed) = std::thread::scope(|scope| {
        let (stop, host) = (&stop, &lab.host);
        let _guard = StopOnDrop(stop);
        // Far more than the queue takes, and not so much that nothing else runs.
        let pause = Duration::from_micros(200);
        let work = move || flood(host, &[DENIED, WATCHED, DENIED6], pause, stop);
        let sender = scope.spawn(work);
        eventually("packets are alerted", || {
            (alerted(&alerts, DENIED) > 20 && alerted(&alerts, WATCHED) > 20).then_some(())
        });
        let dead = daemon.killed();
        let (passed, dropped) = (meter.seen(WATCHED), counter(host, "denied_unattributed"));
        eventually("watched flows pass without a daemon", || {
            (meter.seen(WATCHED) > passed + 100).then_some(())
        });
        eventually("denied ones are dropped without a daemon", || {
            (counter(host, "denied_unattributed") > dropped + 100).then_some(())
        });
        drop(dead);
        // Under the same flood a daemon comes back.
        let second = Daemon::start(&lab, host, &conf);
        let unnamed = unattributed(&alerts, "denied addresses were dropped");
        let named = alerted(&alerts, DENIED);
        eventually("it names them again", || {
            (alerted(&alerts, DENIED) > named + 20).then_some(())
        });
        stop.store(true, Ordering::Relaxed);
        drop(second);
        (sender.join().unwrap(), unnamed)
    });
    assert!(
        unnamed > 100,
        "{unnamed} of {sent} are reported at the start"
    );
    assert_eq!(
        meter.seen(DENIED) + meter.seen(DENIED6),
        0,
        "of {sent} each"
    );
}
