//! The child of a self-test: it sends one datagram, and another one each time it is told to.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, UdpSocket},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, SystemTime},
};

use super::Order;
use crate::control::Probed;

/// The hidden verb that [`probe`] is run by.
const VERB: &str = "selftest-probe";
/// What the child says of a datagram that was not refused.
const ACCEPTED: &str = "accepted";

/// What its process is called.
const NAME: &str = "feedgate-probe";
/// The packet was seen before its verdict is in the kernel: until that is there, further datagrams are
/// held as well. So often one more is sent,
const TRIES: usize = 50;
/// and so long after the one before.
const PAUSE: Duration = Duration::from_millis(20);

/// A running child; killed on drop.
#[derive(Debug)]
pub struct Probe {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Probe {
    /// Starts a child that sends to the canary, waits by `seen` until that packet was seen, and lets it
    /// send once more.
    pub fn run(order: &Order, seen: impl FnOnce() -> bool) -> Probed {
        let mut probed = Probed::default();
        let mut probe = match Self::start(order) {
            Ok(probe) => probe,
            Err(e) => {
                probed.error = Some(format!("the child process could not be started: {e}"));
                return probed;
            }
        };
        probed.pid = probe.child.id();
        match probe.line().as_deref().map(|line| line.split_once(' ')) {
            Ok(Some(("sent", at))) => probed.sent_us = at.parse().ok(),
            Ok(Some(("failed", why))) => {
                probed.error = Some(format!("the child process could not send: {why}"));
                return probed;
            }
            Ok(_) => {
                probed.error = Some("the child process said nothing".into());
                return probed;
            }
            Err(e) => {
                probed.error = Some(format!("the child process could not be read: {e}"));
                return probed;
            }
        }
        seen();
        probed.again = match probe.again() {
            Ok(line) if line == ACCEPTED => None,
            Ok(line) => Some(line),
            Err(e) => {
                probed.error = Some(format!("the child process could not be read: {e}"));
                None
            }
        };
        probed
    }

    fn start(order: &Order) -> io::Result<Self> {
        // This very program, also when its file was replaced meanwhile.
        let mut child = Command::new("/proc/self/exe")
            .args([VERB, &order.to.to_string(), &order.token])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(stdin), Some(stdout)) => Ok(Self {
                child,
                stdin,
                stdout: BufReader::new(stdout),
            }),
            _ => Err(io::Error::other("it has no pipes")),
        }
    }

    /// The answer to further datagrams: the first one that is no success.
    fn again(&mut self) -> io::Result<String> {
        for _ in 0..TRIES {
            writeln!(self.stdin, "again")?;
            let line = self.line()?;
            if line != ACCEPTED {
                return Ok(line);
            }
            std::thread::sleep(PAUSE);
        }
        Ok(ACCEPTED.to_owned())
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the child does: its standard input and output are the parent's pipes.
pub fn probe(to: SocketAddr, token: &str) {
    // It would be `exe`. For the alert only.
    let _ = std::fs::write("/proc/self/comm", NAME);
    let any: SocketAddr = if to.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any).and_then(|socket| socket.connect(to).map(|()| socket));
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_micros());
    let socket = match socket.and_then(|socket| socket.send(token.as_bytes()).map(|_| socket)) {
        Ok(socket) => socket,
        Err(e) => {
            println!("failed {e}");
            return;
        }
    };
    println!("sent {now}");
    // As long as the parent asks for more; when it is gone this ends.
    for line in io::stdin().lines() {
        match line.and_then(|_| socket.send(token.as_bytes())) {
            Ok(_) => println!("{ACCEPTED}"),
            Err(e) => println!("{e}"),
        }
    }
}
