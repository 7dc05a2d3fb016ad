//! What is wrong with a text, collected while it is read.

use std::fmt;

/// How bad a [`Mistake`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// The resource is refused.
    Error,
    /// The resource is taken all the same.
    Warning,
}

/// More mistakes of one document are only counted.
const LISTED: usize = 100;

/// One mistake, or one thing to know, about a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// An error refuses the resource; a warning does not.
    pub level: Level,
    /// Number of the document in the text, from 1.
    pub document: usize,
    /// `kind/name` of the resource, as far as they could be read.
    pub resource: Option<String>,
    /// Path with indexes from 0, `spec.egress[1].action`; empty for the whole document.
    pub path: String,
    /// What is wrong, without the path. Never holds a URL or a header's value.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

/// `LINE:COLUMN: error: document N (KIND/NAME): PATH: MESSAGE; HELP`, on one line.
impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Error => "error",
            Level::Warning => "warning",
        };
        write!(f, "{}:{}: {level}: ", self.line, self.column)?;
        write!(f, "document {}", self.document)?;
        if let Some(resource) = &self.resource {
            write!(f, " ({resource})")?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.message)?;
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

/// Each mistake on a line of its own behind the name of its file.
pub fn render(mistakes: &[Mistake], origin: &str) -> String {
    let lines = mistakes
        .iter()
        .map(|mistake| format!("{origin}:{mistake}\n"));
    lines.collect()
}

/// Bytes of the text, first and behind the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) start: usize,
    pub(super) end: usize,
}

/// What is wrong with a value, without its place and path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) message: String,
    pub(super) help: Option<String>,
    /// Where in a text, in characters from 1; `None`: all of it.
    pub(super) at: Option<usize>,
}

impl Problem {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: None,
            at: None,
        }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn at(mut self, character: usize) -> Self {
        self.at = Some(character);
        self
    }
}

/// What was found so far.
#[derive(Default)]
pub(super) struct Log {
    document: usize,
    resource: Option<String>,
    found: Vec<(usize, Mistake)>,
    /// Of this document.
    errors: usize,
    listed: usize,
    unlisted: usize,
}

impl Log {
    /// What comes now is of the next document.
    pub(super) fn next_document(&mut self) {
        self.close();
        self.document += 1;
        self.resource = None;
    }

    /// Number of the document, from 1.
    pub(super) fn document(&self) -> usize {
        self.document
    }

    /// What comes now is of this resource.
    pub(super) fn resource(&mut self, resource: Option<String>) {
        self.resource = resource;
    }

    /// Errors so far, of all documents.
    pub(super) fn errors(&self) -> usize {
        self.errors
    }

    pub(super) fn error(&mut self, path: &str, start: usize, problem: Problem) {
        self.errors += 1;
        self.push(Level::Error, path, start, problem);
    }

    pub(super) fn warning(&mut self, path: &str, start: usize, problem: Problem) {
        self.push(Level::Warning, path, start, problem);
    }

    /// Everything found, in the text's order.
    pub(super) fn finish(mut self, text: &str) -> (Vec<Mistake>, Lines) {
        self.close();
        let lines = Lines::new(text);
        let mut found = self.found;
        found.sort_by_key(|(start, mistake)| (mistake.document, *start));
        let mistakes = found
            .into_iter()
            .map(|(start, mistake)| {
                let (line, column) = lines.position(text, start);
                Mistake {
                    line,
                    column,
                    ..mistake
                }
            })
            .collect();
        (mistakes, lines)
    }

    fn push(&mut self, level: Level, path: &str, start: usize, problem: Problem) {
        if self.listed >= LISTED {
            self.unlisted += 1;
            return;
        }
        self.listed += 1;
        let mistake = Mistake {
            level,
            document: self.document.max(1),
            resource: self.resource.clone(),
            path: path.to_owned(),
            message: problem.message,
            help: problem.help,
            line: 0,
            column: 0,
        };
        self.found.push((start, mistake));
    }

    fn close(&mut self) {
        let more = std::mem::take(&mut self.unlisted);
        self.listed = 0;
        if more > 0
            && let Some((start, last)) = self.found.last().cloned()
        {
            let last = Mistake {
                message: format!("and {more} more mistakes in this document"),
                help: None,
                path: String::new(),
                resource: None,
                ..last
            };
            self.found.push((start, last));
        }
    }
}

/// Byte offsets into lines and columns.
pub(super) struct Lines(Vec<usize>);

impl Lines {
    fn new(text: &str) -> Self {
        let after = text.match_indices('\n').map(|(at, _)| at + 1);
        Self(std::iter::once(0).chain(after).collect())
    }

    /// Line, from 1, of byte `at`.
    pub(super) fn line(&self, at: usize) -> usize {
        self.0.partition_point(|start| *start <= at)
    }

    /// Line and column in characters, both from 1, of byte `at`.
    fn position(&self, text: &str, at: usize) -> (usize, usize) {
        let line = self.line(at);
        let start = line
            .checked_sub(1)
            .and_then(|i| self.0.get(i))
            .copied()
            .unwrap_or(0);
        let before = text.as_bytes().get(start..at.min(text.len()));
        // The first byte of each character, whatever is cut at the end.
        let before = before.unwrap_or_default();
        let characters = before.iter().filter(|b| **b & 0xc0 != 0x80).count();
        (line, characters + 1)
    }
}
