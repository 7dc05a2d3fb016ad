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
    /// As `Broken`, and the event before this one was lost as well, although it seemed delivered
    /// (UDP: the error of a datagram is reported at the next one).
    Refused(io::Error),
}

impl SendError {
    fn io(&self) -> &io::Error {
        match self {
            Self::Busy(error) | Self::Broken(error) | Self::Refused(error) => error,
        }
    }
}

/// Runs until the queue says stop.
pub(super) fn run(queue: &Queue, mut transport: impl Transport) {
    let mut attempts = 0;
    let mut again = None;
    let mut before = None;
    loop {
        let task = queue.next(again.clone());
        let result = match &task {
            Task::Stop => break,
            Task::Reopen => {
                reopen(queue, &mut transport);
                continue;
            }
            Task::Alert(alert) => transport.send(Event::Alert(alert)),
            Task::Lost(count, cause) => transport.send(Event::Lost(&loss(
                queue,
                LossKind::Undelivered,
                *count,
                Cow::Borrowed(cause),
            ))),
            Task::Report(count, kind, what) => {
                transport.send(Event::Lost(&loss(queue, *kind, *count, what.clone())))
            }
        };
        match result {
            Ok(()) => {
                if queue.delivered(&task) {
                    tracing::info!(sink = queue.name(), "alerts are delivered again");
                }
                (before, again, attempts) = (Some(task), None, 0);
            }
            Err(error) => {
                if let (SendError::Refused(_), Some(task)) = (&error, before.take()) {
                    queue.undelivered(&task, "the receiver refused them");
                }
                wait(queue, &error, attempts);
                (again, attempts) = (Some(task), attempts + 1);
            }
        }
    }
    queue.finished();
}

fn loss(queue: &Queue, kind: LossKind, count: u64, cause: Cow<'static, str>) -> Loss {
    Loss {
        kind,
        count,
        target: queue.name().to_owned(),
        cause,
        time: SystemTime::now(),
    }
}

/// Pauses after a failed attempt. A full buffer is an error only when it stays full.
fn wait(queue: &Queue, error: &SendError, attempts: u32) {
    let (first, longest) = match error {
        SendError::Busy(_) => BUSY,
        SendError::Broken(_) | SendError::Refused(_) => BROKEN,
    };
    let pause = (first * 2u32.saturating_pow(attempts.min(16))).min(longest);
    if pause == longest || !matches!(error, SendError::Busy(_)) {
        report(queue, error.io());
    }
    queue.pause(pause);
}

fn reopen(queue: &Queue, transport: &mut impl Transport) {
    if let Err(error) = transport.reopen() {
        report(queue, &error);
    }
}

/// Once for each change, not for each attempt.
fn report(queue: &Queue, error: &io::Error) {
    if queue.failed(error.to_string()) {
        tracing::warn!(sink = queue.name(), %error, "alerts wait in the queue");
    }
}
