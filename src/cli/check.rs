//! `feedgate check`: every mistake of the configuration at once.

use std::{io::IsTerminal, path::Path};

use super::{Failure, args::CONFIG};
use crate::config::{self, Config};

pub(super) fn check(file: &Path, print: bool) -> Result<(), Failure> {
    let text = std::fs::read_to_string(file).map_err(|e| cannot_read(file, &e))?;
    let origin = file.display().to_string();
    let outcome = config::parse(&text, &origin);
    if !outcome.diagnostics.is_empty() {
        let color = std::io::stderr().is_terminal();
        eprint!(
            "{}",
            with_newline(config::render(&outcome.diagnostics, &text, &origin, color))
        );
    }
    let Some(config) = outcome.config else {
        let errors = outcome
            .diagnostics
            .iter()
            .filter(|d| d.level == config::Level::Error)
            .count();
        return Err(Failure::config(format!(
            "{origin}: {errors} {}",
            if errors == 1 { "mistake" } else { "mistakes" }
        )));
    };
    check_files(&config)?;
    if print {
        print!("{}", config::to_toml(&config));
    } else {
        let warnings = outcome.diagnostics.len();
        let feeds = config.feeds.len();
        println!(
            "{origin}: good; {feeds} {}, {warnings} {}",
            if feeds == 1 { "feed" } else { "feeds" },
            if warnings == 1 { "warning" } else { "warnings" },
        );
    }
    Ok(())
}

/// Files that the configuration names and that are read only later.
fn check_files(config: &Config) -> Result<(), Failure> {
    let errors = crate::host::addresses::files(&config.exceptions.files).errors;
    let exceptions = errors.iter().map(|e| format!("exceptions.files: {e}"));
    let authorities = config.pull.ca_files.iter();
    let authorities = authorities.filter_map(|file| crate::fetch::authority(file).err());
    let lines: Vec<String> = exceptions
        .chain(authorities.map(|e| e.to_string()))
        .collect();
    if lines.is_empty() {
        return Ok(());
    }
    Err(Failure::config(lines.join("\nfeedgate: ")))
}

/// The configuration of a client command. Without the usual file the defaults are good enough to find the daemon.
pub(super) fn read(file: &Path) -> Result<Config, Failure> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && file == Path::new(CONFIG) => {
            return Ok(Config::default());
        }
        Err(e) => return Err(cannot_read(file, &e)),
    };
    let origin = file.display().to_string();
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
