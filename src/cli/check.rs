//! `feedgate check`: every mistake of the configuration at once.

use std::{io::IsTerminal, path::Path};

use serde_json::{Value, json};

use super::{Failure, args::CONFIG, ask};
use crate::{
    config::{self, Config, Diagnostic, Level, Outcome},
    fetch,
    host::modes,
};

pub(super) fn check(file: &Path, print: bool, as_json: bool) -> Result<(), Failure> {
    let origin = file.display().to_string();
    let bytes = std::fs::read(file).map_err(|e| cannot_read(file, &e))?;
    let text = config::decode(bytes, &origin).map_err(Failure::config)?;
    let outcome = config::parse(&text, &origin);
    let (problems, loose) = match &outcome.config {
        Some(config) => {
            let mut loose = fetch::loose_headers(&config.feeds);
            loose.extend(modes::loose(file, config));
            (file_problems(config), loose)
        }
        None => (Vec::new(), Vec::new()),
    };
    if as_json {
        ask::print_json(&report(&origin, &outcome, &problems, &loose));
    } else {
        complain(&origin, &text, &outcome, &loose);
    }
    let warnings = outcome.diagnostics.len() + loose.len();
    let Some(config) = outcome.config else {
        let errors = outcome.diagnostics.iter();
        let errors = errors.filter(|d| d.level == Level::Error).count();
        return Err(Failure::config(format!(
            "{origin}: {errors} {}",
            if errors == 1 { "mistake" } else { "mistakes" }
        )));
    };
    if !problems.is_empty() {
        return Err(Failure::config(problems.join("\nfeedgate: ")));
    }
    if print {
        print!("{}", config::to_toml(&config));
    } else if !as_json {
        let feeds = config.feeds.len();
        println!(
            "{origin}: good; {feeds} {}, {warnings} {}",
            if feeds == 1 { "feed" } else { "feeds" },
            if warnings == 1 { "warning" } else { "warnings" },
        );
    }
    Ok(())
}

/// What `--json` prints.
fn report(origin: &str, outcome: &Outcome, problems: &[String], loose: &[String]) -> Value {
    let diagnostic = |d: &Diagnostic| {
        let level = match d.level {
            Level::Error => "error",
            Level::Warning => "warning",
        };
        json!({ "level": level, "key": d.key, "message": d.message, "help": d.help,
            "line": d.line, "column": d.column })
    };
    let diagnostics: Vec<Value> = outcome.diagnostics.iter().map(diagnostic).collect();
    json!({
        "file": origin,
        "good": outcome.config.is_some() && problems.is_empty(),
        "feeds": outcome.config.as_ref().map(|config| config.feeds.len()),
        "diagnostics": diagnostics,
        "file_errors": problems,
        "file_warnings": loose,
    })
}

/// Mistakes and warnings, to standard error.
fn complain(origin: &str, text: &str, outcome: &Outcome, loose: &[String]) {
    if !outcome.diagnostics.is_empty() {
        let color = std::io::stderr().is_terminal();
        let shown = config::render(&outcome.diagnostics, text, origin, color);
        eprint!("{}", with_newline(shown));
    }
    for warning in loose {
        eprintln!("warning: {warning}");
    }
}

/// What is wrong with files that the configuration names and that are read only later.
fn file_problems(config: &Config) -> Vec<String> {
    let errors = crate::host::addresses::files(&config.exceptions.files).errors;
    let exceptions = errors.iter().map(|e| format!("exceptions.files: {e}"));
    let authorities = config.pull.ca_files.iter();
    let authorities = authorities.filter_map(|file| fetch::authority(file).err());
    exceptions
        .chain(authorities.map(|e| e.to_string()))
        .collect()
}

/// The configuration of a client command. Without the usual file the defaults are good enough to find the daemon.
pub(super) fn read(file: &Path) -> Result<Config, Failure> {
    let origin = file.display().to_string();
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && file == Path::new(CONFIG) => {
            return Ok(Config::default());
        }
        Err(e) => return Err(cannot_read(file, &e)),
    };
    let text = config::decode(bytes, &origin).map_err(Failure::config)?;
    let outcome = config::parse(&text, &origin);
    outcome.config.ok_or_else(|| {
        let color = std::io::stderr().is_terminal();
        Failure::config(format!(
            "{origin}\n{}",
            config::render(&outcome.diagnostics, &text, &origin, color)
        ))
    })
}

fn cannot_read(file: &Path, error: &std::io::Error) -> Failure {
    let message = format!("cannot read {}: {error}", file.display());
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => Failure::permission(message),
        _ => Failure::config(format!(
            "{message}; name the configuration with --config FILE"
        )),
    }
}

fn with_newline(mut text: String) -> String {
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}
