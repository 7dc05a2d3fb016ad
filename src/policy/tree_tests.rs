//! Selectors as trees that know nothing of the parser and the evaluator: their text and meaning.

use proptest::{collection::vec, prelude::*};

use super::{Labels, Selector};

pub const NAMESPACE: &str = "projectcalico.org/namespace";
/// Values that tests name; together with letters that none names they make the universe below.
pub const VALUES: [&str; 5] = ["", "a", "ab", "ba", "aba"];
const WORDS: [&str; 3] = ["contains", "starts with", "ends with"];

#[derive(Clone, Debug)]
pub enum Tree {
    All,
    Global,
    Has(&'static str),
    Is(&'static str, &'static str, bool),
    In(&'static str, Vec<&'static str>, bool),
    Part(&'static str, &'static str, &'static str),
    Not(Box<Tree>),
    And(Vec<Tree>),
    Or(Vec<Tree>),
}

impl Tree {
    pub fn text(&self) -> String {
        let list = |parts: &[Self], word: &str| {
            let parts: Vec<String> = parts
                .iter()
                .map(|part| format!("({})", part.text()))
                .collect();
            parts.join(word)
        };
        match self {
            Self::All => "all()".to_owned(),
            Self::Global => "global()".to_owned(),
            Self::Has(key) => format!("has( {key} )"),
            Self::Is(key, value, true) => format!("{key} =='{value}'"),
            Self::Is(key, value, false) => format!("{key}!= \"{value}\""),
            Self::In(key, values, is) => {
                let not = if *is { "" } else { "not " };
                format!("{key} {not}in {{'{}'}}", values.join("', '"))
            }
            Self::Part(key, word, value) => format!("{key} {word} '{value}'"),
            Self::Not(tree) => format!("!({})", tree.text()),
            Self::And(parts) => list(parts, "&&"),
            Self::Or(parts) => list(parts, " || "),
        }
    }

    pub fn selector(&self) -> Selector {
        self.text().parse().unwrap()
    }

    /// Its meaning for an endpoint with these labels.
    pub fn is_true(&self, labels: &Labels) -> bool {
        let value = |key: &str| labels.get(key).map(String::as_str);
        match self {
            Self::All => true,
            Self::Global => value(NAMESPACE).is_none(),
            Self::Has(key) => value(key).is_some(),
            Self::Is(key, wanted, is) => (value(key) == Some(wanted)) == *is,
            Self::In(key, wanted, is) => value(key).is_some_and(|v| wanted.contains(&v)) == *is,
            Self::Part(key, word, part) => value(key).is_some_and(|value| match *word {
                "contains" => value.contains(part),
                "starts with" => value.starts_with(part),
                _ => value.ends_with(part),
            }),
            Self::Not(tree) => !tree.is_true(labels),
            Self::And(parts) => parts.iter().all(|part| part.is_true(labels)),
            Self::Or(parts) => parts.iter().any(|part| part.is_true(labels)),
        }
    }

    /// Its meaning for a network set with these labels.
    pub fn is_true_of_set(&self, labels: &Labels) -> bool {
        let mut labels = labels.clone();
        labels.remove(NAMESPACE);
        self.is_true(&labels)
    }

    /// Its meaning for an endpoint in this namespace. Without one, `global()` is true, and every
    /// other condition false, whether it stands behind a `!` or not.
    pub fn is_true_of_namespace(&self, name: Option<&str>) -> bool {
        let Some(name) = name else {
            return self.is_true_without_namespace(true);
        };
        let keys = ["projectcalico.org/name", "kubernetes.io/metadata.name"];
        let pairs = keys.map(|key| (key.to_owned(), name.to_owned()));
        let mut labels = Labels::from(pairs);
        labels.insert(NAMESPACE.to_owned(), name.to_owned());
        self.is_true(&labels)
    }

    fn is_true_without_namespace(&self, wanted: bool) -> bool {
        match self {
            Self::Global => wanted,
            Self::Not(tree) => tree.is_true_without_namespace(!wanted),
            Self::And(parts) if wanted => parts.iter().all(|p| p.is_true_without_namespace(true)),
            Self::And(parts) => parts.iter().any(|p| p.is_true_without_namespace(false)),
            Self::Or(parts) if wanted => parts.iter().any(|p| p.is_true_without_namespace(true)),
            Self::Or(parts) => parts.iter().all(|p| p.is_true_without_namespace(false)),
            _ => false,
        }
    }

    /// The conditions it is made of.
    pub fn leaves(&self) -> Vec<&Self> {
        match self {
            Self::Not(tree) => tree.leaves(),
            Self::And(parts) | Self::Or(parts) => parts.iter().flat_map(Self::leaves).collect(),
            leaf => vec![leaf],
        }
    }
}

/// Trees about the labels `keys`; `projectcalico.org/namespace` must not be among them when
/// they are about a namespace.
pub fn trees(keys: &'static [&'static str]) -> impl Strategy<Value = Tree> {
    let key = || prop::sample::select(keys);
    let value = || prop::sample::select(&VALUES[..]);
    let word = prop::sample::select(&WORDS[..]);
    let leaf = prop_oneof![
        2 => Just(Tree::All),
        1 => Just(Tree::Global),
        2 => key().prop_map(Tree::Has),
        3 => (key(), value(), any::<bool>()).prop_map(|(k, v, is)| Tree::Is(k, v, is)),
        2 => (key(), vec(value(), 1..4), any::<bool>()).prop_map(|(k, v, is)| Tree::In(k, v, is)),
        3 => (key(), word, value()).prop_map(|(k, w, v)| Tree::Part(k, w, v)),
    ];
    leaf.prop_recursive(3, 8, 3, |tree| {
        prop_oneof![
            tree.clone().prop_map(|tree| Tree::Not(Box::new(tree))),
            vec(tree.clone(), 1..4).prop_map(Tree::And),
            vec(tree, 1..4).prop_map(Tree::Or),
        ]
    })
}

/// Values of a label, one for every combination of answers that tests of [`VALUES`] can have.
pub fn universe() -> &'static [String] {
    static UNIVERSE: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();
    UNIVERSE.get_or_init(|| {
        let mut seen = std::collections::HashSet::new();
        let mut layer = vec![String::new()];
        let mut found = Vec::new();
        // The longest that is needed: starts with ab, contains aba, ends with ba: abzabazba.
        for _ in 0..=9 {
            let fresh = |text: &&String| {
                let answers = VALUES.map(|value| {
                    let starts = text.starts_with(value);
                    (
                        *text == value,
                        text.contains(value),
                        starts,
                        text.ends_with(value),
                    )
                });
                seen.insert(answers)
            };
            found.extend(layer.iter().filter(fresh).cloned());
            let longer = |text: &String| ["a", "b", "z"].map(|letter| format!("{text}{letter}"));
            layer = layer.iter().flat_map(longer).collect();
        }
        found
    })
}
