//! The store of alerts: a database in the state folder that client commands ask, with a chain of
//! hashes over its records. (Last good feed data are in [`crate::store`].)
//!
//! ```text
//! STATE/alerts.db                   SQLite; -wal and -shm beside it while it is open
//! STATE/alerts.db.head              number and hash of the newest record; locked by the writer
//! STATE/alerts.db.corrupt-TIME      a damaged database, set aside
//! ```
//!
//! [`AlertDb::submit`] is called while a packet is held, so it only puts the alert into a bounded
//! queue. One thread writes: batches of at most a thousand, at least every tenth of a second, each on
//! disk (fsync) before the next. What a full queue cannot take is counted, and the count is a record
//! of the chain. [`AlertDb::sync`] waits, within a limit, until all alerts so far are on disk.
//!
//! SQLite, not redb: its file can be held below a size and shrinks, other processes read while the
//! daemon writes, and an operator can open it with a tool that is on every host. Both survive a kill.

mod book;
mod evict;
mod head;
mod open;
mod queue;
mod read;
mod record;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    alert::{Alert, ecs::Observer, filter::Filter, suppress::ByAction},
    config::AlertStore,
    pulse::Pulse,
};

pub use book::Person;
use queue::{Command, Queue};
pub use read::{NotOne, PAGE_ALERTS, Part, Reader};
pub use verify::{Anchor, Finding, Known, Report};

/// Alerts that wait at most.
pub const QUEUE_ALERTS: usize = 16_384;
/// How far its thread stands back behind those that hold packets (nice(2)); with `durable` they wait
/// for it, so not as far as it could.
const NICE: i32 = 5;
/// How long a dismissal may take.
const DISMISSAL: Duration = Duration::from_secs(60);

/// The database cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be opened.
    #[error("alert store {}: {source}{}", path.display(), advice(source.kind()))]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// SQLite cannot make sense of it.
    #[error("alert store {}: {source}; the daemon sets a damaged store aside when it meets the damage", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// An id names no single alert.
    #[error("{0}")]
    NotOne(NotOne),
    /// Not a head.
    #[error("anchor: {0}")]
    Anchor(&'static str),
}

fn advice(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::NotFound => {
            "; no alert was stored yet, or [alerts] store names another file"
        }
        io::ErrorKind::PermissionDenied => "; run this as root, or ask the running daemon",
        _ => "",
    }
}

/// A part of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// The alerts: `seq`, `state`, `alert` (the ECS event), `dismissed` (at, by, note, seq).
    pub alerts: Vec<Value>,
    /// There are more that fit.
    pub more: bool,
    /// Number of the newest record of the store.
    pub newest: i64,
}

/// Flows of one source to one indicator with one verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphEdge {
    /// The source in a few words.
    pub source: String,
    /// The container or pod that it is in, by name; `source` where there is none.
    pub node: String,
    /// The feeds that list the indicator.
    pub feeds: Vec<String>,
    /// The same by their network sets: `threatfeed.FEED` for a feed that keeps one.
    pub network_sets: Vec<String>,
    /// What was touched.
    pub indicator: String,
    /// `alert` or `deny`.
    pub action: String,
    /// `egress` or `ingress`.
    pub direction: String,
    /// Flows, those counted in summaries included.
    pub flows: u64,
    /// Alerts.
    pub alerts: i64,
    /// The first of them, RFC 3339.
    pub first: String,
    /// The last of them.
    pub last: String,
}

impl GraphEdge {
    /// Names the network sets; `keeps_set` tells of a feed whether it keeps one.
    pub fn name_sets(&mut self, keeps_set: impl Fn(&str) -> bool) {
        let name = |feed: &String| match keeps_set(feed) {
            true => format!("threatfeed.{feed}"),
            false => feed.clone(),
        };
        self.network_sets = self.feeds.iter().map(name).collect();
    }
}

/// Which alerts are dismissed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those whose ids begin so.
    Ids(Vec<String>),
    /// All open ones that fit.
    All(Filter),
}

/// What became of a dismissal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dismissed {
    /// Alerts that were open and are dismissed now.
    pub dismissed: usize,
}

/// How far the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Flows of this process's alerts that are on disk, or were dropped.
    pub flows: ByAction,
    /// Number of the newest record then.
    pub head: i64,
}

