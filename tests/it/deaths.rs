//! An update that kills the daemon does so twice: the next one goes on with the last good data.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    process::{Command, Stdio},
};

use feedgate::demo::DaemonError;

use crate::support::{
    Conf, Daemon, Lab, Reply, Site, connect, dropped, eventually, feedgate, program, web,
};

const AT: &str = "127.0.0.1:8099";
const DENIED: &str = "203.0.113.1:80";
const LATER: &str = "203.0.113.2:80";

fn conf(lab: &Lab, site: &Site) -> Conf {
    Conf::new(lab)
        .feed_from("f", "deny", &site.url("/list"))
        // Above what is usual: its text could fill the memory while it comes.
        .key("max-bytes = \"65MiB\"")
        .key("max-growth = \"10000000x\"")
        .key("max-entries = 10000000")
}

/// Waits until it reads the update.
#[track_caller]
fn reading(lab: &Lab) {
    let mark = lab.path("state/feeds/f.reading");
    eventually("the update is being read", || {
        let text = fs::read_to_string(&mark).unwrap_or_default();
        text.contains("now").then_some(())
    });
}

/// A daemon that reads an update which does not end.
#[track_caller]
fn stuck<'a>(lab: &'a Lab, conf: &Conf) -> Daemon<'a> {
    let daemon = Daemon::try_start(lab, &lab.host, conf).unwrap();
    reading(lab);
    daemon
}

#[track_caller]
fn last_error(daemon: &Daemon<'_>) -> String {
    let row = daemon.row("f");
    row["last_error"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn the_third_daemon_leaves_the_update_alone() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let site = Site::start(&lab.host, AT, |_| Reply::ok("203.0.113.1\n"));
    let conf = conf(&lab, &site);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    site.reply(Reply::Hang);
    let mut refresh = daemon.ctl_command(&["refresh"]);
    let mut refresh = refresh.stderr(Stdio::null()).spawn().unwrap();
    reading(&lab);
    daemon.kill();
    refresh.wait().unwrap();
    assert!(dropped(&lab.host, DENIED));
    stuck(&lab, &conf).kill();
    assert!(dropped(&lab.host, DENIED));

    let asked = site.seen().len();
    site.reply(Reply::ok("203.0.113.1\n203.0.113.2\n"));
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert!(dropped(&lab.host, DENIED), "the last good data");
    connect(&lab.host, LATER).unwrap();
    let said = daemon.fails(&["refresh"]);
    for said in [
        said,
        last_error(&daemon),
        daemon.output(),
        daemon.ok(&["status"]),
    ] {
        assert!(said.contains("the daemon died 2 times"), "{said}");
    }
    assert_eq!(site.seen().len(), asked, "the server was asked");
    daemon.stop();

    // It stays so, until a person names the feed.
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert_eq!(site.seen().len(), asked, "the server was asked");
    daemon.ok(&["refresh", "f"]);
    assert!(dropped(&lab.host, LATER));
    assert_eq!(last_error(&daemon), "");
    daemon.kill();
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert_eq!(last_error(&daemon), "");
    assert!(
        site.seen().len() > asked + 1,
        "it is pulled by itself again"
    );
}

#[test]
fn a_stop_in_the_middle_is_no_death() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::start(&lab.host, AT, |_| Reply::ok("203.0.113.1\n"));
    let conf = conf(&lab, &site);
    Daemon::start(&lab, &lab.host, &conf).stop();
    site.reply(Reply::Hang);
    stuck(&lab, &conf).kill();
    assert_eq!(stuck(&lab, &conf).stop().code(), Some(0));
    site.reply(Reply::ok("203.0.113.1\n"));
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert_eq!(last_error(&daemon), "");
    assert!(!lab.path("state/feeds/f.reading").exists());
}

