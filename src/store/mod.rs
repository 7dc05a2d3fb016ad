//! The state folder: every feed's last good data, used at start without any network.
//!
//! ```text
//! STATE/lock                     held while a daemon uses the folder; holds its pid
//! STATE/feeds/NAME.last          last good data: a header line, then the body as pulled
//! STATE/feeds/NAME.last.corrupt  data that was found damaged, moved aside
//! STATE/feeds/NAME.reading       its update is being read, or killed the daemon then
//! STATE/sets.nft                 last good elements, for an nft include at boot
//! STATE/resources/               applied manifests, see [`crate::resources`]
//! STATE/manifests-lastgood/      last good texts of the manifests folder, see there too
//! STATE/exceptions               the host's own addresses, gateways, servers, as known last
//! STATE/nat64                    NAT64 prefixes, as the resolver said last
//! STATE/alerted                  listed exceptions, and when each was alerted
//! STATE/notices                  what an upgrade said once
//! STATE/arming.json              deny feeds on trial, and what `feedgate deny` armed
//! ```
//!
//! A file is replaced as a whole (temporary file, fsync, rename, fsync of the folder): whoever
//! reads it, also after a crash, finds the old data or the new, never a mixture. Damage is noticed
//! by a checksum over header and body. Does not judge or parse the data and knows no schedule.
//!
//! Every call blocks for the disk: in async code it belongs into `spawn_blocking`.

mod error;
mod file;
mod folder;
mod format;
mod reading;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufReader, Read},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use nix::fcntl::Flock;

use crate::{feed::FeedName, prefix::Prefix, snapshot::Exception};
pub use error::{Damage, Step, StoreError};
pub(crate) use file::{remove, remove_unfinished, replace};
pub(crate) use folder::{create, sync};
use format::Unreadable;
pub use format::{SOURCE_MAX, VALIDATOR_MAX};
use reading::Marks;
pub use reading::TOO_OFTEN;

const FEEDS: &str = "feeds";
const ELEMENTS: &str = "sets.nft";
const EXCEPTIONS: &str = "exceptions";
const ALERTED: &str = "alerted";
const NOTICES: &str = "notices";
/// More than a host has; bounds what a damaged file can cost.
const LINES_MAX: u64 = 4 << 20;
const NAT64: &str = "nat64";
/// Bounds what a damaged file can cost.
const NAT64_MAX: u64 = 4 << 10;
const LAST: &str = ".last";
const CORRUPT: &str = ".corrupt";

/// What a feed's last good pull brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastGood {
    /// The body as pulled.
    pub bytes: Vec<u8>,
    /// When it was pulled. Kept to the nanosecond within the years 1970 to 9999; any other time
    /// comes back as 1970, so it counts as very old.
    pub pulled: SystemTime,
    /// The server's `ETag`. Longer than [`VALIDATOR_MAX`] it is not stored.
    pub etag: Option<String>,
    /// The server's `Last-Modified`. Longer than [`VALIDATOR_MAX`] it is not stored.
    pub last_modified: Option<String>,
    /// The URL it came from, without user, password and query; at most [`SOURCE_MAX`] bytes.
    pub source: String,
}

/// Counters of the kernel that were reported last.
const REPORTED: &str = "reported";

/// What is known of trials.
const ARMING: &str = "arming.json";
/// Where a state folder keeps it, for who reads it while no daemon has the folder.
pub fn arming_file(state_dir: &Path) -> PathBuf {
    state_dir.join(ARMING)
}

/// A larger file of it is not ours, in bytes.
const ARMING_MAX: u64 = 16 << 20;

/// An open state folder, locked for as long as this lives.
#[derive(Debug)]
pub struct Store {
    state: PathBuf,
    feeds: PathBuf,
    /// Temporary names are fixed, and a damaged file must not be moved aside after it was replaced:
    /// one call at a time.
    turn: Mutex<()>,
    /// What could not be saved, by file, and why; the key of the folder itself is empty.
    unsaved: Mutex<BTreeMap<String, String>>,
    marks: Marks,
    is_of_before: bool,
    _lock: Option<Flock<File>>,
}

