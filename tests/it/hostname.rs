//! The host's name in alerts, where it changes while the daemon runs.

use nix::sched::{CloneFlags, unshare};

use crate::support::{Alerts, Conf, Daemon, Lab, eventually, ping};

const WATCHED: &str = "203.0.113.1";

#[test]
fn alerts_follow_a_host_that_is_renamed() {
    let Some(lab) = Lab::new() else { return };
    // The daemon is started by this thread, and so shares its names.
    unshare(CloneFlags::CLONE_NEWUTS).unwrap();
    nix::unistd::sethostname("before").unwrap();
    let alerts = Alerts::listen(&lab);
    let file = lab.path("alerts.json");
    let conf = Conf::new(&lab)
        .feed("watch", "alert", &[WATCHED])
        .alerts(&alerts)
        .json_file(&file);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert!(ping(&lab.host, WATCHED));
    let names = || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let lines = text.lines().filter_map(|line| {
            let event: serde_json::Value = serde_json::from_str(line).ok()?;
            Some(event["host"]["name"].as_str()?.to_owned())
        });
        lines.collect::<Vec<_>>()
    };
    eventually("the first alert is in the file", || {
        (names() == ["before"]).then_some(())
    });
    nix::unistd::sethostname("after").unwrap();
    eventually("the daemon follows", || {
        let said = daemon.output();
        said.contains("was called before and is now called after")
            .then_some(())
    });
    assert!(ping(&lab.host, WATCHED));
    eventually("the next alert has the new name", || {
        (names() == ["before", "after"]).then_some(())
    });
    eventually("the store has the new name, too", || {
        let stored = daemon.ok(&["alerts", "list", "--json"]);
        let stored: serde_json::Value = serde_json::from_str(&stored).unwrap();
        (stored[0]["alert"]["host"]["name"] == "after").then_some(())
    });
}
