//! A storm of distinct alerts into all sinks at once: what arrives, and what verdicts cost meanwhile.

use std::{
    collections::HashSet,
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt};

use crate::{
    common::{
        daemon::Daemon,
        median, namespace,
        process::{helper, installed, run, values},
        ratio,
        table::Row,
    },
    load::serve,
};

const ROUNDS: usize = 3;
/// Distinct indicators, each touched once, and the time for all of them.
const ALERTS: usize = 100_000;
const STORM: Duration = Duration::from_secs(10);
/// Datagrams sent at once before the sender looks at the clock.
const BURST: usize = 5;
/// Between two connects whose verdict is timed.
const PAUSE: Duration = Duration::from_millis(2);
/// How long the sinks may take after the last flow.
const SETTLE: Duration = Duration::from_secs(60);
const LOG_PORT: u16 = 6514;

pub fn rows() -> Vec<Row> {
    let name = "100k distinct alerts in 10 s";
    if !installed("rsyslogd") {
        return vec![Row::skipped(name, "rsyslogd is not installed")];
    }
    let rounds: Vec<_> = (0..ROUNDS)
        .map(|_| values(&run(&mut helper("alerts")).output))
        .collect();
    let of = |key: &str| -> Vec<f64> { rounds.iter().map(|round| round[key]).collect() };
    let worst = |key: &str| of(key).into_iter().fold(0.0, f64::max);
    eprintln!(
        "alerts: sent in {:.1} s, all delivered after {:.1} s more; unattributed {:.0}",
        median(&of("seconds")),
        median(&of("settle")),
        worst("unattributed"),
    );
    let missing = |sink: &str| {
        let measure = format!("{name}: not in {sink}");
        let other = format!("of {ALERTS}, worst of {ROUNDS} runs");
        Row::limit(&measure, worst(sink), "alerts", other, Some(0.0))
    };
    let held = |key: &str| {
        let text = |whose: &str| format!("{:.0} us", median(&of(&format!("{whose}-{key}"))));
        Row::ratio(
            &format!("  connect to a watched address meanwhile, {key}"),
            text("storm"),
            format!("{} no sinks, {} idle", text("bare"), text("idle")),
            ratio(&of(&format!("storm-{key}")), &of(&format!("bare-{key}"))),
            None,
        )
    };
    vec![
        missing("syslog"),
        missing("json"),
        missing("store"),
        held("p50"),
        held("p99"),
    ]
}

/// Helper: one daemon with syslog over TCP, JSON and store; one new flow to each listed address.
pub fn time_alerts() {
    namespace::enter_new();
    namespace::ip("link set lo up");
    let (server, _) = serve();
    namespace::ip(&format!("route add 198.18.0.0/15 via {}", server.ip()));
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let _rsyslog = Rsyslog::start(folder.path(), &log);
    let mut lines = format!("{}\n", server.ip());
    for address in addresses() {
        writeln!(lines, "{address}").unwrap();
    }
    let each = "suppress = \"0s\"\nscan-after = 0\n";
    let bare = format!("{each}store = \"\"\nsyslog = []\n");
    let daemon = Daemon::start_as("alert", &lines, &bare);
    tell("bare", during_storm(server).0);
    drop(daemon);

    let sinks = format!("{each}[[alerts.syslog]]\naddress = \"tcp:127.0.0.1:{LOG_PORT}\"\n");
    let daemon = Daemon::start_with("alert", &lines, &sinks);
    let idle = AtomicBool::new(false);
    connects(server, &idle, Duration::from_millis(200));
    tell("idle", connects(server, &idle, STORM / 2));
    let (times, seconds) = during_storm(server);
    println!("seconds {seconds}");
    tell("storm", times);

    let ended = Instant::now();
    let mut arrived = 0;
    while arrived < ALERTS && ended.elapsed() < SETTLE {
        std::thread::sleep(Duration::from_millis(200));
        arrived = distinct(&log);
    }
    println!("settle {}", ended.elapsed().as_secs_f64());
    let flows = daemon.flows("alerted");
    let (stored, _) = daemon.stored(flows);
    println!("store {}", flows.abs_diff(stored));
    println!("unattributed {}", daemon.unattributed());
    println!("syslog {}", ALERTS.abs_diff(arrived));
    let events = daemon.stop();
    let ids: HashSet<&str> = events
        .iter()
        .filter(|event| {
            event["destination"]["ip"]
                .as_str()
                .is_some_and(|ip| ip.starts_with("198.1"))
        })
        .filter_map(|event| event["event"]["id"].as_str())
        .collect();
    println!("json {}", ALERTS.abs_diff(ids.len()));
}

