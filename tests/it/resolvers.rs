//! A listed resolver answers whatever the daemon does, at its ports only.

use std::{
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
};

use feedgate::demo::Netns;

use crate::support::{
    Alerts, Conf, Daemon, Echo, Lab, connect, dropped, echo, exchange, feedgate, load, nft,
    program, unanswered, web,
};

const RESOLVERS: [&str; 2] = ["203.0.113.5", "2001:db8:bad::5"];

/// feedgate with a resolv.conf that names the resolvers.
fn with_resolvers(lab: &Lab) -> PathBuf {
    let file = lab.path("resolv.conf");
    let lines = RESOLVERS.map(|resolver| format!("nameserver {resolver}\n"));
    std::fs::write(&file, lines.concat()).unwrap();
    let text = format!(
        "#!/bin/sh\nexec unshare -m sh -c 'mount --bind {} /etc/resolv.conf && exec \"$@\"' sh {} \"$@\"\n",
        file.display(),
        feedgate().display()
    );
    program(lab, "with-resolvers.sh", &text)
}

/// DNS over UDP, over TCP and over TLS, as far as ports go; and a web server.
struct Servers {
    _echoes: Vec<Echo>,
    _listeners: Vec<TcpListener>,
    _web: feedgate::demo::Server,
}

fn at(address: &str, port: u16) -> String {
    match address.contains(':') {
        true => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    }
}

impl Servers {
    fn start(lab: &Lab) -> Self {
        let listen = |address: String| {
            let listener = lab.server.enter(|| TcpListener::bind(&address)).unwrap();
            listener.unwrap_or_else(|e| panic!("{address}: {e}"))
        };
        let ports = RESOLVERS.iter().flat_map(|r| [at(r, 53), at(r, 853)]);
        Self {
            _echoes: ports.clone().map(|to| echo(&lab.server, &to)).collect(),
            _listeners: ports.map(listen).collect(),
            _web: web(&lab.server),
        }
    }
}

/// Both resolvers answer at their ports, and at no other.
#[track_caller]
fn resolves(netns: &Netns, when: &str) {
    for resolver in RESOLVERS {
        for port in [53, 853] {
            let to = at(resolver, port);
            exchange(netns, &to).unwrap_or_else(|e| panic!("{when}: udp {to}: {e}"));
            connect(netns, &to).unwrap_or_else(|e| panic!("{when}: tcp {to}: {e}"));
        }
        assert!(dropped(netns, &at(resolver, 80)), "{when}: {resolver}");
    }
}

fn conf(lab: &Lab, alerts: &Alerts) -> Conf {
    Conf::new(lab)
        .feed("list", "deny", &["203.0.113.0/24", "2001:db8:bad::/48"])
        .alerts(alerts)
}

#[test]
fn names_are_resolved_with_the_daemon_alive_frozen_dead_and_at_boot() {
    let Some(lab) = Lab::new() else { return };
    let (alerts, _servers) = (Alerts::listen(&lab), Servers::start(&lab));
    let wrapped = with_resolvers(&lab);
    let conf = conf(&lab, &alerts);
    let daemon = Daemon::start_as(&wrapped, &lab, &lab.host, &conf);
    resolves(&lab.host, "alive");
    for resolver in RESOLVERS {
        let alert = alerts.wait(&[("exception", "resolver"), ("dst", resolver)]);
        // By the look at what is listed, or by the search for live flows: whichever is sooner.
        alert.assert(&[("action", "alert"), ("feed", "list")]);
    }
    let lookup = daemon.ok(&["lookup", RESOLVERS[0]]);
    assert!(
        lookup.contains("are denied") && lookup.contains("excepted at ports 53 and 853: resolver"),
        "{lookup}"
    );
    let lookup = daemon.ok(&["lookup", RESOLVERS[0], "--port", "udp/53"]);
    assert!(
        lookup.contains("let pass, with an alert once a day"),
        "{lookup}"
    );
    daemon.freeze();
    resolves(&lab.host, "frozen");
    let daemon = daemon.killed();
    resolves(&lab.host, "dead");
    nft(&lab.host, &["delete", "table", "inet", "feedgate"]);
    assert!(connect(&lab.host, &at(RESOLVERS[0], 80)).is_ok());
    boot(&lab, &wrapped);
    resolves(&lab.host, "at boot");
    drop(daemon);
}

/// The table of the state folder, as at boot.
fn boot(lab: &Lab, wrapped: &Path) {
    let mut load = lab.host.command(wrapped);
    let config = lab.path("feedgate.toml");
    let done = load
        .arg("--config")
        .arg(config)
        .args(["nft", "load"])
        .output()
        .unwrap();
    let _ = std::io::stderr().write_all(&done.stderr);
    assert!(done.status.success());
}

#[test]
fn a_gateway_lets_its_clients_ask() {
    let Some(lab) = Lab::new() else { return };
    let (alerts, _servers) = (Alerts::listen(&lab), Servers::start(&lab));
    let wrapped = with_resolvers(&lab);
    let daemon = Daemon::start_as(&wrapped, &lab, &lab.gateway, &conf(&lab, &alerts));
    resolves(&lab.host, "forwarded");
    daemon.kill();
    resolves(&lab.host, "forwarded, dead");
}

/// Answers that are not tracked come from a listed address, as far as the rules know.
#[test]
fn answers_that_are_not_tracked_come_in() {
    let Some(lab) = Lab::new() else { return };
    let (alerts, _servers) = (Alerts::listen(&lab), Servers::start(&lab));
    let wrapped = with_resolvers(&lab);
    let _daemon = Daemon::start_as(&wrapped, &lab, &lab.host, &conf(&lab, &alerts));
    let rules = "table inet bare { \
        chain out { type filter hook output priority raw; udp dport { 53, 80 } notrack; }; \
        chain in { type filter hook prerouting priority raw; udp sport { 53, 80 } notrack; }; }";
    load(&lab.host, rules);
    let _other = echo(&lab.server, &at(RESOLVERS[0], 80));
    exchange(&lab.host, &at(RESOLVERS[0], 53)).unwrap();
    exchange(&lab.host, &at(RESOLVERS[1], 53)).unwrap();
    assert!(unanswered(&lab.host, &at(RESOLVERS[0], 80)));
}

/// Mode include, guard chains alone: with the files of this version, and with files that know no
/// resolvers.
#[test]
fn an_included_table_lets_them_pass_at_their_ports_or_at_all() {
    let Some(lab) = Lab::new() else { return };
    let (alerts, _servers) = (Alerts::listen(&lab), Servers::start(&lab));
    let wrapped = with_resolvers(&lab);
    let base = include_str!("../../nft/base.nft");
    load(&lab.host, base);
    let conf = conf(&lab, &alerts).nftables("mode = \"include\"");
    let daemon = Daemon::start_as(&wrapped, &lab, &lab.host, &conf);
    resolves(&lab.host, "included");
    let daemon = daemon.killed();
    resolves(&lab.host, "included, dead");
    drop(daemon);
    let old: String = base
        .replace("set resolvers", "set other")
        .lines()
        .filter(|line| !line.contains("@resolvers"))
        .map(|line| format!("{line}\n"))
        .collect();
    load(&lab.host, &old);
    let _daemon = Daemon::start_as(&wrapped, &lab, &lab.host, &conf);
    for resolver in RESOLVERS {
        exchange(&lab.host, &at(resolver, 53)).unwrap();
        connect(&lab.host, &at(resolver, 80)).unwrap();
    }
    assert!(dropped(&lab.host, "203.0.113.6:80"));
}
