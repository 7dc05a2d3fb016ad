//! Outages: lines on disk, in order, over restarts; what a connection left unconfirmed.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::{Ipv4Addr, TcpListener},
    os::unix::net::{UnixDatagram, UnixListener},
    path::Path,
    time::Duration,
};

use super::{
    tests::{alert, bind, host, identity, number, quiet_port, receive, syslog, wait_for},
    *,
};

const LIMIT: Duration = Duration::from_secs(60);

struct Bed {
    dir: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        // Unix socket paths end at 107 bytes: a short folder.
        let mut dir = tempfile::Builder::new();
        let dir = dir.prefix("fg").tempdir_in("/tmp").unwrap();
        Self { dir }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn open(&self, queue: usize, spool: u64) -> Sinks {
        self.open_at(SyslogAddress::Unix(self.socket()), queue, spool)
    }

    fn open_at(&self, address: SyslogAddress, queue: usize, spool: u64) -> Sinks {
        let mut alerts = syslog(address, SyslogFormat::Rfc3164);
        for target in &mut alerts.syslog {
            (target.queue, target.spool) = (queue, spool);
        }
        Sinks::open(&alerts, identity(), Some(&self.state())).unwrap()
    }

    fn files(&self) -> usize {
        let files = fs::read_dir(self.state().join(SPOOL)).into_iter().flatten();
        let files = files.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
        files.count()
    }
}

fn expect(socket: &UnixDatagram, numbers: impl IntoIterator<Item = u32>) {
    for n in numbers {
        assert_eq!(number(&receive(socket)), n);
    }
}

#[test]
fn what_could_not_be_sent_is_sent_after_a_restart_and_first() {
    let bed = Bed::new();
    let sinks = bed.open(8192, 1 << 20);
    for n in 0..10 {
        sinks.submit(&alert(n));
    }
    let stats = &sinks.close(LIMIT)[0];
    assert_eq!((stats.sent, stats.queued, stats.dropped), (0, 0, 0));
    assert_eq!(stats.spooled, 10);

    let sinks = bed.open(8192, 1 << 20);
    assert_eq!(sinks.stats()[0].spooled, 10);
    sinks.submit(&alert(10));
    let socket = bind(&bed.socket());
    expect(&socket, 0..11);
    wait_for(&sinks, |stats| stats.sent == 11 && stats.spooled == 0);
    assert_eq!(bed.files(), 0, "nothing is left on disk");
    // Nothing waits: a line goes the direct way again.
    socket.set_nonblocking(true).unwrap();
    sinks.submit(&alert(11));
    expect(&socket, [11]);
}

#[test]
fn the_queue_goes_to_disk_while_the_target_is_down_and_when_it_fills() {
    let bed = Bed::new();
    let sinks = bed.open(100, 8 << 20);
    sinks.submit(&alert(0));
    wait_for(&sinks, |stats| stats.spooled == 1); // it is down for a second
    for n in 1..3000 {
        sinks.submit(&alert(n));
        wait_for(&sinks, |stats| stats.queued < 90);
    }
    let stats = &sinks.stats()[0];
    assert!(stats.spooled > 2800 && stats.dropped == 0, "{stats:?}");
    let socket = bind(&bed.socket());
    for n in 3000..3010 {
        sinks.submit(&alert(n));
    }
    expect(&socket, 0..3010);
    wait_for(&sinks, |stats| {
        stats.sent == 3010 && stats.last_error.is_none()
    });
    assert_eq!(bed.files(), 0);
}

#[test]
fn a_restart_in_the_middle_sends_nothing_twice() {
    let bed = Bed::new();
    let sinks = bed.open(8192, 8 << 20);
    for n in 0..1000 {
        sinks.submit(&alert(n));
    }
    sinks.close(LIMIT);
    let socket = bind(&bed.socket());
    let sinks = bed.open(8192, 8 << 20);
    expect(&socket, 0..300);
    // The socket takes a few more lines than were read.
    sinks.close(Duration::ZERO);
    let sinks = bed.open(8192, 8 << 20);
    sinks.submit(&alert(1000));
    expect(&socket, 300..=1000);
    wait_for(&sinks, |stats| stats.queued + stats.spooled == 0);
    assert_eq!(sinks.stats()[0].dropped, 0);
}

