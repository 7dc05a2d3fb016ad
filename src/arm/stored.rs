//! The form in which a book outlives the process.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{Book, Entry, Rails, Would, locked, rails};
use crate::feed::FeedName;

impl Book {
    /// Everything that outlives the process, as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        let row = |(name, entry): (&FeedName, &Entry)| {
            let row = Row {
                since: entry.since.map(seconds),
                before: entry.before.map(seconds),
                armed: entry.armed,
                kept: entry.kept.map(seconds),
                pending: entry.pending.is_some(),
                would: locked(&entry.would).clone(),
                source: entry.source.clone(),
            };
            (name.to_string(), row)
        };
        let file = File {
            feeds: self.feeds.iter().map(row).collect(),
            shares: self.rails.admitted().map(|admitted| {
                let row = |(name, admitted): (&FeedName, _)| {
                    (name.to_string(), rails::Row::from(admitted))
                };
                admitted.iter().map(row).collect()
            }),
        };
        // A value of these types can always be written.
        serde_json::to_vec_pretty(&file).unwrap_or_default()
    }

    /// The feeds that denied when this was written.
    fn denying(&self) -> BTreeSet<FeedName> {
        let denied = |(_, entry): &(&FeedName, &Entry)| entry.armed || entry.kept.is_some();
        let denied = self.feeds.iter().filter(denied);
        denied.map(|(name, _)| name.clone()).collect()
    }

    /// What [`Self::to_json`] wrote. What was not confirmed is taken back.
    ///
    /// # Errors
    /// In words, when it is not that.
    pub fn from_json(text: &[u8]) -> Result<Self, String> {
        let file: File = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        let mut book = Self::default();
        for (name, row) in file.feeds {
            let name: FeedName = name.parse().map_err(|e| format!("{name}: {e}"))?;
            book.was_pending |= row.pending;
            let entry = Entry {
                since: row.since.and_then(time),
                before: row.before.and_then(time),
                armed: row.armed,
                kept: row.kept.and_then(time),
                pending: None,
                would: Arc::new(Mutex::new(row.would)),
                source: row.source,
            };
            book.feeds.insert(name, entry);
        }
        book.feeds.retain(|_, entry| !entry.is_idle());
        book.rails = match file.shares {
            None => Rails::after(book.denying()),
            Some(rows) => {
                let row = |(name, row): (&String, &rails::Row)| {
                    Some((name.parse().ok()?, row.admitted()?))
                };
                Rails::known(rows.iter().filter_map(row).collect())
            }
        };
        Ok(book)
    }
}

#[derive(Serialize, Deserialize)]
struct File {
    feeds: BTreeMap<String, Row>,
    /// What each feed may deny; not there in what 0.1 wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shares: Option<BTreeMap<String, rails::Row>>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    /// Seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<u64>,
    /// The same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<u64>,
    armed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kept: Option<u64>,
    #[serde(default)]
    pending: bool,
    #[serde(default)]
    would: Would,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<String>,
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn time(seconds: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}
