//! Against real sockets and files; every wait is a blocking receive with a time limit.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixDatagram, UnixListener},
    },
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use super::*;
use crate::{
    alert::example,
    config::{Host, HostPort, SyslogTarget},
};

pub(super) const LIMIT: Duration = Duration::from_secs(60);

pub(super) fn identity() -> Identity {
    Identity {
        hostname: "gw".into(),
        pid: 42,
        app: "feedgate".into(),
    }
}

pub(super) fn syslog(address: SyslogAddress, format: SyslogFormat) -> config::Alerts {
    config::Alerts {
        suppress: Duration::ZERO,
        syslog: vec![SyslogTarget {
            format,
            ..SyslogTarget::new(address)
        }],
        ..config::Alerts::default()
    }
}

pub(super) fn json(path: &Path) -> config::Alerts {
    config::Alerts {
        suppress: Duration::ZERO,
        json_file: Some(path.to_owned()),
        syslog: Vec::new(),
        ..config::Alerts::default()
    }
}

pub(super) fn open(alerts: &config::Alerts, capacity: usize) -> Sinks {
    let mut alerts = alerts.clone();
    for target in &mut alerts.syslog {
        target.queue = capacity;
    }
    Sinks::open(&alerts, identity(), None).unwrap()
}

fn unix(path: &Path, capacity: usize) -> Sinks {
    let address = SyslogAddress::Unix(path.to_owned());
    open(&syslog(address, SyslogFormat::Rfc3164), capacity)
}

pub(super) fn host(addr: IpAddr, port: u16) -> HostPort {
    HostPort {
        host: Host::Addr(addr),
        port,
    }
}

pub(super) fn alert(n: u32) -> Alert {
    Alert {
        id: uuid::Uuid::from_u128(n.into()),
        ..example::alert()
    }
}

/// The number of an alert, from its line.
pub(super) fn number(line: &str) -> u32 {
    let (_, id) = line
        .split_once(" id=\"")
        .unwrap_or_else(|| panic!("{line}"));
    u32::from_str_radix(&id[28..36], 16).unwrap()
}

/// The count of a loss report.
fn lost(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("feedgate: ")?;
    let (count, _) = rest.split_once(" alerts were not delivered")?;
    count.parse().ok()
}

pub(super) fn bind(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

pub(super) fn receive(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    let len = socket.recv(&mut buffer).unwrap();
    String::from_utf8(buffer[..len].to_vec()).unwrap()
}

/// A port of the loopback that nobody is given by chance: below ip_local_port_range. A port that was
/// free a moment ago may be another test's.
pub(super) fn quiet_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let local = Ipv4Addr::LOCALHOST;
    let first = std::process::id().wrapping_mul(16);
    let ports = (0..1000).map(|_| {
        let number = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        u16::try_from(10_000 + number % 20_000).unwrap()
    });
    let is_free = |port: &u16| {
        TcpListener::bind((local, *port)).is_ok() && UdpSocket::bind((local, *port)).is_ok()
    };
    let mut free = ports.filter(is_free);
    free.next().expect("a free port")
}

