//! Against a real rsyslogd: both settings of its local socket, UDP, TCP and TLS, and outages.
//!
//! rsyslogd writes what it understood as JSON to a socket of the test. Without rsyslogd these
//! tests say so and end; where `CI` is set they fail.

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use nix::sys::signal::{Signal, kill};

use serde_json::Value;

use super::{
    tests::{alert, identity, number, quiet_port, syslog, wait_for},
    *,
};
use crate::{
    alert::line,
    config::{Host, HostPort, TlsFiles},
};

const LIMIT: Duration = Duration::from_secs(60);

/// A running rsyslogd; killed and reaped on drop.
struct Rsyslog {
    child: Child,
    out: UdpSocket,
    dir: tempfile::TempDir,
    udp: u16,
    tcp: u16,
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Rsyslog {
    /// `None` where it is not installed; there is then nothing to test against.
    fn start() -> Option<Self> {
        Self::start_with(|_| String::new())
    }

    /// With settings of its TCP input, for which files may be made in the folder. `None` as above.
    fn start_with(tcp_module: impl FnOnce(&Path) -> String) -> Option<Self> {
        // Unix socket paths end at 107 bytes: a short folder.
        let dir = tempfile::Builder::new()
            .prefix("fg")
            .tempdir_in("/tmp")
            .unwrap();
        let out = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        out.set_read_timeout(Some(LIMIT)).unwrap();
        let (udp, tcp) = (quiet_port(), quiet_port());
        let config = dir.path().join("conf");
        fs::write(
            &config,
            configuration(
                dir.path(),
                &tcp_module(dir.path()),
                out.local_addr().unwrap().port(),
                udp,
                tcp,
            ),
        )
        .unwrap();
        match spawn(dir.path()) {
            Ok(child) => Some(Self {
                child,
                out,
                dir,
                udp,
                tcp,
            }),
            Err(error) if std::env::var_os("CI").is_none() => {
                eprintln!("skipped: rsyslogd: {error}");
                None
            }
            Err(error) => panic!("rsyslogd: {error}; apt-get install rsyslog"),
        }
    }

    /// What rsyslogd made of the next line of ours.
    fn read(&self) -> Value {
        let mut buffer = [0; 8192];
        loop {
            let len = self.out.recv(&mut buffer).unwrap();
            let read: Value = serde_json::from_slice(&buffer[..len]).unwrap_or_else(|error| {
                panic!("{error}: {}", String::from_utf8_lossy(&buffer[..len]))
            });
            if read["app"] != "rsyslogd" {
                return read;
            }
        }
    }

    /// Ends it as that signal does.
    fn end(&mut self, signal: Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, signal).unwrap();
        self.child.wait().unwrap();
    }

    fn start_again(&mut self) {
        self.child = spawn(self.dir.path()).unwrap();
    }

    /// The alerts that it wrote to its file, in its order.
    fn numbers(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.dir.path().join("out")).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let alerts = whole.lines().filter(|line| line.contains(" id="));
        alerts.map(number).collect()
    }

    fn unix(&self, name: &str) -> SyslogAddress {
        SyslogAddress::Unix(self.dir.path().join(name))
    }
}