/// Times of connects while a storm goes on, and how long it took.
fn during_storm(server: SocketAddr) -> (Vec<Duration>, f64) {
    let over = AtomicBool::new(false);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let timed = scope.spawn(|| connects(server, &over, 2 * STORM));
        storm();
        let seconds = begun.elapsed().as_secs_f64();
        over.store(true, Ordering::Relaxed);
        (timed.join().unwrap(), seconds)
    })
}

/// In 198.18.0.0/15, the range for benchmarks (RFC 2544).
fn addresses() -> impl Iterator<Item = Ipv4Addr> {
    let first = u32::from(Ipv4Addr::new(198, 18, 0, 1));
    (first..).take(ALERTS).map(Ipv4Addr::from)
}

/// One datagram to each address, evenly over [`STORM`].
fn storm() {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let begun = Instant::now();
    for (i, address) in addresses().enumerate() {
        socket.send_to(&[0; 18], (address, 9)).unwrap();
        if i.is_multiple_of(BURST) {
            let due = STORM.mul_f64(i as f64 / ALERTS as f64);
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
    }
}

/// Connects now and then, each a new flow that waits for its verdict.
fn connects(server: SocketAddr, over: &AtomicBool, longest: Duration) -> Vec<Duration> {
    let (begun, mut times) = (Instant::now(), Vec::new());
    while begun.elapsed() < longest && !over.load(Ordering::Relaxed) {
        let start = Instant::now();
        let stream = TcpStream::connect(server).unwrap();
        times.push(start.elapsed());
        // Closed by a reset: no port stays behind.
        let linger = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&stream, sockopt::Linger, &linger).unwrap();
        drop(stream);
        std::thread::sleep(PAUSE);
    }
    times
}

fn tell(whose: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    for (name, percent) in [("p50", 50), ("p99", 99)] {
        let time = times[(times.len() * percent / 100).min(times.len() - 1)];
        println!("{whose}-{name} {}", time.as_secs_f64() * 1e6);
    }
}

/// Alerts of the storm in rsyslog's file, each id once.
fn distinct(log: &Path) -> usize {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let of_storm = text.lines().filter(|line| line.contains(" dst=\"198.1"));
    let ids: HashSet<&str> = of_storm
        .filter_map(|line| line.split_once(" id=\"")?.1.split('"').next())
        .collect();
    ids.len()
}

/// A real rsyslogd that writes what comes over TCP into one file; killed on drop.
struct Rsyslog(Child);

impl Rsyslog {
    fn start(folder: &Path, log: &Path) -> Self {
        let config = folder.join("rsyslog.conf");
        let text = format!(
            "global(workDirectory=\"{0}\" maxMessageSize=\"16k\")\n\
             module(load=\"imtcp\")\n\
             input(type=\"imtcp\" address=\"127.0.0.1\" port=\"{LOG_PORT}\")\n\
             template(name=\"raw\" type=\"string\" string=\"%rawmsg%\\n\")\n\
             *.* action(type=\"omfile\" file=\"{1}\" template=\"raw\")\n",
            folder.display(),
            log.display()
        );
        std::fs::write(&config, text).unwrap();
        let child = Command::new("rsyslogd")
            .args(["-n", "-i"])
            .arg(folder.join("pid"))
            .arg("-f")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", LOG_PORT)).is_err() {
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "rsyslogd does not listen"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Self(child)
    }
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
