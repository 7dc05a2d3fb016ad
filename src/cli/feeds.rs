//! Commands about feeds: presets, push, accept, preview, lint.

#![allow(clippy::indexing_slicing)] // a missing key of a serde_json value reads as null

use std::{
    fmt,
    io::Read,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use super::{Failure, ask, check};
use crate::{
    config::{self, Format},
    control::{self, ClientError, MAX_BODY, Request},
    feed::{
        self, Cover, Direction, Finding, Known, Parsed, Refusal,
        formats::{Warninglist, parse_warninglist},
    },
    fetch,
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
        println!("  covers {}", ask::text(&row["share"]["text"]));
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
            let action = if flow["depends"] == true {
                "would be cut if policies deny its source"
            } else if flow["action"] == "deny" {
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

/// What lint found: for programs, a line about the whole, and a line for each finding.
struct Linted {
    findings: Value,
    head: String,
    lines: Vec<String>,
}

/// Lints a configured feed, or a file.
pub(super) fn lint(
    config: &Path,
    target: &str,
    known: &[PathBuf],
    read_as: Option<&str>,
    json: bool,
) -> Result<(), Failure> {
    let file = Path::new(target);
    let known = warninglists(known)?;
    let linted = if target == "-" || target.contains('/') || file.is_file() {
        let feed = read_as.map(|name| feed_or_preset(config, name));
        lint_file(file, &known, feed.transpose()?)?
    } else if read_as.is_some() {
        return Err(Failure::failed(
            "--as is for files; save the feed's text to a file and lint that",
        ));
    } else {
        lint_feed(config, target, &known)?
    };
    if json {
        ask::print_json(&linted.findings);
        return Ok(());
    }
    println!("{}", linted.head);
    if linted.lines.is_empty() {
        println!("  nothing odd");
    }
    for line in linted.lines {
        println!("  {line}");
    }
    Ok(())
}

fn warninglists(files: &[PathBuf]) -> Result<Vec<Warninglist>, Failure> {
    let list = |file: &PathBuf| {
        parse_warninglist(&read(file)?)
            .map_err(|e| Failure::failed(format!("{}: {e}", file.display())))
    };
    files.iter().map(list).collect()
}

/// In the daemon, which has the other feeds too; without one the feed is pulled here.
fn lint_feed(config: &Path, name: &str, known: &[Warninglist]) -> Result<Linted, Failure> {
    let lists: Vec<Value> = known
        .iter()
        .map(|list| json!({ "name": list.name, "prefixes": list.prefixes }))
        .collect();
    let lists = match lists.as_slice() {
        [] => Vec::new(),
        lists => json!(lists).to_string().into_bytes(),
    };
    let value = match control::lint(&ask::socket(config)?, name, &lists) {
        Ok(value) => value,
        Err(ClientError::NotRunning { .. }) => return lint_here(config, name, known),
        Err(e) => return Err(ask::failure(e)),
    };
    let row = &value[0];
    let lines = row["lines"].as_array().into_iter().flatten();
    Ok(Linted {
        findings: row["findings"].clone(),
        head: format!(
            "feed {name}: {} entries, covers {}",
            row["entries"],
            ask::text(&row["share"]["text"])
        ),
        lines: lines.filter_map(|l| Some(l.as_str()?.to_owned())).collect(),
    })
}

/// Pulls a feed and lints it without the others.
fn lint_here(config: &Path, name: &str, known: &[Warninglist]) -> Result<Linted, Failure> {
    let config = check::read(config)?;
    let mut feeds = config.feeds.into_iter();
    let Some(mut feed) = feeds.find(|feed| feed.name.as_str() == name) else {
        return Err(Failure::failed(format!(
            "no daemon runs, no feed is named {name} in its configuration, and there is no such file"
        )));
    };
    if let (Format::Crowdsec, Some(url)) = (feed.format, &mut feed.url) {
        // All decisions, not what changed since this key asked last.
        url.query_pairs_mut().append_pair("startup", "true");
    }
    let pull = async {
        let client = fetch::Client::new(config.pull)?;
        client.pull(&feed, None).await
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("starting the runtime: {e}")))?;
    eprintln!(
        "feedgate: no daemon runs: the feed is pulled for this, and other feeds are not known"
    );
    let text = match runtime.block_on(pull).map_err(Failure::failed)? {
        fetch::Pulled::Body { bytes, .. } => bytes,
        fetch::Pulled::Unchanged => Vec::new(),
    };
    let (parsed, linted) =
        examine(&text, feed, known).map_err(|e| Failure::failed(format!("feed {name}: {e}")))?;
    let head = format!(
        "feed {name}: {} entries, {}",
        parsed.count(),
        covers(&parsed)
    );
    Ok(Linted { head, ..linted })
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

/// Without a feed to read it as, the format of the text is guessed.
fn lint_file(
    file: &Path,
    known: &[Warninglist],
    read_as: Option<config::Feed>,
) -> Result<Linted, Failure> {
    let text = read(file)?;
    let hint = match read_as {
        Some(_) => "",
        None => "; a csv, json or jsonl text is read with --as FEED or --as PRESET",
    };
    let feed = match read_as {
        Some(feed) => feed,
        None => {
            let mut feed = config::Feed::new("file".parse().map_err(Failure::failed)?);
            feed.format = guess(&text);
            feed
        }
    };
    let refused =
        |why: &dyn fmt::Display| Failure::failed(format!("{}: {why}{hint}", file.display()));
    let plain = feed.format == Format::Plain;
    let (parsed, linted) = examine(&text, feed, known).map_err(|e| refused(&e))?;
    if plain && parsed.lines() == 0 && text.trim_ascii().starts_with(b"{") {
        return Err(refused(&"the JSON document has no member ips"));
    }
    let (entries, lines) = (parsed.count(), parsed.lines());
    let covers = covers(&parsed);
    let head = format!(
        "{}: {entries} entries in {lines} lines, {covers}",
        file.display()
    );
    Ok(Linted { head, ..linted })
}

/// How much of the address space entries cover, in words.
fn covers(parsed: &Parsed) -> String {
    format!("covers {}", Cover::of(parsed.prefixes().copied()).share())
}

/// Reads a text as that of `feed` and lints it; the head is left empty.
fn examine(
    text: &[u8],
    mut feed: config::Feed,
    known: &[Warninglist],
) -> Result<(Parsed, Linted), Refusal> {
    feed.allow_empty = true;
    feed.max_bad = 1.0; // the odd lines are what is asked for
    let mut good = Known::embedded();
    known.iter().for_each(|list| good.warninglist(list));
    let parsed = feed::read(text, &feed, SystemTime::now(), None)?;
    let findings: Vec<Finding> = feed::lint(&parsed, &[], &good);
    let linted = Linted {
        lines: findings.iter().map(ToString::to_string).collect(),
        findings: json!(findings),
        head: String::new(),
    };
    Ok((parsed, linted))
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
            "{} has more than {MAX_BODY} bytes, the most that is taken at once",
            file.display()
        )));
    }
    Ok(text)
}
