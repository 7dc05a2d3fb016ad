//! The daemon's side of the control socket.

use std::{
    fs,
    future::Future,
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::unistd::{Gid, Group, Uid, User, chown, getgrouplist};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream, unix::UCred},
    sync::Semaphore,
    time::timeout,
};

use super::{MAX_BODY, MAX_REQUEST, Request, Response};

/// Whose members may use the socket.
const GROUP: &str = "feedgate";
/// Connections answered at once.
const CONNECTIONS: usize = 32;
/// A client must send its request within this time.
const REQUEST: Duration = Duration::from_secs(10);
/// And the text behind it within this time.
const BODY: Duration = Duration::from_secs(60);

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// User ID of the client process (SO_PEERCRED).
    pub uid: u32,
}

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

/// A listening control socket; its file goes when it is dropped.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    group: Option<Gid>,
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
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(ServerError::Taken(path.into()));
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
        let group = Group::from_name(GROUP)
            .ok()
            .flatten()
            .map(|group| group.gid);
        // With `Group=feedgate` it is that already, and changing it would need CAP_CHOWN.
        let is = fs::metadata(path).ok().map(|made| made.gid());
        if group.is_some_and(|group| is != Some(group.as_raw()))
            && let Err(e) = chown(path, None, group)
        {
            tracing::warn!("control socket stays its owner's own: group {GROUP}: {e}");
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o660))
            .map_err(fail("setting its mode"))?;
        Ok(Self {
            listener,
            path: path.into(),
            group,
        })
    }

    /// Answers requests by `handle`, for ever.
    pub async fn serve<F, R>(&self, handle: F)
    where
        F: Fn(Peer, Request, Vec<u8>) -> R + Send + Sync + 'static,
        R: Future<Output = Response> + Send,
    {
        let handle = Arc::new(handle);
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(e) => {
                    tracing::warn!("control socket: accept: {e}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let peer = stream.peer_cred().ok();
            let peer = peer.filter(|peer| may_ask(peer, self.group));
            let peer = peer.map(|peer| Peer { uid: peer.uid() });
            let handle = Arc::clone(&handle);
            tokio::spawn(async move {
                if let Err(e) = answer(stream, peer, &*handle).await {
                    tracing::debug!("control socket: {e}");
                }
                drop(place);
            });
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Answers one request; without a peer it is refused.
async fn answer<F, R>(mut stream: UnixStream, peer: Option<Peer>, handle: &F) -> io::Result<()>
where
    F: Fn(Peer, Request, Vec<u8>) -> R,
    R: Future<Output = Response>,
{
    let (reader, mut writer) = stream.split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader);
    timeout(
        REQUEST,
        (&mut reader).take(MAX_REQUEST).read_line(&mut line),
    )
    .await??;
    let response = match peer {
        None => Response::Error("only root and members of group feedgate may ask".into()),
        Some(peer) => match serde_json::from_str::<Request>(&line) {
            Ok(request) if request.body_length() > MAX_BODY => Response::Error(format!(
                "a text of {} bytes is more than can be pushed ({MAX_BODY})",
                request.body_length()
            )),
            Ok(request) => match timeout(BODY, body(&request, &mut reader)).await?? {
                Some(body) => handle(peer, request, body).await,
                None => Response::Error("the text is shorter than was said".into()),
            },
            Err(e) => Response::Error(format!("not a request: {e}")),
        },
    };
    writer.write_all(format!("{response}\n").as_bytes()).await?;
    writer.shutdown().await
}

/// The text that follows a request; `None` when the client ends too early.
async fn body(request: &Request, reader: impl AsyncReadExt + Unpin) -> io::Result<Option<Vec<u8>>> {
    let bytes = request.body_length();
    let mut text = Vec::new();
    if bytes > 0 {
        reader.take(bytes).read_to_end(&mut text).await?;
    }
    Ok(u64::try_from(text.len())
        .is_ok_and(|len| len == bytes)
        .then_some(text))
}

fn may_ask(peer: &UCred, group: Option<Gid>) -> bool {
    let uid = Uid::from_raw(peer.uid());
    if uid.is_root() || uid == Uid::effective() {
        return true;
    }
    group.is_some_and(|group| Gid::from_raw(peer.gid()) == group || is_member(uid, group))
}

fn is_member(uid: Uid, group: Gid) -> bool {
    let Ok(Some(user)) = User::from_uid(uid) else {
        return false;
    };
    let Ok(name) = std::ffi::CString::new(user.name) else {
        return false;
    };
    getgrouplist(&name, user.gid).is_ok_and(|groups| groups.contains(&group))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{ClientError, call, push};

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
            server
                .serve(async |_, request, body| match request {
                    Request::Push { .. } => Response::Ok(serde_json::json!(body.len())),
                    Request::Status => Response::Ok(serde_json::json!({ "up": true })),
                    other => Response::Error(format!("{other:?}")),
                })
                .await;
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
