//! The HTTP server.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::seats::{Seat, Seats};
use crate::pulse::Pulse;

/// Connections at the same time. A new one always gets its place; the longest idle one goes for it.
const CONNECTIONS: usize = 64;
/// How often a server without anything to do says that it is there.
const TURN: Duration = Duration::from_secs(1);
/// Longest head of a request, in bytes, and most lines in it.
const HEAD: usize = 8192;
const HEADER_LINES: usize = 64;
/// How long a client may take for its head.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// How long a connection may last, answer included.
const WHOLE_TIME: Duration = Duration::from_secs(30);
/// Pause after a connection could not be taken: most likely there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

const PLAIN: &str = "text/plain; charset=utf-8";

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("metrics are not served on {address}: {source}; another program may have the port")]
pub struct MetricsError {
    address: SocketAddr,
    source: io::Error,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The path, without a query.
    pub path: String,
    /// The header `Accept`; empty when absent.
    pub accept: String,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Status code.
    pub status: u16,
    /// Media type.
    pub kind: &'static str,
    /// The text.
    pub body: String,
}

impl Page {
    /// Plain text.
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            kind: PLAIN,
            body: body.into(),
        }
    }
}

/// A bound address.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
}

impl Server {
    /// Listens on `address`.
    ///
    /// # Errors
    /// When the address is not this host's or is taken.
    pub async fn bind(address: SocketAddr) -> Result<Self, MetricsError> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| MetricsError { address, source })?;
        Ok(Self { listener })
    }

    /// Answers for ever; connections end when the future is dropped. `pulse` beats once a second.
    pub async fn serve<F, R>(self, pulse: &Pulse, answer: F)
    where
        F: Fn(Asked) -> R + Send + Sync + 'static,
        R: Future<Output = Page> + Send + 'static,
    {
        let answer = Arc::new(answer);
        let seats = Seats::new(CONNECTIONS);
        let mut connections = JoinSet::new();
        loop {
            pulse.beat(Instant::now());
            while connections.try_join_next().is_some() {}
            let Ok(accepted) = timeout(TURN, self.listener.accept()).await else {
                continue;
            };
            match accepted {
                Ok((stream, _)) => {
                    let answer = Arc::clone(&answer);
                    let (seat, goes) = seats.take();
                    connections.spawn(async move {
                        let talk = timeout(WHOLE_TIME, talk(stream, &seat, answer));
                        tokio::select! {
                            _ = talk => {}
                            _ = goes => tracing::debug!("metrics: an idle connection made room"),
                        }
                    });
                }
                Err(e) => {
                    tracing::debug!("metrics: {e}");
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

async fn talk<F, R>(stream: TcpStream, seat: &Seat, answer: Arc<F>)
where
    F: Fn(Asked) -> R,
    R: Future<Output = Page>,
{
    let service = service_fn(|request| {
        seat.has_asked();
        let answer = Arc::clone(&answer);
        async move { Ok::<_, Infallible>(respond(&request, &*answer).await) }
    });
    let done = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD)
        .max_headers(HEADER_LINES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(e) = done {
        tracing::debug!("metrics: {e}");
    }
}

async fn respond<F, R>(request: &Request<Incoming>, answer: &F) -> Response<Full<Bytes>>
where
    F: Fn(Asked) -> R,
    R: Future<Output = Page>,
{
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut refused = response(Page::text(405, "only GET and HEAD\n"));
        let allowed = HeaderValue::from_static("GET, HEAD");
        refused.headers_mut().insert(ALLOW, allowed);
        return refused;
    }
    let accept = request.headers().get(ACCEPT);
    let accept = accept.and_then(|value| value.to_str().ok());
    let asked = Asked {
        path: request.uri().path().to_owned(),
        accept: accept.unwrap_or_default().to_owned(),
    };
    // Of HEAD hyper sends the head only.
    response(answer(asked).await)
}

fn response(page: Page) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(page.body)));
    *response.status_mut() =
        StatusCode::from_u16(page.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(page.kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn serve(server: Server) {
        let answer = |asked: Asked| async move {
            match asked.path.as_str() {
                "/metrics" => Page::text(200, format!("accept {}\n", asked.accept)),
                _ => Page::text(404, "no\n"),
            }
        };
        server.serve(&Pulse::default(), answer).await;
    }

    /// What a server answers to these bytes, until it closes the connection.
    fn ask(bytes: &[u8]) -> String {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(async {
                let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
                let address = server.listener.local_addr().unwrap();
                tokio::spawn(serve(server));
                let mut stream = TcpStream::connect(address).await.unwrap();
                let _ = stream.write_all(bytes).await;
                let mut text = Vec::new();
                let _ = stream.read_to_end(&mut text).await;
                String::from_utf8(text).unwrap()
            })
    }

    #[test]
    fn a_page_a_head_and_what_is_not_there() {
        let page = ask(b"GET /metrics?x=1 HTTP/1.1\r\nHost: h\r\nAccept: a/b\r\n\r\n");
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
        assert!(page.ends_with("\r\n\r\naccept a/b\n"), "{page}");
        assert!(page.contains("connection: close\r\n"), "{page}");
        assert!(page.contains("content-type: text/plain; charset=utf-8\r\n"));
        let head = ask(b"HEAD /metrics HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"));
        let missing = ask(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(missing.starts_with("HTTP/1.1 404 "), "{missing}");
    }

    #[test]
    fn what_is_no_question_is_refused() {
        let post = ask(b"POST /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n");
        assert!(post.starts_with("HTTP/1.1 405 "), "{post}");
        assert!(post.contains("allow: GET, HEAD\r\n"), "{post}");
        let long = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(2 * HEAD));
        let long = ask(long.as_bytes());
        assert!(!long.contains(" 200 "), "{long}");
        let lines = format!(
            "GET /metrics HTTP/1.1\r\n{}\r\n",
            "A: b\r\n".repeat(2 * HEADER_LINES)
        );
        let lines = ask(lines.as_bytes());
        assert!(lines.starts_with("HTTP/1.1 431 "), "{lines}");
        assert!(!ask(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n").contains(" 200 "));
    }

    /// Finding a place does not depend on how many hold one without asking, whoever they are.
    #[test]
    fn who_asks_is_answered_among_hundreds_that_do_not() {
        const IDLE: usize = 300;
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(async {
                let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
                let address = server.listener.local_addr().unwrap();
                tokio::spawn(serve(server));
                let mut idle = Vec::new();
                for i in 0..IDLE {
                    let mut stream = TcpStream::connect(address).await.unwrap();
                    // Some have said a word.
                    if i % 2 == 0 {
                        stream.write_all(b"GET /met").await.unwrap();
                    }
                    idle.push(stream);
                }
                let start = Instant::now();
                let mut stream = TcpStream::connect(address).await.unwrap();
                let asked = b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n";
                stream.write_all(asked).await.unwrap();
                let mut text = String::new();
                stream.read_to_string(&mut text).await.unwrap();
                assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
                assert!(start.elapsed() < HEAD_TIME, "{:?}", start.elapsed());
                let mut open = 0;
                for stream in &mut idle {
                    let mut byte = [0];
                    let read = timeout(Duration::from_millis(1), stream.read(&mut byte)).await;
                    open += usize::from(read.is_err());
                }
                assert!((1..=CONNECTIONS).contains(&open), "{open}");
            });
    }

    #[test]
    fn a_taken_port_is_told() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let error = runtime.block_on(Server::bind(address)).unwrap_err();
        let text = error.to_string();
        let wanted = format!("metrics are not served on {address}: ");
        assert!(text.starts_with(&wanted), "{text}");
    }
}
