//! What is wrong with a text, collected while it is read.

use std::ops::Range;

use super::{
    diagnostic::{Diagnostic, Related, boundary},
    value::Problem,
};

/// What was found so far.
pub(super) struct Log<'t> {
    lines: Lines<'t>,
    found: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
    /// False when syntax errors hide parts of the text: then nothing counts as missing.
    pub(super) complete: bool,
}

impl<'t> Log<'t> {
    pub(super) fn new(text: &'t str, complete: bool) -> Self {
        Self {
            lines: Lines::new(text),
            found: Vec::new(),
            warnings: Vec::new(),
            complete,
        }
    }

    pub(super) fn error(&mut self, key: &str, span: Range<usize>, problem: Problem) {
        let error = self.diagnostic(key, span, problem, None);
        self.found.push(error);
    }

    /// Something that is no mistake, and worth saying.
    pub(super) fn warning(&mut self, key: &str, span: Range<usize>, problem: Problem) {
        let warning = self.diagnostic(key, span, problem, None);
        self.warnings.push(warning);
    }

    /// An error with a second place.
    pub(super) fn error_with(
        &mut self,
        key: &str,
        span: Range<usize>,
        problem: Problem,
        related: Related,
    ) {
        let error = self.diagnostic(key, span, problem, Some(related));
        self.found.push(error);
    }

    /// All mistakes and all warnings, each in the text's order.
    pub(super) fn finish(mut self) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
        for list in [&mut self.found, &mut self.warnings] {
            list.sort_by_key(|diagnostic| (diagnostic.span.start, diagnostic.span.end));
        }
        (self.found, self.warnings)
    }

    fn diagnostic(
        &self,
        key: &str,
        span: Range<usize>,
        problem: Problem,
        related: Option<Related>,
    ) -> Diagnostic {
        let (line, column) = self.lines.position(span.start);
        Diagnostic {
            key: key.to_owned(),
            message: problem.message,
            help: problem.help,
            line,
            column,
            span,
            related,
        }
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
