//! The daemon's side of the control socket.
//!
//! The loop that accepts connections waits for nothing else: no client, no name service, no place. A
//! connection costs a file descriptor and little memory until its request is there; then it waits for
//! a place, of which each user has a few.

use std::{
    fmt, fs,
    future::Future,
    io,
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use nix::unistd::{Gid, Uid, chown};
use tokio::{
    net::{UnixListener, UnixStream},
    time::{sleep, timeout},
};

use super::{
    MAX_BODY, Request, Response,
    caller::{Caller, Lost, Peer},
    connect::connect,
    group::Finder,
    peer::{Credentials, may_ask},
    places::{Entered, Places},
};

/// Whose members may use the socket.
const GROUP: &str = "feedgate";
/// What the start waits for the ID of that group.
const GROUP_LIMIT: Duration = Duration::from_secs(2);
/// A request waits for its turn behind others of the same user for this long.
const PLACE: Duration = Duration::from_secs(30);
/// The loop that accepts comes by at least this often.
const TURN: Duration = Duration::from_secs(1);
/// After accept(2) failed: without a descriptor it fails again at once.
const RETRY: Duration = Duration::from_millis(200);
/// Between two lines of the log about clients that misbehave.
const SAID: Duration = Duration::from_secs(60);
/// Whether another daemon answers is waited for this long.
const PROBE: Duration = Duration::from_secs(2);

/// The socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A live daemon has it.
    #[error("another feedgate answers on {}: stop it first, or set another [daemon] control-socket", .0.display())]
    Taken(PathBuf),
    /// A step failed.
    #[error("control socket {}: {step}: {source}", path.display())]
    System {
        /// The socket.
        path: PathBuf,
        /// What was being done.
        step: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// Clients that got no answer, since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Did not send a whole request in time.
    pub silent: AtomicU64,
    /// Did not read their answer.
    pub not_reading: AtomicU64,
    /// Too many at once.
    pub crowded: AtomicU64,
    /// May not ask.
    pub not_allowed: AtomicU64,
    said: Mutex<Option<Instant>>,
}

/// A listening control socket; its file goes when it is dropped.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    door: Arc<Door>,
}

/// Who is let in, and who was not.
#[derive(Debug)]
pub struct Door {
    path: PathBuf,
    /// The ID of [`GROUP`], where that exists.
    group: Mutex<Option<u32>>,
    finder: Finder,
    /// Clients that got no answer.
    pub counts: Counts,
}

