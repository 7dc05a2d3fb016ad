//! kubectl's `-l`: which resources, by their labels. Not the selectors of policies.

use std::{fmt, str::FromStr};

use crate::policy::Labels;

/// Longest selector, in bytes.
const LONGEST: usize = 4_096;

/// Requirements that must all hold: `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
}

/// Why a text is no selector, with the part it is about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; write a=b, a!=b, a in (b,c), a notin (b), a or !a, with commas between")]
pub struct LabelSelectorError(String);

impl LabelSelector {
    /// True when all of it holds; a label that is not there is unequal to every value.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            match &requirement.test {
                Test::Exists => value.is_some(),
                Test::Absent => value.is_none(),
                Test::In(values) => value.is_some_and(|value| values.contains(value)),
                Test::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            }
        })
    }
}

impl FromStr for LabelSelector {
    type Err = LabelSelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > LONGEST {
            return Err(error(format!("more than {LONGEST} bytes")));
        }
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        parts(text)
            .into_iter()
            .map(requirement)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// What stands between commas outside of parentheses.
fn parts(text: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    text.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .map(str::trim)
    .collect()
}

fn requirement(part: &str) -> Result<Requirement, LabelSelectorError> {
    let (name, test) = if let Some(name) = part.strip_prefix('!') {
        (name, Test::Absent)
    } else if let Some((name, value)) = part.split_once("!=") {
        (name, Test::NotIn(vec![word(value)?]))
    } else if let Some((name, value)) = part.split_once('=') {
        let value = value.strip_prefix('=').unwrap_or(value);
        (name, Test::In(vec![word(value)?]))
    } else if let Some((head, list)) = part.split_once('(') {
        let list = list.strip_suffix(')');
        let list = list.ok_or_else(|| error(format!("{part:?} has no closing parenthesis")))?;
        let values = list.split(',').map(word).collect::<Result<Vec<_>, _>>()?;
        match head.split_whitespace().collect::<Vec<_>>()[..] {
            [name, "in"] => (name, Test::In(values)),
            [name, "notin"] => (name, Test::NotIn(values)),
            _ => return Err(error(format!("{part:?} is neither in nor notin"))),
        }
    } else {
        (part, Test::Exists)
    };
    let key = word(name)?;
    if key.is_empty() {
        return Err(error(format!("{part:?} names no label")));
    }
    Ok(Requirement { key, test })
}

fn word(text: &str) -> Result<String, LabelSelectorError> {
    let text = text.trim();
    let good = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    match text.chars().all(good) {
        true => Ok(text.to_owned()),
        false => Err(error(format!("{text:?} is no label"))),
    }
}

fn error(what: impl fmt::Display) -> LabelSelectorError {
    LabelSelectorError(what.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(selector: &str, labels: &[(&str, &str)]) -> bool {
        let pairs = labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let selector: LabelSelector = selector.parse().unwrap();
        selector.matches(&pairs.collect())
    }

    #[test]
    fn requirements_hold_together() {
        let labels = &[("feed", "a"), ("projectcalico.org/tier", "t")];
        for good in [
            "",
            "feed=a",
            "feed == a",
            "feed!=b",
            "other!=b",
            "feed in (b, a)",
            "feed notin (b,c)",
            "other notin (a)",
            "feed",
            "!other",
            "projectcalico.org/tier=t,feed in (a,b),!other",
        ] {
            assert!(holds(good, labels), "{good}");
        }
        for bad in [
            "feed=b",
            "feed!=a",
            "other",
            "!feed",
            "feed in (b)",
            "feed=a,other=b",
        ] {
            assert!(!holds(bad, labels), "{bad}");
        }
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for bad in [
            "=", ",", "a,,b", "a in b)", "a in (b", "a of (b)", "a b", "ü", "!", "a=b c",
        ] {
            assert!(bad.parse::<LabelSelector>().is_err(), "{bad}");
        }
        assert!("a".repeat(5_000).parse::<LabelSelector>().is_err());
    }
}
