//! Alerts of what comes in, deleted from the middle of the chain when there is no room: their sources
//! can be made up, so they go before any alert of what goes out.
//!
//! A record of the chain names each run of records that went and the hash of its last one, so that the
//! record behind the run can be checked as ever. The oldest go first, so the runs of all these records
//! rise from the first to the last. `verify` takes a gap for tampering unless runs fill it.

use std::collections::VecDeque;

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde_json::{Value, json};

use super::{
    book::BookError,
    read,
    record::{Hash, Kind, hex, unhex},
};

/// Alerts that one step looks at; most of them may be of what goes out.
const EXAMINED: i64 = 10_000;

/// Records in a row that were deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: i64,
    pub(super) last: i64,
    /// Of the last one.
    pub(super) hash: Hash,
}

/// A look at some alerts.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Those of what comes in, sorted.
    pub(super) ingress: Vec<i64>,
    /// The last one that was looked at; `None` when there are no more.
    pub(super) through: Option<i64>,
}

/// The oldest alerts of what comes in above `after`, at most `most`; looks at a bounded number.
pub(super) fn find(db: &Connection, after: i64, most: usize) -> rusqlite::Result<Found> {
    // An alert whose record somebody deleted stays for `verify`.
    let mut ask = db.prepare(
        "SELECT a.seq, a.direction = 'ingress' AND r.seq IS NOT NULL \
         FROM alert a LEFT JOIN record r USING (seq) WHERE a.seq > ?1 ORDER BY a.seq LIMIT ?2",
    )?;
    let mut rows = ask.query([after, EXAMINED])?;
    let mut found = Found::default();
    while let Some(row) = rows.next()? {
        let seq = row.get(0)?;
        found.through = Some(seq);
        if row.get::<_, bool>(1)? {
            found.ingress.push(seq);
            if found.ingress.len() >= most {
                break;
            }
        }
    }
    Ok(found)
}

/// The runs that these records are, sorted as they are.
pub(super) fn runs(db: &Connection, sorted: &[i64]) -> Result<Vec<Run>, BookError> {
    let run = |[first, last]: [i64; 2]| -> Result<Run, BookError> {
        let hash = read::hash_of(db, last)?.and_then(|hash| hash.try_into().ok());
        let missing = || BookError::Damaged(format!("alert {last} has no record"));
        Ok(Run {
            first,
            last,
            hash: hash.ok_or_else(missing)?,
        })
    };
    super::book::ranges(sorted).into_iter().map(run).collect()
}

/// The body of the record that tells of them.
pub(super) fn body(runs: &[Run], why: &str) -> Value {
    let row = |run: &Run| json!([run.first, run.last, hex(&run.hash)]);
    json!({ "why": why, "runs": runs.iter().map(row).collect::<Vec<_>>() })
}

/// Deletes them; gives how many there were.
pub(super) fn delete(tx: &Transaction<'_>, runs: &[Run]) -> rusqlite::Result<i64> {
    let mut count = 0;
    for table in ["alert", "record"] {
        let mut delete = tx.prepare(&format!("DELETE FROM {table} WHERE seq BETWEEN ?1 AND ?2"))?;
        count = 0;
        for run in runs {
            count += delete.execute(params![run.first, run.last])?;
        }
    }
    Ok(i64::try_from(count).unwrap_or(i64::MAX))
}

/// The runs that all records of evictions tell of, in their order; one record of them is in memory.
#[derive(Debug, Default)]
pub(super) struct Runs {
    /// The record that was read last.
    after: i64,
    read: VecDeque<Run>,
}

impl Runs {
    /// Those that the records above `after` tell of.
    pub(super) fn above(after: i64) -> Self {
        Self {
            after,
            read: VecDeque::new(),
        }
    }

    /// The next run that ends above `last`, which is not used up.
    pub(super) fn peek(&mut self, db: &Connection, last: i64) -> rusqlite::Result<Option<Run>> {
        loop {
            while let Some(run) = self.read.front() {
                if run.last > last {
                    return Ok(Some(*run));
                }
                self.read.pop_front();
            }
            let next: Option<(i64, String)> = db
                .query_row(
                    "SELECT seq, body FROM record WHERE seq > ?1 AND kind = ?2 ORDER BY seq LIMIT 1",
                    params![self.after, Kind::Evicted.as_str()],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .optional()?;
            let Some((seq, body)) = next else {
                return Ok(None);
            };
            self.after = seq;
            self.read = parse(&body, seq);
        }
    }
}

/// What [`body`] wrote; a record can only tell of records before it.
#[allow(clippy::indexing_slicing)] // a missing key of a serde_json value reads as null
fn parse(body: &str, seq: i64) -> VecDeque<Run> {
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    let run = |row: &Value| {
        let run = Run {
            first: row[0].as_i64()?,
            last: row[1].as_i64()?,
            hash: unhex(row[2].as_str()?)?,
        };
        (run.first <= run.last && run.last < seq).then_some(run)
    };
    let rows = body["runs"].as_array().into_iter().flatten();
    rows.filter_map(run).collect()
}
