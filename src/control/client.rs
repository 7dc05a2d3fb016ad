//! The side of the client commands.

use std::{
    fmt, io,
    os::{fd::AsFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
};

use super::{BEGUN, Request, Response, connect::connect, peer::Credentials, standing};

/// A load of very many elements may take this long; nearly everything answers at once.
const ANSWER: Duration = Duration::from_secs(180);
/// Pulls of many slow feeds take their turns: each may take an hour (`[pull] total-timeout`).
const PULLS: Duration = Duration::from_secs(6 * 3600);
/// The same for the removal of the table, which may have to wait for a load of a few seconds.
const DOWN: Duration = Duration::from_secs(20);
/// Enough for a machine that is busy, and little enough that every command ends within ten seconds.
const PATIENCE: Patience = Patience {
    silence: Duration::from_secs(7),
    doubt: Duration::from_secs(3),
    probe: Duration::from_secs(3),
};
/// Read at once.
const CHUNK: usize = 64 << 10;

/// Why a command got no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no feedgate answers on {}: {source}; start it with `systemctl start feedgate` or `feedgate run`, \
         or name its configuration with --config", path.display()
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The socket is not for this user.
    #[error("no permission for {}: run this as root or as a member of group feedgate", path.display())]
    Permission {
        /// The socket.
        path: PathBuf,
    },
    /// The daemon stands still, or takes too long.
    #[error(transparent)]
    Unanswered(Box<Unanswered>),
    /// The conversation broke off.
    #[error("feedgate did not answer on {}: {source}; its log says more (journalctl -u feedgate)", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// The daemon says no.
    #[error("{0}")]
    Refused(String),
}

/// What is known of a daemon that did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Unanswered {
    /// The socket.
    pub path: PathBuf,
    /// The daemon's process, where the kernel tells.
    pub pid: Option<u32>,
    /// Its state, the letter of proc_pid_stat(5): `T` is stopped.
    pub state: Option<char>,
    /// How long it was waited for.
    pub waited: Duration,
    /// It gave signs of life to the end.
    pub lives: bool,
    /// For a command that changes something: whether it was begun. What was not begun is not carried
    /// out later either.
    pub begun: Option<bool>,
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, seconds) = (self.path.display(), self.waited.as_secs());
        let pid = self.pid.map(|pid| format!(" (pid {pid})"));
        let pid = pid.unwrap_or_default();
        if self.lives {
            write!(
                f,
                "the daemon{pid} lives, but has not answered on {path} for {seconds} s: a long load holds it up, or \
                 it hangs; `feedgate status` and its log say more (journalctl -u feedgate)"
            )?;
        } else {
            let what = match self.pid {
                Some(pid) => standing::advice(pid, self.state),
                None => "it is stopped, or hangs".into(),
            };
            write!(
                f,
                "the daemon{pid} does not answer on {path} (waited {seconds} s): {what}; `systemctl restart feedgate` \
                 starts it again; deny sets stay in force"
            )?;
        }
        match self.begun {
            None => Ok(()),
            Some(true) => f.write_str("; the command was begun, and may still be carried out"),
            Some(false) => f.write_str("; the command was not begun, and is not carried out later (a daemon of 0.1 may do so)"),
        }
    }
}

/// Sends one request and waits for its answer.
pub fn call(path: &Path, request: &Request) -> Result<serde_json::Value, ClientError> {
    call_with(path, request, &[])
}

/// Asks what is odd about a feed; `known` is JSON as [`Request::Lint`] tells it.
pub fn lint(path: &Path, feed: &str, known: &[u8]) -> Result<serde_json::Value, ClientError> {
    let feed = Some(feed.to_owned());
    let bytes = u64::try_from(known.len()).unwrap_or(u64::MAX);
    call_with(path, &Request::Lint { feed, bytes }, known)
}

