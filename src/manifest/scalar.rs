//! Scalars: texts, numbers and words, and where in the source a character of a text stands.

use serde_saphyr::granit_parser::ScalarStyle;

use super::{
    log::Problem,
    tree::{Node, Value, short},
};
use crate::{config::nearest, prefix::Prefix};

/// `wanted` was expected, and `node` was found.
pub(super) fn expected(wanted: &str, node: &Node<'_>) -> Problem {
    let found = match (&node.value, plain(node).map(resolve)) {
        (Value::List(_), _) => "a list".to_owned(),
        (Value::Map(_), _) => "fields".to_owned(),
        (_, Some(Plain::Null)) => "nothing".to_owned(),
        (_, Some(Plain::Bool)) => "true or false".to_owned(),
        (_, Some(Plain::Number)) => "a number".to_owned(),
        _ => "a text".to_owned(),
    };
    Problem::new(format!("expected {wanted}, found {found}"))
}

/// A text. A number or `true` without quotes is none, as in Kubernetes.
pub(super) fn text<'a>(node: &'a Node<'_>) -> Result<&'a str, Problem> {
    let Value::Scalar(text, _) = &node.value else {
        return Err(expected("a text", node));
    };
    match plain(node).map(resolve) {
        None | Some(Plain::Text) => Ok(text),
        Some(_) => Err(expected("a text", node).help(format!("quote it: {text:?}"))),
    }
}

/// A scalar as it is written, whatever it would be taken for; `None` for a list, fields and `null`.
pub(super) fn written<'a>(node: &'a Node<'_>) -> Option<&'a str> {
    match &node.value {
        Value::Scalar(text, _) if !node.is_null() => Some(text),
        _ => None,
    }
}

/// `true` or `false`.
pub(super) fn boolean(node: &Node<'_>) -> Result<bool, Problem> {
    match plain(node) {
        Some("true" | "True" | "TRUE") => Ok(true),
        Some("false" | "False" | "FALSE") => Ok(false),
        Some("yes" | "on" | "no" | "off") => {
            Err(Problem::new("expected true or false").help("write true or false"))
        }
        _ => Err(expected("true or false", node)),
    }
}

/// An integer from 0.
pub(super) fn integer(node: &Node<'_>) -> Result<u64, Problem> {
    let text = plain(node).filter(|text| matches!(resolve(text), Plain::Number));
    let text = text.ok_or_else(|| expected("a number", node))?;
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits || (text.len() > 1 && text.starts_with('0')) {
        let problem = Problem::new(format!("{} is not a whole number from 0", short(text)));
        return Err(problem.help("write decimal digits without a leading 0"));
    }
    text.parse()
        .map_err(|_| Problem::new(format!("{} is too large", short(text))))
}

/// A number that is finite.
pub(super) fn number(node: &Node<'_>) -> Result<f64, Problem> {
    let text = plain(node).filter(|text| matches!(resolve(text), Plain::Number));
    let text = text.ok_or_else(|| expected("a number", node))?;
    let number: Option<f64> = text.parse().ok();
    // -0 is 0: it must not sort before it.
    number
        .filter(|number| number.is_finite())
        .map(|number| number + 0.0)
        .ok_or_else(|| Problem::new(format!("{} is not a finite decimal number", short(text))))
}

/// One of `words`, upper and lower case apart.
pub(super) fn word<T: Copy>(node: &Node<'_>, words: &[(&str, T)]) -> Result<T, Problem> {
    let text = text(node)?;
    if let Some((_, found)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*found);
    }
    let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let problem = Problem::new(format!("{} is not one of {}", short(text), all.join(", ")));
    let same = all.iter().find(|word| word.eq_ignore_ascii_case(text));
    let near = same.copied().or_else(|| nearest(text, all.iter().copied()));
    Err(match near {
        Some(near) => problem.help(format!("did you mean {near}?")),
        None => problem,
    })
}

/// An address or a prefix, and whether bits behind its length had to go.
pub(super) fn prefix(node: &Node<'_>) -> Result<(Prefix, bool), Problem> {
    let text = text(node)?;
    Prefix::parse(text).map_err(|error| {
        Problem::new(format!("{}: {error}", short(text)))
            .help("write an address or a prefix, such as 192.0.2.1 or 2001:db8::/32")
    })
}

