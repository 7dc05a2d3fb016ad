//! Started as root, the daemon goes on as a user of its own, and everything works as before.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    process::Command,
};

use nix::sys::stat::{Mode, umask};

use crate::support::{Alerts, Conf, Daemon, Lab, connect, dropped, eventually, web};

const DENIED: &str = "203.0.113.1:80";
const WATCHED: &str = "203.0.113.2:80";
/// CAP_DAC_READ_SEARCH, CAP_NET_ADMIN, CAP_SYS_PTRACE, CAP_SYS_ADMIN (linux/capability.h).
const CAPABILITIES: &str = "0000000000281004";

/// Who it becomes: the unit's user, where this host has it.
fn user() -> u32 {
    let named = nix::unistd::User::from_name("feedgate").unwrap();
    named.map_or(64900, |user| user.uid.as_raw())
}

/// As /tmp is: everybody makes files, and each removes only his own.
fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o1777)).unwrap();
}

/// A daemon that nothing keeps from giving root up.
fn conf(lab: &Lab, alerts: &Alerts) -> Conf {
    // The socket that readiness is told on is for everybody too, as systemd's is.
    umask(Mode::empty());
    open_to_all(&lab.dir);
    open_to_all(Path::new(alerts.address().strip_prefix("unix:").unwrap()));
    Conf::new(lab)
        .alerts(alerts)
        .feed("block", "deny", &["203.0.113.1"])
        .feed("watch", "alert", &["203.0.113.2"])
}

#[track_caller]
fn status_of(daemon: &Daemon<'_>, line: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let mut lines = text.lines().filter_map(|found| found.strip_prefix(line));
    lines.next().unwrap().trim().to_owned()
}

/// One alert, which names this test and is in the file too.
#[track_caller]
fn alerts_work(lab: &Lab, alerts: &Alerts) {
    let stream = connect(&lab.host, WATCHED).unwrap();
    let port = stream.local_addr().unwrap().port().to_string();
    let alert = alerts.wait(&[("spt", &port)]);
    let pid = std::process::id().to_string();
    alert.assert(&[("pid", &pid), ("attribution", "exact")]);
    eventually("the alert is in the file", || {
        let text = fs::read_to_string(lab.path("feedgate/alerts.json")).unwrap_or_default();
        text.contains(alert.get("id")).then_some(())
    });
    assert!(dropped(&lab.host, DENIED));
}

#[test]
fn root_is_given_up_and_all_goes_on() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let alerts = Alerts::listen(&lab);
    let conf = conf(&lab, &alerts).json_file(&lab.path("feedgate/alerts.json"));
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let uid = user();
    let ids = status_of(&daemon, "Uid:");
    assert!(
        ids.split_whitespace().all(|id| id == uid.to_string()),
        "{ids}"
    );
    for (set, wanted) in [
        ("CapEff:", CAPABILITIES),
        ("CapPrm:", CAPABILITIES),
        ("CapBnd:", CAPABILITIES),
        ("CapInh:", "0000000000000000"),
        ("CapAmb:", "0000000000000000"),
    ] {
        assert_eq!(status_of(&daemon, set), wanted, "{set}");
    }
    assert!(
        !status_of(&daemon, "Groups:")
            .split(' ')
            .any(|group| group == "0")
    );
    alerts_work(&lab, &alerts);
    assert!(!daemon.output().contains(" WARN "), "{}", daemon.output());
    for file in [
        "state",
        "state/alerts.db",
        "feedgate",
        "feedgate/alerts.json",
        "control.sock",
    ] {
        assert_eq!(fs::metadata(lab.path(file)).unwrap().uid(), uid, "{file}");
    }

    // A reload reads what only root may.
    let config = lab.path("feedgate.toml");
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    let later = conf.feed("later", "deny", &["203.0.113.3"]);
    fs::set_permissions(lab.path("later.txt"), fs::Permissions::from_mode(0o600)).unwrap();
    daemon.reload(&later.text());
    eventually("the new feed is in force", || {
        dropped(&lab.host, "203.0.113.3:80").then_some(())
    });
    alerts_work(&lab, &alerts);
    assert_eq!(daemon.stop().code(), Some(0));
    assert!(!lab.path("control.sock").exists());
}

#[test]
fn whoever_takes_it_over_cannot_write_into_roots_processes() {
    let Some(_lab) = Lab::new() else { return };
    let mut victim = Command::new("sleep").arg("600").spawn().unwrap();
    let open = format!("exec 3<>/proc/{}/mem", victim.id());
    let as_user = |uid: u32| {
        let all = "+net_admin,+sys_ptrace,+dac_read_search,+sys_admin";
        let mut command = Command::new("setpriv");
        command.args([
            &format!("--reuid={uid}"),
            &format!("--regid={uid}"),
            "--clear-groups",
        ]);
        command.args([
            &format!("--inh-caps=-all,{all}"),
            &format!("--ambient-caps=-all,{all}"),
        ]);
        command.args([&format!("--bounding-set=-all,{all}"), "sh", "-c", &open]);
        command.output().unwrap()
    };
    let (daemon, root) = (as_user(64900), as_user(0));
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert!(
        root.status.success(),
        "as root with these capabilities it can: {root:?}"
    );
    assert!(!daemon.status.success(), "{daemon:?}");
    let said = String::from_utf8_lossy(&daemon.stderr).into_owned();
    assert!(said.contains("Permission denied"), "{said}");
}

#[test]
fn what_an_earlier_daemon_left_as_root_is_handed_over() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let alerts = Alerts::listen(&lab);
    let conf = conf(&lab, &alerts).json_file(&lab.path("feedgate/alerts.json"));
    let daemon = Daemon::start_with(&lab, &lab.host, &conf, &[("FEEDGATE_KEEP_ROOT", "1")]);
    assert!(status_of(&daemon, "Uid:").starts_with("0\t0"));
    alerts_work(&lab, &alerts);
    daemon.stop();
    assert_eq!(fs::metadata(lab.path("state/alerts.db")).unwrap().uid(), 0);

    let daemon = Daemon::start(&lab, &lab.host, &conf);
    alerts_work(&lab, &alerts);
    let mut left = Command::new("find");
    let left = left.args([lab.path("state"), lab.path("feedgate")]);
    let left = left
        .args(["!", "-uid", &user().to_string()])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
    eventually("both alerts are in the store", || {
        let list = daemon.ok(&["alerts", "list", "--json"]);
        (list.matches("203.0.113.2").count() >= 2).then_some(())
    });
    assert!(!daemon.output().contains(" WARN "), "{}", daemon.output());
}

#[test]
fn root_is_kept_where_alerts_would_be_lost() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let alerts = Alerts::listen(&lab);
    let dir = lab.path("logs");
    fs::create_dir(&dir).unwrap();
    // Root's folder, with another name: a file that is rotated away could not be made there again.
    let conf = conf(&lab, &alerts).json_file(&dir.join("alerts.json"));
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert!(status_of(&daemon, "Uid:").starts_with("0\t0"));
    let said = daemon.output();
    let told = format!("may make no files in {}", dir.display());
    assert!(
        said.contains("the daemon keeps root") && said.contains(&told),
        "{said}"
    );
    drop(daemon);
    // So with a log socket that only root may write to.
    let socket = lab.path("log");
    let conf = self::conf(&lab, &alerts);
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o755)).unwrap();
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let said = daemon.output();
    assert!(said.contains("may not write to"), "{said}");
}
