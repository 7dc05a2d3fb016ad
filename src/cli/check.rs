//! `feedgate check`: every mistake of the configuration at once.

use std::{io::IsTerminal, path::Path};

use serde_json::{Value, json};

use super::{Failure, args::CONFIG, ask, table::visible};
use crate::{
    config::{self, Config, Diagnostic, HeaderValue, Outcome, TlsFiles},
    daemon::{CheckedFile, CheckedManifests, check_manifests},
    fetch,
    host::modes,
    manifest::Level,
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
            loose.extend(missing(config));
            (file_problems(config), loose)
        }
        None => (Vec::new(), Vec::new()),
    };
    let manifests = outcome
        .config
        .as_ref()
        .map(check_manifests)
        .unwrap_or_default();
    if as_json {
        ask::print_json(&report(&origin, &outcome, &problems, &loose, &manifests));
    } else {
        complain(&origin, &text, &outcome, &loose);
        complain_of_manifests(&manifests);
    }
    let mut warnings = loose.len() + outcome.warnings.len();
    let Some(config) = outcome.config else {
        let errors = outcome.diagnostics.len();
        return Err(Failure::config(format!(
            "{origin}: {errors} {}",
            if errors == 1 { "mistake" } else { "mistakes" }
        )));
    };
    if !problems.is_empty() {
        return Err(Failure::config(problems.join("\nfeedgate: ")));
    }
    let wrong = manifests.count();
    if wrong > 0 {
        let dir = config.manifests.dir.as_deref().unwrap_or(Path::new(""));
        return Err(Failure::config(format!(
            "{}: {wrong} {}",
            dir.display(),
            if wrong == 1 { "mistake" } else { "mistakes" }
        )));
    }
    warnings += manifests.warnings.len()
        + manifests
            .files
            .iter()
            .map(|f| f.mistakes.len())
            .sum::<usize>();
    if print {
        std::print!("{}", config::to_toml(&config));
    } else if !as_json {
        let feeds = config.feeds.len();
        let resources = match manifests.resources {
            0 => String::new(),
            1 => ", 1 resource of manifests".to_owned(),
            count => format!(", {count} resources of manifests"),
        };
        println!(
            "{origin}: good; {feeds} {}{resources}, {warnings} {}",
            if feeds == 1 { "feed" } else { "feeds" },
            if warnings == 1 { "warning" } else { "warnings" },
        );
    }
    Ok(())
}

/// What `--json` prints.
fn report(
    origin: &str,
    outcome: &Outcome,
    problems: &[String],
    loose: &[String],
    manifests: &CheckedManifests,
) -> Value {
    let diagnostic = |level: &'static str, d: &Diagnostic| {
        json!({ "level": level, "key": d.key, "message": d.message, "help": d.help,
            "line": d.line, "column": d.column })
    };
    let errors = outcome.diagnostics.iter().map(|d| diagnostic("error", d));
    let warnings = outcome.warnings.iter().map(|d| diagnostic("warning", d));
    let diagnostics: Vec<Value> = errors.chain(warnings).collect();
    json!({
        "file": origin,
        "good": outcome.config.is_some() && problems.is_empty() && manifests.count() == 0,
        "feeds": outcome.config.as_ref().map(|config| config.feeds.len()),
        "diagnostics": diagnostics,
        "file_errors": problems,
        "file_warnings": loose,
        "manifests": {
            "resources": manifests.resources,
            "mistakes": manifests.files.iter().flat_map(manifest_mistakes).collect::<Vec<_>>(),
            "errors": manifests.errors,
            "warnings": manifests.warnings,
        },
    })
}

fn manifest_mistakes(file: &CheckedFile) -> impl Iterator<Item = Value> {
    file.mistakes.iter().map(|m| {
        let level = if m.level == Level::Error { "error" } else { "warning" };
        json!({ "file": file.path, "level": level, "document": m.document, "resource": m.resource,
            "path": m.path, "message": m.message, "help": m.help, "line": m.line, "column": m.column })
    })
}

/// Mistakes in manifests, each with its line and a caret; what may be secret is not shown.
fn complain_of_manifests(manifests: &CheckedManifests) {
    for file in &manifests.files {
        let lines: Vec<&str> = file.text.lines().collect();
        for mistake in &file.mistakes {
            eprintln!("{}:{}", file.path.display(), visible(&mistake.to_string()));
            let line = mistake.line.checked_sub(1).and_then(|at| lines.get(at));
            let secret = ["headers", "url"]
                .iter()
                .any(|key| mistake.path.contains(key));
            if let Some(line) = line.filter(|line| !secret && line.len() < 200) {
                let (number, caret) = (mistake.line, mistake.column);
                eprintln!(" {number:>4} | {}\n      | {:>caret$}", visible(line), '^');
            }
        }
    }
    for error in &manifests.errors {
        eprintln!("error: {}", visible(error));
    }
    for warning in &manifests.warnings {
        eprintln!("warning: {}", visible(warning));
    }
}

/// Mistakes and warnings, to standard error.
fn complain(origin: &str, text: &str, outcome: &Outcome, loose: &[String]) {
    if !outcome.diagnostics.is_empty() {
        let color = std::io::stderr().is_terminal();
        let shown = config::render(&outcome.diagnostics, text, origin, color);
        std::eprint!("{}", with_newline(shown));
    }
    for warning in outcome.warnings(origin) {
        eprintln!("warning: {warning}");
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

/// Files that are not there, and that the daemon goes on without until they are.
fn missing(config: &Config) -> Vec<String> {
    let is_missing = |path: &Path| {
        std::fs::metadata(path).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
    };
    let mut found = Vec::new();
    for feed in config.feeds.iter().filter(|feed| feed.enabled) {
        for (header, value) in &feed.headers {
            if let HeaderValue::File(path) = value
                && is_missing(path)
            {
                found.push(format!(
                    "feed {}: {} is not there, the file for the header {header}: the feed is not pulled until it is",
                    feed.name,
                    path.display()
                ));
            }
        }
        let url = feed.url.as_ref().filter(|url| url.scheme() == "file");
        if let Some(path) = url.and_then(|url| url.to_file_path().ok())
            && is_missing(&path)
        {
            found.push(format!(
                "feed {}: {} is not there: it is not pulled until it is",
                feed.name,
                path.display()
            ));
        }
    }
    for target in &config.alerts.syslog {
        let TlsFiles { ca, cert, key } = &target.tls;
        let files = [ca, cert, key].into_iter().flatten();
        for path in files.filter(|path| is_missing(path)) {
            found.push(format!(
                "alerts.syslog {}: {} is not there: alerts for it wait until it is",
                target.address,
                path.display()
            ));
        }
    }
    found
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
