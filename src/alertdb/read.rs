//! Questions to the database: alerts by filter, one by its id, sources against indicators. Changes
//! nothing.

use std::{fmt, net::IpAddr, path::Path};

use rusqlite::{Connection, OptionalExtension, params, params_from_iter, types::Value as Sql};
use serde_json::{Value, json};

use super::{
    Anchor, GraphEdge, Known, Page, ReadError,
    open::connect_to_read,
    record::{Hash, Link, NOTHING, workload},
};
use crate::{
    alert::{
        filter::{Filter, Query, State},
        suppress::ByAction,
    },
    feed::Action,
};

/// Most alerts of one page.
pub const PAGE_ALERTS: usize = 500;
/// And most bytes of them, about.
const PAGE_BYTES: usize = 2 << 20;
/// Ids that are named when a prefix fits several.
const CANDIDATES: usize = 10;
/// Most rows of a graph.
const EDGES: usize = 5_000;

/// Which part of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The newest ones below this number.
    Before(i64),
    /// The oldest ones above this number.
    After(i64),
}

/// An open database, to be read only.
#[derive(Debug)]
pub struct Reader {
    pub(super) db: Connection,
    pub(super) path: std::path::PathBuf,
}

impl Reader {
    /// Opens the database at `path`, also while a daemon writes to it.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        // SQLite's own message names neither the file nor the reason.
        std::fs::File::open(path).map_err(|source| ReadError::Open {
            path: path.to_owned(),
            source,
        })?;
        let fail = |source| ReadError::Database {
            path: path.to_owned(),
            source,
        };
        let db = connect_to_read(path).map_err(fail)?;
        Ok(Self {
            db,
            path: path.to_owned(),
        })
    }

    /// A part of the alerts that fit, newest first, or oldest first after a number.
    pub fn list(&self, filter: &Filter, part: Part, limit: usize) -> Result<Page, ReadError> {
        self.read(|db| list(db, filter, part, limit))
    }

    /// The alert whose id begins with `id`.
    pub fn show(&self, id: &str) -> Result<Value, ReadError> {
        let found = self.read(|db| {
            let (seq, _) = match find(db, id)? {
                Ok(found) => found,
                Err(no) => return Ok(Err(no)),
            };
            let row = "SELECT r.seq, r.body, a.dismissed FROM alert a JOIN record r USING (seq) WHERE seq = ?1";
            let (item, _) = db.query_row(row, [seq], |row| Ok(item(db, row)))?;
            Ok(Ok(item))
        })?;
        found.map_err(ReadError::NotOne)
    }

    /// True when an alert has this id.
    pub fn has(&self, id: &str) -> Result<bool, ReadError> {
        self.read(|db| {
            db.prepare("SELECT 1 FROM alert WHERE id = ?1")?
                .exists([id])
        })
    }

    /// The flows of all alerts above a record.
    pub fn flows_above(&self, seq: i64) -> Result<ByAction, ReadError> {
        self.read(|db| {
            let mut ask = db.prepare("SELECT action, flows FROM alert WHERE seq > ?1")?;
            let mut rows = ask.query([seq])?;
            let mut flows = ByAction::default();
            while let Some(row) = rows.next()? {
                let action: String = row.get(0)?;
                let count = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
                for known in [Action::Alert, Action::Deny] {
                    if known.as_str() == action {
                        flows.add(known, count);
                    }
                }
            }
            Ok(flows)
        })
    }

    /// Sources against feeds and indicators, most flows first.
    pub fn graph(&self, filter: &Filter) -> Result<(Vec<GraphEdge>, bool), ReadError> {
        self.read(|db| graph(db, filter))
    }

    /// Answers a question; `head` is the newest record that the running daemon wrote, and `keeps_set`
    /// tells which feeds keep a network set.
    pub fn answer(
        &self,
        query: &Query,
        head: Option<Anchor>,
        keeps_set: impl Fn(&str) -> bool,
    ) -> Result<Value, ReadError> {
        match query {
            Query::List {
                filter,
                before,
                after,
                limit,
            } => {
                let part = match (before, after) {
                    (None, Some(seq)) => Part::After(*seq),
                    (before, _) => Part::Before(before.unwrap_or(i64::MAX)),
                };
                Ok(json!(self.list(filter, part, *limit)?))
            }
            Query::Show { id } => self.show(id),
            Query::Graph { filter } => {
                let (mut edges, more) = self.graph(filter)?;
                edges.iter_mut().for_each(|edge| edge.name_sets(&keeps_set));
                Ok(json!({ "edges": edges, "more": more }))
            }
            Query::Verify { anchor } => {
                let anchor = anchor.as_deref().map(str::parse).transpose();
                let anchor = anchor.map_err(ReadError::Anchor)?;
                let known = Known {
                    memory: head,
                    anchor,
                };
                Ok(json!(self.verify(&known)?))
            }
        }
    }

    pub(super) fn read<T>(
        &self,
        ask: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, ReadError> {
        ask(&self.db).map_err(|source| ReadError::Database {
            path: self.path.clone(),
            source,
        })
    }
}

