//! The thread of one sink: takes from the queue, delivers, waits and tries again.

use std::{
    borrow::Cow,
    io,
    time::{Duration, SystemTime},
};

use super::queue::{Queue, Task};
use crate::alert::line::{Event, Loss, LossKind};

/// Pauses before a new attempt at a broken target: the first, and the longest. Each is twice the
/// one before.
const BROKEN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// The same where the receiver is there but its buffer is full.
const BUSY: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));

/// A way to deliver one event. Connects when it has to.
pub(super) trait Transport {
    /// Delivers `event` whole, or nothing of it that the receiver would take for a line.
    fn send(&mut self, event: Event<'_>) -> Result<(), SendError>;

    /// Opens the target again, where that means anything.
    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why an event was not delivered.
#[derive(Debug)]
pub(super) enum SendError {
    /// The receiver's buffer is full; it will take the event soon.
    Busy(io::Error),
    /// Broken; a new attempt connects again.
    Broken(io::Error),
    /// The receiver closed the connection, as it may when it restarts.
    Closed(io::Error),
    /// The socket takes no line of that length; one of so many bytes may do.
    TooLong(usize),
}

impl SendError {
    fn text(&self) -> String {
        match self {
            Self::Busy(error) | Self::Broken(error) | Self::Closed(error) => error.to_string(),
            Self::TooLong(_) => "the line is too long for the socket".to_owned(),
        }
    }
}

/// Runs until the queue says stop.
pub(super) fn run(queue: &Queue, mut transport: impl Transport) {
    let mut attempts = 0;
    let mut again = None;
    loop {
        let task = queue.next(again.clone());
        let work = queue.pulse.work();
        let result = match &task {
            Task::Stop => break,
            Task::Reopen => {
                reopen(queue, &mut transport);
                continue;
            }
            Task::Alert(alert) => transport.send(Event::Alert(alert)),
            Task::Lost(count, cause) => {
                transport.send(Event::Lost(&Loss::undelivered(queue, *count, cause)))
            }
            Task::Report(count, kind, what) => {
                transport.send(Event::Lost(&Loss::of(queue, *kind, *count, what.clone())))
            }
        };
        drop(work);
        match result {
            Ok(()) => {
                if queue.delivered(&task) {
                    tracing::info!(sink = queue.name(), "alerts are delivered again");
                }
                (again, attempts) = (None, 0);
            }
            Err(error) => {
                queue.pause(pause(queue, &error, attempts));
                (again, attempts) = (Some(task), attempts + 1);
            }
        }
    }
    queue.finished();
}

impl Loss {
    /// Alerts that the queue's target did not get.
    pub(super) fn undelivered(queue: &Queue, count: u64, cause: &'static str) -> Self {
        Self::of(queue, LossKind::Undelivered, count, Cow::Borrowed(cause))
    }

    /// A number to tell the queue's target.
    pub(super) fn of(queue: &Queue, kind: LossKind, count: u64, cause: Cow<'static, str>) -> Self {
        Self {
            kind,
            count,
            target: queue.name().to_owned(),
            cause,
            time: SystemTime::now(),
        }
    }
}

/// The pause after a failed attempt, which is told. A full buffer is an error only when it stays full.
pub(super) fn pause(queue: &Queue, error: &SendError, attempts: u32) -> Duration {
    let (first, longest) = match error {
        SendError::Busy(_) => BUSY,
        SendError::Broken(_) | SendError::Closed(_) | SendError::TooLong(_) => BROKEN,
    };
    let pause = (first * 2u32.saturating_pow(attempts.min(16))).min(longest);
    if pause == longest || !matches!(error, SendError::Busy(_)) {
        report(queue, &error.text());
    }
    pause
}

fn reopen(queue: &Queue, transport: &mut impl Transport) {
    if let Err(error) = transport.reopen() {
        report(queue, &error.to_string());
    }
}

/// Once for each change, not for each attempt.
fn report(queue: &Queue, error: &str) {
    if queue.failed(error.to_owned()) {
        tracing::warn!(sink = queue.name(), %error, "alerts wait in the queue");
    }
}
