//! Commands about feeds: presets, push, accept, preview, lint.

#![allow(clippy::indexing_slicing)] // a missing key of a serde_json value reads as null

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use super::{Failure, ask, check};
use crate::{
    config::{self, Format},
    control::{self, MAX_BODY, Request},
    feed::{self, Direction, Finding, Known, formats::parse_warninglist},
};

fn presets_list() -> Value {
    let row = |p: &feed::Preset| {
        let directions = directions(p);
        json!({ "name": p.name, "about": p.about, "url": p.url, "licence": p.licence, "note": p.note,
            "origin": p.origin, "format": p.format(), "period-seconds": p.period,
            "directions": directions, "min-score": p.min_score })
    };
    feed::presets().iter().map(row).collect()
}

fn directions(preset: &feed::Preset) -> Vec<Direction> {
    let both = [Direction::Egress, Direction::Ingress];
    both.into_iter()
        .filter(|direction| preset.scope().covers(*direction))
        .collect()
}

pub(super) fn presets(json: bool) -> Result<(), Failure> {
    if json {
        ask::print_json(&presets_list());
        return Ok(());
    }
    for preset in feed::presets() {
        println!("{:<18} {}", preset.name, preset.about);
        println!("{:18} {}", "", preset.url);
        let period = Duration::from_secs(preset.period);
        let directions: Vec<&str> = directions(preset).iter().map(|d| d.as_str()).collect();
        println!(
            "{:18} {} every {}, {}",
            "",
            preset.format(),
            humantime::format_duration(period),
            directions.join(" and ")
        );
        println!("{:18} licence: {}", "", preset.licence);
        if !preset.note.is_empty() {
            println!("{:18} note: {}", "", preset.note);
        }
    }
    Ok(())
}

pub(super) fn accept(config: &Path, feed: String) -> Result<(), Failure> {
    let value = ask::daemon(config, &Request::Accept { feed })?;
    println!(
        "{}: accepted, in the kernel, {} entries",
        ask::text(&value["feed"]),
        value["entries"]
    );
    Ok(())
}

pub(super) fn push(config: &Path, feed: &str, file: &Path) -> Result<(), Failure> {
    let text = read(file)?;
    let value = control::push(&ask::socket(config)?, feed, &text).map_err(ask::failure)?;
    println!(
        "{}: taken, in the kernel, {} entries",
        ask::text(&value["feed"]),
        value["entries"]
    );
    Ok(())
}

pub(super) fn preview(config: &Path, feed: Option<String>, json: bool) -> Result<(), Failure> {
    let value = ask::daemon(
        config,
        &Request::Refresh {
            feed,
            dry_run: true,
        },
    )?;
    if json {
        ask::print_json(&value);
        return Ok(());
    }
    for row in value.as_array().into_iter().flatten() {
        println!(
            "{}: {} entries; nothing was changed",
            ask::text(&row["feed"]),
            row["entries"]
        );
        if let Some(why) = row["refused"].as_str() {
            println!("  it would be held back: {why}");
        }
        for (key, sign) in [("added", '+'), ("removed", '-')] {
            let examples = ask::list(&row[format!("{key}_examples")]);
            let such = if examples.is_empty() {
                String::new()
            } else {
                format!(": {examples}")
            };
            println!("  {sign} {} entries{such}", row[key]);
        }
        println!(
            "  kernel: {} elements come, {} go",
            row["elements_added"], row["elements_removed"]
        );
        for finding in row["findings"].as_array().into_iter().flatten() {
            println!("  lint: {}", ask::text(&finding["text"]));
        }
        for flow in row["flows"]["examples"].as_array().into_iter().flatten() {
            let action = if flow["action"] == "deny" {
                "would be cut"
            } else {
                "would be alerted"
            };
            println!(
                "  established flow {action}: {} ({})",
                ask::text(&flow["flow"]),
                ask::text(&flow["indicator"])
            );
        }
    }
    Ok(())
}

