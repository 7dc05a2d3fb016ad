//! A mistake with its place in the text, and how it is shown.

use std::{fmt, ops::Range};

use annotate_snippets::{
    Annotation, AnnotationKind, Level, Renderer, Snippet, normalize_untrusted_str,
};

use super::secret;

/// One mistake of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Dotted path with indexes from 0, `feed[1].period`; empty for a syntax error.
    pub key: String,
    /// What is wrong, without the key. Never holds a URL or a header's value.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Byte range in the text.
    pub span: Range<usize>,
    /// A second place that belongs to it.
    pub related: Option<Related>,
}

/// A second place that belongs to a diagnostic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Related {
    /// What is there.
    pub message: String,
    /// Byte range in the text.
    pub span: Range<usize>,
}

/// `KEY: message`, on one line and without a place.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Shows each diagnostic with line, column and a caret under its place in `text`.
///
/// `origin` is the file's name. Credentials in URLs, their queries and header values are starred
/// out, because this text reaches logs. Ends with a newline unless there is nothing to show.
pub fn render(diagnostics: &[Diagnostic], text: &str, origin: &str, color: bool) -> String {
    let text = secret::starred(text);
    let renderer = if color {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    let shown: Vec<String> = diagnostics
        .iter()
        .map(|diagnostic| one(diagnostic, &text, origin, &renderer))
        .collect();
    shown.join("\n")
}

fn one(diagnostic: &Diagnostic, text: &str, origin: &str, renderer: &Renderer) -> String {
    let span = inside(text, &diagnostic.span);
    let related = diagnostic
        .related
        .as_ref()
        .map(|related| (inside(text, &related.span), related.message.as_str()));
    let (first, last) = match &related {
        Some((other, _)) => (span.start.min(other.start), span.end.max(other.end)),
        None => (span.start, span.end),
    };
    // Only the lines that matter: the renderer reads all of its source again for each report.
    let begin = before(text, first).rfind('\n').map_or(0, |at| at + 1);
    let end = after(text, last)
        .find('\n')
        .map_or(text.len(), |length| last + length);
    let mut snippet = Snippet::source(text.get(begin..end).unwrap_or_default())
        .line_start(1 + before(text, begin).matches('\n').count())
        .path(origin)
        .annotation(mark(AnnotationKind::Primary, &span, begin));
    if let Some((other, message)) = &related {
        let label = normalize_untrusted_str(message);
        snippet = snippet.annotation(mark(AnnotationKind::Context, other, begin).label(label));
    }
    let mut group = Level::ERROR
        .primary_title(diagnostic.to_string())
        .element(snippet);
    if let Some(help) = &diagnostic.help {
        group = group.element(Level::HELP.message(normalize_untrusted_str(help)));
    }
    format!("{}\n", renderer.render(&[group]))
}

fn mark<'a>(kind: AnnotationKind, span: &Range<usize>, begin: usize) -> Annotation<'a> {
    kind.span(span.start.saturating_sub(begin)..span.end.saturating_sub(begin))
}

/// `span` cut to `text` and moved to character boundaries.
fn inside(text: &str, span: &Range<usize>) -> Range<usize> {
    let start = boundary(text, span.start);
    start..boundary(text, span.end.max(start))
}

/// The last character boundary of `text` up to byte `at`.
pub(super) fn boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0)
}

fn before(text: &str, at: usize) -> &str {
    text.get(..at).unwrap_or_default()
}

fn after(text: &str, at: usize) -> &str {
    text.get(at..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(span: Range<usize>, related: Option<Related>) -> Diagnostic {
        Diagnostic {
            key: "feed[0].name".into(),
            message: "wrong".into(),
            help: Some("make it right".into()),
            line: 1,
            column: 1,
            span,
            related,
        }
    }

    #[test]
    fn a_caret_under_the_place() {
        let text = "a = 1\n[[feed]]\nname = \"ä b\"\n";
        assert_eq!(
            render(&[at(22..28, None)], text, "f.toml", false),
            "\
error: feed[0].name: wrong
 --> f.toml:3:8
  |
3 | name = \"ä b\"
  |        ^^^^^
  |
  = help: make it right
"
        );
        assert!(render(&[at(22..28, None)], text, "f.toml", true).contains("\x1b["));
    }

    #[test]
    fn a_second_place_is_shown_too() {
        let related = Related {
            message: "first used here".into(),
            span: 0..1,
        };
        assert_eq!(
            render(&[at(6..7, Some(related))], "a\n\n\nz b\nc\n", "f", false).replace(" \n", "\n"),
            "\
error: feed[0].name: wrong
 --> f:4:3
  |
1 | a
  | - first used here
...
4 | z b
  |   ^
  |
  = help: make it right
"
        );
    }

    #[test]
    fn nothing_to_show() {
        assert_eq!(render(&[], "a", "f", false), "");
    }

    proptest! {
        #[test]
        fn any_place_in_any_text_never_panics(text: String, a in 0usize..40, b in 0usize..40, c in 0usize..40) {
            let related = Related { message: text.clone(), span: b..c };
            render(&[at(a..b, Some(related))], &text, "f", false);
        }
    }
}
