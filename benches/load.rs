//! What a large load does to others: connects meanwhile, and how soon a flushed table is back.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use feedgate::{
    nft::{Kernel, Notice, Watch},
    ruleset::Options,
    snapshot::{Delta, Sets},
};
use nix::{
    sys::socket::{Backlog, listen, setsockopt, sockopt},
    unistd::Pid,
};

use crate::{
    common::{
        data, median, namespace,
        netlink::{Batch, Socket},
        process::{helper, run, values},
        table::Row,
    },
    kernel::{self, options},
};

const ROUNDS: usize = 3;
const RANGES: usize = 1_000_000;
/// In 10/8, where the data have nothing.
const SERVER: &str = "10.9.9.2";
const PORT: u16 = 8099;
/// How long connects are measured without a load.
const IDLE: Duration = Duration::from_secs(3);
/// Between two connects.
const PAUSE: Duration = Duration::from_micros(500);
const INET: u8 = 1;

pub fn rows() -> Vec<Row> {
    let mut rows = connects();
    for (case, name) in [
        ("hosts", "flushed 120k hosts + 5k networks are back"),
        ("large", "deleted table of 900k ranges is back"),
    ] {
        rows.push(heal(case, name));
    }
    rows
}

/// Connects to an unlisted address, idle and during a load of a million ranges.
fn connects() -> Vec<Row> {
    let rounds: Vec<_> = (0..ROUNDS)
        .map(|_| values(&run(&mut helper("connects")).output))
        .collect();
    let of = |key: &str| median(&rounds.iter().map(|round| round[key]).collect::<Vec<_>>());
    eprintln!(
        "connects: {:.0} idle, {:.0} during a load of {:.1} s",
        of("idle-count"),
        of("load-count"),
        of("load-seconds")
    );
    let row = |name: &str, key: &str| {
        let (idle, load) = (of(&format!("idle-{key}")), of(&format!("load-{key}")));
        Row::difference(name, load, idle, load - idle, "idle", "us", None)
    };
    vec![
        row(
            "connect to an unlisted address during a 1M load, p50",
            "p50",
        ),
        row("the same, p99", "p99"),
        row("the same, the slowest", "max"),
    ]
}

/// From the notification of the flush to the end of the repair, as the daemon does it.
fn heal(case: &str, name: &str) -> Row {
    let seconds = |words: [&str; 3], key: &str| {
        let all: Vec<f64> = (0..ROUNDS)
            .map(|_| values(&run(helper(words[0]).args(&words[1..])).output)[key])
            .collect();
        median(&all) * 1e3
    };
    let floor = seconds(["load", "floor", case], "load");
    let back = seconds(["heal", case, ""], "back");
    Row::limit(
        name,
        back,
        "ms",
        format!("{floor:.0} ms floor of a load"),
        Some(1.5 * floor + 300.0),
    )
}

/// Helper: loads a table that anybody may change, flushes its deny sets or deletes it, repairs it.
pub fn flush_and_heal(case: &str) {
    namespace::enter_new();
    let sets = kernel::first(case);
    let options = Options {
        owner: false,
        ..options()
    };
    let mut kernel = Kernel::open(options).unwrap();
    let mut watch = kernel.watch().unwrap();
    kernel.install(&sets).unwrap();
    while !notices(&mut watch).is_empty() {}

    Socket::open().send(&damage(case, &sets));
    let start = Instant::now();
    let seen = loop {
        let notices = notices(&mut watch);
        if !notices.is_empty() {
            break notices;
        }
    };
    let lost = seen
        .iter()
        .any(|notice| matches!(notice, Notice::Lost { .. }));
    // As heal.rs of the daemon: what is denied first.
    let denied = sets.denied();
    kernel.reinstall(&denied, true).unwrap();
    if let Some(rest) = Delta::between(&denied, &sets) {
        kernel.apply(&rest, &sets).unwrap();
    }
    println!("back {}", start.elapsed().as_secs_f64());
    println!("lost {}", u8::from(lost));
    assert!(kernel.is_whole(&sets).unwrap());
}