pub(super) fn wait_for(sinks: &Sinks, good: impl Fn(&SinkStats) -> bool) {
    let end = Instant::now() + LIMIT;
    while !good(&sinks.stats()[0]) {
        assert!(Instant::now() < end, "{:?}", sinks.stats());
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_local_socket_has_the_line_when_submit_returns() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let socket = bind(&path);
    let sinks = unix(&path, 8);
    socket.set_nonblocking(true).unwrap();
    sinks.submit(&alert(7));
    let line = receive(&socket);
    assert!(line.starts_with("<85>") && line.contains(" feedgate[42]: [feedgate@32473 id="));
    let stats = &sinks.stats()[0];
    assert_eq!((stats.sent, stats.queued, stats.dropped), (1, 0, 0));
    assert_eq!(stats.name, format!("unix:{}", path.display()));
}

#[test]
fn a_socket_made_again_gets_what_waited_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let socket = bind(&path);
    let sinks = unix(&path, 8);
    sinks.submit(&alert(1));
    assert_eq!(number(&receive(&socket)), 1);

    drop(socket);
    sinks.submit(&alert(2));
    fs::remove_file(&path).unwrap();
    sinks.submit(&alert(3));
    wait_for(&sinks, |stats| stats.last_error.is_some());
    assert_eq!(sinks.stats()[0].queued, 2);
    let socket = bind(&path);
    sinks.submit(&alert(4));
    for n in 2..=4 {
        assert_eq!(number(&receive(&socket)), n);
    }
    wait_for(&sinks, |stats| {
        stats.queued == 0 && stats.last_error.is_none()
    });

    drop(socket);
    fs::remove_file(&path).unwrap();
    let socket = bind(&path);
    socket.set_nonblocking(true).unwrap();
    sinks.submit(&alert(5));
    assert_eq!(number(&receive(&socket)), 5, "at once: nothing waited");
}

#[test]
fn a_full_socket_blocks_nobody_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let socket = bind(&path);
    let sinks = unix(&path, 4096);
    const N: u32 = 3000;
    for n in 0..N {
        sinks.submit(&alert(n));
    }
    assert!(sinks.stats()[0].queued > 0, "the socket never filled");
    for n in 0..N {
        assert_eq!(number(&receive(&socket)), n);
    }
    let stats = &sinks.close(LIMIT)[0];
    assert_eq!((stats.sent, stats.dropped), (N.into(), 0));
}

#[test]
fn what_a_full_queue_drops_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let sinks = unix(&path, 4);
    for n in 0..10 {
        sinks.submit(&alert(n));
    }
    let stats = &sinks.stats()[0];
    // The thread may have one of them in its hands.
    let (queued, dropped) = (stats.queued, stats.dropped);
    assert!(matches!((queued, dropped), (4, 6) | (5, 5)), "{stats:?}");
    let socket = bind(&path);
    let lines: Vec<String> = (0..=queued).map(|_| receive(&socket)).collect();
    let (told, alerts): (Vec<_>, Vec<_>) = lines.iter().partition(|line| lost(line).is_some());
    let seen: Vec<u32> = alerts.iter().map(|line| number(line)).collect();
    // It may have taken its one after the first was dropped.
    assert!(
        seen.starts_with(&[0, 1, 2, 3]) && seen.is_sorted(),
        "{seen:?}"
    );
    assert_eq!(u64::try_from(seen.len()).unwrap(), queued);
    assert!(
        told[0].ends_with(&format!(
            "[feedgate@32473 count=\"{dropped}\" cause=\"the queue was full\"] \
             feedgate: {dropped} alerts were not delivered to unix:{}: the queue was full",
            path.display()
        )),
        "{told:?}"
    );
}

#[test]
fn a_stream_socket_works_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let listener = UnixListener::bind(&path).unwrap();
    let sinks = unix(&path, 8);
    sinks.submit(&alert(1));
    sinks.submit(&alert(2));
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut stream = BufReader::new(stream);
    for n in 1..=2 {
        let mut line = Vec::new();
        stream.read_until(0, &mut line).unwrap();
        assert_eq!(number(str::from_utf8(&line).unwrap()), n);
    }
}

#[test]
fn udp_over_both_families() {
    for addr in [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ] {
        let socket = UdpSocket::bind((addr, 0)).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let peer = host(addr, socket.local_addr().unwrap().port());
        let sinks = open(&syslog(SyslogAddress::Udp(peer), SyslogFormat::Rfc5424), 8);
        sinks.submit(&alert(3));
        let mut buffer = [0; 4096];
        let len = socket.recv(&mut buffer).unwrap();
        let line = str::from_utf8(&buffer[..len]).unwrap();
        assert_eq!(number(line), 3);
        assert!(
            line.contains("Z gw feedgate 42 THREATFEED [feedgate@32473 "),
            "{line}"
        );
    }
}

