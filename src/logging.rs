//! The daemon's own log, on standard error: which lines it shows, also while it runs.
//!
//! `FEEDGATE_LOG` wins over `[daemon] log-level`; `feedgate log LEVEL` wins over both until the next
//! reload or start. Alerts do not pass here.

use std::{
    io::IsTerminal,
    sync::{Mutex, OnceLock, PoisonError},
};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    EnvFilter, Registry, fmt::MakeWriter, layer::SubscriberExt as _, reload,
    util::SubscriberInitExt as _,
};

use crate::config::LogLevel;

/// The variable of the environment that says what the log shows.
pub const VARIABLE: &str = "FEEDGATE_LOG";

/// What the log shows cannot be set.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LogError {
    /// The variable holds something else than levels.
    #[error(
        "FEEDGATE_LOG={value:?}: {part:?} is not a level; use error, warn, info, debug, trace or off, \
         or a level for one module, such as info,feedgate::fetch=debug"
    )]
    Unknown {
        /// What the variable holds.
        value: String,
        /// The part of it that is not understood.
        part: String,
    },
    /// The variable is not UTF-8.
    #[error("FEEDGATE_LOG is not UTF-8; use error, warn, info, debug, trace or off")]
    NotUtf8,
    /// The log cannot change while it runs.
    #[error("the log of this process cannot change: {0}")]
    Fixed(String),
}

/// The filter of the running log, and what it was made of.
struct Log {
    handle: reload::Handle<EnvFilter, Registry>,
    environment: Option<String>,
    shown: Mutex<String>,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Starts the log on `writer` at `info`, or as [`VARIABLE`] says; without times when systemd adds them.
pub fn start<W>(writer: W) -> Result<(), LogError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let environment = match std::env::var(VARIABLE) {
        Ok(value) => Some(value).filter(|value| !value.is_empty()),
        Err(std::env::VarError::NotPresent) => None,
        Err(std::env::VarError::NotUnicode(_)) => return Err(LogError::NotUtf8),
    };
    let usual = LogLevel::Info.as_str().to_owned();
    let shown = environment.clone().unwrap_or(usual);
    let (filter, handle) = reload::Layer::new(filter(&shown)?);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        // It would go to standard error too, and panic where nobody reads that.
        .log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(filter);
    let started = if std::env::var_os("JOURNAL_STREAM").is_some() {
        registry.with(lines.without_time()).try_init()
    } else {
        registry.with(lines).try_init()
    };
    started.map_err(|e| LogError::Fixed(e.to_string()))?;
    let _ = LOG.set(Log {
        handle,
        environment,
        shown: Mutex::new(shown),
    });
    Ok(())
}

/// Shows what the configuration says, unless [`VARIABLE`] says something.
pub fn configure(level: LogLevel) -> Result<(), LogError> {
    let environment = LOG.get().and_then(|log| log.environment.as_deref());
    show(environment.unwrap_or(level.as_str()))
}

/// Shows `level` and above, whatever the configuration and the environment say.
pub fn set(level: LogLevel) -> Result<(), LogError> {
    show(level.as_str())
}

/// What the log shows now, as [`VARIABLE`] would have it; `None` before [`start`].
pub fn shown() -> Option<String> {
    let log = LOG.get()?;
    let shown = log.shown.lock().unwrap_or_else(PoisonError::into_inner);
    Some(shown.clone())
}

fn show(directives: &str) -> Result<(), LogError> {
    let Some(log) = LOG.get() else {
        return Ok(());
    };
    let mut shown = log.shown.lock().unwrap_or_else(PoisonError::into_inner);
    if *shown != directives {
        let new = filter(directives)?;
        let reloaded = log.handle.reload(new);
        reloaded.map_err(|e| LogError::Fixed(e.to_string()))?;
        *shown = directives.to_owned();
    }
    Ok(())
}

/// The filter of `directives`: levels, and `MODULE=LEVEL`, with commas between. A word that is not a
/// level would name a module, and so silence all others.
fn filter(directives: &str) -> Result<EnvFilter, LogError> {
    let unknown = |part: &str| LogError::Unknown {
        value: directives.to_owned(),
        part: part.to_owned(),
    };
    let is_module = |text: &str| {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        !text.is_empty() && text.chars().all(word)
    };
    let parts: Vec<&str> = directives.split(',').map(str::trim).collect();
    for part in &parts {
        let (module, level) = match part.split_once('=') {
            Some((module, level)) => (Some(module), level),
            None => (None, *part),
        };
        // A number is a level for tracing, and nothing that a person would look for.
        let is_level =
            !level.bytes().all(|b| b.is_ascii_digit()) && level.parse::<LevelFilter>().is_ok();
        if !is_level || !module.is_none_or(is_module) {
            return Err(unknown(part));
        }
    }
    EnvFilter::try_new(parts.join(",")).map_err(|_| unknown(directives))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_not_a_level_is_named_and_never_silences_the_log() {
        for good in [
            "info",
            "WARN",
            "off",
            "info,feedgate::fetch=debug",
            "warn, reqwest=info",
        ] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for (bad, part) in [
            ("verbose", "verbose"),
            ("", ""),
            ("info,", ""),
            ("info,fetch", "fetch"),
            ("feedgate=loud", "feedgate=loud"),
            ("feedgate[span]=info", "feedgate[span]=info"),
            ("=info", "=info"),
            ("3", "3"),
        ] {
            let error = filter(bad).err();
            let expect = LogError::Unknown {
                value: bad.to_owned(),
                part: part.to_owned(),
            };
            assert_eq!(error, Some(expect), "{bad}");
        }
    }

    #[test]
    fn every_level_of_the_configuration_is_a_level_of_the_log() {
        for level in LogLevel::all() {
            assert!(filter(level.as_str()).is_ok(), "{level:?}");
        }
    }
}