/// The store as `status` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DbStatus {
    /// The file.
    pub file: PathBuf,
    /// Alerts stored since the start.
    pub stored: u64,
    /// Alerts that wait.
    pub queued: u64,
    /// Alerts that could not be stored.
    pub dropped: u64,
    /// Why it does not work now; `None` when it does.
    pub last_error: Option<String>,
    /// Records in it.
    pub records: u64,
    /// The newest of them as `SEQ:HASH`; note it elsewhere, and `alerts verify --anchor` compares.
    pub head: Option<String>,
    /// Bytes on disk, all its files together.
    pub bytes: u64,
    /// When something had to be repaired since the start, RFC 3339.
    pub repaired_at: Option<String>,
    /// What.
    pub repaired: Option<String>,
    /// Verdicts that `durable` gave before the alert was on disk, because the disk took too long.
    pub late_verdicts: u64,
}

/// The store, open; its thread ends with it.
#[derive(Debug)]
pub struct AlertDb {
    queue: Arc<Queue>,
    path: PathBuf,
}

impl AlertDb {
    /// Starts the thread, which opens the file at `path`. Whatever is wrong with that is told in the
    /// log and in [`DbStatus`], and tried again: the daemon protects without it.
    pub fn start(path: &Path, store: &AlertStore, observer: Observer) -> io::Result<Self> {
        Self::with_capacity(path, store, observer, QUEUE_ALERTS)
    }

    fn with_capacity(
        path: &Path,
        store: &AlertStore,
        observer: Observer,
        capacity: usize,
    ) -> io::Result<Self> {
        let queue = Arc::new(Queue::new(path, capacity));
        let (worker, file, store) = (Arc::clone(&queue), path.to_owned(), store.clone());
        thread::Builder::new()
            .name("alert-store".into())
            .spawn(move || {
                crate::background::give_way(NICE);
                writer::run(&worker, &file, store, observer);
            })?;
        Ok(Self {
            queue,
            path: path.to_owned(),
        })
    }

    /// Takes one alert to be stored, or counts it as lost; never blocks.
    pub fn submit(&self, alert: &Alert) {
        self.queue.push(alert);
    }

    /// Waits until every alert submitted so far is on disk, at most `limit`; false when it is not, and
    /// then `verdicts` counts as given too early. While the disk is behind for that long nothing waits.
    pub fn sync(&self, limit: Duration, verdicts: u64) -> bool {
        self.queue.sync(limit, verdicts)
    }

    /// Dismisses alerts in the name of `person`; blocks until it is on disk.
    pub fn dismiss(&self, which: Which, person: Person, note: String) -> Result<Dismissed, String> {
        let (reply, answer) = std::sync::mpsc::sync_channel(1);
        self.queue.command(Command::Dismiss {
            which,
            person,
            note,
            reply,
        })?;
        match answer.recv_timeout(DISMISSAL) {
            Ok(result) => result,
            Err(_) => Err(
                "the alert store did not answer; `feedgate status` says what is wrong with it"
                    .into(),
            ),
        }
    }

    /// Opens the file to read.
    pub fn reader(&self) -> Result<Reader, ReadError> {
        Reader::open(&self.path)
    }

    /// How far it is; `None` while it is not open yet.
    pub fn progress(&self) -> Option<Progress> {
        self.queue.progress()
    }

    /// The newest record that this process wrote.
    pub fn head(&self) -> Option<Anchor> {
        self.queue.head()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes other bounds of age and size.
    pub fn set_bounds(&self, store: &AlertStore) {
        let _ = self.queue.command(Command::Bounds(store.clone()));
    }

    /// Takes another name of this host, for the alerts that come.
    pub fn set_observer(&self, observer: Observer) {
        let _ = self.queue.command(Command::Observer(observer));
    }

    /// The pulse of its thread.
    pub fn pulse(&self) -> Arc<Pulse> {
        Arc::clone(&self.queue.pulse)
    }

    /// Counters and state.
    pub fn status(&self) -> DbStatus {
        self.queue.status()
    }

    /// Stores what waits, for at most `deadline`, and closes the file; what is left then is lost.
    pub fn close(&self, deadline: Duration) -> DbStatus {
        self.queue.close(Instant::now() + deadline);
        self.queue.status()
    }
}

impl Drop for AlertDb {
    fn drop(&mut self) {
        self.queue.end(Instant::now());
    }
}

/// Microseconds since 1970.
pub fn micros(time: SystemTime) -> i64 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |us| -us),
    }
}

/// Microseconds since 1970 as RFC 3339; the number itself where that has no such form.
fn rfc3339(micros: i64) -> String {
    time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000)
        .ok()
        .and_then(|time| {
            time.format(&time::format_description::well_known::Rfc3339)
                .ok()
        })
        .unwrap_or_else(|| micros.to_string())
}
