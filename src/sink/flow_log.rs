//! The file of the flow log, behind a bounded queue and a thread of its own.
//!
//! What the file does not take waits; what the queue cannot take is counted, and told in the log when
//! it works again.

use std::{
    collections::VecDeque,
    io,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use super::{NICE, SinkError, lines::LineFile};
use crate::{
    background,
    flowlog::{Line, lost},
    pulse::Pulse,
};

/// Lines that wait at most.
const LINES: usize = 65_536;
/// Pauses after a failed attempt: the first, and the longest. Each is twice the one before.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Counters of the file, since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct FlowLogStats {
    /// Flows whose line is in the file.
    pub written: u64,
    /// Flows whose line waits.
    pub waiting: u64,
    /// Flows without a line, because too many waited.
    pub lost: u64,
    /// Why the file cannot be written; `None` when it can.
    pub last_error: Option<String>,
}

/// The open log.
#[derive(Debug)]
pub struct FlowLogFile {
    queue: Arc<Queue>,
}

#[derive(Debug)]
struct Queue {
    capacity: usize,
    state: Mutex<State>,
    changed: Condvar,
    /// Of the thread, at work while the file may block it.
    pulse: Arc<Pulse>,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Line>,
    /// Flows that were lost and not told yet.
    untold: u64,
    stats: FlowLogStats,
    reopen: bool,
    until: Option<Instant>,
    finished: bool,
}

impl FlowLogFile {
    /// Opens `path` to append, creates it with mode 0640, and starts the thread.
    pub fn open(path: &Path) -> Result<Self, SinkError> {
        Self::with_capacity(path, LINES)
    }

    fn with_capacity(path: &Path, capacity: usize) -> Result<Self, SinkError> {
        let file = LineFile::create(path).map_err(|source| SinkError::FlowLog {
            path: path.to_owned(),
            source,
        })?;
        let queue = Arc::new(Queue {
            capacity,
            state: Mutex::default(),
            changed: Condvar::new(),
            pulse: Arc::default(),
        });
        let worker = Arc::clone(&queue);
        thread::Builder::new()
            .name("flow-log-file".into())
            .spawn(move || {
                background::give_way(NICE);
                worker.run(file);
            })
            .map_err(|source| SinkError::Thread {
                name: format!("flow-log:{}", path.display()),
                source,
            })?;
        Ok(Self { queue })
    }

    /// Takes a line, or counts its flows as lost; never blocks.
    pub fn write(&self, line: Line) {
        let mut state = self.queue.lock();
        if state.lines.len() < self.queue.capacity && state.until.is_none() {
            state.stats.waiting += line.flows;
            state.lines.push_back(line);
        } else {
            state.untold += line.flows;
            state.stats.lost += line.flows;
        }
        drop(state);
        self.queue.changed.notify_all();
    }

    /// Opens the path again, after a log rotation (SIGHUP).
    pub fn reopen(&self) {
        self.queue.lock().reopen = true;
        self.queue.changed.notify_all();
    }

    /// The pulse of the thread.
    pub fn pulse(&self) -> Arc<Pulse> {
        Arc::clone(&self.queue.pulse)
    }

    /// The counters.
    pub fn stats(&self) -> FlowLogStats {
        self.queue.lock().stats.clone()
    }

    /// Writes what waits, for at most `limit`; what is left then is lost.
    pub fn close(&self, limit: Duration) -> FlowLogStats {
        let until = Instant::now() + limit;
        let mut state = self.queue.lock();
        state.until = Some(until);
        self.queue.changed.notify_all();
        while !state.finished {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.queue.wait(state, left);
        }
        let left: u64 = state.lines.drain(..).map(|line| line.flows).sum();
        state.stats.waiting = 0;
        state.stats.lost += left;
        state.stats.clone()
    }
}

/// The thread ends with the log.
impl Drop for FlowLogFile {
    fn drop(&mut self) {
        self.queue.lock().until = Some(Instant::now());
        self.queue.changed.notify_all();
    }
}

/// What the thread does next.
enum Task {
    Write(Line),
    Lost(u64),
    Reopen,
}

