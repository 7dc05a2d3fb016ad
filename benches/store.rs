//! The store of alerts alone: how many a second, and whether a busy gateway's alerts all get in.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant, SystemTime},
};

use feedgate::{
    alert::{Alert, ecs::Observer},
    alertdb::AlertDb,
    attribution::{Grade, Source},
    config::AlertStore,
    feed::{Action, Direction, Severity},
    packet::{Flow, Protocol, Transport},
    prefix::Prefix,
};

use crate::common::{
    process::{helper, run, values},
    table::Row,
};

const ALERTS: u32 = 100_000;
/// In this time.
const PACED: Duration = Duration::from_secs(10);

pub fn rows() -> Vec<Row> {
    let of = values(&run(&mut helper("store")).output);
    vec![
        Row::limit(
            "100,000 distinct alerts in 10 s: not stored",
            of["lost"],
            "alerts",
            format!("thread: {:.1} s CPU", of["cpu"]),
            Some(0.0),
        ),
        Row::limit(
            "  longest time that one took to hand over",
            of["longest"],
            "us",
            format!("median {:.2} us", of["median"]),
            None,
        ),
        Row::limit(
            "alerts stored a second, as fast as they fit into the queue",
            of["rate"],
            "/s",
            format!("{:.0} bytes each", of["bytes"]),
            None,
        ),
        Row::limit("verify of these", of["verify"], "ms", String::new(), None),
    ]
}

/// Helper: stores, at a pace and then flat out.
pub fn time_store() {
    let folder = tempfile::tempdir().unwrap();
    let start = |name: &str| {
        let store = AlertStore {
            file: None,
            max_age: Duration::from_secs(86_400),
            max_size: 4 << 30,
        };
        let observer = Observer {
            hostname: "bench".into(),
            version: "0".into(),
        };
        AlertDb::start(&folder.path().join(name), &store, observer).unwrap()
    };
    let db = start("paced.db");
    let begun = Instant::now();
    let before = cpu();
    let mut times = Vec::new();
    for n in 0..ALERTS {
        let alert = alert(n);
        let due = begun + PACED * n / ALERTS;
        if let Some(early) = due.checked_duration_since(Instant::now()) {
            std::thread::sleep(early);
        }
        let handed = Instant::now();
        db.submit(&alert);
        times.push(handed.elapsed());
    }
    db.sync(Duration::from_secs(60), 0);
    let status = db.close(Duration::from_secs(60));
    println!("lost {}", u64::from(ALERTS) - status.stored);
    println!("cpu {}", cpu() - before);
    times.sort_unstable();
    println!("median {}", times[times.len() / 2].as_secs_f64() * 1e6);
    println!("longest {}", times[times.len() - 1].as_secs_f64() * 1e6);
    let db = start("fast.db");
    let alerts: Vec<Alert> = (0..10_000).map(alert).collect();
    let begun = Instant::now();
    for _ in 0..5 {
        for alert in &alerts {
            db.submit(alert);
        }
        assert!(db.sync(Duration::from_secs(60), 0));
    }
    println!("rate {}", 50_000.0 / begun.elapsed().as_secs_f64());
    println!("bytes {}", db.status().bytes as f64 / 50_000.0);
    let begun = Instant::now();
    let report = db.reader().unwrap().verify(&Default::default()).unwrap();
    assert!(report.ok);
    println!("verify {}", begun.elapsed().as_secs_f64() * 1e3);
}

/// CPU seconds of this process (proc(5), stat fields 14 and 15, in hundredths).
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    let ticks = rest.split_whitespace().skip(11).take(2);
    ticks.map(|n| n.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

/// Alert number `n`, of a process and to an address of its own.
fn alert(n: u32) -> Alert {
    let far = IpAddr::V4(Ipv4Addr::from(0xcb00_0000 + n));
    Alert {
        id: uuid::Uuid::now_v7(),
        time: SystemTime::now(),
        action: Action::Deny,
        direction: Direction::Egress,
        flow: Flow {
            src: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
            dst: far,
            proto: Protocol::TCP,
            transport: Transport::Ports {
                src: 4711,
                dst: 443,
            },
            fragment: false,
        },
        feeds: vec!["bench".parse().unwrap()],
        indicator: Prefix::host(far).into(),
        scan: None,
        flood: None,
        severity: Severity::Medium,
        policy: None,
        iface: Some("eth0".into()),
        source: Source {
            grade: Grade::Exact,
            method: Some("sock-diag"),
            uid: Some(1000),
            user: Some("user".into()),
            pid: Some(n),
            start: Some(u64::from(n)),
            ppid: Some(1),
            exe: Some("/usr/bin/curl".into()),
            comm: Some("curl".into()),
            command_line: Some("curl -s https://example.net/some/path/to/a/file".into()),
            unit: Some("bench.service".into()),
            ..Source::default()
        },
        exception: None,
        nat_dst: None,
        count: 1,
        window: None,
        held: Duration::from_micros(100),
    }
}
