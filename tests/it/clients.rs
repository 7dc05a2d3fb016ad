//! Clients of the control socket that read nothing, say nothing or have gone, a daemon that stands still, and
//! the commands of everybody else meanwhile.
#![allow(unsafe_code)] // credentials of one thread: the functions of libc change those of all

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::Path,
    sync::mpsc,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use crate::support::{Conf, Daemon, Lab, Reply, Site, eventually, install, nft, program, within};

/// Of group feedgate, as the daemon of these tests finds it.
const GROUP: u32 = 64_901;
/// A member of it.
const ANNA: u32 = 64_902;
/// And another.
const BO: u32 = 64_903;
/// Every command answers within ten seconds or says that it got no answer; a busy machine is given more. It was
/// three minutes.
const SOON: Duration = Duration::from_secs(30);

/// A daemon that finds a group feedgate in /etc/group.
fn start<'a>(lab: &'a Lab, conf: &Conf) -> Daemon<'a> {
    let groups = fs::read_to_string("/etc/group").unwrap();
    let others = groups.lines().filter(|line| !line.starts_with("feedgate:"));
    let mut text: String = others.map(|line| format!("{line}\n")).collect();
    text += &format!("feedgate:x:{GROUP}:\n");
    let file = lab.path("group");
    fs::write(&file, text).unwrap();
    let script = format!(
        "#!/bin/sh\nexec unshare -m --propagation private sh -c 'mount --bind {} /etc/group && exec \"$@\"' sh {} \"$@\"\n",
        file.display(),
        crate::support::feedgate().display(),
    );
    Daemon::start_as(
        &program(lab, "with-group.sh", &script),
        lab,
        &lab.host,
        conf,
    )
}

/// Does something with these credentials, in a thread of its own.
fn acting_as<T: Send>(uid: u32, gid: u32, groups: &[u32], work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let act = || {
            // SAFETY: system calls with numbers, and a list that outlives the call; they change the calling
            // thread only, and that ends here.
            unsafe {
                let [user, group] = [uid, gid].map(libc::c_long::from);
                assert_eq!(
                    libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()),
                    0
                );
                assert_eq!(libc::syscall(libc::SYS_setresgid, group, group, group), 0);
                assert_eq!(libc::syscall(libc::SYS_setresuid, user, user, user), 0);
            }
            work()
        };
        scope.spawn(act).join().unwrap()
    })
}

/// A connection with a request on its way.
fn asking(socket: &Path, request: &str) -> UnixStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream
        .set_read_timeout(Some(within(Duration::from_secs(60))))
        .unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// The whole answer.
fn answer(stream: UnixStream) -> String {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line.trim().to_owned()
}

/// Entries whose list does not fit into the buffer of a socket.
fn long_list() -> Vec<String> {
    let first = u32::from(std::net::Ipv4Addr::new(198, 18, 0, 0));
    (0..30_000)
        .map(|n| std::net::Ipv4Addr::from(first + 2 * n).to_string())
        .collect()
}

fn conf(lab: &Lab) -> Conf {
    let list = long_list();
    let lines: Vec<&str> = list.iter().map(String::as_str).collect();
    Conf::new(lab)
        .feed("long", "alert", &lines)
        .feed("block", "deny", &["203.0.113.1"])
}

const LIST: &str = "{\"command\":\"ruleset\",\"elements\":true}\n";
const STATUS: &str = "{\"command\":\"status\"}\n";

#[test]
fn who_does_not_read_keeps_nobody_out() {
    let Some(lab) = Lab::new() else { return };
    let mut daemon = start(&lab, &conf(&lab));
    let socket = lab.path("control.sock");
    // More than there are places, of a member; and none of them reads.
    let held = acting_as(ANNA, GROUP, &[], || {
        (0..48).map(|_| asking(&socket, LIST)).collect::<Vec<_>>()
    });
    let begin = Instant::now();
    daemon.ok(&["status"]);
    let told = acting_as(BO, GROUP, &[], || answer(asking(&socket, STATUS)));
    assert!(told.starts_with("{\"ok\":"), "{told}");
    assert!(begin.elapsed() < within(SOON), "{:?}", begin.elapsed());
    eventually("they are dropped, and the log says so", || {
        daemon
            .output()
            .contains("did not read its answer")
            .then_some(())
    });
    // Anna herself is served when those have gone, and so is who is a member by a further group.
    drop(held);
    let told = acting_as(ANNA, ANNA, &[7, GROUP], || answer(asking(&socket, STATUS)));
    assert!(told.starts_with("{\"ok\":"), "{told}");
    let begin = Instant::now();
    let more = acting_as(BO, GROUP, &[], || {
        (0..48).map(|_| asking(&socket, LIST)).collect::<Vec<_>>()
    });
    daemon.ok(&["down"]);
    assert!(begin.elapsed() < within(SOON), "{:?}", begin.elapsed());
    assert!(daemon.ended().success());
    drop(more);
}

