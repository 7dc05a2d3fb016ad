//! What a feed server bears from a thousand hosts: the daemon's own pulls and jitter, against a server in
//! this process, on loopback. A period of an hour is pressed into some seconds.

use std::{
    io::Write as _,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use feedgate::{
    config::{Feed, Proxy, Pull},
    daemon::jittered,
    fetch::{Client, Pulled, Validators},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::common::{
    data, namespace,
    process::{helper, run, values},
    table::Row,
};

const HOSTS: u64 = 1000;
const PERIOD: Duration = Duration::from_secs(3600);
/// How much faster the clock of the hosts runs: an hour in 18 s, a second in 5 ms.
const FASTER: u32 = 200;
/// Periods after the common start.
const PERIODS: usize = 2;

pub fn rows() -> Vec<Row> {
    let measured = |case: &str| values(&run(helper("fleet").arg(case)).output);
    let megabytes = |bytes: f64| format!("{:.1} MB", bytes / 1e6);
    let start = measured("start");
    let restart = measured("restart");
    let same = measured("same");
    let without = measured("without-etag");
    let changed = measured("changed");
    let packed = measured("packed");
    let name = format!("{HOSTS} hosts, a list of {}", megabytes(start["list"]));
    let storm = |what: &str, values: &std::collections::BTreeMap<String, f64>, other: String| Row {
        measure: format!("{name}: {what}"),
        ours: format!(
            "{} in {:.2} s, {:.0} requests/s",
            megabytes(values["bytes"]),
            values["seconds"],
            values["requests"] / values["seconds"]
        ),
        other,
        compared: ("-".to_owned(), f64::NAN),
        target: (crate::common::table::Target::None, "-".to_owned()),
    };
    let period =
        |what: &str, values: &std::collections::BTreeMap<String, f64>, other: String| Row {
            measure: format!("  {what}"),
            ours: format!(
                "{} a period, at most {:.0} requests in a second",
                megabytes(values["bytes"] / PERIODS as f64),
                values["peak"]
            ),
            other,
            compared: ("-".to_owned(), f64::NAN),
            target: (crate::common::table::Target::None, "-".to_owned()),
        };
    vec![
        storm("all ask at once, none has it", &start, String::new()),
        storm("all ask at once, each has it", &restart, String::new()),
        period(
            "1 h periods with jitter, unchanged, ETag",
            &same,
            format!(
                "{} without ETag",
                megabytes(without["bytes"] / PERIODS as f64)
            ),
        ),
        period(
            "the same, a new list each period",
            &changed,
            format!(
                "{} packed with gzip",
                megabytes(packed["bytes"] / PERIODS as f64)
            ),
        ),
    ]
}

/// Helper: one case, in a network namespace of its own.
pub fn time_fleet(case: &str) {
    namespace::enter_new();
    namespace::ip("link set lo up");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(measure(case));
}

async fn measure(case: &str) {
    let (list, _) = data::ipsum();
    println!("list {}", list.len());
    let body = if case == "packed" { gzip(&list) } else { list };
    let server = Server::start(body, case != "without-etag").await;
    let client = Client::new(Pull {
        proxy: Proxy::Direct,
        ca_files: Vec::new(),
        connect_timeout: Duration::from_secs(30),
        total_timeout: Duration::from_secs(300),
    });
    let client = client.unwrap();
    let feed = Feed {
        url: Some(
            format!("http://{}/list.txt", server.address)
                .parse()
                .unwrap(),
        ),
        ..Feed::new("fleet".parse().unwrap())
    };
    let known = match client.pull(&feed, None).await.unwrap() {
        Pulled::Body { validators, .. } => validators,
        Pulled::Unchanged => panic!("nothing was known yet"),
    };
    server.reset();
    let begin = Instant::now();
    let once = matches!(case, "start" | "restart");
    let fresh = case == "start";
    let hosts: Vec<_> = (0..HOSTS)
        .map(|_| {
            let (client, feed) = (client.clone(), feed.clone());
            let validators = (!fresh).then(|| known.clone());
            tokio::spawn(async move {
                if once {
                    let pulled = client.pull(&feed, validators.as_ref()).await.unwrap();
                    assert_eq!(fresh, matches!(pulled, Pulled::Body { .. }));
                } else {
                    periods(&client, &feed, validators, begin).await;
                }
            })
        })
        .collect();
    let changes = case == "changed" || case == "packed";
    for period in 1..=PERIODS {
        if changes {
            // Before the first host of the period asks.
            let at = PERIOD / FASTER * u32::try_from(period).unwrap() - PERIOD / FASTER / 20;
            tokio::time::sleep_until((begin + at).into()).await;
            server.version.fetch_add(1, Ordering::Relaxed);
        }
    }
    for host in hosts {
        host.await.unwrap();
    }
    let seconds = begin.elapsed().as_secs_f64();
    let expect = if once { HOSTS } else { HOSTS * PERIODS as u64 };
    let arrivals = server.arrivals.lock().unwrap().clone();
    assert_eq!(arrivals.len() as u64, expect, "a pull is one request");
    println!("seconds {seconds}");
    println!("requests {}", arrivals.len());
    println!("bytes {}", server.sent.load(Ordering::Relaxed));
    println!("peak {}", peak(arrivals, begin));
}

/// All hosts started at one moment, the worst case; then each pulls when the daemon would.
async fn periods(client: &Client, feed: &Feed, mut known: Option<Validators>, begin: Instant) {
    let mut next = begin;
    for _ in 0..PERIODS {
        next += jittered(PERIOD) / FASTER;
        tokio::time::sleep_until(next.into()).await;
        if let Pulled::Body { validators, .. } = client.pull(feed, known.as_ref()).await.unwrap() {
            known = Some(validators);
        }
    }
}

/// The most requests that came within one second of the hosts' time.
fn peak(mut arrivals: Vec<Instant>, begin: Instant) -> usize {
    let second = Duration::from_secs(1) / FASTER;
    arrivals.sort_unstable();
    let slot = |at: &Instant| at.duration_since(begin).as_nanos() / second.as_nanos();
    arrivals
        .chunk_by(|a, b| slot(a) == slot(b))
        .map(<[Instant]>::len)
        .max()
        .unwrap_or(0)
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(text).unwrap();
    packer.finish().unwrap()
}

/// A server of one list.
struct Server {
    address: SocketAddr,
    /// Another one is another ETag.
    version: Arc<AtomicU64>,
    arrivals: Arc<Mutex<Vec<Instant>>>,
    /// Bytes of answers, heads included.
    sent: Arc<AtomicU64>,
}

impl Server {
    async fn start(body: Vec<u8>, etags: bool) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener: TcpListener = socket.listen(4096).unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            version: Arc::default(),
            arrivals: Arc::default(),
            sent: Arc::default(),
        };
        let body: Arc<[u8]> = body.into();
        let (version, arrivals, sent) = (
            server.version.clone(),
            server.arrivals.clone(),
            server.sent.clone(),
        );
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                arrivals.lock().unwrap().push(Instant::now());
                let etag = etags.then(|| format!("\"{}\"", version.load(Ordering::Relaxed)));
                tokio::spawn(answer(stream, etag, body.clone(), sent.clone()));
            }
        });
        server
    }

    fn reset(&self) {
        self.arrivals.lock().unwrap().clear();
        self.sent.store(0, Ordering::Relaxed);
    }
}

async fn answer(
    mut stream: TcpStream,
    etag: Option<String>,
    body: Arc<[u8]>,
    sent: Arc<AtomicU64>,
) {
    let mut head = vec![0; 4096];
    let mut read = 0;
    while !head[..read].ends_with(b"\r\n\r\n") {
        let more = stream.read(&mut head[read..]).await.unwrap();
        assert!(more > 0, "the head of a request");
        read += more;
    }
    let head = String::from_utf8_lossy(&head[..read]).to_lowercase();
    let has = etag
        .as_ref()
        .is_some_and(|tag| head.contains(&format!("if-none-match: {tag}\r\n")));
    let tag = etag.map_or(String::new(), |tag| format!("ETag: {tag}\r\n"));
    let (status, body) = if has {
        ("304 Not Modified", &[][..])
    } else {
        ("200 OK", &body[..])
    };
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\n{tag}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    sent.fetch_add((head.len() + body.len()) as u64, Ordering::Relaxed);
}
