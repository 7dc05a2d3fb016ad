//! What the integration tests share: hosts, the daemon, its log, traffic.

mod alerts;
mod conf;
mod daemon;
mod halted;
mod http;
mod lab;
mod leaver;
mod rsyslog;
mod stream;
mod traffic;
mod wire;

use std::time::{Duration, Instant};

use feedgate::demo::TICK;

pub(crate) use self::{
    alerts::{Alert, Alerts},
    conf::Conf,
    daemon::{Daemon, feedgate, install, load, load_with, nft, program},
    halted::Halted,
    http::{Reply, Site, Tls},
    lab::{HOST_MAC, Lab},
    leaver::{End, Leaver, Phase},
    rsyslog::{Parser, Record, Rsyslog},
    stream::{Pace, Stream},
    traffic::{
        Echo, FeedServer, connect, curl, curl_times_out, dropped, echo, exchange, ping, ping_from,
        ping_from_lost, ping_lost, reached, unanswered, web,
    },
    wire::{Meter, RawSender, counter, counter_in},
};

/// The longest anything is waited for. Far above what it takes, so that a busy machine is no failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A limit, longer where `FEEDGATE_TEST_SLOWER` says that the machine is
/// so many times slower than a real one (an emulated processor).
pub(crate) fn within(limit: Duration) -> Duration {
    let factor = std::env::var("FEEDGATE_TEST_SLOWER").ok();
    limit * factor.and_then(|factor| factor.parse().ok()).unwrap_or(1)
}

/// Asks `look` again and again until it finds something; fails the test when it never does.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let (start, patience) = (Instant::now(), within(PATIENCE));
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            start.elapsed() < patience,
            "did not happen within {patience:?}: {what}"
        );
        std::thread::sleep(TICK);
    }
}

/// True when namespaces can be made. Says why not; in CI that is a failure.
pub(crate) fn privileged() -> bool {
    let cap = caps::Capability::CAP_SYS_ADMIN;
    if caps::has_cap(None, caps::CapSet::Effective, cap).unwrap_or(false) {
        return true;
    }
    let why = "needs root (CAP_SYS_ADMIN) to make network namespaces";
    assert!(
        std::env::var_os("CI").is_none(),
        "{why}; in CI that is a failure"
    );
    eprintln!("skipped: {why}");
    false
}