/// What a plain scalar is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plain {
    Null,
    Bool,
    Number,
    Text,
}

/// The text of a scalar without quotes.
fn plain<'a>(node: &'a Node<'_>) -> Option<&'a str> {
    match &node.value {
        Value::Scalar(text, ScalarStyle::Plain) => Some(text),
        _ => None,
    }
}

/// What Kubernetes takes a plain scalar for: the words of YAML 1.1 and 1.2 together, but for `y` and `n`.
fn resolve(text: &str) -> Plain {
    const BOOLS: [&str; 6] = ["true", "false", "yes", "no", "on", "off"];
    let lower = text.to_ascii_lowercase();
    let cased =
        text == lower || text == text.to_ascii_uppercase() || text.get(1..) == lower.get(1..);
    if matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        Plain::Null
    } else if cased && BOOLS.contains(&lower.as_str()) {
        Plain::Bool
    } else if is_number(&lower) {
        Plain::Number
    } else {
        Plain::Text
    }
}

/// Integers in all bases, floats, infinities and not-a-number, with the underscores of YAML 1.1.
fn is_number(lower: &str) -> bool {
    let rest = lower.strip_prefix(['+', '-']).unwrap_or(lower);
    if matches!(rest, ".inf" | ".nan") {
        return true;
    }
    let of_base = |prefix: &str, base: u32| {
        rest.strip_prefix(prefix).is_some_and(|digits| {
            !digits.is_empty() && digits.chars().all(|c| c.is_digit(base) || c == '_')
        })
    };
    if of_base("0x", 16) || of_base("0o", 8) || of_base("0b", 2) {
        return true;
    }
    let starts = rest.starts_with(|c: char| c.is_ascii_digit())
        || rest
            .strip_prefix('.')
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    // "infinity", "nan" and the like are texts: a number starts with a digit.
    starts && rest.replace('_', "").parse::<f64>().is_ok()
}

/// The byte of the source where character `character`, from 1, of a text stands.
pub(super) fn place_inside(source: &str, node: &Node<'_>, character: usize) -> usize {
    let start = node.place.start;
    let Value::Scalar(text, style) = &node.value else {
        return start;
    };
    let Some(raw) = source.get(start..node.place.end) else {
        return start;
    };
    let mut rest = raw;
    if matches!(style, ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted) {
        rest = after(rest, 1);
    }
    for wanted in text.chars().take(character.saturating_sub(1)) {
        rest = past(rest, wanted, *style);
    }
    // What is folded away in front of it.
    if let Some(wanted) = text.chars().nth(character.saturating_sub(1))
        && !wanted.is_whitespace()
    {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
    }
    start + raw.len() - rest.len()
}

/// `raw` behind the character that reads as `wanted`.
fn past(raw: &str, wanted: char, style: ScalarStyle) -> &str {
    if style == ScalarStyle::DoubleQuoted && raw.starts_with('\\') {
        let digits = match raw.as_bytes().get(1) {
            Some(b'x') => 2,
            Some(b'u') => 4,
            Some(b'U') => 8,
            _ => 0,
        };
        let escaped = raw.chars().nth(1).map_or(0, char::len_utf8);
        return after(raw, 1 + escaped + digits);
    }
    if style == ScalarStyle::SingleQuoted && raw.starts_with("''") {
        return after(raw, 2);
    }
    if wanted == ' ' || wanted == '\n' {
        if let Some(rest) = raw
            .strip_prefix(wanted)
            .filter(|rest| !rest.starts_with(['\r', '\n']))
        {
            return rest;
        }
        return raw.trim_start_matches([' ', '\t', '\r', '\n']);
    }
    let raw = if raw.starts_with(wanted) {
        raw
    } else {
        raw.trim_start_matches([' ', '\t', '\r', '\n'])
    };
    raw.strip_prefix(wanted).unwrap_or(raw)
}

fn after(text: &str, bytes: usize) -> &str {
    text.get(bytes..).unwrap_or_default()
}