#[test]
fn udp_that_is_refused_waits() {
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let port = quiet_port();
    let address = SyslogAddress::Udp(host(local, port));
    let sinks = open(&syslog(address, SyslogFormat::Rfc5424), 100);
    for n in 0..5 {
        sinks.submit(&alert(n));
    }
    wait_for(&sinks, |stats| stats.last_error.is_some());
    let stats = &sinks.stats()[0];
    assert_eq!((stats.sent, stats.queued, stats.dropped), (0, 5, 0));
    let socket = UdpSocket::bind((local, port)).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    sinks.submit(&alert(5));
    let mut buffer = [0; 4096];
    for n in 0..=5 {
        let len = socket.recv(&mut buffer).unwrap();
        assert_eq!(number(str::from_utf8(&buffer[..len]).unwrap()), n);
    }
    wait_for(&sinks, |stats| stats.sent == 6 && stats.queued == 0);
}

fn accept(listener: &TcpListener) -> BufReader<TcpStream> {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    BufReader::new(stream)
}

/// One frame with octet counting.
fn frame(stream: &mut impl BufRead) -> String {
    let mut len = Vec::new();
    stream.read_until(b' ', &mut len).unwrap();
    let len: usize = str::from_utf8(&len).unwrap().trim().parse().unwrap();
    let mut line = vec![0; len];
    stream.read_exact(&mut line).unwrap();
    String::from_utf8(line).unwrap()
}

#[test]
fn tcp_counts_octets_and_connects_again() {
    let local = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let listener = TcpListener::bind((local, 0)).unwrap();
    let peer = HostPort {
        host: Host::Name("localhost".into()),
        port: listener.local_addr().unwrap().port(),
    };
    let peer = match (peer.host.clone(), peer.port) {
        // A resolver that knows no IPv6 localhost is none of this test's business.
        (Host::Name(name), port)
            if std::net::ToSocketAddrs::to_socket_addrs(&(name.as_str(), port))
                .is_ok_and(|mut all| all.any(|addr| addr.is_ipv6())) =>
        {
            peer
        }
        _ => host(local, peer.port),
    };
    let sinks = open(&syslog(SyslogAddress::Tcp(peer), SyslogFormat::Rfc5424), 8);
    sinks.submit(&alert(1));
    let mut first = accept(&listener);
    sinks.submit(&alert(2));
    assert_eq!(number(&frame(&mut first)), 1);
    assert_eq!(number(&frame(&mut first)), 2);
    wait_for(&sinks, |stats| stats.sent == 2);
    drop(first);
    sinks.submit(&alert(3));
    let mut second = accept(&listener);
    assert_eq!(
        number(&frame(&mut second)),
        3,
        "nothing is lost to a closed connection"
    );
}

#[test]
fn tcp_that_stops_reading_goes_on_where_it_was() {
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let listener = TcpListener::bind((local, 0)).unwrap();
    let peer = host(local, listener.local_addr().unwrap().port());
    let target = syslog(SyslogAddress::Tcp(peer), SyslogFormat::Rfc3164);
    let sinks = open(&target, 100_000);
    // More than the socket buffers take: the writer stands in the middle of a line.
    const N: u64 = 20_000;
    for n in 0..20_000 {
        sinks.submit(&alert(n));
    }
    let mut stream = accept(&listener);
    wait_for(&sinks, |stats| stats.last_error.is_some());
    let stats = &sinks.stats()[0];
    assert!(
        stats.sent < N && stats.sent + stats.queued == N,
        "{stats:?}"
    );
    for n in 0..N {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        assert_eq!(u64::from(number(&line)), n);
    }
    wait_for(&sinks, |stats| {
        stats.sent == N && stats.last_error.is_none()
    });
}

