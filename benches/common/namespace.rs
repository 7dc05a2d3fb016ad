//! Network namespaces that vanish with their threads, sockets and processes.

use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};

/// Moves this thread, and the processes and sockets it makes from now on, to a new network namespace.
pub fn enter_new() {
    unshare(CloneFlags::CLONE_NEWNET)
        .expect("the kernel's part needs root: network namespaces, nf_tables");
}

/// Runs `ip` with these words.
pub fn ip(words: &str) {
    assert!(try_ip(words), "ip {words}");
}

fn try_ip(words: &str) -> bool {
    Command::new("ip")
        .args(words.split_whitespace())
        .stderr(Stdio::null())
        .status()
        .expect("ip(8) from iproute2 is needed")
        .success()
}

/// A device that swallows every packet, as the default route, through one neighbour.
pub fn blackhole() {
    ip("link set lo up");
    // An ifb device drops what was not redirected to it: the same, on kernels without dummy.
    if !try_ip("link add hole type dummy") {
        ip("link add hole type ifb");
    }
    ip("addr add 198.18.0.1/24 dev hole");
    ip("link set hole up");
    ip("route add default via 198.18.0.2 dev hole");
    ip("neigh replace 198.18.0.2 lladdr 02:00:00:00:00:02 dev hole");
}
