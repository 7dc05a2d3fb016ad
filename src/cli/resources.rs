//! `feedgate apply`, `get`, `describe` and `delete`, with kubectl's habits.
#![allow(clippy::indexing_slicing)] // a missing key of a serde_json value reads as null

use std::{
    collections::BTreeMap,
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{
    Failure, ask, describe,
    resource_args::{Apply, Delete, Describe, Form, Get, Which},
    table::{Table, terminal_width, visible},
};
use crate::{
    control::{self, ClientError, MAX_BODY, MAX_TEXTS, Request, Text},
    manifest::{self, LabelSelector, Target},
    resources,
};

pub(super) fn apply(config: &Path, args: &Apply) -> Result<(), Failure> {
    let body = body(&args.files.files)?;
    let request = Request::Apply {
        bytes: length(&body),
        dry_run: args.dry.run(),
    };
    let value = ask(config, &request, &body)?;
    warnings(&value);
    if args.json {
        ask::print_json(&value);
    } else {
        results(&value);
    }
    Ok(())
}

pub(super) fn get(config: &Path, args: &Get) -> Result<(), Failure> {
    let value = fetch(config, &args.which)?;
    let found: Vec<&Value> = items(&value["items"]).collect();
    match args.form() {
        Some(Form::Json) => {
            if let Some(document) = document(&args.which, &found) {
                ask::print_json(&document);
            }
        }
        Some(Form::Yaml) => {
            if let Some(document) = document(&args.which, &found) {
                std::print!("{}", manifest::to_yaml(&document));
            }
        }
        Some(Form::Name) => found
            .iter()
            .for_each(|item| println!("{}", full_name(item))),
        form => print!(
            "{}",
            tables(&found, form == Some(Form::Wide), terminal_width())
        ),
    }
    if matches!(args.form(), Some(Form::Json | Form::Yaml)) {
        notes(&found);
    }
    missing(&value, found.is_empty())
}

pub(super) fn describe(config: &Path, args: &Describe) -> Result<(), Failure> {
    let value = fetch(config, &args.which)?;
    let found: Vec<&Value> = items(&value["items"]).collect();
    if args.json {
        if let Some(document) = document(&args.which, &found) {
            ask::print_json(&document);
        }
    } else {
        let texts: Vec<String> = found.iter().map(|item| describe::render(item)).collect();
        print!("{}", texts.join("\n\n"));
    }
    notes(&found);
    missing(&value, found.is_empty())
}

pub(super) fn delete(config: &Path, args: &Delete) -> Result<(), Failure> {
    let body = if args.files.is_empty() {
        let targets = targets(&args.words)?;
        let is_whole = |target: &Target| matches!(target, Target::Kind(_));
        if !args.all && targets.iter().any(is_whole) {
            return Err(Failure::usage(
                "name what to delete: KIND NAME... or KIND/NAME..., or --all",
            ));
        }
        Vec::new()
    } else {
        body(&args.files)?
    };
    let request = Request::Delete {
        words: args.words.clone(),
        bytes: length(&body),
        ignore_not_found: args.ignore_not_found,
        dry_run: args.dry.run(),
    };
    let value = ask(config, &request, &body)?;
    warnings(&value);
    if args.json {
        ask::print_json(&value);
    } else {
        results(&value);
    }
    if args.all {
        return Ok(());
    }
    missing(&value, false)
}

/// What is asked for, as the daemon knows it.
fn fetch(config: &Path, which: &Which) -> Result<Value, Failure> {
    targets(&which.words)?;
    if let Some(selector) = &which.selector {
        selector
            .parse::<LabelSelector>()
            .map_err(|e| Failure::usage(format!("-l {selector}: {e}")))?;
    }
    let request = Request::Get {
        words: which.words.clone(),
        selector: which.selector.clone(),
        nets: which.window(),
    };
    ask(config, &request, &[])
}

fn targets(words: &[String]) -> Result<Vec<Target>, Failure> {
    manifest::targets(words.iter().map(String::as_str)).map_err(Failure::usage)
}

fn ask(config: &Path, request: &Request, body: &[u8]) -> Result<Value, Failure> {
    let asked = control::call_with(&ask::socket(config)?, request, body);
    asked.map_err(|error| match error {
        ClientError::Refused(message) => refused(&message),
        other => ask::failure(other),
    })
}

/// Mistakes each on a line, then kubectl's word for the whole.
fn refused(message: &str) -> Failure {
    let (lines, last) = message.rsplit_once('\n').unwrap_or(("", message));
    for line in lines.lines() {
        eprintln!("{}", visible(line));
    }
    eprintln!("Error: {}", visible(last));
    Failure::failed("")
}

/// The manifests of files, folders and standard input, as a request takes them.
fn body(files: &[PathBuf]) -> Result<Vec<u8>, Failure> {
    let mut texts = Vec::new();
    let mut has_stdin = false;
    for file in files {
        if file == Path::new("-") {
            if std::mem::replace(&mut has_stdin, true) {
                return Err(Failure::usage("-f -: standard input can be read once"));
            }
            texts.push(text("standard input", io::stdin())?);
        } else if file.is_dir() {
            folder(file, &mut texts)?;
        } else {
            let name = file.display().to_string();
            let opened = std::fs::File::open(file)
                .map_err(|e| Failure::failed(format!("cannot read {name}: {e}")))?;
            texts.push(text(&name, opened)?);
        }
    }
    if texts.len() > MAX_TEXTS {
        return Err(Failure::failed(format!(
            "{} manifests are more than can be sent at once ({MAX_TEXTS})",
            texts.len()
        )));
    }
    serde_json::to_vec(&texts).map_err(Failure::failed)
}

fn folder(folder: &Path, texts: &mut Vec<Text>) -> Result<(), Failure> {
    let files = resources::read(folder)
        .map_err(|e| Failure::failed(format!("cannot read {}: {}", folder.display(), e.source)))?;
    if files.is_empty() {
        return Err(Failure::failed(format!(
            "{} holds no manifest: *.yaml, *.yml or *.json",
            folder.display()
        )));
    }
    for file in files {
        let name = folder.join(&file.name).display().to_string();
        let text = file
            .text
            .map_err(|why| Failure::failed(format!("{name}: {why}")))?;
        texts.push(Text { name, text });
    }
    Ok(())
}

fn text(name: &str, source: impl Read) -> Result<Text, Failure> {
    let failed = |e: io::Error| Failure::failed(format!("cannot read {name}: {e}"));
    let mut bytes = Vec::new();
    source
        .take(MAX_BODY + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if length(&bytes) > MAX_BODY {
        return Err(Failure::failed(format!(
            "{name} has more than {MAX_BODY} bytes, the most that is taken at once; split it"
        )));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::failed(format!("{name} is not UTF-8: a manifest is text")))?;
    Ok(Text {
        name: name.to_owned(),
        text,
    })
}

fn length(body: &[u8]) -> u64 {
    u64::try_from(body.len()).unwrap_or(u64::MAX)
}

fn warnings(value: &Value) {
    for warning in items(&value["warnings"]) {
        eprintln!("Warning: {}", visible(ask::text(warning)));
    }
}

/// `globalthreatfeed.projectcalico.org/NAME created`
fn results(value: &Value) {
    let dry = if value["dry_run"] == true {
        " (dry run)"
    } else {
        ""
    };
    for row in items(&value["results"]) {
        println!("{} {}{dry}", full_name(row), ask::text(&row["result"]));
    }
}

/// What was asked for by name and is not there; without names, that nothing is there.
fn missing(value: &Value, nothing: bool) -> Result<(), Failure> {
    let mut any = false;
    for row in items(&value["missing"]) {
        let plural = ask::text(&row["kind"]);
        eprintln!(
            "Error: {plural}.projectcalico.org \"{}\" not found; feedgate get {plural} lists them",
            visible(ask::text(&row["name"]))
        );
        any = true;
    }
    if any {
        return Err(Failure::failed(""));
    }
    if nothing {
        eprintln!("No resources found");
    }
    Ok(())
}

/// One object where one was named, nothing where that is not there, else a list, as kubectl has it.
fn document(which: &Which, found: &[&Value]) -> Option<Value> {
    let names_one = match which.words.as_slice() {
        [one] => one.contains('/'),
        [kinds, _] => !kinds.contains(['/', ',']),
        _ => false,
    };
    match found {
        [one] if names_one => Some(one["object"].clone()),
        [] if names_one => None,
        all => {
            let objects: Vec<&Value> = all.iter().map(|item| &item["object"]).collect();
            Some(json!({ "apiVersion": "v1", "kind": "List", "items": objects }))
        }
    }
}

/// Which nets of long network sets are shown.
fn notes(found: &[&Value]) {
    for note in found.iter().filter_map(|item| item["note"].as_str()) {
        eprintln!("# {note}");
    }
}

fn full_name(row: &Value) -> String {
    let (kind, name) = (ask::text(&row["kind"]), ask::text(&row["name"]));
    format!("{kind}.projectcalico.org/{}", visible(name))
}

/// A table for each kind; where there are several, names begin with their kind.
fn tables(found: &[&Value], wide: bool, width: Option<usize>) -> String {
    let mut kinds: Vec<&str> = Vec::new();
    let mut rows: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for item in found {
        let kind = ask::text(&item["kind"]);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
        rows.entry(kind).or_default().push(item);
    }
    let several = kinds.len() > 1;
    let one = |kind: &&str| {
        let rows = rows.get(kind).map(Vec::as_slice).unwrap_or_default();
        table(rows, several, wide, width)
    };
    let tables: Vec<String> = kinds.iter().map(one).collect();
    tables.join("\n")
}

fn table(rows: &[&Value], full: bool, wide: bool, width: Option<usize>) -> String {
    let columns = |item: &Value| -> Vec<(String, String)> {
        let keys = ["columns", "wide"];
        let keys = keys.iter().take(if wide { 2 } else { 1 });
        keys.flat_map(|key| items(&item[*key]).cloned().collect::<Vec<_>>())
            .map(|pair| {
                let cell = |at: usize| pair[at].as_str().unwrap_or_default().to_owned();
                (cell(0), cell(1))
            })
            .collect()
    };
    let first = rows.first().map(|item| columns(item)).unwrap_or_default();
    let mut heads = vec!["NAME"];
    heads.extend(first.iter().map(|(head, _)| head.as_str()));
    // The last column is the longest text; it is not cut where the terminal is not known.
    let mut table = Table::new(&heads, heads.len().saturating_sub(1));
    for item in rows {
        let name = if full {
            full_name(item)
        } else {
            ask::text(&item["name"]).to_owned()
        };
        let mut cells = vec![name];
        cells.extend(columns(item).into_iter().map(|(_, cell)| cell));
        table.add(cells);
    }
    table.render(width)
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kind: &str, name: &str) -> Value {
        json!({ "kind": kind, "name": name, "columns": [["ORDER", "300"]], "wide": [["SOURCE", "applied"]],
            "object": { "kind": kind } })
    }

    #[test]
    fn one_kind_is_a_table_and_several_name_theirs() {
        let (tier, set) = (row("tier", "a"), row("globalnetworkset", "b"));
        assert_eq!(tables(&[&tier], false, None), "NAME  ORDER\na     300\n");
        assert_eq!(
            tables(&[&tier], true, None),
            "NAME  ORDER  SOURCE\na     300    applied\n"
        );
        assert_eq!(
            tables(&[&tier, &set], false, None),
            "NAME                       ORDER\ntier.projectcalico.org/a   300\n\n\
             NAME                                  ORDER\nglobalnetworkset.projectcalico.org/b  300\n"
                .replace("org/a   300", "org/a  300")
                .replace("NAME                       ORDER", "NAME                      ORDER")
        );
    }

    #[test]
    fn what_is_named_alone_is_an_object_and_all_else_a_list() {
        let item = row("tier", "a");
        let which = |words: &[&str]| Which::of(words);
        let kind = |words: &[&str], found: &[&Value]| {
            document(&which(words), found).map(|document| document["kind"].clone())
        };
        assert_eq!(kind(&["tier", "a"], &[&item]), Some(json!("tier")));
        assert_eq!(kind(&["tier/a"], &[&item]), Some(json!("tier")));
        assert_eq!(kind(&["tiers"], &[&item]), Some(json!("List")));
        let all = document(&which(&["tier/a", "tier/b"]), &[&item, &item]).unwrap();
        assert_eq!(all["items"].as_array().unwrap().len(), 2);
        // One of two that were named is a list of one, whichever way they were.
        assert_eq!(kind(&["tier/a", "tier/b"], &[&item]), Some(json!("List")));
        assert_eq!(kind(&["tier,gns", "a"], &[&item]), Some(json!("List")));
        // What is not there is no document; an empty kind is an empty list.
        assert_eq!(kind(&["tier", "a"], &[]), None);
        assert_eq!(kind(&["tier/a"], &[]), None);
        assert_eq!(kind(&["tiers"], &[]), Some(json!("List")));
    }
}
