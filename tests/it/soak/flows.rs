//! Those who send, each a process of its own, and the far end.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    io::Read as _,
    net::{IpAddr, UdpSocket},
    process::{Child, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};

use super::{CHURN, DENIED, TOGGLED, UNLISTED, WATCHED};
use crate::support::Lab;

/// Where all datagrams go to.
pub(super) const PORT: u16 = 9;
/// Between two datagrams of a process.
const PACE: Duration = Duration::from_millis(20);
/// Source ports of one process, after which they come again: more than the kernel remembers a verdict for.
const PORTS: u16 = 9_000;
/// Sockets that stay open behind a flow, so that its process can be found.
const OPEN: usize = 100;

const ADDRESSES: &str = "SOAK_ADDRESSES";
const FIRST_PORT: &str = "SOAK_FIRST_PORT";
const RESULT: &str = "SOAK_RESULT";

/// The clock that no jump of the wall clock moves, the same for all processes.
pub(super) fn monotonic() -> Duration {
    Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap())
}

/// The processes that send.
pub(super) struct Workers(Vec<(Child, std::path::PathBuf)>);

impl Workers {
    pub(super) fn start(lab: &Lab) -> Self {
        let mixes = [
            [&DENIED[..], &[CHURN, TOGGLED]].concat(),
            [&WATCHED[..], &[TOGGLED], &UNLISTED].concat(),
            [&DENIED[..], &WATCHED, &UNLISTED, &[CHURN, TOGGLED]].concat(),
        ];
        let start = |(at, addresses): (usize, &Vec<&str>)| {
            let result = lab.path(&format!("sent-{at}"));
            let _ = fs::remove_file(&result);
            let first = 10_000 + u16::try_from(at).unwrap() * PORTS;
            let child = lab
                .host
                .command(std::env::current_exe().unwrap())
                .args(["--ignored", "--exact", "soak::flows::sender"])
                .env(ADDRESSES, addresses.join(","))
                .env(FIRST_PORT, first.to_string())
                .env(RESULT, &result)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            (child, result)
        };
        Self(mixes.iter().enumerate().map(start).collect())
    }

    /// Ends them; how many were sent to each address.
    pub(super) fn end(mut self) -> BTreeMap<String, u64> {
        let mut sent = BTreeMap::new();
        for (child, result) in &mut self.0 {
            drop(child.stdin.take());
            assert!(child.wait().unwrap().success(), "a sender failed");
            let counts: BTreeMap<String, u64> =
                serde_json::from_str(&fs::read_to_string(result).unwrap()).unwrap();
            for (address, count) in counts {
                *sent.entry(address).or_default() += count;
            }
        }
        sent
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for (child, _) in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What each of the processes does.
#[test]
#[ignore = "a process of the soak"]
fn sender() {
    // Run by hand it has nothing to do.
    let Ok(addresses) = std::env::var(ADDRESSES) else {
        return;
    };
    let addresses: Vec<IpAddr> = addresses
        .split(',')
        .map(|text| text.parse().unwrap())
        .collect();
    let first: u16 = std::env::var(FIRST_PORT).unwrap().parse().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        told.store(true, Ordering::Relaxed);
    });
    let mut sent: BTreeMap<String, u64> = BTreeMap::new();
    let mut open = VecDeque::new();
    let mut due = Instant::now();
    for (n, to) in (0..PORTS).cycle().zip(addresses.iter().cycle()) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let any: IpAddr = if to.is_ipv4() {
            [0; 4].into()
        } else {
            [0; 16].into()
        };
        let socket = UdpSocket::bind((any, first + n)).unwrap();
        let now = u64::try_from(monotonic().as_nanos()).unwrap();
        match socket.send_to(&now.to_be_bytes(), (*to, PORT)) {
            Ok(_) => {}
            // Dropped on its way out.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
            Err(error) => panic!("{to}: {error}"),
        }
        *sent.entry(to.to_string()).or_default() += 1;
        open.push_back(socket);
        if open.len() > OPEN {
            open.pop_front();
        }
        due += PACE;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    // Those who wait for a verdict are still somebody's.
    std::thread::sleep(Duration::from_secs(2));
    fs::write(
        std::env::var(RESULT).unwrap(),
        serde_json::to_string(&sent).unwrap(),
    )
    .unwrap();
}

/// The far end of the address that a policy denies now and then: when were the datagrams sent that arrived?
pub(super) struct Far {
    sent: Arc<Mutex<Vec<Duration>>>,
    closed: Vec<(Duration, Duration)>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Far {
    pub(super) fn start(lab: &Lab, address: &str) -> Self {
        let socket = lab.server.enter(|| UdpSocket::bind((address, PORT)));
        let socket = socket.unwrap().unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let (sent, stop) = (
            Arc::new(Mutex::new(Vec::new())),
            Arc::new(AtomicBool::new(false)),
        );
        let (into, stopped) = (Arc::clone(&sent), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 8];
            while !stopped.load(Ordering::Relaxed) {
                if socket.recv(&mut buffer).is_ok() {
                    let at = Duration::from_nanos(u64::from_be_bytes(buffer));
                    into.lock().unwrap().push(at);
                }
            }
        });
        Self {
            sent,
            closed: Vec::new(),
            stop,
            thread: Some(thread),
        }
    }

    /// Nothing that was sent in this time may arrive.
    pub(super) fn must_not_arrive(&mut self, from: Duration, until: Duration) {
        if from < until {
            self.closed.push((from, until));
        }
    }

    /// For how long nothing was to arrive.
    pub(super) fn closed(&self) -> Duration {
        self.closed.iter().map(|(from, until)| *until - *from).sum()
    }

    /// How many did.
    pub(super) fn leaked(&self) -> u64 {
        let sent = self.sent.lock().unwrap();
        assert!(!sent.is_empty(), "none ever arrived");
        assert!(
            self.closed() > Duration::from_secs(1),
            "the policy was never in force"
        );
        let closed = |at: &&Duration| {
            self.closed
                .iter()
                .any(|(from, until)| from < *at && *at < until)
        };
        u64::try_from(sent.iter().filter(closed).count()).unwrap()
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
