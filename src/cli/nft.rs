//! `feedgate nft print`: the ruleset in nft syntax.

use std::{collections::BTreeSet, path::Path};

use serde_json::{Value, json};

use super::{Failure, ask, check};
use crate::{
    config::Config,
    control::{self, ClientError, Request},
    feed::Action,
    prefix::Family,
    ruleset::{self, Options},
    snapshot::{Class, Kind, SetName},
};

pub(super) fn print(file: &Path, as_json: bool) -> Result<(), Failure> {
    let config = check::read(file)?;
    let (text, from) = match control::call(&config.daemon.control_socket, &Request::Ruleset) {
        Ok(Value::String(text)) => (text, "daemon"),
        Ok(_) => {
            return Err(Failure::failed(
                "the daemon did not answer with a text; is it another version?",
            ));
        }
        Err(ClientError::NotRunning { .. } | ClientError::Permission { .. }) => {
            eprintln!(
                "feedgate: no daemon was asked: this is what the configuration gives once every feed has data"
            );
            (from_config(&config), "configuration")
        }
        Err(e) => return Err(ask::failure(e)),
    };
    if as_json {
        ask::print_json(&json!({ "from": from, "ruleset": text }));
    } else {
        print!("{text}");
    }
    Ok(())
}

/// The table with every set that the feeds may fill.
fn from_config(config: &Config) -> String {
    let mut present = BTreeSet::new();
    for feed in config.feeds.iter().filter(|feed| feed.enabled) {
        let class = match feed.action {
            Action::Deny => Class::Deny,
            Action::Alert => Class::Watch,
        };
        for family in [Family::V4, Family::V6] {
            for kind in [Kind::Hosts, Kind::Nets] {
                present.insert(SetName::Class {
                    class,
                    scope: feed.scope,
                    kind,
                    family,
                });
                present.insert(SetName::Coarse { kind, family });
            }
        }
    }
    ruleset::build(&Options::new(&config.nftables), &present).to_string()
}
