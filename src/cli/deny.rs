//! `feedgate deny`: lets a feed deny, and takes that back unless somebody is still there to confirm.
//!
//! The daemon takes it back, not this command: who locks himself out loses this command first.

#![allow(clippy::indexing_slicing)] // a missing key of a serde_json value reads as null

use std::{
    io::{IsTerminal, Read},
    os::fd::AsFd,
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::termios::{FlushArg, tcflush},
};
use serde_json::Value;

use super::{Failure, ask};
use crate::control::{DenyStep, Request};

/// The step that the arguments ask for.
pub(super) fn step(confirm: Option<Duration>, keep: bool) -> DenyStep {
    match confirm {
        Some(time) => DenyStep::Arm {
            seconds: time.as_secs(),
        },
        None if keep => DenyStep::Keep,
        None => DenyStep::Undo,
    }
}

pub(super) fn deny(config: &Path, feed: &str, step: DenyStep, json: bool) -> Result<(), Failure> {
    let value = request(config, feed, step)?;
    if json {
        ask::print_json(&value);
        return Ok(());
    }
    match step {
        DenyStep::Arm { seconds } => {
            println!(
                "{feed}: denied from now on, {} entries; taken back in {seconds}s unless you confirm it",
                value["entries"]
            );
            if !std::io::stdin().is_terminal() {
                println!("confirm with: feedgate deny --keep {feed}");
                return Ok(());
            }
            println!(
                "Still there? Press Enter to keep it. Or, from anywhere: feedgate deny --keep {feed}"
            );
            // What was typed or pasted before nobody has said of this.
            let _ = tcflush(std::io::stdin(), FlushArg::TCIFLUSH);
            match answer(Duration::from_secs(seconds)) {
                Said::Yes => kept(feed, &request(config, feed, DenyStep::Keep)?),
                Said::Nothing => {
                    return Err(Failure::failed(format!(
                        "{feed}: not confirmed, so it is taken back"
                    )));
                }
            }
        }
        DenyStep::Keep => kept(feed, &value),
        DenyStep::Undo => println!("{feed}: taken back"),
    }
    Ok(())
}

fn request(config: &Path, feed: &str, step: DenyStep) -> Result<Value, Failure> {
    let feed = feed.to_owned();
    ask::daemon(config, &Request::Deny { feed, step })
}

fn kept(feed: &str, value: &Value) {
    println!("{feed}: kept; it {}", ask::text(&value["arming"]["text"]));
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Yes,
    Nothing,
}

/// Waits for Enter on the terminal. A terminal that is closed has not said yes.
fn answer(limit: Duration) -> Said {
    let stdin = std::io::stdin();
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = u16::try_from(left.as_millis().min(60_000)).unwrap_or(u16::MAX);
        if left == 0 {
            return Said::Nothing;
        }
        let mut waiting = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waiting, PollTimeout::from(left)) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => {
                let mut byte = [0u8; 1];
                // Byte by byte: what is read ahead could not be polled for.
                return match stdin.lock().read(&mut byte) {
                    Ok(0) | Err(_) => Said::Nothing,
                    Ok(_) => Said::Yes,
                };
            }
            Err(_) => return Said::Nothing,
        }
    }
}