/// Sends a text for a pushed feed.
pub fn push(path: &Path, feed: &str, text: &[u8]) -> Result<serde_json::Value, ClientError> {
    let bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
    call_with(
        path,
        &Request::Push {
            feed: feed.to_owned(),
            bytes,
        },
        text,
    )
}

/// Sends one request and the text behind it, of the length that the request says.
pub fn call_with(
    path: &Path,
    request: &Request,
    body: &[u8],
) -> Result<serde_json::Value, ClientError> {
    talk(path, request, body, PATIENCE)
}

fn talk(
    path: &Path,
    request: &Request,
    body: &[u8],
    patience: Patience,
) -> Result<serde_json::Value, ClientError> {
    let begin = Instant::now();
    let stream = match connect(path, patience.silence) {
        Ok(stream) => stream,
        Err(source) => return Err(no_connection(path, source, begin.elapsed())),
    };
    let mut line = serde_json::to_vec(request).map_err(|e| broken(path, e.into()))?;
    line.push(b'\n');
    let mut talk = Talk::new(path, stream, vec![body, &line], patience);
    let ended = talk.run(begin, limit(request));
    match ended.and_then(|answered| talk.response(answered)) {
        Ok(Some(Response::Ok(value))) => Ok(value),
        Ok(Some(Response::Error(message))) => Err(ClientError::Refused(message)),
        Ok(None) => Err(ClientError::Unanswered(Box::new(
            talk.unanswered(request, begin.elapsed()),
        ))),
        Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            Err(ClientError::Permission { path: path.into() })
        }
        Err(source) => Err(broken(path, source)),
    }
}

fn no_connection(path: &Path, source: io::Error, waited: Duration) -> ClientError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied => ClientError::Permission { path },
        // So many clients wait for it already that there is no place for another.
        io::ErrorKind::TimedOut => ClientError::Unanswered(Box::new(Unanswered {
            path,
            pid: None,
            state: None,
            waited,
            lives: false,
            begun: None,
        })),
        _ => ClientError::NotRunning { path, source },
    }
}

fn broken(path: &Path, source: io::Error) -> ClientError {
    ClientError::Broken {
        path: path.into(),
        source,
    }
}

/// How long an answer may take while the daemon gives signs of life.
fn limit(request: &Request) -> Duration {
    match request {
        // Whoever wants out does not wait long.
        Request::Down => DOWN,
        Request::Refresh { .. } | Request::Lint { .. } => PULLS,
        _ => ANSWER,
    }
}

/// How long a daemon is waited for that gives no sign of life.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// After this time it stands still.
    silence: Duration,
    /// Daemons of 0.1 give no signs: after this time without any, one is asked for on another connection.
    doubt: Duration,
    /// And waited for this long.
    probe: Duration,
}

/// One request and its answer.
struct Talk<'a> {
    patience: Patience,
    path: &'a Path,
    stream: UnixStream,
    /// What is still to be sent; the last one is first.
    unsent: Vec<&'a [u8]>,
    /// Everything that came: white space as signs of life, then the answer's line.
    heard: Vec<u8>,
    /// The daemon is one that gives signs of life.
    marked: bool,
    /// It was not silent for too long.
    lives: bool,
}

impl<'a> Talk<'a> {
    fn new(path: &'a Path, stream: UnixStream, unsent: Vec<&'a [u8]>, patience: Patience) -> Self {
        Self {
            patience,
            path,
            stream,
            unsent,
            heard: Vec::new(),
            marked: false,
            lives: false,
        }
    }

    /// Sends and listens; false when the daemon fell silent, or took too long.
    fn run(&mut self, begin: Instant, limit: Duration) -> io::Result<bool> {
        let Patience { silence, doubt, .. } = self.patience;
        let mut last = Instant::now();
        let mut doubted = false;
        while !self.is_whole() {
            let silent = last.elapsed();
            self.lives = silent < silence;
            if !self.lives || begin.elapsed() >= limit {
                return Ok(false);
            }
            let doubts = !self.marked && !doubted;
            if doubts && silent >= doubt {
                doubted = !answers(self.path, self.patience);
                if !doubted {
                    last = Instant::now();
                }
                continue;
            }
            let next = if doubts { doubt } else { silence };
            let left = limit.saturating_sub(begin.elapsed());
            if self.turn(next.saturating_sub(silent).min(left))? {
                last = Instant::now();
            }
        }
        Ok(true)
    }