#[test]
fn a_kill_in_the_middle_sends_nothing_twice() {
    let bed = Bed::new();
    let sinks = bed.open(8192, 8 << 20);
    for n in 0..1000 {
        sinks.submit(&alert(n));
    }
    sinks.close(LIMIT);
    let socket = bind(&bed.socket());
    let sinks = bed.open(8192, 8 << 20);
    expect(&socket, 0..300);
    // What SIGKILL leaves: the files as they are, whatever the memory held.
    let copy = Bed::new();
    wait_for(&sinks, |stats| stats.last_error.is_some()); // the socket is full: nobody writes
    let arrived = sinks.stats()[0].sent;
    for folder in fs::read_dir(bed.state().join(SPOOL)).unwrap() {
        let folder = folder.unwrap();
        let target = syslog(SyslogAddress::Unix(copy.socket()), SyslogFormat::Rfc3164);
        let to = spool_of(
            &target.syslog[0],
            &copy.state().join(SPOOL),
            &mut BTreeSet::new(),
        );
        fs::create_dir_all(&to).unwrap();
        for file in fs::read_dir(folder.path()).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
    let socket = bind(&copy.socket());
    let _sinks = copy.open(8192, 8 << 20);
    expect(&socket, u32::try_from(arrived).unwrap()..1000);
}

#[test]
fn what_the_spool_cannot_take_is_told() {
    let bed = Bed::new();
    let sinks = bed.open(10, 64 << 10);
    sinks.submit(&alert(0));
    wait_for(&sinks, |stats| stats.spooled == 1);
    for n in 1..1000 {
        sinks.submit(&alert(n));
        let end = Instant::now() + LIMIT;
        while sinks.stats()[0].queued > 5 && sinks.stats()[0].dropped == 0 {
            // Until the spool is full as well.
            assert!(Instant::now() < end);
            if sinks.stats()[0].spooled > 90 {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
    let stats = sinks.close(LIMIT)[0].clone();
    assert!(stats.spooled > 50 && stats.dropped > 500, "{stats:?}");
    assert_eq!(stats.spooled + stats.dropped, 1000);
    let socket = bind(&bed.socket());
    let _sinks = bed.open(10, 64 << 10);
    let mut last = None;
    for _ in 0..stats.spooled {
        let next = number(&receive(&socket));
        assert!(last < Some(next), "{last:?} {next}");
        last = Some(next);
    }
    let told = receive(&socket);
    let count = format!("feedgate: {} alerts were not delivered", stats.dropped);
    assert!(told.contains(&count), "{told} {stats:?}");
}

#[test]
fn a_reload_keeps_the_order() {
    let bed = Bed::new();
    let old = bed.open(8192, 1 << 20);
    for n in 0..50 {
        old.submit(&alert(n));
    }
    let new = bed.open(8192, 1 << 20);
    new.submit(&alert(50));
    let socket = bind(&bed.socket());
    let closing = thread::spawn(move || old.close(LIMIT));
    expect(&socket, 0..51);
    closing.join().unwrap();
    wait_for(&new, |stats| {
        stats.sent > 0 && stats.queued + stats.spooled == 0
    });
    assert_eq!(new.stats()[0].dropped, 0);
}

/// A receiver whose buffer has room at every twentieth attempt.
#[derive(Default)]
struct Slow {
    attempts: u32,
    taken: Vec<u32>,
}

impl Wire for &mut Slow {
    fn send(&mut self, line: &[u8]) -> Result<(), worker::SendError> {
        self.attempts += 1;
        if !self.attempts.is_multiple_of(20) {
            return Err(worker::SendError::Busy(io::ErrorKind::WouldBlock.into()));
        }
        self.taken.push(number(str::from_utf8(line).unwrap()));
        Ok(())
    }
}

#[test]
fn a_receiver_that_is_slow_at_the_end_gets_the_rest() {
    let bed = Bed::new();
    let target = config::SyslogTarget::new(SyslogAddress::Unix(bed.socket()));
    let formatter = Formatter(Layout {
        form: format::form(target.format, &target.address),
        facility: format::facility(target.facility),
        identity: identity(),
    });
    let queue = Arc::new(Queue::new("slow".into(), 8));
    for n in 0..3 {
        queue.push(Arc::new(alert(n)));
    }
    queue.close(Instant::now() + LIMIT);
    let spool = Some((bed.state(), 1 << 20));
    let outbox = Outbox::new(Arc::clone(&queue), formatter, spool);
    let mut slow = Slow::default();
    outbox::run(&outbox, &mut slow);
    assert_eq!(slow.taken, [0, 1, 2]);
    let stats = queue.stats();
    assert_eq!((stats.sent, stats.spooled, stats.dropped), (3, 0, 0));
}

#[test]
fn a_stream_reader_that_goes_away_gets_the_rest_later() {
    let bed = Bed::new();
    let listener = UnixListener::bind(bed.socket()).unwrap();
    let sinks = bed.open(8192, 1 << 20);
    let read = |stream: &mut BufReader<_>, n| {
        let mut line = Vec::new();
        stream.read_until(0, &mut line).unwrap();
        assert_eq!(number(str::from_utf8(&line).unwrap()), n);
    };
    sinks.submit(&alert(0));
    let (stream, _) = listener.accept().unwrap();
    let mut stream = BufReader::new(stream);
    read(&mut stream, 0);
    wait_for(&sinks, |stats| stats.sent == 1);
    sinks.submit(&alert(1));
    sinks.submit(&alert(2)); // never read by the first reader
    thread::sleep(Duration::from_millis(50));
    drop((stream, listener));
    fs::remove_file(bed.socket()).unwrap();
    let listener = UnixListener::bind(bed.socket()).unwrap();
    sinks.submit(&alert(3));
    let (stream, _) = listener.accept().unwrap();
    let mut stream = BufReader::new(stream);
    for n in 1..4 {
        read(&mut stream, n);
    }
    wait_for(&sinks, |stats| stats.sent == 4);
}

/// A receiver whose host is gone acknowledges nothing: here it is one that does not read. What its
/// kernel took counts as arrived, the rest comes on the next connection, from the first line on
/// that was not taken whole.
#[test]
fn what_the_receivers_kernel_does_not_have_is_sent_again() {
    let bed = Bed::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let peer = host(
        Ipv4Addr::LOCALHOST.into(),
        listener.local_addr().unwrap().port(),
    );
    let sinks = bed.open_at(SyslogAddress::Tcp(peer), 100_000, 64 << 20);
    const N: u32 = 20_000;
    for n in 0..N {
        sinks.submit(&alert(n));
    }
    let (stream, _) = listener.accept().unwrap();
    wait_for(&sinks, |stats| stats.last_error.is_some());
    let arrived = sinks.stats()[0].sent;
    assert!(arrived > 0 && arrived < N.into());
    drop(stream);
    let (stream, _) = listener.accept().unwrap();
    let mut stream = BufReader::new(stream);
    for n in u32::try_from(arrived).unwrap()..N {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        assert_eq!(number(&line), n);
    }
    wait_for(&sinks, |stats| {
        stats.sent == u64::from(N) && stats.spooled == 0
    });
}

/// Readers that come and go at random, each of which reads all that it was sent.
#[test]
fn nothing_is_lost_or_doubled_over_many_connections() {
    let bed = Bed::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let peer = host(
        Ipv4Addr::LOCALHOST.into(),
        listener.local_addr().unwrap().port(),
    );
    let sinks = bed.open_at(SyslogAddress::Tcp(peer), 8192, 1 << 20);
    const N: u32 = 2000;
    let sender = thread::spawn(move || {
        for n in 0..N {
            sinks.submit(&alert(n));
            thread::sleep(Duration::from_micros(500));
        }
        sinks.close(LIMIT)
    });
    let mut seen = Vec::new();
    let mut connection = 0;
    while seen.len() < N as usize {
        let (stream, _) = listener.accept().unwrap();
        let mut text = String::new();
        stream
            .set_read_timeout(Some(Duration::from_millis(20 + 7 * (connection % 9))))
            .unwrap();
        connection += 1;
        let mut reader = BufReader::new(&stream);
        for _ in 0..(50 * connection % 400).max(1) {
            // A whole line, or a part of one at the end of the time.
            if reader.read_line(&mut text).is_err()
                || seen.len() + text.lines().count() >= N as usize
            {
                break;
            }
        }
        // No more is let in, and what is there is read before the end: no reset that loses lines.
        nix::sys::socket::shutdown(
            std::os::fd::AsRawFd::as_raw_fd(&stream),
            nix::sys::socket::Shutdown::Write,
        )
        .unwrap();
        let _ = reader.read_to_string(&mut text);
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        seen.extend(whole.lines().map(number));
    }
    assert!(connection > 2, "{connection} connections");
    assert_eq!(seen, (0..N).collect::<Vec<_>>());
    let stats = &sender.join().unwrap()[0];
    assert_eq!((stats.sent, stats.dropped, stats.spooled), (N.into(), 0, 0));
}

#[test]
fn spools_of_targets_that_are_gone_stay() {
    let bed = Bed::new();
    let sinks = bed.open(8, 1 << 20);
    sinks.submit(&alert(0));
    sinks.close(LIMIT);
    let other = SyslogAddress::Unix(bed.dir.path().join("other"));
    drop(bed.open_at(other, 8, 1 << 20));
    assert_eq!(bed.files(), 1);
    let folder = |path: &Path| fs::read_dir(path).unwrap().count();
    assert!(folder(&bed.state().join(SPOOL)) >= 1);
    let sinks = bed.open(8, 1 << 20);
    assert_eq!(sinks.stats()[0].spooled, 1);
}

#[test]
fn a_state_folder_that_cannot_be_written_is_no_end() {
    let bed = Bed::new();
    fs::write(bed.state(), "a file").unwrap();
    let sinks = bed.open(8, 1 << 20);
    let socket = bind(&bed.socket());
    sinks.submit(&alert(1));
    expect(&socket, [1]);
}

#[test]
fn a_target_that_is_down_holds_up_no_other() {
    let bed = Bed::new();
    let mut alerts = syslog(SyslogAddress::Unix(bed.socket()), SyslogFormat::Rfc3164);
    let dead = host(Ipv4Addr::LOCALHOST.into(), quiet_port());
    for address in [SyslogAddress::Tcp(dead.clone()), SyslogAddress::Tls(dead)] {
        alerts.syslog.insert(0, config::SyslogTarget::new(address));
    }
    let sinks = Sinks::open(&alerts, identity(), Some(&bed.state())).unwrap();
    let socket = bind(&bed.socket());
    for n in 0..100 {
        sinks.submit(&alert(n));
        assert_eq!(number(&receive(&socket)), n);
    }
    let stats = sinks.close(LIMIT);
    let spooled: Vec<u64> = stats.iter().map(|stats| stats.spooled).collect();
    assert_eq!(spooled, [100, 100, 0]);
}
