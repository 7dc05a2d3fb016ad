//! Work that another process may hold up, on threads of its own.
//!
//! A process chooses how long the kernel waits for its memory map; a file may lie on a file system
//! that does not answer, a name on a server that is away. No queue thread and no look at the host
//! may wait for them, so a [`Helper`] does: it has few threads and a short queue, the asker waits
//! until its own deadline, and when all threads are stuck it goes on without at once.
//!
//! What may block takes an [`Aside`], which exists on these threads only ([`reads`]).

pub mod reads;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak,
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

/// Jobs that wait for a thread; more are refused.
const QUEUE: usize = 32;
/// A helper of which every thread is in one job for longer refuses further ones.
const BUSY: Duration = Duration::from_millis(100);
/// A thread that is in one job for longer is reported as stuck.
pub const STUCK: Duration = Duration::from_secs(2);

/// Different warnings remembered; later ones are not given.
const MAX_TOLD: usize = 256;

/// Proof that the code runs on a helper thread, where it may wait.
#[derive(Debug)]
pub struct Aside(());

type Job = Box<dyn FnOnce(&Aside) + Send>;

/// A few threads that do one kind of work; clones share them. Idle ones end with the last clone.
#[derive(Clone, Debug)]
pub struct Helper {
    shared: Arc<Shared>,
    _open: Arc<Open>,
}

/// How a helper is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulse {
    /// Threads it may have.
    pub threads: usize,
    /// Threads that are in one job for longer than [`STUCK`].
    pub stuck: usize,
    /// When the oldest of those jobs began.
    pub since: Option<Instant>,
    /// When a job ended last.
    pub answered: Option<Instant>,
}

/// The answer to a job, now or later. A job whose ticket is dropped before it begins is left out.
#[derive(Debug)]
pub struct Ticket<T> {
    answer: Receiver<T>,
    _wanted: Arc<()>,
}

/// What became of a job by a deadline.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer<T> {
    /// It has ended.
    Done(T),
    /// It has not.
    Late,
    /// It never will.
    Lost,
}

/// The helpers of a daemon, one for each kind of work, so that one that is stuck does not hold up
/// another kind.
#[derive(Clone, Debug)]
pub struct Helpers {
    /// What processes may block: their memory maps, the file system of their executable.
    pub processes: Helper,
    /// Files of container runtimes and DHCP servers.
    pub files: Helper,
    /// The name service.
    pub names: Helper,
    /// What the look for SSH sessions reads of processes.
    pub look: Helper,
    /// Files of the host that name addresses that are never blocked.
    pub host: Helper,
    /// Warnings that were given.
    told: Arc<Mutex<BTreeSet<String>>>,
}

impl Default for Helpers {
    fn default() -> Self {
        Self {
            processes: Helper::new("process-reads", 4),
            files: Helper::new("file-reads", 2),
            names: Helper::new("user-names", 1),
            look: Helper::new("ssh-look", 4),
            host: Helper::new("host-files", 4),
            told: Arc::default(),
        }
    }
}

impl Helpers {
    /// The same with another one for files of the host.
    #[must_use]
    pub fn with_host(mut self, host: Helper) -> Self {
        self.host = host;
        self
    }

    /// Each of them.
    pub fn all(&self) -> [&Helper; 5] {
        [
            &self.processes,
            &self.files,
            &self.names,
            &self.look,
            &self.host,
        ]
    }

    /// True the first time that it is asked about this warning, by whichever thread.
    pub fn is_new(&self, warning: &str) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.len() < MAX_TOLD && told.insert(warning.to_owned())
    }
}

#[derive(Debug)]
struct Shared {
    name: &'static str,
    most: usize,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    /// When the job of each thread began; `None`: it waits for one.
    begun: Vec<Option<Instant>>,
    answered: Option<Instant>,
    closed: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut state = f.debug_struct("State");
        state.field("waiting", &self.queue.len());
        state.field("begun", &self.begun).finish_non_exhaustive()
    }
}

/// Lets idle threads end when it is dropped.
#[derive(Debug)]
struct Open(Weak<Shared>);

impl Helper {
    /// A helper of at most `threads` threads, which are started when they are needed. `name` is
    /// theirs, of at most 15 bytes.
    pub fn new(name: &'static str, threads: usize) -> Self {
        let shared = Arc::new(Shared {
            name,
            most: threads.max(1),
            state: Mutex::default(),
            wake: Condvar::new(),
        });
        let open = Arc::new(Open(Arc::downgrade(&shared)));
        Self {
            shared,
            _open: open,
        }
    }