fn spawn(dir: &Path) -> io::Result<Child> {
    Command::new("rsyslogd")
        .arg("-n")
        .arg("-i")
        .arg(dir.join("pid"))
        .arg("-f")
        .arg(dir.join("conf"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

fn configuration(dir: &Path, tcp_module: &str, out: u16, udp: u16, tcp: u16) -> String {
    let dir = dir.display();
    let fields: Vec<String> = [
        ("sd", "structured-data"),
        ("app", "app-name"),
        ("procid", "procid"),
        ("msgid", "msgid"),
        ("msg", "msg"),
        ("host", "hostname"),
        ("pri", "pri"),
        ("time", "timereported\" dateFormat=\"rfc3339"),
        ("raw", "rawmsg"),
    ]
    .iter()
    .map(|(name, property)| {
        format!(
            "constant(value=\"\\\"{name}\\\":\\\"\") property(name=\"{property}\" format=\"json\") constant(value=\"\\\"\")"
        )
    })
    .collect();
    format!(
        r#"
global(workDirectory="{dir}" maxMessageSize="16k")
module(load="imuxsock" SysSock.Use="off")
module(load="imudp")
module(load="imtcp"{tcp_module})
input(type="imuxsock" Socket="{dir}/full" CreatePath="on" UseSpecialParser="off" ParseHostname="on" IgnoreTimestamp="off" RateLimit.Interval="0")
input(type="imuxsock" Socket="{dir}/stock" CreatePath="on" RateLimit.Interval="0")
input(type="imudp" address="127.0.0.1" port="{udp}")
input(type="imtcp" address="127.0.0.1" port="{tcp}")
template(name="out" type="list") {{ constant(value="{{") {} constant(value="}}") }}
action(type="omfwd" target="127.0.0.1" port="{out}" protocol="udp" template="out")
template(name="line" type="list") {{ property(name="rawmsg") constant(value="\n") }}
action(type="omfile" file="{dir}/out" template="line")
"#,
        fields.join(" constant(value=\",\") ")
    )
}

fn nasty() -> Alert {
    let mut alert = alert(1);
    alert.source.comm = Some("a]b\"c\\d é\n\u{1b}".into());
    alert.source.unit = Some("x".repeat(300));
    alert.source.image = Some("y".repeat(300));
    alert
}

fn submit(address: SyslogAddress, format: SyslogFormat) -> Sinks {
    let identity = Identity {
        hostname: "gw.example".into(),
        pid: 42,
        app: "feedgate".into(),
    };
    let sinks = Sinks::open(&syslog(address, format), identity, None).unwrap();
    sinks.submit(&nasty());
    sinks
}

/// rsyslogd read the header, the element and the sentence apart, and each as we wrote it.
fn check_5424(read: &Value) {
    let alert = nasty();
    assert_eq!(read["sd"], line::structured_data(&alert), "{read}");
    assert_eq!(
        read["msg"].as_str().unwrap().trim_start(),
        line::message(&alert),
        "{read}"
    );
    assert_eq!(
        (&read["app"], &read["procid"], &read["msgid"]),
        (&"feedgate".into(), &"42".into(), &"THREATFEED".into())
    );
    assert_eq!(
        (&read["host"], &read["pri"]),
        (&"gw.example".into(), &"85".into())
    );
    assert!(
        read["time"]
            .as_str()
            .unwrap()
            .starts_with("2026-08-06T07:06:40.123456"),
        "{read}"
    );
}

/// The older form: rsyslogd sees no structured data, the element leads the text.
fn check_3164(read: &Value) {
    let alert = nasty();
    let text = format!(
        "{} {}",
        line::structured_data(&alert),
        line::message(&alert)
    );
    assert_eq!(read["msg"].as_str().unwrap().trim_start(), text, "{read}");
    assert_eq!(
        (&read["app"], &read["procid"], &read["pri"]),
        (&"feedgate".into(), &"42".into(), &"85".into())
    );
}

#[test]
fn local_sockets() {
    let Some(rsyslog) = Rsyslog::start() else {
        return;
    };
    let _keep = submit(rsyslog.unix("full"), SyslogFormat::Rfc5424);
    check_5424(&rsyslog.read());
    let _keep = submit(rsyslog.unix("full"), SyslogFormat::Rfc3164);
    check_3164(&rsyslog.read());
    let _keep = submit(rsyslog.unix("stock"), SyslogFormat::Rfc3164);
    check_3164(&rsyslog.read());
}

#[test]
fn tcp_and_udp() {
    let Some(rsyslog) = Rsyslog::start() else {
        return;
    };
    for format in [SyslogFormat::Rfc5424, SyslogFormat::Rfc3164] {
        let check = match format {
            SyslogFormat::Rfc5424 => check_5424,
            _ => check_3164,
        };
        // TCP first: when it works, rsyslogd has its UDP socket as well.
        let _keep = submit(SyslogAddress::Tcp(local(rsyslog.tcp)), format);
        let read = rsyslog.read();
        check(&read);
        assert_eq!(read["host"], "gw.example");
        let _keep = submit(SyslogAddress::Udp(local(rsyslog.udp)), format);
        check(&rsyslog.read());
    }
}

fn local(port: u16) -> HostPort {
    HostPort {
        host: Host::Addr(Ipv4Addr::LOCALHOST.into()),
        port,
    }
}

/// The event as the format's document has it behind the header that rsyslogd took off, or whole.
fn check_cef(read: &Value) {
    let raw = read["raw"].as_str().unwrap();
    let (header, event) = raw.split_once(" CEF:0|feedgate|feedgate|").expect(raw);
    assert!(header.starts_with("<85>Aug  6 "), "{raw}");
    let alert = nasty();
    for part in [
        "|threatfeed-egress-deny|Connection to a listed address denied|5|rt=1786000000123 ",
        " externalId=00000000-0000-0000-0000-000000000001 act=deny ",
        " sproc=a]b\"c\\\\d \u{e9}?? filePath=/usr/bin/curl ",
        &format!(" msg={}", line::message(&alert).replace('\\', "\\\\")),
    ] {
        assert!(event.contains(part), "{part} in {event}");
    }
    assert!(!raw.contains(char::is_control));
}

#[test]
fn cef_arrives_whole() {
    let Some(rsyslog) = Rsyslog::start() else {
        return;
    };
    let _keep = submit(SyslogAddress::Tcp(local(rsyslog.tcp)), SyslogFormat::Cef);
    let read = rsyslog.read();
    check_cef(&read);
    assert_eq!(read["host"], "gw.example");
    let _keep = submit(SyslogAddress::Udp(local(rsyslog.udp)), SyslogFormat::Cef);
    check_cef(&rsyslog.read());
    let _keep = submit(rsyslog.unix("stock"), SyslogFormat::Cef);
    check_cef(&rsyslog.read());
}

/// Alerts all along while rsyslogd is away; each arrives once, and in order. They stand still for the
/// moment in which it ends: what its kernel has taken and it has not read is lost with it, as
/// docs/alerts.md says, and on a busy machine it takes its time.
fn outage(rsyslog: &mut Rsyslog, mut target: config::SyslogTarget, signal: Signal, down: Duration) {
    let state = rsyslog.dir.path().join("state");
    target.spool = 64 << 20;
    let alerts = config::Alerts {
        suppress: Duration::ZERO,
        syslog: vec![target],
        ..config::Alerts::default()
    };
    let sinks = Sinks::open(&alerts, identity(), Some(&state)).unwrap();
    let stop = AtomicBool::new(false);
    let submitted = AtomicU32::new(0);
    let turn = Mutex::new(());
    let seen = |rsyslog: &Rsyslog, least: u32| {
        let end = Instant::now() + LIMIT;
        while rsyslog.numbers().len() < usize::try_from(least).unwrap() {
            if Instant::now() > end {
                let seen = rsyslog.numbers();
                let missing: Vec<_> = (0..least).filter(|n| !seen.contains(n)).collect();
                panic!("{missing:?} {:?}", sinks.stats());
            }
            thread::sleep(Duration::from_millis(20));
        }
    };
    let waited = thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                {
                    let _turn = turn.lock().unwrap();
                    sinks.submit(&alert(submitted.fetch_add(1, Ordering::Relaxed)));
                }
                thread::sleep(Duration::from_millis(2));
            }
        });
        seen(rsyslog, 200);
        {
            let _turn = turn.lock().unwrap();
            seen(rsyslog, submitted.load(Ordering::Relaxed));
            rsyslog.end(signal);
        }
        thread::sleep(down);
        let waited = sinks.stats()[0].clone();
        rsyslog.start_again();
        seen(rsyslog, submitted.load(Ordering::Relaxed) + 200);
        stop.store(true, Ordering::Relaxed);
        waited
    });
    let all = submitted.load(Ordering::Relaxed);
    wait_for(&sinks, |stats| stats.sent == u64::from(all));
    seen(rsyslog, all);
    assert_eq!(rsyslog.numbers(), (0..all).collect::<Vec<_>>());
    let stats = &sinks.close(LIMIT)[0];
    assert_eq!((stats.queued, stats.spooled, stats.dropped), (0, 0, 0));
    eprintln!(
        "{all} alerts, {} of them waited on disk when rsyslogd came back",
        waited.spooled
    );
    assert!(
        waited.spooled > 0 || down < Duration::from_secs(2),
        "{waited:?}"
    );
}

