//! A real rsyslogd of the test's own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use feedgate::demo::Netns;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Deserialize;

use super::{Lab, connect, eventually};

/// How rsyslogd reads its unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parser {
    /// As Debian ships it for /dev/log: the local RFC 3164 form only.
    Stock,
    /// The general parser chain, which knows RFC 5424.
    General,
}

/// A message as rsyslogd understood it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    pub(crate) msg: String,
    pub(crate) sd: String,
    pub(crate) app: String,
    pub(crate) procid: String,
    pub(crate) msgid: String,
    pub(crate) facility: String,
    pub(crate) severity: String,
    pub(crate) input: String,
    pub(crate) raw: String,
}

/// A running rsyslogd, on a unix socket and on UDP and TCP port 5514 of the namespace's loopback.
pub(crate) struct Rsyslog {
    child: Child,
    dir: PathBuf,
}

impl Rsyslog {
    /// Its UDP address in a configuration.
    pub(crate) const UDP: &str = "udp:127.0.0.1:5514";
    /// Its TCP address in a configuration.
    pub(crate) const TCP: &str = "tcp:127.0.0.1:5514";

    /// Starts it in `netns` and waits until it takes connections.
    pub(crate) fn start(lab: &Lab, netns: &Netns, parser: Parser) -> Self {
        let dir = lab.path("rsyslog");
        fs::create_dir(&dir).unwrap();
        let file = dir.join("conf");
        fs::write(&file, configuration(&dir, parser)).unwrap();
        let child = spawn(netns, &dir);
        let rsyslog = Self { child, dir };
        rsyslog.wait_until_up(netns);
        rsyslog
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM: it writes what it has read, and ends.
    pub(crate) fn end(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        eventually("rsyslogd ends", || self.child.try_wait().unwrap());
    }

    /// Starts it once more; what it wrote stays. Does not wait.
    pub(crate) fn start_again(&mut self, netns: &Netns) {
        self.child = spawn(netns, &self.dir);
    }

    fn wait_until_up(&self, netns: &Netns) {
        eventually("rsyslogd listens", || connect(netns, "127.0.0.1:5514").ok());
        eventually("rsyslogd has its socket", || {
            self.socket().exists().then_some(())
        });
    }

    /// Its unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("socket")
    }

    /// What it wrote so far.
    pub(crate) fn records(&self) -> Vec<Record> {
        let text = fs::read_to_string(self.dir.join("out")).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).expect(line))
            .collect()
    }

    /// Waits for a record that fits.
    #[track_caller]
    pub(crate) fn wait(&self, fits: impl Fn(&Record) -> bool) -> Record {
        eventually("a record in rsyslog", || {
            self.records().into_iter().find(&fits)
        })
    }
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let out = fs::read_to_string(self.dir.join("out")).unwrap_or_default();
            eprintln!("--- rsyslogd wrote:\n{out}---");
        }
    }
}

fn spawn(netns: &Netns, dir: &Path) -> Child {
    netns
        .command("rsyslogd")
        .arg("-n")
        .arg("-i")
        .arg(dir.join("pid"))
        .arg("-f")
        .arg(dir.join("conf"))
        .stdin(Stdio::null())
        .spawn()
        .expect("rsyslogd (package rsyslog)")
}

fn configuration(dir: &Path, parser: Parser) -> String {
    let dir = dir.display();
    let general = match parser {
        Parser::Stock => "",
        Parser::General => r#" UseSpecialParser="off" ParseHostname="on""#,
    };
    let properties: String = [
        ("msg", "msg"),
        ("sd", "structured-data"),
        ("app", "app-name"),
        ("procid", "procid"),
        ("msgid", "msgid"),
        ("facility", "syslogfacility-text"),
        ("severity", "syslogseverity-text"),
        ("input", "inputname"),
        ("raw", "rawmsg"),
    ]
    .map(|(key, name)| format!(r#" property(outname="{key}" name="{name}" format="jsonf")"#))
    .concat();
    format!(
        r#"global(workDirectory="{dir}" maxMessageSize="16k")
module(load="imuxsock" SysSock.Use="off")
module(load="imudp")
module(load="imtcp")
input(type="imuxsock" Socket="{dir}/socket" CreatePath="on"{general})
input(type="imudp" address="127.0.0.1" port="5514")
input(type="imtcp" address="127.0.0.1" port="5514")
template(name="record" type="list" option.jsonf="on") {{{properties} }}
action(type="omfile" file="{dir}/out" template="record")
"#
    )
}

#[test]
fn rsyslog_reads_each_form_where_it_must() {
    let Some(lab) = Lab::new() else { return };
    let rsyslog = Rsyslog::start(&lab, &lab.host, Parser::Stock);
    let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
    let local = br#"<84>Nov 24 02:00:00 feedgate[7]: [feedgate@32473 id="1"] over unix"#;
    socket.send_to(local, rsyslog.socket()).unwrap();
    let record = rsyslog.wait(|record| record.msg.contains("over unix"));
    assert_eq!(
        (record.app.as_str(), record.procid.as_str()),
        ("feedgate", "7")
    );

    let modern = br#"<84>1 2026-11-24T02:00:00Z host feedgate 7 THREATFEED [feedgate@32473 id="2"] over udp"#;
    let udp = lab
        .host
        .enter(|| std::net::UdpSocket::bind("127.0.0.1:0"))
        .unwrap()
        .unwrap();
    udp.send_to(modern, "127.0.0.1:5514").unwrap();
    let record = rsyslog.wait(|record| record.msg.contains("over udp"));
    assert_eq!(record.sd, r#"[feedgate@32473 id="2"]"#);
    assert_eq!(record.msgid, "THREATFEED");
}
