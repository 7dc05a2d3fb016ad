//! A web server whose every byte the test decides, one thread a connection, with or without TLS.

use std::{
    io::{self, BufRead as _, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use feedgate::demo::Netns;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) target: String,
    head: String,
}

impl Request {
    /// The value of a header; empty when absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map_or("", |(_, value)| value.trim())
    }
}

/// What a request is answered with.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Status line without the version, header lines, body.
    Full(String, Vec<String>, Vec<u8>),
    /// Nothing, until the client gives up.
    Hang,
    /// The body, but not before that long.
    Late(Duration, String),
    /// 200, and this text again and again without end.
    Endless(String),
}

impl Reply {
    /// 200.
    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::Full("200 OK".into(), Vec::new(), body.into())
    }

    /// A status without a body.
    pub(crate) fn status(line: &str) -> Self {
        Self::Full(line.into(), Vec::new(), Vec::new())
    }

    /// The same with a header.
    pub(crate) fn with(mut self, header: impl Into<String>) -> Self {
        if let Self::Full(_, headers, _) = &mut self {
            headers.push(header.into());
        }
        self
    }
}

type Answer = dyn Fn(&Request) -> Reply + Send + Sync;

/// A running server; when it is dropped, its port is closed.
pub(crate) struct Site {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the threads of the connections see too.
struct Shared {
    seen: Mutex<Vec<Request>>,
    answer: Mutex<Arc<Answer>>,
    stop: AtomicBool,
    /// Body bytes that were sent in endless replies.
    sent: AtomicU64,
    /// Endless replies that a client broke off.
    broken: AtomicUsize,
    /// Connections that wait for their answer now, and the most there were at once.
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Site {
    /// Serves on an address of `netns`.
    pub(crate) fn start(
        netns: &Netns,
        address: &str,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::serve(netns, address, None, answer)
    }

    /// Serves https.
    pub(crate) fn start_tls(
        netns: &Netns,
        address: &str,
        tls: &Tls,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::serve(netns, address, Some(tls.server()), answer)
    }

    fn serve(
        netns: &Netns,
        address: &str,
        tls: Option<Arc<rustls::ServerConfig>>,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = netns.enter(|| TcpListener::bind(address)).unwrap().unwrap();
        listener.set_nonblocking(true).unwrap();
        let (address, scheme) = (
            listener.local_addr().unwrap(),
            if tls.is_some() { "https" } else { "http" },
        );
        let shared = Arc::new(Shared {
            seen: Mutex::default(),
            answer: Mutex::new(Arc::new(answer)),
            stop: AtomicBool::default(),
            sent: AtomicU64::default(),
            broken: AtomicUsize::default(),
            now: AtomicUsize::default(),
            most: AtomicUsize::default(),
        });
        let parts = Arc::clone(&shared);
        let accept = move || {
            while !parts.stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let (parts, tls) = (Arc::clone(&parts), tls.clone());
                        std::thread::spawn(move || parts.connection(stream, tls));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        };
        Self {
            address,
            scheme,
            shared,
            thread: Some(std::thread::spawn(accept)),
        }
    }

    /// A URL on it.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// Answers otherwise from now on.
    pub(crate) fn answer(&self, answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) {
        *self.shared.answer.lock().unwrap() = Arc::new(answer);
    }

    /// Serves this from now on, whatever is asked for.
    pub(crate) fn reply(&self, reply: Reply) {
        self.answer(move |_| reply.clone());
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<Request> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// The last request.
    pub(crate) fn last(&self) -> Request {
        self.seen().pop().expect("a request")
    }

    /// Body bytes sent in endless replies, and how many of them the client broke off.
    pub(crate) fn endless(&self) -> (u64, usize) {
        let broken = self.shared.broken.load(Ordering::Relaxed);
        (self.shared.sent.load(Ordering::Relaxed), broken)
    }

    /// The most requests there were at once.
    pub(crate) fn most(&self) -> usize {
        self.shared.most.load(Ordering::Relaxed)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn connection(&self, stream: TcpStream, tls: Option<Arc<rustls::ServerConfig>>) {
        stream.set_nonblocking(false).unwrap();
        let waiting = Waiting::new(self);
        let _ = match tls {
            None => self.talk(stream, waiting),
            Some(tls) => {
                let tls = rustls::ServerConnection::new(tls).unwrap();
                self.talk(rustls::StreamOwned::new(tls, stream), waiting)
            }
        };
    }

    fn talk(&self, stream: impl Read + Write, waiting: Waiting<'_>) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        let (mut first, mut head) = (String::new(), String::new());
        stream.read_line(&mut first)?;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 || line == "\r\n" {
                break;
            }
            head.push_str(&line);
        }
        let target = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let request = Request { target, head };
        self.seen.lock().unwrap().push(request.clone());
        let answer = Arc::clone(&self.answer.lock().unwrap());
        match answer(&request) {
            Reply::Full(status, headers, body) => {
                drop(waiting);
                send(&mut stream, &status, &headers, &body)
            }
            Reply::Late(wait, body) => {
                std::thread::sleep(wait);
                drop(waiting);
                send(&mut stream, "200 OK", &[], body.as_bytes())
            }
            Reply::Hang => stream.read(&mut [0]).map(|_| ()),
            Reply::Endless(text) => {
                let out = stream.get_mut();
                out.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
                while !self.stop.load(Ordering::Relaxed) {
                    if out.write_all(text.as_bytes()).is_err() {
                        self.broken.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                    self.sent
                        .fetch_add(text.len().try_into().unwrap(), Ordering::Relaxed);
                }
                Ok(())
            }
        }
    }
}

/// Counts a connection until its answer begins: a client that has the answer may come back before
/// this side has seen the end of it.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(shared: &'a Shared) -> Self {
        let now = shared.now.fetch_add(1, Ordering::Relaxed) + 1;
        shared.most.fetch_max(now, Ordering::Relaxed);
        Self(&shared.now)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn send<S: Read + Write>(
    stream: &mut BufReader<S>,
    status: &str,
    headers: &[String],
    body: &[u8],
) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
    for header in headers {
        head.push_str(&format!("{header}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    let out = stream.get_mut();
    out.write_all(head.as_bytes())?;
    out.write_all(body)?;
    out.flush()
}

/// A certificate authority of the test and a certificate it gave to an address.
pub(crate) struct Tls {
    /// The authority's certificate.
    pub(crate) ca: String,
    certificate: String,
    key: String,
}

impl Tls {
    /// For a server on `address`.
    pub(crate) fn new(address: &str) -> Self {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
        let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_text = ca.self_signed(&ca_key).unwrap().pem();
        let issuer = Issuer::new(ca, ca_key);
        let leaf = CertificateParams::new(vec![address.to_owned()]).unwrap();
        Self {
            ca: ca_text,
            certificate: leaf.signed_by(&key, &issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    fn server(&self) -> Arc<rustls::ServerConfig> {
        Arc::new(self.config())
    }

    /// A server that speaks this protocol and no other (ALPN).
    pub(crate) fn speaking(&self, protocol: &[u8]) -> Arc<rustls::ServerConfig> {
        let mut config = self.config();
        config.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(config)
    }

    fn config(&self) -> rustls::ServerConfig {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap()
    }
}