/// Lints a configured feed in the daemon, or a file here.
pub(super) fn lint(
    config: &Path,
    target: &str,
    known: &[PathBuf],
    read_as: Option<&str>,
    json: bool,
) -> Result<(), Failure> {
    let file = Path::new(target);
    let (findings, head, lines) = if target == "-" || target.contains('/') || file.is_file() {
        let feed = read_as.map(|name| feed_or_preset(config, name));
        lint_file(file, known, feed.transpose()?)?
    } else if !known.is_empty() || read_as.is_some() {
        let option = if known.is_empty() { "--as" } else { "--known" };
        return Err(Failure::failed(format!(
            "{option} is for files; save the feed's text to a file and lint that"
        )));
    } else {
        let value = ask::daemon(
            config,
            &Request::Lint {
                feed: Some(target.to_owned()),
            },
        )?;
        let row = &value[0];
        let lines = row["lines"].as_array().into_iter().flatten();
        (
            row["findings"].clone(),
            format!("feed {target}: {} entries", row["entries"]),
            lines.filter_map(|l| Some(l.as_str()?.to_owned())).collect(),
        )
    };
    if json {
        ask::print_json(&findings);
        return Ok(());
    }
    println!("{head}");
    if lines.is_empty() {
        println!("  nothing odd");
    }
    for line in lines {
        println!("  {line}");
    }
    Ok(())
}

/// A feed of the configuration, or a preset.
fn feed_or_preset(config: &Path, name: &str) -> Result<config::Feed, Failure> {
    let mut feeds = check::read(config)?.feeds.into_iter();
    if let Some(feed) = feeds.find(|feed| feed.name.as_str() == name) {
        return Ok(feed);
    }
    let preset = feed::Preset::find(name).ok_or_else(|| {
        Failure::failed(format!(
            "--as: neither a feed of {} nor a preset is named {name}; `feedgate feeds presets` lists them",
            config.display()
        ))
    })?;
    Ok(preset.feed(name.parse().map_err(Failure::failed)?))
}

/// The findings, a line about the whole, and a line for each finding. Without a feed to read it as, the
/// format of the text is guessed.
fn lint_file(
    file: &Path,
    known: &[PathBuf],
    read_as: Option<config::Feed>,
) -> Result<(Value, String, Vec<String>), Failure> {
    const HINT: &str = "a csv, json or jsonl text is read with --as FEED or --as PRESET";
    let text = read(file)?;
    let hint = if read_as.is_some() { "" } else { HINT };
    let mut feed = match read_as {
        Some(feed) => feed,
        None => {
            let mut feed = config::Feed::new("file".parse().map_err(Failure::failed)?);
            feed.format = guess(&text);
            feed
        }
    };
    feed.allow_empty = true;
    feed.max_bad = 1.0; // the odd lines are what is asked for
    let mut good = Known::embedded();
    for list in known {
        let list = parse_warninglist(&read(list)?)
            .map_err(|e| Failure::failed(format!("{}: {e}", list.display())))?;
        good.warninglist(&list);
    }
    let refused = |why: &dyn std::fmt::Display| {
        let hint = if hint.is_empty() {
            String::new()
        } else {
            format!("; {hint}")
        };
        Failure::failed(format!("{}: {why}{hint}", file.display()))
    };
    let parsed =
        feed::read(&text, &feed, SystemTime::now(), None).map_err(|error| refused(&error))?;
    if feed.format == Format::Plain && parsed.lines() == 0 && text.trim_ascii().starts_with(b"{") {
        return Err(refused(&"the JSON document has no member ips"));
    }
    let findings: Vec<Finding> = feed::lint(&parsed, &[], &good);
    let head = format!(
        "{}: {} entries in {} lines",
        file.display(),
        parsed.count(),
        parsed.lines()
    );
    let lines = findings.iter().map(ToString::to_string).collect();
    Ok((json!(findings), head, lines))
}

/// The formats that can be told from the text alone; all else is plain.
fn guess(text: &[u8]) -> Format {
    let Ok(Value::Object(members)) = serde_json::from_slice(text) else {
        return Format::Plain;
    };
    let has = |key: &str| members.contains_key(key);
    match () {
        () if has("objects") => Format::Stix,
        () if has("new") || has("deleted") => Format::Crowdsec,
        () => Format::Plain,
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let result = if file == Path::new("-") {
        std::io::stdin().take(MAX_BODY + 1).read_to_end(&mut text)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(MAX_BODY + 1).read_to_end(&mut text))
    };
    result.map_err(|e| Failure::failed(format!("cannot read {}: {e}", file.display())))?;
    if u64::try_from(text.len()).is_ok_and(|len| len > MAX_BODY) {
        return Err(Failure::failed(format!(
            "{} has more than {MAX_BODY} bytes",
            file.display()
        )));
    }
    Ok(text)
}
