//! A connection to a socket whose daemon may stand still: connect(2) waits for a place in its queue.

use std::{
    io,
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::Path,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, SockFlag, SockType, UnixAddr, connect as join, setsockopt, socket,
            sockopt,
        },
        time::{TimeVal, TimeValLike},
    },
};

/// Connects; [`io::ErrorKind::TimedOut`] when nobody took the connection within `limit`.
pub(super) fn connect(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    let (family, kind) = (AddressFamily::Unix, SockType::Stream);
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    // Zero would mean for ever.
    let micros = i64::try_from(limit.as_micros()).unwrap_or(i64::MAX).max(1);
    setsockopt(
        &socket,
        sockopt::SendTimeout,
        &TimeVal::microseconds(micros),
    )?;
    match join(socket.as_raw_fd(), &UnixAddr::new(path)?) {
        Ok(()) => Ok(socket.into()),
        Err(Errno::EAGAIN) => Err(io::ErrorKind::TimedOut.into()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_socket_that_nobody_serves_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        assert_eq!(
            connect(&path, Duration::from_secs(60)).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        let listener = socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .unwrap();
        nix::sys::socket::bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        nix::sys::socket::listen(
            &listener.as_fd(),
            nix::sys::socket::Backlog::new(1).unwrap(),
        )
        .unwrap();
        let moment = Duration::from_millis(10);
        let mut held = Vec::new();
        let error = loop {
            match connect(&path, moment) {
                Ok(stream) => held.push(stream),
                Err(e) => break e,
            }
            assert!(held.len() < 100);
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
