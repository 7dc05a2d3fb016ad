//! Who must not be locked out is excepted, whatever a feed lists.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
};

use crate::support::{Alerts, Conf, Daemon, Lab, connect, dropped, eventually, ping, program, web};

/// Stands for sshd: it listens on a port as root, takes one connection, and then calls itself what it reads
/// on its standard input, as sshd shows its state.
const SSHD: &str = r#"#!/usr/bin/perl
use Socket qw(:all);
$| = 1;
$0 = "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups";
socket(my $listener, PF_INET, SOCK_STREAM, 0) or die $!;
setsockopt($listener, SOL_SOCKET, SO_REUSEADDR, 1);
bind($listener, sockaddr_in(2222, INADDR_ANY)) or die $!;
listen($listener, 5) or die $!;
print "ready\n";
accept(my $peer, $listener) or die $!;
$0 = "sshd: admin [priv]";
print "accepted\n";
while (my $line = <STDIN>) {
    chomp $line;
    $0 = $line;
    print "called\n";
}
"#;

struct Sshd {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Sshd {
    fn start(lab: &Lab) -> Self {
        let script = program(lab, "sshd", SSHD);
        let mut command = lab.host.command(script);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let lines = BufReader::new(stdout).lines();
        let mut sshd = Self { child, lines };
        sshd.says("ready");
        sshd
    }

    fn says(&mut self, word: &str) {
        assert_eq!(self.lines.next().unwrap().unwrap(), word);
    }

