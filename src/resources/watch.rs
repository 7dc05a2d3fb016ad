//! Notices that files of a folder changed.

use std::{
    os::fd::AsFd,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};

/// An editor's several steps are one change: nothing may happen for that long.
const QUIET: Duration = Duration::from_millis(200);
/// Who writes all the time is not waited for longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// A folder that is not there, on a network, or behind links changes without an event.
const LOOK: Duration = Duration::from_secs(5);

/// Listens for changes of one folder, which need not be there. A change of what a link in it leads to
/// is noticed at the next look.
#[derive(Debug, Default)]
pub struct Watch {
    dir: Option<PathBuf>,
    /// While the folder is there and can be listened to.
    inotify: Option<Inotify>,
    looked: Option<Instant>,
}

impl Watch {
    /// Waits at most `limit` and for the end of a change; true when it is time to look at the folder.
    pub fn wait(&mut self, dir: &Path, limit: Duration) -> bool {
        if self.dir.as_deref() != Some(dir) {
            self.dir = Some(dir.to_owned());
            self.inotify = None;
            self.looked = None;
        }
        let new = self.inotify.is_none() && self.listen(dir);
        let event = self.event(limit);
        if event {
            self.settle();
        }
        let late = self.looked.is_none_or(|looked| looked.elapsed() >= LOOK);
        if new || event || late {
            self.looked = Some(Instant::now());
            return true;
        }
        false
    }

    /// Begins to listen; false when the folder is not there, or cannot be listened to.
    fn listen(&mut self, dir: &Path) -> bool {
        let wanted = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        let listening = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .and_then(|inotify| inotify.add_watch(dir, wanted).map(|_| inotify));
        match listening {
            Ok(inotify) => self.inotify = Some(inotify),
            Err(Errno::ENOENT) => {}
            Err(e) => tracing::debug!("{}: cannot be listened to: {e}", dir.display()),
        }
        self.inotify.is_some()
    }

    /// Waits for an event, at most that long.
    fn event(&mut self, limit: Duration) -> bool {
        let Some(inotify) = &self.inotify else {
            thread::sleep(limit);
            return false;
        };
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut wanted = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
        if !poll(&mut wanted, timeout).is_ok_and(|ready| ready > 0) {
            return false;
        }
        let gone = AddWatchFlags::IN_IGNORED
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_UNMOUNT;
        let lost = match inotify.read_events() {
            Ok(events) => events.iter().any(|event| event.mask.intersects(gone)),
            Err(Errno::EAGAIN) => false,
            Err(_) => true,
        };
        if lost {
            // Another folder may have the name by now.
            self.inotify = None;
        }
        true
    }

    /// Waits until nothing happens any more.
    fn settle(&mut self) {
        let start = Instant::now();
        while self.inotify.is_some() && start.elapsed() < PATIENCE && self.event(QUIET) {}
    }
}
