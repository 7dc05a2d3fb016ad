//! A web server for a lab: one thread, one request at a time, whatever body the caller gives.
//!
//! No server for real use: it knows the request line only.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::{fd::AsFd as _, unix::net::UnixStream},
    thread::JoinHandle,
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A client that says nothing for that long is let go.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest request head that is read, in bytes.
const MAX_HEAD: u64 = 8 * 1024;

/// What a request is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Status code, 100..=599.
    pub status: u16,
    /// Media type of `body`.
    pub content_type: &'static str,
    /// The body; not sent for HEAD.
    pub body: String,
}

impl Response {
    /// 200 with plain text.
    pub fn text(body: impl Into<String>) -> Self {
        Self {
            status: 200,
            content_type: "text/plain",
            body: body.into(),
        }
    }
}

/// A running server; stopped on drop.
#[derive(Debug)]
pub struct Server {
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves `listener` (whatever namespace it was made in) until the value is dropped; `answer`
    /// gets the request's target.
    pub fn start(
        listener: TcpListener,
        answer: impl Fn(&str) -> Response + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = UnixStream::pair()?;
        listener.set_nonblocking(true)?;
        let thread = std::thread::Builder::new()
            .name("lab-http".into())
            .spawn(move || serve(&listener, &stopped, answer))?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(listener: &TcpListener, stopped: &UnixStream, answer: impl Fn(&str) -> Response) {
    while wait(listener, stopped) {
        if let Ok((stream, _)) = listener.accept() {
            // A client that breaks off is its own trouble.
            let _ = reply(stream, &answer);
        }
    }
}

/// Waits for a client; false when the server is to stop.
fn wait(listener: &TcpListener, stopped: &UnixStream) -> bool {
    let mut fds = [
        PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
        PollFd::new(listener.as_fd(), PollFlags::POLLIN),
    ];
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {
                return fds
                    .first()
                    .and_then(PollFd::revents)
                    .is_none_or(|revents| revents.is_empty());
            }
            Err(nix::Error::EINTR) => {}
            Err(_) => return false,
        }
    }
}

fn reply(mut stream: TcpStream, answer: &impl Fn(&str) -> Response) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let (method, target) = request(&stream)?;
    let response = answer(&target);
    let head = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        response.status,
        reason(response.status),
        response.content_type,
        response.body.len(),
    );
    stream.write_all(head.as_bytes())?;
    if method != "HEAD" {
        stream.write_all(response.body.as_bytes())?;
    }
    stream.flush()
}

/// Reads the head; gives method and target.
fn request(stream: &TcpStream) -> io::Result<(String, String)> {
    let mut lines = BufReader::new(stream.take(MAX_HEAD)).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let mut words = first.split(' ').map(str::to_owned);
    Ok((
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    ))
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        304 => "Not Modified",
        404 => "Not Found",
        503 => "Service Unavailable",
        _ => "Something",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(request: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _server =
            Server::start(listener, |target| Response::text(format!("at {target}"))).unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn get_has_a_body() {
        let answer = ask("GET /feed?x=1 HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nat /feed?x=1"), "{answer}");
    }

    #[test]
    fn head_has_none() {
        let answer = ask("HEAD / HTTP/1.1\r\n\r\n");
        assert!(answer.contains("Content-Length: 4\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    }
}