    /// The name of its threads.
    pub fn name(&self) -> &'static str {
        self.shared.name
    }

    /// Begins `job`; `None` when no thread will have time for it.
    pub fn start<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Aside) -> T + Send + 'static,
    ) -> Option<Ticket<T>> {
        let (send, answer) = sync_channel(1);
        let wanted = Arc::new(());
        let is_wanted = Arc::downgrade(&wanted);
        let job = Box::new(move |aside: &Aside| {
            if is_wanted.strong_count() > 0 {
                // An asker that did not wait for it has dropped the ticket.
                let _ = send.send(job(aside));
            }
        });
        self.shared.push(job).then_some(Ticket {
            answer,
            _wanted: wanted,
        })
    }

    /// The answer of `job`, if it is there by `deadline`.
    pub fn ask<T: Send + 'static>(
        &self,
        deadline: Instant,
        job: impl FnOnce(&Aside) -> T + Send + 'static,
    ) -> Option<T> {
        match self.start(job)?.wait(deadline) {
            Answer::Done(answer) => Some(answer),
            Answer::Late | Answer::Lost => None,
        }
    }

    /// How it is doing now.
    pub fn pulse(&self) -> Pulse {
        let state = self.shared.lock();
        let now = Instant::now();
        let stuck = || {
            let begun = state.begun.iter().flatten();
            begun.filter(move |at| now.saturating_duration_since(**at) >= STUCK)
        };
        Pulse {
            threads: self.shared.most,
            stuck: stuck().count(),
            since: stuck().min().copied(),
            answered: state.answered,
        }
    }

    /// Since when a thread has been stuck in one job, the longest of them.
    pub fn stuck_since(&self) -> Option<Instant> {
        self.pulse().since
    }
}

impl<T> Ticket<T> {
    /// Waits until `deadline`.
    pub fn wait(&self, deadline: Instant) -> Answer<T> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.answer.recv_timeout(left) {
            Ok(answer) => Answer::Done(answer),
            Err(RecvTimeoutError::Timeout) => Answer::Late,
            Err(RecvTimeoutError::Disconnected) => Answer::Lost,
        }
    }
}

/// Questions by what they are about. Each is asked again only when its answer is there, so that one that
/// gets none takes up one thread.
#[derive(Debug)]
pub struct Pending<K, T>(BTreeMap<K, Ticket<T>>);

