//! host -- gateway -- server, three network namespaces, and a folder.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
};

use feedgate::demo::{Netns, owner, sweep};

use super::{eventually, privileged};

const PREFIX: &str = "fg";

/// MAC address of the host's `eth0`, as the gateway sees it.
pub(crate) const HOST_MAC: &str = "00:00:5e:00:53:01";

/// The hosts of one test. Taken down on drop, also when the test fails.
///
/// `host` is 192.0.2.2 and 2001:db8:1::2; on its side of the gateway `lan0` is ::1 and .1.
/// `server` is 198.51.100.2 and 2001:db8:2::2 behind the gateway's `wan0`, and has the addresses
/// that feeds list: 203.0.113.1 to .9, 2001:db8:bad::1 to ::9, 10.48.255.194; and 203.0.113.200 and
/// 2001:db8:bad::200, which none lists.
pub(crate) struct Lab {
    pub(crate) host: Netns,
    pub(crate) gateway: Netns,
    pub(crate) server: Netns,
    pub(crate) dir: PathBuf,
}

impl Lab {
    /// `None` without root.
    pub(crate) fn new() -> Option<Self> {
        static SWEEP: Once = Once::new();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !privileged() {
            return None;
        }
        SWEEP.call_once(sweep_leftovers);
        let id = format!(
            "{PREFIX}-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let dir = std::env::temp_dir().join(&id);
        fs::create_dir(&dir).unwrap();
        let make = |name| Netns::create(format!("{id}-{name}")).unwrap();
        let lab = Self {
            host: make("host"),
            gateway: make("gateway"),
            server: make("server"),
            dir,
        };
        lab.wire();
        for netns in [&lab.host, &lab.gateway, &lab.server] {
            settle(netns);
        }
        Some(lab)
    }

    /// A path in the test's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn wire(&self) {
        let Self {
            host,
            gateway,
            server,
            ..
        } = self;
        host.link("eth0", gateway, "lan0").unwrap();
        server.link("eth0", gateway, "wan0").unwrap();
        host.ip(&[
            &format!("link set eth0 address {HOST_MAC}"),
            "addr add 192.0.2.2/24 dev eth0",
            "addr add 2001:db8:1::2/64 dev eth0",
            "route add default via 192.0.2.1",
            "route add ::/0 via 2001:db8:1::1",
        ])
        .unwrap();
        gateway
            .ip(&[
                "addr add 192.0.2.1/24 dev lan0",
                "addr add 2001:db8:1::1/64 dev lan0",
                "addr add 198.51.100.1/24 dev wan0",
                "addr add 2001:db8:2::1/64 dev wan0",
                "route add 203.0.113.0/24 via 198.51.100.2",
                "route add 10.48.255.194/32 via 198.51.100.2",
                "route add 2001:db8:bad::/64 via 2001:db8:2::2",
            ])
            .unwrap();
        gateway.forward().unwrap();
        server
            .ip(&[
                "addr add 198.51.100.2/24 dev eth0",
                "addr add 2001:db8:2::2/64 dev eth0",
                "route add default via 198.51.100.1",
                "route add ::/0 via 2001:db8:2::1",
                "addr add 10.48.255.194/32 dev lo",
            ])
            .unwrap();
        let last = (1..10).map(|n| n.to_string()).chain(["200".to_owned()]);
        let addresses: Vec<_> = last
            .flat_map(|n| {
                [
                    format!("addr add 203.0.113.{n}/32 dev lo"),
                    format!("addr add 2001:db8:bad::{n}/128 dev lo"),
                ]
            })
            .collect();
        server
            .ip(&addresses.iter().map(String::as_str).collect::<Vec<_>>())
            .unwrap();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Lab {
    /// What a failed test leaves to look at.
    pub(crate) fn tell(&self) {
        let said = fs::read_to_string(self.path("daemon.out")).unwrap_or_default();
        eprintln!("--- the daemon said:\n{said}---");
    }
}

/// Waits until all addresses can be used: on a busy machine the kernel takes its time even without
/// looking for duplicates.
fn settle(netns: &Netns) {
    let read = || fs::read_to_string("/proc/thread-self/net/if_inet6");
    // ADDRESS INDEX LENGTH SCOPE FLAGS DEVICE; IFA_F_TENTATIVE (linux/if_addr.h).
    let is_tentative = |line: &str| {
        let flags = line.split_whitespace().nth(4);
        flags
            .and_then(|flags| u32::from_str_radix(flags, 16).ok())
            .unwrap()
            & 0x40
            != 0
    };
    eventually("no address is tentative", || {
        let table = netns.enter(read).unwrap().unwrap();
        (!table.lines().any(is_tentative)).then_some(())
    });
}

/// Removes what killed test processes left.
fn sweep_leftovers() {
    sweep(PREFIX);
    for entry in fs::read_dir(std::env::temp_dir())
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| owner(PREFIX, name));
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[test]
fn hosts_reach_each_other_over_both_families() {
    let Some(lab) = Lab::new() else { return };
    let _web = super::web(&lab.server);
    for address in ["203.0.113.1:80", "[2001:db8:bad::1]:80", "10.48.255.194:80"] {
        super::connect(&lab.host, address).unwrap();
    }
    assert!(super::ping(&lab.host, "203.0.113.200"));
    assert!(super::ping(&lab.host, "2001:db8:bad::200"));
}

#[test]
fn nothing_is_left_of_a_lab_whose_test_failed() {
    let Some(lab) = Lab::new() else { return };
    let left = [
        lab.host.path(),
        lab.gateway.path(),
        lab.server.path(),
        lab.dir.clone(),
    ];
    let mut sleeper = lab.host.command("sleep").arg("600").spawn().unwrap();
    // nsenter has entered the namespace, then.
    super::eventually("it sleeps", || {
        let comm = fs::read_to_string(format!("/proc/{}/comm", sleeper.id())).unwrap();
        (comm == "sleep\n").then_some(())
    });
    let failed = std::thread::spawn(move || {
        let _lab = lab;
        panic!("as a failing test does");
    });
    assert!(failed.join().is_err());
    assert!(left.iter().all(|path| !path.exists()), "{left:?}");
    assert!(
        !sleeper.wait().unwrap().success(),
        "killed with its namespace"
    );
}

#[test]
fn a_dead_process_namespace_is_swept() {
    if !privileged() {
        return;
    }
    let mut gone = std::process::Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    let leftover = Netns::create(format!("fgsweep-{}-host", gone.id())).unwrap();
    let kept = Netns::create(format!("fgsweep-{}-host", std::process::id())).unwrap();
    sweep("fgsweep");
    assert!(!leftover.path().exists());
    assert!(kept.path().exists());
}
