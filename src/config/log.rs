//! What is wrong with a text, collected while it is read.

use std::{collections::BTreeMap, ops::Range};

use super::{
    diagnostic::{Diagnostic, Level, Related, boundary},
    keys,
    value::Problem,
};

/// What was found so far.
pub(super) struct Log<'t> {
    lines: Lines<'t>,
    found: Vec<Diagnostic>,
    /// Position in `found` and further lines of each key that is not in effect.
    pending: BTreeMap<String, (usize, Vec<usize>)>,
    /// False when syntax errors hide parts of the text: then nothing counts as missing.
    pub(super) complete: bool,
}

impl<'t> Log<'t> {
    pub(super) fn new(text: &'t str, complete: bool) -> Self {
        Self {
            lines: Lines::new(text),
            found: Vec::new(),
            pending: BTreeMap::new(),
            complete,
        }
    }

    pub(super) fn error(&mut self, key: &str, span: Range<usize>, problem: Problem) {
        self.push(Level::Error, key, span, problem, None);
    }

    /// An error with a second place.
    pub(super) fn error_with(
        &mut self,
        key: &str,
        span: Range<usize>,
        problem: Problem,
        related: Related,
    ) {
        self.push(Level::Error, key, span, problem, Some(related));
    }

    /// Warns, once for each `path` of [`keys`] that is not in effect, that nothing comes of it.
    pub(super) fn pending(&mut self, path: &str, span: Range<usize>) {
        if keys::in_effect(path) {
            return;
        }
        if let Some((_, more)) = self.pending.get_mut(path) {
            more.push(self.lines.position(span.start).0);
            return;
        }
        self.pending
            .insert(path.to_owned(), (self.found.len(), Vec::new()));
        let problem = Problem::new("not in effect in this version");
        self.push(Level::Warning, path, span, problem, None);
    }

    /// Everything found, in the text's order.
    pub(super) fn finish(mut self) -> Vec<Diagnostic> {
        const LISTED: usize = 8;
        for (at, more) in self.pending.into_values() {
            if let Some(diagnostic) = self.found.get_mut(at)
                && !more.is_empty()
            {
                let mut lines: Vec<String> =
                    more.iter().take(LISTED).map(usize::to_string).collect();
                if more.len() > LISTED {
                    lines.push("...".to_owned());
                }
                let word = if more.len() == 1 { "line" } else { "lines" };
                diagnostic.help = Some(format!("also in {word} {}", lines.join(", ")));
            }
        }
        self.found
            .sort_by_key(|diagnostic| (diagnostic.span.start, diagnostic.span.end));
        self.found
    }

    fn push(
        &mut self,
        level: Level,
        key: &str,
        span: Range<usize>,
        problem: Problem,
        related: Option<Related>,
    ) {
        let (line, column) = self.lines.position(span.start);
        self.found.push(Diagnostic {
            level,
            key: key.to_owned(),
            message: problem.message,
            help: problem.help,
            line,
            column,
            span,
            related,
        });
    }
}

/// Byte offsets into lines and columns.
pub(super) struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let after = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            text,
            starts: std::iter::once(0).chain(after).collect(),
        }
    }

    /// Line and column in characters, both from 1, of byte `at`.
    pub(super) fn position(&self, at: usize) -> (usize, usize) {
        let at = boundary(self.text, at);
        let line = self.starts.partition_point(|start| *start <= at);
        let start = line
            .checked_sub(1)
            .and_then(|i| self.starts.get(i))
            .copied()
            .unwrap_or(0);
        let before = self.text.get(start..at).unwrap_or_default();
        (line, before.chars().count() + 1)
    }
}
