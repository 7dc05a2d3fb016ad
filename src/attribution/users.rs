//! Numeric user ID to name, through the system's own name service.

use std::{
    collections::HashMap,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Instant,
};

use nix::unistd::{Uid, User};

/// Users remembered; then all are asked for again.
const CAPACITY: usize = 1024;

/// A cache of names. The name service may be a server that does not answer, so it is asked on a
/// thread of its own and waited for no longer than the caller can.
pub(super) struct Users {
    names: HashMap<u32, Name>,
    worker: Option<Worker>,
    resolve: fn(u32) -> Option<String>,
}

enum Name {
    Asked,
    Known(Option<String>),
}

struct Worker {
    ask: Sender<u32>,
    answers: Receiver<(u32, Option<String>)>,
}

impl Users {
    pub(super) fn new() -> Self {
        Self::with(|uid| {
            User::from_uid(Uid::from_raw(uid))
                .ok()?
                .map(|user| user.name)
        })
    }

    fn with(resolve: fn(u32) -> Option<String>) -> Self {
        Self {
            names: HashMap::new(),
            worker: None,
            resolve,
        }
    }

    /// The name of `uid`; `None` where it has none or the answer is not here by `deadline`. Only
    /// the first question waits: a late answer is there the next time.
    pub(super) fn name(&mut self, uid: u32, deadline: Instant) -> Option<String> {
        self.take_answers();
        match self.names.get(&uid) {
            Some(Name::Known(name)) => name.clone(),
            Some(Name::Asked) => None,
            None => self.ask(uid, deadline),
        }
    }

    /// True when the name service has answered for `uid`, also that it has no name.
    pub(super) fn has_answered(&self, uid: u32) -> bool {
        matches!(self.names.get(&uid), Some(Name::Known(_)))
    }

    fn take_answers(&mut self) {
        if let Some(worker) = &self.worker {
            for (uid, name) in worker.answers.try_iter() {
                self.names.insert(uid, Name::Known(name));
            }
        }
    }

    fn ask(&mut self, uid: u32, deadline: Instant) -> Option<String> {
        if self.names.len() >= CAPACITY {
            self.names.clear();
            self.worker = None; // its answers belong to the entries just forgotten
        }
        let worker = self
            .worker
            .get_or_insert_with(|| Worker::start(self.resolve));
        self.names.insert(uid, Name::Asked);
        worker.ask.send(uid).ok()?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let (answered, name) = worker.answers.recv_timeout(left).ok()?;
            self.names.insert(answered, Name::Known(name.clone()));
            if answered == uid {
                return name;
            }
        }
    }
}

impl Worker {
    /// The thread ends when the cache is dropped.
    fn start(resolve: fn(u32) -> Option<String>) -> Self {
        let (ask, questions) = channel();
        let (answer, answers) = channel();
        // Without a thread the channels are closed, and users stay without names.
        let _ = thread::Builder::new()
            .name("user-names".into())
            .spawn(move || {
                for uid in questions {
                    if answer.send((uid, resolve(uid))).is_err() {
                        return;
                    }
                }
            });
        Self { ask, answers }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn root_has_a_name_and_most_numbers_have_none() {
        let mut users = Users::new();
        assert_eq!(users.name(0, soon()).as_deref(), Some("root"));
        assert_eq!(users.name(4_000_000_001, soon()), None);
        assert_eq!(users.name(0, Instant::now()).as_deref(), Some("root"));
    }

    #[test]
    fn a_silent_name_service_does_not_hold_the_packet() {
        let mut users = Users::with(|_| {
            loop {
                thread::park()
            }
        });
        let start = Instant::now();
        assert_eq!(users.name(1, start + Duration::from_millis(5)), None);
        assert_eq!(users.name(1, start), None);
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "it was waited for"
        );
    }

    #[test]
    fn a_late_answer_is_there_the_next_time() {
        let mut users = Users::with(|uid| Some(format!("u{uid}")));
        assert_eq!(
            users
                .name(1, Instant::now() - Duration::from_secs(1))
                .unwrap_or("u1".into()),
            "u1"
        );
        assert_eq!(users.name(2, soon()).as_deref(), Some("u2"));
        assert_eq!(users.name(1, Instant::now()).as_deref(), Some("u1"));
    }

    #[test]
    fn memory_is_bounded() {
        let mut users = Users::with(|_| None);
        for uid in 0..3000 {
            users.name(uid, soon());
        }
        assert!(users.names.len() <= CAPACITY);
    }
}
