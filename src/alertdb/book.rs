//! The database file as its one writer has it: records appended, dismissed, deleted when old, within
//! its bounds.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{
    Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params,
};
use serde_json::{Value, json};

use super::{
    Dismissed, Which, evict,
    head::{Head, HeadFile},
    open::{self, Paths},
    read,
    record::{Columns, Kind, Link, hex},
};
use crate::config::AlertStore;

/// Bytes of a page of the database.
pub(super) const PAGE: u64 = 4096;
/// Bytes that SQLite's shared memory file and the head file may take.
const BESIDE: u64 = 68 << 10;
/// Pages that a batch changes besides its own: indexes, the list of free pages.
const OVERHEAD: u64 = 24;
/// Alerts that one record of a dismissal names.
const DISMISSED_AT_ONCE: usize = 5_000;
/// Attempts at one transaction that another program, or a bad guess of its size, made fail.
const TRIES: usize = 4;
/// Why records are deleted.
const NO_ROOM: &str = "no room below store-max-size";
/// A record from further in the future than this was written under a wrong clock, and is old.
const FUTURE: i64 = 86_400_000_000;

/// The database cannot be used, or not now.
#[derive(Debug, thiserror::Error)]
pub(super) enum BookError {
    /// Another process has it.
    #[error("another feedgate writes to it")]
    InUse,
    /// A newer version made it.
    #[error(
        "it is of version {0}, which this feedgate does not know; move it away or set another [alerts] store"
    )]
    Version(i64),
    /// Not a database of this kind, or not sound.
    #[error("{0}")]
    Damaged(String),
    /// A reader keeps its log from being emptied.
    #[error("another program has been reading it for so long that nothing can be deleted")]
    Held,
    /// A file.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// SQLite.
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
}

impl BookError {
    /// True when the file must be set aside.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Self::Damaged(_) => true,
            Self::Sqlite(error) => matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
            ),
            _ => false,
        }
    }

    fn is_full(&self) -> bool {
        matches!(self, Self::Sqlite(error)
            if error.sqlite_error_code() == Some(ErrorCode::DiskFull))
    }

    fn is_constraint(&self) -> bool {
        matches!(self, Self::Sqlite(error)
            if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation))
    }
}

/// Something to be written.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    /// Microseconds since 1970.
    pub(super) time: i64,
    pub(super) body: String,
    /// Of an alert.
    pub(super) columns: Option<Columns>,
}

impl Entry {
    pub(super) fn new(kind: Kind, time: i64, body: &Value) -> Self {
        Self {
            kind,
            time,
            body: body.to_string(),
            columns: None,
        }
    }
}

/// Who dismisses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// User ID of the client process.
    pub uid: u32,
    /// Its name, where known.
    pub user: Option<String>,
}

/// How many bytes each part may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    max_age: Duration,
    /// Pages of the database file.
    pages: u64,
    /// Bytes of SQLite's write-ahead log.
    log: u64,
    /// Records deleted in one transaction.
    chunk: u64,
}

impl Bounds {
    fn new(store: &AlertStore) -> Self {
        let log = (store.max_size / 4).clamp(256 << 10, 16 << 20);
        Self {
            max_age: store.max_age,
            pages: store.max_size.saturating_sub(log + BESIDE) / PAGE,
            log,
            chunk: (log >> 14).clamp(16, 1_000),
        }
    }
}

/// The open database.
#[derive(Debug)]
pub(super) struct Book {
    db: Connection,
    head_file: HeadFile,
    paths: Paths,
    head: Link,
    /// The last record that was deleted for its age or for room.
    checkpoint: Link,
    /// Records above it that were evicted; `None` while there was never one.
    evicted: Option<i64>,
    /// No alert of what comes in is left up to this one.
    searched: i64,
    bounds: Bounds,
}

