//! The host's name in alerts. cloud-init and DHCP set it after the start of a daemon, so it is read
//! again every few seconds.

use std::sync::Arc;

use super::{FLUSH, Shared, engine::lock, start};
use crate::{alert::ecs::Observer, config::Config, sink::Sinks};

/// Opens the sinks again where the host has another name by now. What waits in the old ones keeps the
/// old name. Blocks until those have sent it, for [`FLUSH`] at most.
pub(super) fn follow(shared: &Shared, config: &Config) {
    let identity = start::identity();
    let new = identity.hostname.clone();
    let old = lock(&shared.hostname).clone();
    if new == old {
        return;
    }
    match Sinks::open(&config.alerts, identity, Some(&config.daemon.state_dir)) {
        Ok(sinks) => {
            tracing::info!("this host was called {old} and is now called {new}: alerts follow");
            let before = shared.path.sinks.swap(Arc::new(sinks));
            if let Some(db) = &*shared.path.db.load() {
                db.set_observer(Observer::of(new.clone()));
            }
            *lock(&shared.hostname) = new;
            before.close(FLUSH);
        }
        Err(e) => tracing::warn!("alerts go on with the host name {old} instead of {new}: {e}"),
    }
}