fn target(address: SyslogAddress) -> config::SyslogTarget {
    config::SyslogTarget::new(address)
}

#[test]
fn an_outage_of_a_tcp_target_loses_and_doubles_nothing() {
    let Some(mut rsyslog) = Rsyslog::start() else {
        return;
    };
    let address = SyslogAddress::Tcp(local(rsyslog.tcp));
    outage(
        &mut rsyslog,
        target(address),
        Signal::SIGTERM,
        Duration::from_secs(3),
    );
}

#[test]
fn a_tcp_target_that_is_killed_loses_and_doubles_nothing() {
    let Some(mut rsyslog) = Rsyslog::start() else {
        return;
    };
    let address = SyslogAddress::Tcp(local(rsyslog.tcp));
    outage(
        &mut rsyslog,
        target(address),
        Signal::SIGKILL,
        Duration::from_millis(500),
    );
}

/// 60 s, as long as a reboot of a log server; its figure is in docs/alerts.md.
#[test]
#[ignore = "takes more than a minute"]
fn an_outage_of_a_minute() {
    let Some(mut rsyslog) = Rsyslog::start() else {
        return;
    };
    let address = SyslogAddress::Tcp(local(rsyslog.tcp));
    outage(
        &mut rsyslog,
        target(address),
        Signal::SIGTERM,
        Duration::from_secs(60),
    );
}