impl Book {
    /// Opens the database, makes a new one where there is none or none that is sound. The text says
    /// what had to be repaired; `reason` is why there may be none.
    pub(super) fn open(
        path: &Path,
        store: &AlertStore,
        now: i64,
        reason: Option<&str>,
    ) -> Result<(Self, Option<String>), BookError> {
        let paths = Paths::new(path);
        match Self::open_once(&paths, store, now, reason) {
            Err(error) if error.is_damage() => {
                let aside = open::set_aside(&paths, now)?;
                let told = format!(
                    "the database was damaged ({error}); it is kept as {} and a new one is begun",
                    aside.display()
                );
                let (book, _) = Self::open_once(&paths, store, now, Some(&told))?;
                Ok((book, Some(told)))
            }
            other => other,
        }
    }

    fn open_once(
        paths: &Paths,
        store: &AlertStore,
        now: i64,
        reason: Option<&str>,
    ) -> Result<(Self, Option<String>), BookError> {
        let head_file = HeadFile::open(&paths.head).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => BookError::InUse,
            _ => e.into(),
        })?;
        let mut before = Head::read(&paths.head);
        if before.is_none() && !paths.db.exists() {
            // A kill before the first record must not look like a head that somebody removed.
            let nothing = Head {
                link: Link::START,
                closed: false,
            };
            head_file.write(nothing)?;
            before = Some(nothing);
        }
        let db = open::connect(&paths.db)?;
        let is_new = open::make_tables(&db)?;
        let unclean = !is_new && before.is_some_and(|head| !head.closed);
        if unclean {
            open::check(&db)?;
        }
        let mut book = Self {
            head: read::head(&db)?,
            checkpoint: read::checkpoint(&db)?,
            evicted: open::gaps(&db)?,
            searched: 0,
            bounds: Bounds::new(store),
            paths: paths.clone(),
            head_file,
            db,
        };
        // A store whose every record was deleted goes on from the last of them.
        if book.head.seq < book.checkpoint.seq {
            book.head = book.checkpoint;
        }
        let told = book.compare(before, is_new, unclean)?;
        book.fit()?;
        let mut first = Vec::new();
        if is_new {
            let reason = reason.or(told.as_deref()).unwrap_or("a new store");
            first.push(Entry::new(Kind::Begin, now, &json!({ "reason": reason })));
        } else if let Some(told) = told.as_ref().filter(|_| !is_new) {
            first.push(Entry::new(Kind::Damage, now, &json!({ "what": told })));
        }
        book.append(&first)?;
        book.write_head(false);
        let repaired = unclean.then(|| {
            "the last daemon was killed while the store was open: its log was replayed, and what it \
             had not yet written, at most the last second, is missing"
                .to_owned()
        });
        Ok((book, told.or(repaired)))
    }

    /// Compares the database with what its last writer noted elsewhere; gives what is wrong.
    fn compare(
        &self,
        before: Option<Head>,
        is_new: bool,
        unclean: bool,
    ) -> Result<Option<String>, BookError> {
        let Some(noted) = before else {
            let told = "the file beside the database that names its newest record is missing";
            return Ok((!is_new).then(|| told.to_owned()));
        };
        let (seq, newest) = (noted.link.seq, self.head.seq);
        if is_new {
            let told = format!("the database is gone; it had records up to {seq}");
            return Ok((seq > 0).then_some(told));
        }
        if newest < seq {
            return Ok(Some(format!(
                "records {} to {seq} were in the database and are missing at its end",
                newest + 1
            )));
        }
        if newest > seq && !unclean {
            return Ok(Some(format!(
                "records {} to {newest} were added while no daemon had the database open",
                seq + 1
            )));
        }
        let told =
            format!("record {seq} is another than the one that was written under this number");
        let same = seq <= self.checkpoint.seq || self.is_there(noted.link)?;
        Ok((!same).then_some(told))
    }

    /// True when the record is there, or was evicted.
    fn is_there(&self, link: Link) -> Result<bool, BookError> {
        if let Some(hash) = read::hash_of(&self.db, link.seq)? {
            return Ok(hash == link.hash.as_slice());
        }
        let run = evict::Runs::above(link.seq).peek(&self.db, link.seq - 1)?;
        // Of the others in a run no hash is kept.
        let fits = |run: evict::Run| run.last > link.seq || run.hash == link.hash;
        Ok(run.is_some_and(|run| run.first <= link.seq && fits(run)))
    }

    /// Appends all of them, or none; on disk when this returns.
    pub(super) fn append(&mut self, entries: &[Entry]) -> Result<(), BookError> {
        if entries.is_empty() {
            return Ok(());
        }
        let bytes = entries.iter().map(weight).sum();
        self.make_room(bytes)?;
        for _ in 0..TRIES {
            match self.try_append(entries) {
                Err(error) if error.is_constraint() => self.step_over()?,
                // Not the disk: more room was needed than was thought.
                Err(error) if error.is_full() && self.pages("page_count")? >= self.bounds.pages => {
                    self.free_some(NO_ROOM)?;
                }
                other => return other,
            }
        }
        self.try_append(entries)
    }

    fn try_append(&mut self, entries: &[Entry]) -> Result<(), BookError> {
        let mut link = self.head;
        let tx = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut writer = Writer::new(&tx)?;
            for entry in entries {
                link = writer.add(link, entry)?;
            }
        }
        tx.commit()?;
        self.advance(link);
        Ok(())
    }

    /// Somebody else wrote a record of the next number: it stays for `verify` to find.
    fn step_over(&mut self) -> Result<(), BookError> {
        let there = read::head(&self.db)?;
        let first = self.head.seq + 1;
        tracing::error!(
            "alert store: records {first} to {} were not written by this daemon; see `feedgate alerts verify`",
            there.seq
        );
        self.head.seq = there.seq;
        Ok(())
    }

    /// Dismisses; nothing is done when a name fits no alert, or several.
    pub(super) fn dismiss(
        &mut self,
        which: &Which,
        person: &Person,
        note: &str,
        now: i64,
    ) -> Result<Result<Dismissed, String>, BookError> {
        let open = match which {
            Which::Ids(ids) => {
                let mut found = Vec::new();
                for id in ids {
                    match read::find(&self.db, id)? {
                        Ok((seq, _)) => found.push(seq),
                        Err(why) => return Ok(Err(why.to_string())),
                    }
                }
                found.sort_unstable();
                found.dedup();
                read::still_open(&self.db, &found)?
            }
            Which::All(filter) => read::open_alerts(&self.db, filter)?,
        };
        for some in open.chunks(DISMISSED_AT_ONCE) {
            self.dismiss_some(some, person, note, now)?;
        }
        Ok(Ok(Dismissed {
            dismissed: open.len(),
        }))
    }

    fn dismiss_some(
        &mut self,
        alerts: &[i64],
        person: &Person,
        note: &str,
        now: i64,
    ) -> Result<(), BookError> {
        let body = json!({
            "alerts": ranges(alerts),
            "by": { "uid": person.uid, "user": person.user },
            "note": note,
        });
        let entry = Entry::new(Kind::Dismissal, now, &body);
        self.make_room(weight(&entry) + u64::try_from(alerts.len()).unwrap_or(u64::MAX) * 64)?;
        let tx = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let link = Writer::new(&tx)?.add(self.head, &entry)?;
        {
            let mut mark = tx.prepare("UPDATE alert SET dismissed = ?1 WHERE seq = ?2")?;
            for seq in alerts {
                mark.execute(params![link.seq, seq])?;
            }
        }
        tx.commit()?;
        self.advance(link);
        Ok(())
    }

    /// Deletes some of the records that are too old at `now`; true when there are more.
    pub(super) fn expire(&mut self, now: i64) -> Result<bool, BookError> {
        let age = i64::try_from(self.bounds.max_age.as_micros()).unwrap_or(i64::MAX);
        let oldest = now.saturating_sub(age);
        let first_young: Option<i64> = self
            .db
            .query_row(
                "SELECT seq FROM record WHERE time BETWEEN ?1 AND ?2 AND kind <> 'begin' ORDER BY seq LIMIT 1",
                params![oldest, now.saturating_add(FUTURE)],
                |row| row.get(0),
            )
            .optional()?;
        // That a store begins is no older than what it holds.
        let before = match first_young {
            Some(seq) => seq,
            None => self.db.query_row(
                "SELECT coalesce(max(seq) + 1, 0) FROM record WHERE kind <> 'begin'",
                [],
                |row| row.get(0),
            )?,
        };
        // A record of a deletion for each of them that is deleted would never end.
        let worth: i64 = self.db.query_row(
            "SELECT count(*) FROM (SELECT 1 FROM record WHERE seq < ?1 AND kind NOT IN ('retention', 'begin') LIMIT 1)",
            [before],
            |row| row.get(0),
        )?;
        if worth == 0 {
            return Ok(false);
        }
        self.delete_oldest(before, "older than store-max-age", now)?;
        let left = self.db.query_row(
            "SELECT count(*) FROM (SELECT 1 FROM record WHERE seq < ?1 AND kind NOT IN ('retention', 'begin') LIMIT 1)",
            [before.min(self.head.seq)],
            |row| row.get::<_, i64>(0),
        )?;
        self.give_back()?;
        Ok(left > 0)
    }

    /// Deletes one chunk of the oldest records below `before`. The hash of the last of them becomes the
    /// checkpoint, in the database and in a record of the chain.
    fn delete_oldest(&mut self, before: i64, why: &str, now: i64) -> Result<bool, BookError> {
        let chunk = i64::try_from(self.bounds.chunk).unwrap_or(i64::MAX);
        let last: Option<(i64, Vec<u8>)> = self
            .db
            .query_row(
                "SELECT seq, hash FROM (SELECT seq, hash FROM record WHERE seq < ?1 ORDER BY seq LIMIT ?2) \
                 ORDER BY seq DESC LIMIT 1",
                params![before, chunk],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()?;
        let Some((through, hash)) = last else {
            return Ok(false);
        };
        let body = json!({ "through": through, "hash": hex(&hash), "why": why });
        let entry = Entry::new(Kind::Retention, now, &body);
        let tx = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let there = tx.execute("DELETE FROM record WHERE seq <= ?1", [through])?;
        tx.execute("DELETE FROM alert WHERE seq <= ?1", [through])?;
        tx.execute(
            "UPDATE checkpoint SET seq = ?1, hash = ?2",
            params![through, hash],
        )?;
        // What was evicted below is deleted with the rest.
        let all = through.saturating_sub(self.checkpoint.seq);
        let gone = all.saturating_sub(i64::try_from(there).unwrap_or(all));
        let evicted = self.evicted.map(|evicted| (evicted - gone).max(0));
        if let Some(evicted) = evicted {
            tx.execute("UPDATE checkpoint SET evicted = ?1", [evicted])?;
        }
        let link = Writer::new(&tx)?.add(self.head, &entry)?;
        tx.commit()?;
        self.checkpoint = Link {
            seq: through,
            hash: hash.try_into().unwrap_or_default(),
        };
        self.evicted = evicted;
        self.advance(link);
        Ok(true)
    }

    /// Makes some room: by alerts of what comes in, whose sources can be made up, while there are any;
    /// then by the oldest records. False when there is nothing to delete.
    fn free_some(&mut self, why: &str) -> Result<bool, BookError> {
        let now = read::newest_time(&self.db)?;
        Ok(self.evict(why, now)? || self.delete_oldest(i64::MAX, why, now)?)
    }

    /// Deletes one chunk of the oldest alerts of what comes in; false when there are none.
    fn evict(&mut self, why: &str, now: i64) -> Result<bool, BookError> {
        let most = usize::try_from(self.bounds.chunk).unwrap_or(1);
        let found = loop {
            let found = evict::find(&self.db, self.searched, most)?;
            let Some(through) = found.through else {
                return Ok(false);
            };
            if !found.ingress.is_empty() {
                break found;
            }
            self.searched = through;
        };
        // Records here and there free few pages, so that this is done often.
        self.check_log()?;
        let runs = evict::runs(&self.db, &found.ingress)?;
        let entry = Entry::new(Kind::Evicted, now, &evict::body(&runs, why));
        let tx = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        if self.evicted.is_none() {
            open::allow_gaps(&tx)?;
        }
        let evicted = self.evicted.unwrap_or(0) + evict::delete(&tx, &runs)?;
        tx.execute("UPDATE checkpoint SET evicted = ?1", [evicted])?;
        let link = Writer::new(&tx)?.add(self.head, &entry)?;
        tx.commit()?;
        self.evicted = Some(evicted);
        self.searched = found.through.unwrap_or(self.searched);
        self.advance(link);
        Ok(true)
    }

    /// Deletes records until `bytes` more fit.
    fn make_room(&mut self, bytes: u64) -> Result<(), BookError> {
        self.check_log()?;
        // Rows do not fill their pages.
        let need = (bytes + bytes / 4) / PAGE + OVERHEAD;
        while self.free()? < need {
            if !self.free_some(NO_ROOM)? {
                break;
            }
        }
        Ok(())
    }

    /// Empties SQLite's log when it is too long.
    fn check_log(&self) -> Result<(), BookError> {
        if self.paths.log_size() > self.bounds.log {
            self.empty_log()?;
            if self.paths.log_size() > self.bounds.log {
                return Err(BookError::Held);
            }
        }
        Ok(())
    }

    /// Pages that can still be filled.
    fn free(&self) -> Result<u64, BookError> {
        let (all, unused) = (self.pages("page_count")?, self.pages("freelist_count")?);
        Ok(self.bounds.pages.saturating_sub(all) + unused)
    }

    fn pages(&self, name: &str) -> Result<u64, BookError> {
        let pages: i64 = self.db.pragma_query_value(None, name, |row| row.get(0))?;
        Ok(u64::try_from(pages).unwrap_or_default())
    }

    /// Brings a file that is larger than allowed below its bound, and sets the bound.
    fn fit(&mut self) -> Result<(), BookError> {
        while self.pages("page_count")? > self.bounds.pages {
            let full = self.pages("freelist_count")? == 0;
            if full && !self.free_some("store-max-size is smaller than before")? {
                break;
            }
            open::vacuum(&self.db, self.bounds.chunk)?;
            self.empty_log()?;
        }
        let pages = i64::try_from(self.bounds.pages).unwrap_or(i64::MAX);
        self.db.pragma_update(None, "max_page_count", pages)?;
        let log = i64::try_from(self.bounds.log / PAGE / 2).unwrap_or(i64::MAX);
        self.db.pragma_update(None, "wal_autocheckpoint", log)?;
        let log = i64::try_from(self.bounds.log / 2).unwrap_or(i64::MAX);
        self.db.pragma_update(None, "journal_size_limit", log)?;
        Ok(())
    }

    /// Gives unused pages back to the file system when they are many.
    fn give_back(&mut self) -> Result<(), BookError> {
        let (all, unused) = (self.pages("page_count")?, self.pages("freelist_count")?);
        if unused > 256 && unused > all / 4 {
            open::vacuum(&self.db, self.bounds.chunk)?;
        }
        Ok(())
    }

    fn empty_log(&self) -> Result<(), BookError> {
        self.db
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(())
    }

    fn advance(&mut self, link: Link) {
        self.head = link;
        self.write_head(false);
    }

    fn write_head(&self, closed: bool) {
        let head = Head {
            link: self.head,
            closed,
        };
        if let Err(error) = self.head_file.write(head) {
            tracing::warn!("{}: {error}", self.paths.head.display());
        }
    }

    /// Bytes of alerts that may go into one transaction.
    pub(super) fn batch_bytes(&self) -> u64 {
        self.bounds.log / 4
    }

    /// Takes other bounds.
    pub(super) fn set_bounds(&mut self, store: &AlertStore) -> Result<(), BookError> {
        self.bounds = Bounds::new(store);
        self.fit()
    }

    pub(super) fn head(&self) -> Link {
        self.head
    }

    /// Records in it.
    pub(super) fn records(&self) -> u64 {
        let above = self.head.seq.saturating_sub(self.checkpoint.seq);
        u64::try_from(above - self.evicted.unwrap_or(0)).unwrap_or_default()
    }

    /// Bytes on disk, all files together.
    pub(super) fn bytes(&self) -> u64 {
        self.paths.size()
    }

    /// Closes it, so that the next open has nothing to repair.
    pub(super) fn close(self) {
        if let Err(error) = self.empty_log() {
            tracing::warn!("{}: {error}", self.paths.db.display());
        }
        self.write_head(true);
    }

    /// Moves the files aside after damage was met, and says where to.
    pub(super) fn set_aside(self, now: i64) -> io::Result<PathBuf> {
        let paths = self.paths.clone();
        drop(self);
        open::set_aside(&paths, now)
    }
}