impl<K, T> Default for Pending<K, T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord, T: Send + 'static> Pending<K, T> {
    /// The answer of `job`, or of an earlier one about the same, if it is there by `deadline`. An earlier
    /// one is not waited for.
    pub fn ask(
        &mut self,
        helper: &Helper,
        about: K,
        deadline: Instant,
        job: impl FnOnce(&Aside) -> T + Send + 'static,
    ) -> Option<T> {
        let (ticket, deadline) = match self.0.remove(&about) {
            Some(earlier) => (earlier, Instant::now()),
            None => (helper.start(job)?, deadline),
        };
        match ticket.wait(deadline) {
            Answer::Done(answer) => Some(answer),
            Answer::Lost => None,
            Answer::Late => {
                self.0.insert(about, ticket);
                None
            }
        }
    }

    /// Forgets what is not asked about any more.
    pub fn retain(&mut self, is_asked: impl Fn(&K) -> bool) {
        self.0.retain(|about, _| is_asked(about));
    }

    /// How many answers are not there yet.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when every answer has come.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Shared {
    /// A panic aborts the process, so none can have poisoned the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(self: &Arc<Self>, job: Job) -> bool {
        let mut state = self.lock();
        if state.queue.len() >= QUEUE || state.is_stuck(self.most) {
            return false;
        }
        let idle = state.begun.iter().filter(|begun| begun.is_none()).count();
        if idle <= state.queue.len() && state.begun.len() < self.most {
            let (slot, shared) = (state.begun.len(), Arc::clone(self));
            let thread = thread::Builder::new().name(self.name.into());
            if thread.spawn(move || shared.work(slot)).is_ok() {
                state.begun.push(None);
            } else if state.begun.is_empty() {
                return false;
            }
        }
        state.queue.push_back(job);
        self.wake.notify_one();
        true
    }

    /// The thread in `slot`, until the helper is dropped.
    fn work(&self, slot: usize) {
        while let Some(job) = self.next(slot) {
            job(&Aside(()));
            let mut state = self.lock();
            state.set(slot, None);
            state.answered = Some(Instant::now());
        }
    }

    fn next(&self, slot: usize) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(job) = state.queue.pop_front() {
                state.set(slot, Some(Instant::now()));
                return Some(job);
            }
            let woken = self.wake.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl State {
    fn set(&mut self, slot: usize, begun: Option<Instant>) {
        if let Some(thread) = self.begun.get_mut(slot) {
            *thread = begun;
        }
    }

    /// True when every thread of `most` is in one job for a while.
    fn is_stuck(&self, most: usize) -> bool {
        let now = Instant::now();
        let busy =
            |at: &Option<Instant>| at.is_some_and(|at| now.saturating_duration_since(at) >= BUSY);
        self.begun.len() >= most && self.begun.iter().all(busy)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            let mut state = shared.lock();
            state.closed = true;
            state.queue.clear();
            shared.wake.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    /// Occupies a thread until the sender is dropped; returns when the job has begun.
    fn block(helper: &Helper) -> (Sender<()>, Ticket<()>) {
        let (hold, held) = channel::<()>();
        let (begin, begun) = channel();
        let ticket = helper.start(move |_| {
            begin.send(()).unwrap();
            let _ = held.recv();
        });
        begun.recv_timeout(Duration::from_secs(30)).unwrap();
        (hold, ticket.unwrap())
    }

    /// As if every running job had begun this much earlier.
    fn age(helper: &Helper, by: Duration) {
        for begun in helper.shared.lock().begun.iter_mut().flatten() {
            *begun = begun.checked_sub(by).unwrap();
        }
    }

    /// As if no running job would ever take long.
    fn keep_young(helper: &Helper) {
        let later = Instant::now() + Duration::from_secs(3600);
        for begun in helper.shared.lock().begun.iter_mut().flatten() {
            *begun = later;
        }
    }

    #[test]
    fn an_answer_comes_back() {
        let helper = Helper::new("test", 2);
        assert_eq!(helper.ask(soon(), |_| 7), Some(7));
        assert_eq!(helper.ask(soon(), |_| 8), Some(8));
        assert_eq!(helper.stuck_since(), None);
    }

    #[test]
    fn a_stuck_job_holds_up_nobody_but_its_asker() {
        let helper = Helper::new("test", 2);
        let (hold, ticket) = block(&helper);
        assert_eq!(ticket.wait(Instant::now()), Answer::Late);
        assert_eq!(helper.ask(soon(), |_| 7), Some(7), "the second thread");
        // It answers before it takes its next turn.
        while helper.shared.lock().begun.iter().flatten().count() > 1 {
            thread::yield_now();
        }
        age(&helper, STUCK);
        let pulse = helper.pulse();
        assert_eq!((pulse.stuck, pulse.threads), (1, 2));
        assert!(pulse.since.is_some() && pulse.answered.is_some());
        drop(hold);
        assert_eq!(ticket.wait(soon()), Answer::Done(()));
    }

    #[test]
    fn without_a_free_thread_a_job_is_refused_at_once() {
        let helper = Helper::new("test", 2);
        let held = [block(&helper), block(&helper)];
        keep_young(&helper);
        let waiting = helper.start(|_| 7).unwrap();
        age(&helper, Duration::from_secs(3600) + BUSY);
        assert!(helper.start(|_| 8).is_none());
        assert_eq!(helper.shared.lock().begun.len(), 2, "no further thread");
        drop(held.map(|(hold, _)| hold));
        assert_eq!(waiting.wait(soon()), Answer::Done(7));
        assert_eq!(helper.ask(soon(), |_| 9), Some(9), "it goes on");
    }

    #[test]
    fn the_queue_is_bounded_and_what_nobody_waits_for_is_left_out() {
        let helper = Helper::new("test", 1);
        let (hold, _ticket) = block(&helper);
        keep_young(&helper);
        let (ran, runs) = channel();
        let mut tickets: Vec<_> = (0..QUEUE)
            .map(|at| {
                let ran = ran.clone();
                helper.start(move |_| ran.send(at).unwrap()).unwrap()
            })
            .collect();
        assert!(helper.start(|_| ()).is_none());
        let last = tickets.pop().unwrap();
        drop(tickets);
        drop(hold);
        assert_eq!(last.wait(soon()), Answer::Done(()));
        assert_eq!(runs.try_iter().collect::<Vec<_>>(), [QUEUE - 1]);
    }

    #[test]
    fn what_gets_no_answer_takes_up_one_thread() {
        let helper = Helper::new("test", 2);
        let (hold, held) = channel::<()>();
        let mut pending = Pending::default();
        let job = move |_: &Aside| held.recv().is_err();
        assert_eq!(pending.ask(&helper, 'a', Instant::now(), job), None);
        for _ in 0..9 {
            assert_eq!(pending.ask(&helper, 'a', soon(), |_| false), None);
            assert_eq!(pending.ask(&helper, 'b', soon(), |_| true), Some(true));
        }
        drop(hold);
        assert_eq!(pending.len(), 1);
        while pending.ask(&helper, 'a', Instant::now(), |_| false) != Some(true) {
            thread::yield_now();
        }
        assert!(pending.is_empty());
    }

    #[test]
    fn threads_end_with_the_last_clone() {
        let helper = Helper::new("test", 2);
        let clone = helper.clone();
        assert_eq!(helper.ask(soon(), |_| 1), Some(1));
        let shared = Arc::downgrade(&helper.shared);
        drop(helper);
        assert_eq!(clone.ask(soon(), |_| 2), Some(2));
        drop(clone);
        while shared.strong_count() > 0 {
            thread::yield_now();
        }
    }
}