    /// Waits until something can be sent or heard; true when something was.
    fn turn(&mut self, longest: Duration) -> io::Result<bool> {
        let mut wanted = PollFlags::POLLIN;
        wanted.set(PollFlags::POLLOUT, !self.unsent.is_empty());
        let mut fds = [PollFd::new(self.stream.as_fd(), wanted)];
        // Rounded up, so that it does not spin through the last millisecond.
        let wait = PollTimeout::try_from(longest + Duration::from_millis(1));
        match poll(&mut fds, wait.unwrap_or(PollTimeout::MAX)) {
            Ok(0) | Err(Errno::EINTR) => return Ok(false),
            Ok(_) => {}
            Err(e) => return Err(e.into()),
        }
        // What came counts more than a broken pipe: a daemon that refuses early has answered already.
        Ok(self.hear()? || self.say())
    }

    /// True when something was sent.
    fn say(&mut self) -> bool {
        use std::os::fd::AsRawFd;
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let Some(part) = self.unsent.last_mut() else {
            return false;
        };
        match send(self.stream.as_raw_fd(), part, flags) {
            Ok(sent) => {
                *part = part.get(sent..).unwrap_or_default();
                self.unsent.retain(|part| !part.is_empty());
                return true;
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => self.unsent.clear(),
        }
        false
    }

    /// True when something came.
    fn hear(&mut self) -> io::Result<bool> {
        use std::os::fd::AsRawFd;
        let mut chunk = vec![0; CHUNK];
        match recv(self.stream.as_raw_fd(), &mut chunk, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the connection was closed",
            )),
            Ok(count) => {
                self.marked = true;
                self.heard.extend(chunk.iter().take(count));
                Ok(true)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// The whole answer is there.
    fn is_whole(&self) -> bool {
        self.heard.last() == Some(&b'\n')
    }

    /// The answer; `None` without one. After this the daemon cannot begin the request any more: what it
    /// said before is heard here.
    fn response(&mut self, answered: bool) -> io::Result<Option<Response>> {
        if !answered {
            self.stream.shutdown(std::net::Shutdown::Both)?;
            while matches!(self.hear(), Ok(true)) {}
        }
        if self.is_whole() {
            Ok(Some(serde_json::from_slice(&self.heard)?))
        } else {
            Ok(None)
        }
    }

    fn unanswered(&self, request: &Request, waited: Duration) -> Unanswered {
        let pid = Credentials::process(&self.stream).ok();
        let pid = pid.and_then(|daemon| daemon.pid);
        let whitespace = |byte: &u8| byte.is_ascii_whitespace() && *byte != BEGUN;
        // A daemon of 0.1 that works on it does not say so.
        let begun = !self.heard.iter().all(whitespace) || (self.lives && !self.marked);
        Unanswered {
            path: self.path.into(),
            pid,
            state: pid.and_then(|pid| standing::state(Path::new("/proc"), pid)),
            waited,
            lives: self.lives,
            begun: (!request.only_asks()).then_some(begun),
        }
    }
}

/// True when the daemon answers anything on another connection.
fn answers(path: &Path, patience: Patience) -> bool {
    let begin = Instant::now();
    let Ok(stream) = connect(path, patience.probe) else {
        return false;
    };
    let line = b"{\"command\":\"status\"}\n";
    let mut talk = Talk::new(path, stream, vec![line], patience);
    while !talk.marked && begin.elapsed() < patience.probe {
        let left = patience.probe.saturating_sub(begin.elapsed());
        if talk.turn(left).is_err() {
            return false;
        }
    }
    talk.marked
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        os::unix::net::UnixListener,
        sync::mpsc,
        thread,
    };

    use super::*;

    /// Short enough for a test, long enough for a busy machine to keep the beat of [`BEAT`].
    const SHORT: Patience = Patience {
        silence: Duration::from_secs(2),
        doubt: Duration::from_secs(1),
        probe: Duration::from_millis(500),
    };
    const BEAT: Duration = Duration::from_millis(100);

    /// One request to a daemon that does as `serve` says with each connection and its number.
    fn ask(
        request: &Request,
        serve: impl Fn(usize, UnixStream) + Send + Sync + 'static,
    ) -> Result<serde_json::Value, ClientError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let serve = std::sync::Arc::new(serve);
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let (stream, serve) = (stream.unwrap(), std::sync::Arc::clone(&serve));
                thread::spawn(move || {
                    let mut line = String::new();
                    BufReader::new(&stream).read_line(&mut line).unwrap();
                    serve(number, stream);
                });
            }
        });
        talk(&path, request, &[], SHORT)
    }

    fn unanswered(asked: Result<serde_json::Value, ClientError>) -> Unanswered {
        match asked {
            Err(ClientError::Unanswered(e)) => *e,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn it_waits_as_long_as_there_are_signs_of_life() {
        let begin = Instant::now();
        let answered = ask(&Request::Status, move |_, mut stream| {
            while begin.elapsed() < SHORT.silence * 2 {
                stream.write_all(b" ").unwrap();
                thread::sleep(BEAT);
            }
            stream.write_all(b"\t{\"ok\":7}\n").unwrap();
        });
        assert_eq!(answered.unwrap(), 7);
    }

    #[test]
    fn a_daemon_of_0_1_that_answers_others_is_waited_for() {
        let begin = Instant::now();
        let answered = ask(
            &Request::Refresh {
                feed: None,
                dry_run: false,
            },
            move |number, mut stream| {
                while number == 0 && begin.elapsed() < SHORT.silence * 2 {
                    thread::sleep(BEAT);
                }
                stream.write_all(b"{\"ok\":7}\n").unwrap();
            },
        );
        assert_eq!(answered.unwrap(), 7);
    }

    #[test]
    fn what_was_not_begun_cannot_be_begun_any_more() {
        let (ended, gone) = mpsc::channel();
        let (told, heard) = mpsc::channel();
        let gone = std::sync::Mutex::new(gone);
        let asked = ask(&Request::Down, move |number, mut stream| {
            if number == 0 {
                gone.lock().unwrap().recv().unwrap();
                let _ = told.send(stream.write_all(&[BEGUN]).map_err(|e| e.kind()));
            } else {
                thread::park();
            }
        });
        let error = unanswered(asked);
        ended.send(()).unwrap();
        assert_eq!(heard.recv().unwrap(), Err(io::ErrorKind::BrokenPipe));
        assert_eq!(error.begun, Some(false));
        assert_eq!(error.pid, Some(std::process::id()));
        assert!(error.state.is_some() && !error.lives, "{error:?}");
        assert!(
            error.to_string().contains("is not carried out later"),
            "{error}"
        );
    }

    #[test]
    fn what_was_begun_is_said_to_be() {
        let asked = ask(&Request::Down, |_, mut stream| {
            stream.write_all(&[BEGUN]).unwrap();
            thread::park();
        });
        assert_eq!(unanswered(asked).begun, Some(true));
        let asked = ask(&Request::Status, |_, mut stream| {
            stream.write_all(&[BEGUN]).unwrap();
            thread::park();
        });
        assert_eq!(unanswered(asked).begun, None, "a question is no matter");
    }

    #[test]
    fn an_early_answer_counts_though_the_rest_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"{\"error\":\"no\"}\n").unwrap();
        });
        let body = vec![b'x'; 8 << 20];
        let refused = push(&path, "f", &body).unwrap_err();
        assert!(
            matches!(&refused, ClientError::Refused(why) if why == "no"),
            "{refused}"
        );
    }
}