/// Certificates of a CA, of a server on the loopback and of a client, in a folder.
fn certificates(dir: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let write = |name: &str, text: String| {
        fs::write(dir.join(name), text).unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    };
    for ca_name in ["ca", "other"] {
        let key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name
            .push(rcgen::DnType::CommonName, ca_name);
        write(
            &format!("{ca_name}.pem"),
            ca.self_signed(&key).unwrap().pem(),
        );
        let issuer = Issuer::new(ca, key);
        for name in ["server", "client"] {
            let key = KeyPair::generate().unwrap();
            let mut leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
            leaf.distinguished_name
                .push(rcgen::DnType::CommonName, name);
            let certificate = leaf.signed_by(&key, &issuer).unwrap().pem();
            write(&format!("{ca_name}-{name}.pem"), certificate);
            write(&format!("{ca_name}-{name}.key"), key.serialize_pem());
        }
    }
}

impl Rsyslog {
    /// With TLS on its TCP port, for clients with a certificate of its CA.
    fn start_tls(driver: &str) -> Option<Self> {
        let modules = Path::new("/usr/lib");
        let module = fs::read_dir(modules).unwrap().flatten().any(|folder| {
            let file = format!("rsyslog/lmnsd_{driver}.so");
            folder.path().join(file).exists()
        });
        if !module && std::env::var_os("CI").is_none() {
            eprintln!(
                "skipped: rsyslogd has no TLS driver {driver} (packages rsyslog-gnutls, rsyslog-openssl)"
            );
            return None;
        }
        assert!(
            module,
            "rsyslogd has no TLS driver {driver}: apt-get install rsyslog-gnutls rsyslog-openssl"
        );
        Self::start_with(|dir| {
            certificates(dir);
            let dir = dir.display();
            format!(
                r#" StreamDriver.Name="{driver}" StreamDriver.Mode="1" StreamDriver.AuthMode="x509/certvalid")
global(DefaultNetstreamDriver="{driver}" DefaultNetstreamDriverCAFile="{dir}/ca.pem"
    DefaultNetstreamDriverCertFile="{dir}/ca-server.pem" DefaultNetstreamDriverKeyFile="{dir}/ca-server.key""#
            )
        })
    }

    fn tls_target(&self, ca: &str, client: Option<&str>) -> config::SyslogTarget {
        let file = |name: String| Some(self.dir.path().join(name));
        config::SyslogTarget {
            tls: TlsFiles {
                ca: file(ca.to_owned()),
                cert: client.and_then(|client| file(format!("{client}.pem"))),
                key: client.and_then(|client| file(format!("{client}.key"))),
            },
            ..target(SyslogAddress::Tls(local(self.tcp)))
        }
    }
}

fn open_one(target: config::SyslogTarget) -> Sinks {
    let alerts = config::Alerts {
        suppress: Duration::ZERO,
        syslog: vec![target],
        ..config::Alerts::default()
    };
    let identity = Identity {
        hostname: "gw.example".into(),
        ..identity()
    };
    let sinks = Sinks::open(&alerts, identity, None).unwrap();
    sinks.submit(&nasty());
    sinks
}

/// The error of a target, once it is not only that rsyslogd is not up yet.
fn refusal(sinks: &Sinks) -> String {
    let end = Instant::now() + LIMIT;
    loop {
        let stats = &sinks.stats()[0];
        assert_eq!(stats.sent, 0, "it was not refused");
        if let Some(error) = stats
            .last_error
            .clone()
            .filter(|text| !text.contains("(os error"))
        {
            return error;
        }
        assert!(Instant::now() < end, "{stats:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn tls_with_a_client_certificate() {
    for driver in ["gtls", "ossl"] {
        if let Some(rsyslog) = Rsyslog::start_tls(driver) {
            check_tls(&rsyslog);
        }
    }
}

fn check_tls(rsyslog: &Rsyslog) {
    let sinks = open_one(rsyslog.tls_target("ca.pem", Some("ca-client")));
    check_5424(&rsyslog.read());
    wait_for(&sinks, |stats| {
        stats.sent == 1 && stats.last_error.is_none()
    });

    let wrong_ca = open_one(rsyslog.tls_target("other.pem", Some("ca-client")));
    let text = refusal(&wrong_ca);
    let file = rsyslog.dir.path().join("other.pem");
    let expect = format!(
        "TLS: the server's certificate is not signed by a CA of ca-file {}",
        file.display()
    );
    assert_eq!(text, expect);

    let text = refusal(&open_one(rsyslog.tls_target("ca.pem", None)));
    assert!(text.starts_with("TLS: the server refuses us"), "{text}");
    let text = refusal(&open_one(
        rsyslog.tls_target("ca.pem", Some("other-client")),
    ));
    assert!(text.starts_with("TLS: the server refuses us"), "{text}");

    let mut named = rsyslog.tls_target("ca.pem", Some("ca-client"));
    named.address = SyslogAddress::Tls(HostPort {
        host: Host::Name("localhost".to_owned()),
        port: rsyslog.tcp,
    });
    let text = refusal(&open_one(named));
    assert!(
        text.starts_with("TLS: the server's certificate is for another name"),
        "{text}"
    );

    let key = rsyslog.dir.path().join("ca-client.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let text = refusal(&open_one(rsyslog.tls_target("ca.pem", Some("ca-client"))));
    let mode = "its mode is 0644: others may read or write it";
    assert_eq!(text, format!("key-file {}: {mode}", key.display()));
}

#[test]
fn an_outage_of_a_tls_target_loses_and_doubles_nothing() {
    let Some(mut rsyslog) = Rsyslog::start_tls("gtls") else {
        return;
    };
    let target = rsyslog.tls_target("ca.pem", Some("ca-client"));
    outage(
        &mut rsyslog,
        target,
        Signal::SIGTERM,
        Duration::from_millis(500),
    );
}
