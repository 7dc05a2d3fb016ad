//! The side of the client commands.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Request, Response};

/// A load of very many elements may take this long; nearly everything answers at once.
const ANSWER: Duration = Duration::from_secs(180);
/// Pulls of many slow feeds take their turns: each may take an hour (`[pull] total-timeout`).
const PULLS: Duration = Duration::from_secs(6 * 3600);
/// The same for the removal of the table, which may have to wait for a load of a few seconds.
const DOWN: Duration = Duration::from_secs(20);

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
    let stream = UnixStream::connect(path).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => ClientError::Permission { path: path.into() },
        _ => ClientError::NotRunning {
            path: path.into(),
            source,
        },
    })?;
    match talk(stream, request, body) {
        Ok(Response::Ok(value)) => Ok(value),
        Ok(Response::Error(message)) => Err(ClientError::Refused(message)),
        Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            Err(ClientError::Permission { path: path.into() })
        }
        Err(source) => Err(ClientError::Broken {
            path: path.into(),
            source,
        }),
    }
}

fn talk(mut stream: UnixStream, request: &Request, body: &[u8]) -> io::Result<Response> {
    // Whoever wants out does not wait long to hear that the daemon hangs.
    let limit = match request {
        Request::Down => DOWN,
        Request::Refresh { .. } | Request::Lint { .. } => PULLS,
        _ => ANSWER,
    };
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    // A daemon that refuses early has answered already: its answer says more than a broken pipe.
    let _ = stream.write_all(body);
    let mut answer = String::new();
    if BufReader::new(stream).read_line(&mut answer)? == 0 {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the connection was closed",
        ));
    }
    Ok(serde_json::from_str(&answer)?)
}
