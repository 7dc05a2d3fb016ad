//! The files of the database: names, tables, settings, and where a damaged one goes.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};

use super::book::{BookError, PAGE};

/// In the file's header (SQLite's `PRAGMA application_id`): "fgal".
const APPLICATION: i64 = 0x6667_616c;
/// The same of a store from whose middle something was evicted: "fga2". A version that does not know of
/// evictions would take the gaps for tampering; it sets this one aside, and says so.
const WITH_GAPS: i64 = 0x6667_6132;
/// Version of the tables.
const VERSION: i64 = 1;
/// Damaged databases that are kept.
const KEPT: usize = 3;
/// How long a lock of another program is waited for.
const BUSY: Duration = Duration::from_secs(2);

const TABLES: &str = "
CREATE TABLE record (
    seq INTEGER PRIMARY KEY, time INTEGER NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL, hash BLOB NOT NULL
) STRICT;
CREATE TABLE alert (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL, time INTEGER NOT NULL, action TEXT NOT NULL,
    direction TEXT NOT NULL, feeds TEXT NOT NULL, indicator TEXT NOT NULL, source TEXT NOT NULL,
    names TEXT NOT NULL, flows INTEGER NOT NULL, dismissed INTEGER
) STRICT;
CREATE INDEX alert_id ON alert (id);
CREATE TABLE checkpoint (seq INTEGER NOT NULL, hash BLOB NOT NULL) STRICT;
INSERT INTO checkpoint VALUES (0, zeroblob(32));
";

/// The files of one database.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    pub(super) db: PathBuf,
    pub(super) head: PathBuf,
}

impl Paths {
    pub(super) fn new(db: &Path) -> Self {
        Self {
            db: db.to_owned(),
            head: with(db, ".head"),
        }
    }

    /// Bytes of SQLite's write-ahead log.
    pub(super) fn log_size(&self) -> u64 {
        size(&with(&self.db, "-wal"))
    }

    /// Bytes of all of them.
    pub(super) fn size(&self) -> u64 {
        size(&self.db) + self.log_size() + size(&with(&self.db, "-shm")) + size(&self.head)
    }
}

/// The path of the head file of a database.
pub(super) fn head_path(db: &Path) -> PathBuf {
    with(db, ".head")
}

fn with(path: &Path, end: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(end);
    name.into()
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |found| found.len())
}

/// Opens the file to write; creates it with mode 0600.
pub(super) fn connect(path: &Path) -> Result<Connection, BookError> {
    // SQLite would create it as the umask says.
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY)?;
    Ok(db)
}

/// Opens the file to read.
pub(super) fn connect_to_read(path: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY)?;
    Ok(db)
}

/// Settings, and the tables where there are none; true when there were none.
pub(super) fn make_tables(db: &Connection) -> Result<bool, BookError> {
    let number = |name| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let is_new = number("schema_version")? == 0;
    if is_new {
        db.pragma_update(None, "page_size", i64::try_from(PAGE).unwrap_or(4096))?;
        // Only before the first table: lets the file shrink without being written anew.
        db.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    } else if ![APPLICATION, WITH_GAPS].contains(&number("application_id")?) {
        return Err(BookError::Damaged("it is not a store of feedgate".into()));
    } else if number("user_version")? != VERSION {
        return Err(BookError::Version(number("user_version")?));
    }
    // One fsync a transaction, and readers that do not stop the writer.
    db.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "trusted_schema", false)?;
    if is_new {
        let made = format!(
            "BEGIN IMMEDIATE; {TABLES} PRAGMA application_id = {APPLICATION}; \
             PRAGMA user_version = {VERSION}; COMMIT;"
        );
        if let Err(error) = db.execute_batch(&made) {
            let _ = db.execute_batch("ROLLBACK");
            return Err(error.into());
        }
    }
    Ok(is_new)
}

/// Records that were evicted from between the others; `None` while there was never one.
pub(super) fn gaps(db: &Connection) -> rusqlite::Result<Option<i64>> {
    let id: i64 = db.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if id != WITH_GAPS {
        return Ok(None);
    }
    let ask = "SELECT evicted FROM checkpoint LIMIT 1";
    db.query_row(ask, [], |row| row.get(0)).map(Some)
}

/// Makes the store one that can have gaps.
pub(super) fn allow_gaps(tx: &Connection) -> rusqlite::Result<()> {
    tx.execute_batch(&format!(
        "ALTER TABLE checkpoint ADD COLUMN evicted INTEGER NOT NULL DEFAULT 0; \
         PRAGMA application_id = {WITH_GAPS};"
    ))
}

/// Looks through the whole file for damage.
pub(super) fn check(db: &Connection) -> Result<(), BookError> {
    let found: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found == "ok" {
        Ok(())
    } else {
        Err(BookError::Damaged(found))
    }
}

/// Gives up to `pages` unused pages back to the file system.
pub(super) fn vacuum(db: &Connection, pages: u64) -> Result<(), BookError> {
    // Works page by page, as its rows are asked for.
    let mut statement = db.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}

/// Renames the files to `NAME.corrupt-TIME`; gives the new name of the database.
pub(super) fn set_aside(paths: &Paths, now: i64) -> io::Result<PathBuf> {
    let end = format!(".corrupt-{now}");
    let aside = with(&paths.db, &end);
    fs::rename(&paths.db, &aside)?;
    for (from, to) in [
        (with(&paths.db, "-wal"), with(&aside, "-wal")),
        (paths.head.clone(), with(&aside, ".head")),
    ] {
        match fs::rename(from, to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let _ = fs::remove_file(with(&paths.db, "-shm"));
    forget(paths);
    Ok(aside)
}

/// Removes all but the newest damaged databases: a disk that damages each one must not be filled.
fn forget(paths: &Paths) {
    let (Some(folder), Some(name)) = (paths.db.parent(), paths.db.file_name()) else {
        return;
    };
    let start = format!("{}.corrupt-", name.to_string_lossy());
    let mut times: Vec<i64> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            name.to_str()?.strip_prefix(&start)?.parse().ok()
        })
        .collect();
    times.sort_unstable();
    let old = times.len().saturating_sub(KEPT);
    for time in times.iter().take(old) {
        let old = folder.join(format!("{start}{time}"));
        for end in ["", "-wal", "-shm", ".head"] {
            let _ = fs::remove_file(with(&old, end));
        }
    }
}
