//! Summaries that wait in memory for the end of their window are kept in the state folder, at most a
//! second late, so that a kill does not lose them: the next daemon tells them.
//!
//! ```text
//! STATE/waiting    a line of totals, then a line for each summary or count of held back flows
//! ```
//!
//! Law, by verdict: flows that the kernel counted = those of alerts and summaries + held back ones +
//! those without an alert by design + the missing. The next daemon reads the kernel's counters before
//! it takes over the table, so it can name the number of the missing: what was judged in the last
//! second and waited in memory. The file is not synced: the kernel keeps what a killed process wrote.
//! A loss of power takes the last seconds with it, and the kernel's counters too.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read, Write as _},
    os::unix::fs::OpenOptionsExt,
    path::{Path as FilePath, PathBuf},
    sync::{
        Mutex, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use super::{
    engine::{Path, lock},
    meters,
};
use crate::{
    alert::{
        Alert, kept,
        suppress::{ByAction, Waiting},
    },
    alertdb::Progress,
};

const FILE: &str = "waiting";
/// A larger file is not ours.
const LIMIT: u64 = 32 << 20;
/// Totals that change while nothing waits are kept that often.
const TOTALS: Duration = Duration::from_secs(30);

/// What the kernel's counters stood at when this daemon had answered for no packet; below zero when
/// they began again from zero later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Base {
    deny: i64,
    alert: i64,
}

impl Base {
    /// From what the kernel counted and what was answered, at the same time.
    pub(super) fn new(counted: ByAction, answered: ByAction) -> Self {
        Self {
            deny: signed(counted.deny) - signed(answered.deny),
            alert: signed(counted.alert) - signed(answered.alert),
        }
    }
}

/// Flows of this daemon, by what became of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Totals {
    base: Option<Base>,
    /// In alerts that no verdict of this daemon stands for: established flows, and summaries that an
    /// earlier daemon left.
    beside: ByAction,
    /// Without an alert by design.
    silent: ByAction,
    held_back: ByAction,
    /// In alerts that were handed to the targets.
    sent: ByAction,
    store: Option<Progress>,
}

/// A line behind the totals.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    Alert(String),
    HeldBack(u64, String),
}

/// Keeps what waits.
#[derive(Debug)]
pub(super) struct Keeper {
    file: PathBuf,
    state: Mutex<State>,
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// What waited when it was written last, and when that was.
    written: Option<(u64, Totals, Instant)>,
    /// An error was told.
    failing: bool,
}

impl Keeper {
    pub(super) fn new(state_dir: &FilePath) -> Self {
        Self {
            file: state_dir.join(FILE),
            state: Mutex::default(),
            closed: AtomicBool::new(false),
        }
    }

    /// Writes down what waits, if it has changed. Blocks for the disk; while one call does, others
    /// return at once.
    pub(super) fn keep(&self, path: &Path) {
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(state)) => state.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let now = Instant::now();
        // Before what waits is looked at: what comes in between is missed rather than told twice.
        let changes = lock(&path.suppressor).changes();
        if !state.is_due(changes, &totals(path, ByAction::default()), now) {
            return;
        }
        let waiting = lock(&path.suppressor).waiting();
        let totals = totals(path, waiting.all_held_back);
        match self.write(&totals, &waiting) {
            Ok(()) => {
                state.written = Some((changes, totals, now));
                if std::mem::take(&mut state.failing) {
                    tracing::info!(
                        "{}: what waits in memory is kept again",
                        self.file.display()
                    );
                }
            }
            Err(e) if !state.failing => {
                state.failing = true;
                tracing::warn!(
                    "{}: {e}; a kill would lose the repeats and scans that wait in memory",
                    self.file.display()
                );
            }
            Err(_) => {}
        }
    }

    fn write(&self, totals: &Totals, waiting: &Waiting) -> io::Result<()> {
        let mut text = serde_json::to_string(totals)?;
        let alerts = waiting
            .summaries()
            .filter_map(|alert| kept::to_text(&alert));
        let rows = waiting.held_back.iter();
        let lines = alerts
            .map(Line::Alert)
            .chain(rows.map(|row| Line::HeldBack(row.count, row.what.clone())));
        for line in lines {
            text.push('\n');
            text.push_str(&serde_json::to_string(&line)?);
        }
        text.push('\n');
        let temporary = self.file.with_extension("tmp");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        if self.closed.load(Ordering::Relaxed) {
            return Ok(());
        }
        fs::rename(&temporary, &self.file)
    }

    /// Everything was told: nothing is left for the next daemon.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        let _ = fs::remove_file(&self.file); // there is none before the first second
    }

    /// What an earlier daemon left; `None` when it told everything.
    fn read(&self) -> io::Result<Option<String>> {
        let open = OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(&self.file);
        let file = match open {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut text = String::new();
        file.take(LIMIT).read_to_string(&mut text)?;
        Ok(Some(text))
    }
}

