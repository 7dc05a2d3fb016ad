//! Flows through the queue: new TCP connections a second with each process named, and a flood of denied flows.
//!
//! The null queue is the same table and the same queue thread with a judge that only lets go, so that
//! the difference is what naming and logging cost.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpStream, UdpSocket},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use feedgate::{
    config::OnQueueFull,
    nft::{Count, Kernel},
    queue::{Answer, Held, MarkBits, Queue},
    ruleset::Counter,
};
use nix::{
    sys::socket::{setsockopt, sockopt},
    unistd::Pid,
};

use crate::{
    common::{
        daemon::Daemon,
        data, median, namespace,
        process::{helper, installed, run, values},
        ratio,
        table::{Row, Target},
    },
    kernel::options,
    load::serve,
};

const ROUNDS: usize = 5;
const CONNECTS: usize = 20_000;
/// Connects that OpenSnitch is asked about, after it had time to start.
const FEWER: usize = 2_000;
const OPENSNITCH_STARTS: Duration = Duration::from_secs(3);
/// How long the flood lasts.
const FLOOD: Duration = Duration::from_secs(10);
/// Sockets and ports of the flood: each pair is a flow of its own.
const SOCKETS: usize = 1_000;
const PORTS: u16 = 500;
const QUEUE: u16 = 4470;

pub fn rows() -> Vec<Row> {
    let mut rows = connects();
    rows.extend(durable());
    rows.extend(flood());
    rows.push(Row::limit(
        "memory of the daemon, 120k hosts + 5k networks",
        values(&run(&mut helper("daemon-memory")).output)["resident"],
        "MB",
        String::new(),
        Some(60.0),
    ));
    rows
}

fn connects() -> Vec<Row> {
    let rounds: Vec<_> = (0..ROUNDS)
        .map(|_| values(&run(&mut helper("flows")).output))
        .collect();
    let of = |key: &str| -> Vec<f64> { rounds.iter().map(|round| round[key]).collect() };
    let rate = |name: &str, ours: &str, null: &str, least: u32| {
        let text = |key: &str| format!("{:.0}/s", median(&of(key)));
        let compared = ratio(&of(ours), &of(null));
        let row = Row::ratio(
            name,
            text(ours),
            format!("{} null queue", text(null)),
            compared,
            None,
        );
        // The more, the better.
        Row {
            compared: (row.compared.0, -median(&of(ours))),
            target: (Target::AtMost(-f64::from(least)), format!(">= {least}/s")),
            ..row
        }
    };
    let text = |key: &str| format!("{:.1} us", median(&of(key)));
    vec![
        rate(
            "new TCP flows, each process named, one loop",
            "ours-rate",
            "null-rate",
            20_000,
        ),
        rate("the same, two loops", "ours-two", "null-two", 25_000),
        Row::ratio(
            "p50 of such a connect",
            text("ours-p50"),
            format!("{} null queue", text("null-p50")),
            ratio(&of("ours-p50"), &of("null-p50")),
            Some(4.0),
        ),
        opensnitch(median(&of("ours-rate"))),
        Row::limit(
            "flows of those that failed or got no alert",
            of("lost").iter().sum(),
            "flows",
            String::new(),
            Some(0.0),
        ),
    ]
}