    fn is_called(&mut self, title: &str) {
        use std::io::Write as _;
        let stdin = self.child.stdin.as_mut().unwrap();
        writeln!(stdin, "{title}").unwrap();
        self.says("called");
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn whoever_is_logged_in_by_ssh_is_not_locked_out() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    // The admin comes from 198.51.100.2, over the network.
    let (listed, web) = ("198.51.100.2", "198.51.100.2:80");
    let alerts = Alerts::listen(&lab);
    let conf = Conf::new(&lab)
        .feed("list", "deny", &[listed])
        .key("directions = [\"egress\"]")
        .alerts(&alerts);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert!(dropped(&lab.host, web));
    let mut sshd = Sshd::start(&lab);
    let session = connect(&lab.server, "192.0.2.2:2222").unwrap();
    sshd.says("accepted");
    // Not logged in yet. That this is looked at and does not count is tested with the module.
    sshd.is_called("sshd: admin [net]");
    let excepted = || {
        daemon
            .ok(&["lookup", listed])
            .contains("excepted: SSH peer")
    };
    assert!(!excepted() && dropped(&lab.host, web));
    sshd.is_called("sshd: admin@pts/0");
    eventually("the peer is excepted", || excepted().then_some(()));
    // The login came in where this feed does not ask, so that no packet told of it.
    let login = alerts.wait(&[("exception", "SSH peer"), ("method", "look")]);
    login.assert(&[
        ("action", "alert"),
        ("src", listed),
        ("dst", "192.0.2.2"),
        ("feed", "list"),
    ]);
    connect(&lab.host, web).unwrap();
    let lookup = daemon.ok(&["lookup", listed]);
    assert!(
        lookup.contains("let pass, with an alert once a day"),
        "{lookup}"
    );
    assert!(
        lookup.contains("(deny, not denied: exception: SSH peer)"),
        "{lookup}"
    );
    let status = daemon.ok(&["status"]);
    assert!(
        status.contains("guarded    SSH peer 198.51.100.2"),
        "{status}"
    );
    assert!(
        status.contains("listed   SSH peer 198.51.100.2 by list: not denied"),
        "{status}"
    );
    assert!(
        status.contains("default gateway on eth0 192.0.2.1"),
        "{status}"
    );
    // He may come back for a while.
    drop((session, sshd));
    let conf = conf.feed("more", "deny", &[listed]);
    daemon.reload(&conf.text());
    eventually("the reload is done", || {
        daemon
            .output()
            .contains("configuration reloaded")
            .then_some(())
    });
    connect(&lab.host, web).unwrap();
}

#[test]
fn what_the_host_lives_on_is_not_locked_out() {
    let Some(lab) = Lab::new() else { return };
    // The gateway, and the API server of a cluster.
    let conf = Conf::new(&lab).feed("list", "deny", &["192.0.2.1", "203.0.113.5", "203.0.113.6"]);
    let daemon = Daemon::start_with(
        &lab,
        &lab.host,
        &conf,
        &[("KUBERNETES_SERVICE_HOST", "203.0.113.5")],
    );
    assert!(ping(&lab.host, "192.0.2.1"));
    assert!(ping(&lab.host, "203.0.113.5"));
    for (address, why) in [
        ("192.0.2.1", "excepted: default gateway on eth0 (192.0.2.1)"),
        ("203.0.113.5", "excepted: Kubernetes API (203.0.113.5)"),
    ] {
        let lookup = daemon.ok(&["lookup", address]);
        assert!(lookup.contains(why), "{lookup}");
    }
    let lookup = daemon.ok(&["lookup", "203.0.113.6"]);
    assert!(
        lookup.contains("are denied") && !lookup.contains("excepted"),
        "{lookup}"
    );
}

/// Two uplinks for both families, one of them chosen by rules only; a feed that lists the whole Internet.
#[test]
fn every_gateway_is_spared_and_a_new_one_is_followed() {
    let Some(lab) = Lab::new() else { return };
    lab.host
        .ip(&[
            "route replace default nexthop via 192.0.2.1 dev eth0 nexthop via 192.0.2.7 dev eth0",
            "route add default via 192.0.2.8 dev eth0 table 100",
            "route replace ::/0 nexthop via 2001:db8:1::1 dev eth0 nexthop via 2001:db8:1::7 dev eth0",
            "route add ::/0 via 2001:db8:1::8 dev eth0 table 100",
        ])
        .unwrap();
    let conf = Conf::new(&lab)
        .feed("all", "deny", &["0.0.0.0/0", "::/0", "203.0.113.6"])
        .key("min-prefix4 = 0\nmin-prefix6 = 0")
        .feed("some", "deny", &["192.0.2.0/24", "2001:db8:1::/64"]);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let spared = |address: &str| {
        let lookup = daemon.ok(&["lookup", address]);
        lookup
            .contains("excepted: default gateway on eth0")
            .then_some(())
    };
    for address in [
        "192.0.2.1",
        "192.0.2.7",
        "192.0.2.8",
        "2001:db8:1::1",
        "2001:db8:1::7",
        "2001:db8:1::8",
    ] {
        assert_eq!(
            spared(address),
            Some(()),
            "{}",
            daemon.ok(&["lookup", address])
        );
    }
    for gateway in ["192.0.2.1", "2001:db8:1::1"] {
        assert!(ping(&lab.host, gateway), "{gateway}");
    }
    assert!(dropped(&lab.host, "203.0.113.6:80"));
    assert!(!ping(&lab.host, "192.0.2.9"), "listed, and nobody's");
    lab.host
        .ip(&["route replace default via 192.0.2.9 dev eth0"])
        .unwrap();
    eventually("the new gateway is spared", || spared("192.0.2.9"));
}

/// Gateways that stand in next-hop objects only, and one that many routes share.
#[test]
fn gateways_of_nexthop_objects_are_spared_and_a_shared_one_is_told_once() {
    let Some(lab) = Lab::new() else { return };
    let compat = ["-w", "net.ipv4.nexthop_compat_mode=0"];
    let done = lab.host.command("sysctl").args(compat).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    lab.host
        .ip(&[
            "nexthop add id 7 via 192.0.2.7 dev eth0",
            "nexthop add id 8 via 192.0.2.8 dev eth0",
            "nexthop add id 9 group 7/8",
            "route add default nhid 9 table 100",
            "nexthop add id 6 via 2001:db8:1::7 dev eth0",
            "route add 2001:db8:77::/48 nhid 6",
            "route add 198.18.1.0/24 via 192.0.2.20 dev eth0",
            "route add 198.18.2.0/24 via 192.0.2.20 dev eth0",
        ])
        .unwrap();
    let conf = Conf::new(&lab).feed("some", "deny", &["192.0.2.0/24", "2001:db8:1::/64"]);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    for (address, why) in [
        ("192.0.2.7", "excepted: default gateway on eth0"),
        ("192.0.2.8", "excepted: default gateway on eth0"),
        ("2001:db8:1::7", "excepted: gateway on eth0"),
        ("192.0.2.20", "excepted: gateway on eth0"),
    ] {
        let lookup = daemon.ok(&["lookup", address]);
        assert!(lookup.contains(why), "{lookup}");
    }
    // Once as an exception, and once as one that a feed lists.
    let status = daemon.status();
    for list in ["exceptions", "listed_exceptions"] {
        let rows = status[list].as_array().unwrap();
        let rows = rows.iter().filter(|row| row["prefix"] == "192.0.2.20");
        assert_eq!(rows.count(), 1, "{list} of {status}");
    }
}