impl Server {
    /// Makes the socket: mode 0660, group `feedgate` where that exists. A socket that nobody answers on is replaced.
    pub fn bind(path: &Path) -> Result<Self, ServerError> {
        let fail = |step| {
            move |source| ServerError::System {
                path: path.into(),
                step,
                source,
            }
        };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(fail("making its folder"))?;
        }
        match connect(path, PROBE) {
            // One that has no place for a further connection stands still, and has it nevertheless.
            Ok(_) => return Err(ServerError::Taken(path.into())),
            Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                return Err(ServerError::Taken(path.into()));
            }
            Err(_) => {}
        }
        match fs::symlink_metadata(path) {
            Ok(found) if !std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) => {
                let source = io::Error::other("a file of another kind is there");
                return Err(fail("replacing an old socket")(source));
            }
            Ok(_) => fs::remove_file(path).map_err(fail("removing an old socket"))?,
            Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(fail("binding"))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660))
            .map_err(fail("setting its mode"))?;
        let door = Arc::new(Door {
            path: path.into(),
            group: Mutex::default(),
            finder: Finder::default(),
            counts: Counts::default(),
        });
        door.find_group();
        Ok(Self { listener, door })
    }

    /// Who is let in.
    pub fn door(&self) -> Arc<Door> {
        Arc::clone(&self.door)
    }

    /// Answers requests by `handle`, for ever; calls `turn` at least once a second. `handle` calls
    /// [`Caller::begin`] before it does anything that must not be done for a client that has gone.
    pub async fn serve<F, R>(&self, handle: F, turn: impl Fn())
    where
        F: Fn(Caller, Request, Vec<u8>) -> R + Send + Sync + 'static,
        R: Future<Output = Response> + Send + 'static,
    {
        let handle = Arc::new(handle);
        let places = Places::new();
        loop {
            turn();
            match timeout(TURN, self.listener.accept()).await {
                Err(_) => {}
                Ok(Ok((stream, _))) => self.admit(stream, &places, &handle),
                Ok(Err(e)) => {
                    self.door.counts.say(format_args!("accept: {e}"));
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// Has a client served that may ask and has not too many connections. Does not wait.
    fn admit<F, R>(&self, stream: UnixStream, places: &Arc<Places>, handle: &Arc<F>)
    where
        F: Fn(Caller, Request, Vec<u8>) -> R + Send + Sync + 'static,
        R: Future<Output = Response> + Send + 'static,
    {
        let door = Arc::clone(&self.door);
        let counts = &door.counts;
        let peer = match Credentials::of(stream.as_fd()) {
            Ok(peer) if door.lets_in(&peer) => peer,
            _ => {
                counts.not_allowed.fetch_add(1, Relaxed);
                let caller = Caller::new(Peer { uid: u32::MAX }, stream);
                return caller.turn_away(&line(Response::Error(
                    "only root and members of group feedgate may ask".into(),
                )));
            }
        };
        let caller = Caller::new(Peer { uid: peer.uid }, stream);
        let Some(entered) = places.enter(peer.uid) else {
            counts.crowded.fetch_add(1, Relaxed);
            counts.say(format_args!("{peer} has too many connections"));
            return caller.turn_away(&line(crowded(peer.uid)));
        };
        let handle = Arc::clone(handle);
        tokio::spawn(async move {
            if let Err(e) = answer(&caller, &entered, &*handle, &door.counts).await {
                door.counts.lost(&peer, &e);
            }
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.door.path);
    }
}

impl Door {
    /// Looks again for the group whose members may ask. Blocks, but not for long.
    pub fn find_group(self: &Arc<Self>) {
        let door = Arc::clone(self);
        self.finder
            .find(GROUP, GROUP_LIMIT, move |gid| door.take_group(gid));
    }

    /// Gives the socket to the group.
    fn take_group(&self, gid: Option<u32>) {
        // With `Group=feedgate` it is that already, and changing it would need CAP_CHOWN.
        let is = fs::metadata(&self.path).ok().map(|made| made.gid());
        if gid.is_some()
            && is != gid
            && let Err(e) = chown(&self.path, None, gid.map(Gid::from_raw))
        {
            tracing::warn!("control socket stays its owner's own: group {GROUP}: {e}");
        }
        *self.group.lock().unwrap_or_else(PoisonError::into_inner) = gid;
    }

    fn lets_in(&self, peer: &Credentials) -> bool {
        let group = *self.group.lock().unwrap_or_else(PoisonError::into_inner);
        may_ask(peer, Uid::effective().as_raw(), group)
    }
}

impl Counts {
    /// Why, and how many.
    pub fn rows(&self) -> [(&'static str, u64); 4] {
        [
            ("silent", &self.silent),
            ("not-reading", &self.not_reading),
            ("crowded", &self.crowded),
            ("not-allowed", &self.not_allowed),
        ]
        .map(|(why, count)| (why, count.load(Relaxed)))
    }

    fn lost(&self, peer: &Credentials, why: &Lost) {
        match why {
            Lost::Silent(_) => &self.silent,
            Lost::NotReading | Lost::TooSlow => &self.not_reading,
            Lost::Gone(e) => return tracing::debug!("control socket: {peer}: {e}"),
        }
        .fetch_add(1, Relaxed);
        self.say(format_args!("{peer} is dropped: {why}"));
    }

    /// A warning, unless there was one a moment ago: who floods the socket must not flood the log.
    fn say(&self, what: fmt::Arguments<'_>) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_none_or(|last| last.elapsed() >= SAID) {
            *said = Some(Instant::now());
            tracing::warn!("control socket: {what}");
        } else {
            tracing::debug!("control socket: {what}");
        }
    }
}

/// Answers one request.
async fn answer<F, R>(
    caller: &Caller,
    entered: &Entered,
    handle: &F,
    counts: &Counts,
) -> Result<(), Lost>
where
    F: Fn(Caller, Request, Vec<u8>) -> R,
    R: Future<Output = Response> + Send + 'static,
{
    let asked = caller.line().await?;
    let Some(place) = caller.wait(timeout(PLACE, entered.place())).await else {
        return Ok(());
    };
    let Ok(_place) = place else {
        counts.crowded.fetch_add(1, Relaxed);
        return caller.answer(&line(crowded(caller.peer.uid))).await;
    };
    let response = match serde_json::from_slice::<Request>(&asked.line) {
        Ok(request) if request.body_length() > MAX_BODY => Response::Error(format!(
            "a text of {} bytes is more than can be pushed ({MAX_BODY})",
            request.body_length()
        )),
        Ok(request) => {
            let room = entered.room(request.body_length());
            let Some(_room) = caller.wait(room).await else {
                return Ok(());
            };
            match caller.body(&request, asked).await? {
                Some(body) => {
                    let mut work = tokio::spawn(handle(caller.clone(), request, body));
                    let Some(done) = caller.wait(&mut work).await else {
                        // What was begun goes on, and keeps its place.
                        let _ = work.await;
                        return Ok(());
                    };
                    done.map_err(io::Error::other)?
                }
                None => Response::Error("the text is shorter than was said".into()),
            }
        }
        Err(e) => Response::Error(format!("not a request: {e}")),
    };
    caller.answer(&line(response)).await
}

fn line(response: Response) -> Vec<u8> {
    (response.to_string() + "\n").into_bytes()
}

fn crowded(uid: u32) -> Response {
    Response::Error(format!(
        "too many commands of user {uid} are being answered already; try again"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{ClientError, call, push};

    async fn handle(caller: Caller, request: Request, body: Vec<u8>) -> Response {
        assert!(caller.begin());
        match request {
            Request::Push { .. } => Response::Ok(serde_json::json!(body.len())),
            Request::Status => Response::Ok(serde_json::json!({ "up": true })),
            other => Response::Error(format!("{other:?}")),
        }
    }

    fn with_server(test: impl FnOnce(&Path) + Send + 'static) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/control.sock");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let server = {
            let _context = runtime.enter();
            Server::bind(&path).unwrap()
        };
        runtime.spawn(async move {
            server.serve(handle, || {}).await;
        });
        test(&path);
        runtime.shutdown_timeout(Duration::from_secs(1));
    }

    #[test]
    fn requests_are_answered_one_a_connection() {
        with_server(|path| {
            assert_eq!(call(path, &Request::Status).unwrap()["up"], true);
            assert_eq!(push(path, "f", &vec![b'x'; 1 << 20]).unwrap(), 1 << 20);
            let refused = call(path, &Request::Down).unwrap_err();
            assert!(matches!(refused, ClientError::Refused(message) if message == "Down"));
            assert_eq!(
                fs::metadata(path).unwrap().permissions().mode() & 0o777,
                0o660
            );
        });
    }

    #[test]
    fn nonsense_gets_an_error_and_a_second_daemon_is_told() {
        with_server(|path| {
            use std::io::{Read, Write};
            for nonsense in [&b"\n"[..], b"{\n", b"\xff\xfe\n", &[b'x'; 70_000]] {
                let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
                let _ = stream.write_all(nonsense);
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let mut answer = Vec::new();
                let _ = stream.read_to_end(&mut answer);
                assert!(answer.is_empty() || answer.starts_with(b"{\"error\""));
            }
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let _context = runtime.enter();
            assert!(matches!(Server::bind(path), Err(ServerError::Taken(_))));
        });
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _context = runtime.enter();
        drop(Server::bind(&path).unwrap());
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert!(Server::bind(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