/// Why an id names no single alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotOne {
    /// None has it.
    Unknown(String),
    /// Not the beginning of an id.
    NoId(String),
    /// Several begin so.
    Several(String, Vec<String>),
}

impl fmt::Display for NotOne {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(id) => write!(f, "no stored alert has an id that begins with {id}"),
            Self::NoId(id) => write!(
                f,
                "{id:?} is not the beginning of an alert's id: hexadecimal digits and dashes"
            ),
            Self::Several(id, some) => {
                write!(f, "{id} fits several alerts; give more of the id:")?;
                for id in some.iter().take(CANDIDATES) {
                    write!(f, "\n  {id}")?;
                }
                if some.len() > CANDIDATES {
                    f.write_str("\n  and more")?;
                }
                Ok(())
            }
        }
    }
}

/// Number and id of the alert whose id begins so.
pub(super) fn find(db: &Connection, id: &str) -> rusqlite::Result<Result<(i64, String), NotOne>> {
    let id = id.to_ascii_lowercase();
    let good =
        (1..=36).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    if !good {
        return Ok(Err(NotOne::NoId(id)));
    }
    // Above every hexadecimal digit.
    let end = format!("{id}g");
    let mut ask =
        db.prepare("SELECT seq, id FROM alert WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3")?;
    let limit = i64::try_from(CANDIDATES).unwrap_or(10) + 1;
    let found = ask
        .query_map(params![id, end, limit], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?
        .collect::<rusqlite::Result<Vec<(i64, String)>>>()?;
    Ok(match found.as_slice() {
        [] => Err(NotOne::Unknown(id)),
        [one] => Ok(one.clone()),
        several => Err(NotOne::Several(
            id,
            several.iter().map(|(_, id)| id.clone()).collect(),
        )),
    })
}

/// The numbers among these that are not dismissed.
pub(super) fn still_open(db: &Connection, alerts: &[i64]) -> rusqlite::Result<Vec<i64>> {
    let mut ask = db.prepare("SELECT 1 FROM alert WHERE seq = ?1 AND dismissed IS NULL")?;
    let mut open = Vec::new();
    for seq in alerts {
        if ask.exists([seq])? {
            open.push(*seq);
        }
    }
    Ok(open)
}

/// The numbers of all open alerts that fit, sorted.
pub(super) fn open_alerts(db: &Connection, filter: &Filter) -> rusqlite::Result<Vec<i64>> {
    let filter = Filter {
        state: State::Open,
        ..filter.clone()
    };
    let (conditions, values) = conditions(&filter);
    let mut ask = db.prepare(&format!(
        "SELECT a.seq FROM alert a WHERE {conditions} ORDER BY a.seq"
    ))?;
    ask.query_map(params_from_iter(values), |row| row.get(0))?
        .collect()
}

/// The newest record; [`Link::START`] when there is none.
pub(super) fn head(db: &Connection) -> rusqlite::Result<Link> {
    link(db, "SELECT seq, hash FROM record ORDER BY seq DESC LIMIT 1")
}

/// The last record that was deleted.
pub(super) fn checkpoint(db: &Connection) -> rusqlite::Result<Link> {
    link(db, "SELECT seq, hash FROM checkpoint LIMIT 1")
}

fn link(db: &Connection, ask: &str) -> rusqlite::Result<Link> {
    let found: Option<(i64, Vec<u8>)> = db
        .query_row(ask, [], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(found.map_or(Link::START, |(seq, hash)| Link {
        seq,
        hash: Hash::try_from(hash).unwrap_or(NOTHING),
    }))
}

/// The hash stored with a record.
pub(super) fn hash_of(db: &Connection, seq: i64) -> rusqlite::Result<Option<Vec<u8>>> {
    db.query_row("SELECT hash FROM record WHERE seq = ?1", [seq], |row| {
        row.get(0)
    })
    .optional()
}

/// The time of the newest record.
pub(super) fn newest_time(db: &Connection) -> rusqlite::Result<i64> {
    let found = db.query_row(
        "SELECT time FROM record ORDER BY seq DESC LIMIT 1",
        [],
        |row| row.get(0),
    );
    Ok(found.optional()?.unwrap_or(0))
}

fn list(db: &Connection, filter: &Filter, part: Part, limit: usize) -> rusqlite::Result<Page> {
    let newest = head(db)?.seq;
    let (mut conditions, mut values) = conditions(filter);
    let order = match part {
        Part::Before(seq) => {
            conditions.push_str(" AND a.seq < ?");
            values.push(seq.into());
            "DESC"
        }
        Part::After(seq) => {
            conditions.push_str(" AND a.seq > ?");
            values.push(seq.into());
            "ASC"
        }
    };
    let limit = limit.min(PAGE_ALERTS);
    // One more tells whether there are more.
    values.push(
        i64::try_from(limit)
            .unwrap_or(i64::MAX)
            .saturating_add(1)
            .into(),
    );
    let mut ask = db.prepare(&format!(
        "SELECT r.seq, r.body, a.dismissed FROM alert a JOIN record r USING (seq) \
         WHERE {conditions} ORDER BY a.seq {order} LIMIT ?"
    ))?;
    let mut rows = ask.query(params_from_iter(values))?;
    let (mut alerts, mut bytes, mut more) = (Vec::new(), 0, false);
    while let Some(row) = rows.next()? {
        if alerts.len() == limit || bytes > PAGE_BYTES {
            more = true;
            break;
        }
        let (item, size) = item(db, row);
        bytes += size;
        alerts.push(item);
    }
    Ok(Page {
        alerts,
        more,
        newest,
    })
}

/// One alert as it is shown, and the bytes of its body. Columns that were spoiled read as null: the
/// rest is worth showing, and `verify` names them.
fn item(db: &Connection, row: &rusqlite::Row<'_>) -> (Value, usize) {
    let seq: i64 = row.get(0).unwrap_or_default();
    let body: String = row.get(1).unwrap_or_default();
    let dismissed: Option<i64> = row.get(2).unwrap_or_default();
    let alert: Value = serde_json::from_str(&body).unwrap_or_default();
    let mut item = json!({
        "seq": seq,
        "state": if dismissed.is_some() { "dismissed" } else { "open" },
        "alert": alert,
    });
    if let (Some(at), Some(item)) = (dismissed, item.as_object_mut()) {
        item.insert("dismissed".into(), dismissal(db, at));
    }
    (item, body.len())
}

/// Who dismissed, when and why.
fn dismissal(db: &Connection, seq: i64) -> Value {
    let found = db.query_row(
        "SELECT time, body FROM record WHERE seq = ?1 AND kind = 'dismissal'",
        [seq],
        |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)),
    );
    let Ok((time, body)) = found else {
        return json!({ "seq": seq });
    };
    let mut body: Value = serde_json::from_str(&body).unwrap_or_default();
    json!({
        "seq": seq,
        "at": super::rfc3339(time),
        "by": body.get_mut("by").map(Value::take),
        "note": body.get_mut("note").map(Value::take),
    })
}

