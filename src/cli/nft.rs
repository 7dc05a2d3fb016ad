//! `feedgate nft print`: the ruleset in nft syntax.

use std::{collections::BTreeSet, path::Path};

use serde_json::{Value, json};

use super::{Failure, ask, check};
use crate::{
    config::Config,
    control::{self, ClientError, Request},
    feed::Action,
    prefix::Family,
    ruleset::{self, Options, TableFamily},
    snapshot::{Class, Kind, SetName},
};

/// Where a ruleset comes from that no daemon was asked for.
const FILE: &str = "configuration";

/// `nft print --base`
pub(super) fn base(file: &Path, as_json: bool) -> Result<(), Failure> {
    show(&ruleset::base(&options_for_files(file)?), FILE, as_json);
    Ok(())
}

/// `nft print --inspect`
pub(super) fn inspect(file: &Path, as_json: bool) -> Result<(), Failure> {
    show(&ruleset::inspect(&options_for_files(file)?), FILE, as_json);
    Ok(())
}

fn show(text: &str, from: &str, as_json: bool) {
    if as_json {
        ask::print_json(&json!({ "from": from, "ruleset": text }));
    } else {
        print!("{text}");
    }
}

/// The files are for tables of family inet, which see both IP versions.
fn options_for_files(file: &Path) -> Result<Options, Failure> {
    let options = Options::new(&check::read(file)?.nftables);
    match options.include {
        None | Some(TableFamily::Inet) => Ok(options),
        Some(other) => Err(Failure::config(format!(
            "the files are written for family inet, and nftables.family is \"{}\": \
             write the sets by hand, as in nft/examples/server.nft",
            other.as_str()
        ))),
    }
}

pub(super) fn print(file: &Path, elements: bool, as_json: bool) -> Result<(), Failure> {
    let config = check::read(file)?;
    let request = Request::Ruleset { elements };
    let (text, from) = match control::call(&config.daemon.control_socket, &request) {
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
            let mut text = from_config(&config);
            if elements {
                text.push_str(&stored(&config)?);
            }
            (text, FILE)
        }
        Err(e) => return Err(ask::failure(e)),
    };
    show(&text, from, as_json);
    Ok(())
}

/// The elements that the last daemon left in the state folder.
fn stored(config: &Config) -> Result<String, Failure> {
    let file = config.daemon.state_dir.join("sets.nft");
    std::fs::read_to_string(&file).map_err(|e| {
        Failure::failed(format!(
            "no daemon runs, and {} cannot be read: {e}",
            file.display()
        ))
    })
}

/// The table with every set that the feeds may fill; in mode include the sets that it needs.
fn from_config(config: &Config) -> String {
    let options = Options::new(&config.nftables);
    let present = present(config);
    match options.include {
        None => ruleset::build(&options, &present).to_string(),
        Some(family) => {
            let sets = present
                .into_iter()
                .filter(|name| matches!(name, SetName::Class { .. }) && family.sees(name.family()));
            ruleset::declarations(&options, sets)
        }
    }
}

fn present(config: &Config) -> BTreeSet<SetName> {
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
                present.insert(SetName::Resolvers { family });
            }
        }
    }
    present
}
