//! Servers and clients inside a namespace.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use feedgate::demo::{Netns, Response, Server};

/// How long a client waits for what must come. Far above what it takes: only a test that fails waits
/// for so long.
const PATIENT: Duration = Duration::from_secs(20);

/// How long a client waits for what must not come: two SYNs' worth.
const DROPPED: Duration = Duration::from_millis(1500);

/// A web server on port 80 of every address of `netns`.
pub(crate) fn web(netns: &Netns) -> Server {
    let listener = netns
        .enter(|| TcpListener::bind("[::]:80"))
        .unwrap()
        .unwrap();
    Server::start(listener, |_| Response::text("hello\n")).unwrap()
}

/// A TCP connection from `netns`, opened by this process; waits long for it.
pub(crate) fn connect(netns: &Netns, address: &str) -> io::Result<TcpStream> {
    connect_within(netns, address, PATIENT)
}

/// A TCP connection, if it is made soon: to ask again and again whether it is by now.
pub(crate) fn reached(netns: &Netns, address: &str) -> Option<TcpStream> {
    connect_within(netns, address, DROPPED).ok()
}

fn connect_within(netns: &Netns, address: &str, limit: Duration) -> io::Result<TcpStream> {
    let address: SocketAddr = address.parse().unwrap();
    netns
        .enter(|| TcpStream::connect_timeout(&address, limit))
        .unwrap()
}

/// True when a connection is neither made nor refused: its packets are dropped.
pub(crate) fn dropped(netns: &Netns, address: &str) -> bool {
    match connect_within(netns, address, DROPPED) {
        Ok(_) => false,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => true,
        Err(error) => panic!("neither open nor dropped: {error}"),
    }
}

/// A UDP server that sends every datagram back.
pub(crate) struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Echoes on `address` of `netns`.
pub(crate) fn echo(netns: &Netns, address: &str) -> Echo {
    let socket = netns.enter(|| UdpSocket::bind(address)).unwrap();
    let socket = socket.unwrap_or_else(|e| panic!("{address}: {e}"));
    socket
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while !stopped.load(Ordering::Relaxed) {
            if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], from);
            }
        }
    });
    Echo {
        stop,
        thread: Some(thread),
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Sends a datagram from a connected socket of this process and waits long for the echo; gives the
/// socket.
pub(crate) fn exchange(netns: &Netns, address: &str) -> io::Result<UdpSocket> {
    exchange_within(netns, address, PATIENT)
}

/// True when a datagram is refused to its sender, or no echo comes.
pub(crate) fn unanswered(netns: &Netns, address: &str) -> bool {
    exchange_within(netns, address, DROPPED).is_err()
}

fn exchange_within(netns: &Netns, address: &str, limit: Duration) -> io::Result<UdpSocket> {
    let address: SocketAddr = address.parse().unwrap();
    let local = if address.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = netns.enter(|| UdpSocket::bind(local)).unwrap()?;
    socket.set_read_timeout(Some(limit))?;
    socket.connect(address)?;
    // A drop in the output hook may be EPERM for the sender already.
    socket.send(b"hello")?;
    socket.recv(&mut [0; 16])?;
    Ok(socket)
}

/// One echo request; true when the answer came, for which it waits long.
pub(crate) fn ping(netns: &Netns, address: &str) -> bool {
    ping_within(netns, PATIENT, &[address])
}

/// One echo request; true when no answer came.
pub(crate) fn ping_lost(netns: &Netns, address: &str) -> bool {
    !ping_within(netns, DROPPED, &[address])
}

/// One echo request from one of the addresses of `netns`; true when the answer came.
pub(crate) fn ping_from(netns: &Netns, from: &str, address: &str) -> bool {
    ping_within(netns, PATIENT, &["-I", from, address])
}

/// One echo request from one of the addresses of `netns`; true when no answer came.
pub(crate) fn ping_from_lost(netns: &Netns, from: &str, address: &str) -> bool {
    !ping_within(netns, DROPPED, &["-I", from, address])
}

fn ping_within(netns: &Netns, limit: Duration, arguments: &[&str]) -> bool {
    let mut command = netns.command("ping");
    command.args(["-n", "-c", "1", "-W"]);
    command.arg(limit.as_secs_f32().to_string()).args(arguments);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.expect("ping (package iputils-ping)").success()
}

/// curl, which waits long.
pub(crate) fn curl(netns: &Netns, arguments: &[&str]) -> Output {
    curl_within(netns, PATIENT, arguments)
}

/// True when curl gives up because nothing came.
pub(crate) fn curl_times_out(netns: &Netns, arguments: &[&str]) -> bool {
    let output = curl_within(netns, DROPPED, arguments);
    output.status.code() == Some(28)
}

fn curl_within(netns: &Netns, limit: Duration, arguments: &[&str]) -> Output {
    let mut command = netns.command("curl");
    command.args(["-sS", "-m", &limit.as_secs_f32().to_string()]);
    command.args(arguments).output().expect("curl")
}

/// A web server of a feed whose answer the test can change.
pub(crate) struct FeedServer {
    answer: Arc<Mutex<Response>>,
    _server: Server,
}

impl FeedServer {
    /// Where [`FeedServer::start`] serves, inside the namespace.
    pub(crate) const URL: &str = "http://127.0.0.1:8099/feed.txt";

    /// Serves `body` on the loopback of `netns`.
    pub(crate) fn start(netns: &Netns, body: &str) -> Self {
        let listener = netns
            .enter(|| TcpListener::bind("127.0.0.1:8099"))
            .unwrap()
            .unwrap();
        let answer = Arc::new(Mutex::new(Response::text(body)));
        let shown = Arc::clone(&answer);
        let server = Server::start(listener, move |_| shown.lock().unwrap().clone()).unwrap();
        Self {
            answer,
            _server: server,
        }
    }

    /// Serves something else from now on.
    pub(crate) fn serve(&self, answer: Response) {
        *self.answer.lock().unwrap() = answer;
    }
}

#[test]
fn udp_and_http_work_in_a_namespace() {
    let Some(lab) = super::Lab::new() else { return };
    let _echo = echo(&lab.server, "203.0.113.1:53");
    let _echo6 = echo(&lab.server, "[2001:db8:bad::1]:53");
    exchange(&lab.host, "203.0.113.1:53").unwrap();
    exchange(&lab.host, "[2001:db8:bad::1]:53").unwrap();
    let feed = FeedServer::start(&lab.host, "192.0.2.1\n");
    assert_eq!(curl(&lab.host, &[FeedServer::URL]).stdout, b"192.0.2.1\n");
    feed.serve(Response {
        status: 503,
        ..Response::text("")
    });
    let code = curl(
        &lab.host,
        &["-o", "/dev/null", "-w", "%{http_code}", FeedServer::URL],
    );
    assert_eq!(code.stdout, b"503");
}

#[test]
fn a_dropped_connection_is_told_from_an_open_one() {
    let Some(lab) = super::Lab::new() else { return };
    let _web = web(&lab.server);
    assert!(!dropped(&lab.host, "203.0.113.1:80"));
    let rules = "table ip t { chain c { type filter hook forward priority 0; ip daddr 203.0.113.1 drop; }; }";
    super::load(&lab.gateway, rules);
    assert!(dropped(&lab.host, "203.0.113.1:80"));
}
