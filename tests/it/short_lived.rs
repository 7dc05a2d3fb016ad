//! A measurement: of a thousand processes that only live for one connection, how many are named.

use std::{collections::BTreeMap, fs, process::Stdio};

use feedgate::demo::Netns;

use crate::support::{Alert, Alerts, Conf, Daemon, Lab, eventually, web};

/// Runs of each program.
const RUNS: usize = 1000;

/// What is run, and what its alert must say.
const PROGRAMS: [(&str, [&str; 2]); 2] = [
    ("bash", ["-c", "exec 3<>/dev/tcp/203.0.113.1/80"]),
    ("curl", ["-sS", "http://203.0.113.1/"]),
];

#[test]
#[ignore = "a measurement: a minute"]
fn two_thousand_short_lived_processes() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    for ports in ["one for each run", "as the kernel gives them"] {
        let own = ports.starts_with("one");
        let (started, alerts) = run(&lab, own);
        let by_pid: BTreeMap<&str, &Alert> = alerts.iter().map(|a| (a.get("pid"), a)).collect();
        for (program, _) in PROGRAMS {
            let pids = started.iter().filter(|(name, _)| *name == program);
            let right = pids.filter(|(_, pid)| {
                by_pid.get(pid.as_str()).is_some_and(|alert| {
                    alert.get("attribution") == "exact"
                        && alert.get("comm") == program
                        && alert.get("exe").ends_with(&format!("/{program}"))
                })
            });
            let right = right.count();
            println!("{program}, ports {ports}: {right} of {RUNS} exact, pid and exe right");
            assert_eq!(right, RUNS);
        }
        let mut held: Vec<u64> = alerts
            .iter()
            .map(|alert| alert.get("held_us").parse().unwrap())
            .collect();
        held.sort_unstable();
        let at = |part: usize| held[(held.len() - 1) * part / 100];
        println!(
            "held: p50 {} us, p99 {} us, most {} us",
            at(50),
            at(99),
            at(100)
        );
        let wrong = alerts.iter().filter(|a| a.get("attribution") != "exact");
        println!("alerts that are not exact: {}", wrong.count());
    }
}

/// What was started, and the alerts of it.
fn run(lab: &Lab, own_ports: bool) -> (Vec<(&'static str, String)>, Vec<Alert>) {
    let alerts = Alerts::listen(lab);
    let conf = Conf::new(lab)
        .alerts(&alerts)
        .section("[attribution]\ntimeout = \"50ms\"") // the default is part of the figure
        .feed("watch", "alert", &["203.0.113.1"]);
    let daemon = Daemon::start(lab, &lab.host, &conf);
    let mut started = Vec::new();
    let mut port = 20_000;
    for _ in 0..RUNS {
        for (program, arguments) in PROGRAMS {
            if own_ports {
                port_range(&lab.host, port, port);
                port += 1;
            }
            let mut command = lab.host.command(program);
            let child = command.args(arguments).stdout(Stdio::null()).spawn();
            let mut child = child.unwrap();
            started.push((program, child.id().to_string()));
            assert!(child.wait().unwrap().success());
        }
    }
    port_range(&lab.host, 32_768, 60_999);
    if own_ports {
        eventually("an alert for each", || {
            (alerts.all().len() >= started.len()).then_some(())
        });
    }
    daemon.ok(&["down"]);
    let all = alerts.all();
    drop(alerts);
    fs::remove_file(lab.path("log")).unwrap();
    (started, all)
}

fn port_range(netns: &Netns, first: usize, last: usize) {
    let range = "/proc/sys/net/ipv4/ip_local_port_range";
    netns
        .enter(|| fs::write(range, format!("{first} {last}")))
        .unwrap()
        .unwrap();
}