#[test]
fn root_that_does_not_read_holds_itself_up_for_seconds_only() {
    let Some(lab) = Lab::new() else { return };
    let daemon = start(&lab, &conf(&lab));
    let socket = lab.path("control.sock");
    let held: Vec<_> = (0..40).map(|_| asking(&socket, LIST)).collect();
    daemon.ok(&["status"]);
    drop(held);
    // A connection too many is turned away at once, and is no connection of the daemon.
    let held: Vec<_> = (0..80).map(|_| asking(&socket, "{")).collect();
    let fds = fs::read_dir(format!("/proc/{}/fd", daemon.pid()))
        .unwrap()
        .count();
    assert!(fds < 64 + 60, "{fds}");
    let last = answer(held.into_iter().next_back().unwrap());
    assert!(last.contains("too many commands of user 0"), "{last}");
}

#[test]
fn strangers_are_turned_away_before_they_take_a_place() {
    let Some(lab) = Lab::new() else { return };
    let daemon = start(&lab, &Conf::new(&lab));
    let socket = lab.path("control.sock");
    let mode = |mode| fs::set_permissions(&socket, fs::Permissions::from_mode(mode)).unwrap();
    assert_eq!(
        fs::metadata(&socket).unwrap().permissions().mode() & 0o777,
        0o660
    );
    mode(0o666);
    let held = acting_as(BO, BO, &[7, 8], || {
        (0..300).map(|_| asking(&socket, "")).collect::<Vec<_>>()
    });
    for stream in held {
        let said = answer(stream);
        assert!(
            said.contains("only root and members of group feedgate may ask"),
            "{said}"
        );
    }
    daemon.ok(&["status"]);
}

#[test]
fn a_daemon_that_stands_still_is_said_to_and_down_is_not_carried_out_later() {
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab).feed("block", "deny", &["203.0.113.1"]);
    let mut daemon = start(&lab, &conf);
    daemon.freeze();
    let pid = daemon.pid();
    let commands: [&[&str]; 9] = [
        &["status"],
        &["feeds"],
        &["alerts", "list"],
        &["lookup", "203.0.113.1"],
        &["nft", "print"],
        &["get", "tiers"],
        &["graph"],
        &["refresh", "block"],
        &["down"],
    ];
    std::thread::scope(|scope| {
        for command in commands {
            let daemon = &daemon;
            scope.spawn(move || {
                let begin = Instant::now();
                let said = daemon.fails(command);
                assert!(
                    begin.elapsed() < within(SOON),
                    "{command:?}: {:?}",
                    begin.elapsed()
                );
                let wants = [
                    format!("the daemon (pid {pid}) does not answer"),
                    format!("it is stopped (state T): `kill -CONT {pid}`"),
                    "deny sets stay in force".into(),
                ];
                for want in wants {
                    assert!(said.contains(&want), "{command:?}: {said}");
                }
                let changes = matches!(command, ["down"] | ["refresh", _]);
                assert_eq!(said.contains("is not carried out later"), changes, "{said}");
            });
        }
    });
    let output = daemon.ctl(&["status", "--json"]);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&told["running"], &told["answers"]),
        (&true.into(), &false.into()),
        "{told}"
    );
    assert_eq!(
        (&told["pid"], &told["state"]),
        (&pid.into(), &"T".into()),
        "{told}"
    );
    assert_eq!(told["table"]["state"], "present", "{told}");

    daemon.signal(Signal::SIGCONT);
    eventually(
        "the command whose client has gone is not carried out",
        || {
            daemon
                .output()
                .contains("down is not carried out")
                .then_some(())
        },
    );
    assert_eq!(daemon.status()["protected"], true);
    assert!(daemon.runs());
    assert!(nft(&lab.host, &["list", "tables"]).contains("feedgate"));
}

#[test]
fn so_many_wait_for_a_daemon_that_stands_still_that_there_is_no_place_for_one_more() {
    let Some(lab) = Lab::new() else { return };
    let daemon = start(&lab, &Conf::new(&lab));
    let socket = lab.path("control.sock");
    daemon.freeze();
    let mut held = Vec::new();
    // As many as listen(2) has room for.
    while let Some(stream) = connect_now(&socket) {
        held.push(stream);
        assert!(held.len() < 100_000);
    }
    let begin = Instant::now();
    let said = daemon.fails(&["status"]);
    assert!(begin.elapsed() < within(SOON), "{:?}", begin.elapsed());
    assert!(
        said.contains("does not answer") && said.contains("deny sets stay"),
        "{said}"
    );
    drop(held);
    daemon.signal(Signal::SIGCONT);
    eventually("it goes on", || {
        daemon.ctl(&["status"]).status.success().then_some(())
    });
}

