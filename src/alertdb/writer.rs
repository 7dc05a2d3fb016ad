//! The thread that writes: takes from the queue, appends, deletes what is old, waits and tries again.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use serde_json::json;

use super::{
    book::{Book, BookError, Entry},
    micros,
    queue::{Command, Queue, Task, Written},
    record::{Columns, Kind},
};
use crate::{
    alert::{
        Alert,
        ecs::{Observer, ecs, to_line},
    },
    config::AlertStore,
};

/// Pauses after a failure: the first, and the longest. Each is twice the one before.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// How often records that are too old are looked for.
const EXPIRE: Duration = Duration::from_secs(60);
/// Why alerts are lost.
const QUEUE_FULL: &str = "the queue was full";

/// Runs until the queue says stop.
pub(super) fn run(queue: &Queue, path: &Path, store: AlertStore, observer: Observer) {
    let mut writer = Writer {
        queue,
        path,
        store,
        observer,
        book: None,
        began_because: None,
        failures: 0,
        expire: Instant::now(),
    };
    while writer.step() {}
    if let Some(book) = writer.book.take() {
        book.close();
    }
    queue.finished();
}

struct Writer<'a> {
    queue: &'a Queue,
    path: &'a Path,
    store: AlertStore,
    observer: Observer,
    book: Option<Book>,
    /// Why the next database is a new one.
    began_because: Option<String>,
    /// In a row.
    failures: u32,
    /// When to look for old records next.
    expire: Instant,
}

impl Writer<'_> {
    /// False when it is time to end.
    fn step(&mut self) -> bool {
        if self.book.is_none() {
            let work = self.queue.pulse.work();
            let opened = self.open();
            drop(work);
            match opened {
                Ok(book) => self.book = Some(book),
                Err(error) => return self.failed(error),
            }
        }
        let task = self.queue.next();
        let work = self.queue.pulse.work();
        let result = match task {
            Task::Stop => return false,
            Task::Turn => Ok(()),
            Task::Batch(alerts, lost) => self.store_batch(&alerts, lost),
            Task::Command(command) => self.command(command),
        };
        let result = result.and_then(|()| self.delete_old());
        drop(work);
        match result {
            Ok(()) => {
                self.failures = 0;
                self.tell();
                true
            }
            Err(error) => self.failed(error),
        }
    }

    fn open(&mut self) -> Result<Book, BookError> {
        let now = SystemTime::now();
        let reason = self.began_because.as_deref();
        let (book, told) = Book::open(self.path, &self.store, micros(now), reason)?;
        self.began_because = None;
        if let Some(told) = told {
            tracing::error!("alert store {}: {told}", self.path.display());
            self.queue.repaired(now, told);
        }
        if self.queue.works() {
            tracing::info!("alert store {} works again", self.path.display());
        }
        self.queue.written(state(&book));
        Ok(book)
    }

    fn store_batch(&mut self, alerts: &[Arc<Alert>], lost: u64) -> Result<(), BookError> {
        let Some(book) = &mut self.book else {
            return Ok(());
        };
        let mut entries = Vec::with_capacity(alerts.len() + 1);
        let (mut bytes, room) = (0, book.batch_bytes());
        for alert in alerts {
            let entry = entry(alert, &self.observer);
            bytes += u64::try_from(entry.body.len()).unwrap_or(u64::MAX);
            entries.push(entry);
            if bytes > room {
                break;
            }
        }
        let count = entries.len();
        if lost > 0 {
            let body = json!({ "count": lost, "cause": QUEUE_FULL });
            let now = micros(SystemTime::now());
            entries.push(Entry::new(Kind::Lost, now, &body));
        }
        book.append(&entries)?;
        if lost > 0 {
            tracing::warn!(
                "alert store {}: {lost} alerts were not stored: {QUEUE_FULL}",
                self.path.display()
            );
        }
        if self.queue.stored(count, lost, book.head()) {
            tracing::info!("alert store {} works again", self.path.display());
        }
        Ok(())
    }

    fn command(&mut self, command: Command) -> Result<(), BookError> {
        if let Command::Observer(observer) = command {
            self.observer = observer;
            return Ok(());
        }
        let Some(book) = &mut self.book else {
            return Ok(());
        };
        match command {
            Command::Observer(_) => Ok(()),
            Command::Bounds(store) => {
                self.store = store;
                // The next open takes them as well, should this fail.
                self.expire = Instant::now();
                book.set_bounds(&self.store)
            }
            Command::Dismiss {
                which,
                person,
                note,
                reply,
            } => {
                let now = micros(SystemTime::now());
                let result = book.dismiss(&which, &person, &note, now);
                let answer = match &result {
                    Ok(answer) => answer.clone(),
                    Err(error) => Err(format!("the alert store does not work now: {error}")),
                };
                let _ = reply.try_send(answer);
                result.map(|_| ())
            }
        }
    }

    fn delete_old(&mut self) -> Result<(), BookError> {
        let now = Instant::now();
        let Some(book) = self.book.as_mut().filter(|_| now >= self.expire) else {
            return Ok(());
        };
        let more = book.expire(micros(SystemTime::now()))?;
        self.expire = if more { now } else { now + EXPIRE };
        Ok(())
    }

    fn tell(&self) {
        if let Some(book) = &self.book {
            self.queue.written(state(book));
        }
    }

    /// Says what is wrong, once for each change, and pauses; a damaged database is set aside.
    fn failed(&mut self, error: BookError) -> bool {
        if error.is_damage()
            && let Some(book) = self.book.take()
        {
            let now = SystemTime::now();
            match book.set_aside(micros(now)) {
                Ok(aside) => {
                    let told = format!(
                        "the database was damaged ({error}); it is kept as {} and a new one is begun",
                        aside.display()
                    );
                    tracing::error!("alert store {}: {told}", self.path.display());
                    self.queue.repaired(now, told.clone());
                    self.began_because = Some(told);
                    return true;
                }
                Err(why) => tracing::error!(
                    "alert store {}: damaged, and it cannot be set aside: {why}; move it away",
                    self.path.display()
                ),
            }
        }
        if self.queue.failed(error.to_string()) {
            tracing::error!(
                "alert store {}: {error}; alerts wait in its queue, other targets get them",
                self.path.display()
            );
        }
        let pause = (PAUSE.0 * 2u32.saturating_pow(self.failures.min(16))).min(PAUSE.1);
        self.failures = self.failures.saturating_add(1);
        self.queue.pause(pause)
    }
}

fn state(book: &Book) -> Written {
    Written {
        head: book.head(),
        records: book.records(),
        bytes: book.bytes(),
    }
}

fn entry(alert: &Alert, observer: &Observer) -> Entry {
    let event = ecs(alert, observer);
    Entry {
        kind: Kind::Alert,
        time: micros(alert.time),
        columns: Some(Columns::of(&event)),
        body: to_line(&event),
    }
}