/// Over a limit of its memory that is set here (RLIMIT_DATA), as it is over the unit's `MemoryMax=`.
#[test]
fn over_its_memory_limit_it_is_killed_and_comes_back_with_the_last_good_data() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let site = Site::start(&lab.host, AT, |_| Reply::ok("203.0.113.1\n"));
    let conf = conf(&lab, &site);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let used = status.lines().find_map(|line| line.strip_prefix("VmData:"));
    let used = used
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .unwrap();
    let limit = (used.trim().parse::<u64>().unwrap() + (96 << 10)) << 10;
    daemon.stop();

    let lines = (0..4_000_000_u32).map(|n| std::net::Ipv4Addr::from(0x0b00_0000 + 2 * n));
    let mut list = lines.fold(String::from("203.0.113.1\n"), |mut list, address| {
        list.push_str(&address.to_string());
        list.push('\n');
        list
    });
    list.truncate(60 << 20);
    site.reply(Reply::ok(list));
    let text = format!(
        "#!/bin/sh\nexec prlimit --data={limit} '{}' \"$@\"\n",
        feedgate().display()
    );
    let limited = program(&lab, "feedgate.sh", &text);
    for death in 1..=2 {
        let ended = match Daemon::try_start_as(&limited, &lab, &lab.host, &conf) {
            Ok(mut daemon) => daemon.ended(),
            Err(DaemonError::Ended { status, .. }) => status,
            Err(other) => panic!("{other}"),
        };
        assert!(ended.signal().is_some(), "death {death}: {ended}");
        assert!(dropped(&lab.host, DENIED), "death {death}");
    }
    let mut daemon = Daemon::start_as(&limited, &lab, &lab.host, &conf);
    assert!(last_error(&daemon).contains("the daemon died 2 times"));
    assert!(dropped(&lab.host, DENIED));
    assert!(daemon.runs());
}

/// In a mount namespace of its own, with this made of its state folder.
#[track_caller]
fn on_a_bad_disk(mount: &str) {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let state = lab.path("state");
    fs::create_dir(&state).unwrap();
    let (exe, at) = (feedgate().display(), state.display());
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = run ] || exec '{exe}' \"$@\"\n\
         exec unshare -m sh -c '{mount}; exec \"$@\"' sh '{exe}' \"$@\"\n"
    );
    let script = program(&lab, "feedgate.sh", &text.replace("STATE", &at.to_string()));
    let conf = Conf::new(&lab)
        .feed("block", "deny", &["203.0.113.1"])
        .feed("watch", "alert", &["203.0.113.2"]);
    let alerts = crate::support::Alerts::listen(&lab);
    let daemon = Daemon::start_as(&script, &lab, &lab.host, &conf.alerts(&alerts));
    assert!(dropped(&lab.host, DENIED));
    connect(&lab.host, LATER).unwrap();
    alerts.wait(&[("dst", "203.0.113.2"), ("action", "alert")]);
    let said = daemon.ok(&["status"]);
    assert!(said.contains("the state is not saved"), "{said}");
    // With room again, it is saved from the next time on.
    let inside = |arguments: &[&str]| {
        let mut command = Command::new("nsenter");
        let command = command.arg("-m").arg("-t").arg(daemon.pid().to_string());
        command.args(arguments).arg(&state).status().unwrap()
    };
    assert!(inside(&["mount", "-o", "remount,rw,size=64m"]).success());
    fs::write(lab.path("block.txt"), "203.0.113.1\n203.0.113.3\n").unwrap();
    daemon.ok(&["refresh"]);
    let last = ["sh", "-c", "test -s \"$0/feeds/block.last\""];
    assert!(inside(&last).success(), "{}", daemon.output());
}

#[test]
fn the_very_first_start_on_a_read_only_disk_enforces() {
    on_a_bad_disk("mount -t tmpfs -o ro none STATE");
}

#[test]
fn the_very_first_start_on_a_full_disk_enforces() {
    on_a_bad_disk(
        "mount -t tmpfs -o size=16k none STATE; dd if=/dev/zero of=STATE/fill bs=1k count=64 2>/dev/null",
    );
}
