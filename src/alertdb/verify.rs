//! Walks the chain of records and names what was changed by other hands.
//!
//! Finds an edit, a record that is missing, put in or moved, a tail that was cut off, a beginning that
//! was cut off, and columns that differ from their record. Does not find that somebody who may write
//! the whole folder made all hashes anew from some record on, head file included: compare the head
//! with one that was noted elsewhere ([`Known::anchor`]) for that.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension};
use serde::Serialize;
use serde_json::Value;

use super::{
    ReadError,
    evict::Runs,
    head::Head,
    open::head_path,
    read::{self, Reader},
    record::{Columns, Hash, Link, hash, hex, unhex},
};

/// Records read in one transaction: a long one would keep SQLite's log from being emptied.
const CHUNK: i64 = 1_000;
/// Findings that are named.
const FINDINGS: usize = 100;

/// A head that was noted elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    seq: i64,
    hash: Hash,
}

impl From<Link> for Anchor {
    fn from(link: Link) -> Self {
        Self {
            seq: link.seq,
            hash: link.hash,
        }
    }
}

impl std::str::FromStr for Anchor {
    type Err = &'static str;

    /// `SEQ:HASH`, as `status` and `verify` print it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "write it as SEQ:HASH, the number and 64 hexadecimal digits";
        let (seq, hash) = text.split_once(':').ok_or(FORM)?;
        Ok(Self {
            seq: seq.parse().map_err(|_| FORM)?,
            hash: unhex(hash).ok_or(FORM)?,
        })
    }
}

/// What is known of the newest records from elsewhere than the database.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The head in the memory of the daemon, as `SEQ:HASH`.
    pub memory: Option<Anchor>,
    /// One that the user gives.
    pub anchor: Option<Anchor>,
}

/// The result.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// True when nothing was found.
    pub ok: bool,
    /// Records that were looked at.
    pub records: u64,
    /// Alerts among them.
    pub alerts: u64,
    /// Records that were deleted from between them for room, as the chain says.
    pub evicted: u64,
    /// Number of the first record that is there.
    pub first: i64,
    /// The newest record as `SEQ:HASH`.
    pub head: String,
    /// The last record that was deleted because it was old or for room, as `SEQ:HASH`.
    pub checkpoint: String,
    /// Alerts that the queue could not take, as recorded.
    pub lost: u64,
    /// What is wrong, the first hundred.
    pub findings: Vec<Finding>,
    /// All that is wrong.
    pub found: usize,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `edited`, `order`, `gap`, `tail`, `start`, `column`, `added`, `damage`.
    pub kind: &'static str,
    /// Of which record.
    pub seq: i64,
    /// Of which alert.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// In words.
    pub text: String,
}

/// One record as it is stored, with the columns of its alert.
struct Row {
    seq: i64,
    time: i64,
    kind: String,
    body: String,
    hash: Vec<u8>,
    columns: Option<(i64, Columns)>,
}

#[derive(Default)]
struct Walk {
    report: Report,
    /// Where the next record hangs; the hash is unknown behind a gap.
    last: i64,
    hash: Option<Vec<u8>>,
    /// What was evicted, as the chain says.
    runs: Runs,
    /// Dismissed alerts by the record that says so.
    dismissed: BTreeMap<i64, i64>,
    /// Newest records by what knows them.
    noted: Vec<(&'static str, Link)>,
}

impl Reader {
    /// Walks the whole chain.
    pub fn verify(&self, known: &Known) -> Result<Report, ReadError> {
        // Noted before the database is read: it must hold at least these.
        let noted = Head::read(&head_path(&self.path));
        let mut walk = Walk {
            noted: links(noted, known),
            ..Walk::default()
        };
        self.read(|db| {
            let start = read::checkpoint(db)?;
            (walk.last, walk.hash) = (start.seq, Some(start.hash.to_vec()));
            walk.report.first = start.seq + 1;
            walk.runs = Runs::above(start.seq);
            while in_one(db, |db| walk.chunk(db))? {}
            in_one(db, |db| walk.rest(db))
        })?;
        walk.tail(noted, known);
        let report = &mut walk.report;
        report.ok = report.found == 0;
        Ok(walk.report)
    }
}

impl Walk {
    /// Walks on a bit; false at the end.
    fn chunk(&mut self, db: &Connection) -> rusqlite::Result<bool> {
        let deleted = read::checkpoint(db)?;
        // Deleted while this walks: what is left begins there.
        if deleted.seq > self.last {
            (self.last, self.hash) = (deleted.seq, Some(deleted.hash.to_vec()));
        }
        let rows = rows(db, self.last)?;
        let more = !rows.is_empty();
        for row in rows {
            self.gap(db, row.seq - 1)?;
            self.record(row);
        }
        Ok(more)
    }

