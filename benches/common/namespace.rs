//! Network namespaces that vanish with their threads, sockets and processes.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Moves this thread, and the processes and sockets it makes from now on, to a new network namespace.
pub fn enter_new() {
    unshare(CloneFlags::CLONE_NEWNET)
        .expect("the kernel's part needs root: network namespaces, nf_tables");
}

/// Runs `ip` with these words.
pub fn ip(words: &str) {
    let status = Command::new("ip")
        .args(words.split_whitespace())
        .status()
        .expect("ip(8) from iproute2 is needed");
    assert!(status.success(), "ip {words}");
}

/// A device that swallows every packet, as the default route, through one neighbour.
pub fn blackhole() {
    ip("link set lo up");
    ip("link add dummy0 type dummy");
    ip("addr add 198.18.0.1/24 dev dummy0");
    ip("link set dummy0 up");
    ip("route add default via 198.18.0.2 dev dummy0");
}