/// The large table is deleted, not flushed: a flush takes 8 KiB of kernel memory for each element while
/// somebody listens, 15 GB in that case.
fn damage(case: &str, sets: &Sets) -> Vec<u8> {
    let mut batch = Batch::new(INET);
    if case == "large" {
        batch.delete_table("feedgate");
        return batch.finish();
    }
    let denied = sets.names().map(|name| name.to_string());
    for name in denied.filter(|name| name.starts_with("deny")) {
        batch.flush("feedgate", &name);
    }
    batch.finish()
}

fn notices(watch: &mut Watch) -> Vec<Notice> {
    watch.next(Duration::from_millis(200)).unwrap()
}

/// Helper: a client in a namespace with the table, a server behind a veth pair.
pub fn time_connects() {
    namespace::enter_new();
    namespace::ip("link set lo up");
    let (server, _) = serve();
    let small = data::snapshot(&[data::ipsum_hosts(120_000), data::disjoint(5_000, 4)].concat());
    let large = data::snapshot(&data::disjoint(RANGES, 1));
    let kernel = Kernel::open(options()).unwrap();
    kernel.install(&small.sets).unwrap();
    std::thread::sleep(Duration::from_millis(1500));

    // The first ones find neighbours and warm everything up.
    connect_for(server, Duration::from_millis(300), &AtomicBool::new(false));
    let idle = connect_for(server, IDLE, &AtomicBool::new(false));
    let delta = Delta::between(&small.sets, &large.sets).unwrap();
    let loaded = AtomicBool::new(false);
    let start = Instant::now();
    let during = std::thread::scope(|scope| {
        // In this thread's namespace.
        let client = scope.spawn(|| connect_for(server, Duration::from_secs(600), &loaded));
        kernel.apply(&delta, &large.sets).unwrap();
        loaded.store(true, Ordering::Relaxed);
        println!("load-seconds {}", start.elapsed().as_secs_f64());
        client.join().unwrap()
    });
    tell("idle", idle);
    tell("load", during);
}

fn tell(which: &str, mut all: Vec<Duration>) {
    all.sort_unstable();
    let at = |share: usize| all[(all.len() * share / 100).min(all.len() - 1)].as_secs_f64() * 1e6;
    println!("{which}-count {}", all.len());
    println!("{which}-p50 {}", at(50));
    println!("{which}-p99 {}", at(99));
    println!("{which}-max {}", at(100));
}

/// Connects again and again, for `time` or until `stop`; how long each took.
fn connect_for(server: SocketAddr, time: Duration, stop: &AtomicBool) -> Vec<Duration> {
    let start = Instant::now();
    let mut all = Vec::new();
    while start.elapsed() < time && !stop.load(Ordering::Relaxed) {
        let connecting = Instant::now();
        let stream = TcpStream::connect(server).unwrap();
        all.push(connecting.elapsed());
        // Closed by a reset: no port stays behind.
        let linger = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&stream, sockopt::Linger, &linger).unwrap();
        std::thread::sleep(PAUSE);
    }
    all
}

/// A thread in a namespace of its own that accepts connections from this one's end of a veth pair: the
/// address, and the thread.
pub fn serve() -> (SocketAddr, Pid) {
    let (tell, told) = mpsc::channel();
    let (go, going) = mpsc::channel::<()>();
    let address = SocketAddr::new(SERVER.parse().unwrap(), PORT);
    std::thread::spawn(move || {
        namespace::enter_new();
        tell.send(nix::unistd::gettid()).unwrap();
        going.recv().unwrap();
        namespace::ip(&format!("addr add {SERVER}/24 dev there"));
        namespace::ip("link set there up");
        let listener = TcpListener::bind(address).unwrap();
        // The load may keep this thread from its processor: the queue holds all that come meanwhile.
        listen(&listener, Backlog::MAXALLOWABLE).unwrap();
        tell.send(nix::unistd::gettid()).unwrap();
        for stream in listener.incoming() {
            drop(stream);
        }
    });
    let thread = told.recv().unwrap();
    namespace::ip(&format!(
        "link add here type veth peer name there netns {thread}"
    ));
    namespace::ip("addr add 10.9.9.1/24 dev here");
    namespace::ip("link set here up");
    go.send(()).unwrap();
    told.recv().unwrap();
    (address, thread)
}
