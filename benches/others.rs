//! What others wait while one process floods: a connect to a watched address beside a process whose
//! flows are slow to look up, each in its own way.

use std::{
    collections::BTreeMap,
    fs::File,
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket},
};

use crate::{
    common::{
        daemon::Daemon,
        namespace,
        process::{helper, run, values},
        table::{Row, Target},
    },
    flows,
    load::serve,
};

/// Listed too, and there is nobody.
const FLOODED: &str = "203.0.113.66";
/// Time of each measurement.
const TIME: Duration = Duration::from_secs(15);
/// Between two connects of the other process.
const PAUSE: Duration = Duration::from_millis(10);
/// Files of the process that is slow to search, and sockets amid them.
const FILES: usize = 15_000;
const SOCKETS: usize = 300;
/// What the project asks for, in milliseconds.
const MOST: f64 = 250.0;

/// How a process floods, its flows a second, and in words.
const FLOODS: [(&str, u32, &str); 3] = [
    (
        "descriptors",
        200,
        "200 UDP flows/s amid 15,000 descriptors",
    ),
    ("descriptors", 2_000, "2,000 of those a second"),
    ("closing", 2_000, "2,000 TCP connects/s, closed at once"),
];

pub fn rows() -> Vec<Row> {
    FLOODS.into_iter().flat_map(row).collect()
}

fn row((how, rate, words): (&str, u32, &str)) -> Vec<Row> {
    let of = values(&run(helper("others").args([how, &rate.to_string()])).output);
    let row = |name: String, part: &str, most: Option<f64>| {
        let (beside, alone) = (of[&format!("beside-{part}")], of[&format!("alone-{part}")]);
        Row {
            measure: name,
            ours: format!("{beside:.2} ms"),
            other: format!("{alone:.2} ms without"),
            compared: (format!("{:.1} x", beside / alone), beside),
            target: match most {
                Some(most) => (Target::AtMost(most), format!("<= {most:.0} ms")),
                None => (Target::None, "-".to_owned()),
            },
        }
    };
    vec![
        row(format!("connect beside {words}, p50"), "p50", None),
        row("  p99".to_owned(), "p99", Some(MOST)),
        row("  the slowest".to_owned(), "most", None),
        Row::limit(
            "  of those connects without a process in their alert",
            of["unnamed"],
            "flows",
            format!("of {:.0}", of["connects"]),
            None,
        ),
        Row::limit(
            "  flows that no alert counts",
            of["uncounted"],
            "flows",
            format!("of {:.0}, {:.0} folded", of["flows"], of["folded"]),
            Some(0.0),
        ),
    ]
}

/// Helper: times connects without and with a flood of this kind.
pub fn time_others(how: &str, rate: &str) {
    namespace::enter_new();
    namespace::ip("link set lo up");
    let (server, _) = serve();
    namespace::ip(&format!("route add {FLOODED}/32 via {}", server.ip()));
    let lines = format!("{}\n{FLOODED}\n", server.ip());
    let daemon = Daemon::start_with("alert", &lines, "suppress = \"0s\"");
    tell("alone", &connects(server, TIME / 3));
    let mut flood = helper("flood-others");
    let mut flood = flood
        .args([how, rate])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    // Until it floods.
    while daemon.alerts().iter().all(|alert| !is_to(alert, FLOODED)) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let before = daemon.alerts();
    let beside = connects(server, TIME);
    tell("beside", &beside);
    flood.kill().unwrap();
    flood.wait().unwrap();
    let counted = settled(&daemon);
    println!("connects {}", beside.len());
    println!("folded {}", counted["folded"]);
    let alerts = daemon.stop();
    let server = server.ip().to_string();
    let theirs = |alerts: &[serde_json::Value]| {
        let theirs = alerts.iter().filter(|alert| is_to(alert, &server));
        theirs
            .filter(|alert| alert["process"]["pid"].is_u64())
            .count()
    };
    let named = theirs(&alerts) - theirs(&before);
    println!("unnamed {}", beside.len().saturating_sub(named));
    println!("flows {}", counted["flows"]);
    let told = alerts.len();
    println!(
        "uncounted {}",
        counted["flows"].abs_diff(u64::try_from(told).unwrap())
    );
}

/// The daemon's counts once it has answered for all that waits.
fn settled(daemon: &Daemon) -> BTreeMap<&'static str, u64> {
    let mut last = daemon.packets();
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let now = daemon.packets();
        if now == last {
            return now;
        }
        last = now;
    }
}

fn is_to(alert: &serde_json::Value, address: &str) -> bool {
    alert["destination"]["ip"] == address
}

/// One connect after the other, with pauses, for so long.
fn connects(server: SocketAddr, time: Duration) -> Vec<Duration> {
    let (begun, mut times) = (Instant::now(), Vec::new());
    while begun.elapsed() < time {
        let (took, failed) = flows::connect(server, 1);
        assert_eq!(failed, 0);
        times.extend(took);
        std::thread::sleep(PAUSE);
    }
    times.sort_unstable();
    times
}

fn tell(which: &str, times: &[Duration]) {
    let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1e3;
    println!("{which}-p50 {}", at(50));
    println!("{which}-p99 {}", at(99));
    println!("{which}-most {}", at(100));
}

/// Helper: floods until it is killed.
pub fn flood(how: &str, rate: &str) {
    let rate: u32 = rate.parse().unwrap();
    match how {
        "descriptors" => {
            let mut prlimit = Command::new("prlimit");
            prlimit.args(["--nofile=20000:20000", "--pid"]);
            prlimit.arg(std::process::id().to_string());
            assert!(prlimit.status().unwrap().success());
            let null = File::open("/dev/null").unwrap();
            let files = |count: usize| -> Vec<File> {
                (0..count).map(|_| null.try_clone().unwrap()).collect()
            };
            let _below = files(FILES / 3);
            let sockets: Vec<UdpSocket> = (0..SOCKETS)
                .map(|_| UdpSocket::bind("0.0.0.0:0").unwrap())
                .collect();
            let _above = files(FILES / 3 * 2);
            // Their numbers are not next to each other.
            paced(rate, |at| {
                let port = u16::try_from(1 + at / SOCKETS).unwrap();
                let _ = sockets[at * 37 % SOCKETS].send_to(b"x", (FLOODED, port));
            });
        }
        "closing" => paced(rate, |_| {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let client = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
            let there: SocketAddr = format!("{FLOODED}:80").parse().unwrap();
            let begun = connect(client.as_raw_fd(), &SockaddrStorage::from(there));
            assert_eq!(begun, Err(Errno::EINPROGRESS));
        }),
        _ => panic!("no such flood: {how}"),
    }
}

/// Does something so many times a second.
fn paced(rate: u32, mut work: impl FnMut(usize)) {
    let begun = Instant::now();
    for at in 0.. {
        let due = begun + Duration::from_secs(1) * u32::try_from(at).unwrap() / rate;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        work(at);
    }
}
