//! Syslog targets that go away and come back: nothing is lost, nothing comes twice.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::support::{
    Alert, Alerts, Conf, Daemon, Lab, Parser, Rsyslog, connect, eventually, feedgate, nft, program,
    web,
};

/// The alerts' ids that rsyslogd wrote, in its order.
fn ids(rsyslog: &Rsyslog) -> Vec<String> {
    let records = rsyslog.records();
    let alerts = records.iter().filter_map(|record| Alert::parse(&record.sd));
    alerts.map(|alert| alert.get("id").to_owned()).collect()
}

/// Waits until rsyslogd has as many alerts as the test's own socket, which must be the same.
#[track_caller]
fn assert_same(alerts: &Alerts, rsyslog: &Rsyslog) {
    let wanted: Vec<String> = alerts
        .all()
        .iter()
        .map(|a| a.get("id").to_owned())
        .collect();
    let seen = eventually("every alert in rsyslog", || {
        Some(ids(rsyslog)).filter(|seen| seen.len() >= wanted.len())
    });
    assert_eq!(seen, wanted);
}

fn flows(lab: &Lab, alerts: &Alerts, count: usize) {
    let before = alerts.all().len();
    for _ in 0..count {
        connect(&lab.host, "203.0.113.1:80").unwrap();
    }
    eventually("an alert for each flow", || {
        (alerts.all().len() >= before + count).then_some(())
    });
}

fn sink<'a>(status: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    let mut sinks = status["sinks"].as_array().unwrap().iter();
    sinks.find(|sink| sink["name"] == name).expect("the sink")
}

/// The network swallows what is sent, so the kernel holds it unacknowledged; then the server dies.
#[test]
fn lines_that_were_never_acknowledged_are_sent_again() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let mut rsyslog = Rsyslog::start(&lab, &lab.host, Parser::Stock);
    let conf = Conf::new(&lab)
        .syslog(Rsyslog::TCP, "")
        .feed("watch", "alert", &["203.0.113.1"]);
    let (alerts, daemon) = Daemon::alerting(&lab, &lab.host, conf);
    flows(&lab, &alerts, 3);
    assert_same(&alerts, &rsyslog);

    nft(
        &lab.host,
        &[
            "add table ip hole; add chain ip hole in { type filter hook input priority 0; }; \
             add rule ip hole in tcp dport 5514 drop",
        ],
    );
    flows(&lab, &alerts, 10);
    let status = daemon.status();
    let tcp = sink(&status, Rsyslog::TCP);
    assert_eq!(
        (&tcp["sent"], &tcp["queued"]),
        (&3.into(), &10.into()),
        "{tcp}"
    );
    rsyslog.kill();
    rsyslog.start_again(&lab.host);
    nft(&lab.host, &["delete table ip hole"]);
    flows(&lab, &alerts, 3);
    assert_same(&alerts, &rsyslog);
    let status = daemon.status();
    let tcp = sink(&status, Rsyslog::TCP);
    assert_eq!(
        (&tcp["dropped"], &tcp["spooled"]),
        (&0.into(), &0.into()),
        "{tcp}"
    );
}

#[test]
fn alerts_wait_on_disk_over_a_restart_of_the_daemon() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let mut rsyslog = Rsyslog::start(&lab, &lab.host, Parser::Stock);
    let conf = Conf::new(&lab)
        .syslog(Rsyslog::TCP, "")
        .feed("watch", "alert", &["203.0.113.1"]);
    let (alerts, daemon) = Daemon::alerting(&lab, &lab.host, conf.clone());
    let conf = conf.alerts(&alerts);
    flows(&lab, &alerts, 2);
    assert_same(&alerts, &rsyslog);
    rsyslog.kill();
    flows(&lab, &alerts, 5);
    eventually("they are on disk", || {
        (sink(&daemon.status(), Rsyslog::TCP)["spooled"] == 5).then_some(())
    });
    let text = daemon.ok(&["status"]);
    assert!(text.contains(", 5 waiting on disk ("), "{text}");
    flows(&lab, &alerts, 1);
    daemon.stop();

    let daemon = Daemon::start(&lab, &lab.host, &conf);
    flows(&lab, &alerts, 2);
    rsyslog.start_again(&lab.host);
    assert_same(&alerts, &rsyslog);

    // A reload without the target says what becomes of what waits.
    rsyslog.kill();
    flows(&lab, &alerts, 1);
    let less = Conf::new(&lab)
        .alerts(&alerts)
        .feed("watch", "alert", &["203.0.113.1"]);
    daemon.reload(&less.text());
    let told = "alerts stay on disk; they are sent when this target is configured";
    eventually("the log says so", || {
        daemon.output().contains(told).then_some(())
    });
    rsyslog.start_again(&lab.host);
    daemon.reload(&conf.text());
    assert_same(&alerts, &rsyslog);
}

/// A reader of one connection, line by line.
fn accept(listener: &TcpListener) -> BufReader<TcpStream> {
    BufReader::new(listener.accept().unwrap().0)
}

#[test]
fn a_name_is_resolved_again_for_each_connection() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let hosts = lab.path("hosts");
    fs::write(&hosts, "127.0.0.7 log.example\n").unwrap();
    // In a mount namespace of its own, where /etc/hosts is the test's.
    let script = program(
        &lab,
        "with-hosts.sh",
        &format!(
            "#!/bin/sh\nexec unshare -m sh -c 'mount --bind {} /etc/hosts && exec \"$@\"' sh {} \"$@\"\n",
            hosts.display(),
            feedgate().display()
        ),
    );
    let listen = |address: &str| {
        lab.host
            .enter(|| TcpListener::bind(address))
            .unwrap()
            .unwrap()
    };
    let listener = listen("127.0.0.7:5514");
    let conf = Conf::new(&lab)
        .syslog("tcp:log.example:5514", "format = \"rfc3164\"")
        .feed("watch", "alert", &["203.0.113.1"]);
    let _daemon = Daemon::start_as(&script, &lab, &lab.host, &conf);
    let read = |stream: &mut BufReader<TcpStream>| {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        Alert::parse(&line)
            .expect(&line)
            .assert(&[("dst", "203.0.113.1")]);
    };
    connect(&lab.host, "203.0.113.1:80").unwrap();
    let mut first = accept(&listener);
    read(&mut first);

    let other = listen("[::1]:5514");
    fs::write(&hosts, "::1 log.example\n").unwrap();
    drop((first, listener));
    connect(&lab.host, "203.0.113.1:80").unwrap();
    read(&mut accept(&other));
}
