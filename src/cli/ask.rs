//! Commands that the daemon answers.

#![allow(clippy::indexing_slicing)] // a missing key of a serde_json value reads as null

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{Failure, check};
use crate::control::{self, ClientError, Request};

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

/// Prints a JSON value for a program.
pub(super) fn print_json(value: &Value) {
    println!("{value:#}");
}

pub(super) fn refresh(config: &Path, feed: Option<String>, json: bool) -> Result<(), Failure> {
    let value = daemon(
        config,
        &Request::Refresh {
            feed,
            dry_run: false,
        },
    )?;
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

pub(super) fn lookup(config: &Path, address: IpAddr, json: bool) -> Result<(), Failure> {
    let value = daemon(config, &Request::Lookup { addr: address })?;
    if json {
        print_json(&value);
        return Ok(());
    }
    let address = text(&value["address"]);
    for (direction, way) in [("egress", "to"), ("ingress", "from")] {
        match &value[direction] {
            Value::Null => println!("{direction}: flows {way} {address} are left alone"),
            verdict => println!(
                "{direction}: flows {way} {address} are {}: {} in {} (severity {})",
                if verdict["action"] == "deny" {
                    "denied"
                } else {
                    "let pass with an alert"
                },
                text(&verdict["indicator"]),
                list(&verdict["feeds"]),
                text(&verdict["severity"]),
            ),
        }
    }
    for listing in value["listings"].as_array().into_iter().flatten() {
        let why = listing["ignored"]
            .as_str()
            .map(|why| format!(", does not count: {why}"))
            .unwrap_or_default();
        println!(
            "listed by {}: {} ({}{why})",
            text(&listing["feed"]),
            text(&listing["indicator"]),
            text(&listing["action"])
        );
    }
    Ok(())
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
