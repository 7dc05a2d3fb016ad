//! What is told of a process besides its number, by the real kernel: arguments, group,
//! capabilities, executable; and that nothing of it outlives an execve(2).

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant, SystemTime},
};

use tempfile::TempDir;

use super::*;
use crate::{
    feed::Direction::Egress,
    packet::{Flow, Protocol, Transport},
};

const AMPLE: Duration = Duration::from_secs(20);

/// A shell with a connection at descriptor 3, which then runs something else in its place.
struct Client {
    child: Child,
    flow: Flow,
    attributor: Attributor,
    _peer: TcpStream,
}

impl Client {
    /// `then` is run when a line is written to its standard input.
    fn start(then: &str) -> Self {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{}; echo ready; read -r _; {then}",
            to.port()
        );
        let mut child = Command::new("bash")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let (peer, from) = server.accept().unwrap();
        Self {
            child,
            flow: Flow {
                src: from.ip(),
                dst: to.ip(),
                proto: Protocol::TCP,
                transport: Transport::Ports {
                    src: from.port(),
                    dst: to.port(),
                },
                fragment: false,
            },
            attributor: Attributor::new(&Roots::default(), AMPLE).unwrap(),
            _peer: peer,
        }
    }

    fn source(&mut self) -> Source {
        let source = self.attributor.local(&self.flow, Egress, &Clues::default());
        assert_eq!(source.pid, Some(self.child.id()), "{source:?}");
        source
    }

    /// Goes on to `then`, and waits until the process has the name `comm`.
    fn go(&mut self, comm: &str) {
        drop(self.child.stdin.take());
        let path = format!("/proc/{}/comm", self.child.id());
        let start = Instant::now();
        while fs::read_to_string(&path).unwrap().trim_end() != comm {
            assert!(start.elapsed() < AMPLE, "it does not become {comm}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn arguments_group_and_start_are_told() {
    let before = SystemTime::now();
    let mut client = Client::start("exit 0");
    let source = client.source();
    let line = source.command_line.unwrap();
    assert!(
        line.starts_with("bash -c exec 3<>/dev/tcp/127.0.0.1/"),
        "{line}"
    );
    assert_eq!(source.gid, Some(nix::unistd::getegid().as_raw()));
    // The clock of the kernel that start times are counted by is not the one read here.
    let slack = Duration::from_secs(5);
    let started = source.started.unwrap();
    assert!(started + slack >= before && started <= SystemTime::now() + slack);
    assert!(!source.exe_deleted);
    let login = fs::read_to_string(format!("/proc/{}/loginuid", client.child.id()));
    if let Some(uid) = login.ok().and_then(|text| text.parse::<u32>().ok())
        && uid != u32::MAX
    {
        assert_eq!(source.session_uid, Some(uid));
    }
}

#[test]
fn nothing_of_a_program_outlives_an_exec() {
    let mut client = Client::start("exec bash --norc -c 'exec -a other sleep 600'");
    let before = client.source();
    assert_eq!(before.comm.as_deref(), Some("bash"));
    client.go("sleep");
    let after = client.source();
    assert_eq!(after.start, before.start, "it is the same process");
    assert_eq!(after.comm.as_deref(), Some("sleep"));
    assert_eq!(after.command_line.as_deref(), Some("other 600"));
    assert!(after.exe.unwrap().ends_with("/sleep"));
}

#[test]
fn the_same_program_with_other_arguments_is_seen() {
    let mut client = Client::start("exec bash -c 'echo 7 >/proc/$$/comm; read -r _ <&3'");
    let before = client.source();
    client.go("7");
    let after = client.source();
    assert_eq!(after.exe, before.exe);
    assert_eq!(
        after.command_line.as_deref(),
        Some("bash -c echo 7 >/proc/$$/comm; read -r _ <&3")
    );
}

#[test]
fn capabilities_and_group_given_up_at_an_exec_are_gone() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: only root has capabilities to give up");
    }
    let mut client =
        Client::start("exec setpriv --regid 100 --clear-groups --reuid 65534 sleep 600");
    let names =
        |source: &Source| -> Vec<_> { source.capabilities.unwrap().of_interest().collect() };
    assert!(names(&client.source()).contains(&"CAP_NET_ADMIN"));
    client.go("sleep");
    let after = client.source();
    assert_eq!(names(&after), [""; 0]);
    assert_eq!(after.gid, Some(100));
}

#[test]
fn a_removed_executable_is_told_from_one_that_is_only_named_so() {
    let folder = TempDir::new().unwrap();
    for (name, remove) in [("gone", true), ("there (deleted)", false)] {
        let path = folder.path().join(name);
        copy_of_sleep(&path);
        let mut client = Client::start(&format!("exec '{}' 600", path.display()));
        client.go(name.get(..15).unwrap_or(name));
        if remove {
            fs::remove_file(&path).unwrap();
        }
        let source = client.source();
        assert_eq!(source.exe.as_deref(), path.to_str());
        assert_eq!(source.exe_deleted, remove, "{name}");
    }
}

fn copy_of_sleep(to: &Path) {
    let from = ["/bin/sleep", "/usr/bin/sleep"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .unwrap();
    fs::copy(from, to).unwrap();
}