/// Helper: connects through the null queue, then through the daemon.
pub fn time_flows() {
    namespace::enter_new();
    namespace::ip("link set lo up");
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65535").unwrap();
    let (server, _) = serve();
    let daemon = Daemon::start("alert", &server.ip().to_string());
    let mut lost = tell("ours", server);
    let flows = u64::try_from(3 * CONNECTS).unwrap();
    lost += flows - daemon.flows("alerted").min(flows);
    // Killed, so that the table goes on asking.
    drop(daemon);
    let stop = Arc::new(AtomicBool::new(false));
    let queue = Queue::open(QUEUE, 65_536, OnQueueFull::Pass).unwrap();
    let thread = std::thread::spawn({
        let stop = Arc::clone(&stop);
        let marks = MarkBits {
            mask: options().mark_mask,
            allow: options().allow_bit(),
            deny: options().deny_bit(),
        };
        move || queue.run(marks, &stop, |_: &Held<'_>| Answer::Pass)
    });
    lost += tell("null", server);
    println!("lost {lost}");
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap().unwrap();
}

/// Our rate in one loop beside that of OpenSnitch's daemon, which names the process of each flow too.
fn opensnitch(ours: f64) -> Row {
    let name = "the first, beside OpenSnitch";
    if !installed("opensnitchd") {
        return Row::skipped(name, "opensnitchd is not installed");
    }
    let of = values(&run(&mut helper("opensnitch")).output);
    if of["asked"] != FEWER as f64 || of["failed"] > 0.0 {
        let why = "opensnitchd was not asked about each flow once, or did not answer";
        return Row::skipped(name, why);
    }
    let other = format!("{:.0}/s OpenSnitch", of["rate"]);
    Row::ratio(name, format!("{ours:.0}/s"), other, ours / of["rate"], None)
}

/// Helper: connects while OpenSnitch answers the questions of the daemon's table.
pub fn time_opensnitch() {
    namespace::enter_new();
    namespace::ip("link set lo up");
    let (server, _) = serve();
    // Killed, so that the table goes on asking.
    drop(Daemon::start("alert", &server.ip().to_string()));
    let folder = tempfile::tempdir().unwrap();
    let nobody = format!("unix://{}/ui", folder.path().display());
    let mut opensnitch = Command::new("opensnitchd")
        .args(["-queue-num", &QUEUE.to_string(), "-ui-socket", &nobody])
        .args(["-process-monitor-method", "proc", "-rules-path"])
        .arg(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while begun.elapsed() < OPENSNITCH_STARTS {
        connect(server, 10);
    }
    remove_other_tables();
    let before = asked().unwrap_or_default();
    let begun = Instant::now();
    let (_, failed) = connect(server, FEWER);
    println!("rate {}", FEWER as f64 / begun.elapsed().as_secs_f64());
    println!("asked {}", asked().unwrap_or_default() - before);
    println!("failed {failed}");
    opensnitch.kill().unwrap();
    opensnitch.wait().unwrap();
}

/// OpenSnitch's own rules, where the kernel takes them, would ask it about each flow again.
fn remove_other_tables() {
    let Ok(listed) = Command::new("nft").args(["list", "tables"]).output() else {
        return;
    };
    let listed = String::from_utf8(listed.stdout).unwrap();
    for table in listed.lines().filter(|line| !line.contains("feedgate")) {
        let mut nft = Command::new("nft");
        nft.arg("delete").args(table.split_whitespace());
        nft.status().unwrap();
    }
}

/// Packets that were put into the queue so far, `None` while nobody reads it.
fn asked() -> Option<u64> {
    let queues = std::fs::read_to_string("/proc/net/netfilter/nfnetlink_queue").ok()?;
    // queue portid length mode range dropped user-dropped id 1
    let mut lines = queues.lines().map(|line| line.split_whitespace());
    let mut fields = lines.find(|fields| {
        let mut fields = fields.clone();
        fields.next() == Some(&QUEUE.to_string())
    })?;
    fields.nth(7)?.parse().ok()
}

fn durable() -> Vec<Row> {
    let of = values(&run(&mut helper("durable")).output);
    let rate = |name: &str, loops: &str| {
        let text = |whose: &str| format!("{:.0}/s", of[&format!("{whose}-{loops}")]);
        let (ours, base) = (text("durable"), format!("{} not durable", text("each")));
        let ratio = of[&format!("durable-{loops}")] / of[&format!("each-{loops}")];
        Row::ratio(name, ours, base, ratio, None)
    };
    let text = |whose: &str| format!("{:.0} us", of[&format!("{whose}-p50")]);
    vec![
        rate(
            "new TCP flows, each alert on disk first (durable), one loop",
            "1",
        ),
        rate("the same, 8 loops", "8"),
        rate("the same, 64 loops", "64"),
        Row::ratio(
            "p50 of such a connect, one loop",
            text("durable"),
            format!("{} not durable", text("each")),
            of["durable-p50"] / of["each-p50"],
            None,
        ),
        Row::limit(
            "one fsync of 4 KiB on the same disk, p50",
            of["fsync"],
            "us",
            String::new(),
            None,
        ),
        Row::limit(
            "flows of those that failed, were not stored, or did not wait",
            of["lost"],
            "flows",
            String::new(),
            Some(0.0),
        ),
        Row::limit(
            "flows that the daemon was not asked about",
            of["unasked"],
            "flows",
            "of 35,700".into(),
            None,
        ),
    ]
}

/// Helper: connects while every flow has an alert of its own, with and without `durable`.
pub fn time_durable() {
    namespace::enter_new();
    namespace::ip("link set lo up");
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65535").unwrap();
    let (server, _) = serve();
    let (mut lost, mut unasked) = (0, 0);
    for (whose, keys) in [
        ("each", "suppress = \"0s\""),
        ("durable", "suppress = \"0s\"\ndurable = true"),
    ] {
        let daemon = Daemon::start_with("alert", &server.ip().to_string(), keys);
        connect(server, 50);
        let mut flows = 50;
        for (loops, each) in [(1, 1_000), (8, 500), (64, 200)] {
            let begun = Instant::now();
            let done: Vec<_> = std::thread::scope(|scope| {
                let all: Vec<_> = (0..loops)
                    .map(|_| scope.spawn(move || connect(server, each)))
                    .collect();
                all.into_iter().map(|one| one.join().unwrap()).collect()
            });
            let count = loops * each;
            flows += count;
            lost += done.iter().map(|(_, failed)| failed).sum::<u64>();
            let rate = count as f64 / begun.elapsed().as_secs_f64();
            println!("{whose}-{loops} {rate}");
            if loops == 1 {
                let mut times: Vec<Duration> = done.into_iter().flat_map(|one| one.0).collect();
                times.sort_unstable();
                println!("{whose}-p50 {}", times[times.len() / 2].as_secs_f64() * 1e6);
            }
        }
        let flows = u64::try_from(flows).unwrap();
        let (stored, late) = daemon.stored(flows);
        let alerted = daemon.flows("alerted");
        lost += alerted.saturating_sub(stored) + late;
        unasked += flows - alerted.min(flows);
    }
    println!("lost {lost}");
    println!("unasked {unasked}");
    println!("fsync {}", fsync());
}

/// The median time of an fsync after 4 KiB more, in microseconds.
fn fsync() -> f64 {
    use std::io::Write as _;
    let mut file = tempfile::tempfile().unwrap();
    let mut times: Vec<Duration> = (0..100)
        .map(|_| {
            file.write_all(&[0; 4096]).unwrap();
            let begun = Instant::now();
            file.sync_data().unwrap();
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

/// Connects in one loop, then in two at once; prints both, and gives how many failed.
fn tell(whose: &str, server: SocketAddr) -> u64 {
    connect(server, CONNECTS / 10);
    let begun = Instant::now();
    let (mut times, mut failed) = connect(server, CONNECTS);
    println!(
        "{whose}-rate {}",
        CONNECTS as f64 / begun.elapsed().as_secs_f64()
    );
    times.sort_unstable();
    println!("{whose}-p50 {}", times[times.len() / 2].as_secs_f64() * 1e6);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let loops = [(); 2].map(|()| scope.spawn(|| connect(server, CONNECTS).1));
        for handle in loops {
            failed += handle.join().unwrap();
        }
    });
    println!(
        "{whose}-two {}",
        2.0 * CONNECTS as f64 / begun.elapsed().as_secs_f64()
    );
    failed
}

/// Connects one after the other; gives what each took, and how many failed.
pub fn connect(server: SocketAddr, count: usize) -> (Vec<Duration>, u64) {
    let (mut times, mut failed) = (Vec::with_capacity(count), 0);
    for _ in 0..count {
        let begun = Instant::now();
        match TcpStream::connect(server) {
            // Closed by a reset: no port stays behind.
            Ok(stream) => {
                let linger = libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                };
                setsockopt(&stream, sockopt::Linger, &linger).unwrap();
            }
            Err(_) => failed += 1,
        }
        times.push(begun.elapsed());
    }
    (times, failed)
}

fn flood() -> Vec<Row> {
    let of = values(&run(&mut helper("flood")).output);
    let seconds = FLOOD.as_secs();
    vec![
        Row::limit(
            "UDP flood of new denied flows, 10 s: packets that got out",
            of["leaked"],
            "packets",
            format!("of {:.0}/s", of["sent"] / FLOOD.as_secs_f64()),
            Some(0.0),
        ),
        Row::limit(
            "  denied first packets that no alert counts",
            of["uncounted"],
            "packets",
            format!(
                "of {:.0}, {:.0} more unattributed",
                of["denied"], of["unattributed"]
            ),
            Some(0.0),
        ),
        Row::limit(
            "  unattributed packets that no summary counts",
            of["unsummed"],
            "packets",
            String::new(),
            Some(0.0),
        ),
        Row::limit(
            "  growth of the daemon's memory from second 3 on",
            of["growth"],
            "MB",
            format!("{:.0} MB after {seconds} s", of["resident"]),
            Some(8.0),
        ),
    ]
}

/// Helper: floods a denied address with new flows.
pub fn time_flood() {
    namespace::enter_new();
    namespace::ip("link set lo up");
    let (server, there) = serve();
    let daemon = Daemon::start("deny", &server.ip().to_string());
    let seen = received(there);
    let sockets: Vec<UdpSocket> = (0..SOCKETS)
        .map(|_| UdpSocket::bind("0.0.0.0:0").unwrap())
        .collect();
    let (begun, mut sent, mut early) = (Instant::now(), 0u64, None);
    'flood: for port in (1..=PORTS).cycle() {
        for socket in &sockets {
            // The kernel tells a sender about a drop on output.
            let _ = socket.send_to(&[0; 18], (server.ip(), port));
            sent += 1;
        }
        if early.is_none() && begun.elapsed() > Duration::from_secs(3) {
            early = Some(daemon.resident_mb());
        }
        if begun.elapsed() > FLOOD {
            break 'flood;
        }
    }
    let resident = daemon.resident_mb();
    let counters = settled();
    let packets = |counter| counters[&counter].packets;
    let alerts = daemon.stop();
    let counted: u64 = alerts
        .iter()
        .filter(|event| event["event"]["kind"] == "alert")
        .map(count)
        .sum();
    let summed: u64 = alerts
        .iter()
        .filter(|event| event["event"]["action"] == "unattributed")
        .map(count)
        .sum();
    println!("sent {sent}");
    println!("leaked {}", received(there) - seen);
    println!("denied {}", packets(Counter::Denied));
    println!("unattributed {}", packets(Counter::DeniedUnattributed));
    println!("uncounted {}", packets(Counter::Denied).abs_diff(counted));
    println!(
        "unsummed {}",
        packets(Counter::DeniedUnattributed).abs_diff(summed)
    );
    println!("resident {resident}");
    println!("growth {}", (resident - early.unwrap_or(resident)).max(0.0));
}

/// The table's counters once the daemon has answered for all that it was given.
fn settled() -> BTreeMap<Counter, Count> {
    let kernel = Kernel::open(options()).unwrap();
    let mut last = kernel.counters().unwrap();
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let now = kernel.counters().unwrap();
        if Counter::ALL
            .iter()
            .all(|c| now[c].packets == last[c].packets)
        {
            return now;
        }
        last = now;
    }
}

/// UDP datagrams that reached the other namespace, wanted there or not.
fn received(thread: Pid) -> u64 {
    let file = format!("/proc/self/task/{thread}/net/snmp");
    let text = std::fs::read_to_string(file).unwrap();
    let udp = text
        .lines()
        .filter(|line| line.starts_with("Udp: "))
        .nth(1)
        .unwrap();
    // InDatagrams and NoPorts.
    udp.split_whitespace()
        .skip(1)
        .take(2)
        .map(|n| n.parse::<u64>().unwrap())
        .sum()
}

fn count(event: &serde_json::Value) -> u64 {
    event["feedgate"]["count"].as_u64().unwrap()
}

/// Helper: the daemon with a usual load.
pub fn daemon_memory() {
    namespace::enter_new();
    namespace::ip("link set lo up");
    let lines = data::text(&[data::ipsum_hosts(120_000), data::disjoint(5_000, 4)].concat());
    let daemon = Daemon::start("deny", &lines);
    std::thread::sleep(Duration::from_secs(2));
    println!("resident {}", daemon.resident_mb());
}
