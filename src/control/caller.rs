//! One connection of the server: reads its request, shows signs of life, writes the answer. Nothing
//! here waits for a client for ever.

use std::{
    future::Future,
    io,
    os::fd::AsRawFd,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::sys::socket::{MsgFlags, send};
use tokio::{io::Interest, net::UnixStream, time::timeout};

use super::{ALIVE, BEGUN, LIFE, MAX_REQUEST, Request};

/// A client must send its request within this time.
const REQUEST: Duration = Duration::from_secs(10);
/// And the text behind it within this time.
const BODY: Duration = Duration::from_secs(60);
/// A client must go on reading its answer after this time.
const STALL: Duration = Duration::from_secs(5);
/// And have read all of it after this one.
const ANSWER: Duration = Duration::from_secs(600);
/// An answer is written in pieces of this size: a client that reads one of them within [`STALL`] reads.
const PIECE: usize = 4 << 10;
/// The kernel says that there is room when three quarters are free; a slow reader is looked at more often.
const LOOK: Duration = Duration::from_millis(200);
/// Read at once.
const CHUNK: usize = 16 << 10;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// User ID of the client process (SO_PEERCRED).
    pub uid: u32,
}

/// A client that waits for its answer.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who it is.
    pub peer: Peer,
    stream: Arc<UnixStream>,
}

/// Why a client was dropped.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    /// It did not send its request.
    #[error("it did not send a whole request within {}s", .0.as_secs())]
    Silent(Duration),
    /// It does not read.
    #[error("it did not read its answer for {}s", STALL.as_secs())]
    NotReading,
    /// It reads too slowly.
    #[error("it did not read the whole of its answer within {}s", ANSWER.as_secs())]
    TooSlow,
    /// It has gone.
    #[error(transparent)]
    Gone(#[from] io::Error),
}

/// The first line that a client sends, and what came with it.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) line: Vec<u8>,
    rest: Vec<u8>,
}

impl Caller {
    pub(super) fn new(peer: Peer, stream: UnixStream) -> Self {
        Self {
            peer,
            stream: Arc::new(stream),
        }
    }

    /// Says that the request is carried out from now on. False when the client has gone, or does not
    /// read: it must not be carried out then. May be called from any thread, and does not block.
    #[must_use]
    pub fn begin(&self) -> bool {
        self.send(&[BEGUN]).is_ok()
    }