/// Bytes a record needs, about.
fn weight(entry: &Entry) -> u64 {
    let names = entry
        .columns
        .as_ref()
        .map_or(0, |c| 2 * c.id.len() + c.names.len() + c.source.len() + 128);
    u64::try_from(entry.body.len() + names + 96).unwrap_or(u64::MAX)
}

/// The statements of one transaction.
struct Writer<'t> {
    record: rusqlite::Statement<'t>,
    alert: rusqlite::Statement<'t>,
}

impl<'t> Writer<'t> {
    fn new(tx: &'t Transaction<'_>) -> Result<Self, BookError> {
        Ok(Self {
            record: tx.prepare(
                "INSERT INTO record (seq, time, kind, body, hash) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?,
            alert: tx.prepare(
                "INSERT INTO alert (seq, id, time, action, direction, feeds, indicator, source, names, flows) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?,
        })
    }

    fn add(&mut self, before: Link, entry: &Entry) -> Result<Link, BookError> {
        let link = before.next(entry.time, entry.kind.as_str(), &entry.body);
        self.record.execute(params![
            link.seq,
            entry.time,
            entry.kind.as_str(),
            entry.body,
            &link.hash[..],
        ])?;
        if let Some(c) = &entry.columns {
            self.alert.execute(params![
                link.seq,
                c.id,
                entry.time,
                c.action,
                c.direction,
                c.feeds,
                c.indicator,
                c.source,
                c.names,
                c.flows
            ])?;
        }
        Ok(link)
    }
}

/// `[1, 2, 3, 7]` as `[[1, 3], [7, 7]]`.
pub(super) fn ranges(sorted: &[i64]) -> Vec<[i64; 2]> {
    let mut ranges: Vec<[i64; 2]> = Vec::new();
    for &seq in sorted {
        match ranges.last_mut() {
            Some([_, last]) if *last + 1 == seq => *last = seq,
            _ => ranges.push([seq, seq]),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_a_row_are_one_range() {
        assert_eq!(ranges(&[]), Vec::<[i64; 2]>::new());
        assert_eq!(ranges(&[1, 2, 3, 7, 9, 10]), [[1, 3], [7, 7], [9, 10]]);
    }

    #[test]
    fn the_parts_stay_below_the_bound() {
        for max_size in [1 << 20, 10 << 20, 256 << 20, 1 << 40] {
            let bounds = Bounds::new(&AlertStore {
                file: None,
                max_age: Duration::from_secs(60),
                max_size,
            });
            assert!(bounds.pages * PAGE + bounds.log + BESIDE <= max_size);
            assert!(bounds.pages >= 150, "{bounds:?}");
        }
    }
}
