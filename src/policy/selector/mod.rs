//! Label selectors, as Calico writes them (its reference of `selector`, projectcalico.org/v3).
//!
//! A selector is a tree of atoms, `!`, `&&` and `||`. It prints in one canonical way, which parses
//! back to the same selector.

mod parse;
#[cfg(test)]
mod tests;

use std::{fmt, str::FromStr};

use super::Labels;

/// Longest text of a selector, in characters; its canonical text is not longer either.
pub const MAX_LENGTH: usize = 4096;
/// Deepest nesting of parentheses.
pub const MAX_DEPTH: usize = 64;
/// Longest key of a label, in characters.
pub const MAX_KEY: usize = 512;

/// The label that says in which namespace an endpoint is; without it `global()` is true.
pub const NAMESPACE: &str = "projectcalico.org/namespace";

/// A parsed selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector(Node);

/// Why a text is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}, at character {at}")]
pub struct SelectorError {
    /// What is wrong.
    pub message: String,
    /// Where, in characters from 1.
    pub at: usize,
}

/// A part of a selector.
///
/// Canonical: `!` stands before an atom or a group and never twice, a group has two parts or more,
/// and no part of it is a group of the same kind.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Atom(Atom),
    Not(Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
}

/// A condition that is not made of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Atom {
    /// True of everything.
    All,
    /// True of what is in no namespace.
    Global,
    /// A condition on one label.
    Label(String, Test),
}

/// What is asked of a label; none but its negation holds for a label that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Test {
    Exists,
    Equals(String),
    /// Sorted, without duplicates.
    In(Vec<String>),
    Contains(String),
    StartsWith(String),
    EndsWith(String),
}

impl Selector {
    /// `all()`, which the empty text means as well.
    pub fn all() -> Self {
        Self(Node::Atom(Atom::All))
    }

    /// True for an endpoint with these labels, and no others.
    pub fn eval(&self, labels: &Labels) -> bool {
        self.holds(&mut |atom, negated| match atom {
            Atom::All => !negated,
            Atom::Global => labels.contains_key(NAMESPACE) == negated,
            Atom::Label(key, test) => test.holds(labels.get(key).map(String::as_str)) != negated,
        })
    }

    /// True for a network set with these labels; it is in no namespace, so `global()` is true.
    pub fn eval_set(&self, labels: &Labels) -> bool {
        self.holds(&mut |atom, negated| match atom {
            Atom::All | Atom::Global => !negated,
            Atom::Label(key, test) => test.holds(labels.get(key).map(String::as_str)) != negated,
        })
    }

    /// Evaluates with the truth of the literals: an atom, and whether it is negated where it stands.
    /// Asks for no more literals than needed, from left to right.
    pub(super) fn holds<'a>(&'a self, literal: &mut impl FnMut(&'a Atom, bool) -> bool) -> bool {
        self.0.holds(false, literal)
    }
}

impl Node {
    /// Recurses no deeper than twice [`MAX_DEPTH`].
    fn holds<'a>(
        &'a self,
        negated: bool,
        literal: &mut impl FnMut(&'a Atom, bool) -> bool,
    ) -> bool {
        match self {
            Self::Atom(atom) => literal(atom, negated),
            Self::Not(node) => node.holds(!negated, literal),
            Self::And(parts) if !negated => parts.iter().all(|node| node.holds(negated, literal)),
            Self::Or(parts) if negated => parts.iter().all(|node| node.holds(negated, literal)),
            Self::And(parts) | Self::Or(parts) => {
                parts.iter().any(|node| node.holds(negated, literal))
            }
        }
    }

    fn negated(self) -> Self {
        match self {
            Self::Not(node) => *node,
            node => Self::Not(Box::new(node)),
        }
    }

    /// All of `parts`, at least one.
    fn and(parts: Vec<Self>) -> Self {
        Self::group(parts, Self::And, |node| match node {
            Self::And(parts) => Ok(parts),
            node => Err(node),
        })
    }

    /// Any of `parts`, at least one.
    fn or(parts: Vec<Self>) -> Self {
        Self::group(parts, Self::Or, |node| match node {
            Self::Or(parts) => Ok(parts),
            node => Err(node),
        })
    }

    fn group(
        parts: Vec<Self>,
        make: fn(Vec<Self>) -> Self,
        unfold: fn(Self) -> Result<Vec<Self>, Self>,
    ) -> Self {
        let mut flat = Vec::with_capacity(parts.len());
        for part in parts {
            match unfold(part) {
                Ok(inner) => flat.extend(inner),
                Err(node) => flat.push(node),
            }
        }
        match flat.pop() {
            Some(only) if flat.is_empty() => only,
            last => {
                flat.extend(last);
                make(flat)
            }
        }
    }
}

impl Test {
    /// True for a label of this value; `None`: it is not there.
    pub(super) fn holds(&self, value: Option<&str>) -> bool {
        let Some(value) = value else { return false };
        match self {
            Self::Exists => true,
            Self::Equals(wanted) => value == wanted,
            Self::In(wanted) => wanted
                .binary_search_by(|text| text.as_str().cmp(value))
                .is_ok(),
            Self::Contains(part) => value.contains(part.as_str()),
            Self::StartsWith(part) => value.starts_with(part.as_str()),
            Self::EndsWith(part) => value.ends_with(part.as_str()),
        }
    }
}

impl Default for Selector {
    fn default() -> Self {
        Self::all()
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        parse::parse(text).map(Self)
    }
}

/// The canonical text, which parses back to the same selector.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Atom(atom) => write_literal(f, atom, false),
            Self::Not(node) => match node.as_ref() {
                Self::Atom(atom) => write_literal(f, atom, true),
                group => write!(f, "!({group})"),
            },
            Self::And(parts) => join(f, parts, " && "),
            Self::Or(parts) => join(f, parts, " || "),
        }
    }
}

fn join(f: &mut fmt::Formatter<'_>, parts: &[Node], word: &str) -> fmt::Result {
    for (i, part) in parts.iter().enumerate() {
        if i > 0 {
            f.write_str(word)?;
        }
        match part {
            // `&&` binds tighter, so only an Or inside an And needs them.
            Node::Or(_) => write!(f, "({part})")?,
            part => write!(f, "{part}")?,
        }
    }
    Ok(())
}

/// An atom, or its negation as Calico's users write it.
pub(super) fn write_literal(f: &mut impl fmt::Write, atom: &Atom, negated: bool) -> fmt::Result {
    let not = if negated { "!" } else { "" };
    let (key, test) = match atom {
        Atom::All => return write!(f, "{not}all()"),
        Atom::Global => return write!(f, "{not}global()"),
        Atom::Label(key, test) => (key, test),
    };
    let (word, value) = match test {
        Test::Exists => return write!(f, "{not}has({key})"),
        Test::Equals(value) if negated => return write!(f, "{key} != {}", Quoted(value)),
        Test::Equals(value) => ("==", value),
        Test::In(values) => {
            let not = if negated { "not " } else { "" };
            write!(f, "{key} {not}in {{")?;
            for (i, value) in values.iter().enumerate() {
                let comma = if i > 0 { ", " } else { "" };
                write!(f, "{comma}{}", Quoted(value))?;
            }
            return f.write_str("}");
        }
        Test::Contains(value) => ("contains", value),
        Test::StartsWith(value) => ("starts with", value),
        Test::EndsWith(value) => ("ends with", value),
    };
    write!(f, "{not}{key} {word} {}", Quoted(value))
}

/// A value in quotes. There are no escapes: no value holds both kinds of quotes.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('"') { '\'' } else { '"' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}
