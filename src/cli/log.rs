//! `feedgate log`: what the running daemon logs.

use std::path::Path;

use super::{Failure, ask};
use crate::{config::LogLevel, control::Request};

pub(super) fn log(config: &Path, level: Option<LogLevel>, json: bool) -> Result<(), Failure> {
    let level = level.map(|level| level.as_str().to_owned());
    let is_change = level.is_some();
    let value = ask::daemon(config, &Request::Log { level })?;
    if json {
        ask::print_json(&value);
    } else if is_change {
        let shown = ask::text(&value);
        println!("the daemon logs {shown} until its next reload or start");
    } else {
        println!("{}", ask::text(&value));
    }
    Ok(())
}