impl Store {
    /// Opens the state folder: creates it and its `feeds` (mode 0700) if they are missing, locks it
    /// and removes unfinished files that a killed process left. The folder above must exist.
    ///
    /// A folder that another feedgate uses is [`StoreError::InUse`]. On a disk that is read-only, full or
    /// broken it opens with a warning, whatever is missing there: it loads what there is, each save tries
    /// again, and [`Self::unsaved`] says why it fails.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let feeds = state_dir.join(FEEDS);
        let traces = [FEEDS, ELEMENTS, EXCEPTIONS, REPORTED, ARMING];
        let is_of_before = traces.iter().any(|name| state_dir.join(name).exists());
        let mut unsaved = BTreeMap::new();
        let mut go_on = |done: Result<(), StoreError>| {
            let Err(e) = done else { return Ok(()) };
            unsaved.insert(String::new(), e.to_string());
            e.excuse()
        };
        go_on(folder::create(state_dir))?;
        let mut lock = None;
        if state_dir.exists() {
            lock = folder::lock(state_dir)?;
            go_on(folder::create(&feeds))?;
        }
        if let Some(why) = unsaved.get("") {
            tracing::warn!("the state is not saved, and the daemon protects without it: {why}");
        }
        file::remove_unfinished(&feeds, |_| true)?;
        file::remove_unfinished(state_dir, |name| {
            [ELEMENTS, EXCEPTIONS, ALERTED, NOTICES, ARMING, NAT64]
                .iter()
                .any(|own| name == own.as_bytes())
        })?;
        Ok(Self {
            state: state_dir.to_owned(),
            feeds,
            turn: Mutex::new(()),
            unsaved: Mutex::new(unsaved),
            marks: Marks::default(),
            is_of_before,
            _lock: lock,
        })
    }

    /// Why something that should be on disk is not; `None`: all of it is.
    pub fn unsaved(&self) -> Option<String> {
        lock(&self.unsaved).values().next().cloned()
    }

    /// Replaces a file, and keeps in mind whether that went well.
    fn put(&self, folder: &Path, name: &str, parts: &[&[u8]]) -> Result<(), StoreError> {
        let _turn = self.turn();
        let done = folder::create(&self.state).and_then(|()| file::replace(folder, name, parts));
        let mut unsaved = lock(&self.unsaved);
        match &done {
            Ok(()) => {
                unsaved.remove("");
                unsaved.remove(name);
            }
            Err(e) => {
                unsaved.insert(name.to_owned(), e.to_string());
            }
        }
        done
    }

    /// Leaves a mark that the update of a feed is being read, which has so many deaths to its name.
    pub fn begin_reading(&self, feed: &FeedName, deaths: u32) {
        self.marks.begin(&self.feeds, feed, deaths);
    }

    /// Takes the mark off; with deaths to its name these stay written down.
    pub fn end_reading(&self, feed: &FeedName, deaths: u32) {
        self.marks.end(&self.feeds, feed, deaths);
    }

    /// The daemon stops by itself: what is being read now did not end it.
    pub fn stop_reading(&self) {
        self.marks.stop(&self.feeds);
    }

    /// How often a daemon died while it read the update of a feed, in a row. To be called once, at the start.
    pub fn deaths(&self) -> BTreeMap<FeedName, u32> {
        self.marks.deaths(&self.feeds)
    }

    /// Replaces the feed's data. It is on disk when this returns; on an error before the rename the
    /// older data stays.
    pub fn save(&self, feed: &FeedName, data: &LastGood) -> Result<(), StoreError> {
        let name = last(feed);
        if data.source.len() > SOURCE_MAX {
            return Err(StoreError::LongSource {
                path: self.feeds.join(name),
                length: data.source.len(),
            });
        }
        let header = format::header(feed, data)
            .map_err(|source| StoreError::io(Step::Write, &self.feeds.join(&name), source))?;
        self.put(&self.feeds, &name, &[&header, &data.bytes])
    }

    /// The feed's data; `None` when there is none.
    ///
    /// A damaged file, or a body above `max_bytes`, is [`StoreError::Corrupt`]: the file is moved
    /// aside to `NAME.last.corrupt`, in place of an older one, and the next call returns `None`.
    pub fn load(&self, feed: &FeedName, max_bytes: u64) -> Result<Option<LastGood>, StoreError> {
        let path = self.feeds.join(last(feed));
        let _turn = self.turn();
        match read(&path, feed, max_bytes) {
            Ok(data) => Ok(Some(data)),
            Err(Unreadable::Io(e)) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(Unreadable::Io(e)) => Err(StoreError::io(Step::Read, &path, e)),
            Err(Unreadable::Damaged(damage)) => Err(self.move_aside(feed, path, damage)),
        }
    }

    /// Removes what is stored of the feed, damaged data too. False when there was none.
    pub fn remove(&self, feed: &FeedName) -> Result<bool, StoreError> {
        let _turn = self.turn();
        let good = file::remove(&self.feeds.join(last(feed)))?;
        let corrupt = file::remove(&self.feeds.join(corrupt(feed)))?;
        self.marks.end(&self.feeds, feed, 0);
        if good || corrupt {
            folder::sync(&self.feeds)?;
        }
        Ok(good || corrupt)
    }

    /// Names of all feeds with data, sorted: those that are configured and those no longer are.
    pub fn names(&self) -> Result<Vec<FeedName>, StoreError> {
        let failed = |source| StoreError::io(Step::List, &self.feeds, source);
        let mut names = Vec::new();
        let entries = match fs::read_dir(&self.feeds) {
            // On a disk that never took it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(names),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let file = entry.map_err(failed)?.file_name();
            let name = file.to_str().and_then(|file| file.strip_suffix(LAST));
            names.extend(name.and_then(|name| name.parse::<FeedName>().ok()));
        }
        names.sort();
        Ok(names)
    }

    /// Stores the counters that were reported last, as [`Self::reported`] gives them back.
    pub fn save_reported(&self, counters: (u64, u64)) -> Result<(), StoreError> {
        let text = format!("{} {}\n", counters.0, counters.1);
        self.put(&self.state, REPORTED, &[text.as_bytes()])
    }

    /// The counters that were reported last; zeros when nothing sound is stored.
    pub fn reported(&self) -> (u64, u64) {
        let text = std::fs::read_to_string(self.state.join(REPORTED)).unwrap_or_default();
        let mut numbers = text.split_whitespace().map_while(|word| word.parse().ok());
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }

    /// Stores when listed exceptions were alerted, a line each, as [`Self::alerted`] gives it back.
    pub fn save_alerted(
        &self,
        alerted: &[(IpAddr, FeedName, SystemTime)],
    ) -> Result<(), StoreError> {
        let lines = alerted.iter().map(|(addr, feed, at)| {
            let at = at.duration_since(SystemTime::UNIX_EPOCH);
            format!("{addr} {feed} {}\n", at.unwrap_or_default().as_secs())
        });
        let text: String = lines.collect();
        self.put(&self.state, ALERTED, &[text.as_bytes()])
    }

    /// What [`Self::save_alerted`] stored; lines that are none are left out.
    pub fn alerted(&self) -> Vec<(IpAddr, FeedName, SystemTime)> {
        let line = |line: &str| {
            let mut words = line.split(' ');
            let (addr, feed) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            let since = Duration::from_secs(words.next()?.parse().ok()?);
            Some((addr, feed, SystemTime::UNIX_EPOCH.checked_add(since)?))
        };
        let text = read_some(&self.state.join(ALERTED), LINES_MAX).unwrap_or_default();
        text.lines().filter_map(line).collect()
    }

    /// Stores which notices were told.
    pub fn save_notices(&self, told: &BTreeSet<String>) -> Result<(), StoreError> {
        let text: String = told.iter().map(|id| format!("{id}\n")).collect();
        self.put(&self.state, NOTICES, &[text.as_bytes()])
    }

    /// What [`Self::save_notices`] stored.
    pub fn notices(&self) -> BTreeSet<String> {
        let text = read_some(&self.state.join(NOTICES), LINES_MAX).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// True when a daemon has used the folder before this one opened it.
    pub fn is_of_before(&self) -> bool {
        self.is_of_before
    }

    /// Stores what is known of trials, as [`Self::arming`] gives it back.
    pub fn save_arming(&self, text: &[u8]) -> Result<(), StoreError> {
        self.put(&self.state, ARMING, &[text])
    }

    /// What [`Self::save_arming`] stored; `None` when nothing is.
    pub fn arming(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.state.join(ARMING);
        let failed = |source| StoreError::io(Step::Read, &path, source);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        let mut text = Vec::new();
        file.take(ARMING_MAX)
            .read_to_end(&mut text)
            .map_err(failed)?;
        Ok(Some(text))
    }

    /// Stores the NAT64 prefixes that the resolver said, a line each, as [`Self::nat64`] gives them back.
    pub fn save_nat64(&self, prefixes: &[Prefix]) -> Result<(), StoreError> {
        let text: String = prefixes
            .iter()
            .map(|prefix| format!("{prefix}\n"))
            .collect();
        self.put(&self.state, NAT64, &[text.as_bytes()])
    }

    /// The NAT64 prefixes that were stored last; lines that are none are left out.
    pub fn nat64(&self) -> Vec<Prefix> {
        let text = read_some(&self.state.join(NAT64), NAT64_MAX).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Replaces `sets.nft`, which an admin's ruleset includes at boot.
    pub fn save_elements(&self, text: &str) -> Result<(), StoreError> {
        self.put(&self.state, ELEMENTS, &[text.as_bytes()])
    }

    /// Stores the exceptions that the host itself gives, a line each, as [`Self::exceptions`] gives them
    /// back.
    pub fn save_exceptions(&self, exceptions: &[Exception]) -> Result<(), StoreError> {
        let lines = exceptions.iter().map(|exception| {
            let why = exception.why.replace(char::is_control, " ");
            format!("{} {why}\n", exception.prefix)
        });
        let text: String = lines.collect();
        self.put(&self.state, EXCEPTIONS, &[text.as_bytes()])
    }

    /// The exceptions that were stored last; lines that are none are left out.
    pub fn exceptions(&self) -> Vec<Exception> {
        let line = |line: &str| {
            let (prefix, why) = line.split_once(' ')?;
            Some(Exception::known(prefix.parse().ok()?, why.to_owned()))
        };
        read_some(&self.state.join(EXCEPTIONS), LINES_MAX)
            .unwrap_or_default()
            .lines()
            .filter_map(line)
            .flatten()
            .collect()
    }

    fn move_aside(&self, feed: &FeedName, path: PathBuf, damage: Damage) -> StoreError {
        let aside = self.feeds.join(corrupt(feed));
        match fs::rename(&path, &aside) {
            Ok(()) => StoreError::Corrupt {
                path,
                damage,
                aside,
            },
            Err(source) => StoreError::CorruptStays {
                path,
                damage,
                source,
            },
        }
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        lock(&self.turn)
    }
}

/// The text of a small file, of which no more than `most` bytes are read.
fn read_some(path: &Path, most: u64) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(most).read_to_string(&mut text)?;
    Ok(text)
}

/// A panic elsewhere leaves nothing half done here that the next call would not replace.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(path: &Path, feed: &FeedName, max_bytes: u64) -> Result<LastGood, Unreadable> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    format::read(&mut BufReader::new(file), size, feed, max_bytes)
}

/// A feed's name starts with a letter or digit and holds no `/`, so this stays inside its folder
/// and no two names meet: temporary names start with a dot, damaged data ends otherwise.
fn last(feed: &FeedName) -> String {
    format!("{feed}{LAST}")
}

fn corrupt(feed: &FeedName) -> String {
    format!("{feed}{LAST}{CORRUPT}")
}
