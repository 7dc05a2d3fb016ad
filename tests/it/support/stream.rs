//! Datagrams without a pause to addresses that feeds list, and what arrives of them.

use std::{
    fs::File,
    io,
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use feedgate::demo::TICK;
use nix::sched::{CloneFlags, setns};

use super::{Lab, eventually};

/// An address of the server that no feed lists: what is sent there arrives.
const UNLISTED: &str = "203.0.113.200";
/// The last datagram, to [`UNLISTED`].
const END: &[u8] = b"end";

/// How fast to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// A thousand a second.
    Steady,
    /// As fast as it goes.
    Full,
}

/// A thread that sends from the host to the server, and the socket on which it arrives. Each
/// datagram is a flow of its own.
pub(crate) struct Stream {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    socket: UdpSocket,
    arrived: u64,
}

#[derive(Default)]
struct Shared {
    sent: AtomicU64,
    stop: AtomicBool,
    /// The last datagram has arrived.
    ended: AtomicBool,
}

impl Stream {
    /// From the host to `port` of each of the server's `addresses` in turn.
    pub(crate) fn start(
        lab: &Lab,
        addresses: &'static [&'static str],
        port: u16,
        pace: Pace,
    ) -> Self {
        let socket = lab.server.enter(|| UdpSocket::bind(("0.0.0.0", port)));
        let socket = socket.unwrap().unwrap();
        socket.set_nonblocking(true).unwrap();
        let shared = Arc::new(Shared::default());
        let sender = Sender {
            shared: Arc::clone(&shared),
            netns: File::open(lab.host.path()).unwrap(),
            port,
            pace,
        };
        Self {
            shared,
            thread: Some(std::thread::spawn(move || sender.run(addresses))),
            socket,
            arrived: 0,
        }
    }

    /// Waits until so many more have been sent than now.
    #[track_caller]
    pub(crate) fn wait_for_more(&self, count: u64) {
        let sent = || self.shared.sent.load(Ordering::Relaxed);
        let now = sent();
        eventually("datagrams are sent", || {
            (sent() >= now + count).then_some(())
        });
    }

    /// Waits until so many have arrived.
    #[track_caller]
    pub(crate) fn wait_for_arrivals(&mut self, count: u64) {
        eventually("datagrams arrive", || {
            self.take();
            (self.arrived >= count).then_some(())
        });
    }

    /// How many have arrived by now.
    pub(crate) fn arrived(&mut self) -> u64 {
        self.take();
        self.arrived
    }

    /// Ends it; how many were sent, and how many of them arrived. What was under way is waited for: one
    /// last datagram to an unlisted address arrives behind it.
    #[track_caller]
    pub(crate) fn end(mut self) -> (u64, u64) {
        self.shared.stop.store(true, Ordering::Relaxed);
        eventually("the last datagram arrives", || self.take().then_some(()));
        self.finish();
        (self.shared.sent.load(Ordering::Relaxed), self.arrived)
    }

    /// Counts what has arrived; true when the last one was among it.
    fn take(&mut self) -> bool {
        let mut last = false;
        let mut buffer = [0; 16];
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(length) if &buffer[..length] == END => last = true,
                Ok(_) => self.arrived += 1,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return last,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn finish(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.ended.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map_or(Ok(()), JoinHandle::join);
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.finish();
    }
}

struct Sender {
    shared: Arc<Shared>,
    netns: File,
    port: u16,
    pace: Pace,
}

impl Sender {
    fn run(&self, addresses: &[&str]) {
        setns(&self.netns, CloneFlags::CLONE_NEWNET).unwrap();
        let start = Instant::now();
        for address in addresses.iter().cycle() {
            if self.shared.stop.load(Ordering::Relaxed) {
                break;
            }
            self.send(address, b"x");
            let sent = self.shared.sent.fetch_add(1, Ordering::Relaxed) + 1;
            if self.pace == Pace::Steady {
                let due = start + Duration::from_millis(sent);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        }
        while !self.shared.ended.load(Ordering::Relaxed) {
            self.send(UNLISTED, END);
            std::thread::sleep(TICK);
        }
    }

    fn send(&self, address: &str, datagram: &[u8]) {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        // A drop in the output hook is EPERM for the sender.
        let _ = socket.send_to(datagram, (address, self.port));
    }
}

#[test]
fn what_is_not_dropped_arrives_and_is_counted() {
    let Some(lab) = Lab::new() else { return };
    let mut stream = Stream::start(&lab, &["203.0.113.1", "203.0.113.2"], 9, Pace::Steady);
    stream.wait_for_arrivals(10);
    stream.wait_for_more(10);
    let (sent, arrived) = stream.end();
    assert!(sent >= 20, "{sent}");
    assert_eq!(arrived, sent);
}
