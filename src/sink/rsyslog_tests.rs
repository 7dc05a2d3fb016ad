//! Against a real rsyslogd: both settings of its local socket, UDP and TCP.
//!
//! rsyslogd writes what it understood as JSON to a socket of the test. Without rsyslogd these
//! tests say so and end; where `CI` is set they fail.

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use super::{
    tests::{alert, quiet_port, syslog},
    *,
};
use crate::{
    alert::line,
    config::{Host, HostPort},
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
            configuration(dir.path(), out.local_addr().unwrap().port(), udp, tcp),
        )
        .unwrap();
        let child = Command::new("rsyslogd")
            .arg("-n")
            .arg("-i")
            .arg(dir.path().join("pid"))
            .arg("-f")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match child {
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

    fn unix(&self, name: &str) -> SyslogAddress {
        SyslogAddress::Unix(self.dir.path().join(name))
    }
}

fn configuration(dir: &Path, out: u16, udp: u16, tcp: u16) -> String {
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
module(load="imtcp")
input(type="imuxsock" Socket="{dir}/full" CreatePath="on" UseSpecialParser="off" ParseHostname="on" IgnoreTimestamp="off" RateLimit.Interval="0")
input(type="imuxsock" Socket="{dir}/stock" CreatePath="on" RateLimit.Interval="0")
input(type="imudp" address="127.0.0.1" port="{udp}")
input(type="imtcp" address="127.0.0.1" port="{tcp}")
template(name="out" type="list") {{ constant(value="{{") {} constant(value="}}") }}
action(type="omfwd" target="127.0.0.1" port="{out}" protocol="udp" template="out")
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
    let local = |port| HostPort {
        host: Host::Addr(Ipv4Addr::LOCALHOST.into()),
        port,
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
