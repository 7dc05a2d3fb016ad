//! A server that goes away in the middle of a talk, at a point and in a way that the test chooses.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use feedgate::demo::{Netns, TICK};
use nix::sys::socket::{setsockopt, sockopt::Linger};

use super::Tls;

/// What a feed server says.
const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\n";
const BODY: &[u8] = b"203.0.113.1\n203.0.113.4\n";

/// The last thing it does before it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// To take the connection.
    Connect,
    /// To read the first bytes, which begin a handshake where there is one.
    Hello,
    /// To end the handshake.
    Handshake,
    /// The same, for HTTP/2, whose client writes first.
    Handshake2,
    /// To read what the client sends.
    Request,
    /// To send half of a head.
    Head,
    /// To send half of a body.
    Body,
    /// To send a whole good answer.
    Answer,
}

/// How it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Close,
    Reset,
}

/// The server; its port is closed when it is dropped.
pub(crate) struct Leaver {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    tls: Option<[Arc<rustls::ServerConfig>; 2]>,
    how: Mutex<(Phase, End)>,
    left: AtomicUsize,
    stop: AtomicBool,
}

impl Leaver {
    /// On a port of the loopback address of `netns`.
    pub(crate) fn start(netns: &Netns, tls: Option<&Tls>) -> Self {
        let listener = netns.enter(|| TcpListener::bind("127.0.0.1:0"));
        let listener = listener.unwrap().unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            tls: tls.map(|tls| [tls.speaking(b"http/1.1"), tls.speaking(b"h2")]),
            how: Mutex::new((Phase::Connect, End::Close)),
            left: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let parts = Arc::clone(&shared);
        let accept = move || {
            while !parts.stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let parts = Arc::clone(&parts);
                        std::thread::spawn(move || parts.connection(stream));
                    }
                    Err(_) => std::thread::sleep(TICK),
                }
            }
        };
        Self {
            address,
            shared,
            thread: Some(std::thread::spawn(accept)),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}/list", self.address)
    }

    /// The points at which it can go.
    pub(crate) fn phases(&self) -> Vec<Phase> {
        use Phase::{Answer, Body, Connect, Handshake, Handshake2, Head, Hello, Request};
        match self.shared.tls {
            None => vec![Connect, Hello, Request, Head, Body, Answer],
            Some(_) => vec![
                Connect, Hello, Handshake, Handshake2, Request, Head, Body, Answer,
            ],
        }
    }

    /// Goes so from now on.
    pub(crate) fn leave(&self, phase: Phase, end: End) {
        *self.shared.how.lock().unwrap() = (phase, end);
    }

    /// How many talks it has left.
    pub(crate) fn left(&self) -> usize {
        self.shared.left.load(Ordering::Relaxed)
    }
}

impl Drop for Leaver {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn connection(&self, stream: TcpStream) {
        let (phase, end) = *self.how.lock().unwrap();
        stream.set_nonblocking(false).unwrap();
        let wait = Some(Duration::from_secs(60));
        stream.set_read_timeout(wait).unwrap();
        // A client that goes first is none of this server's business.
        let _ = self.talk(&stream, phase);
        if end == End::Reset {
            let linger = libc::linger {
                l_onoff: 1,
                l_linger: 0,
            };
            setsockopt(&stream, Linger, &linger).unwrap();
        }
        drop(stream);
        self.left.fetch_add(1, Ordering::Relaxed);
    }

    fn talk(&self, mut stream: &TcpStream, phase: Phase) -> io::Result<()> {
        match (phase, &self.tls) {
            (Phase::Connect, _) => Ok(()),
            (Phase::Hello, _) => stream.read_exact(&mut [0; 10]),
            (_, None) => answer(stream, phase),
            (_, Some([http1, http2])) => {
                let config = if phase == Phase::Handshake2 {
                    http2
                } else {
                    http1
                };
                let mut tls = rustls::ServerConnection::new(Arc::clone(config)).unwrap();
                while tls.is_handshaking() {
                    tls.complete_io(&mut stream)?;
                }
                answer(rustls::Stream::new(&mut tls, &mut stream), phase)
            }
        }
    }
}

fn answer(mut stream: impl Read + Write, phase: Phase) -> io::Result<()> {
    let half = |text: &'static [u8]| &text[..text.len() / 2];
    if matches!(phase, Phase::Handshake | Phase::Handshake2) {
        return Ok(());
    }
    let _ = stream.read(&mut [0; 4096])?;
    match phase {
        Phase::Head => stream.write_all(half(HEAD))?,
        Phase::Body => stream.write_all(&[HEAD, half(BODY)].concat())?,
        Phase::Answer => stream.write_all(&[HEAD, BODY].concat())?,
        _ => {}
    }
    stream.flush()
}
