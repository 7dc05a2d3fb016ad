//! What it costs to name the process behind a flow: `cargo bench --bench attribution`.
//!
//! Sockets of this process on the loopback interface, one new flow after the other; only the
//! attribution is timed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)] // a benchmark may stop at the first surprise

use std::{
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use feedgate::{
    attribution::{Attributor, Clues, Grade, Roots},
    feed::Direction,
    packet::{Flow, Protocol, Transport},
};

const FLOWS: usize = 20_000;

fn main() {
    let (address, accepts) = server();
    report("tcp, one process, same descriptor", || {
        let stream = TcpStream::connect(address).unwrap();
        let flow = flow(Protocol::TCP, stream.local_addr().unwrap(), address);
        (flow, stream)
    });
    let open: Vec<TcpStream> = (0..100)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    report("tcp, one process with 100 sockets", || {
        let stream = TcpStream::connect(address).unwrap();
        let flow = flow(Protocol::TCP, stream.local_addr().unwrap(), address);
        (flow, stream)
    });
    drop(open);
    report("udp, unconnected", || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let flow = flow(Protocol::UDP, socket.local_addr().unwrap(), address);
        (flow, socket)
    });
    drop(accepts);
}

/// Accepts and closes.
fn server() -> (SocketAddr, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        // Kept until the next comes, so that the client closes first and no port stays taken here.
        let mut last = Vec::new();
        for stream in listener.incoming() {
            last.push(stream.unwrap());
            if last.len() > 256 {
                last.remove(0);
            }
        }
    });
    (address, thread)
}

fn report<T>(name: &str, mut open: impl FnMut() -> (Flow, T)) {
    let mut attributor = Attributor::new(&Roots::default(), Duration::from_secs(1)).unwrap();
    let clues = Clues {
        uid: Some(nix::unistd::geteuid().as_raw()),
        ..Clues::default()
    };
    let mut times = Vec::with_capacity(FLOWS);
    for _ in 0..FLOWS {
        let (flow, _socket) = open();
        let start = Instant::now();
        let source = attributor.local(&flow, Direction::Egress, &clues);
        times.push(start.elapsed());
        assert_eq!(source.grade, Grade::Exact, "{source:?}");
        assert_eq!(source.pid, Some(std::process::id()));
    }
    times.sort_unstable();
    let mean = times.iter().sum::<Duration>() / u32::try_from(FLOWS).unwrap();
    println!(
        "{name}: mean {mean:?}, p50 {:?}, p99 {:?}",
        times[FLOWS / 2],
        times[FLOWS * 99 / 100]
    );
}

fn flow(proto: Protocol, src: SocketAddr, dst: SocketAddr) -> Flow {
    Flow {
        src: src.ip(),
        dst: dst.ip(),
        proto,
        transport: Transport::Ports {
            src: src.port(),
            dst: dst.port(),
        },
        fragment: false,
    }
}