    /// Goes on to `to`, although there are no records: they were evicted, or are missing.
    fn gap(&mut self, db: &Connection, to: i64) -> rusqlite::Result<()> {
        while self.last < to {
            let run = self.runs.peek(db, self.last)?;
            let run = run.filter(|run| run.first > self.last && run.last <= to);
            let Some(run) = run else {
                self.missing(to);
                break;
            };
            if run.first > self.last + 1 {
                self.missing(run.first - 1);
            }
            let count = u64::try_from(run.last - self.last).unwrap_or_default();
            self.report.evicted += count;
            self.compare(run.last, &run.hash, None);
            (self.last, self.hash) = (run.last, Some(run.hash.to_vec()));
        }
        Ok(())
    }

    /// Records up to `to` are not there, and nothing says why.
    fn missing(&mut self, to: i64) {
        let from = self.last + 1;
        self.add("gap", from, None, missing(from, to));
        (self.last, self.hash) = (to, None);
    }

    fn add(&mut self, kind: &'static str, seq: i64, id: Option<String>, text: String) {
        self.report.found += 1;
        if self.report.findings.len() < FINDINGS {
            self.report.findings.push(Finding {
                kind,
                seq,
                id,
                text,
            });
        }
    }

    fn record(&mut self, row: Row) {
        let id = row.columns.as_ref().map(|(_, columns)| columns.id.clone());
        self.report.records += 1;
        if let Some(before) = &self.hash {
            let right = hash(before, row.seq, row.time, &row.kind, &row.body);
            if right.as_slice() != row.hash {
                let text = format!(
                    "record {} is not what was written: it, or the hash of the one before, was changed",
                    row.seq
                );
                self.add("edited", row.seq, id.clone(), text);
            }
        }
        self.compare(row.seq, &row.hash, id.as_ref());
        self.content(&row, id);
        (self.last, self.hash) = (row.seq, Some(row.hash));
    }

    /// Compares a hash with what is known of it from elsewhere.
    fn compare(&mut self, seq: i64, hash: &[u8], id: Option<&String>) {
        for (whose, link) in self.noted.clone() {
            if link.seq == seq && link.hash.as_slice() != hash {
                let text = format!("record {seq} has another hash than {whose} knows");
                self.add("order", seq, id.cloned(), text);
            }
        }
    }

    #[allow(clippy::indexing_slicing)] // a missing key of a serde_json value reads as null
    fn content(&mut self, row: &Row, id: Option<String>) {
        let body: Value = serde_json::from_str(&row.body).unwrap_or_default();
        match row.kind.as_str() {
            "alert" => {
                self.report.alerts += 1;
                let right = Columns::of(&body);
                let same = row
                    .columns
                    .as_ref()
                    .is_some_and(|(time, columns)| *time == row.time && *columns == right);
                if !same {
                    let text = format!(
                        "what alert {} is found by differs from the alert itself",
                        row.seq
                    );
                    self.add("column", row.seq, id.or(Some(right.id)), text);
                }
            }
            "dismissal" => {
                for range in body["alerts"].as_array().into_iter().flatten() {
                    let (Some(from), Some(to)) = (range[0].as_i64(), range[1].as_i64()) else {
                        continue;
                    };
                    // Within the store, whatever an edited record says.
                    for seq in from.max(self.report.first)..=to.min(row.seq) {
                        self.dismissed.insert(seq, row.seq);
                    }
                }
            }
            "lost" => self.report.lost += body["count"].as_u64().unwrap_or(0),
            "damage" => {
                let what = body["what"]
                    .as_str()
                    .unwrap_or("damage was found")
                    .to_owned();
                let at = super::rfc3339(row.time);
                self.add("damage", row.seq, None, format!("found at {at}: {what}"));
            }
            _ => {}
        }
    }

    /// Tables beside the records.
    fn rest(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let newest = read::head(db)?;
        let deleted = read::checkpoint(db)?;
        self.report.head = text(&newest);
        self.report.checkpoint = text(&deleted);
        self.report.first = deleted.seq + 1;
        self.start(db, deleted)?;
        let mut ask = db.prepare(
            "SELECT a.seq, a.id, a.dismissed, r.seq FROM alert a LEFT JOIN record r \
             ON r.seq = a.seq AND r.kind = 'alert' WHERE a.seq <= ?1 ORDER BY a.seq",
        )?;
        let mut rows = ask.query([self.last])?;
        while let Some(row) = rows.next()? {
            let (seq, id): (i64, String) = (row.get(0)?, row.get(1).unwrap_or_default());
            if row.get::<_, Option<i64>>(3)?.is_none() {
                let text = format!("alert {seq} is in the table of alerts without a record");
                self.add("added", seq, Some(id), text);
                continue;
            }
            let marked = row.get::<_, Option<i64>>(2)?.filter(|by| *by <= self.last);
            let right = self.dismissed.get(&seq).copied();
            let text = match (marked, right) {
                (Some(_), None) => "is marked as dismissed, and no record says so",
                (None, Some(_)) => "was dismissed and is marked as open",
                (Some(a), Some(b)) if a != b => "is marked as dismissed by another record",
                _ => continue,
            };
            self.add("column", seq, Some(id), format!("alert {seq} {text}"));
        }
        Ok(())
    }

