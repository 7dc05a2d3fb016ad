//! Ctrl-C, SIGTERM and SIGHUP as something to ask for between two steps.

use std::os::fd::AsFd as _;

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};

/// The signals, held back from this thread and those it starts until the drop. Children start
/// without them held back (std resets the mask).
#[derive(Debug)]
pub(super) struct Stop {
    fd: SignalFd,
    before: SigSet,
}

impl Stop {
    pub(super) fn watch() -> nix::Result<Self> {
        let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
        let fd = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let before = SigSet::thread_get_mask()?;
        signals.thread_block()?;
        Ok(Self { fd, before })
    }

    /// True once one of them has come. It stays pending, so that it is true from then on.
    pub(super) fn asked(&self) -> bool {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        // What is pending was asked for and answered; it must not end the process now.
        while let Ok(Some(_)) = self.fd.read_signal() {}
        let _ = self.before.thread_set_mask();
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::raise;

    use super::*;

    #[test]
    fn a_signal_is_seen_and_does_not_end_the_process() {
        let stop = Stop::watch().unwrap();
        assert!(!stop.asked());
        raise(Signal::SIGTERM).unwrap();
        assert!(stop.asked());
        assert!(stop.asked(), "it stays");
    }
}