    /// Waits for something in the client's behalf with signs of life. `None` when the client has gone.
    pub(super) async fn wait<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        let mut tick = tokio::time::interval(LIFE);
        // The first tick is at once.
        loop {
            tokio::select! {
                biased;
                done = work.as_mut() => return Some(done),
                _ = tick.tick() => match self.send(&[ALIVE]) {
                    // It need not read them.
                    Err(e) if e.kind() != io::ErrorKind::WouldBlock => return None,
                    _ => {}
                },
            }
        }
    }

    /// The request's line: up to its end, [`MAX_REQUEST`] or the end of what is sent.
    pub(super) async fn line(&self) -> Result<Asked, Lost> {
        let limit = usize::try_from(MAX_REQUEST).unwrap_or(usize::MAX);
        let read = async {
            let mut asked = Asked::default();
            loop {
                let from = asked.line.len();
                let some = self.read(&mut asked.line).await? > 0;
                let new = asked.line.get(from..).unwrap_or_default();
                if let Some(end) = new.iter().position(|byte| *byte == b'\n') {
                    asked.rest = asked.line.split_off(from + end + 1);
                    return Ok(asked);
                }
                if !some || asked.line.len() >= limit {
                    return Ok(asked);
                }
            }
        };
        timeout(REQUEST, read)
            .await
            .map_err(|_| Lost::Silent(REQUEST))?
    }

    /// The text that follows a request; `None` when the client ends too early.
    pub(super) async fn body(
        &self,
        request: &Request,
        asked: Asked,
    ) -> Result<Option<Vec<u8>>, Lost> {
        let bytes = usize::try_from(request.body_length()).unwrap_or(usize::MAX);
        let mut text = asked.rest;
        let read = async {
            while text.len() < bytes {
                if self.read(&mut text).await? == 0 {
                    return Ok(None);
                }
            }
            text.truncate(bytes);
            Ok(Some(text))
        };
        timeout(BODY, read).await.map_err(|_| Lost::Silent(BODY))?
    }

    /// Writes an answer as fast as it is read.
    pub(super) async fn answer(&self, bytes: &[u8]) -> Result<(), Lost> {
        self.write(bytes, STALL).await
    }

    async fn write(&self, bytes: &[u8], stall: Duration) -> Result<(), Lost> {
        let begin = Instant::now();
        let (mut rest, mut last) = (bytes, begin);
        while let Some(piece) = rest
            .get(..rest.len().min(PIECE))
            .filter(|it| !it.is_empty())
        {
            match self.send(piece) {
                Ok(sent) => {
                    rest = rest.get(sent..).unwrap_or_default();
                    last = Instant::now();
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if last.elapsed() >= stall {
                        return Err(Lost::NotReading);
                    }
                    self.wait_for_room().await;
                }
                Err(e) => return Err(e.into()),
            }
            if begin.elapsed() >= ANSWER {
                return Err(Lost::TooSlow);
            }
        }
        Ok(())
    }

    /// Says something to a client that is not served, if it can be said at once.
    pub(super) fn turn_away(&self, bytes: &[u8]) {
        let _ = self.send(bytes);
    }

    async fn wait_for_room(&self) {
        // What was known of the socket is out of date: without this it would not be waited for.
        let full = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        let _ = self.stream.try_io(Interest::WRITABLE, full);
        let _ = timeout(LOOK, self.stream.writable()).await;
    }

    async fn read(&self, into: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            self.stream.readable().await?;
            let mut chunk = [0; CHUNK];
            match self.stream.try_read(&mut chunk) {
                Ok(count) => {
                    into.extend(chunk.iter().take(count));
                    return Ok(count);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Straight to the kernel, which knows best whether the other end is there. Without SIGPIPE.
    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        Ok(send(self.stream.as_raw_fd(), bytes, flags)?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    type Client = std::os::unix::net::UnixStream;

    fn with_caller<T>(test: impl AsyncFnOnce(Caller, Client) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (server, client) = Client::pair().unwrap();
            server.set_nonblocking(true).unwrap();
            let stream = UnixStream::from_std(server).unwrap();
            test(Caller::new(Peer { uid: 0 }, stream), client).await
        })
    }

    #[test]
    fn who_reads_slowly_gets_all_and_who_does_not_read_is_dropped() {
        let answer: Vec<u8> = (0..1 << 20).map(|n: u32| n.to_le_bytes()[0]).collect();
        with_caller(async |caller, mut client| {
            let want = answer.clone();
            // In all it takes longer than it may make a pause.
            let (pieces, stall) = (64, Duration::from_secs(2));
            let reader = std::thread::spawn(move || {
                for piece in want.chunks(want.len() / pieces) {
                    std::thread::sleep(Duration::from_millis(50));
                    let mut read = vec![0; piece.len()];
                    client.read_exact(&mut read).unwrap();
                    assert!(read == piece);
                }
            });
            caller.write(&answer, stall).await.unwrap();
            drop(caller);
            reader.join().unwrap();
        });
        with_caller(async |caller, _client| {
            let lost = caller.write(&answer, Duration::from_millis(50)).await;
            assert!(matches!(lost, Err(Lost::NotReading)), "{lost:?}");
        });
    }

    #[test]
    fn what_a_client_that_has_gone_asked_for_is_not_begun() {
        with_caller(async |caller, client| {
            // One that only says that it sends no more is still there, as `nc -N` is.
            client.shutdown(std::net::Shutdown::Write).unwrap();
            assert!(caller.begin());
            drop(client);
            assert!(!caller.begin());
            let waited = caller.wait(std::future::pending::<()>()).await;
            assert_eq!(waited, None, "nor is it waited for");
        });
    }

    #[test]
    fn a_request_and_its_text_in_any_pieces() {
        let request = Request::Push {
            feed: "f".into(),
            bytes: 6,
        };
        for pieces in [&["one\nabcdef more"][..], &["on", "e", "\n", "ab", "cdef"]] {
            with_caller(async |caller, mut client| {
                for piece in pieces {
                    client.write_all(piece.as_bytes()).unwrap();
                }
                let asked = caller.line().await.unwrap();
                assert_eq!(asked.line, b"one\n");
                let body = caller.body(&request, asked).await.unwrap();
                assert_eq!(body.as_deref(), Some(&b"abcdef"[..]));
            });
        }
        with_caller(async |caller, mut client| {
            client.write_all(b"one\nabc").unwrap();
            drop(client);
            let asked = caller.line().await.unwrap();
            assert_eq!(caller.body(&request, asked).await.unwrap(), None);
        });
    }
}
