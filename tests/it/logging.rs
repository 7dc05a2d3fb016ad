//! What the daemon logs: by its environment, its configuration, and at run time.

use std::process::Command;

use crate::support::{Conf, Daemon, Lab, eventually, feedgate, ping};

const WATCHED: &str = "203.0.113.1";

#[test]
fn an_unknown_level_in_the_environment_is_a_mistake_and_never_silence() {
    let output = Command::new(feedgate())
        .args(["run", "--config", "/nonexistent/feedgate.toml"])
        .env("FEEDGATE_LOG", "info,verbose")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("\"verbose\" is not a level"), "{said}");
    assert!(
        said.contains("use error, warn, info, debug, trace or off"),
        "{said}"
    );
}

#[test]
fn the_level_follows_the_configuration_the_command_and_a_reload() {
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab).feed("watch", "alert", &[WATCHED]);
    let quiet = || conf.clone().daemon("log-level = \"warn\"");
    let daemon = Daemon::start(&lab, &lab.host, &quiet());
    assert_eq!(daemon.ok(&["log"]), "warn\n");
    assert!(!daemon.output().contains("ready:"), "{}", daemon.output());
    daemon.ok(&["log", "trace"]);
    assert_eq!(daemon.ok(&["log"]), "trace\n");
    assert!(ping(&lab.host, WATCHED));
    let packet = eventually("the packet has its line", || {
        let said = daemon.output();
        let line = said.lines().find(|line| line.contains("TRACE queue "));
        line.map(str::to_owned)
    });
    for word in ["packet ", "output", WATCHED, "Allow", "source looked up"] {
        assert!(packet.contains(word), "{packet}");
    }
    daemon.reload(&conf.text());
    eventually("the reload sets what the configuration says", || {
        (daemon.ok(&["log"]) == "info\n").then_some(())
    });
}

#[test]
fn the_environment_wins_over_the_configuration() {
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab).daemon("log-level = \"error\"");
    let env = [("FEEDGATE_LOG", "info,feedgate::fetch=debug")];
    let daemon = Daemon::start_with(&lab, &lab.host, &conf, &env);
    assert_eq!(daemon.ok(&["log"]), "info,feedgate::fetch=debug\n");
    assert!(daemon.output().contains("ready:"));
}
