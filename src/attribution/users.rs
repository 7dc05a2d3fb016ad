//! Numeric user ID to name, through the system's own name service.

use std::{collections::HashMap, time::Instant};

use crate::helper::{Answer, Aside, Helper, Ticket, reads};

/// Users remembered; then all are asked for again.
const CAPACITY: usize = 1024;

/// A cache of names. The name service may be a server that does not answer, so it is asked by a
/// helper and waited for no longer than the caller can.
pub(super) struct Users {
    names: HashMap<u32, Name>,
    helper: Helper,
    resolve: fn(&Aside, u32) -> Option<String>,
}

enum Name {
    Asked(Ticket<Option<String>>),
    Known(Option<String>),
}

impl Users {
    pub(super) fn new(helper: &Helper) -> Self {
        Self::with(helper, reads::user_name)
    }

    fn with(helper: &Helper, resolve: fn(&Aside, u32) -> Option<String>) -> Self {
        Self {
            names: HashMap::new(),
            helper: helper.clone(),
            resolve,
        }
    }

    /// The name of `uid`; `None` where it has none or the answer is not here by `deadline`. Only
    /// the first question waits: a late answer is there the next time.
    pub(super) fn name(&mut self, uid: u32, deadline: Instant) -> Option<String> {
        match self.names.get(&uid) {
            Some(Name::Known(name)) => name.clone(),
            Some(Name::Asked(_)) => self.take_answer(uid, Instant::now()),
            None => self.ask(uid, deadline),
        }
    }

    /// True when the name service has answered for `uid`, also that it has no name.
    pub(super) fn has_answered(&self, uid: u32) -> bool {
        matches!(self.names.get(&uid), Some(Name::Known(_)))
    }

    fn ask(&mut self, uid: u32, deadline: Instant) -> Option<String> {
        if self.names.len() >= CAPACITY {
            self.names.clear();
        }
        let resolve = self.resolve;
        let ticket = self.helper.start(move |aside| resolve(aside, uid))?;
        self.names.insert(uid, Name::Asked(ticket));
        self.take_answer(uid, deadline)
    }

    fn take_answer(&mut self, uid: u32, deadline: Instant) -> Option<String> {
        let Some(Name::Asked(ticket)) = self.names.get(&uid) else {
            return None;
        };
        match ticket.wait(deadline) {
            Answer::Done(name) => {
                self.names.insert(uid, Name::Known(name.clone()));
                name
            }
            Answer::Late => None,
            Answer::Lost => {
                self.names.remove(&uid);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn users(resolve: fn(&Aside, u32) -> Option<String>) -> Users {
        Users::with(&Helper::new("test", 1), resolve)
    }

    #[test]
    fn root_has_a_name_and_most_numbers_have_none() {
        let mut users = users(reads::user_name);
        assert_eq!(users.name(0, soon()).as_deref(), Some("root"));
        assert_eq!(users.name(4_000_000_001, soon()), None);
        assert_eq!(users.name(0, Instant::now()).as_deref(), Some("root"));
    }

    #[test]
    fn a_silent_name_service_does_not_hold_the_packet() {
        let mut users = users(|_, _| {
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
        let mut users = users(|_, uid| Some(format!("u{uid}")));
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
        let mut users = users(|_, _| None);
        for uid in 0..3000 {
            users.name(uid, soon());
        }
        assert!(users.names.len() <= CAPACITY);
    }
}
