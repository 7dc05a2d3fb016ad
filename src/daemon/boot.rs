//! `feedgate nft load`: the table that the last good data give, for the time before the daemon runs.
//!
//! Asks nobody: no queue, no pull, no name is resolved. The daemon takes the table over, or replaces it
//! in one transaction.

use std::{fmt, path::Path as FilePath, sync::Arc};

use super::{RunError, arming, core::Core, engine::Path, resources::Resources, start};
use crate::{
    config::{self, Mode},
    host::addresses,
    nft::{Kernel, TableState},
    ruleset::Options,
    sink::Sinks,
    store::Store,
};

/// What became of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// It holds so many elements of so many feeds.
    Table {
        /// Its name.
        table: String,
        /// Addresses and networks in it.
        elements: usize,
        /// Feeds with good data.
        feeds: usize,
    },
    /// A table of feedgate is there already, and holds no less than the last good data give.
    There {
        /// Its name.
        table: String,
    },
    /// No feed has good data in the state folder, and no network set is applied.
    NothingStored,
    /// Mode include: the admin's ruleset loads `sets.nft` by itself.
    Include,
}

impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table {
                table,
                elements,
                feeds,
            } => write!(
                f,
                "table inet {table} is loaded: {elements} elements, from the last good data of {feeds} feeds"
            ),
            Self::There { table } => {
                write!(f, "table inet {table} is there already and stays as it is")
            }
            Self::NothingStored => f.write_str("nothing to load: no good data are stored yet"),
            Self::Include => f.write_str(
                "nothing to load in mode include: your ruleset includes sets.nft of the state folder",
            ),
        }
    }
}

/// Loads the table from the state folder, where there is none yet. Not while a daemon uses the folder.
pub fn load(config_file: &FilePath) -> Result<Loaded, RunError> {
    let config = start::read_config(config_file)?;
    if config.nftables.mode == Mode::Include {
        return Ok(Loaded::Include);
    }
    start::need_net_admin()?;
    let store = Store::open(&config.daemon.state_dir)?;
    let kernel = Kernel::open(Options::new(&config.nftables))?;
    let table = config.nftables.table.clone();
    let state = kernel.table_state()?;
    kernel.may_touch(&state)?;
    if state == TableState::Ours {
        return Ok(Loaded::There { table });
    }
    let resources = Resources::open(&config)?;
    let mut core = Core::new(config, kernel, Arc::new(silent_path()?));
    core.take_resources(resources.resolve(&core.config));
    take_known_exceptions(&mut core, &store);
    // What is on trial only alerts, and what was tried out or kept denies.
    core.arming = arming::recall(&store);
    start::recall(&mut core, &store);
    core.recall_transition(&store);
    let feeds = core.feeds.values().filter(|s| s.data.is_some()).count();
    if feeds == 0 && core.network_sets.is_empty() {
        return Ok(Loaded::NothingStored);
    }
    core.install()?;
    let snapshot = core.path.view.current();
    // Nobody listens: the guard chains alone decide, as they do after a stop.
    core.kernel.stop_asking(&snapshot.sets)?;
    // The counters of this table begin at zero.
    if let Err(e) = store.save_reported((0, 0)) {
        tracing::warn!("packets without attribution may be reported twice after a restart: {e}");
    }
    Ok(Loaded::Table {
        table,
        elements: snapshot.sets.elements(),
        feeds,
    })
}

/// A path that no packet takes: nothing is alerted and nothing is stored.
fn silent_path() -> Result<Path, RunError> {
    let silent = config::Alerts {
        syslog: Vec::new(),
        ..config::Alerts::default()
    };
    let sinks = Sinks::open(&silent, start::identity(), None)?;
    Ok(Path::new(sinks, start::policy(&silent)))
}

/// Exceptions of the configuration and of the host as far as it is up, and what the last daemon knew of
/// the host: a gateway that a feed lists must not be lost for want of an address.
fn take_known_exceptions(core: &mut Core, store: &Store) {
    let config = core.config.exceptions.clone();
    let files = core.take_files(addresses::files(&config.files));
    let known = if config.own_addresses {
        store.exceptions()
    } else {
        Vec::new()
    };
    let mut look = start::OwnLook::default();
    core.take_exceptions(start::exceptions(&config, files, known, &mut look));
}