fn graph(db: &Connection, filter: &Filter) -> rusqlite::Result<(Vec<GraphEdge>, bool)> {
    let (conditions, mut values) = conditions(filter);
    values.push(
        i64::try_from(EDGES)
            .unwrap_or(i64::MAX)
            .saturating_add(1)
            .into(),
    );
    let mut ask = db.prepare(&format!(
        "SELECT g.*, r.body FROM ( \
            SELECT a.source, a.feeds, a.indicator, a.action, a.direction, \
                   total(a.flows) AS flows, count(*), min(a.time), max(a.time), max(a.seq) AS newest \
            FROM alert a WHERE {conditions} \
            GROUP BY a.source, a.feeds, a.indicator, a.action, a.direction \
            ORDER BY 6 DESC, 1, 3 LIMIT ? \
         ) g LEFT JOIN record r ON r.seq = g.newest ORDER BY 6 DESC, 1, 3"
    ))?;
    let rows = ask.query_map(params_from_iter(values), |row| {
        let feeds: String = row.get(1)?;
        // total() is a float: sums of counts that are not ours may be above 64 bits.
        let flows: f64 = row.get(5)?;
        let source: String = row.get(0)?;
        // A name in `source` may be anything; in the event each has its place.
        let body: String = row.get(10).unwrap_or_default();
        let event: Value = serde_json::from_str(&body).unwrap_or_default();
        Ok(GraphEdge {
            node: workload(&event).unwrap_or_else(|| source.clone()),
            source,
            network_sets: Vec::new(),
            feeds: feeds
                .split(',')
                .filter(|f| !f.is_empty())
                .map(str::to_owned)
                .collect(),
            indicator: row.get(2)?,
            action: row.get(3)?,
            direction: row.get(4)?,
            flows: whole(flows),
            alerts: row.get(6)?,
            first: super::rfc3339(row.get(7)?),
            last: super::rfc3339(row.get(8)?),
        })
    })?;
    let mut edges = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    let more = edges.len() > EDGES;
    edges.truncate(EDGES);
    Ok((edges, more))
}