/// A connection, if there is a place for one right now.
fn connect_now(socket: &Path) -> Option<std::os::fd::OwnedFd> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket as open};
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = open(AddressFamily::Unix, SockType::Stream, flags, None).ok()?;
    let address = UnixAddr::new(socket).unwrap();
    connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &address).ok()?;
    Some(fd)
}

/// A pull that takes long: the daemon shows life meanwhile, and the answer is the one that was before.
#[test]
fn long_work_comes_with_signs_of_life() {
    let Some(lab) = Lab::new() else { return };
    let (release, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let site = Site::start(&lab.server, "198.51.100.2:80", move |_| {
        // The first pull is the start's.
        if asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 0 {
            let _ = wait.lock().unwrap().recv();
        }
        Reply::ok("203.0.113.1\n")
    });
    let conf = Conf::new(&lab).feed_from("slow", "deny", &site.url("/list"));
    let daemon = start(&lab, &conf);
    let socket = lab.path("control.sock");
    let mut stream = asking(&socket, "{\"command\":\"refresh\",\"feed\":\"slow\"}\n");
    let mut signs = Vec::new();
    // One at once, and then each two seconds.
    while signs.iter().filter(|byte| **byte == b' ').count() < 2 {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        signs.extend(byte);
    }
    assert!(signs.contains(&b'\t'), "{signs:?}");
    assert!(signs.iter().all(u8::is_ascii_whitespace), "{signs:?}");
    daemon.ok(&["status"]);
    release.send(()).unwrap();
    let told: serde_json::Value = serde_json::from_str(&answer(stream)).unwrap();
    assert_eq!(told["ok"][0]["feed"], "slow", "{told}");
}

/// Without descriptors it says so once, and goes on when there are some again.
#[test]
fn without_descriptors_it_waits_for_some() {
    let Some(lab) = Lab::new() else { return };
    let daemon = start(&lab, &Conf::new(&lab));
    let socket = lab.path("control.sock");
    let open = || {
        fs::read_dir(format!("/proc/{}/fd", daemon.pid()))
            .unwrap()
            .count()
    };
    let pid = daemon.pid().to_string();
    let limit = |most: usize| {
        let mut command = std::process::Command::new("prlimit");
        let set = command
            .args(["--pid", &pid, &format!("--nofile={most}:")])
            .status();
        assert!(set.unwrap().success());
    };
    limit(open() + 4);
    let held: Vec<_> = (0..20).map(|_| asking(&socket, "{")).collect();
    eventually("it has none left, and says so", || {
        daemon.output().contains("accept: ").then_some(())
    });
    // The connections that it took are dropped for their silence; the others come in their place.
    drop(held);
    limit(1024);
    daemon.ok(&["status"]);
    assert_eq!(daemon.output().matches("accept: ").count(), 1);
}

/// Names of processes may hold what steers a terminal: in JSON it is escaped, for people it is a `?`.
#[test]
fn no_name_steers_a_terminal() {
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab).feed("watch", "alert", &["203.0.113.1"]);
    let daemon = start(&lab, &conf);
    let evil = "\u{9b}31m\u{202e}x\u{2066}";
    let path = lab.path(evil);
    install(Path::new("/bin/bash"), &path);
    // It is there, under this name, until it is named: to wait in another program would replace it.
    let mut send = lab
        .host
        .command(&path)
        .args(["-c", "exec 3<>/dev/udp/203.0.113.1/9; echo x >&3; read"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let hides = |text: &str| {
        let bad = |c: char| c.is_control() && c != '\n' || ('\u{200e}'..='\u{206f}').contains(&c);
        text.chars().any(bad)
    };
    let json = eventually("the alert is stored", || {
        let told = daemon.ok(&["alerts", "list", "--json"]);
        told.contains("u009b").then_some(told)
    });
    drop(send.stdin.take());
    send.wait().unwrap();
    let alerts: serde_json::Value = serde_json::from_str(&json).unwrap();
    let id = alerts[0]["alert"]["event"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let name = alerts[0]["alert"]["process"]["name"].as_str().unwrap();
    assert!(name.starts_with("\u{9b}31m\u{202e}"), "{name:?}");
    let commands: [&[&str]; 8] = [
        &["alerts", "list", "--json"],
        &["alerts", "list"],
        &["alerts", "show", &id, "--json"],
        &["alerts", "show", &id],
        &["graph", "--json"],
        &["graph"],
        &["status", "--json"],
        &["status"],
    ];
    for command in commands {
        let told = daemon.ok(command);
        assert!(!hides(&told), "{command:?}: {told:?}");
    }
    let said = daemon.ctl(&["lint", &format!("./{evil}/none")]);
    assert!(!hides(&String::from_utf8_lossy(&said.stderr)), "{said:?}");
}
