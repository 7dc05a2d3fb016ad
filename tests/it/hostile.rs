//! Processes that hold up or mislead whoever looks at them, and a daemon that cannot look.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::support::{Alerts, Conf, Daemon, Lab, connect, eventually, web};

const WATCHED: &str = "203.0.113.1";

/// More than the threads that read what processes hold up.
const HOSTILE: usize = 6;

/// `support/hold.c`, compiled.
fn compile(lab: &Lab) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/hold.c");
    let program = lab.path("hold");
    // All that it calls is there before it holds its own memory map.
    let flags = ["-O1", "-Wl,-z,now", "-pthread", "-o"];
    let mut cc = Command::new("cc");
    let done = cc.args(flags).arg(&program).arg(source).status().unwrap();
    assert!(done.success(), "cc");
    program
}

/// A process whose memory map cannot be read, with a connection that it began after that.
struct Hostile(Child);

impl Hostile {
    fn start(lab: &Lab, program: &Path, number: usize) -> Self {
        let [device, folder] = ["fuse", "mount"].map(|name| lab.path(&format!("{name}-{number}")));
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        mknod(&device, SFlag::S_IFCHR, mode, makedev(10, 229)).unwrap();
        fs::create_dir(&folder).unwrap();
        let mut command = lab.host.command(program);
        command.args([&device, &folder]).arg(WATCHED);
        Self(command.stdin(Stdio::piped()).spawn().unwrap())
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn processes_that_hold_their_memory_map_delay_nobody() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let alerts = Alerts::listen(&lab);
    // Each hostile flow is held for half of it, while a thread is left to read for it.
    let conf = Conf::new(&lab).section("[attribution]\ntimeout = \"1s\"\n");
    let conf = conf.alerts(&alerts).feed("watch", "alert", &[WATCHED]);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let program = compile(&lab);
    let mut hostile = Vec::new();
    for number in 0..HOSTILE {
        hostile.push(Hostile::start(&lab, &program, number));
        let pid = hostile[number].0.id().to_string();
        let alert = alerts.wait(&[("pid", &pid)]);
        alert.assert(&[("attribution", "exact"), ("comm", "hold")]);
        let cause = alert.get("cause");
        assert!(
            cause.contains("command line is not readable in time"),
            "{cause}"
        );
        // Who is not hostile has its verdict meanwhile, and is named.
        let stream = connect(&lab.host, &format!("{WATCHED}:80")).unwrap();
        let port = stream.local_addr().unwrap().port().to_string();
        let own = alerts.wait(&[("spt", &port)]);
        own.assert(&[
            ("attribution", "exact"),
            ("pid", &std::process::id().to_string()),
        ]);
    }
    drop(hostile);
    assert!(daemon.stop().success());
}

#[test]
fn a_daemon_without_free_descriptors_says_so() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let alerts = Alerts::listen(&lab);
    let conf = Conf::new(&lab).alerts(&alerts);
    let conf = conf.feed("watch", "alert", &[WATCHED]);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let limit = |files: &str| {
        let pid = format!("--pid={}", daemon.pid());
        let files = format!("--nofile={files}");
        let done = Command::new("prlimit").args([&pid, &files]).status();
        assert!(done.unwrap().success(), "prlimit");
    };
    limit("3:4096");
    let stream = connect(&lab.host, &format!("{WATCHED}:80")).unwrap();
    let port = stream.local_addr().unwrap().port().to_string();
    // The first alert needs a socket to be sent, so it waits; by then it says what was found.
    let blind = "cannot list the own addresses";
    for said in ["alerts wait in the queue", blind] {
        eventually(said, || daemon.output().contains(said).then_some(()));
    }
    limit("1024:4096");
    let alert = alerts.wait(&[("spt", &port)]);
    alert.assert(&[("attribution", "unknown")]);
    let cause = alert.get("cause");
    assert!(cause.contains("out of file descriptors"), "{cause}");
    let stream = connect(&lab.host, &format!("{WATCHED}:80")).unwrap();
    let port = stream.local_addr().unwrap().port().to_string();
    let alert = alerts.wait(&[("spt", &port)]);
    alert.assert(&[("attribution", "exact")]);
    // What could not be looked at is as it was: nothing that is never blocked was given up meanwhile.
    let output = daemon.output();
    let (_, since) = output.split_once(blind).unwrap();
    assert!(!since.contains("the sets are updated"), "{since}");
}