impl Queue {
    fn run(&self, mut file: LineFile) {
        let mut failures = 0;
        while let Some(task) = self.next() {
            let work = self.pulse.work();
            let done = match &task {
                Task::Write(line) => append(&mut file, line),
                Task::Lost(flows) => {
                    let line = lost(*flows, "the queue was full", SystemTime::now());
                    append(&mut file, &line)
                }
                Task::Reopen => file.reopen(),
            };
            drop(work);
            match done {
                Ok(()) => failures = 0,
                Err(_) => failures += 1,
            }
            self.done(task, done, failures);
        }
        self.lock().finished = true;
        self.changed.notify_all();
    }

    /// The front line stays until it is written. `None`: the end.
    fn next(&self) -> Option<Task> {
        let mut state = self.lock();
        loop {
            if state.until.is_some_and(|until| Instant::now() >= until) {
                return None;
            }
            if std::mem::take(&mut state.reopen) {
                return Some(Task::Reopen);
            }
            // Lines before the gap come before the line that tells of it.
            if let Some(line) = state.lines.front() {
                return Some(Task::Write(line.clone()));
            }
            if state.untold > 0 {
                return Some(Task::Lost(state.untold));
            }
            if state.until.is_some() {
                return None;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn done(&self, task: Task, done: io::Result<()>, failures: u32) {
        let mut state = self.lock();
        let Err(error) = done else {
            match task {
                Task::Write(line) => {
                    state.lines.pop_front();
                    state.stats.waiting = state.stats.waiting.saturating_sub(line.flows);
                    state.stats.written += line.flows;
                }
                Task::Lost(flows) => state.untold = state.untold.saturating_sub(flows),
                Task::Reopen => return,
            }
            if state.stats.last_error.take().is_some() {
                tracing::info!("the flow log is written again");
            }
            return;
        };
        if state.stats.last_error.replace(error.to_string()).is_none() {
            tracing::warn!("the flow log cannot be written, its lines wait: {error}");
        }
        let (first, longest) = PAUSES;
        let pause = first * 2u32.saturating_pow(failures.saturating_sub(1).min(16));
        let end = Instant::now() + pause.min(longest);
        while !state.reopen {
            let end = state.until.map_or(end, |until| until.min(end));
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.wait(state, left);
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, limit: Duration) -> MutexGuard<'a, State> {
        self.changed
            .wait_timeout(state, limit)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn append(file: &mut LineFile, line: &Line) -> io::Result<()> {
    let mut bytes = line.text.clone().into_bytes();
    bytes.push(b'\n');
    file.append(&bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn line(n: u64) -> Line {
        Line {
            text: format!("{{\"num_flows\":{n}}}"),
            flows: n,
        }
    }

    fn sum(path: &Path) -> u64 {
        let text = fs::read_to_string(path).unwrap();
        let flows = text.lines().map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["num_flows"].as_u64().unwrap()
        });
        flows.sum()
    }

    #[test]
    fn what_does_not_fit_is_told_when_the_file_works_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flows.json");
        // /dev/full takes no byte.
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let log = FlowLogFile::with_capacity(&path, 2).unwrap();
        for n in 1..=4 {
            log.write(line(n));
        }
        let end = Instant::now() + LIMIT;
        while log.stats().last_error.is_none() {
            assert!(Instant::now() < end);
            thread::sleep(Duration::from_millis(1));
        }
        let stats = log.stats();
        assert_eq!((stats.written, stats.waiting, stats.lost), (0, 3, 7));
        fs::remove_file(&path).unwrap();
        log.reopen();
        let stats = log.close(LIMIT);
        assert_eq!((stats.written, stats.waiting, stats.lost), (3, 0, 7));
        assert_eq!(sum(&path), 10, "all flows are in some line");
    }

    #[test]
    fn what_waits_at_the_end_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flows.json");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let log = FlowLogFile::open(&path).unwrap();
        log.write(line(5));
        let stats = log.close(Duration::ZERO);
        assert_eq!((stats.written, stats.waiting, stats.lost), (0, 0, 5));
    }
}
