//! A tiny HTTP server for the tests of this module: answers are written by hand.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{Client, Options};
use crate::config::Feed;

/// A client that waits long and asks no proxy.
pub(super) fn client() -> Client {
    Client::new(Options {
        connect_timeout: Duration::from_secs(30),
        total_timeout: Duration::from_secs(60),
        proxy: crate::config::Proxy::Direct,
        ca_files: Vec::new(),
    })
    .unwrap()
}

/// A feed at `url`.
pub(super) fn feed(url: &str) -> Feed {
    Feed {
        url: Some(url.parse().unwrap()),
        ..Feed::new("test".parse().unwrap())
    }
}

/// What a [`serve`]d path answers.
#[derive(Clone)]
pub(super) enum Answer {
    /// These bytes, then the connection ends.
    Bytes(String),
    /// These bytes, then silence.
    Stall(String),
    /// These bytes, then zeros for as long as the client reads.
    Endless(String),
}

/// A running server.
pub(super) struct Server {
    /// `http://127.0.0.1:PORT`
    pub(super) base: String,
    /// The requests so far, head only, in lower case.
    pub(super) requests: Arc<Mutex<Vec<String>>>,
    /// Bytes of endless bodies that the kernel took.
    pub(super) sent: Arc<Mutex<usize>>,
}

impl Server {
    /// The requests so far.
    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// Serves `answers` by path on a port of its own until the test's runtime ends. `{base}` in an
/// answer is replaced.
pub(super) async fn serve(answers: &[(&str, Answer)]) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let answers: BTreeMap<String, Answer> = answers
        .iter()
        .map(|(path, answer)| ((*path).to_owned(), answer.clone()))
        .collect();
    let server = Server {
        base: base.clone(),
        requests: Arc::default(),
        sent: Arc::default(),
    };
    let (requests, sent) = (server.requests.clone(), server.sent.clone());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let head = head(&mut stream).await;
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            requests.lock().unwrap().push(head.to_lowercase());
            let answer = answers.get(&path).cloned();
            tokio::spawn(reply(stream, answer, base.clone(), sent.clone()));
        }
    });
    server
}

async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

async fn reply(
    mut stream: TcpStream,
    answer: Option<Answer>,
    base: String,
    sent: Arc<Mutex<usize>>,
) {
    let answer = answer.unwrap_or(Answer::Bytes("HTTP/1.1 404 Not Found\r\n\r\n".to_owned()));
    let (Answer::Bytes(text) | Answer::Stall(text) | Answer::Endless(text)) = &answer;
    let text = text.replace("{base}", &base);
    let _ = stream.write_all(text.as_bytes()).await;
    match answer {
        Answer::Bytes(_) => {}
        Answer::Stall(_) => std::future::pending().await,
        Answer::Endless(_) => {
            while let Ok(count) = stream.write(&[b'0'; 4096]).await {
                *sent.lock().unwrap() += count;
            }
        }
    }
}
