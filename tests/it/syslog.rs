//! The alert line as a real rsyslogd understands it.

use std::path::Path;

use crate::support::{
    Alert, Conf, Daemon, Lab, Parser, Record, Rsyslog, connect, dropped, eventually, install, web,
};

/// Starts everything with one syslog target, makes one watched flow and gives its record.
fn record_over(lab: &Lab, parser: Parser, address: &str, keys: &str) -> Record {
    let _web = web(&lab.server);
    let rsyslog = Rsyslog::start(lab, &lab.host, parser);
    let unix = format!("unix:{}", rsyslog.socket().display());
    let address = if address.is_empty() { &unix } else { address };
    let conf = Conf::new(lab)
        .syslog(address, keys)
        .feed("watch", "alert", &["203.0.113.1"]);
    let _daemon = Daemon::start(lab, &lab.host, &conf);
    connect(&lab.host, "203.0.113.1:80").unwrap();
    rsyslog.wait(|record| record.raw.contains("203.0.113.1"))
}

#[track_caller]
fn assert_alert(text: &str) {
    let alert = Alert::parse(text).unwrap_or_else(|| panic!("no structured data in {text}"));
    alert.assert(&[
        ("action", "alert"),
        ("dst", "203.0.113.1"),
        ("feed", "watch"),
        ("pid", &std::process::id().to_string()),
    ]);
}

#[track_caller]
fn assert_rfc5424(record: &Record) {
    assert_alert(&record.sd);
    assert_eq!(record.app, "feedgate");
    assert_eq!(record.msgid, "THREATFEED");
    assert!(record.procid.parse::<u32>().is_ok(), "{record:#?}");
    assert!(
        record.msg.contains("203.0.113.1"),
        "a sentence follows: {record:#?}"
    );
}

#[test]
fn rfc_5424_over_udp() {
    let Some(lab) = Lab::new() else { return };
    let record = record_over(&lab, Parser::Stock, Rsyslog::UDP, "");
    assert_rfc5424(&record);
    assert_eq!(record.input, "imudp");
}

#[test]
fn rfc_5424_over_tcp() {
    let Some(lab) = Lab::new() else { return };
    let record = record_over(&lab, Parser::Stock, Rsyslog::TCP, "");
    assert_rfc5424(&record);
    assert_eq!(record.input, "imtcp");
}

#[test]
fn the_local_form_over_the_stock_unix_socket() {
    let Some(lab) = Lab::new() else { return };
    let record = record_over(&lab, Parser::Stock, "", "");
    assert_eq!(record.app, "feedgate");
    assert!(record.procid.parse::<u32>().is_ok(), "{record:#?}");
    assert_alert(&record.msg);
    assert_eq!(record.facility, "authpriv");
}

#[test]
fn rfc_5424_over_a_unix_socket_that_knows_it() {
    let Some(lab) = Lab::new() else { return };
    let record = record_over(&lab, Parser::General, "", "format = \"rfc5424\"");
    assert_rfc5424(&record);
}

#[test]
fn the_facility_is_the_configurations() {
    let Some(lab) = Lab::new() else { return };
    let record = record_over(&lab, Parser::Stock, Rsyslog::UDP, "facility = \"local3\"");
    assert_eq!(record.facility, "local3");
}

#[test]
fn a_hostile_process_name_stays_one_value_of_one_line() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let rsyslog = Rsyslog::start(&lab, &lab.host, Parser::Stock);
    let conf = Conf::new(&lab)
        .syslog(Rsyslog::UDP, "")
        .feed("watch", "alert", &["203.0.113.1"]);
    let _daemon = Daemon::start(&lab, &lab.host, &conf);

    let program = lab.path("x\"]\\ \n<0>y=\"");
    install(Path::new("/usr/bin/curl"), &program);
    let mut curl = lab.host.command(&program);
    let status = curl
        .args(["-s", "-m", "20", "-o", "/dev/null", "http://203.0.113.1/"])
        .status();
    assert!(status.unwrap().success());

    let record = rsyslog.wait(|record| record.raw.contains("203.0.113.1"));
    let alert = Alert::parse(&record.sd).expect("well-formed structured data");
    alert.assert(&[("dst", "203.0.113.1"), ("uid", "0")]);
    let comm = alert.get("comm");
    assert!(
        comm.starts_with("x\"]\\ ") && comm.ends_with("<0>y=\""),
        "{comm:?}"
    );
    assert!(!record.raw.contains(char::is_control), "{:?}", record.raw);
    // One line, one record; a busy machine may ask about the same flow again.
    for other in rsyslog.records() {
        let alert = Alert::parse(&other.sd).unwrap_or_else(|| panic!("{other:#?}"));
        alert.assert(&[("comm", comm)]);
    }
}

#[test]
fn the_log_server_of_the_page_about_siems_works_as_it_stands() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let page = include_str!("../../docs/siem.md");
    let shown = page
        .split("```")
        .find(|block| block.contains("module(load=\"mmpstrucdata\")"));
    let shown = shown.expect("the snippet");
    let text = shown.replace("/var/log/", &format!("{}/", lab.dir.display()));
    let _rsyslog = Rsyslog::start_as(&lab, &lab.host, &text, "127.0.0.1:10514");
    let conf = Conf::new(&lab)
        .syslog("tcp:127.0.0.1:10514", "")
        .feed("watch", "alert", &["203.0.113.1"])
        .feed("block", "deny", &["203.0.113.2"]);
    let _daemon = Daemon::start(&lab, &lab.host, &conf);
    connect(&lab.host, "203.0.113.1:80").unwrap();
    assert!(dropped(&lab.host, "203.0.113.2:80"));
    let file = |name: &str| std::fs::read_to_string(lab.path(name)).unwrap_or_default();
    let actions = || -> Vec<(String, String)> {
        let lines = file("feedgate-fleet.json");
        let read = |line: &str| {
            let event: serde_json::Value = serde_json::from_str(line).ok()?;
            let data = &event["data"]["feedgate@32473"];
            let word = |key: &str| data[key].as_str().map(str::to_owned);
            (event["msgid"] == "THREATFEED").then_some(())?;
            Some((word("feed")?, word("action")?))
        };
        lines.lines().filter_map(read).collect()
    };
    eventually("both as JSON", || {
        let found = actions();
        let has = |feed: &str, action: &str| found.contains(&(feed.to_owned(), action.to_owned()));
        (has("watch", "alert") && has("block", "deny")).then_some(())
    });
    let denied = eventually("the denied one as text", || {
        Some(file("feedgate-denied.log")).filter(|text| !text.is_empty())
    });
    assert!(
        denied.contains("203.0.113.2") && !denied.contains("203.0.113.1:80"),
        "{denied}"
    );
}