impl State {
    fn is_due(&self, changes: u64, totals: &Totals, now: Instant) -> bool {
        self.written.is_none_or(|(seen, written, at)| {
            let same = Totals {
                held_back: written.held_back,
                ..*totals
            };
            let old = now.saturating_duration_since(at) >= TOTALS;
            seen != changes
                || same.silent != written.silent
                || same.base != written.base
                || (old && same != written)
        })
    }
}

fn totals(path: &Path, held_back: ByAction) -> Totals {
    let counts = &path.counts;
    Totals {
        base: path.base(),
        beside: counts.beside.get(),
        silent: counts.silent.get(),
        held_back,
        sent: counts.sent.get(),
        store: path.db.load().as_ref().and_then(|db| db.progress()),
    }
}

/// What an earlier daemon left.
struct Left {
    totals: Totals,
    summaries: Vec<Alert>,
    held_back: Vec<(u64, String)>,
}

impl Left {
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let mut left = Self {
            totals: serde_json::from_str(lines.next()?).ok()?,
            summaries: Vec::new(),
            held_back: Vec::new(),
        };
        for line in lines {
            // What cannot be read is among the missing.
            match serde_json::from_str(line) {
                Ok(Line::Alert(text)) => {
                    left.summaries
                        .extend(kept::from_text(&text, meters::method_named));
                }
                Ok(Line::HeldBack(count, what)) => left.held_back.push((count, what)),
                Err(_) => {}
            }
        }
        Some(left)
    }

    /// Leaves out what is in the store already; gives the flows of its alerts that are there.
    fn compare(&mut self, path: &Path) -> ByAction {
        let reader = path.db.load().as_ref().and_then(|db| db.reader().ok());
        let (Some(reader), Some(store)) = (reader, self.totals.store) else {
            return self.totals.sent;
        };
        self.summaries.retain(|alert| {
            let id = alert.id.hyphenated().to_string();
            !reader.has(&id).unwrap_or(false)
        });
        let stored = store
            .flows
            .plus(reader.flows_above(store.head).unwrap_or_default());
        // A store that failed knows less than the other targets got.
        let sent = self.totals.sent;
        ByAction {
            deny: stored.deny.max(sent.deny),
            alert: stored.alert.max(sent.alert),
        }
    }

    /// Flows that the kernel counted and that are in no line.
    fn missing(&self, counted: ByAction, in_alerts: ByAction) -> ByAction {
        let Some(base) = self.totals.base else {
            return ByAction::default();
        };
        let totals = &self.totals;
        let mut told = in_alerts.plus(totals.silent).plus(totals.held_back);
        for summary in &self.summaries {
            told.add(summary.action, summary.count);
        }
        let missing = |counted: u64, base: i64, beside: u64, told: u64| {
            let all = signed(counted) - base + signed(beside);
            u64::try_from(all - signed(told)).unwrap_or(0)
        };
        ByAction {
            deny: missing(counted.deny, base.deny, totals.beside.deny, told.deny),
            alert: missing(counted.alert, base.alert, totals.beside.alert, told.alert),
        }
    }
}

/// Tells what a daemon that was killed had not told; `counted`: first packets that the kernel denied and
/// let pass by verdict of a daemon, where that is known.
pub(super) fn resume(keeper: &Keeper, path: &Path, counted: Option<ByAction>) {
    let text = match keeper.read() {
        Ok(None) => return,
        Ok(Some(text)) => text,
        Err(e) => return cannot_read(keeper, &e.to_string()),
    };
    let Some(mut left) = Left::parse(&text) else {
        return cannot_read(keeper, "it is damaged");
    };
    let in_alerts = left.compare(path);
    let missing = counted.map(|counted| left.missing(counted, in_alerts));
    tracing::warn!(
        "the last daemon was killed: {} summaries of repeats, scans and floods that waited in memory are told now",
        left.summaries.len()
    );
    for summary in &left.summaries {
        path.counts.beside.add(summary.action, summary.count);
    }
    let told = lock(&path.suppressor).resume(left.summaries, Instant::now());
    path.tell(told);
    for (count, what) in left.held_back {
        path.sinks.load().held_back(count, what);
    }
    if let Some(missing) = missing {
        path.report_missing(missing);
    }
}

fn cannot_read(keeper: &Keeper, why: &str) {
    tracing::warn!(
        "{}: {why}; repeats and scans that waited in memory when the last daemon ended are missing",
        keeper.file.display()
    );
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
