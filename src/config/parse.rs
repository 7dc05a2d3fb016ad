//! From text to [`Config`], or to all that is wrong with it.

use toml::de::DeTable;

use super::{
    Config,
    diagnostic::Diagnostic,
    feeds,
    log::{Lines, Log},
    read::Table,
    sections,
};

/// Longer texts are refused unread, in bytes.
const LONGEST: usize = 1 << 20;

/// More errors than that are counted, not shown.
const SHOWN: usize = 100;

/// What came of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The configuration; `None` when there is a mistake.
    pub config: Option<Config>,
    /// All mistakes, in the text's order.
    pub diagnostics: Vec<Diagnostic>,
    /// Keys that are right and do nothing in this version, in the text's order.
    pub warnings: Vec<Diagnostic>,
}

impl Outcome {
    /// The warnings, each with its place; `origin` is the file's name.
    pub fn warnings(&self, origin: &str) -> impl Iterator<Item = String> {
        self.warnings
            .iter()
            .map(move |w| format!("{origin}:{}:{}: {w}", w.line, w.column))
    }
}

/// Reads `text`; `origin` is the file's name, for messages about the whole of it.
///
/// Finds every mistake in one pass. Behind a syntax error only further syntax errors are found:
/// what the rest means is unknown.
pub fn parse(text: &str, origin: &str) -> Outcome {
    if text.len() > LONGEST {
        return Outcome {
            config: None,
            diagnostics: vec![whole(format!(
                "{origin} is larger than {LONGEST} bytes; move lists to files"
            ))],
            warnings: Vec::new(),
        };
    }
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut diagnostics = syntax(text, &errors);
    let (config, (found, mut warnings)) = read(text, root.get_ref(), errors.is_empty());
    let clear = errors
        .iter()
        .filter(|error| !is_duplicate(error))
        .filter_map(toml::de::Error::span)
        .map(|span| line_start(text, span.start))
        .min();
    diagnostics.extend(
        found
            .into_iter()
            .filter(|diagnostic| clear.is_none_or(|clear| diagnostic.span.end < clear)),
    );
    diagnostics.sort_by_key(|diagnostic| (diagnostic.span.start, diagnostic.span.end));
    let failed = !diagnostics.is_empty();
    shorten(&mut diagnostics);
    shorten(&mut warnings);
    Outcome {
        config: (!failed).then_some(config),
        diagnostics,
        warnings,
    }
}

/// The text of a file; `origin` is its name. The error says where it is no UTF-8.
pub fn decode(bytes: Vec<u8>, origin: &str) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|error| {
        let end = error.utf8_error().valid_up_to();
        let good = error.as_bytes().get(..end).unwrap_or_default();
        let good = std::str::from_utf8(good).unwrap_or_default();
        let (line, column) = Lines::new(good).position(end);
        format!("{origin}:{line}:{column}: not UTF-8; save the file as UTF-8")
    })
}

fn read(
    text: &str,
    root: &DeTable<'_>,
    complete: bool,
) -> (Config, (Vec<Diagnostic>, Vec<Diagnostic>)) {
    let mut log = Log::new(text, complete);
    let root = Table::root(&mut log, root);
    let config = Config {
        daemon: sections::daemon(&mut log, &root),
        nftables: sections::nftables(&mut log, &root),
        exceptions: sections::exceptions(&mut log, &root),
        pull: sections::pull(&mut log, &root),
        feeds: feeds::feeds(&mut log, &root),
        consensus: sections::consensus(&mut log, &root),
        attribution: sections::attribution(&mut log, &root),
        host: sections::host(&mut log, &root),
        arm: sections::arm(&mut log, &root),
        alerts: sections::alerts(&mut log, &root),
        metrics: sections::metrics(&mut log, &root),
        manifests: sections::manifests(&mut log, &root),
    };
    (config, log.finish())
}

/// The first syntax error of each line: the others there mostly follow from it.
fn syntax(text: &str, errors: &[toml::de::Error]) -> Vec<Diagnostic> {
    let lines = Lines::new(text);
    let mut found: Vec<Diagnostic> = errors
        .iter()
        .map(|error| {
            let span = error.span().unwrap_or(0..0);
            let (line, column) = lines.position(span.start);
            Diagnostic {
                line,
                column,
                span,
                ..whole(error.message().to_owned())
            }
        })
        .collect();
    found.sort_by_key(|diagnostic| diagnostic.span.start);
    found.dedup_by_key(|diagnostic| diagnostic.line);
    found
}

/// The same key or table twice: the parser knows the rest of the text all the same.
fn is_duplicate(error: &toml::de::Error) -> bool {
    error.message() == "duplicate key"
}

fn line_start(text: &str, at: usize) -> usize {
    text.get(..at)
        .and_then(|before| before.rfind('\n'))
        .map_or(0, |newline| newline + 1)
}

fn shorten(diagnostics: &mut Vec<Diagnostic>) {
    let more = diagnostics.len().saturating_sub(SHOWN);
    if more == 0 {
        return;
    }
    diagnostics.truncate(SHOWN);
    if let Some(last) = diagnostics.last_mut() {
        last.help = Some(format!("and {more} more"));
    }
}

/// An error that has no place.
fn whole(message: String) -> Diagnostic {
    Diagnostic {
        key: String::new(),
        message,
        help: None,
        line: 1,
        column: 1,
        span: 0..0,
        related: None,
    }
}
