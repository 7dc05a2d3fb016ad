//! Ctrl-C, SIGTERM and SIGHUP as something to ask for between two steps.
//!
//! Handlers, not a blocked mask: a mask would be inherited by the daemon and by curl.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

use tokio::{
    runtime::Builder,
    select,
    signal::unix::{Signal, SignalKind, signal},
};

/// Whether one of the signals has come. From [`Stop::watch`] on they do nothing else to the process.
#[derive(Debug)]
pub(super) struct Stop {
    asked: Arc<AtomicBool>,
}

impl Stop {
    pub(super) fn watch() -> io::Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        let (send, receive) = mpsc::channel();
        let flag = Arc::clone(&asked);
        std::thread::Builder::new()
            .name("demo-signals".into())
            .spawn(move || watch(&flag, &send))?;
        match receive.recv() {
            Ok(Ok(())) => Ok(Self { asked }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::Error::other("the thread that waits for signals ended")),
        }
    }

    /// True once one of them has come.
    pub(super) fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}

/// Sets `asked` at each signal, for as long as the process lives; first tells `ready`.
fn watch(asked: &AtomicBool, ready: &mpsc::Sender<io::Result<()>>) {
    let runtime = match Builder::new_current_thread().enable_io().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    runtime.block_on(async {
        let [mut interrupt, mut terminate, mut hangup] = match handlers() {
            Ok(handlers) => handlers,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        let _ = ready.send(Ok(()));
        loop {
            select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            asked.store(true, Ordering::Relaxed);
        }
    });
}

fn handlers() -> io::Result<[Signal; 3]> {
    Ok([
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
    ])
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use nix::sys::signal::{Signal, raise};

    use super::*;

    #[test]
    fn a_signal_is_seen_and_does_not_end_the_process() {
        let stop = Stop::watch().unwrap();
        assert!(!stop.asked());
        raise(Signal::SIGTERM).unwrap();
        let start = Instant::now();
        while !stop.asked() {
            assert!(start.elapsed() < Duration::from_secs(10));
            std::thread::yield_now();
        }
    }
}
