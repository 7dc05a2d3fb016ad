//! Commands that the daemon answers.

#![allow(clippy::indexing_slicing)] // a missing key of a serde_json value reads as null

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    sync::mpsc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde_json::Value;

pub(super) use super::output::print_json;
use super::{Failure, check};
use crate::{
    control::{self, ClientError, Request},
    visible::visible,
};

/// How often the progress of a refresh is shown.
const PROGRESS: Duration = Duration::from_secs(1);
/// Names in it.
const NAMES: usize = 4;

/// Sends a request to the daemon of this configuration.
pub(super) fn daemon(config: &Path, request: &Request) -> Result<Value, Failure> {
    control::call(&socket(config)?, request).map_err(failure)
}

/// The control socket of a configuration; without the usual file, the usual socket.
pub(super) fn socket(config: &Path) -> Result<PathBuf, Failure> {
    Ok(check::read(config)?.daemon.control_socket)
}

pub(super) fn failure(error: ClientError) -> Failure {
    match error {
        ClientError::Permission { .. } => Failure::permission(error),
        _ => Failure::failed(error),
    }
}

pub(super) fn refresh(config: &Path, feed: Option<String>, json: bool) -> Result<(), Failure> {
    let progress = Progress::start(socket(config)?);
    let value = daemon(
        config,
        &Request::Refresh {
            feed,
            dry_run: false,
        },
    );
    drop(progress);
    let value = value?;
    if json {
        print_json(&value);
        return Ok(());
    }
    for row in value.as_array().into_iter().flatten() {
        let changed = if row["changed"] == true {
            "pulled, in the kernel"
        } else {
            "not modified"
        };
        println!(
            "{}: {changed}, {} entries",
            text(&row["feed"]),
            row["entries"]
        );
    }
    Ok(())
}

/// Says on a terminal, now and then, which feeds are still being pulled; its line goes with it.
struct Progress(Option<(mpsc::Sender<()>, JoinHandle<()>)>);

impl Progress {
    fn start(socket: PathBuf) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let (stop, stopped) = mpsc::channel();
        let work = move || {
            let mut shown = false;
            let start = Instant::now();
            while stopped.recv_timeout(PROGRESS) == Err(mpsc::RecvTimeoutError::Timeout) {
                let Ok(feeds) = control::call(&socket, &Request::Feeds) else {
                    break;
                };
                let feeds = feeds.as_array().into_iter().flatten();
                let pulling = feeds.filter(|feed| feed["pulling"] == true);
                let names: Vec<&str> = pulling.map(|feed| text(&feed["name"])).collect();
                let more = names.len().saturating_sub(NAMES);
                let more = (more > 0).then(|| format!(" and {more} more"));
                std::eprint!(
                    "\r\x1b[Kpulling for {} s: {}{}",
                    start.elapsed().as_secs(),
                    visible(&names.get(..NAMES).unwrap_or(&names).join(", ")),
                    more.unwrap_or_default()
                );
                shown = true;
            }
            if shown {
                std::eprint!("\r\x1b[K");
            }
        };
        let thread = std::thread::spawn(work);
        Self(Some((stop, thread)))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.0.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

pub(super) fn list(value: &Value) -> String {
    let words: Vec<&str> = value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    words.join(", ")
}