    /// The beginning: what was deleted last is also said by a record of the chain.
    #[allow(clippy::indexing_slicing)] // as above
    fn start(&mut self, db: &Connection, deleted: Link) -> rusqlite::Result<()> {
        let said: Option<String> = db
            .query_row(
                "SELECT body FROM record WHERE kind = 'retention' ORDER BY seq DESC LIMIT 1",
                [],
                |row| row.get(0),
            )
            .optional()?;
        let said: Value = said
            .and_then(|body| serde_json::from_str(&body).ok())
            .unwrap_or_default();
        let same = said["through"].as_i64().unwrap_or(0) == deleted.seq
            && (deleted.seq == 0 || said["hash"].as_str() == Some(hex(&deleted.hash).as_str()));
        if !same {
            let text = format!(
                "records up to {} are missing at the beginning, and no record of the chain says that they \
                 were deleted for their age or for room",
                deleted.seq
            );
            self.add("start", deleted.seq, None, text);
        }
        Ok(())
    }

    /// The end, by what was noted of it elsewhere.
    fn tail(&mut self, noted: Option<Head>, known: &Known) {
        let furthest = self.noted.iter().max_by_key(|(_, link)| link.seq).copied();
        if let Some((whose, link)) = furthest.filter(|(_, link)| link.seq > self.last) {
            let (first, last) = (self.last + 1, link.seq);
            let text = format!(
                "{} at the end: {whose} knows record {last}",
                missing(first, last)
            );
            self.add("tail", first, None, text);
        }
        let (last, is_open) = (self.last, known.memory.is_some());
        match noted {
            None => self.add(
                "tail",
                last,
                None,
                "the file beside the database that names its newest record is missing".into(),
            ),
            Some(head) if head.closed && head.link.seq < last && !is_open => {
                let first = head.link.seq + 1;
                let text = format!(
                    "records {first} to {last} were added while no daemon had the database open"
                );
                self.add("added", first, None, text);
            }
            Some(_) => {}
        }
    }
}

/// All that is known of the newest records.
fn links(noted: Option<Head>, known: &Known) -> Vec<(&'static str, Link)> {
    let anchor = |anchor: &Anchor| Link {
        seq: anchor.seq,
        hash: anchor.hash,
    };
    let all = [
        ("the file beside the database", noted.map(|head| head.link)),
        ("the running daemon", known.memory.as_ref().map(anchor)),
        ("the head that was given", known.anchor.as_ref().map(anchor)),
    ];
    all.into_iter()
        .filter_map(|(whose, link)| Some((whose, link?)))
        .collect()
}

fn missing(from: i64, to: i64) -> String {
    if from == to {
        format!("record {from} is missing")
    } else {
        format!("records {from} to {to} are missing")
    }
}

fn text(link: &Link) -> String {
    format!("{}:{}", link.seq, hex(&link.hash))
}

/// Runs `ask` in one transaction, so that its parts see the same state.
fn in_one<T>(
    db: &Connection,
    ask: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let tx = db.unchecked_transaction()?;
    let result = ask(&tx)?;
    tx.finish()?;
    Ok(result)
}

fn rows(db: &Connection, after: i64) -> rusqlite::Result<Vec<Row>> {
    let mut ask = db.prepare(
        "SELECT r.seq, r.time, r.kind, r.body, r.hash, \
                a.time, a.id, a.action, a.direction, a.feeds, a.indicator, a.source, a.names, a.flows \
         FROM record r LEFT JOIN alert a USING (seq) WHERE r.seq > ?1 ORDER BY r.seq LIMIT ?2",
    )?;
    let rows = ask.query_map([after, CHUNK], |row| {
        let time: Option<i64> = row.get(5)?;
        let columns = match time {
            None => None,
            Some(time) => Some((
                time,
                Columns {
                    id: row.get(6)?,
                    action: row.get(7)?,
                    direction: row.get(8)?,
                    feeds: row.get(9)?,
                    indicator: row.get(10)?,
                    source: row.get(11)?,
                    names: row.get(12)?,
                    flows: row.get(13)?,
                },
            )),
        };
        Ok(Row {
            seq: row.get(0)?,
            time: row.get(1)?,
            kind: row.get(2)?,
            body: row.get(3)?,
            hash: row.get(4)?,
            columns,
        })
    })?;
    rows.collect()
}