#[test]
fn the_json_file_follows_rotations() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("alerts.json");
    let ids = |path: &Path| -> Vec<u64> {
        let text = fs::read_to_string(path).unwrap();
        let ids = text.lines().map(|line| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            let id = event["event"]["id"].as_str().unwrap().parse::<uuid::Uuid>();
            u64::try_from(id.unwrap().as_u128()).unwrap()
        });
        ids.collect()
    };
    let sinks = open(&json(&path), 8);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o640
    );
    sinks.submit(&alert(1));
    wait_for(&sinks, |stats| stats.sent == 1);
    assert_eq!(ids(&path), [1]);

    let truncated = fs::OpenOptions::new().write(true).open(&path).unwrap();
    truncated.set_len(0).unwrap();
    sinks.submit(&alert(2));
    wait_for(&sinks, |stats| stats.sent == 2);
    assert_eq!(ids(&path), [2], "no hole after a truncation");

    let old = dir.path().join("alerts.json.1");
    fs::rename(&path, &old).unwrap();
    sinks.submit(&alert(3));
    wait_for(&sinks, |stats| stats.sent == 3);
    sinks.reopen();
    sinks.submit(&alert(4));
    sinks.close(LIMIT);
    // The renamed file is left at once, without the signal.
    assert_eq!((ids(&old), ids(&path)), (vec![2], vec![3, 4]));
}

#[test]
fn the_json_file_has_the_form_that_is_configured() {
    use config::JsonFormat::{Ecs, Eve, Ocsf};
    for (format, pointer) in [
        (Ecs, "/event/id"),
        (Eve, "/alert/metadata/alert_id/0"),
        (Ocsf, "/finding_info/uid"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alerts.json");
        let alerts = config::Alerts {
            json_format: format,
            ..json(&path)
        };
        let sinks = open(&alerts, 8);
        sinks.submit(&alert(7));
        sinks.close(LIMIT);
        let event: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(
            event.pointer(pointer),
            Some(&serde_json::json!(alert(7).id.to_string()))
        );
    }
}

#[test]
fn a_file_whose_folder_is_gone_keeps_alerts_waiting_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("log");
    fs::create_dir(&folder).unwrap();
    let path = folder.join("alerts.json");
    let sinks = open(&json(&path), 1);
    fs::remove_dir_all(&folder).unwrap();
    for n in 1..=3 {
        sinks.submit(&alert(n));
    }
    wait_for(&sinks, |stats| stats.last_error.is_some());
    let stats = &sinks.stats()[0];
    assert_eq!((stats.sent, stats.queued, stats.dropped), (0, 3, 0));
    let said = stats.last_error.as_deref().unwrap();
    assert!(said.contains("No such file or directory"), "{said}");
    fs::create_dir(&folder).unwrap();
    let stats = &sinks.close(LIMIT)[0];
    assert_eq!((stats.sent, stats.dropped), (3, 0));
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 3, "{text}");
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let error =
        Sinks::open(&json(Path::new("/dev/null/alerts.json")), identity(), None).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("/dev/null/alerts.json") && text.contains("folder"),
        "{text}"
    );
}

#[test]
fn a_full_disk_loses_nothing() {
    // /dev/full takes no byte; the event waits until the file is another one.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("alerts.json");
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let sinks = open(&json(&path), 8);
    sinks.submit(&alert(1));
    wait_for(&sinks, |stats| stats.last_error.is_some());
    fs::remove_file(&path).unwrap();
    sinks.reopen();
    let stats = &sinks.close(LIMIT)[0];
    assert_eq!((stats.sent, stats.dropped), (1, 0));
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
}

#[test]
fn closing_counts_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let sinks = unix(&dir.path().join("log"), 8);
    sinks.submit(&alert(1));
    sinks.submit(&alert(2));
    let stats = &sinks.close(Duration::ZERO)[0];
    assert_eq!((stats.sent, stats.queued, stats.dropped), (0, 0, 2));
}