/// A sum of counts as a number that JSON readers hold exactly.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // clamped before
fn whole(sum: f64) -> u64 {
    const EXACT: f64 = 9_007_199_254_740_991.0; // 2^53 - 1
    sum.clamp(0.0, EXACT) as u64
}

/// The filter in SQL, over table `a`; every value is a parameter.
fn conditions(filter: &Filter) -> (String, Vec<Sql>) {
    let mut text = "1".to_owned();
    let mut values: Vec<Sql> = Vec::new();
    let mut add = |condition: &str, value: Option<Sql>| {
        text.push_str(" AND ");
        text.push_str(condition);
        values.extend(value);
    };
    if let Some(since) = filter.since {
        add("a.time >= ?", Some(since.into()));
    }
    if let Some(feed) = &filter.feed {
        add("instr(a.feeds, ?) > 0", Some(format!(",{feed},").into()));
    }
    if let Some(source) = &filter.source {
        let wanted = match source.parse::<IpAddr>() {
            Ok(address) => format!("\n{address}\n"),
            Err(_) => source.to_lowercase(),
        };
        add("instr(a.names, ?) > 0", Some(wanted.into()));
    }
    if let Some(action) = filter.action {
        add("a.action = ?", Some(action.as_str().to_owned().into()));
    }
    match filter.state {
        State::Open => add("a.dismissed IS NULL", None),
        State::Dismissed => add("a.dismissed IS NOT NULL", None),
        State::All => {}
    }
    (text, values)
}
