//! What holds when the daemon dies, stops, reloads, restarts, or must not start.

use feedgate::demo::DaemonError;

use crate::support::{
    Alerts, Conf, Daemon, Lab, connect, dropped, eventually, load, nft, reached, web,
};

const DENIED: &str = "203.0.113.1:80";
const WATCHED: &str = "203.0.113.2:80";
const UNLISTED: &str = "203.0.113.200:80";

fn conf(lab: &Lab) -> Conf {
    Conf::new(lab)
        .feed("block", "deny", &["203.0.113.1", "2001:db8:bad::1"])
        .feed("watch", "alert", &["203.0.113.2", "2001:db8:bad::2"])
}

#[track_caller]
fn enforced(lab: &Lab) {
    assert!(dropped(&lab.host, DENIED), "denied stays denied");
    assert!(
        dropped(&lab.host, "[2001:db8:bad::1]:80"),
        "denied stays denied"
    );
    connect(&lab.host, WATCHED).expect("watched passes");
    connect(&lab.host, "[2001:db8:bad::2]:80").expect("watched passes");
    connect(&lab.host, UNLISTED).expect("unlisted is untouched");
}

#[test]
fn after_sigkill_the_kernel_goes_on() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    Daemon::start(&lab, &lab.host, &conf(&lab)).kill();
    enforced(&lab);
}

#[test]
fn sigterm_ends_it_with_0_and_deny_stays() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let status = Daemon::start(&lab, &lab.host, &conf(&lab)).stop();
    assert_eq!(status.code(), Some(0));
    enforced(&lab);
}

#[test]
fn down_removes_everything() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let before = nft(&lab.host, &["list", "ruleset"]);
    let daemon = Daemon::start(&lab, &lab.host, &conf(&lab));
    daemon.ok(&["down"]);
    assert_eq!(nft(&lab.host, &["list", "ruleset"]), before);
    connect(&lab.host, DENIED).unwrap();
}

#[test]
fn down_works_without_a_daemon() {
    let Some(lab) = Lab::new() else { return };
    let daemon = Daemon::start(&lab, &lab.host, &conf(&lab));
    let dead = daemon.killed();
    assert!(nft(&lab.host, &["list", "tables"]).contains("inet feedgate"));
    dead.ok(&["down"]);
    assert_eq!(nft(&lab.host, &["list", "tables"]), "");
}

#[test]
fn a_restart_takes_over_the_table() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    Daemon::start(&lab, &lab.host, &conf(&lab)).kill();
    let alerts = Alerts::listen(&lab);
    let other = Conf::new(&lab)
        .alerts(&alerts)
        .feed("block", "deny", &["203.0.113.3"])
        .feed("watch", "alert", &["203.0.113.2"]);
    let _daemon = Daemon::start(&lab, &lab.host, &other);
    connect(&lab.host, DENIED).expect("no longer listed");
    assert!(dropped(&lab.host, "203.0.113.3:80"));
    connect(&lab.host, WATCHED).unwrap();
    alerts.wait(&[("dst", "203.0.113.2"), ("action", "alert")]);
    alerts.wait(&[("dst", "203.0.113.3"), ("action", "deny")]);
}

#[test]
fn sighup_adds_a_feed() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let alerts = Alerts::listen(&lab);
    let conf = conf(&lab).alerts(&alerts);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    connect(&lab.host, "203.0.113.3:80").expect("not listed yet");
    daemon.reload(&conf.feed("more", "deny", &["203.0.113.3"]).text());
    eventually("the new feed is enforced", || {
        dropped(&lab.host, "203.0.113.3:80").then_some(())
    });
    alerts.wait(&[("dst", "203.0.113.3"), ("feed", "more"), ("action", "deny")]);
    enforced(&lab);
}

#[test]
fn sighup_changes_an_action() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let daemon = Daemon::start(
        &lab,
        &lab.host,
        &Conf::new(&lab).feed("a", "alert", &["203.0.113.1"]),
    );
    connect(&lab.host, DENIED).unwrap();
    daemon.reload(&Conf::new(&lab).feed("a", "deny", &["203.0.113.1"]).text());
    eventually("it is denied", || dropped(&lab.host, DENIED).then_some(()));
    daemon.reload(&Conf::new(&lab).feed("a", "alert", &["203.0.113.1"]).text());
    eventually("it passes again", || reached(&lab.host, DENIED));
}

#[test]
fn a_broken_configuration_is_refused_and_the_old_goes_on() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let mut daemon = Daemon::start(&lab, &lab.host, &conf(&lab));
    daemon.reload("[daemon]\nstate-dri = \"/nowhere\"\n");
    eventually("the mistake is in the log", || {
        daemon.output().contains("state-dri").then_some(())
    });
    assert!(daemon.runs());
    daemon.restore(&conf(&lab));
    daemon.ok(&["status"]);
    enforced(&lab);
}

#[test]
fn a_second_daemon_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let mut first = Daemon::start(&lab, &lab.host, &conf(&lab));
    match first.second(&lab) {
        Err(DaemonError::Ended { status, output }) => {
            assert_eq!(status.code(), Some(1), "{output}");
            assert!(!output.is_empty());
        }
        Ok(()) => panic!("two daemons run"),
        Err(other) => panic!("{other}"),
    }
    assert!(first.runs());
    first.ok(&["status"]);
    enforced(&lab);
}

#[test]
fn a_table_of_someone_else_is_refused_and_left_alone() {
    let Some(lab) = Lab::new() else { return };
    let foreign = "table inet feedgate {\n set mine { type ipv4_addr; elements = { 192.0.2.77 }; }\n \
                   chain c { type filter hook forward priority 5; ip daddr @mine drop; }\n}\n";
    load(&lab.host, foreign);
    let before = nft(&lab.host, &["list", "ruleset"]);

    match Daemon::try_start(&lab, &lab.host, &conf(&lab)) {
        Err(DaemonError::Ended { status, output }) => {
            assert_eq!(status.code(), Some(1), "{output}");
            assert!(output.contains("inet feedgate"), "{output}");
        }
        Ok(_) => panic!("it took the table"),
        Err(other) => panic!("{other}"),
    }
    assert_eq!(nft(&lab.host, &["list", "ruleset"]), before);
}

#[test]
fn a_stopped_daemon_does_not_delay_what_is_not_listed() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let daemon = Daemon::start(&lab, &lab.host, &conf(&lab));
    daemon.freeze();
    connect(&lab.host, UNLISTED).unwrap();
    assert!(dropped(&lab.host, DENIED));
    daemon.signal(nix::sys::signal::Signal::SIGCONT);
}

#[test]
fn an_inherited_table_survives_a_start_without_data_and_its_end() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let conf = conf(&lab);
    Daemon::start(&lab, &lab.host, &conf).stop();
    // Neither the source nor the last good data are there any more.
    for folder in ["state/feeds", ""] {
        for file in std::fs::read_dir(lab.path(folder)).unwrap().flatten() {
            let name = file.file_name().into_string().unwrap();
            if name.ends_with(".last") || name.ends_with(".txt") {
                std::fs::remove_file(file.path()).unwrap();
            }
        }
    }
    for _ in 0..2 {
        let daemon = Daemon::start(&lab, &lab.host, &conf);
        assert!(dropped(&lab.host, "203.0.113.1:80"), "while it runs");
        assert!(daemon.stop().success());
        assert!(dropped(&lab.host, "203.0.113.1:80"), "after it has ended");
    }
}
